//! Reading what can be read of a damaged database, without changing it.
//!
//! Three ways, each tried for what the ones before did not give:
//!
//! 1. as it is: opened read-only, with every check off that would refuse the whole for a part. Where rows cannot be read,
//!    the range around them is halved until only they are left out;
//! 2. repaired: RocksDB's own repair, on a copy (tables are linked, not copied) from tables and logs alone, for a database
//!    whose list of files is gone or names files that are;
//! 3. blob files by themselves ([`super::blobs`]), where most bodies lie.
//!
//! Nothing read here is believed: header rows and bodies are sealed, a body must hash to its key, and what is made of them
//! is checked again by every rule.

use super::blobs::Blobs;
use super::schema::{self, flags};
use super::{Column, StoreError};
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, IteratorMode, Options, ReadOptions};
use setara_core::block::{Block, Header};
use setara_core::codec;
use setara_core::hash::BlockHash;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of an encoded header, a block's first.
const HEADER_BYTES: usize = 80;
/// Ranges of keys that cannot be read are not divided further than this: with a million blocks, some dozens of rows.
const RANGE_MIN: u64 = 1 << 42;
/// Reads that may fail in one column before the rest of it is given up: some thousand damaged places.
const FAILURES_MAX: usize = 20_000;

/// A header, and what was known of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundHeader {
    /// The header.
    pub header: Header,
    /// Whether its body was stored.
    pub had_body: bool,
    /// Whether the operator did not want it.
    pub invalidated: bool,
    /// Order in which bodies were received.
    pub sequence: u64,
}

/// A damaged database, read-only.
pub struct Salvage {
    database: PathBuf,
    scratch: PathBuf,
    as_is: Option<Source>,
    repaired: OnceCell<Option<Source>>,
    blobs: Blobs,
}

impl Salvage {
    /// Takes the database in `database`; `scratch` is a folder beside it that may be made, used and removed.
    pub fn new(database: &Path, scratch: &Path) -> Self {
        let as_is = match Source::open(database) {
            Ok(source) => Some(source),
            Err(error) => {
                tracing::warn!(%error, "the database cannot be opened as it is");
                None
            }
        };
        Self {
            database: database.to_owned(),
            scratch: scratch.to_owned(),
            as_is,
            repaired: OnceCell::new(),
            blobs: Blobs::scan(database),
        }
    }

    fn repaired(&self) -> Option<&Source> {
        let repair = || {
            tracing::info!("repairing a copy of the database's tables");
            let repaired = repair(&self.database, &self.scratch).and_then(|()| Source::open(&self.scratch));
            repaired.inspect_err(|error| tracing::warn!(%error, "the copy cannot be repaired")).ok()
        };
        self.repaired.get_or_init(repair).as_ref()
    }

    /// Format and genesis hash, where they can be read.
    pub fn identity(&self) -> (Option<u32>, Option<BlockHash>) {
        let of = |source: &Source| {
            let (format, genesis) = (schema::KEY_FORMAT, schema::KEY_GENESIS);
            let [format, genesis] = [format, genesis].map(|key| source.get(Column::Meta, key).ok().flatten());
            let format = format.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
            (format, genesis.and_then(|bytes| bytes.try_into().ok()).map(BlockHash::from_bytes))
        };
        let found = self.as_is.as_ref().map(of).filter(|(_, genesis)| genesis.is_some());
        found.or_else(|| self.repaired().map(of)).unwrap_or((None, None))
    }

    /// Every header that can be read, in rows of its own or as the beginning of its body.
    pub fn headers(&self) -> BTreeMap<BlockHash, FoundHeader> {
        let mut found = BTreeMap::new();
        let whole = self.as_is.as_ref().is_some_and(|source| source.headers(&mut found));
        if !whole {
            // Whoever has lost rows of headers may have them as the beginnings of bodies.
            for source in self.as_is.iter().chain(self.repaired()) {
                source.headers(&mut found);
                source.body_headers(&mut found);
            }
        }
        for hash in self.blobs.keys() {
            if !found.contains_key(hash)
                && let Some(header) = self.blobs.beginnings(hash).find_map(|head| header_of(&head, hash))
            {
                found.insert(*hash, header);
            }
        }
        found
    }

    /// The body of a block, if it is anywhere, whole.
    pub fn body(&self, hash: &BlockHash) -> Option<Vec<u8>> {
        let of = |source: &Source| body_of(source.get(Column::Bodies, hash.as_bytes()).ok().flatten()?, hash);
        let as_is = self.as_is.as_ref().and_then(of);
        let body = as_is.or_else(|| self.blobs.values(hash).find_map(|bytes| body_of(bytes, hash)));
        body.or_else(|| of(self.repaired()?))
    }
}

impl Drop for Salvage {
    fn drop(&mut self) {
        self.repaired.take();
        // What is left over is removed by the next one.
        let _ = remove(&self.scratch);
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A header from a body's first bytes, if the key is its hash.
fn header_of(head: &[u8; HEADER_BYTES], hash: &BlockHash) -> Option<FoundHeader> {
    let header = Header::from_bytes(head).ok().filter(|header| header.hash() == *hash)?;
    Some(FoundHeader { header, had_body: true, invalidated: false, sequence: 0 })
}

/// A stored body without its seal, if it is whole and that of `hash`.
fn body_of(sealed: Vec<u8>, hash: &BlockHash) -> Option<Vec<u8>> {
    let bytes = schema::unseal(sealed, "body", hash).ok()?;
    codec::decode::<Block>(&bytes).ok().filter(|block| block.hash() == *hash)?;
    Some(bytes)
}

/// RocksDB's repair of what `database` holds, in `scratch`.
fn repair(database: &Path, scratch: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::Backend {
        doing: "copying",
        path: scratch.display().to_string(),
        reason: error.to_string(),
        advice: "Check that the disk has room and can be written",
    };
    remove(scratch).map_err(failed)?;
    std::fs::create_dir_all(scratch).map_err(failed)?;
    for entry in std::fs::read_dir(database).map_err(failed)?.flatten() {
        let (path, to) = (entry.path(), scratch.join(entry.file_name()));
        match path.extension().and_then(|extension| extension.to_str()) {
            // Never changed once written, so a link is as good as a copy.
            Some("sst") => match std::fs::hard_link(&path, &to) {
                Ok(()) => {}
                Err(_) => drop(std::fs::copy(&path, &to).map_err(failed)?),
            },
            Some("log") => drop(std::fs::copy(&path, &to).map_err(failed)?),
            _ => {}
        }
    }
    DB::repair(&Options::default(), scratch).map_err(|error| StoreError::corrupt(error.to_string()))
}

/// A database opened for nothing but reading, with all that is missing missing.
struct Source {
    db: DB,
}

/// Keys not yet read: from one, inclusive, to another, exclusive; the widest range first.
#[derive(PartialEq, Eq)]
struct Range {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

/// A key as a number: keys here are hashes, so their first bytes are spread evenly.
fn number(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = key.len().min(8);
    bytes[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(bytes)
}

impl Range {
    fn bounds(&self) -> (u64, u64) {
        (number(&self.from), self.to.as_deref().map_or(u64::MAX, number))
    }

    fn width(&self) -> u64 {
        let (from, to) = self.bounds();
        to.saturating_sub(from)
    }

    /// Both halves, unless it is as narrow as it gets.
    fn halves(self) -> Option<[Self; 2]> {
        if self.width() < RANGE_MIN {
            return None;
        }
        let middle = (self.bounds().0 + self.width() / 2).to_be_bytes().to_vec();
        Some([Self { from: self.from, to: Some(middle.clone()) }, Self { from: middle, to: self.to }])
    }
}

impl Ord for Range {
    fn cmp(&self, other: &Self) -> Ordering {
        self.width().cmp(&other.width())
    }
}

impl PartialOrd for Range {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Source {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: rocksdb::Error| StoreError::corrupt(format!("{}: {error}", path.display()));
        let mut options = Options::default();
        options.set_paranoid_checks(false);
        // As the database was written: without it RocksDB 11.8 forgets the logs that the manifest names, for which a
        // database that is only read has no place, and crash.
        options.set_track_and_verify_wals_in_manifest(true);
        // Records are sealed one by one: those behind a broken one are as good as any.
        options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
        let names = DB::list_cf(&options, path).map_err(failed)?;
        let families = names.iter().map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(failed)?;
        Ok(Self { db })
    }

    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        self.db.cf_handle(column.name()).map_or(Ok(None), |family| self.db.get_cf(family, key))
    }

    /// Gives every row of a column of hashes that can be read; whether that was all of them.
    fn rows(&self, column: Column, mut take: impl FnMut(&[u8], Vec<u8>)) -> bool {
        let Some(family) = self.db.cf_handle(column.name()) else { return false };
        let mut failures = 0;
        let mut ranges = BinaryHeap::from([Range { from: Vec::new(), to: None }]);
        while let Some(mut range) = ranges.pop() {
            let mut options = ReadOptions::default();
            options.set_verify_checksums(true);
            options.fill_cache(false);
            let from = range.from.clone();
            let rows = self.db.iterator_cf_opt(family, options, IteratorMode::From(&from, rocksdb::Direction::Forward));
            for row in rows {
                match row {
                    Ok((key, _)) if range.to.as_deref().is_some_and(|to| *key >= *to) => break,
                    Ok((key, value)) => {
                        take(&key, value.into_vec());
                        range.from = [&key[..], &[0]].concat();
                    }
                    Err(error) => {
                        failures += 1;
                        if failures == 1 {
                            tracing::warn!(column = column.name(), %error, "rows cannot be read");
                        }
                        if failures < FAILURES_MAX {
                            ranges.extend(range.halves().into_iter().flatten());
                        }
                        break;
                    }
                }
            }
        }
        failures == 0
    }

    /// Adds headers from their own rows; whether all could be read.
    fn headers(&self, found: &mut BTreeMap<BlockHash, FoundHeader>) -> bool {
        let mut sound = true;
        let whole = self.rows(Column::Headers, |key, value| {
            let row = <[u8; 32]>::try_from(key).ok().map(BlockHash::from_bytes);
            let row = row.and_then(|hash| Some((hash, schema::header_row(&hash, value).ok()?)));
            match row.filter(|(hash, row)| row.header.hash() == *hash) {
                Some((hash, row)) => {
                    let (had_body, invalidated) = (row.flags & flags::BODY != 0, row.flags & flags::INVALIDATED != 0);
                    let header = FoundHeader { header: row.header, had_body, invalidated, sequence: row.sequence };
                    found.insert(hash, header);
                }
                None => sound = false,
            }
        });
        whole && sound
    }

    /// Adds headers that only bodies still hold.
    fn body_headers(&self, found: &mut BTreeMap<BlockHash, FoundHeader>) {
        self.rows(Column::Bodies, |key, value| {
            let Ok(hash) = <[u8; 32]>::try_from(key).map(BlockHash::from_bytes) else { return };
            if let Some(header) = value.first_chunk().and_then(|head| header_of(head, &hash)) {
                found.entry(hash).or_insert(header);
            }
        });
    }
}
