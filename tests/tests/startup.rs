//! Starts and stops of the real binary: interrupted at every line it prints, on a directory in use, of another network,
//! or of a newer version; and stopped by a signal while it works.

use serde_json::json;
use setara_core::network::Network;
use setara_node::store::{Batch, Column, Durability, Store, schema};
use setara_node::store::{RocksOptions, RocksStore};
use setara_tests::crash::World;
use setara_tests::process::{Setup, binary};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What operators and service managers are promised.
const STOP_MAX: Duration = Duration::from_secs(10);

/// ST7. The second process names the directory and leaves the first one's files alone; a killed owner leaves no lock.
#[test]
fn second_node_on_one_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::dev(directory.path());
    let mut first = setup.start();
    let files = [".cookie", "endpoints.json"].map(|name| setup.network_dir().join(name));
    let before = files.each_ref().map(|file| fs::read(file).unwrap());
    let (status, log) = setup.refused();
    assert!(!status.success());
    assert!(log.contains(&*directory.path().to_string_lossy()), "the directory is not named:\n{log}");
    assert!(log.contains("already") || log.contains("another"), "the reason is not given:\n{log}");
    assert_eq!(
        files.each_ref().map(|file| fs::read(file).unwrap()),
        before,
        "the second node touched the first's files"
    );
    assert_eq!(first.call("getblockcount", json!([])), json!(0));
    first.kill();
    setup.start();
}

/// ST8. A clean stop removes what says that the node runs.
#[test]
fn clean_stop_removes_cookie_and_endpoints() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::dev(directory.path());
    let mut node = setup.start();
    let (status, _) = node.terminate();
    assert!(status.success(), "{}", node.log());
    for name in [".cookie", "endpoints.json"] {
        assert!(!setup.network_dir().join(name).exists(), "{name} is left");
    }
}

/// ST8. The stop is asked for in the middle of the longest work that a call can start.
#[test]
fn stops_within_ten_seconds_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let (world, mut node) = World::new(Network::dev(), Setup::dev(directory.path()), 5);
    let address = world.address_text();
    let client = node.new_client();
    let load = std::thread::spawn(move || while client.call("generatetoaddress", json!([500, address])).is_ok() {});
    setara_tests::process::wait_until("the load to begin", || {
        (node.call("getblockcount", json!([])).as_u64() > Some(150)).then_some(())
    });
    let (status, took) = node.terminate();
    assert!(status.success(), "{status}:\n{}", node.log());
    assert!(took < STOP_MAX, "stopping took {took:?}");
    load.join().unwrap();
    let mut world = world;
    let node = world.setup().start();
    world.verify(&node, "after a stop under load");
}

/// ST8. Killed or terminated after each line that a start prints, on a fresh directory and on one with a chain.
#[test]
fn interrupted_after_each_line_of_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let (mut world, mut node) = World::new(Network::dev(), Setup::dev(directory.path()), 6);
    node.kill();
    let mut last = 0;
    for line in 1.. {
        let fresh = tempfile::tempdir().unwrap();
        for setup in [world.setup().clone(), Setup::dev(fresh.path())] {
            for terminate in [true, false] {
                let mut node = setup.spawn();
                // Once the node is up it prints no more, so the wait for a later line ends with the readiness.
                if !node.wait_for_lines_or_ready(line) {
                    last = line;
                }
                if terminate {
                    let (status, took) = node.terminate();
                    assert!(took < STOP_MAX, "line {line}: stopping took {took:?}");
                    // Before its handlers are in place a signal ends a process as such.
                    use std::os::unix::process::ExitStatusExt;
                    assert!(status.success() || status.signal() == Some(15), "line {line}: {status}\n{}", node.log());
                } else {
                    node.kill();
                }
            }
        }
        Setup::dev(fresh.path()).start();
        if last > 0 {
            break;
        }
    }
    assert!(last > 1, "a start prints at least a line before it is ready");
    let node = world.setup().start();
    world.verify(&node, "after interrupted starts");
}

/// ST8. Killed or terminated at twenty moments of a start, between the lines as well.
#[test]
fn interrupted_at_many_moments_of_a_start() {
    const MOMENTS: u64 = 20;
    const STEP: Duration = Duration::from_millis(12);
    let directory = tempfile::tempdir().unwrap();
    let (mut world, mut node) = World::new(Network::dev(), Setup::dev(directory.path()), 9);
    node.kill();
    let fresh = tempfile::tempdir().unwrap();
    let fresh = Setup::dev(fresh.path());
    for moment in 0..MOMENTS {
        for setup in [world.setup(), &fresh] {
            let mut node = setup.spawn();
            // Not a wait for anything: the moment is the input of this test.
            std::thread::sleep(STEP * moment as u32);
            if moment % 2 == 0 {
                node.kill();
            } else {
                node.terminate();
            }
        }
    }
    fresh.start();
    let node = world.setup().start();
    world.verify(&node, "after interrupted starts");
}

fn new_genesis(file: &Path, message: &str) {
    let output = Command::new(binary("setara-node"))
        .args(["genesis", "new", "--name", "crashtest", "--prefix", "ct", "--message", message, "--out"])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// ST8. A directory belongs to one genesis block, whatever its network is called.
#[test]
fn directory_of_another_network_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let files = ["one", "two"].map(|name| directory.path().join(name).with_extension("json"));
    for (file, message) in files.iter().zip(["one", "two"]) {
        new_genesis(file, message);
    }
    let data = directory.path().join("data");
    let [one, two] = files.each_ref().map(|file| Setup::genesis(&data, "crashtest", file));
    let genesis = one.start().call("getblockhash", json!([0]));
    let (status, log) = two.refused();
    assert!(!status.success());
    assert!(log.contains(genesis.as_str().unwrap()), "the directory's own network is not named:\n{log}");
    one.start();
}

/// ST8. A database of a later version is refused by that version's number, and left as it is.
#[test]
fn newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (mut world, mut node) = World::new(Network::dev(), Setup::dev(directory.path()), 8);
    node.terminate();
    let path = database_dir(&world.setup().network_dir());
    let format = |version: u32| {
        let store = RocksStore::open(&path, &RocksOptions::default()).unwrap();
        let mut batch = Batch::new();
        batch.put(Column::Meta, b"format", &version.to_le_bytes());
        store.write(batch, Durability::Synced).unwrap();
    };
    format(schema::FORMAT + 1);
    let (status, log) = world.setup().refused();
    assert!(!status.success());
    assert!(
        log.contains(&(schema::FORMAT + 1).to_string()) && log.contains("newer"),
        "the version is not named:\n{log}"
    );
    format(schema::FORMAT);
    let node = world.setup().start();
    world.verify(&node, "after a refused newer format");
}

/// The one directory below the network's that holds a database.
fn database_dir(network_dir: &Path) -> std::path::PathBuf {
    fs::read_dir(network_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("CURRENT").exists())
        .expect("the node has made its database")
}
