//! Headers and blocks: Bitcoin's 80-byte header, and the one encoding of a block everywhere.
//!
//! `header (80) || CompactSize count in its shortest form, coinbase included || coinbase || transactions`. Miners
//! build exactly this, and the wire, the disk, RPC and the size limit all use it.

use crate::codec::{Codec, CodecError, Reader, Writer};
use crate::hash::{BlockHash, Hash256, WtxId, sha256d};
use crate::limits::{HEADER_BYTES, TRANSACTION_BYTES_MIN};
use crate::merkle;
use crate::pow::CompactBits;
use crate::transaction::{Coinbase, Transaction, TransactionIds};

/// A block's header: what proof of work commits to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Free: bits 0-12 signal upgrades, 13-28 are for rolling (BIP 320).
    pub version: u32,
    /// The parent's hash.
    pub previous: BlockHash,
    /// Root over the transactions' wtxids, coinbase first.
    pub merkle_root: Hash256,
    /// Unix seconds.
    pub time: u32,
    /// The target, in compact form.
    pub bits: CompactBits,
    /// What miners count through.
    pub nonce: u32,
}

impl Header {
    /// Bitcoin's layout, little endian.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let parts = (self.version.to_le_bytes().into_iter())
            .chain(*self.previous.as_bytes())
            .chain(*self.merkle_root.as_bytes())
            .chain(self.time.to_le_bytes())
            .chain(self.bits.get().to_le_bytes())
            .chain(self.nonce.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(parts) {
            *to = from;
        }
        bytes
    }

    /// The header that 80 bytes mean; every 80 bytes mean one.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Self, CodecError> {
        crate::codec::decode(bytes)
    }

    /// `sha256d` of the 80 bytes.
    pub fn hash(&self) -> BlockHash {
        BlockHash::new(sha256d(&self.to_bytes()))
    }
}

impl Codec for Header {
    const MIN_SIZE: u64 = HEADER_BYTES as u64;

    fn write(&self, writer: &mut Writer) {
        writer.raw(&self.to_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            version: u32::from_le_bytes(reader.raw()?),
            previous: BlockHash::read(reader)?,
            merkle_root: Hash256::read(reader)?,
            time: u32::from_le_bytes(reader.raw()?),
            bits: CompactBits::new(u32::from_le_bytes(reader.raw()?)),
            nonce: u32::from_le_bytes(reader.raw()?),
        })
    }
}

/// A header, its coinbase and its transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Commits to everything else.
    pub header: Header,
    /// New coins, and the commitment to the coins after the parent.
    pub coinbase: Coinbase,
    /// All other transactions; a later one may spend an earlier one.
    pub transactions: Vec<Transaction>,
}

impl Block {
    /// The header's hash.
    pub fn hash(&self) -> BlockHash {
        self.header.hash()
    }

    /// The encoding up to the transactions after the coinbase.
    fn write_head(&self, writer: &mut Writer) {
        self.header.write(writer);
        write_compact_size(writer, u64::try_from(self.transactions.len()).unwrap_or(u64::MAX).saturating_add(1));
        self.coinbase.write(writer);
    }

    /// Merkle leaves: the coinbase's id, then each transaction's wtxid.
    pub fn leaves(coinbase: &Coinbase, ids: &[TransactionIds]) -> Vec<WtxId> {
        let mut leaves = Vec::with_capacity(ids.len().saturating_add(1));
        leaves.push(coinbase.wtxid());
        leaves.extend(ids.iter().map(|ids| ids.wtxid));
        leaves
    }

    /// The root that the header must commit to.
    pub fn merkle_root(&self) -> merkle::MerkleRoot {
        let ids: Vec<TransactionIds> = self.transactions.iter().map(Transaction::ids).collect();
        merkle::root(&Self::leaves(&self.coinbase, &ids))
    }
}

impl Codec for Block {
    const MIN_SIZE: u64 = Header::MIN_SIZE + 1 + Coinbase::MIN_SIZE;

    fn write(&self, writer: &mut Writer) {
        self.write_head(writer);
        for transaction in &self.transactions {
            transaction.write(writer);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Self::read_spans(reader, &mut |_| {})
    }
}

impl Block {
    /// Reads one, and tells where each transaction but the coinbase stands.
    fn read_spans(reader: &mut Reader<'_>, tell: &mut dyn FnMut(SpanFromEnd)) -> Result<Self, CodecError> {
        let header = Header::read(reader)?;
        let count = read_compact_size(reader)?;
        let others = count.checked_sub(1).ok_or(CodecError::Truncated)?;
        let coinbase = Coinbase::read(reader)?;
        let max = reader.remaining().checked_div(TRANSACTION_BYTES_MIN).unwrap_or(0);
        if others > max {
            return Err(CodecError::ListTooLong { what: "transactions", count: others, max });
        }
        // Bounded by the bytes that are there: a transaction in memory is a small multiple of its least encoding.
        let mut transactions = Vec::with_capacity(usize::try_from(others).unwrap_or(0));
        for _ in 0..others {
            let start = reader.remaining();
            let (transaction, witnesses) = Transaction::read_split(reader)?;
            tell(SpanFromEnd { start, witnesses, end: reader.remaining() });
            // Drafts have no place in a block; without this the bound above would be untrue of six-byte ones.
            if transaction.inputs.is_empty() || transaction.outputs.is_empty() || transaction.witnesses.is_empty() {
                return Err(CodecError::NonCanonical);
            }
            transactions.push(transaction);
        }
        Ok(Self { header, coinbase, transactions })
    }
}

/// Where a transaction stands, counted in bytes from the end of the input.
#[derive(Debug, Clone, Copy)]
struct SpanFromEnd {
    start: u64,
    witnesses: u64,
    end: u64,
}

/// A block and its encoding, which always agree: whoever has the bytes need not make them again, nor for the ids.
#[derive(Debug, Clone)]
pub struct EncodedBlock {
    block: Block,
    bytes: Vec<u8>,
    spans: Vec<SpanFromEnd>,
}

impl EncodedBlock {
    /// The block that `bytes`, all of them, encode.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, CodecError> {
        let mut spans = Vec::new();
        let mut reader = Reader::new(&bytes);
        let block = Block::read_spans(&mut reader, &mut |span| spans.push(span))?;
        reader.end()?;
        Ok(Self { block, bytes, spans })
    }

    /// The block.
    pub const fn block(&self) -> &Block {
        &self.block
    }

    /// Its encoding.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The block and its encoding.
    pub fn into_parts(self) -> (Block, Vec<u8>) {
        (self.block, self.bytes)
    }

    /// Ids of the transactions, coinbase not counted: hashed where they stand, as there is one encoding only.
    pub(crate) fn ids(&self, spread: &impl crate::consensus::ForEach) -> Vec<TransactionIds> {
        let length = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        let part = |from: u64, to: u64| {
            let at = |from_end: u64| usize::try_from(length.saturating_sub(from_end)).unwrap_or(usize::MAX);
            self.bytes.get(at(from)..at(to)).unwrap_or_default()
        };
        spread.map(&self.spans, |span| {
            TransactionIds::of_encoding(part(span.start, span.witnesses), part(span.witnesses, span.end))
        })
    }
}

impl From<Block> for EncodedBlock {
    fn from(block: Block) -> Self {
        let mut writer = Writer::default();
        block.write_head(&mut writer);
        // First from the start, as the end is not known yet.
        let position = |writer: &Writer| u64::try_from(writer.position()).unwrap_or(u64::MAX);
        let mut spans = Vec::with_capacity(block.transactions.len());
        for transaction in &block.transactions {
            let start = position(&writer);
            transaction.write_base(&mut writer);
            let witnesses = position(&writer);
            writer.list(&transaction.witnesses);
            spans.push(SpanFromEnd { start, witnesses, end: position(&writer) });
        }
        let length = position(&writer);
        for span in &mut spans {
            for place in [&mut span.start, &mut span.witnesses, &mut span.end] {
                *place = length.saturating_sub(*place);
            }
        }
        Self { block, bytes: writer.finish(), spans }
    }
}

/// Bitcoin's CompactSize, in its shortest form.
pub fn write_compact_size(writer: &mut Writer, value: u64) {
    let bytes = value.to_le_bytes();
    let (marker, length) = match value {
        0..=0xfc => (None, 1),
        0xfd..=0xffff => (Some(0xfd), 2),
        0x1_0000..=0xffff_ffff => (Some(0xfe), 4),
        _ => (Some(0xff), 8),
    };
    if let Some(marker) = marker {
        writer.u8(marker);
    }
    writer.raw(bytes.get(..length).unwrap_or(&bytes));
}

/// Bitcoin's CompactSize; only the shortest form.
pub fn read_compact_size(reader: &mut Reader<'_>) -> Result<u64, CodecError> {
    let (value, least) = match reader.u8()? {
        0xfd => (u64::from(u16::from_le_bytes(reader.raw()?)), 0xfd),
        0xfe => (u64::from(u32::from_le_bytes(reader.raw()?)), 0x1_0000),
        0xff => (u64::from_le_bytes(reader.raw()?), 0x1_0000_0000),
        small => (u64::from(small), 0),
    };
    if value < least { Err(CodecError::NonCanonical) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_size_has_one_form() {
        for (value, bytes) in [
            (0u64, "00"),
            (0xfc, "fc"),
            (0xfd, "fdfd00"),
            (0xffff, "fdffff"),
            (0x1_0000, "fe00000100"),
            (0xffff_ffff, "feffffffff"),
            (0x1_0000_0000, "ff0000000001000000"),
        ] {
            let mut writer = Writer::default();
            write_compact_size(&mut writer, value);
            assert_eq!(hex::encode(writer.as_slice()), bytes);
            assert_eq!(read_compact_size(&mut Reader::new(writer.as_slice())), Ok(value));
        }
        for over_long in ["fdfc00", "feffff0000", "ffffffffff00000000"] {
            let bytes = hex::decode(over_long).unwrap();
            assert_eq!(read_compact_size(&mut Reader::new(&bytes)), Err(CodecError::NonCanonical));
        }
    }
}
