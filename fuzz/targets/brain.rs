//! The fuzz target `brain`; its body is in `node/src/testing/fuzz/brain.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| setara_node::testing::fuzz::run("brain", data));
