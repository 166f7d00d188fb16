//! Templates and blocks as miners use them.

use super::{Setup, TestNode, eventually};
use crate::config::RpcConfig;
use crate::testing::{self, ChainBuilder};
use serde_json::{Value, json};
use setara_core::block::{Block, Header, write_compact_size};
use setara_core::codec::{Writer, decode, encode};
use setara_core::hash::{Hash256, sha256d};

/// Does what a miner does that knows nothing of this chain: hashes the coinbase's bytes and the entries' `txid` fields
/// into a root, fills 80 bytes, counts nonces, and concatenates.
fn solve(template: &Value) -> String {
    let hash = |value: &Value| value.as_str().unwrap().parse::<Hash256>().unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    assert!(template["rules"].as_array().unwrap().contains(&json!("!segwit")));
    let coinbase = bytes(&template["coinbasetxn"]["data"]);
    assert!(coinbase.len() >= 60);
    let transactions = template["transactions"].as_array().unwrap();
    let mut level = vec![sha256d(&coinbase)];
    level.extend(transactions.iter().map(|entry| hash(&entry["txid"])));
    while level.len() > 1 {
        let pair = |pair: &[Hash256]| {
            let (left, right) = (pair[0], *pair.last().unwrap());
            sha256d(&[*left.as_bytes(), *right.as_bytes()].concat())
        };
        level = level.chunks(2).map(pair).collect();
    }
    let mut header = Header {
        version: number(&template["version"]),
        previous: template["previousblockhash"].as_str().unwrap().parse().unwrap(),
        merkle_root: level[0],
        time: number(&template["curtime"]),
        bits: setara_core::pow::CompactBits::new(u32::from_str_radix(template["bits"].as_str().unwrap(), 16).unwrap()),
        nonce: 0,
    };
    testing::mine_header(&mut header);
    // The target is stated big-endian, the hash printed reversed: as texts they compare.
    assert!(header.hash().to_string().as_str() <= template["target"].as_str().unwrap());
    let mut block = Writer::default();
    block.raw(&header.to_bytes());
    write_compact_size(&mut block, transactions.len() as u64 + 1);
    block.raw(&coinbase);
    for entry in transactions {
        block.raw(&bytes(&entry["data"]));
    }
    hex::encode(block.finish())
}

fn template_request() -> Value {
    json!([{"capabilities": ["coinbasetxn", "coinbasevalue", "longpoll", "workid"], "rules": ["segwit"]}])
}

#[test]
fn rpc_a_miner_that_only_knows_bitcoin_mines() {
    let node = TestNode::start(Setup::default());
    let mut builder = ChainBuilder::new(&node.network);
    for _ in 0..3 {
        let template = node.ask("getblocktemplate", template_request());
        let block = solve(&template);
        assert_eq!(node.ask("submitblock", json!([block])), Value::Null);
        assert_eq!(node.ask("submitblock", json!([block, {"workid": "x"}])), "duplicate");
        builder.apply(&decode(&hex::decode(&block).unwrap()).unwrap()).unwrap();
    }
    // With transactions, one spending the other.
    let coin = builder.spendable()[0];
    let parent =
        builder.spend(&[coin], &[(testing::address(1), testing::coins(2)), (testing::address(2), testing::coins(2))]);
    let parent_id = parent.txid();
    let made =
        setara_core::transaction::Coin { output: parent.outputs[0], height: testing::height(0), from_coinbase: false };
    let outpoint = setara_core::transaction::OutPoint::new(parent_id, 0);
    let child = builder.spend(&[(outpoint, made)], &[(testing::address(3), testing::coins(1))]);
    for transaction in [&parent, &child] {
        let hex = hex::encode(encode(transaction));
        assert_eq!(node.ask("sendrawtransaction", json!([hex, 0])), transaction.txid().to_string());
    }
    let template = node.ask("getblocktemplate", template_request());
    let entries = template["transactions"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!((&entries[0]["depends"], &entries[1]["depends"]), (&json!([]), &json!([1])));
    assert_eq!(entries[0]["id"], parent_id.to_string());
    assert_eq!(entries[0]["txid"], parent.wtxid().to_string());
    assert_eq!(template["coinbasevalue"], 5_0000_0000u64 + 1_0000_0000 + 1_0000_0000);
    assert_eq!(node.ask("submitblock", json!([solve(&template)])), Value::Null);
    assert_eq!(node.ask("getrawmempool", json!([])), json!([]));
    assert_eq!(node.ask("getblockcount", json!([])), 4);
}

#[test]
fn rpc_blocks_are_judged_in_bip_22_words() {
    let node = TestNode::start(Setup::default());
    let mut builder = ChainBuilder::new(&node.network);
    let mut fork = builder.clone();
    fork.extra = vec![1];
    let submit = |block: &Block| node.ask("submitblock", json!([hex::encode(encode(block))]));
    let (first, second) = (builder.mine(vec![]), builder.mine(vec![]));
    assert_eq!(submit(&second), "prev-blk-not-found");
    assert_eq!(submit(&first), Value::Null);
    assert_eq!(submit(&second), Value::Null);
    assert_eq!(submit(&fork.mine(vec![])), "inconclusive");
    let broken = |change: fn(&mut Block), sealed: bool| {
        let mut block = builder.build(vec![]);
        change(&mut block);
        if sealed { testing::seal(block) } else { block }
    };
    let overpaid = broken(|block| block.coinbase.outputs[0].amount = testing::coins(6), true);
    assert_eq!(submit(&overpaid), "bad-cb-amount");
    // While the reason is remembered it is given again.
    assert_eq!(submit(&overpaid), "bad-cb-amount");
    let mut after = builder.clone();
    after.extra = vec![9];
    let mut on_bad = after.build(vec![]);
    on_bad.header.previous = overpaid.hash();
    testing::mine_header(&mut on_bad.header);
    assert_eq!(submit(&on_bad), "bad-prevblk");
    assert_eq!(submit(&broken(|block| block.header.time = 1, true)), "time-too-old");
    assert_eq!(submit(&broken(|block| block.header.time = u32::MAX, true)), "time-too-new");
    assert_eq!(submit(&broken(|block| block.coinbase.extra.push(1), false)), "bad-txnmrklroot");
    let mut weak = builder.build(vec![]);
    let target = weak.header.bits.to_target().unwrap();
    while target.is_met_by(weak.hash()) {
        weak.header.nonce = weak.header.nonce.wrapping_add(1);
    }
    assert_eq!(submit(&weak), "high-hash");
    // Bytes that are no block are a word; only what is not even hex is an error.
    for hex in ["", "00", &"ff".repeat(200)] {
        assert_eq!(node.ask("submitblock", json!([hex])), "undecodable", "{hex}");
    }
    assert_eq!(node.refused("submitblock", json!(["xyz"])).0, -22);

    let propose =
        |block: &Block| node.ask("getblocktemplate", json!([{"mode": "proposal", "data": hex::encode(encode(block))}]));
    let mut proposal = builder.build(vec![]);
    proposal.header.nonce = weak.header.nonce;
    assert_eq!(propose(&proposal), Value::Null);
    assert_eq!(propose(&first), "duplicate");
    assert_eq!(propose(&fork.build(vec![])), "inconclusive-not-best-prevblk");
    let mut overpaid = builder.build(vec![]);
    overpaid.coinbase.outputs[0].amount = testing::coins(7);
    assert_eq!(propose(&testing::seal(overpaid)), "bad-cb-amount");
    let mut far = builder.build(vec![]);
    far.header.time = u32::MAX;
    assert_eq!(propose(&testing::seal(far)), "time-too-new");
    assert_eq!(node.refused("getblocktemplate", json!([{"mode": "proposal"}])).0, -3);
    assert_eq!(node.refused("getblocktemplate", json!([{"mode": "x"}])).0, -8);
    assert_eq!(node.refused("getblocktemplate", json!([{"longpollid": "é".repeat(40)}])).0, -8);
}

#[test]
fn rpc_long_polls_hold_no_worker_and_end_with_the_tip() {
    let rpc = RpcConfig { threads: 1, work_queue: 1, ..RpcConfig::loopback() };
    let node = TestNode::start(Setup { rpc, ..Setup::default() });
    let id = node.ask("getblocktemplate", json!([]))["longpollid"].clone();
    std::thread::scope(|scope| {
        let polls: Vec<_> =
            (0..20).map(|_| scope.spawn(|| node.ask("getblocktemplate", json!([{"longpollid": id}])))).collect();
        eventually("all are waiting", || {
            let active = node.ask("getrpcinfo", json!([]));
            let active = active["active_commands"].as_array().unwrap();
            active.iter().filter(|call| call["method"] == "getblocktemplate").count() == 20
        });
        // The only worker is free.
        assert!(node.ask("getdifficulty", json!([])).is_number());
        assert!(polls.iter().all(|poll| !poll.is_finished()));
        let tip = node.generate(1).remove(0);
        let mut answered = 0;
        for poll in polls {
            // With one place in the queue some are told that it is full; those who are answered see the new tip.
            if let Ok(template) = poll.join() {
                assert_eq!(template["previousblockhash"], tip);
                answered += 1;
            }
        }
        assert!(answered > 0);
    });
    // A stale id is answered at once.
    assert!(node.ask("getblocktemplate", json!([{"longpollid": id}])).is_object());
}

#[test]
fn rpc_a_node_without_an_address_gives_templates_without_a_coinbase() {
    let node = TestNode::start(Setup { mining_address: None, ..Setup::default() });
    let template = node.ask("getblocktemplate", template_request());
    assert!(template.get("coinbasetxn").is_none());
    assert_eq!(template["coinbasevalue"], 5_0000_0000u64);
    assert_eq!(template["coins_root"].as_str().unwrap().len(), 64);
    assert!(!template["mutable"].as_array().unwrap().contains(&json!("coinbase/append")));
}

#[test]
fn rpc_blocks_are_made_at_will() {
    let node = TestNode::start(Setup::default());
    let hashes = node.generate(3);
    assert_eq!(node.ask("getbestblockhash", json!([])), hashes[2].as_str());
    assert_eq!(node.ask("generatetoaddress", json!([0, node.text(0)])), json!([]));
    assert_eq!(node.ask("generatetoaddress", json!([-5, node.text(0)])), json!([]));
    assert_eq!(node.ask("generatetoaddress", json!([1, node.text(0), 0])), json!([]));
    assert_eq!(node.refused("generatetoaddress", json!([1, "nonsense"])).0, -5);
    assert_eq!(node.refused("generatetoaddress", json!([i64::MAX, node.text(0)])).0, -8);

    let mut builder = ChainBuilder::new(&node.network);
    for hash in &hashes {
        let body = node.ask("getblock", json!([hash, 0]));
        builder.apply(&decode(&hex::decode(body.as_str().unwrap()).unwrap()).unwrap()).unwrap();
    }
    let coin = builder.spendable()[0];
    let payment = builder.spend(&[coin], &[(testing::address(1), testing::coins(4))]);
    let hex = hex::encode(encode(&payment));
    let block = node.ask("generateblock", json!([node.text(0), [hex], false]));
    assert_eq!(node.ask("getblockcount", json!([])), 3);
    assert_eq!(node.ask("submitblock", json!([block["hex"]])), Value::Null);
    assert_eq!(node.ask("getbestblockhash", json!([])), block["hash"]);
    // A second time it is a double spend; an unknown id is none of the mempool's.
    assert_eq!(node.refused("generateblock", json!([node.text(0), [hex]])).0, -25);
    assert_eq!(node.refused("generateblock", json!([node.text(0), ["00".repeat(32)]])).0, -5);
    assert_eq!(node.refused("generateblock", json!([node.text(0), ["00"]])).0, -22);

    assert_eq!(node.ask("setmocktime", json!([4_000_000_000u32])), Value::Null);
    node.generate(1);
    let tip = node.ask("getblockchaininfo", json!([]));
    assert_eq!(tip["time"], 4_000_000_000u32);
    assert_eq!(node.ask("setmocktime", json!([0])), Value::Null);
    for time in [json!(-1), json!(1u64 << 40)] {
        assert_eq!(node.refused("setmocktime", json!([time])).0, -8);
    }
}
