//! `setara-node rebuild`: a new database from what is still good of a damaged one.
//!
//! ```text
//! db ──read what can be read──► headers, bodies ──every rule──► db.rebuild ──rename──► db
//!     (store/salvage.rs)                          (chain)                    (swap.rs)
//! ```
//!
//! Headers and bodies are all that is taken over; coins, undo records, heights and indexes follow from them, and are made
//! as if the blocks came from a peer: nothing of the old database is believed. Bodies that are lost are fetched from peers
//! when the node runs next. The old database is not touched before the new one is whole and on stable storage; whatever
//! ends this in the middle, the old one is as it was and it can be run again.

use crate::chain::{Accepted, ChainFault, ChainHandle, ChainOptions, KnownSignatures, SubmitError, Verifier};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::datadir::{DataDir, DataDirError, START_BYTES_MIN, check_space};
use crate::index::Indexes;
use crate::store::{FoundHeader, RocksOptions, RocksStore, Salvage, SpaceCheck, Store, StoreError, schema};
use crate::swap::Places;
use crate::telemetry;
use setara_core::block::Header;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// Headers handed over at a time.
const HEADERS_AT_ONCE: usize = 2_000;
/// Bodies between two lines of progress.
const PROGRESS_BLOCKS: usize = 10_000;
/// Ranges of heights that a line names.
const RANGES_MAX: usize = 8;
/// Refused blocks that are named.
const REFUSED_NAMED_MAX: usize = 10;
/// Between two looks at how far the indexes are.
const POLL: Duration = Duration::from_millis(50);

/// Why there is no new database. The old one is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The folder cannot be used.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// The system refuses.
    #[error("{what}: {error}")]
    System {
        /// What was done.
        what: String,
        /// The error as reported.
        error: io::Error,
    },
    /// The new database failed, or the old one is not this network's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The new chain failed.
    #[error(transparent)]
    Chain(#[from] ChainFault),
    /// Nothing of this network was found.
    #[error(
        "{path}: {headers} headers were found, and none of them is of the network with genesis {genesis}. Choose another \
         --network, --genesis or --data-dir"
    )]
    Foreign {
        /// The database.
        path: String,
        /// How many headers were found.
        headers: usize,
        /// The configured network's.
        genesis: BlockHash,
    },
    /// The chain stopped while blocks were being checked.
    #[error("stopped while checking blocks: {0}")]
    Stopped(SubmitError),
    /// An index could not be built.
    #[error("{name} cannot be built: {reason}")]
    Index {
        /// Which.
        name: &'static str,
        /// Why.
        reason: String,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> RebuildError {
    let what = what.into();
    move |error| RebuildError::System { what, error }
}

/// What was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    /// Headers, genesis not counted.
    headers: usize,
    /// Headers whose way to genesis is lost.
    loose: usize,
    /// Bodies kept.
    bodies: usize,
    /// Heights of bodies that were there and are lost.
    lost: BTreeSet<u32>,
    /// Blocks that break a rule, with the reason.
    refused: Vec<String>,
    tip: (Height, BlockHash),
    best: Height,
}

/// Makes the new database, puts it in place of the old one (which may be kept), and says to `out` what became of the blocks.
pub fn run(config: &Config, keep: bool, out: &mut dyn Write) -> Result<(), RebuildError> {
    let directory = DataDir::open(&config.data_dir, &config.network.name)?;
    let clock = Arc::new(SystemClock::new());
    telemetry::start(config.log.format, &config.log.filter, None, clock).map_err(system("starting the log"))?;
    let places = Places::new(directory.path());
    let beside = || system(directory.path().display().to_string());
    places.finish().map_err(beside())?;
    check_space(directory.path(), START_BYTES_MIN + folder_bytes(&places.database))?;
    let report = build(config, &directory, &places)?;
    places.put_in_place(keep).map_err(beside())?;
    // Nothing depends on whether anybody reads this.
    let _ = tell(&report, keep.then_some(places.kept.as_path()), out);
    Ok(())
}

fn folder_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// The new database, closed, in the place where one is made.
fn build(config: &Config, directory: &DataDir, places: &Places) -> Result<Report, RebuildError> {
    let genesis = config.network.genesis_hash();
    let salvage = Salvage::new(&places.database, &places.scratch);
    refuse_foreign(&salvage, genesis, &places.database)?;
    tracing::info!("reading headers");
    let headers = salvage.headers();
    let ordered = in_order(genesis, &headers);
    if ordered.is_empty() && headers.keys().any(|hash| *hash != genesis) && !headers.contains_key(&genesis) {
        let path = places.database.display().to_string();
        return Err(RebuildError::Foreign { path, headers: headers.len(), genesis });
    }
    let half = usize::try_from(config.db_cache_bytes / 2).unwrap_or(usize::MAX);
    let store: Arc<dyn Store> =
        Arc::new(RocksStore::open(&places.making, &RocksOptions { memory_bytes: half, ..RocksOptions::default() })?);
    let options = ChainOptions {
        coin_cache_bytes: half,
        // Only work counts: what the node had followed it is to follow again.
        max_reorg: None,
        space: Some(SpaceCheck::new(directory.path())),
        directory: places.making.display().to_string(),
        ..ChainOptions::default()
    };
    let verifier = Verifier::new(config.network.clone(), Arc::new(KnownSignatures::default()), None);
    let chain = ChainHandle::start(store.clone(), verifier, options, Arc::new(SystemClock::new()))?;
    let mut report = Report {
        headers: ordered.len(),
        loose: headers.len() - ordered.len() - usize::from(headers.contains_key(&genesis)),
        bodies: 0,
        lost: BTreeSet::new(),
        refused: Vec::new(),
        tip: (Height::GENESIS, genesis),
        best: Height::GENESIS,
    };
    take_headers(&chain, &ordered)?;
    take_bodies(&chain, &salvage, &ordered, &mut report)?;
    for (_, hash, _) in ordered.iter().filter(|(_, _, found)| found.invalidated) {
        chain.invalidate(*hash).map_err(RebuildError::Stopped)?;
    }
    if config.index {
        build_indexes(&store, &chain)?;
    }
    let tip = chain.view().tip;
    report.tip = (tip.height(), tip.hash());
    report.best = chain.headers().best().point().height;
    chain.stop();
    if let Some(fault) = chain.fault() {
        return Err(ChainFault::Damaged(fault).into());
    }
    store.settle()?;
    Ok(report)
}

/// Another network's database, or one of a newer version, is left alone.
fn refuse_foreign(salvage: &Salvage, genesis: BlockHash, database: &Path) -> Result<(), StoreError> {
    let path = database.display().to_string();
    let (format, found) = salvage.identity();
    if let Some(found) = format.filter(|format| *format > schema::FORMAT) {
        return Err(StoreError::NewerFormat { path, found, supported: schema::FORMAT });
    }
    match found.filter(|found| *found != genesis) {
        Some(found) => Err(StoreError::OtherNetwork { path, found: found.to_string(), expected: genesis.to_string() }),
        None => Ok(()),
    }
}

type Ordered = Vec<(u32, BlockHash, FoundHeader)>;

/// All headers above genesis whose way down to it is there: by height, then in the order in which bodies came.
fn in_order(genesis: BlockHash, headers: &BTreeMap<BlockHash, FoundHeader>) -> Ordered {
    let mut children: BTreeMap<BlockHash, Vec<BlockHash>> = BTreeMap::new();
    for (hash, found) in headers.iter().filter(|(hash, _)| **hash != genesis) {
        children.entry(found.header.previous).or_default().push(*hash);
    }
    let mut ordered = Vec::with_capacity(headers.len());
    let (mut level, mut height) = (vec![genesis], 0);
    while !level.is_empty() {
        height += 1;
        level = level.iter().flat_map(|hash| children.remove(hash).unwrap_or_default()).collect();
        ordered.extend(level.iter().map(|hash| (height, *hash, headers[hash])));
    }
    ordered.sort_by_key(|(height, hash, found)| (*height, found.sequence, *hash));
    ordered
}

fn take_headers(chain: &ChainHandle, ordered: &Ordered) -> Result<(), RebuildError> {
    let mut from = 0;
    while from < ordered.len() {
        let part = &ordered[from..ordered.len().min(from + HEADERS_AT_ONCE)];
        let headers: Vec<Header> = part.iter().map(|(_, _, found)| found.header).collect();
        match chain.submit_headers(headers) {
            Ok(_) => from += part.len(),
            Err(error @ (SubmitError::Fault(_) | SubmitError::Stopping)) => return Err(RebuildError::Stopped(error)),
            // The ones before it are in; those above it will be refused in their turn.
            Err(error) => {
                let taken = part.iter().take_while(|(_, hash, _)| chain.headers().get(hash).is_some()).count();
                if let Some((height, hash, _)) = part.get(taken) {
                    tracing::warn!(height, %hash, %error, "a header is left out");
                }
                from += taken + 1;
            }
        }
    }
    Ok(())
}

fn take_bodies(
    chain: &ChainHandle,
    salvage: &Salvage,
    ordered: &Ordered,
    report: &mut Report,
) -> Result<(), RebuildError> {
    let (sender, receiver) = mpsc::channel::<(u32, BlockHash, Result<Accepted, SubmitError>)>();
    let mut judged = |(height, hash, outcome): (u32, BlockHash, Result<Accepted, SubmitError>)| {
        match outcome {
            Ok(_) => report.bodies += 1,
            Err(error @ (SubmitError::Fault(_) | SubmitError::Stopping)) => return Err(RebuildError::Stopped(error)),
            Err(error) => report.refused.push(format!("block {hash} at height {height}: {error}")),
        }
        Ok(())
    };
    for (number, (height, hash, found)) in ordered.iter().enumerate() {
        if number % PROGRESS_BLOCKS == 0 && number > 0 {
            tracing::info!(blocks = number, of = ordered.len(), height, "checking blocks");
        }
        match salvage.body(hash) {
            Some(body) => {
                let (sender, height, hash) = (sender.clone(), *height, *hash);
                let done = move |outcome| drop(sender.send((height, hash, outcome)));
                chain.import(body.into(), true, Box::new(done));
            }
            None if found.had_body => drop(report.lost.insert(*height)),
            None => {}
        }
        receiver.try_iter().try_for_each(&mut judged)?;
    }
    drop(sender);
    receiver.iter().try_for_each(judged)?;
    chain.flush().map_err(RebuildError::Stopped)
}

fn build_indexes(store: &Arc<dyn Store>, chain: &ChainHandle) -> Result<(), RebuildError> {
    tracing::info!("building the indexes");
    let indexes = Indexes::start(store.clone(), chain.clone()).map_err(system("starting the indexes"))?;
    loop {
        let statuses = indexes.statuses();
        if let Some((name, reason)) = statuses.iter().find_map(|status| Some((status.name, status.fault.clone()?))) {
            return Err(RebuildError::Index { name, reason });
        }
        if statuses.iter().all(|status| status.synced) {
            indexes.stop();
            return Ok(());
        }
        // The chain does not move any more, so this is a pause.
        chain.wait_past(u64::MAX - 1, POLL);
    }
}

fn tell(report: &Report, kept: Option<&Path>, out: &mut dyn Write) -> io::Result<()> {
    let Report { headers, loose, bodies, lost, refused, tip, best } = report;
    writeln!(out, "The database is rebuilt: {headers} headers and {bodies} blocks are good.")?;
    writeln!(out, "The chain ends at height {} (block {}).", tip.0, tip.1)?;
    if !lost.is_empty() {
        let ranges = ranges(lost);
        writeln!(out, "{} blocks are lost, at height {ranges}: the node fetches them from peers.", lost.len())?;
    }
    if *loose > 0 {
        writeln!(out, "{loose} headers lead nowhere, as those below them are lost: they come from peers as well.")?;
    }
    for line in refused.iter().take(REFUSED_NAMED_MAX) {
        writeln!(out, "Not taken over: {line}")?;
    }
    if refused.len() > REFUSED_NAMED_MAX {
        writeln!(out, "... and {} more", refused.len() - REFUSED_NAMED_MAX)?;
    }
    if *best > tip.0 {
        writeln!(out, "Headers reach up to height {best}; start the node to load what is missing.")?;
    }
    match kept {
        Some(path) => writeln!(out, "The old database is kept in {}.", path.display()),
        None => Ok(()),
    }
}

/// `3-5, 9`, cut off after a few.
fn ranges(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let text = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let mut texts: Vec<String> = ranges.iter().take(RANGES_MAX).map(text).collect();
    if ranges.len() > RANGES_MAX {
        texts.push("...".to_owned());
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_told_in_ranges() {
        let told = |numbers: &[u32]| ranges(&numbers.iter().copied().collect());
        assert_eq!(told(&[3, 4, 5, 9]), "3-5, 9");
        assert_eq!(told(&[u32::MAX]), u32::MAX.to_string());
        let many: Vec<u32> = (0..40).step_by(2).collect();
        assert!(told(&many).ends_with("12, 14, ..."), "{}", told(&many));
    }
}
