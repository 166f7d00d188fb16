//! Reading the mempool: for RPC, block templates and wallets. Everything handed out is a copy.

use super::feerate::Feerate;
use super::graph::{Id, Node};
use super::{Inner, Mempool};
use crate::chain::View;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::hash::{TxId, WtxId};
use setara_core::height::Height;
use setara_core::transaction::{OutPoint, Transaction, TransactionIds};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Chunks in a row that did not fit before a block counts as full: the search for a last small one stays bounded
/// (Bitcoin Core's `MAX_CONSECUTIVE_FAILURES`).
const MISFITS_MAX: u32 = 1_000;

/// Entries described under one lock: a few milliseconds.
const LISTED_AT_ONCE: usize = 512;

/// Blocks' worth of waiting transactions that an estimate looks at: bounds the walk.
const DEPTH_BLOCKS_MAX: u64 = 12;

/// How far above the price of the space that is actually wanted an estimate may go: whatever a miner has made others
/// believe, space that nobody queues for is not worth more.
const DEPTH_FACTOR: u64 = 2;

/// The mempool at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// How many transactions.
    pub count: u64,
    /// Bytes of all of them, encoded.
    pub bytes: u64,
    /// Bytes of memory, every overhead counted.
    pub usage: u64,
    /// The most that `usage` may be.
    pub max_usage: u64,
    /// Sum of all fees.
    pub fees: Amount,
    /// What a transaction must pay now, in sen per 1,000 bytes: the relay floor, or more after the mempool was full.
    pub floor: u64,
    /// Goes up with every change.
    pub sequence: u64,
}

/// A transaction and its place among the others.
#[derive(Debug, Clone)]
pub struct EntryInfo {
    /// The transaction.
    pub transaction: Arc<Transaction>,
    /// Ids and size.
    pub ids: TransactionIds,
    /// Its own fee.
    pub fee: Amount,
    /// Unix seconds when it came.
    pub time: u64,
    /// Height of the tip when it came.
    pub tip_height: Height,
    /// How many ancestors, itself counted, with their fees and bytes.
    pub ancestors: (u64, Feerate),
    /// How many descendants, itself counted, with their fees and bytes.
    pub descendants: (u64, Feerate),
    /// The chunk it would be mined with.
    pub chunk: Feerate,
    /// Unconfirmed transactions whose outputs it spends.
    pub depends: Vec<TxId>,
    /// Unconfirmed transactions that spend its outputs.
    pub spent_by: Vec<TxId>,
}

/// A transaction chosen for a block.
#[derive(Debug, Clone)]
pub struct Selected {
    /// The transaction.
    pub transaction: Arc<Transaction>,
    /// Ids and size.
    pub ids: TransactionIds,
    /// Its own fee.
    pub fee: Amount,
    /// Positions in the selection of the transactions that it spends from.
    pub depends: Vec<usize>,
}

/// What to put into a block on top of `view`'s tip, in order.
#[derive(Clone)]
pub struct Selection {
    /// The chain that every transaction was judged against.
    pub view: Arc<View>,
    /// The mempool's state, as [`Info::sequence`].
    pub sequence: u64,
    /// Parents first.
    pub transactions: Vec<Selected>,
}

/// A fee estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Sen per 1,000 bytes.
    pub sen_per_kilobyte: u64,
    /// The target it is for, in blocks; the nearest that can be promised.
    pub blocks: u32,
}

impl Mempool {
    /// The lock, caught up with the chain. If that fails ([`Self::follow`] says so, loudly) the last
    /// consistent state is shown.
    fn read<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        if let Err(error) = self.catch_up() {
            tracing::debug!(%error, "the mempool cannot follow the chain");
        }
        f(&mut self.inner.lock())
    }

    fn floor_of(&self, inner: &mut Inner) -> u64 {
        let (usage, options) = (inner.graph.usage(), &self.options);
        let rolling = inner.floor.rate(self.clock.monotonic(), usage, options.max_bytes, options.increment);
        rolling.max(options.relay_floor)
    }

    /// What a transaction must pay now, in sen per 1,000 bytes.
    pub fn floor(&self) -> u64 {
        self.floor_of(&mut self.inner.lock())
    }

    /// The mempool at a glance.
    pub fn info(&self) -> Info {
        self.read(|inner| Info {
            count: inner.graph.len() as u64,
            bytes: inner.graph.size(),
            usage: inner.graph.usage() as u64,
            max_usage: self.options.max_bytes as u64,
            fees: Amount::from_sen(inner.graph.fees()),
            floor: self.floor_of(inner),
            sequence: inner.sequence,
        })
    }

    /// All ids, in order of entering: parents before children.
    pub fn ids(&self) -> Vec<TransactionIds> {
        self.read(|inner| inner.graph.iter().map(|(_, entry)| entry.ids).collect())
    }

    /// All ids with the state they belong to.
    pub fn ids_and_sequence(&self) -> (Vec<TransactionIds>, u64) {
        self.read(|inner| (inner.graph.iter().map(|(_, entry)| entry.ids).collect(), inner.sequence))
    }

    /// The transaction.
    pub fn get(&self, txid: &TxId) -> Option<Arc<Transaction>> {
        self.read(|inner| Some(inner.node_of(txid)?.entry.transaction.clone()))
    }

    /// The transaction with exactly this witness.
    pub fn get_by_wtxid(&self, wtxid: &WtxId) -> Option<Arc<Transaction>> {
        self.read(|inner| {
            let id = inner.graph.id_of_wtxid(wtxid)?;
            Some(inner.graph.node(id)?.entry.transaction.clone())
        })
    }

    /// A transaction and its place among the others.
    pub fn entry(&self, txid: &TxId) -> Option<EntryInfo> {
        self.read(|inner| inner.entry_info(inner.graph.id_of(txid)?))
    }

    /// Every transaction and its place, in order of entering. Looked up in parts, so that a full mempool is not locked
    /// for the whole of it: what leaves meanwhile is left out.
    pub fn entries(&self) -> Vec<EntryInfo> {
        let ids: Vec<Id> = self.read(|inner| inner.graph.iter().map(|(id, _)| id).collect());
        let mut entries = Vec::with_capacity(ids.len());
        for part in ids.chunks(LISTED_AT_ONCE) {
            let inner = self.inner.lock();
            entries.extend(part.iter().filter_map(|id| inner.entry_info(*id)));
        }
        entries
    }

    /// Everything unconfirmed that it depends on, without itself; `None` if it is not here.
    pub fn ancestors(&self, txid: &TxId) -> Option<Vec<EntryInfo>> {
        self.read(|inner| {
            let id = inner.graph.id_of(txid)?;
            Some(inner.entry_infos(&inner.graph.with_ancestors([id]), id))
        })
    }

    /// Everything that depends on it, without itself; `None` if it is not here.
    pub fn descendants(&self, txid: &TxId) -> Option<Vec<EntryInfo>> {
        self.read(|inner| {
            let id = inner.graph.id_of(txid)?;
            Some(inner.entry_infos(&inner.graph.with_descendants([id]), id))
        })
    }

    /// The unconfirmed transaction that spends this outpoint.
    pub fn spender(&self, outpoint: &OutPoint) -> Option<TxId> {
        self.read(|inner| Some(inner.graph.node(inner.graph.spender(outpoint)?)?.entry.ids.txid))
    }

    /// Transactions that pay to or spend from this address, in order of entering.
    pub fn by_address(&self, address: &Address) -> Vec<EntryInfo> {
        self.read(|inner| inner.graph.by_address(*address).filter_map(|id| inner.entry_info(id)).collect())
    }

    /// What to mine: whole chunks, best first, of at most `max_bytes`. What does not fit is passed over with all of its
    /// cluster that comes later.
    pub fn select_for_block(&self, max_bytes: u64) -> Selection {
        self.read(|inner| {
            let mut left = max_bytes;
            let mut misfits = 0;
            let mut closed = BTreeSet::new();
            let mut chosen: BTreeMap<Id, usize> = BTreeMap::new();
            let mut transactions: Vec<Selected> = Vec::new();
            for (cluster, feerate, chunk) in inner.graph.best_first() {
                if closed.contains(&cluster) {
                    continue;
                }
                let Some(rest) = left.checked_sub(feerate.size) else {
                    closed.insert(cluster);
                    misfits += 1;
                    if misfits == MISFITS_MAX {
                        break;
                    }
                    continue;
                };
                (left, misfits) = (rest, 0);
                for (id, node) in chunk.iter().filter_map(|id| Some((*id, inner.graph.node(*id)?))) {
                    let depends = node.parents().iter().filter_map(|parent| chosen.get(parent).copied()).collect();
                    chosen.insert(id, transactions.len());
                    let (transaction, ids, fee) = (node.entry.transaction.clone(), node.entry.ids, node.entry.fee);
                    transactions.push(Selected { transaction, ids, fee, depends });
                }
            }
            Selection { view: inner.view.clone(), sequence: inner.sequence, transactions }
        })
    }

    /// The feerate at which a transaction is likely to be mined within `target` blocks; `None` until enough has been
    /// seen. Never below the floor of now, and never more than twice what the waiting transactions bid for the space.
    pub fn estimate(&self, target: u32) -> Option<Estimate> {
        let blocks = target.clamp(super::TARGET_MIN, super::TARGET_MAX);
        self.read(|inner| {
            let learned = inner.estimator.estimate(blocks, inner.tip_height())?;
            let floor = self.floor_of(inner);
            let depth = u64::from(blocks).min(DEPTH_BLOCKS_MAX).saturating_mul(self.network.max_block_bytes);
            let price = inner.price_at(depth).max(floor);
            let sen_per_kilobyte = learned.clamp(floor, price.saturating_mul(DEPTH_FACTOR));
            Some(Estimate { sen_per_kilobyte, blocks })
        })
    }
}

impl Inner {
    fn node_of(&self, txid: &TxId) -> Option<&Node> {
        self.graph.node(self.graph.id_of(txid)?)
    }

    /// The feerate of what lies `depth` bytes below the best, in sen per 1,000 bytes; 0 if less than that waits.
    fn price_at(&self, depth: u64) -> u64 {
        let mut sum = 0;
        let beyond = |(_, feerate, _): &(_, Feerate, _)| {
            sum += feerate.size;
            sum > depth
        };
        let next = self.graph.best_first().find(beyond);
        next.map_or(0, |(_, feerate, _)| feerate.sen_per_kilobyte())
    }

    fn entry_infos(&self, ids: &BTreeSet<Id>, without: Id) -> Vec<EntryInfo> {
        ids.iter().filter(|id| **id != without).filter_map(|id| self.entry_info(*id)).collect()
    }

    fn entry_info(&self, id: Id) -> Option<EntryInfo> {
        let node = self.graph.node(id)?;
        let total = |ids: BTreeSet<Id>| {
            let feerates = ids.iter().filter_map(|id| Some(self.graph.node(*id)?.entry.feerate()));
            (ids.len() as u64, feerates.fold(Feerate::default(), Feerate::join))
        };
        let txids =
            |ids: &[Id]| ids.iter().filter_map(|id| Some(self.graph.node(*id)?.entry.ids.txid)).collect::<Vec<TxId>>();
        let cluster = self.graph.cluster(node.cluster())?;
        let place = cluster.order.iter().position(|member| *member == id)?;
        let mut end = 0;
        let chunk = cluster.chunks.iter().find(|chunk| {
            end += chunk.count;
            place < end
        })?;
        let entry = &node.entry;
        Some(EntryInfo {
            transaction: entry.transaction.clone(),
            ids: entry.ids,
            fee: entry.fee,
            time: entry.time,
            tip_height: entry.tip_height,
            ancestors: total(self.graph.with_ancestors([id])),
            descendants: total(self.graph.with_descendants([id])),
            chunk: chunk.feerate,
            depends: txids(node.parents()),
            spent_by: txids(node.children()),
        })
    }
}
