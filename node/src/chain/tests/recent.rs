//! Coins whose rows are behind the tip: what readers see, what a start makes of them, and how far they may be behind.

use super::crash::history;
use super::*;
use crate::testing::{ChainBuilder, coins, funded_network, quick_network};
use std::collections::BTreeSet;

/// Every answer about coins is that of the naive ledger, whichever blocks' rows are stored, across a reorganisation.
#[test]
fn readers_see_the_coins_after_the_tip() {
    let (network, blocks, builders) = history();
    let every: BTreeSet<OutPoint> = builders.values().flat_map(|builder| builder.coins.keys().copied()).collect();
    let every: Vec<OutPoint> = every.into_iter().collect();
    for settled in 0..=blocks.len() {
        let mut rig = Rig::new(&network);
        for (number, block) in blocks.iter().enumerate() {
            if number == settled {
                rig.settle();
            }
            rig.submit(block).unwrap();
            let view = rig.core.shared.view();
            let ledger = &builders[&view.tip.hash()];
            let listed: Vec<(OutPoint, Coin)> = view.iterate_coins().map(Result::unwrap).collect();
            assert!(listed.is_sorted_by_key(|(outpoint, _)| *outpoint) && listed.len() == ledger.coins.len());
            assert_eq!(listed.into_iter().collect::<BTreeMap<_, _>>(), ledger.coins);
            let expected: Vec<_> = every.iter().map(|outpoint| ledger.coins.get(outpoint).copied()).collect();
            assert_eq!(view.coins(&every).unwrap(), expected);
            for (outpoint, coin) in every.iter().zip(&expected) {
                assert_eq!(view.coin(outpoint).unwrap(), *coin);
            }
            let total = view.coins_total().unwrap();
            assert_eq!((total.count, total.sum), (ledger.coins.len() as u64, ledger.state.supply.sen()));
            // The same from what is stored alone, as an index sees it.
            let again = view.at(Arc::new(rig.store.clone())).unwrap();
            assert_eq!(again.coins(&every).unwrap(), expected);
        }
    }
}

/// A start after a crash repeats a bounded number of blocks, and afterwards the rows are the tip's.
#[test]
fn the_rows_are_never_far_behind() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let mut furthest = 0;
    for block in builder.mine_empty(100) {
        rig.submit(&block).unwrap();
        let rows = schema::coins_tip(&rig.store).unwrap().unwrap();
        furthest = furthest.max(rig.core.tip().height().get() - rows.height().get());
    }
    assert!((16..=32).contains(&furthest), "{furthest} blocks");
    let rig = rig.reopen();
    assert_eq!(schema::coins_tip(&rig.store).unwrap(), Some(builder.state));
    rig.assert_is(&builder);
}

/// A record that the coins need and that is gone, or another's, is this node's damage and said so.
#[test]
fn a_lost_record_of_recent_coins_is_damage() {
    let network = funded_network(6, coins(10));
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(12));
    let lost = builder.blocks[2].hash();
    let record = rig.store.get(Column::Undo, lost.as_bytes()).unwrap();
    let other = rig.store.get(Column::Undo, builder.blocks[3].hash().as_bytes()).unwrap();
    for wrong in [None, other] {
        rig.store.tamper(Column::Undo, lost.as_bytes(), wrong.as_deref());
        let store = rig.store.crash(u64::MAX);
        let error = Rig::over(&network, store, rig.verifier.clone()).err().expect("refused").to_string();
        assert!(error.contains(&lost.to_string()), "{error}");
        rig.store.tamper(Column::Undo, lost.as_bytes(), record.as_deref());
    }
    rig.reopen().assert_is(&builder);
}

/// ST8: a database of the first format, which stored the coins with every block, is taken over.
#[test]
fn st8_the_first_format_is_migrated() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(3));
    rig.settle();
    rig.store.tamper(Column::Meta, b"coins_tip", None);
    rig.store.tamper(Column::Meta, b"format", Some(&1u32.to_le_bytes()));
    let mut rig = rig.reopen();
    rig.assert_is(&builder);
    assert_eq!(rig.store.get(Column::Meta, b"format").unwrap(), Some(schema::FORMAT.to_le_bytes().to_vec()));
    submit_all(&mut rig, &builder.mine_empty(2));
    rig.reopen().assert_is(&builder);
}
