//! The file: what comes back after a restart, and what a damaged or hostile file can do, which is nothing.

use super::{Lab, outputs};
use crate::mempool::{Loaded, Options, PersistError};
use crate::testing::{break_signature, coins, funded_network, network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::hash::sha256;
use std::fs;
use std::time::Duration;

const NEVER: &dyn Fn() -> bool = &|| false;

#[test]
fn what_was_waiting_comes_back_in_order_with_its_times() {
    let mut lab = Lab::new(8);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mempool.dat");
    assert_eq!(lab.pool.load(&path, NEVER).unwrap(), Loaded::default());
    let old = lab.pay(&[lab.purse(1)], 1, 10_000);
    let mined = lab.pay(&[lab.purse(2)], 1, 10_000);
    let parent = lab.pay(&[lab.purse(3)], 2, 1_000);
    let child = lab.pay(&outputs(&parent)[..1], 1, 50_000);
    lab.accept(&old);
    lab.accept(&mined);
    lab.clock.advance(Duration::from_secs(3_600));
    lab.accept(&parent);
    lab.accept(&child);
    assert_eq!(lab.pool.save(&path).unwrap(), 4);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing beside the file is left");

    let again = lab.beside(Options::default());
    assert_eq!(again.pool.load(&path, NEVER).unwrap(), Loaded { accepted: 4, ..Loaded::default() });
    let key = |entry: crate::mempool::EntryInfo| (entry.ids, entry.time, entry.depends);
    let ours: Vec<_> = lab.pool.entries().into_iter().map(key).collect();
    assert_eq!(again.pool.entries().into_iter().map(key).collect::<Vec<_>>(), ours);

    // A block and 335.5 hours later: one was mined, one is too old.
    lab.mine(vec![mined]);
    lab.clock.advance(Duration::from_secs(335 * 3_600 + 1_800));
    let later = lab.beside(Options::default());
    let loaded = later.pool.load(&path, NEVER).unwrap();
    assert_eq!(loaded, Loaded { accepted: 2, refused: 0, expired: 2, left: 0 });
    assert_eq!(later.txids(), [parent.txid(), child.txid()]);
    let stopped = lab.beside(Options::default());
    assert_eq!(stopped.pool.load(&path, &|| true).unwrap().left, 4);
    assert!(stopped.txids().is_empty());
}

/// MP13: the right checksum does not help: every transaction is judged anew.
#[test]
fn a_hostile_file_brings_in_nothing_invalid() {
    let lab = Lab::new(4);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mempool.dat");
    let good = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.accept(&good);
    lab.pool.save(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let encoded = setara_core::codec::encode(&good);
    let mut bad = good.clone();
    break_signature(&mut bad);
    let bad = setara_core::codec::encode(&bad);
    let place = bytes.windows(encoded.len()).position(|window| window == encoded).unwrap();
    bytes[place..place + bad.len()].copy_from_slice(&bad);
    // A time from the future, which must not keep it for ever.
    bytes[place - 12..place - 4].copy_from_slice(&u64::MAX.to_le_bytes());
    let end = bytes.len() - 32;
    let checksum = sha256(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum);
    fs::write(&path, &bytes).unwrap();
    let again = lab.beside(Options::default());
    assert_eq!(again.pool.load(&path, NEVER).unwrap(), Loaded { refused: 1, ..Loaded::default() });
    assert!(again.txids().is_empty());
    assert!(
        !again
            .known
            .contains(&setara_core::codec::decode::<setara_core::transaction::Transaction>(&bad).unwrap().wtxid())
    );
}

/// MP13: every truncation and any damage, with and without a checksum made to fit.
#[test]
fn a_damaged_file_is_an_error_never_more() {
    let lab = Lab::new(4);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mempool.dat");
    let parent = lab.pay(&[lab.purse(1)], 2, 10_000);
    lab.accept(&parent);
    lab.accept(&lab.pay(&outputs(&parent)[..1], 1, 50_000));
    lab.pool.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let fresh = lab.beside(Options::default());
    let mut random = StdRng::seed_from_u64(13);
    for length in (0..600).chain([bytes.len() - 33, bytes.len() - 32, bytes.len() - 1]) {
        fs::write(&path, &bytes[..length.min(bytes.len() - 1)]).unwrap();
        assert!(fresh.pool.load(&path, NEVER).is_err(), "{length}");
    }
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        let place = random.random_range(0..damaged.len());
        damaged[place] ^= 1 << random.random_range(0..8);
        fs::write(&path, &damaged).unwrap();
        assert!(fresh.pool.load(&path, NEVER).is_err(), "byte {place}");
        assert!(fresh.txids().is_empty());
    }
    // With a checksum that fits, whatever is inside: an error, or transactions that are good.
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        let end = damaged.len() - 32;
        for _ in 0..random.random_range(1..4) {
            let place = random.random_range(0..700.min(end));
            damaged[place] = random.random();
        }
        damaged.truncate(end - random.random_range(0..2) * random.random_range(0..end));
        let checksum = sha256(&damaged);
        damaged.extend(checksum);
        fs::write(&path, &damaged).unwrap();
        let victim = lab.beside(Options::default());
        let _ = victim.pool.load(&path, NEVER);
        let here: Vec<_> = lab.txids();
        assert!(victim.txids().iter().all(|txid| here.contains(txid)), "only what is valid");
    }
}

/// MP13.
#[test]
fn other_versions_and_networks_are_named() {
    let lab = Lab::new(2);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mempool.dat");
    lab.pool.save(&path).unwrap();
    let elsewhere = Lab::with(network(|parameters| parameters.message = "elsewhere".into()), Options::default());
    assert!(matches!(elsewhere.pool.load(&path, NEVER), Err(PersistError::OtherNetwork { .. })));
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(lab.pool.load(&path, NEVER), Err(PersistError::Version { found: 9, .. })));
    fs::write(&path, b"something else entirely, long enough to be read as a head of a file").unwrap();
    assert!(matches!(lab.pool.load(&path, NEVER), Err(PersistError::Damaged { .. })));
    let unwritable = directory.path().join("missing").join("mempool.dat");
    assert!(matches!(lab.pool.save(&unwritable), Err(PersistError::Io { .. })));
}

#[test]
fn a_full_mempool_fits_into_a_smaller_one() {
    let lab = Lab::with(funded_network(200, coins(10)), Options::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mempool.dat");
    for number in 1..=200 {
        lab.accept(&lab.pay(&[lab.purse(number)], 1, 2_000 - u64::from(number)));
    }
    lab.pool.save(&path).unwrap();
    let small = lab.beside(Options { max_bytes: 100_000, ..Options::default() });
    let loaded = small.pool.load(&path, NEVER).unwrap();
    assert!(loaded.refused > 0 && loaded.accepted > 0);
    let info = small.pool.info();
    assert!(info.usage <= info.max_usage);
}
