//! The directory: nodes that the seeder itself has reached, when, how often, and which of them it names.
//!
//! Nothing here is hearsay: what others say of an address is in the book of [`Addresses`], and only a `Hello` over a
//! connection to it brings an address here. Pure values: time is an argument, randomness is handed in, maps are ordered.
//!
//! [`Addresses`]: crate::p2p::brain::addresses::Addresses

use crate::chain::Now;
use crate::p2p::brain::addresses::group::{self, Group, Kind};
use crate::p2p::brain::addresses::saved::{Reader, SavedError, Writer};
use crate::p2p::limits::ADDRESSES_MAX;
use crate::p2p::message::{AddressRecord, PeerAddress, Serves, services};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;

/// Nodes kept: four of the longest answers, half a megabyte; all are looked at within one [`CHECK_INTERVAL`].
pub const NODES_MAX: usize = 4_096;
/// Nodes of one group (a /16, say): whoever has one group has a sixteenth of the directory at most.
pub const GROUP_MAX: usize = NODES_MAX / 16;
/// Time between two looks at a node: a connection every half hour costs it nothing.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// The same while few nodes are known: a young network changes by the minute, and so few cost little.
pub const CHECK_INTERVAL_YOUNG: Duration = Duration::from_secs(60);
/// With fewer good nodes than this the directory is young.
pub const YOUNG: usize = 64;
/// Time between two questions to one node for addresses: its answer stands for a day anyway, and a directory that is young
/// asks at every look.
const ASK_INTERVAL: Duration = Duration::from_secs(6 * 3_600);
/// A node is good when it was reached within these seconds, and not missed since.
const GOOD_SECONDS: u64 = 4 * 3_600;
/// Looks in a row that a node must have stood before it is named without need: more than an hour of being there.
const CHECKS_MIN: u32 = 3;
/// With fewer nodes than this that stood so many, those that were reached once are named as well: else a young network, or
/// a directory just begun, would say nothing.
const FEW: usize = 16;
/// A node that was not reached for so long is forgotten, if others were.
const FORGET_SECONDS: u64 = 24 * 3_600;
/// The share of the good nodes that an answer tells, in percent, as other nodes' answers do (AE8) ...
const ANSWER_PERCENT: usize = 23;
/// ... below which the share does not apply.
const ANSWER_FLOOR: usize = 16;
/// An answer is drawn from the newest, this many times as many as it tells.
const NEWEST_TIMES: usize = 2;
/// One group's share of an answer is one in so many, two nodes at the least.
const ANSWER_GROUP_SHARE: usize = 8;
/// An answer stands so long for all who come over one kind of network: asking often tells no more than asking once.
const ANSWER_STANDS: Duration = Duration::from_secs(600);
/// Names kind and version of the file.
const TAG: [u8; 8] = *b"SETASDR\x01";

/// A node that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Its services, as it said itself.
    pub services: u64,
    /// Heights of which it has bodies, as it said itself.
    pub serves: (u32, u32),
    /// When it was last reached: Unix seconds.
    pub last_good: u64,
    /// Looks in a row at which it was there.
    pub passed: u32,
    /// Looks in a row at which it was not.
    pub missed: u32,
    /// When to look again, monotonic; not saved.
    due: Duration,
    /// When it was last asked for addresses, monotonic; not saved.
    asked: Option<Duration>,
}

impl Checked {
    fn is_good(&self, now: u64) -> bool {
        self.missed == 0 && now.saturating_sub(self.last_good) < GOOD_SECONDS
    }
}

/// The directory.
pub struct Directory {
    allow_private: bool,
    nodes: BTreeMap<PeerAddress, Checked>,
    /// When anybody was last reached: a seeder that is itself cut off forgets nobody.
    last_good: u64,
    /// By the network that the asker came through: until when (monotonic), and what is said.
    answers: BTreeMap<Kind, (Duration, Vec<AddressRecord>)>,
}

impl Directory {
    /// Empty.
    pub const fn new(allow_private: bool) -> Self {
        Self { allow_private, nodes: BTreeMap::new(), last_good: 0, answers: BTreeMap::new() }
    }

    /// Nodes kept.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What is known of a node.
    pub fn get(&self, address: &PeerAddress) -> Option<&Checked> {
        self.nodes.get(address)
    }

    /// Nodes that are there, as far as is known.
    pub fn good(&self, now: Now) -> usize {
        self.nodes.values().filter(|node| node.is_good(now.unix_seconds)).count()
    }

    /// Time between two looks at a node.
    pub fn interval(&self, now: Now) -> Duration {
        if self.good(now) < YOUNG { CHECK_INTERVAL_YOUNG } else { CHECK_INTERVAL }
    }

    /// The node that has waited longest to be looked at, if one is due; it is due again only after an interval.
    pub fn take_due(&mut self, now: Now) -> Option<PeerAddress> {
        let interval = self.interval(now);
        let (address, node) = self.nodes.iter_mut().min_by_key(|(_, node)| node.due)?;
        if now.monotonic < node.due {
            return None;
        }
        node.due = now.monotonic + interval;
        Some(*address)
    }

    /// Whether a node that was just reached should be asked for addresses; if so, it counts as asked.
    pub fn asks(&mut self, address: &PeerAddress, now: Now) -> bool {
        let young = self.good(now) < YOUNG;
        let Some(node) = self.nodes.get_mut(address) else { return true };
        let early = |last: Duration| now.monotonic.saturating_sub(last) < ASK_INTERVAL;
        if !young && node.asked.is_some_and(early) {
            return false;
        }
        node.asked = Some(now.monotonic);
        true
    }

    /// A node was reached and said `Hello`; true if it is new here. One that serves no blocks is none to be named.
    pub fn reached(&mut self, address: &PeerAddress, bits: u64, serves: (u32, u32), now: Now) -> bool {
        self.last_good = now.unix_seconds;
        if bits & services::BLOCKS == 0 || !group::acceptable(address, self.allow_private) {
            self.nodes.remove(address);
            return false;
        }
        let due = now.monotonic + self.interval(now);
        if let Some(node) = self.nodes.get_mut(address) {
            (node.services, node.serves, node.last_good, node.due) = (bits, serves, now.unix_seconds, due);
            (node.passed, node.missed) = (node.passed.saturating_add(1), 0);
            return false;
        }
        if !self.make_room(address) {
            return false;
        }
        let last_good = now.unix_seconds;
        let node = Checked { services: bits, serves, last_good, passed: 1, missed: 0, due, asked: None };
        self.nodes.insert(*address, node);
        true
    }

    /// Whether there is room for one more; perhaps one that was missed gives way, in its own group if that is full.
    fn make_room(&mut self, address: &PeerAddress) -> bool {
        let mine = Group::of(&address.host);
        let lifted = self.allow_private && group::private(&address.host);
        let same = |other: &PeerAddress| Group::of(&other.host) == mine;
        let group_full = !lifted && self.nodes.keys().filter(|other| same(other)).count() >= GROUP_MAX;
        if !group_full && self.nodes.len() < NODES_MAX {
            return true;
        }
        let missed = self.nodes.iter().filter(|(other, node)| node.missed > 0 && (!group_full || same(other)));
        let worst = missed.min_by_key(|(_, node)| node.last_good).map(|(other, _)| *other);
        worst.is_some_and(|worst| self.nodes.remove(&worst).is_some())
    }

    /// A node was not reached.
    pub fn missed(&mut self, address: &PeerAddress, now: Now) {
        let last_good = self.last_good;
        let Some(node) = self.nodes.get_mut(address) else { return };
        (node.passed, node.missed) = (0, node.missed.saturating_add(1));
        let others = last_good.saturating_sub(node.last_good) >= FORGET_SECONDS;
        if others && now.unix_seconds.saturating_sub(node.last_good) >= FORGET_SECONDS {
            self.nodes.remove(address);
        }
    }

    /// What somebody who comes over this kind of network and asks for this is told.
    pub fn answer(&mut self, kind: Kind, serves: Serves, now: Now, rng: &mut StdRng) -> Vec<AddressRecord> {
        if serves != Serves::Any {
            return self.draw(serves, now, rng).1;
        }
        if let Some((until, answer)) = self.answers.get(&kind)
            && now.monotonic < *until
        {
            return answer.clone();
        }
        let (of, answer) = self.draw(serves, now, rng);
        // Where all are told anyway, an old answer would only keep new nodes back.
        if of > ANSWER_FLOOR {
            self.answers.insert(kind, (now.monotonic + ANSWER_STANDS, answer.clone()));
        }
        answer
    }

    /// An answer, and of how many it was drawn.
    fn draw(&self, serves: Serves, now: Now, rng: &mut StdRng) -> (usize, Vec<AddressRecord>) {
        let fits = |node: &Checked| match serves {
            Serves::Any => true,
            Serves::Height(height) => (node.serves.0..=node.serves.1).contains(&height),
            Serves::Snapshot => node.services & services::SNAPSHOTS != 0,
        };
        let good = self.nodes.iter().filter(|(_, node)| node.is_good(now.unix_seconds) && fits(node));
        let mut pool: Vec<(&PeerAddress, &Checked)> = good.collect();
        if pool.iter().filter(|(_, node)| node.passed >= CHECKS_MIN).count() >= FEW {
            pool.retain(|(_, node)| node.passed >= CHECKS_MIN);
        }
        let of = pool.len();
        let share = (of * ANSWER_PERCENT / 100).max(ANSWER_FLOOR).min(ADDRESSES_MAX as usize);
        pool.sort_by_key(|(_, node)| std::cmp::Reverse(node.last_good));
        pool.truncate(share * NEWEST_TIMES);
        let group_max = (share / ANSWER_GROUP_SHARE).max(2);
        let mut groups: BTreeMap<Group, usize> = BTreeMap::new();
        let mut answer = Vec::new();
        let drawn = pool.len();
        for index in 0..drawn {
            if answer.len() >= share {
                break;
            }
            pool.swap(index, rng.random_range(index..drawn));
            let (address, node) = pool[index];
            let count = groups.entry(Group::of(&address.host)).or_default();
            let lifted = self.allow_private && group::private(&address.host);
            if *count >= group_max && !lifted {
                continue;
            }
            *count += 1;
            let time = u32::try_from(node.last_good).unwrap_or(u32::MAX);
            answer.push(AddressRecord { address: *address, services: node.services, serves: node.serves, time });
        }
        (of, answer)
    }

    /// The file: `tag || count u32 || entries || CRC-32`, as the other files of the network.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = Writer::new(TAG);
        file.put(&(self.nodes.len() as u32).to_le_bytes());
        for (address, node) in &self.nodes {
            file.address(address);
            file.put(&node.services.to_le_bytes());
            file.put(&node.serves.0.to_le_bytes());
            file.put(&node.serves.1.to_le_bytes());
            file.put(&node.last_good.to_le_bytes());
            file.put(&node.passed.to_le_bytes());
            file.put(&node.missed.to_le_bytes());
        }
        file.finish()
    }

    /// Reads the file; all in it are due at once.
    pub fn from_bytes(bytes: &[u8], allow_private: bool) -> Result<Self, SavedError> {
        let mut file = Reader::new(TAG, bytes)?;
        let mut directory = Self::new(allow_private);
        let count = file.u32()?;
        if count as usize > NODES_MAX {
            return Err(SavedError::Contents("too many nodes"));
        }
        for _ in 0..count {
            let address = file.address()?;
            let (bits, serves) = (file.u64()?, (file.u32()?, file.u32()?));
            let (last_good, passed, missed) = (file.u64()?, file.u32()?, file.u32()?);
            let due = Duration::ZERO;
            let node = Checked { services: bits, serves, last_good, passed, missed, due, asked: None };
            // Another run may have allowed private addresses.
            if !group::acceptable(&address, allow_private) {
                continue;
            }
            if directory.nodes.insert(address, node).is_some() {
                return Err(SavedError::Contents("address twice"));
            }
            directory.last_good = directory.last_good.max(last_good);
        }
        file.finish()?;
        Ok(directory)
    }
}
