//! Limits on memory: what `--max-memory` and the options of single parts say, and why not less.

use super::{ConfigError, Layers, MB, MIB, invalid, number, one, parse};
use crate::memory::{Shares, Usual, Wanted};
use crate::prune::PruneLimits;
use setara_core::network::Network;

/// Options that fix a part's share.
pub(super) const SHARES: [&str; 3] = ["db-cache", "max-mempool", "max-inbound"];

/// Reads them all; the shares are those of a chain without headers, which the start corrects.
pub(super) fn read(
    layers: &Layers,
    network: &Network,
    index: bool,
    prune: &PruneLimits,
) -> Result<(Wanted, Usual, Shares), ConfigError> {
    let database = number(layers, "db-cache", 16..=1 << 24)? * MIB;
    let mempool = number(layers, "max-mempool", 5..=1 << 20)? * MB;
    let inbound = number(layers, "max-inbound", 0..=10_000)?;
    let set = |name, value| layers.get(name).map(|_| value);
    let wanted = Wanted {
        budget: one(layers, "max-memory", parse::bytes)?.flatten(),
        database: set("db-cache", database),
        mempool: set("max-mempool", mempool),
        inbound: set("max-inbound", inbound),
        index,
        history: prune.is_on() && !index,
        block_bytes: network.max_block_bytes,
    };
    let usual = Usual { database, mempool, inbound };
    let shares = wanted.split(0, &usual).map_err(|error| invalid(layers, "max-memory", &error.to_string()))?;
    Ok((wanted, usual, shares))
}
