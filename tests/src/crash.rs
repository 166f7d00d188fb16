//! A world that is crashed over and over: one data directory, a node that works on it and dies, and the proof after
//! each restart that nothing acknowledged was lost and that what is there is what the rules make of it.

use crate::oracle::Ledger;
use crate::process::{NodeProcess, Setup, wait_until};
use crate::purse::Purse;
use crate::replay::mark;
use serde_json::{Value, json};
use setara_api::client::ClientError;
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec::{decode, encode};
use setara_core::hash::BlockHash;
use setara_core::network::Network;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;

/// Blocks that the first start makes, so that later ones have money to move: a few more than the maturity.
const WARM_UP_BLOCKS: u32 = 8;

/// Blocks that one call makes.
const GENERATED_AT_ONCE: u64 = 20;

/// A small generator of numbers (SplitMix64): the seed repeats the run.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Bitcoin Core's code for a failing database.
const DATABASE_ERROR: i64 = -20;

/// The node died under a call, as it was meant to.
#[derive(Debug)]
pub struct Died;

/// What a node did and acknowledged, and where.
pub struct World {
    network: Network,
    setup: Setup,
    random: Random,
    purse: Purse,
    /// Every block seen, whether acknowledged or not.
    blocks: HashMap<BlockHash, Block>,
    /// Blocks whose acceptance the node has answered.
    acknowledged: HashSet<BlockHash>,
    /// A block that may be invalidated: asked for, not yet surely reconsidered.
    invalidated: Option<BlockHash>,
    /// Whether the node may answer that its disk has failed, as it does once before it ends.
    disk_fails: bool,
    operations: u64,
    /// Where each acknowledgement is noted as it comes.
    marks: Option<File>,
}

impl World {
    /// An empty directory and its first node, which has earned its first spendable coins.
    pub fn new(network: Network, setup: Setup, seed: u64) -> (Self, NodeProcess) {
        Self::begin(network, setup, seed, None)
    }

    /// The same, each acknowledgement appended to a recorder's log as a mark: the block's hash.
    pub fn marked(network: Network, setup: Setup, seed: u64, log: File) -> (Self, NodeProcess) {
        Self::begin(network, setup, seed, Some(log))
    }

    fn begin(network: Network, setup: Setup, seed: u64, marks: Option<File>) -> (Self, NodeProcess) {
        let mut world = Self {
            purse: Purse::new(&network, 7),
            network,
            setup,
            random: Random::new(seed),
            blocks: HashMap::new(),
            acknowledged: HashSet::new(),
            invalidated: None,
            disk_fails: false,
            operations: 0,
            marks,
        };
        let node = world.setup.start();
        let count = u64::from(world.network.maturity) + u64::from(WARM_UP_BLOCKS);
        world.generate(&node, count).expect("nobody kills the first node");
        (world, node)
    }

    /// How nodes are started on this directory.
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The world's own random choices.
    pub const fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// How many operations were begun: where a kill landed.
    pub const fn operations(&self) -> u64 {
        self.operations
    }

    /// Blocks that the node has acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// The address that earns everything, as text.
    pub fn address_text(&self) -> String {
        self.purse.address_text()
    }

    /// One call; the only failure is that the node is gone.
    fn call(&self, node: &NodeProcess, method: &str, params: Value) -> Result<Value, Died> {
        match node.try_call(method, params.clone()) {
            Ok(result) => Ok(result),
            Err(
                ClientError::Unreachable { .. }
                | ClientError::Malformed(_)
                | ClientError::NoCookie { .. }
                | ClientError::Auth(_),
            ) => Err(Died),
            Err(ClientError::Rpc { message, .. }) if message.contains("stopping") => Err(Died),
            Err(ClientError::Rpc { code: DATABASE_ERROR, .. }) if self.disk_fails => Err(Died),
            Err(error) => panic!("{method} {params}: {error}\n{}", node.log()),
        }
    }

    /// From now on the node may say that its disk has failed; until [`Self::verify`], after which it must not again.
    pub const fn expect_disk_faults(&mut self) {
        self.disk_fails = true;
    }

    /// One random piece of work.
    pub fn work(&mut self, node: &NodeProcess) -> Result<(), Died> {
        self.operations += 1;
        match self.random.below(8) {
            0..=2 => {
                let count = 1 + self.random.below(4);
                self.generate(node, count)
            }
            3 | 4 => self.pay(node),
            5 => self.overtake(node),
            6 => self.invalidate(node),
            _ => self.reconsider(node),
        }
    }

    /// Every kind of work once, in an order that makes each matter.
    pub fn work_round(&mut self, node: &NodeProcess) -> Result<(), Died> {
        self.pay(node)?;
        self.generate(node, 3)?;
        self.overtake(node)?;
        self.pay(node)?;
        self.generate(node, 1)?;
        self.invalidate(node)?;
        self.generate(node, 2)?;
        self.reconsider(node)
    }

    /// Plain blocks on top, so that what is below stays.
    pub fn generate(&mut self, node: &NodeProcess, count: u64) -> Result<(), Died> {
        let mut left = count;
        while left > 0 {
            // Few enough that a busy machine answers in time.
            let part = left.min(GENERATED_AT_ONCE);
            let hashes = self.call(node, "generatetoaddress", json!([part, self.address_text()]))?;
            for hash in hashes.as_array().expect("a list of hashes") {
                self.acknowledge(parse_hash(hash));
            }
            left -= part;
        }
        Ok(())
    }

    fn acknowledge(&mut self, hash: BlockHash) {
        self.acknowledged.insert(hash);
        if let Some(marks) = &mut self.marks {
            marks.write_all(&mark(hash.as_bytes())).expect("a mark can be appended");
        }
    }

    /// Every block seen so far.
    pub const fn blocks(&self) -> &HashMap<BlockHash, Block> {
        &self.blocks
    }

    /// A block of several kilobytes: as many payments as there are coins, up to a few dozen.
    pub fn fill_block(&mut self, node: &NodeProcess) {
        const PAYMENTS: usize = 40;
        let ledger = self.ledger_at_tip(node).expect("nobody kills it");
        let coins: Vec<_> = ledger.spendable(self.purse.address()).take(PAYMENTS).collect();
        let transactions = coins
            .into_iter()
            .filter(|(_, coin)| Purse::can_split(coin.output.amount))
            .map(|(outpoint, coin)| self.purse.split(outpoint, coin.output.amount, 2))
            .collect();
        let block = ledger.mine(transactions, self.purse.address(), b"full");
        let answer = node.call("submitblock", json!([hex::encode(encode(&block))]));
        assert!(answer.is_null(), "submitblock answers {answer} to a valid block");
        self.acknowledge(block.hash());
        self.blocks.insert(block.hash(), block);
    }

    /// A payment of a mature coin, in two halves, to the same key.
    fn pay(&mut self, node: &NodeProcess) -> Result<(), Died> {
        let ledger = self.ledger_at_tip(node)?;
        let coins: Vec<_> =
            ledger.spendable(self.purse.address()).filter(|(_, coin)| Purse::can_split(coin.output.amount)).collect();
        if coins.is_empty() {
            return Ok(());
        }
        let (outpoint, coin) = coins[self.random.below(coins.len() as u64) as usize];
        let transaction = self.purse.split(outpoint, coin.output.amount, 2);
        let hex = hex::encode(encode(&transaction));
        match node.try_call("sendrawtransaction", json!([hex])) {
            // The pool may already spend this coin: that is no failure.
            Ok(_) | Err(ClientError::Rpc { .. }) => Ok(()),
            Err(_) => Err(Died),
        }
    }

    /// A branch from a few blocks below the tip that ends one block above it.
    fn overtake(&mut self, node: &NodeProcess) -> Result<(), Died> {
        let chain = self.active_chain(node)?;
        let depth = 1 + self.random.below(6) as usize;
        let Some(kept) = chain.len().checked_sub(depth) else { return Ok(()) };
        let mut ledger = self.replay(&chain[..kept]);
        let tag = self.random.next().to_le_bytes();
        for _ in 0..=depth {
            let block = ledger.mine(vec![], self.purse.address(), &tag);
            ledger.append(&block).expect("our own block is valid");
            let answer = self.call(node, "submitblock", json!([hex::encode(encode(&block))]))?;
            let kept = answer.is_null() || answer.as_str().is_some_and(|text| text.starts_with("inconclusive"));
            assert!(kept, "submitblock answers {answer} to a valid block");
            self.acknowledge(block.hash());
            self.blocks.insert(block.hash(), block);
        }
        Ok(())
    }

    /// Takes a few blocks, sometimes many, off the active chain.
    fn invalidate(&mut self, node: &NodeProcess) -> Result<(), Died> {
        self.reconsider(node)?;
        let chain = self.active_chain(node)?;
        let depth = if self.random.below(4) == 0 { 1 + self.random.below(60) } else { 1 + self.random.below(5) };
        let Some(at) = chain.len().checked_sub(depth as usize) else { return Ok(()) };
        self.invalidated = Some(chain[at]);
        self.call(node, "invalidateblock", json!([chain[at]])).map(|_| ())
    }

    fn reconsider(&mut self, node: &NodeProcess) -> Result<(), Died> {
        if let Some(hash) = self.invalidated {
            self.call(node, "reconsiderblock", json!([hash]))?;
            self.invalidated = None;
        }
        Ok(())
    }

    /// The active chain from height 1 up, fetching blocks that are new.
    fn active_chain(&mut self, node: &NodeProcess) -> Result<Vec<BlockHash>, Died> {
        let mut hash = parse_hash(&self.call(node, "getbestblockhash", json!([]))?);
        let mut chain = Vec::new();
        while hash != self.network.genesis_hash() {
            if !self.blocks.contains_key(&hash) {
                let text = self.call(node, "getblock", json!([hash, 0]))?;
                let block = parse_block(&text);
                assert_eq!(block.hash(), hash, "getblock serves another block");
                self.blocks.insert(hash, block);
            }
            chain.push(hash);
            hash = self.blocks[&hash].header.previous;
        }
        chain.reverse();
        Ok(chain)
    }

    fn ledger_at_tip(&mut self, node: &NodeProcess) -> Result<Ledger, Died> {
        let chain = self.active_chain(node)?;
        Ok(self.replay(&chain))
    }

    fn replay(&self, chain: &[BlockHash]) -> Ledger {
        let blocks = chain.iter().map(|hash| &self.blocks[hash]);
        Ledger::replay(&self.network, blocks).unwrap_or_else(|error| panic!("the active chain breaks a rule: {error}"))
    }

    fn height_of(&self, hash: &BlockHash) -> u32 {
        self.blocks.get(hash).map_or(0, |block| block.coinbase.height.get())
    }

    fn descends_from(&self, mut hash: BlockHash, ancestor: BlockHash) -> bool {
        loop {
            if hash == ancestor {
                return true;
            }
            let Some(block) = self.blocks.get(&hash) else { return false };
            hash = block.header.previous;
        }
    }

    /// Everything that must hold after a restart. `what` says which crash it was.
    pub fn verify(&mut self, node: &NodeProcess, what: &str) {
        self.disk_fails = false;
        self.check_acknowledged(node, what);
        self.check_tip(node, what);
        self.check_coins(node, what);
        // Whatever was invalidated is forgiven: then the best block of all must come back.
        if let Some(hash) = self.invalidated.take() {
            node.call("reconsiderblock", json!([hash]));
            self.check_tip(node, what);
            self.check_coins(node, what);
        }
        for tip in node.call("getchaintips", json!([])).as_array().expect("a list") {
            assert_ne!(tip["status"], json!("invalid"), "{what}: a fault of this machine became a verdict");
        }
        self.check_indexes(node, what);
    }

    /// Every acknowledged block is served, byte by byte as it was.
    fn check_acknowledged(&mut self, node: &NodeProcess, what: &str) {
        let hashes: Vec<BlockHash> = self.acknowledged.iter().copied().collect();
        for part in hashes.chunks(200) {
            let calls: Vec<_> = part.iter().map(|hash| ("getblock", json!([hash, 0]))).collect();
            let answers = node.client().batch(&calls).unwrap_or_else(|error| panic!("{what}: {error}\n{}", node.log()));
            for (hash, answer) in part.iter().zip(answers) {
                let answer =
                    answer.unwrap_or_else(|error| panic!("{what}: acknowledged block {hash} is gone: {error}"));
                let block = parse_block(&answer);
                assert_eq!(block.hash(), *hash, "{what}: getblock serves another block");
                let known = self.blocks.entry(*hash).or_insert_with(|| block.clone());
                assert_eq!(*known, block, "{what}: block {hash} has changed");
            }
        }
    }

    /// The tip is at least as good as the best acknowledged block that is not under an invalidated one.
    fn check_tip(&mut self, node: &NodeProcess, what: &str) {
        let chain = self.active_chain(node).expect("nobody kills a node that is being checked");
        let unharmed = |hash: &&BlockHash| self.invalidated.is_none_or(|bad| !self.descends_from(**hash, bad));
        let best = self.acknowledged.iter().filter(unharmed).map(|hash| self.height_of(hash)).max().unwrap_or(0);
        assert!(chain.len() >= best as usize, "{what}: the tip is at {}, block {best} was acknowledged", chain.len());
    }

    /// Coins, their commitment, their sum and their number are those of a replay from genesis.
    fn check_coins(&mut self, node: &NodeProcess, what: &str) {
        let chain = self.active_chain(node).expect("nobody kills a node that is being checked");
        let ledger = self.replay(&chain);
        compare_coins(&ledger, &node.call("gettxoutsetinfo", json!([])), what);
    }

    /// The address index, once it has caught up, agrees with the coins.
    fn check_indexes(&mut self, node: &NodeProcess, what: &str) {
        let ledger = self.ledger_at_tip(node).expect("nobody kills a node that is being checked");
        let mine = ledger.coins().values().filter(|coin| coin.output.address == self.purse.address());
        let expected = Amount::checked_sum(mine.map(|coin| coin.output.amount)).expect("below the cap");
        let height = json!(ledger.height());
        wait_until("the indexes", || {
            let info = node.call("getindexinfo", json!([]));
            let all = info.as_object().expect("an object");
            all.values()
                .all(|index| index["best_block_height"] == height && index["synced"] == json!(true))
                .then_some(())
        });
        let balance = node.call("getaddressbalance", json!([{ "addresses": [self.address_text()] }]));
        assert_eq!(balance["balance"], json!(expected.sen()), "{what}: the address index disagrees with the coins");
    }

    /// Fetches every block acknowledged so far, for [`Self::verify_earlier`]; gives the height.
    pub fn remember(&mut self, node: &NodeProcess) -> usize {
        self.check_acknowledged(node, "before the damage");
        self.active_chain(node).expect("nobody kills it").len()
    }

    /// After damage to files a node may know less, or refuse, but never say anything else: its chain is one that it had
    /// before, of the very same blocks, and its coins are those of a replay. Gives the height, or how it refused.
    pub fn verify_earlier(&self, node: &NodeProcess, what: &str) -> Result<usize, ClientError> {
        let count = node.try_call("getblockcount", json!([]))?.as_u64().expect("a height");
        let mut chain = Vec::new();
        let mut previous = self.network.genesis_hash();
        for height in 1..=count {
            let hash = parse_hash(&node.try_call("getblockhash", json!([height]))?);
            let block = parse_block(&node.try_call("getblock", json!([hash, 0]))?);
            assert_eq!(Some(&block), self.blocks.get(&hash), "{what}: a block that never was, at height {height}");
            assert_eq!(block.header.previous, previous, "{what}: the chain is broken at height {height}");
            chain.push(hash);
            previous = hash;
        }
        let info = node.try_call("gettxoutsetinfo", json!([]))?;
        compare_coins(&self.replay(&chain), &info, what);
        Ok(chain.len())
    }
}

fn compare_coins(ledger: &Ledger, info: &Value, what: &str) {
    let expected = json!({
        "height": ledger.height(),
        "bestblock": ledger.state().hash(),
        "txouts": ledger.coins().len(),
        "coins_root": ledger.coins_root(),
        "total_amount": ledger.supply(),
    });
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(plain(&info[field]), plain(value), "{what}: {field} is not what a replay gives");
    }
    assert_eq!(ledger.state().supply, ledger.supply(), "{what}: supply and coins");
    assert_eq!(ledger.state().coins_root, ledger.coins_root(), "{what}: commitment and coins");
}

fn parse_hash(value: &Value) -> BlockHash {
    value.as_str().expect("a hash is text").parse().expect("a hash is 64 digits")
}

fn parse_block(value: &Value) -> Block {
    let bytes = hex::decode(value.as_str().expect("a block is hex")).expect("a block is hex");
    decode(&bytes).expect("a served block decodes")
}

/// Numbers and texts alike as text: amounts are numbers in one place and texts in the other.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
