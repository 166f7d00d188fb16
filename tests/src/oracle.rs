//! A naive ledger to hold a node against: it replays the blocks that the node serves, from genesis, through the rules
//! of `setara-core`, with a plain map of coins and nothing cached.
//!
//! What it is not: independent of the rules themselves. It shares `core` with the node and nothing else, so it catches
//! what storage, caches, reorganisations and crashes do to a chain.

use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::{Block, Header};
use setara_core::consensus::{
    BlockDelta, ChainState, RuleError, Serial, apply, block_signatures, check_block, connect,
};
use setara_core::hash::Hash256;
use setara_core::height::Height;
use setara_core::lattice::{Lattice, LatticeDelta};
use setara_core::network::Network;
use setara_core::transaction::{Coin, Coinbase, OutPoint, Output, Transaction};
use std::collections::BTreeMap;

/// A chain and its coins, from genesis to a tip.
#[derive(Clone)]
pub struct Ledger {
    network: Network,
    state: ChainState,
    lattice: Lattice,
    coins: BTreeMap<OutPoint, Coin>,
}

impl Ledger {
    /// After genesis.
    pub fn new(network: &Network) -> Self {
        let delta = BlockDelta::genesis(network);
        let mut lattice = Lattice::empty();
        lattice.apply(&delta.lattice_changes()).expect("an empty lattice takes what genesis makes");
        let state = apply(&delta, lattice.root());
        let coins = delta.created().iter().copied().collect();
        Self { network: network.clone(), state, lattice, coins }
    }

    /// After genesis and `blocks`, every rule checked.
    pub fn replay<'a>(network: &Network, blocks: impl IntoIterator<Item = &'a Block>) -> Result<Self, RuleError> {
        let mut ledger = Self::new(network);
        for block in blocks {
            ledger.append(block)?;
        }
        Ok(ledger)
    }

    /// One more block, every rule checked, signatures one by one.
    pub fn append(&mut self, block: &Block) -> Result<(), RuleError> {
        let checked = check_block(&self.network, block.clone(), &Serial)?;
        let signatures = block_signatures(&self.network, &checked, &|_| false, &Serial);
        if let Some(index) = signatures.checks.iter().position(|check| !check.verify()) {
            return Err(signatures.error(index));
        }
        let coins: Vec<_> = checked.required_coins().iter().map(|outpoint| self.coins.get(outpoint).copied()).collect();
        let delta = connect(&self.network, &self.state, &checked, &coins)?;
        for (outpoint, _) in delta.spent() {
            assert!(self.coins.remove(outpoint).is_some(), "{outpoint} is spent but was never there");
        }
        for (outpoint, coin) in delta.created() {
            assert!(self.coins.insert(*outpoint, *coin).is_none(), "{outpoint} is made twice");
        }
        self.lattice.apply(&delta.lattice_changes()).expect("the lattice takes a valid block's changes");
        self.state = apply(&delta, self.lattice.root());
        Ok(())
    }

    /// The state at the tip.
    pub const fn state(&self) -> &ChainState {
        &self.state
    }

    /// Height of the tip.
    pub const fn height(&self) -> Height {
        self.state.height()
    }

    /// All unspent coins.
    pub const fn coins(&self) -> &BTreeMap<OutPoint, Coin> {
        &self.coins
    }

    /// The sum of all coins, counted now.
    pub fn supply(&self) -> Amount {
        Amount::checked_sum(self.coins.values().map(|coin| coin.output.amount)).expect("below the cap")
    }

    /// The commitment to all coins, counted now from nothing.
    pub fn coins_root(&self) -> Hash256 {
        let mut delta = LatticeDelta::new();
        for (outpoint, coin) in &self.coins {
            delta.add(outpoint, coin);
        }
        let mut lattice = Lattice::empty();
        lattice.apply(&delta).expect("an empty lattice takes any coins");
        lattice.root()
    }

    /// Coins locked to `address` that the next block may spend, lowest outpoint first.
    pub fn spendable(&self, address: Address) -> impl Iterator<Item = (OutPoint, Coin)> {
        let next = self.height().get() + 1;
        let maturity = self.network.maturity;
        self.coins
            .iter()
            .filter(move |(_, coin)| coin.output.address == address)
            .filter(move |(_, coin)| !coin.from_coinbase || coin.height.get() + maturity <= next)
            .map(|(outpoint, coin)| (*outpoint, *coin))
    }

    /// A valid, mined block on the tip that pays `address`. `extra` tells siblings apart.
    pub fn mine(&self, transactions: Vec<Transaction>, address: Address, extra: &[u8]) -> Block {
        let header = &self.state.header;
        let height = header.next_height().expect("a test chain is short");
        let fees = Amount::checked_sum(transactions.iter().map(|transaction| transaction.fee().expect("no overflow")));
        let amount = self.network.subsidy(height).checked_add(fees.expect("no overflow")).expect("no overflow");
        let coinbase = Coinbase {
            height,
            coins_root: self.state.coins_root,
            outputs: vec![Output { amount, address }],
            extra: extra.to_vec(),
        };
        let next = Header {
            version: 0x2000_0000,
            previous: self.state.hash(),
            merkle_root: Hash256::ZERO,
            time: header.median_time_past().max(header.time()) + 1,
            bits: header.required_bits(&self.network),
            nonce: 0,
        };
        let mut block = Block { header: next, coinbase, transactions };
        block.header.merkle_root = block.merkle_root().root;
        let target = block.header.bits.to_target().expect("the required bits are a target");
        while !target.is_met_by(block.hash()) {
            block.header.nonce += 1;
        }
        block
    }
}
