//! Opening a chain: begin with genesis, or take up what is stored, and only if it agrees with itself.
//!
//! Checked before anything is served: format and network; every header below its parent, work included; the height
//! index against the tree; the tip against both; the lattice against the root and supply of the block the coins belong
//! to, and, once the deltas above it are replayed, of the tip; the last six blocks, body and undo record, down to the
//! roots their coinbases commit to. What does not agree is refused in words, never repaired by guessing.

use super::audit::Audits;
use super::chain::{ChainCore, ChainOptions, Now};
use super::coins::CoinCache;
use super::early::EarlyBlocks;
use super::events::Shared;
use super::failpoint;
use super::flush::Pending;
use super::hasher::KeyedState;
use super::headers::SharedTree;
use super::recent::{Recent, Replay};
use super::tree::{HeaderTree, NodeId};
use super::verify::Verifier;
use super::view::View;
use super::{ChainFault, SubmitError};
use crate::store::schema::{self, HeaderRow, Pruned, PutRows, SnapshotStage, flags};
use crate::store::{Batch, Column, Direction, Durability, Store, StoreError};
use setara_core::codec;
use setara_core::consensus::{BlockDelta, ChainState, apply, check_header};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::lattice::Lattice;
use setara_core::network::Network;
use setara_core::transaction::OutPoint;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks below the tip that are looked at again, as Bitcoin Core does.
const RECHECK_BLOCKS: usize = 6;
/// Headers between two lines about progress.
const PROGRESS_HEADERS: usize = 100_000;

fn damaged(what: impl Into<String>) -> ChainFault {
    ChainFault::Damaged(what.into())
}

impl ChainCore {
    /// Opens the chain of the verifier's network in `store`, and makes the best stored branch the tip.
    pub fn open(
        store: Arc<dyn Store>,
        verifier: Verifier,
        options: ChainOptions,
        now: Now,
    ) -> Result<Self, ChainFault> {
        let network = verifier.network().clone();
        if !schema::check_identity(&*store, &network.genesis_hash(), &options.directory)? {
            begin(&*store, &network)?;
        }
        schema::migrate(&*store, &network.genesis_hash())?;
        let mut snapshot = schema::snapshot(&*store)?;
        if snapshot.is_some_and(|row| row.stage == SnapshotStage::Loading) {
            super::adopt::reset(&*store, &network)?;
            snapshot = None;
        }
        let keys = KeyedState::random();
        let state = schema::tip(&*store)?.ok_or_else(|| damaged("the tip is missing"))?;
        let pruned = schema::pruned(&*store)?;
        let mut tree = load_headers(&*store, &network, keys)?;
        let active = load_active(&*store, &mut tree, &state, pruned)?;
        let early = EarlyBlocks::within(options.early_bytes);
        let mut coins = CoinCache::new(options.coin_cache_bytes, keys);
        let lattice = catch_up(&*store, &mut coins, &state)?;
        recheck(&*store, &verifier, &tree, &active, &state, &lattice, pruned)?;
        let tree = SharedTree::new(tree);
        let (reader, recent) = (store.snapshot()?, Recent::read(&*store)?);
        let stored = (pruned, snapshot);
        let view = View::new(state, 0, network.clone(), reader, recent, Vec::new(), tree.reader(), stored);
        let mut core = Self {
            coins,
            recent: Recent::default(),
            pending: Pending::new(state.height(), now),
            shared: Arc::new(Shared::new(Arc::new(view))),
            flush_interval: options.flush_interval,
            network,
            store,
            options,
            verifier,
            tree,
            active,
            state,
            lattice,
            fresh: None,
            reasons: BTreeMap::new(),
            audits: Audits::default(),
            pruned,
            snapshot,
            early,
            fault: None,
            sequence: 0,
        };
        core.publish()?;
        // Blocks whose bodies were stored but that a crash kept from being connected.
        match core.reactivate(now) {
            Ok(()) | Err(SubmitError::Stopping) => {}
            Err(SubmitError::Fault(fault)) => return Err(fault),
            Err(error) => return Err(damaged(error.to_string())),
        }
        Ok(core)
    }
}

/// Stores a new chain: genesis and its coins.
fn begin(store: &dyn Store, network: &Network) -> Result<(), ChainFault> {
    failpoint::pass(failpoint::BEFORE_GENESIS);
    let delta = BlockDelta::genesis(network);
    let changes = delta.lattice_changes();
    let mut lattice = Lattice::empty();
    lattice.apply(&changes).map_err(|error| damaged(error.to_string()))?;
    let state = apply(&delta, lattice.root());
    let hash = network.genesis_hash();
    let body = codec::encode(network.genesis());
    let tree = HeaderTree::new(state.header, network.genesis().header, body.len() as u32, KeyedState::new(0, 0));
    let mut batch = Batch::new();
    batch.put_identity(&hash);
    batch.put_header(&hash, &tree.row(tree.genesis()));
    batch.put_body(&hash, &body);
    batch.put_undo(&hash, &codec::encode(&delta));
    for (outpoint, coin) in delta.created() {
        batch.put_coin(outpoint, Some(coin));
    }
    for bucket in changes.touched() {
        batch.put_bucket(bucket, &lattice);
    }
    batch.put_height(Height::GENESIS, Some(&hash));
    batch.put_tip(&state);
    batch.put_coins_tip(&state);
    Ok(store.write(batch, Durability::Synced)?)
}

/// Every stored header, linked below its parent by the header rules.
fn load_headers(store: &dyn Store, network: &Network, keys: KeyedState) -> Result<HeaderTree, ChainFault> {
    let mut rows: Vec<(BlockHash, HeaderRow)> = Vec::new();
    for row in store.iterate(Column::Headers, &[], Direction::Forward) {
        let (key, value) = row?;
        let hash = <[u8; 32]>::try_from(key).map_err(|_| StoreError::corrupt("a header's key"))?;
        let hash = BlockHash::from_bytes(hash);
        rows.push((hash, schema::header_row(&hash, value)?));
        if rows.len().is_multiple_of(PROGRESS_HEADERS) {
            tracing::info!(headers = rows.len(), "reading headers");
        }
    }
    rows.sort_unstable_by_key(|(hash, row)| (row.height, *hash));
    let genesis = BlockDelta::genesis(network);
    let Some((_, first)) = rows.first().filter(|(hash, _)| *hash == network.genesis_hash()) else {
        return Err(damaged("the genesis header is missing"));
    };
    let mut tree = HeaderTree::new(*genesis.header(), first.header, first.size, keys);
    tree.take_dirty();
    for (number, (hash, row)) in rows.iter().enumerate().skip(1) {
        let broken = |what: String| damaged(format!("header {hash} at height {}: {what}", row.height));
        let parent = tree.find(&row.header.previous).ok_or_else(|| broken("its parent is missing".to_owned()))?;
        let state =
            check_header(network, &tree.node(parent).state, &row.header).map_err(|error| broken(error.to_string()))?;
        if state.hash != *hash || state.height != row.height || state.work != row.work {
            return Err(broken("it is not what was written".to_owned()));
        }
        let id = tree.insert(parent, state, row.header);
        tree.restore(id, row);
        if number % PROGRESS_HEADERS == 0 {
            tracing::info!(headers = number, of = rows.len(), "checking headers");
        }
    }
    tree.refresh();
    Ok(tree)
}

/// The active chain, from the height index; it must be a branch of the tree that ends in the tip.
fn load_active(
    store: &dyn Store,
    tree: &mut HeaderTree,
    state: &ChainState,
    pruned: Option<Pruned>,
) -> Result<Vec<NodeId>, ChainFault> {
    let mut active = Vec::with_capacity(state.height().get() as usize + 1);
    for (height, row) in (0u32..).zip(store.iterate(Column::Heights, &[], Direction::Forward)) {
        let (key, value) = row?;
        let hash = <[u8; 32]>::try_from(value).map_err(|_| StoreError::corrupt(format!("height {height}")))?;
        let id = tree.find(&BlockHash::from_bytes(hash)).filter(|_| key == height.to_be_bytes());
        let id = id.ok_or_else(|| damaged(format!("the block at height {height} is missing")))?;
        if pruned.is_some_and(|pruned| height < pruned.bodies_from.get()) && !tree.node(id).had_body() {
            // Reverted in memory, when rows of headers were written ahead of a flush that never came; or below a
            // snapshot's base, where rows are not written.
            tree.adopt(id);
        }
        let node = tree.node(id);
        if node.parent != active.last().copied() || !node.had_body() || !node.has(flags::CONNECTED) {
            return Err(damaged(format!("the block at height {height} does not follow the one below")));
        }
        active.push(id);
    }
    match active.last().map(|id| tree.node(*id)) {
        Some(tip) if tip.state == state.header => Ok(active),
        _ => Err(damaged("the tip is not the last block of the height index")),
    }
}

/// The lattice after the tip. What a crash kept from the coins' rows is done again from the stored deltas first; the
/// rows are then the tip's.
fn catch_up(store: &dyn Store, coins: &mut CoinCache, tip: &ChainState) -> Result<Lattice, ChainFault> {
    let mut lattice = schema::lattice(store)?;
    let mut state =
        schema::coins_tip(store)?.ok_or_else(|| damaged("the block that the coins belong to is missing"))?;
    check_coins(&state, &lattice)?;
    let mut replay = Replay::new(store)?;
    let mut steps = 0;
    while let Some(change) = replay.next()? {
        let (delta, reverted) = change.delta();
        let (out, into) = change.effects();
        coins.make_room(out.len() + into.len());
        let out: Vec<OutPoint> = out.iter().map(|(outpoint, _)| *outpoint).collect();
        coins.load(store, &out)?;
        coins.step(&change)?;
        let changes = delta.lattice_changes();
        let changes = if reverted { changes.negate() } else { changes };
        lattice.apply(&changes).map_err(|error| damaged(error.to_string()))?;
        let (before, after) = (*delta.parent(), apply(delta, lattice.root()));
        let (from, to) = if reverted { (after, before) } else { (before, after) };
        // Reverting does not tell the root it started from: that was checked when the step before was taken.
        if from.header != state.header || from.supply != state.supply || (!reverted && from != state) {
            return Err(damaged(format!("the changes of block {} do not follow the coins", delta.header().hash)));
        }
        check_coins(&to, &lattice)?;
        state = to;
        steps += 1;
    }
    if state != *tip {
        return Err(damaged("the changes since the coins were stored do not lead to the tip"));
    }
    if steps > 0 {
        tracing::info!(steps, height = tip.height().get(), "the coins of the newest blocks are stored again");
        let mut batch = coins.drain();
        for bucket in 0..=u8::MAX {
            batch.put_bucket(bucket, &lattice);
        }
        batch.put_coins_tip(tip);
        store.write(batch, Durability::Synced)?;
    }
    Ok(lattice)
}

fn check_coins(state: &ChainState, lattice: &Lattice) -> Result<(), ChainFault> {
    if lattice.root() != state.coins_root || lattice.sum() != state.supply.sen() {
        return Err(damaged("the coins' lattice does not belong to the tip"));
    }
    Ok(())
}

/// Walks back over the last blocks: bodies whole and valid in themselves, undo records theirs, and the lattice before
/// each the one that its coinbase commits to.
fn recheck(
    store: &dyn Store,
    verifier: &Verifier,
    tree: &HeaderTree,
    active: &[NodeId],
    state: &ChainState,
    lattice: &Lattice,
    pruned: Option<Pruned>,
) -> Result<(), ChainFault> {
    let mut state = *state;
    let mut lattice = lattice.clone();
    for id in active.iter().skip(1).rev().take(RECHECK_BLOCKS) {
        let hash = tree.node(*id).hash();
        let broken = |what: String| damaged(format!("block {hash}: {what}"));
        if pruned.is_some_and(|pruned| tree.node(*id).height() < pruned.undo_from) {
            break;
        }
        let delta = schema::undo(store, &hash)?.ok_or_else(|| broken("its undo record is missing".to_owned()))?;
        let root = if tree.node(*id).has(flags::PRUNED) {
            delta.parent().coins_root
        } else {
            let block = schema::block(store, &hash)?.ok_or_else(|| broken("its body is missing".to_owned()))?;
            let root = block.coinbase.coins_root;
            verifier.check(block).map_err(|error| broken(error.to_string()))?;
            root
        };
        lattice.apply(&delta.lattice_changes().negate()).map_err(|error| broken(error.to_string()))?;
        if *delta.header() != state.header || lattice.root() != root || delta.parent().coins_root != root {
            return Err(broken("the coins before it are not those it commits to".to_owned()));
        }
        state = *delta.parent();
    }
    Ok(())
}
