//! Compact blocks: made, and taken apart again (BIP 152).
//!
//! ```text
//!  CompactBlock ──begin──► Complete(Rebuilt)                      all were in the mempool, the root is right
//!                     ├──► Missing(Reconstruction) ──fill──► Complete(Rebuilt)
//!                     │                                 └──► Collision
//!                     └──► Collision                              ids are ambiguous: fetch the block whole
//! ```
//!
//! Pure values. A [`Rebuilt`] block has the root of its header, unmutated, and fits the network's limit; whether it is
//! valid is the chain's to say. A [`Reconstruction`] is consumed by its one answer, so a second one finds nothing to act
//! on (CVE-2024-35202). A collision is nobody's fault; [`Impossible`] is what no honest sender makes.

#[cfg(test)]
mod tests;

use crate::p2p::message::{BlockTransactions, CompactBlock, Prefilled};
use setara_core::block::{Block, Header, write_compact_size};
use setara_core::codec::{Codec, Writer, encode};
use setara_core::hash::{BlockHash, WtxId, sha256};
use setara_core::limits::TRANSACTION_BYTES_MIN;
use setara_core::merkle;
use setara_core::transaction::{Coinbase, Transaction};
use siphasher::sip::SipHasher24;
use std::sync::Arc;

/// Short ids that may share a bucket when there are as many buckets as ids (BIP 152's advice): honest ids pass this in
/// all but one of 10^5 blocks, and a look-up stays short whatever a sender makes up.
const BUCKET_MAX: usize = 12;
/// Bits of a short id.
const SHORT_ID_BITS: u32 = 48;

/// What no honest sender makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a compact block that cannot be: {0}")]
pub struct Impossible(pub &'static str);

/// Gives short ids under one block's key.
#[derive(Debug, Clone, Copy)]
pub struct ShortIds(SipHasher24);

impl ShortIds {
    /// Under the first 16 bytes of SHA-256(header || nonce), as BIP 152.
    pub fn new(header: &Header, nonce: u64) -> Self {
        let seed = sha256(&[&header.to_bytes()[..], &nonce.to_le_bytes()].concat());
        let mut key = [0; 16];
        key.copy_from_slice(&seed[..16]);
        Self(SipHasher24::new_with_key(&key))
    }

    /// The low six bytes of SipHash-2-4 of the wtxid's bytes.
    pub fn of(&self, wtxid: &WtxId) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.0.hash(wtxid.as_bytes()).to_le_bytes();
        [a, b, c, d, e, f]
    }
}

fn number(id: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = id;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

impl CompactBlock {
    /// Of a block whose wtxids are at hand; the transactions at positions `prefill` (ascending) go along whole.
    pub fn new(
        header: Header,
        coinbase: Coinbase,
        transactions: &[(WtxId, Arc<Transaction>)],
        nonce: u64,
        prefill: &[u32],
    ) -> Self {
        let ids = ShortIds::new(&header, nonce);
        let mut compact = Self { header, nonce, coinbase, short_ids: Vec::new(), prefilled: Vec::new() };
        for (index, (wtxid, transaction)) in (0u32..).zip(transactions) {
            if prefill.binary_search(&index).is_ok() {
                compact.prefilled.push(Prefilled { index, transaction: (**transaction).clone() });
            } else {
                compact.short_ids.push(ids.of(wtxid));
            }
        }
        compact
    }

    /// Of a block; the coinbase alone goes along whole.
    pub fn of(block: &Block, nonce: u64) -> Self {
        let ids = ShortIds::new(&block.header, nonce);
        let short_ids = block.transactions.iter().map(|transaction| ids.of(&transaction.wtxid())).collect();
        Self { header: block.header, nonce, coinbase: block.coinbase.clone(), short_ids, prefilled: Vec::new() }
    }

    /// Transactions of the block, the coinbase not counted.
    pub fn len(&self) -> usize {
        self.short_ids.len().saturating_add(self.prefilled.len())
    }

    /// Whether there is nothing but a coinbase.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A block put together from pieces, its root checked.
#[derive(Debug, Clone)]
pub struct Rebuilt {
    header: Header,
    coinbase: Coinbase,
    transactions: Vec<(WtxId, Arc<Transaction>)>,
    bytes: Arc<[u8]>,
    /// Those that the mempool lacked, ascending: others probably lack them too.
    fetched: Vec<u32>,
}

impl Rebuilt {
    /// Its hash.
    pub fn hash(&self) -> BlockHash {
        self.header.hash()
    }

    /// Its header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Its encoding.
    pub const fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Positions of the transactions that came from the sender rather than from the mempool.
    pub fn fetched(&self) -> &[u32] {
        &self.fetched
    }

    /// The first of [`Self::fetched`], as many as are `max_bytes` long together: peers probably lack them too.
    pub fn prefill(&self, max_bytes: usize) -> Vec<u32> {
        let mut left = max_bytes;
        let fits = |index: &&u32| {
            let transaction = usize::try_from(**index).ok().and_then(|index| self.transactions.get(index));
            let size = transaction.map_or(usize::MAX, |(_, transaction)| encode(&**transaction).len());
            left.checked_sub(size).map(|rest| left = rest).is_some()
        };
        self.fetched.iter().take_while(fits).copied().collect()
    }

    /// The same block, compact under another nonce.
    pub fn compact(&self, nonce: u64, prefill: &[u32]) -> CompactBlock {
        CompactBlock::new(self.header, self.coinbase.clone(), &self.transactions, nonce, prefill)
    }

    /// Transactions by position; `None` if one is out of range.
    pub fn pick(&self, indexes: &[u32]) -> Option<Vec<Transaction>> {
        let pick = |index: &u32| Some((*self.transactions.get(usize::try_from(*index).ok()?)?.1).clone());
        indexes.iter().map(pick).collect()
    }

    /// How many transactions there are, the coinbase not counted.
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    /// Whether there is nothing but a coinbase.
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }
}

/// A compact block held against the mempool.
#[derive(Debug)]
pub enum Begun {
    /// Nothing is missing.
    Complete(Rebuilt),
    /// Some are; [`Reconstruction::missing`] names them.
    Missing(Reconstruction),
    /// The ids do not tell: fetch the block whole.
    Collision,
}

/// A compact block with its missing transactions come.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "taken apart at once; the large one is the usual one")]
pub enum Filled {
    /// Done.
    Complete(Rebuilt),
    /// A wrong transaction had the right id: fetch the block whole.
    Collision,
}

/// A block of which transactions are missing.
#[derive(Debug)]
pub struct Reconstruction {
    header: Header,
    hash: BlockHash,
    coinbase: Coinbase,
    slots: Vec<Option<(WtxId, Arc<Transaction>)>>,
    /// Positions to ask for, ascending, and the short id of each.
    missing: Vec<u32>,
    missing_ids: Vec<u64>,
    ids: ShortIds,
    max_block_bytes: u64,
}

impl Reconstruction {
    /// Holds a compact block against `candidates`, each looked at once; `fetch` then gives those that were found.
    pub fn begin(
        compact: CompactBlock,
        max_block_bytes: u64,
        candidates: impl IntoIterator<Item = WtxId>,
        mut fetch: impl FnMut(&WtxId) -> Option<Arc<Transaction>>,
    ) -> Result<Begun, Impossible> {
        let total = compact.len();
        if u64::try_from(total).unwrap_or(u64::MAX) > max_block_bytes / TRANSACTION_BYTES_MIN {
            return Err(Impossible("more transactions than a block can hold"));
        }
        let ids = ShortIds::new(&compact.header, compact.nonce);
        let mut slots: Vec<Option<(WtxId, Arc<Transaction>)>> = vec![None; total];
        let mut last = None;
        for Prefilled { index, transaction } in compact.prefilled {
            if last.is_some_and(|last| index <= last) {
                return Err(Impossible("prefilled transactions out of order"));
            }
            last = Some(index);
            let slot = usize::try_from(index).ok().and_then(|index| slots.get_mut(index));
            let slot = slot.ok_or(Impossible("a prefilled transaction past the end"))?;
            *slot = Some((transaction.wtxid(), Arc::new(transaction)));
        }
        // As many free places as short ids, by the lengths above.
        let free = (0u32..).zip(&slots).filter(|(_, slot)| slot.is_none()).map(|(position, _)| position);
        let places: Vec<(u64, u32)> = compact.short_ids.iter().map(|id| number(*id)).zip(free).collect();
        let Some(table) = Table::new(places) else { return Ok(Begun::Collision) };

        let mut found: Vec<Found> = vec![Found::Nothing; total];
        for wtxid in candidates {
            let place = table.find(number(ids.of(&wtxid))).and_then(|place| found.get_mut(place));
            if let Some(found) = place {
                *found = match *found {
                    Found::Nothing => Found::One(wtxid),
                    Found::One(other) if other == wtxid => Found::One(wtxid),
                    Found::One(_) | Found::Many => Found::Many,
                };
            }
        }
        for (slot, found) in slots.iter_mut().zip(found) {
            if let Found::One(wtxid) = found {
                *slot = fetch(&wtxid).map(|transaction| (wtxid, transaction));
            }
        }
        let lacks = |position: &u32| matches!(slots.get(*position as usize), Some(None));
        let mut missing: Vec<(u32, u64)> = table
            .places
            .iter()
            .filter(|(_, position)| lacks(position))
            .map(|(id, position)| (*position, *id))
            .collect();
        missing.sort_unstable();
        let (missing, missing_ids): (Vec<u32>, Vec<u64>) = missing.into_iter().unzip();
        let hash = compact.header.hash();
        let (header, coinbase) = (compact.header, compact.coinbase);
        let begun = Self { header, hash, coinbase, slots, missing, missing_ids, ids, max_block_bytes };
        if !begun.missing.is_empty() {
            return Ok(Begun::Missing(begun));
        }
        Ok(match begun.finish() {
            Some(rebuilt) => Begun::Complete(rebuilt),
            None => Begun::Collision,
        })
    }

    /// The block's hash.
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// Positions to ask for, ascending; never empty.
    pub fn missing(&self) -> &[u32] {
        &self.missing
    }

    /// The answer to asking for [`Self::missing`], all of it and in that order.
    pub fn fill(mut self, answer: BlockTransactions) -> Result<Filled, Impossible> {
        if answer.hash != self.hash {
            return Err(Impossible("transactions of another block"));
        }
        if answer.transactions.len() != self.missing.len() {
            return Err(Impossible("not as many transactions as were asked for"));
        }
        for ((position, id), transaction) in self.missing.iter().zip(&self.missing_ids).zip(answer.transactions) {
            let wtxid = transaction.wtxid();
            // Ids and answer are of one sender: here it contradicts itself.
            if number(self.ids.of(&wtxid)) != *id {
                return Err(Impossible("a transaction that does not have its short id"));
            }
            if let Some(slot) = self.slots.get_mut(*position as usize) {
                *slot = Some((wtxid, Arc::new(transaction)));
            }
        }
        Ok(match self.finish() {
            Some(rebuilt) => Filled::Complete(rebuilt),
            None => Filled::Collision,
        })
    }

    /// The block, if it has the root of its header and fits.
    fn finish(self) -> Option<Rebuilt> {
        let transactions = self.slots.into_iter().collect::<Option<Vec<_>>>()?;
        let mut leaves = Vec::with_capacity(transactions.len().saturating_add(1));
        leaves.push(self.coinbase.wtxid());
        leaves.extend(transactions.iter().map(|(wtxid, _)| *wtxid));
        let root = merkle::root(&leaves);
        if root.mutated || root.root != self.header.merkle_root {
            return None;
        }
        let mut writer = Writer::default();
        self.header.write(&mut writer);
        write_compact_size(&mut writer, u64::try_from(leaves.len()).unwrap_or(u64::MAX));
        self.coinbase.write(&mut writer);
        for (_, transaction) in &transactions {
            transaction.write(&mut writer);
            // Before more is written: a header can commit to far more of the mempool than a block may hold.
            if u64::try_from(writer.position()).unwrap_or(u64::MAX) > self.max_block_bytes {
                return None;
            }
        }
        let (header, coinbase, fetched) = (self.header, self.coinbase, self.missing);
        Some(Rebuilt { header, coinbase, transactions, bytes: writer.finish().into(), fetched })
    }
}

/// Which candidates have a short id.
#[derive(Debug, Clone, Copy)]
enum Found {
    Nothing,
    One(WtxId),
    /// Two: only the sender knows which.
    Many,
}

/// Short ids with their positions, sorted, and where each run of leading bits begins.
struct Table {
    places: Vec<(u64, u32)>,
    starts: Vec<u32>,
    shift: u32,
}

impl Table {
    /// `None` if an id stands twice or a bucket holds too many.
    fn new(mut places: Vec<(u64, u32)>) -> Option<Self> {
        places.sort_unstable();
        if places.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
            return None;
        }
        let bits = places.len().next_power_of_two().trailing_zeros();
        let shift = SHORT_ID_BITS.saturating_sub(bits);
        let mut starts = vec![0u32; (1usize << bits) + 1];
        for (id, _) in &places {
            // Ids have 48 bits, so what is left after the shift has `bits`.
            if let Some(count) = starts.get_mut((*id >> shift) as usize + 1) {
                *count += 1;
            }
        }
        if starts.iter().any(|count| *count as usize > BUCKET_MAX) {
            return None;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Some(Self { places, starts, shift })
    }

    /// The position of a short id.
    fn find(&self, id: u64) -> Option<usize> {
        let bucket = (id >> self.shift) as usize;
        let (start, end) = (*self.starts.get(bucket)? as usize, *self.starts.get(bucket + 1)? as usize);
        let (_, position) = self.places.get(start..end)?.iter().find(|(other, _)| *other == id)?;
        Some(*position as usize)
    }
}
