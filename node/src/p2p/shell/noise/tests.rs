//! The transport, both sides in one place: what is changed on the way, and by whom it is noticed.

use super::*;
use crate::p2p::message::{Message, kind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::network::Network;

/// Blocks of the network in these tests.
const BLOCK_BYTES: u64 = 4_000_000;

fn key(number: u8) -> StaticKey {
    StaticKey::from_bytes([number; 32])
}

fn handshake(role: Role, number: u8, genesis: BlockHash) -> Handshake {
    Handshake::new(role, &key(number), genesis, BLOCK_BYTES)
}

fn genesis() -> BlockHash {
    Network::dev().genesis_hash()
}

type Outcome = Result<Session, HandshakeError>;

/// Runs a handshake; `tamper` may change the flights, numbered from 0. Each side's outcome; what it waits for in vain is
/// an end of the connection.
fn shake(mut a: Handshake, mut b: Handshake, mut tamper: impl FnMut(usize, &mut Vec<u8>)) -> (Outcome, Outcome) {
    let mut inboxes = [Vec::new(), Vec::new()];
    let mut outcomes: [Option<Outcome>; 2] = [None, None];
    let mut flight = 0;
    for turn in 0..16 {
        let (here, there) = (turn % 2, 1 - turn % 2);
        if outcomes[here].is_some() {
            continue;
        }
        let side = if here == 0 { &mut a } else { &mut b };
        let mut sent = match side.step(&inboxes[here]) {
            Ok(progress) => {
                inboxes[here].drain(..progress.consumed);
                outcomes[here] = progress.done.map(Ok);
                progress.output
            }
            Err(error) => {
                outcomes[here] = Some(Err(error));
                side.take_farewell()
            }
        };
        if !sent.is_empty() {
            tamper(flight, &mut sent);
            flight += 1;
        }
        inboxes[there].extend(sent);
    }
    let [at_a, at_b] = outcomes;
    let closed_a = a.closed();
    let closed_b = b.closed();
    (at_a.unwrap_or(Err(closed_a)), at_b.unwrap_or(Err(closed_b)))
}

fn pair() -> (Session, Session) {
    let (a, b) = shake(handshake(Role::Initiator, 1, genesis()), handshake(Role::Answerer, 2, genesis()), |_, _| {});
    (a.expect("holds"), b.expect("holds"))
}

fn frames(session: &mut Session) -> Vec<Received> {
    std::iter::from_fn(|| session.next_frame()).collect()
}

#[test]
fn two_nodes_agree_and_know_each_other() {
    let (mut a, mut b) = pair();
    assert_eq!((a.remote_key(), b.remote_key()), (key(2).public(), key(1).public()));
    assert_eq!((a.version(), b.version()), (PROTOCOL_VERSION, PROTOCOL_VERSION));
    let frame = Message::Ping(7).encode();
    for (from, to) in [(0, 1), (1, 0)] {
        let (sender, receiver) = if (from, to) == (0, 1) { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let mut wire = Vec::new();
        sender.send(&frame, &mut wire);
        assert!(!wire.windows(8).any(|bytes| bytes == 7u64.to_le_bytes()), "it is not sent in clear");
        receiver.receive(&wire).unwrap();
        assert_eq!(frames(receiver), [Received::Frame { kind: kind::PING, body: 7u64.to_le_bytes().to_vec() }]);
    }
    let shown = format!("{:?} {a:?}", key(9));
    assert!(!shown.contains(&hex::encode([9; 32])), "{shown}");
}

/// TH3. Every truncation of every flight, and every single bit flipped, leaves no two sides that both have a session.
#[test]
fn th3_no_damaged_handshake_completes() {
    let mut lengths = Vec::new();
    let make = || (handshake(Role::Initiator, 1, genesis()), handshake(Role::Answerer, 2, genesis()));
    let (a, b) = make();
    let _ = shake(a, b, |_, bytes| lengths.push(bytes.len()));
    // Preamble; preamble; e; e ee s es; s se.
    assert_eq!(lengths, [16, 16, 34, 98, 66]);
    for (number, length) in lengths.iter().enumerate() {
        for end in 0..*length {
            let (a, b) = make();
            let (a, b) = shake(a, b, |flight, bytes| {
                if flight == number {
                    bytes.truncate(end)
                }
            });
            assert!(a.is_err() || b.is_err(), "flight {number} cut to {end}");
        }
        for bit in 0..length * 8 {
            let (a, b) = make();
            let (a, b) = shake(a, b, |flight, bytes| {
                if flight == number {
                    bytes[bit / 8] ^= 1 << (bit % 8)
                }
            });
            assert!(a.is_err() || b.is_err(), "flight {number} bit {bit}");
        }
    }
}

/// TH3. The points of small order, in every encoding, lead to no session and have a name.
#[test]
fn th3_keys_of_small_order_are_refused() {
    let points = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
        "4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
        "d9ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "daffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "dbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ];
    let mut refused = 0;
    for point in points {
        let bytes: [u8; 32] = hex::decode(point).unwrap().try_into().unwrap();
        for top in [0, 0x80] {
            let mut bytes = bytes;
            bytes[31] ^= top;
            if !is_low_order(&bytes) {
                continue;
            }
            refused += 1;
            for number in [2, 3] {
                let (a, b) = (handshake(Role::Initiator, 1, genesis()), handshake(Role::Answerer, 2, genesis()));
                let (a, b) = shake(a, b, |flight, sent| {
                    if flight == number {
                        sent[2..34].copy_from_slice(&bytes);
                    }
                });
                let hit = if number == 2 { b } else { a };
                assert_eq!(hit.unwrap_err(), HandshakeError::LowOrderKey, "{point} {top:x} {number}");
            }
        }
    }
    // Each of the twelve at least as it stands or with its highest bit the other way, which X25519 ignores.
    assert!(refused >= 12, "{refused}");
    let mut rng = StdRng::seed_from_u64(5);
    assert!((0..100).all(|_| !is_low_order(&StaticKey::from_bytes(rng.random()).public())));
}

/// TH5. Another network, another version, another protocol: each side hears by name what is wrong.
#[test]
fn th5_whoever_is_elsewhere_hears_so_by_name() {
    let other = Network::test().genesis_hash();
    let (a, b) = shake(handshake(Role::Initiator, 1, genesis()), handshake(Role::Answerer, 2, other), |_, _| {});
    assert!(matches!(a.unwrap_err(), HandshakeError::WrongNetwork { .. }));
    assert!(matches!(b.unwrap_err(), HandshakeError::WrongNetwork { .. }));
    // The same first bytes and another hash: the preamble cannot tell, the prologue does.
    let mut bytes = *genesis().as_bytes();
    bytes[20] ^= 1;
    let twin = BlockHash::from_bytes(bytes);
    let (a, b) = shake(handshake(Role::Initiator, 1, genesis()), handshake(Role::Answerer, 2, twin), |_, _| {});
    assert_eq!(a.unwrap_err(), HandshakeError::Broken);
    assert!(b.is_err());
    let (a, b) = (handshake(Role::Initiator, 1, genesis()), handshake(Role::Answerer, 2, genesis()));
    let (_, b) = shake(a, b, |flight, sent| {
        if flight == 0 {
            sent[4..8].copy_from_slice(&[9, 0, 12, 0]);
        }
    });
    assert_eq!(b.unwrap_err(), HandshakeError::WrongVersion { lowest: 9, highest: 12 });
    for greeting in [&b"GET / HTTP/1.1\r\n"[..], b"\xf9\xbe\xb4\xd9", b"S3TA"] {
        assert_eq!(
            handshake(Role::Answerer, 2, genesis()).step(greeting).unwrap_err(),
            HandshakeError::NotSetara,
            "{greeting:?}"
        );
    }
}

/// TH6. A node that meets its own key knows it.
#[test]
fn th6_a_node_knows_itself() {
    let (a, b) = shake(handshake(Role::Initiator, 1, genesis()), handshake(Role::Answerer, 1, genesis()), |_, _| {});
    assert_eq!(a.unwrap_err(), HandshakeError::SelfConnection);
    assert!(b.is_err());
}

/// TH1. Nothing but short messages is taken before the handshake ends.
#[test]
fn th1_a_handshake_takes_no_long_messages() {
    let mut answerer = handshake(Role::Answerer, 2, genesis());
    let mut input = handshake(Role::Initiator, 1, genesis()).preamble().to_vec();
    input.extend(u16::MAX.to_le_bytes());
    assert_eq!(answerer.step(&input).unwrap_err(), HandshakeError::Length(u16::MAX));
}

/// TH4. A bit flipped, a message swapped, dropped or doubled ends the session, and it stays ended.
#[test]
fn th4_what_is_changed_on_the_way_ends_the_session() {
    let message = |sender: &mut Session, number: u64| {
        let mut wire = Vec::new();
        sender.send(&Message::Ping(number).encode(), &mut wire);
        wire
    };
    let length = message(&mut pair().0, 0).len();
    for bit in 16..length * 8 {
        let (mut a, mut b) = pair();
        let mut wire = message(&mut a, 1);
        wire[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(b.receive(&wire), Err(SessionError::BadTag), "bit {bit}");
        assert!(frames(&mut b).is_empty());
        assert_eq!(b.receive(&message(&mut a, 2)), Err(SessionError::BadTag));
    }
    for order in [&[1, 0][..], &[1], &[0, 0], &[0, 2]] {
        let (mut a, mut b) = pair();
        let sent: Vec<Vec<u8>> = (0..3).map(|number| message(&mut a, number)).collect();
        let results: Vec<_> = order.iter().map(|index| b.receive(&sent[*index])).collect();
        assert!(results.iter().any(Result::is_err), "{order:?}");
    }
    let (_, mut b) = pair();
    assert_eq!(b.receive(&[3, 0, 1, 2, 3]), Err(SessionError::Length(3)));
}

/// TH4. Keys change on both sides after the same message.
#[test]
fn th4_keys_change_together() {
    let (mut a, mut b) = pair();
    (a.rekey_every, b.rekey_every) = (3, 3);
    for number in 0..20 {
        let mut wire = Vec::new();
        a.send(&Message::Ping(number).encode(), &mut wire);
        b.receive(&wire).unwrap();
        assert_eq!(frames(&mut b).len(), 1);
    }
    (a.rekey_every, b.rekey_every) = (1_000, 21);
    let mut failed = false;
    for number in 0..30 {
        let mut wire = Vec::new();
        a.send(&Message::Ping(number).encode(), &mut wire);
        failed |= b.receive(&wire).is_err();
    }
    assert!(failed, "a key that only one side changes opens nothing");
}

/// However the bytes are cut on their way, the same frames come out.
#[test]
fn pieces_do_not_matter() {
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..40 {
        let (mut a, mut b) = pair();
        let sent: Vec<Vec<u8>> = (0..rng.random_range(1..12))
            .map(|number| match rng.random_range(0..3) {
                0 => Message::Ping(number).encode(),
                1 => Message::Genesis(vec![number as u8; rng.random_range(0..200_000)]).encode(),
                _ => [vec![200, 5, 0, 0], vec![1; 5]].concat(),
            })
            .collect();
        let mut wire = Vec::new();
        a.send(&sent.concat(), &mut wire);
        let mut got = Vec::new();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(rng.random_range(1..=rest.len().min(40_000)));
            b.receive(piece).unwrap();
            got.extend(frames(&mut b));
            rest = left;
        }
        let expected: Vec<Received> = sent
            .iter()
            .map(|frame| match frame[0] {
                200 => Received::Unknown { kind: 200, bytes: 5 },
                kind => Received::Frame { kind, body: frame[4..].to_vec() },
            })
            .collect();
        assert_eq!(got, expected);
    }
}

/// TH1. A frame over its kind's limit is refused from its head; what is promised is not reserved before it comes.
#[test]
fn th1_frames_are_held_to_their_kinds() {
    let head = |kind: u8, length: u32| {
        let mut head = vec![kind];
        head.extend(&length.to_le_bytes()[..3]);
        head
    };
    for (number, length) in [(kind::PING, 9), (kind::HEADERS, 200_000), (kind::BLOCK, 4_001_025), (250, 1_000_001)] {
        let (mut a, mut b) = pair();
        let mut wire = Vec::new();
        a.send(&head(number, length), &mut wire);
        assert!(matches!(b.receive(&wire), Err(SessionError::Frame(_))), "kind {number}");
    }
    let (mut a, mut b) = pair();
    let mut wire = Vec::new();
    a.send(&[head(kind::BLOCK, 4_000_000), vec![0; 1_000]].concat(), &mut wire);
    b.receive(&wire).unwrap();
    assert!(b.held() <= (256 << 10) + 70_000, "{}", b.held());
}
