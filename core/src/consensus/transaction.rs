//! Rules for a transaction: alone, and against the coins it spends.

use super::error::RuleError;
use crate::address::Address;
use crate::amount::Amount;
use crate::hash::BlockHash;
use crate::height::Height;
use crate::keys::SignatureCheck;
use crate::limits;
use crate::network::Network;
use crate::policy::{Claims, Timelock, satisfy};
use crate::transaction::{Coin, OutPoint, SigningContext, Transaction, TransactionIds};

/// A transaction that satisfies every rule that needs nothing but itself and the network's constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedTransaction {
    /// Both ids and the size.
    pub ids: TransactionIds,
    /// Sum of the stated inputs less the outputs.
    pub fee: Amount,
    /// Per input: signatures and locks that its witness claims.
    claims: Vec<Claims>,
    /// Per input: the address that its revealed policy hashes to.
    addresses: Vec<Address>,
}

impl CheckedTransaction {
    /// Per input, the address that its revealed policy hashes to.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Per input, what its witness claims.
    pub fn claims(&self) -> &[Claims] {
        &self.claims
    }
}

/// All rules of a transaction that need no chain, no coins and no curve: counts, amounts, sums, duplicates, and that
/// each witness satisfies its policy but for signatures and locks.
pub fn check_transaction(network: &Network, transaction: &Transaction) -> Result<CheckedTransaction, RuleError> {
    check_transaction_with_ids(network, transaction, transaction.ids())
}

pub(super) fn check_transaction_with_ids(
    network: &Network,
    transaction: &Transaction,
    ids: TransactionIds,
) -> Result<CheckedTransaction, RuleError> {
    let Transaction { inputs, outputs, memo, witnesses, .. } = transaction;
    if inputs.is_empty() {
        return Err(RuleError::NoInputs);
    }
    if outputs.is_empty() {
        return Err(RuleError::NoOutputs);
    }
    if witnesses.len() != inputs.len() {
        return Err(RuleError::WitnessCount { got: count(witnesses.len()), expected: count(inputs.len()) });
    }
    let memo_bytes = count(memo.len());
    if memo_bytes > limits::MEMO_BYTES_MAX {
        return Err(RuleError::MemoTooLong { got: memo_bytes, max: limits::MEMO_BYTES_MAX });
    }
    if let Some(outpoint) = first_repeated(inputs.iter().map(|input| input.outpoint)) {
        return Err(RuleError::DuplicateInput { outpoint });
    }
    if let Some((index, _)) = (0u64..).zip(outputs).find(|(_, output)| output.amount.is_zero()) {
        return Err(RuleError::ZeroOutput { index });
    }
    let spent = sum_below_cap(network, "inputs", inputs.iter().map(|input| input.amount))?;
    let made = sum_below_cap(network, "outputs", outputs.iter().map(|output| output.amount))?;
    let fee = spent.checked_sub(made).ok_or(RuleError::NegativeFee)?;

    let mut claims = Vec::with_capacity(witnesses.len());
    for (input, witness) in (0u64..).zip(witnesses) {
        let future = witness.future.iter().fold(0, |sum: u64, item| sum.saturating_add(count(item.len())));
        if future > limits::FUTURE_BYTES_MAX {
            return Err(RuleError::FutureTooLong { input, got: future, max: limits::FUTURE_BYTES_MAX });
        }
        claims.push(satisfy(witness).map_err(|reason| RuleError::Policy { input, reason })?);
    }
    // After `satisfy`, which bounds every policy's depth.
    let addresses = transaction.spent_addresses();
    Ok(CheckedTransaction { ids, fee, claims, addresses })
}

/// The sum, every part of it at most the supply cap.
pub(super) fn sum_below_cap(
    network: &Network,
    what: &'static str,
    amounts: impl Iterator<Item = Amount>,
) -> Result<Amount, RuleError> {
    let cap = network.supply_cap;
    let mut sum = Amount::ZERO;
    for amount in amounts {
        sum = sum.checked_add(amount).filter(|sum| *sum <= cap).ok_or(RuleError::AboveCap { what, cap })?;
    }
    Ok(sum)
}

/// An outpoint that occurs twice, if any.
pub(super) fn first_repeated(outpoints: impl Iterator<Item = OutPoint>) -> Option<OutPoint> {
    let mut sorted: Vec<OutPoint> = outpoints.collect();
    if sorted.len() < 2 {
        return None;
    }
    sorted.sort_unstable();
    sorted.windows(2).find_map(|pair| match pair {
        [first, second] if first == second => Some(*first),
        _ => None,
    })
}

/// The block that would hold a spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendContext {
    /// Its height.
    pub height: Height,
    /// Its parent's median time past.
    pub median_time_past: u32,
}

/// `valid_from` <= block height.
pub(super) fn check_valid_from(transaction: &Transaction, context: SpendContext) -> Result<(), RuleError> {
    if transaction.valid_from > context.height.get() {
        return Err(RuleError::NotYetValid { valid_from: transaction.valid_from, height: context.height });
    }
    Ok(())
}

/// A transaction against all the coins it spends, in input order: amounts, policies, maturity, locks, `valid_from`.
/// `None` is a coin that does not exist.
pub fn check_spend(
    network: &Network,
    context: SpendContext,
    transaction: &Transaction,
    checked: &CheckedTransaction,
    coins: &[Option<Coin>],
) -> Result<(), RuleError> {
    check_valid_from(transaction, context)?;
    for (index, input) in transaction.inputs.iter().enumerate() {
        let missing = RuleError::MissingCoin { outpoint: input.outpoint };
        let coin = coins.get(index).copied().flatten().ok_or(missing)?;
        check_input(network, context, transaction, checked, index, &coin)?;
    }
    Ok(())
}

/// One input against its coin.
pub(super) fn check_input(
    network: &Network,
    context: SpendContext,
    transaction: &Transaction,
    checked: &CheckedTransaction,
    index: usize,
    coin: &Coin,
) -> Result<(), RuleError> {
    let (Some(input), Some(address), Some(claims)) =
        (transaction.inputs.get(index), checked.addresses.get(index), checked.claims.get(index))
    else {
        return Err(RuleError::WitnessCount { got: count(checked.claims.len()), expected: count(index) });
    };
    let outpoint = input.outpoint;
    if input.amount != coin.output.amount {
        return Err(RuleError::WrongAmount { outpoint, got: input.amount, expected: coin.output.amount });
    }
    if *address != coin.output.address {
        return Err(RuleError::WrongPolicy { outpoint });
    }
    let height = context.height;
    if coin.from_coinbase {
        let matures_at = u64::from(coin.height.get()).saturating_add(u64::from(network.maturity));
        if u64::from(height.get()) < matures_at {
            return Err(RuleError::Immature { outpoint, matures_at, height });
        }
    }
    for lock in &claims.timelocks {
        let open = match *lock {
            Timelock::After(from) => height.get() >= from,
            Timelock::AfterTime(from) => context.median_time_past >= from,
            Timelock::Older(blocks) => height.blocks_since(coin.height).is_some_and(|age| age >= blocks),
        };
        if !open {
            let median_time_past = context.median_time_past;
            return Err(RuleError::Locked { input: count(index), lock: *lock, height, median_time_past });
        }
    }
    Ok(())
}

/// Every signature of a transaction as (key, message, signature): verify them anywhere, before or after all else.
pub fn transaction_signatures(genesis: BlockHash, checked: &CheckedTransaction) -> Vec<SignatureCheck> {
    let context = SigningContext::new(genesis, checked.ids.txid, &checked.addresses);
    let mut checks = Vec::with_capacity(checked.claims.len());
    for (input, claims) in (0u32..).zip(&checked.claims) {
        for claim in &claims.signatures {
            let message = context.message(input, &claim.path);
            checks.push(SignatureCheck { key: claim.key, message, signature: claim.signature });
        }
    }
    checks
}

pub(super) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
