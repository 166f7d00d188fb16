//! Which connections to open: full, block-only, feelers, anchors, extra ones.
//!
//! ```text
//!  tick ─► --connect? ─► those only
//!          manual peers ─► anchors (block-only) ─► 8 full ─► 2 block-only ─► extra full (tip stale) ─► extra block-only
//!          feeler, beside all of these                          │ one group each
//!          one connection too many of a kind? the worst ends ◄──┘
//! ```
//!
//! Dials that are on their way are remembered until the shell reports; failures are repeated ever later.

#[cfg(test)]
mod tests;

use super::addresses::{Addresses, Entry, Group, group};
use super::bans::Bans;
use super::interface::{Action, Actions, Dial, Ending, Link, PeerId};
use crate::chain::Now;
use crate::p2p::limits::{OUTBOUND_BLOCK_ONLY, OUTBOUND_FULL};
use crate::p2p::message::{AddressRecord, PeerAddress, Serves, services};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Peers that the operator may name (Bitcoin Core's number).
pub const MANUAL_MAX: usize = 8;
/// Mean time between feelers (Core's): a tried table of 16,384 is tested in three weeks.
const FEELER_INTERVAL: Duration = Duration::from_secs(120);
/// Mean time between extra block-only connections (Core's): each is a chance to leave an eclipse.
const EXTRA_BLOCK_ONLY_INTERVAL: Duration = Duration::from_secs(300);
/// Without a new tip for so long (15 spacings), one more full connection is tried.
const STALE_TIP: Duration = Duration::from_secs(15 * 60);
/// An extra connection gets so long to show what it knows.
const EXTRA_TRIAL: Duration = Duration::from_secs(30);
/// A dial that nobody reported on is over: twice the handshake's time with room for Tor's circuits.
const DIAL_TIMEOUT: Duration = Duration::from_secs(60);
/// Dials on their way at once.
const DIALS_MAX: usize = 8;
/// Automatic dials of one round ...
const DIALS_PER_ROUND: usize = 2;
/// ... and the time between rounds: at most four dials a second, whatever fails.
const ROUND_INTERVAL: Duration = Duration::from_millis(500);
/// After a first failure an address rests so long, then twice that, ...
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
/// ... up to this: after a partition heals the two sides find each other within a minute or so.
const BACKOFF_LAST: Duration = Duration::from_secs(60);
/// A peer that broke a rule rests so long.
const PUNISHED: Duration = Duration::from_secs(600);
/// Failed addresses remembered: more than can be dialled while the longest rest lasts.
const FAILURES_MAX: usize = 4_096;
/// Addresses looked at to find one that fits (Core's 100).
const TRIES: usize = 100;
/// The same, to find one that has not been told a transaction yet; the next tick tries again.
const PRIVATE_TRIES: usize = 10;
/// Knowing fewer addresses than this, those of the genesis file are asked for help (AE10: not otherwise).
const FEW_ADDRESSES: usize = 16;
/// A directory of nodes that was asked rests so long; half a minute while few addresses are known.
const DIRECTORY_REST: Duration = Duration::from_secs(3_600);
/// See [`DIRECTORY_REST`].
const DIRECTORY_REST_YOUNG: Duration = Duration::from_secs(30);
/// Whoever has had no connection for so long asks those of the genesis file as well, however many addresses are known.
const ALONE: Duration = Duration::from_secs(60);
/// Time between two looks at the genesis file's addresses.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(600);
/// How long somebody who has an old body is looked for, before everybody is asked again.
const LOOKING: Duration = Duration::from_secs(120);
/// With fewer full connections than this, half of the dials go to addresses that once worked: strangers can fill the book
/// with invented ones, which are new and therefore look better than peers that a cut has made fail. Half of
/// [`OUTBOUND_FULL`]: that many show the best chain, and from then on the book's own chances decide again.
const FEW_CONNECTIONS: usize = 4;
/// Own addresses remembered: more than interfaces.
const OWN_MAX: usize = 64;

/// A peer that the operator named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Where.
    pub address: PeerAddress,
    /// As it was written.
    pub name: String,
}

impl From<PeerAddress> for Added {
    fn from(address: PeerAddress) -> Self {
        Self { address, name: address.to_string() }
    }
}

/// What the operator decided.
#[derive(Debug, Clone, Default)]
pub struct OutboundConfig {
    /// If not empty, only these are dialled (`--connect`).
    pub connect: Vec<PeerAddress>,
    /// Always kept connected (`--add-peer`), at most [`MANUAL_MAX`].
    pub manual: Vec<Added>,
    /// Of the genesis file.
    pub bootstrap: Vec<PeerAddress>,
    /// Whether Tor's addresses can be dialled.
    pub onion: bool,
}

/// A connection as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Which.
    pub peer: PeerId,
    /// Why.
    pub link: Link,
    /// The other end.
    pub address: PeerAddress,
    /// Whether its `Hello` came.
    pub ready: bool,
    /// Since when, monotonic.
    pub connected_at: Duration,
    /// When it last told a block that was new, monotonic.
    pub last_block: Option<Duration>,
    /// Whether it is protected from giving way to an extra one (it showed our work).
    pub protected: bool,
}

/// Decides about outgoing connections.
pub struct Outbound {
    config: OutboundConfig,
    active: bool,
    anchors: Vec<PeerAddress>,
    dialling: BTreeMap<PeerAddress, (Link, Duration)>,
    /// How often each failed in a row, and until when it rests.
    failures: BTreeMap<PeerAddress, (u32, Duration)>,
    own: BTreeSet<PeerAddress>,
    next_round: Duration,
    next_feeler: Option<Duration>,
    next_extra: Option<Duration>,
    next_bootstrap: Duration,
    /// Since when there is no connection.
    alone_since: Option<Duration>,
    /// What nobody connected serves, and until when somebody is looked for who does.
    looking_for: Option<(Serves, Duration)>,
}

impl Outbound {
    /// At the start of the process; `anchors` as saved by the last one.
    pub fn new(mut config: OutboundConfig, anchors: Vec<PeerAddress>) -> Self {
        config.manual.truncate(MANUAL_MAX);
        Self {
            config,
            active: true,
            anchors,
            dialling: BTreeMap::new(),
            failures: BTreeMap::new(),
            own: BTreeSet::new(),
            next_round: Duration::ZERO,
            next_feeler: None,
            next_extra: None,
            next_bootstrap: Duration::ZERO,
            alone_since: None,
            looking_for: None,
        }
    }

    /// Nobody connected serves this: one more connection is made, to somebody who said to serve it.
    pub fn look_for(&mut self, what: Serves, now: Duration) {
        self.looking_for = Some((what, now + LOOKING));
    }

    /// What somebody is looked for now who serves it.
    pub fn looking_for(&self, now: Duration) -> Option<Serves> {
        self.looking_for.filter(|(_, until)| now < *until).map(|(what, _)| what)
    }

    /// Whether anything is dialled at all (`setnetworkactive`). The caller ends the connections there are.
    pub const fn set_active(&mut self, active: bool) {
        self.active = active;
    }

    /// Whether anything is dialled at all.
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// Keeps a peer connected from now on; false if there are too many or it is one already.
    pub fn add_manual(&mut self, added: Added) -> bool {
        if self.config.manual.len() >= MANUAL_MAX || self.is_manual(&added.address) {
            return false;
        }
        self.failures.remove(&added.address);
        self.config.manual.push(added);
        true
    }

    fn is_manual(&self, address: &PeerAddress) -> bool {
        self.config.manual.iter().any(|added| added.address == *address)
    }

    /// No longer those of which this is true; false if there was none. The connection stays.
    pub fn remove_manual(&mut self, which: impl Fn(&Added) -> bool) -> bool {
        let before = self.config.manual.len();
        self.config.manual.retain(|added| !which(added));
        before != self.config.manual.len()
    }

    /// Peers that the operator named.
    pub fn manual(&self) -> &[Added] {
        &self.config.manual
    }

    /// The address is this node itself (its own nonce came back, or it listens there).
    pub fn learn_own(&mut self, address: PeerAddress) {
        if self.own.len() < OWN_MAX {
            self.own.insert(address);
        }
    }

    /// A dial became a connection.
    pub fn connected(&mut self, address: &PeerAddress) {
        self.dialling.remove(address);
    }

    /// A connection has said `Hello`: it rests no longer.
    pub fn ready(&mut self, address: &PeerAddress) {
        self.failures.remove(address);
    }

    /// A dial failed, or the connection ended before its `Hello`.
    pub fn failed(&mut self, address: &PeerAddress, now: Now, rng: &mut StdRng) {
        self.dialling.remove(address);
        let count = self.failures.get(address).map_or(0, |(count, _)| *count);
        let rest = (BACKOFF_FIRST * (1 << count.min(10))).min(BACKOFF_LAST);
        // Up to a quarter longer, so that nodes that lost the same peer do not come back together.
        let jitter = rest * rng.random_range(0..=256) / 1_024;
        self.rest(address, count.saturating_add(1), now.monotonic + rest + jitter);
    }

    /// A directory of nodes was reached, which is asked once and then left: it is asked again later, sooner if only so
    /// many addresses as these few are known.
    pub fn rest_directory(&mut self, address: &PeerAddress, now: Now, known: usize) {
        let rest = if known < FEW_ADDRESSES { DIRECTORY_REST_YOUNG } else { DIRECTORY_REST };
        self.rest(address, 0, now.monotonic + rest);
    }

    fn rest(&mut self, address: &PeerAddress, count: u32, until: Duration) {
        self.failures.insert(*address, (count, until));
        if self.failures.len() > FAILURES_MAX {
            let soonest = self.failures.iter().min_by_key(|(_, (_, until))| *until).map(|(address, _)| *address);
            soonest.map(|address| self.failures.remove(&address));
        }
    }

    /// A peer that was dialled broke a rule: it rests longer than one that merely failed.
    pub fn punished(&mut self, address: &PeerAddress, now: Now, rng: &mut StdRng) {
        self.failed(address, now, rng);
        if let Some((_, until)) = self.failures.get_mut(address) {
            *until = now.monotonic + PUNISHED;
        }
    }

    /// Addresses to dial first after a restart: block-only peers, whose connections nobody else can infer.
    pub fn anchors(connections: &[Connection]) -> Vec<PeerAddress> {
        let fit = connections.iter().filter(|connection| connection.link == Link::BlockOnly && connection.ready);
        fit.map(|connection| connection.address).take(super::addresses::ANCHORS_MAX).collect()
    }

    /// What to open and what to end now. `tip_at` is when the tip last changed (monotonic).
    pub fn tick(
        &mut self,
        now: Now,
        rng: &mut StdRng,
        addresses: &mut Addresses,
        bans: &Bans,
        connections: &[Connection],
        tip_at: Duration,
    ) -> Actions {
        let time = now.monotonic;
        let mut actions = Actions::new();
        self.dialling.retain(|_, (_, since)| time.saturating_sub(*since) < DIAL_TIMEOUT);
        if !self.active {
            return actions;
        }
        let manual = || self.config.manual.iter().map(|added| added.address).collect();
        let named: Vec<PeerAddress> =
            if self.config.connect.is_empty() { manual() } else { self.config.connect.clone() };
        for address in named {
            let there = connections.iter().any(|connection| connection.address == address);
            if !there && !self.resting(&address, time) && self.dialling.len() < DIALS_MAX {
                actions.push(Action::Dial(self.dial(address, Link::Manual, now, addresses)));
            }
        }
        if !self.config.connect.is_empty() {
            return actions;
        }
        let stale = time.saturating_sub(tip_at) >= STALE_TIP;
        end_extras(time, connections, &mut actions);
        if time < self.next_round {
            return actions;
        }
        self.next_round = time + ROUND_INTERVAL;
        if let Some(directory) = self.bootstrap(now, rng, addresses, bans, connections) {
            actions.push(Action::Dial(self.dial(directory, Link::AddressFetch, now, addresses)));
        }
        for _ in 0..DIALS_PER_ROUND {
            if self.dialling.len() >= DIALS_MAX {
                break;
            }
            let Some(link) = self.wanted(time, rng, connections, stale) else { break };
            let anchor = if link == Link::BlockOnly { self.anchors.pop() } else { None };
            let fits = |address: &PeerAddress| self.fits(address, link, now, addresses, bans, connections);
            let target = match anchor {
                Some(anchor) => Some(anchor).filter(|anchor| fits(anchor)),
                None => self.choose(link, now, rng, addresses, bans, connections),
            };
            if let Some(address) = target {
                actions.push(Action::Dial(self.dial(address, link, now, addresses)));
            }
        }
        self.feel(now, rng, addresses, bans, connections, &mut actions);
        actions
    }

    /// One more peer to hand a transaction to, if anybody is left who may be dialled unasked and was not `told` before.
    pub fn dial_privately(
        &mut self,
        told: impl Fn(&PeerAddress) -> bool,
        now: Now,
        rng: &mut StdRng,
        addresses: &mut Addresses,
        bans: &Bans,
        connections: &[Connection],
    ) -> Option<Dial> {
        if !self.active || !self.config.connect.is_empty() || self.dialling.len() >= DIALS_MAX {
            return None;
        }
        let link = Link::PrivateBroadcast;
        for _ in 0..PRIVATE_TRIES {
            let address = self.choose(link, now, rng, addresses, bans, connections)?;
            if !told(&address) {
                return Some(self.dial(address, link, now, addresses));
            }
        }
        None
    }

    fn wanted(&mut self, time: Duration, rng: &mut StdRng, connections: &[Connection], stale: bool) -> Option<Link> {
        let full = self.count(Link::OutboundFull, connections);
        let block_only = self.count(Link::BlockOnly, connections);
        if !self.anchors.is_empty() && block_only < OUTBOUND_BLOCK_ONLY {
            return Some(Link::BlockOnly);
        }
        if full < OUTBOUND_FULL {
            return Some(Link::OutboundFull);
        }
        if block_only < OUTBOUND_BLOCK_ONLY {
            return Some(Link::BlockOnly);
        }
        let looking = self.looking_for(time).is_some();
        if (stale || looking) && full == OUTBOUND_FULL {
            return Some(Link::OutboundFull);
        }
        let due = *self.next_extra.get_or_insert_with(|| time + poisson(EXTRA_BLOCK_ONLY_INTERVAL, rng));
        if time >= due && block_only == OUTBOUND_BLOCK_ONLY {
            self.next_extra = Some(time + poisson(EXTRA_BLOCK_ONLY_INTERVAL, rng));
            return Some(Link::BlockOnly);
        }
        None
    }

    fn count(&self, link: Link, connections: &[Connection]) -> usize {
        connections.iter().filter(|connection| connection.link == link).count()
            + self.dialling.values().filter(|(dialled, _)| *dialled == link).count()
    }

    fn feel(
        &mut self,
        now: Now,
        rng: &mut StdRng,
        addresses: &mut Addresses,
        bans: &Bans,
        connections: &[Connection],
        actions: &mut Actions,
    ) {
        let time = now.monotonic;
        let due = *self.next_feeler.get_or_insert_with(|| time + poisson(FEELER_INTERVAL, rng));
        if time < due || self.dialling.len() >= DIALS_MAX || self.count(Link::Feeler, connections) > 0 {
            return;
        }
        self.next_feeler = Some(time + poisson(FEELER_INTERVAL, rng));
        let tested = addresses.collision_to_test(now, rng);
        let tested = tested.filter(|address| self.fits(address, Link::Feeler, now, addresses, bans, connections));
        let target = tested.or_else(|| self.choose(Link::Feeler, now, rng, addresses, bans, connections));
        if let Some(address) = target {
            actions.push(Action::Dial(self.dial(address, Link::Feeler, now, addresses)));
        }
    }

    fn choose(
        &self,
        link: Link,
        now: Now,
        rng: &mut StdRng,
        addresses: &Addresses,
        bans: &Bans,
        connections: &[Connection],
    ) -> Option<PeerAddress> {
        // Half of the dials go on as ever: who claims to serve what nobody has must not become all neighbours.
        let looking = self.looking_for(now.monotonic).filter(|_| link == Link::OutboundFull && rng.random::<bool>());
        if let Some(what) = looking {
            let serves = |entry: &&Entry| entry.can_serve(what);
            let fits = |entry: &&Entry| self.fits(&entry.address, link, now, addresses, bans, connections);
            let fitting: Vec<PeerAddress> =
                addresses.entries().filter(serves).filter(fits).map(|entry| entry.address).collect();
            if let Some(address) = fitting.choose(rng) {
                return Some(*address);
            }
        }
        if link == Link::OutboundFull && is_lonely(connections) && rng.random::<bool>() {
            let worked = addresses.entries().filter(|entry| {
                entry.tried && entry.services & services::BLOCKS != 0 && !entry.terrible(now.unix_seconds)
            });
            let worked = worked.map(|entry| entry.address);
            let worked: Vec<PeerAddress> =
                worked.filter(|address| self.fits(address, link, now, addresses, bans, connections)).collect();
            if !worked.is_empty() {
                return Some(worked[rng.random_range(0..worked.len())]);
            }
        }
        for _ in 0..TRIES {
            let entry = addresses.select(link == Link::Feeler, now, rng)?;
            let serves = link == Link::Feeler || entry.services & services::BLOCKS != 0;
            if serves && self.fits(&entry.address, link, now, addresses, bans, connections) {
                return Some(entry.address);
            }
        }
        None
    }

    /// Whether an address may be dialled unasked.
    fn fits(
        &self,
        address: &PeerAddress,
        link: Link,
        now: Now,
        addresses: &Addresses,
        bans: &Bans,
        connections: &[Connection],
    ) -> bool {
        let lifted = |host| addresses.allow_private() && group::private(host);
        let known = |other: &PeerAddress| other == address || other.host == address.host && !lifted(&address.host);
        if !group::acceptable(address, addresses.allow_private())
            || !self.config.onion && group::kind(&address.host) == group::Kind::Onion
            || self.own.contains(address)
            || self.resting(address, now.monotonic)
            || self.is_manual(address)
            || bans.is_banned(&address.host, now.unix_seconds)
            || bans.is_discouraged(&address.host)
            || self.dialling.keys().any(known)
            || connections.iter().any(|connection| known(&connection.address))
        {
            return false;
        }
        let one_group = |link: Link| matches!(link, Link::OutboundFull | Link::BlockOnly);
        if !one_group(link) || lifted(&address.host) {
            return true;
        }
        let mine = Group::of(&address.host);
        let linked = connections.iter().map(|connection| (connection.link, connection.address));
        let dialled = self.dialling.iter().map(|(address, (link, _))| (*link, *address));
        !linked.chain(dialled).any(|(link, other)| one_group(link) && Group::of(&other.host) == mine)
    }

    fn resting(&self, address: &PeerAddress, time: Duration) -> bool {
        self.dialling.contains_key(address) || self.failures.get(address).is_some_and(|(_, until)| time < *until)
    }

    fn dial(&mut self, address: PeerAddress, link: Link, now: Now, addresses: &mut Addresses) -> Dial {
        self.dialling.insert(address, (link, now.monotonic));
        addresses.attempt(&address, now);
        Dial { address, link }
    }

    /// With few addresses, or none that leads anywhere, the genesis file's are put into the book; one of them that is
    /// known to be a directory of nodes is given back, to be asked.
    fn bootstrap(
        &mut self,
        now: Now,
        rng: &mut StdRng,
        addresses: &mut Addresses,
        bans: &Bans,
        connections: &[Connection],
    ) -> Option<PeerAddress> {
        let alone = connections.iter().all(|connection| !connection.ready);
        let since = alone.then(|| *self.alone_since.get_or_insert(now.monotonic));
        self.alone_since = since;
        let alone = since.is_some_and(|since| now.monotonic.saturating_sub(since) >= ALONE);
        if addresses.len() >= FEW_ADDRESSES && !alone {
            return None;
        }
        let directories = self.config.bootstrap.iter().filter(|address| {
            addresses
                .get(address)
                .is_some_and(|entry| entry.last_success != 0 && entry.services & services::BLOCKS == 0)
        });
        let fits = |address: &&PeerAddress| self.fits(address, Link::AddressFetch, now, addresses, bans, connections);
        let directory = directories.filter(|_| self.dialling.len() < DIALS_MAX).copied().find(|address| fits(&address));
        if now.monotonic < self.next_bootstrap {
            return directory;
        }
        self.next_bootstrap = now.monotonic + BOOTSTRAP_INTERVAL;
        for address in &self.config.bootstrap {
            let time = u32::try_from(now.unix_seconds).unwrap_or(u32::MAX);
            let record = AddressRecord {
                address: *address,
                services: services::BLOCKS | services::TRANSACTIONS,
                serves: (0, u32::MAX),
                time,
            };
            addresses.add(&record, address, now, rng);
        }
        directory
    }
}

/// Whether only few of the full connections that this node made itself stand; those of others prove nothing.
fn is_lonely(connections: &[Connection]) -> bool {
    let full = |connection: &&Connection| connection.link == Link::OutboundFull && connection.ready;
    connections.iter().filter(full).count() < FEW_CONNECTIONS
}

/// Where there is one connection more than wanted, the one that was last of use longest ago ends; of those equal, the
/// youngest. Extra ones are judged once they had their time.
fn end_extras(time: Duration, connections: &[Connection], actions: &mut Actions) {
    for (link, wanted) in [(Link::OutboundFull, OUTBOUND_FULL), (Link::BlockOnly, OUTBOUND_BLOCK_ONLY)] {
        let all: Vec<&Connection> = connections.iter().filter(|connection| connection.link == link).collect();
        if all.len() <= wanted {
            continue;
        }
        let tried = |connection: &&&Connection| time.saturating_sub(connection.connected_at) >= EXTRA_TRIAL;
        let worst = all.iter().filter(|connection| !connection.protected).filter(tried);
        let worst = worst.min_by_key(|c| (c.last_block, std::cmp::Reverse((c.connected_at, c.peer))));
        // While the newest is still on trial nobody ends, or the newest could never be better.
        if all.iter().all(|connection| tried(&connection))
            && let Some(worst) = worst
        {
            actions.push(Action::Disconnect(worst.peer, Ending::Finished));
        }
    }
}

/// A random wait of this mean, without memory: a sixteenth of it as often as one in sixteen does not come up.
fn poisson(mean: Duration, rng: &mut StdRng) -> Duration {
    let mut sixteenths = 1;
    while sixteenths < 16 * 16 && rng.random_range(0..16u32) != 0 {
        sixteenths += 1;
    }
    mean * sixteenths / 16
}
