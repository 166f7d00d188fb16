//! The brain: decides everything about peers. No sockets, no clock, no threads.

pub mod addresses;
pub mod bans;
pub mod blocks;
pub mod compact;
pub mod download;
pub mod eviction;
pub mod interface;
pub mod orphans;
pub mod outbound;
pub mod penalty;
pub mod presync;
pub mod rejects;
pub mod relay;
pub mod requests;
pub mod sync;
