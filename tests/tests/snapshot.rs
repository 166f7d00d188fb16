//! Snapshots over real processes: from a file to a usable node, and on to a verified history.

use serde_json::{Value, json};
use setara_core::codec::encode;
use setara_core::network::{Network, Parameters};
use setara_core::snapshot::DEPTH_MIN;
use setara_node::testing::{self, ChainBuilder};
use setara_tests::process::{NodeProcess, Setup, wait_until};
use std::sync::Arc;

/// Blocks below the snapshot's base, some with payments.
const BASE: u32 = 200;

/// Its largest block is so small that little pruning is allowed.
fn network() -> Arc<Network> {
    testing::network(|parameters: &mut Parameters| {
        parameters.name = "snapshot".to_owned();
        parameters.maturity = 2;
        parameters.max_block_bytes = 100_000;
    })
}

fn chain(network: &Arc<Network>) -> ChainBuilder {
    let mut builder = ChainBuilder::new(network);
    builder.mine_empty(2);
    for number in 0..BASE - 2 {
        let coin = builder.spendable().into_iter().max_by_key(|(_, coin)| coin.output.amount).unwrap();
        let half = setara_core::amount::Amount::from_sen(coin.1.output.amount.sen() / 2);
        let outputs = [(testing::address(number % 9), half), (testing::address(number % 7), half)];
        let payment = builder.spend(&[coin], &outputs);
        builder.mine(vec![payment]);
    }
    builder.mine_empty(DEPTH_MIN);
    builder
}

fn info(node: &NodeProcess) -> Value {
    node.call("getblockchaininfo", json!([]))
}

/// A node writes a snapshot; a new one, whose peer has no old blocks, is usable with it, across a kill; then it fetches and
/// verifies all that is behind, and its folder is gone.
#[test]
fn snapshot_from_a_file_to_a_verified_history() {
    let network = network();
    let directory = tempfile::tempdir().unwrap();
    let genesis = directory.path().join("genesis.json");
    std::fs::write(&genesis, network.to_json()).unwrap();
    let setup = |name: &str| {
        let arguments = ["--no-index", "--db-cache", "32", "--allow-private"];
        Setup::genesis(directory.path().join(name), "snapshot", &genesis).with(arguments)
    };
    let whole = setup("whole").with(["--p2p-listen", "127.0.0.1:0"]);
    let node = whole.start();
    let chain = chain(&network);
    for block in &chain.blocks[1..] {
        assert_eq!(node.call("submitblock", json!([hex::encode(encode(block))])), Value::Null);
    }
    let file = directory.path().join("coins").display().to_string();
    let dumped = node.call("dumptxoutset", json!([file, "rollback"]));
    assert_eq!((&dumped["base_height"], &dumped["path"]), (&json!(BASE), &json!(file)));
    assert_eq!(dumped["base_hash"], chain.blocks[BASE as usize].hash().to_string());
    let again = node.try_call("dumptxoutset", json!([file])).unwrap_err().to_string();
    assert!(again.contains("already exists"), "{again}");

    let address_of = |setup: &Setup| {
        wait_until("a node that listens", || {
            let endpoints = std::fs::read(setup.network_dir().join("endpoints.json")).ok()?;
            serde_json::from_slice::<Value>(&endpoints).ok()?["p2p"].as_str().map(str::to_owned)
        })
    };
    // It has all headers, and the blocks above the base.
    let pruned = setup("pruned").with(["--prune", "manual", "--p2p-listen", "127.0.0.1:0"]);
    let pruned = pruned.with(["--connect", &address_of(&whole)]);
    let pruned_node = pruned.start();
    let tip = chain.height();
    wait_until("its tip", || (info(&pruned_node)["blocks"] == tip).then_some(()));
    assert_eq!(pruned_node.call("pruneblockchain", json!([BASE])), BASE);

    let without = setup("archive").with(["--no-listen"]).start();
    let refused = without.try_call("loadtxoutset", json!([file])).unwrap_err().to_string();
    assert!(refused.contains("--prune and --no-index"), "{refused}");
    drop(without);
    let alone = setup("new").with(["--prune", "30m", "--no-listen"]);
    let mut new = alone.start();
    let early = new.try_call("loadtxoutset", json!([file])).unwrap_err().to_string();
    assert!(early.contains("is not in the best chain"), "no header is known yet: {early}");
    new.kill();
    let recent = alone.clone().with(["--connect", &address_of(&pruned)]);
    let mut new = recent.start();
    wait_until("all headers", || (info(&new)["headers"] == tip).then_some(()));
    assert_eq!(info(&new)["blocks"], 0, "nobody has the old blocks");
    let loaded = new.call("loadtxoutset", json!([file]));
    assert_eq!(loaded["coins_loaded"], dumped["coins_written"]);
    let shown = info(&new);
    assert_eq!((&shown["snapshot"]["validated"], &shown["pruneheight"]), (&json!(false), &json!(BASE + 1)));
    wait_until("the tip", || (info(&new)["blocks"] == tip).then_some(()));
    let address = testing::address(0).to_text(&network.prefix);
    new.kill();
    let mut new = alone.start();
    assert_eq!(info(&new)["bestblockhash"], info(&node)["bestblockhash"]);
    let mined = new.call("generatetoaddress", json!([1, address]));
    assert_eq!(info(&new)["bestblockhash"], mined[0]);
    let total = new.call("gettxoutsetinfo", json!([]));
    assert_eq!((&total["height"], &total["bestblock"]), (&json!(tip + 1), &mined[0]));
    assert!(new.terminate().0.success());

    drop(pruned_node);
    let connected = alone.with(["--connect", &address_of(&whole)]);
    let new = connected.start();
    wait_until("a verified history", || (info(&new)["snapshot"]["validated"] == true).then_some(()));
    let history = connected.network_dir().join("history");
    wait_until("its folder to go", || (!history.exists()).then_some(()));
    assert!(new.log().contains("the history behind the snapshot is verified"), "{}", new.log());
    wait_until("one tip", || (info(&new)["bestblockhash"] == info(&node)["bestblockhash"]).then_some(()));
    drop(new);
    let new = connected.start();
    assert_eq!(
        info(&new)["snapshot"],
        json!({
            "base_height": BASE, "base_hash": dumped["base_hash"], "validated": true, "verified_blocks": BASE,
        })
    );
}
