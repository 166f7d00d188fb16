//! How much may still be sent: the operator's target for a day, and who is turned away first when it runs out.
//!
//! ```text
//!  0 ────────────────────────── target - reserve ───────────── target ─────────►  bytes sent since the day began
//!       all blocks                    no history to incoming peers    only new blocks to incoming peers
//! ```
//!
//! Bytes are all that went to all peers, as the shell counts them, and blocks on their way. It is a target, not a wall: new
//! blocks are passed on whatever was sent, as a network lives on that, and peers that this node dialled are served.

use setara_core::network::Network;
use std::time::Duration;

/// A day, from the start of the node on.
pub const PERIOD: Duration = Duration::from_secs(24 * 3_600);
/// The reserve for new blocks is at most one part in so many of the target, lest a small one serve no history at all.
const RESERVE_SHARE: u64 = 4;

/// What a block is to the peer that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// Near the tip: what a node that follows the chain needs.
    New,
    /// Of the last days.
    Recent,
    /// Older than that.
    Historical,
}

/// How things stand, for `getnettotals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadState {
    /// Bytes that are to be sent in a day.
    pub target: u64,
    /// Whether they were.
    pub is_reached: bool,
    /// Whether old blocks are still served.
    pub serves_history: bool,
    /// Bytes left of the target.
    pub left: u64,
    /// Time left of the day.
    pub time_left: Duration,
}

/// Bytes sent, by day.
#[derive(Debug)]
pub(super) struct Upload {
    target: Option<u64>,
    /// What new blocks take a second if every one is full and sent once.
    block_bytes_per_second: u64,
    /// When the day began.
    since: Duration,
    /// All that was sent before it began, and by now.
    before: u64,
    sent: u64,
    /// Blocks that will be read and sent.
    promised: u64,
}

impl Upload {
    pub const fn new(target: Option<u64>) -> Self {
        Self { target, block_bytes_per_second: 0, since: Duration::ZERO, before: 0, sent: 0, promised: 0 }
    }

    /// All that was sent since the node started; a new day begins when the old one is over.
    pub fn note_sent(&mut self, network: &Network, now: Duration, sent: u64) {
        self.block_bytes_per_second = network.max_block_bytes / u64::from(network.spacing.max(1));
        if now.saturating_sub(self.since) >= PERIOD {
            (self.since, self.before) = (now, self.sent.max(sent));
        }
        self.sent = self.sent.max(sent);
    }

    /// A block is on its way to a peer ...
    pub const fn promise(&mut self, size: u64) {
        self.promised = self.promised.saturating_add(size);
    }

    /// ... and has been sent, or will not be.
    pub const fn settle(&mut self, size: u64) {
        self.promised = self.promised.saturating_sub(size);
    }

    fn time_left(&self, now: Duration) -> Duration {
        PERIOD.saturating_sub(now.saturating_sub(self.since))
    }

    /// Bytes of the day's target that are left for new blocks: what they may take until the day is over.
    fn reserve(&self, target: u64, now: Duration) -> u64 {
        let needed = self.block_bytes_per_second.saturating_mul(self.time_left(now).as_secs());
        needed.min(target / RESERVE_SHARE)
    }

    fn left(&self, target: u64) -> u64 {
        target.saturating_sub(self.sent.saturating_sub(self.before).saturating_add(self.promised))
    }

    /// Whether a block of this size may be sent to somebody who dialled this node.
    pub fn allows(&self, now: Duration, age: Age, size: u64) -> bool {
        let Some(target) = self.target else { return true };
        let kept = match age {
            Age::New => return true,
            Age::Recent => 0,
            Age::Historical => self.reserve(target, now),
        };
        self.left(target) >= kept.saturating_add(size)
    }

    /// How things stand; `None` without a target.
    pub fn state(&self, now: Duration) -> Option<UploadState> {
        let target = self.target?;
        let left = self.left(target);
        Some(UploadState {
            target,
            is_reached: left == 0,
            serves_history: left > self.reserve(target, now),
            left,
            time_left: self.time_left(now),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;
    const HOUR: Duration = Duration::from_secs(3_600);

    fn upload(target: u64) -> Upload {
        let mut upload = Upload::new(Some(target));
        upload.note_sent(&Network::main(), Duration::ZERO, 0);
        upload
    }

    fn allowed(upload: &Upload, now: Duration, size: u64) -> [bool; 3] {
        [Age::New, Age::Recent, Age::Historical].map(|age| upload.allows(now, age, size))
    }

    /// BR14. History goes first, the rest at the target, new blocks never; exactly at the bounds.
    #[test]
    fn what_goes_first_as_the_target_is_used_up() {
        let (mut upload, network) = (upload(100 * MB), Network::main());
        for (sent, expected) in [
            (0, [true, true, true]),
            (74 * MB, [true, true, true]),
            (74 * MB + 1, [true, true, false]),
            (99 * MB, [true, true, false]),
            (99 * MB + 1, [true, false, false]),
            (500 * MB, [true, false, false]),
        ] {
            upload.note_sent(&network, HOUR, sent);
            assert_eq!(allowed(&upload, HOUR, MB), expected, "{sent}");
        }
        // The next day begins with nothing sent, and what was sent before does not count.
        upload.note_sent(&network, 24 * HOUR, 501 * MB);
        assert_eq!(upload.state(24 * HOUR).unwrap().left, 100 * MB);
        assert_eq!(allowed(&upload, 24 * HOUR, MB), [true; 3]);
    }

    /// What is promised counts until it is sent: a burst of questions gets no more than the target either.
    #[test]
    fn blocks_on_their_way_count() {
        let mut upload = upload(100 * MB);
        let mut granted = 0;
        while upload.allows(HOUR, Age::Historical, MB) {
            upload.promise(MB);
            granted += 1;
        }
        assert_eq!(granted, 75);
        upload.settle(MB);
        assert!(upload.allows(HOUR, Age::Historical, MB), "it was not sent");
        upload.note_sent(&Network::main(), HOUR, MB);
        assert!(!upload.allows(HOUR, Age::Historical, MB), "it was");
    }

    /// The reserve is what new blocks can take until the day is over, so that a large target is used up by its end.
    #[test]
    fn the_reserve_shrinks_with_the_day() {
        let mut upload = upload(100_000 * MB);
        let network = Network::main();
        let reserve = |hours: u64| upload.reserve(100_000 * MB, Duration::from_secs(hours * 3_600));
        let full = network.max_block_bytes / u64::from(network.spacing) * 86_400;
        assert_eq!(reserve(0), full);
        assert_eq!(reserve(12), full / 2);
        assert_eq!(reserve(24), 0);
        upload.note_sent(&network, 23 * HOUR, 100_000 * MB - full / 24 - 1);
        assert!(upload.state(23 * HOUR).unwrap().serves_history);
        upload.note_sent(&network, 23 * HOUR, 100_000 * MB - full / 24);
        assert_eq!(
            upload.state(23 * HOUR),
            Some(UploadState {
                target: 100_000 * MB,
                is_reached: false,
                serves_history: false,
                left: full / 24,
                time_left: HOUR
            })
        );
    }

    #[test]
    fn without_a_target_all_is_served() {
        let mut upload = Upload::new(None);
        upload.note_sent(&Network::main(), HOUR, u64::MAX);
        upload.promise(u64::MAX);
        assert_eq!(allowed(&upload, HOUR, u64::MAX), [true; 3]);
        assert_eq!(upload.state(HOUR), None);
    }
}
