//! What relaying between peers asks of the mempool: what is here, since when, and everything for rebuilding a block.
//!
//! None of these follows the chain first (others do, and often): a flood of questions costs look-ups, nothing else.

use super::feerate::Feerate;
use super::graph::Id;
use super::{Mempool, weight};
use setara_core::hash::{TxId, WtxId};
use setara_core::transaction::Transaction;
use std::collections::VecDeque;
use std::sync::Arc;

/// Additions remembered for followers: some minutes of full blocks. Whoever is further behind is given everything.
const ADDITIONS_MAX: usize = 20_000;

/// A moment in the mempool's life: everything that entered before it is below, everything later is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(Id);

/// What entered since a follower last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Additions {
    /// Wtxids and feerates (sen per 1,000 bytes), in order of entering; some may have left again.
    pub entered: Vec<(WtxId, u64)>,
    /// What to ask with the next time.
    pub next: u64,
    /// Whether some were forgotten: then `entered` is all that is here now.
    pub missed: bool,
}

/// The latest additions, numbered from 0.
#[derive(Debug, Default)]
pub(super) struct AdditionLog {
    recent: VecDeque<(WtxId, u64)>,
    next: u64,
}

impl AdditionLog {
    pub fn push(&mut self, wtxid: WtxId, feerate: Feerate) {
        if self.recent.len() == ADDITIONS_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((wtxid, feerate.sen_per_kilobyte()));
        self.next += 1;
    }

    fn since(&self, sequence: u64) -> Option<Vec<(WtxId, u64)>> {
        let first = self.next - weight::count(self.recent.len());
        if sequence > self.next {
            return None;
        }
        let skip = usize::try_from(sequence.checked_sub(first)?).ok()?;
        Some(self.recent.iter().skip(skip).copied().collect())
    }
}

impl Mempool {
    /// What entered since an answer whose `next` was `sequence` (0 for everything since the start).
    pub fn added_since(&self, sequence: u64) -> Additions {
        let inner = self.inner.lock();
        let next = inner.additions.next;
        if let Some(entered) = inner.additions.since(sequence) {
            return Additions { entered, next, missed: false };
        }
        let all = inner.graph.iter().map(|(_, entry)| (entry.ids.wtxid, entry.feerate().sen_per_kilobyte()));
        Additions { entered: all.collect(), next, missed: true }
    }

    /// Whether the transaction with exactly this witness is here.
    pub fn contains_wtxid(&self, wtxid: &WtxId) -> bool {
        self.inner.lock().graph.id_of_wtxid(wtxid).is_some()
    }

    /// Whether the transaction is here, with whatever witness.
    pub fn contains_txid(&self, txid: &TxId) -> bool {
        self.inner.lock().graph.id_of(txid).is_some()
    }

    /// [`Self::contains_wtxid`] for many under one lock.
    pub fn contains_wtxids<'a>(&self, wtxids: impl IntoIterator<Item = &'a WtxId>) -> Vec<bool> {
        let inner = self.inner.lock();
        wtxids.into_iter().map(|wtxid| inner.graph.id_of_wtxid(wtxid).is_some()).collect()
    }

    /// For each, how many unconfirmed ancestors it has, itself counted: ascending, parents come before children. `None`
    /// for those that are gone.
    pub fn depths(&self, wtxids: &[WtxId]) -> Vec<Option<usize>> {
        let inner = self.inner.lock();
        let depth = |wtxid| Some(inner.graph.with_ancestors([inner.graph.id_of_wtxid(wtxid)?]).len());
        wtxids.iter().map(depth).collect()
    }

    /// Now.
    pub fn moment(&self) -> Moment {
        Moment(self.inner.lock().graph.next_id())
    }

    /// The transaction with exactly this witness and its size, if it entered before `moment`.
    pub fn wtxid_before(&self, wtxid: &WtxId, moment: Moment) -> Option<(Arc<Transaction>, u64)> {
        let inner = self.inner.lock();
        let id = inner.graph.id_of_wtxid(wtxid).filter(|id| *id < moment.0)?;
        let entry = &inner.graph.node(id)?.entry;
        Some((entry.transaction.clone(), entry.ids.size))
    }

    /// The transaction, with whatever witness, and its size, if it entered before `moment`.
    pub fn txid_before(&self, txid: &TxId, moment: Moment) -> Option<(Arc<Transaction>, u64)> {
        let inner = self.inner.lock();
        let id = inner.graph.id_of(txid).filter(|id| *id < moment.0)?;
        let entry = &inner.graph.node(id)?.entry;
        Some((entry.transaction.clone(), entry.ids.size))
    }

    /// The txid of the transaction with exactly this witness.
    pub fn txid_of(&self, wtxid: &WtxId) -> Option<TxId> {
        let inner = self.inner.lock();
        Some(inner.graph.node(inner.graph.id_of_wtxid(wtxid)?)?.entry.ids.txid)
    }

    /// Everything, to rebuild a compact block from: shared, not copied, in order of entering.
    pub fn transactions_for_reconstruction(&self) -> Vec<(WtxId, Arc<Transaction>)> {
        let inner = self.inner.lock();
        inner.graph.iter().map(|(_, entry)| (entry.ids.wtxid, entry.transaction.clone())).collect()
    }
}
