//! Where an address belongs: its group (what one operator is likely to hold as a whole) and whether it may be dialled.

use crate::p2p::message::{NetAddress, PeerAddress};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Ports above 1,023 that belong to other services: gossip must not be able to aim a network of nodes at them.
/// After Bitcoin Core's list (`netbase.cpp`, `IsBadPort`), with databases and remote desktops added.
const BAD_PORTS: [u16; 29] = [
    1433, 1521, 1719, 1720, 1723, 2049, 2375, 2379, 3306, 3389, 3659, 4045, 5060, 5061, 5432, 5672, 5900, 6000, 6379,
    6443, 6566, 6665, 6666, 6667, 6668, 6669, 6697, 9200, 27017,
];
/// Ports below this one are the system's on every usual host.
const WELL_KNOWN_PORTS: u16 = 1_024;
/// One more victim that stands alone in Core's list (Amanda).
const AMANDA_PORT: u16 = 10_080;

/// Which kind of network an address is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Tor's hidden services.
    Onion,
}

/// The kind of an address.
pub const fn kind(host: &NetAddress) -> Kind {
    match host {
        NetAddress::V4(_) => Kind::V4,
        NetAddress::V6(_) => Kind::V6,
        NetAddress::Onion(_) => Kind::Onion,
    }
}

/// Addresses that count as one operator's: /16 of IPv4, /32 of IPv6, a sixteenth of Tor's; all local ones are one group.
/// IPv4 inside IPv6 tunnels (6to4, Teredo, NAT64) belongs to the group of the IPv4 address: it is as easily had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(pub u64);

/// The tag of a group says its kind, so that groups of different kinds never coincide.
const TAG_SHIFT: u32 = 56;

impl Group {
    /// Of an address.
    pub fn of(host: &NetAddress) -> Self {
        if !routable(host) {
            return Self(0);
        }
        match host {
            NetAddress::V4(address) => Self::v4(*address),
            NetAddress::V6(address) => match tunnelled(*address) {
                Some(inner) => Self::v4(inner),
                None => Self::v6(*address),
            },
            NetAddress::Onion(key) => Self(3 << TAG_SHIFT | u64::from(key[0] >> 4)),
        }
    }

    fn v4(address: Ipv4Addr) -> Self {
        let [a, b, ..] = address.octets();
        Self(4 << TAG_SHIFT | u64::from(a) << 8 | u64::from(b))
    }

    fn v6(address: Ipv6Addr) -> Self {
        let [a, b, c, ..] = address.segments();
        let high = u64::from(a) << 16 | u64::from(b);
        // Hurricane Electric gives /48s of its /32 to everybody: four bits more tell its users apart (as Core does).
        let more = if (a, b) == (0x2001, 0x0470) { u64::from(c >> 12) } else { 0 };
        Self(6 << TAG_SHIFT | high << 4 | more)
    }
}

/// The IPv4 address that an IPv6 one stands for.
fn tunnelled(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0x2002, high, low, ..] => Some(join(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(join(!high, !low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        _ => None,
    }
}

/// Whether an address is of the host itself or of a private network: what `allow_private` is about.
pub fn private(host: &NetAddress) -> bool {
    match host {
        NetAddress::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        NetAddress::V6(address) => {
            let first = address.segments()[0];
            address.is_loopback() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
        }
        NetAddress::Onion(_) => false,
    }
}

/// Whether an address is of the host itself.
pub const fn loopback(host: &NetAddress) -> bool {
    match host {
        NetAddress::V4(address) => address.is_loopback(),
        NetAddress::V6(address) => address.is_loopback(),
        NetAddress::Onion(_) => false,
    }
}

/// Whether an address can be reached from anywhere (the registries of RFC 6890).
pub fn routable(host: &NetAddress) -> bool {
    if private(host) {
        return false;
    }
    match host {
        NetAddress::V4(address) => routable_v4(*address),
        NetAddress::V6(address) => match tunnelled(*address) {
            Some(inner) => routable_v4(inner) && !private(&NetAddress::V4(inner)),
            None => routable_v6(*address),
        },
        NetAddress::Onion(key) => key.iter().any(|byte| *byte != 0),
    }
}

fn routable_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0
        || a >= 224
        || a == 100 && b & 0xc0 == 64
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 0, 2)
        || (a, b, c) == (198, 51, 100)
        || (a, b, c) == (203, 0, 113)
        || a == 198 && b & 0xfe == 18;
    !special
}

fn routable_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    // Only 2000::/3 is given out; of it, documentation, ORCHID and benchmarks are not hosts.
    let special = s[0] & 0xe000 != 0x2000
        || s[0] == 0x2001 && s[1] == 0x0db8
        || s[0] == 0x3fff && s[1] < 0x1000
        || s[0] == 0x2001 && s[1] & 0xfff0 == 0x0010
        || s[0] == 0x2001 && s[1] & 0xfff0 == 0x0020
        || s[0] == 0x2001 && s[1] == 2 && s[2] == 0;
    !special
}

/// Whether a port belongs to another service.
pub fn bad_port(port: u16) -> bool {
    port < WELL_KNOWN_PORTS || port == AMANDA_PORT || BAD_PORTS.contains(&port)
}

/// Whether gossip may name this address and this node dial it. Addresses that the operator names are not asked about.
pub fn acceptable(address: &PeerAddress, allow_private: bool) -> bool {
    !bad_port(address.port) && (routable(&address.host) || allow_private && private(&address.host))
}
