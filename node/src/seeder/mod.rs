//! `setara-node seeder`: a directory of a network's nodes, for networks that want one.
//!
//! ```text
//!  genesis file, --connect ──► starts ─┐               ┌── Hello ──► directory: reached by the seeder itself
//!  gossip, callers ──► book ───────────┼─► visit a node┤                 │ newest, a random share
//!                     due again ◄──────┘               └── Addresses ─► book
//!                                                                        ▼
//!  caller ──► gate ──► Hello, GetAddresses ──────────────────────────► Addresses, and goodbye
//! ```
//!
//! It speaks the peers' own protocol and no chain: its `Hello` states no services, so a node that dials it takes the
//! addresses and lets it go. No network needs one: addresses, anchors and gossip carry on without it (AE10).
//!
//! [`directory`] and [`crawler`] decide and have neither sockets nor a clock; [`shell`] moves bytes.

pub mod crawler;
pub mod directory;
mod shell;
#[cfg(test)]
mod tests;

pub use shell::{SeederError, run};
