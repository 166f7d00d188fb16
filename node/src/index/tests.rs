//! Indexes against a naive walk of the active chain, through growth and reorganisations.

use super::*;
use crate::chain::Accepted;
use crate::clock::ManualClock;
use crate::store::{Column, MemoryStore};
use crate::testing::{self, ChainBuilder};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use std::collections::{BTreeMap, BTreeSet};

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// What the index must say, from the blocks alone.
#[derive(Debug, Default, PartialEq)]
struct Naive {
    places: BTreeMap<TxId, (u32, u32)>,
    history: BTreeMap<Address, Vec<(u32, u32)>>,
    received: BTreeMap<Address, u128>,
    coins: BTreeMap<Address, BTreeMap<setara_core::transaction::OutPoint, u64>>,
}

impl Naive {
    fn of(view: &View) -> Self {
        let mut naive = Self::default();
        for height in 0..=view.tip.height().get() {
            let hash = view.hash_at(Height::new(height)).unwrap().unwrap();
            let block = view.block(&hash).unwrap().unwrap();
            naive.transaction(height, 0, block.coinbase.txid(), &[], &[], &block.coinbase.outputs);
            for (position, transaction) in (1..).zip(&block.transactions) {
                let spent = transaction.spent_addresses();
                let outputs = &transaction.outputs;
                naive.transaction(height, position, transaction.txid(), &spent, &transaction.inputs, outputs);
            }
        }
        naive.coins.retain(|_, coins| !coins.is_empty());
        naive
    }

    fn transaction(
        &mut self,
        height: u32,
        position: u32,
        txid: TxId,
        spent: &[Address],
        inputs: &[setara_core::transaction::Input],
        outputs: &[setara_core::transaction::Output],
    ) {
        self.places.insert(txid, (height, position));
        let mut touched = BTreeSet::new();
        for (address, input) in spent.iter().zip(inputs) {
            touched.insert(*address);
            self.coins.get_mut(address).unwrap().remove(&input.outpoint).unwrap();
        }
        for (index, output) in (0..).zip(outputs).filter(|(_, output)| !output.amount.is_zero()) {
            touched.insert(output.address);
            *self.received.entry(output.address).or_default() += u128::from(output.amount.sen());
            let outpoint = setara_core::transaction::OutPoint::new(txid, index);
            self.coins.entry(output.address).or_default().insert(outpoint, output.amount.sen());
        }
        for address in touched {
            self.history.entry(address).or_default().push((height, position));
        }
    }
}

fn assert_agrees(indexes: &Indexes, forgotten: &[TxId]) {
    let index = indexes.view(DEADLINE).unwrap();
    let naive = Naive::of(&index.view);
    for (txid, (height, position)) in &naive.places {
        let location = index.locate(txid).unwrap().unwrap();
        assert_eq!(index.view.hash_at(Height::new(*height)).unwrap(), Some(location.block));
        assert_eq!(location.position, *position);
    }
    for txid in forgotten.iter().filter(|txid| !naive.places.contains_key(txid)) {
        assert_eq!(index.locate(txid).unwrap(), None, "reverted transactions are not found");
    }
    for (address, rows) in &naive.history {
        let (first, last) = (Height::GENESIS, Height::new(u32::MAX));
        let found: Vec<_> = index.address_history(address, first, last).map(Result::unwrap).collect();
        assert_eq!(found.iter().map(|row| (row.height.get(), row.position)).collect::<Vec<_>>(), *rows);
        let totals = index.address_totals(address).unwrap();
        assert_eq!(totals.received, naive.received[address]);
        assert_eq!(totals.transactions, rows.len() as u64);
        let coins: BTreeMap<_, _> = index
            .address_coins(address, None)
            .map(Result::unwrap)
            .map(|coin| (coin.outpoint, coin.coin.output.amount.sen()))
            .collect();
        assert_eq!(coins, naive.coins.get(address).cloned().unwrap_or_default());
        assert_eq!(totals.balance.sen(), coins.values().sum::<u64>());
        let (from, to) = (rows[0].0, rows[rows.len() - 1].0);
        let some = index.address_history(address, Height::new(from), Height::new(to)).count();
        assert_eq!(some, rows.len());
        if let Some(first) = coins.keys().next() {
            assert_eq!(
                index.address_coins(address, Some(first)).count(),
                coins.len() - 1,
                "a page starts after its mark"
            );
        }
    }
}

#[test]
fn indexes_agree_with_a_naive_walk_through_reorganisations() {
    let network = testing::quick_network();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::new(u64::from(network.genesis_time) + 100_000));
    let chain = testing::start(&network, store.clone(), clock);
    let indexes = Indexes::start(store.clone(), chain.clone()).unwrap();
    let mut builder = ChainBuilder::new(&network);
    let submit = |block: setara_core::block::Block| {
        assert!(matches!(chain.submit(block), Ok(Accepted::Connected | Accepted::SideBranch)))
    };
    builder.mine_empty(3).into_iter().for_each(submit);
    assert_agrees(&indexes, &[]);

    let mut fork = builder.clone();
    let mut forgotten = Vec::new();
    for round in 0..6u32 {
        let coin = builder.spendable()[0];
        let to = builder.own(100 + round % 3);
        let amount = Amount::from_sen(coin.1.output.amount.sen() / 2);
        let transaction = builder.spend(&[coin], &[(to, amount)]);
        forgotten.push(transaction.txid());
        submit(builder.mine(vec![transaction]));
    }
    assert_agrees(&indexes, &forgotten);

    // A longer branch without those payments.
    fork.mine_empty(8).into_iter().for_each(submit);
    assert_agrees(&indexes, &forgotten);
    let index = indexes.view(DEADLINE).unwrap();
    assert!(forgotten.iter().all(|txid| index.locate(txid).unwrap().is_none()));

    // An index that starts late reaches the same rows.
    indexes.stop();
    let late = Indexes::start(store, chain.clone()).unwrap();
    assert_agrees(&late, &forgotten);
    assert!(late.statuses().iter().all(|status| status.synced));
    late.stop();
    chain.stop();
}

#[test]
fn a_stopped_index_says_so_instead_of_answering() {
    let network = testing::quick_network();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::new(u64::from(network.genesis_time) + 100_000));
    let chain = testing::start(&network, store.clone(), clock);
    let indexes = Indexes::start(store, chain.clone()).unwrap();
    indexes.view(DEADLINE).unwrap();
    indexes.stop();
    let mut builder = ChainBuilder::new(&network);
    builder.mine_empty(1).into_iter().for_each(|block| assert_eq!(chain.submit(block), Ok(Accepted::Connected)));
    let error = indexes.view(Duration::ZERO).err().unwrap();
    assert!(matches!(error, IndexError::Behind { at, tip, .. } if at < tip), "{error}");
    chain.stop();
}

/// Far behind, a question is answered at once: it must not hold a worker of the server.
#[test]
fn an_index_far_behind_is_not_waited_for() {
    let network = testing::quick_network();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::new(u64::from(network.genesis_time) + 100_000));
    let chain = testing::start(&network, store.clone(), clock);
    let indexes = Indexes::start(store, chain.clone()).unwrap();
    indexes.view(DEADLINE).unwrap();
    indexes.stop();
    let mut builder = ChainBuilder::new(&network);
    for block in builder.mine_empty(NEAR_BLOCKS + 1) {
        assert_eq!(chain.submit(block), Ok(Accepted::Connected));
    }
    let start = std::time::Instant::now();
    let error = indexes.view(DEADLINE).err().unwrap();
    assert!(matches!(error, IndexError::Behind { .. }), "{error}");
    assert!(start.elapsed() < DEADLINE / 2);
    chain.stop();
}

/// A chain with some history, its store, and every address paid in it.
fn busy_chain() -> (ChainHandle, MemoryStore, ChainBuilder) {
    let network = testing::quick_network();
    let store = MemoryStore::new();
    let clock = Arc::new(ManualClock::new(u64::from(network.genesis_time) + 100_000));
    let chain = testing::start(&network, Arc::new(store.clone()), clock);
    let mut builder = ChainBuilder::new(&network);
    builder.mine_empty(3);
    for number in 0..4u32 {
        let coin = builder.spendable()[0];
        let half = Amount::from_sen(coin.1.output.amount.sen() / 2);
        let transaction = builder.spend(&[coin], &[(testing::address(number), half)]);
        builder.mine(vec![transaction]);
    }
    for block in &builder.blocks[1..] {
        assert_eq!(chain.submit(block.clone()), Ok(Accepted::Connected));
    }
    (chain, store, builder)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "{what}");
        std::thread::sleep(POLL);
    }
}

/// Damage that the follower meets (a cursor, a total) or a reader (any row): the index is built anew from the chain,
/// by itself; and the second time it stops, and says so.
#[test]
fn a_damaged_index_is_built_anew_once() {
    let (chain, store, mut builder) = busy_chain();
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let first = Indexes::start(shared.clone(), chain.clone()).unwrap();
    assert_agrees(&first, &[]);
    first.stop();
    let totals = || store.rows(Column::AddressIndex).into_iter().filter(|(key, _)| key[0] == b't');
    let spoil_totals = || totals().for_each(|(key, _)| store.tamper(Column::AddressIndex, &key, Some(&[1])));
    let cursor = |name: &str| [b"cursor/", name.as_bytes()].concat();
    let damages: [&dyn Fn(); 4] = [
        &|| store.tamper(Column::Meta, &cursor(transactions::NAME), Some(&[1])),
        &|| store.tamper(Column::Meta, &cursor(addresses::NAME), Some(&[7; 32])),
        &spoil_totals,
        &|| store.rows(Column::TxIndex).iter().for_each(|(key, _)| store.tamper(Column::TxIndex, key, Some(&[1]))),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage();
        let indexes = Indexes::start(shared.clone(), chain.clone()).unwrap();
        // A block, for the follower to find what it needs damaged; and a question, for a reader to.
        assert_eq!(chain.submit(builder.mine_empty(1).remove(0)), Ok(Accepted::Connected));
        wait_until(&format!("damage {number} is noticed"), || {
            if let Ok(index) = indexes.view(DEADLINE) {
                drop(index.locate(&builder.blocks[1].coinbase.txid()));
            }
            indexes.followers.iter().any(|shared| shared.rebuilds() == 1)
        });
        wait_until("it is whole again", || indexes.view(DEADLINE).is_ok());
        assert_agrees(&indexes, &[]);
        assert!(indexes.statuses().iter().all(|status| status.synced && status.fault.is_none()));
        if number == 2 {
            spoil_totals();
            assert_eq!(chain.submit(builder.mine_empty(1).remove(0)), Ok(Accepted::Connected));
            wait_until("it stops", || indexes.statuses()[1].fault.is_some());
            assert!(!indexes.statuses()[1].synced);
            assert!(matches!(indexes.view(DEADLINE), Err(IndexError::Stopped { name: addresses::NAME, .. })));
            // The next start may try again.
            indexes.stop();
            let again = Indexes::start(shared.clone(), chain.clone()).unwrap();
            wait_until("it is whole again", || again.view(DEADLINE).is_ok());
            assert_agrees(&again, &[]);
            again.stop();
        }
        indexes.stop();
    }
    chain.stop();
}

/// An index whose clearing was cut off has rows and no cursor: they are not counted twice.
#[test]
fn rows_without_a_cursor_are_cleared_first() {
    let (chain, store, _) = busy_chain();
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let first = Indexes::start(shared.clone(), chain.clone()).unwrap();
    assert_agrees(&first, &[]);
    first.stop();
    for name in [addresses::NAME, transactions::NAME] {
        store.tamper(Column::Meta, &[b"cursor/", name.as_bytes()].concat(), None);
    }
    let second = Indexes::start(shared, chain.clone()).unwrap();
    assert_agrees(&second, &[]);
    second.stop();
    chain.stop();
}

/// The sum of all that an address ever received has no bound: one that pays its change to itself passes 2^64 sen soon.
#[test]
fn an_address_may_receive_more_than_there_is() {
    let most = testing::coins(80_000_000);
    let network = testing::network(|parameters| {
        parameters.maturity = 1;
        parameters.supply_cap = testing::coins(90_000_000);
        parameters.allocations = vec![setara_core::transaction::Output { amount: most, address: testing::address(1) }];
    });
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::new(u64::from(network.genesis_time) + 100_000));
    let chain = testing::start(&network, store.clone(), clock);
    let indexes = Indexes::start(store, chain.clone()).unwrap();
    let mut builder = ChainBuilder::new(&network);
    let (mut outpoint, mut coin) = builder.spendable()[0];
    let mut received = u128::from(most.sen());
    let mut transactions = Vec::new();
    while received <= u128::from(u64::MAX) {
        let transaction = builder.spend(&[(outpoint, coin)], &[(testing::address(1), coin.output.amount)]);
        outpoint = setara_core::transaction::OutPoint::new(transaction.txid(), 0);
        coin.output = transaction.outputs[0];
        received += u128::from(coin.output.amount.sen());
        transactions.push(transaction);
    }
    let block = builder.mine(transactions);
    assert_eq!(chain.submit(block.clone()), Ok(Accepted::Connected));
    let totals = indexes.view(DEADLINE).unwrap().address_totals(&testing::address(1)).unwrap();
    assert_eq!((totals.received, totals.balance), (received, most));
    chain.invalidate(block.hash()).unwrap();
    let totals = indexes.view(DEADLINE).unwrap().address_totals(&testing::address(1)).unwrap();
    assert_eq!((totals.received, totals.balance), (u128::from(most.sen()), most));
    indexes.stop();
    chain.stop();
}
