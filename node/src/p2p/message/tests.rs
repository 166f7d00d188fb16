//! Messages as bytes: one encoding each, nothing believed before it is there.

use super::*;
use crate::p2p::limits;
use crate::testing::{ChainBuilder, address, coins, funded_network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::codec;
use setara_core::lattice::ELEMENT_BYTES;
use std::net::Ipv4Addr;

const BLOCK_BYTES: u64 = 4_000_000;

/// One of every kind.
fn samples() -> Vec<Message> {
    let network = funded_network(2, coins(10));
    let mut builder = ChainBuilder::new(&network);
    builder.mine_empty(1);
    let coin = builder.spendable()[0];
    let transaction = builder.spend(&[coin], &[(address(3), coins(1))]);
    let block = builder.mine(vec![transaction.clone()]);
    let header = block.header;
    let wtxid = transaction.wtxid();
    let record = |host| AddressRecord {
        address: PeerAddress { host, port: 19_720 },
        services: services::BLOCKS,
        serves: (5, 900),
        time: 1_800_000_000,
    };
    let hello = Hello {
        version: 1,
        agent: "/Setara:0.1.0/".to_owned(),
        services: services::BLOCKS | services::TRANSACTIONS,
        fork_id: ([1, 2, 3, 4], 0),
        serves: (0, 77),
        nonce: 9,
        listen_port: 19_740,
        relay: true,
        time: 1_800_000_000,
        extras: vec![(7, vec![1, 2, 3])],
    };
    vec![
        Message::Hello(Box::new(hello)),
        Message::Ping(1),
        Message::Pong(2),
        Message::GetGenesis,
        Message::Genesis(b"{}".to_vec()),
        Message::GetAddresses(Serves::Height(70_000)),
        Message::Addresses(vec![
            record(NetAddress::V4(Ipv4Addr::new(203, 0, 113, 7))),
            record(NetAddress::V6("2001:db8::1".parse().unwrap())),
            record(NetAddress::Onion([3; 32])),
        ]),
        Message::GetHeaders { locator: vec![block.hash(), header.previous], stop: BlockHash::ZERO },
        Message::Headers(vec![header]),
        Message::Announce(vec![wtxid]),
        Message::AnnounceBlock(header),
        Message::GetTransactions { wtxids: vec![wtxid], txids: vec![transaction.txid()] },
        Message::Transactions(vec![transaction.clone()]),
        Message::GetBlocks(vec![block.hash()]),
        Message::Block(codec::encode(&block).into()),
        Message::CompactBlock(Box::new(CompactBlock {
            header,
            nonce: 3,
            coinbase: block.coinbase.clone(),
            short_ids: vec![[1, 2, 3, 4, 5, 6]],
            prefilled: vec![Prefilled { index: 1, transaction: transaction.clone() }],
        })),
        Message::GetBlockTransactions { hash: block.hash(), indexes: vec![0, 3] },
        Message::BlockTransactions(Box::new(BlockTransactions { hash: block.hash(), transactions: vec![transaction] })),
        Message::NotFound(vec![Reference::Block(block.hash()), Reference::Transaction(wtxid)]),
        Message::FeeFilter(1_000),
        Message::SendCompact(true),
        Message::GetSnapshot,
        Message::Snapshot { height: 70_000, base: block.hash() },
        Message::GetManifest(block.hash()),
        Message::Manifest(vec![5; 300].into()),
        Message::GetCoins(range(block.hash(), 7, 2)),
        Message::Coins { range: range(block.hash(), 7, 2), coins: vec![9; 2 * ELEMENT_BYTES] },
    ]
}

fn range(base: BlockHash, first: u32, count: u32) -> CoinRange {
    CoinRange { base, bucket: 200, first, count }
}

fn decode(frame: &[u8]) -> Result<Message, MessageError> {
    Message::decode(frame[0], frame[FRAME_HEAD_BYTES..].to_vec(), BLOCK_BYTES)
}

#[test]
fn every_kind_reads_as_it_was_written_and_only_so() {
    let samples = samples();
    assert_eq!(samples.iter().map(Message::kind).collect::<Vec<_>>(), (0..=kind::LAST).collect::<Vec<_>>());
    for message in samples {
        let frame = message.encode();
        let length = u32::from_le_bytes([frame[1], frame[2], frame[3], 0]) as usize;
        assert_eq!(length, frame.len() - FRAME_HEAD_BYTES, "{}", message.name());
        assert_eq!(decode(&frame).as_ref(), Ok(&message));
        // A block is judged by its header here, and whole by the chain; a manifest by whoever asked for it.
        if matches!(message.kind(), kind::BLOCK | kind::MANIFEST) {
            continue;
        }
        for end in FRAME_HEAD_BYTES..frame.len() {
            assert!(decode(&frame[..end]).is_err(), "{} cut to {end}", message.name());
        }
        let longer = [frame.as_slice(), &[0]].concat();
        assert!(decode(&longer).is_err(), "{} with a byte behind it", message.name());
    }
}

#[test]
fn golden_bytes_of_the_small_ones() {
    let golden = [
        (Message::Ping(0x0102), "01080000".to_owned() + "0201000000000000"),
        (Message::GetGenesis, "03000000".to_owned()),
        (Message::GetAddresses(Serves::Any), "0501000000".to_owned()),
        (Message::GetAddresses(Serves::Height(258)), "050500000102010000".to_owned()),
        (Message::SendCompact(true), "1401000001".to_owned()),
        (Message::GetSnapshot, "15000000".to_owned()),
        (
            Message::GetCoins(range(BlockHash::from_bytes([0xcd; 32]), 258, 6_000)),
            "19290000".to_owned() + &"cd".repeat(32) + "c8" + "02010000" + "70170000",
        ),
        (
            Message::NotFound(vec![Reference::Snapshot(BlockHash::ZERO)]),
            "122500000100000003".to_owned() + &"00".repeat(32),
        ),
        (Message::Announce(vec![WtxId::from_bytes([0xab; 32])]), "0924000001000000".to_owned() + &"ab".repeat(32)),
    ];
    for (message, bytes) in golden {
        assert_eq!(hex::encode(message.encode()), bytes, "{}", message.name());
    }
}

/// CS6, TH1. A count that the bytes cannot hold costs no memory; damage of any kind never panics.
#[test]
fn th1_hostile_bodies_cost_no_more_than_their_bytes() {
    let mut rng = StdRng::seed_from_u64(3);
    for message in samples() {
        let frame = message.encode();
        for _ in 0..300 {
            let mut body = frame[FRAME_HEAD_BYTES..].to_vec();
            for _ in 0..rng.random_range(1..4) {
                if body.is_empty() {
                    break;
                }
                let at = rng.random_range(0..body.len());
                match rng.random_range(0..3) {
                    0 => body[at] = rng.random(),
                    1 => body[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                    _ => body.truncate(at),
                }
            }
            let size = body.len() as u64;
            let used = allocation_counter::measure(|| drop(Message::decode(frame[0], body, BLOCK_BYTES)));
            assert!(used.bytes_max <= 2 * size + (64 << 10), "{}: {} for {size}", message.name(), used.bytes_max);
        }
    }
}

#[test]
fn what_may_not_be_is_refused() {
    let frame = |message: &Message| message.encode();
    let refused = |bytes: &[u8], what: &str| assert!(decode(bytes).is_err(), "{what}");
    let ordered = Message::GetBlockTransactions { hash: BlockHash::ZERO, indexes: vec![3, 3] };
    refused(&frame(&ordered), "positions twice");
    let mapped = AddressRecord {
        address: PeerAddress { host: NetAddress::V6("::ffff:1.2.3.4".parse().unwrap()), port: 1 },
        services: 0,
        serves: (0, 0),
        time: 0,
    };
    refused(&frame(&Message::Addresses(vec![mapped])), "IPv4 in the form of IPv6");
    refused(&[kind::SEND_COMPACT, 1, 0, 0, 2], "a third truth");
    refused(&[kind::GET_ADDRESSES, 1, 0, 0, 9], "an unknown thing to serve");
    refused(&frame(&Message::GetBlocks(vec![BlockHash::ZERO; limits::REQUESTED_BLOCKS_MAX as usize + 1])), "too many");
    let coins_max = limits::RANGE_COINS_MAX as u32;
    for (first, count, what) in [
        (0, 0, "no coins"),
        (0, coins_max + 1, "more coins than a message holds"),
        (u32::MAX, 1, "a coin past all numbers"),
    ] {
        let range = range(BlockHash::ZERO, first, count);
        refused(&frame(&Message::GetCoins(range)), what);
        refused(&frame(&Message::Coins { range, coins: vec![0; count as usize * ELEMENT_BYTES] }), what);
    }
    let two = range(BlockHash::ZERO, 0, 2);
    for bytes in [0, ELEMENT_BYTES, 2 * ELEMENT_BYTES - 1, 2 * ELEMENT_BYTES + 1, 3 * ELEMENT_BYTES] {
        refused(&frame(&Message::Coins { range: two, coins: vec![0; bytes] }), "other coins than it says");
    }
    let long = Message::decode(kind::MANIFEST, vec![0; limits::MANIFEST_BYTES_MAX as usize + 1], BLOCK_BYTES);
    assert!(matches!(long, Err(MessageError::TooLong { .. })), "a manifest without end");
    let Message::Hello(mut hello) = samples().remove(0) else { panic!("a hello comes first") };
    hello.agent = "\u{1b}[2J".to_owned();
    refused(&frame(&Message::Hello(hello)), "an agent that moves the cursor");
    assert!(matches!(Message::decode(200, vec![], BLOCK_BYTES), Err(MessageError::UnknownKind(200))));
    let block = Message::decode(kind::BLOCK, vec![0; 79], BLOCK_BYTES);
    assert!(block.is_err(), "shorter than a header");
}

/// An address of a later kind is passed over; those around it are read.
#[test]
fn addresses_of_later_kinds_are_passed_over() {
    let mut frame = samples().remove(6).encode();
    // The first record's kind: after the count, time, services and range.
    frame[FRAME_HEAD_BYTES + 4 + 20] = 99;
    let Ok(Message::Addresses(records)) = decode(&frame) else { panic!("it decodes") };
    assert_eq!(records.len(), 2);
}

#[test]
fn limits_hold_what_may_be_sent() {
    let onion = AddressRecord {
        address: PeerAddress { host: NetAddress::Onion([1; 32]), port: 1 },
        services: 1,
        serves: (0, 1),
        time: 1,
    };
    let Some(Message::Headers(headers)) = samples().into_iter().find(|message| message.kind() == kind::HEADERS) else {
        panic!("headers are among the samples")
    };
    let largest = [
        Message::Addresses(vec![onion; limits::ADDRESSES_MAX as usize]),
        Message::Headers(vec![headers[0]; limits::HEADERS_MAX as usize]),
        Message::Announce(vec![WtxId::ZERO; limits::ANNOUNCED_MAX as usize]),
        Message::GetHeaders {
            locator: vec![BlockHash::ZERO; limits::LOCATOR_HASHES_MAX as usize],
            stop: BlockHash::ZERO,
        },
        Message::NotFound(vec![Reference::Parent(TxId::ZERO); limits::REQUESTED_TRANSACTIONS_MAX as usize]),
        Message::Genesis(vec![0; limits::GENESIS_BYTES_MAX as usize]),
        Message::Manifest(vec![0; limits::MANIFEST_BYTES_MAX as usize].into()),
        Message::Coins {
            range: range(BlockHash::ZERO, 0, limits::RANGE_COINS_MAX as u32),
            coins: vec![0; limits::RANGE_COINS_MAX as usize * ELEMENT_BYTES],
        },
    ];
    for message in largest {
        assert_eq!(decode(&message.encode()), Ok(message.clone()), "{}", message.name());
    }
    // A frame's length has 24 bits.
    let most = setara_core::limits::BLOCK_BYTES_MAX;
    assert!(frame_limit(kind::BLOCK, most).unwrap() < 1 << 24);
}
