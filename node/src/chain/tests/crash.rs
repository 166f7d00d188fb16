//! Power cuts and failing reads and writes at every place where one can happen.

use super::*;
use crate::store::Faults;
use crate::testing::{ChainBuilder, coins, funded_network};
use std::ops::ControlFlow;

/// Blocks of a history with spends and a reorganisation, in the order in which they are submitted, and the builder at
/// every tip that a node may have on the way.
pub(super) fn history() -> (Arc<Network>, Vec<Block>, BTreeMap<BlockHash, ChainBuilder>) {
    let network = funded_network(6, coins(100));
    let mut builders = BTreeMap::new();
    let mut main = ChainBuilder::new(&network);
    builders.insert(main.tip(), main.clone());
    let mut blocks = Vec::new();
    let mut grow = |builder: &mut ChainBuilder, spend: usize| {
        let coin = builder.spendable()[spend];
        let third = Amount::from_sen(coin.1.output.amount.sen() / 3);
        let transaction = builder.spend(&[coin], &[(testing::address(1), third), (testing::address(2), third)]);
        let block = builder.mine(vec![transaction]);
        builders.insert(builder.tip(), builder.clone());
        blocks.push(block);
    };
    for number in 0..3 {
        grow(&mut main, number);
    }
    let mut side = main.clone();
    side.extra = vec![1];
    for number in 0..2 {
        grow(&mut main, number);
    }
    for number in 0..4 {
        grow(&mut side, number + 1);
    }
    (network, blocks, builders)
}

/// CS20: an error from any read and any write on the way never marks a block invalid, is final, and leaves a store
/// that opens to a chain that was there.
#[test]
fn cs20_failing_reads_and_writes_are_never_verdicts() {
    let (network, blocks, builders) = history();
    let end = builders[&blocks[blocks.len() - 1].hash()].clone();
    let run = |faults: &dyn Fn(&Faults)| -> (Rig, Option<ChainFault>) {
        let mut rig = Rig::new(&network);
        submit_all(&mut rig, &blocks[..4]);
        // Opened anew with the rows stored, nothing is cached: every coin and record is read.
        rig.settle();
        let mut rig = rig.reopen();
        faults(rig.store.faults());
        for block in &blocks[4..] {
            match rig.submit(block) {
                Ok(_) => {}
                Err(SubmitError::Fault(fault)) => return (rig, Some(fault)),
                Err(error) => panic!("a fault became a verdict: {error}"),
            }
            // The coins' rows follow every other block.
            if rig.core.tip().height().get().is_multiple_of(2) {
                let now = rig.now();
                match rig.core.tick(now) {
                    Ok(()) => {}
                    Err(SubmitError::Fault(fault)) => return (rig, Some(fault)),
                    Err(error) => panic!("a fault became a verdict: {error}"),
                }
            }
        }
        (rig, None)
    };
    let (clean, fault) = run(&|faults| {
        faults.fail_read(0);
        faults.fail_write(0);
    });
    assert_eq!(fault, None);
    let (reads, writes) = (clean.store.faults().reads(), clean.store.faults().writes());
    assert!(reads >= 10 && writes >= 4, "{reads} reads, {writes} writes");
    let reads = (1..=reads).map(|n| (n, 0));
    let writes = (1..=writes).map(|n| (0, n));
    for (read, write) in reads.chain(writes) {
        let (mut rig, fault) = run(&|faults| {
            faults.fail_read(read);
            faults.fail_write(write);
        });
        let fault = fault.unwrap_or_else(|| panic!("read {read}, write {write} did not fail"));
        assert!(matches!(rig.submit(&blocks[8]), Err(SubmitError::Fault(again)) if again == fault), "a fault is final");
        let now = rig.now();
        assert!(rig.core.flush(now).is_err(), "nothing is written after a fault");
        let store = rig.store.crash(u64::MAX);
        for (key, value) in store.rows(Column::Headers) {
            let hash = BlockHash::from_bytes(key.try_into().unwrap());
            let row = schema::header_row(&hash, value).unwrap();
            assert_eq!(row.flags & (schema::flags::FAILED | schema::flags::INVALIDATED), 0);
        }
        let mut rig = Rig::over(&network, store, rig.verifier.clone()).unwrap();
        rig.assert_is(&builders[&rig.core.tip().hash()]);
        for block in &blocks {
            rig.submit(block).unwrap();
        }
        rig.assert_is(&end);
    }
}

/// ST4: after a failed write nothing is written any more, even if the disk works again.
#[test]
fn st4_a_failed_write_is_final() {
    let (network, blocks, _) = history();
    let mut rig = Rig::new(&network);
    rig.store.faults().fail_write(1);
    assert!(matches!(rig.submit(&blocks[0]), Err(SubmitError::Fault(ChainFault::Store(_)))));
    rig.store.faults().fail_write(0);
    let before: Vec<_> = Column::ALL.into_iter().map(|column| rig.store.rows(column)).collect();
    assert!(matches!(rig.submit(&blocks[0]), Err(SubmitError::Fault(_))));
    let now = rig.now();
    assert!(rig.core.tick(now).is_err());
    let after: Vec<_> = Column::ALL.into_iter().map(|column| rig.store.rows(column)).collect();
    assert_eq!(before, after);
}

/// ST1, ST2: a power cut after any write, with any number of the unsynced writes kept, leaves a chain that was there,
/// with every acknowledged block in it, and it grows on to the same end.
#[test]
fn st1_power_cuts_leave_a_chain_that_was_there() {
    let (network, blocks, builders) = history();
    let end = builders[&blocks[blocks.len() - 1].hash()].clone();
    let verifier = testing::verifier(&network);
    // Block by block: what was acknowledged is there, however far the coins' rows are behind.
    for (cut, settled) in (0..=blocks.len()).flat_map(|cut| (0..=cut).map(move |settled| (cut, settled))) {
        let mut rig = Rig::over(&network, MemoryStore::new(), verifier.clone()).unwrap();
        submit_all(&mut rig, &blocks[..settled]);
        rig.settle();
        submit_all(&mut rig, &blocks[settled..cut]);
        let acknowledged = rig.core.tip().hash();
        for kept in [0, 1, u64::MAX] {
            let mut rig = Rig::over(&network, rig.store.crash(kept), verifier.clone()).unwrap();
            assert_eq!(rig.core.tip().hash(), acknowledged);
            rig.assert_is(&builders[&acknowledged]);
            for block in &blocks {
                rig.submit(block).unwrap();
            }
            rig.assert_is(&end);
        }
    }
    // In bulk: writes ahead of the flush may be lost or kept, one by one.
    let line: Vec<Vec<u8>> = end.blocks[1..].iter().map(codec::encode).collect();
    for interval in [Duration::ZERO, Duration::from_secs(60)] {
        let options = ChainOptions { flush_interval: interval, ..small() };
        let mut states = Vec::new();
        let mut rig = Rig::with(&network, MemoryStore::new(), verifier.clone(), options).unwrap();
        let (store, now) = (rig.store.clone(), rig.now());
        let (_, result) = rig.core.load(&mut line.clone().into_iter(), &|| now, &mut |_| {
            states.extend((0..4).map(|kept| store.crash(kept)));
            ControlFlow::Continue(())
        });
        assert_eq!(result, Ok(()));
        states.push(rig.store.crash(0));
        for store in states {
            let rig = Rig::over(&network, store, verifier.clone()).unwrap();
            rig.assert_is(&builders[&rig.core.tip().hash()]);
        }
        rig.assert_is(&end);
    }
}

/// ST1: bodies written ahead of a flush that never came are connected at the next start; nothing is lost or asked for
/// again.
#[test]
fn st1_bodies_written_ahead_are_connected_at_start() {
    let network = funded_network(2, coins(1_000));
    let mut builder = ChainBuilder::new(&network);
    let mut rig =
        Rig::with(&network, MemoryStore::new(), testing::verifier(&network), ChainOptions::default()).unwrap();
    // Large bodies, so that they are written ahead.
    let outputs: Vec<_> = (0..20_000).map(|_| (testing::address(1), Amount::from_sen(10))).collect();
    let mut line = Vec::new();
    for _ in 0..20 {
        let coin = builder.spendable().into_iter().max_by_key(|(_, coin)| coin.output.amount).unwrap();
        let rest = coin.1.output.amount.checked_sub(Amount::from_sen(300_000)).unwrap();
        let mut outputs = outputs.clone();
        outputs.push((testing::address(2), rest));
        line.push(codec::encode(&builder.mine(vec![builder.spend(&[coin], &outputs)])));
    }
    let (store, now) = (rig.store.clone(), rig.now());
    let mut crashed = None;
    let mut count = 0;
    let (_, result) = rig.core.load(&mut line.into_iter(), &|| now, &mut |_| {
        count += 1;
        if count == 20 {
            crashed = Some((store.crash(0), store.crash(u64::MAX)));
        }
        ControlFlow::Continue(())
    });
    assert_eq!(result, Ok(()));
    rig.assert_is(&builder);
    let (lost, kept) = crashed.unwrap();
    let lost = Rig::over(&network, lost, rig.verifier.clone()).unwrap();
    assert_eq!(lost.core.tip().height(), testing::height(0), "nothing was flushed");
    let kept = Rig::over(&network, kept, rig.verifier.clone()).unwrap();
    let height = kept.core.tip().height().get() as usize;
    assert!(height > 5, "{height} blocks were written ahead");
    assert_eq!(kept.core.tip().hash(), builder.blocks[height].hash());
}

/// ST3, ST8: a store with a damaged, missing or foreign value is refused in words, or opens to the right chain; never
/// to a wrong one.
#[test]
fn st3_damaged_values_are_refused_at_start() {
    let (network, blocks, builders) = history();
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &blocks);
    let end = &builders[&rig.core.tip().hash()];
    let mut refused = 0;
    for column in [Column::Headers, Column::Heights, Column::Meta, Column::Bodies, Column::Undo] {
        for (key, value) in rig.store.rows(column) {
            let mut flipped = value.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 0x10;
            let truncated = value[..value.len() - 1].to_vec();
            for damaged in [None, Some(flipped), Some(truncated)] {
                let store = rig.store.crash(0);
                store.tamper(column, &key, damaged.as_deref());
                match Rig::over(&network, store, rig.verifier.clone()) {
                    Err(fault) => {
                        assert!(!fault.to_string().is_empty());
                        refused += 1;
                    }
                    Ok(opened) => assert_eq!(opened.core.tip(), &end.state, "{column:?} {}", hex::encode(&key)),
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
    let other = testing::network(|parameters| parameters.message = "another network".to_owned());
    let error = Rig::over(&other, rig.store.crash(0), testing::verifier(&other)).err().unwrap();
    assert!(matches!(error, ChainFault::Store(StoreError::OtherNetwork { .. })), "{error}");
}
