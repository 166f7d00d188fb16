//! What fuzzing has kept: every input of `fuzz/corpus`, which together reach all that fuzzing ever reached, and of
//! `fuzz/crashes`, each of which once broke something. See docs/testing.md.

use setara_node::testing::fuzz::{TARGETS, target};
use std::path::{Path, PathBuf};

/// Bytes of the corpora together: they are in every clone.
const CORPUS_BYTES_MAX: u64 = 1_500 << 10;

fn folder(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(of)
}

/// Names and contents of the files of a folder, which must have some.
fn inputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.display().to_string(), std::fs::read(&path).unwrap())
    };
    let mut inputs: Vec<(String, Vec<u8>)> = entries.map(read).collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs.sort();
    inputs
}

fn replay(folder: &Path, run: fn(&[u8])) {
    for (path, input) in inputs(folder) {
        if std::panic::catch_unwind(|| run(&input)).is_err() {
            panic!("{path} breaks its target again");
        }
    }
}

fn replay_corpus(name: &str) {
    replay(&folder("corpus").join(name), target(name).expect("a target").run);
}

#[test]
fn fuzz_corpus_handshake() {
    replay_corpus("handshake");
}

#[test]
fn fuzz_corpus_message() {
    replay_corpus("message");
}

#[test]
fn fuzz_corpus_compact() {
    replay_corpus("compact");
}

#[test]
fn fuzz_corpus_brain() {
    replay_corpus("brain");
}

#[test]
fn fuzz_corpus_seeder() {
    replay_corpus("seeder");
}

/// Seeds are inputs as well: a target that no longer takes them has forgotten what its inputs mean. With
/// `SETARA_FUZZ_SEEDS=FOLDER` they are written there, for a fuzzer to begin with.
#[test]
fn fuzz_seeds_pass() {
    for target in &TARGETS {
        let seeds = (target.seeds)();
        assert!(seeds.len() >= 5, "{}", target.name);
        seeds.iter().for_each(|seed| (target.run)(seed));
        if let Some(folder) = std::env::var_os("SETARA_FUZZ_SEEDS") {
            let folder = Path::new(&folder).join(target.name);
            std::fs::create_dir_all(&folder).unwrap();
            for (number, seed) in seeds.iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{number:03}")), seed).unwrap();
            }
        }
    }
}

/// What was found stays found.
#[test]
fn fuzz_crashes_stay_mended() {
    let Ok(found) = std::fs::read_dir(folder("crashes")) else { return };
    for entry in found {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        replay(&entry.path(), target(&name).unwrap_or_else(|| panic!("{name} is no target")).run);
    }
}

#[test]
fn fuzz_corpora_are_complete_and_small() {
    let mut bytes = 0;
    for target in &TARGETS {
        bytes += inputs(&folder("corpus").join(target.name)).iter().map(|(_, input)| input.len() as u64).sum::<u64>();
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes: minimise with -merge=1");
}
