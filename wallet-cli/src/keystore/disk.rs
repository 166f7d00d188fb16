//! The wallet file on disk: replaced in one step or not at all, private, and used by one process at a time.
//!
//! ```text
//! create FILE.tmp 0600 ─► write ─► fsync ─► rename over FILE ─► fsync the directory
//! ```
//!
//! Killed or cut off anywhere, FILE holds either all of the old bytes or all of the new ones. FILE itself is never
//! opened for writing and never unlinked.

use crate::error::WalletError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a wallet file that are read at all: a hundred thousand unfinished payments would fit.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Read and write for the owner, nothing for others.
const PRIVATE: u32 = 0o600;

/// How long to wait for another process: scripts that overlap by one command should not fail.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often to look whether it is gone.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Held while a wallet is open; the operating system releases it when the process ends, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the wallet at `path`, waiting a little if another process has it.
    pub fn acquire(path: &Path) -> Result<Self, WalletError> {
        Self::acquire_within(path, LOCK_WAIT)
    }

    fn acquire_within(path: &Path, wait: Duration) -> Result<Self, WalletError> {
        // A file of its own, never removed: the wallet's inode changes with every save, and removing a lock file
        // would let two processes hold locks on two files of one name.
        let lock = beside(path, ".lock");
        let options = OpenOptions::new().create(true).truncate(false).write(true).mode(PRIVATE).open(&lock);
        let file = options.map_err(|error| WalletError::io("open", &lock, error))?;
        let deadline = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(WalletError::io("lock", &lock, error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(WalletError::InUse(path.to_owned()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
            }
        }
    }
}

/// All bytes of the wallet file.
pub fn read(path: &Path) -> Result<Vec<u8>, WalletError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(WalletError::NotFound(path.to_owned())),
        Err(error) => return Err(WalletError::io("open", path, error)),
    };
    let mut bytes = Vec::new();
    let limit = FILE_BYTES_MAX.saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| WalletError::io("read", path, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(WalletError::Damaged { path: path.to_owned(), reason: "it is larger than any wallet".into() });
    }
    Ok(bytes)
}

/// Points of a replacement: before each, a test may let the process die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Before the temporary file exists.
    Create,
    /// It is empty.
    WriteFirstHalf,
    /// It holds half the bytes.
    WriteSecondHalf,
    /// It holds all bytes, perhaps only in memory.
    SyncFile,
    /// It is on disk.
    Rename,
    /// It has the wallet's name, perhaps only in memory.
    SyncDirectory,
    /// All is on disk.
    Done,
}

/// Makes `bytes` the content of `path`; whoever calls holds the [`Lock`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), WalletError> {
    replace_with(path, bytes, &mut |_| Ok(()))
}

fn replace_with(path: &Path, bytes: &[u8], before: &mut dyn FnMut(Step) -> io::Result<()>) -> Result<(), WalletError> {
    let temporary = beside(path, ".tmp");
    // Left behind by a process that died; sealed as any wallet file is.
    match std::fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(WalletError::io("remove", &temporary, error)),
    }
    let result = write_private(&temporary, bytes, before)
        .map_err(|error| WalletError::io("write", &temporary, error))
        .and_then(|()| {
            let renamed = before(Step::Rename).and_then(|()| std::fs::rename(&temporary, path));
            renamed.map_err(|error| WalletError::io("replace", path, error))
        });
    if result.is_err() {
        // The disk may be full: give the room back. The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
        return result;
    }
    before(Step::SyncDirectory)
        .and_then(|()| File::open(directory_of(path))?.sync_all())
        .and_then(|()| before(Step::Done))
        .map_err(|error| WalletError::io("flush", path, error))
}

fn write_private(path: &Path, bytes: &[u8], before: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    before(Step::Create)?;
    // `create_new` follows no symbolic link that someone may have planted.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    before(Step::WriteFirstHalf)?;
    file.write_all(first)?;
    before(Step::WriteSecondHalf)?;
    file.write_all(second)?;
    before(Step::SyncFile)?;
    file.sync_all()
}

/// Makes the directory of a new wallet, private to its owner.
pub fn prepare_directory(path: &Path) -> Result<(), WalletError> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = directory_of(path);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|error| WalletError::io("create", &directory, error))
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    const STEPS: [Step; 7] = [
        Step::Create,
        Step::WriteFirstHalf,
        Step::WriteSecondHalf,
        Step::SyncFile,
        Step::Rename,
        Step::SyncDirectory,
        Step::Done,
    ];
    const VICTIM_PATH: &str = "SETARA_TEST_VICTIM_PATH";
    const VICTIM_STEP: &str = "SETARA_TEST_VICTIM_STEP";
    const OLD: &[u8] = b"the old bytes";
    const NEW: &[u8] = b"the new bytes, which are longer";

    #[test]
    fn the_file_is_private_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/wallet");
        prepare_directory(&path).unwrap();
        replace(&path, OLD).unwrap();
        replace(&path, NEW).unwrap();
        assert_eq!(read(&path).unwrap(), NEW);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_file_is_named() {
        assert_eq!(read(Path::new("/nonexistent/wallet")).unwrap_err().code(), "wallet-not-found");
    }

    /// WK5. A failing step (a full disk, say) leaves the old bytes until the rename, and no rubbish.
    #[test]
    fn a_failing_step_loses_nothing() {
        for step in STEPS {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("wallet");
            replace(&path, OLD).unwrap();
            let mut fail = |at| if at == step { Err(io::Error::other("test")) } else { Ok(()) };
            assert_eq!(replace_with(&path, NEW, &mut fail).unwrap_err().code(), "io");
            let renamed = matches!(step, Step::SyncDirectory | Step::Done);
            assert_eq!(read(&path).unwrap(), if renamed { NEW } else { OLD }, "{step:?}");
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "{step:?}");
        }
    }

    /// Not a test of its own: the process that [`killed_at_each_step_the_file_is_old_or_new`] kills.
    #[test]
    #[ignore = "started by another test"]
    fn victim() {
        let path = PathBuf::from(std::env::var(VICTIM_PATH).expect("started by another test"));
        let step = std::env::var(VICTIM_STEP).expect("started by another test");
        let mut die = |at: Step| {
            if format!("{at:?}") == step {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
            }
            Ok(())
        };
        replace_with(&path, NEW, &mut die).unwrap();
    }

    /// WK5.
    #[test]
    fn killed_at_each_step_the_file_is_old_or_new() {
        for step in STEPS {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("wallet");
            replace(&path, OLD).unwrap();
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "keystore::disk::tests::victim"])
                .env(VICTIM_PATH, &path)
                .env(VICTIM_STEP, format!("{step:?}"))
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{step:?}: {status}");
            let renamed = matches!(step, Step::SyncDirectory | Step::Done);
            assert_eq!(read(&path).unwrap(), if renamed { NEW } else { OLD }, "{step:?}");
            // And the next save works, whatever was left behind.
            replace(&path, NEW).unwrap();
            assert_eq!(read(&path).unwrap(), NEW);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_wallet_is_used_by_one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wallet");
        let held = Lock::acquire(&path).unwrap();
        let second = Lock::acquire_within(&path, Duration::ZERO);
        assert_eq!(second.map(|_| ()).unwrap_err().code(), "wallet-in-use");
        drop(held);
        Lock::acquire_within(&path, Duration::ZERO).unwrap();
    }
}
