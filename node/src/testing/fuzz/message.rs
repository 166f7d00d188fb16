//! Every kind of message: frames in any pieces are the same frames; what decodes encodes to what decodes to it again, and
//! but for what a decoder passes over, to the same bytes.

use super::Input;
use super::world::world;
use crate::p2p::message::{FRAME_HEAD_BYTES, Message, frame_limit, kind};
use crate::p2p::shell::frames::{FrameError, FrameReader, Received};

/// The main network's.
const BLOCK_BYTES: u64 = 1_000_000;
/// Memory that a reader may hold beyond what has come: it takes 256 KiB ahead, and a vector may round up.
const HELD_AHEAD_MAX: usize = 512 << 10;

pub fn run(data: &[u8]) {
    stream(data);
    let mut input = Input(data);
    let number = input.u8() % (kind::LAST + 2);
    let body = input.0.to_vec();
    let Ok(message) = Message::decode(number, body.clone(), BLOCK_BYTES) else { return };
    assert_eq!(message.kind(), number);
    let frame = message.encode();
    let again = &frame[FRAME_HEAD_BYTES..];
    assert!(again.len() as u64 <= frame_limit(number, BLOCK_BYTES).expect("it decoded"));
    let decoded = Message::decode(number, again.to_vec(), BLOCK_BYTES);
    assert_eq!(decoded.as_ref(), Ok(&message));
    // Addresses of kinds that are not known are left out.
    if number != kind::ADDRESSES {
        assert_eq!(again, body);
    }
    let mut reader = FrameReader::new(BLOCK_BYTES);
    reader.feed(&frame).expect("it is within its limit");
    assert_eq!(reader.take(), Some(Received::Frame { kind: number, body: again.to_vec() }));
    assert_eq!(reader.take(), None);
}

/// The input as a stream of frames: at once, and in pieces of a few bytes.
fn stream(data: &[u8]) {
    let size = usize::from(data.first().copied().unwrap_or(0) % 7) + 1;
    assert_eq!(read(std::iter::once(data)), read(data.chunks(size)));
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Received>, Option<FrameError>) {
    let mut reader = FrameReader::new(BLOCK_BYTES);
    let (mut got, mut fault, mut fed) = (Vec::new(), None, 0);
    for piece in pieces {
        fault = reader.feed(piece).err();
        got.extend(std::iter::from_fn(|| reader.take()));
        fed += piece.len();
        assert!(reader.held() <= fed + HELD_AHEAD_MAX);
        if fault.is_some() {
            break;
        }
    }
    (got, fault)
}

pub fn seeds() -> Vec<Vec<u8>> {
    let frames: Vec<Vec<u8>> = world().messages.iter().map(Message::encode).collect();
    let bodies = frames.iter().map(|frame| [&frame[..1], &frame[FRAME_HEAD_BYTES..]].concat());
    // And one stream of several.
    bodies.chain([frames[..12].concat()]).collect()
}
