//! The coins audit: an invalid block and a damaged node look alike at first, and are told apart.

use super::*;
use crate::testing::{ChainBuilder, coins, funded_network, seal};
use setara_core::hash::Hash256;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Output, SigningContext};

fn wrong_root(builder: &ChainBuilder) -> Block {
    let mut block = builder.build(Vec::new());
    block.coinbase.coins_root = Hash256::from_bytes([7; 32]);
    seal(block)
}

#[test]
fn audit_condemns_a_block_with_a_wrong_root() {
    let network = funded_network(4, coins(10));
    for depth in [0, 3] {
        let mut builder = ChainBuilder::new(&network);
        let mut rig = Rig::new(&network);
        submit_all(&mut rig, &builder.mine_empty(depth));
        let bad = wrong_root(&builder);
        assert!(matches!(rig.submit(&bad), Err(SubmitError::SetAside(_))));
        assert!(matches!(rig.submit(&bad), Err(SubmitError::SetAside(_))));
        // Other branches go on.
        let good = builder.mine(Vec::new());
        assert_eq!(rig.submit(&good), Ok(Accepted::Connected));
        rig.audit().unwrap();
        assert!(matches!(rig.submit(&bad), Err(SubmitError::Invalid(_))));
        rig.assert_is(&builder);
        assert!(rig.core.take_audit().is_none());
    }
}

/// A second wrong block below the same parent costs no second scan.
#[test]
fn audit_is_remembered_by_parent() {
    let network = funded_network(4, coins(10));
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(2));
    assert!(matches!(rig.submit(&wrong_root(&builder)), Err(SubmitError::SetAside(_))));
    rig.audit().unwrap();
    for number in 0..5 {
        builder.extra = vec![number];
        assert!(matches!(rig.submit(&wrong_root(&builder)), Err(SubmitError::Invalid(_))));
        assert!(rig.core.take_audit().is_none());
    }
}

/// A set-aside block below another parent than the audited one is tried again, and gets its own audit.
#[test]
fn audit_of_another_parent_follows() {
    let network = funded_network(4, coins(10));
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(2));
    let first = wrong_root(&builder);
    assert!(matches!(rig.submit(&first), Err(SubmitError::SetAside(_))));
    submit_all(&mut rig, &builder.mine_empty(1));
    let second = wrong_root(&builder);
    assert!(matches!(rig.submit(&second), Err(SubmitError::SetAside(_))));
    rig.audit().unwrap();
    assert!(matches!(rig.submit(&first), Err(SubmitError::Invalid(_))));
    assert!(matches!(rig.submit(&second), Err(SubmitError::SetAside(_))));
    rig.audit().unwrap();
    assert!(matches!(rig.submit(&second), Err(SubmitError::Invalid(_))));
    rig.assert_is(&builder);
}

/// What may have happened to a coin, in memory or on the disk.
type Damage = fn(&mut Coin);

/// Every part of a coin that a rule looks at, changed so that the honest block of [`honest_spend`] breaks that rule.
const DAMAGES: [(&str, Damage); 4] = [
    ("bad-txns-input-amount", |coin| coin.output.amount = coins(99)),
    ("bad-txns-input-policy", |coin| coin.output.address = testing::address(9)),
    ("bad-txns-premature-spend-of-coinbase", |coin| coin.from_coinbase = true),
    ("policy-locked", |coin| coin.height = testing::height(13)),
];

/// A chain, a coin, and the next block, which spends it. The coin is no coinbase's, younger than coinbases must be, and
/// its policy asks for an age of two blocks: flag and height matter.
fn honest_spend() -> (ChainBuilder, (OutPoint, Coin), Block) {
    let network = testing::network(|parameters| {
        parameters.maturity = 10;
        parameters.allocations = vec![Output { amount: coins(10), address: testing::address(1) }];
    });
    let mut builder = ChainBuilder::new(&network);
    builder.mine_empty(9);
    let of = vec![testing::policy(1), SpendPolicy::Older(2)];
    let aged = SpendPolicy::Threshold { n: 2, of };
    let funding = builder.spend(&[builder.spendable()[0]], &[(aged.address(), coins(5))]);
    let outpoint = OutPoint::new(funding.txid(), 0);
    builder.mine(vec![funding]);
    builder.mine_empty(2);
    let coin = (outpoint, builder.coins[&outpoint]);
    let mut spend = testing::sign(&network, &[coin], &[(testing::address(2), coins(3))], 0, &[1]);
    spend.witnesses[0].policy = aged;
    let addresses = spend.spent_addresses();
    let context = SigningContext::new(network.genesis_hash(), spend.txid(), &addresses);
    spend.witnesses[0].signatures = vec![testing::key(1).sign(&context.message(0, &[0])).unwrap()];
    let block = builder.build(vec![spend]);
    (builder, coin, block)
}

fn set_aside_code(outcome: Result<Accepted, SubmitError>) -> &'static str {
    match outcome {
        Err(SubmitError::SetAside(error)) => error.code(),
        other => panic!("{other:?}"),
    }
}

/// CS20: with damaged coins it is the honest block that looks wrong: the node stops, and marks nothing.
#[test]
fn cs20_damaged_coins_stop_the_node_and_condemn_no_block() {
    let (mut builder, (outpoint, coin), block) = honest_spend();
    let network = builder.network.clone();
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.blocks[1..]);
    rig.settle();
    // The coin that the block spends is another on this node's disk, or is gone.
    let damages = DAMAGES.map(|(code, damage)| (code, Some(damage)));
    for (code, damage) in damages.into_iter().chain([("bad-txns-inputs-missingorspent", None)]) {
        let store = rig.store.crash(u64::MAX);
        let value = damage.map(|damage| {
            let mut other = coin;
            damage(&mut other);
            codec::encode(&other)
        });
        let mut damaged = Rig::over(&network, store.clone(), rig.verifier.clone()).unwrap();
        store.tamper(Column::Coins, &schema::coin_key(&outpoint), value.as_deref());
        assert_eq!(set_aside_code(damaged.submit(&block)), code);
        let error = damaged.audit().unwrap_err();
        assert!(matches!(&error, SubmitError::Fault(ChainFault::Damaged(_))), "{code}: {error}");
        assert_eq!(damaged.core.is_bad(&block.hash()), Some(false));
        assert!(matches!(damaged.submit(&block), Err(SubmitError::Fault(_))));
        let row = schema::header(&store, &block.hash()).unwrap().unwrap();
        assert_eq!(row.flags & schema::flags::FAILED, 0);
    }
    assert_eq!(rig.submit(&block), Ok(Accepted::Connected));
    builder.apply(&block).unwrap();
    rig.assert_is(&builder);
}

/// CS20: memory that lies. The audit finds the disk right; the block is then tried on what the disk says.
#[test]
fn cs20_a_wrong_cached_coin_condemns_no_block() {
    for (code, damage) in DAMAGES {
        let (mut builder, (outpoint, _), block) = honest_spend();
        let mut rig = Rig::new(&builder.network);
        submit_all(&mut rig, &builder.blocks[1..]);
        // What is not stored yet has no other copy than this and the records.
        rig.settle();
        rig.core.coins.tamper(&outpoint, damage);
        assert_eq!(set_aside_code(rig.submit(&block)), code);
        rig.audit().unwrap();
        builder.apply(&block).unwrap();
        rig.assert_is(&builder);
        assert!(rig.core.take_audit().is_none());
        assert_eq!(rig.submit(&block), Ok(Accepted::Duplicate));
    }
}
