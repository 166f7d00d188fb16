//! The coins after the tip: a cache over the stored ones that takes every change first.
//!
//! - *Dirty*: differs from what is stored. *Fresh*: dirty, and not stored at all; a fresh coin that is spent just
//!   vanishes, so a coin born and spent between two flushes never touches the disk.
//! - Bounded in bytes: the table is allocated once, at the largest size that fits the budget. Clean coins make room;
//!   dirty ones cannot, so the chain flushes before they fill it. Only a block whose own coins exceed the budget makes
//!   it grow, until the next flush: a limit of the store must never become a rule of the network.
//! - Nothing here decides whether a block is valid: a spend of a coin that is not there is an error of its own type
//!   that only this node's fault can cause after the rules have passed (CVE-2018-17144 went the other way).

use super::hasher::KeyedState;
use super::recent::Change;
use crate::store::{Batch, Reader, StoreError, schema, schema::PutRows};
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

/// Bytes of a slot of the table: key, entry, and hashbrown's control byte.
const SLOT_BYTES: usize = size_of::<(OutPoint, Entry)>() + 1;
/// hashbrown fills at most seven of eight slots.
const fn entries_of(slots: usize) -> usize {
    slots / 8 * 7
}
/// Bytes of a stored coin's key and value, at most.
const COIN_ROW_BYTES: usize = 36 + 9 + 32 + 5 + 1;
/// Least table, whatever the budget.
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
/// Changed outpoints remembered one by one; past that, a flush walks the whole table.
const CHANGED_MAX: usize = 1 << 16;

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
    table: HashMap<OutPoint, Entry, KeyedState>,
    entries_max: usize,
    dirty: usize,
    /// Outpoints that became dirty, while there are few.
    changed: Vec<OutPoint>,
    changed_all: bool,
}

impl CoinCache {
    /// A cache of at most `bytes`, but with room for a small block in any case.
    pub fn new(bytes: usize, keys: KeyedState) -> Self {
        let entries_max = entries_of(slots_of(bytes));
        Self {
            table: HashMap::with_capacity_and_hasher(entries_max, keys),
            entries_max,
            dirty: 0,
            changed: Vec::new(),
            changed_all: false,
        }
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
        self.table.len() * SLOT_BYTES
    }

    /// The coins of `outpoints`, in order; those not cached are read from `store` and kept at least until the next
    /// [`Self::make_room`].
    pub fn load(&mut self, store: &dyn Reader, outpoints: &[OutPoint]) -> Result<Vec<Option<Coin>>, StoreError> {
        let mut coins = Vec::with_capacity(outpoints.len());
        let mut missing = Vec::new();
        for (position, outpoint) in outpoints.iter().enumerate() {
            match self.table.get(outpoint) {
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
                self.table.insert(outpoint, Entry { coin, dirty: false, fresh: false });
            }
        }
        Ok(coins)
    }

    /// Removes a coin that was loaded or made before.
    pub fn spend(&mut self, outpoint: &OutPoint, expected: &Coin) -> Result<(), CoinFault> {
        let entry = self.table.get_mut(outpoint).ok_or(CoinFault::Missing(*outpoint))?;
        let coin = entry.coin.ok_or(CoinFault::Missing(*outpoint))?;
        if coin != *expected {
            return Err(CoinFault::Differs(*outpoint));
        }
        if entry.fresh {
            self.table.remove(outpoint);
            self.dirty -= 1;
            return Ok(());
        }
        entry.coin = None;
        if !entry.dirty {
            entry.dirty = true;
            self.mark(*outpoint);
        }
        Ok(())
    }

    /// Adds a coin. Ids are unique along a branch, so the store cannot hold it unless the cache says that it is gone.
    pub fn add(&mut self, outpoint: OutPoint, coin: Coin) -> Result<(), CoinFault> {
        match self.table.get_mut(&outpoint) {
            Some(Entry { coin: Some(_), .. }) => return Err(CoinFault::Exists(outpoint)),
            Some(entry) => {
                // Gone but not yet from the store: it is not fresh.
                entry.coin = Some(coin);
                if !entry.dirty {
                    entry.dirty = true;
                    self.mark(outpoint);
                }
            }
            None => {
                self.table.insert(outpoint, Entry { coin: Some(coin), dirty: true, fresh: true });
                self.mark(outpoint);
            }
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

    fn mark(&mut self, outpoint: OutPoint) {
        self.dirty += 1;
        if self.changed.len() < CHANGED_MAX {
            self.changed.push(outpoint);
        } else {
            self.changed_all = true;
        }
    }

    /// Drops clean coins until `more` entries fit, as far as they do.
    pub fn make_room(&mut self, more: usize) {
        let Some(mut excess) = (self.table.len() + more).checked_sub(self.entries_max).filter(|excess| *excess > 0)
        else {
            return;
        };
        // Some more, so that the walk is rare. In table order, which the secret of the hasher makes arbitrary.
        excess += self.entries_max / 8;
        self.table.retain(|_, entry| {
            let keep = entry.dirty || excess == 0;
            if !keep {
                excess -= 1;
            }
            keep
        });
    }

    /// Drops every clean coin: the next look-up reads what is stored.
    pub fn drop_clean(&mut self) {
        self.table.retain(|_, entry| entry.dirty);
    }

    /// What a flipped bit of memory does.
    #[cfg(test)]
    pub fn tamper(&mut self, outpoint: &OutPoint, change: impl FnOnce(&mut Coin)) {
        let coin = self.table.get_mut(outpoint).and_then(|entry| entry.coin.as_mut());
        change(coin.expect("a test tampers with a coin that is cached"));
    }

    /// Puts every change into `batch`, in key order, and holds them for stored from here on: should the write fail, the
    /// chain stops for good and the cache with it.
    pub fn drain(&mut self, batch: &mut Batch) {
        let mut rows: Vec<(OutPoint, Option<Coin>)> = Vec::with_capacity(self.dirty);
        let mut settle = |outpoint: &OutPoint, entry: &mut Entry| {
            if std::mem::take(&mut entry.dirty) {
                entry.fresh = false;
                rows.push((*outpoint, entry.coin));
            }
            entry.coin.is_some()
        };
        if self.changed_all {
            self.table.retain(settle);
        } else {
            for outpoint in &self.changed {
                let kept = self.table.get_mut(outpoint).is_none_or(|entry| settle(outpoint, entry));
                if !kept {
                    self.table.remove(outpoint);
                }
            }
        }
        // In key order the store's memory table is filled several times faster.
        rows.sort_unstable_by_key(|(outpoint, _)| *outpoint);
        batch.reserve(rows.len() * COIN_ROW_BYTES);
        for (outpoint, coin) in &rows {
            batch.put_coin(outpoint, coin.as_ref());
        }
        self.changed.clear();
        self.changed_all = false;
        self.dirty = 0;
        if self.table.len() > self.entries_max {
            self.make_room(0);
            self.table.shrink_to(self.entries_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Column, Durability, MemoryStore, Store};
    use proptest::prelude::*;
    use setara_core::address::Address;
    use setara_core::amount::Amount;
    use setara_core::hash::TxId;
    use setara_core::height::Height;
    use setara_core::transaction::Output;
    use std::collections::BTreeMap;

    fn outpoint(number: u16) -> OutPoint {
        let mut txid = [0; 32];
        txid[..2].copy_from_slice(&number.to_le_bytes());
        OutPoint::new(TxId::from_bytes(txid), 0)
    }

    fn coin(number: u16) -> Coin {
        let output = Output { amount: Amount::from_sen(u64::from(number) + 1), address: Address::ZERO };
        Coin { output, height: Height::new(1), from_coinbase: false }
    }

    fn flush(cache: &mut CoinCache, store: &MemoryStore) -> usize {
        let mut batch = Batch::new();
        cache.drain(&mut batch);
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

    #[test]
    fn memory_is_bounded_by_the_budget() {
        let budget = 300_000;
        let cache = CoinCache::new(budget, KeyedState::new(1, 2));
        let allocated = (cache.table.capacity() * 8 / 7).next_power_of_two() * SLOT_BYTES;
        assert!(allocated <= budget && allocated > budget / 3, "{allocated}");
    }

    /// A table that is made for a share costs no more than that, and one twice as large would.
    #[test]
    fn a_table_fits_its_share() {
        for share in (1_000_000..4_000_000_000).step_by(123_456_789) {
            let table = coin_table_within(share);
            assert!(coin_cache_cost(table) <= share, "{share}");
            assert!(coin_cache_cost(2 * table) > share, "{share}");
            let cache = CoinCache::new(usize::try_from(table).unwrap().min(10_000_000), KeyedState::new(1, 2));
            assert!(cache.table.capacity() >= entries_of(SLOTS_MIN));
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
        let mut batch = Batch::new();
        cache.drain(&mut batch);
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
                        cache.changed_all |= all;
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
                let dirty = cache.table.values().filter(|entry| entry.dirty).count();
                prop_assert_eq!(dirty, cache.dirty());
            }
        }
    }
}
