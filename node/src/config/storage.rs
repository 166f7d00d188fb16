//! Limits on disk: what `--prune` and `--max-disk` may say, and why not less.

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
