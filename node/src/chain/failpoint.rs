//! Named places at which a test can make the process die: `SETARA_FAILPOINT=name:count` aborts at the `count`-th pass.
//!
//! Always compiled in, so that the binary that is tested is the one that ships; a place that is not named costs one
//! load and a branch. Whoever can set a process's environment can kill it anyway.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable.
pub const VARIABLE: &str = "SETARA_FAILPOINT";

/// Before the batch of a flush is written.
pub const BEFORE_FLUSH: &str = "before-flush";
/// After it is on disk, before anyone knows.
pub const AFTER_FLUSH: &str = "after-flush";
/// Before the coins' rows are written that are behind the tip.
pub const BEFORE_COINS: &str = "before-coins";
/// After that.
pub const AFTER_COINS: &str = "after-coins";
/// After bodies are written ahead of a flush.
pub const AFTER_WRITE_AHEAD: &str = "after-write-ahead";
/// After a block is connected in memory.
pub const AFTER_CONNECT: &str = "after-connect";
/// Between reverting one branch and connecting another.
pub const MID_REORG: &str = "mid-reorg";
/// After one block of a reorganisation is reverted.
pub const AFTER_REVERT: &str = "after-revert";
/// Before a new chain's first batch.
pub const BEFORE_GENESIS: &str = "before-genesis";
/// Before an index writes.
pub const BEFORE_INDEX: &str = "before-index-write";
/// After an index has written.
pub const AFTER_INDEX: &str = "after-index-write";

/// After a bucket of a snapshot from peers has been checked.
pub const AFTER_BUCKET: &str = "after-bucket";

/// Before old blocks are deleted.
pub const BEFORE_PRUNE: &str = "before-prune";
/// After they are deleted, before their room is given back.
pub const AFTER_PRUNE: &str = "after-prune";

/// Every place that any chain passes, for tests that visit each; those of pruning and of snapshots are not among them.
pub const ALL: [&str; 11] = [
    BEFORE_FLUSH,
    AFTER_FLUSH,
    BEFORE_COINS,
    AFTER_COINS,
    AFTER_WRITE_AHEAD,
    AFTER_CONNECT,
    MID_REORG,
    AFTER_REVERT,
    BEFORE_GENESIS,
    BEFORE_INDEX,
    AFTER_INDEX,
];

struct Armed {
    name: String,
    left: AtomicU64,
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let text = std::env::var(VARIABLE).ok()?;
            let (name, count) = text.split_once(':')?;
            Some(Armed { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?) })
        })
        .as_ref()
}

/// A named place. Aborts the process, as SIGKILL would, if it is the one asked for and its time has come.
pub fn pass(name: &'static str) {
    if let Some(armed) = armed()
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}
