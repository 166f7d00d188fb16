//! What an unconfirmed transaction weighs in memory: every allocation and its share of every map.
//!
//! An upper bound of what the allocator holds; a test measures that it is one. (Bitcoin Core's `memusage.h`.)

use super::arrange::Cluster;
use super::graph::{ClusterId, Entry, Id, Node, Rank};
use super::linearize::Chunk;
use setara_core::address::Address;
use setara_core::hash::{TxId, WtxId};
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Input, OutPoint, Output, Transaction, Witness};
use std::mem::size_of;

/// A `Vec<Id>` at its first push (four places), for children and for parents.
const FIRST_LINKS: usize = allocation(4 * size_of::<Id>());

/// How many times its length a list of children may hold on to.
pub const LINK_SLACK: usize = 4;

/// One more link between two entries: an id on the child's side, an id with slack on the parent's.
pub const LINK: usize = (1 + LINK_SLACK) * size_of::<Id>();

/// An entry's fixed part: its node, its place in the maps and among what the fee estimator watches, and the worst case
/// of a cluster and a chunk of its own.
const FIXED: usize = item::<(Id, Box<Node>)>()
    + allocation(size_of::<Node>())
    + item::<(TxId, Id)>()
    + item::<(WtxId, Id)>()
    + item::<(ClusterId, Cluster)>()
    + allocation(size_of::<Id>())
    + allocation(size_of::<Chunk>())
    + item::<Rank>()
    + item::<((u32, u8), u32)>()
    + 2 * FIRST_LINKS;

/// A heap block as glibc rounds it: eight bytes of its own, multiples of 16, 32 at least.
const fn allocation(bytes: usize) -> usize {
    match (bytes + 8).next_multiple_of(16) {
        _ if bytes == 0 => 0,
        rounded if rounded < 32 => 32,
        rounded => rounded,
    }
}

/// An item of a B-tree: nodes of eleven are at least five elevenths full, and have headers and parents.
const fn item<T>() -> usize {
    size_of::<T>() * 11 / 5 + 32
}

/// The length of something in memory.
pub fn count(length: usize) -> u64 {
    u64::try_from(length).expect("usize is at most 64 bits")
}

/// All that an entry weighs, but for links to its parents.
pub fn entry(entry: &Entry) -> usize {
    let inputs = entry.transaction.inputs.len();
    let outputs = entry.transaction.outputs.len();
    FIXED
        + inputs * item::<(OutPoint, Id)>()
        + (inputs + outputs) * item::<(Address, Id)>()
        + allocation(entry.spent_addresses.len() * size_of::<Address>())
        + transaction(&entry.transaction)
}

/// A shared transaction: itself with its two counters, and its lists.
fn transaction(transaction: &Transaction) -> usize {
    allocation(size_of::<Transaction>() + 2 * size_of::<usize>())
        + allocation(transaction.inputs.capacity() * size_of::<Input>())
        + allocation(transaction.outputs.capacity() * size_of::<Output>())
        + allocation(transaction.memo.capacity())
        + allocation(transaction.witnesses.capacity() * size_of::<Witness>())
        + transaction.witnesses.iter().map(witness).sum::<usize>()
}

fn witness(witness: &Witness) -> usize {
    policy(&witness.policy)
        + allocation(witness.signatures.capacity() * 64)
        + allocation(witness.preimages.capacity() * 32)
        + allocation(witness.future.capacity() * size_of::<Vec<u8>>())
        + witness.future.iter().map(|item| allocation(item.capacity())).sum::<usize>()
}

/// What a policy holds on the heap. Its depth was bounded when it was decoded or checked.
fn policy(root: &SpendPolicy) -> usize {
    match root {
        SpendPolicy::Threshold { of, .. } => {
            allocation(of.capacity() * size_of::<SpendPolicy>()) + of.iter().map(policy).sum::<usize>()
        }
        SpendPolicy::Future { bytes, .. } => allocation(bytes.capacity()),
        _ => 0,
    }
}
