//! Giving a snapshot to peers: one at a time to each, counted like old blocks, and no more than anybody needs.
//!
//! Each connection has a bounded queue, and may take the snapshot twice over; then others are its source. Peers that
//! dialled this node get coins as they get history: while the day's upload lasts.

use super::super::blocks::BlockRelay;
use super::super::interface::{Action, Desk, Link, PeerId};
use super::super::penalty::Offence;
use super::SnapshotPart;
use crate::p2p::limits::{SNAPSHOT_SERVED_AT_ONCE, SNAPSHOT_SERVED_TIMES, SNAPSHOT_SERVED_WAITING};
use crate::p2p::message::{CoinRange, Message, Reference};
use crate::snapshot::Offer;
use setara_core::hash::BlockHash;
use setara_core::lattice::ELEMENT_BYTES;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

struct Client {
    link: Link,
    queue: VecDeque<SnapshotPart>,
    /// With the shell, by their sizes.
    outstanding: VecDeque<u64>,
    /// Bytes given of the snapshot that is served now.
    given: u64,
}

/// What is served, and to whom.
#[derive(Default)]
pub struct SnapshotServing {
    offer: Option<Arc<Offer>>,
    peers: BTreeMap<PeerId, Client>,
}

impl SnapshotServing {
    /// Whether there is anything to be had.
    pub const fn is_offered(&self) -> bool {
        self.offer.is_some()
    }

    /// What is served from now on. A new snapshot may be taken by everybody.
    pub fn set_offer(&mut self, offer: Option<Arc<Offer>>) {
        self.offer = offer;
        self.peers.values_mut().for_each(|client| client.given = 0);
    }

    /// A peer finished its `Hello`.
    pub fn peer_ready(&mut self, peer: PeerId, link: Link) {
        if link.relays_blocks() {
            let client = Client { link, queue: VecDeque::new(), outstanding: VecDeque::new(), given: 0 };
            self.peers.insert(peer, client);
        }
    }

    /// A peer is gone.
    pub fn peer_gone(&mut self, peer: PeerId, upload: &mut BlockRelay) {
        if let Some(client) = self.peers.remove(&peer) {
            upload.settle_upload(client.outstanding.iter().sum());
        }
    }

    /// A peer asks what there is.
    pub fn on_get_snapshot(&self, desk: &mut Desk<'_>, peer: PeerId) {
        let answer = match &self.offer {
            Some(offer) => Message::Snapshot { height: offer.height.get(), base: offer.base },
            None => missing(BlockHash::ZERO),
        };
        desk.send(peer, answer);
    }

    /// A peer asks for a manifest.
    pub fn on_get_manifest(&mut self, desk: &mut Desk<'_>, upload: &mut BlockRelay, peer: PeerId, base: BlockHash) {
        self.ask(desk, upload, peer, base, SnapshotPart::Manifest);
    }

    /// A peer asks for coins.
    pub fn on_get_coins(&mut self, desk: &mut Desk<'_>, upload: &mut BlockRelay, peer: PeerId, range: CoinRange) {
        let past = |offer: &Arc<Offer>| {
            offer.base == range.base && u64::from(range.first) + u64::from(range.count) > offer.count(range.bucket)
        };
        if self.offer.as_ref().is_some_and(past) {
            desk.blame(peer, Offence::BadRequest("coins past the end of a bucket"));
            return;
        }
        self.ask(desk, upload, peer, range.base, SnapshotPart::Coins(range));
    }

    /// The shell has dealt with a `SendSnapshot`.
    pub fn sent(&mut self, desk: &mut Desk<'_>, upload: &mut BlockRelay, peer: PeerId) {
        if let Some(client) = self.peers.get_mut(&peer) {
            upload.settle_upload(client.outstanding.pop_front().unwrap_or(0));
            self.pump(desk, upload, peer);
        }
    }

    fn ask(&mut self, desk: &mut Desk<'_>, upload: &mut BlockRelay, peer: PeerId, base: BlockHash, part: SnapshotPart) {
        let Some(client) = self.peers.get_mut(&peer) else { return };
        if self.offer.as_ref().is_none_or(|offer| offer.base != base) {
            desk.send(peer, missing(base));
            return;
        }
        if client.queue.len() >= SNAPSHOT_SERVED_WAITING {
            desk.blame(peer, Offence::Flood("requests for a snapshot"));
            return;
        }
        client.queue.push_back(part);
        self.pump(desk, upload, peer);
    }

    fn pump(&mut self, desk: &mut Desk<'_>, upload: &mut BlockRelay, peer: PeerId) {
        let Some(client) = self.peers.get_mut(&peer) else { return };
        while client.outstanding.len() < SNAPSHOT_SERVED_AT_ONCE
            && let Some(part) = client.queue.pop_front()
        {
            let base = match part {
                SnapshotPart::Manifest => None,
                SnapshotPart::Coins(range) => Some(range.base),
            };
            // It may be another by now.
            let Some(offer) = self.offer.as_ref().filter(|offer| base.is_none_or(|base| base == offer.base)) else {
                desk.send(peer, missing(base.unwrap_or(BlockHash::ZERO)));
                continue;
            };
            let bytes = match part {
                SnapshotPart::Manifest => offer.manifest.len() as u64,
                SnapshotPart::Coins(range) => u64::from(range.count) * ELEMENT_BYTES as u64,
            };
            let enough = client.given + bytes > offer.bytes().saturating_mul(SNAPSHOT_SERVED_TIMES);
            if enough || client.link.is_inbound() && !upload.may_upload_history(desk.monotonic(), bytes) {
                desk.send(peer, missing(offer.base));
                continue;
            }
            client.given += bytes;
            client.outstanding.push_back(bytes);
            upload.promise_upload(bytes);
            desk.actions.push(Action::SendSnapshot(peer, offer.clone(), part));
        }
    }
}

fn missing(base: BlockHash) -> Message {
    Message::NotFound(vec![Reference::Snapshot(base)])
}
