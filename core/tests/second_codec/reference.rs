//! The protocol's encoding written a second time, from its text alone: no code of the codec under test, no bincode.
//!
//! Plain values, a writer that appends, a reader that returns `None` at the first thing it does not like. Slow and
//! simple on purpose; ids and addresses are computed from bytes, not from values.

use sha2::{Digest, Sha256};

pub type Bytes32 = [u8; 32];

#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    Key(Bytes32),
    Threshold(u8, Vec<Policy>),
    After(u32),
    AfterTime(u32),
    Older(u32),
    Hash(Bytes32),
    Opaque(Bytes32),
    Future(u8, Vec<u8>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Witness {
    pub policy: Policy,
    pub signatures: Vec<[u8; 64]>,
    pub preimages: Vec<Bytes32>,
    pub future: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// txid, index, amount.
    pub inputs: Vec<(Bytes32, u32, u64)>,
    /// amount, address.
    pub outputs: Vec<(u64, Bytes32)>,
    pub valid_from: u32,
    pub memo: Vec<u8>,
    pub witnesses: Vec<Witness>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Coinbase {
    pub height: u32,
    pub coins_root: Bytes32,
    pub outputs: Vec<(u64, Bytes32)>,
    pub extra: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    pub header: [u8; 80],
    pub coinbase: Coinbase,
    pub transactions: Vec<Transaction>,
}

pub fn sha256(bytes: &[u8]) -> Bytes32 {
    Sha256::digest(bytes).into()
}

pub fn sha256d(bytes: &[u8]) -> Bytes32 {
    sha256(&sha256(bytes))
}

pub fn tagged(tag: &str, bytes: &[u8]) -> Bytes32 {
    let tag = sha256(tag.as_bytes());
    sha256(&[&tag[..], &tag[..], bytes].concat())
}

// ---- writing ----

pub fn varint(value: u64) -> Vec<u8> {
    let bytes = value.to_le_bytes();
    match value {
        0..=250 => vec![bytes[0]],
        251..=0xffff => [&[251], &bytes[..2]].concat(),
        0x1_0000..=0xffff_ffff => [&[252], &bytes[..4]].concat(),
        _ => [&[253], &bytes[..8]].concat(),
    }
}

fn list<T>(items: &[T], each: impl Fn(&T) -> Vec<u8>) -> Vec<u8> {
    [varint(items.len() as u64), items.iter().flat_map(each).collect()].concat()
}

fn blob(bytes: &[u8]) -> Vec<u8> {
    [&varint(bytes.len() as u64)[..], bytes].concat()
}

fn output(output: &(u64, Bytes32)) -> Vec<u8> {
    [&varint(output.0)[..], &output.1].concat()
}

fn input(input: &(Bytes32, u32, u64)) -> Vec<u8> {
    [&input.0[..], &varint(input.1.into()), &varint(input.2)].concat()
}

impl Policy {
    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::Key(key) => [&[0], &key[..]].concat(),
            Self::Threshold(n, of) => [vec![1, *n, of.len() as u8], of.iter().flat_map(Self::write).collect()].concat(),
            Self::After(height) => [vec![2], varint(u64::from(*height))].concat(),
            Self::AfterTime(time) => [vec![3], varint(u64::from(*time))].concat(),
            Self::Older(blocks) => [vec![4], varint(u64::from(*blocks))].concat(),
            Self::Hash(hash) => [&[5], &hash[..]].concat(),
            Self::Opaque(address) => [&[6], &address[..]].concat(),
            Self::Future(tag, bytes) => [&[*tag, bytes.len() as u8], &bytes[..]].concat(),
        }
    }

    pub fn address(&self) -> Bytes32 {
        match self {
            Self::Opaque(address) => *address,
            Self::Threshold(n, of) => {
                let hidden = of.iter().map(|child| Self::Opaque(child.address())).collect();
                tagged("setara/policy", &Self::Threshold(*n, hidden).write())
            }
            leaf => tagged("setara/policy", &leaf.write()),
        }
    }
}

impl Witness {
    pub fn write(&self) -> Vec<u8> {
        let signatures = list(&self.signatures, |signature| signature.to_vec());
        let preimages = list(&self.preimages, |preimage| preimage.to_vec());
        [self.policy.write(), signatures, preimages, list(&self.future, |item| blob(item))].concat()
    }
}

impl Transaction {
    fn base(&self) -> Vec<u8> {
        let valid_from = varint(self.valid_from.into());
        [vec![1], list(&self.inputs, input), list(&self.outputs, output), valid_from, blob(&self.memo)].concat()
    }

    pub fn write(&self) -> Vec<u8> {
        [self.base(), list(&self.witnesses, Witness::write)].concat()
    }

    pub fn txid(&self) -> Bytes32 {
        sha256d(&self.base())
    }

    pub fn wtxid(&self) -> Bytes32 {
        let witnesses = sha256d(&list(&self.witnesses, Witness::write));
        sha256d(&[&[1], &self.txid()[..], &witnesses].concat())
    }
}

impl Coinbase {
    pub fn write(&self) -> Vec<u8> {
        let height = varint(self.height.into());
        [vec![0], height, self.coins_root.to_vec(), list(&self.outputs, output), blob(&self.extra)].concat()
    }
}

impl Block {
    pub fn write(&self) -> Vec<u8> {
        let count = self.transactions.len() as u64 + 1;
        let bytes = count.to_le_bytes();
        let count = match count {
            0..=0xfc => vec![bytes[0]],
            0xfd..=0xffff => [&[0xfd], &bytes[..2]].concat(),
            _ => [&[0xfe], &bytes[..4]].concat(),
        };
        let transactions = self.transactions.iter().flat_map(Transaction::write).collect();
        [self.header.to_vec(), count, self.coinbase.write(), transactions].concat()
    }
}

// ---- reading ----

/// The value that all of `bytes` mean, if they mean one.
pub fn whole<T>(bytes: &[u8], read: impl FnOnce(&mut Reader) -> Option<T>) -> Option<T> {
    let mut reader = Reader { bytes: bytes.to_vec(), at: 0 };
    let value = read(&mut reader)?;
    (reader.at == bytes.len()).then_some(value)
}

pub struct Reader {
    bytes: Vec<u8>,
    at: usize,
}

impl Reader {
    fn take(&mut self, count: u64) -> Option<Vec<u8>> {
        let end = self.at.checked_add(count.try_into().ok()?)?;
        let taken = self.bytes.get(self.at..end)?.to_vec();
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N as u64)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Little-endian number of 1 to 8 bytes.
    fn number(&mut self, bytes: u64) -> Option<u64> {
        Some(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn varint(&mut self) -> Option<u64> {
        match self.byte()? {
            251 => self.number(2).filter(|number| *number > 250),
            252 => self.number(4).filter(|number| *number > 0xffff),
            253 => self.number(8).filter(|number| *number > 0xffff_ffff),
            254 | 255 => None,
            small => Some(small.into()),
        }
    }

    fn varint32(&mut self) -> Option<u32> {
        self.varint()?.try_into().ok()
    }

    fn list<T>(&mut self, most: u64, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.varint()?;
        if count > most {
            return None;
        }
        // No item is empty, so a count beyond the input ends by itself.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn blob(&mut self, most: u64) -> Option<Vec<u8>> {
        let count = self.varint()?;
        if count > most { None } else { self.take(count) }
    }

    fn output(&mut self) -> Option<(u64, Bytes32)> {
        Some((self.varint()?, self.array()?))
    }

    /// A witness's policy: at most 8 levels and 64 nodes.
    pub fn policy(&mut self) -> Option<Policy> {
        self.node(1, &mut 0)
    }

    fn node(&mut self, depth: u32, nodes: &mut u32) -> Option<Policy> {
        *nodes += 1;
        if depth > 8 || *nodes > 64 {
            return None;
        }
        Some(match self.byte()? {
            0 => Policy::Key(self.array()?),
            1 => {
                let (n, count) = (self.byte()?, self.byte()?);
                if !(1..=63).contains(&count) || !(1..=count).contains(&n) {
                    return None;
                }
                let mut of = Vec::new();
                for _ in 0..count {
                    of.push(self.node(depth + 1, nodes)?);
                }
                Policy::Threshold(n, of)
            }
            2 => Policy::After(self.varint32()?),
            3 => Policy::AfterTime(self.varint32()?),
            4 => Policy::Older(self.varint32()?),
            5 => Policy::Hash(self.array()?),
            6 if depth > 1 => Policy::Opaque(self.array()?),
            tag @ 128..=255 => {
                let length = self.byte()?;
                Policy::Future(tag, self.take(length.into())?)
            }
            _ => return None,
        })
    }

    pub fn witness(&mut self) -> Option<Witness> {
        let witness = Witness {
            policy: self.policy()?,
            signatures: self.list(64, Self::array)?,
            preimages: self.list(64, Self::array)?,
            future: self.list(64, |reader| reader.blob(4_096))?,
        };
        let future: usize = witness.future.iter().map(Vec::len).sum();
        (future <= 4_096).then_some(witness)
    }

    pub fn transaction(&mut self) -> Option<Transaction> {
        if self.byte()? != 1 {
            return None;
        }
        let inputs = self.list(u64::MAX, |reader| Some((reader.array()?, reader.varint32()?, reader.varint()?)))?;
        Some(Transaction {
            outputs: self.list(u64::MAX, Self::output)?,
            valid_from: self.varint32()?,
            memo: self.blob(256)?,
            // At most one for each input; fewer only in a draft.
            witnesses: self.list(inputs.len() as u64, Self::witness)?,
            inputs,
        })
    }

    pub fn coinbase(&mut self) -> Option<Coinbase> {
        let start = self.at;
        if self.byte()? != 0 {
            return None;
        }
        let coinbase = Coinbase {
            height: self.varint32()?,
            coins_root: self.array()?,
            outputs: self.list(u64::MAX, Self::output)?,
            extra: self.blob(200)?,
        };
        (!coinbase.outputs.is_empty() && self.at - start <= 100_000).then_some(coinbase)
    }

    pub fn block(&mut self) -> Option<Block> {
        let header = self.array()?;
        let count = match self.byte()? {
            0xfd => self.number(2).filter(|count| *count > 0xfc),
            0xfe => self.number(4).filter(|count| *count > 0xffff),
            0xff => self.number(8).filter(|count| *count > 0xffff_ffff),
            small => Some(small.into()),
        }?;
        let coinbase = if count == 0 { None } else { self.coinbase() }?;
        let mut transactions = Vec::new();
        for _ in 1..count {
            let transaction = self.transaction()?;
            if transaction.inputs.is_empty() || transaction.outputs.is_empty() || transaction.witnesses.is_empty() {
                return None;
            }
            transactions.push(transaction);
        }
        Some(Block { header, coinbase, transactions })
    }
}
