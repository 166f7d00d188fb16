//! Compact bits, work and ASERT against published vectors and against an oracle in unbounded integers.

use chacha20::ChaCha20Rng;
use num_bigint::{BigInt, BigUint};
use rand_core::{Rng, SeedableRng};
use setara_core::codec::{Writer, decode};
use setara_core::consensus::HeaderState;
use setara_core::network::{Difficulty, Network};
use setara_core::pow::{CompactBits, PowError, Target, asert};

fn target(bits: u32) -> Target {
    CompactBits::new(bits).to_target().unwrap()
}

fn big(target: Target) -> BigUint {
    BigUint::from_bytes_be(&target.to_be_bytes())
}

/// Two to the power of 256.
fn ceiling() -> BigUint {
    BigUint::from(1u8) << 256
}

fn from_big(value: &BigUint) -> Target {
    let digits = value.to_bytes_be();
    let mut bytes = [0; 32];
    bytes[32 - digits.len()..].copy_from_slice(&digits);
    Target::from_be_bytes(bytes).unwrap()
}

/// The value of compact bits by Bitcoin's definition: mantissa times 256^(exponent - 3), the fraction cut off.
fn expand(bits: u32) -> BigUint {
    let (exponent, mantissa) = (bits >> 24, BigUint::from(bits & 0x7f_ffff));
    if exponent >= 3 { mantissa << (8 * (exponent - 3)) } else { mantissa >> (8 * (3 - exponent)) }
}

/// The compact form of a value by the same definition: shortest, and never with the sign bit.
fn contract(value: &BigUint) -> u32 {
    let exponents = 0..=34u32;
    let fits = |exponent: &u32| *value < BigUint::from(0x80_0000u32) << (8 * exponent) >> 24;
    let exponent = exponents.into_iter().find(fits).unwrap();
    let mantissa = if exponent >= 3 { value >> (8 * (exponent - 3)) } else { value << (8 * (3 - exponent)) };
    exponent << 24 | u32::try_from(mantissa).unwrap()
}

/// aserti3-2d from its specification, in unbounded integers.
fn oracle(
    anchor: &BigUint,
    limit: &BigUint,
    spacing: u32,
    half_life: u32,
    time_delta: i64,
    height_delta: u32,
) -> BigUint {
    let behind = BigInt::from(time_delta) - BigInt::from(spacing) * (BigInt::from(height_delta) + 1);
    // BigInt's `/` truncates toward zero and its `>>` floors, as the specification's integers do.
    let exponent: BigInt = behind * 65_536 / half_life;
    let shifts = i128::try_from(&exponent >> 16).unwrap();
    let fraction = BigUint::try_from(&exponent - (BigInt::from(shifts) << 16)).unwrap();
    let cubic = BigUint::from(195_766_423_245_049u64) * &fraction
        + BigUint::from(971_821_376u64) * fraction.pow(2)
        + BigUint::from(5_127u64) * fraction.pow(3)
        + (BigUint::from(1u8) << 47);
    let product = anchor * (BigUint::from(65_536u32) + (cubic >> 48));
    let left = shifts - 16;
    // Beyond 600 bits either way the outcome is the same, and the number would not fit in memory.
    let moved: BigUint = if left > 0 { product << left.min(600) as u64 } else { product >> left.abs().min(600) as u64 };
    moved.clamp(BigUint::from(1u8), limit.clone())
}

/// PT2: the reference vectors of the 2020-11-15 specification.
#[test]
fn asert_official_vectors() {
    let mut runs = 0;
    let mut rows = 0;
    let (mut anchor_height, mut anchor_parent_time, mut anchor) = (0u64, 0u64, Target::MAX);
    // Bitcoin Cash's limit is 2^224 - 1, not the rounded value of its compact form.
    let limit = from_big(&((BigUint::from(1u8) << 224) - 1u8));
    for line in include_str!("vectors/aserti3-2d.txt").lines() {
        let field = |name: &str| line.strip_prefix("##   ").and_then(|line| line.strip_prefix(name));
        if let Some(height) = field("anchor height: ") {
            runs += 1;
            anchor_height = height.parse().unwrap();
        } else if let Some(time) = field("anchor ancestor time: ") {
            anchor_parent_time = time.parse().unwrap();
        } else if let Some(bits) = field("anchor nBits: 0x") {
            anchor = target(u32::from_str_radix(bits, 16).unwrap());
        } else if !line.starts_with('#') && !line.is_empty() {
            let [_, height, time, bits] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let height_delta = u32::try_from(height.parse::<u64>().unwrap() - anchor_height).unwrap();
            let time_delta = i64::try_from(time.parse::<u64>().unwrap()).unwrap() - anchor_parent_time as i64;
            let next = asert(anchor, limit, 600, 172_800, time_delta, height_delta).to_compact();
            assert_eq!(format!("0x{next}"), bits, "run {runs}: {line}");
            rows += 1;
        }
    }
    assert_eq!((runs, rows), (10, 3_000));
}

/// PT2: a million random cases, and every combination of extremes, against the oracle.
#[test]
fn asert_agrees_with_unbounded_integers() {
    let extremes: &[i64] = &[0, 1, 59, 60, 61, 65_535, 65_536, 14_399, 14_400, 14_401, i64::from(u32::MAX), 1 << 47];
    let anchors = [0x207f_ffff, 0x1d00_ffff, 0x1e00_ffff, 0x1802_aee8, 0x0101_0000, 0x2100_ffff];
    let limits = [0x207f_ffff, 0x1d00_ffff, 0x0300_ffff];
    let check = |anchor: Target, limit: Target, spacing, half_life, time_delta, height_delta| {
        let ours = asert(anchor, limit, spacing, half_life, time_delta, height_delta);
        let theirs = oracle(&big(anchor), &big(limit), spacing, half_life, time_delta, height_delta);
        assert_eq!(
            big(ours),
            theirs,
            "{anchor} {limit} spacing {spacing} half-life {half_life} time {time_delta} height {height_delta}"
        );
    };
    for anchor in anchors.map(target) {
        for limit in limits.map(target).into_iter().chain([Target::MAX, Target::MIN]) {
            for time in extremes.iter().flat_map(|time| [*time, -time]).chain([i64::MIN, i64::MAX]) {
                for height in [0, 1, 2, 1_000, i32::MAX as u32, u32::MAX] {
                    for (spacing, half_life) in [(60, 14_400), (600, 172_800), (1, 1), (u32::MAX, 1), (1, u32::MAX)] {
                        check(anchor, limit, spacing, half_life, time, height);
                    }
                }
            }
        }
    }
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for _ in 0..1_000_000 {
        // Lengths before values, so that small and large exponents are as likely.
        let mut number = |bits: u32| (rng.next_u64() >> 1) >> (63 - bits.min(63)) >> (rng.next_u32() % bits);
        let (spacing, half_life) = (number(12) as u32, number(24) as u32 + 1);
        let (time, height) = (number(47) as i64, number(24) as u32);
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        let zeros = rng.next_u32() as usize % 32;
        bytes[..zeros].fill(0);
        bytes[31] |= 1;
        let anchor = Target::from_be_bytes(bytes).unwrap();
        let limit = if rng.next_u32() & 1 == 0 { Target::MAX } else { target(0x1e00_ffff) };
        let time = if rng.next_u32() & 1 == 0 { -time } else { time };
        check(anchor, limit, spacing, half_life, time + i64::from(spacing) * i64::from(height), height);
    }
}

/// PT2: an anchor of 207fffff with exponents of +-2^31 half-lives and thereabouts neither wraps nor panics.
#[test]
fn asert_at_the_ends_of_its_exponent() {
    let anchor = target(0x207f_ffff);
    for limit in [anchor, Target::MAX] {
        for exponent in [1i64 << 31, (1 << 31) - 1, (1 << 31) + 1, 1 << 15, 1 << 46] {
            assert_eq!(asert(anchor, limit, 0, 1, exponent, 0), limit);
            assert_eq!(asert(anchor, limit, 0, 1, -exponent, 0), Target::MIN);
            // The same in units of 2^-16 half-lives.
            let expected = oracle(&big(anchor), &big(limit), 0, 65_536, exponent, 0);
            assert_eq!(big(asert(anchor, limit, 0, 65_536, exponent, 0)), expected);
        }
    }
    // 255 bits of target leave in 255 half-lives, no sooner.
    assert_eq!(asert(anchor, anchor, 0, 1, -254, 0), Target::MIN);
    assert_eq!(asert(anchor, anchor, 0, 1, -253, 0), from_big(&BigUint::from(3u8)));
    // No network has a half-life of 0; the function still answers.
    assert_eq!(asert(anchor, Target::MAX, 1, 0, i64::MAX, 7), anchor);
}

/// PT2: what a header must state, from heights and times alone: block 1 of the branch is the anchor, dated one spacing
/// after its imagined parent; blocks 1 and 2 have the genesis bits.
#[test]
fn required_bits_follow_the_protocol() {
    let network = Network::main();
    let Difficulty::Asert { half_life } = network.difficulty else { panic!("main adjusts its difficulty") };
    let state = |height: u32, time: u32, anchor_time: Option<u32>| {
        let mut writer = Writer::default();
        writer.u32(height);
        writer.raw(&[0; 64]); // hash, work
        writer.count(1);
        writer.u32(time);
        match anchor_time {
            None => writer.u8(0),
            Some(time) => {
                writer.u8(1);
                writer.u32(time);
            }
        }
        decode::<HeaderState>(&writer.finish()).unwrap()
    };
    let genesis = HeaderState::genesis(&network);
    assert_eq!(genesis.required_bits(&network), network.genesis_bits);
    let launch = 1_800_000_000u32;
    assert_eq!(state(1, launch, Some(launch)).required_bits(&network), network.genesis_bits);

    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let (anchor, limit) = (expand(network.genesis_bits.get()), big(network.limit));
    for _ in 0..20_000 {
        let height = 1 + rng.next_u32() % 10_000_000;
        let late = i64::from(rng.next_u32() % 4_000_000) - 3_900_000;
        let time = i64::from(launch) + i64::from(network.spacing) * i64::from(height - 1) + late;
        let time = time.clamp(0, i64::from(u32::MAX)) as u32;
        // The protocol's own words: (time(p) - time(1) - spacing * (p - 1)) / half-life.
        let behind = i64::from(time) - i64::from(launch) - i64::from(network.spacing) * i64::from(height - 1);
        let expected = contract(&oracle(&anchor, &limit, 0, half_life, behind, 0));
        assert_eq!(state(height, time, Some(launch)).required_bits(&network).get(), expected);
    }
    // Exactly one half-life early halves the target, one late doubles it, and the limit is the end.
    let after = |late: i64| state(1_000, (i64::from(launch) + 60 * 999 + late) as u32, Some(launch));
    assert_eq!(after(0).required_bits(&network), network.genesis_bits);
    let half_life = i64::from(half_life);
    assert_eq!(after(-half_life).required_bits(&network).get(), contract(&(&anchor >> 1)));
    assert_eq!(after(half_life).required_bits(&network).get(), contract(&(&anchor << 1)));
    assert_eq!(after(40 * half_life).required_bits(&network), network.limit.to_compact());
}

/// PT1: every exponent with edge mantissas: positive, non-zero, below 2^256 and in shortest form, or refused by name.
#[test]
fn compact_bits_are_exhaustively_canonical() {
    let edges = [0u32, 1, 2, 0x7e, 0x7f, 0x80, 0x81, 0xff, 0x100, 0x101, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xffff];
    let more = [0x1_0000u32, 0x1_0001, 0x12_3456, 0x7f_fffe, 0x7f_ffff];
    let mantissas: Vec<u32> = edges.into_iter().chain(more).flat_map(|edge| [edge, edge | 0x80_0000]).collect();
    let mut accepted = 0;
    for exponent in 0..=255u32 {
        for mantissa in &mantissas {
            let bits = exponent << 24 | mantissa;
            let compact = CompactBits::new(bits);
            let value = expand(bits);
            let expected = if bits & 0x80_0000 != 0 {
                Err(PowError::Negative(compact))
            } else if value >= ceiling() {
                Err(PowError::Overflow(compact))
            } else if value == BigUint::ZERO {
                Err(PowError::Zero(compact))
            } else if contract(&value) != bits {
                Err(PowError::NonCanonical(compact))
            } else {
                accepted += 1;
                Ok(from_big(&value))
            };
            assert_eq!(compact.to_target(), expected, "{compact}");
        }
    }
    // Eight of the mantissas are full for exponents 3 to 32, three fit at 33, two at 2 and one at 1.
    assert_eq!(accepted, 8 * 30 + 3 + 2 + 1);
}

/// Bitcoin Core's own examples (arith_uint256 tests): value, then the compact form of that value.
#[test]
fn compact_bits_agree_with_bitcoin_core() {
    let zero = |bits| PowError::Zero(CompactBits::new(bits));
    for bits in [0, 0x0012_3456, 0x0100_3456, 0x0200_0056, 0x0300_0000, 0x0400_0000] {
        assert_eq!(CompactBits::new(bits).to_target(), Err(zero(bits)));
    }
    for (value, bits) in [(0x12u32, 0x0112_0000), (0x80, 0x0200_8000), (0x1234, 0x0212_3400), (0x12_3456, 0x0312_3456)]
    {
        assert_eq!(target(bits), from_big(&value.into()));
    }
    assert_eq!(target(0x0412_3456), from_big(&0x1234_5600u32.into()));
    assert_eq!(target(0x0500_9234), from_big(&0x9234_0000u32.into()));
    assert_eq!(target(0x2012_3456), from_big(&(BigUint::from(0x12_3456u32) << 232)));
    let refused = [0x0112_3456, 0x01fe_dcba, 0x0492_3456, 0xff12_3456];
    let named: Vec<PowError> = refused.map(|bits| CompactBits::new(bits).to_target().unwrap_err()).to_vec();
    assert!(matches!(
        named[..],
        [PowError::NonCanonical(_), PowError::Negative(_), PowError::Negative(_), PowError::Overflow(_)]
    ));
}

/// PT8: work is floor(2^256 / (target + 1)) and sums exactly; compact forms only ever round down.
#[test]
fn work_and_rounding_agree_with_unbounded_integers() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let mut targets = vec![Target::MIN, Target::MAX, target(0x207f_ffff), target(0x1d00_ffff)];
    for _ in 0..20_000 {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        let zeros = rng.next_u32() as usize % 32;
        bytes[..zeros].fill(0);
        bytes[31] |= 1;
        targets.push(Target::from_be_bytes(bytes).unwrap());
    }
    for target in targets {
        let expected: BigUint = ceiling() / (big(target) + 1u8);
        let work = target.work().to_be_bytes();
        if target == Target::MIN {
            assert_eq!(expected, BigUint::from(1u8) << 255);
        }
        assert_eq!(BigUint::from_bytes_be(&work), expected, "{target}");
        let compact = target.to_compact();
        assert_eq!(compact.get(), contract(&big(target)), "{target}");
        let rounded = compact.to_target().unwrap();
        assert!(rounded <= target && rounded.to_compact() == compact);
    }
    assert_eq!(Target::from_be_bytes([0; 32]), None);
}
