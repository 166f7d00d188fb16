//! The brain as a whole: greeting, pings, and who is blamed for what.

mod private;

use super::interface::{Action, Ending, Event, Link};
use super::penalty::{self, BlockSource, Offence, Penalty};
use super::*;
use crate::chain::KnownSignatures;
use crate::chain::{ChainFault, SubmitError};
use crate::clock::ManualClock;
use crate::mempool::{MempoolError, Options};
use crate::p2p::message::{Message, NetAddress, Serves};
use crate::store::MemoryStore;
use crate::testing;
use setara_core::consensus::RuleError;
use setara_core::hash::{Hash256, TxId};
use setara_core::transaction::OutPoint;
use std::net::Ipv4Addr;
use std::sync::Arc;

struct Node {
    brain: Brain,
    chain: ChainHandle,
    mempool: Mempool,
    now: Now,
}

impl Node {
    fn new(seed: u8) -> Self {
        let network = testing::quick_network();
        let clock = Arc::new(ManualClock::new(1_800_000_000));
        let chain = testing::inline(&network, Arc::new(MemoryStore::new()), clock.clone());
        let mempool =
            Mempool::new(network, clock, chain.clone(), Arc::new(KnownSignatures::default()), Options::default());
        let options = BrainOptions {
            agent: "/test/".to_owned(),
            listen_port: 1,
            allow_private: false,
            inbound_max: 4,
            only: Vec::new(),
            manual: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            minimum_chain_work: Work::ZERO,
            onion: false,
        };
        let now = Now { unix_seconds: 1_800_000_000, monotonic: Duration::ZERO };
        Self { brain: Brain::new(options, Memory::default(), [seed; 32]), chain, mempool, now }
    }

    fn handle(&mut self, event: Event) -> Actions {
        self.brain.handle(self.now, &self.chain, &self.mempool, event)
    }

    fn says(&mut self, peer: u64, message: Message) -> Actions {
        self.handle(Event::Message { peer: PeerId(peer), message })
    }

    fn passes(&mut self, seconds: u64) -> Actions {
        self.now.monotonic += Duration::from_secs(seconds);
        self.now.unix_seconds += seconds;
        self.handle(Event::Tick)
    }

    /// A peer dials; its own `Hello` is what a second node would say.
    fn dialled_by(&mut self, peer: u64) -> Actions {
        let address = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(20, peer as u8, 1, 1)), port: 4_000 };
        self.handle(Event::Connected { peer: PeerId(peer), link: Link::Inbound, address, version: 1 })
    }
}

/// The `Hello` among actions.
fn hello(actions: &Actions) -> Message {
    let found = actions.iter().find_map(|action| match action {
        Action::Send(_, message @ Message::Hello(_)) => Some(message.clone()),
        _ => None,
    });
    found.expect("whoever connects is greeted")
}

fn ending(actions: &Actions) -> Option<&Ending> {
    actions.iter().find_map(|action| match action {
        Action::Disconnect(_, ending) => Some(ending),
        _ => None,
    })
}

/// TH6. Before `Hello` nothing but it and the genesis file; after it no second one.
#[test]
fn th6_greeting_comes_first_and_once() {
    let greeting = hello(&Node::new(2).dialled_by(1));
    let early = [
        Message::Ping(1),
        Message::Pong(1),
        Message::Genesis(Vec::new()),
        Message::GetAddresses(Serves::Any),
        Message::Addresses(Vec::new()),
        Message::GetHeaders { locator: Vec::new(), stop: BlockHash::ZERO },
        Message::Headers(Vec::new()),
        Message::Announce(Vec::new()),
        Message::GetTransactions { wtxids: Vec::new(), txids: Vec::new() },
        Message::Transactions(Vec::new()),
        Message::GetBlocks(Vec::new()),
        Message::GetBlockTransactions { hash: BlockHash::ZERO, indexes: Vec::new() },
        Message::NotFound(Vec::new()),
        Message::FeeFilter(1),
        Message::SendCompact(true),
    ];
    for message in early {
        let mut node = Node::new(1);
        node.dialled_by(1);
        let name = message.name();
        let actions = node.says(1, message);
        assert_eq!(ending(&actions), Some(&Ending::Offence(Offence::OutOfTurn(name))));
        // What comes after the end is not heard.
        assert!(node.says(1, greeting.clone()).is_empty(), "{name}");
    }
    let mut node = Node::new(1);
    node.dialled_by(1);
    let actions = node.says(1, Message::GetGenesis);
    assert!(matches!(actions.as_slice(), [Action::SendGenesis(PeerId(1))]));
    assert_eq!(ending(&node.says(1, greeting.clone())), None);
    assert_eq!(ending(&node.says(1, greeting)), Some(&Ending::Offence(Offence::OutOfTurn("hello"))));
}

/// TH6. A node that hears its own nonce has dialled itself.
#[test]
fn th6_ones_own_nonce_is_known() {
    let mut node = Node::new(1);
    let own = hello(&node.dialled_by(1));
    node.dialled_by(2);
    assert_eq!(ending(&node.says(2, own)), Some(&Ending::SelfConnection));
}

/// TH2, TH9. Ten seconds for the greeting, a ping a minute, three minutes of silence; a wrong pong keeps nobody alive
/// longer than any other word.
#[test]
fn th9_silent_peers_end() {
    let greeting = hello(&Node::new(2).dialled_by(1));
    let mut node = Node::new(1);
    node.dialled_by(1);
    assert_eq!(ending(&node.passes(9)), None);
    assert_eq!(ending(&node.passes(1)), Some(&Ending::HandshakeTimeout));

    let mut node = Node::new(1);
    node.dialled_by(1);
    node.says(1, greeting);
    let actions = node.passes(1);
    let ping = actions.iter().find_map(|action| match action {
        Action::Send(PeerId(1), Message::Ping(nonce)) => Some(*nonce),
        _ => None,
    });
    let nonce = ping.expect("a new peer is pinged");
    node.says(1, Message::Pong(nonce ^ 1));
    assert_eq!(node.brain.parts().peers().next().unwrap().latency, None);
    node.now.monotonic += Duration::from_millis(40);
    node.says(1, Message::Pong(nonce));
    assert_eq!(node.brain.parts().peers().next().unwrap().latency, Some(Duration::from_millis(40)));
    assert_eq!(ending(&node.passes(179)), None);
    assert_eq!(ending(&node.passes(1)), Some(&Ending::Silent));
    node.handle(Event::Disconnected { peer: PeerId(1) });
    assert_eq!(node.brain.parts().peers().count(), 0);
}

/// TH11. What the chain and the mempool say, by source: the sender of a whole body answers for it, nobody for a compact
/// one, and a fault of this node is nobody's.
#[test]
fn th11_blame_goes_to_whom_it_belongs() {
    let invalid = || SubmitError::Invalid(RuleError::NoInputs);
    let mutated = || SubmitError::Mutated(RuleError::MutatedTree);
    let fault = || SubmitError::Fault(ChainFault::Damaged("a test".to_owned()));
    let coin = OutPoint { txid: TxId::new(Hash256::ZERO), index: 0 };
    let rows = [
        (invalid(), true),
        (mutated(), true),
        (SubmitError::DuplicateInvalid, true),
        (SubmitError::InvalidParent(BlockHash::ZERO), true),
        (SubmitError::MissingParent(BlockHash::ZERO), false),
        (SubmitError::Early(RuleError::TimeTooNew { time: 9, now: 1, max_future_seconds: 1 }), false),
        (SubmitError::SetAside(RuleError::MissingCoin { outpoint: coin }), false),
        (fault(), false),
        (SubmitError::Stopping, false),
    ];
    for (error, blamed) in rows {
        assert_eq!(penalty::of_block(&error, BlockSource::Whole).is_some(), blamed, "{error:?}");
        assert_eq!(penalty::of_block(&error, BlockSource::Compact), None, "{error:?}");
    }
    assert!(penalty::of_headers(&invalid()).is_some());
    assert!(penalty::of_headers(&fault()).is_none());
    let transactions = [
        (MempoolError::Rule(RuleError::BadSignature { transaction: 0 }), true),
        (MempoolError::MissingInputs { outpoint: coin }, false),
        (MempoolError::AlreadyInMempool, false),
        (MempoolError::Full, false),
    ];
    for (error, blamed) in transactions {
        assert_eq!(penalty::of_transaction(&error).is_some(), blamed, "{error:?}");
    }
    assert_eq!(Offence::MutatedBlock.penalty(), Penalty::Discourage);
    assert_eq!(Offence::BadPong.penalty(), Penalty::None);
}

/// TH11. Who broke a rule is refused when places are short; whoever only answered for another is not.
#[test]
fn th11_discouraged_peers_get_no_scarce_place() {
    let mut node = Node::new(1);
    node.dialled_by(1);
    node.handle(Event::Garbage { peer: PeerId(1), offence: Offence::Undecodable("transport") });
    node.handle(Event::Disconnected { peer: PeerId(1) });
    // There is room: it may try again.
    assert_eq!(ending(&node.dialled_by(1)), None);
    node.handle(Event::Disconnected { peer: PeerId(1) });
    for peer in 2..6 {
        assert_eq!(ending(&node.dialled_by(peer)), None);
    }
    assert_eq!(ending(&node.dialled_by(1)), Some(&Ending::Banned));
}
