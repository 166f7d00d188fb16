//! What is served to whom.

use super::*;
use crate::p2p::limits::REQUESTED_BLOCKS_MAX;
use crate::p2p::message::Reference;
use crate::testing::mine_header;
use setara_core::hash::BlockHash;

fn get(bench: &mut Bench, hash: BlockHash) -> Actions {
    bench.act(|relay, desk| relay.on_get_blocks(desk, A, vec![hash])).1
}

fn parts(bench: &mut Bench, hash: BlockHash, indexes: &[u32]) -> Actions {
    bench.act(|relay, desk| relay.on_get_block_transactions(desk, A, hash, indexes.to_vec())).1
}

fn is_not_found(actions: &[Action], hash: BlockHash) -> bool {
    matches!(actions, [Action::Send(A, Message::NotFound(refs))] if *refs == [Reference::Block(hash)])
}

/// BR11: parts of a block no more than ten below the tip, in range and order; else the whole, or blame.
#[test]
fn parts_are_served_near_the_tip_and_in_range() {
    let mut bench = Bench::new(&[(A, Link::Inbound)]);
    let block = bench.unknown_block(3);
    bench.lab.builder.apply(&block).unwrap();
    bench.lab.chain.submit(block.clone()).unwrap();
    let hash = block.hash();
    assert!(
        matches!(&parts(&mut bench, hash, &[0, 2])[..], [Action::SendBlockTransactions(A, _, found)] if *found == [0, 2])
    );
    assert!(matches!(parts(&mut bench, hash, &[])[..], [Action::SendCompactBlock(A, _)]));
    for wrong in [&[3][..], &[0, u32::MAX], &[1, 0], &[1, 1]] {
        assert_eq!(blamed(&parts(&mut bench, hash, wrong)), [(A, "bad-request")], "{wrong:?}");
    }
    assert!(is_not_found(&parts(&mut bench, BlockHash::ZERO, &[0]), BlockHash::ZERO));
    for depth in 1..=11u32 {
        bench.lab.mine(Vec::new());
        let is_part = matches!(parts(&mut bench, hash, &[0])[..], [Action::SendBlockTransactions(..)]);
        bench.act(|relay, desk| relay.sent(desk, A));
        assert_eq!(is_part, depth <= 10, "{depth}");
        let is_compact = matches!(parts(&mut bench, hash, &[])[..], [Action::SendCompactBlock(..)]);
        bench.act(|relay, desk| relay.sent(desk, A));
        assert_eq!(is_compact, depth <= 5, "{depth}");
    }
    assert!(matches!(parts(&mut bench, hash, &[0])[..], [Action::SendBlock(A, _)]));
}

/// A block that was passed on is served before the chain has judged it, and from the store after.
#[test]
fn a_block_passed_on_can_be_asked_for_at_once() {
    let mut bench = Bench::new(&[(A, Link::Inbound), (B, Link::Inbound)]);
    bench.choose(B);
    let block = bench.lab.builder.build(Vec::new());
    assert_eq!(submitted(&bench.compact(B, CompactBlock::of(&block, 1))), [B]);
    assert!(
        matches!(&get(&mut bench, block.hash())[..], [Action::SendRecent(A, Message::Block(bytes))] if **bytes == *encode(&block))
    );
    let compact = parts(&mut bench, block.hash(), &[]);
    assert!(matches!(&compact[..], [Action::SendRecent(A, Message::CompactBlock(_))]));
    // These wait for their turn as those from the store do.
    for _ in 2..REQUESTED_BLOCKS_MAX {
        assert_eq!(get(&mut bench, block.hash()).len(), 1);
    }
    assert!(get(&mut bench, block.hash()).is_empty());
    bench.act(|relay, desk| (0..REQUESTED_BLOCKS_MAX).for_each(|_| relay.sent(desk, A)));
    bench.judge(B, &block);
    assert!(matches!(get(&mut bench, block.hash())[..], [Action::SendBlock(..)]));
}

/// BR14: a block off the active chain is served while it is young, and not once it could tell nodes apart.
#[test]
fn old_stale_blocks_are_not_served() {
    for (days, served) in [(0, true), (29, true), (30, false)] {
        let mut bench = Bench::new(&[(A, Link::Inbound)]);
        let mut fork = bench.lab.builder.clone();
        fork.extra = vec![1];
        let stale = bench.lab.mine(Vec::new());
        bench.lab.chain.submit(fork.mine(Vec::new())).unwrap();
        let mut tip = fork.build(Vec::new());
        tip.header.time = stale.header.time + days * 86_400 + 1;
        mine_header(&mut tip.header);
        assert_eq!(bench.lab.chain.submit(tip.clone()), Ok(Accepted::Connected));
        let actions = get(&mut bench, stale.hash());
        assert_eq!(matches!(actions[..], [Action::SendBlock(..)]), served, "{days}");
        assert_eq!(is_not_found(&actions, stale.hash()), !served, "{days}");
        assert!(matches!(get(&mut bench, tip.hash())[..], [Action::SendBlock(..)]));
        // A block beside the chain that was never connected has not been validated.
        let mut beside = fork.clone();
        beside.extra = vec![2];
        let never = beside.build(Vec::new());
        bench.lab.chain.submit(never.clone()).unwrap();
        assert!(is_not_found(&get(&mut bench, never.hash()), never.hash()));
    }
}

/// BR14: history goes first when the day's upload runs out; new blocks are always served; a new day begins anew.
#[test]
fn history_is_first_to_go_when_upload_runs_out() {
    let mut bench = Bench::new(&[(A, Link::Inbound), (B, Link::OutboundFull)]);
    let old = bench.lab.mine(Vec::new());
    // A chain that goes on eight days later: what lies before is history, the blocks after it are not.
    let mut next = bench.lab.builder.build(Vec::new());
    next.header.time = old.header.time + 8 * 86_400;
    mine_header(&mut next.header);
    bench.lab.builder.apply(&next).unwrap();
    assert_eq!(bench.lab.chain.submit(next.clone()), Ok(Accepted::Connected));
    let new: Vec<_> = (0..12).map(|_| bench.lab.mine(Vec::new())).collect();
    let (recent, tip) = (next, new.last().unwrap().clone());
    let size = encode(&old).len() as u64;
    bench.relay.upload = Upload::new(Some(8 * size));
    let mut sent = 0;
    // Asks, and lets the shell send what is granted.
    let mut serve = |bench: &mut Bench, peer: PeerId, block: &Block| {
        let actions = bench.act(|relay, desk| relay.on_get_blocks(desk, peer, vec![block.hash()])).1;
        let served = matches!(actions[..], [Action::SendBlock(..)]);
        if served {
            sent += size;
            bench.act(|relay, desk| relay.sent(desk, peer));
        } else {
            let [Action::Send(_, Message::NotFound(what))] = &actions[..] else { panic!("{actions:?}") };
            assert_eq!(*what, [Reference::Block(block.hash())]);
        }
        bench.act(|relay, desk| relay.note_sent(desk, sent));
        served
    };
    assert_eq!((0..8).filter(|_| serve(&mut bench, A, &old)).count(), 6, "a quarter is kept");
    let state = bench.relay.upload(bench.now.monotonic).unwrap();
    assert!(!state.serves_history && !state.is_reached && state.left == 2 * size, "{state:?}");
    assert_eq!((0..8).filter(|_| serve(&mut bench, A, &recent)).count(), 2, "not history: to the last byte");
    assert!(bench.relay.upload(bench.now.monotonic).unwrap().is_reached);
    assert!(serve(&mut bench, A, &tip), "the tip, always");
    assert!(serve(&mut bench, B, &old), "whom this node dialled, always");
    bench.now.monotonic += UPLOAD_PERIOD;
    assert!(!serve(&mut bench, A, &old), "the shell has not counted since");
    assert!(serve(&mut bench, A, &old), "a new day");
}

/// What is on its way to a peer that goes counts no longer.
#[test]
fn what_a_gone_peer_was_promised_is_free_again() {
    let mut bench = Bench::new(&[(A, Link::Inbound)]);
    let hash = bench.lab.mine(Vec::new()).hash();
    bench.relay.upload = Upload::new(Some(1 << 20));
    bench.act(|relay, desk| relay.on_get_blocks(desk, A, vec![hash; 4]));
    assert!(bench.relay.upload(bench.now.monotonic).unwrap().left < 1 << 20);
    bench.act(|relay, desk| relay.peer_gone(desk, A));
    assert_eq!(bench.relay.upload(bench.now.monotonic).unwrap().left, 1 << 20);
}

/// TH7: sixteen answers are with the shell at a time, thirty-two wait; more is a flood.
#[test]
fn the_queue_of_answers_is_bounded() {
    let mut bench = Bench::new(&[(A, Link::Inbound)]);
    let hash = bench.lab.mine(Vec::new()).hash();
    let ask = |bench: &mut Bench| bench.act(|relay, desk| relay.on_get_blocks(desk, A, vec![hash; 16])).1;
    assert_eq!(ask(&mut bench).len(), 16);
    assert!(ask(&mut bench).is_empty());
    assert!(ask(&mut bench).is_empty());
    assert_eq!(bench.relay.held().queued, 32);
    assert!(matches!(ask(&mut bench)[..], [Action::Blame(A, Offence::Flood(_))]));
    assert!(matches!(bench.act(|relay, desk| relay.sent(desk, A)).1[..], [Action::SendBlock(..)]));
    bench.act(|relay, desk| relay.peer_gone(desk, A));
    assert_eq!(bench.relay.held(), Held::default());
}
