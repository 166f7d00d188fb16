//! Why a transaction is not taken into the mempool: one variant per reason, with a stable code.

use super::arrange::ClusterLimit;
use crate::store::StoreError;
use setara_core::amount::Amount;
use setara_core::consensus::RuleError;
use setara_core::hash::{TxId, WtxId};
use setara_core::transaction::OutPoint;

/// What kind of refusal it is: decides RPC codes, and whether a sender is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It breaks a rule of the protocol that no later block can change: its sender is to blame.
    Invalid,
    /// It may become acceptable: coins, locks or the tip stand in its way.
    Premature,
    /// This node's own rules refuse it; other nodes may take it.
    Policy,
    /// It is here, or already in the chain.
    Known,
    /// This node could not tell: its store failed.
    Fault,
}

/// Why a transaction is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MempoolError {
    /// The very same transaction is here.
    #[error("already in the mempool")]
    AlreadyInMempool,
    /// The same transaction is here with another witness, and this one is not small enough to take its place.
    #[error("{wtxid} with the same txid is in the mempool; only a witness that saves 5 % of the size replaces it")]
    SameTxid {
        /// The one that stays.
        wtxid: WtxId,
    },
    /// An output of this transaction is unspent in the chain.
    #[error("already in the chain, with unspent outputs")]
    AlreadyKnown,
    /// A rule of the protocol.
    #[error("{0}")]
    Rule(#[from] RuleError),
    /// A coin that neither the chain nor the mempool has, or that is spent in the chain.
    #[error("{outpoint} does not exist or is spent")]
    MissingInputs {
        /// The first such coin.
        outpoint: OutPoint,
    },
    /// Larger than is relayed.
    #[error("{got} bytes, at most {max} are relayed")]
    TooLarge {
        /// Bytes.
        got: u64,
        /// The most allowed.
        max: u64,
    },
    /// An output that would cost more to spend than it is worth keeping.
    #[error("output {index} pays {amount}, less than {dust}")]
    Dust {
        /// Its position.
        index: u64,
        /// What it pays.
        amount: Amount,
        /// The least relayed.
        dust: Amount,
    },
    /// A policy of a later version: what it means is not known here.
    #[error("input {input} reveals a policy of a later version")]
    FuturePolicy {
        /// Position of the input.
        input: u64,
    },
    /// Below the relay floor.
    #[error("the fee is {got}, {needed} are needed to be relayed")]
    BelowRelayFloor {
        /// The transaction's fee.
        got: Amount,
        /// What its size owes.
        needed: Amount,
    },
    /// Below what the full mempool asks.
    #[error("the fee is {got}, the mempool is full and asks {needed}")]
    BelowMempoolFloor {
        /// The transaction's fee.
        got: Amount,
        /// What its size owes now.
        needed: Amount,
    },
    /// It entered, and was the first to be given up again.
    #[error("the mempool is full of transactions that pay more")]
    Full,
    /// It depends on a transaction that it would replace.
    #[error("it spends an output of {txid}, which it would replace")]
    SpendsConflicting {
        /// The parent in question.
        txid: TxId,
    },
    /// A replacement that does not pay for what it replaces and for its own relay.
    #[error("the fee is {got}, replacing needs {needed}")]
    ReplacementFee {
        /// The transaction's fee.
        got: Amount,
        /// All replaced fees, and the increment for its size.
        needed: Amount,
    },
    /// A replacement that touches too much.
    #[error("it would replace transactions of {got} clusters, at most {max} are allowed")]
    ReplacementClusters {
        /// Clusters touched.
        got: u64,
        /// The most allowed.
        max: u64,
    },
    /// A replacement that does not make the mempool more worth mining.
    #[error("it would not improve the mempool's feerate diagram")]
    ReplacementDiagram,
    /// A list is tested as a whole only where it replaces nothing.
    #[error("it would replace a transaction of the mempool, which a list that is tested together may not")]
    ReplacementInPackage,
    /// Too many unconfirmed transactions would hang together.
    #[error("its cluster would have {} transactions and {} bytes", .0.count, .0.size)]
    Cluster(ClusterLimit),
    /// The store failed: not a verdict.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl From<ClusterLimit> for MempoolError {
    fn from(limit: ClusterLimit) -> Self {
        Self::Cluster(limit)
    }
}

impl MempoolError {
    /// A stable name; Bitcoin Core's reject reason where the reason is the same.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AlreadyInMempool => "txn-already-in-mempool",
            Self::SameTxid { .. } => "txn-same-nonwitness-data-in-mempool",
            Self::AlreadyKnown => "txn-already-known",
            Self::Rule(rule) => rule.code(),
            Self::MissingInputs { .. } => "missing-inputs",
            Self::TooLarge { .. } => "tx-size",
            Self::Dust { .. } => "dust",
            Self::FuturePolicy { .. } => "future-policy",
            Self::BelowRelayFloor { .. } => "min relay fee not met",
            Self::BelowMempoolFloor { .. } => "mempool min fee not met",
            Self::Full => "mempool full",
            Self::SpendsConflicting { .. } => "bad-txns-spends-conflicting-tx",
            Self::ReplacementFee { .. } => "insufficient fee",
            Self::ReplacementClusters { .. } => "too many potential replacements",
            Self::ReplacementDiagram => "replacement-failed",
            Self::ReplacementInPackage => "bip125-replacement-disallowed",
            Self::Cluster(_) => "too-large-cluster",
            Self::Store(_) => "store-fault",
        }
    }

    /// Which kind of refusal this is. The one place where that is decided.
    pub const fn refusal(&self) -> Refusal {
        match self {
            Self::AlreadyInMempool | Self::SameTxid { .. } | Self::AlreadyKnown => Refusal::Known,
            Self::Rule(rule) => match rule {
                RuleError::MissingCoin { .. }
                | RuleError::Immature { .. }
                | RuleError::NotYetValid { .. }
                | RuleError::Locked { .. } => Refusal::Premature,
                _ => Refusal::Invalid,
            },
            Self::MissingInputs { .. } => Refusal::Premature,
            Self::TooLarge { .. }
            | Self::Dust { .. }
            | Self::FuturePolicy { .. }
            | Self::BelowRelayFloor { .. }
            | Self::BelowMempoolFloor { .. }
            | Self::Full
            | Self::SpendsConflicting { .. }
            | Self::ReplacementFee { .. }
            | Self::ReplacementClusters { .. }
            | Self::ReplacementDiagram
            | Self::ReplacementInPackage
            | Self::Cluster(_) => Refusal::Policy,
            Self::Store(_) => Refusal::Fault,
        }
    }
}
