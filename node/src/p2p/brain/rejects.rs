//! A rolling filter of what was refused, so that it is neither fetched nor judged again.
//!
//! Everything is keyed by wtxid: a third party can give a transaction another witness, and a bad twin must not stand in
//! the way of the good one. What paid too little is remembered apart, since a child may pay for it. A new tip can change
//! any verdict, so it empties both.

use crate::mempool::{MempoolError, Refusal};
use crate::p2p::limits::{CONFIRMED_MAX, REJECTS_MAX};
use rand::{Rng, RngExt};
use setara_core::hash::{TxId, WtxId};
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

/// Probes of an item: log2 of one in a million.
const PROBES: u64 = 20;
/// Places for each item kept, for a false positive in a million when full: 20 / -ln(1 - 1e-6^(1/20)), rounded up.
const PLACES_PER_ITEM: usize = 29;
/// Generations, each of half of what is guaranteed to be remembered.
const GENERATIONS: usize = 3;

/// A Bloom filter that remembers at least the last so many items, and forgets the oldest half of them at once (Bitcoin
/// Core's `CRollingBloomFilter`). False positives: at most one in a million, and keyed, so they cannot be aimed at.
#[derive(Debug)]
pub struct RollingFilter {
    keys: (u64, u64),
    /// Each place is two bits: the generation that last set it, 0 for none. Low bits and high bits of 64 places.
    places: Vec<[u64; 2]>,
    generation: u8,
    in_generation: usize,
    per_generation: usize,
}

impl RollingFilter {
    /// Remembers the last `items`.
    pub fn new(items: usize, rng: &mut impl Rng) -> Self {
        let per_generation = items.div_ceil(2).max(1);
        let words = (per_generation * GENERATIONS * PLACES_PER_ITEM).div_ceil(64);
        let keys = (rng.random(), rng.random());
        Self { keys, places: vec![[0; 2]; words], generation: 1, in_generation: 0, per_generation }
    }

    /// Remembers an item.
    pub fn insert(&mut self, item: &[u8]) {
        if self.in_generation == self.per_generation {
            self.in_generation = 0;
            self.generation = self.generation % 3 + 1;
            let [low, high] = self.marks();
            for [first, second] in &mut self.places {
                let others = (*first ^ low) | (*second ^ high);
                *first &= others;
                *second &= others;
            }
        }
        self.in_generation += 1;
        let [low, high] = self.marks();
        for (word, bit) in self.probes(item) {
            let [first, second] = &mut self.places[word];
            *first = (*first & !bit) | (low & bit);
            *second = (*second & !bit) | (high & bit);
        }
    }

    /// Whether the item is remembered; for one in a million others it says so too.
    pub fn contains(&self, item: &[u8]) -> bool {
        self.probes(item).all(|(word, bit)| {
            let [first, second] = self.places[word];
            (first | second) & bit != 0
        })
    }

    /// Forgets everything, and takes new keys.
    pub fn reset(&mut self, rng: &mut impl Rng) {
        if self.in_generation == 0 && self.generation == 1 {
            return;
        }
        self.keys = (rng.random(), rng.random());
        self.places.fill([0; 2]);
        (self.generation, self.in_generation) = (1, 0);
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.places.len() * size_of::<[u64; 2]>()
    }

    /// The generation's number as masks of low and high bits.
    const fn marks(&self) -> [u64; 2] {
        [if self.generation & 1 != 0 { u64::MAX } else { 0 }, if self.generation & 2 != 0 { u64::MAX } else { 0 }]
    }

    /// Words and bits of an item's places.
    fn probes(&self, item: &[u8]) -> impl Iterator<Item = (usize, u64)> + use<> {
        let mut hasher = SipHasher24::new_with_keys(self.keys.0, self.keys.1);
        hasher.write(item);
        let hash = hasher.finish128();
        let places = self.places.len() as u64 * 64;
        (0..PROBES).map(move |probe| {
            let spread = hash.h1.wrapping_add(probe.wrapping_mul(hash.h2 | 1));
            let place = ((u128::from(spread) * u128::from(places)) >> 64) as u64;
            ((place / 64) as usize, 1 << (place % 64))
        })
    }
}

/// What is to be done with a refused transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposal {
    /// Forget it: it is here, or nothing was said about it.
    Nothing,
    /// Remember the wtxid as refused, until the next tip.
    Reject,
    /// Remember that it pays too little by itself.
    TooPoor,
    /// Wait for its parents.
    Orphan,
}

/// What follows from a verdict. The one place where that is decided.
pub const fn disposal(error: &MempoolError) -> Disposal {
    match error {
        MempoolError::MissingInputs { .. } => Disposal::Orphan,
        MempoolError::BelowRelayFloor { .. } | MempoolError::BelowMempoolFloor { .. } | MempoolError::Full => {
            Disposal::TooPoor
        }
        MempoolError::AlreadyInMempool => Disposal::Nothing,
        _ => match error.refusal() {
            Refusal::Fault => Disposal::Nothing,
            Refusal::Invalid | Refusal::Premature | Refusal::Policy | Refusal::Known => Disposal::Reject,
        },
    }
}

/// What was refused or mined lately.
#[derive(Debug)]
pub struct Rejects {
    refused: RollingFilter,
    poor: RollingFilter,
    confirmed: RollingFilter,
}

impl Rejects {
    /// Empty.
    pub fn new(rng: &mut impl Rng) -> Self {
        Self {
            refused: RollingFilter::new(REJECTS_MAX, rng),
            poor: RollingFilter::new(REJECTS_MAX, rng),
            confirmed: RollingFilter::new(CONFIRMED_MAX, rng),
        }
    }

    /// Whether it was refused, other than for its fee.
    pub fn is_refused(&self, wtxid: &WtxId) -> bool {
        self.refused.contains(wtxid.as_bytes())
    }

    /// Whether it pays too little by itself.
    pub fn is_poor(&self, wtxid: &WtxId) -> bool {
        self.poor.contains(wtxid.as_bytes())
    }

    /// Whether the two were refused together.
    pub fn is_poor_package(&self, parent: &WtxId, child: &WtxId) -> bool {
        self.poor.contains(&package(parent, child))
    }

    /// Whether a block of late held it. A mined txid is spent whatever its witness, so this one goes by either id.
    pub fn is_confirmed(&self, id: &[u8; 32]) -> bool {
        self.confirmed.contains(id)
    }

    /// Remembers a refusal.
    pub fn refuse(&mut self, wtxid: &WtxId) {
        self.refused.insert(wtxid.as_bytes());
    }

    /// Remembers that it pays too little by itself.
    pub fn refuse_poor(&mut self, wtxid: &WtxId) {
        self.poor.insert(wtxid.as_bytes());
    }

    /// Remembers that the two pay too little together.
    pub fn refuse_package(&mut self, parent: &WtxId, child: &WtxId) {
        self.poor.insert(&package(parent, child));
    }

    /// Remembers what a block held.
    pub fn confirm(&mut self, txid: &TxId, wtxid: &WtxId) {
        self.confirmed.insert(txid.as_bytes());
        self.confirmed.insert(wtxid.as_bytes());
    }

    /// The tip has changed: every verdict may. After a reorganisation what was mined may not be any more.
    pub fn tip_changed(&mut self, reverted: bool, rng: &mut impl Rng) {
        self.refused.reset(rng);
        self.poor.reset(rng);
        if reverted {
            self.confirmed.reset(rng);
        }
    }
}

fn package(parent: &WtxId, child: &WtxId) -> [u8; 64] {
    let mut item = [0; 64];
    item[..32].copy_from_slice(parent.as_bytes());
    item[32..].copy_from_slice(child.as_bytes());
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn item(number: u64) -> [u8; 8] {
        number.to_le_bytes()
    }

    /// MP9.
    #[test]
    fn the_last_items_are_remembered_and_the_oldest_forgotten() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut filter = RollingFilter::new(1_000, rng);
        for number in 0..10_000 {
            filter.insert(&item(number));
            if number % 97 == 0 {
                for back in 0..1_000.min(number) {
                    assert!(filter.contains(&item(number - back)), "{back} before {number}");
                }
            }
        }
        let old = (0..8_000).filter(|number| filter.contains(&item(*number))).count();
        assert!(old <= 1, "{old} of what is long past");
        let strangers = (1_000_000..1_200_000).filter(|number| filter.contains(&item(*number))).count();
        assert!(strangers <= 3, "{strangers} false positives in 200,000");
        filter.reset(rng);
        assert!((0..10_000).all(|number| !filter.contains(&item(number))));
    }

    /// MP9: a flood of refusals fills nothing.
    #[test]
    fn memory_is_what_it_was_at_the_start() {
        let filter = RollingFilter::new(REJECTS_MAX, &mut StdRng::seed_from_u64(2));
        assert!((1 << 20..3 << 19).contains(&filter.bytes()), "{}", filter.bytes());
    }

    /// CS10: the twin with another witness is another item; and each kind of refusal has its place.
    #[test]
    fn what_is_refused_is_kept_by_its_kind() {
        let rng = &mut StdRng::seed_from_u64(3);
        let mut rejects = Rejects::new(rng);
        let wtxid = |number: u8| WtxId::from_bytes([number; 32]);
        rejects.refuse(&wtxid(1));
        rejects.refuse_poor(&wtxid(2));
        rejects.refuse_package(&wtxid(3), &wtxid(4));
        rejects.confirm(&TxId::from_bytes([5; 32]), &wtxid(6));
        assert!(rejects.is_refused(&wtxid(1)) && !rejects.is_poor(&wtxid(1)));
        assert!(rejects.is_poor(&wtxid(2)) && !rejects.is_refused(&wtxid(2)));
        assert!(rejects.is_poor_package(&wtxid(3), &wtxid(4)) && !rejects.is_poor_package(&wtxid(4), &wtxid(3)));
        rejects.tip_changed(false, rng);
        assert!(!rejects.is_refused(&wtxid(1)) && !rejects.is_poor(&wtxid(2)));
        assert!(rejects.is_confirmed(&[5; 32]) && rejects.is_confirmed(&[6; 32]) && !rejects.is_confirmed(&[1; 32]));
        rejects.tip_changed(true, rng);
        assert!(!rejects.is_confirmed(&[5; 32]));
    }
}
