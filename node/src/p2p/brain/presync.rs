//! Headers with too little work, checked twice before they are stored (Bitcoin Core's `HeadersSyncState`).
//!
//! ```text
//!  first pass:  every rule, nothing kept but the running state and one salted bit per 640 headers ── work reached ─┐
//!  second pass: every rule again, bits compared; a header leaves once 15,000 more have agreed with theirs ◄────────┘
//! ```
//!
//! To have one false header stored, a peer must guess 23 salted bits, or do the work. Not here: messages and peers.

use super::interface::Desk;
use crate::p2p::limits::HEADERS_MAX;
use rand::RngExt;
use rand::rngs::StdRng;
use setara_core::block::Header;
use setara_core::consensus::{HeaderState, RuleError, check_header, header_is_early};
use setara_core::hash::{BlockHash, Hash256};
use setara_core::network::{Difficulty, Network};
use setara_core::pow::{CompactBits, Work};
use siphasher::sip::SipHasher24;
use std::collections::VecDeque;
use std::hash::Hasher;

/// Headers per salted bit: ten million headers leave two kilobytes.
pub const COMMITMENT_PERIOD: u32 = 640;
/// Headers that must follow one in the second pass before it is stored: 23 bits, all of which a cheat must guess.
pub const LOOKAHEAD_HEADERS: usize = 15_000;
/// Headers a second that median time past allows without end: of eleven times six must grow (Core's bound).
const HEADERS_PER_SECOND_MAX: u64 = 6;

/// Blocks below the tip whose work a chain may lack and still be stored at once: a day.
const ANTI_DOS_BLOCKS: u32 = 1_440;

/// Work that a branch must have to be stored at once.
pub fn threshold(desk: &Desk<'_>, minimum: Work) -> Work {
    let tip = desk.chain.view().tip.header;
    let bits = desk.chain.headers().get(&tip.hash).map(|known| known.header.bits);
    let block = bits.and_then(|bits| bits.to_target().ok()).map_or(Work::ZERO, |target| target.work());
    let slack = block.checked_mul(ANTI_DOS_BLOCKS);
    let near = slack.and_then(|slack| tip.work.checked_sub(slack)).unwrap_or(Work::ZERO);
    near.max(minimum)
}

/// A header without its link, which the one before it gives.
#[derive(Clone, Copy)]
struct Unlinked {
    version: u32,
    merkle_root: Hash256,
    time: u32,
    bits: CompactBits,
    nonce: u32,
}

impl Unlinked {
    const fn new(header: &Header) -> Self {
        let Header { version, merkle_root, time, bits, nonce, .. } = *header;
        Self { version, merkle_root, time, bits, nonce }
    }

    const fn linked(self, previous: BlockHash) -> Header {
        let Self { version, merkle_root, time, bits, nonce } = self;
        Header { version, previous, merkle_root, time, bits, nonce }
    }
}

/// Why a two-pass check ended without headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresyncEnd {
    /// A header breaks a rule for good.
    Invalid(RuleError),
    /// A header is too far in the future: the clocks may differ, so nobody is blamed.
    Early,
    /// The chain ended before it had enough work.
    LowWork,
    /// More headers than any chain with so little work can have by now.
    TooMany,
    /// The second pass shows another chain.
    Changed,
    /// The second pass ended early: the peer may have changed to another branch meanwhile.
    Shorter,
}

/// What follows from a message of headers.
#[derive(Debug, PartialEq, Eq)]
pub enum PresyncStep {
    /// Ask for what follows this block. The headers may be stored; there may be none.
    Next(BlockHash, Vec<Header>),
    /// The chain has enough work: these, the last ones, may be stored.
    Done(Vec<Header>),
    /// It is over.
    End(PresyncEnd),
}

/// One peer's chain of headers that has yet to show its work.
pub struct Presync {
    start: HeaderState,
    state: HeaderState,
    threshold: Work,
    height_max: u32,
    key: (u64, u64),
    /// Which remainder of a height is committed to: unknown to the peer.
    offset: u32,
    /// One bit each, 64 to a word, oldest first.
    words: VecDeque<u64>,
    written: u32,
    compared: u32,
    second: bool,
    /// The last header that left.
    released: BlockHash,
    lookahead: VecDeque<Unlinked>,
}

impl Presync {
    /// Above `start`, which is stored, until the branch has `threshold` work.
    pub fn new(network: &Network, start: HeaderState, threshold: Work, now: u64, rng: &mut StdRng) -> Self {
        Self {
            start,
            state: start,
            threshold,
            height_max: height_max(network, threshold, now),
            key: (rng.random(), rng.random()),
            offset: rng.random_range(0..COMMITMENT_PERIOD),
            words: VecDeque::new(),
            written: 0,
            compared: 0,
            second: false,
            released: start.hash,
            lookahead: VecDeque::new(),
        }
    }

    /// The stored header below all of it.
    pub const fn start(&self) -> &HeaderState {
        &self.start
    }

    /// How far the pass is.
    pub const fn state(&self) -> &HeaderState {
        &self.state
    }

    /// Whether the work has been shown once.
    pub const fn is_second_pass(&self) -> bool {
        self.second
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.words.capacity() * size_of::<u64>() + self.lookahead.capacity() * size_of::<Unlinked>()
    }

    /// Takes the headers that follow where the pass is.
    pub fn take(&mut self, network: &Network, now: u64, headers: &[Header]) -> PresyncStep {
        match self.try_take(network, now, headers) {
            Ok(step) => step,
            Err(end) => PresyncStep::End(end),
        }
    }

    fn try_take(&mut self, network: &Network, now: u64, headers: &[Header]) -> Result<PresyncStep, PresyncEnd> {
        let full = headers.len() as u64 >= HEADERS_MAX;
        let mut out = Vec::new();
        for header in headers {
            header_is_early(network, header, now).map_err(|_| PresyncEnd::Early)?;
            let state = match check_header(network, &self.state, header) {
                Ok(state) => state,
                // The second pass asked for what follows a block that this peer has shown.
                Err(RuleError::MissingParent { .. }) if self.second => return Err(PresyncEnd::Changed),
                Err(error) => return Err(PresyncEnd::Invalid(error)),
            };
            if state.height.get() > self.height_max {
                return Err(PresyncEnd::TooMany);
            }
            let enough = state.work >= self.threshold;
            self.state = state;
            if self.second {
                // Once the work stands in the second pass too, nothing is left to prove.
                self.compare(&state, enough)?;
                self.lookahead.push_back(Unlinked::new(header));
                if self.lookahead.len() > LOOKAHEAD_HEADERS || enough {
                    self.release(if enough { 0 } else { LOOKAHEAD_HEADERS }, &mut out);
                }
            } else {
                self.commit(&state);
                if enough {
                    self.second = true;
                    self.state = self.start;
                    self.lookahead.reserve_exact(LOOKAHEAD_HEADERS + 1);
                    return Ok(PresyncStep::Next(self.start.hash, out));
                }
            }
        }
        if self.second && self.state.work >= self.threshold {
            return Ok(PresyncStep::Done(out));
        }
        match (full, self.second) {
            (true, _) => Ok(PresyncStep::Next(self.state.hash, out)),
            (false, true) => Err(PresyncEnd::Shorter),
            (false, false) => Err(PresyncEnd::LowWork),
        }
    }

    fn release(&mut self, keep: usize, out: &mut Vec<Header>) {
        while self.lookahead.len() > keep {
            let Some(unlinked) = self.lookahead.pop_front() else { return };
            let header = unlinked.linked(self.released);
            self.released = header.hash();
            out.push(header);
        }
    }

    fn commit(&mut self, state: &HeaderState) {
        if state.height.get() % COMMITMENT_PERIOD == self.offset {
            let (bit, shift) = (self.bit(state), self.written % 64);
            if shift == 0 {
                self.words.push_back(0);
            }
            if let Some(word) = self.words.back_mut() {
                *word |= u64::from(bit) << shift;
            }
            self.written += 1;
        }
    }

    fn compare(&mut self, state: &HeaderState, enough: bool) -> Result<(), PresyncEnd> {
        if state.height.get() % COMMITMENT_PERIOD != self.offset {
            return Ok(());
        }
        if self.compared >= self.written {
            return if enough { Ok(()) } else { Err(PresyncEnd::Changed) };
        }
        let word = self.words.get((self.compared / 64) as usize).copied().unwrap_or(0);
        let expected = word >> (self.compared % 64) & 1 == 1;
        self.compared += 1;
        if expected == self.bit(state) { Ok(()) } else { Err(PresyncEnd::Changed) }
    }

    fn bit(&self, state: &HeaderState) -> bool {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write(state.hash.as_bytes());
        hasher.finish() & 1 == 1
    }
}

/// The greatest height that a chain with no more than `work` can have when its last time is `now`.
///
/// Under ASERT a block that is `d` above the schedule has `2^(d * spacing / half_life)` times the first block's work, so
/// it alone has all of `work` once `d` is `half_life / spacing * log2(work / first)`; that is rounded up. On every
/// network, median time past allows six headers a second.
fn height_max(network: &Network, work: Work, now: u64) -> u32 {
    let now = now.saturating_add(u64::from(network.max_future_seconds));
    let elapsed = now.saturating_sub(u64::from(network.genesis_time));
    let by_median = elapsed.saturating_add(1).saturating_mul(HEADERS_PER_SECOND_MAX);
    let height = match network.difficulty {
        Difficulty::Fixed => by_median,
        Difficulty::Asert { half_life } => {
            let first = HeaderState::genesis(network).work;
            let doublings = bits(work).saturating_sub(bits(first)) + 2;
            let spacing = u64::from(network.spacing).max(1);
            let lead = u64::from(half_life).saturating_mul(doublings).div_ceil(spacing);
            by_median.min((elapsed / spacing).saturating_add(lead).saturating_add(1))
        }
    };
    u32::try_from(height).unwrap_or(u32::MAX)
}

/// Bits of a number: its base-two logarithm, rounded down, plus one.
fn bits(work: Work) -> u64 {
    let bytes = work.to_be_bytes();
    let zeros = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let top = bytes.get(zeros).map_or(0, |byte| 8 - byte.leading_zeros());
    (bytes.len().saturating_sub(zeros + 1) as u64) * 8 + u64::from(top)
}

#[cfg(test)]
mod tests;
