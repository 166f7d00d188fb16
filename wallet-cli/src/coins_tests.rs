//! Tests of coin selection: examples for each promise, and random wallets against the invariants.

use super::*;
use crate::keystore::Chain;
use crate::random::tests::Seeded;
use crate::random::uniform;
use setara_core::hash::TxId;

const RATE: FeeRate = FeeRate(2_000);

fn coin(number: u32, sen: u64, address: u8) -> Candidate {
    let mut txid = [0; 32];
    txid[..4].copy_from_slice(&number.to_le_bytes());
    Candidate {
        outpoint: OutPoint::new(TxId::from_bytes(txid), 0),
        amount: Amount::from_sen(sen),
        address: Address::from_bytes([address; 32]),
        key: KeyPath { chain: Chain::Receive, index: u32::from(address) },
        from_coinbase: false,
        pending: false,
    }
}

fn pay(sen: u64) -> Payment {
    Payment::Exactly(Output { amount: Amount::from_sen(sen), address: Address::from_bytes([255; 32]) })
}

fn check(plan: &Plan, candidates: &[Candidate], rate: FeeRate) {
    let spent: u128 = plan.coins.iter().map(|coin| u128::from(coin.amount.sen())).sum();
    let change = plan.change.map_or(0, Amount::sen);
    let made = u128::from(plan.payment.amount.sen()) + u128::from(change) + u128::from(plan.fee.sen());
    assert_eq!(spent, made, "value is conserved");
    let mut outpoints: Vec<OutPoint> = plan.coins.iter().map(|coin| coin.outpoint).collect();
    outpoints.sort();
    outpoints.dedup();
    assert_eq!(outpoints.len(), plan.coins.len(), "no coin is spent twice");
    assert!(plan.coins.iter().all(|coin| candidates.contains(coin)));
    // The fee pays for the real transaction, and not for much more.
    let bytes = real_size(plan);
    assert!(plan.fee.sen() >= rate.fee(bytes), "{} sen for {bytes} bytes", plan.fee.sen());
    let slack = match plan.change {
        Some(_) => rate.fee(16 + plan.coins.len() as u64) + plan.coins.len() as u64,
        None => {
            let given_up = rate.fee(OUTPUT_BYTES_MAX) + DUST.sen().max(rate.fee(INPUT_BYTES_MAX));
            given_up + rate.fee(16 + plan.coins.len() as u64) + plan.coins.len() as u64
        }
    };
    assert!(plan.fee.sen() <= rate.fee(bytes) + slack, "{} sen for {bytes} bytes", plan.fee.sen());
    assert!(bytes <= TRANSACTION_BYTES_MAX);
    if let Some(change) = plan.change {
        assert!(change >= DUST);
    }
}

/// The encoded size of the transaction that the plan becomes.
fn real_size(plan: &Plan) -> u64 {
    use setara_core::keys::{PublicKey, Signature};
    use setara_core::policy::SpendPolicy;
    use setara_core::transaction::{Transaction, Witness};
    let witness = Witness {
        policy: SpendPolicy::Key(PublicKey::from_bytes([1; 32])),
        signatures: vec![Signature::from_bytes([1; 64])],
        preimages: vec![],
        future: vec![],
    };
    assert_eq!(encode(&witness).len() as u64, WITNESS_BYTES);
    let mut outputs = vec![plan.payment];
    outputs.extend(plan.change.map(|amount| Output { amount, address: Address::ZERO }));
    let inputs = plan.coins.iter().map(|coin| Input { outpoint: coin.outpoint, amount: coin.amount }).collect();
    let witnesses = vec![witness; plan.coins.len()];
    let transaction = Transaction { inputs, outputs, valid_from: u32::MAX, memo: vec![], witnesses };
    transaction.ids().size
}

/// WK7. Random wallets, payments and rates: value conserved, fee right, or an honest refusal.
#[test]
fn random_coin_sets_conserve_value() {
    let mut entropy = Seeded::new(7);
    let mut draw = |below: u64| uniform(&mut entropy, below).unwrap();
    let mut plans = 0u32;
    for round in 0..100_000u32 {
        let count = draw(12) as u32;
        let scale = [2_000, 100_000, 500_000_000, 20_000_000_000_000][draw(4) as usize];
        let coins: Vec<Candidate> = (0..count)
            .map(|number| {
                let mut coin = coin(number, draw(scale) + 1, draw(6) as u8);
                coin.pending = draw(5) == 0;
                coin.from_coinbase = draw(5) == 0;
                coin
            })
            .collect();
        let rate = FeeRate([0, 1, 1_000, 2_000, 999_983][draw(5) as usize]);
        let total: u64 = coins.iter().map(|coin| coin.amount.sen()).sum();
        let amount = draw(total + total / 4 + 2) + 1;
        let everything = draw(20) == 0;
        let payment = if everything { Payment::Everything(Address::ZERO) } else { pay(amount) };
        match select(&coins, payment, rate, &mut Seeded::new(u64::from(round))) {
            Ok(plan) => {
                plans += 1;
                check(&plan, &coins, rate);
                if !everything {
                    assert_eq!(plan.payment.amount.sen(), amount);
                }
            }
            Err(WalletError::Insufficient { needed, available, .. }) => {
                let groups = group(&coins, rate);
                let frame = FRAME_BYTES_MAX + OUTPUT_BYTES_MAX;
                let enough = sum_effective(&groups) >= u128::from(amount) + u128::from(rate.fee(frame));
                assert!(everything || !enough, "refused although {available} suffice for {needed}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(plans > 50_000, "the generator makes mostly payable wallets: {plans}");
}

#[test]
fn an_exact_match_leaves_no_change() {
    let coins = [coin(1, 500_000_000, 1), coin(2, 300_000_000, 2), coin(3, 200_000_777, 3)];
    let cost = |coins: &[Candidate]| coins.iter().map(|coin| RATE.fee(coin.bytes())).sum::<u64>();
    let amount = coins[1].amount.sen() + coins[2].amount.sen() - cost(&coins[1..]) - RATE.fee(FRAME_BYTES_MAX + 41);
    let plan = select(&coins, pay(amount), RATE, &mut Seeded::new(1)).unwrap();
    assert_eq!(plan.change, None);
    assert_eq!(plan.coins.len(), 2);
    check(&plan, &coins, RATE);
}

/// WK7. Change that is not worth spending goes to the fee.
#[test]
fn dust_change_goes_to_the_fee() {
    let coins = [coin(1, 1_000_000, 1)];
    let cost = RATE.fee(coins[0].bytes() + FRAME_BYTES_MAX + 37);
    for (left, change) in [(0, false), (500, false), (1_000, false), (1_081, false), (1_100, true), (50_000, true)] {
        let plan = select(&coins, pay(1_000_000 - cost - left), RATE, &mut Seeded::new(1)).unwrap();
        assert_eq!(plan.change.is_some(), change, "{left} left over");
        check(&plan, &coins, RATE);
    }
}

/// WK8. An address that was paid more than once is emptied in one go.
#[test]
fn coins_of_one_address_are_spent_together() {
    let coins: Vec<Candidate> =
        (0..30).map(|number| coin(number, 10_000_000 + u64::from(number), (number % 10) as u8)).collect();
    for seed in 0..200 {
        let plan = select(&coins, pay(25_000_000), RATE, &mut Seeded::new(seed)).unwrap();
        for spent in &plan.coins {
            let held = coins.iter().filter(|coin| coin.address == spent.address).count();
            let taken = plan.coins.iter().filter(|coin| coin.address == spent.address).count();
            assert_eq!(taken, held);
        }
    }
}

#[test]
fn much_used_addresses_and_miners_make_no_huge_payments() {
    let mut coins: Vec<Candidate> = (0..5_000).map(|number| coin(number, 500_000_000, 1)).collect();
    let plan = select(&coins, pay(100_000_000), RATE, &mut Seeded::new(1)).unwrap();
    assert_eq!(plan.coins.len(), GROUP_COINS_MAX);
    check(&plan, &coins, RATE);
    let error = select(&coins, pay(2_000_000_000_000), RATE, &mut Seeded::new(1)).unwrap_err();
    assert_eq!(error.code(), "transaction-too-large");
    coins.iter_mut().for_each(|coin| coin.from_coinbase = true);
    let plan = select(&coins, pay(100_000_000), RATE, &mut Seeded::new(1)).unwrap();
    assert_eq!(plan.coins.len(), 1);
}

/// WK8. Dust that someone planted is never spent along with real coins.
#[test]
fn planted_dust_is_left_alone() {
    let mut coins: Vec<Candidate> = (0..200).map(|number| coin(number, 999, 1)).collect();
    coins.push(coin(1_000, 500_000_000, 1));
    coins.push(coin(1_001, 280, 2));
    let plan = select(&coins, pay(100_000_000), RATE, &mut Seeded::new(1)).unwrap();
    assert_eq!(plan.coins.len(), 1);
    // At a rate where it costs more to spend than it holds, a larger coin is dust as well.
    let coins = [coin(1, 20_000, 1), coin(2, 500_000_000, 2)];
    let plan = select(&coins, pay(100_000_000), FeeRate(150_000), &mut Seeded::new(1)).unwrap();
    assert_eq!(plan.coins.len(), 1);
}

#[test]
fn a_draw_that_is_too_large_falls_back_to_the_largest_coins() {
    let mut coins: Vec<Candidate> = (0..3_000).map(|number| coin(number, 10_000, (number / 20) as u8)).collect();
    for (number, coin) in coins.iter_mut().enumerate() {
        let mut address = [9; 32];
        address[..8].copy_from_slice(&(number as u64).to_le_bytes());
        coin.address = Address::from_bytes(address);
    }
    coins.push(coin(9_000, 500_000_000, 200));
    for seed in 0..20 {
        let plan = select(&coins, pay(400_000_000), RATE, &mut Seeded::new(seed)).unwrap();
        check(&plan, &coins, RATE);
    }
}

#[test]
fn pending_change_is_the_last_resort() {
    let mut change = coin(1, 500_000_000, 1);
    change.pending = true;
    let coins = [change, coin(2, 300_000_000, 2)];
    let plan = select(&coins, pay(100_000_000), RATE, &mut Seeded::new(1)).unwrap();
    assert_eq!(plan.coins, [coins[1]]);
    let plan = select(&coins, pay(600_000_000), RATE, &mut Seeded::new(1)).unwrap();
    assert_eq!(plan.coins.len(), 2);
}

#[test]
fn too_little_money_is_told_with_the_fee() {
    let coins = [coin(1, 100_000_000, 1)];
    let error = select(&coins, pay(100_000_000), RATE, &mut Seeded::new(1)).unwrap_err();
    let WalletError::Insufficient { needed, available, .. } = error else { panic!("{error}") };
    assert_eq!(available.sen(), 100_000_000);
    assert!(needed.sen() > 100_000_300 && needed.sen() < 100_000_600, "{needed}");
    assert_eq!(select(&[], pay(1_000), RATE, &mut Seeded::new(1)).unwrap_err().code(), "insufficient-funds");
    let empty = Payment::Everything(Address::ZERO);
    assert_eq!(select(&[], empty, RATE, &mut Seeded::new(1)).unwrap_err().code(), "insufficient-funds");
}

#[test]
fn absurd_amounts_and_rates_never_wrap() {
    let coins = [coin(1, u64::MAX, 1), coin(2, u64::MAX, 2), coin(3, 1, 3)];
    for rate in [FeeRate(0), FeeRate(u64::MAX)] {
        for amount in [1, u64::MAX - 1, u64::MAX] {
            for coins in [&coins[..1], &coins[..]] {
                let _ = select(coins, pay(amount), rate, &mut Seeded::new(1));
                let _ = select(coins, Payment::Everything(Address::ZERO), rate, &mut Seeded::new(1));
            }
        }
    }
}
