//! The store on disk: RocksDB, one column family per column.
//!
//! - Coins: bloom filters and hashed data blocks, as they are looked up by exact key; LZ4.
//! - Bodies and undo records: blob files, so that compaction never rewrites them. Their keys lie in tables apart, a hundred
//!   bytes a block; compacting those after a deletion ([`Store::reclaim`]) costs next to nothing, and a blob file all of
//!   whose rows are gone is removed whole. Bodies come roughly in the order of heights, so files die one by one.
//! - Every block of every file is checksummed; after a crash the write-ahead log is replayed up to its first broken
//!   record, and a log file that the manifest knows but the disk has lost is refused.
//! - The first failed write poisons the store: after a failed fsync the kernel may have dropped the very pages that a
//!   retry would report as safe.

use super::{Batch, Column, Direction, Durability, Reader, Rows, Store, StoreError};
use crate::datadir::sync_folder;
use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRecoveryMode, DataBlockIndexType, ErrorKind, FlushOptions, IteratorMode, Options, ReadOptions,
    SnapshotWithThreadMode, WriteBatch, WriteBufferManager, WriteOptions,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits per key of the coins' bloom filters: 1 % of look-ups of missing coins reach a block.
const BLOOM_BITS: f64 = 10.0;
/// Part of a memory table that its own bloom filter takes: what is not there, such as an address seen for the first
/// time, is then not searched for.
const MEMORY_BLOOM_RATIO: f64 = 0.02;
/// Values from this size on go to blob files.
const BLOB_BYTES_MIN: u64 = 4 << 10;
/// Size of a blob file.
const BLOB_FILE_BYTES: u64 = 256 << 20;
/// Write-ahead logs are dropped by flushing idle columns once they reach this: it bounds the replay at start.
const WAL_BYTES_MAX: u64 = 512 << 20;
/// The same where disk is dear.
const WAL_BYTES_MAX_PRUNED: u64 = 64 << 20;
/// A node that prunes has its bodies in at least so many files, as one that is dead but for a row is not removed.
const KEPT_FILES_MIN: u64 = 16;
/// RocksDB's own log: small, and few of them.
const LOG_FILE_BYTES: usize = 4 << 20;
const LOG_FILES: usize = 4;
/// Open table files unless told otherwise: well below the usual limit of 1,024 descriptors, which sockets share.
const OPEN_FILES: i32 = 400;
/// Least room for blocks and for writes, whatever the budget.
const CACHE_BYTES_MIN: usize = 8 << 20;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct RocksOptions {
    /// Memory for cached blocks and for writes not yet in tables, together.
    pub memory_bytes: usize,
    /// Files kept open.
    pub open_files: i32,
    /// Where old bodies are deleted, the bytes of bodies that are kept: files are then so small that they die soon.
    pub kept_bytes: Option<u64>,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { memory_bytes: 128 << 20, open_files: OPEN_FILES, kept_bytes: None }
    }
}

/// What a database is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Full,
    Reading,
}

struct Inner {
    db: DB,
    /// Holds blocks, and counts the memory tables.
    cache: Cache,
    path: PathBuf,
    poisoned: Mutex<Option<String>>,
    /// Sequence of the last write that deleted bodies or undo records: older snapshots hold them.
    deleted_at: AtomicU64,
}

/// A store in a directory. Clones share it; it closes with the last clone or snapshot.
#[derive(Clone)]
pub struct RocksStore(Arc<Inner>);

type Snapshot<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell::self_cell!(
    /// A snapshot together with the database that it borrows from.
    struct OwnedSnapshot {
        owner: Arc<Inner>,
        #[not_covariant]
        dependent: Snapshot,
    }
);

impl RocksStore {
    /// Opens the database in `path`, creating it (and the directory) if there is none.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<Self, StoreError> {
        Self::open_as(path, options, Access::Full)
    }

    /// Opens a database only to be read; nothing in `path` changes.
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        Self::open_as(path, &RocksOptions { memory_bytes: 0, ..RocksOptions::default() }, Access::Reading)
    }

    fn open_as(path: &Path, options: &RocksOptions, access: Access) -> Result<Self, StoreError> {
        if access == Access::Full {
            Self::prepare(path)?;
        }
        // One limit for both: memory tables count in the cache, so that what they take above their half (they are written
        // in the background) blocks make room for.
        let write_bytes = (options.memory_bytes / 2).max(CACHE_BYTES_MIN);
        let cache = Cache::new_lru_cache(options.memory_bytes.max(2 * CACHE_BYTES_MIN));
        let mut shared = database_options();
        shared.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
            write_bytes,
            false,
            cache.clone(),
        ));
        shared.set_max_open_files(options.open_files);
        if options.kept_bytes.is_some() {
            shared.set_max_total_wal_size(WAL_BYTES_MAX_PRUNED);
        }
        let mut names: Vec<String> = Column::ALL.iter().map(|column| column.name().to_owned()).collect();
        // A newer version's columns are opened too, so that its format can be read and named.
        if let Ok(found) = DB::list_cf(&shared, path) {
            names.extend(found.into_iter().filter(|name| !Column::ALL.iter().any(|column| column.name() == name)));
        }
        if !names.iter().any(|name| name == "default") {
            names.push("default".to_owned());
        }
        let families = names.iter().map(|name| {
            let column = Column::ALL.into_iter().find(|column| column.name() == name);
            let mut family = column_options(column, &cache, write_bytes);
            if let (Some(Column::Bodies | Column::Undo), Some(kept)) = (column, options.kept_bytes) {
                let bytes = kept / KEPT_FILES_MIN;
                family.set_write_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX).clamp(1 << 20, write_bytes));
            }
            ColumnFamilyDescriptor::new(name, family)
        });
        let (db, poisoned) = match access {
            Access::Full => (DB::open_cf_descriptors(&shared, path, families), None),
            Access::Reading => (
                DB::open_cf_descriptors_read_only(&shared, path, families, false),
                Some("the database was opened to be read".to_owned()),
            ),
        };
        let db = db.map_err(|error| backend("opening", path, &error))?;
        let (path, deleted_at) = (path.to_owned(), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { db, cache, path, poisoned: Mutex::new(poisoned), deleted_at })))
    }

    /// The folder of a database that is to be written.
    fn prepare(path: &Path) -> Result<(), StoreError> {
        // RocksDB syncs what is in its folder, not the folder's own name.
        let made = std::fs::create_dir_all(path).and_then(|()| sync_folder(path.parent().unwrap_or(path)));
        made.map_err(|error| StoreError::Backend {
            doing: "creating",
            path: path.display().to_string(),
            reason: error.to_string(),
            advice: "Check that the directory can be written",
        })?;
        refuse_remains(path)
    }

    /// Bytes of cached blocks and of writes that are not in tables yet.
    pub fn memory_bytes(&self) -> u64 {
        self.0.cache.get_usage() as u64
    }

    /// Makes a database in `folder`, which must not be there, of the state at one moment; writes go on meanwhile. Files
    /// that never change are linked, or copied to another file system.
    pub fn checkpoint(&self, folder: &Path) -> Result<(), StoreError> {
        let failed = |error: rocksdb::Error| backend("copying the database to", folder, &error);
        let checkpoint = Checkpoint::new(&self.0.db).map_err(failed)?;
        checkpoint.create_checkpoint(folder).map_err(failed)
    }
}

/// RocksDB takes a directory without its `CURRENT` file for a new one, and clears away what lies there. Tables, blobs
/// or a log with something in it mean that it is not new.
fn refuse_remains(path: &Path) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| StoreError::Backend {
        doing: "reading",
        path: path.display().to_string(),
        reason: error.to_string(),
        advice: "The directory must be readable by the user that runs the node",
    };
    if path.join("CURRENT").try_exists().map_err(failed)? {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        let has_data = match extension {
            Some("sst" | "blob") => true,
            Some("log") => entry.metadata().map_err(failed)?.len() > 0,
            _ => false,
        };
        if has_data {
            let what = format!("{} has data but no CURRENT file", path.display());
            return Err(StoreError::Corrupt { what });
        }
    }
    Ok(())
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_wal_bytes_per_sync(1 << 20);
    options.set_max_log_file_size(LOG_FILE_BYTES);
    options.set_keep_log_file_num(LOG_FILES);
    options
}

fn column_options(column: Option<Column>, cache: &Cache, write_bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size((write_bytes / 2).clamp(1 << 20, 256 << 20));
    options.set_max_write_buffer_number(4);
    if let Some(Column::Coins | Column::AddressIndex) = column {
        options.set_memtable_prefix_bloom_ratio(MEMORY_BLOOM_RATIO);
        options.set_memtable_whole_key_filtering(true);
    }
    match column {
        Some(Column::Coins | Column::TxIndex) => {
            table.set_bloom_filter(BLOOM_BITS, false);
            table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            table.set_data_block_hash_ratio(0.75);
        }
        Some(Column::AddressIndex | Column::Headers) => table.set_bloom_filter(BLOOM_BITS, false),
        Some(Column::Bodies | Column::Undo) => {
            // Hashes and signatures do not compress.
            options.set_enable_blob_files(true);
            options.set_min_blob_size(BLOB_BYTES_MIN);
            options.set_blob_file_size(BLOB_FILE_BYTES);
            options.set_blob_compression_type(DBCompressionType::None);
            options.set_enable_blob_gc(false);
        }
        Some(Column::Heights | Column::Meta) | None => {}
    }
    options.set_block_based_table_factory(&table);
    options
}

/// A RocksDB error in words that name the directory and what to do.
fn backend(doing: &'static str, path: &Path, error: &rocksdb::Error) -> StoreError {
    let reason = error.to_string();
    if error.kind() == ErrorKind::Corruption {
        return StoreError::Corrupt { what: format!("{}: {reason}", path.display()) };
    }
    let advice = if reason.contains("lock") && (reason.contains("LOCK") || reason.contains("Resource temporarily")) {
        "Another node is using this directory: stop it, or choose another --data-dir"
    } else if reason.contains("No space left") {
        "The disk is full: free some space and start again; nothing is lost"
    } else if reason.contains("Permission denied") || reason.contains("Read-only") {
        "The directory must be writable by the user that runs the node"
    } else if reason.contains("Too many open files") {
        "Raise the limit of open files (ulimit -n 4096)"
    } else if reason.contains("No such file") {
        "A file of the database is missing: `setara-node rebuild` makes a new one from the blocks that are still good"
    } else if error.kind() == ErrorKind::IOError {
        "The disk reported an error: check its health and the system log before starting again. If blocks are lost, \
         `setara-node rebuild` keeps those that are still good"
    } else {
        "`setara-node rebuild` makes a new database from the blocks that are still good"
    };
    StoreError::Backend { doing, path: path.display().to_string(), reason, advice }
}

impl Inner {
    fn family(&self, column: Column) -> &ColumnFamily {
        self.db.cf_handle(column.name()).expect("every column was opened")
    }

    fn failed(&self, error: &rocksdb::Error) -> StoreError {
        backend("reading", &self.path, error)
    }

    fn get(&self, column: Column, key: &[u8], options: &ReadOptions) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf_opt(self.family(column), key, options).map_err(|error| self.failed(&error))
    }

    fn multi_get(
        &self,
        column: Column,
        keys: &[&[u8]],
        options: &ReadOptions,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let values = self.db.batched_multi_get_cf_opt(self.family(column), keys.iter().copied(), false, options);
        values
            .into_iter()
            .map(|value| value.map(|value| value.map(|bytes| bytes.to_vec())).map_err(|error| self.failed(&error)))
            .collect()
    }

    fn iterate(&self, column: Column, from: &[u8], direction: Direction, options: ReadOptions) -> Rows<'_> {
        let direction = match direction {
            Direction::Forward => rocksdb::Direction::Forward,
            Direction::Backward => rocksdb::Direction::Reverse,
        };
        let rows = self.db.iterator_cf_opt(self.family(column), options, IteratorMode::From(from, direction));
        Box::new(
            rows.map(|row| {
                row.map(|(key, value)| (key.into_vec(), value.into_vec())).map_err(|error| self.failed(&error))
            }),
        )
    }
}

fn read_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}

impl Reader for RocksStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(column, key, &read_options())
    }

    fn multi_get(&self, column: Column, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.0.multi_get(column, keys, &read_options())
    }

    fn iterate<'a>(&'a self, column: Column, from: &[u8], direction: Direction) -> Rows<'a> {
        self.0.iterate(column, from, direction, read_options())
    }
}

impl Store for RocksStore {
    fn snapshot(&self) -> Result<Arc<dyn Reader>, StoreError> {
        Ok(Arc::new(OwnedSnapshot::new(self.0.clone(), |inner| inner.db.snapshot())))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let inner = &*self.0;
        if let Some(reason) = &*inner.poisoned.lock() {
            return Err(StoreError::Poisoned(reason.clone()));
        }
        // Twelve bytes of head, and at most eleven of tags and lengths for each change.
        let mut changes = WriteBatch::with_capacity_bytes(12 + batch.size() + 11 * batch.len());
        let mut deletes = false;
        for (column, key, value) in batch.changes() {
            match value {
                Some(value) => changes.put_cf(inner.family(column), key, value),
                None => {
                    deletes |= matches!(column, Column::Bodies | Column::Undo);
                    changes.delete_cf(inner.family(column), key);
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        // Batches come in key order, so the place of the last insertion is near that of the next.
        options.set_memtable_insert_hint_per_batch(true);
        inner.db.write_opt(changes, &options).map_err(|error| {
            let error = backend("writing to", &inner.path, &error);
            inner.poisoned.lock().get_or_insert_with(|| error.to_string());
            error
        })?;
        if deletes {
            inner.deleted_at.store(inner.db.latest_sequence_number(), Ordering::SeqCst);
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), StoreError> {
        let inner = &*self.0;
        if let Some(reason) = &*inner.poisoned.lock() {
            return Err(StoreError::Poisoned(reason.clone()));
        }
        let families: Vec<_> = Column::ALL.iter().map(|column| inner.family(*column)).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        inner.db.flush_cfs_opt(&families, &options).map_err(|error| backend("closing", &inner.path, &error))
    }

    fn reclaim(&self) -> Result<bool, StoreError> {
        let oldest = self.0.db.property_int_value("rocksdb.oldest-snapshot-sequence");
        let oldest = oldest.map_err(|error| self.0.failed(&error))?.filter(|sequence| *sequence > 0);
        if oldest.is_some_and(|oldest| oldest < self.0.deleted_at.load(Ordering::SeqCst)) {
            return Ok(false);
        }
        // The log holds what was deleted for as long as any column has something that is in it alone.
        self.settle()?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        for column in [Column::Bodies, Column::Undo] {
            // An error of a compaction is one of the database, which refuses the next write.
            self.0.db.compact_range_cf_opt(self.0.family(column), None::<&[u8]>, None::<&[u8]>, &options);
        }
        Ok(true)
    }

    fn column_bytes(&self, column: Column) -> Result<u64, StoreError> {
        let bytes = |name: &str| {
            let value = self.0.db.property_int_value_cf(self.0.family(column), name);
            value.map(Option::unwrap_or_default).map_err(|error| self.0.failed(&error))
        };
        Ok(bytes("rocksdb.total-sst-files-size")? + bytes("rocksdb.total-blob-file-size")?)
    }
}

impl OwnedSnapshot {
    fn with<'a, T>(&'a self, read: impl FnOnce(&'a Inner, ReadOptions) -> T) -> T {
        let mut options = read_options();
        self.with_dependent(|_, snapshot| options.set_snapshot(snapshot));
        read(self.borrow_owner(), options)
    }
}

impl Reader for OwnedSnapshot {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|inner, options| inner.get(column, key, &options))
    }

    fn multi_get(&self, column: Column, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.with(|inner, options| inner.multi_get(column, keys, &options))
    }

    fn iterate<'a>(&'a self, column: Column, from: &[u8], direction: Direction) -> Rows<'a> {
        // The iterator borrows `self`, so the snapshot outlives it.
        self.with(|inner, options| inner.iterate(column, from, direction, options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &RocksStore, key: &[u8], value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(Column::Coins, key, value);
        store.write(batch, Durability::Synced).unwrap();
    }

    #[test]
    fn snapshots_stay_and_outlive_their_store() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::open(directory.path(), &RocksOptions::default()).unwrap();
        put(&store, b"a", b"1");
        put(&store, b"c", b"3");
        let snapshot = store.snapshot().unwrap();
        put(&store, b"a", b"2");
        put(&store, b"b", b"2");
        drop(store);
        let rows = |direction, from: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
            snapshot.iterate(Column::Coins, from, direction).map(Result::unwrap).collect()
        };
        let (a, c) = ((b"a".to_vec(), b"1".to_vec()), (b"c".to_vec(), b"3".to_vec()));
        assert_eq!(rows(Direction::Forward, b""), [a.clone(), c.clone()]);
        assert_eq!(rows(Direction::Backward, b"b"), [a]);
        assert_eq!(rows(Direction::Forward, b"b"), [c]);
        let values = snapshot.multi_get(Column::Coins, &[b"c", b"b", b"a"]).unwrap();
        assert_eq!(values, [Some(b"3".to_vec()), None, Some(b"1".to_vec())]);
    }

    /// ST7: the second to open a directory is told by name that it is in use, and harms nothing.
    #[test]
    fn st7_a_directory_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::open(directory.path(), &RocksOptions::default()).unwrap();
        put(&store, b"a", b"1");
        let error = RocksStore::open(directory.path(), &RocksOptions::default()).err().unwrap().to_string();
        assert!(error.contains("Another node") && error.contains(&*directory.path().to_string_lossy()), "{error}");
        assert_eq!(store.get(Column::Coins, b"a"), Ok(Some(b"1".to_vec())));
        put(&store, b"b", b"2");
        drop(store);
        let store = RocksStore::open(directory.path(), &RocksOptions::default()).unwrap();
        assert_eq!(store.get(Column::Coins, b"b"), Ok(Some(b"2".to_vec())));
    }

    /// A directory that cannot be made is an error with its name, not a panic.
    #[test]
    fn a_path_that_is_a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = RocksStore::open(file.path(), &RocksOptions::default()).err().unwrap().to_string();
        assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
    }
}
