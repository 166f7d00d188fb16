//! A node that began with a snapshot: usable at once, it then fetches what is behind it and verifies that.

use crate::node::{self, address_of};
use crate::overlay::{LongChain, Overlay};
use setara_core::height::Height;
use setara_node::chain::ChainHandle;
use setara_node::clock::ManualClock;
use setara_node::snapshot::history::give_headers;
use setara_node::snapshot::{SnapshotFile, dump};
use setara_node::store::MemoryStore;
use setara_node::store::schema::SnapshotStage;
use setara_node::testing;
use std::sync::Arc;
use std::time::Duration;

/// Nodes, the newcomer (0) and the one that has everything (1) counted; the others are pruned.
const NODES: usize = 4;
/// Blocks of the chain.
const BLOCKS: u32 = 200;
/// The snapshot's base.
const BASE: u32 = 120;
/// From this height on the pruned ones have bodies.
const RECENT: u32 = 150;
/// One round of looking for who has old blocks, and the loading.
const PATIENCE: Duration = Duration::from_secs(180);

/// The newest blocks come first, from anybody; then the history, from whoever has it, and it gives the snapshot's coins.
#[test]
fn the_history_behind_a_snapshot_is_fetched_and_verified() {
    let network = testing::quick_network();
    let chain = LongChain::new(&network, BLOCKS, 1);
    let clock = || Arc::new(ManualClock::new(node::EPOCH));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("coins");
    let whole = testing::inline(&network, Arc::new(chain.copy()), clock());
    dump(&whole.view(), Height::new(BASE), &path).expect("a snapshot");
    let store = MemoryStore::new();
    let newcomer = testing::inline(&network, Arc::new(store.clone()), clock());
    newcomer.submit_headers(chain.blocks[1..].iter().map(|block| block.header).collect()).expect("valid headers");
    let file = SnapshotFile::open(&path).expect("what was written");
    newcomer.adopt(file.manifest.clone(), file.elements().expect("its coins")).expect("a sound snapshot");
    newcomer.stop();
    for seed in 0..4 {
        let mut overlay = Overlay::new(seed, &network, NODES);
        overlay.nodes[0].store = store.crash(0);
        for id in 1..NODES {
            overlay.nodes[id].store = if id == 1 { chain.copy() } else { chain.pruned(RECENT) };
            match id {
                // Whom one dials by order of the operator is not told to others; who dials is.
                1 => overlay.dials(id, &[2, 3]),
                id => overlay.dials_nobody(id),
            }
            overlay.start(id);
        }
        overlay.pass(Duration::from_secs(30));
        overlay.nodes[0].bootstrap = (2..NODES).map(address_of).collect();
        overlay.start_now(0);
        let first = overlay.nodes[0].running.as_ref().expect("it runs").chain.clone();
        let view = first.view();
        assert_eq!(view.tip.height(), Height::new(BASE), "usable from the start");
        assert_eq!(view.snapshot().map(|row| row.stage), Some(SnapshotStage::Unverified));
        let history: ChainHandle = testing::inline(&network, Arc::new(MemoryStore::new()), clock());
        give_headers(&first, &history, Height::new(BASE), &|| false).expect("headers that are known");
        first.set_history(Some(history.clone()));
        let done = overlay
            .until(PATIENCE, |overlay| overlay.height(0) == BLOCKS && history.view().tip.height() == Height::new(BASE));
        let at = history.view().tip.height();
        assert!(done.is_some(), "seed {seed}: {} and {at}\n{}", overlay.height(0), overlay.show());
        assert_eq!(history.view().tip.hash(), chain.blocks[BASE as usize].hash());
        let root = first.view().snapshot().expect("it began with one").root;
        assert_eq!(history.view().tip.coins_root, root, "seed {seed}");
        first.set_history(None);
        overlay.pass(Duration::from_secs(5));
    }
}
