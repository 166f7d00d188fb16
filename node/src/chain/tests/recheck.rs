//! The stored chain against every rule once more: good chains pass whole and in parts, and every kind of damage is found.

use super::crash::history;
use super::*;
use crate::store::schema::PutRows;
use crate::store::{Batch, Durability, Store};
use crate::testing::{ChainBuilder, break_signature, coins, funded_network};

fn check(rig: &Rig, from: Option<u32>, to: Option<u32>) -> Result<Rechecked, RecheckError> {
    // Nothing remembered: every signature is checked.
    recheck(&rig.store, &testing::verifier(&rig.network), from, to, &mut |_, _| {})
}

fn grown() -> (Rig, ChainBuilder) {
    let (network, blocks, builders) = history();
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &blocks);
    let ledger = builders[&rig.core.tip().hash()].clone();
    (rig, ledger)
}

#[test]
fn a_good_chain_passes_whole_and_in_parts() {
    let (mut rig, ledger) = grown();
    let height = ledger.height();
    for settled in [false, true] {
        if settled {
            rig.settle();
        }
        let all = check(&rig, None, None).unwrap();
        assert_eq!((all.blocks, all.transactions, all.signatures), (u64::from(height), 7, 7));
        let rows = rig.store.rows(Column::Coins).len() as u64;
        assert_eq!(all.coins, rows);
        for from in 1..=height {
            for to in from..=height {
                let part = check(&rig, Some(from), Some(to)).unwrap();
                assert_eq!(part.blocks, u64::from(to - from + 1));
                assert_eq!(part.coins, if to == height { rows } else { 0 });
            }
        }
        for (from, to) in [(0, 1), (1, height + 1), (3, 2)] {
            assert!(matches!(check(&rig, Some(from), Some(to)), Err(RecheckError::Range { .. })), "{from} {to}");
        }
    }
    // A chain of genesis alone has no blocks to check, but coins.
    let alone = check(&Rig::new(&rig.network), None, None).unwrap();
    assert!(alone.blocks == 0 && alone.coins > 0);
}

/// A change behind the seals, as no disk makes it: only the rules can find it.
#[test]
fn a_stored_block_that_breaks_a_rule_is_found() {
    let (rig, ledger) = grown();
    for height in 1..=ledger.height() {
        let block = &ledger.blocks[height as usize];
        if block.transactions.is_empty() {
            continue;
        }
        let mut other = block.clone();
        break_signature(&mut other.transactions[0]);
        let mut batch = Batch::new();
        batch.put_body(&block.hash(), &codec::encode(&other));
        let store = rig.store.crash(u64::MAX);
        store.write(batch, Durability::Synced).unwrap();
        let damaged = Rig { store, ..grown().0 };
        let error = check(&damaged, None, None).unwrap_err();
        assert!(matches!(&error, RecheckError::Block { height: at, .. } if *at == height), "{height}: {error}");
        // The rest is as good as it was.
        if height > 1 {
            check(&damaged, None, Some(height - 1)).unwrap();
        }
    }
}

#[test]
fn every_kind_of_damage_is_found() {
    let (mut rig, ledger) = grown();
    rig.settle();
    let hash = |height: usize| *ledger.blocks[height].hash().as_bytes();
    let undo = |height: usize| rig.store.get(Column::Undo, &hash(height)).unwrap().unwrap();
    let body = |height: usize| rig.store.get(Column::Bodies, &hash(height)).unwrap().unwrap();
    let (key, value) = rig.store.rows(Column::Coins).pop().unwrap();
    let outpoint = schema::coin_outpoint(&key).unwrap();
    let mut richer = schema::coin(&outpoint, &value).unwrap();
    richer.output.amount = richer.output.amount.checked_add(coins(1)).unwrap();
    let flipped = |mut bytes: Vec<u8>| {
        bytes[20] ^= 1;
        bytes
    };
    let heights = |height: u32| height.to_be_bytes().to_vec();
    let damages = [
        ("a body is gone", Column::Bodies, hash(2).to_vec(), None),
        ("a body is flipped", Column::Bodies, hash(2).to_vec(), Some(flipped(body(2)))),
        ("a body is another's", Column::Bodies, hash(2).to_vec(), Some(body(3))),
        ("a record is gone", Column::Undo, hash(3).to_vec(), None),
        ("a record is flipped", Column::Undo, hash(3).to_vec(), Some(flipped(undo(3)))),
        ("a record is another's", Column::Undo, hash(3).to_vec(), Some(undo(4))),
        ("a height is another's", Column::Heights, heights(2), Some(hash(3).to_vec())),
        ("a height is gone", Column::Heights, heights(2), None),
        ("a coin is gone", Column::Coins, key.clone(), None),
        ("a coin is worth more", Column::Coins, key.clone(), Some(codec::encode(&richer))),
        ("a coin is made up", Column::Coins, flipped(key), Some(value)),
        ("a bucket is gone", Column::Meta, [&b"lattice"[..], &[outpoint.txid.as_bytes()[0]]].concat(), None),
        ("the tip is gone", Column::Meta, b"tip".to_vec(), None),
    ];
    for (what, column, key, value) in damages {
        let before = rig.store.get(column, &key).unwrap();
        rig.store.tamper(column, &key, value.as_deref());
        assert!(check(&rig, None, None).is_err(), "{what}");
        rig.store.tamper(column, &key, before.as_deref());
        check(&rig, None, None).unwrap();
    }
}

/// A forged coin in a stored delta is found by the next block's root, be the record ever so well formed.
#[test]
fn a_forged_record_is_found_by_the_coins_commitment() {
    let network = funded_network(6, coins(100));
    let mut builder = ChainBuilder::new(&network);
    let coin = builder.spendable()[0];
    let half = Amount::from_sen(coin.1.output.amount.sen() / 2);
    let spend = builder.spend(&[coin], &[(testing::address(1), half), (testing::address(2), half)]);
    let block = builder.mine(vec![spend]);
    let next = builder.mine_empty(2);
    let mut rig = Rig::new(&network);
    rig.submit(&block).unwrap();
    submit_all(&mut rig, &next);
    // A record that claims a coin of another block's making.
    let mut forged = codec::encode(&builder.deltas[1]);
    let txid = coin.0.txid.as_bytes();
    let at = forged.windows(32).position(|window| window == txid).expect("the record names the coin");
    forged[at + 5] ^= 1;
    let Ok(forged) = codec::decode::<setara_core::consensus::BlockDelta>(&forged) else { panic!("still a record") };
    let mut batch = Batch::new();
    batch.put_undo(&block.hash(), &codec::encode(&forged));
    rig.store.write(batch, Durability::Synced).unwrap();
    assert!(check(&rig, None, None).is_err());
}
