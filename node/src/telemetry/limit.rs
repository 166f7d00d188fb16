//! How much each place in the code may log: so much an hour, whatever makes it talk.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tracing::callsite::Identifier;

/// Bytes that one place in the code may log in [`WINDOW`]: as Bitcoin Core since CVE-2025-54604.
pub(super) const BYTES_MAX: usize = 1 << 20;
/// The window of that limit.
pub(super) const WINDOW: Duration = Duration::from_secs(3600);

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it.
    Write,
    /// Write it, and that so many lines before it were dropped.
    Resumed {
        /// How many.
        dropped: u64,
    },
    /// Drop it.
    Drop,
}

#[derive(Default)]
struct Window {
    start: Duration,
    bytes: usize,
    dropped: u64,
}

/// What each place has logged. Bounded by the number of places there are in the code.
pub(super) struct CallSites<Place = Identifier>(HashMap<Place, Window>);

impl<Place> Default for CallSites<Place> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<Place: Eq + Hash> CallSites<Place> {
    /// Counts a line of `bytes` from a place at a monotonic time.
    pub(super) fn admit(&mut self, place: Place, bytes: usize, now: Duration) -> Verdict {
        let window = self.0.entry(place).or_insert(Window { start: now, ..Window::default() });
        let mut dropped = 0;
        if now.saturating_sub(window.start) >= WINDOW {
            dropped = window.dropped;
            *window = Window { start: now, ..Window::default() };
        }
        if window.bytes.saturating_add(bytes) > BYTES_MAX {
            window.dropped += 1;
            return Verdict::Drop;
        }
        window.bytes += bytes;
        if dropped > 0 { Verdict::Resumed { dropped } } else { Verdict::Write }
    }
}
