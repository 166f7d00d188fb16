//! JSON-RPC: Bitcoin Core's methods and manners over this node.
//!
//! ```text
//! bytes ─► server ─► compat (HTTP, access) ─► envelope (1.0, 1.1, 2.0, batches) ─► dispatch ─► args ─► methods/*
//!           stall       auth                                                         logs      │
//!                                                                                              ▼
//!                                                             convert, proof ◄── View, Mempool, Templates
//! ```
//!
//! The registry in `setara-api` says which methods there are, what they take and what they give; nothing here repeats it.
//! A method takes one view of the chain and answers from it alone, so no answer is torn across two tips.

pub mod args;
pub mod auth;
pub mod compat;
pub mod context;
pub mod convert;
pub mod dispatch;
pub mod envelope;
pub mod error;
pub mod logs;
pub mod methods;
pub mod proof;
pub mod server;
mod stall;

pub use context::{Backup, RpcContext};
pub use logs::LogControl;
pub use server::{RpcServer, StartError};

#[cfg(test)]
mod tests;
