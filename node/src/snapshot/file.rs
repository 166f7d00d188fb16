//! The file: `SETARACS`, version, length of the manifest, manifest, coins.

use super::{Broken, Elements, LoadError, Offer, walk};
use crate::chain::Headers;
use setara_core::lattice::ELEMENT_BYTES;
use setara_core::network::Network;
use setara_core::snapshot::{Manifest, SnapshotError, check_depth};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the file begins with.
const MAGIC: [u8; 8] = *b"SETARACS";
/// Version of the layout.
const VERSION: u16 = 1;
/// Longest manifest: 256 preimages of 2,064 bytes, a coinbase of at most 100 kB, a branch.
pub const MANIFEST_BYTES_MAX: u32 = 700_000;
/// Read and written at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Coins between two questions whether to go on: some milliseconds.
const ASK_COINS: u32 = 4_096;

/// An open snapshot whose manifest has been read, and nothing checked.
pub struct SnapshotFile {
    path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    at: u64,
}

impl SnapshotFile {
    /// Reads the manifest.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let name = || path.display().to_string();
        let failed = |error: std::io::Error| LoadError::File { path: name(), reason: error.to_string() };
        let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(failed)?);
        let mut head = [0; 14];
        read(&mut file, &mut head).map_err(failed)?.then_some(()).ok_or_else(|| LoadError::NotASnapshot(name()))?;
        let (magic, rest) = head.split_at(8);
        let (version, length) = rest.split_at(2);
        let version = u16::from_le_bytes(version.try_into().expect("two bytes were split off"));
        let length = u32::from_le_bytes(length.try_into().expect("four bytes are left"));
        if magic != MAGIC || length > MANIFEST_BYTES_MAX {
            return Err(LoadError::NotASnapshot(name()));
        }
        if version != VERSION {
            return Err(LoadError::NewerFormat { path: name(), found: version, supported: VERSION });
        }
        let mut bytes = Vec::new();
        file.by_ref().take(length.into()).read_to_end(&mut bytes).map_err(failed)?;
        let manifest = Manifest::decode(&bytes)?;
        Ok(Self { path: path.to_owned(), manifest, at: head.len() as u64 + u64::from(length) })
    }

    /// Holds all of it against the network and the best chain of headers, before anything here changes.
    pub fn check(&self, network: &Network, headers: &Headers) -> Result<(), LoadError> {
        self.check_while(network, headers, &|| true)
    }

    /// The same, for as long as `wanted`.
    pub fn check_while(
        &self,
        network: &Network,
        headers: &Headers,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), LoadError> {
        check_manifest(&self.manifest, network, headers)?;
        let mut left = 0;
        walk(&self.manifest, &mut self.elements()?, &mut |_, _| go_on(&mut left, wanted))
    }

    /// What peers may be given of it. All of it has been checked.
    pub fn offer(&self) -> Result<Offer, LoadError> {
        let failed = |error: std::io::Error| LoadError::File {
            path: self.path.display().to_string(),
            reason: error.to_string(),
        };
        let (file, at) = (File::open(&self.path).map_err(failed)?, self.at);
        let read = move |from: u64, length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at + from)?;
            Ok(bytes)
        };
        Ok(Offer::new(&self.manifest, Box::new(read)))
    }

    /// The coins, from the first.
    pub fn elements(&self) -> Result<Elements, LoadError> {
        let failed = |error: std::io::Error| LoadError::File {
            path: self.path.display().to_string(),
            reason: error.to_string(),
        };
        let mut file = File::open(&self.path).map_err(failed)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(self.at)).map_err(failed)?;
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Box::new(std::iter::from_fn(move || next_element(&mut file))))
    }
}

/// The next coin of a reader.
pub(super) fn next_element(file: &mut impl Read) -> Option<Result<[u8; ELEMENT_BYTES], Broken>> {
    let mut element = [0; ELEMENT_BYTES];
    let mut filled = 0;
    while filled < ELEMENT_BYTES {
        match file.read(&mut element[filled..]) {
            Ok(0) if filled == 0 => return None,
            Ok(0) => return Some(Err(Broken::Partial)),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Some(Err(Broken::Io(error.to_string()))),
        }
    }
    Some(Ok(element))
}

/// Holds a manifest against the network and the best chain of headers. What passes says which coins there are after its
/// base, as far as work can say it.
pub fn check_manifest(manifest: &Manifest, network: &Network, headers: &Headers) -> Result<(), SnapshotError> {
    // First of all: another network's base is not looked for.
    if manifest.genesis != network.genesis_hash() {
        return Err(SnapshotError::WrongNetwork { found: manifest.genesis, expected: network.genesis_hash() });
    }
    let best = headers.best().point();
    let at = |height| headers.ancestor(&best.hash, height);
    let off = SnapshotError::OffChain { hash: manifest.base_hash, height: manifest.base };
    if at(manifest.base).is_none_or(|base| base.point().hash != manifest.base_hash) {
        return Err(off);
    }
    check_depth(manifest.base, best.height)?;
    let next = manifest.base.next().and_then(at).ok_or(off)?;
    manifest.check(network, &next.header)
}

/// Whether to go on, asked once in some thousand coins.
pub(super) fn go_on(left: &mut u32, wanted: &dyn Fn() -> bool) -> Result<(), LoadError> {
    if *left == 0 {
        *left = ASK_COINS;
        return if wanted() { Ok(()) } else { Err(LoadError::Stopped) };
    }
    *left -= 1;
    Ok(())
}

/// Fills `bytes`; `false` if the file ends before.
fn read(file: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// What stands before the coins.
pub(super) fn write_head(file: &mut impl Write, manifest: &Manifest) -> std::io::Result<()> {
    let bytes = setara_core::codec::encode(manifest);
    file.write_all(&MAGIC)?;
    file.write_all(&VERSION.to_le_bytes())?;
    file.write_all(&u32::try_from(bytes.len()).expect("a manifest is short").to_le_bytes())?;
    file.write_all(&bytes)
}
