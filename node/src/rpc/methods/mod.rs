//! The methods: one thin file per category. Each reads its arguments, takes one view of the chain, and answers; what is
//! decided is decided elsewhere.

mod addresses;
mod blockchain;
mod chain_stats;
mod coins;
mod control;
mod generating;
mod mempool;
mod mining;
mod network;
mod snapshots;
mod transactions;
mod util;

use super::args::Args;
use super::context::RpcContext;
use super::dispatch::Handler::{self, Control, Quick, Wait, Work};
use super::envelope::Outcome;
use super::error::RpcError;
use crate::chain::{StoredHeader, SubmitError, View};
use crate::store::StoreError;
use setara_api::error::ErrorCode;
use setara_core::hash::BlockHash;

/// How a method is answered; a row for each of the registry's.
pub fn handler(name: &str) -> Option<Handler> {
    Some(match name {
        "help" => Control(control::help),
        "stop" => Control(control::stop),
        "uptime" => Control(control::uptime),
        "logging" => Control(control::logging),
        "getrpcinfo" => Control(control::getrpcinfo),
        "rpc.discover" => Control(control::discover),

        "getblockcount" => Quick(blockchain::getblockcount),
        "getbestblockhash" => Quick(blockchain::getbestblockhash),
        "getblockhash" => Work(blockchain::getblockhash),
        "getblockchaininfo" => Work(blockchain::getblockchaininfo),
        "getdifficulty" => Work(blockchain::getdifficulty),
        "getblockheader" => Work(blockchain::getblockheader),
        "getblock" => Work(blockchain::getblock),
        "dumptxoutset" => Work(snapshots::dumptxoutset),
        "loadtxoutset" => Work(snapshots::loadtxoutset),
        "pruneblockchain" => Work(blockchain::pruneblockchain),
        "getchaintips" => Work(blockchain::getchaintips),
        "getdeploymentinfo" => Work(blockchain::getdeploymentinfo),
        "invalidateblock" => Work(blockchain::invalidateblock),
        "reconsiderblock" => Work(blockchain::reconsiderblock),
        "getblockstats" => Work(chain_stats::getblockstats),
        "getchaintxstats" => Work(chain_stats::getchaintxstats),
        "getnetworkhashps" => Work(chain_stats::getnetworkhashps),
        "gettxout" => Work(coins::gettxout),
        "gettxoutsetinfo" => Work(coins::gettxoutsetinfo),
        "gettxoutproof" => Work(coins::gettxoutproof),
        "verifytxoutproof" => Work(coins::verifytxoutproof),

        "getmempoolinfo" => Work(mempool::getmempoolinfo),
        "getrawmempool" => Work(mempool::getrawmempool),
        "getmempoolentry" => Work(mempool::getmempoolentry),
        "getmempoolancestors" => Work(mempool::getmempoolancestors),
        "getmempooldescendants" => Work(mempool::getmempooldescendants),
        "estimatesmartfee" => Work(mempool::estimatesmartfee),

        "getrawtransaction" => Work(transactions::getrawtransaction),
        "sendrawtransaction" => Work(transactions::sendrawtransaction),
        "testmempoolaccept" => Work(transactions::testmempoolaccept),
        "decoderawtransaction" => Work(transactions::decoderawtransaction),
        "createrawtransaction" => Work(transactions::createrawtransaction),
        "decodescript" => Work(transactions::decodescript),

        "getmininginfo" => Work(mining::getmininginfo),
        "getblocktemplate" => Wait(mining::wait_for_change, mining::getblocktemplate),
        "submitblock" => Work(mining::submitblock),
        "generatetoaddress" => Work(generating::generatetoaddress),
        "generateblock" => Work(generating::generateblock),
        "setmocktime" => Work(generating::setmocktime),

        "getpeerinfo" => Work(network::getpeerinfo),
        "getnetworkinfo" => Work(network::getnetworkinfo),
        "getconnectioncount" => Work(network::getconnectioncount),
        "getnettotals" => Work(network::getnettotals),
        "addnode" => Work(network::addnode),
        "disconnectnode" => Work(network::disconnectnode),
        "getaddednodeinfo" => Work(network::getaddednodeinfo),
        "getprivatebroadcastinfo" => Work(network::getprivatebroadcastinfo),
        "abortprivatebroadcast" => Work(network::abortprivatebroadcast),
        "ping" => Work(network::ping),
        "setban" => Work(network::setban),
        "listbanned" => Work(network::listbanned),
        "clearbanned" => Work(network::clearbanned),
        "setnetworkactive" => Work(network::setnetworkactive),
        "getnodeaddresses" => Work(network::getnodeaddresses),
        "waitfornewblock" => Wait(network::wait_for_new_block, network::waited),
        "waitforblock" => Wait(network::wait_for_block, network::waited),
        "waitforblockheight" => Wait(network::wait_for_block_height, network::waited),

        "getaddressbalance" => Work(addresses::getaddressbalance),
        "getaddressutxos" => Work(addresses::getaddressutxos),
        "getaddresstxids" => Work(addresses::getaddresstxids),
        "getaddressmempool" => Work(addresses::getaddressmempool),
        "backupnode" => Work(util::backupnode),
        "getmemoryinfo" => Work(util::getmemoryinfo),
        "getindexinfo" => Work(addresses::getindexinfo),
        "validateaddress" => Work(util::validateaddress),
        _ => return None,
    })
}

/// The method that [`send_all`] answers many calls of at once.
pub const SEND: &str = "sendrawtransaction";

/// The outcomes of many [`SEND`] calls, as if they had been made one after the other.
pub fn send_all(context: &RpcContext, calls: &[&Args]) -> Vec<Outcome> {
    transactions::send_all(context, calls)
}

/// A fault of the store: never the caller's.
fn store_failed(error: StoreError) -> RpcError {
    tracing::error!(%error, "the store failed while answering");
    RpcError::new(ErrorCode::DATABASE, format!("Database error: {error}"))
}

fn stopping() -> RpcError {
    RpcError::new(ErrorCode::LIMIT_EXCEEDED, "The node is stopping")
}

/// A submission that came to no verdict on the block.
fn submit_failed(error: SubmitError) -> RpcError {
    match error {
        SubmitError::Stopping => stopping(),
        SubmitError::Fault(fault) => RpcError::new(ErrorCode::DATABASE, fault.to_string()),
        other => RpcError::new(ErrorCode::VERIFY, other.to_string()),
    }
}

/// A block's row, or Bitcoin Core's error.
fn found_header(view: &View, hash: &BlockHash) -> Result<StoredHeader, RpcError> {
    view.header(hash).map_err(store_failed)?.ok_or_else(|| RpcError::not_found("Block not found"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use setara_api::registry;

    #[test]
    fn every_method_of_the_registry_has_a_handler() {
        for method in registry::methods() {
            assert!(handler(method.name).is_some(), "{}", method.name);
        }
        assert!(handler("getblock ").is_none());
    }
}
