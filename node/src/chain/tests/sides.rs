//! Branches: which one wins, what is kept of the others, and getting from one to another and back.

use super::*;
use crate::store::schema::PutRows;
use crate::store::{Batch, Durability, Store};
use crate::testing::{ChainBuilder, break_signature, coins, funded_network, quick_network, seal};
use setara_core::pow::CompactBits;

fn fork(builder: &ChainBuilder, name: u8) -> ChainBuilder {
    let mut fork = builder.clone();
    fork.extra = vec![name];
    fork
}

fn rows_of(store: &MemoryStore) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    [Column::Coins, Column::Heights, Column::Meta].into_iter().map(|column| store.rows(column)).collect()
}

/// ST10: reverting is the inverse of connecting, down to the stored bytes.
#[test]
fn st10_connect_then_revert_restores_the_stored_bytes() {
    let network = funded_network(6, coins(10));
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(3));
    rig.settle();
    let before = (rows_of(&rig.store), builder.clone());
    for _ in 0..4 {
        let spends: Vec<_> = builder.spendable().into_iter().take(4).collect();
        let sum = Amount::checked_sum(spends.iter().map(|(_, coin)| coin.output.amount)).unwrap();
        let half = Amount::from_sen(sum.sen() / 2);
        let transaction = builder.spend(&spends, &[(testing::address(2), half), (testing::address(3), half)]);
        rig.submit(&builder.mine(vec![transaction])).unwrap();
        rig.assert_is(&builder);
    }
    let first = builder.blocks[4].hash();
    let now = rig.now();
    rig.core.invalidate(&first, now).unwrap();
    rig.settle();
    assert_eq!(rows_of(&rig.store), before.0);
    rig.assert_is(&before.1);
    rig.core.reconsider(&first, now).unwrap();
    rig.assert_is(&builder);
    let mut rig = rig.reopen();
    rig.core.invalidate(&first, now).unwrap();
    rig.settle();
    assert_eq!(rows_of(&rig.store), before.0);
    assert_eq!(rig.submit(&builder.blocks[4].clone()), Err(SubmitError::DuplicateInvalid));
    // The wish survives a restart.
    let mut rig = rig.reopen();
    rig.assert_is(&before.1);
    rig.core.reconsider(&first, now).unwrap();
    rig.assert_is(&builder);
}

/// ST11: on equal work the body received first stays the tip, also after restarts; one more block decides.
#[test]
fn st11_the_first_body_wins_a_tie() {
    let network = quick_network();
    let base = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let mut first = fork(&base, 1);
    let mut second = fork(&base, 2);
    let a = first.mine_empty(2);
    let b = second.mine_empty(2);
    assert_eq!(rig.submit(&a[0]), Ok(Accepted::Connected));
    assert_eq!(rig.submit(&b[0]), Ok(Accepted::SideBranch));
    assert_eq!(rig.submit(&b[1]), Ok(Accepted::Connected));
    assert_eq!(rig.submit(&a[1]), Ok(Accepted::SideBranch));
    rig.assert_is(&second);
    for _ in 0..3 {
        rig = rig.reopen();
        rig.assert_is(&second);
    }
    let now = rig.now();
    // Invalidate and reconsider: the branch received first is the best again.
    rig.core.invalidate(&b[1].hash(), now).unwrap();
    rig.assert_is(&first);
    rig = rig.reopen();
    rig.assert_is(&first);
    rig.core.reconsider(&b[1].hash(), now).unwrap();
    rig.assert_is(&second);
    let more = first.mine_empty(1);
    assert_eq!(rig.submit(&more[0]), Ok(Accepted::Connected));
    rig.assert_is(&first);
}

/// ST11: what builds on a failed block fails with it, whenever it comes; the next best branch is taken.
#[test]
fn st11_failure_is_inherited() {
    let network = funded_network(6, coins(10));
    let base = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let mut good = fork(&base, 1);
    submit_all(&mut rig, &good.mine_empty(2));
    let mut bad = fork(&base, 2);
    let coin = bad.spendable()[0];
    let mut transaction = bad.spend(&[coin], &[(testing::address(9), coins(1))]);
    break_signature(&mut transaction);
    let mut blocks: Vec<Block> = vec![bad.mine(vec![transaction])];
    blocks.extend(bad.mine_empty(3));
    assert_eq!(rig.submit(&blocks[0]), Ok(Accepted::SideBranch));
    assert_eq!(rig.submit(&blocks[1]), Ok(Accepted::SideBranch));
    assert_eq!(rig.submit(&blocks[2]), Err(SubmitError::InvalidParent(blocks[1].hash())));
    rig.assert_is(&good);
    assert_eq!(rig.submit(&blocks[3]), Err(SubmitError::InvalidParent(blocks[2].hash())));
    let tips = rig.core.tips();
    let status: Vec<_> = tips.iter().map(|tip| (tip.status.as_str(), tip.branch_length)).collect();
    assert_eq!(status, [("active", 0), ("invalid", 3)]);
    let mut rig = rig.reopen();
    rig.assert_is(&good);
    assert_eq!(rig.submit(&blocks[2]), Err(SubmitError::InvalidParent(blocks[1].hash())));
    assert!(schema::body(&rig.store, &blocks[0].hash()).unwrap().is_none(), "the body of a failed block is not kept");
}

/// ST12: blocks nobody asked for are kept only if they could become the tip; ten thousand of them leave nothing.
#[test]
fn st12_unrequested_side_blocks_take_no_space() {
    let network = quick_network();
    let base = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let mut best = base.clone();
    submit_all(&mut rig, &best.mine_empty(3));
    let size = |rig: &Rig| -> usize {
        Column::ALL
            .into_iter()
            .flat_map(|column| rig.store.rows(column))
            .map(|(key, value)| key.len() + value.len())
            .sum()
    };
    let before = size(&rig);
    let now = rig.now();
    for number in 0..10_000u32 {
        let mut side = base.clone();
        side.extra = number.to_le_bytes().to_vec();
        let block = side.build(Vec::new());
        assert_eq!(rig.core.submit(block, Origin::Unrequested, now), Ok(Accepted::Ignored));
    }
    assert_eq!(size(&rig), before);
    // Equal work is kept: it may become the best.
    let mut rival = fork(&base, 9);
    let blocks = rival.mine_empty(4);
    submit_all(&mut rig, &blocks[..2]);
    assert_eq!(rig.core.submit(blocks[2].clone(), Origin::Unrequested, now), Ok(Accepted::SideBranch));
    assert_eq!(rig.core.submit(blocks[3].clone(), Origin::Unrequested, now), Ok(Accepted::Connected));
    rig.assert_is(&rival);
}

/// ST9: deep reorganisations both ways on the smallest cache, in many flushed steps.
#[test]
fn st9_deep_reorganisations_both_ways() {
    let network = funded_network(4, coins(1_000));
    let base = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let mut branches: Vec<ChainBuilder> = (1..=2).map(|name| fork(&base, name)).collect();
    let mut total = 0;
    for (index, depth) in [(0, 300u32), (1, 340), (0, 380)] {
        let branch = &mut branches[index];
        let mut blocks = Vec::new();
        while branch.height() < depth {
            let coin = branch.spendable().into_iter().max_by_key(|(_, coin)| coin.output.amount).unwrap();
            let share = Amount::from_sen(coin.1.output.amount.sen() / 8);
            let outputs: Vec<_> = (0..8).map(|number| (testing::address(number), share)).collect();
            let transaction = branch.spend(&[coin], &outputs);
            blocks.push(branch.mine(vec![transaction]));
        }
        total += blocks.len();
        submit_all(&mut rig, &blocks);
        rig.assert_is(branch);
    }
    assert!(total > 700);
    rig.reopen().assert_is(&branches[0]);
}

/// ST9: an operator's limit is kept, until the operator says otherwise.
#[test]
fn st9_max_reorg_is_kept() {
    let network = quick_network();
    let base = ChainBuilder::new(&network);
    let options = ChainOptions { max_reorg: Some(2), ..small() };
    let mut rig = Rig::with(&network, MemoryStore::new(), testing::verifier(&network), options).unwrap();
    let mut ours = fork(&base, 1);
    submit_all(&mut rig, &ours.mine_empty(3));
    let mut theirs = fork(&base, 2);
    let blocks = theirs.mine_empty(5);
    submit_all(&mut rig, &blocks);
    rig.assert_is(&ours);
    submit_all(&mut rig, &ours.mine_empty(1));
    rig.assert_is(&ours);
    let mut near = fork(&ours, 3);
    near.blocks.truncate(3);
    let mut near = {
        let mut builder = fork(&base, 3);
        for block in &ours.blocks[1..3] {
            builder.apply(block).unwrap();
        }
        builder
    };
    let blocks = near.mine_empty(3);
    submit_all(&mut rig, &blocks);
    rig.assert_is(&near);
}

/// A stop does not wait for a long reorganisation; the next start goes on with it.
#[test]
fn chain_a_stop_ends_a_long_reorganisation_between_two_blocks() {
    let network = quick_network();
    let base = ChainBuilder::new(&network);
    let options = small();
    let stop = options.stop.clone();
    let mut rig = Rig::with(&network, MemoryStore::new(), testing::verifier(&network), options).unwrap();
    let mut ours = fork(&base, 1);
    submit_all(&mut rig, &ours.mine_empty(40));
    let mut theirs = fork(&base, 2);
    let blocks = theirs.mine_empty(41);
    submit_all(&mut rig, &blocks[..40]);
    stop.cancel();
    assert_eq!(rig.submit(&blocks[40]), Err(SubmitError::Stopping));
    rig.assert_is(&ours);
    rig.reopen().assert_is(&theirs);
}

#[test]
fn chain_children_before_parents_are_not_kept() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let blocks = builder.mine_empty(3);
    let mut rig = Rig::new(&network);
    assert_eq!(rig.submit(&blocks[2]), Err(SubmitError::MissingParent(blocks[1].hash())));
    assert_eq!(rig.submit(&blocks[1]), Err(SubmitError::MissingParent(blocks[0].hash())));
    submit_all(&mut rig, &blocks);
    rig.assert_is(&builder);
}

/// RW7: a view answers from one moment, whatever happens meanwhile; followers find their way from any block.
#[test]
fn rw7_views_are_of_one_moment() {
    let network = funded_network(4, coins(10));
    let base = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let mut first = fork(&base, 1);
    let coin = first.spendable()[0];
    let transaction = first.spend(&[coin], &[(testing::address(2), coins(3))]);
    submit_all(&mut rig, &[first.mine(vec![transaction])]);
    submit_all(&mut rig, &first.mine_empty(2));
    let old = rig.core.shared.view();
    let mut second = fork(&base, 2);
    submit_all(&mut rig, &second.mine_empty(4));
    let new = rig.core.shared.view();
    for (view, builder) in [(&old, &first), (&new, &second)] {
        assert_eq!(view.tip, builder.state);
        let coins: BTreeMap<_, _> = view.iterate_coins().map(Result::unwrap).collect();
        assert_eq!(coins, builder.coins);
        assert_eq!(view.coins_total().unwrap().count, coins.len() as u64);
        assert_eq!(view.coins_total().unwrap().sum, builder.state.supply.sen());
        for (height, block) in (0u32..).zip(&builder.blocks) {
            assert_eq!(view.hash_at(testing::height(height)).unwrap(), Some(block.hash()));
            assert!(view.in_active_chain(&block.hash()).unwrap());
            assert_eq!(view.block(&block.hash()).unwrap().as_ref(), Some(block));
            let row = view.header(&block.hash()).unwrap().unwrap();
            assert_eq!((row.height.get(), row.tx_count as usize), (height, block.transactions.len() + 1));
        }
        assert_eq!(view.hash_at(testing::height(builder.height() + 1)).unwrap(), None);
    }
    assert!(old.updates_since(first.tip()).unwrap().is_empty());
    let updates = new.updates_since(first.tip()).unwrap();
    let hashes = |blocks: &[Block]| blocks.iter().map(Block::hash).collect::<Vec<_>>();
    let mut reverted = hashes(&first.blocks[1..]);
    reverted.reverse();
    assert_eq!((updates.revert, updates.apply, updates.more), (reverted, hashes(&second.blocks[1..]), false));
    let row = new.header(&second.tip()).unwrap().unwrap();
    assert_eq!(row.chain_tx_count, 5);
}

#[test]
fn chain_updates_come_in_bounded_pieces() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let blocks = builder.mine_empty(UPDATES_MAX as u32 + 5);
    let mut encoded = blocks.iter().map(codec::encode);
    let now = rig.now();
    let (taken, result) = rig.core.load(&mut encoded, &|| now, &mut |_| std::ops::ControlFlow::Continue(()));
    assert_eq!((taken, result), (blocks.len() as u64, Ok(())));
    rig.assert_is(&builder);
    let view = rig.core.shared.view();
    let updates = view.updates_since(network.genesis_hash()).unwrap();
    assert!(updates.more && updates.apply.len() == UPDATES_MAX);
    let rest = view.updates_since(*updates.apply.last().unwrap()).unwrap();
    assert_eq!((rest.apply.len(), rest.more), (5, false));
}

/// A load stops at the first block that is refused, and keeps what came before.
#[test]
fn chain_load_stops_at_the_first_bad_block() {
    let network = funded_network(40, coins(10));
    let mut builder = ChainBuilder::new(&network);
    let mut blocks = Vec::new();
    for number in 0..20 {
        let coin = builder.spendable()[number];
        let transaction = builder.spend(&[coin], &[(testing::address(2), coins(3))]);
        blocks.push(builder.mine(vec![transaction]));
    }
    let mut before = ChainBuilder::new(&network);
    for block in &blocks[..12] {
        before.apply(block).unwrap();
    }
    let coin = before.spendable()[20];
    let mut forged = before.spend(&[coin], &[(testing::address(2), coins(3))]);
    break_signature(&mut forged);
    let signature = before.build(vec![forged]);
    let mut overpaid = before.build(Vec::new());
    overpaid.coinbase.outputs[0].amount = coins(5_000);
    let overpaid = seal(overpaid);
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (codec::encode(&signature), "bad-signature"),
        (codec::encode(&overpaid), "bad-cb-amount"),
        (vec![1, 2, 3], ""),
    ];
    for (bad, code) in rows {
        let mut rig = Rig::new(&network);
        let now = rig.now();
        let mut encoded: Vec<Vec<u8>> = blocks.iter().map(codec::encode).collect();
        encoded[12] = bad;
        let (taken, result) =
            rig.core.load(&mut encoded.into_iter(), &|| now, &mut |_| std::ops::ControlFlow::Continue(()));
        let error = result.unwrap_err();
        assert_eq!((taken, error.rule().map_or("", |rule| rule.code())), (12, code), "{error}");
        rig.assert_is(&before);
    }
}

/// CS20: what is stored was checked when it came. If its bytes have changed since, under a seal that fits, the node is
/// damaged, whatever rule the bytes break now; the block is not.
#[test]
fn cs20_a_damaged_stored_body_is_no_verdict() {
    type Damage = fn(&mut Block);
    let damages: [Damage; 5] = [
        |block| block.header.nonce ^= 1 << 31,
        |block| block.header.bits = CompactBits::new(0),
        |block| block.header.bits = CompactBits::new(0x0300_0001),
        |block| block.coinbase.outputs.clear(),
        |block| block.coinbase.height = testing::height(7),
    ];
    let network = quick_network();
    for (number, damage) in damages.into_iter().enumerate() {
        let base = ChainBuilder::new(&network);
        let mut rig = Rig::new(&network);
        submit_all(&mut rig, &fork(&base, 1).mine_empty(2));
        let blocks = fork(&base, 2).mine_empty(3);
        assert_eq!(rig.submit(&blocks[0]), Ok(Accepted::SideBranch));
        let mut damaged = blocks[0].clone();
        damage(&mut damaged);
        let mut batch = Batch::new();
        batch.put_body(&blocks[0].hash(), &codec::encode(&damaged));
        rig.store.write(batch, Durability::Synced).unwrap();
        assert_eq!(rig.submit(&blocks[1]), Ok(Accepted::SideBranch));
        let error = rig.submit(&blocks[2]).unwrap_err();
        assert!(matches!(error, SubmitError::Fault(ChainFault::Damaged(_))), "{number}: {error}");
        for block in &blocks {
            assert_eq!(rig.core.is_bad(&block.hash()), Some(false), "{number}");
            let row = schema::header(&rig.store, &block.hash()).unwrap();
            assert!(row.is_none_or(|row| row.flags & schema::flags::FAILED == 0), "{number}");
        }
    }
}
