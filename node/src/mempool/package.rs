//! Transactions that are judged together.
//!
//! One parent with one child: a parent that pays too little by itself enters when its child pays for both. Both enter or
//! neither does. The parent may replace nothing: what it pushed out could not be brought back if the child then fails.
//!
//! A list that is only tested: each as if those before it had entered.

use super::admit::{Accepted, Arrival, Candidate, Mode};
use super::error::MempoolError;
use super::feerate::fee_for;
use super::{CLUSTER_BYTES_MAX, Leave, Mempool, policy};
use setara_core::amount::Amount;
use setara_core::transaction::{Input, Transaction, TransactionIds};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// The most transactions in a list that is tested together, as in Bitcoin Core: room for any cluster that people build,
/// and at most some milliseconds under the mempool's lock.
pub const PACKAGE_TRANSACTIONS_MAX: usize = 25;

/// Verdicts on a parent and its child.
pub type PackageVerdicts = [Result<Accepted, MempoolError>; 2];

/// Why a list cannot be judged together, whatever its transactions are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// More than [`PACKAGE_TRANSACTIONS_MAX`].
    #[error("package-too-many-transactions")]
    TooMany,
    /// Together larger than any cluster may be.
    #[error("package-too-large")]
    TooLarge,
    /// One stands there twice, be it with another witness.
    #[error("package-contains-duplicates")]
    Duplicates,
    /// A child before its parent.
    #[error("package-not-sorted")]
    NotSorted,
    /// Two spend the same coin.
    #[error("conflict-in-package")]
    Conflict,
}

/// Whether these can be judged together at all.
fn check_package(transactions: &[(&Transaction, TransactionIds)]) -> Result<(), PackageError> {
    if transactions.len() > PACKAGE_TRANSACTIONS_MAX {
        return Err(PackageError::TooMany);
    }
    let size = transactions.iter().map(|(_, ids)| ids.size).fold(0, u64::saturating_add);
    if transactions.len() > 1 && size > CLUSTER_BYTES_MAX {
        return Err(PackageError::TooLarge);
    }
    let mut later = HashSet::new();
    if !transactions.iter().all(|(_, ids)| later.insert(ids.txid)) {
        return Err(PackageError::Duplicates);
    }
    let mut spent = HashSet::new();
    for (transaction, ids) in transactions {
        if transaction.inputs.iter().any(|input| later.contains(&input.outpoint.txid)) {
            return Err(PackageError::NotSorted);
        }
        later.remove(&ids.txid);
    }
    // Within one transaction a coin that is spent twice breaks a rule, and is named by it.
    for (transaction, _) in transactions {
        let own: HashSet<_> = transaction.inputs.iter().map(|input| input.outpoint).collect();
        if own.into_iter().any(|outpoint| !spent.insert(outpoint)) {
            return Err(PackageError::Conflict);
        }
    }
    Ok(())
}

impl Mempool {
    /// What [`Self::submit_many`] would say to a list, parents first; changes nothing. Each is judged as if those before
    /// it had entered, and as in Bitcoin Core none may replace what is here. Whether one would be evicted at once is not
    /// part of it.
    pub fn test_package(
        &self,
        transactions: Vec<Transaction>,
    ) -> Result<Vec<Result<Accepted, MempoolError>>, PackageError> {
        let listed: Vec<_> = transactions.iter().map(|transaction| (transaction, transaction.ids())).collect();
        check_package(&listed)?;
        drop(listed);
        let arrival = Arrival { time: self.clock.unix_seconds(), watched: false };
        Ok(self.admit(transactions.into_iter().map(|transaction| (transaction, arrival)).collect(), Mode::Trial))
    }

    /// Takes a parent and its child in. If the parent pays enough by itself, they are judged one after the other, as by
    /// [`Self::submit_many`].
    pub fn submit_package(&self, parent: Transaction, child: Transaction) -> PackageVerdicts {
        let floor = self.floor();
        let (parent_ids, child_ids) = (parent.ids(), child.ids());
        let fees = (parent.fee(), child.fee());
        let poor = matches!(fees.0, Some(fee) if fee.sen() < fee_for(floor, parent_ids.size));
        let spends = |input: &&Input| input.outpoint.txid == parent_ids.txid;
        let Some(outpoint) = child.inputs.iter().find(spends).map(|input| input.outpoint) else {
            return self.submit_both(parent, child);
        };
        if !poor || self.contains_txid(&parent_ids.txid) {
            return self.submit_both(parent, child);
        }
        let orphaned = || MempoolError::MissingInputs { outpoint };
        let needed = Amount::from_sen(fee_for(floor, parent_ids.size.saturating_add(child_ids.size)));
        let got = Amount::checked_sum([fees.0, fees.1].into_iter().flatten()).unwrap_or(Amount::ZERO);
        if got < needed {
            return [Err(MempoolError::BelowMempoolFloor { got, needed }), Err(orphaned())];
        }
        if let Err(error) = self.catch_up() {
            return [Err(error.clone().into()), Err(error.into())];
        }
        // The estimator learns from transactions that stand for themselves only.
        let arrival = Arrival { time: self.clock.unix_seconds(), watched: false };
        let check = |transaction: Transaction| {
            let checked = policy::check_unpriced(&self.network, &self.options, &transaction)?;
            Ok(Candidate { transaction: Arc::new(transaction), checked, arrival })
        };
        let mut resolved = self.resolve(vec![check(parent), check(child)]);
        self.verify(&mut resolved);
        let (child, parent) = (resolved.pop(), resolved.pop());
        let (parent, child) = match (parent.expect("two candidates"), child.expect("two candidates")) {
            (Ok(parent), Ok(child)) => (parent, child),
            (Err(error), Ok(_)) => return [Err(error), Err(orphaned())],
            (Ok(_), Err(error)) => return [Err(MempoolError::BelowMempoolFloor { got, needed }), Err(error)],
            (Err(parent), Err(child)) => return [Err(parent), Err(child)],
        };
        let inner = &mut *self.inner.lock();
        match inner.standing(&self.options, &parent.candidate) {
            Ok(standing) if standing.is_free() => {}
            Ok(_) => return [Err(MempoolError::BelowMempoolFloor { got, needed }), Err(orphaned())],
            Err(error) => return [Err(error), Err(orphaned())],
        }
        // Not trimmed in between: alone, the parent would be the first to go.
        let parent = match self.enter(inner, parent, Mode::Untrimmed) {
            Ok(parent) => parent,
            Err(error) => return [Err(error), Err(orphaned())],
        };
        let child = self.enter(inner, child, Mode::Enter);
        if child.is_err()
            && let Some(id) = inner.graph.id_of(&parent.ids.txid)
        {
            inner.remove(&BTreeSet::from([id]), |_| Leave::Displaced);
        }
        self.publish(inner);
        match child {
            Ok(child) => [Ok(parent), Ok(child)],
            Err(error) => [Err(MempoolError::BelowMempoolFloor { got, needed }), Err(error)],
        }
    }

    fn submit_both(&self, parent: Transaction, child: Transaction) -> PackageVerdicts {
        let verdicts = self.submit_many(vec![parent, child]);
        verdicts.try_into().expect("a verdict for each")
    }
}
