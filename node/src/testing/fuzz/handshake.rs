//! Preambles, handshakes and sessions: raw bytes at either role, and two honest sides with somebody between them who
//! cuts, delays and changes bytes.

use super::Input;
use super::world::world;
use crate::p2p::message::Message;
use crate::p2p::shell::frames::Received;
use crate::p2p::shell::noise::{Handshake, Role, Session, StaticKey};
use std::collections::VecDeque;

/// Bytes of a handshake that may wait: less than a kilobyte is ever held before it ends.
const WAITING_MAX: usize = 1_024;
/// Steps of a run: enough for three handshake messages in single bytes.
const STEPS: usize = 2_048;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => raw(Role::Initiator, &mut input),
        1 => raw(Role::Answerer, &mut input),
        _ => between(&mut input),
    }
}

fn side(role: Role, key: u8) -> Handshake {
    Handshake::new(role, &StaticKey::from_bytes([key; 32]), world().network.genesis_hash(), 1_000_000)
}

/// Whatever it is sent, a side takes no byte twice, holds little, and ends for good when it ends.
fn raw(role: Role, input: &mut Input<'_>) {
    let mut handshake = side(role, 1);
    let mut waiting: Vec<u8> = Vec::new();
    for _ in 0..STEPS {
        match handshake.step(&waiting) {
            Ok(progress) => {
                assert!(progress.done.is_none(), "made up bytes do not hold");
                assert!(progress.consumed <= waiting.len());
                waiting.drain(..progress.consumed);
                assert!(waiting.len() < WAITING_MAX);
            }
            Err(_) => {
                assert!(handshake.take_farewell().len() <= 16);
                assert!(handshake.step(&[]).is_err());
                return;
            }
        }
        if input.is_empty() {
            return;
        }
        let count = input.below(64) + 1;
        waiting.extend_from_slice(input.bytes(count));
    }
}

/// One end of a connection.
struct End {
    handshake: Handshake,
    session: Option<Session>,
    inbox: VecDeque<u8>,
    taken: Vec<u8>,
    outbox: Vec<u8>,
    failed: bool,
    got: Vec<(u8, Vec<u8>)>,
    sent: Vec<(u8, Vec<u8>)>,
}

impl End {
    fn new(role: Role, key: u8) -> Self {
        Self {
            handshake: side(role, key),
            session: None,
            inbox: VecDeque::new(),
            taken: Vec::new(),
            outbox: Vec::new(),
            failed: false,
            got: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn take(&mut self, count: usize) {
        let count = count.min(self.inbox.len());
        self.taken.extend(self.inbox.drain(..count));
        if self.failed {
            return;
        }
        if self.session.is_none() {
            match self.handshake.step(&self.taken) {
                Ok(progress) => {
                    self.taken.drain(..progress.consumed);
                    self.outbox.extend_from_slice(&progress.output);
                    self.session = progress.done;
                }
                Err(_) => self.failed = true,
            }
        }
        if let Some(session) = &mut self.session {
            let bytes = std::mem::take(&mut self.taken);
            self.failed |= session.receive(&bytes).is_err();
            while let Some(frame) = session.next_frame() {
                match frame {
                    Received::Frame { kind, body } => self.got.push((kind, body)),
                    Received::Unknown { kind, bytes } => self.got.push((kind, vec![0; bytes])),
                }
            }
        }
    }

    fn send(&mut self, message: &Message) {
        if let Some(session) = self.session.as_mut().filter(|_| !self.failed) {
            let frame = message.encode();
            session.send(&frame, &mut self.outbox);
            self.sent.push((frame[0], frame[4..].to_vec()));
        }
    }
}

/// What one side gets is always a beginning of what the other sent; untouched, it is all of it.
fn between(input: &mut Input<'_>) {
    let mut ends = [End::new(Role::Initiator, 1), End::new(Role::Answerer, 2)];
    let mut touched = false;
    for _ in 0..STEPS {
        let operation = input.u8();
        let at = usize::from(operation >> 7);
        match operation % 5 {
            0 | 1 => {
                let count = input.below(128) + 1;
                ends[at].take(count);
            }
            2 => ends[at].send(&world().messages[usize::from(operation / 5) % 12]),
            3 if !ends[at].inbox.is_empty() => {
                let (place, change) = (usize::from(input.u8()) % ends[at].inbox.len(), input.u8());
                ends[at].inbox[place] ^= change;
                touched |= change != 0;
            }
            4 if ends[at].inbox.len() > 1 => {
                let place = input.below(ends[at].inbox.len() - 1);
                let removed = ends[at].inbox.remove(place);
                touched |= removed.is_some();
            }
            _ => {}
        }
        deliver(&mut ends);
        if input.is_empty() {
            break;
        }
    }
    // What is under way arrives.
    for _ in 0..8 {
        deliver(&mut ends);
        ends.iter_mut().for_each(|end| end.take(usize::MAX));
    }
    let [first, second] = &ends;
    assert!(second.sent.starts_with(&first.got) && first.sent.starts_with(&second.got));
    if !touched {
        assert!(first.session.is_some() && second.session.is_some());
        assert!(!first.failed && !second.failed);
        assert!(first.got == second.sent && second.got == first.sent);
    }
}

fn deliver(ends: &mut [End; 2]) {
    let [first, second] = ends;
    second.inbox.extend(first.outbox.drain(..));
    first.inbox.extend(second.outbox.drain(..));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut preamble = b"SETA\x01\0\x01\0".to_vec();
    preamble.extend_from_slice(&world().network.genesis_hash().as_bytes()[..8]);
    let piece = |bytes: &[u8]| [&[bytes.len() as u8 - 1], bytes].concat();
    let mut message = vec![96, 0];
    message.extend_from_slice(&[9; 62]);
    let raw = |role: u8, pieces: &[&[u8]]| {
        let pieces: Vec<u8> = pieces.iter().flat_map(|bytes| piece(bytes)).collect();
        [&[role], pieces.as_slice()].concat()
    };
    let turns = [0u8, 127, 128, 127, 0, 127, 128, 127].repeat(3);
    let talk = [turns.as_slice(), &[2, 130, 7, 12, 0, 127, 128, 127, 135, 2, 128, 60, 0, 33]].concat();
    let changed = [&talk[..], &[128, 3, 3, 4, 1, 0, 127, 128, 127]].concat();
    vec![
        raw(0, &[&preamble, &message]),
        raw(1, &[&preamble, &message[..40]]),
        raw(1, &[b"GET / HTTP/1.1"]),
        [&[2u8], talk.as_slice()].concat(),
        [&[2u8], changed.as_slice()].concat(),
        vec![2, 0, 5, 3, 1, 9, 128, 60],
    ]
}
