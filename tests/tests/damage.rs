//! Damage to the files of a stopped node, file by file: each is deleted, emptied, cut in half, and has bits flipped at
//! its start, middle and end. The node comes back to a chain that it had or refuses and says why; what it serves is never
//! anything else.

use serde_json::json;
use setara_core::network::Network;
use setara_tests::crash::{Random, World};
use setara_tests::damage::{Damage, copy, files_below, template};
use setara_tests::process::{NodeProcess, Setup};
use std::fs;
use std::path::{Path, PathBuf};

/// The height of the tip that the node has written down.
fn witnessed_height(setup: &Setup) -> Option<usize> {
    let text = fs::read_to_string(setup.network_dir().join("tip")).ok()?;
    text.split(' ').next()?.parse().ok()
}

fn assert_says_blocks_are_lost(node: &NodeProcess, what: &str) {
    let lost = "lost blocks";
    assert!(node.wait_for_log(lost), "{what}: lost blocks are not in the log");
    let warnings = node.call("getblockchaininfo", json!([]))["warnings"].to_string();
    assert!(warnings.contains(lost), "{what}: {warnings}");
}

/// A database that goes back to an older copy is noticed; one that is gone is not begun anew; and what a clean stop
/// leaves needs no log.
#[test]
fn lost_blocks_are_noticed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut world, mut node) = World::new(Network::dev(), Setup::dev(directory.path()), 12);
    world.generate(&node, 5).expect("nobody kills it");
    node.terminate();
    let database = world.setup().network_dir().join("db");
    let older = directory.path().join("older");
    copy(&database, &older);
    node = world.setup().start();
    world.generate(&node, 5).expect("nobody kills it");
    let height = world.remember(&node);
    node.terminate();
    assert_eq!(witnessed_height(world.setup()), Some(height));

    // The log, whole or not, has nothing that the tables lack.
    let logs = files_below(&database).into_iter().filter(|file| file.extension().is_some_and(|found| found == "log"));
    for log in logs {
        fs::write(log, "").expect("a log can be emptied");
    }
    node = world.setup().start();
    assert_eq!(world.verify_earlier(&node, "without its log").expect("it answers"), height);
    let warnings = &node.call("getblockchaininfo", json!([]))["warnings"];
    assert_eq!(warnings, &json!([]));
    node.terminate();

    fs::remove_dir_all(&database).expect("a directory can be removed");
    let (status, log) = world.setup().refused();
    assert!(!status.success() && log.contains("the database was lost"), "{log}");
    assert!(log.contains(&format!("at height {height}")) && log.contains("remove "), "{log}");

    fs::remove_dir_all(&database).expect("a directory can be removed");
    copy(&older, &database);
    node = world.setup().start();
    assert_eq!(world.verify_earlier(&node, "an older copy").expect("it answers"), height - 5);
    assert_says_blocks_are_lost(&node, "an older copy");
    node.terminate();

    // As the error says.
    fs::remove_dir_all(&database).expect("a directory can be removed");
    fs::remove_file(world.setup().network_dir().join("tip")).expect("a file can be removed");
    node = world.setup().start();
    assert_eq!(node.call("getblockcount", json!([])), json!(0));
    node.terminate();
}

fn damage_and_check((world, height): &(World, usize), original: &Path, file: &Path, damage: Damage) -> Option<String> {
    let name = file.strip_prefix(original).expect("below").to_path_buf();
    let what = format!("{} {damage:?}", name.display());
    let directory = tempfile::tempdir().expect("a temporary directory");
    copy(original, directory.path());
    if !damage.apply(&directory.path().join(&name)) {
        return None;
    }
    let setup = Setup::dev(directory.path()).with(["--db-cache", "16"]);
    // Damaged itself, it testifies to nothing.
    let is_witness = name.file_name().is_some_and(|name| name == "tip");
    let witness = if is_witness { None } else { witnessed_height(&setup) };
    let mut node = setup.spawn();
    let outcome = match node.wait_ready() {
        Err(status) => {
            assert!(!status.success(), "{what}: a node that cannot start must say so");
            None
        }
        Ok(()) => world.verify_earlier(&node, &what).ok(),
    };
    if let Some(found) = outcome {
        // Fewer blocks than were once written down are not passed over in silence.
        if witness.is_some_and(|witnessed| found < witnessed) {
            assert_says_blocks_are_lost(&node, &what);
        }
        return Some(format!("{what}: height {found} of {height}"));
    }
    let log = node.log();
    assert!(!log.contains("panicked at"), "{what}: refused by a panic:\n{log}");
    let place = directory.path().to_string_lossy().into_owned();
    let says = log.contains(&place) || log.contains("damaged") || log.contains("corrupt") || log.contains("Corruption");
    assert!(says, "{what}: refused without a reason:\n{log}");
    Some(format!("{what}: refused"))
}

/// ST3. Every file of the database, and every other file in the node's directory.
#[test]
fn each_file_damaged_in_turn() {
    let original = tempfile::tempdir().expect("a temporary directory");
    let world = template(original.path());
    let files = files_below(original.path());
    for kind in ["CURRENT", "MANIFEST", ".sst", ".log", ".blob"] {
        assert!(files.iter().any(|file| file.to_string_lossy().contains(kind)), "the template has no {kind} file");
    }
    let mut outcomes = Vec::new();
    for file in &files {
        for damage in Damage::EACH {
            outcomes.extend(damage_and_check(&world, original.path(), file, damage));
        }
    }
    println!("{}", outcomes.join("\n"));
    // The body of a full block lies in a blob file: without it that block is refused, not made up.
    let blob_gone = |outcome: &&String| outcome.contains(".blob Delete") && outcome.ends_with("refused");
    assert!(outcomes.iter().any(|outcome| blob_gone(&outcome)), "a missing body was not noticed");
    assert!(outcomes.iter().any(|outcome| outcome.ends_with("refused")), "no damage was noticed");
}

/// ST3. One flipped bit anywhere: `SETARA_FLIPS` of them.
#[test]
fn random_bits_flipped() {
    let flips = std::env::var("SETARA_FLIPS").ok().map_or(24, |text| text.parse::<u64>().expect("a number"));
    let original = tempfile::tempdir().expect("a temporary directory");
    let world = template(original.path());
    let mut random = Random::new(3);
    let files: Vec<(PathBuf, u64)> = files_below(original.path())
        .into_iter()
        .map(|file| (file.clone(), fs::metadata(&file).expect("a file has a size").len()))
        .collect();
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    for _ in 0..flips {
        let mut at = random.below(total);
        let (file, _) = files
            .iter()
            .find(|(_, size)| {
                at < *size || {
                    at -= size;
                    false
                }
            })
            .expect("below the total");
        damage_and_check(&world, original.path(), file, Damage::FlipAnywhere(at));
    }
}
