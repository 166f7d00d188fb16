//! Tests of the mempool over a real chain in memory.

mod admission;
mod concurrency;
mod cost;
mod estimating;
mod limits;
mod locks;
mod model;
mod packages;
mod persistence;
mod relaying;
mod reorganisation;
mod replacement;
mod verdicts;

use super::{Accepted, Mempool, MempoolError, Options};
use crate::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier};
use crate::clock::ManualClock;
use crate::mining::Templates;
use crate::store::MemoryStore;
use crate::testing::{ChainBuilder, address, coins, funded_network};
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::hash::TxId;
use setara_core::network::Network;
use setara_core::transaction::{Coin, OutPoint, Transaction};
use std::sync::Arc;

/// A coin and where it is.
pub(crate) type Purse = (OutPoint, Coin);

/// A chain in memory with funds of keys 1, 2, 3 .., a mempool and templates over it, and a clock moved by hand.
pub(crate) struct Lab {
    pub network: Arc<Network>,
    pub clock: Arc<ManualClock>,
    pub known: Arc<KnownSignatures>,
    pub chain: ChainHandle,
    pub pool: Arc<Mempool>,
    pub templates: Arc<Templates>,
    pub builder: ChainBuilder,
}

impl Lab {
    /// With this many coins to spend, of 10 each, in the block after the next.
    pub fn new(funds: u32) -> Self {
        Self::with(funded_network(funds, coins(10)), Options::default())
    }

    /// On this network, with these options, one block above genesis.
    pub fn with(network: Arc<Network>, options: Options) -> Self {
        let time = network.genesis().header.time;
        let clock = Arc::new(ManualClock::new(u64::from(time) + 1_000_000));
        let known = Arc::new(KnownSignatures::default());
        let verifier = Verifier::new(network.clone(), known.clone(), Some(2));
        let chain_options = ChainOptions { coin_cache_bytes: 1 << 20, ..ChainOptions::default() };
        let store = Arc::new(MemoryStore::new());
        let chain = ChainHandle::start(store, verifier, chain_options, clock.clone()).expect("a new chain starts");
        let mut builder = ChainBuilder::new(&network);
        for number in 0..u32::try_from(network.allocations.len()).unwrap() {
            builder.own(number + 1);
        }
        let mut lab = Self::over(network, clock, known, chain, builder, options);
        lab.mine(Vec::new());
        lab
    }

    fn over(
        network: Arc<Network>,
        clock: Arc<ManualClock>,
        known: Arc<KnownSignatures>,
        chain: ChainHandle,
        builder: ChainBuilder,
        options: Options,
    ) -> Self {
        let pool = Mempool::new(network.clone(), clock.clone(), chain.clone(), known.clone(), options);
        let pool = Arc::new(pool);
        let templates = Templates::new(network.clone(), chain.clone(), pool.clone(), clock.clone());
        Self { network, clock, known, chain, pool, templates: Arc::new(templates), builder }
    }

    /// Another mempool, empty, over the same chain.
    pub fn beside(&self, options: Options) -> Self {
        let (network, clock, known) = (self.network.clone(), self.clock.clone(), self.known.clone());
        Self::over(network, clock, known, self.chain.clone(), self.builder.clone(), options)
    }

    /// Mines a block on the builder's branch and submits it.
    pub fn mine(&mut self, transactions: Vec<Transaction>) -> Block {
        let block = self.builder.mine(transactions);
        self.chain.submit(block.clone()).expect("the builder's blocks are valid");
        block
    }

    /// The genesis coin of key `number`, counted from 1.
    pub fn purse(&self, number: u32) -> Purse {
        let coinbase = &self.network.genesis().coinbase;
        let output = coinbase.outputs[number as usize - 1];
        let coin = Coin { output, height: setara_core::height::Height::GENESIS, from_coinbase: true };
        (OutPoint::new(coinbase.txid(), number - 1), coin)
    }

    /// Spends `inputs` to `outputs` equal outputs of key 1, leaving at least `fee`, at most a sen per output more.
    pub fn pay(&self, inputs: &[Purse], outputs: u64, fee: u64) -> Transaction {
        let spent: u64 = inputs.iter().map(|(_, coin)| coin.output.amount.sen()).sum();
        let each = Amount::from_sen((spent - fee) / outputs);
        self.builder.spend(inputs, &vec![(address(1), each); outputs as usize])
    }

    pub fn submit(&self, transaction: &Transaction) -> Result<Accepted, MempoolError> {
        self.pool.submit(transaction.clone())
    }

    pub fn accept(&self, transaction: &Transaction) -> Accepted {
        self.submit(transaction).expect("acceptable")
    }

    /// The code with which it is refused.
    pub fn refused(&self, transaction: &Transaction) -> &'static str {
        self.submit(transaction).expect_err("not acceptable").code()
    }

    pub fn holds(&self, transaction: &Transaction) -> bool {
        self.pool.get(&transaction.txid()).is_some()
    }

    pub fn txids(&self) -> Vec<TxId> {
        self.pool.ids().into_iter().map(|ids| ids.txid).collect()
    }
}

/// The outputs of a transaction as coins to spend.
pub(crate) fn outputs(transaction: &Transaction) -> Vec<Purse> {
    let txid = transaction.txid();
    let purse = |(index, output): (u32, &_)| {
        let coin = Coin { output: *output, height: setara_core::height::Height::GENESIS, from_coinbase: false };
        (OutPoint::new(txid, index), coin)
    };
    (0..).zip(&transaction.outputs).map(purse).collect()
}
