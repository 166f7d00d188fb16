//! Blocks and headers.

use super::{found_header, store_failed, submit_failed};
use crate::chain::{KEEP_BODIES, StoredHeader, TipStatus, View};
use crate::prune::PruneError;
use crate::rpc::args::Args;
use crate::rpc::context::RpcContext;
use crate::rpc::convert::{self, Place};
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use crate::store::schema::{SnapshotStage, flags};
use serde_json::{Map, Value, json};
use setara_api::types::{BlockchainInfo, NetworkInfo, SnapshotFetchInfo, SnapshotInfo};
use setara_core::block::Block;
use setara_core::codec::{decode, encode};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::transaction::{OutPoint, TransactionIds};

/// Headers known ahead of the tip that make a node one that is catching up: a day of the public network's blocks.
const CATCHING_UP_BLOCKS: u32 = 1_440;
/// `pruneblockchain` takes numbers above this for Unix seconds (Bitcoin Core's number).
const TIMESTAMPS_FROM: i64 = 1_000_000_000;
/// So far may a block's time be from the moment it was made (Bitcoin Core's number).
const TIMESTAMP_MARGIN_SECONDS: i64 = 7_200;

pub(super) fn getblockcount(context: &RpcContext, _: &Args) -> Outcome {
    answer(&context.chain.view().tip.height())
}

pub(super) fn getbestblockhash(context: &RpcContext, _: &Args) -> Outcome {
    answer(&context.chain.view().tip.hash())
}

pub(super) fn getblockhash(context: &RpcContext, args: &Args) -> Outcome {
    let height = args.integer("height", 0)?;
    let view = context.chain.view();
    let height = u32::try_from(height).ok().filter(|height| *height <= view.tip.height().get());
    let height = height.ok_or_else(|| RpcError::parameter("Block height out of range"))?;
    match view.hash_at(Height::new(height)).map_err(store_failed)? {
        Some(hash) => answer(&hash),
        None => Err(RpcError::internal("the height index has a gap")),
    }
}

pub(super) fn getblockchaininfo(context: &RpcContext, _: &Args) -> Outcome {
    let view = context.chain.view();
    let tip = found_header(&view, &view.tip.hash())?;
    let blocks = view.tip.height();
    // The tree is read after the view, yet on equal work another branch may be the best.
    let headers = context.chain.headers().best().point().height.max(blocks);
    let behind = headers.blocks_since(blocks).unwrap_or(0);
    let bits = tip.header.bits;
    let limits = context.pruner.as_ref().map(|pruner| *pruner.limits());
    answer(&BlockchainInfo {
        chain: context.network.chain_name().to_owned(),
        blocks,
        headers,
        bestblockhash: view.tip.hash(),
        bits: convert::bits_hex(bits),
        target: convert::target_hex(bits),
        difficulty: convert::difficulty(bits),
        time: tip.header.time,
        mediantime: tip.median_time_past,
        verificationprogress: f64::from(blocks.get().saturating_add(1)) / f64::from(headers.get().saturating_add(1)),
        initialblockdownload: context.chain.progress().loading || behind > CATCHING_UP_BLOCKS,
        chainwork: tip.work.to_string(),
        size_on_disk: (context.disk_bytes)(),
        pruned: context.pruner.is_some(),
        pruneheight: context.pruner.as_ref().map(|_| view.bodies_from()),
        automatic_pruning: limits.map(|limits| limits.is_automatic()),
        prune_target_size: limits.and_then(|limits| limits.target()),
        snapshot: view.snapshot().map(|row| SnapshotInfo {
            base_height: row.base,
            base_hash: row.hash,
            validated: row.stage == SnapshotStage::Verified,
            verified_blocks: match (row.stage, context.chain.history()) {
                (SnapshotStage::Verified, _) => row.base,
                (_, Some(history)) => history.progress().height,
                (_, None) => Height::GENESIS,
            },
        }),
        snapshot_fetch: snapshot_fetch(context),
        network: NetworkInfo {
            name: context.network.name.clone(),
            genesis_hash: context.network.genesis_hash(),
            prefix: context.network.prefix.to_string(),
            ticker: context.network.ticker.clone(),
        },
        warnings: context.warnings(),
    })
}

/// How far the snapshot is that the chain is to begin with, if it is to.
fn snapshot_fetch(context: &RpcContext) -> Option<SnapshotFetchInfo> {
    let peers = context.peers.as_ref().filter(|peers| peers.wants_snapshot())?;
    let progress = peers.ask(|parts, desk| parts.fetch_progress(desk))??;
    Some(SnapshotFetchInfo {
        stage: progress.stage.to_owned(),
        base_height: progress.base.map(|(height, _)| height),
        base_hash: progress.base.map(|(_, hash)| hash),
        buckets: progress.buckets as u64,
        bytes: progress.bytes,
        bytes_total: progress.bytes_total,
        peers: progress.peers as u64,
    })
}

pub(super) fn getdifficulty(context: &RpcContext, _: &Args) -> Outcome {
    let view = context.chain.view();
    let tip = found_header(&view, &view.tip.hash())?;
    answer(&convert::float(convert::difficulty(tip.header.bits)))
}

/// Where a block stands from the view's tip.
pub(super) fn place(view: &View, hash: &BlockHash, row: &StoredHeader) -> Result<Place, RpcError> {
    if view.hash_at(row.height).map_err(store_failed)? != Some(*hash) {
        return Ok(Place { confirmations: None, next: None });
    }
    let above = view.tip.height().blocks_since(row.height).unwrap_or(0);
    let next = match row.height.next().filter(|_| above > 0) {
        Some(height) => view.hash_at(height).map_err(store_failed)?,
        None => None,
    };
    Ok(Place { confirmations: Some(above.saturating_add(1)), next })
}

pub(super) fn getblockheader(context: &RpcContext, args: &Args) -> Outcome {
    let hash = args.block_hash("blockhash")?;
    let view = context.chain.view();
    let row = found_header(&view, &hash)?;
    if !args.flag("verbose", true) {
        return answer(&hex::encode(row.header.to_bytes()));
    }
    let place = place(&view, &hash, &row)?;
    answer(&convert::header(hash, &row, place))
}

/// A block's body, or the error that says that it is not here.
pub(super) fn found_body(view: &View, hash: &BlockHash) -> Result<Vec<u8>, RpcError> {
    if let Some(body) = view.body(hash).map_err(store_failed)? {
        return Ok(body);
    }
    let row = found_header(view, hash)?;
    // Rows below a snapshot's base do not say it.
    let pruned = row.flags & flags::PRUNED != 0 || row.height < view.bodies_from();
    let why = if pruned { "pruned data" } else { "not fully downloaded" };
    Err(RpcError::misc(format!("Block not available ({why})")))
}

pub(super) fn found_block(view: &View, hash: &BlockHash) -> Result<Block, RpcError> {
    let body = found_body(view, hash)?;
    decode(&body).map_err(|error| RpcError::internal(format!("a stored block does not decode: {error}")))
}

pub(super) fn getblock(context: &RpcContext, args: &Args) -> Outcome {
    let hash = args.block_hash("blockhash")?;
    let verbosity = args.verbosity("verbosity", 1)?;
    let view = context.chain.view();
    let row = found_header(&view, &hash)?;
    let body = found_body(&view, &hash)?;
    if verbosity <= 0 {
        return answer(&hex::encode(body));
    }
    let block: Block =
        decode(&body).map_err(|error| RpcError::internal(format!("a stored block does not decode: {error}")))?;
    let mut fields = convert::header(hash, &row, place(&view, &hash, &row)?);
    let size = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let witnesses: u64 = block.transactions.iter().map(convert::witness_bytes).sum();
    fields.insert("strippedsize".into(), json!(size.saturating_sub(witnesses)));
    fields.insert("size".into(), json!(size));
    fields.insert("weight".into(), json!(size.saturating_mul(convert::WEIGHT_FACTOR)));
    let transactions = if verbosity == 1 {
        json!(convert::txids(&block))
    } else {
        Value::Array(transactions(context, &view, &hash, &block, verbosity >= 3)?)
    };
    fields.insert("tx".into(), transactions);
    answer(&fields)
}

pub(super) fn pruneblockchain(context: &RpcContext, args: &Args) -> Outcome {
    let pruner = context.pruner.as_ref();
    let pruner = pruner.ok_or_else(|| RpcError::misc("Cannot prune blocks because node is not in prune mode."))?;
    let view = context.chain.view();
    let tip = view.tip.height().get();
    let asked = args.integer("height", 0)?;
    if asked < 0 {
        return Err(RpcError::parameter("Negative block height."));
    }
    let height = if asked > TIMESTAMPS_FROM {
        let time = u32::try_from(asked.saturating_sub(TIMESTAMP_MARGIN_SECONDS)).unwrap_or(u32::MAX);
        let none = || RpcError::parameter("Could not find block with at least the specified timestamp.");
        first_not_before(context, &view, time).ok_or_else(none)?
    } else {
        u32::try_from(asked).unwrap_or(u32::MAX)
    };
    if tip <= KEEP_BODIES {
        return Err(RpcError::misc("Blockchain is too short for pruning."));
    }
    if height > tip {
        return Err(RpcError::parameter("Blockchain is shorter than the attempted prune height."));
    }
    // What it reads would be held on to.
    drop(view);
    pruner.prune_through(Height::new(height)).map_err(|error| match error {
        PruneError::Chain(error) => submit_failed(error),
        PruneError::Store(error) => store_failed(error),
    })?;
    let from = context.chain.view().bodies_from().get();
    answer(&(i64::from(from) - 1))
}

/// Height of the first block of the active chain whose time, or that of one below it, is not before `time`.
fn first_not_before(context: &RpcContext, view: &View, time: u32) -> Option<u32> {
    let tip = view.tip.hash();
    let headers = context.chain.headers();
    let heights = 0..=view.tip.height().get();
    heights
        .into_iter()
        .find(|height| headers.ancestor(&tip, Height::new(*height)).is_some_and(|known| known.header.time >= time))
}

fn transactions(
    context: &RpcContext,
    view: &View,
    hash: &BlockHash,
    block: &Block,
    with_coins: bool,
) -> Result<Vec<Value>, RpcError> {
    let prefix = &context.network.prefix;
    let ids: Vec<TransactionIds> = block.transactions.iter().map(|transaction| transaction.ids()).collect();
    // A block that was never connected has no undo record: then the coins are not known.
    let undo = if with_coins { view.undo(hash).map_err(store_failed)? } else { None };
    let coins = undo.map(|undo| convert::spent_coins(block, &ids, undo.spent()));
    let lookup = coins.as_ref().map(|coins| move |outpoint: &OutPoint| coins.get(outpoint).copied());
    let with_hex = |mut fields: Map<String, Value>, bytes: Vec<u8>| {
        fields.insert("hex".into(), json!(hex::encode(bytes)));
        Value::Object(fields)
    };
    let mut values = vec![with_hex(convert::coinbase(&block.coinbase, prefix), encode(&block.coinbase))];
    for (transaction, ids) in block.transactions.iter().zip(&ids) {
        let spent = lookup.as_ref().map(|lookup| lookup as convert::SpentCoins<'_>);
        values.push(with_hex(convert::transaction(transaction, ids, prefix, spent), encode(transaction)));
    }
    Ok(values)
}

pub(super) fn getchaintips(context: &RpcContext, _: &Args) -> Outcome {
    let view = context.chain.view();
    let mut tips = view.tips().to_vec();
    tips.sort_by_key(|tip| (tip.status != TipStatus::Active, std::cmp::Reverse(tip.height)));
    let tips: Vec<Value> = tips
        .iter()
        .map(|tip| {
            json!({
                "height": tip.height,
                "hash": tip.hash,
                "branchlen": tip.branch_length,
                "status": tip.status.as_str(),
            })
        })
        .collect();
    answer(&tips)
}

pub(super) fn getdeploymentinfo(context: &RpcContext, args: &Args) -> Outcome {
    let view = context.chain.view();
    let hash = args.optional_block_hash("blockhash")?.unwrap_or_else(|| view.tip.hash());
    let row = found_header(&view, &hash)?;
    let deployments: Map<String, Value> = context
        .network
        .upgrades
        .iter()
        .map(|upgrade| {
            let active = row.height.next().is_some_and(|next| next >= upgrade.height);
            (upgrade.name.clone(), json!({"type": "buried", "height": upgrade.height, "active": active}))
        })
        .collect();
    answer(&json!({"hash": hash, "height": row.height, "deployments": deployments}))
}

pub(super) fn invalidateblock(context: &RpcContext, args: &Args) -> Outcome {
    let hash = args.block_hash("blockhash")?;
    found_header(&context.chain.view(), &hash)?;
    if hash == context.network.genesis_hash() {
        return Err(RpcError::parameter("The genesis block cannot be invalidated"));
    }
    context.chain.invalidate(hash).map_err(submit_failed)?;
    answer(&Value::Null)
}

pub(super) fn reconsiderblock(context: &RpcContext, args: &Args) -> Outcome {
    let hash = args.block_hash("blockhash")?;
    found_header(&context.chain.view(), &hash)?;
    context.chain.reconsider(hash).map_err(submit_failed)?;
    answer(&Value::Null)
}
