//! Setara's consensus rules: what every node must agree on, as verbs over values.
//!
//! ```text
//! block bytes ──decode──► Block ──check_block──► CheckedBlock ──signatures──► SignatureBatch ──verify(rng)
//!                                                     │
//!            ChainState (parent) + coins it spends ───┴──connect──► BlockDelta ──apply──► ChainState (child)
//! ```
//!
//! Pure: no I/O, no clock, no randomness of its own, no threads, no logging, no iteration over hash maps. The caller
//! brings coins, time and random weights. Nothing here panics on any input: the lints below refuse the ways to.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::string_slice
    )
)]

pub mod address;
pub mod amount;
pub mod block;
pub mod codec;
pub mod consensus;
pub mod hash;
pub mod height;
pub mod keys;
pub mod lattice;
pub mod limits;
pub mod merkle;
pub mod network;
pub mod nonce;
pub mod policy;
pub mod pow;
pub mod snapshot;
pub mod transaction;
