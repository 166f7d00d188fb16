//! Every way to the same chain ends in the same store: block by block, in bulk, in any order, by way of branches that
//! lose, through crashes, and from a snapshot; and what is stored passes every rule once more.

use super::super::verify::{Encoded, Feed};
use super::model::random_transactions;
use super::*;
use crate::snapshot::{SnapshotFile, dump};
use crate::testing::{coins, funded_network, height};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::ops::ControlFlow;

/// Random trees of blocks.
const SEEDS: u64 = 12;
/// Blocks of a tree, those at its end not counted.
const BLOCKS: u8 = 30;
/// Blocks above the snapshot's base.
const ABOVE_BASE: u32 = 6;

/// Blocks, parents first, each with the naive ledger after it; the last is the tip of most work, alone.
fn tree(rng: &mut StdRng) -> Vec<ChainBuilder> {
    let network = funded_network(6, coins(50));
    let mut grown = vec![ChainBuilder::new(&network)];
    let highest = |grown: &[ChainBuilder]| grown.iter().max_by_key(|ledger| ledger.height()).unwrap().clone();
    for number in 0..BLOCKS + 2 {
        let goes_on = number >= BLOCKS || rng.random_bool(0.7);
        let mut ledger =
            if goes_on { highest(&grown) } else { grown[rng.random_range(grown.len() / 2..grown.len())].clone() };
        ledger.extra = vec![number];
        let transactions = random_transactions(rng, &ledger);
        ledger.mine(transactions);
        grown.push(ledger);
    }
    assert!(grown.iter().filter(|ledger| ledger.height() >= grown.last().unwrap().height()).count() == 1);
    grown
}

fn last(ledger: &ChainBuilder) -> Block {
    ledger.blocks.last().unwrap().clone()
}

/// Coins, heights, what belongs to the tip, and the undo records of the active chain.
fn stored(rig: &Rig) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut all: Vec<_> = [Column::Coins, Column::Heights, Column::Meta].map(|column| rig.store.rows(column)).into();
    let active: Vec<Vec<u8>> = rig.store.rows(Column::Heights).into_iter().map(|(_, hash)| hash).collect();
    all.push(rig.store.rows(Column::Undo).into_iter().filter(|(hash, _)| active.contains(hash)).collect());
    all
}

/// Hands blocks over in bulk.
fn import(rig: &mut Rig, blocks: &[Block]) {
    let now = rig.now();
    let mut left = blocks.iter();
    let mut source =
        || left.next().map_or(Feed::End, |block| Feed::Ready(Encoded::Shared(codec::encode(block).into()), ()));
    rig.core
        .import(&mut source, &|| now, &mut |_, (), outcome| {
            outcome.unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
}

#[test]
fn all_ways_to_a_chain_end_alike() {
    let mut losing = 0;
    for seed in 0..SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let grown = tree(&mut rng);
        let best = grown.last().unwrap();
        let line = &best.blocks[1..];
        let every: Vec<Block> = grown[1..].iter().map(last).collect();
        losing += every.len() - line.len();
        let new = || Rig::new(&best.network);

        // Replay: the blocks of the best chain alone, one by one.
        let mut replayed = new();
        submit_all(&mut replayed, line);
        replayed.settle();
        replayed.assert_is(best);
        let wanted = stored(&replayed);
        let same = |mut rig: Rig, way: &str| {
            rig.settle();
            rig.assert_is(best);
            assert!(stored(&rig) == wanted, "seed {seed}: {way}");
            let verified = recheck(&rig.store, &testing::verifier(&rig.network), None, None, &mut |_, _| {}).unwrap();
            assert_eq!(
                (verified.blocks, verified.coins),
                (line.len() as u64, best.coins.len() as u64),
                "seed {seed}: {way}"
            );
        };

        let mut branches = new();
        submit_all(&mut branches, &every);
        same(branches, "one by one, by way of branches");

        let mut bulk = new();
        let now = bulk.now();
        let mut encoded = line.iter().map(codec::encode);
        let (taken, result) = bulk.core.load(&mut encoded, &|| now, &mut |_| ControlFlow::Continue(()));
        assert_eq!((taken, result), (line.len() as u64, Ok(())));
        same(bulk, "in bulk");

        let mut shuffled = every.clone();
        shuffled.shuffle(&mut rng);
        let mut pipeline = new();
        let headers: Vec<_> = every.iter().map(|block| block.header).collect();
        pipeline.core.submit_headers(&headers, now).unwrap();
        import(&mut pipeline, &shuffled);
        same(pipeline, "headers first, bodies in any order");

        let mut crashing = new();
        for block in &every {
            crashing.submit(block).unwrap();
            if rng.random_bool(0.2) {
                let Rig { network, store, core, verifier } = crashing;
                drop(core);
                crashing = Rig::over(&network, store.crash(rng.random_range(0..3)), verifier).unwrap();
            }
        }
        same(crashing, "through crashes");

        // From the coins of a few blocks ago; branches that leave the chain above them.
        let base = best.height() - ABOVE_BASE;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coins");
        dump(&replayed.core.shared.view(), height(base), &path).unwrap();
        let file = SnapshotFile::open(&path).unwrap();
        let mut begun = new();
        begun.core.submit_headers(&headers, now).unwrap();
        begun.core.adopt(&file.manifest, file.elements().unwrap(), now).unwrap();
        let above = |ledger: &&ChainBuilder| {
            ledger.height() > base && ledger.blocks[base as usize].hash() == best.blocks[base as usize].hash()
        };
        let mut blocks: Vec<Block> = grown.iter().filter(above).map(last).collect();
        blocks.shuffle(&mut rng);
        import(&mut begun, &blocks);
        begun.settle();
        let begun = stored(&begun);
        assert!(begun[..2] == wanted[..2], "seed {seed}: coins and heights from a snapshot");
        // Beside what every chain has there: where it began, and what it does not have.
        let (own, shared): (Vec<_>, Vec<_>) =
            begun[2].iter().cloned().partition(|(key, _)| wanted[2].iter().all(|(other, _)| other != key));
        assert!(shared == wanted[2] && own.len() == 2, "seed {seed}: what belongs to the tip from a snapshot");
        let undo: Vec<_> = line[base as usize..].iter().map(|block| block.hash().as_bytes().to_vec()).collect();
        let above: Vec<_> = wanted[3].iter().filter(|(hash, _)| undo.contains(hash)).cloned().collect();
        assert_eq!(above.len(), ABOVE_BASE as usize);
        assert!(begun[3] == above, "seed {seed}: undo records from a snapshot");
    }
    assert!(losing > 20, "the trees have branches: {losing}");
}
