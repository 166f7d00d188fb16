//! Random times and rounded rates, in integers: the same seed gives the same on every machine.

use rand::RngExt;
use rand::rngs::StdRng;
use std::time::Duration;

/// Whole means that one wait may last: beyond, once in 10^13 times, is not waited.
const MEANS_MAX: u32 = 30;

/// A wait of a Poisson process with this mean, by von Neumann's comparisons: a run of falling uniform numbers is of odd
/// length with probability e^-x of its first.
pub fn exponential(rng: &mut StdRng, mean: Duration) -> Duration {
    for whole in 0..MEANS_MAX {
        let first: u32 = rng.random();
        let mut last = first;
        let mut odd = true;
        loop {
            let next: u32 = rng.random();
            if next >= last {
                break;
            }
            (last, odd) = (next, !odd);
        }
        if odd {
            let part = (mean.as_nanos() * u128::from(first)) >> 32;
            return mean * whole + Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX));
        }
    }
    mean * MEANS_MAX
}

/// A fee filter rounded to steps of a tenth, up or down at random, so that its changes do not identify this node
/// (Bitcoin Core's `FeeFilterRounder`). Never below `least`.
pub fn rounded_rate(rng: &mut StdRng, rate: u64, least: u64) -> u64 {
    let mut below = 1;
    let mut above: u64 = 1;
    while above < rate && above < u64::MAX / 2 {
        below = above;
        above = (above + above / 10).max(above + 1);
    }
    let rounded = if rng.random_range(0..3) == 0 { above } else { below };
    rounded.max(least)
}
