//! Giving a snapshot: to whom, how much, and what is an offence.

use super::*;
use crate::p2p::brain::snapshots::SnapshotPart;
use crate::p2p::limits::{RANGE_COINS_MAX, SNAPSHOT_SERVED_AT_ONCE, SNAPSHOT_SERVED_TIMES, SNAPSHOT_SERVED_WAITING};

/// A node that serves the world's first snapshot, and one peer that dialled it.
struct Server {
    rig: Rig,
}

impl Server {
    fn new(change: impl FnOnce(&mut BrainOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::new(folder.path());
        let mut options = options();
        options.snapshot = false;
        change(&mut options);
        rig.brain = Brain::new(options, Memory::default(), [3; 32]);
        rig.join(1, Kind::Without, 0);
        rig.pass(1);
        Self { rig }
    }

    fn handle(&mut self, event: Event) -> Actions {
        let now = Now { unix_seconds: START, monotonic: self.rig.monotonic };
        self.rig.brain.handle(now, &self.rig.chain, &self.rig.mempool, event)
    }

    fn offer(&mut self, snapshot: Option<usize>) {
        let offer = snapshot.map(|at| world().snapshots[at].1.clone());
        self.handle(Event::SnapshotOffered(offer));
    }

    fn asks(&mut self, message: Message) -> Actions {
        self.handle(Event::Message { peer: PeerId(1), message })
    }
}

fn full() -> (u8, u32) {
    let manifest = &world().snapshots[0].0;
    let bucket = (0..=u8::MAX).find(|bucket| manifest.bucket_count(*bucket) > 1).unwrap();
    (bucket, manifest.bucket_count(bucket) as u32)
}

fn range(first: u32, count: u32) -> CoinRange {
    CoinRange { base: world().snapshots[0].1.base, bucket: full().0, first, count }
}

fn is_missing(actions: &Actions) -> bool {
    let missing = |message: &Message| match message {
        Message::NotFound(references) => matches!(references.as_slice(), [Reference::Snapshot(_)]),
        _ => false,
    };
    matches!(actions.as_slice(), [Action::Send(_, message)] if missing(message))
}

fn offence(actions: &Actions) -> Option<&Offence> {
    actions.iter().find_map(|action| match action {
        Action::Disconnect(_, Ending::Offence(offence)) => Some(offence),
        _ => None,
    })
}

/// A node says what it serves; the parts are read by the shell; other bases are not here.
#[test]
fn a_snapshot_is_served_by_its_base() {
    let mut server = Server::new(|_| {});
    assert!(is_missing(&server.asks(Message::GetSnapshot)));
    assert!(is_missing(&server.asks(Message::GetCoins(range(0, 1)))));
    server.offer(Some(0));
    let (manifest, offer) = &world().snapshots[0];
    let said = server.asks(Message::GetSnapshot);
    let expected = Message::Snapshot { height: BASE, base: manifest.base_hash };
    assert!(matches!(said.as_slice(), [Action::Send(PeerId(1), message)] if *message == expected), "{said:?}");
    let read = server.asks(Message::GetManifest(offer.base));
    assert!(matches!(read.as_slice(), [Action::SendSnapshot(PeerId(1), _, SnapshotPart::Manifest)]), "{read:?}");
    let (bucket, count) = full();
    let read = server.asks(Message::GetCoins(range(1, count - 1)));
    let [Action::SendSnapshot(PeerId(1), offer, SnapshotPart::Coins(asked))] = read.as_slice() else {
        panic!("{read:?}")
    };
    let all = offer.coins(bucket, 0, count).unwrap();
    assert_eq!(offer.coins(asked.bucket, asked.first, asked.count).unwrap(), all[ELEMENT_BYTES..]);
    server.offer(Some(1));
    assert!(is_missing(&server.asks(Message::GetCoins(range(0, 1)))));
    server.offer(None);
    assert!(is_missing(&server.asks(Message::GetSnapshot)));
}

/// What cannot be asked for is an offence.
#[test]
fn coins_past_the_end_of_a_bucket_are_a_bad_request() {
    for (first, count) in [(full().1, 1), (0, full().1 + 1), (u32::MAX - 6_000, RANGE_COINS_MAX as u32)] {
        let mut server = Server::new(|_| {});
        server.offer(Some(0));
        let actions = server.asks(Message::GetCoins(range(first, count)));
        assert!(matches!(offence(&actions), Some(Offence::BadRequest(_))), "{first} {count}: {actions:?}");
    }
}

/// One peer has a few parts under way at a time; one that asks for more than its queue holds is blamed.
#[test]
fn one_peer_cannot_take_all_of_the_disk() {
    let mut server = Server::new(|_| {});
    server.offer(Some(0));
    for number in 0..SNAPSHOT_SERVED_AT_ONCE + SNAPSHOT_SERVED_WAITING {
        let actions = server.asks(Message::GetCoins(range(0, 1)));
        let reads = actions.iter().filter(|action| matches!(action, Action::SendSnapshot(..))).count();
        assert_eq!(reads, usize::from(number < SNAPSHOT_SERVED_AT_ONCE), "{number}: {actions:?}");
    }
    // As one is sent, the next is read.
    let next = server.handle(Event::SnapshotSent { peer: PeerId(1) });
    assert!(matches!(next.as_slice(), [Action::SendSnapshot(..)]), "{next:?}");
    assert!(server.asks(Message::GetCoins(range(0, 1))).is_empty(), "there is room for one again");
    let actions = server.asks(Message::GetCoins(range(0, 1)));
    assert!(matches!(offence(&actions), Some(Offence::Flood(_))), "{actions:?}");
}

/// A connection takes the whole twice, and then no more before there is another snapshot.
#[test]
fn one_peer_cannot_take_all_of_the_upload() {
    let mut server = Server::new(|_| {});
    server.offer(Some(0));
    let base = world().snapshots[0].1.base;
    let mut given = 0;
    while !is_missing(&server.asks(Message::GetManifest(base))) {
        given += 1;
        server.handle(Event::SnapshotSent { peer: PeerId(1) });
    }
    assert_eq!(given, SNAPSHOT_SERVED_TIMES, "manifests are most of this small one");
    server.offer(Some(1));
    let other = world().snapshots[1].1.base;
    let read = server.asks(Message::GetManifest(other));
    assert!(matches!(read.as_slice(), [Action::SendSnapshot(..)]), "{read:?}");
}

/// The day's upload counts, and history goes first, as with blocks.
#[test]
fn with_the_upload_used_up_no_coins_are_given() {
    let mut server = Server::new(|options| options.upload_target = Some(10_000_000));
    server.offer(Some(0));
    server.handle(Event::Sent(1_000));
    let read = server.asks(Message::GetCoins(range(0, 1)));
    assert!(matches!(read.as_slice(), [Action::SendSnapshot(..)]), "{read:?}");
    server.handle(Event::Sent(9_999_990));
    assert!(is_missing(&server.asks(Message::GetCoins(range(0, 1)))));
}
