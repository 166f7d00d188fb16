//! Bodies of the fuzz targets: each takes bytes, does something with them that a hostile peer could make a node do, and
//! panics where something that must always hold does not.
//!
//! The crate in `fuzz/` feeds them what a coverage-guided fuzzer makes up; `node/tests/fuzz.rs` feeds them what it found.
//! An input means the same for ever: new operations get new numbers, or old inputs lose their point.

mod brain;
mod compact;
mod handshake;
mod message;
mod seeder;
mod world;

/// A target.
pub struct Target {
    /// Its name, which is its folder's below `fuzz/corpus`.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 5] = [
    Target { name: "handshake", run: handshake::run, seeds: handshake::seeds },
    Target { name: "message", run: message::run, seeds: message::seeds },
    Target { name: "compact", run: compact::run, seeds: compact::seeds },
    Target { name: "brain", run: brain::run, seeds: brain::seeds },
    Target { name: "seeder", run: seeder::run, seeds: seeder::seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs a target on an input.
pub fn run(name: &str, data: &[u8]) {
    let target = target(name).expect("targets are named as in the list");
    (target.run)(data);
}

/// Reads an input from front to end; past the end all is zero.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    /// So many bytes, or as many as are left.
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// An index below `count`, which is not 0.
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.u8()) % count
    }
}
