//! Taking transactions in: the order of checks, replacement, and entering.
//!
//! Dear work comes last: a transaction that fails a cheap check costs no coin look-up, one that fails a coin check costs
//! no signature. Between the checks and entering the mempool may have changed, so whatever depends on it is looked at
//! again under the lock; whatever depends on the tip is done again if the tip has moved.

use super::error::MempoolError;
use super::feerate::compare_diagrams;
use super::graph::{Entry, Id, Lock};
use super::replace::Standing;
use super::{Inner, Leave, Mempool, Work, policy, weight};
use rayon::prelude::*;
use setara_core::amount::Amount;
use setara_core::consensus::{CheckedTransaction, RuleError, transaction_signatures};
use setara_core::hash::{BlockHash, TxId};
use setara_core::keys::{SignatureCheck, verify_all};
use setara_core::transaction::{Transaction, TransactionIds};
use std::cmp::Ordering;
use std::sync::Arc;

/// Transactions judged in one go: enough to fill batches on every core, and the lock is free again after about 10 ms.
const ROUND_TRANSACTIONS_MAX: usize = 1_024;
/// Signatures in one equation: larger batches gain little.
const BATCH_SIGNATURES_MAX: usize = 256;
/// Signatures worth another thread.
const BATCH_SIGNATURES_MIN: usize = 32;

/// A transaction that was taken, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Ids and size.
    pub ids: TransactionIds,
    /// Its own fee.
    pub fee: Amount,
    /// What it replaced: other transactions, in order of entering. A twin replaced by witness alone is not among them.
    pub replaced: Vec<TxId>,
}

/// A candidate whose coins were there, with all locks open, when the tip was `tip`.
pub(super) struct Resolved {
    pub candidate: Candidate,
    /// Per input, whether an unconfirmed transaction makes the coin.
    pub unconfirmed: Vec<bool>,
    pub lock: Lock,
    pub tip: BlockHash,
}

/// What is known of where a transaction comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// Unix seconds.
    pub time: u64,
    /// Whether the fee estimator may learn from it.
    pub watched: bool,
}

/// A transaction that passed [`policy::check`].
pub(super) struct Candidate {
    pub transaction: Arc<Transaction>,
    pub checked: CheckedTransaction,
    pub arrival: Arrival,
}

impl Candidate {
    pub fn txid(&self) -> TxId {
        self.checked.ids.txid
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Enter,
    /// Enter, and leave giving up what pays least to the next that enters.
    Untrimmed,
    /// Change nothing.
    Test,
    /// Enter unnoticed, replacing nothing; [`Mempool::test_package`] takes all out again under the same lock.
    Trial,
}

impl Mempool {
    /// Takes a transaction in, if it holds up.
    pub fn submit(&self, transaction: Transaction) -> Result<Accepted, MempoolError> {
        self.submit_many(vec![transaction]).pop().expect("one verdict for one transaction")
    }

    /// Takes transactions in, in their order: a later one may spend an earlier one. Signatures of many are verified
    /// together, which costs a fraction of verifying them one by one.
    pub fn submit_many(&self, transactions: Vec<Transaction>) -> Vec<Result<Accepted, MempoolError>> {
        let arrival = Arrival { time: self.clock.unix_seconds(), watched: true };
        self.admit(transactions.into_iter().map(|transaction| (transaction, arrival)).collect(), Mode::Enter)
    }

    /// What [`Self::submit`] would say; changes nothing. Whether it would be the first to be evicted is not part of it.
    pub fn test(&self, transaction: Transaction) -> Result<Accepted, MempoolError> {
        let arrival = Arrival { time: self.clock.unix_seconds(), watched: false };
        self.admit(vec![(transaction, arrival)], Mode::Test).pop().expect("one verdict for one transaction")
    }

    /// Takes saved transactions in, with the times at which they first came.
    pub(super) fn submit_saved(&self, saved: Vec<(Transaction, u64)>) -> Vec<Result<Accepted, MempoolError>> {
        let arrive = |(transaction, time)| (transaction, Arrival { time, watched: false });
        self.admit(saved.into_iter().map(arrive).collect(), Mode::Enter)
    }

    pub(super) fn admit(
        &self,
        arrivals: Vec<(Transaction, Arrival)>,
        mode: Mode,
    ) -> Vec<Result<Accepted, MempoolError>> {
        let mut verdicts = Vec::with_capacity(arrivals.len());
        let mut arrivals = arrivals.into_iter().peekable();
        while arrivals.peek().is_some() {
            let round: Vec<_> = arrivals.by_ref().take(ROUND_TRANSACTIONS_MAX).collect();
            verdicts.extend(self.admit_round(round, mode));
        }
        verdicts
    }

    fn admit_round(&self, arrivals: Vec<(Transaction, Arrival)>, mode: Mode) -> Vec<Result<Accepted, MempoolError>> {
        if let Err(error) = self.catch_up() {
            return arrivals.iter().map(|_| Err(error.clone().into())).collect();
        }
        let floor = Some(self.floor());
        let check = |(transaction, arrival): (Transaction, Arrival)| {
            let checked = policy::check(&self.network, &self.options, floor, &transaction)?;
            Ok(Candidate { transaction: Arc::new(transaction), checked, arrival })
        };
        let candidates: Vec<_> = if arrivals.len() < BATCH_SIGNATURES_MIN {
            arrivals.into_iter().map(check).collect()
        } else {
            let checked = arrivals.into_par_iter().with_min_len(BATCH_SIGNATURES_MIN / 2).map(check);
            self.chain.verifier().pool().install(|| checked.collect())
        };
        let mut resolved = self.resolve(candidates);
        self.verify(&mut resolved);
        let inner = &mut *self.inner.lock();
        let enter = |resolved: Result<Resolved, _>| self.enter(inner, resolved?, mode);
        let verdicts: Vec<Result<Accepted, _>> = resolved.into_iter().map(enter).collect();
        if mode == Mode::Trial {
            let entered = verdicts.iter().flatten().filter_map(|accepted| inner.graph.id_of(&accepted.ids.txid));
            let entered = entered.collect();
            inner.graph.remove(&entered);
        }
        self.publish(inner);
        verdicts
    }

    /// The last and dearest check. What passes is remembered by wtxid.
    pub(super) fn verify(&self, resolved: &mut [Result<Resolved, MempoolError>]) {
        let unknown = |resolved: &Resolved| !self.known.contains(&resolved.candidate.checked.ids.wtxid);
        let unknown: Vec<(usize, &CheckedTransaction)> = resolved
            .iter()
            .enumerate()
            .filter_map(|(position, resolved)| Some((position, resolved.as_ref().ok()?)))
            .filter(|(_, resolved)| unknown(resolved))
            .map(|(position, resolved)| (position, &resolved.candidate.checked))
            .collect();
        let claimed = |checked: &CheckedTransaction| -> usize {
            checked.claims().iter().map(|claims| claims.signatures.len()).sum()
        };
        let total: usize = unknown.iter().map(|(_, checked)| claimed(checked)).sum();
        let pool = self.chain.verifier().pool();
        let share = total.div_ceil(pool.current_num_threads()).clamp(BATCH_SIGNATURES_MIN, BATCH_SIGNATURES_MAX);
        // Transactions stay whole, so a batch may go beyond its share by one of them.
        let mut filled = 0;
        let batches: Vec<&[(usize, &CheckedTransaction)]> = unknown
            .chunk_by(|(_, before), _| {
                filled += claimed(before);
                let room = filled < share;
                filled *= usize::from(room);
                room
            })
            .collect();
        // Always on the workers, so that callers, however many, never take more than their share of the cores.
        let verify = || batches.into_par_iter().flat_map_iter(|batch| self.verify_batch(batch)).collect();
        let bad: Vec<usize> = if unknown.is_empty() { Vec::new() } else { pool.install(verify) };
        for position in bad {
            resolved[position] = Err(RuleError::BadSignature { transaction: 0 }.into());
        }
    }

    /// The positions of transactions with a bad signature.
    fn verify_batch(&self, batch: &[(usize, &CheckedTransaction)]) -> Vec<usize> {
        let genesis = self.network.genesis_hash();
        let checks: Vec<Vec<SignatureCheck>> =
            batch.iter().map(|(_, checked)| transaction_signatures(genesis, checked)).collect();
        let good = |checks: &[SignatureCheck]| {
            Work::count(&self.work.signatures_checked, weight::count(checks.len()));
            verify_all(checks, &mut rand::rng()).is_ok()
        };
        let all_good = good(&checks.concat());
        let mut bad = Vec::new();
        for ((position, checked), checks) in batch.iter().zip(checks) {
            // One bad transaction costs each of its batch one more look, not a search among all of them.
            if all_good || (batch.len() > 1 && good(&checks)) {
                self.known.insert(checked.ids.wtxid);
            } else {
                bad.push(*position);
            }
        }
        bad
    }

    /// Lets a transaction of a reverted block, or one that was displaced, back in: its signatures were verified before.
    pub(super) fn readmit(&self, inner: &mut Inner, candidate: Candidate) -> Result<(), MempoolError> {
        let resolved = self.resolve_again(inner, candidate)?;
        self.enter(inner, resolved, Mode::Enter).map(|_| ())
    }

    /// What depends on the other transactions, and then the change itself.
    pub(super) fn enter(&self, inner: &mut Inner, resolved: Resolved, mode: Mode) -> Result<Accepted, MempoolError> {
        let moved = resolved.tip != inner.view.tip.hash();
        let resolved = if moved { self.resolve_again(inner, resolved.candidate)? } else { resolved };
        let Resolved { candidate, unconfirmed, lock, .. } = resolved;
        // A parent that was here may have been evicted or replaced since.
        let inputs = candidate.transaction.inputs.iter().zip(&unconfirmed);
        if let Some((input, _)) = inputs
            .into_iter()
            .find(|(input, unconfirmed)| **unconfirmed && inner.graph.output(&input.outpoint).is_none())
        {
            return Err(MempoolError::MissingInputs { outpoint: input.outpoint });
        }
        let standing = inner.standing(&self.options, &candidate)?;
        if mode == Mode::Trial && !standing.is_free() {
            return Err(MempoolError::ReplacementInPackage);
        }
        let Candidate { transaction, checked, arrival } = candidate;
        let (ids, fee) = (checked.ids, checked.fee);
        let entry = Entry {
            transaction,
            ids,
            fee,
            time: arrival.time,
            tip_height: inner.view.tip.height(),
            lock,
            spent_addresses: checked.addresses().into(),
            watched: arrival.watched && !unconfirmed.contains(&true),
        };
        let conflicts = match standing {
            Standing::Conflicts(conflicts) => conflicts,
            Standing::Twin(id) => {
                if mode != Mode::Test {
                    self.swap(inner, id, entry);
                }
                return Ok(Accepted { ids, fee, replaced: Vec::new() });
            }
        };
        let (all, replaced) = inner.replaced(&self.options, &entry, &conflicts)?;
        let planned = inner.graph.plan(&entry.transaction, &ids, entry.feerate(), all);
        let (plan, steps) = planned?;
        inner.graph.steps += steps;
        if !conflicts.is_empty() {
            let (after, before) = (plan.diagram_after(), inner.graph.diagram_before(&plan));
            if compare_diagrams(&after, &before) != Some(Ordering::Greater) {
                return Err(MempoolError::ReplacementDiagram);
            }
        }
        if mode == Mode::Trial {
            inner.graph.commit(plan, entry);
        } else if mode != Mode::Test {
            let (feerate, height, watched) = (entry.feerate(), inner.tip_height(), entry.watched);
            inner.oldest = inner.oldest.min(entry.time);
            let (id, removed) = inner.graph.commit(plan, entry);
            inner.sequence += 1;
            inner.additions.push(ids.wtxid, feerate);
            for entry in &removed {
                inner.forget(entry, Leave::Unmined, height);
            }
            if watched {
                inner.estimator.entered(feerate, height);
            }
            if mode == Mode::Enter {
                inner.trim(&self.options);
            }
            if inner.graph.node(id).is_none() {
                return Err(MempoolError::Full);
            }
        }
        Ok(Accepted { ids, fee, replaced })
    }

    /// A smaller witness takes the place of a larger one. Its time stays, so that shrinking does not prolong a stay.
    fn swap(&self, inner: &mut Inner, id: Id, mut entry: Entry) {
        let Some(node) = inner.graph.node(id) else { return };
        entry.time = node.entry.time;
        if node.entry.watched {
            let (feerate, entered) = (node.entry.feerate(), node.entry.tip_height.get());
            inner.estimator.forget(feerate, entered);
        }
        entry.watched = false;
        inner.additions.push(entry.ids.wtxid, entry.feerate());
        inner.graph.swap_witness(id, entry);
        inner.sequence += 1;
    }
}
