//! The Setara wallet: keys on this machine, the chain through any node's JSON-RPC.
//!
//! ```text
//! main ─► args ─► commands ─┬─► keystore   the secret and the wallet's memory, encrypted
//!                           ├─► sync ─────► chain ─► node    coins and payments, each proven
//!                           ├─► history
//!                           └─► spend ────► coins            what to pay with
//! ```
//!
//! The node is trusted with nothing that can be checked: what it says about money counts only with a Merkle proof
//! below headers with their work. The wallet links neither the node nor its database.

pub mod account;
pub mod args;
pub mod chain;
pub mod coins;
pub mod commands;
pub mod error;
pub mod history;
pub mod keystore;
pub mod network;
pub mod node;
pub mod output;
pub mod proof;
pub mod random;
pub mod secret;
pub mod spend;
pub mod sync;

#[cfg(test)]
mod tests;
