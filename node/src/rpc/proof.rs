//! Proofs that transactions are in a block: Bitcoin's `CMerkleBlock`, byte for byte, over leaves that are wtxids.
//!
//! header (80) || leaves in all u32 LE || hashes (CompactSize count, 32 bytes each) || bits (CompactSize bytes, lowest bit
//! first). The tree is walked from the root, left before right: a bit 1 says that a wanted leaf lies below, and the walk goes
//! on; a bit 0, or a leaf, consumes a hash.

use setara_core::block::{Header, read_compact_size, write_compact_size};
use setara_core::codec::{Codec, CodecError, Reader, Writer};
use setara_core::hash::{Hash256, WtxId, sha256d};

/// Leaves that a proof may speak of: more transactions than the largest block can hold.
const LEAVES_MAX: u32 = 1 << 18;

/// A proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MerkleProof {
    /// The block's header.
    pub header: Header,
    /// Leaves of its tree.
    pub leaves: u32,
    hashes: Vec<Hash256>,
    bits: Vec<bool>,
}

/// What a proof proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Root of the tree walked; to be held against the header's.
    pub root: Hash256,
    /// Position and wtxid of each wanted leaf.
    pub matches: Vec<(u32, WtxId)>,
}

fn parent(left: &Hash256, right: &Hash256) -> Hash256 {
    let mut node = [0; 64];
    node[..32].copy_from_slice(left.as_bytes());
    node[32..].copy_from_slice(right.as_bytes());
    sha256d(&node)
}

/// Hashes of all levels, leaves first.
fn levels(leaves: &[WtxId]) -> Vec<Vec<Hash256>> {
    let mut levels = vec![leaves.iter().map(WtxId::hash).collect::<Vec<_>>()];
    while let Some(last) = levels.last()
        && last.len() > 1
    {
        let next = last.chunks(2).map(|pair| parent(&pair[0], pair.last().unwrap_or(&pair[0]))).collect();
        levels.push(next);
    }
    levels
}

impl MerkleProof {
    /// That the leaves at `wanted` positions are in the block.
    pub fn new(header: Header, leaves: &[WtxId], wanted: &[bool]) -> Self {
        let levels = levels(leaves);
        let count = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        let mut proof = Self { header, leaves: count, hashes: Vec::new(), bits: Vec::new() };
        let height = levels.len().saturating_sub(1);
        proof.build(&levels, wanted, height, 0);
        proof
    }

    fn build(&mut self, levels: &[Vec<Hash256>], wanted: &[bool], height: usize, position: usize) {
        let first = position << height;
        let last = (position + 1) << height;
        let below = wanted.iter().take(last).skip(first).any(|wanted| *wanted);
        self.bits.push(below);
        if height == 0 || !below {
            self.hashes.extend(levels.get(height).and_then(|level| level.get(position)));
            return;
        }
        let left = position << 1;
        self.build(levels, wanted, height - 1, left);
        if levels.get(height - 1).is_some_and(|level| left + 1 < level.len()) {
            self.build(levels, wanted, height - 1, left + 1);
        }
    }

    /// Walks the tree; `None` if the proof is malformed: hashes or bits left over or missing, or equal siblings, with which
    /// one list of leaves could pose as another (CVE-2012-2459).
    pub fn prove(&self) -> Option<Proven> {
        if self.leaves == 0 || self.leaves > LEAVES_MAX {
            return None;
        }
        let mut height = 0;
        while width(self.leaves, height) > 1 {
            height += 1;
        }
        let mut walk = Walk { proof: self, hashes: 0, bits: 0, matches: Vec::new() };
        let root = walk.node(height, 0)?;
        // Padding up to a whole byte is the only thing that may be left.
        let rest = self.bits.get(walk.bits..)?;
        if walk.hashes != self.hashes.len() || rest.len() >= 8 || rest.iter().any(|bit| *bit) {
            return None;
        }
        Some(Proven { root, matches: walk.matches })
    }
}

/// Nodes at a height above the leaves.
const fn width(leaves: u32, height: u32) -> u32 {
    leaves.div_ceil(1 << height)
}

struct Walk<'a> {
    proof: &'a MerkleProof,
    hashes: usize,
    bits: usize,
    matches: Vec<(u32, WtxId)>,
}

impl Walk<'_> {
    /// Recursion is as deep as the tree is high: at most 18.
    fn node(&mut self, height: u32, position: u32) -> Option<Hash256> {
        let below = *self.proof.bits.get(self.bits)?;
        self.bits += 1;
        if height == 0 || !below {
            let hash = *self.proof.hashes.get(self.hashes)?;
            self.hashes += 1;
            if height == 0 && below {
                self.matches.push((position, WtxId::new(hash)));
            }
            return Some(hash);
        }
        let left = self.node(height - 1, position * 2)?;
        if position * 2 + 1 >= width(self.proof.leaves, height - 1) {
            return Some(parent(&left, &left));
        }
        let right = self.node(height - 1, position * 2 + 1)?;
        (left != right).then(|| parent(&left, &right))
    }
}

impl Codec for MerkleProof {
    const MIN_SIZE: u64 = 80 + 4 + 1 + 1;

    fn write(&self, writer: &mut Writer) {
        self.header.write(writer);
        writer.raw(&self.leaves.to_le_bytes());
        write_compact_size(writer, self.hashes.len() as u64);
        for hash in &self.hashes {
            writer.raw(hash.as_bytes());
        }
        write_compact_size(writer, self.bits.len().div_ceil(8) as u64);
        for byte in self.bits.chunks(8) {
            writer.u8(byte.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let header = Header::read(reader)?;
        let leaves = u32::from_le_bytes(reader.raw()?);
        let count = read_compact_size(reader)?;
        let max = reader.remaining() / 32;
        if count > max {
            return Err(CodecError::ListTooLong { what: "hashes", count, max });
        }
        let mut hashes = Vec::new();
        for _ in 0..count {
            hashes.push(Hash256::from_bytes(reader.raw()?));
        }
        let count = read_compact_size(reader)?;
        let bytes = reader.take(usize::try_from(count).map_err(|_| CodecError::Truncated)?)?;
        let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).collect();
        Ok(Self { header, leaves, hashes, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use setara_core::codec::{decode, encode};
    use setara_core::{merkle, network::Network};

    fn leaves(count: u32) -> Vec<WtxId> {
        (0..count).map(|number| WtxId::new(sha256d(&number.to_le_bytes()))).collect()
    }

    #[test]
    fn every_subset_of_small_trees_is_proven_and_no_bit_can_change() {
        let header = Network::dev().genesis().header;
        for count in 1..=9u32 {
            let leaves = leaves(count);
            let root = merkle::root(&leaves).root;
            for subset in 0..1u32 << count {
                let wanted: Vec<bool> = (0..count).map(|position| subset >> position & 1 == 1).collect();
                let bytes = encode(&MerkleProof::new(header, &leaves, &wanted));
                let proven = decode::<MerkleProof>(&bytes).unwrap().prove().unwrap();
                assert_eq!(proven.root, root);
                let expected: Vec<(u32, WtxId)> = (0..count)
                    .zip(&leaves)
                    .filter(|(position, _)| wanted[*position as usize])
                    .map(|(p, l)| (p, *l))
                    .collect();
                assert_eq!(proven.matches, expected);
                for position in 80..bytes.len() {
                    let mut damaged = bytes.clone();
                    damaged[position] ^= 1;
                    let proven = decode::<MerkleProof>(&damaged).ok().and_then(|proof| proof.prove());
                    // Whatever still reaches the root proves the same leaves, or nothing.
                    if let Some(proven) = proven.filter(|proven| proven.root == root) {
                        assert!(
                            proven.matches.iter().all(|(_, leaf)| leaves.contains(leaf)),
                            "{count} {subset} {position}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn hostile_proofs_are_refused() {
        let header = Network::dev().genesis().header;
        let proof =
            |leaves, hashes: usize, bits| MerkleProof { header, leaves, hashes: vec![Hash256::ZERO; hashes], bits };
        assert_eq!(proof(0, 0, vec![]).prove(), None);
        assert_eq!(proof(u32::MAX, 1, vec![false]).prove(), None);
        assert_eq!(proof(2, 1, vec![true, true]).prove(), None);
        assert_eq!(proof(1, 2, vec![true]).prove(), None);
        assert_eq!(proof(1, 1, vec![true; 9]).prove(), None);
        // CVE-2012-2459: two equal siblings.
        assert_eq!(proof(2, 2, vec![true, true, true]).prove(), None);
        let mut long = encode(&proof(1, 1, vec![true]));
        long[84] = 0xfc;
        assert!(decode::<MerkleProof>(&long).is_err());
    }
}
