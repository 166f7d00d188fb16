//! The world: virtual time, one queue of what happens next, links between nodes, and the log whose hash must repeat.

use crate::node::Node;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_node::p2p::brain::interface::{Ending, Event, Link, PeerId};
use setara_node::p2p::message::{Message, PeerAddress};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// Time between two looks of a brain at its deadlines: coarser than in the shell, since seeds are many.
const TICK: Duration = Duration::from_millis(500);

/// A node's number.
pub type NodeId = usize;

/// What happens at a moment.
pub enum What {
    /// A node looks at its deadlines.
    Tick(NodeId, u64),
    /// An event reaches a node's brain, if it still runs the same life.
    Event(NodeId, u64, Event),
    /// A message reaches the other end of a connection.
    Deliver(NodeId, u64, PeerId, Vec<u8>),
    /// A message reaches the narrow line of the node it is for, and waits there for its turn.
    Queue(NodeId, u64, PeerId, Vec<u8>),
    /// A dial arrives.
    Arrive { from: NodeId, life: u64, to: PeerAddress, link: Link },
    /// A node mines a block and the next is planned.
    Mine(NodeId, u64),
    /// A node starts again.
    Restart(NodeId),
    /// The scenario's own.
    Script(u32),
}

struct Planned {
    at: Duration,
    order: u64,
    what: What,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Planned {
    const fn key(&self) -> (Duration, u64) {
        (self.at, self.order)
    }
}

/// One end of a connection.
#[derive(Clone, Copy)]
pub struct End {
    /// The node at the other end.
    pub node: NodeId,
    /// Its name for the connection.
    pub peer: PeerId,
    /// When the link is free again: a narrow link sends one message after another.
    free_at: Duration,
    /// Messages arrive in order.
    arrives: Duration,
}

/// What joins a node to the network: all its connections share it, each way, first come first served.
#[derive(Clone, Copy)]
pub struct Line {
    /// Bytes a second, each way.
    bandwidth: u64,
    up_free: Duration,
    down_free: Duration,
}

/// How links behave.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Shortest delay of a message.
    pub delay_min: Duration,
    /// Added at random.
    pub jitter: Duration,
    /// Bytes a second of one connection.
    pub bandwidth: u64,
    /// Of a thousand messages so many are lost once and come a second later, as TCP does it.
    pub loss_per_mille: u32,
    /// Of a hundred thousand messages so many break the connection.
    pub breaks_per_100_000: u32,
}

impl Weather {
    /// What the end of every scenario is like.
    pub const CALM: Self = Self {
        delay_min: Duration::from_millis(20),
        jitter: Duration::from_millis(10),
        bandwidth: 10_000_000,
        loss_per_mille: 0,
        breaks_per_100_000: 0,
    };
}

/// Everything but the nodes.
pub struct World {
    /// Virtual time since the beginning.
    pub now: Duration,
    /// All randomness of the world; each brain has its own.
    pub rng: StdRng,
    /// How links behave now.
    pub weather: Weather,
    /// Which side of a partition each node is on.
    pub side: Vec<u8>,
    queue: BinaryHeap<Reverse<Planned>>,
    order: u64,
    next_peer: u64,
    ends: BTreeMap<(NodeId, PeerId), End>,
    /// Nodes whose line is narrow.
    lines: BTreeMap<NodeId, Line>,
    log: Sha256,
    /// Lines of the log, kept only to be shown when a seed is looked at closely.
    pub shown: Option<Vec<String>>,
    /// Bytes that went over all links.
    pub bytes: u64,
}

impl World {
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self {
            now: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            weather: Weather::CALM,
            side: vec![0; nodes],
            queue: BinaryHeap::new(),
            order: 0,
            next_peer: 1,
            ends: BTreeMap::new(),
            lines: BTreeMap::new(),
            log: Sha256::new(),
            shown: std::env::var_os("SETARA_SIM_LOG").map(|_| Vec::new()),
            bytes: 0,
        }
    }

    /// Adds a line to the log.
    pub fn log(&mut self, line: &str) {
        self.log.update(self.now.as_nanos().to_le_bytes());
        self.log.update(line.as_bytes());
        if let Some(shown) = &mut self.shown {
            shown.push(format!("{:>9.3} {line}", self.now.as_secs_f64()));
        }
    }

    /// The hash of all that was logged.
    pub fn log_hash(&self) -> String {
        hex::encode(self.log.clone().finalize())
    }

    pub fn plan(&mut self, after: Duration, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Planned { at: self.now + after, order: self.order, what }));
    }

    /// The next thing to happen, if it is before `until`; time moves there, or to `until`.
    pub fn next(&mut self, until: Duration) -> Option<What> {
        if self.queue.peek().is_none_or(|Reverse(planned)| planned.at > until) {
            self.now = self.now.max(until);
            return None;
        }
        let Reverse(planned) = self.queue.pop()?;
        self.now = planned.at;
        Some(planned.what)
    }

    /// Gives a node a narrow line.
    pub fn narrow(&mut self, node: NodeId, bandwidth: u64) {
        let line = Line { bandwidth: bandwidth.max(1), up_free: Duration::ZERO, down_free: Duration::ZERO };
        self.lines.insert(node, line);
    }

    /// Plans a node's next look at its deadlines.
    pub fn plan_tick(&mut self, node: NodeId, life: u64) {
        let jitter = Duration::from_millis(self.rng.random_range(0..50));
        self.plan(TICK + jitter, What::Tick(node, life));
    }

    fn delay(&mut self) -> Duration {
        let jitter = u64::try_from(self.weather.jitter.as_micros()).unwrap_or(0);
        self.weather.delay_min + Duration::from_micros(self.rng.random_range(0..=jitter))
    }

    /// Whether two nodes can reach each other now.
    pub fn reachable(&self, a: NodeId, b: NodeId) -> bool {
        self.side[a] == self.side[b]
    }

    /// A dial leaves a node.
    pub fn dial(&mut self, from: NodeId, life: u64, to: PeerAddress, link: Link) {
        let delay = self.delay();
        self.plan(delay, What::Arrive { from, life, to, link });
    }

    /// Joins two nodes: both get their names for the connection.
    pub fn join(&mut self, a: NodeId, b: NodeId) -> (PeerId, PeerId) {
        let (at_a, at_b) = (PeerId(self.next_peer), PeerId(self.next_peer + 1));
        self.next_peer += 2;
        let now = self.now;
        self.ends.insert((a, at_a), End { node: b, peer: at_b, free_at: now, arrives: now });
        self.ends.insert((b, at_b), End { node: a, peer: at_a, free_at: now, arrives: now });
        (at_a, at_b)
    }

    /// Sends a frame over a connection.
    pub fn send(&mut self, nodes: &[Node], from: NodeId, peer: PeerId, frame: Vec<u8>) {
        let Some(end) = self.ends.get(&(from, peer)).copied() else { return };
        self.bytes += frame.len() as u64;
        if !self.reachable(from, end.node) || self.rng.random_range(0..100_000) < self.weather.breaks_per_100_000 {
            return self.cut(nodes, from, peer);
        }
        let mut delay = self.delay();
        if self.rng.random_range(0..1_000) < self.weather.loss_per_mille {
            delay += Duration::from_secs(1);
        }
        let mut sent = end.free_at.max(self.now) + takes(&frame, self.weather.bandwidth);
        if let Some(line) = self.lines.get_mut(&from) {
            sent = sent.max(line.up_free.max(self.now) + takes(&frame, line.bandwidth));
            line.up_free = sent;
        }
        let arrives = end.arrives.max(sent + delay);
        if let Some(end) = self.ends.get_mut(&(from, peer)) {
            (end.free_at, end.arrives) = (sent, arrives);
        }
        let life = nodes[end.node].life;
        let arrive = if self.lines.contains_key(&end.node) { What::Queue } else { What::Deliver };
        self.plan(arrives - self.now, arrive(end.node, life, end.peer, frame));
    }

    /// A frame has reached the receiver's line: its bytes come after those that were there before.
    pub fn queue(&mut self, node: NodeId, life: u64, peer: PeerId, frame: Vec<u8>) {
        let mut wait = Duration::ZERO;
        if let Some(line) = self.lines.get_mut(&node) {
            line.down_free = line.down_free.max(self.now) + takes(&frame, line.bandwidth);
            wait = line.down_free - self.now;
        }
        self.plan(wait, What::Deliver(node, life, peer, frame));
    }

    /// Ends a connection: this end knows at once, the other a little later.
    pub fn cut(&mut self, nodes: &[Node], from: NodeId, peer: PeerId) {
        let Some(end) = self.ends.remove(&(from, peer)) else { return };
        // What was sent before still arrives before the end does.
        let behind = end.arrives.saturating_sub(self.now) + Duration::from_millis(1);
        self.plan(Duration::ZERO, What::Event(from, nodes[from].life, Event::Disconnected { peer }));
        if self.ends.remove(&(end.node, end.peer)).is_some() {
            let life = nodes[end.node].life;
            let delay = self.delay().max(behind);
            self.plan(delay, What::Event(end.node, life, Event::Disconnected { peer: end.peer }));
        }
    }

    /// Ends every connection of a node that has died, and, after a partition, those across it.
    pub fn cut_all(&mut self, nodes: &[Node], which: impl Fn(NodeId, NodeId) -> bool) {
        let cut: Vec<(NodeId, PeerId)> =
            self.ends.iter().filter(|((a, _), end)| which(*a, end.node)).map(|(key, _)| *key).collect();
        for (node, peer) in cut {
            self.cut(nodes, node, peer);
        }
    }

    /// Who is at the other end.
    pub fn other(&self, node: NodeId, peer: PeerId) -> Option<NodeId> {
        self.ends.get(&(node, peer)).map(|end| end.node)
    }

    /// Whether a connection is still there.
    pub fn is_open(&self, node: NodeId, peer: PeerId) -> bool {
        self.ends.contains_key(&(node, peer))
    }
}

/// Time that a frame takes at so many bytes a second.
fn takes(frame: &[u8], bandwidth: u64) -> Duration {
    Duration::from_micros(frame.len() as u64 * 1_000_000 / bandwidth.max(1))
}

/// A frame taken apart as the shell does it.
pub fn decode(frame: Vec<u8>, max_block_bytes: u64) -> Result<Message, &'static str> {
    let kind = *frame.first().ok_or("no kind")?;
    let body = frame.get(4..).ok_or("no length")?;
    Message::decode(kind, body.to_vec(), max_block_bytes).map_err(|_| "undecodable")
}

/// Why a connection ends, for the log.
pub fn named(ending: &Ending) -> String {
    format!("{ending:?}")
}
