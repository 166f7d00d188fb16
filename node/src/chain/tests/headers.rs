//! Headers first, bodies in any order.

use super::*;
use crate::testing::{ChainBuilder, coins, funded_network, quick_network, seal};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use setara_core::block::Header;
use setara_core::consensus::check_header;

fn headers_of(blocks: &[Block]) -> Vec<Header> {
    blocks.iter().map(|block| block.header).collect()
}

fn take(rig: &mut Rig, headers: &[Header]) -> Result<HeadersTaken, SubmitError> {
    let now = rig.now();
    rig.core.submit_headers(headers, now)
}

fn status_of(rig: &Rig, hash: BlockHash) -> Option<(TipStatus, u32)> {
    let view = rig.core.shared.view();
    view.tips().iter().find(|tip| tip.hash == hash).map(|tip| (tip.status, tip.branch_length))
}

/// A header-only branch is listed, is never a candidate, and survives a restart; its bodies connect when they come.
#[test]
fn headers_alone_are_kept_and_never_connected() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(3));
    let tip = builder.tip();
    let above = builder.mine_empty(40);
    let taken = take(&mut rig, &headers_of(&above)).unwrap();
    assert_eq!((taken.new, taken.last.hash, taken.last.height), (40, builder.tip(), builder.state.height()));
    let again = take(&mut rig, &headers_of(&above[..7])).unwrap();
    assert_eq!((again.new, again.last.hash), (0, above[6].hash()));
    let none = take(&mut rig, &[]).unwrap();
    assert_eq!((none.new, none.last.hash), (0, tip));
    for _ in 0..2 {
        assert_eq!(rig.core.tip().hash(), tip);
        assert_eq!(status_of(&rig, builder.tip()), Some((TipStatus::HeadersOnly, 40)));
        assert_eq!(rig.core.tree.reader().best().point().hash, builder.tip());
        rig = rig.reopen();
    }
    let mut bodies = above.clone();
    bodies.reverse();
    let last = bodies.pop().unwrap();
    for body in &bodies {
        assert_eq!(rig.submit(body), Ok(Accepted::SideBranch));
    }
    let mut rig = rig.reopen();
    assert_eq!(rig.core.tip().hash(), tip);
    assert_eq!(rig.submit(&last), Ok(Accepted::Connected));
    rig.assert_is(&builder);
    rig.reopen().assert_is(&builder);
}

/// ST1: headers are stored unsynced; a power cut that loses some leaves a tree, and they can be sent again.
#[test]
fn st1_a_crash_loses_headers_but_no_parents() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(2));
    let above = builder.mine_empty(30);
    for part in headers_of(&above).chunks(10) {
        take(&mut rig, part).unwrap();
    }
    for kept in 0..=3 {
        let mut rig = Rig::over(&network, rig.store.crash(kept), rig.verifier.clone()).unwrap();
        let best = rig.core.tree.reader().best().point();
        assert_eq!(best.height.get(), 2 + 10 * kept as u32);
        assert_eq!(take(&mut rig, &headers_of(&above)).unwrap().new, 30 - 10 * kept);
        submit_all(&mut rig, &above);
        rig.assert_is(&builder);
    }
}

/// A header that breaks a rule leaves no trace; those before it stay, those after it are not looked at.
#[test]
fn headers_before_a_bad_one_stay() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let blocks = builder.mine_empty(6);
    let headers = headers_of(&blocks);
    let with = |change: &dyn Fn(&mut Header)| {
        let mut headers = headers.clone();
        change(&mut headers[3]);
        testing::mine_header(&mut headers[3]);
        headers
    };
    let old = with(&|header| header.time = network.genesis_time);
    let apart = with(&|header| header.previous = BlockHash::from_bytes([9; 32]));
    for (headers, orphan) in [(old, false), (apart, true)] {
        let mut rig = Rig::new(&network);
        match take(&mut rig, &headers) {
            Err(SubmitError::MissingParent(parent)) if orphan => assert_eq!(parent, headers[3].previous),
            Err(SubmitError::Invalid(_)) if !orphan => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(rig.core.tree.find(&headers[3].hash()), None, "no trace");
        assert_eq!(rig.core.tree.reader().best().point().hash, headers[2].hash());
        let rig = rig.reopen();
        assert_eq!(rig.core.tree.reader().best().point().hash, headers[2].hash());
    }
}

/// PT5: a header from the future is refused, unmarked and not kept; when its time has come it is taken.
#[test]
fn pt5_early_headers_are_taken_later() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let blocks = builder.mine_empty(4);
    let mut rig = Rig::new(&network);
    let limit = u64::from(network.max_future_seconds);
    let at = |unix_seconds: u64| Now { unix_seconds, monotonic: Duration::ZERO };
    let ripe = u64::from(blocks[2].header.time) - limit;
    for _ in 0..3 {
        let result = rig.core.submit_headers(&headers_of(&blocks), at(ripe - 1));
        assert!(matches!(result, Err(SubmitError::Early(_))), "{result:?}");
        assert_eq!(rig.core.tree.reader().best().point().hash, blocks[1].hash());
        assert_eq!(rig.core.is_bad(&blocks[2].hash()), None);
    }
    let taken = rig.core.submit_headers(&headers_of(&blocks[..3]), at(ripe)).unwrap();
    assert_eq!((taken.new, taken.last.hash), (1, blocks[2].hash()));
    submit_all(&mut rig, &blocks);
    rig.assert_is(&builder);
}

/// ST11: a header below a failed block is refused, before and after a restart; header-only children fail with it.
#[test]
fn st11_failure_reaches_headers() {
    let network = quick_network();
    let mut builder = ChainBuilder::new(&network);
    let mut rig = Rig::new(&network);
    submit_all(&mut rig, &builder.mine_empty(2));
    let (bad, line) = bad_line(&builder, 5);
    take(&mut rig, &headers_of(&line[..4])).unwrap();
    assert_eq!(rig.core.tree.reader().best().point().hash, line[3].hash());
    assert!(matches!(rig.submit(&bad), Err(SubmitError::Invalid(_))));
    for _ in 0..2 {
        assert_eq!(rig.core.tree.reader().best().point().hash, builder.tip());
        assert_eq!(status_of(&rig, line[3].hash()).map(|(status, _)| status), Some(TipStatus::Invalid));
        let refused = take(&mut rig, &headers_of(&line[4..]));
        assert_eq!(refused, Err(SubmitError::InvalidParent(line[3].hash())));
        for (index, block) in line[..4].iter().enumerate() {
            assert!(take(&mut rig, &[block.header]).is_err(), "{index}");
            assert!(rig.submit(block).is_err(), "{index}");
        }
        rig = rig.reopen();
    }
    rig.assert_is(&builder);
}

/// A block that pays its miner too much, and blocks that would follow it.
fn bad_line(ledger: &ChainBuilder, length: usize) -> (Block, Vec<Block>) {
    let mut ledger = ledger.clone();
    ledger.extra = vec![99];
    let mut line: Vec<Block> = Vec::new();
    while line.len() < length {
        let mut block = ledger.build(Vec::new());
        if line.is_empty() {
            block.coinbase.outputs[0].amount = coins(4_000);
            block = seal(block);
        }
        ledger.state.header = check_header(&ledger.network, &ledger.state.header, &block.header).unwrap();
        line.push(block);
    }
    (line[0].clone(), line)
}

/// A body that came, in the order of arrival.
struct Arrived {
    hash: BlockHash,
    previous: BlockHash,
}

/// ST11: headers of a random tree, then its bodies in random order, with restarts and power cuts between and branches
/// that fail: after each step the tip has the most work among the blocks whose bodies are all there and valid, the
/// body received first on equal work.
#[test]
fn st11_bodies_in_any_order_lead_to_the_best_valid_branch() {
    let network = funded_network(3, coins(10));
    for seed in 0..30 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut ledgers = vec![ChainBuilder::new(&network)];
        let mut headers: Vec<Header> = Vec::new();
        let mut bodies: Vec<Block> = Vec::new();
        let mut bad: Vec<BlockHash> = Vec::new();
        for number in 0..14 {
            let from = if rng.random_bool(0.6) { ledgers.len() - 1 } else { rng.random_range(0..ledgers.len()) };
            let mut ledger = ledgers[from].clone();
            ledger.extra = vec![number];
            bodies.push(ledger.mine(Vec::new()));
            headers.push(bodies[bodies.len() - 1].header);
            ledgers.push(ledger);
        }
        for _ in 0..2 {
            let from = rng.random_range(0..ledgers.len());
            let (_, line) = bad_line(&ledgers[from], rng.random_range(1..6));
            bad.extend(line.iter().map(Block::hash));
            headers.extend(headers_of(&line));
            bodies.extend(line);
        }
        let verifier = Verifier::new(network.clone(), Arc::new(KnownSignatures::default()), Some(1));
        let mut rig = Rig::over(&network, MemoryStore::new(), verifier.clone()).unwrap();
        // Each on its own, as some are refused once a block below has failed.
        let send = |rig: &mut Rig| headers.iter().for_each(|header| drop(take(rig, &[*header])));
        send(&mut rig);
        bodies.shuffle(&mut rng);
        let mut arrived: Vec<Arrived> = Vec::new();
        for (step, body) in bodies.iter().enumerate() {
            let result = rig.submit(body);
            if !bad.contains(&body.hash()) {
                result.unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            }
            arrived.push(Arrived { hash: body.hash(), previous: body.header.previous });
            if rng.random_bool(0.2) {
                let store = if rng.random() { rig.store.crash(rng.random_range(0..2)) } else { rig.store.clone() };
                drop(rig);
                rig = Rig::over(&network, store, verifier.clone()).unwrap();
                send(&mut rig);
            }
            let there = |hash: &BlockHash| {
                let mut hash = *hash;
                while hash != network.genesis_hash() {
                    match arrived.iter().find(|body| body.hash == hash) {
                        Some(body) if !bad.contains(&hash) => hash = body.previous,
                        _ => return false,
                    }
                }
                true
            };
            let mut best = &ledgers[0];
            for body in &arrived {
                let ledger = ledgers.iter().find(|ledger| ledger.tip() == body.hash);
                if let Some(ledger) = ledger.filter(|ledger| there(&ledger.tip()))
                    && ledger.state.header.work > best.state.header.work
                {
                    best = ledger;
                }
            }
            assert_eq!(rig.core.tip().hash(), best.tip(), "seed {seed}, step {step}");
            assert_eq!(rig.core.fault(), None);
        }
        let tip = rig.core.tip().hash();
        let ledger = ledgers.iter().find(|ledger| ledger.tip() == tip).unwrap();
        rig.assert_is(ledger);
    }
}
