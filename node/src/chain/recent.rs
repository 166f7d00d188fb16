//! The newest blocks' changes of coins: stored as undo records with the tip, not yet in the coins' own rows.
//!
//! A block's delta says exactly which coins it makes and spends, so once it is stored, the coins after the block are
//! fixed: their rows may follow later, many blocks' at once and when nobody waits. Until then
//!
//! ```text
//! coins after the tip = stored rows (after the block `coins_tip`) + the deltas from `coins_tip` to the tip
//! ```
//!
//! for readers ([`Recent`]) and after a crash ([`Replay`]) alike. The chain's own cache takes them late as well: it is
//! so large that every access waits for memory, while these few tables stay near.
//! `coins_tip` may even be on a branch that was left:
//! the way from it to the tip then begins with reverts, which need the same records.

use super::hasher::KeyedState;
use crate::store::{Reader, StoreError, schema};
use setara_core::consensus::{BlockDelta, HeaderState};
use setara_core::transaction::{Coin, OutPoint};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// Steps that the rows may be behind: what a start after a crash repeats, and the tables that a look-up passes.
const STEPS_MAX: usize = 32;
/// Coins that those steps change, at most: some 30 MB, the records and their tables.
const COINS_MAX: usize = 1 << 17;

/// Coins with their names.
type Coins<'a> = &'a [(OutPoint, Coin)];

/// One block, connected or reverted.
pub(super) struct Change {
    delta: BlockDelta,
    reverted: bool,
    /// Made by the first reader who looks: often there is none before the rows are stored.
    table: OnceLock<HashMap<OutPoint, Option<Coin>, KeyedState>>,
}

impl Change {
    pub const fn new(delta: BlockDelta, reverted: bool) -> Self {
        Self { delta, reverted, table: OnceLock::new() }
    }

    /// What it takes out and what it puts in.
    pub fn effects(&self) -> (Coins<'_>, Coins<'_>) {
        let (spent, created) = (self.delta.spent(), self.delta.created());
        if self.reverted { (created, spent) } else { (spent, created) }
    }

    /// The block's delta, and whether it is taken back.
    pub const fn delta(&self) -> (&BlockDelta, bool) {
        (&self.delta, self.reverted)
    }

    fn coins(&self) -> usize {
        self.delta.spent().len() + self.delta.created().len()
    }

    /// What it leaves of each coin it touches.
    pub fn table(&self) -> &HashMap<OutPoint, Option<Coin>, KeyedState> {
        self.table.get_or_init(|| {
            let (out, into) = self.effects();
            let mut table = HashMap::with_capacity_and_hasher(self.coins(), KeyedState::random());
            table.extend(out.iter().map(|(outpoint, _)| (*outpoint, None)));
            table.extend(into.iter().map(|(outpoint, coin)| (*outpoint, Some(*coin))));
            table
        })
    }
}

/// The changes since the coins' rows were stored, oldest first.
#[derive(Clone, Default)]
pub(super) struct Recent {
    changes: Vec<Arc<Change>>,
    /// How many of them the chain's cache has taken.
    cached: usize,
    /// Coins that all of them change.
    coins: usize,
    /// There were more than are kept: the rows must be stored before anyone reads.
    overflowed: bool,
}

impl Recent {
    /// Remembers a step that the cache has not taken. There must be room for it.
    pub fn push(&mut self, change: Change) {
        self.coins += change.coins();
        self.changes.push(Arc::new(change));
    }

    /// Remembers a step that the cache has taken, as all before it, if there is room.
    pub fn push_cached(&mut self, change: Change) {
        if self.is_full() {
            *self = Self { overflowed: true, ..Self::default() };
        } else {
            self.push(change);
            self.cached = self.changes.len();
        }
    }

    /// Hands out the steps that the cache has not taken; it has them then.
    pub fn take_uncached(&mut self) -> Vec<Arc<Change>> {
        let uncached = self.changes[self.cached..].to_vec();
        self.cached = self.changes.len();
        uncached
    }

    /// Coins of the steps that the cache has not taken, at most.
    pub fn uncached_coins(&self) -> usize {
        self.changes[self.cached..].iter().map(|change| change.coins()).sum()
    }

    /// As [`Self::coin`], of the steps that the cache has not taken.
    pub fn uncached_coin(&self, outpoint: &OutPoint) -> Option<Option<Coin>> {
        last(&self.changes[self.cached..], outpoint)
    }

    /// Whether the coins' rows should be stored now.
    pub fn is_full(&self) -> bool {
        self.overflowed || self.changes.len() >= STEPS_MAX || self.coins >= COINS_MAX
    }

    /// Whether readers would miss a change.
    pub const fn is_incomplete(&self) -> bool {
        self.overflowed
    }

    /// Reads the changes that `reader` has stored beyond its coins' rows.
    pub fn read(reader: &dyn Reader) -> Result<Self, StoreError> {
        let mut recent = Self::default();
        let mut replay = Replay::new(reader)?;
        while let Some(change) = replay.next()? {
            recent.coins += change.coins();
            recent.changes.push(Arc::new(change));
        }
        Ok(recent)
    }

    /// What the newest step that touches a coin left of it; `None` if no step does.
    pub fn coin(&self, outpoint: &OutPoint) -> Option<Option<Coin>> {
        last(&self.changes, outpoint)
    }

    /// What all steps together leave of the coins they touch.
    pub fn merged(&self) -> BTreeMap<OutPoint, Option<Coin>> {
        let mut merged = BTreeMap::new();
        for change in &self.changes {
            let (out, into) = change.effects();
            merged.extend(out.iter().map(|(outpoint, _)| (*outpoint, None)));
            merged.extend(into.iter().map(|(outpoint, coin)| (*outpoint, Some(*coin))));
        }
        merged
    }

    /// The steps' effects, oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().map(|change| &**change)
    }
}

fn last(changes: &[Arc<Change>], outpoint: &OutPoint) -> Option<Option<Coin>> {
    changes.iter().rev().find_map(|change| change.table().get(outpoint).copied())
}

/// The way from the coins' rows to the tip, step by step, from what is stored.
pub(super) struct Replay<'a> {
    reader: &'a dyn Reader,
    /// Where the coins are after the steps taken so far.
    at: HeaderState,
    tip: HeaderState,
}

impl<'a> Replay<'a> {
    pub fn new(reader: &'a dyn Reader) -> Result<Self, StoreError> {
        let tip = schema::tip(reader)?.ok_or_else(|| missing("the tip"))?;
        let at = schema::coins_tip(reader)?.ok_or_else(|| missing("the block that the coins belong to"))?;
        Ok(Self { reader, at: at.header, tip: tip.header })
    }

    /// The next step, unless the tip is reached.
    pub fn next(&mut self) -> Result<Option<Change>, StoreError> {
        let (hash, height) = (self.at.hash, self.at.height);
        if hash == self.tip.hash {
            return Ok(None);
        }
        let reverted = schema::hash_at(self.reader, height)? != Some(hash);
        let hash = if reverted {
            hash
        } else {
            let above = height.next().ok_or_else(|| missing("the tip's height"))?;
            schema::hash_at(self.reader, above)?.ok_or_else(|| missing(&format!("the block at height {above}")))?
        };
        let delta = schema::undo(self.reader, &hash)?;
        let delta = delta.ok_or_else(|| missing(&format!("the undo record of block {hash}")))?;
        let (from, to) = (delta.parent().header, *delta.header());
        let (from, to) = if reverted { (to, from) } else { (from, to) };
        if from != self.at {
            return Err(StoreError::corrupt(format!("the undo record of block {hash} does not follow the coins")));
        }
        self.at = to;
        Ok(Some(Change::new(delta, reverted)))
    }
}

fn missing(what: &str) -> StoreError {
    StoreError::corrupt(format!("{what} is missing"))
}
