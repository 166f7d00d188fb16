//! Memory: measured, bounded, and dear to fill.

use super::super::graph::{Entry, Graph, Lock};
use super::{Lab, outputs};
use crate::mempool::{MempoolError, Options};
use crate::testing::{address, coins, funded_network, policy, sign};
use setara_core::amount::Amount;
use setara_core::codec::{decode, encode};
use setara_core::hash::TxId;
use setara_core::height::Height;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Input, OutPoint, Output, Transaction, Witness};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A transaction of a chosen shape, decoded as one that came from outside.
fn shaped(number: u32, inputs: u32, outputs: u32, witness: &Witness, parent: Option<TxId>) -> Transaction {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    let made = parent.unwrap_or(TxId::from_bytes(seed));
    let input = |index| Input { outpoint: OutPoint::new(made, index), amount: Amount::from_sen(1 << 40) };
    let output = |index: u32| {
        let mut bytes = seed;
        bytes[4..8].copy_from_slice(&index.to_le_bytes());
        Output { amount: Amount::from_sen(1_000_000), address: setara_core::address::Address::from_bytes(bytes) }
    };
    let transaction = Transaction {
        inputs: (0..inputs).map(input).collect(),
        outputs: (0..outputs).map(output).collect(),
        valid_from: number,
        memo: vec![7; (number % 200) as usize],
        witnesses: vec![witness.clone(); inputs as usize],
    };
    decode(&encode(&transaction)).unwrap()
}

fn fill(graph: &mut Graph, transactions: Vec<Transaction>) {
    for transaction in transactions {
        let (ids, fee) = (transaction.ids(), transaction.fee().unwrap());
        let spent_addresses = transaction.spent_addresses().into();
        let transaction = Arc::new(transaction);
        let (tip_height, lock) = (Height::GENESIS, Lock::default());
        let entry = Entry { transaction, ids, fee, time: 0, tip_height, lock, spent_addresses, watched: true };
        let (plan, _) = graph.plan(&entry.transaction, &ids, entry.feerate(), BTreeSet::new()).unwrap();
        graph.commit(plan, entry);
    }
}

/// MP6: what the graph says it weighs is never less than what the allocator gave it, for every shape; and an emptied
/// graph weighs nothing.
#[test]
fn measured_memory_covers_what_the_allocator_gives() {
    let plain = Witness {
        policy: policy(1),
        signatures: vec![setara_core::keys::Signature::from_bytes([1; 64])],
        preimages: Vec::new(),
        future: Vec::new(),
    };
    let deep = (0..6).fold(policy(1), |inner, _| SpendPolicy::Threshold {
        n: 1,
        of: vec![inner, SpendPolicy::Opaque(address(1)), SpendPolicy::Opaque(address(2))],
    });
    let deep = Witness { policy: deep, preimages: vec![[1; 32]; 60], ..plain.clone() };
    let future = Witness {
        policy: SpendPolicy::Future { tag: 130, bytes: vec![0; 255] },
        future: vec![vec![0; 1]; 60],
        ..plain.clone()
    };
    type Shape<'a> = Box<dyn Fn(u32) -> Transaction + 'a>;
    let shapes: [(&str, u32, Shape<'_>); 7] = [
        ("small", 20_000, Box::new(|n| shaped(n, 1, 1, &plain, None))),
        ("ordinary", 10_000, Box::new(|n| shaped(n, 1, 2, &plain, None))),
        ("many inputs", 300, Box::new(|n| shaped(n, 500, 1, &plain, None))),
        ("many outputs", 300, Box::new(|n| shaped(n, 1, 2_000, &plain, None))),
        ("deep policies", 2_000, Box::new(|n| shaped(n, 2, 1, &deep, None))),
        ("future items", 2_000, Box::new(|n| shaped(n, 2, 1, &future, None))),
        (
            "one input",
            10_000,
            Box::new(|n| shaped(n, 1, 1, &Witness { signatures: Vec::new(), ..plain.clone() }, None)),
        ),
    ];
    for (name, count, shape) in shapes {
        let mut graph = Graph::default();
        let memory = allocation_counter::measure(|| fill(&mut graph, (0..count).map(&shape).collect()));
        let (held, said) = (u64::try_from(memory.bytes_current).unwrap(), graph.usage() as u64);
        assert!(said >= held, "{name}: holds {held}, says {said}");
        assert!(said <= held * 3, "{name}: holds {held}, says {said}: an estimate this high wastes the limit");
        let all: BTreeSet<_> = graph.iter().map(|(id, _)| id).collect();
        graph.remove(&all);
        assert_eq!((graph.usage(), graph.size(), graph.fees(), graph.len()), (0, 0, 0, 0), "{name}");
    }
}

/// MP6: the same for clusters, which hold links, and stay covered when parts of them leave.
#[test]
fn measured_memory_covers_links() {
    let plain = Witness { policy: policy(1), signatures: Vec::new(), preimages: Vec::new(), future: Vec::new() };
    let mut graph = Graph::default();
    let memory = allocation_counter::measure(|| {
        for number in 0..200 {
            let parent = shaped(number, 1, 64, &plain, None);
            let txid = parent.txid();
            let child = |index: u32| {
                let mut child = shaped(1_000_000 + number * 100 + index, 1, 1, &plain, Some(txid));
                child.inputs[0].outpoint.index = index;
                child
            };
            let children: Vec<Transaction> = (0..63).map(child).collect();
            fill(&mut graph, vec![parent]);
            fill(&mut graph, children);
        }
        // Of every star all but two leaves go.
        let leaves = |graph: &Graph| -> BTreeSet<_> {
            let leaf = |id: &u64| graph.node(*id).unwrap().children().is_empty();
            graph.iter().map(|(id, _)| id).filter(leaf).collect()
        };
        assert_eq!(leaves(&graph).len(), 200 * 63);
        let mut going = leaves(&graph);
        for (position, id) in leaves(&graph).into_iter().enumerate() {
            if position % 63 < 2 {
                going.remove(&id);
            }
        }
        graph.remove(&going);
    });
    let (held, said) = (u64::try_from(memory.bytes_current).unwrap(), graph.usage() as u64);
    assert_eq!(graph.len(), 200 * 3);
    assert!(said >= held, "holds {held}, says {said}");
}

fn small_pool(max_bytes: usize) -> Lab {
    let options = Options { max_bytes, ..Options::default() };
    Lab::with(funded_network(1_000, coins(10)), options)
}

/// MP6: under a flood memory never exceeds its bound; what pays least goes first; the floor rises, so that each turn
/// costs the attacker more than the last; and falls by half in twelve hours.
#[test]
fn a_flood_is_bounded_and_gets_dearer() {
    let mut lab = small_pool(300_000);
    let honest = lab.pay(&[lab.purse(1_000)], 1, 3_000_000);
    lab.accept(&honest);
    let mut floors = vec![lab.pool.floor()];
    let mut paid = Vec::new();
    let (mut full, mut below) = (0, 0);
    for number in 1..=900 {
        // The least that is asked.
        let size = 200;
        let fee = lab.pool.floor() * size / 1_000 + 1;
        let transaction = lab.pay(&[lab.purse(number)], 1, fee);
        match lab.submit(&transaction) {
            Ok(_) => paid.push(fee),
            Err(MempoolError::Full) => full += 1,
            Err(MempoolError::BelowMempoolFloor { .. }) => below += 1,
            Err(error) => panic!("{error}"),
        }
        let info = lab.pool.info();
        assert!(info.usage <= info.max_usage, "{info:?}");
        if info.floor != *floors.last().unwrap() {
            floors.push(info.floor);
        }
    }
    assert!(lab.holds(&honest));
    assert!(floors.len() > 3 && floors.is_sorted(), "{floors:?}");
    // Turning the mempool over once costs an increment per kilobyte more each time.
    let turns: Vec<u64> = paid.chunks_exact(lab.txids().len()).map(|turn| turn.iter().sum()).collect();
    assert!(turns.len() >= 3 && turns.windows(2).all(|pair| pair[1] > pair[0]), "{turns:?}");
    // Who pays what is asked gets in, but for the ones that find the mempool full at a floor that has not risen yet.
    assert!(below == 0 && full <= floors.len(), "{full} full, {below} below the floor");

    let top = lab.pool.floor();
    lab.clock.advance(Duration::from_secs(12 * 3_600));
    assert_eq!(lab.pool.floor(), top, "nothing falls before a block makes room");
    lab.mine(vec![lab.pay(&[lab.purse(950)], 1, 10_000)]);
    assert!(lab.pool.info().usage > 150_000);
    lab.clock.advance(Duration::from_secs(12 * 3_600));
    assert!(lab.pool.floor().abs_diff(top / 2) <= 1_000, "{top} became {}", lab.pool.floor());
}

/// MP6: what leaves is the chunk with the lowest feerate, never a poor parent of a rich child.
#[test]
fn eviction_takes_the_lowest_chunk() {
    let lab = small_pool(100_000);
    let parent = lab.pay(&[lab.purse(1)], 1, 400);
    let child = lab.pay(&outputs(&parent), 1, 900_000);
    lab.accept(&parent);
    lab.accept(&child);
    let mut poor = Vec::new();
    for number in 2..200 {
        let transaction = lab.pay(&[lab.purse(number)], 1, 20_000 + u64::from(number));
        if lab.submit(&transaction).is_ok() {
            poor.push(transaction);
        }
    }
    assert!(lab.holds(&parent) && lab.holds(&child));
    let gone: Vec<bool> = poor.iter().map(|transaction| !lab.holds(transaction)).collect();
    assert!(gone[0] && !gone[gone.len() - 1]);
    assert!(gone.is_sorted_by(|before, after| before >= after), "the lowest first");
    let low = lab.pay(&[lab.purse(300)], 1, 1_000);
    assert_eq!(lab.refused(&low), "mempool min fee not met");
}

/// MP6: one transaction larger than the whole mempool is refused, and nothing is left behind.
#[test]
fn what_can_never_fit_is_refused_as_full() {
    let lab = small_pool(50_000);
    let large = lab.pay(&[lab.purse(1)], 1_000, 1_000_000);
    assert_eq!(lab.refused(&large), "mempool full");
    assert_eq!(lab.pool.info().usage, 0);
}

/// MP10: what has waited 336 hours leaves with all that depends on it, when the next block comes.
#[test]
fn entries_expire_after_336_hours() {
    let mut lab = Lab::new(4);
    let old = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.accept(&old);
    lab.clock.advance(Duration::from_secs(3_600));
    let child = lab.pay(&outputs(&old), 1, 10_000);
    let young = lab.pay(&[lab.purse(2)], 1, 10_000);
    lab.accept(&child);
    lab.accept(&young);
    lab.clock.advance(Duration::from_secs(335 * 3_600));
    lab.mine(Vec::new());
    assert_eq!(lab.txids().len(), 3);
    lab.clock.advance(Duration::from_secs(1));
    lab.mine(Vec::new());
    assert_eq!(lab.txids(), [young.txid()]);
    lab.clock.advance(Duration::from_secs(3_600));
    lab.mine(Vec::new());
    assert!(lab.txids().is_empty());
}

/// A transaction that spends many coins at once costs one look-up each, and one place for each in memory.
#[test]
fn many_inputs_are_one_entry() {
    let lab = Lab::new(200);
    let purses: Vec<_> = (1..=200).map(|number| lab.purse(number)).collect();
    let owners: Vec<u32> = (1..=200).collect();
    let transaction = sign(&lab.network, &purses, &[(address(1), coins(1_999))], 0, &owners);
    lab.accept(&transaction);
    assert_eq!(lab.pool.by_address(&address(77)).len(), 1);
    assert_eq!(lab.pool.spender(&purses[150].0), Some(transaction.txid()));
}
