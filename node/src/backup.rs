//! `setara-node backup` and `restore`: a copy of a node that is whole, whether the node runs or not.
//!
//! ```text
//! DIR/backup.json             whose it is, and how high; written last
//!    /setara.toml             the options, where there is such a file
//!    /NETWORK.genesis.json    the network
//!    /NETWORK/db/             RocksDB's checkpoint: the state at one moment, indexes included
//!            /tip             the tip's witness
//! ```
//!
//! The folder is made as `DIR.part` and gets its name when all of it is on stable storage: whatever has the name is whole.
//! It is laid out as a data directory, so that a node can be started on a copy of it as it stands. Tables and bodies are
//! linked where the disk allows it, and never change; a node that runs on one of the two leaves the other alone.
//!
//! Not in it: cookies, identities and other keys, peers, the mempool, the log.

use crate::config::Config;
use crate::datadir::{DataDir, DataDirError, read_endpoints, write_atomically};
use crate::store::{RocksOptions, RocksStore, StoreError, schema};
use crate::swap::{Places, sync_files};
use crate::witness::{Witness, WitnessFile};
use serde::{Deserialize, Serialize};
use setara_api::client::{Auth, Client, ClientError};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::network::Network;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What tells a backup from any other folder.
const MARK: &str = "backup.json";
const OPTIONS: &str = "setara.toml";
/// Version of the layout above.
const LAYOUT: u32 = 1;
/// Copying to another disk takes as long as that disk does; this bounds a node that hangs.
const CALL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Like a data directory: options may hold passwords.
const FOLDER_MODE: u32 = 0o700;

/// Why there is no backup, or no data directory made of one. Nothing else has changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The system refuses.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// The error as reported.
        error: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// The database refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no chain yet.
    #[error("{} holds no chain of this network: there is nothing to back up", .0.display())]
    Nothing(PathBuf),
    /// The folder is relative: a running node would put it elsewhere.
    #[error("{}: expected an absolute path", .0.display())]
    Relative(PathBuf),
    /// The folder is there.
    #[error("{} is there already: name a folder that does not exist yet", .0.display())]
    Exists(PathBuf),
    /// The folder is no backup, or not a whole one.
    #[error("{} is no backup: {reason}", folder.display())]
    NoBackup {
        /// The folder.
        folder: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// The backup is another network's.
    #[error(
        "{} is a backup of the network `{found}`: to restore it, add {}", folder.display(), selection(folder, found)
    )]
    OtherNetwork {
        /// The backup.
        folder: PathBuf,
        /// Its network's name.
        found: String,
    },
    /// The running node refuses, or does not answer.
    #[error("the running node: {0}")]
    Node(#[from] ClientError),
}

/// How a backup's network is named on a command line.
fn selection(folder: &Path, network: &str) -> String {
    match Network::built_in(network) {
        Some(_) => format!("--network {network}"),
        None => format!("--genesis {}", folder.join(format!("{network}.genesis.json")).display()),
    }
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    layout: u32,
    /// The network's name.
    pub network: String,
    genesis: BlockHash,
    /// Height of the chain.
    pub height: Height,
    /// The block there.
    pub hash: BlockHash,
}

fn file(path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |error| BackupError::File { path: path.to_owned(), error }
}

/// Makes a backup in `folder`, by the running node or, if there is none, here.
pub fn run(config: &Config, folder: &Path, out: &mut dyn Write) -> Result<(), BackupError> {
    let folder = std::path::absolute(folder).map_err(file(folder))?;
    let mark = match DataDir::open(&config.data_dir, &config.network.name) {
        Ok(directory) => {
            Places::new(directory.path()).finish().map_err(file(directory.path()))?;
            let database = directory.database();
            if !database.join("CURRENT").exists() {
                return Err(BackupError::Nothing(directory.path().to_owned()));
            }
            let store = RocksStore::open(&database, &RocksOptions { memory_bytes: 0, ..RocksOptions::default() })?;
            let name = database.display().to_string();
            let known = schema::check_identity(&store, &config.network.genesis_hash(), &name)?;
            if !known {
                return Err(BackupError::Nothing(directory.path().to_owned()));
            }
            create(config, &store, &folder)?
        }
        Err(DataDirError::InUse { .. }) => ask(config, &folder)?,
        Err(error) => return Err(error.into()),
    };
    // Nothing depends on whether anybody reads this.
    let _ = writeln!(
        out,
        "{}: height {}, block {}.\nsetara-node restore {} --data-dir NEW {}",
        folder.display(),
        mark.height,
        mark.hash,
        folder.display(),
        selection(&folder, &mark.network)
    );
    Ok(())
}

/// The running node makes it: it alone may read its database.
fn ask(config: &Config, folder: &Path) -> Result<Mark, BackupError> {
    let network = config.data_dir.join(&config.network.name);
    let listen = read_endpoints(&network).map_or(config.rpc.listen, |endpoints| endpoints.rpc);
    let client = Client::new(&format!("http://{listen}"), Auth::Cookie(network.join(".cookie")))?;
    let params = serde_json::json!([folder.to_string_lossy()]);
    client.with_timeout(CALL_TIMEOUT).call("backupnode", params)?;
    read_mark(folder)
}

/// Makes a backup of `store` in `folder`, which must not be there.
pub fn create(config: &Config, store: &RocksStore, folder: &Path) -> Result<Mark, BackupError> {
    if !folder.is_absolute() {
        return Err(BackupError::Relative(folder.to_owned()));
    }
    if folder.try_exists().map_err(file(folder))? {
        return Err(BackupError::Exists(folder.to_owned()));
    }
    let mut part = folder.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    // Of an attempt that was interrupted.
    remove(&part)?;
    let made = fill(config, store, &part).and_then(|mark| {
        fs::rename(&part, folder).map_err(file(folder))?;
        sync(folder.parent().unwrap_or(folder))?;
        Ok(mark)
    });
    if made.is_err() {
        // The first error is the one to tell.
        let _ = remove(&part);
    }
    made
}

fn fill(config: &Config, store: &RocksStore, part: &Path) -> Result<Mark, BackupError> {
    let network = &config.network;
    let inner = part.join(&network.name);
    make_folder(&inner)?;
    let database = inner.join("db");
    store.checkpoint(&database)?;
    sync_files(&database).map_err(file(&database))?;
    // The copy's own tip: the node's may have moved meanwhile, also down, if the operator wants it so.
    let tip = schema::tip(&RocksStore::open_to_read(&database)?)?;
    let tip = tip.ok_or_else(|| BackupError::Nothing(config.data_dir.join(&network.name)))?;
    let tip = Witness { height: tip.height(), hash: tip.hash() };
    WitnessFile::new(inner.join("tip")).put(&tip).map_err(file(&inner))?;
    sync(&inner)?;
    let put = |name: &str, bytes: &[u8]| {
        let path = part.join(name);
        write_atomically(&path, bytes).map_err(file(&path))
    };
    let options = config.data_dir.join(OPTIONS);
    match fs::read(&options) {
        Ok(bytes) => put(OPTIONS, &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(file(&options)(error)),
    }
    put(&format!("{}.genesis.json", network.name), network.to_json().as_bytes())?;
    let mark = Mark {
        layout: LAYOUT,
        network: network.name.clone(),
        genesis: network.genesis_hash(),
        height: tip.height,
        hash: tip.hash,
    };
    put(MARK, &serde_json::to_vec_pretty(&mark).expect("numbers and texts serialise"))?;
    sync(part)?;
    Ok(mark)
}

fn make_folder(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path).map_err(file(path))
}

fn remove(folder: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(folder)(error)),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), BackupError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(file(folder))
}

fn read_mark(folder: &Path) -> Result<Mark, BackupError> {
    let no_backup = |reason: String| BackupError::NoBackup { folder: folder.to_owned(), reason };
    let bytes = fs::read(folder.join(MARK)).map_err(|error| no_backup(format!("{MARK}: {error}")))?;
    let mark: Mark = serde_json::from_slice(&bytes).map_err(|error| no_backup(format!("{MARK}: {error}")))?;
    if mark.layout > LAYOUT {
        let reason = format!("it has layout {}, this version reads up to {LAYOUT}", mark.layout);
        return Err(no_backup(reason));
    }
    Ok(mark)
}

/// Makes the configured data directory of the backup in `folder`.
pub fn restore(config: &Config, folder: &Path, out: &mut dyn Write) -> Result<(), BackupError> {
    let folder = std::path::absolute(folder).map_err(file(folder))?;
    let mark = read_mark(&folder)?;
    if mark.genesis != config.network.genesis_hash() {
        return Err(BackupError::OtherNetwork { folder, found: mark.network });
    }
    let directory = DataDir::open(&config.data_dir, &config.network.name)?;
    let places = Places::new(directory.path());
    places.finish().map_err(file(directory.path()))?;
    if places.database.try_exists().map_err(file(&places.database))? {
        return Err(BackupError::Exists(places.database));
    }
    let inner = folder.join(&mark.network);
    let made = copy_all(&inner.join("db"), &places.making).and_then(|()| {
        let witness = fs::read(inner.join("tip")).map_err(file(&inner))?;
        write_atomically(&directory.witness(), &witness).map_err(file(directory.path()))?;
        for name in [OPTIONS.to_owned(), format!("{}.genesis.json", mark.network)] {
            let (from, to) = (folder.join(&name), config.data_dir.join(&name));
            // What is there is the operator's.
            if from.exists() && !to.exists() {
                let bytes = fs::read(&from).map_err(file(&from))?;
                write_atomically(&to, &bytes).map_err(file(&to))?;
            }
        }
        places.put_in_place(false).map_err(file(directory.path()))
    });
    if let Err(error) = made {
        let _ = places.clear();
        return Err(error);
    }
    let _ = writeln!(
        out,
        "{} is restored: height {}, block {}.\nsetara-node --data-dir {} {}",
        directory.path().display(),
        mark.height,
        mark.hash,
        config.data_dir.display(),
        selection(&config.data_dir, &mark.network)
    );
    Ok(())
}

/// Copies a database's files: the backup and what is made of it must not share a damaged one.
fn copy_all(from: &Path, to: &Path) -> Result<(), BackupError> {
    make_folder(to)?;
    for entry in fs::read_dir(from).map_err(file(from))? {
        let path = entry.map_err(file(from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        fs::copy(&path, &target).map_err(file(&path))?;
    }
    Ok(())
}
