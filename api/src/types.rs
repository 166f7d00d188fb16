//! Shapes of results that programs read field by field. Names are Bitcoin Core's (Zebra's for addresses).
//!
//! Readers ignore fields they do not know, so a newer node may say more.

use crate::coins::Coins;
use serde::{Deserialize, Serialize};
use setara_core::hash::{BlockHash, Hash256, TxId, WtxId};
use setara_core::height::Height;

/// Which network a node is on; beside Bitcoin Core's `chain`, which only knows four names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// The genesis file's name.
    pub name: String,
    /// Identifies the whole rule set.
    pub genesis_hash: BlockHash,
    /// Address prefix.
    pub prefix: String,
    /// Name of the coin.
    pub ticker: String,
}

/// `getblockchaininfo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockchainInfo {
    /// `main`, `test`, `regtest` (fixed difficulty) or `signet` (a network of one's own).
    pub chain: String,
    /// Height of the tip.
    pub blocks: Height,
    /// Height of the best header known.
    pub headers: Height,
    /// The tip.
    pub bestblockhash: BlockHash,
    /// Target of the tip, compact, as 8 hex digits.
    pub bits: String,
    /// Target of the tip, as 64 hex digits.
    pub target: String,
    /// How much harder than the easiest possible target of Bitcoin.
    pub difficulty: f64,
    /// The tip's own time.
    pub time: u32,
    /// Median time past at the tip.
    pub mediantime: u32,
    /// Blocks over known headers.
    pub verificationprogress: f64,
    /// Whether the node is still catching up with its peers.
    pub initialblockdownload: bool,
    /// Cumulative work, as 64 hex digits.
    pub chainwork: String,
    /// Bytes of blocks and state on disk; 0 when the store keeps nothing there.
    pub size_on_disk: u64,
    /// Whether old blocks are dropped.
    pub pruned: bool,
    /// Where they are, the lowest height from which on every block is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruneheight: Option<Height>,
    /// Where they are, whether that happens by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic_pruning: Option<bool>,
    /// Where it does, the bytes that may be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune_target_size: Option<u64>,
    /// The snapshot that the chain began with, if with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotInfo>,
    /// How far the snapshot is that the chain is to begin with, while it is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_fetch: Option<SnapshotFetchInfo>,
    /// The network.
    pub network: NetworkInfo,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// The snapshot that a chain began with, as `getblockchaininfo` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Height of the block after which its coins are.
    pub base_height: Height,
    /// That block.
    pub base_hash: BlockHash,
    /// Whether every block up to the base has been verified.
    pub validated: bool,
    /// Height up to which they have been.
    pub verified_blocks: Height,
}

/// A snapshot that is fetched from peers, as `getblockchaininfo` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotFetchInfo {
    /// In words.
    pub stage: String,
    /// Height of the block after which its coins are, once one has been chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_height: Option<Height>,
    /// That block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_hash: Option<BlockHash>,
    /// Of 256 parts, those that are here and checked.
    pub buckets: u64,
    /// Bytes of coins that are here.
    pub bytes: u64,
    /// Bytes of all coins.
    pub bytes_total: u64,
    /// Peers that serve it.
    pub peers: u64,
}

/// `getblockheader` with verbosity.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockHeader {
    /// The block.
    pub hash: BlockHash,
    /// Blocks on top of it and itself; -1 when it is not in the active chain.
    pub confirmations: i64,
    /// Its height.
    pub height: Height,
    /// Header field.
    pub version: u32,
    /// The version as 8 hex digits.
    #[serde(rename = "versionHex")]
    pub version_hex: String,
    /// Header field.
    pub merkleroot: Hash256,
    /// Header field.
    pub time: u32,
    /// Median of the last eleven blocks' times, this one included.
    pub mediantime: u32,
    /// Header field.
    pub nonce: u32,
    /// Compact target, as 8 hex digits.
    pub bits: String,
    /// The target, as 64 hex digits.
    pub target: String,
    /// How much harder than the easiest possible target of Bitcoin.
    pub difficulty: f64,
    /// Cumulative work, as 64 hex digits.
    pub chainwork: String,
    /// Transactions, the coinbase included.
    #[serde(rename = "nTx")]
    pub transaction_count: u64,
    /// The parent; absent for genesis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previousblockhash: Option<BlockHash>,
    /// The child in the active chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nextblockhash: Option<BlockHash>,
}

/// An unspent output of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressUtxo {
    /// Its address.
    pub address: String,
    /// The transaction that made it.
    pub txid: TxId,
    /// Its position there.
    #[serde(rename = "outputIndex")]
    pub output_index: u32,
    /// What it is locked to: the 32 bytes of the address, as hex.
    pub script: String,
    /// Its amount in sen.
    pub satoshis: u64,
    /// Height of the block that made it.
    pub height: Height,
    /// Whether a coinbase made it.
    pub coinbase: bool,
    /// Blocks from that one to the tip, both included.
    pub confirmations: u32,
}

/// `getaddressutxos` with `chainInfo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddressUtxos {
    /// The outputs.
    pub utxos: Vec<AddressUtxo>,
    /// The tip at which they are unspent.
    pub hash: BlockHash,
    /// Its height.
    pub height: Height,
}

/// One output made, or one coin spent, by an unconfirmed transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressDelta {
    /// Whose money moves.
    pub address: String,
    /// The unconfirmed transaction.
    pub txid: TxId,
    /// Position of the output or input in it.
    pub index: u32,
    /// Sen gained; negative when spent.
    pub satoshis: i64,
    /// When the node received it, in Unix seconds.
    pub timestamp: u64,
    /// For a spend: the transaction that made the coin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prevtxid: Option<TxId>,
    /// For a spend: the coin's position there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prevout: Option<u32>,
}

/// What a wallet needs of `getrawtransaction` with verbosity: the bytes say the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RawTransaction {
    /// Identity without witnesses.
    pub txid: TxId,
    /// Identity with witnesses.
    pub hash: WtxId,
    /// The encoding.
    pub hex: String,
    /// Block that holds it; absent while unconfirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blockhash: Option<BlockHash>,
    /// Blocks from that one to the tip, both included; 0 when that block is not in the active chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmations: Option<u32>,
    /// That block's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocktime: Option<u32>,
}

/// Fees of a verdict.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AcceptFees {
    /// The transaction's fee.
    pub base: Coins,
    /// Coins per 1,000 bytes.
    #[serde(rename = "effective-feerate", default, skip_serializing_if = "Option::is_none")]
    pub effective_feerate: Option<Coins>,
    /// The transactions that the rate is of.
    #[serde(rename = "effective-includes", default)]
    pub effective_includes: Vec<WtxId>,
}

/// One verdict of `testmempoolaccept`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MempoolAccept {
    /// The transaction judged.
    pub txid: TxId,
    /// With its witnesses.
    pub wtxid: WtxId,
    /// The verdict; absent where another transaction of the list kept this one from being judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<bool>,
    /// Why the list as a whole cannot be judged.
    #[serde(rename = "package-error", default, skip_serializing_if = "Option::is_none")]
    pub package_error: Option<String>,
    /// Bytes; present when allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsize: Option<u64>,
    /// Present when allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fees: Option<AcceptFees>,
    /// The stable code of the rule; present when refused.
    #[serde(rename = "reject-reason", default, skip_serializing_if = "Option::is_none")]
    pub reject_reason: Option<String>,
    /// The same for people.
    #[serde(rename = "reject-details", default, skip_serializing_if = "Option::is_none")]
    pub reject_details: Option<String>,
}

/// `estimatesmartfee`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FeeEstimate {
    /// Coins per 1,000 bytes; absent when the node has seen too little.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feerate: Option<Coins>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<String>>,
    /// Blocks the estimate is for.
    pub blocks: u32,
}

/// `getmempoolinfo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MempoolInfo {
    /// Whether the mempool of the last run has been read back.
    pub loaded: bool,
    /// Transactions.
    pub size: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Memory they take.
    pub usage: u64,
    /// Their fees.
    pub total_fee: Coins,
    /// Most memory allowed.
    pub maxmempool: u64,
    /// Lowest fee rate taken now, in coins per 1,000 bytes.
    pub mempoolminfee: Coins,
    /// Lowest fee rate ever taken.
    pub minrelaytxfee: Coins,
    /// What a replacement must add.
    pub incrementalrelayfee: Coins,
    /// Unconfirmed transactions no peer has asked for yet.
    pub unbroadcastcount: u64,
    /// Whether any transaction can be replaced by one that pays more.
    pub fullrbf: bool,
}

/// `validateaddress`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ValidatedAddress {
    /// The verdict; without it only the error fields are there.
    pub isvalid: bool,
    /// The address, normalised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The 32 bytes it stands for, as hex.
    #[serde(rename = "scriptPubKey", default, skip_serializing_if = "Option::is_none")]
    pub script_pub_key: Option<String>,
    /// Always false: there are no scripts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isscript: Option<bool>,
    /// Always false: a client must not take it for one of Bitcoin's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iswitness: Option<bool>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where the wrong characters stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_locations: Option<Vec<u32>>,
}
