//! The fuzz target `seeder`; its body is in `node/src/testing/fuzz/seeder.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| setara_node::testing::fuzz::run("seeder", data));
