//! The blocks behind a snapshot: a second download, for the chain that verifies them.
//!
//! A chain that began with a snapshot has its newest blocks first, by the download of every node. Once it is not behind
//! any more, this one fetches the rest, from genesis to the snapshot's base, from the same peers by the same rules; what it
//! brings goes to the second chain (`Action::SubmitHistory`). Nothing is here while there is no such chain.

use super::download::Download;
use super::interface::{Action, Actions, Desk, PeerId};
use crate::chain::{Accepted, HeaderPoint, SubmitError};
use setara_core::hash::BlockHash;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Of the bytes of the first download the second has one part in so many: it begins once the first has little to do.
pub const HISTORY_PART: u64 = 2;

/// The second download.
pub struct HistoryDownload {
    bytes_max: u64,
    download: Option<Download>,
    peers: BTreeSet<PeerId>,
}

impl HistoryDownload {
    /// With so many bytes of bodies asked for or here at a time, while there is something to fetch.
    pub const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, download: None, peers: BTreeSet::new() }
    }

    /// The download, and a desk on which its chain is the one that verifies.
    fn with<T>(&mut self, desk: &mut Desk<'_>, run: impl FnOnce(&mut Download, &mut Desk<'_>) -> T) -> Option<T> {
        let Some(history) = desk.chain.history() else {
            *self = Self::new(self.bytes_max);
            return None;
        };
        let mut actions = Actions::new();
        let mut second =
            Desk { now: desk.now, rng: &mut *desk.rng, chain: &history, mempool: desk.mempool, actions: &mut actions };
        let result = run(self.download.get_or_insert_with(|| Download::new(self.bytes_max)), &mut second);
        desk.actions.extend(actions.into_iter().map(|action| match action {
            Action::SubmitBlock { peer, hash, bytes, .. } => Action::SubmitHistory { peer, hash, bytes },
            other => other,
        }));
        Some(result)
    }

    /// Time has passed. `ready` are peers that serve bodies, from which height on, and what they have shown; `idle` says
    /// that the node is not behind.
    pub fn tick(&mut self, desk: &mut Desk<'_>, ready: Vec<(PeerId, (u32, u32), Option<HeaderPoint>)>, idle: bool) {
        let Some(history) = desk.chain.history() else {
            *self = Self::new(self.bytes_max);
            return;
        };
        let base = history.headers().best().point();
        let headers = desk.chain.headers().clone();
        // Who shows a branch on which the base is has all blocks below it, as far as it serves them.
        let has_base = |best: HeaderPoint| {
            let there = headers.ancestor(&best.hash, base.height);
            there.filter(|there| there.point().hash == base.hash).map(|_| base)
        };
        for (peer, serves, best) in ready {
            let is_new = self.peers.insert(peer);
            self.with(desk, |download, desk| {
                if is_new {
                    download.peer_ready(peer, serves);
                }
                download.set_best(desk, peer, best.filter(|_| idle).and_then(has_base));
            });
        }
        self.with(desk, |download, desk| download.tick(desk));
    }

    /// A peer is gone.
    pub fn peer_gone(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        if self.peers.remove(&peer) {
            self.with(desk, |download, desk| download.peer_gone(desk, peer));
        }
    }

    /// A block came; `false` if it was not asked for here.
    pub fn on_block(&mut self, desk: &mut Desk<'_>, peer: PeerId, bytes: &Arc<[u8]>) -> bool {
        self.download.is_some()
            && self.with(desk, |download, desk| download.on_block(desk, peer, bytes.clone())).unwrap_or(false)
    }

    /// A peer lacks blocks.
    pub fn on_not_found(&mut self, desk: &mut Desk<'_>, peer: PeerId, hashes: &[BlockHash]) {
        if self.download.is_some() {
            self.with(desk, |download, desk| download.on_not_found(desk, peer, hashes));
        }
    }

    /// The second chain judged a block.
    pub fn on_block_taken(
        &mut self,
        desk: &mut Desk<'_>,
        peer: PeerId,
        hash: BlockHash,
        result: &Result<Accepted, SubmitError>,
    ) {
        self.with(desk, |download, desk| download.on_block_taken(desk, peer, hash, result));
    }

    /// The lowest missing body, if no peer may be asked for it.
    pub fn nobody_has(&mut self, desk: &mut Desk<'_>) -> Option<HeaderPoint> {
        self.download.as_ref()?;
        self.with(desk, |download, desk| {
            let best = desk.chain.headers().best().point().hash;
            let missing = desk.chain.headers().missing_bodies(&best, 1, 1).pop();
            missing.filter(|missing| !download.is_expected(&missing.hash) && !download.has_source(desk, missing))
        })?
    }
}
