//! Addresses: the hash of a spend policy, and its bech32m text form.

use crate::codec::{Codec, CodecError, Reader, Writer, raw_codec};
use crate::hash::Hash256;
use core::fmt;

/// What a coin is locked to: `tagged("setara/policy", ..)` of a spend policy. Not a hash that prints reversed: its
/// text is the network's bech32m form, or plain hex in internal order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 32]);

impl Address {
    /// The address of no policy: genesis pays it when there are no allocations.
    pub const ZERO: Self = Self([0; 32]);

    /// From raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<Hash256> for Address {
    fn from(hash: Hash256) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

raw_codec!(Address, 32);
