//! The tree of headers as others see it: shared with readers, changed by the chain's thread alone.
//!
//! [`SharedTree`] is the writer's end: each call is one short lock, and nothing is held between calls. [`Headers`] is what
//! peers' sync reads: each answer is of one moment. Not here: bodies, coins, rules.

use super::tree::{HeaderTree, Node, NodeId};
use crate::store::schema::{HeaderRow, flags};
use parking_lot::RwLock;
use setara_core::block::Header;
use setara_core::consensus::HeaderState;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::pow::Work;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderPoint {
    /// Its hash.
    pub hash: BlockHash,
    /// Its height.
    pub height: Height,
    /// Work of its branch.
    pub work: Work,
}

/// What is known of a header.
#[derive(Debug, Clone, Copy)]
pub struct KnownHeader {
    /// What the next header is held against.
    pub state: HeaderState,
    /// The header.
    pub header: Header,
    /// Whether its body is here, or was until it was pruned.
    pub has_body: bool,
    /// Whether it was once part of the active chain: then its body has been fully validated.
    pub connected: bool,
    /// Whether it, or a block below it, has failed or is not wanted.
    pub bad: bool,
}

impl KnownHeader {
    /// Where it stands.
    pub const fn point(&self) -> HeaderPoint {
        HeaderPoint { hash: self.state.hash, height: self.state.height, work: self.state.work }
    }
}

impl KnownHeader {
    fn of(tree: &HeaderTree, id: NodeId) -> Self {
        let known = Self::from(tree.node(id));
        Self { has_body: known.has_body && !tree.is_lost(id), ..known }
    }
}

impl From<&Node> for KnownHeader {
    fn from(node: &Node) -> Self {
        Self {
            state: node.state,
            header: node.header,
            has_body: node.had_body(),
            connected: node.has(flags::CONNECTED),
            bad: node.is_bad(),
        }
    }
}

/// Reads the tree. Cheap to clone.
#[derive(Clone)]
pub struct Headers(Arc<RwLock<HeaderTree>>);

impl Headers {
    /// What is known of a header.
    pub fn get(&self, hash: &BlockHash) -> Option<KnownHeader> {
        let tree = self.0.read();
        tree.find(hash).map(|id| KnownHeader::of(&tree, id))
    }

    /// The header with the most work that is not bad, its body here or not.
    pub fn best(&self) -> KnownHeader {
        let tree = self.0.read();
        tree.node(tree.best_header()).into()
    }

    /// What was read of a block's body is not what was written: it is asked for again. The only change that readers make,
    /// and one that no rule depends on.
    pub(super) fn lose_body(&self, hash: &BlockHash) {
        let mut tree = self.0.write();
        if let Some(id) = tree.find(hash)
            && tree.lose_body(id)
        {
            let height = tree.node(id).height().get();
            tracing::error!(%hash, height, "a stored block is damaged: it is asked for again; check the disk");
        }
    }

    /// Whether stored bodies are damaged, and have not come again.
    pub fn has_lost(&self) -> bool {
        self.0.read().lost().next().is_some()
    }

    /// Headers that are known.
    pub fn count(&self) -> usize {
        self.0.read().count()
    }

    /// Bytes of the bodies that are here.
    pub fn body_bytes(&self) -> u64 {
        self.0.read().body_bytes()
    }

    /// The block of the branch that ends in `hash` at a height.
    pub fn ancestor(&self, hash: &BlockHash, height: Height) -> Option<KnownHeader> {
        let tree = self.0.read();
        let id = tree.ancestor(tree.find(hash)?, height.get())?;
        Some(tree.node(id).into())
    }

    /// Hashes from `hash` downwards, ten by one step and then ever further apart, genesis last.
    pub fn locator(&self, hash: &BlockHash) -> Vec<BlockHash> {
        let tree = self.0.read();
        let Some(id) = tree.find(hash) else { return Vec::new() };
        let (mut hashes, mut step) = (Vec::new(), 1u32);
        let mut next = Some(id);
        while let Some(id) = next {
            let node = tree.node(id);
            hashes.push(node.hash());
            if hashes.len() >= 10 {
                step = step.saturating_mul(2);
            }
            let height = node.height().get();
            next = if height == 0 { None } else { tree.ancestor(id, height.saturating_sub(step)) };
        }
        hashes
    }

    /// Where two branches part: the highest block that both have.
    pub fn fork(&self, a: &BlockHash, b: &BlockHash) -> Option<HeaderPoint> {
        let tree = self.0.read();
        let (a, b) = (tree.find(a)?, tree.find(b)?);
        let shared = |id| tree.ancestor(b, tree.node(id).height().get()) == Some(id);
        Some(KnownHeader::from(tree.node(tree.highest(a, shared))).point())
    }

    /// The highest block of the branch that ends in `hash` that is not bad: that block itself, or one below it.
    pub fn sound(&self, hash: &BlockHash) -> Option<HeaderPoint> {
        let tree = self.0.read();
        let id = tree.highest(tree.find(hash)?, |id| !tree.node(id).is_bad());
        Some(KnownHeader::from(tree.node(id)).point())
    }

    /// The blocks of the branch that ends in `target` whose bodies are not here and who are at most `ahead` above the
    /// highest block below which none is missing: lowest first, at most `max`. Before these, those whose bodies were
    /// stored and are damaged. Empty for a bad branch.
    pub fn missing_bodies(&self, target: &BlockHash, ahead: u32, max: usize) -> Vec<HeaderPoint> {
        let tree = self.0.read();
        let Some(id) = tree.find(target).filter(|id| !tree.node(*id).is_bad()) else { return Vec::new() };
        let complete = tree.node(tree.highest(id, |id| tree.node(id).is_complete())).height().get();
        let last = complete.saturating_add(ahead).min(tree.node(id).height().get());
        let Some(last) = tree.ancestor(id, last) else { return Vec::new() };
        let within: Vec<NodeId> =
            tree.branch(last).take((tree.node(last).height().get() - complete) as usize).collect();
        let missing = within.iter().rev().copied().filter(|id| !tree.node(*id).had_body());
        let on_branch = |lost: &NodeId| tree.ancestor(id, tree.node(*lost).height().get()) == Some(*lost);
        let mut lost: Vec<NodeId> = tree.lost().filter(on_branch).collect();
        lost.sort_unstable_by_key(|id| tree.node(*id).height());
        let all = lost.into_iter().chain(missing.filter(|id| !tree.is_lost(*id)));
        let mut points: Vec<HeaderPoint> = all.take(max).map(|id| KnownHeader::from(tree.node(id)).point()).collect();
        points.sort_unstable_by_key(|point| point.height);
        points
    }
}

/// The writer's end.
pub(super) struct SharedTree(Arc<RwLock<HeaderTree>>);

impl SharedTree {
    pub fn new(tree: HeaderTree) -> Self {
        Self(Arc::new(RwLock::new(tree)))
    }

    pub fn reader(&self) -> Headers {
        Headers(self.0.clone())
    }

    pub fn genesis(&self) -> NodeId {
        self.0.read().genesis()
    }

    pub fn find(&self, hash: &BlockHash) -> Option<NodeId> {
        self.0.read().find(hash)
    }

    pub fn node(&self, id: NodeId) -> Node {
        *self.0.read().node(id)
    }

    pub fn insert(&self, parent: NodeId, state: HeaderState, header: Header) -> NodeId {
        self.0.write().insert(parent, state, header)
    }

    pub fn set_body(&self, id: NodeId, tx_count: u32, size: u32) {
        self.0.write().set_body(id, tx_count, size);
    }

    pub fn set_flags(&self, id: NodeId, bits: u8) {
        self.0.write().set_flags(id, bits);
    }

    pub fn set_bad(&self, id: NodeId, bit: u8) {
        self.0.write().set_bad(id, bit);
    }

    pub fn drop_body(&self, id: NodeId) {
        self.0.write().drop_body(id);
    }

    pub fn is_lost(&self, id: NodeId) -> bool {
        self.0.read().is_lost(id)
    }

    pub fn find_body(&self, id: NodeId) {
        self.0.write().find_body(id);
    }

    pub fn adopt(&self, id: NodeId) {
        self.0.write().adopt(id);
    }

    pub fn best_header(&self) -> NodeId {
        self.0.read().best_header()
    }

    pub fn prune_body(&self, id: NodeId) {
        self.0.write().prune_body(id);
    }

    pub fn body_bytes(&self) -> u64 {
        self.0.read().body_bytes()
    }

    pub fn ancestor(&self, id: NodeId, height: u32) -> Option<NodeId> {
        self.0.read().ancestor(id, height)
    }

    pub fn reconsider(&self, id: NodeId) {
        self.0.write().reconsider(id);
    }

    pub fn set_aside(&self, id: NodeId) {
        self.0.write().set_aside(id);
    }

    pub fn is_aside(&self, id: NodeId) -> bool {
        self.0.read().is_aside(id)
    }

    pub fn release(&self) {
        self.0.write().release();
    }

    pub fn refresh(&self) {
        self.0.write().refresh();
    }

    pub fn best(&self) -> Option<NodeId> {
        self.0.read().best()
    }

    pub fn prune_candidates(&self, tip: NodeId) {
        self.0.write().prune_candidates(tip);
    }

    /// `id`, its parent, and so on down to genesis.
    pub fn branch(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(Some(id), |id| self.node(*id).parent)
    }

    /// The highest block of the branch that ends in `id` of which `holds` is true, see [`HeaderTree::highest`].
    pub fn highest(&self, id: NodeId, holds: impl Fn(&Node, NodeId) -> bool) -> NodeId {
        let tree = self.0.read();
        tree.highest(id, |id| holds(tree.node(id), id))
    }

    pub fn leaves(&self) -> Vec<NodeId> {
        self.0.read().leaves().collect()
    }

    pub fn row(&self, id: NodeId) -> HeaderRow {
        self.0.read().row(id)
    }

    pub fn take_dirty(&self) -> BTreeSet<NodeId> {
        self.0.write().take_dirty()
    }

    pub fn has_dirty(&self) -> bool {
        self.0.read().has_dirty()
    }
}
