//! What happens in a world, and what must be true in the end.

use crate::liar::{LIES, Liar};
use crate::node::{self, Node, address_of};
use crate::world::{NodeId, Weather, What, World};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::{SeedableRng, seq::IndexedRandom};
use setara_core::amount::Amount;
use setara_core::hash::BlockHash;
use setara_core::network::Network;
use setara_node::chain::{TipStatus, View};
use setara_node::testing::{self, ChainBuilder};
use std::sync::Arc;
use std::time::Duration;

/// Simulated time of trouble.
const STORM: Duration = Duration::from_secs(240);
/// After it, calm: two minutes in which everybody must agree, with time for those who were cut off to dial again.
const CALM: Duration = Duration::from_secs(240);
/// Mean time between blocks of all miners together.
const SPACING: Duration = Duration::from_secs(8);
/// Allocations that payments spend, of keys 1, 2, 3 ...
const COINS: u32 = 40;

/// What a run leaves.
pub struct Outcome {
    pub log_hash: String,
    pub events: u64,
}

/// A scenario, ready to run.
pub struct Scenario {
    seed: u64,
    world: World,
    nodes: Vec<Node>,
    network: Arc<Network>,
    honest: usize,
    /// A node that dies for good in the middle of the storm, and one that comes after it.
    death: Option<(NodeId, NodeId)>,
    events: u64,
    paid: u32,
}

fn network() -> Arc<Network> {
    testing::funded_network(COINS, testing::coins(10))
}

impl Scenario {
    /// Everything by the seed.
    pub fn random(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5e7a_7a00);
        let honest = rng.random_range(3..=8);
        let liars = rng.random_range(0..=3usize);
        let network = network();
        let mut world = World::new(seed, honest + liars);
        world.weather = Weather {
            delay_min: Duration::from_millis(rng.random_range(1..200)),
            jitter: Duration::from_millis(rng.random_range(0..300)),
            bandwidth: rng.random_range(20_000..5_000_000),
            loss_per_mille: rng.random_range(0..100),
            breaks_per_100_000: rng.random_range(0..300),
        };
        let mut nodes = Vec::new();
        for id in 0..honest + liars {
            let known: Vec<_> = (0..id.min(3)).map(address_of).collect();
            let mut node = Node::new(id, &network, known);
            if id < honest {
                node.skew = rng.random_range(-60..=60);
                node.mines_every = Some(SPACING * honest as u32);
            } else {
                let lie = *LIES.choose(&mut rng).expect("there are lies");
                node.liar = Some(Liar::new(lie, &network, id as u8));
                world.log(&format!("node {id} is a liar: {lie:?}"));
            }
            nodes.push(node);
        }
        // Liars are known as well as anybody: the first honest nodes have them in their lists.
        for node in nodes.iter_mut().take(2) {
            node.bootstrap.extend((honest..honest + liars).map(address_of));
        }
        Self { seed, world, nodes, network, honest, death: None, events: 0, paid: 0 }
    }

    /// Five nodes, of which one dies for good; a sixth comes only then and must find the others through the rest.
    pub fn death_of(victim: NodeId) -> Self {
        let network = network();
        let world = World::new(victim as u64 + 9_000, 6);
        let mut nodes: Vec<Node> = (0..6)
            .map(|id| {
                let known = (0..5usize).filter(|other| *other != id).take(if id == 5 { 5 } else { id.min(2) });
                let known = known.map(address_of).collect();
                let mut node = Node::new(id, &network, known);
                node.mines_every = Some(SPACING * 5);
                node
            })
            .collect();
        nodes[5].mines_every = None;
        Self { seed: 0, world, nodes, network, honest: 6, death: Some((victim, 5)), events: 0, paid: 0 }
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Result<Outcome, String> {
        let late = self.death.map(|(_, late)| late);
        for id in (0..self.nodes.len()).filter(|id| Some(*id) != late) {
            let after = Duration::from_millis(self.world.rng.random_range(0..5_000));
            self.world.plan(after, What::Restart(id));
        }
        for step in 0..24 {
            let at = STORM / 24 * step + Duration::from_millis(self.world.rng.random_range(0..5_000));
            self.world.plan(at, What::Script(step));
        }
        self.until(STORM);
        self.world.log("calm");
        self.world.weather = Weather::CALM;
        self.world.side.iter_mut().for_each(|side| *side = 0);
        let dead = self.death.map(|(victim, _)| victim);
        for id in (0..self.nodes.len()).filter(|id| Some(*id) != dead) {
            if !self.nodes[id].is_up() {
                self.nodes[id].start(&mut self.world);
            }
        }
        self.until(STORM + CALM - Duration::from_secs(30));
        // The last half minute without new blocks, so that the last one reaches everybody.
        for node in &mut self.nodes {
            node.mines_every = None;
        }
        // One more from a single node: two blocks of equal work are no disagreement that anything but work can end.
        if let Some(last) = (0..self.honest).find(|id| self.nodes[*id].running.is_some()) {
            self.until(self.world.now + Duration::from_secs(5));
            self.nodes[last].mine(&mut self.world);
            node::notice(&mut self.world, &mut self.nodes, last);
        }
        self.until(STORM + CALM);
        let verdict = self.check();
        if let (Err(_), Some(shown)) = (&verdict, &self.world.shown) {
            eprintln!("{}", shown.join("\n"));
        }
        verdict?;
        Ok(Outcome { log_hash: self.world.log_hash(), events: self.events })
    }

    fn until(&mut self, until: Duration) {
        while let Some(what) = self.world.next(until) {
            self.events += 1;
            if let Some(step) = node::happen(&mut self.world, &mut self.nodes, what) {
                self.trouble(step);
            }
        }
    }

    /// One piece of trouble.
    fn trouble(&mut self, step: u32) {
        if let Some((victim, late)) = self.death {
            if step == 12 {
                self.crash(victim);
            } else if step == 13 {
                self.nodes[late].start(&mut self.world);
            }
            return self.pay();
        }
        match self.world.rng.random_range(0..10) {
            0 | 1 => {
                let victim = self.world.rng.random_range(0..self.honest);
                if self.nodes[victim].is_up() {
                    self.crash(victim);
                    let after = Duration::from_secs(self.world.rng.random_range(1..60));
                    self.world.plan(after, What::Restart(victim));
                }
            }
            2 => {
                for side in 0..self.world.side.len() {
                    self.world.side[side] = self.world.rng.random_range(0..2);
                }
                let side = self.world.side.clone();
                self.world.log(&format!("partition {side:?}"));
                self.world.cut_all(&self.nodes, |a, b| side[a] != side[b]);
            }
            3 => {
                self.world.log("the partition heals");
                self.world.side.iter_mut().for_each(|side| *side = 0);
            }
            4 => {
                let node = self.world.rng.random_range(0..self.honest);
                self.nodes[node].skew = self.world.rng.random_range(-300..=300);
            }
            _ => self.pay(),
        }
    }

    fn crash(&mut self, victim: NodeId) {
        self.nodes[victim].crash(&mut self.world);
        self.world.cut_all(&self.nodes, |a, _| a == victim);
    }

    /// Spends one of the allocations at a random node.
    fn pay(&mut self) {
        if self.paid >= COINS {
            return;
        }
        let payer = self.world.rng.random_range(0..self.honest);
        let Some(running) = &self.nodes[payer].running else { return };
        self.paid += 1;
        let builder = ChainBuilder::new(&self.network);
        let address = testing::address(self.paid);
        let coin = builder.coins.iter().find(|(_, coin)| coin.output.address == address);
        let Some((outpoint, coin)) = coin.map(|(outpoint, coin)| (*outpoint, *coin)) else { return };
        let amount = Amount::from_sen(coin.output.amount.sen() - 10_000);
        let pays = [(testing::address(0), amount)];
        let transaction = testing::sign(&self.network, &[(outpoint, coin)], &pays, 0, &[self.paid]);
        let verdict = running.mempool.submit(transaction).map(|accepted| accepted.ids.txid);
        self.world.log(&format!("node {payer} pays: {verdict:?}"));
        node::notice(&mut self.world, &mut self.nodes, payer);
    }

    /// A stored branch, by a naive ledger.
    fn replay(&self, view: &View, tip: BlockHash) -> Result<ChainBuilder, String> {
        let mut blocks = Vec::new();
        let mut hash = tip;
        while hash != self.network.genesis_hash() {
            let block = view.block(&hash).ok().flatten().ok_or_else(|| format!("the body of {hash} is missing"))?;
            hash = block.header.previous;
            blocks.push(block);
        }
        let mut ledger = ChainBuilder::new(&self.network);
        for block in blocks.iter().rev() {
            ledger.apply(block).map_err(|error| format!("height {}: {error}", ledger.height() + 1))?;
        }
        Ok(ledger)
    }

    /// Safety and liveness.
    fn check(&self) -> Result<(), String> {
        let dead = self.death.map(|(victim, _)| victim);
        let honest = self.nodes.iter().take(self.honest).filter(|node| Some(node.id) != dead);
        let mut tips = Vec::new();
        for node in honest {
            let running = node.running.as_ref().ok_or_else(|| format!("node {} is down", node.id))?;
            if let Some(fault) = running.chain.fault() {
                return Err(format!("node {} stopped: {fault}", node.id));
            }
            let view = running.chain.view();
            tips.push((node.id, view.tip.height().get(), view.tip.hash()));
            let ledger = self.replay(&view, view.tip.hash()).map_err(|error| format!("node {}: {error}", node.id))?;
            // A branch that was left must have been as valid as the one it was left for.
            for tip in running.chain.tips().iter().filter(|tip| tip.status == TipStatus::ValidFork) {
                let replayed = self.replay(&view, tip.hash);
                replayed.map_err(|error| format!("node {}, the branch to {}: {error}", node.id, tip.hash))?;
            }
            let supply: u64 = ledger.coins.values().map(|coin| coin.output.amount.sen()).sum();
            let total = view.coins_total().map_err(|error| error.to_string())?;
            if supply != view.tip.supply.sen() || supply != total.sum || ledger.coins.len() as u64 != total.count {
                return Err(format!("node {}: {supply} sen are not its supply {:?}", node.id, total));
            }
        }
        let (_, height, tip) = tips[0];
        if tips.iter().any(|(_, _, other)| *other != tip) {
            let linked = |node: &Node| node.running.as_ref().map_or(0, |running| running.brain.parts().peers().count());
            let peers: Vec<usize> = self.nodes.iter().map(linked).collect();
            return Err(format!("tips differ after calm: {tips:?}, connections {peers:?}"));
        }
        if height == 0 {
            return Err("nobody mined".to_owned());
        }
        if let Some((_, late)) = self.death
            && self.nodes[late].running.as_ref().is_none_or(|running| running.brain.parts().peers().count() == 0)
        {
            return Err("the newcomer found nobody".to_owned());
        }
        let _ = self.seed;
        Ok(())
    }
}
