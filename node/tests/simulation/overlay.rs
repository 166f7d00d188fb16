//! Networks laid out by hand: who dials whom, whose line is how narrow, who holds what from the start.
//!
//! Where `scenario.rs` asks whether all agree in the end, these ask how long something takes, in virtual time.

use crate::node::{self, Node, address_of};
use crate::world::{NodeId, Weather, What, World};
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::height::Height;
use setara_core::network::Network;
use setara_core::transaction::{Coin, OutPoint, Output};
use setara_node::chain::{ChainHandle, ChainOptions, PruneGoal};
use setara_node::clock::ManualClock;
use setara_node::store::MemoryStore;
use setara_node::testing::{self, ChainBuilder};
use std::sync::Arc;
use std::time::Duration;

/// Links of half a hundred milliseconds and as much bandwidth as the lines at their ends allow.
pub const WIDE: Weather = Weather {
    delay_min: Duration::from_millis(50),
    jitter: Duration::ZERO,
    bandwidth: 10_000_000,
    loss_per_mille: 0,
    breaks_per_100_000: 0,
};

/// A chain that nodes hold from the start.
pub struct LongChain {
    /// Genesis first.
    pub blocks: Vec<Block>,
    /// Coins that key 0 may spend in the next block.
    pub coins: Vec<(OutPoint, Coin)>,
    store: MemoryStore,
    network: Arc<Network>,
}

impl LongChain {
    /// So many blocks, each with a coinbase of so many outputs besides the first, of equal amounts and some 36 bytes.
    pub fn new(network: &Arc<Network>, blocks: u32, outputs: usize) -> Self {
        Self::with(network, blocks, |builder| {
            let mut block = builder.build(Vec::new());
            let paid = &mut block.coinbase.outputs;
            let share = paid[0].amount.sen() / (outputs as u64 + 1);
            paid[0].amount = Amount::from_sen(paid[0].amount.sen() - share * outputs as u64);
            paid.extend((0..outputs).map(|_| Output { amount: Amount::from_sen(share), address: builder.payout }));
            testing::seal(block)
        })
    }

    /// So many blocks, each as `next` has it.
    pub fn with(network: &Arc<Network>, blocks: u32, next: impl Fn(&ChainBuilder) -> Block) -> Self {
        let mut builder = ChainBuilder::new(network);
        let store = MemoryStore::new();
        let clock = Arc::new(ManualClock::new(node::EPOCH));
        let chain = testing::inline(network, Arc::new(store.clone()), clock);
        for _ in 0..blocks {
            let block = next(&builder);
            builder.apply(&block).expect("a valid block");
            chain.submit(block).expect("a valid block");
        }
        chain.stop();
        Self { coins: builder.spendable(), blocks: builder.blocks, store, network: network.clone() }
    }

    /// A store that holds it.
    pub fn copy(&self) -> MemoryStore {
        self.store.crash(0)
    }

    /// A store that holds it, but for the bodies below a height.
    pub fn pruned(&self, below: u32) -> MemoryStore {
        let store = self.copy();
        let options = ChainOptions { coin_cache_bytes: 1 << 20, keep_bodies: 1, ..ChainOptions::default() };
        let clock = Arc::new(ManualClock::new(node::EPOCH));
        let verifier = testing::verifier(&self.network);
        let chain = ChainHandle::inline(Arc::new(store.clone()), verifier, options, clock).expect("a sound chain");
        let report =
            chain.prune(PruneGoal::Below(Height::new(below)), Height::new(u32::MAX)).expect("it can be pruned");
        assert!(!report.more, "one step is enough for so short a chain");
        chain.stop();
        store.crash(0)
    }
}

/// A network.
pub struct Overlay {
    pub world: World,
    pub nodes: Vec<Node>,
}

impl Overlay {
    /// Nodes that know nobody, all down.
    pub fn new(seed: u64, network: &Arc<Network>, nodes: usize) -> Self {
        let mut world = World::new(seed, nodes);
        world.weather = WIDE;
        Self { world, nodes: (0..nodes).map(|id| Node::new(id, network, Vec::new())).collect() }
    }

    /// A node dials these and nobody else.
    pub fn dials(&mut self, id: NodeId, others: &[NodeId]) {
        self.nodes[id].only = others.iter().map(|other| address_of(*other)).collect();
    }

    /// A node that waits to be dialled.
    pub fn dials_nobody(&mut self, id: NodeId) {
        // An address at which nobody is: without one it would dial whomever it hears of.
        self.nodes[id].only = vec![address_of(self.nodes.len() + 1)];
    }

    /// Starts a node within the next second.
    pub fn start(&mut self, id: NodeId) {
        let after = Duration::from_millis(id as u64 * 37 % 1_000);
        self.world.plan(after, What::Restart(id));
    }

    /// Starts a node now.
    pub fn start_now(&mut self, id: NodeId) {
        self.nodes[id].start(&mut self.world);
    }

    /// Height of a node's tip; 0 while it is down.
    pub fn height(&self, id: NodeId) -> u32 {
        self.nodes[id].running.as_ref().map_or(0, |running| running.chain.view().tip.height().get())
    }

    /// Lets things happen until `done`, and says when that was; `None` if it was not within `patience`.
    pub fn until(&mut self, patience: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let end = self.world.now + patience;
        while !done(self) {
            let what = self.world.next(end)?;
            node::happen(&mut self.world, &mut self.nodes, what);
        }
        Some(self.world.now)
    }

    /// Lets so much time pass.
    pub fn pass(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// What was logged, for a message of failure.
    pub fn show(&self) -> String {
        self.world.shown.as_ref().map_or_else(|| "SETARA_SIM_LOG=1 shows more".to_owned(), |lines| lines.join("\n"))
    }
}
