//! Many nonces at a time, one in each lane of the processor's widest vectors (SSE, AVX2, AVX-512, NEON). With AVX2 that is half
//! as fast again as one after another by instructions for SHA-256; with narrower vectors it was not measured.
//!
//! SHA-256 as FIPS 180-4 has it, cut down to what decides nearly always: the last word of the second hash, without the three
//! rounds after it is known. What passes is judged again by the rules' own code, so a mistake here could only miss a block.

use fearless_simd::{Level, Simd, SimdBase, dispatch};
use setara_core::block::Header;
use setara_core::nonce::{Fixed, START, find_nonce};
use setara_core::pow::Target;
use std::ops::RangeInclusive;

/// A constant for each round (FIPS 180-4, 4.2.2).
#[rustfmt::skip]
const ROUND: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];
/// A one bit behind a message that fills whole words.
const END: u32 = 0x8000_0000;
/// Bits of a header, and of a hash.
const HEADER_BITS: u32 = 640;
const HASH_BITS: u32 = 256;
/// Rounds after which the last word of a hash is known: it is what `e` is then.
const ROUNDS_OF_LAST_WORD: usize = 61;

/// Looks for nonces on this processor.
#[derive(Debug, Clone, Copy)]
pub struct Search(Level);

impl Default for Search {
    /// With the widest vectors that there are here.
    fn default() -> Self {
        Self(Level::new())
    }
}

impl Search {
    /// As [`find_nonce`].
    pub fn find_nonce(self, header: &Header, target: Target, nonces: RangeInclusive<u32>) -> Option<u32> {
        let fixed = Fixed::of(header);
        let [a, b, c, d, ..] = target.to_be_bytes();
        let highest = u32::from_be_bytes([a, b, c, d]);
        let (mut from, last) = nonces.into_inner();
        while from <= last {
            let seen = dispatch!(self.0, simd => scan(simd, &fixed, highest, from, last));
            match seen {
                Seen::Candidate(nonce) if find_nonce(header, target, nonce..=nonce).is_some() => return Some(nonce),
                Seen::Candidate(nonce) => from = nonce.checked_add(1)?,
                // Less than a vector full.
                Seen::NothingBelow(rest) => return find_nonce(header, target, rest..=last),
            }
        }
        None
    }
}

/// What was seen of a range of nonces.
enum Seen {
    /// This one may do.
    Candidate(u32),
    /// None below this one does.
    NothingBelow(u32),
}

/// Looks through whole vectors of nonces for a hash whose highest word is at most this.
#[inline(always)]
fn scan<S: Simd>(simd: S, fixed: &Fixed, highest: u32, from: u32, last: u32) -> Seen {
    let all = |word: u32| S::u32s::splat(simd, word);
    let (start, midstate) = (START.map(all), fixed.midstate.map(all));
    let lanes = S::u32s::LEN as u32;
    let mut nonce = from;
    // None of a whole vector is beyond the last, which may be the greatest number there is.
    while last - nonce >= lanes {
        let mut block = [all(0); 16];
        block[..3].copy_from_slice(&fixed.tail.map(all));
        block[3] = S::u32s::from_fn(simd, |lane| (nonce + lane as u32).swap_bytes());
        (block[4], block[15]) = (all(END), all(HEADER_BITS));
        let hash = compress::<S, 64>(simd, &midstate, block);
        let mut block = [all(0); 16];
        (0..8).for_each(|word| block[word] = hash[word] + midstate[word]);
        (block[8], block[15]) = (all(END), all(HASH_BITS));
        let hash = compress::<S, ROUNDS_OF_LAST_WORD>(simd, &start, block);
        // The last bytes of a hash are its highest, little-endian as all numbers of a header.
        let words = hash[4] + start[7];
        let words = words.as_slice();
        // Without a way out, so that all lanes are looked at together: hardly ever is there one.
        if words.iter().fold(false, |any, word| any | (word.swap_bytes() <= highest)) {
            let lane = words.iter().position(|word| word.swap_bytes() <= highest);
            return Seen::Candidate(nonce + lane.map_or(0, |lane| lane as u32));
        }
        nonce += lanes;
    }
    Seen::NothingBelow(nonce)
}

/// The first rounds of a compression, before the state is added (FIPS 180-4, 6.2.2).
#[inline(always)]
fn compress<S: Simd, const ROUNDS: usize>(simd: S, state: &[S::u32s; 8], mut block: [S::u32s; 16]) -> [S::u32s; 8] {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    let rotated = |x: S::u32s, bits: u32| (x >> bits) | (x << (32 - bits));
    // Unrolled, or the schedule would not stay in registers.
    macro_rules! rounds {
        ($($number:expr)*) => { $(
            const { assert!($number < 64) };
            if $number < ROUNDS {
                let word = $number % 16;
                if $number >= 16 {
                    let (x, y) = (block[(word + 1) % 16], block[(word + 14) % 16]);
                    let low = rotated(x, 7) ^ rotated(x, 18) ^ (x >> 3);
                    let high = rotated(y, 17) ^ rotated(y, 19) ^ (y >> 10);
                    block[word] = block[word] + low + block[(word + 9) % 16] + high;
                }
                let sum = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
                let chosen = g ^ (e & (f ^ g));
                let first = h + sum + chosen + (block[word] + S::u32s::splat(simd, ROUND[$number]));
                let sum = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
                let majority = (a & b) | (c & (a | b));
                (h, g, f, e, d, c, b, a) = (g, f, e, d + first, c, b, a, first + sum + majority);
            }
        )* };
    }
    rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    rounds!(32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63);
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use setara_core::hash::{BlockHash, Hash256};
    use setara_core::pow::CompactBits;

    fn header(seed: [u8; 32], time: u32) -> Header {
        Header {
            version: 1,
            previous: BlockHash::from_bytes(seed),
            merkle_root: Hash256::from_bytes(seed.map(|byte| byte.rotate_left(3))),
            time,
            bits: CompactBits::new(0x1f00_ffff),
            nonce: 7,
        }
    }

    /// Wherever the range begins and ends, up to the last nonce there is, and however many hashes meet the target.
    #[test]
    fn ranges_end_where_they_should() {
        let search = Search::default();
        let header = header([9; 32], 5);
        for target in [Target::MAX, CompactBits::new(0x207f_ffff).to_target().unwrap(), Target::MIN] {
            for first in (0..40).chain(u32::MAX - 40..=u32::MAX) {
                for last in (0..40).chain(u32::MAX - 40..=u32::MAX) {
                    // The other loop takes all of it, too.
                    if last.saturating_sub(first) < 100 {
                        let expected = find_nonce(&header, target, first..=last);
                        assert_eq!(search.find_nonce(&header, target, first..=last), expected, "{first} to {last}");
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The same nonce as one after another, on every kind of vector.
        #[test]
        fn finds_what_one_at_a_time_finds(seed: [u8; 32], time: u32, first in 0..u32::MAX - 20_000, bits in 0u32..12) {
            let header = header(seed, time);
            let mut bytes = [0xff; 32];
            bytes[..4].copy_from_slice(&(u32::MAX >> bits).to_be_bytes());
            let target = Target::from_be_bytes(bytes).unwrap();
            let mut from = first;
            while let Some(nonce) = find_nonce(&header, target, from..=first + 20_000) {
                prop_assert_eq!(Search::default().find_nonce(&header, target, from..=first + 20_000), Some(nonce));
                prop_assert_eq!(Search(Level::baseline()).find_nonce(&header, target, from..=first + 20_000), Some(nonce));
                // A few are enough where many do.
                from = nonce + 1 + (nonce - first) / 4;
            }
            prop_assert_eq!(Search::default().find_nonce(&header, target, from..=first + 20_000), None);
        }
    }
}
