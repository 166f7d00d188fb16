//! Calls a second over HTTP: `getblockcount` beside a bare jsonrpsee server in the same run, and `sendrawtransaction` in
//! batches.
//!
//! `cargo bench -p setara-node --bench rpc [-- TRANSACTIONS]`. 16 connections from this process; the client takes its
//! share of the cores from both servers alike. Nothing is asserted: figures go to `docs/performance.md`.

use base64::Engine;
use rayon::prelude::*;
use serde_json::json;
use setara_core::amount::Amount;
use setara_core::codec::encode;
use setara_core::network::Network;
use setara_core::transaction::{OutPoint, Output};
use setara_node::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier};
use setara_node::clock::{Clock, SystemClock};
use setara_node::config::RpcConfig;
use setara_node::mempool::{Mempool, Options};
use setara_node::mining::Templates;
use setara_node::rpc::{LogControl, RpcContext, RpcServer};
use setara_node::store::MemoryStore;
use setara_node::testing::{ChainBuilder, address, coins, network, sign};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// Length of one round.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds of each server, taken in turn; the best of each counts.
const ROUNDS: usize = 5;
/// Transactions when none are asked for.
const TRANSACTIONS: u32 = 20_000;
/// Transactions in a batch: the most that one request may hold.
const BATCH: usize = 1_000;
/// Outputs of one transaction that makes coins.
const FAN: u32 = 2_500;

fn main() {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(TRANSACTIONS);
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let client = Builder::new_current_thread().enable_all().build().expect("a runtime");
    block_count(&runtime, &client);
    transactions(&runtime, &client, count);
}

/// A node over the memory store, and its RPC server.
struct Node {
    server: RpcServer,
    chain: ChainHandle,
    mempool: Arc<Mempool>,
    authorization: String,
    _directory: tempfile::TempDir,
}

fn node(runtime: &Runtime, network: &Arc<Network>) -> Node {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let shutdown = CancellationToken::new();
    let directory = tempfile::tempdir().expect("a directory");
    let cookie = directory.path().join(".cookie");
    let (config, logging) = (RpcConfig::loopback(), LogControl::new(None, String::new()));
    let start = RpcServer::start(&config, &cookie, network, clock.clone(), logging, shutdown.clone());
    let server = runtime.block_on(start).expect("a server");
    let known = Arc::new(KnownSignatures::default());
    let verifier = Verifier::new(network.clone(), known.clone(), None);
    let store = Arc::new(MemoryStore::new());
    let chain = ChainHandle::start(store, verifier, ChainOptions::default(), clock.clone()).expect("a new chain");
    let mempool = Mempool::new(network.clone(), clock.clone(), chain.clone(), known, Options::default());
    let mempool = Arc::new(mempool);
    let templates = Templates::new(network.clone(), chain.clone(), mempool.clone(), clock.clone());
    server.ready(RpcContext {
        network: network.clone(),
        clock,
        mock_clock: None,
        chain: chain.clone(),
        indexes: None,
        pruner: None,
        mempool: mempool.clone(),
        mempool_loaded: Arc::new(AtomicBool::new(true)),
        templates: Arc::new(templates),
        miner: None,
        mining_address: None,
        peers: None,
        private_broadcast: false,
        folder: directory.path().to_owned(),
        disk_bytes: Box::new(|| 0),
        memory: Box::new(setara_node::testing::held),
        notices: Vec::new(),
        backup: Box::new(|_| Err("in memory only".to_owned())),
        shutdown,
    });
    let cookie = std::fs::read(cookie).expect("a cookie");
    let authorization = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(cookie));
    Node { server, chain, mempool, authorization, _directory: directory }
}

fn request(address: SocketAddr, authorization: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Sends `request` and reads one whole reply; its length.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> usize {
    stream.write_all(request).await.expect("the server listens");
    buffer.clear();
    loop {
        stream.read_buf(buffer).await.expect("the server answers");
        let Some(split) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..split]).to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let whole = split + 4 + length.expect("a length");
        while buffer.len() < whole {
            stream.read_buf(buffer).await.expect("the server answers");
        }
        return whole;
    }
}

/// Requests a second, all connections together. Every reply has the first one's length, so that the client does as
/// little as it can.
fn rate(client: &Runtime, address: SocketAddr, request: &Arc<[u8]>) -> f64 {
    client.block_on(async {
        let end = Instant::now() + ROUND;
        let start = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..CONNECTIONS {
            let request = request.clone();
            tasks.push(tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("the server listens");
                stream.set_nodelay(true).expect("a socket");
                let length = exchange(&mut stream, &request, &mut Vec::new()).await;
                let mut reply = vec![0; length];
                let mut count = 0u32;
                while Instant::now() < end {
                    stream.write_all(&request).await.expect("the server listens");
                    stream.read_exact(&mut reply).await.expect("the server answers");
                    count += 1;
                }
                count
            }));
        }
        let mut total = 0;
        for task in tasks {
            total += task.await.expect("a client");
        }
        f64::from(total) / start.elapsed().as_secs_f64()
    })
}

fn block_count(runtime: &Runtime, client: &Runtime) {
    let node = node(runtime, &Arc::new(Network::dev()));
    let bare = runtime.block_on(async {
        let server = jsonrpsee::server::Server::builder().build("127.0.0.1:0").await.expect("a server");
        let address = server.local_addr().expect("an address");
        let mut module = jsonrpsee::RpcModule::new(());
        module.register_method("getblockcount", |_, (), _| 0u32).expect("one method");
        (server.start(module), address)
    });
    let body = r#"{"jsonrpc":"2.0","method":"getblockcount","params":[],"id":1}"#;
    let asked = |address| Arc::from(request(address, &node.authorization, body));
    let (ours, theirs) = (node.server.local_addr(), bare.1);
    let (mut best, mut best_bare) = (0.0f64, 0.0f64);
    for _ in 0..ROUNDS {
        best_bare = best_bare.max(rate(client, theirs, &asked(theirs)));
        best = best.max(rate(client, ours, &asked(ours)));
    }
    println!("getblockcount, {CONNECTIONS} connections: {best:.0} a second; bare jsonrpsee {best_bare:.0}");
    println!("ratio: {:.2}", best / best_bare);
    let _ = bare.0.stop();
    runtime.block_on(node.server.stop());
    node.chain.stop();
}

fn transactions(runtime: &Runtime, client: &Runtime, count: u32) {
    let groups = count.div_ceil(FAN);
    let network = network(|parameters| {
        parameters.maturity = 1;
        let funds = |number| Output { amount: coins(100), address: address(number) };
        parameters.allocations = (1..=groups).map(funds).collect();
    });
    let node = node(runtime, &network);
    let mut builder = ChainBuilder::new(&network);
    let mut blocks = builder.mine_empty(1);
    let mut purses = Vec::new();
    for group in 0..groups {
        let outpoint = OutPoint::new(network.genesis().coinbase.txid(), group);
        let fund = (outpoint, builder.coins[&outpoint]);
        let keys = group * FAN..count.min((group + 1) * FAN);
        let each = Amount::from_sen(coins(99).sen() / u64::from(FAN));
        let outputs: Vec<_> = keys.clone().into_par_iter().map(|key| (address(1_000_000 + key), each)).collect();
        let spread = sign(&network, &[fund], &outputs, 0, &[group + 1]);
        let txid = spread.txid();
        blocks.push(builder.mine(vec![spread]));
        for (index, key) in (0..).zip(keys) {
            let outpoint = OutPoint::new(txid, index);
            purses.push((outpoint, builder.coins[&outpoint], 1_000_000 + key));
        }
    }
    let hexes: Vec<String> = purses
        .into_par_iter()
        .map(|(outpoint, coin, owner)| {
            let half = Amount::from_sen(coin.output.amount.sen() / 2 - 1_000);
            let pay = [(address(1), half), (address(2), half)];
            hex::encode(encode(&sign(&network, &[(outpoint, coin)], &pay, 0, &[owner])))
        })
        .collect();
    for block in blocks {
        node.chain.submit(block).expect("valid blocks");
    }
    let address = node.server.local_addr();
    let batches: Vec<Vec<u8>> = hexes
        .chunks(BATCH)
        .map(|chunk| {
            let calls: Vec<_> = (0u32..)
                .zip(chunk)
                .map(|(id, hex)| json!({"jsonrpc": "2.0", "id": id, "method": "sendrawtransaction", "params": [hex]}))
                .collect();
            request(address, &node.authorization, &json!(calls).to_string())
        })
        .collect();
    let start = Instant::now();
    client.block_on(async {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        let mut buffer = Vec::new();
        for batch in &batches {
            exchange(&mut stream, batch, &mut buffer).await;
        }
    });
    let elapsed = start.elapsed().as_secs_f64();
    assert_eq!(node.mempool.info().count, u64::from(count), "every transaction is good");
    let rate = f64::from(count) / elapsed;
    println!("sendrawtransaction, batches of {BATCH}, one connection: {rate:.0} transactions a second");
    runtime.block_on(node.server.stop());
    node.chain.stop();
}
