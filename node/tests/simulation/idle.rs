//! What a network costs in which nothing happens.

use crate::overlay::Overlay;
use setara_node::testing;
use std::time::Duration;

/// Peers of the node in the middle.
const PEERS: usize = 10;
/// What they and it may say to each other in a day.
const DAY_BYTES: u64 = 10_000_000;
/// The part of a day that is played.
const PART: u32 = 8;

/// A node with ten peers and nothing to tell them stays within ten megabytes a day, both ways, all frames counted.
#[test]
fn an_idle_node_is_quiet() {
    let network = testing::quick_network();
    let mut overlay = Overlay::new(11, &network, PEERS + 1);
    for id in 0..=PEERS {
        match id {
            0 => overlay.dials_nobody(id),
            _ => overlay.dials(id, &[0]),
        }
        overlay.start(id);
    }
    overlay.pass(Duration::from_secs(60));
    let before = overlay.world.bytes;
    overlay.pass(Duration::from_secs(86_400) / PART);
    let day = (overlay.world.bytes - before) * u64::from(PART);
    println!("an idle node and its {PEERS} peers: {day} bytes a day");
    // Pings alone are something: silence would mean that nobody was connected.
    assert!((100_000..=DAY_BYTES).contains(&day), "{day} bytes a day");
}
