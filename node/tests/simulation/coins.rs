//! What a simulated node has to do with snapshots: it serves one, rightly or not, or begins with one. Brain, disk and
//! chains are the real ones; what threads do in a running node is done here between two events.

use rand::RngExt;
use rand::rngs::StdRng;
use setara_core::hash::{BlockHash, Hash256};
use setara_core::lattice::ELEMENT_BYTES;
use setara_core::pow::Work;
use setara_core::snapshot::Manifest;
use setara_node::chain::ChainHandle;
use setara_node::clock::ManualClock;
use setara_node::p2p::brain::interface::Event;
use setara_node::p2p::brain::snapshots::{SnapshotJob, SnapshotNews};
use setara_node::p2p::brain::sync::is_syncing;
use setara_node::p2p::message::{Message, Reference};
use setara_node::p2p::shell::work::snapshot_job;
use setara_node::snapshot::Fetched;
use setara_node::snapshot::history::Verification;
use setara_node::snapshot::serve::{Keeper, Shelf};
use setara_node::store::schema::SnapshotStage;
use setara_node::store::{MemoryStore, Store};
use setara_node::testing;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// How a server lies of its snapshot; in everything else it is honest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// One coin of each piece is worth more.
    WrongCoins,
    /// The last coin of each piece is missing.
    Truncated,
    /// A coin too many follows each piece.
    TooLong,
    /// Each piece comes again and again.
    Endless,
    /// What it said it has it has not.
    NotFound,
    /// No coin ever comes.
    Silent,
    /// The manifest is of other coins.
    OtherCoins,
    /// Bytes that are no manifest.
    NoManifest,
    /// A block at another height.
    OtherHeight,
    /// Its base is a block that nobody knows.
    OffChain,
    /// Its base is not deep enough.
    Shallow,
}

/// Of the manifest and the base.
pub const OF_MANIFEST: [Lie; 5] = [Lie::OtherCoins, Lie::NoManifest, Lie::OtherHeight, Lie::OffChain, Lie::Shallow];
/// Of the coins.
pub const OF_COINS: [Lie; 6] =
    [Lie::WrongCoins, Lie::Truncated, Lie::TooLong, Lie::Endless, Lie::NotFound, Lie::Silent];

impl Lie {
    /// Whether no honest node would ever say this.
    pub const fn is_plain(self) -> bool {
        !matches!(self, Self::NotFound | Self::Silent | Self::OffChain | Self::Shallow)
    }

    /// What it sends in place of a message: frames, or `None` if the message is none that it lies about.
    fn instead(self, message: &Message, chain: &ChainHandle) -> Option<Vec<Vec<u8>>> {
        let one = |message: Message| Some(vec![message.encode()]);
        match message {
            Message::Coins { range, coins } => {
                let mut coins = coins.clone();
                let frame = message.encode();
                match self {
                    Self::WrongCoins => {
                        coins[36] ^= 1;
                        one(Message::Coins { range: *range, coins })
                    }
                    Self::Truncated => Some(vec![frame[..frame.len() - ELEMENT_BYTES].to_vec()]),
                    Self::TooLong => Some(vec![[&frame[..], &coins[..ELEMENT_BYTES]].concat()]),
                    Self::Endless => Some(vec![frame; 20]),
                    Self::NotFound => one(Message::NotFound(vec![Reference::Snapshot(range.base)])),
                    Self::Silent => Some(Vec::new()),
                    _ => None,
                }
            }
            Message::Manifest(bytes) => match self {
                Self::OtherCoins => {
                    let mut manifest = Manifest::decode(bytes).expect("its own");
                    manifest.coinbase.coins_root = Hash256::from_bytes([1; 32]);
                    one(Message::Manifest(setara_core::codec::encode(&manifest).into()))
                }
                Self::NoManifest => one(Message::Manifest(vec![0xff; 1_000].into())),
                _ => None,
            },
            Message::Snapshot { height, base } => match self {
                Self::OtherHeight => one(Message::Snapshot { height: height - 1, base: *base }),
                Self::OffChain => one(Message::Snapshot { height: *height, base: BlockHash::from_bytes([9; 32]) }),
                Self::Shallow => {
                    let tip = chain.view().info();
                    one(Message::Snapshot { height: tip.height.get(), base: tip.hash })
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// What a node wants.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// Serves one, from this moment on.
    Serves { from: Duration, lie: Option<Lie> },
    /// Begins with one.
    Begins,
}

/// A node's snapshots: its folder outlives its lives.
pub struct Coins {
    role: Role,
    folder: TempDir,
    fetched: Option<Fetched>,
    keeper: Option<(Keeper, Shelf)>,
    offered: Option<BlockHash>,
    verification: Option<Verification>,
    history: MemoryStore,
    /// Buckets that were found right, in all lives.
    pub right: usize,
    /// Lies told since this was last set to nothing.
    pub told: usize,
}

impl Coins {
    pub fn new(role: Role) -> Self {
        Self {
            role,
            folder: tempfile::tempdir().expect("a folder"),
            fetched: None,
            keeper: None,
            offered: None,
            verification: None,
            history: MemoryStore::new(),
            right: 0,
            told: 0,
        }
    }

    pub const fn begins(&self) -> bool {
        matches!(self.role, Role::Begins)
    }

    pub const fn lie(&self) -> Option<Lie> {
        match self.role {
            Role::Serves { lie, .. } => lie,
            Role::Begins => None,
        }
    }

    fn fetched_folder(&self) -> PathBuf {
        self.folder.path().join("snapshot")
    }

    /// Buckets that lie on its disk.
    pub fn buckets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.fetched_folder()).into_iter().flatten().flatten();
        let coins = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "coins");
        let mut buckets: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(coins).collect();
        buckets.sort();
        buckets
    }

    /// The node starts.
    pub fn start(&mut self, chain: &ChainHandle) {
        match self.role {
            Role::Serves { .. } => {
                let shelf = Shelf::default();
                let is_behind = Box::new(|chain: &ChainHandle| is_syncing(chain, Work::ZERO));
                let keeper = Keeper::new(chain.clone(), self.folder.path(), shelf.clone(), is_behind);
                keeper.begin(&|| false);
                self.keeper = Some((keeper, shelf));
            }
            Role::Begins => self.fetched = Some(Fetched::new(self.fetched_folder())),
        }
    }

    /// The node loses power: the last bucket that was written may be damaged, and what the second chain did not sync gone.
    pub fn crash(&mut self, chain: &ChainHandle, rng: &mut StdRng) {
        (self.fetched, self.keeper, self.offered) = (None, None, None);
        if let Some(verification) = self.verification.take() {
            verification.end(chain);
        }
        self.history = self.history.crash(rng.random_range(0..4));
        if let Some(path) = self.buckets().last() {
            let mut bytes = std::fs::read(path).expect("a bucket");
            bytes[40] ^= 1;
            std::fs::write(path, bytes).expect("a bucket");
        }
    }

    /// What its threads do now and then; what the brain is told of it.
    pub fn tick(&mut self, chain: &ChainHandle, clock: &Arc<ManualClock>, now: Duration) -> Option<Event> {
        match (&self.role, &mut self.keeper) {
            (Role::Serves { from, .. }, Some((keeper, shelf))) if now >= *from => {
                keeper.look(&|| false);
                let offer = shelf.offer();
                let base = offer.as_ref().map(|offer| offer.base);
                (std::mem::replace(&mut self.offered, base) != base).then_some(Event::SnapshotOffered(offer))
            }
            (Role::Begins, _) => {
                self.verify(chain, clock);
                None
            }
            _ => None,
        }
    }

    fn verify(&mut self, chain: &ChainHandle, clock: &Arc<ManualClock>) {
        if self.verification.is_none() {
            let stage = chain.view().snapshot().map(|row| row.stage);
            if stage != Some(SnapshotStage::Unverified) {
                return;
            }
            let (store, network, clock) = (self.history.clone(), chain.network().clone(), clock.clone());
            let open = move || {
                let store: Arc<dyn Store> = Arc::new(store.clone());
                Ok((store.clone(), testing::inline(&network, store, clock.clone())))
            };
            self.verification = Verification::begin(chain, &open, &|| false).expect("headers that are known");
        }
        let Some(verification) = self.verification.take() else { return };
        match verification.look().expect("a sound store") {
            Some(outcome) => _ = verification.finish(chain, outcome),
            None => self.verification = Some(verification),
        }
    }

    /// Does what the brain wants done.
    pub fn work(&mut self, chain: &ChainHandle, job: SnapshotJob) -> Option<SnapshotNews> {
        let news = snapshot_job(chain, self.fetched.as_mut()?, job);
        if let Some(SnapshotNews::Checked { result: Ok(()), .. }) = &news {
            self.right += 1;
        }
        news
    }

    /// What it sends in place of a message, if it lies.
    pub fn instead(&mut self, message: &Message, chain: &ChainHandle) -> Option<Vec<Vec<u8>>> {
        let frames = self.lie()?.instead(message, chain)?;
        self.told += 1;
        Some(frames)
    }
}
