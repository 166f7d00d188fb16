//! What each event means to which part of the brain.

use super::blocks::Ask;
use super::greeting::{self, Introduction, serves};
use super::interface::{Action, Actions, Desk, Ending, Link, PeerId, TransactionVerdict};
use super::peer::Peer;
use super::penalty::{Offence, Penalty};
use super::sync::{SyncStage, duration_text};
use super::{NONCES_MAX, Parts, SAVE_INTERVAL, addresses, eviction};
use crate::chain::{Accepted, HeadersTaken, Now, SubmitError};
use crate::p2p::limits::{ADDRESS_FETCH_TIMEOUT, HELLO_TIMEOUT, INACTIVITY_TIMEOUT, PING_INTERVAL};
use crate::p2p::message::{Hello, Message, NetAddress, PeerAddress, Reference, services};
use rand::RngExt;
use setara_core::block::Header;
use setara_core::hash::BlockHash;
use setara_core::limits::HEADER_BYTES;
use std::sync::Arc;
use std::time::Duration;

/// Time between two lines about progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Headers whose bodies nobody sends for so long do not keep a node from relaying what it has.
const WITHHELD_TIMEOUT: Duration = Duration::from_secs(60);

/// Coming.
impl Parts {
    pub(super) fn connected(
        &mut self,
        desk: &mut Desk<'_>,
        id: PeerId,
        link: Link,
        address: PeerAddress,
        version: u16,
    ) {
        let mut peer = Peer::new(id, link, address, version, desk.now);
        if !link.is_inbound() {
            self.outbound.connected(&address);
        }
        if let Some(ending) = if link.is_inbound() { self.refusal(desk, &address) } else { None } {
            peer.closing = true;
            self.peers.insert(id, peer);
            desk.disconnect(id, ending);
            return;
        }
        peer.nonce = desk.rng.random();
        if self.nonces.len() >= NONCES_MAX {
            self.nonces.pop_first();
        }
        self.nonces.insert(peer.nonce);
        let introduction = Introduction {
            agent: &self.options.agent,
            network: desk.chain.network(),
            link,
            serves: serves(desk),
            snapshot: self.serving.is_offered(),
            nonce: peer.nonce,
            listen_port: self.options.listen_port,
            time: desk.now.unix_seconds,
        };
        let hello = Message::Hello(Box::new(introduction.hello()));
        desk.send(id, hello);
        self.peers.insert(id, peer);
    }

    /// Why somebody who dialled cannot stay, if so; perhaps another gives way.
    fn refusal(&mut self, desk: &mut Desk<'_>, address: &PeerAddress) -> Option<Ending> {
        if !self.outbound.is_active() {
            return Some(Ending::Operator);
        }
        if self.bans.is_banned(&address.host, desk.now.unix_seconds) {
            return Some(Ending::Banned);
        }
        let candidates: Vec<eviction::Candidate> = self
            .peers
            .values()
            .filter(|peer| peer.link.is_inbound() && !peer.closing)
            .map(|peer| self.candidate(peer))
            .collect();
        if candidates.len() < self.options.inbound_max {
            return None;
        }
        if self.bans.is_discouraged(&address.host) {
            return Some(Ending::Banned);
        }
        match eviction::choose(&candidates) {
            Some(evicted) => {
                self.close(desk, evicted, Ending::Evicted);
                None
            }
            None => Some(Ending::Full),
        }
    }

    fn candidate(&self, peer: &Peer) -> eviction::Candidate {
        let host = peer.address.host;
        eviction::Candidate {
            peer: peer.id,
            connected_at: peer.since,
            min_ping: peer.latency_min,
            last_block: peer.last_block,
            last_transaction: peer.last_transaction,
            relays_transactions: peer.relays_transactions(),
            serves_blocks: peer.services() & services::BLOCKS != 0,
            group: addresses::Group::of(&host),
            keyed_group: self.addresses.keyed_group(&peer.address),
            local: is_loopback(&host),
            onion: matches!(host, NetAddress::Onion(_)),
            discouraged: self.bans.is_discouraged(&host),
            kept: false,
        }
    }

    fn hello(&mut self, desk: &mut Desk<'_>, id: PeerId, hello: Box<Hello>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (link, address) = (peer.link, peer.address);
        if self.nonces.contains(&hello.nonce) {
            tracing::info!(%address, "this node dialled itself");
            if !link.is_inbound() {
                self.outbound.learn_own(address);
            }
            return self.close(desk, id, Ending::SelfConnection);
        }
        if let Err(ending) = greeting::check(desk.chain.network(), &hello, peer.version) {
            tracing::info!(%address, ?ending, "an incompatible peer");
            return self.close(desk, id, ending);
        }
        // Clocks beyond all measure are a number like any other.
        let ahead = i128::from(hello.time) - i128::from(desk.now.unix_seconds);
        peer.time_offset = i64::try_from(ahead).unwrap_or(i64::MAX);
        let (bits, serves, relay, agent) = (hello.services, hello.serves, hello.relay, hello.agent.clone());
        let listens = hello.listen_port;
        peer.hello = Some(hello);
        tracing::info!(peer = id.0, %address, inbound = link.is_inbound(), agent, height = serves.1, "peer is here");
        if !link.is_inbound() {
            self.outbound.ready(&address);
            self.addresses.good(&address, desk.now);
            self.addresses.connected(&address, bits, serves, desk.now);
        }
        let link = if link.relays_blocks() && !link.is_inbound() && bits & services::BLOCKS == 0 {
            self.is_directory(desk, id)
        } else {
            link
        };
        match link {
            Link::Feeler => return self.close(desk, id, Ending::Finished),
            Link::AddressFetch => return self.ask_addresses(desk, id),
            Link::PrivateBroadcast => {
                let relays = relay && bits & services::TRANSACTIONS != 0;
                if !self.private.ready(desk, id, &address, relays) {
                    self.close(desk, id, Ending::Finished);
                }
                return;
            }
            Link::Inbound | Link::OutboundFull | Link::BlockOnly | Link::Manual => {}
        }
        self.gossip.insert(id, addresses::AddressPeer::new(desk.now));
        self.sync.peer_ready(desk, id, link);
        if bits & services::BLOCKS != 0 {
            self.download.peer_ready(id, serves);
        }
        self.blocks.peer_ready(id, link, bits);
        self.serving.peer_ready(id, link);
        self.relay.peer_ready(desk, id, link, relay && bits & services::TRANSACTIONS != 0);
        // Its neighbours must not show through a link that exchanges blocks only.
        if matches!(link, Link::OutboundFull | Link::Manual) {
            self.ask_addresses(desk, id);
            self.introduce(desk, id);
        }
        if link != Link::BlockOnly {
            self.go_on_finding(desk, id);
        }
        if link.is_inbound() && listens != 0 {
            self.hear_of(desk, PeerAddress { port: listens, ..address }, address, bits, serves);
        }
        self.check_clock();
    }

    fn check_clock(&mut self) {
        let outgoing = self.peers.values().filter(|peer| !peer.link.is_inbound() && peer.hello.is_some());
        let offsets: Vec<i64> = outgoing.map(|peer| peer.time_offset).collect();
        match greeting::clock_warning(&offsets) {
            Some(seconds) if !self.warned_of_clock => {
                self.warned_of_clock = true;
                tracing::warn!(seconds, "this machine's clock differs from most peers': blocks may be refused; set it");
            }
            Some(_) => {}
            None => self.warned_of_clock = false,
        }
    }
}

/// Messages.
impl Parts {
    pub(super) fn message(&mut self, desk: &mut Desk<'_>, id: PeerId, message: Message) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.closing) else { return };
        peer.heard = desk.monotonic();
        let greeted = peer.hello.is_some();
        if greeted && peer.link == Link::PrivateBroadcast {
            let address = peer.address;
            if let Some(ending) = self.private.on_message(desk, id, &address, &message) {
                self.close(desk, id, ending);
            }
            return;
        }
        match message {
            // Whoever only wants the genesis file need not introduce himself.
            Message::GetGenesis if !peer.genesis_sent => {
                peer.genesis_sent = true;
                desk.actions.push(Action::SendGenesis(id));
            }
            Message::GetGenesis => desk.blame(id, Offence::Flood("getgenesis")),
            Message::Hello(hello) if !greeted => self.hello(desk, id, hello),
            Message::Hello(_) => desk.blame(id, Offence::OutOfTurn("hello")),
            // Asked for by `join` alone, which has no brain.
            Message::Genesis(_) => desk.blame(id, Offence::OutOfTurn("genesis")),
            other if !greeted => desk.blame(id, Offence::OutOfTurn(other.name())),
            Message::Ping(nonce) => desk.send(id, Message::Pong(nonce)),
            Message::Pong(nonce) => {
                if !peer.pong(nonce, desk.monotonic()) {
                    desk.blame(id, Offence::BadPong);
                }
            }
            Message::GetAddresses(serves) => self.get_addresses(desk, id, serves),
            Message::Addresses(records) => self.addresses_came(desk, id, &records),
            Message::GetHeaders { locator, stop } => self.sync.on_get_headers(desk, id, locator, stop),
            Message::Headers(headers) => {
                self.sync.on_headers(desk, id, headers);
                self.shown(desk, id);
            }
            Message::Announce(wtxids) => self.relay.on_announce(desk, id, &wtxids),
            Message::AnnounceBlock(header) => {
                let ask = self.blocks.on_announce_block(desk, id, header);
                self.follow(desk, id, ask, header);
            }
            Message::GetTransactions { wtxids, txids } => self.relay.on_get_transactions(desk, id, &wtxids, &txids),
            Message::Transactions(transactions) => self.relay.on_transactions(desk, id, transactions),
            Message::GetBlocks(hashes) => self.blocks.on_get_blocks(desk, id, hashes),
            Message::Block(bytes) => self.block(desk, id, &bytes),
            Message::CompactBlock(compact) => {
                let header = compact.header;
                let ask = self.blocks.on_compact_block(desk, id, *compact);
                self.follow(desk, id, ask, header);
            }
            Message::GetBlockTransactions { hash, indexes } => {
                self.blocks.on_get_block_transactions(desk, id, hash, indexes);
            }
            Message::BlockTransactions(answer) => self.blocks.on_block_transactions(desk, id, *answer),
            Message::NotFound(references) => {
                let blocks: Vec<BlockHash> = references
                    .iter()
                    .filter_map(|reference| match reference {
                        Reference::Block(hash) => Some(*hash),
                        Reference::Transaction(_) | Reference::Parent(_) | Reference::Snapshot(_) => None,
                    })
                    .collect();
                blocks.iter().for_each(|hash| peer.answered_block(hash));
                self.relay.on_not_found(desk, id, &references);
                self.blocks.on_not_found(desk, id, &references);
                self.download.on_not_found(desk, id, &blocks);
                self.history.on_not_found(desk, id, &blocks);
                self.snapshots_not_found(desk, id, &references);
            }
            Message::FeeFilter(rate) => self.relay.on_fee_filter(id, rate),
            Message::SendCompact(wanted) => self.blocks.on_send_compact(id, wanted),
            about @ (Message::GetSnapshot
            | Message::Snapshot { .. }
            | Message::GetManifest(_)
            | Message::Manifest(_)
            | Message::GetCoins(_)
            | Message::Coins { .. }) => self.snapshot_message(desk, id, about),
        }
    }

    /// What a new block's announcement asks for beyond itself.
    fn follow(&mut self, desk: &mut Desk<'_>, id: PeerId, ask: Ask, header: Header) {
        match ask {
            Ask::Nothing => self.sync.on_known_header(desk, id, &header.hash()),
            Ask::Headers => self.sync.on_unknown_header(desk, id, header),
        }
        self.shown(desk, id);
    }

    /// Tells the download what a peer has shown that it has.
    fn shown(&mut self, desk: &mut Desk<'_>, id: PeerId) {
        self.download.set_best(desk, id, self.sync.shown(id));
    }

    /// Branches may have failed: what peers showed of them does not count any longer.
    fn revise(&mut self, desk: &mut Desk<'_>) {
        for id in self.sync.revise(desk) {
            self.shown(desk, id);
        }
    }

    fn block(&mut self, desk: &mut Desk<'_>, id: PeerId, bytes: &Arc<[u8]>) {
        let header = bytes.first_chunk::<HEADER_BYTES>().and_then(|bytes| Header::from_bytes(bytes).ok());
        if let (Some(header), Some(peer)) = (header, self.peers.get_mut(&id)) {
            peer.answered_block(&header.hash());
        }
        // Asked for by the one or the other part, or by both: each knows what it asked of whom.
        let by_download = self.download.on_block(desk, id, bytes.clone());
        let by_relay = self.blocks.on_block(desk, id, bytes);
        let by_history = self.history.on_block(desk, id, bytes);
        if !by_download && !by_relay && !by_history {
            desk.blame(id, Offence::UnwantedBlock);
        }
    }
}

/// What the chain and the mempool said.
impl Parts {
    pub(super) fn headers_taken(
        &mut self,
        desk: &mut Desk<'_>,
        id: PeerId,
        result: &Result<HeadersTaken, SubmitError>,
    ) {
        self.sync.on_headers_taken(desk, id, result);
        if let Ok(taken) = result {
            self.blocks.peer_has(id, taken.last.hash);
        }
        self.shown(desk, id);
        self.note_syncing(desk);
    }

    pub(super) fn block_taken(
        &mut self,
        desk: &mut Desk<'_>,
        id: PeerId,
        hash: BlockHash,
        result: &Result<Accepted, SubmitError>,
    ) {
        if matches!(result, Ok(Accepted::Connected))
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.last_block = Some(desk.now.monotonic);
        }
        if result.is_err() {
            self.revise(desk);
        }
        // A block is the download's or the relay's; the other does not know it.
        self.download.on_block_taken(desk, id, hash, result);
        self.blocks.on_block_taken(desk, id, hash, result);
    }

    pub(super) fn transactions_taken(&mut self, desk: &mut Desk<'_>, verdicts: Vec<TransactionVerdict>) {
        for verdict in &verdicts {
            match &verdict.result {
                Ok(()) => {
                    if let Some(peer) = self.peers.get_mut(&verdict.peer) {
                        peer.last_transaction = Some(desk.now.monotonic);
                    }
                }
                // A block may hold it all the same.
                Err(_) => self.blocks.remember(verdict.wtxid, verdict.transaction.clone()),
            }
        }
        self.relay.on_verdicts(desk, verdicts);
    }

    pub(super) fn tip_changed(&mut self, desk: &mut Desk<'_>) {
        self.tip_at = desk.monotonic();
        self.note_syncing(desk);
        self.blocks.on_tip_changed(desk);
        self.relay.on_tip_changed(desk);
    }

    /// Whether the node is behind, for those who then keep still. Headers alone do not make it so for long: if none of
    /// their bodies comes, whoever showed them withholds them, and the network goes on without. Once caught up, it stays.
    fn note_syncing(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let headers = desk.chain.headers();
        if self.fetch.is_busy() {
            // Bodies are not asked for, so nobody withholds them.
            self.awaited = None;
            self.relay.set_syncing(true);
            self.blocks.set_syncing(true);
            return;
        }
        let lowest = headers.missing_bodies(&headers.best().point().hash, 1, 1).first().map(|missing| missing.hash);
        if self.awaited.is_none_or(|(hash, _)| Some(hash) != lowest) {
            self.awaited = lowest.map(|hash| (hash, now));
        }
        let waits = self.awaited.is_none_or(|(_, since)| now.saturating_sub(since) < WITHHELD_TIMEOUT);
        let syncing = !self.caught_up && self.sync.is_syncing(desk) && waits;
        self.caught_up |= !syncing && self.sync.is_checked();
        self.relay.set_syncing(syncing);
        self.blocks.set_syncing(syncing);
    }
}

/// Going, and time.
impl Parts {
    pub(super) fn disconnected(&mut self, desk: &mut Desk<'_>, id: PeerId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        self.nonces.remove(&peer.nonce);
        self.gossip.remove(&id);
        if peer.link == Link::PrivateBroadcast {
            self.private.gone(&peer.address);
        }
        if peer.hello.is_none() {
            if !peer.link.is_inbound() {
                self.outbound.failed(&peer.address, desk.now, desk.rng);
            }
            return;
        }
        tracing::info!(peer = id.0, address = %peer.address, "peer is gone");
        if peer.blamed && !peer.link.is_inbound() {
            self.outbound.punished(&peer.address, desk.now, desk.rng);
        }
        self.sync.peer_gone(desk, id);
        self.download.peer_gone(desk, id);
        self.history.peer_gone(desk, id);
        self.serving.peer_gone(id, &mut self.blocks);
        self.fetch.peer_gone(desk, id);
        self.blocks.peer_gone(desk, id);
        self.relay.peer_gone(id);
    }

    /// Ends a connection: nothing that still comes from it counts.
    pub fn close(&mut self, desk: &mut Desk<'_>, id: PeerId, ending: Ending) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.closing) {
            peer.closing = true;
            desk.disconnect(id, ending);
        }
    }

    pub(super) fn tick(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let mut ended = Vec::new();
        for peer in self.peers.values_mut().filter(|peer| !peer.closing) {
            if peer.hello.is_none() {
                if now.saturating_sub(peer.since) >= HELLO_TIMEOUT {
                    ended.push((peer.id, Ending::HandshakeTimeout));
                }
                continue;
            }
            if peer.link == Link::AddressFetch && now.saturating_sub(peer.since) >= ADDRESS_FETCH_TIMEOUT {
                ended.push((peer.id, Ending::Finished));
            } else if now.saturating_sub(peer.heard) >= INACTIVITY_TIMEOUT {
                ended.push((peer.id, Ending::Silent));
            } else if peer.ping.is_none() && now >= peer.next_ping && peer.link != Link::PrivateBroadcast {
                let nonce = desk.rng.random();
                peer.ping = Some((nonce, now));
                peer.next_ping = now + PING_INTERVAL;
                desk.actions.push(Action::Send(peer.id, Message::Ping(nonce)));
            }
        }
        ended.extend(self.private.overdue(now).into_iter().map(|id| (id, Ending::Stalling("private broadcast"))));
        for (id, ending) in ended {
            self.close(desk, id, ending);
        }
        self.note_syncing(desk);
        // The operator may have spoken against a branch as well.
        self.revise(desk);
        self.sync.tick(desk);
        self.tick_snapshots(desk);
        self.download.tick(desk);
        self.tick_history(desk);
        self.blocks.tick(desk);
        self.relay.tick(desk);
        self.tick_addresses(desk);
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS_INTERVAL;
            self.tell_progress(desk);
        }
        if now >= self.next_save {
            self.next_save = now + SAVE_INTERVAL;
            self.bans.expire(desk.now.unix_seconds);
            desk.actions.push(Action::Save);
        }
    }

    fn tick_history(&mut self, desk: &mut Desk<'_>) {
        let serves =
            |peer: &&Peer| peer.is_ready() && peer.link.relays_blocks() && peer.services() & services::BLOCKS != 0;
        let ready = self.peers.values().filter(serves).map(|peer| (peer.id, peer.serves(), self.sync.shown(peer.id)));
        let ready = ready.collect();
        self.history.tick(desk, ready, self.caught_up);
    }

    /// A line for whoever waits for the node to catch up.
    fn tell_progress(&self, desk: &Desk<'_>) {
        if self.tell_fetch_progress(desk) {
            return;
        }
        let progress = self.sync.progress(desk);
        if progress.stage == SyncStage::Done {
            return;
        }
        let (stage, height, target) = (progress.stage.as_str(), progress.height.get(), progress.target.get());
        let (percent, peers) = (progress.percent(), progress.peers);
        let percent = percent.as_str();
        let rate = progress.rate.map(|rate| rate.heights());
        let (headers_per_second, blocks_per_second) = match progress.stage {
            SyncStage::CheckingHeaders => (rate.as_deref(), None),
            _ => (None, rate.as_deref()),
        };
        let transactions = progress.rate.filter(|_| blocks_per_second.is_some()).map(|rate| rate.transactions());
        let (transactions_per_second, eta) = (transactions.as_deref(), progress.eta().map(duration_text));
        let eta = eta.as_deref();
        tracing::info!(
            stage,
            height,
            target,
            percent,
            headers_per_second,
            blocks_per_second,
            transactions_per_second,
            eta,
            peers,
            "syncing"
        );
    }

    /// Asks every peer to answer.
    pub fn ping_all(&mut self, desk: &mut Desk<'_>) {
        let asked = |peer: &&mut Peer| peer.is_ready() && peer.ping.is_none() && peer.link != Link::PrivateBroadcast;
        for peer in self.peers.values_mut().filter(asked) {
            let nonce = desk.rng.random();
            peer.ping = Some((nonce, desk.now.monotonic));
            desk.actions.push(Action::Send(peer.id, Message::Ping(nonce)));
        }
    }

    /// Carries out what the actions blame, and drops what is meant for those who are leaving.
    pub(super) fn settle(&mut self, now: Now, actions: Actions) -> Actions {
        let mut settled = Actions::with_capacity(actions.len());
        for action in actions {
            match action {
                Action::Blame(id, offence) => self.punish(now, id, offence, &mut settled),
                Action::Disconnect(id, ending) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.closing = true;
                    }
                    settled.push(Action::Disconnect(id, ending));
                }
                // What is not to be sent twice is on its way already.
                Action::Send(id, Message::GetBlocks(hashes)) => {
                    let hashes = match self.peers.get_mut(&id) {
                        Some(peer) => peer.ask_blocks(hashes, now.monotonic),
                        None => hashes,
                    };
                    if !hashes.is_empty() {
                        settled.push(Action::Send(id, Message::GetBlocks(hashes)));
                    }
                }
                other => settled.push(other),
            }
        }
        settled
    }

    fn punish(&mut self, now: Now, id: PeerId, offence: Offence, settled: &mut Actions) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (penalty, host) = (offence.penalty(), peer.address.host);
        let seconds = now.monotonic.saturating_sub(peer.since).as_secs();
        tracing::info!(peer = id.0, address = %peer.address, code = offence.code(), ?offence, seconds, "a peer broke a rule");
        if penalty == Penalty::None {
            return;
        }
        // Whom the operator named is not held off; nor are all of a machine for what one of its processes did.
        let spared = peer.link == Link::Manual || is_loopback(&host);
        if penalty == Penalty::Discourage && !spared {
            self.bans.discourage(&host);
        }
        peer.blamed = true;
        if !peer.closing {
            peer.closing = true;
            settled.push(Action::Disconnect(id, Ending::Offence(offence)));
        }
    }
}

/// Whether a host is this machine.
pub(super) const fn is_loopback(host: &NetAddress) -> bool {
    match host {
        NetAddress::V4(address) => address.is_loopback(),
        NetAddress::V6(address) => address.is_loopback(),
        NetAddress::Onion(_) => false,
    }
}
