//! File descriptors: how many this process may have, and who gets how many, so that none takes those that another needs.
//!
//! Sockets that are refused are tried again by whoever wants them; a database that cannot open a file stops the node. So
//! the limit is raised as far as the system lets it be, and where that is low, connections get less.

use crate::config::Config;
use crate::p2p::shell::gate::HANDSHAKES_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For standard streams, the runtime, the lock, the log, listeners, and files that are written and closed.
const OWN: u64 = 24;
/// Open table and blob files with no shortage: with a log and a list of its own files this is far below 1,024.
const DATABASE_MAX: u64 = 400;
/// With fewer than these the database would open and close files all the time.
const DATABASE_MIN: u64 = 24;
/// Outgoing connections, those of a moment included: never refused.
const OUTGOING: u64 = 16;
/// Below this there is too little for everyone.
const LEAST: u64 = 100;

/// Who gets how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// Files that the database keeps open.
    pub database: i32,
    /// Connections of RPC clients.
    pub rpc: u32,
    /// Incoming connections of peers.
    pub inbound: usize,
    /// Peers that have dialled and are not known yet.
    pub handshakes: usize,
}

/// The limit is too low to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("only {limit} files may be open at a time, and {LEAST} are needed: raise the limit (ulimit -n 1024)")]
pub struct TooFew {
    /// The limit.
    pub limit: u64,
}

/// Raises the limit as far as it goes, and divides it.
pub fn prepare(config: &Config) -> Result<Descriptors, TooFew> {
    let before = getrlimit(Resource::Nofile);
    // A limit that cannot be raised is as good as one that is low.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = divide(limit, config.rpc.max_connections, config.peers.inbound_max)?;
    if descriptors.rpc < config.rpc.max_connections || descriptors.inbound < config.peers.inbound_max {
        let Descriptors { database, rpc, inbound, handshakes } = descriptors;
        tracing::warn!(
            limit,
            database,
            rpc,
            inbound,
            handshakes,
            "few files may be open (ulimit -n): connections are limited"
        );
    }
    Ok(descriptors)
}

/// What is wanted, if it fits; else two fifths to the database, up to what it can use, a quarter of the rest to handshakes,
/// and what is left to RPC and peers alike.
fn divide(limit: u64, rpc: u32, inbound: usize) -> Result<Descriptors, TooFew> {
    if limit < LEAST {
        return Err(TooFew { limit });
    }
    let rest = limit - OWN - OUTGOING;
    let database = (rest / 5 * 2).clamp(DATABASE_MIN, DATABASE_MAX);
    let handshakes = ((rest - database) / 4).min(HANDSHAKES_MAX as u64);
    let sockets = rest - database - handshakes;
    let (wanted_rpc, wanted_inbound) = (u64::from(rpc), inbound as u64);
    let granted_rpc = wanted_rpc.min(sockets.saturating_sub(wanted_inbound).max(sockets / 2));
    let granted_inbound = wanted_inbound.min(sockets - granted_rpc);
    Ok(Descriptors {
        database: database as i32,
        rpc: granted_rpc as u32,
        inbound: granted_inbound as usize,
        handshakes: handshakes as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ST17: whatever the limit, what is handed out stays within it, and each has enough to go on.
    #[test]
    fn what_is_handed_out_is_there() {
        for limit in (LEAST..5_000).chain([65_536, 1 << 20, u64::MAX]) {
            for (rpc, inbound) in [(1_000, 125), (10, 0), (65_536, 10_000)] {
                let all = divide(limit, rpc, inbound).unwrap();
                let sockets = u64::from(all.rpc) + (all.inbound + all.handshakes) as u64;
                let sum = OWN + OUTGOING + all.database as u64 + sockets;
                assert!(sum <= limit, "{limit}: {all:?}");
                assert!(
                    all.database as u64 >= DATABASE_MIN && all.rpc >= 10.min(rpc) && all.handshakes >= 8,
                    "{limit}: {all:?}"
                );
                assert!(inbound == 0 || all.inbound >= 10, "{limit}: {all:?}");
            }
        }
        assert_eq!(
            divide(4_096, 1_000, 125),
            Ok(Descriptors { database: 400, rpc: 1_000, inbound: 125, handshakes: 64 })
        );
        assert_eq!(divide(LEAST - 1, 1, 1), Err(TooFew { limit: LEAST - 1 }));
    }
}
