//! The address index, and how far the indexes are.

use super::store_failed;
use crate::index::HistoryRow;
use crate::rpc::args::{self, Args};
use crate::rpc::context::RpcContext;
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::{Map, Value, json};
use setara_api::types::{AddressDelta, AddressUtxo, AddressUtxos};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use setara_core::height::Height;
use std::collections::BTreeSet;

/// Addresses in one question.
const ADDRESSES_MAX: usize = 1_000;
/// Rows of one answer: at some 400 bytes each they stay within the bound of an answer.
const ROWS_MAX: usize = 100_000;

/// The addresses asked for, each once, in the order given: one text, `[..]`, or `{"addresses": [..]}`.
fn addresses(context: &RpcContext, args: &Args) -> Result<Vec<Address>, RpcError> {
    let items: &[Value] = match args.value("addresses") {
        Some(text @ Value::String(_)) => std::slice::from_ref(text),
        Some(Value::Array(items)) => items,
        Some(Value::Object(map)) => match map.get("addresses") {
            Some(Value::Array(items)) => items,
            _ => return Err(RpcError::parameter("addresses must be an array")),
        },
        _ => return Err(RpcError::parameter("addresses must be a string, an array or an object")),
    };
    if items.len() > ADDRESSES_MAX {
        return Err(RpcError::parameter(format!("At most {ADDRESSES_MAX} addresses can be asked about")));
    }
    let texts = items.iter().map(|item| args::text("addresses", item)).collect::<Result<Vec<&str>, _>>()?;
    let mut seen = BTreeSet::new();
    let mut addresses = Vec::new();
    for text in texts {
        let address = args::address(text, &context.network.prefix)?;
        if seen.insert(address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// What is said beside the addresses: in their object, or as a parameter of its own.
fn member<'a>(args: &'a Args, key: &str) -> Option<&'a Value> {
    let inside = args.value("addresses").and_then(|value| value.get(key)).filter(|value| !value.is_null());
    inside.or_else(|| args.value(key))
}

fn too_many() -> RpcError {
    RpcError::parameter(format!("More than {ROWS_MAX} results: ask about fewer addresses or a shorter range"))
}

pub(super) fn getaddressbalance(context: &RpcContext, args: &Args) -> Outcome {
    let addresses = addresses(context, args)?;
    let index = context.index_view()?;
    let (mut balance, mut received) = (Amount::ZERO, 0u128);
    for address in &addresses {
        let totals = index.address_totals(address).map_err(store_failed)?;
        let overflow = || RpcError::internal("the sum of all coins overflows");
        balance = balance.checked_add(totals.balance).ok_or_else(overflow)?;
        received = received.saturating_add(totals.received);
    }
    // The same money can come again and again; what 64 bits cannot say is told as the most they can.
    let received = u64::try_from(received).unwrap_or(u64::MAX);
    answer(&json!({"balance": balance.sen(), "received": received}))
}

pub(super) fn getaddressutxos(context: &RpcContext, args: &Args) -> Outcome {
    let addresses = addresses(context, args)?;
    let with_chain = match member(args, "chainInfo") {
        None => false,
        Some(Value::Bool(flag)) => *flag,
        Some(_) => return Err(RpcError::parameter("chainInfo must be a boolean")),
    };
    let index = context.index_view()?;
    let view = &index.view;
    let tip = view.tip.height();
    let mut utxos = Vec::new();
    for address in &addresses {
        let text = address.to_text(&context.network.prefix);
        let script = hex::encode(address.as_bytes());
        for row in index.address_coins(address, None) {
            let row = row.map_err(store_failed)?;
            if utxos.len() >= ROWS_MAX {
                return Err(too_many());
            }
            utxos.push(AddressUtxo {
                address: text.clone(),
                txid: row.outpoint.txid,
                output_index: row.outpoint.index,
                script: script.clone(),
                satoshis: row.coin.output.amount.sen(),
                height: row.coin.height,
                coinbase: row.coin.from_coinbase,
                confirmations: tip.blocks_since(row.coin.height).unwrap_or(0).saturating_add(1),
            });
        }
    }
    utxos.sort_by_key(|utxo| (utxo.height, utxo.txid, utxo.output_index));
    if with_chain {
        return answer(&AddressUtxos { utxos, hash: view.tip.hash(), height: tip });
    }
    answer(&utxos)
}

/// A height inside the request object.
fn height(args: &Args, key: &str, default: Height) -> Result<Height, RpcError> {
    let Some(value) = member(args, key) else { return Ok(default) };
    let height = args::integer(value)?;
    u32::try_from(height).map(Height::new).map_err(|_| RpcError::parameter(format!("{key} is no height: {height}")))
}

pub(super) fn getaddresstxids(context: &RpcContext, args: &Args) -> Outcome {
    let addresses = addresses(context, args)?;
    let start = height(args, "start", Height::GENESIS)?;
    let end = height(args, "end", Height::new(u32::MAX))?;
    if start > end {
        return Err(RpcError::parameter(format!("start {start} is above end {end}")));
    }
    let index = context.index_view()?;
    let mut rows: Vec<HistoryRow> = Vec::new();
    for address in &addresses {
        for row in index.address_history(address, start, end) {
            if rows.len() >= ROWS_MAX {
                return Err(too_many());
            }
            rows.push(row.map_err(store_failed)?);
        }
    }
    rows.sort_by_key(|row| (row.height, row.position));
    rows.dedup();
    answer(&rows.iter().map(|row| row.txid).collect::<Vec<TxId>>())
}

pub(super) fn getaddressmempool(context: &RpcContext, args: &Args) -> Outcome {
    let sen = |amount: Amount| i64::try_from(amount.sen()).unwrap_or(i64::MAX);
    let mut deltas = Vec::new();
    for address in addresses(context, args)? {
        let text = address.to_text(&context.network.prefix);
        for info in context.mempool.by_address(&address) {
            let (txid, timestamp) = (info.ids.txid, info.time);
            let delta = |index, satoshis, spent: Option<setara_core::transaction::OutPoint>| AddressDelta {
                address: text.clone(),
                txid,
                index,
                satoshis,
                timestamp,
                prevtxid: spent.map(|outpoint| outpoint.txid),
                prevout: spent.map(|outpoint| outpoint.index),
            };
            let inputs = (0u32..).zip(&info.transaction.inputs).zip(info.transaction.spent_addresses());
            for ((index, input), owner) in inputs {
                if owner == address {
                    deltas.push(delta(index, sen(input.amount).saturating_neg(), Some(input.outpoint)));
                }
            }
            for (index, output) in (0u32..).zip(&info.transaction.outputs) {
                if output.address == address {
                    deltas.push(delta(index, sen(output.amount), None));
                }
            }
            if deltas.len() > ROWS_MAX {
                return Err(too_many());
            }
        }
    }
    answer(&deltas)
}

pub(super) fn getindexinfo(context: &RpcContext, args: &Args) -> Outcome {
    let wanted = args.optional_text("index_name").filter(|name| !name.is_empty());
    let statuses = context.indexes.as_ref().map(|indexes| indexes.statuses()).unwrap_or_default();
    let fields: Map<String, Value> = statuses
        .into_iter()
        .filter(|status| wanted.is_none_or(|name| name == status.name))
        .map(|status| {
            let mut fields = json!({"synced": status.synced, "best_block_height": status.best_height});
            if let Some(reason) = status.fault {
                fields["stopped"] = json!(reason);
            }
            (status.name.to_owned(), fields)
        })
        .collect();
    answer(&fields)
}
