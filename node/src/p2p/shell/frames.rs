//! Frames out of a stream of bytes: `kind u8 || length u24 || body`, whatever the pieces in which they come.
//!
//! A frame's length is held against its kind before a byte of its body is kept; a body's buffer never grows more than
//! 256 KiB past what has come (attack TH1). Frames of kinds that this version does not know are passed over.

use crate::p2p::message::{FRAME_HEAD_BYTES, UNKNOWN_FRAME_BYTES_MAX, frame_limit, kind};
use std::collections::VecDeque;

/// Bytes that a body's buffer may be larger than what has come of it.
const AHEAD_BYTES: usize = 256 << 10;

/// A frame that may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} frame of {got} bytes, at most {max} are allowed")]
pub struct FrameError {
    /// The kind's name.
    pub kind: &'static str,
    /// Bytes of its body.
    pub got: u64,
    /// The most allowed.
    pub max: u64,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A frame of a kind that this version knows.
    Frame {
        /// Its kind.
        kind: u8,
        /// Its body.
        body: Vec<u8>,
    },
    /// A frame of another kind; its body was passed over.
    Unknown {
        /// Its kind.
        kind: u8,
        /// Bytes of its body.
        bytes: usize,
    },
}

/// Puts frames together.
#[derive(Debug)]
pub struct FrameReader {
    max_block_bytes: u64,
    head: [u8; FRAME_HEAD_BYTES],
    /// Bytes of the head that have come.
    head_filled: usize,
    /// Bytes of the body that are still to come.
    missing: usize,
    known: bool,
    length: usize,
    body: Vec<u8>,
    ready: VecDeque<Received>,
}

impl FrameReader {
    /// At the start of a stream, on a network with blocks of this size.
    pub const fn new(max_block_bytes: u64) -> Self {
        Self {
            max_block_bytes,
            head: [0; FRAME_HEAD_BYTES],
            head_filled: 0,
            missing: 0,
            known: false,
            length: 0,
            body: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        loop {
            if self.head_filled < FRAME_HEAD_BYTES {
                let take = bytes.len().min(FRAME_HEAD_BYTES - self.head_filled);
                let (part, rest) = bytes.split_at(take);
                self.head[self.head_filled..self.head_filled + take].copy_from_slice(part);
                self.head_filled += take;
                bytes = rest;
                if self.head_filled < FRAME_HEAD_BYTES {
                    return Ok(());
                }
                self.begin()?;
            }
            let take = bytes.len().min(self.missing);
            let (part, rest) = bytes.split_at(take);
            if self.known {
                if self.body.capacity() - self.body.len() < take {
                    // In steps, and never all that was promised at once.
                    let ahead = self.missing.min(AHEAD_BYTES.max(self.body.len()));
                    self.body.reserve_exact(ahead.max(take).min(take + AHEAD_BYTES));
                }
                self.body.extend_from_slice(part);
            }
            self.missing -= take;
            bytes = rest;
            if self.missing > 0 {
                return Ok(());
            }
            self.head_filled = 0;
            let [kind, ..] = self.head;
            self.ready.push_back(match self.known {
                true => Received::Frame { kind, body: std::mem::take(&mut self.body) },
                false => Received::Unknown { kind, bytes: self.length },
            });
        }
    }

    fn begin(&mut self) -> Result<(), FrameError> {
        let [number, low, middle, high] = self.head;
        let got = u64::from(u32::from_le_bytes([low, middle, high, 0]));
        let limit = frame_limit(number, self.max_block_bytes);
        let max = limit.unwrap_or(UNKNOWN_FRAME_BYTES_MAX);
        if got > max {
            return Err(FrameError { kind: kind::name(number), got, max });
        }
        self.known = limit.is_some();
        self.length = got as usize;
        self.missing = self.length;
        Ok(())
    }

    /// The next frame that is whole.
    pub fn take(&mut self) -> Option<Received> {
        self.ready.pop_front()
    }

    /// Bytes held for the frame that is coming.
    pub fn held(&self) -> usize {
        self.body.capacity()
    }
}
