//! What a node offers of its snapshot to peers: its manifest, and coins by bucket and position. Who may have how much is
//! decided in p2p/brain/snapshots/serve.rs.

use setara_core::codec::encode;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::lattice::ELEMENT_BYTES;
use setara_core::snapshot::Manifest;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Reads so many bytes of the coins, from the byte that comes first on.
pub type ReadCoins = Box<dyn Fn(u64, usize) -> io::Result<Vec<u8>> + Send + Sync>;

/// A snapshot that can be served.
pub struct Offer {
    /// Height of the block after which the coins are.
    pub height: Height,
    /// That block.
    pub base: BlockHash,
    /// The manifest's encoding.
    pub manifest: Arc<[u8]>,
    /// Coins before each bucket, and all of them at the end.
    starts: Vec<u64>,
    read: ReadCoins,
}

impl Offer {
    /// Of a snapshot that has been checked.
    pub fn new(manifest: &Manifest, read: ReadCoins) -> Self {
        let mut starts = vec![0];
        let mut sum = 0u64;
        for bucket in 0..=u8::MAX {
            sum += manifest.bucket_count(bucket);
            starts.push(sum);
        }
        Self { height: manifest.base, base: manifest.base_hash, manifest: encode(manifest).into(), starts, read }
    }

    /// Bytes of all that can be asked for.
    pub fn bytes(&self) -> u64 {
        let coins = self.starts.last().copied().unwrap_or(0);
        self.manifest.len() as u64 + coins * ELEMENT_BYTES as u64
    }

    /// Coins of a bucket.
    pub fn count(&self, bucket: u8) -> u64 {
        let bucket = usize::from(bucket);
        self.starts[bucket + 1] - self.starts[bucket]
    }

    /// Reads coins of a bucket, which has as many.
    pub fn coins(&self, bucket: u8, first: u32, count: u32) -> io::Result<Vec<u8>> {
        let from = (self.starts[usize::from(bucket)] + u64::from(first)) * ELEMENT_BYTES as u64;
        (self.read)(from, count as usize * ELEMENT_BYTES)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("height", &self.height).field("base", &self.base).finish_non_exhaustive()
    }
}
