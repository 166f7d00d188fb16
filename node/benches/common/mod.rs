//! What benchmarks of blocks share: chains of one-input two-output transactions, and the limit of the curve.

#![allow(dead_code, unused_imports, reason = "each benchmark uses a part of it")]

mod row;

pub use row::{Row, Wish, point};

use rayon::prelude::*;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec;
use setara_core::consensus::{Serial, block_signatures, check_block};
use setara_core::hash::sha256;
use setara_core::keys::{SecretKey, SignatureCheck, verify_all};
use setara_core::network::Network;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Input, OutPoint, Output, SigningContext, Transaction, Witness};
use setara_node::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier};
use setara_node::clock::SystemClock;
use setara_node::store::{RocksOptions, RocksStore, Store};
use setara_node::testing::{self, ChainBuilder};
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Transactions of a block: about a megabyte, as on the public network.
pub const PER_BLOCK: usize = 4_000;
/// Signatures of the baseline.
const BASELINE_SIGNATURES: usize = 100_000;
/// Outputs of one transaction that makes coins: below a block's room.
const FAN: usize = 20_000;
/// Every coin of the benchmark.
const COIN: u64 = 10_000_000;
/// When the chains begin: so long ago that none of them reaches the present.
const GENESIS_TIME: u32 = 1_600_000_000;
/// A prime by which coins are put in an order that is not that of their names.
const STRIDE: usize = 1_000_003;

/// Processor time of this process so far: what remains comparable when the machine has other things to do.
pub fn cpu_seconds() -> f64 {
    cpu_seconds_of(Path::new("/proc/self"))
}

/// The same of one process or thread, by its folder in `/proc`.
fn cpu_seconds_of(folder: &Path) -> f64 {
    let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in hundredths of a second on every Linux.
    (ticks(11) + ticks(12)) / 100.0
}

/// The threads that this process has now, and those with this name that it will have. Not RocksDB's own: all databases of a
/// process share them.
pub struct Threads {
    now: BTreeSet<PathBuf>,
    name: &'static str,
}

impl Threads {
    /// These.
    pub fn now_and_named(name: &'static str) -> Self {
        let shared = |task: &PathBuf| comm(task).starts_with("rocksdb");
        Self { now: tasks().filter(|task| !shared(task)).collect(), name }
    }

    /// Their processor time so far; of a thread that has ended, nothing.
    pub fn cpu_seconds(&self) -> f64 {
        tasks()
            .filter(|task| self.now.contains(task) || comm(task) == self.name)
            .map(|task| cpu_seconds_of(&task))
            .sum()
    }
}

fn comm(task: &Path) -> String {
    std::fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_owned()
}

fn tasks() -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(|task| Some(task.ok()?.path()))
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

/// A folder on a disk, where a temporary directory may be in memory: beside the binary.
pub fn folder() -> tempfile::TempDir {
    let beside = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    tempfile::tempdir_in(beside).expect("a directory")
}

/// A chain in a folder, with so many bytes for its table of coins and as many for the database.
pub fn open(
    network: &Arc<Network>,
    folder: &Path,
    memory_bytes: usize,
    known: Arc<KnownSignatures>,
) -> (Arc<dyn Store>, ChainHandle) {
    let options = RocksOptions { memory_bytes, ..RocksOptions::default() };
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(folder, &options).expect("opens"));
    let verifier = Verifier::new(network.clone(), known, None);
    let options = ChainOptions { coin_cache_bytes: memory_bytes, ..ChainOptions::default() };
    let chain = ChainHandle::start(store.clone(), verifier, options, Arc::new(SystemClock::new())).expect("starts");
    (store, chain)
}

/// Submits blocks in bulk.
pub fn load(chain: &ChainHandle, blocks: &[Block]) {
    let encoded: Vec<Vec<u8>> = blocks.iter().map(codec::encode).collect();
    chain.submit_many(encoded.into_iter()).result.expect("valid");
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

/// An address that nobody spends from, as little compressible as any other.
fn sink(number: u64) -> Address {
    Address::from_bytes(sha256(&number.to_le_bytes()))
}

/// What a transaction looks like: it spends so many coins of distinct keys, makes as many for the next keys, and some that
/// stay.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Inputs, each of a key of its own, and outputs that are spent later.
    pub inputs: usize,
    /// Outputs that nobody spends.
    pub staying: usize,
    /// Transactions of a block.
    pub per_block: usize,
}

/// One input, two outputs.
pub const PAYMENT: Shape = Shape { inputs: 1, staying: 1, per_block: PER_BLOCK };

/// A chain to be replayed.
pub struct Fixture {
    /// The network.
    pub network: Arc<Network>,
    /// Blocks that make the coins of keys 0 ..
    pub setup: Vec<Block>,
    /// Full blocks above them.
    pub blocks: Vec<Block>,
}

/// A ledger, and the coins of known keys in it, the next to be spent first.
#[derive(Clone)]
pub struct Ledger {
    builder: ChainBuilder,
    coins: VecDeque<(OutPoint, Amount, u64)>,
    next_key: u64,
}

impl Ledger {
    /// With `count` coins of keys of their own, spread over `total` coins; the blocks that make them.
    pub fn new(count: usize, total: usize) -> (Self, Vec<Block>) {
        let transactions = total.max(count).div_ceil(FAN);
        let network = testing::network(|parameters| {
            parameters.maturity = 1;
            parameters.genesis_time = GENESIS_TIME;
            let amount = Amount::from_sen(COIN * (FAN as u64 + 1));
            parameters.allocations =
                (0..transactions).map(|_| Output { amount, address: testing::address(1) }).collect();
        });
        let mut builder = ChainBuilder::new(&network);
        builder.keep_history(false);
        let (mut coins, mut blocks) = (Vec::with_capacity(count), Vec::new());
        let (total, every) = (transactions * FAN, (transactions * FAN / count.max(1)).max(1));
        let funds = builder.spendable();
        for (part, fund) in funds.iter().take(transactions).enumerate() {
            let numbers = part * FAN..((part + 1) * FAN).min(total);
            let is_ours = |number: usize| number.is_multiple_of(every) && number / every < count;
            let outputs: Vec<(Address, Amount)> = numbers
                .clone()
                .into_par_iter()
                .map(|number| {
                    let ours = is_ours(number).then(|| policy((number / every) as u64).address());
                    (ours.unwrap_or_else(|| sink(u64::MAX - number as u64)), Amount::from_sen(COIN))
                })
                .collect();
            let fan_out = builder.spend(&[*fund], &outputs);
            let txid = fan_out.txid();
            let ours = numbers.zip(0u32..).filter(|(number, _)| is_ours(*number));
            coins.extend(
                ours.map(|(number, index)| {
                    (OutPoint::new(txid, index), Amount::from_sen(COIN), (number / every) as u64)
                }),
            );
            blocks.push(builder.mine(vec![fan_out]));
        }
        // Neighbours in a block are not neighbours on the disk.
        let coins: VecDeque<_> = (0..coins.len()).map(|index| coins[index * STRIDE % coins.len()]).collect();
        (Self { builder, next_key: coins.len() as u64, coins }, blocks)
    }

    /// Full blocks on top, each of which spends the coins that wait longest.
    pub fn mine(&mut self, count: usize, shape: Shape) -> Vec<Block> {
        (0..count).map(|_| self.mine_one(shape)).collect()
    }

    fn mine_one(&mut self, shape: Shape) -> Block {
        let network = self.builder.network.clone();
        let spent: Vec<_> = self.coins.drain(..shape.inputs * shape.per_block).collect();
        let first = self.next_key;
        let transactions: Vec<Transaction> = spent
            .par_chunks(shape.inputs)
            .enumerate()
            .map(|(index, coins)| pay(&network, coins, first + (index * shape.inputs) as u64, shape.staying))
            .collect();
        for (transaction, keys) in transactions.iter().zip((first..).step_by(shape.inputs)) {
            let (txid, outputs) = (transaction.txid(), transaction.outputs.iter().take(shape.inputs));
            self.coins.extend(
                (0u32..)
                    .zip(outputs)
                    .map(|(index, output)| (OutPoint::new(txid, index), output.amount, keys + u64::from(index))),
            );
        }
        self.next_key += spent.len() as u64;
        self.builder.mine(transactions)
    }

    /// The network.
    pub fn network(&self) -> Arc<Network> {
        self.builder.network.clone()
    }

    /// Blocks without transactions.
    pub fn mine_empty(&mut self, count: u32) -> Vec<Block> {
        self.builder.mine_empty(count)
    }

    /// Tells the next blocks from those of another branch.
    pub fn fork(&self) -> Self {
        let mut other = self.clone();
        other.builder.extra = vec![1];
        other
    }
}

impl Fixture {
    /// With so many full blocks of payments.
    pub fn new(count: usize) -> Self {
        Self::shaped(count, PAYMENT)
    }

    /// With so many full blocks of such transactions.
    pub fn shaped(count: usize, shape: Shape) -> Self {
        let coins = shape.inputs * shape.per_block;
        let (mut ledger, setup) = Ledger::new(coins, coins);
        let blocks = ledger.mine(count, shape);
        Self { network: ledger.network(), setup, blocks }
    }
}

/// The keys of `coins` pay the keys from `to` on, and a little to sinks.
fn pay(network: &Network, coins: &[(OutPoint, Amount, u64)], to: u64, staying: usize) -> Transaction {
    let small = Amount::from_sen(1_000);
    let fee = Amount::from_sen(200 + 1_000 * staying as u64);
    let witness =
        |key: u64| Witness { policy: policy(key), signatures: Vec::new(), preimages: Vec::new(), future: Vec::new() };
    let moved = coins.iter().zip(to..).enumerate().map(|(index, ((_, amount, _), key))| {
        let amount = if index == 0 { amount.checked_sub(fee).expect("enough for every block") } else { *amount };
        Output { amount, address: policy(key).address() }
    });
    let left = (0..staying as u64).map(|number| Output { amount: small, address: sink(coins[0].2 + (number << 40)) });
    let mut transaction = Transaction {
        inputs: coins.iter().map(|(outpoint, amount, _)| Input { outpoint: *outpoint, amount: *amount }).collect(),
        outputs: moved.chain(left).collect(),
        valid_from: 0,
        memo: Vec::new(),
        witnesses: coins.iter().map(|(.., key)| witness(*key)).collect(),
    };
    let addresses = transaction.spent_addresses();
    let context = SigningContext::new(network.genesis_hash(), transaction.txid(), &addresses);
    for ((index, (.., key)), witness) in (0u32..).zip(coins).zip(&mut transaction.witnesses) {
        witness.signatures.push(secret(*key).sign(&context.message(index, &[])).expect("memory is sound"));
    }
    transaction
}
