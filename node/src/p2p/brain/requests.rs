//! Which transaction is asked of whom, and when of somebody else (Bitcoin Core's `txrequest.h`).
//!
//! ```text
//!  announced ─► Delayed ──time──► Ready ◄──► Best ──asked──► Requested ──answer or time──► Completed
//! ```
//!
//! For each wanted thing at most one peer is `Best` or `Requested`. Nobody is asked twice: a completed announcement stays
//! until nobody else is left to ask, so whoever withholds a transaction delays it once, by one expiry. Among those whose
//! delay is over outgoing peers come first, then a keyed hash decides, which an announcer can neither foresee nor bias.
//! Memory is bounded by [`ANNOUNCEMENTS_PER_PEER`]. In flight there is a delay, not a wall: a wall would let a peer sit
//! on what it was the best to ask for.

use super::interface::PeerId;
use crate::p2p::limits::{
    ANNOUNCEMENTS_PER_PEER, IN_FLIGHT_PER_PEER, NONPREFERRED_DELAY, OVERLOADED_DELAY, TRANSACTION_EXPIRY, TXID_DELAY,
};
use setara_core::hash::{TxId, WtxId};
use siphasher::sip::SipHasher24;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// A transaction that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// As it was announced.
    Wtxid(WtxId),
    /// As the parent of an orphan.
    Txid(TxId),
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// It is kept.
    New,
    /// The peer had announced it before.
    Known,
    /// The peer has too many.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Delayed,
    Ready,
    Best,
    Requested,
    Completed,
}

#[derive(Debug, Clone, Copy)]
struct Announcement {
    state: State,
    preferred: bool,
    /// When the delay or the request ends.
    time: Duration,
    /// Order of announcing: parents are asked for before their children.
    sequence: u64,
}

#[derive(Debug, Default)]
struct PeerShare {
    count: usize,
    in_flight: usize,
    best: BTreeSet<(u64, Wanted)>,
    all: BTreeSet<Wanted>,
}

/// All announcements of all peers.
#[derive(Debug)]
pub struct RequestTracker {
    keys: (u64, u64),
    announcements: BTreeMap<(Wanted, PeerId), Announcement>,
    timers: BTreeSet<(Duration, Wanted, PeerId)>,
    peers: BTreeMap<PeerId, PeerShare>,
    next_sequence: u64,
}

impl RequestTracker {
    /// Empty. The keys decide whom to ask among equals, and are secret.
    pub fn new(keys: (u64, u64)) -> Self {
        Self { keys, announcements: BTreeMap::new(), timers: BTreeSet::new(), peers: BTreeMap::new(), next_sequence: 0 }
    }

    /// A peer offers `wanted`.
    pub fn announced(&mut self, peer: PeerId, wanted: Wanted, preferred: bool, now: Duration) -> Announced {
        if self.announcements.contains_key(&(wanted, peer)) {
            return Announced::Known;
        }
        let share = self.peers.entry(peer).or_default();
        if share.count >= ANNOUNCEMENTS_PER_PEER {
            return Announced::Full;
        }
        let mut time = now;
        if !preferred {
            time += NONPREFERRED_DELAY;
        }
        if matches!(wanted, Wanted::Txid(_)) {
            time += TXID_DELAY;
        }
        if share.in_flight >= IN_FLIGHT_PER_PEER {
            time += OVERLOADED_DELAY;
        }
        share.count += 1;
        share.all.insert(wanted);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let state = if time > now { State::Delayed } else { State::Ready };
        self.announcements.insert((wanted, peer), Announcement { state, preferred, time, sequence });
        if state == State::Delayed {
            self.timers.insert((time, wanted, peer));
        } else {
            self.settle(wanted);
        }
        Announced::New
    }

    /// Lets time pass: delays end, and so do requests. Gives back the requests that ended.
    pub fn advance(&mut self, now: Duration) -> Vec<(PeerId, Wanted)> {
        let mut expired = Vec::new();
        while let Some((time, wanted, peer)) = self.timers.first().copied().filter(|(time, ..)| *time <= now) {
            self.timers.remove(&(time, wanted, peer));
            let was = self.set(peer, wanted, |state| match state {
                State::Requested => State::Completed,
                _ => State::Ready,
            });
            if was == Some(State::Requested) {
                expired.push((peer, wanted));
            }
            self.settle(wanted);
        }
        expired
    }

    /// What to ask of this peer now, in the order in which it announced it. Call [`Self::advance`] first.
    pub fn requestable(&self, peer: PeerId, max: usize) -> Vec<Wanted> {
        let best = self.peers.get(&peer).into_iter().flat_map(|share| &share.best);
        best.take(max).map(|(_, wanted)| *wanted).collect()
    }

    /// The peers of whom there is something to ask, by [`Self::requestable`].
    pub fn askable(&self) -> Vec<PeerId> {
        self.peers.iter().filter(|(_, share)| !share.best.is_empty()).map(|(peer, _)| *peer).collect()
    }

    /// It was asked for.
    pub fn requested(&mut self, peer: PeerId, wanted: Wanted, now: Duration) {
        let Some(announcement) = self.announcements.get_mut(&(wanted, peer)) else { return };
        if announcement.state != State::Best {
            return;
        }
        announcement.time = now + TRANSACTION_EXPIRY;
        let timer = (announcement.time, wanted, peer);
        self.set(peer, wanted, |_| State::Requested);
        self.timers.insert(timer);
    }

    /// The peer answered, with the thing or without: it will not be asked again. Whether it had been asked, and the
    /// answer was still awaited.
    pub fn answered(&mut self, peer: PeerId, wanted: Wanted) -> bool {
        let Some(announcement) = self.announcements.get(&(wanted, peer)) else { return false };
        self.timers.remove(&(announcement.time, wanted, peer));
        let was = self.set(peer, wanted, |_| State::Completed);
        self.settle(wanted);
        was == Some(State::Requested)
    }

    /// Whether an answer is awaited from this peer.
    pub fn is_requested(&self, peer: PeerId, wanted: Wanted) -> bool {
        self.announcements.get(&(wanted, peer)).is_some_and(|announcement| announcement.state == State::Requested)
    }

    /// The peers that announced it, completed ones included.
    pub fn announcers(&self, wanted: Wanted) -> Vec<PeerId> {
        self.range(wanted).map(|(peer, _)| peer).collect()
    }

    /// It is wanted no more. Gives back who had announced it.
    pub fn forget(&mut self, wanted: Wanted) -> Vec<PeerId> {
        let peers = self.announcers(wanted);
        for peer in &peers {
            self.erase(*peer, wanted);
        }
        peers
    }

    /// The peer is gone, and all that it announced.
    pub fn disconnected(&mut self, peer: PeerId) {
        let all: Vec<Wanted> = self.peers.get(&peer).into_iter().flat_map(|share| &share.all).copied().collect();
        for wanted in all {
            self.erase(peer, wanted);
            self.settle(wanted);
        }
        self.peers.remove(&peer);
    }

    /// When [`Self::advance`] next changes something.
    pub fn next_event_at(&self) -> Option<Duration> {
        self.timers.first().map(|(time, ..)| *time)
    }

    /// How many announcements of this peer are kept.
    pub fn count(&self, peer: PeerId) -> usize {
        self.peers.get(&peer).map_or(0, |share| share.count)
    }

    /// How many requests to this peer are open.
    pub fn in_flight(&self, peer: PeerId) -> usize {
        self.peers.get(&peer).map_or(0, |share| share.in_flight)
    }

    /// How many announcements are kept.
    pub fn len(&self) -> usize {
        self.announcements.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.announcements.is_empty()
    }

    fn range(&self, wanted: Wanted) -> impl Iterator<Item = (PeerId, &Announcement)> {
        let range = (wanted, PeerId(0))..=(wanted, PeerId(u64::MAX));
        self.announcements.range(range).map(|((_, peer), announcement)| (*peer, announcement))
    }

    /// The higher, the sooner asked.
    fn priority(&self, peer: PeerId, wanted: Wanted, preferred: bool) -> (bool, u64) {
        let mut hasher = SipHasher24::new_with_keys(self.keys.0, self.keys.1);
        match wanted {
            Wanted::Wtxid(wtxid) => hasher.write(wtxid.as_bytes()),
            Wanted::Txid(txid) => hasher.write(txid.as_bytes()),
        }
        hasher.write(&peer.0.to_le_bytes());
        (preferred, hasher.finish())
    }

    /// Changes an announcement's state and the counts that follow from it; gives back the state before.
    fn set(&mut self, peer: PeerId, wanted: Wanted, change: impl FnOnce(State) -> State) -> Option<State> {
        let announcement = self.announcements.get_mut(&(wanted, peer))?;
        let share = self.peers.get_mut(&peer)?;
        let before = announcement.state;
        announcement.state = change(before);
        match before {
            State::Best => _ = share.best.remove(&(announcement.sequence, wanted)),
            State::Requested => share.in_flight -= 1,
            State::Delayed | State::Ready | State::Completed => {}
        }
        match announcement.state {
            State::Best => _ = share.best.insert((announcement.sequence, wanted)),
            State::Requested => share.in_flight += 1,
            State::Delayed | State::Ready | State::Completed => {}
        }
        Some(before)
    }

    /// Chooses whom to ask next, or gives up when nobody is left. Work: as many steps as there are peers.
    fn settle(&mut self, wanted: Wanted) {
        let states: Vec<(PeerId, State, bool)> =
            self.range(wanted).map(|(peer, at)| (peer, at.state, at.preferred)).collect();
        if states.iter().all(|(_, state, _)| *state == State::Completed) {
            self.forget(wanted);
            return;
        }
        if states.iter().any(|(_, state, _)| *state == State::Requested) {
            return;
        }
        let asked = states.into_iter().filter(|(_, state, _)| matches!(state, State::Ready | State::Best));
        let mut asked: Vec<_> = asked
            .map(|(peer, state, preferred)| (Reverse(self.priority(peer, wanted, preferred)), peer, state))
            .collect();
        asked.sort_unstable_by_key(|(priority, peer, _)| (*priority, *peer));
        for (place, (_, peer, state)) in asked.into_iter().enumerate() {
            let next = if place == 0 { State::Best } else { State::Ready };
            if state != next {
                self.set(peer, wanted, |_| next);
            }
        }
    }

    fn erase(&mut self, peer: PeerId, wanted: Wanted) {
        self.set(peer, wanted, |_| State::Completed);
        if let Some(announcement) = self.announcements.remove(&(wanted, peer)) {
            self.timers.remove(&(announcement.time, wanted, peer));
        }
        if let Some(share) = self.peers.get_mut(&peer) {
            share.all.remove(&wanted);
            share.count -= 1;
            if share.count == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}
