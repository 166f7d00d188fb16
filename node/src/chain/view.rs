//! Reading the chain: one tip and one snapshot of the store that belongs to it, for as long as the reader likes.
//!
//! Everything a view answers is of one moment (an answer is never torn across two tips), from the last flush: while
//! blocks are loaded in bulk that is a little behind the writer.

use super::events::TipInfo;
use super::headers::Headers;
use super::recent::Recent;
use crate::store::schema::{self, HeaderRow, Pruned, SnapshotRow};
use crate::store::{Column, Direction, Reader, StoreError};
use setara_core::block::Block;
use setara_core::codec;
use setara_core::consensus::{BlockDelta, ChainState};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::lattice::Lattice;
use setara_core::network::Network;
use setara_core::transaction::{Coin, OutPoint};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// What is known of a block.
pub type StoredHeader = HeaderRow;

/// Most blocks that one [`View::updates_since`] names each way: a follower that is further behind asks again.
pub const UPDATES_MAX: usize = 1024;

/// A branch's end, as `getchaintips` lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainTip {
    /// Of its last block.
    pub height: Height,
    /// Of its last block.
    pub hash: BlockHash,
    /// Blocks that are not in the active chain.
    pub branch_length: u32,
    /// What is known of it.
    pub status: TipStatus,
}

/// Bitcoin Core's words for the state of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TipStatus {
    /// The active chain's.
    Active,
    /// A block of it broke a rule or is not wanted.
    Invalid,
    /// Bodies are missing.
    HeadersOnly,
    /// Bodies are there, but were never connected.
    ValidHeaders,
    /// Every block was connected once.
    ValidFork,
}

impl TipStatus {
    /// As `getchaintips` says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Invalid => "invalid",
            Self::HeadersOnly => "headers-only",
            Self::ValidHeaders => "valid-headers",
            Self::ValidFork => "valid-fork",
        }
    }
}

/// The blocks between a follower and the tip.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Updates {
    /// To take back, the follower's block first.
    pub revert: Vec<BlockHash>,
    /// To apply after that, lowest first.
    pub apply: Vec<BlockHash>,
    /// The tip is further away than [`UPDATES_MAX`] blocks: ask again from where these lead.
    pub more: bool,
}

impl Updates {
    /// Whether the follower is at the tip.
    pub fn is_empty(&self) -> bool {
        self.revert.is_empty() && self.apply.is_empty()
    }
}

/// How many coins there are, and how much money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoinsTotal {
    /// Coins.
    pub count: u64,
    /// Sen.
    pub sum: u64,
}

/// The chain at one moment.
pub struct View {
    /// The tip's state: what the next block is held against.
    pub tip: ChainState,
    sequence: u64,
    network: Arc<Network>,
    reader: Arc<dyn Reader>,
    /// The coins' changes beyond their rows; read when first asked for, where nobody brought them.
    recent: OnceLock<Recent>,
    tips: Vec<ChainTip>,
    /// Whom to tell of damaged bodies.
    headers: Headers,
    pruned: Option<Pruned>,
    snapshot: Option<SnapshotRow>,
}

impl View {
    pub(super) fn new(
        tip: ChainState,
        sequence: u64,
        network: Arc<Network>,
        reader: Arc<dyn Reader>,
        recent: Recent,
        tips: Vec<ChainTip>,
        headers: Headers,
        (pruned, snapshot): (Option<Pruned>, Option<SnapshotRow>),
    ) -> Self {
        Self { tip, sequence, network, reader, recent: OnceLock::from(recent), tips, headers, pruned, snapshot }
    }

    /// The chain as another snapshot of the same store shows it.
    pub fn at(&self, reader: Arc<dyn Reader>) -> Result<Self, StoreError> {
        let tip = schema::tip(&*reader)?.ok_or_else(|| StoreError::corrupt("the tip is missing"))?;
        let (network, tips, headers) = (self.network.clone(), self.tips.clone(), self.headers.clone());
        let (pruned, snapshot) = (schema::pruned(&*reader)?, schema::snapshot(&*reader)?);
        let recent = OnceLock::new();
        Ok(Self { tip, sequence: self.sequence, network, reader, recent, tips, headers, pruned, snapshot })
    }

    /// The tip in brief.
    pub fn info(&self) -> TipInfo {
        TipInfo { hash: self.tip.hash(), height: self.tip.height(), sequence: self.sequence }
    }

    /// The network.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// The snapshot itself, for indexes.
    pub fn reader(&self) -> &Arc<dyn Reader> {
        &self.reader
    }

    /// What has been deleted to save space, if anything has.
    pub const fn pruned(&self) -> Option<Pruned> {
        self.pruned
    }

    /// The snapshot that the chain began with, if with one.
    pub const fn snapshot(&self) -> Option<SnapshotRow> {
        self.snapshot
    }

    /// Lowest height from which on every body of the active chain is here.
    pub fn bodies_from(&self) -> Height {
        self.pruned.map_or(Height::GENESIS, |pruned| pruned.bodies_from)
    }

    /// The ends of all branches.
    pub fn tips(&self) -> &[ChainTip] {
        &self.tips
    }

    /// What is known of a block, on any branch.
    pub fn header(&self, hash: &BlockHash) -> Result<Option<StoredHeader>, StoreError> {
        schema::header(&*self.reader, hash)
    }

    /// The active chain's block at a height.
    pub fn hash_at(&self, height: Height) -> Result<Option<BlockHash>, StoreError> {
        schema::hash_at(&*self.reader, height)
    }

    /// Whether a block is in the active chain.
    pub fn in_active_chain(&self, hash: &BlockHash) -> Result<bool, StoreError> {
        let Some(row) = self.header(hash)? else { return Ok(false) };
        Ok(self.hash_at(row.height)? == Some(*hash))
    }

    /// A block's encoding, on any branch; that of genesis is always here. A damaged one is an error, and asked for again
    /// from peers.
    pub fn body(&self, hash: &BlockHash) -> Result<Option<Vec<u8>>, StoreError> {
        if *hash == self.network.genesis_hash() {
            return Ok(Some(codec::encode(self.network.genesis())));
        }
        self.watched(hash, schema::body(&*self.reader, hash))
    }

    /// A block, on any branch. A damaged one is an error, and asked for again from peers.
    pub fn block(&self, hash: &BlockHash) -> Result<Option<Block>, StoreError> {
        if *hash == self.network.genesis_hash() {
            return Ok(Some(self.network.genesis().clone()));
        }
        self.watched(hash, schema::block(&*self.reader, hash))
    }

    /// A body that cannot be read, be it rotten or its file gone, is lost.
    fn watched<T>(&self, hash: &BlockHash, read: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Corrupt { .. } | StoreError::Backend { .. }) = &read {
            self.headers.lose_body(hash);
        }
        read
    }

    /// What a block changed; there for every block that was ever connected, unless it was pruned.
    pub fn undo(&self, hash: &BlockHash) -> Result<Option<BlockDelta>, StoreError> {
        if *hash == self.network.genesis_hash() {
            return Ok(Some(BlockDelta::genesis(&self.network)));
        }
        schema::undo(&*self.reader, hash)
    }

    /// An unspent coin.
    pub fn coin(&self, outpoint: &OutPoint) -> Result<Option<Coin>, StoreError> {
        if let Some(coin) = self.recent()?.coin(outpoint) {
            return Ok(coin);
        }
        let value = self.reader.get(Column::Coins, &schema::coin_key(outpoint))?;
        value.map(|value| schema::coin(outpoint, &value)).transpose()
    }

    /// Unspent coins, in the order asked for.
    pub fn coins(&self, outpoints: &[OutPoint]) -> Result<Vec<Option<Coin>>, StoreError> {
        let recent = self.recent()?;
        let recent: Vec<Option<Option<Coin>>> = outpoints.iter().map(|outpoint| recent.coin(outpoint)).collect();
        let older: Vec<OutPoint> =
            outpoints.iter().zip(&recent).filter(|(_, coin)| coin.is_none()).map(|(outpoint, _)| *outpoint).collect();
        let mut stored = schema::coins(&*self.reader, &older)?.into_iter();
        Ok(recent.into_iter().map(|coin| coin.unwrap_or_else(|| stored.next().flatten())).collect())
    }

    /// Every unspent coin, by txid and index.
    pub fn iterate_coins(&self) -> impl Iterator<Item = Result<(OutPoint, Coin), StoreError>> + '_ {
        let recent = self.recent().map(Recent::merged);
        let (recent, failed) = recent.map_or_else(|error| (BTreeMap::new(), Some(error)), |recent| (recent, None));
        let mut recent = recent.into_iter().peekable();
        let mut stored = self
            .reader
            .iterate(Column::Coins, &[], Direction::Forward)
            .map(|row| {
                let (key, value) = row?;
                let outpoint = schema::coin_outpoint(&key)?;
                Ok((outpoint, schema::coin(&outpoint, &value)?))
            })
            .peekable();
        failed.map(Err).into_iter().chain(std::iter::from_fn(move || {
            loop {
                // A recent change stands before the row of the same coin and takes its place.
                let next_stored = match stored.peek() {
                    Some(Ok((outpoint, _))) => Some(*outpoint),
                    Some(Err(_)) => return stored.next(),
                    None => None,
                };
                match recent.next_if(|(outpoint, _)| next_stored.is_none_or(|stored| *outpoint <= stored)) {
                    None => return stored.next(),
                    Some((outpoint, coin)) => {
                        if next_stored == Some(outpoint) {
                            stored.next();
                        }
                        if let Some(coin) = coin {
                            return Some(Ok((outpoint, coin)));
                        }
                    }
                }
            }
        }))
    }

    fn recent(&self) -> Result<&Recent, StoreError> {
        if let Some(recent) = self.recent.get() {
            return Ok(recent);
        }
        let recent = Recent::read(&*self.reader)?;
        Ok(self.recent.get_or_init(|| recent))
    }

    /// Totals over all coins, without walking them.
    pub fn coins_total(&self) -> Result<CoinsTotal, StoreError> {
        let lattice = schema::lattice(&*self.reader)?;
        let (mut count, mut sum) = (lattice.count(), lattice.sum());
        for change in self.recent()?.changes() {
            let (out, into) = change.effects();
            count = count + into.len() as u64 - out.len() as u64;
            for (_, coin) in into {
                sum += coin.output.amount.sen();
            }
            for (_, coin) in out {
                sum -= coin.output.amount.sen();
            }
        }
        Ok(CoinsTotal { count, sum })
    }

    /// The lattice over all coins.
    pub fn lattice(&self) -> Result<Lattice, StoreError> {
        let mut lattice = schema::lattice(&*self.reader)?;
        for change in self.recent()?.changes() {
            let (delta, reverted) = change.delta();
            let changes = delta.lattice_changes();
            let changes = if reverted { changes.negate() } else { changes };
            lattice.apply(&changes).map_err(|error| StoreError::corrupt(error.to_string()))?;
        }
        Ok(lattice)
    }

    /// The way from a follower's block, on any branch, to the tip: at most [`UPDATES_MAX`] blocks each way.
    pub fn updates_since(&self, cursor: BlockHash) -> Result<Updates, StoreError> {
        let mut updates = Updates::default();
        let mut hash = cursor;
        let mut row = self.known(&hash)?;
        while self.hash_at(row.height)? != Some(hash) {
            if updates.revert.len() == UPDATES_MAX {
                updates.more = true;
                return Ok(updates);
            }
            updates.revert.push(hash);
            hash = row.header.previous;
            row = self.known(&hash)?;
        }
        let mut height = row.height;
        while height < self.tip.height() {
            if updates.apply.len() == UPDATES_MAX {
                updates.more = true;
                break;
            }
            height = height.next().ok_or_else(|| StoreError::corrupt("the tip is above the last height"))?;
            let hash = self.hash_at(height)?;
            updates.apply.push(hash.ok_or_else(|| StoreError::corrupt(format!("height {height} is missing")))?);
        }
        Ok(updates)
    }

    fn known(&self, hash: &BlockHash) -> Result<StoredHeader, StoreError> {
        self.header(hash)?.ok_or_else(|| StoreError::corrupt(format!("block {hash} is not known")))
    }
}
