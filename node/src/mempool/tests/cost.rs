//! What a flood of refused transactions can cost: counted in coin look-ups, signatures and cluster steps.

use super::{Lab, outputs};
use crate::mempool::MempoolError;
use crate::testing::{address, break_signature, policy};
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{OutPoint, Transaction, Witness};
use std::sync::atomic::Ordering;

/// How many of each kind.
const FLOOD: u32 = 50;

struct Spent {
    coins: u64,
    signatures: u64,
    steps: u64,
}

fn spent(lab: &Lab) -> Spent {
    let work = lab.pool.work();
    Spent {
        coins: work.coins_read.load(Ordering::Relaxed),
        signatures: work.signatures_checked.load(Ordering::Relaxed),
        steps: work.cluster_steps.load(Ordering::Relaxed),
    }
}

fn witness(policy: SpendPolicy) -> Witness {
    Witness { policy, signatures: Vec::new(), preimages: Vec::new(), future: Vec::new() }
}

/// One transaction of a flood, made from a number.
type Make<'a> = Box<dyn Fn(u32) -> Transaction + 'a>;

/// MP5: each kind of failure is found at its place in the order: size, fee, coins, policy hash, locks, signatures; and
/// nothing that comes after it is ever spent on it.
#[test]
fn each_kind_of_failure_costs_no_more_than_its_check() {
    let lab = Lab::new(60);
    let waiting = lab.pay(&[lab.purse(60)], 1, 500_000);
    lab.accept(&waiting);
    let good = |number: u32| lab.pay(&[lab.purse(number)], 1, 10_000);
    // Code, coins per transaction, signatures per transaction.
    let kinds: Vec<(&str, u64, u64, Make<'_>)> = vec![
        ("tx-size", 0, 0, Box::new(|number| lab.pay(&[lab.purse(number)], 2_700, 300_000))),
        ("min relay fee not met", 0, 0, Box::new(|number| lab.pay(&[lab.purse(number)], 1, 1))),
        (
            "bad-witness-count",
            0,
            0,
            Box::new(|number| {
                let mut transaction = good(number);
                transaction.witnesses.clear();
                transaction
            }),
        ),
        (
            "policy-not-satisfied",
            0,
            0,
            Box::new(|number| {
                let mut transaction = good(number);
                transaction.witnesses[0].signatures.clear();
                transaction
            }),
        ),
        (
            "future-policy",
            0,
            0,
            Box::new(|number| {
                let mut transaction = good(number);
                transaction.witnesses[0] = witness(SpendPolicy::Future { tag: 255, bytes: Vec::new() });
                transaction.witnesses[0].future.push(Vec::new());
                transaction
            }),
        ),
        (
            "dust",
            0,
            0,
            Box::new(|number| lab.builder.spend(&[lab.purse(number)], &[(address(1), Amount::from_sen(500))])),
        ),
        (
            "insufficient fee",
            0,
            0,
            Box::new(|number| {
                let mut transaction = lab.pay(&[lab.purse(60)], 1, 100_000 + u64::from(number));
                break_signature(&mut transaction);
                transaction
            }),
        ),
        // One look-up for the input, one to see whether the transaction itself was mined.
        (
            "missing-inputs",
            2,
            0,
            Box::new(|number| {
                let mut transaction = good(number);
                transaction.inputs[0].outpoint = OutPoint::new(TxId::from_bytes([9; 32]), number);
                transaction
            }),
        ),
        (
            "bad-txns-input-amount",
            1,
            0,
            Box::new(|number| {
                let mut transaction = good(number);
                transaction.inputs[0].amount = Amount::from_sen(999_999_999);
                transaction
            }),
        ),
        (
            "bad-txns-input-policy",
            1,
            0,
            Box::new(|number| {
                let mut transaction = good(number);
                transaction.witnesses[0].policy = policy(61);
                transaction
            }),
        ),
        (
            "bad-txns-nonfinal",
            1,
            0,
            Box::new(|number| {
                let mut transaction = good(number);
                transaction.valid_from = 1_000;
                transaction
            }),
        ),
        (
            "bad-signature",
            1,
            1,
            Box::new(|number| {
                let mut transaction = good(number);
                break_signature(&mut transaction);
                transaction
            }),
        ),
    ];
    for (code, coins, signatures, make) in kinds {
        let flood: Vec<Transaction> = (1..=FLOOD).map(make).collect();
        for together in [false, true] {
            let before = spent(&lab);
            let verdicts = if together {
                lab.pool.submit_many(flood.clone())
            } else {
                flood.iter().map(|transaction| lab.submit(transaction)).collect()
            };
            for verdict in &verdicts {
                assert_eq!(verdict.as_ref().map_err(MempoolError::code), Err(code));
            }
            let after = spent(&lab);
            assert_eq!(after.coins - before.coins, coins * u64::from(FLOOD), "{code}: coins");
            // In a list, each of a spoilt batch is looked at once more by itself.
            let looks = if together { 2 } else { 1 };
            assert_eq!(after.signatures - before.signatures, looks * signatures * u64::from(FLOOD), "{code}");
            assert_eq!(after.steps, before.steps, "{code}: cluster steps");
        }
    }
    assert_eq!(lab.txids(), [waiting.txid()]);
}

/// MP5: a transaction that was verified is not verified again, in the mempool or in a block.
#[test]
fn verified_signatures_are_not_verified_twice() {
    let mut lab = Lab::new(4);
    let transaction = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.pool.test(transaction.clone()).unwrap();
    let before = spent(&lab).signatures;
    lab.accept(&transaction);
    let block = lab.mine(vec![transaction.clone()]);
    lab.chain.invalidate(block.hash()).unwrap();
    assert!(lab.holds(&transaction));
    assert_eq!(spent(&lab).signatures, before);
}

/// MP8: the worst shapes that fit, and the first that do not; every entrance and every departure within its steps.
#[test]
fn worst_clusters_take_bounded_steps() {
    // 3 n^2 for each ordering of one cluster (see `linearize`).
    const STEPS_MAX: u64 = 3 * 64 * 64;
    let mut lab = Lab::new(70);
    let mut before = spent(&lab).steps;
    let mut bounded = |lab: &Lab, clusters: u64, what: &str| {
        let after = spent(lab).steps;
        assert!(after - before <= clusters * STEPS_MAX, "{what}: {} steps", after - before);
        before = after;
    };

    // A chain: the 65th is one too many.
    let mut tip = lab.pay(&[lab.purse(1)], 1, 10_000);
    for length in 1..=64u64 {
        lab.accept(&tip);
        bounded(&lab, 1, "chain");
        tip = lab.pay(&outputs(&tip), 1, 10_000 + length * 300);
    }
    assert_eq!(lab.refused(&tip), "too-large-cluster");
    assert_eq!(lab.pool.entry(&lab.txids()[63]).unwrap().ancestors.0, 64);

    // A star: one parent of 63, the last of which is refused nothing and the next everything.
    let centre = lab.pay(&[lab.purse(2)], 70, 50_000);
    lab.accept(&centre);
    for output in &outputs(&centre)[..63] {
        lab.accept(&lab.pay(&[*output], 1, 9_000));
        bounded(&lab, 1, "star");
    }
    assert_eq!(lab.refused(&lab.pay(&outputs(&centre)[63..64], 1, 9_000)), "too-large-cluster");

    // A funnel: 63 clusters become one, the 64th makes it too many before any ordering is tried.
    let parents: Vec<Transaction> = (3..=66).map(|number| lab.pay(&[lab.purse(number)], 1, 9_000)).collect();
    for parent in &parents {
        lab.accept(parent);
    }
    bounded(&lab, 64, "parents");
    let all: Vec<_> = parents.iter().flat_map(outputs).collect();
    assert_eq!(lab.refused(&lab.pay(&all, 1, 100_000)), "too-large-cluster");
    bounded(&lab, 0, "a funnel of 65");
    let funnel = lab.pay(&all[..63], 1, 100_000);
    lab.accept(&funnel);
    bounded(&lab, 1, "a funnel of 64");
    // Mining the parents one by one re-orders what remains, once a block.
    lab.mine(parents[..32].to_vec());
    assert_eq!(lab.pool.entry(&funnel.txid()).unwrap().ancestors.0, 32);
    bounded(&lab, 1, "half of a funnel mined");
    lab.mine(parents[32..63].to_vec());
    lab.mine(vec![funnel]);
    bounded(&lab, 2, "the funnel mined");
}

/// MP8: a cluster's bytes are bounded, too, and no parent can be pinned by more than them.
#[test]
fn a_cluster_is_at_most_101_kilobytes() {
    let lab = Lab::new(3);
    let parent = lab.pay(&[lab.purse(1)], 2, 10_000);
    lab.accept(&parent);
    let large = lab.pay(&outputs(&parent)[..1], 2_650, 200_000);
    assert!((98_000..100_000).contains(&large.ids().size));
    lab.accept(&large);
    let small = lab.pay(&outputs(&parent)[1..], 1, 10_000);
    lab.accept(&small);
    let sized = |outputs_count| lab.pay(&outputs(&small), outputs_count, 100_000);
    let used = [&parent, &large, &small].map(|transaction| transaction.ids().size).iter().sum::<u64>();
    let fits = (1..100).take_while(|count| used + sized(*count).ids().size <= 101_000).last().unwrap();
    assert_eq!(lab.refused(&sized(fits + 1)), "too-large-cluster");
    lab.accept(&sized(fits));
}

/// MP7, MP8: a replacement that would touch too many clusters is refused before any work on them.
#[test]
fn a_replacement_of_101_clusters_costs_nothing() {
    let lab = Lab::new(101);
    for number in 1..=101 {
        lab.accept(&lab.pay(&[lab.purse(number)], 1, 1_000));
    }
    let purses: Vec<_> = (1..=101).map(|number| lab.purse(number)).collect();
    let before = spent(&lab);
    assert_eq!(lab.refused(&lab.pay(&purses, 1, 10_000_000)), "too many potential replacements");
    let after = spent(&lab);
    assert_eq!((after.coins, after.signatures, after.steps), (before.coins, before.signatures, before.steps));
    assert_eq!(lab.accept(&lab.pay(&purses[..100], 1, 10_000_000)).replaced.len(), 100);
}
