//! Own transactions that nobody can tell to be this node's: each goes to a few peers, over connections of its own through
//! the proxy, which say nothing else (Bitcoin Core's `-privatebroadcast`).
//!
//! ```text
//!  add ──► waiting ──dial──► Hello ──► Announce ──asked──► Transactions, Ping ──Pong──► told once; closed
//!             ▲                                                                           │ three are told a round
//!             └────────────── after ten minutes a new round ◄─────────────────────────────┘
//!  heard from the network, whoever brought it: done
//! ```
//!
//! Until it comes back a transaction is not in this node's mempool, so nothing else that the node says depends on it.
//! Kept in memory only: after a restart the sender has to send again what had not come back.

use super::interface::{Desk, Ending, PeerId};
use crate::p2p::message::{Message, PeerAddress};
use rand::RngExt;
use setara_core::hash::{TxId, WtxId};
use setara_core::transaction::{Transaction, TransactionIds};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Peers told in a round (Core's number): one may keep it to itself.
const COPIES: usize = 3;
/// Time between two rounds: a transaction that was told crosses the network in less.
const ROUND_INTERVAL: Duration = Duration::from_secs(600);
/// Connections for this at once, so that a burst of payments does not take every dial.
const CONNECTIONS_MAX: usize = 6;
/// From `Hello` to the last answer: an incoming peer's question waits two seconds for others, and Tor is slow.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// A dial that nobody reported on is forgotten.
const DIAL_TIMEOUT: Duration = Duration::from_secs(120);
/// Transactions that wait; more are refused rather than forgotten.
const WAITING_MAX: usize = 1_000;
/// Their bytes, encoded: a hundred of the largest.
const WAITING_BYTES_MAX: u64 = 10_000_000;

/// Peers remembered for a transaction: those of three hours.
const TOLD_MAX: usize = 60;

/// Why a transaction is not taken for private broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many transactions wait for private broadcast; try again later")]
pub struct Full;

/// A transaction on its way.
#[derive(Debug, Clone)]
pub struct Sending {
    /// The transaction.
    pub transaction: Arc<Transaction>,
    /// Its ids and size.
    pub ids: TransactionIds,
    /// Unix time at which it was handed in.
    pub since: u64,
    /// Peers that have taken it, the newest last.
    pub told: Vec<PeerAddress>,
    /// Peers told in this round.
    round: usize,
    next_round: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    Announced,
    /// Sent, with a ping behind it.
    Sent(u64),
}

#[derive(Debug, Clone, Copy)]
struct Courier {
    wtxid: WtxId,
    stage: Stage,
    since: Duration,
    peer: Option<PeerId>,
}

/// Transactions on their way, and the connections that carry them.
#[derive(Debug, Default)]
pub struct PrivateBroadcast {
    waiting: BTreeMap<WtxId, Sending>,
    bytes: u64,
    couriers: BTreeMap<PeerAddress, Courier>,
}

impl PrivateBroadcast {
    /// Takes a transaction that the mempool would take; taking it twice is no error.
    pub fn add(&mut self, transaction: Transaction, since: u64) -> Result<(), Full> {
        let ids = transaction.ids();
        if self.waiting.contains_key(&ids.wtxid) {
            return Ok(());
        }
        if self.waiting.len() >= WAITING_MAX || self.bytes.saturating_add(ids.size) > WAITING_BYTES_MAX {
            return Err(Full);
        }
        self.bytes += ids.size;
        let (transaction, told, next_round) = (Arc::new(transaction), Vec::new(), Duration::ZERO);
        self.waiting.insert(ids.wtxid, Sending { transaction, ids, since, told, round: 0, next_round });
        Ok(())
    }

    /// What waits.
    pub fn waiting(&self) -> impl Iterator<Item = &Sending> {
        self.waiting.values()
    }

    /// Gives up what has this id, of either kind; what was given up.
    pub fn abort(&mut self, txid: TxId) -> Vec<Sending> {
        let named: Vec<WtxId> =
            self.waiting.values().filter(|sending| sending.ids.txid == txid).map(|sending| sending.ids.wtxid).collect();
        named.iter().filter_map(|wtxid| self.remove(wtxid)).collect()
    }

    fn remove(&mut self, wtxid: &WtxId) -> Option<Sending> {
        let sending = self.waiting.remove(wtxid)?;
        self.bytes -= sending.ids.size;
        Some(sending)
    }

    /// Transactions are in the mempool: those that were on their way have come back.
    pub fn heard(&mut self, wtxids: impl Iterator<Item = WtxId>) {
        for wtxid in wtxids {
            if let Some(sending) = self.remove(&wtxid) {
                tracing::info!(txid = %sending.ids.txid, peers = sending.told.len(), "a private transaction came back");
            }
        }
    }

    /// Whether a peer should be dialled now, and for which transaction.
    pub fn wanted(&mut self, now: Duration) -> Option<WtxId> {
        self.couriers.retain(|_, courier| courier.peer.is_some() || now.saturating_sub(courier.since) < DIAL_TIMEOUT);
        if self.couriers.len() >= CONNECTIONS_MAX {
            return None;
        }
        for (wtxid, sending) in &mut self.waiting {
            if sending.round >= COPIES && now >= sending.next_round {
                sending.round = 0;
            }
            let under_way = self.couriers.values().filter(|courier| courier.wtxid == *wtxid).count();
            if sending.round + under_way < COPIES {
                return Some(*wtxid);
            }
        }
        None
    }

    /// Whether a peer has taken this transaction lately: in a small network the same ones are told again in the end.
    pub fn has_told(&self, wtxid: &WtxId, address: &PeerAddress) -> bool {
        let lately = |sending: &Sending| sending.told.iter().rev().take(2 * COPIES).any(|told| told == address);
        self.waiting.get(wtxid).is_some_and(lately)
    }

    /// A peer is being dialled for this transaction.
    pub fn dialled(&mut self, address: PeerAddress, wtxid: WtxId, now: Duration) {
        self.couriers.insert(address, Courier { wtxid, stage: Stage::Dialling, since: now, peer: None });
    }

    /// A dial failed, or a connection is gone.
    pub fn gone(&mut self, address: &PeerAddress) {
        self.couriers.remove(address);
    }

    /// A peer said `Hello`; `relays` if it takes transactions. Whether it is of use.
    pub fn ready(&mut self, desk: &mut Desk<'_>, peer: PeerId, address: &PeerAddress, relays: bool) -> bool {
        let now = desk.monotonic();
        let Some(courier) = self.couriers.get_mut(address).filter(|_| relays) else { return false };
        if !self.waiting.contains_key(&courier.wtxid) {
            return false;
        }
        (courier.stage, courier.since, courier.peer) = (Stage::Announced, now, Some(peer));
        desk.send(peer, Message::Announce(vec![courier.wtxid]));
        true
    }

    /// What a peer says on such a connection; `Some` once it is to end. Whatever else it says is nothing to us.
    pub fn on_message(
        &mut self,
        desk: &mut Desk<'_>,
        peer: PeerId,
        address: &PeerAddress,
        message: &Message,
    ) -> Option<Ending> {
        let courier = self.couriers.get_mut(address)?;
        let Some(sending) = self.waiting.get_mut(&courier.wtxid) else { return Some(Ending::Finished) };
        match (message, courier.stage) {
            (Message::Ping(nonce), _) => desk.send(peer, Message::Pong(*nonce)),
            (Message::GetTransactions { wtxids, .. }, Stage::Announced) if wtxids.contains(&courier.wtxid) => {
                let nonce = desk.rng.random();
                desk.send(peer, Message::Transactions(vec![(*sending.transaction).clone()]));
                desk.send(peer, Message::Ping(nonce));
                courier.stage = Stage::Sent(nonce);
            }
            (Message::Pong(nonce), Stage::Sent(asked)) if *nonce == asked => {
                sending.round += 1;
                if sending.told.len() >= TOLD_MAX {
                    sending.told.remove(0);
                }
                sending.told.push(*address);
                sending.next_round = desk.monotonic() + ROUND_INTERVAL;
                return Some(Ending::Finished);
            }
            _ => {}
        }
        None
    }

    /// Connections that took too long.
    pub fn overdue(&self, now: Duration) -> Vec<PeerId> {
        let late = |courier: &&Courier| now.saturating_sub(courier.since) >= CONNECTION_TIMEOUT;
        self.couriers.values().filter(late).filter_map(|courier| courier.peer).collect()
    }
}
