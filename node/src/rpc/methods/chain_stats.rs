//! Statistics over blocks.

use super::blockchain::found_block;
use super::{found_header, store_failed};
use crate::chain::{StoredHeader, View};
use crate::rpc::args::{self, Args};
use crate::rpc::context::RpcContext;
use crate::rpc::convert::{self, WEIGHT_FACTOR};
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::{Map, Value, json};
use setara_core::block::Block;
use setara_core::hash::BlockHash;
use setara_core::height::Height;

/// Seconds in the default window of `getchaintxstats`: a month.
const WINDOW_SECONDS: u32 = 30 * 24 * 3_600;
/// Bytes of a coin in the commitment's element: the measure of the set's size that no database changes.
pub(super) const COIN_BYTES: u64 = 81;
/// Blocks whose times and work are read for a rate: bounds the reading.
const RATE_BLOCKS_MAX: i64 = 100_000;

pub(super) fn getblockstats(context: &RpcContext, args: &Args) -> Outcome {
    let view = context.chain.view();
    let (hash, row) = match args.value("hash_or_height") {
        Some(Value::String(text)) => {
            let hash = BlockHash::new(args::hash("hash_or_height", text)?);
            (hash, found_header(&view, &hash)?)
        }
        Some(number) => {
            let height = args::integer(number)?;
            if height < 0 {
                return Err(RpcError::parameter(format!("Target block height {height} is negative")));
            }
            let tip = view.tip.height();
            let height = u32::try_from(height)
                .ok()
                .filter(|height| *height <= tip.get())
                .ok_or_else(|| RpcError::parameter(format!("Target block height {height} after current tip {tip}")))?;
            let hash = view.hash_at(Height::new(height)).map_err(store_failed)?;
            let hash = hash.ok_or_else(|| RpcError::internal("the height index has a gap"))?;
            (hash, found_header(&view, &hash)?)
        }
        None => return Err(RpcError::parameter("hash_or_height is missing")),
    };
    let block = found_block(&view, &hash)?;
    let all = stats(context, hash, &row, &block);
    let wanted = args.texts("stats")?;
    if wanted.is_empty() {
        return answer(&all);
    }
    let mut chosen = Map::new();
    for name in wanted {
        let value =
            all.get(name).ok_or_else(|| RpcError::parameter(format!("Invalid selected statistic '{name:.40}'")))?;
        chosen.insert(name.to_owned(), value.clone());
    }
    answer(&chosen)
}

fn stats(context: &RpcContext, hash: BlockHash, row: &StoredHeader, block: &Block) -> Map<String, Value> {
    let (mut fees, mut sizes, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut inputs, mut outputs, mut total_out) = (0u64, 0u64, 0u64);
    for transaction in &block.transactions {
        let size = transaction.ids().size.max(1);
        let fee = transaction.fee().unwrap_or_default().sen();
        fees.push(fee);
        sizes.push(size);
        rates.push((fee / size, size));
        inputs = inputs.saturating_add(count(transaction.inputs.len()));
        outputs = outputs.saturating_add(count(transaction.outputs.len()));
        total_out = total_out.saturating_add(transaction.outputs.iter().map(|output| output.amount.sen()).sum());
    }
    let coinbase_outputs = count(block.coinbase.outputs.len());
    let coinbase_coins = count(block.coinbase.outputs.iter().filter(|output| !output.amount.is_zero()).count());
    let increase = |made: u64| i64::try_from(made).unwrap_or(i64::MAX).saturating_sub_unsigned(inputs);
    let coin_bytes = |coins: i64| coins.saturating_mul(i64::try_from(COIN_BYTES).unwrap_or(0));
    let (all, actual) =
        (increase(outputs.saturating_add(coinbase_outputs)), increase(outputs.saturating_add(coinbase_coins)));
    let (total_fee, total_size): (u64, u64) = (fees.iter().sum(), sizes.iter().sum());
    let transactions = count(block.transactions.len());
    let mean = |sum: u64| sum.checked_div(transactions).unwrap_or(0);
    let rate = |pick: fn(std::slice::Iter<'_, (u64, u64)>) -> Option<u64>| pick(rates.iter()).unwrap_or(0);
    let fields = json!({
        "avgfee": mean(total_fee),
        "avgfeerate": total_fee.checked_div(total_size).unwrap_or(0),
        "avgtxsize": mean(total_size),
        "blockhash": hash,
        "feerate_percentiles": percentiles(&rates, total_size),
        "height": row.height,
        "ins": inputs,
        "maxfee": fees.iter().max().unwrap_or(&0),
        "maxfeerate": rate(|rates| rates.map(|(rate, _)| *rate).max()),
        "maxtxsize": sizes.iter().max().unwrap_or(&0),
        "medianfee": median(&fees),
        "mediantime": row.median_time_past,
        "mediantxsize": median(&sizes),
        "minfee": fees.iter().min().unwrap_or(&0),
        "minfeerate": rate(|rates| rates.map(|(rate, _)| *rate).min()),
        "mintxsize": sizes.iter().min().unwrap_or(&0),
        "outs": outputs.saturating_add(coinbase_outputs),
        "subsidy": context.network.subsidy(row.height).sen(),
        "swtotal_size": total_size,
        "swtotal_weight": total_size.saturating_mul(WEIGHT_FACTOR),
        "swtxs": transactions,
        "time": block.header.time,
        "total_out": total_out,
        "total_size": total_size,
        "total_weight": total_size.saturating_mul(WEIGHT_FACTOR),
        "totalfee": total_fee,
        "txs": transactions.saturating_add(1),
        "utxo_increase": all,
        "utxo_size_inc": coin_bytes(all),
        "utxo_increase_actual": actual,
        "utxo_size_inc_actual": coin_bytes(actual),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Bitcoin Core's truncated median.
fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0);
    match (sorted.len(), sorted.len() % 2) {
        (0, _) => 0,
        (_, 1) => at(middle),
        _ => u64::midpoint(at(middle.saturating_sub(1)), at(middle)),
    }
}

/// Rates at the 10th, 25th, 50th, 75th and 90th percentile of bytes.
fn percentiles(rates: &[(u64, u64)], total_size: u64) -> [u64; 5] {
    let mut sorted = rates.to_vec();
    sorted.sort_unstable();
    let mut result = [sorted.last().map_or(0, |(rate, _)| *rate); 5];
    let mut next = 0;
    let mut bytes = 0u64;
    const PERCENT: [u64; 5] = [10, 25, 50, 75, 90];
    for (rate, size) in &sorted {
        bytes = bytes.saturating_add(*size);
        while let (Some(percent), Some(slot)) = (PERCENT.get(next), result.get_mut(next)) {
            if u128::from(bytes) * 100 < u128::from(total_size) * u128::from(*percent) {
                break;
            }
            *slot = *rate;
            next += 1;
        }
    }
    result
}

pub(super) fn getchaintxstats(context: &RpcContext, args: &Args) -> Outcome {
    let view = context.chain.view();
    let hash = match args.optional_block_hash("blockhash")? {
        Some(hash) => {
            found_header(&view, &hash)?;
            if !view.in_active_chain(&hash).map_err(store_failed)? {
                return Err(RpcError::parameter("Block is not in main chain"));
            }
            hash
        }
        None => view.tip.hash(),
    };
    let row = found_header(&view, &hash)?;
    let height = row.height.get();
    let most = height.saturating_sub(1);
    let window = match args.value("nblocks") {
        None => (WINDOW_SECONDS / context.network.spacing.max(1)).min(most),
        Some(value) => {
            u32::try_from(args::integer(value)?).ok().filter(|window| *window == 0 || *window < height).ok_or_else(
                || RpcError::parameter("Invalid block count: should be between 0 and the block's height - 1"),
            )?
        }
    };
    let mut fields = Map::new();
    fields.insert("time".into(), json!(row.header.time));
    fields.insert("txcount".into(), json!(row.chain_tx_count));
    fields.insert("window_final_block_hash".into(), json!(hash));
    fields.insert("window_final_block_height".into(), json!(height));
    fields.insert("window_block_count".into(), json!(window));
    if window > 0 {
        let first = row_at(&view, height.saturating_sub(window))?;
        let seconds = i64::from(row.median_time_past).saturating_sub(i64::from(first.median_time_past));
        let transactions = row.chain_tx_count.saturating_sub(first.chain_tx_count);
        fields.insert("window_interval".into(), json!(seconds));
        fields.insert("window_tx_count".into(), json!(transactions));
        if seconds > 0 {
            // A rate for people: rounding does not matter.
            fields.insert("txrate".into(), convert::float(transactions as f64 / seconds as f64));
        }
    }
    answer(&fields)
}

fn row_at(view: &View, height: u32) -> Result<StoredHeader, RpcError> {
    let hash = view.hash_at(Height::new(height)).map_err(store_failed)?;
    found_header(view, &hash.ok_or_else(|| RpcError::internal("the height index has a gap"))?)
}

pub(super) fn getnetworkhashps(context: &RpcContext, args: &Args) -> Outcome {
    let (blocks, height) = (args.integer("nblocks", 120)?, args.integer("height", -1)?);
    let view = context.chain.view();
    if blocks < -1 || blocks == 0 {
        return Err(RpcError::parameter("Invalid nblocks. Must be a positive number or -1."));
    }
    let tip = i64::from(view.tip.height().get());
    if height < -1 || height > tip {
        return Err(RpcError::parameter("Block does not exist at specified height"));
    }
    answer(&convert::float(hashes_per_second(context, &view, blocks, height)?))
}

/// Work of the last blocks over the time between the earliest and the latest of them.
pub(super) fn hashes_per_second(context: &RpcContext, view: &View, blocks: i64, height: i64) -> Result<f64, RpcError> {
    let last = u32::try_from(height).unwrap_or_else(|_| view.tip.height().get());
    let day = i64::from((24 * 3_600 / context.network.spacing.max(1)).max(1));
    let blocks = if blocks == -1 { day } else { blocks }.min(RATE_BLOCKS_MAX).min(i64::from(last));
    let Ok(blocks) = u32::try_from(blocks) else { return Ok(0.0) };
    if blocks == 0 {
        return Ok(0.0);
    }
    let newest = row_at(view, last)?;
    let (mut earliest, mut latest) = (newest.header.time, newest.header.time);
    let mut oldest = newest;
    for height in (last.saturating_sub(blocks)..last).rev() {
        oldest = row_at(view, height)?;
        earliest = earliest.min(oldest.header.time);
        latest = latest.max(oldest.header.time);
    }
    if earliest == latest {
        return Ok(0.0);
    }
    let work = newest.work.checked_sub(oldest.work).map_or(0.0, convert::work_float);
    Ok(work / f64::from(latest.saturating_sub(earliest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_cores() {
        assert_eq!([median(&[]), median(&[7]), median(&[1, 4]), median(&[9, 1, 5])], [0, 7, 2, 5]);
        // From Bitcoin Core's rpc tests: nearly equal weights, and one that dominates.
        let equal: Vec<(u64, u64)> = (1..=100).map(|rate| (rate, 1)).collect();
        assert_eq!(percentiles(&equal, 100), [10, 25, 50, 75, 90]);
        assert_eq!(percentiles(&[(1, 9), (2, 16), (4, 50), (5, 10), (9, 15)], 100), [2, 2, 4, 4, 9]);
        assert_eq!(percentiles(&[(1, 100), (2, 1)], 101), [1, 1, 1, 1, 1]);
        assert_eq!(percentiles(&[], 0), [0; 5]);
    }
}
