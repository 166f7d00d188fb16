//! What the stateful targets play with: a small network, its blocks, transactions of every sort, and messages about them.

use crate::p2p::brain::greeting;
use crate::p2p::message::{
    AddressRecord, BlockTransactions, CoinRange, CompactBlock, Hello, Message, NetAddress, PeerAddress, Prefilled,
    Reference, Serves, services,
};
use crate::testing::{ChainBuilder, address, break_signature, coins, funded_network};
use setara_core::block::{Block, Header};
use setara_core::codec;
use setara_core::hash::BlockHash;
use setara_core::lattice::ELEMENT_BYTES;
use setara_core::network::Network;
use setara_core::transaction::Transaction;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

/// Unix time at which every run begins.
pub const START: u64 = 1_800_000_000;

/// Made once, since it is mined and signed.
pub struct World {
    pub network: Arc<Network>,
    /// Each on the one before; the first is on genesis.
    pub blocks: Vec<Block>,
    /// A branch that parts after the first block, and is shorter.
    pub fork: Vec<Block>,
    /// A block on the last one that breaks a rule.
    pub invalid: Block,
    /// For the mempool: valid ones, one that needs another before it, one with a broken signature.
    pub transactions: Vec<Transaction>,
    pub messages: Vec<Message>,
}

/// The world.
pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(make)
}

fn make() -> World {
    let network = funded_network(12, coins(10));
    let mut builder = ChainBuilder::new(&network);
    builder.mine_empty(1);
    let mut other = builder.clone();
    other.extra = b"fork".to_vec();
    let owned = builder.spendable();
    let pay = |index: usize| builder.spend(&owned[index..=index], &[(address(3), coins(1)), (address(4), coins(8))]);
    let paid: Vec<Transaction> = (0..owned.len()).map(pay).collect();
    let (confirmed, mut transactions) = (paid[..4].to_vec(), paid[4..].to_vec());
    let mut broken = transactions[0].clone();
    break_signature(&mut broken);
    builder.mine(confirmed[..2].to_vec());
    builder.mine(confirmed[2..].to_vec());
    let mut later = builder.clone();
    later.mine(vec![transactions[1].clone()]);
    // A child of one that waits in the mempool.
    let child = later.spendable().into_iter().find(|(outpoint, _)| outpoint.txid == transactions[1].txid());
    transactions.extend(child.map(|coin| later.spend(&[coin], &[(address(5), coins(7))])));
    transactions.push(broken.clone());
    builder.mine_empty(1);
    other.mine(vec![transactions[2].clone()]);
    let invalid = builder.build(vec![broken]);
    let blocks = builder.blocks[1..].to_vec();
    let fork = other.blocks[2..].to_vec();
    let mut world = World { network, blocks, fork, invalid, transactions, messages: Vec::new() };
    world.messages = messages(&world);
    world
}

/// What a node of this network says first.
pub fn hello(network: &Network, services: u64, height: u32, nonce: u64) -> Message {
    Message::Hello(Box::new(Hello {
        version: 1,
        agent: "/fuzz/".to_owned(),
        services,
        fork_id: greeting::fork_id(network),
        serves: (0, height),
        nonce,
        listen_port: 4_000,
        relay: true,
        time: START,
        extras: vec![(7, vec![1, 2, 3])],
    }))
}

/// A host of the open network, by number.
pub fn host(number: u8) -> PeerAddress {
    PeerAddress { host: NetAddress::V4(Ipv4Addr::new(20 + number % 32, number / 32, 1, 1)), port: 4_000 }
}

fn record(host: PeerAddress, height: u32) -> AddressRecord {
    AddressRecord { address: host, services: services::BLOCKS, serves: (0, height), time: START as u32 }
}

/// Messages that mean something here: at least one of every kind.
fn messages(world: &World) -> Vec<Message> {
    let all = services::BLOCKS | services::TRANSACTIONS | services::COMPACT_BLOCKS;
    let onion = PeerAddress { host: NetAddress::Onion([3; 32]), port: 4_000 };
    let v6 = PeerAddress { host: NetAddress::V6("2a00::1".parse().expect("an address")), port: 4_000 };
    let genesis = world.network.genesis_hash();
    let headers: Vec<Header> = world.blocks.iter().map(|block| block.header).collect();
    let (full, last) = (&world.blocks[1], &world.blocks[world.blocks.len() - 1]);
    let wtxids = world.transactions.iter().map(Transaction::wtxid).collect::<Vec<_>>();
    let txids = world.transactions.iter().map(Transaction::txid).collect::<Vec<_>>();
    let mut messages = vec![
        hello(&world.network, all, 4, 1),
        hello(&world.network, 0, 0, 2),
        Message::Ping(1),
        Message::Pong(1),
        Message::GetGenesis,
        Message::Genesis(b"{}".to_vec()),
        Message::GetAddresses(Serves::Any),
        Message::GetAddresses(Serves::Height(2)),
        Message::GetAddresses(Serves::Snapshot),
        Message::Addresses(vec![record(host(40), 9), record(onion, 1), record(v6, 3)]),
        Message::GetHeaders { locator: vec![genesis], stop: BlockHash::ZERO },
        Message::GetHeaders { locator: vec![world.fork[0].hash(), full.hash()], stop: last.hash() },
        Message::Headers(Vec::new()),
        Message::Headers(headers.clone()),
        Message::Headers(headers[2..].to_vec()),
        Message::Headers(vec![world.blocks[0].header, world.fork[0].header]),
        Message::Headers(vec![world.invalid.header]),
        Message::Announce(wtxids.clone()),
        Message::AnnounceBlock(last.header),
        Message::AnnounceBlock(world.invalid.header),
        Message::GetTransactions { wtxids: wtxids.clone(), txids: txids.clone() },
        Message::Transactions(world.transactions.clone()),
        Message::GetBlocks(world.blocks.iter().map(Block::hash).collect()),
        Message::GetBlockTransactions { hash: full.hash(), indexes: vec![0, 1] },
        Message::GetBlockTransactions { hash: full.hash(), indexes: Vec::new() },
        Message::BlockTransactions(Box::new(BlockTransactions {
            hash: full.hash(),
            transactions: full.transactions.clone(),
        })),
        Message::NotFound(vec![Reference::Block(last.hash()), Reference::Transaction(wtxids[0])]),
        Message::NotFound(txids.iter().map(|txid| Reference::Parent(*txid)).collect()),
        Message::FeeFilter(1_000),
        Message::SendCompact(true),
        Message::SendCompact(false),
    ];
    let prefilled = Prefilled { index: 1, transaction: full.transactions[1].clone() };
    let whole = CompactBlock::of(full, 7);
    let half = CompactBlock { short_ids: whole.short_ids[..1].to_vec(), prefilled: vec![prefilled], ..whole };
    messages.push(Message::CompactBlock(Box::new(half)));
    for block in world.blocks.iter().chain(&world.fork).chain([&world.invalid]) {
        messages.push(Message::Block(codec::encode(block).into()));
        messages.push(Message::CompactBlock(Box::new(CompactBlock::of(block, 3))));
    }
    messages.extend(world.transactions.iter().map(|transaction| Message::Transactions(vec![transaction.clone()])));
    let range = CoinRange { base: last.hash(), bucket: 3, first: 0, count: 2 };
    messages.extend([
        Message::GetSnapshot,
        Message::Snapshot { height: 4, base: last.hash() },
        Message::GetManifest(last.hash()),
        Message::Manifest(vec![1; 90].into()),
        Message::GetCoins(range),
        Message::Coins { range, coins: vec![0; 2 * ELEMENT_BYTES] },
        Message::NotFound(vec![Reference::Snapshot(BlockHash::ZERO), Reference::Snapshot(last.hash())]),
    ]);
    messages
}
