//! The key-value store under the chain: columns, atomic batches, snapshots.
//!
//! Guarantees: a [`Batch`] is applied as a whole or not at all; a synced batch, and every batch before it, survives
//! loss of power; after a crash the store holds a prefix of the batches written; a snapshot never changes. The first
//! failed write is final ([`StoreError::Poisoned`] from then on): a lost page must not be retried into silence.
//!
//! Two implementations: [`RocksStore`] on disk, [`MemoryStore`] with fault injection. What the bytes mean is in
//! [`schema`].

#[cfg(any(test, feature = "rocksdb"))]
mod blobs;
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;
#[cfg(feature = "rocksdb")]
mod salvage;
pub mod schema;
mod space;

pub use memory::{Faults, MemoryStore};
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksOptions, RocksStore};
#[cfg(feature = "rocksdb")]
pub use salvage::{FoundHeader, Salvage};
pub use space::SpaceCheck;

use setara_core::codec::{Codec, Writer};
use std::sync::Arc;

/// A namespace of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// Block hash -> header, place in the tree, status.
    Headers,
    /// Block hash -> the block's bytes.
    Bodies,
    /// Block hash -> what connecting it changed.
    Undo,
    /// Outpoint -> coin.
    Coins,
    /// Height -> hash of the active chain's block.
    Heights,
    /// Transaction id -> place in a block.
    TxIndex,
    /// Address -> its coins, history and totals.
    AddressIndex,
    /// Format, network, tip, lattice, cursors.
    Meta,
}

impl Column {
    /// Every column.
    pub const ALL: [Self; 8] = [
        Self::Headers,
        Self::Bodies,
        Self::Undo,
        Self::Coins,
        Self::Heights,
        Self::TxIndex,
        Self::AddressIndex,
        Self::Meta,
    ];

    /// The column's name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Bodies => "bodies",
            Self::Undo => "undo",
            Self::Coins => "coins",
            Self::Heights => "heights",
            Self::TxIndex => "tx_index",
            Self::AddressIndex => "address_index",
            Self::Meta => "meta",
        }
    }
}

/// Why the store did not do what it was asked. Never a verdict on a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The operating system or the database refused.
    #[error("{doing} {path}: {reason}. {advice}")]
    Backend {
        /// What was being done.
        doing: &'static str,
        /// The directory or file.
        path: String,
        /// The error as reported.
        reason: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// A stored value is missing or is not what was written.
    #[error(
        "the database is damaged: {what}. Nothing was changed; `setara-node rebuild` makes a new one from the blocks that \
         are still good, `setara-node restore` from a backup"
    )]
    Corrupt {
        /// Which value, and how it is wrong.
        what: String,
    },
    /// The data directory belongs to another network.
    #[error("{path} holds the network with genesis {found}, not {expected}. Choose another --data-dir")]
    OtherNetwork {
        /// The directory.
        path: String,
        /// Its genesis hash.
        found: String,
        /// The configured network's.
        expected: String,
    },
    /// The data directory was written by a newer version.
    #[error("{path} has data format {found}; this version reads up to {supported}. Use the newer version again")]
    NewerFormat {
        /// The directory.
        path: String,
        /// Its format.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// Too little room on the disk to go on safely.
    #[error("{path}: {free} MiB free, {needed} MiB needed. Free some space and start again; nothing is lost")]
    DiskFull {
        /// The directory.
        path: String,
        /// MiB available.
        free: u64,
        /// MiB required.
        needed: u64,
    },
    /// An earlier write failed, so no later one can be trusted.
    #[error("the database stopped after an earlier write failed: {0}")]
    Poisoned(String),
    /// What is asked for was deleted to save space: no damage.
    #[error("{0}")]
    Pruned(String),
    /// A fault that a test asked for.
    #[error("injected fault")]
    Injected,
}

impl StoreError {
    /// A damaged or missing value.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}

/// Order of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys, from the first one not below the start.
    Forward,
    /// Descending keys, from the last one not above the start.
    Backward,
}

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Rows in key order.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, StoreError>> + 'a>;

/// Reading, from the newest state or from a snapshot.
pub trait Reader: Send + Sync {
    /// The value of `key`.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The values of `keys`, in their order.
    fn multi_get(&self, column: Column, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// Rows from `from`, inclusive.
    fn iterate<'a>(&'a self, column: Column, from: &[u8], direction: Direction) -> Rows<'a>;
}

/// How much a returned write promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On stable storage, with everything written before it.
    Synced,
    /// In order, but the newest may be lost with the power.
    Unsynced,
}

/// A store that can be written. There is one writer of chain data; indexes write their own columns.
pub trait Store: Reader {
    /// The state now, for as long as the snapshot is held.
    fn snapshot(&self) -> Result<Arc<dyn Reader>, StoreError>;

    /// Applies a batch as a whole.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError>;

    /// Moves everything written to where it stays: a store that is closed after this needs no log to be whole.
    fn settle(&self) -> Result<(), StoreError>;

    /// Gives the room of bodies and undo records that were deleted back to the disk. `false`: a snapshot still holds them,
    /// nothing was done. May take long.
    fn reclaim(&self) -> Result<bool, StoreError>;

    /// Bytes that a column takes where it stays; what was written last may not count yet.
    fn column_bytes(&self, column: Column) -> Result<u64, StoreError>;
}

/// Changes to apply together. Later changes of a key win.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// What comes before the changes here: appended, not copied.
    earlier: Vec<Batch>,
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    column: Column,
    start: usize,
    key: u32,
    /// Bytes of the value; `None` deletes.
    value: Option<u32>,
}

/// Largest key or value: far above a block, and what a length in a batch can say.
const VALUE_BYTES_MAX: usize = u32::MAX as usize;

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    ///
    /// # Panics
    /// If either is 4 GiB or longer, which no value of ours can be.
    pub fn put(&mut self, column: Column, key: &[u8], value: &[u8]) {
        self.push(column, key, Some(value));
    }

    /// Sets `key` to `value` and what `trailer` makes of it: one copy, no matter how long the value is.
    pub fn put_with_trailer<const N: usize>(&mut self, column: Column, key: &[u8], value: &[u8], trailer: [u8; N]) {
        self.put(column, key, value);
        self.bytes.extend_from_slice(&trailer);
        if let Some(Change { value: Some(length), .. }) = self.changes.last_mut() {
            *length += N as u32;
        }
    }

    /// Sets `key` to the encoding of `value`, written in place.
    pub fn put_encoded(&mut self, column: Column, key: &[u8], value: &impl Codec) {
        self.put(column, key, &[]);
        let start = self.bytes.len();
        let mut writer = Writer::append_to(std::mem::take(&mut self.bytes));
        value.write(&mut writer);
        self.bytes = writer.finish();
        if let Some(change) = self.changes.last_mut() {
            change.value = Some((self.bytes.len() - start) as u32);
        }
    }

    /// Puts the changes of `other` behind those here.
    pub fn append(&mut self, mut other: Self) {
        let mut here = std::mem::take(self);
        self.earlier = std::mem::take(&mut here.earlier);
        self.earlier.push(here);
        self.earlier.append(&mut other.earlier);
        self.earlier.push(other);
    }

    /// Makes room for so many bytes of keys and values.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Removes `key`.
    pub fn delete(&mut self, column: Column, key: &[u8]) {
        self.push(column, key, None);
    }

    fn push(&mut self, column: Column, key: &[u8], value: Option<&[u8]>) {
        assert!(
            key.len() <= VALUE_BYTES_MAX && value.map_or(0, <[u8]>::len) <= VALUE_BYTES_MAX,
            "keys and values are small"
        );
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.changes.push(Change {
            column,
            start,
            key: key.len() as u32,
            value: value.map(|value| value.len() as u32),
        });
    }

    /// Puts the changes into the order of columns and keys, and keeps the last change of each key. A store whose memory
    /// tables are ordered takes a large batch several times faster so. `unique` says of which keys a row is put only where
    /// there is none: one that is put and then deleted is not written at all.
    pub fn sort(&mut self, unique: impl Fn(&[u8]) -> bool) {
        if !self.earlier.is_empty() {
            let mut whole = Self::new();
            self.changes().for_each(|(column, key, value)| whole.push(column, key, value));
            *self = whole;
        }
        let key = |change: &Change| &self.bytes[change.start..change.start + change.key as usize];
        // The first bytes decide nearly always, and lie together.
        let first = |change: &Change| {
            let (mut bytes, key) = ([0; 16], key(change));
            let length = key.len().min(bytes.len());
            bytes[..length].copy_from_slice(&key[..length]);
            u128::from_be_bytes(bytes)
        };
        let mut order: Vec<(Column, u128, u32)> =
            (0..).zip(&self.changes).map(|(number, change)| (change.column, first(change), number)).collect();
        let at = |number: u32| &self.changes[number as usize];
        order.sort_unstable_by(|a, b| {
            (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| key(at(a.2)).cmp(key(at(b.2)))).then(a.2.cmp(&b.2))
        });
        let same =
            |a: &(Column, u128, u32), b: &(Column, u128, u32)| (a.0, a.1) == (b.0, b.1) && key(at(a.2)) == key(at(b.2));
        let last_of = |changes: &[(Column, u128, u32)]| {
            let (first, last) = (at(changes.first()?.2), at(changes.last()?.2));
            let vanishes = first.value.is_some() && last.value.is_none() && unique(key(last));
            (!vanishes).then_some(*last)
        };
        self.changes = order.chunk_by(same).filter_map(last_of).collect();
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes in it.
    pub fn len(&self) -> usize {
        self.parts().map(|part| part.changes.len()).sum()
    }

    /// Bytes of its keys and values.
    pub fn size(&self) -> usize {
        self.parts().map(|part| part.bytes.len()).sum()
    }

    /// The changes in order: column, key, new value.
    pub fn changes(&self) -> impl Iterator<Item = (Column, &[u8], Option<&[u8]>)> {
        self.parts().flat_map(|part| {
            part.changes.iter().map(|change| {
                let value_at = change.start + change.key as usize;
                let key = &part.bytes[change.start..value_at];
                (change.column, key, change.value.map(|length| &part.bytes[value_at..value_at + length as usize]))
            })
        })
    }

    /// What was appended to, and what stands here itself.
    fn parts(&self) -> impl Iterator<Item = &Self> {
        self.earlier.iter().chain(std::iter::once(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Sorting changes what a batch looks like, never what it does; keys are long enough to differ past their first
        /// sixteen bytes, and one is the beginning of another. A unique row that comes and goes leaves nothing.
        #[test]
        fn a_sorted_batch_does_the_same(
            changes in proptest::collection::vec((any::<bool>(), 0usize..20, 0u8..3, any::<Option<u8>>()), 0..60),
        ) {
            let mut batch = Batch::new();
            let mut wanted = BTreeMap::new();
            let mut began = BTreeMap::new();
            let unique = |key: &[u8]| key.last() == Some(&2);
            for (index, length, last, value) in changes {
                let column = if index { Column::AddressIndex } else { Column::Meta };
                let key = [vec![0; length], vec![last]].concat();
                let mut change = Batch::new();
                let to = if length % 3 == 0 { &mut change } else { &mut batch };
                match value {
                    Some(value) => to.put(column, &key, &[value]),
                    None => to.delete(column, &key),
                }
                batch.append(change);
                began.entry((column, key.clone())).or_insert(value.is_some());
                wanted.insert((column, key), value.map(|value| vec![value]));
            }
            wanted.retain(|key, value| value.is_some() || !began[key] || !unique(&key.1));
            batch.sort(unique);
            let sorted: Vec<_> = batch
                .changes()
                .map(|(column, key, value)| ((column, key.to_vec()), value.map(<[u8]>::to_vec)))
                .collect();
            prop_assert_eq!(sorted, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}
