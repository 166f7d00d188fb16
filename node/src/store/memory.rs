//! A store in memory: for tests, simulation and fuzzing. It can fail at a chosen read or write, and lose unsynced
//! writes as a power cut would.
//!
//! Every value is kept with the number of the write that made it, so a snapshot is just a number; versions that no
//! snapshot can see are dropped when their key is next written.

use super::{Batch, Column, Direction, Durability, Reader, Row, Rows, Store, StoreError};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which operations fail. Operations are counted from 1; 0 never fails.
#[derive(Debug, Default)]
pub struct Faults {
    fail_read: AtomicU64,
    fail_write: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Faults {
    /// The `n`-th read from now on fails.
    pub fn fail_read(&self, n: u64) {
        self.reads.store(0, Ordering::SeqCst);
        self.fail_read.store(n, Ordering::SeqCst);
    }

    /// The `n`-th write from now on fails, and with it every later one.
    pub fn fail_write(&self, n: u64) {
        self.writes.store(0, Ordering::SeqCst);
        self.fail_write.store(n, Ordering::SeqCst);
    }

    /// Reads since the last call of [`Self::fail_read`].
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Writes since the last call of [`Self::fail_write`].
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    fn read(&self) -> Result<(), StoreError> {
        let count = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
        if count == self.fail_read.load(Ordering::SeqCst) { Err(StoreError::Injected) } else { Ok(()) }
    }

    fn write(&self) -> Result<(), StoreError> {
        let count = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if count == self.fail_write.load(Ordering::SeqCst) { Err(StoreError::Injected) } else { Ok(()) }
    }
}

/// Values of one key, oldest first, each with the write that made it; `None` is a deletion.
type Versions = Vec<(u64, Option<Vec<u8>>)>;

#[derive(Default)]
struct Data {
    columns: BTreeMap<Column, BTreeMap<Vec<u8>, Versions>>,
    /// Number of the last write.
    written: u64,
    /// Number of the last write that a power cut cannot take.
    synced: u64,
}

#[derive(Default)]
struct Shared {
    data: RwLock<Data>,
    /// Write numbers that snapshots hold, with how many hold each.
    held: Mutex<BTreeMap<u64, usize>>,
    faults: Faults,
    poisoned: Mutex<Option<StoreError>>,
}

/// A store in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Shared>);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// With operations that fail as `faults` says.
    pub fn with_faults(self, faults: Faults) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(shared) => Self(Arc::new(Shared { faults, ..shared })),
            Err(shared) => {
                shared.faults.fail_read(faults.fail_read.into_inner());
                shared.faults.fail_write(faults.fail_write.into_inner());
                Self(shared)
            }
        }
    }

    /// The switches of its faults.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// What a power cut leaves: every synced write, and of the unsynced ones after it the first `kept`.
    pub fn crash(&self, kept: u64) -> Self {
        let data = self.0.data.read();
        let end = data.synced.saturating_add(kept).min(data.written);
        let mut left = Data { columns: BTreeMap::new(), written: end, synced: end };
        for (column, rows) in &data.columns {
            let rows = rows.iter().filter_map(|(key, versions)| {
                let value = newest(versions, end)?.to_vec();
                Some((key.clone(), vec![(end, Some(value))]))
            });
            left.columns.insert(*column, rows.collect());
        }
        Self(Arc::new(Shared { data: RwLock::new(left), ..Shared::default() }))
    }

    /// Every row of a column.
    pub fn rows(&self, column: Column) -> Vec<Row> {
        let data = self.0.data.read();
        let rows = data.columns.get(&column).into_iter().flatten();
        rows.filter_map(|(key, versions)| Some((key.clone(), newest(versions, data.written)?.to_vec()))).collect()
    }

    /// Overwrites a stored value behind the chain's back, as bit-rot would.
    pub fn tamper(&self, column: Column, key: &[u8], value: Option<&[u8]>) {
        let mut data = self.0.data.write();
        let written = data.written;
        let rows = data.columns.entry(column).or_default();
        rows.insert(key.to_vec(), vec![(written, value.map(<[u8]>::to_vec))]);
    }
}

/// The value as of write number `at`.
fn newest(versions: &Versions, at: u64) -> Option<&[u8]> {
    versions.iter().rev().find(|(number, _)| *number <= at)?.1.as_deref()
}

impl Shared {
    fn get(&self, column: Column, key: &[u8], at: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.faults.read()?;
        let data = self.data.read();
        let versions = data.columns.get(&column).and_then(|rows| rows.get(key));
        Ok(versions.and_then(|versions| newest(versions, at)).map(<[u8]>::to_vec))
    }

    fn multi_get(&self, column: Column, keys: &[&[u8]], at: u64) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        keys.iter().map(|key| self.get(column, key, at)).collect()
    }

    fn iterate<'a>(&'a self, column: Column, from: &[u8], direction: Direction, at: u64) -> Rows<'a> {
        let mut bound = Bound::Included(from.to_vec());
        Box::new(std::iter::from_fn(move || {
            if let Err(error) = self.faults.read() {
                return Some(Err(error));
            }
            let data = self.data.read();
            let rows = data.columns.get(&column)?;
            let row = match direction {
                Direction::Forward => rows
                    .range::<Vec<u8>, _>((bound.as_ref(), Bound::Unbounded))
                    .find_map(|(key, versions)| Some((key.clone(), newest(versions, at)?.to_vec()))),
                Direction::Backward => rows
                    .range::<Vec<u8>, _>((Bound::Unbounded, bound.as_ref()))
                    .rev()
                    .find_map(|(key, versions)| Some((key.clone(), newest(versions, at)?.to_vec()))),
            }?;
            bound = Bound::Excluded(row.0.clone());
            Some(Ok(row))
        }))
    }

    fn apply(&self, batch: &Batch, durability: Durability) {
        let mut data = self.data.write();
        let (number, synced) = (data.written + 1, data.synced);
        // What a snapshot or a power cut can still go back to.
        let held: Vec<u64> = self.held.lock().keys().copied().chain([synced]).collect();
        for (column, key, value) in batch.changes() {
            let versions = data.columns.entry(column).or_default().entry(key.to_vec()).or_default();
            versions.push((number, value.map(<[u8]>::to_vec)));
            let mut kept = Versions::with_capacity(versions.len());
            for (index, (made, value)) in versions.iter().enumerate() {
                let end = versions.get(index + 1).map_or(u64::MAX, |(next, _)| *next);
                // Also every unsynced version: a power cut may stop between any two of them.
                let visible = held.iter().any(|at| made <= at && *at < end);
                if (visible || end == u64::MAX || *made > synced) && end != *made {
                    kept.push((*made, value.clone()));
                }
            }
            *versions = kept;
        }
        data.written = number;
        if durability == Durability::Synced {
            data.synced = number;
        }
    }
}

impl Reader for MemoryStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(column, key, u64::MAX)
    }

    fn multi_get(&self, column: Column, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.0.multi_get(column, keys, u64::MAX)
    }

    fn iterate<'a>(&'a self, column: Column, from: &[u8], direction: Direction) -> Rows<'a> {
        self.0.iterate(column, from, direction, u64::MAX)
    }
}

impl Store for MemoryStore {
    fn snapshot(&self) -> Result<Arc<dyn Reader>, StoreError> {
        let data = self.0.data.read();
        let at = data.written;
        *self.0.held.lock().entry(at).or_insert(0) += 1;
        Ok(Arc::new(Snapshot { shared: self.0.clone(), at }))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let mut poisoned = self.0.poisoned.lock();
        if let Some(error) = &*poisoned {
            return Err(StoreError::Poisoned(error.to_string()));
        }
        if let Err(error) = self.0.faults.write() {
            *poisoned = Some(error.clone());
            return Err(error);
        }
        self.0.apply(&batch, durability);
        Ok(())
    }

    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn reclaim(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn column_bytes(&self, column: Column) -> Result<u64, StoreError> {
        Ok(self.rows(column).iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}

struct Snapshot {
    shared: Arc<Shared>,
    at: u64,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock();
        if let Some(count) = held.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.at);
            }
        }
    }
}

impl Reader for Snapshot {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.get(column, key, self.at)
    }

    fn multi_get(&self, column: Column, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.shared.multi_get(column, keys, self.at)
    }

    fn iterate<'a>(&'a self, column: Column, from: &[u8], direction: Direction) -> Rows<'a> {
        self.shared.iterate(column, from, direction, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(store: &MemoryStore, key: u8, value: u8, durability: Durability) {
        let mut batch = Batch::new();
        batch.put(Column::Coins, &[key], &[value]);
        store.write(batch, durability).unwrap();
    }

    #[test]
    fn the_nth_write_fails_and_stays_failed() {
        let store = MemoryStore::new();
        store.faults().fail_write(2);
        put(&store, 1, 1, Durability::Synced);
        let mut batch = Batch::new();
        batch.put(Column::Coins, &[2], &[2]);
        assert_eq!(store.write(batch.clone(), Durability::Synced), Err(StoreError::Injected));
        assert!(matches!(store.write(batch, Durability::Synced), Err(StoreError::Poisoned(_))));
        assert_eq!(store.get(Column::Coins, &[2]), Ok(None));
    }

    proptest! {
        /// Snapshots and power cuts against whole copies of a map.
        #[test]
        fn snapshots_and_crashes_agree_with_copies(
            operations in proptest::collection::vec((0u8..6, proptest::option::of(any::<u8>()), any::<bool>(), any::<bool>()), 1..60),
            kept in 0u64..6,
        ) {
            let store = MemoryStore::new();
            let mut copies: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = vec![BTreeMap::new()];
            let mut synced = 0;
            let mut snapshots = Vec::new();
            for (key, value, sync, keep) in operations {
                let mut copy = copies[copies.len() - 1].clone();
                let mut batch = Batch::new();
                match value {
                    Some(value) => {
                        batch.put(Column::Coins, &[key], &[value]);
                        copy.insert(vec![key], vec![value]);
                    }
                    None => {
                        batch.delete(Column::Coins, &[key]);
                        copy.remove(&vec![key]);
                    }
                }
                store.write(batch, if sync { Durability::Synced } else { Durability::Unsynced }).unwrap();
                copies.push(copy);
                if sync {
                    synced = copies.len() - 1;
                }
                if keep {
                    snapshots.push((copies.len() - 1, store.snapshot().unwrap()));
                }
            }
            for (at, snapshot) in &snapshots {
                let rows: Vec<Row> = snapshot.iterate(Column::Coins, &[], Direction::Forward).map(Result::unwrap).collect();
                prop_assert_eq!(&rows.iter().cloned().collect::<BTreeMap<_, _>>(), &copies[*at]);
                let mut back: Vec<Row> = snapshot.iterate(Column::Coins, &[255], Direction::Backward).map(Result::unwrap).collect();
                back.reverse();
                prop_assert_eq!(rows, back);
            }
            let left = store.crash(kept);
            let expected = &copies[(synced + kept as usize).min(copies.len() - 1)];
            prop_assert_eq!(&left.rows(Column::Coins).into_iter().collect::<BTreeMap<_, _>>(), expected);
        }
    }
}
