//! Asking for transactions, taking them in, and what follows from the mempool's verdicts.
//!
//! What a peer pushes unasked is accounted for exactly as what it was asked for: five in the mempool's hands, a bounded
//! queue before that, and blame beyond.

use super::TransactionRelay;
use crate::chain::View;
use crate::mempool::feerate::Feerate;
use crate::p2p::brain::interface::{Action, Desk, PeerId, TransactionVerdict};
use crate::p2p::brain::penalty::{Offence, of_transaction};
use crate::p2p::brain::rejects::{Disposal, disposal};
use crate::p2p::brain::requests::{Announced, Wanted};
use crate::p2p::limits::{
    ANNOUNCEMENTS_DROPPED_MAX, REQUESTED_TRANSACTIONS_MAX, VERIFYING_PER_PEER, WAITING_BYTES_PER_PEER, WAITING_PER_PEER,
};
use crate::p2p::message::Message;
use setara_core::hash::{TxId, WtxId};
use setara_core::transaction::{OutPoint, Transaction, TransactionIds};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A transaction that waits for the mempool's attention.
pub(super) struct Waiting {
    transaction: Transaction,
    ids: TransactionIds,
}

#[cfg(test)]
impl Waiting {
    pub(super) const fn bytes(&self) -> u64 {
        self.ids.size
    }
}

/// How a transaction came to be with the mempool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The peer sent it.
    Sent,
    /// It was an orphan.
    Retried,
    /// With this child.
    ParentOf(WtxId),
    /// With a parent that the peer sent.
    Child,
}

/// A transaction in the mempool's hands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    wtxid: WtxId,
    kind: Kind,
}

impl TransactionRelay {
    /// A peer offers transactions.
    pub fn on_announce(&mut self, desk: &mut Desk<'_>, peer: PeerId, wtxids: &[WtxId]) {
        if self.is_out_of_turn(desk, peer) || self.syncing {
            return;
        }
        let now = desk.monotonic();
        let here = desk.mempool.contains_wtxids(wtxids);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let preferred = !state.link.is_inbound();
        for (wtxid, here) in wtxids.iter().zip(here) {
            if here {
                // It need not be told of what it told of.
                self.log.number(wtxid).map(|number| state.queue.remove(&number));
            } else if self.orphans.contains(wtxid) {
                if self.orphans.announced(peer, wtxid) {
                    for parent in self.orphans.missing(wtxid) {
                        self.requests.announced(peer, Wanted::Txid(parent), preferred, now);
                    }
                }
            } else if !self.rejects.is_refused(wtxid)
                && !self.rejects.is_poor(wtxid)
                && !self.rejects.is_confirmed(wtxid.as_bytes())
                && self.requests.announced(peer, Wanted::Wtxid(*wtxid), preferred, now) == Announced::Full
            {
                state.dropped += 1;
            }
        }
        if state.dropped > ANNOUNCEMENTS_DROPPED_MAX {
            state.dropped = 0;
            desk.blame(peer, Offence::Flood("announce"));
        }
        self.request(desk);
    }

    /// Asks whoever is next for whatever is wanted.
    pub(super) fn request(&mut self, desk: &mut Desk<'_>) {
        if self.syncing {
            return;
        }
        let now = desk.monotonic();
        self.requests.advance(now);
        let max = usize::try_from(REQUESTED_TRANSACTIONS_MAX).expect("a small number");
        for peer in self.requests.askable() {
            let (mut wtxids, mut txids) = (Vec::new(), Vec::new());
            for wanted in self.requests.requestable(peer, max) {
                if self.is_settled(desk, wanted) {
                    self.requests.forget(wanted);
                    continue;
                }
                self.requests.requested(peer, wanted, now);
                match wanted {
                    Wanted::Wtxid(wtxid) => wtxids.push(wtxid),
                    Wanted::Txid(txid) => txids.push(txid),
                }
            }
            if !wtxids.is_empty() || !txids.is_empty() {
                desk.send(peer, Message::GetTransactions { wtxids, txids });
            }
        }
    }

    /// Whether there is nothing to be gained by fetching it. By txid only what is here or mined counts: a refused
    /// witness says nothing about another.
    fn is_settled(&self, desk: &Desk<'_>, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Wtxid(wtxid) => {
                self.rejects.is_refused(&wtxid)
                    || self.rejects.is_confirmed(wtxid.as_bytes())
                    || self.orphans.contains(&wtxid)
                    || desk.mempool.contains_wtxid(&wtxid)
            }
            Wanted::Txid(txid) => self.rejects.is_confirmed(txid.as_bytes()) || desk.mempool.contains_txid(&txid),
        }
    }

    /// A peer sent transactions, asked for or not.
    pub fn on_transactions(&mut self, desk: &mut Desk<'_>, peer: PeerId, transactions: Vec<Transaction>) {
        if self.is_out_of_turn(desk, peer) || self.syncing {
            return;
        }
        for transaction in transactions {
            let ids = transaction.ids();
            let (by_wtxid, by_txid) = (Wanted::Wtxid(ids.wtxid), Wanted::Txid(ids.txid));
            let asked = self.requests.is_requested(peer, by_wtxid) || self.requests.is_requested(peer, by_txid);
            if self.is_settled(desk, by_wtxid) {
                self.requests.answered(peer, by_txid);
                self.requests.forget(by_wtxid);
                continue;
            }
            let Some(state) = self.peers.get_mut(&peer) else { return };
            if asked {
                state.dropped = 0;
            }
            let bytes = state.waiting_bytes + ids.size;
            if state.waiting.len() < WAITING_PER_PEER && bytes <= WAITING_BYTES_PER_PEER {
                // It counts as asked for until the verdict, so nobody else is asked meanwhile.
                state.waiting_bytes = bytes;
                state.waiting.push_back(Waiting { transaction, ids });
            } else if asked {
                self.requests.answered(peer, by_wtxid);
                self.requests.answered(peer, by_txid);
            } else {
                desk.blame(peer, Offence::UnwantedTransaction);
                break;
            }
        }
        self.pump(desk, peer);
        self.request(desk);
    }

    /// Hands the mempool what a peer may have there, and at most one of its orphans again.
    pub(super) fn pump(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        if self.syncing {
            return;
        }
        let mut batch = Vec::new();
        while let Some(Waiting { transaction, ids }) = self.next_waiting(peer) {
            if self.is_settled(desk, Wanted::Wtxid(ids.wtxid)) {
                self.requests.answered(peer, Wanted::Txid(ids.txid));
                self.requests.forget(Wanted::Wtxid(ids.wtxid));
            } else if self.rejects.is_poor(&ids.wtxid) {
                self.requests.answered(peer, Wanted::Txid(ids.txid));
                self.requests.forget(Wanted::Wtxid(ids.wtxid));
                self.submit_package(desk, peer, transaction, ids.txid, ids.wtxid);
            } else {
                self.start(peer, ids.wtxid, Kind::Sent);
                batch.push(transaction);
            }
        }
        if self.peers.get(&peer).is_some_and(|state| state.verifying.len() < VERIFYING_PER_PEER)
            && let Some(orphan) = self.orphans.take_ready(peer)
        {
            self.start(peer, orphan.wtxid(), Kind::Retried);
            batch.push(Arc::unwrap_or_clone(orphan));
        }
        if !batch.is_empty() {
            desk.actions.push(Action::SubmitTransactions(peer, batch));
        }
    }

    fn next_waiting(&mut self, peer: PeerId) -> Option<Waiting> {
        let state = self.peers.get_mut(&peer).filter(|state| state.verifying.len() < VERIFYING_PER_PEER)?;
        let next = state.waiting.pop_front()?;
        state.waiting_bytes -= next.ids.size;
        Some(next)
    }

    fn start(&mut self, peer: PeerId, wtxid: WtxId, kind: Kind) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.verifying.push(Job { wtxid, kind });
        }
    }

    /// Hands the mempool a parent that pays too little together with a child that the same peer announced, if there is
    /// one and the two were not refused together before.
    fn submit_package(&mut self, desk: &mut Desk<'_>, peer: PeerId, parent: Transaction, txid: TxId, wtxid: WtxId) {
        let mut children = self.orphans.children_from(peer, txid).into_iter();
        let Some(child) = children.find(|child| !self.rejects.is_poor_package(&wtxid, child)) else { return };
        let Some(transaction) = self.orphans.get(&child) else { return };
        self.start(peer, wtxid, Kind::ParentOf(child));
        self.start(peer, child, Kind::Child);
        let package = Box::new([parent, Arc::unwrap_or_clone(transaction)]);
        desk.actions.push(Action::SubmitPackage(peer, package));
    }

    /// The mempool has judged.
    pub fn on_verdicts(&mut self, desk: &mut Desk<'_>, verdicts: Vec<TransactionVerdict>) {
        let peers: BTreeSet<PeerId> = verdicts.iter().map(|verdict| verdict.peer).collect();
        for verdict in verdicts {
            self.on_verdict(desk, verdict);
        }
        for peer in peers {
            self.pump(desk, peer);
        }
        self.request(desk);
    }

    fn on_verdict(&mut self, desk: &mut Desk<'_>, verdict: TransactionVerdict) {
        let TransactionVerdict { peer, transaction, txid, wtxid, result } = verdict;
        let kind = self.finish(peer, &wtxid);
        let error = match result {
            Ok(()) => {
                let fee = transaction.fee().map_or(0, |fee| fee.sen());
                let feerate = Feerate::new(fee, transaction.ids().size).sen_per_kilobyte();
                self.entered(wtxid, txid, feerate);
                return;
            }
            Err(error) => error,
        };
        if let Some(offence) = of_transaction(&error) {
            // Whoever only announced an orphan has not vouched for it.
            let sender = match kind {
                Kind::Sent | Kind::ParentOf(_) => Some(peer),
                Kind::Retried | Kind::Child => self.orphans.sender(&wtxid),
            };
            if let Some(sender) = sender.filter(|sender| self.peers.contains_key(sender)) {
                desk.blame(sender, offence);
            }
        }
        self.requests.answered(peer, Wanted::Txid(txid));
        match disposal(&error) {
            Disposal::Nothing => {
                if desk.mempool.contains_wtxid(&wtxid) {
                    self.requests.forget(Wanted::Wtxid(wtxid));
                    self.orphans.remove(&wtxid);
                }
                self.requests.answered(peer, Wanted::Wtxid(wtxid));
            }
            Disposal::Reject => self.refuse(&wtxid),
            Disposal::TooPoor => {
                self.rejects.refuse_poor(&wtxid);
                self.requests.forget(Wanted::Wtxid(wtxid));
                self.orphans.remove(&wtxid);
                match kind {
                    Kind::ParentOf(child) => self.rejects.refuse_package(&wtxid, &child),
                    Kind::Sent | Kind::Retried => {
                        self.submit_package(desk, peer, Arc::unwrap_or_clone(transaction), txid, wtxid);
                    }
                    Kind::Child => {}
                }
            }
            // A child whose parent was not taken waits on: another parent with the same txid may come.
            Disposal::Orphan if kind == Kind::Child => {}
            Disposal::Orphan => self.keep_orphan(desk, peer, transaction, kind == Kind::Retried),
        }
    }

    fn refuse(&mut self, wtxid: &WtxId) {
        self.rejects.refuse(wtxid);
        self.requests.forget(Wanted::Wtxid(*wtxid));
        self.orphans.remove(wtxid);
    }

    fn finish(&mut self, peer: PeerId, wtxid: &WtxId) -> Kind {
        let state = self.peers.get_mut(&peer);
        let job = state.and_then(|state| {
            let place = state.verifying.iter().position(|job| job.wtxid == *wtxid)?;
            Some(state.verifying.remove(place))
        });
        job.map_or(Kind::Sent, |job| job.kind)
    }

    /// Keeps a transaction until its parents come, and asks for them, of everybody who announced it.
    fn keep_orphan(&mut self, desk: &mut Desk<'_>, peer: PeerId, transaction: Arc<Transaction>, retried: bool) {
        let ids = transaction.ids();
        let missing = missing_parents(desk, &desk.chain.view(), &transaction);
        // What a missing coin's mined parent made was spent by another; and what misses nothing but was refused twice
        // spends an output that does not exist.
        let hopeless = missing.iter().any(|parent| self.rejects.is_confirmed(parent.as_bytes()));
        if hopeless || (missing.is_empty() && retried) {
            self.refuse(&ids.wtxid);
            return;
        }
        if !self.peers.contains_key(&peer) {
            // Nobody is left to answer for it: whoever else announced it is asked.
            return;
        }
        let mut announcers = self.requests.forget(Wanted::Wtxid(ids.wtxid));
        announcers.push(peer);
        if !self.orphans.add(peer, transaction, ids) {
            return;
        }
        if missing.is_empty() {
            self.orphans.ready(peer, &ids.wtxid);
        }
        self.orphans.set_missing(&ids.wtxid, missing.clone());
        for announcer in announcers {
            self.orphans.announced(announcer, &ids.wtxid);
            let preferred = self.peers.get(&announcer).is_some_and(|state| !state.link.is_inbound());
            for parent in &missing {
                self.requests.announced(announcer, Wanted::Txid(*parent), preferred, desk.now.monotonic);
            }
        }
    }
}

/// Parents that neither the mempool nor the chain's coins account for.
fn missing_parents(desk: &Desk<'_>, view: &View, transaction: &Transaction) -> BTreeSet<TxId> {
    let outpoints: Vec<OutPoint> = transaction
        .inputs
        .iter()
        .map(|input| input.outpoint)
        .filter(|outpoint| !desk.mempool.contains_txid(&outpoint.txid))
        .collect();
    // Without an answer from the store all of them count as missing.
    let coins = view.coins(&outpoints).unwrap_or_else(|_| vec![None; outpoints.len()]);
    outpoints.iter().zip(coins).filter(|(_, coin)| coin.is_none()).map(|(outpoint, _)| outpoint.txid).collect()
}
