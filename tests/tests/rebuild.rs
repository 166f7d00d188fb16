//! `setara-node rebuild` on the real binary: after damage to each file of a database, killed in the middle, with blocks
//! that only a peer still has; and blocks that rot under a running node.

use serde_json::json;
use setara_core::network::Network;
use setara_tests::crash::{Random, World};
use setara_tests::damage::{Damage, copy, files_below, template};
use setara_tests::process::{NodeProcess, Setup, wait_until};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Kills of one rebuild.
const KILLS: u64 = 12;
/// A kill falls at most this long after the rebuild was started.
const KILL_DELAY_MILLIS_MAX: u64 = 900;

fn setup(directory: &Path) -> Setup {
    Setup::dev(directory).with(["--db-cache", "16"])
}

fn rebuild(setup: &Setup, what: &str) -> String {
    let (success, text) = setup.run(&["rebuild"]);
    assert!(success && text.contains("is rebuilt"), "{what}: {text}");
    assert!(!text.contains("panicked at"), "{what}: {text}");
    text
}

fn height(node: &NodeProcess) -> usize {
    node.call("getblockcount", json!([])).as_u64().expect("a height") as usize
}

/// ST3, ST6. Each file of the database, damaged in each way: the node runs, or refuses and names `setara-node rebuild`;
/// that makes a database whose coins are those of a replay; and what it lacks comes from a peer.
#[test]
fn each_file_damaged_then_rebuilt() {
    let original = tempfile::tempdir().unwrap();
    let (world, height_before) = template(original.path());
    let peer_dir = tempfile::tempdir().unwrap();
    copy(original.path(), peer_dir.path());
    let peer_setup = setup(peer_dir.path()).with(["--p2p-listen", "127.0.0.1:0"]);
    let peer = peer_setup.start();
    let peer_address = peer_setup.listens();
    let best = peer.call("getbestblockhash", json!([]));
    let (mut refused, mut from_peer, mut outcomes) = (0, 0, Vec::new());
    let database = world.setup().network_dir().join("db");
    for file in files_below(&database) {
        for damage in Damage::EACH {
            let name = file.strip_prefix(original.path()).unwrap().to_path_buf();
            let what = format!("{} {damage:?}", name.display());
            let directory = tempfile::tempdir().unwrap();
            copy(original.path(), directory.path());
            if !damage.apply(&directory.path().join(&name)) {
                continue;
            }
            let setup = setup(directory.path());
            let mut node = setup.spawn();
            let runs = match node.wait_ready() {
                Ok(()) => world.verify_earlier(&node, &what).is_ok_and(|found| found == height_before),
                Err(status) => {
                    refused += 1;
                    assert!(!status.success(), "{what}");
                    assert!(node.log().contains("setara-node rebuild"), "{what}: no advice:\n{}", node.log());
                    false
                }
            };
            node.terminate();
            // Where it is not needed, once for each file.
            if runs && !matches!(damage, Damage::Delete) {
                continue;
            }
            let said = rebuild(&setup, &what);
            let mut node = setup.start();
            let after = world.verify_earlier(&node, &what).unwrap();
            assert_eq!(after, height(&node), "{what}");
            outcomes.push(format!("{what}: {after} of {height_before}, {}", said.lines().next().unwrap_or_default()));
            if after < height_before {
                from_peer += 1;
                node.terminate();
                node = setup.clone().with(["--connect", &peer_address]).start();
                wait_until("the rest from the peer", || {
                    (node.call("getbestblockhash", json!([])) == best).then_some(())
                });
                assert_eq!(world.verify_earlier(&node, &what).unwrap(), height_before, "{what}");
            }
        }
    }
    println!("{}", outcomes.join("\n"));
    assert!(refused > 10, "only {refused} were refused");
    assert!(from_peer > 0, "no damage cost a block");
    let lists = outcomes.iter().filter(|outcome| outcome.contains("CURRENT") || outcome.contains("MANIFEST"));
    for outcome in lists {
        assert!(
            outcome.contains(&format!(": {height_before} of")),
            "{outcome}: blocks were lost with the list of files"
        );
    }
}

/// ST6. Killed at random moments: the old database is as it was until the new one is whole, and running it again works.
#[test]
fn rebuild_killed_in_the_middle() {
    let original = tempfile::tempdir().unwrap();
    let (world, height_before) = template(original.path());
    let mut random = Random::new(5);
    let (mut early, mut late) = (0, 0);
    let directory = tempfile::tempdir().unwrap();
    copy(original.path(), directory.path());
    let setup = setup(directory.path());
    for kill in 0..KILLS {
        let mut command = setup.command(&["rebuild"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not a wait for anything: the moment is the input of this test.
        std::thread::sleep(Duration::from_millis(random.below(KILL_DELAY_MILLIS_MAX)));
        if child.try_wait().unwrap().is_some() {
            late += 1
        } else {
            early += 1
        }
        let _ = child.kill();
        child.wait().unwrap();
        if kill % 3 == 2 {
            // A start in between finds the old one, or the new one.
            let mut node = setup.start();
            assert_eq!(world.verify_earlier(&node, &format!("kill {kill}")).unwrap(), height_before);
            node.kill();
            let left = fs::read_dir(setup.network_dir()).unwrap().flatten();
            let beside = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("db."));
            assert_eq!(beside.count(), 0, "kill {kill}: something is left beside the database");
        }
    }
    println!("{early} kills in time, {late} too late");
    assert!(early > 0, "no kill met a rebuild");
    rebuild(&setup, "after the kills");
    let node = setup.start();
    assert_eq!(world.verify_earlier(&node, "after the kills").unwrap(), height_before);
}

/// ST6. A node that is running, another network's directory, and the old database kept if asked for.
#[test]
fn rebuild_refuses_what_it_must() {
    let directory = tempfile::tempdir().unwrap();
    let (mut world, mut node) = World::new(Network::dev(), setup(directory.path()), 15);
    let (success, text) = world.setup().run(&["rebuild"]);
    assert!(!success && text.contains("in use"), "{text}");
    world.generate(&node, 3).expect("nobody kills it");
    let height_before = world.remember(&node);
    node.terminate();
    let other = directory.path().join("other.json");
    let output = Command::new(setara_tests::process::binary("setara-node"))
        .args(["genesis", "new", "--name", "dev", "--prefix", "dd", "--message", "another", "--out"])
        .arg(&other)
        .output()
        .unwrap();
    if output.status.success() {
        let foreign = Setup::genesis(directory.path(), "dev", &other);
        let (success, text) = foreign.run(&["rebuild"]);
        assert!(!success && text.contains("genesis"), "{text}");
    }
    let (success, text) = world.setup().run(&["rebuild", "--keep"]);
    assert!(success && text.contains("db.old"), "{text}");
    assert!(world.setup().network_dir().join("db.old/CURRENT").exists());
    let mut node = world.setup().start();
    assert_eq!(world.verify_earlier(&node, "kept").unwrap(), height_before);
    world.verify(&node, "rebuilt");
    node.terminate();
    let (success, text) = world.setup().run(&["rebuild", "--help"]);
    assert!(success && text.contains("never needs it"), "{text}");
}

/// ST6. Bodies rot under a running node: it goes on, asks its peer for them, and then serves them as they were.
#[test]
fn bodies_that_rot_under_a_running_node_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let listening = setup(&directory.path().join("a")).with(["--p2p-listen", "127.0.0.1:0"]);
    let (mut world, a) = World::new(Network::dev(), listening, 16);
    for _ in 0..6 {
        world.work_round(&a).expect("nobody kills it");
    }
    world.fill_block(&a);
    world.generate(&a, 20).expect("nobody kills it");
    let height_before = world.remember(&a);
    let best = a.call("getbestblockhash", json!([]));
    let synced = |node: &NodeProcess| {
        wait_until("the same tip", || (node.call("getbestblockhash", json!([])) == best).then_some(()))
    };
    let dialling = setup(&directory.path().join("b")).with(["--connect", &world.setup().listens()]);
    let mut b = dialling.start();
    synced(&b);
    // A stop moves bodies into blob files, and a start has nothing of them in memory.
    b.terminate();
    let blobs: Vec<_> = files_below(&dialling.network_dir().join("db"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "blob"))
        .collect();
    assert!(!blobs.is_empty(), "no body is in a blob file");
    let mut b = dialling.start();
    for path in &blobs {
        let mut bytes = fs::read(path).unwrap();
        // Behind the heads, one bit in each 200 bytes: nothing in it can be read.
        (100..bytes.len()).step_by(200).for_each(|place| bytes[place] ^= 0x04);
        use std::os::unix::fs::FileExt;
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&bytes, 0).unwrap();
    }
    let mut failed = 0;
    for at in 1..=height_before {
        let hash = b.call("getblockhash", json!([at]));
        failed += usize::from(b.try_call("getblock", json!([hash, 0])).is_err());
    }
    assert!(failed > 0, "no body was damaged");
    assert!(b.wait_for_log("is damaged"), "{}", b.log());
    wait_until("whole blocks", || world.verify_earlier(&b, "after rot").ok().filter(|found| *found == height_before));
    assert!(b.has_exited().is_none());
    assert!(b.log().contains("whole again"), "{}", b.log());
    println!("{failed} of {height_before} bodies were damaged and came again");
    // For good.
    b.kill();
    let b = dialling.start();
    assert_eq!(world.verify_earlier(&b, "after a restart").unwrap(), height_before);
}
