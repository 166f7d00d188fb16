//! One variant per rule, with what was found and what was expected, a stable code, and one exhaustive classification.

use crate::amount::Amount;
use crate::hash::{BlockHash, Hash256};
use crate::height::Height;
use crate::policy::{PolicyError, Timelock};
use crate::pow::{CompactBits, PowError};
use crate::transaction::OutPoint;

/// What a broken rule means for the block, its sender and this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The block is invalid, for good.
    Invalid,
    /// The body is not the one that the header commits to: discard it unjudged, blame its sender.
    Mutated,
    /// The parent is not known: nothing can be said yet.
    MissingParent,
    /// True now, perhaps not later: never remembered as invalid.
    Transient,
    /// Either the block is wrong or this node's coins are: set aside until an audit has told which.
    SuspectCoins,
}

/// A rule of the protocol that a block, header or transaction breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Bits that are no canonical, positive, non-zero target.
    #[error("bits {bits} are no target: {reason}")]
    BadTarget {
        /// As in the header.
        bits: CompactBits,
        /// What is wrong with them.
        reason: PowError,
    },
    /// An easier target than the network allows.
    #[error("the target of bits {got} is above the network's limit {limit}")]
    TargetAboveLimit {
        /// As in the header.
        got: CompactBits,
        /// The network's.
        limit: CompactBits,
    },
    /// The hash exceeds the target.
    #[error("block hash {hash} exceeds the target of bits {bits}")]
    HighHash {
        /// The header's hash.
        hash: BlockHash,
        /// The header's bits.
        bits: CompactBits,
    },
    /// Not the difficulty that the branch requires.
    #[error("bits are {got}, expected {expected}")]
    WrongBits {
        /// As in the header.
        got: CompactBits,
        /// By the difficulty rule.
        expected: CompactBits,
    },
    /// Not after the median time past of the parent.
    #[error("block time {time} is not after the median time past {median_time_past}")]
    TimeTooOld {
        /// The header's.
        time: u32,
        /// The parent's.
        median_time_past: u32,
    },
    /// Too far ahead of this node's clock: held back, not invalid.
    #[error("block time {time} is more than {max_future_seconds} s ahead of now ({now})")]
    TimeTooNew {
        /// The header's.
        time: u32,
        /// This node's clock.
        now: u64,
        /// The network's allowance.
        max_future_seconds: u32,
    },
    /// The header does not build on the given parent.
    #[error("the parent {previous} is not known")]
    MissingParent {
        /// The header's `previous`.
        previous: BlockHash,
    },
    /// Heights are 32 bits.
    #[error("no height follows the parent's")]
    HeightOverflow,
    /// Cumulative work is 256 bits.
    #[error("cumulative work exceeds 256 bits")]
    WorkOverflow,

    /// The transactions are not those that the header commits to.
    #[error("merkle root is {got}, the header says {expected}")]
    MerkleRoot {
        /// Of the transactions given.
        got: Hash256,
        /// The header's.
        expected: Hash256,
    },
    /// Equal siblings in the tree: other transactions have the same root (CVE-2012-2459).
    #[error("the transactions repeat a subtree")]
    MutatedTree,
    /// The encoding is too long.
    #[error("the block is {got} bytes, at most {max} are allowed")]
    BlockTooLarge {
        /// Bytes of the encoding.
        got: u64,
        /// The network's limit.
        max: u64,
    },
    /// The coinbase's encoding, outputs or extra bytes exceed their bounds.
    #[error("the coinbase's {what} is {got}, allowed are {min} to {max}")]
    CoinbaseShape {
        /// Which part.
        what: &'static str,
        /// Found.
        got: u64,
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
    /// The coinbase states another height.
    #[error("the coinbase says height {got}, the block is at {expected}")]
    CoinbaseHeight {
        /// The coinbase's.
        got: Height,
        /// The block's.
        expected: Height,
    },
    /// The coinbase pays more than the subsidy and fees.
    #[error("the coinbase pays {got}, subsidy and fees are {max}")]
    CoinbaseOverpays {
        /// Sum of its outputs.
        got: Amount,
        /// Subsidy and fees.
        max: Amount,
    },
    /// The committed coins are not this node's coins.
    #[error("coins root is {got}, expected {expected}")]
    CoinsRoot {
        /// The coinbase's.
        got: Hash256,
        /// Of the coins after the parent.
        expected: Hash256,
    },

    /// A transaction without inputs.
    #[error("a transaction needs an input")]
    NoInputs,
    /// A transaction without outputs.
    #[error("a transaction needs an output")]
    NoOutputs,
    /// Not one witness per input.
    #[error("{got} witnesses for {expected} inputs")]
    WitnessCount {
        /// Witnesses.
        got: u64,
        /// Inputs.
        expected: u64,
    },
    /// An outpoint twice in one transaction (CVE-2018-17144).
    #[error("{outpoint} is spent twice in one transaction")]
    DuplicateInput {
        /// The coin.
        outpoint: OutPoint,
    },
    /// An output of nothing.
    #[error("output {index} pays nothing")]
    ZeroOutput {
        /// Its position.
        index: u64,
    },
    /// An amount or a sum above the supply cap (CVE-2010-5139).
    #[error("{what} exceed the supply cap of {cap}")]
    AboveCap {
        /// Which sum.
        what: &'static str,
        /// The network's.
        cap: Amount,
    },
    /// Outputs exceed inputs.
    #[error("the outputs exceed the inputs")]
    NegativeFee,
    /// Too long a memo.
    #[error("the memo is {got} bytes, at most {max} are allowed")]
    MemoTooLong {
        /// Bytes.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// Too many bytes for Future nodes.
    #[error("input {input} carries {got} future bytes, at most {max} are allowed")]
    FutureTooLong {
        /// Position of the input.
        input: u64,
        /// Bytes.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// A witness that does not satisfy its policy.
    #[error("input {input}: {reason}")]
    Policy {
        /// Position of the input.
        input: u64,
        /// Why.
        reason: PolicyError,
    },
    /// A signature that does not verify.
    #[error("a signature of transaction {transaction} is not valid")]
    BadSignature {
        /// Position in the block, coinbase counted; 0 for a transaction alone.
        transaction: u64,
    },

    /// An outpoint spent by two transactions of a block.
    #[error("{outpoint} is spent twice in the block")]
    DoubleSpend {
        /// The coin.
        outpoint: OutPoint,
    },
    /// A spend of an output that a later transaction of the block, or its coinbase, makes.
    #[error("{outpoint} is made later in the block")]
    SpentTooEarly {
        /// The coin.
        outpoint: OutPoint,
    },
    /// An output that the named transaction of the same block does not have.
    #[error("{outpoint} does not exist in the block")]
    NoSuchOutput {
        /// The coin.
        outpoint: OutPoint,
    },
    /// A coin that is not among the coins after the parent.
    #[error("{outpoint} does not exist or is spent")]
    MissingCoin {
        /// The coin.
        outpoint: OutPoint,
    },
    /// The stated amount is not the coin's.
    #[error("{outpoint} holds {expected}, the input states {got}")]
    WrongAmount {
        /// The coin.
        outpoint: OutPoint,
        /// Stated.
        got: Amount,
        /// The coin's.
        expected: Amount,
    },
    /// The revealed policy is not the one the coin is locked to.
    #[error("{outpoint} is locked to another policy")]
    WrongPolicy {
        /// The coin.
        outpoint: OutPoint,
    },
    /// A coin of this block's own branch with a wrong amount, decided without any stored coin.
    #[error("{outpoint}, made in this block, has another amount or address")]
    WrongInBlockCoin {
        /// The coin.
        outpoint: OutPoint,
    },
    /// A coin of this very block below a lock on the coin's age, decided without any stored coin.
    #[error("{outpoint}, made in this block, is to be {blocks} blocks old")]
    YoungInBlockCoin {
        /// The coin.
        outpoint: OutPoint,
        /// The age that its policy asks for.
        blocks: u32,
    },
    /// A coinbase's coin before it matures.
    #[error("{outpoint} matures at height {matures_at}, the block is at {height}")]
    Immature {
        /// The coin.
        outpoint: OutPoint,
        /// First height at which it may be spent.
        matures_at: u64,
        /// The block's.
        height: Height,
    },
    /// A transaction before its `valid_from`.
    #[error("valid from height {valid_from}, the block is at {height}")]
    NotYetValid {
        /// The transaction's.
        valid_from: u32,
        /// The block's.
        height: Height,
    },
    /// A policy's lock that has not opened.
    #[error("input {input} is locked ({lock:?}) at height {height}, median time past {median_time_past}")]
    Locked {
        /// Position of the input.
        input: u64,
        /// The lock.
        lock: Timelock,
        /// The block's.
        height: Height,
        /// The parent's.
        median_time_past: u32,
    },
}

impl RuleError {
    /// A stable name, the same in RPC, logs, tests and docs; Bitcoin Core's word where the rule is the same.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BadTarget { .. } => "bad-target",
            Self::TargetAboveLimit { .. } => "target-above-limit",
            Self::HighHash { .. } => "high-hash",
            Self::WrongBits { .. } => "bad-diffbits",
            Self::TimeTooOld { .. } => "time-too-old",
            Self::TimeTooNew { .. } => "time-too-new",
            Self::MissingParent { .. } => "prev-blk-not-found",
            Self::HeightOverflow => "height-overflow",
            Self::WorkOverflow => "work-overflow",
            Self::MerkleRoot { .. } => "bad-txnmrklroot",
            Self::MutatedTree => "bad-txns-duplicate",
            Self::BlockTooLarge { .. } => "bad-blk-length",
            Self::CoinbaseShape { .. } => "bad-cb-length",
            Self::CoinbaseHeight { .. } => "bad-cb-height",
            Self::CoinbaseOverpays { .. } => "bad-cb-amount",
            Self::CoinsRoot { .. } => "bad-coins-root",
            Self::NoInputs => "bad-txns-vin-empty",
            Self::NoOutputs => "bad-txns-vout-empty",
            Self::WitnessCount { .. } => "bad-witness-count",
            Self::DuplicateInput { .. } => "bad-txns-inputs-duplicate",
            Self::ZeroOutput { .. } => "bad-txns-vout-zero",
            Self::AboveCap { .. } => "bad-txns-toolarge",
            Self::NegativeFee => "bad-txns-in-belowout",
            Self::MemoTooLong { .. } => "bad-memo-length",
            Self::FutureTooLong { .. } => "bad-future-length",
            Self::Policy { .. } => "policy-not-satisfied",
            Self::BadSignature { .. } => "bad-signature",
            Self::DoubleSpend { .. } => "bad-txns-double-spend",
            Self::SpentTooEarly { .. } => "bad-txns-spent-too-early",
            Self::NoSuchOutput { .. } => "bad-txns-no-such-output",
            Self::MissingCoin { .. } => "bad-txns-inputs-missingorspent",
            Self::WrongAmount { .. } => "bad-txns-input-amount",
            Self::WrongPolicy { .. } => "bad-txns-input-policy",
            Self::WrongInBlockCoin { .. } => "bad-txns-in-block-coin",
            Self::Immature { .. } => "bad-txns-premature-spend-of-coinbase",
            Self::NotYetValid { .. } => "bad-txns-nonfinal",
            Self::Locked { .. } | Self::YoungInBlockCoin { .. } => "policy-locked",
        }
    }

    /// What follows from the broken rule. The one place where that is decided.
    pub const fn class(&self) -> Class {
        match self {
            Self::MissingParent { .. } => Class::MissingParent,
            Self::TimeTooNew { .. } => Class::Transient,
            Self::MerkleRoot { .. } | Self::MutatedTree => Class::Mutated,
            // A stored coin decides these: its amount, address, height or coinbase flag, or that it is there at all.
            Self::CoinsRoot { .. }
            | Self::MissingCoin { .. }
            | Self::WrongAmount { .. }
            | Self::WrongPolicy { .. }
            | Self::Immature { .. }
            | Self::Locked { lock: Timelock::Older(_), .. } => Class::SuspectCoins,
            Self::BadTarget { .. }
            | Self::TargetAboveLimit { .. }
            | Self::HighHash { .. }
            | Self::WrongBits { .. }
            | Self::TimeTooOld { .. }
            | Self::HeightOverflow
            | Self::WorkOverflow
            | Self::BlockTooLarge { .. }
            | Self::CoinbaseShape { .. }
            | Self::CoinbaseHeight { .. }
            | Self::CoinbaseOverpays { .. }
            | Self::NoInputs
            | Self::NoOutputs
            | Self::WitnessCount { .. }
            | Self::DuplicateInput { .. }
            | Self::ZeroOutput { .. }
            | Self::AboveCap { .. }
            | Self::NegativeFee
            | Self::MemoTooLong { .. }
            | Self::FutureTooLong { .. }
            | Self::Policy { .. }
            | Self::BadSignature { .. }
            | Self::DoubleSpend { .. }
            | Self::SpentTooEarly { .. }
            | Self::NoSuchOutput { .. }
            | Self::WrongInBlockCoin { .. }
            | Self::YoungInBlockCoin { .. }
            | Self::NotYetValid { .. }
            | Self::Locked { lock: Timelock::After(_) | Timelock::AfterTime(_), .. } => Class::Invalid,
        }
    }
}
