//! Kills over the real binary: SIGKILL at random moments and at named places, while mining, paying, reorganising and
//! flushing. After each restart every acknowledged block is there, the coins are those of a replay from genesis, the
//! indexes catch up, and nothing had to be rebuilt.
//!
//! Dozens of kills in an ordinary run; `SETARA_KILLS=1000` for more, `SETARA_CRASH_SEED` for another sequence.

use serde_json::json;
use setara_core::network::Network;
use setara_node::chain::failpoint;
use setara_tests::crash::World;
use setara_tests::process::{NodeProcess, Setup, wait_until};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Kills of an ordinary run, over all tests here that count them: half a minute.
const KILLS: u64 = 72;
/// Kills on one directory before a new one is begun: chains stay short enough to be replayed after each.
const KILLS_PER_WORLD: u64 = 24;
/// A kill falls at most this long after the operation that it waited for has begun.
const KILL_DELAY_MICROS_MAX: u64 = 15_000;

/// A named place is reached within so long, by a node that has work all the time.
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// Kills of a node that syncs, in an ordinary run; `SETARA_SYNC_KILLS` for more.
const SYNC_KILLS: u64 = 16;
/// Kills between two deep reorganisations of the peer that it syncs from.
const KILLS_PER_REORGANISATION: u64 = 4;
/// Blocks that each of these takes back.
const DEPTH: u64 = 100;
/// A kill of a syncing node falls at most this long after its start.
const SYNC_KILL_DELAY_MILLIS_MAX: u64 = 900;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Counts operations so that a killer can wait for one.
#[derive(Default)]
struct Progress(Mutex<u64>, Condvar);

impl Progress {
    fn step(&self) {
        *self.0.lock().expect("no panic holds it") += 1;
        self.1.notify_all();
    }

    fn wait_for(&self, count: u64) {
        let done = self.0.lock().expect("no panic holds it");
        drop(self.1.wait_while(done, |done| *done < count).expect("no panic holds it"));
    }
}

/// Works until the node is killed from outside, a random moment after a random operation has begun.
fn work_until_killed(world: &mut World, node: &NodeProcess) {
    let operations = 1 + world.random().below(8);
    let delay = Duration::from_micros(world.random().below(KILL_DELAY_MICROS_MAX));
    let pid = rustix::process::Pid::from_raw(node.pid() as i32).expect("a process id");
    let progress = Progress::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            progress.wait_for(operations);
            // Not a wait for anything: the moment is the input of this test.
            std::thread::sleep(delay);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("our own child can be killed");
        });
        loop {
            progress.step();
            if world.work(node).is_err() {
                break;
            }
        }
    });
}

/// ST1, ST2, ST10, CS20. No clean stop, ever: each start finds what a kill has left.
#[test]
fn killed_at_random_moments() {
    let kills = setting("SETARA_KILLS", KILLS);
    let seed = setting("SETARA_CRASH_SEED", 1);
    let mut done = 0;
    for round in 0.. {
        if done >= kills {
            break;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Small caches make flushes frequent, large ones leave more unflushed.
        let cache = ["16", "64"][round as usize % 2];
        let setup = Setup::dev(directory.path()).with(["--db-cache", cache]);
        let (mut world, mut node) = World::new(Network::dev(), setup, seed.wrapping_mul(1_000).wrapping_add(round));
        for _ in 0..KILLS_PER_WORLD.min(kills - done) {
            work_until_killed(&mut world, &node);
            node.kill();
            done += 1;
            let what = format!("seed {seed}, world {round}, kill {done}, operation {}", world.operations());
            node = world.setup().start();
            world.verify(&node, &what);
        }
        println!("{done} kills, {} blocks acknowledged in this world", world.acknowledged());
    }
}

/// ST1. The process dies at each named place, at its first passes and at a later one.
#[test]
fn killed_at_each_named_place() {
    let visited = AtomicU64::new(0);
    // Written ahead is only what a bulk load piles up: `crash_load.rs` dies there.
    let places = failpoint::ALL.into_iter().filter(|place| *place != failpoint::AFTER_WRITE_AHEAD);
    for place in places {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let setup = Setup::dev(directory.path());
        if place == failpoint::BEFORE_GENESIS {
            // Passed once in the life of a directory: before there is anything to lose.
            let (status, _) = setup.clone().env(failpoint::VARIABLE, format!("{place}:1")).refused();
            assert!(!status.success());
            visited.fetch_add(1, Ordering::Relaxed);
        }
        let (mut world, mut node) = World::new(Network::dev(), setup, 7);
        for count in [1, 2, 9] {
            if place == failpoint::BEFORE_GENESIS {
                break;
            }
            node.terminate();
            let armed = world.setup().clone().env(failpoint::VARIABLE, format!("{place}:{count}"));
            node = armed.spawn();
            // A place on the way of a start may strike before the node is ready.
            if node.wait_ready().is_ok() {
                // The coins' rows follow once a second at most.
                let deadline = Instant::now() + REACHED_WITHIN;
                let mut died = false;
                while !died && Instant::now() < deadline {
                    died = world.work_round(&node).is_err();
                }
                assert!(died, "{place}:{count} was never reached");
            }
            assert!(!node.wait().success());
            node = world.setup().start();
            world.verify(&node, &format!("{place}:{count}"));
            visited.fetch_add(1, Ordering::Relaxed);
        }
        world.verify(&node, place);
    }
    assert!(visited.into_inner() > failpoint::ALL.len() as u64, "places were skipped");
}

/// The peer gives up its last hundred blocks for a branch of a few more.
fn reorganise(world: &mut World, peer: &NodeProcess) {
    let height = peer.call("getblockcount", json!([])).as_u64().expect("a height");
    let first = peer.call("getblockhash", json!([height - DEPTH + 1]));
    peer.call("invalidateblock", json!([first]));
    // Heavier than the old branch, by a transaction in some of its blocks and by one block.
    for _ in 0..4 {
        world.generate(peer, DEPTH / 4).expect("nobody kills it");
        world.fill_block(peer);
    }
    peer.call("reconsiderblock", json!([first]));
    world.remember(peer);
}

/// ST1, ST9. Killed while it syncs from a peer that reorganises a hundred blocks deep now and then: what each start finds is
/// a chain that was, with its coins; and in the end it is at the peer's tip.
#[test]
fn killed_while_syncing_and_reorganising() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let listening = Setup::dev(directory.path().join("peer")).with(["--p2p-listen", "127.0.0.1:0"]);
    let (mut world, peer) = World::new(Network::dev(), listening, setting("SETARA_CRASH_SEED", 1) + 77);
    for _ in 0..4 {
        world.work_round(&peer).expect("nobody kills it");
        world.fill_block(&peer);
    }
    world.generate(&peer, DEPTH).expect("nobody kills it");
    world.remember(&peer);
    let alone = Setup::dev(directory.path().join("node")).with(["--db-cache", "16"]);
    let syncing = alone.clone().with(["--connect", &world.setup().listens()]);
    let (mut partial, mut heights) = (0, Vec::new());
    for kill in 0..setting("SETARA_SYNC_KILLS", SYNC_KILLS) {
        if kill % KILLS_PER_REORGANISATION == KILLS_PER_REORGANISATION - 1 {
            reorganise(&mut world, &peer);
        }
        let mut node = syncing.spawn();
        // Not a wait for anything: the moment is the input of this test.
        std::thread::sleep(Duration::from_millis(world.random().below(SYNC_KILL_DELAY_MILLIS_MAX)));
        node.kill();
        let mut node = alone.start();
        let height = world.verify_earlier(&node, &format!("kill {kill}")).expect("it answers") as u64;
        let peer_height = peer.call("getblockcount", json!([])).as_u64().expect("a height");
        partial += u64::from(height > 0 && height < peer_height);
        heights.push(height);
        node.kill();
    }
    println!("heights after the kills: {heights:?}, {partial} of them between");
    let node = syncing.start();
    let best = peer.call("getbestblockhash", json!([]));
    wait_until("the peer's tip", || (node.call("getbestblockhash", json!([])) == best).then_some(()));
    let height = world.verify_earlier(&node, "after the kills").expect("it answers");
    assert_eq!(json!(height), peer.call("getblockcount", json!([])));
}
