//! Bans and discouragement by address.
//!
//! A ban is the operator's: a subnet, until a moment, saved. Discouragement is automatic: misbehaved once; never dialled,
//! and refused when places are short; forgotten in the order of use and at the end of the process. Both see canonical
//! addresses only ([`NetAddress`]: v4-mapped IPv6 is IPv4), both have a fixed size, and no look-up walks the list.

use super::addresses::group;
use super::addresses::saved::{Reader, SavedError, Writer};
use crate::p2p::message::{NetAddress, onion_key, onion_name};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Bans kept; of more, those go first that end first. An operator's list of subnets is far shorter.
pub const BANS_MAX: usize = 20_000;
/// Discouraged addresses kept (Bitcoin Core's number).
pub const DISCOURAGED_MAX: usize = 50_000;
/// How long a ban lasts unless the operator says otherwise.
pub const BAN_SECONDS: u64 = 24 * 3_600;
/// One customer of an IPv6 provider has a /64: single addresses in it are free.
const DISCOURAGED_V6_PREFIX: u8 = 64;
/// Names kind and version of the file.
const TAG: [u8; 8] = *b"SETABAN\x01";

/// Hosts that share their first bits. The other bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    host: NetAddress,
    prefix: u8,
}

/// A subnet that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a subnet like 192.0.2.0/24 or 2001:db8::/32")]
pub struct SubnetError;

impl Subnet {
    /// Around a host; `None` if there are not so many bits.
    pub fn new(host: NetAddress, prefix: u8) -> Option<Self> {
        let host = match host {
            NetAddress::V4(address) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                NetAddress::V4(Ipv4Addr::from(u32::from(address) & mask))
            }
            NetAddress::V6(address) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                NetAddress::V6(Ipv6Addr::from(u128::from(address) & mask))
            }
            NetAddress::Onion(_) if prefix == bits(&host) => host,
            _ => return None,
        };
        Some(Self { host, prefix })
    }

    /// One host alone.
    pub const fn single(host: NetAddress) -> Self {
        Self { host, prefix: bits(&host) }
    }

    /// Whether a host is in it.
    pub fn contains(&self, host: &NetAddress) -> bool {
        group::kind(host) == group::kind(&self.host) && Self::new(*host, self.prefix) == Some(*self)
    }
}

/// Bits of a host's address. Of Tor's keys none is a prefix of anything: they are banned whole.
const fn bits(host: &NetAddress) -> u8 {
    match host {
        NetAddress::V4(_) => 32,
        NetAddress::V6(_) => 128,
        NetAddress::Onion(_) => 255,
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        if text.ends_with(".onion") {
            return onion_key(text).map(|key| Self::single(NetAddress::Onion(key))).ok_or(SubnetError);
        }
        let Some((host, prefix)) = text.split_once('/') else {
            return text.parse::<IpAddr>().map(|host| Self::single(host.into())).map_err(|_| SubnetError);
        };
        let written: IpAddr = host.parse().map_err(|_| SubnetError)?;
        let prefix: u8 = prefix.parse().map_err(|_| SubnetError)?;
        let host = NetAddress::from(written);
        // Bits of a mapped IPv4 subnet are counted from the front of the IPv6 one.
        let mapped = written.is_ipv6() && matches!(host, NetAddress::V4(_));
        let prefix = if mapped { prefix.checked_sub(96).ok_or(SubnetError)? } else { prefix };
        Self::new(host, prefix).ok_or(SubnetError)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            NetAddress::V4(address) => write!(formatter, "{address}/{}", self.prefix),
            NetAddress::V6(address) => write!(formatter, "{address}/{}", self.prefix),
            NetAddress::Onion(key) => formatter.write_str(&onion_name(&key)),
        }
    }
}

/// A ban; Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// When it was made.
    pub since: u64,
    /// When it ends.
    pub until: u64,
}

/// All bans and discouraged addresses.
#[derive(Debug, Default)]
pub struct Bans {
    bans: BTreeMap<Subnet, Ban>,
    /// By end, so that what is over and what is too much is found without a walk.
    ends: BTreeSet<(u64, Subnet)>,
    /// How many bans there are of each kind and prefix: a look-up asks once for each that occurs, at most 163.
    prefixes: BTreeMap<(group::Kind, u8), usize>,
    discouraged: BTreeMap<NetAddress, u64>,
    /// By last use.
    uses: BTreeMap<u64, NetAddress>,
    next_use: u64,
}

impl Bans {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bans a subnet until a moment (Unix seconds); a ban of the same subnet is replaced.
    pub fn ban(&mut self, subnet: Subnet, now: u64, until: u64) {
        self.expire(now);
        self.unban(&subnet);
        if until <= now {
            return;
        }
        if self.bans.len() >= BANS_MAX {
            let soonest = self.ends.first().map(|(_, subnet)| *subnet);
            self.unban(&soonest.expect("as many ends as bans"));
        }
        self.bans.insert(subnet, Ban { since: now, until });
        self.ends.insert((until, subnet));
        *self.prefixes.entry((group::kind(&subnet.host), subnet.prefix)).or_default() += 1;
    }

    /// Lifts a ban; false if there was none.
    pub fn unban(&mut self, subnet: &Subnet) -> bool {
        let Some(ban) = self.bans.remove(subnet) else { return false };
        self.ends.remove(&(ban.until, *subnet));
        let kind = (group::kind(&subnet.host), subnet.prefix);
        let count = self.prefixes.get_mut(&kind).expect("counted when it was made");
        *count -= 1;
        if *count == 0 {
            self.prefixes.remove(&kind);
        }
        true
    }

    /// Lifts all bans; discouragement stays.
    pub fn clear(&mut self) {
        self.bans.clear();
        self.ends.clear();
        self.prefixes.clear();
    }

    /// Forgets bans that are over.
    pub fn expire(&mut self, now: u64) {
        while let Some((until, subnet)) = self.ends.first().copied()
            && until <= now
        {
            self.unban(&subnet);
        }
    }

    /// Whether a host is banned.
    pub fn is_banned(&self, host: &NetAddress, now: u64) -> bool {
        let kind = group::kind(host);
        self.prefixes.range((kind, 0)..=(kind, u8::MAX)).any(|((_, prefix), _)| {
            Subnet::new(*host, *prefix).and_then(|subnet| self.bans.get(&subnet)).is_some_and(|ban| now < ban.until)
        })
    }

    /// Bans that are not over, by subnet, for `listbanned`.
    pub fn list(&self, now: u64) -> impl Iterator<Item = (Subnet, Ban)> {
        self.bans.iter().filter(move |(_, ban)| now < ban.until).map(|(subnet, ban)| (*subnet, *ban))
    }

    /// Discourages a host; this one's own never, or one bad process would cost all others on it their connections.
    pub fn discourage(&mut self, host: &NetAddress) {
        if group::loopback(host) {
            return;
        }
        let host = discouraged_key(host);
        if let Some(before) = self.discouraged.insert(host, self.next_use) {
            self.uses.remove(&before);
        }
        self.uses.insert(self.next_use, host);
        self.next_use += 1;
        if self.discouraged.len() > DISCOURAGED_MAX
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.discouraged.remove(&oldest);
        }
    }

    /// Whether a host is discouraged.
    pub fn is_discouraged(&self, host: &NetAddress) -> bool {
        self.discouraged.contains_key(&discouraged_key(host))
    }

    /// The file of bans.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = Writer::new(TAG);
        // At most `BANS_MAX`.
        file.put(&(self.bans.len() as u32).to_le_bytes());
        for (subnet, ban) in &self.bans {
            file.host(&subnet.host);
            file.put(&[subnet.prefix]);
            file.put(&ban.since.to_le_bytes());
            file.put(&ban.until.to_le_bytes());
        }
        file.finish()
    }

    /// Reads the file of bans.
    pub fn from_bytes(bytes: &[u8], now: u64) -> Result<Self, SavedError> {
        let mut file = Reader::new(TAG, bytes)?;
        let mut bans = Self::new();
        for _ in 0..file.u32()? {
            let (host, prefix) = (file.host()?, file.u8()?);
            let subnet = Subnet::new(host, prefix).ok_or(SavedError::Contents("prefix"))?;
            let (since, until) = (file.u64()?, file.u64()?);
            bans.ban(subnet, now, until);
            if let Some(ban) = bans.bans.get_mut(&subnet) {
                ban.since = since;
            }
        }
        file.finish()?;
        Ok(bans)
    }
}

fn discouraged_key(host: &NetAddress) -> NetAddress {
    match host {
        NetAddress::V6(_) => Subnet::new(*host, DISCOURAGED_V6_PREFIX).map_or(*host, |subnet| subnet.host),
        NetAddress::V4(_) | NetAddress::Onion(_) => *host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> NetAddress {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// TH10. A table of subnets and who is in them; v4-mapped IPv6 is IPv4 everywhere.
    #[test]
    fn subnets() {
        let rows = [
            ("1.2.3.4", "1.2.3.4", true),
            ("1.2.3.4", "1.2.3.5", false),
            ("1.2.3.4", "::ffff:1.2.3.4", true),
            ("::ffff:1.2.3.4", "1.2.3.4", true),
            ("::ffff:1.2.3.0/120", "1.2.3.9", true),
            ("1.2.3.4/24", "1.2.3.255", true),
            ("1.2.3.4/24", "1.2.4.0", false),
            ("0.0.0.0/0", "255.1.1.1", true),
            ("0.0.0.0/0", "2a00::1", false),
            ("2a00:1::/32", "2a00:1:ffff::1", true),
            ("2a00:1::/32", "2a00:2::1", false),
            ("::/0", "2a00:2::1", true),
            ("::/0", "1.2.3.4", false),
        ];
        for (subnet, member, expected) in rows {
            let subnet: Subnet = subnet.parse().unwrap();
            let mut bans = Bans::new();
            bans.ban(subnet, 0, 10);
            assert_eq!(bans.is_banned(&host(member), 0), expected, "{subnet} {member}");
            assert_eq!(subnet.contains(&host(member)), expected, "{subnet} {member}");
            assert_eq!(subnet.to_string().parse(), Ok(subnet));
        }
        for bad in ["", "1.2.3", "1.2.3.4/33", "::/129", "::ffff:1.2.3.4/24", "1.2.3.4/", "1.2.3.4/-1", "aa.onion"] {
            assert_eq!(bad.parse::<Subnet>(), Err(SubnetError), "{bad}");
        }
    }

    /// TH10. Bans end, are lifted, replaced and listed.
    #[test]
    fn expiry() {
        let (subnet, member) = ("9.9.0.0/16".parse::<Subnet>().unwrap(), host("9.9.1.1"));
        let mut bans = Bans::new();
        bans.ban(subnet, 100, 100 + BAN_SECONDS);
        bans.ban(subnet, 200, 300);
        assert_eq!(bans.list(200).collect::<Vec<_>>(), [(subnet, Ban { since: 200, until: 300 })]);
        assert!(bans.is_banned(&member, 299));
        assert!(!bans.is_banned(&member, 300));
        assert_eq!(bans.list(300).count(), 0);
        assert!(bans.unban(&subnet) && !bans.unban(&subnet));
        assert!(bans.prefixes.is_empty() && bans.ends.is_empty());
    }

    /// TH10. A million IPv6 bans and discouraged addresses: the lists stay at their sizes and agree with each other.
    #[test]
    fn a_million_is_flat() {
        let mut bans = Bans::new();
        for number in 0..1_000_000u128 {
            let host = NetAddress::V6(Ipv6Addr::from(0x2a00 << 112 | number << 64));
            if number % 2 == 0 {
                bans.ban(Subnet::single(host), 0, 1_000 + number as u64);
            }
            bans.discourage(&host);
        }
        assert_eq!((bans.bans.len(), bans.ends.len()), (BANS_MAX, BANS_MAX));
        assert_eq!(bans.prefixes.values().sum::<usize>(), BANS_MAX);
        assert_eq!((bans.discouraged.len(), bans.uses.len()), (DISCOURAGED_MAX, DISCOURAGED_MAX));
        let host = |number: u128| NetAddress::V6(Ipv6Addr::from(0x2a00 << 112 | number << 64));
        assert!(bans.is_banned(&host(999_998), 0) && !bans.is_banned(&host(0), 0));
        assert!(bans.is_discouraged(&host(999_999)) && !bans.is_discouraged(&host(0)));
    }

    /// TH10. The least recently used goes first, a /64 is one, and this host is never discouraged.
    #[test]
    fn discouraged() {
        let mut bans = Bans::new();
        bans.discourage(&host("8.8.8.8"));
        for number in 1..DISCOURAGED_MAX as u32 {
            bans.discourage(&NetAddress::V4(Ipv4Addr::from(number << 8)));
        }
        bans.discourage(&host("::ffff:8.8.8.8"));
        bans.discourage(&host("2a00::1"));
        assert!(bans.is_discouraged(&host("8.8.8.8")));
        assert!(!bans.is_discouraged(&NetAddress::V4(Ipv4Addr::from(1 << 8))));
        assert!(bans.is_discouraged(&host("2a00::ffff:1")) && !bans.is_discouraged(&host("2a00:0:0:1::1")));
        for local in ["127.0.0.1", "::1"] {
            bans.discourage(&host(local));
            assert!(!bans.is_discouraged(&host(local)));
        }
    }

    /// AE10. The file reads back, and any changed or missing byte is an error.
    #[test]
    fn saved() {
        let mut bans = Bans::new();
        for subnet in ["9.9.0.0/16", "2a00::/32", "1.2.3.4"] {
            bans.ban(subnet.parse().unwrap(), 100, 1_000);
        }
        bans.ban(Subnet::single(NetAddress::Onion([7; 32])), 100, 200);
        let bytes = bans.to_bytes();
        let read = Bans::from_bytes(&bytes, 150).unwrap();
        assert_eq!(read.list(150).collect::<Vec<_>>(), bans.list(150).collect::<Vec<_>>());
        assert_eq!(Bans::from_bytes(&bytes, 500).unwrap().list(0).count(), 3);
        for position in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[position] ^= 0x10;
            assert!(Bans::from_bytes(&bad, 150).is_err());
            assert!(Bans::from_bytes(&bytes[..position], 150).is_err());
        }
    }
}
