//! What depends on the state and on the shape of blocks: verifying where the coins are 1, 4 and 16 times what the cache holds,
//! blocks whose coins are on the disk, blocks of five inputs and outputs, a long reorganisation, and what all of it takes on
//! the disk. Beside them what signature checks alone, or RocksDB alone, reach on the same cores in the same run.
//!
//! `cargo bench --bench state [-- TRANSACTIONS] [state] [cold] [five] [reorg] [disk] [bulk]`. TRANSACTIONS are those of each
//! timed part.

mod common;

use common::{Fixture, Ledger, Measure, PAYMENT, PER_BLOCK, Row, Shape, Wish, baseline, folder, load, open, point};
use setara_core::block::EncodedBlock;
use setara_core::codec;
use setara_node::chain::{Accepted, KnownSignatures};
use setara_node::index::{IndexError, Indexes};
use setara_node::store::{Batch, Column, Durability, RocksOptions, RocksStore, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Transactions of each timed part, unless the command line says otherwise.
const TRANSACTIONS: usize = 100_000;
/// Memory for the table of coins, and as much for the database, where the state is compared with it: small, so that sixteen
/// times as much is made in seconds.
const CACHE_BYTES: usize = 16 << 20;
const CACHE: &str = "16 + 16 MiB";
/// Coins that such a table holds: three quarters of 2^17 slots.
const CACHED_COINS: usize = 98_304;
/// States, in such tables.
const STATES: [usize; 3] = [1, 4, 16];
/// Memory where the state does not matter: as without options.
const USUAL_BYTES: usize = 225 << 20;
const USUAL: &str = "225 + 225 MiB";
const BULK: &str = "a synced batch when a cache is full, or a minute has passed; one at the end";
const EACH: &str = "a synced batch each";
/// Five distinct keys pay five others: some 1.1 kB each, a megabyte together.
const FIVE: Shape = Shape { inputs: 5, staying: 0, per_block: 900 };
/// A reorganisation: blocks that are left, and transactions of each.
const REORG_BLOCKS: usize = 100;
const REORG_SHAPE: Shape = Shape { inputs: 1, staying: 1, per_block: 2_000 };
/// Blocks whose coins are on the disk.
const COLD_BLOCKS: usize = 10;
/// Rows of a batch that RocksDB is given alone: some 8 MB.
const BULK_ROWS: usize = 100_000;
/// Bytes of a coin's row: outpoint, and amount, address, height with a seal.
const COIN_KEY_BYTES: usize = 36;
const COIN_VALUE_BYTES: usize = 46;
/// Between two looks at how far the indexes are.
const POLL: Duration = Duration::from_millis(2);

fn main() {
    let wish = Wish::read();
    let transactions = wish.number(TRANSACTIONS);
    println!("{} cores, {transactions} transactions a part", rayon::current_num_threads());
    if wish.wants("state") {
        STATES.iter().for_each(|times| state(transactions, *times));
    }
    if wish.wants("cold") {
        cold(transactions);
    }
    if wish.wants("five") {
        five(transactions);
    }
    if wish.wants("reorg") {
        reorg(transactions);
    }
    if wish.wants("disk") {
        disk(transactions);
    }
    if wish.wants("bulk") {
        bulk(transactions);
    }
}

fn known() -> Arc<KnownSignatures> {
    Arc::new(KnownSignatures::default())
}

/// Verifying in bulk with a state of so many tables of coins, whose coins are spent in no order of theirs.
fn state(transactions: usize, times: usize) {
    let blocks = transactions.div_ceil(PER_BLOCK);
    let (mut ledger, setup) = Ledger::new(blocks * PER_BLOCK, times * CACHED_COINS);
    let timed = ledger.mine(blocks, PAYMENT);
    let fixture = Fixture { network: ledger.network(), setup, blocks: timed };
    let limit = baseline(&fixture);
    let directory = folder();
    // As a node that begins with this state: nothing of it is in memory.
    let (store, chain) = open(&fixture.network, directory.path(), CACHE_BYTES, known());
    load(&chain, &fixture.setup);
    chain.stop();
    store.settle().expect("settles");
    drop((store, chain));
    let (_store, chain) = open(&fixture.network, directory.path(), CACHE_BYTES, known());
    let measure = Measure::start();
    load(&chain, &fixture.blocks);
    let (rate, cpu) = measure.end(blocks * PER_BLOCK);
    let share = 100.0 * rate / limit.0;
    point(&format!("{} cores", rayon::current_num_threads()), times as f64, rate);
    point(&format!("signatures alone, {} cores", rayon::current_num_threads()), times as f64, limit.0);
    Row {
        what: &format!("sync and verify, the state {times} times the cache"),
        cache: CACHE,
        flush: BULK,
        measured: format!("{rate:.0} transactions and as many signatures a second; {cpu:.1} us of processor each"),
        limit: format!("signatures alone {:.0} a second: {share:.0} %", limit.0),
    }
    .print();
    chain.stop();
}

/// Blocks at the tip that nobody has seen, of coins that are on the disk.
fn cold(transactions: usize) {
    let blocks = COLD_BLOCKS.min(transactions.div_ceil(PER_BLOCK).max(1));
    let (mut ledger, setup) = Ledger::new(blocks * PER_BLOCK, 4 * CACHED_COINS);
    let timed = ledger.mine(blocks, PAYMENT);
    let fixture = Fixture { network: ledger.network(), setup, blocks: timed };
    let limit = baseline(&fixture);
    let directory = folder();
    let (store, chain) = open(&fixture.network, directory.path(), CACHE_BYTES, known());
    load(&chain, &fixture.setup);
    chain.stop();
    store.settle().expect("settles");
    drop((store, chain));
    let (_store, chain) = open(&fixture.network, directory.path(), CACHE_BYTES, known());
    let mut times: Vec<f64> = fixture
        .blocks
        .iter()
        .map(|block| {
            let bytes = codec::encode(block);
            let start = Instant::now();
            chain.submit(EncodedBlock::decode(bytes).expect("valid")).expect("valid");
            start.elapsed().as_secs_f64() * 1e6 / PER_BLOCK as f64
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    let median = times[times.len() / 2];
    Row {
        what: "cold block of 4,000: unknown transactions, coins on the disk; bytes to visible tip",
        cache: CACHE,
        flush: EACH,
        measured: format!("{median:.2} us a transaction, median of {} (best {:.2})", times.len(), times[0]),
        limit: format!("signatures alone {:.2} us each", 1e6 / limit.0),
    }
    .print();
    chain.stop();
}

/// Transactions of five inputs of five keys.
fn five(transactions: usize) {
    let blocks = (transactions / FIVE.inputs).div_ceil(FIVE.per_block);
    let fixture = Fixture::shaped(blocks, FIVE);
    let limit = baseline(&fixture);
    let directory = folder();
    let (_store, chain) = open(&fixture.network, directory.path(), USUAL_BYTES, known());
    load(&chain, &fixture.setup);
    let measure = Measure::start();
    load(&chain, &fixture.blocks);
    let (rate, cpu) = measure.end(blocks * FIVE.per_block);
    let signatures = rate * FIVE.inputs as f64;
    Row {
        what: "blocks of 900 transactions of five inputs (five keys) and five outputs, in bulk",
        cache: USUAL,
        flush: BULK,
        measured: format!(
            "{rate:.0} transactions and {signatures:.0} signatures a second; {cpu:.1} us of processor a transaction"
        ),
        limit: format!("signatures alone {:.0} a second: {:.0} %", limit.0, 100.0 * signatures / limit.0),
    }
    .print();
    chain.stop();
}

/// From a branch of a hundred blocks to one of a hundred and one, all of whose bodies are here.
fn reorg(transactions: usize) {
    let per_block = REORG_SHAPE.per_block;
    let blocks = REORG_BLOCKS.min(transactions.div_ceil(per_block).max(2));
    let (mut ledger, setup) = Ledger::new(per_block, per_block);
    let mut other = ledger.fork();
    let (left, taken) = (ledger.mine(blocks, REORG_SHAPE), other.mine(blocks + 1, REORG_SHAPE));
    let directory = folder();
    let (_store, chain) = open(&ledger.network(), directory.path(), USUAL_BYTES, known());
    load(&chain, &setup);
    load(&chain, &left);
    let (last, first) = taken.split_last().expect("blocks");
    for block in first {
        assert_eq!(chain.submit(block.clone()).expect("valid"), Accepted::SideBranch);
    }
    let start = Instant::now();
    assert_eq!(chain.submit(last.clone()).expect("valid"), Accepted::Connected);
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(chain.view().tip.hash(), last.hash());
    let moved = (2 * blocks + 1) * per_block;
    Row {
        what: &format!("reorganisation: {blocks} blocks of 2,000 transactions left, {} taken", blocks + 1),
        cache: USUAL,
        flush: "synced batches on the way, one at the end",
        measured: format!("{seconds:.2} s; {:.2} us a transaction left or taken", seconds * 1e6 / moved as f64),
        limit: String::new(),
    }
    .print();
    chain.stop();
}

/// What transactions and coins take on the disk.
fn disk(transactions: usize) {
    let blocks = transactions.div_ceil(PER_BLOCK);
    let fixture = Fixture::new(blocks);
    let directory = folder();
    let (store, chain) = open(&fixture.network, directory.path(), USUAL_BYTES, known());
    let indexes = Indexes::start(store.clone(), chain.clone()).expect("starts");
    load(&chain, &fixture.setup);
    load(&chain, &fixture.blocks);
    while let Err(IndexError::Behind { .. }) = indexes.view(Duration::from_secs(1)) {
        std::thread::sleep(POLL);
    }
    let coins = chain.view().coins_total().expect("counts").count;
    indexes.stop();
    chain.stop();
    store.settle().expect("settles");
    let of = |columns: &[Column]| -> f64 {
        columns.iter().map(|column| store.column_bytes(*column).expect("known")).sum::<u64>() as f64
    };
    let count = (blocks * PER_BLOCK) as f64;
    let encoded: usize = fixture.blocks.iter().map(|block| codec::encode(block).len()).sum();
    let chain_bytes = of(&[Column::Bodies, Column::Undo, Column::Headers, Column::Heights]) / count;
    let index_bytes = of(&[Column::TxIndex, Column::AddressIndex]) / count;
    let coin_bytes = of(&[Column::Coins]) / coins as f64;
    Row {
        what: "bytes on disk a transaction of one input and two outputs",
        cache: USUAL,
        flush: "closed as a node that stops",
        measured: format!("{chain_bytes:.0} body and undo data; {index_bytes:.0} more with both indexes"),
        limit: format!("{:.0} in the block", encoded as f64 / count),
    }
    .print();
    Row {
        what: "bytes on disk a coin",
        cache: USUAL,
        flush: "closed as a node that stops",
        measured: format!("{coin_bytes:.0}, of {coins} coins"),
        limit: format!("{} in its row", COIN_KEY_BYTES + COIN_VALUE_BYTES),
    }
    .print();
}

/// RocksDB alone: coins' rows in key order, in large batches, and bodies.
fn bulk(transactions: usize) {
    let directory = folder();
    let options = RocksOptions { memory_bytes: USUAL_BYTES, ..RocksOptions::default() };
    let store = RocksStore::open(directory.path(), &options).expect("opens");
    let rows = transactions.max(BULK_ROWS) * 10 / BULK_ROWS * BULK_ROWS;
    let mut seed = 1u32;
    let mut random = || {
        // Any numbers that neither sort nor compress.
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed.to_le_bytes()
    };
    let mut batches: Vec<Vec<[u8; COIN_KEY_BYTES + COIN_VALUE_BYTES]>> = Vec::new();
    for _ in 0..rows / BULK_ROWS {
        let mut batch = vec![[0; COIN_KEY_BYTES + COIN_VALUE_BYTES]; BULK_ROWS];
        batch
            .iter_mut()
            .for_each(|row| row.chunks_mut(4).for_each(|part| part.copy_from_slice(&random()[..part.len()])));
        batch.sort_unstable();
        batches.push(batch);
    }
    let measure = Measure::start();
    for rows in &batches {
        let mut batch = Batch::new();
        for row in rows {
            let (key, value) = row.split_at(COIN_KEY_BYTES);
            batch.put(Column::Coins, key, value);
        }
        store.write(batch, Durability::Synced).expect("writes");
    }
    store.settle().expect("settles");
    let (rate, cpu) = measure.end(rows);
    let measured = format!("{rate:.0} rows a second, {:.0} MB/s; {cpu:.2} us of processor each", rate * 82.0 / 1e6);
    let flush = "a synced batch each 100,000 rows";
    Row { what: "RocksDB alone: coins' rows in key order", cache: "225 MiB", flush, measured, limit: String::new() }
        .print();
    let body = vec![0x5a; 1_000_000];
    let bodies = (transactions / 500).max(20);
    let measure = Measure::start();
    for number in 0..bodies {
        let mut batch = Batch::new();
        batch.put(Column::Bodies, &(number as u64).to_be_bytes(), &body);
        store.write(batch, Durability::Synced).expect("writes");
    }
    store.settle().expect("settles");
    let (rate, _) = measure.end(bodies);
    let measured = format!("{rate:.0} a second");
    Row { what: "RocksDB alone: bodies of a megabyte", cache: "225 MiB", flush: EACH, measured, limit: String::new() }
        .print();
}
