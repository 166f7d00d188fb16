//! Setara's full node.
pub mod clock;
pub mod genesis;
