//! The mempool's file: what was waiting, and what fees have taught, across a restart.
//!
//! ```text
//! "SETAMEMP" || version u32 || genesis hash || count u64 || count x (time u64 || length u32 || transaction)
//!            || length u32 || estimator || SHA-256 of all before          integers little endian
//! ```
//!
//! Written beside and renamed, so there is always a whole file. Read as if it came from a stranger: the checksum is for
//! accidents, and every transaction goes through all checks again. A file that cannot be read costs what it held,
//! never the start of the node.

use super::estimate::Estimator;
use super::policy::TRANSACTION_BYTES_MAX;
use super::{Mempool, weight};
use setara_core::codec::{self, Reader, Writer};
use setara_core::transaction::Transaction;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"SETAMEMP";
const VERSION: u32 = 1;
/// Bytes of the checksum at the end.
const CHECKSUM_BYTES: u64 = 32;
/// Bytes of magic, version and genesis hash.
const CHECKED_HEAD_BYTES: usize = 8 + 4 + 32;
/// Bytes of the estimator's part: far above its 340 kB.
const ESTIMATOR_BYTES_MAX: u32 = 1 << 20;
/// Transactions judged at a time while loading: the stop request is looked at in between.
const LOAD_TRANSACTIONS: usize = 1_000;
/// Bytes of transactions held at a time while loading.
const LOAD_BYTES: u64 = 4_000_000;

/// Why a file was not loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The file is not what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A version that is not known here.
    #[error("{path} has version {found}, this node reads version {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Another network's.
    #[error("{path} belongs to another network")]
    OtherNetwork {
        /// The file.
        path: PathBuf,
    },
}

/// What became of a file's transactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Back in the mempool.
    pub accepted: u64,
    /// Mined meanwhile, already here, or no longer acceptable.
    pub refused: u64,
    /// Too old.
    pub expired: u64,
    /// Not looked at, because the node is to stop.
    pub left: u64,
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new() }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Mempool {
    /// Writes the file, replacing an older one as a whole. Gives the number of transactions.
    pub fn save(&self, path: &Path) -> Result<u64, PersistError> {
        let (entries, estimator) = {
            let inner = self.inner.lock();
            let entries: Vec<(u64, Arc<Transaction>)> =
                inner.graph.iter().map(|(_, entry)| (entry.time, entry.transaction.clone())).collect();
            let mut writer = Writer::default();
            inner.estimator.write(&mut writer);
            (entries, writer.finish())
        };
        let io = |error| PersistError::Io { path: path.to_owned(), error };
        let temporary = path.with_extension("new");
        self.write_file(&temporary, &entries, &estimator).map_err(io)?;
        fs::rename(&temporary, path).map_err(io)?;
        if let Some(directory) = path.parent() {
            // The rename is on disk once its directory is.
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
        }
        Ok(weight::count(entries.len()))
    }

    fn write_file(&self, path: &Path, entries: &[(u64, Arc<Transaction>)], estimator: &[u8]) -> io::Result<()> {
        let mut file = Hashing::new(BufWriter::new(File::create(path)?));
        file.write_all(MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        file.write_all(self.network.genesis_hash().as_bytes())?;
        file.write_all(&weight::count(entries.len()).to_le_bytes())?;
        for (time, transaction) in entries {
            let bytes = codec::encode(transaction.as_ref());
            file.write_all(&time.to_le_bytes())?;
            file.write_all(&length(&bytes).to_le_bytes())?;
            file.write_all(&bytes)?;
        }
        file.write_all(&length(estimator).to_le_bytes())?;
        file.write_all(estimator)?;
        let checksum = file.hasher.finalize();
        let mut file = file.inner;
        file.write_all(&checksum)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    /// Judges everything in the file anew and takes in what still holds up. `Ok` with nothing if there is no file.
    /// `stop` is asked every [`LOAD_TRANSACTIONS`] transactions.
    pub fn load(&self, path: &Path, stop: &dyn Fn() -> bool) -> Result<Loaded, PersistError> {
        let io = |error| PersistError::Io { path: path.to_owned(), error };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(error) => return Err(io(error)),
        };
        let body = self.check_file(path, &file)?;
        (&file).rewind().map_err(io)?;
        let mut reader = Fields { path, inner: BufReader::new(&file), left: body };
        reader.array::<CHECKED_HEAD_BYTES>()?;
        let count = u64::from_le_bytes(reader.array()?);
        let mut loaded = Loaded::default();
        let now = self.clock.unix_seconds();
        let mut round = Vec::new();
        let mut bytes = 0;
        for position in 0..count {
            if stop() {
                loaded.left = count - position;
                break;
            }
            let (time, encoded) = reader.entry()?;
            if time.saturating_add(self.options.expiry_seconds) < now {
                loaded.expired += 1;
                continue;
            }
            bytes += weight::count(encoded.len());
            let transaction = codec::decode::<Transaction>(&encoded).map_err(|_| reader.damaged("a transaction"))?;
            // A clock that was wrong once must not keep a transaction for ever.
            round.push((transaction, time.min(now)));
            if round.len() == LOAD_TRANSACTIONS || bytes >= LOAD_BYTES {
                self.load_round(std::mem::take(&mut round), &mut loaded);
                bytes = 0;
            }
        }
        self.load_round(round, &mut loaded);
        if loaded.left == 0 {
            let encoded = reader.list(ESTIMATOR_BYTES_MAX)?;
            if reader.left != 0 {
                return Err(reader.damaged("bytes follow its end"));
            }
            let mut fields = Reader::new(&encoded);
            let estimator = Estimator::read(&mut fields).map_err(|_| reader.damaged("the fee history"))?;
            self.inner.lock().estimator.learn_from(estimator);
        }
        Ok(loaded)
    }

    fn load_round(&self, round: Vec<(Transaction, u64)>, loaded: &mut Loaded) {
        for verdict in self.submit_saved(round) {
            match verdict {
                Ok(_) => loaded.accepted += 1,
                Err(error) => {
                    tracing::debug!(code = error.code(), %error, "a saved transaction is not taken back");
                    loaded.refused += 1;
                }
            }
        }
    }

    /// Version, network and checksum, before anything in the file is believed. Gives the bytes before the checksum.
    fn check_file(&self, path: &Path, file: &File) -> Result<u64, PersistError> {
        let io = |error| PersistError::Io { path: path.to_owned(), error };
        let damaged = |what| PersistError::Damaged { path: path.to_owned(), what };
        let body = file.metadata().map_err(io)?.len().checked_sub(CHECKSUM_BYTES);
        let body = body.filter(|body| *body >= weight::count(CHECKED_HEAD_BYTES)).ok_or(damaged("it is too short"))?;
        let mut reader = BufReader::new(file);
        let mut hasher = Hashing::new(io::sink());
        let mut head = [0; CHECKED_HEAD_BYTES];
        reader.read_exact(&mut head).map_err(io)?;
        hasher.write_all(&head).map_err(io)?;
        let (magic, rest) = head.split_at(8);
        let (version, genesis) = rest.split_at(4);
        if magic != MAGIC {
            return Err(damaged("it is no mempool file"));
        }
        let found = version.try_into().map_or(0, u32::from_le_bytes);
        if found != VERSION {
            return Err(PersistError::Version { path: path.to_owned(), found });
        }
        if genesis != self.network.genesis_hash().as_bytes() {
            return Err(PersistError::OtherNetwork { path: path.to_owned() });
        }
        io::copy(&mut reader.by_ref().take(body - weight::count(head.len())), &mut hasher).map_err(io)?;
        let mut checksum = [0; 32];
        reader.read_exact(&mut checksum).map_err(io)?;
        if hasher.hasher.finalize().as_slice() != checksum {
            return Err(damaged("its checksum does not match"));
        }
        Ok(body)
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("transactions and estimator are far below 4 GiB")
}

/// Reads fields, never beyond the checksum.
struct Fields<'a, R> {
    path: &'a Path,
    inner: R,
    left: u64,
}

impl<R: Read> Fields<'_, R> {
    fn damaged(&self, what: &'static str) -> PersistError {
        PersistError::Damaged { path: self.path.to_owned(), what }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), PersistError> {
        let short = self.damaged("it ends early");
        self.left = self.left.checked_sub(weight::count(bytes.len())).ok_or(short)?;
        self.inner.read_exact(bytes).map_err(|error| PersistError::Io { path: self.path.to_owned(), error })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PersistError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&mut self, max: u32) -> Result<Vec<u8>, PersistError> {
        let length = u32::from_le_bytes(self.array()?);
        if length > max || u64::from(length) > self.left {
            return Err(self.damaged("a length is out of range"));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn entry(&mut self) -> Result<(u64, Vec<u8>), PersistError> {
        let time = u64::from_le_bytes(self.array()?);
        Ok((time, self.list(u32::try_from(TRANSACTION_BYTES_MAX).unwrap_or(u32::MAX))?))
    }
}
