//! Power cuts at every point of a node's life, on the real database: what a node does to its files is recorded beneath
//! RocksDB, and for each prefix of that record states are made that a power cut may leave (unsynced writes lost, in another
//! order, torn; names not yet synced lost). Each is opened as a node opens it.
//!
//! Always: it opens; its tip is one that the rules make of blocks that were there, with exactly its coins; every block that
//! was acknowledged before the cut is there; nothing is called invalid. `SETARA_POWER_STATES` says how many states.

use setara_core::block::Block;
use setara_core::codec;
use setara_core::hash::BlockHash;
use setara_core::network::Network;
use setara_core::pow::Work;
use setara_node::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier};
use setara_node::clock::SystemClock;
use setara_node::index::Indexes;
use setara_node::store::schema::{self, flags};
use setara_node::store::{Column, Direction, RocksOptions, RocksStore, Store};
use setara_tests::crash::{Random, World};
use setara_tests::oracle::Ledger;
use setara_tests::process::{Setup, wait_until};
use setara_tests::recorder::Recorder;
use setara_tests::replay::{Cut, Disk, Image, Operation, Syncs, fingerprint, put, read_log};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// States of an ordinary run, over all recordings: half a minute.
const STATES: usize = 700;
/// Of the states, how many the real binary starts on: one in so many.
const REAL_EVERY: usize = 100;
/// One in so many also has its indexes brought up to the tip.
const INDEX_EVERY: usize = 10;
/// The data directory, which the node makes in the folder that is recorded.
const NODE: &str = "node";
/// Rounds of work that are recorded.
const ROUNDS: usize = 3;

fn states() -> usize {
    std::env::var("SETARA_POWER_STATES").ok().map_or(STATES, |text| text.parse().expect("a number"))
}

/// A folder in memory where there is one: thousands of databases are made in it.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a temporary directory")
}

/// A node's life, written down.
struct Recording {
    /// The data directory at its beginning.
    before: Image,
    root: PathBuf,
    operations: Vec<Operation>,
    blocks: HashMap<BlockHash, Block>,
    /// Blocks acknowledged before it began.
    acknowledged: Vec<BlockHash>,
}

/// What the rules make of each block that was there.
struct Oracle {
    network: Arc<Network>,
    blocks: HashMap<BlockHash, Block>,
    ledgers: Mutex<HashMap<BlockHash, Arc<Ledger>>>,
    verifier: Verifier,
}

impl Oracle {
    fn new(blocks: &HashMap<BlockHash, Block>) -> Self {
        let network = Arc::new(Network::dev());
        let verifier = Verifier::new(network.clone(), Arc::new(KnownSignatures::default()), Some(2));
        let ledgers = Mutex::new(HashMap::from([(network.genesis_hash(), Arc::new(Ledger::new(&network)))]));
        Self { network, blocks: blocks.clone(), ledgers, verifier }
    }

    fn ledger(&self, tip: &BlockHash) -> Arc<Ledger> {
        let known = |hash: &BlockHash| self.ledgers.lock().unwrap().get(hash).cloned();
        let mut above = Vec::new();
        let mut hash = *tip;
        let mut ledger = loop {
            match known(&hash) {
                Some(ledger) => break ledger,
                None => above.push(hash),
            }
            hash = self.blocks.get(&hash).unwrap_or_else(|| panic!("block {hash} never was")).header.previous;
        };
        for hash in above.into_iter().rev() {
            let mut next = (*ledger).clone();
            next.append(&self.blocks[&hash]).unwrap_or_else(|error| panic!("the tip {hash} breaks a rule: {error}"));
            ledger = Arc::new(next);
            self.ledgers.lock().unwrap().insert(hash, ledger.clone());
        }
        ledger
    }

    fn work(&self, hash: &BlockHash) -> Work {
        self.ledger(hash).state().header.work
    }

    /// Opens what a power cut has left, and says what is wrong with it; else which blocks it has.
    fn examine(&self, folder: &Path, with_indexes: bool) -> Result<Found, String> {
        let database = folder.join(NODE).join("dev/db");
        let store = RocksStore::open(&database, &RocksOptions { memory_bytes: 16 << 20, ..RocksOptions::default() });
        let store: Arc<dyn Store> = Arc::new(store.map_err(|error| format!("the database does not open: {error}"))?);
        let options = ChainOptions { coin_cache_bytes: 1 << 20, ..ChainOptions::default() };
        let clock = Arc::new(SystemClock::new());
        let chain = ChainHandle::inline(store.clone(), self.verifier.clone(), options, clock)
            .map_err(|error| format!("the chain does not open: {error}"))?;
        let view = chain.view();
        let tip = view.tip.hash();
        if tip != self.network.genesis_hash() && !self.blocks.contains_key(&tip) {
            return Err(format!("the tip {tip} never was"));
        }
        let ledger = self.ledger(&tip);
        if view.tip != *ledger.state() {
            return Err(format!("the tip's state is not that of a replay up to {tip}"));
        }
        let mut coins = 0;
        for coin in view.iterate_coins() {
            let (outpoint, coin) = coin.map_err(|error| error.to_string())?;
            if ledger.coins().get(&outpoint) != Some(&coin) {
                return Err(format!("coin {outpoint} is not one of a replay"));
            }
            coins += 1;
        }
        if coins != ledger.coins().len() {
            return Err(format!("{coins} coins of {}", ledger.coins().len()));
        }
        let mut found = Found { blocks: HashSet::new(), unwanted: HashSet::new(), work: view.tip.header.work };
        for row in store.iterate(Column::Headers, &[], Direction::Forward) {
            let (key, value) = row.map_err(|error| error.to_string())?;
            let hash = BlockHash::from_bytes(key.try_into().map_err(|_| "a header's key")?);
            let row = schema::header_row(&hash, value).map_err(|error| error.to_string())?;
            if row.flags & flags::FAILED != 0 {
                return Err(format!("block {hash} is called invalid"));
            }
            if row.flags & flags::INVALIDATED != 0 {
                found.unwanted.insert(hash);
            }
            if row.flags & flags::BODY != 0 && hash != self.network.genesis_hash() {
                let body = view.body(&hash).map_err(|error| error.to_string())?;
                if body.as_deref() != self.blocks.get(&hash).map(codec::encode).as_deref() {
                    return Err(format!("the body of {hash} is not what was sent"));
                }
                found.blocks.insert(hash);
            }
        }
        if with_indexes {
            let indexes = Indexes::start(store, chain.clone()).map_err(|error| error.to_string())?;
            wait_until("the indexes", || {
                let statuses = indexes.statuses();
                statuses.iter().all(|status| status.synced || status.fault.is_some()).then_some(())
            });
            if let Some(fault) = indexes.statuses().into_iter().find_map(|status| status.fault) {
                return Err(format!("an index stopped: {fault}"));
            }
            indexes.stop();
        }
        chain.stop();
        Ok(found)
    }

    fn descends(&self, mut hash: BlockHash, from: &HashSet<BlockHash>) -> bool {
        loop {
            if from.contains(&hash) {
                return true;
            }
            let Some(block) = self.blocks.get(&hash) else { return false };
            hash = block.header.previous;
        }
    }

    /// Whether all that was acknowledged is there, and the best of it is not above the tip.
    fn check_acknowledged(&self, found: &Found, acknowledged: &[BlockHash]) -> Result<(), String> {
        for hash in acknowledged {
            if !found.blocks.contains(hash) {
                return Err(format!("acknowledged block {hash} is gone"));
            }
            if !self.descends(*hash, &found.unwanted) && self.work(hash) > found.work {
                return Err(format!("acknowledged block {hash} has more work than the tip"));
            }
        }
        Ok(())
    }
}

/// What an opened state holds.
struct Found {
    blocks: HashSet<BlockHash>,
    unwanted: HashSet<BlockHash>,
    work: Work,
}

/// A life from the first start on: blocks, payments, branches, blocks taken back, a stop and a start, a full block.
fn record_life(directory: &Path) -> Recording {
    let root = directory.join("root");
    std::fs::create_dir(&root).unwrap();
    let recorder = Recorder::new(directory, &root);
    let setup = recorder.beneath(Setup::dev(root.join(NODE)).with(["--db-cache", "16"]));
    // Before the node is first started: its first blocks count, too.
    let (mut world, mut node) = World::marked(Network::dev(), setup, 41, recorder.marks());
    for _ in 0..ROUNDS {
        world.work_round(&node).expect("nobody kills it");
    }
    node.terminate();
    node = world.setup().start();
    world.fill_block(&node);
    world.generate(&node, 3).expect("nobody kills it");
    world.work_round(&node).expect("nobody kills it");
    world.remember(&node);
    node.terminate();
    let operations = read_log(&recorder.log());
    Recording { before: Image::new(), root, operations, blocks: world.blocks().clone(), acknowledged: Vec::new() }
}

/// The start of a node on what a power cut has left, and its stop: a second cut may fall into it.
fn record_recovery(directory: &Path, life: &Recording, image: Image, acknowledged: Vec<BlockHash>) -> Recording {
    let root = directory.join("root");
    put(&image, &root);
    let recorder = Recorder::new(directory, &root);
    let setup = recorder.beneath(Setup::dev(root.join(NODE)).with(["--db-cache", "16"]));
    let mut node = setup.start();
    node.terminate();
    let operations = read_log(&recorder.log());
    Recording { before: image, root, operations, blocks: life.blocks.clone(), acknowledged }
}

/// A state: the number of operations that had been done, and what a cut there leaves.
#[derive(Debug, Clone, Copy)]
struct State {
    done: usize,
    cut: Cut,
}

/// So many states: at every acknowledgement, and at random points.
fn choose(recording: &Recording, count: usize, seed: u64) -> Vec<State> {
    let mut random = Random::new(seed);
    let operations = &recording.operations;
    let marks: Vec<usize> =
        (0..operations.len()).filter(|at| matches!(operations[*at], Operation::Mark(_))).map(|at| at + 1).collect();
    let mut chosen = Vec::new();
    for number in 0..count {
        let done = if number % 4 == 0 && !marks.is_empty() {
            marks[random.below(marks.len() as u64) as usize]
        } else {
            random.below(operations.len() as u64 + 1) as usize
        };
        let seed = random.next();
        let cut = match number % 9 {
            0 | 4 => Cut::DropAll,
            1 => Cut::KeepAll,
            2 => Cut::KeepNames,
            3 => Cut::KeepBytes,
            5 => Cut::Prefix(seed),
            6 => Cut::Suffix(seed),
            _ => Cut::Random(seed),
        };
        chosen.push(State { done, cut });
    }
    chosen.sort_by_key(|state| state.done);
    chosen
}

/// The outcome of a run: states opened, and what was wrong with each that was not as it must be.
#[derive(Debug, Default)]
struct Outcome {
    states: usize,
    distinct: usize,
    wrong: Vec<String>,
}

/// Opens every state.
fn run(recording: &Recording, oracle: &Oracle, states: &[State], syncs: Syncs) -> Outcome {
    let mut disk = Disk::holding(&recording.root, syncs, &recording.before);
    let mut acknowledged = recording.acknowledged.clone();
    let mut done = 0;
    // Made here, opened on two threads.
    let (sender, receiver) = std::sync::mpsc::sync_channel::<(State, usize, Image, Vec<BlockHash>)>(8);
    let receiver = Mutex::new(receiver);
    let wrong = Mutex::new(Vec::new());
    let opened = AtomicUsize::new(0);
    let mut seen = HashSet::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = receiver.lock().unwrap().recv();
                    let Ok((state, number, image, acknowledged)) = next else { break };
                    let directory = scratch();
                    put(&image, directory.path());
                    let outcome =
                        if image.keys().any(|path| path.starts_with("node/dev/db/")) || !acknowledged.is_empty() {
                            oracle
                                .examine(directory.path(), number % INDEX_EVERY == 0)
                                .and_then(|found| oracle.check_acknowledged(&found, &acknowledged))
                        } else {
                            Ok(())
                        };
                    opened.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = outcome {
                        wrong.lock().unwrap().push(format!("{state:?}: {error}"));
                    }
                }
            });
        }
        for (number, state) in states.iter().enumerate() {
            while done < state.done {
                let operation = &recording.operations[done];
                disk.play(operation);
                if let Operation::Mark(note) = operation {
                    let hash = <[u8; 32]>::try_from(note.as_slice()).expect("a mark is a block's hash");
                    acknowledged.push(BlockHash::from_bytes(hash));
                }
                done += 1;
            }
            let image = disk.cut(state.cut);
            if seen.insert((fingerprint(&image), acknowledged.len())) {
                sender.send((*state, number, image, acknowledged.clone())).unwrap();
            }
        }
        drop(sender);
    });
    Outcome { states: states.len(), distinct: opened.into_inner(), wrong: wrong.into_inner().unwrap() }
}

/// The disk and what was acknowledged after so many operations.
fn at(recording: &Recording, state: State) -> (Image, Vec<BlockHash>) {
    let mut disk = Disk::holding(&recording.root, Syncs::Counted, &recording.before);
    let mut acknowledged = recording.acknowledged.clone();
    for operation in &recording.operations[..state.done] {
        disk.play(operation);
        if let Operation::Mark(note) = operation {
            acknowledged.push(BlockHash::from_bytes(note.as_slice().try_into().expect("a mark is a block's hash")));
        }
    }
    (disk.cut(state.cut), acknowledged)
}

/// ST2. Every acknowledged block survives every power cut; and the same test notices a database that does not sync its log.
#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let life = record_life(directory.path());
    let oracle = Oracle::new(&life.blocks);
    let count = states();
    let operations = life.operations.len();
    let syncs = life.operations.iter().filter(|operation| matches!(operation, Operation::Sync(_))).count();
    let marks = life.operations.iter().filter(|operation| matches!(operation, Operation::Mark(_))).count();
    println!("recorded: {operations} operations, {syncs} syncs, {marks} acknowledgements");
    assert!(syncs > marks && marks > 20, "too little was recorded");

    // What is to be seen before it may pass: without its syncs, the log loses blocks.
    let outcome = run(&life, &oracle, &choose(&life, 60, 1), Syncs::NotOfLogs);
    let lost = outcome.wrong.iter().filter(|wrong| wrong.contains("is gone")).count();
    println!(
        "without syncs of the log: {} of {} states are wrong, {lost} lose blocks",
        outcome.wrong.len(),
        outcome.distinct
    );
    assert!(lost > 5, "a database that does not sync its log is not noticed: {:?}", outcome.wrong);

    let outcome = run(&life, &oracle, &choose(&life, count * 3 / 4, 2), Syncs::Counted);
    println!("{} states, {} distinct", outcome.states, outcome.distinct);
    assert!(outcome.wrong.is_empty(), "{} states:\n{}", outcome.wrong.len(), outcome.wrong.join("\n"));
    assert!(outcome.distinct > count / 3);

    // Cuts in the middle of the recovery from a cut.
    let mut random = Random::new(3);
    let rounds = (count / 200).clamp(2, 60);
    let points: BTreeSet<usize> = (0..rounds).map(|_| random.below(operations as u64) as usize).collect();
    for (number, done) in points.into_iter().enumerate() {
        let cut = if number % 2 == 0 { Cut::Random(random.next()) } else { Cut::Prefix(random.next()) };
        let (image, acknowledged) = at(&life, State { done, cut });
        let again = tempfile::tempdir().unwrap();
        let recovery = record_recovery(again.path(), &life, image, acknowledged);
        let chosen = choose(&recovery, (count / 4 / rounds).max(8), random.next());
        let outcome = run(&recovery, &oracle, &chosen, Syncs::Counted);
        println!(
            "recovery after {done}: {} operations, {} distinct states",
            recovery.operations.len(),
            outcome.distinct
        );
        assert!(outcome.wrong.is_empty(), "recovery after {done}, {cut:?}:\n{}", outcome.wrong.join("\n"));
    }

    // The real binary, on some.
    for (number, state) in choose(&life, (count / REAL_EVERY).max(4), 4).into_iter().enumerate() {
        let (image, acknowledged) = at(&life, state);
        let directory = scratch();
        put(&image, directory.path());
        let setup = Setup::dev(directory.path().join(NODE)).with(["--db-cache", "16"]);
        let node = setup.start();
        for hash in &acknowledged {
            let served = node.call("getblock", serde_json::json!([hash, 0]));
            let expected = hex::encode(codec::encode(&oracle.blocks[hash]));
            assert_eq!(served, serde_json::json!(expected), "state {number}, {state:?}");
        }
    }
}
