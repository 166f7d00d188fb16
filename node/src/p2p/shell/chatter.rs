//! How fast a peer may talk without bringing anything: questions and small talk cost whoever sends them nothing, and fill a
//! narrow line that others could bring blocks through (attack TH8). Plain values and an explicit time; no sockets.
//!
//! Who says more waits to be heard, and by that its own sending stops: no offence, as an honest peer may have much to say.
//! What this node asked for is not counted, nor what is bounded by its own answers, such as questions for blocks.

use crate::p2p::message::kind;
use std::time::Duration;

/// Bytes of small talk a second: twice what an honest peer announces at the most, 1,000 ids of 32 bytes each two seconds.
const RATE: u64 = 32 << 10;
/// Bytes that may come at once: two of the largest announcements, or questions for headers for a second's round trips.
const BURST: u64 = 64 << 10;
/// For so many bytes that a peer takes it may say one more: as a question of 64 hashes brings 2,000 headers, whoever follows
/// the headers is never held up.
const BYTES_TAKEN: u64 = 64;

/// What a peer has said of late.
#[derive(Debug, Default)]
pub struct Chatter {
    bytes: u64,
    at: Duration,
    taken: u64,
}

impl Chatter {
    /// A message came from a peer that has taken so many bytes in all; how long nothing more is heard from it.
    pub fn hear(&mut self, kind: u8, bytes: usize, taken: u64, now: Duration) -> Duration {
        let nanos = now.saturating_sub(self.at).as_nanos();
        let by_time = u64::try_from(nanos * u128::from(RATE) / 1_000_000_000).unwrap_or(u64::MAX);
        let by_taking = taken.saturating_sub(self.taken) / BYTES_TAKEN;
        let forgotten = by_time.saturating_add(by_taking);
        if forgotten >= self.bytes {
            // Nothing is saved up beyond the burst.
            *self = Self { bytes: 0, at: now, taken };
        } else {
            // What is left of the divisions is not lost.
            self.bytes -= forgotten;
            self.at += Duration::from_nanos(by_time * 1_000_000_000 / RATE);
            self.taken += by_taking * BYTES_TAKEN;
        }
        if is_talk(kind) {
            self.bytes = self.bytes.saturating_add(bytes as u64);
        }
        Duration::from_millis(self.bytes.saturating_sub(BURST) * 1_000 / RATE)
    }
}

/// Whether a message brings nothing and is not bounded by its answer.
const fn is_talk(number: u8) -> bool {
    matches!(
        number,
        kind::PING
            | kind::PONG
            | kind::GET_GENESIS
            | kind::GET_ADDRESSES
            | kind::ADDRESSES
            | kind::GET_HEADERS
            | kind::ANNOUNCE
            | kind::NOT_FOUND
            | kind::FEE_FILTER
            | kind::SEND_COMPACT
            | kind::GET_SNAPSHOT
            | kind::GET_MANIFEST
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::limits::{HEADERS_MAX, LOCATOR_HASHES_MAX};

    /// Bytes heard in so many seconds of one who says `bytes` at a time as fast as it is heard, takes `answer` for each, and
    /// needs a tenth of a millisecond each.
    fn heard(seconds: u64, kind: u8, bytes: usize, answer: u64) -> u64 {
        let mut chatter = Chatter::default();
        let (mut now, mut heard, mut taken) = (Duration::ZERO, 0, 0);
        while now < Duration::from_secs(seconds) {
            heard += bytes as u64;
            taken += answer;
            now += chatter.hear(kind, bytes, taken, now) + Duration::from_micros(100);
        }
        heard
    }

    /// TH8.
    #[test]
    fn th8_small_talk_is_slow() {
        for (kind, bytes) in [(kind::PING, 12), (kind::GET_HEADERS, 1_930), (kind::ANNOUNCE, 32_000)] {
            let most = BURST + 60 * RATE + 2 * bytes as u64;
            assert!(heard(60, kind, bytes, 0) <= most, "{}", kind::name(kind));
        }
        for (kind, bytes) in [(kind::PING, 12), (kind::GET_HEADERS, 1_930)] {
            assert!(heard(60, kind, bytes, 0) > 59 * RATE, "and no slower than it says");
        }
    }

    #[test]
    fn what_was_asked_for_and_what_answers_bound_is_not_slow() {
        for kind in [kind::BLOCK, kind::HEADERS, kind::TRANSACTIONS, kind::COINS, kind::GET_BLOCKS, kind::GET_COINS] {
            assert_eq!(heard(10, kind, 2_000, 0), 100_000 * 2_000, "{}", kind::name(kind));
        }
    }

    /// A newcomer that fetches twenty million headers a second asks ten thousand times.
    #[test]
    fn whoever_takes_all_headers_is_not_held_up() {
        let question = 32 * (LOCATOR_HASHES_MAX + 1) as usize + 8;
        assert_eq!(heard(10, kind::GET_HEADERS, question, 80 * HEADERS_MAX), 100_000 * question as u64);
    }
}
