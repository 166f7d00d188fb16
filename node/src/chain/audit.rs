//! The coins audit: when a block and this node's coins disagree, find out which of the two is wrong.
//!
//! A wrong `coins_root`, a missing coin, or another amount or address, in a body that matches its header, is either an
//! invalid block or damage on this side. The block is set aside, other branches go on, and one background task looks
//! at exactly the coins after the block's parent:
//!
//! 1. the lattice recounted from every stored coin must equal the lattice that was kept up step by step;
//! 2. that lattice less the parent's own changes (worked out anew from its body and undo record) must give the root
//!    that the parent's coinbase committed to.
//!
//! Either fails: this node stops. Both hold: what is stored is right, but the block was held against the cache as well.
//! Its clean entries are dropped and the block is tried once more, on the stored coins; if it fails again it is
//! invalid, for good. Verdicts are remembered by parent, in memory only, so a stream of wrong roots below one parent
//! costs one scan.

use super::chain::{ChainCore, Now};
use super::tree::NodeId;
use super::{ChainFault, SubmitError};
use crate::store::schema;
use crate::store::{Column, Direction, Reader};
use setara_core::consensus::{BlockDelta, ChainState, RuleError, Serial, check_block, connect};
use setara_core::hash::{BlockHash, Hash256};
use setara_core::lattice::{Lattice, LatticeDelta};
use setara_core::network::Network;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks set aside with their reason; each has cost its miner the work of a block.
const WAITING_MAX: usize = 1024;
/// Parents remembered as sound.
const SOUND_MAX: usize = 1024;
/// Coins between two looks at the stop sign.
const STOP_CHECK_COINS: usize = 4096;

/// What is being audited, and what waits for it.
#[derive(Default)]
pub(super) struct Audits {
    waiting: BTreeMap<NodeId, RuleError>,
    running: bool,
    task: Option<AuditTask>,
    sound: VecDeque<BlockHash>,
}

impl Audits {
    /// Why a block is set aside, if it is.
    pub fn reason(&self, id: NodeId) -> Option<&RuleError> {
        self.waiting.get(&id)
    }

    /// Whether this node's coins after `parent` have been audited and are right.
    pub fn is_sound(&self, parent: &BlockHash) -> bool {
        self.sound.contains(parent)
    }
}

/// An audit to run, on a thread of its own.
pub struct AuditTask {
    network: Arc<Network>,
    reader: Arc<dyn Reader>,
    parent: ChainState,
    lattice: Lattice,
}

/// How an audit ended.
pub struct AuditVerdict {
    parent: BlockHash,
    /// Damage, if any was found.
    result: Result<(), ChainFault>,
}

impl AuditTask {
    /// Reads every coin. `None` when `stop` was set before the end.
    pub fn run(self, stop: &AtomicBool) -> Option<AuditVerdict> {
        let audit = || Some(self.recount(stop).transpose()?.and_then(|()| self.check_parent()));
        // A panic is this node's fault like any other: without a verdict the blocks would stay aside for ever.
        let panicked = |_| Some(Err(ChainFault::Panicked("the audit of the coins panicked".to_owned())));
        let result = catch_unwind(AssertUnwindSafe(audit)).unwrap_or_else(panicked)?;
        Some(AuditVerdict { parent: self.parent.hash(), result })
    }

    fn damaged(&self, what: &str) -> ChainFault {
        ChainFault::Damaged(format!("audit of the coins after block {}: {what}", self.parent.hash()))
    }

    /// The stored coins give the lattice.
    fn recount(&self, stop: &AtomicBool) -> Result<Option<()>, ChainFault> {
        let mut counted = LatticeDelta::new();
        for (number, row) in self.reader.iterate(Column::Coins, &[], Direction::Forward).enumerate() {
            if number % STOP_CHECK_COINS == 0 && stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (key, value) = row?;
            let outpoint = schema::coin_outpoint(&key)?;
            counted.add(&outpoint, &schema::coin(&outpoint, &value)?);
        }
        let mut recount = Lattice::empty();
        recount.apply(&counted).map_err(|error| self.damaged(&error.to_string()))?;
        if recount != self.lattice || recount.root() != self.parent.coins_root {
            return Err(self.damaged("the stored coins are not those that the lattice counts"));
        }
        Ok(Some(()))
    }

    /// The lattice before the parent is the one its coinbase names.
    fn check_parent(&self) -> Result<(), ChainFault> {
        let hash = self.parent.hash();
        let (delta, root) = if hash == self.network.genesis_hash() {
            (BlockDelta::genesis(&self.network), self.network.genesis().coinbase.coins_root)
        } else {
            let height = self.parent.height();
            if schema::pruned(&*self.reader)?.is_some_and(|pruned| height < pruned.undo_from) {
                // A snapshot's base: what its block changed is not known here.
                return Ok(());
            }
            let missing = || self.damaged("the parent's body or undo record is missing");
            let stored = schema::undo(&*self.reader, &hash)?.ok_or_else(missing)?;
            let row = schema::header(&*self.reader, &hash)?.ok_or_else(missing)?;
            if row.flags & schema::flags::PRUNED != 0 {
                // Its body is gone by the operator's wish: its undo record must do.
                return self.check_before(&stored, stored.parent().coins_root);
            }
            let block = schema::block(&*self.reader, &hash)?.ok_or_else(missing)?;
            let root = block.coinbase.coins_root;
            let checked = check_block(&self.network, block, &Serial)
                .map_err(|error| self.damaged(&format!("the parent's body: {error}")))?;
            let mut spent: BTreeMap<_, _> = stored.spent().iter().copied().collect();
            let coins: Vec<_> = checked.required_coins().iter().map(|outpoint| spent.remove(outpoint)).collect();
            let delta = connect(&self.network, stored.parent(), &checked, &coins)
                .map_err(|error| self.damaged(&format!("the parent's undo record: {error}")))?;
            if delta != stored {
                return Err(self.damaged("the parent's undo record is not what its body does"));
            }
            (delta, root)
        };
        self.check_before(&delta, root)
    }

    /// The lattice less the parent's changes gives `root`.
    fn check_before(&self, delta: &BlockDelta, root: Hash256) -> Result<(), ChainFault> {
        let mut before = self.lattice.clone();
        before
            .apply(&delta.lattice_changes().negate())
            .map_err(|error| self.damaged(&format!("before the parent: {error}")))?;
        if before.root() != root {
            return Err(self.damaged("the coins before the parent are not those its coinbase commits to"));
        }
        Ok(())
    }
}

impl ChainCore {
    /// Sets a block aside whose parent is the tip, and prepares an audit unless one is under way.
    pub(super) fn suspect(&mut self, id: NodeId, error: RuleError, now: Now) -> Result<(), ChainFault> {
        let parent = self.state.hash();
        tracing::warn!(hash = %self.tree.node(id).hash(), %parent, %error, "block set aside: auditing this node's coins");
        self.tree.set_aside(id);
        if self.audits.waiting.len() < WAITING_MAX {
            self.audits.waiting.insert(id, error);
        }
        if !self.audits.running {
            // Then the snapshot holds exactly the coins after the parent.
            self.store_changes(now)?;
            self.audits.running = true;
            self.audits.task = Some(AuditTask {
                network: self.network.clone(),
                reader: self.store.snapshot()?,
                parent: self.state,
                lattice: self.lattice.clone(),
            });
        }
        Ok(())
    }

    /// Whether an audit is to be started.
    pub const fn audits_due(&self) -> bool {
        self.audits.task.is_some()
    }

    /// An audit that is to be started, handed out once.
    pub fn take_audit(&mut self) -> Option<AuditTask> {
        self.audits.task.take()
    }

    /// Acts on a verdict: this node is damaged, or all that was set aside is tried again, on the stored coins. What
    /// fails again below the audited parent is then invalid for good (`reject` in `reorg.rs`).
    pub fn finish_audit(&mut self, verdict: AuditVerdict, now: Now) -> Result<(), SubmitError> {
        self.usable()?;
        self.audits.running = false;
        verdict.result.map_err(|fault| self.fail(fault))?;
        tracing::info!(parent = %verdict.parent, "audit: this node's coins are right");
        if self.audits.sound.len() >= SOUND_MAX {
            self.audits.sound.pop_front();
        }
        self.audits.sound.push_back(verdict.parent);
        // The audit has read the disk; the blocks were judged on the cache, whose memory may be what has failed.
        self.coins.drop_clean();
        self.audits.waiting.clear();
        self.tree.release();
        self.reactivate(now)
    }

    /// Forgets why blocks were set aside that no longer are.
    pub(super) fn forget_reconsidered(&mut self) {
        let tree = &self.tree;
        self.audits.waiting.retain(|id, _| tree.is_aside(*id));
    }
}
