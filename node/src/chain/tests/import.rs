//! Blocks from peers: in any order, alone or many at once, and the chain without a thread.

use super::super::inbox::{Done, IMPORT_BLOCKS_MAX, Import, Inbox, LIMITS};
use super::super::verify::{Encoded, Feed};
use super::*;
use crate::clock::ManualClock;
use crate::testing::{ChainBuilder, break_signature, coins, funded_network, quick_network, seal};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use setara_core::hash::Hash256;
use std::ops::ControlFlow;
use std::sync::mpsc;

fn shared(block: &Block) -> Arc<[u8]> {
    codec::encode(block).into()
}

/// A chain of blocks with a transaction each.
fn history(length: u32) -> (ChainBuilder, Vec<Block>) {
    let network = funded_network(8, coins(100));
    let mut builder = ChainBuilder::new(&network);
    let blocks = (0..length).map(|_| spending(&mut builder)).collect();
    (builder, blocks)
}

fn spending(builder: &mut ChainBuilder) -> Block {
    let coin = builder.spendable()[0];
    let half = Amount::from_sen(coin.1.output.amount.sen() / 2);
    let transaction = builder.spend(&[coin], &[(testing::address(1), half), (testing::address(2), half)]);
    builder.mine(vec![transaction])
}

fn headers_of(blocks: &[Block]) -> Vec<setara_core::block::Header> {
    blocks.iter().map(|block| block.header).collect()
}

/// Feeds blocks in bulk, with pauses of the source between; what each was told, by number.
fn import(rig: &mut Rig, blocks: &[Block], rng: &mut StdRng) -> Vec<(usize, Result<Accepted, SubmitError>)> {
    let now = rig.now();
    let mut told = Vec::new();
    let mut next = 0;
    while next < blocks.len() {
        let mut source = || {
            if next == blocks.len() {
                return Feed::End;
            }
            if rng.random_bool(0.1) {
                return Feed::Pending;
            }
            next += 1;
            Feed::Ready(Encoded::Shared(shared(&blocks[next - 1])), next - 1)
        };
        let result = rig.core.import(&mut source, &|| now, &mut |_, number, outcome| {
            told.push((number, outcome));
            ControlFlow::Continue(())
        });
        assert_eq!(result, Ok(()));
        assert_eq!(rig.core.shared.view().tip, *rig.core.tip(), "what was taken is visible when the bulk ends");
    }
    told
}

/// Bodies in any order, with pauses: each is told once, and the end is the same.
#[test]
fn import_takes_bodies_in_any_order() {
    let (builder, blocks) = history(30);
    for seed in 0..8 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut rig = Rig::new(&builder.network);
        let now = rig.now();
        rig.core.submit_headers(&headers_of(&blocks), now).unwrap();
        let mut shuffled = blocks.clone();
        if seed > 0 {
            shuffled.shuffle(&mut rng);
        }
        let told = import(&mut rig, &shuffled, &mut rng);
        assert!(told.iter().map(|(number, _)| *number).eq(0..blocks.len()), "in the order of the source");
        for (number, outcome) in &told {
            assert!(matches!(outcome, Ok(Accepted::Connected | Accepted::SideBranch)), "{number}: {outcome:?}");
        }
        rig.assert_is(&builder);
        assert!(import(&mut rig, &blocks, &mut rng).iter().all(|(_, outcome)| *outcome == Ok(Accepted::Duplicate)));
        rig.reopen().assert_is(&builder);
    }
}

/// A block that fails in a group does not fail its neighbours, whatever is wrong with it.
#[test]
fn import_judges_each_block_on_its_own() {
    let (mut builder, blocks) = history(6);
    let mut side = builder.clone();
    let above: Vec<Block> = (0..6).map(|_| spending(&mut builder)).collect();
    side.extra = vec![7];
    let coin = side.spendable()[0];
    let transaction = side.spend(&[coin], &[(testing::address(1), Amount::from_sen(1_000))]);
    let good = side.build(vec![transaction]);
    let mut unsigned = good.clone();
    break_signature(&mut unsigned.transactions[0]);
    let unsigned = seal(unsigned);
    let mut greedy = side.build(Vec::new());
    greedy.coinbase.outputs[0].amount = coins(4_000);
    let greedy = seal(greedy);
    let mut mutated = good.clone();
    mutated.coinbase.extra = vec![8];
    let mut orphan = good.clone();
    orphan.header.previous = BlockHash::from_bytes([3; 32]);
    let orphan = seal(orphan);
    type Check = fn(&Result<Accepted, SubmitError>) -> bool;
    let invalid: Check = |outcome| matches!(outcome, Err(SubmitError::Invalid(_)));
    // A branch that is not the best is judged only as far as that needs no coins.
    let greedy_kept: Check = |outcome| matches!(outcome, Err(SubmitError::Invalid(_)) | Ok(Accepted::SideBranch));
    let cases: [(&Block, Check); 4] = [
        (&unsigned, invalid),
        (&greedy, greedy_kept),
        (&mutated, |outcome| matches!(outcome, Err(SubmitError::Mutated(_)))),
        (&orphan, |outcome| matches!(outcome, Err(SubmitError::MissingParent(_)))),
    ];
    for (bad, check) in cases {
        for at in [6, 9, 12] {
            let mut group: Vec<Block> = blocks.iter().chain(&above).cloned().collect();
            group.insert(at, bad.clone());
            let mut rig = Rig::new(&builder.network);
            let told = import(&mut rig, &group, &mut StdRng::seed_from_u64(at as u64));
            for (number, outcome) in told {
                if number == at {
                    assert!(check(&outcome), "{outcome:?}");
                } else {
                    assert_eq!(outcome, Ok(Accepted::Connected), "{number} beside {at}");
                }
            }
            rig.assert_is(&builder);
        }
    }
}

/// Undecodable bytes are the sender's fault alone.
#[test]
fn import_of_garbage_is_undecodable() {
    let (builder, blocks) = history(2);
    let mut rig = Rig::new(&builder.network);
    let now = rig.now();
    let mut feed = vec![shared(&blocks[1]), Arc::from([1u8, 2, 3].as_slice()), shared(&blocks[0])];
    let mut source = || feed.pop().map_or(Feed::Pending, |bytes| Feed::Ready(Encoded::Shared(bytes), ()));
    let mut told = Vec::new();
    let mut judged = |_: &mut ChainCore, (): (), outcome| {
        told.push(outcome);
        ControlFlow::Continue(())
    };
    rig.core.import(&mut source, &|| now, &mut judged).unwrap();
    assert!(matches!(&told[..], [Ok(_), Err(SubmitError::Undecodable(_)), Ok(_)]), "{told:?}");
    rig.assert_is(&builder);
}

fn start(network: &Arc<Network>, inline: bool) -> (ChainHandle, Arc<ManualClock>, MemoryStore) {
    let clock = Arc::new(ManualClock::new(later(network).unix_seconds));
    let store = MemoryStore::new();
    let begin = if inline { testing::inline } else { testing::start };
    (begin(network, Arc::new(store.clone()), clock.clone()), clock, store)
}

/// A block that arrives alone is visible when its sender hears of it; many at once all connect, with commands between.
#[test]
fn import_over_a_handle_alone_and_in_bulk() {
    for inline in [false, true] {
        let (mut builder, blocks) = history(20);
        let (chain, _, store) = start(&builder.network, inline);
        chain.submit_headers(headers_of(&blocks)).unwrap();
        let (sender, told) = mpsc::channel();
        let send = |block: &Block, wanted: bool| {
            let (sender, reader, hash) = (sender.clone(), chain.clone(), block.hash());
            let done = move |outcome| {
                let visible = reader.view().in_active_chain(&hash).unwrap();
                // On the chain's own thread the last handle must not go.
                drop(reader);
                sender.send((hash, outcome, visible)).unwrap();
            };
            chain.import(shared(block), wanted, Box::new(done));
        };
        send(&blocks[0], true);
        assert_eq!(told.recv().unwrap(), (blocks[0].hash(), Ok(Accepted::Connected), true));
        for block in blocks[1..].iter().rev() {
            send(block, true);
        }
        chain.flush().unwrap();
        let mut hashes: Vec<BlockHash> = blocks[1..].iter().map(|_| told.recv().unwrap().0).collect();
        hashes.sort_unstable();
        let mut all: Vec<BlockHash> = blocks[1..].iter().map(Block::hash).collect();
        all.sort_unstable();
        assert_eq!(hashes, all);
        // Asked by nobody, but it is the best.
        let next = spending(&mut builder);
        send(&next, false);
        let (hash, outcome, visible) = told.recv().unwrap();
        assert_eq!((hash, outcome, visible), (next.hash(), Ok(Accepted::Connected), true));
        chain.stop();
        assert_eq!(chain.view().tip, builder.state);
        assert_stored(&store, &builder);
        send(&next, true);
        assert_eq!(told.recv().unwrap().1, Err(SubmitError::Stopping));
    }
}

/// Without a thread: audits and early blocks run where they are asked for, and the callback may use the chain.
#[test]
fn inline_carries_out_audits_and_ticks() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let (chain, clock, _) = start(&network, true);
    let mut wrong = builder.build(Vec::new());
    wrong.coinbase.coins_root = Hash256::from_bytes([5; 32]);
    let wrong = seal(wrong);
    assert!(matches!(chain.submit(wrong.clone()), Err(SubmitError::SetAside(_))));
    assert!(matches!(chain.submit(wrong), Err(SubmitError::Invalid(_))), "the audit has been carried out");
    let first = builder.mine(Vec::new());
    clock.set(u64::from(first.header.time) - u64::from(network.max_future_seconds) - 1);
    let (again, hash) = (chain.clone(), first.hash());
    let done = move |outcome| {
        assert!(matches!(outcome, Err(SubmitError::Early(_))));
        assert!(again.reconsider(hash).is_err(), "it is not known");
    };
    chain.import(shared(&first), true, Box::new(done));
    chain.tick().unwrap();
    assert_eq!(chain.view().tip.hash(), network.genesis_hash());
    clock.advance(Duration::from_secs(1));
    chain.tick().unwrap();
    assert_eq!(chain.view().tip, builder.state);
    let blocks = builder.mine_empty(5);
    clock.set(later(&network).unix_seconds);
    let report = chain.submit_many(blocks.into_iter().map(|block| codec::encode(&block)));
    assert_eq!((report.taken, report.result), (5, Ok(())));
    assert_eq!(chain.view().tip, builder.state);
}

/// The queue holds so many blocks; the next waits for a place, and closing tells everyone.
#[test]
fn import_queue_is_bounded_and_tells_everyone() {
    let inbox = Inbox::new(LIMITS);
    let (sender, told) = mpsc::channel();
    let import = || {
        let sender = sender.clone();
        let done = Done::new(Box::new(move |outcome| sender.send(outcome).unwrap()));
        Import { bytes: Arc::from([0u8; 4].as_slice()), origin: Origin::Wanted, done }
    };
    for _ in 0..IMPORT_BLOCKS_MAX {
        inbox.import(import());
    }
    std::thread::scope(|scope| {
        let one_more = scope.spawn(|| inbox.import(import()));
        // Taken by the writer, and dropped by a panic: its sender hears of it.
        drop(inbox.try_import().unwrap());
        assert_eq!(told.recv().unwrap(), Err(SubmitError::Stopping));
        one_more.join().unwrap();
    });
    inbox.close();
    inbox.import(import());
    drop(sender);
    let rest: Vec<_> = told.iter().collect();
    assert_eq!(rest.len(), IMPORT_BLOCKS_MAX + 1);
    assert!(rest.iter().all(|outcome| *outcome == Err(SubmitError::Stopping)));
}
