//! MP12: a private transaction is told to a few peers, over connections that say nothing else.

use super::*;
use crate::p2p::brain::interface::Dial;
use crate::p2p::message::{AddressRecord, services};
use crate::testing::ChainBuilder;
use setara_core::transaction::Transaction;

/// Knows sixty peers of as many groups, and is to send one transaction.
fn sending() -> (Node, Transaction) {
    let mut node = Node::new(1);
    let mut builder = ChainBuilder::new(node.chain.network());
    builder.mine_empty(2);
    let coin = builder.spendable()[0];
    let transaction = builder.spend(&[coin], &[(testing::address(2), testing::coins(1))]);
    let sent = transaction.clone();
    let ((), _) = node.brain.answer(node.now, &node.chain, &node.mempool, |parts, desk| {
        for group in 0..60 {
            let address = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(30 + group, 1, 1, 1)), port: 4_000 };
            let services = services::BLOCKS | services::TRANSACTIONS;
            let record = AddressRecord { address, services, serves: (0, 9), time: 1_800_000_000 };
            parts.addresses.add(&record, &address, desk.now, desk.rng);
        }
        parts.private.add(sent, 1).unwrap();
    });
    (node, transaction)
}

/// Dials for the transaction.
fn dials(actions: &Actions) -> Vec<PeerAddress> {
    let private = |action: &Action| match action {
        Action::Dial(Dial { address, link: Link::PrivateBroadcast }) => Some(*address),
        _ => None,
    };
    actions.iter().filter_map(private).collect()
}

/// What was said to a peer.
fn said(actions: &Actions, to: u64) -> Vec<Message> {
    let to_it = |action: &Action| match action {
        Action::Send(PeerId(peer), message) if *peer == to => Some(message.clone()),
        _ => None,
    };
    actions.iter().filter_map(to_it).collect()
}

/// Lets a dial succeed and the peer take the transaction; all that it heard.
fn deliver(node: &mut Node, peer: u64, address: PeerAddress, greeting: &Message, transaction: &Transaction) {
    let link = Link::PrivateBroadcast;
    let actions = node.handle(Event::Connected { peer: PeerId(peer), link, address, version: 1 });
    let [Message::Hello(hello)] = &said(&actions, peer)[..] else { panic!("{actions:?}") };
    assert_eq!((hello.services, hello.listen_port, hello.serves, hello.time, hello.relay), (0, 0, (0, 0), 0, false));
    assert_ne!(hello.agent, "/test/");
    let wtxid = transaction.wtxid();
    let actions = node.says(peer, greeting.clone());
    assert_eq!(said(&actions, peer), [Message::Announce(vec![wtxid])]);
    assert_eq!(actions.len(), 1, "{actions:?}");
    // Questions that it has no business to ask are not answered.
    assert!(node.says(peer, Message::GetAddresses(Serves::Any)).is_empty());
    assert!(node.says(peer, Message::GetHeaders { locator: Vec::new(), stop: BlockHash::ZERO }).is_empty());
    assert_eq!(said(&node.says(peer, Message::Ping(5)), peer), [Message::Pong(5)]);
    let actions = node.says(peer, Message::GetTransactions { wtxids: vec![wtxid], txids: Vec::new() });
    let [Message::Transactions(sent), Message::Ping(nonce)] = &said(&actions, peer)[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(sent[..], *std::slice::from_ref(transaction));
    assert_eq!(ending(&node.says(peer, Message::Pong(nonce + 1))), None);
    assert_eq!(ending(&node.says(peer, Message::Pong(*nonce))), Some(&Ending::Finished));
    assert!(node.handle(Event::Disconnected { peer: PeerId(peer) }).is_empty());
}

#[test]
fn mp12_a_private_transaction_goes_to_three_peers_a_round_until_it_comes_back() {
    let greeting = hello(&Node::new(2).dialled_by(1));
    let (mut node, transaction) = sending();
    let first = dials(&node.passes(1));
    assert_eq!(first.len(), 3);
    // Those that fail are made up for by others.
    node.handle(Event::DialFailed { address: first[0], link: Link::PrivateBroadcast, ourselves: false });
    let others = dials(&node.passes(1));
    assert_eq!(others.len(), 1);
    for (peer, address) in (1..).zip([first[1], first[2], others[0]]) {
        deliver(&mut node, peer, address, &greeting, &transaction);
        assert_eq!(dials(&node.passes(1)), []);
    }
    let told = |node: &Node| node.brain.parts().private.waiting().map(|sending| sending.told.len()).sum::<usize>();
    assert_eq!(told(&node), 3);
    assert_eq!(dials(&node.passes(590)), []);
    let second = dials(&node.passes(11));
    assert_eq!(second.len(), 3, "it has not come back: others are told");
    assert!(!second.iter().any(|address| first[1..].contains(address)), "not the same ones in a row");
    node.handle(Event::MempoolGrew(vec![(transaction.wtxid(), 1_000)]));
    assert_eq!(node.brain.parts().private.waiting().count(), 0);
    // A connection that was on its way has nothing to say any more.
    let link = Link::PrivateBroadcast;
    node.handle(Event::Connected { peer: PeerId(9), link, address: second[0], version: 1 });
    assert_eq!(ending(&node.says(9, greeting)), Some(&Ending::Finished));
    assert_eq!(dials(&node.passes(700)), []);
}

#[test]
fn mp12_a_peer_that_takes_its_time_is_let_go_and_another_is_dialled() {
    let greeting = hello(&Node::new(2).dialled_by(1));
    let (mut node, _) = sending();
    let first = dials(&node.passes(1));
    let link = Link::PrivateBroadcast;
    node.handle(Event::Connected { peer: PeerId(1), link, address: first[0], version: 1 });
    node.says(1, greeting);
    assert_eq!(ending(&node.passes(59)), None);
    assert_eq!(ending(&node.passes(1)), Some(&Ending::Stalling("private broadcast")));
    node.handle(Event::Disconnected { peer: PeerId(1) });
    assert_eq!(dials(&node.passes(1)).len(), 1);
}

#[test]
fn mp12_what_waits_is_bounded_and_can_be_given_up() {
    let (mut node, transaction) = sending();
    let txid = transaction.txid();
    let ((), _) = node.brain.answer(node.now, &node.chain, &node.mempool, |parts, _| {
        // Twice is once.
        parts.private.add(transaction.clone(), 2).unwrap();
        assert_eq!(parts.private.abort(txid).len(), 1);
        assert_eq!(parts.private.abort(txid).len(), 0);
        let numbered = |number: u32| Transaction { valid_from: number, ..transaction.clone() };
        let taken = (0..2_000).take_while(|number| parts.private.add(numbered(*number), 3).is_ok()).count();
        assert_eq!(taken, 1_000);
        for number in 0..2_000 {
            parts.private.abort(numbered(number).txid());
        }
        let large = |number: u32| Transaction { memo: vec![0; 90_000], ..numbered(number) };
        let taken = (0..2_000).take_while(|number| parts.private.add(large(*number), 3).is_ok()).count();
        assert!((100..=112).contains(&taken), "{taken}");
    });
}
