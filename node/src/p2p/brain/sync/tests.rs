//! Header sync against a chain in memory, by attack row.

use super::*;
use crate::chain::{ChainHandle, KnownSignatures, Now};
use crate::clock::ManualClock;
use crate::mempool::{Mempool, Options};
use crate::p2p::brain::interface::Actions;
use crate::store::MemoryStore;
use crate::testing::{ChainBuilder, mine_header, quick_network, start};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;

/// A node's chain, and another chain that it does not have.
pub(in crate::p2p::brain) struct Lab {
    pub chain: ChainHandle,
    pub mempool: Mempool,
    pub rng: StdRng,
    pub now: Now,
    pub builder: ChainBuilder,
}

impl Lab {
    pub fn new(blocks: u32) -> Self {
        let network = quick_network();
        let unix_seconds = u64::from(network.genesis().header.time) + 1_000_000;
        let clock = Arc::new(ManualClock::new(unix_seconds));
        let chain = start(&network, Arc::new(MemoryStore::new()), clock.clone());
        let known = Arc::new(KnownSignatures::default());
        let mempool = Mempool::new(network.clone(), clock, chain.clone(), known, Options::default());
        let mut builder = ChainBuilder::new(&network);
        builder.mine_empty(blocks);
        let now = Now { unix_seconds, monotonic: Duration::from_secs(1_000) };
        Self { chain, mempool, rng: StdRng::seed_from_u64(1), now, builder }
    }

    pub fn run(&mut self, act: impl FnOnce(&mut Desk<'_>)) -> Actions {
        let mut actions = Actions::new();
        let (chain, mempool) = (&self.chain, &self.mempool);
        act(&mut Desk { now: self.now, rng: &mut self.rng, chain, mempool, actions: &mut actions });
        actions
    }

    pub fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.unix_seconds += time.as_secs();
    }

    pub fn headers(&self) -> Vec<Header> {
        self.builder.blocks[1..].iter().map(|block| block.header).collect()
    }
}

fn sync() -> HeaderSync {
    HeaderSync::new(SyncOptions { minimum_chain_work: Work::ZERO })
}

fn asks(actions: &Actions) -> Vec<u64> {
    let asked = |action: &Action| match action {
        Action::Send(peer, Message::GetHeaders { .. }) => Some(peer.0),
        _ => None,
    };
    actions.iter().filter_map(asked).collect()
}

fn blames(actions: &Actions) -> Vec<&'static str> {
    actions
        .iter()
        .filter_map(|action| if let Action::Blame(_, offence) = action { Some(offence.code()) } else { None })
        .collect()
}

/// BR4. What is no chain of headers is blamed, each in its way, and nothing reaches the chain.
#[test]
fn malformed_headers() {
    let mut lab = Lab::new(5);
    let good = lab.headers();
    let mut no_work = good.clone();
    let limit = lab.chain.network().limit;
    while limit.is_met_by(no_work[2].hash()) {
        no_work[2].nonce += 1;
    }
    let gap = vec![good[0], good[2]];
    let many = vec![good[0]; 2_001];
    let cases = [(many, "flood"), (gap, "headers-disconnected"), (no_work, "invalid-header")];
    for (headers, expected) in cases {
        let mut sync = sync();
        lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::Inbound));
        let actions = lab.run(|desk| sync.on_headers(desk, PeerId(1), headers));
        assert_eq!(blames(&actions), [expected]);
        assert!(!actions.iter().any(|action| matches!(action, Action::SubmitHeaders(..))));
    }
}

/// BR4. Blocks above unknown ones, however many at once: one question in two minutes, blame after ten such questions.
#[test]
fn unconnecting_headers() {
    let mut lab = Lab::new(5);
    let mut sync = sync();
    let header = lab.headers()[4];
    lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::Inbound));
    for round in 1..10 {
        let mut asked = 0;
        for _ in 0..50 {
            let actions = lab.run(|desk| sync.on_unknown_header(desk, PeerId(1), header));
            asked += asks(&actions).len();
            assert!(blames(&actions).is_empty(), "round {round}");
        }
        assert_eq!(asked, 1, "round {round}");
        lab.now.monotonic += Duration::from_secs(120);
    }
    let actions = lab.run(|desk| sync.on_unknown_header(desk, PeerId(1), header));
    assert_eq!(blames(&actions), ["headers-unconnecting"]);
}

/// A block that is announced while the question about the one before has no answer is asked about in its turn.
#[test]
fn announcements_during_a_question_are_not_lost() {
    let mut lab = Lab::new(5);
    let mut sync = sync();
    let header = lab.headers()[4];
    lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::Inbound));
    let actions = lab.run(|desk| sync.on_unknown_header(desk, PeerId(1), header));
    assert!(!asks(&actions).is_empty());
    let actions = lab.run(|desk| sync.on_unknown_header(desk, PeerId(1), header));
    assert!(asks(&actions).is_empty());
    let actions = lab.run(|desk| sync.tick(desk));
    assert!(asks(&actions).is_empty());
    lab.now.monotonic += Duration::from_secs(3);
    let actions = lab.run(|desk| sync.tick(desk));
    assert!(!asks(&actions).is_empty());
}

/// BR1. Without enough work nothing is given to the chain.
#[test]
fn low_work_is_not_stored() {
    let mut lab = Lab::new(0);
    let mut sync = HeaderSync::new(SyncOptions { minimum_chain_work: Work::from_be_bytes([1; 32]) });
    lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::Inbound));
    let mut previous = lab.chain.network().genesis().header;
    for _ in 0..3 {
        let mut headers = Vec::new();
        for _ in 0..2_000 {
            let mut next = Header { previous: previous.hash(), time: previous.time + 1, ..previous };
            mine_header(&mut next);
            headers.push(next);
            previous = next;
        }
        let actions = lab.run(|desk| sync.on_headers(desk, PeerId(1), headers));
        assert_eq!(asks(&actions), [1]);
        assert_eq!(actions.len(), 1, "nothing but the next question");
        assert!(sync.presync_bytes() > 0 && sync.presync_bytes() < 1 << 20);
    }
    lab.run(|desk| sync.peer_gone(desk, PeerId(1)));
    assert_eq!(sync.presync_bytes(), 0);
}

/// BR5. A peer that does not answer is replaced after a minute, an outgoing one ends.
#[test]
fn staller_is_replaced() {
    let mut lab = Lab::new(3);
    // Far behind: only the sync peer is asked.
    let mut sync = HeaderSync::new(SyncOptions { minimum_chain_work: Work::from_be_bytes([1; 32]) });
    assert_eq!(asks(&lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::OutboundFull))), [1]);
    assert!(asks(&lab.run(|desk| sync.peer_ready(desk, PeerId(2), Link::OutboundFull))).is_empty());
    lab.pass(Duration::from_secs(59));
    assert!(lab.run(|desk| sync.tick(desk)).is_empty());
    lab.pass(Duration::from_secs(1));
    let actions = lab.run(|desk| sync.tick(desk));
    assert!(actions.iter().any(|a| matches!(a, Action::Disconnect(PeerId(1), Ending::Stalling("headers")))));
    assert_eq!(asks(&actions), [2]);
}

/// AE7, BR16. Outgoing peers that never show our work end after five minutes and a last question; those that did, four at
/// most, are protected. A lone node is not syncing.
#[test]
fn lagging_outgoing_peers() {
    let mut lab = Lab::new(3);
    for block in lab.builder.blocks[1..].iter().cloned() {
        lab.chain.submit(block).unwrap();
    }
    let mut sync = sync();
    assert!(!lab.run_bool(|desk| sync.is_syncing(desk)));
    for peer in 1..=6 {
        lab.run(|desk| sync.peer_ready(desk, PeerId(peer), Link::OutboundFull));
    }
    let headers = lab.headers();
    for peer in 1..=5 {
        lab.run(|desk| sync.on_headers(desk, PeerId(peer), headers.clone()));
    }
    lab.run(|desk| sync.tick(desk));
    assert_eq!((1..=6).filter(|peer| sync.is_protected(PeerId(*peer))).count(), 4);
    lab.pass(Duration::from_secs(300));
    lab.run(|desk| sync.tick(desk));
    lab.pass(Duration::from_secs(120));
    let actions = lab.run(|desk| sync.tick(desk));
    let ended: Vec<u64> = actions
        .iter()
        .filter_map(|a| if let Action::Disconnect(peer, Ending::LaggingChain) = a { Some(peer.0) } else { None })
        .collect();
    assert_eq!(ended, [6]);
}

impl Lab {
    fn run_bool(&mut self, ask: impl FnOnce(&mut Desk<'_>) -> bool) -> bool {
        let mut answer = false;
        self.run(|desk| answer = ask(desk));
        answer
    }
}
