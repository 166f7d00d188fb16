//! The wallet's money as of one tip: proven coins, unconfirmed transactions, and what became of its own payments.
//!
//! Nothing is remembered between runs but the payments made and how many addresses are in use, so a reorganisation
//! needs no repair: the next look simply sees another chain.
//!
//! ```text
//!            ┌────────────── sent ──────────────┐
//!            ▼                                  │ (sent again by itself)
//!  Waiting ─────► InMempool ─────► Confirmed    │
//!    ▲  │              │               │        │
//!    │  └──────────────┴─── reorganisation ─────┘
//!    │
//!  Conflicted: another transaction that spends the same coin is proven to be in a block
//! ```

use crate::account::{self, AddressBook};
use crate::chain::{Body, ChainView, Proven};
use crate::coins::Candidate;
use crate::error::WalletError;
use crate::keystore::{Chain, KeyPath, Wallet};
use crate::node::{Node, Sent, Tip};
use crate::output;
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use setara_core::network::Network;
use setara_core::transaction::{OutPoint, Output, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Confirmations after which a payment's bytes are forgotten: as deep as a coinbase must be on the public networks.
const FINAL_CONFIRMATIONS: u32 = 100;

/// A tip older than this many times the block spacing is remarked on: by chance that happens once in e^24, ten thousand
/// million, blocks.
const OLD_TIP_SPACINGS: u64 = 24;

/// But never a tip younger than this, in seconds: where blocks come fast, an outage of hash rate is nothing unusual.
const OLD_TIP_SECONDS: u64 = 2 * 3600;

/// Between two attempts when the tip moves while it is being read, or an index of the node's lags behind.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A confirmed coin of the wallet, its transaction proven.
#[derive(Debug, Clone, Copy)]
pub struct OwnCoin {
    /// Which.
    pub outpoint: OutPoint,
    /// Amount and address, from the transaction's bytes.
    pub output: Output,
    /// Its key.
    pub key: KeyPath,
    /// Height of its block.
    pub height: u32,
    /// Whether it must mature.
    pub from_coinbase: bool,
}

/// What became of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// In a block at this height, proven.
    Confirmed(u32),
    /// In the node's mempool.
    InMempool,
    /// The node does not have it; it is sent again at every look. The coins stay reserved.
    Waiting,
    /// This other transaction, proven to be in a block, spends one of its coins: it can never confirm.
    Conflicted(TxId),
    /// Confirmed so long ago that it is no longer looked at.
    Final,
}

/// An unconfirmed transaction that concerns the wallet.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its id.
    pub txid: TxId,
    /// The transaction.
    pub transaction: Transaction,
    /// When it was first seen, in Unix seconds.
    pub time: u64,
    /// Whether the node's mempool has it.
    pub in_mempool: bool,
    /// Whether this wallet made it.
    pub own: bool,
}

/// Everything known about the wallet's money at one tip.
pub struct View {
    /// The tip.
    pub tip: Tip,
    /// The tip's time, from a checked header.
    pub tip_time: u32,
    /// The height of the best header known to a node that says it is still catching up.
    pub catching_up_to: Option<u32>,
    /// The addresses.
    pub book: AddressBook,
    /// Confirmed and unspent, as far as blocks say.
    pub coins: Vec<OwnCoin>,
    /// Not in a block.
    pub pending: Vec<Pending>,
    /// Of the wallet's payments, by txid.
    pub statuses: BTreeMap<TxId, Status>,
    maturity: u32,
}

/// The numbers of `balance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// In blocks, mature, and spent by nothing that is on its way.
    pub confirmed: Amount,
    /// On its way to the wallet and in the node's mempool, its own change included.
    pub pending: Amount,
    /// What own payments that the node does not take would bring back: their coins stay reserved, so this is money that
    /// is in none of the other numbers. A payment that is merely sent again is in the mempool by then, and pending.
    pub waiting: Amount,
    /// From coinbases that cannot be spent yet.
    pub immature: Amount,
}

/// Unix seconds.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Looks at the chain through `node`. If it moves meanwhile, starts over for as long as the node's patience lasts.
pub fn look(wallet: &mut Wallet, node: &Node) -> Result<View, WalletError> {
    let deadline = Instant::now() + node.patience();
    loop {
        let tip = node.tip(wallet.network())?;
        // Only the coins come with the tip they belong to. Had it moved before the mempool was read, what the new block
        // confirmed would be in neither.
        let looked = look_at(wallet, node, tip).and_then(|view| match node.tip(wallet.network())? == tip {
            true => Ok(view),
            false => Err(WalletError::Moving),
        });
        match looked {
            Ok(view) => return Ok(view),
            // A contradiction while the tip stays is a lie; while it moves, it is only news.
            Err(error @ (WalletError::Moving | WalletError::Untrusted(_) | WalletError::Node { .. })) => {
                let moved = matches!(error, WalletError::Moving) || node.tip(wallet.network())? != tip;
                if !moved || Instant::now() >= deadline {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

fn look_at(wallet: &mut Wallet, node: &Node, tip: Tip) -> Result<View, WalletError> {
    let network = wallet.network().clone();
    let mut chain = ChainView::new(node, &network, tip, now());
    let tip_time = chain.tip_header()?.time;
    let catching_up_to = node.catching_up_to()?;
    let mut changed = false;
    let (book, coins, deltas) = loop {
        let book = AddressBook::new(wallet);
        let coins = coins(&mut chain, node, &book, tip)?;
        let deltas = node.mempool(book.texts())?;
        let before = (wallet.state.next_receive, wallet.state.next_change);
        // Only what is proven counts: a node must not be able to lead the wallet past the gap by mere words.
        for coin in &coins {
            changed |= account::note_used(wallet, coin.key);
        }
        // Money beyond the last address given out: look further still.
        if before == (wallet.state.next_receive, wallet.state.next_change) {
            break (book, coins, deltas);
        }
    };
    let mut first_seen: BTreeMap<TxId, u64> = BTreeMap::new();
    for delta in &deltas {
        first_seen.entry(delta.txid).or_insert(delta.timestamp);
    }
    let mut pending = unconfirmed(node, &first_seen)?;
    let (statuses, finished) = follow_payments(wallet, node, &mut chain, &book, &mut pending)?;
    for txid in &finished {
        for payment in wallet.state.payments.iter_mut().filter(|payment| payment.txid == *txid) {
            payment.raw.clear();
        }
    }
    if changed || !finished.is_empty() {
        wallet.save()?;
    }
    Ok(View { tip, tip_time, catching_up_to, book, coins, pending, statuses, maturity: network.maturity })
}

/// The confirmed coins, each proven. The node says only where to look: amounts and addresses come from the bytes.
fn coins(chain: &mut ChainView<'_>, node: &Node, book: &AddressBook, tip: Tip) -> Result<Vec<OwnCoin>, WalletError> {
    let claimed = node.utxos(book.texts(), tip)?;
    let outpoints: BTreeSet<OutPoint> =
        claimed.iter().map(|utxo| OutPoint::new(utxo.txid, utxo.output_index)).collect();
    let txids: BTreeSet<TxId> = outpoints.iter().map(|outpoint| outpoint.txid).collect();
    let txids: Vec<TxId> = txids.into_iter().collect();
    let proven: BTreeMap<TxId, Proven> = chain.prove(&txids)?.into_iter().map(|proven| (proven.txid, proven)).collect();
    let mut coins = Vec::with_capacity(outpoints.len());
    for outpoint in outpoints {
        let lie = |what: &str| WalletError::Untrusted(format!("it claims a coin {outpoint} that {what}"));
        let proven = proven.get(&outpoint.txid).ok_or_else(|| lie("it cannot prove to be in a block"))?;
        let output = usize::try_from(outpoint.index).ok().and_then(|index| proven.body.outputs().get(index));
        let output = *output.ok_or_else(|| lie("its transaction does not make"))?;
        let key = book.path(&output.address).ok_or_else(|| lie("is not for this wallet"))?;
        let from_coinbase = matches!(proven.body, Body::Coinbase(_));
        coins.push(OwnCoin { outpoint, output, key, height: proven.height, from_coinbase });
    }
    Ok(coins)
}

/// The unconfirmed transactions of these ids; those that left the mempool meanwhile are left out.
fn unconfirmed(node: &Node, first_seen: &BTreeMap<TxId, u64>) -> Result<Vec<Pending>, WalletError> {
    let txids: Vec<TxId> = first_seen.keys().copied().collect();
    let mut pending = Vec::with_capacity(txids.len());
    for (txid, answer) in txids.iter().zip(node.transactions(&txids)?) {
        let Some(answer) = answer else { continue };
        if answer.confirmations.unwrap_or(0) > 0 {
            return Err(WalletError::Moving);
        }
        let Body::Transfer(transaction) = Body::read(&answer.hex, *txid)? else {
            return Err(WalletError::Untrusted(format!("it has a coinbase {txid} outside any block")));
        };
        let time = first_seen.get(txid).copied().unwrap_or(0);
        pending.push(Pending { txid: *txid, transaction, time, in_mempool: true, own: false });
    }
    Ok(pending)
}

/// Finds out what became of the wallet's payments; sends again what the node does not have. Payments still on their
/// way join `pending`. Also gives those buried so deep that their bytes can go.
fn follow_payments(
    wallet: &Wallet,
    node: &Node,
    chain: &mut ChainView<'_>,
    book: &AddressBook,
    pending: &mut Vec<Pending>,
) -> Result<(BTreeMap<TxId, Status>, Vec<TxId>), WalletError> {
    let mut statuses = BTreeMap::new();
    let mut finished = Vec::new();
    let mut open = Vec::new();
    for payment in &wallet.state.payments {
        if payment.raw.is_empty() {
            statuses.insert(payment.txid, Status::Final);
        } else if let Some(pending) = pending.iter_mut().find(|pending| pending.txid == payment.txid) {
            pending.own = true;
            statuses.insert(payment.txid, Status::InMempool);
        } else {
            open.push(payment);
        }
    }
    let txids: Vec<TxId> = open.iter().map(|payment| payment.txid).collect();
    let proven: BTreeMap<TxId, Proven> = chain.prove(&txids)?.into_iter().map(|proven| (proven.txid, proven)).collect();
    for payment in open {
        let txid = payment.txid;
        if let Some(proven) = proven.get(&txid) {
            statuses.insert(txid, Status::Confirmed(proven.height));
            if chain.tip().height.saturating_sub(proven.height) >= FINAL_CONFIRMATIONS {
                finished.push(txid);
            }
            continue;
        }
        let Body::Transfer(transaction) = Body::read(&payment.raw, txid)? else { continue };
        let in_mempool = match node.send(&payment.raw)? {
            Sent::Taken(_) => true,
            Sent::InChain => return Err(WalletError::Moving),
            Sent::Refused(_) => {
                if let Some(rival) = rival(node, chain, book, &transaction, txid, payment.tip)? {
                    statuses.insert(txid, Status::Conflicted(rival));
                    continue;
                }
                false
            }
        };
        statuses.insert(txid, if in_mempool { Status::InMempool } else { Status::Waiting });
        pending.push(Pending { txid, transaction, time: payment.time, in_mempool, own: true });
    }
    Ok((statuses, finished))
}

/// Another transaction, proven to be in a block, that spends a coin of `transaction`.
fn rival(
    node: &Node,
    chain: &mut ChainView<'_>,
    book: &AddressBook,
    transaction: &Transaction,
    txid: TxId,
    since: u32,
) -> Result<Option<TxId>, WalletError> {
    let spent: BTreeSet<OutPoint> = transaction.inputs.iter().map(|input| input.outpoint).collect();
    let addresses: BTreeSet<_> = transaction.spent_addresses().into_iter().collect();
    let ours = book.entries().filter(|(_, address, _)| addresses.contains(address));
    let texts: Vec<String> = ours.map(|(text, ..)| text.to_owned()).collect();
    // From the tip at the time of paying back to where a reorganisation may have begun. A node that is behind, or was
    // made anew, may have fewer blocks than that.
    let start = since.min(chain.tip().height).saturating_sub(FINAL_CONFIRMATIONS);
    let mut candidates = node.txids(&texts, start, chain.tip())?;
    candidates.retain(|other| *other != txid);
    let spends = |proven: &Proven| match &proven.body {
        Body::Transfer(other) => other.inputs.iter().any(|input| spent.contains(&input.outpoint)),
        Body::Coinbase(_) => false,
    };
    Ok(chain.prove(&candidates)?.iter().find(|proven| spends(proven)).map(|proven| proven.txid))
}

impl View {
    /// What the user should know of a node that does not show the newest blocks: `None` where nothing speaks for it.
    ///
    /// The tip's age is what cannot be talked away: its header is checked. It says nothing where difficulty is fixed,
    /// since blocks are made at will there; then, and beside it, the node's own word counts that it is catching up.
    pub fn behind(&self, network: &Network, now: u64) -> Option<String> {
        let (height, age) = (self.tip.height, now.saturating_sub(u64::from(self.tip_time)));
        let usual = u64::from(network.spacing).saturating_mul(OLD_TIP_SPACINGS).max(OLD_TIP_SECONDS);
        let old = !network.is_fixed() && age > usual;
        let why = match self.catching_up_to {
            Some(headers) => format!("it is still loading blocks, {height} of {headers}"),
            None if old => "it is cut off from the network, or no blocks are made".to_owned(),
            None => return None,
        };
        let time = output::utc(u64::from(self.tip_time));
        let ago = output::duration(age);
        Some(format!(
            "the node is behind: its newest block, {height}, is of {time} UTC, {ago} ago ({why}). Money that moved after \
             that block is not seen: what is shown holds only up to there"
        ))
    }

    /// Coins that unconfirmed transactions spend.
    fn spent(&self) -> BTreeSet<OutPoint> {
        self.pending.iter().flat_map(|pending| &pending.transaction.inputs).map(|input| input.outpoint).collect()
    }

    /// Whether the next block could spend this coin.
    fn is_mature(&self, coin: &OwnCoin) -> bool {
        let age_in_next = self.tip.height.saturating_sub(coin.height).saturating_add(1);
        !coin.from_coinbase || age_in_next >= self.maturity
    }

    /// Whether the node's mempool holds another transaction that spends a coin of this one: at most one will confirm.
    fn is_rivalled(&self, pending: &Pending) -> bool {
        let rivals = self.pending.iter().filter(|other| other.in_mempool && other.txid != pending.txid);
        let mut taken = rivals.flat_map(|other| &other.transaction.inputs).map(|input| input.outpoint);
        !pending.in_mempool
            && taken.any(|outpoint| pending.transaction.inputs.iter().any(|input| input.outpoint == outpoint))
    }

    /// Outputs of unconfirmed transactions to this wallet that none of them spends.
    fn arriving(&self) -> impl Iterator<Item = (&Pending, OutPoint, Output, KeyPath)> {
        let spent = self.spent();
        let alive = self.pending.iter().filter(|pending| !self.is_rivalled(pending));
        let made = alive.flat_map(move |pending| {
            (0u32..).zip(&pending.transaction.outputs).map(move |(index, output)| (pending, index, *output))
        });
        made.filter_map(move |(pending, index, output)| {
            let outpoint = OutPoint::new(pending.txid, index);
            let key = self.book.path(&output.address).filter(|_| !spent.contains(&outpoint))?;
            Some((pending, outpoint, output, key))
        })
    }

    /// Confirmed, pending, immature, waiting.
    pub fn balance(&self) -> Result<Balance, WalletError> {
        let spent = self.spent();
        let sum = |amounts: &mut dyn Iterator<Item = Amount>| {
            Amount::checked_sum(amounts)
                .ok_or_else(|| WalletError::Untrusted("its coins hold more money than there can be".into()))
        };
        let arriving = |in_mempool| {
            let these = self.arriving().filter(|(pending, ..)| pending.in_mempool == in_mempool);
            sum(&mut these.map(|(_, _, output, _)| output.amount))
        };
        let unspent = || self.coins.iter().filter(|coin| !spent.contains(&coin.outpoint));
        Ok(Balance {
            confirmed: sum(&mut unspent().filter(|coin| self.is_mature(coin)).map(|coin| coin.output.amount))?,
            immature: sum(&mut unspent().filter(|coin| !self.is_mature(coin)).map(|coin| coin.output.amount))?,
            pending: arriving(true)?,
            waiting: arriving(false)?,
        })
    }

    /// What can be spent now: proven mature coins, and as a last resort the change of own payments in the mempool.
    pub fn candidates(&self) -> Vec<Candidate> {
        let spent = self.spent();
        let candidate = |outpoint, output: Output, key, from_coinbase, pending| Candidate {
            outpoint,
            amount: output.amount,
            address: output.address,
            key,
            from_coinbase,
            pending,
        };
        let confirmed = self.coins.iter().filter(|coin| self.is_mature(coin) && !spent.contains(&coin.outpoint));
        let change = self
            .arriving()
            .filter(|(pending, _, _, key)| pending.own && pending.in_mempool && key.chain == Chain::Change);
        confirmed
            .map(|coin| candidate(coin.outpoint, coin.output, coin.key, coin.from_coinbase, false))
            .chain(change.map(|(_, outpoint, output, key)| candidate(outpoint, output, key, false, true)))
            .collect()
    }
}
