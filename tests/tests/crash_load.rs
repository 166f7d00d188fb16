//! Kills in the middle of a bulk load, where most of what is connected is not stored yet: bodies and undo records are
//! written ahead without a sync, coins lag behind. After each kill the chain on disk is a prefix of what was loaded,
//! with exactly its coins; it never goes back; and the load goes on from there to the end.
//!
//! The loader is this very test binary, started again as a process of its own.

use setara_core::codec::{decode, encode};
use setara_core::network::{Network, Parameters};
use setara_core::nonce::find_nonce;
use setara_node::chain::{ChainHandle, ChainOptions, KnownSignatures, Verifier, failpoint};
use setara_node::clock::SystemClock;
use setara_node::store::Store;
use setara_node::store::{RocksOptions, RocksStore};
use setara_tests::crash::Random;
use setara_tests::oracle::Ledger;
use setara_tests::purse::Purse;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Tells the loader its directory; its presence makes the test below a loader.
const DIRECTORY: &str = "SETARA_TEST_LOAD_DIR";

/// Blocks of the chain, and transactions of each: some 20 MB, several times what is written ahead at once.
const BLOCKS: u32 = 700;
const PAYMENTS: usize = 90;
/// Memory for coins: a few flushes in all, so that a kill mostly meets unflushed coins.
const COIN_CACHE_BYTES: usize = 4 << 20;
/// Kills of one load, at least.
const KILLS: u64 = 12;
/// A kill falls at most this long after the loader was started.
const KILL_DELAY_MILLIS_MAX: u64 = 1_500;

/// The dev network with a short maturity, so that money moves early. A parameter, not a rule.
fn network() -> Network {
    let mut parameters: Parameters = (*Network::dev()).clone();
    parameters.maturity = 2;
    let header = parameters.genesis_block().header;
    let target = header.bits.to_target().unwrap();
    parameters.genesis_nonce = find_nonce(&header, target, 0..=u32::MAX).unwrap();
    Network::new(parameters).unwrap()
}

/// A chain whose coins multiply, written to `file` as length-prefixed blocks.
fn write_chain(network: &Network, file: &Path) {
    let purse = Purse::new(network, 9);
    let mut ledger = Ledger::new(network);
    let mut bytes = Vec::new();
    for number in 0..BLOCKS {
        let coins = ledger.spendable(purse.address()).filter(|(_, coin)| Purse::can_split(coin.output.amount));
        let payments = coins.take(PAYMENTS).map(|(outpoint, coin)| purse.split(outpoint, coin.output.amount, 2));
        let block = ledger.mine(payments.collect(), purse.address(), &number.to_le_bytes());
        ledger.append(&block).unwrap();
        let block = encode(&block);
        bytes.extend((block.len() as u32).to_le_bytes());
        bytes.extend(block);
    }
    std::fs::write(file, bytes).unwrap();
}

fn read_chain(file: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(file).unwrap();
    let mut rest = bytes.as_slice();
    let mut blocks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (block, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        blocks.push(block.to_vec());
        rest = after;
    }
    blocks
}

fn open(directory: &Path, network: &Network) -> (Arc<dyn Store>, ChainHandle) {
    let store =
        RocksStore::open(&directory.join("chain"), &RocksOptions { memory_bytes: 16 << 20, ..RocksOptions::default() })
            .unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let verifier = Verifier::new(Arc::new(network.clone()), Arc::new(KnownSignatures::default()), None);
    let options = ChainOptions { coin_cache_bytes: COIN_CACHE_BYTES, ..ChainOptions::default() };
    let chain = ChainHandle::start(store.clone(), verifier, options, Arc::new(SystemClock::new())).unwrap();
    (store, chain)
}

/// Not a test by itself: the process that [`kills_during_a_bulk_load`] starts and kills.
#[test]
#[ignore = "started by kills_during_a_bulk_load"]
fn loader() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let network = Network::from_json(&std::fs::read_to_string(directory.join("genesis.json")).unwrap()).unwrap();
    let blocks = read_chain(&directory.join("blocks"));
    let (_store, chain) = open(directory, &network);
    let from = chain.view().tip.height().get() as usize;
    let report = chain.submit_many(blocks.into_iter().skip(from));
    report.result.unwrap();
    chain.stop();
}

fn start_loader(directory: &Path, place: Option<String>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["loader", "--exact", "--ignored"]).env(DIRECTORY, directory);
    command.env_remove(failpoint::VARIABLE);
    if let Some(place) = place {
        command.env(failpoint::VARIABLE, place);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// What is stored: the height, after checking that it is a prefix of the chain with exactly its coins.
fn check(directory: &Path, network: &Network, blocks: &[Vec<u8>]) -> usize {
    let (_store, chain) = open(directory, network);
    let view = chain.view();
    let height = view.tip.height().get() as usize;
    let prefix: Vec<_> = blocks[..height].iter().map(|bytes| decode(bytes).unwrap()).collect();
    let ledger = Ledger::replay(network, &prefix).unwrap();
    assert_eq!(view.tip, *ledger.state(), "the stored tip is not that of a replay");
    let mut stored = 0;
    for coin in view.iterate_coins() {
        let (outpoint, coin) = coin.unwrap();
        assert_eq!(ledger.coins().get(&outpoint), Some(&coin), "a coin that a replay does not have");
        stored += 1;
    }
    assert_eq!(stored, ledger.coins().len(), "coins are missing");
    for (number, block) in prefix.iter().enumerate() {
        let hash = block.hash();
        assert_eq!(view.body(&hash).unwrap().as_ref(), Some(&blocks[number]), "a body is not what was loaded");
        assert!(view.undo(&hash).unwrap().is_some(), "an undo record is missing");
    }
    chain.stop();
    height
}

/// ST1, ST2. At random moments, then at each place that a load passes.
#[test]
fn kills_during_a_bulk_load() {
    let directory = tempfile::tempdir().unwrap();
    let network = network();
    let file = directory.path().join("blocks");
    write_chain(&network, &file);
    std::fs::write(directory.path().join("genesis.json"), network.to_json()).unwrap();
    let blocks = read_chain(&file);
    let places = [
        (failpoint::AFTER_WRITE_AHEAD, 1),
        (failpoint::AFTER_CONNECT, 333),
        (failpoint::BEFORE_FLUSH, 1),
        (failpoint::AFTER_FLUSH, 1),
        (failpoint::BEFORE_FLUSH, 2),
        (failpoint::AFTER_WRITE_AHEAD, 2),
    ];
    let mut random = Random::new(17);
    let (mut height, mut partial) = (0, 0);
    for kill in 0..KILLS {
        if height == BLOCKS as usize {
            std::fs::remove_dir_all(directory.path().join("chain")).unwrap();
            height = 0;
        }
        let place = places.get(kill as usize / 2).filter(|_| kill % 2 == 0);
        let mut loader = start_loader(directory.path(), place.map(|(name, count)| format!("{name}:{count}")));
        if place.is_none() {
            // Not a wait for anything: the moment is the input of this test.
            std::thread::sleep(Duration::from_millis(random.below(KILL_DELAY_MILLIS_MAX)));
            let _ = loader.kill();
        }
        let _ = loader.wait().unwrap();
        let after = check(directory.path(), &network, &blocks);
        println!("kill {kill} at {place:?}: {height} before, {after} of {BLOCKS} blocks after");
        assert!(after >= height, "kill {kill} at {place:?}: the chain went back from {height} to {after}");
        partial += usize::from(after > 0 && after < BLOCKS as usize);
        height = after;
    }
    assert!(partial > 2, "no kill met a load half done");
    let status = start_loader(directory.path(), None).wait().unwrap();
    assert!(status.success());
    assert_eq!(check(directory.path(), &network, &blocks), BLOCKS as usize);
}
