//! Blocks dated too far ahead of this node's clock: held back, never marked, tried again when their time has come.
//!
//! Each has passed the header rules below a known parent, so filling this up costs work; still it is bounded, and the
//! block furthest ahead makes room. They are held as bytes: taken apart, a block is several times as large.

use setara_core::block::Block;
use setara_core::codec::encode;
use setara_core::hash::BlockHash;
use std::collections::BTreeMap;

/// Most blocks held back: a clock that is a little slow meets one or two.
pub const EARLY_BLOCKS_MAX: usize = 64;
/// Most bytes held back, if there is memory for as many.
pub const EARLY_BYTES_MAX: u64 = 32 << 20;

/// Blocks by the time at which they may be tried.
pub(super) struct EarlyBlocks {
    blocks: BTreeMap<(u64, BlockHash), Vec<u8>>,
    bytes: u64,
    bytes_max: u64,
}

impl EarlyBlocks {
    /// Holds so many bytes at most.
    pub const fn within(bytes_max: u64) -> Self {
        Self { blocks: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Holds `block` until `ripe` (Unix seconds).
    pub fn hold(&mut self, ripe: u64, block: &Block) {
        let bytes = encode(block);
        self.bytes += bytes.len() as u64;
        if let Some(replaced) = self.blocks.insert((ripe, block.hash()), bytes) {
            self.bytes -= replaced.len() as u64;
        }
        while self.blocks.len() > EARLY_BLOCKS_MAX || self.bytes > self.bytes_max {
            let Some((_, dropped)) = self.blocks.pop_last() else { break };
            self.bytes -= dropped.len() as u64;
        }
    }

    /// Takes the encodings of the blocks whose time has come, earliest first.
    pub fn take_ripe(&mut self, now: u64) -> Vec<Vec<u8>> {
        let mut ripe = Vec::new();
        while let Some(entry) = self.blocks.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let bytes = entry.remove();
            self.bytes -= bytes.len() as u64;
            ripe.push(bytes);
        }
        ripe
    }

    /// Bytes held.
    #[cfg(test)]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Blocks held.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, ChainBuilder};

    /// However many come, no more bytes are held than there is room for; those that may be tried first stay.
    #[test]
    fn no_more_is_held_than_there_is_room_for() {
        let mut builder = ChainBuilder::new(&testing::quick_network());
        let blocks = builder.mine_empty(8);
        let bytes = encode(&blocks[0]).len() as u64;
        let max = 3 * bytes + bytes / 2;
        let mut early = EarlyBlocks::within(max);
        for (before, block) in (1..).zip(blocks.iter().rev()) {
            let ripe = 8 - before;
            early.hold(ripe, block);
            early.hold(ripe, block);
            assert!(early.bytes() <= max && early.len() <= 3, "{}", early.bytes());
        }
        assert_eq!(early.take_ripe(8), [&blocks[0], &blocks[1], &blocks[2]].map(encode));
        assert_eq!((early.len(), early.bytes()), (0, 0));
    }
}
