//! Snapshots of the coins as files, and what a node that began with one has still to do.
//!
//! ```text
//!  dumptxoutset: view ─ undo records back to the base ─► manifest, coins ascending ─► file
//!  loadtxoutset: file ─► manifest held against headers ─► every bucket against its leaf ─► chain, one switch at the end
//!                                                                                           │
//!                                        history.rs: a second chain from genesis to the base ◄┘ verifies all of it
//!
//!  serve.rs: one file, renewed every day ─► offer.rs ─► peers (p2p/brain/snapshots/) ─► fetched.rs: checked buckets ─► chain
//! ```
//!
//! What is checked of a snapshot, and why that is enough to begin with, is in `setara_core::snapshot`; how the chain takes
//! it, in `chain/adopt.rs`. The file's layout is in docs/snapshots.md.

mod dump;
mod fetched;
mod file;
pub mod history;
mod offer;
pub mod serve;

#[cfg(test)]
mod tests;

pub use dump::{CHANGE_BYTES, CHANGES_MAX, Dumped, dump, dump_in_turn};
pub use fetched::{Fetched, Held};
pub use file::{MANIFEST_BYTES_MAX, SnapshotFile, check_manifest};
pub use offer::Offer;

use crate::chain::SubmitError;
use crate::store::StoreError;
use setara_core::height::Height;
use setara_core::lattice::ELEMENT_BYTES;
use setara_core::snapshot::{BucketCheck, Manifest, SnapshotError};
use setara_core::transaction::{Coin, OutPoint};

/// Coins in their fixed-width form, bucket by bucket, as they come.
pub type Elements = Box<dyn Iterator<Item = Result<[u8; ELEMENT_BYTES], Broken>> + Send>;

/// Why the next coin cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The bytes end within a coin.
    Partial,
    /// They cannot be read.
    Io(String),
}

/// Why a snapshot was not made or not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file system refuses.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file is something else.
    #[error("{0} is no snapshot of coins")]
    NotASnapshot(String),
    /// A newer version wrote it.
    #[error("{path} has format {found}; this version reads format {supported}")]
    NewerFormat {
        /// Which file.
        path: String,
        /// Its format.
        found: u16,
        /// The one known here.
        supported: u16,
    },
    /// What it says is wrong.
    #[error(transparent)]
    Wrong(#[from] SnapshotError),
    /// The chain is there already.
    #[error("the chain is at height {tip} already, the snapshot's base is at height {base}")]
    Late {
        /// Of the chain.
        tip: Height,
        /// Of the snapshot.
        base: Height,
    },
    /// The chain began with another snapshot, which is still being verified.
    #[error("the chain began with a snapshot already")]
    Again,
    /// The blocks above the base do not allow it.
    #[error("{0}")]
    Base(String),
    /// The chain does not take it.
    #[error(transparent)]
    Chain(#[from] SubmitError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another is being made: there is memory for one at a time.
    #[error("another snapshot is being made")]
    Busy,
    /// Whoever wanted it does not any longer.
    #[error("stopped")]
    Stopped,
}

/// Holds all coins against a manifest that has been checked, and hands each to `take`.
pub fn walk(
    manifest: &Manifest,
    elements: &mut dyn Iterator<Item = Result<[u8; ELEMENT_BYTES], Broken>>,
    take: &mut dyn FnMut(&OutPoint, &Coin) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let io = |reason: String| LoadError::File { path: "the snapshot".to_owned(), reason };
    for bucket in 0..=u8::MAX {
        let mut check = BucketCheck::new(manifest, bucket);
        while check.left() > 0 {
            match elements.next() {
                Some(Ok(element)) => {
                    let (outpoint, coin) = check.coin(&element)?;
                    take(&outpoint, &coin)?;
                }
                Some(Err(Broken::Io(reason))) => return Err(io(reason)),
                Some(Err(Broken::Partial)) | None => {
                    return Err(SnapshotError::Truncated { bucket, missing: check.left() }.into());
                }
            }
        }
        check.finish()?;
    }
    match elements.next() {
        None => Ok(()),
        Some(Err(Broken::Io(reason))) => Err(io(reason)),
        Some(_) => Err(SnapshotError::Trailing { bucket: u8::MAX }.into()),
    }
}
