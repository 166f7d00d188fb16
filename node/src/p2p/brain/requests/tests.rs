//! Tests of the request tracker, against a naive model and against hostile peers.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const OUT: bool = true;
const IN: bool = false;

fn wtxid(number: u64) -> Wanted {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Wanted::Wtxid(WtxId::from_bytes(bytes))
}

fn txid(number: u64) -> Wanted {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Wanted::Txid(TxId::from_bytes(bytes))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The same, as one list that is looked through for every question.
#[derive(Default)]
struct Model {
    list: Vec<Row>,
}

#[derive(Clone, Copy, PartialEq)]
enum Status {
    Candidate,
    Requested,
    Completed,
}

struct Row {
    peer: PeerId,
    wanted: Wanted,
    preferred: bool,
    time: Duration,
    sequence: u64,
    status: Status,
}

impl Model {
    fn purge(&mut self) {
        let live: Vec<Wanted> =
            self.list.iter().filter(|row| row.status != Status::Completed).map(|row| row.wanted).collect();
        self.list.retain(|row| live.contains(&row.wanted));
    }

    fn announced(&mut self, peer: PeerId, wanted: Wanted, preferred: bool, now: Duration, sequence: u64) {
        if self.list.iter().any(|row| row.peer == peer && row.wanted == wanted) {
            return;
        }
        let in_flight = self.list.iter().filter(|row| row.peer == peer && row.status == Status::Requested).count();
        let seconds = 2
            * (u64::from(!preferred)
                + u64::from(matches!(wanted, Wanted::Txid(_)))
                + u64::from(in_flight >= IN_FLIGHT_PER_PEER));
        let time = now + Duration::from_secs(seconds);
        self.list.push(Row { peer, wanted, preferred, time, sequence, status: Status::Candidate });
    }

    fn advance(&mut self, now: Duration) {
        for row in &mut self.list {
            if row.status == Status::Requested && row.time <= now {
                row.status = Status::Completed;
            }
        }
        self.purge();
    }

    fn requestable(&self, tracker: &RequestTracker, peer: PeerId, now: Duration) -> Vec<Wanted> {
        let mut mine: Vec<(u64, Wanted)> = Vec::new();
        for row in self.list.iter().filter(|row| row.peer == peer) {
            let of_it = || self.list.iter().filter(|other| other.wanted == row.wanted);
            if of_it().any(|other| other.status == Status::Requested) {
                continue;
            }
            let best = of_it()
                .filter(|other| other.status == Status::Candidate && other.time <= now)
                .max_by_key(|other| tracker.priority(other.peer, other.wanted, other.preferred));
            if best.is_some_and(|best| best.peer == peer) {
                mine.push((row.sequence, row.wanted));
            }
        }
        mine.sort_unstable();
        mine.into_iter().map(|(_, wanted)| wanted).collect()
    }

    fn complete(&mut self, peer: PeerId, wanted: Wanted) {
        for row in self.list.iter_mut().filter(|row| row.peer == peer && row.wanted == wanted) {
            row.status = Status::Completed;
        }
        self.purge();
    }
}

/// MP2: random operations on the tracker and on the model always agree.
#[test]
fn the_tracker_does_as_the_naive_model() {
    for seed in 0..40 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut tracker = RequestTracker::new((rng.random(), rng.random()));
        let mut model = Model::default();
        let mut now = Duration::ZERO;
        let mut sequence = 0;
        for _ in 0..600 {
            let peer = PeerId(rng.random_range(0..6));
            let number = rng.random_range(0..12);
            let wanted = if rng.random_range(0..4) == 0 { txid(number) } else { wtxid(number) };
            match rng.random_range(0..10) {
                0..=3 => {
                    let preferred = rng.random();
                    if tracker.announced(peer, wanted, preferred, now) == Announced::New {
                        model.announced(peer, wanted, preferred, now, sequence);
                        sequence += 1;
                    }
                }
                4 | 5 => {
                    now += ms(rng.random_range(0..5_000));
                    tracker.advance(now);
                    model.advance(now);
                }
                6 | 7 => {
                    tracker.advance(now);
                    model.advance(now);
                    for wanted in tracker.requestable(peer, 3) {
                        tracker.requested(peer, wanted, now);
                        let asked = |row: &&mut Row| row.peer == peer && row.wanted == wanted;
                        let row = model.list.iter_mut().find(asked).expect("both know it");
                        (row.status, row.time) = (Status::Requested, now + TRANSACTION_EXPIRY);
                    }
                }
                8 => {
                    tracker.answered(peer, wanted);
                    model.complete(peer, wanted);
                }
                _ if rng.random_range(0..3) == 0 => {
                    tracker.disconnected(peer);
                    model.list.retain(|row| row.peer != peer);
                    model.purge();
                }
                _ => {
                    tracker.forget(wanted);
                    model.list.retain(|row| row.wanted != wanted);
                }
            }
            tracker.advance(now);
            model.advance(now);
            for peer in (0..6).map(PeerId) {
                let expected = model.requestable(&tracker, peer, now);
                assert_eq!(tracker.requestable(peer, usize::MAX), expected, "seed {seed}");
                let mine = model.list.iter().filter(|row| row.peer == peer);
                assert_eq!(tracker.count(peer), mine.clone().count(), "seed {seed}");
                let open = mine.filter(|row| row.status == Status::Requested).count();
                assert_eq!(tracker.in_flight(peer), open, "seed {seed}");
            }
            assert_eq!(tracker.len(), model.list.len(), "seed {seed}");
        }
        (0..6).for_each(|peer| tracker.disconnected(PeerId(peer)));
        assert!(tracker.is_empty() && tracker.timers.is_empty() && tracker.peers.is_empty(), "seed {seed}");
    }
}

/// MP1.
#[test]
fn a_million_random_ids_are_bounded() {
    let mut tracker = RequestTracker::new((1, 2));
    let rng = &mut StdRng::seed_from_u64(7);
    let mut full = 0;
    for number in 0..1_000_000 {
        let id = Wanted::Wtxid(WtxId::from_bytes(rng.random()));
        full += usize::from(tracker.announced(PeerId(1), id, IN, ms(number / 100)) == Announced::Full);
        assert!(tracker.len() <= ANNOUNCEMENTS_PER_PEER && tracker.timers.len() <= ANNOUNCEMENTS_PER_PEER);
    }
    assert_eq!(full, 1_000_000 - ANNOUNCEMENTS_PER_PEER);
    assert_eq!(tracker.announced(PeerId(2), wtxid(1), OUT, ms(0)), Announced::New, "others are not touched");
    tracker.disconnected(PeerId(1));
    assert_eq!(tracker.len(), 1);
}

/// MP2: whoever withholds is asked once; an honest peer among eight is reached within seven expiries, whatever the keys.
#[test]
fn one_honest_peer_among_eight_is_asked_in_time() {
    for seed in 0..50 {
        let mut tracker = RequestTracker::new((seed, seed * 31));
        let honest = PeerId(seed % 8);
        let mut now = Duration::ZERO;
        for peer in (0..8).map(PeerId) {
            assert_eq!(tracker.announced(peer, wtxid(1), OUT, now), Announced::New);
        }
        let mut asked = BTreeSet::new();
        'asking: loop {
            tracker.advance(now);
            for peer in tracker.askable() {
                for wanted in tracker.requestable(peer, 10) {
                    assert!(asked.insert(peer), "{peer:?} is asked twice");
                    tracker.requested(peer, wanted, now);
                    // Withholders keep announcing.
                    (0..8).map(PeerId).for_each(|peer| _ = tracker.announced(peer, wtxid(1), OUT, now));
                    if peer == honest {
                        break 'asking;
                    }
                }
            }
            now = tracker.next_event_at().expect("somebody is left to ask");
        }
        assert!(now <= TRANSACTION_EXPIRY * 7, "seed {seed}: {now:?}");
    }
}

/// MP2: an incoming peer, even one that announces first, does not come before an outgoing one.
#[test]
fn outgoing_peers_come_first_and_delays_add_up() {
    let mut tracker = RequestTracker::new((3, 4));
    tracker.announced(PeerId(1), wtxid(1), IN, ms(0));
    tracker.announced(PeerId(2), wtxid(1), OUT, ms(1_500));
    tracker.announced(PeerId(1), txid(2), IN, ms(0));
    tracker.announced(PeerId(2), txid(3), OUT, ms(0));
    tracker.advance(ms(1_999));
    assert_eq!(tracker.requestable(PeerId(2), 9), [wtxid(1)]);
    tracker.advance(ms(2_000));
    assert_eq!(tracker.requestable(PeerId(1), 9), []);
    assert_eq!(tracker.requestable(PeerId(2), 9), [wtxid(1), txid(3)]);
    tracker.advance(ms(4_000));
    assert_eq!(tracker.requestable(PeerId(1), 9), [txid(2)]);
    // A request in flight is not taken away by a better peer that comes later.
    tracker.requested(PeerId(1), txid(2), ms(4_000));
    tracker.announced(PeerId(2), txid(2), OUT, ms(4_000));
    tracker.advance(ms(63_999));
    assert!(!tracker.requestable(PeerId(2), 9).contains(&txid(2)));
    assert_eq!(tracker.advance(ms(64_000)), [(PeerId(1), txid(2))]);
    assert!(tracker.requestable(PeerId(2), 9).contains(&txid(2)));
}

/// MP1: with 100 in flight further ones wait, and another peer takes them.
#[test]
fn an_overloaded_peer_waits() {
    let mut tracker = RequestTracker::new((5, 6));
    for number in 0..100 {
        tracker.announced(PeerId(1), wtxid(number), OUT, ms(0));
        tracker.requested(PeerId(1), wtxid(number), ms(0));
    }
    assert_eq!(tracker.in_flight(PeerId(1)), 100);
    tracker.announced(PeerId(1), wtxid(200), OUT, ms(0));
    tracker.announced(PeerId(2), wtxid(200), OUT, ms(1_000));
    assert_eq!((tracker.askable(), tracker.requestable(PeerId(2), 9)), (vec![PeerId(2)], vec![wtxid(200)]));
    assert!(tracker.answered(PeerId(1), wtxid(0)) && !tracker.answered(PeerId(1), wtxid(0)));
    assert_eq!(tracker.in_flight(PeerId(1)), 99);
}
