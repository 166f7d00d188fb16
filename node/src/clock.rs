//! Time: the only file of the node that reads a clock.
//!
//! Two kinds, never mixed: Unix seconds are what the rules compare and people read, and may jump; monotonic time is for
//! timeouts and rates, and never goes back. What needs time is handed a [`Clock`], so tests move it by hand.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds of a day; civil dates are without leap seconds, as Unix time is.
const DAY_SECONDS: u64 = 86_400;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Seconds since 1970 in UTC.
    fn unix_seconds(&self) -> u64;

    /// Milliseconds since 1970 in UTC, for who reads them: rules and files know seconds only.
    fn unix_millis(&self) -> u64;

    /// Time since some fixed moment; never goes back, whatever happens to the Unix time.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// Monotonic time counts from here.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn unix_seconds(&self) -> u64 {
        self.unix_millis() / 1_000
    }

    fn unix_millis(&self) -> u64 {
        // A machine set before 1970 is at 0: every block is then from the future, and a log line says so.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// A clock that stands still until it is moved: for tests and simulations.
pub struct ManualClock {
    now: Mutex<(u64, Duration)>,
}

impl ManualClock {
    /// At this Unix time.
    pub fn new(unix_seconds: u64) -> Self {
        Self { now: Mutex::new((unix_seconds, Duration::ZERO)) }
    }

    /// Jumps to a Unix time, back or forth; monotonic time stays.
    pub fn set(&self, unix_seconds: u64) {
        self.now.lock().0 = unix_seconds;
    }

    /// Lets time pass on both.
    pub fn advance(&self, time: Duration) {
        let mut now = self.now.lock();
        let total = now.1 + time;
        now.0 = now.0.saturating_add(total.as_secs() - now.1.as_secs());
        now.1 = total;
    }
}

impl Clock for ManualClock {
    fn unix_seconds(&self) -> u64 {
        self.now.lock().0
    }

    fn unix_millis(&self) -> u64 {
        let now = self.now.lock();
        now.0.saturating_mul(1_000).saturating_add(u64::from(now.1.subsec_millis()))
    }

    fn monotonic(&self) -> Duration {
        self.now.lock().1
    }
}

/// A clock whose Unix time can be set to stand still, as `setmocktime` does; monotonic time is the inner clock's.
pub struct OffsetClock {
    inner: Arc<dyn Clock>,
    /// The mocked time; 0 is none, as in Bitcoin's `setmocktime`.
    mocked: AtomicU64,
}

impl OffsetClock {
    /// Over `inner`, not mocked.
    pub fn new(inner: Arc<dyn Clock>) -> Self {
        Self { inner, mocked: AtomicU64::new(0) }
    }

    /// Unix time stands at `unix_seconds` from now on; 0 lets it run again.
    pub fn mock(&self, unix_seconds: u64) {
        self.mocked.store(unix_seconds, Ordering::SeqCst);
    }
}

impl Clock for OffsetClock {
    fn unix_seconds(&self) -> u64 {
        match self.mocked.load(Ordering::SeqCst) {
            0 => self.inner.unix_seconds(),
            mocked => mocked,
        }
    }

    fn unix_millis(&self) -> u64 {
        match self.mocked.load(Ordering::SeqCst) {
            0 => self.inner.unix_millis(),
            mocked => mocked.saturating_mul(1_000),
        }
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }
}

/// Unix seconds as `2026-11-01T00:00:00Z` (the proleptic Gregorian calendar, RFC 3339).
pub fn civil_time(unix_seconds: u64) -> String {
    let (days, rest) = (unix_seconds / DAY_SECONDS, unix_seconds % DAY_SECONDS);
    let (year, month, day) = civil_from_days(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// `2026-11-01`, or `2026-11-01T12:00:00Z`, as Unix seconds; `None` for anything else or before 1970.
pub fn parse_civil_time(text: &str) -> Option<u64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    if year < 1970 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // The year's days are counted from the calendar itself, so that only days that exist are accepted.
    let guess = days_to_month(year, month) + day.checked_sub(1)?;
    let exists = civil_from_days(guess) == (year, month, day);
    exists.then_some(guess * DAY_SECONDS + hour * 3600 + minute * 60 + second)
}

/// Decimal numbers of exactly these widths.
fn numbers(text: &str, separator: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; 3];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Whether February of `year` has 29 days.
const fn is_leap(year: u64) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

const fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of a month.
fn days_to_month(year: u64, month: u64) -> u64 {
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    years + (1..month).map(|month| month_days(year, month)).sum::<u64>()
}

/// The date so many days after 1970-01-01.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // 400 years have 146,097 days: a first guess that is at most one too high or too low.
    let mut year = 1970 + days * 400 / 146_097;
    while days_to_month(year, 1) > days {
        year -= 1;
    }
    while days_to_month(year + 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_to_month(year, month + 1) <= days {
        month += 1;
    }
    (year, month, days - days_to_month(year, month) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_time_round_trips_and_agrees_with_known_moments() {
        let known = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_231_006_505, "2009-01-03T18:15:05Z"),
            (1_793_491_200, "2026-11-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::from(u32::MAX), "2106-02-07T06:28:15Z"),
        ];
        for (seconds, text) in known {
            assert_eq!(civil_time(seconds), text);
            assert_eq!(parse_civil_time(text), Some(seconds));
        }
        for day in 0..60_000 {
            let text = civil_time(day * DAY_SECONDS);
            assert_eq!(parse_civil_time(&text), Some(day * DAY_SECONDS));
            assert_eq!(parse_civil_time(&text[..10]), Some(day * DAY_SECONDS));
        }
    }

    #[test]
    fn dates_that_do_not_exist_are_refused() {
        let bad = [
            "",
            "2026",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "2100-02-29",
            "2026-04-31",
            "2026-01-00",
            "1969-12-31",
            "2026-1-1",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:60:00Z",
            "2026-01-01 00:00:00",
            "+026-01-01",
            "2026-01-01-01",
        ];
        for text in bad {
            assert_eq!(parse_civil_time(text), None, "{text}");
        }
    }

    #[test]
    fn manual_and_mocked_clocks_move_as_told() {
        let manual = Arc::new(ManualClock::new(100));
        let clock = OffsetClock::new(manual.clone());
        manual.advance(Duration::from_millis(1_500));
        manual.advance(Duration::from_millis(500));
        assert_eq!((clock.unix_seconds(), clock.monotonic()), (102, Duration::from_secs(2)));
        manual.advance(Duration::from_millis(345));
        assert_eq!((clock.unix_millis(), clock.unix_seconds()), (102_345, 102));
        manual.advance(Duration::from_millis(655));
        clock.mock(50);
        manual.advance(Duration::from_secs(1));
        assert_eq!((clock.unix_seconds(), clock.monotonic()), (50, Duration::from_secs(4)));
        assert_eq!(clock.unix_millis(), 50_000);
        clock.mock(0);
        assert_eq!(clock.unix_seconds(), 104);
        manual.set(7);
        assert_eq!((clock.unix_seconds(), clock.monotonic()), (7, Duration::from_secs(4)));
    }
}
