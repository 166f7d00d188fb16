//! The download against peers that lie, stall and vanish.

use super::*;
use crate::p2p::brain::interface::Actions;
use crate::p2p::brain::sync::tests::Lab;
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
    let mut download = Download::new();
    let mut queue: Actions = Actions::new();
    for peer in 1..=peers {
        download.peer_ready(PeerId(peer), (0, u32::MAX));
        queue.extend(lab.run(|desk| download.set_best(desk, PeerId(peer), taken.last)));
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
    let mut download = Download::new();
    download.peer_ready(PeerId(1), (0, 0));
    lab.run(|desk| download.set_best(desk, PeerId(1), taken.last));
    assert_eq!(download.in_flight_count(), 3);
    let body = bytes(&lab, &taken.last.hash);
    lab.run(|desk| assert!(!download.on_block(desk, PeerId(2), body)));
    lab.run(|desk| download.on_not_found(desk, PeerId(2), &[taken.last.hash]));
    assert_eq!(download.in_flight_count(), 3);
}
