//! The peer-to-peer network: a brain that decides and a shell that moves bytes.
//!
//! ```text
//!                    events                                      actions
//!  sockets ──► shell ───────► Brain::handle(now, event) ───────────────► shell ──► sockets, chain, mempool, timers
//!  (tokio)     │               │ peers   sync      relay     addresses     ▲
//!  Noise,      │               │ hello   headers   requests  buckets       │
//!  frames,     │               │ blame   download  compact   outbound      │
//!  queues      └───────────────┴──────── no socket, no clock, no thread ───┘
//! ```
//!
//! The brain ([`brain`]) is sans-I/O: time is an argument, randomness a seeded generator handed in, every map ordered;
//! the same code runs under tokio and in the simulator. Both sides speak [`message`]; every bound is in [`limits`].

pub mod brain;
pub mod limits;
pub mod message;
mod names;
pub mod shell;

pub use names::{Names, agent, resolve, resolve_added, resolve_all};
