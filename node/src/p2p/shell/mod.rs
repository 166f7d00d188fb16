//! The shell: moves bytes between sockets and the brain. It decides nothing.
//!
//! ```text
//! listen ─► gate ─► conn::greet ─┐                                   ┌─► outbox ─► conn ─► socket
//! dial ───────────► conn::greet ─┴─► conn ─► network (the loop) ─────┼─► work ─► chain, mempool
//! nat ── asks the router             noise, frames    brain::handle  └─► dial, files
//! ```

mod chatter;
pub mod conn;
pub mod dial;
pub mod door;
pub mod files;
pub mod frames;
pub mod gate;
pub mod listen;
mod nat;
pub mod network;
pub mod noise;
pub mod outbox;
pub mod stats;
pub mod work;

pub use network::{NetworkError, NetworkOptions, PeerNetwork};
