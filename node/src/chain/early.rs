//! Blocks dated too far ahead of this node's clock: held back, never marked, tried again when their time has come.
//!
//! Each has passed the header rules below a known parent, so filling this up costs work; still it is bounded, and the
//! block furthest ahead makes room.

use setara_core::block::Block;
use setara_core::hash::BlockHash;
use std::collections::BTreeMap;

/// Most blocks held back: a clock that is a little slow meets one or two.
pub const EARLY_BLOCKS_MAX: usize = 64;
/// Most bytes held back.
pub const EARLY_BYTES_MAX: u64 = 32 << 20;

/// Blocks by the time at which they may be tried.
#[derive(Default)]
pub(super) struct EarlyBlocks {
    blocks: BTreeMap<(u64, BlockHash), (Block, u64)>,
    bytes: u64,
}

impl EarlyBlocks {
    /// Holds `block`, of `bytes` bytes, until `ripe` (Unix seconds).
    pub fn hold(&mut self, ripe: u64, block: Block, bytes: u64) {
        let key = (ripe, block.hash());
        if let Some((_, replaced)) = self.blocks.insert(key, (block, bytes)) {
            self.bytes -= replaced;
        }
        self.bytes += bytes;
        while self.blocks.len() > EARLY_BLOCKS_MAX || self.bytes > EARLY_BYTES_MAX {
            let Some((_, (_, dropped))) = self.blocks.pop_last() else { break };
            self.bytes -= dropped;
        }
    }

    /// Takes the blocks whose time has come, earliest first.
    pub fn take_ripe(&mut self, now: u64) -> Vec<Block> {
        let mut ripe = Vec::new();
        while let Some(entry) = self.blocks.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (block, bytes) = entry.remove();
            self.bytes -= bytes;
            ripe.push(block);
        }
        ripe
    }

    /// Blocks held.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }
}
