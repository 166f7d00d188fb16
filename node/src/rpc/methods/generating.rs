//! Blocks at will and a settable clock: only where difficulty is fixed (the dispatcher refuses them elsewhere).

use super::mining::template_failed;
use super::submit_failed;
use crate::mining::{Contents, GenerateError};
use crate::rpc::args::{self, Args};
use crate::rpc::context::RpcContext;
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::{Value, json};
use setara_api::error::ErrorCode;
use setara_core::codec::{decode, encode};
use setara_core::hash::{BlockHash, TxId};
use setara_core::transaction::Transaction;
use std::sync::Arc;

/// Hashes tried in all unless the caller says otherwise, as in Bitcoin Core.
const TRIES_DEFAULT: i64 = 1_000_000;
/// Blocks of one call: the answer names them all.
const BLOCKS_MAX: i64 = 1_000_000;
/// Other blocks that may come first, one after the other, before a call gives up.
const OVERTAKEN_MAX: u32 = 10;

fn generate_failed(error: GenerateError) -> RpcError {
    match error {
        GenerateError::Template(error) => template_failed(error),
        GenerateError::Submit(error) => submit_failed(error),
        GenerateError::Stopped => super::stopping(),
        GenerateError::Overtaken | GenerateError::Exhausted => RpcError::misc(error.to_string()),
    }
}

pub(super) fn generatetoaddress(context: &RpcContext, args: &Args) -> Outcome {
    let blocks = args.integer("nblocks", 0)?;
    let address = args::address(args.text("address"), &context.network.prefix)?;
    let tries = args.integer("maxtries", TRIES_DEFAULT)?;
    if blocks > BLOCKS_MAX {
        return Err(RpcError::parameter(format!("nblocks is at most {BLOCKS_MAX}")));
    }
    let mut tries = u64::try_from(tries).unwrap_or(0);
    let stop = || context.shutdown.is_cancelled();
    let mut made: Vec<BlockHash> = Vec::new();
    let mut overtaken = 0;
    for _ in 0..blocks {
        loop {
            match context.templates.generate(Contents::Mempool, address, &mut tries, &stop) {
                Ok(block) => made.push(block.hash()),
                Err(GenerateError::Overtaken) if overtaken < OVERTAKEN_MAX => {
                    overtaken += 1;
                    continue;
                }
                // As in Bitcoin Core: what was made within the hashes allowed.
                Err(GenerateError::Exhausted) => return answer(&made),
                Err(error) => return Err(generate_failed(error)),
            }
            break;
        }
    }
    answer(&made)
}

pub(super) fn generateblock(context: &RpcContext, args: &Args) -> Outcome {
    let address = args::address(args.text("output"), &context.network.prefix)?;
    let mut transactions: Vec<Arc<Transaction>> = Vec::new();
    for text in args.texts("transactions")? {
        transactions.push(match text.parse::<TxId>() {
            Ok(txid) => context
                .mempool
                .get(&txid)
                .ok_or_else(|| RpcError::not_found(format!("Transaction {txid} not in mempool.")))?,
            Err(_) => {
                let decoded = hex::decode(text).ok().and_then(|bytes| decode(&bytes).ok());
                let message = "Transaction decode failed: neither a txid nor a transaction";
                Arc::new(decoded.ok_or_else(|| RpcError::deserialization(message))?)
            }
        });
    }
    let mut tries = u64::MAX;
    let stop = || context.shutdown.is_cancelled();
    let contents = Contents::These(transactions);
    if args.flag("submit", true) {
        let block = context.templates.generate(contents, address, &mut tries, &stop).map_err(generate_failed)?;
        return answer(&json!({"hash": block.hash()}));
    }
    let block = context.templates.solve(contents, address, &mut tries, &stop).map_err(generate_failed)?;
    answer(&json!({"hash": block.hash(), "hex": hex::encode(encode(&block))}))
}

pub(super) fn setmocktime(context: &RpcContext, args: &Args) -> Outcome {
    let time = args.integer("timestamp", 0)?;
    let Ok(seconds) = u32::try_from(time) else {
        let message = format!("Mocktime must be in the range [0, {}], not {time}.", u32::MAX);
        return Err(RpcError::parameter(message));
    };
    let Some(mock) = &context.mock_clock else {
        return Err(RpcError::new(ErrorCode::MISC, "This node's clock cannot be set"));
    };
    mock.mock(u64::from(seconds));
    answer(&Value::Null)
}
