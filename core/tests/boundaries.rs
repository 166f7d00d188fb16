//! Each limit exactly at its edge: the last value that is allowed and the first that is not.
//!
//! The table in `rules.rs` shows that every rule can be broken; this shows that none is off by one.

mod common;

use common::*;
use setara_core::address::Address;
use setara_core::amount::{Amount, SEN_PER_COIN};
use setara_core::block::Header;
use setara_core::codec::encode;
use setara_core::consensus::{HeaderState, RuleError, SpendContext, check_header, check_spend, check_transaction};
use setara_core::hash::TxId;
use setara_core::height::Height;
use setara_core::network::{Difficulty, Network, Parameters};
use setara_core::nonce::find_nonce;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Coin, Coinbase, OutPoint, Output};

fn amount(sen: u64) -> Amount {
    Amount::from_sen(sen)
}

fn altered(change: impl FnOnce(&mut Parameters)) -> Network {
    let mut parameters = (*network()).clone();
    change(&mut parameters);
    let header = parameters.genesis_block().header;
    let target = header.bits.to_target().unwrap();
    parameters.genesis_nonce = find_nonce(&header, target, 0..=u32::MAX).unwrap();
    Network::new(parameters).unwrap()
}

/// CS1. Every edge amount in every position of two inputs and two outputs, against sums in 128 bits.
#[test]
fn amounts_at_every_edge_in_every_position() {
    let network = network();
    let cap = network.supply_cap.sen();
    let edges = [0, 1, cap / 2, cap / 2 + 1, cap - 1, cap, cap + 1, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX];
    let mut accepted = 0;
    for a in edges {
        for b in edges {
            for c in edges {
                for d in edges {
                    let coins: Vec<_> = [(a, 0), (b, 1)]
                        .map(|(sen, index)| {
                            let output = Output { amount: amount(sen), address: key_address(0) };
                            let coin = Coin { output, height: Height::new(1), from_coinbase: false };
                            (OutPoint::new(TxId::ZERO, index), coin)
                        })
                        .to_vec();
                    let outputs = [c, d].map(|sen| Output { amount: amount(sen), address: key_address(1) }).to_vec();
                    let mut transaction = spend(&coins, outputs, vec![key_policy(0), key_policy(0)]);
                    for witness in &mut transaction.witnesses {
                        witness.signatures = vec![setara_core::keys::Signature::from_bytes([0; 64])];
                    }
                    let (spent, made) = (u128::from(a) + u128::from(b), u128::from(c) + u128::from(d));
                    let cap = u128::from(cap);
                    let sound = c > 0 && d > 0 && spent <= cap && made <= cap && made <= spent;
                    let checked = check_transaction(&network, &transaction);
                    assert_eq!(checked.is_ok(), sound, "{a} + {b} -> {c} + {d}: {checked:?}");
                    if let Ok(checked) = checked {
                        assert_eq!(u128::from(checked.fee.sen()), spent - made);
                        accepted += 1;
                    }
                }
            }
        }
    }
    assert!(accepted > 50, "{accepted} accepted");
}

/// CS1. The same for a coinbase: nothing between the allowed pay and 2^64 passes, alone or in a sum.
#[test]
fn coinbase_pay_at_every_edge() {
    let mut chain = Chain::new(network());
    chain.grow(1);
    let max = chain.network.subsidy(Height::new(2)).sen();
    let cap = chain.network.supply_cap.sen();
    for (first, second) in [
        (max, 0),
        (0, max),
        (max - 1, 1),
        (max, 1),
        (max + 1, 0),
        (cap, 0),
        (cap, cap),
        (cap + 1, 0),
        (u64::MAX, max + 1),
        (u64::MAX - max + 1, max),
        (u64::MAX, u64::MAX),
    ] {
        let mut block = chain.block(vec![]);
        block.coinbase.outputs =
            [first, second].map(|sen| Output { amount: amount(sen), address: key_address(0) }).to_vec();
        seal(&mut block);
        let sound = u128::from(first) + u128::from(second) <= u128::from(max);
        assert_eq!(chain.clone().accept(&block).is_ok(), sound, "{first} + {second} of {max}");
    }
}

/// CS1. All coins together: exactly the cap is allowed, one more is not, whatever a block by itself adds.
#[test]
fn supply_at_its_edge() {
    let mut chain = Chain::new(network());
    chain.grow(1);
    let block = chain.block(vec![]);
    let cap = chain.network.supply_cap;
    let paid = chain.network.subsidy(Height::new(2)).sen();
    for (room, sound) in [(paid + 1, true), (paid, true), (paid - 1, false), (0, false)] {
        let mut chain = chain.clone();
        chain.state.supply = amount(cap.sen() - room);
        let expected = if sound { Ok(()) } else { Err(RuleError::AboveCap { what: "all coins", cap }) };
        assert_eq!(chain.accept(&block), expected, "room for {room}");
    }
}

/// The bytes of one witness for policies of later versions, in one item and in two.
#[test]
fn future_bytes_at_their_edge() {
    let network = network();
    let rows: [(&[usize], bool); 6] = [
        (&[0], true),
        (&[4_096], true),
        (&[4_097], false),
        (&[4_095, 1], true),
        (&[4_096, 1], false),
        (&[1, 4_096], false),
    ];
    for (lengths, sound) in rows {
        let of = vec![SpendPolicy::Future { tag: 128, bytes: vec![] }; lengths.len()];
        let policy = SpendPolicy::Threshold { n: u8::try_from(of.len()).unwrap(), of };
        let output = Output { amount: amount(1_000), address: policy.address() };
        let coin = Coin { output, height: Height::new(1), from_coinbase: false };
        let mut transaction = spend(&[(OutPoint::new(TxId::ZERO, 0), coin)], vec![output], vec![policy]);
        transaction.witnesses[0].future = lengths.iter().map(|length| vec![0; *length]).collect();
        assert_eq!(check_transaction(&network, &transaction).is_ok(), sound, "{lengths:?}");
    }
}

/// CS15. The subsidy at each halving and the blocks beside it, to the end; its sum is what the network file states.
#[test]
fn subsidies_over_all_halvings() {
    for parameters in [(*Network::main()).clone(), (*Network::dev()).clone()] {
        let interval = u64::from(parameters.halving_interval);
        let subsidy = |height: u64| parameters.subsidy(Height::new(u32::try_from(height).unwrap())).sen();
        assert_eq!(subsidy(0), 0, "genesis makes nothing");
        let mut total = 0u128;
        for era in 0..70u64 {
            let expected = if era < 64 { (5 * SEN_PER_COIN) >> era } else { 0 };
            let (first, last) = (era * interval, (era + 1) * interval - 1);
            assert_eq!(subsidy(first.max(1)), expected, "first of era {era}");
            assert_eq!(subsidy(last), expected, "last of era {era}");
            total += u128::from(expected) * u128::from(if era == 0 { interval - 1 } else { interval });
        }
        assert_eq!(total, parameters.emission());
        assert!(total <= u128::from(parameters.supply_cap.sen()));
    }
}

/// CS15. The shift by 64 and more, block by block, on a network that halves every block.
#[test]
fn a_chain_lives_on_after_the_last_halving() {
    let mut chain = Chain::new(altered(|parameters| parameters.halving_interval = 1));
    chain.grow(70);
    assert_eq!(u128::from(chain.state.supply.sen()), chain.network.emission());
    let mut block = chain.block(vec![]);
    block.coinbase.outputs[0].amount = amount(1);
    seal(&mut block);
    assert_eq!(chain.accept(&block).unwrap_err().code(), "bad-cb-amount");
}

/// CS16. Each kind of lock one before, at, and one after its edge, with the largest values beside.
#[test]
fn locks_open_exactly_at_their_edge() {
    let network = network();
    let verdict = |policy: SpendPolicy, valid_from: u32, height: u32, median_time_past: u32, born: u32| {
        let output = Output { amount: amount(1_000), address: policy.address() };
        let coin = Coin { output, height: Height::new(born), from_coinbase: false };
        let outputs = vec![Output { amount: amount(900), address: key_address(0) }];
        let mut transaction = spend(&[(OutPoint::new(TxId::ZERO, 0), coin)], outputs, vec![policy]);
        transaction.valid_from = valid_from;
        let checked = check_transaction(&network, &transaction).unwrap();
        let context = SpendContext { height: Height::new(height), median_time_past };
        check_spend(&network, context, &transaction, &checked, &[Some(coin)]).is_ok()
    };
    for edge in [1, 2, 1_000, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1] {
        for (at, open) in [(edge - 1, false), (edge, true), (edge + 1, true)] {
            assert_eq!(verdict(SpendPolicy::After(edge), 0, at, 0, 0), open, "after {edge} at {at}");
            assert_eq!(verdict(SpendPolicy::AfterTime(edge), 0, 5, at, 0), open, "after-time {edge} at {at}");
            assert_eq!(verdict(SpendPolicy::Older(edge), 0, at, 0, 0), open, "older {edge} at age {at}");
            assert_eq!(verdict(SpendPolicy::After(0), edge, at, 0, 0), open, "valid from {edge} at {at}");
        }
    }
    for born in [1u32, 500, u32::MAX - 10] {
        assert!(!verdict(SpendPolicy::Older(10), 0, born + 9, 0, born));
        assert!(verdict(SpendPolicy::Older(10), 0, born + 10, 0, born));
        assert!(verdict(SpendPolicy::Older(0), 0, born, 0, born), "age 0 in the block that makes it");
    }
    for policy in [SpendPolicy::After, SpendPolicy::AfterTime, SpendPolicy::Older] {
        assert!(verdict(policy(u32::MAX), 0, u32::MAX, u32::MAX, 0));
        assert!(!verdict(policy(u32::MAX), 0, u32::MAX - 1, u32::MAX - 1, 0));
    }
    // A coin from above the block that would spend it: no age, no panic.
    assert!(!verdict(SpendPolicy::Older(0), 0, 5, 0, 6));
}

/// CS15. The last block before maturity, and the first at it, for a long maturity and heights near the end.
#[test]
fn maturity_is_exact() {
    let network = altered(|parameters| parameters.maturity = 100);
    for born in [0, 1, u32::MAX - 100] {
        let policy = SpendPolicy::After(0);
        let output = Output { amount: amount(1_000), address: policy.address() };
        let coin = Coin { output, height: Height::new(born), from_coinbase: true };
        let outputs = vec![Output { amount: amount(900), address: key_address(0) }];
        let transaction = spend(&[(OutPoint::new(TxId::ZERO, 0), coin)], outputs, vec![policy]);
        let checked = check_transaction(&network, &transaction).unwrap();
        let verdict = |age: u32| {
            let context = SpendContext { height: Height::new(born + age), median_time_past: 0 };
            check_spend(&network, context, &transaction, &checked, &[Some(coin)]).map_err(|error| error.code())
        };
        assert_eq!(verdict(99), Err("bad-txns-premature-spend-of-coinbase"));
        assert_eq!(verdict(100), Ok(()));
    }
}

/// A block of exactly the allowed size, and of one byte more; the same for a coinbase, its extra and a memo.
#[test]
fn sizes_at_their_edge() {
    let mut chain = Chain::new(altered(|parameters| parameters.max_block_bytes = 1_000));
    chain.grow(6);
    for (memo, sound) in [(0, true), (256, true), (257, false)] {
        let mut transaction = payment(&chain, chain.reward(1), 1_000, 100);
        transaction.memo = vec![1; memo];
        sign(&chain.network, &mut transaction, &[key(0)]);
        let block = chain.block(vec![transaction]);
        assert_eq!(chain.clone().accept(&block).is_ok(), sound, "memo of {memo}");
    }
    for (extra, sound) in [(200, true), (201, false)] {
        let mut block = chain.block(vec![]);
        block.coinbase.extra = vec![1; extra];
        seal(&mut block);
        assert_eq!(chain.clone().accept(&block).is_ok(), sound, "extra of {extra}");
    }
    let sized = |bytes: usize| {
        let mut transactions = vec![];
        for height in 1..=2 {
            let mut transaction = payment(&chain, chain.reward(height), 1_000, 100);
            transaction.memo = vec![1; 200];
            transactions.push(transaction);
        }
        let mut block = chain.block(transactions);
        let missing = bytes - encode(&block).len();
        block.transactions[0].memo.extend(vec![1; missing]);
        for transaction in &mut block.transactions {
            sign(&chain.network, transaction, &[key(0)]);
        }
        seal(&mut block);
        assert_eq!(encode(&block).len(), bytes);
        block
    };
    assert_eq!(chain.clone().accept(&sized(1_000)), Ok(()));
    assert_eq!(chain.clone().accept(&sized(1_001)).unwrap_err().code(), "bad-blk-length");

    let mut chain = Chain::new(network());
    for (bytes, sound) in [(100_000, true), (100_001, false)] {
        let mut block = chain.block(vec![]);
        block.coinbase.outputs = vec![Output { amount: Amount::ZERO, address: Address::ZERO }; 3_028];
        let missing = bytes - encode(&block.coinbase).len();
        block.coinbase.extra = vec![0; missing];
        seal(&mut block);
        assert_eq!(encode(&block.coinbase).len(), bytes);
        assert_eq!(chain.clone().accept(&block).is_ok(), sound, "coinbase of {bytes}");
    }
    chain.grow(1);
}

/// CS4. The smallest coinbase that decodes is above 64 bytes, so none can pose as an inner node.
#[test]
fn the_smallest_coinbase_is_above_a_tree_node() {
    let coinbase = Coinbase {
        height: Height::new(0),
        coins_root: setara_core::hash::Hash256::ZERO,
        outputs: vec![Output { amount: Amount::ZERO, address: Address::ZERO }],
        extra: vec![],
    };
    assert_eq!(encode(&coinbase).len() as u64, setara_core::limits::COINBASE_BYTES_MIN);
    const { assert!(setara_core::limits::COINBASE_BYTES_MIN > 64) };
}

/// PT7. Times at the end of 32 bits and far apart: the difficulty rule and the median neither panic nor wrap.
#[test]
fn times_at_both_ends_of_32_bits() {
    for difficulty in [Difficulty::Fixed, Difficulty::Asert { half_life: 86_400 }] {
        let network = altered(|parameters| {
            parameters.difficulty = difficulty;
            parameters.max_future_seconds = 600;
        });
        let mut state = HeaderState::genesis(&network);
        let first = network.genesis_time;
        let jumps = [first + 1, u32::MAX - 40, first + 2, u32::MAX - 39, first + 3, u32::MAX - 38];
        let later = (0..30).map(|step| u32::MAX - 37 + step);
        for time in jumps.into_iter().chain(later) {
            let mut header = Header {
                version: 0,
                previous: state.hash,
                merkle_root: setara_core::hash::Hash256::ZERO,
                time,
                bits: state.required_bits(&network),
                nonce: 0,
            };
            let target = header.bits.to_target().unwrap();
            assert!(target <= network.limit);
            header.nonce = find_nonce(&header, target, 0..=u32::MAX).expect("the dev limit is easy");
            match check_header(&network, &state, &header) {
                Ok(next) => state = next,
                Err(error) => assert_eq!(error.code(), "time-too-old"),
            }
        }
        assert!(state.height.get() > 20, "the chain reached 2106");
    }
}
