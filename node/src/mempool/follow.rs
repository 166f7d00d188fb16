//! Following the chain: by pull, from wherever the mempool last stood to the newest view.
//!
//! After any reorganisation the result is that of starting from nothing: transactions of reverted blocks come first, in
//! the order of the chain, then what was here, in the order of entering. Only clusters that a reverted block touches are
//! taken apart for it, so a short reorganisation costs little however much is waiting.

use super::admit::{Arrival, Candidate};
use super::graph::{Entry, Id};
use super::{Inner, Leave, Mempool, policy};
use crate::chain::{StoredHeader, View};
use crate::store::StoreError;
use crate::store::schema::flags;
use setara_core::block::Block;
use setara_core::hash::{BlockHash, TxId};
use setara_core::transaction::{OutPoint, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Blocks followed one by one; a longer way is taken by judging every entry anew, which costs the same however long.
const STEP_BLOCKS_MAX: usize = 32;

/// Bytes of blocks held at once while following one by one.
const STEP_BYTES_MAX: u64 = 64_000_000;

/// Bytes of transactions brought back from reverted blocks (Bitcoin Core's limit). The oldest come first, since later
/// ones may spend them.
const RESURRECTED_BYTES_MAX: u64 = 20_000_000;

/// How often a follower that waits looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(250);

/// What following needs to know of a connected block.
struct Connected {
    height: u32,
    transactions: Vec<(TxId, Vec<OutPoint>)>,
}

/// The way from where the mempool stands to the newest view.
struct Way {
    /// Ids of all transactions of reverted blocks, coinbases included.
    reverted: Vec<TxId>,
    /// Transactions of reverted blocks, in the order of the chain.
    resurrected: Vec<Transaction>,
    /// Blocks to follow one by one; `None`: judge everything anew.
    connected: Option<Vec<Connected>>,
    /// How many blocks are new.
    new_blocks: u32,
}

impl Mempool {
    /// Follows the chain until `stop`, for a thread of its own: so that what is mined leaves, and its waiters wake, even
    /// when nobody asks.
    pub fn follow(&self, stop: &dyn Fn() -> bool) {
        let mut seen = 0;
        let mut failing = None;
        while !stop() {
            if let Err(error) = self.catch_up() {
                if failing.as_ref() != Some(&error) {
                    tracing::error!(%error, "the mempool cannot follow the chain");
                }
                failing = Some(error);
            }
            seen = self.chain.wait_past(seen, STOP_INTERVAL);
        }
    }

    /// Moves to the chain's newest view. Cheap when there is nothing new; every public method starts with it.
    pub fn catch_up(&self) -> Result<(), StoreError> {
        let at = |inner: &Inner| inner.view.tip.hash();
        let newest = self.chain.view();
        if let Some(mut inner) = Some(self.inner.lock()).filter(|inner| at(inner) == newest.tip.hash()) {
            // The same tip, perhaps with less below it: the older view would hold what was deleted.
            if newest.info().sequence > inner.view.info().sequence {
                inner.view = newest;
            }
            return Ok(());
        }
        let _one = self.following.lock();
        // Taken while no one else follows: the newest view is never older than where we stand.
        let view = self.chain.view();
        let (cursor, idle) = {
            let inner = self.inner.lock();
            (at(&inner), inner.graph.is_empty())
        };
        if view.tip.hash() == cursor {
            return Ok(());
        }
        let way = self.way(&view, cursor, idle)?;
        let inner = &mut *self.inner.lock();
        self.walk(inner, view, way);
        self.publish(inner);
        Ok(())
    }

    fn way(&self, view: &View, cursor: BlockHash, idle: bool) -> Result<Way, StoreError> {
        let mut updates = view.updates_since(cursor)?;
        // Told in pieces when it is long: every reverted block counts, however far down.
        while let (true, Some(lowest)) = (updates.more && updates.apply.is_empty(), updates.revert.last()) {
            let row = view.header(lowest)?;
            let row = row.ok_or_else(|| StoreError::corrupt(format!("block {lowest} is not known")))?;
            let rest = view.updates_since(row.header.previous)?;
            updates.revert.extend(rest.revert);
            (updates.apply, updates.more) = (rest.apply, rest.more);
        }
        // `None` of one that has been pruned: then everything is judged anew.
        let body = |hash: &BlockHash| -> Result<Option<Block>, StoreError> {
            let block = view.block(hash)?;
            let pruned = |row: StoredHeader| view.pruned().is_some() && row.flags & flags::BODY == 0;
            if block.is_none() && !view.header(hash)?.is_some_and(pruned) {
                return Err(StoreError::corrupt(format!("the body of block {hash} is missing")));
            }
            Ok(block)
        };
        let new_blocks = u32::try_from(updates.apply.len()).unwrap_or(u32::MAX);
        let mut way = Way { reverted: Vec::new(), resurrected: Vec::new(), connected: None, new_blocks };
        let mut bytes = 0;
        // Tip first as given; lowest first here.
        for hash in updates.revert.iter().rev() {
            let Some(block) = body(hash)? else { return Ok(way) };
            way.reverted.push(block.coinbase.txid());
            for transaction in block.transactions {
                let ids = transaction.ids();
                way.reverted.push(ids.txid);
                bytes += ids.size;
                if bytes <= RESURRECTED_BYTES_MAX {
                    way.resurrected.push(transaction);
                }
            }
            if bytes > RESURRECTED_BYTES_MAX {
                // Too much to look at block by block: what is not brought back must not be relied on either.
                return Ok(way);
            }
        }
        if updates.apply.len() > STEP_BLOCKS_MAX {
            return Ok(way);
        }
        if idle && updates.revert.is_empty() {
            way.connected = Some(Vec::new());
            return Ok(way);
        }
        let mut connected = Vec::with_capacity(updates.apply.len());
        let mut bytes = 0;
        for hash in &updates.apply {
            let Some(block) = body(hash)? else { return Ok(way) };
            let mut transactions = Vec::with_capacity(block.transactions.len());
            for transaction in &block.transactions {
                let ids = transaction.ids();
                bytes += ids.size;
                transactions.push((ids.txid, transaction.inputs.iter().map(|input| input.outpoint).collect()));
            }
            if bytes > STEP_BYTES_MAX {
                return Ok(way);
            }
            connected.push(Connected { height: block.coinbase.height.get(), transactions });
        }
        way.connected = Some(connected);
        Ok(way)
    }

    fn walk(&self, inner: &mut Inner, view: Arc<View>, way: Way) {
        let now = self.clock.unix_seconds();
        inner.estimator.blocks_connected(way.new_blocks);
        let displaced = match way.connected {
            Some(connected) => {
                let displaced = inner.displace(&way.reverted);
                for block in connected {
                    inner.connected(&block);
                }
                displaced
            }
            None => {
                let all: BTreeSet<Id> = inner.graph.iter().map(|(id, _)| id).collect();
                inner.remove(&all, |_| Leave::Displaced)
            }
        };
        // A reorganisation can lead to a lower tip or an earlier median time.
        let (before, after) = (inner.view.tip.header, view.tip.header);
        let backwards = after.height < before.height || after.median_time_past() < before.median_time_past();
        inner.view = view;
        inner.sequence += 1;
        if backwards {
            inner.drop_locked();
        }
        inner.floor.block_connected(self.clock.monotonic());
        for transaction in way.resurrected {
            // Whatever cannot stand any more is dropped; so is, by missing coins, all that depends on it.
            if let Ok(checked) = policy::check(&self.network, &self.options, None, &transaction) {
                let arrival = Arrival { time: now, watched: false };
                let _ = self.readmit(inner, Candidate { transaction: Arc::new(transaction), checked, arrival });
            }
        }
        for Entry { transaction, time, .. } in displaced {
            if let Ok(checked) = policy::check(&self.network, &self.options, None, &transaction) {
                let arrival = Arrival { time, watched: false };
                let _ = self.readmit(inner, Candidate { transaction, checked, arrival });
            }
        }
        inner.trim(&self.options);
        inner.expire(&self.options, now);
    }
}

impl Inner {
    /// Takes out the clusters of all entries that spend outputs of reverted transactions: those coins have moved or are
    /// gone, and a cluster may grow beyond its limits when its confirmed ancestors come back.
    fn displace(&mut self, reverted: &[TxId]) -> Vec<Entry> {
        let spenders: Vec<Id> = reverted.iter().flat_map(|txid| self.graph.spenders_of(*txid)).collect();
        let clusters = self.graph.clusters_of(&spenders);
        let members: BTreeSet<Id> = clusters
            .iter()
            .filter_map(|id| self.graph.cluster(*id))
            .flat_map(|cluster| cluster.order.clone())
            .collect();
        self.remove(&members, |_| Leave::Displaced)
    }

    /// What a block holds leaves; so does, with its descendants, what spends the same coins.
    fn connected(&mut self, block: &Connected) {
        let mut leaving: BTreeMap<Id, Leave> = BTreeMap::new();
        let mut conflicts: Vec<Id> = Vec::new();
        for (txid, outpoints) in &block.transactions {
            if let Some(id) = self.graph.id_of(txid) {
                leaving.insert(id, Leave::Mined(block.height));
                continue;
            }
            conflicts.extend(outpoints.iter().filter_map(|outpoint| self.graph.spender(outpoint)));
        }
        for id in self.graph.with_descendants(conflicts) {
            leaving.entry(id).or_insert(Leave::Unmined);
        }
        let ids = leaving.keys().copied().collect();
        self.remove(&ids, |id| leaving.get(&id).copied().unwrap_or(Leave::Unmined));
    }

    /// Takes out whatever the next block may not hold, with its descendants.
    fn drop_locked(&mut self) {
        let (height, time) = (self.tip_height().saturating_add(1), self.view.tip.header.median_time_past());
        let locked = |entry: &Entry| entry.lock.height > height || entry.lock.time > time;
        let roots: Vec<Id> = self.graph.iter().filter(|(_, entry)| locked(entry)).map(|(id, _)| id).collect();
        let ids = self.graph.with_descendants(roots);
        self.remove(&ids, |_| Leave::Unmined);
    }
}
