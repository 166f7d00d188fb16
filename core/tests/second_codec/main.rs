//! SC6, CS5: the encoding held against a second implementation of it (`reference.rs`) and against golden bytes.
//!
//! On random values both write the same bytes and read them back; on damaged and random bytes both accept or both
//! refuse, with the same value. So neither a change of bincode nor one of our own code can move a byte unseen.

mod golden;
mod reference;
mod undo;

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use reference::{self as second, Reader, whole};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::{Block, Header};
use setara_core::codec::{Codec, decode, encode};
use setara_core::hash::{Hash256, TxId};
use setara_core::height::Height;
use setara_core::keys::{PublicKey, Signature};
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Coinbase, Input, OutPoint, Output, Transaction, Witness};

// ---- the same value in both worlds ----

fn policy(policy: &second::Policy) -> SpendPolicy {
    use second::Policy as P;
    match policy {
        P::Key(key) => SpendPolicy::Key(PublicKey::from_bytes(*key)),
        P::Threshold(n, of) => SpendPolicy::Threshold { n: *n, of: of.iter().map(self::policy).collect() },
        P::After(height) => SpendPolicy::After(*height),
        P::AfterTime(time) => SpendPolicy::AfterTime(*time),
        P::Older(blocks) => SpendPolicy::Older(*blocks),
        P::Hash(hash) => SpendPolicy::Hash(*hash),
        P::Opaque(address) => SpendPolicy::Opaque(Address::from_bytes(*address)),
        P::Future(tag, bytes) => SpendPolicy::Future { tag: *tag, bytes: bytes.clone() },
    }
}

fn witness(witness: &second::Witness) -> Witness {
    Witness {
        policy: policy(&witness.policy),
        signatures: witness.signatures.iter().map(|bytes| Signature::from_bytes(*bytes)).collect(),
        preimages: witness.preimages.clone(),
        future: witness.future.clone(),
    }
}

fn output((amount, address): &(u64, [u8; 32])) -> Output {
    Output { amount: Amount::from_sen(*amount), address: Address::from_bytes(*address) }
}

fn transaction(transaction: &second::Transaction) -> Transaction {
    let input = |(txid, index, amount): &([u8; 32], u32, u64)| Input {
        outpoint: OutPoint::new(TxId::from_bytes(*txid), *index),
        amount: Amount::from_sen(*amount),
    };
    Transaction {
        inputs: transaction.inputs.iter().map(input).collect(),
        outputs: transaction.outputs.iter().map(output).collect(),
        valid_from: transaction.valid_from,
        memo: transaction.memo.clone(),
        witnesses: transaction.witnesses.iter().map(witness).collect(),
    }
}

fn coinbase(coinbase: &second::Coinbase) -> Coinbase {
    Coinbase {
        height: Height::new(coinbase.height),
        coins_root: Hash256::from_bytes(coinbase.coins_root),
        outputs: coinbase.outputs.iter().map(output).collect(),
        extra: coinbase.extra.clone(),
    }
}

fn block(block: &second::Block) -> Block {
    Block {
        header: Header::from_bytes(&block.header).unwrap(),
        coinbase: coinbase(&block.coinbase),
        transactions: block.transactions.iter().map(transaction).collect(),
    }
}

// ---- random values ----

struct Source(ChaCha20Rng);

impl Source {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most + 1) as usize];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Each length of varint as often, its borders among them.
    fn number(&mut self) -> u64 {
        let borders = [0, 250, 251, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, u64::MAX];
        match self.below(5) {
            0 => borders[self.below(8) as usize],
            width => self.0.next_u64() >> (64 - 16 * width),
        }
    }

    fn list<T>(&mut self, least: u64, most: u64, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = least + self.below(most - least + 1);
        (0..count).map(|_| item(self)).collect()
    }

    fn policy(&mut self, depth: u32) -> second::Policy {
        use second::Policy as P;
        match self.below(if depth < 4 { 11 } else { 8 }) {
            0 => P::After(self.number() as u32),
            1 => P::AfterTime(self.number() as u32),
            2 => P::Older(self.number() as u32),
            3 => P::Hash(self.array()),
            4 if depth > 1 => P::Opaque(self.array()),
            5 => P::Future(128 + self.below(128) as u8, self.bytes(255)),
            8.. => {
                let of = self.list(1, 4, |source| source.policy(depth + 1));
                P::Threshold(1 + self.below(of.len() as u64) as u8, of)
            }
            _ => P::Key(self.array()),
        }
    }

    fn witness(&mut self) -> second::Witness {
        let policy = loop {
            let policy = self.policy(1);
            // Four levels of four can exceed 64 nodes; such a policy has no encoding.
            if whole(&policy.write(), Reader::policy).is_some() {
                break policy;
            }
        };
        second::Witness {
            policy,
            signatures: self.list(0, 3, Self::array),
            preimages: self.list(0, 3, Self::array),
            future: self.list(0, 3, |source| source.bytes(400)),
        }
    }

    /// With at least `least` inputs, outputs and witnesses: 0 makes drafts too.
    fn transaction(&mut self, least: u64) -> second::Transaction {
        let inputs = self.list(least, 3, |source| (source.array(), source.number() as u32, source.number()));
        second::Transaction {
            outputs: self.list(least, 3, |source| (source.number(), source.array())),
            valid_from: self.number() as u32,
            memo: self.bytes(256),
            witnesses: self.list(least, inputs.len() as u64, Self::witness),
            inputs,
        }
    }

    fn coinbase(&mut self) -> second::Coinbase {
        second::Coinbase {
            height: self.number() as u32,
            coins_root: self.array(),
            outputs: self.list(1, 300, |source| (source.number(), source.array())),
            extra: self.bytes(200),
        }
    }

    fn block(&mut self, most: u64) -> second::Block {
        let transactions = self.list(0, most, |source| source.transaction(1));
        second::Block { header: self.array(), coinbase: self.coinbase(), transactions }
    }

    /// The same bytes with one to three changes of the kinds that a hostile encoder makes.
    fn damaged(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() as u64 + 1) as usize;
            match self.below(7) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.array::<1>()[0]),
                2 => bytes.push(0),
                _ if at == bytes.len() => bytes.extend(self.bytes(3)),
                3 => bytes[at] ^= 1 << self.below(8),
                4 => bytes[at] = [0, 1, 2, 6, 7, 63, 64, 128, 250, 251, 252, 253, 254, 255][self.below(14) as usize],
                // The same small number in an over-long form.
                5 => drop(bytes.splice(at..=at, [251, bytes[at], 0])),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    }
}

/// Both decoders on one input: both refuse, or both give the same value. Says which.
fn agree<S: PartialEq + std::fmt::Debug, T: Codec + PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader) -> Option<S>,
    convert: impl FnOnce(&S) -> T,
) -> bool {
    let (ours, theirs) = (decode::<T>(bytes), whole(bytes, read).map(|value| convert(&value)));
    let verdict = ours.as_ref().map(|_| ());
    assert!(ours.as_ref().ok() == theirs.as_ref(), "{verdict:?} of {}", hex::encode(bytes));
    if let Ok(value) = &ours {
        assert_eq!(encode(value), bytes);
    }
    ours.is_ok()
}

/// Round trips of random values, and agreement on damage done to them and on noise of the same kind.
fn compare<S: PartialEq + std::fmt::Debug, T: Codec + PartialEq + std::fmt::Debug>(
    (seed, rounds): (u64, u32),
    make: impl Fn(&mut Source) -> S,
    write: impl Fn(&S) -> Vec<u8>,
    read: impl Fn(&mut Reader) -> Option<S> + Copy,
    convert: impl Fn(&S) -> T + Copy,
) {
    let mut source = Source(ChaCha20Rng::seed_from_u64(seed));
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..rounds {
        let value = make(&mut source);
        let bytes = write(&value);
        assert_eq!(hex::encode(encode(&convert(&value))), hex::encode(&bytes));
        assert!(agree(&bytes, read, convert));
        for _ in 0..4 {
            let damaged = source.damaged(bytes.clone());
            *(if agree(&damaged, read, convert) { &mut accepted } else { &mut refused }) += 1;
        }
    }
    // Damage must be of both kinds for the comparison to mean anything.
    assert!(accepted > rounds / 20 && refused > rounds / 20, "{accepted} accepted, {refused} refused");
}

#[test]
fn policies_and_witnesses_agree_with_the_second_decoder() {
    compare((1, 20_000), |source| source.witness().policy, second::Policy::write, Reader::policy, policy);
    compare((2, 10_000), Source::witness, second::Witness::write, Reader::witness, witness);
}

#[test]
fn transactions_agree_with_the_second_decoder() {
    compare((3, 10_000), |source| source.transaction(0), second::Transaction::write, Reader::transaction, transaction);
}

#[test]
fn coinbases_and_blocks_agree_with_the_second_decoder() {
    compare((4, 2_000), Source::coinbase, second::Coinbase::write, Reader::coinbase, coinbase);
    compare((5, 2_000), |source| source.block(4), second::Block::write, Reader::block, block);
    // Enough transactions for a count of three bytes.
    compare((6, 3), |source| source.block(600), second::Block::write, Reader::block, block);
}

#[test]
fn noise_is_judged_alike() {
    let mut source = Source(ChaCha20Rng::seed_from_u64(7));
    let mut read = 0;
    for _ in 0..200_000 {
        let mut noise = source.bytes(40);
        // Bytes that mean something more often than chance would have it.
        for byte in &mut noise {
            *byte %= [4, 8, 255][source.below(3) as usize];
        }
        read += u32::from(agree(&noise, Reader::policy, policy));
        read += u32::from(agree(&noise, Reader::witness, witness));
        noise.insert(0, 1);
        read += u32::from(agree(&noise, Reader::transaction, transaction));
        noise[0] = 0;
        read += u32::from(agree(&noise, Reader::coinbase, coinbase));
    }
    assert!(read > 1_000, "{read}");
}

/// Every maximum: at it both decoders accept, one beyond both refuse.
#[test]
fn limits_are_where_the_protocol_puts_them() {
    let mut source = Source(ChaCha20Rng::seed_from_u64(10));
    let witness =
        |source: &mut Source| second::Witness { policy: second::Policy::Key(source.array()), ..source.witness() };
    for (beyond, expected) in [(0, true), (1, false)] {
        for cuts in [vec![0], vec![1, 2_000], vec![4_096, 0, 0]] {
            let mut witness = witness(&mut source);
            let rest = 4_096 + beyond - cuts.iter().sum::<usize>();
            witness.future = cuts.into_iter().chain([rest]).map(|length| vec![7; length]).collect();
            assert_eq!(agree(&witness.write(), Reader::witness, self::witness), expected);
        }
        for list in 0..3 {
            let mut witness = second::Witness { future: vec![], ..witness(&mut source) };
            match list {
                0 => witness.signatures = vec![source.array(); 64 + beyond],
                1 => witness.preimages = vec![source.array(); 64 + beyond],
                _ => witness.future = vec![vec![]; 64 + beyond],
            }
            assert_eq!(agree(&witness.write(), Reader::witness, self::witness), expected);
        }
        let mut long = source.transaction(1);
        long.memo = vec![1; 256 + beyond];
        assert_eq!(agree(&long.write(), Reader::transaction, transaction), expected);
        let mut long = source.coinbase();
        long.extra = vec![2; 200 + beyond];
        assert_eq!(agree(&long.write(), Reader::coinbase, coinbase), expected);
        // 100,000 bytes in all: kind, height, root, count of three bytes, outputs of 33, extra.
        let mut large = second::Coinbase { height: 1, outputs: vec![(1, [0; 32]); 3_025], ..source.coinbase() };
        large.extra.clear();
        let room = 100_000 - large.write().len();
        large.extra = vec![3; room + beyond];
        assert_eq!(agree(&large.write(), Reader::coinbase, coinbase), expected);
        // 64 nodes, 8 levels, 63 children.
        let leaf = second::Policy::After(1);
        let wide = second::Policy::Threshold(1, vec![leaf.clone(); 63 + beyond]);
        assert_eq!(agree(&wide.write(), Reader::policy, policy), expected);
        let half = second::Policy::Threshold(1, vec![leaf.clone(); 31]);
        let split = vec![half, leaf.clone(), second::Policy::Threshold(1, vec![leaf.clone(); 29 + beyond])];
        assert_eq!(agree(&second::Policy::Threshold(1, split).write(), Reader::policy, policy), expected);
        let deep = (0..7 + beyond).fold(leaf, |inner, _| second::Policy::Threshold(1, vec![inner]));
        assert_eq!(agree(&deep.write(), Reader::policy, policy), expected);
    }
}

/// A draft without inputs, outputs or witnesses decodes alone, for tools that build one; never in a block.
#[test]
fn drafts_stand_alone_only() {
    let mut source = Source(ChaCha20Rng::seed_from_u64(9));
    for missing in 0..4 {
        let mut draft = source.transaction(1);
        match missing {
            0 => (draft.inputs, draft.witnesses) = (vec![], vec![]),
            1 => draft.outputs.clear(),
            2 => draft.witnesses.clear(),
            _ => {}
        }
        let mut block = source.block(0);
        block.transactions = vec![source.transaction(1), draft.clone(), source.transaction(1)];
        assert!(agree(&draft.write(), Reader::transaction, transaction));
        assert_eq!(agree(&block.write(), Reader::block, self::block), missing == 3);
    }
    // More witnesses than inputs mean nothing anywhere.
    let mut draft = source.transaction(1);
    draft.witnesses = vec![source.witness(); draft.inputs.len() + 1];
    assert!(!agree(&draft.write(), Reader::transaction, transaction));
}

/// Ids and addresses, from bytes on one side and from values on the other.
#[test]
fn ids_and_addresses_agree_with_the_second_implementation() {
    let mut source = Source(ChaCha20Rng::seed_from_u64(8));
    for _ in 0..3_000 {
        let theirs = source.transaction(0);
        let ours = transaction(&theirs);
        let ids = ours.ids();
        assert_eq!(ids.txid.as_bytes(), &theirs.txid());
        assert_eq!(ids.wtxid.as_bytes(), &theirs.wtxid());
        assert_eq!((ours.txid(), ours.wtxid()), (ids.txid, ids.wtxid));
        assert_eq!(ids.size, theirs.write().len() as u64);
        let addresses: Vec<[u8; 32]> = theirs.witnesses.iter().map(|witness| witness.policy.address()).collect();
        assert_eq!(ours.spent_addresses().iter().map(|address| *address.as_bytes()).collect::<Vec<_>>(), addresses);
        let theirs = source.coinbase();
        assert_eq!(coinbase(&theirs).txid().as_bytes(), &second::sha256d(&theirs.write()));
        let theirs = source.block(0);
        assert_eq!(block(&theirs).hash().as_bytes(), &second::sha256d(&theirs.header));
    }
}
