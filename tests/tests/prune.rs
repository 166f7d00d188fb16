//! Pruning over real processes and RocksDB: the disk shrinks and stays small, kills in the middle harm nothing, and what
//! a pruned directory is started with is checked.

use serde_json::{Value, json};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::codec::encode;
use setara_core::height::Height;
use setara_core::network::{Network, Parameters};
use setara_core::transaction::Output;
use setara_node::chain::{ChainHandle, ChainOptions, KEEP_BODIES, KnownSignatures, Verifier, failpoint};
use setara_node::clock::SystemClock;
use setara_node::store::{RocksOptions, RocksStore, Store};
use setara_node::testing::{self, ChainBuilder};
use setara_tests::process::{DEADLINE, NodeProcess, Setup, wait_until};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Blocks of the chain, each of some 66 kB: five times what is kept.
const BLOCKS: u32 = 2_400;
/// Outputs of each coinbase, of nothing: bytes that make no coins.
const OUTPUTS: usize = 2_000;
/// What is asked for; the least that this network allows is 288 blocks of 100 kB.
const PRUNE: &str = "30m";
const PRUNE_BYTES: u64 = 30_000_000;
/// Bytes written while syncing, a body, at most: once to the log, once to its place.
const WRITTEN_RATIO_MAX: f64 = 2.2;
/// On disk beside the bodies: the log that is replayed at a start, undo records, headers, a file not quite dead yet.
const BESIDE_BYTES: u64 = 12_000_000;

/// What the whole database may take in the test of that; the least is 288 blocks of 100 kB and 200 MB.
const MAX_DISK: &str = "240m";
const MAX_DISK_BYTES: u64 = 240_000_000;
/// Outputs of a block of 97 kB, and the bytes of such blocks that come in: far more than may stay.
const LARGE_OUTPUTS: usize = 2_950;
const COMING_BYTES: u64 = 360_000_000;

/// Between two looks at a folder of many files.
const FOLDER_POLL: Duration = Duration::from_millis(25);
/// Between two looks at a process.
const POLL: Duration = Duration::from_millis(5);

/// Blocks of at most 100 kB, so that a chain of a hundred megabytes is long.
fn network() -> Arc<Network> {
    testing::network(|parameters: &mut Parameters| {
        parameters.name = "prune".to_owned();
        parameters.maturity = 2;
        parameters.max_block_bytes = 100_000;
    })
}

/// Large blocks that cost little to check.
fn blocks(network: &Arc<Network>, count: u32) -> Vec<Vec<u8>> {
    endless(network, OUTPUTS).take(count as usize).collect()
}

/// The same without end, each of so many outputs.
fn endless(network: &Arc<Network>, outputs: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut builder = ChainBuilder::new(network);
    builder.keep_history(false);
    let nothing = Output { amount: Amount::ZERO, address: Address::ZERO };
    std::iter::repeat_with(move || {
        let mut block = builder.build(Vec::new());
        block.coinbase.outputs.extend(std::iter::repeat_n(nothing, outputs));
        let block = testing::seal(block);
        builder.apply(&block).unwrap();
        encode(&block)
    })
}

/// A directory that holds the chain, never pruned.
fn write_archive(network: &Arc<Network>, folder: &Path, blocks: Vec<Vec<u8>>) {
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(&folder.join("db"), &RocksOptions::default()).unwrap());
    let verifier = Verifier::new(network.clone(), Arc::new(KnownSignatures::default()), None);
    let clock = Arc::new(SystemClock::new());
    let chain = ChainHandle::start(store.clone(), verifier, ChainOptions::default(), clock).unwrap();
    chain.submit_many(blocks.into_iter()).result.unwrap();
    chain.stop();
    store.settle().unwrap();
}

fn folder_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().filter_map(|file| file.ok()?.metadata().ok());
    files.map(|metadata| metadata.len()).sum()
}

fn height(node: &NodeProcess) -> u64 {
    node.call("getblockcount", json!([])).as_u64().unwrap()
}

fn info(node: &NodeProcess) -> Value {
    node.call("getblockchaininfo", json!([]))
}

/// Every body from `pruneheight` on is here, and whole; none below it.
fn assert_serves(node: &NodeProcess) -> u64 {
    let from = info(node)["pruneheight"].as_u64().unwrap();
    let tip = height(node);
    assert!(tip + 1 - from >= u64::from(KEEP_BODIES).min(tip + 1), "{from} of {tip}");
    for height in [0, 1, from.saturating_sub(1), from, from + 1, (from + tip) / 2, tip] {
        let hash = node.call("getblockhash", json!([height]));
        let result = node.try_call("getblock", json!([hash]));
        if height >= from || height == 0 {
            assert_eq!(result.unwrap()["height"], height);
        } else {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("Block not available (pruned data)"), "{error}");
        }
    }
    from
}

/// Bytes that a process has had written to the disk so far.
fn written(node: &NodeProcess) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/io", node.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().parse().unwrap()
}

/// A node that prunes while it syncs from one that has everything stays small all the way; after kills before and after
/// a deletion it goes on; and a newcomer gets the newest blocks from it, the old ones from who has them.
#[test]
#[ignore = "failed in two of nine runs on a busy machine, once since the directory did not shrink: make test-long"]
fn prune_while_syncing_stays_small_and_survives_kills() {
    let network = network();
    let directory = tempfile::tempdir().unwrap();
    let genesis = directory.path().join("genesis.json");
    std::fs::write(&genesis, network.to_json()).unwrap();
    let setup = |name: &str| {
        let arguments = ["--no-index", "--db-cache", "32", "--allow-private", "--p2p-listen", "127.0.0.1:0"];
        Setup::genesis(directory.path().join(name), "prune", &genesis).with(arguments)
    };
    let archive = setup("archive");
    let chain = blocks(&network, BLOCKS);
    let bodies: u64 = chain.iter().map(|block| block.len() as u64).sum();
    write_archive(&network, &archive.network_dir(), chain);
    let archive_bytes = folder_bytes(&archive.network_dir().join("db"));
    let archive_node = archive.start();
    let peer = |setup: &Setup| {
        wait_until("a node that listens", || {
            let endpoints = std::fs::read(setup.network_dir().join("endpoints.json")).ok()?;
            serde_json::from_slice::<Value>(&endpoints).ok()?["p2p"].as_str().map(str::to_owned)
        })
    };
    let pruned = setup("pruned").with(["--prune", PRUNE, "--connect", &peer(&archive)]);
    let database = pruned.network_dir().join("db");
    for point in [failpoint::BEFORE_PRUNE, failpoint::AFTER_PRUNE] {
        let mut node = pruned.clone().env(failpoint::VARIABLE, format!("{point}:1")).spawn();
        let end = Instant::now() + DEADLINE;
        let ended = loop {
            if let Some(ended) = node.has_exited() {
                break ended;
            }
            assert!(Instant::now() < end, "{point} was not reached:\n{}", node.log());
            std::thread::sleep(POLL);
        };
        assert!(!ended.success(), "{point} was not reached:\n{}", node.log());
    }
    let mut node = pruned.start();
    let mut largest = 0;
    wait_until("the tip", || {
        largest = largest.max(folder_bytes(&database));
        (height(&node) == u64::from(BLOCKS)).then_some(())
    });
    let shown = info(&node);
    assert_eq!((&shown["pruned"], &shown["automatic_pruning"]), (&json!(true), &json!(true)));
    assert_eq!(shown["prune_target_size"], PRUNE_BYTES);
    wait_until("a small directory", || (folder_bytes(&database) <= PRUNE_BYTES + BESIDE_BYTES).then_some(()));
    let left = folder_bytes(&database);
    let from = assert_serves(&node);
    println!("{bodies} bytes of bodies, {archive_bytes} unpruned; pruned {left}, at most {largest}; kept from {from}");
    assert!(from > u64::from(BLOCKS) / 2);
    assert!(largest < bodies, "it was never as large as the chain: {largest}");
    assert!(node.terminate().0.success());
    let (_, refused) = setup("pruned").refused();
    assert!(refused.contains(&format!("blocks below height {from} were deleted")), "{refused}");
    let with_index = Setup::genesis(directory.path().join("pruned"), "prune", &genesis).with(["--prune", PRUNE]);
    let (_, refused) = with_index.refused();
    assert!(refused.contains("has read the chain up to height 0 only"), "{refused}");
    let node = pruned.start();
    assert_eq!((height(&node), assert_serves(&node)), (u64::from(BLOCKS), from));

    let newcomer =
        setup("newcomer").with(["--prune", PRUNE, "--connect", &peer(&pruned), "--connect", &peer(&archive)]);
    let newcomer = newcomer.start();
    wait_until("the newcomer's tip", || (height(&newcomer) == u64::from(BLOCKS)).then_some(()));
    let ratio = written(&newcomer) as f64 / bodies as f64;
    println!("bytes written while syncing and pruning: {ratio:.2} times the bodies");
    assert!(ratio <= WRITTEN_RATIO_MAX, "{ratio}");
    drop((archive_node, node));
}

/// `--prune manual` waits to be told, and then the disk shrinks at once.
#[test]
fn prune_a_whole_chain() {
    let network = network();
    let directory = tempfile::tempdir().unwrap();
    let genesis = directory.path().join("genesis.json");
    std::fs::write(&genesis, network.to_json()).unwrap();
    let setup = Setup::genesis(directory.path().join("node"), "prune", &genesis).with(["--no-index", "--no-listen"]);
    let node = setup.clone().with(["--db-cache", "32", "--prune", "manual"]).start();
    let chain = blocks(&network, BLOCKS);
    let bodies: u64 = chain.iter().map(|block| block.len() as u64).sum();
    for block in &chain {
        assert_eq!(node.call("submitblock", json!([hex::encode(block)])), Value::Null);
    }
    let database = setup.network_dir().join("db");
    assert!(folder_bytes(&database) > bodies);
    assert_eq!(info(&node)["automatic_pruning"], false);
    let through = BLOCKS - 2 * KEEP_BODIES;
    assert_eq!(node.call("pruneblockchain", json!([through])), through);
    assert_eq!(assert_serves(&node), u64::from(through) + 1);
    let after = folder_bytes(&database);
    println!("{bodies} bytes of bodies; {after} on disk after pruning to the newest {}", BLOCKS - through);
    assert!(after < bodies * 3 / 4, "{after}");
    drop(node);
    let node = setup.with(["--db-cache", "32", "--max-disk", "260m"]).start();
    assert_eq!(info(&node)["prune_target_size"], 260_000_000);
    assert_serves(&node);
    assert_eq!(Height::new(BLOCKS).get() as u64, height(&node));
}

/// `--max-disk` deletes old blocks by itself while blocks come in: the directory grows up to it, never past it, and shrinks.
#[test]
fn prune_max_disk_is_kept_while_blocks_come_in() {
    let network = network();
    let directory = tempfile::tempdir().unwrap();
    let genesis = directory.path().join("genesis.json");
    std::fs::write(&genesis, network.to_json()).unwrap();
    let setup = Setup::genesis(directory.path().join("node"), "prune", &genesis).with(["--no-index", "--no-listen"]);
    let database = setup.network_dir().join("db");
    let node = setup.with(["--db-cache", "32", "--max-disk", MAX_DISK]).start();
    let (largest, fell, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let mut coming = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut before = 0;
            while !done.load(Ordering::SeqCst) {
                // A file may go between its name and its size.
                let bytes = folder_bytes(&database);
                largest.fetch_max(bytes, Ordering::SeqCst);
                fell.fetch_max(u64::saturating_sub(before, bytes), Ordering::SeqCst);
                before = bytes;
                std::thread::sleep(FOLDER_POLL);
            }
        });
        for block in endless(&network, LARGE_OUTPUTS) {
            let answer = node.try_call("submitblock", json!([hex::encode(&block)]));
            coming += block.len() as u64;
            if coming >= COMING_BYTES || !matches!(answer, Ok(Value::Null)) {
                done.store(true, Ordering::SeqCst);
                answer.unwrap();
                break;
            }
        }
    });
    let (largest, fell) = (largest.into_inner(), fell.into_inner());
    let from = assert_serves(&node);
    println!("{coming} bytes of blocks; at most {largest} on disk, at once {fell} less; kept from {from}");
    assert!(from > 1 && fell > MAX_DISK_BYTES / 32, "nothing was deleted: {from}, {fell}");
    assert!(largest > MAX_DISK_BYTES / 2 && largest <= MAX_DISK_BYTES, "{largest}");
}
