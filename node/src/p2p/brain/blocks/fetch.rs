//! Fetching one new block, from several peers if need be.
//!
//! A silent peer holds its place for a while and delays the block by [`SILENCE`], then the next is asked; places that are
//! open to incoming peers are one fewer than places, so no crowd of them keeps an outgoing one out (CVE-2024-52922).

use super::super::compact::{Begun, Filled, Rebuilt, Reconstruction};
use super::super::interface::{Action, Desk, PeerId};
use super::super::penalty::{BlockSource, Offence, of_block};
use super::{Ask, BlockRelay, OWED_MAX, Owed, Peer};
use crate::chain::{Accepted, SubmitError};
use crate::p2p::message::{BlockTransactions, CompactBlock, Message, Reference};
use rand::RngExt;
use setara_core::block::Header;
use setara_core::consensus::{HeaderState, check_header, check_work, header_is_early};
use setara_core::hash::BlockHash;
use setara_core::limits::HEADER_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Blocks fetched at one time: new blocks come one by one, and each has its work; more are left to the sync.
const FETCHES_MAX: usize = 8;
/// Peers asked for one block at one time (Bitcoin Core's number).
const PLACES_MAX: usize = 3;
/// Of these for incoming peers: one is kept for an outgoing one.
const INBOUND_PLACES_MAX: usize = 2;
/// After so long without the block the next peer is asked, whatever came meanwhile.
const SILENCE: Duration = Duration::from_secs(2);
/// After so long a silent peer no longer holds a place; what it sends is still taken.
const PLACE_TIMEOUT: Duration = Duration::from_secs(10);
/// A block that nobody has sent for so long is left to the sync, which knows its header.
const GIVE_UP: Duration = Duration::from_secs(120);
/// Branches that are behind by the work of more blocks than this are not looked at here (Bitcoin Core's number).
const LOW_WORK_BLOCKS: u32 = 144;
/// Blocks above the tip that are fetched here; from further up the blocks between are missing, and the sync brings all.
const AHEAD_MAX: u32 = 2;

/// How far one peer is with one block.
enum Stage {
    /// Asked for the compact block.
    Compact,
    /// Asked for what the mempool lacks.
    Transactions(Box<Reconstruction>),
    /// Asked for the whole block.
    Whole,
    /// Its block is with the chain.
    Judging(BlockSource),
}

struct Attempt {
    started: Duration,
    stage: Stage,
}

impl Attempt {
    const fn is_judging(&self) -> bool {
        matches!(self.stage, Stage::Judging(_))
    }
}

/// A block that is wanted.
pub(super) struct Fetch {
    header: Header,
    started: Duration,
    attempts: BTreeMap<PeerId, Attempt>,
    announcers: BTreeSet<PeerId>,
    /// Whose compact block was looked at: each costs a walk over the mempool.
    pushed: BTreeSet<PeerId>,
    /// Asked in vain.
    failed: BTreeSet<PeerId>,
}

impl Fetch {
    pub fn attempts(&self) -> usize {
        self.attempts.len()
    }

    /// Drops all traces of a peer.
    pub fn forget(&mut self, peer: PeerId) {
        self.attempts.remove(&peer);
        self.announcers.remove(&peer);
        self.pushed.remove(&peer);
        self.failed.remove(&peer);
    }

    /// A peer's attempt has come to nothing.
    fn fail(&mut self, peer: PeerId) {
        self.attempts.remove(&peer);
        self.failed.insert(peer);
    }

    fn is_judged(&self) -> bool {
        self.attempts.values().any(Attempt::is_judging)
    }

    /// Whether a body with the right root is with the chain: then no other is needed.
    fn is_rebuilt(&self) -> bool {
        self.attempts.values().any(|attempt| matches!(attempt.stage, Stage::Judging(BlockSource::Compact)))
    }

    /// Attempts that hold a place, and those of them that are incoming peers'.
    fn places(&self, peers: &BTreeMap<PeerId, Peer>, now: Duration) -> (usize, usize) {
        let holds = |attempt: &Attempt| !attempt.is_judging() && now.saturating_sub(attempt.started) < PLACE_TIMEOUT;
        let held = || self.attempts.iter().filter(|(_, attempt)| holds(attempt)).map(|(id, _)| id);
        let inbound = |id: &&PeerId| peers.get(id).is_some_and(|peer| peer.link.is_inbound());
        (held().count(), held().filter(inbound).count())
    }
}

/// What a header that a peer showed is good for.
enum Offer {
    /// Nothing here.
    Done(Ask),
    /// Its block is wanted.
    Wanted(BlockHash, HeaderState),
}

impl BlockRelay {
    /// A peer has a new block.
    pub fn on_announce_block(&mut self, desk: &mut Desk<'_>, peer: PeerId, header: Header) -> Ask {
        match self.offer(desk, peer, &header) {
            Offer::Done(ask) => ask,
            Offer::Wanted(hash, _) => {
                self.want(desk, peer, hash, header);
                self.advance(desk, hash);
                Ask::Nothing
            }
        }
    }

    /// Looks at a header, cheapest check first.
    fn offer(&mut self, desk: &mut Desk<'_>, peer: PeerId, header: &Header) -> Offer {
        let Some(state) = self.peers.get_mut(&peer) else { return Offer::Done(Ask::Nothing) };
        let hash = match check_work(desk.network(), header) {
            Ok((hash, _)) => hash,
            Err(rule) => {
                desk.blame(peer, Offence::InvalidHeader(rule.code()));
                return Offer::Done(Ask::Nothing);
            }
        };
        state.learn(hash);
        let headers = desk.chain.headers();
        let known = headers.get(&hash);
        if self.syncing || known.is_some_and(|known| known.has_body || known.bad) {
            return Offer::Done(if known.is_some() { Ask::Nothing } else { Ask::Headers });
        }
        let Some(parent) = headers.get(&header.previous) else { return Offer::Done(Ask::Headers) };
        // Bad may mean that this node's operator does not want it: no reason for blame.
        if parent.bad {
            return Offer::Done(Ask::Nothing);
        }
        let child = match check_header(desk.network(), &parent.state, header) {
            Ok(child) => child,
            Err(rule) => {
                desk.blame(peer, Offence::InvalidHeader(rule.code()));
                return Offer::Done(Ask::Nothing);
            }
        };
        let tip = desk.chain.view().tip.header;
        let tip_bits = headers.get(&tip.hash).map(|tip| tip.header.bits);
        let block_work = tip_bits.and_then(|bits| bits.to_target().ok()).map(|target| target.work());
        let slack = block_work.and_then(|work| work.checked_mul(LOW_WORK_BLOCKS));
        if slack.and_then(|slack| tip.work.checked_sub(slack)).is_some_and(|least| child.work < least) {
            return Offer::Done(Ask::Nothing);
        }
        if known.is_none() {
            // The next block may come before this one's body does.
            desk.actions.push(Action::SubmitHeaders(peer, vec![*header]));
        }
        let ahead = child.height.get() > tip.height.get().saturating_add(AHEAD_MAX);
        let full = self.fetches.len() >= FETCHES_MAX && !self.fetches.contains_key(&hash);
        // A branch that is behind is of use only once it leads: then the sync brings what is missing.
        if child.work < tip.work || ahead || full { Offer::Done(Ask::Nothing) } else { Offer::Wanted(hash, child) }
    }

    /// Notes that a peer has a block that is wanted.
    fn want(&mut self, desk: &Desk<'_>, peer: PeerId, hash: BlockHash, header: Header) {
        let started = desk.monotonic();
        let fetch = self.fetches.entry(hash).or_insert_with(|| Fetch {
            header,
            started,
            attempts: BTreeMap::new(),
            announcers: BTreeSet::new(),
            pushed: BTreeSet::new(),
            failed: BTreeSet::new(),
        });
        fetch.announcers.insert(peer);
    }

    /// A compact block: taken if it was asked for, or from a chosen peer; else ignored, unread.
    pub fn on_compact_block(&mut self, desk: &mut Desk<'_>, peer: PeerId, compact: CompactBlock) -> Ask {
        let hash = compact.header.hash();
        let attempt = self.fetches.get(&hash).and_then(|fetch| fetch.attempts.get(&peer));
        let asked = attempt.is_some_and(|attempt| matches!(attempt.stage, Stage::Compact));
        // A second one while the first is being dealt with changes nothing.
        let dealt_with = self.fetches.get(&hash).is_some_and(|fetch| fetch.pushed.contains(&peer));
        let busy = attempt.is_some() || dealt_with || !self.chosen.contains(&peer);
        self.settle_part(peer, hash);
        if !asked && busy {
            return Ask::Nothing;
        }
        let Offer::Wanted(hash, child) = (match self.offer(desk, peer, &compact.header) {
            Offer::Done(ask) if !asked => return ask,
            Offer::Done(ask) => {
                self.lose(desk, peer, hash);
                return ask;
            }
            wanted @ Offer::Wanted(..) => wanted,
        }) else {
            return Ask::Nothing;
        };
        self.want(desk, peer, hash, compact.header);
        if let Some(fetch) = self.fetches.get_mut(&hash) {
            fetch.pushed.insert(peer);
        }
        if self.fetches.get(&hash).is_some_and(|fetch| fetch.is_rebuilt() || fetch.failed.contains(&peer)) {
            self.end(peer, hash);
            return Ask::Nothing;
        }
        let candidates = desk.mempool.ids().into_iter().map(|ids| ids.wtxid);
        let candidates = candidates.chain(self.extra.iter().map(|(wtxid, _)| *wtxid));
        let extra = |wtxid: &_| self.extra.iter().find(|(other, _)| other == wtxid).map(|(_, found)| found.clone());
        let begun = Reconstruction::begin(compact, desk.network().max_block_bytes, candidates, |wtxid| {
            desk.mempool.get_by_wtxid(wtxid).or_else(|| extra(wtxid))
        });
        let started = desk.monotonic();
        let allowed = asked || self.has_place(peer, hash, started);
        match begun {
            Err(impossible) => {
                desk.blame(peer, Offence::BadCompactBlock(impossible.0));
                self.lose(desk, peer, hash);
            }
            Ok(Begun::Complete(rebuilt)) => self.rebuilt(desk, peer, rebuilt, &child),
            Ok(Begun::Missing(_) | Begun::Collision) if !allowed => self.advance(desk, hash),
            Ok(Begun::Missing(reconstruction)) => {
                let indexes = reconstruction.missing().to_vec();
                let stage = Stage::Transactions(Box::new(reconstruction));
                self.ask(desk, peer, hash, stage, Message::GetBlockTransactions { hash, indexes });
            }
            Ok(Begun::Collision) => self.ask_whole(desk, peer, hash),
        }
        Ask::Nothing
    }

    /// Transactions of a compact block: taken once, from whom they were asked for; else ignored.
    pub fn on_block_transactions(&mut self, desk: &mut Desk<'_>, peer: PeerId, answer: BlockTransactions) {
        let hash = answer.hash;
        self.settle_part(peer, hash);
        let Some(fetch) = self.fetches.get_mut(&hash) else { return };
        let (header, needless) = (fetch.header, fetch.is_rebuilt());
        let Some(attempt) = fetch.attempts.get_mut(&peer) else { return };
        if !matches!(attempt.stage, Stage::Transactions(_)) {
            return;
        }
        // Taken out: a second answer finds nothing. What follows, if anything, is the whole block.
        let Stage::Transactions(reconstruction) = std::mem::replace(&mut attempt.stage, Stage::Whole) else { return };
        if needless {
            fetch.attempts.remove(&peer);
            return;
        }
        match reconstruction.fill(answer) {
            Err(impossible) => {
                desk.blame(peer, Offence::BadCompactBlock(impossible.0));
                self.lose(desk, peer, hash);
            }
            Ok(Filled::Collision) => self.ask_whole(desk, peer, hash),
            Ok(Filled::Complete(rebuilt)) => {
                let parent = desk.chain.headers().get(&header.previous);
                let child = parent.and_then(|parent| check_header(desk.network(), &parent.state, &header).ok());
                match child {
                    Some(child) => self.rebuilt(desk, peer, rebuilt, &child),
                    // The tree never loses a header; should it, the sync brings the block.
                    None => drop(self.fetches.remove(&hash)),
                }
            }
        }
    }

    /// A body with the right root: to the chain with it, and on to those who want it at once.
    fn rebuilt(&mut self, desk: &mut Desk<'_>, peer: PeerId, rebuilt: Rebuilt, child: &HeaderState) {
        let (hash, bytes) = (rebuilt.hash(), rebuilt.bytes().clone());
        let started = desk.monotonic();
        if let Some(fetch) = self.fetches.get_mut(&hash) {
            let stage = Stage::Judging(BlockSource::Compact);
            fetch.attempts.insert(peer, Attempt { started, stage });
        }
        desk.actions.push(Action::SubmitBlock { peer, hash, bytes, wanted: true });
        let timely = header_is_early(desk.network(), rebuilt.header(), desk.now.unix_seconds).is_ok();
        if timely && rebuilt.header().previous == desk.chain.view().tip.hash() {
            self.pass_on(desk, &rebuilt, child.height.get());
            self.recent = Some(rebuilt);
        }
    }

    /// A whole block. `false` if it was not asked for here: then, unless the download did, it is `UnwantedBlock`.
    pub fn on_block(&mut self, desk: &mut Desk<'_>, peer: PeerId, bytes: &Arc<[u8]>) -> bool {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>().and_then(|bytes| Header::from_bytes(bytes).ok()) else {
            return false;
        };
        let hash = header.hash();
        if !self.settle_whole(peer, hash) {
            return false;
        }
        self.peer_has(peer, hash);
        let Some(fetch) = self.fetches.get_mut(&hash) else { return true };
        if fetch.is_rebuilt() {
            fetch.attempts.remove(&peer);
        } else if let Some(attempt) = fetch.attempts.get_mut(&peer).filter(|attempt| !attempt.is_judging()) {
            attempt.stage = Stage::Judging(BlockSource::Whole);
            desk.actions.push(Action::SubmitBlock { peer, hash, bytes: bytes.clone(), wanted: true });
        }
        true
    }

    /// The chain has judged a block. `false` if it is not one that this peer sent on an ask from here.
    pub fn on_block_taken(
        &mut self,
        desk: &mut Desk<'_>,
        peer: PeerId,
        hash: BlockHash,
        result: &Result<Accepted, SubmitError>,
    ) -> bool {
        let Some(fetch) = self.fetches.get_mut(&hash) else { return false };
        let source = match fetch.attempts.get(&peer).map(|attempt| &attempt.stage) {
            Some(Stage::Judging(source)) => Some(*source),
            _ => None,
        };
        if source.is_some() {
            fetch.attempts.remove(&peer);
        }
        match result {
            Ok(accepted) => {
                if *accepted == Accepted::Connected && source.is_some() && !self.syncing {
                    self.choose(desk, peer);
                }
                self.close(hash);
            }
            Err(error) => {
                if let Some(offence) = source.and_then(|source| of_block(error, source)) {
                    desk.blame(peer, offence);
                }
                match (error, source) {
                    // Not the block's fault: the body is asked for again, of the same peer if its ids were to blame.
                    (SubmitError::Mutated(_) | SubmitError::Undecodable(_), Some(BlockSource::Compact)) => {
                        self.drop_recent(hash);
                        self.ask_whole(desk, peer, hash);
                    }
                    (SubmitError::Mutated(_) | SubmitError::Undecodable(_), Some(BlockSource::Whole)) => {
                        self.lose(desk, peer, hash);
                    }
                    (SubmitError::Mutated(_) | SubmitError::Undecodable(_), None) => self.advance(desk, hash),
                    _ => {
                        self.drop_recent(hash);
                        self.close(hash);
                    }
                }
            }
        }
        source.is_some()
    }

    /// A peer does not have what it was asked for.
    pub fn on_not_found(&mut self, desk: &mut Desk<'_>, peer: PeerId, references: &[Reference]) {
        for reference in references {
            if let Reference::Block(hash) = reference
                && self.settle(peer, *hash, |owed| owed.part.take().or_else(|| owed.whole.take()))
            {
                self.lose(desk, peer, *hash);
            }
        }
    }

    fn drop_recent(&mut self, hash: BlockHash) {
        self.recent.take_if(|recent| recent.hash() == hash);
    }

    /// A peer has answered, with `taken` telling what. Whether that was owed.
    fn settle(&mut self, peer: PeerId, hash: BlockHash, taken: impl Fn(&mut Owed) -> Option<Duration>) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        let Some(owed) = state.owed.get_mut(&hash) else { return false };
        let settled = taken(owed).is_some();
        if owed.since().is_none() {
            state.owed.remove(&hash);
        }
        settled
    }

    /// With the compact block, or with transactions.
    fn settle_part(&mut self, peer: PeerId, hash: BlockHash) -> bool {
        self.settle(peer, hash, |owed| owed.part.take())
    }

    /// With the whole block, which also is an answer to who asked for a part.
    fn settle_whole(&mut self, peer: PeerId, hash: BlockHash) -> bool {
        self.settle(peer, hash, |owed| owed.whole.take().or_else(|| owed.part.take()))
    }

    /// Ends a peer's attempt without prejudice.
    fn end(&mut self, peer: PeerId, hash: BlockHash) {
        if let Some(fetch) = self.fetches.get_mut(&hash)
            && fetch.attempts.get(&peer).is_some_and(|attempt| !attempt.is_judging())
        {
            fetch.attempts.remove(&peer);
        }
    }

    /// Ends a peer's attempt for good, and asks another.
    fn lose(&mut self, desk: &mut Desk<'_>, peer: PeerId, hash: BlockHash) {
        if let Some(fetch) = self.fetches.get_mut(&hash) {
            fetch.fail(peer);
        }
        self.advance(desk, hash);
    }

    /// Forgets a block, but not those who sent it and wait for the verdict.
    fn close(&mut self, hash: BlockHash) {
        if let Some(fetch) = self.fetches.get_mut(&hash) {
            fetch.attempts.retain(|_, attempt| attempt.is_judging());
            if fetch.attempts.is_empty() {
                self.fetches.remove(&hash);
            }
        }
    }

    fn has_place(&self, peer: PeerId, hash: BlockHash, now: Duration) -> bool {
        let (Some(fetch), Some(state)) = (self.fetches.get(&hash), self.peers.get(&peer)) else { return false };
        let (held, inbound) = fetch.places(&self.peers, now);
        held < PLACES_MAX && (!state.link.is_inbound() || inbound < INBOUND_PLACES_MAX)
    }

    /// Asks a peer for something of a block. Its time runs from its first ask on: no chain of answers buys it more.
    fn ask(&mut self, desk: &mut Desk<'_>, peer: PeerId, hash: BlockHash, stage: Stage, message: Message) {
        let now = desk.monotonic();
        let (Some(fetch), Some(state)) = (self.fetches.get_mut(&hash), self.peers.get_mut(&peer)) else { return };
        let started = fetch.attempts.get(&peer).map_or(now, |attempt| attempt.started);
        let owed = state.owed.entry(hash).or_default();
        match stage {
            Stage::Whole => owed.whole = owed.whole.or(Some(now)),
            Stage::Compact | Stage::Transactions(_) | Stage::Judging(_) => owed.part = Some(now),
        }
        fetch.attempts.insert(peer, Attempt { started, stage });
        desk.send(peer, message);
    }

    fn ask_whole(&mut self, desk: &mut Desk<'_>, peer: PeerId, hash: BlockHash) {
        self.ask(desk, peer, hash, Stage::Whole, Message::GetBlocks(vec![hash]));
    }

    /// Asks the next peer for a block, if it is time to; forgets the block if there is nobody to ask or to wait for.
    pub(super) fn advance(&mut self, desk: &mut Desk<'_>, hash: BlockHash) {
        let now = desk.monotonic();
        let Some(fetch) = self.fetches.get(&hash) else { return };
        if desk.chain.headers().get(&hash).is_some_and(|known| known.has_body || known.bad) {
            self.close(hash);
            return;
        }
        let waiting = |attempt: &Attempt| now.saturating_sub(attempt.started) < SILENCE;
        if fetch.is_judged() || fetch.attempts.values().any(waiting) {
            return;
        }
        // Those who announced it, outgoing ones and good ones first; then outgoing ones that did not.
        let class = |id: &PeerId, peer: &Peer| {
            (!fetch.announcers.contains(id), peer.link.is_inbound(), !self.chosen.contains(id))
        };
        let free = |id: &PeerId, peer: &Peer| {
            let announced = fetch.announcers.contains(id);
            let busy = fetch.attempts.contains_key(id) || fetch.failed.contains(id) || peer.owed.contains_key(&hash);
            (announced || (peer.serves && !peer.link.is_inbound())) && !busy && peer.owed.len() < OWED_MAX
        };
        let candidates: Vec<_> =
            self.peers.iter().filter(|(id, peer)| free(id, peer)).map(|(id, peer)| (class(id, peer), *id)).collect();
        let open: Vec<_> = candidates.iter().filter(|(_, id)| self.has_place(*id, hash, now)).collect();
        let best = open.iter().map(|(class, _)| *class).min();
        let equals: Vec<PeerId> = open.iter().filter(|(class, _)| Some(*class) == best).map(|(_, id)| *id).collect();
        if !equals.is_empty() {
            let Some(peer) = equals.get(desk.rng.random_range(0..equals.len())).copied() else { return };
            // The first is asked for the cheap way; whoever stands in for it, for the sure one.
            let first = fetch.attempts.is_empty() && fetch.failed.is_empty();
            if first && self.peers.get(&peer).is_some_and(|state| state.compact) {
                let message = Message::GetBlockTransactions { hash, indexes: Vec::new() };
                self.ask(desk, peer, hash, Stage::Compact, message);
            } else {
                self.ask_whole(desk, peer, hash);
            }
        } else if candidates.is_empty() {
            let partly = |attempt: &Attempt| matches!(attempt.stage, Stage::Compact | Stage::Transactions(_));
            let partial = fetch.attempts.iter().find(|(_, attempt)| partly(attempt)).map(|(id, _)| *id);
            match partial {
                Some(peer) => self.ask_whole(desk, peer, hash),
                None if fetch.attempts.is_empty() => drop(self.fetches.remove(&hash)),
                None => {}
            }
        }
    }

    /// Drops fetches of blocks that came otherwise.
    pub(super) fn drop_fetched(&mut self, desk: &Desk<'_>) {
        let headers = desk.chain.headers();
        let here = |hash: &BlockHash| headers.get(hash).is_some_and(|known| known.has_body || known.bad);
        self.fetches.retain(|hash, fetch| fetch.is_judged() || !here(hash));
    }

    pub(super) fn tick_fetches(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        self.drop_fetched(desk);
        self.fetches.retain(|_, fetch| fetch.is_judged() || now.saturating_sub(fetch.started) < GIVE_UP);
        let hashes: Vec<BlockHash> = self.fetches.keys().copied().collect();
        for hash in hashes {
            self.advance(desk, hash);
        }
    }
}
