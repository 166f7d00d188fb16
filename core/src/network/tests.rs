//! Networks: the three built in are pinned, every field of a file is held to its range, emission is exact.

use super::*;
use crate::hash::sha256;
use crate::nonce::find_nonce;
use serde_json::{Value, json};

/// A file as a value whose fields can be changed.
fn file(network: &Network) -> Value {
    serde_json::from_str(&network.to_json()).unwrap()
}

/// `dev`, with one field changed and the work done again.
fn changed(field: &str, value: Value) -> Result<Network, NetworkError> {
    let mut object = file(&Network::dev());
    object[field] = value;
    mined(&object)
}

fn mined(object: &Value) -> Result<Network, NetworkError> {
    let mut parameters = Parameters::from_json(&object.to_string())?;
    parameters.check()?;
    let target = parameters.genesis_bits.to_target().unwrap();
    parameters.genesis_nonce = find_nonce(&parameters.genesis_block().header, target, 0..=u32::MAX).unwrap();
    Network::new(parameters)
}

#[test]
fn built_in_networks_are_pinned() {
    let golden = [
        (Network::main(), "main", "00000001f8fa5a8c396cfe06ee6ea77cbe3560f26838a77adc8b3331d2faee90", 0x1d03_ffff),
        (Network::test(), "test", "0000006e0c0fc7189258cd136c517c2c26fc70736896df3752fa6297ec021b42", 0x1e00_ffff),
        (Network::dev(), "regtest", "774846e1d3fd4958e6af65e7cb3afadd4bc67ea2b3f2679cf1c3eecef3876da2", 0x207f_ffff),
    ];
    for (network, chain_name, hash, bits) in golden {
        assert_eq!(network.genesis_hash().to_string(), hash, "{}", network.name);
        assert_eq!(network.genesis().hash(), network.genesis_hash());
        assert_eq!(network.genesis_bits.get(), bits);
        assert_eq!(network.chain_name(), chain_name);
        assert_eq!(Network::built_in(&network.name), Some(network));
    }
    assert_eq!(Network::built_in("Main"), None);
}

#[test]
fn built_in_files_are_in_our_own_format() {
    let main = include_str!("../../../genesis.json");
    for text in [main, include_str!("../../networks/test.json"), include_str!("../../networks/dev.json")] {
        assert_eq!(Network::from_json(text).unwrap().to_json(), text);
    }
}

/// The consensus hash of `dev`, byte for byte as the protocol lists it.
#[test]
fn consensus_hash_is_the_specified_bytes() {
    let dev = Network::dev();
    let mut bytes = Vec::new();
    bytes.extend(b"\x03dev\x04DSET\x04dset");
    bytes.push(1); // spacing
    bytes.push(0); // fixed
    bytes.extend([252, 0xff, 0xff, 0x7f, 0x20]); // limit
    bytes.push(0); // half-life
    bytes.extend([252, 0x00, 0x8d, 0x27, 0x00]); // 2,592,000 seconds
    bytes.extend([252, 0x00, 0x09, 0x3d, 0x00]); // 4,000,000 bytes
    bytes.extend([252, 0x00, 0x65, 0xcd, 0x1d]); // 500,000,000 sen
    bytes.push(150);
    bytes.extend([253, 0x00, 0x40, 0x07, 0x5a, 0xf0, 0x75, 0x07, 0x00]); // 21,000,000 coins
    bytes.push(100);
    bytes.push(0); // no allocations
    let tag = sha256(b"setara/genesis");
    let expected = sha256(&[&tag[..], &tag[..], &bytes].concat());
    assert_eq!(dev.consensus_hash().as_bytes(), &expected);

    let genesis = dev.genesis();
    let extra = [&expected[..], dev.message.as_bytes()].concat();
    assert_eq!(genesis.coinbase.extra, extra);
    assert_eq!(genesis.coinbase.outputs, [Output { amount: Amount::ZERO, address: Address::ZERO }]);
    assert_eq!(genesis.coinbase.coins_root, Lattice::empty().root());
    assert_eq!(genesis.header.merkle_root, genesis.coinbase.txid().hash());
    assert_eq!(genesis.header.previous, BlockHash::ZERO);
    assert_eq!(genesis.header.time, dev.genesis_time);
}

#[test]
fn every_consensus_field_moves_the_hash_and_no_other_does() {
    let dev = Network::dev();
    let address = Address::from_bytes([1; 32]).to_text(&dev.prefix);
    let consensus = [
        ("name", json!("dev2")),
        ("ticker", json!("DSE")),
        ("prefix", json!("dse")),
        ("spacing_seconds", json!(2)),
        ("limit", json!("207ffffe")),
        ("max_future_seconds", json!(1)),
        ("max_block_bytes", json!(4_000_001)),
        ("initial_subsidy", json!("4.99999999")),
        ("halving_interval", json!(151)),
        ("supply_cap", json!("20999999.99999999")),
        ("maturity", json!(101)),
        ("allocations", json!([{"address": address, "amount": "0.00000001"}])),
    ];
    let mut hashes = std::collections::BTreeSet::from([*dev.consensus_hash().as_bytes()]);
    for (field, value) in consensus {
        let mut object = file(&dev);
        object[field] = value;
        object["genesis_bits"] = json!("1f7fffff");
        let network = mined(&object).unwrap();
        assert!(hashes.insert(*network.consensus_hash().as_bytes()), "{field}");
        assert_eq!(Network::from_json(&network.to_json()), Ok(network), "{field}");
    }
    let mut asert = file(&dev);
    asert["difficulty"] = json!("asert");
    for half_life in [62_208_000u32, 62_208_001] {
        asert["half_life_seconds"] = json!(half_life);
        assert!(hashes.insert(*mined(&asert).unwrap().consensus_hash().as_bytes()));
    }
    let others = [
        ("message", json!("hello")),
        ("genesis_time", json!(5)),
        ("genesis_bits", json!("207ffffe")),
        ("p2p_port", json!(5)),
        ("bootstrap", json!(["seed.example:19740", "[::1]:5", "127.0.0.1:65535"])),
    ];
    for (field, value) in others {
        let network = changed(field, value).unwrap();
        assert_eq!(network.consensus_hash(), dev.consensus_hash(), "{field}");
        assert_eq!(Network::from_json(&network.to_json()), Ok(network), "{field}");
    }
}

/// PT9: each field just outside its range, of another type, and in a form that only looks right.
#[test]
fn a_value_out_of_range_is_refused_with_the_fields_name() {
    let dev = Network::dev();
    let address = Address::from_bytes([1; 32]).to_text(&dev.prefix);
    let foreign = Address::from_bytes([1; 32]).to_text(&"set".parse().unwrap());
    let many: Vec<Value> = (0..3_100).map(|_| json!({"address": address, "amount": "0.00000001"})).collect();
    let bad: Vec<(&str, Vec<Value>)> = vec![
        ("name", vec![json!(""), json!("a".repeat(33)), json!("Dev"), json!("a/b"), json!(".."), json!("é"), json!(1)]),
        ("ticker", vec![json!(""), json!("A".repeat(11)), json!("set"), json!("S T"), json!(null)]),
        ("prefix", vec![json!(""), json!("a".repeat(31)), json!("DSET"), json!("d-set"), json!(5)]),
        ("spacing_seconds", vec![json!(0), json!(1u64 << 32), json!(-1), json!(1.5), json!("1"), json!(true)]),
        ("difficulty", vec![json!("Fixed"), json!(""), json!(0)]),
        ("half_life_seconds", vec![json!(1), json!(-1), json!(1u64 << 32)]),
        ("limit", vec![json!("0"), json!("207FFFFF"), json!("00000000"), json!("20ffffff"), json!("ff7fffff")]),
        ("limit", vec![json!("+07fffff"), json!("2000007f"), json!("207fffff0"), json!(0x207f_ffff)]),
        ("max_future_seconds", vec![json!(-1), json!(1u64 << 32), json!("600")]),
        ("max_block_bytes", vec![json!(999), json!(16_000_001), json!(-1), json!(0), json!("4 MB")]),
        ("initial_subsidy", vec![json!("21000000.00000001"), json!("-1"), json!("0.000000001"), json!(5), json!("")]),
        ("halving_interval", vec![json!(0), json!(1u64 << 32), json!([])]),
        ("supply_cap", vec![json!("0"), json!("90000000.00000001"), json!("1494"), json!("5e3"), json!(21)]),
        ("maturity", vec![json!(0), json!(1u64 << 32)]),
        ("allocations", vec![json!({}), json!(many)]),
        ("allocations[0]", vec![json!([5]), json!(["x"])]),
        ("allocations[0].address", vec![json!([{"address": foreign, "amount": "1"}]), json!([{"amount": "1"}])]),
        ("allocations[0].amount", vec![json!([{"address": address, "amount": "0"}]), json!([{"address": address}])]),
        ("allocations[0].amount", vec![json!([{"address": address, "amount": "21000000.00000001"}])]),
        ("allocations[0].note", vec![json!([{"address": address, "amount": "1", "note": ""}])]),
        ("supply_cap", vec![]),
        ("message", vec![json!("x".repeat(101)), json!("a\u{1b}[2J"), json!("a\nb"), json!(0)]),
        ("genesis_time", vec![json!(-1), json!(1u64 << 32), json!("2026-11-01")]),
        ("genesis_bits", vec![json!("207fffff0"), json!("2100ffff"), json!("207f"), json!("00000000"), json!(1)]),
        ("genesis_nonce", vec![json!(-1), json!(1u64 << 32)]),
        ("p2p_port", vec![json!(0), json!(65_535), json!(65_536), json!("19740")]),
        ("bootstrap", vec![json!("a:1"), json!(vec!["a:1"; 65])]),
        (
            "bootstrap[1]",
            vec![json!(["a:1", ":1"]), json!(["a:1", "a"]), json!(["a:1", "a:0"]), json!(["a:1", "a:65536"])],
        ),
        ("bootstrap[0]", vec![json!(["a b:1"]), json!(["::1:5"]), json!(["[::g]:5"]), json!(["a:+5"]), json!([5])]),
        ("bootstrap[0]", vec![json!([format!("{}:1", "a".repeat(260))])]),
        ("upgrades", vec![json!([{"name": "unheard-of", "height": 5}]), json!(5)]),
        ("upgrades[0].height", vec![json!([{"name": "a", "height": -5}]), json!([{"name": "a"}])]),
        ("upgrades[0].depth", vec![json!([{"name": "a", "height": 5, "depth": 1}])]),
    ];
    for (path, values) in bad {
        for value in values {
            let field = path.split('[').next().unwrap();
            let error = changed(field, value.clone()).expect_err(&format!("{path} = {value}"));
            assert_eq!(error.field(), Some(path), "{value}: {error}");
        }
    }
    let full = json!([{"address": address, "amount": "20998506.0"}]);
    assert_eq!(changed("allocations", full).unwrap_err().field(), Some("supply_cap"));
}

/// PT9: the ends of every range are inside it.
#[test]
fn the_ends_of_every_range_are_accepted() {
    let good = [
        ("name", vec![json!("a"), json!("-".repeat(32))]),
        ("ticker", vec![json!("0"), json!("Z".repeat(10))]),
        ("prefix", vec![json!("a"), json!("1".repeat(30))]),
        ("spacing_seconds", vec![json!(1), json!(u32::MAX)]),
        ("max_future_seconds", vec![json!(0), json!(u32::MAX)]),
        ("max_block_bytes", vec![json!(1_000), json!(16_000_000)]),
        ("initial_subsidy", vec![json!("0"), json!("70000")]),
        ("halving_interval", vec![json!(1), json!(150), json!(2_100_000)]),
        ("supply_cap", vec![json!("1495"), json!("90000000")]),
        ("maturity", vec![json!(1), json!(u32::MAX)]),
        ("message", vec![json!(""), json!("x".repeat(100))]),
        ("genesis_time", vec![json!(0), json!(u32::MAX)]),
        ("genesis_bits", vec![json!("1f7fffff"), json!("207fffff")]),
        ("p2p_port", vec![json!(1), json!(65_534)]),
        ("bootstrap", vec![json!(vec!["a:1"; 64])]),
    ];
    for (field, values) in good {
        for value in values {
            let network = changed(field, value.clone());
            assert!(network.is_ok(), "{field} = {value}: {network:?}");
        }
    }
}

/// PT9.
#[test]
fn half_life_has_a_floor_and_public_names_cannot_be_fixed() {
    let mut object = file(&Network::dev());
    object["difficulty"] = json!("asert");
    for (max_future_seconds, least) in [(0u64, 1u64), (1, 24), (600, 14_400)] {
        object["max_future_seconds"] = json!(max_future_seconds);
        object["half_life_seconds"] = json!(least - 1);
        assert_eq!(mined(&object).unwrap_err().field(), Some("half_life_seconds"));
        object["half_life_seconds"] = json!(least);
        assert_eq!(mined(&object).unwrap().chain_name(), "signet");
    }
    for name in ["main", "test"] {
        assert_eq!(changed("name", json!(name)).unwrap_err().field(), Some("difficulty"));
    }
}

/// PT9.
#[test]
fn missing_unknown_and_repeated_fields_are_refused_by_name() {
    let object = file(&Network::dev());
    for field in object.as_object().unwrap().keys() {
        let mut without = object.clone();
        without.as_object_mut().unwrap().remove(field);
        assert_eq!(Network::from_json(&without.to_string()), Err(NetworkError::Missing(field.clone())));

        let text = object.to_string();
        let twice = text.replacen('{', &format!("{{\"{field}\":{},", object[field]), 1);
        assert_eq!(Network::from_json(&twice), Err(NetworkError::Duplicate(field.clone())));
    }
    let mut unknown = object.clone();
    unknown["spacing"] = json!(60);
    assert_eq!(Network::from_json(&unknown.to_string()), Err(NetworkError::Unknown("spacing".into())));
    let hostile = object.to_string().replacen('{', r#"{"\u001b[2J":0,"#, 1);
    assert_eq!(Network::from_json(&hostile), Err(NetworkError::Unknown(r"\u{1b}[2J".into())));
    for text in ["", "[]", "5", "null", "{", "{}x", &"[".repeat(1 << 20), &" ".repeat(1 << 21)] {
        let error = Network::from_json(text).unwrap_err();
        assert!(matches!(error, NetworkError::Syntax(_)), "{error}");
    }
    assert_eq!(Network::from_json("{}"), Err(NetworkError::Missing("prefix".into())));
}

#[test]
fn an_unmined_genesis_is_refused() {
    let mut object = file(&Network::main());
    object["genesis_nonce"] = json!(0);
    assert_eq!(Network::from_json(&object.to_string()).unwrap_err().field(), Some("genesis_nonce"));
    object = file(&Network::main());
    object["message"] = json!("another network altogether");
    assert_eq!(Network::from_json(&object.to_string()).unwrap_err().field(), Some("genesis_nonce"));
}

#[test]
fn allocations_are_the_genesis_outputs_in_file_order() {
    let dev = Network::dev();
    let outputs: Vec<Output> = (1..4u8)
        .map(|byte| Output { amount: Amount::from_sen(u64::from(byte)), address: Address::from_bytes([9 - byte; 32]) })
        .collect();
    let listed = |output: &Output| json!({"address": output.address.to_text(&dev.prefix), "amount": output.amount});
    let network = changed("allocations", outputs.iter().map(listed).collect()).unwrap();
    assert_eq!(network.genesis().coinbase.outputs, outputs);
    assert_eq!(network.allocated(), 6);
}

/// CS15: every halving's first and last block, genesis, and shifts of 64 and more.
#[test]
fn subsidy_table() {
    for network in [Network::main(), Network::dev()] {
        let interval = network.halving_interval;
        assert_eq!(network.subsidy(Height::GENESIS), Amount::ZERO);
        assert_eq!(network.subsidy(Height::new(1)), Amount::from_sen(500_000_000));
        let mut expected = 500_000_000u64;
        for halvings in 0..64u32 {
            let first = halvings.checked_mul(interval).filter(|first| first.checked_add(interval).is_some());
            let Some(first) = first else { break };
            assert_eq!(network.subsidy(Height::new(first.max(1))).sen(), expected, "halving {halvings}");
            assert_eq!(network.subsidy(Height::new(first + interval - 1)).sen(), expected, "halving {halvings}");
            expected /= 2;
        }
        assert_eq!(network.subsidy(Height::new(u32::MAX)), Amount::ZERO);
    }
    // An initial subsidy with its highest bit set and an interval of one block: shifts of 63, 64 and far beyond.
    let mut parameters = Parameters::from_json(&Network::dev().to_json()).unwrap();
    parameters.initial_subsidy = Amount::from_sen(u64::MAX);
    parameters.halving_interval = 1;
    let sen = |height| parameters.subsidy(Height::new(height)).sen();
    assert_eq!([sen(0), sen(1), sen(63), sen(64), sen(65), sen(128), sen(u32::MAX)], [0, u64::MAX >> 1, 1, 0, 0, 0, 0]);
}

/// CS15: the sum over every block is the emission, and main's is just under its cap.
#[test]
fn emission_is_the_sum_of_all_subsidies() {
    let dev = Network::dev();
    let blocks = 64 * dev.halving_interval;
    let sum: u128 = (0..=blocks).map(|height| u128::from(dev.subsidy(Height::new(height)).sen())).sum();
    assert_eq!(dev.emission(), sum);
    let main = Network::main();
    let cap = u128::from(main.supply_cap.sen());
    assert!(main.emission() < cap && cap - main.emission() < 100 * u128::from(crate::amount::SEN_PER_COIN));
}

proptest::proptest! {
    /// PT9: no text makes the reader panic, however near to a genesis file it is.
    #[test]
    fn damaged_files_never_panic(cut in 0usize..900, with in proptest::prelude::any::<u8>()) {
        let mut bytes = Network::dev().to_json().into_bytes();
        let position = cut % bytes.len();
        bytes[position] = with;
        let damaged = String::from_utf8_lossy(&bytes).into_owned();
        let _ = Network::from_json(&damaged);
        let _ = Network::from_json(damaged.get(..position).unwrap_or_default());
    }
}
