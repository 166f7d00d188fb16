//! What the protocol defines by a formula, written out a second time: ids, signed messages, the median of times, the
//! anchor of the difficulty rule, and where money comes from.

mod common;

use common::*;
use setara_core::amount::Amount;
use setara_core::block::Header;
use setara_core::codec::encode;
use setara_core::consensus::{HeaderState, check_header, check_transaction, transaction_signatures};
use setara_core::hash::{Hash256, TxId, sha256, sha256d, tagged};
use setara_core::height::Height;
use setara_core::network::{Difficulty, Network, Parameters};
use setara_core::nonce::find_nonce;
use setara_core::policy::SpendPolicy;
use setara_core::pow::asert;
use setara_core::transaction::{Coin, OutPoint, Output, Transaction};

fn amount(sen: u64) -> Amount {
    Amount::from_sen(sen)
}

/// Two inputs: one by a key alone, one by the third and first child of a threshold whose second is hidden.
fn two_inputs(chain: &Chain) -> Transaction {
    let tree =
        SpendPolicy::Threshold { n: 2, of: vec![key_policy(1), SpendPolicy::Opaque(key_address(2)), key_policy(3)] };
    let coin = |index, address| {
        let output = Output { amount: amount(1_000 + u64::from(index)), address };
        (
            OutPoint::new(TxId::new(sha256d(b"some")), index),
            Coin { output, height: Height::new(1), from_coinbase: false },
        )
    };
    let coins = [coin(5, key_address(0)), coin(300, tree.address())];
    let outputs = vec![Output { amount: amount(1_500), address: key_address(4) }];
    let mut transaction = spend(&coins, outputs, vec![key_policy(0), tree]);
    transaction.valid_from = 7;
    transaction.memo = b"memo".to_vec();
    sign(&chain.network, &mut transaction, &[key(0), key(1), key(3)]);
    transaction
}

/// `txid` hashes the bytes before the witnesses' count, `wtxid` adds the hash of the rest behind a byte of 1.
#[test]
fn ids_hash_what_they_say() {
    let chain = Chain::new(network());
    let transaction = two_inputs(&chain);
    let bytes = encode(&transaction);
    let mut bare = transaction.clone();
    bare.witnesses.clear();
    // Without witnesses the encoding ends in their count, a single zero byte.
    let base = encode(&bare);
    let base = &base[..base.len() - 1];
    assert!(bytes.starts_with(base));
    let (txid, witnesses) = (sha256d(base), sha256d(&bytes[base.len()..]));
    let leaf = [&[1][..], txid.as_bytes(), witnesses.as_bytes()].concat();
    assert_eq!(transaction.txid().hash(), txid);
    assert_eq!(transaction.wtxid().hash(), sha256d(&leaf));
    let ids = transaction.ids();
    assert_eq!((ids.txid, ids.wtxid, ids.size), (transaction.txid(), transaction.wtxid(), bytes.len() as u64));
}

/// CS14. The signed message, byte by byte: network, transaction, addresses of all spent coins, input, place in the tree.
#[test]
fn signed_messages_commit_to_all_they_should() {
    let chain = Chain::new(network());
    let transaction = two_inputs(&chain);
    let checked = check_transaction(&chain.network, &transaction).unwrap();
    let checks = transaction_signatures(chain.network.genesis_hash(), &checked);
    let addresses =
        [*transaction.witnesses[0].policy.address().as_bytes(), *transaction.witnesses[1].policy.address().as_bytes()]
            .concat();
    let message = |input: u32, path: &[u8]| {
        let bytes = [
            chain.network.genesis_hash().as_bytes().as_slice(),
            transaction.txid().as_bytes(),
            &sha256(&addresses),
            &input.to_le_bytes(),
            &sha256(path),
        ]
        .concat();
        *tagged("setara/sighash/1", &[&bytes]).as_bytes()
    };
    let expected = [(0, &[][..], key(0)), (1, &[0], key(1)), (1, &[2], key(3))];
    assert_eq!(checks.len(), expected.len());
    for (check, (input, path, key)) in checks.iter().zip(expected) {
        assert_eq!(check.key, key.public_key());
        assert_eq!(check.message, message(input, path), "input {input}, path {path:?}");
        assert!(check.verify());
    }
    // What a mempool asks of a checked transaction: per input, whose coin it is and what its witness claims.
    assert_eq!(checked.addresses(), transaction.spent_addresses());
    let claimed: Vec<_> = checked.claims().iter().map(|claims| claims.signatures.len()).collect();
    assert_eq!(claimed, [1, 2]);
}

fn altered(change: impl FnOnce(&mut Parameters)) -> Network {
    let mut parameters = (*network()).clone();
    change(&mut parameters);
    let header = parameters.genesis_block().header;
    let target = header.bits.to_target().unwrap();
    parameters.genesis_nonce = find_nonce(&header, target, 0..=u32::MAX).unwrap();
    Network::new(parameters).unwrap()
}

fn next(network: &Network, parent: &HeaderState, time: u32) -> HeaderState {
    let bits = parent.required_bits(network);
    let mut header = Header { version: 0, previous: parent.hash, merkle_root: Hash256::ZERO, time, bits, nonce: 0 };
    header.nonce = find_nonce(&header, bits.to_target().unwrap(), 0..=u32::MAX).unwrap();
    check_header(network, parent, &header).unwrap()
}

/// `sorted(times of the min(11, h + 1) blocks ending at h)[len / 2]`, with times out of order and fewer than eleven.
#[test]
fn median_of_few_and_of_many_times() {
    let network = network();
    let mut state = HeaderState::genesis(&network);
    let mut times = vec![network.genesis_time];
    for step in 0..40u32 {
        let last = times.len().min(11);
        let mut sorted = times[times.len() - last..].to_vec();
        sorted.sort_unstable();
        let median = sorted[last / 2];
        assert_eq!(state.median_time_past(), median, "after {} blocks", times.len());
        // Far ahead and just above the median in turn.
        let time = if step % 3 == 0 { median + 1_000 } else { median + 1 };
        state = next(&network, &state, time);
        times.push(time);
    }
}

/// PT2. Bits of blocks 1 and 2 are genesis's; from then on the anchor is block 1 of the block's own branch, whatever
/// genesis says and whatever other branches do.
#[test]
fn difficulty_is_anchored_at_block_one_of_the_branch() {
    let network = altered(|parameters| {
        parameters.difficulty = Difficulty::Asert { half_life: 14_400 };
        parameters.max_future_seconds = 600;
        parameters.spacing = 60;
    });
    let genesis = HeaderState::genesis(&network);
    let anchor_target = network.genesis_bits.to_target().unwrap();
    // Two branches, one starting a day after the other.
    for first in [network.genesis_time + 1, network.genesis_time + 86_400] {
        assert_eq!(genesis.required_bits(&network), network.genesis_bits);
        let mut state = next(&network, &genesis, first);
        assert_eq!(state.required_bits(&network), network.genesis_bits, "an honest late start owes nothing");
        let mut hardest = network.genesis_bits.to_target().unwrap();
        for parent in 2..60i64 {
            // Ten times too fast, so that the target moves.
            let time = first + 6 * (parent as u32 - 1);
            state = next(&network, &state, time);
            let exponent_seconds = i64::from(time) - i64::from(first) - 60 * (parent - 1);
            let bits = state.required_bits(&network);
            let blocks = u32::try_from(parent - 1).unwrap();
            let since_anchors_parent = exponent_seconds + 60 * i64::from(blocks + 1);
            let expected = asert(anchor_target, network.limit, 60, 14_400, since_anchors_parent, blocks);
            assert_eq!(bits, expected.to_compact(), "after block {parent}");
            // 2^(exponent / half-life), as a float: close, whatever the integers do.
            let ratio = ratio(bits.to_target().unwrap().to_be_bytes(), anchor_target.to_be_bytes());
            let ideal = (exponent_seconds as f64 / 14_400.0).exp2();
            assert!((ratio / ideal - 1.0).abs() < 0.001, "block {parent}: {ratio} instead of {ideal}");
            assert!(bits.to_target().unwrap() <= hardest, "faster blocks, harder target");
            hardest = bits.to_target().unwrap();
        }
    }
}

fn ratio(a: [u8; 32], b: [u8; 32]) -> f64 {
    let float = |bytes: [u8; 32]| bytes.iter().fold(0.0, |value, byte| value * 256.0 + f64::from(*byte));
    float(a) / float(b)
}

/// CS1, CS2. Money comes from subsidies alone: through fees, and through coins made and spent within one block, the
/// supply stays what was emitted, and a coin that was spent where it was born never exists afterwards.
#[test]
fn coins_spent_where_they_are_born_never_exist() {
    let mut chain = Chain::new(network());
    chain.grow(6);
    let emitted = |chain: &Chain| {
        (0..=chain.state.height().get()).map(|height| chain.network.subsidy(Height::new(height)).sen()).sum::<u64>()
    };
    let first = payment(&chain, chain.reward(1), 1_000, 100);
    let born = (OutPoint::new(first.txid(), 0), first.outputs[0]);
    let coin = Coin { output: born.1, height: chain.state.header.next_height().unwrap(), from_coinbase: false };
    let outputs = vec![Output { amount: amount(900), address: key_address(0) }];
    let mut second = spend(&[(born.0, coin)], outputs, vec![key_policy(1)]);
    sign(&chain.network, &mut second, &[key(1)]);
    let block = chain.block(vec![first, second]);
    chain.accept(&block).unwrap();
    assert_eq!(chain.state.supply.sen(), emitted(&chain));
    assert_eq!(chain.lattice.sum(), emitted(&chain));
    assert_eq!(chain.lattice.count(), chain.coins.len() as u64);
    assert!(!chain.coins.contains_key(&born.0), "a coin spent in its own block is still there");

    let outputs = vec![Output { amount: amount(800), address: key_address(0) }];
    let mut again = spend(&[(born.0, coin)], outputs, vec![key_policy(1)]);
    sign(&chain.network, &mut again, &[key(1)]);
    let block = chain.block(vec![again]);
    assert_eq!(chain.accept(&block).unwrap_err().code(), "bad-txns-inputs-missingorspent");
    chain.grow(3);
    assert_eq!(chain.state.supply.sen(), emitted(&chain));
}
