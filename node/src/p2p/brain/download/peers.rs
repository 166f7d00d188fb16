//! What is known of one peer as a source of bodies.

use crate::chain::HeaderPoint;
use crate::p2p::limits::DOWNLOAD_PER_PEER;
use setara_core::hash::BlockHash;
use std::collections::VecDeque;
use std::time::Duration;

/// Requests in flight from a peer of which nothing is known yet.
const FIRST_REQUESTS: u64 = 4;
/// As many bodies are in flight as the peer delivers in this time: longer than any round trip.
const PIPELINE_MS: u64 = 2_000;
/// Taken as the usual time of a peer that has delivered nothing.
const UNKNOWN_MS: u64 = 500;
/// Blocks that a peer said it lacks; one that lacks more is not asked at all until the first may be asked for again.
const REFUSED_MAX: usize = 64;
/// A block that a peer lacked is not asked of it for so long, unless it shows a better header: it may have come since, and
/// whoever lacks it for good costs a question a minute.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// A peer.
pub(super) struct Source {
    serves_from: u32,
    best: Option<HeaderPoint>,
    /// Smoothed time between two deliveries.
    interval_ms: Option<u64>,
    last_delivery: Duration,
    /// What it lacks, and until when that is taken as given; oldest first.
    refused: VecDeque<(BlockHash, Duration)>,
}

impl Source {
    pub fn new(serves_from: u32) -> Self {
        Self { serves_from, best: None, interval_ms: None, last_delivery: Duration::ZERO, refused: VecDeque::new() }
    }

    /// Whether that is news.
    pub fn set_best(&mut self, best: Option<HeaderPoint>) -> bool {
        let news = self.best.map(|old| old.hash) != best.map(|new| new.hash);
        if best.is_some_and(|best| self.best.is_none_or(|old| best.work > old.work)) {
            self.refused.clear();
        }
        self.best = best;
        news
    }

    pub const fn best(&self) -> Option<HeaderPoint> {
        self.best
    }

    pub fn may_have(&self, height: u32, hash: &BlockHash) -> bool {
        height >= self.serves_from && self.refused.len() < REFUSED_MAX && !self.lacks(hash)
    }

    fn lacks(&self, hash: &BlockHash) -> bool {
        self.refused.iter().any(|(lacked, _)| lacked == hash)
    }

    pub fn refuse(&mut self, hash: BlockHash, now: Duration) {
        if self.refused.len() < REFUSED_MAX && !self.lacks(&hash) {
            self.refused.push_back((hash, now + REFUSED_FOR));
        }
    }

    pub fn forget_refused(&mut self, now: Duration) {
        while self.refused.front().is_some_and(|(_, until)| *until <= now) {
            self.refused.pop_front();
        }
    }

    pub fn delivered(&mut self, now: Duration, asked: Duration) {
        let since = now.saturating_sub(asked.max(self.last_delivery));
        let sample = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.interval_ms = Some(self.interval_ms.map_or(sample, |old| (old.saturating_mul(3) + sample) / 4));
        self.last_delivery = now;
    }

    pub const fn last_delivery(&self) -> Duration {
        self.last_delivery
    }

    pub fn interval_ms(&self) -> u64 {
        self.interval_ms.unwrap_or(UNKNOWN_MS)
    }

    /// Bodies that may be in flight from it.
    pub fn requests_max(&self) -> usize {
        let requests = self.interval_ms.map_or(FIRST_REQUESTS, |ms| PIPELINE_MS / ms.max(1));
        usize::try_from(requests).unwrap_or(DOWNLOAD_PER_PEER).clamp(1, DOWNLOAD_PER_PEER)
    }
}
