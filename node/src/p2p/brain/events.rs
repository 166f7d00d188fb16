//! What each event means to which part of the brain.

use super::greeting::{self, Introduction};
use super::interface::{Action, Actions, Desk, Ending, Link, PeerId, TransactionVerdict};
use super::peer::Peer;
use super::penalty::{Offence, Penalty};
use super::{NONCES_MAX, Parts, SAVE_INTERVAL, eviction};
use crate::chain::{Accepted, HeadersTaken, Now, SubmitError};
use crate::p2p::limits::{HANDSHAKE_TIMEOUT, INACTIVITY_TIMEOUT, PING_INTERVAL};
use crate::p2p::message::{Hello, Message, PeerAddress, Serves};
use rand::RngExt;
use setara_core::hash::BlockHash;

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
        let refusal = if link.is_inbound() { self.refusal(desk, &address) } else { None };
        if !link.is_inbound() {
            self.outbound.connected(&address, link, desk.now);
        }
        if let Some(ending) = refusal {
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
        let tip = desk.chain.view().tip.height().get();
        let introduction = Introduction {
            agent: &self.options.agent,
            network: desk.chain.network(),
            link,
            serves: (0, tip),
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
        if self.bans.is_banned(&address.host, desk.now.unix_seconds) {
            return Some(Ending::Banned);
        }
        let inbound = self.peers.values().filter(|peer| peer.link.is_inbound() && !peer.closing).count();
        if inbound < self.options.inbound_max {
            return None;
        }
        if self.bans.is_discouraged(&address.host) {
            return Some(Ending::Banned);
        }
        let candidates: Vec<eviction::Candidate> = self
            .peers
            .values()
            .filter(|peer| peer.link.is_inbound() && !peer.closing)
            .map(|peer| self.candidate(peer))
            .collect();
        match eviction::choose(candidates) {
            Some(evicted) => {
                self.close(desk, evicted, Ending::Evicted);
                None
            }
            None => Some(Ending::Full),
        }
    }

    /// Ends a connection: nothing that still comes from it counts.
    pub(super) fn close(&mut self, desk: &mut Desk<'_>, id: PeerId, ending: Ending) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.closing) {
            peer.closing = true;
            desk.disconnect(id, ending);
        }
    }
}

/// Messages.
impl Parts {
    pub(super) fn message(&mut self, desk: &mut Desk<'_>, id: PeerId, message: Message) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.closing) else { return };
        peer.heard = desk.monotonic();
        let greeted = peer.hello.is_some();
        match message {
            // Whoever only wants the genesis file need not introduce himself.
            Message::GetGenesis => desk.actions.push(Action::SendGenesis(id)),
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
            Message::Addresses(records) => self.addresses_came(desk, id, records),
            Message::GetHeaders { locator, stop } => self.sync.on_get_headers(desk, id, &locator, stop),
            Message::Headers(headers) => self.sync.on_headers(desk, id, headers),
            Message::Announce(wtxids) => self.relay.on_announce(desk, id, &wtxids),
            Message::AnnounceBlock(header) => {
                let ask = self.blocks.on_announce_block(desk, id, header);
                self.follow(desk, id, ask);
            }
            Message::GetTransactions { wtxids, txids } => {
                self.relay.on_get_transactions(desk, id, &wtxids, &txids);
            }
            Message::Transactions(transactions) => self.relay.on_transactions(desk, id, transactions),
            Message::GetBlocks(hashes) => self.blocks.on_get_blocks(desk, id, &hashes),
            Message::Block(bytes) => self.block(desk, id, bytes),
            Message::CompactBlock(compact) => {
                let ask = self.blocks.on_compact_block(desk, id, *compact);
                self.follow(desk, id, ask);
            }
            Message::GetBlockTransactions { hash, indexes } => {
                self.blocks.on_get_block_transactions(desk, id, hash, indexes);
            }
            Message::BlockTransactions(transactions) => self.blocks.on_block_transactions(desk, id, *transactions),
            Message::NotFound(references) => {
                self.relay.on_not_found(desk, id, &references);
                self.blocks.on_not_found(desk, id, &references);
                self.download.on_not_found(desk, id, &references);
            }
            Message::FeeFilter(rate) => self.relay.on_fee_filter(desk, id, rate),
            Message::SendCompact(wanted) => self.blocks.on_send_compact(desk, id, wanted),
        }
    }

    fn hello(&mut self, desk: &mut Desk<'_>, id: PeerId, hello: Box<Hello>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (link, address) = (peer.link, peer.address);
        if self.nonces.contains(&hello.nonce) {
            self.outbound.is_ourselves(&address);
            return self.close(desk, id, Ending::SelfConnection);
        }
        if let Err(ending) = greeting::check(desk.chain.network(), &hello, peer.version) {
            return self.close(desk, id, ending);
        }
        // Clocks beyond all measure are a number like any other.
        let ahead = i128::from(hello.time) - i128::from(desk.now.unix_seconds);
        peer.time_offset = i64::try_from(ahead).unwrap_or(i64::MAX);
        peer.next_ping = desk.monotonic();
        peer.hello = Some(hello);
        if !link.is_inbound() {
            let record = (peer.services(), peer.serves());
            self.addresses.good(&address, record.0, record.1, desk.now, desk.rng);
        }
        tracing::info!(peer = id.0, %address, agent = peer.hello.as_ref().map(|hello| hello.agent.as_str()), "peer");
        match link {
            Link::Feeler => self.close(desk, id, Ending::Finished),
            Link::AddressFetch => self.ask_addresses(desk, id),
            Link::Inbound | Link::OutboundFull | Link::BlockOnly | Link::Manual => {
                let peer = &self.peers[&id];
                self.sync.peer_ready(desk, peer);
                self.download.peer_ready(desk, peer);
                self.blocks.peer_ready(desk, peer);
                self.relay.peer_ready(desk, peer);
                // Its topology must not show through a link that exchanges blocks only.
                if matches!(link, Link::OutboundFull | Link::Manual) {
                    self.ask_addresses(desk, id);
                }
            }
        }
    }
}

/// Blocks, headers, and what the chain and the mempool said.
impl Parts {
    /// What a new block's announcement asks for beyond itself.
    fn follow(&mut self, desk: &mut Desk<'_>, id: PeerId, ask: Ask) {
        match ask {
            Ask::Nothing => {}
            Ask::Headers => self.sync.on_unknown_header(desk, id),
        }
    }

    fn block(&mut self, desk: &mut Desk<'_>, id: PeerId, bytes: std::sync::Arc<[u8]>) {
        // Asked for by the one or the other part: each knows what it asked of whom.
        if self.download.on_block(desk, id, &bytes) || self.blocks.on_block(desk, id, &bytes) {
            return;
        }
        desk.blame(id, Offence::UnwantedBlock);
    }

    pub(super) fn headers_taken(
        &mut self,
        desk: &mut Desk<'_>,
        id: PeerId,
        result: Result<HeadersTaken, SubmitError>,
    ) {
        self.sync.on_headers_taken(desk, id, &result);
        if let Ok(taken) = &result {
            self.download.peer_has(id, taken.last);
            self.blocks.peer_has(id, taken.last);
        }
        self.download.continue_with(desk);
    }

    pub(super) fn block_taken(
        &mut self,
        desk: &mut Desk<'_>,
        id: PeerId,
        hash: BlockHash,
        result: Result<Accepted, SubmitError>,
    ) {
        if matches!(result, Ok(Accepted::Connected))
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.last_block = Some(desk.now.monotonic);
        }
        // A block is the download's or the relay's; the other does not know it.
        self.download.on_block_taken(desk, id, hash, &result);
        self.blocks.on_block_taken(desk, id, hash, &result);
    }

    pub(super) fn transactions_taken(&mut self, desk: &mut Desk<'_>, verdicts: Vec<TransactionVerdict>) {
        for verdict in verdicts.iter().filter(|verdict| verdict.result.is_ok()) {
            if let Some(peer) = self.peers.get_mut(&verdict.peer) {
                peer.last_transaction = Some(desk.now.monotonic);
            }
        }
        self.relay.on_verdicts(desk, verdicts);
    }

    pub(super) fn tip_changed(&mut self, desk: &mut Desk<'_>) {
        let syncing = self.sync.is_syncing(desk);
        self.relay.set_syncing(syncing);
        self.blocks.set_syncing(syncing);
        self.outbound.tip_moved(desk.now);
        self.sync.on_tip_changed(desk);
        self.download.on_tip_changed(desk);
        self.blocks.on_tip_changed(desk);
        self.relay.on_tip_changed(desk);
    }
}

/// Coming and going.
impl Parts {
    pub(super) fn dial_failed(&mut self, desk: &mut Desk<'_>, address: PeerAddress, link: Link) {
        self.outbound.failed(&address, link, desk.now);
        self.addresses.attempt(&address, desk.now);
    }

    pub(super) fn disconnected(&mut self, desk: &mut Desk<'_>, id: PeerId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        self.nonces.remove(&peer.nonce);
        if !peer.link.is_inbound() {
            self.outbound.gone(&peer.address, peer.link, desk.now);
        }
        self.sync.peer_gone(desk, id);
        self.download.peer_gone(desk, id);
        self.blocks.peer_gone(desk, id);
        self.relay.peer_gone(desk, id);
        self.addresses.peer_gone(id);
    }

    fn ask_addresses(&mut self, desk: &mut Desk<'_>, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.asked_addresses = true;
            desk.send(id, Message::GetAddresses(Serves::Any));
        }
    }

    pub(super) fn tick(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let mut ended = Vec::new();
        for peer in self.peers.values_mut().filter(|peer| !peer.closing) {
            if peer.hello.is_none() {
                if now.saturating_sub(peer.since) >= HANDSHAKE_TIMEOUT {
                    ended.push((peer.id, Ending::HandshakeTimeout));
                }
                continue;
            }
            if now.saturating_sub(peer.heard) >= INACTIVITY_TIMEOUT {
                ended.push((peer.id, Ending::Silent));
            } else if peer.ping.is_none() && now >= peer.next_ping {
                let nonce = desk.rng.random();
                peer.ping = Some((nonce, now));
                peer.next_ping = now + PING_INTERVAL;
                desk.actions.push(Action::Send(peer.id, Message::Ping(nonce)));
            }
        }
        for (id, ending) in ended {
            self.close(desk, id, ending);
        }
        self.sync.tick(desk);
        self.download.tick(desk);
        self.blocks.tick(desk);
        self.relay.tick(desk);
        self.tick_addresses(desk);
        if now >= self.next_save {
            self.next_save = now + SAVE_INTERVAL;
            desk.actions.push(Action::Save);
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
                other => settled.push(other),
            }
        }
        settled
    }

    fn punish(&mut self, _now: Now, id: PeerId, offence: Offence, settled: &mut Actions) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let penalty = offence.penalty();
        tracing::info!(peer = id.0, address = %peer.address, code = offence.code(), ?offence, "a peer broke a rule");
        match penalty {
            Penalty::None => return,
            Penalty::Disconnect => {}
            // Whom the operator named is not held off; nor are all of a machine for one of its processes.
            Penalty::Discourage if peer.link == Link::Manual => {}
            Penalty::Discourage => self.bans.discourage(&peer.address.host),
        }
        if !peer.closing {
            peer.closing = true;
            settled.push(Action::Disconnect(id, Ending::Offence(offence)));
        }
    }
}
