//! The tree of headers against naive walks over random trees.

use super::super::headers::SharedTree;
use super::super::tree::{HeaderTree, NodeId};
use super::*;
use crate::chain::hasher::KeyedState;
use crate::store::schema::flags;
use crate::testing::{mine_header, quick_network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use setara_core::block::Header;
use setara_core::consensus::{BlockDelta, HeaderState, check_header};
use setara_core::hash::Hash256;

/// What the tree should say, by walking parents.
struct Naive {
    /// Of each node its parent, and its own state.
    nodes: Vec<(Option<usize>, HeaderState)>,
    ids: Vec<NodeId>,
    bodies: Vec<bool>,
    marked: Vec<bool>,
}

impl Naive {
    /// The branch that ends in a node, highest first.
    fn line(&self, node: usize) -> Vec<usize> {
        std::iter::successors(Some(node), |node| self.nodes[*node].0).collect()
    }

    fn is_bad(&self, node: usize) -> bool {
        self.line(node).iter().any(|node| self.marked[*node])
    }

    /// Most work among those that are not bad; the first known on equal work.
    fn best(&self) -> usize {
        let sound = (0..self.nodes.len()).filter(|node| !self.is_bad(*node));
        let most = sound.clone().map(|node| self.nodes[node].1.work).max().unwrap();
        sound.clone().find(|node| self.nodes[*node].1.work == most).unwrap()
    }

    fn hash(&self, node: usize) -> BlockHash {
        self.nodes[node].1.hash
    }

    /// Missing bodies of a branch, lowest first.
    fn missing(&self, node: usize, ahead: u32, max: usize) -> Vec<BlockHash> {
        if self.is_bad(node) {
            return Vec::new();
        }
        let mut line = self.line(node);
        line.reverse();
        let gap = line.iter().position(|node| !self.bodies[*node]).unwrap_or(line.len());
        let within = line[gap..].iter().take(ahead as usize).filter(|node| !self.bodies[**node]);
        within.take(max).map(|node| self.hash(*node)).collect()
    }

    /// Ten by one step, then by steps that double, genesis last.
    fn locator(&self, node: usize) -> Vec<BlockHash> {
        let mut line = self.line(node);
        line.reverse();
        let mut at = line.len() as i64 - 1;
        let (mut hashes, mut step) = (Vec::new(), 1);
        while at > 0 {
            hashes.push(self.hash(line[at as usize]));
            step = if hashes.len() >= 10 { step * 2 } else { 1 };
            at -= step;
        }
        hashes.push(self.hash(0));
        hashes
    }
}

pub(super) fn child(network: &Network, parent: &HeaderState, rng: &mut StdRng) -> (HeaderState, Header) {
    let mut header = Header {
        version: 0x2000_0000,
        previous: parent.hash,
        merkle_root: Hash256::from_bytes([rng.random(); 32]),
        time: (parent.time() + rng.random_range(1..network.spacing * 3)).max(parent.median_time_past() + 1),
        bits: parent.required_bits(network),
        nonce: 0,
    };
    mine_header(&mut header);
    (check_header(network, parent, &header).unwrap(), header)
}

fn compare(tree: &SharedTree, naive: &Naive, rng: &mut StdRng, context: &str) {
    let headers = tree.reader();
    assert_eq!(headers.best().point().hash, naive.hash(naive.best()), "{context}");
    for _ in 0..6 {
        let (a, b) = (rng.random_range(0..naive.nodes.len()), rng.random_range(0..naive.nodes.len()));
        let known = headers.get(&naive.hash(a)).unwrap();
        assert_eq!((known.bad, known.has_body), (naive.is_bad(a), naive.bodies[a]), "{context}");
        let (line, other) = (naive.line(a), naive.line(b));
        let shared = line.iter().find(|node| other.contains(node)).unwrap();
        let fork = headers.fork(&naive.hash(a), &naive.hash(b)).unwrap();
        assert_eq!(fork.hash, naive.hash(*shared), "{context}");
        assert_eq!(headers.locator(&naive.hash(a)), naive.locator(a), "{context}");
        for (height, node) in line.iter().rev().enumerate() {
            let found = headers.ancestor(&naive.hash(a), testing::height(height as u32)).unwrap();
            assert_eq!(found.point().hash, naive.hash(*node), "{context}");
        }
        assert!(headers.ancestor(&naive.hash(a), testing::height(line.len() as u32)).is_none());
        let (ahead, max) = (rng.random_range(0..12), rng.random_range(0..12));
        let missing: Vec<_> =
            headers.missing_bodies(&naive.hash(a), ahead, max).iter().map(|point| point.hash).collect();
        assert_eq!(missing, naive.missing(a, ahead, max), "{context}");
    }
}

/// ST11, SY: on random trees with bodies, failures and second thoughts, the best header, forks, ancestors, locators and
/// missing bodies are those of a naive walk.
#[test]
fn st11_random_trees_agree_with_a_naive_walk() {
    let network = quick_network();
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let state = *BlockDelta::genesis(&network).header();
        let tree = SharedTree::new(HeaderTree::new(state, network.genesis().header, 100, KeyedState::new(1, 2)));
        let mut naive =
            Naive { nodes: vec![(None, state)], ids: vec![tree.genesis()], bodies: vec![true], marked: vec![false] };
        // Long branches in one half of the runs, bushes in the other.
        let recent = if seed % 2 == 0 { 3 } else { 200 };
        for step in 0..250 {
            let count = naive.nodes.len();
            match rng.random_range(0..10) {
                0..=5 => {
                    let parent = rng.random_range(count.saturating_sub(recent)..count);
                    let (state, header) = child(&network, &naive.nodes[parent].1, &mut rng);
                    let id = tree.insert(naive.ids[parent], state, header);
                    assert_eq!(tree.insert(naive.ids[parent], state, header), id, "known ones stay what they are");
                    if !naive.ids.contains(&id) {
                        naive.nodes.push((Some(parent), state));
                        naive.ids.push(id);
                        naive.bodies.push(false);
                        naive.marked.push(false);
                    }
                }
                6 | 7 => {
                    let node = rng.random_range(0..count);
                    if !naive.bodies[node] {
                        tree.set_body(naive.ids[node], 1, 100);
                        naive.bodies[node] = true;
                    }
                }
                8 if count > 1 => {
                    let node = rng.random_range(count / 2..count).max(1);
                    let bit = if rng.random() { flags::FAILED } else { flags::INVALIDATED };
                    tree.set_bad(naive.ids[node], bit);
                    naive.marked[node] = true;
                    if bit == flags::FAILED {
                        tree.drop_body(naive.ids[node]);
                        naive.bodies[node] = false;
                    }
                }
                _ => {
                    let node = rng.random_range(0..count);
                    tree.reconsider(naive.ids[node]);
                    let below = naive.line(node);
                    for other in 0..count {
                        if below.contains(&other) || naive.line(other).contains(&node) {
                            naive.marked[other] = false;
                        }
                    }
                }
            }
            if step % 5 == 0 {
                compare(&tree, &naive, &mut rng, &format!("seed {seed}, step {step}"));
            }
        }
    }
}
