//! Transactions between peers: announcing, asking, serving.
//!
//! ```text
//!  Announce ──► requests ──► GetTransactions       Transactions ──► waiting ──► verifying (5 a peer) ──► mempool
//!                  ▲                                                  │   ▲                                 │
//!                  └── parents by txid ◄── orphans ◄── missing inputs │   └── retried, one a turn           │
//!                                          rejects ◄── refused ───────┴──────────────── verdicts ◄──────────┘
//!  log of what entered ──► a queue a peer ──trickle──► Announce        GetTransactions ──► serving ──► Transactions
//! ```
//!
//! Own transactions go the same way as all others. What a peer may fetch is what had entered before it was last told
//! something, so asking tells it nothing that it was not told. While syncing nothing is announced, asked or taken.

mod intake;
mod outgoing;
mod pace;
#[cfg(test)]
mod tests;

use super::interface::{Desk, Link, PeerId};
use super::orphans::Orphanage;
use super::penalty::Offence;
use super::rejects::Rejects;
use super::requests::RequestTracker;
use crate::mempool::Moment;
use crate::p2p::message::Reference;
use intake::{Job, Waiting};
use outgoing::AnnounceLog;
use rand::RngExt;
use rand::rngs::StdRng;
use setara_core::hash::{BlockHash, TxId, WtxId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::requests::Wanted;

/// Blocks read for what they confirm; after a longer way all orphans are given up instead.
const TIP_BLOCKS_MAX: usize = 16;

/// What is known of one peer's transactions.
struct Peer {
    link: Link,
    /// Whether it wants announcements.
    relay: bool,
    /// It wants none that pay less, in sen per 1,000 bytes.
    fee_filter: u64,
    /// What it is to be told of: numbers of the log.
    queue: BTreeSet<u64>,
    /// When it is next told, if it is an outgoing peer; incoming ones share one timer.
    next_trickle: Duration,
    /// It may fetch what had entered by then.
    moment: Moment,
    /// What this node last asked it to leave out.
    filter_sent: Option<u64>,
    next_filter: Duration,
    /// In the mempool's hands.
    verifying: Vec<Job>,
    /// Not yet.
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
    /// What it asked for.
    serving: VecDeque<Wanted>,
    next_serve: Duration,
    /// A message with transactions is queued that the peer has not taken.
    untaken: bool,
    /// Announcements that had no place since it last delivered.
    dropped: usize,
}

/// The transaction side of all peers.
pub struct TransactionRelay {
    requests: RequestTracker,
    orphans: Orphanage,
    rejects: Rejects,
    log: AnnounceLog,
    peers: BTreeMap<PeerId, Peer>,
    next_inbound: Duration,
    syncing: bool,
    tip: Option<BlockHash>,
}

impl TransactionRelay {
    /// Without peers, syncing.
    pub fn new(rng: &mut StdRng) -> Self {
        Self {
            requests: RequestTracker::new((rng.random(), rng.random())),
            orphans: Orphanage::default(),
            rejects: Rejects::new(rng),
            log: AnnounceLog::default(),
            peers: BTreeMap::new(),
            next_inbound: Duration::ZERO,
            syncing: true,
            tip: None,
        }
    }

    /// Whether the node is far behind: its verdicts would mean nothing. Fee filters follow with the next tick.
    pub fn set_syncing(&mut self, syncing: bool) {
        if self.syncing != syncing {
            self.syncing = syncing;
            self.peers.values_mut().for_each(|peer| peer.next_filter = Duration::ZERO);
        }
    }

    /// A peer has said `Hello`; `relay` as it said there.
    pub fn peer_ready(&mut self, desk: &mut Desk<'_>, peer: PeerId, link: Link, relay: bool) {
        if !link.relays_transactions() {
            return;
        }
        let now = desk.monotonic();
        let state = Peer {
            link,
            relay,
            fee_filter: 0,
            queue: BTreeSet::new(),
            next_trickle: now + pace::exponential(desk.rng, crate::p2p::limits::TRICKLE_OUTBOUND),
            moment: Moment::default(),
            filter_sent: None,
            next_filter: now,
            verifying: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            serving: VecDeque::new(),
            next_serve: now,
            untaken: false,
            dropped: 0,
        };
        self.peers.insert(peer, state);
        self.send_filters(desk);
    }

    /// A peer is gone, with all that was kept for it.
    pub fn peer_gone(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.requests.disconnected(peer);
        self.orphans.disconnected(peer);
    }

    /// A peer wants no announcements below this feerate, in sen per 1,000 bytes.
    pub fn on_fee_filter(&mut self, peer: PeerId, rate: u64) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.fee_filter = rate;
        }
    }

    /// A peer does not have what it was asked for: others are asked.
    pub fn on_not_found(&mut self, desk: &mut Desk<'_>, peer: PeerId, references: &[Reference]) {
        for reference in references {
            match reference {
                Reference::Transaction(wtxid) => _ = self.requests.answered(peer, Wanted::Wtxid(*wtxid)),
                Reference::Parent(txid) => _ = self.requests.answered(peer, Wanted::Txid(*txid)),
                Reference::Block(_) | Reference::Snapshot(_) => {}
            }
        }
        self.request(desk);
    }

    /// The chain has a new tip: any refusal may be outdated, and what was mined is wanted no more.
    pub fn on_tip_changed(&mut self, desk: &mut Desk<'_>) {
        let view = desk.chain.view();
        let tip = view.tip.hash();
        let before = self.tip.replace(tip);
        if before == Some(tip) {
            return;
        }
        let updates = before.and_then(|before| view.updates_since(before).ok());
        let near = updates.filter(|updates| !self.syncing && updates.apply.len() <= TIP_BLOCKS_MAX && !updates.more);
        let reverted = near.as_ref().is_none_or(|updates| !updates.revert.is_empty());
        self.rejects.tip_changed(reverted, desk.rng);
        let Some(updates) = near else {
            self.orphans.clear();
            return;
        };
        for block in updates.apply.iter().filter_map(|hash| view.block(hash).ok().flatten()) {
            for transaction in &block.transactions {
                let ids = transaction.ids();
                self.rejects.confirm(&ids.txid, &ids.wtxid);
                self.requests.forget(Wanted::Wtxid(ids.wtxid));
                self.requests.forget(Wanted::Txid(ids.txid));
                if !self.orphans.is_empty() {
                    self.orphans.spent(transaction.inputs.iter().map(|input| &input.outpoint));
                    self.orphans.parent_arrived(ids.txid);
                }
            }
        }
    }

    /// Transactions are new in the mempool, whoever brought them; with their feerates in sen per 1,000 bytes.
    pub fn on_mempool_grew(&mut self, desk: &mut Desk<'_>, grown: &[(WtxId, u64)]) {
        for (wtxid, feerate) in grown {
            if let Some(txid) = desk.mempool.txid_of(wtxid) {
                self.entered(*wtxid, txid, *feerate);
            }
        }
    }

    /// A transaction is in the mempool: all but those who announced it are to be told, and its children may follow.
    fn entered(&mut self, wtxid: WtxId, txid: TxId, feerate: u64) {
        let known = self.requests.forget(Wanted::Wtxid(wtxid));
        self.requests.forget(Wanted::Txid(txid));
        self.orphans.remove(&wtxid);
        self.orphans.parent_arrived(txid);
        if self.syncing {
            return;
        }
        let Some(number) = self.log.push(wtxid, feerate) else { return };
        for (id, peer) in &mut self.peers {
            if peer.relay && !known.contains(id) {
                peer.queue.insert(number);
            }
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, desk: &mut Desk<'_>) {
        self.send_filters(desk);
        self.trickle(desk);
        self.request(desk);
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.pump(desk, peer);
            self.serve(desk, peer);
        }
    }

    /// When [`Self::tick`] next has something to do.
    pub fn next_event_at(&self, now: Duration) -> Option<Duration> {
        let trickles = self.peers.values().map(|peer| {
            let trickle = if peer.link.is_inbound() { self.next_inbound } else { peer.next_trickle };
            let serve = if peer.serving.is_empty() { trickle } else { peer.next_serve };
            trickle.min(serve).min(peer.next_filter)
        });
        let ready = self.orphans.any_ready().then_some(now);
        let requests = self.requests.next_event_at().filter(|_| !self.syncing);
        trickles.chain(ready).chain(requests).min()
    }

    /// Messages about transactions on a connection that was made without them.
    fn is_out_of_turn(&self, desk: &mut Desk<'_>, peer: PeerId) -> bool {
        let out_of_turn = !self.peers.contains_key(&peer);
        if out_of_turn {
            desk.blame(peer, Offence::OutOfTurn("transactions where none are exchanged"));
        }
        out_of_turn
    }
}
