//! Announcing and serving: what peers are told, when, and what they may then fetch.
//!
//! One log of what entered the mempool is shared by all; a peer's queue is numbers into it, so the work of a trickle is
//! a pass over small integers, and what is gone from the mempool is found out once, not once for each peer.

use super::{TransactionRelay, pace};
use crate::p2p::brain::interface::{Desk, PeerId};
use crate::p2p::brain::penalty::Offence;
use crate::p2p::brain::requests::Wanted;
use crate::p2p::limits::{
    ANNOUNCE_LOG_MAX, ANNOUNCED_BACKLOG_SHARE, ANNOUNCED_MAX, ANNOUNCED_PER_SECOND, FEE_FILTER_CHANGE_DELAY,
    FEE_FILTER_INTERVAL, REQUESTED_TRANSACTIONS_MAX, SERVE_INTERVAL, SERVED_WAITING_MAX, TRANSACTIONS_BYTES_MAX,
    TRICKLE_INBOUND, TRICKLE_OUTBOUND,
};
use crate::p2p::message::{Message, Reference};
use rand::RngExt;
use setara_core::hash::{TxId, WtxId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a `Transactions` message that are not transactions: the list's count.
const LIST_HEAD_BYTES: u64 = 4;

/// What entered the mempool of late, numbered; `None` where it is known to have left.
#[derive(Debug, Default)]
pub(super) struct AnnounceLog {
    entries: VecDeque<Option<(WtxId, u64)>>,
    numbers: BTreeMap<WtxId, u64>,
    first: u64,
    /// Steps taken and look-ups made so far: for tests of what announcing costs.
    pub work: u64,
}

impl AnnounceLog {
    /// A new number for it, unless it has one.
    pub fn push(&mut self, wtxid: WtxId, feerate: u64) -> Option<u64> {
        if self.numbers.contains_key(&wtxid) {
            return None;
        }
        if self.entries.len() == ANNOUNCE_LOG_MAX {
            if let Some(Some((oldest, _))) = self.entries.pop_front() {
                self.numbers.remove(&oldest);
            }
            self.first += 1;
        }
        let number = self.first + self.entries.len() as u64;
        self.entries.push_back(Some((wtxid, feerate)));
        self.numbers.insert(wtxid, number);
        Some(number)
    }

    /// Its number.
    pub fn number(&self, wtxid: &WtxId) -> Option<u64> {
        self.numbers.get(wtxid).copied()
    }

    fn get(&self, number: u64) -> Option<(WtxId, u64)> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        *self.entries.get(place)?
    }

    fn left(&mut self, number: u64) {
        let Some(place) = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()) else { return };
        if let Some((wtxid, _)) = self.entries.get_mut(place).and_then(Option::take) {
            self.numbers.remove(&wtxid);
        }
    }

    /// Takes the best `target` and more, by the backlog, off a queue, and what it need not hold any more; in an order
    /// that puts parents first and tells nothing of when they came. `depths` says how many ancestors each has, `None`
    /// for what is gone.
    pub fn draw(
        &mut self,
        queue: &mut BTreeSet<u64>,
        least_feerate: u64,
        target: usize,
        depths: impl Fn(&[WtxId]) -> Vec<Option<usize>>,
    ) -> Vec<WtxId> {
        self.work += queue.len() as u64;
        queue.retain(|number| self.get(*number).is_some_and(|(_, feerate)| feerate >= least_feerate));
        let max = usize::try_from(ANNOUNCED_MAX).expect("a small number");
        let target = (target + queue.len() / ANNOUNCED_BACKLOG_SHARE).min(max);
        let rank = |number: &u64| Some((Reverse(self.get(*number)?.1), *number));
        let mut best: Vec<(Reverse<u64>, u64)> = queue.iter().filter_map(rank).collect();
        let mut drawn: Vec<(usize, Reverse<u64>, WtxId)> = Vec::with_capacity(target.min(best.len()));
        while drawn.len() < target && !best.is_empty() {
            let wanted = (target - drawn.len()).min(best.len());
            if wanted < best.len() {
                best.select_nth_unstable(wanted);
            }
            let rest = best.split_off(wanted);
            let wtxids: Vec<WtxId> = best.iter().filter_map(|(_, number)| Some(self.get(*number)?.0)).collect();
            self.work += wtxids.len() as u64;
            for (((feerate, number), wtxid), depth) in best.iter().zip(&wtxids).zip(depths(&wtxids)) {
                queue.remove(number);
                match depth {
                    Some(depth) => drawn.push((depth, *feerate, *wtxid)),
                    None => self.left(*number),
                }
            }
            best = rest;
        }
        drawn.sort_unstable();
        drawn.into_iter().map(|(_, _, wtxid)| wtxid).collect()
    }
}

/// What is announced in one go to a peer that is not behind.
fn target(interval: Duration) -> usize {
    usize::try_from(ANNOUNCED_PER_SECOND * interval.as_secs()).expect("a small number")
}

impl TransactionRelay {
    /// Tells those whose time has come.
    pub(super) fn trickle(&mut self, desk: &mut Desk<'_>) {
        if self.syncing {
            return;
        }
        let now = desk.monotonic();
        let inbound = now >= self.next_inbound;
        if inbound {
            self.next_inbound = now + pace::exponential(desk.rng, TRICKLE_INBOUND);
        }
        let moment = desk.mempool.moment();
        for (id, peer) in &mut self.peers {
            let target = if peer.link.is_inbound() {
                if !inbound {
                    continue;
                }
                target(TRICKLE_INBOUND)
            } else {
                if now < peer.next_trickle {
                    continue;
                }
                peer.next_trickle = now + pace::exponential(desk.rng, TRICKLE_OUTBOUND);
                target(TRICKLE_OUTBOUND)
            };
            if !peer.relay {
                continue;
            }
            let depths = |wtxids: &[WtxId]| desk.mempool.depths(wtxids);
            let drawn = self.log.draw(&mut peer.queue, peer.fee_filter, target, depths);
            peer.moment = moment;
            if !drawn.is_empty() {
                desk.send(*id, Message::Announce(drawn));
            }
        }
    }

    /// Tells peers below what feerate this node takes nothing: now and then, and soon when that has changed much.
    pub(super) fn send_filters(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let least = desk.mempool.options().relay_floor;
        let floor = if self.syncing { u64::MAX } else { desk.mempool.floor() };
        for (id, peer) in &mut self.peers {
            if now < peer.next_filter {
                let sent = u128::from(peer.filter_sent.unwrap_or(0));
                let much = u128::from(floor) * 4 < sent * 3 || u128::from(floor) * 3 > sent * 4;
                if much && peer.next_filter > now + 2 * FEE_FILTER_CHANGE_DELAY {
                    let wait = desk.rng.random_range(0..2 * FEE_FILTER_CHANGE_DELAY.as_secs());
                    peer.next_filter = now + Duration::from_secs(wait);
                }
                continue;
            }
            peer.next_filter = now + pace::exponential(desk.rng, FEE_FILTER_INTERVAL);
            let rate = if self.syncing { u64::MAX } else { pace::rounded_rate(desk.rng, floor, least) };
            if peer.filter_sent != Some(rate) {
                peer.filter_sent = Some(rate);
                desk.send(*id, Message::FeeFilter(rate));
            }
        }
    }

    /// A peer asks for transactions.
    pub fn on_get_transactions(&mut self, desk: &mut Desk<'_>, peer: PeerId, wtxids: &[WtxId], txids: &[TxId]) {
        if self.is_out_of_turn(desk, peer) {
            return;
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.serving.len() + wtxids.len() + txids.len() > SERVED_WAITING_MAX {
            desk.blame(peer, Offence::Flood("gettransactions"));
            return;
        }
        state.serving.extend(wtxids.iter().copied().map(Wanted::Wtxid));
        state.serving.extend(txids.iter().copied().map(Wanted::Txid));
        self.serve(desk, peer);
    }

    /// The last message with transactions has left the queue.
    pub fn sent(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.untaken = false;
            self.serve(desk, peer);
        }
    }

    /// Sends the next message's worth of what a peer asked for, and says what there is not.
    pub(super) fn serve(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        let now = desk.monotonic();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        // One message's worth at a time, however fast the peer asks and slowly it reads.
        if state.serving.is_empty() || state.untaken || now < state.next_serve {
            return;
        }
        state.next_serve = now + SERVE_INTERVAL;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        let mut bytes = LIST_HEAD_BYTES;
        for _ in 0..REQUESTED_TRANSACTIONS_MAX {
            let Some(wanted) = state.serving.pop_front() else { break };
            let (here, reference) = match wanted {
                Wanted::Wtxid(wtxid) => {
                    (desk.mempool.wtxid_before(&wtxid, state.moment), Reference::Transaction(wtxid))
                }
                Wanted::Txid(txid) => (desk.mempool.txid_before(&txid, state.moment), Reference::Parent(txid)),
            };
            let Some((transaction, size)) = here else {
                missing.push(reference);
                continue;
            };
            if bytes + size > TRANSACTIONS_BYTES_MAX {
                state.serving.push_front(wanted);
                break;
            }
            bytes += size;
            found.push(Arc::unwrap_or_clone(transaction));
        }
        if !found.is_empty() {
            state.untaken = true;
            desk.send(peer, Message::Transactions(found));
        }
        if !missing.is_empty() {
            desk.send(peer, Message::NotFound(missing));
        }
    }
}
