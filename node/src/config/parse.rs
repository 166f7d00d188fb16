//! The types of option values, and what is wrong with a text that is none.

use setara_core::address::Address;
use setara_core::network::Network;
use setara_core::pow::Work;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Addresses that may connect: one, or all that share its first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    bits: u8,
}

impl IpRange {
    /// Whether `address` is in it; IPv4 addresses inside IPv6 count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differ = u32::from(ours) ^ u32::from(theirs);
                u32::from(self.bits) <= differ.leading_zeros()
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = u128::from(ours) ^ u128::from(theirs);
                u32::from(self.bits) <= differ.leading_zeros()
            }
            _ => false,
        }
    }
}

impl FromStr for IpRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected an IP address, or one with a number of bits such as 192.168.0.0/16".to_owned();
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| expected())?.to_canonical();
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => bits_max,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= bits_max).ok_or_else(expected)?,
        };
        Ok(Self { address, bits })
    }
}

/// A name and a password; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct UserPassword {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// What a `Debug` line shows of a secret.
pub(super) const HIDDEN: &str = "(hidden)";

impl std::fmt::Debug for UserPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserPassword").field("user", &self.user).field("password", &HIDDEN).finish()
    }
}

impl std::fmt::Debug for RpcAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RpcAuth").field("user", &self.user).field("hash", &HIDDEN).finish()
    }
}

/// A user of the RPC server by salted hash, as Bitcoin's `rpcauth`.
#[derive(Clone, PartialEq, Eq)]
pub struct RpcAuth {
    /// The user's name.
    pub user: String,
    /// HMAC key, as the text it is written as.
    pub salt: String,
    /// HMAC-SHA256 of the password.
    pub hash: [u8; 32],
}

impl FromStr for RpcAuth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected USER:SALT$HASH, HASH being 64 hexadecimal digits".to_owned();
        let (user, rest) = text.split_once(':').ok_or_else(expected)?;
        let (salt, hash) = rest.split_once('$').ok_or_else(expected)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash, &mut bytes).map_err(|_| expected())?;
        if user.is_empty() || salt.is_empty() {
            return Err(expected());
        }
        Ok(Self { user: user.to_owned(), salt: salt.to_owned(), hash: bytes })
    }
}

/// The only methods that a user may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcWhitelist {
    /// The user's name.
    pub user: String,
    /// Names of methods.
    pub methods: Vec<String>,
}

impl FromStr for RpcWhitelist {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, methods) = text.split_once(':').ok_or("expected USER:METHOD,METHOD")?;
        let methods = methods.split(',').map(str::trim).filter(|method| !method.is_empty());
        let methods = methods.map(str::to_ascii_lowercase).collect();
        if user.is_empty() {
            Err("expected USER:METHOD,METHOD".into())
        } else {
            Ok(Self { user: user.to_owned(), methods })
        }
    }
}

/// A host name, as a `Host` header carries it; compared without case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(pub String);

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if text.is_empty() || !text.bytes().all(sound) {
            return Err("expected a host name without a port".into());
        }
        Ok(Self(text.to_owned()))
    }
}

/// A peer as people write it: `HOST`, `HOST:PORT`, `[IPv6]:PORT` or `NAME.onion:PORT`; a name is looked up when the node
/// starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// An IP address, a host name or an onion name.
    pub host: String,
    /// The port, or the network's.
    pub port: Option<u16>,
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.host.contains(':')) {
            (None, _) => write!(f, "{}", self.host),
            (Some(port), false) => write!(f, "{}:{port}", self.host),
            (Some(port), true) => write!(f, "[{}]:{port}", self.host),
        }
    }
}

impl FromStr for PeerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected HOST:PORT, such as 203.0.113.7:19720 or node.example:19720".to_owned();
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let port = Some(address.port()).filter(|port| *port > 0).ok_or_else(expected)?;
            return Ok(Self { host: address.ip().to_string(), port: Some(port) });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(expected)?)),
            None => (text, None),
        };
        let HostName(host) = host.parse().map_err(|_| expected())?;
        Ok(Self { host, port })
    }
}

/// Work as 64 or fewer hexadecimal digits, most significant first.
pub fn work(text: &str) -> Result<Work, String> {
    let expected = || "expected at most 64 hexadecimal digits, as `chainwork` shows".to_owned();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || digits.len() > 64 {
        return Err(expected());
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(format!("{digits:0>64}"), &mut bytes).map_err(|_| expected())?;
    Ok(Work::from_be_bytes(bytes))
}

/// Where to listen: an IP address or `localhost`, and a port.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let named = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let localhost = named.map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    localhost.or_else(|| text.parse().ok()).ok_or_else(|| "expected IP:PORT such as 127.0.0.1:19721".into())
}

/// Whether to have a port forwarded: only for a node that a router could forward one to, and that does not hide.
pub fn map_port(text: &str, listen: Option<SocketAddr>, proxy: Option<SocketAddr>) -> Result<bool, String> {
    if !boolean(text)? {
        return Ok(false);
    }
    if proxy.is_some() {
        return Err("contradicts --proxy: a forwarded port would tell everybody where this node is".into());
    }
    match listen.map(|address| address.ip()) {
        None => Err("means nothing beside --no-listen".into()),
        Some(IpAddr::V6(address)) if !address.is_unspecified() => {
            Err(format!("routers forward IPv4 alone, and this node listens on {address} (--p2p-listen)"))
        }
        Some(address) if address.is_loopback() => {
            Err(format!("no router reaches {address}: listen on 0.0.0.0 or on this machine's address (--p2p-listen)"))
        }
        Some(_) => Ok(true),
    }
}

/// A whole number in a range.
pub fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
}

/// Bytes as Bitcoin Core reads them: MiB, or with a unit, of which the small letters count by 1,000 and the capitals by 1,024.
/// 0 is no limit.
pub fn bytes(text: &str) -> Result<Option<u64>, String> {
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "k" => 1_000,
        "K" => 1 << 10,
        "m" => 1_000_000,
        "" | "M" => 1 << 20,
        "g" => 1_000_000_000,
        "G" => 1 << 30,
        "t" => 1_000_000_000_000,
        "T" => 1 << 40,
        _ => 0,
    };
    let number =
        digits.parse::<u64>().ok().filter(|_| unit > 0 && digits.starts_with(|first: char| first.is_ascii_digit()));
    let bytes = number.and_then(|number| number.checked_mul(unit));
    let bytes =
        bytes.ok_or("expected a number of MiB, or one with a unit such as 500M or 20G (k, m, g, t: by 1,000)")?;
    Ok((bytes > 0).then_some(bytes))
}

/// An address of this network.
pub fn address(text: &str, network: &Network) -> Result<Address, String> {
    Address::from_text(text, &network.prefix).map_err(|error| error.to_string())
}

/// `true` or `false`, and what shells say for them.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_ranges_hold_what_shares_their_bits() {
        let rows = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("10.1.2.3", "::ffff:10.1.2.3", true),
            ("::ffff:10.1.2.3", "10.1.2.3", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "1.2.3.4", false),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
        ];
        for (range, address, inside) in rows {
            let range: IpRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{range:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "example.org", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn users_and_whitelists_are_read_as_bitcoin_writes_them() {
        let hash = "ab".repeat(32);
        let auth: RpcAuth = format!("alice:0123$${hash}").replace("$$", "$").parse().unwrap();
        assert_eq!((auth.user.as_str(), auth.salt.as_str(), auth.hash), ("alice", "0123", [0xab; 32]));
        for bad in ["", "alice", "alice:salt", "alice:salt$ab", ":salt$", &format!(":s${hash}"), &format!("a:${hash}")]
        {
            assert!(bad.parse::<RpcAuth>().is_err(), "{bad}");
        }
        let list: RpcWhitelist = "bob:getblock, getblockCount,".parse().unwrap();
        assert_eq!((list.user.as_str(), list.methods), ("bob", vec!["getblock".to_owned(), "getblockcount".into()]));
        assert_eq!("bob:".parse::<RpcWhitelist>().unwrap().methods, Vec::<String>::new());
        assert!("bob".parse::<RpcWhitelist>().is_err());
    }

    #[test]
    fn peers_are_shown_as_they_were_written() {
        for text in ["203.0.113.7", "203.0.113.7:1", "[2001:db8::1]:19720", "2001:db8::1", "node.example:7"] {
            assert_eq!(text.parse::<PeerName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn peers_are_hosts_with_or_without_ports() {
        let rows = [
            ("203.0.113.7", "203.0.113.7", None),
            ("203.0.113.7:1", "203.0.113.7", Some(1)),
            ("[2001:db8::1]:19720", "2001:db8::1", Some(19_720)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("node.example:7", "node.example", Some(7)),
            ("localhost", "localhost", None),
        ];
        for (text, host, port) in rows {
            assert_eq!(text.parse(), Ok(PeerName { host: host.to_owned(), port }), "{text}");
        }
        for bad in ["", ":1", "a:0", "1.2.3.4:0", "a:65536", "a:x", "a b:1", "http://a:1"] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad}");
        }
        assert_eq!(work("0"), Ok(Work::ZERO));
        assert_eq!(work("0x01"), work("1"));
        assert!(work("").is_err() && work("g").is_err() && work(&"1".repeat(65)).is_err());
    }

    #[test]
    fn sizes_are_mib_or_have_a_unit() {
        let rows = [
            ("0", None),
            ("0T", None),
            ("1", Some(1 << 20)),
            ("500M", Some(500 << 20)),
            ("500m", Some(500_000_000)),
            ("20G", Some(20 << 30)),
            ("7k", Some(7_000)),
            ("7K", Some(7 << 10)),
            ("2g", Some(2_000_000_000)),
            ("3t", Some(3_000_000_000_000)),
            ("16777215T", Some(16_777_215 << 40)),
        ];
        for (text, expected) in rows {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "M", "-1", "+1", "1.5G", "1MB", "1 G", "1x", "16777216T", "99999999999999999999", "1é"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn socket_addresses_are_addresses_or_localhost() {
        assert_eq!(socket_address("localhost:0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(socket_address("[::1]:5").unwrap().to_string(), "[::1]:5");
        for bad in ["", "localhost", "localhost:x", "1.2.3.4", "1.2.3.4:65536", "example.org:80", "::1:5:"] {
            assert!(socket_address(bad).is_err(), "{bad}");
        }
    }
}
