//! Paying: fee, coins, change, signatures, broadcast.
//!
//! What the chain sees gives away as little as it can: inputs in random order, change at a random place on an address
//! never used before, `valid_from` as other wallets set it. Before anything leaves, the finished transaction is judged
//! by the same code that nodes run, signatures included, and saved: a crash, or a lost answer, never pays twice.

use crate::coins::{self, DUST, FeeRate, Plan};
use crate::error::WalletError;
use crate::keystore::{Chain, KeyPath, Keys, Payment, Wallet};
use crate::node::{Node, Sent};
use crate::random::{self, Entropy};
use crate::sync::{Status, View};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::codec::encode;
use setara_core::consensus::{check_transaction, transaction_signatures};
use setara_core::network::Network;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Input, Output, SigningContext, Transaction, TransactionIds, Witness};

/// Blocks within which a payment should confirm, unless told otherwise.
pub const TARGET_BLOCKS_DEFAULT: u32 = 6;

/// A fee above this is refused unless `--max-fee` allows it: 0.1 coin.
pub const FEE_MAX_DEFAULT_TEXT: &str = "0.1";

/// Fee rate where the node has no estimate: twice its default relay floor.
const FEE_RATE_FALLBACK: u64 = 2_000;

/// The highest rate that a node's estimate is believed up to, in sen per 1,000 bytes; above it the user decides.
const FEE_RATE_ESTIMATE_MAX: u64 = 1_000_000;

/// The highest rate that can be asked for: nodes refuse more as a mistake (0.1 coin per 1,000 bytes).
const FEE_RATE_MAX: u64 = 10_000_000;

/// A tip older than this says nothing about the next block: then `valid_from` stays 0, as in Bitcoin Core.
const TIP_STALE_SECONDS: u64 = 8 * 60 * 60;

/// One payment in this many looks further back...
const LOOK_BACK_ONE_IN: u64 = 10;
/// ...by fewer blocks than this, so that payments made late (by hand, by many signers) do not stand out.
const LOOK_BACK_BLOCKS: u64 = 100;

/// Characters of a send id: an invoice number, not a letter.
const SEND_ID_CHARS_MAX: usize = 100;

/// How the fee is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fee {
    /// This rate.
    Rate(u64),
    /// The node's estimate for this many blocks.
    Target(u32),
}

/// A signed transaction, not sent.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The transaction.
    pub transaction: Transaction,
    /// Its ids and size.
    pub ids: TransactionIds,
    /// What it was made from.
    pub plan: Plan,
}

impl Draft {
    /// The bytes as hex.
    pub fn hex(&self) -> String {
        hex::encode(encode(&self.transaction))
    }
}

/// The address that a person typed, or why it cannot be paid.
pub fn parse_address(text: &str, network: &Network) -> Result<Address, WalletError> {
    let address = Address::from_text(text.trim(), &network.prefix)
        .map_err(|error| WalletError::BadAddress(format!("{error} (this wallet is on {})", network.name)))?;
    if address == Address::ZERO {
        return Err(WalletError::BadAddress("nobody can spend from this address; the money would be lost".into()));
    }
    Ok(address)
}

/// The amount that a person typed; `None` for `all`.
pub fn parse_amount(text: &str, network: &Network) -> Result<Option<Amount>, WalletError> {
    if text == "all" {
        return Ok(None);
    }
    let amount: Amount = text.parse().map_err(|error| WalletError::BadAmount(format!("{text:?}: {error}")))?;
    if amount.is_zero() {
        return Err(WalletError::BadAmount("nothing can be paid with an amount of zero".into()));
    }
    if amount > network.supply_cap {
        return Err(WalletError::BadAmount(format!(
            "{amount} is more than the {} {} that can ever exist",
            network.supply_cap, network.ticker
        )));
    }
    if amount < DUST {
        return Err(WalletError::BadAmount(format!("{amount} is below {DUST}, the least that nodes pass on")));
    }
    Ok(Some(amount))
}

/// Checks a send id.
pub fn parse_send_id(text: &str) -> Result<&str, WalletError> {
    let fits = (1..=SEND_ID_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if fits {
        Ok(text)
    } else {
        Err(WalletError::Usage(format!("a send id has 1 to {SEND_ID_CHARS_MAX} printable characters")))
    }
}

/// The fee rate to pay.
pub fn fee_rate(node: &Node, fee: Fee) -> Result<FeeRate, WalletError> {
    let blocks = match fee {
        Fee::Rate(rate) if rate > FEE_RATE_MAX => {
            return Err(WalletError::FeeTooHigh(format!(
                "{rate} sen per 1,000 bytes is surely a mistake; the most that can be asked for is {FEE_RATE_MAX}"
            )));
        }
        Fee::Rate(rate) => return Ok(FeeRate(rate)),
        Fee::Target(blocks) => blocks,
    };
    let floor = node.lowest_fee_rate()?.sen();
    let estimate = node.estimate(blocks)?.map_or(FEE_RATE_FALLBACK, Amount::sen);
    let rate = estimate.max(floor);
    if rate > FEE_RATE_ESTIMATE_MAX {
        return Err(WalletError::FeeTooHigh(format!(
            "the node asks for {rate} sen per 1,000 bytes, which is unusual; if you agree, say so with --fee-rate {rate}"
        )));
    }
    Ok(FeeRate(rate))
}

/// First height of a block that may hold a payment made now: mostly that of the block after the tip. A miner who would
/// rather rewrite the tip for its fees than build on it ("fee sniping") cannot take this payment along.
pub fn valid_from(tip_height: u32, tip_age: u64, entropy: &mut impl Entropy) -> Result<u32, WalletError> {
    if tip_age > TIP_STALE_SECONDS {
        return Ok(0);
    }
    let back = match random::uniform(entropy, LOOK_BACK_ONE_IN)? {
        0 => random::uniform(entropy, LOOK_BACK_BLOCKS)?,
        _ => 0,
    };
    Ok(tip_height.saturating_add(1).saturating_sub(u32::try_from(back).unwrap_or(0)))
}

/// Makes and signs the transaction of `plan`. Change, if there is any, goes to `change`.
pub fn build(
    keys: &Keys,
    network: &Network,
    mut plan: Plan,
    change: KeyPath,
    valid_from: u32,
    entropy: &mut impl Entropy,
) -> Result<Draft, WalletError> {
    random::shuffle(entropy, &mut plan.coins)?;
    let mut outputs = vec![plan.payment];
    if let Some(amount) = plan.change {
        let position = random::uniform(entropy, outputs.len() as u64 + 1)?;
        outputs.insert(usize::try_from(position).unwrap_or(0), Output { amount, address: keys.address(change) });
    }
    let inputs = plan.coins.iter().map(|coin| Input { outpoint: coin.outpoint, amount: coin.amount }).collect();
    let mut transaction = Transaction { inputs, outputs, valid_from, memo: Vec::new(), witnesses: Vec::new() };
    let addresses: Vec<Address> = plan.coins.iter().map(|coin| coin.address).collect();
    let context = SigningContext::new(network.genesis_hash(), transaction.txid(), &addresses);
    for (index, coin) in (0u32..).zip(&plan.coins) {
        let key = keys.secret(coin.key);
        let policy = SpendPolicy::Key(key.public_key());
        // A bare key has an empty path.
        let signature = key.sign(&context.message(index, &[])).map_err(own_fault)?;
        transaction.witnesses.push(Witness { policy, signatures: vec![signature], preimages: vec![], future: vec![] });
    }
    verify(network, &transaction, &addresses, plan.fee)?;
    let ids = transaction.ids();
    Ok(Draft { transaction, ids, plan })
}

/// Judges a finished transaction as a node would, and as its maker should.
fn verify(network: &Network, transaction: &Transaction, addresses: &[Address], fee: Amount) -> Result<(), WalletError> {
    let checked = check_transaction(network, transaction).map_err(own_fault)?;
    if checked.fee != fee || checked.addresses() != addresses {
        return Err(own_fault("it does not spend what was planned"));
    }
    let signatures = transaction_signatures(network.genesis_hash(), &checked);
    if signatures.len() == addresses.len() && signatures.iter().all(|signature| signature.verify()) {
        Ok(())
    } else {
        Err(own_fault("a signature does not verify"))
    }
}

fn own_fault(reason: impl core::fmt::Display) -> WalletError {
    WalletError::Fault(format!("the transaction came out wrong ({reason})"))
}

/// A payment as asked for.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who is paid.
    pub address: Address,
    /// How much; `None` for all there is.
    pub amount: Option<Amount>,
    /// How the fee is chosen.
    pub fee: Fee,
    /// The most that the fee may be.
    pub fee_max: Amount,
}

/// Chooses coins for `order` and signs; changes nothing, here or elsewhere.
pub fn draft(
    wallet: &Wallet,
    node: &Node,
    view: &View,
    order: &Order,
    entropy: &mut impl Entropy,
) -> Result<Draft, WalletError> {
    let rate = fee_rate(node, order.fee)?;
    let payment = match order.amount {
        Some(amount) => coins::Payment::Exactly(Output { amount, address: order.address }),
        None => coins::Payment::Everything(order.address),
    };
    let plan = coins::select(&view.candidates(), payment, rate, entropy).map_err(|error| hint(error, view))?;
    if plan.fee > order.fee_max {
        return Err(WalletError::FeeTooHigh(format!(
            "the fee would be {}, more than {}; allow it with --max-fee if you mean it",
            plan.fee, order.fee_max
        )));
    }
    let age = crate::sync::now().saturating_sub(u64::from(view.tip_time));
    let valid_from = valid_from(view.tip.height, age, entropy)?;
    let change = KeyPath { chain: Chain::Change, index: wallet.state.next_change };
    build(wallet.keys(), wallet.network(), plan, change, valid_from, entropy)
}

/// Says what else the wallet holds when what can be spent does not suffice.
fn hint(error: WalletError, view: &View) -> WalletError {
    let (WalletError::Insufficient { needed, available, .. }, Ok(balance)) = (&error, view.balance()) else {
        return error;
    };
    let mut later = Vec::new();
    if !balance.immature.is_zero() {
        later.push(format!("{} from mining must still mature", balance.immature));
    }
    if !balance.pending.is_zero() {
        later.push(format!("{} wait to be confirmed", balance.pending));
    }
    if !balance.waiting.is_zero() {
        later.push(format!("{} are change of payments that the node does not take", balance.waiting));
    }
    let hint = if later.is_empty() { String::new() } else { format!(" ({})", later.join("; ")) };
    WalletError::Insufficient { needed: *needed, available: *available, hint }
}

/// Saves the payment, then hands it to the node. Once saved, its coins are reserved and it is sent again by itself until
/// it confirms or another transaction is proven to have spent its coins.
///
/// A node that would not take it is believed before anything is saved. A refusal after that undoes nothing: the node has
/// the payment by then and may have passed it on, so that another one in its place could pay twice.
pub fn send(
    wallet: &mut Wallet,
    node: &Node,
    view: &View,
    draft: &Draft,
    address: &str,
    id: Option<&str>,
) -> Result<(), WalletError> {
    let txid = draft.ids.txid;
    let raw = draft.hex();
    if let Err(reason) = node.would_take(&raw)? {
        return Err(WalletError::Rejected(reason));
    }
    let id = id.map_or_else(|| txid.to_string(), str::to_owned);
    if draft.plan.change.is_some() {
        wallet.next_change()?;
    }
    wallet.state.payments.push(Payment {
        id: id.clone(),
        address: address.to_owned(),
        amount: draft.plan.payment.amount,
        fee: draft.plan.fee,
        txid,
        raw: raw.clone(),
        tip: view.tip.height,
        time: crate::sync::now(),
    });
    wallet.save()?;
    let reason = match node.send(&raw) {
        Ok(Sent::Taken(got)) if got == txid => return Ok(()),
        Ok(Sent::InChain) => return Ok(()),
        Ok(Sent::Taken(_)) => "the node answered with another transaction's id".to_owned(),
        Ok(Sent::Refused(reason)) => format!("the node refused the payment after allowing it; it says: {reason}"),
        Err(error) => error.to_string(),
    };
    Err(WalletError::Unsent { reason, id })
}

/// What a repeated `--send-id` means: the payment made under it, if it is the same one and alive.
///
/// [`crate::sync::look`] has just sent it again if the node did not have it.
pub fn repeated<'a>(
    wallet: &'a Wallet,
    view: &View,
    id: &str,
    address: &str,
    amount: Option<Amount>,
) -> Result<Option<&'a Payment>, WalletError> {
    let Some(payment) = wallet.state.payment(id) else { return Ok(None) };
    if payment.address != address || amount.is_some_and(|amount| amount != payment.amount) {
        return Err(WalletError::SendId(format!(
            "{id:?} was used already, to pay {} to {}; choose another name",
            payment.amount, payment.address
        )));
    }
    match view.statuses.get(&payment.txid) {
        Some(Status::Conflicted(rival)) => Err(WalletError::SendId(format!(
            "the payment {id:?} can no longer happen: transaction {rival} spent its coins. \
             If it should still be made, choose another name"
        ))),
        Some(Status::Waiting) => Err(WalletError::Unsent {
            reason: "the node does not take the payment at present".into(),
            id: id.to_owned(),
        }),
        _ => Ok(Some(payment)),
    }
}

#[cfg(test)]
#[path = "spend_tests.rs"]
mod tests;
