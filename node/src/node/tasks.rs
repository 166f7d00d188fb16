//! Threads of a running node that belong to no other module: whom they serve, and until when. And what it holds in memory.

use super::{Clocks, Stop};
use crate::chain::{ChainFault, ChainHandle, ChainOptions, HEADER_MEMORY_BYTES, KnownSignatures, Verifier};
use crate::clock::Clock;
use crate::config::Config;
use crate::datadir::DataDir;
use crate::memory::{self, Held, Part, Shares, count};
use crate::mempool::Mempool;
use crate::p2p::brain::sync::is_syncing;
use crate::snapshot::history::History;
use crate::snapshot::serve::{Keeper, Shelf};
use crate::store::{RocksOptions, RocksStore, SpaceCheck, Store};
use crate::witness::WitnessFile;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Where the history behind a snapshot is verified, beside the database.
const HISTORY_FOLDER: &str = "history";

/// The thread that reads the mempool's file back and then keeps the mempool at the tip.
pub(super) fn keep_mempool(
    mempool: Arc<Mempool>,
    file: PathBuf,
    loaded: Arc<AtomicBool>,
    stop: Stop,
) -> io::Result<JoinHandle<()>> {
    let stopping = move || stop.requested.is_cancelled();
    std::thread::Builder::new().name("mempool".to_owned()).spawn(move || {
        match mempool.load(&file, &stopping) {
            Ok(found) => {
                if found.accepted + found.refused + found.expired > 0 {
                    let (accepted, refused, expired) = (found.accepted, found.refused, found.expired);
                    tracing::info!(accepted, refused, expired, "read the mempool back");
                }
                loaded.store(found.left == 0, Ordering::SeqCst);
            }
            Err(error) => {
                tracing::warn!(%error, "the mempool starts empty");
                loaded.store(true, Ordering::SeqCst);
            }
        }
        mempool.follow(&stopping);
    })
}

/// The thread that writes the tip down.
pub(super) fn keep_witness(
    file: WitnessFile,
    chain: ChainHandle,
    clock: Arc<dyn Clock>,
    stop: Stop,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("witness".to_owned())
        .spawn(move || file.follow(&chain, &*clock, &|| stop.requested.is_cancelled()))
}

/// The thread that keeps a snapshot for others, unless the operator wants none.
pub(super) fn keep_snapshot(
    config: &Config,
    directory: &DataDir,
    chain: &ChainHandle,
    shelf: Shelf,
    stop: &Stop,
) -> io::Result<Option<JoinHandle<()>>> {
    if !config.snapshot.serve {
        Keeper::remove(directory.path());
        return Ok(None);
    }
    let minimum_work = config.peers.minimum_work;
    let is_behind = Box::new(move |chain: &ChainHandle| chain.progress().loading || is_syncing(chain, minimum_work));
    let keeper = Keeper::new(chain.clone(), directory.path(), shelf, is_behind);
    let stop = stop.requested.clone();
    keeper.spawn(move || stop.is_cancelled()).map(Some)
}

/// What the running node holds.
pub(super) fn held(
    shares: Shares,
    store: RocksStore,
    chain: ChainHandle,
    mempool: Arc<Mempool>,
    known: Arc<KnownSignatures>,
) -> Box<dyn Fn() -> Held + Send + Sync> {
    Box::new(move || {
        let history = chain.history();
        let headers = chain.headers().count() + history.as_ref().map_or(0, |history| history.headers().count());
        let headers = headers as u64 * HEADER_MEMORY_BYTES;
        let used = vec![
            (Part::Headers, headers),
            (Part::Coins, chain.coin_bytes()),
            (Part::Database, store.memory_bytes()),
            (Part::Mempool, mempool.info().usage),
            (Part::Signatures, known.bytes()),
        ];
        Held { resident: memory::resident_bytes(), shares, used }
    })
}

/// What verifies the history behind a snapshot, in a folder of its own.
pub(super) fn history(
    config: &Config,
    directory: &DataDir,
    clock: &Clocks,
    chain: &ChainHandle,
    stop: &tokio_util::sync::CancellationToken,
) -> History {
    let folder = directory.path().join(HISTORY_FOLDER);
    let shares = config.shares.history();
    let (table, database, checked_bytes) = (count(shares.coin_table), count(shares.database), count(shares.checked));
    let kept_bytes = Some(database as u64);
    let (network, clock, stop) = (config.network.clone(), clock.used.clone(), stop.clone());
    let (space, name) = (SpaceCheck::new(directory.path()), folder.display().to_string());
    let opened = folder.clone();
    let open = move || -> Result<(Arc<dyn Store>, ChainHandle), ChainFault> {
        let options = RocksOptions { memory_bytes: database, kept_bytes, ..RocksOptions::default() };
        let store: Arc<dyn Store> = Arc::new(RocksStore::open(&opened, &options)?);
        let options = ChainOptions {
            coin_cache_bytes: table,
            checked_bytes,
            // Its headers are those of the first chain, which holds back what is early.
            early_bytes: 0,
            space: Some(space.clone()),
            directory: name.clone(),
            stop: stop.clone(),
            ..ChainOptions::default()
        };
        let verifier = Verifier::new(network.clone(), Arc::new(KnownSignatures::with_capacity(0)), None);
        let history = ChainHandle::start(store.clone(), verifier, options, clock.clone())?;
        Ok((store, history))
    };
    let remove = move || {
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(%error, folder = %folder.display(), "the history's folder is of no use any more, but stays");
        }
    };
    History::new(chain.clone(), Box::new(open), Box::new(remove))
}
