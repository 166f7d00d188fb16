//! The two passes against chains that lie.

use super::*;
use crate::testing::{mine_header, network};
use rand::SeedableRng;
use setara_core::pow::Target;
use std::sync::Arc;

/// Trivial work, at most one height a second: a generated chain is a few milliseconds a thousand.
fn easy() -> Arc<Network> {
    network(|parameters| {
        parameters.limit = Target::from_be_bytes([0x7f; 32]).expect("not zero").to_compact().to_target().unwrap();
        parameters.genesis_bits = parameters.limit.to_compact();
    })
}

/// The header above a state; `salt` tells branches apart.
fn above(network: &Network, state: &HeaderState, salt: u32) -> Header {
    let time = (state.time() + network.spacing).max(state.median_time_past() + 1);
    let bits = state.required_bits(network);
    let merkle_root = Hash256::ZERO;
    let mut header = Header { version: salt, previous: state.hash, merkle_root, time, bits, nonce: 0 };
    mine_header(&mut header);
    header
}

/// Headers above a state, and the state after them.
fn chain(network: &Network, mut state: HeaderState, count: usize, salt: u32) -> (Vec<Header>, HeaderState) {
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let header = above(network, &state, salt);
        state = check_header(network, &state, &header).expect("made by the rules");
        headers.push(header);
    }
    (headers, state)
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

const LATER: u64 = 1_767_225_600 + 10_000_000;

/// BR1. A long chain of little work leaves nothing behind, and memory does not follow its length.
#[test]
fn low_work_is_bounded() {
    let network = easy();
    let mut presync =
        Presync::new(&network, HeaderState::genesis(&network), Work::from_be_bytes([1; 32]), LATER, &mut rng());
    let mut state = HeaderState::genesis(&network);
    for _ in 0..100 {
        let (headers, next) = chain(&network, state, 2_000, 1);
        state = next;
        assert_eq!(presync.take(&network, LATER, &headers), PresyncStep::Next(state.hash, Vec::new()));
        assert!(presync.bytes() < 2_000, "{} bytes", presync.bytes());
    }
    let (headers, _) = chain(&network, state, 7, 1);
    assert_eq!(presync.take(&network, LATER, &headers), PresyncStep::End(PresyncEnd::LowWork));
}

/// BR1. No chain of a given work is longer than time allows.
#[test]
fn height_is_bounded_by_time() {
    let network = easy();
    let now = u64::from(network.genesis_time) - u64::from(network.max_future_seconds) + 400;
    let mut presync =
        Presync::new(&network, HeaderState::genesis(&network), Work::from_be_bytes([1; 32]), now, &mut rng());
    // Six headers a second are what median time past allows.
    let mut state = HeaderState::genesis(&network);
    let mut headers = Vec::new();
    for _ in 0..2_000u32 {
        let mut header = above(&network, &state, 1);
        header.time = state.median_time_past() + 1;
        mine_header(&mut header);
        state = check_header(&network, &state, &header).unwrap();
        headers.push(header);
    }
    assert_eq!(presync.take(&network, now, &headers), PresyncStep::Next(state.hash, Vec::new()));
    let mut ended = None;
    for _ in 0..1_000u32 {
        let mut header = above(&network, &state, 1);
        header.time = state.median_time_past() + 1;
        mine_header(&mut header);
        state = check_header(&network, &state, &header).unwrap();
        if let PresyncStep::End(end) = presync.take(&network, now, &[header]) {
            ended = Some(end);
            break;
        }
    }
    assert!(matches!(ended, Some(PresyncEnd::Early | PresyncEnd::TooMany | PresyncEnd::LowWork)), "{ended:?}");
    assert!(height_max(&network, Work::ZERO, now) <= 6 * 401);

    let asert = network_asert();
    let first = HeaderState::genesis(&asert).work;
    let now = u64::from(asert.genesis_time) + 60_000;
    let cap = |work| height_max(&asert, work, now);
    assert!(cap(first) >= 1_000 && cap(first) < 1_000 + 4 * 1_440, "{}", cap(first));
    let huge = first.checked_mul(1 << 30).unwrap().checked_mul(1 << 30).unwrap();
    assert!(cap(huge) > 60 * 1_440 && cap(huge) < 1_000 + 64 * 1_440, "{}", cap(huge));
}

fn network_asert() -> Arc<Network> {
    network(|parameters| {
        parameters.difficulty = Difficulty::Asert { half_life: 86_400 };
        parameters.spacing = 60;
        parameters.max_future_seconds = 600;
    })
}

/// BR2. Exact bits, median time and the clock hold in the first pass; a wrong clock is nobody's fault.
#[test]
fn rules_hold_in_the_first_pass() {
    let network = network_asert();
    let genesis = HeaderState::genesis(&network);
    let (headers, state) = chain(&network, genesis, 30, 1);
    let now = u64::from(state.time());
    let last = above(&network, &state, 1);
    type Case = (&'static str, fn(&mut Header), &'static str);
    let cases: [Case; 4] = [
        ("stamped to 2106", |header| header.time = u32::MAX, "early"),
        ("a second too far", |header| header.time += 600, "early"),
        ("too old", |header| header.time -= 60 * 20, "invalid"),
        ("bits of its own", |header| header.bits = CompactBits::new(0x207f_fffe), "invalid"),
    ];
    for (name, corrupt, expected) in cases {
        let mut presync = Presync::new(&network, genesis, Work::from_be_bytes([1; 32]), now, &mut rng());
        let mut bad = last;
        corrupt(&mut bad);
        mine_header(&mut bad);
        let mut sent = headers.clone();
        sent.push(bad);
        match (presync.take(&network, now, &sent), expected) {
            (PresyncStep::End(PresyncEnd::Early), "early") | (PresyncStep::End(PresyncEnd::Invalid(_)), "invalid") => {}
            (step, _) => panic!("{name}: {step:?}"),
        }
        assert_eq!(presync.state().height.get(), 30, "{name}: ended at the first bad header");
    }
}

/// BR1, BR3. An honest chain passes twice, whole and in order; memory stays under one MiB.
#[test]
fn honest_chain_passes() {
    let network = easy();
    let genesis = HeaderState::genesis(&network);
    let (headers, end) = chain(&network, genesis, 18_000, 1);
    let mut presync = Presync::new(&network, genesis, end.work, LATER, &mut rng());
    for message in headers.chunks(2_000) {
        assert!(matches!(presync.take(&network, LATER, message), PresyncStep::Next(_, none) if none.is_empty()));
    }
    assert!(presync.is_second_pass());
    let mut released = Vec::new();
    for message in headers.chunks(2_000) {
        match presync.take(&network, LATER, message) {
            PresyncStep::Next(_, out) | PresyncStep::Done(out) => released.extend(out),
            PresyncStep::End(end) => panic!("{end:?}"),
        }
        assert!(presync.bytes() < 1 << 20, "{} bytes", presync.bytes());
    }
    assert!(released == headers, "all of them, in order");
}

/// BR3. Another chain on the second pass is caught before any of it is released.
#[test]
fn another_chain_is_caught() {
    let network = easy();
    let genesis = HeaderState::genesis(&network);
    let (good, end) = chain(&network, genesis, 18_000, 1);
    let (bait, _) = chain(&network, genesis, 18_000, 2);
    let mut presync = Presync::new(&network, genesis, end.work, LATER, &mut rng());
    for message in good.chunks(2_000) {
        presync.take(&network, LATER, message);
    }
    let mut caught = false;
    for message in bait.chunks(2_000) {
        match presync.take(&network, LATER, message) {
            PresyncStep::Next(_, out) => assert!(out.is_empty(), "released before it was caught"),
            PresyncStep::Done(_) => panic!("the other chain passed"),
            PresyncStep::End(end) => {
                assert_eq!(end, PresyncEnd::Changed);
                caught = true;
                break;
            }
        }
    }
    assert!(caught);
}
