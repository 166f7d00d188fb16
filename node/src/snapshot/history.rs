//! Verifying the history behind a snapshot: a second chain, from genesis to the snapshot's base, with its own coins.
//!
//! ```text
//!  headers of the first chain, up to the base ─► second chain ◄─ bodies (p2p/brain/history.rs)
//!                                                    │ at the base: are its coins the snapshot's?
//!                                                    ▼
//!                               first chain: "verified", or a fault that stops the node
//! ```
//!
//! It judges every block by every rule, signatures included, as any chain does, and deletes its bodies as it goes. Its
//! store is a folder of its own that goes when it is done.

use crate::chain::{ChainFault, ChainHandle, PruneGoal, SubmitError};
use crate::store::schema::{SnapshotRow, SnapshotStage};
use crate::store::{Store, StoreError};
use setara_core::height::Height;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Headers handed over at a time.
const HEADERS_STEP: u32 = 2_000;
/// Bodies kept, in bytes, before the old ones go.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// Time between two looks, and between two lines in the log.
const INTERVAL: Duration = Duration::from_secs(1);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(60);

/// Opens the second chain over its store, which is then empty or as it was left.
pub type OpenChain = dyn Fn() -> Result<(Arc<dyn Store>, ChainHandle), ChainFault> + Send + Sync;

/// Who verifies.
pub struct History {
    chain: ChainHandle,
    open: Box<OpenChain>,
    /// Deletes the store; it has been closed.
    remove: Box<dyn Fn() + Send + Sync>,
}

impl History {
    /// For `chain`; nothing is opened before there is something to verify.
    pub fn new(chain: ChainHandle, open: Box<OpenChain>, remove: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { chain, open, remove }
    }

    /// The thread that waits for a snapshot and verifies what is behind it.
    pub fn spawn(self, stop: impl Fn() -> bool + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("history".to_owned()).spawn(move || {
            let mut seen = 0;
            while !stop() {
                let stage = self.chain.view().snapshot().map(|row| row.stage);
                match stage {
                    Some(SnapshotStage::Unverified) => {
                        if let Err(error) = self.verify(&stop) {
                            tracing::error!(%error, "the history behind the snapshot cannot be verified");
                            return;
                        }
                        if self.chain.fault().is_some() {
                            return;
                        }
                    }
                    Some(SnapshotStage::Verified) => return,
                    Some(SnapshotStage::Loading) | None => seen = self.chain.wait_past(seen, INTERVAL),
                }
            }
        })
    }

    /// Until all is verified, wrong, or `stop`.
    fn verify(&self, stop: &dyn Fn() -> bool) -> Result<(), ChainFault> {
        let Some(verification) = Verification::begin(&self.chain, &self.open, stop)? else { return Ok(()) };
        match follow(&verification, stop) {
            Ok(Some(outcome)) => {
                if verification.finish(&self.chain, outcome) {
                    (self.remove)();
                }
                Ok(())
            }
            unfinished => {
                verification.end(&self.chain);
                unfinished.map(drop)
            }
        }
    }
}

/// What came of it; `None` when it was stopped before.
fn follow(verification: &Verification, stop: &dyn Fn() -> bool) -> Result<Option<Outcome>, ChainFault> {
    let (mut seen, mut told) = (0, Instant::now());
    while !stop() {
        if let Some(outcome) = verification.look()? {
            return Ok(Some(outcome));
        }
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            let height = verification.history.progress().height.get();
            tracing::info!(height, base = verification.row.base.get(), "verifying the history behind the snapshot");
        }
        seen = verification.history.wait_past(seen, INTERVAL);
    }
    Ok(None)
}

/// Whether the history gives the snapshot's coins, or what is wrong with it.
pub type Outcome = Result<(), String>;

/// A verification under way. Whoever holds it looks at it now and then: a thread, or the simulator.
pub struct Verification {
    store: Arc<dyn Store>,
    history: ChainHandle,
    row: SnapshotRow,
}

impl Verification {
    /// Opens the second chain and gives it the headers; `None` if `chain` began with no snapshot, or when stopped.
    pub fn begin(chain: &ChainHandle, open: &OpenChain, stop: &dyn Fn() -> bool) -> Result<Option<Self>, ChainFault> {
        let Some(row) = chain.view().snapshot() else { return Ok(None) };
        let (store, history) = open()?;
        tracing::info!(base = row.base.get(), "verifying the history behind the snapshot");
        let verification = Self { store, history, row };
        match give_headers(chain, &verification.history, row.base, stop) {
            Ok(true) => {
                chain.set_history(Some(verification.history.clone()));
                Ok(Some(verification))
            }
            unfinished => {
                verification.end(chain);
                unfinished.map(|_| None)
            }
        }
    }

    /// What has come of it, if anything has yet. Deletes old bodies.
    pub fn look(&self) -> Result<Option<Outcome>, ChainFault> {
        let (history, row) = (&self.history, &self.row);
        let view = history.view();
        if let Some(fault) = history.fault() {
            return Err(ChainFault::Damaged(format!("in the folder of the history: {fault}")));
        }
        if view.tip.hash() == row.hash {
            let right = view.tip.coins_root == row.root;
            let wrong = || format!("the coins after its base, block {}, are others", row.hash);
            return Ok(Some(if right { Ok(()) } else { Err(wrong()) }));
        }
        if history.headers().get(&row.hash).is_none_or(|known| known.bad) {
            let height = view.tip.height().get() + 1;
            return Ok(Some(Err(format!("block {height} breaks a rule"))));
        }
        if history.headers().body_bytes() > BODY_BYTES_MAX {
            drop(view);
            prune(&*self.store, history)?;
        }
        Ok(None)
    }

    /// Tells `chain` what came of it; whether the history is sound and the store of no use any more.
    pub fn finish(self, chain: &ChainHandle, outcome: Outcome) -> bool {
        let (base, sound) = (self.row.base, outcome.is_ok());
        self.end(chain);
        let stored = chain.finish_history(outcome).is_ok();
        if sound && stored {
            tracing::info!(base = base.get(), "the history behind the snapshot is verified");
        }
        sound && stored
    }

    /// Closes the second chain, to go on with it another time.
    pub fn end(self, chain: &ChainHandle) {
        chain.set_history(None);
        self.history.stop();
    }
}

/// Hands a chain's headers up to the base to the second chain; `false` if that was stopped.
pub fn give_headers(
    chain: &ChainHandle,
    history: &ChainHandle,
    base: Height,
    stop: &dyn Fn() -> bool,
) -> Result<bool, ChainFault> {
    let tip = chain.view().tip.hash();
    let mut from = history.headers().best().point().height.get() + 1;
    while from <= base.get() {
        if stop() {
            return Ok(false);
        }
        let to = base.get().min(from + HEADERS_STEP - 1);
        let headers = (from..=to).filter_map(|height| chain.headers().ancestor(&tip, Height::new(height)));
        match history.submit_headers(headers.map(|known| known.header).collect()) {
            Ok(_) => from = to + 1,
            Err(SubmitError::Stopping) => return Ok(false),
            Err(SubmitError::Fault(fault)) => return Err(fault),
            Err(error) => return Err(ChainFault::Damaged(format!("headers below the snapshot's base: {error}"))),
        }
    }
    Ok(true)
}

fn prune(store: &dyn Store, history: &ChainHandle) -> Result<(), StoreError> {
    // Should it not work out now, there is another time.
    while history.prune(PruneGoal::Bytes(BODY_BYTES_MAX / 2), Height::new(u32::MAX)).is_ok_and(|report| report.more) {}
    store.reclaim().map(|_| ())
}
