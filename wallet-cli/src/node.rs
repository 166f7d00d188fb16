//! The node, seen by a wallet that trusts it with nothing: typed questions, bounded batches, harmless words.
//!
//! Whatever the node says about money is checked by [`crate::chain`] before anyone counts on it. Here its errors
//! become ours, and its text passes [`crate::output::foreign`].

use crate::error::WalletError;
use crate::output::foreign;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use setara_api::client::{Auth, Client, ClientError};
use setara_api::error::ErrorCode;
use setara_api::types;
use setara_core::amount::Amount;
use setara_core::hash::{BlockHash, TxId};
use setara_core::height::Height;
use setara_core::network::Network;
use std::path::PathBuf;
use std::time::Duration;

/// Calls in one request: far below the server's 1,000, and 100 answers of usual size stay far below 64 MiB.
const CALLS_PER_BATCH: usize = 100;

/// Addresses in one question; the server takes 1,000.
const ADDRESSES_PER_CALL: usize = 500;

/// How long to wait for a chain that moves faster than it can be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the node's chain ends, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Height of the last block.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
}

/// A connection to a node.
pub struct Node {
    client: Client,
    url: String,
    patience: Duration,
}

impl Node {
    /// A node at `url` that wants the credentials in `cookie`. Nothing is sent yet.
    pub fn new(url: &str, cookie: PathBuf) -> Result<Self, WalletError> {
        let client = Client::new(url, Auth::Cookie(cookie)).map_err(|error| WalletError::Usage(error.to_string()))?;
        Ok(Self { url: client.url().to_owned(), client, patience: PATIENCE })
    }

    /// The same, asked again for no longer than this when its chain moves.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long its chain may move under a reader.
    pub const fn patience(&self) -> Duration {
        self.patience
    }

    /// What network the node says it is on: its name and genesis block.
    pub fn announced_network(&self) -> Result<(String, BlockHash), WalletError> {
        let info = self.blockchain_info()?;
        Ok((info.network.name, info.network.genesis_hash))
    }

    /// The tip, after making sure that the node is on `network`.
    pub fn tip(&self, network: &Network) -> Result<Tip, WalletError> {
        let info = self.blockchain_info()?;
        let genesis = network.genesis_hash();
        let first: BlockHash = self.ask(self.client.get_block_hash(Height::GENESIS))?;
        for got in [info.network.genesis_hash, first] {
            if got != genesis {
                return Err(WalletError::WrongNetwork(format!(
                    "the wallet belongs to {} (genesis block {genesis}), but the node is on {} (genesis block {got})",
                    network.name,
                    foreign(&info.network.name)
                )));
            }
        }
        Ok(Tip { height: info.blocks.get(), hash: info.bestblockhash })
    }

    /// The height of the best header known to the node, if it says that it is still catching up with its peers.
    pub fn catching_up_to(&self) -> Result<Option<u32>, WalletError> {
        let info = self.blockchain_info()?;
        Ok(info.initialblockdownload.then(|| info.headers.get()))
    }

    fn blockchain_info(&self) -> Result<types::BlockchainInfo, WalletError> {
        self.ask(self.client.get_blockchain_info())
    }

    /// Hashes of the active chain at these heights.
    pub fn block_hashes(&self, heights: &[u32]) -> Result<Vec<BlockHash>, WalletError> {
        let calls = heights.iter().map(|height| ("getblockhash", json!([height]))).collect();
        self.batch(calls)?.into_iter().collect()
    }

    /// Headers as hex, in the order asked for.
    pub fn headers(&self, hashes: &[BlockHash]) -> Result<Vec<String>, WalletError> {
        let calls = hashes.iter().map(|hash| ("getblockheader", json!([hash, false]))).collect();
        self.batch(calls)?.into_iter().collect()
    }

    /// The heights that the node gives these blocks.
    pub fn block_heights(&self, hashes: &[BlockHash]) -> Result<Vec<u32>, WalletError> {
        let calls = hashes.iter().map(|hash| ("getblockheader", json!([hash, true]))).collect();
        let headers: Vec<Result<types::BlockHeader, WalletError>> = self.batch(calls)?;
        headers.into_iter().map(|header| header.map(|header| header.height.get())).collect()
    }

    /// Transactions with their blocks; `None` for those the node does not know.
    pub fn transactions(&self, txids: &[TxId]) -> Result<Vec<Option<types::RawTransaction>>, WalletError> {
        let calls = txids.iter().map(|txid| ("getrawtransaction", json!([txid, 1]))).collect();
        let answers: Vec<Result<types::RawTransaction, WalletError>> = self.batch(calls)?;
        answers
            .into_iter()
            .map(|answer| match answer {
                Ok(transaction) => Ok(Some(transaction)),
                Err(WalletError::Node { code, .. }) if code == ErrorCode::INVALID_ADDRESS_OR_KEY.0 => Ok(None),
                Err(error) => Err(error),
            })
            .collect()
    }

    /// For each block, the proof that it holds these transactions, as hex.
    pub fn proofs(&self, blocks: &[(BlockHash, Vec<TxId>)]) -> Result<Vec<String>, WalletError> {
        let calls = blocks.iter().map(|(block, txids)| ("gettxoutproof", json!([txids, block]))).collect();
        self.batch(calls)?.into_iter().collect()
    }

    /// Unspent confirmed outputs of these addresses at `tip`.
    pub fn utxos(&self, addresses: &[String], tip: Tip) -> Result<Vec<types::AddressUtxo>, WalletError> {
        let mut all = Vec::new();
        for chunk in addresses.chunks(ADDRESSES_PER_CALL) {
            let answer = self.ask(self.client.get_address_utxos(chunk))?;
            if answer.hash != tip.hash {
                return Err(WalletError::Moving);
            }
            all.extend(answer.utxos);
        }
        Ok(all)
    }

    /// Ids of confirmed transactions of these addresses, from height `start` on.
    pub fn txids(&self, addresses: &[String], start: u32, tip: Tip) -> Result<Vec<TxId>, WalletError> {
        let mut all = Vec::new();
        for chunk in addresses.chunks(ADDRESSES_PER_CALL) {
            let (start, end) = (Height::new(start), Height::new(tip.height));
            all.extend(self.ask(self.client.get_address_txids(chunk, start, end))?);
        }
        Ok(all)
    }

    /// What unconfirmed transactions do to these addresses.
    pub fn mempool(&self, addresses: &[String]) -> Result<Vec<types::AddressDelta>, WalletError> {
        let mut all = Vec::new();
        for chunk in addresses.chunks(ADDRESSES_PER_CALL) {
            all.extend(self.ask(self.client.get_address_mempool(chunk))?);
        }
        Ok(all)
    }

    /// Whether each of these addresses was ever paid in a block.
    pub fn ever_paid(&self, addresses: &[String]) -> Result<Vec<bool>, WalletError> {
        let calls =
            addresses.iter().map(|address| ("getaddressbalance", json!([{ "addresses": [address] }]))).collect();
        let answers: Vec<Result<Value, WalletError>> = self.batch(calls)?;
        answers
            .into_iter()
            .map(|answer| {
                let received = answer?.get("received").and_then(Value::as_u64);
                received.map(|sen| sen > 0).ok_or_else(|| nonsense("getaddressbalance", "no `received`"))
            })
            .collect()
    }

    /// The fee rate in sen per 1,000 bytes that the node thinks will do for `blocks`, if it has an opinion.
    pub fn estimate(&self, blocks: u32) -> Result<Option<Amount>, WalletError> {
        Ok(self.ask(self.client.estimate_smart_fee(blocks))?.feerate.map(|rate| rate.0))
    }

    /// The lowest fee rate in sen per 1,000 bytes that the node takes now.
    pub fn lowest_fee_rate(&self) -> Result<Amount, WalletError> {
        let info = self.ask(self.client.get_mempool_info())?;
        Ok(info.mempoolminfee.0.max(info.minrelaytxfee.0))
    }

    /// Whether the node would take a transaction; its reason if not.
    pub fn would_take(&self, hex: &str) -> Result<Result<(), String>, WalletError> {
        let verdict = self.ask(self.client.test_mempool_accept(hex))?;
        Ok(if verdict.allowed == Some(true) {
            Ok(())
        } else {
            let reason = verdict.reject_details.or(verdict.reject_reason).unwrap_or_default();
            Err(foreign(&reason))
        })
    }

    /// Hands a transaction to the node.
    pub fn send(&self, hex: &str) -> Result<Sent, WalletError> {
        match self.client.send_raw_transaction(hex) {
            Ok(txid) => Ok(Sent::Taken(txid)),
            Err(error) if error.is_rpc(ErrorCode::ALREADY_IN_CHAIN) => Ok(Sent::InChain),
            Err(ClientError::Rpc { code, message })
                if code == ErrorCode::VERIFY.0 || code == ErrorCode::VERIFY_REJECTED.0 =>
            {
                Ok(Sent::Refused(foreign(&message)))
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    fn ask<T>(&self, answer: Result<T, ClientError>) -> Result<T, WalletError> {
        answer.map_err(|error| self.explain(error))
    }

    fn batch<T: DeserializeOwned>(
        &self,
        calls: Vec<(&str, Value)>,
    ) -> Result<Vec<Result<T, WalletError>>, WalletError> {
        let mut answers = Vec::with_capacity(calls.len());
        for chunk in calls.chunks(CALLS_PER_BATCH) {
            for ((method, _), answer) in chunk.iter().zip(self.ask(self.client.batch(chunk))?) {
                answers.push(self.ask(answer).and_then(|value| {
                    serde_json::from_value(value).map_err(|error| nonsense(method, &error.to_string()))
                }));
            }
        }
        Ok(answers)
    }

    fn explain(&self, error: ClientError) -> WalletError {
        match error {
            ClientError::BadUrl { .. } => WalletError::Usage(error.to_string()),
            ClientError::Unreachable { reason, .. } => {
                WalletError::Unreachable { url: self.url.clone(), reason: foreign(&reason) }
            }
            ClientError::NoCookie { path } => WalletError::Unreachable {
                url: self.url.clone(),
                reason: format!(
                    "it is not running, or not there: a running node writes {}, which does not exist (--cookie names \
                     another file)",
                    path.display()
                ),
            },
            ClientError::Auth(reason) => WalletError::Unauthorised { url: self.url.clone(), reason },
            ClientError::Forbidden => WalletError::Forbidden(self.url.clone()),
            ClientError::Busy => {
                WalletError::Unreachable { url: self.url.clone(), reason: "it is too busy, try again".into() }
            }
            ClientError::Rpc { code, .. } if code == ErrorCode::WARM_UP.0 => WalletError::Loading,
            ClientError::Rpc { code, message } => WalletError::Node { code, message: foreign(&message) },
            ClientError::Malformed(reason) => nonsense("a call", &reason),
        }
    }
}

/// What became of a transaction handed to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It is in the mempool, under this id.
    Taken(TxId),
    /// It is in a block already.
    InChain,
    /// The node refuses it, for this reason.
    Refused(String),
}

fn nonsense(method: &str, reason: &str) -> WalletError {
    WalletError::Untrusted(format!("its answer to {method} makes no sense: {}", foreign(reason)))
}
