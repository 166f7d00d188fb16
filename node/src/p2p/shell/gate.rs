//! Who may knock: how many handshakes at once, and how often from one place, so that a flood of dials costs little and
//! honest peers still get in (attack TH2). Plain values and an explicit time; no sockets.

use crate::p2p::message::NetAddress;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Handshakes at the same time, unless descriptors are few: each costs four curve operations and a kilobyte.
pub const HANDSHAKES_MAX: usize = 64;
/// Where all places are taken, the oldest handshake gives way to a newcomer once it is this old: an honest one takes
/// three round trips, one that says nothing would keep its place for ten seconds.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);
/// Dials a second from everywhere together.
const RATE_ALL: u64 = 20;
/// Dials that may come at once after a quiet time, from everywhere.
const BURST_ALL: u64 = 100;
/// Dials a second from one /24 or /48.
const RATE_PLACE: u64 = 1;
/// Dials that may come at once from one place.
const BURST_PLACE: u64 = 5;
/// Places remembered; the one heard of least recently is forgotten first.
const PLACES_MAX: usize = 4_096;

/// A bucket that fills steadily: dials in thousandths.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens_milli: u64,
    at: Duration,
}

impl Bucket {
    fn take(&mut self, now: Duration, rate: u64, burst: u64) -> bool {
        let passed = u64::try_from(now.saturating_sub(self.at).as_millis()).unwrap_or(u64::MAX);
        self.tokens_milli = self.tokens_milli.saturating_add(passed.saturating_mul(rate)).min(burst * 1_000);
        self.at = now;
        let enough = self.tokens_milli >= 1_000;
        if enough {
            self.tokens_milli -= 1_000;
        }
        enough
    }
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    all: Bucket,
    places: BTreeMap<[u8; 6], Bucket>,
    /// Handshakes under way and when they began, oldest first.
    shaking: BTreeMap<Ticket, Duration>,
    next: u64,
    allow_private: bool,
    handshakes_max: usize,
}

/// A handshake that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What the gate says to one who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// For [`Gate::done`].
    pub ticket: Ticket,
    /// The handshake that is to be ended in exchange; the gate has forgotten it.
    pub instead_of: Option<Ticket>,
}

impl Gate {
    /// Open for so many handshakes at a time. With `allow_private`, dials from private and loopback addresses are not counted
    /// by place.
    pub const fn new(allow_private: bool, handshakes_max: usize) -> Self {
        let all = Bucket { tokens_milli: BURST_ALL * 1_000, at: Duration::ZERO };
        Self { all, places: BTreeMap::new(), shaking: BTreeMap::new(), next: 0, allow_private, handshakes_max }
    }

    /// Whether somebody who dials from `address` may begin a handshake; if so, [`Self::done`] must follow.
    pub fn admit(&mut self, address: IpAddr, now: Duration) -> Option<Admission> {
        let oldest = self.shaking.first_key_value().map(|(ticket, began)| (*ticket, *began));
        let instead_of = oldest.filter(|_| self.shaking.len() >= self.handshakes_max);
        if instead_of.is_some_and(|(_, began)| now.saturating_sub(began) < HANDSHAKE_GRACE) {
            return None;
        }
        let exempt = self.allow_private && is_private(address);
        if !exempt {
            // The place first: a flood from one place must not use up what is everybody's.
            let place = place_of(address);
            let full = Bucket { tokens_milli: BURST_PLACE * 1_000, at: now };
            if !self.places.contains_key(&place) && self.places.len() >= PLACES_MAX {
                let oldest = self.places.iter().min_by_key(|(_, bucket)| bucket.at).map(|(place, _)| *place);
                oldest.map(|place| self.places.remove(&place));
            }
            let bucket = self.places.entry(place).or_insert(full);
            if !bucket.take(now, RATE_PLACE, BURST_PLACE) || !self.all.take(now, RATE_ALL, BURST_ALL) {
                return None;
            }
        }
        let instead_of = instead_of.map(|(ticket, _)| ticket);
        if let Some(ticket) = instead_of {
            self.done(ticket);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.shaking.insert(ticket, now);
        Some(Admission { ticket, instead_of })
    }

    /// A handshake has ended, however.
    pub fn done(&mut self, ticket: Ticket) {
        self.shaking.remove(&ticket);
    }
}

/// The /24 or /48 of an address.
fn place_of(address: IpAddr) -> [u8; 6] {
    let mut place = [0; 6];
    match address.to_canonical() {
        IpAddr::V4(address) => place[1..4].copy_from_slice(&address.octets()[..3]),
        IpAddr::V6(address) => place.copy_from_slice(&address.octets()[..6]),
    }
    place
}

/// Loopback, private or link-local.
pub fn is_private(address: IpAddr) -> bool {
    match NetAddress::from(address) {
        NetAddress::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        NetAddress::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
        NetAddress::Onion(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// TH2: a flood of dials from one place takes nothing from the others.
    #[test]
    fn a_flood_from_one_place_leaves_the_others_their_turn() {
        let mut gate = Gate::new(false, HANDSHAKES_MAX);
        let mut admitted = 0;
        for millis in 0..10_000u64 {
            let now = Duration::from_millis(millis);
            if let Some(flood) = gate.admit(ip("203.0.113.7"), now) {
                admitted += 1;
                gate.done(flood.ticket);
            }
            if millis % 1_000 == 500 {
                let honest = gate.admit(ip(&format!("198.51.{}.1", millis / 1_000)), now);
                gate.done(honest.expect("a place of its own").ticket);
            }
        }
        assert!((10..=15).contains(&admitted), "{admitted}");
    }

    /// TH2: from many places at once, the rate of all together holds, and never more than so many shake hands.
    #[test]
    fn many_places_share_one_rate_and_so_many_handshakes() {
        let mut gate = Gate::new(false, HANDSHAKES_MAX);
        let of = |first: u32, n: u32| ip(&format!("{first}.{}.{}.1", n / 256, n % 256));
        let open: Vec<Admission> = (0..2_000).filter_map(|n| gate.admit(of(11, n), Duration::ZERO)).collect();
        assert_eq!(open.len(), HANDSHAKES_MAX);
        for admission in open {
            gate.done(admission.ticket);
        }
        let later = Duration::from_secs(2);
        let open = (0..2_000).filter_map(|n| {
            let admitted = gate.admit(of(12, n), later)?;
            gate.done(admitted.ticket);
            Some(admitted)
        });
        assert_eq!(open.count() as u64, BURST_ALL - HANDSHAKES_MAX as u64 + 2 * RATE_ALL);
        assert!(gate.places.len() <= PLACES_MAX);
    }

    /// TH2: those who say nothing do not keep their places for as long as a handshake may take, and those who are quick
    /// are not driven out.
    #[test]
    fn the_oldest_handshake_gives_way_to_a_newcomer() {
        let mut gate = Gate::new(true, HANDSHAKES_MAX);
        let silent: Vec<Ticket> =
            (0..HANDSHAKES_MAX).map(|_| gate.admit(ip("127.0.0.1"), Duration::ZERO).unwrap().ticket).collect();
        assert_eq!(gate.admit(ip("127.0.0.1"), HANDSHAKE_GRACE - Duration::from_millis(1)), None);
        let first = gate.admit(ip("127.0.0.1"), HANDSHAKE_GRACE).expect("the oldest is old enough");
        assert_eq!(first.instead_of, Some(silent[0]));
        gate.done(silent[1]);
        let second = gate.admit(ip("127.0.0.1"), HANDSHAKE_GRACE).expect("there is a place");
        assert_eq!(second.instead_of, None);
        // What the gate has forgotten may still report its end.
        gate.done(silent[0]);
        assert_eq!(gate.shaking.len(), HANDSHAKES_MAX);
    }

    #[test]
    fn private_addresses_are_exempt_only_where_allowed_and_mapped_ones_are_the_same_place() {
        let admitted = |allow, address: &str| {
            let mut gate = Gate::new(allow, HANDSHAKES_MAX);
            (0..HANDSHAKES_MAX).filter_map(|_| gate.admit(ip(address), Duration::ZERO)).count()
        };
        for address in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"] {
            assert_eq!(admitted(true, address), HANDSHAKES_MAX, "{address}");
            assert_eq!(admitted(false, address), BURST_PLACE as usize, "{address}");
        }
        assert_eq!(admitted(true, "203.0.113.7"), BURST_PLACE as usize);
        assert_eq!(place_of(ip("::ffff:203.0.113.7")), place_of(ip("203.0.113.9")));
        assert_ne!(place_of(ip("2001:db8:1::1")), place_of(ip("2001:db8:2::1")));
    }
}
