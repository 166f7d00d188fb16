//! Templates and the miner over a real chain in memory.

use super::cpu::working_on;
use super::{Contents, EXTRANONCE_BYTES, GenerateError, Miner, MinerOptions, TemplateError};
use crate::chain::Accepted;
use crate::mempool::Options;
use crate::mempool::tests::{Lab, outputs};
use crate::testing::{address, coins, funded_network, network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::block::Header;
use setara_core::codec::encode;
use setara_core::height::Height;
use setara_core::network::Difficulty;
use setara_core::nonce::find_nonce;
use setara_core::transaction::Output;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Templates of one random mempool, one after the other.
const TEMPLATES_PER_SEED: u64 = 25;

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::yield_now();
    }
}

fn height(lab: &Lab) -> u32 {
    lab.chain.view().tip.height().get()
}

/// SM6: templates of random mempools, with blocks of very different sizes: each passes every rule, is never too large,
/// pays out exactly subsidy and fees, and stays right under any extranonce, once mined.
#[test]
fn random_templates_are_valid_blocks() {
    let templates = std::env::var("SETARA_TEMPLATES").map_or(1_000, |count| count.parse().expect("a number"));
    let (mut full, mut mined) = (0, 0);
    for seed in 0..u64::max(templates / TEMPLATES_PER_SEED, 1) {
        let mut random = StdRng::seed_from_u64(seed);
        let funds = 60;
        let mut parameters = (**funded_network(funds, coins(10))).clone();
        let genesis_bytes = encode(&parameters.genesis_block()).len() as u64;
        parameters.max_block_bytes = genesis_bytes.max(random.random_range(1_000..12_000));
        let mut lab = Lab::with(network(|small| *small = parameters), Options::default());
        for _ in 0..TEMPLATES_PER_SEED {
            for _ in 0..random.random_range(0..8) {
                let mut purses = lab.builder.spendable();
                purses.extend(lab.pool.entries().iter().flat_map(|entry| outputs(&entry.transaction)));
                let purse = purses[random.random_range(0..purses.len())];
                let fee = random.random_range(500..200_000);
                let count = [1, 1, 2, 5, 60][random.random_range(0..5)];
                if purse.1.output.amount.sen() > fee + count * 10_000 {
                    let _ = lab.submit(&lab.pay(&[purse], count, fee));
                }
            }
            lab.clock.advance(Duration::from_secs(random.random_range(0..3)));
            let template = lab.templates.build(address(0)).expect("every template is valid");
            let waiting = lab.pool.info().bytes;
            let taken: u64 = template.transactions.iter().map(|selected| selected.ids.size).sum();
            full += u64::from(taken < waiting);
            let view = lab.chain.view();
            assert!(template.header.time > view.tip.header.median_time_past());
            assert_eq!(template.value.checked_sub(template.fees), Some(lab.network.subsidy(template.height())));
            for (place, selected) in template.transactions.iter().enumerate() {
                assert!(selected.depends.iter().all(|parent| *parent < place));
            }

            let mut extranonce = [0; EXTRANONCE_BYTES];
            random.fill(&mut extranonce);
            let (header, coinbase) = template.with_extranonce(extranonce);
            assert_eq!(encode(&coinbase).len(), encode(&template.coinbase).len());
            assert!(encode(&coinbase).ends_with(&extranonce), "the extranonce is the end of the coinbase's bytes");
            let block = template.assemble(header, coinbase);
            assert_eq!(block.merkle_root().root, header.merkle_root);
            assert!(encode(&block).len() as u64 <= lab.network.max_block_bytes);
            lab.chain.check_proposal(&block).expect("valid with any extranonce");
            if random.random_range(0..3) == 0 {
                let nonce = find_nonce(&header, template.target, 0..=u32::MAX).unwrap();
                let block = setara_core::block::Block { header: Header { nonce, ..header }, ..block };
                lab.builder.apply(&block).unwrap();
                assert_eq!(lab.chain.submit(block), Ok(Accepted::Connected));
                mined += 1;
            }
        }
    }
    // A third is mined; the smaller half of the block sizes is filled often.
    assert!(full > templates / 10 && mined > templates / 10, "{full} were full, {mined} were mined");
}

/// SM6: what does not fit is passed over with what depends on it, and smaller things behind it are not.
#[test]
fn a_template_is_filled_around_what_does_not_fit() {
    let network = funded_network(30, coins(10));
    let room = encode(network.genesis()).len() as u64 + 700;
    let mut parameters = (**network).clone();
    parameters.max_block_bytes = room;
    let lab = Lab::with(crate::testing::network(|small| *small = parameters), Options::default());
    let large = lab.pay(&[lab.purse(1)], 60, 9_000_000);
    let child = lab.pay(&outputs(&large)[..1], 1, 5_000_000);
    lab.accept(&large);
    lab.accept(&child);
    for number in 2..=20 {
        lab.accept(&lab.pay(&[lab.purse(number)], 1, 10_000 + u64::from(number)));
    }
    let template = lab.templates.build(address(0)).unwrap();
    let holds = |txid| template.transactions.iter().any(|selected| selected.ids.txid == txid);
    assert!(large.ids().size > room && !holds(large.txid()) && !holds(child.txid()));
    let size = encode(&template.assemble(template.header, template.coinbase.clone())).len() as u64;
    assert!(size <= room && room - size < 250, "{size} of {room}");
    let fees: Vec<u64> = template.transactions.iter().map(|selected| selected.fee.sen()).collect();
    assert!(fees.windows(2).all(|pair| pair[0] >= pair[1]), "{fees:?}");
}

#[test]
fn a_template_is_kept_until_the_tip_the_payout_or_the_mempool_changes() {
    let mut lab = Lab::new(4);
    let first = lab.templates.current(address(0)).unwrap();
    assert!(Arc::ptr_eq(&first, &lab.templates.current(address(0)).unwrap()));
    assert!(!Arc::ptr_eq(&first, &lab.templates.current(address(1)).unwrap()));
    let second = lab.templates.current(address(0)).unwrap();
    lab.accept(&lab.pay(&[lab.purse(1)], 1, 10_000));
    assert!(Arc::ptr_eq(&second, &lab.templates.current(address(0)).unwrap()), "a change may wait a little");
    lab.clock.advance(Duration::from_secs(5));
    let third = lab.templates.current(address(0)).unwrap();
    assert_eq!(third.transactions.len(), 1);
    lab.mine(Vec::new());
    assert_eq!(lab.templates.current(address(0)).unwrap().height(), Height::new(3));
}

/// Before a public launch, and when this machine's clock is wrong, the reason has a name and a number.
#[test]
fn templates_wait_for_the_launch_and_for_the_clock() {
    let network = network(|parameters| {
        parameters.difficulty = Difficulty::Asert { half_life: 14_400 };
        parameters.max_future_seconds = 600;
        parameters.allocations = vec![Output { amount: coins(1), address: address(1) }];
    });
    let mut lab = Lab::with(network.clone(), Options::default());
    let genesis = u64::from(network.genesis().header.time);
    let first = lab.builder.blocks[1].hash();
    lab.chain.invalidate(first).unwrap();
    lab.clock.set(genesis - 3_600);
    let error = lab.templates.build(address(0)).map(|_| ()).unwrap_err();
    assert_eq!(error, TemplateError::NotLaunched { seconds: 3_001 });
    assert_eq!(error.to_string(), "templates in 3001 s");
    lab.clock.set(genesis - 599);
    assert!(lab.templates.build(address(0)).is_ok());
    lab.clock.set(genesis + 1_000_000);
    lab.chain.reconsider(first).unwrap();
    for _ in 0..12 {
        lab.mine(Vec::new());
    }
    lab.clock.set(genesis - 10_000);
    assert!(matches!(lab.templates.build(address(0)), Err(TemplateError::ClockBehind { .. })));
}

#[test]
fn blocks_on_demand_hold_what_was_asked_for() {
    let lab = Lab::new(6);
    let waiting = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.accept(&waiting);
    let never = &|| false;
    let mut tries = 1_000_000;
    let solve = || lab.templates.solve(Contents::Mempool, address(7), &mut 1_000_000, never).unwrap().hash();
    assert_ne!(solve(), solve(), "no block is made twice, even if the first was unwanted");
    let block = lab.templates.generate(Contents::Mempool, address(7), &mut tries, never).unwrap();
    assert_eq!(block.transactions, [waiting]);
    assert_eq!(block.coinbase.outputs[0].address, address(7));
    assert!((999_000..1_000_000).contains(&tries), "what was tried is what is counted: {tries} left");
    assert!(lab.txids().is_empty());

    // Not from the mempool, and by rules of blocks, not of relay.
    let free = lab.builder.spend(&[lab.purse(2)], &[(address(1), coins(10))]);
    assert_eq!(lab.refused(&free), "min relay fee not met");
    let these = Contents::These(vec![Arc::new(free.clone())]);
    let block = lab.templates.generate(these, address(7), &mut tries, never).unwrap();
    assert_eq!(block.transactions, std::slice::from_ref(&free));
    let again = Contents::These(vec![Arc::new(free)]);
    let error = lab.templates.generate(again, address(7), &mut tries, never).unwrap_err();
    assert!(matches!(error, GenerateError::Template(TemplateError::Rule(_))), "{error:?}");
    let mut none = 0;
    let error = lab.templates.generate(Contents::Mempool, address(7), &mut none, never).unwrap_err();
    assert_eq!(error, GenerateError::Exhausted);
    let error = lab.templates.generate(Contents::Mempool, address(7), &mut tries, &|| true).unwrap_err();
    assert_eq!(error, GenerateError::Stopped);
}

/// On fixed difficulty the miner makes one block per spacing, by the clock, with what waits in the mempool.
#[test]
fn the_miner_keeps_the_spacing_of_a_fixed_network() {
    let lab = Lab::new(6);
    let options = MinerOptions { payout: address(3), threads: 2 };
    let miner = Miner::start(lab.templates.clone(), options).unwrap();
    // The parent is old, so the first block is due at once.
    wait_until("the first block", || height(&lab) == 2);
    for round in 0..5u32 {
        let waiting = lab.pay(&[lab.purse(round + 1)], 1, 10_000);
        lab.accept(&waiting);
        lab.clock.advance(Duration::from_millis(999));
        lab.clock.advance(Duration::from_millis(1));
        wait_until("the next block", || height(&lab) > 2 + round);
        assert_eq!(height(&lab), 3 + round, "one block per spacing");
        wait_until("the mempool follows", || !lab.holds(&waiting));
    }
    assert_eq!(lab.chain.view().block(&lab.chain.view().tip.hash()).unwrap().unwrap().transactions.len(), 1);
    wait_until("the last block is counted", || miner.stats().blocks == 6);
    assert_eq!(miner.stats().threads, 2);
    assert!(miner.stats().hashes >= 6);
    miner.stop();
    assert_eq!(height(&lab), 7);
}

/// A miner at work on a hopeless target turns to a new tip, and stops when told to.
#[test]
fn the_miner_turns_to_a_new_tip_and_stops() {
    // Blocks a second apart where ten minutes are wanted: after two easy blocks the third is out of reach.
    let network = network(|parameters| {
        parameters.spacing = 600;
        parameters.max_future_seconds = 1;
        parameters.difficulty = Difficulty::Asert { half_life: 24 };
    });
    let lab = Lab::with(network, Options::default());
    let mut block = lab.builder.build(Vec::new());
    block.header.time = lab.builder.state.header.time() + 1;
    let block = crate::testing::seal(block);
    lab.chain.submit(block.clone()).unwrap();
    let tip = || lab.chain.view().tip.hash();
    assert_eq!((height(&lab), tip()), (2, block.hash()));

    let options = MinerOptions { payout: address(3), threads: 2 };
    // The clock near the chain's time, so that a block at the next height is as hard as it looks.
    lab.clock.set(u64::from(block.header.time) + 1);
    let miner = Miner::start(lab.templates.clone(), options).unwrap();
    wait_until("work on block 3", || working_on(&miner) == Some(block.hash()));
    wait_until("hashes", || miner.stats().hashes > 0);
    lab.chain.invalidate(block.hash()).unwrap();
    // Block 2 is easy again: the miner makes another one, and is stuck above that.
    wait_until("another block 2", || height(&lab) == 2);
    let other = tip();
    assert_ne!(other, block.hash());
    wait_until("work on its child", || working_on(&miner) == Some(other));
    miner.stop();
    assert_eq!(tip(), other);
}

/// Stopping never waits for a block: also while the miner pauses between blocks, and by being dropped.
#[test]
fn a_pausing_miner_stops() {
    let lab = Lab::new(2);
    let options = MinerOptions { payout: address(3), threads: 1 };
    let miner = Miner::start(lab.templates.clone(), options).unwrap();
    wait_until("the first block", || height(&lab) == 2);
    drop(miner);
    assert_eq!(height(&lab), 2);
    assert_eq!(Arc::strong_count(&lab.templates), 1, "no thread is left");
}
