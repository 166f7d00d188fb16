//! One connection as the brain sees it, from its first byte to its last.
//!
//! ```text
//! Connected ──Hello sent──► Greeting ──their Hello──► Ready ──► (feeler, address fetch: done)
//!     │                        │ 10 s                   │ 3 min of silence, an offence, eviction, the operator
//!     └────────────────────────┴───────────────────────►Closing ──Disconnected──► gone
//! ```

use super::interface::{Link, PeerId};
use crate::p2p::message::{Hello, PeerAddress, services};
use setara_core::hash::BlockHash;
use std::collections::BTreeMap;
use std::time::Duration;

/// A block that a peer was asked for is not asked of it again for so long (two spacings); by then the download has left a
/// peer that sends nothing, and whoever asks once more has a reason.
const ASKED_FOR: Duration = Duration::from_secs(120);

/// A peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name.
    pub id: PeerId,
    /// Why the connection exists.
    pub link: Link,
    /// The other end.
    pub address: PeerAddress,
    /// The version that both sides speak.
    pub version: u16,
    /// When the connection was made, monotonic.
    pub since: Duration,
    /// When it was made, Unix seconds.
    pub since_unix: u64,
    /// What it said of itself; `None` while greeting.
    pub hello: Option<Box<Hello>>,
    /// The nonce of our `Hello` to it.
    pub nonce: u64,
    /// It is being ended: nothing it says counts any more.
    pub closing: bool,
    /// When it last said anything.
    pub heard: Duration,
    /// The ping that waits for its answer, and when it was sent.
    pub ping: Option<(u64, Duration)>,
    /// When the next ping is due.
    pub next_ping: Duration,
    /// The last answer took so long.
    pub latency: Option<Duration>,
    /// The shortest time an answer took.
    pub latency_min: Option<Duration>,
    /// When it last brought a block that was new and valid.
    pub last_block: Option<Duration>,
    /// When it last brought a transaction that was new and valid.
    pub last_transaction: Option<Duration>,
    /// Seconds that its clock is ahead of ours, as it said.
    pub time_offset: i64,
    /// It was asked for addresses.
    pub asked_addresses: bool,
    /// It broke a rule.
    pub blamed: bool,
    /// It was sent the genesis file.
    pub genesis_sent: bool,
    /// Blocks that it was asked for and has not answered, and since when.
    asked_blocks: BTreeMap<BlockHash, Duration>,
}

impl Peer {
    /// Just connected.
    pub const fn new(id: PeerId, link: Link, address: PeerAddress, version: u16, now: crate::chain::Now) -> Self {
        Self {
            id,
            link,
            address,
            version,
            since: now.monotonic,
            since_unix: now.unix_seconds,
            hello: None,
            nonce: 0,
            closing: false,
            heard: now.monotonic,
            ping: None,
            next_ping: now.monotonic,
            latency: None,
            latency_min: None,
            last_block: None,
            last_transaction: None,
            time_offset: 0,
            asked_addresses: false,
            blamed: false,
            genesis_sent: false,
            asked_blocks: BTreeMap::new(),
        }
    }

    /// Of blocks that are to be asked of it, those that it is not asked for already: the download and the relay of new
    /// blocks may want the same one, and both take the answer.
    pub fn ask_blocks(&mut self, mut hashes: Vec<BlockHash>, now: Duration) -> Vec<BlockHash> {
        self.asked_blocks.retain(|_, since| now.saturating_sub(*since) < ASKED_FOR);
        hashes.retain(|hash| !self.asked_blocks.contains_key(hash));
        self.asked_blocks.extend(hashes.iter().map(|hash| (*hash, now)));
        hashes
    }

    /// It sent a block, or said that it has none.
    pub fn answered_block(&mut self, hash: &BlockHash) {
        self.asked_blocks.remove(hash);
    }

    /// Whether both have greeted and nobody is leaving.
    pub const fn is_ready(&self) -> bool {
        self.hello.is_some() && !self.closing
    }

    /// Its services, none while greeting.
    pub fn services(&self) -> u64 {
        self.hello.as_ref().map_or(0, |hello| hello.services)
    }

    /// Whether transactions go both ways.
    pub fn relays_transactions(&self) -> bool {
        let wants = |hello: &Hello| hello.relay && hello.services & services::TRANSACTIONS != 0;
        self.link.relays_transactions() && self.hello.as_deref().is_some_and(wants)
    }

    /// Heights of which it says it has bodies. A claim: it decides only whom to ask.
    pub fn serves(&self) -> (u32, u32) {
        self.hello.as_ref().map_or((0, 0), |hello| hello.serves)
    }

    /// Takes the answer to a ping; whether one was asked like that.
    pub fn pong(&mut self, nonce: u64, now: Duration) -> bool {
        match self.ping {
            Some((asked, sent)) if asked == nonce => {
                let latency = now.saturating_sub(sent);
                self.latency = Some(latency);
                self.latency_min = Some(self.latency_min.map_or(latency, |least| least.min(latency)));
                self.ping = None;
                true
            }
            _ => false,
        }
    }
}
