//! The real node on a directory of 100,000 headers and a million coins: from its start to its first answer, and what it holds in
//! memory when it has been idle for a minute.
//!
//! `cargo bench --bench start [-- HEADERS]`, after `cargo build --release --bins`; there are ten coins for each header.

mod common;

use common::{Ledger, Row, Wish, folder, load, open};
use serde_json::{Value, json};
use setara_api::client::{Auth, Client};
use setara_node::chain::KnownSignatures;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Headers, unless the command line says otherwise.
const HEADERS: usize = 100_000;
const COINS_PER_HEADER: usize = 10;
/// Blocks made and loaded at a time.
const STEP: u32 = 5_000;
/// Starts; the median counts.
const STARTS: usize = 5;
/// How long the node is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(60);
/// Memory with which the directory is made.
const MAKING_BYTES: usize = 225 << 20;
/// Between two looks at a node that starts.
const POLL: Duration = Duration::from_millis(1);
/// Between two looks at the clock of a node that is left alone.
const LONG_POLL: Duration = Duration::from_millis(200);
/// Longest wait for one.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let headers = Wish::read().number(HEADERS);
    let binary = std::env::current_exe().expect("a path");
    let binary = binary.parent().and_then(Path::parent).expect("target/release/deps").join("setara-node");
    assert!(binary.exists(), "{} is not built: cargo build --release --bins first", binary.display());
    let directory = folder();
    let genesis = directory.path().join("genesis.json");
    let coins = make(directory.path(), &genesis, headers);
    // Every bench runs the node as without options, which also keeps indexes; the first start builds them.
    let mut node = Node::start(&binary, directory.path(), &genesis);
    node.wait_for_indexes();
    node.stop();
    let mut times: Vec<f64> = Vec::new();
    for _ in 0..STARTS {
        let mut node = Node::start(&binary, directory.path(), &genesis);
        assert_eq!(node.client.call("getblockcount", json!([])).expect("it answers"), headers as u64);
        times.push(node.started.as_secs_f64());
        node.stop();
    }
    times.sort_unstable_by(f64::total_cmp);
    Row {
        what: &format!("start: from exec to an answer to getblockcount, {headers} headers, {coins} coins"),
        cache: "225 + 225 MiB",
        flush: "stopped cleanly before",
        measured: format!("{:.2} s, median of {STARTS} (best {:.2})", times[times.len() / 2], times[0]),
        limit: String::new(),
    }
    .print();
    let mut node = Node::start(&binary, directory.path(), &genesis);
    let (first, since) = (node.resident(), Instant::now());
    while since.elapsed() < IDLE {
        std::thread::sleep(LONG_POLL);
    }
    let resident = node.resident();
    node.stop();
    Row {
        what: &format!("memory of a node that was idle for 60 s, {headers} headers, {coins} coins, both indexes"),
        cache: "as without options",
        flush: "none",
        measured: format!("{:.0} MB resident ({:.0} MB when it first answered)", resident / 1e6, first / 1e6),
        limit: "wanted: 300 MB".to_owned(),
    }
    .print();
}

/// Makes the directory; how many coins are in it.
fn make(folder: &Path, genesis: &Path, headers: usize) -> u64 {
    let (mut ledger, setup) = Ledger::new(0, headers * COINS_PER_HEADER);
    let network = ledger.network();
    std::fs::write(genesis, network.to_json()).expect("writes");
    let database = folder.join(&network.name).join("db");
    let (store, chain) = open(&network, &database, MAKING_BYTES, Arc::new(KnownSignatures::default()));
    load(&chain, &setup);
    let mut left = u32::try_from(headers - setup.len()).expect("a moderate number");
    while left > 0 {
        let step = left.min(STEP);
        load(&chain, &ledger.mine_empty(step));
        left -= step;
    }
    let coins = chain.view().coins_total().expect("counts").count;
    chain.stop();
    store.settle().expect("settles");
    coins
}

/// A process of the node.
struct Node {
    child: Child,
    client: Client,
    /// From exec to the first answer.
    started: Duration,
}

impl Node {
    fn start(binary: &Path, folder: &Path, genesis: &Path) -> Self {
        let network: Value = serde_json::from_slice(&std::fs::read(genesis).expect("reads")).expect("is JSON");
        let place: PathBuf = folder.join(network["name"].as_str().expect("a name"));
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SETARA_")) {
            command.env_remove(name);
        }
        command.arg("--genesis").arg(genesis).arg("--data-dir").arg(folder);
        command.args(["--rpc-listen", "127.0.0.1:0", "--no-listen"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let mut child = command.spawn().expect("it can be run");
        loop {
            assert!(
                start.elapsed() < PATIENCE && child.try_wait().expect("a child").is_none(),
                "the node does not start"
            );
            let client = endpoint(&place, child.id())
                .and_then(|url| Client::new(&url, Auth::Cookie(place.join(".cookie"))).ok());
            match client {
                Some(client) if client.call("getblockcount", json!([])).is_ok() => {
                    return Self { child, client, started: start.elapsed() };
                }
                _ => std::thread::sleep(POLL),
            }
        }
    }

    fn wait_for_indexes(&self) {
        let start = Instant::now();
        let synced = |info: &Value| info.as_object().is_some_and(|all| all.values().all(|one| one["synced"] == true));
        while !self.client.call("getindexinfo", json!([])).is_ok_and(|info| synced(&info)) {
            assert!(start.elapsed() < PATIENCE, "the indexes are not built");
            std::thread::sleep(POLL);
        }
    }

    /// Bytes that it holds.
    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
        let kib = line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
        kib.expect("a number of KiB") * 1_024.0
    }

    fn stop(&mut self) {
        self.client.call("stop", json!([])).expect("it answers");
        assert!(self.child.wait().expect("a child").success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where this very process answers, once it says so.
fn endpoint(place: &Path, pid: u32) -> Option<String> {
    let endpoints: Value = serde_json::from_slice(&std::fs::read(place.join("endpoints.json")).ok()?).ok()?;
    (endpoints["pid"] == pid).then(|| endpoints["rpc"].as_str().map(|rpc| format!("http://{rpc}"))).flatten()
}
