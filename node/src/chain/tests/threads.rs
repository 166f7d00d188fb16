//! The chain with its thread: readers beside a storm of reorganisations, and a panic.

use super::*;
use crate::clock::ManualClock;
use crate::testing::{ChainBuilder, coins, funded_network, quick_network};
use std::sync::atomic::{AtomicBool, Ordering};

fn start(network: &Arc<Network>, store: &MemoryStore) -> ChainHandle {
    let clock = Arc::new(ManualClock::new(later(network).unix_seconds));
    testing::start(network, Arc::new(store.clone()), clock)
}

/// RW7: while branches overtake each other, every view a reader takes agrees with itself, and leads from the last one.
#[test]
fn rw7_readers_beside_a_storm_of_reorganisations() {
    let network = funded_network(6, coins(100));
    let chain = start(&network, &MemoryStore::new());
    let done = AtomicBool::new(false);
    let read = || {
        let mut last = network.genesis_hash();
        let mut views = 0;
        while !done.load(Ordering::SeqCst) {
            let view = chain.view();
            let tip = view.tip;
            assert_eq!(view.hash_at(tip.height()).unwrap(), Some(tip.hash()));
            assert_eq!(view.hash_at(tip.height().next().unwrap()).unwrap(), None);
            assert_eq!(view.coins_total().unwrap().sum, tip.supply.sen());
            let sum: u64 = view.iterate_coins().map(|coin| coin.unwrap().1.output.amount.sen()).sum();
            assert_eq!(sum, tip.supply.sen());
            let mut hash = tip.hash();
            while let Some(row) = view.header(&hash).unwrap().filter(|row| row.height.get() > 0) {
                assert_eq!(view.hash_at(row.height).unwrap(), Some(hash));
                assert_eq!(view.undo(&hash).unwrap().unwrap().header().hash, hash);
                hash = row.header.previous;
            }
            let updates = view.updates_since(last).unwrap();
            last = updates.apply.last().copied().unwrap_or(last);
            assert!(updates.apply.last().is_none_or(|end| *end == tip.hash()));
            views += 1;
        }
        views
    };
    let base = ChainBuilder::new(&network);
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        let fork = |name: u8| {
            let mut fork = base.clone();
            fork.extra = vec![name];
            fork
        };
        let mut branches: Vec<ChainBuilder> = (1..=2).map(fork).collect();
        for round in 0..12 {
            let branch = &mut branches[round % 2];
            for number in 0..2 {
                let coin = branch.spendable()[number];
                let half = Amount::from_sen(coin.1.output.amount.sen() / 2);
                let transaction = branch.spend(&[coin], &[(testing::address(1), half), (testing::address(2), half)]);
                chain.submit(branch.mine(vec![transaction])).unwrap();
            }
        }
        done.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    chain.stop();
    assert_eq!(chain.submit(base.build(Vec::new())), Err(SubmitError::Stopping));
}

/// CS19: a panic on the writer's thread stops the chain with a fault; nobody waits for ever, and readers go on.
#[test]
fn cs19_a_panic_of_the_writer_is_a_fault() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let store = MemoryStore::new();
    let chain = start(&network, &store);
    chain.submit(builder.mine(Vec::new())).unwrap();
    let report = chain.submit_many(std::iter::from_fn(|| -> Option<Vec<u8>> { panic!("a source that fails") }));
    assert_eq!(report.result, Err(SubmitError::Stopping));
    // The caller hears of it while the writer is still on its way out.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while chain.fault().is_none() {
        assert!(std::time::Instant::now() < deadline, "the fault is never told");
        std::thread::yield_now();
    }
    assert!(chain.fault().unwrap().contains("a source that fails"));
    assert_eq!(chain.submit(builder.build(Vec::new())), Err(SubmitError::Stopping));
    assert_eq!(chain.view().tip, builder.state);
    chain.stop();
    drop(chain);
    let chain = start(&network, &store);
    assert_eq!(chain.view().tip, builder.state);
}
