//! Buckets of a snapshot that come from peers, on disk: a folder with the manifest and one file for each checked bucket.
//!
//! Pieces of a bucket go to a file of the bucket and the peer; when all have come it is held against its leaf, and takes
//! the bucket's name. Nothing is believed for lying there: after a restart every bucket is checked again. A bucket that was
//! damaged meanwhile is fetched anew, so no file is synced.

use super::file::write_head;
use super::{Broken, Elements, LoadError, SnapshotFile};
use setara_core::lattice::ELEMENT_BYTES;
use setara_core::snapshot::{BucketCheck, Manifest, SnapshotError};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// The manifest's file; its form is that of a snapshot without coins.
const MANIFEST: &str = "manifest";

/// What was fetched before.
#[derive(Debug, Clone)]
pub struct Held {
    /// Of which snapshot.
    pub manifest: Arc<Manifest>,
    /// Buckets that are here and right.
    pub buckets: BTreeSet<u8>,
}

/// The folder.
pub struct Fetched {
    path: PathBuf,
    manifest: Option<Arc<Manifest>>,
    /// Buckets of which pieces are here, by bucket and peer. No file stays open: there may be few descriptors.
    parts: BTreeSet<(u8, u64)>,
}

impl Fetched {
    /// In this folder, which need not be there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), manifest: None, parts: BTreeSet::new() }
    }

    /// What an earlier run left, each bucket checked again. What cannot be used is removed.
    pub fn held(&mut self) -> Option<Held> {
        let manifest = match SnapshotFile::open(&self.path.join(MANIFEST)) {
            Ok(file) => Arc::new(file.manifest),
            Err(error) => {
                if self.path.exists() {
                    tracing::warn!(%error, "what was fetched of a snapshot cannot be used");
                    self.forget();
                }
                return None;
            }
        };
        let mut buckets = BTreeSet::new();
        for bucket in 0..=u8::MAX {
            let path = self.bucket(bucket);
            match check(&manifest, bucket, &path) {
                Ok(Ok(())) => _ = buckets.insert(bucket),
                Ok(Err(_)) | Err(_) => _ = fs::remove_file(path),
            }
        }
        self.manifest = Some(manifest.clone());
        self.remove_parts();
        Some(Held { manifest, buckets })
    }

    /// Fetching begins. What is here of another snapshot goes.
    pub fn begin(&mut self, manifest: &Arc<Manifest>) -> io::Result<()> {
        if self.manifest.as_ref() == Some(manifest) {
            return Ok(());
        }
        self.forget();
        fs::create_dir_all(&self.path)?;
        let mut file = File::create(self.path.join(MANIFEST))?;
        write_head(&mut file, manifest)?;
        file.flush()?;
        self.manifest = Some(manifest.clone());
        Ok(())
    }

    /// Takes coins of a bucket, so many after its first.
    pub fn piece(&mut self, peer: u64, bucket: u8, first: u32, coins: &[u8]) -> io::Result<()> {
        let is_first = self.parts.insert((bucket, peer));
        let path = self.part(peer, bucket);
        let file = OpenOptions::new().write(true).create(is_first).truncate(is_first).open(path)?;
        file.write_all_at(coins, u64::from(first) * ELEMENT_BYTES as u64)
    }

    /// All pieces of a bucket have come from a peer: are they its coins?
    pub fn check(&mut self, peer: u64, bucket: u8) -> io::Result<Result<(), SnapshotError>> {
        let manifest = self.manifest.clone().ok_or_else(|| io::Error::other("nothing is being fetched"))?;
        let path = self.part(peer, bucket);
        self.parts.remove(&(bucket, peer));
        let verdict = check(&manifest, bucket, &path)?;
        match verdict {
            Ok(()) => fs::rename(path, self.bucket(bucket))?,
            Err(_) => fs::remove_file(path)?,
        }
        Ok(verdict)
    }

    /// What came of a bucket from a peer is of no use.
    pub fn drop_part(&mut self, peer: u64, bucket: u8) {
        if self.parts.remove(&(bucket, peer)) {
            let _ = fs::remove_file(self.part(peer, bucket));
        }
    }

    /// All coins, once every bucket is here.
    pub fn elements(&self) -> Result<Elements, LoadError> {
        let manifest = self.manifest.as_ref().ok_or_else(|| LoadError::Base("nothing was fetched".to_owned()))?;
        let full = (0..=u8::MAX).filter(|bucket| manifest.bucket_count(*bucket) > 0);
        let mut paths = Vec::new();
        for bucket in full {
            let path = self.bucket(bucket);
            let failed = |reason: String| LoadError::File { path: path.display().to_string(), reason };
            let bytes = fs::metadata(&path).map_err(|error| failed(error.to_string()))?.len();
            if bytes != manifest.bucket_count(bucket) * ELEMENT_BYTES as u64 {
                return Err(failed(format!("{bytes} bytes are other than were checked")));
            }
            paths.push(path);
        }
        // One at a time: 256 open files are more than a small machine may have left.
        Ok(Box::new(paths.into_iter().flat_map(|path| -> Elements {
            match File::open(&path) {
                Ok(file) => Box::new(coins(BufReader::with_capacity(BUFFER_BYTES, file))),
                Err(error) => Box::new(std::iter::once(Err(Broken::Io(format!("{}: {error}", path.display()))))),
            }
        })))
    }

    /// Removes all of it.
    pub fn forget(&mut self) {
        self.manifest = None;
        self.parts.clear();
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "of no use any more, but stays");
        }
    }

    fn bucket(&self, bucket: u8) -> PathBuf {
        self.path.join(format!("{bucket:03}.coins"))
    }

    fn part(&self, peer: u64, bucket: u8) -> PathBuf {
        self.path.join(format!("{bucket:03}.{peer}.part"))
    }

    /// Parts of an earlier run: their peers are gone.
    fn remove_parts(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if Path::new(&entry.file_name()).extension().is_some_and(|extension| extension == "part") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Holds a bucket's file against its leaf. One without coins needs no file.
fn check(manifest: &Manifest, bucket: u8, path: &Path) -> io::Result<Result<(), SnapshotError>> {
    let mut check = BucketCheck::new(manifest, bucket);
    if check.left() == 0 {
        return Ok(check.finish());
    }
    for coin in coins(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?)) {
        let verdict = match coin {
            Ok(element) => check.coin(&element).map(|_| ()),
            Err(Broken::Io(reason)) => return Err(io::Error::other(reason)),
            Err(Broken::Partial) => Err(SnapshotError::Truncated { bucket, missing: check.left() }),
        };
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(check.finish())
}

/// The coins of a reader.
fn coins(mut reader: impl Read) -> impl Iterator<Item = Result<[u8; ELEMENT_BYTES], Broken>> {
    std::iter::from_fn(move || super::file::next_element(&mut reader))
}
