//! Room on the disk: asked before the database is opened and before every flush.

use super::StoreError;
use std::path::{Path, PathBuf};

/// Free bytes without which the node does not start: a database needs room to compact (Bitcoin Core warns alike).
pub const FREE_BYTES_START: u64 = 1 << 30;

/// Free bytes below which the node stops before it writes: enough for the log and a clean end.
pub const FREE_BYTES_MIN: u64 = 200 << 20;

/// Bytes that an unprivileged process may still write to the file system of `path`.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses to go on when the disk is nearly full.
#[derive(Debug, Clone)]
pub struct SpaceCheck {
    path: PathBuf,
    needed: u64,
}

impl SpaceCheck {
    /// Asks for `needed` bytes where `path` lies.
    pub fn new(path: impl Into<PathBuf>, needed: u64) -> Self {
        Self { path: path.into(), needed }
    }

    /// Fails with [`StoreError::DiskFull`] when less is free. A file system that cannot say is taken to have room: the
    /// write itself will tell.
    pub fn check(&self) -> Result<(), StoreError> {
        match free_bytes(&self.path) {
            Ok(free) if free < self.needed => {
                Err(StoreError::DiskFull { path: self.path.display().to_string(), free, needed: self.needed })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ST5: a disk without the room asked for is refused by name, before anything is written.
    #[test]
    fn a_full_disk_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        SpaceCheck::new(directory.path(), 1).check().unwrap();
        let error = SpaceCheck::new(directory.path(), u64::MAX).check().unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { needed: u64::MAX, .. }));
        assert!(error.to_string().contains(&directory.path().display().to_string()));
    }
}
