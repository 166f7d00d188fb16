//! The whole brain as a state machine, over a real chain and mempool in memory: any order of peers, messages, verdicts,
//! dials and time. It speaks only to those who are there, within every limit, and the chain under it stays sound.

use super::Input;
use super::world::{START, hello, host, world};
use crate::chain::{ChainHandle, ChainOptions, KnownSignatures, Now, Verifier};
use crate::clock::ManualClock;
use crate::mempool::{Mempool, Options};
use crate::p2p::brain::interface::{Action, Actions, Dial, Event, Link, PeerId, TransactionVerdict};
use crate::p2p::brain::penalty::Offence;
use crate::p2p::brain::{Brain, BrainOptions, Memory};
use crate::p2p::message::{FRAME_HEAD_BYTES, Message, PeerAddress, frame_limit};
use crate::store::MemoryStore;
use setara_core::pow::Work;
use setara_core::transaction::Transaction;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Operations of a run: what a fuzzer can still see through.
const OPERATIONS_MAX: usize = 256;
/// Actions that one event may lead to: a message asks for a thousand things at the most, each of one action.
const ACTIONS_MAX: usize = 4_096;
/// Bytes of messages that one event may lead to: the largest answers are a megabyte each, and one goes to each of few peers.
const SENT_BYTES_MAX: usize = 16 << 20;
/// Events that one may lead to before the machine must be at rest.
const FOLLOWING_MAX: usize = 1_000;
/// Peers at once: more say nothing new.
const PEERS_MAX: usize = 12;

/// Why connections exist.
const LINKS: [Link; 6] =
    [Link::Inbound, Link::OutboundFull, Link::BlockOnly, Link::Manual, Link::Feeler, Link::AddressFetch];

struct Run {
    brain: Brain,
    chain: ChainHandle,
    mempool: Mempool,
    clock: Arc<ManualClock>,
    seen_mempool: u64,
    peers: u64,
    /// Who is there, and whether it was sent away.
    open: BTreeMap<u64, bool>,
    dials: VecDeque<Dial>,
    following: VecDeque<Event>,
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let network = &world().network;
    let clock = Arc::new(ManualClock::new(START));
    let known = Arc::new(KnownSignatures::default());
    // One thread: what a run reaches must not depend on how threads take turns.
    let verifier = Verifier::new(network.clone(), known.clone(), Some(1));
    let options = ChainOptions { coin_cache_bytes: 1 << 20, ..ChainOptions::default() };
    let chain = ChainHandle::inline(Arc::new(MemoryStore::new()), verifier, options, clock.clone());
    let chain = chain.expect("a new chain opens");
    let mempool = Mempool::new(network.clone(), clock.clone(), chain.clone(), known, Options::default());
    let shape = input.u8();
    let some = |bit: u8, address: PeerAddress| if shape & bit == 0 { Vec::new() } else { vec![address] };
    let options = BrainOptions {
        agent: "/fuzz/".to_owned(),
        listen_port: 4_000,
        allow_private: shape & 1 != 0,
        inbound_max: usize::from(shape >> 4),
        upload_target: None,
        only: Vec::new(),
        manual: some(2, host(1)).into_iter().map(Into::into).collect(),
        external: some(4, host(200)),
        bootstrap: some(8, host(2)),
        minimum_chain_work: Work::ZERO,
        onion: false,
        snapshot: false,
        download_bytes: crate::p2p::limits::DOWNLOAD_WINDOW_BYTES,
    };
    let brain = Brain::new(options, Memory::default(), [9; 32]);
    let (open, dials, following) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
    let mut run = Run { brain, chain, mempool, clock, seen_mempool: 0, peers: 0, open, dials, following };
    let blocks = input.below(world().blocks.len() + 1);
    for block in &world().blocks[..blocks] {
        run.chain.submit(block.clone()).expect("the world's blocks are valid");
    }
    run.handle(Event::TipChanged);
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
        run.settle();
    }
    run.end();
}

impl Run {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 14 {
            0 => {
                let (link, number) = (LINKS[input.below(LINKS.len())], input.u8());
                self.connect(link, host(number));
            }
            // The usual beginning: somebody is there and has greeted.
            1 => {
                let (link, number, bits) = (LINKS[input.below(LINKS.len())], input.u8(), input.u8());
                if let Some(peer) = self.connect(link, host(number)) {
                    self.says(peer, hello(&world().network, u64::from(bits), 4, 1_000 + u64::from(number)));
                }
            }
            2..=5 => {
                let Some(peer) = self.pick(input) else { return };
                let message = world().messages[input.below(world().messages.len())].clone();
                self.says(peer, message);
            }
            6 => {
                let Some(peer) = self.pick(input) else { return };
                let (kind, count) = (input.u8() % 21, usize::from(input.u16() % 2_048));
                let body = input.bytes(count).to_vec();
                match Message::decode(kind, body, world().network.max_block_bytes) {
                    Ok(message) => self.says(peer, message),
                    Err(_) => self.handle(Event::Garbage {
                        peer: PeerId(peer),
                        offence: Offence::Undecodable(crate::p2p::message::kind::name(kind)),
                    }),
                }
            }
            7 => {
                let millis = u64::from(input.u8()) * 16;
                self.pass(millis);
            }
            8 => (0..input.below(16)).for_each(|_| self.pass(5_000)),
            9 => {
                if let Some(peer) = self.pick(input) {
                    self.leave(peer);
                }
            }
            10 => {
                if let Some(Dial { address, link }) = self.dials.pop_front() {
                    match input.u8() % 4 {
                        0 => self.handle(Event::DialFailed { address, link, ourselves: false }),
                        1 => self.handle(Event::DialFailed { address, link, ourselves: true }),
                        _ => drop(self.connect(link, address)),
                    }
                }
            }
            // A block of this node's own, or one that came another way.
            11 => {
                let blocks = world().blocks.iter().chain(&world().fork).collect::<Vec<_>>();
                let _ = self.chain.submit(blocks[input.below(blocks.len())].clone());
                self.handle(Event::TipChanged);
            }
            12 => {
                let transaction = world().transactions[input.below(world().transactions.len())].clone();
                let _ = self.mempool.submit(transaction);
            }
            _ => {
                let network = &world().network;
                let Some(peer) = self.pick(input) else { return };
                let (bits, nonce) = (u64::from(input.u8()), u64::from(input.u8()));
                self.says(peer, hello(network, bits, 9, nonce));
            }
        }
    }

    fn now(&self) -> Now {
        use crate::clock::Clock;
        Now { unix_seconds: self.clock.unix_seconds(), monotonic: self.clock.monotonic() }
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<u64> {
        let index = usize::from(input.u8()) % self.open.len().max(1);
        self.open.keys().nth(index).copied()
    }

    fn pass(&mut self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
        let _ = self.chain.tick();
        self.handle(Event::Tick);
    }

    fn connect(&mut self, link: Link, address: PeerAddress) -> Option<u64> {
        if self.open.len() >= PEERS_MAX {
            return None;
        }
        self.peers += 1;
        self.open.insert(self.peers, false);
        self.handle(Event::Connected { peer: PeerId(self.peers), link, address, version: 1 });
        Some(self.peers)
    }

    fn says(&mut self, peer: u64, message: Message) {
        self.handle(Event::Message { peer: PeerId(peer), message });
    }

    fn leave(&mut self, peer: u64) {
        self.open.remove(&peer);
        self.handle(Event::Disconnected { peer: PeerId(peer) });
    }

    /// What follows from what was done, until nothing does.
    fn settle(&mut self) {
        let added = self.mempool.added_since(self.seen_mempool);
        self.seen_mempool = added.next;
        if !added.entered.is_empty() {
            self.handle(Event::MempoolGrew(added.entered));
        }
        let mut count = 0;
        while let Some(event) = self.following.pop_front() {
            count += 1;
            assert!(count <= FOLLOWING_MAX, "it does not come to rest");
            match event {
                Event::Disconnected { peer } if !self.open.contains_key(&peer.0) => {}
                Event::Disconnected { peer } => self.leave(peer.0),
                other => self.handle(other),
            }
        }
        assert_eq!(self.brain.parts().peers().count(), self.open.len());
    }

    fn handle(&mut self, event: Event) {
        let tip = self.chain.view().tip.hash();
        let actions = self.brain.handle(self.now(), &self.chain, &self.mempool, event);
        self.carry_out(actions);
        if self.chain.view().tip.hash() != tip {
            self.following.push_back(Event::TipChanged);
        }
    }

    fn carry_out(&mut self, actions: Actions) {
        assert!(actions.len() <= ACTIONS_MAX, "{} actions", actions.len());
        let mut sent = 0;
        for action in actions {
            let served = matches!(action, Action::SendRecent(..));
            match action {
                Action::Send(peer, message) | Action::SendRecent(peer, message) => {
                    assert!(self.open.contains_key(&peer.0), "{} to nobody", message.name());
                    let frame = message.encode();
                    let limit = frame_limit(message.kind(), world().network.max_block_bytes);
                    assert!((frame.len() - FRAME_HEAD_BYTES) as u64 <= limit.expect("a kind of ours"));
                    sent += frame.len();
                    match message {
                        Message::Transactions(_) => self.following.push_back(Event::TransactionsSent { peer }),
                        Message::Block(_) | Message::CompactBlock(_) | Message::BlockTransactions(_) if served => {
                            self.following.push_back(Event::Served { peer });
                        }
                        _ => {}
                    }
                }
                Action::SendBlock(peer, _)
                | Action::SendCompactBlock(peer, _)
                | Action::SendBlockTransactions(peer, ..) => {
                    assert!(self.open.contains_key(&peer.0), "a block to nobody");
                    self.following.push_back(Event::Served { peer });
                }
                Action::SendGenesis(peer) => assert!(self.open.contains_key(&peer.0), "the genesis file to nobody"),
                Action::Disconnect(peer, _) => {
                    let leaving = self.open.get_mut(&peer.0).expect("only who is there is sent away");
                    // Half of them are gone at once; the others go on talking until an operation ends them.
                    if !std::mem::replace(leaving, true) && peer.0 % 2 == 0 {
                        self.following.push_back(Event::Disconnected { peer });
                    }
                }
                Action::Blame(..) => panic!("blame is settled before actions leave the brain"),
                Action::Dial(dial) => {
                    self.dials.push_back(dial);
                    assert!(self.dials.len() <= 4_096);
                }
                Action::SubmitHeaders(peer, headers) => {
                    let result = self.chain.submit_headers(headers);
                    self.following.push_back(Event::HeadersTaken { peer, result });
                }
                Action::SubmitBlock { peer, hash, bytes, wanted } => {
                    let (tell, told) = std::sync::mpsc::channel();
                    self.chain.import(bytes, wanted, Box::new(move |result| drop(tell.send(result))));
                    let result = told.recv().expect("an inline chain answers at once");
                    self.following.push_back(Event::BlockTaken { peer, hash, result });
                }
                Action::SubmitHistory { .. } | Action::SendSnapshot(..) | Action::Snapshot(_) => {
                    panic!("there is no snapshot")
                }
                Action::SubmitTransactions(peer, transactions) => {
                    let verdicts = self.mempool.submit_many(transactions.clone());
                    self.judged(peer, transactions, verdicts.into_iter().map(|verdict| verdict.map(|_| ())).collect());
                }
                Action::SubmitPackage(peer, package) => {
                    let [parent, child] = *package;
                    let verdicts = self.mempool.submit_package(parent.clone(), child.clone());
                    let verdicts = verdicts.into_iter().map(|verdict| verdict.map(|_| ())).collect();
                    self.judged(peer, vec![parent, child], verdicts);
                }
                Action::Save => assert!(!self.brain.addresses().is_empty()),
            }
        }
        assert!(sent <= SENT_BYTES_MAX, "{sent} bytes at once");
    }

    fn judged(
        &mut self,
        peer: PeerId,
        transactions: Vec<Transaction>,
        verdicts: Vec<Result<(), crate::mempool::MempoolError>>,
    ) {
        let verdicts = transactions.into_iter().zip(verdicts).map(|(transaction, result)| {
            let ids = transaction.ids();
            TransactionVerdict { peer, transaction: Arc::new(transaction), txid: ids.txid, wtxid: ids.wtxid, result }
        });
        let event = Event::TransactionsTaken(verdicts.collect());
        self.following.push_back(event);
    }

    /// Everybody goes; nothing of them stays.
    fn end(&mut self) {
        for peer in self.open.keys().copied().collect::<Vec<_>>() {
            self.leave(peer);
        }
        self.settle();
        assert_eq!(self.brain.parts().peers().count(), 0);
        assert_eq!(self.chain.fault(), None);
        assert!(self.brain.anchors().is_none());
        self.chain.stop();
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let messages = world().messages.len() as u8;
    let greet = |link: u8, number: u8| [1u8, link, number, 7];
    let say = |peer: u8, message: u8| [2u8, peer, message];
    let mut seeds = Vec::new();
    // Each link hears each message, synced and not.
    for link in 0..LINKS.len() as u8 {
        for blocks in [0u8, 4] {
            let all: Vec<u8> = (2..messages).flat_map(|message| say(0, message)).collect();
            seeds.push([&[0x4f, blocks], greet(link, 30).as_slice(), &[8, 2], &all, &[8, 15]].concat());
        }
    }
    for message in 2..messages {
        let twice = [say(0, message), say(1, message), say(0, message)].concat();
        seeds.push([&[0x40, 2], greet(1, 30).as_slice(), &greet(0, 90), &twice, &[8, 9], &twice, &[7, 200]].concat());
    }
    seeds.push([&[0x4e, 3], [8u8, 3].repeat(8).as_slice(), &[10, 2, 13, 0, 7, 9, 10, 0, 10, 1, 8, 15]].concat());
    seeds.push([&[0x40, 4], greet(0, 1).as_slice(), &[12, 0, 12, 1, 8, 15, 11, 5, 8, 3, 9, 0]].concat());
    seeds
}
