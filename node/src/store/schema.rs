//! What is stored: every key and every value, the format's version, and whose directory it is.
//!
//! | column | key | value |
//! | --- | --- | --- |
//! | headers | block hash | [`HeaderRow`], sealed |
//! | bodies | block hash | the block's encoding, sealed |
//! | undo | block hash | the [`BlockDelta`] of connecting it, sealed |
//! | coins | txid, index (u32 BE) | [`Coin`] |
//! | heights | height (u32 BE) | hash of the active chain's block |
//! | tx_index, address_index | see `index/` | |
//! | meta | `format`, `genesis`, `tip`, `coins_tip`, `pruned`, `snapshot`, `lattice` + bucket, `cursor/` + index | see below |
//!
//! Coins and lattice are those after the block `coins_tip`; the deltas from there to the tip are stored with it
//! (`chain/recent.rs`). Format 1 had no `coins_tip`: coins were stored with every block.
//!
//! *Sealed* values end in the CRC-32 of what precedes them, checked at every read: a rotten body or undo record is an
//! error, never data. RocksDB checksums everything once more, block by block.

use super::{Batch, Column, Reader, StoreError};
use setara_core::block::{Block, Header};
use setara_core::codec::{self, Codec, CodecError, Writer};
use setara_core::consensus::{BlockDelta, ChainState};
use setara_core::hash::{BlockHash, Hash256, TxId};
use setara_core::height::Height;
use setara_core::lattice::Lattice;
use setara_core::pow::Work;
use setara_core::transaction::{Coin, OutPoint};

/// Version of everything in this file. A directory of a higher one is refused; of a lower one, migrated.
pub const FORMAT: u32 = 2;

pub(super) const KEY_FORMAT: &[u8] = b"format";
pub(super) const KEY_GENESIS: &[u8] = b"genesis";
const KEY_TIP: &[u8] = b"tip";
const KEY_COINS_TIP: &[u8] = b"coins_tip";
const KEY_LATTICE: &[u8] = b"lattice";
const KEY_PRUNED: &[u8] = b"pruned";
const KEY_SNAPSHOT: &[u8] = b"snapshot";
/// Start of the keys under which followers keep the block they have reached.
const KEY_CURSOR: &[u8] = b"cursor/";

const SEAL_BYTES: usize = 4;

/// The seal of a value.
fn seal(bytes: &[u8]) -> [u8; SEAL_BYTES] {
    crc32fast::hash(bytes).to_le_bytes()
}

/// Checks and removes the seal.
pub(super) fn unseal(mut bytes: Vec<u8>, what: &str, hash: &BlockHash) -> Result<Vec<u8>, StoreError> {
    match bytes.split_last_chunk::<SEAL_BYTES>() {
        Some((value, sealed)) if seal(value) == *sealed => {
            bytes.truncate(bytes.len() - SEAL_BYTES);
            Ok(bytes)
        }
        _ => Err(StoreError::corrupt(format!("the {what} of block {hash} is not what was written"))),
    }
}

fn decoded<T: Codec>(bytes: &[u8], what: impl FnOnce() -> String) -> Result<T, StoreError> {
    codec::decode(bytes).map_err(|error| StoreError::corrupt(format!("{}: {error}", what())))
}

/// What is known of a block, and where it stands in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderRow {
    /// The header.
    pub header: Header,
    /// Distance from genesis.
    pub height: Height,
    /// Work of the branch up to here.
    pub work: Work,
    /// Median time past after this block.
    pub median_time_past: u32,
    /// See [`flags`].
    pub flags: u8,
    /// Order in which bodies were received; 0 without a body.
    pub sequence: u64,
    /// Transactions, coinbase counted; 0 until the body was seen.
    pub tx_count: u32,
    /// Bytes of the block; 0 until the body was seen.
    pub size: u32,
    /// Transactions of the whole branch up to here.
    pub chain_tx_count: u64,
}

/// Bits of [`HeaderRow::flags`].
pub mod flags {
    /// The body is stored.
    pub const BODY: u8 = 1;
    /// Every signature was verified: true at any height and on any branch.
    pub const SIGNED: u8 = 2;
    /// The block was connected once: valid in every respect below its parent.
    pub const CONNECTED: u8 = 4;
    /// The block breaks a rule, for good.
    pub const FAILED: u8 = 8;
    /// The operator does not want it.
    pub const INVALIDATED: u8 = 16;
    /// The body was here, in the active chain, and was deleted to save space.
    pub const PRUNED: u8 = 32;
    /// Every bit of this format.
    pub const ALL: u8 = BODY | SIGNED | CONNECTED | FAILED | INVALIDATED | PRUNED;
}

impl Codec for HeaderRow {
    const MIN_SIZE: u64 = Header::MIN_SIZE + 1 + 32 + 1 + 1 + 1 + 1 + 1 + 1;

    fn write(&self, writer: &mut Writer) {
        self.header.write(writer);
        writer.u32(self.height.get());
        writer.raw(&self.work.to_be_bytes());
        writer.u32(self.median_time_past);
        writer.u8(self.flags);
        writer.u64(self.sequence);
        writer.u32(self.tx_count);
        writer.u32(self.size);
        writer.u64(self.chain_tx_count);
    }

    fn read(reader: &mut codec::Reader<'_>) -> Result<Self, CodecError> {
        let row = Self {
            header: Header::read(reader)?,
            height: Height::new(reader.u32()?),
            work: Work::from_be_bytes(reader.raw()?),
            median_time_past: reader.u32()?,
            flags: reader.u8()?,
            sequence: reader.u64()?,
            tx_count: reader.u32()?,
            size: reader.u32()?,
            chain_tx_count: reader.u64()?,
        };
        if row.flags & !flags::ALL == 0 { Ok(row) } else { Err(CodecError::NonCanonical) }
    }
}

/// How far down the active chain's data reaches, once something was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Lowest height from which on every body is here.
    pub bodies_from: Height,
    /// Lowest height from which on every undo record is here; never above that of the bodies.
    pub undo_from: Height,
}

impl Codec for Pruned {
    const MIN_SIZE: u64 = 2;

    fn write(&self, writer: &mut Writer) {
        writer.u32(self.bodies_from.get());
        writer.u32(self.undo_from.get());
    }

    fn read(reader: &mut codec::Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { bodies_from: Height::new(reader.u32()?), undo_from: Height::new(reader.u32()?) })
    }
}

/// What has become of the snapshot that a chain began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotStage {
    /// Its coins are being stored: what is there belongs to no block.
    Loading,
    /// The chain goes on from it; the blocks up to the base have not been verified.
    Unverified,
    /// They have.
    Verified,
}

/// The snapshot that a chain began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRow {
    /// The block after which its coins are.
    pub base: Height,
    /// That block.
    pub hash: BlockHash,
    /// Commitment to its coins.
    pub root: Hash256,
    /// What has become of it.
    pub stage: SnapshotStage,
}

impl Codec for SnapshotRow {
    const MIN_SIZE: u64 = 1 + 32 + 32 + 1;

    fn write(&self, writer: &mut Writer) {
        writer.u32(self.base.get());
        self.hash.write(writer);
        self.root.write(writer);
        writer.u8(match self.stage {
            SnapshotStage::Loading => 0,
            SnapshotStage::Unverified => 1,
            SnapshotStage::Verified => 2,
        });
    }

    fn read(reader: &mut codec::Reader<'_>) -> Result<Self, CodecError> {
        let (base, hash, root) = (Height::new(reader.u32()?), BlockHash::read(reader)?, Hash256::read(reader)?);
        let stage = match reader.u8()? {
            0 => SnapshotStage::Loading,
            1 => SnapshotStage::Unverified,
            2 => SnapshotStage::Verified,
            _ => return Err(CodecError::NonCanonical),
        };
        Ok(Self { base, hash, root, stage })
    }
}

/// Key of a coin: 36 bytes, a transaction's coins side by side.
pub fn coin_key(outpoint: &OutPoint) -> [u8; 36] {
    let mut key = [0; 36];
    key[..32].copy_from_slice(outpoint.txid.as_bytes());
    key[32..].copy_from_slice(&outpoint.index.to_be_bytes());
    key
}

/// The outpoint of a coin's key.
pub fn coin_outpoint(key: &[u8]) -> Result<OutPoint, StoreError> {
    let (txid, index) = key
        .split_first_chunk::<32>()
        .and_then(|(txid, index)| Some((*txid, index.try_into().ok()?)))
        .ok_or_else(|| StoreError::corrupt(format!("a coin's key has {} bytes", key.len())))?;
    Ok(OutPoint::new(TxId::from_bytes(txid), u32::from_be_bytes(index)))
}

/// The coin of a stored value.
pub fn coin(outpoint: &OutPoint, value: &[u8]) -> Result<Coin, StoreError> {
    decoded(value, || format!("coin {outpoint}"))
}

/// Reads coins, aligned with `outpoints`.
pub fn coins(reader: &dyn Reader, outpoints: &[OutPoint]) -> Result<Vec<Option<Coin>>, StoreError> {
    let keys: Vec<[u8; 36]> = outpoints.iter().map(coin_key).collect();
    let keys: Vec<&[u8]> = keys.iter().map(<[u8; 36]>::as_slice).collect();
    let values = reader.multi_get(Column::Coins, &keys)?;
    outpoints
        .iter()
        .zip(values)
        .map(|(outpoint, value)| value.map(|value| coin(outpoint, &value)).transpose())
        .collect()
}

/// Reads a header row.
pub fn header(reader: &dyn Reader, hash: &BlockHash) -> Result<Option<HeaderRow>, StoreError> {
    reader.get(Column::Headers, hash.as_bytes())?.map(|value| header_row(hash, value)).transpose()
}

/// The header row of a stored value.
pub fn header_row(hash: &BlockHash, value: Vec<u8>) -> Result<HeaderRow, StoreError> {
    decoded(&unseal(value, "header row", hash)?, || format!("header row of block {hash}"))
}

/// Reads a body's bytes.
pub fn body(reader: &dyn Reader, hash: &BlockHash) -> Result<Option<Vec<u8>>, StoreError> {
    reader.get(Column::Bodies, hash.as_bytes())?.map(|value| unseal(value, "body", hash)).transpose()
}

/// Reads a block; its header is hashed again.
pub fn block(reader: &dyn Reader, hash: &BlockHash) -> Result<Option<Block>, StoreError> {
    let Some(bytes) = body(reader, hash)? else { return Ok(None) };
    let block: Block = decoded(&bytes, || format!("body of block {hash}"))?;
    if block.hash() != *hash {
        return Err(StoreError::corrupt(format!("the body stored for block {hash} is that of {}", block.hash())));
    }
    Ok(Some(block))
}

/// Reads an undo record.
pub fn undo(reader: &dyn Reader, hash: &BlockHash) -> Result<Option<BlockDelta>, StoreError> {
    let Some(value) = reader.get(Column::Undo, hash.as_bytes())? else { return Ok(None) };
    let delta: BlockDelta = decoded(&unseal(value, "undo record", hash)?, || format!("undo record of block {hash}"))?;
    if delta.header().hash != *hash {
        return Err(StoreError::corrupt(format!("the undo record of block {hash} is another block's")));
    }
    Ok(Some(delta))
}

/// Reads the active chain's block at a height.
pub fn hash_at(reader: &dyn Reader, height: Height) -> Result<Option<BlockHash>, StoreError> {
    let Some(value) = reader.get(Column::Heights, &height.get().to_be_bytes())? else { return Ok(None) };
    decoded(&value, || format!("height {height}")).map(Some)
}

/// Reads the tip's state.
pub fn tip(reader: &dyn Reader) -> Result<Option<ChainState>, StoreError> {
    let Some(value) = reader.get(Column::Meta, KEY_TIP)? else { return Ok(None) };
    decoded(&value, || "the tip".to_owned()).map(Some)
}

/// Reads what has been pruned, if anything has.
pub fn pruned(reader: &dyn Reader) -> Result<Option<Pruned>, StoreError> {
    let Some(value) = reader.get(Column::Meta, KEY_PRUNED)? else { return Ok(None) };
    decoded(&value, || "the pruned heights".to_owned()).map(Some)
}

/// Reads which snapshot the chain began with, if with one.
pub fn snapshot(reader: &dyn Reader) -> Result<Option<SnapshotRow>, StoreError> {
    let Some(value) = reader.get(Column::Meta, KEY_SNAPSHOT)? else { return Ok(None) };
    decoded(&value, || "the snapshot's mark".to_owned()).map(Some)
}

/// Reads the state after the block that the stored coins and lattice belong to.
pub fn coins_tip(reader: &dyn Reader) -> Result<Option<ChainState>, StoreError> {
    let Some(value) = reader.get(Column::Meta, KEY_COINS_TIP)? else { return Ok(None) };
    decoded(&value, || "the block that the coins belong to".to_owned()).map(Some)
}

/// Key of a lattice bucket.
fn bucket_key(bucket: u8) -> Vec<u8> {
    [KEY_LATTICE, &[bucket]].concat()
}

/// Reads the lattice over all coins. A bucket that is not stored is empty.
pub fn lattice(reader: &dyn Reader) -> Result<Lattice, StoreError> {
    let mut buckets = Vec::with_capacity(256);
    for bucket in 0..=u8::MAX {
        if let Some(bytes) = reader.get(Column::Meta, &bucket_key(bucket))? {
            buckets.push((bucket, bytes));
        }
    }
    Lattice::from_buckets(buckets).map_err(|error| StoreError::corrupt(error.to_string()))
}

/// Reads the block that a follower has reached.
pub fn cursor(reader: &dyn Reader, name: &str) -> Result<Option<BlockHash>, StoreError> {
    let Some(value) = reader.get(Column::Meta, &cursor_key(name))? else { return Ok(None) };
    decoded(&value, || format!("the cursor of {name}")).map(Some)
}

fn cursor_key(name: &str) -> Vec<u8> {
    [KEY_CURSOR, name.as_bytes()].concat()
}

/// Writing, in the same words.
pub trait PutRows {
    /// Sets a header row.
    fn put_header(&mut self, hash: &BlockHash, row: &HeaderRow);
    /// Sets a body, given its encoding.
    fn put_body(&mut self, hash: &BlockHash, bytes: &[u8]);
    /// Sets an undo record, given its encoding.
    fn put_undo(&mut self, hash: &BlockHash, bytes: &[u8]);
    /// Sets a coin, or removes it.
    fn put_coin(&mut self, outpoint: &OutPoint, coin: Option<&Coin>);
    /// Sets the active chain's block at a height, or removes it.
    fn put_height(&mut self, height: Height, hash: Option<&BlockHash>);
    /// Sets the tip's state.
    fn put_tip(&mut self, tip: &ChainState);
    /// Sets what has been pruned.
    fn put_pruned(&mut self, pruned: &Pruned);
    /// Forgets that anything has been pruned.
    fn forget_pruned(&mut self);
    /// Sets which snapshot the chain began with.
    fn put_snapshot(&mut self, row: &SnapshotRow);
    /// Forgets that it began with one.
    fn forget_snapshot(&mut self);
    /// Sets the state that the stored coins and lattice belong to.
    fn put_coins_tip(&mut self, state: &ChainState);
    /// Sets one bucket of the lattice.
    fn put_bucket(&mut self, bucket: u8, lattice: &Lattice);
    /// Sets the block that a follower has reached, or forgets it.
    fn put_cursor(&mut self, name: &str, hash: Option<&BlockHash>);
    /// Marks an empty store as this network's.
    fn put_identity(&mut self, genesis: &BlockHash);
}

impl PutRows for Batch {
    fn put_header(&mut self, hash: &BlockHash, row: &HeaderRow) {
        let bytes = codec::encode(row);
        self.put_with_trailer(Column::Headers, hash.as_bytes(), &bytes, seal(&bytes));
    }

    fn put_body(&mut self, hash: &BlockHash, bytes: &[u8]) {
        self.put_with_trailer(Column::Bodies, hash.as_bytes(), bytes, seal(bytes));
    }

    fn put_undo(&mut self, hash: &BlockHash, bytes: &[u8]) {
        self.put_with_trailer(Column::Undo, hash.as_bytes(), bytes, seal(bytes));
    }

    fn put_coin(&mut self, outpoint: &OutPoint, coin: Option<&Coin>) {
        let key = coin_key(outpoint);
        match coin {
            Some(coin) => self.put_encoded(Column::Coins, &key, coin),
            None => self.delete(Column::Coins, &key),
        }
    }

    fn put_height(&mut self, height: Height, hash: Option<&BlockHash>) {
        let key = height.get().to_be_bytes();
        match hash {
            Some(hash) => self.put(Column::Heights, &key, hash.as_bytes()),
            None => self.delete(Column::Heights, &key),
        }
    }

    fn put_tip(&mut self, tip: &ChainState) {
        self.put(Column::Meta, KEY_TIP, &codec::encode(tip));
    }

    fn put_pruned(&mut self, pruned: &Pruned) {
        self.put(Column::Meta, KEY_PRUNED, &codec::encode(pruned));
    }

    fn forget_pruned(&mut self) {
        self.delete(Column::Meta, KEY_PRUNED);
    }

    fn put_snapshot(&mut self, row: &SnapshotRow) {
        self.put(Column::Meta, KEY_SNAPSHOT, &codec::encode(row));
    }

    fn forget_snapshot(&mut self) {
        self.delete(Column::Meta, KEY_SNAPSHOT);
    }

    fn put_coins_tip(&mut self, state: &ChainState) {
        self.put(Column::Meta, KEY_COINS_TIP, &codec::encode(state));
    }

    fn put_bucket(&mut self, bucket: u8, lattice: &Lattice) {
        // An empty bucket has no row, as before its first coin: reverting restores the very bytes.
        let bytes = lattice.bucket_bytes(bucket);
        if bytes.iter().all(|byte| *byte == 0) {
            self.delete(Column::Meta, &bucket_key(bucket));
        } else {
            self.put(Column::Meta, &bucket_key(bucket), &bytes);
        }
    }

    fn put_cursor(&mut self, name: &str, hash: Option<&BlockHash>) {
        match hash {
            Some(hash) => self.put(Column::Meta, &cursor_key(name), hash.as_bytes()),
            None => self.delete(Column::Meta, &cursor_key(name)),
        }
    }

    fn put_identity(&mut self, genesis: &BlockHash) {
        self.put(Column::Meta, KEY_FORMAT, &FORMAT.to_le_bytes());
        self.put(Column::Meta, KEY_GENESIS, genesis.as_bytes());
    }
}

/// Brings a store of an older format up to date, in one batch: killed before it, it is done again; after it, it is done.
pub fn migrate(store: &dyn super::Store, genesis: &BlockHash) -> Result<(), StoreError> {
    if format(store)? != Some(1) {
        return Ok(());
    }
    // Format 1 stored the coins with every block.
    let tip = tip(store)?.ok_or_else(|| StoreError::corrupt("the tip is missing"))?;
    tracing::info!(from = 1, to = FORMAT, "migrating the database");
    let mut batch = Batch::new();
    batch.put_coins_tip(&tip);
    batch.put_identity(genesis);
    store.write(batch, super::Durability::Synced)
}

fn format(reader: &dyn Reader) -> Result<Option<u32>, StoreError> {
    let Some(format) = reader.get(Column::Meta, KEY_FORMAT)? else { return Ok(None) };
    format
        .try_into()
        .map(|bytes| Some(u32::from_le_bytes(bytes)))
        .map_err(|_| StoreError::corrupt("the format's version"))
}

/// Whether the store is empty (`false`) or holds this network in a format known here (`true`); anything else is
/// refused. `origin` names the directory in errors.
pub fn check_identity(reader: &dyn Reader, genesis: &BlockHash, origin: &str) -> Result<bool, StoreError> {
    let Some(found) = format(reader)? else {
        for column in Column::ALL {
            if let Some(row) = reader.iterate(column, &[], super::Direction::Forward).next() {
                row?;
                let what = format!("{origin} has rows in column {} but no format", column.name());
                return Err(StoreError::Corrupt { what });
            }
        }
        return Ok(false);
    };
    if found > FORMAT {
        return Err(StoreError::NewerFormat { path: origin.to_owned(), found, supported: FORMAT });
    }
    let stored = reader.get(Column::Meta, KEY_GENESIS)?.ok_or_else(|| StoreError::corrupt("no genesis hash"))?;
    let stored: BlockHash = decoded(&stored, || "the genesis hash".to_owned())?;
    if stored != *genesis {
        return Err(StoreError::OtherNetwork {
            path: origin.to_owned(),
            found: stored.to_string(),
            expected: genesis.to_string(),
        });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, MemoryStore, Store};

    /// ST8: another network's and a newer version's data are refused by name; an empty store is not.
    #[test]
    fn identity_is_checked() {
        let ours = BlockHash::from_bytes([1; 32]);
        let store = MemoryStore::new();
        assert_eq!(check_identity(&store, &ours, "here"), Ok(false));
        let mut batch = Batch::new();
        batch.put_identity(&ours);
        store.write(batch, Durability::Synced).unwrap();
        assert_eq!(check_identity(&store, &ours, "here"), Ok(true));
        let other = BlockHash::from_bytes([2; 32]);
        let error = check_identity(&store, &other, "here").unwrap_err();
        assert!(error.to_string().contains(&ours.to_string()) && error.to_string().contains(&other.to_string()));
        store.tamper(Column::Meta, KEY_FORMAT, Some(&(FORMAT + 1).to_le_bytes()));
        assert!(
            matches!(check_identity(&store, &ours, "here"), Err(StoreError::NewerFormat { found, .. }) if found == FORMAT + 1)
        );
        store.tamper(Column::Meta, KEY_FORMAT, None);
        assert!(matches!(check_identity(&store, &ours, "here"), Err(StoreError::Corrupt { .. })));
    }

    /// ST8: interrupted before its batch a migration is done again, after it it is done; either way it ends in the same bytes,
    /// and once more changes nothing.
    #[test]
    fn st8_an_interrupted_migration_ends_in_the_same_bytes() {
        let network = setara_core::network::Network::dev();
        let genesis = network.genesis_hash();
        let delta = BlockDelta::genesis(&network);
        let mut lattice = Lattice::empty();
        lattice.apply(&delta.lattice_changes()).unwrap();
        let state = setara_core::consensus::apply(&delta, lattice.root());
        let old = || {
            let store = MemoryStore::new();
            let mut batch = Batch::new();
            batch.put_identity(&genesis);
            batch.put_tip(&state);
            batch.put(Column::Meta, KEY_FORMAT, &1u32.to_le_bytes());
            store.write(batch, Durability::Synced).unwrap();
            store
        };
        let whole = old();
        migrate(&whole, &genesis).unwrap();
        assert_eq!(check_identity(&whole, &genesis, "here"), Ok(true));
        assert_eq!((coins_tip(&whole), format(&whole)), (Ok(Some(state)), Ok(Some(FORMAT))));
        let cut = old();
        let before = cut.rows(Column::Meta);
        cut.faults().fail_write(1);
        assert!(migrate(&cut, &genesis).is_err());
        let cut = cut.crash(u64::MAX);
        assert_eq!(cut.rows(Column::Meta), before);
        for _ in 0..2 {
            migrate(&cut, &genesis).unwrap();
            assert_eq!(cut.rows(Column::Meta), whole.rows(Column::Meta));
            assert_eq!(cut.crash(0).rows(Column::Meta), whole.rows(Column::Meta), "it is synced");
        }
    }

    #[test]
    fn seals_break_on_any_flip() {
        let hash = BlockHash::ZERO;
        let sealed = [&[1, 2, 3][..], &seal(&[1, 2, 3])].concat();
        assert_eq!(unseal(sealed.clone(), "body", &hash), Ok(vec![1, 2, 3]));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(flipped, "body", &hash).is_err());
        }
        for length in 0..sealed.len() {
            assert!(unseal(sealed[..length].to_vec(), "body", &hash).is_err());
        }
    }
}
