//! Golden bytes of every type, and golden hashes: written by an independent program (Python, from the protocol's text),
//! never by the code under test. A change here is a change of consensus.

use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::{Block, Header};
use setara_core::codec::{Codec, decode, encode};
use setara_core::hash::{BlockHash, Hash256, TxId, sha256};
use setara_core::height::Height;
use setara_core::keys::{PublicKey, Signature};
use setara_core::policy::SpendPolicy;
use setara_core::pow::{CompactBits, Work};
use setara_core::transaction::{Coin, Coinbase, Input, OutPoint, Output, SigningContext, Transaction, Witness};

/// 32 bytes counting up from `first`.
fn run(first: u8) -> [u8; 32] {
    std::array::from_fn(|index| first + index as u8)
}

fn check<T: Codec + PartialEq + std::fmt::Debug>(value: &T, golden: &str) {
    assert_eq!(hex::encode(encode(value)), golden, "{value:?}");
    assert_eq!(decode::<T>(&hex::decode(golden).unwrap()).as_ref(), Ok(value));
}

fn output(sen: u64, first: u8) -> Output {
    Output { amount: Amount::from_sen(sen), address: Address::from_bytes(run(first)) }
}

fn input(first: u8, index: u32, sen: u64) -> Input {
    Input { outpoint: OutPoint::new(TxId::from_bytes(run(first)), index), amount: Amount::from_sen(sen) }
}

#[test]
fn golden_parts() {
    check(
        &OutPoint::new(TxId::from_bytes(run(0)), 0),
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f00",
    );
    check(
        &OutPoint::new(TxId::from_bytes(run(0)), u32::MAX),
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1ffcffffffff",
    );
    check(
        &output(5_000_000_000, 0x20),
        "fd00f2052a01000000202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
    );
    check(&input(0x40, 251, 250), "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5ffbfb00fa");
    let coin = Coin { output: output(1, 0x20), height: Height::new(70_000), from_coinbase: true };
    check(&coin, "01202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3ffc7011010001");
    check(&Hash256::from_bytes(run(0)), &hex::encode(run(0)));
    check(&PublicKey::from_bytes(run(9)), &hex::encode(run(9)));
    check(&Work::from_be_bytes(run(1)), &hex::encode(run(1)));
    check(&CompactBits::new(0x1d00_ffff), "fcffff001d");
}

fn key() -> SpendPolicy {
    SpendPolicy::Key(PublicKey::from_bytes(run(1)))
}

fn hash_lock() -> SpendPolicy {
    SpendPolicy::Hash(run(0x80))
}

fn future() -> SpendPolicy {
    SpendPolicy::Future { tag: 200, bytes: vec![1, 2, 3] }
}

fn threshold() -> SpendPolicy {
    let inner = SpendPolicy::Threshold { n: 1, of: vec![SpendPolicy::After(300)] };
    SpendPolicy::Threshold { n: 2, of: vec![key(), SpendPolicy::Opaque(Address::from_bytes(run(0xc0))), inner] }
}

#[test]
fn golden_policies_and_addresses() {
    let golden = [
        (
            key(),
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
            "0ee4c464812f899177738667eb626db517bef7f2e6fc459288d860ec853e85df",
        ),
        (SpendPolicy::After(300), "02fb2c01", "a47735377293a116ac6e3174eb08b02e27452cbee5ecde0b1701a7c7fb91512d"),
        (
            SpendPolicy::AfterTime(1_800_000_000),
            "03fc00d2496b",
            "08486aa8430a1ae9d2e82fbb80753907e16f2904fe1efadb5206a47c6dc44776",
        ),
        (SpendPolicy::Older(144), "0490", "da19278316281eb6ec1391f6d127e7972aeedd7345fc400128dc348e62e6bb7b"),
        (
            hash_lock(),
            "05808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "ff277996e74f76f86aef490c4bc1a2093301b0cb2df551a0b34437af72ceee5a",
        ),
        (future(), "c803010203", "40eb037a06b844f44ebadf219102af74ea51bc23c694178dd8af454bd8bd093a"),
        (
            threshold(),
            "010203000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2006c0c1c2c3c4c5c6c7c8c9cacbcc\
         cdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf01010102fb2c01",
            "5a6ca438272c2d24cac9e4665f8b30ab6eda4f14d09e1b438af68a69f62e01e8",
        ),
    ];
    for (policy, bytes, address) in golden {
        check(&policy, bytes);
        assert_eq!(hex::encode(policy.address().as_bytes()), address, "{policy:?}");
    }
    let hidden = SpendPolicy::Opaque(Address::from_bytes(run(0xc0)));
    assert_eq!(hidden.address(), Address::from_bytes(run(0xc0)));
}

fn transaction() -> Transaction {
    let mut signature = [0xa5; 64];
    signature[32..].fill(0x5a);
    let first = Witness {
        policy: threshold(),
        signatures: vec![Signature::from_bytes(signature)],
        preimages: vec![],
        future: vec![],
    };
    let second = Witness {
        policy: SpendPolicy::Threshold { n: 2, of: vec![hash_lock(), future()] },
        signatures: vec![],
        preimages: vec![run(0xe0)],
        future: vec![vec![7, 7]],
    };
    Transaction {
        inputs: vec![input(0x10, 0, 0x1_0000_0000), input(0x11, 70_000, 65_536)],
        outputs: vec![output(250, 0x20), output(4_294_967_546, 0x21)],
        valid_from: 1_000,
        memo: b"memo".to_vec(),
        witnesses: vec![first, second],
    }
}

fn coinbase() -> Coinbase {
    Coinbase {
        height: Height::new(210_000),
        coins_root: Hash256::from_bytes(run(0x30)),
        outputs: vec![Output { amount: Amount::ZERO, address: Address::ZERO }, output(500_000_000, 0x22)],
        extra: b"extra".to_vec(),
    }
}

#[test]
fn golden_transaction_and_ids() {
    let transaction = transaction();
    check(
        &transaction.witnesses[0],
        "010203000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2006c0c1c2c3c4c5c6c7c8c9cacbcc\
         cdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf01010102fb2c0101a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\
         a5a5a5a5a5a5a5a5a55a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a0000",
    );
    check(
        &transaction.witnesses[1],
        "01020205808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fc8030102030001e0e1e2e3e4e5e6\
         e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff01020707",
    );
    check(
        &transaction,
        "0102101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f00fd0000000001000000111213141516\
         1718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30fc70110100fc0000010002fa202122232425262728292a2b\
         2c2d2e2f303132333435363738393a3b3c3d3e3ffdfa000000010000002122232425262728292a2b2c2d2e2f303132333435\
         363738393a3b3c3d3e3f40fbe803046d656d6f02010203000102030405060708090a0b0c0d0e0f101112131415161718191a\
         1b1c1d1e1f2006c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf01010102fb2c0101a5a5a5\
         a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a55a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\
         5a5a5a5a5a5a5a5a5a5a5a000001020205808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fc8\
         030102030001e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff01020707",
    );
    let ids = transaction.ids();
    assert_eq!(hex::encode(ids.txid.as_bytes()), "f42115d22c2e558dd06c41e4d0f643d7c16cf6d938a1a8050e10653e6666e5e5");
    assert_eq!(hex::encode(ids.wtxid.as_bytes()), "22b932b4bfb0baabd08574e29f6b32bba160297aafa64c243814d2969522711c");
    // What the key at child 0 of input 0, and a bare key of input 1, would sign.
    let context = SigningContext::new(BlockHash::from_bytes(run(0x90)), ids.txid, &transaction.spent_addresses());
    assert_eq!(
        hex::encode(context.message(0, &[0])),
        "558f9cd78cfaea49b35f5fcf1ab405d01916a92f08430ef8f9c02392105c8eb4"
    );
    assert_eq!(
        hex::encode(context.message(1, &[])),
        "284f89ac0cb814233ec5a7669aaca5427d2042ddbe4d1645fcb8d2b1940b9656"
    );
}

#[test]
fn golden_coinbase_header_and_block() {
    let coinbase = coinbase();
    check(
        &coinbase,
        "00fc50340300303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f020000000000000000000000\
         00000000000000000000000000000000000000000000fc0065cd1d22232425262728292a2b2c2d2e2f303132333435363738\
         393a3b3c3d3e3f4041056578747261",
    );
    assert_eq!(
        hex::encode(coinbase.txid().as_bytes()),
        "bc4ee402aed8de5310eb007ee1df38796df8b9bf312c0ab11df2a46efafbecbd"
    );
    let mut block = Block {
        header: Header {
            version: 0x2000_0000,
            previous: BlockHash::from_bytes(run(0x50)),
            merkle_root: Hash256::ZERO,
            time: 1_800_000_060,
            bits: CompactBits::new(0x1e00_ffff),
            nonce: 0xdead_beef,
        },
        coinbase,
        transactions: vec![transaction()],
    };
    block.header.merkle_root = block.merkle_root().root;
    assert_eq!(
        hex::encode(block.header.merkle_root.as_bytes()),
        "353bc6eb83640ed5cd119580d290bdc5620181848d31c9476d1d13465bb6be04"
    );
    check(
        &block.header,
        "00000020505152535455565758595a5b5c5d5e5f606162636465666768696a6b6c6d6e6f353bc6eb83640ed5cd119580d290\
         bdc5620181848d31c9476d1d13465bb6be043cd2496bffff001eefbeadde",
    );
    assert_eq!(
        hex::encode(block.hash().as_bytes()),
        "5938ceeb939805edda5e36f30c72eac685585776912a2756e8db604ef4de4bd9"
    );
    let bytes = encode(&block);
    assert_eq!(bytes.len(), 588);
    assert_eq!(hex::encode(sha256(&bytes)), "ee0cfb8bb9ec07411705c83e16056d9e81d7eaa17cefec9abbb4208ab06cbe6a");
    assert_eq!(decode::<Block>(&bytes).as_ref(), Ok(&block));
}
