//! What decides when old blocks go: `--prune`, `--max-disk` and the `pruneblockchain` call.
//!
//! ```text
//!  every second ─► too much? ─► chain: one atomic step after another ─► store: give the room back
//! ```
//!
//! Blocks that an index has not read yet stay. What goes at a time is a sixteenth of the limit or more, so that the room is
//! given back seldom. Here is no rule of what must stay for the chain's own sake; that is the chain's (`chain/prune.rs`).

use crate::chain::{ChainHandle, PruneGoal, SubmitError};
use crate::index::Indexes;
use crate::store::Store;
use parking_lot::Mutex;
use setara_core::height::Height;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two complaints that the limit cannot be kept.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(3_600);
/// How long whoever reads an older state of the chain is waited for, and between two looks.
const RECLAIM_PATIENCE: Duration = Duration::from_secs(5);
const RECLAIM_INTERVAL: Duration = Duration::from_millis(50);
/// Parts of a limit: bodies go once less than one is free, until two are.
const PARTS: u64 = 16;

/// When blocks are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneMode {
    /// When a caller says so.
    Manual,
    /// When bodies take more than so many bytes.
    Bodies(u64),
}

/// Limits on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneLimits {
    /// What `--prune` says.
    pub mode: Option<PruneMode>,
    /// What `--max-disk` says: bytes of the whole database.
    pub disk: Option<u64>,
}

impl PruneLimits {
    /// Whether anything is ever deleted.
    pub const fn is_on(&self) -> bool {
        self.mode.is_some() || self.disk.is_some()
    }

    /// Whether blocks go by themselves.
    pub const fn is_automatic(&self) -> bool {
        matches!(self.mode, Some(PruneMode::Bodies(_))) || self.disk.is_some()
    }

    /// The least limit, in bytes.
    pub fn target(&self) -> Option<u64> {
        let bodies = match self.mode {
            Some(PruneMode::Bodies(bytes)) => Some(bytes),
            Some(PruneMode::Manual) | None => None,
        };
        [bodies, self.disk].into_iter().flatten().min()
    }
}

/// Why a caller's wish was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PruneError {
    /// The chain did not take it.
    #[error(transparent)]
    Chain(#[from] SubmitError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// Deletes old blocks.
pub struct Pruner {
    limits: PruneLimits,
    chain: ChainHandle,
    store: Arc<dyn Store>,
    indexes: Option<Arc<Indexes>>,
    disk_bytes: Box<dyn Fn() -> u64 + Send + Sync>,
    complained: Mutex<Option<Instant>>,
    /// Whether room is to be given back.
    due: AtomicBool,
}

impl Pruner {
    /// One that keeps to `limits`; `disk_bytes` measures the whole database.
    pub fn new(
        limits: PruneLimits,
        chain: ChainHandle,
        store: Arc<dyn Store>,
        indexes: Option<Arc<Indexes>>,
        disk_bytes: Box<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        // A crash after a deletion may have come before its room was given back.
        let due = AtomicBool::new(chain.view().pruned().is_some());
        Self { limits, chain, store, indexes, disk_bytes, complained: Mutex::new(None), due }
    }

    /// What it keeps to.
    pub const fn limits(&self) -> &PruneLimits {
        &self.limits
    }

    /// The thread that deletes blocks by itself, or only gives room back that a caller made.
    pub fn spawn(self: &Arc<Self>, stop: impl Fn() -> bool + Send + 'static) -> io::Result<JoinHandle<()>> {
        let pruner = self.clone();
        std::thread::Builder::new().name("prune".to_owned()).spawn(move || {
            let mut seen = 0;
            while !stop() {
                if let Err(error) = pruner.keep(&stop) {
                    match error {
                        PruneError::Chain(SubmitError::Stopping) => {}
                        error => tracing::error!(%error, "old blocks cannot be deleted"),
                    }
                }
                seen = pruner.chain.wait_past(seen, INTERVAL);
            }
        })
    }

    /// Highest block that every index has read; all, without indexes.
    fn limit(&self) -> Height {
        let reached = self.indexes.iter().flat_map(|indexes| indexes.statuses()).map(|status| status.best_height);
        reached.min().unwrap_or(Height::new(u32::MAX))
    }

    /// Deletes what is too much, if anything.
    pub fn keep(&self, stop: &dyn Fn() -> bool) -> Result<(), PruneError> {
        self.reclaim(Instant::now(), stop)?;
        if let Some(PruneMode::Bodies(most)) = self.limits.mode {
            let part = most / PARTS;
            if self.chain.headers().body_bytes() > most - part {
                self.carry_out(PruneGoal::Bytes(most - 2 * part), stop)?;
            }
        }
        if let Some(most) = self.limits.disk {
            let part = most / PARTS;
            let taken = (self.disk_bytes)();
            if let Some(excess) = taken.checked_sub(most - part).filter(|excess| *excess > 0) {
                let bodies = self.chain.headers().body_bytes();
                let blocks = self.carry_out(PruneGoal::Bytes(bodies.saturating_sub(excess + part)), stop)?;
                let left = (self.disk_bytes)();
                if blocks == 0 && left > most {
                    self.complain(left, most);
                }
            }
        }
        Ok(())
    }

    /// All steps to a goal, then the room is given back; how many bodies went.
    fn carry_out(&self, goal: PruneGoal, stop: &dyn Fn() -> bool) -> Result<u32, PruneError> {
        let (mut blocks, mut moved) = (0, false);
        let started = Instant::now();
        let before = self.chain.view().pruned();
        loop {
            let report = self.chain.prune(goal, self.limit())?;
            blocks += report.blocks;
            moved |= report.pruned != before;
            if !report.more || stop() {
                break;
            }
        }
        if moved {
            self.due.store(true, Ordering::SeqCst);
            self.reclaim(started + RECLAIM_PATIENCE, stop)?;
            let view = self.chain.view();
            let seconds = started.elapsed().as_secs_f32();
            tracing::info!(blocks, bodies_from = view.bodies_from().get(), seconds, "old blocks were deleted");
        }
        Ok(blocks)
    }

    /// Gives the room back, once nobody reads the chain as it was any more; if that is not so by `until`, later.
    fn reclaim(&self, until: Instant, stop: &dyn Fn() -> bool) -> Result<(), PruneError> {
        while self.due.load(Ordering::SeqCst) {
            if self.store.reclaim()? {
                self.due.store(false, Ordering::SeqCst);
            } else if Instant::now() >= until || stop() {
                break;
            } else {
                let seen = self.chain.view().info().sequence;
                self.chain.wait_past(seen, RECLAIM_INTERVAL);
            }
        }
        Ok(())
    }

    fn complain(&self, bytes: u64, most: u64) {
        let mut complained = self.complained.lock();
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            *complained = Some(Instant::now());
            tracing::warn!(
                bytes,
                most,
                "the database is larger than --max-disk, and no more old blocks may go: coins, headers, indexes, undo \
                 data of 10,000 blocks and the newest 288 blocks always stay"
            );
        }
    }

    /// Deletes every body up to and including `height`, as far as that may be.
    pub fn prune_through(&self, height: Height) -> Result<(), PruneError> {
        let below = Height::new(height.get().saturating_add(1));
        self.carry_out(PruneGoal::Below(below), &|| false).map(|_| ())
    }
}
