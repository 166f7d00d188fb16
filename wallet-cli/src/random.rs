//! Randomness: the operating system's, and nothing else.
//!
//! Keys, salts, nonces and the positions of change all come from [`Entropy::fill`]. If the system cannot provide, the
//! command fails: there is no generator to fall back to in this crate (CVE-2023-39910 was one). The trait exists for
//! its two implementations: [`OsEntropy`], and in tests a source that fails or repeats.

use crate::error::WalletError;

/// A source of random bytes.
pub trait Entropy {
    /// Fills `bytes` completely, or fails.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), WalletError>;
}

/// The operating system's generator (`getrandom(2)`): blocks until it is seeded, never returns less than asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), WalletError> {
        getrandom::fill(bytes).map_err(|error| WalletError::NoRandomness(error.to_string()))
    }
}

/// A whole number in `0..below`, every one equally likely; 0 if `below` is 0 or 1.
///
/// Values at the end of the 64-bit range that would make some results likelier are drawn again.
pub fn uniform(entropy: &mut impl Entropy, below: u64) -> Result<u64, WalletError> {
    if below < 2 {
        return Ok(0);
    }
    let usable = u64::MAX - u64::MAX % below;
    loop {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes)?;
        let value = u64::from_le_bytes(bytes);
        if value < usable {
            return Ok(value % below);
        }
    }
}

/// Puts `items` into a uniformly random order (Fisher and Yates).
pub fn shuffle<T>(entropy: &mut impl Entropy, items: &mut [T]) -> Result<(), WalletError> {
    for last in (1..items.len()).rev() {
        let other = uniform(entropy, last as u64 + 1)? as usize;
        items.swap(last, other);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Repeatable bytes for tests: SHA-256 of a seed and a counter.
    pub(crate) struct Seeded(pub(crate) u64, u64);

    impl Seeded {
        pub(crate) fn new(seed: u64) -> Self {
            Self(seed, 0)
        }
    }

    impl Entropy for Seeded {
        fn fill(&mut self, bytes: &mut [u8]) -> Result<(), WalletError> {
            for chunk in bytes.chunks_mut(32) {
                self.1 += 1;
                let block = [self.0.to_le_bytes(), self.1.to_le_bytes()].concat();
                let hash = setara_core::hash::sha256(&block);
                chunk.copy_from_slice(&hash[..chunk.len()]);
            }
            Ok(())
        }
    }

    /// A system without randomness.
    pub(crate) struct Broken;

    impl Entropy for Broken {
        fn fill(&mut self, _: &mut [u8]) -> Result<(), WalletError> {
            Err(WalletError::NoRandomness("test".into()))
        }
    }

    /// Pearson's statistic for counts that should be equal.
    pub(crate) fn chi_squared(counts: &[u64]) -> f64 {
        let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
    }

    #[test]
    fn uniform_is_uniform_and_stays_below() {
        let mut entropy = Seeded::new(1);
        let mut counts = [0u64; 7];
        for _ in 0..70_000 {
            counts[uniform(&mut entropy, 7).unwrap() as usize] += 1;
        }
        // 6 degrees of freedom: 22.46 is exceeded by chance once in a thousand seeds; this seed is fixed.
        assert!(chi_squared(&counts) < 22.46, "{counts:?}");
        assert_eq!(uniform(&mut Broken, 1).unwrap(), 0);
        assert!(uniform(&mut Broken, 2).is_err());
    }

    #[test]
    fn values_past_the_last_whole_multiple_are_drawn_again() {
        struct Script(Vec<u64>);
        impl Entropy for Script {
            fn fill(&mut self, bytes: &mut [u8]) -> Result<(), WalletError> {
                bytes.copy_from_slice(&self.0.remove(0).to_le_bytes());
                Ok(())
            }
        }
        let below = (1 << 63) + 1;
        assert_eq!(uniform(&mut Script(vec![u64::MAX, below, 5]), below).unwrap(), 5);
    }

    #[test]
    fn shuffles_reach_every_order_equally() {
        let mut entropy = Seeded::new(2);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..24_000 {
            let mut items = [0u8, 1, 2, 3];
            shuffle(&mut entropy, &mut items).unwrap();
            *counts.entry(items).or_insert(0u64) += 1;
        }
        let counts: Vec<u64> = counts.into_values().collect();
        assert_eq!(counts.len(), 24);
        // 23 degrees of freedom, one in a thousand: 49.73.
        assert!(chi_squared(&counts) < 49.73, "{counts:?}");
    }
}
