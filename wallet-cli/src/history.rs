//! The wallet's transactions, oldest first: what each brought or took, proven where it is in a block.
//!
//! Inputs state the amounts they spend and witnesses reveal whose they were, so a transaction's effect is known from
//! its own bytes. `amount` leaves the fee out: the balance is the sum of amounts less the sum of fees.

use crate::account::AddressBook;
use crate::chain::{Body, ChainView};
use crate::error::WalletError;
use crate::keystore::Wallet;
use crate::node::Node;
use crate::output;
use crate::sync::{self, Status, View};
use serde_json::{Value, json};
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use std::collections::BTreeSet;

/// How settled a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// This many blocks, its own included.
    Confirmed(u32),
    /// Not in a block.
    Pending,
    /// Never will be: the given transaction spent its coins.
    Conflicted(TxId),
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The transaction.
    pub txid: TxId,
    /// Height of its block.
    pub height: Option<u32>,
    /// The block's time, or when it was first seen.
    pub time: u64,
    /// What it brought; negative if it took. Without the fee.
    pub amount: i128,
    /// What this wallet paid as a fee.
    pub fee: Amount,
    /// How settled it is.
    pub settled: Settled,
}

/// All transactions of the wallet as of `view`.
pub fn entries(wallet: &Wallet, node: &Node, view: &View) -> Result<Vec<Entry>, WalletError> {
    let mut chain = ChainView::new(node, wallet.network(), view.tip, sync::now());
    let mut entries = confirmed(&mut chain, node, view)?;
    for pending in &view.pending {
        let body = Body::Transfer(pending.transaction.clone());
        entries.push(entry(&view.book, &body, pending.txid, None, pending.time, Settled::Pending));
    }
    for payment in &wallet.state.payments {
        let Some(Status::Conflicted(rival)) = view.statuses.get(&payment.txid) else { continue };
        let body = Body::read(&payment.raw, payment.txid)?;
        entries.push(entry(&view.book, &body, payment.txid, None, payment.time, Settled::Conflicted(*rival)));
    }
    Ok(entries)
}

fn confirmed(chain: &mut ChainView<'_>, node: &Node, view: &View) -> Result<Vec<Entry>, WalletError> {
    let txids: BTreeSet<TxId> = node.txids(view.book.texts(), 0, view.tip)?.into_iter().collect();
    let mut proven = chain.prove(&txids.into_iter().collect::<Vec<_>>())?;
    proven.sort_by_key(|proven| (proven.height, proven.position));
    let entries = proven.into_iter().map(|proven| {
        let confirmations = view.tip.height.saturating_sub(proven.height).saturating_add(1);
        let settled = Settled::Confirmed(confirmations);
        entry(&view.book, &proven.body, proven.txid, Some(proven.height), u64::from(proven.time), settled)
    });
    // A node may list a transaction that has nothing to do with the wallet: noise, if not worse.
    Ok(entries.filter(|entry| entry.amount != 0 || !entry.fee.is_zero()).collect())
}

fn entry(book: &AddressBook, body: &Body, txid: TxId, height: Option<u32>, time: u64, settled: Settled) -> Entry {
    let outputs = body.outputs().iter().filter(|output| book.path(&output.address).is_some());
    let received: i128 = outputs.map(|output| i128::from(output.amount.sen())).sum();
    let (mut spent, mut foreign_inputs, mut paid) = (0i128, false, Amount::ZERO);
    if let Body::Transfer(transaction) = body {
        for (input, address) in transaction.inputs.iter().zip(transaction.spent_addresses()) {
            match book.path(&address) {
                Some(_) => spent += i128::from(input.amount.sen()),
                None => foreign_inputs = true,
            }
        }
        if spent > 0 && !foreign_inputs {
            paid = transaction.fee().unwrap_or(Amount::ZERO);
        }
    }
    Entry { txid, height, time, amount: received - spent + i128::from(paid.sen()), fee: paid, settled }
}

/// Signed coins with eight decimals.
pub fn signed(amount: i128) -> String {
    let magnitude = Amount::from_sen(u64::try_from(amount.unsigned_abs()).unwrap_or(u64::MAX));
    if amount < 0 { format!("-{magnitude}") } else { magnitude.to_string() }
}

/// The entries as JSON.
pub fn to_json(entries: &[Entry]) -> Value {
    let entries: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let (state, confirmations) = match entry.settled {
                Settled::Confirmed(count) => ("confirmed", count),
                Settled::Pending => ("pending", 0),
                Settled::Conflicted(_) => ("conflicted", 0),
            };
            let mut value = json!({
                "txid": entry.txid,
                "height": entry.height,
                "time": entry.time,
                "amount": signed(entry.amount),
                "fee": entry.fee,
                "state": state,
                "confirmations": confirmations,
            });
            if let (Settled::Conflicted(rival), Some(object)) = (entry.settled, value.as_object_mut()) {
                object.insert("conflicts_with".into(), json!(rival));
            }
            value
        })
        .collect();
    json!({ "transactions": entries })
}

/// The entries as a table.
pub fn to_table(entries: &[Entry]) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let state = match entry.settled {
                Settled::Confirmed(count) => format!("{count} confirmations"),
                Settled::Pending => "pending".into(),
                Settled::Conflicted(_) => "conflicted".into(),
            };
            vec![
                output::utc(entry.time),
                entry.height.map_or_else(|| "-".into(), |height| height.to_string()),
                signed(entry.amount),
                entry.fee.to_string(),
                state,
                entry.txid.to_string(),
            ]
        })
        .collect();
    output::table(
        &["TIME (UTC)", "HEIGHT", "AMOUNT", "FEE", "STATE", "TRANSACTION"],
        &["HEIGHT", "AMOUNT", "FEE"],
        &rows,
    )
}
