//! One valid block and a table of corruptions, each with the error it must meet: a row for every rule.
//!
//! Every corrupted block is re-signed where its signatures are not the point, committed to by its header, and mined
//! again, so that nothing but the rule under test can refuse it.

mod common;

use common::*;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec::{self, Codec};
use setara_core::consensus::{
    Class, RuleError, Serial, check_block, check_header, check_proposal, connect, connect_proposal, header_is_early,
};
use setara_core::hash::{BlockHash, Hash256, sha256};
use setara_core::height::Height;
use setara_core::keys::Signature;
use setara_core::limits;
use setara_core::network::Network;
use setara_core::policy::{PolicyError, SpendPolicy, Timelock};
use setara_core::pow::{CompactBits, PowError, Work};
use setara_core::transaction::{Coin, Input, OutPoint, Output, Transaction};

const PREIMAGE: [u8; 32] = [9; 32];

fn amount(sen: u64) -> Amount {
    Amount::from_sen(sen)
}

/// Locked by everything that can be revealed at once: a key, a hash, an age, a height, a time, and one hidden branch.
fn vault() -> SpendPolicy {
    SpendPolicy::Threshold {
        n: 5,
        of: vec![
            key_policy(2),
            SpendPolicy::Hash(sha256(&PREIMAGE)),
            SpendPolicy::Older(2),
            SpendPolicy::After(5),
            SpendPolicy::AfterTime(1),
            SpendPolicy::Opaque(key_address(3)),
        ],
    }
}

struct Case {
    chain: Chain,
    block: Block,
}

impl Case {
    /// Height 10: transaction 0 pays from a reward, 1 spends an output of 0, 2 opens the vault.
    fn valid() -> Self {
        let mut chain = Chain::new(network());
        chain.grow(6);
        let reward = chain.reward(1);
        let outputs = vec![Output { amount: amount(1_000_000), address: vault().address() }];
        let mut fund = spend(&[reward], outputs, vec![key_policy(0)]);
        sign(&chain.network, &mut fund, &[key(0)]);
        let vault_outpoint = OutPoint::new(fund.txid(), 0);
        let block = chain.block(vec![fund]);
        chain.accept(&block).unwrap();
        chain.grow(2);

        let first = payment(&chain, chain.reward(2), 1_000, 100);
        let made = first.outputs[0];
        let coin = Coin { output: made, height: Height::new(10), from_coinbase: false };
        let outputs = vec![Output { amount: amount(900), address: key_address(0) }];
        let mut second = spend(&[(OutPoint::new(first.txid(), 0), coin)], outputs, vec![key_policy(1)]);
        sign(&chain.network, &mut second, &[key(1)]);
        let outputs = vec![Output { amount: amount(999_000), address: key_address(0) }];
        let vault_coin = (vault_outpoint, chain.coins[&vault_outpoint]);
        let mut third = spend(&[vault_coin], outputs, vec![vault()]);
        third.witnesses[0].preimages = vec![PREIMAGE];
        sign(&chain.network, &mut third, &[key(2)]);
        let block = chain.block(vec![first, second, third]);
        Self { chain, block }
    }

    fn resign(&mut self, index: usize) {
        let keys = [key(0), key(1), key(2)];
        sign(&self.chain.network, &mut self.block.transactions[index], &keys);
    }

    fn tx(&mut self, index: usize) -> &mut Transaction {
        &mut self.block.transactions[index]
    }

    fn height(&self) -> Height {
        self.block.coinbase.height
    }
}

type Corrupt = fn(&mut Case) -> RuleError;

/// Rows whose body changes: the header commits to the corrupted body and is mined again.
const BODY: &[Corrupt] = &[
    |case| {
        case.block.coinbase.height = Height::new(11);
        RuleError::CoinbaseHeight { got: Height::new(11), expected: Height::new(10) }
    },
    |case| {
        let max = case.block.coinbase.outputs[0].amount;
        let got = max.checked_add(amount(1)).unwrap();
        case.block.coinbase.outputs[0].amount = got;
        RuleError::CoinbaseOverpays { got, max }
    },
    |case| {
        case.block.coinbase.outputs.clear();
        RuleError::CoinbaseShape { what: "output count", got: 0, min: 1, max: limits::COINBASE_BYTES_MAX }
    },
    |case| {
        case.block.coinbase.extra = vec![0; 201];
        RuleError::CoinbaseShape { what: "extra", got: 201, min: 0, max: 200 }
    },
    |case| {
        case.block.coinbase.outputs = vec![Output { amount: Amount::ZERO, address: Address::ZERO }; 3_100];
        let got = codec::encode(&case.block.coinbase).len() as u64;
        RuleError::CoinbaseShape { what: "size", got, min: limits::COINBASE_BYTES_MIN, max: 100_000 }
    },
    |case| {
        let cap = case.chain.network.supply_cap;
        case.block.coinbase.outputs = vec![Output { amount: cap, address: Address::ZERO }; 2];
        RuleError::AboveCap { what: "coinbase outputs", cap }
    },
    |case| {
        let expected = case.block.coinbase.coins_root;
        case.block.coinbase.coins_root = Hash256::ZERO;
        RuleError::CoinsRoot { got: Hash256::ZERO, expected }
    },
    |case| {
        // Four megabytes of memos.
        let copy = case.tx(0).clone();
        let mut number = 0;
        while codec::encode(&case.block).len() as u64 <= case.chain.network.max_block_bytes {
            for _ in 0..1_000 {
                let mut copy = copy.clone();
                copy.memo = vec![0; 256];
                copy.memo[..8].copy_from_slice(&u64::to_le_bytes(number));
                case.block.transactions.push(copy);
                number += 1;
            }
        }
        let got = codec::encode(&case.block).len() as u64;
        RuleError::BlockTooLarge { got, max: case.chain.network.max_block_bytes }
    },
    |case| {
        case.tx(0).inputs.clear();
        RuleError::NoInputs
    },
    |case| {
        case.tx(0).outputs.clear();
        case.resign(0);
        RuleError::NoOutputs
    },
    |case| {
        case.tx(0).witnesses.clear();
        RuleError::WitnessCount { got: 0, expected: 1 }
    },
    |case| {
        let witness = case.tx(0).witnesses[0].clone();
        case.tx(0).witnesses.push(witness);
        RuleError::WitnessCount { got: 2, expected: 1 }
    },
    |case| {
        // CS2, CVE-2018-17144.
        let (input, witness) = (case.tx(0).inputs[0], case.tx(0).witnesses[0].clone());
        case.tx(0).inputs.push(input);
        case.tx(0).witnesses.push(witness);
        case.resign(0);
        RuleError::DuplicateInput { outpoint: input.outpoint }
    },
    |case| {
        case.tx(0).outputs[1].amount = Amount::ZERO;
        case.resign(0);
        RuleError::ZeroOutput { index: 1 }
    },
    |case| {
        // CS1, CVE-2010-5139: the sum wraps to a small number.
        for output in &mut case.tx(0).outputs {
            output.amount = amount(u64::MAX / 2 + 1);
        }
        case.resign(0);
        RuleError::AboveCap { what: "outputs", cap: case.chain.network.supply_cap }
    },
    |case| {
        let cap = case.chain.network.supply_cap;
        case.tx(0).inputs[0].amount = cap.checked_add(amount(1)).unwrap();
        case.resign(0);
        RuleError::AboveCap { what: "inputs", cap }
    },
    |case| {
        case.tx(0).outputs[0].amount = case.tx(0).inputs[0].amount;
        case.resign(0);
        RuleError::NegativeFee
    },
    |case| {
        case.tx(0).memo = vec![0; 257];
        case.resign(0);
        RuleError::MemoTooLong { got: 257, max: 256 }
    },
    |case| {
        case.tx(2).witnesses[0].future = vec![vec![0; 4_097]];
        RuleError::FutureTooLong { input: 0, got: 4_097, max: 4_096 }
    },
    |case| {
        case.tx(2).witnesses[0].future = vec![vec![]];
        RuleError::Policy { input: 0, reason: PolicyError::FutureItems { items: 1, nodes: 0 } }
    },
    |case| {
        case.tx(0).witnesses[0].signatures.clear();
        RuleError::Policy { input: 0, reason: PolicyError::MissingSignature }
    },
    |case| {
        let signature = case.tx(0).witnesses[0].signatures[0];
        case.tx(0).witnesses[0].signatures.push(signature);
        RuleError::Policy { input: 0, reason: PolicyError::UnusedSignature }
    },
    |case| {
        case.tx(2).witnesses[0].preimages.clear();
        RuleError::Policy { input: 0, reason: PolicyError::MissingPreimage }
    },
    |case| {
        case.tx(2).witnesses[0].preimages.push(PREIMAGE);
        RuleError::Policy { input: 0, reason: PolicyError::UnusedPreimage }
    },
    |case| {
        case.tx(2).witnesses[0].preimages[0][31] ^= 1;
        RuleError::Policy { input: 0, reason: PolicyError::WrongPreimage }
    },
    |case| {
        // Revealing the hidden branch as well: one more than n.
        let SpendPolicy::Threshold { of, .. } = &mut case.tx(2).witnesses[0].policy else { unreachable!() };
        of[5] = key_policy(3);
        case.resign(2);
        RuleError::Policy { input: 0, reason: PolicyError::Revealed { n: 5, revealed: 6 } }
    },
    |case| {
        // Hiding a revealed one: one less than n.
        let SpendPolicy::Threshold { of, .. } = &mut case.tx(2).witnesses[0].policy else { unreachable!() };
        of[0] = SpendPolicy::Opaque(of[0].address());
        case.resign(2);
        RuleError::Policy { input: 0, reason: PolicyError::Revealed { n: 5, revealed: 4 } }
    },
    |case| {
        let mut deep = key_policy(0);
        for _ in 0..8 {
            deep = SpendPolicy::Threshold { n: 1, of: vec![deep] };
        }
        case.tx(0).witnesses[0].policy = deep;
        case.resign(0);
        RuleError::Policy { input: 0, reason: PolicyError::TooLarge }
    },
    |case| {
        case.tx(0).witnesses[0].signatures[0] = Signature::from_bytes([1; 64]);
        RuleError::BadSignature { transaction: 1 }
    },
    |case| {
        // Signed before the memo changed: the signature covers every byte of the id.
        case.tx(2).memo = vec![1];
        RuleError::BadSignature { transaction: 3 }
    },
    |case| {
        // CS3: two transactions of a block spend one coin.
        let mut twin = case.tx(0).clone();
        twin.memo = vec![1];
        let outpoint = twin.inputs[0].outpoint;
        case.block.transactions.push(twin);
        case.resign(3);
        RuleError::DoubleSpend { outpoint }
    },
    |case| {
        // CS2: a coin made in this block, spent twice.
        let mut twin = case.tx(1).clone();
        twin.memo = vec![1];
        let outpoint = twin.inputs[0].outpoint;
        case.block.transactions.push(twin);
        case.resign(3);
        RuleError::DoubleSpend { outpoint }
    },
    |case| {
        // CS3: spend before creation.
        case.block.transactions.swap(0, 1);
        let outpoint = case.tx(0).inputs[0].outpoint;
        RuleError::SpentTooEarly { outpoint }
    },
    |case| {
        // The block's own coinbase.
        let outpoint = OutPoint::new(case.block.coinbase.txid(), 0);
        case.tx(0).inputs[0] = Input { outpoint, amount: case.block.coinbase.outputs[0].amount };
        case.block.transactions.truncate(1);
        let outputs = &mut case.block.transactions[0].outputs;
        outputs.truncate(1);
        case.resign(0);
        // Fees of the removed transactions are no longer earned.
        case.block.coinbase.outputs[0].amount = amount(0);
        let outpoint = OutPoint::new(case.block.coinbase.txid(), 0);
        case.tx(0).inputs[0] = Input { outpoint, amount: amount(2_000) };
        case.resign(0);
        RuleError::SpentTooEarly { outpoint }
    },
    |case| {
        case.tx(1).inputs[0].outpoint.index = 7;
        case.resign(1);
        let outpoint = case.tx(1).inputs[0].outpoint;
        RuleError::NoSuchOutput { outpoint }
    },
    |case| {
        // One past the last output.
        case.tx(1).inputs[0].outpoint.index = case.tx(0).outputs.len() as u32;
        case.resign(1);
        let outpoint = case.tx(1).inputs[0].outpoint;
        RuleError::NoSuchOutput { outpoint }
    },
    |case| {
        let outpoint = OutPoint::new(setara_core::hash::TxId::ZERO, 0);
        case.tx(0).inputs[0].outpoint = outpoint;
        case.block.transactions.remove(1);
        case.block.coinbase.outputs[0].amount = amount(0);
        case.resign(0);
        RuleError::MissingCoin { outpoint }
    },
    |case| {
        // A coin spent in an earlier block.
        let spent = case.chain.deltas[6].spent()[0];
        case.block.transactions = vec![payment(&case.chain, spent, 1_000, 100)];
        case.block.coinbase.outputs[0].amount = amount(0);
        RuleError::MissingCoin { outpoint: spent.0 }
    },
    |case| {
        let expected = case.tx(2).inputs[0].amount;
        let got = expected.checked_add(amount(1)).unwrap();
        case.tx(2).inputs[0].amount = got;
        case.resign(2);
        RuleError::WrongAmount { outpoint: case.tx(2).inputs[0].outpoint, got, expected }
    },
    |case| {
        case.tx(0).witnesses[0].policy = key_policy(1);
        case.resign(0);
        RuleError::WrongPolicy { outpoint: case.tx(0).inputs[0].outpoint }
    },
    |case| {
        case.tx(1).inputs[0].amount = amount(1_001);
        case.resign(1);
        RuleError::WrongInBlockCoin { outpoint: case.tx(1).inputs[0].outpoint }
    },
    |case| {
        case.tx(1).witnesses[0].policy = key_policy(0);
        case.resign(1);
        RuleError::WrongInBlockCoin { outpoint: case.tx(1).inputs[0].outpoint }
    },
    |case| {
        // CS15: the reward of height 8 matures at 11.
        let reward = case.chain.reward(8);
        case.block.transactions = vec![payment(&case.chain, reward, 1_000, 100)];
        case.block.coinbase.outputs[0].amount = amount(0);
        RuleError::Immature { outpoint: reward.0, matures_at: 11, height: Height::new(10) }
    },
    |case| {
        case.tx(2).valid_from = 11;
        case.resign(2);
        RuleError::NotYetValid { valid_from: 11, height: case.height() }
    },
    |case| locked(case, SpendPolicy::After(11), Timelock::After(11)),
    |case| {
        let median_time_past = case.chain.state.header.median_time_past();
        locked(case, SpendPolicy::AfterTime(median_time_past + 1), Timelock::AfterTime(median_time_past + 1))
    },
    // CS16: a coin of the same block has age 0.
    |case| {
        locked(case, SpendPolicy::Older(1), Timelock::Older(1));
        RuleError::YoungInBlockCoin { outpoint: case.tx(1).inputs[0].outpoint, blocks: 1 }
    },
    |case| {
        // An earlier block's coin, one block short of its age.
        let policy = SpendPolicy::Threshold { n: 2, of: vec![SpendPolicy::Older(2), key_policy(1)] };
        let output = Output { amount: amount(1_000), address: policy.address() };
        let mut fund = spend(&[case.chain.reward(3)], vec![output], vec![key_policy(0)]);
        sign(&case.chain.network, &mut fund, &[key(0)]);
        let outpoint = OutPoint::new(fund.txid(), 0);
        let funding = case.chain.block(vec![fund]);
        case.chain.accept(&funding).unwrap();
        let mut late = spend(&[(outpoint, case.chain.coins[&outpoint])], vec![output], vec![policy]);
        sign(&case.chain.network, &mut late, &[key(1)]);
        case.block = case.chain.block(vec![late]);
        let median_time_past = case.chain.state.header.median_time_past();
        RuleError::Locked { input: 0, lock: Timelock::Older(2), height: case.height(), median_time_past }
    },
];

/// Replaces the in-block coin's lock by `policy` and key 1, both required.
fn locked(case: &mut Case, policy: SpendPolicy, lock: Timelock) -> RuleError {
    let policy = SpendPolicy::Threshold { n: 2, of: vec![policy, key_policy(1)] };
    case.tx(0).outputs[0].address = policy.address();
    case.resign(0);
    let outpoint = OutPoint::new(case.tx(0).txid(), 0);
    case.tx(1).inputs[0].outpoint = outpoint;
    case.tx(1).witnesses[0].policy = policy;
    case.resign(1);
    let median_time_past = case.chain.state.header.median_time_past();
    RuleError::Locked { input: 0, lock, height: case.height(), median_time_past }
}

/// Rows whose header changes: mined again, but committing to the valid body unless that is the point.
const HEADER: &[Corrupt] = &[
    |case| {
        case.block.header.previous = BlockHash::ZERO;
        RuleError::MissingParent { previous: BlockHash::ZERO }
    },
    |case| {
        let got = CompactBits::new(0x207f_fffe);
        let expected = case.block.header.bits;
        case.block.header.bits = got;
        RuleError::WrongBits { got, expected }
    },
    |case| {
        let median_time_past = case.chain.state.header.median_time_past();
        case.block.header.time = median_time_past;
        RuleError::TimeTooOld { time: median_time_past, median_time_past }
    },
    |case| {
        let expected = Hash256::ZERO;
        let got = case.block.merkle_root().root;
        case.block.header.merkle_root = expected;
        RuleError::MerkleRoot { got, expected }
    },
    |case| {
        // CS4, CVE-2012-2459: four leaves, the last repeated by hand, has the root of three.
        let expected = case.block.header.merkle_root;
        let last = case.block.transactions.remove(2);
        case.block.header.merkle_root = case.block.merkle_root().root;
        case.block.transactions.push(case.block.transactions[1].clone());
        assert_ne!(case.block.header.merkle_root, expected);
        assert_eq!(case.block.header.merkle_root, case.block.merkle_root().root);
        drop(last);
        RuleError::MutatedTree
    },
    |case| {
        let limit = case.chain.network.limit.to_compact();
        let got = CompactBits::new(0x2100_ffff);
        case.block.header.bits = got;
        RuleError::TargetAboveLimit { got, limit }
    },
];

#[test]
fn the_block_is_valid_before_it_is_corrupted() {
    let Case { mut chain, block } = Case::valid();
    let before = (chain.state, chain.lattice.root(), chain.coins.clone());
    chain.accept(&block).unwrap();
    assert_eq!(chain.state.height(), Height::new(10));
    let sum = Amount::checked_sum(chain.coins.values().map(|coin| coin.output.amount)).unwrap();
    assert_eq!(chain.state.supply, sum, "supply is the sum of the coins");
    chain.revert();
    assert_eq!((chain.state, chain.lattice.root(), chain.coins), before, "reverting is the inverse (ST10)");
}

#[test]
fn every_corrupted_body_meets_its_rule() {
    for (row, corrupt) in BODY.iter().enumerate() {
        let mut case = Case::valid();
        let expected = corrupt(&mut case);
        seal(&mut case.block);
        let before = case.chain.state;
        let found = case.chain.accept(&case.block);
        assert_eq!(found, Err(expected.clone()), "row {row}: {}", expected.code());
        assert_eq!(case.chain.state, before, "a refused block changes nothing");
    }
}

#[test]
fn every_corrupted_header_meets_its_rule() {
    for (row, corrupt) in HEADER.iter().enumerate() {
        let mut case = Case::valid();
        let expected = corrupt(&mut case);
        mine(&mut case.block);
        assert_eq!(case.chain.accept(&case.block), Err(expected.clone()), "row {row}: {}", expected.code());
    }
}

/// PT1: work that is missing, and targets that are none.
#[test]
fn work_is_checked_before_anything_else() {
    let Case { mut chain, mut block } = Case::valid();
    let target = block.header.bits.to_target().unwrap();
    while target.is_met_by(block.hash()) {
        block.header.nonce += 1;
    }
    block.coinbase.height = Height::new(99);
    let (hash, bits) = (block.hash(), block.header.bits);
    assert_eq!(chain.accept(&block), Err(RuleError::HighHash { hash, bits }));
    type Reason = fn(CompactBits) -> PowError;
    let rows: [(u32, Reason); 6] = [
        (0, PowError::Zero),
        (0x0100_0000, PowError::Zero),
        (0x2080_0001, PowError::Negative),
        (0xff7f_ffff, PowError::Overflow),
        // The smallest mantissa of one byte too many, and a value in a longer form than it needs.
        (0x2101_0000, PowError::Overflow),
        (0x2000_7fff, PowError::NonCanonical),
    ];
    for (bits, reason) in rows {
        let bits = CompactBits::new(bits);
        block.header.bits = bits;
        assert_eq!(chain.accept(&block), Err(RuleError::BadTarget { bits, reason: reason(bits) }), "{bits}");
    }
}

/// The ends of 32-bit heights and of 256-bit work: a header that would pass either is refused, the last before it is not.
#[test]
fn chains_end_where_their_numbers_do() {
    let Case { mut chain, mut block } = Case::valid();
    mine(&mut block);
    let parent = chain.state.header;
    let work = block.header.bits.to_target().unwrap().work();
    let most = Work::from_be_bytes([0xff; 32]);
    let last_work = most.checked_sub(work).unwrap();
    let over = last_work.checked_add(Work::from_be_bytes({
        let mut one = [0; 32];
        one[31] = 1;
        one
    }));
    let cases = [
        (Height::new(u32::MAX), parent.work, Err(RuleError::HeightOverflow)),
        (Height::new(u32::MAX - 1), parent.work, Ok(Height::new(u32::MAX))),
        (parent.height, over.unwrap(), Err(RuleError::WorkOverflow)),
        (parent.height, last_work, Ok(parent.height.next().unwrap())),
    ];
    for (height, work, expected) in cases {
        let mut parent = parent;
        (parent.height, parent.work) = (height, work);
        let found = check_header(&chain.network, &parent, &block.header).map(|state| state.height);
        assert_eq!(found, expected);
        // And a whole block in the same place.
        chain.state.header = parent;
        if let Err(error) = expected {
            assert_eq!(error.class(), Class::Invalid);
            assert_eq!(chain.accept(&block), Err(error));
        }
    }
}

/// PT5: a header from the future is held back, never invalid.
#[test]
fn early_headers_are_transient() {
    let Case { chain, block } = Case::valid();
    let now = u64::from(block.header.time) - u64::from(chain.network.max_future_seconds);
    assert_eq!(header_is_early(&chain.network, &block.header, now), Ok(()));
    let error = header_is_early(&chain.network, &block.header, now - 1).unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert!(header_is_early(&chain.network, &block.header, u64::MAX).is_ok());
}

/// Only a fault of the block alone condemns it; a body that is not the header's never does.
#[test]
fn classes_follow_the_design() {
    let mut not_invalid = std::collections::BTreeMap::new();
    for corrupt in BODY.iter().chain(HEADER) {
        let error = corrupt(&mut Case::valid());
        if error.class() != Class::Invalid {
            not_invalid.insert(error.code(), error.class());
        }
    }
    let not_invalid: Vec<_> = not_invalid.iter().collect();
    let expected = [
        (&"bad-coins-root", &Class::SuspectCoins),
        (&"bad-txnmrklroot", &Class::Mutated),
        (&"bad-txns-duplicate", &Class::Mutated),
        (&"bad-txns-input-amount", &Class::SuspectCoins),
        (&"bad-txns-input-policy", &Class::SuspectCoins),
        (&"bad-txns-inputs-missingorspent", &Class::SuspectCoins),
        (&"bad-txns-premature-spend-of-coinbase", &Class::SuspectCoins),
        // Only a lock on the age of an earlier block's coin: heights, times and in-block coins are the block's own.
        (&"policy-locked", &Class::SuspectCoins),
        (&"prev-blk-not-found", &Class::MissingParent),
    ];
    assert_eq!(not_invalid, expected);
    let mut locks = Vec::new();
    for corrupt in BODY {
        let error = corrupt(&mut Case::valid());
        match &error {
            RuleError::Locked { lock, .. } => locks.push((format!("{lock:?}"), error.class() == Class::SuspectCoins)),
            RuleError::YoungInBlockCoin { .. } => assert_eq!(error.class(), Class::Invalid),
            _ => {}
        }
    }
    assert!(locks.iter().all(|(lock, suspect)| lock.starts_with("Older") == *suspect), "{locks:?}");
    assert_eq!(locks.len(), 3);
}

/// SM6: a proposal meets every rule but work, and can never be connected.
#[test]
fn a_proposal_is_judged_but_never_connects() {
    let Case { chain, mut block } = Case::valid();
    block.header.nonce = 0;
    let checked = check_proposal(&chain.network, block.clone(), &Serial).unwrap();
    let coins: Vec<_> = checked.required_coins().iter().map(|outpoint| chain.coins.get(outpoint).copied()).collect();
    assert_eq!(connect_proposal(&chain.network, &chain.state, &checked, &coins), Ok(()));
    assert_eq!(connect(&chain.network, &chain.state, &checked, &coins).unwrap_err().code(), "high-hash");
    block.coinbase.coins_root = Hash256::ZERO;
    block.header.merkle_root = block.merkle_root().root;
    let checked = check_proposal(&chain.network, block, &Serial).unwrap();
    let error = connect_proposal(&chain.network, &chain.state, &checked, &coins).unwrap_err();
    assert_eq!(error.code(), "bad-coins-root");
}

/// CS15: a reward is spendable exactly `maturity` blocks later, and again after a reorganisation below it.
#[test]
fn rewards_mature_exactly() {
    let mut chain = Chain::new(network());
    chain.grow(3);
    let reward = chain.reward(1);
    let block = chain.block(vec![payment(&chain, reward, 1_000, 100)]);
    assert_eq!(chain.accept(&block), Ok(()), "height 4 = 1 + 3");
    chain.revert();
    chain.revert();
    let block = chain.block(vec![payment(&chain, reward, 1_000, 100)]);
    let error = RuleError::Immature { outpoint: reward.0, matures_at: 4, height: Height::new(3) };
    assert_eq!(chain.accept(&block), Err(error));
}

/// CS14: a transaction is bound to one network by the genesis hash.
#[test]
fn no_replay_across_networks() {
    let Case { mut chain, mut block } = Case::valid();
    let other = Network::test();
    sign(&other, &mut block.transactions[2], &[key(2)]);
    seal(&mut block);
    assert_eq!(chain.accept(&block), Err(RuleError::BadSignature { transaction: 3 }));
}

/// CS10: another choice of signers gives the same txid and another wtxid, and both are valid.
#[test]
fn a_witness_swap_keeps_the_txid() {
    let mut chain = Chain::new(network());
    chain.grow(4);
    let policy = |hide_first: bool| {
        let mut of = vec![key_policy(1), key_policy(2)];
        let hidden = usize::from(!hide_first);
        of[hidden] = SpendPolicy::Opaque(of[hidden].address());
        SpendPolicy::Threshold { n: 1, of }
    };
    let outputs = vec![Output { amount: amount(1_000), address: policy(true).address() }];
    let mut fund = spend(&[chain.reward(1)], outputs, vec![key_policy(0)]);
    sign(&chain.network, &mut fund, &[key(0)]);
    let outpoint = OutPoint::new(fund.txid(), 0);
    let block = chain.block(vec![fund]);
    chain.accept(&block).unwrap();
    let coin = (outpoint, chain.coins[&outpoint]);
    let outputs = vec![Output { amount: amount(900), address: key_address(0) }];
    let mut one = spend(&[coin], outputs.clone(), vec![policy(true)]);
    let mut two = spend(&[coin], outputs, vec![policy(false)]);
    sign(&chain.network, &mut one, &[key(2)]);
    sign(&chain.network, &mut two, &[key(1)]);
    assert_eq!(one.txid(), two.txid());
    assert_ne!(one.wtxid(), two.wtxid());
    for transaction in [one, two] {
        let block = chain.block(vec![transaction]);
        chain.accept(&block).unwrap();
        chain.revert();
    }
}

/// A signature made for one key of a policy is no use at another place of the same policy.
#[test]
fn a_signature_is_bound_to_its_place_in_the_tree() {
    let mut chain = Chain::new(network());
    chain.grow(4);
    // The same key twice: a wallet never makes this, but the rule must hold.
    let policy = SpendPolicy::Threshold { n: 2, of: vec![key_policy(1), key_policy(1)] };
    let outputs = vec![Output { amount: amount(1_000), address: policy.address() }];
    let mut fund = spend(&[chain.reward(1)], outputs, vec![key_policy(0)]);
    sign(&chain.network, &mut fund, &[key(0)]);
    let outpoint = OutPoint::new(fund.txid(), 0);
    let block = chain.block(vec![fund]);
    chain.accept(&block).unwrap();
    let coin = (outpoint, chain.coins[&outpoint]);
    let mut transaction = spend(&[coin], vec![Output { amount: amount(900), address: key_address(0) }], vec![policy]);
    sign(&chain.network, &mut transaction, &[key(1)]);
    let good = chain.block(vec![transaction.clone()]);
    let first = transaction.witnesses[0].signatures[0];
    transaction.witnesses[0].signatures[1] = first;
    let bad = chain.block(vec![transaction]);
    assert_eq!(chain.accept(&bad), Err(RuleError::BadSignature { transaction: 1 }));
    assert_eq!(chain.accept(&good), Ok(()));
}

/// A zero coinbase output is allowed and never becomes a coin; a coinbase may take less than it could.
#[test]
fn zero_rewards_make_no_coins() {
    let mut chain = Chain::new(network());
    let mut block = chain.block(vec![]);
    block.coinbase.outputs = vec![
        Output { amount: Amount::ZERO, address: key_address(0) },
        Output { amount: amount(5), address: key_address(0) },
    ];
    seal(&mut block);
    let before = chain.coins.len();
    chain.accept(&block).unwrap();
    assert_eq!(chain.coins.len(), before + 1);
    assert_eq!(chain.state.supply, amount(5));
}

/// CS4: a "body" made of inner nodes of a real block's tree matches the root but cannot be decoded, so it is thrown
/// away unjudged and the true body still connects.
#[test]
fn inner_nodes_are_no_transactions() {
    let Case { mut chain, block } = Case::valid();
    let leaves: Vec<_> =
        std::iter::once(block.coinbase.wtxid()).chain(block.transactions.iter().map(Transaction::wtxid)).collect();
    for pair in leaves.chunks(2) {
        let node = [pair[0].as_bytes().as_slice(), pair[pair.len() - 1].as_bytes()].concat();
        assert_eq!(node.len(), 64);
        assert!(codec::decode::<Transaction>(&node).is_err());
        assert!(codec::decode::<setara_core::transaction::Coinbase>(&node).is_err());
        let mut bytes = block.header.to_bytes().to_vec();
        bytes.push(2);
        bytes.extend(&node);
        assert!(codec::decode::<Block>(&bytes).is_err());
    }
    // The three zero-output coinbases that would be 64 bytes long, by the length of the height's varint.
    for (height, extra) in [(1, 28), (300, 26), (70_000, 24)] {
        let coinbase = setara_core::transaction::Coinbase {
            height: Height::new(height),
            coins_root: Hash256::ZERO,
            outputs: vec![],
            extra: vec![0; extra],
        };
        let bytes = codec::encode(&coinbase);
        assert_eq!(bytes.len(), 64);
        assert!(codec::decode::<setara_core::transaction::Coinbase>(&bytes).is_err());
    }
    chain.accept(&block).unwrap();
}

/// The header checks alone agree with those of a whole block.
#[test]
fn header_chain_equals_block_chain() {
    let mut chain = Chain::new(network());
    let mut headers = chain.state.header;
    for _ in 0..30 {
        let block = chain.block(vec![]);
        headers = check_header(&chain.network, &headers, &block.header).unwrap();
        chain.accept(&block).unwrap();
        assert_eq!(headers, chain.state.header);
        let state = codec::decode(&codec::encode(&chain.state));
        assert_eq!(state, Ok(chain.state));
        let delta = chain.deltas.last().unwrap();
        assert_eq!(codec::decode(&codec::encode(delta)).as_ref(), Ok(delta));
    }
}

/// A decoded block is judged like one built in memory.
#[test]
fn blocks_round_trip() {
    let Case { chain, block } = Case::valid();
    let bytes = codec::encode(&block);
    let decoded: Block = codec::decode(&bytes).unwrap();
    assert_eq!(decoded, block);
    let checked = check_block(&chain.network, decoded, &Serial).unwrap();
    assert_eq!(checked.size(), bytes.len() as u64);
    assert!(Block::MIN_SIZE <= bytes.len() as u64);
}
