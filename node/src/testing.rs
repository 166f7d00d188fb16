//! Test support: makes chains. Not part of the node; nothing here runs in it.
//!
//! A [`ChainBuilder`] is a naive ledger that mines: a plain map of coins, a lattice, and keys made from numbers. Clone
//! one to fork. Its blocks are valid, signed and mined (at once, on trivial work), unless a test then breaks them.

pub mod fuzz;

use crate::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier};
use crate::clock::Clock;
use crate::memory::{self, Held, Part, Usual, Wanted};
use crate::store::Store;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::{Block, Header};
use setara_core::consensus::{BlockDelta, ChainState, RuleError, Serial, apply, check_block, connect};
use setara_core::hash::{BlockHash, Hash256};
use setara_core::height::Height;
use setara_core::keys::{SecretKey, Signature};
use setara_core::lattice::Lattice;
use setara_core::network::{Network, Parameters};
use setara_core::nonce::find_nonce;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Coin, Coinbase, Input, OutPoint, Output, SigningContext, Transaction, Witness};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The secret key of number `number`.
pub fn key(number: u32) -> SecretKey {
    let mut seed = [0x5e; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(seed)
}

/// The policy that key `number` alone satisfies.
pub fn policy(number: u32) -> SpendPolicy {
    SpendPolicy::Key(key(number).public_key())
}

/// The address of [`policy`].
pub fn address(number: u32) -> Address {
    policy(number).address()
}

/// Whole coins.
pub fn coins(amount: u64) -> Amount {
    Amount::from_coins(amount).expect("tests use small amounts")
}

/// The development network but for what `change` sets, its genesis mined anew.
pub fn network(change: impl FnOnce(&mut Parameters)) -> Arc<Network> {
    let mut parameters: Parameters = (*Network::dev()).clone();
    change(&mut parameters);
    loop {
        let header = parameters.genesis_block().header;
        let target = header.bits.to_target().expect("tests set bits that are a target");
        if target.is_met_by(header.hash()) {
            return Arc::new(Network::new(parameters).expect("tests set sound parameters"));
        }
        parameters.genesis_nonce += 1;
    }
}

/// The development network with coinbases that mature after one block.
pub fn quick_network() -> Arc<Network> {
    network(|parameters| parameters.maturity = 1)
}

/// The development network on which `count` coins of `amount` each, of keys 1, 2, 3 .., can be spent from block 1 on.
pub fn funded_network(count: u32, amount: Amount) -> Arc<Network> {
    network(|parameters| {
        parameters.maturity = 1;
        parameters.allocations = (1..=count).map(|number| Output { amount, address: address(number) }).collect();
    })
}

/// A verifier of its own, with nothing known.
pub fn verifier(network: &Arc<Network>) -> Verifier {
    Verifier::new(network.clone(), Arc::new(KnownSignatures::default()), None)
}

/// What a node of the usual shares says of its memory, of which it counts nothing but one part.
pub fn held() -> Held {
    let wanted = Wanted {
        budget: None,
        database: None,
        mempool: None,
        inbound: None,
        index: true,
        history: false,
        block_bytes: 1_000_000,
    };
    let usual = Usual { database: 450 << 20, mempool: 300_000_000, inbound: 114 };
    let shares = wanted.split(0, &usual).expect("without a budget nothing is too little");
    Held { resident: memory::resident_bytes(), shares, used: vec![(Part::Coins, 7)] }
}

/// A running chain over `store`.
pub fn start(network: &Arc<Network>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> ChainHandle {
    let options = ChainOptions { coin_cache_bytes: 1 << 20, ..ChainOptions::default() };
    ChainHandle::start(store, verifier(network), options, clock).expect("a new chain starts")
}

/// A chain over `store` without a thread: see [`ChainHandle::inline`].
pub fn inline(network: &Arc<Network>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> ChainHandle {
    let options = ChainOptions { coin_cache_bytes: 1 << 20, ..ChainOptions::default() };
    ChainHandle::inline(store, verifier(network), options, clock).expect("a new chain opens")
}

/// Sets the root that the header must commit to, and finds a nonce.
pub fn seal(mut block: Block) -> Block {
    block.header.merkle_root = block.merkle_root().root;
    mine_header(&mut block.header);
    block
}

/// Finds a nonce.
pub fn mine_header(header: &mut Header) {
    let target = header.bits.to_target().expect("tests set bits that are a target");
    header.nonce = find_nonce(header, target, 0..=u32::MAX).expect("trivial work");
}

/// A chain and its coins, in plain maps.
#[derive(Clone)]
pub struct ChainBuilder {
    /// The network.
    pub network: Arc<Network>,
    /// After the tip.
    pub state: ChainState,
    /// After the tip.
    pub lattice: Lattice,
    /// After the tip.
    pub coins: BTreeMap<OutPoint, Coin>,
    /// What each block on the way changed, genesis first.
    pub deltas: Vec<BlockDelta>,
    /// The blocks on the way, genesis first.
    pub blocks: Vec<Block>,
    /// Whom the next coinbase pays.
    pub payout: Address,
    /// In the next coinbase: tells forks apart.
    pub extra: Vec<u8>,
    owners: BTreeMap<Address, u32>,
    history: bool,
}

impl ChainBuilder {
    /// At genesis; coinbases pay key 0.
    pub fn new(network: &Arc<Network>) -> Self {
        let delta = BlockDelta::genesis(network);
        let mut lattice = Lattice::empty();
        lattice.apply(&delta.lattice_changes()).expect("genesis coins fit");
        Self {
            network: network.clone(),
            state: apply(&delta, lattice.root()),
            lattice,
            coins: delta.created().iter().copied().collect(),
            deltas: vec![delta],
            blocks: vec![network.genesis().clone()],
            payout: address(0),
            extra: Vec::new(),
            owners: (0..64).map(|number| (address(number), number)).collect(),
            history: true,
        }
    }

    /// Whether blocks and deltas are kept: a long benchmark has no use for them.
    pub fn keep_history(&mut self, keep: bool) {
        self.history = keep;
    }

    /// Hash of the tip.
    pub fn tip(&self) -> BlockHash {
        self.state.hash()
    }

    /// Height of the tip.
    pub fn height(&self) -> u32 {
        self.state.height().get()
    }

    /// Makes coins of key `number` spendable by [`Self::spend`] (0 to 63 are from the start).
    pub fn own(&mut self, number: u32) -> Address {
        let address = address(number);
        self.owners.insert(address, number);
        address
    }

    /// A valid block on the tip with these transactions, not applied.
    pub fn build(&self, transactions: Vec<Transaction>) -> Block {
        let height = self.state.height().next().expect("tests are short");
        let fees = transactions.iter().map(|transaction| transaction.fee().unwrap_or(Amount::ZERO));
        let fees = Amount::checked_sum(fees).unwrap_or(Amount::ZERO);
        let reward = self.network.subsidy(height).checked_add(fees).expect("tests use small amounts");
        let coinbase = Coinbase {
            height,
            coins_root: self.state.coins_root,
            outputs: vec![Output { amount: reward, address: self.payout }],
            extra: self.extra.clone(),
        };
        let header = Header {
            version: 0x2000_0000,
            previous: self.tip(),
            merkle_root: Hash256::ZERO,
            time: (self.state.header.time() + self.network.spacing).max(self.state.header.median_time_past() + 1),
            bits: self.state.header.required_bits(&self.network),
            nonce: 0,
        };
        seal(Block { header, coinbase, transactions })
    }

    /// Applies a block, if the rules (signatures aside) allow it.
    pub fn apply(&mut self, block: &Block) -> Result<(), RuleError> {
        let checked = check_block(&self.network, block.clone(), &Serial)?;
        let coins: Vec<Option<Coin>> =
            checked.required_coins().iter().map(|outpoint| self.coins.get(outpoint).copied()).collect();
        let delta = connect(&self.network, &self.state, &checked, &coins)?;
        for (outpoint, _) in delta.spent() {
            self.coins.remove(outpoint);
        }
        self.coins.extend(delta.created().iter().copied());
        self.lattice.apply(&delta.lattice_changes()).expect("the builder's coins are right");
        self.state = apply(&delta, self.lattice.root());
        if self.history {
            self.deltas.push(delta);
            self.blocks.push(block.clone());
        }
        Ok(())
    }

    /// Mines a block with these transactions and applies it.
    pub fn mine(&mut self, transactions: Vec<Transaction>) -> Block {
        let block = self.build(transactions);
        self.apply(&block).expect("the builder makes valid blocks");
        block
    }

    /// Mines empty blocks.
    pub fn mine_empty(&mut self, count: u32) -> Vec<Block> {
        (0..count).map(|_| self.mine(Vec::new())).collect()
    }

    /// Coins that key holders 0 to 63 (and those of [`Self::own`]) can spend in the next block, by outpoint.
    pub fn spendable(&self) -> Vec<(OutPoint, Coin)> {
        let next = self.height() + 1;
        let mature = |coin: &Coin| !coin.from_coinbase || next >= coin.height.get() + self.network.maturity;
        let owned = |coin: &Coin| self.owners.contains_key(&coin.output.address);
        self.coins.iter().filter(|(_, coin)| mature(coin) && owned(coin)).map(|(key, coin)| (*key, *coin)).collect()
    }

    /// A signed transaction that spends `inputs` and pays `outputs`; what is left is the fee.
    pub fn spend(&self, inputs: &[(OutPoint, Coin)], outputs: &[(Address, Amount)]) -> Transaction {
        self.spend_from(inputs, outputs, 0)
    }

    /// The same, valid from a height.
    pub fn spend_from(
        &self,
        inputs: &[(OutPoint, Coin)],
        outputs: &[(Address, Amount)],
        valid_from: u32,
    ) -> Transaction {
        let owners: Vec<u32> = inputs
            .iter()
            .map(|(_, coin)| *self.owners.get(&coin.output.address).expect("a coin of a known key"))
            .collect();
        sign(&self.network, inputs, outputs, valid_from, &owners)
    }
}

/// A transaction whose input `i` is signed by key `owners[i]` alone.
pub fn sign(
    network: &Network,
    inputs: &[(OutPoint, Coin)],
    outputs: &[(Address, Amount)],
    valid_from: u32,
    owners: &[u32],
) -> Transaction {
    let witness = |number: &u32| Witness {
        policy: policy(*number),
        signatures: Vec::new(),
        preimages: Vec::new(),
        future: Vec::new(),
    };
    let mut transaction = Transaction {
        inputs: inputs
            .iter()
            .map(|(outpoint, coin)| Input { outpoint: *outpoint, amount: coin.output.amount })
            .collect(),
        outputs: outputs.iter().map(|(address, amount)| Output { amount: *amount, address: *address }).collect(),
        valid_from,
        memo: Vec::new(),
        witnesses: owners.iter().map(witness).collect(),
    };
    let addresses = transaction.spent_addresses();
    let context = SigningContext::new(network.genesis_hash(), transaction.txid(), &addresses);
    for ((index, owner), witness) in (0u32..).zip(owners).zip(&mut transaction.witnesses) {
        let signature = key(*owner).sign(&context.message(index, &[])).expect("memory is sound");
        witness.signatures = vec![signature];
    }
    transaction
}

/// Breaks the first signature of a transaction.
pub fn break_signature(transaction: &mut Transaction) {
    let mut bytes = *transaction.witnesses[0].signatures[0].as_bytes();
    bytes[0] ^= 1;
    transaction.witnesses[0].signatures[0] = Signature::from_bytes(bytes);
}

/// Height `height`.
pub const fn height(height: u32) -> Height {
    Height::new(height)
}
