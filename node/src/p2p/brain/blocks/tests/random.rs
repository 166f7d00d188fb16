//! Random events from random peers: no panic, bounded state, and nothing left when all have gone.

use super::*;
use crate::p2p::message::Reference;
use rand::RngExt;

/// BR7 to BR13, all at once: whatever peers send in whatever order.
#[test]
fn random_events_leave_bounded_state() {
    for seed in 0..12 {
        let mut bench = Bench::new(&[]);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut blocks = vec![bench.unknown_block(3), bench.unknown_block(1), greedy(&bench)];
        let mut ahead = bench.lab.builder.clone();
        for _ in 0..4 {
            blocks.push(ahead.mine(Vec::new()));
        }
        blocks.push(mutated(&blocks[0]));
        let mut next = 0;
        let mut peers: Vec<PeerId> = Vec::new();
        let mut judging: Vec<(PeerId, Block)> = Vec::new();
        for _ in 0..600 {
            let block = blocks[rng.random_range(0..blocks.len())].clone();
            let hash = block.hash();
            let event = rng.random_range(0..16);
            let peer = match peers.len() {
                0 => PeerId(0),
                count => peers[rng.random_range(0..count)],
            };
            let take: u32 = rng.random_range(0..5);
            let actions = match event {
                0 | 1 if peers.len() < 10 => {
                    next += 1;
                    let link = [Link::Inbound, Link::OutboundFull, Link::BlockOnly][next as usize % 3];
                    bench.relay.peer_ready(PeerId(next), link, if next % 5 == 0 { services::BLOCKS } else { ALL });
                    peers.push(PeerId(next));
                    Actions::new()
                }
                2 => {
                    peers.retain(|other| *other != peer);
                    bench.act(|relay, desk| relay.peer_gone(desk, peer)).1
                }
                3 | 4 => bench.act(|relay, desk| relay.on_announce_block(desk, peer, block.header)).1,
                5 | 6 => bench.compact(peer, CompactBlock::of(&block, u64::from(take))),
                7 => bench.body(peer, &block).1,
                8 => {
                    let transactions = block.transactions.iter().take(take as usize).cloned().collect();
                    let answer = BlockTransactions { hash, transactions };
                    bench.act(|relay, desk| relay.on_block_transactions(desk, peer, answer)).1
                }
                9 => bench.act(|relay, desk| relay.on_not_found(desk, peer, &[Reference::Block(hash)])).1,
                10 => bench.act(|relay, desk| relay.on_get_blocks(desk, peer, vec![hash; take as usize])).1,
                11 => bench.act(|relay, desk| relay.on_get_block_transactions(desk, peer, hash, (0..take).collect())).1,
                12 => {
                    bench.relay.on_send_compact(peer, take > 1);
                    bench.act(|relay, desk| relay.sent(desk, peer)).1
                }
                13 => bench.act(|relay, desk| relay.on_tip_changed(desk)).1,
                14 if !judging.is_empty() => {
                    let (peer, block) = judging.swap_remove(0);
                    bench.judge(peer, &block)
                }
                _ => bench.tick(Duration::from_millis(u64::from(take) * 700)),
            };
            for action in actions {
                if let Action::SubmitBlock { peer, bytes, hash, .. } = action {
                    let body = decode::<Block>(&bytes).expect("what was sent decodes");
                    assert_eq!(body.hash(), hash);
                    judging.push((peer, body));
                }
            }
            let held = bench.relay.held();
            assert!(held.fetches <= 8 && held.chosen <= 3 && held.peers == peers.len(), "seed {seed}: {held:?}");
            assert!(held.attempts <= 8 * peers.len() && held.owed <= 16 * peers.len(), "seed {seed}: {held:?}");
            assert!(held.queued <= 32 * peers.len(), "seed {seed}: {held:?}");
        }
        for peer in peers {
            bench.act(|relay, desk| relay.peer_gone(desk, peer));
        }
        assert_eq!(bench.relay.held(), Held::default(), "seed {seed}");
    }
}
