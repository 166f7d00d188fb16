//! From the tip to the best branch: revert to where they part, then connect, block by block.
//!
//! Any depth in bounded memory: only ids are planned, each step reads its own block, and changes are flushed whenever
//! they fill their share of memory. Every flush leaves a valid chain on disk, so a crash in the middle is nothing
//! special: the next start finds a lower tip and a better branch. So does a stop, which ends a long way between two
//! blocks.

use super::chain::{ChainCore, Now};
use super::failpoint;
use super::tree::NodeId;
use super::{ChainFault, StepError};
use setara_core::consensus::{Class, RuleError};
use setara_core::height::Height;

/// Reverting this many blocks is no accident of propagation: the operator should look (exchanges wait for six).
const ALARM_DEPTH: usize = 6;
/// A way of up to this many blocks and bytes is gone to its end even when the node is to stop: a second or two.
const UNINTERRUPTED_BLOCKS: usize = 64;
const UNINTERRUPTED_BYTES: u64 = 16 << 20;

struct Plan {
    /// Blocks of the active chain to take back.
    revert: usize,
    /// Blocks to connect, highest first.
    apply: Vec<NodeId>,
}

impl ChainCore {
    fn plan(&self, target: NodeId) -> Plan {
        let apply: Vec<NodeId> = self.tree.branch(target).take_while(|id| !self.is_active(*id)).collect();
        let fork = apply.last().and_then(|id| self.tree.node(*id).parent).unwrap_or(target);
        let revert = self.height().get() - self.tree.node(fork).height().get();
        Plan { revert: revert as usize, apply }
    }

    /// Whether a stop may end this way between two blocks.
    fn is_long(&self, plan: &Plan) -> bool {
        let reverted = self.active.iter().rev().take(plan.revert);
        let bytes = reverted.chain(&plan.apply).map(|id| u64::from(self.tree.node(*id).size)).sum::<u64>();
        plan.revert + plan.apply.len() > UNINTERRUPTED_BLOCKS || bytes > UNINTERRUPTED_BYTES
    }

    /// Makes the best candidate the tip. Blocks that turn out to be invalid are marked on the way, and the next best
    /// branch is tried.
    pub(super) fn activate(&mut self, now: Now) -> Result<(), ChainFault> {
        'branches: while let Some(best) = self.tree.best().filter(|best| *best != self.tip_id()) {
            let mut plan = self.plan(best);
            if !self.may_reorganise(&plan) {
                continue;
            }
            let long = self.is_long(&plan);
            for _ in 0..plan.revert {
                if long && self.options.stop.is_cancelled() {
                    return Ok(());
                }
                self.revert_tip()?;
                self.flush_if_due(now)?;
            }
            if plan.revert > 0 {
                failpoint::pass(failpoint::MID_REORG);
            }
            while let Some(id) = plan.apply.pop() {
                if long && self.options.stop.is_cancelled() {
                    return Ok(());
                }
                self.make_space_for(id, now)?;
                match self.connect_tip(id) {
                    Ok(()) => {}
                    Err(StepError::Rule(error)) => {
                        self.reject(id, error, now)?;
                        continue 'branches;
                    }
                    Err(StepError::Fault(fault)) => return Err(fault),
                }
                // The end of the plan is flushed by whoever asked for it.
                if !plan.apply.is_empty() {
                    self.flush_if_due(now)?;
                }
            }
        }
        self.tree.prune_candidates(self.tip_id());
        Ok(())
    }

    /// Raises the alarm on a deep reorganisation, and refuses one that is deeper than the operator allows: that branch
    /// is left alone until the node restarts or the operator reconsiders it.
    fn may_reorganise(&mut self, plan: &Plan) -> bool {
        let tip = self.state.hash();
        if let Some(max) = self.options.max_reorg
            && plan.revert > max as usize
            && let Some(first) = plan.apply.last().copied()
        {
            let branch = self.tree.node(first).hash();
            tracing::error!(depth = plan.revert, max, %tip, %branch, "a better branch was refused: deeper than max-reorg");
            self.tree.set_aside(first);
            return false;
        }
        let lowest = self.height().get() - plan.revert as u32 + 1;
        if plan.revert > 0
            && !self.can_revert(Height::new(lowest))
            && let Some(first) = plan.apply.last().copied()
        {
            let branch = self.tree.node(first).hash();
            tracing::error!(
                depth = plan.revert, %tip, %branch,
                "a better branch forks off below what this pruned node can take back: move the data directory away and \
                 sync anew to follow it"
            );
            self.tree.set_aside(first);
            return false;
        }
        if plan.revert >= ALARM_DEPTH {
            let best = plan.apply.first().map(|id| self.tree.node(*id).hash());
            tracing::error!(depth = plan.revert, %tip, best = ?best, "deep reorganisation: check who mines");
        } else if plan.revert > 0 {
            tracing::warn!(depth = plan.revert, connect = plan.apply.len(), %tip, "reorganisation");
        }
        true
    }

    /// A block of the tree could not be connected to the tip, its parent.
    fn reject(&mut self, id: NodeId, error: RuleError, now: Now) -> Result<(), ChainFault> {
        match error.class() {
            Class::Invalid => self.reject_for_good(id, error),
            Class::SuspectCoins if self.audits.is_sound(&self.state.hash()) => self.reject_for_good(id, error),
            Class::SuspectCoins => self.suspect(id, error, now)?,
            Class::Mutated | Class::MissingParent | Class::Transient => {
                let hash = self.tree.node(id).hash();
                return Err(ChainFault::Damaged(format!("stored block {hash}: {error}")));
            }
        }
        Ok(())
    }

    /// The verdict stays; the body does not.
    fn reject_for_good(&mut self, id: NodeId, error: RuleError) {
        self.mark_failed(id, error);
        self.tree.drop_body(id);
        self.pending.drop_body(self.tree.node(id).hash());
    }
}
