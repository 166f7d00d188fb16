//! What the methods answer, on a small chain whose every value is known. [`TestNode::ask`] holds each result to the
//! registry's shape as well.

use super::{Setup, TestNode};
use crate::testing::{self, ChainBuilder};
use serde_json::{Value, json};
use setara_api::client::ClientError;
use setara_core::amount::Amount;
use setara_core::codec::encode;
use setara_core::transaction::{Coin, OutPoint, Transaction};

/// Three empty blocks, one with a payment of 4 coins and a fee of 1, and the same payment's sender.
fn node() -> (TestNode, ChainBuilder, Transaction) {
    let node = TestNode::start(Setup::default());
    let mut builder = ChainBuilder::new(&node.network);
    builder.mine_empty(3);
    let coin = fives(&builder)[0];
    let payment = builder.spend(&[coin], &[(testing::address(1), testing::coins(4))]);
    builder.mine(vec![payment.clone()]);
    for block in builder.blocks.iter().skip(1) {
        node.chain.submit(block.clone()).unwrap();
    }
    (node, builder, payment)
}

/// Spendable coins of key 0 that hold five coins, oldest first.
fn fives(builder: &ChainBuilder) -> Vec<(OutPoint, Coin)> {
    let mut coins = builder.spendable();
    coins.retain(|(_, coin)| coin.output.amount == testing::coins(5));
    coins.sort_by_key(|(_, coin)| coin.height);
    coins
}

#[test]
fn rpc_blocks_and_headers_read_as_in_core() {
    let (node, builder, payment) = node();
    let tip = builder.blocks[4].clone();
    let hash = tip.hash().to_string();
    assert_eq!(node.ask("getblockcount", json!([])), 4);
    assert_eq!(node.ask("getblockhash", json!([4])), hash.as_str());
    for height in [json!(-1), json!(5), json!(1u64 << 32)] {
        assert_eq!(node.refused("getblockhash", json!([height])), (-8, "Block height out of range".to_owned()));
    }
    let bytes = encode(&tip);
    for verbosity in [json!(0), json!(false)] {
        assert_eq!(node.ask("getblock", json!([hash, verbosity])), hex::encode(&bytes));
    }
    let block = node.ask("getblock", json!([hash]));
    assert_eq!(block["tx"], json!([tip.coinbase.txid(), payment.txid()]));
    assert_eq!((&block["size"], &block["nTx"], &block["confirmations"]), (&json!(bytes.len()), &json!(2), &json!(1)));
    assert_eq!(block["previousblockhash"], builder.blocks[3].hash().to_string());
    assert!(block.get("nextblockhash").is_none());
    assert_eq!(node.ask("getblock", json!({"blockhash": hash, "verbose": true})), block);
    let genesis = node.ask("getblock", json!([node.network.genesis_hash(), 2]));
    assert!(genesis.get("previousblockhash").is_none());
    assert_eq!(genesis["nextblockhash"], builder.blocks[1].hash().to_string());

    let detailed = node.ask("getblock", json!([hash, 2]));
    let full = node.ask("getblock", json!([hash, 3]));
    assert_eq!(detailed["tx"][1]["hex"], hex::encode(encode(&payment)));
    assert!(detailed["tx"][1]["vin"][0].get("prevout").is_none());
    let input = &full["tx"][1]["vin"][0];
    assert_eq!(input["prevout"]["generated"], true);
    assert_eq!(input["prevout"]["height"], 1);
    assert_eq!(input["prevout"]["scriptPubKey"]["address"], node.text(0));
    // Exact amounts, as text: five coins and a fee of one.
    assert_eq!(input["value"].to_string(), "5.00000000");
    assert_eq!(full["tx"][1]["fee"].to_string(), "1.00000000");
    assert_eq!(full["tx"][0]["vout"][0]["value"].to_string(), "6.00000000");

    let header = node.ask("getblockheader", json!([hash]));
    assert_eq!(node.ask("getblockheader", json!([hash, false])), hex::encode(tip.header.to_bytes()));
    for field in ["hash", "bits", "target", "merkleroot", "time", "nonce", "chainwork", "versionHex"] {
        assert_eq!(header[field], block[field], "{field}");
    }
    assert_eq!(node.refused("getblock", json!(["00".repeat(32)])), (-5, "Block not found".to_owned()));
    assert_eq!(node.refused("getblockheader", json!(["abc"])).0, -8);
    assert_eq!(node.refused("getblockheader", json!(["z".repeat(64)])).0, -8);
}

#[test]
fn rpc_side_blocks_are_known_and_not_in_the_chain() {
    let (node, builder, _) = node();
    let mut fork = ChainBuilder::new(&node.network);
    for block in &builder.blocks[1..3] {
        fork.apply(block).unwrap();
    }
    fork.extra = vec![3];
    let side = fork.mine(Vec::new());
    node.chain.submit(side.clone()).unwrap();
    let header = node.ask("getblockheader", json!([side.hash()]));
    assert_eq!((&header["confirmations"], &header["height"]), (&json!(-1), &json!(3)));
    let tips = node.ask("getchaintips", json!([]));
    assert_eq!(tips[0]["status"], "active");
    assert_eq!(tips[1]["hash"], side.hash().to_string());
    assert_eq!((&tips[1]["branchlen"], &tips[1]["height"]), (&json!(1), &json!(3)));
    let raw = node.ask("getrawtransaction", json!([side.coinbase.txid(), 1, side.hash()]));
    assert_eq!((&raw["in_active_chain"], &raw["confirmations"]), (&json!(false), &json!(0)));

    // The operator leaves the active chain, and comes back.
    assert_eq!(node.ask("invalidateblock", json!([builder.blocks[3].hash()])), Value::Null);
    assert_eq!(node.ask("getbestblockhash", json!([])), side.hash().to_string());
    assert_eq!(node.ask("reconsiderblock", json!([builder.blocks[3].hash()])), Value::Null);
    assert_eq!(node.ask("getbestblockhash", json!([])), builder.tip().to_string());
    assert_eq!(node.refused("invalidateblock", json!([node.network.genesis_hash()])).0, -8);
    assert_eq!(node.refused("reconsiderblock", json!(["00".repeat(32)])).0, -5);
}

#[test]
fn rpc_the_chain_describes_itself() {
    let (node, builder, _) = node();
    let info = node.ask("getblockchaininfo", json!([]));
    assert_eq!((&info["chain"], &info["blocks"], &info["headers"]), (&json!("regtest"), &json!(4), &json!(4)));
    assert_eq!(info["network"]["genesis_hash"], node.network.genesis_hash().to_string());
    assert_eq!((&info["network"]["prefix"], &info["network"]["ticker"]), (&json!("dset"), &json!("DSET")));
    assert_eq!((&info["initialblockdownload"], &info["warnings"]), (&json!(false), &json!([])));
    assert_eq!(node.client().get_blockchain_info().unwrap().bestblockhash, builder.tip());
    assert_eq!(node.ask("getdifficulty", json!([])), info["difficulty"]);
    assert_eq!(node.ask("getdeploymentinfo", json!([]))["deployments"], json!({}));
    let mining = node.ask("getmininginfo", json!([]));
    assert_eq!(
        (&mining["blocks"], &mining["next"]["height"], &mining["bits"]),
        (&json!(4), &json!(5), &json!("207fffff"))
    );
    let rate = node.ask("getnetworkhashps", json!([])).as_f64().unwrap();
    assert!(rate > 0.0);
    assert_eq!(node.ask("getnetworkhashps", json!([120, 0])).as_f64(), Some(0.0));
    for params in [json!([0]), json!([-2]), json!([120, 5]), json!([120, -2])] {
        assert_eq!(node.refused("getnetworkhashps", params).0, -8);
    }
    assert!(node.ask("uptime", json!([])).is_u64());
    let memory = node.ask("getmemoryinfo", json!(["stats"]));
    assert_eq!(memory["locked"]["total"], 0);
    assert!(memory["setara"]["resident"].as_u64().unwrap() > 1 << 20 && memory["setara"]["budget"].is_null());
    assert_eq!(memory["setara"]["shares"]["coins"]["used"], 7);
    assert!(memory["setara"]["shares"]["mempool"]["limit"].as_u64().unwrap() >= 5_000_000);
    assert_eq!(node.refused("getmemoryinfo", json!(["mallocinfo"])), (-8, "mallocinfo mode not available".to_owned()));
    assert_eq!(node.refused("getmemoryinfo", json!(["all"])), (-8, "unknown mode all".to_owned()));
    let document = node.ask("rpc.discover", json!([]));
    assert!(document["methods"].as_array().unwrap().len() > 40);
    let logging = node.ask("logging", json!([["rpc"], []]));
    assert_eq!((&logging["rpc"], &logging["chain"]), (&json!(true), &json!(false)));
    assert_eq!(node.refused("logging", json!([["nonsense"]])).0, -8);
    let help = node.ask("help", json!(["getblock"]));
    assert!(help.as_str().unwrap().starts_with("getblock \"blockhash\" ( verbosity )\n"));
}

#[test]
fn rpc_statistics_count_what_blocks_hold() {
    let (node, builder, payment) = node();
    let size = payment.ids().size;
    let stats = node.ask("getblockstats", json!([4]));
    assert_eq!(node.ask("getblockstats", json!([builder.tip()])), stats);
    let rate = 100_000_000 / size;
    let expected = [
        ("txs", 2),
        ("ins", 1),
        ("outs", 2),
        ("totalfee", 100_000_000),
        ("minfee", 100_000_000),
        ("maxfeerate", rate),
        ("avgfeerate", rate),
        ("total_out", 400_000_000),
        ("total_size", size),
        ("subsidy", 500_000_000),
        ("utxo_increase", 1),
        ("utxo_size_inc_actual", 81),
    ];
    for (name, value) in expected {
        assert_eq!(stats[name], value, "{name}");
    }
    assert_eq!(stats["feerate_percentiles"], json!([rate, rate, rate, rate, rate]));
    let genesis = node.ask("getblockstats", json!([0, ["txs", "avgfee", "utxo_increase_actual"]]));
    assert_eq!(genesis, json!({"txs": 1, "avgfee": 0, "utxo_increase_actual": 0}));
    assert_eq!(node.refused("getblockstats", json!([5])), (-8, "Target block height 5 after current tip 4".to_owned()));
    assert_eq!(node.refused("getblockstats", json!([-1])), (-8, "Target block height -1 is negative".to_owned()));
    assert_eq!(node.refused("getblockstats", json!([0, ["nonsense"]])).0, -8);
    assert_eq!(node.refused("getblockstats", json!([true])).0, -3);

    let totals = node.ask("getchaintxstats", json!([]));
    assert_eq!((&totals["txcount"], &totals["window_block_count"]), (&json!(6), &json!(3)));
    assert_eq!(totals["window_tx_count"], 4);
    let first = node.ask("getchaintxstats", json!([0, node.network.genesis_hash()]));
    assert_eq!((&first["txcount"], first.get("txrate")), (&json!(1), None));
    for params in [json!([4]), json!([-1]), json!([1, node.network.genesis_hash()])] {
        assert_eq!(node.refused("getchaintxstats", params).0, -8);
    }
}

#[test]
fn rpc_coins_and_proofs() {
    let (node, builder, payment) = node();
    let txid = payment.txid();
    let out = node.ask("gettxout", json!([txid, 0]));
    assert_eq!((&out["confirmations"], &out["coinbase"]), (&json!(1), &json!(false)));
    assert_eq!(
        (out["value"].to_string().as_str(), &out["scriptPubKey"]["address"]),
        ("4.00000000", &json!(node.text(1)))
    );
    assert_eq!(node.ask("gettxout", json!([txid, 1])), Value::Null);
    assert_eq!(node.ask("gettxout", json!([builder.blocks[1].coinbase.txid(), 0])), Value::Null);
    assert_eq!(node.refused("gettxout", json!([txid, -1])).0, -8);

    let set = node.ask("gettxoutsetinfo", json!([]));
    assert_eq!((&set["txouts"], &set["transactions"], &set["height"]), (&json!(4), &json!(4), &json!(4)));
    assert_eq!(set["total_amount"].to_string(), "20.00000000");
    assert_eq!(set["coins_root"], builder.state.coins_root.to_string());
    for kind in ["none", "muhash"] {
        assert_eq!(node.ask("gettxoutsetinfo", json!([kind])), set);
    }
    assert_eq!(node.refused("gettxoutsetinfo", json!(["md5"])).0, -8);

    let proof = node.ask("gettxoutproof", json!([[txid], builder.tip()]));
    assert_eq!(node.ask("verifytxoutproof", json!([proof])), json!([txid]));
    let coinbase = builder.blocks[4].coinbase.txid();
    let both = node.ask("gettxoutproof", json!([[txid, coinbase], builder.tip()]));
    assert_eq!(node.ask("verifytxoutproof", json!([both])), json!([coinbase, txid]));
    // A hash changed: it leads to another root and proves nothing. Another header: it is in no chain.
    let damaged = |position: usize| {
        let mut bytes = hex::decode(proof.as_str().unwrap()).unwrap();
        bytes[position] ^= 1;
        json!([hex::encode(bytes)])
    };
    assert_eq!(node.ask("verifytxoutproof", damaged(100)), json!([]));
    assert_eq!(node.refused("verifytxoutproof", damaged(79)).0, -5);
    for params in [json!([[]]), json!([[txid, txid]]), json!([["zz"]])] {
        assert_eq!(node.refused("gettxoutproof", params).0, -8);
    }
    assert_eq!(node.refused("gettxoutproof", json!([[txid], builder.blocks[1].hash()])).0, -5);
    assert_eq!(node.refused("verifytxoutproof", json!(["00"])).0, -22);
}

#[test]
fn rpc_transactions_are_decoded_built_and_sent() {
    let (node, builder, _) = node();
    let coin = fives(&builder)[0];
    let payment = builder.spend(&[coin], &[(testing::address(2), testing::coins(4))]);
    let hex = hex::encode(encode(&payment));
    let txid = payment.txid().to_string();
    let decoded = node.ask("decoderawtransaction", json!([hex]));
    assert_eq!((&decoded["txid"], &decoded["hash"]), (&json!(txid), &json!(payment.wtxid())));
    assert_eq!(decoded["vin"][0]["policy"]["address"], node.text(0));
    assert_eq!(decoded["vin"][0]["scriptSig"], json!({"asm": "", "hex": ""}));
    let coinbase = node.ask("decoderawtransaction", json!([hex::encode(encode(&builder.blocks[1].coinbase))]));
    assert_eq!(coinbase["vin"][0]["coinbase"], "");
    for bad in ["", "00", "xyz", "02", &hex[2..]] {
        assert_eq!(node.refused("decoderawtransaction", json!([bad])).0, -22, "{bad}");
    }

    // A fee of a whole coin is a mistake, unless the sender insists.
    let verdict = &node.ask("testmempoolaccept", json!([[hex]]))[0];
    assert_eq!((&verdict["allowed"], &verdict["reject-reason"]), (&json!(false), &json!("max-fee-exceeded")));
    assert_eq!(node.refused("sendrawtransaction", json!([hex])).0, -25);
    let verdict = &node.ask("testmempoolaccept", json!([[hex], 0]))[0];
    assert_eq!((&verdict["allowed"], verdict["fees"]["base"].to_string().as_str()), (&json!(true), "1.00000000"));
    assert_eq!(node.ask("getrawmempool", json!([])), json!([]));
    for _ in 0..2 {
        assert_eq!(node.ask("sendrawtransaction", json!([hex, "0"])), txid.as_str());
    }
    assert_eq!(node.ask("getrawmempool", json!([])), json!([txid]));
    let raw = node.ask("getrawtransaction", json!([txid, true]));
    assert!(raw.get("confirmations").is_none() && raw.get("blockhash").is_none());
    assert_eq!(node.ask("getrawtransaction", json!([txid, 2]))["vin"][0]["prevout"]["height"], coin.1.height.get());
    // What the mempool spends is gone for those who count it, and what it makes is there.
    let spent = json!([coin.0.txid, coin.0.index]);
    assert_eq!(node.ask("gettxout", spent), Value::Null);
    assert!(node.ask("gettxout", json!([coin.0.txid, coin.0.index, false])).is_object());
    assert_eq!(node.ask("gettxout", json!([txid, 0]))["confirmations"], 0);

    let mut broken = builder.spend(&[fives(&builder)[1]], &[(testing::address(2), testing::coins(4))]);
    testing::break_signature(&mut broken);
    let (code, message) = node.refused("sendrawtransaction", json!([hex::encode(encode(&broken)), 0]));
    assert!(code == -26 && message.starts_with("bad-signature: "), "{code} {message}");
    let mut missing = coin;
    missing.0.index = 9;
    let missing = builder.spend(&[missing], &[(testing::address(2), testing::coins(4))]);
    assert_eq!(node.refused("sendrawtransaction", json!([hex::encode(encode(&missing)), 0])).0, -25);
    for bad in ["", "zz", "00"] {
        assert_eq!(node.refused("sendrawtransaction", json!([bad])).0, -22);
        assert_eq!(node.refused("testmempoolaccept", json!([[bad]])).0, -22);
    }
    assert_eq!(node.refused("testmempoolaccept", json!([[]])).0, -8);
    assert_eq!(node.refused("testmempoolaccept", json!([vec![hex.as_str(); 26]])).0, -8);

    node.generate(1);
    assert_eq!(node.refused("sendrawtransaction", json!([hex, 0])).0, -27);
}

/// As Bitcoin Core judges a package: children on top of their parents, and silence after the first refusal.
#[test]
fn rpc_a_list_of_transactions_is_tested_together() {
    let (node, builder, _) = node();
    let coin = fives(&builder)[0];
    let parent = builder.spend(&[coin], &[(testing::address(0), Amount::from_sen(499_900_000))]);
    let made = (OutPoint::new(parent.txid(), 0), Coin { output: parent.outputs[0], ..coin.1 });
    let child = builder.spend(&[made], &[(testing::address(2), testing::coins(4))]);
    let [parent, child] = [parent, child].map(|transaction| hex::encode(encode(&transaction)));
    let verdicts = node.ask("testmempoolaccept", json!([[parent, child], 0]));
    for verdict in verdicts.as_array().unwrap() {
        assert_eq!(verdict["allowed"], true, "{verdicts}");
        assert_eq!(verdict["fees"]["effective-includes"], json!([verdict["wtxid"]]));
    }
    let verdicts = node.ask("testmempoolaccept", json!([[child, parent], 0]));
    for verdict in verdicts.as_array().unwrap() {
        assert_eq!(verdict["package-error"], "package-not-sorted");
        assert!(verdict.get("allowed").is_none(), "{verdict}");
    }
    let verdicts = node.ask("testmempoolaccept", json!([[parent, child]]));
    assert_eq!((&verdicts[0]["allowed"], &verdicts[1]["reject-reason"]), (&json!(true), &json!("max-fee-exceeded")));
    let other = builder.spend(&[fives(&builder)[1]], &[(testing::address(2), Amount::from_sen(499_900_000))]);
    let verdicts = node.ask("testmempoolaccept", json!([[child, hex::encode(encode(&other))]]));
    assert_eq!((&verdicts[0]["allowed"], &verdicts[0]["reject-reason"]), (&json!(false), &json!("missing-inputs")));
    assert!(verdicts[1].get("allowed").is_none() && verdicts[1]["txid"].is_string(), "{verdicts}");
    assert_eq!(node.ask("getrawmempool", json!([])), json!([]));
}

#[test]
fn rpc_transactions_can_be_drafted() {
    let (node, _, payment) = node();
    let txid = payment.txid();
    let to = node.text(3);
    let draft = node.ask(
        "createrawtransaction",
        json!([[{"txid": txid, "vout": 0, "sequence": 1}], [{to.clone(): "1.5"}, {"data": "c0ffee"}], 7]),
    );
    let decoded = node.ask("decoderawtransaction", json!([draft]));
    assert_eq!((&decoded["locktime"], &decoded["memo"]), (&json!(7), &json!("c0ffee")));
    assert_eq!(decoded["fee"].to_string(), "2.50000000");
    assert!(decoded["vin"][0].get("txinwitness").is_none());
    let object =
        node.ask("createrawtransaction", json!([[{"txid": txid, "vout": 0}], {to.clone(): 1.5, "data": "c0ffee"}, 7]));
    assert_eq!(object, draft);
    let inputs = json!([{"txid": txid, "vout": 0}]);
    let unknown = json!([{"txid": "00".repeat(32), "vout": 0}]);
    assert_eq!(node.refused("createrawtransaction", json!([unknown, []])).0, -5);
    let stated = json!([{"txid": "00".repeat(32), "vout": 0, "amount": 1}]);
    assert!(node.ask("createrawtransaction", json!([stated, []])).is_string());
    let bad = [
        (json!([{"vout": 0}]), json!([]), -8),
        (json!([{"txid": txid}]), json!([]), -8),
        (json!([{"txid": txid, "vout": -1}]), json!([]), -8),
        (json!([7]), json!([]), -8),
        (inputs.clone(), json!([{to.clone(): -1}]), -3),
        (inputs.clone(), json!([{to.clone(): 1}, {to.clone(): 1}]), -8),
        (inputs.clone(), json!([{to.clone(): 1, "data": "00"}]), -8),
        (inputs.clone(), json!([{"data": "xx"}]), -8),
        (inputs.clone(), json!([{"data": "00".repeat(257)}]), -8),
        (inputs, json!({"tset1qqq": 1}), -5),
    ];
    for (inputs, outputs, code) in bad {
        assert_eq!(node.refused("createrawtransaction", json!([inputs, outputs])).0, code, "{inputs} {outputs}");
    }

    let policy = hex::encode(encode(&testing::policy(1)));
    let decoded = node.ask("decodescript", json!([policy]));
    assert_eq!((&decoded["type"], &decoded["address"]), (&json!("key"), &json!(node.text(1))));
    let address = hex::encode(testing::address(1).as_bytes());
    assert_eq!(node.ask("decodescript", json!([address]))["address"], node.text(1));
    assert_eq!(node.refused("decodescript", json!(["00"])).0, -22);
    assert_eq!(node.refused("decodescript", json!(["0"])).0, -8);

    let valid = node.ask("validateaddress", json!([node.text(1)]));
    assert_eq!((&valid["isvalid"], &valid["scriptPubKey"]), (&json!(true), &json!(address)));
    let other = testing::address(1).to_text(&"tset".parse().unwrap());
    let invalid = node.ask("validateaddress", json!([other]));
    assert_eq!(invalid["isvalid"], false);
    assert!(invalid["error"].as_str().unwrap().contains("another network"));
}

#[test]
fn rpc_the_mempool_tells_who_needs_whom() {
    let (node, builder, _) = node();
    let parent = builder.spend(&[fives(&builder)[0]], &[(testing::address(2), testing::coins(4))]);
    let made = Coin { output: parent.outputs[0], height: testing::height(4), from_coinbase: false };
    let outpoint = OutPoint::new(parent.txid(), 0);
    let child = builder.spend(&[(outpoint, made)], &[(testing::address(3), testing::coins(2))]);
    // Together in one batch: the child finds its parent.
    let calls: Vec<_> = [&parent, &child]
        .map(|transaction| ("sendrawtransaction", json!([hex::encode(encode(transaction)), 0])))
        .to_vec();
    let sent = node.client().batch(&calls).unwrap();
    assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    let (parent_id, child_id) = (parent.txid().to_string(), child.txid().to_string());
    let entry = node.ask("getmempoolentry", json!([child_id]));
    assert_eq!((&entry["depends"], &entry["ancestorcount"]), (&json!([parent_id]), &json!(2)));
    assert_eq!(entry["fees"]["ancestor"].to_string(), "3.00000000");
    assert_eq!(node.ask("getmempoolancestors", json!([child_id])), json!([parent_id]));
    assert_eq!(node.ask("getmempooldescendants", json!([parent_id])), json!([child_id]));
    let verbose = node.ask("getmempooldescendants", json!([parent_id, true]));
    assert_eq!(verbose[&child_id], entry);
    let all = node.ask("getrawmempool", json!([true]));
    assert_eq!((&all[&child_id], all.as_object().unwrap().len()), (&entry, 2));
    let counted = node.ask("getrawmempool", json!([false, true]));
    assert_eq!(counted["txids"], json!([parent_id, child_id]));
    assert_eq!(node.refused("getrawmempool", json!([true, true])).0, -8);
    assert_eq!(node.refused("getmempoolentry", json!(["00".repeat(32)])).0, -5);
    let info = node.client().get_mempool_info().unwrap();
    assert_eq!((info.size, info.total_fee.0), (2, testing::coins(3)));
    assert_eq!(info.minrelaytxfee.0, Amount::from_sen(1_000));
    let estimate = node.ask("estimatesmartfee", json!([6]));
    assert!(estimate["errors"].is_array() && estimate.get("feerate").is_none());
    for target in [0, 1009, -1] {
        assert_eq!(node.refused("estimatesmartfee", json!([target])).0, -8);
    }
    assert_eq!(node.refused("estimatesmartfee", json!([6, "hasty"])).0, -8);
}

/// A batch answers as its calls would one by one, although their signatures are verified together.
#[test]
fn rpc_a_batch_of_transactions_is_taken_in_order() {
    let (node, builder, _) = node();
    let coin = fives(&builder)[0];
    let pay = |coins: u64| builder.spend(&[coin], &[(testing::address(2), testing::coins(coins))]);
    // The second replaces the first, the third would replace the second for less; the fourth is broken, then no
    // transaction, then a good one that is sent twice.
    let (first, second, third) = (pay(4), pay(3), pay(4));
    let mut broken = builder.spend(&[fives(&builder)[1]], &[(testing::address(2), testing::coins(4))]);
    let good = broken.clone();
    testing::break_signature(&mut broken);
    let send = |transaction: &Transaction| ("sendrawtransaction", json!([hex::encode(encode(transaction)), 0]));
    let calls = [
        send(&first),
        send(&second),
        send(&third),
        send(&broken),
        ("sendrawtransaction", json!(["zz"])),
        ("sendrawtransaction", json!([])),
        send(&good),
        send(&good),
        ("getrawmempool", json!([])),
        ("sendrawtransaction", json!([hex::encode(encode(&good))])),
    ];
    let outcomes = node.client().batch(&calls).unwrap();
    let codes: Vec<i64> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(_) => 0,
            Err(ClientError::Rpc { code, .. }) => *code,
            Err(other) => panic!("{other}"),
        })
        .collect();
    assert_eq!(codes, [0, 0, -26, -26, -22, -1, 0, 0, 0, -25], "{outcomes:?}");
    let mut waiting: Vec<String> = serde_json::from_value(outcomes[8].as_ref().unwrap().clone()).unwrap();
    waiting.sort();
    let mut expected = [second.txid().to_string(), good.txid().to_string()];
    expected.sort();
    assert_eq!(waiting, expected);
}

#[test]
fn rpc_addresses_are_indexed() {
    let (node, builder, payment) = node();
    let (zero, one) = (node.text(0), node.text(1));
    let balance = |params: Value| node.ask("getaddressbalance", json!([params]));
    assert_eq!(balance(json!(one)), json!({"balance": 400_000_000, "received": 400_000_000}));
    assert_eq!(balance(json!({"addresses": [zero]})), json!({"balance": 1_600_000_000, "received": 2_100_000_000}));
    assert_eq!(balance(json!({"addresses": [zero, one, zero]}))["balance"], 2_000_000_000u64);
    assert_eq!(balance(json!({"addresses": []}))["balance"], 0);

    let utxos = node.client().get_address_utxos(&[zero.clone(), one.clone()]).unwrap();
    assert_eq!((utxos.hash, utxos.height.get()), (builder.tip(), 4));
    assert_eq!(utxos.utxos.len(), 4);
    assert!(utxos.utxos.iter().all(|utxo| utxo.coinbase == (utxo.address == zero)));
    assert_eq!(utxos.utxos.iter().map(|utxo| utxo.satoshis).sum::<u64>(), 2_000_000_000);
    let paid = utxos.utxos.iter().find(|utxo| utxo.address == one).unwrap();
    assert_eq!((paid.txid, paid.output_index, paid.confirmations), (payment.txid(), 0, 1));
    assert_eq!(node.ask("getaddressutxos", json!([one]))[0]["satoshis"], 400_000_000);

    let coinbase = |height: usize| json!(builder.blocks[height].coinbase.txid());
    let txids = |params: Value| node.ask("getaddresstxids", json!([params]));
    let all = json!([coinbase(1), coinbase(2), coinbase(3), coinbase(4), payment.txid()]);
    assert_eq!(txids(json!(zero)), all);
    assert_eq!(txids(json!({"addresses": [one, zero]})), all);
    assert_eq!(txids(json!({"addresses": [zero], "start": 2, "end": 3})), json!([coinbase(2), coinbase(3)]));
    assert_eq!(txids(json!({"addresses": [node.text(9)]})), json!([]));

    let raw = node.ask("getrawtransaction", json!([payment.txid(), 1]));
    assert_eq!((&raw["confirmations"], &raw["blockhash"]), (&json!(1), &json!(builder.tip())));
    assert_eq!(node.ask("getrawtransaction", json!([payment.txid()])), hex::encode(encode(&payment)));
    let genesis = &node.network.genesis().coinbase;
    assert_eq!(node.ask("getrawtransaction", json!([genesis.txid()])), hex::encode(encode(genesis)));
    assert_eq!(node.ask("getrawtransaction", json!([payment.txid(), 2]))["vin"][0]["prevout"]["generated"], true);
    assert_eq!(node.refused("getrawtransaction", json!(["00".repeat(32)])).0, -5);
    assert_eq!(node.refused("getrawtransaction", json!([payment.txid(), 1, "00".repeat(32)])).0, -5);
    assert_eq!(node.refused("getrawtransaction", json!([payment.txid(), 1, builder.blocks[1].hash()])).0, -5);
    let proof = node.ask("gettxoutproof", json!([[payment.txid()]]));
    assert_eq!(node.ask("verifytxoutproof", json!([proof])), json!([payment.txid()]));
    assert_eq!(node.refused("gettxoutproof", json!([["00".repeat(32)]])).0, -5);

    let coin = fives(&builder)[0];
    let waiting =
        builder.spend(&[coin], &[(testing::address(1), testing::coins(3)), (testing::address(0), testing::coins(1))]);
    node.mempool.submit(waiting.clone()).unwrap();
    let deltas = node.client().get_address_mempool(&[zero, one]).unwrap();
    let moved: Vec<(i64, u32)> = deltas.iter().map(|delta| (delta.satoshis, delta.index)).collect();
    assert_eq!(moved, [(-500_000_000, 0), (100_000_000, 1), (300_000_000, 0)]);
    assert_eq!((deltas[0].prevtxid, deltas[0].prevout), (Some(coin.0.txid), Some(coin.0.index)));

    let bad = [
        (json!("nonsense"), -5),
        (json!({"addresses": ["nonsense"]}), -5),
        (json!({"addresses": [7]}), -3),
        (json!({"addresses": "x"}), -8),
        (json!({}), -8),
        (json!({"addresses": vec![node.text(0); 1_001]}), -8),
        (json!({"addresses": [node.text(0)], "start": 3, "end": 2}), -8),
        (json!({"addresses": [node.text(0)], "start": -1}), -8),
    ];
    for (params, code) in bad {
        assert_eq!(node.refused("getaddresstxids", json!([params])).0, code, "{params:.100}");
    }
    // By name, and as a plain list by position; what else there is then has a parameter of its own.
    let zero = node.text(0);
    let ask = |method: &str, params: Value| node.ask(method, params);
    for params in [json!({"addresses": [zero]}), json!([[zero]]), json!({"addresses": {"addresses": [zero]}})] {
        assert_eq!(ask("getaddressbalance", params.clone())["received"], 2_100_000_000, "{params}");
        assert_eq!(ask("getaddressutxos", params.clone()).as_array().map(Vec::len), Some(3), "{params}");
        assert_eq!(ask("getaddresstxids", params.clone()), all, "{params}");
        assert_eq!(ask("getaddressmempool", params.clone()).as_array().map(Vec::len), Some(2), "{params}");
    }
    for params in [json!({"addresses": [zero], "start": 2, "end": 3}), json!([[zero], 2, 3]), json!([zero, 2, 3])] {
        assert_eq!(ask("getaddresstxids", params.clone()), json!([coinbase(2), coinbase(3)]), "{params}");
    }
    assert_eq!(ask("getaddressutxos", json!({"addresses": [zero], "chainInfo": true}))["height"], 4);
    assert_eq!(node.refused("getaddressbalance", json!([vec![zero.clone(); 1_001]])).0, -8);
    assert_eq!(node.refused("getaddressbalance", json!({"addresses": [7]})).0, -3);
    assert_eq!(node.refused("getaddressbalance", json!({"addresses": [zero], "start": 2})).0, -8);
    let info = node.ask("getindexinfo", json!([]));
    assert_eq!(info["txindex"], json!({"synced": true, "best_block_height": 4}));
    assert_eq!(node.ask("getindexinfo", json!(["addressindex"])).as_object().unwrap().len(), 1);
}

#[test]
fn rpc_a_node_without_indexes_says_so() {
    let node = TestNode::start(Setup { index: false, ..Setup::default() });
    assert_eq!(node.ask("getindexinfo", json!([])), json!({}));
    let (code, message) = node.refused("getaddressbalance", json!([node.text(0)]));
    assert!(code == -1 && message.contains("no index"), "{message}");
    assert_eq!(node.refused("getrawtransaction", json!(["00".repeat(32)])).0, -1);
}
