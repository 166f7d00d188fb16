//! A chain in memory that obeys the rules, for tests of the rules: one branch, a naive coin map, instant mining.
#![allow(dead_code, reason = "each test file uses its own part")]

use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::{Block, Header};
use setara_core::codec;
use setara_core::consensus::{
    BlockDelta, ChainState, CheckedBlock, RuleError, Serial, apply, block_signatures, check_block, check_encoded_block,
    connect,
};
use setara_core::hash::Hash256;
use setara_core::keys::{SecretKey, Signature};
use setara_core::lattice::Lattice;
use setara_core::network::Network;
use setara_core::nonce::find_nonce;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Coin, Coinbase, Input, OutPoint, Output, SigningContext, Transaction, Witness};
use std::collections::BTreeMap;

/// Key number `number`: the same in every run.
pub fn key(number: u64) -> SecretKey {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(seed)
}

pub fn key_policy(number: u64) -> SpendPolicy {
    SpendPolicy::Key(key(number).public_key())
}

pub fn key_address(number: u64) -> Address {
    key_policy(number).address()
}

/// The dev network with a short maturity, so that tests have money early. A parameter, not a rule.
pub fn network() -> Network {
    let mut parameters = (*Network::dev()).clone();
    parameters.maturity = 3;
    let header = parameters.genesis_block().header;
    let target = header.bits.to_target().unwrap();
    parameters.genesis_nonce = find_nonce(&header, target, 0..=u32::MAX).unwrap();
    Network::new(parameters).unwrap()
}

/// The one verdict on a block, whether it comes with its encoding or without.
pub fn check_both(network: &Network, block: &Block) -> Result<CheckedBlock, RuleError> {
    let alone = check_block(network, block.clone(), &Serial);
    let encoded = check_encoded_block(network, block.clone().into(), &Serial);
    match (&alone, &encoded) {
        (Ok(alone), Ok((encoded, bytes))) => {
            assert!(alone.ids().eq(encoded.ids()), "other ids from the encoding");
            assert_eq!((alone.size(), &codec::encode(block)), (bytes.len() as u64, bytes));
        }
        _ => assert_eq!(alone.as_ref().err(), encoded.as_ref().err()),
    }
    alone
}

#[derive(Clone)]
pub struct Chain {
    pub network: Network,
    pub state: ChainState,
    pub lattice: Lattice,
    pub coins: BTreeMap<OutPoint, Coin>,
    pub deltas: Vec<BlockDelta>,
    pub blocks: Vec<Block>,
}

impl Chain {
    pub fn new(network: Network) -> Self {
        let delta = BlockDelta::genesis(&network);
        let mut lattice = Lattice::empty();
        lattice.apply(&delta.lattice_changes()).unwrap();
        let state = apply(&delta, lattice.root());
        let coins = delta.created().iter().copied().collect();
        let blocks = vec![network.genesis().clone()];
        Self { network, state, lattice, coins, deltas: vec![], blocks }
    }

    /// `count` empty blocks that pay key 0.
    pub fn grow(&mut self, count: u32) {
        for _ in 0..count {
            let block = self.block(vec![]);
            self.accept(&block).unwrap();
        }
    }

    /// A valid block of these transactions on the tip, mined, paying key 0.
    pub fn block(&self, transactions: Vec<Transaction>) -> Block {
        let height = self.state.header.next_height().unwrap();
        let fees =
            Amount::checked_sum(transactions.iter().map(|transaction| transaction.fee().unwrap_or(Amount::ZERO)));
        let amount = self.network.subsidy(height).checked_add(fees.unwrap()).unwrap();
        let coinbase = Coinbase {
            height,
            coins_root: self.state.coins_root,
            outputs: vec![Output { amount, address: key_address(0) }],
            extra: vec![],
        };
        let header = Header {
            version: 0x2000_0000,
            previous: self.state.hash(),
            merkle_root: Hash256::ZERO,
            time: self.state.header.time() + self.network.spacing,
            bits: self.state.header.required_bits(&self.network),
            nonce: 0,
        };
        let mut block = Block { header, coinbase, transactions };
        seal(&mut block);
        block
    }

    /// Every rule, signatures included; on success the chain is one longer.
    pub fn accept(&mut self, block: &Block) -> Result<(), RuleError> {
        let checked = check_both(&self.network, block)?;
        let signatures = block_signatures(&self.network, &checked, &|_| false, &Serial);
        if let Some(index) = signatures.checks.iter().position(|check| !check.verify()) {
            return Err(signatures.error(index));
        }
        let coins: Vec<_> = checked.required_coins().iter().map(|outpoint| self.coins.get(outpoint).copied()).collect();
        let delta = connect(&self.network, &self.state, &checked, &coins)?;
        for (outpoint, _) in delta.spent() {
            assert!(self.coins.remove(outpoint).is_some(), "spends only what exists");
        }
        for (outpoint, coin) in delta.created() {
            assert!(self.coins.insert(*outpoint, *coin).is_none(), "creates only what does not exist");
        }
        self.lattice.apply(&delta.lattice_changes()).unwrap();
        self.state = apply(&delta, self.lattice.root());
        self.deltas.push(delta);
        self.blocks.push(block.clone());
        Ok(())
    }

    /// Takes the last block back.
    pub fn revert(&mut self) {
        let delta = self.deltas.pop().unwrap();
        for (outpoint, _) in delta.created() {
            assert!(self.coins.remove(outpoint).is_some());
        }
        for (outpoint, coin) in delta.spent() {
            assert!(self.coins.insert(*outpoint, *coin).is_none());
        }
        self.lattice.apply(&delta.lattice_changes().negate()).unwrap();
        self.state = *delta.parent();
        self.blocks.pop();
    }

    /// The first output of the coinbase at `height`.
    pub fn reward(&self, height: usize) -> (OutPoint, Coin) {
        let outpoint = OutPoint::new(self.blocks[height].coinbase.txid(), 0);
        (outpoint, self.coins[&outpoint])
    }
}

/// An unsigned spend of coins whose policies are `policies`.
pub fn spend(coins: &[(OutPoint, Coin)], outputs: Vec<Output>, policies: Vec<SpendPolicy>) -> Transaction {
    let inputs =
        coins.iter().map(|(outpoint, coin)| Input { outpoint: *outpoint, amount: coin.output.amount }).collect();
    let witness = |policy| Witness { policy, signatures: vec![], preimages: vec![], future: vec![] };
    Transaction { inputs, outputs, valid_from: 0, memo: vec![], witnesses: policies.into_iter().map(witness).collect() }
}

/// Signs every revealed key of every witness with whichever of `keys` it is.
pub fn sign(network: &Network, transaction: &mut Transaction, keys: &[SecretKey]) {
    let addresses = transaction.spent_addresses();
    let context = SigningContext::new(network.genesis_hash(), transaction.txid(), &addresses);
    for (input, witness) in transaction.witnesses.iter_mut().enumerate() {
        let mut signatures = vec![];
        collect_signatures(&witness.policy, &mut vec![], &mut |key, path| {
            let message = context.message(input as u32, path);
            let secret = keys.iter().find(|secret| secret.public_key() == *key);
            signatures.push(secret.map_or(Signature::from_bytes([0; 64]), |secret| secret.sign(&message).unwrap()));
        });
        witness.signatures = signatures;
    }
}

fn collect_signatures(
    policy: &SpendPolicy,
    path: &mut Vec<u8>,
    found: &mut impl FnMut(&setara_core::keys::PublicKey, &[u8]),
) {
    match policy {
        SpendPolicy::Key(key) => found(key, path),
        SpendPolicy::Threshold { of, .. } => {
            for (position, child) in of.iter().enumerate() {
                path.push(position as u8);
                collect_signatures(child, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// A signed one-input payment of a key-0 coin: `pay` to key 1, the rest less `fee` back to key 0.
pub fn payment(chain: &Chain, coin: (OutPoint, Coin), pay: u64, fee: u64) -> Transaction {
    let total = coin.1.output.amount.sen();
    let outputs = vec![
        Output { amount: Amount::from_sen(pay), address: key_address(1) },
        Output { amount: Amount::from_sen(total - pay - fee), address: key_address(0) },
    ];
    let mut transaction = spend(&[coin], outputs, vec![key_policy(0)]);
    sign(&chain.network, &mut transaction, &[key(0)]);
    transaction
}

/// Commits the header to the body and finds a nonce.
pub fn seal(block: &mut Block) {
    block.header.merkle_root = block.merkle_root().root;
    mine(block);
}

/// Finds a nonce for the header as it is.
pub fn mine(block: &mut Block) {
    let Ok(target) = block.header.bits.to_target() else { return };
    while !target.is_met_by(block.hash()) {
        block.header.nonce = block.header.nonce.wrapping_add(1);
    }
}
