//! Addresses of peers, as they travel.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a host is, on some network. IPv4 addresses mapped into IPv6 are IPv4 (an evasion of bans otherwise).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetAddress {
    /// IPv4.
    V4(Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr),
    /// Tor's hidden services, version 3: the public key.
    Onion([u8; 32]),
}

impl From<IpAddr> for NetAddress {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }
}

/// Host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    /// The host.
    pub host: NetAddress,
    /// The port; never 0 in what may be dialled.
    pub port: u16,
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().into(), port: address.port() }
    }
}

impl PeerAddress {
    /// As a socket address, unless it is Tor's.
    pub const fn socket(&self) -> Option<SocketAddr> {
        match self.host {
            NetAddress::V4(address) => Some(SocketAddr::new(IpAddr::V4(address), self.port)),
            NetAddress::V6(address) => Some(SocketAddr::new(IpAddr::V6(address), self.port)),
            NetAddress::Onion(_) => None,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.socket(), self.host) {
            (Some(address), _) => address.fmt(formatter),
            (None, NetAddress::Onion(key)) => write!(formatter, "{}.onion:{}", hex::encode(key), self.port),
            (None, _) => Ok(()),
        }
    }
}

/// One peer that somebody knows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRecord {
    /// Where.
    pub address: PeerAddress,
    /// Its services, as it said.
    pub services: u64,
    /// Heights of which it has bodies, both included.
    pub serves: (u32, u32),
    /// When it was last known to be there: Unix seconds.
    pub time: u32,
}
