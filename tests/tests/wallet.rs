//! The wallet's and the node's binaries together: money mined, paid, confirmed, reorganised, restored.

use serde_json::{Value, json};
use setara_core::amount::Amount;
use setara_tests::process::{NodeProcess, Setup, binary};
use setara_tests::wallet::Wallet;
use std::process::Command;
use tempfile::TempDir;

fn node() -> (TempDir, NodeProcess) {
    let directory = tempfile::tempdir().unwrap();
    let node = Setup::dev(directory.path().join("node")).start();
    (directory, node)
}

/// Mines to `address`; gives the blocks' hashes.
fn mine(node: &NodeProcess, count: u32, address: &str) -> Vec<String> {
    serde_json::from_value(node.call("generatetoaddress", json!([count, address]))).unwrap()
}

fn amount(text: &str) -> u64 {
    text.parse::<Amount>().unwrap().sen()
}

fn coins(sen: u64) -> String {
    Amount::from_sen(sen).to_string()
}

/// Mines `count` blocks to the wallet, and as many to nobody here as let them mature.
fn fund(node: &NodeProcess, address: &str, count: u32, bystander: &Wallet) {
    mine(node, count, address);
    mine(node, 100, &bystander.address());
}

/// WK9, WK10. The whole life of two wallets: what one pays the other receives, through a reorganisation, and both find
/// the same money again from their words alone.
#[test]
fn money_is_mined_paid_reorganised_and_restored() {
    let (directory, node) = node();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| Wallet::at(directory.path(), name, &node));
    let (alice_words, alice_address) = alice.create();
    let (bob_words, bob_address) = bob.create();
    carol.create();
    assert_eq!(alice.balance(), ["0.00000000"; 3].map(String::from));
    mine(&node, 1, &alice_address);
    assert_eq!(alice.balance()[2], "5.00000000", "a new reward is immature");
    fund(&node, &alice_address, 2, &carol);
    let confirmed = 3 * 500_000_000;
    assert_eq!(alice.balance(), [coins(confirmed), coins(0), coins(0)]);

    let (txid, fee) = alice.send(&bob_address, "2.5");
    let fee = amount(&fee);
    assert!(fee > 0 && fee < 10_000_000);
    assert_eq!(bob.balance(), ["0.00000000", "2.50000000", "0.00000000"].map(String::from));
    let [now, pending, _] = alice.balance();
    assert_eq!(amount(&now) + amount(&pending), confirmed - 250_000_000 - fee);
    let block = mine(&node, 1, &carol.address()).pop().unwrap();
    assert_eq!(bob.balance()[0], "2.50000000");
    assert_eq!(alice.balance(), [coins(confirmed - 250_000_000 - fee), coins(0), coins(0)]);

    // Both histories tell the same.
    let entry = |wallet: &Wallet| wallet.history().into_iter().find(|entry| entry["txid"] == txid.as_str()).unwrap();
    let (paid, received) = (entry(&alice), entry(&bob));
    assert_eq!((paid["amount"].as_str(), received["amount"].as_str()), (Some("-2.50000000"), Some("2.50000000")));
    assert_eq!((paid["fee"].as_str(), received["fee"].as_str()), (Some(&*coins(fee)), Some("0.00000000")));
    assert_eq!(paid["height"], received["height"]);
    assert_eq!(paid["height"], node.call("getblockcount", json!([])));

    // The block is reorganised away: the payment is on its way again, and confirms again.
    node.call("invalidateblock", json!([block]));
    assert_eq!(bob.balance(), ["0.00000000", "2.50000000", "0.00000000"].map(String::from));
    assert_eq!(entry(&alice)["height"], Value::Null);
    assert_eq!(entry(&alice)["state"], "pending");
    mine(&node, 2, &carol.address());
    assert_eq!(bob.balance()[0], "2.50000000");
    assert_eq!(alice.balance(), [coins(confirmed - 250_000_000 - fee), coins(0), coins(0)]);

    // From the words alone the same money is found, and can be spent.
    let restored_alice = Wallet::at(directory.path(), "alice-again", &node);
    let restored = restored_alice.restore(&alice_words, "");
    assert_eq!(restored["confirmed"], alice.balance()[0].as_str());
    assert_eq!(restored["addresses_found"], 2, "one for mining, one for change");
    assert_eq!(restored["height"], node.call("getblockcount", json!([])), "it holds up to there");
    let restored_bob = Wallet::at(directory.path(), "bob-again", &node);
    assert_eq!(restored_bob.restore(&bob_words, "--gap 5")["confirmed"], "2.50000000");
    assert_eq!(restored_alice.history(), alice.history());
    assert_ne!(restored_alice.address(), alice_address);
    restored_bob.send(&restored_alice.address(), "all");
    mine(&node, 1, &carol.address());
    assert_eq!(bob.balance(), ["0.00000000"; 3].map(String::from), "the first copy sees it too");
    assert_eq!(alice.balance(), restored_alice.balance());
}

/// WK9. A payment with a name is made once, whatever happens to the node meanwhile.
#[test]
fn a_named_payment_is_made_once() {
    let (directory, mut node) = node();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| Wallet::at(directory.path(), name, &node));
    let (_, address) = alice.create();
    let (_, to) = bob.create();
    carol.create();
    fund(&node, &address, 3, &carol);
    let dry = alice.json(&format!("send {to} 1 --dry-run"));
    assert_eq!(dry["dry_run"], true);
    assert_eq!(bob.balance()[1], "0.00000000");
    assert!(alice.history().iter().all(|entry| entry["txid"] != dry["txid"]));
    let line = format!("send {to} 1 --yes --send-id invoice-17");
    let first = alice.json(&line);
    assert_eq!(alice.json(&line)["txid"], first["txid"]);
    // The node dies without warning and forgets whatever it had not kept; the wallet sends the same transaction again.
    node.kill();
    assert_eq!(alice.fails(&line).0, 3);
    let node = Setup::dev(directory.path().join("node")).start();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| Wallet::at(directory.path(), name, &node));
    assert_eq!(alice.json(&line)["txid"], first["txid"]);
    mine(&node, 1, &carol.address());
    assert_eq!(alice.json(&line)["txid"], first["txid"]);
    assert_eq!(bob.balance(), ["1.00000000", "0.00000000", "0.00000000"].map(String::from));
    let (status, code, _) = alice.fails(&format!("send {to} 2 --yes --send-id invoice-17"));
    assert_eq!((status, code.as_str()), (1, "send-id"));
}

/// WK9. Two payments of one coin, both signed by the wallet: the one in a block wins, the other is called conflicted,
/// and the money is counted once, before, during and after a reorganisation.
#[test]
fn a_double_spend_is_counted_once() {
    let (directory, node) = node();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| Wallet::at(directory.path(), name, &node));
    let (_, address) = alice.create();
    let (_, to) = bob.create();
    carol.create();
    fund(&node, &address, 1, &carol);
    let rival = alice.json(&format!("send {} 2 --dry-run", carol.address()));
    let rival_fee = amount(rival["fee"].as_str().unwrap());
    let (txid, _) = alice.send(&to, "1");
    let state = |txid: &str| {
        let entries = alice.history();
        let entry = entries.into_iter().find(|entry| entry["txid"] == txid);
        entry.map(|entry| entry["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(state(&txid).as_deref(), Some("pending"));
    let made = node.call("generateblock", json!([carol.address(), [rival["transaction"]]]));
    assert_eq!(state(&txid).as_deref(), Some("conflicted"));
    assert_eq!(state(rival["txid"].as_str().unwrap()).as_deref(), Some("confirmed"));
    let left = coins(300_000_000 - rival_fee);
    assert_eq!(alice.balance(), [left.clone(), coins(0), coins(0)]);
    assert_eq!(bob.balance(), ["0.00000000"; 3].map(String::from));
    // Both are possible again; whichever the mempool holds, the coin is counted once.
    node.call("invalidateblock", json!([made["hash"]]));
    let [confirmed, pending, immature] = alice.balance();
    assert_eq!((confirmed, immature), (coins(0), coins(0)));
    assert!(amount(&pending) < 400_000_000, "{pending}");
    mine(&node, 1, &carol.address());
    let [confirmed, pending, _] = alice.balance();
    assert!(amount(&confirmed) < 400_000_000 && amount(&pending) == 0, "{confirmed} {pending}");
    let settled = [state(&txid), state(rival["txid"].as_str().unwrap())].map(|state| state.unwrap_or_default());
    assert_eq!(settled.iter().filter(|state| *state == "confirmed").count(), 1, "{settled:?}");
}

/// WK7. A person sees the network, the amount and the fee before anything is sent, and silence is not consent.
#[test]
fn a_person_confirms_a_payment() {
    let (directory, node) = node();
    let [alice, bob] = ["alice", "bob"].map(|name| Wallet::at(directory.path(), name, &node));
    let (_, address) = alice.create();
    let (_, to) = bob.create();
    fund(&node, &address, 1, &bob);
    for answer in ["n", "", "yes please"] {
        let (code, screen) = alice.at_terminal(&format!("send {to} 1.25"), answer);
        assert_eq!(code, Some(1), "{screen}");
        let genesis = node.call("getblockhash", json!([0]));
        for shown in ["dev", genesis.as_str().unwrap(), "1.25000000 DSET", &to, "Fee", "Change", "[y/N]", "cancelled"] {
            assert!(screen.contains(shown), "{shown} is missing:\n{screen}");
        }
    }
    assert_eq!(alice.balance()[0], "5.00000000");
    let (code, screen) = alice.at_terminal(&format!("send {to} 1.25"), "y");
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("Sent as transaction"), "{screen}");
    mine(&node, 1, &address);
    assert_eq!(bob.history().iter().filter(|entry| entry["amount"] == "1.25000000").count(), 1);
}

#[test]
fn refusals_have_their_statuses() {
    let (directory, mut node) = node();
    let [alice, carol] = ["alice", "carol"].map(|name| Wallet::at(directory.path(), name, &node));
    let (_, address) = alice.create();
    carol.create();
    let (status, code, message) = alice.fails(&format!("send {address} 1 --yes"));
    assert_eq!((status, code.as_str()), (5, "insufficient-funds"));
    assert!(message.contains("not enough money"), "{message}");
    mine(&node, 1, &address);
    let (_, _, message) = alice.fails(&format!("send {address} 1 --yes"));
    assert!(message.contains("must still mature"), "{message}");
    mine(&node, 100, &carol.address());
    for (line, code, status) in [
        (format!("send {address} 1 --yes --fee-rate 1"), "rejected", 4),
        (format!("send {address} 1 --yes --max-fee 0.00000001"), "fee-too-high", 1),
        (format!("send {address} 5 --yes"), "insufficient-funds", 5),
        (format!("send {address} 0.00000999 --yes"), "bad-amount", 2),
        (format!("send {}x 1 --yes", &address[..address.len() - 1]), "bad-address", 2),
        (format!("send set{} 1 --yes", &address[4..]), "bad-address", 2),
    ] {
        let (got_status, got_code, message) = alice.fails(&line);
        assert_eq!((got_code.as_str(), got_status), (code, status), "{line}: {message}");
    }
    assert_eq!(alice.balance()[0], "5.00000000", "no refusal changed anything");
    assert_eq!(
        alice.json(&format!("send {address} all --yes"))["fee"].as_str().map(|fee| amount(fee) < 1_000),
        Some(true)
    );
    node.terminate();
    assert_eq!(alice.fails("balance").0, 3);
}

/// WK11. A wallet never works on another network than its own, not even to look.
#[test]
fn networks_are_not_mixed() {
    let (directory, dev) = node();
    let genesis = directory.path().join("genesis.json");
    let made = Command::new(binary("setara-node"))
        .args(["genesis", "new", "--name", "village", "--prefix", "vil", "--out"])
        .arg(&genesis)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let village = Setup::genesis(directory.path().join("village"), "village", &genesis).start();

    let at_dev = Wallet::at(directory.path(), "dev-wallet", &dev);
    at_dev.create();
    let stranger = Wallet::at(directory.path(), "dev-wallet", &village);
    let (status, code, message) = stranger.fails("balance");
    assert_eq!((status, code.as_str()), (1, "wrong-network"));
    assert!(message.contains("dev") && message.contains("village"), "{message}");

    // A network of one's own needs its file once, and never again.
    let native = Wallet::at(directory.path(), "village-wallet", &village);
    assert_eq!(native.fails("create --yes").1, "wrong-network");
    let created = native.json(&format!("create --yes --genesis {}", genesis.display()));
    let address = created["address"].as_str().unwrap();
    assert!(address.starts_with("vil1q"), "{address}");
    std::fs::remove_file(&genesis).unwrap();
    mine(&village, 101, address);
    assert_eq!(amount(&native.balance()[0]) + amount(&native.balance()[2]), {
        let info = village.call("getaddressbalance", json!([{ "addresses": [address] }]));
        info["balance"].as_u64().unwrap()
    });
    assert_eq!(at_dev.fails(&format!("send {address} 1 --yes")).1, "bad-address");
}

/// WK10. Money on the last address within the gap is found; beyond it, only when asked to look further.
#[test]
fn restoring_looks_as_far_as_it_says() {
    let (directory, node) = node();
    let [alice, carol] = ["alice", "carol"].map(|name| Wallet::at(directory.path(), name, &node));
    let (words, _) = alice.create();
    carol.create();
    let addresses: Vec<String> = (0..12).map(|_| alice.address()).collect();
    // The wallet's thirteenth address has index 12: twelve unused ones lie before it.
    mine(&node, 1, addresses.last().unwrap());
    mine(&node, 100, &carol.address());
    for (gap, confirmed) in [(13, "5.00000000"), (12, "0.00000000")] {
        let copy = Wallet::at(directory.path(), &format!("copy-{gap}"), &node);
        let restored = copy.restore(&words, &format!("--gap {gap}"));
        assert_eq!(restored["addresses_found"], u64::from(gap == 13));
        // What a restored wallet watches beyond its last address is more than this gap, so the money shows either way;
        // what was *found* is the gap's doing.
        assert!(restored["confirmed"] == confirmed || gap == 12, "{restored}");
    }
    let copy = Wallet::at(directory.path(), "copy", &node);
    assert_eq!(copy.restore(&words, "")["confirmed"], "5.00000000");
    assert!(!addresses.contains(&copy.address()), "an address in use is not given out again");
}

/// A miner's wallet: hundreds of coins on one address, proven one by one, and swept in one payment.
#[test]
fn hundreds_of_coins_are_counted_and_swept() {
    let (directory, node) = node();
    let [miner, carol] = ["miner", "carol"].map(|name| Wallet::at(directory.path(), name, &node));
    let (_, address) = miner.create();
    let (_, to) = carol.create();
    mine(&node, 300, &address);
    let [confirmed, _, immature] = miner.balance();
    let all = node.call("getaddressbalance", json!([address]))["balance"].as_u64().unwrap();
    assert_eq!(amount(&confirmed) + amount(&immature), all);
    let (_, fee) = miner.send(&to, "all");
    assert_eq!(carol.balance()[1], coins(amount(&confirmed) - amount(&fee)));
    mine(&node, 1, &carol.address());
    assert_eq!(carol.balance()[0], coins(amount(&confirmed) - amount(&fee)));
    assert_eq!(miner.history().len(), 301);
}
