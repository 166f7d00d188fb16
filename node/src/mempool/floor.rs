//! The rolling floor: once the mempool has been full, what a transaction must pay above what was given up.
//!
//! Without it, whoever is evicted could come back for free. It halves every 12 hours (faster while there is room), and
//! starts to fall only after a block: until then nothing has changed. (Bitcoin Core's `GetMinFee`.)

use super::feerate::Feerate;
use std::time::Duration;

/// How long the floor takes to halve.
const HALF_LIFE: Duration = Duration::from_secs(12 * 3_600);

/// The floor, in sen per 1,000 bytes.
#[derive(Debug, Default)]
pub struct RollingFloor {
    rate: f64,
    since: Duration,
    falling: bool,
}

impl RollingFloor {
    /// Something of this feerate was given up for want of room: who comes next pays `increment` more.
    pub fn raise(&mut self, given_up: Feerate, increment: u64) {
        let rate = given_up.sen_per_kilobyte().saturating_add(increment) as f64;
        if rate > self.rate {
            self.rate = rate;
            self.falling = false;
        }
    }

    /// A block made room.
    pub fn block_connected(&mut self, now: Duration) {
        if !self.falling {
            self.falling = true;
            self.since = now;
        }
    }

    /// The floor now: 0, or at least `increment`.
    pub fn rate(&mut self, now: Duration, usage: usize, max: usize, increment: u64) -> u64 {
        if self.falling && self.rate > 0.0 {
            let speed = match usage {
                _ if usage < max / 4 => 4.0,
                _ if usage < max / 2 => 2.0,
                _ => 1.0,
            };
            let elapsed = now.saturating_sub(self.since);
            self.since = now;
            self.rate *= (-(elapsed.as_secs_f64() * speed) / HALF_LIFE.as_secs_f64()).exp2();
            // The first step up was at least one increment, so below half of one nothing is left of it.
            if self.rate < increment as f64 / 2.0 {
                self.rate = 0.0;
            }
        }
        if self.rate > 0.0 { (self.rate.ceil() as u64).max(increment) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MP6.
    #[test]
    fn the_floor_halves_in_twelve_hours_once_a_block_has_come() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        let mut floor = RollingFloor::default();
        assert_eq!(floor.rate(hours(0), 100, 100, 1_000), 0);
        floor.raise(Feerate::new(15_000, 1_000), 1_000);
        assert_eq!(floor.rate(hours(5), 100, 100, 1_000), 16_000);
        floor.block_connected(hours(10));
        assert_eq!(floor.rate(hours(22), 100, 100, 1_000), 8_000);
        floor.raise(Feerate::new(1_000, 1_000), 1_000);
        assert_eq!(floor.rate(hours(34), 100, 100, 1_000), 4_000);
        assert_eq!(floor.rate(hours(37), 0, 100, 1_000), 2_000, "four times as fast when nearly empty");
        assert_eq!(floor.rate(hours(49), 60, 100, 1_000), 1_000);
        assert_eq!(floor.rate(hours(63), 60, 100, 1_000), 0);
    }
}
