//! Rules for a block alone: work, root, shape, sums, and how its transactions spend one another.
//!
//! Cheapest and hash-binding first: work, then the root over the ids, and only then what could make the block invalid
//! for good. Whoever gets a [`CheckedBlock`] holds proof that all of it held.

use super::error::RuleError;
use super::header::check_work;
use super::transaction::{
    CheckedTransaction, check_transaction_with_ids, count, first_repeated, sum_below_cap, transaction_signatures,
};
use crate::amount::Amount;
use crate::block::{Block, EncodedBlock};
use crate::codec::{Codec, Writer};
use crate::hash::{BlockHash, TxId, WtxId};
use crate::keys::SignatureCheck;
use crate::limits;
use crate::merkle;
use crate::network::Network;
use crate::pow::Target;
use crate::transaction::{Coinbase, OutPoint, Transaction, TransactionIds};

/// How work over many items is spread; core has no threads, the caller may.
pub trait ForEach {
    /// `f` of every item, in order.
    fn map<T: Sync, R: Send>(&self, items: &[T], f: impl Fn(&T) -> R + Sync + Send) -> Vec<R>;
}

/// One after another.
#[derive(Debug, Clone, Copy)]
pub struct Serial;

impl ForEach for Serial {
    fn map<T: Sync, R: Send>(&self, items: &[T], f: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
        items.iter().map(f).collect()
    }
}

/// Where the coin of an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Position in [`CheckedBlock::required_coins`].
    Before(usize),
    /// An output of an earlier transaction of the same block.
    Within {
        /// Position among the block's transactions, coinbase not counted.
        transaction: usize,
        /// Position among its outputs.
        output: usize,
    },
}

/// A block that satisfies every rule that needs nothing but the block.
#[derive(Debug, Clone)]
pub struct CheckedBlock {
    block: Block,
    hash: BlockHash,
    coinbase_txid: TxId,
    transactions: Vec<CheckedTransaction>,
    /// Of every input of every transaction, in order.
    pub(super) sources: Vec<Source>,
    required: Vec<OutPoint>,
    size: u64,
    fees: Amount,
    paid: Amount,
    /// `None` for a proposal, whose work was not checked and which therefore never connects.
    pub(super) proven: Option<Target>,
}

impl CheckedBlock {
    /// The block.
    pub const fn block(&self) -> &Block {
        &self.block
    }

    /// Gives the block back.
    pub fn into_block(self) -> Block {
        self.block
    }

    /// Its hash.
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// Id of the coinbase.
    pub const fn coinbase_txid(&self) -> TxId {
        self.coinbase_txid
    }

    /// Ids and sizes of the transactions, coinbase not counted.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &TransactionIds> {
        self.transactions.iter().map(|checked| &checked.ids)
    }

    /// The checked transactions, coinbase not counted.
    pub fn transactions(&self) -> &[CheckedTransaction] {
        &self.transactions
    }

    /// The coins that [`super::connect`] needs, in order, each once: those that the block does not itself make.
    pub fn required_coins(&self) -> &[OutPoint] {
        &self.required
    }

    /// Bytes of the encoding.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Sum of all fees.
    pub const fn fees(&self) -> Amount {
        self.fees
    }

    /// Sum of the coinbase's outputs.
    pub const fn paid(&self) -> Amount {
        self.paid
    }
}

/// All rules that need nothing but the block.
pub fn check_block(network: &Network, block: Block, spread: &impl ForEach) -> Result<CheckedBlock, RuleError> {
    let (hash, target) = check_work(network, &block.header)?;
    let ids = spread.map(&block.transactions, Transaction::ids);
    check_body(network, block, ids, hash, Some(target), spread)
}

/// The same for a block whose encoding is at hand; gives that back, too.
pub fn check_encoded_block(
    network: &Network,
    encoded: EncodedBlock,
    spread: &impl ForEach,
) -> Result<(CheckedBlock, Vec<u8>), RuleError> {
    let (hash, target) = check_work(network, &encoded.block().header)?;
    let ids = encoded.ids(spread);
    let (block, bytes) = encoded.into_parts();
    check_body(network, block, ids, hash, Some(target), spread).map(|checked| (checked, bytes))
}

/// The same without proof of work: for block templates and proposals. The result never connects.
pub fn check_proposal(network: &Network, block: Block, spread: &impl ForEach) -> Result<CheckedBlock, RuleError> {
    let hash = block.hash();
    let ids = spread.map(&block.transactions, Transaction::ids);
    check_body(network, block, ids, hash, None, spread)
}

fn check_body(
    network: &Network,
    block: Block,
    ids: Vec<TransactionIds>,
    hash: BlockHash,
    proven: Option<Target>,
    spread: &impl ForEach,
) -> Result<CheckedBlock, RuleError> {
    // The root: "only a body that matches the root, is not mutated and decodes canonically can make a block invalid".
    let coinbase_txid = block.coinbase.txid();
    let root = merkle::root(&Block::leaves(&block.coinbase, &ids));
    if root.root != block.header.merkle_root {
        return Err(RuleError::MerkleRoot { got: root.root, expected: block.header.merkle_root });
    }
    if root.mutated {
        return Err(RuleError::MutatedTree);
    }

    let coinbase_size = check_coinbase_shape(&block.coinbase)?;
    let size = encoded_size(coinbase_size, &ids);
    if size > network.max_block_bytes {
        return Err(RuleError::BlockTooLarge { got: size, max: network.max_block_bytes });
    }
    let paid = sum_below_cap(network, "coinbase outputs", block.coinbase.outputs.iter().map(|output| output.amount))?;

    let numbered: Vec<(&Transaction, TransactionIds)> = block.transactions.iter().zip(ids).collect();
    let checked = spread.map(&numbered, |(transaction, ids)| check_transaction_with_ids(network, transaction, *ids));
    let transactions = checked.into_iter().collect::<Result<Vec<_>, _>>()?;
    let fees = sum_below_cap(network, "fees", transactions.iter().map(|checked| checked.fee))?;

    let (sources, required) = link(&block.transactions, &transactions, coinbase_txid)?;
    Ok(CheckedBlock { block, hash, coinbase_txid, transactions, sources, required, size, fees, paid, proven })
}

fn encoded_size(coinbase: u64, ids: &[TransactionIds]) -> u64 {
    let mut writer = Writer::default();
    crate::block::write_compact_size(&mut writer, count(ids.len()).saturating_add(1));
    let head = count(limits::HEADER_BYTES).saturating_add(count(writer.position())).saturating_add(coinbase);
    ids.iter().fold(head, |size, ids| size.saturating_add(ids.size))
}

/// Bounds that the decoder enforces too: a coinbase built in memory has not passed it. Gives the encoded size.
fn check_coinbase_shape(coinbase: &Coinbase) -> Result<u64, RuleError> {
    let shape = |what, got, min, max| {
        if got < min || got > max { Err(RuleError::CoinbaseShape { what, got, min, max }) } else { Ok(got) }
    };
    shape("output count", count(coinbase.outputs.len()), 1, limits::COINBASE_BYTES_MAX)?;
    shape("extra", count(coinbase.extra.len()), 0, limits::COINBASE_EXTRA_BYTES_MAX)?;
    let mut writer = Writer::default();
    coinbase.write(&mut writer);
    shape("size", count(writer.position()), limits::COINBASE_BYTES_MIN, limits::COINBASE_BYTES_MAX)
}

/// Finds the source of every input: "a later transaction of a block may spend an earlier one, never the reverse".
fn link(
    transactions: &[Transaction],
    checked: &[CheckedTransaction],
    coinbase_txid: TxId,
) -> Result<(Vec<Source>, Vec<OutPoint>), RuleError> {
    let outpoints =
        || transactions.iter().flat_map(|transaction| transaction.inputs.iter().map(|input| input.outpoint));
    if let Some(outpoint) = first_repeated(outpoints()) {
        return Err(RuleError::DoubleSpend { outpoint });
    }
    let mut by_txid: Vec<(TxId, usize)> = checked.iter().map(|checked| checked.ids.txid).zip(0..).collect();
    by_txid.sort_unstable();

    let mut sources = Vec::with_capacity(transactions.len());
    let mut required = Vec::with_capacity(transactions.len());
    for (position, transaction) in transactions.iter().enumerate() {
        for input in &transaction.inputs {
            let outpoint = input.outpoint;
            if outpoint.txid == coinbase_txid {
                return Err(RuleError::SpentTooEarly { outpoint });
            }
            let made_by = by_txid
                .binary_search_by_key(&outpoint.txid, |(txid, _)| *txid)
                .ok()
                .and_then(|found| by_txid.get(found))
                .and_then(|(_, maker)| transactions.get(*maker).map(|transaction| (*maker, transaction)));
            let Some((maker, made)) = made_by else {
                sources.push(Source::Before(required.len()));
                required.push(outpoint);
                continue;
            };
            if maker >= position {
                return Err(RuleError::SpentTooEarly { outpoint });
            }
            let output = usize::try_from(outpoint.index).ok().filter(|index| *index < made.outputs.len());
            let output = output.ok_or(RuleError::NoSuchOutput { outpoint })?;
            sources.push(Source::Within { transaction: maker, output });
        }
    }
    Ok((sources, required))
}

/// The signatures of a block, each knowing its transaction.
#[derive(Debug, Clone, Default)]
pub struct BlockSignatures {
    /// What to verify.
    pub checks: Vec<SignatureCheck>,
    /// Per check, the position of its transaction in the block, coinbase counted.
    pub positions: Vec<u64>,
}

impl BlockSignatures {
    /// The error to report when check number `index` fails.
    pub fn error(&self, index: usize) -> RuleError {
        RuleError::BadSignature { transaction: self.positions.get(index).copied().unwrap_or(0) }
    }
}

/// All signatures of a block but those of transactions whose wtxid `known` vouches for: a wtxid fixes every signature
/// and everything they sign, so one verdict holds at any height and on any branch.
pub fn block_signatures(
    network: &Network,
    checked: &CheckedBlock,
    known: &(impl Fn(&WtxId) -> bool + Sync),
    spread: &impl ForEach,
) -> BlockSignatures {
    let genesis = network.genesis_hash();
    let per_transaction = spread.map(&checked.transactions, |checked| {
        if known(&checked.ids.wtxid) { Vec::new() } else { transaction_signatures(genesis, checked) }
    });
    let mut signatures = BlockSignatures::default();
    for (position, checks) in (1u64..).zip(per_transaction) {
        signatures.positions.extend(core::iter::repeat_n(position, checks.len()));
        signatures.checks.extend(checks);
    }
    signatures
}
