//! A newcomer that begins with a snapshot from peers: some serve one as they should, others lie in every way about it.
//!
//! It must be usable with the right coins, be sure of the history behind them in the end, and have left whoever lied
//! plainly; after a crash amid the fetch, and another amid the verification, it goes on with what it had.

use crate::coins::{Coins, Lie, OF_COINS, OF_MANIFEST, Role};
use crate::node::address_of;
use crate::overlay::{LongChain, Overlay};
use crate::world::{NodeId, Weather};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use setara_core::amount::Amount;
use setara_core::network::Network;
use setara_core::snapshot::DEPTH_MIN;
use setara_core::transaction::{Coin, OutPoint};
use setara_node::chain::{ChainHandle, View};
use setara_node::p2p::brain::interface::Ending;
use setara_node::snapshot::serve::YOUNG_BASE_INTERVAL;
use setara_node::store::schema::SnapshotStage;
use setara_node::testing::{self, ChainBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Honest servers; node 0 is the newcomer, liars come after them.
const HONEST: usize = 3;
/// Blocks of the chain: enough for the first snapshot that anybody serves, and some more.
const BLOCKS: u32 = DEPTH_MIN + YOUNG_BASE_INTERVAL + 20;
/// Blocks of which each spends a coin and makes some: coins from before the base are spent after it.
const BUSY: u32 = YOUNG_BASE_INTERVAL + 20;
/// Buckets that are right before the first crash.
const CRASH_BUCKETS: usize = 60;
/// Where liars shall be heard first, honest nodes have made their snapshot only after this time.
const LATE: Duration = Duration::from_secs(40);
/// Between blocks of the one who mines.
const SPACING: Duration = Duration::from_secs(15);
/// The servers have made their snapshots.
const PREPARED: Duration = Duration::from_secs(5);
/// Silent peers cost a minute each, and what they held back another.
const PATIENCE: Duration = Duration::from_secs(900);

fn network() -> Arc<Network> {
    static NETWORK: OnceLock<Arc<Network>> = OnceLock::new();
    NETWORK.get_or_init(|| testing::funded_network(6, testing::coins(50))).clone()
}

fn chain() -> &'static LongChain {
    static CHAIN: OnceLock<LongChain> = OnceLock::new();
    CHAIN.get_or_init(|| {
        LongChain::with(&network(), BLOCKS, |builder| {
            if builder.height() >= BUSY {
                return builder.build(Vec::new());
            }
            let coin = builder.spendable().into_iter().max_by_key(|(outpoint, coin)| (coin.output.amount, *outpoint));
            let coin = coin.expect("there are allocations");
            let part = Amount::from_sen(coin.1.output.amount.sen() / 5);
            let outputs: Vec<_> = (0..4).map(|to| (testing::address(to), part)).collect();
            builder.build(vec![builder.spend(&[coin], &outputs)])
        })
    })
}

fn coins(view: &View) -> BTreeMap<OutPoint, Coin> {
    view.iterate_coins().collect::<Result<_, _>>().expect("a sound store")
}

struct World {
    overlay: Overlay,
    lies: Vec<Lie>,
}

impl World {
    /// Liars of these sorts; honest servers have something to serve from a moment on.
    fn new(seed: u64, lies: &[Lie], honest_from: Duration) -> Self {
        let servers = HONEST + lies.len();
        let mut overlay = Overlay::new(seed, &network(), 1 + servers);
        for id in 1..=servers {
            let node = &mut overlay.nodes[id];
            node.store = chain().copy();
            let lie = id.checked_sub(HONEST + 1).map(|liar| lies[liar]);
            let from = if lie.is_some() { Duration::ZERO } else { honest_from };
            node.coins = Some(Coins::new(Role::Serves { from, lie }));
            overlay.dials_nobody(id);
            overlay.start_now(id);
        }
        // The chain's blocks are old: with a new one nobody is behind.
        overlay.nodes[1].mines_every = Some(SPACING);
        let miner = &mut overlay.nodes[1];
        let block = miner.mine(&mut overlay.world).expect("a block");
        for node in &overlay.nodes[2..] {
            let running = node.running.as_ref().expect("it runs");
            running.chain.submit(block.clone()).expect("a valid block");
        }
        overlay.nodes[1].plan_block(&mut overlay.world);
        overlay.pass(PREPARED);
        let newcomer = &mut overlay.nodes[0];
        newcomer.coins = Some(Coins::new(Role::Begins));
        // Known as any others are: what the operator names is spared blame.
        newcomer.bootstrap = (1..=servers).map(address_of).collect();
        overlay.start_now(0);
        Self { overlay, lies: lies.to_vec() }
    }

    fn chain(&self, id: NodeId) -> ChainHandle {
        self.overlay.nodes[id].running.as_ref().expect("it runs").chain.clone()
    }

    /// Until something is true of the newcomer.
    fn until(&mut self, what: &str, done: impl Fn(&Overlay) -> bool) {
        let end = self.overlay.world.now + PATIENCE;
        assert!(self.overlay.until(end, done).is_some(), "{what}\n{}", self.overlay.show());
    }

    /// The newcomer loses power, and starts again.
    fn crash(&mut self) {
        let Overlay { world, nodes } = &mut self.overlay;
        nodes[0].crash(world);
        world.cut_all(nodes, |a, _| a == 0);
        for node in &mut nodes[1..] {
            node.coins.as_mut().expect("all serve").told = 0;
        }
        let end = self.overlay.world.now + Duration::from_secs(3);
        self.overlay.until(end, |_| false);
        self.overlay.start_now(0);
    }

    /// Liars that the newcomer has left for what they did.
    fn blamed(&self) -> BTreeSet<NodeId> {
        let endings = self.overlay.nodes[0].endings.iter();
        endings.filter(|(_, ending)| matches!(ending, Ending::Offence(_))).map(|(id, _)| *id).collect()
    }

    /// From the first hello to the verified history, by way of two crashes.
    fn run(mut self) -> Outcome {
        let right = |overlay: &Overlay| overlay.nodes[0].coins.as_ref().map_or(0, |coins| coins.right);
        let stage = |overlay: &Overlay| {
            let running = overlay.nodes[0].running.as_ref()?;
            running.chain.view().snapshot().map(|row| row.stage)
        };
        self.until("no buckets", |overlay| right(overlay) >= CRASH_BUCKETS);
        self.crash();
        let here = self.overlay.nodes[0].coins.as_ref().map_or(0, |coins| coins.buckets().len());
        assert_eq!(here, CRASH_BUCKETS, "what was right is still here");

        self.until("not usable", |overlay| stage(overlay) == Some(SnapshotStage::Unverified));
        let view = self.chain(0).view();
        assert_eq!(view.tip.height().get(), YOUNG_BASE_INTERVAL);
        // A naive ledger of the blocks up to the base has these coins and no others.
        let mut ledger = ChainBuilder::new(&network());
        let base = YOUNG_BASE_INTERVAL as usize;
        chain().blocks[1..=base].iter().for_each(|block| ledger.apply(block).expect("valid"));
        assert_eq!(coins(&view), ledger.coins.clone().into_iter().collect(), "usable with the right coins");
        let full = chain().blocks[base + 1].coinbase.coins_root;
        assert_eq!((view.tip.coins_root, view.lattice().expect("sound").root()), (full, full));
        // What was here before the crash was not asked for again, but for the one that was damaged.
        let buckets: BTreeSet<u8> = ledger.coins.keys().map(|outpoint| outpoint.txid.as_bytes()[0]).collect();
        assert_eq!(right(&self.overlay), buckets.len() + 1, "each bucket once, the damaged one twice");

        drop(view);
        self.until("no history", |overlay| {
            let history = overlay.nodes[0].running.as_ref().and_then(|running| running.chain.history());
            history.is_some_and(|history| history.view().tip.height().get() >= YOUNG_BASE_INTERVAL / 2)
        });
        self.crash();
        self.until("not verified", |overlay| stage(overlay) == Some(SnapshotStage::Verified));
        self.overlay.nodes[1].mines_every = None;
        let tip = self.chain(1).view().tip.hash();
        self.until("not at the tip", |overlay| {
            overlay.nodes[0].running.as_ref().is_some_and(|running| running.chain.view().tip.hash() == tip)
        });
        let (mine, theirs) = (self.chain(0).view(), self.chain(1).view());
        assert_eq!(coins(&mine), coins(&theirs));
        assert_eq!(mine.coins_total().expect("sound"), theirs.coins_total().expect("sound"));

        let blamed = self.blamed();
        for id in 1..=HONEST {
            assert!(!blamed.contains(&id), "honest node {id} is blamed: {:?}", self.overlay.nodes[0].endings);
        }
        for (id, lie) in (HONEST + 1..).zip(&self.lies) {
            let told = self.overlay.nodes[id].coins.as_ref().map_or(0, |coins| coins.told);
            let unpunished = told > 0 && !blamed.contains(&id);
            assert!(!lie.is_plain() || !unpunished, "{lie:?} is not blamed\n{}", self.overlay.show());
            assert!(lie.is_plain() || !blamed.contains(&id), "{lie:?} may be honest\n{}", self.overlay.show());
        }
        let caught = blamed.iter().map(|id| self.lies[id - HONEST - 1]).collect();
        Outcome { log: self.overlay.world.log_hash(), caught }
    }
}

struct Outcome {
    log: String,
    caught: Vec<Lie>,
}

fn plain(lies: &[Lie]) -> Vec<Lie> {
    lies.iter().copied().filter(|lie| lie.is_plain()).collect()
}

/// Whoever is heard before any honest server lies of the manifest or the base.
#[test]
fn lies_of_the_manifest_are_found_out_before_any_coin_comes() {
    let outcome = World::new(1, &OF_MANIFEST, LATE).run();
    assert_eq!(outcome.caught, plain(&OF_MANIFEST));
}

/// Whoever is heard before any honest server lies of the coins.
#[test]
fn lies_of_the_coins_are_found_out_and_the_buckets_come_from_others() {
    let outcome = World::new(2, &OF_COINS, LATE).run();
    assert_eq!(outcome.caught, plain(&OF_COINS));
}

/// Everybody at once, over lines that lose and break; the same seed gives the same log.
#[test]
fn a_newcomer_begins_with_the_right_coins_whoever_lies() {
    let run = |seed: u64| {
        let mut rng = StdRng::seed_from_u64(seed ^ 0xc0_15);
        let mut lies = [&OF_MANIFEST[..], &OF_COINS].concat();
        lies.shuffle(&mut rng);
        lies.truncate(rng.random_range(2..=5));
        let mut world = World::new(seed, &lies, Duration::ZERO);
        world.overlay.world.weather = Weather {
            delay_min: Duration::from_millis(rng.random_range(1..150)),
            jitter: Duration::from_millis(rng.random_range(0..100)),
            bandwidth: rng.random_range(100_000..5_000_000),
            loss_per_mille: rng.random_range(0..20),
            breaks_per_100_000: rng.random_range(0..50),
        };
        world.run().log
    };
    let logs: Vec<String> = (10..13).map(run).collect();
    assert_eq!(run(10), logs[0]);
    assert_ne!(logs[0], logs[1]);
}
