//! What enters, what does not, and under which name.

use super::{Lab, outputs};
use crate::mempool::{MempoolError, Refusal};
use crate::testing::{address, break_signature, key, sign};
use setara_core::amount::Amount;
use setara_core::consensus::RuleError;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{OutPoint, Output, SigningContext, Transaction, Witness};

/// A policy with two ways to spend it, the cheaper of which anyone can choose: what makes witnesses malleable.
fn either(number: u32) -> SpendPolicy {
    SpendPolicy::Threshold { n: 1, of: vec![SpendPolicy::Key(key(number).public_key()), SpendPolicy::After(1)] }
}

fn by_height(number: u32) -> Witness {
    let SpendPolicy::Threshold { of, .. } = either(number) else { unreachable!() };
    let policy = SpendPolicy::Threshold { n: 1, of: vec![SpendPolicy::Opaque(of[0].address()), of[1].clone()] };
    Witness { policy, signatures: Vec::new(), preimages: Vec::new(), future: Vec::new() }
}

fn by_key(lab: &Lab, transaction: &Transaction, number: u32) -> Witness {
    let SpendPolicy::Threshold { of, .. } = either(number) else { unreachable!() };
    let policy = SpendPolicy::Threshold { n: 1, of: vec![of[0].clone(), SpendPolicy::Opaque(of[1].address())] };
    let context = SigningContext::new(lab.network.genesis_hash(), transaction.txid(), &[policy.address()]);
    let signature = key(number).sign(&context.message(0, &[0])).unwrap();
    Witness { policy, signatures: vec![signature], preimages: Vec::new(), future: Vec::new() }
}

/// A spend of an `either` coin, once by each way: same txid, the second witness is far smaller.
fn twins(lab: &mut Lab) -> (Transaction, Transaction) {
    let purse = lab.purse(5);
    let fund = sign(&lab.network, &[purse], &[(either(9).address(), Amount::from_sen(900_000_000))], 0, &[5]);
    lab.mine(vec![fund.clone()]);
    let mut signed = sign(&lab.network, &outputs(&fund), &[(address(1), Amount::from_sen(899_000_000))], 0, &[9]);
    signed.witnesses = vec![by_height(9)];
    let mut small = signed.clone();
    signed.witnesses = vec![by_key(lab, &signed, 9)];
    small.witnesses = vec![by_height(9)];
    assert_eq!(signed.txid(), small.txid());
    (signed, small)
}

#[test]
fn a_chain_of_spends_enters_is_listed_and_leaves_when_mined() {
    let mut lab = Lab::new(4);
    let parent = lab.pay(&[lab.purse(1)], 2, 10_000);
    let child = lab.pay(&outputs(&parent)[..1], 1, 20_000);
    let accepted = lab.accept(&parent);
    assert_eq!((accepted.ids, accepted.fee), (parent.ids(), Amount::from_sen(10_000)));
    lab.accept(&child);

    let entry = lab.pool.entry(&child.txid()).unwrap();
    assert_eq!(entry.depends, [parent.txid()]);
    assert_eq!((entry.ancestors.0, entry.ancestors.1.fee), (2, 30_000));
    assert_eq!((entry.descendants.0, entry.descendants.1.fee), (1, 20_000));
    assert_eq!(entry.chunk.size, parent.ids().size + child.ids().size);
    assert_eq!(lab.pool.entry(&parent.txid()).unwrap().spent_by, [child.txid()]);
    assert_eq!(lab.pool.spender(&outputs(&parent)[0].0), Some(child.txid()));
    assert_eq!(lab.pool.spender(&outputs(&parent)[1].0), None);
    let by_address: Vec<_> = lab.pool.by_address(&address(1)).iter().map(|entry| entry.ids.txid).collect();
    assert_eq!(by_address, [parent.txid(), child.txid()]);
    assert_eq!(lab.pool.ancestors(&child.txid()).unwrap().len(), 1);
    assert_eq!(lab.pool.descendants(&parent.txid()).unwrap().len(), 1);
    let info = lab.pool.info();
    assert_eq!((info.count, info.bytes), (2, parent.ids().size + child.ids().size));
    assert_eq!(info.fees, Amount::from_sen(30_000));

    let changes = lab.pool.changes();
    let before = *changes.borrow();
    lab.mine(vec![parent.clone()]);
    assert_eq!(lab.txids(), [child.txid()]);
    assert!(*changes.borrow() > before);
    assert!(lab.pool.entry(&child.txid()).unwrap().depends.is_empty());
    lab.mine(vec![child]);
    let info = lab.pool.info();
    assert_eq!((info.count, info.bytes, info.usage, info.fees), (0, 0, 0, Amount::ZERO));
}

#[test]
fn what_is_known_is_refused_as_known() {
    let mut lab = Lab::new(4);
    let transaction = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.accept(&transaction);
    assert_eq!(lab.refused(&transaction), "txn-already-in-mempool");
    assert_eq!(lab.pool.test(transaction.clone()).unwrap_err().refusal(), Refusal::Known);
    lab.mine(vec![transaction.clone()]);
    assert_eq!(lab.refused(&transaction), "txn-already-known");
    let next = lab.pay(&outputs(&transaction), 1, 10_000);
    lab.mine(vec![next]);
    assert_eq!(lab.refused(&transaction), "missing-inputs");
}

#[test]
fn a_test_changes_nothing() {
    let lab = Lab::new(4);
    let transaction = lab.pay(&[lab.purse(1)], 1, 10_000);
    let before = lab.pool.info();
    let verdict = lab.pool.test(transaction.clone()).unwrap();
    assert_eq!(lab.pool.info(), before);
    assert_eq!(lab.accept(&transaction), verdict);
    let dearer = lab.pay(&[lab.purse(1)], 1, 50_000);
    assert_eq!(lab.pool.test(dearer.clone()).unwrap().replaced, [transaction.txid()]);
    assert!(lab.holds(&transaction) && !lab.holds(&dearer));
}

#[test]
fn local_rules_have_names() {
    let lab = Lab::new(4);
    let pay = |outputs: u64, fee| lab.pay(&[lab.purse(1)], outputs, fee);
    let size = pay(1, 10_000).ids().size;
    assert_eq!(lab.refused(&pay(1, size - 1)), "min relay fee not met");
    assert!(lab.pool.test(pay(1, size)).is_ok());

    let dust = |amount| lab.builder.spend(&[lab.purse(1)], &[(address(1), Amount::from_sen(amount))]);
    assert_eq!(lab.refused(&dust(999)), "dust");
    assert!(lab.pool.test(dust(1_000)).is_ok());

    // 38 bytes an output: 2,700 of them are above 100 kB.
    let large = pay(2_700, 200_000);
    assert!(large.ids().size > 100_000);
    assert_eq!(lab.refused(&large), "tx-size");
    let within = pay(2_600, 200_000);
    assert!(lab.pool.test(within).is_ok());

    let mut future = pay(1, 10_000);
    let policy = SpendPolicy::Future { tag: 200, bytes: vec![1] };
    future.witnesses[0] = Witness { policy, signatures: Vec::new(), preimages: Vec::new(), future: vec![vec![7]] };
    assert_eq!(lab.refused(&future), "future-policy");

    let mut broken = pay(1, 10_000);
    break_signature(&mut broken);
    let error = lab.submit(&broken).unwrap_err();
    assert_eq!((error.code(), error.refusal()), ("bad-signature", Refusal::Invalid));
    let mut negative = pay(1, 10_000);
    negative.outputs[0].amount = Amount::from_sen(2_000_000_000);
    assert_eq!(lab.refused(&negative), "bad-txns-in-belowout");
    let mut elsewhere = pay(1, 10_000);
    elsewhere.inputs[0].outpoint = OutPoint::new(lab.purse(1).0.txid, 99);
    let error = lab.submit(&elsewhere).unwrap_err();
    assert_eq!((error.code(), error.refusal()), ("missing-inputs", Refusal::Premature));
}

/// A list may hold parents before children; one bad signature spoils neither its neighbours nor what does not depend
/// on it.
#[test]
fn a_list_is_judged_each_by_itself() {
    let lab = Lab::new(40);
    let mut list = Vec::new();
    let mut expected = Vec::new();
    for number in 1..=40 {
        let mut parent = lab.pay(&[lab.purse(number)], 1, 10_000);
        let child = lab.pay(&outputs(&parent), 1, 10_000);
        let bad = number % 7 == 0;
        if bad {
            break_signature(&mut parent);
        }
        list.extend([parent, child]);
        expected.extend(if bad { ["bad-signature", "missing-inputs"] } else { ["", ""] });
    }
    let verdicts = lab.pool.submit_many(list.clone());
    let codes: Vec<&str> =
        verdicts.iter().map(|verdict| verdict.as_ref().err().map_or("", MempoolError::code)).collect();
    assert_eq!(codes, expected);
    let accepted = list.iter().zip(&expected).filter(|(_, code)| code.is_empty());
    assert_eq!(lab.txids(), accepted.map(|(transaction, _)| transaction.txid()).collect::<Vec<_>>());
    let again = lab.pool.submit_many(list);
    assert!(again.iter().all(|verdict| verdict.is_err()));
}

/// A list whose first transactions were mined meanwhile: what spends them finds their coins in the chain.
#[test]
fn a_list_may_begin_with_what_was_mined() {
    let mut lab = Lab::new(4);
    let parent = lab.pay(&[lab.purse(1)], 2, 10_000);
    let child = lab.pay(&outputs(&parent)[..1], 1, 10_000);
    lab.mine(vec![parent.clone()]);
    let verdicts = lab.pool.submit_many(vec![parent, child.clone()]);
    assert_eq!(verdicts[0].as_ref().map_err(MempoolError::code), Err("txn-already-known"));
    assert!(verdicts[1].is_ok());
    assert_eq!(lab.txids(), [child.txid()]);
}

/// CS10: a relay swaps the witness. The invalid twin is refused and leaves no trace; the good one is taken.
#[test]
fn a_malleated_twin_does_not_poison_the_good_one() {
    let lab = Lab::new(4);
    let good = lab.pay(&[lab.purse(1)], 1, 10_000);
    let mut twin = good.clone();
    break_signature(&mut twin);
    assert_eq!(good.txid(), twin.txid());
    assert_eq!(lab.refused(&twin), "bad-signature");
    assert!(!lab.known.contains(&twin.wtxid()));
    lab.accept(&good);
    assert!(lab.known.contains(&good.wtxid()) && !lab.known.contains(&twin.wtxid()));
    assert_eq!(lab.refused(&twin), "txn-same-nonwitness-data-in-mempool");
}

/// CS10: a block with an invalid twin of a mempool transaction is invalid, whatever the mempool knows of the good one.
#[test]
fn a_block_with_a_bad_twin_of_a_known_transaction_is_invalid() {
    let mut lab = Lab::new(4);
    let good = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.accept(&good);
    let mut twin = good.clone();
    break_signature(&mut twin);
    let block = lab.builder.build(vec![twin]);
    let error = lab.chain.submit(block).unwrap_err();
    assert_eq!(error.rule(), Some(&RuleError::BadSignature { transaction: 1 }));
    assert!(lab.holds(&good));
    lab.mine(vec![good.clone()]);
    assert!(!lab.holds(&good));
}

/// CS10: of two valid twins the mempool keeps one; a block may hold the other, and clears the first.
#[test]
fn a_smaller_twin_replaces_free_and_a_mined_twin_clears_the_other() {
    let mut lab = Lab::new(6);
    let (signed, small) = twins(&mut lab);
    lab.accept(&signed);
    // Pays more than its parent, so both are one chunk.
    let child = lab.pay(&outputs(&signed), 1, 9_000_000);
    lab.accept(&child);
    assert!(small.ids().size * 100 <= signed.ids().size * 95);
    let usage = lab.pool.info().usage;
    let accepted = lab.accept(&small);
    assert!(accepted.replaced.is_empty());
    assert!(lab.pool.info().usage < usage);
    assert_eq!(lab.txids(), [small.txid(), child.txid()]);
    assert_eq!(lab.pool.get(&small.txid()).unwrap().wtxid(), small.wtxid());
    assert!(lab.pool.get_by_wtxid(&signed.wtxid()).is_none());
    assert_eq!(lab.refused(&signed), "txn-same-nonwitness-data-in-mempool");
    // Both hang together still, and the template takes both.
    assert_eq!(lab.pool.entry(&child.txid()).unwrap().chunk.size, small.ids().size + child.ids().size);
    assert_eq!(lab.templates.build(address(0)).unwrap().transactions.len(), 2);
    lab.mine(vec![signed.clone()]);
    assert_eq!(lab.txids(), [child.txid()]);
    lab.mine(vec![child]);
    assert_eq!(lab.pool.info().usage, 0);
}

#[test]
fn what_a_block_spends_otherwise_leaves_with_its_descendants() {
    let mut lab = Lab::new(4);
    let first = lab.pay(&[lab.purse(1)], 2, 10_000);
    let second = lab.pay(&outputs(&first), 1, 10_000);
    let other = lab.pay(&[lab.purse(2)], 1, 10_000);
    for transaction in [&first, &second, &other] {
        lab.accept(transaction);
    }
    let conflict = lab.pay(&[lab.purse(1)], 1, 70_000);
    lab.mine(vec![conflict]);
    assert_eq!(lab.txids(), [other.txid()]);
}

#[test]
fn outputs_of_zero_and_other_broken_rules_keep_their_names() {
    let lab = Lab::new(2);
    let mut zero = lab.pay(&[lab.purse(1)], 1, 10_000);
    zero.outputs.push(Output { amount: Amount::ZERO, address: address(1) });
    assert_eq!(lab.refused(&zero), "bad-txns-vout-zero");
    let mut twice = lab.pay(&[lab.purse(1)], 1, 10_000);
    twice.inputs.push(twice.inputs[0]);
    twice.witnesses.push(twice.witnesses[0].clone());
    assert_eq!(lab.refused(&twice), "bad-txns-inputs-duplicate");
}
