//! What each peer has, as far as its headers show it: by this it is asked for bodies, and judged by lagging.rs.
//!
//! An announcement adds to it, the end of an answer states it anew, less work or more: peers change their minds. What a
//! failed branch showed does not count any longer.

use super::{HeaderSync, SyncPeer};
use crate::chain::HeaderPoint;
use crate::p2p::brain::interface::{Desk, PeerId};
use setara_core::hash::BlockHash;

impl HeaderSync {
    /// The best block that the peer has shown to have, for the download and `getpeerinfo`.
    pub fn shown(&self, peer: PeerId) -> Option<HeaderPoint> {
        self.peers.get(&peer)?.shown
    }

    /// Whether every peer has shown all it has, and all of that has been judged.
    pub fn is_settled(&self) -> bool {
        let done = |state: &SyncPeer| state.caught_up && state.asked == 0 && state.submitted == 0;
        self.checked && self.peers.values().all(done)
    }

    /// A peer announced a block whose header is known here.
    pub fn on_known_header(&mut self, desk: &Desk<'_>, peer: PeerId, hash: &BlockHash) {
        let known = desk.chain.headers().get(hash).filter(|known| !known.bad);
        if let (Some(state), Some(known)) = (self.peers.get_mut(&peer), known) {
            raise(state, known.point());
        }
    }

    /// Takes back what peers showed of branches that have failed since, down to what is still good of them; whose word
    /// changed. These are asked again what they have.
    pub fn revise(&mut self, desk: &Desk<'_>) -> Vec<PeerId> {
        let tree = desk.chain.headers();
        let mut changed = Vec::new();
        for (peer, state) in &mut self.peers {
            let Some(shown) = state.shown else { continue };
            if tree.get(&shown.hash).is_some_and(|known| !known.bad) {
                continue;
            }
            state.shown = tree.sound(&shown.hash);
            state.caught_up = false;
            state.lagging.forget();
            changed.push(*peer);
        }
        changed
    }
}

/// The peer has this block as well.
pub(super) fn raise(state: &mut SyncPeer, point: HeaderPoint) {
    if state.shown.is_none_or(|shown| point.work > shown.work) {
        state.shown = Some(point);
    }
}

/// The peer has no more than what it was asked for the headers after, or less.
pub(super) fn nothing_after(desk: &Desk<'_>, state: &mut SyncPeer) {
    let Some(shown) = state.shown else { return };
    // Of several questions it is not known which this answers.
    if state.asked == 0
        && let Some(fork) = desk.chain.headers().fork(&shown.hash, &state.after)
    {
        state.shown = Some(fork);
    }
}
