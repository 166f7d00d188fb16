//! The one encoding of messages: written and read field by field, every byte accounted for.

use super::{
    AddressRecord, BlockTransactions, CoinRange, CompactBlock, FRAME_HEAD_BYTES, Hello, Message, NetAddress,
    PeerAddress, Prefilled, Reference, Serves, kind,
};
use crate::p2p::limits;
use setara_core::block::Header;
use setara_core::codec::{self, Codec};
use setara_core::hash::{BlockHash, TxId, WtxId};
use setara_core::lattice::ELEMENT_BYTES;
use setara_core::limits::HEADER_BYTES;
use setara_core::transaction::Transaction;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body is longer than its kind may be.
    #[error("a {kind} message of {got} bytes, at most {max} are allowed")]
    TooLong {
        /// The kind's name.
        kind: &'static str,
        /// Bytes.
        got: u64,
        /// The most allowed.
        max: u64,
    },
    /// The body does not decode.
    #[error("a {kind} message that does not decode: {reason}")]
    Undecodable {
        /// The kind's name.
        kind: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A kind of a later version.
    #[error("an unknown kind of message, {0}")]
    UnknownKind(u8),
}

/// Bytes that the body of a kind may have; `None` for kinds of later versions, which are skipped up to
/// [`limits::SMALL_BYTES_MAX`] times a thousand.
pub const fn frame_limit(number: u8, max_block_bytes: u64) -> Option<u64> {
    Some(match number {
        kind::PING | kind::PONG | kind::FEE_FILTER => 8,
        kind::GET_GENESIS => 0,
        kind::SEND_COMPACT => 1,
        kind::ANNOUNCE_BLOCK => HEADER_BYTES as u64,
        kind::GET_ADDRESSES => 5,
        kind::HELLO => limits::SMALL_BYTES_MAX + limits::HELLO_EXTRAS_MAX * (limits::HELLO_EXTRA_BYTES_MAX + 6),
        kind::GENESIS => limits::GENESIS_BYTES_MAX + 4,
        // A record is at most 4 + 8 + 8 bytes, an address of any kind, and a port.
        kind::ADDRESSES => 4 + limits::ADDRESSES_MAX * (24 + limits::ADDRESS_BYTES_MAX),
        kind::GET_HEADERS => 4 + limits::LOCATOR_HASHES_MAX * 32 + 32,
        kind::HEADERS => 4 + limits::HEADERS_MAX * HEADER_BYTES as u64,
        kind::ANNOUNCE => 4 + limits::ANNOUNCED_MAX * 32,
        kind::GET_TRANSACTIONS => 8 + limits::REQUESTED_TRANSACTIONS_MAX * 32,
        kind::TRANSACTIONS => 4 + limits::TRANSACTIONS_BYTES_MAX + limits::REQUESTED_TRANSACTIONS_MAX * 4,
        kind::GET_BLOCKS => 4 + limits::REQUESTED_BLOCKS_MAX * 32,
        kind::NOT_FOUND => 4 + limits::REQUESTED_TRANSACTIONS_MAX * 33,
        kind::BLOCK => max_block_bytes + limits::BLOCK_SLACK_BYTES,
        // Lengths beside the transactions of a block: four bytes each, at the least 77 bytes of block.
        kind::COMPACT_BLOCK | kind::BLOCK_TRANSACTIONS | kind::GET_BLOCK_TRANSACTIONS => {
            max_block_bytes + max_block_bytes / 8 + limits::BLOCK_SLACK_BYTES
        }
        kind::GET_SNAPSHOT => 0,
        kind::SNAPSHOT => 4 + 32,
        kind::GET_MANIFEST => 32,
        kind::MANIFEST => limits::MANIFEST_BYTES_MAX,
        kind::GET_COINS => RANGE_BYTES,
        kind::COINS => RANGE_BYTES + limits::RANGE_COINS_MAX * ELEMENT_BYTES as u64,
        _ => return None,
    })
}

/// Bytes of a [`CoinRange`].
const RANGE_BYTES: u64 = 32 + 1 + 4 + 4;

/// Bytes of a frame of an unknown kind, which is read past: as much as the largest message of today on the main network.
pub const UNKNOWN_FRAME_BYTES_MAX: u64 = 1_000_000;

impl Message {
    /// The whole frame: kind, length, body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out(vec![self.kind(), 0, 0, 0]);
        self.write(&mut out);
        let mut bytes = out.0;
        let length = u32::try_from(bytes.len() - FRAME_HEAD_BYTES).expect("messages are built within their limits");
        assert!(length < 1 << 24, "messages are built within their limits");
        bytes[1..FRAME_HEAD_BYTES].copy_from_slice(&length.to_le_bytes()[..3]);
        bytes
    }

    /// The message of a kind that a body encodes.
    pub fn decode(number: u8, body: Vec<u8>, max_block_bytes: u64) -> Result<Self, MessageError> {
        let max = frame_limit(number, max_block_bytes).ok_or(MessageError::UnknownKind(number))?;
        let name = kind::name(number);
        let got = body.len() as u64;
        if got > max {
            return Err(MessageError::TooLong { kind: name, got, max });
        }
        let undecodable = |reason| MessageError::Undecodable { kind: name, reason };
        if number == kind::BLOCK {
            let head = body.first_chunk::<HEADER_BYTES>().ok_or_else(|| undecodable("shorter than a header"))?;
            Header::from_bytes(head).map_err(|_| undecodable("no header"))?;
            return Ok(Self::Block(body.into()));
        }
        if number == kind::MANIFEST {
            return Ok(Self::Manifest(body.into()));
        }
        let mut rest = In { rest: &body, max_block_bytes };
        let message = Self::read(number, &mut rest).map_err(undecodable)?;
        if rest.rest.is_empty() { Ok(message) } else { Err(undecodable("bytes follow it")) }
    }

    fn write(&self, out: &mut Out) {
        match self {
            Self::Hello(hello) => write_hello(out, hello),
            Self::Ping(nonce) | Self::Pong(nonce) | Self::FeeFilter(nonce) => out.raw(&nonce.to_le_bytes()),
            Self::GetGenesis => {}
            Self::Genesis(file) => out.bytes(file),
            Self::GetAddresses(serves) => match serves {
                Serves::Any => out.raw(&[0]),
                Serves::Height(height) => {
                    out.raw(&[1]);
                    out.u32(*height);
                }
                Serves::Snapshot => out.raw(&[2]),
            },
            Self::Addresses(records) => out.list(records, write_record),
            Self::GetHeaders { locator, stop } => {
                out.list(locator, |out, hash| out.raw(hash.as_bytes()));
                out.raw(stop.as_bytes());
            }
            Self::Headers(headers) => out.list(headers, |out, header| out.raw(&header.to_bytes())),
            Self::Announce(wtxids) => out.list(wtxids, |out, hash| out.raw(hash.as_bytes())),
            Self::AnnounceBlock(header) => out.raw(&header.to_bytes()),
            Self::GetTransactions { wtxids, txids } => {
                out.list(wtxids, |out, hash| out.raw(hash.as_bytes()));
                out.list(txids, |out, hash| out.raw(hash.as_bytes()));
            }
            Self::Transactions(transactions) => out.list(transactions, Out::sized),
            Self::GetBlocks(hashes) => out.list(hashes, |out, hash| out.raw(hash.as_bytes())),
            Self::Block(bytes) => out.raw(bytes),
            Self::CompactBlock(compact) => {
                out.raw(&compact.header.to_bytes());
                out.raw(&compact.nonce.to_le_bytes());
                out.sized(&compact.coinbase);
                out.list(&compact.short_ids, |out, id| out.raw(id));
                out.list(&compact.prefilled, |out, Prefilled { index, transaction }| {
                    out.u32(*index);
                    out.sized(transaction);
                });
            }
            Self::GetBlockTransactions { hash, indexes } => {
                out.raw(hash.as_bytes());
                out.list(indexes, |out, index| out.u32(*index));
            }
            Self::BlockTransactions(answer) => {
                out.raw(answer.hash.as_bytes());
                out.list(&answer.transactions, Out::sized);
            }
            Self::NotFound(references) => out.list(references, |out, reference| {
                let (tag, hash) = match reference {
                    Reference::Block(hash) => (0, hash.as_bytes()),
                    Reference::Transaction(hash) => (1, hash.as_bytes()),
                    Reference::Parent(hash) => (2, hash.as_bytes()),
                    Reference::Snapshot(hash) => (3, hash.as_bytes()),
                };
                out.raw(&[tag]);
                out.raw(hash);
            }),
            Self::SendCompact(wanted) => out.raw(&[u8::from(*wanted)]),
            Self::GetSnapshot => {}
            Self::Snapshot { height, base } => {
                out.u32(*height);
                out.raw(base.as_bytes());
            }
            Self::GetManifest(base) => out.raw(base.as_bytes()),
            Self::Manifest(bytes) => out.raw(bytes),
            Self::GetCoins(range) => write_range(out, range),
            Self::Coins { range, coins } => {
                write_range(out, range);
                out.raw(coins);
            }
        }
    }

    fn read(number: u8, rest: &mut In<'_>) -> Result<Self, &'static str> {
        Ok(match number {
            kind::HELLO => Self::Hello(Box::new(read_hello(rest)?)),
            kind::PING => Self::Ping(rest.u64()?),
            kind::PONG => Self::Pong(rest.u64()?),
            kind::GET_GENESIS => Self::GetGenesis,
            kind::GENESIS => Self::Genesis(rest.bytes(limits::GENESIS_BYTES_MAX)?.to_vec()),
            kind::GET_ADDRESSES => Self::GetAddresses(match rest.u8()? {
                0 => Serves::Any,
                1 => Serves::Height(rest.u32()?),
                2 => Serves::Snapshot,
                _ => return Err("unknown thing to serve"),
            }),
            kind::ADDRESSES => Self::Addresses(read_records(rest)?),
            kind::GET_HEADERS => {
                let locator = rest.list(limits::LOCATOR_HASHES_MAX, 32, In::block_hash)?;
                Self::GetHeaders { locator, stop: rest.block_hash()? }
            }
            kind::HEADERS => Self::Headers(rest.list(limits::HEADERS_MAX, HEADER_BYTES as u64, In::header)?),
            kind::ANNOUNCE => Self::Announce(rest.list(limits::ANNOUNCED_MAX, 32, In::wtxid)?),
            kind::ANNOUNCE_BLOCK => Self::AnnounceBlock(rest.header()?),
            kind::GET_TRANSACTIONS => {
                let wtxids = rest.list(limits::REQUESTED_TRANSACTIONS_MAX, 32, In::wtxid)?;
                let left = limits::REQUESTED_TRANSACTIONS_MAX - wtxids.len() as u64;
                Self::GetTransactions { wtxids, txids: rest.list(left, 32, In::txid)? }
            }
            kind::TRANSACTIONS => Self::Transactions(rest.transactions(limits::REQUESTED_TRANSACTIONS_MAX)?),
            kind::GET_BLOCKS => Self::GetBlocks(rest.list(limits::REQUESTED_BLOCKS_MAX, 32, In::block_hash)?),
            kind::COMPACT_BLOCK => Self::CompactBlock(Box::new(read_compact(rest)?)),
            kind::GET_BLOCK_TRANSACTIONS => {
                let hash = rest.block_hash()?;
                let indexes = rest.list(rest.block_items_max(), 4, In::u32)?;
                ascending(indexes.iter())?;
                Self::GetBlockTransactions { hash, indexes }
            }
            kind::BLOCK_TRANSACTIONS => {
                let hash = rest.block_hash()?;
                let transactions = rest.transactions(rest.block_items_max())?;
                Self::BlockTransactions(Box::new(BlockTransactions { hash, transactions }))
            }
            kind::NOT_FOUND => Self::NotFound(rest.list(limits::REQUESTED_TRANSACTIONS_MAX, 33, |rest| {
                Ok(match rest.u8()? {
                    0 => Reference::Block(rest.block_hash()?),
                    1 => Reference::Transaction(rest.wtxid()?),
                    2 => Reference::Parent(rest.txid()?),
                    3 => Reference::Snapshot(rest.block_hash()?),
                    _ => return Err("unknown reference"),
                })
            })?),
            kind::FEE_FILTER => Self::FeeFilter(rest.u64()?),
            kind::SEND_COMPACT => Self::SendCompact(rest.bool()?),
            kind::GET_SNAPSHOT => Self::GetSnapshot,
            kind::SNAPSHOT => Self::Snapshot { height: rest.u32()?, base: rest.block_hash()? },
            kind::GET_MANIFEST => Self::GetManifest(rest.block_hash()?),
            kind::GET_COINS => Self::GetCoins(read_range(rest)?),
            kind::COINS => {
                let range = read_range(rest)?;
                let coins = rest.take(range.count as usize * ELEMENT_BYTES)?.to_vec();
                Self::Coins { range, coins }
            }
            _ => return Err("unknown kind"),
        })
    }
}

/// Bytes being written.
struct Out(Vec<u8>);

impl Out {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("messages are built within their limits"));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.count(items.len());
        for item in items {
            write(self, item);
        }
    }

    /// A value in its consensus encoding, behind its length.
    fn sized<T: Codec>(&mut self, value: &T) {
        let at = self.0.len();
        self.u32(0);
        let mut writer = codec::Writer::append_to(std::mem::take(&mut self.0));
        value.write(&mut writer);
        self.0 = writer.finish();
        let length = u32::try_from(self.0.len() - at - 4).expect("messages are built within their limits");
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// Bytes being read.
struct In<'a> {
    rest: &'a [u8],
    max_block_bytes: u64,
}

type Read<T> = Result<T, &'static str>;

const SHORT: &str = "it ends too early";

impl<'a> In<'a> {
    fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(SHORT)?;
        self.rest = rest;
        Ok(head)
    }

    fn raw<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Read<u8> {
        self.raw::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Read<u16> {
        self.raw().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Read<u32> {
        self.raw().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Read<u64> {
        self.raw().map(u64::from_le_bytes)
    }

    fn bool(&mut self) -> Read<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("neither yes nor no"),
        }
    }

    fn block_hash(&mut self) -> Read<BlockHash> {
        self.raw().map(BlockHash::from_bytes)
    }

    fn wtxid(&mut self) -> Read<WtxId> {
        self.raw().map(WtxId::from_bytes)
    }

    fn txid(&mut self) -> Read<TxId> {
        self.raw().map(TxId::from_bytes)
    }

    fn header(&mut self) -> Read<Header> {
        Header::from_bytes(&self.raw::<HEADER_BYTES>()?).map_err(|_| "no header")
    }

    /// A list's count, refused before anything is reserved for it.
    fn count(&mut self, max: u64, item_min: u64) -> Read<u64> {
        let count = u64::from(self.u32()?);
        if count > max.min(self.rest.len() as u64 / item_min) { Err("a list is too long") } else { Ok(count) }
    }

    fn list<T>(&mut self, max: u64, item_min: u64, read: impl Fn(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let count = self.count(max, item_min)?;
        // Items in memory may be larger than on the wire: they are reserved as they come.
        let mut items = Vec::with_capacity(usize::try_from(count.min(RESERVE_ITEMS_MAX)).unwrap_or(0));
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn bytes(&mut self, max: u64) -> Read<&'a [u8]> {
        let count = self.count(max, 1)?;
        self.take(usize::try_from(count).map_err(|_| SHORT)?)
    }

    /// A value in its consensus encoding, behind its length.
    fn sized<T: Codec>(&mut self) -> Read<T> {
        let bytes = self.bytes(u64::MAX)?;
        codec::decode(bytes).map_err(|_| "an item is not in its consensus encoding")
    }

    fn transactions(&mut self, max: u64) -> Read<Vec<Transaction>> {
        self.list(max, 4 + setara_core::limits::TRANSACTION_DRAFT_BYTES_MIN, Self::sized)
    }

    /// Transactions that a block can have.
    const fn block_items_max(&self) -> u64 {
        self.max_block_bytes / setara_core::limits::TRANSACTION_BYTES_MIN
    }
}

/// Most items reserved before they have been read.
const RESERVE_ITEMS_MAX: u64 = 256;

fn ascending<'a>(indexes: impl Iterator<Item = &'a u32>) -> Read<()> {
    let mut last = None;
    for index in indexes {
        if last.is_some_and(|last| last >= *index) {
            return Err("positions do not ascend");
        }
        last = Some(*index);
    }
    Ok(())
}

fn write_range(out: &mut Out, range: &CoinRange) {
    out.raw(range.base.as_bytes());
    out.raw(&[range.bucket]);
    out.u32(range.first);
    out.u32(range.count);
}

fn read_range(rest: &mut In<'_>) -> Read<CoinRange> {
    let range = CoinRange { base: rest.block_hash()?, bucket: rest.u8()?, first: rest.u32()?, count: rest.u32()? };
    if range.count == 0 || u64::from(range.count) > limits::RANGE_COINS_MAX {
        return Err("no coins, or too many");
    }
    range.first.checked_add(range.count).ok_or("coins past all numbers")?;
    Ok(range)
}

fn write_hello(out: &mut Out, hello: &Hello) {
    out.raw(&hello.version.to_le_bytes());
    out.bytes(hello.agent.as_bytes());
    out.raw(&hello.services.to_le_bytes());
    out.raw(&hello.fork_id.0);
    out.u32(hello.fork_id.1);
    out.u32(hello.serves.0);
    out.u32(hello.serves.1);
    out.raw(&hello.nonce.to_le_bytes());
    out.raw(&hello.listen_port.to_le_bytes());
    out.raw(&[u8::from(hello.relay)]);
    out.raw(&hello.time.to_le_bytes());
    out.list(&hello.extras, |out, (number, bytes)| {
        out.raw(&number.to_le_bytes());
        out.bytes(bytes);
    });
}

fn read_hello(rest: &mut In<'_>) -> Read<Hello> {
    let version = rest.u16()?;
    let agent = rest.bytes(limits::AGENT_BYTES_MAX)?;
    if !agent.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err("the agent is not printable");
    }
    Ok(Hello {
        version,
        agent: String::from_utf8_lossy(agent).into_owned(),
        services: rest.u64()?,
        fork_id: (rest.raw()?, rest.u32()?),
        serves: (rest.u32()?, rest.u32()?),
        nonce: rest.u64()?,
        listen_port: rest.u16()?,
        relay: rest.bool()?,
        time: rest.u64()?,
        extras: rest.list(limits::HELLO_EXTRAS_MAX, 6, |rest| {
            Ok((rest.u16()?, rest.bytes(limits::HELLO_EXTRA_BYTES_MAX)?.to_vec()))
        })?,
    })
}

/// Kinds of addresses; those of later versions are passed over.
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const ONION_V3: u8 = 3;

fn write_record(out: &mut Out, record: &AddressRecord) {
    out.u32(record.time);
    out.raw(&record.services.to_le_bytes());
    out.u32(record.serves.0);
    out.u32(record.serves.1);
    match record.address.host {
        NetAddress::V4(address) => {
            out.raw(&[IPV4, 4]);
            out.raw(&address.octets());
        }
        NetAddress::V6(address) => {
            out.raw(&[IPV6, 16]);
            out.raw(&address.octets());
        }
        NetAddress::Onion(key) => {
            out.raw(&[ONION_V3, 32]);
            out.raw(&key);
        }
    }
    out.raw(&record.address.port.to_le_bytes());
}

fn read_records(rest: &mut In<'_>) -> Read<Vec<AddressRecord>> {
    let records = rest.list(limits::ADDRESSES_MAX, 24, |rest| {
        let (time, services, serves) = (rest.u32()?, rest.u64()?, (rest.u32()?, rest.u32()?));
        let (number, length) = (rest.u8()?, rest.u8()?);
        let bytes = rest.take(usize::from(length))?;
        let port = rest.u16()?;
        let fixed = "an address of another length than its kind's";
        let host = match number {
            IPV4 => NetAddress::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).map_err(|_| fixed)?)),
            IPV6 => {
                let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).map_err(|_| fixed)?);
                if address.to_ipv4_mapped().is_some() {
                    return Err("an IPv4 address in the form of IPv6");
                }
                NetAddress::V6(address)
            }
            ONION_V3 => NetAddress::Onion(bytes.try_into().map_err(|_| fixed)?),
            _ => return Ok(None),
        };
        Ok(Some(AddressRecord { address: PeerAddress { host, port }, services, serves, time }))
    })?;
    Ok(records.into_iter().flatten().collect())
}

fn read_compact(rest: &mut In<'_>) -> Read<CompactBlock> {
    let (header, nonce) = (rest.header()?, rest.u64()?);
    let coinbase = rest.sized()?;
    let max = rest.block_items_max();
    let short_ids = rest.list(max, 6, In::raw)?;
    let prefilled = rest.list(max - short_ids.len() as u64, 8, |rest| {
        Ok(Prefilled { index: rest.u32()?, transaction: rest.sized()? })
    })?;
    ascending(prefilled.iter().map(|prefilled| &prefilled.index))?;
    Ok(CompactBlock { header, nonce, coinbase, short_ids, prefilled })
}
