//! Addresses between peers, bans, and outgoing connections: what the parts for them are asked, and when.

use super::bans::Subnet;
use super::greeting::{own_services, serves};
use super::interface::{Action, Desk, Ending, Link, PeerId};
use super::outbound::Connection;
use super::peer::Peer;
use super::penalty::Offence;
use super::{Parts, addresses};
use crate::p2p::limits::ADDRESSES_MAX;
use crate::p2p::message::{AddressRecord, Message, PeerAddress, Serves};
use rand::RngExt;
use std::time::Duration;

/// Time between two tellings of this node's own addresses (Core: a day; networks here are smaller and younger).
const OWN_INTERVAL: Duration = Duration::from_secs(6 * 3_600);
/// Time between two questions for peers that serve what none of ours does.
const FIND_INTERVAL: Duration = Duration::from_secs(60);
/// From its being missing to the first one: those who are here may yet show that they have it.
const FIND_DELAY: Duration = Duration::from_secs(5);

impl Parts {
    pub(super) fn ask_addresses(&mut self, desk: &mut Desk<'_>, id: PeerId) {
        self.gossip.entry(id).or_insert_with(|| addresses::AddressPeer::new(desk.now)).asked();
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.asked_addresses = true;
            desk.send(id, Message::GetAddresses(Serves::Any));
        }
    }

    fn ask_who_serves(&mut self, desk: &mut Desk<'_>, id: PeerId, what: Serves) {
        self.gossip.entry(id).or_insert_with(|| addresses::AddressPeer::new(desk.now)).asked();
        desk.send(id, Message::GetAddresses(what));
    }

    /// A peer is new: while somebody is looked for, it is asked at once, so that the search goes from hop to hop.
    pub(super) fn go_on_finding(&mut self, desk: &mut Desk<'_>, id: PeerId) {
        if let Some(what) = self.outbound.looking_for(desk.monotonic()) {
            self.ask_who_serves(desk, id, what);
        }
    }

    /// A peer that was dialled serves no blocks: a directory of nodes. It is asked for addresses and then left, for its
    /// place is better given to a node; a block-only connection, which must not show its neighbours, is left at once.
    pub(super) fn is_directory(&mut self, desk: &mut Desk<'_>, id: PeerId) -> Link {
        let Some(peer) = self.peers.get_mut(&id) else { return Link::Feeler };
        let link = if peer.link == Link::BlockOnly { Link::Feeler } else { Link::AddressFetch };
        peer.link = link;
        let address = peer.address;
        self.outbound.rest_directory(&address, desk.now, self.addresses.len());
        link
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
        let floods = state.floods(received.ignored, desk.monotonic());
        for record in received.relay {
            self.spread(desk, Some(id), record);
        }
        if floods {
            desk.blame(id, Offence::Flood("addresses"));
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
        // Not at once: whoever comes meanwhile is told as it comes.
        let next = now + OWN_INTERVAL;
        let due = *self.next_own.get_or_insert(next);
        if now >= due {
            let jitter = Duration::from_secs(desk.rng.random_range(0..600));
            self.next_own = Some(next + jitter);
            self.tell_own(desk);
        }
        self.find(desk);
    }

    /// Where others reach this node: what the operator said, and what the router forwards.
    pub fn own_addresses(&self) -> Vec<PeerAddress> {
        let told = &self.options.external;
        told.iter().chain(self.mapped.iter().filter(|mapped| !told.contains(mapped))).copied().collect()
    }

    /// The router forwards from there, or no longer.
    pub(super) fn mapped(&mut self, address: Option<PeerAddress>) {
        if let Some(address) = address.filter(|address| self.mapped != Some(*address)) {
            self.outbound.learn_own(address);
            // Peers that are here already are told with the next tick.
            self.next_own = Some(Duration::ZERO);
        }
        self.mapped = address;
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

    /// This node's own addresses as peers are told them.
    fn own_records(&self, desk: &Desk<'_>) -> Vec<AddressRecord> {
        let time = u32::try_from(desk.now.unix_seconds).unwrap_or(u32::MAX);
        let services = own_services(self.serving.is_offered());
        let serves = serves(desk);
        let record = |address| AddressRecord { address, services, serves, time };
        self.own_addresses().into_iter().map(record).collect()
    }

    /// Tells a peer that was dialled where this node can be reached; one that dialled knows.
    pub(super) fn introduce(&mut self, desk: &mut Desk<'_>, id: PeerId) {
        let records = self.own_records(desk);
        if !records.is_empty() {
            desk.send(id, Message::Addresses(records));
        }
    }

    /// Tells every peer where this node can be reached.
    fn tell_own(&mut self, desk: &mut Desk<'_>) {
        let records = self.own_records(desk);
        if records.is_empty() {
            return;
        }
        for peer in self.peers.values().filter(|peer| peer.is_ready() && peer.link.relays_transactions()) {
            desk.actions.push(Action::Send(peer.id, Message::Addresses(records.clone())));
        }
    }

    /// Step "find": the lowest missing body, or a snapshot that is wanted, is served by none of our peers, so all of them
    /// are asked who has it, and those whom they name are dialled as any others are.
    fn find(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let missing = match self.fetch.is_busy() {
            true => self.fetch.needs_server(desk).then_some(Serves::Snapshot),
            false => self.missing_body(desk).map(Serves::Height),
        };
        let Some(missing) = missing else {
            self.next_find = None;
            return;
        };
        if now < *self.next_find.get_or_insert(now + FIND_DELAY) {
            return;
        }
        self.next_find = Some(now + FIND_INTERVAL);
        match missing {
            Serves::Height(height) => tracing::info!(height, "no peer serves this block; asking who does"),
            Serves::Snapshot | Serves::Any => tracing::info!("no peer serves a snapshot; asking who does"),
        }
        let ready = self.peers.values().filter(|peer| peer.is_ready() && peer.link.relays_blocks());
        let ready: Vec<PeerId> = ready.map(|peer| peer.id).collect();
        for id in ready {
            self.ask_who_serves(desk, id, missing);
        }
        self.outbound.look_for(missing, now);
    }

    /// The height of the lowest missing body, if no peer has it.
    fn missing_body(&mut self, desk: &mut Desk<'_>) -> Option<u32> {
        let best = desk.chain.headers().best().point().hash;
        let missing = desk.chain.headers().missing_bodies(&best, 1, 1).pop();
        let missing = missing
            .filter(|missing| !self.download.is_expected(&missing.hash) && !self.download.has_source(desk, missing));
        let missing = missing.or_else(|| self.history.nobody_has(desk));
        missing.map(|missing| missing.height.get())
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
