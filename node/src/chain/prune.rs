//! Pruning: bodies and undo records of old blocks are deleted; headers and coins stay.
//!
//! ```text
//!  0 ──────────── undo_from ──────────── bodies_from ─────────────────── tip
//!    header alone            + undo record            + body
//! ```
//!
//! - At least [`KEEP_BODIES`] bodies and [`KEEP_UNDO`] undo records below the tip stay, whatever is asked for.
//! - One batch deletes rows, marks headers and moves the heights, so after a crash each block has all of what the
//!   heights say, or nothing is deleted yet.
//! - A reorganisation goes as deep as undo records reach. A block taken back whose body is gone counts as never had: if
//!   its branch is the better one again, the body is fetched again.
//! - Branches beside the active one lose their bodies by height as well: nothing below can join them any more.

use super::chain::{ChainCore, Now};
use super::failpoint;
use super::tree::NodeId;
use super::{ChainFault, SubmitError};
use crate::store::schema::{Pruned, PutRows, flags};
use crate::store::{Batch, Column, Durability};
use setara_core::height::Height;

/// Newest bodies that always stay: two days of blocks at ten minutes (Bitcoin Core's number), what a node that was off
/// for a while asks its peers for.
pub const KEEP_BODIES: u32 = 288;
/// Newest undo records that always stay: a week of blocks at a minute, deeper than any reorganisation that is not an
/// attack on the whole network.
pub const KEEP_UNDO: u32 = 10_000;
/// Blocks deleted in one step: a batch of a few hundred kilobytes, so that blocks do not wait for it.
const STEP_BLOCKS: u32 = 1_024;

/// How much is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneGoal {
    /// Every body below this height.
    Below(Height),
    /// The oldest bodies, until those that are left take no more than so many bytes.
    Bytes(u64),
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneReport {
    /// What is gone since the chain began.
    pub pruned: Option<Pruned>,
    /// Blocks whose bodies went now.
    pub blocks: u32,
    /// Bytes of bodies that are left.
    pub body_bytes: u64,
    /// The goal is not reached and another step would do more.
    pub more: bool,
}

impl ChainCore {
    /// Whether the active chain's block at `height` and all above it can be taken back.
    pub(super) fn can_revert(&self, height: Height) -> bool {
        self.pruned.is_none_or(|pruned| height >= pruned.undo_from)
    }

    /// The tip's block at `height` was connected with its body, or taken back; `lowers` if bodies now reach down to there.
    pub(super) fn bodies_reach(&mut self, height: Height, lowers: bool) {
        if let Some(pruned) = self.pruned.as_mut().filter(|pruned| lowers && height < pruned.bodies_from) {
            pruned.bodies_from = height;
            pruned.undo_from = pruned.undo_from.min(height);
        }
    }

    /// Deletes old bodies, and undo records deeper than are kept, none of a block above `limit`.
    pub fn prune(&mut self, goal: PruneGoal, limit: Height, now: Now) -> Result<PruneReport, SubmitError> {
        self.usable()?;
        self.prune_step(goal, limit, now).map_err(|fault| self.fail(fault))
    }

    fn prune_step(&mut self, goal: PruneGoal, limit: Height, now: Now) -> Result<PruneReport, ChainFault> {
        let pruned = self.pruned.unwrap_or(Pruned { bodies_from: Height::GENESIS, undo_from: Height::GENESIS });
        let tip = self.height().get();
        let from = pruned.bodies_from.get();
        // Of heights 0 to tip the highest `keep_bodies` stay.
        let end = (tip + 1).saturating_sub(self.options.keep_bodies).min(limit.get().saturating_add(1));
        let mut body_bytes = self.tree.body_bytes();
        let wanted = |height: u32, body_bytes: u64| match goal {
            PruneGoal::Below(below) => height < below.get(),
            PruneGoal::Bytes(bytes) => body_bytes > bytes,
        };
        let mut below = from;
        while below < end && below - from < STEP_BLOCKS && wanted(below, body_bytes) {
            let node = self.tree.node(self.active[below as usize]);
            if below > 0 && node.has(flags::BODY) {
                body_bytes = body_bytes.saturating_sub(u64::from(node.size));
            }
            below += 1;
        }
        let undo_from = below.min(tip.saturating_sub(self.options.keep_undo)).max(pruned.undo_from.get());
        let undo_to = undo_from.min(pruned.undo_from.get() + STEP_BLOCKS);
        let more = undo_to < undo_from || (below < end && wanted(below, body_bytes));
        if below == from && undo_to == pruned.undo_from.get() {
            return Ok(PruneReport { pruned: self.pruned, blocks: 0, body_bytes: self.tree.body_bytes(), more: false });
        }
        // What is not stored yet must not be written after it was deleted.
        self.flush_midway(now)?;
        let mut batch = Batch::new();
        for height in from..below {
            let id = self.active[height as usize];
            batch.delete(Column::Bodies, self.tree.node(id).hash().as_bytes());
            self.tree.prune_body(id);
        }
        for height in pruned.undo_from.get()..undo_to {
            batch.delete(Column::Undo, self.tree.node(self.active[height as usize]).hash().as_bytes());
        }
        for id in self.side_blocks(below) {
            let hash = self.tree.node(id).hash();
            batch.delete(Column::Bodies, hash.as_bytes());
            batch.delete(Column::Undo, hash.as_bytes());
            self.tree.drop_body(id);
        }
        let pruned = Pruned { bodies_from: Height::new(below), undo_from: Height::new(undo_to) };
        self.pruned = Some(pruned);
        batch.put_pruned(&pruned);
        self.put_headers(&mut batch);
        failpoint::pass(failpoint::BEFORE_PRUNE);
        self.store.write(batch, Durability::Synced)?;
        failpoint::pass(failpoint::AFTER_PRUNE);
        if self.state.header.work >= self.shared.view().tip.header.work {
            self.publish()?;
        }
        Ok(PruneReport { pruned: self.pruned, blocks: below - from, body_bytes: self.tree.body_bytes(), more })
    }

    /// Blocks below a height that have bodies and are not in the active chain.
    fn side_blocks(&self, below: u32) -> Vec<NodeId> {
        let Some(highest) = below.checked_sub(1) else { return Vec::new() };
        let mut found = Vec::new();
        for leaf in self.tree.leaves() {
            let top = self.tree.node(leaf).height().get().min(highest);
            let Some(top) = self.tree.ancestor(leaf, top) else { continue };
            let side = self.tree.branch(top).take_while(|id| !self.is_active(*id));
            found.extend(side.filter(|id| self.tree.node(*id).has(flags::BODY)));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}
