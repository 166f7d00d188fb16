//! A seeder over real processes on loopback: knowing one node it finds the others, brings newcomers to them, and is
//! needed by nobody afterwards.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use setara_core::network::Network;
use setara_tests::process::{NodeProcess, Setup, binary, wait_until};
use setara_tests::purse::Purse;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A young directory looks at each node once a minute: what was missed once is found two looks later.
const PATIENCE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(50);
const NETWORK: &str = "seeded";

fn patiently(what: &str, mut condition: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(why) = condition() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}: {why}");
        std::thread::sleep(POLL);
    }
}

/// Where a process of this folder listens for peers.
fn listens(folder: &Path, process: u32) -> String {
    wait_until("a process that listens for peers", || {
        let endpoints: Value = serde_json::from_slice(&std::fs::read(folder.join("endpoints.json")).ok()?).ok()?;
        (endpoints["pid"] == process).then_some(())?;
        endpoints["p2p"].as_str().map(str::to_owned)
    })
}

/// A network of this test's own: no other test's node can be found on it.
fn genesis(directory: &Path) -> PathBuf {
    let file = directory.join("seeded.json");
    let mut command = Command::new(binary("setara-node"));
    command.args(["genesis", "new", "--name", NETWORK, "--prefix", "sdd", "--out"]).arg(&file);
    assert!(command.output().unwrap().status.success());
    file
}

/// A node that keeps connections to these peers and finds more by itself.
fn node(directory: &Path, name: &str, genesis: &Path, peers: &[&str]) -> (NodeProcess, String) {
    let setup = Setup::genesis(directory.join(name), NETWORK, genesis);
    let setup = setup.with(["--p2p-listen", "127.0.0.1:0", "--allow-private"]);
    let setup = peers.iter().fold(setup, |setup, peer| setup.with(["--add-peer", peer]));
    let node = setup.start();
    let address = listens(&setup.network_dir(), node.pid());
    (node, address)
}

/// A seeder; killed when dropped.
struct Seeder {
    child: Child,
    folder: PathBuf,
    address: String,
}

impl Seeder {
    fn start(directory: &Path, genesis: &Path, starts: &[&str]) -> Self {
        let data_dir = directory.join("seeder");
        let mut command = Command::new(binary("setara-node"));
        command.arg("seeder").arg("--genesis").arg(genesis).arg("--data-dir").arg(&data_dir);
        command.args(["--p2p-listen", "127.0.0.1:0", "--allow-private"]);
        for start in starts {
            command.args(["--connect", start]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let folder = data_dir.join(NETWORK).join("seeder");
        let address = listens(&folder, child.id());
        Self { child, folder, address }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("setara.log")).unwrap_or_default()
    }

    fn has_reached(&self, address: &str) -> bool {
        let shown = format!("address={address}");
        self.log().lines().any(|line| line.contains("a node of the directory") && line.contains(&shown))
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        wait_until("the seeder to stop", || self.child.try_wait().unwrap())
    }
}

impl Drop for Seeder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tip(node: &NodeProcess) -> Value {
    node.call("getbestblockhash", json!([]))
}

/// Mines by hand on one node, and waits until all are there.
fn mine_and_agree(purse: &Purse, miner: &NodeProcess, others: &[&NodeProcess]) {
    miner.call("generatetoaddress", json!([3, purse.address_text()]));
    patiently("one tip", || {
        let shown: Vec<Value> = others.iter().map(|node| tip(node)).collect();
        let first = tip(miner);
        if shown.iter().all(|tip| *tip == first) { Ok(()) } else { Err(format!("{first} and {shown:?}")) }
    });
}

fn is_connected(node: &NodeProcess, addresses: &[&str]) -> Result<(), String> {
    let peers = node.call("getpeerinfo", json!([]));
    let there = |address: &&&str| peers.as_array().is_some_and(|all| all.iter().any(|peer| peer["addr"] == **address));
    match addresses.iter().find(|address| !there(address)) {
        Some(missing) => Err(format!("no connection to {missing}: {peers}")),
        None => Ok(()),
    }
}

/// Three nodes, and a seeder that knows one of them. Whoever asks it, by option or by genesis file, learns them all, and
/// goes on when it is gone.
#[test]
fn seeder_brings_newcomers_to_all() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let genesis = genesis(directory);
    let purse = Purse::new(&Network::from_json(&std::fs::read_to_string(&genesis).unwrap()).unwrap(), 1);
    let (a, at_a) = node(directory, "a", &genesis, &[]);
    let (b, at_b) = node(directory, "b", &genesis, &[&at_a]);
    let (c, at_c) = node(directory, "c", &genesis, &[&at_a, &at_b]);
    patiently("three nodes in touch", || {
        is_connected(&b, &[&at_a])?;
        is_connected(&c, &[&at_a, &at_b])
    });
    mine_and_agree(&purse, &a, &[&b, &c]);

    let mut seeder = Seeder::start(directory, &genesis, &[&at_a]);
    patiently("the seeder to find all", || {
        let missing = [&at_a, &at_b, &at_c].into_iter().find(|address| !seeder.has_reached(address));
        missing.map_or(Ok(()), |missing| Err(format!("{missing} in\n{}", seeder.log())))
    });

    let (d, _) = node(directory, "d", &genesis, &[&seeder.address]);
    patiently("the newcomer to know all", || is_connected(&d, &[&at_a, &at_b, &at_c]));
    mine_and_agree(&purse, &c, &[&d]);
    assert!(is_connected(&d, &[&seeder.address]).is_err(), "the seeder is let go");

    // Stopped in good order it keeps what it knows, and needs nobody to begin with.
    assert!(seeder.terminate().success(), "{}", seeder.log());
    assert!(!seeder.folder.join("endpoints.json").exists());
    assert!(std::fs::metadata(seeder.folder.join("directory.dat")).unwrap().len() > 12);
    let seeder = Seeder::start(directory, &genesis, &[]);
    let mut hinted: Value = serde_json::from_slice(&std::fs::read(&genesis).unwrap()).unwrap();
    hinted["bootstrap"] = json!([seeder.address]);
    let with_hint = directory.join("hinted.json");
    std::fs::write(&with_hint, hinted.to_string()).unwrap();
    let (e, _) = node(directory, "e", &with_hint, &[]);
    patiently("the second newcomer to know all", || is_connected(&e, &[&at_a, &at_b, &at_c]));

    drop(seeder);
    drop(a);
    mine_and_agree(&purse, &b, &[&c, &d, &e]);
}

/// `--help` says what a seeder is for and how to use it, and leaves out what means nothing to it.
#[test]
fn seeder_help_teaches() {
    let output = Command::new(binary("setara-node")).args(["seeder", "--help"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for needed in ["setara-node seeder --genesis", "--add-peer", "A node to begin with", "--p2p-listen", "DATA_DIR"] {
        assert!(shown.contains(needed), "{needed} in\n{shown}");
    }
    for foreign in ["--rpc-listen", "--mine", "--no-listen", "--db-cache"] {
        assert!(!shown.contains(foreign), "{foreign} in\n{shown}");
    }
}
