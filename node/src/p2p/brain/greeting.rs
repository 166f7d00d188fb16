//! `Hello`: what is said of oneself, and what is checked of what the other says.

use super::interface::{Desk, Ending, Link};
use crate::p2p::limits::PROTOCOL_VERSION;
use crate::p2p::message::{Hello, services};
use setara_core::network::Network;

/// Seconds by which most peers' clocks must differ from ours before the operator is told.
pub const CLOCK_WARNING_SECONDS: i64 = 600;
/// Peers of which that is taken: the median of as many is hard to move (PT6).
pub const CLOCK_PEERS_MAX: usize = 50;

/// The fork id over the upgrades passed, as EIP-2124: there are none yet, so it is that of genesis alone.
pub fn fork_id(network: &Network) -> ([u8; 4], u32) {
    (crc32fast::hash(network.genesis_hash().as_bytes()).to_le_bytes(), 0)
}

/// Heights of which bodies can be had here: all up to the tip, but for what was pruned.
pub fn serves(desk: &Desk<'_>) -> (u32, u32) {
    let view = desk.chain.view();
    let tip = view.tip.height().get();
    (view.bodies_from().get().min(tip), tip)
}

/// What a node serves, in bits.
pub const fn own_services(snapshot: bool) -> u64 {
    let always = services::BLOCKS | services::TRANSACTIONS | services::COMPACT_BLOCKS;
    if snapshot { always | services::SNAPSHOTS } else { always }
}

/// What this node says of itself.
pub struct Introduction<'a> {
    /// Software and version.
    pub agent: &'a str,
    /// The network.
    pub network: &'a Network,
    /// Why the connection exists.
    pub link: Link,
    /// Heights of which bodies can be had here.
    pub serves: (u32, u32),
    /// Whether a snapshot of the coins can be had here.
    pub snapshot: bool,
    /// Random, remembered to know oneself.
    pub nonce: u64,
    /// Where this node listens, or 0.
    pub listen_port: u16,
    /// This node's Unix time.
    pub time: u64,
}

impl Introduction<'_> {
    /// As a message.
    pub fn hello(&self) -> Hello {
        if self.link == Link::PrivateBroadcast {
            return self.anonymous();
        }
        Hello {
            version: PROTOCOL_VERSION,
            agent: self.agent.to_owned(),
            services: own_services(self.snapshot),
            fork_id: fork_id(self.network),
            serves: self.serves,
            nonce: self.nonce,
            listen_port: self.listen_port,
            relay: self.link.relays_transactions(),
            time: self.time,
            extras: Vec::new(),
        }
    }
}

impl Introduction<'_> {
    /// One that all nodes say alike: on a connection that must not lead back to this one.
    fn anonymous(&self) -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            agent: "/Setara/".to_owned(),
            services: 0,
            fork_id: fork_id(self.network),
            serves: (0, 0),
            nonce: self.nonce,
            listen_port: 0,
            relay: false,
            time: 0,
            extras: Vec::new(),
        }
    }
}

/// Whether two nodes can work together; the genesis hash was compared by the transport.
pub fn check(network: &Network, theirs: &Hello, version: u16) -> Result<(), Ending> {
    if theirs.version != version {
        return Err(Ending::Incompatible(format!("it says version {}, agreed was {version}", theirs.version)));
    }
    if theirs.fork_id.0 != fork_id(network).0 {
        return Err(Ending::Incompatible("it follows other upgrades of this network".to_owned()));
    }
    Ok(())
}

/// Seconds that most peers' clocks are ahead of ours, if that is worth a warning: the median of what outgoing peers said.
pub fn clock_warning(offsets: &[i64]) -> Option<i64> {
    let mut sorted: Vec<i64> = offsets.iter().copied().take(CLOCK_PEERS_MAX).collect();
    sorted.sort_unstable();
    let median = *sorted.get(sorted.len() / 2)?;
    let enough = sorted.len() >= 4;
    (enough && median.unsigned_abs() > CLOCK_WARNING_SECONDS.unsigned_abs()).then_some(median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        let network = Network::dev();
        let link = Link::OutboundFull;
        let introduction = Introduction {
            agent: "/Setara:0.1.0/",
            network: &network,
            link,
            serves: (0, 7),
            snapshot: false,
            nonce: 1,
            listen_port: 0,
            time: 5,
        };
        introduction.hello()
    }

    #[test]
    fn a_node_is_compatible_with_itself_and_not_with_other_upgrades_or_versions() {
        let network = Network::dev();
        assert_eq!(check(&network, &hello(), PROTOCOL_VERSION), Ok(()));
        let mut other = hello();
        other.fork_id.0[0] ^= 1;
        assert!(matches!(check(&network, &other, PROTOCOL_VERSION), Err(Ending::Incompatible(_))));
        // A later upgrade that is only planned does not part two nodes.
        let mut planned = hello();
        planned.fork_id.1 = 1_000;
        assert_eq!(check(&network, &planned, PROTOCOL_VERSION), Ok(()));
        let mut newer = hello();
        newer.version += 1;
        assert!(check(&network, &newer, PROTOCOL_VERSION).is_err());
    }

    /// PT6: extremes neither overflow nor move the median, and a warning is all that follows.
    #[test]
    fn clocks_of_others_only_warn() {
        assert_eq!(clock_warning(&[]), None);
        assert_eq!(clock_warning(&[i64::MIN, i64::MAX, 0, 0, 0]), None);
        assert_eq!(clock_warning(&[700, 700, 700]), None);
        assert_eq!(clock_warning(&[700, 700, 700, 0]), Some(700));
        assert_eq!(clock_warning(&[i64::MIN; 5]), Some(i64::MIN));
        let mut many = vec![0; CLOCK_PEERS_MAX];
        many.extend([1_000_000; 1_000]);
        assert_eq!(clock_warning(&many), None);
    }
}
