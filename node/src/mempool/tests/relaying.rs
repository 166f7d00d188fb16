//! What relaying asks: packages of a parent and a child, additions since a moment, and what entered before one.

use super::{Lab, outputs};
use crate::mempool::{Moment, Options};
use crate::testing::break_signature;
use setara_core::transaction::Transaction;

fn codes(lab: &Lab, parent: &Transaction, child: &Transaction) -> [Option<&'static str>; 2] {
    lab.pool.submit_package(parent.clone(), child.clone()).map(|verdict| verdict.err().map(|error| error.code()))
}

/// MP4: a parent below the floor enters with a child that pays for both, and only then.
#[test]
fn a_child_pays_for_its_parent() {
    let lab = Lab::new(4);
    let parent = lab.pay(&[lab.purse(1)], 1, 0);
    let child = lab.pay(&outputs(&parent), 1, 10_000);
    assert_eq!(lab.refused(&parent), "min relay fee not met");
    assert_eq!(codes(&lab, &parent, &child), [None, None]);
    assert!(lab.holds(&parent) && lab.holds(&child));
    assert_eq!(lab.pool.select_for_block(1_000_000).transactions.len(), 2);
    // Together they pay too little; or the one does not spend from the other.
    let parent = lab.pay(&[lab.purse(2)], 1, 0);
    let child = lab.pay(&outputs(&parent), 1, 300);
    assert_eq!(codes(&lab, &parent, &child), [Some("mempool min fee not met"), Some("missing-inputs")]);
    let stranger = lab.pay(&[lab.purse(3)], 1, 100_000);
    assert_eq!(codes(&lab, &parent, &stranger), [Some("min relay fee not met"), None]);
    // A parent that pays for itself needs no help, and gives none.
    let parent = lab.pay(&[lab.purse(4)], 1, 10_000);
    let child = lab.pay(&outputs(&parent), 1, 0);
    assert_eq!(codes(&lab, &parent, &child), [None, Some("min relay fee not met")]);
}

/// MP4, MP6: whatever is wrong with one of them, nothing of a package stays, and nothing is pushed out by it.
#[test]
fn a_package_enters_whole_or_not_at_all() {
    let lab = Lab::new(2);
    let parent = lab.pay(&[lab.purse(1)], 1, 0);
    let child = lab.pay(&outputs(&parent), 1, 10_000);
    let mut bad = child.clone();
    break_signature(&mut bad);
    assert_eq!(codes(&lab, &parent, &bad), [Some("mempool min fee not met"), Some("bad-signature")]);
    let mut bad = parent.clone();
    break_signature(&mut bad);
    assert_eq!(codes(&lab, &bad, &child), [Some("bad-signature"), Some("missing-inputs")]);
    assert!(lab.txids().is_empty());
    // A poor parent may not replace, however much its child pays.
    let standing = lab.pay(&[lab.purse(1)], 2, 400);
    lab.accept(&standing);
    let child = lab.pay(&outputs(&parent), 1, 1_000_000);
    assert_eq!(codes(&lab, &parent, &child)[0], Some("insufficient fee"));
    assert_eq!(lab.txids(), [standing.txid()]);
    // A child that fails at the very last takes its parent along.
    let both = [lab.purse(2), outputs(&standing)[0]];
    let parent = lab.pay(&both[..1], 1, 0);
    lab.accept(&lab.pay(&both[1..], 1, 50_000));
    let child = lab.pay(&[outputs(&parent)[0], both[1]], 1, 20_000);
    assert_eq!(codes(&lab, &parent, &child), [Some("mempool min fee not met"), Some("insufficient fee")]);
    assert!(!lab.holds(&parent) && lab.txids().len() == 2);
    let usage = lab.pool.info().usage;
    assert!(usage < Options::default().max_bytes as u64 / 1_000);
}

/// MP12: what a follower has seen it is not given again, and what entered after a moment is not shown by it.
#[test]
fn additions_and_moments() {
    let lab = Lab::new(3);
    let transactions: Vec<Transaction> = (1..=3).map(|number| lab.pay(&[lab.purse(number)], 1, 10_000)).collect();
    let start = lab.pool.added_since(0);
    assert!(start.entered.is_empty() && !start.missed);
    lab.accept(&transactions[0]);
    let moment = lab.pool.moment();
    lab.accept(&transactions[1]);
    let seen = lab.pool.added_since(start.next);
    let wtxids: Vec<_> = seen.entered.iter().map(|(wtxid, _)| *wtxid).collect();
    assert_eq!(wtxids, [transactions[0].wtxid(), transactions[1].wtxid()]);
    lab.accept(&transactions[2]);
    let next = lab.pool.added_since(seen.next);
    assert_eq!((next.entered.len(), next.entered[0].0, next.missed), (1, transactions[2].wtxid(), false));
    assert!(lab.pool.added_since(next.next).entered.is_empty());
    // A number from another life: everything, so that nothing is lost.
    let all = lab.pool.added_since(next.next + 10);
    assert_eq!((all.entered.len(), all.next, all.missed), (3, next.next, true));
    let [first, second] = [&transactions[0], &transactions[1]];
    assert!(lab.pool.wtxid_before(&first.wtxid(), moment).is_some());
    assert!(lab.pool.txid_before(&first.txid(), moment).is_some());
    assert!(lab.pool.wtxid_before(&second.wtxid(), moment).is_none());
    assert!(lab.pool.txid_before(&second.txid(), moment).is_none());
    assert!(lab.pool.wtxid_before(&first.wtxid(), Moment::default()).is_none());
    assert_eq!(lab.pool.transactions_for_reconstruction().len(), 3);
    assert_eq!(lab.pool.depths(&[first.wtxid()]), [Some(1)]);
    assert_eq!(lab.pool.txid_of(&second.wtxid()), Some(second.txid()));
}
