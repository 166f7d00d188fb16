//! Ways to damage files, and a data directory that has every kind of them.

use crate::crash::World;
use crate::process::Setup;
use setara_core::network::Network;
use std::fs;
use std::path::{Path, PathBuf};

/// Payments in the template's chain: enough that bodies reach the blob files.
const ROUNDS: u64 = 12;

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
pub enum Damage {
    /// It is gone.
    Delete,
    /// It has no bytes.
    Empty,
    /// Its second half is gone.
    Halve,
    /// A bit of its first byte.
    FlipStart,
    /// A bit in its middle.
    FlipMiddle,
    /// A bit of its last byte.
    FlipEnd,
    /// A bit of the byte with this number, counted round and round.
    FlipAnywhere(u64),
}

impl Damage {
    /// Every way but the last.
    pub const EACH: [Self; 6] =
        [Self::Delete, Self::Empty, Self::Halve, Self::FlipStart, Self::FlipMiddle, Self::FlipEnd];

    /// Does it. False if the file is too short to be damaged this way.
    pub fn apply(self, path: &Path) -> bool {
        let mut bytes = fs::read(path).expect("a file of the copy can be read");
        let flip = match self {
            Self::Delete => {
                fs::remove_file(path).expect("a file of the copy can be removed");
                return true;
            }
            Self::Empty | Self::Halve if bytes.is_empty() => return false,
            Self::Empty => {
                bytes.clear();
                None
            }
            Self::Halve => {
                bytes.truncate(bytes.len() / 2);
                None
            }
            Self::FlipStart => Some(0),
            Self::FlipMiddle => Some(bytes.len() / 2),
            Self::FlipEnd => Some(bytes.len().saturating_sub(1)),
            Self::FlipAnywhere(random) => Some(random as usize % bytes.len().max(1)),
        };
        match flip.map(|at| bytes.get_mut(at)) {
            Some(Some(byte)) => *byte ^= 0x10,
            Some(None) => return false,
            None => {}
        }
        fs::write(path, bytes).expect("a file of the copy can be written");
        true
    }
}

/// Every file below a directory.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory can be listed") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Copies a directory with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(target.parent().expect("a parent")).expect("a directory can be made");
        fs::copy(&file, target).expect("a file can be copied");
    }
}

/// A directory with tables, blob files and a log, left by SIGKILL; and the height of its chain.
pub fn template(directory: &Path) -> (World, usize) {
    let (mut world, mut node) = World::new(Network::dev(), Setup::dev(directory).with(["--db-cache", "16"]), 11);
    for _ in 0..ROUNDS {
        world.work_round(&node).expect("nobody kills it");
    }
    // What a start finds in the log goes into tables; then more, which stays in the log.
    node.terminate();
    node = world.setup().start();
    world.fill_block(&node);
    // Deeper than any branch that follows.
    world.generate(&node, 70).expect("nobody kills it");
    world.work_round(&node).expect("nobody kills it");
    node.terminate();
    node = world.setup().start();
    world.work_round(&node).expect("nobody kills it");
    let height = world.remember(&node);
    node.kill();
    (world, height)
}
