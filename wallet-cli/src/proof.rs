//! Proof that transactions are in a block: Bitcoin's `CMerkleBlock`, as `gettxoutproof` answers it.
//!
//! ```text
//! header (80) || transactions u32 LE || CompactSize count, hashes || CompactSize count, flag bytes
//! ```
//!
//! The flags walk the Merkle tree from the root, depth first: 1 means "descend (or: this leaf is proven)", 0 means
//! "take the next hash". The leaves of a Setara block are wtxids. What comes out is bound to the header's root and
//! nothing else; the header's own worth is the business of [`crate::chain`].

use setara_core::block::{Header, read_compact_size};
use setara_core::codec::{Codec, CodecError, Reader};
use setara_core::hash::{Hash256, WtxId, sha256d};
use setara_core::limits::TRANSACTION_BYTES_MIN;

/// Leaves that a proof shows to stand below its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The block's header.
    pub header: Header,
    /// Position in the block and hash of each proven leaf, in order.
    pub leaves: Vec<(u32, WtxId)>,
}

/// Why bytes prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not the encoding of a proof.
    #[error("a proof that is malformed ({0})")]
    Malformed(CodecError),
    /// More transactions than a block can hold, or none.
    #[error("a proof of an impossible block of {0} transactions")]
    Transactions(u32),
    /// The flags and hashes describe no tree of that many leaves.
    #[error("a proof whose tree is inconsistent")]
    Tree,
    /// The tree is sound but another header's.
    #[error("a proof that does not match its header")]
    Root,
}

impl From<CodecError> for ProofError {
    fn from(error: CodecError) -> Self {
        Self::Malformed(error)
    }
}

/// Reads a proof for a block of at most `block_bytes_max` bytes, and checks it against its own header.
pub fn read(bytes: &[u8], block_bytes_max: u64) -> Result<Proof, ProofError> {
    let mut reader = Reader::new(bytes);
    let header = Header::read(&mut reader)?;
    let transactions = u32::from_le_bytes(reader.raw()?);
    if transactions == 0 || u64::from(transactions) > block_bytes_max / TRANSACTION_BYTES_MIN + 1 {
        return Err(ProofError::Transactions(transactions));
    }
    let count = read_compact_size(&mut reader)?;
    if count > u64::from(transactions) || count > reader.remaining() / 32 {
        return Err(ProofError::Tree);
    }
    let hashes: Vec<Hash256> = (0..count).map(|_| Hash256::read(&mut reader)).collect::<Result<_, _>>()?;
    let flag_bytes = usize::try_from(read_compact_size(&mut reader)?).map_err(|_| ProofError::Tree)?;
    let flags = reader.take(flag_bytes)?;
    reader.end()?;
    let mut walk = Walk { transactions, hashes: hashes.iter(), flags, flags_used: 0, leaves: Vec::new() };
    let root = walk.node(height(transactions), 0)?;
    // Everything is used, and the last byte's spare bits are zero: there is one encoding of a proof.
    let spare_flags = (walk.flags_used..flags.len() * 8).any(|index| walk.flag_at(index));
    if walk.hashes.next().is_some() || walk.flags_used.div_ceil(8) != flags.len() || spare_flags {
        return Err(ProofError::Tree);
    }
    if root != header.merkle_root {
        return Err(ProofError::Root);
    }
    Ok(Proof { header, leaves: walk.leaves })
}

/// Levels above the leaves.
fn height(transactions: u32) -> u32 {
    let mut height = 0;
    while width(transactions, height) > 1 {
        height += 1;
    }
    height
}

/// Hashes at `height` above the leaves.
fn width(transactions: u32, height: u32) -> u64 {
    (u64::from(transactions) + (1 << height) - 1) >> height
}

struct Walk<'a> {
    transactions: u32,
    hashes: core::slice::Iter<'a, Hash256>,
    flags: &'a [u8],
    flags_used: usize,
    leaves: Vec<(u32, WtxId)>,
}

impl Walk<'_> {
    fn flag_at(&self, index: usize) -> bool {
        self.flags.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    /// The hash of the node at `position` of the level `height` above the leaves. Recursion is 32 levels at most.
    fn node(&mut self, height: u32, position: u64) -> Result<Hash256, ProofError> {
        if self.flags_used >= self.flags.len() * 8 {
            return Err(ProofError::Tree);
        }
        let descend = self.flag_at(self.flags_used);
        self.flags_used += 1;
        if height == 0 || !descend {
            let hash = *self.hashes.next().ok_or(ProofError::Tree)?;
            if height == 0 && descend {
                let index = u32::try_from(position).map_err(|_| ProofError::Tree)?;
                self.leaves.push((index, WtxId::new(hash)));
            }
            return Ok(hash);
        }
        let left = self.node(height - 1, position * 2)?;
        let right = if position * 2 + 1 < width(self.transactions, height - 1) {
            let right = self.node(height - 1, position * 2 + 1)?;
            // Equal siblings would let one leaf be proven at two positions (CVE-2012-2459).
            if right == left {
                return Err(ProofError::Tree);
            }
            right
        } else {
            left
        };
        Ok(sha256d(&[*left.as_bytes(), *right.as_bytes()].concat()))
    }
}

/// The proof of `wanted` positions among `leaves`: what a node does, here for tests of both sides.
#[cfg(test)]
pub(crate) fn build(header: &Header, leaves: &[WtxId], wanted: &[usize]) -> Vec<u8> {
    fn level(leaves: &[WtxId], height: u32) -> Vec<Hash256> {
        let mut level: Vec<Hash256> = leaves.iter().map(WtxId::hash).collect();
        for _ in 0..height {
            level = level
                .chunks(2)
                .map(|pair| sha256d(&[*pair[0].as_bytes(), *pair.last().unwrap().as_bytes()].concat()))
                .collect();
        }
        level
    }
    fn walk(
        leaves: &[WtxId],
        wanted: &[usize],
        height: u32,
        position: usize,
        flags: &mut Vec<bool>,
        hashes: &mut Vec<Hash256>,
    ) {
        let covers = wanted.iter().any(|index| index >> height == position);
        flags.push(covers);
        if height == 0 || !covers {
            hashes.push(level(leaves, height)[position]);
            return;
        }
        walk(leaves, wanted, height - 1, position * 2, flags, hashes);
        if position * 2 + 1 < level(leaves, height - 1).len() {
            walk(leaves, wanted, height - 1, position * 2 + 1, flags, hashes);
        }
    }
    let count = u32::try_from(leaves.len()).unwrap();
    let (mut flags, mut hashes) = (Vec::new(), Vec::new());
    walk(leaves, wanted, height(count), 0, &mut flags, &mut hashes);
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.push(u8::try_from(hashes.len()).unwrap());
    hashes.iter().for_each(|hash| bytes.extend_from_slice(hash.as_bytes()));
    bytes.push(u8::try_from(flags.len().div_ceil(8)).unwrap());
    bytes.extend(flags.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit))));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use setara_core::hash::BlockHash;
    use setara_core::merkle;
    use setara_core::pow::CompactBits;

    const BLOCK_BYTES: u64 = 1_000_000;

    fn leaves(count: usize) -> Vec<WtxId> {
        (0..count).map(|number| WtxId::new(sha256d(&number.to_le_bytes()))).collect()
    }

    fn header(leaves: &[WtxId]) -> Header {
        Header {
            version: 1,
            previous: BlockHash::ZERO,
            merkle_root: merkle::root(leaves).root,
            time: 0,
            bits: CompactBits::new(0x207f_ffff),
            nonce: 0,
        }
    }

    proptest! {
        /// Noise behind a sound header: never a panic, and never a proof but by a collision.
        #[test]
        fn noise_proves_nothing(count in prop_oneof![0..40u32, any::<u32>()], noise in vec(any::<u8>(), 0..300)) {
            let mut bytes = header(&leaves(5)).to_bytes().to_vec();
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&noise);
            prop_assert!(read(&bytes, BLOCK_BYTES).is_err());
            let _ = read(&noise, u64::MAX);
        }
    }

    #[test]
    fn proofs_of_every_shape_are_read() {
        for count in 1..=33 {
            let leaves = leaves(count);
            let header = header(&leaves);
            for first in 0..count {
                for last in first..count {
                    let wanted: Vec<usize> = if first == last { vec![first] } else { vec![first, last] };
                    let proof = read(&build(&header, &leaves, &wanted), BLOCK_BYTES).unwrap();
                    let expected: Vec<(u32, WtxId)> =
                        wanted.iter().map(|index| (u32::try_from(*index).unwrap(), leaves[*index])).collect();
                    assert_eq!(proof.leaves, expected);
                    assert_eq!(proof.header, header);
                }
            }
        }
    }

    /// WK11. No altered proof passes for one of other leaves or of another block.
    #[test]
    fn every_altered_byte_is_noticed() {
        let leaves = leaves(13);
        let good = build(&header(&leaves), &leaves, &[4]);
        let truth = read(&good, BLOCK_BYTES).unwrap();
        for position in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[position] ^= 1 << bit;
                let Ok(proof) = read(&bytes, BLOCK_BYTES) else { continue };
                // Nothing but the truth is ever proven. A flag can point at another leaf or at none; the header's
                // other fields can change, and then its hash does; the number of transactions, which nothing
                // commits to, can change where it leaves the tree's shape alone.
                for (index, leaf) in &proof.leaves {
                    assert_eq!(leaves[usize::try_from(*index).unwrap()], *leaf, "byte {position}");
                }
                assert!(!(36..68).contains(&position), "byte {position}");
                assert!(position >= 80 || proof.header.hash() != truth.header.hash());
            }
            assert!(read(&good[..position], BLOCK_BYTES).is_err());
        }
        assert!(read(&[good, vec![0]].concat(), BLOCK_BYTES).is_err());
    }

    /// WK11. A leaf can be proven at one position only (CVE-2012-2459), and counts are bounded before memory is taken.
    #[test]
    fn doubled_leaves_and_absurd_counts_are_refused() {
        let three = leaves(3);
        let doubled = [three.clone(), vec![three[2]]].concat();
        assert_eq!(merkle::root(&three).root, merkle::root(&doubled).root);
        let bytes = build(&header(&doubled), &doubled, &[3]);
        assert_eq!(read(&bytes, BLOCK_BYTES), Err(ProofError::Tree));
        let mut bytes = build(&header(&three), &three, &[0]);
        for (count, _) in [(0u32, ()), (u32::MAX, ())] {
            bytes[80..84].copy_from_slice(&count.to_le_bytes());
            assert_eq!(read(&bytes, BLOCK_BYTES), Err(ProofError::Transactions(count)));
        }
        assert_eq!(read(&bytes[..84], u64::MAX), Err(ProofError::Malformed(CodecError::Truncated)));
    }
}
