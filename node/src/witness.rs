//! The tip as it was, in a small file beside the database: a witness against a database that has lost blocks.
//!
//! A database that loses its newest log, or is replaced by an older copy, opens as a shorter chain that agrees with
//! itself. Nothing is decided by this file but whether to say so; only an empty database where there was a chain is
//! refused. A witness that cannot be read is as good as none.

use crate::chain::{ChainHandle, View};
use crate::clock::Clock;
use crate::datadir::write_atomically;
use setara_core::hash::{BlockHash, sha256};
use setara_core::height::Height;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Least time between two writes while the node runs.
const INTERVAL: Duration = Duration::from_secs(60);
/// Most time between two looks for a stop.
const WAIT: Duration = Duration::from_millis(500);
/// Bytes of the checksum.
const CHECK_BYTES: usize = 8;

/// A tip that was on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
}

/// The file.
#[derive(Debug, Clone)]
pub struct WitnessFile(PathBuf);

impl WitnessFile {
    /// At a path.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What it says, if it is there and whole.
    pub fn read(&self) -> Option<Witness> {
        let text = match std::fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, path = %self.0.display(), "the last tip cannot be read");
                return None;
            }
        };
        let witness = parse(&text);
        if witness.is_none() {
            tracing::warn!(path = %self.0.display(), "the last tip is damaged, and not used");
        }
        witness
    }

    /// Replaces it by the tip of `view`. Failing is no reason to stop: nothing depends on it.
    pub fn write(&self, view: &View) {
        let witness = Witness { height: view.tip.height(), hash: view.tip.hash() };
        if let Err(error) = self.put(&witness) {
            tracing::warn!(%error, path = %self.0.display(), "the tip is not written down");
        }
    }

    /// Replaces it by this tip.
    pub fn put(&self, witness: &Witness) -> io::Result<()> {
        write_atomically(&self.0, text(witness).as_bytes())
    }

    /// Keeps it up to date until `stopping`.
    pub fn follow(&self, chain: &ChainHandle, clock: &dyn Clock, stopping: &dyn Fn() -> bool) {
        let mut written = chain.view().tip.hash();
        let mut at = clock.monotonic();
        while !stopping() {
            let view = chain.view();
            if view.tip.hash() != written && clock.monotonic().saturating_sub(at) >= INTERVAL {
                self.write(&view);
                written = view.tip.hash();
                at = clock.monotonic();
            }
            chain.wait_past(view.info().sequence, WAIT);
        }
    }
}

/// What the operator is to know when the stored chain is lower than it was. A chain that still knows its old tip may have
/// been shortened on purpose (`invalidateblock`), or by a lower branch with more work.
pub fn loss(witness: &Witness, view: &View) -> Option<String> {
    let height = view.tip.height();
    if height >= witness.height {
        return None;
    }
    let is_known = view.header(&witness.hash).is_ok_and(|row| row.is_some());
    let verdict = if is_known { "may have lost blocks, unless one was invalidated" } else { "has lost blocks" };
    Some(format!(
        "the database {verdict}: it ends at height {height}, but this node's tip was {} at height {}. What is missing has \
         to come again; check the disk, and whether an old copy was restored",
        witness.hash, witness.height
    ))
}

fn text(witness: &Witness) -> String {
    let line = format!("{} {}", witness.height, witness.hash);
    format!("{line} {}\n", check(&line))
}

fn check(line: &str) -> String {
    hex::encode(&sha256(line.as_bytes())[..CHECK_BYTES])
}

fn parse(text: &str) -> Option<Witness> {
    let (line, found) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    let (height, hash) = line.split_once(' ')?;
    if found != check(line) {
        return None;
    }
    Some(Witness { height: Height::new(height.parse().ok()?), hash: hash.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_damage_makes_it_unreadable() {
        let witness = Witness { height: Height::new(1_234), hash: BlockHash::from_bytes([7; 32]) };
        let text = text(&witness);
        assert_eq!(parse(&text), Some(witness));
        for place in 0..text.len() {
            assert_eq!(parse(&text[..place]), None, "{place}");
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= 1;
            assert_eq!(parse(&String::from_utf8(bytes).unwrap()), None, "{place}");
        }
    }
}
