//! How far the node is: for logs, `getblockchaininfo`, and for what must wait until it has caught up.

use crate::chain::ChainHandle;
use crate::p2p::brain::interface::Desk;
use setara_core::height::Height;
use setara_core::pow::Work;
use std::time::Duration;

/// Blocks of work that the best header may be ahead of the tip before the node counts as behind.
pub const BEHIND_BLOCKS: u32 = 24;
/// Between two samples of the rate.
const SAMPLE: Duration = Duration::from_secs(5);
/// The share of a new sample in the smoothed rate, as a divisor.
const SMOOTHING: u64 = 4;

/// What the node is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncStage {
    /// Checks a chain of headers for work before it stores it.
    CheckingHeaders,
    /// Loads bodies, or waits for somebody who has them.
    Blocks,
    /// Has caught up.
    Done,
}

/// How far the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncProgress {
    /// What it is busy with.
    pub stage: SyncStage,
    /// Of the tip: so many blocks above genesis are verified.
    pub height: Height,
    /// Of the best header; while headers are checked, how far that is.
    pub target: Height,
    /// Thousandths of a block a second, smoothed.
    pub milliblocks_per_second: u64,
    /// Time to the target at this rate.
    pub eta: Option<Duration>,
    /// Peers that exchange blocks.
    pub peers: usize,
}

/// Whether the node is behind: the best header is more than [`BEHIND_BLOCKS`] blocks of work above the tip, or the tip has
/// less work than the best chain is known to have. The tip's age does not matter, nor whether there are peers.
pub fn is_syncing(chain: &ChainHandle, minimum: Work) -> bool {
    let (tip, best) = (chain.view().tip.header, chain.headers().best());
    let block = best.header.bits.to_target().map_or(Work::ZERO, |target| target.work());
    let ahead = best.state.work.checked_sub(tip.work).unwrap_or(Work::ZERO);
    tip.work < minimum || block.checked_mul(BEHIND_BLOCKS).is_some_and(|slack| ahead > slack)
}

/// The smoothed rate.
#[derive(Default)]
pub(super) struct Meter {
    last: Option<(Duration, u32)>,
    rate: u64,
}

impl Meter {
    pub fn sample(&mut self, desk: &Desk<'_>) {
        let (now, height) = (desk.monotonic(), desk.chain.view().tip.height().get());
        let Some((then, before)) = self.last else {
            self.last = Some((now, height));
            return;
        };
        let elapsed = now.saturating_sub(then);
        if elapsed < SAMPLE {
            return;
        }
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let rate = u64::from(height.saturating_sub(before)).saturating_mul(1_000_000) / millis;
        self.rate = (self.rate * (SMOOTHING - 1) + rate) / SMOOTHING;
        self.last = Some((now, height));
    }

    pub fn progress(&self, chain: &ChainHandle, minimum: Work, presync: Option<Height>, peers: usize) -> SyncProgress {
        let (height, best) = (chain.view().tip.height(), chain.headers().best().state.height);
        let stage = match (presync, is_syncing(chain, minimum)) {
            (Some(_), _) => SyncStage::CheckingHeaders,
            (None, true) => SyncStage::Blocks,
            (None, false) => SyncStage::Done,
        };
        let target = presync.unwrap_or(best);
        let left = u64::from(best.get().saturating_sub(height.get()));
        let eta = (left * 1_000).checked_div(self.rate).map(Duration::from_secs);
        SyncProgress { stage, height, target, milliblocks_per_second: self.rate, eta, peers }
    }
}
