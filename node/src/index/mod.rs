//! Indexes over the chain: where a transaction stands, and what an address holds and did.
//!
//! ```text
//!  chain ──moved──► follower thread ──updates_since(cursor)──► rows + cursor, one batch ──► store
//!                   (one per index)                                                            │
//!  rpc ──► Indexes::view: a snapshot in which the index has reached the tip ◄──────────────────┘
//! ```
//!
//! Derived data: every row follows from bodies and undo records, so an index can be switched off, and built again
//! online. A follower pulls; it can be slow, never wrong: its rows and the block they reach to change in one batch.

mod addresses;
mod follower;
mod transactions;

pub use addresses::{AddressCoin, AddressTotals, HistoryRow};
pub use transactions::TxLocation;

use crate::chain::{ChainHandle, View};
use crate::store::{Reader, Store, StoreError, schema};
use addresses::AddressIndex;
use follower::{Follower, Shared};
use parking_lot::Mutex;
use setara_core::height::Height;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use transactions::TxIndex;

/// Bytes of changes in a batch while an index catches up, unless it is told less.
pub const BATCH_BYTES_MAX: usize = follower::BATCH_BYTES;

/// How far one index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexStatus {
    /// `txindex` or `addressindex`.
    pub name: &'static str,
    /// Whether it has reached the chain's tip.
    pub synced: bool,
    /// The height it has reached.
    pub best_height: Height,
    /// Why it has stopped, if it has.
    pub fault: Option<String>,
}

/// Why an index does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It did not reach the tip in time.
    #[error("{name} is still being built: height {at} of {tip}; ask again later")]
    Behind {
        /// Which index.
        name: &'static str,
        /// Reached.
        at: Height,
        /// The chain's tip.
        tip: Height,
    },
    /// It has stopped.
    #[error("{name} has stopped: {reason}")]
    Stopped {
        /// Which index.
        name: &'static str,
        /// Why.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Blocks that an index makes up for in moments: only that near the tip is it worth a wait.
const NEAR_BLOCKS: u32 = 16;

/// The height that an index had reached when it was last stopped; what cannot be read its follower deals with.
fn reached(store: &dyn Reader, name: &str) -> Height {
    let cursor = schema::cursor(store, name).ok().flatten();
    let row = cursor.and_then(|cursor| schema::header(store, &cursor).ok().flatten());
    row.map_or(Height::GENESIS, |row| row.height)
}

/// How far each index had come when it was last stopped.
pub fn progress(store: &dyn Reader) -> [(&'static str, Height); 2] {
    [transactions::NAME, addresses::NAME].map(|name| (name, reached(store, name)))
}

/// The running indexes.
pub struct Indexes {
    store: Arc<dyn Store>,
    chain: ChainHandle,
    followers: [Arc<Shared>; 2],
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Indexes {
    /// Starts both, from wherever they were.
    pub fn start(store: Arc<dyn Store>, chain: ChainHandle) -> io::Result<Self> {
        Self::start_within(store, chain, BATCH_BYTES_MAX)
    }

    /// The same, with so many bytes of changes in a batch while catching up.
    pub fn start_within(store: Arc<dyn Store>, chain: ChainHandle, batch_bytes: usize) -> io::Result<Self> {
        let reached = |name| reached(&*store as &dyn Reader, name);
        let transactions = Arc::new(Shared::new(transactions::NAME, reached(transactions::NAME)));
        let addresses = Arc::new(Shared::new(addresses::NAME, reached(addresses::NAME)));
        let threads = vec![
            Follower::spawn(TxIndex, transactions.clone(), store.clone(), chain.clone(), batch_bytes)?,
            Follower::spawn(AddressIndex, addresses.clone(), store.clone(), chain.clone(), batch_bytes)?,
        ];
        Ok(Self { store, chain, followers: [transactions, addresses], threads: Mutex::new(threads) })
    }

    /// How far each is.
    pub fn statuses(&self) -> Vec<IndexStatus> {
        let tip = self.chain.view().tip.height();
        let status = |shared: &Arc<Shared>| {
            let best_height = shared.height();
            let fault = shared.fault();
            IndexStatus { name: shared.name, synced: fault.is_none() && best_height >= tip, best_height, fault }
        };
        self.followers.iter().map(status).collect()
    }

    /// The chain at one moment at which every index has reached its tip; waits for that at most `timeout`, and not at
    /// all for an index that has far to go.
    pub fn view(&self, timeout: Duration) -> Result<IndexView, IndexError> {
        let mut seen = self.followers.each_ref().map(|shared| shared.moved());
        let mut left = timeout;
        loop {
            let reader = self.store.snapshot()?;
            let view = self.chain.view().at(reader)?;
            let Some((shared, seen)) = self.first_behind(&view, &mut seen)? else {
                let readers = self.followers.each_ref().map(|shared| (shared.clone(), shared.rebuilds()));
                return Ok(IndexView { view, readers });
            };
            if let Some(reason) = shared.fault() {
                return Err(IndexError::Stopped { name: shared.name, reason });
            }
            let (at, tip) = (shared.height(), view.tip.height());
            let is_far = tip.blocks_since(at).is_some_and(|blocks| blocks > NEAR_BLOCKS);
            if left.is_zero() || is_far {
                return Err(IndexError::Behind { name: shared.name, at, tip });
            }
            let waited = shared.wait_past(*seen, left);
            *seen = shared.moved();
            left = left.saturating_sub(waited);
        }
    }

    fn first_behind<'a, 'b>(
        &'a self,
        view: &View,
        seen: &'b mut [u64; 2],
    ) -> Result<Option<(&'a Shared, &'b mut u64)>, StoreError> {
        for (shared, seen) in self.followers.iter().zip(seen) {
            if schema::cursor(&**view.reader(), shared.name)? != Some(view.tip.hash()) {
                return Ok(Some((shared, seen)));
            }
        }
        Ok(None)
    }

    /// Stops the threads; what they have done is kept.
    pub fn stop(&self) {
        for shared in &self.followers {
            shared.stop();
        }
        for thread in self.threads.lock().drain(..) {
            // A follower's panic has been reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Indexes {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The chain and its indexes at one moment.
pub struct IndexView {
    /// The chain.
    pub view: View,
    /// Whom to tell of damage, and how often each had been rebuilt.
    readers: [(Arc<Shared>, u32); 2],
}

impl IndexView {
    /// What was read from an index; its follower hears of damage.
    fn read<T>(&self, name: &str, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            for (shared, rebuilds) in self.readers.iter().filter(|(shared, _)| shared.name == name) {
                shared.found_damaged(error, *rebuilds);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
