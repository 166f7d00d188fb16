//! The network in virtual time: real brains, real consensus, stores in memory, seeded weather, crashes and liars.
//!
//! Safety always: every block of every honest node's chain passes the rules when a naive ledger replays it, and the sum
//! of its coins is its supply. Liveness after calm: all honest nodes reach one tip. The same seed gives the same log.
//!
//! `SETARA_SIM_SEEDS=N` runs N seeds, `SETARA_SIM_SEED=S` one alone, `SETARA_SIM_LOG=1` shows what happened in it.

mod coins;
mod compact;
mod downloads;
mod find;
mod history;
mod idle;
mod liar;
mod node;
mod overlay;
mod scenario;
mod snapshots;
mod world;

use scenario::{Outcome, Scenario};

/// Seeds of an ordinary run.
const SEEDS: u64 = 150;

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (number("SETARA_SIM_SEED"), number("SETARA_SIM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (0..count.unwrap_or(SEEDS)).collect(),
    }
}

/// BR15: partitions, delay, loss, crashes, wrong clocks and liars together, by the seed.
#[test]
fn honest_nodes_agree_after_calm_whatever_came_before() {
    let seeds = seeds();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    if let Err(why) = Scenario::random(*seed).run() {
                        failed.lock().unwrap().push(format!("seed {seed}: {why}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "SETARA_SIM_SEED=N repeats one:\n{}", failed.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in [1, 7, 42] {
        let run = || Scenario::random(seed).run().expect("holds");
        let (first, second) = (run(), run());
        assert_eq!(first.log_hash, second.log_hash, "seed {seed}");
        assert!(first.events > 1_000, "seed {seed}: hardly anything happened");
        let other: Outcome = Scenario::random(seed + 1_000).run().expect("holds");
        assert_ne!(first.log_hash, other.log_hash);
    }
}

/// Nobody is needed: whichever node dies, the first included, newcomers still find the network, relay and mine.
#[test]
fn any_node_may_die_and_the_network_goes_on() {
    for victim in 0..4 {
        Scenario::death_of(victim).run().unwrap_or_else(|why| panic!("without node {victim}: {why}"));
    }
}
