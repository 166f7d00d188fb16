//! Bodies of the larger messages, as values.

use setara_core::block::Header;
use setara_core::hash::{BlockHash, TxId, WtxId};
use setara_core::transaction::{Coinbase, Transaction};

/// Bits of `Hello`'s services. A kind added later goes only to peers that announced its bit.
pub mod services {
    /// Serves bodies of the height range it states.
    pub const BLOCKS: u64 = 1 << 0;
    /// Relays transactions.
    pub const TRANSACTIONS: u64 = 1 << 1;
    /// Speaks compact blocks.
    pub const COMPACT_BLOCKS: u64 = 1 << 2;
    /// Serves a snapshot of the coins.
    pub const SNAPSHOTS: u64 = 1 << 3;
}

/// Who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The protocol version that both sides will speak.
    pub version: u16,
    /// Software and version, at most 256 bytes of printable ASCII.
    pub agent: String,
    /// See [`services`].
    pub services: u64,
    /// Over the list of upgrades, as EIP-2124: CRC-32 of the genesis hash and the upgrades passed, and the next height.
    pub fork_id: ([u8; 4], u32),
    /// Heights of which bodies can be had, both included.
    pub serves: (u32, u32),
    /// Random: a node that sees its own has dialled itself.
    pub nonce: u64,
    /// Where the sender listens; 0 if it does not.
    pub listen_port: u16,
    /// Whether the sender wants transactions announced (a block-only connection does not).
    pub relay: bool,
    /// The sender's Unix time: for a warning about wrong clocks only.
    pub time: u64,
    /// Additions of later versions, by number; unknown ones are ignored.
    pub extras: Vec<(u16, Vec<u8>)>,
}

/// What peers should serve to be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Anything.
    Any,
    /// The body at a height.
    Height(u32),
    /// A snapshot of the coins.
    Snapshot,
}

/// A thing that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// A block.
    Block(BlockHash),
    /// A transaction, by what it was announced as.
    Transaction(WtxId),
    /// A transaction, as the parent of an orphan.
    Parent(TxId),
    /// The snapshot of the coins with this base, or any if it is zero.
    Snapshot(BlockHash),
}

/// Coins of a snapshot that follow one another in one bucket: what is asked for and sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoinRange {
    /// The snapshot's base.
    pub base: BlockHash,
    /// The bucket.
    pub bucket: u8,
    /// Coins of the bucket before the first.
    pub first: u32,
    /// Coins, at least one.
    pub count: u32,
}

/// A block as header and short ids. Short ids are the low six bytes of SipHash-2-4 of the wtxid under a key from header
/// and nonce (BIP 152). The coinbase always comes whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactBlock {
    /// The header.
    pub header: Header,
    /// Salts the short ids.
    pub nonce: u64,
    /// The coinbase.
    pub coinbase: Coinbase,
    /// Of the transactions that are not prefilled, in order, six bytes each.
    pub short_ids: Vec<[u8; 6]>,
    /// Transactions that the receiver probably lacks, ascending.
    pub prefilled: Vec<Prefilled>,
}

/// A transaction that a compact block carries whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefilled {
    /// Position among the block's transactions, coinbase not counted.
    pub index: u32,
    /// The transaction.
    pub transaction: Transaction,
}

/// Transactions of a compact block that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTransactions {
    /// The block.
    pub hash: BlockHash,
    /// In the order asked for.
    pub transactions: Vec<Transaction>,
}
