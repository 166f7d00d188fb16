//! Setara's full node.
#![allow(missing_docs)]
pub mod clock;
pub mod genesis;
