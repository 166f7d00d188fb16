//! Blocks connected per second, beside what signature checks alone could reach on the same cores in the same run.
//!
//! Blocks of 1-input 2-output transactions, a distinct key per input, cold signature cache, coins in the cache, RocksDB
//! on disk with the default sync settings, roots and `coins_root` checked. Then a block of known transactions, from its
//! bytes to the visible tip. `cargo bench --bench connect [-- TRANSACTIONS] [connect] [indexed] [known] [verify]`.

mod common;

use common::{Fixture, Measure, PER_BLOCK, baseline, cpu_seconds};
use setara_core::block::{Block, EncodedBlock};
use setara_core::codec;
use setara_node::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier, recheck};
use setara_node::clock::SystemClock;
use setara_node::index::{IndexError, Indexes};
use setara_node::store::{RocksOptions, RocksStore, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Transactions connected in the timed part, unless the command line says otherwise.
const TRANSACTIONS: usize = 300_000;
/// Between two looks at how far the indexes are.
const POLL: Duration = Duration::from_millis(2);
/// Blocks of known transactions.
const KNOWN_BLOCKS: usize = 15;
/// What may be chosen on the command line.
const PARTS: [&str; 4] = ["connect", "indexed", "known", "verify"];

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
    if wanted("verify") {
        report("stored, verified anew:", verify(&fixture, timed, count));
    }
    if wanted("known") {
        known(&fixture, blocks);
    }
}

struct Running {
    store: Arc<dyn Store>,
    chain: ChainHandle,
    indexes: Option<Indexes>,
    _directory: tempfile::TempDir,
}

fn start(fixture: &Fixture, known: Arc<KnownSignatures>, index: bool) -> Running {
    // Beside the binary: on a disk, where a temporary directory may be in memory.
    let folder = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let directory = tempfile::tempdir_in(folder).expect("a directory");
    let options = RocksOptions { memory_bytes: 225 << 20, ..RocksOptions::default() };
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(directory.path(), &options).expect("opens"));
    let verifier = Verifier::new(fixture.network.clone(), known, None);
    let clock = Arc::new(SystemClock::new());
    let chain = ChainHandle::start(store.clone(), verifier, ChainOptions::default(), clock).expect("starts");
    let indexes = index.then(|| Indexes::start(store.clone(), chain.clone()).expect("starts"));
    let setup: Vec<Vec<u8>> = fixture.setup.iter().map(codec::encode).collect();
    chain.submit_many(setup.into_iter()).result.expect("valid");
    let running = Running { store, chain, indexes, _directory: directory };
    running.wait();
    running
}

impl Running {
    fn wait(&self) {
        if let Some(indexes) = &self.indexes {
            // One that is far behind says so at once.
            while let Err(IndexError::Behind { .. }) = indexes.view(Duration::from_secs(1)) {
                std::thread::sleep(POLL);
            }
            indexes.view(Duration::ZERO).expect("the indexes run");
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

/// The same blocks once they are stored: read, checked by every rule, and the coins counted.
fn verify(fixture: &Fixture, blocks: &[Block], count: usize) -> (f64, f64) {
    let running = start(fixture, Arc::new(KnownSignatures::default()), false);
    let encoded: Vec<Vec<u8>> = blocks.iter().map(codec::encode).collect();
    running.chain.submit_many(encoded.into_iter()).result.expect("valid");
    running.chain.flush().expect("flushes");
    let verifier = Verifier::new(fixture.network.clone(), Arc::new(KnownSignatures::default()), None);
    let setup: usize = fixture.setup.iter().map(|block| block.transactions.len()).sum();
    let measure = Measure::start();
    let done = recheck(&*running.store, &verifier, None, None, &mut |_, _| {}).expect("valid");
    let measured = measure.end(count);
    assert_eq!(done.transactions, (count + setup) as u64);
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
        let block = EncodedBlock::decode(bytes).expect("valid");
        let hash = block.block().hash();
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
        "known block, bytes to visible tip: {:.2} us a transaction (best {:.2}, mean {:.2}, worst {:.2}; {cpu:.2} us of \
         processor)",
        each(median),
        each(best),
        each(times.iter().sum::<Duration>() / times.len() as u32),
        each(times[times.len() - 1])
    );
}
