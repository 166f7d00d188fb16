//! Every list, rate, timeout and memory bound that a peer can push on, each with its reason.

use std::time::Duration;

/// The only protocol version yet: both sides announce the lowest and highest they speak.
pub const PROTOCOL_VERSION: u16 = 1;

/// Block hashes of a locator: ten steps by one, then doubling, reach genesis from any height with fewer than this.
pub const LOCATOR_HASHES_MAX: u64 = 64;
/// Headers of one message (Bitcoin's limit): 160 kB.
pub const HEADERS_MAX: u64 = 2_000;
/// Wtxids of one announcement: some minutes of full blocks.
pub const ANNOUNCED_MAX: u64 = 1_000;
/// Transactions asked for in one message.
pub const REQUESTED_TRANSACTIONS_MAX: u64 = 1_000;
/// Blocks asked for in one message: what may be in flight from one peer.
pub const REQUESTED_BLOCKS_MAX: u64 = 16;
/// Address records of one message (Bitcoin's limit).
pub const ADDRESSES_MAX: u64 = 1_000;
/// Bytes of a user agent, printable ASCII.
pub const AGENT_BYTES_MAX: u64 = 256;
/// Additions to a `Hello` that this version may not know.
pub const HELLO_EXTRAS_MAX: u64 = 16;
/// Bytes of one addition to a `Hello`.
pub const HELLO_EXTRA_BYTES_MAX: u64 = 256;
/// Bytes of a network address of an unknown kind, which is skipped.
pub const ADDRESS_BYTES_MAX: u64 = 255;
/// Bytes of transactions in one message: several of the largest that are relayed.
pub const TRANSACTIONS_BYTES_MAX: u64 = 1_000_000;
/// Bytes of a genesis file: what `genesis new` can write, allocations included.
pub const GENESIS_BYTES_MAX: u64 = 1_000_000;
/// Bytes of any small message.
pub const SMALL_BYTES_MAX: u64 = 1_024;
/// Above the block limit, for what stands around a block.
pub const BLOCK_SLACK_BYTES: u64 = 1_024;

/// Outgoing connections that exchange everything (Bitcoin Core's number).
pub const OUTBOUND_FULL: usize = 8;
/// Outgoing connections that exchange blocks only: their topology is not revealed by transactions.
pub const OUTBOUND_BLOCK_ONLY: usize = 2;
/// Incoming connections, unless configured otherwise: with the outgoing ones 125.
pub const INBOUND_MAX: usize = 114;
/// From TCP to the end of `Hello`.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A ping is sent when nothing else was asked for so long.
pub const PING_INTERVAL: Duration = Duration::from_secs(60);
/// A peer that has sent nothing for so long is gone.
pub const INACTIVITY_TIMEOUT: Duration = Duration::from_secs(180);

/// Blocks between the lowest missing body and the highest requested one.
pub const DOWNLOAD_WINDOW_BLOCKS: u32 = 1_024;
/// Bytes of bodies requested or waiting for their parents.
pub const DOWNLOAD_WINDOW_BYTES: u64 = 64 << 20;
/// Bodies in flight from one peer.
pub const DOWNLOAD_PER_PEER: usize = 16;
