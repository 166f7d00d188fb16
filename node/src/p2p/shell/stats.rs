//! Counters of one connection, for `getpeerinfo` and `getnettotals`.

use crate::p2p::message::kind;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// One way: bytes on the wire, and of messages by kind.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: AtomicU64,
    last: AtomicU64,
    kinds: Mutex<BTreeMap<&'static str, u64>>,
}

impl Traffic {
    /// Counts bytes of the socket at a Unix time.
    pub fn count(&self, bytes: usize, unix_seconds: u64) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last.store(unix_seconds, Ordering::Relaxed);
    }

    /// Counts a message.
    pub fn count_message(&self, number: u8, bytes: usize) {
        *self.kinds.lock().entry(kind::name(number)).or_default() += bytes as u64;
    }

    /// Bytes of the socket.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Unix time of the last of them; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Bytes of messages by kind.
    pub fn by_kind(&self) -> BTreeMap<&'static str, u64> {
        self.kinds.lock().clone()
    }
}

/// Both ways.
#[derive(Debug, Default)]
pub struct Stats {
    /// What was sent.
    pub sent: Traffic,
    /// What came.
    pub received: Traffic,
}
