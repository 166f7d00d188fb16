//! Coin selection: which coins pay, what is left as change, what the fee is. Pure: values in, a [`Plan`] out.
//!
//! - Coins of one address are spent together: once one of them is seen with others, all of them are linked anyway,
//!   and none is left behind to link a later payment. Only so many, lest a much-used address make one payment huge;
//!   and never mining rewards, which can be thousands on one address and hide nothing from anyone.
//! - Coins that cost more than they bring are left alone. That includes dust that someone sends to an address to see
//!   with which others it will be spent.
//! - First an exact match without change is looked for (branch and bound, as Murch 2016): cheapest, and it leaves no
//!   change to follow. Else groups are drawn at random until they suffice: no order to fingerprint, and no slow
//!   grinding of the wallet into dust as with largest-first, which is the last resort when the draw is too large.
//! - Change too small to be worth spending goes to the fee.
//!
//! Every sum is of 64-bit amounts in 128 bits, or checked.

use crate::error::WalletError;
use crate::keystore::KeyPath;
use crate::random::{self, Entropy};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::codec::encode;
use setara_core::transaction::{Input, OutPoint, Output};
use std::collections::BTreeMap;

/// Outputs below this are not relayed: the node's default, 1,000 sen.
pub const DUST: Amount = Amount::from_sen(1_000);

/// Coins of one address that are spent together; at 2,000 sen/kB their bytes cost 0.00006 coins.
pub const GROUP_COINS_MAX: usize = 20;

/// Bytes of a transaction that nodes relay.
pub const TRANSACTION_BYTES_MAX: u64 = 100_000;

/// Bytes of a witness that satisfies a policy of one key: policy 33, one signature 65, two empty lists.
pub const WITNESS_BYTES: u64 = 100;

/// Bytes of an input and its witness at most: txid 32, index 5, amount 9. What spending a change output will cost.
const INPUT_BYTES_MAX: u64 = 46 + WITNESS_BYTES;

/// Bytes of a transaction without inputs, outputs and witnesses, at most: kind 1, three counts of 3, valid_from 5,
/// memo's count 1.
const FRAME_BYTES_MAX: u64 = 16;

/// Bytes of an output at most: amount 9, address 32.
const OUTPUT_BYTES_MAX: u64 = 41;

/// Branches tried for an exact match: milliseconds at most.
const BRANCHES_MAX: u32 = 50_000;

/// A fee rate in sen per 1,000 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeeRate(pub u64);

impl FeeRate {
    /// The fee for this many bytes, rounded up.
    pub fn fee(self, bytes: u64) -> u64 {
        let sen = (u128::from(self.0) * u128::from(bytes)).div_ceil(1_000);
        u64::try_from(sen).unwrap_or(u64::MAX)
    }
}

/// A coin that could be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub outpoint: OutPoint,
    /// How much it holds.
    pub amount: Amount,
    /// What it is locked to.
    pub address: Address,
    /// The key that opens it.
    pub key: KeyPath,
    /// A mining reward.
    pub from_coinbase: bool,
    /// Not in a block yet: the wallet's own change. Used only when nothing else suffices.
    pub pending: bool,
}

impl Candidate {
    fn bytes(&self) -> u64 {
        let input = encode(&Input { outpoint: self.outpoint, amount: self.amount });
        input.len() as u64 + WITNESS_BYTES
    }
}

/// What to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payment {
    /// Exactly this, and the fee on top.
    Exactly(Output),
    /// All that can be spent, less the fee.
    Everything(Address),
}

/// A transaction in outline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The coins to spend.
    pub coins: Vec<Candidate>,
    /// The payment.
    pub payment: Output,
    /// What comes back, if anything.
    pub change: Option<Amount>,
    /// Sum of the coins less payment and change.
    pub fee: Amount,
}

/// Coins of one address, spent together.
struct Group {
    coins: Vec<Candidate>,
    amount: u64,
    /// The amount less the fee for spending it.
    effective: u64,
}

/// Chooses coins for `payment` at `rate`.
pub fn select(
    candidates: &[Candidate],
    payment: Payment,
    rate: FeeRate,
    entropy: &mut impl Entropy,
) -> Result<Plan, WalletError> {
    let output = match payment {
        Payment::Exactly(output) => output,
        Payment::Everything(address) => return everything(candidates, address, rate),
    };
    let frame = FRAME_BYTES_MAX + encode(&output).len() as u64;
    let needed = output.amount.sen().saturating_add(rate.fee(frame));
    let confirmed: Vec<Candidate> = candidates.iter().filter(|coin| !coin.pending).copied().collect();
    let mut groups = group(&confirmed, rate);
    if sum_effective(&groups) < u128::from(needed) {
        groups = group(candidates, rate);
    }
    let spendable = sum_effective(&groups);
    if spendable < u128::from(needed) {
        return Err(insufficient(candidates, output.amount, needed, spendable));
    }
    // A change output costs its bytes now and an input later; less than that is better left to the miner.
    let change_now = rate.fee(OUTPUT_BYTES_MAX);
    let change_min = DUST.sen().max(rate.fee(INPUT_BYTES_MAX));
    let chosen = match exact_match(&groups, needed, change_now.saturating_add(rate.fee(INPUT_BYTES_MAX))) {
        Some(chosen) => chosen,
        None => {
            let goal = needed.saturating_add(change_now).saturating_add(change_min);
            draw(&groups, goal, entropy)?
        }
    };
    let coins: Vec<Candidate> = chosen.iter().flat_map(|index| groups[*index].coins.iter().copied()).collect();
    finish(coins, output, rate, change_now, change_min)
}

/// Settles change and fee for coins that suffice, and checks the whole.
fn finish(
    coins: Vec<Candidate>,
    payment: Output,
    rate: FeeRate,
    change_now: u64,
    change_min: u64,
) -> Result<Plan, WalletError> {
    let total = total(&coins)?;
    let bytes = coins.iter().map(Candidate::bytes).sum::<u64>() + FRAME_BYTES_MAX + encode(&payment).len() as u64;
    if bytes + OUTPUT_BYTES_MAX > TRANSACTION_BYTES_MAX {
        return Err(WalletError::TooLarge(format!(
            "this takes {} coins, more than fit into one transaction; send it in smaller parts",
            coins.len()
        )));
    }
    let left = total.checked_sub(payment.amount).map_or(0, Amount::sen);
    let fee_without_change = rate.fee(bytes);
    let change = left.checked_sub(fee_without_change.saturating_add(change_now)).filter(|change| *change >= change_min);
    let fee = match change {
        Some(change) => left - change,
        None => left,
    };
    if fee < fee_without_change {
        // The groups' fees were rounded up one by one, so their sum cannot be less than the whole's.
        return Err(WalletError::Insufficient {
            needed: Amount::from_sen(payment.amount.sen().saturating_add(fee_without_change)),
            available: total,
            hint: String::new(),
        });
    }
    Ok(Plan { coins, payment, change: change.map(Amount::from_sen), fee: Amount::from_sen(fee) })
}

fn everything(candidates: &[Candidate], address: Address, rate: FeeRate) -> Result<Plan, WalletError> {
    let coins: Vec<Candidate> = group(candidates, rate).into_iter().flat_map(|group| group.coins).collect();
    let total = total(&coins)?;
    let bytes = coins.iter().map(Candidate::bytes).sum::<u64>() + FRAME_BYTES_MAX + OUTPUT_BYTES_MAX;
    let fee = Amount::from_sen(rate.fee(bytes));
    let amount = total.checked_sub(fee).filter(|amount| *amount >= DUST).ok_or_else(|| WalletError::Insufficient {
        needed: Amount::from_sen(fee.sen().saturating_add(DUST.sen())),
        available: total,
        hint: String::new(),
    })?;
    finish(coins, Output { amount, address }, rate, u64::MAX, u64::MAX)
}

fn total(coins: &[Candidate]) -> Result<Amount, WalletError> {
    Amount::checked_sum(coins.iter().map(|coin| coin.amount))
        .ok_or_else(|| WalletError::Untrusted("its coins hold more money than there can be".into()))
}

fn sum_effective(groups: &[Group]) -> u128 {
    groups.iter().map(|group| u128::from(group.effective)).sum()
}

fn insufficient(candidates: &[Candidate], amount: Amount, needed: u64, spendable: u128) -> WalletError {
    // Told as money and fee: what is missing is what the coins' own bytes cost, and the rest.
    let available = Amount::checked_sum(candidates.iter().map(|coin| coin.amount)).unwrap_or(Amount::ZERO);
    let spent_on_inputs = u128::from(available.sen()).saturating_sub(spendable);
    let needed = u64::try_from(u128::from(needed) + spent_on_inputs).unwrap_or(u64::MAX);
    WalletError::Insufficient { needed: Amount::from_sen(needed).max(amount), available, hint: String::new() }
}

/// Groups by address, mining rewards singly, each worth more than it costs to spend, largest first.
fn group(candidates: &[Candidate], rate: FeeRate) -> Vec<Group> {
    let mut together: BTreeMap<(Address, Option<OutPoint>), Vec<Candidate>> = BTreeMap::new();
    for coin in candidates {
        let worth_it = coin.amount >= DUST && coin.amount.sen() > rate.fee(coin.bytes());
        if worth_it {
            let alone = coin.from_coinbase.then_some(coin.outpoint);
            together.entry((coin.address, alone)).or_default().push(*coin);
        }
    }
    let mut groups: Vec<Group> = together
        .values_mut()
        .flat_map(|coins| {
            coins.sort_by(|a, b| b.amount.cmp(&a.amount).then(a.outpoint.cmp(&b.outpoint)));
            coins.chunks(GROUP_COINS_MAX)
        })
        .filter_map(|coins| {
            let amount = Amount::checked_sum(coins.iter().map(|coin| coin.amount))?.sen();
            let cost: u64 = coins.iter().map(|coin| rate.fee(coin.bytes())).sum();
            let effective = amount.checked_sub(cost).filter(|effective| *effective > 0)?;
            Some(Group { coins: coins.to_vec(), amount, effective })
        })
        .collect();
    groups.sort_by(|a, b| {
        b.effective.cmp(&a.effective).then_with(|| b.amount.cmp(&a.amount)).then_with(|| {
            let first = |group: &Group| group.coins.first().map(|coin| coin.outpoint);
            first(a).cmp(&first(b))
        })
    });
    groups
}

/// Groups whose effective sum lies in `needed..=needed + window`, the closest found; depth first, largest first.
fn exact_match(groups: &[Group], needed: u64, window: u64) -> Option<Vec<usize>> {
    let (needed, most) = (u128::from(needed), u128::from(needed) + u128::from(window));
    // What remains from each position on: no branch that cannot reach the goal is entered.
    let mut remaining = vec![0u128; groups.len() + 1];
    for index in (0..groups.len()).rev() {
        remaining[index] = remaining[index + 1] + u128::from(groups[index].effective);
    }
    let mut best: Option<(u128, Vec<usize>)> = None;
    let mut chosen: Vec<usize> = Vec::new();
    let mut sum = 0u128;
    let mut next = 0;
    for _ in 0..BRANCHES_MAX {
        let hopeless = sum + remaining[next.min(groups.len())] < needed || sum > most;
        if !hopeless && sum >= needed {
            if best.as_ref().is_none_or(|(least, _)| sum < *least) {
                best = Some((sum, chosen.clone()));
            }
            if sum == needed {
                break;
            }
        }
        if hopeless || sum >= needed || next >= groups.len() {
            // Back to the last one taken, and on without it.
            let Some(last) = chosen.pop() else { break };
            sum -= u128::from(groups[last].effective);
            next = last + 1;
        } else {
            chosen.push(next);
            sum += u128::from(groups[next].effective);
            next += 1;
        }
    }
    best.map(|(_, chosen)| chosen)
}

/// Random groups until `goal` is reached; all of them if it cannot be. If the draw is too large for a transaction,
/// the largest groups instead.
fn draw(groups: &[Group], goal: u64, entropy: &mut impl Entropy) -> Result<Vec<usize>, WalletError> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    random::shuffle(entropy, &mut order)?;
    let drawn = take_until(groups, order, goal);
    let bytes: u64 = drawn.iter().flat_map(|index| &groups[*index].coins).map(Candidate::bytes).sum();
    if bytes + FRAME_BYTES_MAX + 2 * OUTPUT_BYTES_MAX <= TRANSACTION_BYTES_MAX {
        return Ok(drawn);
    }
    Ok(take_until(groups, (0..groups.len()).collect(), goal))
}

fn take_until(groups: &[Group], order: Vec<usize>, goal: u64) -> Vec<usize> {
    let mut sum = 0u128;
    order
        .into_iter()
        .take_while(|index| {
            let short = sum < u128::from(goal);
            sum += u128::from(groups[*index].effective);
            short
        })
        .collect()
}

#[cfg(test)]
#[path = "coins_tests.rs"]
mod tests;
