//! A real node against sockets that flood it: half-open, silent, never reading, never silent.
//!
//! The hostile side speaks the real protocol through the node's own transport; the node is a process of its own, so its
//! memory is its own, too.

use serde_json::{Value, json};
use setara_core::amount::Amount;
use setara_core::block::Block;
use setara_core::codec::encode;
use setara_core::hash::BlockHash;
use setara_core::limits::BLOCK_BYTES_MAX;
use setara_core::network::Network;
use setara_node::p2p::brain::greeting::Introduction;
use setara_node::p2p::brain::interface::Link;
use setara_node::p2p::limits::NOISE_TIMEOUT;
use setara_node::p2p::message::Message;
use setara_node::p2p::shell::frames::Received;
use setara_node::p2p::shell::noise::{Handshake, Role, Session, StaticKey};
use setara_node::testing::{ChainBuilder, address, coins};
use setara_tests::process::{DEADLINE, NodeProcess, Setup, wait_until};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for one read or write of a socket; waits for more are bounded by [`DEADLINE`].
const SOCKET_WAIT: Duration = Duration::from_millis(200);

fn start(directory: &Path) -> (NodeProcess, SocketAddr) {
    let setup = Setup::dev(directory).with(["--p2p-listen", "127.0.0.1:0"]);
    let node = setup.start();
    let address = wait_until("a node that listens for peers", || {
        let text = std::fs::read(setup.network_dir().join("endpoints.json")).ok()?;
        serde_json::from_slice::<Value>(&text).ok()?["p2p"].as_str()?.parse().ok()
    });
    (node, address)
}

/// Bytes of memory that a process holds.
fn resident(node: &NodeProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the node runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    let kibibytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kibibytes.expect("a number of KiB") << 10
}

/// One side of the protocol, as far as a test needs it.
struct Peer {
    stream: TcpStream,
    session: Session,
}

impl Peer {
    /// Dials and shakes hands; `None` if the node closes the door.
    fn dial(address: SocketAddr) -> Option<Self> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(NOISE_TIMEOUT)).unwrap();
        let network = Network::dev();
        let mut handshake =
            Handshake::new(Role::Initiator, &StaticKey::generate(), network.genesis_hash(), BLOCK_BYTES_MAX);
        let mut input = Vec::new();
        loop {
            let progress = handshake.step(&input).ok()?;
            input.drain(..progress.consumed);
            stream.write_all(&progress.output).ok()?;
            if let Some(session) = progress.done {
                stream.set_read_timeout(Some(SOCKET_WAIT)).unwrap();
                stream.set_write_timeout(Some(SOCKET_WAIT)).unwrap();
                let mut peer = Self { stream, session };
                peer.take(&input);
                return Some(peer);
            }
            let mut bytes = [0; 1_024];
            let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
            input.extend_from_slice(&bytes[..read]);
        }
    }

    /// Dials and says hello, until the node lets it in.
    fn greeted(address: SocketAddr) -> Self {
        let mut peer = wait_until("a node that lets an honest peer in", || Self::dial(address));
        let network = Network::dev();
        let introduction = Introduction {
            agent: "/flood:1/",
            network: &network,
            link: Link::OutboundFull,
            serves: (0, 0),
            snapshot: false,
            nonce: 7,
            listen_port: 0,
            time: 0,
        };
        peer.say(&Message::Hello(Box::new(introduction.hello())));
        peer.hear("the node's greeting", |message| matches!(message, Message::Hello(_)));
        peer
    }

    fn take(&mut self, bytes: &[u8]) {
        self.session.receive(bytes).expect("the node speaks the protocol");
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        self.session.send(&message.encode(), &mut bytes);
        let end = Instant::now() + DEADLINE;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    assert!(Instant::now() < end, "the node does not read");
                }
                Err(error) => panic!("the node ended the connection: {error}"),
            }
        }
    }

    /// Whether what is said still fits into the socket; what does not is lost with the connection.
    fn say_if_room(&mut self, message: &Message) -> bool {
        let mut bytes = Vec::new();
        self.session.send(&message.encode(), &mut bytes);
        self.stream.write_all(&bytes).is_ok()
    }

    /// Asks for all headers so many times in as few packets as possible, and reads nothing; how many times it could.
    fn ask_headers(&mut self, times: usize) -> usize {
        (0..times).take_while(|_| self.say_if_room(&all_headers())).count()
    }

    /// Waits for a message, passing over others.
    fn hear(&mut self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        let end = Instant::now() + DEADLINE;
        let mut bytes = vec![0; 64 << 10];
        loop {
            while let Some(received) = self.session.next_frame() {
                let Received::Frame { kind, body } = received else { continue };
                let message = Message::decode(kind, body, BLOCK_BYTES_MAX).expect("the node speaks the protocol");
                if let Message::Ping(number) = message {
                    self.say(&Message::Pong(number));
                } else if wanted(&message) {
                    return message;
                }
            }
            assert!(Instant::now() < end, "gave up waiting for {what}");
            match self.stream.read(&mut bytes) {
                Ok(0) => panic!("the node ended the connection before {what}"),
                Ok(read) => self.take(&bytes[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("{error} before {what}"),
            }
        }
    }
}

/// TH1: what has not shaken hands costs next to nothing, whatever lengths it claims.
#[test]
fn th1_half_open_sockets_take_no_memory() {
    const SOCKETS: usize = 1_000;
    const GROWTH_MAX: u64 = 4 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (node, address) = start(directory.path());
    allow_files();
    drop(Peer::greeted(address));
    let before = resident(&node);
    let mut claim = b"SETA".to_vec();
    claim.extend_from_slice(&[1, 0, 1, 0]);
    claim.extend_from_slice(&Network::dev().genesis_hash().as_bytes()[..8]);
    claim.extend_from_slice(&u16::MAX.to_le_bytes());
    claim.extend_from_slice(&[0; 900]);
    let open: Vec<TcpStream> = (0..SOCKETS)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            // The node may have closed it already.
            let _ = stream.write_all(&claim);
            stream
        })
        .collect();
    let grown = resident(&node).saturating_sub(before);
    assert!(grown <= GROWTH_MAX, "{SOCKETS} half-open sockets take {grown} bytes");
    drop(open);
    drop(Peer::greeted(address));
}

/// TH2: after a flood of those who say nothing, an honest peer gets in before the last of them have had their time.
#[test]
fn th2_an_honest_peer_gets_in_beside_silent_ones() {
    const SILENT: usize = 2_000;
    /// The places are filled again with the flood's last in a few seconds; those hold them for [`NOISE_TIMEOUT`].
    const ENTRY_MAX: Duration = Duration::from_secs(NOISE_TIMEOUT.as_secs() - 1);
    let directory = tempfile::tempdir().unwrap();
    let (node, address) = start(directory.path());
    allow_files();
    let start = Instant::now();
    let silent: Vec<TcpStream> = (0..SILENT).map(|_| TcpStream::connect(address).unwrap()).collect();
    let dialled = start.elapsed();
    drop(Peer::greeted(address));
    let taken = start.elapsed() - dialled;
    assert!(taken < ENTRY_MAX, "{SILENT} dials in {dialled:?}, an honest peer {taken:?} later");
    drop(silent);
    assert_eq!(node.call("getblockcount", json!([])), 0);
}

/// What an idle connection costs in memory, all of it: buffers, keys, what the node keeps of the peer.
#[test]
fn a_connection_takes_little_memory() {
    const CONNECTIONS: u64 = 100;
    const EACH_MAX: u64 = 200 << 10;
    let directory = tempfile::tempdir().unwrap();
    let (node, address) = start(directory.path());
    // Threads and caches that the first ones bring are not theirs.
    let first: Vec<Peer> = (0..10).map(|_| Peer::greeted(address)).collect();
    let before = resident(&node);
    let open: Vec<Peer> = (0..CONNECTIONS).map(|_| Peer::greeted(address)).collect();
    let shown = || node.call("getconnectioncount", json!([])).as_u64();
    wait_until("all connections", || (shown() == Some(CONNECTIONS + first.len() as u64)).then_some(()));
    let each = resident(&node).saturating_sub(before) / CONNECTIONS;
    println!("a connection takes {} KiB", each >> 10);
    assert!(each <= EACH_MAX, "{each} bytes a connection");
    drop((first, open));
}

/// Blocks near the development network's target size on top of its genesis.
fn large_blocks(count: usize) -> Vec<Block> {
    const OUTPUTS: usize = 22_000;
    let network = Arc::new(Network::dev());
    let mut builder = ChainBuilder::new(&network);
    let maturity = network.maturity as usize;
    builder.mine_empty(u32::try_from(maturity + count).expect("a short chain"));
    for _ in 0..count {
        let mut spendable = builder.spendable();
        spendable.sort_by_key(|(_, coin)| coin.height);
        let coin = *spendable.iter().find(|(_, coin)| coin.output.amount >= coins(1)).expect("a coinbase");
        let outputs = vec![(address(1), Amount::from_sen(1_000)); OUTPUTS];
        let transaction = builder.spend(&[coin], &outputs);
        builder.mine(vec![transaction]);
    }
    builder.blocks.split_off(1)
}

/// TH7: requests of a peer that never reads the answers cost a block and the queue, not the answers.
#[test]
fn th7_a_peer_that_never_reads_costs_little() {
    const BLOCKS: usize = 24;
    const ASKED: usize = 10_000;
    /// A block, a megabyte, and what the allocator keeps of what passed through.
    const GROWTH_MAX: u64 = 24 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (node, address) = start(directory.path());
    let blocks = large_blocks(BLOCKS);
    for block in &blocks {
        assert_eq!(node.call("submitblock", json!([hex::encode(encode(block))])), Value::Null);
    }
    let large: Vec<BlockHash> = blocks.iter().rev().take(BLOCKS).map(Block::hash).collect();
    let bytes: usize = blocks.iter().rev().take(BLOCKS).map(|block| encode(block).len()).sum();
    assert!(bytes / BLOCKS > 700_000, "{bytes}");
    // Caches fill as they do for anybody who does read.
    let mut honest = Peer::greeted(address);
    let fetch = |peer: &mut Peer, hash: BlockHash| {
        peer.say(&Message::GetBlocks(vec![hash]));
        peer.hear("a block", |message| matches!(message, Message::Block(_)));
    };
    for _ in 0..2 {
        large.iter().for_each(|hash| fetch(&mut honest, *hash));
    }
    let before = resident(&node);
    let mut deaf = Peer::greeted(address);
    let mut asked = 0;
    while asked < ASKED && deaf.say_if_room(&Message::GetBlocks(large[..16].to_vec())) {
        asked += 16;
    }
    // Others are served meanwhile.
    large.iter().for_each(|hash| fetch(&mut honest, *hash));
    let grown = resident(&node).saturating_sub(before);
    assert!(grown <= GROWTH_MAX, "{asked} blocks asked and not read take {grown} bytes");
}

/// TH7: nor do the answers that are made at once, such as headers: what a peer does not take is not worked out further.
#[test]
fn th7_headers_that_nobody_reads_cost_little() {
    const ASKED: usize = 1_600;
    /// What waits at the first limit and eight more answers are two and a half; the allocator keeps some of what passed.
    const GROWTH_MAX: u64 = 10 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (node, address) = start(directory.path());
    long_chain(&node);
    drop(Peer::greeted(address));
    let before = resident(&node);
    let mut deaf = Peer::greeted(address);
    let asked = deaf.ask_headers(ASKED);
    // An honest peer is answered meanwhile, and after.
    let mut honest = Peer::greeted(address);
    for _ in 0..3 {
        honest.say(&all_headers());
        honest.hear("headers", |message| matches!(message, Message::Headers(headers) if headers.len() == 2_000));
    }
    let grown = resident(&node).saturating_sub(before);
    assert!(grown <= GROWTH_MAX, "{asked} answers asked and not read take {grown} bytes");
}

/// TH7: connections that are to end do not stay, whatever is queued for them and however little of it they take.
#[test]
fn th7_ended_connections_are_gone_soon() {
    const PEERS: usize = 12;
    /// Less than what was asked for, which takes eleven.
    const GROWTH_MAX: u64 = 8 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (node, address) = start(directory.path());
    long_chain(&node);
    drop(Peer::greeted(address));
    let (before, sockets) = (resident(&node), sockets(&node));
    let peers: Vec<Peer> = (0..PEERS)
        .map(|_| {
            let mut peer = Peer::greeted(address);
            // As much as fits before it is heard no more: nearly a megabyte.
            peer.ask_headers(6);
            // Twice is one time too often.
            peer.say_if_room(&Message::GetGenesis);
            peer.say_if_room(&Message::GetGenesis);
            peer
        })
        .collect();
    let grown = resident(&node).saturating_sub(before);
    assert!(grown <= GROWTH_MAX, "{PEERS} connections that are to end take {grown} bytes");
    wait_until("the end of all connections, which nobody closes here", || {
        (self::sockets(&node) <= sockets).then_some(())
    });
    drop(peers);
}

/// Enough blocks for an answer of the largest size.
fn long_chain(node: &NodeProcess) {
    const BLOCKS: usize = 2_000;
    const AT_ONCE: usize = 100;
    let address = address(1).to_text(&Network::dev().prefix);
    for _ in 0..BLOCKS / AT_ONCE {
        node.call("generatetoaddress", json!([AT_ONCE, address]));
    }
}

fn all_headers() -> Message {
    Message::GetHeaders { locator: Vec::new(), stop: BlockHash::from_bytes([0; 32]) }
}

/// Open sockets of a process.
fn sockets(node: &NodeProcess) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("the node runs");
    let is_socket = |path: std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    open.filter_map(Result::ok).filter(|entry| is_socket(entry.path())).count()
}

/// TH8: beside a peer that never stops talking, another is still answered.
#[test]
fn th8_one_peer_does_not_starve_the_others() {
    const QUESTIONS: u64 = 200;
    let directory = tempfile::tempdir().unwrap();
    let (_node, address) = start(directory.path());
    let mut honest = Peer::greeted(address);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let mut loud = Peer::greeted(address);
                    let locator = vec![Network::dev().genesis_hash(); 60];
                    let question = Message::GetHeaders { locator, stop: BlockHash::from_bytes([0; 32]) };
                    // Until the node has had enough of it, or it of the node.
                    loop {
                        if stop.load(Ordering::SeqCst) || !loud.say_if_room(&question) {
                            break;
                        }
                    }
                }
            });
        }
        let mut slowest = Duration::ZERO;
        for number in 0..QUESTIONS {
            let asked = Instant::now();
            honest.say(&Message::Ping(number));
            honest.hear("an answer beside a flood", |message| *message == Message::Pong(number));
            slowest = slowest.max(asked.elapsed());
        }
        stop.store(true, Ordering::SeqCst);
        // Seen at some milliseconds; a peer that waits for a flood to end would wait for ever.
        println!("slowest of {QUESTIONS} answers beside two floods: {slowest:?}");
    });
}

/// Thousands of sockets need as many descriptors.
fn allow_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
}
