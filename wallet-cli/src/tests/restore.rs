//! WK10: which coins a wallet finds again from its words; and WK3, that the words mean the same everywhere.

use super::mock::Reply;
use super::{Fixture, STRANGER, coins};
use crate::account::{self, GAP_DEFAULT};
use crate::keystore::{Chain, KeyPath, Keys, Seed};
use serde_json::json;
use setara_core::network::Network;

/// Pays 5 coins to each of these addresses, then discovers with `gap`: addresses found, and the sum of all coins.
fn discover(paid: &[(Chain, u32)], gap: u32) -> (u32, u64) {
    let mut fixture = Fixture::dev();
    for (chain, index) in paid {
        let address = fixture.address(*chain, *index);
        fixture.mock.mine(address);
    }
    fixture.mock.mine_many(STRANGER, 3);
    let found = account::discover(fixture.wallet.keys(), &Network::dev(), &fixture.mock.node(), gap).unwrap();
    fixture.wallet.state.next_receive = found.used.receive;
    fixture.wallet.state.next_change = found.used.change;
    let balance = fixture.balance();
    (found.addresses, balance.confirmed.sen() + balance.immature.sen())
}

#[test]
fn keys_at_the_edge_of_the_gap_are_found() {
    use Chain::{Change, Receive};
    let last = GAP_DEFAULT - 1;
    assert_eq!(discover(&[], GAP_DEFAULT), (0, 0));
    assert_eq!(discover(&[(Receive, 0)], GAP_DEFAULT), (1, coins(5)));
    assert_eq!(discover(&[(Receive, last)], GAP_DEFAULT), (1, coins(5)));
    assert_eq!(discover(&[(Change, last)], GAP_DEFAULT), (1, coins(5)));
    // Each find starts a new gap: a chain of finds, each at the very edge.
    let chain = [(Receive, last), (Receive, 2 * GAP_DEFAULT - 1), (Change, last), (Change, 2 * GAP_DEFAULT - 1)];
    assert_eq!(discover(&chain, GAP_DEFAULT), (4, coins(20)));
    // One further is out of sight, until the gap is widened.
    assert_eq!(discover(&[(Receive, GAP_DEFAULT)], GAP_DEFAULT), (0, 0));
    assert_eq!(discover(&[(Receive, GAP_DEFAULT)], GAP_DEFAULT + 1), (1, coins(5)));
    assert_eq!(discover(&[(Change, 1_000)], 1_001), (1, coins(5)));
    // Steps of the search do not change what it finds.
    assert_eq!(discover(&[(Receive, 4), (Receive, 9), (Receive, 14)], 5), (3, coins(15)));
    assert_eq!(discover(&[(Receive, 4), (Receive, 40)], 5), (1, coins(5)));
}

/// Money on an address that another copy of the wallet gave out appears, and the address is not given out again.
#[test]
fn a_second_copy_of_the_wallet_is_noticed() {
    let mut fixture = Fixture::dev();
    let foreign = fixture.address(Chain::Receive, 15);
    fixture.mock.mine(foreign);
    assert_eq!(fixture.balance().immature.sen(), coins(5));
    assert_eq!(fixture.wallet.state.next_receive, 16);
    let further = fixture.address(Chain::Receive, 30);
    fixture.mock.mine(further);
    assert_eq!(fixture.balance().immature.sen(), coins(10));
    assert_eq!(fixture.fresh(), fixture.address(Chain::Receive, 31));
}

/// A restored wallet, or any other, is told when the node shows an old chain: by the checked age of its tip, and by the
/// node's own word. Networks where blocks are made at will have old tips and nothing to say about them.
#[test]
fn a_node_that_is_behind_is_remarked_on() {
    const DAY: u64 = 86_400;
    let mut fixture = Fixture::new(Network::test());
    let network = Network::test();
    let view = fixture.look().unwrap();
    let tip = u64::from(view.tip_time);
    assert_eq!(view.behind(&network, tip), None);
    assert_eq!(view.behind(&network, tip - 60), None, "a clock that is behind the tip");
    assert_eq!(view.behind(&network, tip + 2 * 3_600), None);
    let usual = (24 * u64::from(network.spacing)).max(2 * 3_600);
    assert_eq!(view.behind(&network, tip + usual), None);
    assert!(view.behind(&network, tip + usual + 1).is_some());
    let words = view.behind(&network, tip + 9 * DAY).unwrap();
    for part in ["newest block, 0, is of", "9 days ago", "cut off", "holds only up to there"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    // The node's own word: it is loading.
    fixture.mock.lie(|method, _, reply| match (method, reply) {
        ("getblockchaininfo", Reply::Result(mut info)) => {
            (info["initialblockdownload"], info["headers"]) = (json!(true), json!(5_000));
            Reply::Result(info)
        }
        (_, reply) => reply,
    });
    let words = fixture.look().unwrap().behind(&network, tip).unwrap();
    assert!(words.contains("loading blocks, 0 of 5000"), "{words}");
    // Difficulty is fixed: an old tip is nothing unusual, but a node that says it is loading is.
    let mut fixture = Fixture::dev();
    let view = fixture.look().unwrap();
    assert_eq!(view.behind(&Network::dev(), u64::from(view.tip_time) + 9_000 * DAY), None);
    fixture.mock.lie(|method, _, reply| match (method, reply) {
        ("getblockchaininfo", Reply::Result(mut info)) => {
            info["initialblockdownload"] = json!(true);
            Reply::Result(info)
        }
        (_, reply) => reply,
    });
    assert!(fixture.look().unwrap().behind(&Network::dev(), 0).is_some());
}

/// WK11. A node that calls every address used, or every address paid, leads the wallet nowhere.
#[test]
fn a_search_without_end_is_given_up() {
    let mut fixture = Fixture::dev();
    fixture.mock.lie(|method, _, reply| match method {
        "getaddressbalance" => Reply::Result(json!({ "balance": 1, "received": 1 })),
        _ => reply,
    });
    let error = account::discover(fixture.wallet.keys(), &Network::dev(), &fixture.mock.node(), 20).unwrap_err();
    assert_eq!(error.code(), "node-untrusted");
    // Unconfirmed payments to ever later addresses are only words.
    fixture.mock.lie(|method, params, reply| match method {
        "getaddressmempool" => {
            let last = params[0]["addresses"].as_array().unwrap().last().unwrap();
            let txid = setara_core::hash::TxId::from_bytes([1; 32]);
            Reply::Result(json!([{ "address": last, "txid": txid, "index": 0, "satoshis": 1, "timestamp": 0 }]))
        }
        _ => reply,
    });
    let before = fixture.wallet.state.clone();
    let _ = fixture.look();
    assert_eq!(fixture.wallet.state, before);
}

#[test]
fn handing_out_too_many_addresses_is_remarked_on() {
    let mut fixture = Fixture::dev();
    assert_eq!(account::gap_warning(&fixture.wallet), None);
    fixture.wallet.state.next_receive = GAP_DEFAULT;
    assert!(account::gap_warning(&fixture.wallet).unwrap().contains("--gap 201"));
    let newest = fixture.address(Chain::Receive, GAP_DEFAULT - 1);
    fixture.mock.mine(newest);
    fixture.look().unwrap();
    assert_eq!(account::gap_warning(&fixture.wallet), None);
}

/// WK3. Addresses of known words, computed by a second implementation written from the specifications (BIP 39,
/// SLIP-0010, RFC 8032, BIP 350 and the policy hash), in another language. A change here would lose money.
#[test]
fn words_mean_the_same_addresses_for_ever() {
    let seed = Seed::from_words(&format!("{}art", "abandon ".repeat(23))).unwrap();
    let keys = Keys::new(&seed);
    let golden = [
        (Chain::Receive, 0, "dset1qjkmaj8u5gh3fp0cs67k50y0tpvs5u2sgu7xqrdgpqml8dk74asvq6n3lqa"),
        (Chain::Receive, 1, "dset1qn2s5lec5l06vng2vvv0yuq44dpzrsturh07u3lff8rgntetv59nshr52kn"),
        (Chain::Receive, 199, "dset1qw3gvavlt9fdmxkdh2aw9fwvclustaf0y8xryz7jyck9rgknk78uqne3vkg"),
        (Chain::Change, 0, "dset1q04k3swq5j5nswgwe3xjave8hzvw00j76fhrkhw4xzu5r8ndw9p7q4dhf5k"),
        (Chain::Change, 1, "dset1qhhjej4fz0l9027eky68zwgxa5paqylcmvgghnutrj3mcqcz96gnqr4v3g3"),
        (Chain::Change, 199, "dset1q5hgf8nzjtwzqffjhv62p9yssa7rdzu5gwamaarhwn5z2swrhzgqq7tmjpf"),
    ];
    for (chain, index, text) in golden {
        assert_eq!(keys.address(KeyPath { chain, index }).to_text(&Network::dev().prefix), text);
    }
}
