//! Tests of the book of addresses: what floods, poisoners and scrapers get.

use super::*;
use crate::p2p::message::{NetAddress, services};
use rand::SeedableRng;
use std::net::{IpAddr, Ipv4Addr};

const START: u64 = 1_800_000_000;

fn at(seconds: u64) -> Now {
    Now { unix_seconds: START + seconds, monotonic: Duration::from_secs(seconds) }
}

fn v4(number: u32) -> PeerAddress {
    PeerAddress { host: NetAddress::V4(Ipv4Addr::from(number)), port: 9_333 }
}

/// Many groups, all routable.
fn spread(number: u32) -> PeerAddress {
    v4(0x1400_0000 + (number % 8_192) * 0x1_0000 + number / 8_192 + 1)
}

fn record(address: PeerAddress) -> AddressRecord {
    AddressRecord { address, services: services::BLOCKS, serves: (0, 100), time: START as u32 }
}

fn book(count: u32) -> (Addresses, StdRng) {
    let mut rng = StdRng::seed_from_u64(3);
    let mut addresses = Addresses::new(false, &mut rng);
    for number in 0..count {
        addresses.add(&record(spread(number)), &spread(number * 31), at(0), &mut rng);
    }
    (addresses, rng)
}

/// AE1. 10^6 addresses in 1,000 messages, one a second: no more are processed than the bucket gives.
#[test]
fn flood() {
    let (mut addresses, mut rng) = book(0);
    let mut peer = AddressPeer::new(at(0));
    peer.asked();
    let mut processed = 0;
    for message in 0..1_000u32 {
        let records: Vec<_> = (0..1_000).map(|number| record(spread(message * 1_000 + number))).collect();
        let received = addresses.receive(&mut peer, &spread(1), &records, at(u64::from(message)), &mut rng);
        assert_eq!(received.processed + received.ignored, 1_000);
        processed += received.processed;
    }
    assert!((1_000..=1_100).contains(&processed), "{processed}");
    // Another peer's bucket is its own.
    let mut other = AddressPeer::new(at(1_000));
    assert_eq!(addresses.receive(&mut other, &spread(2), &[record(spread(5))], at(1_000), &mut rng).processed, 1);
    addresses.table.check();
}

/// AE1. More than five answers' worth within a minute is a flood; what honest gossip sends in a day is none.
#[test]
fn floods_are_told_from_gossip() {
    let mut peer = AddressPeer::new(at(0));
    assert!((0..5).all(|second| !peer.floods(1_000, at(second).monotonic)));
    assert!(peer.floods(1, at(59).monotonic));
    let mut peer = AddressPeer::new(at(0));
    assert!((0..86_400).all(|second| !peer.floods(10, at(second).monotonic)));
}

/// AE2. An attacker with four /16s names 10^5 addresses: at most a quarter of the new table.
#[test]
fn poisoning() {
    let (mut addresses, mut rng) = book(0);
    for number in 0..100_000u32 {
        let source = v4(0x0b00_0000 + (number % 4) * 0x1_0000 + 1);
        addresses.add(&record(spread(number)), &source, at(0), &mut rng);
    }
    let held = addresses.table.new_slots(|_| true);
    assert!(held > 0 && held <= table::NEW_BUCKETS * table::BUCKET_SLOTS / 4, "{held}");
}

/// AE3. A tried entry that answers when it is tested survives 1,000 collisions; one that does not is replaced.
#[test]
fn test_before_evict() {
    for online in [true, false] {
        let (mut addresses, mut rng) = book(0);
        let old = v4(0x1414_0001);
        addresses.add(&record(old), &old, at(0), &mut rng);
        assert!(addresses.good(&old, at(0)));
        let slot = addresses.table.tried_slot(&old);
        let mut candidates = (0u32..)
            .map(|number| PeerAddress { port: 10_081 + (number >> 16) as u16, ..v4(0x1414_0000 | number & 0xffff) });
        let mut now = 0;
        for _ in 0..if online { 1_000 } else { 2 } {
            now += 5 * 3_600;
            let rival = candidates.find(|rival| addresses.table.tried_slot(rival) == slot && *rival != old);
            let mut rival = record(rival.expect("endless"));
            rival.time = (START + now) as u32;
            if !addresses.add(&rival, &rival.address, at(now), &mut rng) {
                continue;
            }
            addresses.good(&rival.address, at(now));
            if let Some(tested) = addresses.collision_to_test(at(now), &mut rng) {
                addresses.attempt(&tested, at(now));
                if online {
                    addresses.good(&tested, at(now + 1));
                }
            }
            addresses.collision_to_test(at(now + 3_000), &mut rng);
        }
        assert_eq!(addresses.get(&old).is_some_and(|entry| entry.tried), online);
        addresses.table.check();
    }
}

/// AE8. Two askers get one answer for 21 hours, of at most 23 % and 1,000; none twice on a connection, none outbound. Who
/// asks for those that serve a height hears as little, all day the same, on any connection.
#[test]
fn scraping() {
    for (count, most) in [(2_000, 460), (20_000, 1_000)] {
        let (mut addresses, mut rng) = book(count);
        let mut ask = |peer: &mut AddressPeer, link, seconds| {
            addresses.answer(peer, link, &spread(9), Serves::Any, at(seconds), &mut rng)
        };
        let (mut one, mut two) = (AddressPeer::new(at(0)), AddressPeer::new(at(0)));
        let first = ask(&mut one, Link::Inbound, 0).unwrap();
        assert!(!first.is_empty() && first.len() <= most);
        assert_eq!(ask(&mut two, Link::Inbound, 20 * 3_600).unwrap(), first);
        assert_eq!(ask(&mut one, Link::Inbound, 1), None);
        assert_eq!(ask(&mut AddressPeer::new(at(0)), Link::OutboundFull, 1), None);
        assert_ne!(ask(&mut AddressPeer::new(at(0)), Link::Inbound, 28 * 3_600).unwrap(), first);
    }
    let (mut addresses, mut rng) = book(500);
    let (mut peer, mut other) = (AddressPeer::new(at(0)), AddressPeer::new(at(0)));
    let mut ask = |peer: &mut AddressPeer, height, seconds| {
        addresses.answer(peer, Link::OutboundFull, &spread(9), Serves::Height(height), at(seconds), &mut rng)
    };
    let first = ask(&mut peer, 100, 0).unwrap();
    assert!(first.len() > 100 && first.len() <= 115, "{}", first.len());
    assert!(first.iter().all(|record| record.time % 7_200 == 0));
    assert_eq!(ask(&mut peer, 100, 59), None);
    assert_eq!(ask(&mut peer, 101, 60).unwrap(), []);
    assert_eq!(ask(&mut peer, 100, 120).unwrap(), first);
    assert_eq!(ask(&mut other, 100, 120).unwrap(), first);
}

/// AE9. A table of addresses that gossip must not plant; times that cannot be; news goes to two peers, the same all day.
#[test]
fn gossip() {
    let (mut addresses, mut rng) = book(0);
    let rows = [
        "127.0.0.1",
        "10.1.1.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.1.1",
        "0.1.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "100.64.0.1",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "2001:db8::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "2002:a00:1::1",
        "64:ff9b::a00:1",
    ];
    for host in rows {
        let address = PeerAddress { host: host.parse::<IpAddr>().unwrap().into(), port: 9_333 };
        assert!(!addresses.add(&record(address), &address, at(0), &mut rng), "{host}");
    }
    for port in [0, 22, 25, 80, 443, 1_023, 3_306, 3_389, 5_060, 6_667, 10_080] {
        assert!(!addresses.add(&record(PeerAddress { port, ..v4(0x0808_0808) }), &v4(1), at(0), &mut rng), "{port}");
    }
    assert!(addresses.is_empty());
    for (number, time) in [(1, u32::MAX), (2, START as u32 + 601), (3, 0)] {
        let bad = AddressRecord { time, ..record(spread(number)) };
        assert!(addresses.add(&bad, &spread(number), at(0), &mut rng));
        assert_eq!(addresses.get(&spread(number)).unwrap().time, START - 5 * DAY_SECONDS);
    }
    let mut receive = |count: u32, age: u32| {
        let mut peer = AddressPeer::new(at(0));
        peer.earn(Duration::from_secs(10_000));
        let time = START as u32 - age;
        let records: Vec<_> = (0..count).map(|n| AddressRecord { time, ..record(spread(n)) }).collect();
        addresses.receive(&mut peer, &spread(1), &records, at(0), &mut rng).relay.len()
    };
    assert_eq!((receive(10, 0), receive(11, 0), receive(10, 600)), (10, 0, 0));
    let peers: Vec<PeerId> = (0..50).map(PeerId).collect();
    let chosen = addresses.relay_to(&spread(1), &peers, at(0));
    assert_eq!(chosen.len(), 2);
    let differs = (0..40).filter(|n| addresses.relay_to(&spread(*n), &peers, at(0)) != chosen).count();
    assert!(differs > 30);
    assert_ne!(addresses.relay_to(&spread(1), &peers, at(2 * DAY_SECONDS)), chosen);
}

/// AE10. The file reads back with its buckets; every byte changed, every cut, is an error.
#[test]
fn corrupt_files() {
    let (mut addresses, mut rng) = book(12);
    addresses.good(&spread(3), at(5));
    let bytes = addresses.to_bytes();
    let read = Addresses::from_bytes(&bytes, false).unwrap();
    read.table.check();
    assert_eq!(read.to_bytes(), bytes);
    assert!(read.get(&spread(3)).unwrap().tried && read.select(false, at(9), &mut rng).is_some());
    for position in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[position] ^= 1 << (position % 8);
        assert!(Addresses::from_bytes(&bad, false).is_err());
        assert!(Addresses::from_bytes(&bytes[..position], false).is_err());
        // With the checksum made right again it must be an error or a sound book.
        let body = bad.len() - 4;
        let sum = crc32fast::hash(&bad[..body]).to_le_bytes();
        bad[body..].copy_from_slice(&sum);
        if let Ok(read) = Addresses::from_bytes(&bad, false) {
            read.select(false, at(9), &mut rng);
        }
    }
}

/// AE4. The file of anchors: two at most, and any changed byte is an error.
#[test]
fn anchors() {
    let bytes = anchors_to_bytes(&[spread(1), spread(2), spread(3)]);
    assert_eq!(anchors_from_bytes(&bytes).unwrap(), [spread(1), spread(2)]);
    for position in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[position] ^= 4;
        assert!(anchors_from_bytes(&bad).is_err());
    }
}
