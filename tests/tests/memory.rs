//! A real node that was given a budget of memory, under load: full blocks that it syncs and follows from a peer, a mempool that
//! is filled and turned over, indexes, and callers with large questions. What counts is what the kernel says the process has.

use serde_json::{Value, json};
use setara_core::amount::Amount;
use setara_core::codec::encode;
use setara_core::network::{Network, Parameters};
use setara_core::transaction::{Coin, OutPoint, Output, Transaction};
use setara_node::testing::{self, ChainBuilder, address, coins};
use setara_tests::process::{NodeProcess, Setup, wait_until};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the node is given: little more than the least for blocks of a megabyte.
const BUDGET: u64 = 200_000_000;
/// How far the process may be above it, in per cent.
const ABOVE_PERCENT: u64 = 10;
/// Keys that own all coins.
const OWNERS: u32 = 60;
/// Transactions of a block: some 900 kB.
const PER_BLOCK: usize = 3_600;
/// Blocks that are there before the node is.
const AHEAD: usize = 20;
/// Transactions that the node is handed between two blocks: some of which the next block spends the coins, and some others.
const CONFLICTING: usize = 600;
const WAITING: usize = 1_400;
/// Coins of which the waiting ones are spent, over and over, at rising fees.
const CHURNED: usize = 20_000;
/// Calls in one request.
const BATCH: usize = 200;
/// Outputs of one transaction that makes coins.
const FAN: usize = 2_000;
/// Blocks under load at least, however slow the machine: until then the mempool is full.
const ROUNDS_MIN: u32 = 12;
/// How long the load lasts here, and in the long run (`SETARA_MEMORY_SECONDS` for another time).
const SHORT: Duration = Duration::from_secs(40);
const LONG: Duration = Duration::from_secs(30 * 60);

fn network() -> Arc<Network> {
    testing::network(|parameters: &mut Parameters| {
        parameters.name = "memory".to_owned();
        parameters.maturity = 1;
        parameters.max_block_bytes = 1_000_000;
        let funds = |number| Output { amount: coins(1_000), address: address(number) };
        parameters.allocations = (0..OWNERS).map(funds).collect();
    })
}

/// A coin and the number of the key that owns it.
type Owned = (OutPoint, Coin, u32);

/// Makes blocks and transactions without end.
struct Load {
    builder: ChainBuilder,
    /// Spent by blocks, the oldest first.
    coins: VecDeque<Owned>,
    /// Never spent by a block.
    churned: Vec<Owned>,
    round: u64,
}

impl Load {
    /// With the blocks that make its coins.
    fn new(network: &Arc<Network>) -> (Self, Vec<Vec<u8>>) {
        let mut builder = ChainBuilder::new(network);
        builder.keep_history(false);
        let mut blocks = vec![encode(&builder.mine_empty(1)[0])];
        let wanted = PER_BLOCK * 3 / 2 + CHURNED;
        let funds: Vec<(OutPoint, Coin)> = builder.spendable();
        let mut made = VecDeque::new();
        for (number, fund) in (0..OWNERS).cycle().zip(funds).take(wanted.div_ceil(FAN)) {
            let owner = (0..OWNERS).find(|owner| address(*owner) == fund.1.output.address).expect("ours");
            let each = Amount::from_sen(fund.1.output.amount.sen() / (FAN as u64 + 1));
            let spread = testing::sign(network, &[fund], &vec![(address(number), each); FAN], 0, &[owner]);
            let txid = spread.txid();
            blocks.push(encode(&builder.mine(vec![spread])));
            for index in 0..FAN as u32 {
                let outpoint = OutPoint::new(txid, index);
                made.push_back((outpoint, builder.coins[&outpoint], number));
            }
        }
        let churned = made.drain(..CHURNED).collect();
        (Self { builder, coins: made, churned, round: 0 }, blocks)
    }

    /// A payment of one coin to the next key and, a little, to nobody.
    fn pay(&self, (outpoint, coin, owner): &Owned, fee: u64) -> Transaction {
        let small = Amount::from_sen(1_000);
        let rest = Amount::from_sen(coin.output.amount.sen() - 1_000 - fee);
        let outputs = [(address((owner + 1) % OWNERS), rest), (address(1_000), small)];
        testing::sign(&self.builder.network, &[(*outpoint, *coin)], &outputs, 0, &[*owner])
    }

    /// The next full block.
    fn block(&mut self) -> Vec<u8> {
        let spent: Vec<Owned> = self.coins.drain(..PER_BLOCK).collect();
        let transactions: Vec<Transaction> = spent.iter().map(|coin| self.pay(coin, 10_000)).collect();
        let made: Vec<OutPoint> = transactions.iter().map(|paid| OutPoint::new(paid.txid(), 0)).collect();
        let block = encode(&self.builder.mine(transactions));
        let owned = made.into_iter().zip(&spent);
        self.coins.extend(owned.map(|(made, (.., owner))| (made, self.builder.coins[&made], (owner + 1) % OWNERS)));
        block
    }

    /// What the mempool gets before the next block: other spends of coins that the block spends, and transactions that no
    /// block has.
    fn transactions(&mut self) -> Vec<Transaction> {
        self.round += 1;
        let fee = 20_000 + self.round * 5_000 % 100_000_000;
        let conflicting = self.coins.iter().take(CONFLICTING).map(|coin| self.pay(coin, 11_000));
        let start = self.round as usize * WAITING;
        let waiting = (start..start + WAITING).map(|at| self.pay(&self.churned[at % CHURNED], fee));
        conflicting.chain(waiting).collect()
    }
}

/// A line of `/proc/PID/status`, in bytes.
fn memory(node: &NodeProcess, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the node runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says so");
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).expect("a number of KiB") << 10
}

fn submit(node: &NodeProcess, block: &[u8]) {
    assert_eq!(node.call("submitblock", json!([hex::encode(block)])), Value::Null);
}

fn height(node: &NodeProcess) -> u64 {
    node.call("getblockcount", json!([])).as_u64().expect("a height")
}

/// Runs the load for so long against a node with [`BUDGET`].
fn keeps_to_its_budget(usual: Duration) {
    let seconds = std::env::var("SETARA_MEMORY_SECONDS").ok().and_then(|text| text.parse().ok());
    let duration = seconds.map_or(usual, Duration::from_secs);
    let network = network();
    let directory = tempfile::tempdir().unwrap();
    let genesis = directory.path().join("genesis.json");
    std::fs::write(&genesis, network.to_json()).unwrap();
    let setup = |name: &str| {
        Setup::genesis(directory.path().join(name), "memory", &genesis).with([
            "--allow-private",
            "--p2p-listen",
            "127.0.0.1:0",
        ])
    };
    let archive = setup("archive").with(["--no-index"]);
    let source = archive.start();
    let (mut load, blocks) = Load::new(&network);
    blocks.iter().for_each(|block| submit(&source, block));
    (0..AHEAD).for_each(|_| submit(&source, &load.block()));

    let budget = format!("{}k", BUDGET / 1_000);
    let node = setup("node").with(["--max-memory", &budget, "--connect", &archive.listens()]).start();
    let limit = BUDGET + BUDGET * ABOVE_PERCENT / 100;
    let check = |when: &str| {
        let peak = memory(&node, "VmHWM:");
        assert!(peak <= limit, "{when}: {peak} bytes of {BUDGET}: {}", node.call("getmemoryinfo", json!([])));
    };
    wait_until("the node has synced", || (height(&node) == height(&source)).then_some(()));
    check("after the sync");
    println!(
        "after the sync: {} MB, at most {}",
        memory(&node, "VmRSS:") / 1_000_000,
        memory(&node, "VmHWM:") / 1_000_000
    );

    let (start, mut accepted, mut sent, mut rounds, mut fullest) = (Instant::now(), 0, 0, 0, 0);
    while start.elapsed() < duration || rounds < ROUNDS_MIN {
        for part in load.transactions().chunks(BATCH) {
            let calls: Vec<_> =
                part.iter().map(|paid| ("sendrawtransaction", json!([hex::encode(encode(paid))]))).collect();
            let answers = node.client().batch(&calls).expect("the node answers");
            accepted += answers.iter().filter(|answer| answer.is_ok()).count();
            sent += answers.len();
        }
        let pool = node.call("getmempoolinfo", json!([]));
        fullest = fullest.max(pool["usage"].as_u64().unwrap() * 100 / pool["maxmempool"].as_u64().unwrap());
        submit(&source, &load.block());
        wait_until("the node follows", || (height(&node) == height(&source)).then_some(()));
        let hash = node.call("getbestblockhash", json!([]));
        assert_eq!(node.call("getblock", json!([hash, 2]))["tx"].as_array().unwrap().len(), PER_BLOCK + 1);
        check("under load");
        rounds += 1;
    }
    let info = node.call("getmemoryinfo", json!([]));
    println!(
        "{rounds} blocks of {PER_BLOCK} and {sent} transactions ({accepted} accepted), the mempool {fullest} % full: {} MB, at \
         most {}; {info}",
        memory(&node, "VmRSS:") / 1_000_000,
        memory(&node, "VmHWM:") / 1_000_000
    );
    assert_eq!(info["setara"]["budget"], BUDGET);
    assert!(accepted > sent / 10 && fullest > 90, "the load was none: {accepted} of {sent}, {fullest} %");
    let resident = info["setara"]["resident"].as_u64().unwrap();
    assert!(resident <= limit && resident > BUDGET / 4, "{resident}");
}

/// A minute's worth of it.
#[test]
fn memory_keeps_to_the_budget_under_load() {
    keeps_to_its_budget(SHORT);
}

/// Nothing grows.
#[test]
#[ignore = "half an hour: make test-long"]
fn memory_keeps_to_the_budget_for_half_an_hour() {
    keeps_to_its_budget(LONG);
}
