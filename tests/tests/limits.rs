//! A real node that is short of something, or flooded: few file descriptors, stops at random moments of its work, more
//! invalid blocks than a log should tell of.

use serde_json::json;
use setara_core::amount::Amount;
use setara_core::codec::encode;
use setara_core::network::Network;
use setara_tests::crash::{Random, World};
use setara_tests::oracle::Ledger;
use setara_tests::process::{Setup, wait_until};
use setara_tests::purse::Purse;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Sockets that are opened to a node that may have 128 files.
const SOCKETS: usize = 300;
/// Stops at random moments in an ordinary run; `SETARA_STOPS` for more.
const STOPS: u64 = 8;
/// What operators and service managers are promised.
const STOP_MAX: Duration = Duration::from_secs(10);
/// A stop falls at most this long after the work has begun.
const STOP_DELAY_MILLIS_MAX: u64 = 700;
/// Invalid blocks that are sent; `SETARA_INVALID_BLOCKS` for more.
const INVALID_BLOCKS: usize = 6_000;
/// Those sent in one request.
const BATCH: usize = 200;
/// Each place in the code may log 1 MiB an hour; a few of them have something to say.
const LOG_BYTES_MAX: u64 = 3 << 20;

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The node runs with at most so many open files.
fn with_files(setup: Setup, files: u32) -> Setup {
    setup.under(["sh", "-c", &format!("ulimit -n {files}; exec \"$@\""), "sh"])
}

/// ST17. Sockets to peers' port and RPC's take all they can get; the node goes on connecting blocks, writing files and
/// answering whoever is connected, and once they are gone it lets others in. Too few to run with are refused by name.
#[test]
fn few_descriptors_are_shared() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::dev(directory.path()).with(["--db-cache", "16", "--p2p-listen", "127.0.0.1:0"]);
    let (mut world, mut node) = World::new(Network::dev(), with_files(setup.clone(), 128), 61);
    let peers = setup.listens();
    let rpc = node.client().url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let sockets: Vec<TcpStream> = (0..SOCKETS)
        .filter_map(|number| TcpStream::connect(if number % 2 == 0 { &peers } else { &rpc }).ok())
        .collect();
    assert!(sockets.len() > SOCKETS / 2, "only {} sockets", sockets.len());
    // This client's connection may have been the one too many: then it is let in when a silent one has timed out.
    for _ in 0..3 {
        wait_until("an answer among the sockets", || node.try_call("getblockcount", json!([])).ok());
        world.work_round(&node).expect("it goes on");
        world.fill_block(&node);
    }
    let files = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    println!("{} sockets; the node has {files} files open", sockets.len());
    assert!(files <= 128);
    drop(sockets);
    world.verify(&node, "with few descriptors");
    let (status, took) = node.terminate();
    assert!(status.success() && took < STOP_MAX, "{status}, {took:?}:\n{}", node.log());
    assert!(!node.log().contains("Too many open files"), "{}", node.log());
    let (status, log) = with_files(setup, 64).refused();
    assert!(!status.success() && log.contains("ulimit -n"), "{log}");
}

/// ST17. Asked to stop at a random moment of its work, mining, paying and reorganising, a node stops in time, cleanly, and
/// loses nothing.
#[test]
fn stops_at_random_moments_of_its_work() {
    let directory = tempfile::tempdir().unwrap();
    let (mut world, mut node) = World::new(Network::dev(), Setup::dev(directory.path()).with(["--db-cache", "16"]), 62);
    let mut slowest = Duration::ZERO;
    for stop in 0..setting("SETARA_STOPS", STOPS) {
        let delay = Duration::from_millis(world.random().below(STOP_DELAY_MILLIS_MAX));
        let pid = rustix::process::Pid::from_raw(node.pid() as i32).unwrap();
        let asked = AtomicBool::new(false);
        let began = std::thread::scope(|scope| {
            let stopper = scope.spawn(|| {
                // Not a wait for anything: the moment is the input of this test.
                std::thread::sleep(delay);
                asked.store(true, Ordering::SeqCst);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
                std::time::Instant::now()
            });
            while world.work(&node).is_ok() {}
            stopper.join().unwrap()
        });
        let status = node.wait();
        slowest = slowest.max(began.elapsed());
        assert!(asked.into_inner() && status.success(), "stop {stop}: {status}\n{}", node.log());
        assert!(began.elapsed() < STOP_MAX, "stop {stop} after {delay:?} took {:?}", began.elapsed());
        node = world.setup().start();
        world.verify(&node, &format!("stop {stop}"));
    }
    println!("slowest stop: {slowest:?}");
}

/// ST16. Thousands of different invalid blocks, each told of in the log: the log stays within its bound, and the node goes
/// on.
#[test]
fn invalid_blocks_do_not_fill_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let node = Setup::dev(directory.path()).start();
    let count = setting("SETARA_INVALID_BLOCKS", INVALID_BLOCKS);
    let network = Network::dev();
    let (ledger, purse) = (Ledger::new(&network), Purse::new(&network, 8));
    let mut random = Random::new(9);
    let mut refused = 0;
    for _ in 0..count / BATCH {
        let hex: Vec<String> =
            (0..BATCH).map(|_| hex::encode(encode(&greedy(&ledger, &purse, random.next())))).collect();
        let calls: Vec<_> = hex.iter().map(|block| ("submitblock", json!([block]))).collect();
        for answer in node.client().batch(&calls).unwrap() {
            let answer = answer.unwrap();
            assert!(answer.as_str().is_some_and(|reason| !reason.starts_with("inconclusive")), "{answer}");
            refused += 1;
        }
    }
    let log = log_bytes(&directory.path().join("dev"));
    let told = node.log().lines().filter(|line| line.contains("is invalid")).count();
    println!("{refused} invalid blocks: {told} lines, {log} bytes of log");
    assert!(log < LOG_BYTES_MAX, "{log} bytes");
    // As many lines as fit: else the bound was not reached, and this shows nothing.
    assert!(told > 1_000 && told < refused, "{told} lines of {refused}");
    assert_eq!(node.call("getblockcount", json!([])), json!(0));
}

/// A block that pays its miner a sen too much.
fn greedy(ledger: &Ledger, purse: &Purse, tag: u64) -> setara_core::block::Block {
    let mut block = ledger.mine(vec![], purse.address(), &tag.to_le_bytes());
    let output = &mut block.coinbase.outputs[0];
    output.amount = Amount::from_sen(output.amount.sen() + 1);
    block.header.merkle_root = block.merkle_root().root;
    let target = block.header.bits.to_target().unwrap();
    while !target.is_met_by(block.hash()) {
        block.header.nonce += 1;
    }
    block
}

fn log_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("setara.log"));
    logs.map(|file| file.metadata().unwrap().len()).sum()
}
