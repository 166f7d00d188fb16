//! Height: a block's distance from genesis.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A block's distance from genesis, which is at height 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Height(u32);

impl Height {
    /// The genesis block's.
    pub const GENESIS: Self = Self(0);

    /// `height` blocks above genesis.
    pub const fn new(height: u32) -> Self {
        Self(height)
    }

    /// As a number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// One higher; `None` at the end of the protocol's numbers.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(height) => Some(Self(height)),
            None => None,
        }
    }

    /// One lower; `None` for genesis.
    pub const fn previous(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(height) => Some(Self(height)),
            None => None,
        }
    }

    /// Blocks from `earlier` to here; `None` if `earlier` is higher.
    pub const fn blocks_since(self, earlier: Self) -> Option<u32> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
