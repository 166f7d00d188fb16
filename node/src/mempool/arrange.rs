//! Cutting transactions into clusters and ordering each: what every change of the graph comes down to.

use super::feerate::Feerate;
use super::graph::{ClusterId, Graph, Id};
use super::linearize::{CLUSTER_TRANSACTIONS_MAX, Chunk, Item, chunks, linearize};
use super::weight;
use setara_core::hash::TxId;
use std::collections::BTreeSet;

/// Bytes of a cluster: one transaction of the largest size still leaves room for a small child.
pub const CLUSTER_BYTES_MAX: u64 = 101_000;

/// Connected transactions in mining order.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// In mining order, parents first.
    pub order: Vec<Id>,
    /// The order cut into chunks of falling feerate.
    pub chunks: Vec<Chunk>,
}

/// A cluster would exceed its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterLimit {
    /// Transactions it would have.
    pub count: u64,
    /// Bytes it would have.
    pub size: u64,
}

/// The transaction of a plan.
pub(super) struct Added<'a> {
    pub txid: TxId,
    pub feerate: Feerate,
    pub parents: &'a [Id],
}

struct Member<'a> {
    id: Id,
    txid: TxId,
    feerate: Feerate,
    parents: &'a [Id],
    group: usize,
}

impl Graph {
    /// The clusters that come of `old` without `removed` and with `added`.
    pub(super) fn arrange(
        &self,
        old: &BTreeSet<ClusterId>,
        removed: &BTreeSet<Id>,
        added: Option<Added<'_>>,
    ) -> Result<(Vec<Cluster>, u64), ClusterLimit> {
        let next_id = self.next_id();
        let mut members: Vec<Member<'_>> = old
            .iter()
            .filter_map(|id| self.cluster(*id))
            .flat_map(|cluster| &cluster.order)
            .filter(|id| !removed.contains(id))
            .map(|id| {
                let node = self.at(*id);
                let (txid, feerate) = (node.entry.ids.txid, node.entry.feerate());
                Member { id: *id, txid, feerate, parents: node.parents(), group: 0 }
            })
            .collect();
        if let Some(Added { txid, feerate, parents }) = added {
            members.push(Member { id: next_id, txid, feerate, parents, group: 0 });
        }
        members.sort_unstable_by_key(|member| member.id);
        group(&mut members);
        // By txid inside a group: the order then depends on nothing but the transactions.
        members.sort_unstable_by_key(|member| (member.group, member.txid));

        let mut clusters = Vec::new();
        let mut steps = 0;
        for members in members.chunk_by(|a, b| a.group == b.group) {
            let size = members.iter().map(|member| member.feerate.size).sum();
            if members.len() > CLUSTER_TRANSACTIONS_MAX
                || (size > CLUSTER_BYTES_MAX && members.iter().any(|member| member.id == next_id))
            {
                return Err(ClusterLimit { count: weight::count(members.len()), size });
            }
            let items: Vec<Item> = members
                .iter()
                .map(|member| {
                    let parents = members
                        .iter()
                        .enumerate()
                        .filter(|(_, other)| member.parents.binary_search(&other.id).is_ok())
                        .fold(0, |set, (position, _)| set | 1 << position);
                    Item { feerate: member.feerate, parents }
                })
                .collect();
            let (order, taken) = linearize(&items);
            steps += taken;
            let chunks = chunks(order.iter().map(|position| items[*position].feerate));
            clusters.push(Cluster { order: order.iter().map(|position| members[*position].id).collect(), chunks });
        }
        Ok((clusters, steps))
    }
}

/// Labels what is connected, members being sorted by id.
fn group(members: &mut [Member<'_>]) {
    fn find(labels: &mut [usize], mut position: usize) -> usize {
        while labels[position] != position {
            labels[position] = labels[labels[position]];
            position = labels[position];
        }
        position
    }
    let mut labels: Vec<usize> = (0..members.len()).collect();
    for (position, member) in members.iter().enumerate() {
        for parent in member.parents {
            if let Ok(parent) = members.binary_search_by_key(parent, |member| member.id) {
                let (child, parent) = (find(&mut labels, position), find(&mut labels, parent));
                labels[child.max(parent)] = child.min(parent);
            }
        }
    }
    for (position, member) in members.iter_mut().enumerate() {
        member.group = find(&mut labels, position);
    }
}
