//! The network over real processes on loopback: payments from end to end, partitions, invites.

use serde_json::{Value, json};
use setara_tests::process::{NodeProcess, Setup, binary, wait_until};
use setara_tests::wallet::Wallet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where a node listens for peers.
fn listens(folder: &Path) -> String {
    wait_until("a node that listens for peers", || {
        let endpoints: Value = serde_json::from_slice(&std::fs::read(folder.join("endpoints.json")).ok()?).ok()?;
        endpoints["p2p"].as_str().map(str::to_owned)
    })
}

/// A dev node that dials `to` and nobody else, or nobody at all.
fn node(directory: &Path, name: &str, to: &[&str]) -> (NodeProcess, String) {
    let setup = Setup::dev(directory.join(name)).with(["--p2p-listen", "127.0.0.1:0"]);
    let setup = to.iter().fold(setup, |setup, peer| setup.with(["--connect", peer]));
    let node = setup.start();
    let address = listens(&setup.network_dir());
    (node, address)
}

fn tip(node: &NodeProcess) -> Value {
    node.call("getbestblockhash", json!([]))
}

/// A peer that a node lost at a bad moment is given up after a minute; only then is another asked.
const PATIENCE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(50);

fn agree(nodes: &[&NodeProcess]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let first = tip(nodes[0]);
        if nodes.iter().all(|node| tip(node) == first) {
            return;
        }
        if Instant::now() > deadline {
            let logs: Vec<String> = nodes.iter().map(|node| node.log()).collect();
            panic!("nodes do not agree on the tip:\n{}", logs.join("\n---\n"));
        }
        std::thread::sleep(POLL);
    }
}

fn waiting(node: &NodeProcess, txid: &str) -> bool {
    node.call("getrawmempool", json!([])).as_array().is_some_and(|all| all.iter().any(|one| one == txid))
}

/// A payment made at one end of a line is mined at the other and confirmed everywhere.
#[test]
fn network_three_in_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let (a, at_a) = node(directory.path(), "a", &[]);
    let (b, at_b) = node(directory.path(), "b", &[&at_a]);
    let (c, _) = node(directory.path(), "c", &[&at_b]);
    let alice = Wallet::at(directory.path(), "alice", &a);
    let (_, address) = alice.create();
    let bob = Wallet::at(directory.path(), "bob", &c);
    let (_, other) = bob.create();
    a.call("generatetoaddress", json!([1, address]));
    a.call("generatetoaddress", json!([100, other]));
    agree(&[&a, &b, &c]);
    let (txid, _) = alice.send(&other, "1.5");
    wait_until("the payment at the other end", || waiting(&c, &txid).then_some(()));
    c.call("generatetoaddress", json!([1, other]));
    agree(&[&a, &b, &c]);
    for node in [&a, &b, &c] {
        assert!(!waiting(node, &txid));
        let shown = node.call("getrawtransaction", json!([txid, true]));
        assert_eq!(shown["confirmations"], 1);
    }
    let peers = b.call("getpeerinfo", json!([]));
    let kinds: Vec<&str> = peers.as_array().unwrap().iter().filter_map(|peer| peer["subver"].as_str()).collect();
    assert!(kinds.len() >= 2 && kinds.iter().all(|agent| agent.starts_with("/Setara:")), "{kinds:?}");
}

/// Both sides of a partition mine; when it heals, most work wins and the loser's payment waits again.
#[test]
fn network_partition_heals() {
    let directory = tempfile::tempdir().unwrap();
    let (a, at_a) = node(directory.path(), "a", &[]);
    let (b, _) = node(directory.path(), "b", &[&at_a]);
    let alice = Wallet::at(directory.path(), "alice", &a);
    let (_, address) = alice.create();
    let bob = Wallet::at(directory.path(), "bob", &b);
    let (_, other) = bob.create();
    a.call("generatetoaddress", json!([1, address]));
    a.call("generatetoaddress", json!([100, other]));
    agree(&[&a, &b]);
    for node in [&a, &b] {
        node.call("setnetworkactive", json!([false]));
        wait_until("no connection", || (node.call("getconnectioncount", json!([])) == 0).then_some(()));
    }
    let (txid, _) = alice.send(&other, "1");
    a.call("generatetoaddress", json!([2, address]));
    assert!(!waiting(&a, &txid), "it is mined on this side");
    b.call("generatetoaddress", json!([3, other]));
    let winner = tip(&b);
    for node in [&a, &b] {
        node.call("setnetworkactive", json!([true]));
    }
    agree(&[&a, &b]);
    assert_eq!(tip(&a), winner, "most work wins");
    wait_until("the payment in the loser's mempool", || waiting(&a, &txid).then_some(()));
}

/// BR14. With its day's upload used up a node turns away who dialled it for old blocks, says so, and serves whom it dialled.
#[test]
fn network_upload_target() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::dev(directory.path().join("a")).with(["--p2p-listen", "127.0.0.1:0", "--upload-target", "1k"]);
    let a = setup.start();
    let miner = Wallet::at(directory.path(), "miner", &a);
    let (_, address) = miner.create();
    let info = a.call("getblockheader", json!([a.call("getblockhash", json!([0]))]));
    let genesis = info["time"].as_u64().unwrap();
    // History, and more than a week later as many blocks as are always served.
    a.call("setmocktime", json!([genesis + 86_400]));
    a.call("generatetoaddress", json!([5, address]));
    a.call("setmocktime", json!([genesis + 10 * 86_400]));
    a.call("generatetoaddress", json!([11, address]));
    let target = |key: &str| a.call("getnettotals", json!([]))["uploadtarget"][key].clone();
    assert_eq!((target("timeframe"), target("target")), (json!(86_400), json!(1_000)));
    assert_eq!((target("target_reached"), target("serve_historical_blocks")), (json!(false), json!(true)));

    let (b, at_b) = node(directory.path(), "b", &[&listens(&setup.network_dir())]);
    // Greetings and headers alone are more than the target.
    wait_until("all headers", || (b.call("getblockchaininfo", json!([]))["headers"] == 16).then_some(()));
    wait_until("the target used up", || (target("target_reached") == true).then_some(()));
    assert_eq!((target("serve_historical_blocks"), target("bytes_left_in_cycle")), (json!(false), json!(0)));
    let left = target("time_left_in_cycle").as_u64().unwrap();
    assert!((86_000..=86_400).contains(&left), "{left}");
    // The blocks that are always served came and wait for those before them.
    wait_until("an answer that they are not to be had", || {
        let peers = b.call("getpeerinfo", json!([]));
        (peers[0]["bytesrecv_per_msg"]["notfound"].as_u64()? > 0).then_some(())
    });
    assert_eq!(b.call("getblockcount", json!([])), 0);

    a.call("addnode", json!([at_b, "add"]));
    agree(&[&a, &b]);
}

/// A node that is named is shown as it was named, and taken away by that name; times are in milliseconds.
#[test]
fn network_added_nodes_and_totals() {
    let directory = tempfile::tempdir().unwrap();
    let (a, at_a) = node(directory.path(), "a", &[]);
    let (b, _) = node(directory.path(), "b", &[]);
    let port = at_a.rsplit_once(':').unwrap().1;
    let name = format!("localhost:{port}");
    for added in [name.as_str(), "127.0.0.1"] {
        b.call("addnode", json!([added, "add"]));
    }
    let names = |only: Value| {
        let shown = b.call("getaddednodeinfo", only);
        shown.as_array().unwrap().iter().map(|node| node["addednode"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(json!([])), [name.as_str(), "127.0.0.1"]);
    assert_eq!(names(json!([name])), [name.as_str()]);
    assert!(b.try_call("addnode", json!([name, "add"])).is_err(), "it is added already");
    assert!(b.try_call("getaddednodeinfo", json!(["127.0.0.9:1"])).is_err());
    b.call("addnode", json!([name, "remove"]));
    assert_eq!(names(json!([])), ["127.0.0.1"]);
    b.call("addnode", json!([at_a, "add"]));
    wait_until("a connection by address", || (a.call("getconnectioncount", json!([])) == 1).then_some(()));
    let shown = b.call("getaddednodeinfo", json!([at_a]));
    wait_until("the connection in the list", || {
        let shown = b.call("getaddednodeinfo", json!([at_a]));
        (shown[0]["addresses"][0] == json!({"address": at_a, "connected": "outbound"})).then_some(())
    });
    assert_eq!(shown[0]["addednode"], at_a);

    let millis = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let odd = wait_until("a moment that is no whole second", || Some(millis()).filter(|now| now % 1_000 > 100));
    let shown = u128::from(a.call("getnettotals", json!([]))["timemillis"].as_u64().unwrap());
    assert!((odd..=millis()).contains(&shown), "{shown} is not between {odd} and {}", millis());
}

/// Ended when dropped.
struct Joined(Child);

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn join(invite: &str, data_dir: &Path) -> Command {
    let mut command = Command::new(binary("setara-node"));
    command.args(["join", invite, "--rpc-listen", "127.0.0.1:0", "--p2p-listen", "127.0.0.1:0", "--allow-private"]);
    command.arg("--data-dir").arg(data_dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// One string brings another machine in; one that means another network, or another peer, brings nobody in.
#[test]
fn network_invite_and_join() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = directory.path().join("mine.json");
    let made = Command::new(binary("setara-node"))
        .args(["genesis", "new", "--name", "invited", "--prefix", "inv", "--out"])
        .arg(&genesis)
        .output()
        .unwrap();
    assert!(made.status.success());
    let setup = Setup::genesis(directory.path().join("a"), "invited", &genesis);
    let setup = setup.with(["--p2p-listen", "127.0.0.1:0", "--lasting-identity", "--allow-private"]);
    let invite_to = |address: &str| {
        Command::new(binary("setara-node"))
            .args(["invite", "--lasting-identity", "--address", address, "--genesis"])
            .arg(&genesis)
            .arg("--data-dir")
            .arg(directory.path().join("a"))
            .output()
            .unwrap()
    };
    // An invite that should name a key is not quietly one without.
    let early = invite_to("127.0.0.1:1");
    assert!(!early.status.success() && String::from_utf8_lossy(&early.stderr).contains("no lasting key yet"));
    let a = setup.start();
    let address = listens(&setup.network_dir());
    let output = invite_to(&address);
    let invite = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(invite.starts_with("setara://") && invite.contains('@'), "{invite}");

    let other = directory.path().join("b");
    let _joined = Joined(join(&invite, &other).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    listens(&other.join("invited"));
    wait_until("the newcomer", || (a.call("getconnectioncount", json!([])).as_u64()? > 0).then_some(()));
    assert!(other.join("invited.genesis.json").exists());

    let (start, end) = invite.split_at(invite.len() - 4);
    let wrong = format!("{start}{}", if end == "0000" { "1111" } else { "0000" });
    let key = invite.split(['/', '@']).nth(2).unwrap();
    let swapped = invite.replacen(&key[..2], if &key[..2] == "00" { "11" } else { "00" }, 1);
    for (invite, reason) in [(wrong, "another network"), (swapped, "another key")] {
        let nowhere = directory.path().join("nowhere");
        let output = join(&invite, &nowhere).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{shown}");
        assert!(shown.contains(reason) || shown.contains("wrong network"), "{shown}");
        assert!(!nowhere.exists());
    }
}

/// Nodes of two networks say on both sides why they do not talk.
#[test]
fn network_foreign_nodes_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let (dev, at_dev) = node(directory.path(), "dev", &[]);
    let foreign = Command::new(binary("setara-node"))
        .args(["--network", "test", "--connect", &at_dev, "--rpc-listen", "127.0.0.1:0", "--no-listen"])
        .arg("--data-dir")
        .arg(directory.path().join("test"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _foreign = Joined(foreign);
    assert!(dev.wait_for_log("wrong network"), "{}", dev.log());
    let log = directory.path().join("test").join("test").join("setara.log");
    wait_until("the other side's line", || std::fs::read_to_string(&log).ok()?.contains("wrong network").then_some(()));
}
