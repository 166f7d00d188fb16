//! Fee estimates of a running mempool.

use super::Lab;
use crate::mempool::{Options, TARGET_MAX, TARGET_MIN};
use crate::testing::{coins, funded_network};
use setara_core::transaction::Transaction;

/// A mempool that has seen `blocks` blocks of two transactions each, mined at once.
fn taught(blocks: u32, fee: u64) -> Lab {
    let mut lab = Lab::with(funded_network(2 * blocks + 100, coins(10)), Options::default());
    for block in 0..blocks {
        let pair: Vec<Transaction> = (1..=2).map(|side| lab.pay(&[lab.purse(2 * block + side)], 1, fee)).collect();
        for transaction in &pair {
            lab.accept(transaction);
        }
        lab.mine(pair);
        let _ = lab.pool.info();
    }
    lab
}

#[test]
fn estimates_come_from_what_was_seen_and_then_mined() {
    let lab = taught(40, 300);
    let size = lab.pay(&[lab.purse(1)], 1, 300).ids().size;
    let estimate = lab.pool.estimate(6).unwrap();
    assert_eq!(estimate.blocks, 6);
    assert!(estimate.sen_per_kilobyte.abs_diff(300 * 1_000 / size) <= 10, "{estimate:?}");
    assert_eq!(lab.pool.estimate(1).unwrap().blocks, TARGET_MIN);
    assert_eq!(lab.pool.estimate(5_000).unwrap().blocks, TARGET_MAX);
}

/// MP13: what was never seen unconfirmed teaches nothing; nor does what came from a file or a reverted block.
#[test]
fn a_miner_cannot_teach_by_stuffing_blocks() {
    let mut lab = Lab::with(funded_network(300, coins(10)), Options::default());
    for block in 0..60 {
        let stuffing: Vec<Transaction> =
            (1..=4).map(|side| lab.pay(&[lab.purse(4 * block + side)], 1, 100_000_000)).collect();
        lab.mine(stuffing);
        let _ = lab.pool.info();
    }
    assert_eq!(lab.pool.estimate(6), None);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mempool.dat");
    let waiting: Vec<Transaction> = (250..300).map(|number| lab.pay(&[lab.purse(number)], 1, 90_000)).collect();
    for transaction in &waiting {
        lab.accept(transaction);
    }
    lab.pool.save(&path).unwrap();
    let mut again = lab.beside(Options::default());
    assert_eq!(again.pool.load(&path, &|| false).unwrap().accepted, 50);
    again.mine(waiting);
    assert_eq!(again.pool.estimate(6), None, "from a file");
}

/// MP13: even a miner who announces its dear transactions first moves no estimate above twice the price of the space
/// that is wanted: here, where every block has room, the floor.
#[test]
fn estimates_are_clamped_by_what_waits() {
    let lab = taught(40, 5_000_000);
    assert_eq!(lab.pool.estimate(6).unwrap().sen_per_kilobyte, 2 * lab.pool.floor());
    let cheap = taught(40, 200);
    let floor = cheap.pool.floor();
    let estimate = cheap.pool.estimate(6).unwrap().sen_per_kilobyte;
    assert!(estimate >= floor && estimate <= 2 * floor, "{estimate}");
}

/// MP13: what was learned survives a restart.
#[test]
fn lessons_are_kept_in_the_file() {
    let lab = taught(40, 300);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mempool.dat");
    lab.pool.save(&path).unwrap();
    let again = lab.beside(Options::default());
    assert_eq!(again.pool.estimate(6), None);
    again.pool.load(&path, &|| false).unwrap();
    assert_eq!(again.pool.estimate(6), lab.pool.estimate(6));
}
