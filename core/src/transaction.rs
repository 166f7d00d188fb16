//! Transactions and what they are made of: outpoints, coins, inputs, outputs, witnesses; their ids and what is signed.
//!
//! Values and encodings only. Whether a transaction may stand in a block is decided in `consensus/`.

use crate::address::Address;
use crate::amount::Amount;
use crate::codec::{Codec, CodecError, Reader, Writer, encode};
use crate::hash::{BlockHash, Hash256, TaggedHasher, TxId, WtxId, sha256, sha256d};
use crate::height::Height;
use crate::keys::Signature;
use crate::limits;
use crate::policy::{self, SpendPolicy};
use std::sync::LazyLock;

/// A hasher that has consumed the tag of signed messages.
static SIGHASH: LazyLock<TaggedHasher> = LazyLock::new(|| TaggedHasher::new("setara/sighash/1"));
/// Scope of a bare key: its path is empty.
static BARE_SCOPE: LazyLock<[u8; 32]> = LazyLock::new(|| sha256(&[]));

/// First byte of a coinbase.
const KIND_COINBASE: u8 = 0;
/// First byte of a transaction.
const KIND_TRANSACTION: u8 = 1;

/// Names an output of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutPoint {
    /// The transaction that made the output.
    pub txid: TxId,
    /// Its position there, from 0.
    pub index: u32,
}

impl OutPoint {
    /// Output `index` of transaction `txid`.
    pub const fn new(txid: TxId, index: u32) -> Self {
        Self { txid, index }
    }
}

impl core::fmt::Display for OutPoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}", self.txid, self.index)
    }
}

/// Money locked to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// How much.
    pub amount: Amount,
    /// The hash of the policy that can spend it.
    pub address: Address,
}

/// An unspent output, with what the rules need to know about its birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coin {
    /// Amount and address.
    pub output: Output,
    /// Height of the block that made it.
    pub height: Height,
    /// Whether a coinbase made it: then it must mature.
    pub from_coinbase: bool,
}

/// A spend: which coin, and the amount it is stated to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// The coin spent.
    pub outpoint: OutPoint,
    /// The coin's amount, stated and signed: the fee is known without looking anything up.
    pub amount: Amount,
}

/// What satisfies the policy of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The revealed policy; unused branches are `Opaque`.
    pub policy: SpendPolicy,
    /// Consumed by `Key` nodes in pre-order.
    pub signatures: Vec<Signature>,
    /// Consumed by `Hash` nodes in pre-order.
    pub preimages: Vec<[u8; 32]>,
    /// One item per `Future` node in pre-order.
    pub future: Vec<Vec<u8>>,
}

/// A transfer of coins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The coins spent.
    pub inputs: Vec<Input>,
    /// The coins made.
    pub outputs: Vec<Output>,
    /// First height of a block that may hold it.
    pub valid_from: u32,
    /// Free bytes, at most [`limits::MEMO_BYTES_MAX`].
    pub memo: Vec<u8>,
    /// One per input.
    pub witnesses: Vec<Witness>,
}

/// A block's first transaction: new coins, and the commitment to all coins after the parent block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coinbase {
    /// The block's height: makes ids unique (CVE-2012-1909).
    pub height: Height,
    /// Commitment to the unspent coins after the parent block.
    pub coins_root: Hash256,
    /// Who is paid; amounts may be 0, but a zero output never becomes a coin.
    pub outputs: Vec<Output>,
    /// Free bytes, at most [`limits::COINBASE_EXTRA_BYTES_MAX`].
    pub extra: Vec<u8>,
}

impl Transaction {
    /// Encoding up to, but not including, the witness list's count: what `txid` commits to.
    pub(crate) fn write_base(&self, writer: &mut Writer) {
        writer.u8(KIND_TRANSACTION);
        writer.list(&self.inputs);
        writer.list(&self.outputs);
        writer.u32(self.valid_from);
        writer.bytes(&self.memo);
    }

    /// Both ids and the encoded size in bytes, from one encoding.
    pub fn ids(&self) -> TransactionIds {
        let mut writer = Writer::with_capacity(256);
        self.write_base(&mut writer);
        let split = writer.position();
        writer.list(&self.witnesses);
        let bytes = writer.as_slice();
        let (base, witnesses) = bytes.split_at_checked(split).unwrap_or((bytes, &[]));
        TransactionIds::of_encoding(base, witnesses)
    }

    /// `sha256d` of the encoding before the witnesses.
    pub fn txid(&self) -> TxId {
        let mut writer = Writer::with_capacity(256);
        self.write_base(&mut writer);
        TxId::new(sha256d(writer.as_slice()))
    }

    /// `sha256d(0x01 || txid || sha256d(witnesses))`: the Merkle leaf. 65 bytes are hashed, so no leaf is an inner node.
    pub fn wtxid(&self) -> WtxId {
        self.ids().wtxid
    }

    /// Sum of inputs less sum of outputs; `None` if a sum overflows or the outputs exceed the inputs.
    pub fn fee(&self) -> Option<Amount> {
        let spent = Amount::checked_sum(self.inputs.iter().map(|input| input.amount))?;
        let made = Amount::checked_sum(self.outputs.iter().map(|output| output.amount))?;
        spent.checked_sub(made)
    }

    /// The addresses of the coins spent, as the witnesses' policies hash to them, in input order.
    pub fn spent_addresses(&self) -> Vec<Address> {
        self.witnesses.iter().map(|witness| witness.policy.address()).collect()
    }
}

fn wtxid(txid: TxId, witnesses: &[u8]) -> WtxId {
    let mut leaf = [1; 65];
    let witnesses = sha256d(witnesses);
    for (to, from) in leaf.iter_mut().skip(1).zip(txid.as_bytes().iter().chain(witnesses.as_bytes())) {
        *to = *from;
    }
    WtxId::new(sha256d(&leaf))
}

/// A transaction's ids and size, computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionIds {
    /// Identity without witnesses.
    pub txid: TxId,
    /// Identity with witnesses.
    pub wtxid: WtxId,
    /// Encoded bytes.
    pub size: u64,
}

impl TransactionIds {
    /// Of the encoding up to the witness list, and of that list.
    pub(crate) fn of_encoding(base: &[u8], witnesses: &[u8]) -> Self {
        let txid = TxId::new(sha256d(base));
        let size = u64::try_from(base.len().saturating_add(witnesses.len())).unwrap_or(u64::MAX);
        Self { txid, wtxid: wtxid(txid, witnesses), size }
    }
}

impl Coinbase {
    /// `sha256d` of the coinbase's bytes; txid and wtxid in one.
    pub fn txid(&self) -> TxId {
        TxId::new(sha256d(&encode(self)))
    }

    /// The Merkle leaf: the same hash as [`Self::txid`].
    pub fn wtxid(&self) -> WtxId {
        WtxId::new(self.txid().hash())
    }
}

/// The part of every signed message of a transaction that is the same for all its keys.
#[derive(Debug, Clone, Copy)]
pub struct SigningContext {
    prefix: [u8; 96],
}

impl SigningContext {
    /// For transaction `txid` on the network of `genesis`, spending coins of these addresses in input order.
    pub fn new(genesis: BlockHash, txid: TxId, addresses: &[Address]) -> Self {
        let mut concatenated = Vec::with_capacity(addresses.len().saturating_mul(32));
        for address in addresses {
            concatenated.extend_from_slice(address.as_bytes());
        }
        let mut prefix = [0; 96];
        let parts = [*genesis.as_bytes(), *txid.as_bytes(), sha256(&concatenated)];
        for (to, from) in prefix.iter_mut().zip(parts.iter().flatten()) {
            *to = *from;
        }
        Self { prefix }
    }

    /// What the key at `path` of the policy of input `input_index` signs. A path is the 0-based child positions from
    /// the root to the key, `Opaque` siblings counted, one byte each; empty for a bare key.
    pub fn message(&self, input_index: u32, path: &[u8]) -> [u8; 32] {
        let scope = if path.is_empty() { *BARE_SCOPE } else { sha256(path) };
        let mut hasher = SIGHASH.clone();
        hasher.update(&self.prefix);
        hasher.update(&input_index.to_le_bytes());
        hasher.update(&scope);
        *hasher.finish().as_bytes()
    }
}

impl Codec for OutPoint {
    const MIN_SIZE: u64 = 33;

    fn write(&self, writer: &mut Writer) {
        self.txid.write(writer);
        writer.u32(self.index);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { txid: TxId::read(reader)?, index: reader.u32()? })
    }
}

impl Codec for Output {
    const MIN_SIZE: u64 = limits::OUTPUT_BYTES_MIN;

    fn write(&self, writer: &mut Writer) {
        self.amount.write(writer);
        self.address.write(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { amount: Amount::read(reader)?, address: Address::read(reader)? })
    }
}

impl Codec for Input {
    const MIN_SIZE: u64 = limits::INPUT_BYTES_MIN;

    fn write(&self, writer: &mut Writer) {
        self.outpoint.write(writer);
        self.amount.write(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { outpoint: OutPoint::read(reader)?, amount: Amount::read(reader)? })
    }
}

impl Codec for Coin {
    const MIN_SIZE: u64 = limits::OUTPUT_BYTES_MIN + 2;

    fn write(&self, writer: &mut Writer) {
        self.output.write(writer);
        writer.u32(self.height.get());
        writer.u8(u8::from(self.from_coinbase));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let output = Output::read(reader)?;
        let height = Height::new(reader.u32()?);
        let from_coinbase = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(CodecError::NonCanonical),
        };
        Ok(Self { output, height, from_coinbase })
    }
}

impl Codec for Witness {
    const MIN_SIZE: u64 = limits::WITNESS_BYTES_MIN;

    fn write(&self, writer: &mut Writer) {
        self.policy.write(writer);
        writer.list(&self.signatures);
        writer.list(&self.preimages);
        writer.count(self.future.len());
        for item in &self.future {
            writer.bytes(item);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let policy = policy::read_witness_policy(reader)?;
        // A node consumes at most one of each, so a longer list could never be satisfied.
        let nodes = u64::from(limits::POLICY_NODES_MAX);
        let signatures = reader.list("signatures", nodes)?;
        let preimages = reader.list("preimages", nodes)?;
        let count = reader.count("future items", nodes, 1)?;
        let mut left = limits::FUTURE_BYTES_MAX;
        let mut future = Vec::new();
        for _ in 0..count {
            let item = reader.bytes("future bytes", left)?;
            left = left.saturating_sub(u64::try_from(item.len()).unwrap_or(u64::MAX));
            future.push(item);
        }
        Ok(Self { policy, signatures, preimages, future })
    }
}

impl Codec for Transaction {
    const MIN_SIZE: u64 = limits::TRANSACTION_DRAFT_BYTES_MIN;

    fn write(&self, writer: &mut Writer) {
        self.write_base(writer);
        writer.list(&self.witnesses);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Self::read_split(reader).map(|(transaction, _)| transaction)
    }
}

impl Transaction {
    /// Reads one, and says how many bytes followed its part that `txid` commits to.
    pub(crate) fn read_split(reader: &mut Reader<'_>) -> Result<(Self, u64), CodecError> {
        match reader.u8()? {
            KIND_TRANSACTION => {}
            tag => return Err(CodecError::UnknownTag { what: "transaction kind", tag: u64::from(tag) }),
        }
        // The block's size limit bounds these lists; here the input's length does.
        let inputs: Vec<Input> = reader.list("inputs", u64::MAX)?;
        let outputs = reader.list("outputs", u64::MAX)?;
        let valid_from = reader.u32()?;
        let memo = reader.bytes("memo bytes", limits::MEMO_BYTES_MAX)?;
        let after_base = reader.remaining();
        // A witness can be five bytes long and takes twenty times that in memory; an input's 34 bytes pay for it. Fewer
        // than inputs is an unsigned draft, which travels between tools; more never means anything.
        let witnesses = reader.list("witnesses", u64::try_from(inputs.len()).unwrap_or(u64::MAX))?;
        Ok((Self { inputs, outputs, valid_from, memo, witnesses }, after_base))
    }
}

impl Codec for Coinbase {
    const MIN_SIZE: u64 = limits::COINBASE_BYTES_MIN;

    fn write(&self, writer: &mut Writer) {
        writer.u8(KIND_COINBASE);
        writer.u32(self.height.get());
        self.coins_root.write(writer);
        writer.list(&self.outputs);
        writer.bytes(&self.extra);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        match reader.u8()? {
            KIND_COINBASE => {}
            tag => return Err(CodecError::UnknownTag { what: "coinbase kind", tag: u64::from(tag) }),
        }
        let before = reader.remaining();
        let coinbase = Self {
            height: Height::new(reader.u32()?),
            coins_root: Hash256::read(reader)?,
            outputs: reader.list("coinbase outputs", limits::COINBASE_BYTES_MAX / Output::MIN_SIZE)?,
            extra: reader.bytes("extra bytes", limits::COINBASE_EXTRA_BYTES_MAX)?,
        };
        // Without an output some coinbases are 64 bytes long and could pose as an inner node of the Merkle tree.
        if coinbase.outputs.is_empty() {
            return Err(CodecError::NonCanonical);
        }
        let size = before.saturating_sub(reader.remaining()).saturating_add(1);
        if size > limits::COINBASE_BYTES_MAX {
            return Err(CodecError::ListTooLong {
                what: "coinbase bytes",
                count: size,
                max: limits::COINBASE_BYTES_MAX,
            });
        }
        Ok(coinbase)
    }
}
