//! The chain: which blocks are valid, which branch is best, and the coins after it.
//!
//! ```text
//!  rpc, miner, p2p ──submit──► writer thread ──► ChainCore ──one atomic batch──► store ──► View (snapshot)
//!                              (the only one      tree · coins · lattice                    ▲   │ updates_since(cursor)
//!                               that writes)      verify pool                               └───┴─ everyone who reads
//! ```
//!
//! [`ChainCore`] is a plain struct: no thread, no clock; [`ChainHandle`] is the thread round it. Readers take a
//! [`View`] and never ask the writer. Followers pull [`View::updates_since`]; events only say that something moved.

mod adopt;
mod audit;
mod bulk;
#[expect(clippy::module_inception, reason = "the chain itself, in the folder of what serves it")]
mod chain;
mod coins;
mod early;
mod events;
pub mod failpoint;
mod flush;
mod hasher;
mod headers;
mod inbox;
mod intake;
mod known;
mod open;
mod prune;
mod queue;
mod recent;
mod recheck;
mod reorg;
mod step;
/// The locks of `queue.rs`.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering};
    pub use std::sync::{Condvar, Mutex, MutexGuard};
}
mod tree;
mod verify;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use audit::{AuditTask, AuditVerdict};
pub use chain::{ChainCore, ChainOptions, Now, Origin};
pub use coins::{coin_cache_cost, coin_table_within};
pub use early::{EARLY_BLOCKS_MAX, EARLY_BYTES_MAX};
pub use events::TipInfo;
pub use headers::{HeaderPoint, Headers, KnownHeader};
pub use known::KnownSignatures;
pub use prune::{KEEP_BODIES, KEEP_UNDO, PruneGoal, PruneReport};
pub use recheck::{RecheckError, Rechecked, recheck};
pub use tree::HEADER_MEMORY_BYTES;
pub use verify::{BATCH_SIGNATURES, Verifier, WINDOW_BYTES};
pub use view::{ChainTip, CoinsTotal, StoredHeader, TipStatus, UPDATES_MAX, Updates, View};
pub use writer::{ChainHandle, LoadReport, Progress};

use crate::store::StoreError;
use setara_core::codec::CodecError;
use setara_core::consensus::RuleError;
use setara_core::hash::BlockHash;

/// What became of a submitted block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is in the active chain.
    Connected,
    /// It is kept, on a branch that is not the best.
    SideBranch,
    /// It was there before.
    Duplicate,
    /// Nobody asked for it and it does not help: it was not kept.
    Ignored,
}

/// What became of submitted headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadersTaken {
    /// How many were not known before.
    pub new: u64,
    /// Where the last of those given stands; the tip if none was given.
    pub last: HeaderPoint,
}

/// Why a submitted block was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It breaks a rule, for good.
    #[error("{0}")]
    Invalid(RuleError),
    /// It was found invalid before (or the operator does not want it), and the reason is no longer known.
    #[error("the block was found invalid before, or was invalidated by the operator")]
    DuplicateInvalid,
    /// It builds on a block that is invalid.
    #[error("the parent {0} is invalid")]
    InvalidParent(BlockHash),
    /// The block below it is not known.
    #[error("the parent {0} is not known")]
    MissingParent(BlockHash),
    /// Its time is too far ahead: held back, and tried again when its time has come.
    #[error("{0}")]
    Early(RuleError),
    /// The body is not the one its header commits to: discarded, unjudged.
    #[error("{0}")]
    Mutated(RuleError),
    /// The bytes are no block: discarded, unjudged.
    #[error("the bytes are no block: {0}")]
    Undecodable(CodecError),
    /// Either it is wrong or this node's coins are: an audit is running.
    #[error("set aside while this node's coins are being audited: {0}")]
    SetAside(RuleError),
    /// Taking it back needs undo data that have been deleted.
    #[error("block {0} is deeper than what this pruned node can take back")]
    Pruned(BlockHash),
    /// This node failed; the block was not judged.
    #[error("{0}")]
    Fault(ChainFault),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl SubmitError {
    /// The broken rule, where there is one.
    pub const fn rule(&self) -> Option<&RuleError> {
        match self {
            Self::Invalid(rule) | Self::Early(rule) | Self::Mutated(rule) | Self::SetAside(rule) => Some(rule),
            Self::DuplicateInvalid
            | Self::InvalidParent(_)
            | Self::MissingParent(_)
            | Self::Undecodable(_)
            | Self::Pruned(_)
            | Self::Fault(_)
            | Self::Stopping => None,
        }
    }
}

/// Why this node can no longer be trusted with its chain. Final: it stops, and writes nothing more. Never a verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot that this chain began with cannot be trusted.
    #[error("{0}")]
    Snapshot(String),
    /// What is stored contradicts itself.
    #[error(
        "this node's data is damaged: {0}. Nothing was changed; `setara-node rebuild` makes a new database from the blocks \
         that are still good, `setara-node restore` from a backup"
    )]
    Damaged(String),
    /// A bug: the writer stopped in the middle of a step.
    #[error("the chain stopped by an error in the program, please report it: {0}")]
    Panicked(String),
}

impl From<coins::CoinFault> for ChainFault {
    fn from(fault: coins::CoinFault) -> Self {
        Self::Damaged(fault.to_string())
    }
}

/// Why one step along the chain was not taken: the block's fault, or this node's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum StepError {
    Rule(RuleError),
    Fault(ChainFault),
}

impl<T: Into<ChainFault>> From<T> for StepError {
    fn from(fault: T) -> Self {
        Self::Fault(fault.into())
    }
}
