//! The chain as a plain struct: blocks and the time go in, verdicts come out. No thread, no clock.
//!
//! ```text
//! submit ─► header rules ─► early? ─► body matches, block rules ─► into the tree ─► activate ─► flush ─► publish
//!            │ no trace      │ held    │ no trace, or marked           (reorg.rs)    (flush.rs)
//! ```
//!
//! Two kinds of failure that never mix: a broken rule is the block's ([`SubmitError`]); a [`ChainFault`] is this node's,
//! is final, and marks no block. After a fault nothing is written any more.

use super::audit::Audits;
use super::coins::CoinCache;
use super::early::{EARLY_BYTES_MAX, EarlyBlocks};
use super::events::Shared;
use super::flush::Pending;
use super::headers::SharedTree;
use super::prune::{KEEP_BODIES, KEEP_UNDO};
use super::recent::Recent;
use super::tree::NodeId;
use super::verify::{Verifier, WINDOW_BYTES};
use super::{Accepted, ChainFault, SubmitError};
use crate::snapshot::CHANGES_MAX;
use crate::store::schema::{Pruned, SnapshotRow, flags};
use crate::store::{SpaceCheck, Store};
use setara_core::block::{EncodedBlock, Header};
use setara_core::consensus::{ChainState, CheckedBlock, Class, HeaderState, RuleError, check_header, header_is_early};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::lattice::Lattice;
use setara_core::network::Network;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Blocks further ahead of the tip than this are not kept unless asked for: two days at ten minutes, as in Core.
const AHEAD_BLOCKS_MAX: u32 = 288;
/// Verdicts remembered with their reason; older ones are still known to be invalid.
const REASONS_MAX: usize = 4096;

/// A moment, as the caller's clock tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix seconds: what block times are held against.
    pub unix_seconds: u64,
    /// For intervals.
    pub monotonic: Duration,
}

/// Where a block comes from: whether its body is kept when it does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The operator, this node's miner, or a peer that was asked for it.
    Wanted,
    /// A peer that was not asked.
    Unrequested,
}

/// Settings of the chain.
#[derive(Debug, Clone)]
pub struct ChainOptions {
    /// Memory for the table of cached coins; what it brings with it is told by [`super::coin_cache_cost`].
    pub coin_cache_bytes: usize,
    /// Bytes of blocks that are checked ahead of being connected; half as many of bodies are written ahead at once.
    pub checked_bytes: usize,
    /// Bytes of blocks that are held back because their time has not come.
    pub early_bytes: u64,
    /// Coins that may differ between a snapshot of the coins and the tip while one is made.
    pub dump_changes: usize,
    /// Deepest reorganisation that is followed; `None` follows all.
    pub max_reorg: Option<u32>,
    /// While loading in bulk, the longest time between two flushes: what a crash repeats.
    pub flush_interval: Duration,
    /// Refuses to write on a nearly full disk.
    pub space: Option<SpaceCheck>,
    /// Name of the data directory, for errors.
    pub directory: String,
    /// Newest bodies that pruning leaves; see [`KEEP_BODIES`].
    pub keep_bodies: u32,
    /// Newest undo records that pruning leaves; see [`KEEP_UNDO`].
    pub keep_undo: u32,
    /// When the node is to stop: a long reorganisation then ends between two blocks, and the next start goes on.
    pub stop: CancellationToken,
}

impl Default for ChainOptions {
    fn default() -> Self {
        Self {
            coin_cache_bytes: 225 << 20,
            checked_bytes: WINDOW_BYTES,
            early_bytes: EARLY_BYTES_MAX,
            dump_changes: CHANGES_MAX,
            max_reorg: None,
            flush_interval: Duration::from_secs(60),
            space: None,
            directory: "the data directory".to_owned(),
            keep_bodies: KEEP_BODIES,
            keep_undo: KEEP_UNDO,
            stop: CancellationToken::new(),
        }
    }
}

/// A block that is about to be connected, already decoded and checked.
pub(super) struct Fresh {
    pub id: NodeId,
    pub checked: CheckedBlock,
    /// Whether its signatures have been verified.
    pub signed: bool,
}

/// The chain.
pub struct ChainCore {
    pub(super) network: Arc<Network>,
    pub(super) store: Arc<dyn Store>,
    pub(super) options: ChainOptions,
    pub(super) verifier: Verifier,
    pub(super) tree: SharedTree,
    /// The active chain by height.
    pub(super) active: Vec<NodeId>,
    pub(super) state: ChainState,
    pub(super) lattice: Lattice,
    pub(super) coins: CoinCache,
    pub(super) pending: Pending,
    pub(super) recent: Recent,
    pub(super) fresh: Option<Fresh>,
    pub(super) reasons: BTreeMap<NodeId, RuleError>,
    pub(super) audits: Audits,
    /// The snapshot that the chain began with, if with one.
    pub(super) snapshot: Option<SnapshotRow>,
    /// What has been deleted, if anything has.
    pub(super) pruned: Option<Pruned>,
    pub(super) early: EarlyBlocks,
    pub(super) fault: Option<ChainFault>,
    /// Longest time between two flushes, amid a load.
    pub(super) flush_interval: Duration,
    pub(super) shared: Arc<Shared>,
    /// Views published.
    pub(super) sequence: u64,
}

impl ChainCore {
    /// The tip's state, perhaps not yet flushed.
    pub const fn tip(&self) -> &ChainState {
        &self.state
    }

    /// Why the chain has stopped, if it has.
    pub const fn fault(&self) -> Option<&ChainFault> {
        self.fault.as_ref()
    }

    /// Whether `hash` may still be connected: known, and neither failed nor unwanted nor above such a block.
    pub fn is_bad(&self, hash: &BlockHash) -> Option<bool> {
        self.tree.find(hash).map(|id| self.tree.node(id).is_bad())
    }

    pub(super) fn usable(&self) -> Result<(), SubmitError> {
        self.fault.clone().map_or(Ok(()), |fault| Err(SubmitError::Fault(fault)))
    }

    /// Remembers a fault: nothing is judged or written from now on.
    pub(super) fn fail(&mut self, fault: ChainFault) -> SubmitError {
        let fault = self.fault.get_or_insert_with(|| {
            tracing::error!(%fault, "the chain has stopped");
            fault
        });
        self.shared.set_fault(fault.to_string());
        SubmitError::Fault(fault.clone())
    }

    /// Stops the chain because its thread panicked.
    pub(super) fn panicked(&mut self, message: String) {
        self.fail(ChainFault::Panicked(message));
    }

    /// Takes a block. When this returns, what it did is on disk and in the published view.
    pub fn submit(
        &mut self,
        block: impl Into<EncodedBlock>,
        origin: Origin,
        now: Now,
    ) -> Result<Accepted, SubmitError> {
        self.usable()?;
        let block: EncodedBlock = block.into();
        let hash = block.block().hash();
        let outcome = self.submit_block(block, origin, now);
        let left_a_trace = match &outcome {
            Ok(Accepted::Ignored) | Err(SubmitError::Mutated(_)) => false,
            Ok(_) => true,
            // A mark against a block is kept.
            Err(_) => self.tree.find(&hash).is_some(),
        };
        // Amid a load nobody makes this node flush for nothing.
        if left_a_trace {
            self.flush(now).map_err(|fault| self.fail(fault))?;
        }
        outcome
    }

    fn submit_block(&mut self, block: EncodedBlock, origin: Origin, now: Now) -> Result<Accepted, SubmitError> {
        let header = block.block().header;
        let (parent, state) = match self.place(&header)? {
            Place::Known => return Ok(Accepted::Duplicate),
            Place::Lost(id) => {
                let checked = self.verifier.check(block);
                return checked.map(|(_, bytes)| self.put_back(id, bytes)).map_err(|error| match error.class() {
                    Class::Mutated => SubmitError::Mutated(error),
                    _ => SubmitError::Invalid(error),
                });
            }
            Place::New(parent, state) => (parent, state),
        };
        if let Err(error) = header_is_early(&self.network, &header, now.unix_seconds) {
            // Only what its header commits to is held: another body must not take the true one's place. Nothing is
            // marked.
            let (checked, _) = self.verifier.check(block).map_err(|error| match error.class() {
                Class::Mutated => SubmitError::Mutated(error),
                _ => SubmitError::Invalid(error),
            })?;
            return Err(self.hold(&checked, error));
        }
        if origin == Origin::Unrequested && !self.is_worth_keeping(&state) {
            return Ok(Accepted::Ignored);
        }
        match self.verifier.check(block) {
            Ok((checked, bytes)) => self.accept(parent, state, checked, bytes, false, now),
            Err(error) => Err(self.refuse(parent, state, header, error)),
        }
    }

    /// Stores a body anew whose stored copy was damaged. It was judged when it first came.
    pub(super) fn put_back(&mut self, id: NodeId, bytes: Vec<u8>) -> Accepted {
        let node = self.tree.node(id);
        tracing::info!(hash = %node.hash(), height = node.height().get(), "a damaged block is whole again");
        self.pending.put_body(node.hash(), bytes);
        self.tree.find_body(id);
        Accepted::Duplicate
    }

    /// Holds a block back until its time has come.
    pub(super) fn hold(&mut self, checked: &CheckedBlock, error: RuleError) -> SubmitError {
        let time = u64::from(checked.block().header.time);
        self.early.hold(time.saturating_sub(u64::from(self.network.max_future_seconds)), checked.block());
        SubmitError::Early(error)
    }

    /// Where a header belongs; everything that can be said of it without its body and the time.
    pub(super) fn place(&self, header: &Header) -> Result<Place, SubmitError> {
        if let Some(known) = self.tree.find(&header.hash()) {
            let node = self.tree.node(known);
            if node.is_bad() {
                return Err(self.verdict(known));
            }
            if let Some(error) = self.audits.reason(known) {
                return Err(SubmitError::SetAside(error.clone()));
            }
            if node.had_body() {
                return Ok(if self.tree.is_lost(known) { Place::Lost(known) } else { Place::Known });
            }
        }
        let (parent, state) = self.place_above(header)?;
        Ok(Place::New(parent, state))
    }

    /// The parent of a header that is not known yet, and its own state.
    pub(super) fn place_above(&self, header: &Header) -> Result<(NodeId, HeaderState), SubmitError> {
        let parent = self.tree.find(&header.previous).ok_or(SubmitError::MissingParent(header.previous))?;
        let below = self.tree.node(parent);
        if below.is_bad() {
            return Err(SubmitError::InvalidParent(header.previous));
        }
        // No trace of a header that fails: the next one to send it is told the same, for the same small price.
        let state = check_header(&self.network, &below.state, header).map_err(SubmitError::Invalid)?;
        Ok((parent, state))
    }

    /// Whether an unrequested body is kept: it could become the tip, and is not absurdly far ahead.
    fn is_worth_keeping(&self, state: &HeaderState) -> bool {
        let ahead = state.height.blocks_since(self.state.height()).unwrap_or(0);
        state.work >= self.state.header.work && ahead <= AHEAD_BLOCKS_MAX
    }

    /// The error for a block that is known to be bad.
    pub(super) fn verdict(&self, id: NodeId) -> SubmitError {
        if let Some(reason) = self.reasons.get(&id) {
            return SubmitError::Invalid(reason.clone());
        }
        let node = self.tree.node(id);
        if node.flags & (flags::FAILED | flags::INVALIDATED) != 0 {
            SubmitError::DuplicateInvalid
        } else {
            SubmitError::InvalidParent(node.header.previous)
        }
    }

    /// The block broke a rule that needs no other block. Only a body that its header commits to leaves a mark.
    pub(super) fn refuse(
        &mut self,
        parent: NodeId,
        state: HeaderState,
        header: Header,
        error: RuleError,
    ) -> SubmitError {
        match error.class() {
            Class::Mutated => SubmitError::Mutated(error),
            Class::Invalid => {
                let id = self.tree.insert(parent, state, header);
                self.mark_failed(id, error.clone());
                SubmitError::Invalid(error)
            }
            // The block alone cannot be early, an orphan, or at odds with coins.
            Class::MissingParent | Class::Transient | Class::SuspectCoins => SubmitError::Invalid(error),
        }
    }

    pub(super) fn mark_failed(&mut self, id: NodeId, error: RuleError) {
        let node = self.tree.node(id);
        tracing::warn!(hash = %node.hash(), height = node.height().get(), code = error.code(), %error, "block is invalid");
        self.tree.set_bad(id, flags::FAILED);
        if self.reasons.len() >= REASONS_MAX {
            self.reasons.pop_first();
        }
        self.reasons.insert(id, error);
    }

    /// Takes a checked block into the tree, and makes it the tip if it is the best.
    pub(super) fn accept(
        &mut self,
        parent: NodeId,
        state: HeaderState,
        checked: CheckedBlock,
        bytes: Vec<u8>,
        signed: bool,
        now: Now,
    ) -> Result<Accepted, SubmitError> {
        let id = self.tree.insert(parent, state, checked.block().header);
        let tx_count = checked.block().transactions.len() as u32 + 1;
        self.tree.set_body(id, tx_count, checked.size() as u32);
        if signed {
            self.tree.set_flags(id, flags::SIGNED);
        }
        self.pending.put_body(checked.hash(), bytes);
        self.fresh = Some(Fresh { id, checked, signed });
        let activated = self.activate(now);
        self.fresh = None;
        activated.map_err(|fault| self.fail(fault))?;
        self.outcome(id)
    }

    /// What became of a block that is in the tree.
    fn outcome(&self, id: NodeId) -> Result<Accepted, SubmitError> {
        let node = self.tree.node(id);
        if node.is_bad() {
            return Err(self.verdict(id));
        }
        if let Some(error) = self.audits.reason(id) {
            return Err(SubmitError::SetAside(error.clone()));
        }
        if self.is_active(id) {
            Ok(Accepted::Connected)
        } else if self.is_interrupted() {
            Err(SubmitError::Stopping)
        } else {
            Ok(Accepted::SideBranch)
        }
    }

    /// Tries again the blocks that were held back and whose time has come, and stores what is not stored, the coins'
    /// rows included. To be called every second or so.
    pub fn tick(&mut self, now: Now) -> Result<(), SubmitError> {
        self.usable()?;
        for bytes in self.early.take_ripe(now.unix_seconds) {
            let block = EncodedBlock::decode(bytes).expect("what was encoded here");
            let hash = block.block().hash();
            match self.submit_block(block, Origin::Wanted, now) {
                Ok(_) => tracing::info!(%hash, "a block that was too early is in time now"),
                Err(SubmitError::Fault(fault)) => return Err(SubmitError::Fault(fault)),
                Err(error) => tracing::info!(%hash, %error, "a block that was too early is refused"),
            }
        }
        self.flush(now).and_then(|()| self.settle()).map_err(|fault| self.fail(fault))
    }

    /// Blocks held back because of their time.
    pub fn early_blocks(&self) -> usize {
        self.early.len()
    }

    /// The operator does not want this block: it and all above it leave the active chain.
    pub fn invalidate(&mut self, hash: &BlockHash, now: Now) -> Result<(), SubmitError> {
        self.usable()?;
        let id = self.tree.find(hash).ok_or(SubmitError::MissingParent(*hash))?;
        if id == self.tree.genesis() {
            return Err(SubmitError::InvalidParent(*hash));
        }
        if self.is_active(id) && !self.can_revert(self.tree.node(id).height()) {
            return Err(SubmitError::Pruned(*hash));
        }
        self.tree.set_bad(id, flags::INVALIDATED);
        self.reactivate(now)
    }

    /// Takes back every verdict on a block, those below it and those above it; they are judged anew.
    pub fn reconsider(&mut self, hash: &BlockHash, now: Now) -> Result<(), SubmitError> {
        self.usable()?;
        let id = self.tree.find(hash).ok_or(SubmitError::MissingParent(*hash))?;
        self.tree.reconsider(id);
        self.forget_reconsidered();
        self.reasons.clear();
        self.reactivate(now)
    }

    /// Chooses the best branch anew, after marks have changed.
    pub(super) fn reactivate(&mut self, now: Now) -> Result<(), SubmitError> {
        self.tree.refresh();
        self.activate(now).and_then(|()| self.flush(now)).map_err(|fault| self.fail(fault))?;
        if self.is_interrupted() { Err(SubmitError::Stopping) } else { Ok(()) }
    }

    /// Whether a better branch was left for the next start.
    fn is_interrupted(&self) -> bool {
        self.options.stop.is_cancelled() && self.tree.best().is_some_and(|best| best != self.tip_id())
    }

    /// The tip of the active chain.
    pub(super) fn tip_id(&self) -> NodeId {
        *self.active.last().expect("genesis is never reverted")
    }

    /// Whether the active chain has `id` at its height.
    pub(super) fn is_active(&self, id: NodeId) -> bool {
        self.active.get(self.tree.node(id).height().get() as usize) == Some(&id)
    }

    /// Height of the tip.
    pub(super) const fn height(&self) -> Height {
        self.state.height()
    }
}

/// Where a block belongs.
pub(super) enum Place {
    /// Its body is there.
    Known,
    /// Its body was there, and is damaged.
    Lost(NodeId),
    /// Below this parent, with this state.
    New(NodeId, HeaderState),
}
