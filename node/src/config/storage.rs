//! Limits on disk: what `--prune` and `--max-disk` may say, and why not less; what `--snapshot` goes with.

use super::{ConfigError, Layers, invalid, one, parse};
use crate::chain::KEEP_BODIES;
use crate::prune::{PruneLimits, PruneMode};
use setara_core::network::Network;

/// What a database takes beside blocks, even a young one: its log, memory written out, tables being merged.
const DATABASE_BYTES: u64 = 200_000_000;

/// The newest blocks, which always stay, if each is as large as a block may be.
fn least_bodies(network: &Network) -> u64 {
    network.max_block_bytes * u64::from(KEEP_BODIES)
}

/// Snapshots of the coins: whether the chain begins with one, and whether others may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// A new chain begins with one that peers serve.
    pub fetch: bool,
    /// One is kept for others.
    pub serve: bool,
}

/// Reads both of its options.
pub(super) fn snapshot(layers: &Layers, prune: &PruneLimits, index: bool) -> Result<SnapshotConfig, ConfigError> {
    let flag = |name| one(layers, name, parse::boolean).map(|value| value.unwrap_or(false));
    let fetch = flag("snapshot")?;
    if fetch && (index || !prune.is_on()) {
        let missing = match (prune.is_on(), index) {
            (false, true) => "--prune and --no-index",
            (false, false) => "--prune",
            (true, _) => "--no-index",
        };
        let reason = format!(
            "a chain that begins with a snapshot has no old blocks, and no index of them: add {missing} (such as --prune 10G \
             --no-index)"
        );
        return Err(invalid(layers, "snapshot", &reason));
    }
    Ok(SnapshotConfig { fetch, serve: !flag("no-snapshot-serving")? })
}

/// Reads both options.
pub(super) fn prune(layers: &Layers, network: &Network) -> Result<PruneLimits, ConfigError> {
    let least = least_bodies(network);
    let mode = one(layers, "prune", |text| match text {
        "manual" => Ok(Some(PruneMode::Manual)),
        text => match parse::bytes(text).map_err(|reason| format!("`manual`, or: {reason}"))? {
            Some(bytes) if bytes < least => Err(format!(
                "at least {} M: the newest {KEEP_BODIES} blocks always stay, and each may have {} bytes",
                least.div_ceil(1 << 20),
                network.max_block_bytes
            )),
            bytes => Ok(bytes.map(PruneMode::Bodies)),
        },
    })?;
    let least_disk = least + DATABASE_BYTES;
    let disk = one(layers, "max-disk", |text| match parse::bytes(text)? {
        Some(bytes) if bytes < least_disk => Err(format!(
            "at least {} M: the newest {KEEP_BODIES} blocks always stay, each may have {} bytes, and the database takes {} \
             M beside them (coins, indexes and undo data come on top as the chain grows)",
            least_disk.div_ceil(1 << 20),
            network.max_block_bytes,
            DATABASE_BYTES >> 20
        )),
        bytes => Ok(bytes),
    })?;
    let limits = PruneLimits { mode: mode.flatten(), disk: disk.flatten() };
    if limits.mode == Some(PruneMode::Manual) && limits.disk.is_some() {
        return Err(invalid(layers, "max-disk", "contradicts --prune manual: it deletes blocks by itself"));
    }
    Ok(limits)
}
