//! How fast a full block crosses a network whose mempools know its transactions, and one whose mempools do not.

use crate::node;
use crate::overlay::{LongChain, Overlay};
use setara_core::amount::Amount;
use setara_core::transaction::{Coin, OutPoint, Transaction};
use setara_node::chain::KnownSignatures;
use setara_node::testing;
use std::sync::Arc;
use std::time::Duration;

/// Transactions of a full block, of one input and two outputs each ...
const PAYMENTS: usize = 10_000;
/// ... and the limit that they fill.
const BLOCK_BYTES: u64 = 2_300_000;
/// Links from one end to the other, of 50 ms each.
const HOPS: usize = 5;
/// Until the far end has a block that all know ...
const KNOWN: Duration = Duration::from_millis(600);
/// ... and one that nobody but its miner knows.
const UNKNOWN: Duration = Duration::from_secs(3);
/// Blocks before, by which each node learns who brings blocks first and asks it for compact ones.
const BEFORE: u32 = 4;
/// Outputs of one coinbase: what its 100,000 bytes hold.
const OUTPUTS: usize = 2_400;

/// A block of ten thousand payments over five links: at once if all know them, within three seconds if nobody does.
#[test]
fn a_full_block_crosses_five_hops_in_time() {
    let network = testing::network(|parameters| {
        parameters.maturity = 1;
        parameters.max_block_bytes = BLOCK_BYTES;
    });
    let chain = LongChain::new(&network, 2 * PAYMENTS.div_ceil(OUTPUTS) as u32, OUTPUTS);
    let mut overlay = Overlay::new(5, &network, HOPS + 1);
    let known = Arc::new(KnownSignatures::default());
    for id in 0..=HOPS {
        overlay.nodes[id].store = chain.copy();
        overlay.nodes[id].known = Some(known.clone());
        match id {
            0 => overlay.dials_nobody(id),
            _ => overlay.dials(id, &[id - 1]),
        }
        overlay.start(id);
    }
    overlay.pass(Duration::from_secs(30));
    for _ in 0..BEFORE {
        cross(&mut overlay, 1);
    }
    let pay = |(outpoint, coin): &(OutPoint, Coin)| {
        let half = Amount::from_sen(coin.output.amount.sen() / 2 - 1_000);
        testing::sign(
            &network,
            &[(*outpoint, *coin)],
            &[(testing::address(1), half), (testing::address(0), half)],
            0,
            &[0],
        )
    };
    let payments: Vec<Transaction> = chain.coins.iter().take(2 * PAYMENTS).map(pay).collect();
    let (first, second) = payments.split_at(PAYMENTS);
    let bytes: u64 = first.iter().map(|payment| setara_core::codec::encode(payment).len() as u64).sum();
    assert!(bytes > BLOCK_BYTES * 9 / 10, "{bytes} bytes do not fill a block");

    (0..=HOPS).for_each(|id| submit(&overlay, id, first));
    let known = cross(&mut overlay, PAYMENTS + 1);
    submit(&overlay, 0, second);
    let unknown = cross(&mut overlay, PAYMENTS + 1);
    println!("{PAYMENTS} payments of {bytes} bytes over {HOPS} hops: known {known:?}, unknown {unknown:?}");
    assert!(known <= KNOWN, "{known:?}");
    assert!(unknown <= UNKNOWN, "{unknown:?}");
}

/// Puts transactions into a node's mempool.
fn submit(overlay: &Overlay, id: usize, payments: &[Transaction]) {
    let mempool = &overlay.nodes[id].running.as_ref().expect("everybody runs").mempool;
    let refused = mempool.submit_many(payments.to_vec()).into_iter().find_map(Result::err);
    assert!(refused.is_none(), "{refused:?}");
}

/// Mines a block at the near end; the time until the far end has it.
fn cross(overlay: &mut Overlay, transactions: usize) -> Duration {
    let block = overlay.nodes[0].mine(&mut overlay.world).expect("the near end mines");
    assert_eq!(block.transactions.len() + 1, transactions);
    node::notice(&mut overlay.world, &mut overlay.nodes, 0);
    let (began, height) = (overlay.world.now, overlay.height(0));
    let done = overlay.until(Duration::from_secs(60), |overlay| overlay.height(HOPS) == height);
    let done = done.unwrap_or_else(|| panic!("the far end is at {}\n{}", overlay.height(HOPS), overlay.show()));
    overlay.pass(Duration::from_secs(10));
    done - began
}
