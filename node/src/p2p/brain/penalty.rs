//! Blame: every way in which a peer can break the protocol, and what follows. One exhaustive table.
//!
//! Blame goes to the peer that sent the datum, never to whoever mentioned it, and never for this node's own faults.

use crate::chain::SubmitError;
use crate::mempool::{MempoolError, Refusal};
use setara_core::consensus::Class;
use setara_core::snapshot::SnapshotError;

/// What follows from an offence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Penalty {
    /// Nothing: it may be honest.
    None,
    /// The connection ends; the peer may come back.
    Disconnect,
    /// The connection ends, and the address is discouraged: refused when places are short, never dialled.
    Discourage,
}

/// Ways to break the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offence {
    /// Bytes that are no message of their kind.
    Undecodable(&'static str),
    /// A frame longer than its kind may be.
    Oversized(&'static str),
    /// A message that has no place in this state of the connection.
    OutOfTurn(&'static str),
    /// More of a thing than allowed.
    Flood(&'static str),
    /// Headers that do not follow one another.
    HeadersDisconnected,
    /// A header that breaks a rule for good.
    InvalidHeader(&'static str),
    /// Headers that lead nowhere known, again and again.
    HeadersUnconnecting,
    /// A chain of headers with too little work, shown on a link that must follow the best chain.
    LowWork,
    /// Another chain on the second pass than on the first.
    HeadersChanged,
    /// A block whose body is not its header's.
    MutatedBlock,
    /// A block that breaks a rule for good.
    InvalidBlock(&'static str),
    /// A block that nobody asked for, and that is not worth keeping.
    UnwantedBlock,
    /// A compact block or a part of one that cannot be.
    BadCompactBlock(&'static str),
    /// A transaction that breaks a rule for good.
    InvalidTransaction(&'static str),
    /// A transaction that nobody asked for.
    UnwantedTransaction,
    /// Addresses that were not asked for, or too many.
    BadAddresses(&'static str),
    /// A request for what cannot be.
    BadRequest(&'static str),
    /// A snapshot's manifest or coins that are not what work stands behind.
    BadSnapshot(&'static str),
    /// Something of a snapshot that nobody asked for.
    UnwantedSnapshot,
    /// A wrong answer to a ping, or one never asked.
    BadPong,
}

impl Offence {
    /// What follows. The one place where that is decided.
    pub const fn penalty(&self) -> Penalty {
        match self {
            Self::Undecodable(_)
            | Self::Oversized(_)
            | Self::OutOfTurn(_)
            | Self::Flood(_)
            | Self::HeadersDisconnected
            | Self::InvalidHeader(_)
            | Self::HeadersChanged
            | Self::MutatedBlock
            | Self::InvalidBlock(_)
            | Self::BadCompactBlock(_)
            | Self::InvalidTransaction(_)
            | Self::BadAddresses(_)
            | Self::BadSnapshot(_)
            | Self::BadRequest(_) => Penalty::Discourage,
            Self::HeadersUnconnecting
            | Self::LowWork
            | Self::UnwantedBlock
            | Self::UnwantedTransaction
            | Self::UnwantedSnapshot => Penalty::Disconnect,
            Self::BadPong => Penalty::None,
        }
    }

    /// A stable name, for logs and tests.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "undecodable",
            Self::Oversized(_) => "oversized",
            Self::OutOfTurn(_) => "out-of-turn",
            Self::Flood(_) => "flood",
            Self::HeadersDisconnected => "headers-disconnected",
            Self::InvalidHeader(_) => "invalid-header",
            Self::HeadersUnconnecting => "headers-unconnecting",
            Self::LowWork => "low-work",
            Self::HeadersChanged => "headers-changed",
            Self::MutatedBlock => "mutated-block",
            Self::InvalidBlock(_) => "invalid-block",
            Self::UnwantedBlock => "unwanted-block",
            Self::BadCompactBlock(_) => "bad-compact-block",
            Self::InvalidTransaction(_) => "invalid-transaction",
            Self::UnwantedTransaction => "unwanted-transaction",
            Self::BadAddresses(_) => "bad-addresses",
            Self::BadRequest(_) => "bad-request",
            Self::BadSnapshot(_) => "bad-snapshot",
            Self::UnwantedSnapshot => "unwanted-snapshot",
            Self::BadPong => "bad-pong",
        }
    }
}

/// What came with a block, for blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSource {
    /// The whole block was sent.
    Whole,
    /// It was rebuilt from a compact block, or announced before it was fully validated: its sender may be honest.
    Compact,
}

/// The offence of sending a block on which the chain gave this verdict.
pub const fn of_block(error: &SubmitError, source: BlockSource) -> Option<Offence> {
    match error {
        SubmitError::Invalid(rule) => match source {
            BlockSource::Whole => Some(Offence::InvalidBlock(rule.code())),
            BlockSource::Compact => None,
        },
        SubmitError::Mutated(_) | SubmitError::Undecodable(_) => match source {
            BlockSource::Whole => Some(Offence::MutatedBlock),
            BlockSource::Compact => None,
        },
        SubmitError::DuplicateInvalid | SubmitError::InvalidParent(_) => match source {
            BlockSource::Whole => Some(Offence::InvalidBlock("invalid-before")),
            BlockSource::Compact => None,
        },
        SubmitError::MissingParent(_)
        | SubmitError::Early(_)
        | SubmitError::SetAside(_)
        | SubmitError::Pruned(_)
        | SubmitError::Fault(_)
        | SubmitError::Stopping => None,
    }
}

/// The offence of sending headers on which the chain gave this verdict.
pub const fn of_headers(error: &SubmitError) -> Option<Offence> {
    match error {
        SubmitError::Invalid(rule) => match rule.class() {
            Class::Invalid => Some(Offence::InvalidHeader(rule.code())),
            Class::Mutated | Class::MissingParent | Class::Transient | Class::SuspectCoins => None,
        },
        SubmitError::DuplicateInvalid | SubmitError::InvalidParent(_) => Some(Offence::InvalidHeader("invalid-before")),
        SubmitError::Mutated(_)
        | SubmitError::Undecodable(_)
        | SubmitError::MissingParent(_)
        | SubmitError::Early(_)
        | SubmitError::SetAside(_)
        | SubmitError::Pruned(_)
        | SubmitError::Fault(_)
        | SubmitError::Stopping => None,
    }
}

/// The offence of sending a transaction on which the mempool gave this verdict.
pub const fn of_transaction(error: &MempoolError) -> Option<Offence> {
    match error.refusal() {
        Refusal::Invalid => Some(Offence::InvalidTransaction(error.code())),
        Refusal::Known | Refusal::Premature | Refusal::Policy | Refusal::Fault => None,
    }
}

/// The offence of sending a manifest, or all coins of a bucket, that came out so.
pub const fn of_snapshot(error: &SnapshotError) -> Option<Offence> {
    let what = match error {
        // It may follow another branch, or be ahead.
        SnapshotError::OffChain { .. } | SnapshotError::Shallow { .. } => return None,
        SnapshotError::Undecodable(_) => "manifest-undecodable",
        SnapshotError::WrongNetwork { .. } => "wrong-network",
        SnapshotError::CoinbaseHeight { .. } => "coinbase-height",
        SnapshotError::CoinbaseBranch { .. } => "coinbase-branch",
        SnapshotError::Bucket(_) => "impossible-bucket",
        SnapshotError::WrongRoot { .. } => "wrong-root",
        SnapshotError::TooMuch { .. } => "too-much",
        SnapshotError::Truncated { .. } => "truncated",
        SnapshotError::Trailing { .. } => "trailing",
        SnapshotError::BadCoin { .. } => "bad-coin",
        SnapshotError::OtherBucket { .. } => "other-bucket",
        SnapshotError::Repeated { .. } => "repeated",
        SnapshotError::Order { .. } => "order",
        SnapshotError::WrongCoins { .. } => "wrong-coins",
    };
    Some(Offence::BadSnapshot(what))
}
