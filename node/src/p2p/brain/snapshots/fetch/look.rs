//! Looking for a snapshot: which base most peers serve that lies on the best headers' branch, deep enough.

use super::{FETCH_TIMEOUT, Held, SnapshotFetch, SnapshotJob, Stage};
use crate::p2p::brain::interface::{Action, Desk, PeerId};
use crate::p2p::brain::penalty::Offence;
use crate::p2p::message::Message;
use crate::snapshot::check_manifest;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::snapshot::{DEPTH_MIN, check_depth};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two questions to a peer for what it serves: it may have been making it.
const ASK_INTERVAL: Duration = Duration::from_secs(20);
/// After the first who serves one, others have so long to say so: the snapshot that most have is fetched.
const CHOOSE_WAIT: Duration = Duration::from_secs(2);
/// For a manifest of half a megabyte.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(60);
/// When no peer serves a snapshot for so long, every block is fetched instead.
const LOOK_TIMEOUT: Duration = Duration::from_secs(120);
/// Peers have so long to show all their headers before a snapshot is chosen by those that came.
const SETTLE_WAIT: Duration = Duration::from_secs(30);
/// A new chain that is too short for a snapshot may only be what the first peers have, for so long.
const SHORT_WAIT: Duration = Duration::from_secs(20);

impl SnapshotFetch {
    pub(super) fn look(&mut self, desk: &mut Desk<'_>, checked: bool, settled: bool) {
        let (now, view) = (desk.monotonic(), desk.chain.view());
        if view.snapshot().is_some() {
            tracing::info!("the chain began with a snapshot already: --snapshot has nothing to do");
            return self.end(desk);
        }
        if !checked {
            return;
        }
        let Stage::Looking(looking) = &mut self.stage else { return };
        let since = *looking.since.get_or_insert(now);
        // A weaker branch must not be taken for the best only because it came first.
        if !settled && now < since + SETTLE_WAIT {
            return;
        }
        let (best, tip) = (desk.chain.headers().best().point().height, view.tip.height());
        if best.blocks_since(tip).is_none_or(|behind| behind <= DEPTH_MIN) {
            if tip > Height::GENESIS || now >= since + SHORT_WAIT {
                tracing::info!(
                    best = best.get(),
                    tip = tip.get(),
                    "no snapshot can be had of so few blocks: every block is fetched"
                );
                self.end(desk);
            }
            return;
        }
        if let Some(Held { manifest, buckets }) = looking.held.take() {
            match check_manifest(&manifest, desk.network(), desk.chain.headers()) {
                Ok(()) if manifest.base > tip => return self.begin(desk, manifest, buckets),
                Ok(()) | Err(_) => {
                    tracing::info!(
                        base = manifest.base.get(),
                        "what was fetched of a snapshot before is of no use any longer"
                    );
                    desk.actions.push(Action::Snapshot(SnapshotJob::Forget));
                }
            }
        }
        let progressed = *self.progressed.get_or_insert(now);
        let overdue = looking.manifest.filter(|(_, _, at)| now >= *at + MANIFEST_TIMEOUT);
        let waits = looking.manifest.is_some();
        self.ask_around(desk, None);
        if let Some((peer, ..)) = overdue {
            return self.drop_peer(desk, peer);
        }
        if waits {
            return;
        }
        let chosen = self.choose(desk, now);
        let Stage::Looking(looking) = &mut self.stage else { return };
        let Some((peer, base)) = chosen else {
            looking.offered = None;
            if now >= since + LOOK_TIMEOUT || now >= progressed + FETCH_TIMEOUT {
                tracing::warn!(
                    peers = self.sources.len(),
                    "no peer serves a snapshot of the coins: this node fetches and verifies every block instead"
                );
                self.end(desk);
            }
            return;
        };
        let offered = *looking.offered.get_or_insert(now);
        if now >= offered + CHOOSE_WAIT || self.sources.values().all(|source| source.answered) {
            looking.manifest = Some((peer, base, now));
            desk.send(peer, Message::GetManifest(base));
        }
    }

    /// Asks everybody who does not serve `base` what it serves, now and then.
    pub(super) fn ask_around(&mut self, desk: &mut Desk<'_>, base: Option<BlockHash>) {
        let now = desk.monotonic();
        for (peer, source) in &mut self.sources {
            let knows = source.offer.is_some() && base.is_none_or(|base| source.has(&base, now));
            if !knows && source.asked.is_none_or(|at| now >= at + ASK_INTERVAL) {
                source.asked = Some(now);
                desk.send(*peer, Message::GetSnapshot);
            }
        }
    }

    /// The base that most peers serve, the higher one of two, and one of those peers.
    pub(super) fn choose(&self, desk: &Desk<'_>, now: Duration) -> Option<(PeerId, BlockHash)> {
        let mut bases: BTreeMap<BlockHash, (usize, Height, PeerId)> = BTreeMap::new();
        for (peer, source) in &self.sources {
            if let Some(base) = source.offer.filter(|base| source.has(base, now))
                && let Some(height) = usable(desk, &base)
            {
                bases.entry(base).or_insert((0, height, *peer)).0 += 1;
            }
        }
        let chosen = bases.into_iter().max_by_key(|(_, (count, height, _))| (*count, *height));
        chosen.map(|(base, (_, _, peer))| (peer, base))
    }

    /// A peer says what it serves.
    pub fn on_snapshot(&mut self, desk: &mut Desk<'_>, peer: PeerId, height: u32, base: BlockHash) {
        let Some(source) = self.sources.get_mut(&peer).filter(|source| source.asked.is_some()) else {
            return desk.blame(peer, Offence::UnwantedSnapshot);
        };
        (source.answered, source.offer) = (true, None);
        match desk.chain.headers().get(&base) {
            Some(known) if known.state.height.get() != height => {
                desk.blame(peer, Offence::BadSnapshot("another height"));
            }
            // One that is not known yet is asked about again.
            Some(_) => source.offer = Some(base),
            None => {}
        }
        self.fill(desk);
    }
}

/// The height of a block that a snapshot may be of: on the best branch, deep enough, above the tip.
pub(super) fn usable(desk: &Desk<'_>, base: &BlockHash) -> Option<Height> {
    let headers = desk.chain.headers();
    let best = headers.best().point();
    let height = headers.get(base)?.state.height;
    let on_branch = headers.ancestor(&best.hash, height).is_some_and(|known| known.point().hash == *base);
    let deep = check_depth(height, best.height).is_ok();
    (on_branch && deep && height > desk.chain.view().tip.height()).then_some(height)
}
