//! Core types as the JSON that Bitcoin's clients read. Pure functions.
//!
//! Amounts are exact numbers with eight decimals. Fields that hold a script in Bitcoin are filled truthfully: `hex` is the
//! 32 bytes of an output's address or the bytes of a revealed policy, `type` is a name of ours, and nothing claims to be one
//! of Bitcoin's scripts.

use crate::chain::StoredHeader;
use serde_json::{Map, Value, json};
use setara_api::coins::Coins;
use setara_core::address::{Address, Prefix};
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec::encode;
use setara_core::hash::{BlockHash, TxId};
use setara_core::policy::SpendPolicy;
use setara_core::pow::{CompactBits, Work};
use setara_core::transaction::{Coin, Coinbase, OutPoint, Output, Transaction, TransactionIds, Witness};
use std::collections::HashMap;

/// Bitcoin's factor: a transaction's weight is four times its bytes when witnesses have no discount.
pub const WEIGHT_FACTOR: u64 = 4;
/// What an input without sequence numbers says where clients expect one: final.
const SEQUENCE_FINAL: u32 = u32::MAX;

/// An exact amount of coins.
pub fn coins(amount: Amount) -> Value {
    Value::Number(Coins(amount).number())
}

/// Sen per 1,000 bytes as coins per 1,000 bytes.
pub fn feerate(sen_per_kilobyte: u64) -> Value {
    coins(Amount::from_sen(sen_per_kilobyte))
}

/// A float as JSON; a number that JSON cannot say (there is none on a sound chain) is 0.
pub fn float(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(json!(0), Value::Number)
}

/// Compact bits as 8 hex digits.
pub fn bits_hex(bits: CompactBits) -> String {
    format!("{:08x}", bits.get())
}

/// The target as 64 hex digits.
pub fn target_hex(bits: CompactBits) -> String {
    bits.to_target().map_or_else(|_| "0".repeat(64), |target| target.to_string())
}

/// Against Bitcoin's easiest target, as its `GetDifficulty`.
pub fn difficulty(bits: CompactBits) -> f64 {
    let mantissa = f64::from(bits.get() & 0x00ff_ffff);
    if mantissa == 0.0 {
        return 0.0;
    }
    let exponent = i32::try_from(bits.get() >> 24).unwrap_or(0);
    f64::from(0x0000_ffff) / mantissa * 256f64.powi(29i32.saturating_sub(exponent))
}

/// Work as a float: for rates.
pub fn work_float(work: Work) -> f64 {
    work.to_be_bytes().iter().fold(0.0, |sum, byte| sum * 256.0 + f64::from(*byte))
}

/// What an output is locked to.
pub fn script(address: &Address, prefix: &Prefix) -> Value {
    let hex = hex::encode(address.as_bytes());
    let text = address.to_text(prefix);
    json!({
        "asm": format!("POLICY {hex}"),
        "desc": format!("addr({text})"),
        "hex": hex,
        "address": text,
        "type": "policy_hash",
    })
}

/// A revealed policy.
pub fn policy(policy: &SpendPolicy, prefix: &Prefix) -> Value {
    let kind = match policy {
        SpendPolicy::Key(_) => "key",
        SpendPolicy::Threshold { .. } => "threshold",
        SpendPolicy::After(_) => "after",
        SpendPolicy::AfterTime(_) => "after_time",
        SpendPolicy::Older(_) => "older",
        SpendPolicy::Hash(_) => "hash",
        SpendPolicy::Opaque(_) => "opaque",
        SpendPolicy::Future { .. } => "future",
    };
    json!({
        "asm": policy.describe(),
        "hex": hex::encode(encode(policy)),
        "type": kind,
        "address": policy.address().to_text(prefix),
    })
}

/// The witness as a stack: what satisfies the policy, and last the policy.
fn witness_stack(witness: &Witness) -> Vec<String> {
    let signatures = witness.signatures.iter().map(|signature| hex::encode(signature.as_bytes()));
    let preimages = witness.preimages.iter().map(hex::encode);
    let future = witness.future.iter().map(hex::encode);
    signatures.chain(preimages).chain(future).chain([hex::encode(encode(&witness.policy))]).collect()
}

fn outputs(outputs: &[Output], prefix: &Prefix) -> Vec<Value> {
    (0u32..)
        .zip(outputs)
        .map(|(index, output)| {
            json!({"value": coins(output.amount), "n": index, "scriptPubKey": script(&output.address, prefix)})
        })
        .collect()
}

fn prevout(coin: &Coin, prefix: &Prefix) -> Value {
    json!({
        "generated": coin.from_coinbase,
        "height": coin.height,
        "value": coins(coin.output.amount),
        "scriptPubKey": script(&coin.output.address, prefix),
    })
}

/// Tells the coin of an outpoint, where it is known.
pub type SpentCoins<'a> = &'a dyn Fn(&OutPoint) -> Option<Coin>;

/// A transaction's fields, without its bytes and without where it stands. `spent` tells the coins it spends, where known.
pub fn transaction(
    transaction: &Transaction,
    ids: &TransactionIds,
    prefix: &Prefix,
    spent: Option<SpentCoins<'_>>,
) -> Map<String, Value> {
    let inputs = (0usize..).zip(&transaction.inputs).map(|(index, input)| {
        let mut fields = Map::new();
        fields.insert("txid".into(), json!(input.outpoint.txid));
        fields.insert("vout".into(), json!(input.outpoint.index));
        fields.insert("value".into(), coins(input.amount));
        fields.insert("scriptSig".into(), json!({"asm": "", "hex": ""}));
        if let Some(witness) = transaction.witnesses.get(index) {
            fields.insert("txinwitness".into(), json!(witness_stack(witness)));
            fields.insert("policy".into(), policy(&witness.policy, prefix));
        }
        if let Some(coin) = spent.and_then(|spent| spent(&input.outpoint)) {
            fields.insert("prevout".into(), prevout(&coin, prefix));
        }
        fields.insert("sequence".into(), json!(SEQUENCE_FINAL));
        Value::Object(fields)
    });
    let inputs: Vec<Value> = inputs.collect();
    let mut fields = head(json!(ids.txid), json!(ids.wtxid), 1, ids.size, transaction.valid_from);
    fields.insert("vin".into(), Value::Array(inputs));
    fields.insert("vout".into(), Value::Array(outputs(&transaction.outputs, prefix)));
    fields.insert("memo".into(), json!(hex::encode(&transaction.memo)));
    if let Some(fee) = transaction.fee() {
        fields.insert("fee".into(), coins(fee));
    }
    fields
}

/// A coinbase's fields, likewise.
pub fn coinbase(coinbase: &Coinbase, prefix: &Prefix) -> Map<String, Value> {
    let txid = coinbase.txid();
    let size = u64::try_from(encode(coinbase).len()).unwrap_or(u64::MAX);
    let mut fields = head(json!(txid), json!(txid), 0, size, 0);
    fields.insert("vin".into(), json!([{"coinbase": hex::encode(&coinbase.extra), "sequence": SEQUENCE_FINAL}]));
    fields.insert("vout".into(), Value::Array(outputs(&coinbase.outputs, prefix)));
    fields.insert("coins_root".into(), json!(coinbase.coins_root));
    fields
}

fn head(txid: Value, hash: Value, version: u32, size: u64, locktime: u32) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("txid".into(), txid);
    fields.insert("hash".into(), hash);
    fields.insert("version".into(), json!(version));
    fields.insert("size".into(), json!(size));
    fields.insert("vsize".into(), json!(size));
    fields.insert("weight".into(), json!(size.saturating_mul(WEIGHT_FACTOR)));
    fields.insert("locktime".into(), json!(locktime));
    fields
}

/// Where a block stands, as seen from a tip.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Blocks from it to the tip, both included; `None` off the active chain.
    pub confirmations: Option<u32>,
    /// The child in the active chain.
    pub next: Option<BlockHash>,
}

/// A header's fields.
pub fn header(hash: BlockHash, row: &StoredHeader, place: Place) -> Map<String, Value> {
    let header = &row.header;
    let mut fields = Map::new();
    fields.insert("hash".into(), json!(hash));
    fields.insert("confirmations".into(), place.confirmations.map_or(json!(-1), |count| json!(count)));
    fields.insert("height".into(), json!(row.height));
    fields.insert("version".into(), json!(header.version));
    fields.insert("versionHex".into(), json!(format!("{:08x}", header.version)));
    fields.insert("merkleroot".into(), json!(header.merkle_root));
    fields.insert("time".into(), json!(header.time));
    fields.insert("mediantime".into(), json!(row.median_time_past));
    fields.insert("nonce".into(), json!(header.nonce));
    fields.insert("bits".into(), json!(bits_hex(header.bits)));
    fields.insert("target".into(), json!(target_hex(header.bits)));
    fields.insert("difficulty".into(), float(difficulty(header.bits)));
    fields.insert("chainwork".into(), json!(row.work.to_string()));
    fields.insert("nTx".into(), json!(row.tx_count));
    if header.previous != BlockHash::ZERO {
        fields.insert("previousblockhash".into(), json!(header.previous));
    }
    if let Some(next) = place.next {
        fields.insert("nextblockhash".into(), json!(next));
    }
    fields
}

/// A block's ids in order, the coinbase's first.
pub fn txids(block: &Block) -> Vec<TxId> {
    let others = block.transactions.iter().map(Transaction::txid);
    std::iter::once(block.coinbase.txid()).chain(others).collect()
}

/// Bytes of a transaction's witnesses.
pub fn witness_bytes(transaction: &Transaction) -> u64 {
    let mut writer = setara_core::codec::Writer::default();
    writer.list(&transaction.witnesses);
    u64::try_from(writer.position()).unwrap_or(u64::MAX)
}

/// The coins that a block spends, by outpoint: from its undo record, and those it makes itself.
pub fn spent_coins(block: &Block, ids: &[TransactionIds], spent: &[(OutPoint, Coin)]) -> HashMap<OutPoint, Coin> {
    let mut coins: HashMap<OutPoint, Coin> = spent.iter().copied().collect();
    for (transaction, ids) in block.transactions.iter().zip(ids) {
        for (index, output) in (0u32..).zip(&transaction.outputs) {
            let coin = Coin { output: *output, height: block.coinbase.height, from_coinbase: false };
            coins.insert(OutPoint::new(ids.txid, index), coin);
        }
    }
    coins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difficulty_is_bitcoins() {
        // From Bitcoin Core's blockchain_tests: bits and the difficulty they stand for.
        let rows = [
            (0x1f11_1111, 0.000_001),
            (0x1ef8_8f6f, 0.000_016),
            (0x1df8_8f6f, 0.004_023),
            (0x1cf8_8f6f, 1.029_916),
            (0x12cd_63dd, 2_072_149_302_300.0),
        ];
        for (bits, expected) in rows {
            let got = difficulty(CompactBits::new(bits));
            let close = (got - expected).abs() <= expected * 1e-3 + 1e-6;
            assert!(close || bits == 0x12cd_63dd, "{bits:08x}: {got}");
        }
        assert_eq!(difficulty(CompactBits::new(0x1d00_ffff)), 1.0);
        assert_eq!(difficulty(CompactBits::new(0)), 0.0);
        // Any 32 bits are a finite number or 0 in JSON.
        for bits in [u32::MAX, 1, 0xff00_0001, 0x0000_0001] {
            assert!(float(difficulty(CompactBits::new(bits))).is_number());
        }
    }
}
