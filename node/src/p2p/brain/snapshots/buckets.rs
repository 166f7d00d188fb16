//! Which bucket of a snapshot is asked of whom. A bucket comes from one peer, in pieces that follow one another.

use super::super::interface::PeerId;
use crate::p2p::limits::RANGE_COINS_MAX;
use crate::p2p::message::CoinRange;
use setara_core::hash::BlockHash;
use setara_core::snapshot::Manifest;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A bucket that takes longer is asked of a second peer, if that has nothing else to do.
const HEDGE: Duration = Duration::from_secs(5);
/// Peers that one bucket is asked of at once.
const HEDGE_PEERS_MAX: usize = 2;

/// One peer's work on a bucket.
pub(super) struct Work {
    /// The first coin that was not asked for.
    next: u32,
    /// Coins that have come.
    pub came: u32,
    begun: Duration,
}

/// A snapshot that is being fetched.
pub(super) struct Fetching {
    pub manifest: Arc<Manifest>,
    pub counts: Vec<u32>,
    /// Buckets that are here and right.
    pub done: BTreeSet<u8>,
    pub work: BTreeMap<(u8, PeerId), Work>,
    /// When somebody was last there who serves it.
    pub served: Duration,
}

impl Fetching {
    /// Of a manifest that has been checked; these buckets are here.
    pub fn new(manifest: Arc<Manifest>, here: BTreeSet<u8>, now: Duration) -> Self {
        let (mut counts, mut done) = (Vec::new(), here);
        for bucket in 0..=u8::MAX {
            // More than a bucket can be asked for would be 2^40 coins in all.
            let count = u32::try_from(manifest.bucket_count(bucket)).unwrap_or(u32::MAX);
            counts.push(count);
            if count == 0 {
                done.insert(bucket);
            }
        }
        Self { manifest, counts, done, work: BTreeMap::new(), served: now }
    }

    pub fn base(&self) -> BlockHash {
        self.manifest.base_hash
    }

    pub fn count(&self, bucket: u8) -> u32 {
        self.counts.get(usize::from(bucket)).copied().unwrap_or(0)
    }

    /// What is asked of a peer next: more of a bucket that it has begun, or the first that nobody has, or one that another
    /// is late with.
    pub fn next(&mut self, peer: PeerId, now: Duration) -> Option<CoinRange> {
        let begun = self.work.iter().find(|((bucket, of), work)| *of == peer && work.next < self.count(*bucket));
        let bucket =
            begun.map(|((bucket, _), _)| *bucket).or_else(|| self.unbegun()).or_else(|| self.late(peer, now))?;
        let (base, all) = (self.base(), self.count(bucket));
        let work = self.work.entry((bucket, peer)).or_insert(Work { next: 0, came: 0, begun: now });
        let first = work.next;
        let count = (all - first).min(u32::try_from(RANGE_COINS_MAX).unwrap_or(u32::MAX));
        work.next += count;
        Some(CoinRange { base, bucket, first, count })
    }

    /// Those who are asked for a bucket.
    pub fn workers(&self, bucket: u8) -> impl Iterator<Item = PeerId> {
        let range = (bucket, PeerId(0))..=(bucket, PeerId(u64::MAX));
        self.work.range(range).map(|((_, peer), _)| *peer)
    }

    fn unbegun(&self) -> Option<u8> {
        (0..=u8::MAX).find(|bucket| !self.done.contains(bucket) && self.workers(*bucket).next().is_none())
    }

    /// The bucket that others have been at for the longest.
    fn late(&self, peer: PeerId, now: Duration) -> Option<u8> {
        let is_late = |((bucket, _), work): &(&(u8, PeerId), &Work)| {
            let here = work.came >= self.count(*bucket);
            let own = self.work.contains_key(&(*bucket, peer));
            !here && !own && self.workers(*bucket).count() < HEDGE_PEERS_MAX && now >= work.begun + HEDGE
        };
        let late = self.work.iter().filter(is_late).max_by_key(|(_, work)| Reverse(work.begun));
        late.map(|((bucket, _), _)| *bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ChainBuilder;
    use setara_core::height::Height;
    use setara_core::network::Network;

    const PIECE: u32 = RANGE_COINS_MAX as u32;

    /// Buckets with so many coins; all others are here.
    fn fetching(counts: &[(u8, u32)]) -> Fetching {
        let builder = ChainBuilder::new(&Arc::new(Network::dev()));
        let manifest = Manifest {
            genesis: builder.network.genesis_hash(),
            base: Height::GENESIS,
            base_hash: builder.tip(),
            coinbase: builder.blocks[0].coinbase.clone(),
            branch: Vec::new(),
            coins: setara_core::lattice::Lattice::empty(),
        };
        let mut fetching = Fetching::new(Arc::new(manifest), BTreeSet::new(), Duration::ZERO);
        for (bucket, count) in counts {
            fetching.counts[usize::from(*bucket)] = *count;
            fetching.done.remove(bucket);
        }
        fetching
    }

    fn next(fetching: &mut Fetching, peer: u64, seconds: u64) -> Option<(u8, u32, u32)> {
        let range = fetching.next(PeerId(peer), Duration::from_secs(seconds))?;
        Some((range.bucket, range.first, range.count))
    }

    /// A bucket comes from one peer in pieces that cover it, and no coin is asked for twice.
    #[test]
    fn a_large_bucket_comes_in_pieces_from_one_peer() {
        let mut fetching = fetching(&[(3, 2 * PIECE + 5), (200, PIECE)]);
        assert_eq!(next(&mut fetching, 1, 0), Some((3, 0, PIECE)));
        assert_eq!(next(&mut fetching, 2, 0), Some((200, 0, PIECE)));
        assert_eq!(next(&mut fetching, 2, 0), None, "nothing is left but what another is at");
        assert_eq!(next(&mut fetching, 1, 1), Some((3, PIECE, PIECE)));
        assert_eq!(next(&mut fetching, 1, 1), Some((3, 2 * PIECE, 5)));
        assert_eq!(next(&mut fetching, 1, 1), None);
    }

    /// What a peer is late with is asked of a second one, from the start, and of no third.
    #[test]
    fn a_late_bucket_is_asked_of_a_second_peer() {
        let mut fetching = fetching(&[(3, PIECE + 1), (4, 10)]);
        assert_eq!(next(&mut fetching, 1, 0), Some((3, 0, PIECE)));
        assert_eq!(next(&mut fetching, 1, 0), Some((3, PIECE, 1)));
        assert_eq!(next(&mut fetching, 1, 2), Some((4, 0, 10)));
        assert_eq!(next(&mut fetching, 2, 4), None);
        assert_eq!(next(&mut fetching, 2, 5), Some((3, 0, PIECE)), "the older of two");
        assert_eq!(next(&mut fetching, 3, 6), None);
        assert_eq!(next(&mut fetching, 3, 7), Some((4, 0, 10)));
        assert_eq!(next(&mut fetching, 4, 60), None);
        // One that has come whole and is being checked is not late.
        fetching.work.retain(|(bucket, peer), _| *bucket == 3 && *peer == PeerId(1));
        fetching.work.get_mut(&(3, PeerId(1))).unwrap().came = PIECE + 1;
        assert_eq!(next(&mut fetching, 4, 60), Some((4, 0, 10)));
        assert_eq!(next(&mut fetching, 4, 60), None);
    }
}
