//! Addresses between peers, bans, and outgoing connections: what the parts for them are asked, and when.

use super::bans::Subnet;
use super::interface::{Action, Desk, Ending, Link, PeerId};
use super::outbound::Connection;
use super::peer::Peer;
use super::{Parts, addresses};
use crate::p2p::limits::ADDRESSES_MAX;
use crate::p2p::message::{AddressRecord, Message, PeerAddress, Serves, services};
use rand::RngExt;
use std::time::Duration;

/// Time between two tellings of this node's own addresses (Core: a day; networks here are smaller and younger).
const OWN_INTERVAL: Duration = Duration::from_secs(6 * 3_600);
/// Time between two questions for peers that serve what none of ours does.
const FIND_INTERVAL: Duration = Duration::from_secs(60);

impl Parts {
    pub(super) fn ask_addresses(&mut self, desk: &mut Desk<'_>, id: PeerId) {
        self.gossip.entry(id).or_insert_with(|| addresses::AddressPeer::new(desk.now)).asked();
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.asked_addresses = true;
            desk.send(id, Message::GetAddresses(Serves::Any));
        }
    }

    pub(super) fn get_addresses(&mut self, desk: &mut Desk<'_>, id: PeerId, serves: Serves) {
        let (Some(peer), Some(state)) = (self.peers.get(&id), self.gossip.get_mut(&id)) else { return };
        let (link, address) = (peer.link, peer.address);
        if let Some(records) = self.addresses.answer(state, link, &address, serves, desk.now, desk.rng) {
            desk.send(id, Message::Addresses(records));
        }
    }

    pub(super) fn addresses_came(&mut self, desk: &mut Desk<'_>, id: PeerId, records: &[AddressRecord]) {
        let (Some(peer), Some(state)) = (self.peers.get(&id), self.gossip.get_mut(&id)) else { return };
        if peer.link == Link::BlockOnly {
            return;
        }
        let (link, source, asked) = (peer.link, peer.address, peer.asked_addresses);
        let received = self.addresses.receive(state, &source, records, desk.now, desk.rng);
        for record in received.relay {
            self.spread(desk, Some(id), record);
        }
        if link == Link::AddressFetch && asked {
            self.close(desk, id, Ending::Finished);
        }
    }

    /// A peer that dialled says where it listens.
    pub(super) fn hear_of(
        &mut self,
        desk: &mut Desk<'_>,
        listening: PeerAddress,
        source: PeerAddress,
        services: u64,
        serves: (u32, u32),
    ) {
        let time = u32::try_from(desk.now.unix_seconds).unwrap_or(u32::MAX);
        let record = AddressRecord { address: listening, services, serves, time };
        self.addresses.add(&record, &source, desk.now, desk.rng);
    }

    /// Hands an address on to two peers, never back to where it came from.
    fn spread(&mut self, desk: &mut Desk<'_>, from: Option<PeerId>, record: AddressRecord) {
        let ready = |peer: &&Peer| {
            peer.is_ready()
                && Some(peer.id) != from
                && matches!(peer.link, Link::Inbound | Link::OutboundFull | Link::Manual)
        };
        let peers: Vec<PeerId> = self.peers.values().filter(ready).map(|peer| peer.id).collect();
        for peer in self.addresses.relay_to(&record.address, &peers, desk.now) {
            desk.send(peer, Message::Addresses(vec![record]));
        }
    }

    /// Connections as the outgoing side sees them.
    pub(super) fn connections(&self) -> Vec<Connection> {
        let open = self.peers.values().filter(|peer| !peer.closing);
        open.map(|peer| Connection {
            peer: peer.id,
            link: peer.link,
            address: peer.address,
            ready: peer.hello.is_some(),
            connected_at: peer.since,
            last_block: peer.last_block,
            protected: self.sync.is_protected(peer.id),
        })
        .collect()
    }

    pub(super) fn tick_addresses(&mut self, desk: &mut Desk<'_>) {
        let connections = self.connections();
        let decided =
            self.outbound.tick(desk.now, desk.rng, &mut self.addresses, &self.bans, &connections, self.tip_at);
        desk.actions.extend(decided);
        let now = desk.monotonic();
        self.send_privately(desk, &connections);
        if now >= self.next_own {
            let jitter = Duration::from_secs(desk.rng.random_range(0..600));
            self.next_own = now + OWN_INTERVAL + jitter;
            self.tell_own(desk);
        }
        if now >= self.next_find {
            self.next_find = now + FIND_INTERVAL;
            self.find_old_bodies(desk);
        }
    }

    /// Dials for the transactions that are to leave without a trace.
    fn send_privately(&mut self, desk: &mut Desk<'_>, connections: &[Connection]) {
        let now = desk.monotonic();
        while let Some(wtxid) = self.private.wanted(now) {
            let told = |address: &PeerAddress| self.private.has_told(&wtxid, address);
            let (outbound, addresses) = (&mut self.outbound, &mut self.addresses);
            let dial = outbound.dial_privately(told, desk.now, desk.rng, addresses, &self.bans, connections);
            let Some(dial) = dial else { return };
            self.private.dialled(dial.address, wtxid, now);
            desk.actions.push(Action::Dial(dial));
        }
    }

    /// Tells every peer where this node can be reached, if it was told so itself.
    fn tell_own(&mut self, desk: &mut Desk<'_>) {
        let time = u32::try_from(desk.now.unix_seconds).unwrap_or(u32::MAX);
        let services = services::BLOCKS | services::TRANSACTIONS | services::COMPACT_BLOCKS;
        let serves = (0, desk.chain.view().tip.height().get());
        let record = |address: &PeerAddress| AddressRecord { address: *address, services, serves, time };
        let records: Vec<AddressRecord> = self.options.external.iter().map(record).collect();
        if records.is_empty() {
            return;
        }
        for peer in self.peers.values().filter(|peer| peer.is_ready() && peer.link.relays_transactions()) {
            desk.actions.push(Action::Send(peer.id, Message::Addresses(records.clone())));
        }
    }

    /// Step "find": the lowest missing body is served by none of our peers, so all of them are asked who has it, and
    /// those whom they name are dialled as any others are.
    fn find_old_bodies(&mut self, desk: &mut Desk<'_>) {
        let best = desk.chain.headers().best().point().hash;
        let Some(missing) = desk.chain.headers().missing_bodies(&best, 1, 1).pop() else { return };
        let height = missing.height.get();
        if self.download.is_expected(&missing.hash) {
            return;
        }
        let serves = |peer: &&Peer| peer.is_ready() && (peer.serves().0..=peer.serves().1).contains(&height);
        if self.peers.values().any(|peer| serves(&peer) && self.sync.shown(peer.id).is_some()) {
            return;
        }
        tracing::info!(height, "no peer serves this block; asking who does");
        let ready = self.peers.values().filter(|peer| peer.is_ready() && peer.link.relays_blocks());
        let ready: Vec<PeerId> = ready.map(|peer| peer.id).collect();
        for id in ready {
            self.gossip.entry(id).or_insert_with(|| addresses::AddressPeer::new(desk.now)).asked();
            desk.send(id, Message::GetAddresses(Serves::Height(height)));
        }
        self.outbound.look_for(height, desk.monotonic());
    }
}

/// What the operator decides.
impl Parts {
    /// Bans a subnet and ends its connections; false if it is banned already.
    pub fn ban(&mut self, desk: &mut Desk<'_>, subnet: Subnet, until: u64) -> bool {
        let now = desk.now.unix_seconds;
        if self.bans.list(now).any(|(banned, _)| banned == subnet) {
            return false;
        }
        self.bans.ban(subnet, now, until);
        let hit: Vec<PeerId> =
            self.peers.values().filter(|peer| subnet.contains(&peer.address.host)).map(|peer| peer.id).collect();
        for id in hit {
            self.close(desk, id, Ending::Banned);
        }
        true
    }

    /// Switches the network on or off; off ends every connection.
    pub fn set_active(&mut self, desk: &mut Desk<'_>, active: bool) {
        self.outbound.set_active(active);
        if !active {
            let all: Vec<PeerId> = self.peers.keys().copied().collect();
            for id in all {
                self.close(desk, id, Ending::Operator);
            }
        }
    }

    /// Addresses known, in random order.
    pub fn known_addresses(&self, desk: &mut Desk<'_>) -> Vec<AddressRecord> {
        let mut known: Vec<AddressRecord> = self.addresses.entries().map(addresses::Entry::record).collect();
        for index in 1..known.len() {
            known.swap(index, desk.rng.random_range(0..=index));
        }
        known.truncate(ADDRESSES_MAX as usize * 64);
        known
    }
}
