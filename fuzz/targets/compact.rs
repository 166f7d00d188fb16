//! The fuzz target `compact`; its body is in `node/src/testing/fuzz/compact.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| setara_node::testing::fuzz::run("compact", data));
