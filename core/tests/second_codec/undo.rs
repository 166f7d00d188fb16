//! The undo record of a block, by hand: coins of one transaction, height and kind stand together, and no count is believed.
//!
//! Only a node's own disk holds these. [`connect`] makes them; here they come from bytes.
//!
//! [`connect`]: setara_core::consensus::connect

use crate::second::{Bytes32, varint};
use setara_core::codec::{Codec, CodecError, decode, encode};
use setara_core::consensus::{BlockDelta, ChainState, HeaderState};

/// A header's state with one time: height, hash, work, times, anchor.
fn header(height: u32, time: u32, anchor: &[u8]) -> Vec<u8> {
    [&varint(height.into())[..], &[1; 32], &[2; 32], &[1], &varint(time.into()), anchor].concat()
}

/// The state of a chain that has no coins yet.
fn chain(height: u32) -> Vec<u8> {
    [&header(height, 0, &[0])[..], &[3; 32], &[0]].concat()
}

/// An undo record: the state before, the headers after, the supply, coins spent and made.
fn record(spent: &[u8], made: &[u8]) -> Vec<u8> {
    [&chain(0)[..], &header(1, 300, &[1, 7]), &[9], spent, made].concat()
}

/// A group's head: transaction, height, whether a coinbase, how many coins.
fn group(txid: Bytes32, height: u32, from_coinbase: u8, count: u64) -> Vec<u8> {
    [&txid[..], &varint(height.into()), &[from_coinbase], &varint(count)].concat()
}

fn coin(index: u32, sen: u64) -> Vec<u8> {
    [&varint(index.into())[..], &varint(sen), &[4; 32]].concat()
}

#[test]
fn coins_of_one_transaction_stand_together() {
    let spent = [
        vec![5],
        [group([1; 32], 300, 1, 2), coin(0, 5), coin(3, 250)].concat(),
        // Another transaction, another height, another kind: each begins a group, whatever else is the same.
        [group([2; 32], 300, 1, 1), coin(0, 1_000)].concat(),
        [group([2; 32], 301, 1, 1), coin(1, 1)].concat(),
        [group([2; 32], 301, 0, 1), coin(2, 1)].concat(),
        [group([1; 32], 301, 0, 1), coin(300, 1)].concat(),
    ]
    .concat();
    let made = [vec![1], group([6; 32], 1, 0, 3), coin(0, 1), coin(1, 2), coin(2, 3)].concat();
    let bytes = record(&spent, &made);
    let delta: BlockDelta = decode(&bytes).unwrap();
    let plain: Vec<_> = delta
        .spent()
        .iter()
        .map(|(outpoint, coin)| {
            let txid = outpoint.txid.as_bytes()[0];
            (txid, outpoint.index, coin.output.amount.sen(), coin.height.get(), coin.from_coinbase)
        })
        .collect();
    let expected = [
        (1, 0, 5, 300, true),
        (1, 3, 250, 300, true),
        (2, 0, 1_000, 300, true),
        (2, 1, 1, 301, true),
        (2, 2, 1, 301, false),
        (1, 300, 1, 301, false),
    ];
    assert_eq!(plain, expected);
    assert_eq!(delta.created().len(), 3);
    assert_eq!(encode(&delta), bytes);
    for kind in [2, 255] {
        let made = [vec![1], group([6; 32], 1, kind, 1), coin(0, 1)].concat();
        assert_eq!(decode::<BlockDelta>(&record(&[0], &made)), Err(CodecError::NonCanonical));
    }
}

/// A count is held against the bytes that follow it: 35 for a group without coins, 34 for a coin.
#[test]
fn counts_are_bounded_by_what_follows() {
    for (room, groups) in [(34, 0), (35, 1), (69, 1), (70, 2), (35_000, 1_000)] {
        let bytes = record(&[&varint(1 << 40)[..], &vec![0; room]].concat(), &[]);
        let error = CodecError::ListTooLong { what: "coin groups", count: 1 << 40, max: groups };
        assert_eq!(decode::<BlockDelta>(&bytes), Err(error), "{room} bytes");
    }
    for (room, coins) in [(33, 0), (34, 1), (67, 1), (68, 2), (34_000, 1_000)] {
        let head = group([1; 32], 1, 0, 1 << 40);
        let bytes = record(&[&[1][..], &head, &vec![0; room]].concat(), &[]);
        let error = CodecError::ListTooLong { what: "coins", count: 1 << 40, max: coins };
        assert_eq!(decode::<BlockDelta>(&bytes), Err(error), "{room} bytes");
    }
}

/// What bounds a claimed list is the length of the smallest value that a chain can have.
#[test]
fn smallest_values_have_the_stated_length() {
    fn holds<T: Codec>(bytes: Vec<u8>) {
        let value: T = decode(&bytes).unwrap();
        assert_eq!(encode(&value), bytes);
        assert_eq!(T::MIN_SIZE, bytes.len() as u64);
    }
    holds::<HeaderState>(header(0, 0, &[0]));
    holds::<ChainState>(chain(0));
    holds::<BlockDelta>([&chain(0)[..], &header(0, 0, &[0]), &[0, 0, 0]].concat());
}
