//! Checks on several threads give the verdict of one thread, wherever the fault stands and whoever finds it first.

use setara_core::consensus::{RuleError, Serial, block_signatures, check_block};
use setara_core::keys::verify_all;
use setara_node::chain::{KnownSignatures, Verifier};
use setara_node::testing::{ChainBuilder, address, break_signature, coins, funded_network};
use std::sync::Arc;

/// More transactions than one batch of signatures holds, so that several workers share the block.
const PAYMENTS: usize = 1_100;

/// CS18. A bad signature at each place of a large block, alone and together with a later one: the first in the block is
/// named, by any number of workers, and the workers are done when the verdict is there.
#[test]
fn the_first_bad_signature_is_named_wherever_it_stands() {
    let network = funded_network(PAYMENTS as u32, coins(1));
    let mut builder = ChainBuilder::new(&network);
    for number in 1..=PAYMENTS as u32 {
        builder.own(number);
    }
    builder.mine_empty(1);
    let spendable = builder.spendable();
    let payments: Vec<_> = spendable
        .iter()
        .filter(|(_, coin)| coin.output.amount == coins(1))
        .map(|coin| builder.spend(&[*coin], &[(address(9), coins(1))]))
        .collect();
    assert_eq!(payments.len(), PAYMENTS);
    let pools = [1, 2, 3, 8]
        .map(|threads| Verifier::new(Arc::clone(&network), Arc::new(KnownSignatures::default()), Some(threads)));
    let good = builder.build(payments.clone());
    for pool in &pools {
        let (checked, _) = pool.check(good.clone()).unwrap();
        assert_eq!(pool.verify(&checked), Ok(()));
    }
    for place in (0..PAYMENTS).step_by(37).chain([1, 511, 512, 513, 1_023, 1_024, PAYMENTS - 1]) {
        let mut broken = payments.clone();
        break_signature(&mut broken[place]);
        if place % 2 == 0 {
            break_signature(&mut broken[PAYMENTS - 1]);
        }
        let block = builder.build(broken);
        let checked = check_block(&network, block.clone(), &Serial).unwrap();
        let signatures = block_signatures(&network, &checked, &|_| false, &Serial);
        let alone = verify_all(&signatures.checks, &mut rand::rng()).map_err(|index| signatures.error(index));
        assert_eq!(alone, Err(RuleError::BadSignature { transaction: place as u64 + 1 }));
        for pool in &pools {
            let (checked, _) = pool.check(block.clone()).unwrap();
            assert_eq!(pool.verify(&checked), alone, "place {place}");
        }
    }
}

/// CS18. The same for faults that need no curve: which of several is named does not depend on the number of workers.
#[test]
fn the_first_broken_transaction_is_named_wherever_it_stands() {
    let network = funded_network(PAYMENTS as u32, coins(1));
    let mut builder = ChainBuilder::new(&network);
    for number in 1..=PAYMENTS as u32 {
        builder.own(number);
    }
    builder.mine_empty(1);
    let spendable = builder.spendable();
    let payments: Vec<_> = spendable
        .iter()
        .filter(|(_, coin)| coin.output.amount == coins(1))
        .map(|coin| builder.spend(&[*coin], &[(address(9), coins(1))]))
        .collect();
    for (first, later) in [(0, 1), (63, 64), (500, 501), (700, 1_099), (1_098, 1_099)] {
        let mut broken = payments.clone();
        broken[first].memo = vec![0; 300];
        broken[later].outputs.clear();
        let block = builder.build(broken);
        let alone = check_block(&network, block.clone(), &Serial).unwrap_err();
        assert_eq!(alone.code(), "bad-memo-length");
        for threads in [1, 2, 8] {
            let pool = Verifier::new(Arc::clone(&network), Arc::new(KnownSignatures::default()), Some(threads));
            assert_eq!(pool.check(block.clone()).unwrap_err(), alone, "{first} and {later} by {threads}");
        }
    }
}
