//! Counting through nonces until a header's hash meets a target: the inner loop of every CPU miner here.
//!
//! Pure and interruptible: the caller chooses the range, so it decides how often to look up and on how many threads.

use crate::block::Header;
use crate::hash::{BlockHash, Hash256};
use crate::pow::Target;
use core::ops::RangeInclusive;
use sha2::{Digest, Sha256};

/// Bytes of a header in SHA-256's first block: they do not change with the nonce, so they are hashed once.
const FIXED_BYTES: usize = 64;
/// Bytes after those and before the nonce.
const TAIL_BYTES: usize = 12;

/// The first nonce of `nonces` with which the header's hash meets `target`; the header's own nonce does not matter.
pub fn find_nonce(header: &Header, target: Target, nonces: RangeInclusive<u32>) -> Option<u32> {
    let bytes = header.to_bytes();
    let (fixed, tail) = bytes.split_at_checked(FIXED_BYTES)?;
    let tail = tail.get(..TAIL_BYTES)?;
    let midstate = Sha256::new_with_prefix(fixed);
    nonces.into_iter().find(|nonce| {
        let mut hasher = midstate.clone();
        hasher.update(tail);
        hasher.update(nonce.to_le_bytes());
        let hash = Hash256::from_bytes(Sha256::digest(hasher.finalize()).into());
        target.is_met_by(BlockHash::new(hash))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pow::CompactBits;

    #[test]
    fn finds_what_the_header_hash_says() {
        let target = CompactBits::new(0x2000_ffff).to_target().unwrap();
        let mut header = Header {
            version: 1,
            previous: BlockHash::ZERO,
            merkle_root: Hash256::ZERO,
            time: 7,
            bits: CompactBits::new(0x2000_ffff),
            nonce: 0,
        };
        let met = |header: &Header| target.is_met_by(header.hash());
        let slow: Vec<u32> = (0..4_000).filter(|nonce| met(&Header { nonce: *nonce, ..header })).collect();
        assert!(slow.len() > 4, "about one nonce in 256 meets this target");
        let mut from = 0;
        for expected in slow {
            header.nonce = find_nonce(&header, target, from..=u32::MAX).unwrap();
            assert_eq!(header.nonce, expected);
            from = expected + 1;
        }
        assert_eq!(find_nonce(&header, target, from..=from.min(3_999)), None);
    }
}
