//! New blocks between peers: announcing, asking, rebuilding, serving.
//!
//! ```text
//!  header or compact block ─► offer: work, parent, rules, least work ─► Fetch (one per block)
//!                                                                        │ one Attempt per peer, never shared
//!                                    Compact ─► Transactions ─► Judging(Compact) ─┐
//!                                        └────────► Whole ────► Judging(Whole) ───┴► verdict ─► blame, or ask another
//! ```
//!
//! What one peer answers, or does not, ends its own attempt and no other's (CVE-2024-52921). A block is passed on
//! compactly once its work and root are checked, before it is validated; so nobody is blamed for a block that came
//! compactly. Here are blocks at the tip only: those of a sync are the download's. Nothing is kept of a peer that has gone,
//! and nothing of a block that nobody can be asked for.

mod fetch;
mod serve;
#[cfg(test)]
mod tests;
mod upload;

use super::compact::Rebuilt;
use super::interface::{Action, Desk, Ending, Link, PeerId};
use crate::p2p::limits::REQUESTED_BLOCKS_MAX;
use crate::p2p::message::{Message, services};
use fetch::Fetch;
use rand::RngExt;
use serve::Serving;
use setara_core::block::Header;
use setara_core::hash::{BlockHash, WtxId};
use setara_core::transaction::Transaction;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use upload::Upload;
pub use upload::{PERIOD as UPLOAD_PERIOD, UploadState};

/// Peers asked to send new blocks as unasked compact blocks (BIP 152).
const CHOSEN_MAX: usize = 3;
/// Blocks announced one by one when the tip moves by several; of a longer step only the tip, its headers are asked for.
const ANNOUNCED_STEP_MAX: usize = 8;
/// A node that is syncing tells its tip so often: whoever syncs from it must hear how far it is, at 84 bytes a time.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);
/// Blocks remembered that a peer has: an hour's, as an announcement that is not needed costs 84 bytes.
const KNOWN_BLOCKS_MAX: usize = 64;
/// Transactions remembered that blocks may hold and the mempool does not (Bitcoin Core's number).
const EXTRA_TRANSACTIONS_MAX: usize = 100;
/// Bytes of transactions that go along whole in a block passed on, because the mempool lacked them.
const PREFILL_BYTES_MAX: usize = 10_000;
/// Asks that one peer may have unanswered.
const OWED_MAX: usize = REQUESTED_BLOCKS_MAX as usize;
/// A peer that answers an ask for a block neither with it nor with `NotFound` for so long is of no use.
const OWED_TIMEOUT: Duration = Duration::from_secs(120);

/// What is to be asked of the peer, by those who sync headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Nothing.
    Nothing,
    /// Headers: it has a block whose parent is not known here.
    Headers,
}

/// What is known of one peer.
struct Peer {
    link: Link,
    /// Whether it said that it serves blocks.
    serves: bool,
    /// Whether it said that it speaks compact blocks.
    compact: bool,
    /// Whether it asked for new blocks as unasked compact blocks.
    wants_compact: bool,
    /// Blocks it has, newest last.
    known: VecDeque<BlockHash>,
    /// Blocks it was asked for and has not answered.
    owed: BTreeMap<BlockHash, Owed>,
    serving: Serving,
}

impl Peer {
    fn learn(&mut self, hash: BlockHash) {
        if !self.known.contains(&hash) {
            if self.known.len() == KNOWN_BLOCKS_MAX {
                self.known.pop_front();
            }
            self.known.push_back(hash);
        }
    }
}

/// Since when a peer owes answers on one block.
#[derive(Debug, Clone, Copy, Default)]
struct Owed {
    /// The compact block or transactions of it.
    part: Option<Duration>,
    /// The whole.
    whole: Option<Duration>,
}

impl Owed {
    /// Since when, if anything is owed.
    fn since(&self) -> Option<Duration> {
        [self.part, self.whole].into_iter().flatten().min()
    }
}

/// How much there is, for tests and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Peers.
    pub peers: usize,
    /// Blocks being fetched.
    pub fetches: usize,
    /// Attempts of all fetches together.
    pub attempts: usize,
    /// Peers chosen for high bandwidth.
    pub chosen: usize,
    /// Unanswered asks.
    pub owed: usize,
    /// Blocks and parts of blocks waiting to be sent.
    pub queued: usize,
}

/// Announces, fetches and serves blocks at the tip.
pub struct BlockRelay {
    peers: BTreeMap<PeerId, Peer>,
    fetches: BTreeMap<BlockHash, Fetch>,
    /// Peers asked for unasked compact blocks, the one to go first in front.
    chosen: VecDeque<PeerId>,
    /// The block last rebuilt: served while the store does not have it yet.
    recent: Option<Rebuilt>,
    /// Height of the highest block passed on before it was validated: one for each height.
    passed_on: u32,
    extra: VecDeque<(WtxId, Arc<Transaction>)>,
    /// The tip last announced.
    announced: Option<BlockHash>,
    /// The tip last told while syncing, and when.
    told: Option<(BlockHash, Duration)>,
    upload: Upload,
    syncing: bool,
}

impl BlockRelay {
    /// Syncing, with no peers. `upload_target` is bytes a day; `None` for no limit.
    pub fn new(upload_target: Option<u64>) -> Self {
        Self {
            peers: BTreeMap::new(),
            fetches: BTreeMap::new(),
            chosen: VecDeque::new(),
            recent: None,
            passed_on: 0,
            extra: VecDeque::new(),
            announced: None,
            told: None,
            upload: Upload::new(upload_target),
            syncing: true,
        }
    }

    /// While syncing nothing is fetched here and the tip is told now and then only; what is asked for is served all the same.
    pub fn set_syncing(&mut self, syncing: bool) {
        self.syncing = syncing;
    }

    /// A peer has said `Hello`, with these services.
    pub fn peer_ready(&mut self, peer: PeerId, link: Link, services: u64) {
        if link.relays_blocks() {
            let state = Peer {
                link,
                serves: services & services::BLOCKS != 0,
                compact: services & services::COMPACT_BLOCKS != 0,
                wants_compact: false,
                known: VecDeque::new(),
                owed: BTreeMap::new(),
                serving: Serving::default(),
            };
            self.peers.insert(peer, state);
        }
    }

    /// A peer has gone; what it was asked for is asked of others.
    pub fn peer_gone(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        if let Some(state) = self.peers.remove(&peer) {
            self.upload.settle(state.serving.promised());
        }
        self.chosen.retain(|other| *other != peer);
        let hashes: Vec<BlockHash> = self.fetches.keys().copied().collect();
        for hash in hashes {
            if let Some(fetch) = self.fetches.get_mut(&hash) {
                fetch.forget(peer);
            }
            self.advance(desk, hash);
        }
    }

    /// A peer has this block, by whatever it said: it is not announced to it.
    pub fn peer_has(&mut self, peer: PeerId, hash: BlockHash) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.learn(hash);
        }
    }

    /// Whether a peer wants new blocks as unasked compact blocks.
    pub fn on_send_compact(&mut self, peer: PeerId, wanted: bool) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.wants_compact = wanted;
        }
    }

    /// A transaction that the mempool did not keep, or gave up: a block may hold it all the same.
    pub fn remember(&mut self, wtxid: WtxId, transaction: Arc<Transaction>) {
        if self.extra.iter().all(|(other, _)| *other != wtxid) {
            if self.extra.len() == EXTRA_TRANSACTIONS_MAX {
                self.extra.pop_front();
            }
            self.extra.push_back((wtxid, transaction));
        }
    }

    /// The chain has a new tip: peers that do not have it hear of it.
    pub fn on_tip_changed(&mut self, desk: &mut Desk<'_>) {
        let view = desk.chain.view();
        let tip = view.tip.hash();
        let since = self.announced.replace(tip);
        self.drop_fetched(desk);
        if self.syncing || since == Some(tip) {
            return;
        }
        // A fault of the store is the chain's to report; the tip can be announced without it.
        let step = since.and_then(|since| view.updates_since(since).ok());
        let step = step.filter(|step| !step.more && step.apply.len() <= ANNOUNCED_STEP_MAX);
        for hash in step.map_or_else(|| vec![tip], |step| step.apply) {
            if let Some(known) = desk.chain.headers().get(&hash) {
                self.announce(desk, hash, known.header, hash == tip);
            }
        }
    }

    fn announce(&mut self, desk: &mut Desk<'_>, hash: BlockHash, header: Header, newest: bool) {
        let recent = self.recent.as_ref().filter(|recent| recent.hash() == hash);
        for (id, peer) in self.peers.iter_mut().filter(|(_, peer)| !peer.known.contains(&hash)) {
            peer.learn(hash);
            match recent {
                _ if !(newest && peer.wants_compact) => desk.send(*id, Message::AnnounceBlock(header)),
                Some(recent) => {
                    let compact = recent.compact(desk.rng.random(), &recent.prefill(PREFILL_BYTES_MAX));
                    desk.send(*id, Message::CompactBlock(Box::new(compact)));
                }
                None => desk.actions.push(Action::SendCompactBlock(*id, hash)),
            }
        }
    }

    /// While syncing, tells peers how far this node is.
    fn tell_progress(&mut self, desk: &mut Desk<'_>) {
        let (now, tip) = (desk.monotonic(), desk.chain.view().tip.hash());
        let due = self.told.is_none_or(|(told, at)| told != tip && now >= at + PROGRESS_INTERVAL);
        if self.syncing
            && due
            && let Some(known) = desk.chain.headers().get(&tip).filter(|known| known.state.height.get() > 0)
        {
            self.told = Some((tip, now));
            self.announce(desk, tip, known.header, false);
        }
    }

    /// Passes on a block whose work and root are right, before it is validated, to peers that asked for that.
    fn pass_on(&mut self, desk: &mut Desk<'_>, rebuilt: &Rebuilt, height: u32) {
        if height <= self.passed_on {
            return;
        }
        self.passed_on = height;
        let (hash, prefill) = (rebuilt.hash(), rebuilt.prefill(PREFILL_BYTES_MAX));
        for (id, peer) in &mut self.peers {
            if peer.wants_compact && !peer.known.contains(&hash) {
                peer.learn(hash);
                let compact = rebuilt.compact(desk.rng.random(), &prefill);
                desk.send(*id, Message::CompactBlock(Box::new(compact)));
            }
        }
    }

    /// A peer was the first with a new tip: it is asked for unasked compact blocks from now on, and the one that was
    /// first longest ago no more, unless that is the only outgoing one (an attacker dials in as often as it likes).
    fn choose(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        let outgoing = |id: &PeerId| self.peers.get(id).is_some_and(|peer| !peer.link.is_inbound());
        if !self.peers.get(&peer).is_some_and(|state| state.compact) {
            return;
        }
        if let Some(place) = self.chosen.iter().position(|other| *other == peer) {
            self.chosen.remove(place);
            self.chosen.push_back(peer);
            return;
        }
        if self.chosen.len() == CHOSEN_MAX {
            let alone = !outgoing(&peer) && self.chosen.iter().filter(|id| outgoing(id)).count() == 1;
            let keep_first = alone && self.chosen.front().is_some_and(outgoing);
            if let Some(dropped) = self.chosen.remove(usize::from(keep_first)) {
                desk.send(dropped, Message::SendCompact(false));
            }
        }
        self.chosen.push_back(peer);
        desk.send(peer, Message::SendCompact(true));
    }

    /// Time has passed. To be called at least twice a second: the fallback from a silent peer waits for it.
    pub fn tick(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        for (id, peer) in &mut self.peers {
            if peer.owed.values().filter_map(Owed::since).any(|since| now.saturating_sub(since) >= OWED_TIMEOUT) {
                peer.owed.clear();
                desk.disconnect(*id, Ending::Stalling("block"));
            }
        }
        self.tick_fetches(desk);
        self.tell_progress(desk);
    }

    /// How much there is.
    pub fn held(&self) -> Held {
        Held {
            peers: self.peers.len(),
            fetches: self.fetches.len(),
            attempts: self.fetches.values().map(Fetch::attempts).sum(),
            chosen: self.chosen.len(),
            owed: self.peers.values().map(|peer| peer.owed.len()).sum(),
            queued: self.peers.values().map(|peer| peer.serving.len()).sum(),
        }
    }

    /// Peers chosen for unasked compact blocks, for `getpeerinfo`.
    pub fn chosen(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.chosen.iter().copied()
    }
}
