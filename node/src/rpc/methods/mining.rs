//! Work for miners, and blocks from them.

use super::{chain_stats, found_header, store_failed, submit_failed};
use crate::chain::{Accepted, SubmitError};
use crate::mining::{Template, TemplateError};
use crate::rpc::args::Args;
use crate::rpc::context::RpcContext;
use crate::rpc::convert::{self, WEIGHT_FACTOR};
use crate::rpc::dispatch::{Waiting, answer};
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::{Map, Value, json};
use setara_api::error::ErrorCode;
use setara_core::address::Address;
use setara_core::block::{Block, EncodedBlock};
use setara_core::codec::{decode, encode};
use setara_core::consensus::header_is_early;
use setara_core::hash::BlockHash;
use std::sync::Arc;
use std::time::Duration;

/// How long a long poll waits for a new tip before a changed mempool alone answers it, and how often it then looks
/// (Bitcoin Core's times: templates that change every second only cost miners work).
const MEMPOOL_WAIT_FIRST: Duration = Duration::from_secs(60);
const MEMPOOL_WAIT_NEXT: Duration = Duration::from_secs(10);
/// Least bytes of a block for each signature in it: what `sigoplimit` is made of.
const BYTES_PER_SIGNATURE: u64 = 64;
/// Hex digits of a block hash at the start of a long poll's id.
const HASH_DIGITS: usize = 64;

pub(super) fn getmininginfo(context: &RpcContext, _: &Args) -> Outcome {
    let view = context.chain.view();
    let tip = found_header(&view, &view.tip.hash())?;
    let bits = tip.header.bits;
    let next = view.tip.header.required_bits(&context.network);
    let next_height = view.tip.header.next_height().unwrap_or(tip.height);
    let hashes = chain_stats::hashes_per_second(context, &view, 120, -1)?;
    answer(&json!({
        "blocks": tip.height,
        "bits": convert::bits_hex(bits),
        "difficulty": convert::float(convert::difficulty(bits)),
        "target": convert::target_hex(bits),
        "networkhashps": convert::float(hashes),
        "pooledtx": context.mempool.info().count,
        "blockmintxfee": convert::feerate(context.mempool.options().relay_floor),
        "chain": context.network.chain_name(),
        "next": {
            "height": next_height,
            "bits": convert::bits_hex(next),
            "difficulty": convert::float(convert::difficulty(next)),
            "target": convert::target_hex(next),
        },
        "threads": context.miner_threads(),
        "warnings": context.warnings(),
    }))
}

fn request<'a>(args: &'a Args, key: &str) -> Option<&'a Value> {
    args.value("template_request").and_then(|request| request.get(key)).filter(|value| !value.is_null())
}

/// A long poll's id: the tip, then the mempool's change counter.
fn read_longpollid(value: &Value) -> Result<(BlockHash, u64), RpcError> {
    let text = value.as_str().and_then(|text| text.split_at_checked(HASH_DIGITS));
    let parsed = text.and_then(|(hash, sequence)| Some((hash.parse().ok()?, sequence.parse().ok()?)));
    parsed.ok_or_else(|| RpcError::parameter("Invalid longpollid"))
}

/// Sleeps until the template that the caller holds is out of date; at once if it names none.
pub(super) fn wait_for_change(context: Arc<RpcContext>, args: Args) -> Waiting {
    Box::pin(async move {
        if request(&args, "mode").is_some_and(|mode| mode != "template") {
            return Ok(());
        }
        let Some(id) = request(&args, "longpollid") else { return Ok(()) };
        let (tip, sequence) = read_longpollid(id)?;
        let mut tips = context.chain.tip_watch();
        let mut pause = MEMPOOL_WAIT_FIRST;
        loop {
            let moved = async {
                // The watch holds the newest value: nothing is missed between looking and waiting.
                let _ = tips.wait_for(|newest| newest.hash != tip).await;
            };
            if tokio::time::timeout(pause, moved).await.is_ok() {
                return Ok(());
            }
            if *context.mempool.changes().borrow() != sequence {
                return Ok(());
            }
            pause = MEMPOOL_WAIT_NEXT;
        }
    })
}

pub(super) fn getblocktemplate(context: &RpcContext, args: &Args) -> Outcome {
    match request(args, "mode").map(Value::as_str) {
        None | Some(Some("template")) => {}
        Some(Some("proposal")) => return proposal(context, args),
        Some(_) => return Err(RpcError::parameter("Invalid mode")),
    }
    // Without an address to pay, a miner makes its own coinbase; the template is built and checked with one all the same.
    let payout = context.mining_address.unwrap_or(Address::ZERO);
    let template = context.templates.current(payout).map_err(template_failed)?;
    answer(&describe(context, &template))
}

pub(super) fn template_failed(error: TemplateError) -> RpcError {
    match error {
        TemplateError::Chain(error) => submit_failed(error),
        TemplateError::Rule(rule) => RpcError::new(ErrorCode::VERIFY, format!("{}: {rule}", rule.code())),
        other => RpcError::misc(other.to_string()),
    }
}

fn describe(context: &RpcContext, template: &Template) -> Map<String, Value> {
    let network = &context.network;
    let transactions: Vec<Value> = template
        .transactions
        .iter()
        .map(|selected| {
            let signatures: usize = selected.transaction.witnesses.iter().map(|witness| witness.signatures.len()).sum();
            let depends: Vec<usize> = selected.depends.iter().map(|position| position.saturating_add(1)).collect();
            json!({
                "data": hex::encode(encode(selected.transaction.as_ref())),
                "txid": selected.ids.wtxid,
                "hash": selected.ids.wtxid,
                "id": selected.ids.txid,
                "depends": depends,
                "fee": selected.fee.sen(),
                "sigops": signatures,
                "weight": selected.ids.size.saturating_mul(WEIGHT_FACTOR),
            })
        })
        .collect();
    let header = &template.header;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("capabilities", json!(["proposal"]));
    put("version", json!(header.version));
    put("rules", json!(["!segwit"]));
    put("vbavailable", json!({}));
    put("vbrequired", json!(0));
    put("previousblockhash", json!(header.previous));
    put("transactions", Value::Array(transactions));
    put("coinbaseaux", json!({}));
    put("coinbasevalue", json!(template.value.sen()));
    if context.mining_address.is_some() {
        let data = encode(&template.coinbase);
        let txid = template.coinbase.txid();
        put(
            "coinbasetxn",
            json!({
                "data": hex::encode(&data),
                "txid": txid,
                "hash": txid,
                "depends": [],
                "fee": 0,
                "sigops": 0,
                "weight": u64::try_from(data.len()).unwrap_or(u64::MAX).saturating_mul(WEIGHT_FACTOR),
            }),
        );
    }
    put("coins_root", json!(template.coinbase.coins_root));
    put("longpollid", json!(format!("{}{}", header.previous, template.sequence)));
    put("target", json!(template.target.to_string()));
    put("mintime", json!(template.min_time));
    put("mutable", json!(["time", "transactions", "prevblock"]));
    put("noncerange", json!("00000000ffffffff"));
    put("sigoplimit", json!(network.max_block_bytes / BYTES_PER_SIGNATURE));
    put("sizelimit", json!(network.max_block_bytes));
    put("weightlimit", json!(network.max_block_bytes.saturating_mul(WEIGHT_FACTOR)));
    put("curtime", json!(template.time(&*context.clock)));
    put("bits", json!(convert::bits_hex(header.bits)));
    put("height", json!(template.height()));
    fields
}

fn proposal(context: &RpcContext, args: &Args) -> Outcome {
    let data = request(args, "data")
        .and_then(Value::as_str)
        .ok_or_else(|| RpcError::new(ErrorCode::TYPE, "Missing data String key for proposal"))?;
    let bytes = hex::decode(data).map_err(|_| RpcError::deserialization("Block decode failed"))?;
    let Ok(block) = decode::<Block>(&bytes) else { return answer(&UNDECODABLE) };
    let view = context.chain.view();
    if view.header(&block.hash()).map_err(store_failed)?.is_some() {
        return answer(&"duplicate");
    }
    if block.header.previous != view.tip.hash() {
        return answer(&"inconclusive-not-best-prevblk");
    }
    match context.chain.check_proposal(&block) {
        // Submitted, it would be held back.
        Ok(()) => match header_is_early(&context.network, &block.header, context.clock.unix_seconds()) {
            Ok(()) => answer(&Value::Null),
            Err(rule) => answer(&rule.code()),
        },
        Err(error) => verdict(error),
    }
}

/// BIP 22 has no word for bytes that are no block.
const UNDECODABLE: &str = "undecodable";

pub(super) fn submitblock(context: &RpcContext, args: &Args) -> Outcome {
    let bytes = hex::decode(args.text("hexdata")).map_err(|_| RpcError::deserialization("Block decode failed"))?;
    // A string, not an error: miners take an error for a fault of the connection and send the same block again.
    let Ok(block) = EncodedBlock::decode(bytes) else { return answer(&UNDECODABLE) };
    match context.chain.submit(block) {
        Ok(Accepted::Connected) => answer(&Value::Null),
        Ok(Accepted::Duplicate) => answer(&"duplicate"),
        Ok(Accepted::SideBranch | Accepted::Ignored) => answer(&"inconclusive"),
        Err(error) => verdict(error),
    }
}

/// Why a block was not taken, in BIP 22's words or the rule's code.
fn verdict(error: SubmitError) -> Outcome {
    match error {
        SubmitError::Invalid(rule) | SubmitError::Mutated(rule) | SubmitError::Early(rule) => answer(&rule.code()),
        SubmitError::DuplicateInvalid => answer(&"duplicate-invalid"),
        SubmitError::InvalidParent(_) => answer(&"bad-prevblk"),
        SubmitError::MissingParent(_) => answer(&"prev-blk-not-found"),
        SubmitError::SetAside(_) | SubmitError::Pruned(_) => answer(&"inconclusive"),
        SubmitError::Undecodable(_) => answer(&UNDECODABLE),
        error @ (SubmitError::Fault(_) | SubmitError::Stopping) => Err(submit_failed(error)),
    }
}
