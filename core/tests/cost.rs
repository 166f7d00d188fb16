//! Blocks made to be expensive: twice the bytes must cost about twice, in memory moved and in signatures to verify.
//!
//! Measured in what can be counted exactly, not in seconds: bytes allocated while a block is checked and connected (a
//! copy per transaction of anything that grows shows at once), signatures, and coins asked for. How long such blocks
//! take is in the benchmarks.

mod common;

use common::*;
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec::encode;
use setara_core::consensus::{Serial, block_signatures, check_block, connect};
use setara_core::keys::SecretKey;
use setara_core::network::{Network, Parameters};
use setara_core::nonce::find_nonce;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Coin, OutPoint, Output, Transaction};

/// Twice the block may cost this much more: lists grow by doubling.
const GROWTH_MAX: f64 = 2.3;
/// Amount of each coin to start from.
const COIN_SEN: u64 = 100_000_000;

/// A chain whose genesis makes `count` coins locked to `policy`, mature at once.
fn chain(count: usize, policy: &SpendPolicy) -> (Chain, Vec<(OutPoint, Coin)>) {
    let mut parameters: Parameters = (*network()).clone();
    parameters.maturity = 1;
    parameters.allocations = vec![Output { amount: Amount::from_sen(COIN_SEN), address: policy.address() }; count];
    let header = parameters.genesis_block().header;
    let target = header.bits.to_target().unwrap();
    parameters.genesis_nonce = find_nonce(&header, target, 0..=u32::MAX).unwrap();
    let chain = Chain::new(Network::new(parameters).unwrap());
    let coins = chain.coins.iter().map(|(outpoint, coin)| (*outpoint, *coin)).collect();
    (chain, coins)
}

fn pay(amount: u64) -> Output {
    Output { amount: Amount::from_sen(amount), address: key_address(0) }
}

fn signed(chain: &Chain, mut transaction: Transaction, keys: &[SecretKey]) -> Transaction {
    sign(&chain.network, &mut transaction, keys);
    transaction
}

/// Many payments of one coin each.
fn payments(count: usize) -> (Chain, Block) {
    let (chain, coins) = chain(count, &key_policy(0));
    let payment =
        |coin: &(OutPoint, Coin)| signed(&chain, spend(&[*coin], vec![pay(COIN_SEN)], vec![key_policy(0)]), &[key(0)]);
    let block = chain.block(coins.iter().map(payment).collect());
    (chain, block)
}

/// One transaction of many inputs.
fn inputs(count: usize) -> (Chain, Block) {
    let (chain, coins) = chain(count, &key_policy(0));
    let all = spend(&coins, vec![pay(COIN_SEN)], vec![key_policy(0); count]);
    let block = chain.block(vec![signed(&chain, all, &[key(0)])]);
    (chain, block)
}

/// One transaction of many outputs.
fn outputs(count: usize) -> (Chain, Block) {
    let (chain, coins) = chain(1, &key_policy(0));
    let all = spend(&coins, vec![pay(1); count], vec![key_policy(0)]);
    let block = chain.block(vec![signed(&chain, all, &[key(0)])]);
    (chain, block)
}

/// Each transaction spends the one before, inside the block.
fn descent(count: usize) -> (Chain, Block) {
    let (chain, coins) = chain(1, &key_policy(0));
    let height = chain.state.header.next_height().unwrap();
    let mut transactions: Vec<Transaction> = vec![];
    let mut coin = coins[0];
    for _ in 0..count {
        let next = signed(&chain, spend(&[coin], vec![pay(COIN_SEN)], vec![key_policy(0)]), &[key(0)]);
        coin = (OutPoint::new(next.txid(), 0), Coin { output: next.outputs[0], height, from_coinbase: false });
        transactions.push(next);
    }
    let block = chain.block(transactions);
    (chain, block)
}

/// The widest policy that can be revealed, all keys signing.
fn wide_policies(count: usize) -> (Chain, Block) {
    let keys: Vec<SecretKey> = (0..63).map(key).collect();
    let policy = SpendPolicy::Threshold { n: 63, of: (0..63).map(key_policy).collect() };
    let (chain, coins) = chain(count, &policy);
    let all = spend(&coins, vec![pay(COIN_SEN)], vec![policy; count]);
    let block = chain.block(vec![signed(&chain, all, &keys)]);
    (chain, block)
}

/// Policies that are nearly all hidden branches, seven levels deep: many bytes to hash and nothing to verify.
fn deep_policies(count: usize) -> (Chain, Block) {
    let policy = (0..7).fold(SpendPolicy::After(0), |inner, _| SpendPolicy::Threshold {
        n: 1,
        of: std::iter::once(inner).chain((0..7).map(|number| SpendPolicy::Opaque(key_address(number)))).collect(),
    });
    let (chain, coins) = chain(count, &policy);
    let block = chain.block(vec![spend(&coins, vec![pay(COIN_SEN)], vec![policy; count])]);
    (chain, block)
}

struct Cost {
    block_bytes: f64,
    allocated: f64,
    signatures: f64,
}

fn cost((chain, block): (Chain, Block)) -> Cost {
    let block_bytes = encode(&block).len();
    let mut signatures = 0;
    let allocated = allocation_counter::measure(|| {
        let checked = check_block(&chain.network, block.clone(), &Serial).unwrap();
        signatures = block_signatures(&chain.network, &checked, &|_| false, &Serial).checks.len();
        let coins: Vec<_> =
            checked.required_coins().iter().map(|outpoint| chain.coins.get(outpoint).copied()).collect();
        let delta = connect(&chain.network, &chain.state, &checked, &coins).unwrap();
        assert!(delta.spent().len() <= block_bytes / 34, "more coins than inputs that fit");
    });
    Cost { block_bytes: block_bytes as f64, allocated: allocated.bytes_total as f64, signatures: signatures as f64 }
}

/// CS17.
#[test]
fn twice_the_block_costs_twice_and_no_more() {
    type Shape = fn(usize) -> (Chain, Block);
    let shapes: [(&str, Shape, usize); 6] = [
        ("payments", payments, 700),
        ("inputs", inputs, 1_200),
        ("outputs", outputs, 30_000),
        ("descent", descent, 1_500),
        ("wide policies", wide_policies, 60),
        ("deep policies", deep_policies, 600),
    ];
    for (name, shape, count) in shapes {
        let (once, twice) = (cost(shape(count)), cost(shape(2 * count)));
        let size = twice.block_bytes / once.block_bytes;
        assert!((1.9..2.1).contains(&size), "{name}: the block grew {size} times");
        let growth = twice.allocated / once.allocated;
        assert!(growth < GROWTH_MAX, "{name}: memory moved grew {growth} times");
        // "At most one signature per 64 bytes."
        assert!(twice.signatures * 64.0 <= twice.block_bytes, "{name}: {} signatures", twice.signatures);
        // A block of a megabyte moves some tens of megabytes at most.
        let per_byte = twice.allocated / twice.block_bytes;
        assert!(per_byte < 40.0, "{name}: {per_byte} bytes moved per byte of block");
    }
}
