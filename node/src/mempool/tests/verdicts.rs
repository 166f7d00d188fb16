//! What the mempool holds never decides about a block.

use super::{Lab, outputs};
use crate::mempool::Options;
use crate::testing::{address, break_signature, coins, funded_network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::transaction::Transaction;

/// MP14: the same blocks, valid and not, on top of many random mempools: one verdict each.
#[test]
fn the_same_block_gets_one_verdict_over_any_mempool() {
    let network = funded_network(30, coins(10));
    let reference = Lab::with(network.clone(), Options::default());
    let pay = |number, outs, fee| reference.pay(&[reference.purse(number)], outs, fee);
    let parent = pay(1, 2, 10_000);
    let child = reference.pay(&outputs(&parent)[..1], 1, 10_000);
    let dust = reference.builder.spend(&[reference.purse(2)], &[(address(1), Amount::from_sen(1))]);
    let free = reference.builder.spend(&[reference.purse(3)], &[(address(1), coins(10))]);
    let valid = vec![parent.clone(), child.clone(), dust, free];
    let mut bad = child.clone();
    break_signature(&mut bad);
    let mut wrong_amount = pay(4, 1, 10_000);
    wrong_amount.inputs[0].amount = Amount::from_sen(7_000_000);
    let bodies: Vec<Vec<Transaction>> = vec![
        valid,
        vec![parent.clone(), bad],
        vec![child.clone(), parent.clone()],
        vec![parent.clone(), pay(1, 1, 90_000)],
        vec![child],
        vec![wrong_amount],
        vec![reference.builder.spend_from(&[reference.purse(5)], &[(address(1), coins(9))], 50)],
    ];
    let blocks: Vec<Block> = bodies.into_iter().map(|body| reference.builder.build(body)).collect();
    let verdict = |lab: &Lab, block: &Block| match lab.chain.check_proposal(block) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    };
    let expected: Vec<String> = blocks.iter().map(|block| verdict(&reference, block)).collect();
    assert_eq!(expected.iter().filter(|text| text.is_empty()).count(), 1);
    assert_eq!(expected.len(), 7);

    for seed in 0..100 {
        let mut random = StdRng::seed_from_u64(seed);
        let lab = Lab::with(network.clone(), Options::default());
        // The blocks' own transactions, twins, conflicts, children, strangers: whatever is taken.
        for _ in 0..random.random_range(0..12) {
            let transaction = match random.random_range(0..4) {
                0 => {
                    let block = &blocks[random.random_range(0..blocks.len())];
                    block.transactions[random.random_range(0..block.transactions.len())].clone()
                }
                1 => lab.pay(&outputs(&parent)[random.random_range(0..2)..][..1], 1, random.random_range(500..99_000)),
                _ => lab.pay(&[lab.purse(random.random_range(1..31))], 1, random.random_range(500..99_000)),
            };
            let _ = lab.submit(&transaction);
        }
        let before = lab.txids();
        for (block, expected) in blocks.iter().zip(&expected) {
            assert_eq!(&verdict(&lab, block), expected, "seed {seed}");
        }
        assert_eq!(lab.txids(), before, "a verdict leaves the mempool alone");
        // And with work, through the writer: the invalid ones first, since the valid one moves the tip.
        for (block, expected) in blocks.iter().zip(&expected).rev() {
            assert_eq!(lab.chain.submit(block.clone()).is_ok(), expected.is_empty(), "seed {seed}");
        }
    }
}
