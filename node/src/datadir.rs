//! The data directory: which file is where, and whose it is.
//!
//! ```text
//! DATA_DIR/setara.toml            options
//! DATA_DIR/NETWORK/.lock          held by the one process that uses the folder
//!                 /.cookie        RPC credentials of this run
//!                 /endpoints.json {pid, rpc, p2p} of this run, once bound
//!                 /db/            RocksDB
//!                 /tip            the tip as it was: a witness against a database that has lost blocks
//!                 /mempool.dat    transactions that waited when the node stopped
//!                 /setara.log     the log
//! ```
//!
//! The lock is the operating system's, taken before anything else is touched: a process that does not get it has
//! changed nothing, and one that dies leaves nothing stale behind.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Free bytes below which a node does not start: room for some days of blocks, and for compactions.
pub const START_BYTES_MIN: u64 = 1 << 30;
/// Free bytes below which a running node stops: enough to flush and close the database.
pub const RUN_BYTES_MIN: u64 = 200 << 20;
/// Only the owner may read a folder with a cookie and a log in it.
const FOLDER_MODE: u32 = 0o700;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("{} is in use by another process{}; stop that one, or choose another --data-dir", path.display(), shown(*pid))]
    InUse {
        /// The network's folder.
        path: PathBuf,
        /// The process, where its endpoints tell.
        pid: Option<u32>,
    },
    /// The file system refuses.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The disk is nearly full.
    #[error("{}: {free} MiB are free, at least {needed} MiB are needed", path.display())]
    DiskFull {
        /// The network's folder.
        path: PathBuf,
        /// Free MiB.
        free: u64,
        /// Needed MiB.
        needed: u64,
    },
}

fn shown(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" ({pid})"))
}

/// Where a running node can be reached: `endpoints.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The process.
    pub pid: u32,
    /// The RPC server.
    pub rpc: SocketAddr,
    /// The port for peers, if the node listens for any.
    pub p2p: Option<SocketAddr>,
}

/// A network's folder, held by this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Held, not read.
    _lock: File,
}

impl DataDir {
    /// Makes the folder if it is not there, and takes it.
    pub fn open(data_dir: &Path, network: &str) -> Result<Self, DataDirError> {
        let path = data_dir.join(network);
        let failed = |path: &Path| {
            let path = path.to_owned();
            |error| DataDirError::File { path, error }
        };
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&path).map_err(failed(&path))?;
        // The network's folder in the data directory, and that in its own: a name that is not on the disk loses with it all
        // that is stored below.
        for folder in [data_dir, data_dir.parent().unwrap_or(data_dir)] {
            sync_folder(folder).map_err(failed(folder))?;
        }
        let lock_path = path.join(".lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_endpoints(&path).map(|endpoints| endpoints.pid);
                return Err(DataDirError::InUse { path, pid });
            }
            Err(TryLockError::Error(error)) => return Err(DataDirError::File { path: lock_path, error }),
        }
        let directory = Self { path, _lock: lock };
        // Left by a process that was killed; it says nothing about this one.
        directory.remove_endpoints();
        Ok(directory)
    }

    /// The network's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database's folder.
    pub fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    /// The tip as it was.
    pub fn witness(&self) -> PathBuf {
        self.path.join("tip")
    }

    /// The mempool between runs.
    pub fn mempool(&self) -> PathBuf {
        self.path.join("mempool.dat")
    }

    /// The RPC server's cookie.
    pub fn cookie(&self) -> PathBuf {
        self.path.join(".cookie")
    }

    /// The log.
    pub fn log(&self) -> PathBuf {
        self.path.join("setara.log")
    }

    /// Tells scripts where this process can be reached ([`Endpoints`], of a node). They see the whole file or none.
    pub fn write_endpoints(&self, endpoints: &impl Serialize) -> Result<(), DataDirError> {
        let mut json = serde_json::to_vec(endpoints).expect("numbers and addresses serialise");
        json.push(b'\n');
        let path = self.path.join("endpoints.json");
        write_atomically(&path, &json).map_err(|error| DataDirError::File { path, error })
    }

    /// This node cannot be reached any more.
    pub fn remove_endpoints(&self) {
        // Not there is as good as removed; anything else is found out by whoever connects.
        let _ = fs::remove_file(self.path.join("endpoints.json"));
    }

    /// Refuses to start on a disk that is nearly full (ST5).
    pub fn check_space_to_start(&self) -> Result<(), DataDirError> {
        check_space(&self.path, START_BYTES_MIN)
    }
}

/// What `endpoints.json` in a network's folder says, if it is there and whole.
pub fn read_endpoints(network_folder: &Path) -> Option<Endpoints> {
    serde_json::from_slice(&fs::read(network_folder.join("endpoints.json")).ok()?).ok()
}

/// Refuses when fewer than `bytes` are free where `path` is. A running node asks with [`RUN_BYTES_MIN`] before it writes.
pub fn check_space(path: &Path, bytes: u64) -> Result<(), DataDirError> {
    let space =
        rustix::fs::statvfs(path).map_err(|error| DataDirError::File { path: path.to_owned(), error: error.into() })?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    Err(DataDirError::DiskFull { path: path.to_owned(), free: free >> 20, needed: bytes >> 20 })
}

/// Puts the names in a folder on stable storage. One that may not be read holds nothing that this process has made.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a relative path of one part is the empty path.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces a file so that after a crash it is the old one or the new one, whole, readable by its owner only.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // A leftover of a crash is ours: the folder is locked. Not opened but made anew, so that no link is followed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut all: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    /// ST7: the second to come touches nothing, not even cookie and endpoints; a lock dies with its holder.
    #[test]
    fn the_loser_touches_nothing() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path(), "dev").unwrap();
        let endpoints = Endpoints { pid: 4711, rpc: "127.0.0.1:5".parse().unwrap(), p2p: None };
        first.write_endpoints(&endpoints).unwrap();
        fs::write(first.cookie(), "__cookie__:0").unwrap();
        let before = contents(first.path());
        let error = DataDir::open(root.path(), "dev").unwrap_err();
        assert!(matches!(error, DataDirError::InUse { pid: Some(4711), .. }), "{error}");
        assert!(error.to_string().contains("(4711); stop that one"), "{error}");
        assert_eq!(contents(first.path()), before);
        DataDir::open(root.path(), "test").unwrap();

        let path = first.path().to_owned();
        drop(first);
        assert_eq!(read_endpoints(&path), Some(endpoints), "as after a kill");
        let second = DataDir::open(root.path(), "dev").unwrap();
        assert_eq!(read_endpoints(second.path()), None);
    }

    #[test]
    fn folder_and_files_are_the_owners() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(&root.path().join("deep/er"), "dev").unwrap();
        let path = directory.path().join("secret");
        std::os::unix::fs::symlink(root.path().join("elsewhere"), directory.path().join("secret.tmp")).unwrap();
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(!root.path().join("elsewhere").exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(directory.path()), mode(&path)), (0o700, 0o600));
    }

    /// ST5.
    #[test]
    fn a_nearly_full_disk_is_refused_with_both_figures() {
        let root = tempfile::tempdir().unwrap();
        check_space(root.path(), 0).unwrap();
        let error = check_space(root.path(), u64::MAX).unwrap_err();
        assert!(matches!(error, DataDirError::DiskFull { needed, .. } if needed == u64::MAX >> 20), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::open(&file, "dev").unwrap_err();
        assert!(error.to_string().contains("file/dev"), "{error}");
    }
}
