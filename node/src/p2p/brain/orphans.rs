//! Transactions whose parents are missing, within bounds (Bitcoin Core's `txorphanage.h`).
//!
//! Keyed by wtxid. Each peer that announced an orphan carries it in full: its score (1 + inputs / 10, what it costs to
//! look at again) and its bytes. When all together are too much, the peer that is furthest above its share loses its
//! oldest; an orphan leaves when its last announcer has lost it. So a peer within its share keeps its orphans whatever
//! others do.

use super::interface::PeerId;
use crate::p2p::limits::{ORPHAN_BYTES_PER_PEER, ORPHAN_SCORE_MAX};
use setara_core::hash::{TxId, WtxId};
use setara_core::transaction::{OutPoint, Transaction, TransactionIds};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[cfg(test)]
pub(crate) mod tests;

/// Inputs that count as much as a transaction.
const INPUTS_PER_POINT: u64 = 10;
/// Fractions in which shares are compared.
const SHARE_PARTS: u64 = 1_000_000;

/// A place in a peer's order of orphans: those to look at again last, then by age. The first goes first.
type Place = (bool, u64);

#[derive(Debug)]
struct Orphan {
    transaction: Arc<Transaction>,
    ids: TransactionIds,
    score: u64,
    /// Who sent it: to blame if it turns out to be invalid.
    sender: PeerId,
    /// Parents that neither the chain nor the mempool had.
    missing: BTreeSet<TxId>,
    announcers: BTreeMap<PeerId, Place>,
}

#[derive(Debug, Default)]
struct PeerShare {
    order: BTreeMap<Place, WtxId>,
    score: u64,
    bytes: u64,
}

/// All orphans.
#[derive(Debug, Default)]
pub struct Orphanage {
    orphans: BTreeMap<WtxId, Orphan>,
    by_outpoint: BTreeSet<(OutPoint, WtxId)>,
    peers: BTreeMap<PeerId, PeerShare>,
    score: u64,
    bytes: u64,
    next_sequence: u64,
}

impl Orphanage {
    /// Keeps an orphan that this peer sent; if it is here already, the peer becomes one of its announcers. Then makes
    /// room. Whether it is (still) here.
    pub fn add(&mut self, peer: PeerId, transaction: Arc<Transaction>, ids: TransactionIds) -> bool {
        if !self.orphans.contains_key(&ids.wtxid) {
            let inputs = transaction.inputs.len() as u64;
            self.by_outpoint.extend(transaction.inputs.iter().map(|input| (input.outpoint, ids.wtxid)));
            self.bytes += ids.size;
            let score = 1 + inputs / INPUTS_PER_POINT;
            let orphan =
                Orphan { transaction, ids, score, sender: peer, missing: BTreeSet::new(), announcers: BTreeMap::new() };
            self.orphans.insert(ids.wtxid, orphan);
        }
        self.add_announcer(peer, &ids.wtxid);
        self.trim();
        self.contains(&ids.wtxid)
    }

    /// A peer announced an orphan: it may resolve it. Whether that is news.
    pub fn announced(&mut self, peer: PeerId, wtxid: &WtxId) -> bool {
        let new = self.add_announcer(peer, wtxid);
        self.trim();
        new
    }

    fn add_announcer(&mut self, peer: PeerId, wtxid: &WtxId) -> bool {
        let Some(orphan) = self.orphans.get_mut(wtxid) else { return false };
        if orphan.announcers.contains_key(&peer) {
            return false;
        }
        let place = (false, self.next_sequence);
        self.next_sequence += 1;
        orphan.announcers.insert(peer, place);
        let share = self.peers.entry(peer).or_default();
        share.order.insert(place, *wtxid);
        share.score += orphan.score;
        share.bytes += orphan.ids.size;
        self.score += orphan.score;
        true
    }

    /// Whether it is here.
    pub fn contains(&self, wtxid: &WtxId) -> bool {
        self.orphans.contains_key(wtxid)
    }

    /// The transaction.
    pub fn get(&self, wtxid: &WtxId) -> Option<Arc<Transaction>> {
        Some(self.orphans.get(wtxid)?.transaction.clone())
    }

    /// Who sent it.
    pub fn sender(&self, wtxid: &WtxId) -> Option<PeerId> {
        Some(self.orphans.get(wtxid)?.sender)
    }

    /// Says which of its parents are to be asked for.
    pub fn set_missing(&mut self, wtxid: &WtxId, missing: BTreeSet<TxId>) {
        if let Some(orphan) = self.orphans.get_mut(wtxid) {
            orphan.missing = missing;
        }
    }

    /// The parents that are to be asked for.
    pub fn missing(&self, wtxid: &WtxId) -> BTreeSet<TxId> {
        self.orphans.get(wtxid).map(|orphan| orphan.missing.clone()).unwrap_or_default()
    }

    /// It is to be looked at again on behalf of this announcer.
    pub fn ready(&mut self, peer: PeerId, wtxid: &WtxId) {
        self.mark(peer, wtxid, true);
    }

    /// A parent has arrived: its children are to be looked at again, each on behalf of its sender if that still
    /// announces it, of the oldest announcer otherwise. Gives back how many.
    pub fn parent_arrived(&mut self, parent: TxId) -> usize {
        let children = self.children(parent);
        for wtxid in &children {
            let Some(orphan) = self.orphans.get(wtxid) else { continue };
            let first = orphan.announcers.iter().min_by_key(|(_, place)| place.1).map(|(peer, _)| *peer);
            let sender = Some(orphan.sender).filter(|sender| orphan.announcers.contains_key(sender));
            if let Some(peer) = sender.or(first) {
                self.mark(peer, wtxid, true);
            }
        }
        children.len()
    }

    /// The next orphan to be looked at again on behalf of this peer. It stays until it is removed.
    pub fn take_ready(&mut self, peer: PeerId) -> Option<Arc<Transaction>> {
        let share = self.peers.get(&peer)?;
        let (_, wtxid) = share.order.range((true, 0)..).next()?;
        let wtxid = *wtxid;
        self.mark(peer, &wtxid, false);
        self.get(&wtxid)
    }

    /// Whether an orphan is to be looked at again on behalf of this peer.
    pub fn is_ready(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|share| share.order.range((true, 0)..).next().is_some())
    }

    /// Whether any orphan is to be looked at again.
    pub fn any_ready(&self) -> bool {
        self.peers.values().any(|share| share.order.range((true, 0)..).next().is_some())
    }

    fn mark(&mut self, peer: PeerId, wtxid: &WtxId, ready: bool) {
        let Some(orphan) = self.orphans.get_mut(wtxid) else { return };
        let Some(place) = orphan.announcers.get_mut(&peer) else { return };
        let Some(share) = self.peers.get_mut(&peer) else { return };
        share.order.remove(place);
        place.0 = ready;
        share.order.insert(*place, *wtxid);
    }

    /// Orphans that spend outputs of this transaction.
    pub fn children(&self, parent: TxId) -> BTreeSet<WtxId> {
        let range = (OutPoint::new(parent, 0), WtxId::ZERO)..;
        self.by_outpoint.range(range).take_while(|(outpoint, _)| outpoint.txid == parent).map(|(_, id)| *id).collect()
    }

    /// Orphans announced by this peer that spend outputs of `parent`, the newest first.
    pub fn children_from(&self, peer: PeerId, parent: TxId) -> Vec<WtxId> {
        let mut children: Vec<(u64, WtxId)> = self
            .children(parent)
            .into_iter()
            .filter_map(|wtxid| Some((self.orphans.get(&wtxid)?.announcers.get(&peer)?.1, wtxid)))
            .collect();
        children.sort_unstable_by(|a, b| b.cmp(a));
        children.into_iter().map(|(_, wtxid)| wtxid).collect()
    }

    /// Takes an orphan out.
    pub fn remove(&mut self, wtxid: &WtxId) -> bool {
        let announcers: Vec<PeerId> =
            self.orphans.get(wtxid).into_iter().flat_map(|orphan| orphan.announcers.keys()).copied().collect();
        let here = !announcers.is_empty();
        // The last announcer takes it along.
        announcers.into_iter().for_each(|peer| self.withdraw(peer, wtxid));
        self.trim();
        here
    }

    /// A block spent these coins: whoever wanted them is in it, or never will be.
    pub fn spent<'a>(&mut self, outpoints: impl IntoIterator<Item = &'a OutPoint>) {
        for outpoint in outpoints {
            let range = (*outpoint, WtxId::ZERO)..;
            let gone: Vec<WtxId> =
                self.by_outpoint.range(range).take_while(|(at, _)| at == outpoint).map(|(_, id)| *id).collect();
            gone.iter().for_each(|wtxid| _ = self.remove(wtxid));
        }
    }

    /// The peer is gone. Orphans that others announced too stay.
    pub fn disconnected(&mut self, peer: PeerId) {
        let all: Vec<WtxId> =
            self.peers.get(&peer).into_iter().flat_map(|share| share.order.values()).copied().collect();
        all.iter().for_each(|wtxid| self.withdraw(peer, wtxid));
        // Fewer peers, less room.
        self.trim();
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        *self = Self { next_sequence: self.next_sequence, ..Self::default() };
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.orphans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.orphans.is_empty()
    }

    /// Takes one announcer from an orphan, and the orphan out with its last.
    fn withdraw(&mut self, peer: PeerId, wtxid: &WtxId) {
        let Some(orphan) = self.orphans.get_mut(wtxid) else { return };
        let Some(place) = orphan.announcers.remove(&peer) else { return };
        self.score -= orphan.score;
        if let Some(share) = self.peers.get_mut(&peer) {
            share.order.remove(&place);
            share.score -= orphan.score;
            share.bytes -= orphan.ids.size;
            if share.order.is_empty() {
                self.peers.remove(&peer);
            }
        }
        if orphan.announcers.is_empty()
            && let Some(orphan) = self.orphans.remove(wtxid)
        {
            self.bytes -= orphan.ids.size;
            for input in &orphan.transaction.inputs {
                self.by_outpoint.remove(&(input.outpoint, *wtxid));
            }
        }
    }

    fn trim(&mut self) {
        loop {
            let peers = self.peers.len() as u64;
            if self.score <= ORPHAN_SCORE_MAX && self.bytes <= ORPHAN_BYTES_PER_PEER * peers.max(1) {
                return;
            }
            let load = |share: &PeerShare| {
                let score = share.score * peers * SHARE_PARTS / ORPHAN_SCORE_MAX;
                score.max(share.bytes * SHARE_PARTS / ORPHAN_BYTES_PER_PEER)
            };
            let heaviest = self.peers.iter().max_by_key(|(peer, share)| (load(share), **peer));
            let Some((peer, Some(wtxid))) =
                heaviest.map(|(peer, share)| (*peer, share.order.first_key_value().map(|(_, id)| *id)))
            else {
                return;
            };
            self.withdraw(peer, &wtxid);
        }
    }
}
