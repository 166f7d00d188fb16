//! The transaction index: id of a transaction of the active chain -> its block and its place there.
//!
//! Key: txid. Value: block hash, position (u32 LE, coinbase 0).

use super::IndexView;
use super::follower::{Rows, Step};
use crate::store::{Column, StoreError};
use setara_core::hash::{BlockHash, TxId};

/// As `getindexinfo` names it, and the name of its cursor.
pub(super) const NAME: &str = "txindex";

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxLocation {
    /// The block, in the active chain.
    pub block: BlockHash,
    /// Its place there; the coinbase is 0.
    pub position: u32,
}

pub(super) struct TxIndex;

impl TxIndex {
    pub fn apply_block(&self, rows: &mut Rows<'_>, step: &Step<'_>) {
        for (position, txid) in (0u32..).zip(txids(step)) {
            let mut value = [0; 36];
            value[..32].copy_from_slice(step.hash.as_bytes());
            value[32..].copy_from_slice(&position.to_le_bytes());
            rows.batch.put(Column::TxIndex, txid.as_bytes(), &value);
        }
    }

    pub fn revert_block(&self, rows: &mut Rows<'_>, step: &Step<'_>) {
        for txid in txids(step) {
            rows.batch.delete(Column::TxIndex, txid.as_bytes());
        }
    }
}

fn txids(step: &Step<'_>) -> impl Iterator<Item = TxId> {
    let others = step.block.transactions.iter().map(setara_core::transaction::Transaction::txid);
    std::iter::once(step.block.coinbase.txid()).chain(others)
}

impl IndexView {
    /// Where a confirmed transaction stands.
    pub fn locate(&self, txid: &TxId) -> Result<Option<TxLocation>, StoreError> {
        self.read(NAME, self.stored(txid))
    }

    fn stored(&self, txid: &TxId) -> Result<Option<TxLocation>, StoreError> {
        let Some(value) = self.view.reader().get(Column::TxIndex, txid.as_bytes())? else { return Ok(None) };
        let parsed = value.split_first_chunk::<32>().and_then(|(block, position)| {
            let position = u32::from_le_bytes(position.try_into().ok()?);
            Some(TxLocation { block: BlockHash::from_bytes(*block), position })
        });
        parsed.map(Some).ok_or_else(|| StoreError::corrupt(format!("the transaction index at {txid}")))
    }
}
