//! A list that is tested together: each as if those before it had entered, and nothing of it stays.

use super::{Lab, outputs};
use crate::mempool::{PACKAGE_TRANSACTIONS_MAX, PackageError};
use setara_core::transaction::Transaction;

fn codes(lab: &Lab, list: &[&Transaction]) -> Result<Vec<Result<(), &'static str>>, PackageError> {
    let verdicts = lab.pool.test_package(list.iter().map(|transaction| (*transaction).clone()).collect())?;
    Ok(verdicts.into_iter().map(|verdict| verdict.map(|_| ()).map_err(|error| error.code())).collect())
}

#[test]
fn children_are_tested_on_top_of_their_parents_and_nothing_stays() {
    let lab = Lab::new(4);
    let here = lab.pay(&[lab.purse(4)], 2, 10_000);
    lab.accept(&here);
    let parent = lab.pay(&[lab.purse(1), outputs(&here)[0]], 2, 10_000);
    let child = lab.pay(&outputs(&parent)[..1], 1, 20_000);
    let grandchild = lab.pay(&outputs(&child), 1, 5_000);
    let list = [&parent, &child, &grandchild];
    let before = (lab.txids(), lab.pool.info(), lab.pool.estimate(2));
    for _ in 0..3 {
        assert_eq!(codes(&lab, &list), Ok(vec![Ok(()); 3]));
        assert_eq!((lab.txids(), lab.pool.info(), lab.pool.estimate(2)), before);
    }
    // Without its parent a child hangs in the air.
    assert_eq!(codes(&lab, &[&child, &grandchild]), Ok(vec![Err("missing-inputs"); 2]));
    // And the verdict was right.
    for transaction in list {
        lab.accept(transaction);
    }
}

#[test]
fn what_hangs_on_a_refused_one_is_refused() {
    let lab = Lab::new(4);
    let poor = lab.pay(&[lab.purse(1)], 2, 1);
    let child = lab.pay(&outputs(&poor)[..1], 1, 90_000);
    let other = lab.pay(&[lab.purse(2)], 1, 10_000);
    let verdicts = codes(&lab, &[&poor, &child, &other]).unwrap();
    assert_eq!(verdicts, [Err("min relay fee not met"), Err("missing-inputs"), Ok(())]);
    assert_eq!(lab.txids(), []);
}

#[test]
fn a_list_replaces_nothing() {
    let lab = Lab::new(4);
    let here = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.accept(&here);
    let richer = lab.pay(&[lab.purse(1)], 2, 900_000);
    let other = lab.pay(&[lab.purse(2)], 1, 10_000);
    assert!(lab.pool.test(richer.clone()).is_ok());
    assert_eq!(codes(&lab, &[&richer, &other]), Ok(vec![Err("bip125-replacement-disallowed"), Ok(())]));
    assert_eq!(codes(&lab, &[&other, &here]), Ok(vec![Ok(()), Err("txn-already-in-mempool")]));
    assert_eq!(lab.txids(), [here.txid()]);
}

#[test]
fn a_list_that_makes_no_sense_is_refused_as_a_whole() {
    let lab = Lab::new(40);
    let parent = lab.pay(&[lab.purse(1)], 2, 10_000);
    let child = lab.pay(&outputs(&parent)[..1], 1, 20_000);
    let rival = lab.pay(&[lab.purse(1)], 1, 20_000);
    assert_eq!(codes(&lab, &[&child, &parent]), Err(PackageError::NotSorted));
    assert_eq!(codes(&lab, &[&parent, &child, &parent]), Err(PackageError::Duplicates));
    assert_eq!(codes(&lab, &[&parent, &rival]), Err(PackageError::Conflict));
    let many: Vec<Transaction> = (1..=40).map(|number| lab.pay(&[lab.purse(number)], 1, 10_000)).collect();
    let many: Vec<&Transaction> = many.iter().take(PACKAGE_TRANSACTIONS_MAX + 1).collect();
    assert_eq!(codes(&lab, &many), Err(PackageError::TooMany));
    assert_eq!(codes(&lab, &many[1..]), Ok(vec![Ok(()); PACKAGE_TRANSACTIONS_MAX]));
    let large = [lab.pay(&[lab.purse(1)], 1_500, 200_000), lab.pay(&[lab.purse(2)], 1_500, 200_000)];
    assert_eq!(codes(&lab, &[&large[0], &large[1]]), Err(PackageError::TooLarge));
}
