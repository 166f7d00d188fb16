//! Writing a snapshot: the coins of a view, taken back to the base by undo records while they are written.

use super::{LoadError, file};
use crate::chain::{ChainHandle, View};
use crate::store::StoreError;
use setara_core::hash::{BlockHash, Hash256};
use setara_core::height::Height;
use setara_core::lattice::element;
use setara_core::snapshot::Manifest;
use setara_core::transaction::{Coin, OutPoint};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::iter::Peekable;
use std::path::{Path, PathBuf};

/// Coins that may differ between base and tip, if there is memory for as many.
pub const CHANGES_MAX: usize = 8_000_000;
/// Bytes of memory of each: the nodes of a tree are half full at worst, and one in six of them has pointers besides.
pub const CHANGE_BYTES: u64 = 2 * size_of::<(OutPoint, Option<Coin>)>() as u64 + 16;
/// Written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dumped {
    /// Coins.
    pub coins: u64,
    /// The block after which they are.
    pub base: Height,
    /// That block.
    pub base_hash: BlockHash,
    /// The commitment to them.
    pub coins_root: Hash256,
}

/// Writes the coins after the active chain's block at `base` to a new file at `path`, complete or not at all.
pub fn dump(view: &View, base: Height, path: &Path) -> Result<Dumped, LoadError> {
    dump_while(view, base, path, CHANGES_MAX, &|| true)
}

/// The same while no other is made, within the memory that `chain` has for it, and for as long as `wanted`.
pub fn dump_in_turn(
    chain: &ChainHandle,
    base: Height,
    path: &Path,
    wanted: &dyn Fn() -> bool,
) -> Result<Dumped, LoadError> {
    let changes_max = chain.dump_turn().ok_or(LoadError::Busy)?;
    dump_while(&chain.view(), base, path, *changes_max, wanted)
}

fn dump_while(
    view: &View,
    base: Height,
    path: &Path,
    changes_max: usize,
    wanted: &dyn Fn() -> bool,
) -> Result<Dumped, LoadError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| LoadError::File { path: path.clone(), reason: error.to_string() }
    };
    let unknown = || LoadError::Base(format!("there is no block after height {base} that commits to the coins"));
    let base_hash = view.hash_at(base)?.ok_or_else(unknown)?;
    let next = base.next().ok_or_else(unknown)?;
    let next = view.hash_at(next)?.ok_or_else(unknown)?;
    let block = view.block(&next)?.ok_or_else(unknown)?;
    let (mut coins, changes) = taken_back(view, base, changes_max, wanted)?;
    let leaves: Vec<_> = std::iter::once(block.coinbase.wtxid())
        .chain(block.transactions.iter().map(setara_core::transaction::Transaction::wtxid))
        .collect();
    let branch = setara_core::merkle::branch(&leaves, 0);
    let manifest = Manifest {
        genesis: view.network().genesis_hash(),
        base,
        base_hash,
        coinbase: block.coinbase.clone(),
        branch,
        coins: std::mem::take(&mut coins),
    };
    manifest.check(view.network(), &block.header)?;

    let incomplete = PathBuf::from(format!("{}.incomplete", path.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&incomplete);
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, file.map_err(failed(&incomplete))?);
    let written = write(&mut file, view, &manifest, changes, &failed(&incomplete), wanted);
    let done = written.and_then(|count| {
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed(&incomplete))?;
        std::fs::rename(&incomplete, path).map_err(failed(path))?;
        if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
            folder.sync_all().map_err(failed(path))?;
        }
        Ok(count)
    });
    if done.is_err() {
        // Of no use to anybody; that it stays is no reason to hide why.
        let _ = std::fs::remove_file(&incomplete);
    }
    Ok(Dumped { coins: done?, base, base_hash, coins_root: manifest.coinbase.coins_root })
}

type Changes = BTreeMap<OutPoint, Option<Coin>>;

/// The lattice after `base`, and every coin that differs between there and the view: `None` of one that was not yet.
fn taken_back(
    view: &View,
    base: Height,
    changes_max: usize,
    wanted: &dyn Fn() -> bool,
) -> Result<(setara_core::lattice::Lattice, Changes), LoadError> {
    let mut lattice = view.lattice()?;
    let mut changes = Changes::new();
    let mut height = view.tip.height();
    while height > base {
        if !wanted() {
            return Err(LoadError::Stopped);
        }
        let hash = view.hash_at(height)?.ok_or_else(|| StoreError::corrupt(format!("height {height} is missing")))?;
        let gone = || LoadError::Base(format!("undo data of block {hash} at height {height} have been deleted"));
        let delta = view.undo(&hash)?.ok_or_else(gone)?;
        for (outpoint, _) in delta.created() {
            changes.insert(*outpoint, None);
        }
        for (outpoint, coin) in delta.spent() {
            changes.insert(*outpoint, Some(*coin));
        }
        if changes.len() > changes_max {
            let why =
                format!("more than {changes_max} coins changed since height {base}, too many for the memory there is");
            return Err(LoadError::Base(why));
        }
        let back = lattice.apply(&delta.lattice_changes().negate());
        back.map_err(|error| StoreError::corrupt(format!("before block {hash}: {error}")))?;
        height = height.previous().ok_or_else(|| StoreError::corrupt("genesis was taken back"))?;
    }
    Ok((lattice, changes))
}

fn write(
    file: &mut impl Write,
    view: &View,
    manifest: &Manifest,
    changes: Changes,
    failed: &dyn Fn(std::io::Error) -> LoadError,
    wanted: &dyn Fn() -> bool,
) -> Result<u64, LoadError> {
    let failed = |error| failed(error);
    file::write_head(file, manifest).map_err(failed)?;
    let (mut count, mut left) = (0, 0);
    for coin in (Merged { stored: view.iterate_coins().peekable(), changed: changes.into_iter().peekable() }) {
        let (outpoint, coin) = coin?;
        file::go_on(&mut left, wanted)?;
        file.write_all(&element(&outpoint, &coin)).map_err(failed)?;
        count += 1;
    }
    if count != manifest.coins.count() {
        return Err(StoreError::corrupt("the stored coins are not those that the lattice counts").into());
    }
    Ok(count)
}

/// Stored coins with changes laid over them, both in key order.
struct Merged<S: Iterator, C: Iterator> {
    stored: Peekable<S>,
    changed: Peekable<C>,
}

impl<S, C> Iterator for Merged<S, C>
where
    S: Iterator<Item = Result<(OutPoint, Coin), StoreError>>,
    C: Iterator<Item = (OutPoint, Option<Coin>)>,
{
    type Item = Result<(OutPoint, Coin), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((changed, _)) = self.changed.peek() else { return self.stored.next() };
            match self.stored.peek() {
                Some(Ok((stored, _))) if stored < changed => return self.stored.next(),
                Some(Ok((stored, _))) if stored == changed => drop(self.stored.next()),
                Some(Err(_)) => return self.stored.next(),
                _ => {}
            }
            if let Some((outpoint, Some(coin))) = self.changed.next() {
                return Some(Ok((outpoint, coin)));
            }
        }
    }
}
