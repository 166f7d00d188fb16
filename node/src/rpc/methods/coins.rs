//! Unspent coins, and proofs about transactions.

use super::blockchain::{found_block, place};
use super::chain_stats::COIN_BYTES;
use super::{found_header, store_failed};
use crate::rpc::args::{self, Args};
use crate::rpc::context::RpcContext;
use crate::rpc::convert;
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use crate::rpc::proof::MerkleProof;
use serde_json::{Value, json};
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec::{decode, encode};
use setara_core::hash::{BlockHash, TxId};
use setara_core::height::Height;
use setara_core::transaction::{Coin, OutPoint, Transaction};
use std::collections::HashSet;

/// Names of commitments that `gettxoutsetinfo` knows: ours, none, and Bitcoin Core's, whose clients ask for them.
const HASH_TYPES: [&str; 4] = ["coins_root", "none", "hash_serialized_3", "muhash"];

pub(super) fn gettxout(context: &RpcContext, args: &Args) -> Outcome {
    let txid = args.txid("txid")?;
    let index = args.integer("n", 0)?;
    let Ok(index) = u32::try_from(index) else {
        return Err(RpcError::parameter("Invalid n: out of range"));
    };
    let outpoint = OutPoint::new(txid, index);
    let with_mempool = args.flag("include_mempool", true);
    // The mempool first: what leaves it for the chain meanwhile is in the view that is taken after.
    if with_mempool && context.mempool.spender(&outpoint).is_some() {
        return answer(&Value::Null);
    }
    let transaction = if with_mempool { context.mempool.get(&txid) } else { None };
    let unconfirmed = || {
        let output = transaction?.outputs.get(usize::try_from(index).ok()?).copied()?;
        Some((Coin { output, height: Height::GENESIS, from_coinbase: false }, 0))
    };
    let view = context.chain.view();
    let confirmed = view.coin(&outpoint).map_err(store_failed)?.map(|coin| {
        let above = view.tip.height().blocks_since(coin.height).unwrap_or(0);
        (coin, above.saturating_add(1))
    });
    let found = confirmed.or_else(unconfirmed);
    let Some((coin, confirmations)) = found else { return answer(&Value::Null) };
    answer(&json!({
        "bestblock": view.tip.hash(),
        "confirmations": confirmations,
        "value": convert::coins(coin.output.amount),
        "scriptPubKey": convert::script(&coin.output.address, &context.network.prefix),
        "coinbase": coin.from_coinbase,
    }))
}

pub(super) fn gettxoutsetinfo(context: &RpcContext, args: &Args) -> Outcome {
    if let Some(name) = args.optional_text("hash_type")
        && !HASH_TYPES.contains(&name)
    {
        return Err(RpcError::parameter(format!("'{name:.40}' is not a valid hash_type")));
    }
    let view = context.chain.view();
    let total = view.coins_total().map_err(store_failed)?;
    // Coins of one transaction stand side by side.
    let mut transactions = 0u64;
    let mut last = None;
    for row in view.iterate_coins() {
        let (outpoint, _) = row.map_err(store_failed)?;
        if last.replace(outpoint.txid) != Some(outpoint.txid) {
            transactions = transactions.saturating_add(1);
        }
        if context.shutdown.is_cancelled() {
            return Err(super::stopping());
        }
    }
    answer(&json!({
        "height": view.tip.height(),
        "bestblock": view.tip.hash(),
        "txouts": total.count,
        "bogosize": total.count.saturating_mul(COIN_BYTES),
        "coins_root": view.tip.coins_root,
        "total_amount": convert::coins(Amount::from_sen(total.sum)),
        "transactions": transactions,
        "disk_size": (context.disk_bytes)(),
    }))
}

pub(super) fn gettxoutproof(context: &RpcContext, args: &Args) -> Outcome {
    let mut wanted = HashSet::new();
    for text in args.texts("txids")? {
        if !wanted.insert(TxId::new(args::hash("txid", text)?)) {
            return Err(RpcError::parameter(format!("Invalid parameter, duplicated txid: {text}")));
        }
    }
    let Some(first) = wanted.iter().next() else {
        return Err(RpcError::parameter("Parameter 'txids' cannot be empty"));
    };
    let hash = match args.optional_block_hash("blockhash")? {
        Some(hash) => hash,
        None => {
            let index = context.index_view()?;
            let found = index.locate(first).map_err(store_failed)?;
            found.ok_or_else(|| RpcError::not_found("Transaction not yet in block"))?.block
        }
    };
    // A block, once stored, stays: any view after the index's has it.
    let view = context.chain.view();
    found_header(&view, &hash)?;
    let block = found_block(&view, &hash)?;
    let positions: Vec<bool> = convert::txids(&block).iter().map(|txid| wanted.contains(txid)).collect();
    if positions.iter().filter(|wanted| **wanted).count() != wanted.len() {
        return Err(RpcError::not_found("Not all transactions found in specified or retrieved block"));
    }
    answer(&hex::encode(encode(&MerkleProof::new(block.header, &leaves(&block), &positions))))
}

fn leaves(block: &Block) -> Vec<setara_core::hash::WtxId> {
    let ids: Vec<_> = block.transactions.iter().map(Transaction::ids).collect();
    Block::leaves(&block.coinbase, &ids)
}

pub(super) fn verifytxoutproof(context: &RpcContext, args: &Args) -> Outcome {
    let bytes = args.hex("proof")?;
    let proof: MerkleProof =
        decode(&bytes).map_err(|error| RpcError::deserialization(format!("The proof does not decode: {error}")))?;
    let none: [TxId; 0] = [];
    let Some(proven) = proof.prove().filter(|proven| proven.root == proof.header.merkle_root) else {
        return answer(&none);
    };
    let view = context.chain.view();
    let hash: BlockHash = proof.header.hash();
    let row = view.header(&hash).map_err(store_failed)?;
    let Some(row) = row else { return Err(RpcError::not_found("Block not found in chain")) };
    if place(&view, &hash, &row)?.confirmations.is_none() {
        return Err(RpcError::not_found("Block not found in chain"));
    }
    // The header fixes the root; the number of leaves is only as good as the body that we hold.
    if row.tx_count != proof.leaves {
        return answer(&none);
    }
    let txids = convert::txids(&found_block(&view, &hash)?);
    let at = |position: u32| usize::try_from(position).ok().and_then(|position| txids.get(position)).copied();
    answer(&proven.matches.iter().filter_map(|(position, _)| at(*position)).collect::<Vec<TxId>>())
}
