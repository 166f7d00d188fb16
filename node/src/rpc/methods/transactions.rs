//! Building, decoding, sending transactions.

use super::blockchain::{found_block, place};
use super::{found_header, network, store_failed};
use crate::chain::View;
use crate::mempool::{Accepted, MempoolError, PACKAGE_TRANSACTIONS_MAX, Refusal};
use crate::rpc::args::{self, Args};
use crate::rpc::context::RpcContext;
use crate::rpc::convert;
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::{Map, Value, json};
use setara_api::coins::Coins;
use setara_api::error::ErrorCode;
use setara_api::types::{AcceptFees, MempoolAccept};
use setara_core::address::Address;
use setara_core::amount::{Amount, SEN_PER_COIN};
use setara_core::codec::{CodecError, decode, encode};
use setara_core::hash::TxId;
use setara_core::limits::MEMO_BYTES_MAX;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Coinbase, Input, OutPoint, Output, Transaction};
use std::sync::Arc;

/// Fee rate that is taken for a mistake unless the caller says otherwise, per 1,000 bytes: a tenth of a coin.
const MAX_FEE_RATE: Amount = Amount::from_sen(SEN_PER_COIN / 10);
/// First byte of a coinbase's encoding.
const KIND_COINBASE: u8 = 0;

/// A transaction or a coinbase.
enum Any {
    Transaction(Arc<Transaction>),
    Coinbase(Coinbase),
}

impl Any {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Transaction(transaction) => encode(transaction.as_ref()),
            Self::Coinbase(coinbase) => encode(coinbase),
        }
    }
}

fn decode_transaction(hex: &str) -> Result<Transaction, RpcError> {
    let refused = |reason: &dyn std::fmt::Display| RpcError::deserialization(format!("TX decode failed: {reason}"));
    let bytes = hex::decode(hex).map_err(|_| refused(&"not hexadecimal"))?;
    decode(&bytes).map_err(|error| refused(&error))
}

pub(super) fn getrawtransaction(context: &RpcContext, args: &Args) -> Outcome {
    let txid = args.txid("txid")?;
    let verbosity = args.verbosity("verbosity", 0)?;
    let named = args.optional_block_hash("blockhash")?;
    // The mempool first: what leaves it for the chain meanwhile is in the view that is taken after.
    let unconfirmed = if named.is_none() { context.mempool.get(&txid) } else { None };
    let index = if named.is_none() && unconfirmed.is_none() { Some(context.index_view()?) } else { None };
    let newest = context.chain.view();
    let view: &View = index.as_ref().map_or(&newest, |index| &index.view);
    let (block, transaction) = match named {
        Some(hash) => {
            if view.header(&hash).map_err(store_failed)?.is_none() {
                return Err(RpcError::not_found("Block hash not found"));
            }
            let block = found_block(view, &hash)?;
            let message = "No such transaction found in the provided block";
            let position = convert::txids(&block).iter().position(|other| *other == txid);
            let position = position.ok_or_else(|| RpcError::not_found(message))?;
            (Some(hash), at(block, position)?)
        }
        None => match (unconfirmed, &index) {
            (Some(transaction), _) => (None, Any::Transaction(transaction)),
            (None, index) => {
                let found =
                    index.as_ref().map(|index| index.locate(&txid)).transpose().map_err(store_failed)?.flatten();
                let Some(found) = found else {
                    return Err(RpcError::not_found("No such mempool or blockchain transaction"));
                };
                let position = usize::try_from(found.position).unwrap_or(usize::MAX);
                (Some(found.block), at(found_block(view, &found.block)?, position)?)
            }
        },
    };
    let hex = hex::encode(transaction.bytes());
    if verbosity <= 0 {
        return answer(&hex);
    }
    let prefix = &context.network.prefix;
    let mut fields = Map::new();
    let standing = match block {
        Some(hash) => {
            let row = found_header(view, &hash)?;
            Some((hash, row, place(view, &hash, &row)?))
        }
        None => None,
    };
    if let (Some(_), Some((_, _, place))) = (named, standing) {
        fields.insert("in_active_chain".into(), json!(place.confirmations.is_some()));
    }
    fields.append(&mut match &transaction {
        Any::Coinbase(coinbase) => convert::coinbase(coinbase, prefix),
        Any::Transaction(transaction) if verbosity >= 2 => {
            let undo = match block {
                Some(hash) => view.undo(&hash).map_err(store_failed)?,
                None => None,
            };
            let spent = |outpoint: &OutPoint| {
                let of_block = undo
                    .as_ref()
                    .and_then(|undo| undo.spent().iter().find(|(other, _)| other == outpoint).map(|(_, coin)| *coin));
                // Unconfirmed: the coin is still there. A store that fails shows itself in the next call.
                of_block.or_else(|| if block.is_none() { view.coin(outpoint).ok().flatten() } else { None })
            };
            convert::transaction(transaction, &transaction.ids(), prefix, Some(&spent))
        }
        Any::Transaction(transaction) => convert::transaction(transaction, &transaction.ids(), prefix, None),
    });
    fields.insert("hex".into(), json!(hex));
    if let Some((hash, row, place)) = standing {
        fields.insert("blockhash".into(), json!(hash));
        fields.insert("confirmations".into(), json!(place.confirmations.unwrap_or(0)));
        fields.insert("time".into(), json!(row.header.time));
        fields.insert("blocktime".into(), json!(row.header.time));
    }
    answer(&fields)
}

/// A block's transaction by position, the coinbase being 0.
fn at(block: setara_core::block::Block, position: usize) -> Result<Any, RpcError> {
    match position.checked_sub(1) {
        None => Ok(Any::Coinbase(block.coinbase)),
        Some(index) => block
            .transactions
            .into_iter()
            .nth(index)
            .map(|transaction| Any::Transaction(Arc::new(transaction)))
            .ok_or_else(|| RpcError::internal("the transaction index points past a block's end")),
    }
}

/// Refuses a fee that is surely a mistake.
fn check_fee_rate(transaction: &Transaction, size: u64, max: Amount) -> Result<(), ()> {
    if max.is_zero() {
        return Ok(());
    }
    let fee = transaction.fee().unwrap_or_default();
    let most = u128::from(max.sen()) * u128::from(size) / 1_000;
    if u128::from(fee.sen()) > most { Err(()) } else { Ok(()) }
}

const FEE_TOO_HIGH: &str = "Fee exceeds maximum configured by user (maxfeerate)";

/// The transaction that a call wants to send, unless something about the call alone is wrong.
fn to_send(args: &Args) -> Result<Transaction, RpcError> {
    let transaction = decode_transaction(args.text("hexstring"))?;
    let max = args.amount("maxfeerate", MAX_FEE_RATE)?;
    args.amount("maxburnamount", Amount::ZERO)?;
    if check_fee_rate(&transaction, transaction.ids().size, max).is_err() {
        return Err(RpcError::new(ErrorCode::VERIFY, FEE_TOO_HIGH));
    }
    Ok(transaction)
}

pub(super) fn sendrawtransaction(context: &RpcContext, args: &Args) -> Outcome {
    let transaction = to_send(args)?;
    if context.private_broadcast {
        return network::send_privately(context, transaction);
    }
    accepted(transaction.txid(), context.mempool.submit(transaction))
}

pub(super) fn send_all(context: &RpcContext, calls: &[&Args]) -> Vec<Outcome> {
    if context.private_broadcast {
        return calls.iter().map(|args| sendrawtransaction(context, args)).collect();
    }
    let mut transactions = Vec::new();
    let read: Vec<Result<TxId, RpcError>> = calls
        .iter()
        .map(|args| {
            let transaction = to_send(args)?;
            let txid = transaction.txid();
            transactions.push(transaction);
            Ok(txid)
        })
        .collect();
    let mut verdicts = context.mempool.submit_many(transactions).into_iter();
    read.into_iter()
        .map(|read| {
            let missing = || RpcError::internal("a verdict is missing");
            read.and_then(|txid| accepted(txid, verdicts.next().ok_or_else(missing)?))
        })
        .collect()
}

/// The answer to a transaction that was handed to the mempool.
fn accepted(txid: TxId, verdict: Result<Accepted, MempoolError>) -> Outcome {
    match verdict {
        Ok(accepted) => answer(&accepted.ids.txid),
        // Sending what is here already succeeds, as in Bitcoin Core: the sender only wants it to be there.
        Err(MempoolError::AlreadyInMempool) => answer(&txid),
        Err(error) => Err(refused(&error)),
    }
}

/// A mempool's refusal with Bitcoin Core's code for it.
pub(super) fn refused(error: &MempoolError) -> RpcError {
    let message = format!("{}: {error}", error.code());
    let code = match (error, error.refusal()) {
        (MempoolError::AlreadyKnown, _) => ErrorCode::ALREADY_IN_CHAIN,
        (MempoolError::MissingInputs { .. }, _) => ErrorCode::VERIFY,
        (_, Refusal::Fault) => ErrorCode::DATABASE,
        _ => ErrorCode::VERIFY_REJECTED,
    };
    RpcError::new(code, message)
}

pub(super) fn testmempoolaccept(context: &RpcContext, args: &Args) -> Outcome {
    let texts = args.texts("rawtxs")?;
    if texts.is_empty() || texts.len() > PACKAGE_TRANSACTIONS_MAX {
        let message = format!("Array must contain between 1 and {PACKAGE_TRANSACTIONS_MAX} transactions.");
        return Err(RpcError::parameter(message));
    }
    let max = args.amount("maxfeerate", MAX_FEE_RATE)?;
    let mut transactions: Vec<Transaction> = texts.into_iter().map(decode_transaction).collect::<Result<_, _>>()?;
    let unjudged = |transaction: &Transaction| {
        let ids = transaction.ids();
        let verdict = MempoolAccept { txid: ids.txid, wtxid: ids.wtxid, ..MempoolAccept::default() };
        (verdict, check_fee_rate(transaction, ids.size, max).is_err())
    };
    let mut list: Vec<(MempoolAccept, bool)> = transactions.iter().map(unjudged).collect();
    // Alone a transaction may replace others, in a list none may: the same distinction as in Bitcoin Core.
    let judged = match (transactions.pop(), transactions.is_empty()) {
        (Some(only), true) => Ok(vec![context.mempool.test(only)]),
        (last, _) => context.mempool.test_package(transactions.into_iter().chain(last).collect()),
    };
    match judged {
        Ok(judged) => {
            // From the first refusal on nothing is said: it might hang on what was refused.
            for ((verdict, too_high), judged) in list.iter_mut().zip(judged) {
                fill(verdict, *too_high, judged);
                if verdict.allowed == Some(false) {
                    break;
                }
            }
        }
        Err(error) => list.iter_mut().for_each(|(verdict, _)| verdict.package_error = Some(error.to_string())),
    }
    let verdicts: Vec<MempoolAccept> = list.into_iter().map(|(verdict, _)| verdict).collect();
    answer(&verdicts)
}

fn fill(verdict: &mut MempoolAccept, too_high: bool, judged: Result<Accepted, MempoolError>) {
    verdict.allowed = Some(judged.is_ok() && !too_high);
    match judged {
        Err(error) => {
            verdict.reject_reason = Some(error.code().to_owned());
            verdict.reject_details = Some(error.to_string());
        }
        Ok(_) if too_high => verdict.reject_reason = Some("max-fee-exceeded".to_owned()),
        Ok(Accepted { ids, fee, .. }) => {
            verdict.vsize = Some(ids.size);
            verdict.fees = Some(AcceptFees {
                base: Coins(fee),
                effective_feerate: Some(Coins(rate(fee, ids.size))),
                effective_includes: vec![ids.wtxid],
            });
        }
    }
}

/// A fee as a rate per 1,000 bytes.
fn rate(fee: Amount, size: u64) -> Amount {
    let rate = u128::from(fee.sen()).saturating_mul(1_000).checked_div(u128::from(size)).unwrap_or(0);
    Amount::from_sen(u64::try_from(rate).unwrap_or(u64::MAX))
}

pub(super) fn decoderawtransaction(context: &RpcContext, args: &Args) -> Outcome {
    let prefix = &context.network.prefix;
    let bytes = hex::decode(args.text("hexstring"))
        .map_err(|_| RpcError::deserialization("TX decode failed: not hexadecimal"))?;
    let refused = |error: CodecError| RpcError::deserialization(format!("TX decode failed: {error}"));
    if bytes.first() == Some(&KIND_COINBASE) {
        return answer(&convert::coinbase(&decode(&bytes).map_err(refused)?, prefix));
    }
    let transaction: Transaction = decode(&bytes).map_err(refused)?;
    answer(&convert::transaction(&transaction, &transaction.ids(), prefix, None))
}

pub(super) fn createrawtransaction(context: &RpcContext, args: &Args) -> Outcome {
    let mut inputs = Vec::new();
    for value in args.list("inputs") {
        inputs.push(input(context, value)?);
    }
    let valid_from = u32::try_from(args.integer("locktime", 0)?)
        .map_err(|_| RpcError::parameter("Invalid parameter, locktime out of range"))?;
    let (mut outputs, mut memo) = (Vec::new(), None);
    let members: Vec<(&String, &Value)> = match args.value("outputs") {
        Some(Value::Object(map)) => map.iter().collect(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item.as_object().map(|map| map.iter().collect::<Vec<_>>()).as_deref() {
                Some([member]) => Ok(*member),
                _ => Err(RpcError::parameter("Invalid parameter, key-value pair must contain exactly one key")),
            })
            .collect::<Result<_, _>>()?,
        _ => Vec::new(),
    };
    let mut paid = std::collections::HashSet::new();
    for (key, value) in members {
        if key == "data" {
            let bytes = args::hex_bytes("data", args::text("data", value)?)?;
            if memo.is_some() {
                return Err(RpcError::parameter("Invalid parameter, duplicate key: data"));
            }
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MEMO_BYTES_MAX {
                return Err(RpcError::parameter(format!(
                    "Invalid parameter, data holds at most {MEMO_BYTES_MAX} bytes"
                )));
            }
            memo = Some(bytes);
            continue;
        }
        let address = args::address(key, &context.network.prefix)?;
        if !paid.insert(address) {
            return Err(RpcError::parameter(format!("Invalid parameter, duplicated address: {key}")));
        }
        outputs.push(Output { amount: args::amount(value)?, address });
    }
    let memo = memo.unwrap_or_default();
    let transaction = Transaction { inputs, outputs, valid_from, memo, witnesses: Vec::new() };
    answer(&hex::encode(encode(&transaction)))
}

fn input(context: &RpcContext, value: &Value) -> Result<Input, RpcError> {
    let text = value.get("txid").ok_or_else(|| RpcError::parameter("Invalid parameter, missing txid key"))?;
    let txid = TxId::new(args::hash("txid", args::text("txid", text)?)?);
    let index = value.get("vout").ok_or_else(|| RpcError::parameter("Invalid parameter, missing vout key"))?;
    let index = u32::try_from(args::integer(index)?)
        .map_err(|_| RpcError::parameter("Invalid parameter, vout out of range"))?;
    let outpoint = OutPoint::new(txid, index);
    let amount = match value.get("amount") {
        Some(amount) => args::amount(amount)?,
        None => {
            let unconfirmed = || {
                let transaction = context.mempool.get(&txid)?;
                transaction.outputs.get(usize::try_from(index).ok()?).map(|output| output.amount)
            };
            let coin = context.chain.view().coin(&outpoint).map_err(store_failed)?;
            coin.map(|coin| coin.output.amount).or_else(unconfirmed).ok_or_else(|| {
                RpcError::not_found(format!("{outpoint} is not unspent here: state its amount in the input"))
            })?
        }
    };
    Ok(Input { outpoint, amount })
}

pub(super) fn decodescript(context: &RpcContext, args: &Args) -> Outcome {
    let prefix = &context.network.prefix;
    let bytes = args.hex("hexstring")?;
    // 32 bytes are an address: the shortest policies have 2 bytes, a key 33, and none has 32 but `Future`.
    if let Ok(policy) = decode::<SpendPolicy>(&bytes) {
        return answer(&convert::policy(&policy, prefix));
    }
    match <[u8; 32]>::try_from(bytes.as_slice()) {
        Ok(address) => answer(&convert::script(&Address::from_bytes(address), prefix)),
        Err(_) => {
            let reason = decode::<SpendPolicy>(&bytes).err();
            let reason = reason.map_or_else(String::new, |error| error.to_string());
            Err(RpcError::deserialization(format!("Neither a policy nor an address: {reason}")))
        }
    }
}
