//! What waits to be sent to one peer: bounded in bytes, blocks read only when their turn comes.
//!
//! At [`SEND_QUEUE_BYTES`] the connection stops hearing its peer, so whoever asks without listening is not answered
//! further (CVE-2024-52915); a queue that does not move for [`SEND_STUCK`] ends the connection, and so does one that is
//! past [`SEND_QUEUE_BYTES_MAX`] all the same. Once the end is decided only a few words more are said.

use crate::p2p::brain::interface::Ending;
use crate::p2p::brain::snapshots::SnapshotPart;
use crate::snapshot::Offer;
use parking_lot::Mutex;
use setara_core::hash::BlockHash;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Bytes that wait for a peer before it is not listened to any more.
pub const SEND_QUEUE_BYTES: usize = 1_000_000;
/// Bytes that wait for a peer at the most, unless it is a single thing: the first limit, and the answers to what was heard
/// before it was reached.
pub const SEND_QUEUE_BYTES_MAX: usize = 8_000_000;
/// Bytes that are still sent once the end is decided: a greeting, so that both sides know why.
const FAREWELL_BYTES: usize = 64 << 10;
/// The time for that.
pub const FAREWELL: Duration = Duration::from_secs(5);
/// Things that wait, whatever their size: more is a peer that asks for far more than it takes.
pub const SEND_QUEUE_ITEMS: usize = 20_000;
/// A peer that takes nothing for so long is gone.
pub const SEND_STUCK: Duration = Duration::from_secs(60);

/// One thing to send.
#[derive(Debug)]
pub enum Item {
    /// A frame.
    Frame(Vec<u8>),
    /// A block of the store.
    Block(BlockHash),
    /// A block that is not in the store yet, shared by all who ask for it.
    Recent(Arc<[u8]>),
    /// Any other answer about blocks that is not from the store: a frame.
    Answer(Vec<u8>),
    /// Some transactions of a block of the store.
    BlockTransactions(BlockHash, Vec<u32>),
    /// A block of the store, compactly.
    CompactBlock(BlockHash),
    /// A part of the snapshot that is served.
    Snapshot(Arc<Offer>, SnapshotPart),
    /// The genesis file.
    Genesis,
}

impl Item {
    const fn bytes(&self) -> usize {
        match self {
            Self::Frame(bytes) | Self::Answer(bytes) => bytes.len(),
            Self::BlockTransactions(_, indexes) => 64 + indexes.len() * 4,
            Self::Block(_) | Self::Recent(_) | Self::CompactBlock(_) | Self::Snapshot(..) | Self::Genesis => 64,
        }
    }
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
    ending: Option<Ending>,
    overflown: bool,
}

/// The queue, shared by the brain's thread and the connection.
#[derive(Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// Something was added, or the end was decided.
    pub filled: Notify,
    /// Something was taken out.
    pub drained: Notify,
    /// The end was decided.
    pub ended: CancellationToken,
}

impl Outbox {
    /// Adds something. A queue that is full of things never taken ends the connection instead.
    pub fn push(&self, item: Item) {
        let mut inner = self.inner.lock();
        if inner.ending.is_some() || inner.overflown {
            return;
        }
        let too_much = !inner.items.is_empty() && inner.bytes + item.bytes() > SEND_QUEUE_BYTES_MAX;
        if too_much || inner.items.len() >= SEND_QUEUE_ITEMS {
            inner.overflown = true;
            inner.items.clear();
            inner.bytes = 0;
            // Also when a write is under way that the peer takes byte by byte.
            self.ended.cancel();
        } else {
            inner.bytes += item.bytes();
            inner.items.push_back(item);
        }
        drop(inner);
        self.filled.notify_one();
    }

    /// The connection ends once the first few things that are queued have been sent; the rest is forgotten.
    pub fn end(&self, ending: Ending) {
        let mut inner = self.inner.lock();
        inner.ending.get_or_insert(ending);
        let mut left = FAREWELL_BYTES;
        inner.items.retain(|item| match item {
            Item::Frame(bytes) => {
                let fits = bytes.len() <= left;
                left = if fits { left - bytes.len() } else { 0 };
                fits
            }
            // A file that was asked for before anything else.
            Item::Genesis => true,
            _ => false,
        });
        inner.bytes = inner.items.iter().map(Item::bytes).sum();
        drop(inner);
        self.ended.cancel();
        self.filled.notify_one();
        self.drained.notify_one();
    }

    /// The next thing to send.
    pub fn pop(&self) -> Option<Item> {
        let mut inner = self.inner.lock();
        let item = inner.items.pop_front()?;
        inner.bytes = inner.bytes.saturating_sub(item.bytes());
        drop(inner);
        self.drained.notify_one();
        Some(item)
    }

    /// Whether the peer is to be left unread until it takes what waits for it.
    pub fn is_full(&self) -> bool {
        let inner = self.inner.lock();
        inner.bytes >= SEND_QUEUE_BYTES && inner.ending.is_none()
    }

    /// Why the connection is to end, if it is.
    pub fn ending(&self) -> Option<Ending> {
        self.inner.lock().ending.clone()
    }

    /// Whether more was queued than ever may be.
    pub fn is_overflown(&self) -> bool {
        self.inner.lock().overflown
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TH7: what is past the limit ends the connection and leaves nothing behind; one large thing alone is no flood.
    #[test]
    fn a_queue_has_an_end() {
        let outbox = Outbox::default();
        outbox.push(Item::Frame(vec![0; SEND_QUEUE_BYTES_MAX + 1]));
        assert!(outbox.is_full() && !outbox.is_overflown());
        outbox.push(Item::Block(BlockHash::ZERO));
        assert!(outbox.is_overflown() && outbox.ended.is_cancelled());
        outbox.push(Item::Frame(vec![0; 10]));
        assert!(outbox.bytes() == 0 && outbox.pop().is_none());
    }

    /// TH7: once the end is decided, a greeting is still said, and nothing large.
    #[test]
    fn an_ending_says_little() {
        let outbox = Outbox::default();
        outbox.push(Item::Frame(vec![1; 100]));
        outbox.push(Item::Block(BlockHash::ZERO));
        outbox.push(Item::Frame(vec![2; FAREWELL_BYTES]));
        outbox.end(Ending::Full);
        outbox.push(Item::Frame(vec![3; 10]));
        assert!(outbox.ended.is_cancelled() && outbox.ending() == Some(Ending::Full));
        assert!(matches!(outbox.pop(), Some(Item::Frame(bytes)) if bytes == [1; 100]));
        assert!(outbox.pop().is_none() && outbox.bytes() == 0);
    }
}
