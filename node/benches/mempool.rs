//! How many transactions a second the mempool takes, and how the CPU miner compares with bare hashing.
//!
//! `cargo bench -p setara-node --bench mempool [-- COUNT] [acceptance] [hashing]`. Every transaction has one input and two outputs, is signed
//! by a key of its own, and is new to the node; the chain is in memory. Nothing is asserted: figures go to
//! `docs/performance.md`.

#[path = "common/row.rs"]
mod row;

use rayon::prelude::*;
use row::{Row, Wish};
use setara_core::block::Header;
use setara_core::consensus::{check_transaction, transaction_signatures};
use setara_core::hash::sha256d;
use setara_core::keys::{SignatureCheck, verify_all};
use setara_core::nonce::find_nonce;
use setara_core::pow::CompactBits;
use setara_core::transaction::{Coin, OutPoint, Transaction};
use setara_node::chain::{BATCH_SIGNATURES, ChainHandle, ChainOptions, KnownSignatures, Verifier};
use setara_node::clock::{Clock, SystemClock};
use setara_node::mempool::{Mempool, Options};
use setara_node::mining::Search;
use setara_node::mining::Templates;
use setara_node::store::MemoryStore;
use setara_node::testing::{ChainBuilder, address, coins, network, sign};
use sha2::block_api::compress256;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Transactions when none are asked for.
const COUNT: u32 = 50_000;
/// Batches that have a row in the table.
const REPORTED: [usize; 2] = [1, 256];
/// Outputs of one transaction that makes coins: below a block's room and the limits of one transaction.
const FAN: u32 = 2_500;

fn main() {
    let wish = Wish::read();
    if wish.wants("acceptance") {
        acceptance(u32::try_from(wish.number(COUNT as usize)).expect("a moderate number"));
    }
    if wish.wants("hashing") {
        hashing();
    }
}

/// `count` coins, each of a key of its own, and a transaction that spends each.
fn prepare(count: u32) -> (Vec<setara_core::block::Block>, Vec<Transaction>, Arc<setara_core::network::Network>) {
    let groups = count.div_ceil(FAN);
    let network = network(|parameters| {
        parameters.maturity = 1;
        let funds = |number| setara_core::transaction::Output { amount: coins(100), address: address(number) };
        parameters.allocations = (1..=groups).map(funds).collect();
    });
    let mut builder = ChainBuilder::new(&network);
    let mut blocks = builder.mine_empty(1);
    let genesis = &network.genesis().coinbase;
    let mut purses: Vec<(OutPoint, Coin, u32)> = Vec::new();
    for group in 0..groups {
        let outpoint = OutPoint::new(genesis.txid(), group);
        let fund = (outpoint, builder.coins[&outpoint]);
        let keys = group * FAN..count.min((group + 1) * FAN);
        let each = setara_core::amount::Amount::from_sen(coins(99).sen() / u64::from(FAN));
        let outs: Vec<_> = keys.clone().into_par_iter().map(|number| (address(1_000_000 + number), each)).collect();
        let spread = sign(&network, &[fund], &outs, 0, &[group + 1]);
        let txid = spread.txid();
        blocks.push(builder.mine(vec![spread]));
        for (index, number) in (0..).zip(keys) {
            let outpoint = OutPoint::new(txid, index);
            purses.push((outpoint, builder.coins[&outpoint], 1_000_000 + number));
        }
    }
    let transactions = purses
        .into_par_iter()
        .map(|(outpoint, coin, owner)| {
            let half = setara_core::amount::Amount::from_sen(coin.output.amount.sen() / 2 - 1_000);
            sign(&network, &[(outpoint, coin)], &[(address(1), half), (address(2), half)], 0, &[owner])
        })
        .collect();
    (blocks, transactions, network)
}

fn acceptance(count: u32) {
    let (blocks, transactions, network) = prepare(count);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let limit = signatures(&network, &transactions);
    for batch in [1, 16, 256, 4_096] {
        let known = Arc::new(KnownSignatures::default());
        let verifier = Verifier::new(network.clone(), known.clone(), None);
        let store = Arc::new(MemoryStore::new());
        let chain = ChainHandle::start(store, verifier, ChainOptions::default(), clock.clone()).expect("a new chain");
        for block in &blocks {
            chain.submit(block.clone()).expect("valid blocks");
        }
        let pool = Mempool::new(network.clone(), clock.clone(), chain.clone(), known, Options::default());
        let batches: Vec<Vec<Transaction>> = transactions.chunks(batch).map(<[Transaction]>::to_vec).collect();
        let start = Stopwatch::start();
        let accepted: usize = batches
            .into_iter()
            .map(|batch| pool.submit_many(batch).iter().filter(|verdict| verdict.is_ok()).count())
            .sum();
        let rate = start.report(&format!("mempool acceptance, {batch} at a time, transactions"), accepted as u64);
        if REPORTED.contains(&batch) {
            Row {
                what: &format!("mempool acceptance in process, {batch} at a time"),
                cache: "chain in memory",
                flush: "none",
                measured: format!("{rate:.0} transactions a second"),
                limit: format!("signatures alone {limit:.0} a second: {:.0} %", 100.0 * rate / limit),
            }
            .print();
        }
        assert_eq!(accepted, transactions.len(), "every transaction is good");
        if batch == 4_096 {
            let start = Instant::now();
            let chosen = pool.select_for_block(network.max_block_bytes).transactions.len();
            println!("selection of {chosen} transactions for a block: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            let templates = Templates::new(network.clone(), chain, Arc::new(pool), clock.clone());
            let start = Instant::now();
            let template = templates.build(address(0)).expect("a valid template");
            let chosen = template.transactions.len();
            println!("template of {chosen} transactions: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            let pool = templates.mempool();
            println!("memory: {} bytes a transaction", pool.info().usage / u64::from(count));
        }
    }
}

/// Signatures a second on all cores, in batches, and nothing else.
fn signatures(network: &setara_core::network::Network, transactions: &[Transaction]) -> f64 {
    let checks: Vec<SignatureCheck> = transactions
        .iter()
        .flat_map(|transaction| {
            let checked = check_transaction(network, transaction).expect("valid");
            transaction_signatures(network.genesis_hash(), &checked)
        })
        .collect();
    let start = Stopwatch::start();
    checks.par_chunks(BATCH_SIGNATURES).for_each(|batch| verify_all(batch, &mut rand::rng()).expect("valid"));
    start.report("signatures alone", checks.len() as u64)
}

/// The miner's inner loop on one core beside SHA-256d of 80 bytes and nothing else, and beside the two compressions that no
/// loop over nonces can do without.
fn hashing() {
    const HASHES: u32 = 10_000_000;
    let header = Header {
        version: 1,
        previous: setara_core::hash::BlockHash::ZERO,
        merkle_root: setara_core::hash::Hash256::ZERO,
        time: 7,
        bits: CompactBits::new(0x0301_0000),
        nonce: 0,
    };
    let start = Stopwatch::start();
    let mut bytes = header.to_bytes();
    for nonce in 0..HASHES {
        bytes[76..].copy_from_slice(&nonce.to_le_bytes());
        black_box(sha256d(&bytes));
    }
    start.report("bare SHA-256d of 80 bytes, one core, hashes", u64::from(HASHES));
    let target = header.bits.to_target().expect("a target");
    let start = Stopwatch::start();
    assert_eq!(black_box(find_nonce(&header, target, 0..=HASHES - 1)), None, "no hash is that small");
    start.report("one nonce after another, one core, hashes", u64::from(HASHES));
    let (search, start) = (Search::default(), Stopwatch::start());
    assert_eq!(black_box(search.find_nonce(&header, target, 0..=HASHES - 1)), None, "no hash is that small");
    let rate = start.report("the miner's loop, one core, hashes", u64::from(HASHES));
    let start = Stopwatch::start();
    let (mut first, mut second) = ([0; 64], [0; 64]);
    for nonce in 0..HASHES {
        first[..4].copy_from_slice(&nonce.to_le_bytes());
        let mut state = [7; 8];
        compress256(&mut state, std::slice::from_ref(black_box(&first)));
        second[..4].copy_from_slice(&state[0].to_be_bytes());
        compress256(&mut state, std::slice::from_ref(black_box(&second)));
        black_box(state);
    }
    let bare = start.report("two compressions, one core, hashes", u64::from(HASHES));
    Row {
        what: "the CPU miner's loop, one thread",
        cache: "none",
        flush: "none",
        measured: format!("{:.2} million hashes a second", rate / 1e6),
        limit: format!("two bare compressions {:.2} million a second: {:.0} %", bare / 1e6, 100.0 * rate / bare),
    }
    .print();
}

/// Time passed, and time this process had a core: on a busy machine only the second says much.
struct Stopwatch {
    start: Instant,
    cpu: Option<Duration>,
}

impl Stopwatch {
    fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu_time() }
    }

    /// How many a second.
    fn report(self, what: &str, count: u64) -> f64 {
        let elapsed = self.start.elapsed().as_secs_f64();
        let cpu = cpu_time().zip(self.cpu).map(|(now, then)| now - then).unwrap_or_default();
        let (rate, each) = (count as f64 / elapsed, cpu.as_secs_f64() * 1e6 / count as f64);
        println!("{what}: {rate:.0} a second ({elapsed:.2} s; {each:.2} us of a core each)");
        rate
    }
}

/// User and system time of this process (`utime` and `stime` of proc(5), in hundredths of a second).
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}
