//! Beginning with a snapshot from peers of every sort: honest, lying, silent, changing their minds. Disk and chain are real,
//! time and sockets are not.

mod serving;

use super::fetch::SnapshotFetch;
use super::{SnapshotJob, SnapshotNews};
use crate::chain::{ChainHandle, KnownSignatures, Now};
use crate::clock::ManualClock;
use crate::mempool::{Mempool, Options};
use crate::p2p::brain::greeting::Introduction;
use crate::p2p::brain::interface::{Action, Actions, Ending, Event, Link, PeerId};
use crate::p2p::brain::penalty::{self, Offence};
use crate::p2p::brain::{Brain, BrainOptions, Memory};
use crate::p2p::limits::{SNAPSHOT_PER_PEER, SNAPSHOT_PIECE_BYTES};
use crate::p2p::message::{AddressRecord, CoinRange, Message, NetAddress, PeerAddress, Reference, Serves, services};
use crate::p2p::shell::work::snapshot_job;
use crate::snapshot::{Fetched, Offer, SnapshotFile, dump};
use crate::store::MemoryStore;
use crate::testing::{self, ChainBuilder, height};
use setara_core::amount::Amount;
use setara_core::block::Header;
use setara_core::hash::{BlockHash, Hash256};
use setara_core::lattice::ELEMENT_BYTES;
use setara_core::network::Network;
use setara_core::pow::Work;
use setara_core::snapshot::{DEPTH_MIN, Manifest};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Base of the snapshot that is served; the one above is deep enough as well, the next is not.
const BASE: u32 = 20;
const START: u64 = 1_900_000_000;

/// Made once, since it is mined and signed.
struct World {
    network: Arc<Network>,
    ledger: ChainBuilder,
    /// Snapshots of the three bases from [`BASE`] on.
    snapshots: Vec<(Manifest, Arc<Offer>)>,
    _folder: tempfile::TempDir,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let network = testing::funded_network(6, testing::coins(50));
        let mut ledger = ChainBuilder::new(&network);
        for _ in 0..BASE + 2 {
            let coin = ledger.spendable().into_iter().max_by_key(|(_, coin)| coin.output.amount).unwrap();
            let part = Amount::from_sen(coin.1.output.amount.sen() / 60);
            let outputs: Vec<_> = (0..60).map(|to| (testing::address(to % 6), part)).collect();
            let payment = ledger.spend(&[coin], &outputs);
            ledger.mine(vec![payment]);
        }
        ledger.mine_empty(DEPTH_MIN - 1);
        let chain = testing::inline(&network, Arc::new(MemoryStore::new()), Arc::new(ManualClock::new(START)));
        for block in &ledger.blocks[1..] {
            chain.submit(block.clone()).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let snapshot = |base| {
            let path = folder.path().join(format!("{base}"));
            dump(&chain.view(), height(base), &path).unwrap();
            let file = SnapshotFile::open(&path).unwrap();
            (file.manifest.clone(), Arc::new(file.offer().unwrap()))
        };
        let snapshots = (BASE..BASE + 3).map(snapshot).collect();
        World { network, ledger, snapshots, _folder: folder }
    })
}

/// What a peer is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Serves what it says.
    Honest,
    /// Serves no snapshot.
    Without,
    /// Says that it has one and sends no coin.
    Silent,
    /// The same with the manifest.
    NoManifest,
    /// Says that it has one, and then that it has not.
    Fickle,
    /// One coin of a bucket is worth more.
    WrongCoin,
    /// A coin comes twice, another not at all.
    Repeats,
    /// Two coins change places.
    Disorder,
    /// A coin of another bucket.
    OtherBucket,
    /// A coin that was made after the base.
    FromTheFuture,
    /// The commitment is to other coins.
    OtherRoot,
    /// The coinbase is another's.
    OtherCoinbase,
    /// Bytes that are no manifest.
    NoBytes,
    /// Another network's.
    OtherNetwork,
    /// The manifest of another base than it said.
    OtherBase,
    /// Its base is not deep enough.
    Shallow,
    /// Its base is no block.
    OffChain,
    /// A block at another height.
    OtherHeight,
    /// Sends coins that nobody asked for.
    Pushes,
}

struct Remote {
    kind: Kind,
    /// Which of the world's snapshots it has.
    snapshot: usize,
    asked: Vec<CoinRange>,
}

struct Rig {
    brain: Brain,
    chain: ChainHandle,
    mempool: Mempool,
    monotonic: Duration,
    fetched: Fetched,
    peers: BTreeMap<u64, Remote>,
    events: VecDeque<Event>,
    endings: Vec<(u64, Ending)>,
    /// Blocks that peers were asked for.
    blocks: BTreeSet<BlockHash>,
    /// Who was dialled; peers name one that serves a snapshot when they are asked for such.
    dialled: Vec<PeerAddress>,
    /// The block that peers show as their last.
    shows: usize,
    /// Most pieces that were asked for by what followed one event.
    at_once: usize,
    /// After so many right buckets, the process dies.
    dies_after: usize,
    checked: usize,
}

impl Rig {
    fn new(folder: &Path) -> Self {
        Self::behind(folder, world().ledger.height() as usize)
    }

    /// With so many headers, all that its peers show.
    fn behind(folder: &Path, shows: usize) -> Self {
        let network = &world().network;
        let clock = Arc::new(ManualClock::new(START));
        let chain = testing::inline(network, Arc::new(MemoryStore::new()), clock.clone());
        chain.submit_headers(world().ledger.blocks[1..=shows].iter().map(|block| block.header).collect()).unwrap();
        let known = Arc::new(KnownSignatures::default());
        let mempool = Mempool::new(network.clone(), clock, chain.clone(), known, Options::default());
        let brain = Brain::new(options(), Memory::default(), [7; 32]);
        Self {
            brain,
            chain,
            mempool,
            monotonic: Duration::ZERO,
            fetched: Fetched::new(folder.join("snapshot")),
            peers: BTreeMap::new(),
            events: VecDeque::new(),
            endings: Vec::new(),
            blocks: BTreeSet::new(),
            dialled: Vec::new(),
            shows,
            at_once: 0,
            dies_after: usize::MAX,
            checked: 0,
        }
    }

    fn with(folder: &Path, kinds: &[Kind]) -> Self {
        let mut rig = Self::new(folder);
        for (id, kind) in (1..).zip(kinds) {
            rig.join(id, *kind, 0);
        }
        rig
    }

    fn join(&mut self, id: u64, kind: Kind, snapshot: usize) {
        self.peers.insert(id, Remote { kind, snapshot, asked: Vec::new() });
        let address = PeerAddress { host: NetAddress::V4(Ipv4Addr::new(20, id as u8, 1, 1)), port: 4_000 };
        let peer = PeerId(id);
        self.events.push_back(Event::Connected { peer, link: Link::Inbound, address, version: 1 });
        let introduction = Introduction {
            agent: "/remote/",
            network: &world().network,
            link: Link::OutboundFull,
            serves: (0, world().ledger.height()),
            snapshot: kind != Kind::Without,
            nonce: 1_000 + id,
            listen_port: 0,
            time: START,
        };
        self.says(id, Message::Hello(Box::new(introduction.hello())));
    }

    fn says(&mut self, id: u64, message: Message) {
        self.events.push_back(Event::Message { peer: PeerId(id), message });
    }

    /// Until all has been said and done, then a second more; `false` once the process has died.
    fn pass(&mut self, seconds: u64) -> bool {
        for _ in 0..seconds {
            self.events.push_back(Event::Tick);
            while let Some(event) = self.events.pop_front() {
                let now = Now { unix_seconds: START + self.monotonic.as_secs(), monotonic: self.monotonic };
                let actions = self.brain.handle(now, &self.chain, &self.mempool, event);
                self.carry_out(actions);
                if self.checked >= self.dies_after {
                    return false;
                }
            }
            self.monotonic += Duration::from_secs(1);
        }
        true
    }

    fn carry_out(&mut self, actions: Actions) {
        let asked = |action: &&Action| matches!(action, Action::Send(_, Message::GetCoins(_)));
        self.at_once = self.at_once.max(actions.iter().filter(asked).count());
        for action in actions {
            match action {
                Action::Send(PeerId(id), message) => self.hears(id, message),
                Action::Disconnect(peer, ending) => {
                    self.endings.push((peer.0, ending));
                    self.peers.remove(&peer.0);
                    self.events.push_back(Event::Disconnected { peer });
                }
                Action::Snapshot(job) => self.work(job),
                Action::Dial(dial) => self.dialled.push(dial.address),
                Action::SubmitHeaders(peer, headers) => {
                    let result = self.chain.submit_headers(headers);
                    self.events.push_back(Event::HeadersTaken { peer, result });
                }
                Action::Blame(..) => panic!("blame is settled before actions leave the brain"),
                _ => {}
            }
        }
    }

    fn work(&mut self, job: SnapshotJob) {
        let Some(news) = snapshot_job(&self.chain, &mut self.fetched, job) else { return };
        match &news {
            SnapshotNews::Checked { result, .. } => self.checked += usize::from(result.is_ok()),
            SnapshotNews::Loaded(Err(why)) | SnapshotNews::Failed(why) => panic!("{why}"),
            _ => {}
        }
        self.events.push_back(Event::Snapshot(news));
    }

    fn hears(&mut self, id: u64, message: Message) {
        let Some(remote) = self.peers.get_mut(&id) else { return };
        let (kind, (manifest, offer)) = (remote.kind, &world().snapshots[remote.snapshot]);
        let last: Header = world().ledger.blocks[self.shows].header;
        let missing = |base| Message::NotFound(vec![Reference::Snapshot(base)]);
        let answer = match message {
            Message::GetHeaders { .. } => Message::Headers(vec![last]),
            Message::GetAddresses(Serves::Snapshot) => {
                let services = services::BLOCKS | services::SNAPSHOTS;
                let record = AddressRecord { address: server(), services, serves: (0, 9), time: START as u32 };
                Message::Addresses(vec![record])
            }
            Message::Ping(nonce) => Message::Pong(nonce),
            Message::GetBlocks(hashes) => {
                self.blocks.extend(hashes);
                return;
            }
            Message::GetSnapshot => match kind {
                Kind::Without => missing(BlockHash::ZERO),
                Kind::Shallow => {
                    let (shallow, _) = &world().snapshots[2];
                    Message::Snapshot { height: shallow.base.get(), base: shallow.base_hash }
                }
                Kind::OffChain => Message::Snapshot { height: BASE, base: BlockHash::from_bytes([9; 32]) },
                Kind::OtherHeight => Message::Snapshot { height: BASE - 1, base: offer.base },
                Kind::Pushes => {
                    let range = CoinRange { base: offer.base, bucket: 0, first: 0, count: 1 };
                    Message::Coins { range, coins: vec![0; ELEMENT_BYTES] }
                }
                _ => Message::Snapshot { height: offer.height.get(), base: offer.base },
            },
            Message::GetManifest(base) => {
                assert_eq!(base, offer.base);
                match kind {
                    Kind::NoManifest => return,
                    _ => Message::Manifest(manifest_of(kind, manifest)),
                }
            }
            Message::GetCoins(range) => {
                remote.asked.push(range);
                if range.base != offer.base || kind == Kind::Fickle {
                    missing(range.base)
                } else if kind == Kind::Silent {
                    return;
                } else {
                    let coins = offer.coins(range.bucket, range.first, range.count).unwrap();
                    Message::Coins { range, coins: coins_of(kind, coins) }
                }
            }
            _ => return,
        };
        self.says(id, answer);
    }

    fn is_loaded(&self) -> bool {
        self.chain.view().snapshot().is_some()
    }

    fn offences(&self, id: u64) -> Vec<&Offence> {
        let of = self.endings.iter().filter(|(of, _)| *of == id);
        of.filter_map(|(_, ending)| if let Ending::Offence(offence) = ending { Some(offence) } else { None }).collect()
    }
}

fn options() -> BrainOptions {
    BrainOptions {
        agent: "/test/".to_owned(),
        listen_port: 1,
        allow_private: false,
        inbound_max: 100,
        upload_target: None,
        only: Vec::new(),
        manual: Vec::new(),
        external: Vec::new(),
        bootstrap: Vec::new(),
        minimum_chain_work: Work::ZERO,
        onion: false,
        download_bytes: crate::p2p::limits::DOWNLOAD_WINDOW_BYTES,
        snapshot: true,
    }
}

fn manifest_of(kind: Kind, right: &Manifest) -> Arc<[u8]> {
    let mut manifest = right.clone();
    match kind {
        Kind::NoBytes => return vec![0xff; 1_000].into(),
        Kind::OtherNetwork => manifest.genesis = BlockHash::from_bytes([1; 32]),
        Kind::OtherRoot => manifest.coins = world().snapshots[1].0.coins.clone(),
        Kind::OtherCoinbase => manifest.coinbase.coins_root = Hash256::from_bytes([1; 32]),
        Kind::OtherBase => manifest = world().snapshots[1].0.clone(),
        _ => {}
    }
    setara_core::codec::encode(&manifest).into()
}

/// Somebody who is said to serve a snapshot.
fn server() -> PeerAddress {
    PeerAddress { host: NetAddress::V4(Ipv4Addr::new(21, 1, 1, 1)), port: 4_000 }
}

/// Coins as a peer sends them; whatever needs two of them is done to buckets that have two.
fn coins_of(kind: Kind, mut coins: Vec<u8>) -> Vec<u8> {
    let two = coins.len() >= 2 * ELEMENT_BYTES;
    match kind {
        Kind::WrongCoin => coins[36] ^= 1,
        Kind::Repeats if two => coins.copy_within(..ELEMENT_BYTES, ELEMENT_BYTES),
        Kind::Disorder if two => coins[..2 * ELEMENT_BYTES].rotate_left(ELEMENT_BYTES),
        Kind::OtherBucket => coins[0] ^= 0x80,
        Kind::FromTheFuture => coins[76..80].copy_from_slice(&(BASE + 1).to_le_bytes()),
        _ => {}
    }
    coins
}

/// A new node has the coins from all peers at once, asks for no block meanwhile, and then for none below the base.
#[test]
fn a_snapshot_comes_from_all_peers_and_blocks_from_its_base_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(folder.path(), &[Kind::Honest, Kind::Without, Kind::Honest, Kind::Honest]);
    for _ in 0..30 {
        if rig.is_loaded() {
            break;
        }
        assert!(rig.blocks.is_empty(), "no block is asked for before it is known which");
        rig.pass(1);
    }
    assert!(rig.is_loaded());
    assert_eq!(rig.chain.view().tip.height(), height(BASE));
    let full = (0..=u8::MAX).filter(|bucket| world().snapshots[0].0.bucket_count(*bucket) > 0).count();
    let asked: Vec<usize> = rig.peers.values().map(|remote| remote.asked.len()).collect();
    assert_eq!(asked.iter().sum::<usize>(), full, "each bucket once");
    assert!(asked[0] > full / 5 && asked[1] == 0 && asked[2] > full / 5 && asked[3] > full / 5, "{asked:?}");
    rig.pass(10);
    let below: BTreeSet<BlockHash> =
        world().ledger.blocks[..=BASE as usize].iter().map(setara_core::block::Block::hash).collect();
    assert!(!rig.blocks.is_empty() && rig.blocks.is_disjoint(&below));
    assert!(rig.endings.is_empty(), "{:?}", rig.endings);
    assert!(!folder.path().join("snapshot").exists(), "nothing is left behind");
}

/// ST15. Whoever lies is named by its lie and leaves; the honest one stays, and what it has is what the chain begins with.
#[test]
fn st15_every_lying_peer_is_blamed_and_another_asked() {
    for (kind, code) in [
        (Kind::WrongCoin, "wrong-coins"),
        (Kind::Repeats, "repeated"),
        (Kind::Disorder, "order"),
        (Kind::OtherBucket, "other-bucket"),
        (Kind::FromTheFuture, "bad-coin"),
        (Kind::OtherRoot, "wrong-root"),
        (Kind::OtherCoinbase, "coinbase-branch"),
        (Kind::NoBytes, "manifest-undecodable"),
        (Kind::OtherNetwork, "wrong-network"),
        (Kind::OtherHeight, "another height"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // The liar is asked first; the honest one comes when it has lied, or holds the other half.
        let mut rig = Rig::with(folder.path(), &[kind]);
        rig.pass(5);
        rig.join(2, Kind::Honest, 0);
        rig.pass(100);
        assert_eq!(rig.offences(1), [&Offence::BadSnapshot(code)], "{kind:?}");
        assert!(rig.offences(2).is_empty() && rig.peers.contains_key(&2), "{kind:?}: {:?}", rig.endings);
        assert!(rig.is_loaded(), "{kind:?}");
        assert_eq!(rig.chain.view().tip.coins_root, world().snapshots[0].0.coinbase.coins_root, "{kind:?}");
    }
    assert_eq!(Offence::BadSnapshot("order").penalty(), penalty::Penalty::Discourage);
}

/// What may be honest costs nothing but time: another branch, a base that is not deep enough here, another base.
#[test]
fn st15_what_may_be_honest_is_not_blamed() {
    for kind in [Kind::Shallow, Kind::OffChain, Kind::OtherBase, Kind::Fickle, Kind::Without] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::with(folder.path(), &[kind, Kind::Honest]);
        rig.pass(100);
        assert!(rig.is_loaded(), "{kind:?}");
        assert!(rig.offences(1).is_empty(), "{kind:?}: {:?}", rig.endings);
        assert_eq!(rig.chain.view().tip.height(), height(BASE), "{kind:?}");
    }
}

/// Coins that nobody asked for end the connection.
#[test]
fn coins_that_nobody_asked_for_are_blamed() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(folder.path(), &[Kind::Pushes, Kind::Honest]);
    rig.pass(20);
    assert_eq!(rig.offences(1), [&Offence::UnwantedSnapshot]);
    assert!(rig.is_loaded());
}

/// Peers that send nothing lose their place, and what they were asked for comes from another.
#[test]
fn a_peer_that_sends_nothing_is_left() {
    for kind in [Kind::Silent, Kind::NoManifest] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::with(folder.path(), &[kind, Kind::Honest]);
        rig.pass(150);
        assert!(rig.is_loaded(), "{kind:?}");
        let stalled = rig.endings.iter().any(|(id, ending)| (*id, ending) == (1, &Ending::Stalling("snapshot")));
        // By then the other had sent all, if the silent one held some buckets only.
        assert!(stalled || kind == Kind::Silent, "{kind:?}: {:?}", rig.endings);
    }
    // Alone, it is left as well, and nobody else is there.
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(folder.path(), &[Kind::Silent]);
    rig.pass(90);
    assert_eq!(rig.endings, [(1, Ending::Stalling("snapshot"))]);
}

/// Nobody connected serves a snapshot, so somebody is looked for who does; after two minutes every block is fetched, from the first on.
#[test]
fn without_any_server_every_block_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(folder.path(), &[Kind::Without, Kind::Shallow]);
    rig.pass(115);
    assert!(rig.blocks.is_empty());
    assert!(rig.dialled.contains(&server()), "peers were asked who serves one, and named it");
    rig.pass(15);
    assert!(rig.blocks.contains(&world().ledger.blocks[1].hash()));
    assert!(!rig.is_loaded() && rig.endings.is_empty());
}

/// A node that died amid the fetch asks for nothing that it has; a bucket that was damaged meanwhile is fetched again.
#[test]
fn a_fetch_goes_on_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(folder.path(), &[Kind::Honest]);
    rig.dies_after = 10;
    assert!(!rig.pass(60));
    drop(rig);
    let here: BTreeSet<String> = std::fs::read_dir(folder.path().join("snapshot"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".coins"))
        .collect();
    assert_eq!(here.len(), 10);
    let damaged = here.first().unwrap();
    let path = folder.path().join("snapshot").join(damaged);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let mut rig = Rig::with(folder.path(), &[Kind::Honest]);
    rig.pass(30);
    assert!(rig.is_loaded());
    let asked: Vec<String> = rig.peers[&1].asked.iter().map(|range| format!("{:03}.coins", range.bucket)).collect();
    assert!(asked.contains(damaged));
    assert!(asked.iter().all(|bucket| bucket == damaged || !here.contains(bucket)), "{asked:?}");
}

/// The server makes another snapshot amid the fetch: that one is fetched instead.
#[test]
fn a_snapshot_that_nobody_serves_any_longer_is_given_up_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(folder.path(), &[Kind::Honest]);
    rig.dies_after = 10;
    assert!(!rig.pass(60));
    rig.dies_after = usize::MAX;
    rig.peers.get_mut(&1).unwrap().snapshot = 1;
    for _ in 0..200 {
        if rig.is_loaded() {
            break;
        }
        rig.pass(1);
    }
    assert!(rig.is_loaded());
    assert_eq!(rig.chain.view().tip.height(), height(BASE + 1));
    assert!(rig.endings.is_empty(), "{:?}", rig.endings);
}

/// Pieces under way are as many as there is memory for.
#[test]
fn no_more_is_asked_for_than_there_is_memory_for() {
    for (pieces, most) in [(0, 1), (3, 3), (1_000, 2 * SNAPSHOT_PER_PEER)] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::with(folder.path(), &[Kind::Honest, Kind::Honest]);
        rig.brain = Brain::new(
            BrainOptions { download_bytes: pieces * SNAPSHOT_PIECE_BYTES, ..options() },
            Memory::default(),
            [7; 32],
        );
        rig.pass(60);
        assert!(rig.is_loaded());
        assert_eq!(rig.at_once, most, "{pieces}");
    }
}

/// A chain that is here already, or is so short that no snapshot of it can be had, is not begun anew.
#[test]
fn a_chain_that_is_here_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(folder.path(), &[Kind::Honest]);
    for block in &world().ledger.blocks[1..=BASE as usize + 3] {
        rig.chain.submit(block.clone()).unwrap();
    }
    rig.pass(5);
    assert!(!rig.is_loaded() && rig.checked == 0);
    assert!(rig.blocks.contains(&world().ledger.blocks[BASE as usize + 4].hash()));
    assert!(!SnapshotFetch::new(false, 0).is_busy());
}

/// The first peers may be as new as this node: a chain too short for a snapshot is believed after a while only.
#[test]
fn a_short_chain_is_not_believed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::behind(folder.path(), 100);
    rig.join(1, Kind::Without, 0);
    rig.pass(15);
    assert!(rig.blocks.is_empty());
    let more = world().ledger.blocks[101..].iter().map(|block| block.header).collect();
    rig.chain.submit_headers(more).unwrap();
    rig.shows = world().ledger.height() as usize;
    rig.join(2, Kind::Honest, 0);
    rig.pass(30);
    assert!(rig.is_loaded());
    let mut rig = Rig::behind(folder.path(), 100);
    rig.join(1, Kind::Without, 0);
    rig.pass(30);
    assert!(rig.blocks.contains(&world().ledger.blocks[1].hash()));
}
