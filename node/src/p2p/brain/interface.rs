//! What goes into the brain and what comes out: events and actions. The shell and the simulator are its two callers.

use super::penalty::Offence;
use super::snapshots::{SnapshotJob, SnapshotNews, SnapshotPart};
use crate::chain::{Accepted, ChainHandle, HeadersTaken, Now, SubmitError};
use crate::mempool::{Mempool, MempoolError};
use crate::p2p::message::{Message, PeerAddress};
use crate::snapshot::Offer;
use rand::rngs::StdRng;
use setara_core::block::Header;
use setara_core::hash::{BlockHash, TxId, WtxId};
use setara_core::network::Network;
use setara_core::transaction::Transaction;
use std::sync::Arc;
use std::time::Duration;

/// Names a connection; never reused while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// Why a connection exists, as `getpeerinfo` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// The peer dialled.
    Inbound,
    /// Dialled: exchanges everything.
    OutboundFull,
    /// Dialled: exchanges blocks only.
    BlockOnly,
    /// Dialled to see whether an address is alive; ends after `Hello`.
    Feeler,
    /// Dialled because the operator named it.
    Manual,
    /// Dialled for its addresses only; ends once they came.
    AddressFetch,
    /// Dialled to hand over one transaction; ends once it has it.
    PrivateBroadcast,
}

impl Link {
    /// Whether the peer dialled.
    pub const fn is_inbound(self) -> bool {
        matches!(self, Self::Inbound)
    }

    /// Whether transactions are exchanged.
    pub const fn relays_transactions(self) -> bool {
        matches!(self, Self::Inbound | Self::OutboundFull | Self::Manual)
    }

    /// Whether blocks are exchanged.
    pub const fn relays_blocks(self) -> bool {
        !matches!(self, Self::Feeler | Self::AddressFetch | Self::PrivateBroadcast)
    }
}

/// A transaction's verdict, for the peer it came from.
#[derive(Debug, Clone)]
pub struct TransactionVerdict {
    /// Who sent it.
    pub peer: PeerId,
    /// The transaction: kept so that an orphan need not be asked for again.
    pub transaction: Arc<Transaction>,
    /// Its id.
    pub txid: TxId,
    /// What it was announced as.
    pub wtxid: WtxId,
    /// What the mempool said.
    pub result: Result<(), MempoolError>,
}

/// What happens to the brain.
#[derive(Debug)]
pub enum Event {
    /// A connection is encrypted and ready for `Hello`.
    Connected {
        /// Its name from now on.
        peer: PeerId,
        /// Why it exists.
        link: Link,
        /// The other end.
        address: PeerAddress,
        /// The version that both sides speak.
        version: u16,
    },
    /// A dial failed before the connection was ready.
    DialFailed {
        /// Where to.
        address: PeerAddress,
        /// What for.
        link: Link,
        /// This node itself answered.
        ourselves: bool,
    },
    /// A connection is gone, whoever ended it.
    Disconnected {
        /// Which.
        peer: PeerId,
    },
    /// A message, decoded.
    Message {
        /// From whom.
        peer: PeerId,
        /// What.
        message: Message,
    },
    /// The sender broke the encoding; the shell has stopped reading it.
    Garbage {
        /// Who.
        peer: PeerId,
        /// How.
        offence: Offence,
    },
    /// A `Transactions` message has left the queue for its peer.
    TransactionsSent {
        /// Whose.
        peer: PeerId,
    },
    /// The shell has read and queued what a `SendBlock` or its like asked for.
    Served {
        /// For whom.
        peer: PeerId,
    },
    /// The chain took headers, or not.
    HeadersTaken {
        /// Who sent them.
        peer: PeerId,
        /// How many, and what broke where.
        result: Result<HeadersTaken, SubmitError>,
    },
    /// The chain judged a block.
    BlockTaken {
        /// Who sent it.
        peer: PeerId,
        /// The block.
        hash: BlockHash,
        /// The verdict.
        result: Result<Accepted, SubmitError>,
    },
    /// The chain that verifies a snapshot's history judged a block.
    HistoryTaken {
        /// Who sent it.
        peer: PeerId,
        /// The block.
        hash: BlockHash,
        /// The verdict.
        result: Result<Accepted, SubmitError>,
    },
    /// What is served of a snapshot of the coins from now on.
    SnapshotOffered(Option<Arc<Offer>>),
    /// The shell has read and queued what a `SendSnapshot` asked for.
    SnapshotSent {
        /// For whom.
        peer: PeerId,
    },
    /// What became of a `Snapshot` job.
    Snapshot(SnapshotNews),
    /// The mempool judged transactions.
    TransactionsTaken(Vec<TransactionVerdict>),
    /// The chain has a new view.
    TipChanged,
    /// Transactions are new in the mempool, whoever brought them.
    MempoolGrew(Vec<(WtxId, u64)>),
    /// Bytes sent to all peers since the start, as they stand.
    Sent(u64),
    /// The router forwards a port to this node from there, where others can use it; or no longer.
    Mapped(Option<PeerAddress>),
    /// Time has passed.
    Tick,
}

/// What a peer is asked to be, see [`Action::Dial`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// Where to.
    pub address: PeerAddress,
    /// What for.
    pub link: Link,
}

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It broke a rule.
    Offence(Offence),
    /// It is this node itself.
    SelfConnection,
    /// It did not finish its `Hello` in time.
    HandshakeTimeout,
    /// It was silent for too long.
    Silent,
    /// It did not deliver what it was asked for in time.
    Stalling(&'static str),
    /// It does not follow the chain with the most work.
    LaggingChain,
    /// Its place was needed.
    Evicted,
    /// There is no place.
    Full,
    /// Its work is done (a feeler, an address fetch).
    Finished,
    /// The operator wants it.
    Operator,
    /// It is banned or discouraged.
    Banned,
    /// A newer protocol or other upgrades are needed.
    Incompatible(String),
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Action {
    /// Send a message.
    Send(PeerId, Message),
    /// An answer about a block that is not in the store yet; counts like `SendBlock`.
    SendRecent(PeerId, Message),
    /// Read a block from the store and send it, or `NotFound`.
    SendBlock(PeerId, BlockHash),
    /// Read a block from the store and send those of its transactions.
    SendBlockTransactions(PeerId, BlockHash, Vec<u32>),
    /// Read a block from the store and send it compactly.
    SendCompactBlock(PeerId, BlockHash),
    /// Read a part of the snapshot that is served and send it, or `NotFound`.
    SendSnapshot(PeerId, Arc<Offer>, SnapshotPart),
    /// Send the genesis file.
    SendGenesis(PeerId),
    /// End a connection once what was sent before is on its way.
    Disconnect(PeerId, Ending),
    /// Hold the offence against the peer: the brain's own business, done before actions leave it.
    Blame(PeerId, Offence),
    /// Dial.
    Dial(Dial),
    /// Give headers to the chain, each below the one before; `HeadersTaken` answers.
    SubmitHeaders(PeerId, Vec<Header>),
    /// Give a block to the chain; `BlockTaken` answers. In the order of heights while syncing.
    SubmitBlock {
        /// Who sent it.
        peer: PeerId,
        /// The block.
        hash: BlockHash,
        /// Its encoding.
        bytes: Arc<[u8]>,
        /// Whether it was asked for.
        wanted: bool,
    },
    /// Give a block to the chain that verifies a snapshot's history; `HistoryTaken` answers.
    SubmitHistory {
        /// Who sent it.
        peer: PeerId,
        /// The block.
        hash: BlockHash,
        /// Its encoding.
        bytes: Arc<[u8]>,
    },
    /// Do this for a snapshot that is being fetched, in the order given; `Snapshot` answers.
    Snapshot(SnapshotJob),
    /// Give transactions to the mempool; `TransactionsTaken` answers.
    SubmitTransactions(PeerId, Vec<Transaction>),
    /// Give a parent and its child to the mempool as one package; `TransactionsTaken` answers with both verdicts.
    SubmitPackage(PeerId, Box<[Transaction; 2]>),
    /// Write the addresses known; anchors are those to dial first after a restart.
    Save,
}

/// Actions as they are decided.
pub type Actions = Vec<Action>;

/// What every part of the brain is handed with an event. Reading the chain and the mempool is allowed at any time;
/// whatever changes them is an action.
pub struct Desk<'a> {
    /// The moment.
    pub now: Now,
    /// Seeded: the same seed and events give the same actions.
    pub rng: &'a mut StdRng,
    /// To read: views and headers.
    pub chain: &'a ChainHandle,
    /// To read.
    pub mempool: &'a Mempool,
    /// What is decided.
    pub actions: &'a mut Actions,
}

impl Desk<'_> {
    /// The network's rules.
    pub fn network(&self) -> &Network {
        self.chain.network()
    }

    /// Monotonic time, for deadlines.
    pub const fn monotonic(&self) -> Duration {
        self.now.monotonic
    }

    /// Sends a message.
    pub fn send(&mut self, peer: PeerId, message: Message) {
        self.actions.push(Action::Send(peer, message));
    }

    /// Holds an offence against a peer.
    pub fn blame(&mut self, peer: PeerId, offence: Offence) {
        self.actions.push(Action::Blame(peer, offence));
    }

    /// Ends a connection.
    pub fn disconnect(&mut self, peer: PeerId, ending: Ending) {
        self.actions.push(Action::Disconnect(peer, ending));
    }
}
