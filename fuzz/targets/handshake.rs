//! The fuzz target `handshake`; its body is in `node/src/testing/fuzz/handshake.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| setara_node::testing::fuzz::run("handshake", data));
