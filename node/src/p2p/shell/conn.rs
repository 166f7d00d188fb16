//! One connection: greets, then moves frames both ways until either side ends it.
//!
//! Reading and writing go on side by side: two peers that send each other a block must both be reading. A reader waits
//! when the brain has too much to do, when it has not yet seen the peer's last few messages, and when the peer does not
//! take what is queued for it: before every message, not only before every read. One that talks much is heard slowly.

use super::chatter::Chatter;
use super::frames::Received;
use super::noise::{Handshake, HandshakeError, Role, Session, SessionError, StaticKey};
use super::outbox::{FAREWELL, Item, Outbox, SEND_STUCK};
use super::stats::Stats;
use crate::chain::{ChainHandle, View};
use crate::clock::Clock;
use crate::p2p::brain::interface::{Ending, Event, PeerId};
use crate::p2p::brain::penalty::Offence;
use crate::p2p::brain::snapshots::SnapshotPart;
use crate::p2p::limits::NOISE_TIMEOUT;
use crate::p2p::message::{BlockTransactions, CompactBlock, Message, Reference, kind};
use crate::snapshot::Offer;
use crate::store::StoreError;
use parking_lot::Mutex;
use setara_core::block::Block;
use setara_core::hash::BlockHash;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

/// Bytes read from a socket at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes gathered before they are written, so that small frames share a packet.
const WRITE_BYTES: usize = 64 << 10;
/// Bytes of messages decoded but not yet seen by the brain, all peers together, as a part of those of the bodies that may be
/// on their way: 48 MiB of 64, a few of the largest blocks.
const INBOUND_PARTS: (u64, u64) = (3, 4);
/// Messages of one peer that the brain has not seen: each may be answered with a hundred kilobytes before anyone notices that
/// the peer takes nothing; fewer would make the peer wait for the brain's turn too often.
const UNSEEN_MAX: usize = 8;
/// Bytes of an answer with parts of a block, at the most: a frame's length has 24 bits, and parts carry lengths.
const PARTS_BYTES_MAX: usize = 16_000_000;
/// Frames of unknown kinds that a connection may send; later versions announce new kinds by service bits instead.
const UNKNOWN_FRAMES_MAX: u32 = 1_000;

/// Why a connection was never ready.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// The socket failed or was closed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side is not one of us.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    /// It took too long.
    #[error("no handshake within {} s", NOISE_TIMEOUT.as_secs())]
    Timeout,
    /// The peer has not the key that it should.
    #[error("it has another key than the invite names")]
    WrongKey,
}

/// What a handshake leads to.
pub struct Greeted {
    /// Encrypts and decrypts.
    pub session: Session,
    /// Bytes that came behind the handshake.
    pub rest: Vec<u8>,
}

/// Preamble and Noise handshake over a socket, within the time for both.
pub async fn greet(
    stream: &mut TcpStream,
    mut handshake: Handshake,
    expected: Option<[u8; 32]>,
) -> Result<Greeted, GreetError> {
    let greeting = async {
        let mut input: Vec<u8> = Vec::new();
        loop {
            let step = handshake.step(&input);
            let progress = match step {
                Ok(progress) => progress,
                Err(error) => {
                    // The other side is told as much as we are, if it listens.
                    let farewell = handshake.take_farewell();
                    if !farewell.is_empty() {
                        let _ = stream.write_all(&farewell).await;
                        let _ = stream.shutdown().await;
                    }
                    return Err(error.into());
                }
            };
            input.drain(..progress.consumed);
            if !progress.output.is_empty() {
                stream.write_all(&progress.output).await?;
            }
            if let Some(session) = progress.done {
                if expected.is_some_and(|key| key != session.remote_key()) {
                    return Err(GreetError::WrongKey);
                }
                return Ok(Greeted { session, rest: input });
            }
            // The handshake bounds what it takes, so what is read here is bounded as well.
            let mut bytes = [0; 1_024];
            let read = stream.read(&mut bytes[..1_024 - input.len().min(1_023)]).await?;
            if read == 0 {
                return Err(handshake.closed().into());
            }
            input.extend_from_slice(&bytes[..read]);
        }
    };
    timeout(NOISE_TIMEOUT, greeting).await.map_err(|_| GreetError::Timeout)?
}

/// A handshake of this node.
pub fn handshake(role: Role, key: &StaticKey, chain: &ChainHandle) -> Handshake {
    Handshake::new(role, key, chain.network().genesis_hash(), chain.network().max_block_bytes)
}

/// An event and the memory that it holds until the brain has seen it.
pub struct Inbound {
    /// What happened.
    pub event: Event,
    /// Returned when this is dropped: memory, and a turn of its sender's.
    pub permits: Option<[OwnedSemaphorePermit; 2]>,
}

/// KiB that are free, of so many.
#[derive(Clone)]
pub struct Room {
    free: Arc<Semaphore>,
    kib: u32,
}

impl Room {
    /// For what waits for the brain, where so many bytes of bodies may be on their way.
    pub fn beside(download_bytes: u64) -> Self {
        let kib = download_bytes / INBOUND_PARTS.1 * INBOUND_PARTS.0 / 1_024;
        let kib = u32::try_from(kib).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(kib as usize)), kib }
    }
}

/// What every connection needs of the node.
#[derive(Clone)]
pub struct Office {
    /// To read blocks from.
    pub chain: ChainHandle,
    /// For counters.
    pub clock: Arc<dyn Clock>,
    /// To the brain.
    pub events: mpsc::Sender<Inbound>,
    /// Bounds what waits for the brain, in KiB.
    pub memory: Room,
    /// The genesis file as it is given to others.
    pub genesis: Arc<[u8]>,
    /// Of all connections together.
    pub totals: Arc<Stats>,
}

/// One connection that is ready.
pub struct Connection {
    /// Its name.
    pub peer: PeerId,
    /// What is to be sent.
    pub outbox: Arc<Outbox>,
    /// Its counters.
    pub stats: Arc<Stats>,
    /// The node.
    pub office: Office,
}

impl Connection {
    /// Moves frames until either side ends it, then tells the brain.
    pub async fn run(self, stream: TcpStream, greeted: Greeted) {
        let Greeted { session, rest } = greeted;
        // Small frames, such as a new block's header, must not wait for more.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let session = Mutex::new(session);
        let why = tokio::select! {
            why = self.read(reader, &session, rest) => why,
            why = self.write(writer, &session) => why,
            why = self.overdue() => why,
        };
        tracing::debug!(peer = self.peer.0, why, "connection ended");
        self.report(Event::Disconnected { peer: self.peer }).await;
    }

    /// Ends when the end was decided and the time for last words is over.
    async fn overdue(&self) -> &'static str {
        self.outbox.ended.cancelled().await;
        sleep(FAREWELL).await;
        self.outbox.ending().as_ref().map_or("too much was asked for", ended)
    }

    /// Returns when the peer may be heard: it takes what it asked for. Never once the end is decided.
    async fn hearing(&self) {
        while self.outbox.is_full() {
            self.outbox.drained.notified().await;
        }
        if self.outbox.ended.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    async fn read(&self, mut socket: OwnedReadHalf, session: &Mutex<Session>, rest: Vec<u8>) -> &'static str {
        let mut bytes = rest;
        let mut unknown = 0;
        let mut chatter = Chatter::default();
        let turns = Arc::new(Semaphore::new(UNSEEN_MAX));
        loop {
            if !bytes.is_empty() {
                self.count(&self.stats.received, &self.office.totals.received, bytes.len());
            }
            let received = session.lock().receive(&bytes);
            loop {
                let next = session.lock().next_frame();
                match next {
                    None => break,
                    Some(Received::Frame { kind, body }) => {
                        self.stats.received.count_message(kind, body.len() + 4);
                        let max = self.office.chain.network().max_block_bytes;
                        let size = body.len();
                        match Message::decode(kind, body, max) {
                            Ok(message) => {
                                self.hearing().await;
                                let (taken, now) = (self.stats.sent.bytes(), self.office.clock.monotonic());
                                let pause = chatter.hear(kind, size + 4, taken, now);
                                if !pause.is_zero() {
                                    sleep(pause).await;
                                }
                                if !self.tell(Event::Message { peer: self.peer, message }, size, &turns).await {
                                    return "the node is stopping";
                                }
                            }
                            Err(error) => {
                                tracing::debug!(peer = self.peer.0, %error, "undecodable message");
                                self.garbage(Offence::Undecodable(kind::name(kind))).await;
                                return "an undecodable message";
                            }
                        }
                    }
                    Some(Received::Unknown { .. }) => {
                        unknown += 1;
                        if unknown > UNKNOWN_FRAMES_MAX {
                            self.garbage(Offence::Flood("unknown kinds")).await;
                            return "a flood of unknown kinds";
                        }
                    }
                }
            }
            // What came before the fault still counts.
            match received {
                Ok(()) => {}
                Err(SessionError::Frame(error)) => {
                    tracing::debug!(peer = self.peer.0, %error, "bad frame");
                    self.garbage(Offence::Oversized(error.kind)).await;
                    return "a bad frame";
                }
                Err(error) => {
                    tracing::debug!(peer = self.peer.0, %error, "bad bytes");
                    self.garbage(Offence::Undecodable("transport")).await;
                    return "undecodable bytes";
                }
            }
            self.hearing().await;
            bytes.resize(READ_BYTES, 0);
            match socket.read(&mut bytes).await {
                Ok(0) => return "closed by the peer",
                Ok(read) => bytes.truncate(read),
                Err(_) => return "the socket failed",
            }
        }
    }

    async fn garbage(&self, offence: Offence) {
        self.report(Event::Garbage { peer: self.peer, offence }).await;
    }

    /// Hands a message over when there is room for it and the peer has a turn; whether anybody still listens.
    async fn tell(&self, event: Event, bytes: usize, turns: &Arc<Semaphore>) -> bool {
        let room = &self.office.memory;
        // What is larger than all of it has it to itself.
        let kib = u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX).min(room.kib);
        let Ok(turn) = turns.clone().acquire_owned().await else { return false };
        let Ok(memory) = room.free.clone().acquire_many_owned(kib).await else { return false };
        self.office.events.send(Inbound { event, permits: Some([memory, turn]) }).await.is_ok()
    }

    /// Tells the brain what happened on this side. It listens unless the node stops.
    async fn report(&self, event: Event) {
        let _ = self.office.events.send(Inbound { event, permits: None }).await;
    }

    async fn write(&self, mut socket: OwnedWriteHalf, session: &Mutex<Session>) -> &'static str {
        let (mut frames, mut bytes) = (Vec::new(), Vec::with_capacity(WRITE_BYTES));
        loop {
            if self.outbox.is_overflown() {
                return "too much was asked for";
            }
            frames.clear();
            bytes.clear();
            while frames.len() < WRITE_BYTES {
                let Some(item) = self.outbox.pop() else { break };
                let served = served(&item, self.peer);
                let frame = match self.frame(item).await {
                    Ok(frame) => frame,
                    Err(error) => {
                        tracing::error!(%error, "a block cannot be read");
                        return "this node's store failed";
                    }
                };
                self.stats.sent.count_message(frame[0], frame.len());
                frames.extend_from_slice(&frame);
                if let Some(event) = served {
                    self.report(event).await;
                } else if frame[0] == kind::TRANSACTIONS {
                    self.report(Event::TransactionsSent { peer: self.peer }).await;
                }
            }
            if frames.is_empty() {
                if let Some(ending) = self.outbox.ending() {
                    let _ = timeout(SEND_STUCK, socket.shutdown()).await;
                    return ended(&ending);
                }
                self.outbox.filled.notified().await;
                continue;
            }
            session.lock().send(&frames, &mut bytes);
            let mut left = bytes.as_slice();
            while !left.is_empty() {
                match timeout(SEND_STUCK, socket.write(left)).await {
                    Ok(Ok(written)) if written > 0 => {
                        self.count(&self.stats.sent, &self.office.totals.sent, written);
                        left = &left[written..];
                    }
                    Ok(_) => return "the socket failed",
                    Err(_) => return "the peer takes nothing",
                }
            }
        }
    }

    fn count(&self, own: &super::stats::Traffic, total: &super::stats::Traffic, bytes: usize) {
        let now = self.office.clock.unix_seconds();
        own.count(bytes, now);
        total.count(bytes, now);
    }

    /// The frame of an item; what it needs of the store is read now, off the runtime's threads.
    async fn frame(&self, item: Item) -> Result<Vec<u8>, StoreError> {
        let item = match item {
            Item::Frame(frame) | Item::Answer(frame) => return Ok(frame),
            Item::Recent(bytes) => return Ok(Message::Block(bytes).encode()),
            item => item,
        };
        let (chain, genesis) = (self.office.chain.clone(), self.office.genesis.clone());
        let read = tokio::task::spawn_blocking(move || stored(&chain, &genesis, item)).await;
        read.unwrap_or_else(|_| Err(StoreError::corrupt("reading a block panicked")))
    }
}

/// What the brain is told once an item has been read: it counts what it lets the shell read at a time.
const fn served(item: &Item, peer: PeerId) -> Option<Event> {
    match item {
        Item::Block(_) | Item::Recent(_) | Item::Answer(_) | Item::BlockTransactions(..) | Item::CompactBlock(_) => {
            Some(Event::Served { peer })
        }
        Item::Snapshot(..) => Some(Event::SnapshotSent { peer }),
        Item::Frame(_) | Item::Genesis => None,
    }
}

/// A part of the snapshot that is served. A file that cannot be read is not there. The simulator calls this too.
pub fn snapshot_part(offer: &Offer, part: SnapshotPart) -> Message {
    match part {
        SnapshotPart::Manifest => Message::Manifest(offer.manifest.clone()),
        SnapshotPart::Coins(range) => match offer.coins(range.bucket, range.first, range.count) {
            Ok(coins) => Message::Coins { range, coins },
            Err(error) => {
                tracing::warn!(%error, "the snapshot that is served cannot be read");
                Message::NotFound(vec![Reference::Snapshot(offer.base)])
            }
        },
    }
}

/// What an item says, from the store.
fn stored(chain: &ChainHandle, genesis: &[u8], item: Item) -> Result<Vec<u8>, StoreError> {
    let missing = |hash: BlockHash| Message::NotFound(vec![Reference::Block(hash)]).encode();
    let asked = match &item {
        Item::Block(hash) | Item::CompactBlock(hash) | Item::BlockTransactions(hash, _) => Some(*hash),
        Item::Frame(_) | Item::Answer(_) | Item::Recent(_) | Item::Snapshot(..) | Item::Genesis => None,
    };
    match (read(&chain.view(), genesis, item), asked) {
        // One damaged body is no reason to turn a peer away: this node asks for it again itself.
        (Err(StoreError::Corrupt { .. } | StoreError::Backend { .. }), Some(hash)) => Ok(missing(hash)),
        (read, _) => read,
    }
}

fn read(view: &View, genesis: &[u8], item: Item) -> Result<Vec<u8>, StoreError> {
    let missing = |hash: BlockHash| Message::NotFound(vec![Reference::Block(hash)]).encode();
    Ok(match item {
        Item::Frame(frame) | Item::Answer(frame) => frame,
        Item::Recent(bytes) => Message::Block(bytes).encode(),
        Item::Genesis => Message::Genesis(genesis.to_vec()).encode(),
        Item::Snapshot(offer, part) => snapshot_part(&offer, part).encode(),
        Item::Block(hash) => match view.body(&hash)? {
            Some(body) => Message::Block(body.into()).encode(),
            None => missing(hash),
        },
        Item::CompactBlock(hash) => match view.block(&hash)? {
            Some(block) => Message::CompactBlock(Box::new(CompactBlock::of(&block, rand::random()))).encode(),
            None => missing(hash),
        },
        Item::BlockTransactions(hash, indexes) => match view.body(&hash)? {
            // So much of the block that it is better sent whole, and always fits a frame.
            Some(body) if indexes.len() * 4 + body.len() > PARTS_BYTES_MAX => Message::Block(body.into()).encode(),
            Some(_) => match view.block(&hash)? {
                Some(Block { transactions, .. }) => {
                    let wanted = indexes.iter().filter_map(|index| transactions.get(*index as usize).cloned());
                    let transactions = wanted.collect();
                    Message::BlockTransactions(Box::new(BlockTransactions { hash, transactions })).encode()
                }
                None => missing(hash),
            },
            None => missing(hash),
        },
    })
}

const fn ended(ending: &Ending) -> &'static str {
    match ending {
        Ending::Offence(_) => "it broke a rule",
        Ending::SelfConnection => "it is this node itself",
        Ending::HandshakeTimeout => "no greeting in time",
        Ending::Silent => "it was silent",
        Ending::Stalling(_) => "it stalled",
        Ending::LaggingChain => "it does not follow the best chain",
        Ending::Evicted => "its place was needed",
        Ending::Full => "no place",
        Ending::Finished => "done",
        Ending::Operator => "the operator wants it",
        Ending::Banned => "banned",
        Ending::Incompatible(_) => "incompatible",
    }
}
