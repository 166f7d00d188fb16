//! Which body is asked of whom.

use super::peers::Source;
use super::{Download, Flight};
use crate::chain::HeaderPoint;
use crate::p2p::brain::interface::{Desk, PeerId};
use crate::p2p::limits::DOWNLOAD_WINDOW_BLOCKS;
use crate::p2p::message::Message;
use setara_core::hash::BlockHash;
use std::collections::BTreeMap;
use std::time::Duration;

/// Taken as a body's size at least, so that many small blocks do not make room for a flood of large ones.
const BLOCK_BYTES_MIN: u64 = 64 << 10;
/// Before the oldest missing body is asked of a second peer, at least.
const HEDGE_MIN: Duration = Duration::from_millis(500);
/// Branches besides the best that are looked at.
const OTHER_BRANCHES_MAX: usize = 4;
/// Bodies of such a branch that are asked for at once.
const OTHER_BLOCKS_MAX: usize = 64;
/// Peers asked for the oldest missing body at once.
const HEDGE_PEERS_MAX: usize = 3;

/// What is missing, as of the last look at the tree, which costs a walk down the branch.
#[derive(Default)]
pub(super) struct Window {
    target: Option<BlockHash>,
    missing: Vec<HeaderPoint>,
    /// The same of branches that peers show besides the best.
    others: Vec<Vec<HeaderPoint>>,
    size: u64,
}

impl Window {
    pub fn forget(&mut self) {
        self.target = None;
    }

    /// A body of this size came.
    pub fn saw(&mut self, bytes: u64) {
        self.size = (self.size * 7 + bytes) / 8;
    }

    /// Whether a body is one of those that are missing.
    pub fn wants(&self, hash: &BlockHash) -> bool {
        self.missing.iter().chain(self.others.iter().flatten()).any(|point| point.hash == *hash)
    }

    fn block_bytes(&self) -> u64 {
        self.size.saturating_mul(2).max(BLOCK_BYTES_MIN)
    }
}

impl Download {
    /// Asks for all that may be asked for now.
    pub(super) fn fill(&mut self, desk: &mut Desk<'_>) {
        if self.peers.is_empty() || self.paused {
            return;
        }
        self.look(desk);
        let now = desk.monotonic();
        let budget = self.bytes_max.saturating_sub(self.held_bytes + self.submitted_bytes);
        let mut requests = (budget / self.window.block_bytes()).saturating_sub(self.flights.len() as u64);
        let mut asked: BTreeMap<PeerId, Vec<BlockHash>> = BTreeMap::new();
        // Other branches besides the best: whoever shows headers and withholds their bodies must not keep the node from
        // what others have.
        let branches: Vec<Vec<HeaderPoint>> =
            std::iter::once(&self.window.missing).chain(&self.window.others).cloned().collect();
        for missing in branches {
            let room = self.room(desk, &missing);
            self.ask_for(&missing, room, now, &mut requests, &mut asked);
        }
        for (peer, hashes) in asked {
            desk.send(peer, Message::GetBlocks(hashes));
        }
    }

    /// Asks for bodies of one branch.
    fn ask_for(
        &mut self,
        missing: &[HeaderPoint],
        mut room: BTreeMap<PeerId, (u32, usize)>,
        now: Duration,
        requests: &mut u64,
        asked: &mut BTreeMap<PeerId, Vec<BlockHash>>,
    ) {
        for (place, point) in missing.iter().enumerate() {
            let lowest = place == 0;
            if room.is_empty() || *requests == 0 && !lowest {
                break;
            }
            let key = (point.height.get(), point.hash);
            let settled = self.held.contains_key(&key)
                || self.submitted.contains_key(&point.hash)
                || self.resting.contains_key(&point.hash);
            if settled {
                continue;
            }
            let flights: Vec<PeerId> = self.in_flight(&point.hash).map(|(peer, _)| peer).collect();
            let hedged = self.is_oldest(point) && self.hedge_due(&point.hash, now);
            if !flights.is_empty() && !hedged {
                continue;
            }
            let able = room.iter().filter(|(peer, (common, _))| {
                *common >= key.0
                    && !flights.contains(peer)
                    && self.peers.get(peer).is_some_and(|source| source.may_have(key.0, &point.hash))
            });
            // The fastest first, the most room breaking ties.
            let chosen = able.min_by_key(|(peer, (_, room))| {
                (self.peers.get(peer).map(|source| source.interval_ms()), usize::MAX - room, **peer)
            });
            let Some(peer) = chosen.map(|(peer, _)| *peer) else { continue };
            let ahead = self.flights.keys().filter(|(_, of)| *of == peer).count() as u64;
            self.flights.insert((point.hash, peer), Flight { asked: now, ahead });
            asked.entry(peer).or_default().push(point.hash);
            *requests = requests.saturating_sub(1);
            if let Some((_, left)) = room.get_mut(&peer) {
                *left -= 1;
                if *left == 0 {
                    room.remove(&peer);
                }
            }
        }
    }

    /// Looks at the tree anew if the best header is another, or half of what was missing is here.
    fn look(&mut self, desk: &Desk<'_>) {
        let tree = desk.chain.headers();
        let best = tree.best().point().hash;
        let here = |point: &HeaderPoint| tree.get(&point.hash).is_none_or(|known| known.has_body || known.bad);
        self.window.missing.retain(|point| !here(point));
        self.window.others.iter_mut().for_each(|branch| branch.retain(|point| !here(point)));
        let few = self.window.missing.len() < DOWNLOAD_WINDOW_BLOCKS as usize / 2;
        let above = self.window.missing.last().map(|last| last.hash) != Some(best);
        if self.window.target != Some(best) || few && above {
            let max = DOWNLOAD_WINDOW_BLOCKS as usize;
            self.window.missing = tree.missing_bodies(&best, DOWNLOAD_WINDOW_BLOCKS, max);
            self.window.target = Some(best);
            self.window.others = self.other_branches(desk, &best);
        }
    }

    /// What is missing of other branches that peers show with more work than the tip has, most work first.
    fn other_branches(&self, desk: &Desk<'_>, best: &BlockHash) -> Vec<Vec<HeaderPoint>> {
        let (tree, tip) = (desk.chain.headers(), desk.chain.view().tip.header.work);
        let off_best = |point: &HeaderPoint| tree.fork(&point.hash, best).is_some_and(|fork| fork.hash != point.hash);
        let mut tops: Vec<HeaderPoint> = self.peers.values().filter_map(Source::best).collect();
        tops.retain(|point| point.work > tip && off_best(point));
        tops.sort_by_key(|point| (std::cmp::Reverse(point.work), point.hash));
        tops.dedup_by_key(|point| point.hash);
        tops.truncate(OTHER_BRANCHES_MAX);
        let missing = |top: &HeaderPoint| tree.missing_bodies(&top.hash, DOWNLOAD_WINDOW_BLOCKS, OTHER_BLOCKS_MAX);
        tops.iter().map(missing).filter(|missing| !missing.is_empty()).collect()
    }

    /// Peers with room: up to which height they have the best branch, and how much more they may be asked for.
    fn room(&self, desk: &Desk<'_>, missing: &[HeaderPoint]) -> BTreeMap<PeerId, (u32, usize)> {
        let mut busy: BTreeMap<PeerId, usize> = BTreeMap::new();
        for (_, peer) in self.flights.keys() {
            *busy.entry(*peer).or_default() += 1;
        }
        let mut room = BTreeMap::new();
        let Some(top) = missing.last() else { return room };
        for (peer, source) in &self.peers {
            let left = source.requests_max().saturating_sub(busy.get(peer).copied().unwrap_or(0));
            let Some(best) = source.best().filter(|_| left > 0) else { continue };
            let common = desk.chain.headers().fork(&best.hash, &top.hash);
            if let Some(common) = common {
                room.insert(*peer, (common.height.get(), left));
            }
        }
        room
    }

    /// Whether nothing below it is still to come.
    fn is_oldest(&self, point: &HeaderPoint) -> bool {
        self.oldest().is_some_and(|oldest| oldest.hash == point.hash)
    }

    fn oldest(&self) -> Option<&HeaderPoint> {
        self.window.missing.iter().find(|point| {
            !self.held.contains_key(&(point.height.get(), point.hash)) && !self.submitted.contains_key(&point.hash)
        })
    }

    /// Whether all who were asked for a body are late: they send nothing, or this not in its turn. A body that only waits
    /// for those before it is on its way, and asking for it twice would cost what two peers can carry.
    fn hedge_due(&self, hash: &BlockHash, now: Duration) -> bool {
        let late = |(peer, flight): (PeerId, &Flight)| {
            let Some(source) = self.peers.get(&peer) else { return true };
            let twice =
                |bodies: u64| Duration::from_millis(source.interval_ms().saturating_mul(2 * bodies)).max(HEDGE_MIN);
            now >= flight.asked.max(source.last_delivery()) + twice(1) || now >= flight.asked + twice(flight.ahead + 1)
        };
        self.in_flight(hash).count() < HEDGE_PEERS_MAX && self.in_flight(hash).all(late)
    }

    /// The body that holds up everything: it is in flight, a peer has nothing to do, and nothing else may be asked for.
    pub(super) fn stalling(&self, desk: &Desk<'_>) -> Option<BlockHash> {
        let oldest = self.oldest()?;
        self.in_flight(&oldest.hash).next()?;
        let full = self.window.missing.iter().all(|point| {
            self.held.contains_key(&(point.height.get(), point.hash))
                || self.submitted.contains_key(&point.hash)
                || self.in_flight(&point.hash).next().is_some()
        });
        let budget = self.bytes_max.saturating_sub(self.held_bytes + self.submitted_bytes);
        let spent = self.flights.len() as u64 >= budget / self.window.block_bytes();
        ((full || spent) && !self.held.is_empty() && !self.room(desk, &self.window.missing).is_empty())
            .then_some(oldest.hash)
    }
}
