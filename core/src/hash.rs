//! Hashes: SHA-256d, tagged SHA-256 (BIP 340) and the hash types of the protocol.
//!
//! Every hash is 32 bytes in *internal* order inside other hashes, keys and encodings, and prints as Bitcoin's do:
//! byte-reversed lower-case hex. This file knows nothing of what is hashed.

use core::{fmt, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 applied twice (Bitcoin's `Hash256`).
pub fn sha256d(bytes: &[u8]) -> Hash256 {
    Hash256(Sha256::digest(Sha256::digest(bytes)).into())
}

/// `SHA-256(SHA-256(tag) || SHA-256(tag) || bytes)`, as in BIP 340; `parts` are concatenated.
pub fn tagged(tag: &str, parts: &[&[u8]]) -> Hash256 {
    let mut hasher = TaggedHasher::new(tag);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// A tagged hash in progress; clone one made by [`TaggedHasher::new`] to save hashing the tag again.
#[derive(Clone)]
pub struct TaggedHasher(Sha256);

impl TaggedHasher {
    /// A hasher that has consumed the tag's prefix (exactly one SHA-256 block).
    pub fn new(tag: &str) -> Self {
        let tag = sha256(tag.as_bytes());
        let mut hasher = Sha256::new();
        hasher.update(tag);
        hasher.update(tag);
        Self(hasher)
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The tagged hash.
    pub fn finish(self) -> Hash256 {
        Hash256(self.0.finalize().into())
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct HashParseError;

/// 32 bytes of hash in internal order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash256([u8; 32]);

impl Hash256 {
    /// All zero bytes.
    pub const ZERO: Self = Self([0; 32]);

    /// From bytes in internal order.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes in internal order.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first byte in internal order.
    pub const fn first_byte(&self) -> u8 {
        let [first, ..] = self.0;
        first
    }
}

impl fmt::Display for Hash256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0;
        bytes.reverse();
        f.write_str(&hex::encode(bytes))
    }
}

impl fmt::Debug for Hash256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash256 {
    type Err = HashParseError;

    fn from_str(text: &str) -> Result<Self, HashParseError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| HashParseError)?;
        bytes.reverse();
        Ok(Self(bytes))
    }
}

impl Serialize for Hash256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Hash256);

        impl $name {
            /// All zero bytes.
            pub const ZERO: Self = Self(Hash256::ZERO);

            /// Marks a hash as being of this kind.
            pub const fn new(hash: Hash256) -> Self {
                Self(hash)
            }

            /// From bytes in internal order.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(Hash256::from_bytes(bytes))
            }

            /// The bytes in internal order.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }

            /// The plain hash.
            pub const fn hash(&self) -> Hash256 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = HashParseError;

            fn from_str(text: &str) -> Result<Self, HashParseError> {
                text.parse().map(Self)
            }
        }
    };
}

hash_type! {
    /// Hash of a block's header: its identity and its proof of work.
    BlockHash
}
hash_type! {
    /// Identity of a transaction without its witnesses: what outpoints name.
    TxId
}
hash_type! {
    /// Identity of a transaction with its witnesses: the Merkle leaf, and the key of every cache and filter.
    WtxId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256d_matches_bitcoin_genesis_header() {
        let header = hex::decode(
            "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e\
             67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c",
        )
        .unwrap();
        assert_eq!(sha256d(&header).to_string(), "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f");
    }

    #[test]
    fn text_form_round_trips_and_refuses_other_lengths() {
        let hash = sha256d(b"setara");
        assert_eq!(hash.to_string().parse::<Hash256>().unwrap(), hash);
        assert!("00".parse::<Hash256>().is_err());
        assert!("g".repeat(64).parse::<Hash256>().is_err());
        assert_eq!(serde_json::from_str::<TxId>(&format!("\"{hash}\"")).unwrap(), TxId::new(hash));
    }

    #[test]
    fn tagged_is_bip340() {
        let tag = sha256(b"BIP0340/challenge");
        let expected = sha256(&[&tag[..], &tag[..], b"abc"].concat());
        assert_eq!(tagged("BIP0340/challenge", &[b"a", b"bc"]).as_bytes(), &expected);
    }
}
