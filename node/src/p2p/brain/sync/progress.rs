//! How far the node is: measured, and said in words. For the log, for the line on a terminal, and for what must wait until
//! the node has caught up. Rates and times to go are guesses, and nothing is decided by them.

use crate::chain::ChainHandle;
use setara_core::consensus::HeaderState;
use setara_core::height::Height;
use setara_core::network::Network;
use setara_core::pow::Work;
use std::fmt;
use std::time::Duration;

/// Blocks of work that the best header may be ahead of the tip before the node counts as behind.
pub const BEHIND_BLOCKS: u32 = 24;
/// Between two samples of the rate.
const SAMPLE: Duration = Duration::from_secs(5);
/// The share of a new sample in the smoothed rate, as a divisor.
const SMOOTHING: u64 = 4;
/// Time to go from which nothing is said: a rate so low is an accident.
const ETA_MAX: Duration = Duration::from_secs(365 * 86_400);

/// What the node is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncStage {
    /// Checks a chain of headers for work before it stores it.
    CheckingHeaders,
    /// Loads bodies, or waits for somebody who has them.
    Blocks,
    /// Has caught up.
    Done,
}

impl SyncStage {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CheckingHeaders => "checking headers",
            Self::Blocks => "loading blocks",
            Self::Done => "up to date",
        }
    }
}

/// How far the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncProgress {
    /// What it is busy with.
    pub stage: SyncStage,
    /// Of the last block verified; while headers are checked, of the last of them.
    pub height: Height,
    /// Of the best header; while headers are checked, what the time since the last one suggests.
    pub target: Height,
    /// How fast; `None` until it has been measured.
    pub rate: Option<Rate>,
    /// Peers that exchange blocks.
    pub peers: usize,
}

/// Thousandths a second, smoothed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    heights: u64,
    transactions: u64,
}

impl Rate {
    /// Blocks, or headers, a second.
    pub fn heights(&self) -> String {
        per_second(self.heights)
    }

    /// Transactions a second.
    pub fn transactions(&self) -> String {
        per_second(self.transactions)
    }
}

/// Thousandths as people read them: small numbers with one digit behind the point.
fn per_second(thousandths: u64) -> String {
    match thousandths {
        ..10_000 => format!("{}.{}", thousandths / 1_000, thousandths / 100 % 10),
        _ => (thousandths / 1_000).to_string(),
    }
}

/// The two largest units of a time: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`.
pub fn duration_text(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min"),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

impl SyncProgress {
    /// Thousandths of the way; all of them only at its end.
    pub fn permille(&self) -> u64 {
        let (height, target) = (u64::from(self.height.get()), u64::from(self.target.get()));
        if height >= target { 1_000 } else { height * 1_000 / target }
    }

    /// Percent of the way, with one digit behind the point.
    pub fn percent(&self) -> String {
        format!("{}.{}", self.permille() / 10, self.permille() % 10)
    }

    /// Time to go, if something moves.
    pub fn eta(&self) -> Option<Duration> {
        let left = u64::from(self.target.get().saturating_sub(self.height.get()));
        let eta = Duration::from_secs((left * 1_000).checked_div(self.rate?.heights)?);
        (eta < ETA_MAX).then_some(eta)
    }
}

impl fmt::Display for SyncProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.stage.as_str(), self.height, self.target)?;
        if let Some(rate) = &self.rate {
            match self.stage {
                SyncStage::CheckingHeaders => write!(f, ", {} headers/s", rate.heights())?,
                _ => write!(f, ", {} blocks/s, {} tx/s", rate.heights(), rate.transactions())?,
            }
        }
        if let Some(eta) = self.eta() {
            write!(f, ", {} to go", duration_text(eta))?;
        }
        let plural = if self.peers == 1 { "" } else { "s" };
        write!(f, ", {} peer{plural}", self.peers)
    }
}

/// Whether the node is behind: the best header is more than [`BEHIND_BLOCKS`] blocks of work above the tip, or the tip has
/// less work than the best chain is known to have. The tip's age does not matter, nor whether there are peers.
pub fn is_syncing(chain: &ChainHandle, minimum: Work) -> bool {
    let (tip, best) = (chain.view().tip.header, chain.headers().best());
    let block = best.header.bits.to_target().map_or(Work::ZERO, |target| target.work());
    let ahead = best.state.work.checked_sub(tip.work).unwrap_or(Work::ZERO);
    tip.work < minimum || block.checked_mul(BEHIND_BLOCKS).is_some_and(|slack| ahead > slack)
}

/// How high a chain is by now whose headers were checked up to `checked`, if blocks came at the network's pace. Where
/// difficulty is fixed they come as they please, and nothing is guessed.
pub(super) fn expected_height(network: &Network, checked: &HeaderState, unix_seconds: u64) -> Height {
    let passed = unix_seconds.saturating_sub(u64::from(checked.time()));
    let more = if network.is_fixed() { 0 } else { passed / u64::from(network.spacing.max(1)) };
    let height = u64::from(checked.height.get()).saturating_add(more);
    Height::new(u32::try_from(height).unwrap_or(u32::MAX))
}

/// Where the node is at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub stage: SyncStage,
    pub height: Height,
    pub transactions: u64,
}

/// The smoothed rate of one stage; another stage is measured anew.
#[derive(Default)]
pub(super) struct Meter {
    last: Option<(Duration, Place)>,
    rate: Option<Rate>,
}

impl Meter {
    pub fn sample(&mut self, now: Duration, place: &Place) {
        let Some((then, before)) = self.last.filter(|(_, before)| before.stage == place.stage) else {
            (self.last, self.rate) = (Some((now, *place)), None);
            return;
        };
        let elapsed = now.saturating_sub(then);
        if elapsed < SAMPLE {
            return;
        }
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let rate = |more: u64| more.saturating_mul(1_000_000) / millis;
        let new = Rate {
            heights: rate(u64::from(place.height.get().saturating_sub(before.height.get()))),
            transactions: rate(place.transactions.saturating_sub(before.transactions)),
        };
        let smooth = |old: u64, new: u64| old.saturating_mul(SMOOTHING - 1).saturating_add(new) / SMOOTHING;
        self.rate = Some(self.rate.map_or(new, |old| Rate {
            heights: smooth(old.heights, new.heights),
            transactions: smooth(old.transactions, new.transactions),
        }));
        self.last = Some((now, *place));
    }

    pub fn progress(&self, place: &Place, target: Height, peers: usize) -> SyncProgress {
        let measured = self.last.is_some_and(|(_, last)| last.stage == place.stage);
        let rate = self.rate.filter(|_| measured);
        SyncProgress { stage: place.stage, height: place.height, target, rate, peers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(stage: SyncStage, height: u32, transactions: u64) -> Place {
        Place { stage, height: Height::new(height), transactions }
    }

    fn blocks(height: u32, transactions: u64) -> Place {
        place(SyncStage::Blocks, height, transactions)
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// No rate and no time to go before something was measured, nor while nothing moves; no division by zero at all.
    #[test]
    fn nothing_is_guessed_before_it_is_measured() {
        let mut meter = Meter::default();
        let (target, start) = (Height::new(10_000), blocks(0, 1));
        assert_eq!(meter.progress(&start, target, 2).to_string(), "loading blocks 0/10000, 2 peers");
        meter.sample(seconds(100), &start);
        meter.sample(seconds(100), &blocks(50, 90));
        meter.sample(seconds(104), &blocks(70, 100));
        assert_eq!(meter.progress(&blocks(70, 100), target, 1).to_string(), "loading blocks 70/10000, 1 peer");
        meter.sample(seconds(105), &blocks(1_000, 12_501));
        assert_eq!(
            meter.progress(&blocks(1_000, 12_501), target, 8).to_string(),
            "loading blocks 1000/10000, 200 blocks/s, 2500 tx/s, 45 s to go, 8 peers"
        );
        // A clock that stands, and a chain that went back.
        meter.sample(seconds(105), &blocks(1_000, 12_501));
        meter.sample(seconds(110), &blocks(900, 12_000));
        let slower = meter.progress(&blocks(900, 12_000), target, 8);
        assert_eq!(slower.eta(), Some(seconds(60)), "{slower}");
        let mut still = Meter::default();
        still.sample(seconds(0), &start);
        still.sample(seconds(10), &start);
        let progress = still.progress(&start, target, 0);
        assert_eq!(progress.eta(), None);
        assert_eq!(progress.to_string(), "loading blocks 0/10000, 0.0 blocks/s, 0.0 tx/s, 0 peers");
    }

    /// The first measure counts whole, later ones by a quarter each.
    #[test]
    fn the_rate_follows_what_happens() {
        let mut meter = Meter::default();
        let mut height = 0;
        for at in 0..40 {
            meter.sample(seconds(at * 5), &blocks(height, u64::from(height) * 3));
            height += if at < 20 { 5_000 } else { 50 };
            let rate = meter.progress(&blocks(height, 0), Height::new(1 << 30), 1).rate;
            match at {
                0 => assert_eq!(rate, None),
                1..=20 => assert_eq!(rate, Some(Rate { heights: 1_000_000, transactions: 3_000_000 })),
                21.. => assert!(rate.unwrap().heights < 1_000_000),
            }
        }
        let rate = meter.rate.unwrap();
        assert!((10_000..20_000).contains(&rate.heights), "{rate:?}");
    }

    /// Headers are another thing than blocks: their rate says nothing of these.
    #[test]
    fn each_stage_is_measured_anew() {
        let mut meter = Meter::default();
        meter.sample(seconds(0), &place(SyncStage::CheckingHeaders, 0, 0));
        let checked = place(SyncStage::CheckingHeaders, 100_000, 0);
        meter.sample(seconds(5), &checked);
        assert_eq!(
            meter.progress(&checked, Height::new(400_000), 3).to_string(),
            "checking headers 100000/400000, 20000 headers/s, 15 s to go, 3 peers"
        );
        let loading = blocks(0, 1);
        assert_eq!(meter.progress(&loading, Height::new(400_000), 3).rate, None);
        meter.sample(seconds(6), &loading);
        assert_eq!(meter.progress(&loading, Height::new(400_000), 3).rate, None);
    }

    #[test]
    fn shares_and_times_are_for_people() {
        let percent = |height: u32, target: u32| {
            let (height, target) = (Height::new(height), Height::new(target));
            SyncProgress { stage: SyncStage::Blocks, height, target, rate: None, peers: 0 }.percent()
        };
        for (height, target, expected) in [
            (0, 0, "100.0"),
            (0, 1, "0.0"),
            (1, 3, "33.3"),
            (u32::MAX - 1, u32::MAX, "99.9"),
            (u32::MAX, u32::MAX, "100.0"),
            (5, 4, "100.0"),
        ] {
            assert_eq!(percent(height, target), expected, "{height}/{target}");
        }
        for (time, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min"),
            (3_600, "1 h 0 min"),
            (86_399, "23 h 59 min"),
            (86_400, "1 d 0 h"),
            (187_200, "2 d 4 h"),
        ] {
            assert_eq!(duration_text(seconds(time)), expected);
        }
        for (thousandths, expected) in [(0, "0.0"), (949, "0.9"), (9_999, "9.9"), (10_000, "10"), (1_234_567, "1234")] {
            assert_eq!(per_second(thousandths), expected);
        }
        // Absurdly far away is as good as unknown.
        let crawling = Some(Rate { heights: 1, transactions: 0 });
        let far = SyncProgress { rate: crawling, ..at(0, u32::MAX) };
        assert_eq!(far.eta(), None);
        assert_eq!(SyncProgress { rate: crawling, ..at(0, 10) }.eta(), Some(seconds(10_000)));
    }

    fn at(height: u32, target: u32) -> SyncProgress {
        let (height, target) = (Height::new(height), Height::new(target));
        SyncProgress { stage: SyncStage::Blocks, height, target, rate: None, peers: 0 }
    }

    /// Where blocks come at a pace, the time that has passed says how many headers are to be expected.
    #[test]
    fn headers_to_come_are_guessed_from_the_time() {
        let of = |network: &Network, days: u64| {
            let genesis = HeaderState::genesis(network);
            expected_height(network, &genesis, u64::from(genesis.time()) + days * 86_400).get()
        };
        let main = Network::main();
        assert_eq!(of(&main, 0), 0);
        assert_eq!(of(&main, 10), 10 * 86_400 / main.spacing);
        assert_eq!(of(&Network::dev(), 10), 0);
        assert_eq!(of(&main, u64::MAX / 86_400 / 2), u32::MAX);
    }
}
