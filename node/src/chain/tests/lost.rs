//! Bodies that have rotted in the store: found out by whoever reads, asked for again, put back.

use super::*;
use crate::store::{Batch, Durability, Store, schema::PutRows};

/// Damages the stored body of a block, and shows the damage to readers.
fn rot(rig: &mut Rig, hash: &setara_core::hash::BlockHash) {
    let mut bytes = rig.store.rows(Column::Bodies).into_iter().find(|(key, _)| key == hash.as_bytes()).unwrap().1;
    bytes[90] ^= 1;
    rig.store.tamper(Column::Bodies, hash.as_bytes(), Some(&bytes));
}

/// ST6: a damaged body is an error to its reader and missing to peers' sync; the block's own bytes put it back, another
/// body under its header does not; the chain and its verdicts are as they were.
#[test]
fn st6_a_rotten_body_is_asked_for_again() {
    let network = testing::quick_network();
    let mut chain = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let blocks = chain.mine_empty(8);
    for block in &blocks {
        rig.submit(block).unwrap();
    }
    let headers = rig.core.tree.reader();
    let tip = blocks[7].hash();
    let view = rig.core.shared.view();
    for number in [2, 5] {
        rot(&mut rig, &blocks[number].hash());
        assert!(headers.missing_bodies(&tip, 10, 10).len() < 2, "nobody has read it yet");
        assert!(view.block(&blocks[number].hash()).is_err());
    }
    let missing =
        |headers: &Headers| -> Vec<_> { headers.missing_bodies(&tip, 10, 10).iter().map(|point| point.hash).collect() };
    assert_eq!(missing(&headers), [blocks[2].hash(), blocks[5].hash()]);
    assert!(!headers.get(&blocks[2].hash()).unwrap().has_body && headers.has_lost());

    let mut other = blocks[2].clone();
    other.coinbase.extra.push(1);
    assert!(matches!(rig.submit(&other), Err(SubmitError::Mutated(_))));
    assert_eq!(missing(&headers).len(), 2);
    assert_eq!(rig.submit(&blocks[2]), Ok(Accepted::Duplicate));
    assert_eq!(missing(&headers), [blocks[5].hash()]);
    // The way in which bodies come from peers in bulk.
    let mut bodies = vec![codec::encode(&blocks[5])].into_iter();
    let now = rig.now();
    let (taken, result) = rig.core.load(&mut bodies, &|| now, &mut |_| std::ops::ControlFlow::Continue(()));
    assert_eq!((taken, result), (1, Ok(())));
    assert!(missing(&headers).is_empty() && !headers.has_lost());
    for block in &blocks {
        assert_eq!(rig.core.shared.view().block(&block.hash()).unwrap().as_ref(), Some(block));
    }
    assert_eq!(rig.core.tip().hash(), tip);
    let rig = rig.reopen();
    assert_eq!(rig.core.tip().hash(), tip);
    assert_eq!(schema::block(&rig.store, &blocks[2].hash()).unwrap().as_ref(), Some(&blocks[2]));
}

/// A body that is lost without its row's flag is no such case: nothing is asked for on a reader's word alone.
#[test]
fn st6_what_has_no_body_is_not_lost() {
    let network = testing::quick_network();
    let block = ChainBuilder::new(&network).mine_empty(1).remove(0);
    let mut rig = Rig::new(&network);
    let now = rig.now();
    rig.core.submit_headers(&[block.header], now).unwrap();
    let mut batch = Batch::new();
    batch.put_body(&block.hash(), b"noise");
    rig.store.write(batch, Durability::Synced).unwrap();
    let view = rig.core.shared.view().at(rig.store.snapshot().unwrap()).unwrap();
    assert!(view.block(&block.hash()).is_err());
    assert!(!rig.core.tree.reader().has_lost());
    assert_eq!(rig.submit(&block), Ok(Accepted::Connected));
}
