//! Addresses of peers: keyed new and tried buckets, gossip, and what is saved of them.
//!
//! [`Addresses`] is the one book of the node; [`AddressPeer`] is what is kept of each connection, made when it begins and
//! dropped with it. Nothing that one peer sends changes what another may send or is answered.

pub mod group;
pub mod saved;
mod table;
#[cfg(test)]
mod tests;

pub use group::{Group, Kind};
pub use saved::{ANCHORS_MAX, SavedError, anchors_from_bytes, anchors_to_bytes};
pub use table::{Entry, Key};

use super::interface::{Link, PeerId};
use crate::chain::Now;
use crate::p2p::limits::ADDRESSES_MAX;
use crate::p2p::message::{AddressRecord, PeerAddress, Serves};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;
use table::{DAY_SECONDS, FUTURE_SECONDS, Purpose, Table};

/// An address is taken from a peer every so often (Bitcoin Core's 0.1/s) ...
const ADDRESS_COST: Duration = Duration::from_secs(10);
/// ... with so many saved up at most: one answer.
const ADDRESS_BURST: u32 = ADDRESSES_MAX as u32;
/// Addresses beyond its rate that a peer may send within [`IGNORED_PERIOD`]: five full answers, and nobody asked for one.
const IGNORED_MAX: usize = 5 * ADDRESSES_MAX as usize;
/// See [`IGNORED_MAX`]. Honest gossip is a few a second at most.
const IGNORED_PERIOD: Duration = Duration::from_secs(60);
/// What others say of an address is older than they say: two hours of distrust (as Core).
const DISTRUST_SECONDS: u64 = 2 * 3_600;
/// What an address with an impossible time is set back by: it is then neither fresh nor lost.
const IMPLAUSIBLE_SECONDS: u64 = 5 * DAY_SECONDS;
/// Times before this (1973) are no times.
const EARLIEST_SECONDS: u32 = 100_000_000;
/// An address seen within these seconds is news, and handed on ...
const FRESH_SECONDS: u64 = 10 * 60;
/// ... when it came in a message of so few that it is an announcement and no answer ...
const ANNOUNCEMENT_MAX: usize = 10;
/// ... to so many peers.
const RELAY_PEERS: usize = 2;
/// The share of the book that an answer may reveal, in percent.
const ANSWER_PERCENT: usize = 23;
/// Below which the share does not apply: in a network of a few nodes they could not find each other otherwise.
const ANSWER_FLOOR: usize = 8;
/// An answer stands at least so long: asking often reveals no more than asking once ...
const ANSWER_HOURS: u64 = 21;
/// ... and up to so much longer, so that nobody knows when it changes.
const ANSWER_SPREAD_HOURS: u64 = 6;
/// Who served a height within a day is worth naming.
const SERVING_SECONDS: u64 = DAY_SECONDS;
/// A peer may ask for servers of a height or of a snapshot once in this time.
const SERVING_INTERVAL: Duration = Duration::from_secs(60);
/// Seconds to which the times in such an answer are rounded down.
const SERVING_TIME_STEP: u32 = 2 * 3_600;

/// What is kept of one connection.
#[derive(Debug, Clone)]
pub struct AddressPeer {
    /// Time saved up; an address costs [`ADDRESS_COST`] of it.
    credit: Duration,
    /// When `credit` was last counted.
    counted: Duration,
    answered: bool,
    served: Option<Duration>,
    /// An answer to this node's own question may come.
    awaited: bool,
    /// Since when, and how many that were beyond its rate.
    ignored: (Duration, usize),
}

impl AddressPeer {
    /// A new connection may announce one address at once: its own.
    pub const fn new(now: Now) -> Self {
        let (counted, ignored) = (now.monotonic, (now.monotonic, 0));
        Self { credit: ADDRESS_COST, counted, answered: false, served: None, awaited: false, ignored }
    }

    /// This node has asked it for addresses: room for one answer.
    pub fn asked(&mut self) {
        self.credit = (self.credit + ADDRESS_COST * ADDRESS_BURST).min(ADDRESS_COST * ADDRESS_BURST);
        self.awaited = true;
    }

    /// So many addresses were beyond its rate: whether it floods.
    pub fn floods(&mut self, ignored: usize, now: Duration) -> bool {
        if now.saturating_sub(self.ignored.0) >= IGNORED_PERIOD {
            self.ignored = (now, 0);
        }
        self.ignored.1 += ignored;
        self.ignored.1 > IGNORED_MAX
    }

    fn earn(&mut self, now: Duration) {
        let earned = now.saturating_sub(self.counted);
        self.credit = self.credit.saturating_add(earned).min(ADDRESS_COST * ADDRESS_BURST);
        self.counted = self.counted.max(now);
    }

    fn pay(&mut self) -> bool {
        match self.credit.checked_sub(ADDRESS_COST) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }
}

/// What became of a message of addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Looked at.
    pub processed: usize,
    /// Ignored: more than the peer's rate.
    pub ignored: usize,
    /// News, to be handed on to [`Addresses::relay_to`].
    pub relay: Vec<AddressRecord>,
}

/// The book.
pub struct Addresses {
    table: Table,
    allow_private: bool,
    /// By the network that the asker came through: until when (monotonic), and what is said.
    answers: BTreeMap<Kind, (Duration, Vec<AddressRecord>)>,
}

impl Addresses {
    /// Empty, under a fresh key.
    pub fn new(allow_private: bool, rng: &mut StdRng) -> Self {
        Self::over(Table::new(Key(rng.random(), rng.random())), allow_private)
    }

    const fn over(table: Table, allow_private: bool) -> Self {
        Self { table, allow_private, answers: BTreeMap::new() }
    }

    /// From a file; whatever is wrong with it is an error, and the caller starts with [`Addresses::new`].
    pub fn from_bytes(bytes: &[u8], allow_private: bool) -> Result<Self, SavedError> {
        Ok(Self::over(saved::table_from_bytes(bytes)?, allow_private))
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        saved::table_to_bytes(&self.table)
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of an address.
    pub fn get(&self, address: &PeerAddress) -> Option<&Entry> {
        self.table.get(address)
    }

    /// All that is known, for `getnodeaddresses` and metrics.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.table.entries().map(|(_, entry)| entry)
    }

    /// Whether loopback and private addresses count as others do.
    pub const fn allow_private(&self) -> bool {
        self.allow_private
    }

    /// Takes a message of addresses from a peer, as far as its rate allows.
    pub fn receive(
        &mut self,
        peer: &mut AddressPeer,
        source: &PeerAddress,
        records: &[AddressRecord],
        now: Now,
        rng: &mut StdRng,
    ) -> Received {
        let mut received = Received::default();
        peer.earn(now.monotonic);
        // An answer is never handed on; small messages after it are announcements again.
        let announcement = records.len() <= ANNOUNCEMENT_MAX && !std::mem::take(&mut peer.awaited);
        // In random order: a peer whose message is cut short does not choose which addresses fall away.
        let mut order: Vec<usize> = (0..records.len()).collect();
        let count = order.len();
        for index in 0..count {
            order.swap(index, rng.random_range(index..count));
            if !peer.pay() {
                received.ignored = count - index;
                break;
            }
            received.processed += 1;
            let record = plausible(&records[order[index]], now.unix_seconds);
            if !group::acceptable(&record.address, self.allow_private) {
                continue;
            }
            let fresh = now.unix_seconds.saturating_sub(u64::from(record.time)) < FRESH_SECONDS;
            if announcement && fresh {
                received.relay.push(record);
            }
            self.add(&record, source, now, rng);
        }
        received
    }

    /// Takes one record, whoever `source` is; no rate. True if it has a new place in the book.
    pub fn add(&mut self, record: &AddressRecord, source: &PeerAddress, now: Now, rng: &mut StdRng) -> bool {
        if !group::acceptable(&record.address, self.allow_private) {
            return false;
        }
        let penalty = if record.address.host == source.host { 0 } else { DISTRUST_SECONDS };
        let record = plausible(record, now.unix_seconds);
        self.table.add(&record, Group::of(&source.host), penalty, now.unix_seconds, rng)
    }

    /// The address was reached and said `Hello`. False if it waits for its place (see [`Addresses::collision_to_test`]).
    pub fn good(&mut self, address: &PeerAddress, now: Now) -> bool {
        self.table.good(address, now.unix_seconds)
    }

    /// The address is being dialled.
    pub fn attempt(&mut self, address: &PeerAddress, now: Now) {
        self.table.attempt(address, now.unix_seconds);
    }

    /// The address is there, and said so itself. To be called when a full connection ends, as Core does, or at `Hello`.
    pub fn connected(&mut self, address: &PeerAddress, services: u64, serves: (u32, u32), now: Now) {
        self.table.connected(address, services, serves, now.unix_seconds);
    }

    /// An address to dial.
    pub fn select(&self, new_only: bool, now: Now, rng: &mut StdRng) -> Option<Entry> {
        self.table.select(new_only, now.unix_seconds, rng)
    }

    /// Settles waiting entries, and names an address whose place one of them waits for: a feeler's best target.
    pub fn collision_to_test(&mut self, now: Now, rng: &mut StdRng) -> Option<PeerAddress> {
        self.table.resolve_collisions(now.unix_seconds);
        self.table.collision_to_test(rng)
    }

    /// The answer to a question for addresses; `None` is no answer at all: asked twice, too often, or by a peer that
    /// this node dialled (an answer would show what it knows to whoever it looks at).
    pub fn answer(
        &mut self,
        peer: &mut AddressPeer,
        link: Link,
        source: &PeerAddress,
        serves: Serves,
        now: Now,
        rng: &mut StdRng,
    ) -> Option<Vec<AddressRecord>> {
        match serves {
            Serves::Any => {
                if !link.is_inbound() || std::mem::replace(&mut peer.answered, true) {
                    return None;
                }
                Some(self.answer_any(group::kind(&source.host), now, rng))
            }
            Serves::Height(_) | Serves::Snapshot => {
                let early = |last: Duration| now.monotonic.saturating_sub(last) < SERVING_INTERVAL;
                if peer.served.is_some_and(early) {
                    return None;
                }
                peer.served = Some(now.monotonic);
                Some(self.answer_serving(serves, now))
            }
        }
    }

    fn answer_any(&mut self, kind: Kind, now: Now, rng: &mut StdRng) -> Vec<AddressRecord> {
        if let Some((until, answer)) = self.answers.get(&kind)
            && now.monotonic < *until
        {
            return answer.clone();
        }
        let share = self.share();
        let answer = self.table.sample(share, rng, |entry| !entry.terrible(now.unix_seconds));
        // An empty answer would stand for a day, and a young network would never grow.
        if !answer.is_empty() && self.len() > ANSWER_FLOOR {
            let hours = ANSWER_HOURS * 3_600 + rng.random_range(0..ANSWER_SPREAD_HOURS * 3_600);
            self.answers.insert(kind, (now.monotonic + Duration::from_secs(hours), answer.clone()));
        }
        answer
    }

    /// What one answer tells of the book, at most.
    fn share(&self) -> usize {
        (self.len() * ANSWER_PERCENT / 100).max(ANSWER_FLOOR).min(ADDRESSES_MAX as usize)
    }

    /// Whoever asks again hears the same all day, and not when exactly this node was linked to whom.
    fn answer_serving(&self, serves: Serves, now: Now) -> Vec<AddressRecord> {
        let unix = now.unix_seconds;
        let mut records = self.table.draw(self.share(), unix / DAY_SECONDS, |entry| {
            entry.can_serve(serves) && !entry.terrible(unix) && unix.saturating_sub(entry.time) < SERVING_SECONDS
        });
        records.iter_mut().for_each(|record| record.time -= record.time % SERVING_TIME_STEP);
        records
    }

    /// Peers to hand an address on to: two, the same for a day however often and by whom it is announced, so that
    /// repeating an announcement does not spread it further.
    pub fn relay_to(&self, address: &PeerAddress, peers: &[PeerId], now: Now) -> Vec<PeerId> {
        let key = self.table.key();
        // Each address has its own midnight.
        let shift = key.hash(Purpose::RelayDay, Some(address), &[]) % DAY_SECONDS;
        let day = (now.unix_seconds + shift) / DAY_SECONDS;
        let mut ranked: Vec<(u64, PeerId)> =
            peers.iter().map(|peer| (key.hash(Purpose::Relay, Some(address), &[day, peer.0]), *peer)).collect();
        ranked.sort_unstable();
        ranked.into_iter().take(RELAY_PEERS).map(|(_, peer)| peer).collect()
    }

    /// A number that says nothing about a group, but ranks groups in an order that nobody outside knows.
    pub fn keyed_group(&self, address: &PeerAddress) -> u64 {
        self.table.key().hash(Purpose::NewShare, None, &[Group::of(&address.host).0, u64::MAX])
    }
}

/// A record with a time that can be.
fn plausible(record: &AddressRecord, now: u64) -> AddressRecord {
    let mut record = *record;
    if record.time <= EARLIEST_SECONDS || u64::from(record.time) > now.saturating_add(FUTURE_SECONDS) {
        record.time = u32::try_from(now.saturating_sub(IMPLAUSIBLE_SECONDS)).unwrap_or(u32::MAX);
    }
    record
}
