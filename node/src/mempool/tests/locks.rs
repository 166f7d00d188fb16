//! Timelocks and maturity, just before, at and just after they open: block, mempool and template agree.

use super::{Lab, Purse, outputs};
use crate::mempool::{MempoolError, Options};
use crate::mining::TemplateError;
use crate::testing::{address, coins, key, network, policy, sign};
use setara_core::amount::Amount;
use setara_core::consensus::RuleError;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Output, SigningContext, Transaction};
use std::sync::Arc;

/// Key 1 and the lock.
fn locked(lock: SpendPolicy) -> SpendPolicy {
    SpendPolicy::Threshold { n: 2, of: vec![policy(1), lock] }
}

/// Spends a coin of `locked(lock)`.
fn unlock(lab: &Lab, purse: Purse, lock: SpendPolicy, valid_from: u32) -> Transaction {
    let left = Amount::from_sen(purse.1.output.amount.sen() - 10_000);
    let mut transaction = sign(&lab.network, &[purse], &[(address(2), left)], valid_from, &[1]);
    transaction.witnesses[0].policy = locked(lock);
    let addresses = transaction.spent_addresses();
    let context = SigningContext::new(lab.network.genesis_hash(), transaction.txid(), &addresses);
    transaction.witnesses[0].signatures = vec![key(1).sign(&context.message(0, &[0])).unwrap()];
    transaction
}

fn rule_code(result: Result<(), RuleError>) -> &'static str {
    result.map_or_else(|error| error.code(), |()| "")
}

/// What block, mempool and template say of a transaction for the next block. They must agree.
fn verdict(lab: &Lab, transaction: &Transaction) -> &'static str {
    let block = lab.builder.build(vec![transaction.clone()]);
    let of_block = match lab.chain.check_proposal(&block) {
        Ok(()) => "",
        Err(error) => error.rule().expect("a rule").code(),
    };
    let of_mempool = match lab.pool.test(transaction.clone()) {
        Ok(_) => "",
        Err(error) => error.code(),
    };
    let of_template = match lab.templates.build_from(vec![Arc::new(transaction.clone())], address(0)) {
        Ok(template) => {
            assert_eq!(template.transactions.len(), 1);
            ""
        }
        Err(TemplateError::Rule(rule)) => rule.code(),
        Err(error) => panic!("{error}"),
    };
    // The naive ledger applies the rules by itself.
    let of_ledger = rule_code(lab.builder.clone().apply(&block));
    assert_eq!((of_block, of_mempool, of_template), (of_ledger, of_ledger, of_ledger));
    of_block
}

/// CS16: at t - 1, t and t + 1 of every kind of lock.
#[test]
fn locks_open_at_the_same_block_everywhere() {
    let mut lab = Lab::new(8);
    // Height 1 now. Five locked coins, made in block 2.
    let after = SpendPolicy::After(6);
    let older = SpendPolicy::Older(4);
    let time = lab.builder.state.header.median_time_past();
    let after_time = SpendPolicy::AfterTime(time + 3);
    let locks = [after, older, after_time];
    let outs: Vec<_> = locks.iter().map(|lock| (locked(lock.clone()).address(), coins(1))).collect();
    let fund = sign(&lab.network, &[lab.purse(1)], &[outs, vec![(address(1), coins(5))]].concat(), 0, &[1]);
    lab.mine(vec![fund.clone()]);
    let purses = outputs(&fund);

    // (spend, whether the next block may hold it)
    type Open = Box<dyn Fn(&Lab) -> bool>;
    let next = |lab: &Lab| lab.builder.height() + 1;
    let past = |lab: &Lab| lab.builder.state.header.median_time_past();
    let plain = lab.pay(&[lab.purse(2)], 1, 10_000);
    let valid_from = sign(&lab.network, &purses[3..4], &[(address(2), coins(4))], 6, &[1]);
    let reward = lab.builder.coins.iter().find(|(_, coin)| coin.from_coinbase && coin.height.get() == 2);
    let reward = reward.map(|(outpoint, coin)| (*outpoint, *coin)).unwrap();
    let cases: Vec<(&str, Transaction, Open)> = vec![
        ("After", unlock(&lab, purses[0], locks[0].clone(), 0), Box::new(move |lab| next(lab) >= 6)),
        ("Older", unlock(&lab, purses[1], locks[1].clone(), 0), Box::new(move |lab| next(lab) >= 2 + 4)),
        ("AfterTime", unlock(&lab, purses[2], locks[2].clone(), 0), Box::new(move |lab| past(lab) >= time + 3)),
        ("valid_from", valid_from, Box::new(move |lab| next(lab) >= 6)),
        ("maturity", lab.pay(&[reward], 1, 10_000), Box::new(move |lab| next(lab) > 2)),
        ("none", plain, Box::new(|_| true)),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..12 {
        for (name, spend, open) in &cases {
            let code = verdict(&lab, spend);
            assert_eq!(code.is_empty(), open(&lab), "{name} at {}: {code}", next(&lab));
            seen.insert((*name, code));
        }
        lab.mine(Vec::new());
    }
    for (name, code) in [("After", "policy-locked"), ("Older", "policy-locked"), ("AfterTime", "policy-locked")] {
        assert!(seen.contains(&(name, code)) && seen.contains(&(name, "")), "{name}: {seen:?}");
    }
    assert!(seen.contains(&("valid_from", "bad-txns-nonfinal")));
}

/// CS16: a coin of the same block has no age, so `Older(0)` opens and `Older(1)` does not; in the mempool likewise.
#[test]
fn older_counts_from_the_block_that_makes_the_coin() {
    for (blocks, open) in [(0, true), (1, false), (u32::MAX, false)] {
        let lock = SpendPolicy::Older(blocks);
        let lab = Lab::new(2);
        let fund = sign(&lab.network, &[lab.purse(1)], &[(locked(lock.clone()).address(), coins(1))], 0, &[1]);
        let spend = unlock(&lab, outputs(&fund)[0], lock, 0);
        let block = lab.builder.build(vec![fund.clone(), spend.clone()]);
        let of_block = lab.chain.check_proposal(&block).err().map(|error| error.rule().unwrap().code());
        lab.accept(&fund);
        let of_mempool = lab.submit(&spend).err().map(|error| error.code());
        let both = vec![Arc::new(fund), Arc::new(spend)];
        let of_template = lab.templates.build_from(both, address(0)).err().map(|error| match error {
            TemplateError::Rule(rule) => rule.code(),
            other => panic!("{other}"),
        });
        let expected = if open { None } else { Some("policy-locked") };
        assert_eq!((of_block, of_mempool, of_template), (expected, expected, expected), "{blocks}");
    }
}

/// CS16: the largest numbers are far locks, not overflows.
#[test]
fn extreme_locks_are_far_not_near() {
    let mut lab = Lab::new(4);
    for lock in [SpendPolicy::After(u32::MAX), SpendPolicy::AfterTime(u32::MAX), SpendPolicy::Older(u32::MAX)] {
        let purse = lab.builder.spendable()[0];
        let owner = if purse.1.from_coinbase && purse.1.height.get() > 0 { 0 } else { purse.0.index + 1 };
        let fund = sign(&lab.network, &[purse], &[(locked(lock.clone()).address(), coins(1))], 0, &[owner]);
        lab.mine(vec![fund.clone()]);
        assert_eq!(verdict(&lab, &unlock(&lab, outputs(&fund)[0], lock, 0)), "policy-locked");
    }
    let far = sign(&lab.network, &[lab.purse(4)], &[(address(1), coins(1))], u32::MAX, &[4]);
    assert_eq!(verdict(&lab, &far), "bad-txns-nonfinal");
}

/// CS16: a coinbase matures at the same height for all.
#[test]
fn coinbases_mature_at_the_same_block_everywhere() {
    let network = network(|parameters| {
        parameters.maturity = 5;
        parameters.allocations = vec![Output { amount: coins(10), address: address(1) }];
    });
    let mut lab = Lab::with(network, Options::default());
    let genesis_coin = lab.pay(&[lab.purse(1)], 1, 10_000);
    let outpoint = setara_core::transaction::OutPoint::new(lab.builder.blocks[1].coinbase.txid(), 0);
    let first = lab.pay(&[(outpoint, lab.builder.coins[&outpoint])], 1, 10_000);
    for _ in 0..7 {
        let next = lab.builder.height() + 1;
        let expected = |made: u32| if next >= made + 5 { "" } else { "bad-txns-premature-spend-of-coinbase" };
        assert_eq!(verdict(&lab, &genesis_coin), expected(0), "genesis coin at {next}");
        assert_eq!(verdict(&lab, &first), expected(1), "coin of block 1 at {next}");
        lab.mine(Vec::new());
    }
    lab.accept(&first);
    let error = lab.submit(&first).unwrap_err();
    assert_eq!(error, MempoolError::AlreadyInMempool);
}
