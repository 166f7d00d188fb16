//! The brain as a whole: greeting, pings, and who is blamed for what.

mod private;

use super::interface::{Action, Ending, Event, Link};
use super::penalty::{self, BlockSource, Offence, Penalty};
use super::*;
use crate::chain::KnownSignatures;
use crate::chain::{ChainFault, SubmitError};
use crate::clock::ManualClock;
use crate::mempool::{MempoolError, Options};
use crate::p2p::message::{AddressRecord, Message, NetAddress, Serves, services};
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
        Self::with(seed, |_| {})
    }

    fn with(seed: u8, change: impl FnOnce(&mut BrainOptions)) -> Self {
        let network = testing::quick_network();
        let clock = Arc::new(ManualClock::new(1_800_000_000));
        let chain = testing::inline(&network, Arc::new(MemoryStore::new()), clock.clone());
        let mempool =
            Mempool::new(network, clock, chain.clone(), Arc::new(KnownSignatures::default()), Options::default());
        let mut options = BrainOptions {
            agent: "/test/".to_owned(),
            listen_port: 1,
            allow_private: false,
            inbound_max: 4,
            upload_target: None,
            only: Vec::new(),
            manual: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            minimum_chain_work: Work::ZERO,
            onion: false,
            snapshot: false,
            download_bytes: crate::p2p::limits::DOWNLOAD_WINDOW_BYTES,
        };
        change(&mut options);
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

/// A peer that this node dialled before it ever looked at its deadlines is told once where the node is reached, and not
/// again with the first look.
#[test]
fn own_addresses_are_told_once() {
    let own = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(21, 1, 1, 1)), port: 4_000 };
    let mut node = Node::with(1, |options| options.external = vec![own]);
    let address = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(22, 1, 1, 1)), port: 4_000 };
    node.handle(Event::Connected { peer: PeerId(1), link: Link::OutboundFull, address, version: 1 });
    let told = |actions: &Actions| {
        let of = |action: &&Action| match action {
            Action::Send(_, Message::Addresses(records)) => records.iter().any(|record| record.address == own),
            _ => false,
        };
        actions.iter().filter(of).count()
    };
    let greeting = hello(&Node::new(2).dialled_by(1));
    assert_eq!(told(&node.says(1, greeting)), 1);
    assert_eq!((0..120).map(|_| told(&node.passes(1))).sum::<usize>(), 0);
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

/// TH2, TH9. Five seconds for the greeting, a ping a minute, three minutes of silence; a wrong pong keeps nobody alive
/// longer than any other word.
#[test]
fn th9_silent_peers_end() {
    let greeting = hello(&Node::new(2).dialled_by(1));
    let mut node = Node::new(1);
    node.dialled_by(1);
    assert_eq!(ending(&node.passes(4)), None);
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

/// BR12, step "find". A peer that says it serves everything, shows it and then lacks it does not end the search: everybody
/// is asked for others who serve it, and so is whoever comes during the search.
#[test]
fn whoever_lacks_what_it_claims_does_not_end_the_search() {
    let mut node = Node::new(1);
    let mut builder = testing::ChainBuilder::new(node.chain.network());
    let blocks = builder.mine_empty(3);
    let mut greeting = hello(&Node::new(2).dialled_by(1));
    if let Message::Hello(hello) = &mut greeting {
        hello.serves = (0, u32::MAX);
    }
    node.dialled_by(1);
    node.says(1, greeting.clone());
    let headers: Vec<_> = blocks.iter().map(|block| block.header).collect();
    let taken = node.chain.submit_headers(headers.clone());
    node.says(1, Message::Headers(headers));
    let actions = node.handle(Event::HeadersTaken { peer: PeerId(1), result: taken });
    let wanted: Vec<BlockHash> = blocks.iter().map(|block| block.hash()).collect();
    let asked = |actions: &Actions, peer: u64| {
        let asks = |action: &Action| match action {
            Action::Send(to, Message::GetAddresses(Serves::Height(1))) => to.0 == peer,
            _ => false,
        };
        actions.iter().any(asks)
    };
    assert!(!asked(&actions, 1));
    let lacked = wanted.iter().map(|hash| crate::p2p::message::Reference::Block(*hash)).collect();
    node.says(1, Message::NotFound(lacked));
    assert!(!asked(&node.passes(0), 1), "it may yet come");
    assert!(asked(&node.passes(5), 1));
    node.dialled_by(2);
    if let Message::Hello(hello) = &mut greeting {
        hello.nonce ^= 1;
    }
    assert!(asked(&node.says(2, greeting), 2));
}

/// Where others reach this node: whoever is dialled hears it at once, and all when the router forwards a port; nobody is
/// told what holds no longer.
#[test]
fn own_addresses_are_told_when_they_are_known() {
    fn told(actions: &Actions) -> Vec<(u64, Vec<PeerAddress>)> {
        let told = actions.iter().filter_map(|action| match action {
            Action::Send(peer, Message::Addresses(records)) => {
                Some((peer.0, records.iter().map(|record| record.address).collect()))
            }
            _ => None,
        });
        told.collect()
    }
    let greeting = hello(&Node::new(2).dialled_by(1));
    let mut node = Node::new(1);
    let dials = |node: &mut Node, peer: u64, link: Link| {
        let address = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(20, peer as u8, 1, 1)), port: 4_000 };
        node.handle(Event::Connected { peer: PeerId(peer), link, address, version: 1 });
        told(&node.says(peer, greeting.clone()))
    };
    assert!(dials(&mut node, 1, Link::OutboundFull).is_empty(), "there is nothing to tell");
    assert!(told(&node.passes(1)).is_empty());
    let mapped = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(11, 22, 33, 44)), port: 5_000 };
    node.handle(Event::Mapped(Some(mapped)));
    assert_eq!(told(&node.passes(1)), [(1, vec![mapped])], "who is here already");
    node.handle(Event::Mapped(Some(mapped)));
    assert!(told(&node.passes(1)).is_empty(), "once");
    assert_eq!(dials(&mut node, 2, Link::OutboundFull), [(2, vec![mapped])]);
    assert!(dials(&mut node, 3, Link::BlockOnly).is_empty(), "it must not show who this is");
    assert!(dials(&mut node, 4, Link::Inbound).is_empty(), "it dialled, so it knows");
    assert_eq!(node.brain.parts().own_addresses(), [mapped]);
    node.handle(Event::Mapped(None));
    assert!(dials(&mut node, 5, Link::OutboundFull).is_empty());
    assert!(node.brain.parts().own_addresses().is_empty());
}

/// AE10. A peer that was dialled and serves no blocks is a directory of nodes: it is asked for addresses, gives no
/// headers, and is left when they came or after half a minute; it then rests, and is asked again.
#[test]
fn ae10_a_directory_is_asked_and_left() {
    let Message::Hello(mut greeting) = hello(&Node::new(2).dialled_by(1)) else { panic!("a greeting") };
    (greeting.services, greeting.serves) = (0, (0, 0));
    let greeting = Message::Hello(greeting);
    let seeder = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(90, 1, 1, 1)), port: 4_000 };
    let found = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(91, 1, 1, 1)), port: 4_000 };
    let dials = |actions: &Actions| {
        let mut links = actions.iter().filter_map(|action| match action {
            Action::Dial(dial) if dial.address == seeder => Some(dial.link),
            _ => None,
        });
        links.next()
    };
    for (manual, bootstrap) in [(vec![seeder.into()], Vec::new()), (Vec::new(), vec![seeder])] {
        let mut node =
            Node::with(1, |options| (options.manual, options.bootstrap) = (manual.clone(), bootstrap.clone()));
        let link = dials(&node.passes(1)).expect("the seeder is dialled");
        let ask = |node: &mut Node, peer: u64, link| {
            node.handle(Event::Connected { peer: PeerId(peer), link, address: seeder, version: 1 });
            let asked = node.says(peer, greeting.clone());
            let [Action::Send(_, Message::GetAddresses(Serves::Any))] = asked.as_slice() else { panic!("{asked:?}") };
        };
        ask(&mut node, 1, link);
        let record = AddressRecord { address: found, services: services::BLOCKS, serves: (0, 9), time: 1_800_000_000 };
        let actions = node.says(1, Message::Addresses(vec![record]));
        assert_eq!(ending(&actions), Some(&Ending::Finished));
        assert!(node.brain.parts().addresses.get(&found).is_some());
        node.handle(Event::Disconnected { peer: PeerId(1) });
        let again = (0..120).find_map(|second| dials(&node.passes(1)).map(|link| (second, link)));
        let (second, link) = again.expect("it is asked again while few addresses are known");
        assert!(second >= 28, "after {second} s");
        // One that does not answer is left, too.
        ask(&mut node, 2, link);
        assert_eq!(ending(&node.passes(29)), None);
        assert_eq!(ending(&node.passes(1)), Some(&Ending::Finished));
    }
    // Nobody is asked through a connection that is there for blocks only.
    let mut node = Node::new(1);
    node.handle(Event::Connected { peer: PeerId(1), link: Link::BlockOnly, address: seeder, version: 1 });
    let actions = node.says(1, greeting);
    assert!(matches!(actions.as_slice(), [Action::Disconnect(_, Ending::Finished)]), "{actions:?}");
}
