//! Outgoing links must lead to the best chain: who shows less work than ours for too long makes room.

use super::HeaderSync;
use crate::p2p::brain::interface::{Desk, Ending, Link, PeerId};
use setara_core::pow::Work;
use std::time::Duration;

/// Time to show the work that our tip had (Core 20 min at ten-minute blocks).
const CHAIN_TIMEOUT: Duration = Duration::from_secs(300);
/// Time to answer the one question asked after that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Full outgoing links that, once they have shown our work, are never dropped for this: a partition cannot end them all.
const PROTECTED_MAX: usize = 4;

/// One peer's record.
#[derive(Default)]
pub(super) struct Lagging {
    protected: bool,
    /// The work to show, until when, and whether it was asked.
    due: Option<(Work, Duration, bool)>,
}

impl Lagging {
    /// What the peer showed was worth nothing: it has to show its work anew.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

impl HeaderSync {
    /// Whether the peer is never dropped for lagging.
    pub fn is_protected(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|state| state.lagging.protected)
    }

    pub(super) fn check_lagging(&mut self, desk: &mut Desk<'_>) {
        let now = desk.monotonic();
        let tip = desk.chain.view().tip.header;
        let mut protected = self.peers.values().filter(|state| state.lagging.protected).count();
        let mut ask = Vec::new();
        for (peer, state) in &mut self.peers {
            if !matches!(state.link, Link::OutboundFull | Link::BlockOnly) || state.lagging.protected {
                continue;
            }
            let shown = state.shown.map_or(Work::ZERO, |shown| shown.work);
            if shown >= tip.work {
                state.lagging.due = None;
                if state.link == Link::OutboundFull && protected < PROTECTED_MAX {
                    state.lagging.protected = true;
                    protected += 1;
                }
                continue;
            }
            match state.lagging.due {
                // It has shown what our tip had then: it follows, a little behind.
                Some((work, ..)) if shown >= work => {
                    state.lagging.due = Some((tip.work, now + CHAIN_TIMEOUT, false));
                }
                None => state.lagging.due = Some((tip.work, now + CHAIN_TIMEOUT, false)),
                Some((work, until, asked)) if now >= until => {
                    if asked {
                        desk.disconnect(*peer, Ending::LaggingChain);
                        // Said once; the connection ends meanwhile.
                        state.lagging.due = Some((work, now + ANSWER_TIMEOUT, true));
                    } else {
                        state.lagging.due = Some((work, now + ANSWER_TIMEOUT, true));
                        ask.push(*peer);
                    }
                }
                Some(_) => {}
            }
        }
        for peer in ask {
            self.ask(desk, peer, &tip.hash);
        }
    }
}
