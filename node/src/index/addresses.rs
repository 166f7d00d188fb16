//! The address index: the coins, the history and the totals of an address.
//!
//! | key | value |
//! | --- | --- |
//! | `c`, address, txid, index (u32 BE) | an unspent [`Coin`] |
//! | `h`, address, height (u32 BE), position in the block (u32 BE) | txid |
//! | `t`, address | balance, received, transactions |
//!
//! Amounts and addresses of what a transaction spends stand in the transaction itself (stated amounts, revealed
//! policies), so nothing is looked up to build it.

use super::IndexView;
use super::follower::{Rows, Step};
use crate::store::{Batch, Column, Direction, Reader, Row, StoreError, schema};
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::codec::{self, Codec, CodecError, Writer};
use setara_core::hash::TxId;
use setara_core::height::Height;
use setara_core::transaction::{Coin, OutPoint, Output, Transaction};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// As `getindexinfo` names it, and the name of its cursor.
pub(super) const NAME: &str = "addressindex";

const COIN: u8 = b'c';
const HISTORY: u8 = b'h';
const TOTALS: u8 = b't';
/// Bytes before what follows the address.
const PREFIX_BYTES: usize = 1 + 32;

/// Sums over an address's whole history in the active chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressTotals {
    /// What it holds.
    pub balance: Amount,
    /// All that was ever paid to it in sen, change included: no coin bounds it, the same money can come again and again.
    pub received: u128,
    /// Transactions that pay it or spend from it.
    pub transactions: u64,
}

/// An unspent coin of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressCoin {
    /// Its name.
    pub outpoint: OutPoint,
    /// What it is.
    pub coin: Coin,
}

/// A transaction that pays an address or spends from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRow {
    /// Of its block.
    pub height: Height,
    /// Its place there; the coinbase is 0.
    pub position: u32,
    /// Its id.
    pub txid: TxId,
}

impl Codec for AddressTotals {
    const MIN_SIZE: u64 = 4;

    fn write(&self, writer: &mut Writer) {
        self.balance.write(writer);
        writer.u64((self.received >> 64) as u64);
        writer.u64(self.received as u64);
        writer.u64(self.transactions);
    }

    fn read(reader: &mut codec::Reader<'_>) -> Result<Self, CodecError> {
        let balance = Amount::read(reader)?;
        let received = u128::from(reader.u64()?) << 64 | u128::from(reader.u64()?);
        Ok(Self { balance, received, transactions: reader.u64()? })
    }
}

fn key(kind: u8, address: &Address, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_BYTES + rest.len());
    key.push(kind);
    key.extend_from_slice(address.as_bytes());
    key.extend_from_slice(rest);
    key
}

/// Coins and history are put where nothing is; totals change.
pub(super) fn is_unique(key: &[u8]) -> bool {
    key.first() != Some(&TOTALS)
}

fn coin_key(address: &Address, outpoint: &OutPoint) -> Vec<u8> {
    key(COIN, address, &schema::coin_key(outpoint))
}

fn history_key(address: &Address, height: Height, position: u32) -> Vec<u8> {
    key(HISTORY, address, &[height.get().to_be_bytes(), position.to_be_bytes()].concat())
}

fn damaged(address: &Address) -> StoreError {
    StoreError::corrupt(format!("the address index at {address:?}"))
}

fn totals(reader: &dyn Reader, address: &Address) -> Result<AddressTotals, StoreError> {
    parse_totals(address, reader.get(Column::AddressIndex, &key(TOTALS, address, &[]))?.as_deref())
}

fn parse_totals(address: &Address, value: Option<&[u8]>) -> Result<AddressTotals, StoreError> {
    value.map_or(Ok(AddressTotals::default()), |value| codec::decode(value).map_err(|_| damaged(address)))
}

/// Totals by address. Hashed by the standard library's keyed hash: whoever pays chooses the address, all 32 bytes of it.
type Totals = HashMap<Address, AddressTotals>;

/// Totals that a batch changes: read once, written once.
#[derive(Default)]
pub(super) struct TotalsCache {
    changed: Totals,
    /// Those of the batch before, which may still be on its way to the store.
    before: Arc<Totals>,
}

impl TotalsCache {
    /// For the batch after this one, which is about to be written.
    pub fn successor(self) -> Self {
        Self { changed: Totals::new(), before: Arc::new(self.changed) }
    }

    /// Reads the totals of all these addresses together: dearest if done one by one.
    fn load(&mut self, reader: &dyn Reader, entries: &[Entry]) -> Result<(), StoreError> {
        let mut missing = Vec::new();
        for address in entries.iter().flat_map(|entry| &entry.addresses) {
            if !self.changed.contains_key(address) {
                match self.before.get(address) {
                    Some(totals) => drop(self.changed.insert(*address, *totals)),
                    None => missing.push(*address),
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        let keys: Vec<Vec<u8>> = missing.iter().map(|address| key(TOTALS, address, &[])).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        for (address, value) in missing.iter().zip(reader.multi_get(Column::AddressIndex, &keys)?) {
            self.changed.insert(*address, parse_totals(address, value.as_deref())?);
        }
        Ok(())
    }

    /// Those of an address that was loaded.
    fn get(&mut self, address: &Address) -> &mut AddressTotals {
        self.changed.entry(*address).or_default()
    }

    pub fn write(&self, batch: &mut Batch) {
        for (address, totals) in &self.changed {
            let key = key(TOTALS, address, &[]);
            if totals.transactions == 0 {
                batch.delete(Column::AddressIndex, &key);
            } else {
                batch.put(Column::AddressIndex, &key, &codec::encode(totals));
            }
        }
    }
}

pub(super) struct AddressIndex;

impl AddressIndex {
    pub fn apply_block(&self, rows: &mut Rows<'_>, step: &Step<'_>) -> Result<(), StoreError> {
        for (outpoint, coin) in step.delta.spent() {
            rows.batch.delete(Column::AddressIndex, &coin_key(&coin.output.address, outpoint));
        }
        for (outpoint, coin) in step.delta.created() {
            put_coin(&mut rows.batch, outpoint, coin);
        }
        let height = step.delta.header().height;
        let entries: Vec<Entry> = entries(step).collect();
        rows.totals.load(rows.store, &entries)?;
        for entry in &entries {
            for address in &entry.addresses {
                rows.batch.put(
                    Column::AddressIndex,
                    &history_key(address, height, entry.position),
                    entry.txid.as_bytes(),
                );
                let totals = rows.totals.get(address);
                totals.transactions = totals.transactions.checked_add(1).ok_or_else(|| damaged(address))?;
            }
            for (address, amount) in &entry.received {
                let totals = rows.totals.get(address);
                totals.received = totals.received.checked_add(amount.sen().into()).ok_or_else(|| damaged(address))?;
                totals.balance = totals.balance.checked_add(*amount).ok_or_else(|| damaged(address))?;
            }
            for (address, amount) in &entry.spent {
                let totals = rows.totals.get(address);
                totals.balance = totals.balance.checked_sub(*amount).ok_or_else(|| damaged(address))?;
            }
        }
        Ok(())
    }

    pub fn revert_block(&self, rows: &mut Rows<'_>, step: &Step<'_>) -> Result<(), StoreError> {
        for (outpoint, coin) in step.delta.created() {
            rows.batch.delete(Column::AddressIndex, &coin_key(&coin.output.address, outpoint));
        }
        for (outpoint, coin) in step.delta.spent() {
            put_coin(&mut rows.batch, outpoint, coin);
        }
        let height = step.delta.header().height;
        let mut newest_first: Vec<Entry> = entries(step).collect();
        newest_first.reverse();
        rows.totals.load(rows.store, &newest_first)?;
        for entry in &newest_first {
            for (address, amount) in &entry.spent {
                let totals = rows.totals.get(address);
                totals.balance = totals.balance.checked_add(*amount).ok_or_else(|| damaged(address))?;
            }
            for (address, amount) in &entry.received {
                let totals = rows.totals.get(address);
                totals.balance = totals.balance.checked_sub(*amount).ok_or_else(|| damaged(address))?;
                totals.received = totals.received.checked_sub(amount.sen().into()).ok_or_else(|| damaged(address))?;
            }
            for address in &entry.addresses {
                rows.batch.delete(Column::AddressIndex, &history_key(address, height, entry.position));
                let totals = rows.totals.get(address);
                totals.transactions = totals.transactions.checked_sub(1).ok_or_else(|| damaged(address))?;
            }
        }
        Ok(())
    }
}

fn put_coin(batch: &mut Batch, outpoint: &OutPoint, coin: &Coin) {
    batch.put(Column::AddressIndex, &coin_key(&coin.output.address, outpoint), &codec::encode(coin));
}

/// One transaction as addresses see it.
struct Entry {
    position: u32,
    txid: TxId,
    spent: Vec<(Address, Amount)>,
    received: Vec<(Address, Amount)>,
    /// Each once.
    addresses: BTreeSet<Address>,
}

impl Entry {
    fn new(position: u32, txid: TxId, spent: Vec<(Address, Amount)>, outputs: &[Output]) -> Self {
        // A coinbase's zero output is no coin and pays nobody.
        let paying = outputs.iter().filter(|output| !output.amount.is_zero());
        let received: Vec<_> = paying.map(|output| (output.address, output.amount)).collect();
        let addresses = spent.iter().chain(&received).map(|(address, _)| *address).collect();
        Self { position, txid, spent, received, addresses }
    }
}

fn entries<'a>(step: &'a Step<'_>) -> impl Iterator<Item = Entry> + 'a {
    let coinbase = &step.block.coinbase;
    let first = Entry::new(0, coinbase.txid(), Vec::new(), &coinbase.outputs);
    let others = (1u32..).zip(&step.block.transactions).map(|(position, transaction): (u32, &Transaction)| {
        let amounts = transaction.inputs.iter().map(|input| input.amount);
        let spent = transaction.spent_addresses().into_iter().zip(amounts).collect();
        Entry::new(position, transaction.txid(), spent, &transaction.outputs)
    });
    std::iter::once(first).chain(others)
}

impl IndexView {
    /// Sums of an address.
    pub fn address_totals(&self, address: &Address) -> Result<AddressTotals, StoreError> {
        self.read(NAME, totals(&**self.view.reader(), address))
    }

    /// Unspent coins of an address in order of their outpoints, from the first one after `after`.
    pub fn address_coins(
        &self,
        address: &Address,
        after: Option<&OutPoint>,
    ) -> impl Iterator<Item = Result<AddressCoin, StoreError>> + '_ {
        let prefix = key(COIN, address, &[]);
        let from = after.map_or_else(|| prefix.clone(), |outpoint| [&coin_key(address, outpoint)[..], &[0]].concat());
        let address = *address;
        let parse = move |row: Result<Row, StoreError>| {
            let (key, value) = row?;
            let outpoint = schema::coin_outpoint(key.get(PREFIX_BYTES..).unwrap_or_default())?;
            let coin = codec::decode(&value).map_err(|_| damaged(&address))?;
            Ok(AddressCoin { outpoint, coin })
        };
        self.rows(from, prefix).map(move |row| self.read(NAME, parse(row)))
    }

    /// Transactions of an address from height `from` to `to`, both included, in the chain's order.
    pub fn address_history(
        &self,
        address: &Address,
        from: Height,
        to: Height,
    ) -> impl Iterator<Item = Result<HistoryRow, StoreError>> + '_ {
        let address = *address;
        let rows = self.rows(history_key(&address, from, 0), key(HISTORY, &address, &[]));
        let parse = move |row: Result<Row, StoreError>| {
            let (key, value) = row?;
            let parsed = key.get(PREFIX_BYTES..).and_then(|rest| {
                let (height, position) = rest.split_first_chunk::<4>()?;
                let txid = TxId::from_bytes(value.as_slice().try_into().ok()?);
                let position = u32::from_be_bytes(position.try_into().ok()?);
                Some(HistoryRow { height: Height::new(u32::from_be_bytes(*height)), position, txid })
            });
            parsed.ok_or_else(|| damaged(&address))
        };
        let rows = rows.map(move |row| self.read(NAME, parse(row)));
        rows.take_while(move |row| row.as_ref().map_or(true, |row| row.height <= to))
    }

    fn rows(&self, from: Vec<u8>, prefix: Vec<u8>) -> impl Iterator<Item = Result<Row, StoreError>> + '_ {
        let rows = self.view.reader().iterate(Column::AddressIndex, &from, Direction::Forward);
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)))
    }
}
