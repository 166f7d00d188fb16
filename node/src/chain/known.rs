//! Signatures that have been verified: remembered by wtxid, so that a block of known transactions connects without a
//! single curve operation.
//!
//! A wtxid fixes every signature of a transaction, every key and everything they sign (the genesis hash and the spent
//! coins' addresses included), so the verdict holds at any height and on any branch. It says nothing else: amounts,
//! locks, maturity and existence are checked anew every time (CVE-2026-40880 was a cache that said more).

use super::hasher::KeyedState;
use parking_lot::Mutex;
use setara_core::hash::WtxId;
use std::collections::HashSet;
use std::mem::size_of;

/// Bytes of a wtxid in a table that doubles when it is seven eighths full, at worst.
const ID_BYTES: u64 = (size_of::<WtxId>() as u64 + 1) * 16 / 7;

/// Most wtxids remembered, in two halves: more than a full mempool of ordinary transactions (300 MB measured hold
/// about 400,000), in some 75 MB at worst.
const KNOWN_MAX: usize = 1 << 20;

struct Halves {
    young: HashSet<WtxId, KeyedState>,
    old: HashSet<WtxId, KeyedState>,
}

/// A bounded set of wtxids whose signatures are valid. Only those who have verified them may insert.
pub struct KnownSignatures {
    halves: Mutex<Halves>,
    half_max: usize,
}

impl Default for KnownSignatures {
    fn default() -> Self {
        Self::with_capacity(KNOWN_MAX)
    }
}

impl KnownSignatures {
    /// Bytes of each.
    pub const BYTES_EACH: u64 = ID_BYTES;
    /// Bytes of as many as are ever remembered.
    pub const BYTES_MAX: u64 = KNOWN_MAX as u64 * ID_BYTES;

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        let halves = self.halves.lock();
        (halves.young.capacity() + halves.old.capacity()) as u64 * ID_BYTES / 2
    }

    /// Remembers at most `max`.
    pub fn with_capacity(max: usize) -> Self {
        let keys = KeyedState::random();
        let halves = Halves { young: HashSet::with_hasher(keys), old: HashSet::with_hasher(keys) };
        Self { halves: Mutex::new(halves), half_max: (max / 2).max(1) }
    }

    /// Remembers that every signature of this transaction is valid.
    pub fn insert(&self, wtxid: WtxId) {
        let halves = &mut *self.halves.lock();
        if halves.young.len() >= self.half_max {
            // The older half has had its time.
            std::mem::swap(&mut halves.young, &mut halves.old);
            halves.young.clear();
        }
        halves.young.insert(wtxid);
    }

    /// Whether every signature of this transaction was found valid.
    pub fn contains(&self, wtxid: &WtxId) -> bool {
        let halves = self.halves.lock();
        halves.young.contains(wtxid) || halves.old.contains(wtxid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_half_is_forgotten() {
        let known = KnownSignatures::with_capacity(8);
        let id = |number: u8| WtxId::from_bytes([number; 32]);
        for number in 0..100 {
            known.insert(id(number));
            for back in 0..4.min(number) {
                assert!(known.contains(&id(number - back)));
            }
            if number >= 8 {
                assert!(!known.contains(&id(number - 8)));
            }
        }
    }
}
