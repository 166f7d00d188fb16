//! Setara's JSON-RPC contract, shared by the node (server) and every client: the method registry, the shapes of
//! results, the error codes, and a typed blocking client.
//!
//! No I/O outside [`client`], no chain, no store: the node fills the shapes, the wallet reads them.

#[cfg(feature = "client")]
pub mod client;
pub mod coins;
pub mod error;
pub mod openrpc;
pub mod registry;
pub mod types;
