//! The Merkle tree of a block: Bitcoin's rule (pairwise `sha256d`, the last hash doubled on an odd level).
//!
//! That rule lets two different lists of leaves have one root: repeating the tail of an odd level is what the padding
//! does itself (CVE-2012-2459). Such a list shows two equal neighbours before padding, so it can be told from the true
//! one. Leaves here never pose as inner nodes (CVE-2017-12842): a leaf hashes 65 bytes or at least 69, a node 64.

use crate::hash::{Hash256, WtxId, sha256d};

/// A root, and whether the leaves can be a tampered copy of another list with the same root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MerkleRoot {
    /// The root; all zero for no leaves.
    pub root: Hash256,
    /// Whether, at some level before padding, the hashes at positions 2i and 2i + 1 are equal. A body like that is thrown
    /// away unjudged: the header may belong to another one.
    pub mutated: bool,
}

/// The root of `leaves`, the coinbase's first.
pub fn root(leaves: &[WtxId]) -> MerkleRoot {
    let mut level: Vec<Hash256> = leaves.iter().map(WtxId::hash).collect();
    let mut mutated = false;
    while level.len() > 1 {
        mutated |= level.chunks_exact(2).any(|pair| matches!(pair, [left, right] if left == right));
        level = parents(&level);
    }
    MerkleRoot { root: level.first().copied().unwrap_or(Hash256::ZERO), mutated }
}

/// The siblings on the way from leaf `index` to the root, lowest first; empty for a lone leaf or an index past the end.
pub fn branch(leaves: &[WtxId], index: u32) -> Vec<Hash256> {
    let mut level: Vec<Hash256> = leaves.iter().map(WtxId::hash).collect();
    let mut siblings = Vec::new();
    let Some(mut position) = usize::try_from(index).ok().filter(|position| *position < level.len()) else {
        return siblings;
    };
    while level.len() > 1 {
        // The last hash of an odd level is its own sibling.
        siblings.extend(level.get(position ^ 1).or(level.last()));
        level = parents(&level);
        position >>= 1;
    }
    siblings
}

/// The root that `siblings` lead to from `leaf` at position `index`. The caller compares it with a header's.
///
/// A proof with an index beyond `2^siblings` leads to the same root as the index within: bits above are not looked at.
pub fn root_from_branch(leaf: WtxId, index: u32, siblings: &[Hash256]) -> Hash256 {
    let mut position = index;
    siblings.iter().fold(leaf.hash(), |hash, sibling| {
        let right = position & 1 == 1;
        position >>= 1;
        if right { parent(sibling, &hash) } else { parent(&hash, sibling) }
    })
}

/// The next level up. Padding happens here and nowhere else.
fn parents(level: &[Hash256]) -> Vec<Hash256> {
    level
        .chunks(2)
        .filter_map(|pair| match pair {
            [left, right] => Some(parent(left, right)),
            [alone] => Some(parent(alone, alone)),
            _ => None,
        })
        .collect()
}

/// `sha256d(left || right)`.
fn parent(left: &Hash256, right: &Hash256) -> Hash256 {
    let mut node = [0; 64];
    for (to, from) in node.iter_mut().zip(left.as_bytes().iter().chain(right.as_bytes())) {
        *to = *from;
    }
    sha256d(&node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u32) -> Vec<WtxId> {
        (0..count).map(|number| WtxId::new(sha256d(&number.to_le_bytes()))).collect()
    }

    /// By the definition, recursively: no levels, no flags.
    fn oracle(leaves: &[Hash256]) -> Hash256 {
        match leaves {
            [] => Hash256::ZERO,
            [alone] => *alone,
            _ => {
                let pairs = leaves.chunks(2).map(|pair| [pair[0], *pair.last().unwrap()]);
                let up: Vec<_> =
                    pairs.map(|[a, b]| sha256d(&[a.as_bytes().as_slice(), b.as_bytes()].concat())).collect();
                oracle(&up)
            }
        }
    }

    #[test]
    fn bitcoin_block_170_has_its_root() {
        // The first block with a payment: two transactions; root as in its header.
        let leaves = [
            "b1fea52486ce0c62bb442b530a3f0132b826c74e473d1f2c220bfa78111c5082",
            "f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16",
        ]
        .map(|text| text.parse().unwrap());
        let expected = "7dac2c5666815c17a3b36427de37bb9d2e2c5ccec3f8633eb91a4205cb4c10ff";
        assert_eq!(root(&leaves), MerkleRoot { root: expected.parse().unwrap(), mutated: false });
    }

    #[test]
    fn roots_and_branches_agree_with_the_definition() {
        assert_eq!(root(&[]), MerkleRoot { root: Hash256::ZERO, mutated: false });
        for count in 1..=64 {
            let leaves = leaves(count);
            let plain: Vec<_> = leaves.iter().map(WtxId::hash).collect();
            let MerkleRoot { root, mutated } = root(&leaves);
            assert_eq!((root, mutated), (oracle(&plain), false), "{count}");
            for (index, leaf) in (0..).zip(&leaves) {
                let siblings = branch(&leaves, index);
                assert_eq!(siblings.len() as u32, count.next_power_of_two().trailing_zeros());
                assert_eq!(root_from_branch(*leaf, index, &siblings), root);
                // Any other leaf, place or sibling leads elsewhere (a doubled last leaf has two places).
                let other = WtxId::new(sha256d(b"other"));
                assert_ne!(root_from_branch(other, index, &siblings), root);
                if let Some(first) = siblings.first()
                    && *first != leaf.hash()
                {
                    assert_ne!(root_from_branch(*leaf, index ^ 1, &siblings), root);
                }
            }
            assert_eq!(branch(&leaves, count), []);
        }
    }

    /// CS4: of every list of 1 to 64 leaves, each longer one with the same root is flagged.
    #[test]
    fn duplications_that_keep_the_root_are_flagged() {
        let mut kept = 0;
        for count in 1..=64u32 {
            let honest = leaves(count);
            let expected = root(&honest).root;
            // Any tail once more: on the lowest odd level the padding itself, so one tail keeps the root if there is one.
            for tail in 1..=honest.len() {
                let forged = root(&[&honest[..], &honest[honest.len() - tail..]].concat());
                if forged.root == expected {
                    kept += 1;
                    assert!(forged.mutated, "{count} leaves, last {tail} repeated");
                }
            }
            // And everything between the honest list and the list with all padding of all levels written out.
            let mut padded = honest.clone();
            let mut width = 1;
            while width < padded.len() {
                if !padded.len().is_multiple_of(2 * width) {
                    padded.extend_from_within(padded.len() - width..);
                }
                width *= 2;
            }
            assert_eq!(root(&padded).root, expected);
            for end in honest.len() + 1..=padded.len() {
                let forged = root(&padded[..end]);
                assert!(forged.root != expected || forged.mutated, "{count} leaves padded to {end}");
            }
        }
        assert_eq!(kept, (1..=64u32).filter(|count| !count.is_power_of_two()).count());
    }

    /// CS4: dropping, swapping or replacing leaves changes the root.
    #[test]
    fn other_lists_have_other_roots() {
        for count in 2..=64 {
            let honest = leaves(count);
            let expected = root(&honest).root;
            for index in 0..honest.len() {
                let mut fewer = honest.clone();
                fewer.remove(index);
                assert_ne!(root(&fewer).root, expected, "{count} without {index}");
                let mut swapped = honest.clone();
                swapped.swap(index, (index + 1) % honest.len());
                assert_ne!(root(&swapped).root, expected, "{count} swapped at {index}");
            }
        }
    }

    /// CS4: equal neighbours are seen at every level, not among the leaves alone.
    #[test]
    fn mutation_is_seen_at_every_level() {
        for height in 0..6 {
            let mut list = leaves(1 << height);
            list.extend(list.clone());
            assert!(root(&list).mutated, "{height}");
            // Equal hashes that are no siblings mean nothing.
            let mut shifted = leaves(1 << height);
            shifted.insert(1 << height, leaves(1)[0]);
            assert!(height == 0 || !root(&shifted).mutated, "{height}");
        }
    }
}
