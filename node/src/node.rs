//! The running node: what is started, in which order, and how it stops.
//!
//! ```text
//!  start                                              task                          stop (reverse)
//!  1 directory lock, log, signals                     -                             9
//!  2 RPC server: binds, cookie, answers -28           runtime (tokio)               4 no new calls
//!  3 endpoints.json                                   -                             3 removed
//!  4 database, chain: checks what is stored           "chain", the only writer      8 flush
//!  5 mempool: loads its file, follows the chain       "mempool"                     7 saved
//!  6 indexes; the tip's witness; pruning;             "txindex", "addressindex",    6
//!    a snapshot's history; one for others             "witness", "prune", "history", "snapshot"
//!  7 templates, miner                                 "miner", "miner-N"            5 first of the threads
//!  8 peers: binds, dials                              "p2p", runtime                5 second
//!  9 RPC answers                                      runtime                       2
//! 10 wait: signal, `stop`, or a fault of the chain    main                          1
//! ```
//!
//! Whatever has been acknowledged is on disk before stopping begins; stopping only saves what a restart would have to
//! repeat. A second signal leaves that out.

use crate::chain::{ChainFault, ChainHandle, ChainOptions, KnownSignatures, Verifier};
use crate::clock::{Clock, OffsetClock, SystemClock};
use crate::config::{Config, PeerName};
use crate::datadir::{DataDir, DataDirError, Endpoints};
use crate::descriptors::{self, Descriptors, TooFew};
use crate::index::{self, Indexes};
use crate::memory::{self, Held, Part, TooLittle, count};
use crate::mempool::{Mempool, Options};
use crate::mining::{Miner, MinerOptions, Templates};
use crate::p2p::brain::BrainOptions;
use crate::p2p::shell::gate::HANDSHAKES_MAX;
use crate::p2p::shell::{NetworkError, NetworkOptions, PeerNetwork};
use crate::prune::Pruner;
use crate::rpc::{Backup, LogControl, RpcContext, RpcServer, StartError};
use crate::signals::Stop;
use crate::snapshot::serve::Shelf;
use crate::store::{RocksOptions, RocksStore, SpaceCheck, Store, StoreError, schema};
use crate::swap::Places;
use crate::witness::{self, Witness, WitnessFile};
use crate::{backup, p2p, signals, telemetry};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;

mod tasks;

use tasks::{held, history, keep_mempool, keep_snapshot, keep_witness};

/// Time for tasks of the runtime that are left when everything else has stopped.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// Why a node could not run, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The operating system refuses something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The peer-to-peer network cannot start.
    #[error(transparent)]
    Peers(#[from] NetworkError),
    /// The RPC server cannot start.
    #[error(transparent)]
    Rpc(#[from] StartError),
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no database where there was one.
    #[error(
        "{} is empty, but this node was at height {height} (block {hash}): the database was lost. `setara-node restore` \
         brings back a backup; `setara-node rebuild`, or to remove {}, begins anew",
        database.display(), witness.display()
    )]
    DatabaseLost {
        /// Of the tip that was.
        height: Height,
        /// Of the tip that was.
        hash: BlockHash,
        /// The database's folder.
        database: PathBuf,
        /// The file that tells.
        witness: PathBuf,
    },
    /// The budget of memory is too small for this chain.
    #[error("--max-memory: {0}")]
    Memory(#[from] TooLittle),
    /// Too few files may be open.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// Blocks were deleted, and the options do not say that this is wanted.
    #[error(
        "{} is pruned: blocks below height {from} were deleted. Start with --prune (or --max-disk) as before; or, to keep \
         every block from now on, move the folder away and sync anew", directory.display()
    )]
    Pruned {
        /// The data directory.
        directory: PathBuf,
        /// Lowest height from which on every body is here.
        from: Height,
    },
    /// An index needs blocks that were deleted.
    #[error(
        "{index} has read the chain up to height {reached} only, and blocks below height {from} were deleted. Start with \
         --no-index; or, to have the indexes, move {} away and sync anew", directory.display()
    )]
    IndexBelowPruned {
        /// The data directory.
        directory: PathBuf,
        /// Which index.
        index: &'static str,
        /// Where it is.
        reached: Height,
        /// Lowest height from which on every body is here.
        from: Height,
    },
    /// The stored chain cannot be used.
    #[error(transparent)]
    Chain(#[from] ChainFault),
    /// The chain stopped while running.
    #[error("stopped by a fault: {0}")]
    Fault(String),
}

fn system(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |error| NodeError::System { what, error }
}

/// Runs a node until a signal, an RPC call or a fault stops it.
pub fn run(config: Config) -> Result<(), NodeError> {
    let directory = DataDir::open(&config.data_dir, &config.network.name)?;
    // Of a rebuild or restore that a crash ended.
    Places::new(directory.path()).finish().map_err(system("putting a rebuilt database in its place"))?;
    directory.check_space_to_start()?;
    let clock = Clocks::new(&config);
    let log = config.log.file.then(|| directory.log());
    let logging = telemetry::start(config.log.format, &config.log.filter, log.as_deref(), clock.system.clone())
        .map_err(system("starting the log"))?;
    let log_path = log.map(|path| path.display().to_string()).unwrap_or_default();
    let logging = LogControl::new(Some(logging), log_path);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(system("starting threads"))?;
    let stop = signals::listen(runtime.handle()).map_err(system("listening for signals"))?;
    // How long the chain was: its headers take from what there is.
    let headers = WitnessFile::new(directory.witness()).read().map_or(0, |witness| witness.height.get().into());
    let config = config.with_headers(headers)?;
    let descriptors = descriptors::prepare(&config)?;
    let config = with_limits(config, &descriptors);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        network = config.network.name,
        genesis = %config.network.genesis_hash(),
        data = %directory.path().display(),
        "starting"
    );
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }

    let server = runtime.block_on(RpcServer::start(
        &config.rpc,
        &directory.cookie(),
        &config.network,
        clock.used.clone(),
        logging,
        stop.requested.clone(),
    ))?;
    let endpoints = Endpoints { pid: std::process::id(), rpc: server.local_addr(), p2p: None };
    let result = directory.write_endpoints(&endpoints).map_err(NodeError::from).and_then(|()| {
        tracing::info!(address = %endpoints.rpc, "RPC listens");
        serve(&config, &descriptors, &directory, &clock, &runtime, &server, endpoints, &stop)
    });
    // Parts that started are stopped by now, whether or not all of them did.
    runtime.block_on(server.stop());
    directory.remove_endpoints();
    runtime.shutdown_timeout(RUNTIME_GRACE);
    match &result {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::error!(%error, "stopped"),
    }
    result
}

/// No more connections than there are descriptors for.
fn with_limits(mut config: Config, descriptors: &Descriptors) -> Config {
    config.rpc.max_connections = descriptors.rpc;
    config.peers.inbound_max = descriptors.inbound;
    config
}

/// The clock that everything uses, and the parts of it that someone needs by itself.
struct Clocks {
    system: Arc<dyn Clock>,
    /// Where blocks are made on demand, time can be too.
    mock: Option<Arc<OffsetClock>>,
    used: Arc<dyn Clock>,
}

impl Clocks {
    fn new(config: &Config) -> Self {
        let system: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let mock = config.network.is_fixed().then(|| Arc::new(OffsetClock::new(system.clone())));
        let used = mock.clone().map_or_else(|| system.clone(), |mock| mock as Arc<dyn Clock>);
        Self { system, mock, used }
    }
}

/// From opening the database to closing it.
#[expect(clippy::too_many_arguments, reason = "called once, by whoever made all of these")]
fn serve(
    config: &Config,
    descriptors: &Descriptors,
    directory: &DataDir,
    clock: &Clocks,
    runtime: &Runtime,
    server: &RpcServer,
    endpoints: Endpoints,
    stop: &Stop,
) -> Result<(), NodeError> {
    server.loading("Opening the database…");
    let shares = config.shares;
    let options = RocksOptions {
        memory_bytes: count(shares.of(Part::Database)),
        open_files: descriptors.database,
        kept_bytes: config.prune.target(),
    };
    let rocks = RocksStore::open(&directory.database(), &options)?;
    let store: Arc<dyn Store> = Arc::new(rocks.clone());
    let file = WitnessFile::new(directory.witness());
    let witness = file.read();
    refuse_lost(&*store, config, directory, witness.as_ref())?;
    refuse_pruned(&*store, config, directory)?;

    server.loading("Loading the chain…");
    let known = Arc::new(KnownSignatures::with_capacity(shares.signatures()));
    let options = ChainOptions {
        coin_cache_bytes: count(shares.coin_table()),
        checked_bytes: count(shares.checked_bytes()),
        early_bytes: shares.of(Part::Early),
        dump_changes: shares.dump_changes(),
        max_reorg: config.max_reorg,
        space: Some(SpaceCheck::new(directory.path())),
        directory: directory.path().display().to_string(),
        stop: stop.requested.clone(),
        ..ChainOptions::default()
    };
    let verifier = Verifier::new(config.network.clone(), known.clone(), None);
    let chain = ChainHandle::start(store.clone(), verifier, options, clock.used.clone())?;
    let tip = chain.view().info();
    tracing::info!(height = tip.height.get(), hash = %tip.hash, "the chain is loaded");
    let notices: Vec<String> = witness.and_then(|witness| witness::loss(&witness, &chain.view())).into_iter().collect();
    for notice in &notices {
        tracing::error!("{notice}");
    }

    let parts =
        Parts::start(config, descriptors.handshakes, directory, clock, &store, &chain, known.clone(), runtime, stop);
    let result = parts.and_then(|parts| {
        let listening = parts.peers.listening();
        if let Err(error) = directory.write_endpoints(&Endpoints { p2p: listening, ..endpoints }) {
            parts.stop(directory, stop);
            return Err(error.into());
        }
        match listening {
            Some(address) => tracing::info!(%address, "listening for peers"),
            None => tracing::info!("not listening for peers"),
        }
        let mut context = parts.context(config, directory, clock, &chain, notices, stop);
        context.memory = held(shares, rocks.clone(), chain.clone(), parts.mempool.clone(), known);
        context.backup = backup(config, rocks);
        server.ready(context);
        let fault = runtime.block_on(wait(&chain, stop));
        tracing::info!("stopping");
        parts.stop(directory, stop);
        fault.map_or(Ok(()), |fault| Err(NodeError::Fault(fault)))
    });
    chain.stop();
    if result.is_ok() && !stop.hurried.is_cancelled() {
        // The log may be lost from here on. If this fails it is still there, and the next start reads it.
        if let Err(error) = store.settle() {
            tracing::warn!(%error, "the database's log is not emptied");
        }
    }
    file.write(&chain.view());
    result
}

/// Makes a backup of the running node.
fn backup(config: &Config, store: RocksStore) -> Backup {
    let config = config.clone();
    Box::new(move |folder| {
        let mark = backup::create(&config, &store, folder).map_err(|error| error.to_string())?;
        tracing::info!(height = mark.height.get(), folder = %folder.display(), "made a backup");
        Ok(Witness { height: mark.height, hash: mark.hash })
    })
}

/// An empty database where there was a chain is not begun anew in silence.
fn refuse_lost(
    store: &dyn Store,
    config: &Config,
    directory: &DataDir,
    witness: Option<&Witness>,
) -> Result<(), NodeError> {
    let name = directory.path().display().to_string();
    let Some(witness) = witness.filter(|witness| witness.height > Height::GENESIS) else { return Ok(()) };
    if schema::check_identity(store, &config.network.genesis_hash(), &name)? {
        return Ok(());
    }
    let (height, hash) = (witness.height, witness.hash);
    Err(NodeError::DatabaseLost { height, hash, database: directory.database(), witness: directory.witness() })
}

/// A directory whose old blocks were deleted is used only by who wants that; an index does not begin amid a chain.
fn refuse_pruned(store: &dyn Store, config: &Config, directory: &DataDir) -> Result<(), NodeError> {
    let Some(from) = schema::pruned(store)?.map(|pruned| pruned.bodies_from) else { return Ok(()) };
    let path = directory.path().to_owned();
    if !config.prune.is_on() {
        return Err(NodeError::Pruned { directory: path, from });
    }
    let behind = index::progress(store).into_iter().find(|(_, reached)| reached.get().saturating_add(1) < from.get());
    match behind.filter(|_| config.index) {
        Some((index, reached)) => Err(NodeError::IndexBelowPruned { directory: path, index, reached, from }),
        None => Ok(()),
    }
}

/// Until the node is to stop; the fault, if that is why.
async fn wait(chain: &ChainHandle, stop: &Stop) -> Option<String> {
    let mut fault = chain.fault_watch();
    tokio::select! {
        () = stop.requested.cancelled() => None,
        found = fault.wait_for(Option::is_some) => match found {
            Ok(found) => found.clone(),
            Err(_) => Some("the chain's thread is gone".to_owned()),
        },
    }
}

/// What runs beside the chain.
struct Parts {
    mempool: Arc<Mempool>,
    mempool_loaded: Arc<AtomicBool>,
    mempool_thread: JoinHandle<()>,
    witness_thread: JoinHandle<()>,
    pruner: Option<Arc<Pruner>>,
    prune_thread: Option<JoinHandle<()>>,
    history_thread: JoinHandle<()>,
    snapshot_thread: Option<JoinHandle<()>>,
    indexes: Option<Arc<Indexes>>,
    templates: Arc<Templates>,
    miner: Option<Arc<Miner>>,
    peers: Arc<PeerNetwork>,
}

impl Parts {
    #[expect(clippy::too_many_arguments, reason = "the one place where everything meets")]
    fn start(
        config: &Config,
        handshakes_max: usize,
        directory: &DataDir,
        clock: &Clocks,
        store: &Arc<dyn Store>,
        chain: &ChainHandle,
        known: Arc<KnownSignatures>,
        runtime: &Runtime,
        stop: &Stop,
    ) -> Result<Self, NodeError> {
        let network = &config.network;
        let floor = config.mempool.min_relay_fee.sen();
        let options = Options {
            max_bytes: count(config.mempool.max_bytes),
            relay_floor: floor,
            expiry_seconds: config.mempool.expiry.as_secs(),
            ..Options::default()
        };
        let mempool = Mempool::new(network.clone(), clock.used.clone(), chain.clone(), known, options);
        let mempool = Arc::new(mempool);
        let templates = Templates::new(network.clone(), chain.clone(), mempool.clone(), clock.used.clone());
        let templates = Arc::new(templates);
        // First of all that runs: an address that is taken stops the start before anything has begun.
        let shelf = Shelf::default();
        let peers = Arc::new(PeerNetwork::start(
            NetworkOptions { handshakes_max, shelf: shelf.clone(), ..peer_options(config, directory) },
            chain.clone(),
            mempool.clone(),
            clock.used.clone(),
            runtime.handle(),
            stop.requested.clone(),
        )?);
        let indexes = match config.index {
            true => {
                let batch = count(config.shares.index_batch());
                let started = Indexes::start_within(store.clone(), chain.clone(), batch);
                Some(started.map_err(system("starting the indexes"))?)
            }
            false => None,
        };
        let mine = |payout| {
            let options = MinerOptions { payout, threads: config.mining.threads };
            Miner::start(templates.clone(), options).map(Arc::new).map_err(system("starting the miner"))
        };
        let miner = config.mining.mine.map(mine).transpose()?;
        let mempool_loaded = Arc::new(AtomicBool::new(false));
        let mempool_thread = keep_mempool(mempool.clone(), directory.mempool(), mempool_loaded.clone(), stop.clone())
            .map_err(system("starting the mempool"))?;
        let indexes = indexes.map(Arc::new);
        let database = directory.database();
        let pruner = config.prune.is_on().then(|| {
            let measure = Box::new(move || folder_bytes(&database));
            Arc::new(Pruner::new(config.prune, chain.clone(), store.clone(), indexes.clone(), measure))
        });
        let prune_thread = match &pruner {
            Some(pruner) => {
                let stop = stop.requested.clone();
                Some(pruner.spawn(move || stop.is_cancelled()).map_err(system("starting threads"))?)
            }
            None => None,
        };
        let history_thread = {
            let stop = stop.requested.clone();
            let history = history(config, directory, clock, chain, &stop);
            history.spawn(move || stop.is_cancelled()).map_err(system("starting threads"))?
        };
        let snapshot_thread =
            keep_snapshot(config, directory, chain, shelf, stop).map_err(system("starting threads"))?;
        let witness_thread =
            keep_witness(WitnessFile::new(directory.witness()), chain.clone(), clock.system.clone(), stop.clone())
                .map_err(system("starting threads"))?;
        Ok(Self {
            mempool,
            mempool_loaded,
            mempool_thread,
            witness_thread,
            pruner,
            prune_thread,
            history_thread,
            snapshot_thread,
            indexes,
            templates,
            miner,
            peers,
        })
    }

    fn context(
        &self,
        config: &Config,
        directory: &DataDir,
        clock: &Clocks,
        chain: &ChainHandle,
        notices: Vec<String>,
        stop: &Stop,
    ) -> RpcContext {
        let (database, shares) = (directory.database(), config.shares);
        RpcContext {
            network: config.network.clone(),
            clock: clock.used.clone(),
            mock_clock: clock.mock.clone(),
            chain: chain.clone(),
            indexes: self.indexes.clone(),
            pruner: self.pruner.clone(),
            mempool: self.mempool.clone(),
            mempool_loaded: self.mempool_loaded.clone(),
            templates: self.templates.clone(),
            miner: self.miner.clone(),
            mining_address: config.mining.address,
            peers: Some(self.peers.clone()),
            private_broadcast: config.peers.private_broadcast,
            folder: directory.path().to_owned(),
            disk_bytes: Box::new(move || folder_bytes(&database)),
            memory: Box::new(move || Held { resident: memory::resident_bytes(), shares, used: Vec::new() }),
            notices,
            backup: Box::new(|_| Err("the database is not open".to_owned())),
            shutdown: stop.requested.clone(),
        }
    }

    fn stop(self, directory: &DataDir, stop: &Stop) {
        if let Some(miner) = &self.miner {
            miner.stop();
        }
        // Whatever ends the node, its threads see the same request.
        stop.requested.cancel();
        self.peers.stop();
        if self.mempool_thread.join().is_err() {
            tracing::error!("the mempool's thread panicked");
        }
        if self.witness_thread.join().is_err() {
            tracing::error!("the thread that writes the tip down panicked");
        }
        if self.history_thread.join().is_err() {
            tracing::error!("the thread that verifies a snapshot's history panicked");
        }
        if self.snapshot_thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that keeps a snapshot for others panicked");
        }
        if self.prune_thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that deletes old blocks panicked");
        }
        let loaded = self.mempool_loaded.load(Ordering::SeqCst);
        // A file that was not read to its end still holds more than memory does.
        if loaded && !stop.hurried.is_cancelled() {
            match self.mempool.save(&directory.mempool()) {
                Ok(transactions) => tracing::info!(transactions, "saved the mempool"),
                Err(error) => tracing::warn!(%error, "the mempool is not saved"),
            }
        }
        if let Some(indexes) = &self.indexes {
            indexes.stop();
        }
    }
}

/// What the peer-to-peer network is told.
fn peer_options(config: &Config, directory: &DataDir) -> NetworkOptions {
    let (peers, port) = (&config.peers, config.network.p2p_port);
    let names = p2p::Names::with(peers.proxy);
    let bootstrap: Vec<PeerName> = config.network.bootstrap.iter().filter_map(|peer| peer.parse().ok()).collect();
    let brain = BrainOptions {
        agent: p2p::agent(),
        listen_port: 0,
        allow_private: peers.allow_private,
        inbound_max: peers.inbound_max,
        only: p2p::resolve_all(&peers.connect, port, names),
        manual: p2p::resolve_added(&peers.add, port, names),
        external: p2p::resolve_all(&peers.external, port, names),
        bootstrap: p2p::resolve_all(&bootstrap, port, names),
        minimum_chain_work: peers.minimum_work,
        upload_target: peers.upload_target,
        onion: peers.proxy.is_some(),
        snapshot: config.snapshot.fetch,
        download_bytes: config.shares.download_bytes(),
    };
    NetworkOptions {
        handshakes_max: HANDSHAKES_MAX,
        listen: peers.listen,
        proxy: peers.proxy,
        map_port: peers.map_port,
        lasting_identity: peers.lasting_identity,
        brain,
        folder: directory.path().to_owned(),
        genesis: config.network.to_json().into_bytes().into(),
        shelf: Shelf::default(),
    }
}

/// Bytes of the files in a folder that has no folders in it.
fn folder_bytes(path: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}
