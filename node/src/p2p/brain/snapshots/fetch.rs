//! Beginning with a snapshot from peers: what is asked of whom, and who lied.
//!
//! ```text
//!  Opening ─► Looking ──manifest held against headers──► Fetching ──256 buckets──► Loading ─► Off: blocks from the base on
//!  disk        │ nobody has one                            │ nobody has it any more
//!              └──► Off: every block from genesis          └──► Looking
//! ```
//!
//! A snapshot is known by its base: headers say which coinbase commits to it, so whatever passes is the same from anybody.
//! A bucket comes from one peer, piece by piece, so that a wrong one has one sender; one that is late is asked of a second
//! peer when nothing else is left to ask for. While this goes on no blocks are downloaded ([`SnapshotFetch::is_busy`]).

mod look;

use super::super::interface::{Action, Desk, Ending, PeerId};
use super::super::penalty::{self, Offence};
use super::buckets::Fetching;
use super::{SnapshotJob, SnapshotNews};
use crate::p2p::limits::{SNAPSHOT_IN_FLIGHT_MAX, SNAPSHOT_PER_PEER, SNAPSHOT_PIECE_BYTES};
use crate::p2p::message::{CoinRange, Message};
use crate::snapshot::{Held, check_manifest};
use look::usable;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::lattice::{BUCKETS, ELEMENT_BYTES};
use setara_core::snapshot::{Manifest, SnapshotError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A peer that has sent none of the pieces that it was asked for in so long has failed: 8 kB/s.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// What a peer said it lacks may still come for so long without being called unasked.
const VOID_FOR: Duration = Duration::from_secs(180);
/// A peer that lacks a snapshot, or gives no more of it, is not asked for it for so long.
const LACKS_FOR: Duration = Duration::from_secs(60);
/// When nobody serves the snapshot that was begun any longer, another is begun after this time.
const ABANDON: Duration = Duration::from_secs(60);
/// Without any bucket for so long, though there are peers, every block is fetched instead.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1_200);

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchProgress {
    /// In words.
    pub stage: &'static str,
    /// The base, once a snapshot has been chosen.
    pub base: Option<(Height, BlockHash)>,
    /// Buckets that are here and right.
    pub buckets: usize,
    /// Bytes of coins that are here.
    pub bytes: u64,
    /// Bytes of all coins.
    pub bytes_total: u64,
    /// Peers that serve it.
    pub peers: usize,
}

#[derive(Default)]
struct Source {
    /// When it was last asked what it serves, and whether it has answered.
    asked: Option<Duration>,
    answered: bool,
    offer: Option<BlockHash>,
    /// The base that it gives no more of, and until when that is taken as given.
    lacks: Option<(BlockHash, Duration)>,
    /// When it last delivered something.
    delivered: Duration,
}

impl Source {
    fn has(&self, base: &BlockHash, now: Duration) -> bool {
        let lacks = self.lacks.is_some_and(|(lacked, until)| lacked == *base && now < until);
        self.offer.as_ref() == Some(base) && !lacks
    }
}

struct Flight {
    asked: Duration,
    /// The peer said that it gives no more; it may have meant another piece.
    void: bool,
}

#[derive(Default)]
struct Looking {
    held: Option<Held>,
    since: Option<Duration>,
    offered: Option<Duration>,
    manifest: Option<(PeerId, BlockHash, Duration)>,
}

enum Stage {
    Off,
    Opening { asked: bool },
    Looking(Looking),
    Fetching(Box<Fetching>),
    Loading(Arc<Manifest>),
}

/// The fetching of a snapshot.
pub struct SnapshotFetch {
    stage: Stage,
    sources: BTreeMap<PeerId, Source>,
    /// Pieces that were asked for and have not come.
    flights: BTreeMap<(PeerId, CoinRange), Flight>,
    /// Pieces under way at most.
    in_flight_max: usize,
    /// Pieces that came and are not on disk yet.
    storing: BTreeSet<(PeerId, CoinRange)>,
    /// Counts snapshots begun: what is said of an earlier one does not count.
    attempt: u64,
    /// When a bucket was last right, or the first snapshot looked for.
    progressed: Option<Duration>,
}

impl SnapshotFetch {
    /// `wanted` if the operator wants a new chain to begin with one. Pieces have the memory that blocks have otherwise, of
    /// which none are downloaded meanwhile.
    pub fn new(wanted: bool, download_bytes: u64) -> Self {
        let stage = if wanted { Stage::Opening { asked: false } } else { Stage::Off };
        let fitting = usize::try_from(download_bytes / SNAPSHOT_PIECE_BYTES).unwrap_or(usize::MAX);
        let in_flight_max = fitting.clamp(1, SNAPSHOT_IN_FLIGHT_MAX);
        let (sources, flights, storing) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { stage, sources, flights, in_flight_max, storing, attempt: 0, progressed: None }
    }

    /// Whether it is not decided yet with which blocks the chain goes on: none are to be downloaded.
    pub const fn is_busy(&self) -> bool {
        !matches!(self.stage, Stage::Off)
    }

    /// Whether somebody is needed who serves a snapshot, and nobody connected does.
    pub fn needs_server(&self, desk: &Desk<'_>) -> bool {
        let now = desk.monotonic();
        match &self.stage {
            // One that cannot be begun with, such as a base that is not deep here, is none.
            Stage::Looking(looking) => looking.since.is_some() && self.choose(desk, now).is_none(),
            Stage::Fetching(fetching) => !self.sources.values().any(|source| source.has(&fetching.base(), now)),
            Stage::Off | Stage::Opening { .. } | Stage::Loading(_) => false,
        }
    }

    /// How far it is, while it goes on.
    pub fn progress(&self, now: Duration) -> Option<FetchProgress> {
        let nothing = |stage| FetchProgress { stage, base: None, buckets: 0, bytes: 0, bytes_total: 0, peers: 0 };
        let of = |stage, manifest: &Manifest| FetchProgress {
            base: Some((manifest.base, manifest.base_hash)),
            bytes_total: manifest.coins.count().saturating_mul(ELEMENT_BYTES as u64),
            ..nothing(stage)
        };
        match &self.stage {
            Stage::Off => None,
            Stage::Opening { .. } => Some(nothing("checking what is here")),
            Stage::Looking(Looking { since: None, .. }) => Some(nothing("waiting for headers")),
            Stage::Looking(_) => Some(nothing("looking for a snapshot")),
            Stage::Fetching(fetching) => {
                let done = fetching.done.iter().map(|bucket| fetching.count(*bucket));
                let partly = fetching.work.values().map(|work| work.came);
                let coins: u64 = done.chain(partly).map(u64::from).sum();
                let all = of("fetching coins", &fetching.manifest);
                let peers = self.sources.values().filter(|source| source.has(&fetching.base(), now)).count();
                let bytes = (coins * ELEMENT_BYTES as u64).min(all.bytes_total);
                Some(FetchProgress { buckets: fetching.done.len(), bytes, peers, ..all })
            }
            Stage::Loading(manifest) => {
                let all = of("loading coins", manifest);
                Some(FetchProgress { buckets: BUCKETS, bytes: all.bytes_total, ..all })
            }
        }
    }

    /// A peer is gone; others are asked for what it owed.
    pub fn peer_gone(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        if self.sources.remove(&peer).is_none() {
            return;
        }
        self.flights.retain(|(of, _), _| *of != peer);
        self.release(desk, peer);
        self.fill(desk);
    }

    /// What a peer was asked for is asked of others, and what it began is dropped.
    fn release(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        match &mut self.stage {
            Stage::Looking(looking) => {
                looking.manifest.take_if(|(of, ..)| *of == peer);
            }
            Stage::Fetching(fetching) => fetching.work.retain(|(bucket, of), work| {
                // What has come whole is being checked.
                let lost = *of == peer && work.came < fetching.counts[usize::from(*bucket)];
                if lost {
                    desk.actions.push(Action::Snapshot(SnapshotJob::Drop { peer, bucket: *bucket }));
                }
                !lost
            }),
            Stage::Off | Stage::Opening { .. } | Stage::Loading(_) => {}
        }
    }

    /// Time has passed. `ready` are peers that serve blocks; `checked` says that one of them was followed to the end of its
    /// headers, `settled` that all were.
    pub fn tick(&mut self, desk: &mut Desk<'_>, ready: &[PeerId], checked: bool, settled: bool) {
        if !self.is_busy() {
            return;
        }
        for peer in ready {
            self.sources.entry(*peer).or_default();
        }
        match &mut self.stage {
            Stage::Off | Stage::Loading(_) => {}
            Stage::Opening { asked } => {
                if !std::mem::replace(asked, true) {
                    desk.actions.push(Action::Snapshot(SnapshotJob::Open));
                }
            }
            Stage::Looking(_) => self.look(desk, checked, settled),
            Stage::Fetching(_) => self.fetch(desk),
        }
    }
}

/// What peers say.
impl SnapshotFetch {
    /// A peer sends a manifest.
    pub fn on_manifest(&mut self, desk: &mut Desk<'_>, peer: PeerId, bytes: &[u8]) {
        let tip = desk.chain.view().tip.height();
        let Stage::Looking(looking) = &mut self.stage else {
            // Late, or never asked for.
            if !self.sources.contains_key(&peer) {
                desk.blame(peer, Offence::UnwantedSnapshot);
            }
            return;
        };
        let Some((_, base, _)) = looking.manifest.take_if(|(of, ..)| *of == peer) else {
            return desk.blame(peer, Offence::UnwantedSnapshot);
        };
        let checked = Manifest::decode(bytes).and_then(|manifest| {
            if manifest.base_hash != base {
                return Err(SnapshotError::OffChain { hash: manifest.base_hash, height: manifest.base });
            }
            check_manifest(&manifest, desk.network(), desk.chain.headers()).map(|()| manifest)
        });
        match checked {
            Ok(manifest) if manifest.base > tip => self.begin(desk, Arc::new(manifest), BTreeSet::new()),
            Ok(_) => self.lack(desk, peer, base),
            Err(error) => {
                tracing::info!(peer = peer.0, %error, "a manifest is refused");
                match penalty::of_snapshot(&error) {
                    Some(offence) => desk.blame(peer, offence),
                    // Another than it was asked for, or the chain is another by now.
                    None => self.lack(desk, peer, base),
                }
            }
        }
    }

    /// A peer does not have what it was asked for of a snapshot, or gives no more.
    pub fn on_not_found(&mut self, desk: &mut Desk<'_>, peer: PeerId, base: BlockHash) {
        let Some(source) = self.sources.get_mut(&peer) else { return };
        source.answered = true;
        if base == BlockHash::ZERO {
            source.offer = None;
        } else {
            self.lack(desk, peer, base);
        }
    }

    fn lack(&mut self, desk: &mut Desk<'_>, peer: PeerId, base: BlockHash) {
        if let Some(source) = self.sources.get_mut(&peer)
            && source.offer.take_if(|offer| *offer == base).is_some()
        {
            source.lacks = Some((base, desk.monotonic() + LACKS_FOR));
        }
        // Answers to what it was asked for besides may still come; they count for nothing.
        let hit = |(of, range): &(PeerId, CoinRange)| *of == peer && range.base == base;
        self.flights.iter_mut().filter(|(key, _)| hit(key)).for_each(|(_, flight)| flight.void = true);
        let concerned = match &self.stage {
            Stage::Looking(looking) => looking.manifest.is_some_and(|(_, asked, _)| asked == base),
            Stage::Fetching(fetching) => fetching.base() == base,
            Stage::Off | Stage::Opening { .. } | Stage::Loading(_) => false,
        };
        if concerned {
            self.release(desk, peer);
            self.fill(desk);
        }
    }

    fn end(&mut self, desk: &mut Desk<'_>) {
        self.stage = Stage::Off;
        desk.actions.push(Action::Snapshot(SnapshotJob::Forget));
    }
}

/// Fetching.
impl SnapshotFetch {
    fn begin(&mut self, desk: &mut Desk<'_>, manifest: Arc<Manifest>, here: BTreeSet<u8>) {
        let now = desk.monotonic();
        let fetching = Fetching::new(manifest.clone(), here, now);
        tracing::info!(
            base = manifest.base.get(), hash = %manifest.base_hash, coins = manifest.coins.count(), here = fetching.done.len(),
            "fetching a snapshot of the coins"
        );
        desk.actions.push(Action::Snapshot(SnapshotJob::Begin(manifest)));
        self.stage = Stage::Fetching(Box::new(fetching));
        self.attempt += 1;
        self.progressed.get_or_insert(now);
        self.ask_around(desk, None);
        self.finish(desk);
        self.fill(desk);
    }

    fn fetch(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let Stage::Fetching(fetching) = &mut self.stage else { return };
        let base = fetching.base();
        if self.sources.is_empty() {
            // Nobody is there who could be blamed for it.
            fetching.served = now;
            self.progressed = Some(now);
            return;
        }
        if self.sources.values().any(|source| source.has(&base, now)) {
            fetching.served = now;
        }
        let (progressed, served) = (self.progressed.unwrap_or(now), fetching.served);
        if usable(desk, &base).is_none() {
            tracing::info!("the snapshot's base is not in the best chain any longer: looking for another");
            return self.look_again(desk);
        }
        if now >= served + ABANDON && self.choose(desk, now).is_some() {
            tracing::info!("no peer serves the snapshot that was begun any longer: another is fetched");
            return self.look_again(desk);
        }
        if now >= progressed + FETCH_TIMEOUT {
            tracing::warn!(
                "no peer has sent a right part of the snapshot for too long: this node fetches and verifies every block instead"
            );
            return self.end(desk);
        }
        self.ask_around(desk, Some(base));
        self.check_stalls(desk);
        self.fill(desk);
    }

    fn look_again(&mut self, desk: &mut Desk<'_>) {
        desk.actions.push(Action::Snapshot(SnapshotJob::Forget));
        self.flights.values_mut().for_each(|flight| flight.void = true);
        self.stage = Stage::Looking(Looking::default());
    }

    fn check_stalls(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let mut oldest: BTreeMap<PeerId, Duration> = BTreeMap::new();
        self.flights.retain(|_, flight| !flight.void || now < flight.asked + VOID_FOR);
        for ((peer, _), flight) in self.flights.iter().filter(|(_, flight)| !flight.void) {
            let asked = oldest.get(peer).map_or(flight.asked, |old| flight.asked.min(*old));
            oldest.insert(*peer, asked);
        }
        for (peer, asked) in oldest {
            let delivered = self.sources.get(&peer).map_or(Duration::ZERO, |source| source.delivered);
            if now >= asked.max(delivered) + PIECE_TIMEOUT {
                self.drop_peer(desk, peer);
            }
        }
    }

    fn drop_peer(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        desk.disconnect(peer, Ending::Stalling("snapshot"));
        self.peer_gone(desk, peer);
    }

    /// Asks for all that may be asked for now.
    fn fill(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let Stage::Fetching(fetching) = &mut self.stage else { return };
        let base = fetching.base();
        let mut under_way: BTreeMap<PeerId, usize> = BTreeMap::new();
        let flying = self.flights.iter().filter(|(_, flight)| !flight.void).map(|(key, _)| key);
        for (peer, _) in flying.chain(&self.storing) {
            *under_way.entry(*peer).or_default() += 1;
        }
        let mut room = self.in_flight_max.saturating_sub(under_way.values().sum());
        for (peer, source) in &self.sources {
            let mut left = SNAPSHOT_PER_PEER.saturating_sub(under_way.get(peer).copied().unwrap_or(0));
            while source.has(&base, now) && left > 0 && room > 0 {
                let Some(range) = fetching.next(*peer, now) else { break };
                self.flights.insert((*peer, range), Flight { asked: now, void: false });
                desk.send(*peer, Message::GetCoins(range));
                (left, room) = (left - 1, room - 1);
            }
        }
    }

    /// A peer sends coins.
    pub fn on_coins(&mut self, desk: &mut Desk<'_>, peer: PeerId, range: CoinRange, coins: Vec<u8>) {
        let Some(flight) = self.flights.remove(&(peer, range)) else {
            return desk.blame(peer, Offence::UnwantedSnapshot);
        };
        if let Some(source) = self.sources.get_mut(&peer) {
            source.delivered = desk.monotonic();
        }
        if let Stage::Fetching(fetching) = &mut self.stage
            && !flight.void
            && fetching.base() == range.base
            && let Some(work) = fetching.work.get_mut(&(range.bucket, peer))
        {
            work.came += range.count;
            let whole = work.came == fetching.counts[usize::from(range.bucket)];
            self.storing.insert((peer, range));
            desk.actions.push(Action::Snapshot(SnapshotJob::Store { peer, range, coins }));
            if whole {
                desk.actions.push(Action::Snapshot(SnapshotJob::Check {
                    peer,
                    bucket: range.bucket,
                    attempt: self.attempt,
                }));
            }
        }
        self.fill(desk);
    }

    /// The shell says what became of a job.
    pub fn on_news(&mut self, desk: &mut Desk<'_>, news: SnapshotNews) {
        match news {
            SnapshotNews::Opened(held) => {
                if let Stage::Opening { .. } = self.stage {
                    self.stage = Stage::Looking(Looking { held, ..Looking::default() });
                }
            }
            SnapshotNews::Stored { peer, range } => {
                self.storing.remove(&(peer, range));
                self.fill(desk);
            }
            SnapshotNews::Checked { peer, bucket, attempt, result } => {
                if attempt == self.attempt {
                    self.checked(desk, peer, bucket, result);
                }
            }
            SnapshotNews::Loaded(Ok(())) => {
                self.stage = Stage::Off;
            }
            SnapshotNews::Loaded(Err(reason)) => {
                tracing::error!(
                    reason,
                    "the snapshot cannot be loaded: this node fetches and verifies every block instead"
                );
                self.end(desk);
            }
            SnapshotNews::Failed(reason) => {
                // Several may come; the first ends it.
                if self.is_busy() {
                    tracing::error!(
                        reason,
                        "the snapshot cannot be stored: this node fetches and verifies every block instead"
                    );
                    self.end(desk);
                }
            }
        }
    }

    fn checked(&mut self, desk: &mut Desk<'_>, peer: PeerId, bucket: u8, result: Result<(), SnapshotError>) {
        let Stage::Fetching(fetching) = &mut self.stage else { return };
        if fetching.work.remove(&(bucket, peer)).is_none() {
            return;
        }
        match result {
            Ok(()) => {
                fetching.done.insert(bucket);
                self.progressed = Some(desk.monotonic());
                // Whoever else was asked for it need not go on.
                let others: Vec<PeerId> = fetching.workers(bucket).collect();
                for peer in others {
                    fetching.work.remove(&(bucket, peer));
                    desk.actions.push(Action::Snapshot(SnapshotJob::Drop { peer, bucket }));
                }
            }
            Err(error) => {
                tracing::info!(peer = peer.0, %error, "a bucket of the snapshot is wrong: it is asked of another");
                if let Some(offence) = penalty::of_snapshot(&error) {
                    desk.blame(peer, offence);
                }
                if let Some(source) = self.sources.get_mut(&peer) {
                    source.offer = None;
                }
            }
        }
        self.finish(desk);
        self.fill(desk);
    }

    /// All buckets may be here.
    fn finish(&mut self, desk: &mut Desk<'_>) {
        let Stage::Fetching(fetching) = &self.stage else { return };
        if fetching.done.len() == BUCKETS {
            let manifest = fetching.manifest.clone();
            tracing::info!(base = manifest.base.get(), "the whole snapshot is here: loading it");
            desk.actions.push(Action::Snapshot(SnapshotJob::Load(manifest.clone())));
            self.stage = Stage::Loading(manifest);
        }
    }
}
