//! The tree of headers: every block known, what is known of it, and which branch is best.
//!
//! ```text
//!            genesis ── 1 ── 2 ── 3 ── 4        work decides; on equal work, the body received first
//!                        └── 2'── 3'(failed)    a failed block fails all that build on it, now and later
//!                                  └── 4'
//! ```
//!
//! Guarantees: a child is never accepted below a failed parent; the order in which bodies arrived survives restarts
//! (it is stored); work is compared in 256 bits, never heights. Not here: bodies, coins, rules.

use super::hasher::KeyedState;
use crate::store::schema::{HeaderRow, flags};
use setara_core::block::Header;
use setara_core::consensus::HeaderState;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::pow::Work;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::mem::size_of;

/// Names a node of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// One block.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// What the next header is held against.
    pub state: HeaderState,
    /// The header.
    pub header: Header,
    /// The block below; `None` for genesis.
    pub parent: Option<NodeId>,
    /// A block far below it, see [`skip_height`].
    skip: NodeId,
    first_child: Option<NodeId>,
    next_sibling: Option<NodeId>,
    /// Stored marks, see [`flags`].
    pub flags: u8,
    /// A block below it has failed or is not wanted.
    bad_ancestor: bool,
    /// Its body and those of all blocks below are there, or were until they were pruned.
    complete: bool,
    /// Not to be connected for now, in this process: an audit is open, or the branch point is too deep.
    aside: bool,
    /// Order in which bodies were received; 0 without a body.
    pub sequence: u64,
    /// Transactions, coinbase counted.
    pub tx_count: u32,
    /// Bytes of the block.
    pub size: u32,
    /// Transactions of the branch up to here; 0 while a body is missing below.
    pub chain_tx_count: u64,
}

impl Node {
    /// Its hash.
    pub const fn hash(&self) -> BlockHash {
        self.state.hash
    }

    /// Its height.
    pub const fn height(&self) -> Height {
        self.state.height
    }

    /// Whether all of `bits` are set.
    pub const fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// Whether its body is here, or was until it was pruned: it need not be fetched.
    pub const fn had_body(&self) -> bool {
        self.flags & (flags::BODY | flags::PRUNED) != 0
    }

    /// Whether it, or a block below it, has failed or is not wanted.
    pub const fn is_bad(&self) -> bool {
        self.bad_ancestor || self.flags & (flags::FAILED | flags::INVALIDATED) != 0
    }

    /// Whether it may become the tip.
    const fn is_candidate(&self) -> bool {
        self.complete && !self.aside && !self.is_bad()
    }

    /// Whether its body and those of all blocks below are there, or were until they were pruned.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }
}

/// Bytes that a header takes at most: its node in a list that doubles when it is full, its place in a map, in the list of the
/// active chain and, now and then, among those not stored yet.
pub const HEADER_MEMORY_BYTES: u64 =
    (2 * size_of::<Node>() + 2 * (size_of::<(BlockHash, NodeId)>() + 1) + 4 * size_of::<NodeId>()) as u64;

/// More work is better; on equal work, the earlier body.
type Rank = (Work, Reverse<u64>, NodeId);

/// Height of the block to which a block at `height` keeps a link beside that to its parent: one or two low bits of the
/// number less, so that any block below is few links away (as in Bitcoin Core).
const fn skip_height(height: u32) -> u32 {
    const fn without_lowest_bit(number: u32) -> u32 {
        number & number.wrapping_sub(1)
    }
    match height {
        0 | 1 => 0,
        odd if odd & 1 == 1 => without_lowest_bit(without_lowest_bit(odd - 1)) + 1,
        even => without_lowest_bit(even),
    }
}

/// All headers, linked.
pub struct HeaderTree {
    nodes: Vec<Node>,
    by_hash: HashMap<BlockHash, NodeId, KeyedState>,
    /// Blocks that may become the tip; those with less work than the tip are dropped now and then.
    candidates: BTreeSet<Rank>,
    /// Blocks without children.
    leaves: BTreeSet<NodeId>,
    /// The header with the most work that is not bad, its body here or not; the first known on equal work.
    best_header: NodeId,
    last_sequence: u64,
    /// Bytes of the bodies that are here, but for that of genesis, which is the network's.
    body_bytes: u64,
    /// Nodes that differ from what is stored.
    dirty: BTreeSet<NodeId>,
    /// Blocks whose stored bodies were found damaged by this process, and that are asked for again.
    lost: BTreeSet<NodeId>,
}

impl HeaderTree {
    /// A tree of genesis alone, whose body is there.
    pub fn new(state: HeaderState, header: Header, size: u32, keys: KeyedState) -> Self {
        let genesis = Node {
            state,
            header,
            parent: None,
            skip: NodeId(0),
            first_child: None,
            next_sibling: None,
            flags: flags::BODY | flags::SIGNED | flags::CONNECTED,
            bad_ancestor: false,
            complete: true,
            aside: false,
            sequence: 0,
            tx_count: 1,
            size,
            chain_tx_count: 1,
        };
        let id = NodeId(0);
        let mut by_hash = HashMap::with_hasher(keys);
        by_hash.insert(state.hash, id);
        let mut tree = Self {
            nodes: vec![genesis],
            by_hash,
            candidates: BTreeSet::new(),
            leaves: BTreeSet::from([id]),
            best_header: id,
            last_sequence: 0,
            body_bytes: 0,
            dirty: BTreeSet::from([id]),
            lost: BTreeSet::new(),
        };
        tree.candidates.insert(tree.rank(id));
        tree
    }

    /// Genesis.
    pub const fn genesis(&self) -> NodeId {
        NodeId(0)
    }

    /// The node of a hash.
    pub fn find(&self, hash: &BlockHash) -> Option<NodeId> {
        self.by_hash.get(hash).copied()
    }

    /// The node of an id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    fn rank(&self, id: NodeId) -> Rank {
        let node = self.node(id);
        (node.state.work, Reverse(node.sequence), id)
    }

    /// Adds a header below a parent that the caller has looked up; `state` comes from the header rules.
    pub fn insert(&mut self, parent: NodeId, state: HeaderState, header: Header) -> NodeId {
        if let Some(known) = self.find(&state.hash) {
            return known;
        }
        let id = NodeId(u32::try_from(self.nodes.len()).expect("heights are 32 bits, and memory ends far earlier"));
        let skip = self.ancestor(parent, skip_height(state.height.get())).unwrap_or(parent);
        let below = self.node_mut(parent);
        let next_sibling = below.first_child.replace(id);
        let (bad_ancestor, aside) = (below.is_bad(), below.aside);
        self.nodes.push(Node {
            state,
            header,
            parent: Some(parent),
            skip,
            first_child: None,
            next_sibling,
            flags: 0,
            bad_ancestor,
            complete: false,
            aside,
            sequence: 0,
            tx_count: 0,
            size: 0,
            chain_tx_count: 0,
        });
        self.by_hash.insert(state.hash, id);
        self.leaves.remove(&parent);
        self.leaves.insert(id);
        self.dirty.insert(id);
        if !bad_ancestor && self.node(id).state.work > self.node(self.best_header).state.work {
            self.best_header = id;
        }
        id
    }

    /// The header with the most work that is not bad, its body here or not.
    pub const fn best_header(&self) -> NodeId {
        self.best_header
    }

    /// Looks for it among all, since marks have changed: parents stand before children, earlier headers before later.
    fn find_best_header(&mut self) {
        let mut best = NodeId(0);
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if !node.is_bad() && node.state.work > self.node(best).state.work {
                best = NodeId(index as u32);
            }
        }
        self.best_header = best;
    }

    /// Takes over what was stored of a node inserted by [`Self::insert`], while loading.
    pub fn restore(&mut self, id: NodeId, row: &HeaderRow) {
        let node = self.node_mut(id);
        node.flags = row.flags;
        node.tx_count = row.tx_count;
        node.size = row.size;
        node.sequence = row.sequence;
        self.last_sequence = self.last_sequence.max(row.sequence);
        if row.flags & flags::BODY != 0 {
            self.body_bytes += u64::from(row.size);
        }
        self.complete_from(id);
        self.dirty.remove(&id);
    }

    /// Records that the body of `id` is there.
    pub fn set_body(&mut self, id: NodeId, tx_count: u32, size: u32) {
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.body_bytes += u64::from(size);
        let node = self.node_mut(id);
        node.flags |= flags::BODY;
        node.sequence = sequence;
        node.tx_count = tx_count;
        node.size = size;
        self.dirty.insert(id);
        self.complete_from(id);
    }

    /// Marks `id`, and all above it whose bodies were waiting for it, as complete.
    fn complete_from(&mut self, id: NodeId) {
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            let node = self.node(id);
            let below = node.parent.map(|parent| self.node(parent));
            if node.complete || !node.had_body() || below.is_some_and(|below| !below.complete) {
                continue;
            }
            let chain_tx_count = below.map_or(0, |below| below.chain_tx_count) + u64::from(node.tx_count);
            let node = self.node_mut(id);
            node.complete = true;
            node.chain_tx_count = chain_tx_count;
            self.dirty.insert(id);
            self.offer(id);
            stack.extend(self.children(id));
        }
    }

    /// Makes `id` a candidate if it may be one.
    fn offer(&mut self, id: NodeId) {
        if self.node(id).is_candidate() {
            let rank = self.rank(id);
            self.candidates.insert(rank);
        }
    }

    fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(self.node(id).first_child, |child| self.node(*child).next_sibling)
    }

    /// `id` and everything above it.
    pub fn subtree(&self, id: NodeId) -> Vec<NodeId> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(id) = found.get(next).copied() {
            found.extend(self.children(id));
            next += 1;
        }
        found
    }

    /// Sets marks that are stored.
    pub fn set_flags(&mut self, id: NodeId, bits: u8) {
        let node = self.node_mut(id);
        if node.flags & bits != bits {
            node.flags |= bits;
            self.dirty.insert(id);
        }
    }

    /// Marks a block as failed ([`flags::FAILED`]) or unwanted ([`flags::INVALIDATED`]), and with it all above it.
    pub fn set_bad(&mut self, id: NodeId, bit: u8) {
        self.set_flags(id, bit);
        for above in self.subtree(id) {
            let rank = self.rank(above);
            self.candidates.remove(&rank);
            if above != id {
                self.node_mut(above).bad_ancestor = true;
            }
        }
        if self.node(self.best_header).is_bad() {
            self.find_best_header();
        }
    }

    /// Headers in it.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Bytes of the bodies that are here, but for that of genesis.
    pub const fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    fn forget_bytes(&mut self, id: NodeId) {
        if self.node(id).has(flags::BODY) {
            self.body_bytes = self.body_bytes.saturating_sub(u64::from(self.node(id).size));
        }
    }

    /// Records that the body of a block of the active chain has been deleted to save space: it counts as one that was
    /// there. Genesis always has its body, which is the network's.
    pub fn prune_body(&mut self, id: NodeId) {
        if id == self.genesis() || !self.node(id).has(flags::CONNECTED) {
            return;
        }
        self.forget_bytes(id);
        let node = self.node_mut(id);
        node.flags = node.flags & !flags::BODY | flags::PRUNED;
        self.dirty.insert(id);
        self.complete_from(id);
    }

    /// Counts a block as one of the active chain whose body has been pruned: a snapshot says so. A row that would only
    /// repeat that is not written.
    pub fn adopt(&mut self, id: NodeId) {
        if self.node(id).has(flags::BODY) {
            self.node_mut(id).flags |= flags::CONNECTED;
            return self.prune_body(id);
        }
        if id != self.genesis() {
            self.node_mut(id).flags |= flags::CONNECTED | flags::PRUNED;
            let dirty = self.dirty.contains(&id);
            self.complete_from(id);
            if !dirty {
                self.dirty.remove(&id);
            }
        }
    }

    /// Forgets the body of a failed block, or of one that is pruned and no longer in the active chain; marks against it
    /// stay.
    pub fn drop_body(&mut self, id: NodeId) {
        self.forget_bytes(id);
        let node = self.node_mut(id);
        node.flags &= !(flags::BODY | flags::SIGNED | flags::PRUNED);
        self.dirty.insert(id);
        for above in self.subtree(id) {
            let rank = self.rank(above);
            self.candidates.remove(&rank);
            self.node_mut(above).complete = false;
        }
    }

    /// Takes back every failure and every wish against `id`, the blocks below it and those above it.
    pub fn reconsider(&mut self, id: NodeId) {
        let mut line = self.subtree(id);
        line.extend(self.branch(id).skip(1));
        for id in line {
            let node = self.node_mut(id);
            if node.flags & (flags::FAILED | flags::INVALIDATED) != 0 {
                node.flags &= !(flags::FAILED | flags::INVALIDATED);
                self.dirty.insert(id);
            }
            self.node_mut(id).aside = false;
        }
        self.refresh();
    }

    /// Keeps a block, and so all above it, from being connected until [`Self::release`].
    pub fn set_aside(&mut self, id: NodeId) {
        for above in self.subtree(id) {
            let rank = self.rank(above);
            self.candidates.remove(&rank);
            self.node_mut(above).aside = true;
        }
    }

    /// Whether the block is set aside.
    pub fn is_aside(&self, id: NodeId) -> bool {
        self.node(id).aside
    }

    /// Lets every block that was set aside be tried again.
    pub fn release(&mut self) {
        for node in &mut self.nodes {
            node.aside = false;
        }
        self.refresh();
    }

    /// Works out anew what follows from the marks: parents stand before their children in `nodes`.
    pub fn refresh(&mut self) {
        self.candidates.clear();
        for index in 0..self.nodes.len() {
            let below = self.nodes[index].parent.map(|parent| self.node(parent).is_bad());
            self.nodes[index].bad_ancestor = below.unwrap_or(false);
            self.offer(NodeId(index as u32));
        }
        self.find_best_header();
    }

    /// The block that should be the tip, if any may.
    pub fn best(&self) -> Option<NodeId> {
        self.candidates.last().map(|(_, _, id)| *id)
    }

    /// Forgets candidates that are worse than the tip.
    pub fn prune_candidates(&mut self, tip: NodeId) {
        let rank = self.rank(tip);
        self.candidates = self.candidates.split_off(&rank);
    }

    /// `id`, its parent, and so on down to genesis.
    pub fn branch(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(Some(id), |id| self.node(*id).parent)
    }

    /// The block of the branch that ends in `id` at a height, in steps that grow with the logarithm of the distance.
    pub fn ancestor(&self, id: NodeId, height: u32) -> Option<NodeId> {
        let (mut id, mut at) = (id, self.node(id).height().get());
        if height > at {
            return None;
        }
        while at > height {
            let skip = skip_height(at);
            // Not if the parent's jump comes closer.
            let parent_skip = skip_height(at - 1);
            let closer = parent_skip.saturating_add(2) < skip && parent_skip >= height;
            if skip == height || (skip > height && !closer) {
                (id, at) = (self.node(id).skip, skip);
            } else {
                (id, at) = (self.node(id).parent?, at - 1);
            }
        }
        Some(id)
    }

    /// The highest block of the branch that ends in `id` of which `holds` is true, where it is true of genesis and of
    /// every block below one of which it is true.
    pub fn highest(&self, id: NodeId, holds: impl Fn(NodeId) -> bool) -> NodeId {
        if holds(id) {
            return id;
        }
        let (mut low, mut high) = (0, self.node(id).height().get());
        let (mut found, mut above) = (self.genesis(), id);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            let Some(candidate) = self.ancestor(above, middle) else { break };
            if holds(candidate) { (low, found) = (middle, candidate) } else { (high, above) = (middle, candidate) }
        }
        found
    }

    /// The stored body of a block is not what was written; whether that is news. Not stored: whoever reads it next finds
    /// out again.
    pub fn lose_body(&mut self, id: NodeId) -> bool {
        self.node(id).has(flags::BODY) && self.lost.insert(id)
    }

    /// The body is there again.
    pub fn find_body(&mut self, id: NodeId) {
        self.lost.remove(&id);
    }

    /// Whether the stored body is damaged.
    pub fn is_lost(&self, id: NodeId) -> bool {
        self.lost.contains(&id)
    }

    /// Blocks whose stored bodies are damaged.
    pub fn lost(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.lost.iter().copied()
    }

    /// Blocks without children.
    pub fn leaves(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.leaves.iter().copied()
    }

    /// The row to store for a node.
    pub fn row(&self, id: NodeId) -> HeaderRow {
        let node = self.node(id);
        HeaderRow {
            header: node.header,
            height: node.height(),
            work: node.state.work,
            median_time_past: node.state.median_time_past(),
            flags: node.flags,
            sequence: node.sequence,
            tx_count: node.tx_count,
            size: node.size,
            chain_tx_count: node.chain_tx_count,
        }
    }

    /// Nodes that differ from what is stored; the list is emptied.
    pub fn take_dirty(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether a node differs from what is stored.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}
