//! The fuzz target `message`; its body is in `node/src/testing/fuzz/message.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| setara_node::testing::fuzz::run("message", data));
