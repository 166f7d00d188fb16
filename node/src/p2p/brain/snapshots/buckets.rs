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
