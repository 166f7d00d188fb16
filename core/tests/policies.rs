//! Every policy up to three levels of a small alphabet, with every shape of witness, against an oracle written from the
//! table of policies alone.

use setara_core::address::Address;
use setara_core::codec::{CodecError, Writer, decode, encode};
use setara_core::hash::{sha256, tagged};
use setara_core::keys::{PublicKey, Signature};
use setara_core::policy::{SpendPolicy, Timelock, satisfy};
use setara_core::transaction::Witness;

const PREIMAGE: [u8; 32] = [7; 32];
const WRONG: [u8; 32] = [8; 32];

fn leaves() -> Vec<SpendPolicy> {
    vec![
        SpendPolicy::Key(PublicKey::from_bytes([1; 32])),
        SpendPolicy::After(300),
        SpendPolicy::Older(2),
        SpendPolicy::Hash(sha256(&PREIMAGE)),
        SpendPolicy::Opaque(Address::from_bytes([9; 32])),
        SpendPolicy::Future { tag: 200, bytes: vec![1, 2, 3] },
    ]
}

/// Every list of one to `longest` of `items`.
fn lists(items: &[SpendPolicy], longest: usize) -> Vec<Vec<SpendPolicy>> {
    let mut all: Vec<Vec<SpendPolicy>> = Vec::new();
    let mut last = vec![vec![]];
    for _ in 0..longest {
        last = last
            .iter()
            .flat_map(|list: &Vec<SpendPolicy>| {
                items.iter().map(|item| [list.as_slice(), std::slice::from_ref(item)].concat())
            })
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

fn thresholds(items: &[SpendPolicy], longest: usize) -> Vec<SpendPolicy> {
    let with_each_n =
        |of: Vec<SpendPolicy>| (0..=of.len() as u8 + 1).map(move |n| SpendPolicy::Threshold { n, of: of.clone() });
    lists(items, longest).into_iter().flat_map(with_each_n).collect()
}

fn policies() -> Vec<SpendPolicy> {
    let leaves = leaves();
    let second = thresholds(&leaves, 3);
    let children: Vec<SpendPolicy> = leaves.iter().cloned().chain(thresholds(&leaves, 2)).collect();
    let third = thresholds(&children, 2);
    leaves.into_iter().chain(second).chain(third).collect()
}

/// What satisfies a policy: places of keys, locks, and how many preimages and future items.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    keys: Vec<Vec<u8>>,
    locks: Vec<Timelock>,
    preimages: usize,
    futures: usize,
}

/// Nothing satisfies it: `None`.
fn needs(policy: &SpendPolicy, place: &[u8], needed: &mut Needs) -> Option<()> {
    match policy {
        SpendPolicy::Key(_) => needed.keys.push(place.to_vec()),
        SpendPolicy::After(height) => needed.locks.push(Timelock::After(*height)),
        SpendPolicy::AfterTime(time) => needed.locks.push(Timelock::AfterTime(*time)),
        SpendPolicy::Older(blocks) => needed.locks.push(Timelock::Older(*blocks)),
        SpendPolicy::Hash(_) => needed.preimages += 1,
        SpendPolicy::Future { .. } => needed.futures += 1,
        SpendPolicy::Opaque(_) => return None,
        SpendPolicy::Threshold { n, of } => {
            let hidden = of.iter().filter(|child| matches!(child, SpendPolicy::Opaque(_))).count();
            if *n == 0 || of.len() - hidden != usize::from(*n) {
                return None;
            }
            for (position, child) in of.iter().enumerate() {
                if !matches!(child, SpendPolicy::Opaque(_)) {
                    needs(child, &[place, &[position as u8]].concat(), needed)?;
                }
            }
        }
    }
    Some(())
}

/// The address by the definition, written byte by byte.
fn address(policy: &SpendPolicy) -> [u8; 32] {
    let mut bytes = Vec::new();
    match policy {
        SpendPolicy::Opaque(address) => return *address.as_bytes(),
        SpendPolicy::Threshold { n, of } => {
            bytes.extend([1, *n, of.len() as u8]);
            for child in of {
                bytes.push(6);
                bytes.extend(address(child));
            }
        }
        SpendPolicy::Key(key) => bytes.extend([&[0][..], key.as_bytes()].concat()),
        SpendPolicy::Hash(hash) => bytes.extend([&[5][..], hash].concat()),
        SpendPolicy::After(300) => bytes.extend([2, 251, 0x2c, 0x01]),
        SpendPolicy::Older(2) => bytes.extend([4, 2]),
        SpendPolicy::Future { tag: 200, bytes: held } => bytes.extend([&[200, 3][..], held].concat()),
        other => unreachable!("not in the alphabet: {other:?}"),
    }
    *tagged("setara/policy", &[&bytes]).as_bytes()
}

/// Whether the table allows this tree at all.
fn decodes(policy: &SpendPolicy, is_root: bool) -> bool {
    match policy {
        SpendPolicy::Opaque(_) => !is_root,
        SpendPolicy::Threshold { n, of } => {
            (1..=of.len()).contains(&usize::from(*n)) && of.iter().all(|child| decodes(child, false))
        }
        _ => true,
    }
}

/// CS9.
#[test]
fn every_small_policy_agrees_with_the_table() {
    let (mut satisfied, mut refused) = (0u32, 0u32);
    for policy in policies() {
        let mut needed = Needs::default();
        let possible = needs(&policy, &[], &mut needed).is_some();
        for signatures in 0..=needed.keys.len() + 1 {
            for preimages in 0..=needed.preimages + 1 {
                for futures in 0..=needed.futures + 1 {
                    let mut witness = Witness {
                        policy: policy.clone(),
                        signatures: (0..signatures).map(|number| Signature::from_bytes([number as u8; 64])).collect(),
                        preimages: vec![PREIMAGE; preimages],
                        future: vec![vec![]; futures],
                    };
                    let exact =
                        (signatures, preimages, futures) == (needed.keys.len(), needed.preimages, needed.futures);
                    match satisfy(&witness) {
                        Ok(claims) => {
                            assert!(possible && exact, "satisfied, but should not be: {witness:?}");
                            let places: Vec<_> = claims.signatures.iter().map(|claim| claim.path.clone()).collect();
                            assert_eq!(places, needed.keys, "{policy:?}");
                            // In pre-order: the first signature is for the first key.
                            for (number, claim) in claims.signatures.iter().enumerate() {
                                assert_eq!(claim.signature, Signature::from_bytes([number as u8; 64]));
                            }
                            assert_eq!(claims.timelocks, needed.locks, "{policy:?}");
                            satisfied += 1;
                            if let Some(last) = witness.preimages.last_mut() {
                                *last = WRONG;
                                assert!(satisfy(&witness).is_err(), "a wrong preimage satisfies {policy:?}");
                            }
                        }
                        Err(reason) => {
                            assert!(!(possible && exact), "refused ({reason}), but should not be: {witness:?}");
                            refused += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(satisfied > 2_000 && refused > 100_000, "{satisfied} satisfied, {refused} refused");
}

/// CS9. Addresses are as defined, hiding a branch keeps them, and only trees of the table decode.
#[test]
fn addresses_and_encodings_follow_the_definition() {
    for policy in policies() {
        assert_eq!(*policy.address().as_bytes(), address(&policy), "{policy:?}");
        if let SpendPolicy::Threshold { n, of } = &policy {
            for hidden in 0..of.len() {
                let mut of = of.clone();
                of[hidden] = SpendPolicy::Opaque(of[hidden].address());
                assert_eq!(SpendPolicy::Threshold { n: *n, of }.address(), policy.address());
            }
        }
        let allowed = decodes(&policy, true);
        let decoded = decode::<SpendPolicy>(&encode(&policy));
        assert_eq!(decoded.is_ok(), allowed, "{policy:?}");
        assert_eq!(policy.validate().is_ok(), allowed, "{policy:?}");
        if let Ok(decoded) = decoded {
            assert_eq!(decoded, policy);
        }
    }
}

/// CS9. Tags 7 to 127 mean nothing, whatever follows; 128 to 255 carry up to 255 bytes.
#[test]
fn unknown_tags_do_not_decode_and_future_ones_do() {
    for tag in 7..=127 {
        for length in 0..80 {
            let bytes = [&[tag][..], &vec![0; length]].concat();
            assert!(decode::<SpendPolicy>(&bytes).is_err(), "tag {tag}");
        }
    }
    for tag in 128..=255 {
        for length in [0, 1, 255] {
            let bytes = [&[tag, length][..], &vec![3; usize::from(length)]].concat();
            let policy = SpendPolicy::Future { tag, bytes: vec![3; usize::from(length)] };
            assert_eq!(decode(&bytes), Ok(policy));
        }
    }
}

/// CS8. Built in memory, a policy can be deeper than any decoder allows: it is measured, not walked.
#[test]
fn hand_made_depth_is_measured_without_recursion() {
    let mut deep = SpendPolicy::After(1);
    for _ in 0..200_000 {
        deep = SpendPolicy::Threshold { n: 1, of: vec![deep] };
    }
    assert!(deep.validate().is_err());
    let witness = Witness { policy: deep, signatures: vec![], preimages: vec![], future: vec![] };
    assert!(satisfy(&witness).is_err());
    // Dropping it level by level: `Drop` of a nested value recurses, and only a test can build one this deep.
    let mut policy = witness.policy;
    while let SpendPolicy::Threshold { mut of, .. } = policy {
        policy = of.pop().unwrap_or(SpendPolicy::After(0));
    }
}

/// The widest and the deepest tree that are allowed, and one more of each.
#[test]
fn nodes_and_levels_are_counted_exactly() {
    let wide = |hidden: usize| SpendPolicy::Threshold {
        n: 1,
        of: std::iter::once(SpendPolicy::After(1))
            .chain((0..hidden).map(|_| SpendPolicy::Opaque(Address::ZERO)))
            .collect(),
    };
    // With the root and one revealed child, 62 hidden ones make 64 nodes.
    assert!(wide(62).validate().is_ok());
    // Counted before anything is written: the decoder would find fault with the number of children first.
    let too_large = CodecError::Policy("deeper than 8 levels or more than 64 nodes");
    assert_eq!(wide(63).validate(), Err(too_large));
    let nested = |inner: SpendPolicy, hidden: usize| SpendPolicy::Threshold {
        n: 1,
        of: std::iter::once(inner).chain((0..hidden).map(|_| SpendPolicy::Opaque(Address::ZERO))).collect(),
    };
    assert!(nested(wide(30), 31).validate().is_ok(), "1 + 32 + 31 = 64 nodes");
    assert!(nested(wide(30), 32).validate().is_err());
    for (policy, sound) in [(nested(wide(30), 31), true), (nested(wide(30), 32), false), (wide(62), true)] {
        let witness = Witness { policy, signatures: vec![], preimages: vec![], future: vec![] };
        assert_eq!(satisfy(&witness).is_ok(), sound, "what cannot be decoded cannot be satisfied");
    }
    let mut writer = Writer::default();
    wide(62).write_to(&mut writer);
    assert!(decode::<SpendPolicy>(writer.as_slice()).is_ok());
    for (levels, sound) in [(8, true), (9, false)] {
        let policy = (1..levels).fold(SpendPolicy::After(1), |inner, _| nested(inner, 0));
        assert_eq!(policy.validate().is_ok(), sound, "{levels} levels");
        let witness = Witness { policy, signatures: vec![], preimages: vec![], future: vec![] };
        assert_eq!(satisfy(&witness).is_ok(), sound, "{levels} levels");
    }
}

/// What people read and what a mempool asks: every kind of policy, alone and below a threshold.
#[test]
fn policies_describe_themselves() {
    let kinds = [
        (SpendPolicy::Key(PublicKey::from_bytes([1; 32])), format!("key {}", "01".repeat(32))),
        (SpendPolicy::After(300), "after 300".to_owned()),
        (SpendPolicy::AfterTime(301), "after-time 301".to_owned()),
        (SpendPolicy::Older(2), "older 2".to_owned()),
        (SpendPolicy::Hash([3; 32]), format!("hash {}", "03".repeat(32))),
        (SpendPolicy::Opaque(Address::from_bytes([9; 32])), format!("opaque {}", "09".repeat(32))),
        (SpendPolicy::Future { tag: 200, bytes: vec![1, 2] }, "future 200 0102".to_owned()),
    ];
    for (policy, text) in &kinds {
        let future = matches!(policy, SpendPolicy::Future { .. });
        assert_eq!((policy.describe(), policy.has_future()), (text.clone(), future));
        assert_eq!(policy.children(), []);
        let of = vec![SpendPolicy::After(1), policy.clone()];
        let above = SpendPolicy::Threshold { n: 1, of: of.clone() };
        assert_eq!((above.describe(), above.has_future()), (format!("1 of (after 1, {text})"), future));
        assert_eq!(above.children(), of);
    }
}
