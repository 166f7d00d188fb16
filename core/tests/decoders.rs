//! Every decoder against arbitrary and damaged bytes: no panic, no allocation that the input does not justify, and
//! whatever decodes encodes to the very same bytes.
//!
//! A bounded, seeded stand-in for a fuzzer: it runs with the other tests, the same each time. More rounds:
//! `SETARA_FUZZ_ROUNDS=1000000`, another sequence: `SETARA_FUZZ_SEED=7`. A failure prints the bytes that caused it.

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use setara_core::address::{Address, Prefix};
use setara_core::amount::Amount;
use setara_core::block::{Block, EncodedBlock, Header};
use setara_core::codec::{Codec, CodecError, Writer, decode, encode};
use setara_core::consensus::{BlockDelta, ChainState, HeaderState};
use setara_core::hash::{BlockHash, Hash256, TxId};
use setara_core::height::Height;
use setara_core::keys::{PublicKey, SecretKey, Signature};
use setara_core::limits;
use setara_core::network::Network;
use setara_core::policy::SpendPolicy;
use setara_core::pow::{CompactBits, Work};
use setara_core::transaction::{Coin, Coinbase, Input, OutPoint, Output, Transaction, Witness};

/// Damaged inputs for each type in an ordinary run: seconds, not minutes.
const ROUNDS: u32 = 30_000;

/// Bytes of memory that decoding may hold at once, for each byte of input and beside: a two-byte policy node becomes a
/// value of some 40 bytes, a five-byte witness one of some 110, and up to 1,024 items are reserved ahead.
const MEMORY_PER_BYTE: u64 = 24;
const MEMORY_BESIDE: u64 = 64 * 1024;

fn rounds() -> u32 {
    std::env::var("SETARA_FUZZ_ROUNDS").ok().map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"))
}

/// A source of shapes: seeded, so that a failure repeats.
struct Shapes(ChaCha20Rng);

impl Shapes {
    fn new(stream: u64) -> Self {
        let seed = std::env::var("SETARA_FUZZ_SEED").ok().map_or(0, |seed| seed.parse::<u64>().expect("a seed"));
        Self(ChaCha20Rng::seed_from_u64(seed.wrapping_mul(0x1_0000).wrapping_add(stream)))
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound as u64) as usize
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most + 1)];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    fn list<T>(&mut self, least: usize, most: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = least + self.below(most - least + 1);
        (0..count).map(|_| item(self)).collect()
    }

    /// Numbers that matter to varints: small, at each boundary, any.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(4) as u64,
            1 => 248 + self.below(8) as u64,
            2 => 0xfffe + self.below(4) as u64,
            3 => 0xffff_fffe + self.below(4) as u64,
            4 => u64::MAX - self.below(3) as u64,
            _ => self.0.next_u64(),
        }
    }

    fn number32(&mut self) -> u32 {
        self.number() as u32
    }

    fn amount(&mut self) -> Amount {
        Amount::from_sen(self.number())
    }

    fn outpoint(&mut self) -> OutPoint {
        OutPoint::new(TxId::from_bytes(self.array()), self.number32())
    }

    fn output(&mut self) -> Output {
        Output { amount: self.amount(), address: Address::from_bytes(self.array()) }
    }

    fn policy(&mut self, depth: u32) -> SpendPolicy {
        let kinds = if depth < 4 { 9 } else { 6 };
        match self.below(kinds) {
            0 => SpendPolicy::Key(PublicKey::from_bytes(self.array())),
            1 => SpendPolicy::After(self.number32()),
            2 => SpendPolicy::AfterTime(self.number32()),
            3 => SpendPolicy::Older(self.number32()),
            4 => SpendPolicy::Hash(self.array()),
            5 if depth > 1 => SpendPolicy::Opaque(Address::from_bytes(self.array())),
            5 => SpendPolicy::Future { tag: 128 + self.below(128) as u8, bytes: self.bytes(255) },
            _ => {
                let of = self.list(1, 3, |shapes| shapes.policy(depth + 1));
                SpendPolicy::Threshold { n: 1 + self.below(of.len()) as u8, of }
            }
        }
    }

    fn witness(&mut self) -> Witness {
        Witness {
            policy: self.policy(1),
            signatures: self.list(0, 3, |shapes| Signature::from_bytes(shapes.array())),
            preimages: self.list(0, 3, |shapes| shapes.array()),
            future: self.list(0, 3, |shapes| shapes.bytes(300)),
        }
    }

    fn transaction(&mut self) -> Transaction {
        let inputs = self.list(1, 3, |shapes| Input { outpoint: shapes.outpoint(), amount: shapes.amount() });
        Transaction {
            outputs: self.list(1, 3, Self::output),
            valid_from: self.number32(),
            memo: self.bytes(256),
            witnesses: self.list(1, inputs.len(), Self::witness),
            inputs,
        }
    }

    fn coinbase(&mut self) -> Coinbase {
        Coinbase {
            height: Height::new(self.number32()),
            coins_root: Hash256::from_bytes(self.array()),
            outputs: self.list(1, 4, Self::output),
            extra: self.bytes(200),
        }
    }

    fn header(&mut self) -> Header {
        Header {
            version: self.number32(),
            previous: BlockHash::from_bytes(self.array()),
            merkle_root: Hash256::from_bytes(self.array()),
            time: self.number32(),
            bits: CompactBits::new(self.number32()),
            nonce: self.number32(),
        }
    }

    fn block(&mut self) -> Block {
        Block { header: self.header(), coinbase: self.coinbase(), transactions: self.list(0, 4, Self::transaction) }
    }

    fn coin(&mut self) -> Coin {
        Coin { output: self.output(), height: Height::new(self.number32()), from_coinbase: self.below(2) == 1 }
    }

    /// One damage of the kinds that break decoders: a bit, a byte, a cut, an insertion, a longer varint, a huge count, a
    /// part repeated or moved.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.extend(self.bytes(9));
            return;
        }
        let at = self.below(bytes.len());
        match self.below(8) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = [0, 1, 2, 250, 251, 252, 253, 254, 255][self.below(9)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, self.array::<1>()[0]),
            4 => drop(bytes.remove(at)),
            5 => {
                let value = u64::from(bytes[at]);
                let longer: &[u8] = &match self.below(3) {
                    0 => [&[251][..], &(value as u16).to_le_bytes()].concat(),
                    1 => [&[252][..], &(value as u32).to_le_bytes()].concat(),
                    _ => [&[253][..], &value.to_le_bytes()].concat(),
                };
                bytes.splice(at..=at, longer.iter().copied());
            }
            6 => {
                let huge = [&[253][..], &self.number().to_le_bytes()].concat();
                bytes.splice(at..=at, huge);
            }
            _ => {
                let end = at + self.below(bytes.len() - at).min(100);
                let part = bytes[at..end].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
}

/// Decodes, holding it against all three promises.
fn check<T: Codec>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut decoded = None;
    let memory = allocation_counter::measure(|| decoded = Some(decode::<T>(bytes)));
    let allowed = MEMORY_PER_BYTE * bytes.len() as u64 + MEMORY_BESIDE;
    assert!(memory.bytes_max <= allowed, "{} bytes held for {}", memory.bytes_max, hex::encode(bytes));
    let decoded = decoded.expect("the closure ran");
    if let Ok(value) = &decoded {
        assert_eq!(hex::encode(encode(value)), hex::encode(bytes), "two encodings of one value");
    }
    decoded
}

/// Values of one type, whole, damaged once or several times, and pure noise.
fn drive<T: Codec + PartialEq + std::fmt::Debug>(stream: u64, value: impl Fn(&mut Shapes) -> T) {
    let mut shapes = Shapes::new(stream);
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..rounds() {
        let whole = value(&mut shapes);
        let mut bytes = encode(&whole);
        assert!(bytes.len() as u64 >= T::MIN_SIZE, "MIN_SIZE is above {}", hex::encode(&bytes));
        assert_eq!(check::<T>(&bytes).as_ref(), Ok(&whole));
        for _ in 0..1 + shapes.below(3) {
            shapes.damage(&mut bytes);
        }
        match check::<T>(&bytes) {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
        let noise = shapes.bytes(200);
        let _ = check::<T>(&noise);
    }
    assert!(refused > 0 || accepted == rounds(), "nothing was damaged");
}

/// CS5, CS6, CS19.
#[test]
fn parts_survive_damage() {
    drive(1, Shapes::outpoint);
    drive(2, Shapes::output);
    drive(3, Shapes::coin);
    drive(4, Shapes::amount);
    drive(5, |shapes| shapes.policy(1));
    drive(6, Shapes::witness);
    drive(7, Shapes::header);
    drive(8, |shapes| Hash256::from_bytes(shapes.array()));
    drive(9, |shapes| Work::from_be_bytes(shapes.array()));
    drive(10, |shapes| CompactBits::new(shapes.number32()));
}

/// CS5, CS6, CS19.
#[test]
fn transactions_and_coinbases_survive_damage() {
    drive(11, Shapes::transaction);
    drive(12, Shapes::coinbase);
}

/// CS5, CS6, CS19.
#[test]
fn blocks_survive_damage() {
    drive(13, Shapes::block);
}

/// CS5: the block that is decoded together with its encoding is the same block, or the same error.
#[test]
fn a_block_and_its_encoding_agree() {
    let mut shapes = Shapes::new(15);
    for _ in 0..rounds() {
        let block = shapes.block();
        let mut bytes = encode(&block);
        let made = EncodedBlock::from(block.clone());
        assert_eq!((made.block(), made.bytes()), (&block, &bytes[..]));
        shapes.damage(&mut bytes);
        match (decode::<Block>(&bytes), EncodedBlock::decode(bytes.clone())) {
            (Ok(block), Ok(encoded)) => assert_eq!((encoded.block(), encoded.bytes()), (&block, &bytes[..])),
            (Err(expected), Err(got)) => assert_eq!(got, expected),
            (block, encoded) => panic!("{block:?} against {encoded:?}"),
        }
    }
}

/// CS6, CS19. What the node reads back from its own disk is decoded as warily as what peers send.
#[test]
fn undo_records_and_states_survive_damage() {
    let network = Network::dev();
    let delta = BlockDelta::genesis(&network);
    let state = *delta.parent();
    drive(14, |_| delta.clone());
    drive::<ChainState>(15, |_| state);
    drive::<HeaderState>(16, |_| state.header);
}

/// CS8. Nesting costs neither stack nor memory: a million levels on a stack of 64 KiB.
#[test]
fn a_million_levels_of_policy_are_refused_on_a_small_stack() {
    const LEVELS: usize = 1_000_000;
    let deep = || {
        let threshold: Vec<u8> = [1, 1, 1].repeat(LEVELS);
        assert!(matches!(check::<SpendPolicy>(&threshold), Err(CodecError::Policy(_))));
        let mut witness = threshold.clone();
        witness.extend([0; 3]);
        assert!(matches!(check::<Witness>(&witness), Err(CodecError::Policy(_))));
        // Wide is bounded as well as deep: 63 children, each with 63.
        let wide: Vec<u8> = [1, 63, 63].repeat(LEVELS);
        assert!(matches!(check::<SpendPolicy>(&wide), Err(CodecError::Policy(_))));
    };
    std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(deep)
        .expect("a thread starts")
        .join()
        .expect("no overflow");
}

/// CS6. Every list of every type, claiming more than it has.
#[test]
fn no_count_is_believed() {
    let mut shapes = Shapes::new(17);
    let block = shapes.block();
    let bytes = encode(&block);
    for at in 0..bytes.len() {
        for claim in [u64::MAX, u64::from(u32::MAX), 1 << 40, 100_000_000] {
            let mut hostile = bytes[..at].to_vec();
            let mut count = Writer::default();
            count.u64(claim);
            hostile.extend(count.finish());
            let _ = check::<Block>(&hostile);
            let _ = check::<Transaction>(&hostile);
            hostile.extend(&bytes[at..]);
            let _ = check::<Block>(&hostile);
        }
    }
}

/// CS6. Megabytes of whatever takes the fewest bytes for the most memory, where what is held beside the input no longer
/// counts.
#[test]
fn memory_stays_in_proportion_for_large_inputs() {
    let input = Input { outpoint: OutPoint::new(TxId::ZERO, 0), amount: Amount::ZERO };
    let output = Output { amount: Amount::ZERO, address: Address::ZERO };
    let witness = |policy| Witness { policy, signatures: vec![], preimages: vec![], future: vec![] };
    let small = Transaction {
        inputs: vec![input],
        outputs: vec![output],
        valid_from: 0,
        memo: vec![],
        witnesses: vec![witness(SpendPolicy::After(0))],
    };
    let wide = SpendPolicy::Threshold { n: 63, of: vec![SpendPolicy::After(0); 63] };
    let future = Witness { future: vec![vec![]; 64], ..witness(SpendPolicy::After(0)) };
    for witness in [small.witnesses[0].clone(), witness(wide), future] {
        let wide = Transaction { inputs: vec![input; 10_000], witnesses: vec![witness; 10_000], ..small.clone() };
        check::<Transaction>(&encode(&wide)).expect("decodes");
    }
    let outputs = Transaction { outputs: vec![output; 60_000], ..small.clone() };
    check::<Transaction>(&encode(&outputs)).expect("decodes");
    let coinbase =
        Coinbase { height: Height::GENESIS, coins_root: Hash256::ZERO, outputs: vec![output], extra: vec![] };
    let header = Shapes::new(20).header();
    let block = Block { header, coinbase, transactions: vec![small; 30_000] };
    check::<Block>(&encode(&block)).expect("decodes");

    // Unpaid-for witnesses and drafts inside a block are refused before they cost anything.
    let mut hostile = vec![1, 0, 0, 0, 0];
    let mut count = Writer::default();
    count.u64(400_000);
    hostile.extend(count.finish());
    hostile.extend([2, 0, 0, 0, 0].repeat(400_000));
    assert!(matches!(check::<Transaction>(&hostile), Err(CodecError::ListTooLong { what: "witnesses", .. })));
    let mut hostile = encode(&Block { transactions: vec![], ..block });
    hostile.splice(80..=80, [0xfe, 0x20, 0xa1, 7, 0]); // 500,000 drafts of six bytes
    hostile.extend([1, 0, 0, 0, 0, 0].repeat(500_000));
    assert!(matches!(check::<Block>(&hostile), Err(CodecError::ListTooLong { what: "transactions", .. })));
}

/// CS5. Each varint of many real objects in each of its longer forms.
#[test]
fn no_longer_form_of_any_byte_is_accepted_as_the_same_value() {
    let mut shapes = Shapes::new(18);
    for _ in 0..100 {
        let value = shapes.transaction();
        let bytes = encode(&value);
        for at in 0..bytes.len() {
            let digit = u64::from(bytes[at]);
            for longer in
                [[&[251][..], &(digit as u16).to_le_bytes()].concat(), [&[253][..], &digit.to_le_bytes()].concat()]
            {
                let mut other = bytes.clone();
                other.splice(at..=at, longer);
                assert_ne!(check::<Transaction>(&other).as_ref(), Ok(&value));
            }
        }
        let trailing = [bytes.as_slice(), &[0]].concat();
        assert_eq!(check::<Transaction>(&trailing), Err(CodecError::TrailingBytes(1)));
    }
}

/// RW6, WK12, PT9. Text from people and programs: any characters at all, and good texts with damage.
#[test]
fn texts_survive_damage() {
    let mut shapes = Shapes::new(19);
    let prefix: Prefix = "dset".parse().expect("a prefix");
    let genesis = Network::dev().to_json();
    let alphabet: Vec<char> =
        "0123456789abcdefqpzry.-+ eE1:/\"{}[],\\\u{0}\u{7f}\u{e9}\u{663}\u{1f600}".chars().collect();
    for _ in 0..rounds() {
        let noise: String = shapes.list(0, 80, |shapes| alphabet[shapes.below(alphabet.len())]).into_iter().collect();
        let address = Address::from_bytes(shapes.array()).to_text(&prefix);
        for text in [&noise, &address, &genesis] {
            let mut bytes = text.clone().into_bytes();
            shapes.damage(&mut bytes);
            let damaged = String::from_utf8_lossy(&bytes);
            if let Ok(address) = Address::from_text(&damaged, &prefix) {
                assert!(address.to_text(&prefix).eq_ignore_ascii_case(&damaged));
            }
            if let Ok(amount) = damaged.parse::<Amount>() {
                assert_eq!(amount.to_string().parse(), Ok(amount));
            }
            let _ = damaged.parse::<Hash256>();
            let _ = damaged.parse::<Prefix>();
            if let Ok(network) = Network::from_json(&damaged) {
                let again = Network::from_json(&network.to_json()).expect("what was read can be written");
                assert_eq!(again.genesis_hash(), network.genesis_hash());
            }
        }
    }
}

/// The bounds above would mean nothing if real values came near them.
#[test]
fn the_largest_policy_is_still_read() {
    let keys: Vec<SpendPolicy> =
        (0..63).map(|seed| SpendPolicy::Key(SecretKey::from_seed([seed; 32]).public_key())).collect();
    let widest = SpendPolicy::Threshold { n: 63, of: keys };
    assert_eq!(check::<SpendPolicy>(&encode(&widest)), Ok(widest));
    let deepest = (1..limits::POLICY_DEPTH_MAX)
        .fold(SpendPolicy::After(1), |inner, _| SpendPolicy::Threshold { n: 1, of: vec![inner] });
    assert_eq!(check::<SpendPolicy>(&encode(&deepest)), Ok(deepest.clone()));
    let too_deep = SpendPolicy::Threshold { n: 1, of: vec![deepest] };
    assert!(matches!(check::<SpendPolicy>(&encode(&too_deep)), Err(CodecError::Policy(_))));
}
