//! ST15: every way in which a snapshot can be wrong, each refused with its own error.

use super::file::write_head;
use super::*;
use crate::chain::{ChainHandle, ChainOptions};
use crate::clock::ManualClock;
use crate::store::MemoryStore;
use crate::testing::{self, ChainBuilder, height};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::codec::CodecError;
use setara_core::hash::{BlockHash, Hash256, TxId};
use setara_core::lattice::{BUCKET_BYTES, Lattice, LatticeError, element};
use setara_core::network::Network;
use setara_core::snapshot::DEPTH_MIN;
use setara_core::transaction::Output;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BASE: u32 = 20;

struct Lab {
    network: Arc<Network>,
    ledger: ChainBuilder,
    chain: ChainHandle,
    folder: tempfile::TempDir,
}

impl Lab {
    /// So many empty blocks stand on the one after the base.
    fn new(above: u32) -> Self {
        let network = testing::funded_network(6, testing::coins(50));
        let mut ledger = ChainBuilder::new(&network);
        for _ in 0..BASE + 1 {
            let coin = ledger.spendable().into_iter().max_by_key(|(_, coin)| coin.output.amount).unwrap();
            let part = Amount::from_sen(coin.1.output.amount.sen() / 40);
            let outputs: Vec<_> = (0..40).map(|to| (testing::address(to % 6), part)).collect();
            let payment = ledger.spend(&[coin], &outputs);
            ledger.mine(vec![payment]);
        }
        ledger.mine_empty(above);
        let clock = Arc::new(ManualClock::new(u64::from(network.genesis_time) + 1_000_000));
        let chain = testing::inline(&network, Arc::new(MemoryStore::new()), clock);
        for block in &ledger.blocks[1..] {
            chain.submit(block.clone()).unwrap();
        }
        Self { network, ledger, chain, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn dump(&self, base: u32) -> PathBuf {
        let path = self.path(&format!("base{base}"));
        dump(&self.chain.view(), height(base), &path).unwrap();
        path
    }

    fn check(&self, path: &Path) -> Result<(), LoadError> {
        SnapshotFile::open(path)?.check(&self.network, self.chain.headers())
    }

    /// What comes of a snapshot with another manifest or other coins.
    fn check_with(
        &self,
        change: impl FnOnce(&mut Manifest, &mut Vec<[u8; ELEMENT_BYTES]>, &mut Vec<u8>),
    ) -> Result<(), LoadError> {
        let file = SnapshotFile::open(&self.path(&format!("base{BASE}"))).unwrap();
        let mut manifest = file.manifest.clone();
        let mut coins: Vec<_> = file.elements().unwrap().map(Result::unwrap).collect();
        let mut rest = Vec::new();
        change(&mut manifest, &mut coins, &mut rest);
        let mut bytes = Vec::new();
        write_head(&mut bytes, &manifest).unwrap();
        bytes.extend(coins.as_flattened());
        bytes.extend(rest);
        let path = self.path("changed");
        std::fs::write(&path, bytes).unwrap();
        self.check(&path)
    }
}

fn wrong(result: Result<(), LoadError>) -> SnapshotError {
    match result {
        Err(LoadError::Wrong(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// A manifest's buckets with one of them changed.
fn with_bucket(
    coins: &Lattice,
    bucket: u8,
    change: impl FnOnce(&mut [u8; BUCKET_BYTES]),
) -> Result<Lattice, LatticeError> {
    let mut buckets: Vec<_> = (0..=u8::MAX).map(|number| (number, coins.bucket_bytes(number))).collect();
    change(&mut buckets[usize::from(bucket)].1);
    Lattice::from_buckets(buckets)
}

#[test]
fn st15_every_wrong_snapshot_is_refused_with_its_own_error() {
    let lab = Lab::new(DEPTH_MIN - 1);
    let path = lab.dump(BASE);
    assert_eq!(lab.check(&path), Ok(()));
    let whole = std::fs::read(&path).unwrap();
    let manifest = SnapshotFile::open(&path).unwrap().manifest;
    assert_eq!(
        manifest.coins.count() as usize * ELEMENT_BYTES + setara_core::codec::encode(&manifest).len() + 14,
        whole.len()
    );
    let changed = |bytes: &[u8]| {
        std::fs::write(lab.path("bytes"), bytes).unwrap();
        lab.check(&lab.path("bytes"))
    };

    // The file.
    assert!(matches!(lab.check(&lab.path("nothing")), Err(LoadError::File { .. })));
    for length in [0, 7, 13] {
        assert!(matches!(changed(&whole[..length]), Err(LoadError::NotASnapshot(_))), "{length}");
    }
    assert!(matches!(changed(&[&b"SETARAXX"[..], &whole[8..]].concat()), Err(LoadError::NotASnapshot(_))));
    let newer = [&whole[..8], &[2, 0], &whole[10..]].concat();
    assert!(matches!(changed(&newer), Err(LoadError::NewerFormat { found: 2, .. })));
    let short = wrong(changed(&whole[..5_000]));
    assert_eq!(short, SnapshotError::Undecodable(CodecError::Truncated));

    // Whose coins, and after which block.
    let other = Network::dev().genesis_hash();
    let error = wrong(lab.check_with(|manifest, _, _| manifest.genesis = other));
    assert_eq!(error, SnapshotError::WrongNetwork { found: other, expected: lab.network.genesis_hash() });
    let hash = BlockHash::from_bytes([7; 32]);
    let error = wrong(lab.check_with(|manifest, _, _| manifest.base_hash = hash));
    assert_eq!(error, SnapshotError::OffChain { hash, height: height(BASE) });
    let error = wrong(lab.check_with(|manifest, _, _| manifest.base = height(BASE + 1)));
    assert_eq!(error, SnapshotError::OffChain { hash: manifest.base_hash, height: height(BASE + 1) });
    let shallow = lab.dump(BASE + 1);
    let best = height(lab.ledger.height());
    assert_eq!(wrong(lab.check(&shallow)), SnapshotError::Shallow { base: height(BASE + 1), best });

    // The commitment.
    let earlier = lab.ledger.blocks[BASE as usize].coinbase.clone();
    let error = wrong(lab.check_with(|manifest, _, _| manifest.coinbase = earlier));
    assert_eq!(error, SnapshotError::CoinbaseHeight { found: height(BASE), expected: height(BASE + 1) });
    let error = wrong(lab.check_with(|manifest, _, _| manifest.coinbase.coins_root = Hash256::from_bytes([1; 32])));
    assert!(matches!(error, SnapshotError::CoinbaseBranch { .. }), "{error}");
    let error = wrong(lab.check_with(|manifest, _, _| manifest.branch.clear()));
    assert!(matches!(error, SnapshotError::CoinbaseBranch { .. }), "{error}");
    let full = (0..=u8::MAX).find(|bucket| manifest.bucket_count(*bucket) > 2).unwrap();
    let error = wrong(lab.check_with(|manifest, _, _| {
        manifest.coins = with_bucket(&manifest.coins, full, |bytes| bytes[0] ^= 1).unwrap();
    }));
    assert!(matches!(error, SnapshotError::WrongRoot { .. }), "{error}");
    let empty = (0..=u8::MAX).find(|bucket| manifest.bucket_count(*bucket) == 0).unwrap();
    let at = 14 + setara_core::codec::encode(&manifest).len() - (256 - usize::from(empty)) * BUCKET_BYTES;
    let mut broken = whole.clone();
    broken[at] = 1;
    assert_eq!(wrong(changed(&broken)), SnapshotError::Bucket(LatticeError::NotEmpty(empty)));

    // The coins.
    let last = (0..=u8::MAX).rev().find(|bucket| manifest.bucket_count(*bucket) > 0).unwrap();
    let truncated = SnapshotError::Truncated { bucket: last, missing: 1 };
    assert_eq!(wrong(lab.check_with(|_, coins, _| coins.truncate(coins.len() - 1))), truncated);
    assert_eq!(wrong(changed(&whole[..whole.len() - 1])), truncated);
    let trailing = SnapshotError::Trailing { bucket: u8::MAX };
    assert_eq!(wrong(lab.check_with(|_, _, rest| rest.push(0))), trailing);
    assert_eq!(wrong(lab.check_with(|_, coins, _| coins.push(coins[0]))), trailing);
    // Where the bucket with several coins begins.
    let first = (0..full).map(|bucket| manifest.bucket_count(bucket) as usize).sum::<usize>();
    let error = wrong(lab.check_with(|_, coins, _| coins[first + 1] = coins[first]));
    assert!(matches!(error, SnapshotError::Repeated { bucket, .. } if bucket == full), "{error}");
    let error = wrong(lab.check_with(|_, coins, _| coins.swap(first, first + 1)));
    assert!(matches!(error, SnapshotError::Order { bucket, .. } if bucket == full), "{error}");
    let error = wrong(lab.check_with(|_, coins, _| coins[first][0] = full.wrapping_add(1)));
    assert!(matches!(error, SnapshotError::OtherBucket { bucket, .. } if bucket == full), "{error}");
    let error = wrong(lab.check_with(|_, coins, _| coins[first][36] ^= 1));
    assert_eq!(error, SnapshotError::WrongCoins { bucket: full });
    for (field, at, value) in [("amount", 36..44, 0), ("height", 76..80, 0xff), ("mark of a coinbase", 80..81, 2)] {
        let error = wrong(lab.check_with(|_, coins, _| coins[first][at].fill(value)));
        assert!(matches!(error, SnapshotError::BadCoin { field: found, .. } if found == field), "{error}");
    }
}

/// 65,536 copies of one coin add nothing to a lattice, so it alone would let them pass.
#[test]
fn st15_many_copies_of_one_coin_are_refused() {
    let lab = Lab::new(0);
    let coin = Coin {
        output: Output { amount: Amount::from_sen(1), address: Address::from_bytes([3; 32]) },
        height: height(1),
        from_coinbase: false,
    };
    let outpoint = OutPoint::new(TxId::from_bytes([0; 32]), 0);
    let mut bytes = [0; BUCKET_BYTES];
    let (count, sum) = (65_536u64, 65_536u64);
    bytes[BUCKET_BYTES - 16..BUCKET_BYTES - 8].copy_from_slice(&count.to_le_bytes());
    bytes[BUCKET_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
    let mut manifest = SnapshotFile::open(&lab.dump(BASE)).unwrap().manifest;
    manifest.coins = Lattice::from_buckets([(0, bytes)]).unwrap();
    let mut copies = std::iter::repeat_n(Ok(element(&outpoint, &coin)), 65_536);
    let error = wrong(walk(&manifest, &mut copies, &mut |_, _| Ok(())));
    assert_eq!(error, SnapshotError::Repeated { bucket: 0, outpoint });
}

/// A miner with all the work in the world can commit to any coins, but not to more than can have been issued.
#[test]
fn st15_more_money_than_can_have_been_issued_is_refused() {
    let lab = Lab::new(0);
    let mut manifest = SnapshotFile::open(&lab.dump(BASE)).unwrap().manifest;
    let mut next = lab.ledger.blocks[BASE as usize + 1].header;
    let max = lab.network.allocated() + u128::from(BASE) * u128::from(testing::coins(5).sen());
    let bucket = (0..=u8::MAX).find(|bucket| manifest.bucket_count(*bucket) > 0).unwrap();
    for (more, refused) in [(0u64, false), (u64::MAX / 2, true)] {
        manifest.coins = with_bucket(&manifest.coins, bucket, |bytes| {
            let sum = bytes.last_chunk_mut::<8>().unwrap();
            *sum = u64::from_le_bytes(*sum).saturating_add(more).to_le_bytes();
        })
        .unwrap();
        manifest.coinbase.coins_root = manifest.coins.root();
        manifest.branch.clear();
        next.merkle_root = manifest.coinbase.wtxid().hash();
        let result = manifest.check(&lab.network, &next);
        match result {
            Err(SnapshotError::TooMuch { max: found, .. }) => assert!(refused && found == max),
            other => assert!(other.is_ok() && !refused, "{other:?}"),
        }
    }
}

/// A snapshot is made within the memory that the chain has for it, and one at a time.
#[test]
fn a_snapshot_is_made_within_its_share_of_memory() {
    let lab = Lab::new(0);
    let blocks = &lab.ledger.blocks[BASE as usize - 2..];
    // As the walk back sees them: made and spent again counts once.
    let changed: BTreeSet<OutPoint> = lab.ledger.deltas[BASE as usize - 2..]
        .iter()
        .flat_map(|delta| {
            let created = delta.created().iter().map(|(outpoint, _)| *outpoint);
            created.chain(delta.spent().iter().map(|(outpoint, _)| *outpoint)).collect::<Vec<_>>()
        })
        .collect();
    assert!(changed.len() > 40 * (blocks.len() - 1));
    for (dump_changes, enough) in [(changed.len(), true), (changed.len() - 1, false)] {
        let options = ChainOptions { coin_cache_bytes: 1 << 20, dump_changes, ..ChainOptions::default() };
        let clock = Arc::new(ManualClock::new(u64::from(lab.network.genesis_time) + 1_000_000));
        let verifier = testing::verifier(&lab.network);
        let chain = ChainHandle::inline(Arc::new(MemoryStore::new()), verifier, options, clock).unwrap();
        for block in &lab.ledger.blocks[1..] {
            chain.submit(block.clone()).unwrap();
        }
        let make = || dump_in_turn(&chain, height(BASE - 3), &lab.path("within"), &|| true);
        let turn = chain.dump_turn().unwrap();
        assert_eq!(make(), Err(LoadError::Busy));
        drop(turn);
        match make() {
            Ok(_) => assert!(enough),
            Err(LoadError::Base(why)) => assert!(!enough && why.contains("coins changed"), "{why}"),
            Err(error) => panic!("{error}"),
        }
    }
}
