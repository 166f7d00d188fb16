//! Blocks connected per second, beside what signature checks alone could reach on the same cores in the same run.
//!
//! Blocks of 1-input 2-output transactions, a distinct key per input, cold signature cache, coins in the cache, RocksDB
//! on disk with the default sync settings, roots and `coins_root` checked. Then a block of known transactions, from its
//! bytes to the visible tip. `cargo bench --bench connect [-- TRANSACTIONS] [connect] [indexed] [known] [verify]`.

mod common;

use common::{Fixture, Measure, PER_BLOCK, Row, Wish, baseline, cpu_seconds, folder, load, open};
use setara_core::block::{Block, EncodedBlock};
use setara_core::codec;
use setara_node::chain::{ChainHandle, KnownSignatures, Verifier, recheck};
use setara_node::index::{IndexError, Indexes};
use setara_node::store::Store;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Transactions connected in the timed part, unless the command line says otherwise.
const TRANSACTIONS: usize = 300_000;
/// Between two looks at how far the indexes are.
const POLL: Duration = Duration::from_millis(2);
/// Blocks of known transactions.
const KNOWN_BLOCKS: usize = 15;
/// Memory of coins and database, as without options.
const CACHE: &str = "225 + 225 MiB";
/// While many blocks come, they are stored together.
const BULK: &str = "a synced batch when a cache is full, or a minute has passed; one at the end";

fn main() {
    let wish = Wish::read();
    let wanted = |part: &str| wish.wants(part);
    let blocks = usize::div_ceil(wish.number(TRANSACTIONS), PER_BLOCK);
    println!("{} cores, {blocks} blocks of {PER_BLOCK} transactions", rayon::current_num_threads());
    let start = Instant::now();
    let fixture = Fixture::new(blocks + if wanted("known") { KNOWN_BLOCKS } else { 0 });
    println!("fixtures made in {:.1} s", start.elapsed().as_secs_f64());

    let baseline = baseline(&fixture);
    let report = |what: &str, name: &str, (rate, cpu): (f64, f64)| {
        let (share, share_cpu) = (100.0 * rate / baseline.0, 100.0 * baseline.1 / cpu);
        println!(
            "{what} {rate:>9.0} transactions/s, {share:.0} % of the baseline ({cpu:.2} us of processor each, \
             {share_cpu:.0} %)"
        );
        let measured = format!("{rate:.0} transactions and as many signatures a second; {cpu:.1} us of processor each");
        let limit =
            format!("signatures alone {:.0} a second: {share:.0} %, by processor time {share_cpu:.0} %", baseline.0);
        Row { what: name, cache: CACHE, flush: BULK, measured, limit }.print();
    };
    let timed = &fixture.blocks[..blocks];
    let count = blocks * PER_BLOCK;
    if wanted("connect") {
        report("connected, no index:  ", "blocks connected in bulk, no index", connect(&fixture, timed, false, count));
    }
    if wanted("indexed") {
        report("connected and indexed:", "the same with both indexes", connect(&fixture, timed, true, count));
    }
    if wanted("verify") {
        report("stored, verified anew:", "a stored chain verified anew", verify(&fixture, timed, count));
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
    let directory = folder();
    let (store, chain) = open(&fixture.network, directory.path(), 225 << 20, known);
    let indexes = index.then(|| Indexes::start(store.clone(), chain.clone()).expect("starts"));
    load(&chain, &fixture.setup);
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
    load(&running.chain, blocks);
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
    load(&running.chain, before);
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
    Row {
        what: "warm block of 4,000: known transactions, coins in the cache; bytes to visible tip",
        cache: CACHE,
        flush: "a synced batch each",
        measured: format!("{:.2} us a transaction, median of {} (best {:.2})", each(median), times.len(), each(best)),
        limit: String::new(),
    }
    .print();
}
