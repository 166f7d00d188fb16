//! Tests of the orphanage: sums always add up, and no peer can push out another's.

use super::*;
use crate::testing::{address, coins};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::transaction::{Input, Output};

/// Spends output 0 of each parent; `memo` bytes make it larger and tell it apart.
pub(crate) fn orphan(parents: &[TxId], number: u64, memo: usize) -> (Arc<Transaction>, TransactionIds) {
    let mut memo = vec![0; memo.max(8)];
    memo[..8].copy_from_slice(&number.to_le_bytes());
    let input = |txid: &TxId| Input { outpoint: OutPoint::new(*txid, 0), amount: coins(1) };
    let transaction = Transaction {
        inputs: parents.iter().map(input).collect(),
        outputs: vec![Output { amount: coins(1), address: address(1) }],
        valid_from: 0,
        memo,
        witnesses: Vec::new(),
    };
    let ids = transaction.ids();
    (Arc::new(transaction), ids)
}

fn id(number: u64) -> TxId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    TxId::from_bytes(bytes)
}

/// Recounts everything.
fn check(orphanage: &Orphanage) {
    let (mut score, mut bytes, mut outpoints) = (0, 0, 0);
    let mut shares: BTreeMap<PeerId, (u64, u64, usize)> = BTreeMap::new();
    for (wtxid, orphan) in &orphanage.orphans {
        assert!(!orphan.announcers.is_empty());
        bytes += orphan.ids.size;
        for input in &orphan.transaction.inputs {
            assert!(orphanage.by_outpoint.contains(&(input.outpoint, *wtxid)));
            outpoints += 1;
        }
        for (peer, place) in &orphan.announcers {
            assert_eq!(orphanage.peers[peer].order[place], *wtxid);
            score += orphan.score;
            let share = shares.entry(*peer).or_default();
            *share = (share.0 + orphan.score, share.1 + orphan.ids.size, share.2 + 1);
        }
    }
    assert_eq!((score, bytes, outpoints), (orphanage.score, orphanage.bytes, orphanage.by_outpoint.len()));
    let sums = orphanage.peers.iter().map(|(peer, share)| (*peer, (share.score, share.bytes, share.order.len())));
    assert_eq!(shares, sums.collect());
    assert!(score <= ORPHAN_SCORE_MAX && bytes <= ORPHAN_BYTES_PER_PEER * (shares.len() as u64).max(1));
}

/// MP4: after any operations the sums are right and the bounds hold.
#[test]
fn sums_add_up_after_random_operations() {
    for seed in 0..2 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut orphanage = Orphanage::default();
        let mut seen = Vec::new();
        for number in 0..400 {
            let peer = PeerId(rng.random_range(0..5));
            match rng.random_range(0..10) {
                0..=5 => {
                    let parents: Vec<TxId> = (0..rng.random_range(1..200))
                        .map(|_| id(rng.random_range(0..5_000)))
                        .collect::<BTreeSet<_>>()
                        .into_iter()
                        .collect();
                    let (transaction, ids) = orphan(&parents, number, rng.random_range(8..60_000));
                    orphanage.add(peer, transaction, ids);
                    seen.push(ids.wtxid);
                }
                6 if !seen.is_empty() => _ = orphanage.announced(peer, &seen[rng.random_range(0..seen.len())]),
                7 => _ = orphanage.parent_arrived(id(rng.random_range(0..5_000))),
                8 => _ = orphanage.take_ready(peer).map(|transaction| orphanage.remove(&transaction.wtxid())),
                _ if rng.random_range(0..10) == 0 => orphanage.disconnected(peer),
                _ => orphanage.spent(&[OutPoint::new(id(rng.random_range(0..5_000)), 0)]),
            }
            check(&orphanage);
        }
        (0..5).for_each(|peer| orphanage.disconnected(PeerId(peer)));
        check(&orphanage);
        assert!(orphanage.is_empty() && orphanage.by_outpoint.is_empty(), "seed {seed}");
    }
}

/// MP4: whatever others fill the orphanage with, a peer within its share keeps its own.
#[test]
fn a_flood_pushes_out_its_own_only() {
    let mut orphanage = Orphanage::default();
    let honest: Vec<_> = (0..20).map(|number| orphan(&[id(number)], number, 8)).collect();
    for (transaction, ids) in &honest {
        assert!(orphanage.add(PeerId(99), transaction.clone(), *ids));
    }
    for number in 0..20_000 {
        let peer = PeerId(number % 8);
        let parents: Vec<TxId> = (0..number % 30).map(|parent| id(1_000 + number * 50 + parent)).collect();
        let (transaction, ids) = orphan(&parents, number, (number as usize * 37) % 2_000);
        orphanage.add(peer, transaction, ids);
        // A flooder that also claims to know the honest ones cannot take them along.
        orphanage.announced(peer, &honest[number as usize % 20].1.wtxid);
    }
    check(&orphanage);
    for (_, ids) in &honest {
        assert!(orphanage.contains(&ids.wtxid));
    }
    (0..8).for_each(|peer| orphanage.disconnected(PeerId(peer)));
    assert_eq!(orphanage.len(), 20);
}

/// MP4: the largest transactions fill a peer's reserve and no more.
#[test]
fn bytes_are_bounded_for_each_peer() {
    let mut orphanage = Orphanage::default();
    for number in 0..50 {
        let (transaction, ids) = orphan(&[id(number)], number, 99_000);
        orphanage.add(PeerId(1), transaction, ids);
        assert!(orphanage.bytes <= ORPHAN_BYTES_PER_PEER);
    }
    assert_eq!(orphanage.len(), 4);
    let newest = orphan(&[id(49)], 49, 99_000).1.wtxid;
    assert!(orphanage.contains(&newest), "the oldest went first");
}

/// Children of a parent are looked at again one by one, by outpoint, on behalf of who sent them.
#[test]
fn an_arriving_parent_readies_its_children() {
    let mut orphanage = Orphanage::default();
    let (first, second, other) = (orphan(&[id(1)], 1, 8), orphan(&[id(2), id(1)], 2, 8), orphan(&[id(3)], 3, 8));
    for (transaction, ids) in [&first, &second, &other] {
        orphanage.add(PeerId(1), transaction.clone(), *ids);
        orphanage.announced(PeerId(2), &ids.wtxid);
    }
    assert!(!orphanage.any_ready() && orphanage.take_ready(PeerId(1)).is_none());
    assert_eq!(orphanage.parent_arrived(id(1)), 2);
    assert!(orphanage.is_ready(PeerId(1)) && !orphanage.is_ready(PeerId(2)));
    assert_eq!(orphanage.children_from(PeerId(2), id(1)), [second.1.wtxid, first.1.wtxid]);
    assert_eq!(orphanage.children_from(PeerId(3), id(1)), []);
    let taken = [orphanage.take_ready(PeerId(1)), orphanage.take_ready(PeerId(1)), orphanage.take_ready(PeerId(1))];
    assert_eq!(taken.map(|taken| taken.map(|taken| taken.wtxid())), [Some(first.1.wtxid), Some(second.1.wtxid), None]);
    // Its sender gone, another announcer takes over.
    orphanage.disconnected(PeerId(1));
    assert_eq!((orphanage.len(), orphanage.parent_arrived(id(3))), (3, 1));
    assert!(orphanage.is_ready(PeerId(2)));
    orphanage.spent(&[OutPoint::new(id(1), 0)]);
    assert_eq!(orphanage.len(), 1);
    check(&orphanage);
}
