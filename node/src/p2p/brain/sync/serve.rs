//! Answers to requests for headers: of the active chain, at a bounded rate.

use crate::p2p::brain::interface::{Desk, PeerId};
use crate::p2p::limits::HEADERS_MAX;
use crate::p2p::message::Message;
use setara_core::block::Header;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use std::time::Duration;

/// Answers in a burst: a million headers, which a new node asks for as fast as it can.
const BURST: u32 = 500;
/// Time that earns one more answer.
const REFILL: Duration = Duration::from_millis(200);

/// One peer's requests.
pub(super) struct Serving {
    left: u32,
    refilled: Duration,
    /// Came when nothing was left: answered when its time has come. A later one takes its place.
    waiting: Option<(Vec<BlockHash>, BlockHash)>,
}

impl Serving {
    pub fn new(now: Duration) -> Self {
        Self { left: BURST, refilled: now, waiting: None }
    }

    pub fn on_request(&mut self, desk: &mut Desk<'_>, peer: PeerId, locator: Vec<BlockHash>, stop: BlockHash) {
        self.waiting = Some((locator, stop));
        self.tick(desk, peer);
    }

    pub fn tick(&mut self, desk: &mut Desk<'_>, peer: PeerId) {
        let earned = desk.monotonic().saturating_sub(self.refilled).as_millis() / REFILL.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.refilled += REFILL.saturating_mul(earned);
        self.left = self.left.saturating_add(earned).min(BURST);
        if self.left > 0
            && let Some((locator, stop)) = self.waiting.take()
        {
            self.left -= 1;
            let headers = answer(desk, &locator, stop);
            desk.send(peer, Message::Headers(headers));
        }
    }
}

/// Headers after the first of `locator` that is in the active chain, or after genesis.
fn answer(desk: &Desk<'_>, locator: &[BlockHash], stop: BlockHash) -> Vec<Header> {
    let (view, tree) = (desk.chain.view(), desk.chain.headers());
    // A store that fails here fails the writer too, which stops the node: the peer just gets less.
    let from = locator.iter().find_map(|hash| {
        let height = tree.get(hash)?.state.height;
        (view.hash_at(height).ok()?? == *hash).then_some(height)
    });
    let (mut height, mut headers) = (from.unwrap_or(Height::GENESIS), Vec::new());
    while (headers.len() as u64) < HEADERS_MAX {
        let Some(next) = height.next() else { break };
        let Ok(Some(hash)) = view.hash_at(next) else { break };
        let Some(known) = tree.get(&hash) else { break };
        headers.push(known.header);
        height = next;
        if hash == stop {
            break;
        }
    }
    headers
}
