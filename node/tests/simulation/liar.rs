//! Liars: peers that speak the protocol and abuse it. Each knows an honest chain as far as it was shown one.

use rand::RngExt;
use rand::rngs::StdRng;
use setara_core::amount::Amount;
use setara_core::block::{Block, Header};
use setara_core::codec;
use setara_core::hash::{BlockHash, Hash256, WtxId};
use setara_core::network::Network;
use setara_core::transaction::Coinbase;
use setara_node::chain::Now;
use setara_node::p2p::brain::interface::{Action, Actions, Event, PeerId};
use setara_node::p2p::limits::REQUESTED_BLOCKS_MAX;
use setara_node::p2p::message::{AddressRecord, Hello, Message, NetAddress, PeerAddress, services};
use setara_node::testing::{self, ChainBuilder};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What a liar does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Shows a longer chain whose blocks break a rule.
    InvalidBlocks,
    /// Shows headers of a better chain, and never a body.
    Withhold,
    /// Answers nothing at all.
    Silent,
    /// Floods with addresses of its own.
    AddressFlood,
    /// Floods with headers of no work to speak of.
    LowWork,
    /// Sends noise and messages that nobody asked for.
    Garbage,
    /// Answers requests for blocks with other blocks.
    WrongBlocks,
    /// Answers requests for blocks with the right header and a wrong body.
    WrongBodies,
    /// Announces transactions and does not deliver them.
    WithholdTransactions,
}

/// All of them.
pub const LIES: [Lie; 9] = [
    Lie::InvalidBlocks,
    Lie::Withhold,
    Lie::Silent,
    Lie::AddressFlood,
    Lie::LowWork,
    Lie::Garbage,
    Lie::WrongBlocks,
    Lie::WrongBodies,
    Lie::WithholdTransactions,
];

/// Blocks of a liar's own chain: enough to look better than a young honest one.
const OWN_BLOCKS: usize = 60;
/// Messages of one burst.
const BURST: usize = 5;
/// Of garbage, one message in so many is unreadable; the connection ends with it.
const UNREADABLE_ONE_IN: u32 = 64;

/// A liar.
pub struct Liar {
    lie: Lie,
    network: Arc<Network>,
    peers: BTreeMap<PeerId, bool>,
    /// Its own chain, genesis first; the last block breaks a rule where that is the lie.
    blocks: Vec<Block>,
    ticks: u64,
}

/// A block of more money than there is to be had; the work is real.
fn unjust(builder: &ChainBuilder) -> Block {
    let mut block = builder.build(Vec::new());
    if let Some(output) = block.coinbase.outputs.first_mut() {
        output.amount = Amount::from_sen(output.amount.sen() + 1);
    }
    testing::seal(block)
}

impl Liar {
    pub fn new(lie: Lie, network: &Arc<Network>, salt: u8) -> Self {
        let mut builder = ChainBuilder::new(network);
        builder.extra = vec![0xee, salt];
        if matches!(lie, Lie::InvalidBlocks | Lie::Withhold | Lie::WrongBlocks | Lie::WrongBodies | Lie::LowWork) {
            builder.mine_empty(OWN_BLOCKS as u32);
        }
        let mut blocks = builder.blocks.clone();
        if lie == Lie::InvalidBlocks {
            blocks.push(unjust(&builder));
        }
        Self { lie, network: network.clone(), peers: BTreeMap::new(), blocks, ticks: 0 }
    }

    /// A liar that shows the chain of the honest: it abuses that, and with an invalid block goes beyond it.
    pub fn among(lie: Lie, network: &Arc<Network>, honest: &[Block]) -> Self {
        let mut blocks = honest.to_vec();
        if lie == Lie::InvalidBlocks {
            let mut builder = ChainBuilder::new(network);
            honest.iter().skip(1).for_each(|block| builder.apply(block).expect("the honest chain is valid"));
            blocks.push(unjust(&builder));
        }
        Self { lie, network: network.clone(), peers: BTreeMap::new(), blocks, ticks: 0 }
    }

    pub fn handle(&mut self, now: Now, event: Event, rng: &mut StdRng) -> Actions {
        let mut actions = Actions::new();
        match event {
            Event::Connected { peer, version, .. } => {
                self.peers.insert(peer, false);
                actions.push(Action::Send(peer, Message::Hello(Box::new(self.hello(now, version, rng)))));
            }
            Event::Disconnected { peer } => drop(self.peers.remove(&peer)),
            Event::Message { peer, message } => self.answer(peer, message, &mut actions),
            Event::Tick => self.tick(now, rng, &mut actions),
            _ => {}
        }
        actions
    }

    fn hello(&self, now: Now, version: u16, rng: &mut StdRng) -> Hello {
        let fork_id = (crc32fast::hash(self.network.genesis_hash().as_bytes()).to_le_bytes(), 0);
        Hello {
            version,
            agent: "/liar/".to_owned(),
            services: services::BLOCKS | services::TRANSACTIONS | services::COMPACT_BLOCKS,
            fork_id,
            serves: (0, u32::MAX),
            nonce: rng.random(),
            listen_port: 19_740,
            relay: true,
            time: now.unix_seconds,
            extras: Vec::new(),
        }
    }

    fn headers(&self) -> Vec<Header> {
        self.blocks.iter().skip(1).map(|block| block.header).collect()
    }

    fn answer(&mut self, peer: PeerId, message: Message, actions: &mut Actions) {
        let mut send = |message| actions.push(Action::Send(peer, message));
        match message {
            Message::Hello(_) => drop(self.peers.insert(peer, true)),
            Message::Ping(nonce) if self.lie != Lie::Silent => send(Message::Pong(nonce)),
            Message::GetHeaders { .. } => match self.lie {
                Lie::Silent => {}
                Lie::InvalidBlocks | Lie::Withhold | Lie::WrongBlocks | Lie::WrongBodies => {
                    send(Message::Headers(self.headers()));
                }
                // Asked for as well as unasked: a branch of less work than any.
                Lie::LowWork => send(Message::Headers(self.headers())),
                Lie::AddressFlood | Lie::Garbage | Lie::WithholdTransactions => send(Message::Headers(Vec::new())),
            },
            Message::GetBlocks(hashes) => match self.lie {
                Lie::InvalidBlocks => {
                    for hash in hashes {
                        if let Some(block) = self.blocks.iter().find(|block| block.hash() == hash) {
                            send(Message::Block(codec::encode(block).into()));
                        }
                    }
                }
                Lie::WrongBodies => {
                    for block in self.blocks.iter().filter(|block| hashes.contains(&block.hash())) {
                        let coinbase = Coinbase { extra: vec![0xbb], ..block.coinbase.clone() };
                        send(Message::Block(codec::encode(&Block { coinbase, ..block.clone() }).into()));
                    }
                }
                Lie::WrongBlocks => {
                    for _ in hashes {
                        send(Message::Block(codec::encode(&self.blocks[1]).into()));
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn tick(&mut self, now: Now, rng: &mut StdRng, actions: &mut Actions) {
        self.ticks += 1;
        let ready: Vec<PeerId> = self.peers.iter().filter(|(_, ready)| **ready).map(|(peer, _)| *peer).collect();
        for peer in ready {
            let mut send = |message| actions.push(Action::Send(peer, message));
            match self.lie {
                Lie::AddressFlood => {
                    let record = |octets: [u8; 4]| AddressRecord {
                        address: PeerAddress { host: NetAddress::V4(Ipv4Addr::from(octets)), port: 19_740 },
                        services: services::BLOCKS,
                        serves: (0, u32::MAX),
                        time: u32::try_from(now.unix_seconds).unwrap_or(u32::MAX),
                    };
                    let records = (0..1_000).map(|_| record([66, rng.random_range(0..4), rng.random(), rng.random()]));
                    send(Message::Addresses(records.collect()));
                }
                Lie::LowWork if self.ticks.is_multiple_of(8) => send(Message::Headers(self.headers())),
                Lie::InvalidBlocks | Lie::Withhold if self.ticks % 20 == 1 => {
                    if let Some(block) = self.blocks.last() {
                        send(Message::AnnounceBlock(block.header));
                    }
                }
                Lie::Garbage => {
                    for _ in 0..BURST {
                        // Once in a while what nobody can read: more than a list may hold.
                        if rng.random_range(0..UNREADABLE_ONE_IN) == 0 {
                            send(Message::GetBlocks(vec![self.blocks[0].hash(); REQUESTED_BLOCKS_MAX as usize + 1]));
                        }
                        send(match rng.random_range(0..6) {
                            0 => Message::Pong(rng.random()),
                            1 => Message::GetBlocks(vec![BlockHash::new(Hash256::from_bytes(rng.random())); 3]),
                            2 => Message::FeeFilter(rng.random()),
                            3 => Message::GetBlockTransactions {
                                hash: self.blocks[0].hash(),
                                indexes: vec![0, 1, u32::MAX],
                            },
                            4 => Message::SendCompact(rng.random()),
                            _ => Message::Announce(vec![WtxId::new(Hash256::from_bytes(rng.random())); 10]),
                        });
                    }
                }
                Lie::WithholdTransactions => {
                    let wtxids = (0..50).map(|_| WtxId::new(Hash256::from_bytes(rng.random())));
                    send(Message::Announce(wtxids.collect()));
                }
                Lie::InvalidBlocks
                | Lie::Withhold
                | Lie::Silent
                | Lie::LowWork
                | Lie::WrongBlocks
                | Lie::WrongBodies => {}
            }
        }
    }
}
