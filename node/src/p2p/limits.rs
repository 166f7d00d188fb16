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
/// Bytes of a snapshot's manifest.
pub const MANIFEST_BYTES_MAX: u64 = crate::snapshot::MANIFEST_BYTES_MAX as u64;
/// Coins of a snapshot in one message: half a megabyte, so that other messages need not wait long behind it. A bucket of
/// 1.5 million coins in all is one such piece.
pub const RANGE_COINS_MAX: u64 = 6_000;
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
/// Preamble and Noise: three round trips, also over Tor. Whoever answers takes a place for handshakes so long.
pub const NOISE_TIMEOUT: Duration = Duration::from_secs(5);
/// From there to the greeting.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is there for addresses only ends after so long, whether or not they came.
pub const ADDRESS_FETCH_TIMEOUT: Duration = Duration::from_secs(30);
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

/// Announcements of one peer that are remembered (Bitcoin Core's number): with all 125 peers at it some 100 MB.
pub const ANNOUNCEMENTS_PER_PEER: usize = 5_000;
/// Announcements beyond [`ANNOUNCEMENTS_PER_PEER`], since something was last delivered, that end a connection: an
/// honest peer that fills the table is delivering.
pub const ANNOUNCEMENTS_DROPPED_MAX: usize = 20_000;
/// Transactions in flight from a peer above which further ones wait [`OVERLOADED_DELAY`] for others to offer them.
pub const IN_FLIGHT_PER_PEER: usize = 100;
/// How long a transaction offered by an incoming peer waits for an outgoing one to offer it too.
pub const NONPREFERRED_DELAY: Duration = Duration::from_secs(2);
/// How long a parent, named by txid only, waits to be announced by wtxid.
pub const TXID_DELAY: Duration = Duration::from_secs(2);
/// See [`IN_FLIGHT_PER_PEER`].
pub const OVERLOADED_DELAY: Duration = Duration::from_secs(2);
/// How long a peer has to deliver a transaction before the next is asked.
pub const TRANSACTION_EXPIRY: Duration = Duration::from_secs(60);
/// Transactions of one peer in the mempool's hands at once, asked for or not.
pub const VERIFYING_PER_PEER: usize = 5;
/// Transactions of one peer that wait for that: as many as may be asked for in one message.
pub const WAITING_PER_PEER: usize = 1_000;
/// Their bytes: one message's.
pub const WAITING_BYTES_PER_PEER: u64 = 1_000_000;

/// Sum over all announcements of orphans of 1 + inputs / 10 (Bitcoin Core's latency score).
pub const ORPHAN_SCORE_MAX: u64 = 3_000;
/// Bytes of orphans reserved for each peer that announced any: four of the largest transactions.
pub const ORPHAN_BYTES_PER_PEER: u64 = 404_000;

/// Refused transactions that are remembered (Bitcoin Core's number).
pub const REJECTS_MAX: usize = 120_000;
/// Confirmed transactions that are remembered, by either id (Bitcoin Core's number): at least five full blocks.
pub const CONFIRMED_MAX: usize = 48_000;

/// Mean time between announcements to incoming peers, who share one timer: many connections learn no more than one.
pub const TRICKLE_INBOUND: Duration = Duration::from_secs(5);
/// Mean time between announcements to an outgoing peer: chosen by this node, so less likely a spy.
pub const TRICKLE_OUTBOUND: Duration = Duration::from_secs(2);
/// Announcements a second to a peer that is not behind (Bitcoin Core's number).
pub const ANNOUNCED_PER_SECOND: u64 = 14;
/// What of the backlog goes out with each trickle on top of that: full blocks every minute are some 70 transactions a
/// second, which this reaches with less than half a minute of delay.
pub const ANNOUNCED_BACKLOG_SHARE: usize = 4;
/// Transactions that wait to be announced; the oldest beyond are not.
pub const ANNOUNCE_LOG_MAX: usize = 20_000;
/// Transactions that a peer may have asked for and not yet been sent.
pub const SERVED_WAITING_MAX: usize = 5_000;
/// One message of transactions to a peer each: at most 5 MB a second.
pub const SERVE_INTERVAL: Duration = Duration::from_millis(200);
/// Mean time between fee filters.
pub const FEE_FILTER_INTERVAL: Duration = Duration::from_secs(600);
/// Mean delay of a fee filter when the floor has changed much.
pub const FEE_FILTER_CHANGE_DELAY: Duration = Duration::from_secs(150);

/// Pieces of a snapshot under way from one peer, asked for or not yet stored: 2 MB, which fills 10 MB/s at 200 ms.
pub const SNAPSHOT_PER_PEER: usize = 4;
/// The same of all peers together, if there is memory for as many: 31 MB.
pub const SNAPSHOT_IN_FLIGHT_MAX: usize = 64;
/// Bytes of a piece.
pub const SNAPSHOT_PIECE_BYTES: u64 = RANGE_COINS_MAX * setara_core::lattice::ELEMENT_BYTES as u64;
/// Answers about snapshots with the shell for one peer at a time: what it may have under way, and a manifest.
pub const SNAPSHOT_SERVED_AT_ONCE: usize = SNAPSHOT_PER_PEER + 1;
/// Answers about snapshots that wait besides; an honest peer never has one.
pub const SNAPSHOT_SERVED_WAITING: usize = 8;
/// How often over a connection may take the whole of a snapshot: once, and what was lost on the way or asked twice.
pub const SNAPSHOT_SERVED_TIMES: u64 = 2;
