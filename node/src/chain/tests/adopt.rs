//! Beginning with a snapshot: the chain goes on from it, restarts, survives every failing write, and stops when its
//! history turns out wrong.

use super::*;
use crate::snapshot::{LoadError, SnapshotFile, dump};
use crate::store::Store;
use crate::store::schema::SnapshotStage;
use crate::testing::height;
use setara_core::codec::encode;

/// Height after whose block the coins are.
const BASE: u32 = 30;
/// Blocks that are here before the snapshot comes.
const HERE: usize = 5;

/// A chain with payments, its ledger at the base, and its snapshot.
struct Source {
    network: Arc<Network>,
    ledger: ChainBuilder,
    base: ChainBuilder,
    file: SnapshotFile,
    _folder: tempfile::TempDir,
}

impl Source {
    fn new() -> Self {
        let network = testing::funded_network(6, testing::coins(50));
        let mut ledger = ChainBuilder::new(&network);
        let mut base = None;
        for number in 0..BASE + 12 {
            let coin = ledger.spendable().into_iter().max_by_key(|(_, coin)| coin.output.amount).unwrap();
            let half = Amount::from_sen(coin.1.output.amount.sen() / 2);
            let payment = ledger.spend(&[coin], &[(testing::address(number % 6), half), (testing::address(2), half)]);
            ledger.mine(vec![payment]);
            if ledger.height() == BASE {
                base = Some(ledger.clone());
            }
        }
        let mut rig = Rig::new(&network);
        submit_all(&mut rig, &ledger.blocks[1..]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coins");
        let dumped = dump(&rig.core.shared.view(), height(BASE), &path).unwrap();
        let base = base.unwrap();
        assert_eq!((dumped.coins, dumped.coins_root), (base.coins.len() as u64, base.state.coins_root));
        let file = SnapshotFile::open(&path).unwrap();
        Self { network, ledger, base, file, _folder: folder }
    }

    /// A node with all headers and a few blocks.
    fn newcomer(&self, store: MemoryStore) -> Rig {
        let mut rig = Rig::over(&self.network, store, testing::verifier(&self.network)).unwrap();
        let headers: Vec<_> = self.ledger.blocks[1..].iter().map(|block| block.header).collect();
        let now = rig.now();
        rig.core.submit_headers(&headers, now).unwrap();
        submit_all(&mut rig, &self.ledger.blocks[1..=HERE]);
        rig
    }

    fn adopt(&self, rig: &mut Rig) -> Result<(), LoadError> {
        let now = rig.now();
        rig.core.adopt(&self.file.manifest, self.file.elements().unwrap(), now)
    }
}

/// Coins, heights, lattice and tip are those of a replay.
fn assert_coins(rig: &Rig, ledger: &ChainBuilder) {
    assert_eq!(rig.core.tip(), &ledger.state);
    assert_eq!(schema::tip(&rig.store).unwrap(), Some(ledger.state));
    let (coins, lattice) = stored_coins(&rig.store).unwrap();
    assert!(coins == ledger.coins && lattice == ledger.lattice);
    let heights: Vec<_> = rig.store.rows(Column::Heights).into_iter().map(|(_, hash)| hash).collect();
    let expected: Vec<_> = ledger.blocks.iter().map(|block| block.hash().as_bytes().to_vec()).collect();
    assert_eq!(heights, expected);
}

#[test]
fn a_chain_goes_on_from_a_snapshot_as_if_it_had_seen_all() {
    let source = Source::new();
    let mut rig = source.newcomer(MemoryStore::new());
    source.adopt(&mut rig).unwrap();
    assert_coins(&rig, &source.base);
    let view = rig.core.shared.view();
    assert_eq!((view.bodies_from(), view.tip.height()), (height(BASE + 1), height(BASE)));
    assert_eq!(view.snapshot().unwrap().stage, SnapshotStage::Unverified);
    assert!(view.block(&source.ledger.blocks[2].hash()).unwrap().is_none(), "what was here went as well");
    assert_eq!(source.adopt(&mut rig), Err(LoadError::Again));
    // The blocks above are asked for, and no others.
    let missing = rig.core.tree.reader().missing_bodies(&source.ledger.tip(), 1_000, 1_000);
    assert_eq!(missing.first().map(|point| point.height), Some(height(BASE + 1)));
    let mut rig = rig.reopen();
    assert_coins(&rig, &source.base);
    submit_all(&mut rig, &source.ledger.blocks[BASE as usize + 1..]);
    assert_coins(&rig, &source.ledger);
    let mut rig = rig.reopen();
    assert_coins(&rig, &source.ledger);
    // Nothing below the base can be taken back.
    let (now, below) = (rig.now(), source.ledger.blocks[BASE as usize].hash());
    assert_eq!(rig.core.invalidate(&below, now), Err(SubmitError::Pruned(below)));
    let first_above = source.ledger.blocks[BASE as usize + 1].hash();
    rig.core.invalidate(&first_above, now).unwrap();
    assert_coins(&rig, &source.base);
    rig.core.reconsider(&first_above, now).unwrap();
    assert_coins(&rig, &source.ledger);

    rig.core.finish_history(Ok(())).unwrap();
    let mut rig = rig.reopen();
    assert_eq!(rig.core.shared.view().snapshot().unwrap().stage, SnapshotStage::Verified);
    assert_coins(&rig, &source.ledger);
    let mut longer = source.ledger.clone();
    submit_all(&mut rig, &longer.mine_empty(2));
    assert_coins(&rig, &longer);
}

/// ST15: a history that turns out wrong stops the chain, in words, and nothing is written any more.
#[test]
fn st15_a_wrong_history_stops_the_chain() {
    let source = Source::new();
    let mut rig = source.newcomer(MemoryStore::new());
    source.adopt(&mut rig).unwrap();
    let error = rig.core.finish_history(Err("block 7 breaks a rule".to_owned())).unwrap_err().to_string();
    assert!(error.contains("block 7 breaks a rule") && error.contains("sync without a snapshot"), "{error}");
    assert!(matches!(rig.core.fault(), Some(ChainFault::Snapshot(_))));
    assert!(matches!(rig.submit(&source.ledger.blocks[BASE as usize + 1]), Err(SubmitError::Fault(_))));
}

#[test]
fn a_chain_that_is_past_the_base_keeps_its_coins() {
    let source = Source::new();
    let mut rig = source.newcomer(MemoryStore::new());
    submit_all(&mut rig, &source.ledger.blocks[HERE + 1..=BASE as usize]);
    assert_eq!(source.adopt(&mut rig), Err(LoadError::Late { tip: height(BASE), base: height(BASE) }));
    assert_coins(&rig, &source.base);
    assert_eq!(rig.core.fault(), None);
}

/// Whichever write fails, and whatever of the unsynced ones the power takes: the next start has the chain of before, or
/// that of the snapshot, and the snapshot can be loaded then.
#[test]
fn a_failing_write_amid_a_snapshot_leaves_a_sound_chain() {
    let source = Source::new();
    let mut before = ChainBuilder::new(&source.network);
    source.ledger.blocks[1..=HERE].iter().for_each(|block| before.apply(block).unwrap());
    for failing in 1.. {
        let mut done = false;
        for kept in 0..3 {
            let mut rig = source.newcomer(MemoryStore::new());
            let now = rig.now();
            rig.core.flush(now).unwrap();
            rig.store.faults().fail_write(failing);
            let adopted = source.adopt(&mut rig);
            done = adopted.is_ok();
            assert_eq!(rig.core.fault().is_none(), done, "{adopted:?}");
            let left = rig.store.crash(kept);
            let Rig { network, verifier, .. } = rig;
            let mut rig = Rig::over(&network, left, verifier).unwrap();
            if rig.core.tip().height() == height(BASE) {
                assert_coins(&rig, &source.base);
            } else {
                assert_coins(&rig, &before);
                let headers: Vec<_> = source.ledger.blocks[1..].iter().map(|block| block.header).collect();
                rig.core.submit_headers(&headers, now).unwrap();
                source.adopt(&mut rig).unwrap();
            }
            submit_all(&mut rig, &source.ledger.blocks[BASE as usize + 1..]);
            assert_coins(&rig, &source.ledger);
        }
        if done {
            assert!(failing > 4, "several writes make a snapshot");
            break;
        }
    }
}

/// A file that changes between the check and the load is a fault, and the next start begins at genesis.
#[test]
fn a_file_that_changes_amid_the_load_is_a_fault() {
    let source = Source::new();
    let mut rig = source.newcomer(MemoryStore::new());
    let now = rig.now();
    let short: Vec<_> = source.file.elements().unwrap().take(3).collect();
    let result = rig.core.adopt(&source.file.manifest, Box::new(short.into_iter()), now);
    assert!(matches!(result, Err(LoadError::Chain(SubmitError::Fault(ChainFault::Snapshot(_))))), "{result:?}");
    let rig = rig.reopen();
    assert_eq!(rig.core.tip().height(), height(HERE as u32));
    let bytes = encode(&source.file.manifest);
    assert_eq!(setara_core::snapshot::Manifest::decode(&bytes).as_ref(), Ok(&source.file.manifest));
    rig.store.settle().unwrap();
}
