//! Unconfirmed transactions.

use crate::mempool::EntryInfo;
use crate::rpc::args::Args;
use crate::rpc::context::RpcContext;
use crate::rpc::convert::{self, WEIGHT_FACTOR};
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::{Map, Value, json};
use setara_api::coins::Coins;
use setara_api::types::MempoolInfo;
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use std::sync::atomic::Ordering;

/// Targets that Bitcoin Core's clients ask for; those beyond what is tracked get the farthest estimate.
const TARGETS: std::ops::RangeInclusive<i64> = 1..=1008;

pub(super) fn getmempoolinfo(context: &RpcContext, _: &Args) -> Outcome {
    let info = context.mempool.info();
    let options = context.mempool.options();
    let rate = |sen: u64| Coins(Amount::from_sen(sen));
    answer(&MempoolInfo {
        loaded: context.mempool_loaded.load(Ordering::Acquire),
        size: info.count,
        bytes: info.bytes,
        usage: info.usage,
        total_fee: Coins(info.fees),
        maxmempool: info.max_usage,
        mempoolminfee: rate(info.floor),
        minrelaytxfee: rate(options.relay_floor),
        incrementalrelayfee: rate(options.increment),
        unbroadcastcount: 0,
        fullrbf: true,
    })
}

fn entry(info: &EntryInfo) -> Value {
    let sen = |fee: u64| convert::coins(Amount::from_sen(fee));
    let (ancestors, ancestor_rate) = info.ancestors;
    let (descendants, descendant_rate) = info.descendants;
    json!({
        "vsize": info.ids.size,
        "weight": info.ids.size.saturating_mul(WEIGHT_FACTOR),
        "time": info.time,
        "height": info.tip_height,
        "descendantcount": descendants,
        "descendantsize": descendant_rate.size,
        "ancestorcount": ancestors,
        "ancestorsize": ancestor_rate.size,
        "wtxid": info.ids.wtxid,
        "fees": {
            "base": convert::coins(info.fee),
            "modified": convert::coins(info.fee),
            "ancestor": sen(ancestor_rate.fee),
            "descendant": sen(descendant_rate.fee),
        },
        "depends": info.depends,
        "spentby": info.spent_by,
        "bip125-replaceable": true,
        "unbroadcast": false,
    })
}

fn entries(infos: &[EntryInfo], verbose: bool) -> Outcome {
    if verbose {
        let map: Map<String, Value> = infos.iter().map(|info| (info.ids.txid.to_string(), entry(info))).collect();
        answer(&map)
    } else {
        answer(&infos.iter().map(|info| info.ids.txid).collect::<Vec<TxId>>())
    }
}

pub(super) fn getrawmempool(context: &RpcContext, args: &Args) -> Outcome {
    let (verbose, with_sequence) = (args.flag("verbose", false), args.flag("mempool_sequence", false));
    if verbose && with_sequence {
        return Err(RpcError::parameter("Verbose results cannot contain mempool sequence values."));
    }
    if verbose {
        return entries(&context.mempool.entries(), true);
    }
    let (ids, sequence) = context.mempool.ids_and_sequence();
    let txids: Vec<TxId> = ids.iter().map(|ids| ids.txid).collect();
    if with_sequence { answer(&json!({"txids": txids, "mempool_sequence": sequence})) } else { answer(&txids) }
}

fn absent() -> RpcError {
    RpcError::not_found("Transaction not in mempool")
}

pub(super) fn getmempoolentry(context: &RpcContext, args: &Args) -> Outcome {
    let info = context.mempool.entry(&args.txid("txid")?).ok_or_else(absent)?;
    answer(&entry(&info))
}

pub(super) fn getmempoolancestors(context: &RpcContext, args: &Args) -> Outcome {
    let infos = context.mempool.ancestors(&args.txid("txid")?).ok_or_else(absent)?;
    entries(&infos, args.flag("verbose", false))
}

pub(super) fn getmempooldescendants(context: &RpcContext, args: &Args) -> Outcome {
    let infos = context.mempool.descendants(&args.txid("txid")?).ok_or_else(absent)?;
    entries(&infos, args.flag("verbose", false))
}

pub(super) fn estimatesmartfee(context: &RpcContext, args: &Args) -> Outcome {
    let target = args.integer("conf_target", 0)?;
    if !TARGETS.contains(&target) {
        return Err(RpcError::parameter("Invalid conf_target, must be between 1 and 1008"));
    }
    let mode = args.optional_text("estimate_mode").unwrap_or("economical");
    if !["unset", "economical", "conservative"].iter().any(|known| known.eq_ignore_ascii_case(mode)) {
        let message = "Invalid estimate_mode parameter, must be one of: \"unset\", \"economical\", \"conservative\"";
        return Err(RpcError::parameter(message));
    }
    let target = u32::try_from(target).unwrap_or(u32::MAX);
    match context.mempool.estimate(target) {
        Some(estimate) => {
            answer(&json!({"feerate": convert::feerate(estimate.sen_per_kilobyte), "blocks": estimate.blocks}))
        }
        None => answer(&json!({"errors": ["Insufficient data or no feerate found"], "blocks": target})),
    }
}
