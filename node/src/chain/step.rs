//! One step along the chain, in memory: a block connected to the tip, or the tip's block reverted.
//!
//! A rule can only break before anything has changed. Once a block's delta is being applied, any surprise is a fault
//! of this node.

use super::chain::{ChainCore, Fresh};
use super::failpoint;
use super::recent::Change;
use super::tree::NodeId;
use super::{ChainFault, StepError};
use crate::store::schema::{self, flags};
use rayon::prelude::*;
use setara_core::block::{Block, EncodedBlock};
use setara_core::codec;
use setara_core::consensus::{BlockDelta, CheckedBlock, apply, connect};
use setara_core::lattice::{BUCKETS, LatticeDelta};
use setara_core::transaction::{Coin, OutPoint};

/// Coins below which computing the lattice's change on several workers costs more than it saves.
const LATTICE_SPREAD_MIN: usize = 256;

/// The change of the coins' commitment, on all workers of the current pool.
fn lattice_changes(delta: &BlockDelta) -> LatticeDelta {
    let coins = delta.spent().len() + delta.created().len();
    if coins < LATTICE_SPREAD_MIN {
        return delta.lattice_changes();
    }
    // Each part has its own buckets, so that none is allocated or added up twice.
    let parts = (rayon::current_num_threads() * 2).min(BUCKETS);
    let part_of = |outpoint: &OutPoint| usize::from(outpoint.txid.as_bytes()[0]) * parts / BUCKETS;
    (0..parts)
        .into_par_iter()
        .map(|part| {
            let mut changes = LatticeDelta::new();
            for (outpoint, coin) in delta.spent().iter().filter(|(outpoint, _)| part_of(outpoint) == part) {
                changes.subtract(outpoint, coin);
            }
            for (outpoint, coin) in delta.created().iter().filter(|(outpoint, _)| part_of(outpoint) == part) {
                changes.add(outpoint, coin);
            }
            changes
        })
        .reduce(LatticeDelta::new, |mut sum, part| {
            sum.merge(part);
            sum
        })
}

impl ChainCore {
    /// Connects a block whose parent is the tip.
    pub(super) fn connect_tip(&mut self, id: NodeId) -> Result<(), StepError> {
        let Fresh { checked, signed, .. } = self.take_checked(id)?;
        let coins_of_block = self.load_coins(&checked)?;
        let delta = connect(&self.network, &self.state, &checked, &coins_of_block).map_err(StepError::Rule)?;
        if !signed {
            self.verifier.verify(&checked).map_err(StepError::Rule)?;
        }
        // Every rule has passed: nothing has changed so far, and nothing but a fault can stop what follows.
        self.tree.set_flags(id, flags::SIGNED | flags::CONNECTED);
        let change = Change::new(delta, false);
        let (delta, _) = change.delta();
        let (undo, changes) = if signed {
            // In a bulk load the workers have other blocks to check.
            (codec::encode(delta), delta.lattice_changes())
        } else {
            let pool = self.verifier.pool().clone();
            let record = || {
                change.table();
                codec::encode(delta)
            };
            let results = pool.join(record, || lattice_changes(delta));
            // A block of many small parts takes its time to free.
            pool.spawn(move || drop((checked, coins_of_block)));
            results
        };
        self.change_lattice(&changes)?;
        self.state = apply(delta, self.lattice.root());
        self.active.push(id);
        self.bodies_reach(self.state.height(), true);
        self.pending.put_undo(delta.header().hash, undo);
        self.pending.height_changed(self.state.height());
        self.take_step(change, !signed)?;
        failpoint::pass(failpoint::AFTER_CONNECT);
        Ok(())
    }

    /// The coins that a block requires, aligned.
    fn load_coins(&mut self, checked: &CheckedBlock) -> Result<Vec<Option<Coin>>, ChainFault> {
        let required = checked.required_coins();
        // An upper bound of what it makes, so that nothing loaded for it is dropped before it is spent.
        let made: usize = checked.block().transactions.iter().map(|transaction| transaction.outputs.len()).sum();
        self.coins.make_room(required.len() + made + checked.block().coinbase.outputs.len());
        if self.recent.uncached_coins() == 0 {
            return Ok(self.coins.load(&*self.store, required)?);
        }
        let recent: Vec<_> = required.iter().map(|outpoint| self.recent.uncached_coin(outpoint)).collect();
        let older = required.iter().zip(&recent).filter(|(_, coin)| coin.is_none());
        let older: Vec<OutPoint> = older.map(|(outpoint, _)| *outpoint).collect();
        let mut older = self.coins.load(&*self.store, &older)?.into_iter();
        Ok(recent.into_iter().map(|coin| coin.unwrap_or_else(|| older.next().flatten())).collect())
    }

    /// The coins take a step: the cache at once, or, at the tip, when their rows are stored.
    fn take_step(&mut self, change: Change, later: bool) -> Result<(), ChainFault> {
        if later && !self.recent.is_full() {
            self.recent.push(change);
            return Ok(());
        }
        if !later && self.recent.uncached_coins() == 0 {
            // What it takes out was loaded for it.
            self.coins.step(&change)?;
        } else {
            self.cache_recent()?;
            self.cache_step(&change)?;
        }
        self.recent.push_cached(change);
        Ok(())
    }

    /// Lets the cache take the steps that it has not taken.
    pub(super) fn cache_recent(&mut self) -> Result<(), ChainFault> {
        for change in self.recent.take_uncached() {
            self.cache_step(&change)?;
        }
        Ok(())
    }

    fn cache_step(&mut self, change: &Change) -> Result<(), ChainFault> {
        let (out, into) = change.effects();
        self.coins.make_room(out.len() + into.len());
        let outpoints: Vec<OutPoint> = out.iter().map(|(outpoint, _)| *outpoint).collect();
        self.coins.load(&*self.store, &outpoints)?;
        Ok(self.coins.step(change)?)
    }

    /// The block itself: just submitted, or read back.
    fn take_checked(&mut self, id: NodeId) -> Result<Fresh, StepError> {
        if let Some(fresh) = self.fresh.take() {
            if fresh.id == id {
                return Ok(fresh);
            }
            self.fresh = Some(fresh);
        }
        let hash = self.tree.node(id).hash();
        let bytes = self.body(&hash)?;
        let damaged = |reason: String| ChainFault::Damaged(format!("the body of block {hash}: {reason}"));
        let block = EncodedBlock::decode(bytes).map_err(|error| damaged(error.to_string()))?;
        let found = block.block().hash();
        if found != hash {
            return Err(damaged(format!("it is that of {found}")).into());
        }
        // It was checked when it came: only its bytes can have changed since, and that is no verdict on the block.
        let (checked, _) = self.verifier.check(block).map_err(|error| damaged(error.to_string()))?;
        Ok(Fresh { id, checked, signed: self.tree.node(id).has(flags::SIGNED) })
    }

    /// A body, flushed or not.
    pub(super) fn body(&self, hash: &setara_core::hash::BlockHash) -> Result<Vec<u8>, ChainFault> {
        if let Some(bytes) = self.pending.body(hash) {
            return Ok(bytes.clone());
        }
        let body = schema::body(&*self.store, hash)?;
        body.ok_or_else(|| ChainFault::Damaged(format!("the body of block {hash} is missing")))
    }

    fn change_lattice(&mut self, changes: &LatticeDelta) -> Result<(), ChainFault> {
        self.lattice.apply(changes).map_err(|error| ChainFault::Damaged(error.to_string()))?;
        self.pending.touch_buckets(changes.touched());
        Ok(())
    }

    /// Reverts the tip's block; the state is then exactly that before it, or this node is damaged.
    pub(super) fn revert_tip(&mut self) -> Result<(), ChainFault> {
        let hash = self.state.hash();
        let damaged = |what: &str| ChainFault::Damaged(format!("{what} of block {hash}"));
        let delta = match self.pending.undo(&hash)? {
            Some(delta) => delta,
            None => schema::undo(&*self.store, &hash)?.ok_or_else(|| damaged("there is no undo record"))?,
        };
        // Of a pruned block the undo record knows the root as well; it was held against the coinbase's when it was made.
        let is_pruned = self.tree.node(self.tip_id()).has(flags::PRUNED);
        let committed = if is_pruned {
            delta.parent().coins_root
        } else {
            let block = self.body(&hash)?;
            let block: Block = codec::decode(&block).map_err(|error| damaged(&format!("{error}: the body")))?;
            block.coinbase.coins_root
        };
        let parent = self.tree.node(self.tip_id()).header.previous;
        if *delta.header() != self.state.header || delta.parent().hash() != parent {
            return Err(damaged("another branch's undo record is stored as that"));
        }
        let changes = self.verifier.pool().install(|| lattice_changes(&delta)).negate();
        let before = *delta.parent();
        self.change_lattice(&changes)?;
        // "Reverting block h must give back the root in h's own coinbase, else this node is damaged."
        let root = self.lattice.root();
        if root != committed || root != before.coins_root {
            return Err(damaged("the coins before it do not match the coinbase"));
        }
        self.pending.height_changed(self.state.height());
        self.state = before;
        if let Some(id) = self.active.pop().filter(|_| is_pruned) {
            // It may be the better branch again: then its body is needed.
            self.tree.drop_body(id);
        }
        self.bodies_reach(delta.header().height, is_pruned);
        self.take_step(Change::new(delta, true), true)?;
        failpoint::pass(failpoint::AFTER_REVERT);
        Ok(())
    }
}
