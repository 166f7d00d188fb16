//! The brain: decides everything about peers. No sockets, no clock, no threads.
//!
//! ```text
//!  Event ──► Brain ──► peer.rs      greeting, pings, who may stay
//!                  ├─► sync         headers; presync of those with little work
//!                  ├─► download     bodies from all peers at once
//!                  ├─► blocks       new blocks, compact
//!                  ├─► relay        transactions: requests, orphans, rejects
//!                  ├─► snapshots    coins of a day ago: given to others, and taken from them
//!                  ├─► addresses    who else is there; outbound: whom to dial; eviction; bans
//!                  └─► penalty      what follows from what a peer did
//!            ◄── Action
//! ```
//!
//! Each part keeps its own state per peer, made when the peer is ready and dropped when it is gone. No part changes
//! another peer's state for what one peer did.

pub mod addresses;
pub mod bans;
pub mod blocks;
pub mod compact;
pub mod download;
mod events;
pub mod eviction;
mod gossip;
pub mod greeting;
pub mod history;
pub mod interface;
pub mod orphans;
pub mod outbound;
pub mod peer;
pub mod penalty;
pub mod presync;
pub mod private;
pub mod rejects;
pub mod relay;
pub mod requests;
pub mod snapshots;
pub mod sync;

#[cfg(test)]
mod tests;

use crate::chain::{ChainHandle, Now};
use crate::mempool::Mempool;
use crate::p2p::message::PeerAddress;
use addresses::{AddressPeer, Addresses};
use bans::Bans;
use blocks::BlockRelay;
use download::Download;
use history::{HISTORY_PART, HistoryDownload};
use interface::{Actions, Desk, Event, PeerId};
use outbound::{Added, Outbound, OutboundConfig};
use peer::Peer;
use private::PrivateBroadcast;
use rand::SeedableRng;
use rand::rngs::StdRng;
use relay::TransactionRelay;
use setara_core::hash::BlockHash;
use setara_core::pow::Work;
use snapshots::{SnapshotFetch, SnapshotServing};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use sync::{HeaderSync, SyncOptions};

/// Time between two savings of what is known of addresses.
const SAVE_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Nonces of own greetings remembered, to know oneself: more than connections can be under way.
const NONCES_MAX: usize = 256;

/// What the brain is told once.
#[derive(Debug, Clone)]
pub struct BrainOptions {
    /// Software and version, as others see it.
    pub agent: String,
    /// Where this node listens, or 0.
    pub listen_port: u16,
    /// Loopback and private addresses count as any others.
    pub allow_private: bool,
    /// Incoming connections at most.
    pub inbound_max: usize,
    /// Dial these and nobody else.
    pub only: Vec<PeerAddress>,
    /// Dial these always, besides others.
    pub manual: Vec<Added>,
    /// Where others reach this node: told to them.
    pub external: Vec<PeerAddress>,
    /// Of the genesis file: asked when few addresses are known.
    pub bootstrap: Vec<PeerAddress>,
    /// Headers with less work are not stored.
    pub minimum_chain_work: Work,
    /// Bytes that are to be sent in a day; `None` for as many as are asked for.
    pub upload_target: Option<u64>,
    /// Whether dials go through a proxy: then onion addresses can be reached.
    pub onion: bool,
    /// Whether a new chain is to begin with a snapshot of the coins.
    pub snapshot: bool,
    /// Bytes of bodies asked for or waiting for the chain, at most.
    pub download_bytes: u64,
}

/// What earlier runs left, as bytes of files.
#[derive(Debug, Default)]
pub struct Memory {
    /// Addresses.
    pub addresses: Option<Vec<u8>>,
    /// Whom to dial first.
    pub anchors: Option<Vec<u8>>,
    /// Bans.
    pub bans: Option<Vec<u8>>,
}

/// The brain.
pub struct Brain {
    rng: StdRng,
    parts: Parts,
}

impl Brain {
    /// With what earlier runs left, and a seed for all its randomness.
    pub fn new(options: BrainOptions, memory: Memory, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let parts = Parts::new(options, memory, &mut rng);
        Self { rng, parts }
    }

    /// Takes an event; what follows from it.
    pub fn handle(&mut self, now: Now, chain: &ChainHandle, mempool: &Mempool, event: Event) -> Actions {
        let mut actions = Actions::new();
        let desk = &mut Desk { now, rng: &mut self.rng, chain, mempool, actions: &mut actions };
        self.parts.handle(desk, event);
        self.parts.settle(now, actions)
    }

    /// Addresses known, as bytes of a file.
    pub fn addresses(&self) -> Vec<u8> {
        self.parts.addresses.to_bytes()
    }

    /// Bans, as bytes of a file.
    pub fn bans(&self) -> Vec<u8> {
        self.parts.bans.to_bytes()
    }

    /// Whom to dial first after a restart, as bytes of a file; `None` if there is nobody to.
    pub fn anchors(&self) -> Option<Vec<u8>> {
        let anchors = Outbound::anchors(&self.parts.connections());
        (!anchors.is_empty()).then(|| addresses::anchors_to_bytes(&anchors))
    }

    /// Answers a question of the operator, which may decide things as well.
    pub fn answer<T>(
        &mut self,
        now: Now,
        chain: &ChainHandle,
        mempool: &Mempool,
        question: impl FnOnce(&mut Parts, &mut Desk<'_>) -> T,
    ) -> (T, Actions) {
        let mut actions = Actions::new();
        let desk = &mut Desk { now, rng: &mut self.rng, chain, mempool, actions: &mut actions };
        let answer = question(&mut self.parts, desk);
        (answer, self.parts.settle(now, actions))
    }

    /// The parts, to read.
    pub const fn parts(&self) -> &Parts {
        &self.parts
    }
}

/// Everything but the randomness.
pub struct Parts {
    options: BrainOptions,
    peers: BTreeMap<PeerId, Peer>,
    /// What each peer may still say about addresses.
    gossip: BTreeMap<PeerId, AddressPeer>,
    nonces: BTreeSet<u64>,
    /// Addresses known.
    pub addresses: Addresses,
    /// Bans and discouragement.
    pub bans: Bans,
    /// Whom to dial.
    pub outbound: Outbound,
    /// Headers.
    pub sync: HeaderSync,
    /// Bodies.
    pub download: Download,
    /// Bodies behind a snapshot.
    pub history: HistoryDownload,
    /// The snapshot that others may have.
    serving: SnapshotServing,
    /// The snapshot that the chain is to begin with.
    fetch: SnapshotFetch,
    /// Transactions.
    pub relay: TransactionRelay,
    /// New blocks.
    pub blocks: BlockRelay,
    /// Own transactions that are sent without a trace.
    pub private: PrivateBroadcast,
    /// When the tip last moved.
    tip_at: Duration,
    /// The lowest missing body of the best headers, and since when it is missing.
    awaited: Option<(BlockHash, Duration)>,
    /// Whether the node was ever not behind, with peers.
    caught_up: bool,
    /// When addresses are saved next.
    next_save: Duration,
    /// When progress is told next.
    next_progress: Duration,
    /// When this node's own addresses are told next.
    next_own: Option<Duration>,
    /// Where the router forwards from.
    mapped: Option<PeerAddress>,
    /// When everybody is next asked who serves what nobody connected does; `None` while nothing of the kind is missing.
    next_find: Option<Duration>,
    warned_of_clock: bool,
}

impl Parts {
    fn new(options: BrainOptions, memory: Memory, rng: &mut StdRng) -> Self {
        let restore = |bytes: &[u8]| Addresses::from_bytes(bytes, options.allow_private);
        let anew = |what: &str, error: addresses::SavedError| {
            tracing::warn!(%error, "{what} cannot be used; beginning anew");
        };
        let addresses = memory
            .addresses
            .as_deref()
            .map(restore)
            .and_then(|read| read.inspect_err(|error| anew("peers.dat", *error)).ok());
        let addresses = addresses.unwrap_or_else(|| Addresses::new(options.allow_private, rng));
        let anchors = memory
            .anchors
            .as_deref()
            .map(addresses::anchors_from_bytes)
            .and_then(|read| read.inspect_err(|error| anew("anchors.dat", *error)).ok());
        let bans = memory
            .bans
            .as_deref()
            .map(|bytes| Bans::from_bytes(bytes, 0))
            .and_then(|read| read.inspect_err(|error| anew("bans.dat", *error)).ok());
        let config = OutboundConfig {
            connect: options.only.clone(),
            manual: options.manual.clone(),
            bootstrap: options.bootstrap.clone(),
            onion: options.onion,
        };
        let mut outbound = Outbound::new(config, anchors.unwrap_or_default());
        options.external.iter().for_each(|own| outbound.learn_own(*own));
        Self {
            peers: BTreeMap::new(),
            gossip: BTreeMap::new(),
            nonces: BTreeSet::new(),
            addresses,
            bans: bans.unwrap_or_default(),
            outbound,
            sync: HeaderSync::new(SyncOptions { minimum_chain_work: options.minimum_chain_work }),
            download: Download::new(options.download_bytes),
            history: HistoryDownload::new(options.download_bytes / HISTORY_PART),
            serving: SnapshotServing::default(),
            fetch: SnapshotFetch::new(options.snapshot, options.download_bytes),
            relay: TransactionRelay::new(rng),
            blocks: BlockRelay::new(options.upload_target),
            private: PrivateBroadcast::default(),
            tip_at: Duration::ZERO,
            awaited: None,
            caught_up: false,
            next_save: SAVE_INTERVAL,
            next_progress: Duration::ZERO,
            next_own: None,
            mapped: None,
            next_find: None,
            warned_of_clock: false,
            options,
        }
    }

    /// What the brain was told.
    pub const fn options(&self) -> &BrainOptions {
        &self.options
    }

    /// Everyone connected.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    fn handle(&mut self, desk: &mut Desk<'_>, event: Event) {
        match event {
            Event::Connected { peer, link, address, version } => self.connected(desk, peer, link, address, version),
            Event::DialFailed { address, ourselves, .. } => {
                if ourselves {
                    self.outbound.learn_own(address);
                }
                self.private.gone(&address);
                self.outbound.failed(&address, desk.now, desk.rng);
            }
            Event::Disconnected { peer } => self.disconnected(desk, peer),
            Event::Message { peer, message } => self.message(desk, peer, message),
            Event::Garbage { peer, offence } => desk.blame(peer, offence),
            Event::Served { peer } => self.blocks.sent(desk, peer),
            Event::TransactionsSent { peer } => self.relay.sent(desk, peer),
            Event::HeadersTaken { peer, result } => self.headers_taken(desk, peer, &result),
            Event::BlockTaken { peer, hash, result } => self.block_taken(desk, peer, hash, &result),
            Event::HistoryTaken { peer, hash, result } => self.history.on_block_taken(desk, peer, hash, &result),
            Event::SnapshotOffered(offer) => self.serving.set_offer(offer),
            Event::SnapshotSent { peer } => self.serving.sent(desk, &mut self.blocks, peer),
            Event::Snapshot(news) => {
                self.fetch.on_news(desk, news);
                self.download.set_paused(self.fetch.is_busy());
            }
            Event::TransactionsTaken(verdicts) => self.transactions_taken(desk, verdicts),
            Event::TipChanged => self.tip_changed(desk),
            Event::MempoolGrew(transactions) => {
                self.private.heard(transactions.iter().map(|(wtxid, _)| *wtxid));
                self.relay.on_mempool_grew(desk, &transactions);
            }
            Event::Sent(bytes) => self.blocks.note_sent(desk, bytes),
            Event::Mapped(address) => self.mapped(address),
            Event::Tick => self.tick(desk),
        }
    }
}
