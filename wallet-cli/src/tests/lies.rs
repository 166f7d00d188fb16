//! WK11: a node lies in each field, alone and in concert. The wallet may fail; it may never believe in money that is
//! not there, nor print a node's words raw, nor stop working.

use super::mock::{Reply, mine_header};
use super::{Fixture, STRANGER, coins};
use crate::error::WalletError;
use crate::keystore::Chain;
use crate::proof;
use crate::sync::Balance;
use serde_json::{Value, json};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::Header;
use setara_core::codec::encode;
use setara_core::hash::{Hash256, TxId};
use setara_core::height::Height;
use setara_core::merkle;
use setara_core::network::{Difficulty, Network, Parameters};
use setara_core::pow::CompactBits;
use setara_core::transaction::{Coinbase, Input, OutPoint, Output, Transaction, Witness};
use std::sync::{Arc, Mutex};

/// Two mature coinbases, an immature one, a confirmed and an unconfirmed payment from a stranger.
fn fixture() -> (Fixture, Balance) {
    let mut fixture = Fixture::with_coins(2);
    let (confirmed, unconfirmed, mined) = (fixture.fresh(), fixture.fresh(), fixture.fresh());
    pay_from_nowhere(&fixture, 1, coins(3), confirmed);
    fixture.mock.mine(mined);
    pay_from_nowhere(&fixture, 2, coins(2), unconfirmed);
    let balance = fixture.balance();
    assert_eq!(balance.confirmed.sen(), coins(13));
    assert_eq!(balance.immature.sen(), coins(5));
    assert_eq!(balance.pending.sen(), coins(2));
    (fixture, balance)
}

/// An unconfirmed payment; the mock's chain does not care where its coins come from.
fn pay_from_nowhere(fixture: &Fixture, number: u8, sen: u64, address: Address) {
    let mut ledger = fixture.mock.ledger.lock().unwrap();
    let outpoint = OutPoint::new(TxId::from_bytes([number; 32]), 0);
    ledger.mempool.push(Transaction {
        inputs: vec![Input { outpoint, amount: Amount::from_sen(sen) }],
        outputs: vec![
            Output { amount: Amount::from_sen(1), address: STRANGER },
            Output { amount: Amount::from_sen(sen), address },
        ],
        valid_from: 0,
        memo: vec![],
        witnesses: vec![Witness {
            policy: setara_core::policy::SpendPolicy::After(1),
            signatures: vec![],
            preimages: vec![],
            future: vec![],
        }],
    });
}

/// Replaces the honest result of `method`.
fn on(
    method: &'static str,
    mut change: impl FnMut(&mut Value) + Send + 'static,
) -> impl FnMut(&str, &Value, Reply) -> Reply + Send {
    move |called, _, reply| match reply {
        Reply::Result(mut value) if called == method => {
            change(&mut value);
            Reply::Result(value)
        }
        reply => reply,
    }
}

fn refused(fixture: &mut Fixture, code: &str) -> String {
    let error = fixture.look().and_then(|view| view.balance()).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    error.to_string()
}

#[test]
fn another_network_is_refused() {
    let (mut fixture, _) = fixture();
    let other = json!(Network::test().genesis_hash());
    let lie = other.clone();
    fixture.mock.lie(on("getblockchaininfo", move |info| info["network"]["genesis_hash"] = lie.clone()));
    assert!(refused(&mut fixture, "wrong-network").contains("dev"));
    fixture.mock.lie(move |method, params, reply| match (method, params[0].as_u64()) {
        ("getblockhash", Some(0)) => Reply::Result(other.clone()),
        _ => reply,
    });
    refused(&mut fixture, "wrong-network");
}

/// What the node says of amounts, heights and flags of coins is not even looked at.
#[test]
fn claims_about_coins_change_nothing() {
    let (mut fixture, honest) = fixture();
    for (field, lie) in [
        ("satoshis", json!(coins(1_000_000))),
        ("height", json!(1)),
        ("coinbase", json!(false)),
        ("confirmations", json!(1_000)),
        ("script", json!("00")),
        ("address", json!("dset1nonsense")),
    ] {
        let lie_here = lie.clone();
        fixture.mock.lie(on("getaddressutxos", move |answer| {
            for utxo in answer["utxos"].as_array_mut().unwrap() {
                utxo[field] = lie_here.clone();
            }
        }));
        assert_eq!(fixture.balance(), honest, "{field}: {lie}");
    }
    // A coin named twice is one coin.
    fixture.mock.lie(on("getaddressutxos", |answer| {
        let utxos = answer["utxos"].as_array_mut().unwrap();
        utxos.extend(utxos.clone());
    }));
    assert_eq!(fixture.balance(), honest);
}

#[test]
fn coins_that_are_not_there_are_refused() {
    let (mut fixture, _) = fixture();
    let utxo = |change: fn(&mut Value)| on("getaddressutxos", move |answer| change(&mut answer["utxos"][0]));
    fixture.mock.lie(utxo(|utxo| utxo["txid"] = json!(TxId::from_bytes([9; 32]))));
    assert!(refused(&mut fixture, "node-untrusted").contains("cannot prove"));
    fixture.mock.lie(utxo(|utxo| utxo["outputIndex"] = json!(7)));
    assert!(refused(&mut fixture, "node-untrusted").contains("does not make"));
    // The coin of someone else.
    let strangers = json!(fixture.mock.ledger.lock().unwrap().blocks[50].coinbase.txid());
    fixture.mock.lie(on("getaddressutxos", move |answer| answer["utxos"][0]["txid"] = strangers.clone()));
    assert!(refused(&mut fixture, "node-untrusted").contains("not for this wallet"));
    // An unconfirmed payment sold as a coin.
    let pending = json!(fixture.mock.ledger.lock().unwrap().mempool[0].txid());
    fixture.mock.lie(on("getaddressutxos", move |answer| {
        answer["utxos"][0]["txid"] = pending.clone();
        answer["utxos"][0]["outputIndex"] = json!(1);
    }));
    assert!(refused(&mut fixture, "node-untrusted").contains("cannot prove"));
}

#[test]
fn transactions_that_are_not_what_they_are_called_are_refused() {
    let (mut fixture, _) = fixture();
    let hex_of = |change: fn(&str) -> String| {
        on("getrawtransaction", move |answer| {
            answer["hex"] = json!(change(answer["hex"].as_str().unwrap()));
        })
    };
    // One digit changed: an amount, an address, anything.
    fixture.mock.lie(hex_of(|hex| hex.replacen('1', "2", 1)));
    refused(&mut fixture, "node-untrusted");
    for garbage in ["", "zz", "00", "ff", "0"] {
        fixture.mock.lie(on("getrawtransaction", move |answer| answer["hex"] = json!(garbage)));
        refused(&mut fixture, "node-untrusted");
    }
    fixture.mock.lie(on("getrawtransaction", |answer| answer["confirmations"] = json!(0)));
    refused(&mut fixture, "node-untrusted");
    let other_block = json!(fixture.mock.ledger.lock().unwrap().blocks[60].hash());
    fixture.mock.lie(on("getrawtransaction", move |answer| answer["blockhash"] = other_block.clone()));
    let error = fixture.look().map(|_| ()).unwrap_err();
    assert!(matches!(error, WalletError::Node { .. } | WalletError::Untrusted(_)), "{error}");
}

#[test]
fn headers_without_work_or_out_of_line_are_refused() {
    let (mut fixture, _) = fixture();
    type Change = fn(&mut Header);
    let lies: [(Change, &str); 4] = [
        (
            |header| {
                let target = header.bits.to_target().unwrap();
                while target.is_met_by(header.hash()) {
                    header.nonce += 1;
                }
            },
            "lacks its work",
        ),
        (
            |header| {
                header.previous = setara_core::hash::BlockHash::from_bytes([1; 32]);
                mine_header(header);
            },
            "does not stand on",
        ),
        (
            |header| {
                header.bits = CompactBits::new(0x2100_ffff);
                mine_header(header);
            },
            "lacks its work",
        ),
        (
            |header| {
                header.bits = CompactBits::new(0x2070_0000);
                mine_header(header);
            },
            "states difficulty",
        ),
    ];
    for (change, words) in lies {
        // A lying node is consistent: the hash at that height is that of the false header.
        let truth = fixture.mock.ledger.lock().unwrap().blocks[2].header;
        let mut header = truth;
        change(&mut header);
        let (hash, hex) = (json!(header.hash()), json!(hex::encode(header.to_bytes())));
        fixture.mock.lie(move |method, params, reply| match method {
            "getblockhash" if params[0] == json!(2) => Reply::Result(hash.clone()),
            "getblockheader" if params[0] == hash && params[1] == json!(false) => Reply::Result(hex.clone()),
            _ => reply,
        });
        let error = refused(&mut fixture, "node-untrusted");
        assert!(error.contains(words), "{words}: {error}");
    }
    fixture.mock.lie(|method, params, reply| match method {
        "getblockheader" if params[1] == json!(false) => Reply::Result(json!("00".repeat(80))),
        _ => reply,
    });
    refused(&mut fixture, "node-untrusted");
    fixture.mock.lie(on("getblockheader", |answer| {
        if answer.is_object() {
            answer["height"] = json!(answer["height"].as_u64().unwrap() + 1);
        }
    }));
    refused(&mut fixture, "node-untrusted");
}

#[test]
fn false_proofs_are_refused() {
    let (mut fixture, _) = fixture();
    // The proof of another transaction of the same block, of another block, and none.
    let ledger = Arc::clone(&fixture.mock.ledger);
    let block = {
        let ledger = ledger.lock().unwrap();
        let found = ledger.blocks.iter().find(|block| block.transactions.len() == 1).unwrap();
        found.clone()
    };
    let leaves = [block.coinbase.wtxid(), block.transactions[0].wtxid()];
    for wanted in [vec![], vec![0], vec![1], vec![0, 1]] {
        let other = json!(hex::encode(proof::build(&block.header, &leaves, &wanted)));
        fixture.mock.lie(on("gettxoutproof", move |answer| *answer = other.clone()));
        refused(&mut fixture, "node-untrusted");
    }
    for garbage in [json!(""), json!("00"), json!("zz"), json!("00".repeat(200))] {
        fixture.mock.lie(on("gettxoutproof", move |answer| *answer = garbage.clone()));
        refused(&mut fixture, "node-untrusted");
    }
}

/// A payment out of thin air, presented without a contradiction: transaction, block, header, proof. What is missing
/// is work.
#[test]
fn an_invented_payment_needs_real_work() {
    let (mut fixture, honest) = fixture();
    let victim = fixture.fresh();
    let tip = fixture.mock.ledger.lock().unwrap().tip();
    let height = tip + 1;
    let previous = fixture.mock.ledger.lock().unwrap().blocks.last().unwrap().header;
    let coinbase = Coinbase {
        height: Height::new(height),
        coins_root: Hash256::ZERO,
        outputs: vec![Output { amount: Amount::from_sen(coins(1_000)), address: victim }],
        extra: vec![],
    };
    let target = previous.bits.to_target().unwrap();
    let mut header = Header {
        version: 0,
        previous: previous.hash(),
        merkle_root: merkle::root(&[coinbase.wtxid()]).root,
        time: previous.time + 1,
        bits: previous.bits,
        nonce: 0,
    };
    while target.is_met_by(header.hash()) {
        header.nonce += 1;
    }
    let text = victim.to_text(&fixture.wallet.network().prefix);
    let present = |header: Header| {
        let (hash, txid) = (json!(header.hash()), json!(coinbase.txid()));
        let bytes = hex::encode(encode(&coinbase));
        let proof = hex::encode(proof::build(&header, &[coinbase.wtxid()], &[0]));
        let text = text.clone();
        move |method: &str, params: &Value, reply: Reply| {
            let mut value = match reply {
                Reply::Result(value) => value,
                _ => Value::Null,
            };
            match method {
                "getblockchaininfo" => {
                    value["blocks"] = json!(height);
                    value["bestblockhash"] = hash.clone();
                }
                "getblockhash" if params[0] == json!(height) => value = hash.clone(),
                "getblockheader" if params[0] == hash && params[1] == json!(false) => {
                    value = json!(hex::encode(header.to_bytes()));
                }
                "getblockheader" if params[0] == hash => {
                    value = json!({
                        "hash": hash, "confirmations": 1, "height": height, "version": 0, "versionHex": "",
                        "merkleroot": header.merkle_root, "time": 0, "mediantime": 0, "nonce": 0, "bits": "",
                        "target": "", "difficulty": 1, "chainwork": "", "nTx": 1,
                    });
                }
                "getaddressutxos" => {
                    value["hash"] = hash.clone();
                    value["height"] = json!(height);
                    value["utxos"].as_array_mut().unwrap().push(json!({
                        "address": text, "txid": txid, "outputIndex": 0, "script": "", "satoshis": coins(1_000),
                        "height": height, "coinbase": true, "confirmations": 1,
                    }));
                }
                "getrawtransaction" if params[0] == txid => {
                    value = json!({
                        "txid": txid, "hash": txid, "hex": bytes, "blockhash": hash, "confirmations": 1,
                        "blocktime": 0,
                    });
                }
                "gettxoutproof" if params[1] == hash => value = json!(proof),
                _ => {}
            }
            Reply::Result(value)
        }
    };
    fixture.mock.lie(present(header));
    assert!(refused(&mut fixture, "node-untrusted").contains("lacks its work"));
    // With the work the same story is simply true: the checks above refuse nothing honest.
    mine_header(&mut header);
    fixture.mock.lie(present(header));
    let balance = fixture.balance();
    assert_eq!(balance.immature.sen(), honest.immature.sen() + coins(1_000));
    assert_eq!(balance.confirmed, honest.confirmed);
}

/// On a network whose difficulty moves, a header must state exactly what its height and parent require.
#[test]
fn difficulty_is_checked_where_it_moves() {
    let mut parameters = Parameters::from_json(&Network::dev().to_json()).unwrap();
    parameters.name = "moving".into();
    parameters.difficulty = Difficulty::Asert { half_life: 24 };
    parameters.max_future_seconds = 1;
    parameters.genesis_time = 1_700_000_000;
    let mut header = parameters.genesis_block().header;
    mine_header(&mut header);
    parameters.genesis_nonce = header.nonce;
    let network = Network::new(parameters).unwrap();
    let mut fixture = Fixture::new(network);
    let address = fixture.fresh();
    fixture.mock.mine_many(address, 120);
    let balance = fixture.balance();
    assert_eq!(balance.confirmed.sen() + balance.immature.sen(), coins(600));
    // The same header at the easiest target: easier than required unless the schedule says so.
    let ledger = Arc::clone(&fixture.mock.ledger);
    let truth = ledger.lock().unwrap().blocks[60].header;
    let mut easy = truth;
    easy.bits = CompactBits::new(truth.bits.get() - 0x1_0000);
    mine_header(&mut easy);
    let (hash, hex) = (json!(easy.hash()), json!(hex::encode(easy.to_bytes())));
    fixture.mock.lie(move |method, params, reply| match method {
        "getblockhash" if params[0] == json!(60) => Reply::Result(hash.clone()),
        "getblockheader" if params[0] == hash && params[1] == json!(false) => Reply::Result(hex.clone()),
        _ => reply,
    });
    assert!(refused(&mut fixture, "node-untrusted").contains("states difficulty"));
}

/// A block that comes between the questions for coins and for the mempool takes its payments out of both answers.
#[test]
fn a_view_is_of_one_tip() {
    let (mut fixture, _) = fixture();
    for (patience, number, total) in [(0, 3, None), (10, 4, Some(18))] {
        let ledger = Arc::clone(&fixture.mock.ledger);
        let mut moved = false;
        fixture.mock.lie(move |method, _, reply| {
            if method == "getaddressutxos" && !std::mem::replace(&mut moved, true) {
                let mut ledger = ledger.lock().unwrap();
                let transactions = std::mem::take(&mut ledger.mempool);
                ledger.mine(STRANGER, transactions);
            }
            reply
        });
        let node = fixture.mock.node().with_patience(std::time::Duration::from_secs(patience));
        match (crate::sync::look(&mut fixture.wallet, &node), total) {
            (Ok(view), Some(total)) => assert_eq!(view.balance().unwrap().confirmed.sen(), coins(total)),
            (Err(error), None) => assert_eq!(error.code(), "chain-moving"),
            (other, _) => panic!("patience {patience}: {:?}", other.map(|view| view.balance())),
        }
        let address = fixture.fresh();
        pay_from_nowhere(&fixture, number, coins(3), address);
    }
}

/// What is not in a block is never called confirmed, whatever is said of it.
#[test]
fn unconfirmed_money_stays_pending() {
    let (mut fixture, honest) = fixture();
    fixture.mock.lie(on("getaddressmempool", |deltas| {
        for delta in deltas.as_array_mut().unwrap() {
            delta["satoshis"] = json!(coins(9_999));
        }
    }));
    assert_eq!(fixture.balance(), honest, "amounts come from the transaction's bytes");
    fixture.mock.lie(on("getrawtransaction", |answer| {
        if answer["blockhash"].is_null() {
            answer["hex"] = json!("01");
        }
    }));
    refused(&mut fixture, "node-untrusted");
    // Confirmed in words, with a block that does not hold it.
    let block = json!(fixture.mock.ledger.lock().unwrap().blocks[70].hash());
    let pending = json!(fixture.mock.ledger.lock().unwrap().mempool[0].txid());
    fixture.mock.lie(move |method, params, reply| match (method, reply) {
        ("getrawtransaction", Reply::Result(mut value)) if params[0] == pending => {
            value["blockhash"] = block.clone();
            value["confirmations"] = json!(50);
            Reply::Result(value)
        }
        (_, reply) => reply,
    });
    let error = fixture.look().map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "chain-moving", "{error}");
}

#[test]
fn fees_that_a_node_dictates_need_the_users_word() {
    let mut fixture = Fixture::with_coins(1);
    let node = fixture.mock.node();
    for rate in ["0.5", "89999999", "0.02"] {
        let number: Value = serde_json::from_str(rate).unwrap();
        fixture.mock.lie(on("estimatesmartfee", move |answer| answer["feerate"] = number.clone()));
        let error = crate::spend::fee_rate(&node, crate::spend::Fee::Target(6)).unwrap_err();
        assert_eq!(error.code(), "fee-too-high");
    }
    fixture.mock.lie(on("getmempoolinfo", |answer| answer["mempoolminfee"] = json!(3)));
    assert!(crate::spend::fee_rate(&node, crate::spend::Fee::Target(6)).is_err());
    fixture.mock.lie(on("estimatesmartfee", |answer| answer["feerate"] = json!(-1)));
    assert_eq!(crate::spend::fee_rate(&node, crate::spend::Fee::Target(6)).unwrap_err().code(), "node-untrusted");
    fixture.mock.be_honest();
    assert_eq!(crate::spend::fee_rate(&node, crate::spend::Fee::Target(6)).unwrap().0, 2_000);
    // And whoever names a rate is held to the cap.
    let mut order = fixture.order(STRANGER, coins(1));
    order.fee = crate::spend::Fee::Rate(9_000_000);
    order.fee_max = Amount::from_sen(100_000);
    let view = fixture.look().unwrap();
    let draft = crate::spend::draft(&fixture.wallet, &node, &view, &order, &mut crate::random::OsEntropy);
    assert_eq!(draft.unwrap_err().code(), "fee-too-high");
}

/// A node's words in every error that it can cause.
#[test]
fn hostile_words_never_reach_the_terminal_raw() {
    let (mut fixture, _) = fixture();
    let words = "\x1b[31mYour wallet is outdated!\r\n Get it at http://example.invalid \u{202e}";
    let harmless = |text: &str| assert!(!text.contains(['\x1b', '\r', '\n', '\u{202e}']), "{text:?}");
    for method in ["getblockchaininfo", "getblockhash", "getaddressutxos", "getrawtransaction", "getaddressmempool"] {
        for code in [-1, -5, -8, -26, -32601, 0, i64::MAX] {
            fixture.mock.lie(
                move |called, _, reply| {
                    if called == method { Reply::Error(code, words.into()) } else { reply }
                },
            );
            if let Err(error) = fixture.look() {
                harmless(&error.to_string());
            }
        }
        fixture.mock.lie(on(method, move |answer| *answer = json!(words)));
        harmless(&fixture.look().map(|_| ()).unwrap_err().to_string());
    }
    fixture.mock.lie(on("getblockchaininfo", move |info| {
        info["network"]["name"] = json!(words);
        info["network"]["genesis_hash"] = json!(Network::test().genesis_hash());
    }));
    harmless(&fixture.look().map(|_| ()).unwrap_err().to_string());
    harmless(&crate::network::announced(words, Network::test().genesis_hash()).unwrap_err().to_string());
    fixture.mock.lie(move |method, _, reply| match method {
        "sendrawtransaction" => Reply::Error(-26, words.into()),
        _ => reply,
    });
    harmless(&fixture.send(STRANGER, coins(1), None).unwrap_err().to_string());
    fixture.mock.lie(on("testmempoolaccept", move |answer| {
        answer[0]["allowed"] = json!(false);
        answer[0]["reject-details"] = json!(words);
    }));
    harmless(&fixture.send(STRANGER, coins(1), None).unwrap_err().to_string());
}

/// Every field of every answer, replaced by every kind of nonsense: the wallet never panics, and never believes in
/// more confirmed money than there is.
#[test]
fn no_single_false_field_creates_money() {
    let (mut fixture, honest) = fixture();
    let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let recorder = Arc::clone(&seen);
    fixture.mock.lie(move |method, _, reply| {
        if let Reply::Result(value) = &reply {
            recorder.lock().unwrap().push((method.to_owned(), value.clone()));
        }
        reply
    });
    fixture.history().unwrap();
    let mut fields: Vec<(String, String)> = Vec::new();
    for (method, value) in seen.lock().unwrap().iter() {
        let mut paths = Vec::new();
        collect_paths(value, String::new(), &mut paths);
        fields.extend(paths.into_iter().map(|path| (method.clone(), path)));
    }
    fields.sort();
    fields.dedup();
    assert!(fields.len() > 40, "{fields:?}");
    let nonsense = [
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("00"),
        json!("ff".repeat(32)),
        json!([]),
        json!({}),
        json!(true),
    ];
    for (method, path) in fields {
        for lie in &nonsense {
            let (method_here, path_here, lie_here) = (method.clone(), path.clone(), lie.clone());
            fixture.mock.lie(move |called, _, reply| match reply {
                Reply::Result(mut value) if called == method_here => {
                    if path_here.is_empty() {
                        value = lie_here.clone();
                    } else if let Some(field) = value.pointer_mut(&path_here) {
                        *field = lie_here.clone();
                    }
                    Reply::Result(value)
                }
                reply => reply,
            });
            if let Ok(view) = fixture.look() {
                let balance = view.balance().unwrap();
                assert!(balance.confirmed <= honest.confirmed, "{method}{path} = {lie}");
                assert!(balance.immature <= honest.immature, "{method}{path} = {lie}");
            }
            let _ = fixture.history();
        }
    }
    fixture.mock.be_honest();
    assert_eq!(fixture.balance(), honest, "no lie left a trace");
    assert!(fixture.wallet.state.next_change <= 1, "{:?}", fixture.address(Chain::Change, 0));
}

fn collect_paths(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| collect_paths(value, format!("{path}/{name}"), paths));
        }
        Value::Array(items) => {
            items.iter().take(1).for_each(|value| collect_paths(value, format!("{path}/0"), paths));
        }
        _ => {}
    }
    paths.push(path);
}
