//! RocksDB's blob files, read without RocksDB: where the values of a damaged database lie, whatever has become of its
//! tables and of its list of files.
//!
//! ```text
//! file   = head (30 bytes), records, footer (32 bytes; a file that was not closed has none)
//! record = key length (u64 LE), value length (u64 LE), expiration (u64, 0), two checksums (u32 each), key, value
//! ```
//!
//! Nothing here is believed: a place is where a value *may* lie. Values are sealed and name their block, so whoever reads
//! one checks it. A head that makes no sense is skipped byte by byte until one does. Compressed values, which this node
//! never writes, are not read.

use setara_core::hash::BlockHash;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const FILE_HEAD_BYTES: u64 = 30;
const RECORD_HEAD_BYTES: usize = 32;
/// Lengths and expiration: what can be told from noise.
const TELLING_BYTES: usize = 24;
/// All keys are hashes of blocks.
const KEY_BYTES: usize = 32;
/// Longest value that is looked at: far above a block or what undoes it.
const VALUE_BYTES_MAX: u64 = 64 << 20;
/// Bytes looked through at a time for the next record.
const SEARCH_BYTES: usize = 1 << 20;

/// Where a value may lie.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    at: u64,
    bytes: u32,
}

/// The values in all blob files of a folder, by key.
#[derive(Default)]
pub(super) struct Blobs {
    files: Vec<File>,
    places: BTreeMap<BlockHash, Vec<Place>>,
}

impl Blobs {
    /// Looks through every blob file of `folder`. A file that cannot be read is left out.
    pub fn scan(folder: &Path) -> Self {
        let mut blobs = Self::default();
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "blob"));
        paths.sort();
        for path in paths {
            let scanned = File::open(&path).and_then(|file| blobs.scan_file(file));
            if let Err(error) = scanned {
                tracing::warn!(%error, path = %path.display(), "a file of blocks cannot be read to its end");
            }
        }
        blobs
    }

    fn scan_file(&mut self, file: File) -> io::Result<()> {
        let (number, end) = (self.files.len(), file.metadata()?.len());
        self.files.push(file.try_clone()?);
        let mut at = FILE_HEAD_BYTES;
        while let Some(found) = next_head(&file, at, end)? {
            let mut record = [0; RECORD_HEAD_BYTES + KEY_BYTES];
            file.read_exact_at(&mut record, found)?;
            let bytes = lengths(&record).map_or(0, |(_, value)| value);
            let value_at = found + record.len() as u64;
            let key = BlockHash::from_bytes(*record.last_chunk().expect("the record's head is longer than a key"));
            let after = value_at + bytes;
            if after <= end {
                let place = Place { file: number, at: value_at, bytes: bytes as u32 };
                self.places.entry(key).or_default().push(place);
            }
            // A wrong length leads nowhere: then the next record is looked for within this one.
            at = if next_is_sound(&file, after, end)? { after } else { found + 1 };
        }
        Ok(())
    }

    /// The keys of all values.
    pub fn keys(&self) -> impl Iterator<Item = &BlockHash> {
        self.places.keys()
    }

    /// What may be the values of a key, the newest file's first.
    pub fn values<'a>(&'a self, key: &BlockHash) -> impl Iterator<Item = Vec<u8>> + 'a {
        let places = self.places.get(key).map_or(&[][..], Vec::as_slice);
        places.iter().rev().filter_map(|place| {
            let mut bytes = vec![0; place.bytes as usize];
            self.files[place.file].read_exact_at(&mut bytes, place.at).ok()?;
            Some(bytes)
        })
    }

    /// The first `N` bytes of what may be the values of a key.
    pub fn beginnings<'a, const N: usize>(&'a self, key: &BlockHash) -> impl Iterator<Item = [u8; N]> + 'a {
        let places = self.places.get(key).map_or(&[][..], Vec::as_slice);
        places.iter().rev().filter_map(|place| {
            let mut bytes = [0; N];
            self.files[place.file].read_exact_at(&mut bytes, place.at).ok()?;
            Some(bytes)
        })
    }
}

/// Lengths of key and value, if this can be a record's head.
fn lengths(head: &[u8]) -> Option<(u64, u64)> {
    let word = |number: usize| Some(u64::from_le_bytes(*head.get(number * 8..)?.first_chunk()?));
    let (key, value, expiration) = (word(0)?, word(1)?, word(2)?);
    (key == KEY_BYTES as u64 && value <= VALUE_BYTES_MAX && expiration == 0).then_some((key, value))
}

/// The first place from `at` on where a record may begin.
fn next_head(file: &File, mut at: u64, end: u64) -> io::Result<Option<u64>> {
    let least = (RECORD_HEAD_BYTES + KEY_BYTES) as u64;
    // Nearly always right here.
    let mut telling = [0; TELLING_BYTES];
    if at + least <= end {
        file.read_exact_at(&mut telling, at)?;
        if lengths(&telling).is_some() {
            return Ok(Some(at));
        }
    }
    while at + least <= end {
        let mut window = vec![0; SEARCH_BYTES.min((end - at) as usize)];
        file.read_exact_at(&mut window, at)?;
        let last = window.len() - TELLING_BYTES;
        let found = (0..=last).find(|place| lengths(&window[*place..]).is_some());
        match found.map(|place| at + place as u64) {
            Some(found) if found + least <= end => return Ok(Some(found)),
            Some(_) => return Ok(None),
            None => at += last as u64 + 1,
        }
    }
    Ok(None)
}

/// Whether a record may begin at `at`, or the records end there.
fn next_is_sound(file: &File, at: u64, end: u64) -> io::Result<bool> {
    if at > end {
        return Ok(false);
    }
    // The footer is as long as a record's head.
    if end - at <= RECORD_HEAD_BYTES as u64 {
        return Ok(true);
    }
    let mut telling = [0; TELLING_BYTES];
    file.read_exact_at(&mut telling, at)?;
    Ok(lengths(&telling).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [KEY_BYTES as u64, value.len() as u64, 0, 0x1234_5678_9abc_def0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&[key; KEY_BYTES]);
        bytes.extend_from_slice(value);
        bytes
    }

    /// Two files of ten records; whichever byte is damaged, only the record that holds it is lost.
    #[test]
    fn a_damaged_byte_costs_one_record_at_most() {
        let value = |key: u8| vec![key ^ 0x5a; 40 + usize::from(key)];
        let mut whole = vec![7; FILE_HEAD_BYTES as usize];
        for key in 1..=10 {
            whole.extend(record(key, &value(key)));
        }
        let closed = [&whole[..], &[9; 32]].concat();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("000001.blob");
        let found = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let blobs = Blobs::scan(directory.path());
            (1..=10)
                .filter(|key| {
                    let key = BlockHash::from_bytes([*key; 32]);
                    blobs.values(&key).any(|found| found == value(key.as_bytes()[0]))
                })
                .count()
        };
        assert_eq!([found(&whole), found(&closed)], [10, 10]);
        let blobs = Blobs::scan(directory.path());
        for (number, key) in (1..).zip(blobs.keys()) {
            assert_eq!(key.as_bytes(), &[number; KEY_BYTES]);
            assert_eq!(blobs.beginnings(key).next(), Some([number ^ 0x5a; 16]));
        }
        for place in (0..whole.len()).step_by(3) {
            let mut damaged = closed.clone();
            damaged[place] ^= 0x40;
            let left = found(&damaged);
            assert!(left >= 9, "byte {place}: {left} of 10 records are left");
        }
        for length in (0..whole.len()).step_by(7) {
            let left = found(&whole[..length]);
            assert!(left <= 10, "{length}");
        }
    }
}
