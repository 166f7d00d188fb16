//! RW6: every method of the registry with odd values of every type, on a chain with side blocks. Nothing may panic, and
//! whatever succeeds has the shape that the registry says.

use super::{Setup, TestNode};
use crate::testing::{self, ChainBuilder};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use setara_api::client::ClientError;
use setara_api::registry;
use setara_core::codec::encode;

/// Rounds for each method; the seed is fixed, so that a failure repeats.
const ROUNDS: usize = 250;
const SEED: u64 = 0x5e7a7a;

/// A node with a side branch, a payment in the chain and one in the mempool; and the values that mean something to it.
fn node() -> (TestNode, Vec<Value>) {
    let node = TestNode::start(Setup::default());
    let mut builder = ChainBuilder::new(&node.network);
    builder.mine_empty(3);
    let mut fork = builder.clone();
    fork.extra = vec![7];
    let coins = builder.spendable();
    let payment = builder.spend(&[coins[0]], &[(testing::address(1), testing::coins(4))]);
    builder.mine(vec![payment.clone()]);
    builder.mine_empty(2);
    for block in builder.blocks.iter().skip(1) {
        node.chain.submit(block.clone()).unwrap();
    }
    let side = fork.mine(Vec::new());
    node.chain.submit(side.clone()).unwrap();
    let waiting = builder.spend(&[coins[1]], &[(testing::address(2), testing::coins(4))]);
    node.mempool.submit(waiting.clone()).unwrap();
    let hashes = [
        node.network.genesis_hash().to_string(),
        builder.tip().to_string(),
        side.hash().to_string(),
        payment.txid().to_string(),
        waiting.txid().to_string(),
        builder.blocks[1].coinbase.txid().to_string(),
        "00".repeat(32),
        "FF".repeat(32),
    ];
    let mut values: Vec<Value> = hashes.iter().map(|hash| json!(hash)).collect();
    values.extend([
        json!(hex::encode(encode(&waiting))),
        json!(hex::encode(encode(&side))),
        json!(hex::encode(encode(&builder.blocks[2].coinbase))),
        json!(hex::encode(encode(&testing::policy(3)))),
        json!(node.text(0)),
        json!(node.text(0).to_uppercase()),
        json!([payment.txid()]),
        json!([hex::encode(encode(&waiting))]),
        json!({"addresses": [node.text(0), node.text(1)], "chainInfo": true, "start": 0, "end": 99}),
        json!({"addresses": [node.text(0)], "start": -1, "end": i64::MIN}),
        json!([{"txid": payment.txid(), "vout": 0}]),
        json!({node.text(3): "0.5", "data": "00"}),
        json!({"mode": "proposal", "data": hex::encode(encode(&side))}),
    ]);
    (node, values)
}

/// Values that mean nothing anywhere.
fn odd_values() -> Vec<Value> {
    let texts = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "6",
        "1.5",
        "-0.0",
        "1e400",
        "-1e-400",
        "1e-9",
        "4294967295",
        "4294967296",
        "-4294967297",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "18446744073709551616",
        "\"\"",
        "\"0\"",
        "\"\\u0000\"",
        "\"é\"",
        "\"\\ud83d\\ude00\"",
        "\"true\"",
        "\"-1\"",
        "\"0x00\"",
        "\"00\"",
        "\"0\\n\"",
        "[]",
        "[null]",
        "[[]]",
        "[\"\"]",
        "[-1]",
        "[{}]",
        "{}",
        "{\"\":null}",
        "{\"addresses\":1}",
        "{\"addresses\":[]}",
        "{\"addresses\":[1]}",
        "{\"addresses\":\"x\"}",
        "{\"mode\":7}",
        "{\"data\":null}",
        "{\"longpollid\":7}",
        "[{\"txid\":\"\",\"vout\":-1}]",
        "[{\"a\":1,\"b\":2}]",
        "{\"data\":\"00\"}",
        "[{\"data\":7}]",
    ];
    let mut values: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    values.push(json!("é".repeat(32)));
    values.push(json!("ab".repeat(100_000)));
    values.push(json!(vec![json!([]); 1_000]));
    let mut deep = json!(0);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    values.push(deep);
    values
}

/// RW6.
#[test]
fn rpc_no_argument_makes_a_method_panic() {
    let (node, mut values) = node();
    values.extend(odd_values());
    let client = node.client();
    let mut random = SmallRng::seed_from_u64(SEED);
    let (mut answered, mut refused) = (0, 0);
    // `waitforblock` and its kin wait for ever if nobody says otherwise; they have a test of their own.
    let waits = |name: &str| name.starts_with("waitfor");
    for method in registry::methods().filter(|method| method.name != "stop" && !waits(method.name)) {
        for round in 0..ROUNDS {
            let params = match round % 5 {
                // By name, too; known and unknown.
                4 => {
                    let mut named = serde_json::Map::new();
                    for param in method.params {
                        if random.random_bool(0.7) {
                            named.insert(param.name.to_owned(), values.choose(&mut random).unwrap().clone());
                        }
                    }
                    if random.random_bool(0.2) {
                        named.insert("args".to_owned(), values.choose(&mut random).unwrap().clone());
                    }
                    Value::Object(named)
                }
                _ => {
                    let count = random.random_range(0..=method.params.len());
                    Value::Array((0..count).map(|_| values.choose(&mut random).unwrap().clone()).collect())
                }
            };
            let shown = || format!("seed {SEED:x}: {} {:.300}", method.name, params.to_string());
            match client.call(method.name, params.clone()) {
                Ok(result) => {
                    method.result.check(&result).unwrap_or_else(|error| panic!("{}: {error}", shown()));
                    answered += 1;
                }
                Err(ClientError::Rpc { code, message }) => {
                    assert_ne!(code, -32603, "{}: {message}", shown());
                    assert_ne!(code, -20, "{}: {message}", shown());
                    // A caller's own megabytes are not sent back.
                    assert!(message.len() < 8_192, "{}: {} bytes of message", shown(), message.len());
                    refused += 1;
                }
                Err(other) => panic!("{}: {other}", shown()),
            }
        }
    }
    assert!(answered > 500 && refused > 1_000, "{answered} answered, {refused} refused");
    assert!(node.chain.fault().is_none());
}

/// RW6. What waits, waits as long as it was told and no longer, and answers at once when there is nothing to wait for.
#[test]
fn rpc_waiting_ends_when_it_was_told() {
    let (node, _) = node();
    let client = node.client();
    let tip = client.call("getbestblockhash", json!([])).unwrap();
    let height = client.call("getblockcount", json!([])).unwrap();
    let other = "ab".repeat(32);
    for (method, params) in [
        ("waitfornewblock", json!([1])),
        ("waitfornewblock", json!([0, other])),
        ("waitforblock", json!([tip])),
        ("waitforblock", json!([other, 1])),
        ("waitforblockheight", json!([height])),
        ("waitforblockheight", json!([1_000_000, 1])),
        ("waitforblockheight", json!([-5])),
    ] {
        let answer = client.call(method, params.clone()).unwrap();
        assert_eq!(answer, json!({"hash": tip, "height": height}), "{method} {params}");
    }
    for (method, params) in [
        ("waitfornewblock", json!([-1])),
        ("waitforblock", json!(["xyz", 1])),
        ("waitforblock", json!([])),
        ("waitforblockheight", json!([1, -1])),
    ] {
        assert!(matches!(client.call(method, params.clone()), Err(ClientError::Rpc { .. })), "{method} {params}");
    }
}
