//! What the peer-to-peer network keeps between runs: addresses, anchors, bans, and the identity if one is wanted.
//!
//! Every file is replaced in one step. All but the identity, which is 32 secret bytes, carry a checksum; one that cannot be
//! read is told of and begun anew, since nothing in it is dear. Anchors are used once: their file goes as soon as it is
//! read, so that a node which dies on its way up does not dial them for ever; it is written anew with the others, and at a
//! stop.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of any of these files; the largest, of addresses, stays far below.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Where the files are.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// In a network's folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Addresses known.
    pub fn peers(&self) -> PathBuf {
        self.folder.join("peers.dat")
    }

    /// Whom to dial first after a restart.
    pub fn anchors(&self) -> PathBuf {
        self.folder.join("anchors.dat")
    }

    /// Bans.
    pub fn bans(&self) -> PathBuf {
        self.folder.join("bans.dat")
    }

    /// The lasting identity: 32 secret bytes.
    pub fn identity(&self) -> PathBuf {
        self.folder.join("identity.key")
    }
}

/// A file's bytes; `None` where there is none.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("the file is too large"));
    }
    Ok(Some(bytes))
}

/// Reads a file and removes it.
pub fn take(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let bytes = read(path)?;
    if bytes.is_some() {
        fs::remove_file(path)?;
    }
    Ok(bytes)
}

/// Replaces a file in one step, readable by its owner only.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_replaced_read_back_and_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = Files::new(folder.path()).anchors();
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(take(&path).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(take(&path).unwrap(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
