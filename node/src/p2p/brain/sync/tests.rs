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

/// As many headers as an answer holds, above `last`, which moves to their end.
fn full_answer(last: &mut Header) -> Vec<Header> {
    let above = |_| {
        *last = Header { previous: last.hash(), time: last.time + 1, ..*last };
        mine_header(last);
        *last
    };
    (0..HEADERS_MAX).map(above).collect()
}

/// Headers of little work that a peer serves: a sample, as many as attacks do with `SETARA_LOW_WORK_HEADERS=10000000`.
fn low_work_headers() -> usize {
    let wanted = std::env::var("SETARA_LOW_WORK_HEADERS").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(LOW_WORK_HEADERS)
}

/// See [`low_work_headers`].
const LOW_WORK_HEADERS: usize = 1_000_000;

/// BR1. However many headers without enough work a peer serves, nothing is given to the chain, and what is kept of the
/// peer stays far below a MiB.
#[test]
fn low_work_is_not_stored() {
    let mut lab = Lab::new(0);
    let count = low_work_headers();
    // One a second.
    lab.now.unix_seconds += count as u64;
    let best = lab.chain.headers().best();
    let start = std::time::Instant::now();
    let mut sync = HeaderSync::new(SyncOptions { minimum_chain_work: Work::from_be_bytes([1; 32]) });
    lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::Inbound));
    let mut previous = lab.chain.network().genesis().header;
    for _ in 0..count / 2_000 {
        let headers = full_answer(&mut previous);
        let actions = lab.run(|desk| sync.on_headers(desk, PeerId(1), headers));
        assert_eq!(asks(&actions), [1]);
        assert_eq!(actions.len(), 1, "nothing but the next question");
        assert!(sync.presync_bytes() > 0 && sync.presync_bytes() < 64 << 10, "{} bytes", sync.presync_bytes());
    }
    println!("{count} headers, {} bytes, {:?}", sync.presync_bytes(), start.elapsed());
    let headers = lab.chain.headers();
    assert_eq!(headers.best().point(), best.point());
    assert!(headers.get(&previous.hash()).is_none());
    lab.run(|desk| sync.peer_gone(desk, PeerId(1)));
    assert_eq!(sync.presync_bytes(), 0);
}

/// BR5. Ten seconds without an answer, and it is another's turn besides; after a minute an outgoing peer ends.
#[test]
fn staller_is_replaced() {
    let mut lab = Lab::new(3);
    let mut sync = sync();
    assert_eq!(asks(&lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::OutboundFull))), [1]);
    for peer in 2..=5 {
        assert!(asks(&lab.run(|desk| sync.peer_ready(desk, PeerId(peer), Link::OutboundFull))).is_empty());
    }
    // Each that says nothing either is waited for twice as long.
    let mut now = 0;
    for (peer, at) in [(2, 2), (3, 6), (4, 14), (5, 24)] {
        lab.pass(Duration::from_secs(at - 1 - now));
        assert!(lab.run(|desk| sync.tick(desk)).is_empty());
        lab.pass(Duration::from_secs(1));
        now = at;
        assert_eq!(asks(&lab.run(|desk| sync.tick(desk))), [peer]);
    }
    lab.pass(Duration::from_secs(59 - now));
    assert!(lab.run(|desk| sync.tick(desk)).is_empty());
    lab.pass(Duration::from_secs(1));
    let actions = lab.run(|desk| sync.tick(desk));
    assert!(actions.iter().any(|a| matches!(a, Action::Disconnect(PeerId(1), Ending::Stalling("headers")))));
}

/// BR5. Who always has more headers to show, however little their work, does not keep others out: after ten minutes it is
/// another's turn besides.
#[test]
fn a_turn_is_over_in_the_end() {
    let mut lab = Lab::new(3);
    let mut sync = sync();
    assert_eq!(asks(&lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::OutboundFull))), [1]);
    assert!(asks(&lab.run(|desk| sync.peer_ready(desk, PeerId(2), Link::Inbound))).is_empty());
    let mut previous = lab.chain.network().genesis().header;
    for round in 1..=12 {
        let headers = full_answer(&mut previous);
        // All of it is stored, and more is asked for.
        let submitted = lab.run(|desk| sync.on_headers(desk, PeerId(1), headers));
        lab.pass(Duration::from_secs(49));
        let mut actions = lab.run(|desk| sync.tick(desk));
        for action in submitted {
            if let Action::SubmitHeaders(peer, headers) = action {
                let result = lab.chain.submit_headers(headers);
                assert!(result.is_ok());
                actions.extend(lab.run(|desk| sync.on_headers_taken(desk, peer, &result)));
            }
        }
        lab.pass(Duration::from_secs(1));
        actions.extend(lab.run(|desk| sync.tick(desk)));
        assert_eq!(asks(&actions).contains(&2), round == 12, "{round}");
        assert!(asks(&actions).contains(&1), "{round}");
    }
}

/// Gives a peer's answer to the chain, and back; what follows.
fn answer(lab: &mut Lab, sync: &mut HeaderSync, peer: u64, headers: Vec<Header>) -> Actions {
    let mut all = Actions::new();
    for action in lab.run(|desk| sync.on_headers(desk, PeerId(peer), headers)) {
        if let Action::SubmitHeaders(peer, headers) = action {
            let result = lab.chain.submit_headers(headers);
            all.extend(lab.run(|desk| sync.on_headers_taken(desk, peer, &result)));
        } else {
            all.push(action);
        }
    }
    all
}

/// A branch beside that of [`Lab::headers`], of so many blocks.
fn branch(lab: &Lab, blocks: u32) -> Vec<Header> {
    let mut builder = crate::testing::ChainBuilder::new(lab.chain.network());
    builder.extra = vec![9];
    builder.mine_empty(blocks).iter().map(|block| block.header).collect()
}

/// A fresh node asks one peer; only when that one has no more are the others asked what they have beyond it, and of those
/// with much more again one goes on.
#[test]
fn headers_come_from_one_peer_and_are_checked_with_the_others() {
    let mut lab = Lab::new(2_003);
    let mut sync = sync();
    assert_eq!(asks(&lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::OutboundFull))), [1]);
    for peer in 2..=4 {
        assert!(asks(&lab.run(|desk| sync.peer_ready(desk, PeerId(peer), Link::OutboundFull))).is_empty());
    }
    let headers = lab.headers();
    assert_eq!(asks(&answer(&mut lab, &mut sync, 1, headers[..2].to_vec())), [2, 3, 4]);
    assert!(sync.is_checked());
    assert_eq!(asks(&answer(&mut lab, &mut sync, 2, headers[1..2_001].to_vec())), [2]);
    assert!(asks(&answer(&mut lab, &mut sync, 3, headers[1..2_001].to_vec())).is_empty());
    assert!(asks(&answer(&mut lab, &mut sync, 4, headers[1..2].to_vec())).is_empty());
    // Its turn comes when the second is done.
    assert_eq!(asks(&answer(&mut lab, &mut sync, 2, headers[2_000..].to_vec())), [3]);
    assert_eq!(sync.shown(PeerId(2)).map(|shown| shown.height.get()), Some(2_003));
}

/// What a peer showed of a branch that fails does not count: neither as its best nor as protection, and it is asked anew.
#[test]
fn a_failed_branch_takes_back_what_was_shown() {
    let mut lab = Lab::new(5);
    let mut sync = sync();
    lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::OutboundFull));
    let headers = lab.headers();
    answer(&mut lab, &mut sync, 1, headers.clone());
    lab.run(|desk| sync.tick(desk));
    assert_eq!(sync.shown(PeerId(1)).map(|shown| shown.hash), Some(headers[4].hash()));
    assert!(sync.is_protected(PeerId(1)));
    lab.chain.invalidate(headers[2].hash()).expect("a known block");
    let mut changed = Vec::new();
    lab.run(|desk| changed = sync.revise(desk));
    assert_eq!(changed, [PeerId(1)]);
    assert_eq!(sync.shown(PeerId(1)).map(|shown| shown.hash), Some(headers[1].hash()));
    assert!(!sync.is_protected(PeerId(1)));
    assert_eq!(asks(&lab.run(|desk| sync.tick(desk))), [1]);
    lab.run(|desk| changed = sync.revise(desk));
    assert!(changed.is_empty());
}

/// The end of an answer is what the peer has, even if it showed more work before; an announcement only adds.
#[test]
fn an_answer_states_anew_what_a_peer_has() {
    let mut lab = Lab::new(5);
    let mut sync = sync();
    let (headers, other) = (lab.headers(), branch(&lab, 3));
    lab.run(|desk| sync.peer_ready(desk, PeerId(1), Link::OutboundFull));
    answer(&mut lab, &mut sync, 1, headers.clone());
    for blocks in [other.clone(), other[..2].to_vec()] {
        lab.run(|desk| sync.ask(desk, PeerId(1), &headers[4].hash()));
        answer(&mut lab, &mut sync, 1, blocks.clone());
        assert_eq!(sync.shown(PeerId(1)).map(|shown| shown.hash), blocks.last().map(Header::hash));
    }
    lab.run(|desk| sync.on_known_header(desk, PeerId(1), &headers[4].hash()));
    lab.run(|desk| sync.on_known_header(desk, PeerId(1), &headers[0].hash()));
    assert_eq!(sync.shown(PeerId(1)).map(|shown| shown.hash), Some(headers[4].hash()));
    // Nothing beyond the fourth: then not the fifth either.
    lab.run(|desk| sync.ask(desk, PeerId(1), &headers[4].hash()));
    answer(&mut lab, &mut sync, 1, Vec::new());
    assert_eq!(sync.shown(PeerId(1)).map(|shown| shown.hash), Some(headers[3].hash()));
}

/// Who was asked once and shows much less than the best header by now is asked again, twice a minute.
#[test]
fn peers_left_behind_are_asked_again() {
    let mut lab = Lab::new(40);
    let mut sync = sync();
    for peer in 1..=2 {
        lab.run(|desk| sync.peer_ready(desk, PeerId(peer), Link::OutboundFull));
    }
    let headers = lab.headers();
    assert_eq!(asks(&answer(&mut lab, &mut sync, 1, headers[..3].to_vec())), [2]);
    answer(&mut lab, &mut sync, 2, headers.clone());
    assert!(asks(&lab.run(|desk| sync.tick(desk))).is_empty());
    for _ in 0..2 {
        lab.pass(Duration::from_secs(29));
        assert!(asks(&lab.run(|desk| sync.tick(desk))).is_empty());
        lab.pass(Duration::from_secs(1));
        assert_eq!(asks(&lab.run(|desk| sync.tick(desk))), [1]);
        answer(&mut lab, &mut sync, 1, headers[2..4].to_vec());
    }
    lab.pass(Duration::from_secs(30));
    lab.run(|desk| sync.tick(desk));
    answer(&mut lab, &mut sync, 1, headers[3..].to_vec());
    lab.pass(Duration::from_secs(30));
    assert!(asks(&lab.run(|desk| sync.tick(desk))).is_empty());
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
