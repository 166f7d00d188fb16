//! Compact blocks by themselves: made-up transactions, no chain.

use super::*;
use crate::testing::{address, policy};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::codec::decode;
use setara_core::hash::{Hash256, TxId, sha256d};
use setara_core::height::Height;
use setara_core::keys::Signature;
use setara_core::policy::SpendPolicy;
use setara_core::pow::CompactBits;
use setara_core::transaction::{Input, OutPoint, Output, Witness};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The limit of the development network.
const MAX: u64 = 4_000_000;
/// Bytes of a frame's head, of a list's count, of a nonce.
const FRAME: usize = 4;
const COUNT: usize = 4;
const NONCE: usize = 8;

/// Who is paid and who pays: made once, curve arithmetic is slow without optimisation.
static PARTIES: LazyLock<(SpendPolicy, Address, Address)> = LazyLock::new(|| (policy(1), address(1), address(2)));

/// A payment of one input and two outputs, of the usual size; its signature is made up.
fn payment(number: u32) -> Transaction {
    let txid = TxId::new(sha256d(&number.to_le_bytes()));
    let sen = |amount| Amount::from_sen(amount);
    Transaction {
        inputs: vec![Input { outpoint: OutPoint::new(txid, 1), amount: sen(500_000_000) }],
        outputs: vec![
            Output { amount: sen(300_000_000), address: PARTIES.1 },
            Output { amount: sen(199_990_000), address: PARTIES.2 },
        ],
        valid_from: 0,
        memo: Vec::new(),
        witnesses: vec![Witness {
            policy: PARTIES.0.clone(),
            signatures: vec![Signature::from_bytes([7; 64])],
            preimages: Vec::new(),
            future: Vec::new(),
        }],
    }
}

fn block(transactions: Vec<Transaction>) -> Block {
    let coinbase = Coinbase {
        height: Height::new(1),
        coins_root: Hash256::ZERO,
        outputs: vec![Output { amount: Amount::from_sen(1), address: address(0) }],
        extra: Vec::new(),
    };
    let header = Header {
        version: 0x2000_0000,
        previous: BlockHash::ZERO,
        merkle_root: Hash256::ZERO,
        time: 1,
        bits: CompactBits::new(0x207f_ffff),
        nonce: 0,
    };
    let mut block = Block { header, coinbase, transactions };
    block.header.merkle_root = block.merkle_root().root;
    block
}

fn payments(count: u32) -> Block {
    block((0..count).map(payment).collect())
}

type Pool = BTreeMap<WtxId, Arc<Transaction>>;

fn pool<'a>(transactions: impl IntoIterator<Item = &'a Transaction>) -> Pool {
    transactions.into_iter().map(|transaction| (transaction.wtxid(), Arc::new(transaction.clone()))).collect()
}

fn begin(compact: CompactBlock, pool: &Pool) -> Result<Begun, Impossible> {
    Reconstruction::begin(compact, MAX, pool.keys().copied(), |wtxid| pool.get(wtxid).cloned())
}

fn missing(compact: CompactBlock, pool: &Pool) -> Reconstruction {
    match begin(compact, pool).expect("possible") {
        Begun::Missing(reconstruction) => reconstruction,
        other => panic!("{other:?}"),
    }
}

fn answer(block: &Block, indexes: &[u32]) -> BlockTransactions {
    let transactions = indexes.iter().map(|index| block.transactions[*index as usize].clone()).collect();
    BlockTransactions { hash: block.hash(), transactions }
}

/// Bytes on the wire: fixed-width counts, six bytes a short id.
fn compact_size(compact: &CompactBlock) -> usize {
    let prefilled: usize = compact.prefilled.iter().map(|one| 4 + encode(&one.transaction).len()).sum();
    let fixed = FRAME + 80 + NONCE + encode(&compact.coinbase).len() + 2 * COUNT;
    fixed + 6 * compact.short_ids.len() + prefilled
}

/// BIP 152: the low six bytes of SipHash-2-4 under the first half of SHA-256(header || nonce), little endian.
#[test]
fn short_ids_are_those_of_bip_152() {
    // SipHash-2-4's own vector: key 00..0f, message 00..07.
    let hasher = SipHasher24::new_with_key(&core::array::from_fn(|index| index as u8));
    assert_eq!(hasher.hash(&[0, 1, 2, 3, 4, 5, 6, 7]), 0x93f5_f579_9a93_2462);
    let block = payments(1);
    let seed = sha256(&[&block.header.to_bytes()[..], &7u64.to_le_bytes()].concat());
    let hasher = SipHasher24::new_with_key(seed.first_chunk().unwrap());
    let wtxid = block.transactions[0].wtxid();
    let expected = hasher.hash(wtxid.as_bytes()) & 0xffff_ffff_ffff;
    assert_eq!(number(ShortIds::new(&block.header, 7).of(&wtxid)), expected);
    assert_ne!(number(ShortIds::new(&block.header, 8).of(&wtxid)), expected, "the nonce salts");
}

/// 10,000 known payments cross in 6.2 bytes each and 1 KiB, in one message and no round trip.
#[test]
fn ten_thousand_known_payments_cross_in_six_bytes_each() {
    let block = payments(10_000);
    // The mempool is twice the block.
    let others: Vec<Transaction> = (10_000..20_000).map(payment).collect();
    let pool = pool(block.transactions.iter().chain(&others));
    let compact = CompactBlock::of(&block, 99);
    assert!(compact_size(&compact) <= 62_000 + 1_024, "{}", compact_size(&compact));
    let Begun::Complete(rebuilt) = begin(compact, &pool).unwrap() else { panic!("nothing is missing") };
    assert_eq!(decode::<Block>(rebuilt.bytes()).unwrap(), block);
    assert!(rebuilt.fetched().is_empty());
}

/// With one in a hundred missing, both messages and the request stay below 4 % of the block; one round trip.
#[test]
fn a_hundredth_missing_costs_four_percent() {
    let block = payments(10_000);
    let pool = pool(block.transactions.iter().enumerate().filter(|(index, _)| index % 100 != 50).map(|(_, tx)| tx));
    let compact = CompactBlock::of(&block, 3);
    let mut bytes = compact_size(&compact);
    let reconstruction = missing(compact, &pool);
    let asked = reconstruction.missing().to_vec();
    assert_eq!(asked, (0..100).map(|hundred| hundred * 100 + 50).collect::<Vec<_>>());
    bytes += FRAME + 32 + COUNT + 4 * asked.len();
    let answer = answer(&block, &asked);
    bytes += FRAME + 32 + COUNT + answer.transactions.iter().map(|tx| encode(tx).len()).sum::<usize>();
    let Filled::Complete(rebuilt) = reconstruction.fill(answer).unwrap() else { panic!("complete") };
    assert_eq!(&rebuilt.bytes()[..], encode(&block));
    assert!(bytes * 25 < rebuilt.bytes().len(), "{bytes} of {}", rebuilt.bytes().len());
    assert_eq!(rebuilt.fetched(), asked);
    // What was missing goes along when it is passed on, as far as there is room.
    let size = encode(&block.transactions[50]).len();
    let prefill = rebuilt.prefill(3 * size);
    assert_eq!(prefill, [50, 150, 250]);
    let passed = rebuilt.compact(5, &prefill);
    assert_eq!((passed.prefilled.len(), passed.len()), (3, 10_000));
    assert_eq!(missing(passed, &pool).missing().len(), 97);
}

/// BR9: answers that repeat, exceed, lack, reorder or belong elsewhere are told from the right one; none panics.
#[test]
fn answers_other_than_the_one_asked_for_are_refused() {
    let block = payments(20);
    let pool = pool(&block.transactions[..15]);
    let asked = [15, 16, 17, 18, 19];
    let wrong: [(&str, &[u32]); 6] = [
        ("none", &[]),
        ("one lacks", &[15, 16, 17, 18]),
        ("one too many", &[15, 16, 17, 18, 19, 0]),
        ("reordered", &[15, 17, 16, 18, 19]),
        ("one twice", &[15, 15, 17, 18, 19]),
        ("another one", &[15, 16, 17, 18, 3]),
    ];
    for (name, indexes) in wrong {
        let reconstruction = missing(CompactBlock::of(&block, 1), &pool);
        assert_eq!(reconstruction.missing(), asked);
        assert!(reconstruction.fill(answer(&block, indexes)).is_err(), "{name}");
    }
    let mut other = answer(&block, &asked);
    other.hash = BlockHash::ZERO;
    assert!(missing(CompactBlock::of(&block, 1), &pool).fill(other).is_err());
    let right = missing(CompactBlock::of(&block, 1), &pool).fill(answer(&block, &asked));
    assert!(matches!(right, Ok(Filled::Complete(rebuilt)) if decode::<Block>(rebuilt.bytes()).unwrap() == block));
}

/// BR10: structures that no honest sender makes.
#[test]
fn impossible_compact_blocks_are_refused() {
    let block = payments(4);
    let prefilled = |index| Prefilled { index, transaction: payment(index) };
    let mut rows: Vec<(&str, Vec<Prefilled>)> = vec![
        ("past the end", vec![prefilled(5)]),
        ("index overflow", vec![prefilled(u32::MAX)]),
        ("twice", vec![prefilled(1), prefilled(1)]),
        ("descending", vec![prefilled(1), prefilled(0)]),
    ];
    for (name, prefilled) in rows.drain(..) {
        let compact = CompactBlock { prefilled, ..CompactBlock::of(&block, 0) };
        assert!(begin(compact, &Pool::new()).is_err(), "{name}");
    }
    // More than any block can hold, to the last one.
    let limit = (MAX / TRANSACTION_BYTES_MIN) as usize;
    for (count, possible) in [(limit, true), (limit + 1, false), (2_000_000, false)] {
        let short_ids =
            (0..count as u64).map(|id| *(id * 0x0001_0000_0001).to_le_bytes().first_chunk().unwrap()).collect();
        let compact = CompactBlock { short_ids, ..CompactBlock::of(&block, 0) };
        assert_eq!(begin(compact, &Pool::new()).is_ok(), possible, "{count}");
    }
}

/// BR10: equal ids, and ids that crowd into one bucket, are fetched whole.
#[test]
fn ambiguous_ids_are_collisions() {
    let block = payments(64);
    let id = |id: u64| *id.to_le_bytes().first_chunk::<6>().unwrap();
    let with = |short_ids: Vec<[u8; 6]>| CompactBlock { short_ids, ..CompactBlock::of(&block, 0) };
    let spread: Vec<_> = (0..64u64).map(|index| id(index << 42)).collect();
    assert!(matches!(begin(with(spread.clone()), &Pool::new()), Ok(Begun::Missing(_))));
    let mut twice = spread.clone();
    twice[63] = twice[0];
    assert!(matches!(begin(with(twice), &Pool::new()), Ok(Begun::Collision)));
    for (crowd, collides) in [(12, false), (13, true), (64, true)] {
        let ids = (0..64u64).map(|index| if index < crowd { id(index) } else { id(index << 42) });
        let begun = begin(with(ids.collect()), &Pool::new()).unwrap();
        assert_eq!(matches!(begun, Begun::Collision), collides, "{crowd} in one bucket");
    }
}

/// A candidate that comes twice (from the mempool and from what it gave up) is still one.
#[test]
fn a_candidate_given_twice_is_one() {
    let block = payments(3);
    let pool = pool(&block.transactions);
    let candidates = pool.keys().chain(pool.keys()).copied();
    let compact = CompactBlock::of(&block, 0);
    let begun = Reconstruction::begin(compact, MAX, candidates, |wtxid| pool.get(wtxid).cloned()).unwrap();
    assert!(matches!(begun, Begun::Complete(_)));
}

/// BR10: the wrong transaction under a right id is a collision by the root, and nobody's fault.
#[test]
fn a_wrong_transaction_under_a_right_id_is_a_collision() {
    let block = payments(8);
    let mut compact = CompactBlock::of(&block, 0);
    // The sender's id of place 3 is that of a transaction which only this node's mempool has.
    let stranger = payment(1_000);
    compact.short_ids[3] = ShortIds::new(&block.header, 0).of(&stranger.wtxid());
    let mut pool = pool(&block.transactions);
    pool.insert(stranger.wtxid(), Arc::new(stranger.clone()));
    assert!(matches!(begin(compact.clone(), &pool), Ok(Begun::Collision)));
    pool.remove(&stranger.wtxid());
    let reconstruction = missing(compact, &pool);
    assert_eq!(reconstruction.missing(), [3]);
    let answer = BlockTransactions { hash: block.hash(), transactions: vec![stranger] };
    assert!(matches!(reconstruction.fill(answer), Ok(Filled::Collision)));
}

/// CS4: a list of transactions lengthened so that the root stays is not the block.
#[test]
fn a_mutated_body_is_a_collision() {
    for count in [2u32, 4, 6, 9] {
        let block = payments(count);
        // With the coinbase an odd number of leaves: the last one twice has the same root.
        let mut longer = block.clone();
        longer.transactions.push(block.transactions[count as usize - 1].clone());
        let same_root = longer.merkle_root().root == block.header.merkle_root;
        assert_eq!(same_root, count % 2 == 0);
        let pool = pool(&block.transactions[..count as usize - 1]);
        // As short ids they would stand twice; so the second goes along whole.
        let mut compact = CompactBlock::of(&block, 0);
        compact.prefilled.push(Prefilled { index: count, transaction: block.transactions[count as usize - 1].clone() });
        let reconstruction = missing(compact, &pool);
        let filled = reconstruction.fill(answer(&block, &[count - 1]));
        assert!(matches!(filled, Ok(Filled::Collision)), "{count}");
    }
}

/// A header can commit to more of a mempool than a block may hold: given up before it is written out.
#[test]
fn a_block_over_the_limit_is_not_built() {
    let block = payments(100);
    let pool = pool(&block.transactions);
    let size = encode(&block).len() as u64;
    for (max, fits) in [(size, true), (size - 1, false)] {
        let compact = CompactBlock::of(&block, 0);
        let begun = Reconstruction::begin(compact, max, pool.keys().copied(), |wtxid| pool.get(wtxid).cloned());
        assert_eq!(matches!(begun, Ok(Begun::Complete(_))), fits);
    }
}

/// BR9, BR10: random blocks, pools, damage: the right block or none, and no panic.
#[test]
fn random_damage_gives_the_block_or_nothing() {
    let mut complete = 0;
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let block = payments(rng.random_range(0..40));
        let count = block.transactions.len() as u32;
        let pool = pool(block.transactions.iter().filter(|_| rng.random_range(0..4) != 0));
        let list: Vec<_> = block.transactions.iter().map(|tx| (tx.wtxid(), Arc::new(tx.clone()))).collect();
        let prefill: Vec<u32> = (0..count).filter(|_| rng.random_range(0..8) == 0).collect();
        let mut compact = CompactBlock::new(block.header, block.coinbase.clone(), &list, rng.random(), &prefill);
        let damage = rng.random_range(0..6);
        match damage {
            0 => drop(compact.short_ids.pop()),
            1 => compact.short_ids.push([1; 6]),
            2 => compact.prefilled.reverse(),
            3 => compact.short_ids.reverse(),
            _ => {}
        }
        let rebuilt = match begin(compact, &pool) {
            Ok(Begun::Complete(rebuilt)) => Some(rebuilt),
            Ok(Begun::Missing(reconstruction)) => {
                let mut reply = answer(&block, &[]);
                let known = reconstruction.missing().iter().filter_map(|index| block.transactions.get(*index as usize));
                reply.transactions = known.cloned().collect();
                match reconstruction.fill(reply) {
                    Ok(Filled::Complete(rebuilt)) => Some(rebuilt),
                    Ok(Filled::Collision) | Err(_) => None,
                }
            }
            Ok(Begun::Collision) | Err(_) => None,
        };
        if let Some(rebuilt) = &rebuilt {
            assert_eq!(&rebuilt.bytes()[..], encode(&block), "seed {seed}");
            assert_eq!(rebuilt.hash(), block.hash());
            complete += 1;
        } else {
            assert!(damage < 4, "seed {seed}: nothing was damaged");
        }
    }
    assert!(complete > 100);
}
