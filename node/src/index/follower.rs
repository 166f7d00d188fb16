//! The thread that keeps one index in step with the chain.
//!
//! An index whose own rows turn out to be damaged is deleted and built anew from genesis, online, once in a run: all of
//! it follows from the chain. Damage a second time, or of the chain itself, stops it.

use super::{addresses, transactions};
use crate::chain::{ChainHandle, View, failpoint};
use crate::store::schema::{self, PutRows};
use crate::store::{Batch, Column, Direction, Durability, Store, StoreError};
use parking_lot::{Condvar, Mutex};
use setara_core::block::Block;
use setara_core::consensus::BlockDelta;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of changes gathered before they are written, at most: one batch for many blocks while catching up. The longer it
/// is, the nearer its keys are to each other, and the more coins are spent in the batch that makes them.
pub(super) const BATCH_BYTES: usize = 16 << 20;
/// Most time between two looks for news or a stop.
const WAIT: Duration = Duration::from_millis(500);
/// Time between two lines of progress while catching up.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Rows deleted in one batch when an index is emptied.
const CLEAR_ROWS: usize = 10_000;

/// Why a follower cannot go on.
enum Trouble {
    /// What the index itself has stored.
    Index(StoreError),
    /// The chain, or the store as a whole.
    Other(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

/// A block and what connecting it changed.
pub(super) struct Step<'a> {
    pub hash: BlockHash,
    pub block: &'a Block,
    pub delta: &'a BlockDelta,
}

/// What an index does with a block. Rows only: the cursor and the batch are the follower's.
pub(super) trait Index: Send + Sync + 'static {
    /// Where its rows are, and nobody else's.
    const COLUMN: Column;
    /// Whether rows of this key are only ever put where there is none.
    fn is_unique(key: &[u8]) -> bool;
    /// Adds what `step` brings.
    fn apply(&self, rows: &mut Rows<'_>, step: &Step<'_>) -> Result<(), StoreError>;
    /// Takes back what `step` brought.
    fn revert(&self, rows: &mut Rows<'_>, step: &Step<'_>) -> Result<(), StoreError>;
}

impl Index for transactions::TxIndex {
    const COLUMN: Column = Column::TxIndex;

    fn is_unique(_: &[u8]) -> bool {
        true
    }

    fn apply(&self, rows: &mut Rows<'_>, step: &Step<'_>) -> Result<(), StoreError> {
        self.apply_block(rows, step);
        Ok(())
    }

    fn revert(&self, rows: &mut Rows<'_>, step: &Step<'_>) -> Result<(), StoreError> {
        self.revert_block(rows, step);
        Ok(())
    }
}

impl Index for addresses::AddressIndex {
    const COLUMN: Column = Column::AddressIndex;

    fn is_unique(key: &[u8]) -> bool {
        addresses::is_unique(key)
    }

    fn apply(&self, rows: &mut Rows<'_>, step: &Step<'_>) -> Result<(), StoreError> {
        self.apply_block(rows, step)
    }

    fn revert(&self, rows: &mut Rows<'_>, step: &Step<'_>) -> Result<(), StoreError> {
        self.revert_block(rows, step)
    }
}

/// A batch in the making, and totals read once and written once.
pub(super) struct Rows<'a> {
    pub batch: Batch,
    pub store: &'a dyn Store,
    pub totals: addresses::TotalsCache,
}

impl<'a> Rows<'a> {
    fn new(store: &'a dyn Store) -> Self {
        Self { batch: Batch::new(), store, totals: addresses::TotalsCache::default() }
    }

    /// The whole batch, with these rows' cursor; these rows are then those after it.
    fn take<I: Index>(&mut self, name: &str, cursor: BlockHash) -> Batch {
        self.totals.write(&mut self.batch);
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort(I::is_unique);
        batch.put_cursor(name, Some(&cursor));
        self.totals = std::mem::take(&mut self.totals).successor();
        batch
    }
}

/// What a follower tells the rest.
pub(super) struct Shared {
    pub name: &'static str,
    height: AtomicU32,
    stopping: AtomicBool,
    /// Batches written.
    moved: Mutex<u64>,
    changed: Condvar,
    fault: Mutex<Option<String>>,
    /// Damage that a reader has found, for the follower to act on.
    damage: Mutex<Option<StoreError>>,
    /// Times it was emptied to be built anew.
    rebuilds: AtomicU32,
}

impl Shared {
    pub fn new(name: &'static str, reached: Height) -> Self {
        Self {
            name,
            height: AtomicU32::new(reached.get()),
            stopping: AtomicBool::new(false),
            moved: Mutex::new(0),
            changed: Condvar::new(),
            fault: Mutex::new(None),
            damage: Mutex::new(None),
            rebuilds: AtomicU32::new(0),
        }
    }

    pub fn height(&self) -> Height {
        Height::new(self.height.load(Ordering::Relaxed))
    }

    pub fn moved(&self) -> u64 {
        *self.moved.lock()
    }

    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Times it was emptied to be built anew.
    pub fn rebuilds(&self) -> u32 {
        self.rebuilds.load(Ordering::SeqCst)
    }

    /// A reader could not read what was written, in rows as of so many rebuilds.
    pub fn found_damaged(&self, error: &StoreError, rebuilds: u32) {
        if matches!(error, StoreError::Corrupt { .. }) && rebuilds == self.rebuilds() {
            self.damage.lock().get_or_insert_with(|| error.clone());
        }
    }

    /// Waits until another batch than number `seen` is written, at most `timeout`; how long that took.
    pub fn wait_past(&self, seen: u64, timeout: Duration) -> Duration {
        let start = Instant::now();
        let mut moved = self.moved.lock();
        while *moved <= seen {
            if self.changed.wait_until(&mut moved, start + timeout).timed_out() {
                return timeout;
            }
        }
        start.elapsed()
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn advance(&self, height: Height) {
        self.height.store(height.get(), Ordering::Relaxed);
        *self.moved.lock() += 1;
        self.changed.notify_all();
    }

    fn fail(&self, reason: String) {
        tracing::error!(index = self.name, reason, "the index has stopped");
        *self.fault.lock() = Some(reason);
        *self.moved.lock() += 1;
        self.changed.notify_all();
    }
}

pub(super) struct Follower<I> {
    index: I,
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    chain: ChainHandle,
    batch_bytes: usize,
}

impl<I: Index> Follower<I> {
    pub fn spawn(
        index: I,
        shared: Arc<Shared>,
        store: Arc<dyn Store>,
        chain: ChainHandle,
        batch_bytes: usize,
    ) -> io::Result<JoinHandle<()>> {
        let name = shared.name;
        let follower = Self { index, shared, store, chain, batch_bytes };
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let shared = follower.shared.clone();
            match catch_unwind(AssertUnwindSafe(|| follower.run())) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => shared.fail(error.to_string()),
                Err(_) => shared.fail("a bug: its thread panicked".to_owned()),
            }
        })
    }

    fn run(&self) -> Result<(), StoreError> {
        let mut waits = false;
        while !self.shared.stopping() {
            let view = self.chain.view();
            let found = self.shared.damage.lock().take();
            let outcome = found.map_or(Ok(()), |error| Err(Trouble::Index(error))).and_then(|()| self.catch_up(&view));
            match outcome {
                Ok(()) => waits = false,
                // What is pruned cannot be read again: then the index is as it is.
                Err(Trouble::Index(error @ StoreError::Corrupt { .. }))
                    if self.shared.rebuilds() == 0 && view.pruned().is_none() =>
                {
                    self.forget(&error)?;
                    continue;
                }
                // A damaged block, which peers are asked for.
                Err(Trouble::Other(error)) if self.chain.headers().has_lost() => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::warn!(index = self.shared.name, %error, "the index waits for a damaged block");
                    }
                }
                Err(Trouble::Index(error) | Trouble::Other(error)) => return Err(error),
            }
            self.chain.wait_past(view.info().sequence, WAIT);
        }
        Ok(())
    }

    /// Gives up what is stored; without a cursor the next step begins anew.
    fn forget(&self, reason: &StoreError) -> Result<(), StoreError> {
        let index = self.shared.name;
        tracing::error!(index, %reason, "the index is damaged: it is deleted and built anew, the chain is not touched");
        let mut batch = Batch::new();
        batch.put_cursor(index, None);
        self.store.write(batch, Durability::Synced)?;
        self.shared.rebuilds.fetch_add(1, Ordering::SeqCst);
        // Found before it was given up.
        *self.shared.damage.lock() = None;
        self.shared.advance(Height::GENESIS);
        Ok(())
    }

    /// Deletes every row, batch by batch; whether that came to its end.
    fn clear(&self) -> Result<bool, StoreError> {
        let mut from = Vec::new();
        loop {
            if self.shared.stopping() {
                return Ok(false);
            }
            let mut batch = Batch::new();
            for row in self.store.iterate(I::COLUMN, &from, Direction::Forward).take(CLEAR_ROWS) {
                let (key, _) = row?;
                batch.delete(I::COLUMN, &key);
                from = key;
            }
            if batch.is_empty() {
                return Ok(true);
            }
            self.store.write(batch, Durability::Unsynced)?;
        }
    }

    /// Brings the index to `view`'s tip, batch by batch: one is written while the next is put together.
    fn catch_up(&self, view: &View) -> Result<(), Trouble> {
        let cursor = match schema::cursor(&*self.store, self.shared.name).map_err(Trouble::Index)? {
            Some(cursor) => cursor,
            None if view.pruned().is_some() => return Err(self.pruned(view).into()),
            // What an interrupted clearing has left must not be counted twice.
            None if !self.clear()? => return Ok(()),
            None => self.begin(view)?,
        };
        self.report_height(view, cursor)?;
        if view.updates_since(cursor)?.is_empty() {
            return Ok(());
        }
        std::thread::scope(|scope| {
            // No place between the two: when a batch is taken, the one before it is written.
            let (sender, batches) = mpsc::sync_channel::<(Batch, BlockHash)>(0);
            let writer = scope.spawn(move || -> Result<(), Trouble> {
                for (batch, cursor) in batches {
                    self.write(batch)?;
                    self.report_height(view, cursor)?;
                }
                Ok(())
            });
            let built = self.build(view, cursor, &sender);
            drop(sender);
            writer.join().unwrap_or_else(|panic| resume_unwind(panic)).and(built)
        })
    }

    /// Puts batches together, up to `view`'s tip or until the writer has failed.
    fn build(
        &self,
        view: &View,
        mut cursor: BlockHash,
        writer: &SyncSender<(Batch, BlockHash)>,
    ) -> Result<(), Trouble> {
        let mut spoken = Instant::now();
        let mut rows = Rows::new(&*self.store);
        loop {
            let updates = view.updates_since(cursor)?;
            if updates.is_empty() {
                return Ok(());
            }
            let reverts = updates.revert.iter().map(|hash| (hash, false));
            for (hash, forward) in reverts.chain(updates.apply.iter().map(|hash| (hash, true))) {
                if self.shared.stopping() {
                    return Ok(());
                }
                let (block, delta) = self.step(view, hash)?;
                let step = Step { hash: *hash, block: &block, delta: &delta };
                if forward {
                    self.index.apply(&mut rows, &step).map_err(Trouble::Index)?;
                    cursor = *hash;
                } else {
                    self.index.revert(&mut rows, &step).map_err(Trouble::Index)?;
                    cursor = block.header.previous;
                }
                if rows.batch.size() >= self.batch_bytes
                    && writer.send((rows.take::<I>(self.shared.name, cursor), cursor)).is_err()
                {
                    return Ok(());
                }
            }
            if writer.send((rows.take::<I>(self.shared.name, cursor), cursor)).is_err() {
                return Ok(());
            }
            if spoken.elapsed() >= PROGRESS_INTERVAL {
                spoken = Instant::now();
                let (height, tip) = (self.shared.height().get(), view.tip.height().get());
                tracing::info!(index = self.shared.name, height, tip, "building the index");
            }
        }
    }

    /// The first block of every chain, which has no undo record of its own making.
    fn begin(&self, view: &View) -> Result<BlockHash, StoreError> {
        let network = view.network();
        let hash = network.genesis_hash();
        let step = Step { hash, block: network.genesis(), delta: &BlockDelta::genesis(network) };
        let mut rows = Rows::new(&*self.store);
        self.index.apply(&mut rows, &step)?;
        self.write(rows.take::<I>(self.shared.name, hash))?;
        Ok(hash)
    }

    fn step(&self, view: &View, hash: &BlockHash) -> Result<(Block, BlockDelta), StoreError> {
        let missing = |what| match view.pruned() {
            Some(_) => self.pruned(view),
            None => StoreError::corrupt(format!("the {what} of block {hash} is missing")),
        };
        let block = view.block(hash)?.ok_or_else(|| missing("body"))?;
        let delta = view.undo(hash)?.ok_or_else(|| missing("undo record"))?;
        Ok((block, delta))
    }

    /// It has to read what is no longer there.
    fn pruned(&self, view: &View) -> StoreError {
        let from = view.bodies_from();
        StoreError::Pruned(format!(
            "it needs blocks that were pruned: bodies are here from height {from} on. Run with --no-index, or move the \
             data directory away and sync anew"
        ))
    }

    /// Rows and cursor together. Unsynced: what a power cut takes back is built again.
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        failpoint::pass(failpoint::BEFORE_INDEX);
        self.store.write(batch, Durability::Unsynced)?;
        failpoint::pass(failpoint::AFTER_INDEX);
        Ok(())
    }

    fn report_height(&self, view: &View, cursor: BlockHash) -> Result<(), Trouble> {
        let unknown = || StoreError::corrupt(format!("block {cursor} of {}", self.shared.name));
        let row = view.header(&cursor)?.ok_or_else(|| Trouble::Index(unknown()))?;
        self.shared.advance(row.height);
        Ok(())
    }
}
