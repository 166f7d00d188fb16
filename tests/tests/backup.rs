//! `setara-node backup` and `restore` on the real binary: of a node that mines and reorganises meanwhile, of one that is
//! stopped, interrupted, and refused where they must be.

use serde_json::{Value, json};
use setara_core::network::Network;
use setara_tests::crash::World;
use setara_tests::process::{NodeProcess, Setup, binary, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Backups that are made while the node works.
const BACKUPS: usize = 5;

fn setup(directory: &Path) -> Setup {
    Setup::dev(directory).with(["--db-cache", "16"])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn restored(backup: &Path, directory: &Path) -> Setup {
    let setup = setup(directory);
    let (success, said) = setup.run(&["restore", text(backup)]);
    assert!(success && said.contains("is restored"), "{said}");
    setup
}

fn height(backup: &Path) -> usize {
    let mark: Value = serde_json::from_slice(&fs::read(backup.join("backup.json")).unwrap()).unwrap();
    mark["height"].as_u64().expect("a height") as usize
}

/// ST8. Each backup made of a working node is a chain that it had, as high as it says, and can be worked on; the
/// node itself notices nothing; nor does it when a restored one is worked on.
#[test]
fn backups_of_a_working_node_are_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (mut world, mut node) = World::new(Network::dev(), setup(&directory.path().join("node")), 51);
    fs::write(directory.path().join("node/setara.toml"), "rpc-threads = 4\n").unwrap();
    let done = AtomicBool::new(false);
    let backups: Vec<PathBuf> = (0..BACKUPS).map(|number| directory.path().join(format!("backup-{number}"))).collect();
    let source = world.setup().clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for backup in &backups {
                let (success, said) = source.run(&["backup", text(backup)]);
                assert!(success && said.contains("setara-node restore"), "{said}");
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            world.work_round(&node).expect("nobody kills it");
            world.fill_block(&node);
        }
    });
    world.remember(&node);
    let mut heights = Vec::new();
    for (number, backup) in backups.iter().enumerate() {
        let setup = restored(backup, &directory.path().join(format!("restored-{number}")));
        assert!(directory.path().join(format!("restored-{number}/setara.toml")).exists());
        let copy = setup.start();
        let found = world.verify_earlier(&copy, &format!("backup {number}")).unwrap();
        assert_eq!(found, height(backup), "backup {number}: what it says");
        assert_eq!(copy.call("getblockchaininfo", json!([]))["warnings"], json!([]), "backup {number}");
        indexes_ready(&copy);
        copy.call("generatetoaddress", json!([5, world.address_text()]));
        assert_eq!(copy.call("getblockcount", json!([])), json!(found + 5));
        heights.push(found);
    }
    println!("heights {heights:?}");
    assert!(heights.first() < heights.last(), "nothing happened meanwhile");
    // A node on the backup itself, which shares files with the one that was running.
    let as_it_stands = setup(&backups[0]);
    let mut copy = as_it_stands.start();
    copy.call("generatetoaddress", json!([30, world.address_text()]));
    copy.terminate();
    world.verify(&node, "after its backups");
    node.kill();
    node = world.setup().start();
    world.verify(&node, "after its backups and a kill");
}

fn indexes_ready(node: &NodeProcess) {
    wait_until("the indexes", || {
        let info = node.call("getindexinfo", json!([]));
        info.as_object()?.values().all(|index| index["synced"] == json!(true)).then_some(())
    });
}

/// ST8. Of a stopped node, on another network of its own; what is in a backup and what is not.
#[test]
fn backup_of_a_stopped_node() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.json");
    let output = Command::new(binary("setara-node"))
        .args(["genesis", "new", "--name", "own", "--prefix", "own", "--message", "backup", "--out", text(&file)])
        .output()
        .unwrap();
    assert!(output.status.success());
    let source = Setup::genesis(directory.path().join("node"), "own", &file);
    let backup = directory.path().join("backup");
    let (success, said) = source.run(&["backup", text(&backup)]);
    assert!(!success && said.contains("nothing to back up"), "{said}");
    let mut node = source.start();
    let genesis = node.call("getblockhash", json!([0]));
    node.kill();
    let (success, said) = source.run(&["backup", text(&backup)]);
    assert!(success && said.contains("height 0") && said.contains("own.genesis.json"), "{said}");
    let (success, said) = source.run(&["backup", text(&backup)]);
    assert!(!success && said.contains("there already"), "{said}");
    let mut names: Vec<_> = fs::read_dir(&backup).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.extend(fs::read_dir(backup.join("own")).unwrap().map(|entry| entry.unwrap().file_name()));
    names.sort();
    assert_eq!(names, ["backup.json", "db", "own", "own.genesis.json", "tip"]);

    // The wrong network is told which is the right one.
    let elsewhere = Setup::dev(directory.path().join("restored"));
    let (success, said) = elsewhere.run(&["restore", text(&backup)]);
    assert!(!success && said.contains(&format!("--genesis {}", backup.join("own.genesis.json").display())), "{said}");
    let setup = Setup::genesis(directory.path().join("restored"), "own", &backup.join("own.genesis.json"));
    let (success, said) = setup.run(&["restore", text(&backup)]);
    assert!(success, "{said}");
    assert_eq!(setup.start().call("getblockhash", json!([0])), genesis);
    let (success, said) = setup.run(&["restore", text(&backup)]);
    assert!(!success && said.contains("there already"), "{said}");
}

/// ST8. A backup has its name only when it is whole, and what is not whole is not restored.
#[test]
fn what_is_no_whole_backup_is_not_restored() {
    let directory = tempfile::tempdir().unwrap();
    let (world, node) = World::new(Network::dev(), setup(&directory.path().join("node")), 52);
    let backup = directory.path().join("backup");
    // What an interrupted one has left is in nobody's way.
    fs::create_dir(directory.path().join("backup.part")).unwrap();
    fs::write(directory.path().join("backup.part/file"), "half").unwrap();
    node.call("backupnode", json!([backup]));
    assert!(!directory.path().join("backup.part").exists() && !backup.join("file").exists());
    for bad in [json!("relative/folder"), json!(backup), json!("/proc/no/such/folder")] {
        let error = node.try_call("backupnode", json!([bad])).unwrap_err().to_string();
        assert!(error.contains("folder") || error.contains("there already") || error.contains("/proc"), "{error}");
    }
    fs::remove_file(backup.join("backup.json")).unwrap();
    let target = setup(&directory.path().join("restored"));
    let (success, said) = target.run(&["restore", text(&backup)]);
    assert!(!success && said.contains("is no backup"), "{said}");
    let (success, said) = world.setup().run(&["restore", text(&backup)]);
    assert!(!success, "{said}");
    assert_eq!(node.call("getblockcount", json!([])).as_u64(), Some(u64::from(Network::dev().maturity) + 8));
}
