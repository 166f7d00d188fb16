//! Room on the disk, asked for before every flush: a database that runs out of it in the middle of a write is no place
//! to be.

use super::StoreError;
use crate::datadir::{DataDirError, RUN_BYTES_MIN, check_space};
use std::path::PathBuf;

/// Refuses to go on when the disk is nearly full.
#[derive(Debug, Clone)]
pub struct SpaceCheck {
    path: PathBuf,
    needed: u64,
}

impl SpaceCheck {
    /// Where `path` lies, the bytes that a running node needs.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), needed: RUN_BYTES_MIN }
    }

    /// Asks for `needed` bytes instead.
    pub fn with_needed(self, needed: u64) -> Self {
        Self { needed, ..self }
    }

    /// Fails when less is free. A file system that cannot say is taken to have room: the write itself will tell.
    pub fn check(&self) -> Result<(), StoreError> {
        match check_space(&self.path, self.needed) {
            Err(DataDirError::DiskFull { path, free, needed }) => {
                Err(StoreError::DiskFull { path: path.display().to_string(), free, needed })
            }
            _ => Ok(()),
        }
    }
}
