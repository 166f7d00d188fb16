//! Sync and download together, as a random state machine over the whole brain, a real chain and peers of every temper:
//! headers, blocks, stalls, denials, junk, disconnects, restarts and reorganisations in any order, by the seed.
//!
//! Whatever happens, no peer is asked for a block that it is already asked for, and what is asked for and held stays
//! within its bounds; and once two honest peers stay, the whole chain arrives and no request is left.

use super::*;
use crate::chain::{ChainHandle, KnownSignatures, Now};
use crate::clock::ManualClock;
use crate::mempool::{Mempool, Options};
use crate::p2p::brain::greeting::Introduction;
use crate::p2p::brain::interface::{Actions, Event, Link};
use crate::p2p::brain::{Brain, BrainOptions, Memory};
use crate::p2p::limits::{DOWNLOAD_PER_PEER, DOWNLOAD_WINDOW_BLOCKS, HEADERS_MAX};
use crate::p2p::message::{Message, NetAddress, PeerAddress, Reference, services};
use crate::store::MemoryStore;
use crate::testing::{self, ChainBuilder, quick_network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::block::Block;
use setara_core::codec;
use setara_core::network::Network;
use setara_core::pow::Work;
use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::OnceLock;

/// Seeds of an ordinary run; `SETARA_MACHINE_SEEDS=N` runs more, `SETARA_MACHINE_SEED=S` one alone.
const SEEDS: u64 = 300;
/// Blocks of the trunk: more than a window.
const TRUNK: usize = 1_300;
/// Where branches leave the trunk, and how long they are.
const FORKS: [(usize, usize); 4] = [(3, 30), (15, 40), (30, 60), (70, 40)];
/// Operations of a storm.
const STORM: usize = 400;
/// Virtual time in which all must be there once honest peers stay: stallers of two minutes and rests included.
const PATIENCE: Duration = Duration::from_secs(600);
const PEERS_MAX: usize = 10;
const START: u64 = 2_000_000_000;
/// A body that is none, with a header that is wanted: a megabyte, so that a window's bytes are put to the test.
const JUNK_BYTES: usize = 1_000_000;

/// A block as it travels.
struct Body {
    header: Header,
    hash: BlockHash,
    bytes: Arc<[u8]>,
}

fn network() -> Arc<Network> {
    static NETWORK: OnceLock<Arc<Network>> = OnceLock::new();
    NETWORK.get_or_init(quick_network).clone()
}

/// Branches, each from height 0 on; the trunk first.
fn branches() -> &'static [Vec<Arc<Body>>] {
    static BRANCHES: OnceLock<Vec<Vec<Arc<Body>>>> = OnceLock::new();
    BRANCHES.get_or_init(|| {
        let body = |block: &Block| {
            Arc::new(Body { header: block.header, hash: block.hash(), bytes: codec::encode(block).into() })
        };
        let mut builder = ChainBuilder::new(&network());
        let mut forks = Vec::new();
        for (at, length) in FORKS {
            builder.mine_empty((at - builder.height() as usize) as u32);
            let mut fork = builder.clone();
            fork.extra = vec![at as u8];
            fork.mine_empty(length as u32);
            forks.push(fork.blocks.iter().map(body).collect());
        }
        builder.mine_empty((TRUNK - builder.height() as usize) as u32);
        let trunk: Vec<Arc<Body>> = builder.blocks.iter().map(body).collect();
        std::iter::once(trunk).chain(forks).collect()
    })
}

/// Where each branch has a block.
fn height_on(branch: usize, hash: &BlockHash) -> Option<usize> {
    static HEIGHTS: OnceLock<Vec<BTreeMap<BlockHash, usize>>> = OnceLock::new();
    let heights = HEIGHTS.get_or_init(|| {
        let heights = |branch: &Vec<Arc<Body>>| branch.iter().enumerate().map(|(at, body)| (body.hash, at)).collect();
        branches().iter().map(heights).collect()
    });
    heights[branch].get(hash).copied()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    /// Answers all that it has.
    Honest,
    /// Answers nothing but greetings and pings.
    Silent,
    /// Answers headers, and no bodies.
    Withholding,
    /// Answers bodies with `NotFound`, or not.
    Denying,
    /// Answers bodies with junk under their headers.
    Junk,
    /// One or another, by chance.
    Fickle,
}

struct Remote {
    temper: Temper,
    /// What it has: a branch, up to a height.
    has: (usize, usize),
    /// What it was asked, oldest first.
    asked: VecDeque<Message>,
}

/// What the chain has yet to judge.
enum Job {
    Headers(PeerId, Vec<Header>),
    Block(PeerId, BlockHash, Arc<[u8]>, bool),
}

struct Machine {
    seed: u64,
    rng: StdRng,
    brain: Brain,
    chain: ChainHandle,
    mempool: Mempool,
    clock: Arc<ManualClock>,
    peers: BTreeMap<PeerId, Remote>,
    next: u64,
    /// Bodies that peers are asked for.
    owed: BTreeSet<(PeerId, BlockHash)>,
    work: VecDeque<Job>,
    /// Branches of this run, and up to which height anybody has them.
    limits: Vec<usize>,
    /// The branch with the most work.
    best: usize,
    most_bytes: u64,
    most_flights: usize,
    asked: usize,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let network = network();
        let clock = Arc::new(ManualClock::new(START));
        let chain = testing::inline(&network, Arc::new(MemoryStore::new()), clock.clone());
        let known = Arc::new(KnownSignatures::default());
        let mempool = Mempool::new(network, clock.clone(), chain.clone(), known, Options::default());
        let options = BrainOptions {
            agent: "/machine/".to_owned(),
            listen_port: 0,
            allow_private: false,
            inbound_max: 64,
            upload_target: None,
            only: Vec::new(),
            manual: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            minimum_chain_work: Work::ZERO,
            onion: false,
            snapshot: false,
            download_bytes: crate::p2p::limits::DOWNLOAD_WINDOW_BYTES,
        };
        let mut brain_seed = [0; 32];
        brain_seed[..8].copy_from_slice(&seed.to_le_bytes());
        let brain = Brain::new(options, Memory::default(), brain_seed);
        // One run in fifty is longer than a window of blocks.
        let trunk = if seed % 50 == 49 { TRUNK } else { rng.random_range(5..160) };
        let mut limits = vec![trunk];
        for (at, length) in FORKS {
            // A branch that leaves above what the trunk has is none.
            limits.push(if at < trunk { at + rng.random_range(1..=length) } else { 0 });
        }
        let best = (0..limits.len()).max_by_key(|branch| limits[*branch]).expect("there is a trunk");
        // Two of equal work are no disagreement that anything but work can end.
        for (branch, limit) in limits.iter_mut().enumerate() {
            *limit -= usize::from(branch != best && *limit > 0);
        }
        let (peers, owed, work) = (BTreeMap::new(), BTreeSet::new(), VecDeque::new());
        let (most_bytes, most_flights, asked) = (0, 0, 0);
        Self {
            seed,
            rng,
            brain,
            chain,
            mempool,
            clock,
            peers,
            next: 1,
            owed,
            work,
            limits,
            best,
            most_bytes,
            most_flights,
            asked,
        }
    }

    fn now(&self) -> Now {
        use crate::clock::Clock;
        Now { unix_seconds: self.clock.unix_seconds(), monotonic: self.clock.monotonic() }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        let actions = self.brain.handle(now, &self.chain, &self.mempool, event);
        self.carry_out(actions);
        self.check();
    }

    fn carry_out(&mut self, actions: Actions) {
        let mut leaving = Vec::new();
        for action in actions {
            match action {
                Action::Send(peer, message) => {
                    if let Message::GetBlocks(hashes) = &message {
                        for hash in hashes {
                            self.asked += 1;
                            assert!(self.owed.insert((peer, *hash)), "{peer:?} is asked for {hash} twice at once");
                        }
                    }
                    let remote = self.peers.get_mut(&peer).expect("only who is there is spoken to");
                    remote.asked.push_back(message);
                }
                Action::Disconnect(peer, _) => leaving.push(peer),
                Action::SubmitHeaders(peer, headers) => self.work.push_back(Job::Headers(peer, headers)),
                Action::SubmitBlock { peer, hash, bytes, wanted } => {
                    self.work.push_back(Job::Block(peer, hash, bytes, wanted));
                }
                Action::Dial(dial) => panic!("nobody is known, and yet {dial:?}"),
                Action::Blame(..) => panic!("blame is settled before actions leave the brain"),
                _ => {}
            }
        }
        leaving.into_iter().for_each(|peer| self.leave(peer));
    }

    fn leave(&mut self, peer: PeerId) {
        if self.peers.remove(&peer).is_some() {
            self.owed.retain(|(of, _)| *of != peer);
            self.handle(Event::Disconnected { peer });
        }
    }

    /// The bounds that hold at any time.
    fn check(&mut self) {
        let download = &self.brain.parts().download;
        assert!(download.held_bytes <= DOWNLOAD_WINDOW_BYTES, "{} bytes are held", download.held_bytes);
        let held: u64 = download.held.values().map(|held| held.bytes.len() as u64).sum();
        assert_eq!(held, download.held_bytes);
        assert!(download.submitted.len() <= SUBMITTED_BLOCKS_MAX);
        assert!(download.submitted_bytes <= SUBMITTED_BYTES_MAX + JUNK_BYTES as u64);
        let mut each: BTreeMap<PeerId, u32> = BTreeMap::new();
        for (hash, peer) in download.flights.keys() {
            *each.entry(*peer).or_default() += 1;
            assert!(self.owed.contains(&(*peer, *hash)), "{peer:?} is not waited for in vain");
        }
        for (peer, count) in each {
            assert!(
                self.peers.contains_key(&peer) && u64::from(count) <= DOWNLOAD_PER_PEER as u64,
                "{count} of {peer:?}"
            );
        }
        self.most_bytes = self.most_bytes.max(download.bytes());
        self.most_flights = self.most_flights.max(download.flights.len());
    }

    /// Bodies are asked for at most a window above the lowest that is missing of their branch.
    fn check_window(&self) {
        let headers = self.chain.headers();
        for (hash, _) in self.brain.parts().download.flights.keys() {
            let Some(known) = headers.get(hash).filter(|known| !known.has_body && !known.bad) else { continue };
            let lowest = headers.missing_bodies(hash, DOWNLOAD_WINDOW_BLOCKS, 1);
            let lowest = lowest.first().expect("this one is missing");
            let (height, lowest) = (known.state.height.get(), lowest.height.get());
            assert!(height < lowest + DOWNLOAD_WINDOW_BLOCKS, "{height} is asked for, {lowest} is missing");
        }
    }

    fn connect(&mut self, temper: Temper, link: Link) -> PeerId {
        let peer = PeerId(self.next);
        self.next += 1;
        let has = self.some_view();
        self.peers.insert(peer, Remote { temper, has, asked: VecDeque::new() });
        let host = NetAddress::V4(Ipv4Addr::new(20, (peer.0 >> 8) as u8, peer.0 as u8, 1));
        self.handle(Event::Connected { peer, link, address: PeerAddress { host, port: 4_000 }, version: 1 });
        let introduction = Introduction {
            agent: "/remote/",
            network: &network(),
            link: Link::OutboundFull,
            serves: (0, has.1 as u32),
            snapshot: false,
            nonce: 1_000 + peer.0,
            listen_port: 0,
            time: START,
        };
        let mut hello = introduction.hello();
        // Bodies come whole here.
        hello.services &= !services::COMPACT_BLOCKS;
        self.says(peer, Message::Hello(Box::new(hello)));
        peer
    }

    /// A branch up to some height.
    fn some_view(&mut self) -> (usize, usize) {
        let branch = self.rng.random_range(0..self.limits.len());
        (branch, self.rng.random_range(0..=self.limits[branch]))
    }

    fn says(&mut self, peer: PeerId, message: Message) {
        if self.peers.contains_key(&peer) {
            self.handle(Event::Message { peer, message });
        }
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        let _ = self.chain.tick();
        self.handle(Event::Tick);
        self.check_window();
    }

    fn some_peer(&mut self) -> Option<PeerId> {
        let at = self.rng.random_range(0..self.peers.len().max(1));
        self.peers.keys().nth(at).copied()
    }

    /// The chain judges what came first.
    fn judge(&mut self) {
        let tip = self.chain.view().tip.hash();
        match self.work.pop_front() {
            None => return,
            Some(Job::Headers(peer, headers)) => {
                let result = self.chain.submit_headers(headers);
                self.handle(Event::HeadersTaken { peer, result });
            }
            Some(Job::Block(peer, hash, bytes, wanted)) => {
                let (tell, told) = std::sync::mpsc::channel();
                self.chain.import(bytes, wanted, Box::new(move |result| drop(tell.send(result))));
                let result = told.recv().expect("an inline chain answers at once");
                self.handle(Event::BlockTaken { peer, hash, result });
            }
        }
        if self.chain.view().tip.hash() != tip {
            self.handle(Event::TipChanged);
        }
    }

    /// A peer does something about the oldest question it has.
    fn answer(&mut self, peer: PeerId) {
        let Some(remote) = self.peers.get_mut(&peer) else { return };
        let Some(question) = remote.asked.pop_front() else { return };
        let (temper, has) = (remote.temper, remote.has);
        let temper = match temper {
            Temper::Fickle => {
                let all = [Temper::Honest, Temper::Honest, Temper::Silent, Temper::Withholding, Temper::Denying];
                all[self.rng.random_range(0..all.len())]
            }
            other => other,
        };
        match question {
            Message::Ping(nonce) => self.says(peer, Message::Pong(nonce)),
            Message::GetHeaders { locator, .. } if temper != Temper::Silent => {
                let branch = &branches()[has.0][..=has.1];
                let known = |hash: &BlockHash| height_on(has.0, hash).filter(|height| *height <= has.1);
                let from = locator.iter().find_map(known).unwrap_or(0) + 1;
                let headers = branch.iter().skip(from).take(HEADERS_MAX as usize).map(|body| body.header).collect();
                self.says(peer, Message::Headers(headers));
            }
            Message::GetBlocks(hashes) => {
                for hash in hashes {
                    self.answer_block(peer, temper, has, hash);
                }
            }
            _ => {}
        }
    }

    fn answer_block(&mut self, peer: PeerId, temper: Temper, has: (usize, usize), hash: BlockHash) {
        let body = height_on(has.0, &hash).filter(|height| *height <= has.1).map(|at| &branches()[has.0][at]);
        let deny = temper == Temper::Denying && self.rng.random::<bool>() || body.is_none();
        match (body, temper) {
            _ if temper == Temper::Silent || temper == Temper::Withholding => {}
            _ if deny => {
                self.owed.remove(&(peer, hash));
                self.says(peer, Message::NotFound(vec![Reference::Block(hash)]));
            }
            (Some(body), Temper::Junk) => {
                self.owed.remove(&(peer, hash));
                let mut junk = body.header.to_bytes().to_vec();
                junk.resize(JUNK_BYTES, 0xff);
                self.says(peer, Message::Block(junk.into()));
            }
            (Some(body), Temper::Honest) => {
                self.owed.remove(&(peer, hash));
                self.says(peer, Message::Block(body.bytes.clone()));
            }
            _ => {}
        }
    }

    /// One thing that happens in a storm.
    fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0 if self.peers.len() < PEERS_MAX => {
                let tempers = [
                    Temper::Honest,
                    Temper::Honest,
                    Temper::Silent,
                    Temper::Withholding,
                    Temper::Denying,
                    Temper::Junk,
                    Temper::Fickle,
                    Temper::Fickle,
                ];
                let temper = tempers[self.rng.random_range(0..tempers.len())];
                let links = [Link::Inbound, Link::OutboundFull, Link::BlockOnly];
                let link = links[self.rng.random_range(0..links.len())];
                self.connect(temper, link);
            }
            1 => {
                if let Some(peer) = self.some_peer() {
                    self.leave(peer);
                }
            }
            // It has more now, or another branch, or less than it had; it may say so.
            2 => {
                let Some(peer) = self.some_peer() else { return };
                let has = self.some_view();
                self.peers.get_mut(&peer).expect("just picked").has = has;
                if self.rng.random::<bool>() && has.1 > 0 {
                    self.says(peer, Message::AnnounceBlock(branches()[has.0][has.1].header));
                }
            }
            // What nobody asked for.
            3 if self.rng.random_range(0..4) == 0 => {
                let Some(peer) = self.some_peer() else { return };
                let (branch, height) = self.some_view();
                let body = branches()[branch][height].clone();
                let asked = self.owed.remove(&(peer, body.hash));
                match self.rng.random_range(0..3) {
                    0 => self.says(peer, Message::NotFound(vec![Reference::Block(body.hash)])),
                    1 => self.says(peer, Message::Block(body.bytes.clone())),
                    _ if asked => self.says(peer, Message::Block(body.bytes.clone())),
                    _ => self.says(peer, Message::Headers(vec![body.header])),
                }
            }
            4 | 5 => {
                let millis = 1 << self.rng.random_range(4..13);
                self.pass(Duration::from_millis(millis));
            }
            6..=9 => (0..self.rng.random_range(1..16)).for_each(|_| self.judge()),
            _ => {
                if let Some(peer) = self.some_peer() {
                    self.answer(peer);
                }
            }
        }
    }

    /// Two honest peers with the best branch stay, and so does whoever is there.
    fn calm(&mut self) {
        let honest: Vec<PeerId> = (0..2).map(|_| self.connect(Temper::Honest, Link::Inbound)).collect();
        for peer in &honest {
            self.peers.get_mut(peer).expect("just connected").has = (self.best, self.limits[self.best]);
        }
        let tip = branches()[self.best][self.limits[self.best]].hash;
        let end = self.now().monotonic + PATIENCE;
        loop {
            // All that can be answered is, in any order.
            while self.peers.values().any(|remote| !remote.asked.is_empty()) || !self.work.is_empty() {
                if let Some(peer) = self.some_peer() {
                    self.answer(peer);
                }
                self.judge();
            }
            for peer in &honest {
                assert!(self.peers.contains_key(peer), "an honest peer was sent away");
            }
            let download = &self.brain.parts().download;
            if self.chain.view().tip.hash() == tip && download.flights.is_empty() && download.held.is_empty() {
                break;
            }
            let height = self.chain.view().tip.height().get();
            assert!(
                self.now().monotonic < end,
                "at {height} of {}, {} requests are left",
                self.limits[self.best],
                download.flights.len()
            );
            self.pass(Duration::from_millis(500));
        }
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        all.into_iter().for_each(|peer| self.leave(peer));
        let download = &self.brain.parts().download;
        assert_eq!((download.flights.len(), download.held_bytes, download.submitted_bytes), (0, 0, 0));
    }
}

fn run_seed(seed: u64) -> Machine {
    let mut machine = Machine::new(seed);
    for _ in 0..STORM {
        machine.step();
    }
    machine.calm();
    machine
}

/// BR6, BR8, BR12. See the file's head.
#[test]
fn sync_and_download_survive_any_order_of_things() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match (number("SETARA_MACHINE_SEED"), number("SETARA_MACHINE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    };
    let (mut bytes, mut flights, mut asked) = (0, 0, 0);
    for seed in seeds.clone() {
        let run = std::panic::catch_unwind(|| run_seed(seed));
        let machine = run.unwrap_or_else(|_| panic!("SETARA_MACHINE_SEED={seed} repeats it"));
        assert_eq!(machine.seed, seed);
        bytes = bytes.max(machine.most_bytes);
        flights = flights.max(machine.most_flights);
        asked += machine.asked;
    }
    println!("{seeds:?}: {asked} bodies asked for, at most {flights} at once, at most {bytes} bytes held");
}
