//! Serving blocks, and parts of them, to whoever asks.
//!
//! A bounded queue for each peer: so many are with the shell at a time, and [`BlockRelay::sent`] makes room for the next.
//! Blocks off the active chain are served while they are young and only if they were once connected: an old one that
//! only this node has would recognise it.

use super::super::interface::{Action, Desk, PeerId};
use super::super::penalty::Offence;
use super::BlockRelay;
use super::upload::{Age, UploadState};
use crate::chain::{KnownHeader, View};
use crate::p2p::limits::REQUESTED_BLOCKS_MAX;
use crate::p2p::message::{BlockTransactions, Message, Reference};
use crate::store::schema::flags;
use rand::RngExt;
use setara_core::hash::BlockHash;
use setara_core::limits::TRANSACTION_BYTES_MIN;
use std::collections::VecDeque;
use std::time::Duration;

/// Answers with the shell at one time: what a peer may have in flight.
const AT_ONCE_MAX: usize = REQUESTED_BLOCKS_MAX as usize;
/// Answers waiting besides: one more message's worth. An honest peer never has more in flight.
const QUEUE_MAX: usize = 2 * REQUESTED_BLOCKS_MAX as usize;
/// Blocks below the tip of which parts are served; of older ones the whole (Bitcoin Core's number). Reading a block to
/// send a part is work out of proportion, and nobody needs parts of old blocks.
const PARTS_DEPTH_MAX: u32 = 10;
/// Blocks below the tip that are sent compactly; the mempool no longer has what older ones hold (Bitcoin Core's number).
const COMPACT_DEPTH_MAX: u32 = 5;
/// Age from which a block off the active chain is not served: with it this node could be recognised.
const STALE_SECONDS_MAX: u32 = 30 * 24 * 3_600;
/// Age from which a block counts as history, and goes first when the day's upload runs out (Bitcoin Core's number). Age is
/// seen from the best header, so that a chain that has paused is not history as a whole.
const HISTORY_SECONDS: u32 = 7 * 24 * 3_600;

/// An answer that waits.
#[derive(Debug)]
enum Wanted {
    Block(BlockHash),
    /// Positions; none for the compact block itself.
    Parts(BlockHash, Vec<u32>),
}

/// Answers to one peer.
#[derive(Debug, Default)]
pub(super) struct Serving {
    queue: VecDeque<Wanted>,
    /// With the shell, by their sizes as the upload counts them.
    outstanding: VecDeque<u64>,
    /// Positions in the queue: what makes it large.
    positions: usize,
}

impl Serving {
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes with the shell.
    pub fn promised(&self) -> u64 {
        self.outstanding.iter().sum()
    }
}

/// A block that may be served.
struct Servable {
    known: KnownHeader,
    /// Below the tip; 0 for the tip and for what is beside or above it.
    depth: u32,
    /// Transactions, the coinbase not counted.
    transactions: u32,
    size: u32,
}

fn servable(desk: &Desk<'_>, view: &View, hash: &BlockHash) -> Option<Servable> {
    let headers = desk.chain.headers();
    let known = headers.get(hash).filter(|known| known.has_body && !known.bad)?;
    // A fault of the store is the chain's to report; here it means that the block cannot be had.
    let row = view.header(hash).ok()??;
    if row.flags & flags::BODY == 0 {
        // Headers came first, and the body has not been stored yet.
        return None;
    }
    if view.hash_at(known.state.height).ok()? != Some(*hash) {
        let age = headers.best().header.time.saturating_sub(known.header.time);
        if !known.connected || age >= STALE_SECONDS_MAX {
            return None;
        }
    }
    let depth = view.tip.height().get().saturating_sub(known.state.height.get());
    Some(Servable { known, depth, transactions: row.tx_count.saturating_sub(1), size: row.size })
}

impl BlockRelay {
    /// All that was sent to all peers since the node started.
    pub fn note_sent(&mut self, desk: &Desk<'_>, sent: u64) {
        self.upload.note_sent(desk.network(), desk.monotonic(), sent);
    }

    /// How much may still be sent; `None` without a target.
    pub fn upload(&self, now: Duration) -> Option<UploadState> {
        self.upload.state(now)
    }

    /// Whether so many bytes that are no new block may be sent to somebody who dialled this node.
    pub fn may_upload_history(&self, now: Duration, bytes: u64) -> bool {
        self.upload.allows(now, Age::Historical, bytes)
    }

    /// So many bytes are on their way to a peer ...
    pub const fn promise_upload(&mut self, bytes: u64) {
        self.upload.promise(bytes);
    }

    /// ... and have been sent, or will not be.
    pub const fn settle_upload(&mut self, bytes: u64) {
        self.upload.settle(bytes);
    }

    /// A peer asks for blocks.
    pub fn on_get_blocks(&mut self, desk: &mut Desk<'_>, peer: PeerId, hashes: Vec<BlockHash>) {
        for hash in hashes {
            if !self.enqueue(desk, peer, Wanted::Block(hash)) {
                return;
            }
        }
        self.pump(desk, peer);
    }

    /// A peer asks for transactions of a block; with no positions, for the compact block itself.
    pub fn on_get_block_transactions(&mut self, desk: &mut Desk<'_>, peer: PeerId, hash: BlockHash, indexes: Vec<u32>) {
        if indexes.windows(2).any(|pair| matches!(pair, [a, b] if a >= b)) {
            desk.blame(peer, Offence::BadRequest("positions of a block out of order"));
            return;
        }
        if self.enqueue(desk, peer, Wanted::Parts(hash, indexes)) {
            self.pump(desk, peer);
        }
    }

    /// The shell has dealt with a `SendBlock` or its like that answered this peer.
    pub fn sent(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            let size = state.serving.outstanding.pop_front().unwrap_or(0);
            self.upload.settle(size);
            self.pump(desk, peer);
        }
    }

    /// Whether it fits into the peer's queue.
    fn enqueue(&mut self, desk: &mut Desk<'_>, peer: PeerId, wanted: Wanted) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        let serving = &mut state.serving;
        let positions = match &wanted {
            Wanted::Block(_) => 0,
            Wanted::Parts(_, indexes) => indexes.len(),
        };
        // Two full blocks' worth: one waits, one is new.
        let max = desk.network().max_block_bytes / TRANSACTION_BYTES_MIN * 2;
        if serving.queue.len() >= QUEUE_MAX || (serving.positions + positions) as u64 > max {
            desk.blame(peer, Offence::Flood("requests for blocks"));
            return false;
        }
        serving.positions += positions;
        serving.queue.push_back(wanted);
        true
    }

    fn pump(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        let view = desk.chain.view();
        while let Some(state) = self.peers.get_mut(&peer)
            && state.serving.outstanding.len() < AT_ONCE_MAX
            && let Some(wanted) = state.serving.queue.pop_front()
        {
            match wanted {
                Wanted::Block(hash) => self.serve_block(desk, &view, peer, hash),
                Wanted::Parts(hash, indexes) => {
                    state.serving.positions = state.serving.positions.saturating_sub(indexes.len());
                    self.serve_parts(desk, &view, peer, hash, indexes);
                }
            }
        }
    }

    /// Leaves an answer of so many bytes to the shell; parts of blocks count once they are sent.
    fn leave(&mut self, desk: &mut Desk<'_>, peer: PeerId, hash: BlockHash, size: u64, action: Action) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.serving.outstanding.push_back(size);
            self.upload.promise(size);
            state.learn(hash);
            desk.actions.push(action);
        }
    }

    fn serve_block(&mut self, desk: &mut Desk<'_>, view: &View, peer: PeerId, hash: BlockHash) {
        let servable = servable(desk, view, &hash);
        if let (None, Some(recent)) = (&servable, self.recent.as_ref().filter(|recent| recent.hash() == hash)) {
            let message = Message::Block(recent.bytes().clone());
            return self.leave(desk, peer, hash, 0, Action::SendRecent(peer, message));
        }
        let incoming = self.peers.get(&peer).is_some_and(|state| state.link.is_inbound());
        let servable = servable.filter(|servable| {
            let seconds = desk.chain.headers().best().header.time.saturating_sub(servable.known.header.time);
            let age = match servable.depth {
                ..=PARTS_DEPTH_MAX => Age::New,
                _ if seconds < HISTORY_SECONDS => Age::Recent,
                _ => Age::Historical,
            };
            !incoming || self.upload.allows(desk.monotonic(), age, u64::from(servable.size))
        });
        match servable {
            Some(servable) => self.leave(desk, peer, hash, servable.size.into(), Action::SendBlock(peer, hash)),
            None => desk.send(peer, Message::NotFound(vec![Reference::Block(hash)])),
        }
    }

    fn serve_parts(&mut self, desk: &mut Desk<'_>, view: &View, peer: PeerId, hash: BlockHash, indexes: Vec<u32>) {
        let servable = servable(desk, view, &hash);
        let recent = self.recent.as_ref().filter(|recent| servable.is_none() && recent.hash() == hash);
        let count = match (recent, &servable) {
            (Some(recent), _) => recent.len(),
            (None, Some(servable)) => servable.transactions as usize,
            (None, None) => {
                desk.send(peer, Message::NotFound(vec![Reference::Block(hash)]));
                return;
            }
        };
        if indexes.last().is_some_and(|last| *last as usize >= count) {
            desk.blame(peer, Offence::BadRequest("a position past the end of a block"));
            return;
        }
        if let Some(recent) = recent {
            let message = match recent.pick(&indexes) {
                Some(transactions) if !indexes.is_empty() => {
                    Message::BlockTransactions(Box::new(BlockTransactions { hash, transactions }))
                }
                _ => Message::CompactBlock(Box::new(recent.compact(desk.rng.random(), &[]))),
            };
            return self.leave(desk, peer, hash, 0, Action::SendRecent(peer, message));
        }
        let depth = servable.map_or(u32::MAX, |servable| servable.depth);
        match indexes.is_empty() {
            true if depth <= COMPACT_DEPTH_MAX => {
                self.leave(desk, peer, hash, 0, Action::SendCompactBlock(peer, hash));
            }
            false if depth <= PARTS_DEPTH_MAX => {
                self.leave(desk, peer, hash, 0, Action::SendBlockTransactions(peer, hash, indexes));
            }
            _ => self.serve_block(desk, view, peer, hash),
        }
    }
}
