//! The mempool: unconfirmed transactions that would be valid in the next block, worth relaying, and fit in memory.
//!
//! ```text
//!  rpc, peers ─► submit ─┬─ policy    size, stated fee, rules of the transaction alone      no lock
//!                        ├─ admit     coins exist and match, policy hash, locks             lock, then one read
//!                        ├─ admit     signatures, in batches on all cores                   no lock
//!                        └─ admit     replacement, cluster limits, entering, eviction       lock
//!  chain ──────► follow      pull: revert, apply, re-check, re-admit                        lock
//!                            │
//!                          graph ─► best_first: block templates    worst: eviction          query: rpc
//! ```
//!
//! Guarantees: every entry is valid in a block on top of [`Selection::view`]'s tip together with its unconfirmed
//! ancestors; memory stays below `max_bytes`, overheads counted; work per transaction is bounded and the dear part,
//! signatures, comes last. What it holds never decides about a block: only the fact that a wtxid's signatures are
//! valid leaves it ([`KnownSignatures`]).
//!
//! [`KnownSignatures`]: crate::chain::KnownSignatures

mod admit;
mod announce;
mod arrange;
mod coins;
mod error;
mod estimate;
pub mod feerate;
mod floor;
mod follow;
mod graph;
mod linearize;
mod package;
mod persist;
mod policy;
mod query;
mod replace;
mod weight;

#[cfg(test)]
pub(crate) mod tests;

pub use admit::Accepted;
pub use announce::{Additions, Moment};
pub use arrange::{CLUSTER_BYTES_MAX, ClusterLimit};
pub use error::{MempoolError, Refusal};
pub use estimate::{TARGET_MAX, TARGET_MIN};
pub use linearize::CLUSTER_TRANSACTIONS_MAX;
pub use package::{PACKAGE_TRANSACTIONS_MAX, PackageError, PackageVerdicts};
pub use persist::{Loaded, PersistError};
pub use policy::{Options, REPLACED_CLUSTERS_MAX, TRANSACTION_BYTES_MAX};
pub use query::{EntryInfo, Estimate, Info, Selected, Selection};

use crate::chain::{ChainHandle, KnownSignatures, View};
use crate::clock::Clock;
use announce::AdditionLog;
use estimate::Estimator;
use floor::RollingFloor;
use graph::{Entry, Graph, Id};
use parking_lot::Mutex;
use setara_core::network::Network;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Unconfirmed transactions. Shared; every method takes `&self`, and none may be called from the chain's thread.
pub struct Mempool {
    network: Arc<Network>,
    clock: Arc<dyn Clock>,
    chain: ChainHandle,
    known: Arc<KnownSignatures>,
    options: Options,
    /// One follower at a time, so that the view only ever moves on.
    following: Mutex<()>,
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    work: Work,
}

/// How much dear work was done: for metrics, and for tests of what a flood can cost.
#[derive(Debug, Default)]
pub struct Work {
    /// Coins asked of the store.
    pub coins_read: AtomicU64,
    /// Signatures handed to the curve.
    pub signatures_checked: AtomicU64,
    /// Steps taken to order clusters.
    pub cluster_steps: AtomicU64,
}

impl Work {
    fn count(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// Why an entry leaves, as far as anything depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// Mined at this height.
    Mined(u32),
    /// For any other reason.
    Unmined,
    /// Only to be judged anew.
    Displaced,
}

struct Inner {
    /// The chain as every entry was judged against it.
    view: Arc<View>,
    graph: Graph,
    floor: RollingFloor,
    estimator: Estimator,
    /// Goes up with every change.
    sequence: u64,
    /// No entry came before this Unix time.
    oldest: u64,
    /// What entered lately, for those who relay it.
    additions: AdditionLog,
}

impl Inner {
    fn tip_height(&self) -> u32 {
        self.view.tip.height().get()
    }

    /// Takes entries out and tells the estimator.
    fn remove(&mut self, ids: &BTreeSet<Id>, leave: impl Fn(Id) -> Leave) -> Vec<Entry> {
        if ids.is_empty() {
            return Vec::new();
        }
        let removed = self.graph.remove(ids);
        self.sequence += 1;
        let height = self.tip_height();
        for (entry, id) in removed.iter().zip(ids) {
            self.forget(entry, leave(*id), height);
        }
        removed
    }

    fn forget(&mut self, entry: &Entry, leave: Leave, height: u32) {
        if entry.watched {
            let (feerate, entered) = (entry.feerate(), entry.tip_height.get());
            match leave {
                Leave::Mined(mined) => self.estimator.mined(feerate, entered, mined),
                Leave::Unmined => self.estimator.left(feerate, entered, height),
                Leave::Displaced => self.estimator.forget(feerate, entered),
            }
        }
    }

    /// Gives up what pays least until all fits, and raises the floor above it.
    fn trim(&mut self, options: &Options) {
        while self.graph.usage() > options.max_bytes {
            let Some((feerate, chunk)) = self.graph.worst() else { return };
            let ids = chunk.iter().copied().collect();
            self.floor.raise(feerate, options.increment);
            self.remove(&ids, |_| Leave::Unmined);
        }
    }

    /// Gives up what has waited too long, with all that depends on it.
    fn expire(&mut self, options: &Options, now: u64) {
        let expired = |time: u64| time.saturating_add(options.expiry_seconds) < now;
        if self.graph.is_empty() || !expired(self.oldest) {
            return;
        }
        let old = self.graph.iter().filter(|(_, entry)| expired(entry.time)).map(|(id, _)| id);
        let ids = self.graph.with_descendants(old.collect::<Vec<_>>());
        self.remove(&ids, |_| Leave::Unmined);
        self.oldest = self.graph.iter().map(|(_, entry)| entry.time).min().unwrap_or(now);
    }
}

impl Mempool {
    /// Empty, at the chain's tip.
    pub fn new(
        network: Arc<Network>,
        clock: Arc<dyn Clock>,
        chain: ChainHandle,
        known: Arc<KnownSignatures>,
        options: Options,
    ) -> Self {
        let inner = Inner {
            view: chain.view(),
            graph: Graph::default(),
            floor: RollingFloor::default(),
            estimator: Estimator::default(),
            sequence: 0,
            oldest: u64::MAX,
            additions: AdditionLog::default(),
        };
        let (changes, _) = watch::channel(0);
        let (following, work) = (Mutex::new(()), Work::default());
        Self { network, clock, chain, known, options, following, inner: Mutex::new(inner), changes, work }
    }

    /// What the operator set.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Dear work done so far.
    pub const fn work(&self) -> &Work {
        &self.work
    }

    /// Wakes whenever the mempool has changed; the value is [`Info::sequence`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Lets waiters see what was changed under the lock that the caller still holds.
    fn publish(&self, inner: &mut Inner) {
        Work::count(&self.work.cluster_steps, std::mem::take(&mut inner.graph.steps));
        let sequence = inner.sequence;
        self.changes.send_if_modified(|seen| std::mem::replace(seen, sequence) != sequence);
    }
}
