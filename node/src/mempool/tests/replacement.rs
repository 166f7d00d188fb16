//! Replacement: who may take the place of whom.

use super::{Lab, Purse, outputs};
use crate::mempool::feerate::{Feerate, compare_diagrams, fee_for};
use crate::mempool::{MempoolError, Refusal};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::hash::TxId;
use setara_core::transaction::Transaction;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// MP7: fee >= all replaced fees plus the increment for its own size, exactly.
#[test]
fn a_replacement_pays_for_all_that_it_replaces_and_for_itself() {
    let lab = Lab::new(4);
    let parent = lab.pay(&[lab.purse(1)], 2, 10_000);
    let child = lab.pay(&outputs(&parent)[..1], 1, 20_000);
    let grandchild = lab.pay(&outputs(&child), 1, 5_000);
    for transaction in [&parent, &child, &grandchild] {
        lab.accept(transaction);
    }
    let size = parent.ids().size;
    let needed = 35_000 + size;
    let short = lab.submit(&lab.pay(&[lab.purse(1)], 2, needed - 2)).unwrap_err();
    assert_eq!((short.code(), short.refusal()), ("insufficient fee", Refusal::Policy));
    let enough = lab.pay(&[lab.purse(1)], 2, needed);
    let accepted = lab.accept(&enough);
    assert_eq!(accepted.replaced, [parent.txid(), child.txid(), grandchild.txid()]);
    assert_eq!(lab.txids(), [enough.txid()]);
}

/// MP7: more fee, but so large that the mempool would be worse to mine.
#[test]
fn a_replacement_must_improve_the_diagram() {
    let lab = Lab::new(4);
    let small = lab.pay(&[lab.purse(1)], 1, 100_000);
    lab.accept(&small);
    let large = lab.pay(&[lab.purse(1)], 1_000, 150_000);
    assert!(large.fee().unwrap() > small.fee().unwrap());
    assert_eq!(lab.refused(&large), "replacement-failed");
    assert_eq!(lab.txids(), [small.txid()]);
}

/// MP7: spending what it would replace makes no sense.
#[test]
fn a_replacement_cannot_spend_what_it_replaces() {
    let lab = Lab::new(4);
    let parent = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.accept(&parent);
    let both = lab.pay(&[lab.purse(1), outputs(&parent)[0]], 1, 900_000);
    assert_eq!(lab.refused(&both), "bad-txns-spends-conflicting-tx");
    assert!(lab.holds(&parent));
}

/// MP7: the same rules however the descendants hang together (pinning by a large child costs the replacer its fee, no
/// more).
#[test]
fn descendants_count_wherever_they_are() {
    let lab = Lab::new(6);
    let left = lab.pay(&[lab.purse(1)], 1, 2_000);
    let right = lab.pay(&[lab.purse(2)], 1, 3_000);
    let both = lab.pay(&[outputs(&left)[0], outputs(&right)[0]], 1, 50_000);
    for transaction in [&left, &right, &both] {
        lab.accept(transaction);
    }
    let cheap = lab.pay(&[lab.purse(1)], 1, 30_000);
    assert_eq!(lab.refused(&cheap), "insufficient fee");
    let fair = lab.pay(&[lab.purse(1)], 1, 60_000);
    assert_eq!(lab.accept(&fair).replaced, [left.txid(), both.txid()]);
    assert_eq!(lab.txids(), [right.txid(), fair.txid()]);
}

/// The mempool as the oracle sees it: plain lists and sets.
#[derive(Clone, Default)]
struct Naive {
    transactions: Vec<Transaction>,
}

impl Naive {
    fn parents(&self, transaction: &Transaction) -> Vec<usize> {
        let made = |txid: TxId| self.transactions.iter().position(|other| other.txid() == txid);
        transaction.inputs.iter().filter_map(|input| made(input.outpoint.txid)).collect()
    }

    /// The best diagram of everything, by trying every closed set.
    fn diagram(&self) -> Vec<Feerate> {
        let parents: Vec<u32> = self
            .transactions
            .iter()
            .map(|tx| self.parents(tx).iter().fold(0, |set, parent| set | 1 << parent))
            .collect();
        let feerates: Vec<Feerate> =
            self.transactions.iter().map(|tx| Feerate::new(tx.fee().unwrap().sen(), tx.ids().size)).collect();
        let all: u32 = (1 << self.transactions.len()) - 1;
        let (mut done, mut chunks) = (0u32, Vec::new());
        while done != all {
            let members = |set: u32| (0..feerates.len()).filter(move |position| set >> position & 1 == 1);
            let (set, feerate) = (1..=all)
                .filter(|set| set & done == 0 && members(*set).all(|p| parents[p] & !(set | done) == 0))
                .map(|set| (set, members(set).fold(Feerate::default(), |sum, p| sum.join(feerates[p]))))
                .max_by_key(|(_, feerate)| *feerate)
                .unwrap();
            done |= set;
            chunks.push(feerate);
        }
        chunks
    }

    /// Takes the transaction in by the rules as written, or names the one it breaks.
    fn submit(&mut self, transaction: &Transaction) -> Result<BTreeSet<TxId>, &'static str> {
        let spends = |other: &Transaction| {
            other.inputs.iter().any(|input| transaction.inputs.iter().any(|own| own.outpoint == input.outpoint))
        };
        let mut gone: BTreeSet<TxId> = BTreeSet::new();
        for other in &self.transactions {
            let of_gone = other.inputs.iter().any(|input| gone.contains(&input.outpoint.txid));
            if spends(other) || of_gone {
                gone.insert(other.txid());
            }
        }
        let mut after = Naive {
            transactions: self.transactions.iter().filter(|other| !gone.contains(&other.txid())).cloned().collect(),
        };
        after.transactions.push(transaction.clone());
        if !gone.is_empty() {
            let fees: u64 = self
                .transactions
                .iter()
                .filter(|other| gone.contains(&other.txid()))
                .map(|other| other.fee().unwrap().sen())
                .sum();
            if transaction.fee().unwrap().sen() < fees + fee_for(1_000, transaction.ids().size) {
                return Err("insufficient fee");
            }
            if compare_diagrams(&after.diagram(), &self.diagram()) != Some(Ordering::Greater) {
                return Err("replacement-failed");
            }
        }
        *self = after;
        Ok(gone)
    }
}

/// MP7: random mempools and replacements against an oracle that orders the whole mempool by exhaustive search and
/// compares that. Every transaction has one unconfirmed parent at most, so both orders are the best there is.
#[test]
fn replacements_agree_with_an_exhaustive_oracle() {
    let mut outcomes = std::collections::BTreeMap::new();
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let lab = Lab::new(4);
        let mut naive = Naive::default();
        for step in 0..14 {
            if naive.transactions.len() == 9 {
                break;
            }
            // A coin of the chain, or an unconfirmed output, spent already or not.
            let mut purses: Vec<Purse> = (1..=4).map(|number| lab.purse(number)).collect();
            purses.extend(naive.transactions.iter().flat_map(outputs));
            let purse = purses[random.random_range(0..purses.len())];
            let fee = 500 << random.random_range(0..12);
            let count = [1, 1, 2, 3, 25][random.random_range(0..5)];
            if purse.1.output.amount.sen() < fee + count * 2_000 {
                continue;
            }
            let transaction = lab.pay(&[purse], count, fee + random.random_range(0..400));
            if fee_for(1_000, transaction.ids().size) > transaction.fee().unwrap().sen() || lab.holds(&transaction) {
                continue;
            }
            let expected = naive.submit(&transaction);
            let got = lab.submit(&transaction).map(|accepted| accepted.replaced.into_iter().collect());
            let got = got.map_err(|error: MempoolError| error.code());
            assert_eq!(got, expected, "seed {seed}, step {step}");
            *outcomes.entry(expected.map(|gone| gone.len().min(2))).or_insert(0) += 1;
            let ours: BTreeSet<TxId> = lab.txids().into_iter().collect();
            assert_eq!(ours, naive.transactions.iter().map(Transaction::txid).collect(), "seed {seed}, step {step}");
        }
    }
    for outcome in [Ok(0), Ok(1), Ok(2), Err("insufficient fee"), Err("replacement-failed")] {
        assert!(outcomes.contains_key(&outcome), "never seen: {outcome:?} in {outcomes:?}");
    }
}
