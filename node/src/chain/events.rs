//! What readers share with the writer: the newest view, and the news that it moved.

use super::view::View;
use parking_lot::{Condvar, Mutex, RwLock};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The tip, and how often the view has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TipInfo {
    /// Of the tip.
    pub hash: BlockHash,
    /// Of the tip.
    pub height: Height,
    /// Counts the views published by this process.
    pub sequence: u64,
}

/// Shared by the writer and all readers.
pub(super) struct Shared {
    view: RwLock<Arc<View>>,
    tip: watch::Sender<TipInfo>,
    fault: watch::Sender<Option<String>>,
    /// For threads that wait without a runtime.
    moved: (Mutex<u64>, Condvar),
    /// Height connected, perhaps not yet flushed.
    pub height: AtomicU32,
    /// Transactions up to there.
    pub transactions: AtomicU64,
    /// Bytes of cached coins.
    pub coin_bytes: AtomicU64,
    /// Whether blocks are being loaded in bulk.
    pub loading: AtomicBool,
}

impl Shared {
    pub fn new(view: Arc<View>) -> Self {
        let tip = view.info();
        Self {
            height: AtomicU32::new(tip.height.get()),
            transactions: AtomicU64::new(0),
            coin_bytes: AtomicU64::new(0),
            loading: AtomicBool::new(false),
            view: RwLock::new(view),
            tip: watch::Sender::new(tip),
            fault: watch::Sender::new(None),
            moved: (Mutex::new(tip.sequence), Condvar::new()),
        }
    }

    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    pub fn publish(&self, view: Arc<View>) {
        let tip = view.info();
        self.height.store(tip.height.get(), Ordering::Relaxed);
        *self.view.write() = view;
        *self.moved.0.lock() = tip.sequence;
        self.moved.1.notify_all();
        self.tip.send_replace(tip);
    }

    pub fn watch_tip(&self) -> watch::Receiver<TipInfo> {
        self.tip.subscribe()
    }

    pub fn watch_fault(&self) -> watch::Receiver<Option<String>> {
        self.fault.subscribe()
    }

    pub fn set_fault(&self, text: String) {
        self.fault.send_if_modified(|fault| {
            let first = fault.is_none();
            fault.get_or_insert(text);
            first
        });
    }

    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// Waits until a view newer than number `seen` is published, or `timeout` is over; the newest number.
    pub fn wait_past(&self, seen: u64, timeout: Duration) -> u64 {
        let deadline = Instant::now() + timeout;
        let mut newest = self.moved.0.lock();
        while *newest <= seen {
            if self.moved.1.wait_until(&mut newest, deadline).timed_out() {
                break;
            }
        }
        *newest
    }
}
