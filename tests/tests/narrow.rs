//! Real nodes over real narrow links: each in a network namespace, the links shaped by `tc tbf` (root). Delay and loss
//! come from a relay of the suite's own, for want of netem everywhere: over TCP a lost packet is a pause.
//!
//! ```text
//!  peer1 ──quarter──┐
//!  peer2 ──quarter──┤
//!   ...             ├── hub ──line── newcomer        (the hub hands on packets; second: another newcomer)
//!  peer8 ──quarter──┘    └────line── second
//! ```
//!
//! Only where `ip netns add` is refused is anything skipped. Hostile peers and the relay are processes of this very
//! program, started in a namespace: see [`helper`].

use serde_json::Value;
use setara_core::amount::Amount;
use setara_core::block::{Block, Header};
use setara_core::codec;
use setara_core::hash::{BlockHash, TxId};
use setara_core::height::Height;
use setara_core::network::Network;
use setara_core::transaction::{OutPoint, Output};
use setara_node::p2p::message::Message;
use setara_node::testing::{self, ChainBuilder};
use setara_tests::lab::{Daemon, Lab, LabNode, P2P_PORT, run};
use setara_tests::process::{Setup, wait_until};
use setara_tests::purse::Purse;
use setara_tests::speaker::Speaker;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Blocks of the chain that is loaded: twenty seconds of the line, beside which the first two that a bad peer costs are few ...
const BLOCKS: u32 = 600;
/// ... and outputs of each: some nine kilobytes.
const OUTPUTS: usize = 240;
/// Bytes a second of a newcomer's line: so few that a processor has next to nothing to do.
const LINE: u64 = 300_000;
/// Of a peer's: four fill the newcomer's.
const QUARTER: u64 = LINE / 4;
/// Peers.
const PEERS: usize = 8;
/// No sync here takes so long.
const PATIENCE: Duration = Duration::from_secs(180);
/// Where the relay listens.
const RELAY_PORT: u16 = 19_999;

fn peer(number: usize) -> String {
    format!("peer{number}")
}

fn peer_host(number: usize) -> String {
    format!("10.77.{number}.2")
}

fn peer_address(number: usize) -> String {
    format!("{}:{P2P_PORT}", peer_host(number))
}

/// A network of its own whose genesis file names the peers: known as any others are, since what the operator names is
/// spared blame.
fn network() -> Arc<Network> {
    testing::network(|parameters| {
        parameters.name = "narrow".to_owned();
        parameters.maturity = 1;
        parameters.bootstrap = (1..=PEERS).map(peer_address).collect();
    })
}

/// Blocks of some kilobytes each.
fn chain(network: &Arc<Network>) -> Vec<Block> {
    let mut builder = ChainBuilder::new(network);
    for _ in 0..BLOCKS {
        let mut block = builder.build(Vec::new());
        let paid = &mut block.coinbase.outputs;
        let share = paid[0].amount.sen() / (OUTPUTS as u64 + 1);
        paid[0].amount = Amount::from_sen(paid[0].amount.sen() - share * OUTPUTS as u64);
        paid.extend((0..OUTPUTS).map(|_| Output { amount: Amount::from_sen(share), address: builder.payout }));
        let block = testing::seal(block);
        builder.apply(&block).expect("a valid block");
    }
    builder.blocks
}

/// The hub and its peers with the chain, and newcomers to come.
struct Star {
    directory: tempfile::TempDir,
    lab: Lab,
    genesis: PathBuf,
    blocks: PathBuf,
    peers: Vec<Option<LabNode>>,
}

impl Star {
    /// `None` where there are no namespaces.
    fn new(peers: usize) -> Option<Self> {
        let numbers = 1..=peers;
        let mut places: Vec<String> = ["hub", "newcomer", "second"].map(str::to_owned).to_vec();
        places.extend(numbers.clone().map(peer));
        let lab = match Lab::new(&places.iter().map(String::as_str).collect::<Vec<_>>()) {
            Ok(lab) => lab,
            Err(reason) => {
                eprintln!("skipped: no namespaces can be had here: {reason}");
                return None;
            }
        };
        lab.forward("hub");
        for number in numbers.clone() {
            let (place, link, router) = (peer(number), format!("p{number}"), format!("10.77.{number}.1"));
            lab.link(&link, [(&place, &peer_host(number)), ("hub", &router)]);
            lab.must(&place, &format!("ip route add default via {router}"));
            lab.narrow(&place, &link, QUARTER);
        }
        for (place, number) in [("newcomer", 101), ("second", 102)] {
            let (host, router) = (format!("10.77.{number}.2"), format!("10.77.{number}.1"));
            lab.link(place, [(place, &host), ("hub", &router)]);
            lab.must(place, &format!("ip route add default via {router}"));
            // What comes to it.
            lab.narrow("hub", place, LINE);
        }

        let directory = tempfile::tempdir().unwrap();
        let network = network();
        let genesis = directory.path().join("narrow.json");
        std::fs::write(&genesis, network.to_json()).unwrap();
        let chain = chain(&network);
        let blocks = directory.path().join("blocks");
        let lines: Vec<String> = chain.iter().map(|block| hex::encode(codec::encode(block))).collect();
        std::fs::write(&blocks, lines.join("\n")).unwrap();
        let filled = directory.path().join("filled");
        let mut node = Setup::genesis(&filled, "narrow", &genesis).start();
        for block in &lines[1..] {
            let taken = node.call("submitblock", serde_json::json!([block]));
            assert_eq!(taken, Value::Null);
        }
        assert!(node.terminate().0.success(), "{}", node.log());
        let mut star = Self { directory, lab, genesis, blocks, peers: Vec::new() };
        for number in numbers {
            let copy = star.directory.path().join(peer(number));
            run(&format!("cp -r {} {}", filled.display(), copy.display()), "").unwrap();
            // It dials nobody: nobody is there.
            let node = star.node(&peer(number), &peer(number), &["--connect", "127.0.0.1:1"]);
            assert_eq!(node.call(&["getblockcount"]), BLOCKS);
            star.peers.push(Some(node));
        }
        Some(star)
    }

    fn node(&self, place: &str, name: &str, arguments: &[&str]) -> LabNode {
        let setup = Setup::genesis(self.directory.path().join(name), "narrow", &self.genesis);
        let genesis = self.genesis.display().to_string();
        self.lab.node(place, setup.with(["--allow-private"]).with(arguments), &["--genesis", &genesis])
    }

    /// In a peer's place there is a hostile one from now on.
    fn replace(&mut self, number: usize, temper: &str) -> Daemon {
        self.peers[number - 1] = None;
        let files = [("NARROW_GENESIS", self.genesis.clone().into()), ("NARROW_BLOCKS", self.blocks.clone().into())];
        helper_in(&self.lab, &peer(number), temper, &files)
    }

    /// How long a newcomer with these arguments takes to have the chain.
    fn sync_time(&self, name: &str, arguments: &[&str]) -> Duration {
        wait_for_height(&self.node("newcomer", name, arguments), BLOCKS)
    }
}

/// How long after its start a node had so many blocks.
fn wait_for_height(node: &LabNode, height: u32) -> Duration {
    let wanted = height.to_string();
    while node.call(&["waitforblockheight", &wanted, "5000"])["height"].as_u64() < Some(u64::from(height)) {
        let at = node.call(&["getblockcount"]);
        assert!(node.since.elapsed() < PATIENCE, "at {at} after {PATIENCE:?}\n{}", node.process.log());
    }
    node.since.elapsed()
}

/// Four peers of a quarter of the line each are as good as one of all of it; a second newcomer that knows the first alone
/// follows it while it is still syncing; and meanwhile the processors are idle for more than half of the time.
#[test]
#[ignore = "minutes of slow lines, and figures that a busy machine spoils: make test-long"]
fn narrow_many_peers_and_a_second_newcomer() {
    let Some(star) = Star::new(4) else { return };
    let one = star.sync_time("one", &["--connect", &peer_address(1)]);

    let connect: Vec<String> = (1..=4).flat_map(|number| ["--connect".to_owned(), peer_address(number)]).collect();
    let connect: Vec<&str> = connect.iter().map(String::as_str).collect();
    let before: Duration = star.peers.iter().flatten().map(LabNode::processor_time).sum();
    let first = star.node("newcomer", "first", &connect);
    let second = star.node("second", "second", &["--connect", &format!("10.77.101.2:{P2P_PORT}")]);
    wait_until("a first block of the second newcomer", || {
        (second.call(&["getblockcount"]).as_u64()? > 0).then_some(())
    });
    let at = first.call(&["getblockcount"]).as_u64().unwrap();
    assert!(at < u64::from(BLOCKS), "the first newcomer was done before the second began");
    let (four, behind) = std::thread::scope(|scope| {
        let first = scope.spawn(|| wait_for_height(&first, BLOCKS));
        let second = scope.spawn(|| wait_for_height(&second, BLOCKS));
        (first.join().unwrap(), second.join().unwrap())
    });
    let peers: Duration = star.peers.iter().flatten().map(LabNode::processor_time).sum();
    let busy = peers - before + first.processor_time() + second.processor_time();
    let there = first.since.elapsed() * std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    println!("one {one:?}, four {four:?}, a second newcomer {behind:?}; processors busy {busy:?} of {there:?}");
    assert!(busy * 2 < there, "processors busy for {busy:?} of {there:?}: the links are not what is measured");
    assert!(four * 32 <= one * 10, "from one peer {one:?}, from four {four:?}");
    assert!(behind * 10 <= four * 14, "the first after {four:?}, the second after {behind:?}");
}

/// BR6, BR8, TH8. One of eight peers stalls, lies or floods, or three of them do: loading the chain takes hardly longer.
#[test]
#[ignore = "minutes of slow lines, and figures that a busy machine spoils: make test-long"]
fn narrow_bad_peers_among_eight() {
    let Some(mut star) = Star::new(PEERS) else { return };
    let honest = star.sync_time("honest", &[]);
    let mut times = Vec::new();
    for temper in ["stall", "lie", "flood"] {
        let _bad = star.replace(1, temper);
        times.push((temper, star.sync_time(temper, &[])));
    }
    let _bad: Vec<Daemon> =
        [(1, "stall"), (2, "lie"), (3, "flood")].map(|(number, temper)| star.replace(number, temper)).into();
    times.push(("all three", star.sync_time("all", &[])));
    println!("eight honest peers {honest:?}, with bad ones {times:?}");
    for (temper, time) in times {
        assert!(time * 10 < honest * 13, "{temper}: {time:?}, eight honest ones {honest:?}");
    }
}

/// Three nodes in a line over narrow links, one of them slow and lossy. A payment made at one end is mined at the other
/// and confirmed everywhere. The line is cut and both sides mine; when it is whole again, most work wins, and the loser's
/// payment waits again.
#[test]
fn narrow_three_in_a_line_and_a_partition() {
    let lab = match Lab::new(&["a", "b", "c"]) {
        Ok(lab) => lab,
        Err(reason) => return eprintln!("skipped: no namespaces can be had here: {reason}"),
    };
    lab.link("ab", [("a", "10.78.1.1"), ("b", "10.78.1.2")]);
    lab.link("bc", [("b", "10.78.2.1"), ("c", "10.78.2.2")]);
    for (place, link) in [("a", "ab"), ("b", "ab"), ("b", "bc"), ("c", "bc")] {
        lab.narrow(place, link, 100_000);
    }
    let directory = tempfile::tempdir().unwrap();
    let node = |place: &str, to: &str| {
        let setup = Setup::dev(directory.path().join(place)).with(["--connect", to]);
        lab.node(place, setup, &["--network", "dev"])
    };
    let _relay = helper_in(&lab, "b", "relay", &[]);
    let a = node("a", "127.0.0.1:1");
    let b = node("b", &format!("10.78.1.1:{P2P_PORT}"));
    let c = node("c", &format!("10.78.2.1:{RELAY_PORT}"));
    let nodes = [&a, &b, &c];
    let tip = |node: &LabNode| node.call(&["getbestblockhash"]);
    let agree = || wait_until("one tip", || nodes.iter().all(|node| tip(node) == tip(&a)).then_some(()));
    let waiting = |node: &LabNode, txid: &str| {
        node.call(&["getrawmempool"]).as_array().is_some_and(|all| all.iter().any(|one| one == txid))
    };

    let network = Network::dev();
    let (alice, bob) = (Purse::new(&network, 1), Purse::new(&network, 2));
    a.call(&["generatetoaddress", "2", &alice.address_text()]);
    a.call(&["generatetoaddress", "100", &bob.address_text()]);
    agree();
    // A payment of the coinbase at this height.
    let payment = |height: u32| {
        let hash = a.call(&["getblockhash", &height.to_string()]);
        let block = a.call(&["getblock", hash.as_str().unwrap()]);
        let txid: TxId = block["tx"][0].as_str().unwrap().parse().unwrap();
        let paid = alice.split(OutPoint::new(txid, 0), network.subsidy(Height::new(height)), 2);
        (paid.txid().to_string(), hex::encode(codec::encode(&paid)))
    };
    let (txid, hex) = payment(1);
    a.call(&["sendrawtransaction", &hex]);
    wait_until("the payment at the other end", || waiting(&c, &txid).then_some(()));
    c.call(&["generatetoaddress", "1", &bob.address_text()]);
    agree();
    for node in nodes {
        assert!(!waiting(node, &txid));
        assert_eq!(node.call(&["getrawtransaction", &txid, "true"])["confirmations"], 1);
    }

    lab.must("b", "ip link set bc down");
    let (txid, hex) = payment(2);
    c.call(&["sendrawtransaction", &hex]);
    c.call(&["generatetoaddress", "1", &bob.address_text()]);
    assert!(!waiting(&c, &txid), "it is mined on this side");
    a.call(&["generatetoaddress", "3", &bob.address_text()]);
    wait_until("the other two", || (tip(&a) == tip(&b)).then_some(()));
    assert_ne!(tip(&a), tip(&c));
    assert!(!waiting(&a, &txid) && !waiting(&b, &txid), "the line is cut");
    let winner = tip(&a);
    lab.must("b", "ip link set bc up");
    wait_until("most work on all sides", || nodes.iter().all(|node| tip(node) == winner).then_some(()));
    wait_until("the payment in the loser's mempool", || waiting(&c, &txid).then_some(()));
}

/// Starts this program in a namespace as what `role` says.
fn helper_in(lab: &Lab, place: &str, role: &str, files: &[(&str, OsString)]) -> Daemon {
    let program = std::env::current_exe().expect("a test knows its own path");
    let words = [program.into(), "helper".into(), "--exact".into(), "--ignored".into(), "--nocapture".into()];
    let environment: Vec<(&str, OsString)> =
        files.iter().cloned().chain([("NARROW_ROLE", OsString::from(role))]).collect();
    lab.start(place, &words, &environment)
}

#[test]
#[ignore = "no test: what the others start in a namespace, as a hostile peer or a relay"]
fn helper() {
    let role = std::env::var("NARROW_ROLE").expect("started by another test");
    if role == "relay" {
        return relay();
    }
    let text = std::fs::read_to_string(std::env::var_os("NARROW_GENESIS").expect("a file")).unwrap();
    let network = Network::from_json(&text).unwrap();
    let lines = std::fs::read_to_string(std::env::var_os("NARROW_BLOCKS").expect("a file")).unwrap();
    let blocks: Vec<Block> = lines.lines().map(|line| codec::decode(&hex::decode(line).unwrap()).unwrap()).collect();
    let listener = TcpListener::bind(("0.0.0.0", P2P_PORT)).unwrap();
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let (network, blocks, role) = (&network, &blocks, role.as_str());
            scope.spawn(move || serve(Speaker::greet(stream.ok()?, network, P2P_PORT, BLOCKS, false)?, blocks, role));
        }
    });
}

/// The hostile side of a connection, which the node dialled; until the node ends it.
fn serve(mut speaker: Speaker, blocks: &[Block], role: &str) -> Option<()> {
    let headers: Vec<Header> = blocks.iter().skip(1).map(|block| block.header).collect();
    let genesis = blocks.first()?.hash();
    let mut greeted = false;
    loop {
        for message in speaker.hear()? {
            match message {
                Message::Hello(_) => greeted = true,
                Message::Ping(nonce) => speaker.say(&Message::Pong(nonce))?,
                Message::GetHeaders { locator, .. } => {
                    let known = |hash: &BlockHash| headers.iter().position(|header| header.hash() == *hash);
                    let from = locator.iter().find_map(known).map_or(0, |at| at + 1);
                    speaker.say(&Message::Headers(headers[from..].to_vec()))?;
                }
                // The header that was asked for, above the body of another.
                Message::GetBlocks(hashes) if role == "lie" => {
                    for hash in hashes.into_iter().filter(|hash| *hash != genesis) {
                        let at = blocks.iter().position(|block| block.hash() == hash)?;
                        let mut block = blocks[at].clone();
                        block.coinbase = blocks[at - 1].coinbase.clone();
                        speaker.say(&Message::Block(codec::encode(&block).into()))?;
                    }
                }
                _ => {}
            }
        }
        // Questions that cost the asker nothing and are no offence, as many as the line takes.
        if role == "flood" && greeted {
            for nonce in 0..100 {
                speaker.say(&Message::Ping(nonce))?;
                let stop = BlockHash::from_bytes([0; 32]);
                speaker.say(&Message::GetHeaders { locator: vec![genesis; 60], stop })?;
            }
        }
    }
}

/// Hands on what comes at [`RELAY_PORT`] to the node here, a little later each way, and now and then much later.
fn relay() {
    let listener = TcpListener::bind(("0.0.0.0", RELAY_PORT)).unwrap();
    for stream in listener.incoming() {
        let Ok(from) = stream else { continue };
        let Ok(to) = TcpStream::connect(("127.0.0.1", P2P_PORT)) else { continue };
        for (from, to) in [(from.try_clone(), to.try_clone()), (Ok(to), Ok(from))] {
            let (from, to) = (from.unwrap(), to.unwrap());
            std::thread::spawn(move || hand_on(from, to));
        }
    }
}

/// One way of a relayed connection.
fn hand_on(mut from: TcpStream, mut to: TcpStream) {
    /// As of a long way.
    const DELAY: Duration = Duration::from_millis(80);
    /// What TCP makes of a lost packet ...
    const LOST: Duration = Duration::from_millis(600);
    /// ... of which there is one among so many pieces.
    const LOST_EACH: usize = 25;
    let (sender, pieces) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        for (number, (came, piece)) in pieces.iter().enumerate() {
            let delay = if number % LOST_EACH == LOST_EACH - 1 { LOST } else { DELAY };
            let left = (came + delay).saturating_duration_since(Instant::now());
            // Not a wait for anything: the delay is what this relay is for.
            std::thread::sleep(left);
            if to.write_all(&piece).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if sender.send((Instant::now(), bytes[..read].to_vec())).is_err() {
            return;
        }
    }
}
