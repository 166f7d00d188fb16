//! Finding who has what nobody near has: old bodies that one node of thirty serves.

use crate::node::address_of;
use crate::overlay::{LongChain, Overlay};
use crate::world::NodeId;
use setara_node::testing;
use std::time::Duration;

/// Nodes, the newcomer (0) and the holder of the old bodies counted.
const NODES: usize = 30;
/// Blocks of the chain.
const BLOCKS: u32 = 120;
/// From this height on everybody serves bodies, below it the holder alone.
const RECENT: u32 = 80;
/// Whom the newcomer knows.
const ENTRY: NodeId = 1;
/// Those who dial the entry: two hops from the newcomer.
const MIDDLE: std::ops::RangeInclusive<NodeId> = 2..=6;
/// Three hops away: it dials one of the middle, as everybody further out does.
const HOLDER: NodeId = NODES - 1;
/// A question for servers goes out once a minute; two rounds and the loading.
const PATIENCE: Duration = Duration::from_secs(180);

/// Step "find" of docs/network.md, BR12: all others are pruned and have recent bodies only. By its neighbours' neighbours the
/// newcomer hears of the one that has the old ones, dials it and gets them all, and nobody is blamed on the way.
#[test]
fn old_bodies_are_found_three_hops_away() {
    let network = testing::quick_network();
    let chain = LongChain::new(&network, BLOCKS, 1);
    for seed in 0..4 {
        let mut overlay = Overlay::new(seed, &network, NODES);
        for id in 1..NODES {
            overlay.nodes[id].store = if id == HOLDER { chain.copy() } else { chain.pruned(RECENT) };
            match id {
                ENTRY => overlay.dials_nobody(id),
                id if MIDDLE.contains(&id) => overlay.dials(id, &[ENTRY]),
                HOLDER => overlay.dials(id, &[*MIDDLE.start()]),
                id => overlay.dials(id, &[MIDDLE.start() + id % 5, MIDDLE.start() + (id + 1) % 5]),
            }
            overlay.start(id);
        }
        overlay.pass(Duration::from_secs(30));
        overlay.nodes[0].bootstrap = vec![address_of(ENTRY)];
        overlay.start_now(0);
        let began = overlay.world.now;
        let done = overlay.until(PATIENCE, |overlay| overlay.height(0) == BLOCKS);
        let height = overlay.height(0);
        let done = done.unwrap_or_else(|| panic!("seed {seed}: at {height} of {BLOCKS}\n{}", overlay.show()));
        println!("seed {seed}: {:?} after it started", done - began);
        let connected = |id: NodeId| {
            let brain = &overlay.nodes[id].running.as_ref().expect("everybody runs").brain;
            brain.parts().peers().map(|peer| peer.address).collect::<Vec<_>>()
        };
        assert!(connected(0).contains(&address_of(HOLDER)), "seed {seed}: the bodies came from elsewhere");
        assert!(connected(0).contains(&address_of(ENTRY)), "seed {seed}: a peer of a range was dropped");
        assert!(!connected(ENTRY).iter().any(|peer| peer.host == address_of(HOLDER).host), "three hops, not two");
    }
}
