//! Beginning with a snapshot: the coins after a block far up the chain take the place of those there are.
//!
//! ```text
//!  mark "loading" (synced) ─► coins out ─► coins in, checked one by one ─► heights ─► one synced batch: lattice, tip,
//!                                                                                     pruned heights, mark "unverified"
//! ```
//!
//! A crash in between leaves the first mark: the next start throws all coins away and begins at genesis, with the bodies
//! that are here. After the last batch the chain is a pruned one whose deleted part was never here: bodies and undo
//! records begin above the base, and no reorganisation goes below it. Whether its history is right is found out by a second
//! chain (`snapshot/history.rs`); what that finds is stored here.
//!
//! The caller has checked the manifest against headers, and every coin once: an error here means that the file changed, and
//! is a fault.

use super::ChainFault;
use super::chain::{ChainCore, Now};
use super::flush::Pending;
use super::recent::Recent;
use super::tree::NodeId;
use crate::snapshot::{Elements, LoadError, walk};
use crate::store::schema::{self, Pruned, PutRows, SnapshotRow, SnapshotStage, flags};
use crate::store::{Batch, Column, Direction, Durability, Store};
use setara_core::amount::Amount;
use setara_core::codec;
use setara_core::consensus::{BlockDelta, ChainState, apply};
use setara_core::height::Height;
use setara_core::lattice::Lattice;
use setara_core::network::Network;
use setara_core::snapshot::{Manifest, SnapshotError};

/// Bytes of rows written at once.
const BATCH_BYTES: usize = 4 << 20;
/// Rows deleted at once.
const CLEAR_ROWS: usize = 20_000;

impl ChainCore {
    /// Takes the coins of a snapshot for those after its base, which must be above the tip, on the best branch of headers.
    pub fn adopt(&mut self, manifest: &Manifest, elements: Elements, now: Now) -> Result<(), LoadError> {
        self.usable()?;
        let branch = self.base_branch(manifest)?;
        self.replace(manifest, elements, &branch, now).map_err(|fault| LoadError::Chain(self.fail(fault)))?;
        self.reactivate(now)?;
        Ok(())
    }

    /// Genesis to the base.
    fn base_branch(&self, manifest: &Manifest) -> Result<Vec<NodeId>, LoadError> {
        let (base, tip) = (manifest.base, self.height());
        if self.snapshot.is_some() {
            return Err(LoadError::Again);
        }
        if tip >= base {
            return Err(LoadError::Late { tip, base });
        }
        let off = || SnapshotError::OffChain { hash: manifest.base_hash, height: base };
        let best = self.tree.best_header();
        let id = self.tree.ancestor(best, base.get()).ok_or_else(off)?;
        if self.tree.node(id).hash() != manifest.base_hash {
            return Err(off().into());
        }
        let mut branch: Vec<NodeId> = self.tree.branch(id).collect();
        branch.reverse();
        Ok(branch)
    }

    fn replace(
        &mut self,
        manifest: &Manifest,
        elements: Elements,
        branch: &[NodeId],
        now: Now,
    ) -> Result<(), ChainFault> {
        self.flush_midway(now)?;
        let mut row = SnapshotRow {
            base: manifest.base,
            hash: manifest.base_hash,
            root: manifest.coinbase.coins_root,
            stage: SnapshotStage::Loading,
        };
        let mut batch = Batch::new();
        batch.put_snapshot(&row);
        self.store.write(batch, Durability::Synced)?;
        clear(&*self.store, Column::Coins)?;
        let mut batch = Batch::new();
        let store = self.store.clone();
        let mut elements = elements;
        walk(manifest, &mut elements, &mut |outpoint, coin| {
            batch.put_coin(outpoint, Some(coin));
            if batch.size() >= BATCH_BYTES {
                store.write(std::mem::take(&mut batch), Durability::Unsynced)?;
            }
            Ok(())
        })
        .map_err(|error| match error {
            LoadError::Store(error) => ChainFault::Store(error),
            error => ChainFault::Snapshot(format!(
                "the snapshot changed while it was loaded ({error}): start again, the chain begins anew"
            )),
        })?;
        for (height, id) in (0u32..).zip(branch) {
            batch.put_height(Height::new(height), Some(&self.tree.node(*id).hash()));
            if batch.size() >= BATCH_BYTES {
                self.store.write(std::mem::take(&mut batch), Durability::Unsynced)?;
            }
        }
        self.store.write(std::mem::take(&mut batch), Durability::Unsynced)?;

        // What is here of the blocks below goes with the switch, and not before.
        for id in branch {
            let node = self.tree.node(*id);
            if node.has(flags::BODY) {
                batch.delete(Column::Bodies, node.hash().as_bytes());
                batch.delete(Column::Undo, node.hash().as_bytes());
            }
            self.tree.adopt(*id);
        }
        self.put_headers(&mut batch);
        for bucket in 0..=u8::MAX {
            batch.put_bucket(bucket, &manifest.coins);
        }
        let tip = *branch.last().expect("genesis is on every branch");
        let state = ChainState {
            header: self.tree.node(tip).state,
            coins_root: manifest.coinbase.coins_root,
            supply: Amount::from_sen(manifest.coins.sum()),
        };
        let above = manifest.base.next().expect("a block stands on the base");
        let pruned = Pruned { bodies_from: above, undo_from: above };
        row.stage = SnapshotStage::Unverified;
        batch.put_tip(&state);
        batch.put_coins_tip(&state);
        batch.put_pruned(&pruned);
        batch.put_snapshot(&row);
        self.store.write(batch, Durability::Synced)?;
        tracing::info!(
            base = row.base.get(), hash = %row.hash, coins = manifest.coins.count(),
            "began with a snapshot of the coins: usable now, its history is still to be verified"
        );
        self.coins.drop_clean();
        self.recent = Recent::default();
        self.lattice = manifest.coins.clone();
        self.state = state;
        self.active = branch.to_vec();
        self.pruned = Some(pruned);
        self.snapshot = Some(row);
        self.pending = Pending::new(state.height(), now);
        self.publish()
    }

    /// The history behind the snapshot has been verified, or is wrong: then this chain stops.
    pub fn finish_history(&mut self, result: Result<(), String>) -> Result<(), super::SubmitError> {
        self.usable()?;
        let Some(mut row) = self.snapshot else { return Ok(()) };
        let stored = match result {
            Err(reason) => Err(ChainFault::Snapshot(format!(
                "the history behind the snapshot this chain began with is wrong: {reason}. Its coins were made up by somebody \
                 with more work than the honest network. Move the data directory away and sync without a snapshot"
            ))),
            Ok(()) => {
                row.stage = SnapshotStage::Verified;
                let mut batch = Batch::new();
                batch.put_snapshot(&row);
                self.store.write(batch, Durability::Synced).map_err(ChainFault::from)
            }
        };
        stored.map_err(|fault| self.fail(fault))?;
        self.snapshot = Some(row);
        self.publish().map_err(|fault| self.fail(fault))
    }
}

/// Deletes every row of a column, batch by batch.
fn clear(store: &dyn Store, column: Column) -> Result<(), ChainFault> {
    let mut from = Vec::new();
    loop {
        let mut batch = Batch::new();
        for row in store.iterate(column, &from, Direction::Forward).take(CLEAR_ROWS) {
            let (key, _) = row?;
            batch.delete(column, &key);
            from = key;
        }
        if batch.is_empty() {
            return Ok(());
        }
        store.write(batch, Durability::Unsynced)?;
    }
}

/// A chain that died while it took a snapshot begins at genesis again. What is done twice after another crash does the same.
pub(super) fn reset(store: &dyn Store, network: &Network) -> Result<(), ChainFault> {
    tracing::warn!("a snapshot was not loaded to its end: the chain begins at genesis again");
    clear(store, Column::Coins)?;
    clear(store, Column::Heights)?;
    let mut batch = Batch::new();
    // A body that was pruned is missing now.
    for row in store.iterate(Column::Headers, &[], Direction::Forward) {
        let (key, value) = row?;
        let hash = <[u8; 32]>::try_from(key).map_err(|_| ChainFault::Damaged("a header's key".to_owned()))?;
        let hash = setara_core::hash::BlockHash::from_bytes(hash);
        let mut row = schema::header_row(&hash, value)?;
        if row.flags & flags::PRUNED != 0 {
            row.flags &= !flags::PRUNED;
            batch.put_header(&hash, &row);
        }
    }
    let delta = BlockDelta::genesis(network);
    let changes = delta.lattice_changes();
    let mut lattice = Lattice::empty();
    lattice.apply(&changes).map_err(|error| ChainFault::Damaged(error.to_string()))?;
    for (outpoint, coin) in delta.created() {
        batch.put_coin(outpoint, Some(coin));
    }
    for bucket in 0..=u8::MAX {
        batch.put_bucket(bucket, &lattice);
    }
    let hash = network.genesis_hash();
    batch.put_body(&hash, &codec::encode(network.genesis()));
    batch.put_undo(&hash, &codec::encode(&delta));
    batch.put_height(Height::GENESIS, Some(&hash));
    let state = apply(&delta, lattice.root());
    batch.put_tip(&state);
    batch.put_coins_tip(&state);
    batch.forget_pruned();
    batch.forget_snapshot();
    Ok(store.write(batch, Durability::Synced)?)
}
