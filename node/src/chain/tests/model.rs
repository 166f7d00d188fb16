//! Random chains with forks, restarts, bad blocks and second thoughts, against a naive ledger.

use super::*;
use crate::testing::{ChainBuilder, break_signature, coins, funded_network, seal};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::hash::Hash256;
use setara_core::transaction::Transaction;

/// Runs in a test; the long suite raises it by the environment.
fn runs(usual: u64) -> u64 {
    std::env::var("SETARA_MODEL_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What a node should do, worked out without a tree, a cache or a plan.
struct Model {
    /// Every valid block with its ledger, in the order in which the node took it.
    taken: Vec<ChainBuilder>,
    /// Blocks that the operator does not want.
    unwanted: Vec<BlockHash>,
}

impl Model {
    fn is_wanted(&self, ledger: &ChainBuilder) -> bool {
        !ledger.blocks.iter().any(|block| self.unwanted.contains(&block.hash()))
    }

    /// Most work; among equals the first taken.
    fn best(&self) -> &ChainBuilder {
        let mut best = &self.taken[0];
        for ledger in &self.taken {
            if self.is_wanted(ledger) && ledger.state.header.work > best.state.header.work {
                best = ledger;
            }
        }
        best
    }

    fn has(&self, hash: &BlockHash) -> bool {
        self.taken.iter().any(|ledger| ledger.tip() == *hash)
    }
}

pub(super) fn random_transactions(rng: &mut StdRng, ledger: &ChainBuilder) -> Vec<Transaction> {
    let mut spendable = ledger.spendable();
    let mut transactions = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        if spendable.is_empty() {
            break;
        }
        let mut inputs = Vec::new();
        for _ in 0..rng.random_range(1..4).min(spendable.len()) {
            inputs.push(spendable.swap_remove(rng.random_range(0..spendable.len())));
        }
        let sum = Amount::checked_sum(inputs.iter().map(|(_, coin)| coin.output.amount)).unwrap().sen();
        let parts = rng.random_range(1..4u64);
        if sum < parts {
            continue;
        }
        let outputs: Vec<_> =
            (0..parts).map(|_| (testing::address(rng.random_range(0..6)), Amount::from_sen(sum / parts))).collect();
        let transaction = ledger.spend(&inputs, &outputs);
        // Often spent again by the next transaction of the same block.
        if rng.random_bool(0.5) {
            let txid = transaction.txid();
            let height = testing::height(ledger.height() + 1);
            let made = transaction.outputs.iter().zip(0u32..);
            spendable.extend(made.map(|(output, index)| {
                (OutPoint::new(txid, index), Coin { output: *output, height, from_coinbase: false })
            }));
        }
        transactions.push(transaction);
    }
    transactions
}

/// A block that breaks a rule below `ledger`'s tip.
fn bad_block(rng: &mut StdRng, ledger: &ChainBuilder) -> Block {
    let transactions = random_transactions(rng, ledger);
    let mut block = ledger.build(transactions);
    match rng.random_range(0..5) {
        0 if !block.transactions.is_empty() => break_signature(&mut block.transactions[0]),
        1 => block.coinbase.outputs[0].amount = coins(4_000),
        2 if !block.transactions.is_empty() => {
            let again = block.transactions[0].clone();
            block.transactions.push(again);
        }
        3 => block.coinbase.height = testing::height(ledger.height()),
        _ => block.coinbase.coins_root = Hash256::from_bytes([rng.random(); 32]),
    }
    seal(block)
}

fn run(seed: u64, options: &ChainOptions, warm: bool) -> (MemoryStore, ChainBuilder) {
    let mut rng = StdRng::seed_from_u64(seed);
    let network = funded_network(6, coins(50));
    let known = Arc::new(KnownSignatures::default());
    let verifier = Verifier::new(network.clone(), known.clone(), Some(1));
    let mut rig = Rig::with(&network, MemoryStore::new(), verifier.clone(), options.clone()).unwrap();
    let mut model = Model { taken: vec![ChainBuilder::new(&network)], unwanted: Vec::new() };
    for step in 0..40u8 {
        let from = if rng.random_bool(0.6) {
            model.best().clone()
        } else {
            model.taken[rng.random_range(0..model.taken.len())].clone()
        };
        let mut ledger = from;
        ledger.extra = vec![step];
        match rng.random_range(0..22) {
            0..=11 => {
                let transactions = random_transactions(&mut rng, &ledger);
                if warm {
                    transactions.iter().for_each(|transaction| known.insert(transaction.wtxid()));
                }
                let wanted = model.is_wanted(&ledger);
                let block = ledger.mine(transactions);
                let result = rig.submit(&block);
                if wanted {
                    result.unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
                    model.taken.push(ledger);
                } else {
                    assert!(matches!(result, Err(SubmitError::InvalidParent(_))), "seed {seed}, step {step}");
                }
            }
            12..=14 => {
                // May sit on a side branch unjudged until it would be the best.
                let block = bad_block(&mut rng, &ledger);
                let result = rig.submit(&block);
                if matches!(result, Err(SubmitError::SetAside(_))) {
                    rig.audit().unwrap();
                }
                if model.is_wanted(&ledger) && ledger.tip() == model.best().tip() {
                    assert!(result.is_err(), "seed {seed}, step {step}");
                }
            }
            15 | 16 => {
                let Rig { network, store, core, .. } = rig;
                drop(core);
                let store = if rng.random() { store.crash(rng.random_range(0..3)) } else { store };
                rig = Rig::with(&network, store, verifier.clone(), options.clone()).unwrap();
            }
            20 => rig.core.settle().unwrap(),
            17 | 18 if ledger.height() > 0 => {
                let hash = ledger.blocks[rng.random_range(1..ledger.blocks.len())].hash();
                let now = rig.now();
                rig.core.invalidate(&hash, now).unwrap();
                while rig.core.audits_due() {
                    rig.audit().unwrap();
                }
                model.unwanted.push(hash);
            }
            _ => {
                if let Some(hash) = model.unwanted.pop() {
                    let now = rig.now();
                    rig.core.reconsider(&hash, now).unwrap();
                    // It takes back every wish against the blocks below and above.
                    let line: Vec<BlockHash> = model
                        .taken
                        .iter()
                        .filter(|ledger| ledger.blocks.iter().any(|block| block.hash() == hash))
                        .flat_map(|ledger| ledger.blocks.iter().map(Block::hash))
                        .collect();
                    let above_or_below =
                        |unwanted: &BlockHash| line.contains(unwanted) && related(&model, &hash, unwanted);
                    let kept = model.unwanted.iter().copied().filter(|unwanted| !above_or_below(unwanted)).collect();
                    model.unwanted = kept;
                    while rig.core.audits_due() {
                        rig.audit().unwrap();
                    }
                }
            }
        }
        let best = model.best();
        assert!(model.has(&rig.core.tip().hash()), "seed {seed}, step {step}: the tip is a valid block");
        assert_eq!(rig.core.tip().hash(), best.tip(), "seed {seed}, step {step}");
        assert_eq!(rig.core.fault(), None, "seed {seed}, step {step}");
    }
    let best = model.best().clone();
    rig.assert_is(&best);
    rig.settle();
    rig.assert_is(&best);
    (rig.store, best)
}

/// Whether one of two blocks stands above the other.
fn related(model: &Model, a: &BlockHash, b: &BlockHash) -> bool {
    model.taken.iter().any(|ledger| {
        let has = |hash: &BlockHash| ledger.blocks.iter().any(|block| block.hash() == *hash);
        has(a) && has(b)
    })
}

/// CS11, CS19, ST11: after any history the tip is the naive ledger's, supply is the sum of the coins, and everything
/// stored equals a replay from genesis; with warm and cold caches alike.
#[test]
fn cs11_cs19_random_histories_agree_with_a_naive_ledger() {
    let large = ChainOptions { coin_cache_bytes: 4 << 20, ..ChainOptions::default() };
    for seed in 0..runs(40) {
        let (cold, ledger) = run(seed, &small(), false);
        let (warm, same) = run(seed, &large, true);
        assert_eq!(ledger.tip(), same.tip(), "seed {seed}");
        for column in [Column::Coins, Column::Heights, Column::Meta] {
            assert!(cold.rows(column) == warm.rows(column), "seed {seed}: {column:?}");
        }
    }
}
