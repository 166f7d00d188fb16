//! What has changed since the last flush, and the atomic batches that store it.
//!
//! At the tip every block is one synced batch before anyone hears of it: body, delta (which is undo and redo record at
//! once), header, height, tip. That fixes the coins; their rows and the lattice follow in a batch of their own, many
//! blocks' at once, when the writer has nothing else to do (`recent.rs`). It needs no sync: if it is lost, the deltas
//! are replayed.
//!
//! While loading in bulk, one batch holds all of that, whenever the coins' changes fill their share of the cache, or a
//! minute has passed; bodies and undo records, which are named by hash and never change, are written ahead of it in
//! pieces, so that they take no memory. (Writes are ordered: when a batch survives, so does what was written ahead of
//! it.)

use super::ChainFault;
use super::chain::{ChainCore, Now};
use super::failpoint;
use super::recent::Recent;
use super::tree::{Node, NodeId};
use super::view::{ChainTip, TipStatus, View};
use crate::store::schema::{PutRows, flags};
use crate::store::{Batch, Column, Durability, StoreError};
use setara_core::codec;
use setara_core::consensus::BlockDelta;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a key and a seal add to a record.
const RECORD_HEAD_BYTES: usize = 32 + 4;
/// Least time between two lines about progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Changes that are not stored yet, but for those of coins and of the tree, which keep their own.
pub(super) struct Pending {
    bodies: BTreeMap<BlockHash, Vec<u8>>,
    undo: BTreeMap<BlockHash, Vec<u8>>,
    dropped: BTreeSet<BlockHash>,
    bytes: usize,
    /// Buckets that changed since the coins' rows were stored.
    buckets: BTreeSet<u8>,
    /// Whether the coins have moved since then.
    coins_moved: bool,
    /// Lowest height whose block has changed.
    lowest: Option<Height>,
    /// Height of the stored tip.
    stored: Height,
    /// Monotonic time of the last flush and of the last line about progress.
    flushed_at: Duration,
    told: (Duration, u32),
}

impl Pending {
    /// Nothing, above a stored tip.
    pub fn new(stored: Height, now: Now) -> Self {
        Self {
            bodies: BTreeMap::new(),
            undo: BTreeMap::new(),
            dropped: BTreeSet::new(),
            bytes: 0,
            buckets: BTreeSet::new(),
            coins_moved: false,
            lowest: None,
            stored,
            flushed_at: now.monotonic,
            told: (now.monotonic, stored.get()),
        }
    }

    pub fn put_body(&mut self, hash: BlockHash, bytes: Vec<u8>) {
        self.dropped.remove(&hash);
        self.bytes += bytes.len();
        self.bodies.insert(hash, bytes);
    }

    pub fn drop_body(&mut self, hash: BlockHash) {
        self.bodies.remove(&hash);
        self.dropped.insert(hash);
    }

    pub fn body(&self, hash: &BlockHash) -> Option<&Vec<u8>> {
        self.bodies.get(hash)
    }

    pub fn put_undo(&mut self, hash: BlockHash, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.undo.insert(hash, bytes);
    }

    pub fn undo(&self, hash: &BlockHash) -> Result<Option<BlockDelta>, StoreError> {
        let decode = |bytes: &Vec<u8>| codec::decode(bytes).map_err(|error| StoreError::corrupt(error.to_string()));
        self.undo.get(hash).map(decode).transpose()
    }

    pub fn touch_buckets(&mut self, buckets: impl Iterator<Item = u8>) {
        self.buckets.extend(buckets);
    }

    /// The block at `height` was connected or reverted.
    pub fn height_changed(&mut self, height: Height) {
        self.coins_moved = true;
        self.lowest = Some(self.lowest.map_or(height, |lowest| lowest.min(height)));
    }

    /// Moves bodies and undo records into `batch`.
    fn take_records(&mut self, batch: &mut Batch) {
        for hash in std::mem::take(&mut self.dropped) {
            batch.delete(Column::Bodies, hash.as_bytes());
        }
        batch.reserve(self.bytes + RECORD_HEAD_BYTES * (self.bodies.len() + self.undo.len()));
        for (hash, bytes) in std::mem::take(&mut self.bodies) {
            batch.put_body(&hash, &bytes);
        }
        for (hash, bytes) in std::mem::take(&mut self.undo) {
            batch.put_undo(&hash, &bytes);
        }
        self.bytes = 0;
    }

    const fn moved(&self) -> bool {
        self.lowest.is_some()
    }
}

/// What a batch stores of the coins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Their rows and the lattice as well.
    Coins,
    /// Nothing: the deltas say what becomes of them.
    Later,
}

impl ChainCore {
    /// Whether anything but the coins' rows is not stored yet.
    fn is_dirty(&self) -> bool {
        self.pending.moved() || self.pending.bytes > 0 || !self.pending.dropped.is_empty() || self.tree.has_dirty()
    }

    /// Stores everything but the coins' rows, and shows it to readers. After an error nothing may be written any more.
    pub fn flush(&mut self, now: Now) -> Result<(), ChainFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.is_dirty() || self.shared.view().tip.hash() != self.state.hash() {
            let waiting = self.recent.uncached_coins();
            let full = self.recent.is_full() || self.coins.is_owed(waiting) || self.coins.is_full_for(waiting);
            let rows = if full { Rows::Coins } else { Rows::Later };
            self.store_batch(rows, now)?;
            self.publish()?;
        }
        Ok(())
    }

    /// Stores the coins' rows, if they are behind the stored tip. Readers notice nothing.
    pub fn settle(&mut self) -> Result<(), ChainFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.pending.coins_moved && !self.pending.moved() {
            self.check_space()?;
            failpoint::pass(failpoint::BEFORE_COINS);
            let mut batch = Batch::new();
            self.put_coins(&mut batch)?;
            self.store.write(batch, Durability::Unsynced)?;
            failpoint::pass(failpoint::AFTER_COINS);
        }
        Ok(())
    }

    /// Stores everything in the middle of a load or reorganisation. Readers see it only if the tip is no step back.
    pub(super) fn flush_midway(&mut self, now: Now) -> Result<(), ChainFault> {
        self.store_changes(now)?;
        if self.state.header.work >= self.shared.view().tip.header.work {
            self.publish()?;
        }
        Ok(())
    }

    /// Stores everything, the coins' rows included.
    pub(super) fn store_changes(&mut self, now: Now) -> Result<(), ChainFault> {
        self.store_batch(Rows::Coins, now)
    }

    /// Stores what has changed in one synced batch.
    fn store_batch(&mut self, rows: Rows, now: Now) -> Result<(), ChainFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if !self.is_dirty() {
            return if rows == Rows::Coins { self.settle() } else { Ok(()) };
        }
        self.check_space()?;
        failpoint::pass(failpoint::BEFORE_FLUSH);
        let mut batch = Batch::new();
        // Small things first: the records are as large as the room that is made for them.
        self.put_headers(&mut batch);
        self.pending.take_records(&mut batch);
        if let Some(lowest) = self.pending.lowest.take() {
            for height in lowest.get()..=self.height().get() {
                let hash = self.tree.node(self.active[height as usize]).hash();
                batch.put_height(Height::new(height), Some(&hash));
            }
            for height in self.height().get() + 1..=self.pending.stored.get() {
                batch.put_height(Height::new(height), None);
            }
            batch.put_tip(&self.state);
            if let Some(pruned) = &self.pruned {
                batch.put_pruned(pruned);
            }
        }
        if rows == Rows::Coins {
            self.put_coins(&mut batch)?;
        }
        self.store.write(batch, Durability::Synced)?;
        failpoint::pass(failpoint::AFTER_FLUSH);
        self.pending.stored = self.height();
        self.pending.flushed_at = now.monotonic;
        Ok(())
    }

    /// Puts the coins' rows and the lattice into `batch`; the caller writes it, or the chain stops for good.
    fn put_coins(&mut self, batch: &mut Batch) -> Result<(), ChainFault> {
        if !std::mem::take(&mut self.pending.coins_moved) {
            return Ok(());
        }
        self.cache_recent()?;
        batch.append(self.verifier.pool().install(|| self.coins.drain()));
        for bucket in std::mem::take(&mut self.pending.buckets) {
            batch.put_bucket(bucket, &self.lattice);
        }
        batch.put_coins_tip(&self.state);
        self.recent = Recent::default();
        Ok(())
    }

    fn check_space(&self) -> Result<(), ChainFault> {
        self.options.space.as_ref().map_or(Ok(()), |space| Ok(space.check()?))
    }

    pub(super) fn put_headers(&mut self, batch: &mut Batch) {
        for id in self.tree.take_dirty() {
            batch.put_header(&self.tree.node(id).hash(), &self.tree.row(id));
        }
    }

    /// Stores and shows headers that came without bodies, if nothing else is to be stored: unsynced, as they can be
    /// fetched again. Amid a load they are stored by its next flush.
    pub(super) fn flush_headers(&mut self) -> Result<(), ChainFault> {
        let pending = &self.pending;
        if pending.moved() || pending.bytes > 0 || !pending.dropped.is_empty() || !self.tree.has_dirty() {
            return Ok(());
        }
        self.check_space()?;
        let mut batch = Batch::new();
        self.put_headers(&mut batch);
        self.store.write(batch, Durability::Unsynced)?;
        self.publish()
    }

    /// Flushes if the coins' changes have filled their share, or the interval is over; else writes ahead what has
    /// piled up. For the middle of loads and reorganisations.
    pub(super) fn flush_if_due(&mut self, now: Now) -> Result<(), ChainFault> {
        self.note_progress();
        self.tell_progress(now);
        let waited = now.monotonic.saturating_sub(self.pending.flushed_at);
        if self.coins.is_full_for(0) || waited >= self.flush_interval {
            return self.flush_midway(now);
        }
        if self.pending.bytes >= self.options.checked_bytes / 2 {
            self.check_space()?;
            let mut batch = Batch::new();
            self.put_headers(&mut batch);
            self.pending.take_records(&mut batch);
            self.store.write(batch, Durability::Unsynced)?;
            failpoint::pass(failpoint::AFTER_WRITE_AHEAD);
        }
        Ok(())
    }

    /// Flushes first if the block's coins might not fit beside the changes that are there.
    pub(super) fn make_space_for(&mut self, id: NodeId, now: Now) -> Result<(), ChainFault> {
        // A coin takes at least 33 bytes of a block, made or spent.
        let coins = self.tree.node(id).size as usize / 33;
        let waiting = self.recent.uncached_coins();
        if self.coins.dirty() + waiting > 0 && self.coins.is_full_for(coins + waiting) {
            self.flush_midway(now)?;
        }
        Ok(())
    }

    /// For whoever asks how far the writer is.
    fn note_progress(&self) {
        self.shared.height.store(self.height().get(), Ordering::Relaxed);
        self.shared.transactions.store(self.tree.node(self.tip_id()).chain_tx_count, Ordering::Relaxed);
        self.shared.coin_bytes.store(self.coins.bytes() as u64, Ordering::Relaxed);
    }

    fn tell_progress(&mut self, now: Now) {
        let (told_at, told) = self.pending.told;
        let height = self.height().get();
        if now.monotonic.saturating_sub(told_at) >= PROGRESS_INTERVAL {
            let node = self.tree.node(self.tip_id());
            let transactions = node.chain_tx_count;
            let blocks = height.abs_diff(told);
            tracing::info!(height, hash = %node.hash(), transactions, blocks, "verifying blocks");
            self.pending.told = (now.monotonic, height);
        }
    }

    /// Shows the stored state to readers.
    pub(super) fn publish(&mut self) -> Result<(), ChainFault> {
        if self.recent.is_incomplete() {
            self.settle()?;
        }
        self.sequence += 1;
        self.note_progress();
        let reader = self.store.snapshot()?;
        let (recent, tips, headers) = (self.recent.clone(), self.tips(), self.tree.reader());
        let stored = (self.pruned, self.snapshot);
        let view = View::new(self.state, self.sequence, self.network.clone(), reader, recent, tips, headers, stored);
        self.shared.publish(Arc::new(view));
        Ok(())
    }

    /// The ends of all branches, the active one first.
    pub(super) fn tips(&self) -> Vec<ChainTip> {
        let tip = self.tip_id();
        let leaves = self.tree.leaves().into_iter().filter(|leaf| *leaf != tip);
        std::iter::once(tip)
            .chain(leaves)
            .filter(|id| *id == tip || !self.is_active(*id))
            .map(|id| self.tip_of(id))
            .collect()
    }

    fn tip_of(&self, id: NodeId) -> ChainTip {
        let node = self.tree.node(id);
        let is_active = |node: &Node, id| self.active.get(node.height().get() as usize) == Some(&id);
        let fork = self.tree.node(self.tree.highest(id, is_active));
        let branch_length = node.height().get() - fork.height().get();
        let status = if branch_length == 0 {
            TipStatus::Active
        } else if node.is_bad() {
            TipStatus::Invalid
        } else if !node.is_complete() {
            TipStatus::HeadersOnly
        } else if node.has(flags::CONNECTED) {
            TipStatus::ValidFork
        } else {
            TipStatus::ValidHeaders
        };
        ChainTip { height: node.height(), hash: node.hash(), branch_length, status }
    }
}
