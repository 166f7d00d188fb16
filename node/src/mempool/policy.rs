//! This node's own rules for what it keeps and relays. None is consensus: a block may break them all.

use super::error::MempoolError;
use super::feerate::fee_for;
use setara_core::amount::Amount;
use setara_core::consensus::{CheckedTransaction, check_transaction};
use setara_core::network::Network;
use setara_core::transaction::Transaction;

/// Bytes of a transaction that is relayed: a tenth of a main network block, so no single one shuts the others out.
pub const TRANSACTION_BYTES_MAX: u64 = 100_000;

/// Clusters that one replacement may touch: bounds the work of judging it (Bitcoin Core's limit).
pub const REPLACED_CLUSTERS_MAX: usize = 100;

/// A twin of an entry (same txid, other witness) replaces it free when its size is at most this share of the entry's:
/// a third party may shrink a witness, but cannot make nodes relay it again and again.
const TWIN_SIZE_PERCENT_MAX: u64 = 95;

/// What an operator can set.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of memory, every overhead counted.
    pub max_bytes: usize,
    /// Least feerate, in sen per 1,000 bytes.
    pub relay_floor: u64,
    /// What a replacement owes for its own relay, in sen per 1,000 bytes; also the step of the rolling floor.
    pub increment: u64,
    /// Least output: spending a smaller one costs more than it is worth keeping.
    pub dust: Amount,
    /// Seconds after which an entry is given up.
    pub expiry_seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_bytes: 300_000_000,
            relay_floor: 1_000,
            increment: 1_000,
            dust: Amount::from_sen(1_000),
            expiry_seconds: 336 * 3_600,
        }
    }
}

/// All that needs neither coins nor curve arithmetic, cheapest first: size, stated fee, the protocol's rules for a
/// transaction alone, then ours. `floor` is what the mempool asks at the moment, in sen per 1,000 bytes; `None` for
/// transactions of a block that was reverted, which only the fixed floor holds back.
pub fn check(
    network: &Network,
    options: &Options,
    floor: Option<u64>,
    transaction: &Transaction,
) -> Result<CheckedTransaction, MempoolError> {
    let ids = transaction.ids();
    if ids.size > TRANSACTION_BYTES_MAX {
        return Err(MempoolError::TooLarge { got: ids.size, max: TRANSACTION_BYTES_MAX });
    }
    if let Some(fee) = transaction.fee() {
        let needed = Amount::from_sen(fee_for(options.relay_floor, ids.size));
        if fee < needed {
            return Err(MempoolError::BelowRelayFloor { got: fee, needed });
        }
        let needed = Amount::from_sen(fee_for(floor.unwrap_or(0), ids.size));
        if fee < needed {
            return Err(MempoolError::BelowMempoolFloor { got: fee, needed });
        }
    }
    check_rules(network, options, transaction)
}

/// [`check`] without the fee, for a transaction that another one pays for.
pub fn check_unpriced(
    network: &Network,
    options: &Options,
    transaction: &Transaction,
) -> Result<CheckedTransaction, MempoolError> {
    let size = transaction.ids().size;
    if size > TRANSACTION_BYTES_MAX {
        return Err(MempoolError::TooLarge { got: size, max: TRANSACTION_BYTES_MAX });
    }
    check_rules(network, options, transaction)
}

fn check_rules(
    network: &Network,
    options: &Options,
    transaction: &Transaction,
) -> Result<CheckedTransaction, MempoolError> {
    let checked = check_transaction(network, transaction)?;
    if let Some((input, _)) = (0..).zip(&transaction.witnesses).find(|(_, witness)| witness.policy.has_future()) {
        return Err(MempoolError::FuturePolicy { input });
    }
    let dust = options.dust;
    if let Some((index, output)) = (0..).zip(&transaction.outputs).find(|(_, output)| output.amount < dust) {
        return Err(MempoolError::Dust { index, amount: output.amount, dust });
    }
    Ok(checked)
}

/// Whether a twin of `size` bytes takes the place of an entry of `entry` bytes.
pub fn twin_replaces(size: u64, entry: u64) -> bool {
    u128::from(size) * 100 <= u128::from(entry) * u128::from(TWIN_SIZE_PERCENT_MAX)
}
