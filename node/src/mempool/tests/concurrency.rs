//! Many threads at once: nothing accepted is lost, nothing invalid stays.

use super::{Lab, outputs};
use crate::mining::Contents;
use crate::testing::address;
use setara_core::hash::TxId;
use setara_core::transaction::Transaction;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// MP10: three threads submit chains of spends, one by one and in lists, while blocks are mined and taken back.
#[test]
fn submitting_mining_and_reverting_at_once_loses_nothing() {
    let lab = Lab::new(240);
    let left = AtomicUsize::new(3);
    let never = &|| false;
    let accepted: Vec<Transaction> = thread::scope(|scope| {
        let submitters: Vec<_> = (0..3u32)
            .map(|thread| {
                let (lab, left) = (&lab, &left);
                scope.spawn(move || {
                    let mut accepted = Vec::new();
                    for number in thread * 80 + 1..=thread * 80 + 80 {
                        let first = lab.pay(&[lab.purse(number)], 2, 10_000);
                        let second = lab.pay(&outputs(&first)[..1], 1, 10_000);
                        let third = lab.pay(&[outputs(&first)[1], outputs(&second)[0]], 1, 10_000);
                        let list = vec![first, second, third];
                        let verdicts = if number % 2 == 0 {
                            lab.pool.submit_many(list.clone())
                        } else {
                            list.iter().map(|transaction| lab.submit(transaction)).collect()
                        };
                        for verdict in verdicts {
                            verdict.expect("a good transaction is taken, whatever the chain does");
                        }
                        accepted.extend(list);
                    }
                    left.fetch_sub(1, Ordering::SeqCst);
                    accepted
                })
            })
            .collect();
        let mut tries = u64::MAX;
        let mut round = 0u32;
        while left.load(Ordering::SeqCst) > 0 {
            let block = lab.templates.generate(Contents::Mempool, address(round), &mut tries, never).unwrap();
            if round % 3 == 2 {
                lab.chain.invalidate(block.hash()).unwrap();
            }
            round += 1;
        }
        submitters.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let view = lab.chain.view();
    let mut found: BTreeSet<TxId> = lab.txids().into_iter().collect();
    let waiting = found.len();
    for height in 1..=view.tip.height().get() {
        let hash = view.hash_at(setara_core::height::Height::new(height)).unwrap().unwrap();
        found.extend(view.block(&hash).unwrap().unwrap().transactions.iter().map(Transaction::txid));
    }
    assert_eq!(found, accepted.iter().map(Transaction::txid).collect());
    let template = lab.templates.build(address(0)).unwrap();
    assert_eq!(template.transactions.len(), waiting, "all that waits is good for the next block");
}

/// A follower of its own keeps the mempool at the tip and wakes its waiters without being asked.
#[test]
fn a_follower_moves_on_without_being_asked() {
    let mut lab = Lab::new(2);
    let transaction = lab.pay(&[lab.purse(1)], 1, 10_000);
    lab.accept(&transaction);
    let changes = lab.pool.changes();
    let before = *changes.borrow();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (pool, stop) = (lab.pool.clone(), &stop);
        let follower = scope.spawn(move || pool.follow(&|| stop.load(Ordering::SeqCst)));
        lab.mine(vec![transaction]);
        let deadline = Instant::now() + DEADLINE;
        while *changes.borrow() == before {
            assert!(Instant::now() < deadline, "the mempool never followed");
            thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        follower.join().unwrap();
    });
    assert!(lab.txids().is_empty());
}
