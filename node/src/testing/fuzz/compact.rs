//! Compact blocks put together again, from a sender who may lie in every part and a mempool that has any of it: what
//! comes out is a block with its header's root or nothing, and from an honest sender it is the block.

use super::Input;
use super::world::world;
use crate::p2p::brain::compact::{Begun, Filled, Rebuilt, Reconstruction};
use crate::p2p::message::{BlockTransactions, CompactBlock};
use crate::testing::ChainBuilder;
use setara_core::block::Block;
use setara_core::codec;
use setara_core::hash::WtxId;
use setara_core::transaction::Transaction;
use std::sync::{Arc, OnceLock};

/// Changes to one compact block.
const EDITS_MAX: usize = 16;

/// A block with every transaction there is; its transactions are the mempool's as well.
fn blocks() -> &'static [Block] {
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    BLOCKS.get_or_init(|| {
        let builder = ChainBuilder::new(&world().network);
        let all = &world().transactions;
        (0..=all.len()).map(|count| builder.build(all[..count].to_vec())).collect()
    })
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let block = &blocks()[input.below(blocks().len())];
    let (known, prefilled, nonce) = (input.u16(), input.u16(), u64::from(input.u8()));
    let shared: Vec<(WtxId, Arc<Transaction>)> =
        block.transactions.iter().map(|t| (t.wtxid(), Arc::new(t.clone()))).collect();
    let prefill: Vec<u32> = (0..shared.len() as u32).filter(|index| prefilled >> (index % 16) & 1 == 1).collect();
    let mut compact = CompactBlock::new(block.header, block.coinbase.clone(), &shared, nonce, &prefill);
    let limit = if input.u8() == 255 { 400 } else { world().network.max_block_bytes };
    let mut honest = limit > 400;
    let edits = input.below(EDITS_MAX);
    for _ in 0..edits {
        honest &= !edit(&mut compact, &mut input);
    }
    let header = compact.header;
    let all = || world().transactions.iter().enumerate().filter(|(index, _)| known >> (index % 16) & 1 == 1);
    // A mempool that offers one twice is offering one.
    let candidates = all().chain(all().take(2)).map(|(_, transaction)| transaction.wtxid());
    let fetch = |wtxid: &WtxId| {
        all().map(|(_, transaction)| transaction).find(|t| t.wtxid() == *wtxid).map(|t| Arc::new(t.clone()))
    };
    let rebuilt = match Reconstruction::begin(compact, limit, candidates, fetch) {
        Err(_) | Ok(Begun::Collision) => None,
        Ok(Begun::Complete(rebuilt)) => Some(rebuilt),
        Ok(Begun::Missing(begun)) => {
            assert!(!begun.missing().is_empty() && begun.missing().is_sorted());
            let wanted = begun.missing().iter().filter_map(|index| block.transactions.get(*index as usize).cloned());
            let mut answer = BlockTransactions { hash: begun.hash(), transactions: wanted.collect() };
            honest &= !edit_answer(&mut answer, &mut input);
            match begun.fill(answer) {
                Err(_) | Ok(Filled::Collision) => None,
                Ok(Filled::Complete(rebuilt)) => Some(rebuilt),
            }
        }
    };
    assert!(!honest || rebuilt.is_some(), "an honest block was not put together");
    if let Some(rebuilt) = rebuilt {
        check(&rebuilt, limit);
        assert_eq!(rebuilt.hash(), header.hash());
        if honest {
            assert_eq!(**rebuilt.bytes(), *codec::encode(block));
        }
    }
}

fn check(rebuilt: &Rebuilt, limit: u64) {
    assert!(rebuilt.bytes().len() as u64 <= limit || rebuilt.is_empty());
    let block: Block = codec::decode(rebuilt.bytes()).expect("what was put together decodes");
    let root = block.merkle_root();
    assert!(!root.mutated && root.root == block.header.merkle_root);
    assert_eq!(block.transactions.len(), rebuilt.len());
    let again = rebuilt.compact(5, &rebuilt.prefill(100_000));
    assert_eq!(again.len(), rebuilt.len());
    let all: Vec<u32> = (0..rebuilt.len() as u32).collect();
    assert_eq!(rebuilt.pick(&all), Some(block.transactions));
    assert_eq!(rebuilt.pick(&[rebuilt.len() as u32]), None);
}

/// Changes one thing; whether anything is different now.
fn edit(compact: &mut CompactBlock, input: &mut Input<'_>) -> bool {
    let before = compact.clone();
    let operation = input.u8();
    let ids = compact.short_ids.len();
    match operation % 10 {
        0 if ids > 0 => compact.short_ids[input.below(ids)][usize::from(operation / 10) % 6] ^= input.u8(),
        1 if ids > 0 => compact.short_ids.push(compact.short_ids[input.below(ids)]),
        2 if ids > 0 => drop(compact.short_ids.remove(input.below(ids))),
        3 if ids > 1 => compact.short_ids.swap(input.below(ids), 0),
        4 => {
            // Many in one bucket, or far more than there can be.
            let id = [input.u8(), 0, 0, 0, 0, input.u8()];
            let count = if operation > 250 { 20_000 } else { input.below(32) };
            compact.short_ids.extend((0..count).map(|n| {
                let mut id = id;
                (id[1], id[2]) = (n as u8, (n >> 8) as u8);
                id
            }));
        }
        5 if !compact.prefilled.is_empty() => {
            let at = input.below(compact.prefilled.len());
            compact.prefilled[at].index = match input.u8() {
                255 => u32::MAX,
                index => u32::from(index),
            };
        }
        6 if !compact.prefilled.is_empty() => {
            let at = input.below(compact.prefilled.len());
            let other = &world().transactions[input.below(world().transactions.len())];
            compact.prefilled[at].transaction = other.clone();
        }
        7 if !compact.prefilled.is_empty() => {
            let at = input.below(compact.prefilled.len());
            compact.prefilled.push(compact.prefilled[at].clone());
        }
        8 => compact.nonce ^= u64::from(input.u8()),
        9 => compact.header.merkle_root = world().blocks[input.below(world().blocks.len())].header.merkle_root,
        _ => {}
    }
    *compact != before
}

/// Changes the answer; whether anything is different now.
fn edit_answer(answer: &mut BlockTransactions, input: &mut Input<'_>) -> bool {
    let before = answer.clone();
    let (operation, count) = (input.u8(), answer.transactions.len());
    let other = &world().transactions[input.below(world().transactions.len())];
    match operation % 8 {
        1 if count > 0 => answer.transactions[input.below(count)] = other.clone(),
        2 => answer.transactions.push(other.clone()),
        3 if count > 0 => drop(answer.transactions.remove(input.below(count))),
        4 if count > 1 => answer.transactions.swap(0, input.below(count)),
        5 => answer.hash = world().network.genesis_hash(),
        6 => answer.transactions.clear(),
        _ => {}
    }
    *answer != before
}

pub fn seeds() -> Vec<Vec<u8>> {
    let count = blocks().len() as u8 - 1;
    let mut seeds = Vec::new();
    for known in [0u8, 0xff, 0x55] {
        for prefilled in [0u8, 0xff, 0x0f] {
            seeds.push(vec![count, known, known, prefilled, prefilled, 7, 0, 0, 0]);
            for operation in 0..10u8 {
                seeds.push(vec![count, known, known, prefilled, prefilled, 7, 0, 1, operation, 1, 1, 1, 1]);
            }
            for operation in 1..7u8 {
                seeds.push(vec![count, known, known, prefilled, prefilled, 7, 0, 0, operation, 1, 1]);
            }
        }
    }
    seeds
}
