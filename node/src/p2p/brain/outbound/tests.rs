//! Tests of outgoing connections, over days of a clock moved by hand.

use super::*;
use crate::p2p::message::NetAddress;
use rand::SeedableRng;
use std::net::Ipv4Addr;

const START: u64 = 1_800_000_000;

fn at(seconds: u64) -> Now {
    Now { unix_seconds: START + seconds, monotonic: Duration::from_secs(seconds) }
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> PeerAddress {
    PeerAddress { host: NetAddress::V4(Ipv4Addr::new(a, b, c, d)), port: 9_333 }
}

fn record(address: PeerAddress) -> AddressRecord {
    AddressRecord { address, services: services::BLOCKS, serves: (0, 100), time: START as u32 }
}

fn connection(peer: u64, link: Link, address: PeerAddress, seconds: u64) -> Connection {
    let connected_at = Duration::from_secs(seconds);
    Connection { peer: PeerId(peer), link, address, ready: true, connected_at, last_block: None, protected: false }
}

struct World {
    outbound: Outbound,
    addresses: Addresses,
    bans: Bans,
    rng: StdRng,
    connections: Vec<Connection>,
    peers: u64,
    /// Seconds after which a dial of nobody fails, and the dials that will.
    silence: u64,
    failing: Vec<(u64, PeerAddress)>,
}

impl World {
    fn new(config: OutboundConfig, anchors: Vec<PeerAddress>, allow_private: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let addresses = Addresses::new(allow_private, &mut rng);
        let outbound = Outbound::new(config, anchors);
        let (bans, connections, failing) = (Bans::new(), Vec::new(), Vec::new());
        Self { outbound, addresses, bans, rng, connections, peers: 0, silence: 0, failing }
    }

    fn know(&mut self, groups: u8, each: u8) {
        for group in 0..groups {
            for host in 1..=each {
                let address = v4(20 + group, 5, host, 1);
                self.addresses.add(&record(address), &v4(90 + group, 1, 1, 1), at(0), &mut self.rng);
            }
        }
    }

    /// One tick; dials succeed if `up` says so, and feelers end at once.
    fn step(&mut self, seconds: u64, tip_at: u64, up: impl Fn(&PeerAddress) -> bool) -> Vec<Dial> {
        let now = at(seconds);
        let tip_at = Duration::from_secs(tip_at);
        let (failed, failing) = std::mem::take(&mut self.failing).into_iter().partition(|(at, _)| *at <= seconds);
        self.failing = failing;
        let failed: Vec<(u64, PeerAddress)> = failed;
        failed.iter().for_each(|(_, address)| self.outbound.failed(address, now, &mut self.rng));
        let actions =
            self.outbound.tick(now, &mut self.rng, &mut self.addresses, &self.bans, &self.connections, tip_at);
        let mut dials = Vec::new();
        for action in actions {
            match action {
                Action::Dial(dial) => {
                    if up(&dial.address) {
                        self.outbound.connected(&dial.address);
                        self.addresses.good(&dial.address, now);
                        if dial.link != Link::Feeler {
                            self.peers += 1;
                            self.connections.push(connection(self.peers, dial.link, dial.address, seconds));
                        }
                    } else if self.silence == 0 {
                        self.outbound.failed(&dial.address, now, &mut self.rng);
                    } else {
                        self.failing.push((seconds + self.silence, dial.address));
                    }
                    dials.push(dial);
                }
                Action::Disconnect(peer, _) => self.connections.retain(|connection| connection.peer != peer),
                other => panic!("{other:?}"),
            }
        }
        dials
    }

    fn count(&self, link: Link) -> usize {
        self.connections.iter().filter(|connection| connection.link == link).count()
    }
}

/// AE5. A day with 60 hosts in each of 30 groups: 8 + 2 connections, never two of a group; extra ones come and go;
/// feelers about every two minutes.
#[test]
fn no_two_of_a_group() {
    let mut world = World::new(OutboundConfig::default(), Vec::new(), false);
    world.know(30, 60);
    let (mut feelers, mut extras) = (0, 0);
    for second in (0..86_400).step_by(5) {
        let dials = world.step(second, second, |_| true);
        feelers += dials.iter().filter(|dial| dial.link == Link::Feeler).count();
        let groups: BTreeSet<Group> = world.connections.iter().map(|c| Group::of(&c.address.host)).collect();
        assert_eq!(groups.len(), world.connections.len());
        assert!(world.count(Link::OutboundFull) <= OUTBOUND_FULL);
        assert!(world.count(Link::BlockOnly) <= OUTBOUND_BLOCK_ONLY + 1);
        extras += usize::from(second > 60 && dials.iter().any(|dial| dial.link == Link::BlockOnly));
    }
    assert_eq!(world.count(Link::OutboundFull), OUTBOUND_FULL);
    assert!((500..1_000).contains(&feelers), "{feelers}");
    assert!((150..450).contains(&extras), "{extras}");
}

/// AE5. One /16 fills one place; loopback fills all when private addresses are allowed, and none otherwise.
#[test]
fn one_group_and_private() {
    let mut world = World::new(OutboundConfig::default(), Vec::new(), false);
    world.know(1, 60);
    (0..600).for_each(|second| drop(world.step(second, second, |_| true)));
    assert_eq!(world.connections.len(), 1);
    for (allowed, expected) in [(true, OUTBOUND_FULL), (false, 0)] {
        let mut world = World::new(OutboundConfig::default(), Vec::new(), allowed);
        for port in 20_000..20_040 {
            let address = PeerAddress { port, ..v4(127, 0, 0, 1) };
            world.addresses.add(&record(address), &address, at(0), &mut world.rng);
        }
        (0..60).for_each(|second| drop(world.step(second, second, |_| true)));
        assert_eq!(world.count(Link::OutboundFull), expected);
    }
}

/// AE4. After a restart among 1,000 flooded addresses, the anchors of the last run are dialled first.
#[test]
fn anchors_first() {
    let anchors = vec![v4(8, 8, 1, 1), v4(9, 9, 1, 1)];
    let connections: Vec<Connection> =
        anchors.iter().zip(1..).map(|(address, peer)| connection(peer, Link::BlockOnly, *address, 0)).collect();
    assert_eq!(Outbound::anchors(&connections), anchors);
    let mut world = World::new(OutboundConfig::default(), anchors.clone(), false);
    world.know(20, 50);
    let dials = world.step(0, 0, |_| true);
    let dialled: BTreeSet<PeerAddress> = dials.iter().map(|dial| dial.address).collect();
    assert_eq!(dialled, anchors.into_iter().collect());
    assert!(dials.iter().all(|dial| dial.link == Link::BlockOnly));
}

/// AE7. The tip is stale for an hour: a ninth full connection is tried, and the one that told nothing ends, not the
/// ones that told blocks.
#[test]
fn stale_tip() {
    let mut world = World::new(OutboundConfig::default(), Vec::new(), false);
    world.know(30, 20);
    (0..60).for_each(|second| drop(world.step(second, second, |_| true)));
    let told: Vec<PeerId> = world.connections.iter().map(|connection| connection.peer).collect();
    world.connections.iter_mut().for_each(|connection| connection.last_block = Some(Duration::from_secs(60)));
    let mut most = 0;
    for second in 60..3_660 {
        world.step(second, 60, |_| true);
        most = most.max(world.count(Link::OutboundFull));
    }
    assert_eq!(most, OUTBOUND_FULL + 1);
    assert!(told.iter().all(|peer| world.connections.iter().any(|connection| connection.peer == *peer)));
}

/// AE9. Everything is dead for an hour: the rate of dials stays low, and an operator's peer is retried once a minute.
#[test]
fn no_dial_storm() {
    let manual = v4(60, 1, 1, 1);
    let config = OutboundConfig { manual: vec![manual.into()], ..OutboundConfig::default() };
    let mut world = World::new(config, Vec::new(), false);
    world.know(10, 2);
    let (mut dials, mut retries) = (0, 0);
    for second in 0..3_600 {
        let made = world.step(second, second, |_| false);
        retries += made.iter().filter(|dial| dial.address == manual).count();
        dials += made.len();
    }
    assert!((40..70).contains(&retries), "{retries}");
    // Twenty-one addresses, each about once a minute.
    assert!(dials < 21 * 70, "{dials}");
}

/// AE2. A node knows five peers, and a thousand addresses that strangers made up. A cut of five minutes makes its peers
/// fail; when it is over they are all back within two minutes. Where the invented ones are of hundreds of groups and
/// answer nothing, which takes every dial for ten seconds, that holds for as many as count as few.
#[test]
fn the_way_back_is_not_lost_among_invented_addresses() {
    for (groups, silence) in [(1, 0), (4, 0), (4, 10), (200, 0), (200, 10)] {
        for seed in 0..10 {
            let mut world = World::new(OutboundConfig::default(), Vec::new(), false);
            (world.rng, world.silence) = (StdRng::seed_from_u64(seed), silence);
            let known: Vec<PeerAddress> = (1..=5).map(|group| v4(20 + group, 1, 1, 1)).collect();
            for address in &known {
                world.addresses.add(&record(*address), address, at(0), &mut world.rng);
            }
            (0..60).for_each(|second| drop(world.step(second, second, |_| true)));
            assert_eq!(world.connections.len(), 5);
            let mut invented = 0u32;
            while invented < 1_000 {
                let address = v4(66, (invented % groups) as u8, world.rng.random(), world.rng.random());
                let source = v4(66, 1, 1, invented as u8);
                world.addresses.add(&record(address), &source, at(60), &mut world.rng);
                invented += 1;
            }
            world.connections.clear();
            (60..360).for_each(|second| drop(world.step(second, second, |_| false)));
            let wanted = if groups > 4 && silence > 0 { FEW_CONNECTIONS } else { known.len() };
            let back = (360..3_600).find(|second| {
                world.step(*second, *second, |address| known.contains(address));
                world.connections.len() >= wanted
            });
            let taken = back.map(|second| second - 360);
            println!("{groups} groups, silent for {silence} s, seed {seed}: {taken:?}");
            assert!(taken.is_some_and(|taken| taken <= 120), "{groups} groups, {silence} s, seed {seed}: {taken:?}");
        }
    }
}

/// AE5. `--connect` dials nothing else; a switched-off network nothing at all; banned, discouraged and own addresses are
/// never dialled; the genesis file's are when few are known.
#[test]
fn switches() {
    let only = v4(60, 1, 1, 1);
    let config = OutboundConfig { connect: vec![only], ..OutboundConfig::default() };
    let mut world = World::new(config, Vec::new(), false);
    world.know(10, 10);
    let dials: Vec<Dial> = (0..600).flat_map(|second| world.step(second, 0, |_| true)).collect();
    assert_eq!(dials, [Dial { address: only, link: Link::Manual }]);

    let bootstrap: Vec<PeerAddress> = (1..=4).map(|group| v4(70 + group, 1, 1, 1)).collect();
    let config = OutboundConfig { bootstrap: bootstrap.clone(), ..OutboundConfig::default() };
    let mut world = World::new(config, Vec::new(), false);
    world.outbound.set_active(false);
    assert_eq!(world.step(0, 0, |_| true), []);
    world.outbound.set_active(true);
    world.bans.ban(super::super::bans::Subnet::single(bootstrap[0].host), START, START + 100_000);
    world.bans.discourage(&bootstrap[1].host);
    world.outbound.learn_own(bootstrap[2]);
    let dials: Vec<Dial> = (1..600).flat_map(|second| world.step(second, second, |_| true)).collect();
    assert_eq!(dials, [Dial { address: bootstrap[3], link: Link::OutboundFull }]);
}
