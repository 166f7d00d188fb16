//! The coins audit: an invalid block and a damaged node look alike at first, and are told apart.

use super::*;
use crate::testing::{ChainBuilder, coins, funded_network, seal};
use setara_core::hash::Hash256;

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

/// CS20: with damaged coins it is the honest block that looks wrong: the node stops, and marks nothing.
#[test]
fn cs20_damaged_coins_stop_the_node_and_condemn_no_block() {
    let network = funded_network(4, coins(10));
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(3));
    let coin = builder.spendable()[0];
    let block = builder.mine(vec![builder.spend(&[coin], &[(testing::address(2), coins(3))])]);
    // The coin that the block spends has another amount on this node's disk, or is gone.
    for damage in [Some(coins(99)), None] {
        let store = rig.store.crash(0);
        let mut other = coin.1;
        let key = schema::coin_key(&coin.0);
        let value = damage.map(|amount| {
            other.output.amount = amount;
            codec::encode(&other)
        });
        let mut damaged = Rig::over(&network, store.clone(), rig.verifier.clone()).unwrap();
        store.tamper(Column::Coins, &key, value.as_deref());
        assert!(matches!(damaged.submit(&block), Err(SubmitError::SetAside(_))));
        let error = damaged.audit().unwrap_err();
        assert!(matches!(&error, SubmitError::Fault(ChainFault::Damaged(_))), "{error}");
        assert_eq!(damaged.core.is_bad(&block.hash()), Some(false));
        assert!(matches!(damaged.submit(&block), Err(SubmitError::Fault(_))));
        let row = schema::header(&store, &block.hash()).unwrap().unwrap();
        assert_eq!(row.flags & schema::flags::FAILED, 0);
    }
    assert_eq!(rig.submit(&block), Ok(Accepted::Connected));
    rig.assert_is(&builder);
}
