//! What peers say to each other: message kinds, their one encoding, and their bounds.
//!
//! A frame is `kind u8 || length u24 || body`, little endian. Integers of a body are fixed-width little endian, a list is
//! a u32 count, then its items; hashes in internal order; transactions, headers and blocks in their consensus encoding.
//! Decoding is strict: every byte consumed, no allocation that the input does not justify. The table of kinds, with
//! limits and bits, is in `docs/network.md`.

mod body;
mod codec;
mod records;

#[cfg(test)]
mod tests;

pub use body::{BlockTransactions, CoinRange, CompactBlock, Hello, Prefilled, Reference, Serves, services};
pub use codec::{MessageError, UNKNOWN_FRAME_BYTES_MAX, frame_limit};
pub use records::{AddressError, AddressRecord, NetAddress, PeerAddress, onion_key, onion_name};

use setara_core::block::Header;
use setara_core::hash::{BlockHash, TxId, WtxId};
use setara_core::transaction::Transaction;
use std::sync::Arc;

/// Bytes of a frame's head.
pub const FRAME_HEAD_BYTES: usize = 4;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who is there; the first message each way, but for the genesis file's.
    Hello(Box<Hello>),
    /// To be answered by `Pong` with the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// Asks for the network's genesis file; legal before `Hello`.
    GetGenesis,
    /// The file's bytes; legal before `Hello`.
    Genesis(Vec<u8>),
    /// Asks for addresses of peers: any, or those that serve something.
    GetAddresses(Serves),
    /// Addresses of peers.
    Addresses(Vec<AddressRecord>),
    /// Asks for headers after the first of `locator` that is in the active chain, up to `stop` (or as many as fit, when
    /// it is zero).
    GetHeaders {
        /// Hashes from the tip downwards, ever further apart.
        locator: Vec<BlockHash>,
        /// The last one wanted; zero for none in particular.
        stop: BlockHash,
    },
    /// Headers, each below the next; at most 2,000.
    Headers(Vec<Header>),
    /// Transactions that can be had here, by wtxid.
    Announce(Vec<WtxId>),
    /// A new block's header.
    AnnounceBlock(Header),
    /// Asks for transactions: announced ones by wtxid, missing parents of an orphan by txid.
    GetTransactions {
        /// Announced by the receiver.
        wtxids: Vec<WtxId>,
        /// Parents that the sender lacks.
        txids: Vec<TxId>,
    },
    /// Transactions that were asked for.
    Transactions(Vec<Transaction>),
    /// Asks for blocks.
    GetBlocks(Vec<BlockHash>),
    /// A block's encoding; its header is known to decode.
    Block(Arc<[u8]>),
    /// A block as its header and short ids of its transactions (BIP 152).
    CompactBlock(Box<CompactBlock>),
    /// Asks for the transactions of a compact block that the sender lacks, by position, ascending; with no positions, for
    /// the `CompactBlock` itself. A `Block` is an answer too, where parts are not worth sending.
    GetBlockTransactions {
        /// The block.
        hash: BlockHash,
        /// Positions among the block's transactions, coinbase not counted.
        indexes: Vec<u32>,
    },
    /// The answer.
    BlockTransactions(Box<BlockTransactions>),
    /// What was asked for and is not here.
    NotFound(Vec<Reference>),
    /// Transactions paying less than so many sen per 1,000 bytes need not be announced.
    FeeFilter(u64),
    /// Whether new blocks should come as unasked `CompactBlock`s from now on (BIP 152, high bandwidth).
    SendCompact(bool),
    /// Asks which snapshot of the coins the receiver serves.
    GetSnapshot,
    /// The answer; `NotFound` with no block's hash if it serves none.
    Snapshot {
        /// Height of the block after which the coins are.
        height: u32,
        /// That block.
        base: BlockHash,
    },
    /// Asks for the manifest of the snapshot with this base.
    GetManifest(BlockHash),
    /// The manifest, in its consensus encoding; not known to decode.
    Manifest(Arc<[u8]>),
    /// Asks for coins of a snapshot.
    GetCoins(CoinRange),
    /// The coins, in their fixed-width form.
    Coins {
        /// Which.
        range: CoinRange,
        /// As many elements as the range has coins.
        coins: Vec<u8>,
    },
}

impl Message {
    /// Its kind, as on the wire.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Ping(_) => kind::PING,
            Self::Pong(_) => kind::PONG,
            Self::GetGenesis => kind::GET_GENESIS,
            Self::Genesis(_) => kind::GENESIS,
            Self::GetAddresses(_) => kind::GET_ADDRESSES,
            Self::Addresses(_) => kind::ADDRESSES,
            Self::GetHeaders { .. } => kind::GET_HEADERS,
            Self::Headers(_) => kind::HEADERS,
            Self::Announce(_) => kind::ANNOUNCE,
            Self::AnnounceBlock(_) => kind::ANNOUNCE_BLOCK,
            Self::GetTransactions { .. } => kind::GET_TRANSACTIONS,
            Self::Transactions(_) => kind::TRANSACTIONS,
            Self::GetBlocks(_) => kind::GET_BLOCKS,
            Self::Block(_) => kind::BLOCK,
            Self::CompactBlock(_) => kind::COMPACT_BLOCK,
            Self::GetBlockTransactions { .. } => kind::GET_BLOCK_TRANSACTIONS,
            Self::BlockTransactions(_) => kind::BLOCK_TRANSACTIONS,
            Self::NotFound(_) => kind::NOT_FOUND,
            Self::FeeFilter(_) => kind::FEE_FILTER,
            Self::SendCompact(_) => kind::SEND_COMPACT,
            Self::GetSnapshot => kind::GET_SNAPSHOT,
            Self::Snapshot { .. } => kind::SNAPSHOT,
            Self::GetManifest(_) => kind::GET_MANIFEST,
            Self::Manifest(_) => kind::MANIFEST,
            Self::GetCoins(_) => kind::GET_COINS,
            Self::Coins { .. } => kind::COINS,
        }
    }

    /// Its name, for logs and `getpeerinfo`.
    pub const fn name(&self) -> &'static str {
        kind::name(self.kind())
    }
}

/// Numbers of kinds on the wire. Never reused.
pub mod kind {
    /// `Hello`.
    pub const HELLO: u8 = 0;
    /// `Ping`.
    pub const PING: u8 = 1;
    /// `Pong`.
    pub const PONG: u8 = 2;
    /// `GetGenesis`.
    pub const GET_GENESIS: u8 = 3;
    /// `Genesis`.
    pub const GENESIS: u8 = 4;
    /// `GetAddresses`.
    pub const GET_ADDRESSES: u8 = 5;
    /// `Addresses`.
    pub const ADDRESSES: u8 = 6;
    /// `GetHeaders`.
    pub const GET_HEADERS: u8 = 7;
    /// `Headers`.
    pub const HEADERS: u8 = 8;
    /// `Announce`.
    pub const ANNOUNCE: u8 = 9;
    /// `AnnounceBlock`.
    pub const ANNOUNCE_BLOCK: u8 = 10;
    /// `GetTransactions`.
    pub const GET_TRANSACTIONS: u8 = 11;
    /// `Transactions`.
    pub const TRANSACTIONS: u8 = 12;
    /// `GetBlocks`.
    pub const GET_BLOCKS: u8 = 13;
    /// `Block`.
    pub const BLOCK: u8 = 14;
    /// `CompactBlock`.
    pub const COMPACT_BLOCK: u8 = 15;
    /// `GetBlockTransactions`.
    pub const GET_BLOCK_TRANSACTIONS: u8 = 16;
    /// `BlockTransactions`.
    pub const BLOCK_TRANSACTIONS: u8 = 17;
    /// `NotFound`.
    pub const NOT_FOUND: u8 = 18;
    /// `FeeFilter`.
    pub const FEE_FILTER: u8 = 19;
    /// `SendCompact`.
    pub const SEND_COMPACT: u8 = 20;
    /// `GetSnapshot`.
    pub const GET_SNAPSHOT: u8 = 21;
    /// `Snapshot`.
    pub const SNAPSHOT: u8 = 22;
    /// `GetManifest`.
    pub const GET_MANIFEST: u8 = 23;
    /// `Manifest`.
    pub const MANIFEST: u8 = 24;
    /// `GetCoins`.
    pub const GET_COINS: u8 = 25;
    /// `Coins`.
    pub const COINS: u8 = 26;
    /// The highest number of this version.
    pub const LAST: u8 = COINS;

    /// A kind's name; `unknown` for those of later versions.
    pub const fn name(kind: u8) -> &'static str {
        match kind {
            HELLO => "hello",
            PING => "ping",
            PONG => "pong",
            GET_GENESIS => "getgenesis",
            GENESIS => "genesis",
            GET_ADDRESSES => "getaddresses",
            ADDRESSES => "addresses",
            GET_HEADERS => "getheaders",
            HEADERS => "headers",
            ANNOUNCE => "announce",
            ANNOUNCE_BLOCK => "announceblock",
            GET_TRANSACTIONS => "gettransactions",
            TRANSACTIONS => "transactions",
            GET_BLOCKS => "getblocks",
            BLOCK => "block",
            COMPACT_BLOCK => "compactblock",
            GET_BLOCK_TRANSACTIONS => "getblocktransactions",
            BLOCK_TRANSACTIONS => "blocktransactions",
            NOT_FOUND => "notfound",
            FEE_FILTER => "feefilter",
            SEND_COMPACT => "sendcompact",
            GET_SNAPSHOT => "getsnapshot",
            SNAPSHOT => "snapshot",
            GET_MANIFEST => "getmanifest",
            MANIFEST => "manifest",
            GET_COINS => "getcoins",
            COINS => "coins",
            _ => "unknown",
        }
    }
}
