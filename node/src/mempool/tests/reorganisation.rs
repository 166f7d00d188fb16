//! After any reorganisation the mempool is the one that starting from nothing would give.

use super::{Lab, Purse, outputs};
use crate::chain::UPDATES_MAX;
use crate::mempool::Options;
use crate::testing::{ChainBuilder, address, coins, key, policy, sign};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{SigningContext, Transaction};
use std::collections::BTreeSet;

/// Submits the blocks of another branch.
fn switch(lab: &mut Lab, branch: ChainBuilder) {
    let known = lab.builder.blocks.clone();
    for block in branch.blocks.iter().filter(|block| !known.contains(block)) {
        lab.chain.submit(block.clone()).expect("the builder's blocks are valid");
    }
    lab.builder = branch;
    assert_eq!(lab.chain.view().tip.hash(), lab.builder.tip(), "the new branch is the best");
}

/// The blocks that `to` does not have, lowest first.
fn reverted<'a>(from: &'a [Block], to: &[Block]) -> &'a [Block] {
    let common = from.iter().zip(to).take_while(|(from, to)| from.hash() == to.hash()).count();
    &from[common..]
}

/// Everything about an entry that does not depend on when it came.
fn picture(lab: &Lab) -> Vec<String> {
    let describe = |entry: crate::mempool::EntryInfo| {
        let mut depends = entry.depends.clone();
        depends.sort_unstable();
        let (ids, fee, chunk) = (entry.ids, entry.fee, entry.chunk);
        format!("{ids:?} {fee} {chunk:?} {depends:?} {:?} {:?}", entry.ancestors, entry.descendants)
    };
    let mut picture: Vec<String> = lab.pool.entries().into_iter().map(describe).collect();
    picture.sort_unstable();
    picture
}

/// A spend of key 1 that the next `blocks` blocks do not allow, of a coin made for it.
fn locked_for(lab: &Lab, purse: Purse, lock: SpendPolicy) -> (Transaction, Transaction) {
    let together = SpendPolicy::Threshold { n: 2, of: vec![policy(1), lock] };
    let amount = Amount::from_sen(purse.1.output.amount.sen() - 10_000);
    let fund = lab.builder.spend(&[purse], &[(together.address(), amount)]);
    let left = Amount::from_sen(amount.sen() - 10_000);
    let mut spend = sign(&lab.network, &outputs(&fund), &[(address(1), left)], 0, &[1]);
    spend.witnesses[0].policy = together.clone();
    let context = SigningContext::new(lab.network.genesis_hash(), spend.txid(), &[together.address()]);
    spend.witnesses[0].signatures = vec![key(1).sign(&context.message(0, &[0])).unwrap()];
    (fund, spend)
}

#[test]
fn transactions_of_a_reverted_block_come_back_and_their_children_stay() {
    let mut lab = Lab::new(6);
    let fork = lab.builder.clone();
    let parent = lab.pay(&[lab.purse(1)], 2, 10_000);
    let child = lab.pay(&outputs(&parent)[..1], 1, 10_000);
    lab.mine(vec![parent.clone()]);
    lab.accept(&child);
    assert!(lab.pool.entry(&child.txid()).unwrap().depends.is_empty());
    let mut other = fork;
    other.extra = vec![1];
    other.mine_empty(2);
    switch(&mut lab, other);
    assert_eq!(lab.txids(), [parent.txid(), child.txid()]);
    assert_eq!(lab.pool.entry(&child.txid()).unwrap().depends, [parent.txid()]);
    assert_eq!(lab.templates.build(address(0)).unwrap().transactions.len(), 2);
}

/// MP10: coins of a reverted coinbase are gone, and everything built on them.
#[test]
fn spends_of_a_reverted_coinbase_leave() {
    let mut lab = Lab::new(6);
    let fork = lab.builder.clone();
    lab.mine(Vec::new());
    let outpoint = setara_core::transaction::OutPoint::new(lab.builder.blocks[2].coinbase.txid(), 0);
    let reward = (outpoint, lab.builder.coins[&outpoint]);
    let spend = lab.pay(&[reward], 1, 10_000);
    let child = lab.pay(&outputs(&spend), 1, 10_000);
    let other = lab.pay(&[lab.purse(1)], 1, 10_000);
    for transaction in [&spend, &child, &other] {
        lab.accept(transaction);
    }
    let mut branch = fork;
    branch.extra = vec![1];
    branch.mine_empty(2);
    switch(&mut lab, branch);
    assert_eq!(lab.txids(), [other.txid()]);
}

/// MP10: a lower tip closes locks again: of height, of age, and of the median time.
#[test]
fn locks_are_checked_again_when_the_chain_gets_shorter() {
    let mut lab = Lab::new(6);
    let time = lab.builder.state.header.median_time_past();
    let (fund_height, by_height) = locked_for(&lab, lab.purse(1), SpendPolicy::After(9));
    let (fund_age, by_age) = locked_for(&lab, lab.purse(2), SpendPolicy::Older(6));
    let (fund_time, by_time) = locked_for(&lab, lab.purse(3), SpendPolicy::AfterTime(time + 3));
    lab.mine(vec![fund_height, fund_age, fund_time]);
    while lab.builder.height() < 8 {
        lab.mine(Vec::new());
    }
    let from = lab.builder.spend_from(&[lab.purse(4)], &[(address(1), coins(9))], 9);
    let child = lab.pay(&outputs(&by_height), 1, 10_000);
    let free = lab.pay(&[lab.purse(5)], 1, 10_000);
    for transaction in [&by_height, &by_age, &by_time, &from, &child, &free] {
        lab.accept(transaction);
    }
    let top = lab.builder.blocks[4].hash();
    lab.chain.invalidate(top).unwrap();
    assert_eq!(lab.chain.view().tip.height().get(), 3);
    assert_eq!(lab.txids(), [free.txid()]);
}

/// MP10: random chains of spends, forks of any depth, conflicts between branches, invalidated and reconsidered blocks.
/// After each change the mempool equals a new one that is given the reverted transactions in the order of the chain
/// and then what was there before, and all of it is a valid block.
#[test]
fn after_random_reorganisations_it_equals_one_rebuilt_from_scratch() {
    let mut came_back = 0;
    let mut dropped = 0;
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut lab = Lab::new(24);
        let mut branches = vec![lab.builder.clone()];
        for step in 0..60u64 {
            // Some spends: of coins, of unconfirmed outputs, locked to a height or not.
            for _ in 0..random.random_range(0..6) {
                let mut purses: Vec<Purse> = lab.builder.spendable();
                let here = lab.pool.entries();
                purses.extend(here.iter().flat_map(|entry| outputs(&entry.transaction)));
                let purse = purses[random.random_range(0..purses.len())];
                let fee = random.random_range(1_000..60_000);
                if purse.1.output.amount.sen() < fee + 10_000 {
                    continue;
                }
                let amount = Amount::from_sen((purse.1.output.amount.sen() - fee) / 2);
                let outs = [(address(random.random_range(0..24)), amount), (address(1), amount)];
                let from = random.random_range(0..lab.builder.height() + 3);
                let transaction = lab.builder.spend_from(&[purse], &outs[..random.random_range(1..3)], from);
                let _ = lab.submit(&transaction);
            }
            let before: Vec<Transaction> =
                lab.pool.entries().iter().map(|entry| entry.transaction.as_ref().clone()).collect();
            let old_blocks = lab.builder.blocks.clone();
            // No two blocks of this test are the same.
            lab.builder.extra = vec![u8::try_from(seed).unwrap(), u8::try_from(step).unwrap()];
            match random.random_range(0..10) {
                0..5 => {
                    // The next block, of some of what waits, parents included.
                    let template = lab.templates.build(address(0)).unwrap();
                    let take = random.random_range(0..=template.transactions.len());
                    let chosen = &template.transactions[..take];
                    lab.mine(chosen.iter().map(|selected| selected.transaction.as_ref().clone()).collect());
                }
                5..9 => {
                    // Another branch, longer by one, with spends of its own.
                    let back = random.random_range(1..=5).min(lab.builder.blocks.len() - 2);
                    let length = lab.builder.blocks.len() - back;
                    let mut branch = branches
                        .iter()
                        .filter(|old| {
                            old.blocks.len() <= length && old.blocks[..] == lab.builder.blocks[..old.blocks.len()]
                        })
                        .max_by_key(|old| old.blocks.len())
                        .unwrap()
                        .clone();
                    branch.extra = lab.builder.extra.clone();
                    while branch.blocks.len() <= lab.builder.blocks.len() {
                        let mut spends = Vec::new();
                        for purse in branch.spendable().into_iter().take(2) {
                            if random.random_range(0..2) == 0 {
                                let amount = Amount::from_sen(purse.1.output.amount.sen() - 2_000);
                                spends.push(branch.spend(&[purse], &[(address(2), amount)]));
                            }
                        }
                        branch.mine(spends);
                        branches.push(branch.clone());
                    }
                    switch(&mut lab, branch);
                }
                _ => {
                    // The operator takes blocks back, and the chain is shorter: unless another branch is as long.
                    let back = random.random_range(1..=3).min(lab.builder.blocks.len() - 2);
                    if back > 0 {
                        let cut = lab.builder.blocks.len() - back;
                        lab.chain.invalidate(lab.builder.blocks[cut].hash()).unwrap();
                        let tip = lab.chain.view().tip.hash();
                        lab.builder = branches.iter().find(|branch| branch.tip() == tip).unwrap().clone();
                    }
                }
            }
            branches.push(lab.builder.clone());

            let scratch = lab.beside(Options::default());
            let back: Vec<Transaction> = reverted(&old_blocks, &lab.builder.blocks)
                .iter()
                .flat_map(|block| block.transactions.clone())
                .collect();
            let returned: BTreeSet<_> = back.iter().map(Transaction::txid).collect();
            scratch.pool.submit_many(back);
            scratch.pool.submit_many(before.clone());
            assert_eq!(picture(&lab), picture(&scratch), "seed {seed}, step {step}");
            came_back += lab.txids().iter().filter(|txid| returned.contains(txid)).count();
            dropped += before.iter().filter(|transaction| !lab.holds(transaction)).count();
            let template = lab.templates.build(address(0)).unwrap();
            assert_eq!(template.transactions.len(), lab.txids().len(), "everything is good for the next block");
        }
    }
    assert!(came_back > 20 && dropped > 20, "{came_back} came back, {dropped} dropped");
}

/// MP10: a follower that is far behind, or whose way is too long to be walked, arrives at the same place.
#[test]
fn a_long_way_leads_to_the_same_place() {
    let mut lab = Lab::new(12);
    let fork = lab.builder.clone();
    let stay = lab.pay(&[lab.purse(1)], 1, 10_000);
    let mined = lab.pay(&[lab.purse(2)], 2, 10_000);
    let child = lab.pay(&outputs(&mined)[..1], 1, 10_000);
    let loser = lab.pay(&[lab.purse(3)], 1, 10_000);
    for transaction in [&stay, &mined, &child, &loser] {
        lab.accept(transaction);
    }
    // Sixty blocks pass before anyone looks.
    let winner = lab.pay(&[lab.purse(3)], 1, 20_000);
    lab.mine(vec![mined.clone(), winner.clone()]);
    for _ in 0..60 {
        lab.mine(Vec::new());
    }
    assert_eq!(lab.txids(), [stay.txid(), child.txid()]);
    // And sixty-two are taken back by a longer branch.
    let mut branch = fork;
    branch.extra = vec![1];
    branch.mine_empty(63);
    switch(&mut lab, branch);
    let now: BTreeSet<_> = lab.txids().into_iter().collect();
    assert_eq!(now, [&mined, &winner, &stay, &child].map(|transaction| transaction.txid()).into());
}

/// MP10: a way back of more blocks than the chain tells in one piece: the lowest of them count like the others.
#[test]
fn nothing_is_forgotten_below_a_very_long_way_back() {
    let mut lab = Lab::new(6);
    let mined = lab.pay(&[lab.purse(1)], 2, 10_000);
    let first = lab.mine(vec![mined.clone()]);
    for _ in 0..=UPDATES_MAX {
        lab.mine(Vec::new());
    }
    let outpoint = setara_core::transaction::OutPoint::new(first.coinbase.txid(), 0);
    let gone = lab.pay(&[(outpoint, lab.builder.coins[&outpoint])], 1, 10_000);
    let child = lab.pay(&outputs(&mined)[..1], 1, 10_000);
    for transaction in [&gone, &child] {
        lab.accept(transaction);
    }
    lab.chain.invalidate(first.hash()).unwrap();
    assert_eq!(lab.chain.view().tip.height().get(), 1);
    assert_eq!(lab.txids(), [mined.txid(), child.txid()]);
    assert_eq!(lab.templates.build(address(0)).unwrap().transactions.len(), 2);
}
