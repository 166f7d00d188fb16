//! RW7: readers during a storm of reorganisations. Each answer is true of one tip, never of two.

use super::{Setup, TestNode};
use crate::testing::{self, ChainBuilder};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Reorganisations in the storm.
const REORGANISATIONS: u32 = 40;

/// What is true at one tip.
struct Truth {
    height: u32,
    coins: usize,
    total: String,
}

/// RW7.
#[test]
fn rpc_answers_are_of_one_tip_in_a_storm_of_reorganisations() {
    let node = TestNode::start(Setup::default());
    let mut trunk = ChainBuilder::new(&node.network);
    trunk.mine_empty(3);
    let mut truths = HashMap::new();
    let mut note = |builder: &ChainBuilder| {
        let total: u64 = builder.coins.values().map(|coin| coin.output.amount.sen()).sum();
        let total = setara_core::amount::Amount::from_sen(total).to_string();
        truths.insert(builder.tip().to_string(), Truth { height: builder.height(), coins: builder.coins.len(), total });
    };
    // Two branches that overtake each other, block by block, with different coins.
    let mut branches = [trunk.clone(), trunk.clone()];
    let mut blocks = Vec::new();
    let mut replay = ChainBuilder::new(&node.network);
    note(&replay);
    for block in trunk.blocks.iter().skip(1) {
        replay.apply(block).unwrap();
        note(&replay);
        blocks.push(block.clone());
    }
    for round in 0..REORGANISATIONS {
        let number = round as usize % 2;
        let branch = &mut branches[number];
        branch.extra = vec![u8::try_from(number).unwrap()];
        // One block ahead after the first round, and from then on two at a time: each round overtakes the other branch.
        for step in 0..if round == 0 { 1 } else { 2 } {
            let coin = *branch.spendable().iter().max_by_key(|(_, coin)| coin.output.amount).unwrap();
            let outputs: Vec<_> = (0..=number + step).map(|_| (testing::address(5), testing::coins(1))).collect();
            let payment = branch.spend(&[coin], &outputs);
            blocks.push(branch.mine(vec![payment]));
            note(branch);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while !done.load(Ordering::Relaxed) || rounds == 0 {
                        read(&node, &truths);
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for block in &blocks {
            node.chain.submit(block.clone()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let rounds: u32 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(rounds > 0);
    });
    let info = node.ask("getblockchaininfo", json!([]));
    assert_eq!(info["bestblockhash"], blocks.last().unwrap().hash().to_string());
}

fn read(node: &TestNode, truths: &HashMap<String, Truth>) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let info = node.ask("getblockchaininfo", json!([]));
    let truth = &truths[&text(&info["bestblockhash"])];
    assert_eq!(info["blocks"], truth.height);
    let header = node.ask("getblockheader", json!([info["bestblockhash"]]));
    for field in ["time", "mediantime", "chainwork", "difficulty", "bits"] {
        assert_eq!(header[field], info[field], "{field}");
    }
    // Off the active chain a block has neither a child nor confirmations there; on it, the tip alone has no child.
    let confirmations = header["confirmations"].as_i64().unwrap();
    assert_eq!(header.get("nextblockhash").is_some(), confirmations > 1, "{header}");

    let set = node.ask("gettxoutsetinfo", json!([]));
    let truth = &truths[&text(&set["bestblock"])];
    assert_eq!((&set["height"], &set["txouts"]), (&json!(truth.height), &json!(truth.coins)));
    assert_eq!(set["total_amount"].to_string(), truth.total);

    let stats = node.ask("getchaintxstats", json!([]));
    assert_eq!(stats["window_final_block_height"], truths[&text(&stats["window_final_block_hash"])].height);
    let tips = node.ask("getchaintips", json!([]));
    let active: Vec<&Value> = tips.as_array().unwrap().iter().filter(|tip| tip["status"] == "active").collect();
    assert_eq!(active.len(), 1);
    assert_eq!(active[0]["height"], truths[&text(&active[0]["hash"])].height);
}
