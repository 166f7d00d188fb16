//! Addresses of peers, as they travel.

use sha3::{Digest, Sha3_256};
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
            (None, NetAddress::Onion(key)) => write!(formatter, "{}:{}", onion_name(&key), self.port),
            (None, _) => Ok(()),
        }
    }
}

/// Version of onion services that the key is for.
const ONION_VERSION: u8 = 3;

/// The checksum of an onion name (Tor's rend-spec-v3, section 6).
fn onion_checksum(key: &[u8; 32]) -> [u8; 2] {
    let mut hasher = Sha3_256::new();
    hasher.update(b".onion checksum");
    hasher.update(key);
    hasher.update([ONION_VERSION]);
    let digest = hasher.finalize();
    [digest[0], digest[1]]
}

/// The name of an onion service, version 3.
pub fn onion_name(key: &[u8; 32]) -> String {
    let [first, second] = onion_checksum(key);
    let bytes = [&key[..], &[first, second, ONION_VERSION]].concat();
    format!("{}.onion", data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// The key in the name of an onion service.
pub fn onion_key(name: &str) -> Option<[u8; 32]> {
    let digits = name.strip_suffix(".onion")?.to_ascii_uppercase();
    let bytes = data_encoding::BASE32_NOPAD.decode(digits.as_bytes()).ok()?;
    let (key, rest) = bytes.split_first_chunk::<32>()?;
    let [first, second] = onion_checksum(key);
    (rest == [first, second, ONION_VERSION]).then_some(*key)
}

/// A text that is no address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected IP:PORT or NAME.onion:PORT")]
pub struct AddressError;

impl std::str::FromStr for PeerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let (name, port) = text.rsplit_once(':').ok_or(AddressError)?;
        let key = onion_key(name).ok_or(AddressError)?;
        Ok(Self { host: NetAddress::Onion(key), port: port.parse().map_err(|_| AddressError)? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        // Tor's own directory of onion services, as it is published.
        let onion = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion:80";
        for text in ["203.0.113.7:19720", "[2001:db8::1]:1", onion] {
            assert_eq!(text.parse::<PeerAddress>().unwrap().to_string(), text);
        }
        assert_eq!("[::ffff:203.0.113.7]:5".parse::<PeerAddress>(), "203.0.113.7:5".parse());
        let mistyped = onion.replacen('g', "h", 1);
        for bad in ["", "1.2.3.4", "a:1", "[::1]", mistyped.as_str(), "x.onion:1", "203.0.113.7:65536"] {
            assert_eq!(bad.parse::<PeerAddress>(), Err(AddressError), "{bad}");
        }
    }
}
