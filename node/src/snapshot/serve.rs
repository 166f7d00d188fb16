//! The snapshot that a node keeps for others: one file, renewed once a day, never by the chain's thread.
//!
//! ```text
//!  tip ─► base: the last multiple of a day's blocks that lies a day deep ─► dump ─► every coin checked ─► shelf ─► peers
//! ```
//!
//! All nodes choose the same base, so that a newcomer can fetch from all of them at once. What lies on the shelf has been
//! held against headers and leaf by leaf, as a newcomer would: a damaged disk makes nobody a liar.

use super::{LoadError, Offer, SnapshotFile, dump_in_turn};
use crate::chain::ChainHandle;
use crate::datadir::RUN_BYTES_MIN;
use crate::store::SpaceCheck;
use crate::store::schema::SnapshotStage;
use setara_core::height::Height;
use setara_core::lattice::{BUCKET_BYTES, BUCKETS, ELEMENT_BYTES};
use setara_core::snapshot::DEPTH_MIN;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Blocks between two bases: a day's.
pub const BASE_INTERVAL: u32 = 1_440;
/// The same while the chain is younger than two days: its coins are few, and a newcomer should not wait for tomorrow.
pub const YOUNG_BASE_INTERVAL: u32 = 144;
/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// The file's name, in the network's folder.
pub const FILE_NAME: &str = "serve.snapshot";

/// After which block the coins are that a chain of this height serves.
pub fn base_of(tip: Height) -> Option<Height> {
    let deep = tip.get().checked_sub(DEPTH_MIN)?;
    let interval = if deep >= BASE_INTERVAL { BASE_INTERVAL } else { YOUNG_BASE_INTERVAL };
    let base = deep / interval * interval;
    (base > 0).then(|| Height::new(base))
}

/// Where what is offered lies: put there by the one thread, seen by the peers' loop and their connections.
#[derive(Debug, Clone)]
pub struct Shelf(Arc<watch::Sender<Option<Arc<Offer>>>>);

impl Default for Shelf {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Shelf {
    /// Sets what is offered from now on.
    pub fn put(&self, offer: Option<Arc<Offer>>) {
        self.0.send_replace(offer);
    }

    /// What is offered.
    pub fn offer(&self) -> Option<Arc<Offer>> {
        self.0.borrow().clone()
    }

    /// Tells when that changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Offer>>> {
        self.0.subscribe()
    }
}

/// Keeps the file.
pub struct Keeper {
    chain: ChainHandle,
    path: PathBuf,
    shelf: Shelf,
    /// Whether the chain is behind.
    is_behind: Box<dyn Fn(&ChainHandle) -> bool + Send>,
    /// The base of which none can be made.
    failed: Option<Height>,
}

impl Keeper {
    /// Keeps the file in `folder`, and what is offered on `shelf`.
    pub fn new(
        chain: ChainHandle,
        folder: &Path,
        shelf: Shelf,
        is_behind: Box<dyn Fn(&ChainHandle) -> bool + Send>,
    ) -> Self {
        Self { chain, path: folder.join(FILE_NAME), shelf, is_behind, failed: None }
    }

    /// Gives the disk back what a node took that served before and does not any longer.
    pub fn remove(folder: &Path) {
        let path = folder.join(FILE_NAME);
        for path in [incomplete(&path), path] {
            if std::fs::remove_file(&path).is_ok() {
                tracing::info!(path = %path.display(), "removed: no snapshot is served any longer");
            }
        }
    }

    /// The thread that keeps it.
    pub fn spawn(mut self, stop: impl Fn() -> bool + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || self.run(&stop))
    }

    fn run(&mut self, stop: &dyn Fn() -> bool) {
        self.begin(stop);
        let mut seen = 0;
        while !stop() {
            self.look(stop);
            seen = self.chain.wait_past(seen, INTERVAL);
        }
    }

    /// Offers what an earlier run left, if that is sound.
    pub fn begin(&self, stop: &dyn Fn() -> bool) {
        // Of a dump that a crash ended.
        let _ = std::fs::remove_file(incomplete(&self.path));
        if self.path.exists()
            && let Err(error) = self.take_up(stop)
            && error != LoadError::Stopped
        {
            tracing::warn!(%error, path = %self.path.display(), "the snapshot served before is of no use any longer");
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// One look: withdraws what is not of the chain any longer, and makes what is due.
    pub fn look(&mut self, stop: &dyn Fn() -> bool) {
        self.withdraw();
        let Some(base) = self.due().filter(|base| self.failed != Some(*base)) else { return };
        match self.renew(base, stop) {
            Ok(()) | Err(LoadError::Stopped | LoadError::Busy) => {}
            Err(error) => {
                // The next base is another chance.
                self.failed = Some(base);
                tracing::warn!(%error, base = base.get(), "no snapshot of these coins can be made for others");
            }
        }
    }

    /// What lies on the shelf goes when its base is not of the active chain any longer.
    fn withdraw(&self) {
        if let Some(offer) = self.shelf.offer()
            && self.chain.view().hash_at(offer.height).is_ok_and(|hash| hash != Some(offer.base))
        {
            tracing::warn!(base = offer.height.get(), "the snapshot's base is not in the active chain any longer");
            self.shelf.put(None);
        }
    }

    /// The base of the snapshot that is to be made now, if one is.
    fn due(&self) -> Option<Height> {
        let view = self.chain.view();
        // Coins on somebody's word are not handed on.
        let sound = view.snapshot().is_none_or(|row| row.stage == SnapshotStage::Verified);
        let base = base_of(view.tip.height()).filter(|_| sound)?;
        let older = self.shelf.offer().is_none_or(|offer| offer.height < base);
        (older && !(self.is_behind)(&self.chain)).then_some(base)
    }

    fn renew(&self, base: Height, stop: &dyn Fn() -> bool) -> Result<(), LoadError> {
        let view = self.chain.view();
        let bytes = view.lattice()?.count() * ELEMENT_BYTES as u64 + (BUCKETS * BUCKET_BYTES) as u64;
        let folder = self.path.parent().unwrap_or(&self.path);
        SpaceCheck::new(folder).with_needed(RUN_BYTES_MIN + bytes).check()?;
        drop(view);
        dump_in_turn(&self.chain, base, &self.path, &|| !stop())?;
        self.take_up(stop)
    }

    /// Checks the file and puts it on the shelf.
    fn take_up(&self, stop: &dyn Fn() -> bool) -> Result<(), LoadError> {
        let file = SnapshotFile::open(&self.path)?;
        file.check_while(self.chain.network(), self.chain.headers(), &|| !stop())?;
        let (base, coins) = (file.manifest.base, file.manifest.coins.count());
        let offer = file.offer()?;
        tracing::info!(base = base.get(), coins, bytes = offer.bytes(), "serving a snapshot of the coins to peers");
        self.shelf.put(Some(Arc::new(offer)));
        Ok(())
    }
}

/// What a dump is called until it is whole.
fn incomplete(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.incomplete", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All nodes near one tip choose one base, a day deep at least, two at most once the chain is so long.
    #[test]
    fn the_base_moves_once_a_day() {
        let base = |tip| base_of(Height::new(tip)).map(Height::get);
        assert_eq!(base(DEPTH_MIN - 1), None);
        assert_eq!(base(DEPTH_MIN + YOUNG_BASE_INTERVAL - 1), None);
        assert_eq!(base(DEPTH_MIN + YOUNG_BASE_INTERVAL), Some(144));
        assert_eq!(base(2_879), Some(1_296));
        assert_eq!(base(2_880), Some(1_440));
        assert_eq!(base(4_319), Some(1_440));
        assert_eq!(base(4_320), Some(2_880));
        for tip in (DEPTH_MIN + YOUNG_BASE_INTERVAL..20_000).step_by(7) {
            let depth = tip - base(tip).unwrap();
            assert!((DEPTH_MIN..DEPTH_MIN + BASE_INTERVAL).contains(&depth), "{tip}");
        }
    }
}
