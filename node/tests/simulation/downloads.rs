//! How long a newcomer needs: from one peer, from many, and with bad ones among them.

use crate::liar::{Liar, Lie};
use crate::node::address_of;
use crate::overlay::{LongChain, Overlay};
use setara_core::network::Network;
use setara_node::testing;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Blocks of the chain that is loaded ...
const BLOCKS: u32 = 300;
/// ... and outputs of each: some ten kilobytes.
const OUTPUTS: usize = 240;
/// Bytes a second of the newcomer's line.
const LINE: u64 = 200_000;
/// Of everybody else's: four fill the newcomer's.
const NARROW: u64 = LINE / 4;
/// No sync here takes so long.
const PATIENCE: Duration = Duration::from_secs(600);

fn network() -> Arc<Network> {
    static NETWORK: OnceLock<Arc<Network>> = OnceLock::new();
    NETWORK.get_or_init(testing::quick_network).clone()
}

fn chain() -> &'static LongChain {
    static CHAIN: OnceLock<LongChain> = OnceLock::new();
    CHAIN.get_or_init(|| LongChain::new(&network(), BLOCKS, OUTPUTS))
}

/// Node 0 is the newcomer; the others wait for it behind narrow lines, with the chain or with a lie each.
fn world(lies: &[Option<Lie>]) -> Overlay {
    let mut overlay = Overlay::new(11, &network(), lies.len() + 2);
    overlay.world.narrow(0, LINE);
    let peers: Vec<usize> = (1..=lies.len()).collect();
    for (peer, lie) in peers.iter().zip(lies) {
        overlay.world.narrow(*peer, NARROW);
        match lie {
            Some(lie) => overlay.nodes[*peer].liar = Some(Liar::among(*lie, &network(), &chain().blocks)),
            None => overlay.nodes[*peer].store = chain().copy(),
        }
        overlay.dials_nobody(*peer);
        overlay.start_now(*peer);
    }
    // Known as any others are: what the operator names is spared blame.
    overlay.nodes[0].bootstrap = peers.iter().map(|peer| address_of(*peer)).collect();
    overlay
}

/// When the newcomer has the chain.
fn sync_time(lies: &[Option<Lie>]) -> Duration {
    let mut overlay = world(lies);
    overlay.start_now(0);
    let done = overlay.until(PATIENCE, |overlay| overlay.height(0) == BLOCKS);
    done.unwrap_or_else(|| panic!("{lies:?}: at {} after {PATIENCE:?}\n{}", overlay.height(0), overlay.show()))
}

/// Bodies come from all peers at once: four of a quarter of the newcomer's bandwidth are as good as one of all of it.
#[test]
fn four_peers_bring_a_chain_almost_four_times_as_fast_as_one() {
    let (one, four) = (sync_time(&[None]), sync_time(&[None; 4]));
    println!("from one peer {one:?}, from four {four:?}");
    assert!(four * 32 <= one * 10, "from one peer {one:?}, from four {four:?}");
}

/// Whoever is still syncing serves what it has: a second newcomer that knows the first alone follows close behind.
#[test]
fn a_newcomer_syncs_from_one_that_is_still_syncing() {
    let mut overlay = world(&[None; 4]);
    overlay.world.narrow(5, LINE);
    overlay.nodes[5].bootstrap = vec![address_of(0)];
    overlay.dials(5, &[0]);
    overlay.start_now(0);
    overlay.start_now(5);
    let first = overlay.until(PATIENCE, |overlay| overlay.height(0) == BLOCKS).expect("the first newcomer syncs");
    let second = overlay.until(PATIENCE, |overlay| overlay.height(5) == BLOCKS);
    let second = second.unwrap_or_else(|| panic!("the second is at {}\n{}", overlay.height(5), overlay.show()));
    println!("the first after {first:?}, the second after {second:?}");
    assert!(second * 10 <= first * 14, "the first after {first:?}, the second after {second:?}");
}

/// BR6, BR8, TH8. Whatever one of eight peers does, or three of them, loading the chain takes hardly longer.
#[test]
fn bad_peers_among_eight_cost_little_time() {
    let honest = sync_time(&[None; 8]);
    let bad = [
        vec![Lie::Withhold],
        vec![Lie::WrongBodies],
        vec![Lie::WrongBlocks],
        vec![Lie::InvalidBlocks],
        vec![Lie::AddressFlood],
        vec![Lie::WithholdTransactions],
        vec![Lie::LowWork],
        vec![Lie::Garbage],
        vec![Lie::Withhold, Lie::WrongBodies, Lie::AddressFlood],
        vec![Lie::Withhold, Lie::InvalidBlocks, Lie::WithholdTransactions],
    ];
    std::thread::scope(|scope| {
        for lies in &bad {
            scope.spawn(move || {
                let mut peers = [None; 8];
                for (peer, lie) in peers.iter_mut().zip(lies) {
                    *peer = Some(*lie);
                }
                let time = sync_time(&peers);
                println!("{lies:?}: {time:?}, eight honest ones {honest:?}");
                assert!(time * 10 < honest * 13, "{lies:?}: {time:?}, eight honest ones {honest:?}");
            });
        }
    });
}
