//! What hostile peers send, and what comes of it.

use super::*;
use crate::mempool::tests::outputs;
use crate::p2p::brain::orphans::tests::orphan;
use crate::p2p::limits::{
    ANNOUNCEMENTS_PER_PEER, ORPHAN_SCORE_MAX, VERIFYING_PER_PEER, WAITING_BYTES_PER_PEER, WAITING_PER_PEER,
};
use crate::testing::{address, break_signature};
use rand::RngExt;
use setara_core::amount::Amount;

/// MP1: random ids fill what a peer has, then end in blame; another peer is served as before.
#[test]
fn a_flood_of_announcements_is_bounded_and_blamed() {
    let mut bench = Bench::new(1);
    let (flooder, honest) = (bench.connect(1, Link::Inbound), bench.connect(2, Link::Inbound));
    let mut blamed = 0;
    for _ in 0..100 {
        let ids: Vec<WtxId> = (0..1_000).map(|_| WtxId::from_bytes(bench.rng.random())).collect();
        bench.run(|relay, desk| relay.on_announce(desk, flooder, &ids));
        assert!(bench.relay.requests.len() <= ANNOUNCEMENTS_PER_PEER);
        blamed += bench.blamed(flooder).len();
        bench.take();
    }
    assert!(blamed > 0);
    let good = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    bench.announce(honest, &[&good]);
    bench.wait(3);
    assert!(bench.asked().contains(&(honest, Wanted::Wtxid(good.wtxid()))));
    bench.relay.peer_gone(flooder);
    assert_eq!(bench.relay.requests.len(), 1);
}

/// MP2: seven withhold, the eighth delivers, within as many expiries.
#[test]
fn withholding_delays_by_an_expiry_each() {
    let mut bench = Bench::new(1);
    let good = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    for number in 1..=8 {
        let peer = bench.connect(number, Link::OutboundFull);
        bench.announce(peer, &[&good]);
    }
    let honest = PeerId(5);
    let mut seconds = 0;
    let mut askings = 0;
    while !bench.lab.holds(&good) {
        for (peer, _) in bench.asked() {
            askings += 1;
            if peer == honest {
                bench.send(peer, &[&good]);
                bench.judge();
            }
        }
        bench.wait(1);
        seconds += 1;
        assert!(seconds <= 7 * 60 + 10, "still not here");
    }
    assert!(askings <= 8);
}

/// MP3: what is pushed is accounted for like what was asked for: five with the mempool, a bounded queue, then blame;
/// and all of it goes with the peer.
#[test]
fn pushed_transactions_do_not_dodge_the_limits() {
    let mut bench = Bench::new(1);
    let (pusher, honest) = (bench.connect(1, Link::Inbound), bench.connect(2, Link::Inbound));
    let (mut submitted, mut blamed) = (0, 0);
    for round in 0..60 {
        let size = if round % 2 == 0 { 8 } else { 20_000 };
        let parent = [TxId::from_bytes([9; 32])];
        let batch: Vec<Transaction> =
            (0..100).map(|number| (*orphan(&parent, round * 100 + number, size).0).clone()).collect();
        bench.run(|relay, desk| relay.on_transactions(desk, pusher, batch));
        let state = &bench.relay.peers[&pusher];
        assert!(state.verifying.len() <= VERIFYING_PER_PEER && state.waiting.len() <= WAITING_PER_PEER);
        assert!(state.waiting_bytes <= WAITING_BYTES_PER_PEER);
        assert_eq!(state.waiting_bytes, state.waiting.iter().map(|waiting| waiting.bytes()).sum::<u64>());
        blamed += bench.blamed(pusher).len();
        for action in bench.take() {
            if let Action::SubmitTransactions(_, transactions) = action {
                submitted += transactions.len();
            }
        }
    }
    assert_eq!(submitted, VERIFYING_PER_PEER, "no verdict, no further work");
    assert!(blamed > 20);
    // Somebody else's transaction is judged at once.
    let good = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    bench.send(honest, &[&good]);
    bench.judge();
    assert!(bench.lab.holds(&good) && bench.blamed(honest).is_empty());
    bench.relay.peer_gone(pusher);
    bench.relay.peer_gone(honest);
    assert!(bench.relay.peers.is_empty() && bench.relay.orphans.is_empty() && bench.relay.requests.is_empty());
}

/// Transactions pushed in a soak: a sample, as many as attacks do with `SETARA_PUSHES=1000000`.
fn pushes() -> u64 {
    std::env::var("SETARA_PUSHES").ok().and_then(|text| text.parse().ok()).unwrap_or(PUSHES)
}

/// See [`pushes`].
const PUSHES: u64 = 200_000;

/// MP3: pushers come and go for hours; some get verdicts, some leave before any comes, of some the mempool says nothing
/// for longer than a request lives. What is kept is bounded by who is there, and nothing stays.
#[test]
fn a_soak_of_pushed_transactions_leaves_nothing() {
    const BATCH: u64 = 100;
    const PUSHERS: u64 = 4;
    /// Batches after which a pusher leaves and another comes.
    const STAY: u64 = 25;
    let start = std::time::Instant::now();
    let mut bench = Bench::new(1);
    let honest = bench.connect(1, Link::OutboundFull);
    let mut pushers: Vec<PeerId> = (2..2 + PUSHERS).map(|peer| bench.connect(peer, Link::Inbound)).collect();
    let (mut pushed, mut next, mut blames) = (0, 2 + PUSHERS, 0);
    let mut most = (0, 0, 0);
    let witnesses = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000).witnesses;
    while pushed < pushes() {
        let at = (pushed / BATCH % PUSHERS) as usize;
        let pusher = pushers[at];
        let batch = (0..BATCH).map(|number| {
            let parent = [TxId::from_bytes(bench.rng.random())];
            let mut orphan = (*orphan(&parent, pushed + number, 8).0).clone();
            // One in four pays nothing; the others lack a parent that will never come.
            orphan.witnesses = witnesses.clone();
            if number % 4 != 0 {
                orphan.outputs[0].amount = Amount::from_sen(crate::testing::coins(1).sen() - 10_000);
            }
            orphan
        });
        let batch = batch.collect();
        bench.run(|relay, desk| relay.on_transactions(desk, pusher, batch));
        pushed += BATCH;
        blames += bench.blamed(pusher).len();
        match bench.rng.random_range(0..4) {
            // Verdicts that never come, of a mempool that is busy.
            0 => drop(bench.take()),
            1 => {
                bench.lab.clock.advance(Duration::from_secs(61));
                bench.run(TransactionRelay::tick);
                bench.judge();
            }
            _ => bench.judge(),
        }
        bench.take();
        if (pushed / BATCH).is_multiple_of(STAY) {
            bench.relay.peer_gone(pusher);
            pushers[at] = bench.connect(next, Link::Inbound);
            next += 1;
        }
        let relay = &bench.relay;
        assert_eq!(relay.peers.len() as u64, 1 + PUSHERS);
        let waiting: usize = relay.peers.values().map(|state| state.waiting.len() + state.verifying.len()).sum();
        most = (most.0.max(waiting), most.1.max(relay.orphans.len()), most.2.max(relay.requests.len()));
        assert!(waiting <= PUSHERS as usize * (WAITING_PER_PEER + VERIFYING_PER_PEER));
        assert!(relay.orphans.len() as u64 <= ORPHAN_SCORE_MAX);
        assert!(relay.requests.len() <= PUSHERS as usize * ANNOUNCEMENTS_PER_PEER);
    }
    println!("{pushed} pushes by {} peers, {blames} blamed, at most {most:?} kept, {:?}", next - 2, start.elapsed());
    assert!(most.1 > 100, "no orphan was taken: {most:?}");
    assert!(most.0 > WAITING_PER_PEER / 2, "the queues were never put to the test: {most:?}");
    let good = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    bench.send(honest, &[&good]);
    bench.judge();
    assert!(bench.lab.holds(&good) && bench.blamed(honest).is_empty());
    pushers.push(honest);
    pushers.into_iter().for_each(|peer| bench.relay.peer_gone(peer));
    assert!(bench.relay.peers.is_empty() && bench.relay.orphans.is_empty() && bench.relay.requests.is_empty());
}

/// MP4: while others churn the orphanage, a parent that pays nothing and its child that pays for both still land,
/// whichever of them comes first.
#[test]
fn one_parent_one_child_lands_among_floods_of_orphans() {
    for child_first in [true, false] {
        let mut bench = Bench::new(1);
        let honest = bench.connect(100, Link::OutboundFull);
        let flooders: Vec<PeerId> = (0..6).map(|number| bench.connect(number, Link::Inbound)).collect();
        let parent = bench.lab.pay(&[bench.lab.purse(1)], 1, 0);
        let child = bench.lab.pay(&outputs(&parent), 1, 10_000);
        if !child_first {
            bench.send(honest, &[&parent]);
            bench.judge();
            assert!(bench.relay.rejects.is_poor(&parent.wtxid()) && !bench.lab.holds(&parent));
        }
        bench.send(honest, &[&child]);
        bench.judge();
        let mut number = 0;
        let mut landed = false;
        for _ in 0..10 {
            for flooder in &flooders {
                let batch: Vec<Transaction> = (0..100)
                    .map(|_| {
                        number += 1;
                        let mut parents = vec![parent.txid()];
                        parents.extend((0..number % 20).map(|_| TxId::from_bytes(bench.rng.random())));
                        (*orphan(&parents, number, 8).0).clone()
                    })
                    .collect();
                bench.run(|relay, desk| relay.on_transactions(desk, *flooder, batch));
                bench.judge();
            }
            assert!(bench.relay.orphans.contains(&child.wtxid()) || bench.lab.holds(&child));
            assert!(bench.relay.orphans.len() as u64 <= ORPHAN_SCORE_MAX);
            bench.wait(1);
            let asked = bench.asked();
            if asked.contains(&(honest, Wanted::Txid(parent.txid()))) {
                bench.send(honest, &[&parent]);
                bench.judge();
            }
            landed |= bench.lab.holds(&parent) && bench.lab.holds(&child);
        }
        // Flooders named the parent too, and were asked first or not at all; their requests expire.
        let mut waited = 0;
        while !landed {
            bench.wait(1);
            if bench.asked().contains(&(honest, Wanted::Txid(parent.txid()))) {
                bench.send(honest, &[&parent]);
                bench.judge();
            }
            landed = bench.lab.holds(&parent) && bench.lab.holds(&child);
            waited += 1;
            assert!(waited <= 60 * 7, "child first: {child_first}");
        }
    }
}

/// MP9: what was refused is not fetched again until the tip moves.
#[test]
fn refusals_are_forgotten_with_a_new_tip() {
    let mut bench = Bench::new(1);
    let peer = bench.connect(1, Link::OutboundFull);
    let (outpoint, coin) = bench.lab.purse(1);
    let next = bench.lab.builder.height() + 2;
    let early = bench.lab.builder.spend_from(&[(outpoint, coin)], &[(address(1), crate::testing::coins(9))], next);
    bench.send(peer, &[&early]);
    bench.judge();
    assert!(bench.relay.rejects.is_refused(&early.wtxid()) && bench.blamed(peer).is_empty());
    bench.announce(peer, &[&early]);
    assert_eq!(bench.asked(), []);
    bench.mine(Vec::new());
    bench.announce(peer, &[&early]);
    assert_eq!(bench.asked(), [(peer, Wanted::Wtxid(early.wtxid()))]);
    bench.send(peer, &[&early]);
    bench.judge();
    assert!(bench.lab.holds(&early));
    // Mined, it is not fetched any more.
    bench.mine(vec![early.clone()]);
    bench.announce(peer, &[&early]);
    assert_eq!(bench.asked(), []);
}

/// CS10, MP9: a bad twin, sent first, even as the answer for the parent's txid, does not stand in the good one's way.
#[test]
fn a_malleated_twin_does_not_poison_the_good_one() {
    let mut bench = Bench::new(1);
    let (attacker, honest) = (bench.connect(1, Link::OutboundFull), bench.connect(2, Link::OutboundFull));
    let good = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    let child = bench.lab.pay(&outputs(&good), 1, 10_000);
    let mut bad = good.clone();
    break_signature(&mut bad);
    assert_eq!(bad.txid(), good.txid());
    bench.announce(honest, &[&child]);
    bench.send(honest, &[&child]);
    bench.judge();
    assert!(bench.relay.orphans.contains(&child.wtxid()));
    bench.announce(attacker, &[&child]);
    bench.wait(3);
    bench.send(attacker, &[&bad]);
    bench.judge();
    assert_eq!(bench.blamed(attacker), ["invalid-transaction"]);
    bench.relay.peer_gone(attacker);
    bench.wait(3);
    assert!(bench.blamed(honest).is_empty());
    bench.send(honest, &[&good]);
    bench.judge();
    bench.wait(1);
    assert!(bench.lab.holds(&good) && bench.lab.holds(&child) && bench.relay.orphans.is_empty());
}

/// BR16: far behind, nothing is announced, asked or judged; peers are told to send nothing, and then otherwise.
#[test]
fn nothing_is_relayed_while_syncing() {
    let mut bench = Bench::new(2);
    bench.relay.set_syncing(true);
    let peer = bench.connect(1, Link::OutboundFull);
    assert!(matches!(bench.take()[..], [Action::Send(_, Message::FeeFilter(u64::MAX))]));
    let good = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    bench.announce(peer, &[&good]);
    bench.send(peer, &[&good]);
    let own = bench.lab.pay(&[bench.lab.purse(2)], 1, 10_000);
    bench.lab.accept(&own);
    bench.run(|relay, desk| relay.on_mempool_grew(desk, &[(own.wtxid(), 1_000)]));
    bench.wait(20);
    assert!(bench.take().is_empty());
    bench.relay.set_syncing(false);
    bench.wait(1);
    let filters = bench.take();
    assert!(matches!(filters[..], [Action::Send(_, Message::FeeFilter(1_000..=1_100))]), "{filters:?}");
    bench.announce(peer, &[&good]);
    assert_eq!(bench.asked(), [(peer, Wanted::Wtxid(good.wtxid()))]);
}

/// Transactions on a block-only connection are out of turn, both ways.
#[test]
fn block_only_connections_carry_no_transactions() {
    let mut bench = Bench::new(1);
    let peer = bench.connect(1, Link::BlockOnly);
    let good = bench.lab.pay(&[bench.lab.purse(1)], 1, 10_000);
    bench.announce(peer, &[&good]);
    bench.send(peer, &[&good]);
    bench.run(|relay, desk| relay.on_get_transactions(desk, peer, &[good.wtxid()], &[]));
    assert_eq!(bench.blamed(peer), ["out-of-turn"; 3]);
    assert_eq!(bench.take().len(), 3);
}
