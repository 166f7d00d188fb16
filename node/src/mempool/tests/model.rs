//! The graph against a naive model: plain sets, everything worked out anew.

use super::super::graph::{Entry, Graph, Id, Lock};
use super::super::linearize::CLUSTER_TRANSACTIONS_MAX;
use crate::testing::policy;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use setara_core::height::Height;
use setara_core::transaction::{Input, OutPoint, Output, Transaction, Witness};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn transaction(outpoints: &[OutPoint], outputs: u32, fee: u64) -> Transaction {
    let amount = |sen| Amount::from_sen(sen);
    let inputs = outpoints.iter().map(|outpoint| Input { outpoint: *outpoint, amount: amount(1_000_000_000) });
    let spent = 1_000_000_000 * outpoints.len() as u64;
    let each = (spent - fee) / u64::from(outputs);
    let witness = Witness { policy: policy(3), signatures: Vec::new(), preimages: Vec::new(), future: Vec::new() };
    Transaction {
        inputs: inputs.collect(),
        outputs: vec![Output { amount: amount(each), address: policy(3).address() }; outputs as usize],
        valid_from: 0,
        memo: Vec::new(),
        witnesses: vec![witness; outpoints.len()],
    }
}

/// Everything that must hold, from the transactions alone.
fn check(graph: &Graph, model: &BTreeMap<Id, Transaction>) {
    assert_eq!(graph.iter().map(|(id, _)| id).collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
    let by_txid: BTreeMap<TxId, Id> = model.iter().map(|(id, transaction)| (transaction.txid(), *id)).collect();
    let parents = |transaction: &Transaction| -> BTreeSet<Id> {
        transaction.inputs.iter().filter_map(|input| by_txid.get(&input.outpoint.txid).copied()).collect()
    };
    let mut groups: BTreeMap<u64, BTreeSet<Id>> = BTreeMap::new();
    for (id, transaction) in model {
        let node = graph.node(*id).unwrap();
        assert_eq!(node.parents().iter().copied().collect::<BTreeSet<_>>(), parents(transaction));
        for parent in node.parents() {
            assert!(parent < id, "a parent's id is below its children's");
            let parent = graph.node(*parent).unwrap();
            assert!(parent.children().contains(id));
            assert_eq!(parent.cluster(), node.cluster(), "what is linked is in one cluster");
        }
        assert_eq!(graph.id_of(&transaction.txid()), Some(*id));
        assert_eq!(graph.id_of_wtxid(&transaction.wtxid()), Some(*id));
        for input in &transaction.inputs {
            assert_eq!(graph.spender(&input.outpoint), Some(*id));
        }
        groups.entry(node.cluster()).or_default().insert(*id);
    }
    for (cluster, members) in &groups {
        let cluster = graph.cluster(*cluster).unwrap();
        assert_eq!(&cluster.order.iter().copied().collect::<BTreeSet<_>>(), members);
        assert!(members.len() <= CLUSTER_TRANSACTIONS_MAX);
        assert!(cluster.chunks.windows(2).all(|pair| pair[0].feerate >= pair[1].feerate));
        assert_eq!(cluster.chunks.iter().map(|chunk| chunk.count).sum::<usize>(), members.len());
        // Connected: from any member all others are reached over links.
        let first = *members.first().unwrap();
        let mut reached = BTreeSet::from([first]);
        let mut pending = vec![first];
        while let Some(id) = pending.pop() {
            let node = graph.node(id).unwrap();
            for next in node.parents().iter().chain(node.children()) {
                if reached.insert(*next) {
                    pending.push(*next);
                }
            }
        }
        assert_eq!(&reached, members);
    }
    // Best first holds everything once, parents before children, feerates falling; the worst is its end.
    let mut placed = BTreeSet::new();
    let mut last = None;
    for (_, feerate, chunk) in graph.best_first() {
        assert!(last.is_none_or(|last| last >= feerate));
        last = Some(feerate);
        for id in chunk {
            assert!(parents(&model[id]).is_subset(&placed));
            assert!(placed.insert(*id));
        }
    }
    assert_eq!(placed.len(), model.len());
    assert_eq!(graph.worst().map(|(feerate, _)| feerate), last);
    let sizes: u64 = model.values().map(|transaction| transaction.ids().size).sum();
    let fees: u64 = model.values().map(|transaction| transaction.fee().unwrap().sen()).sum();
    assert_eq!((graph.size(), graph.fees(), graph.usage() == 0), (sizes, fees, model.is_empty()));
}

/// MP8: entering, replacing, mining (parents leave, children stay), evicting, in any order.
#[test]
fn the_graph_agrees_with_a_naive_model() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut graph = Graph::default();
        let mut model: BTreeMap<Id, Transaction> = BTreeMap::new();
        let mut fresh = 0u32;
        for _ in 0..250 {
            match random.random_range(0..10) {
                0 => {
                    // Mined: some entries and all their ancestors.
                    let ids: Vec<Id> = model.keys().copied().collect();
                    let roots: Vec<Id> =
                        (0..3).filter_map(|_| ids.get(random.random_range(0..ids.len().max(1))).copied()).collect();
                    let going = graph.with_ancestors(roots);
                    let gone = graph.remove(&going);
                    assert_eq!(gone.len(), going.len());
                    model.retain(|id, _| !going.contains(id));
                }
                1 => {
                    if let Some((_, chunk)) = graph.worst() {
                        let going: BTreeSet<Id> = chunk.iter().copied().collect();
                        assert_eq!(graph.with_descendants(going.iter().copied()), going, "nothing depends on it");
                        graph.remove(&going);
                        model.retain(|id, _| !going.contains(id));
                    }
                }
                _ => {
                    let inputs = random.random_range(1..4);
                    let mut outpoints = BTreeSet::new();
                    let ids: Vec<Id> = model.keys().copied().collect();
                    for _ in 0..inputs {
                        if ids.is_empty() || random.random_range(0..3) == 0 {
                            fresh += 1;
                            let mut txid = [0xff; 32];
                            txid[..4].copy_from_slice(&fresh.to_le_bytes());
                            outpoints.insert(OutPoint::new(TxId::from_bytes(txid), 0));
                        } else {
                            let parent = &model[&ids[random.random_range(0..ids.len())]];
                            let index = random.random_range(0..parent.outputs.len()) as u32;
                            outpoints.insert(OutPoint::new(parent.txid(), index));
                        }
                    }
                    let outpoints: Vec<OutPoint> = outpoints.into_iter().collect();
                    let fee = random.random_range(200..100_000);
                    let transaction = transaction(&outpoints, random.random_range(1..4), fee);
                    let conflicts = outpoints.iter().filter_map(|outpoint| graph.spender(outpoint));
                    let removed = graph.with_descendants(conflicts.collect::<Vec<_>>());
                    if graph.parents_of(&transaction).iter().any(|parent| removed.contains(parent)) {
                        continue;
                    }
                    let (ids, fee) = (transaction.ids(), transaction.fee().unwrap());
                    let spent_addresses = transaction.spent_addresses().into();
                    let (tip_height, lock) = (Height::GENESIS, Lock::default());
                    let shared = Arc::new(transaction.clone());
                    let entry = Entry {
                        transaction: shared,
                        ids,
                        fee,
                        time: 0,
                        tip_height,
                        lock,
                        spent_addresses,
                        watched: false,
                    };
                    let feerate = entry.feerate();
                    if let Ok((plan, _)) = graph.plan(&transaction, &ids, feerate, removed.clone()) {
                        let (id, gone) = graph.commit(plan, entry);
                        assert_eq!(gone.len(), removed.len());
                        model.retain(|id, _| !removed.contains(id));
                        model.insert(id, transaction);
                    }
                }
            }
            check(&graph, &model);
        }
        let all = model.keys().copied().collect();
        graph.remove(&all);
        check(&graph, &BTreeMap::new());
    }
}
