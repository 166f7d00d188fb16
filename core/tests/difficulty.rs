//! What the difficulty rule does to a chain over weeks: hash rate that comes and goes, miners who lie about time.
//!
//! Simulations of the real rule ([`asert`] and the median of eleven) with seeded luck; how it is computed, bit by bit,
//! is tested beside the code.

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use setara_core::network::{Difficulty, Network};
use setara_core::pow::{Target, asert};

/// A chain of times under the rule of the main network; hash rate is in units of what its first target asks for.
struct Simulation {
    network: Network,
    half_life: u32,
    rng: ChaCha20Rng,
    /// Seconds since block 1, as they truly are.
    now: f64,
    /// What the blocks say, block 1 first.
    times: Vec<i64>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let network = Network::main();
        let Difficulty::Asert { half_life } = network.difficulty else { panic!("the main network has ASERT") };
        Self { network, half_life, rng: ChaCha20Rng::seed_from_u64(seed), now: 0.0, times: vec![0] }
    }

    fn spacing(&self) -> f64 {
        f64::from(self.network.spacing)
    }

    /// The target that the next block needs, as a multiple of the first.
    fn ease(&self) -> f64 {
        let anchor = self.network.genesis_bits.to_target().unwrap();
        let blocks = u32::try_from(self.times.len() - 1).unwrap();
        let since = self.times.last().unwrap() + i64::from(self.network.spacing);
        // Without the limit: a chain of great hash rate is far from it.
        let target = asert(anchor, Target::MAX, self.network.spacing, self.half_life, since, blocks);
        as_float(target) / as_float(anchor)
    }

    fn median(&self) -> i64 {
        let mut last: Vec<i64> = self.times.iter().rev().take(11).copied().collect();
        last.sort_unstable();
        last[last.len() / 2]
    }

    /// Waits for the next block at `rate` and dates it by `date` of (true time, least allowed, most allowed).
    fn mine(&mut self, rate: f64, date: impl FnOnce(i64, i64, i64) -> i64) {
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        self.now += -(1.0 - uniform).ln() * self.spacing() / (rate * self.ease());
        let (least, most) = (self.median() + 1, self.now as i64 + i64::from(self.network.max_future_seconds));
        let time = date(self.now as i64, least, most).max(least);
        assert!(time <= most.max(least));
        self.times.push(time);
    }

    /// Mean spacing at `rate` over the next `blocks`.
    fn mean_spacing(&mut self, rate: f64, blocks: u32) -> f64 {
        let start = self.now;
        (0..blocks).for_each(|_| self.mine(rate, |now, _, _| now));
        (self.now - start) / f64::from(blocks)
    }
}

fn as_float(target: Target) -> f64 {
    target.to_be_bytes().iter().fold(0.0, |value, byte| value * 256.0 + f64::from(*byte))
}

/// PT10. Ten times the hash rate, and a tenth of it, for good: the spacing is back within 5 %, ten times faster after
/// five half-lives, ten times slower after eight (the rule's own differential equation gives 4.3 and 7.5).
#[test]
fn spacing_returns_after_the_hash_rate_jumps() {
    const SAMPLE: u32 = 20_000;
    for (rate, half_lives) in [(10.0, 5.0), (0.1, 8.0)] {
        let mut simulation = Simulation::new(1);
        let calm = simulation.mean_spacing(1.0, SAMPLE) / simulation.spacing();
        assert!((0.98..1.02).contains(&calm), "at a steady rate the spacing is {calm}");
        let jump = simulation.now;
        while simulation.now - jump < half_lives * f64::from(simulation.half_life) {
            simulation.mine(rate, |now, _, _| now);
        }
        let after = simulation.mean_spacing(rate, SAMPLE) / simulation.spacing();
        assert!((0.95..1.05).contains(&after), "at {rate} times the rate the spacing is {after}");
    }
}

/// PT10. On for two hours at thirty times the rate, off for two: no oscillation builds up.
#[test]
fn miners_who_come_and_go_cannot_make_it_swing() {
    let mut simulation = Simulation::new(2);
    simulation.mean_spacing(1.0, 2_000);
    let mut extremes = (f64::MAX, 0.0_f64);
    let start = simulation.now;
    let blocks = simulation.times.len();
    while simulation.now - start < 200.0 * 14_400.0 {
        let on = (((simulation.now - start) / 7_200.0) as u64).is_multiple_of(2);
        simulation.mine(if on { 30.0 } else { 1.0 }, |now, _, _| now);
        let ease = simulation.ease();
        extremes = (extremes.0.min(ease), extremes.1.max(ease));
    }
    let made = (simulation.times.len() - blocks) as f64;
    let pace = made * simulation.spacing() / (simulation.now - start);
    assert!((0.9..1.1).contains(&pace), "blocks come at {pace} times the schedule");
    // Between the slow and the fast equilibrium, and no further.
    assert!(extremes.0 > 1.0 / 40.0 && extremes.1 < 1.3, "targets swing between {extremes:?}");
}

/// PT3. Part of the miners date their blocks as early or as late as they may, in every pattern that has worked
/// elsewhere: nobody makes more than 1 % more blocks than the schedule.
#[test]
fn lying_about_time_gains_nothing() {
    type Lie = fn(u64, i64, i64, i64) -> i64;
    let lies: [(&str, Lie); 5] = [
        ("always late", |_, _, _, most| most),
        ("always early", |_, _, least, _| least),
        ("early and late in turn", |turn, _, least, most| if turn.is_multiple_of(2) { least } else { most }),
        ("held back, then let go", |turn, _, least, most| if turn % 11 == 10 { most } else { least }),
        ("Murch-Zawy: a far date every 2016", |turn, _, least, most| if turn % 2_016 == 2_015 { most } else { least }),
    ];
    for (name, lie) in lies {
        for share in [0.3, 0.51, 0.9] {
            let mut simulation = Simulation::new(3);
            simulation.mean_spacing(1.0, 500);
            let (start, before) = (simulation.now, simulation.times.len());
            for turn in 0..40_000u64 {
                let lies = (simulation.rng.next_u32() as f64 / f64::from(u32::MAX)) < share;
                simulation.mine(1.0, |now, least, most| if lies { lie(turn, now, least, most) } else { now });
            }
            let made = (simulation.times.len() - before) as f64;
            let gain = made * simulation.spacing() / (simulation.now - start) - 1.0;
            assert!(gain < 0.01, "{name}, {share} of the hash rate: {:.2} % more blocks", gain * 100.0);
        }
    }
}

/// PT4. The furthest stamp that is allowed eases the next target by under 3 %, on every built-in network that adjusts.
#[test]
fn the_furthest_stamp_eases_the_next_target_little() {
    for network in [Network::main(), Network::test()] {
        let Difficulty::Asert { half_life } = network.difficulty else { panic!("a public network has ASERT") };
        let anchor = network.genesis_bits.to_target().unwrap();
        let ease = |ahead: i64| {
            as_float(asert(anchor, Target::MAX, network.spacing, half_life, i64::from(network.spacing) + ahead, 0))
        };
        let gain = ease(i64::from(network.max_future_seconds)) / ease(0);
        assert!((1.0..1.03).contains(&gain), "{}: {gain}", network.name);
    }
}
