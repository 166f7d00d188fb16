//! Snapshots of the coins between peers: giving them, and beginning with one.
//!
//! ```text
//!  GetSnapshot ─► Snapshot (base) ─► GetManifest ─► Manifest: held against headers ─► GetCoins, from all who have that base
//!                                                                                       │
//!                         disk ◄── every bucket alone against its leaf ◄── Coins ◄──────┘
//! ```
//!
//! [`serve`] decides who is given how much of the one snapshot that lies here, [`fetch`] what is asked of whom. Disk and
//! hashing are the shell's.

mod buckets;
pub mod fetch;
pub mod serve;

#[cfg(test)]
mod tests;

pub use fetch::{FetchProgress, SnapshotFetch};
pub use serve::SnapshotServing;

use super::Parts;
use super::interface::{Desk, PeerId};
use super::peer::Peer;
use crate::p2p::message::{CoinRange, Message, Reference, services};
use crate::snapshot::Held;
use setara_core::snapshot::{Manifest, SnapshotError};
use std::sync::Arc;

/// A part of the snapshot that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPart {
    /// Its manifest.
    Manifest,
    /// Some of its coins.
    Coins(CoinRange),
}

/// What is to be done for a snapshot that is being fetched.
#[derive(Debug)]
pub enum SnapshotJob {
    /// Look what an earlier run left; `Opened` answers.
    Open,
    /// Fetching begins.
    Begin(Arc<Manifest>),
    /// Store coins; `Stored` answers.
    Store {
        /// Who sent them.
        peer: PeerId,
        /// Which.
        range: CoinRange,
        /// In their fixed-width form.
        coins: Vec<u8>,
    },
    /// Hold all coins of a bucket against its leaf; `Checked` answers.
    Check {
        /// Who sent them.
        peer: PeerId,
        /// The bucket.
        bucket: u8,
        /// Comes back with the verdict.
        attempt: u64,
    },
    /// Forget what came of a bucket.
    Drop {
        /// Who sent it.
        peer: PeerId,
        /// The bucket.
        bucket: u8,
    },
    /// All buckets are here: the chain begins with them; `Loaded` answers.
    Load(Arc<Manifest>),
    /// Remove all that was fetched.
    Forget,
}

/// What became of it.
#[derive(Debug)]
pub enum SnapshotNews {
    /// An earlier run left this.
    Opened(Option<Held>),
    /// Coins are on disk.
    Stored {
        /// Who sent them.
        peer: PeerId,
        /// Which.
        range: CoinRange,
    },
    /// A bucket is right, or not.
    Checked {
        /// Who sent it.
        peer: PeerId,
        /// The bucket.
        bucket: u8,
        /// As in the job.
        attempt: u64,
        /// The verdict.
        result: Result<(), SnapshotError>,
    },
    /// The chain has begun with the snapshot, or why not.
    Loaded(Result<(), String>),
    /// This machine's own fault: fetching cannot go on.
    Failed(String),
}

impl Parts {
    /// A message about snapshots.
    pub(super) fn snapshot_message(&mut self, desk: &mut Desk<'_>, id: PeerId, message: Message) {
        let (serving, upload) = (&mut self.serving, &mut self.blocks);
        match message {
            Message::GetSnapshot => serving.on_get_snapshot(desk, id),
            Message::GetManifest(base) => serving.on_get_manifest(desk, upload, id, base),
            Message::GetCoins(range) => serving.on_get_coins(desk, upload, id, range),
            Message::Snapshot { height, base } => self.fetch.on_snapshot(desk, id, height, base),
            Message::Manifest(bytes) => self.fetch.on_manifest(desk, id, &bytes),
            Message::Coins { range, coins } => self.fetch.on_coins(desk, id, range, coins),
            _ => {}
        }
    }

    /// A peer lacks things.
    pub(super) fn snapshots_not_found(&mut self, desk: &mut Desk<'_>, id: PeerId, references: &[Reference]) {
        for reference in references {
            if let Reference::Snapshot(base) = reference {
                self.fetch.on_not_found(desk, id, *base);
            }
        }
    }

    pub(super) fn tick_snapshots(&mut self, desk: &mut Desk<'_>) {
        let serves =
            |peer: &&Peer| peer.is_ready() && peer.link.relays_blocks() && peer.services() & services::BLOCKS != 0;
        let ready: Vec<PeerId> = self.peers.values().filter(serves).map(|peer| peer.id).collect();
        self.fetch.tick(desk, &ready, self.sync.is_checked(), self.sync.is_settled());
        self.download.set_paused(self.fetch.is_busy());
    }

    /// How far the snapshot is that the chain is to begin with; `None` when there is none, or it has begun.
    pub fn fetch_progress(&self, desk: &Desk<'_>) -> Option<FetchProgress> {
        self.fetch.progress(desk.monotonic())
    }

    /// A line for whoever waits; `false` if nothing of a snapshot is fetched.
    pub(super) fn tell_fetch_progress(&self, desk: &Desk<'_>) -> bool {
        let Some(progress) = self.fetch_progress(desk) else { return false };
        let FetchProgress { stage, base, buckets, bytes, bytes_total, peers } = progress;
        let base = base.map(|(height, _)| height.get());
        tracing::info!(stage, base, buckets, bytes, bytes_total, peers, "beginning with a snapshot");
        true
    }
}
