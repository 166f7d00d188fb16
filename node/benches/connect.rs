//! Blocks connected per second, beside what signature checks alone could reach on the same cores in the same run.
//!
//! Blocks of 1-input 2-output transactions, a distinct key per input, cold signature cache, coins in the cache, RocksDB
//! on disk with the default sync settings, roots and `coins_root` checked. Then a block of known transactions, from its
//! bytes to the visible tip. `cargo bench --bench connect [-- TRANSACTIONS] [connect] [indexed] [known]`.

use rayon::prelude::*;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec;
use setara_core::consensus::{Serial, block_signatures, check_block};
use setara_core::keys::{SecretKey, SignatureCheck, verify_all};
use setara_core::network::Network;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Input, OutPoint, Output, SigningContext, Transaction, Witness};
use setara_node::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier};
use setara_node::clock::SystemClock;
use setara_node::index::Indexes;
use setara_node::store::{RocksOptions, RocksStore, Store};
use setara_node::testing::{self, ChainBuilder};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Transactions connected in the timed part, unless the command line says otherwise.
const TRANSACTIONS: usize = 300_000;
/// Transactions of a block: about a megabyte, as on the public network.
const PER_BLOCK: usize = 4_000;
/// Signatures of the baseline.
const BASELINE_SIGNATURES: usize = 100_000;
/// Blocks of known transactions.
const KNOWN_BLOCKS: usize = 15;
/// What may be chosen on the command line.
const PARTS: [&str; 3] = ["connect", "indexed", "known"];
/// Every coin of the benchmark.
const COIN: u64 = 1_000_000_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let transactions = words.iter().find_map(|word| word.parse().ok()).unwrap_or(TRANSACTIONS);
    // Cargo's own words (`--bench`) choose nothing.
    let chosen: Vec<&str> = words.iter().map(String::as_str).filter(|word| PARTS.contains(word)).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.contains(&part);
    let blocks = usize::div_ceil(transactions, PER_BLOCK);
    println!("{} cores, {blocks} blocks of {PER_BLOCK} transactions", rayon::current_num_threads());
    let start = Instant::now();
    let fixture = Fixture::new(blocks + if wanted("known") { KNOWN_BLOCKS } else { 0 });
    println!("fixtures made in {:.1} s", start.elapsed().as_secs_f64());

    let baseline = baseline(&fixture);
    let report = |what: &str, (rate, cpu): (f64, f64)| {
        let (share, share_cpu) = (100.0 * rate / baseline.0, 100.0 * baseline.1 / cpu);
        println!(
            "{what} {rate:>9.0} transactions/s, {share:.0} % of the baseline ({cpu:.2} us of processor each, \
             {share_cpu:.0} %)"
        );
    };
    let timed = &fixture.blocks[..blocks];
    let count = blocks * PER_BLOCK;
    if wanted("connect") {
        report("connected, no index:  ", connect(&fixture, timed, false, count));
    }
    if wanted("indexed") {
        report("connected and indexed:", connect(&fixture, timed, true, count));
    }
    if wanted("known") {
        known(&fixture, blocks);
    }
}

/// Processor time of this process so far: what remains comparable when the machine has other things to do.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in hundredths of a second on every Linux.
    (ticks(11) + ticks(12)) / 100.0
}

/// A measured stretch of work.
struct Measure(Instant, f64);

impl Measure {
    fn start() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    /// Per second, and microseconds of processor time each.
    fn end(&self, count: usize) -> (f64, f64) {
        let count = count as f64;
        (count / self.0.elapsed().as_secs_f64(), (cpu_seconds() - self.1) * 1e6 / count)
    }
}

/// What all signatures cost alone, in batches on all cores; the best batch size counts.
fn baseline(fixture: &Fixture) -> (f64, f64) {
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

struct Running {
    chain: ChainHandle,
    indexes: Option<Indexes>,
    _directory: tempfile::TempDir,
}

fn start(fixture: &Fixture, known: Arc<KnownSignatures>, index: bool) -> Running {
    // Beside the binary: on a disk, where a temporary directory may be in memory.
    let folder = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let directory = tempfile::tempdir_in(folder).expect("a directory");
    let options = RocksOptions { memory_bytes: 225 << 20 };
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(directory.path(), &options).expect("opens"));
    let verifier = Verifier::new(fixture.network.clone(), known, None);
    let clock = Arc::new(SystemClock::new());
    let chain = ChainHandle::start(store.clone(), verifier, ChainOptions::default(), clock).expect("starts");
    let indexes = index.then(|| Indexes::start(store, chain.clone()).expect("starts"));
    let setup: Vec<Vec<u8>> = fixture.setup.iter().map(codec::encode).collect();
    chain.submit_many(setup.into_iter()).result.expect("valid");
    let running = Running { chain, indexes, _directory: directory };
    running.wait();
    running
}

impl Running {
    fn wait(&self) {
        if let Some(indexes) = &self.indexes {
            indexes.view(Duration::from_secs(600)).expect("the indexes keep up");
        }
    }
}

/// Transactions a second, from encoded blocks to everything on disk.
fn connect(fixture: &Fixture, blocks: &[Block], index: bool, count: usize) -> (f64, f64) {
    let running = start(fixture, Arc::new(KnownSignatures::default()), index);
    let encoded: Vec<Vec<u8>> = blocks.iter().map(codec::encode).collect();
    let measure = Measure::start();
    let report = running.chain.submit_many(encoded.into_iter());
    running.wait();
    let measured = measure.end(count);
    report.result.expect("valid");
    assert_eq!(running.chain.view().tip.hash(), blocks.last().expect("blocks").hash());
    measured
}

/// Blocks whose transactions are known, one by one: from bytes to the visible tip.
fn known(fixture: &Fixture, connected: usize) {
    let known = Arc::new(KnownSignatures::default());
    let running = start(fixture, known.clone(), false);
    let (before, timed) = fixture.blocks.split_at(connected);
    let encoded: Vec<Vec<u8>> = before.iter().map(codec::encode).collect();
    running.chain.submit_many(encoded.into_iter()).result.expect("valid");
    let mut times = Vec::new();
    let mut cpu = Vec::new();
    for block in timed {
        block.transactions.iter().for_each(|transaction| known.insert(transaction.wtxid()));
        let bytes = codec::encode(block);
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        let block: Block = codec::decode(&bytes).expect("valid");
        let hash = block.hash();
        running.chain.submit(block).expect("valid");
        assert_eq!(running.chain.view().tip.hash(), hash);
        times.push(start.elapsed());
        cpu.push((cpu_seconds() - cpu_start) * 1e6 / PER_BLOCK as f64);
    }
    let cpu = cpu.iter().sum::<f64>() / cpu.len() as f64;
    times.sort_unstable();
    let (median, best) = (times[times.len() / 2], times[0]);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / PER_BLOCK as f64;
    println!(
        "known block, bytes to visible tip: {:.2} us a transaction (best {:.2}; {cpu:.2} us of processor)",
        each(median),
        each(best)
    );
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

struct Fixture {
    network: Arc<Network>,
    /// Blocks that make [`PER_BLOCK`] coins of keys 0 ..
    setup: Vec<Block>,
    blocks: Vec<Block>,
}

impl Fixture {
    fn new(count: usize) -> Self {
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
