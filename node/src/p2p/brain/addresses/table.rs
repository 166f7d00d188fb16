//! The two tables: addresses heard of (new) and addresses once reached (tried), after Bitcoin Core's `addrman`.
//!
//! ```text
//!                 add                     good                        slot taken
//!  gossip ───────────────► new 1024 × 64 ────────► tried 256 × 64  ◄───────────► collisions (≤ 10): the old entry
//!   bucket by (group,      ▲                        bucket by (address of        is dialled first, and replaced
//!   source's group)        └── replaced in tried ◄─ group, 8 of them)            only when it is gone
//! ```
//!
//! Slots follow from a secret key, so nobody can aim at one; a source group reaches 64 new buckets, a group 8 tried
//! ones, so whoever has few groups fills few buckets (Heilman et al. 2015), and selection is uniform over buckets.

use super::group::Group;
use crate::p2p::message::{AddressRecord, NetAddress, PeerAddress, Serves, services};
use rand::RngExt;
use rand::rngs::StdRng;
use siphasher::sip::SipHasher24;
use std::collections::BTreeMap;
use std::hash::Hasher;

/// Buckets of addresses heard of.
pub const NEW_BUCKETS: usize = 1_024;
/// Buckets of addresses once reached.
pub const TRIED_BUCKETS: usize = 256;
/// Slots of a bucket.
pub const BUCKET_SLOTS: usize = 64;
/// New buckets that addresses from one source group reach.
const NEW_BUCKETS_PER_SOURCE: u64 = 64;
/// Tried buckets that addresses of one group reach.
const TRIED_BUCKETS_PER_GROUP: u64 = 8;
/// Slots of the new table that one address may hold.
pub const NEW_REFERENCES_MAX: u8 = 8;
/// Entries waiting for a tried slot that is taken.
const COLLISIONS_MAX: usize = 10;
/// Seconds after which a waiting entry takes the slot, though the old one was not tested.
const COLLISION_TEST_SECONDS: u64 = 40 * 60;
/// An old entry reached within these seconds keeps its slot.
const REPLACEMENT_SECONDS: u64 = 4 * 3_600;
/// A dial may take so long: until then it has neither failed nor succeeded.
const DIAL_SECONDS: u64 = 60;
/// Not seen for so long, an address is worth nothing.
const HORIZON_SECONDS: u64 = 30 * DAY_SECONDS;
/// Failures after which an address that never answered is worth nothing.
const RETRIES: u32 = 3;
/// Failures after which an address that once answered is worth nothing ...
const FAILURES_MAX: u32 = 10;
/// ... if the last answer is older than this.
const FAILURES_SECONDS: u64 = 7 * DAY_SECONDS;
/// A time further ahead than this is a lie.
pub const FUTURE_SECONDS: u64 = 10 * 60;
/// Within so many seconds after a try, an address is unlikely to be tried again.
const RECENT_TRY_SECONDS: u64 = 10 * 60;
/// An address seen within a day is online, and its time is kept to the hour; that of others to the day.
const ONLINE_SECONDS: u64 = DAY_SECONDS;
/// A connected peer's time is kept to this: more would reveal when connections begin and end.
const CONNECTED_SECONDS: u64 = 20 * 60;
/// Rounds of a selection: the chance rises by a fifth each round and is certain after 44.
const SELECT_ROUNDS: u32 = 64;
/// One, in the fixed point of chances.
const CERTAIN: u64 = 1 << 20;
/// Seconds of a day.
pub const DAY_SECONDS: u64 = 86_400;

/// The secret under which everything is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(pub u64, pub u64);

/// What a hash is for: each use is its own function.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Purpose {
    TriedBucket = 0,
    TriedShare = 1,
    NewBucket = 2,
    NewShare = 3,
    TriedSlot = 4,
    NewSlot = 5,
    Relay = 6,
    RelayDay = 7,
    Serving = 8,
}

impl Key {
    pub(super) fn hash(self, purpose: Purpose, address: Option<&PeerAddress>, numbers: &[u64]) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.0, self.1);
        hasher.write_u8(purpose as u8);
        for number in numbers {
            hasher.write(&number.to_le_bytes());
        }
        if let Some(PeerAddress { host, port }) = address {
            match host {
                NetAddress::V4(address) => hasher.write(&address.octets()),
                NetAddress::V6(address) => hasher.write(&address.octets()),
                NetAddress::Onion(key) => hasher.write(key),
            }
            hasher.write(&port.to_le_bytes());
        }
        hasher.finish()
    }
}

/// What is known of an address. Times are Unix seconds, 0 for never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub address: PeerAddress,
    /// Its services, as somebody said.
    pub services: u64,
    /// Heights of which it has bodies, as somebody said.
    pub serves: (u32, u32),
    /// When it was last there, as somebody said.
    pub time: u64,
    /// The group of whoever named it first.
    pub source: Group,
    /// When it was last dialled; not saved.
    pub last_try: u64,
    /// When a failure was last counted; not saved.
    last_counted: u64,
    /// When it was last reached.
    pub last_success: u64,
    /// Failures since.
    pub attempts: u32,
    /// Whether it is in the tried table; else in the new one.
    pub tried: bool,
    /// Slots it holds in the new table.
    references: u8,
    /// Where it stands in the list that random answers are drawn from.
    place: usize,
}

impl Entry {
    /// Whether it serves something, as somebody said.
    pub fn can_serve(&self, what: Serves) -> bool {
        match what {
            Serves::Any => true,
            Serves::Height(height) => {
                self.services & services::BLOCKS != 0 && (self.serves.0..=self.serves.1).contains(&height)
            }
            Serves::Snapshot => self.services & services::SNAPSHOTS != 0,
        }
    }

    pub(super) const fn new(address: PeerAddress, source: Group) -> Self {
        Self {
            address,
            services: 0,
            serves: (0, 0),
            time: 0,
            source,
            last_try: 0,
            last_counted: 0,
            last_success: 0,
            attempts: 0,
            tried: false,
            references: 0,
            place: 0,
        }
    }

    /// Whether it is worth neither a slot nor a word.
    pub fn terrible(&self, now: u64) -> bool {
        let since = |time: u64| now.saturating_sub(time);
        if self.last_try != 0 && since(self.last_try) <= DIAL_SECONDS {
            return false;
        }
        self.time > now.saturating_add(FUTURE_SECONDS)
            || since(self.time) > HORIZON_SECONDS
            || self.last_success == 0 && self.attempts >= RETRIES
            || since(self.last_success) > FAILURES_SECONDS && self.attempts >= FAILURES_MAX
    }

    /// How likely it is to be chosen when it was drawn, in parts of [`CERTAIN`].
    fn chance(&self, now: u64) -> u64 {
        let mut chance = CERTAIN;
        if self.last_try != 0 && now.saturating_sub(self.last_try) < RECENT_TRY_SECONDS {
            chance /= 100;
        }
        for _ in 0..self.attempts.min(8) {
            chance = chance * 66 / 100;
        }
        chance
    }

    /// As it travels.
    pub fn record(&self) -> AddressRecord {
        let time = u32::try_from(self.time).unwrap_or(u32::MAX);
        AddressRecord { address: self.address, services: self.services, serves: self.serves, time }
    }
}

/// Buckets of slots, which hold ids; 0 for none. Knows which buckets have any, since it is asked far more often than
/// changed.
struct Slots {
    ids: Vec<u64>,
    /// Ids in each bucket.
    filled: Vec<usize>,
    /// Buckets that have any, ascending.
    occupied: Vec<usize>,
}

impl Slots {
    fn new(buckets: usize) -> Self {
        Self { ids: vec![0; buckets * BUCKET_SLOTS], filled: vec![0; buckets], occupied: Vec::new() }
    }

    /// Puts an id, or 0, into a slot; what was there.
    fn put(&mut self, slot: usize, id: u64) -> u64 {
        let old = std::mem::replace(&mut self.ids[slot], id);
        let bucket = slot / BUCKET_SLOTS;
        let before = self.filled[bucket];
        let after = before + usize::from(id != 0) - usize::from(old != 0);
        self.filled[bucket] = after;
        match (self.occupied.binary_search(&bucket), after) {
            (Ok(at), 0) => drop(self.occupied.remove(at)),
            (Err(at), 1..) => self.occupied.insert(at, bucket),
            _ => {}
        }
        old
    }
}

/// The tables. Slots hold ids, 0 for none; ids are never reused (CVE-2024-52919 was a 32-bit id that wrapped).
pub struct Table {
    key: Key,
    entries: BTreeMap<u64, Entry>,
    ids: BTreeMap<PeerAddress, u64>,
    next_id: u64,
    order: Vec<u64>,
    new: Slots,
    tried: Slots,
    /// Waiting for a slot of the tried table.
    collisions: Vec<u64>,
    /// When anything was last reached: failures count only while the network works.
    last_good: u64,
}

impl Table {
    /// Empty.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            entries: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 1,
            order: Vec::new(),
            new: Slots::new(NEW_BUCKETS),
            tried: Slots::new(TRIED_BUCKETS),
            collisions: Vec::new(),
            last_good: 1,
        }
    }

    /// The secret.
    pub const fn key(&self) -> Key {
        self.key
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// All entries, by id.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// What is known of an address.
    pub fn get(&self, address: &PeerAddress) -> Option<&Entry> {
        self.entries.get(self.ids.get(address)?)
    }

    pub(super) fn tried_slot(&self, address: &PeerAddress) -> usize {
        let share = self.key.hash(Purpose::TriedShare, Some(address), &[]) % TRIED_BUCKETS_PER_GROUP;
        let group = Group::of(&address.host);
        let bucket = self.key.hash(Purpose::TriedBucket, None, &[group.0, share]) % TRIED_BUCKETS as u64;
        let slot = self.key.hash(Purpose::TriedSlot, Some(address), &[bucket]) % BUCKET_SLOTS as u64;
        bucket as usize * BUCKET_SLOTS + slot as usize
    }

    fn new_bucket(&self, address: &PeerAddress, source: Group) -> usize {
        let group = Group::of(&address.host);
        let share = self.key.hash(Purpose::NewShare, None, &[group.0, source.0]) % NEW_BUCKETS_PER_SOURCE;
        (self.key.hash(Purpose::NewBucket, None, &[source.0, share]) % NEW_BUCKETS as u64) as usize
    }

    fn new_slot(&self, address: &PeerAddress, bucket: usize) -> usize {
        let slot = self.key.hash(Purpose::NewSlot, Some(address), &[bucket as u64]) % BUCKET_SLOTS as u64;
        bucket * BUCKET_SLOTS + slot as usize
    }

    fn insert(&mut self, mut entry: Entry) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        entry.place = self.order.len();
        self.order.push(id);
        self.ids.insert(entry.address, id);
        self.entries.insert(id, entry);
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.ids.remove(&entry.address);
        self.order.swap_remove(entry.place);
        if let Some(moved) = self.order.get(entry.place).and_then(|moved| self.entries.get_mut(moved)) {
            moved.place = entry.place;
        }
        self.collisions.retain(|waiting| *waiting != id);
    }

    /// Empties a slot of the new table; an entry without slots is forgotten.
    fn clear_new(&mut self, slot: usize) {
        let id = self.new.put(slot, 0);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.references -= 1;
        if entry.references == 0 && !entry.tried {
            self.remove(id);
        }
    }

    /// Takes a record (its time already made plausible and older by the caller's distrust). True if it holds a new slot.
    pub fn add(&mut self, record: &AddressRecord, source: Group, penalty: u64, now: u64, rng: &mut StdRng) -> bool {
        let address = record.address;
        let time = u64::from(record.time).saturating_sub(penalty);
        let id = match self.ids.get(&address) {
            Some(id) => {
                let id = *id;
                let entry = self.entries.get_mut(&id).expect("ids name entries");
                let online = now.saturating_sub(u64::from(record.time)) < ONLINE_SECONDS;
                let interval = if online { 3_600 } else { DAY_SECONDS };
                let newer = time > entry.time;
                if entry.time.saturating_add(interval) < time {
                    entry.time = time;
                }
                if entry.tried || !newer {
                    return false;
                }
                // Of an address never reached, the latest word counts; of others, what they said themselves.
                entry.services |= record.services;
                entry.serves = record.serves;
                if entry.references == NEW_REFERENCES_MAX {
                    return false;
                }
                // Each further slot is half as likely as the one before.
                if rng.random_range(0..1u32 << entry.references) != 0 {
                    return false;
                }
                id
            }
            None => {
                let mut entry = Entry::new(address, source);
                (entry.services, entry.serves, entry.time) = (record.services, record.serves, time);
                self.insert(entry)
            }
        };
        self.place_new(id, &address, source, now)
    }

    fn place_new(&mut self, id: u64, address: &PeerAddress, source: Group, now: u64) -> bool {
        let slot = self.new_slot(address, self.new_bucket(address, source));
        let holder = self.new.ids[slot];
        if holder == id {
            return false;
        }
        let references = self.entries.get(&id).map_or(0, |entry| entry.references);
        let free = self
            .entries
            .get(&holder)
            .is_none_or(|other| other.terrible(now) || other.references > 1 && references == 0);
        if free {
            self.clear_new(slot);
            self.new.put(slot, id);
            self.entries.get_mut(&id).expect("just added or found").references += 1;
        } else if references == 0 {
            self.remove(id);
        }
        free
    }

    /// New buckets that an entry is in. A thousand hashes: for the rare cases that need it.
    pub(super) fn new_buckets_of(&self, id: u64, entry: &Entry) -> Vec<usize> {
        let mut buckets = Vec::new();
        for bucket in 0..NEW_BUCKETS {
            if buckets.len() == usize::from(entry.references) {
                break;
            }
            if self.new.ids[self.new_slot(&entry.address, bucket)] == id {
                buckets.push(bucket);
            }
        }
        buckets
    }

    /// Puts back a saved entry; what two entries claim alike is refused.
    pub(super) fn restore(&mut self, mut entry: Entry, buckets: &[usize]) -> Result<(), &'static str> {
        if self.ids.contains_key(&entry.address) {
            return Err("address twice");
        }
        let address = entry.address;
        entry.references = buckets.len() as u8;
        let tried = entry.tried;
        let id = self.insert(entry);
        if tried {
            let slot = self.tried_slot(&address);
            if self.tried.ids[slot] != 0 {
                return Err("tried slot twice");
            }
            self.tried.put(slot, id);
        }
        for bucket in buckets {
            let slot = self.new_slot(&address, *bucket);
            if self.new.ids[slot] != 0 {
                return Err("new slot twice");
            }
            self.new.put(slot, id);
        }
        Ok(())
    }

    /// The address was reached. False if it has to wait for its slot of the tried table.
    pub fn good(&mut self, address: &PeerAddress, now: u64) -> bool {
        self.last_good = now;
        let Some(id) = self.ids.get(address).copied() else { return false };
        let entry = self.entries.get_mut(&id).expect("ids name entries");
        (entry.last_success, entry.last_try, entry.attempts) = (now, now, 0);
        if entry.tried {
            return true;
        }
        let slot = self.tried_slot(address);
        if self.tried.ids[slot] != 0 {
            if self.collisions.len() < COLLISIONS_MAX && !self.collisions.contains(&id) {
                self.collisions.push(id);
            }
            return false;
        }
        self.make_tried(id, slot);
        true
    }

    fn make_tried(&mut self, id: u64, slot: usize) {
        let entry = self.entries.get_mut(&id).expect("the caller found it");
        // Before its slots go, or it would be forgotten with the last of them.
        entry.tried = true;
        let entry = entry.clone();
        for bucket in self.new_buckets_of(id, &entry) {
            self.clear_new(self.new_slot(&entry.address, bucket));
        }
        self.collisions.retain(|waiting| *waiting != id);
        let old = self.tried.put(slot, id);
        if let Some(entry) = self.entries.get_mut(&old) {
            entry.tried = false;
            let (address, source) = (entry.address, entry.source);
            let new = self.new_slot(&address, self.new_bucket(&address, source));
            // It was good once, whatever stands there was not.
            self.clear_new(new);
            self.new.put(new, old);
            self.entries.get_mut(&old).expect("found above").references = 1;
        }
    }

    /// The address is dialled. Failures count only if something else was reached since the last one: a node that is
    /// itself cut off must not forget everybody.
    pub fn attempt(&mut self, address: &PeerAddress, now: u64) {
        let last_good = self.last_good;
        let Some(entry) = self.ids.get(address).and_then(|id| self.entries.get_mut(id)) else { return };
        entry.last_try = now;
        if entry.last_counted < last_good {
            entry.last_counted = now;
            entry.attempts = entry.attempts.saturating_add(1);
        }
    }

    /// The address is there now.
    pub fn connected(&mut self, address: &PeerAddress, services: u64, serves: (u32, u32), now: u64) {
        let Some(entry) = self.ids.get(address).and_then(|id| self.entries.get_mut(id)) else { return };
        (entry.services, entry.serves) = (services, serves);
        if now.saturating_sub(entry.time) > CONNECTED_SECONDS {
            entry.time = now;
        }
    }

    /// Settles what waits for slots of the tried table, as far as it can be.
    pub fn resolve_collisions(&mut self, now: u64) {
        for id in self.collisions.clone() {
            let Some(entry) = self.entries.get(&id) else { continue };
            let (address, reached) = (entry.address, entry.last_success);
            let old = self.entries.get(&self.tried.ids[self.tried_slot(&address)]);
            let since = |time: u64| now.saturating_sub(time);
            let takes = match old {
                None => true,
                Some(old) if since(old.last_success) < REPLACEMENT_SECONDS => {
                    self.collisions.retain(|waiting| *waiting != id);
                    continue;
                }
                Some(old) if since(old.last_try) < REPLACEMENT_SECONDS => since(old.last_try) > DIAL_SECONDS,
                Some(_) => since(reached) > COLLISION_TEST_SECONDS,
            };
            if takes {
                self.make_tried(id, self.tried_slot(&address));
            }
        }
    }

    /// An old entry of the tried table whose slot another waits for: to be dialled.
    pub fn collision_to_test(&self, rng: &mut StdRng) -> Option<PeerAddress> {
        if self.collisions.is_empty() {
            return None;
        }
        let waiting = self.entries.get(&self.collisions[rng.random_range(0..self.collisions.len())])?;
        self.entries.get(&self.tried.ids[self.tried_slot(&waiting.address)]).map(|old| old.address)
    }

    /// An address to dial: of both tables with equal chance, then of any bucket that is not empty, then of any slot.
    pub fn select(&self, new_only: bool, now: u64, rng: &mut StdRng) -> Option<Entry> {
        let (new, tried) = (&self.new.occupied, &self.tried.occupied);
        let mut factor = CERTAIN;
        for _ in 0..SELECT_ROUNDS {
            let from_tried = !new_only && !tried.is_empty() && (new.is_empty() || rng.random_range(0..2u32) == 0);
            let (slots, buckets) = if from_tried { (&self.tried, tried) } else { (&self.new, new) };
            if buckets.is_empty() {
                return None;
            }
            let first = buckets[rng.random_range(0..buckets.len())] * BUCKET_SLOTS;
            let filled: Vec<u64> =
                slots.ids[first..first + BUCKET_SLOTS].iter().copied().filter(|id| *id != 0).collect();
            let entry = self.entries.get(&filled[rng.random_range(0..filled.len())]).expect("slots name entries");
            let chance = u128::from(entry.chance(now)) * u128::from(factor) / u128::from(CERTAIN);
            if u128::from(rng.random_range(0..CERTAIN)) < chance {
                return Some(entry.clone());
            }
            factor = factor.saturating_add(factor / 5);
        }
        None
    }

    /// Up to `max` entries for which `wanted` holds, in random order.
    pub fn sample(&self, max: usize, rng: &mut StdRng, wanted: impl Fn(&Entry) -> bool) -> Vec<AddressRecord> {
        let mut order = self.order.clone();
        let mut records = Vec::new();
        let count = order.len();
        for index in 0..count {
            if records.len() >= max {
                break;
            }
            order.swap(index, rng.random_range(index..count));
            let entry = self.entries.get(&order[index]).expect("the list names entries");
            if wanted(entry) {
                records.push(entry.record());
            }
        }
        records
    }

    /// Up to `max` entries for which `wanted` holds: the same as long as the number is the same, in an order that nobody
    /// outside knows.
    pub fn draw(&self, max: usize, number: u64, wanted: impl Fn(&Entry) -> bool) -> Vec<AddressRecord> {
        let rank = |entry: &&Entry| self.key.hash(Purpose::Serving, Some(&entry.address), &[number]);
        let mut fitting: Vec<&Entry> = self.entries.values().filter(|entry| wanted(entry)).collect();
        fitting.sort_by_cached_key(rank);
        fitting.into_iter().take(max).map(Entry::record).collect()
    }

    /// Slots of the new table that hold addresses for which `counts` is true.
    #[cfg(test)]
    pub(super) fn new_slots(&self, counts: impl Fn(&Entry) -> bool) -> usize {
        self.new.ids.iter().filter_map(|id| self.entries.get(id)).filter(|entry| counts(entry)).count()
    }

    /// Slots and entries agree: for tests.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.entries.len(), self.order.len());
        assert_eq!(self.entries.len(), self.ids.len());
        for (id, entry) in &self.entries {
            assert_eq!(self.order[entry.place], *id);
            assert_eq!(self.ids[&entry.address], *id);
            let held = self.tried.ids.iter().filter(|slot| *slot == id).count();
            assert_eq!(held, usize::from(entry.tried));
            assert_eq!(entry.tried, entry.references == 0);
            assert!(entry.references <= NEW_REFERENCES_MAX);
            assert_eq!(self.new_buckets_of(*id, entry).len(), usize::from(entry.references));
        }
        assert!(self.collisions.len() <= COLLISIONS_MAX);
        assert!(self.collisions.iter().all(|id| !self.entries[id].tried));
    }
}
