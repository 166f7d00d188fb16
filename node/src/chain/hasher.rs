//! Hashing for maps whose keys are already hashes: two words of the key, mixed with secret random words.
//!
//! The keys (txids, block hashes) are uniform unless someone grinds them; the secret keeps a grinder from aiming at a
//! bucket. Not a general hasher: keys shorter than 16 bytes are mixed word by word.

use std::hash::{BuildHasher, Hasher};

/// Makes hashers that share one secret.
#[derive(Debug, Clone, Copy)]
pub struct KeyedState {
    first: u64,
    second: u64,
}

impl KeyedState {
    /// With a secret of the caller's; equal secrets hash alike.
    pub const fn new(first: u64, second: u64) -> Self {
        Self { first, second }
    }

    /// With a secret from the operating system.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self::new(word(0), word(8))
    }
}

impl BuildHasher for KeyedState {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { state: self.first, key: self.second | 1 }
    }
}

/// A hash in progress.
#[derive(Debug, Clone, Copy)]
pub struct KeyedHasher {
    state: u64,
    key: u64,
}

impl KeyedHasher {
    fn mix(&mut self, first: u64, second: u64) {
        let product = u128::from(first ^ self.state) * u128::from(second ^ self.key);
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        if let Some((head, _)) = bytes.split_first_chunk::<16>() {
            // Sixteen bytes of a hash are as good as all of it.
            self.mix(word(&head[..8]), word(&head[8..]));
        } else {
            for chunk in bytes.chunks(8) {
                let mut padded = [0; 8];
                padded[..chunk.len()].copy_from_slice(chunk);
                self.mix(u64::from_le_bytes(padded), 0);
            }
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value), 0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, _: usize) {
        // The length prefix of a fixed-size array says nothing.
    }

    fn finish(&self) -> u64 {
        self.state
    }
}
