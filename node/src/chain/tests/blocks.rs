//! Single blocks: what connects, what is refused with which word, and what a refusal leaves behind.

use super::*;
use crate::testing::{ChainBuilder, break_signature, coins, funded_network, network, seal};
use setara_core::consensus::RuleError;
use setara_core::hash::Hash256;
use setara_core::pow::CompactBits;
use setara_core::transaction::{Output, Transaction};

fn funded() -> (ChainBuilder, Rig) {
    let network = funded_network(8, coins(10));
    (ChainBuilder::new(&network), Rig::new(&network))
}

/// A spend of the builder's `index`-th coin to key 9, fee one coin.
fn spend(builder: &ChainBuilder, index: usize) -> Transaction {
    let coin = builder.spendable()[index];
    builder.spend(&[coin], &[(testing::address(9), coin.1.output.amount.checked_sub(coins(1)).unwrap())])
}

#[test]
fn chain_blocks_connect_and_are_stored() {
    let (mut builder, mut rig) = funded();
    rig.assert_is(&builder);
    for index in 0..5 {
        let block = builder.mine(vec![spend(&builder, index)]);
        assert_eq!(rig.submit(&block), Ok(Accepted::Connected));
        rig.assert_is(&builder);
        assert_eq!(rig.submit(&block), Ok(Accepted::Duplicate));
    }
    let rig = rig.reopen();
    rig.assert_is(&builder);
}

#[test]
fn chain_a_block_spends_within_itself() {
    let (mut builder, mut rig) = funded();
    let first = spend(&builder, 0);
    let made = Coin { output: first.outputs[0], height: testing::height(1), from_coinbase: false };
    let second = builder.spend(&[(OutPoint::new(first.txid(), 0), made)], &[(testing::address(3), coins(8))]);
    let block = builder.mine(vec![first, second]);
    assert_eq!(rig.submit(&block), Ok(Accepted::Connected));
    rig.assert_is(&builder);
}

/// CS2, CS3: a coin spent twice (in one transaction, by two of a block, by a later block), spent before it is made,
/// never made, or made on another branch.
#[test]
fn cs2_cs3_double_and_premature_spends() {
    let (mut builder, mut rig) = funded();
    let block = builder.mine(vec![spend(&builder, 0)]);
    rig.submit(&block).unwrap();
    let spent = builder.deltas[1].spent()[0];
    let pair = builder.spendable()[0];
    let other = builder.spendable()[1];
    let pay = |inputs: &[(OutPoint, Coin)], amount| builder.spend(inputs, &[(testing::address(9), coins(amount))]);

    let twice_in_one = pay(&[pair, pair], 2);
    let by_two = vec![pay(&[pair], 2), pay(&[pair], 3)];
    let again = pay(&[(spent.0, spent.1)], 2);
    let first = pay(&[other], 5);
    let made = Coin { output: first.outputs[0], height: testing::height(2), from_coinbase: false };
    let second = pay(&[(OutPoint::new(first.txid(), 0), made)], 4);
    let no_such = pay(&[(OutPoint::new(first.txid(), 7), made)], 4);
    let coinbase_of_this = builder.build(Vec::new());
    let own_reward =
        Coin { output: coinbase_of_this.coinbase.outputs[0], height: testing::height(2), from_coinbase: true };
    let from_own_coinbase = pay(&[(OutPoint::new(coinbase_of_this.coinbase.txid(), 0), own_reward)], 0);

    let rows: Vec<(&str, Vec<Transaction>, bool)> = vec![
        ("bad-txns-inputs-duplicate", vec![twice_in_one], false),
        ("bad-txns-double-spend", by_two, false),
        ("bad-txns-inputs-missingorspent", vec![again], true),
        ("bad-txns-spent-too-early", vec![second.clone(), first.clone()], false),
        ("bad-txns-no-such-output", vec![first.clone(), no_such], false),
        ("bad-txns-vout-zero", vec![from_own_coinbase], false),
    ];
    for (code, transactions, suspect) in rows {
        let block = builder.build(transactions);
        match rig.submit(&block) {
            Err(SubmitError::SetAside(error)) if suspect => {
                assert_eq!(error.code(), code);
                rig.audit().unwrap();
                assert_eq!(rig.submit(&block), Err(SubmitError::Invalid(error)));
            }
            Err(SubmitError::Invalid(error)) if !suspect => assert_eq!(error.code(), code),
            other => panic!("{code}: {other:?}"),
        }
        rig.assert_is(&builder);
    }
    let block = builder.mine(vec![first, second]);
    assert_eq!(rig.submit(&block), Ok(Accepted::Connected));
    rig.assert_is(&builder);
}

#[test]
fn chain_a_bad_signature_is_invalid_for_good() {
    let (mut builder, mut rig) = funded();
    let mut transactions: Vec<_> = (0..4).map(|index| spend(&builder, index)).collect();
    break_signature(&mut transactions[2]);
    let bad = builder.build(transactions);
    let error = SubmitError::Invalid(RuleError::BadSignature { transaction: 3 });
    assert_eq!(rig.submit(&bad), Err(error.clone()));
    assert_eq!(rig.submit(&bad), Err(error));
    let mut child = builder.clone();
    child.apply(&bad).unwrap();
    assert_eq!(rig.submit(&child.build(Vec::new())), Err(SubmitError::InvalidParent(bad.hash())));
    let mut rig = rig.reopen();
    assert_eq!(rig.submit(&bad), Err(SubmitError::DuplicateInvalid), "the verdict, not the reason, survives a restart");
    let good = builder.mine(Vec::new());
    assert_eq!(rig.submit(&good), Ok(Accepted::Connected));
    rig.assert_is(&builder);
}

/// ST13: a body that is not the header's, sent first, in every order with the child, does not stand in the way.
#[test]
fn st13_mutated_bodies_leave_no_trace() {
    let network = funded_network(8, coins(10));
    let mut builder = ChainBuilder::new(&network);
    let good = builder.mine((0..3).map(|index| spend(&ChainBuilder::new(&network), index)).collect());
    let child = builder.mine(Vec::new());
    let mut missing = good.clone();
    missing.transactions.pop();
    let mut doubled = good.clone();
    // Four leaves, the last pair repeated: the same root (CVE-2012-2459).
    doubled.transactions.push(doubled.transactions[1].clone());
    doubled.transactions.push(doubled.transactions[2].clone());
    let mut swapped = good.clone();
    swapped.coinbase.extra = vec![1];
    let mut other_signature = good.clone();
    break_signature(&mut other_signature.transactions[0]);
    for bad in [missing, doubled, swapped, other_signature] {
        assert_eq!(bad.hash(), good.hash());
        for order in [[0, 1, 2], [1, 0, 2], [0, 0, 2]] {
            let mut rig = Rig::new(&network);
            for step in order {
                match step {
                    0 => assert!(matches!(rig.submit(&bad), Err(SubmitError::Mutated(_)))),
                    1 => assert_eq!(rig.submit(&child), Err(SubmitError::MissingParent(good.hash()))),
                    _ => assert_eq!(rig.submit(&good), Ok(Accepted::Connected)),
                }
            }
            assert_eq!(rig.submit(&child), Ok(Accepted::Connected));
            rig.assert_is(&builder);
        }
    }
}

/// PT5: a block from the future is held back, not judged; it connects when its time has come, and the queue is bounded.
#[test]
fn pt5_early_blocks_are_held_back() {
    let (mut builder, mut rig) = funded();
    let block = builder.mine(Vec::new());
    let limit = u64::from(rig.network.max_future_seconds);
    let at = |time: u64| Now { unix_seconds: time, monotonic: Duration::ZERO };
    let early = at(u64::from(block.header.time) - limit - 1);
    for _ in 0..2 {
        let refused = rig.core.submit(block.clone(), Origin::Wanted, early);
        assert!(matches!(refused, Err(SubmitError::Early(RuleError::TimeTooNew { .. }))));
    }
    // The same header with another body is not held in its place.
    let mut forged = block.clone();
    forged.coinbase.extra.push(1);
    assert!(matches!(rig.core.submit(forged, Origin::Wanted, early), Err(SubmitError::Mutated(_))));
    assert_eq!((rig.core.early_blocks(), rig.core.is_bad(&block.hash())), (1, None));
    rig.core.tick(early).unwrap();
    assert_eq!(rig.core.tip().height(), testing::height(0));
    rig.core.tick(at(early.unix_seconds + 1)).unwrap();
    rig.assert_is(&builder);

    for number in 0..EARLY_BLOCKS_MAX as u32 + 10 {
        let mut far = builder.build(Vec::new());
        far.header.time += 1_000 + number;
        let now = at(u64::from(builder.state.header.time()) - limit);
        assert!(matches!(rig.core.submit(seal(far), Origin::Wanted, now), Err(SubmitError::Early(_))));
    }
    assert_eq!(rig.core.early_blocks(), EARLY_BLOCKS_MAX);
}

/// PT8: work decides, not height: a short hard branch beats a long easy one.
#[test]
fn pt8_work_beats_height() {
    let network = network(|parameters| {
        parameters.difficulty = setara_core::network::Difficulty::Asert { half_life: 100 };
        parameters.max_future_seconds = 1;
        parameters.spacing = 10;
        parameters.genesis_bits = CompactBits::new(0x2000_ffff);
        parameters.maturity = 1;
    });
    let mut slow = ChainBuilder::new(&network);
    let mut fast = slow.clone();
    let mut rig = Rig::new(&network);
    slow.mine_empty(1);
    fast.blocks.push(slow.blocks[1].clone());
    fast.blocks.pop();
    fast.apply(&slow.blocks[1]).unwrap();
    rig.submit(&slow.blocks[1]).unwrap();
    // Blocks far apart are easy, blocks close together are hard.
    for _ in 0..12 {
        let mut block = slow.build(Vec::new());
        block.header.time += 90;
        let block = seal(block);
        slow.apply(&block).unwrap();
        rig.submit(&block).unwrap();
    }
    for _ in 0..10 {
        let mut block = fast.build(Vec::new());
        block.header.time = fast.state.header.median_time_past() + 1;
        let block = seal(block);
        fast.apply(&block).unwrap();
        rig.submit(&block).unwrap();
    }
    assert!(fast.height() < slow.height() && fast.state.header.work > slow.state.header.work);
    rig.assert_is(&fast);
    rig.reopen().assert_is(&fast);
}

/// ST14: the widest fan-out and fan-in of the largest block connect and revert on the smallest settings.
#[test]
fn st14_largest_blocks_commit_on_the_smallest_settings() {
    let network = network(|parameters| {
        parameters.maturity = 1;
        parameters.max_block_bytes = 1_000_000;
        parameters.allocations = vec![Output { amount: coins(1_000), address: testing::address(1) }];
    });
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    let outputs = vec![(testing::address(2), Amount::from_sen(200)); 29_000];
    let coin = builder.spendable()[0];
    let wide = builder.mine(vec![builder.spend(&[coin], &outputs)]);
    assert!(codec::encode(&wide).len() > 950_000);
    assert_eq!(rig.submit(&wide), Ok(Accepted::Connected));
    rig.assert_is(&builder);
    let before = builder.clone();
    let narrow: Vec<_> = builder.spendable().into_iter().filter(|(_, coin)| coin.output.amount.sen() == 200).collect();
    let fan_in = builder.spend(&narrow[..7_000], &[(testing::address(3), Amount::from_sen(1))]);
    let block = builder.mine(vec![fan_in]);
    assert!(codec::encode(&block).len() > 900_000);
    assert_eq!(rig.submit(&block), Ok(Accepted::Connected));
    rig.assert_is(&builder);
    let mut fork = before;
    fork.extra = vec![7];
    let blocks = fork.mine_empty(2);
    submit_all(&mut rig, &blocks);
    rig.assert_is(&fork);
}

/// CS11: a remembered signature says nothing about locks: valid from one height on, whatever is known.
#[test]
fn cs11_known_signatures_do_not_open_locks() {
    let network = funded_network(8, coins(10));
    let known = Arc::new(KnownSignatures::default());
    let verifier = Verifier::new(network.clone(), known.clone(), Some(1));
    let mut rig = Rig::over(&network, MemoryStore::new(), verifier).unwrap();
    let mut builder = ChainBuilder::new(&network);
    let coin = builder.spendable()[0];
    let locked = builder.spend_from(&[coin], &[(testing::address(9), coins(1))], 3);
    known.insert(locked.wtxid());
    rig.submit(&builder.mine(Vec::new())).unwrap();
    let too_soon = builder.build(vec![locked.clone()]);
    let error = rig.submit(&too_soon).unwrap_err();
    assert_eq!(error.rule().map(RuleError::code), Some("bad-txns-nonfinal"));
    rig.submit(&builder.mine(Vec::new())).unwrap();
    let fork = builder.clone();
    rig.submit(&builder.mine(vec![locked.clone()])).unwrap();
    rig.assert_is(&builder);
    // And what is known is not verified again: the same wtxid cannot hide another signature.
    let mut forged = locked.clone();
    break_signature(&mut forged);
    assert_ne!(forged.wtxid(), locked.wtxid());
    let mut fork = fork;
    fork.extra = vec![1];
    let bad = fork.build(vec![forged]);
    assert_eq!(rig.submit(&bad), Ok(Accepted::SideBranch), "not looked at until it is the best");
    fork.apply(&bad).unwrap();
    let above = fork.build(Vec::new());
    assert!(matches!(rig.submit(&above), Err(SubmitError::InvalidParent(_))));
    rig.assert_is(&builder);
}

/// CS19: blocks whose header fields are anything do not panic and do not connect.
#[test]
fn cs19_odd_headers_are_refused() {
    let (builder, mut rig) = funded();
    let base = builder.build(Vec::new());
    for bits in [0, 1, 0x0100_0000, 0x2100_ffff, 0xffff_ffff, 0x207f_fffe, 0x0080_0000, 0x1d00_ffff] {
        let mut block = base.clone();
        block.header.bits = CompactBits::new(bits);
        assert!(matches!(rig.submit(&block), Err(SubmitError::Invalid(_))), "{bits:x}");
    }
    for time in [0, builder.state.header.time()] {
        let mut block = base.clone();
        block.header.time = time;
        let error = rig.submit(&seal(block)).unwrap_err();
        assert_eq!(error.rule().map(RuleError::code), Some("time-too-old"));
    }
    let mut block = base.clone();
    block.coinbase.height = testing::height(u32::MAX);
    let error = rig.submit(&seal(block)).unwrap_err();
    assert_eq!(error.rule().map(RuleError::code), Some("bad-cb-height"));
    let mut block = base.clone();
    block.header.merkle_root = Hash256::ZERO;
    testing::mine_header(&mut block.header);
    assert!(matches!(rig.submit(&block), Err(SubmitError::Mutated(_))));
    assert_eq!(rig.submit(&base), Ok(Accepted::Connected));
}
