//! Bodies from all peers at once: window, stalling, order.
//!
//! ```text
//!  best header ─► missing bodies ─► asked (hash, peer) ─► held until the parent was given ─► SubmitBlock ─► BlockTaken
//!                 1,024 / 64 MiB    1..16 a peer          64 MiB, lowest first               256 / 32 MiB
//! ```
//!
//! What is missing is read from the header tree, so a restart, an invalid block and a better branch need no code here.
//! In-flight state is per (hash, peer): no peer's answer ends another's request.

mod fill;
mod peers;

use super::interface::{Action, Desk, Ending, PeerId};
use super::penalty::{self, BlockSource};
use crate::chain::{Accepted, HeaderPoint, SubmitError};
use fill::Window;
use peers::Source;
use setara_core::block::Header;
use setara_core::hash::BlockHash;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of an encoded header, a block's first.
const HEADER_BYTES: usize = 80;
/// Blocks given to the chain and not yet judged: bounds its queue.
const SUBMITTED_BLOCKS_MAX: usize = 256;
/// Their bytes.
const SUBMITTED_BYTES_MAX: u64 = 32 << 20;
/// A peer that has delivered none of what it was asked for in so long has failed (two spacings).
const BLOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// The lowest missing body may hold up a full window for so long at first, and at most (Core's values).
const STALL_MIN: Duration = Duration::from_secs(2);
/// See [`STALL_MIN`].
const STALL_MAX: Duration = Duration::from_secs(64);
/// A body on which the chain gave no verdict is asked for again after so long.
const RESTING: Duration = Duration::from_secs(30);

/// A body that found no room is not asked for again for so long.
const DROPPED_FOR: Duration = Duration::from_secs(2);

struct Flight {
    asked: Duration,
    /// Bodies that the peer was asked for before and had not sent then: they come first.
    ahead: u64,
}

struct Held {
    peer: PeerId,
    previous: BlockHash,
    bytes: Arc<[u8]>,
}

/// The download of bodies.
pub struct Download {
    peers: BTreeMap<PeerId, Source>,
    flights: BTreeMap<(BlockHash, PeerId), Flight>,
    /// By height first, so that the lowest are given first and the highest dropped first.
    held: BTreeMap<(u32, BlockHash), Held>,
    held_bytes: u64,
    submitted: BTreeMap<BlockHash, u64>,
    submitted_bytes: u64,
    resting: BTreeMap<BlockHash, Duration>,
    window: Window,
    /// Bytes of bodies asked for, held or before the chain.
    bytes_max: u64,
    /// The lowest missing body, and since when it holds up everything.
    stalled: Option<(BlockHash, Duration)>,
    stall_timeout: Duration,
    /// Nothing is asked for.
    paused: bool,
}

impl Download {
    /// With no peer, and with so many bytes of bodies asked for or here at a time.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            peers: BTreeMap::new(),
            flights: BTreeMap::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            submitted: BTreeMap::new(),
            submitted_bytes: 0,
            resting: BTreeMap::new(),
            window: Window::default(),
            bytes_max,
            stalled: None,
            stall_timeout: STALL_MIN,
            paused: false,
        }
    }

    /// Asks for nothing from now on, or again: while a snapshot of the coins is fetched, no body below it is wanted.
    pub const fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// A peer that serves bodies from height `serves.0` on finished its `Hello`. The upper end is not used: it was true
    /// then, and what a peer has now it shows by headers.
    pub fn peer_ready(&mut self, peer: PeerId, serves: (u32, u32)) {
        self.peers.insert(peer, Source::new(serves.0));
    }

    /// A peer has shown to have the blocks up to this one: more than before, or less.
    pub fn set_best(&mut self, desk: &mut Desk<'_>, peer: PeerId, best: Option<HeaderPoint>) {
        let Some(source) = self.peers.get_mut(&peer) else { return };
        if source.set_best(best) {
            self.fill(desk);
        }
    }

    /// A peer is gone; others are asked for what it owed.
    pub fn peer_gone(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        self.peers.remove(&peer);
        self.flights.retain(|(_, of), _| *of != peer);
        if self.peers.is_empty() {
            self.held.clear();
            self.held_bytes = 0;
            self.resting.clear();
        }
        self.fill(desk);
    }

    /// Whether this body is on its way: asked for, held, or before the chain.
    pub fn is_expected(&self, hash: &BlockHash) -> bool {
        self.submitted.contains_key(hash) || self.is_held(hash) || self.in_flight(hash).next().is_some()
    }

    /// Whether some peer may be asked for this body, now or when it has room: by what it has shown, says and refused.
    pub fn has_source(&self, desk: &Desk<'_>, point: &HeaderPoint) -> bool {
        self.peers.values().any(|source| {
            let common = source.best().and_then(|best| desk.chain.headers().fork(&best.hash, &point.hash));
            common.is_some_and(|common| common.hash == point.hash) && source.may_have(point.height.get(), &point.hash)
        })
    }

    /// Requests without an answer.
    pub fn in_flight_count(&self) -> usize {
        self.flights.len()
    }

    /// Bodies that a peer was asked for and has not sent.
    pub fn in_flight_of(&self, peer: PeerId) -> Vec<BlockHash> {
        self.flights.keys().filter(|(_, of)| *of == peer).map(|(hash, _)| *hash).collect()
    }

    /// Bytes of bodies that wait here or before the chain.
    pub const fn bytes(&self) -> u64 {
        self.held_bytes + self.submitted_bytes
    }

    /// A block came. `false` if this peer was not asked for it: then it is somebody else's business.
    pub fn on_block(&mut self, desk: &mut Desk<'_>, peer: PeerId, bytes: Arc<[u8]>) -> bool {
        let head = bytes.get(..HEADER_BYTES).and_then(|head| <&[u8; HEADER_BYTES]>::try_from(head).ok());
        let Some(header) = head.and_then(|head| Header::from_bytes(head).ok()) else { return false };
        let hash = header.hash();
        let Some(flight) = self.flights.remove(&(hash, peer)) else { return false };
        if let Some(source) = self.peers.get_mut(&peer) {
            source.delivered(desk.monotonic(), flight.asked);
        }
        let known = desk.chain.headers().get(&hash);
        let wanted = known.is_some_and(|known| !known.has_body && !known.bad);
        if let Some(known) = known.filter(|_| wanted && !self.submitted.contains_key(&hash) && !self.is_held(&hash)) {
            self.window.saw(bytes.len() as u64);
            self.held_bytes += bytes.len() as u64;
            let held = Held { peer, previous: header.previous, bytes };
            self.held.insert((known.state.height.get(), hash), held);
            if self.stalled.is_some_and(|(stalled, _)| stalled == hash) {
                // It came after all: the next wait may be shorter again.
                self.stalled = None;
                self.stall_timeout = (self.stall_timeout * 17 / 20).max(STALL_MIN);
            }
        }
        self.release(desk);
        if self.held_bytes > self.bytes_max {
            self.drop_lost();
        }
        while self.held_bytes > self.bytes_max {
            let Some(((_, hash), held)) = self.held.pop_last() else { break };
            // Or it would be asked for at once, and come, and be dropped again.
            self.resting.insert(hash, desk.monotonic() + DROPPED_FOR);
            self.held_bytes = self.held_bytes.saturating_sub(held.bytes.len() as u64);
        }
        self.fill(desk);
        true
    }

    /// A peer does not have blocks that it was asked for.
    pub fn on_not_found(&mut self, desk: &mut Desk<'_>, peer: PeerId, hashes: &[BlockHash]) {
        for hash in hashes {
            if self.flights.remove(&(*hash, peer)).is_some()
                && let Some(source) = self.peers.get_mut(&peer)
            {
                source.refuse(*hash, desk.monotonic());
            }
        }
        self.fill(desk);
    }

    /// The chain judged a block.
    pub fn on_block_taken(
        &mut self,
        desk: &mut Desk<'_>,
        peer: PeerId,
        hash: BlockHash,
        result: &Result<Accepted, SubmitError>,
    ) {
        let Some(bytes) = self.submitted.remove(&hash) else { return };
        self.submitted_bytes = self.submitted_bytes.saturating_sub(bytes);
        match result {
            Ok(Accepted::Connected | Accepted::SideBranch | Accepted::Duplicate) => {}
            Ok(Accepted::Ignored) => self.rest(desk, hash),
            Err(error) => {
                match penalty::of_block(error, BlockSource::Whole) {
                    Some(offence) => desk.blame(peer, offence),
                    None => self.rest(desk, hash),
                }
                if let Some(source) = self.peers.get_mut(&peer) {
                    source.refuse(hash, desk.monotonic());
                }
            }
        }
        self.release(desk);
        self.fill(desk);
    }

    /// Time has passed.
    pub fn tick(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        self.resting.retain(|_, until| *until > now);
        self.peers.values_mut().for_each(|source| source.forget_refused(now));
        self.window.forget();
        self.release(desk);
        self.fill(desk);
        self.drop_lost();
        self.check_timeouts(desk);
        self.check_stall(desk);
    }

    /// Drops bodies of branches that nothing is asked for any longer, since they have less work than the tip by now: their
    /// parents will not come, and what they take of the window is lost to all others.
    fn drop_lost(&mut self) {
        let window = &self.window;
        self.held.retain(|(_, hash), _| window.wants(hash));
        self.held_bytes = self.held.values().map(|held| held.bytes.len() as u64).sum();
    }

    fn rest(&mut self, desk: &Desk<'_>, hash: BlockHash) {
        self.resting.insert(hash, desk.monotonic() + RESTING);
    }

    fn is_held(&self, hash: &BlockHash) -> bool {
        self.held.keys().any(|(_, held)| held == hash)
    }

    fn in_flight<'a>(&'a self, hash: &BlockHash) -> impl Iterator<Item = (PeerId, &'a Flight)> {
        let range = (*hash, PeerId(0))..=(*hash, PeerId(u64::MAX));
        self.flights.range(range).map(|((_, peer), flight)| (*peer, flight))
    }

    /// Gives held bodies to the chain, parents first.
    fn release(&mut self, desk: &mut Desk<'_>) {
        let tree = desk.chain.headers().clone();
        let keys: Vec<(u32, BlockHash)> = self.held.keys().copied().collect();
        for key in keys {
            let full = self.submitted.len() >= SUBMITTED_BLOCKS_MAX || self.submitted_bytes >= SUBMITTED_BYTES_MAX;
            if full {
                return;
            }
            let Some(held) = self.held.get(&key) else { continue };
            let parent = tree.get(&held.previous);
            let bad = parent.is_none_or(|parent| parent.bad);
            let given = parent.is_some_and(|parent| parent.has_body) || self.submitted.contains_key(&held.previous);
            if !bad && !given {
                continue;
            }
            let Some(Held { peer, bytes, .. }) = self.held.remove(&key) else { continue };
            let size = bytes.len() as u64;
            self.held_bytes = self.held_bytes.saturating_sub(size);
            if !bad {
                self.submitted.insert(key.1, size);
                self.submitted_bytes += size;
                desk.actions.push(Action::SubmitBlock { peer, hash: key.1, bytes, wanted: true });
            }
        }
    }

    /// Peers that deliver nothing at all.
    fn check_timeouts(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let mut failed: Vec<PeerId> = Vec::new();
        for ((_, peer), flight) in &self.flights {
            let Some(source) = self.peers.get(peer) else { continue };
            let since = flight.asked.max(source.last_delivery());
            if now >= since + BLOCK_TIMEOUT && !failed.contains(peer) {
                failed.push(*peer);
            }
        }
        for peer in failed {
            self.drop_peer(desk, peer, "block");
        }
    }

    /// Ends the connection that holds up the window, and waits longer for the next.
    fn check_stall(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let Some(lowest) = self.stalling(desk) else {
            self.stalled = None;
            return;
        };
        let since = match self.stalled {
            Some((hash, since)) if hash == lowest => since,
            _ => {
                self.stalled = Some((lowest, now));
                now
            }
        };
        let oldest = self.in_flight(&lowest).min_by_key(|(_, flight)| flight.asked);
        let Some((peer, asked)) = oldest.map(|(peer, flight)| (peer, flight.asked)) else { return };
        if now >= since.max(asked) + self.stall_timeout {
            self.stall_timeout = (self.stall_timeout * 2).min(STALL_MAX);
            self.stalled = None;
            self.drop_peer(desk, peer, "window");
        }
    }

    fn drop_peer(&mut self, desk: &mut Desk<'_>, peer: PeerId, why: &'static str) {
        desk.disconnect(peer, Ending::Stalling(why));
        self.peer_gone(desk, peer);
    }
}

#[cfg(test)]
mod tests;
