//! One simulated node: the real brain, the real chain and mempool over a store in memory, and a clock of its own.

use crate::coins::Coins;
use crate::liar::Liar;
use crate::world::{NodeId, What, World, decode, named};
use rand::RngExt;
use setara_core::address::Address;
use setara_core::block::Block;
use setara_core::hash::BlockHash;
use setara_core::network::Network;
use setara_core::nonce::find_nonce;
use setara_node::chain::{ChainHandle, ChainOptions, KnownSignatures, Now, Verifier};
use setara_node::clock::{Clock, ManualClock};
use setara_node::mempool::{Mempool, Options};
use setara_node::mining::Templates;
use setara_node::p2p::brain::interface::{Action, Actions, Ending, Event, Link, PeerId, TransactionVerdict};
use setara_node::p2p::brain::penalty::Offence;
use setara_node::p2p::brain::{Brain, BrainOptions, Memory};
use setara_node::p2p::message::{BlockTransactions, CompactBlock, Message, PeerAddress, Reference};
use setara_node::p2p::shell::conn::snapshot_part;
use setara_node::store::MemoryStore;
use setara_node::testing;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Unix time at which every world begins: well after the development network's genesis.
pub const EPOCH: u64 = 1_800_000_000;
/// Where simulated nodes listen.
pub const PORT: u16 = 19_740;

/// A node's address: each in a /16 of its own, as on the open network.
pub fn address_of(node: NodeId) -> PeerAddress {
    let octets = [20 + (node / 200) as u8, (node % 200) as u8 + 1, 7, 1];
    SocketAddr::new(Ipv4Addr::from(octets).into(), PORT).into()
}

/// The node that listens at an address.
pub fn node_at(address: &PeerAddress, nodes: usize) -> Option<NodeId> {
    (0..nodes).find(|node| address_of(*node) == *address)
}

/// What is alive of a node.
pub struct Running {
    pub brain: Brain,
    pub chain: ChainHandle,
    pub mempool: Arc<Mempool>,
    pub templates: Templates,
    seen_mempool: u64,
    seen_tip: BlockHash,
}

/// A node.
pub struct Node {
    pub id: NodeId,
    /// Goes up with every start: what was meant for an earlier life does not reach a later one.
    pub life: u64,
    pub running: Option<Running>,
    pub liar: Option<Liar>,
    /// If it serves a snapshot or begins with one.
    pub coins: Option<Coins>,
    /// Whom it left, and why.
    pub endings: Vec<(NodeId, Ending)>,
    pub store: MemoryStore,
    pub clock: Arc<ManualClock>,
    /// Seconds by which its clock is wrong.
    pub skew: i64,
    pub network: Arc<Network>,
    /// Whom it knows from the start.
    pub bootstrap: Vec<PeerAddress>,
    /// If not empty, it dials these and nobody else.
    pub only: Vec<PeerAddress>,
    /// Signatures known to be good, where nodes share them: virtual time does not count checks, real time does.
    pub known: Option<Arc<KnownSignatures>>,
    /// Files of its earlier lives.
    addresses: Option<Vec<u8>>,
    /// Mean time between its blocks; `None` does not mine.
    pub mines_every: Option<Duration>,
    /// Blocks whose verdict the chain gave, for the log.
    pub payout: Address,
}

impl Node {
    pub fn new(id: NodeId, network: &Arc<Network>, bootstrap: Vec<PeerAddress>) -> Self {
        Self {
            id,
            life: 0,
            running: None,
            liar: None,
            coins: None,
            endings: Vec::new(),
            store: MemoryStore::new(),
            clock: Arc::new(ManualClock::new(EPOCH)),
            skew: 0,
            network: network.clone(),
            bootstrap,
            only: Vec::new(),
            known: None,
            addresses: None,
            mines_every: None,
            payout: testing::address(0),
        }
    }

    fn set_clock(&self, world: &World) {
        let behind = world.now.saturating_sub(self.clock.monotonic());
        self.clock.advance(behind);
        self.clock.set((EPOCH + world.now.as_secs()).saturating_add_signed(self.skew));
    }

    fn now(&self) -> Now {
        Now { unix_seconds: self.clock.unix_seconds(), monotonic: self.clock.monotonic() }
    }

    /// Starts, on what its store holds.
    pub fn start(&mut self, world: &mut World) {
        self.life += 1;
        self.set_clock(world);
        world.log(&format!("node {} starts", self.id));
        if self.liar.is_none() {
            let known = self.known.clone().unwrap_or_default();
            let verifier = Verifier::new(self.network.clone(), known.clone(), Some(1));
            let options = ChainOptions { coin_cache_bytes: 1 << 20, ..ChainOptions::default() };
            let clock: Arc<dyn Clock> = self.clock.clone();
            let chain = ChainHandle::inline(Arc::new(self.store.clone()), verifier, options, clock.clone())
                .expect("what a crash leaves can be opened");
            let mempool =
                Arc::new(Mempool::new(self.network.clone(), clock.clone(), chain.clone(), known, Options::default()));
            let templates = Templates::new(self.network.clone(), chain.clone(), mempool.clone(), clock);
            let options = BrainOptions {
                agent: format!("/sim:{}/", self.id),
                listen_port: PORT,
                allow_private: false,
                inbound_max: 114,
                upload_target: None,
                only: self.only.clone(),
                manual: Vec::new(),
                external: vec![address_of(self.id)],
                bootstrap: self.bootstrap.clone(),
                minimum_chain_work: setara_core::pow::Work::ZERO,
                onion: false,
                snapshot: self.coins.as_ref().is_some_and(Coins::begins),
                download_bytes: setara_node::p2p::limits::DOWNLOAD_WINDOW_BYTES,
            };
            let memory = Memory { addresses: self.addresses.clone(), anchors: None, bans: None };
            let brain = Brain::new(options, memory, world.rng.random());
            if let Some(coins) = &mut self.coins {
                coins.start(&chain);
            }
            let seen_tip = chain.view().tip.hash();
            self.running = Some(Running { brain, chain, mempool, templates, seen_mempool: 0, seen_tip });
        }
        world.plan_tick(self.id, self.life);
        self.plan_block(world);
    }

    /// Loses power: what was not synced may be gone.
    pub fn crash(&mut self, world: &mut World) {
        world.log(&format!("node {} loses power", self.id));
        self.life += 1;
        if let Some(running) = self.running.take() {
            self.addresses = Some(running.brain.addresses());
            if let Some(coins) = &mut self.coins {
                coins.crash(&running.chain, &mut world.rng);
            }
            running.chain.stop();
        }
        let kept = world.rng.random_range(0..4);
        self.store = self.store.crash(kept);
    }

    /// Whether it runs.
    pub const fn is_up(&self) -> bool {
        self.running.is_some() || self.liar.is_some()
    }

    /// Plans its next block: exponential, as mining is.
    pub fn plan_block(&self, world: &mut World) {
        if let Some(mean) = self.mines_every {
            let uniform = world.rng.random_range(1..=1_000_000u64);
            // -ln(u) in integers would be exact too; the world's own arithmetic may be.
            let factor = -(uniform as f64 / 1_000_000.0).ln();
            world.plan(mean.mul_f64(factor.min(8.0)) + Duration::from_millis(1), What::Mine(self.id, self.life));
        }
    }

    /// Mines a block on its tip.
    pub fn mine(&mut self, world: &mut World) -> Option<Block> {
        self.set_clock(world);
        let running = self.running.as_ref()?;
        let template = running.templates.build(self.payout).ok()?;
        let (mut header, coinbase) = template.with_extranonce(world.rng.random());
        header.nonce = find_nonce(&header, template.target, 0..=u32::MAX)?;
        let block = template.assemble(header, coinbase);
        let verdict = running.chain.submit(block.clone());
        world.log(&format!("node {} mines {} at {}: {verdict:?}", self.id, block.hash(), block.coinbase.height.get()));
        Some(block)
    }
}

/// Carries out what happens; a step of the script is the scenario's own business, and handed back.
pub fn happen(world: &mut World, nodes: &mut [Node], what: What) -> Option<u32> {
    match what {
        What::Tick(id, life) => {
            if nodes[id].life == life && nodes[id].is_up() {
                handle(world, nodes, id, Event::Tick);
                world.plan_tick(id, life);
            }
        }
        What::Event(id, life, event) => {
            if nodes[id].life == life {
                handle(world, nodes, id, event);
            }
        }
        What::Queue(id, life, peer, frame) => world.queue(id, life, peer, frame),
        What::Deliver(id, life, peer, frame) => {
            if nodes[id].life == life {
                deliver(world, nodes, id, peer, frame);
            }
        }
        What::Arrive { from, life, to, link } => arrive(world, nodes, from, life, to, link),
        What::Mine(id, life) => {
            if nodes[id].life == life && nodes[id].mines_every.is_some() {
                nodes[id].mine(world);
                nodes[id].plan_block(world);
                notice(world, nodes, id);
            }
        }
        What::Restart(id) => {
            if !nodes[id].is_up() || nodes[id].life == 0 {
                nodes[id].start(world);
            }
        }
        What::Script(step) => return Some(step),
    }
    None
}

/// Lets a node's brain or liar handle an event, and carries out what follows.
pub fn handle(world: &mut World, nodes: &mut [Node], id: NodeId, event: Event) {
    let node = &mut nodes[id];
    node.set_clock(world);
    if let Event::Tick = event
        && let Some(running) = &node.running
    {
        // A fault is found by the checks at the end.
        let _ = running.chain.tick();
    }
    if let (Event::Tick, Some(running), Some(coins)) = (&event, &node.running, &mut node.coins)
        && let Some(told) = coins.tick(&running.chain, &node.clock, world.now)
    {
        world.plan(Duration::ZERO, What::Event(id, node.life, told));
    }
    let now = node.now();
    let actions = if let Some(running) = &mut node.running {
        running.brain.handle(now, &running.chain, &running.mempool, event)
    } else if let Some(liar) = &mut node.liar {
        liar.handle(now, event, &mut world.rng)
    } else {
        return;
    };
    carry_out(world, nodes, id, actions);
    notice(world, nodes, id);
}

/// Tells a node's brain of a new tip and of new transactions.
pub fn notice(world: &mut World, nodes: &mut [Node], id: NodeId) {
    let node = &mut nodes[id];
    let life = node.life;
    let Some(running) = &mut node.running else { return };
    let tip = running.chain.view().tip.hash();
    if tip != running.seen_tip {
        running.seen_tip = tip;
        world.log(&format!("node {id} is at {tip}"));
        world.plan(Duration::ZERO, What::Event(id, life, Event::TipChanged));
    }
    let added = running.mempool.added_since(running.seen_mempool);
    running.seen_mempool = added.next;
    if !added.entered.is_empty() {
        world.plan(Duration::ZERO, What::Event(id, life, Event::MempoolGrew(added.entered)));
    }
}

fn carry_out(world: &mut World, nodes: &mut [Node], id: NodeId, actions: Actions) {
    for action in actions {
        let life = nodes[id].life;
        if let Action::SendBlock(peer, _)
        | Action::SendRecent(peer, _)
        | Action::SendCompactBlock(peer, _)
        | Action::SendBlockTransactions(peer, ..) = &action
        {
            world.plan(Duration::from_millis(1), What::Event(id, life, Event::Served { peer: *peer }));
        }
        let chain = nodes[id].running.as_ref().map(|running| running.chain.clone());
        match action {
            Action::Send(peer, message) => {
                if matches!(message, Message::Transactions(_)) {
                    world.plan(Duration::from_millis(1), What::Event(id, life, Event::TransactionsSent { peer }));
                }
                post(world, nodes, id, peer, message);
            }
            Action::SendRecent(peer, message) => world.send(nodes, id, peer, message.encode()),
            Action::Disconnect(peer, ending) => {
                world.log(&format!("node {id} ends {}: {}", peer.0, named(&ending)));
                if let Some(other) = world.other(id, peer) {
                    nodes[id].endings.push((other, ending));
                }
                world.cut(nodes, id, peer);
            }
            Action::Blame(..) | Action::Save => {}
            Action::SendSnapshot(peer, offer, part) => {
                world.plan(Duration::from_millis(1), What::Event(id, life, Event::SnapshotSent { peer }));
                post(world, nodes, id, peer, snapshot_part(&offer, part));
            }
            Action::Snapshot(job) => {
                let Some((chain, coins)) = chain.zip(nodes[id].coins.as_mut()) else { continue };
                if let Some(news) = coins.work(&chain, job) {
                    world.log(&format!("node {id} of its snapshot: {news:?}"));
                    world.plan(Duration::from_millis(1), What::Event(id, life, Event::Snapshot(news)));
                }
            }
            Action::Dial(dial) => world.dial(id, life, dial.address, dial.link),
            Action::SendGenesis(peer) => world.send(nodes, id, peer, Message::Genesis(Vec::new()).encode()),
            Action::SendBlock(peer, hash) => {
                let body = chain.and_then(|chain| chain.view().body(&hash).ok().flatten());
                let message = body.map_or_else(|| missing(hash), |body| Message::Block(body.into()));
                world.send(nodes, id, peer, message.encode());
            }
            Action::SendCompactBlock(peer, hash) => {
                let block = chain.and_then(|chain| chain.view().block(&hash).ok().flatten());
                let nonce = world.rng.random();
                let compact = |block: Block| Message::CompactBlock(Box::new(CompactBlock::of(&block, nonce)));
                world.send(nodes, id, peer, block.map_or_else(|| missing(hash), compact).encode());
            }
            Action::SendBlockTransactions(peer, hash, indexes) => {
                let block = chain.and_then(|chain| chain.view().block(&hash).ok().flatten());
                let answer = |block: Block| {
                    let wanted = indexes.iter().filter_map(|index| block.transactions.get(*index as usize).cloned());
                    let transactions = wanted.collect();
                    Message::BlockTransactions(Box::new(BlockTransactions { hash, transactions }))
                };
                world.send(nodes, id, peer, block.map_or_else(|| missing(hash), answer).encode());
            }
            Action::SubmitHeaders(peer, headers) => {
                let Some(chain) = chain else { continue };
                let result = chain.submit_headers(headers);
                world.plan(Duration::from_millis(1), What::Event(id, life, Event::HeadersTaken { peer, result }));
            }
            Action::SubmitBlock { peer, hash, bytes, wanted } => {
                let Some(chain) = chain else { continue };
                let (tell, told) = std::sync::mpsc::channel();
                chain.import(bytes, wanted, Box::new(move |result| drop(tell.send(result))));
                let result = told.recv().expect("an inline chain answers at once");
                world.log(&format!("node {id} judges {hash}: {result:?}"));
                world.plan(Duration::from_millis(2), What::Event(id, life, Event::BlockTaken { peer, hash, result }));
            }
            Action::SubmitHistory { peer, hash, bytes } => {
                let Some(history) = chain.and_then(|chain| chain.history()) else { continue };
                let (tell, told) = std::sync::mpsc::channel();
                history.import(bytes, true, Box::new(move |result| drop(tell.send(result))));
                let result = told.recv().expect("an inline chain answers at once");
                world.plan(Duration::from_millis(2), What::Event(id, life, Event::HistoryTaken { peer, hash, result }));
            }
            Action::SubmitTransactions(..) | Action::SubmitPackage(..) => {
                let Some(running) = &nodes[id].running else { continue };
                let (peer, transactions, verdicts) = match action {
                    Action::SubmitPackage(peer, package) => {
                        let [parent, child] = *package;
                        let verdicts = running.mempool.submit_package(parent.clone(), child.clone());
                        (peer, vec![parent, child], Vec::from(verdicts))
                    }
                    Action::SubmitTransactions(peer, transactions) => {
                        let verdicts = running.mempool.submit_many(transactions.clone());
                        (peer, transactions, verdicts)
                    }
                    _ => continue,
                };
                let verdicts = transactions.into_iter().zip(verdicts).map(|(transaction, verdict)| {
                    let ids = transaction.ids();
                    let transaction = Arc::new(transaction);
                    let result = verdict.map(|_| ());
                    TransactionVerdict { peer, transaction, txid: ids.txid, wtxid: ids.wtxid, result }
                });
                let event = Event::TransactionsTaken(verdicts.collect());
                world.plan(Duration::from_millis(1), What::Event(id, life, event));
            }
        }
    }
}

/// Sends a message, or what a liar has in its place.
fn post(world: &mut World, nodes: &mut [Node], id: NodeId, peer: PeerId, message: Message) {
    let Node { running, coins, .. } = &mut nodes[id];
    let instead = running.as_ref().zip(coins.as_mut()).and_then(|(node, coins)| coins.instead(&message, &node.chain));
    for frame in instead.unwrap_or_else(|| vec![message.encode()]) {
        world.send(nodes, id, peer, frame);
    }
}

fn missing(hash: BlockHash) -> Message {
    Message::NotFound(vec![Reference::Block(hash)])
}

/// A frame arrives: taken apart as the shell does it.
pub fn deliver(world: &mut World, nodes: &mut [Node], id: NodeId, peer: PeerId, frame: Vec<u8>) {
    if !world.is_open(id, peer) {
        return;
    }
    let max = nodes[id].network.max_block_bytes;
    let event = match decode(frame, max) {
        Ok(message) => Event::Message { peer, message },
        Err(what) => Event::Garbage { peer, offence: Offence::Undecodable(what) },
    };
    handle(world, nodes, id, event);
}

/// A dial arrives.
pub fn arrive(world: &mut World, nodes: &mut [Node], from: NodeId, life: u64, to: PeerAddress, link: Link) {
    if nodes[from].life != life || !nodes[from].is_up() {
        return;
    }
    let target = node_at(&to, nodes.len()).filter(|to| *to != from && nodes[*to].is_up() && world.reachable(from, *to));
    let Some(target) = target else {
        return handle(world, nodes, from, Event::DialFailed { address: to, link, ourselves: to == address_of(from) });
    };
    let (at_from, at_target) = world.join(from, target);
    // An incoming connection shows the host, and a port that nobody listens on.
    let mut caller = address_of(from);
    caller.port = world.rng.random_range(32_768..60_999);
    handle(world, nodes, from, Event::Connected { peer: at_from, link, address: to, version: 1 });
    let connected = Event::Connected { peer: at_target, link: Link::Inbound, address: caller, version: 1 };
    handle(world, nodes, target, connected);
}
