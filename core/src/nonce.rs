//! Counting through nonces until a header's hash meets a target: the inner loop of every CPU miner here.
//!
//! Pure and interruptible: the caller chooses the range, so it decides how often to look up and on how many threads.

use crate::block::Header;
use crate::hash::{BlockHash, Hash256};
use crate::limits::HEADER_BYTES;
use crate::pow::Target;
use core::ops::RangeInclusive;
use core::slice;
use sha2::block_api::compress256;

/// SHA-256's state before the first block (FIPS 180-4, 5.3.3).
pub const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// Whole words of a header's second block before the nonce.
const TAIL_WORDS: usize = 3;
/// Bytes of a hash.
const HASH_BYTES: usize = 32;
/// Bytes of one of SHA-256's blocks.
const BLOCK_BYTES: usize = 64;

/// What of a header's hash does not change with its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// SHA-256's state after the header's first block.
    pub midstate: [u32; 8],
    /// Words of the second block before the nonce.
    pub tail: [u32; TAIL_WORDS],
}

impl Fixed {
    /// Of this header.
    pub fn of(header: &Header) -> Self {
        let bytes = header.to_bytes();
        let (mut midstate, mut tail) = (START, [0; TAIL_WORDS]);
        if let Some((block, rest)) = bytes.split_first_chunk::<BLOCK_BYTES>() {
            compress256(&mut midstate, slice::from_ref(block));
            let words = rest.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word));
            tail.iter_mut().zip(words).for_each(|(to, word)| *to = word);
        }
        Self { midstate, tail }
    }
}

/// The first nonce of `nonces` with which the header's hash meets `target`; the header's own nonce does not matter.
///
/// Each costs the two compressions that SHA-256d cannot do without, and next to nothing else.
pub fn find_nonce(header: &Header, target: Target, nonces: RangeInclusive<u32>) -> Option<u32> {
    let Fixed { midstate, tail } = Fixed::of(header);
    let (mut first, mut second) = (last_block(HEADER_BYTES), last_block(HASH_BYTES));
    put_words(&mut first, 0, &tail);
    nonces.into_iter().find(|nonce| {
        put_words(&mut first, TAIL_WORDS, &[nonce.swap_bytes()]);
        let mut state = midstate;
        compress256(&mut state, slice::from_ref(&first));
        put_words(&mut second, 0, &state);
        let mut state = START;
        compress256(&mut state, slice::from_ref(&second));
        let mut hash = [0; HASH_BYTES];
        put_words(&mut hash, 0, &state);
        target.is_met_by(BlockHash::new(Hash256::from_bytes(hash)))
    })
}

/// The last block of a message of so many bytes, which are still to be put in: a one bit follows them, and the end is
/// their number of bits (FIPS 180-4, 5.1.1).
fn last_block(message_bytes: usize) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block.iter_mut().skip(message_bytes % BLOCK_BYTES).take(1).for_each(|byte| *byte = 0x80);
    let bits = message_bytes.wrapping_mul(8);
    block.iter_mut().rev().zip(bits.to_le_bytes()).for_each(|(to, from)| *to = from);
    block
}

/// Puts big-endian words, as SHA-256's are, at the word `at`.
fn put_words(bytes: &mut [u8], at: usize, words: &[u32]) {
    for (to, word) in bytes.chunks_exact_mut(4).skip(at).zip(words) {
        to.copy_from_slice(&word.to_be_bytes());
    }
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
