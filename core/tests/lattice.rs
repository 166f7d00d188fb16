//! Committed coins through their public face: golden roots, algebra, damage.

use proptest::prelude::*;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::hash::{Hash256, TxId, sha256};
use setara_core::height::Height;
use setara_core::lattice::{BUCKET_BYTES, Lattice, LatticeDelta, LatticeError, element};
use setara_core::transaction::{Coin, OutPoint, Output};

/// Coin number `n` of the golden set.
fn coin(n: u32) -> (OutPoint, Coin) {
    let txid = TxId::from_bytes(sha256(format!("txid {n}").as_bytes()));
    let address = Address::from_bytes(sha256(format!("address {n}").as_bytes()));
    let amount = Amount::from_sen(100_000_000 * u64::from(n) + 7);
    let output = Output { amount, address };
    (OutPoint::new(txid, n), Coin { output, height: Height::new(1_000 + n), from_coinbase: n % 2 == 1 })
}

fn added(numbers: impl IntoIterator<Item = u32>) -> LatticeDelta {
    let mut delta = LatticeDelta::new();
    for number in numbers {
        let (outpoint, coin) = coin(number);
        delta.add(&outpoint, &coin);
    }
    delta
}

fn lattice_of(numbers: impl IntoIterator<Item = u32>) -> Lattice {
    let mut lattice = Lattice::empty();
    lattice.apply(&added(numbers)).unwrap();
    lattice
}

/// The hash's own bytes, as text in internal order.
fn plain(hash: Hash256) -> String {
    hex::encode(hash.as_bytes())
}

/// From an independent implementation in Python integers.
#[test]
fn roots_have_golden_values() {
    let empty = Lattice::empty();
    assert_eq!(plain(empty.root()), "48f21d85ff8779ebddad35cb291559ee3d7d07ebfc9b2c86481ede0a7f34e580");
    assert_eq!((empty.count(), empty.sum()), (0, 0));
    let one = lattice_of([1]);
    assert_eq!(plain(one.root()), "4490b84ed0eaae37c8ec56fab7950736cc2cb4276bae13bae2c381650b639350");
    let thousand = lattice_of(0..1_000);
    assert_eq!(plain(thousand.root()), "a84ac4061f6c79e7d912efa182a984a347e6475bb291e47915bf90b2ebddc812");
    assert_eq!((thousand.count(), thousand.sum()), (1_000, 100_000_000 * 499_500 + 7_000));
}

#[test]
fn a_coin_has_its_golden_element() {
    let (outpoint, coin) = coin(1);
    assert_eq!(
        hex::encode(element(&outpoint, &coin)),
        "3494a22bc4f7c08d07cf05a7fa15bca6c7a1f096e53434e86dbac347d77020770100000007e1f5050000000041b517c5b1efdb\
         4252b447b945fa10ea4bc4c468cc7b5635e4ab7719d4854385e903000001"
    );
}

/// Every field of a coin is committed to.
#[test]
fn any_other_coin_has_another_root() {
    let (outpoint, coin) = coin(5);
    let root = |outpoint: OutPoint, coin: Coin| {
        let mut delta = LatticeDelta::new();
        delta.add(&outpoint, &coin);
        let mut lattice = Lattice::empty();
        lattice.apply(&delta).unwrap();
        lattice.root()
    };
    let mut roots = vec![root(outpoint, coin)];
    roots.push(root(OutPoint::new(outpoint.txid, 6), coin));
    roots.push(root(OutPoint::new(TxId::ZERO, 5), coin));
    roots.push(root(outpoint, Coin { output: Output { amount: Amount::ZERO, ..coin.output }, ..coin }));
    roots.push(root(outpoint, Coin { output: Output { address: Address::ZERO, ..coin.output }, ..coin }));
    roots.push(root(outpoint, Coin { height: Height::GENESIS, ..coin }));
    roots.push(root(outpoint, Coin { from_coinbase: !coin.from_coinbase, ..coin }));
    let all = roots.len();
    roots.sort();
    roots.dedup();
    assert_eq!(roots.len(), all);
}

#[test]
fn only_touched_buckets_change() {
    let before = lattice_of(0..100);
    let delta = added([777]);
    let number = coin(777).0.txid.as_bytes()[0];
    assert_eq!(delta.touched().collect::<Vec<_>>(), [number]);
    let mut after = before.clone();
    after.apply(&delta).unwrap();
    for bucket in 0..=u8::MAX {
        assert_eq!(before.bucket_bytes(bucket) != after.bucket_bytes(bucket), bucket == number);
    }
    assert_ne!(before.root(), after.root());
    assert_ne!(before, after);
}

#[test]
fn stored_buckets_come_back() {
    let lattice = lattice_of(0..300);
    let buckets = (0..=u8::MAX).map(|number| (number, lattice.bucket_bytes(number)));
    let again = Lattice::from_buckets(buckets).unwrap();
    assert_eq!((again.root(), again.count(), again.sum()), (lattice.root(), lattice.count(), lattice.sum()));
    assert_eq!(again, lattice);
    // Buckets not named are empty.
    let number = coin(1).0.txid.as_bytes()[0];
    let one = lattice_of([1]);
    assert_eq!(Lattice::from_buckets([(number, one.bucket_bytes(number))]).unwrap(), one);
}

#[test]
fn damaged_buckets_are_refused() {
    let good = lattice_of(0..300).bucket_bytes(9);
    let load = |number, bytes: &[u8]| Lattice::from_buckets([(number, bytes)]).map(|lattice| lattice.root());
    for length in [0, 1, BUCKET_BYTES - 16, BUCKET_BYTES - 8, BUCKET_BYTES - 1] {
        assert_eq!(load(9, &good[..length]), Err(LatticeError::Length(9, length as u64)));
    }
    assert_eq!(load(9, &[&good[..], &[0]].concat()), Err(LatticeError::Length(9, BUCKET_BYTES as u64 + 1)));
    let twice = Lattice::from_buckets([(9, good), (9, good)]);
    assert_eq!(twice.err(), Some(LatticeError::Repeated(9)));
    let mut uncounted = good;
    uncounted[BUCKET_BYTES - 16..BUCKET_BYTES - 8].fill(0);
    assert_eq!(load(9, &uncounted), Err(LatticeError::NotEmpty(9)));
    assert_eq!(load(9, &[0; BUCKET_BYTES]), Ok(Lattice::empty().root()));
}

/// More spent than there is, or something else than what is there: an error, and nothing changed.
#[test]
fn impossible_changes_are_refused_whole() {
    let mut lattice = lattice_of([1, 2, 3]);
    let before = lattice.clone();
    let bucket = |number: u32| coin(number).0.txid.as_bytes()[0];

    let absent = added([4]).negate();
    assert_eq!(lattice.apply(&absent), Err(LatticeError::OutOfRange(bucket(4))));
    assert_eq!(lattice, before);

    // The last coin of a bucket leaves, but at another height than it came: lanes stay behind.
    let (outpoint, mut wrong) = coin(1);
    wrong.height = Height::GENESIS;
    let mut delta = LatticeDelta::new();
    delta.subtract(&outpoint, &wrong);
    assert_eq!(lattice.apply(&delta), Err(LatticeError::NotEmpty(bucket(1))));
    assert_eq!(lattice, before);

    // Sums stay within 64 bits.
    let (outpoint, mut rich) = coin(2);
    rich.output.amount = Amount::from_sen(u64::MAX);
    let mut delta = LatticeDelta::new();
    delta.add(&outpoint, &rich);
    assert_eq!(lattice.apply(&delta), Err(LatticeError::OutOfRange(bucket(2))));
    assert_eq!(lattice, before);
}

/// The known weakness of a multiset hash, pinned so that nobody forgets it: importers must refuse repeated outpoints.
#[test]
fn copies_by_the_65536_cancel_in_the_lanes() {
    let mut delta = added([1]);
    for _ in 0..16 {
        delta.merge(delta.clone());
    }
    let mut lattice = Lattice::empty();
    lattice.apply(&delta).unwrap();
    let number = coin(1).0.txid.as_bytes()[0];
    assert!(lattice.bucket_bytes(number)[..2048].iter().all(|byte| *byte == 0));
    assert_eq!(lattice.count(), 65_536);
    assert_ne!(lattice.root(), Lattice::empty().root());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any order, any split among workers: one result.
    #[test]
    fn order_and_split_do_not_matter(
        numbers in proptest::collection::hash_set(0..10_000u32, 1..60),
        keys in proptest::collection::vec(any::<u32>(), 60),
        split in 0..60usize,
    ) {
        let sorted: Vec<u32> = numbers.iter().copied().collect();
        let mut shuffled: Vec<(u32, u32)> = keys.into_iter().zip(sorted.clone()).collect();
        shuffled.sort();
        let shuffled: Vec<u32> = shuffled.into_iter().map(|(_, number)| number).collect();
        let serial = lattice_of(sorted);
        prop_assert_eq!(&lattice_of(shuffled.clone()), &serial);

        let (left, right) = shuffled.split_at(split.min(shuffled.len()));
        let mut merged = added(left.iter().copied());
        merged.merge(added(right.iter().copied()));
        let mut lattice = Lattice::empty();
        lattice.apply(&merged).unwrap();
        prop_assert_eq!(lattice.root(), serial.root());

        // Coin by coin gives the same again, with leaves cached on the way.
        let mut steps = Lattice::empty();
        for number in shuffled {
            steps.apply(&added([number])).unwrap();
            steps.root();
        }
        prop_assert_eq!(steps.root(), serial.root());
        prop_assert_eq!(steps.sum(), serial.sum());
    }

    /// What is added and taken again leaves no trace; a change and its inverse cancel.
    #[test]
    fn subtracting_restores(
        base in proptest::collection::hash_set(0..1_000u32, 0..40),
        more in proptest::collection::hash_set(1_000..2_000u32, 0..40),
    ) {
        let before = lattice_of(base.iter().copied());
        let mut lattice = before.clone();
        let mut delta = added(more.iter().copied());
        for number in &base {
            let (outpoint, coin) = coin(*number);
            delta.subtract(&outpoint, &coin);
        }
        lattice.apply(&delta).unwrap();
        prop_assert_eq!(&lattice, &lattice_of(more));
        lattice.apply(&delta.negate()).unwrap();
        prop_assert_eq!(lattice.root(), before.root());
        prop_assert_eq!(lattice, before);
    }
}
