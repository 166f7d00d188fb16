//! The graph of unconfirmed transactions: who spends whom, clusters of them in mining order, and what they weigh.
//!
//! Knows nothing of the chain, of policy or of time: callers decide what may enter. Guarantees: at most one spender per
//! outpoint; a parent's id is below its children's; every cluster is connected, within its limits and in the order of
//! [`super::linearize`]; [`Graph::usage`] is at least what the allocator holds for it. Only B-trees, so nothing
//! depends on a hash seed, memory grows without leaps, and shrinks when entries leave.

use super::arrange::{Added, Cluster, ClusterLimit};
use super::feerate::Feerate;
use super::linearize::CLUSTER_TRANSACTIONS_MAX;
use super::weight;
use setara_core::address::Address;
use setara_core::height::Height;
use setara_core::transaction::{OutPoint, Transaction, TransactionIds};
use setara_core::{amount::Amount, hash::TxId, hash::WtxId};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An entry's place in the order of entering; never used twice.
pub type Id = u64;
/// A cluster; a changed cluster is a new one.
pub type ClusterId = u64;

/// The first block that may hold a transaction: its height, and the median time past of its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lock {
    /// Least height.
    pub height: u32,
    /// Least median time past.
    pub time: u32,
}

/// What is known of a transaction when it enters.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The transaction.
    pub transaction: Arc<Transaction>,
    /// Its ids and size.
    pub ids: TransactionIds,
    /// Its own fee.
    pub fee: Amount,
    /// Unix seconds when it first entered.
    pub time: u64,
    /// Height of the tip when it entered.
    pub tip_height: Height,
    /// When it may be mined.
    pub lock: Lock,
    /// Addresses of the coins it spends, in input order.
    pub spent_addresses: Box<[Address]>,
    /// Whether the fee estimator watches it.
    pub watched: bool,
}

impl Entry {
    /// Its own fee and size.
    pub const fn feerate(&self) -> Feerate {
        Feerate::new(self.fee.sen(), self.ids.size)
    }
}

/// An entry in its place.
#[derive(Debug)]
pub struct Node {
    /// The transaction and what is known of it.
    pub entry: Entry,
    parents: Vec<Id>,
    children: Vec<Id>,
    cluster: ClusterId,
    weight: usize,
}

impl Node {
    /// Entries whose outputs it spends, ascending.
    pub fn parents(&self) -> &[Id] {
        &self.parents
    }

    /// Entries that spend its outputs, ascending.
    pub fn children(&self) -> &[Id] {
        &self.children
    }

    /// Where it belongs.
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }
}

/// A chunk's place among the chunks of all clusters: best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rank {
    feerate: Feerate,
    cluster: ClusterId,
    position: u32,
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        // Among equals the older cluster is first, so nobody gains by being late.
        let key = |rank: &Self| (Reverse(rank.feerate), rank.cluster, rank.position);
        key(self).cmp(&key(other))
    }
}

/// What entering would change, worked out before anything is touched. Good until the graph next changes.
#[derive(Debug)]
pub struct Plan {
    removed: BTreeSet<Id>,
    parents: Vec<Id>,
    old: BTreeSet<ClusterId>,
    new: Vec<Cluster>,
}

impl Plan {
    /// Chunks of all clusters that would come to be, best first.
    pub fn diagram_after(&self) -> Vec<Feerate> {
        sorted_chunks(self.new.iter())
    }
}

fn sorted_chunks<'a>(clusters: impl Iterator<Item = &'a Cluster>) -> Vec<Feerate> {
    let mut feerates: Vec<Feerate> =
        clusters.flat_map(|cluster| cluster.chunks.iter().map(|chunk| chunk.feerate)).collect();
    feerates.sort_by_key(|feerate| Reverse(*feerate));
    feerates
}

/// Unconfirmed transactions.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: BTreeMap<Id, Box<Node>>,
    by_txid: BTreeMap<TxId, Id>,
    by_wtxid: BTreeMap<WtxId, Id>,
    spenders: BTreeMap<OutPoint, Id>,
    by_address: BTreeSet<(Address, Id)>,
    clusters: BTreeMap<ClusterId, Cluster>,
    ranks: BTreeSet<Rank>,
    next_id: Id,
    next_cluster: ClusterId,
    weight: usize,
    size: u64,
    fees: u64,
    /// Steps that ordering clusters has taken so far.
    pub steps: u64,
}

impl Graph {
    /// How many transactions.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Bytes of all transactions.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Fees of all transactions, in sen.
    pub const fn fees(&self) -> u64 {
        self.fees
    }

    /// Bytes of memory, every map and allocation counted.
    pub const fn usage(&self) -> usize {
        self.weight
    }

    /// The entry with this id.
    pub fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id).map(AsRef::as_ref)
    }

    /// The id that the next entry will have.
    pub(super) const fn next_id(&self) -> Id {
        self.next_id
    }

    /// An id that this graph itself gave out and that has not left.
    pub(super) fn at(&self, id: Id) -> &Node {
        self.nodes.get(&id).expect("ids inside the graph name its nodes")
    }

    /// The entry of this txid.
    pub fn id_of(&self, txid: &TxId) -> Option<Id> {
        self.by_txid.get(txid).copied()
    }

    /// The entry of this wtxid.
    pub fn id_of_wtxid(&self, wtxid: &WtxId) -> Option<Id> {
        self.by_wtxid.get(wtxid).copied()
    }

    /// The entry that spends this outpoint.
    pub fn spender(&self, outpoint: &OutPoint) -> Option<Id> {
        self.spenders.get(outpoint).copied()
    }

    /// Entries that spend outputs of this transaction, whether or not it is here.
    pub fn spenders_of(&self, txid: TxId) -> impl Iterator<Item = Id> {
        self.spenders.range(OutPoint::new(txid, 0)..=OutPoint::new(txid, u32::MAX)).map(|(_, id)| *id)
    }

    /// Entries that pay to or spend from this address, in order of entering.
    pub fn by_address(&self, address: Address) -> impl Iterator<Item = Id> {
        self.by_address.range((address, 0)..=(address, Id::MAX)).map(|(_, id)| *id)
    }

    /// All entries in order of entering: parents before children.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &Entry)> {
        self.nodes.iter().map(|(id, node)| (*id, &node.entry))
    }

    /// The cluster with this id.
    pub fn cluster(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.get(&id)
    }

    /// Chunks of all clusters, best first: what to mine in order. Every chunk's ancestors come before it.
    pub fn best_first(&self) -> impl Iterator<Item = (ClusterId, Feerate, &[Id])> {
        self.ranks.iter().filter_map(|rank| Some((rank.cluster, rank.feerate, self.chunk(rank)?)))
    }

    /// The chunk to give up first. Nothing that stays depends on it.
    pub fn worst(&self) -> Option<(Feerate, &[Id])> {
        let rank = self.ranks.last()?;
        Some((rank.feerate, self.chunk(rank)?))
    }

    fn chunk(&self, rank: &Rank) -> Option<&[Id]> {
        let cluster = self.clusters.get(&rank.cluster)?;
        let position = usize::try_from(rank.position).ok()?;
        let start: usize = cluster.chunks.get(..position)?.iter().map(|chunk| chunk.count).sum();
        let count = cluster.chunks.get(position)?.count;
        cluster.order.get(start..start + count)
    }

    /// The entry and everything that depends on it.
    pub fn with_descendants(&self, roots: impl IntoIterator<Item = Id>) -> BTreeSet<Id> {
        self.reach(roots, Node::children)
    }

    /// The entry and everything that it depends on.
    pub fn with_ancestors(&self, roots: impl IntoIterator<Item = Id>) -> BTreeSet<Id> {
        self.reach(roots, Node::parents)
    }

    fn reach(&self, roots: impl IntoIterator<Item = Id>, step: impl Fn(&Node) -> &[Id]) -> BTreeSet<Id> {
        let mut reached = BTreeSet::new();
        let mut pending: Vec<Id> = roots.into_iter().collect();
        while let Some(id) = pending.pop() {
            if reached.insert(id) {
                pending.extend(step(self.at(id)));
            }
        }
        reached
    }

    /// Entries whose outputs the transaction spends, ascending, each once.
    pub fn parents_of(&self, transaction: &Transaction) -> Vec<Id> {
        let mut parents: Vec<Id> =
            transaction.inputs.iter().filter_map(|input| self.id_of(&input.outpoint.txid)).collect();
        parents.sort_unstable();
        parents.dedup();
        parents.shrink_to_fit();
        parents
    }

    /// The clusters of these entries.
    pub fn clusters_of<'a>(&self, ids: impl IntoIterator<Item = &'a Id>) -> BTreeSet<ClusterId> {
        ids.into_iter().map(|id| self.at(*id).cluster).collect()
    }

    /// Chunks of the clusters that a plan would replace, best first.
    pub fn diagram_before(&self, plan: &Plan) -> Vec<Feerate> {
        sorted_chunks(plan.old.iter().filter_map(|id| self.clusters.get(id)))
    }

    /// What would change if the transaction entered and `removed` (closed under descendants, and none of them its
    /// ancestor) left.
    pub fn plan(
        &self,
        transaction: &Transaction,
        ids: &TransactionIds,
        feerate: Feerate,
        removed: BTreeSet<Id>,
    ) -> Result<(Plan, u64), ClusterLimit> {
        let parents = self.parents_of(transaction);
        // Before merging clusters, refuse what could only be too large: the work stays bounded.
        if parents.len() >= CLUSTER_TRANSACTIONS_MAX {
            return Err(ClusterLimit { count: weight::count(parents.len()) + 1, size: feerate.size });
        }
        let old = self.clusters_of(parents.iter().chain(&removed));
        let added = Added { txid: ids.txid, feerate, parents: &parents };
        let (new, steps) = self.arrange(&old, &removed, Some(added))?;
        Ok((Plan { removed, parents, old, new }, steps))
    }

    /// Carries out a plan. The entry must be the one that was planned for. Gives back its id and what left.
    pub fn commit(&mut self, plan: Plan, entry: Entry) -> (Id, Vec<Entry>) {
        let removed = plan.removed.iter().filter_map(|id| self.unlink(*id)).collect();
        let id = self.next_id;
        self.next_id += 1;
        let ids = entry.ids;
        self.by_txid.insert(ids.txid, id);
        self.by_wtxid.insert(ids.wtxid, id);
        for input in &entry.transaction.inputs {
            self.spenders.insert(input.outpoint, id);
        }
        for address in addresses(&entry) {
            self.by_address.insert((address, id));
        }
        for parent in &plan.parents {
            if let Some(parent) = self.nodes.get_mut(parent) {
                parent.children.push(id);
            }
        }
        let weight = weight::entry(&entry) + plan.parents.len() * weight::LINK;
        self.weight += weight;
        self.size += ids.size;
        self.fees += entry.fee.sen();
        // `install` names the real cluster.
        let node = Node { entry, parents: plan.parents, children: Vec::new(), cluster: ClusterId::MAX, weight };
        self.nodes.insert(id, Box::new(node));
        self.install(&plan.old, plan.new);
        (id, removed)
    }

    /// Takes entries out; those that spend their outputs stay, and no longer count them as parents. Gives back what
    /// left, in order of entering.
    pub fn remove(&mut self, ids: &BTreeSet<Id>) -> Vec<Entry> {
        if ids.is_empty() {
            return Vec::new();
        }
        let old = self.clusters_of(ids);
        let (new, steps) = self.arrange(&old, ids, None).expect("a part of a cluster is within its limits");
        self.steps += steps;
        let removed = ids.iter().filter_map(|id| self.unlink(*id)).collect();
        self.install(&old, new);
        removed
    }

    /// Puts another witness in the place of an entry's: same txid, fee, parents and children.
    pub fn swap_witness(&mut self, id: Id, entry: Entry) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        debug_assert_eq!(node.entry.ids.txid, entry.ids.txid);
        self.by_wtxid.remove(&node.entry.ids.wtxid);
        self.by_wtxid.insert(entry.ids.wtxid, id);
        let weight = weight::entry(&entry) + node.parents.len() * weight::LINK;
        self.weight = self.weight - node.weight + weight;
        self.size = self.size - node.entry.ids.size + entry.ids.size;
        node.weight = weight;
        node.entry = entry;
        let old = BTreeSet::from([node.cluster]);
        let (new, steps) = self.arrange(&old, &BTreeSet::new(), None).expect("a smaller witness keeps the limits");
        self.steps += steps;
        self.install(&old, new);
    }

    /// Takes one entry out of everything but its cluster.
    fn unlink(&mut self, id: Id) -> Option<Entry> {
        let node = *self.nodes.remove(&id)?;
        let Node { entry, parents, children, weight, .. } = node;
        self.by_txid.remove(&entry.ids.txid);
        self.by_wtxid.remove(&entry.ids.wtxid);
        for input in &entry.transaction.inputs {
            self.spenders.remove(&input.outpoint);
        }
        for address in addresses(&entry) {
            self.by_address.remove(&(address, id));
        }
        for parent in parents {
            if let Some(parent) = self.nodes.get_mut(&parent) {
                parent.children.retain(|child| *child != id);
                if parent.children.capacity() > weight::LINK_SLACK * parent.children.len() {
                    parent.children.shrink_to_fit();
                }
            }
        }
        for child in children {
            if let Some(child) = self.nodes.get_mut(&child) {
                child.parents.retain(|parent| *parent != id);
                // The child paid for the link; `parents` keeps its capacity until the child leaves, and so its weight.
            }
        }
        self.weight -= weight;
        self.size -= entry.ids.size;
        self.fees -= entry.fee.sen();
        Some(entry)
    }

    fn install(&mut self, old: &BTreeSet<ClusterId>, new: Vec<Cluster>) {
        for id in old {
            let Some(cluster) = self.clusters.remove(id) else { continue };
            for rank in ranks(*id, &cluster) {
                self.ranks.remove(&rank);
            }
        }
        for cluster in new {
            let id = self.next_cluster;
            self.next_cluster += 1;
            self.ranks.extend(ranks(id, &cluster));
            for member in &cluster.order {
                if let Some(node) = self.nodes.get_mut(member) {
                    node.cluster = id;
                }
            }
            self.clusters.insert(id, cluster);
        }
    }
}

fn ranks(id: ClusterId, cluster: &Cluster) -> impl Iterator<Item = Rank> {
    (0..).zip(&cluster.chunks).map(move |(position, chunk)| Rank { feerate: chunk.feerate, cluster: id, position })
}

fn addresses(entry: &Entry) -> impl Iterator<Item = Address> {
    entry.spent_addresses.iter().copied().chain(entry.transaction.outputs.iter().map(|output| output.address))
}
