//! Headers first: whom to ask, what to believe, how far the node is.
//!
//! ```text
//!  Headers ─► count, work of each, links ─► base known? ─► work enough? ─► SubmitHeaders ─► HeadersTaken ─► ask on
//!               blame                        │ ask (rare)   │ two passes (presync.rs)
//! ```
//!
//! One peer at a time is asked for the long way; another takes its turn when it makes no progress. When the first has come
//! to its end, all others are asked what they have beyond it, and whoever has more than one message holds goes the long
//! way next. Who is far behind is asked again now and then, as is whoever announces a block above an unknown one. A peer's
//! word counts by the work it has shown, never by a height it claims. Bodies are download.rs's business.

mod lagging;
mod progress;
mod serve;
mod shown;

pub use progress::{SyncProgress, SyncStage, duration_text, is_syncing};

use super::interface::{Action, Desk, Ending, Link, PeerId};
use super::penalty::{self, Offence};
use super::presync::{Presync, PresyncEnd, PresyncStep, threshold};
use crate::chain::{HeaderPoint, HeadersTaken, KnownHeader, SubmitError};
use crate::p2p::limits::{HEADERS_MAX, LOCATOR_HASHES_MAX};
use crate::p2p::message::Message;
use lagging::Lagging;
use progress::{BEHIND_BLOCKS, Meter, Place, expected_height};
use serve::Serving;
use setara_core::block::Header;
use setara_core::consensus::{HeaderState, check_work};
use setara_core::hash::BlockHash;
use setara_core::pow::Work;
use std::collections::BTreeMap;
use std::time::Duration;

/// Without progress for so long, a sync peer is left: 2,000 headers are 160 kB, seconds on any line.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Without an answer for so long, at first and at most, it is another's turn besides: a silent peer must not cost a minute.
/// Twice as long each time, and not less again: where 2,000 headers take eight seconds, not all peers are asked for the same.
const TURN_WAITING: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
/// Without any header stored for so long, likewise: two passes take their time, but must not keep others out.
const TURN_UNSTORED: Duration = Duration::from_secs(60);
/// However well it goes, a turn lasts no longer: a million headers take a minute, while who has headers of little work made
/// beforehand could go on for days.
const TURN_MAX: Duration = Duration::from_secs(10 * 60);
/// A peer that shows much less work than the best header is asked again what it has, so often: 2 kB for a question.
const BEHIND_INTERVAL: Duration = Duration::from_secs(30);
/// A peer that made no progress is not the sync peer again for so long, unless there is no other.
const PASSED_OVER: Duration = Duration::from_secs(600);
/// Between two requests to a peer whose headers lead nowhere known (Core's value).
const UNCONNECTING_INTERVAL: Duration = Duration::from_secs(120);
/// Headers that lead nowhere known, in a row, before it is an offence (Core's value).
const UNCONNECTING_MAX: u32 = 10;
/// What was announced while a question had no answer is asked about after this time.
const MISSED_INTERVAL: Duration = Duration::from_secs(3);

/// Settings of header sync.
#[derive(Debug, Clone, Copy)]
pub struct SyncOptions {
    /// Work that the best chain is known to have: less is never stored without two passes.
    pub minimum_chain_work: Work,
}

struct SyncPeer {
    link: Link,
    /// Requests for headers that have no answer yet.
    asked: u32,
    /// After which block, the last time, and when.
    after: BlockHash,
    asked_at: Duration,
    /// Whether it is asked on for as long as its answers are full.
    long: bool,
    /// Whether it was asked for all it has, since it came or since it was found to be behind.
    caught_up: bool,
    /// The last header of a whole answer that the chain is judging: the peer's tip.
    ends: Option<BlockHash>,
    /// Headers that the chain is judging.
    submitted: u32,
    /// Whether more is to be asked for when the chain has taken what was submitted, and after which block.
    more: Option<BlockHash>,
    progressed: Duration,
    stored: Duration,
    turn_began: Duration,
    passed_over_until: Duration,
    unconnecting: u32,
    unconnecting_asked: Option<Duration>,
    /// Something unconnected was announced while the last question about such had no answer: it is asked again.
    missed: bool,
    presync: Option<Box<Presync>>,
    shown: Option<HeaderPoint>,
    lagging: Lagging,
    serving: Serving,
}

/// Header sync with all peers.
pub struct HeaderSync {
    options: SyncOptions,
    peers: BTreeMap<PeerId, SyncPeer>,
    sync_peer: Option<PeerId>,
    /// Whether some peer has been followed to the end of what it has.
    checked: bool,
    turn_waiting: Duration,
    meter: Meter,
}

impl HeaderSync {
    /// With no peer.
    pub fn new(options: SyncOptions) -> Self {
        let turn_waiting = TURN_WAITING[0];
        Self { options, peers: BTreeMap::new(), sync_peer: None, checked: false, turn_waiting, meter: Meter::default() }
    }

    /// A peer finished its `Hello`.
    pub fn peer_ready(&mut self, desk: &mut Desk<'_>, peer: PeerId, link: Link) {
        if !link.relays_blocks() {
            return;
        }
        let now = desk.monotonic();
        let state = SyncPeer {
            link,
            asked: 0,
            after: BlockHash::ZERO,
            asked_at: now,
            long: false,
            caught_up: false,
            ends: None,
            submitted: 0,
            more: None,
            progressed: now,
            stored: now,
            turn_began: now,
            passed_over_until: Duration::ZERO,
            unconnecting: 0,
            unconnecting_asked: None,
            missed: false,
            presync: None,
            shown: None,
            lagging: Lagging::default(),
            serving: Serving::new(now),
        };
        self.peers.insert(peer, state);
        self.choose(desk);
    }

    /// A peer is gone.
    pub fn peer_gone(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        self.peers.remove(&peer);
        // Whoever comes after a time without any peer may have much that is new.
        self.checked &= !self.peers.is_empty();
        if self.sync_peer == Some(peer) {
            self.sync_peer = None;
            self.choose(desk);
        }
    }

    /// The peer that is asked for the long way, if one is.
    pub const fn sync_peer(&self) -> Option<PeerId> {
        self.sync_peer
    }

    /// Whether some peer, of those here now or before them, was followed to the end of what it has.
    pub const fn is_checked(&self) -> bool {
        self.checked
    }

    /// Memory of chains under two-pass check, in bytes.
    pub fn presync_bytes(&self) -> usize {
        self.peers.values().filter_map(|peer| peer.presync.as_ref()).map(|presync| presync.bytes()).sum()
    }

    /// Whether the node is behind, judged by work alone.
    pub fn is_syncing(&self, desk: &Desk<'_>) -> bool {
        is_syncing(desk.chain, self.options.minimum_chain_work)
    }

    /// How far the node is.
    pub fn progress(&self, desk: &Desk<'_>) -> SyncProgress {
        let place = self.place(desk);
        let target = match self.presync() {
            Some(checked) => expected_height(desk.network(), checked, desk.now.unix_seconds),
            None => desk.chain.headers().best().state.height,
        };
        self.meter.progress(&place, target, self.peers.len())
    }

    /// The chain of the sync peer that is checked for work before it is stored.
    fn presync(&self) -> Option<&HeaderState> {
        let presync = self.sync_peer.and_then(|peer| self.peers.get(&peer)?.presync.as_ref());
        presync.map(|presync| presync.state())
    }

    fn place(&self, desk: &Desk<'_>) -> Place {
        match self.presync() {
            Some(checked) => Place { stage: SyncStage::CheckingHeaders, height: checked.height, transactions: 0 },
            None => {
                let stage = if self.is_syncing(desk) { SyncStage::Blocks } else { SyncStage::Done };
                let done = desk.chain.progress();
                Place { stage, height: done.height, transactions: done.transactions }
            }
        }
    }

    /// Headers came.
    pub fn on_headers(&mut self, desk: &mut Desk<'_>, peer: PeerId, headers: Vec<Header>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if headers.len() as u64 > HEADERS_MAX {
            return desk.blame(peer, Offence::Flood("headers"));
        }
        if state.asked == 0 {
            return desk.blame(peer, Offence::OutOfTurn("headers"));
        }
        state.asked -= 1;
        if headers.is_empty() {
            state.presync = None;
            shown::nothing_after(desk, state);
            return self.finish(desk, peer);
        }
        let Some(work) = check_alone(desk, peer, &headers) else { return };
        if state.presync.is_some() {
            return self.on_presync(desk, peer, &headers);
        }
        self.on_checked(desk, peer, headers, work, true);
    }

    /// A block was announced: its header is worth as much as any other.
    pub fn on_unknown_header(&mut self, desk: &mut Desk<'_>, peer: PeerId, header: Header) {
        if !self.peers.contains_key(&peer) {
            return;
        }
        let headers = vec![header];
        let Some(work) = check_alone(desk, peer, &headers) else { return };
        self.on_checked(desk, peer, headers, work, false);
    }

    /// Headers that follow one another, each with the work it states; `answer` says that they were asked for.
    fn on_checked(&mut self, desk: &mut Desk<'_>, peer: PeerId, headers: Vec<Header>, work: Work, answer: bool) {
        let (Some(first), Some(last)) = (headers.first(), headers.last()) else { return };
        let tree = desk.chain.headers().clone();
        let Some(base) = tree.get(&first.previous) else { return self.on_unconnecting(desk, peer, answer) };
        let last_hash = last.hash();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.unconnecting = 0;
        let full = answer && headers.len() as u64 >= HEADERS_MAX;
        let follow = full && self.follow(desk, peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if let Some(known) = tree.get(&last_hash) {
            if known.bad {
                return desk.blame(peer, Offence::InvalidHeader("invalid-before"));
            }
            if answer && !full {
                state.shown = Some(known.point());
            } else {
                shown::raise(state, known.point());
            }
            return match full {
                true if follow => self.ask(desk, peer, &last_hash),
                true => {}
                false => self.finish_if(desk, peer, answer),
            };
        }
        if base.bad {
            return desk.blame(peer, Offence::InvalidHeader("invalid-before"));
        }
        let Some(total) = base.state.work.checked_add(work) else {
            return desk.blame(peer, Offence::InvalidHeader("work-overflow"));
        };
        if total >= threshold(desk, self.options.minimum_chain_work) {
            state.submitted += 1;
            if answer {
                state.more = follow.then_some(last_hash);
                state.ends = (!full).then_some(last_hash);
            }
            desk.actions.push(Action::SubmitHeaders(peer, headers));
            if !full {
                self.finish_if(desk, peer, answer);
            }
        } else if full {
            if follow {
                self.start_presync(desk, peer, &base, &headers);
            }
        } else {
            if answer {
                state.shown = Some(base.point());
            }
            // Little work and no more of it: nothing to store, and no offence; lagging.rs sees to outgoing links.
            self.finish_if(desk, peer, answer);
        }
    }

    fn start_presync(&mut self, desk: &mut Desk<'_>, peer: PeerId, base: &KnownHeader, headers: &[Header]) {
        let threshold = threshold(desk, self.options.minimum_chain_work);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let presync = Presync::new(desk.chain.network(), base.state, threshold, desk.now.unix_seconds, desk.rng);
        state.presync = Some(Box::new(presync));
        self.on_presync(desk, peer, headers);
    }

    fn on_presync(&mut self, desk: &mut Desk<'_>, peer: PeerId, headers: &[Header]) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some(presync) = state.presync.as_mut() else { return };
        let step = presync.take(desk.chain.network(), desk.now.unix_seconds, headers);
        let start = presync.start().hash;
        match step {
            PresyncStep::Next(after, out) => {
                state.progressed = desk.monotonic();
                submit_all(desk, peer, state, out);
                let mut locator = vec![after];
                locator.extend(desk.chain.headers().locator(&start));
                send_request(desk, peer, state, locator);
            }
            PresyncStep::Done(out) => {
                state.progressed = desk.monotonic();
                state.presync = None;
                state.more = out.last().map(Header::hash);
                submit_all(desk, peer, state, out);
            }
            PresyncStep::End(end) => {
                state.presync = None;
                match end {
                    PresyncEnd::Invalid(rule) => desk.blame(peer, Offence::InvalidHeader(rule.code())),
                    PresyncEnd::Changed => desk.blame(peer, Offence::HeadersChanged),
                    PresyncEnd::TooMany => desk.blame(peer, Offence::LowWork),
                    // Clocks may differ, branches change, and a young peer has little to show.
                    PresyncEnd::Early | PresyncEnd::LowWork | PresyncEnd::Shorter => {}
                }
                self.give_up(desk, peer);
            }
        }
    }

    fn on_unconnecting(&mut self, desk: &mut Desk<'_>, peer: PeerId, answer: bool) {
        let now = desk.monotonic();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let due = state.unconnecting_asked.is_none_or(|asked| now >= asked + UNCONNECTING_INTERVAL);
        // Blocks that follow one another faster than a question is answered are no offence.
        if due || answer {
            state.unconnecting += 1;
        }
        if state.unconnecting >= UNCONNECTING_MAX {
            return desk.blame(peer, Offence::HeadersUnconnecting);
        }
        state.missed = !due;
        if due {
            state.unconnecting_asked = Some(now);
            let best = desk.chain.headers().best().point().hash;
            self.ask(desk, peer, &best);
        } else if answer {
            self.give_up(desk, peer);
        }
    }

    /// The chain took a peer's headers, or not.
    pub fn on_headers_taken(&mut self, desk: &mut Desk<'_>, peer: PeerId, result: &Result<HeadersTaken, SubmitError>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.submitted = state.submitted.saturating_sub(1);
        match result {
            Ok(taken) => {
                state.progressed = desk.monotonic();
                if state.ends.take_if(|ends| *ends == taken.last.hash).is_some() {
                    state.shown = Some(taken.last);
                } else {
                    shown::raise(state, taken.last);
                }
                if taken.new > 0 {
                    state.stored = desk.monotonic();
                    // Progress: the peer may be asked again at once about what it announces.
                    state.unconnecting_asked = None;
                    if std::mem::take(&mut state.missed) {
                        state.unconnecting_asked = Some(desk.monotonic());
                        state.more.get_or_insert(taken.last.hash);
                    }
                }
                if state.submitted == 0
                    && state.presync.is_none()
                    && let Some(after) = state.more.take()
                {
                    self.ask(desk, peer, &after);
                }
            }
            Err(error) => {
                state.more = None;
                state.ends = None;
                state.presync = None;
                if let Some(offence) = penalty::of_headers(error) {
                    desk.blame(peer, offence);
                }
                self.give_up(desk, peer);
            }
        }
    }

    /// A peer asks for headers.
    pub fn on_get_headers(&mut self, desk: &mut Desk<'_>, peer: PeerId, locator: Vec<BlockHash>, stop: BlockHash) {
        if locator.len() as u64 > LOCATOR_HASHES_MAX {
            return desk.blame(peer, Offence::BadRequest("locator"));
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.serving.on_request(desk, peer, locator, stop);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let place = self.place(desk);
        self.meter.sample(now, &place);
        self.check_turns(desk);
        for (peer, state) in &mut self.peers {
            state.serving.tick(desk, *peer);
        }
        let due = |asked: Duration| now >= asked + MISSED_INTERVAL;
        let missed = self.peers.iter().filter(|(_, state)| state.missed && state.unconnecting_asked.is_none_or(due));
        for peer in missed.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            if let Some(state) = self.peers.get_mut(&peer) {
                state.missed = false;
                state.unconnecting_asked = Some(now);
            }
            let best = desk.chain.headers().best().point().hash;
            self.ask(desk, peer, &best);
        }
        self.check_lagging(desk);
        self.check_behind(desk);
        self.choose(desk);
    }

    /// Leaves peers that make no progress on the long way, and lets another have its turn before that.
    fn check_turns(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let waits = |state: &SyncPeer| state.asked > 0 && state.submitted == 0;
        let stuck = |state: &SyncPeer| state.long && waits(state) && now >= state.progressed + PROGRESS_TIMEOUT;
        let stuck: Vec<PeerId> = self.peers.iter().filter(|(_, state)| stuck(state)).map(|(peer, _)| *peer).collect();
        for peer in stuck {
            let link = self.peers.get(&peer).map(|state| state.link);
            if matches!(link, Some(Link::OutboundFull | Link::BlockOnly)) {
                desk.disconnect(peer, Ending::Stalling("headers"));
            }
            self.give_up(desk, peer);
        }
        let Some(state) = self.sync_peer.and_then(|peer| self.peers.get_mut(&peer)) else { return };
        let unanswered = waits(state) && now >= state.progressed + self.turn_waiting;
        let over = unanswered || now >= state.stored + TURN_UNSTORED || now >= state.turn_began + TURN_MAX;
        let free = |state: &SyncPeer| !state.caught_up && state.asked == 0 && state.passed_over_until <= now;
        if over && self.peers.values().any(free) {
            if unanswered {
                self.turn_waiting = (self.turn_waiting * 2).min(TURN_WAITING[1]);
            }
            self.sync_peer = None;
        }
    }

    /// Those who show much less than the best header may have more by now.
    fn check_behind(&mut self, desk: &Desk<'_>) {
        let (now, best) = (desk.monotonic(), desk.chain.headers().best());
        let block = best.header.bits.to_target().map_or(Work::ZERO, |target| target.work());
        let slack = block.checked_mul(BEHIND_BLOCKS).unwrap_or(Work::ZERO);
        for state in self.peers.values_mut().filter(|state| state.caught_up && state.asked == 0) {
            let shown = state.shown.map_or(Work::ZERO, |shown| shown.work);
            let behind = shown.checked_add(slack).is_some_and(|most| most < best.state.work);
            if behind && now >= state.asked_at + BEHIND_INTERVAL {
                state.caught_up = false;
            }
        }
    }

    /// Chooses a sync peer if nobody has been followed to the end yet; after that, asks all others what they have.
    fn choose(&mut self, desk: &mut Desk<'_>) {
        if self.sync_peer.is_some() {
            return;
        }
        let now = desk.monotonic();
        let best = desk.chain.headers().best().point().hash;
        let free = self.peers.iter().filter(|(_, state)| !state.caught_up && state.submitted == 0 && !state.long);
        if self.checked {
            let fit = free.filter(|(_, state)| state.asked == 0 && state.passed_over_until <= now);
            for peer in fit.map(|(peer, _)| *peer).collect::<Vec<_>>() {
                self.ask(desk, peer, &best);
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.caught_up = true;
                }
            }
            return;
        }
        let chosen = free.min_by_key(|(peer, state)| {
            (state.passed_over_until > now, state.link.is_inbound(), state.passed_over_until, **peer)
        });
        // Somebody who failed is asked again at once only if nobody has been found yet.
        let chosen = chosen.filter(|(_, state)| state.passed_over_until <= now || self.peers.len() == 1);
        if let Some(peer) = chosen.map(|(peer, _)| *peer) {
            self.take_turn(desk, peer);
            self.ask(desk, peer, &best);
        }
    }

    /// Whether a peer whose answer was full is asked on: one at a time is; others have their turn when it is done.
    fn follow(&mut self, desk: &Desk<'_>, peer: PeerId) -> bool {
        if self.sync_peer.is_none() {
            self.take_turn(desk, peer);
        }
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        // Not asked on now, it is asked again when it is its turn.
        state.caught_up = false;
        state.long
    }

    fn take_turn(&mut self, desk: &Desk<'_>, peer: PeerId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            self.sync_peer = Some(peer);
            (state.long, state.caught_up) = (true, false);
            let now = desk.monotonic();
            (state.progressed, state.stored, state.turn_began) = (now, now, now);
        }
    }

    fn ask(&mut self, desk: &mut Desk<'_>, peer: PeerId, after: &BlockHash) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        // From one below, so that a peer that has no more still shows what it has.
        let tree = desk.chain.headers();
        let from = tree.get(after).map_or(*after, |known| known.header.previous);
        let mut locator = tree.locator(if tree.get(&from).is_some() { &from } else { after });
        if locator.is_empty() {
            locator = tree.locator(&tree.best().point().hash);
        }
        send_request(desk, peer, state, locator);
    }

    fn finish_if(&mut self, desk: &mut Desk<'_>, peer: PeerId, answer: bool) {
        if answer {
            self.finish(desk, peer);
        }
    }

    /// The peer has no more headers.
    fn finish(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        self.checked = true;
        if let Some(state) = self.peers.get_mut(&peer) {
            (state.caught_up, state.long) = (true, false);
        }
        if self.sync_peer == Some(peer) {
            self.sync_peer = None;
            self.choose(desk);
        }
    }

    /// The peer leads nowhere for now.
    fn give_up(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.passed_over_until = desk.monotonic() + PASSED_OVER;
            state.presync = None;
            state.long = false;
        }
        if self.sync_peer == Some(peer) {
            self.sync_peer = None;
            self.choose(desk);
        }
    }
}

/// What headers must satisfy by themselves, cheapest first; the work of all, or the sender is blamed.
fn check_alone(desk: &mut Desk<'_>, peer: PeerId, headers: &[Header]) -> Option<Work> {
    let (mut total, mut previous) = (Some(Work::ZERO), None);
    for header in headers {
        match check_work(desk.chain.network(), header) {
            Ok((hash, target)) => {
                if previous.is_some_and(|previous| previous != header.previous) {
                    desk.blame(peer, Offence::HeadersDisconnected);
                    return None;
                }
                previous = Some(hash);
                total = total.and_then(|total| total.checked_add(target.work()));
            }
            Err(rule) => {
                desk.blame(peer, Offence::InvalidHeader(rule.code()));
                return None;
            }
        }
    }
    if total.is_none() {
        desk.blame(peer, Offence::InvalidHeader("work-overflow"));
    }
    total
}

fn submit_all(desk: &mut Desk<'_>, peer: PeerId, state: &mut SyncPeer, headers: Vec<Header>) {
    for part in headers.chunks(HEADERS_MAX as usize) {
        state.submitted += 1;
        desk.actions.push(Action::SubmitHeaders(peer, part.to_vec()));
    }
}

fn send_request(desk: &mut Desk<'_>, peer: PeerId, state: &mut SyncPeer, mut locator: Vec<BlockHash>) {
    locator.truncate(LOCATOR_HASHES_MAX as usize);
    state.asked += 1;
    state.asked_at = desk.monotonic();
    state.after = locator.first().copied().unwrap_or(BlockHash::ZERO);
    desk.send(peer, Message::GetHeaders { locator, stop: BlockHash::ZERO });
}

#[cfg(test)]
pub(super) mod tests;
