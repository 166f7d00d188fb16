//! The chain over RocksDB: the same as over memory, and what happens when its files are damaged.

use super::*;
use crate::store::{RocksOptions, RocksStore, Store};
use crate::testing::{ChainBuilder, coins, funded_network};
use std::fs;
use std::path::{Path, PathBuf};

fn open(path: &Path, network: &Arc<Network>, verifier: &Verifier) -> Result<(RocksStore, ChainCore), ChainFault> {
    let store = RocksStore::open(path, &RocksOptions { memory_bytes: 0, ..RocksOptions::default() })?;
    let core = ChainCore::open(Arc::new(store.clone()), verifier.clone(), small(), later(network))?;
    Ok((store, core))
}

fn grow(builder: &mut ChainBuilder, number: usize) -> Block {
    let spendable = builder.spendable();
    let coin = spendable[number % spendable.len()];
    let third = Amount::from_sen(coin.1.output.amount.sen() / 3);
    let transaction = builder.spend(&[coin], &[(testing::address(1), third), (testing::address(2), third)]);
    builder.mine(vec![transaction])
}

/// Everything that the store tells is the builder's, or an error; whether nothing was an error.
fn tells_the_truth(store: &RocksStore, builder: &ChainBuilder) -> bool {
    let mut whole = true;
    match stored_coins(store) {
        Ok((coins, _)) => assert_eq!(coins, builder.coins),
        Err(_) => whole = false,
    }
    for (block, delta) in builder.blocks.iter().zip(&builder.deltas) {
        match schema::block(store, &block.hash()) {
            Ok(stored) => assert_eq!(stored.as_ref(), Some(block)),
            Err(_) => whole = false,
        }
        match schema::undo(store, &block.hash()) {
            Ok(stored) => assert_eq!(stored.as_ref(), Some(delta)),
            Err(_) => whole = false,
        }
    }
    whole
}

#[test]
fn disk_chain_survives_restarts_and_reorganisations() {
    let directory = tempfile::tempdir().unwrap();
    let network = funded_network(6, coins(100));
    let verifier = testing::verifier(&network);
    let mut main = ChainBuilder::new(&network);
    for round in 0..4u8 {
        let (store, mut core) = open(directory.path(), &network, &verifier).unwrap();
        assert_eq!(core.tip(), &main.state);
        assert!(tells_the_truth(&store, &main));
        let mut side = main.clone();
        side.extra = vec![round + 1];
        for number in 0..3 {
            core.submit(grow(&mut main, number), Origin::Wanted, later(&network)).unwrap();
        }
        for number in 0..4 {
            core.submit(grow(&mut side, number + 1), Origin::Wanted, later(&network)).unwrap();
        }
        assert_eq!(core.tip(), &side.state);
        assert!(tells_the_truth(&store, &side));
        main = side;
        main.extra.clear();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// ST3: each file of the database in turn deleted, truncated, or with a byte flipped at its start, middle and end. The
/// chain opens to a prefix of what was there, or is refused in words; it never tells what is not so.
#[test]
fn st3_each_damaged_file_is_recovered_from_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole");
    let network = funded_network(6, coins(100));
    let verifier = testing::verifier(&network);
    let mut builder = ChainBuilder::new(&network);
    let mut at = BTreeMap::from([(builder.tip(), builder.clone())]);
    // Opened several times, so that part of it is in tables and blobs, and the newest part in the log.
    for round in 0..3 {
        let (_, mut core) = open(&whole, &network, &verifier).unwrap();
        for number in 0..3 {
            // Bodies large enough for a blob.
            let coin = builder.spendable()[round + number];
            let share = Amount::from_sen(coin.1.output.amount.sen() / 200);
            let outputs = vec![(testing::address(1), share); 150];
            let block = builder.mine(vec![builder.spend(&[coin], &outputs)]);
            core.submit(block, Origin::Wanted, later(&network)).unwrap();
            at.insert(builder.tip(), builder.clone());
        }
    }
    let files: Vec<PathBuf> = fs::read_dir(&whole).unwrap().map(|entry| entry.unwrap().path()).collect();
    let kinds =
        |extension: &str| files.iter().filter(|file| file.extension().is_some_and(|found| found == extension)).count();
    assert!(kinds("sst") > 3 && kinds("blob") > 1 && kinds("log") > 0, "{files:?}");
    let (mut refused, mut recovered) = (0, 0);
    for file in &files {
        let name = file.file_name().unwrap();
        let length = fs::metadata(file).unwrap().len() as usize;
        let flips = [0, length / 3, length / 2, length.saturating_sub(1)].into_iter().map(|place| (place, "flip"));
        let cuts = [0, length / 2, length.saturating_sub(1)].into_iter().map(|place| (place, "truncate"));
        for (place, damage) in flips.chain(cuts).chain([(0, "delete")]) {
            if length == 0 && damage != "delete" {
                continue;
            }
            let path = directory.path().join("damaged");
            copy(&whole, &path);
            let target = path.join(name);
            let mut bytes = fs::read(&target).unwrap();
            match damage {
                "flip" => {
                    bytes[place] ^= 0x20;
                    fs::write(&target, bytes).unwrap();
                }
                "truncate" => fs::write(&target, &bytes[..place]).unwrap(),
                _ => fs::remove_file(&target).unwrap(),
            }
            match open(&path, &network, &verifier) {
                Ok((store, core)) => {
                    let ledger = at.get(&core.tip().hash()).unwrap_or_else(|| {
                        panic!("{damage} at {place} of {name:?} opened to a chain that never was: {:?}", core.tip())
                    });
                    assert_eq!(core.tip(), &ledger.state, "{damage} at {place} of {name:?}");
                    tells_the_truth(&store, ledger);
                    recovered += 1;
                }
                Err(fault) => {
                    assert!(fault.to_string().len() > 20, "{fault}");
                    refused += 1;
                }
            }
            fs::remove_dir_all(&path).unwrap();
        }
    }
    assert!(refused > 0 && recovered > 0, "{refused} refused, {recovered} recovered");
}

/// ST8: a directory of another network is refused by name.
#[test]
fn st8_another_networks_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let network = funded_network(6, coins(100));
    drop(open(directory.path(), &network, &testing::verifier(&network)).unwrap());
    let other = funded_network(5, coins(100));
    let error = open(directory.path(), &other, &testing::verifier(&other)).err().unwrap();
    assert!(error.to_string().contains(&network.genesis_hash().to_string()), "{error}");
}

/// ST5: on a disk without room the chain stops before it writes, condemns nothing, and goes on when there is room.
#[test]
fn st5_a_full_disk_stops_the_chain_before_it_writes() {
    let directory = tempfile::tempdir().unwrap();
    let network = funded_network(6, coins(100));
    let verifier = testing::verifier(&network);
    let mut builder = ChainBuilder::new(&network);
    let (store, core) = open(directory.path(), &network, &verifier).unwrap();
    drop(core);
    let space = crate::store::SpaceCheck::new(directory.path()).with_needed(u64::MAX);
    let options = ChainOptions { space: Some(space), ..small() };
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let mut core = ChainCore::open(shared.clone(), verifier.clone(), options, later(&network)).unwrap();
    let genesis = builder.clone();
    let block = grow(&mut builder, 0);
    let error = core.submit(block.clone(), Origin::Wanted, later(&network)).unwrap_err();
    assert!(matches!(error, SubmitError::Fault(ChainFault::Store(StoreError::DiskFull { .. }))), "{error}");
    assert!(tells_the_truth(&store, &genesis));
    drop(core);
    let mut core = ChainCore::open(shared, verifier, small(), later(&network)).unwrap();
    core.submit(block, Origin::Wanted, later(&network)).unwrap();
    assert!(tells_the_truth(&store, &builder));
}
