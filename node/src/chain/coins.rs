//! The coins after the tip: a cache over the stored ones that takes every change first.
//!
//! - *Dirty*: differs from what is stored. *Fresh*: dirty, and not stored at all; a fresh coin that is spent just
//!   vanishes, so a coin born and spent between two flushes never touches the disk.
//! - In shards by the first bits of the txid, which is the store's order: each is a table of its own, so that growing
//!   moves and doubles one small part at a time, and a flush gathers and sorts them on all workers.
//! - Bounded in bytes: the tables grow with their coins, up to the largest size that fits the budget. Clean coins make
//!   room; dirty ones cannot, so the chain flushes before they fill it. Only a block whose own coins exceed the budget
//!   makes it grow further, until the next flush: a limit of the store must never become a rule of the network.
//! - Nothing here decides whether a block is valid: a spend of a coin that is not there is an error of its own type
//!   that only this node's fault can cause after the rules have passed (CVE-2018-17144 went the other way).

use super::hasher::KeyedState;
use super::recent::Change;
use crate::store::{Batch, Reader, StoreError, schema, schema::PutRows};
use rayon::prelude::*;
use setara_core::transaction::{Coin, OutPoint};
use std::collections::HashMap;
use std::mem::size_of;

/// A cached coin, or the memory that it is gone.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// `None`: spent, and the store does not know it yet.
    coin: Option<Coin>,
    dirty: bool,
    fresh: bool,
}

/// Bytes of a slot of a table: key, entry, and hashbrown's control byte.
const SLOT_BYTES: usize = size_of::<(OutPoint, Entry)>() + 1;
/// Bits of the txid that name the shard.
const SHARD_BITS: u32 = 6;
/// Shards.
const SHARDS: usize = 1 << SHARD_BITS;
/// Coins among so many slots. hashbrown fills at most seven of eight; the rest is for shards with more than their share,
/// which would double otherwise (four and a half standard deviations at a thousand slots each).
const fn entries_of(slots: usize) -> usize {
    slots / 4 * 3
}
/// Bytes of a stored coin's key and value, at most.
const COIN_ROW_BYTES: usize = 36 + 9 + 32 + 5 + 1;
/// Least slots of all tables together, whatever the budget.
const SLOTS_MIN: usize = 1 << 10;
/// Bytes of a change while it is written: of the sorted row, the batch and the store's copy of that, two are there at once.
const WRITTEN_BYTES: usize = 2 * (COIN_ROW_BYTES + 24);
/// Bytes of a change that the cache has not taken yet: in its block's delta, and in the table made of that for readers.
const WAITING_BYTES: usize = size_of::<(OutPoint, Coin)>() + 2 * SLOT_BYTES;
/// One part in so many of the entries may wait to be taken.
const WAITING_PARTS: usize = 4;
/// Parts of the entries that may be changes; a quarter stays for clean coins, without which every look-up would go to the disk.
const DIRTY_PARTS: (usize, usize) = (3, 4);

/// Slots of the largest table of at most `bytes`.
const fn slots_of(bytes: usize) -> usize {
    let fitting = bytes / SLOT_BYTES;
    let slots = if fitting.is_power_of_two() { fitting } else { fitting.next_power_of_two() / 2 };
    if slots > SLOTS_MIN { slots } else { SLOTS_MIN }
}

/// All that a table of so many slots can bring with it: itself, changes that wait, and their copies while they are written.
const fn cost_of(slots: usize) -> usize {
    let entries = entries_of(slots);
    let dirty = entries / DIRTY_PARTS.1 * DIRTY_PARTS.0;
    slots * SLOT_BYTES + dirty * WRITTEN_BYTES + entries / WAITING_PARTS * WAITING_BYTES
}

/// All that a cache can take that was given `bytes` for its table.
pub fn coin_cache_cost(bytes: u64) -> u64 {
    cost_of(slots_of(usize::try_from(bytes).unwrap_or(usize::MAX / 2))) as u64
}

/// Bytes of the largest table with which a cache keeps to `share`; of the smallest one if none does.
pub fn coin_table_within(share: u64) -> u64 {
    let share = usize::try_from(share).unwrap_or(usize::MAX / 2);
    let mut slots = slots_of(share);
    while slots > SLOTS_MIN && cost_of(slots) > share {
        slots /= 2;
    }
    (slots * SLOT_BYTES) as u64
}

/// Changed outpoints that a shard remembers one by one; past that, a flush walks all of it.
const CHANGED_MAX: usize = 1 << 10;

/// A change of coins that cannot follow from a valid block: this node's coins are wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoinFault {
    /// Spending what is not there.
    #[error("coin {0} is spent but does not exist")]
    Missing(OutPoint),
    /// Making what is there already.
    #[error("coin {0} is made but exists already")]
    Exists(OutPoint),
    /// The coin taken back is not the one that was made.
    #[error("coin {0} is not the one that its block made")]
    Differs(OutPoint),
}

/// The cache.
pub struct CoinCache {
    shards: Vec<Shard>,
    entries_max: usize,
    dirty: usize,
}

/// The coins whose txids begin alike.
struct Shard {
    table: HashMap<OutPoint, Entry, KeyedState>,
    /// Outpoints that became dirty, while there are few.
    changed: Vec<OutPoint>,
    changed_all: bool,
}

impl CoinCache {
    /// A cache of at most `bytes`, but with room for a small block in any case.
    pub fn new(bytes: usize, keys: KeyedState) -> Self {
        let shard = || Shard { table: HashMap::with_hasher(keys), changed: Vec::new(), changed_all: false };
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), entries_max: entries_of(slots_of(bytes)), dirty: 0 }
    }

    /// Coins that differ from the stored ones.
    pub const fn dirty(&self) -> usize {
        self.dirty
    }

    /// Whether `more` changes might not fit beside the dirty coins: time to flush.
    pub const fn is_full_for(&self, more: usize) -> bool {
        self.dirty + more > self.entries_max / DIRTY_PARTS.1 * DIRTY_PARTS.0
    }

    /// Whether `waiting` changes outside of it are as many as may be.
    pub const fn is_owed(&self, waiting: usize) -> bool {
        waiting > self.entries_max / WAITING_PARTS
    }

    /// Bytes of the entries that are there.
    pub fn bytes(&self) -> usize {
        self.len() * SLOT_BYTES
    }

    /// The coins of `outpoints`, in order; those not cached are read from `store` and kept at least until the next
    /// [`Self::make_room`].
    pub fn load(&mut self, store: &dyn Reader, outpoints: &[OutPoint]) -> Result<Vec<Option<Coin>>, StoreError> {
        let mut coins = Vec::with_capacity(outpoints.len());
        let mut missing = Vec::new();
        for (position, outpoint) in outpoints.iter().enumerate() {
            match self.shard(outpoint).table.get(outpoint) {
                Some(entry) => coins.push(entry.coin),
                None => {
                    coins.push(None);
                    missing.push((position, *outpoint));
                }
            }
        }
        if missing.is_empty() {
            return Ok(coins);
        }
        let wanted: Vec<OutPoint> = missing.iter().map(|(_, outpoint)| *outpoint).collect();
        let found = schema::coins(store, &wanted)?;
        for ((position, outpoint), coin) in missing.into_iter().zip(found) {
            coins[position] = coin;
            // An absent coin is not remembered: a block that asks for one is about to be refused.
            if coin.is_some() {
                self.shard(&outpoint).table.insert(outpoint, Entry { coin, dirty: false, fresh: false });
            }
        }
        Ok(coins)
    }

    /// Removes a coin that was loaded or made before.
    pub fn spend(&mut self, outpoint: &OutPoint, expected: &Coin) -> Result<(), CoinFault> {
        let shard = self.shard(outpoint);
        let entry = shard.table.get_mut(outpoint).ok_or(CoinFault::Missing(*outpoint))?;
        let coin = entry.coin.ok_or(CoinFault::Missing(*outpoint))?;
        if coin != *expected {
            return Err(CoinFault::Differs(*outpoint));
        }
        if entry.fresh {
            shard.table.remove(outpoint);
            self.dirty -= 1;
            return Ok(());
        }
        entry.coin = None;
        if !std::mem::replace(&mut entry.dirty, true) {
            shard.mark(*outpoint);
            self.dirty += 1;
        }
        Ok(())
    }

    /// Adds a coin. Ids are unique along a branch, so the store cannot hold it unless the cache says that it is gone.
    pub fn add(&mut self, outpoint: OutPoint, coin: Coin) -> Result<(), CoinFault> {
        let shard = self.shard(&outpoint);
        let was_dirty = match shard.table.get_mut(&outpoint) {
            Some(Entry { coin: Some(_), .. }) => return Err(CoinFault::Exists(outpoint)),
            Some(entry) => {
                // Gone but not yet from the store: it is not fresh.
                entry.coin = Some(coin);
                std::mem::replace(&mut entry.dirty, true)
            }
            None => {
                shard.table.insert(outpoint, Entry { coin: Some(coin), dirty: true, fresh: true });
                false
            }
        };
        if !was_dirty {
            shard.mark(outpoint);
            self.dirty += 1;
        }
        Ok(())
    }

    /// Takes one block's step: what goes out was loaded or made before.
    pub fn step(&mut self, change: &Change) -> Result<(), CoinFault> {
        let (out, into) = change.effects();
        for (outpoint, coin) in out {
            self.spend(outpoint, coin)?;
        }
        for (outpoint, coin) in into {
            self.add(*outpoint, *coin)?;
        }
        Ok(())
    }

    /// Where a coin is, or would be.
    fn shard(&mut self, outpoint: &OutPoint) -> &mut Shard {
        &mut self.shards[usize::from(outpoint.txid.as_bytes()[0] >> (u8::BITS - SHARD_BITS))]
    }

    /// Coins cached, and memories of those that are gone.
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.len()).sum()
    }

    /// Drops clean coins until `more` entries fit, as far as they do.
    pub fn make_room(&mut self, more: usize) {
        self.shrink();
        let Some(mut excess) = (self.len() + more).checked_sub(self.entries_max).filter(|excess| *excess > 0) else {
            return;
        };
        // Some more, so that the walk is rare. From all shards alike, and there in the table's order, which the secret of
        // the hasher makes arbitrary.
        excess += self.entries_max / 8;
        // What one shard lacks in clean coins the others make good in the second round.
        for _ in 0..2 {
            let share = excess.div_ceil(SHARDS);
            for shard in &mut self.shards {
                excess -= shard.drop_some(share.min(excess));
            }
        }
    }

    /// Gives back what tables took beyond their share: for a block beyond the budget, or because hashbrown doubles one whose
    /// free slots are used up by the gaps that deleting leaves.
    fn shrink(&mut self) {
        // As many as fit into the slots of a shard's share.
        let share = self.entries_max / 3 * 4 / SHARDS / 8 * 7;
        for shard in self.shards.iter_mut().filter(|shard| shard.table.capacity() > share) {
            shard.table.shrink_to(share);
        }
    }

    /// Drops every clean coin: the next look-up reads what is stored.
    pub fn drop_clean(&mut self) {
        for shard in &mut self.shards {
            shard.table.retain(|_, entry| entry.dirty);
        }
    }

    /// What a flipped bit of memory does.
    #[cfg(test)]
    pub fn tamper(&mut self, outpoint: &OutPoint, change: impl FnOnce(&mut Coin)) {
        let coin = self.shard(outpoint).table.get_mut(outpoint).and_then(|entry| entry.coin.as_mut());
        change(coin.expect("a test tampers with a coin that is cached"));
    }

    /// Every change, in key order, gathered on the current pool. They count as stored from here on: should the write fail,
    /// the chain stops for good and the cache with it.
    pub fn drain(&mut self) -> Batch {
        let parts: Vec<Batch> = self.shards.par_iter_mut().map(Shard::drain).collect();
        let mut batch = Batch::new();
        parts.into_iter().for_each(|part| batch.append(part));
        self.dirty = 0;
        if self.len() > self.entries_max {
            self.make_room(0);
        }
        self.shrink();
        batch
    }
}

impl Shard {
    fn mark(&mut self, outpoint: OutPoint) {
        if self.changed.len() < CHANGED_MAX {
            self.changed.push(outpoint);
        } else {
            self.changed_all = true;
        }
    }

    /// Drops so many clean coins, if there are; gives how many.
    fn drop_some(&mut self, count: usize) -> usize {
        let mut dropped = 0;
        if count > 0 {
            self.table.retain(|_, entry| {
                let keep = entry.dirty || dropped == count;
                dropped += usize::from(!keep);
                keep
            });
        }
        dropped
    }

    /// Every change, in key order.
    fn drain(&mut self) -> Batch {
        let mut rows: Vec<(OutPoint, Option<Coin>)> = Vec::with_capacity(self.changed.len());
        let mut settle = |outpoint: &OutPoint, entry: &mut Entry| {
            if std::mem::take(&mut entry.dirty) {
                entry.fresh = false;
                rows.push((*outpoint, entry.coin));
            }
            entry.coin.is_some()
        };
        if std::mem::take(&mut self.changed_all) {
            self.table.retain(settle);
        } else {
            for outpoint in &self.changed {
                let kept = self.table.get_mut(outpoint).is_none_or(|entry| settle(outpoint, entry));
                if !kept {
                    self.table.remove(outpoint);
                }
            }
        }
        self.changed.clear();
        // In key order the store's memory table is filled several times faster.
        rows.sort_unstable_by_key(|(outpoint, _)| *outpoint);
        let mut batch = Batch::new();
        batch.reserve(rows.len() * COIN_ROW_BYTES);
        for (outpoint, coin) in &rows {
            batch.put_coin(outpoint, coin.as_ref());
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Column, Durability, MemoryStore, Store};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use setara_core::address::Address;
    use setara_core::amount::Amount;
    use setara_core::hash::TxId;
    use setara_core::height::Height;
    use setara_core::transaction::Output;
    use std::collections::BTreeMap;

    fn outpoint(number: u16) -> OutPoint {
        let mut txid = [0; 32];
        // In many shards.
        txid[..2].copy_from_slice(&number.wrapping_mul(0x9e37).to_le_bytes());
        OutPoint::new(TxId::from_bytes(txid), 0)
    }

    fn coin(number: u16) -> Coin {
        let output = Output { amount: Amount::from_sen(u64::from(number) + 1), address: Address::ZERO };
        Coin { output, height: Height::new(1), from_coinbase: false }
    }

    fn flush(cache: &mut CoinCache, store: &MemoryStore) -> usize {
        let batch = cache.drain();
        let changes = batch.len();
        store.write(batch, Durability::Synced).unwrap();
        changes
    }

    #[test]
    fn a_coin_born_and_spent_between_flushes_never_touches_the_store() {
        let store = MemoryStore::new();
        let mut cache = CoinCache::new(0, KeyedState::new(1, 2));
        cache.add(outpoint(1), coin(1)).unwrap();
        cache.spend(&outpoint(1), &coin(1)).unwrap();
        assert_eq!(cache.dirty(), 0);
        assert_eq!(flush(&mut cache, &store), 0);
    }

    /// CS2: the cache refuses to spend what is missing or spent, and to make what exists.
    #[test]
    fn double_spends_and_overwrites_are_refused() {
        let store = MemoryStore::new();
        let mut cache = CoinCache::new(0, KeyedState::new(1, 2));
        cache.add(outpoint(1), coin(1)).unwrap();
        assert_eq!(cache.add(outpoint(1), coin(1)), Err(CoinFault::Exists(outpoint(1))));
        assert_eq!(cache.spend(&outpoint(1), &coin(2)), Err(CoinFault::Differs(outpoint(1))));
        flush(&mut cache, &store);
        cache.spend(&outpoint(1), &coin(1)).unwrap();
        assert_eq!(cache.spend(&outpoint(1), &coin(1)), Err(CoinFault::Missing(outpoint(1))));
        assert_eq!(cache.load(&store, &[outpoint(1)]), Ok(vec![None]));
    }

    /// However many coins pass through, and wherever their txids fall.
    #[test]
    fn memory_is_bounded_by_the_budget() {
        const BUDGET: usize = 8_000_000;
        let slots = |table: &HashMap<OutPoint, Entry, KeyedState>| match table.capacity() {
            0 => 0,
            capacity => (capacity * 8 / 7).next_power_of_two(),
        };
        let mut cache = CoinCache::new(BUDGET, KeyedState::new(1, 2));
        let mut random = StdRng::seed_from_u64(1);
        let mut most = 0;
        for _ in 0..200 {
            cache.make_room(1_000);
            for number in 0..1_000 {
                let outpoint = OutPoint::new(TxId::from_bytes(random.random()), 0);
                cache.add(outpoint, coin(number)).unwrap();
            }
            if cache.is_full_for(1_000) {
                cache.drain();
            }
            most = most.max(cache.shards.iter().map(|shard| slots(&shard.table) * SLOT_BYTES).sum());
        }
        assert!(most <= BUDGET && most > BUDGET / 3, "{most}");
        // A block beyond the budget is taken all the same, and what it took is given back once it is stored.
        for number in 0..u16::MAX {
            let outpoint = OutPoint::new(TxId::from_bytes(random.random()), 1);
            cache.add(outpoint, coin(number)).unwrap();
            cache.add(OutPoint::new(outpoint.txid, 2), coin(number)).unwrap();
        }
        let after =
            |cache: &CoinCache| cache.shards.iter().map(|shard| slots(&shard.table) * SLOT_BYTES).sum::<usize>();
        assert!(after(&cache) > BUDGET);
        cache.drain();
        assert!(after(&cache) <= BUDGET, "{}", after(&cache));
    }

    /// A table that is made for a share costs no more than that, and one twice as large would.
    #[test]
    fn a_table_fits_its_share() {
        for share in (1_000_000..4_000_000_000).step_by(123_456_789) {
            let table = coin_table_within(share);
            assert!(coin_cache_cost(table) <= share, "{share}");
            assert!(coin_cache_cost(2 * table) > share, "{share}");
            assert_eq!(coin_table_within(coin_cache_cost(table)), table);
        }
        assert_eq!(coin_table_within(0), (SLOTS_MIN * SLOT_BYTES) as u64);
    }

    /// What the cost of a change while it is written is made of.
    #[test]
    fn the_cost_of_writing_covers_rows_and_batch() {
        assert!(size_of::<(OutPoint, Option<Coin>)>() <= WRITTEN_BYTES / 2);
        let mut cache = CoinCache::new(0, KeyedState::new(1, 2));
        for number in 0..500 {
            cache.add(outpoint(number), coin(number)).unwrap();
        }
        let batch = cache.drain();
        assert!(batch.size() / batch.len() + 24 <= WRITTEN_BYTES / 2, "{} bytes", batch.size());
    }

    proptest! {
        /// Against a plain map: random adds, spends, loads, evictions and flushes, on both ways of finding the changes.
        #[test]
        fn agrees_with_a_plain_map(operations in proptest::collection::vec((0u8..5, 0u16..40), 1..200), all in any::<bool>()) {
            let store = MemoryStore::new();
            let mut cache = CoinCache::new(0, KeyedState::new(1, 2));
            let mut model: BTreeMap<OutPoint, Coin> = BTreeMap::new();
            for (operation, number) in operations {
                let key = outpoint(number);
                let loaded = cache.load(&store, &[key]).unwrap();
                prop_assert_eq!(loaded[0], model.get(&key).copied());
                match operation {
                    0 | 1 if loaded[0].is_none() => {
                        cache.add(key, coin(number)).unwrap();
                        model.insert(key, coin(number));
                    }
                    0..=2 if loaded[0].is_some() => {
                        cache.spend(&key, &coin(number)).unwrap();
                        model.remove(&key);
                    }
                    3 => {
                        cache.shards.iter_mut().for_each(|shard| shard.changed_all |= all);
                        flush(&mut cache, &store);
                        let stored: BTreeMap<OutPoint, Coin> = store
                            .rows(Column::Coins)
                            .into_iter()
                            .map(|(key, value)| {
                                let outpoint = schema::coin_outpoint(&key).unwrap();
                                (outpoint, schema::coin(&outpoint, &value).unwrap())
                            })
                            .collect();
                        prop_assert_eq!(&stored, &model);
                    }
                    4 => cache.make_room(usize::from(number) * 50),
                    _ => {}
                }
                let dirty = cache.shards.iter().flat_map(|shard| shard.table.values()).filter(|entry| entry.dirty).count();
                prop_assert_eq!(dirty, cache.dirty());
            }
        }
    }
}
