//! Fee estimation: what transactions like this one have paid to be mined within so many blocks.
//!
//! Learns only from transactions that this node saw unconfirmed, with nothing unconfirmed below them, and then saw
//! mined: a miner cannot teach it by stuffing its own blocks. What waits, and what left unmined, counts against its
//! feerate. Memory decays, so old habits fade. (After Bitcoin Core's `CBlockPolicyEstimator`, one horizon.) Floats are
//! welcome: nothing here is consensus.

use super::feerate::Feerate;
use setara_core::codec::{CodecError, Reader, Writer};
use std::collections::BTreeMap;

/// Feerate of the lowest bucket, in sen per 1,000 bytes; below it everything counts as this.
const RATE_MIN: f64 = 1_000.0;
/// Ratio of neighbouring buckets.
const RATIO: f64 = 1.1;
/// Buckets: up to 1.1^145 * 1,000 sen, about ten coins per 1,000 bytes.
const BUCKETS: usize = 146;
/// Blocks of the farthest target.
pub const TARGET_MAX: u32 = 144;
/// The nearest target: who wins the next block is chance, so a promise for one block would rest on one miner.
pub const TARGET_MIN: u32 = 2;
/// What stays of the counts after each block: half is gone after 138.
const DECAY: f64 = 0.995;
/// Share of transactions that must have been mined in time.
const SUCCESS: f64 = 0.85;
/// Decayed transactions a range of buckets needs before it says anything: a tenth of one per block on average.
const EVIDENCE: f64 = 0.1 / (1.0 - DECAY);
/// Version of the encoding.
const VERSION: u32 = 1;

/// Counts of one bucket, decayed.
#[derive(Debug, Clone, PartialEq)]
struct Bucket {
    /// Transactions mined, at any time.
    mined: f64,
    /// Sum of their feerates.
    rates: f64,
    /// `in_time[t]`: mined within t + 1 blocks.
    in_time: Vec<f64>,
    /// `left[t]`: left unmined after more than t blocks.
    left: Vec<f64>,
}

impl Bucket {
    fn new() -> Self {
        let targets = TARGET_MAX as usize;
        Self { mined: 0.0, rates: 0.0, in_time: vec![0.0; targets], left: vec![0.0; targets] }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut f64> {
        [&mut self.mined, &mut self.rates].into_iter().chain(&mut self.in_time).chain(&mut self.left)
    }
}

/// What has been learned.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimator {
    buckets: Vec<Bucket>,
    /// Unconfirmed transactions watched, by height of the tip when they came and bucket.
    waiting: BTreeMap<(u32, u8), u32>,
}

impl Default for Estimator {
    fn default() -> Self {
        Self { buckets: vec![Bucket::new(); BUCKETS], waiting: BTreeMap::new() }
    }
}

fn bucket_of(feerate: Feerate) -> u8 {
    let steps = (feerate.sen_per_kilobyte() as f64 / RATE_MIN).max(1.0_f64).log(RATIO).floor();
    // `as` saturates; BUCKETS fits a u8.
    (steps as usize).min(BUCKETS - 1) as u8
}

impl Estimator {
    /// A transaction came while the tip was at `height`.
    pub fn entered(&mut self, feerate: Feerate, height: u32) {
        *self.waiting.entry((height, bucket_of(feerate))).or_default() += 1;
    }

    fn stop_waiting(&mut self, key: (u32, u8)) {
        if let Some(count) = self.waiting.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&key);
            }
        }
    }

    /// A transaction that came at `entered` is watched no longer, and says nothing.
    pub fn forget(&mut self, feerate: Feerate, entered: u32) {
        self.stop_waiting((entered, bucket_of(feerate)));
    }

    /// A transaction that came at `entered` was mined in the block at `mined`.
    pub fn mined(&mut self, feerate: Feerate, entered: u32, mined: u32) {
        let key = (entered, bucket_of(feerate));
        self.stop_waiting(key);
        // After a reorganisation a block may be below the height at which its transaction came: no lesson in that.
        let Some(blocks) = mined.checked_sub(entered).filter(|blocks| *blocks > 0) else { return };
        let bucket = &mut self.buckets[usize::from(key.1)];
        bucket.mined += 1.0;
        bucket.rates += feerate.sen_per_kilobyte() as f64;
        for count in bucket.in_time.iter_mut().skip(blocks as usize - 1) {
            *count += 1.0;
        }
    }

    /// A transaction that came at `entered` left unmined while the tip was at `height`.
    pub fn left(&mut self, feerate: Feerate, entered: u32, height: u32) {
        let key = (entered, bucket_of(feerate));
        self.stop_waiting(key);
        let blocks = height.saturating_sub(entered) as usize;
        for count in self.buckets[usize::from(key.1)].left.iter_mut().take(blocks) {
            *count += 1.0;
        }
    }

    /// So many blocks older.
    pub fn blocks_connected(&mut self, blocks: u32) {
        let decay = DECAY.powf(f64::from(blocks));
        for value in self.buckets.iter_mut().flat_map(Bucket::all) {
            *value *= decay;
        }
    }

    /// The feerate in sen per 1,000 bytes at which transactions were mined within `target` blocks; `None` until enough
    /// have been seen.
    pub fn estimate(&self, target: u32, height: u32) -> Option<u64> {
        let target = target.clamp(TARGET_MIN, TARGET_MAX);
        let slot = target as usize - 1;
        let mut late = [0.0; BUCKETS];
        for ((entered, bucket), count) in &self.waiting {
            if height.saturating_sub(*entered) >= target {
                late[usize::from(*bucket)] += f64::from(*count);
            }
        }
        // From the highest feerate down, in ranges with enough evidence, as long as they keep succeeding.
        let mut best = None;
        let (mut in_time, mut all, mut mined, mut start) = (0.0, 0.0, 0.0, BUCKETS);
        for index in (0..BUCKETS).rev() {
            let bucket = &self.buckets[index];
            in_time += bucket.in_time[slot];
            mined += bucket.mined;
            all += bucket.mined + bucket.left[slot] + late[index];
            if all < EVIDENCE {
                continue;
            }
            if in_time < all * SUCCESS {
                break;
            }
            best = Some((index..start, mined));
            (in_time, all, mined, start) = (0.0, 0.0, 0.0, index);
        }
        // The average feerate of the bucket that holds the median transaction of the lowest good range.
        let (range, mined) = best?;
        let mut below = 0.0;
        for bucket in &self.buckets[range] {
            below += bucket.mined;
            if bucket.mined > 0.0 && below >= mined / 2.0 {
                return Some((bucket.rates / bucket.mined).ceil() as u64);
            }
        }
        None
    }

    /// Adds what was learned before a restart.
    pub fn learn_from(&mut self, mut earlier: Self) {
        let earlier = earlier.buckets.iter_mut().flat_map(Bucket::all);
        for (value, earlier) in self.buckets.iter_mut().flat_map(Bucket::all).zip(earlier) {
            *value += *earlier;
        }
    }

    /// Appends what has been learned; who is waiting is not part of it.
    pub fn write(&self, writer: &mut Writer) {
        writer.u32(VERSION);
        for bucket in &self.buckets {
            for value in bucket.clone().all() {
                writer.raw(&value.to_le_bytes());
            }
        }
    }

    /// Reads what [`Self::write`] wrote. Numbers that no history could have led to are refused.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        if reader.u32()? != VERSION {
            return Err(CodecError::NonCanonical);
        }
        let mut estimator = Self::default();
        for bucket in &mut estimator.buckets {
            for value in bucket.all() {
                *value = f64::from_le_bytes(reader.raw()?);
                if !value.is_finite() || value.is_sign_negative() {
                    return Err(CodecError::NonCanonical);
                }
            }
            let within = |counts: &[f64]| counts.iter().all(|count| *count <= bucket.mined + 1e-6);
            if !within(&bucket.in_time) {
                return Err(CodecError::NonCanonical);
            }
        }
        Ok(estimator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history: per block, `count` transactions at each (rate, blocks until mined).
    fn history(blocks: u32, kinds: &[(u64, u32)], count: u32) -> Estimator {
        let mut estimator = Estimator::default();
        for height in 1..=blocks {
            estimator.blocks_connected(1);
            for (rate, wait) in kinds {
                for _ in 0..count {
                    estimator.entered(Feerate::new(*rate, 1_000), height);
                    if height > *wait {
                        estimator.mined(Feerate::new(*rate, 1_000), height - wait, height);
                    }
                }
            }
        }
        estimator
    }

    fn within(got: Option<u64>, expected: u64, percent: u64) -> bool {
        got.is_some_and(|got| got.abs_diff(expected) * 100 <= expected * percent)
    }

    #[test]
    fn nothing_seen_says_nothing() {
        assert_eq!(Estimator::default().estimate(6, 100), None);
        assert_eq!(history(3, &[(5_000, 1)], 1).estimate(6, 3), None);
    }

    #[test]
    fn the_price_of_patience() {
        let estimator = history(400, &[(50_000, 1), (5_000, 8), (1_200, 100)], 2);
        assert!(within(estimator.estimate(2, 400), 50_000, 1), "{:?}", estimator.estimate(2, 400));
        assert!(within(estimator.estimate(10, 400), 5_000, 1), "{:?}", estimator.estimate(10, 400));
        assert!(within(estimator.estimate(TARGET_MAX, 400), 1_200, 1), "{:?}", estimator.estimate(TARGET_MAX, 400));
        assert_eq!(estimator.estimate(1, 400), estimator.estimate(TARGET_MIN, 400));
        assert_eq!(estimator.estimate(u32::MAX, 400), estimator.estimate(TARGET_MAX, 400));
    }

    #[test]
    fn what_waits_or_leaves_counts_against_its_feerate() {
        let mut estimator = history(400, &[(50_000, 1), (5_000, 1)], 2);
        assert!(within(estimator.estimate(2, 400), 5_000, 1));
        let mut stuck = estimator.clone();
        for _ in 0..300 {
            stuck.entered(Feerate::new(5_000, 1_000), 390);
        }
        assert!(within(stuck.estimate(2, 400), 50_000, 1), "{:?}", stuck.estimate(2, 400));
        for _ in 0..300 {
            estimator.entered(Feerate::new(5_000, 1_000), 390);
            estimator.left(Feerate::new(5_000, 1_000), 390, 400);
        }
        assert!(within(estimator.estimate(2, 400), 50_000, 1));
    }

    /// MP13: a miner of 30 % of the blocks announces dear transactions of its own and mines only those, block after
    /// block; everyone else's wait for the other 70 %.
    #[test]
    fn an_attacking_miner_moves_estimates_at_most_twofold() {
        let honest = history(600, &[(5_000, 1)], 20);
        let mut estimator = Estimator::default();
        let mut waiting: Vec<u32> = Vec::new();
        for height in 1..=600u32 {
            estimator.blocks_connected(1);
            let own = Feerate::new(5_000_000, 1_000);
            if height % 10 < 3 {
                for _ in 0..200 {
                    estimator.entered(own, height - 1);
                    estimator.mined(own, height - 1, height);
                }
            } else {
                for entered in waiting.drain(..) {
                    estimator.mined(Feerate::new(5_000, 1_000), entered, height);
                }
            }
            for _ in 0..20 {
                estimator.entered(Feerate::new(5_000, 1_000), height);
                waiting.push(height);
            }
        }
        for target in [6, 12, 144] {
            let (fair, moved) = (honest.estimate(target, 600).unwrap(), estimator.estimate(target, 600).unwrap());
            assert!(moved <= 2 * fair && fair <= 2 * moved, "{target}: {fair} became {moved}");
        }
    }

    #[test]
    fn lessons_survive_encoding_and_nonsense_does_not() {
        let estimator = history(300, &[(50_000, 1), (5_000, 8)], 2);
        let mut writer = Writer::default();
        estimator.write(&mut writer);
        let mut bytes = writer.finish();
        let read = Estimator::read(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(read.estimate(2, 300), estimator.estimate(2, 300));
        assert!(Estimator::read(&mut Reader::new(&bytes[..bytes.len() - 1])).is_err());
        bytes[1..9].copy_from_slice(&f64::NAN.to_le_bytes());
        assert!(Estimator::read(&mut Reader::new(&bytes)).is_err());
        bytes[1..9].copy_from_slice(&(-1.0f64).to_le_bytes());
        assert!(Estimator::read(&mut Reader::new(&bytes)).is_err());
    }
}
