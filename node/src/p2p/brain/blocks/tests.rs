//! Block relay over a real chain and mempool; time and verdicts are handed in.

mod random;
mod serving;

use super::super::interface::Actions;
use super::super::penalty::Offence;
use super::*;
use crate::chain::{Accepted, Now, SubmitError};
use crate::mempool::tests::Lab;
use crate::p2p::message::{BlockTransactions, CompactBlock};
use crate::testing::seal;
use rand::SeedableRng;
use rand::rngs::StdRng;
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec::{decode, encode};

const ALL: u64 = services::BLOCKS | services::TRANSACTIONS | services::COMPACT_BLOCKS;
const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);

struct Bench {
    lab: Lab,
    relay: BlockRelay,
    rng: StdRng,
    now: Now,
}

impl Bench {
    /// In sync, one block above genesis, with these peers.
    fn new(peers: &[(PeerId, Link)]) -> Self {
        let lab = Lab::new(4);
        let unix_seconds = u64::from(lab.network.genesis().header.time) + 1_000_000;
        let now = Now { unix_seconds, monotonic: Duration::from_secs(1_000) };
        let mut relay = BlockRelay::new(None);
        relay.set_syncing(false);
        for (peer, link) in peers {
            relay.peer_ready(*peer, *link, ALL);
        }
        Self { lab, relay, rng: StdRng::seed_from_u64(1), now }
    }

    fn act<R>(&mut self, act: impl FnOnce(&mut BlockRelay, &mut Desk<'_>) -> R) -> (R, Actions) {
        let mut actions = Actions::new();
        let (chain, mempool) = (&self.lab.chain, &*self.lab.pool);
        let mut desk = Desk { now: self.now, rng: &mut self.rng, chain, mempool, actions: &mut actions };
        let result = act(&mut self.relay, &mut desk);
        (result, actions)
    }

    fn announce(&mut self, peer: PeerId, block: &Block) -> Actions {
        let (ask, actions) = self.act(|relay, desk| relay.on_announce_block(desk, peer, block.header));
        assert_eq!(ask, Ask::Nothing);
        actions
    }

    fn compact(&mut self, peer: PeerId, compact: CompactBlock) -> Actions {
        self.act(|relay, desk| relay.on_compact_block(desk, peer, compact)).1
    }

    fn body(&mut self, peer: PeerId, block: &Block) -> (bool, Actions) {
        self.act(|relay, desk| relay.on_block(desk, peer, &encode(block).into()))
    }

    /// What the chain says of a body, and what follows.
    fn judge(&mut self, peer: PeerId, block: &Block) -> Actions {
        let result = match decode::<Block>(&encode(block)) {
            Ok(block) => self.lab.chain.submit(block),
            Err(error) => Err(SubmitError::Undecodable(error)),
        };
        self.act(|relay, desk| relay.on_block_taken(desk, peer, block.hash(), &result)).1
    }

    fn tick(&mut self, after: Duration) -> Actions {
        self.now.monotonic += after;
        self.act(|relay, desk| relay.tick(desk)).1
    }

    fn choose(&mut self, peer: PeerId) -> Actions {
        self.act(|relay, desk| relay.choose(desk, peer)).1
    }

    /// A block of payments that the mempool does not have.
    fn unknown_block(&self, count: u32) -> Block {
        let payments = (1..=count).map(|number| self.lab.pay(&[self.lab.purse(number)], 2, 10_000));
        self.lab.builder.build(payments.collect())
    }
}

fn asked_whole(actions: &[Action]) -> Vec<PeerId> {
    let whole = |action: &Action| match action {
        Action::Send(peer, Message::GetBlocks(_)) => Some(*peer),
        _ => None,
    };
    actions.iter().filter_map(whole).collect()
}

fn asked_parts(actions: &[Action]) -> Vec<(PeerId, Vec<u32>)> {
    let parts = |action: &Action| match action {
        Action::Send(peer, Message::GetBlockTransactions { indexes, .. }) => Some((*peer, indexes.clone())),
        _ => None,
    };
    actions.iter().filter_map(parts).collect()
}

fn submitted(actions: &[Action]) -> Vec<PeerId> {
    let submitted = |action: &Action| match action {
        Action::SubmitBlock { peer, wanted: true, .. } => Some(*peer),
        _ => None,
    };
    actions.iter().filter_map(submitted).collect()
}

fn blamed(actions: &[Action]) -> Vec<(PeerId, &'static str)> {
    let blamed = |action: &Action| match action {
        Action::Blame(peer, offence) => Some((*peer, offence.code())),
        _ => None,
    };
    actions.iter().filter_map(blamed).collect()
}

/// A body that is not its header's: the same transaction twice.
fn mutated(block: &Block) -> Block {
    let mut mutated = block.clone();
    let last = mutated.transactions.last().expect("it has one").clone();
    mutated.transactions.push(last);
    mutated
}

/// A block whose root is right and which pays its miner too much.
fn greedy(bench: &Bench) -> Block {
    let mut block = bench.lab.builder.build(Vec::new());
    let amount = &mut block.coinbase.outputs[0].amount;
    *amount = Amount::from_sen(amount.sen() + 1);
    seal(block)
}

/// BR7: an announcer that stays silent delays a block by less than three seconds.
#[test]
fn a_silent_announcer_delays_by_two_seconds() {
    let mut bench = Bench::new(&[(A, Link::Inbound), (B, Link::Inbound)]);
    let block = bench.unknown_block(1);
    let actions = bench.announce(A, &block);
    assert_eq!(asked_parts(&actions), [(A, vec![])]);
    assert!(matches!(&actions[0], Action::SubmitHeaders(A, headers) if *headers == [block.header]));
    assert!(asked_parts(&bench.announce(B, &block)).is_empty(), "one at a time while there is hope");
    let mut waited = Duration::ZERO;
    let step = Duration::from_millis(500);
    while asked_whole(&bench.tick(step)) != [B] {
        waited += step;
        assert!(waited < Duration::from_secs(3));
    }
    let (expected, actions) = bench.body(B, &block);
    assert!(expected);
    assert_eq!(submitted(&actions), [B]);
    assert!(blamed(&bench.judge(B, &block)).is_empty());
    assert_eq!(bench.lab.chain.view().tip.hash(), block.hash());
    // The silent one answers after all: too late to be of use, but it was asked.
    let late = CompactBlock::of(&block, 1);
    assert!(bench.compact(A, late).is_empty());
    assert_eq!(bench.relay.held(), Held { peers: 2, chosen: 1, ..Held::default() });
}

/// BR7: incoming peers, however many, hold two places of three; the outgoing one is asked at the first silence.
#[test]
fn a_crowd_of_silent_peers_leaves_a_place() {
    let crowd: Vec<_> = (10..30).map(|number| (PeerId(number), Link::Inbound)).collect();
    let mut bench = Bench::new(&crowd);
    let block = bench.unknown_block(1);
    for (peer, _) in &crowd {
        bench.announce(*peer, &block);
    }
    let mut asked = Vec::new();
    for _ in 0..18 {
        asked.extend(asked_whole(&bench.tick(Duration::from_millis(500))));
    }
    assert_eq!(asked.len(), 1, "two in nine seconds, the first asked compactly: {asked:?}");
    bench.relay.peer_ready(A, Link::OutboundFull, ALL);
    bench.announce(A, &block);
    assert_eq!(bench.relay.held().attempts, 3);
    // One that holds a place for ever, and answers nothing, goes.
    let actions = bench.tick(Duration::from_secs(130));
    assert!(actions.iter().any(|action| matches!(action, Action::Disconnect(_, Ending::Stalling(_)))));
}

/// A lone announcer that is silent about the compact block is asked for the whole.
#[test]
fn the_only_announcer_is_asked_for_the_whole() {
    let mut bench = Bench::new(&[(A, Link::Inbound)]);
    let block = bench.unknown_block(1);
    bench.announce(A, &block);
    assert_eq!(asked_whole(&bench.tick(Duration::from_secs(2))), [A]);
    assert!(asked_whole(&bench.tick(Duration::from_secs(2))).is_empty(), "once");
    let (_, actions) = bench.act(|relay, desk| relay.peer_gone(desk, A));
    assert!(actions.is_empty());
    assert_eq!(bench.relay.held(), Held::default());
}

/// BR8, ST13, CS4: a bad body and a good one, in every order of arrivals and verdicts: the good one is taken, the bad
/// one's sender alone is blamed.
#[test]
fn a_mutated_body_ends_its_own_attempt_only() {
    // 'a', 'b': body arrives; 'A', 'B': its verdict does.
    for order in ["aAbB", "abAB", "abBA", "baAB", "baBA", "bBa"] {
        let mut bench = Bench::new(&[(A, Link::OutboundFull), (B, Link::OutboundFull)]);
        let block = bench.unknown_block(2);
        let bad = mutated(&block);
        bench.announce(A, &block);
        bench.announce(B, &block);
        assert_eq!(asked_whole(&bench.tick(Duration::from_secs(2))), [B]);
        let mut offences = Vec::new();
        for step in order.chars() {
            let actions = match step {
                'a' => bench.body(A, &bad).1,
                'b' => bench.body(B, &block).1,
                'A' => bench.judge(A, &bad),
                _ => bench.judge(B, &block),
            };
            offences.extend(blamed(&actions));
        }
        // Once the block is here the chain does not look at another body of it.
        let looked_at = order.split('B').next().is_some_and(|before| before.contains('A'));
        let expected: &[_] = if looked_at { &[(A, "mutated-block")] } else { &[] };
        assert_eq!(offences, expected, "{order}");
        assert_eq!(bench.lab.chain.view().tip.hash(), block.hash(), "{order}");
        assert_eq!((bench.relay.held().fetches, bench.relay.held().owed), (0, 0), "{order}");
    }
}

/// ST13: a bad body with nobody else to ask; whoever announces the block next is asked, and its body is taken.
#[test]
fn a_bad_body_leaves_no_trace() {
    let mut bench = Bench::new(&[(A, Link::Inbound), (B, Link::Inbound)]);
    let block = bench.unknown_block(1);
    bench.announce(A, &block);
    assert_eq!(submitted(&bench.body(A, &mutated(&block)).1), [A], "a whole block answers an ask for a part");
    assert_eq!(blamed(&bench.judge(A, &mutated(&block))), [(A, "mutated-block")]);
    assert_eq!(bench.relay.held().fetches, 0);
    assert_eq!(asked_parts(&bench.announce(B, &block)), [(B, vec![])]);
    assert_eq!(submitted(&bench.body(B, &block).1), [B]);
    assert!(blamed(&bench.judge(B, &block)).is_empty());
    assert_eq!(bench.lab.chain.view().tip.hash(), block.hash());
}

/// BR9: transactions that come twice, or that nobody asked for, find nothing to act on.
#[test]
fn repeated_answers_are_ignored() {
    let mut bench = Bench::new(&[(A, Link::Inbound)]);
    let block = bench.unknown_block(2);
    let hash = block.hash();
    let answer = BlockTransactions { hash, transactions: block.transactions.clone() };
    let fill = |bench: &mut Bench| {
        let answer = answer.clone();
        bench.act(|relay, desk| relay.on_block_transactions(desk, A, answer)).1
    };
    assert!(fill(&mut bench).is_empty());
    bench.announce(A, &block);
    assert!(fill(&mut bench).is_empty(), "the compact block was asked for, not these");
    let compact = CompactBlock::of(&block, 1);
    assert_eq!(asked_parts(&bench.compact(A, compact.clone())), [(A, vec![0, 1])]);
    assert!(bench.compact(A, compact.clone()).is_empty());
    let actions = fill(&mut bench);
    assert_eq!(submitted(&actions), [A]);
    assert!(fill(&mut bench).is_empty());
    assert!(bench.compact(A, compact).is_empty());
    assert!(blamed(&bench.judge(A, &block)).is_empty());
    assert_eq!(bench.lab.chain.view().tip.hash(), hash);
}

/// BR10: ids that do not tell: the whole block is asked of the same peer, and nobody is blamed.
#[test]
fn a_collision_is_fetched_whole() {
    let mut bench = Bench::new(&[(A, Link::Inbound)]);
    let block = bench.unknown_block(2);
    bench.announce(A, &block);
    let mut compact = CompactBlock::of(&block, 1);
    compact.short_ids[1] = compact.short_ids[0];
    let actions = bench.compact(A, compact);
    assert_eq!((asked_whole(&actions), blamed(&actions)), (vec![A], vec![]));
    assert_eq!(submitted(&bench.body(A, &block).1), [A]);
}

/// BR11: unasked compact blocks are read from chosen peers only; a branch far behind is not looked at.
#[test]
fn unasked_and_low_work_compact_blocks_are_ignored() {
    let mut bench = Bench::new(&[(A, Link::Inbound), (B, Link::Inbound)]);
    let block = bench.unknown_block(1);
    assert!(bench.compact(A, CompactBlock::of(&block, 1)).is_empty());
    assert!(matches!(bench.choose(A)[..], [Action::Send(A, Message::SendCompact(true))]));
    let actions = bench.compact(A, CompactBlock::of(&block, 1));
    assert_eq!(asked_parts(&actions), [(A, vec![0])]);
    // A branch from the first block, 145 below the tip.
    let mut fork = bench.lab.builder.clone();
    fork.extra = vec![1];
    let low = fork.build(Vec::new());
    for _ in 0..146 {
        bench.lab.mine(Vec::new());
    }
    assert!(bench.compact(A, CompactBlock::of(&low, 1)).is_empty());
    // Without work it is an offence, as it costs nothing to make.
    let mut idle = CompactBlock::of(&bench.lab.builder.build(Vec::new()), 1);
    let target = idle.header.bits.to_target().unwrap();
    while target.is_met_by(idle.header.hash()) {
        idle.header.nonce += 1;
    }
    assert_eq!(blamed(&bench.compact(A, idle)), [(A, "invalid-header")]);
    // An unknown parent is for those who sync headers.
    let mut ahead = bench.lab.builder.clone();
    ahead.mine(Vec::new());
    let orphan = CompactBlock::of(&ahead.build(Vec::new()), 1);
    assert_eq!(bench.act(|relay, desk| relay.on_compact_block(desk, A, orphan)).0, Ask::Headers);
    let impossible =
        CompactBlock { short_ids: vec![[0; 6]; 60_000], ..CompactBlock::of(&ahead.blocks.pop().unwrap(), 1) };
    assert_eq!(blamed(&bench.compact(A, impossible)), [(A, "bad-compact-block")]);
    // A block that nobody asked for is not of this place.
    let (expected, actions) = bench.body(B, &block);
    assert!(!expected && actions.is_empty());
}

/// BR13: a block is passed on once its root is right; found invalid, nobody who sent it compactly is blamed.
#[test]
fn passing_on_before_validation_is_no_guilt() {
    let mut bench = Bench::new(&[(A, Link::Inbound), (B, Link::Inbound), (C, Link::Inbound)]);
    bench.choose(A);
    bench.relay.on_send_compact(B, true);
    let block = greedy(&bench);
    let actions = bench.compact(A, CompactBlock::of(&block, 1));
    assert_eq!(submitted(&actions), [A]);
    let passed: Vec<PeerId> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Send(peer, Message::CompactBlock(compact)) if compact.header == block.header => Some(*peer),
            _ => None,
        })
        .collect();
    assert_eq!(passed, [B], "those who asked for it, at once");
    assert!(bench.judge(A, &block).is_empty());
    assert_eq!(bench.relay.held().fetches, 0);
    // Sent whole, it is its sender's.
    let block = {
        let mut other = greedy(&bench);
        other.coinbase.extra = vec![9];
        seal(other)
    };
    bench.announce(C, &block);
    bench.body(C, &block);
    assert_eq!(blamed(&bench.judge(C, &block)), [(C, "invalid-block")]);
}

/// BIP 152: the last three that were first with a tip; the only outgoing one stays.
#[test]
fn three_are_chosen_one_of_them_outgoing() {
    let peers: Vec<_> = (1..=5).map(|number| (PeerId(number), Link::Inbound)).collect();
    let mut bench = Bench::new(&peers);
    bench.relay.peer_ready(A, Link::OutboundFull, ALL);
    for number in 1..=5 {
        bench.choose(PeerId(number));
    }
    assert_eq!(bench.relay.chosen().collect::<Vec<_>>(), [A, PeerId(4), PeerId(5)]);
    let actions = bench.choose(A);
    assert!(actions.is_empty(), "it knows");
    assert_eq!(bench.relay.chosen().last(), Some(A));
}

/// A new tip goes to every peer that does not have it: compactly to those that asked, else as its header; once.
#[test]
fn a_tip_is_announced_once_to_those_who_lack_it() {
    let mut bench = Bench::new(&[(A, Link::Inbound), (B, Link::Inbound), (C, Link::Feeler)]);
    bench.relay.peer_ready(PeerId(4), Link::BlockOnly, ALL);
    bench.relay.on_send_compact(A, true);
    bench.act(|relay, desk| relay.on_tip_changed(desk));
    let blocks = [bench.lab.mine(Vec::new()), bench.lab.mine(Vec::new())];
    bench.relay.peer_has(PeerId(4), blocks[0].hash());
    let (_, actions) = bench.act(|relay, desk| relay.on_tip_changed(desk));
    let headers = |peer| {
        let header = |action: &Action| match action {
            Action::Send(to, Message::AnnounceBlock(header)) if *to == peer => Some(header.hash()),
            _ => None,
        };
        actions.iter().filter_map(header).collect::<Vec<_>>()
    };
    let [first, second] = blocks.map(|block| block.hash());
    assert_eq!((headers(A), headers(B), headers(PeerId(4))), (vec![first], vec![first, second], vec![second]));
    assert!(actions.iter().any(|action| matches!(action, Action::SendCompactBlock(A, hash) if *hash == second)));
    assert_eq!(actions.len(), 5);
    assert!(bench.act(|relay, desk| relay.on_tip_changed(desk)).1.is_empty());
    bench.relay.set_syncing(true);
    bench.lab.mine(Vec::new());
    assert!(bench.act(|relay, desk| relay.on_tip_changed(desk)).1.is_empty());
    // Now and then all the same: whoever syncs from this node must hear how far it is.
    assert_eq!(bench.tick(Duration::ZERO).len(), 3);
    bench.lab.mine(Vec::new());
    assert!(bench.tick(Duration::from_secs(2)).is_empty());
    assert_eq!(bench.tick(Duration::from_secs(1)).len(), 3);
    assert!(bench.tick(Duration::from_secs(3)).is_empty(), "nothing new");
}
