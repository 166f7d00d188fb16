//! A node in this process over the memory store, behind its real RPC server on a free port; and what the tests ask it.

mod access;
mod compat;
mod fuzz;
mod methods;
mod mining;
mod prune;
mod storm;

use super::context::RpcContext;
use super::logs::LogControl;
use super::server::RpcServer;
use crate::chain::ChainHandle;
use crate::clock::{Clock, OffsetClock, SystemClock};
use crate::config::RpcConfig;
use crate::index::Indexes;
use crate::mempool::{Mempool, Options};
use crate::mining::Templates;
use crate::prune::{PruneLimits, PruneMode, Pruner};
use crate::store::{MemoryStore, Store};
use crate::testing;
use base64::Engine;
use serde_json::{Value, json};
use setara_api::client::{Auth, Client, ClientError};
use setara_api::registry;
use setara_core::address::Address;
use setara_core::network::Network;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A node and its server; both stop when it is dropped.
pub struct TestNode {
    pub network: Arc<Network>,
    pub chain: ChainHandle,
    pub mempool: Arc<Mempool>,
    pub shutdown: CancellationToken,
    pub address: SocketAddr,
    pub directory: tempfile::TempDir,
    context: Option<RpcContext>,
    server: Option<RpcServer>,
    runtime: tokio::runtime::Runtime,
}

/// What a test node is like.
pub struct Setup {
    pub network: Arc<Network>,
    pub rpc: RpcConfig,
    pub mining_address: Option<Address>,
    pub index: bool,
    pub prune: Option<PruneMode>,
}

impl Default for Setup {
    fn default() -> Self {
        let mining_address = Some(testing::address(0));
        Self { network: testing::quick_network(), rpc: RpcConfig::loopback(), mining_address, index: true, prune: None }
    }
}

impl TestNode {
    /// Ready to answer.
    pub fn start(setup: Setup) -> Self {
        let mut node = Self::loading(setup);
        node.finish_loading();
        node
    }

    /// Still loading: it answers -28.
    pub fn loading(setup: Setup) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let Setup { network, rpc, mining_address, index, prune } = setup;
        let system: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let mock = Arc::new(OffsetClock::new(system));
        let clock: Arc<dyn Clock> = mock.clone();
        let shutdown = CancellationToken::new();
        let directory = tempfile::tempdir().unwrap();
        let logging = LogControl::new(None, String::new());
        let cookie = directory.path().join(".cookie");
        let server = runtime
            .block_on(RpcServer::start(&rpc, &cookie, &network, clock.clone(), logging, shutdown.clone()))
            .unwrap();

        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let verifier = testing::verifier(&network);
        let known = Arc::new(crate::chain::KnownSignatures::default());
        let options = crate::chain::ChainOptions { coin_cache_bytes: 1 << 20, ..Default::default() };
        let chain = ChainHandle::start(store.clone(), verifier, options, clock.clone()).unwrap();
        let mempool = Arc::new(Mempool::new(network.clone(), clock.clone(), chain.clone(), known, Options::default()));
        let indexes = index.then(|| Arc::new(Indexes::start(store.clone(), chain.clone()).unwrap()));
        let pruner = prune.map(|mode| {
            let limits = PruneLimits { mode: Some(mode), disk: None };
            Arc::new(Pruner::new(limits, chain.clone(), store, indexes.clone(), Box::new(|| 0)))
        });
        let templates = Arc::new(Templates::new(network.clone(), chain.clone(), mempool.clone(), clock.clone()));
        let context = RpcContext {
            network: network.clone(),
            clock,
            mock_clock: Some(mock),
            chain: chain.clone(),
            indexes,
            pruner,
            mempool: mempool.clone(),
            mempool_loaded: Arc::new(AtomicBool::new(true)),
            templates,
            miner: None,
            mining_address,
            peers: None,
            private_broadcast: false,
            folder: directory.path().to_owned(),
            disk_bytes: Box::new(|| 0),
            memory: Box::new(testing::held),
            notices: Vec::new(),
            backup: Box::new(|_| Err("in memory only".to_owned())),
            shutdown: shutdown.clone(),
        };
        let address = server.local_addr();
        let (context, server) = (Some(context), Some(server));
        Self { network, chain, mempool, shutdown, address, directory, context, server, runtime }
    }

    pub fn finish_loading(&mut self) {
        self.server.as_ref().unwrap().ready(self.context.take().unwrap());
    }

    pub fn server(&self) -> &RpcServer {
        self.server.as_ref().unwrap()
    }

    pub fn cookie(&self) -> String {
        std::fs::read_to_string(self.directory.path().join(".cookie")).unwrap()
    }

    pub fn client(&self) -> Client {
        let cookie = Auth::Cookie(self.directory.path().join(".cookie"));
        Client::new(&self.address.to_string(), cookie).unwrap().with_timeout(DEADLINE)
    }

    /// The result of a call that must succeed; it is what the registry says it is.
    pub fn ask(&self, method: &str, params: Value) -> Value {
        let result = self.client().call(method, params.clone());
        let result = result.unwrap_or_else(|error| panic!("{method} {params}: {error}"));
        let shape = registry::method(method).expect("a method").result;
        shape.check(&result).unwrap_or_else(|error| panic!("{method} {params}: {error}"));
        result
    }

    /// Code and message of a call that must fail.
    pub fn refused(&self, method: &str, params: Value) -> (i64, String) {
        match self.client().call(method, params.clone()) {
            Err(ClientError::Rpc { code, message }) => (code, message),
            other => panic!("{method} {params}: {other:?}"),
        }
    }

    /// An address of this network as text.
    pub fn text(&self, number: u32) -> String {
        testing::address(number).to_text(&self.network.prefix)
    }

    /// Generates blocks to key 0.
    pub fn generate(&self, blocks: u32) -> Vec<String> {
        let hashes = self.ask("generatetoaddress", json!([blocks, self.text(0)]));
        serde_json::from_value(hashes).unwrap()
    }

    /// A POST of `body` with these credentials (`None`: the cookie's) and more header lines.
    pub fn post(&self, body: &str, credentials: Option<&str>, more: &str) -> HttpReply {
        let cookie = self.cookie();
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials.unwrap_or(&cookie));
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {encoded}\r\nContent-Length: {}\r\n{more}\r\n",
            self.address,
            body.len()
        );
        self.exchange(format!("{head}{body}").as_bytes())
    }

    /// Sends bytes on a connection of their own and reads one reply.
    pub fn exchange(&self, bytes: &[u8]) -> HttpReply {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_reply(&mut stream).expect("a reply")
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
        self.chain.stop();
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An HTTP reply.
#[derive(Debug)]
pub struct HttpReply {
    pub status: u16,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl HttpReply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

/// Reads one reply; `None` if the connection closes first.
pub fn read_reply(stream: &mut TcpStream) -> Option<HttpReply> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 65_536];
    let split = loop {
        if let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break split;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    };
    let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = bytes[split + 4..].to_vec();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        let count = stream.read(&mut chunk).ok()?;
        if count == 0 {
            return None;
        }
        body.extend_from_slice(&chunk[..count]);
    }
    Some(HttpReply { status, headers, body: String::from_utf8(body).unwrap() })
}

/// Waits until something holds.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}
