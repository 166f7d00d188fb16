//! What benchmarks of blocks share: chains of one-input two-output transactions, and the limit of the curve.

use rayon::prelude::*;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::consensus::{Serial, block_signatures, check_block};
use setara_core::keys::{SecretKey, SignatureCheck, verify_all};
use setara_core::network::Network;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Input, OutPoint, Output, SigningContext, Transaction, Witness};
use setara_node::testing::{self, ChainBuilder};
use std::sync::Arc;
use std::time::Instant;

/// Transactions of a block: about a megabyte, as on the public network.
pub const PER_BLOCK: usize = 4_000;
/// Signatures of the baseline.
const BASELINE_SIGNATURES: usize = 100_000;
/// Every coin of the benchmark.
const COIN: u64 = 1_000_000_000;

/// Processor time of this process so far: what remains comparable when the machine has other things to do.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in hundredths of a second on every Linux.
    (ticks(11) + ticks(12)) / 100.0
}

/// A measured stretch of work.
pub struct Measure(Instant, f64);

impl Measure {
    /// From here on.
    pub fn start() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    /// Per second, and microseconds of processor time each.
    pub fn end(&self, count: usize) -> (f64, f64) {
        let count = count as f64;
        (count / self.0.elapsed().as_secs_f64(), (cpu_seconds() - self.1) * 1e6 / count)
    }
}

/// What all signatures cost alone, in batches on all cores; the best batch size counts.
pub fn baseline(fixture: &Fixture) -> (f64, f64) {
    let mut checks: Vec<SignatureCheck> = Vec::new();
    for block in &fixture.blocks {
        let checked = check_block(&fixture.network, block.clone(), &Serial).expect("valid");
        checks.extend(block_signatures(&fixture.network, &checked, &|_| false, &Serial).checks);
        if checks.len() >= BASELINE_SIGNATURES {
            break;
        }
    }
    let mut best = (0.0_f64, f64::MAX);
    for size in [128, 256, 512, 1024, 2048] {
        let measure = Measure::start();
        checks.par_chunks(size).for_each(|batch| verify_all(batch, &mut rand::rng()).expect("valid"));
        let (rate, cpu) = measure.end(checks.len());
        println!("signatures alone, batches of {size:>4}: {rate:>9.0} /s, {cpu:.2} us of processor each");
        best = (best.0.max(rate), best.1.min(cpu));
    }
    best
}

/// A key of its own for every coin that is spent.
fn secret(number: u64) -> SecretKey {
    let mut seed = [0xbe; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(seed)
}

fn policy(number: u64) -> SpendPolicy {
    SpendPolicy::Key(secret(number).public_key())
}

/// An address that nobody spends from.
fn sink(number: u64) -> Address {
    let mut bytes = [0x77; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Address::from_bytes(bytes)
}

/// A chain to be replayed.
pub struct Fixture {
    /// The network.
    pub network: Arc<Network>,
    /// Blocks that make [`PER_BLOCK`] coins of keys 0 ..
    pub setup: Vec<Block>,
    /// Full blocks above them.
    pub blocks: Vec<Block>,
}

impl Fixture {
    /// With so many full blocks.
    pub fn new(count: usize) -> Self {
        let per_block = PER_BLOCK as u64;
        let network = testing::network(|parameters| {
            parameters.maturity = 1;
            let amount = Amount::from_sen(COIN * (per_block + 1));
            parameters.allocations = vec![Output { amount, address: testing::address(1) }];
        });
        let mut builder = ChainBuilder::new(&network);
        builder.keep_history(false);
        let keys: Vec<u64> = (0..per_block).collect();
        let outputs: Vec<(Address, Amount)> =
            keys.par_iter().map(|key| (policy(*key).address(), Amount::from_sen(COIN))).collect();
        let fan_out = builder.spend(&[builder.spendable()[0]], &outputs);
        let txid = fan_out.txid();
        let mut coins: Vec<(OutPoint, Amount)> =
            (0u32..).zip(&outputs).map(|(index, (_, amount))| (OutPoint::new(txid, index), *amount)).collect();
        let setup = vec![builder.mine(vec![fan_out])];
        let mut blocks = Vec::with_capacity(count);
        let mut first_key = 0;
        for _ in 0..count {
            // Each coin is spent into the next key's coin and a small one that stays.
            let transactions: Vec<Transaction> = coins
                .par_iter()
                .enumerate()
                .map(|(index, (outpoint, amount))| {
                    let key = first_key + index as u64;
                    pay(&network, *outpoint, *amount, key, key + per_block)
                })
                .collect();
            coins = transactions.iter().map(|paid| (OutPoint::new(paid.txid(), 0), paid.outputs[0].amount)).collect();
            first_key += per_block;
            blocks.push(builder.mine(transactions));
        }
        Self { network, setup, blocks }
    }
}

/// Key `from` pays key `to`, and a little to a sink.
fn pay(network: &Network, outpoint: OutPoint, amount: Amount, from: u64, to: u64) -> Transaction {
    let small = Amount::from_sen(1_000);
    let rest = amount.checked_sub(Amount::from_sen(1_200)).expect("enough for every block");
    let policy_from = policy(from);
    let address = policy_from.address();
    let witness = Witness { policy: policy_from, signatures: Vec::new(), preimages: Vec::new(), future: Vec::new() };
    let mut transaction = Transaction {
        inputs: vec![Input { outpoint, amount }],
        outputs: vec![
            Output { amount: rest, address: policy(to).address() },
            Output { amount: small, address: sink(from) },
        ],
        valid_from: 0,
        memo: Vec::new(),
        witnesses: vec![witness],
    };
    let context = SigningContext::new(network.genesis_hash(), transaction.txid(), &[address]);
    let signature = secret(from).sign(&context.message(0, &[])).expect("memory is sound");
    transaction.witnesses[0].signatures.push(signature);
    transaction
}
