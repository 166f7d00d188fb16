//! What peers are told, when, and what they may then fetch.

use super::*;
use crate::mempool::tests::outputs;
use crate::p2p::brain::relay::outgoing::AnnounceLog;
use crate::p2p::limits::{ANNOUNCE_LOG_MAX, TRANSACTIONS_BYTES_MAX, TRICKLE_INBOUND, TRICKLE_OUTBOUND};
use crate::testing::{address, coins};

fn wtxid(number: u64) -> WtxId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    WtxId::from_bytes(bytes)
}

fn own(bench: &mut Bench, transaction: &Transaction) {
    bench.lab.accept(transaction);
    bench.run(|relay, desk| relay.on_mempool_grew(desk, &[(transaction.wtxid(), 50_000)]));
}

fn fetch(bench: &mut Bench, peer: PeerId, wtxids: &[WtxId], txids: &[TxId]) -> (Vec<WtxId>, usize) {
    bench.lab.clock.advance(Duration::from_secs(1));
    bench.take();
    bench.run(|relay, desk| relay.on_get_transactions(desk, peer, wtxids, txids));
    let (mut found, mut missing) = (Vec::new(), 0);
    for action in bench.take() {
        match action {
            Action::Send(_, Message::Transactions(transactions)) => {
                found.extend(transactions.iter().map(Transaction::wtxid));
            }
            Action::Send(_, Message::NotFound(references)) => missing += references.len(),
            other => panic!("{other:?}"),
        }
    }
    bench.run(|relay, desk| relay.sent(desk, peer));
    (found, missing)
}

/// MP12: nothing can be fetched before it was told, by either id; what came since the last telling stays hidden.
#[test]
fn only_what_was_told_is_served() {
    let mut bench = Bench::new(2);
    let (peer, other) = (bench.connect(1, Link::OutboundFull), bench.connect(2, Link::Inbound));
    let first = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    own(&mut bench, &first);
    assert_eq!(fetch(&mut bench, peer, &[first.wtxid()], &[first.txid()]), (vec![], 2));
    bench.take();
    bench.wait(60);
    let told = bench.told();
    assert_eq!(told.len(), 2);
    assert!(told.contains(&(peer, vec![first.wtxid()])) && told.contains(&(other, vec![first.wtxid()])));
    let second = bench.lab.pay(&[bench.lab.purse(2)], 1, 10_000);
    own(&mut bench, &second);
    for peer in [peer, other] {
        let got = fetch(&mut bench, peer, &[first.wtxid(), second.wtxid()], &[second.txid()]);
        assert_eq!(got, (vec![first.wtxid()], 2));
        assert_eq!(fetch(&mut bench, peer, &[], &[first.txid()]), (vec![first.wtxid()], 0));
    }
}

/// MP12: own transactions and those of others go out together, to all incoming peers at once, in an order that says
/// nothing of who came first; parents before children; and nobody is told what it told.
#[test]
fn the_origin_is_not_singled_out() {
    let mut bench = Bench::new(8);
    let source = bench.connect(1, Link::Inbound);
    let spies: Vec<PeerId> = (2..6).map(|number| bench.connect(number, Link::Inbound)).collect();
    bench.run(TransactionRelay::tick);
    bench.take();
    let all: Vec<Transaction> = (1..=8).map(|number| bench.lab.pay(&[bench.lab.purse(number)], 1, 10_000)).collect();
    let child = bench.lab.pay(&outputs(&all[0]), 1, 90_000);
    let foreign: Vec<&Transaction> = all[4..].iter().collect();
    bench.announce(source, &foreign);
    bench.send(source, &foreign);
    bench.judge();
    for transaction in all[..4].iter().chain([&child]) {
        own(&mut bench, transaction);
    }
    bench.take();
    bench.wait(100);
    let told = bench.told();
    let mut expected: Vec<WtxId> = all.iter().map(Transaction::wtxid).collect();
    expected.sort_unstable();
    expected.push(child.wtxid());
    for spy in spies {
        let to_spy: Vec<&Vec<WtxId>> = told.iter().filter(|(peer, _)| *peer == spy).map(|(_, ids)| ids).collect();
        assert_eq!(to_spy.len(), 1, "all in one");
        assert_eq!(to_spy[0].last(), Some(&child.wtxid()));
        assert_eq!(to_spy[0].iter().collect::<BTreeSet<_>>(), expected.iter().collect());
    }
    let back: Vec<WtxId> = told.iter().filter(|(peer, _)| *peer == source).flat_map(|(_, ids)| ids.clone()).collect();
    assert_eq!(back.len(), 5, "the source is told the others only");
    assert!(foreign.iter().all(|transaction| !back.contains(&transaction.wtxid())));
}

/// MP12: the waits are of a Poisson process: right mean, no memory, and one for all incoming peers.
#[test]
fn waits_are_random_with_the_right_mean() {
    let rng = &mut StdRng::seed_from_u64(5);
    for mean in [TRICKLE_INBOUND, TRICKLE_OUTBOUND] {
        let waits: Vec<Duration> = (0..40_000).map(|_| pace::exponential(rng, mean)).collect();
        let average = waits.iter().sum::<Duration>() / 40_000;
        assert!(average > mean * 97 / 100 && average < mean * 103 / 100, "{average:?}");
        // e^-1 and e^-2 of them are longer than one mean and two.
        let longer = |times: u32| waits.iter().filter(|wait| **wait > mean * times).count();
        assert!((14_300..15_130).contains(&longer(1)), "{}", longer(1));
        assert!((5_150..5_680).contains(&longer(2)), "{}", longer(2));
    }
}

/// MP11: with 100,000 transactions entering and 125 peers, a second's work is some passes over small numbers; what is
/// gone is looked up once in all, not once for each peer.
#[test]
fn announcing_costs_little_however_much_waits() {
    let mut log = AnnounceLog::default();
    let mut queues: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); 125];
    let gone = |wtxid: &WtxId| wtxid.as_bytes()[7] % 2 == 1;
    let mut places = Vec::new();
    for number in 0..100_000 {
        places.extend(log.push(wtxid(number), number));
        assert!(log.push(wtxid(number), number).is_none());
    }
    // Slow peers wait for more than the log holds.
    let waiting = &places[places.len() - ANNOUNCE_LOG_MAX - 1_000..];
    queues.iter_mut().for_each(|queue| queue.extend(waiting));
    let lookups = std::cell::Cell::new(0);
    let depths = |wtxids: &[WtxId]| -> Vec<Option<usize>> {
        lookups.set(lookups.get() + wtxids.len());
        wtxids.iter().map(|wtxid| (!gone(wtxid)).then_some(1)).collect()
    };
    let mut sent = 0;
    for queue in &mut queues {
        let drawn = log.draw(queue, 0, 70, depths);
        assert!(drawn.len() <= 1_000 && drawn.iter().all(|wtxid| !gone(wtxid)));
        sent += drawn.len();
        assert!(queue.len() <= ANNOUNCE_LOG_MAX);
    }
    assert_eq!(sent, 125 * 1_000, "the drain grows with the backlog, up to a message");
    // The best half a thousand are looked up for each, the gone ones among them once.
    assert!(lookups.get() <= 125 * 1_000 + 10_000, "{}", lookups.get());
    assert!(log.work <= 125 * (ANNOUNCE_LOG_MAX as u64 * 6), "{}", log.work);
    let before = log.work;
    queues.iter_mut().for_each(|queue| queue.clear());
    queues.iter_mut().for_each(|queue| assert!(log.draw(queue, 0, 70, depths).is_empty()));
    assert_eq!(log.work, before, "nothing waits, nothing is done");
}

/// MP11: the best paying go first, those below a peer's filter never, and a small backlog goes out at the target.
#[test]
fn the_best_go_first_and_filters_are_respected() {
    let mut log = AnnounceLog::default();
    let mut queue: BTreeSet<u64> = (0..400).filter_map(|number| log.push(wtxid(number), number)).collect();
    let drawn = log.draw(&mut queue, 100, 28, |wtxids| vec![Some(1); wtxids.len()]);
    let expected: Vec<WtxId> = (400 - 28 - 300 / 4..400).rev().map(wtxid).collect();
    assert_eq!(drawn, expected);
    assert_eq!(queue.len(), 300 - expected.len());
    let mut bench = Bench::new(1);
    let peer = bench.connect(1, Link::OutboundFull);
    bench.relay.on_fee_filter(peer, 50_001);
    let cheap = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    own(&mut bench, &cheap);
    bench.wait(30);
    assert!(bench.told().is_empty());
}

/// A large answer comes in messages of at most a megabyte, spaced, and what is asked beyond all measure is blamed.
#[test]
fn large_answers_are_split_and_bounded() {
    let mut bench = Bench::new(14);
    let peer = bench.connect(1, Link::OutboundFull);
    let large: Vec<Transaction> = (1..=14)
        .map(|number| {
            let payments = vec![(address(1), coins(10).sen() / 3_000); 2_400];
            let payments: Vec<_> =
                payments.into_iter().map(|(to, sen)| (to, setara_core::amount::Amount::from_sen(sen))).collect();
            bench.lab.builder.spend(&[bench.lab.purse(number)], &payments)
        })
        .collect();
    for transaction in &large {
        own(&mut bench, transaction);
    }
    bench.wait(30);
    bench.take();
    let wtxids: Vec<WtxId> = large.iter().map(Transaction::wtxid).collect();
    bench.run(|relay, desk| relay.on_get_transactions(desk, peer, &wtxids, &[]));
    let mut messages = Vec::new();
    // The next only once the last has left the queue, however long that takes.
    for round in 0..20 {
        let before = messages.len();
        for action in bench.take() {
            if let Action::Send(_, Message::Transactions(transactions)) = action {
                let bytes: u64 = transactions.iter().map(|transaction| transaction.ids().size).sum();
                assert!(bytes <= TRANSACTIONS_BYTES_MAX);
                messages.push(transactions.len());
            }
        }
        assert!(messages.len() - before <= usize::from(round % 2 == 0), "{round}");
        bench.wait(1);
        if round % 2 == 1 {
            bench.run(|relay, desk| relay.sent(desk, peer));
        }
    }
    assert_eq!(messages.iter().sum::<usize>(), 14);
    let total: u64 = large.iter().map(|transaction| transaction.ids().size).sum();
    assert!(total > TRANSACTIONS_BYTES_MAX && messages.len() > 1);
    for _ in 0..7 {
        let ids: Vec<WtxId> = (0..1_000).map(wtxid).collect();
        bench.run(|relay, desk| relay.on_get_transactions(desk, peer, &ids, &[]));
    }
    assert_eq!(bench.blamed(peer), ["flood"]);
}

/// Fee filters are rounded by at most a tenth, and never ask less than what this node always asks.
#[test]
fn fee_filters_are_rounded_at_random() {
    let rng = &mut StdRng::seed_from_u64(6);
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let rate = pace::rounded_rate(rng, 123_456, 1_000);
        assert!(rate > 123_456 * 9 / 10 && rate < 123_456 * 11 / 10, "{rate}");
        seen.insert(rate);
        assert!(pace::rounded_rate(rng, 1_000, 1_000) >= 1_000);
        assert!(pace::rounded_rate(rng, u64::MAX, 1_000) > 1_000);
    }
    assert_eq!(seen.len(), 2);
}
