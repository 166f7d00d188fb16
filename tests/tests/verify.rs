//! `setara-node verify` on the real binary: a chain with reorganisations passes, whole and in parts; damage is named.

use serde_json::Value;
use setara_core::network::Network;
use setara_tests::crash::World;
use setara_tests::process::Setup;
use std::fs;

#[test]
fn a_stopped_node_is_verified_and_damage_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::dev(directory.path()).with(["--db-cache", "16"]);
    let (empty, said) = setup.run(&["verify"]);
    assert!(!empty && said.contains("no chain"), "{said}");
    let (mut world, mut node) = World::new(Network::dev(), setup.clone(), 61);
    for _ in 0..3 {
        world.work_round(&node).expect("nobody kills it");
        world.fill_block(&node);
    }
    let (beside, said) = setup.run(&["verify"]);
    assert!(!beside && said.contains("in use"), "a running node's folder is its own: {said}");
    assert!(node.terminate().0.success());
    let (good, said) = setup.run(&["verify", "--json"]);
    assert!(good, "{said}");
    let result = said.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()).expect("a line of JSON");
    let blocks = result["blocks"].as_u64().expect("a count");
    assert!(blocks > 3 && result["signatures"].as_u64() > Some(10) && result["coins"].as_u64() > Some(0), "{said}");
    let (part, said) = setup.run(&["verify", "--from", "2", "--to", "3"]);
    assert!(part && said.contains("Every rule holds: 2 blocks"), "{said}");
    let (beyond, said) = setup.run(&["verify", "--to", "1000000"]);
    assert!(!beyond && said.contains("1000000"), "{said}");
    // Blocks and undo records are in blob files: a byte in the middle of the largest one is a block's.
    let database = setup.network_dir().join("db");
    let blobs = fs::read_dir(&database).unwrap().map(|entry| entry.unwrap().path());
    let blobs = blobs.filter(|path| path.extension().is_some_and(|extension| extension == "blob"));
    let largest =
        blobs.max_by_key(|path| fs::metadata(path).unwrap().len()).expect("a stopped node has written its tables");
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let (damaged, said) = setup.run(&["verify"]);
    assert!(!damaged && said.contains("setara-node rebuild"), "{said}");
}
