//! Pruning: what goes, what stays, and that reorganisations, restarts and failing writes leave a sound chain.

use super::*;
use crate::chain::{PruneGoal, PruneReport};
use crate::store::schema::flags;
use crate::testing::height;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn keeping(bodies: u32, undo: u32) -> ChainOptions {
    ChainOptions { keep_bodies: bodies, keep_undo: undo, ..small() }
}

fn rig(network: &Arc<Network>, options: &ChainOptions) -> Rig {
    Rig::with(network, MemoryStore::new(), testing::verifier(network), options.clone()).unwrap()
}

fn reopen(rig: Rig, store: MemoryStore, options: &ChainOptions) -> Rig {
    let Rig { network, verifier, core, .. } = rig;
    drop(core);
    Rig::with(&network, store, verifier, options.clone()).unwrap()
}

/// All steps to a goal.
fn prune(rig: &mut Rig, goal: PruneGoal, limit: u32) -> PruneReport {
    loop {
        let now = rig.now();
        let report = rig.core.prune(goal, height(limit), now).unwrap();
        if !report.more {
            return report;
        }
    }
}

/// Bodies and undo records of the active chain are stored from the heights on that the node says, and none below;
/// headers say the same, and the bytes add up. Coins, heights, tip and lattice are those of a replay.
fn assert_pruned(rig: &Rig, ledger: &ChainBuilder) {
    assert_eq!(rig.core.tip(), &ledger.state);
    let view = rig.core.shared.view();
    assert_eq!(view.pruned(), schema::pruned(&rig.store).unwrap());
    let (bodies, undo) = view.pruned().map_or((0, 0), |pruned| (pruned.bodies_from.get(), pruned.undo_from.get()));
    assert!(undo <= bodies);
    for (number, block) in (0u32..).zip(&ledger.blocks) {
        let hash = block.hash();
        let row = view.header(&hash).unwrap().unwrap();
        let stored = schema::body(&rig.store, &hash).unwrap();
        assert_eq!(stored.is_some(), number >= bodies, "height {number}");
        if number > 0 {
            assert_eq!(row.flags & flags::BODY != 0, number >= bodies, "height {number}");
            assert_eq!(row.flags & flags::PRUNED != 0, number < bodies, "height {number}");
            assert_eq!(view.block(&hash).unwrap().is_some(), number >= bodies);
        }
        assert_eq!(schema::undo(&rig.store, &hash).unwrap().is_some(), number >= undo, "height {number}");
    }
    // Genesis never breaks.
    let genesis = rig.network.genesis();
    assert_eq!(view.block(&genesis.hash()).unwrap().as_ref(), Some(genesis));
    assert_eq!(view.undo(&genesis.hash()).unwrap().as_ref(), Some(&ledger.deltas[0]));
    let stored: usize = rig.store.rows(Column::Bodies).iter().map(|(_, value)| value.len() - 4).sum();
    let genesis = if bodies == 0 { codec::encode(genesis).len() } else { 0 };
    assert_eq!(rig.core.tree.body_bytes(), (stored - genesis) as u64);
    let (coins, lattice) = stored_coins(&rig.store).unwrap();
    assert!(coins == ledger.coins && lattice == ledger.lattice);
}

#[test]
fn the_newest_blocks_stay_whatever_is_asked_for() {
    let network = testing::quick_network();
    let options = keeping(5, 10);
    let mut rig = rig(&network, &options);
    let mut ledger = ChainBuilder::new(&network);
    submit_all(&mut rig, &ledger.mine_empty(4));
    let report = prune(&mut rig, PruneGoal::Below(height(u32::MAX)), u32::MAX);
    assert_eq!((report.blocks, report.pruned), (0, None), "too short for anything to go");
    assert_pruned(&rig, &ledger);
    submit_all(&mut rig, &ledger.mine_empty(26));
    // What an index has not read stays.
    let report = prune(&mut rig, PruneGoal::Bytes(0), 7);
    assert_eq!(report.pruned.unwrap().bodies_from, height(8));
    assert_pruned(&rig, &ledger);
    let report = prune(&mut rig, PruneGoal::Bytes(0), u32::MAX);
    let pruned = report.pruned.unwrap();
    assert_eq!((pruned.bodies_from, pruned.undo_from), (height(26), height(20)));
    assert_pruned(&rig, &ledger);
    // Asked again there is nothing to do.
    assert_eq!(prune(&mut rig, PruneGoal::Below(height(3)), u32::MAX).blocks, 0);
    let store = rig.store.clone();
    let mut rig = reopen(rig, store, &options);
    assert_pruned(&rig, &ledger);
    // A pruned block that comes again is known, and not stored again.
    assert_eq!(rig.submit(&ledger.blocks[3]), Ok(Accepted::Duplicate));
    submit_all(&mut rig, &ledger.mine_empty(3));
    assert_pruned(&rig, &ledger);
}

/// A goal in bytes keeps as many of the newest bodies as fit.
#[test]
fn a_goal_in_bytes_is_met_and_not_overdone() {
    let network = testing::quick_network();
    let mut rig = rig(&network, &keeping(2, 10));
    let mut ledger = ChainBuilder::new(&network);
    submit_all(&mut rig, &ledger.mine_empty(40));
    let size = codec::encode(&ledger.blocks[40]).len() as u64;
    let report = prune(&mut rig, PruneGoal::Bytes(10 * size), u32::MAX);
    assert_eq!(report.pruned.unwrap().bodies_from, height(31));
    assert_eq!(report.body_bytes, 10 * size);
    assert_pruned(&rig, &ledger);
}

/// As deep as undo records reach, below the bodies too; then the old branch must be fetched again to come back. Deeper
/// than that a better branch is left alone, without a fault.
#[test]
fn reorganisations_reach_as_deep_as_undo_records() {
    let network = testing::quick_network();
    let options = keeping(3, 10);
    let mut rig = rig(&network, &options);
    let mut ledger = ChainBuilder::new(&network);
    submit_all(&mut rig, &ledger.mine_empty(20));
    let mut forks = BTreeMap::new();
    for at in [8, 14] {
        let mut fork = ChainBuilder::new(&network);
        ledger.blocks[1..=at].iter().for_each(|block| fork.apply(block).unwrap());
        fork.extra = vec![at as u8];
        forks.insert(at, fork);
    }
    submit_all(&mut rig, &ledger.mine_empty(2));
    let pruned = prune(&mut rig, PruneGoal::Bytes(0), u32::MAX).pruned.unwrap();
    assert_eq!((pruned.bodies_from, pruned.undo_from), (height(20), height(12)));

    let too_deep = forks.get_mut(&8).unwrap();
    for block in too_deep.mine_empty(20) {
        assert_eq!(rig.submit(&block), Ok(Accepted::SideBranch));
    }
    assert_pruned(&rig, &ledger);
    assert_eq!(rig.core.fault(), None);
    let now = rig.now();
    let deep = ledger.blocks[11].hash();
    assert_eq!(rig.core.invalidate(&deep, now), Err(SubmitError::Pruned(deep)));

    let fork = forks.get_mut(&14).unwrap();
    submit_all(&mut rig, &fork.mine_empty(9));
    assert_pruned(&rig, fork);
    assert_eq!(rig.core.shared.view().bodies_from(), height(15));
    let store = rig.store.clone();
    let mut rig = reopen(rig, store, &options);
    assert_pruned(&rig, fork);

    // Back: what was pruned of the old branch is missing, and asked for.
    let mut longer = ledger.clone();
    let new = longer.mine_empty(3);
    let headers: Vec<_> = new.iter().map(|block| block.header).collect();
    rig.core.submit_headers(&headers, now).unwrap();
    let missing = rig.core.tree.reader().missing_bodies(&longer.tip(), 100, 100);
    let missing: Vec<u32> = missing.iter().map(|point| point.height.get()).collect();
    assert_eq!(missing, [15, 16, 17, 18, 19, 23, 24, 25], "20 to 22 were still here");
    for number in missing {
        rig.submit(&longer.blocks[number as usize]).unwrap();
    }
    assert_pruned(&rig, &longer);
}

/// Branches beside the active one go by height as well.
#[test]
fn side_branches_are_pruned_too() {
    let network = testing::quick_network();
    let mut rig = rig(&network, &keeping(3, 10));
    let mut ledger = ChainBuilder::new(&network);
    submit_all(&mut rig, &ledger.mine_empty(5));
    let mut side = ledger.clone();
    side.extra = vec![1];
    submit_all(&mut rig, &ledger.mine_empty(6));
    let beside = side.mine_empty(4);
    submit_all(&mut rig, &beside);
    prune(&mut rig, PruneGoal::Below(height(8)), u32::MAX);
    assert_pruned(&rig, &ledger);
    for block in &beside {
        let here = schema::body(&rig.store, &block.hash()).unwrap().is_some();
        assert_eq!(here, block.coinbase.height >= height(8));
    }
}

/// Whichever write fails: the chain stops, nothing is half deleted, and the next start is sound.
#[test]
fn a_failing_write_leaves_a_sound_chain() {
    let network = testing::quick_network();
    let options = keeping(2, 6);
    for failing in 1.. {
        let mut rig = rig(&network, &options);
        let mut ledger = ChainBuilder::new(&network);
        submit_all(&mut rig, &ledger.mine_empty(15));
        rig.store.faults().fail_write(failing);
        let now = rig.now();
        let failed = rig.core.prune(PruneGoal::Bytes(0), height(u32::MAX), now);
        let left = rig.store.crash(0);
        let done = failed.is_ok();
        assert_eq!(rig.core.fault().is_none(), done);
        let rig = reopen(rig, left, &options);
        assert_pruned(&rig, &ledger);
        if done {
            assert!(failing > 1, "something was written");
            break;
        }
    }
}

/// Random growth, forks, pruning, power cuts: what the best branch lacks is sent again, and then it is the tip.
#[test]
fn random_histories_with_pruning_agree_with_a_naive_ledger() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let network = testing::quick_network();
        let options = keeping(rng.random_range(1..6), 1_000);
        let mut rig = rig(&network, &options);
        let mut ledgers = vec![ChainBuilder::new(&network)];
        for step in 0..60u8 {
            match rng.random_range(0..10) {
                0..=5 => {
                    let from =
                        if rng.random_bool(0.7) { ledgers.len() - 1 } else { rng.random_range(0..ledgers.len()) };
                    let mut ledger = ledgers[from].clone();
                    ledger.extra = vec![step];
                    let block = ledger.mine(Vec::new());
                    rig.submit(&block).unwrap();
                    ledgers.push(ledger);
                }
                6 | 7 => {
                    let goal = PruneGoal::Below(height(rng.random_range(0..40)));
                    prune(&mut rig, goal, u32::MAX);
                }
                8 => {
                    let store = rig.store.crash(rng.random_range(0..4));
                    rig = reopen(rig, store, &options);
                }
                _ => {
                    let now = rig.now();
                    rig.core.flush(now).unwrap();
                }
            }
            // The most work; of two alike the one that is the tip.
            let tip = rig.core.tip().hash();
            let best = ledgers.iter().max_by_key(|ledger| (ledger.state.header.work, ledger.tip() == tip)).unwrap();
            for block in &best.blocks[1..] {
                rig.submit(block).unwrap();
            }
            assert_pruned(&rig, best);
            assert_eq!(rig.core.fault(), None, "seed {seed}, step {step}");
        }
    }
}
