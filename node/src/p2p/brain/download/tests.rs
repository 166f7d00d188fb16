//! The download against peers that lie, stall and vanish.

mod machine;

use super::*;
use crate::p2p::brain::interface::Actions;
use crate::p2p::brain::sync::tests::Lab;
use crate::p2p::limits::DOWNLOAD_WINDOW_BYTES;
use crate::p2p::message::Message;
use rand::RngExt;
use setara_core::codec;
use std::collections::BTreeSet;

fn bytes(lab: &Lab, hash: &BlockHash) -> Arc<[u8]> {
    let block = lab.builder.blocks.iter().find(|block| block.hash() == *hash).expect("of the builder's chain");
    codec::encode(block).into()
}

/// Runs peers `1..=peers`, of which only those in `honest` answer, until the chain is at the tip.
fn run(seed: u64, peers: u64, honest: &[u64], lie: bool) {
    let mut lab = Lab::new(60);
    let taken = lab.chain.submit_headers(lab.headers()).expect("valid headers");
    let mut download = Download::new(DOWNLOAD_WINDOW_BYTES);
    let mut queue: Actions = Actions::new();
    for peer in 1..=peers {
        download.peer_ready(PeerId(peer), (0, u32::MAX));
        queue.extend(lab.run(|desk| download.set_best(desk, PeerId(peer), Some(taken.last))));
    }
    let mut gone: BTreeSet<PeerId> = BTreeSet::new();
    for _ in 0..2_000 {
        lab.pass(Duration::from_millis(100));
        let mut next = Actions::new();
        for action in std::mem::take(&mut queue) {
            match action {
                Action::Send(peer, Message::GetBlocks(hashes)) if !gone.contains(&peer) => {
                    for hash in hashes {
                        if honest.contains(&peer.0) {
                            let body = bytes(&lab, &hash);
                            next.extend(lab.run(|desk| assert!(download.on_block(desk, peer, body))));
                        } else if lie && lab.rng.random::<bool>() {
                            next.extend(lab.run(|desk| download.on_not_found(desk, peer, &[hash])));
                        }
                    }
                }
                Action::SubmitBlock { peer, hash, bytes, .. } => {
                    let result =
                        lab.chain.submit(codec::decode::<setara_core::block::Block>(&bytes).expect("an encoded block"));
                    next.extend(lab.run(|desk| download.on_block_taken(desk, peer, hash, &result)));
                }
                Action::Disconnect(peer, _) => {
                    assert!(!honest.contains(&peer.0), "seed {seed}: the honest peer was dropped");
                    gone.insert(peer);
                }
                Action::Blame(peer, offence) => panic!("seed {seed}: {peer:?} blamed for {offence:?}"),
                _ => {}
            }
        }
        next.extend(lab.run(|desk| download.tick(desk)));
        queue = next;
        if lab.chain.view().tip.hash() == lab.builder.tip() {
            break;
        }
    }
    assert_eq!(lab.chain.view().tip.hash(), lab.builder.tip(), "seed {seed}: not at the tip");
    for peer in 1..=peers {
        lab.run(|desk| download.peer_gone(desk, PeerId(peer)));
    }
    assert_eq!((download.in_flight_count(), download.held_bytes), (0, 0), "seed {seed}: something leaked");
}

/// BR6. Seven peers never answer; the eighth brings the node to the tip.
#[test]
fn stallers_do_not_stop_the_download() {
    run(1, 8, &[8], false);
}

/// BR12. Peers that deny what they showed, at random, cost a question each.
#[test]
fn liars_do_not_stop_the_download() {
    for seed in 0..4 {
        run(seed, 4 + seed, &[2], true);
    }
}

/// BR8. A body from a peer that was not asked ends nobody's request.
#[test]
fn state_is_per_peer() {
    let mut lab = Lab::new(3);
    let taken = lab.chain.submit_headers(lab.headers()).expect("valid headers");
    let mut download = Download::new(DOWNLOAD_WINDOW_BYTES);
    download.peer_ready(PeerId(1), (0, 0));
    lab.run(|desk| download.set_best(desk, PeerId(1), Some(taken.last)));
    assert_eq!(download.in_flight_count(), 3);
    let body = bytes(&lab, &taken.last.hash);
    lab.run(|desk| assert!(!download.on_block(desk, PeerId(2), body)));
    lab.run(|desk| download.on_not_found(desk, PeerId(2), &[taken.last.hash]));
    assert_eq!(download.in_flight_count(), 3);
}

/// What each peer is asked for.
fn asked(actions: &Actions) -> Vec<(u64, usize)> {
    let blocks = |action: &Action| match action {
        Action::Send(peer, Message::GetBlocks(hashes)) => Some((peer.0, hashes.len())),
        _ => None,
    };
    actions.iter().filter_map(blocks).collect()
}

/// BR12. A block that a peer lacked is asked of it again after a minute, or as soon as it shows more: it may have come.
#[test]
fn what_a_peer_lacked_is_asked_for_again() {
    let mut lab = Lab::new(4);
    let taken = lab.chain.submit_headers(lab.headers()).expect("valid headers");
    let third = lab.chain.headers().get(&lab.builder.blocks[3].hash()).expect("known").point();
    let hashes: Vec<BlockHash> = lab.builder.blocks[1..].iter().map(|block| block.hash()).collect();
    let mut download = Download::new(DOWNLOAD_WINDOW_BYTES);
    download.peer_ready(PeerId(1), (0, 0));
    assert_eq!(asked(&lab.run(|desk| download.set_best(desk, PeerId(1), Some(third)))), [(1, 3)]);
    assert!(asked(&lab.run(|desk| download.on_not_found(desk, PeerId(1), &hashes))).is_empty());
    lab.pass(Duration::from_secs(59));
    assert!(asked(&lab.run(|desk| download.tick(desk))).is_empty());
    lab.run(|desk| assert!(!download.has_source(desk, &third)));
    lab.pass(Duration::from_secs(1));
    assert_eq!(asked(&lab.run(|desk| download.tick(desk))), [(1, 3)]);
    lab.run(|desk| assert!(download.has_source(desk, &third)));
    assert!(asked(&lab.run(|desk| download.on_not_found(desk, PeerId(1), &hashes))).is_empty());
    assert_eq!(asked(&lab.run(|desk| download.set_best(desk, PeerId(1), Some(taken.last)))), [(1, 4)]);
}

/// A peer that has less than it showed is not asked for the rest; one that has another branch is asked for that.
#[test]
fn a_peer_is_asked_for_what_it_shows_now() {
    let mut lab = Lab::new(5);
    lab.chain.submit_headers(lab.headers()).expect("valid headers");
    let point =
        |lab: &Lab, height: usize| lab.chain.headers().get(&lab.builder.blocks[height].hash()).map(|at| at.point());
    let (second, fifth) = (point(&lab, 2), point(&lab, 5));
    let mut download = Download::new(DOWNLOAD_WINDOW_BYTES);
    download.peer_ready(PeerId(1), (0, 0));
    lab.run(|desk| download.set_best(desk, PeerId(1), fifth));
    let hashes: Vec<BlockHash> = lab.builder.blocks[1..].iter().map(|block| block.hash()).collect();
    lab.run(|desk| download.on_not_found(desk, PeerId(1), &hashes));
    assert!(asked(&lab.run(|desk| download.set_best(desk, PeerId(1), second))).is_empty());
    lab.pass(Duration::from_secs(60));
    assert_eq!(asked(&lab.run(|desk| download.tick(desk))), [(1, 2)]);
    lab.run(|desk| assert!(!download.has_source(desk, &fifth.expect("known"))));
    assert!(asked(&lab.run(|desk| download.set_best(desk, PeerId(1), None))).is_empty());
}
