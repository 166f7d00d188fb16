//! The crawler over hours of a clock moved by hand: whom it visits, what it believes, what it tells.

use super::crawler::{Action, Crawler, CrawlerOptions, Event};
use super::directory::{self, Directory};
use crate::chain::Now;
use crate::p2p::brain::addresses::Kind;
use crate::p2p::brain::greeting;
use crate::p2p::brain::interface::PeerId;
use crate::p2p::message::{AddressRecord, Hello, Message, NetAddress, PeerAddress, Serves, services};
use crate::testing;
use rand::SeedableRng;
use rand::rngs::StdRng;
use setara_core::network::Network;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

const START: u64 = 1_800_000_000;
const PORT: u16 = 19_740;

fn at(seconds: u64) -> Now {
    Now { unix_seconds: START + seconds, monotonic: Duration::from_secs(seconds) }
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> PeerAddress {
    PeerAddress { host: NetAddress::V4(Ipv4Addr::new(a, b, c, d)), port: PORT }
}

/// Hosts of a network, each in a /16 of its own.
fn host(number: u16) -> PeerAddress {
    v4(20 + (number / 200) as u8, (number % 200) as u8, 1, 1)
}

fn record(address: PeerAddress) -> AddressRecord {
    AddressRecord { address, services: services::BLOCKS, serves: (0, 100), time: START as u32 }
}

fn hello(network: &Network, bits: u64, nonce: u64) -> Message {
    Message::Hello(Box::new(Hello {
        version: 1,
        agent: "/test/".to_owned(),
        services: bits,
        fork_id: greeting::fork_id(network),
        serves: (0, 100),
        nonce,
        listen_port: 0,
        relay: true,
        time: START,
        extras: Vec::new(),
    }))
}

/// A crawler and the hosts that it can reach.
struct World {
    crawler: Crawler,
    network: Arc<Network>,
    up: BTreeSet<PeerAddress>,
    /// What each host answers when asked for addresses.
    tells: BTreeMap<PeerAddress, Vec<AddressRecord>>,
    peers: u64,
    millis: u64,
    dialled: Vec<(u64, PeerAddress)>,
    saved: usize,
}

impl World {
    fn new(starts: Vec<PeerAddress>) -> Self {
        Self::with(starts, None, None)
    }

    fn with(starts: Vec<PeerAddress>, book: Option<&[u8]>, directory: Option<&[u8]>) -> Self {
        let network = testing::quick_network();
        let options = CrawlerOptions {
            network: network.clone(),
            agent: "/seeder/".to_owned(),
            listen_port: 1_111,
            allow_private: false,
            callers_max: 12,
            starts,
            onion: false,
        };
        let crawler = Crawler::new(options, book, directory, [7; 32]);
        let (up, tells) = (BTreeSet::new(), BTreeMap::new());
        Self { crawler, network, up, tells, peers: 0, millis: 0, dialled: Vec::new(), saved: 0 }
    }

    fn now(&self) -> Now {
        Now { unix_seconds: START + self.millis / 1_000, monotonic: Duration::from_millis(self.millis) }
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.crawler.handle(self.now(), event)
    }

    fn says(&mut self, peer: u64, message: Message) -> Vec<Action> {
        self.handle(Event::Message { peer: PeerId(peer), message })
    }

    fn calls(&mut self, address: PeerAddress) -> (u64, Vec<Action>) {
        self.peers += 1;
        let peer = PeerId(self.peers);
        (self.peers, self.handle(Event::Connected { peer, address, caller: true, version: 1 }))
    }

    fn leaves(&mut self, peer: u64) {
        assert_eq!(self.handle(Event::Disconnected { peer: PeerId(peer) }), []);
    }

    /// A visit as an honest host answers it.
    fn visit(&mut self, address: PeerAddress) {
        if !self.up.contains(&address) {
            assert_eq!(self.handle(Event::DialFailed { address, ourselves: false }), []);
            return;
        }
        self.peers += 1;
        let peer = self.peers;
        let version = 1;
        let first = self.handle(Event::Connected { peer: PeerId(peer), address, caller: false, version });
        assert!(matches!(first.as_slice(), [Action::Send(_, Message::Hello(_))]), "{first:?}");
        let greeting = hello(&self.network, services::BLOCKS, peer);
        let asked = self.says(peer, greeting);
        if asked == [Action::Send(PeerId(peer), Message::GetAddresses(Serves::Any))] {
            let records = self.tells.get(&address).cloned().unwrap_or_default();
            assert_eq!(self.says(peer, Message::Addresses(records)), [Action::Disconnect(PeerId(peer))]);
        } else {
            assert_eq!(asked, [Action::Disconnect(PeerId(peer))]);
        }
        self.leaves(peer);
    }

    /// Time passes, in steps of a tick.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.millis += 100;
            for action in self.handle(Event::Tick) {
                match action {
                    Action::Dial(address) => {
                        self.dialled.push((self.millis, address));
                        self.visit(address);
                    }
                    Action::Save => self.saved += 1,
                    Action::Disconnect(peer) => self.leaves(peer.0),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn good(&self) -> usize {
        self.crawler.directory().good(self.now())
    }
}

/// The answer among actions.
fn told(actions: &[Action]) -> Vec<PeerAddress> {
    let found = actions.iter().find_map(|action| match action {
        Action::Send(_, Message::Addresses(records)) => Some(records.iter().map(|record| record.address).collect()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("an answer among {actions:?}"))
}

fn ends(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Disconnect(_)))
}

/// AE10. Knowing one node, it finds the others through it within a minute, and names those it has reached itself: not
/// one that is only told of.
#[test]
fn ae10_from_one_node_to_all_that_are_there() {
    let mut world = World::new(vec![host(1)]);
    world.up.extend((1..=12).map(host));
    world.tells.insert(host(1), (2..=20).map(|number| record(host(number))).collect());
    world.pass(60);
    assert_eq!(world.good(), 12);
    assert!(world.crawler.book().len() >= 18, "{}", world.crawler.book().len());
    let (peer, actions) = world.calls(v4(90, 1, 1, 1));
    let Some(Action::Send(_, Message::Hello(own))) = actions.first() else { panic!("{actions:?}") };
    assert_eq!((own.services, own.serves, own.relay, own.listen_port), (0, (0, 0), false, 1_111));
    let greeting = hello(&world.network.clone(), services::BLOCKS, 5);
    assert_eq!(world.says(peer, greeting), []);
    let actions = world.says(peer, Message::GetAddresses(Serves::Any));
    let told: BTreeSet<PeerAddress> = told(&actions).into_iter().collect();
    assert_eq!(told, (1..=12).map(host).collect());
    assert!(ends(&actions), "it says goodbye");
}

/// Dead addresses are tried ever again, but neither hammered nor in the way of live ones; nodes that go are no longer
/// named, are looked for a day, and then forgotten.
#[test]
fn nodes_that_go_are_missed_then_forgotten() {
    let mut world = World::new(vec![host(1)]);
    world.up.extend([host(1), host(2)]);
    world.tells.insert(host(1), vec![record(host(2)), record(host(3))]);
    world.pass(120);
    assert_eq!(world.good(), 2);
    world.up.remove(&host(2));
    world.pass(120);
    assert_eq!(world.good(), 1);
    assert!(world.crawler.directory().get(&host(2)).is_some_and(|node| node.missed > 0));
    // Nobody is dialled more often than once a minute.
    let mut last: BTreeMap<PeerAddress, u64> = BTreeMap::new();
    for (millis, address) in world.dialled.clone() {
        if let Some(before) = last.insert(address, millis) {
            assert!(millis - before >= 59_000, "{address} after {} ms", millis - before);
        }
    }
    world.pass(24 * 3_600);
    assert!(world.crawler.directory().get(&host(2)).is_none());
    assert!(world.crawler.directory().get(&host(1)).is_some());
}

/// A seeder whose own network is down forgets nobody.
#[test]
fn nobody_is_forgotten_while_nobody_is_reached() {
    let mut world = World::new(vec![host(1)]);
    world.up.extend([host(1), host(2)]);
    world.tells.insert(host(1), vec![record(host(2))]);
    world.pass(120);
    let up = std::mem::take(&mut world.up);
    world.pass(30 * 3_600);
    assert_eq!((world.good(), world.crawler.directory().len()), (0, 2));
    world.up = up;
    world.pass(120);
    assert_eq!(world.good(), 2);
}

/// TH2, TH6, TH7. A caller states itself first, is answered once, and is gone within 20 s whatever it does or leaves.
#[test]
fn th6_callers_are_held_to_the_order_and_the_clock() {
    let network = testing::quick_network();
    let greeting = || hello(&network, services::BLOCKS, 5);
    let early = [Message::Ping(1), Message::GetAddresses(Serves::Any), Message::Genesis(Vec::new())];
    for message in early {
        let mut world = World::new(Vec::new());
        let (peer, _) = world.calls(v4(90, 1, 1, 1));
        assert_eq!(world.says(peer, message), [Action::Disconnect(PeerId(peer))]);
        assert_eq!(world.says(peer, greeting()), [], "what comes after the end is not heard");
    }
    let mut world = World::new(Vec::new());
    let (peer, _) = world.calls(v4(90, 1, 1, 1));
    assert_eq!(world.says(peer, Message::GetGenesis), [Action::SendGenesis(PeerId(peer))]);
    assert_eq!(world.says(peer, greeting()), []);
    assert_eq!(world.says(peer, Message::Ping(9)), [Action::Send(PeerId(peer), Message::Pong(9))]);
    assert_eq!(world.says(peer, Message::GetHeaders { locator: Vec::new(), stop: network.genesis_hash() }), []);
    assert!(ends(&world.says(peer, Message::GetGenesis)), "twice");

    // One who only talks.
    let (peer, _) = world.calls(v4(91, 1, 1, 1));
    world.says(peer, greeting());
    let heard = (0..1_000).take_while(|_| !ends(&world.says(peer, Message::Ping(1)))).count();
    assert!(heard < 64, "{heard}");

    // One who is silent, and one of another network.
    let (silent, _) = world.calls(v4(92, 1, 1, 1));
    world.millis += 19_900;
    assert!(!ends(&world.handle(Event::Tick)));
    world.millis += 100;
    assert!(world.handle(Event::Tick).contains(&Action::Disconnect(PeerId(silent))));
    let (foreign, _) = world.calls(v4(93, 1, 1, 1));
    let other = testing::network(|parameters| parameters.name = "other".to_owned());
    assert!(ends(&world.says(foreign, hello(&other, services::BLOCKS, 6))));
}

/// TH2. Callers have so many chairs, and one place only some of them.
#[test]
fn th2_one_place_cannot_take_all_chairs() {
    let mut world = World::new(Vec::new());
    let refused = (0..20).filter(|n| ends(&world.calls(v4(90, 1, *n, 1)).1)).count();
    assert_eq!(refused, 12, "eight of one /16 stay");
    assert!((0..4).all(|n| !ends(&world.calls(v4(91, n, 1, 1)).1)));
    let (peer, actions) = world.calls(v4(99, 9, 1, 1));
    assert_eq!(actions, [Action::Disconnect(PeerId(peer))], "full");
    world.leaves(1);
    assert!(!ends(&world.calls(v4(99, 9, 1, 1)).1));
}

/// AE1. Whoever pushes addresses is believed at the rate of any peer: one, and one more every ten seconds; and nothing
/// of it is told on.
#[test]
fn ae1_pushed_addresses_are_few_and_never_told() {
    let mut world = World::new(Vec::new());
    let (peer, _) = world.calls(v4(90, 1, 1, 1));
    let greeting = hello(&world.network.clone(), services::BLOCKS, 5);
    world.says(peer, greeting);
    for group in 0..30 {
        let pushed: Vec<AddressRecord> = (0..10).map(|n| record(v4(30 + group, n, 1, 1))).collect();
        assert_eq!(world.says(peer, Message::Addresses(pushed)), []);
    }
    assert!(world.crawler.book().len() <= 2, "{}", world.crawler.book().len());
    assert_eq!(told(&world.says(peer, Message::GetAddresses(Serves::Any))), []);
}

/// A node that was visited and serves no blocks is another directory: asked, never named. One's own nonce is oneself.
#[test]
fn directories_and_oneself_are_not_named() {
    let mut world = World::new(vec![host(1), host(2)]);
    let mut dialled = Vec::new();
    for _ in 0..10 {
        world.millis += 100;
        dialled.extend(world.handle(Event::Tick));
    }
    assert_eq!(dialled, [Action::Dial(host(1)), Action::Dial(host(2))]);
    let connected = |peer, address| Event::Connected { peer: PeerId(peer), address, caller: false, version: 1 };
    world.handle(connected(1, host(1)));
    let greeting = hello(&world.network.clone(), 0, 5);
    assert_eq!(world.says(1, greeting), [Action::Send(PeerId(1), Message::GetAddresses(Serves::Any))]);
    let own = world.handle(connected(2, host(2)));
    let [Action::Send(_, own @ Message::Hello(_))] = own.as_slice() else { panic!("{own:?}") };
    assert_eq!(world.says(2, own.clone()), [Action::Disconnect(PeerId(2))]);
    world.leaves(1);
    world.leaves(2);
    assert!(world.crawler.directory().is_empty());
    world.pass(300);
    assert!(world.dialled.iter().all(|(_, address)| *address == host(1)), "oneself is not dialled again");
    assert!(world.dialled.len() >= 4);
}

/// A directory of `count` nodes in as many groups, each reached `passes` times.
fn filled(count: u16, passes: u64) -> Directory {
    let mut directory = Directory::new(false);
    for pass in 0..passes {
        for number in 0..count {
            directory.reached(&host(number), services::BLOCKS, (0, u32::from(number)), at(pass));
        }
    }
    directory
}

/// AE8. At most 23 % in one answer and a thousand at most, the same for ten minutes, drawn from the newest; those that
/// stood three looks come before those that stood one.
#[test]
fn ae8_answers_are_a_share_of_the_newest() {
    let mut rng = StdRng::seed_from_u64(1);
    let any = |directory: &mut Directory, seconds, rng: &mut StdRng| {
        directory.answer(Kind::V4, Serves::Any, at(seconds), rng).iter().map(|r| r.address).collect::<BTreeSet<_>>()
    };
    let mut directory = filled(1_000, 3);
    let first = any(&mut directory, 10, &mut rng);
    assert_eq!(first.len(), 230);
    assert_eq!(any(&mut directory, 600, &mut rng), first);
    assert_ne!(any(&mut directory, 611, &mut rng), first);
    // The first 300 are seen again: answers name no others.
    for number in 0..300 {
        directory.reached(&host(number), services::BLOCKS, (0, 1), at(2_000));
    }
    let newest = any(&mut directory, 2_000, &mut rng);
    let fresh = (0..300).map(host).filter(|address| newest.contains(address)).count();
    assert!(fresh > 100 && newest.len() == 230, "{fresh} of {}", newest.len());
    // Newcomers wait until they stood long enough, since there are others.
    for number in 1_000..1_100 {
        directory.reached(&host(number), services::BLOCKS, (0, 1), at(3_000));
    }
    let answer = any(&mut directory, 3_000, &mut rng);
    assert!((1_000..1_100).all(|number| !answer.contains(&host(number))));
    assert_eq!(any(&mut filled(4_096, 3), 10, &mut rng).len(), 23 * 4_096 / 100);
    // Four hours later nobody is known to be there.
    assert!(any(&mut directory, 20_000, &mut rng).is_empty());
    // Who serves a height is asked by height.
    let serving = filled(40, 3).answer(Kind::V4, Serves::Height(35), at(5), &mut rng);
    assert_eq!(serving.iter().map(|r| r.serves.1).collect::<BTreeSet<_>>(), (35..40).collect());
    assert!(filled(40, 3).answer(Kind::V4, Serves::Snapshot, at(5), &mut rng).is_empty());
}

/// AE2. Whoever holds one group holds a sixteenth of the directory and an eighth of an answer at most.
#[test]
fn ae2_one_group_has_its_share_and_no_more() {
    let mut directory = filled(200, 3);
    for number in 0..2_000u32 {
        let address = v4(77, 7, (number / 250) as u8, (number % 250) as u8 + 1);
        for pass in 0..3 {
            directory.reached(&address, services::BLOCKS, (0, 1), at(10 + pass));
        }
    }
    assert_eq!(directory.len(), 200 + directory::GROUP_MAX);
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..20u64 {
        let answer = directory.answer(Kind::V4, Serves::Any, at(100 + round * 700), &mut rng);
        let of_group = answer.iter().filter(|r| matches!(r.address.host, NetAddress::V4(ip) if ip.octets()[0] == 77));
        let of_group = of_group.count();
        assert!(of_group <= (456 * 23 / 100) / 8, "{of_group} of {}", answer.len());
    }
    // A full directory takes a newcomer only for one that was missed.
    let mut full = filled(directory::NODES_MAX as u16, 1);
    assert_eq!(full.len(), directory::NODES_MAX);
    let newcomer = v4(99, 9, 9, 9);
    assert!(!full.reached(&newcomer, services::BLOCKS, (0, 1), at(5)));
    full.missed(&host(5), at(6));
    assert!(full.reached(&newcomer, services::BLOCKS, (0, 1), at(7)));
    assert!(full.get(&host(5)).is_none() && full.len() == directory::NODES_MAX);
}

/// AE10. The file reads back; one that was cut, changed or lengthened anywhere does not, and the seeder begins anew.
#[test]
fn ae10_a_damaged_directory_is_begun_anew() {
    let directory = filled(5, 2);
    let bytes = directory.to_bytes();
    let restored = Directory::from_bytes(&bytes, false).unwrap();
    assert_eq!(restored.to_bytes(), bytes);
    assert_eq!(restored.good(at(10)), 5);
    for end in 0..bytes.len() {
        assert!(Directory::from_bytes(&bytes[..end], false).is_err(), "cut to {end}");
    }
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1;
        assert!(Directory::from_bytes(&damaged, false).is_err(), "byte {index}");
    }
    assert!(Directory::from_bytes(&[bytes.as_slice(), &[0]].concat(), false).is_err());
    let world = World::with(Vec::new(), Some(&bytes[..9]), Some(&bytes[..9]));
    assert!(world.crawler.directory().is_empty() && world.crawler.book().is_empty());
}

/// Between runs the directory is kept, and looked at again at once.
#[test]
fn a_restart_goes_on_where_it_was() {
    let mut world = World::new(vec![host(1)]);
    world.up.extend((1..=5).map(host));
    world.tells.insert(host(1), (2..=5).map(|number| record(host(number))).collect());
    world.pass(1_000);
    assert_eq!((world.good(), world.saved), (5, 1));
    let (book, directory) = (world.crawler.book_bytes(), world.crawler.directory_bytes());
    let mut again = World::with(Vec::new(), Some(&book), Some(&directory));
    again.millis = 2_000_000;
    again.up.extend((1..=5).map(host));
    assert_eq!(again.good(), 5);
    again.pass(5);
    let visited: BTreeSet<PeerAddress> = again.dialled.iter().map(|(_, address)| *address).collect();
    assert_eq!(visited, (1..=5).map(host).collect());
}

/// A large network of which most addresses are dead: never more than ten dials a second or 32 at once, and all live
/// nodes are found within the hour.
#[test]
fn a_sea_of_dead_addresses_neither_hurries_nor_stops_it() {
    let mut world = World::new(vec![host(0)]);
    world.up.extend((0..150).map(host));
    for teller in 0..30u16 {
        let told = (0..100).map(|n| record(host((teller * 37 + n * 7) % 3_000)));
        world.tells.insert(host(teller), told.chain([record(host(teller + 1))]).collect());
    }
    let reachable: BTreeSet<PeerAddress> = world.tells.values().flatten().map(|r| r.address).collect();
    let live = reachable.iter().filter(|address| world.up.contains(address)).count();
    world.pass(3_600);
    assert!(world.good() * 10 >= live * 9, "{} of {live}", world.good());
    for pair in world.dialled.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= 100);
    }
    // Dials that nobody reports on hold their places for a minute and no longer.
    let mut stuck = 0;
    for _ in 0..600 {
        world.millis += 100;
        stuck += world.handle(Event::Tick).iter().filter(|action| matches!(action, Action::Dial(_))).count();
    }
    assert!(stuck <= 64, "{stuck}");
}
