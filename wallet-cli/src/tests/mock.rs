//! A node in this process: a chain of really mined blocks in memory, the JSON-RPC methods that a wallet calls, and a
//! hook through which every answer can be turned into a lie. It judges nothing: that is the wallet's job.

use crate::node::Node;
use crate::proof;
use serde_json::{Value, json};
use setara_core::address::Address;
use setara_core::block::{Block, Header};
use setara_core::codec::{decode, encode};
use setara_core::consensus::{HeaderState, check_header};
use setara_core::hash::{Hash256, TxId, WtxId};
use setara_core::height::Height;
use setara_core::merkle;
use setara_core::network::Network;
use setara_core::transaction::{Coinbase, OutPoint, Output, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What goes back for one call.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Result(Value),
    Error(i64, String),
    /// The connection breaks.
    Hangup,
}

/// Sees method, parameters and the honest answer; gives the one to send.
pub(super) type Hook = Box<dyn FnMut(&str, &Value, Reply) -> Reply + Send>;

/// The chain and the mempool.
pub(super) struct Ledger {
    pub(super) network: Network,
    pub(super) blocks: Vec<Block>,
    states: Vec<HeaderState>,
    /// Of each block: ids and bytes of its transactions, the coinbase's first.
    leaves: Vec<Vec<(TxId, WtxId, Vec<u8>)>>,
    pub(super) mempool: Vec<Transaction>,
    /// Whether `sendrawtransaction` puts transactions into the mempool.
    pub(super) accepts: bool,
    salt: u64,
}

pub(super) struct Mock {
    pub(super) ledger: Arc<Mutex<Ledger>>,
    hook: Arc<Mutex<Option<Hook>>>,
    url: String,
    directory: tempfile::TempDir,
}

impl Mock {
    pub(super) fn start(network: Network) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cookie"), "user:password").unwrap();
        let ledger = Arc::new(Mutex::new(Ledger {
            blocks: vec![network.genesis().clone()],
            states: vec![HeaderState::genesis(&network)],
            leaves: vec![leaves_of(network.genesis())],
            network,
            mempool: vec![],
            accepts: true,
            salt: 0,
        }));
        let hook: Arc<Mutex<Option<Hook>>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (served, hooked) = (Arc::downgrade(&ledger), Arc::clone(&hook));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // The mock is gone; `drop` knocks once so that this is noticed.
                let Some(ledger) = served.upgrade() else { break };
                let hook = Arc::clone(&hooked);
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || serve(stream, &ledger, &hook));
            }
        });
        Self { ledger, hook, url, directory }
    }

    pub(super) fn node(&self) -> Node {
        let cookie = self.directory.path().join("cookie");
        Node::new(&self.url, cookie).unwrap().with_patience(std::time::Duration::ZERO)
    }

    pub(super) fn lie(&self, hook: impl FnMut(&str, &Value, Reply) -> Reply + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    pub(super) fn be_honest(&self) {
        *self.hook.lock().unwrap() = None;
    }

    /// Mines a block with the whole mempool.
    pub(super) fn mine(&self, address: Address) {
        let mut ledger = self.ledger.lock().unwrap();
        let transactions = std::mem::take(&mut ledger.mempool);
        ledger.mine(address, transactions);
    }

    pub(super) fn mine_many(&self, address: Address, count: u32) {
        for _ in 0..count {
            self.mine(address);
        }
    }

    /// Takes the newest blocks off; their transactions go back to the mempool if `keep`.
    pub(super) fn revert(&self, count: usize, keep: bool) {
        let mut ledger = self.ledger.lock().unwrap();
        for _ in 0..count.min(ledger.blocks.len() - 1) {
            let block = ledger.blocks.pop().unwrap();
            ledger.states.pop();
            ledger.leaves.pop();
            if keep {
                ledger.mempool.splice(0..0, block.transactions);
            }
        }
        ledger.purge();
    }

    pub(super) fn in_mempool(&self, txid: TxId) -> bool {
        self.ledger.lock().unwrap().mempool.iter().any(|transaction| transaction.txid() == txid)
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let (ledger, _) = (std::mem::replace(&mut self.ledger, Arc::new(Mutex::new(Ledger::nothing()))), ());
        drop(ledger);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

impl Ledger {
    fn nothing() -> Self {
        Self {
            network: Network::dev(),
            blocks: vec![],
            states: vec![],
            leaves: vec![],
            mempool: vec![],
            accepts: false,
            salt: 0,
        }
    }

    pub(super) fn tip(&self) -> u32 {
        u32::try_from(self.blocks.len() - 1).unwrap()
    }

    pub(super) fn mine(&mut self, address: Address, transactions: Vec<Transaction>) {
        let height = Height::new(self.tip() + 1);
        let parent = *self.states.last().unwrap();
        // Reverted and mined again, a block must be another one.
        self.salt += 1;
        let coinbase = Coinbase {
            height,
            coins_root: Hash256::ZERO,
            outputs: vec![Output { amount: self.network.subsidy(height), address }],
            extra: self.salt.to_le_bytes().to_vec(),
        };
        let mut leaves = vec![coinbase.wtxid()];
        leaves.extend(transactions.iter().map(Transaction::wtxid));
        let mut header = Header {
            version: 0,
            previous: parent.hash,
            merkle_root: merkle::root(&leaves).root,
            time: parent.time() + self.network.spacing,
            bits: parent.required_bits(&self.network),
            nonce: 0,
        };
        mine_header(&mut header);
        self.states.push(check_header(&self.network, &parent, &header).unwrap());
        let block = Block { header, coinbase, transactions };
        self.leaves.push(leaves_of(&block));
        self.blocks.push(block);
        self.purge();
    }

    /// Confirmed coins that nothing confirmed spends.
    pub(super) fn coins(&self) -> BTreeMap<OutPoint, (Output, u32, bool)> {
        let mut coins = BTreeMap::new();
        for ((height, block), leaves) in (0u32..).zip(&self.blocks).zip(&self.leaves) {
            let others = block.transactions.iter().map(|transaction| (&transaction.outputs, false));
            let all = std::iter::once((&block.coinbase.outputs, true)).chain(others);
            for ((outputs, from_coinbase), (txid, ..)) in all.zip(leaves) {
                for (index, output) in (0u32..).zip(outputs) {
                    coins.insert(OutPoint::new(*txid, index), (*output, height, from_coinbase));
                }
            }
            for input in block.transactions.iter().flat_map(|transaction| &transaction.inputs) {
                coins.remove(&input.outpoint);
            }
        }
        coins
    }

    /// Drops unconfirmed transactions whose coins are not there, and later ones that spend the same coin.
    fn purge(&mut self) {
        let mut coins: BTreeSet<OutPoint> = self.coins().into_keys().collect();
        let candidates = std::mem::take(&mut self.mempool);
        for transaction in candidates {
            if transaction.inputs.iter().all(|input| coins.contains(&input.outpoint)) {
                for input in &transaction.inputs {
                    coins.remove(&input.outpoint);
                }
                let txid = transaction.txid();
                coins.extend((0u32..).zip(&transaction.outputs).map(|(index, _)| OutPoint::new(txid, index)));
                self.mempool.push(transaction);
            }
        }
    }

    /// Puts a transaction into the mempool if its coins are there.
    fn offer(&mut self, transaction: Transaction) -> bool {
        let count = self.mempool.len();
        self.mempool.push(transaction);
        self.purge();
        self.mempool.len() > count
    }

    fn find(&self, txid: TxId) -> Option<(u32, Vec<u8>)> {
        (0u32..).zip(&self.leaves).find_map(|(height, leaves)| {
            let found = leaves.iter().find(|(id, ..)| *id == txid);
            found.map(|(_, _, bytes)| (height, bytes.clone()))
        })
    }

    fn addresses(&self, params: &Value) -> Vec<Address> {
        let texts = params[0]["addresses"].as_array().unwrap();
        texts.iter().map(|text| Address::from_text(text.as_str().unwrap(), &self.network.prefix).unwrap()).collect()
    }

    fn touches(transaction: &Transaction, addresses: &[Address]) -> bool {
        transaction.outputs.iter().any(|output| addresses.contains(&output.address))
            || transaction.spent_addresses().iter().any(|address| addresses.contains(address))
    }

    fn answer(&mut self, method: &str, params: &Value) -> Reply {
        let not_found = || Reply::Error(-5, "no such thing".into());
        let tip = self.blocks.last().unwrap().hash();
        let by_hash = |text: &Value| {
            let position = self.blocks.iter().position(|block| text == &json!(block.hash()));
            position.map(|position| (u32::try_from(position).unwrap(), &self.blocks[position]))
        };
        Reply::Result(match method {
            "getblockchaininfo" => json!({
                "chain": "regtest", "blocks": self.tip(), "headers": self.tip(), "bestblockhash": tip,
                "bits": "207fffff", "target": "", "difficulty": 1, "time": 0, "mediantime": 0,
                "verificationprogress": 1, "initialblockdownload": false, "chainwork": "", "size_on_disk": 0,
                "pruned": false, "warnings": [],
                "network": { "name": self.network.name, "genesis_hash": self.network.genesis_hash(),
                             "prefix": self.network.prefix.as_str(), "ticker": self.network.ticker },
            }),
            "getblockhash" => match self.blocks.get(usize::try_from(params[0].as_u64().unwrap()).unwrap()) {
                Some(block) => json!(block.hash()),
                None => return Reply::Error(-8, "Block height out of range".into()),
            },
            "getblockheader" => {
                let Some((height, block)) = by_hash(&params[0]) else { return not_found() };
                if params[1] == json!(false) {
                    json!(hex::encode(block.header.to_bytes()))
                } else {
                    json!({
                        "hash": block.hash(), "confirmations": self.tip() - height + 1, "height": height,
                        "version": 0, "versionHex": "", "merkleroot": block.header.merkle_root,
                        "time": block.header.time, "mediantime": 0, "nonce": 0, "bits": "", "target": "",
                        "difficulty": 1, "chainwork": "", "nTx": block.transactions.len() + 1,
                    })
                }
            }
            "gettxoutproof" => {
                let Some((height, block)) = by_hash(&params[1]) else { return not_found() };
                let leaves = &self.leaves[usize::try_from(height).unwrap()];
                let wanted: Option<Vec<usize>> = params[0]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|txid| leaves.iter().position(|(id, ..)| txid == &json!(id)))
                    .collect();
                let Some(wanted) = wanted else { return not_found() };
                let leaves: Vec<WtxId> = leaves.iter().map(|(_, wtxid, _)| *wtxid).collect();
                json!(hex::encode(proof::build(&block.header, &leaves, &wanted)))
            }
            "getaddressutxos" => {
                let addresses = self.addresses(params);
                let coins = self.coins().into_iter().filter(|(_, (output, ..))| addresses.contains(&output.address));
                let utxos: Vec<Value> = coins
                    .filter(|(_, (output, ..))| !output.amount.is_zero())
                    .map(|(outpoint, (output, height, coinbase))| {
                        json!({
                            "address": output.address.to_text(&self.network.prefix), "txid": outpoint.txid,
                            "outputIndex": outpoint.index, "script": hex::encode(output.address.as_bytes()),
                            "satoshis": output.amount.sen(), "height": height, "coinbase": coinbase,
                            "confirmations": self.tip() - height + 1,
                        })
                    })
                    .collect();
                json!({ "utxos": utxos, "hash": tip, "height": self.tip() })
            }
            "getaddresstxids" => {
                let addresses = self.addresses(params);
                let (start, end) = (params[0]["start"].as_u64().unwrap(), params[0]["end"].as_u64().unwrap());
                if start > end {
                    return Reply::Error(-8, format!("start {start} is above end {end}"));
                }
                let range = start..=end;
                let mut txids = Vec::new();
                for (_, block) in (0u64..).zip(&self.blocks).filter(|(height, _)| range.contains(height)) {
                    if block.coinbase.outputs.iter().any(|output| addresses.contains(&output.address)) {
                        txids.push(block.coinbase.txid());
                    }
                    let ours = block.transactions.iter().filter(|transaction| Self::touches(transaction, &addresses));
                    txids.extend(ours.map(Transaction::txid));
                }
                json!(txids)
            }
            "getaddressbalance" => {
                let addresses = self.addresses(params);
                let made = self.blocks.iter().flat_map(|block| {
                    let others = block.transactions.iter().flat_map(|transaction| &transaction.outputs);
                    block.coinbase.outputs.iter().chain(others)
                });
                let ours = made.filter(|output| addresses.contains(&output.address));
                json!({ "balance": 0, "received": ours.map(|output| output.amount.sen()).sum::<u64>() })
            }
            "getaddressmempool" => {
                let addresses = self.addresses(params);
                let mut deltas = Vec::new();
                for transaction in &self.mempool {
                    let txid = transaction.txid();
                    for (index, output) in (0u32..).zip(&transaction.outputs) {
                        if addresses.contains(&output.address) {
                            let sen = i64::try_from(output.amount.sen()).unwrap();
                            let address = output.address.to_text(&self.network.prefix);
                            deltas.push(json!({
                                "address": address, "txid": txid, "index": index, "satoshis": sen, "timestamp": 7,
                            }));
                        }
                    }
                    for ((index, input), address) in
                        (0u32..).zip(&transaction.inputs).zip(transaction.spent_addresses())
                    {
                        if addresses.contains(&address) {
                            let sen = -i64::try_from(input.amount.sen()).unwrap();
                            let address = address.to_text(&self.network.prefix);
                            deltas.push(json!({
                                "address": address, "txid": txid, "index": index, "satoshis": sen, "timestamp": 7,
                                "prevtxid": input.outpoint.txid, "prevout": input.outpoint.index,
                            }));
                        }
                    }
                }
                json!(deltas)
            }
            "getrawtransaction" => {
                let txid: TxId = params[0].as_str().unwrap().parse().unwrap();
                if let Some((height, bytes)) = self.find(txid) {
                    let block = &self.blocks[usize::try_from(height).unwrap()];
                    json!({ "txid": txid, "hash": txid, "hex": hex::encode(bytes), "blockhash": block.hash(),
                            "confirmations": self.tip() - height + 1, "blocktime": block.header.time })
                } else if let Some(transaction) = self.mempool.iter().find(|transaction| transaction.txid() == txid) {
                    json!({ "txid": txid, "hash": txid, "hex": hex::encode(encode(transaction)) })
                } else {
                    return not_found();
                }
            }
            "sendrawtransaction" => {
                let transaction: Transaction = decode(&hex::decode(params[0].as_str().unwrap()).unwrap()).unwrap();
                let txid = transaction.txid();
                let known = self.mempool.iter().any(|other| other.txid() == txid);
                if self.find(txid).is_some() {
                    return Reply::Error(-27, "Transaction outputs already in utxo set".into());
                } else if !known && (!self.accepts || !self.offer(transaction)) {
                    return Reply::Error(-25, "bad-txns-inputs-missingorspent".into());
                }
                json!(txid)
            }
            "testmempoolaccept" => {
                let transaction: Transaction = decode(&hex::decode(params[0][0].as_str().unwrap()).unwrap()).unwrap();
                let mut verdict = json!({
                    "txid": transaction.txid(), "wtxid": transaction.wtxid(), "allowed": self.accepts,
                });
                if !self.accepts {
                    verdict["reject-reason"] = json!("min-relay-fee-not-met");
                }
                json!([verdict])
            }
            "estimatesmartfee" => json!({ "blocks": 6, "errors": ["Insufficient data"] }),
            "getmempoolinfo" => json!({
                "loaded": true, "size": 0, "bytes": 0, "usage": 0, "total_fee": 0.0, "maxmempool": 1,
                "mempoolminfee": 0.00001, "minrelaytxfee": 0.00001, "incrementalrelayfee": 0.00001,
                "unbroadcastcount": 0, "fullrbf": true,
            }),
            other => return Reply::Error(-32601, format!("no method {other}")),
        })
    }
}

fn leaves_of(block: &Block) -> Vec<(TxId, WtxId, Vec<u8>)> {
    let coinbase = (block.coinbase.txid(), block.coinbase.wtxid(), encode(&block.coinbase));
    let others = block.transactions.iter();
    std::iter::once(coinbase).chain(others.map(|tx| (tx.txid(), tx.wtxid(), encode(tx)))).collect()
}

/// Finds a nonce that meets the header's own bits.
pub(super) fn mine_header(header: &mut Header) {
    let target = header.bits.to_target().unwrap();
    while !target.is_met_by(header.hash()) {
        header.nonce += 1;
    }
}

fn serve(stream: TcpStream, ledger: &Mutex<Ledger>, hook: &Mutex<Option<Hook>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let request: Value = serde_json::from_slice(&body).ok()?;
        let one = |request: &Value| -> Option<Value> {
            let (method, params) = (request["method"].as_str()?, &request["params"]);
            let mut reply = ledger.lock().unwrap().answer(method, params);
            if let Some(hook) = hook.lock().unwrap().as_mut() {
                reply = hook(method, params, reply);
            }
            match reply {
                Reply::Result(result) => Some(json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })),
                Reply::Error(code, message) => Some(json!({
                    "jsonrpc": "2.0", "id": request["id"], "error": { "code": code, "message": message },
                })),
                Reply::Hangup => None,
            }
        };
        let answer = match &request {
            Value::Array(requests) => Value::Array(requests.iter().map(one).collect::<Option<_>>()?),
            request => one(request)?,
        };
        let body = answer.to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    }
}
