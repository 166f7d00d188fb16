//! Pruning as callers see it: Bitcoin Core's fields, errors and codes.

use super::{Setup, TestNode};
use crate::chain::KEEP_BODIES;
use crate::prune::PruneMode;
use crate::testing::{ChainBuilder, coins};
use serde_json::json;

fn grow(node: &TestNode, builder: &mut ChainBuilder, count: u32) {
    for block in builder.mine_empty(count) {
        node.chain.submit(block).unwrap();
    }
}

#[test]
fn rpc_an_unpruned_node_says_so() {
    let node = TestNode::start(Setup::default());
    let info = node.ask("getblockchaininfo", json!([]));
    assert_eq!(info["pruned"], false);
    for field in ["pruneheight", "automatic_pruning", "prune_target_size"] {
        assert!(info.get(field).is_none(), "{field}");
    }
    let message = "Cannot prune blocks because node is not in prune mode.".to_owned();
    assert_eq!(node.refused("pruneblockchain", json!([1])), (-1, message));
}

#[test]
fn rpc_pruneblockchain_and_pruned_blocks_read_as_in_core() {
    let node = TestNode::start(Setup { prune: Some(PruneMode::Manual), ..Setup::default() });
    let mut builder = ChainBuilder::new(&node.network);
    let info = node.ask("getblockchaininfo", json!([]));
    assert_eq!((&info["pruned"], &info["pruneheight"]), (&json!(true), &json!(0)));
    assert_eq!(info["automatic_pruning"], false);
    assert!(info.get("prune_target_size").is_none());
    let refused = |height: i64| node.refused("pruneblockchain", json!([height]));
    assert_eq!(refused(0), (-1, "Blockchain is too short for pruning.".to_owned()));
    assert_eq!(refused(-1), (-8, "Negative block height.".to_owned()));

    grow(&node, &mut builder, 2);
    let coin = builder.spendable()[0];
    let payment = builder.spend(&[coin], &[(crate::testing::address(1), coins(4))]);
    let block = builder.mine(vec![payment.clone()]);
    node.chain.submit(block.clone()).unwrap();
    grow(&node, &mut builder, KEEP_BODIES + 7);
    let read = |name: &str| node.ask("getindexinfo", json!([name]))[name]["synced"] == true;
    while !(read("txindex") && read("addressindex")) {
        std::thread::yield_now();
    }
    let tip = i64::from(builder.height());
    assert_eq!(refused(tip + 1), (-8, "Blockchain is shorter than the attempted prune height.".to_owned()));
    let message = "Could not find block with at least the specified timestamp.".to_owned();
    assert_eq!(refused(4_000_000_000), (-8, message));

    assert_eq!(node.ask("pruneblockchain", json!([5])), 5);
    assert_eq!(node.ask("getblockchaininfo", json!([]))["pruneheight"], 6);
    let hash = block.hash().to_string();
    let gone = (-1, "Block not available (pruned data)".to_owned());
    for verbosity in 0..=3 {
        assert_eq!(node.refused("getblock", json!([hash, verbosity])), gone);
    }
    assert_eq!(node.refused("getblockstats", json!([3])), gone);
    // The index knows where it was.
    assert_eq!(node.refused("getrawtransaction", json!([payment.txid()])), gone);
    assert_eq!(node.refused("getrawtransaction", json!([payment.txid(), 1, hash])), gone);
    assert_eq!(node.refused("gettxoutproof", json!([[payment.txid()]])), gone);
    // Headers, coins and what the indexes keep stay.
    assert_eq!(node.ask("getblockheader", json!([hash]))["height"], 3);
    assert_eq!(node.ask("gettxout", json!([payment.txid(), 0]))["value"].to_string(), "4.00000000");
    let txids = node.ask("getaddresstxids", json!([node.text(1)]));
    assert_eq!(txids, json!([payment.txid()]));
    let genesis = node.network.genesis_hash();
    assert_eq!(node.ask("getblock", json!([genesis]))["height"], 0);
    assert_eq!(node.ask("getblock", json!([builder.blocks[6].hash()]))["height"], 6);

    // A Unix time names the first block from two hours before it on; the newest 288 stay.
    let time = builder.blocks[7].header.time + 7_200;
    assert_eq!(node.ask("pruneblockchain", json!([time])), 7);
    assert_eq!(node.ask("pruneblockchain", json!([tip])), tip - i64::from(KEEP_BODIES));
    assert_eq!(node.ask("pruneblockchain", json!([1])), tip - i64::from(KEEP_BODIES));
    assert_eq!(node.ask("getindexinfo", json!([]))["txindex"]["synced"], true);
}
