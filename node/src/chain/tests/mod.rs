//! Tests of the chain: over the memory store, without threads, against the naive ledger of `testing.rs`.

mod adopt;
mod audit;
mod blocks;
mod crash;
#[cfg(feature = "rocksdb")]
mod disk;
mod headers;
mod import;
mod lost;
mod model;
mod prune;
mod recent;
mod recheck;
mod sides;
mod threads;
mod tree;
mod ways;

use super::*;
use crate::store::schema;
use crate::store::{Column, Direction, MemoryStore, Reader};
use crate::testing::{self, ChainBuilder};
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec;
use setara_core::height::Height;
use setara_core::lattice::Lattice;
use setara_core::network::Network;
use setara_core::transaction::{Coin, OutPoint};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A moment at which no block of a test is early.
pub(super) fn later(network: &Network) -> Now {
    Now { unix_seconds: u64::from(network.genesis_time) + 100_000_000, monotonic: Duration::ZERO }
}

pub(super) fn small() -> ChainOptions {
    ChainOptions { coin_cache_bytes: 0, ..ChainOptions::default() }
}

/// A chain without a thread.
pub(super) struct Rig {
    pub network: Arc<Network>,
    pub store: MemoryStore,
    pub core: ChainCore,
    pub verifier: Verifier,
}

impl Rig {
    pub fn new(network: &Arc<Network>) -> Self {
        Self::over(network, MemoryStore::new(), testing::verifier(network)).unwrap()
    }

    pub fn over(network: &Arc<Network>, store: MemoryStore, verifier: Verifier) -> Result<Self, ChainFault> {
        Self::with(network, store, verifier, small())
    }

    pub fn with(
        network: &Arc<Network>,
        store: MemoryStore,
        verifier: Verifier,
        options: ChainOptions,
    ) -> Result<Self, ChainFault> {
        let core = ChainCore::open(Arc::new(store.clone()), verifier.clone(), options, later(network))?;
        Ok(Self { network: network.clone(), store, core, verifier })
    }

    /// The same store, opened anew.
    pub fn reopen(self) -> Self {
        let Self { network, store, core, verifier } = self;
        drop(core);
        Self::over(&network, store, verifier).unwrap()
    }

    pub fn now(&self) -> Now {
        later(&self.network)
    }

    pub fn submit(&mut self, block: &Block) -> Result<Accepted, SubmitError> {
        let now = self.now();
        self.core.submit(block.clone(), Origin::Wanted, now)
    }

    /// Stores the coins' rows as well.
    pub fn settle(&mut self) {
        self.core.settle().unwrap();
        assert_eq!(schema::coins_tip(&self.store).unwrap().as_ref(), Some(self.core.tip()));
    }

    /// Runs the audit that is due.
    pub fn audit(&mut self) -> Result<(), SubmitError> {
        let task = self.core.take_audit().expect("an audit is due");
        let verdict = task.run(&std::sync::atomic::AtomicBool::new(false)).expect("it was not stopped");
        let now = self.now();
        self.core.finish_audit(verdict, now)
    }

    /// Everything stored is what a replay of the builder's chain gives.
    pub fn assert_is(&self, builder: &ChainBuilder) {
        assert_eq!(self.core.tip(), &builder.state);
        assert_stored(&self.store, builder);
    }
}

/// Coins, heights, tip, lattice, and undo of the active chain equal a replay from genesis; supply = sum of coins.
pub(super) fn assert_stored(store: &MemoryStore, builder: &ChainBuilder) {
    assert_eq!(schema::tip(store).unwrap(), Some(builder.state));
    let (coins, lattice) = stored_coins(store).unwrap();
    assert!(coins == builder.coins, "the stored coins are those of a replay");
    let sum = Amount::checked_sum(coins.values().map(|coin| coin.output.amount)).unwrap();
    assert_eq!(sum, builder.state.supply);
    let heights: Vec<_> = store.rows(Column::Heights);
    assert_eq!(heights.len(), builder.blocks.len());
    for ((height, block), (key, value)) in (0u32..).zip(&builder.blocks).zip(heights) {
        assert_eq!((key, value), (height.to_be_bytes().to_vec(), block.hash().as_bytes().to_vec()));
        assert_eq!(schema::body(store, &block.hash()).unwrap(), Some(codec::encode(block)));
    }
    for delta in &builder.deltas {
        assert_eq!(schema::undo(store, &delta.header().hash).unwrap().as_ref(), Some(delta));
    }
    assert!(lattice == builder.lattice, "the stored lattice is that of a replay");
}

/// The coins and the lattice after the tip, as the rows and the deltas above them say: naively, one by one.
pub(super) fn stored_coins(store: &dyn Reader) -> Result<(BTreeMap<OutPoint, Coin>, Lattice), StoreError> {
    let missing = || StoreError::corrupt("a row is missing");
    let mut coins = BTreeMap::new();
    for row in store.iterate(Column::Coins, &[], Direction::Forward) {
        let (key, value) = row?;
        let outpoint = schema::coin_outpoint(&key)?;
        coins.insert(outpoint, schema::coin(&outpoint, &value)?);
    }
    let mut lattice = schema::lattice(store)?;
    let tip = schema::tip(store)?.ok_or_else(missing)?;
    let mut at = schema::coins_tip(store)?.ok_or_else(missing)?;
    assert_eq!(lattice.root(), at.coins_root);
    while schema::hash_at(store, at.height())? != Some(at.hash()) {
        let delta = schema::undo(store, &at.hash())?.ok_or_else(missing)?;
        for (outpoint, coin) in delta.created() {
            assert_eq!(coins.remove(outpoint), Some(*coin));
        }
        coins.extend(delta.spent().iter().copied());
        lattice.apply(&delta.lattice_changes().negate()).unwrap();
        at = *delta.parent();
    }
    for height in at.height().get() + 1..=tip.height().get() {
        let hash = schema::hash_at(store, Height::new(height))?.ok_or_else(missing)?;
        let delta = schema::undo(store, &hash)?.ok_or_else(missing)?;
        for (outpoint, coin) in delta.spent() {
            assert_eq!(coins.remove(outpoint), Some(*coin));
        }
        coins.extend(delta.created().iter().copied());
        lattice.apply(&delta.lattice_changes()).unwrap();
    }
    Ok((coins, lattice))
}

/// One block after another.
pub(super) fn submit_all(rig: &mut Rig, blocks: &[Block]) {
    for block in blocks {
        rig.submit(block).unwrap();
    }
}
