//! Sync over loopback: a new node with everything still to verify, from one that has it, both in this process on the
//! same cores. Beside it what signature checks alone could reach in the same run.
//!
//! All of the real thing: Noise, frames, headers first, bodies, RocksDB on disk with the default sync settings, all
//! signatures and rules. `cargo bench --bench sync [-- TRANSACTIONS]`.

mod common;

use common::{Fixture, Measure, PER_BLOCK, Row, Threads, Wish, baseline, folder};
use setara_core::codec;
use setara_core::pow::Work;
use setara_node::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier};
use setara_node::clock::SystemClock;
use setara_node::mempool::{Mempool, Options};
use setara_node::p2p;
use setara_node::p2p::brain::BrainOptions;
use setara_node::p2p::shell::{NetworkOptions, PeerNetwork};
use setara_node::store::{RocksOptions, RocksStore, Store};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// Transactions that are synced, unless the command line says otherwise.
const TRANSACTIONS: usize = 300_000;
/// Name of the serving node's threads that read and send.
const SERVES: &str = "serves";
/// Longest wait for the new node.
const PATIENCE: Duration = Duration::from_secs(900);

fn main() {
    let blocks = usize::div_ceil(Wish::read().number(TRANSACTIONS), PER_BLOCK);
    let count = blocks * PER_BLOCK;
    println!("{} cores, {blocks} blocks of {PER_BLOCK} transactions", rayon::current_num_threads());
    let fixture = Fixture::new(blocks);
    let limit = baseline(&fixture);
    // Each has threads of its own, so that it can be said what serving takes.
    let (serves, syncs) = (runtime(SERVES), runtime("syncs"));
    let old = Node::start(&fixture, &serves, &[]);
    let bytes: Vec<Vec<u8>> = fixture.setup.iter().chain(&fixture.blocks).map(codec::encode).collect();
    old.chain.submit_many(bytes.into_iter()).result.expect("valid");
    let tip = fixture.blocks.last().expect("blocks").hash();
    let address = old.peers.listening().expect("it listens");

    let serving = Threads::now_and_named(SERVES);
    let before = serving.cpu_seconds();
    let (measure, start) = (Measure::start(), Instant::now());
    let new = Node::start(&fixture, &syncs, &[address]);
    loop {
        let info = new.chain.view().info();
        if info.hash == tip {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the new node is still at height {}", info.height);
        new.chain.wait_past(info.sequence, PATIENCE);
    }
    let (rate, cpu) = measure.end(count);
    let served = (serving.cpu_seconds() - before) * 1e6 / count as f64;
    let (share, share_cpu) = (100.0 * rate / limit.0, 100.0 * limit.1 / cpu);
    println!(
        "synced over loopback: {rate:>9.0} transactions/s, {share:.0} % of the baseline ({cpu:.2} us of processor each, \
         {served:.2} of them the serving node's; {share_cpu:.0} %)"
    );
    Row {
        what: "sync over loopback, both nodes on these cores",
        cache: "225 + 225 MiB each",
        flush: "a synced batch every 5 s",
        measured: format!("{rate:.0} transactions and as many signatures a second; {cpu:.1} us of processor each, {served:.1} of them the serving node's"),
        limit: format!("signatures alone {:.0} a second: {share:.0} %, by processor time {share_cpu:.0} %", limit.0),
    }
    .print();
    new.end();
    old.end();
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread().enable_all().thread_name(name).build().expect("a runtime")
}

struct Node {
    chain: ChainHandle,
    peers: PeerNetwork,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Node {
    fn start(fixture: &Fixture, runtime: &Runtime, connect: &[SocketAddr]) -> Self {
        let directory = folder();
        let options = RocksOptions { memory_bytes: 225 << 20, ..RocksOptions::default() };
        let store: Arc<dyn Store> = Arc::new(RocksStore::open(&directory.path().join("db"), &options).expect("opens"));
        let known = Arc::new(KnownSignatures::default());
        let verifier = Verifier::new(fixture.network.clone(), known.clone(), None);
        let clock = Arc::new(SystemClock::new());
        let chain = ChainHandle::start(store, verifier, ChainOptions::default(), clock.clone()).expect("starts");
        let network = fixture.network.clone();
        let mempool = Mempool::new(network.clone(), clock.clone(), chain.clone(), known, Options::default());
        let brain = BrainOptions {
            agent: p2p::agent(),
            listen_port: 0,
            allow_private: true,
            inbound_max: 16,
            upload_target: None,
            only: connect.iter().map(|address| (*address).into()).collect(),
            manual: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            minimum_chain_work: Work::ZERO,
            onion: false,
            snapshot: false,
            download_bytes: setara_node::p2p::limits::DOWNLOAD_WINDOW_BYTES,
        };
        let options = NetworkOptions {
            handshakes_max: setara_node::p2p::shell::gate::HANDSHAKES_MAX,
            listen: connect.is_empty().then_some((Ipv4Addr::LOCALHOST, 0).into()),
            proxy: None,
            map_port: false,
            lasting_identity: false,
            brain,
            folder: directory.path().to_owned(),
            genesis: network.to_json().into_bytes().into(),
            shelf: setara_node::snapshot::serve::Shelf::default(),
        };
        let stop = CancellationToken::new();
        let peers =
            PeerNetwork::start(options, chain.clone(), Arc::new(mempool), clock, runtime.handle(), stop.clone())
                .expect("the network starts");
        Self { chain, peers, stop, _directory: directory }
    }

    fn end(self) {
        self.stop.cancel();
        self.peers.stop();
        self.chain.stop();
    }
}
