//! Feerates as exact fractions, and feerate diagrams: how much fee the first bytes of an ordering earn.
//!
//! No floats and no division where two feerates are compared: fee_a * size_b against fee_b * size_a in 128 bits.

use std::cmp::Ordering;

/// Bytes in the unit that feerates are quoted in.
const KILOBYTE: u128 = 1_000;

/// A fee for a number of bytes; as a fraction, a feerate. Equality and order are those of the fraction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Feerate {
    /// Sen.
    pub fee: u64,
    /// Bytes.
    pub size: u64,
}

impl Feerate {
    /// `fee` sen for `size` bytes.
    pub const fn new(fee: u64, size: u64) -> Self {
        Self { fee, size }
    }

    /// Both parts added: the feerate of two things taken together.
    pub const fn join(self, other: Self) -> Self {
        Self { fee: self.fee.saturating_add(other.fee), size: self.size.saturating_add(other.size) }
    }

    /// Sen per 1,000 bytes, rounded down.
    pub fn sen_per_kilobyte(self) -> u64 {
        let rate = u128::from(self.fee) * KILOBYTE / u128::from(self.size.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

impl PartialEq for Feerate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Feerate {}

impl PartialOrd for Feerate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Feerate {
    /// The higher feerate is greater.
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u128::from(self.fee) * u128::from(other.size);
        let right = u128::from(other.fee) * u128::from(self.size);
        left.cmp(&right)
    }
}

/// The fee in sen that `size` bytes owe at `sen_per_kilobyte`, rounded up: a floor is never undercut by rounding.
pub fn fee_for(sen_per_kilobyte: u64, size: u64) -> u64 {
    let fee = (u128::from(sen_per_kilobyte) * u128::from(size)).div_ceil(KILOBYTE);
    u64::try_from(fee).unwrap_or(u64::MAX)
}

/// How two feerate diagrams compare, each given as its chunks in descending order of feerate. A diagram goes through
/// the running sums of (size, fee), straight in between and level after its end: `Greater` is at least as high
/// everywhere and higher somewhere; `None` is higher here and lower there. (Bitcoin Core's `CompareChunks`.)
pub fn compare_diagrams(left: &[Feerate], right: &[Feerate]) -> Option<Ordering> {
    let mut verdict = Ordering::Equal;
    // Between corners both are straight, so comparing at the corners of either is comparing everywhere.
    for (corners, other, higher) in [(left, right, Ordering::Greater), (right, left, Ordering::Less)] {
        let mut walk = Walk { chunks: other, at: Feerate::default() };
        let mut corner = Feerate::default();
        for chunk in corners {
            corner = corner.join(*chunk);
            let here = match walk.compare_at(corner) {
                Ordering::Equal => continue,
                Ordering::Greater => higher,
                Ordering::Less => higher.reverse(),
            };
            if verdict == here.reverse() {
                return None;
            }
            verdict = here;
        }
    }
    Some(verdict)
}

/// A diagram walked from left to right.
struct Walk<'a> {
    chunks: &'a [Feerate],
    /// Running sums before the first of `chunks`.
    at: Feerate,
}

impl Walk<'_> {
    /// Whether `corner` lies above (`Greater`), on or below the diagram; corners come in order of size.
    fn compare_at(&mut self, corner: Feerate) -> Ordering {
        while let Some((chunk, rest)) = self.chunks.split_first() {
            let end = self.at.join(*chunk);
            if end.size > corner.size {
                // fee at corner.size = at.fee + chunk.fee * (corner.size - at.size) / chunk.size
                let into = u128::from(corner.size - self.at.size) * u128::from(chunk.fee);
                let size = u128::from(chunk.size);
                return (u128::from(corner.fee) * size).cmp(&(u128::from(self.at.fee) * size + into));
            }
            self.at = end;
            self.chunks = rest;
        }
        corner.fee.cmp(&self.at.fee)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn floors_round_up_and_rates_round_down() {
        assert_eq!(fee_for(1_000, 250), 250);
        assert_eq!(fee_for(1_001, 1), 2);
        assert_eq!(fee_for(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(Feerate::new(999, 1_000).sen_per_kilobyte(), 999);
        assert_eq!(Feerate::new(1, 3).sen_per_kilobyte(), 333);
        assert_eq!(Feerate::new(1, 1), Feerate::new(7, 7));
    }

    /// Height of a diagram at every byte, times `SCALE`: all denominators of sizes below 6 divide it.
    const SCALE: u64 = 60;

    fn heights(chunks: &[Feerate], until: u64) -> Vec<u64> {
        let mut heights = vec![0];
        for chunk in chunks {
            for _ in 0..chunk.size {
                heights.push(heights.last().unwrap() + chunk.fee * SCALE / chunk.size);
            }
        }
        let last = *heights.last().unwrap();
        heights.resize(usize::try_from(until).unwrap() + 1, last);
        heights
    }

    proptest! {
        /// MP7: the comparison that replacement rests on agrees with one made byte by byte.
        #[test]
        fn diagrams_compare_as_they_do_byte_by_byte(
            left in proptest::collection::vec((0..12u64, 1..6u64), 0..6),
            right in proptest::collection::vec((0..12u64, 1..6u64), 0..6),
        ) {
            let sorted = |mut chunks: Vec<(u64, u64)>| {
                chunks.sort_by_key(|(fee, size)| std::cmp::Reverse(Feerate::new(*fee, *size)));
                chunks.into_iter().map(|(fee, size)| Feerate::new(fee, size)).collect::<Vec<_>>()
            };
            let (left, right) = (sorted(left), sorted(right));
            let pairs: Vec<_> = heights(&left, 60).into_iter().zip(heights(&right, 60)).collect();
            let above = pairs.iter().any(|(left, right)| left > right);
            let below = pairs.iter().any(|(left, right)| left < right);
            let expected = match (above, below) {
                (true, true) => None,
                (true, false) => Some(Ordering::Greater),
                (false, true) => Some(Ordering::Less),
                (false, false) => Some(Ordering::Equal),
            };
            prop_assert_eq!(compare_diagrams(&left, &right), expected);
        }
    }
}
