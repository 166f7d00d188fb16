//! Taking transactions in: the order of checks, replacement, and entering.
//!
//! Dear work comes last: a transaction that fails a cheap check costs no coin look-up, one that fails a coin check costs
//! no signature. Between the checks and entering the mempool may have changed, so whatever depends on it is looked at
//! again under the lock; whatever depends on the tip is done again if the tip has moved.

use super::error::MempoolError;
use super::feerate::{compare_diagrams, fee_for};
use super::graph::{Entry, Graph, Id, Lock};
use super::policy::{self, REPLACED_CLUSTERS_MAX};
use super::{Inner, Leave, Mempool, Work, weight};
use crate::chain::View;
use rayon::prelude::*;
use setara_core::amount::Amount;
use setara_core::consensus::{CheckedTransaction, RuleError, SpendContext, check_spend, transaction_signatures};
use setara_core::hash::{BlockHash, TxId};
use setara_core::height::Height;
use setara_core::keys::{SignatureCheck, verify_all};
use setara_core::network::Network;
use setara_core::policy::Timelock;
use setara_core::transaction::{Coin, OutPoint, Transaction, TransactionIds};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Transactions judged in one go: bounds what is held at once, and leaves the lock free in between.
const ROUND_TRANSACTIONS_MAX: usize = 4_096;
/// Signatures in one equation: larger batches gain little.
const BATCH_SIGNATURES_MAX: usize = 256;
/// Signatures worth another thread.
const BATCH_SIGNATURES_MIN: usize = 32;
/// Outputs looked up to tell a mined transaction from one whose inputs never were.
const KNOWN_OUTPUTS_MAX: usize = 16;

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
    fn txid(&self) -> TxId {
        self.checked.ids.txid
    }
}

/// A candidate whose coins were there, with all locks open, when the tip was `tip`.
struct Resolved {
    candidate: Candidate,
    /// Per input, whether an unconfirmed transaction makes the coin.
    unconfirmed: Vec<bool>,
    lock: Lock,
    tip: BlockHash,
}

/// What stands where a candidate would.
enum Standing {
    /// Nothing, or these, which spend the same coins.
    Conflicts(BTreeSet<Id>),
    /// The same transaction with a larger witness.
    Twin(Id),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Enter,
    Test,
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

    fn admit(&self, arrivals: Vec<(Transaction, Arrival)>, mode: Mode) -> Vec<Result<Accepted, MempoolError>> {
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
        let verdicts = resolved.into_iter().map(enter).collect();
        self.publish(inner);
        verdicts
    }

    /// Coins exist and match, policies hash to their addresses, locks are open. A candidate may spend an earlier one of
    /// the same list that itself holds up.
    fn resolve(&self, candidates: Vec<Result<Candidate, MempoolError>>) -> Vec<Result<Resolved, MempoolError>> {
        let mut earlier: BTreeMap<TxId, usize> = BTreeMap::new();
        let mut wanted: Vec<OutPoint> = Vec::new();
        let (view, candidates) = {
            let inner = self.inner.lock();
            let locate = |(position, candidate): (usize, Result<Candidate, MempoolError>)| {
                let candidate = candidate?;
                inner.standing(&self.options, &candidate)?;
                let mut sources = Vec::with_capacity(candidate.transaction.inputs.len());
                for input in &candidate.transaction.inputs {
                    sources.push(inner.locate(input.outpoint, &earlier, &mut wanted)?);
                }
                earlier.insert(candidate.txid(), position);
                Ok((candidate, sources))
            };
            let candidates: Vec<Result<_, MempoolError>> = candidates.into_iter().enumerate().map(locate).collect();
            (inner.view.clone(), candidates)
        };
        Work::count(&self.work.coins_read, weight::count(wanted.len()));
        let stored = match view.coins(&wanted) {
            Ok(stored) => stored,
            Err(error) => return candidates.iter().map(|_| Err(error.clone().into())).collect(),
        };
        let mut resolved: Vec<Result<Resolved, MempoolError>> = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let judged = candidate.and_then(|(candidate, sources)| {
                let of_store = |place: usize| stored.get(place).copied().flatten().map(|coin| (coin, false));
                let coin_of = |source: &Source| match *source {
                    Source::Pool(coin) => Some((coin, true)),
                    Source::Store(place) => of_store(place),
                    Source::Earlier { position, index, place } => {
                        let Some(Ok(parent)) = resolved.get(position) else { return of_store(place) };
                        let output = parent.candidate.transaction.outputs.get(usize::try_from(index).ok()?)?;
                        Some((unconfirmed_coin(&view, *output), true))
                    }
                };
                let coins = sources.iter().map(coin_of).collect();
                self.hold_against_coins(&view, candidate, coins)
            });
            resolved.push(judged);
        }
        resolved
    }

    /// A candidate against its coins, `None` being one that is not there.
    fn hold_against_coins(
        &self,
        view: &View,
        candidate: Candidate,
        coins: Vec<Option<(Coin, bool)>>,
    ) -> Result<Resolved, MempoolError> {
        if let Some((input, _)) = candidate.transaction.inputs.iter().zip(&coins).find(|(_, coin)| coin.is_none()) {
            let outputs = (0..).take(candidate.transaction.outputs.len().min(KNOWN_OUTPUTS_MAX));
            let outputs: Vec<OutPoint> = outputs.map(|index| OutPoint::new(candidate.txid(), index)).collect();
            Work::count(&self.work.coins_read, weight::count(outputs.len()));
            if view.coins(&outputs)?.iter().any(Option::is_some) {
                return Err(MempoolError::AlreadyKnown);
            }
            return Err(MempoolError::MissingInputs { outpoint: input.outpoint });
        }
        let (coins, unconfirmed): (Vec<Option<Coin>>, Vec<bool>) =
            coins.into_iter().flatten().map(|(coin, unconfirmed)| (Some(coin), unconfirmed)).unzip();
        let context = SpendContext {
            height: view.tip.header.next_height().ok_or(RuleError::HeightOverflow)?,
            median_time_past: view.tip.header.median_time_past(),
        };
        let Candidate { transaction, checked, .. } = &candidate;
        check_spend(&self.network, context, transaction, checked, &coins)?;
        let lock = lock_of(&self.network, transaction, checked, &coins, &unconfirmed);
        Ok(Resolved { candidate, unconfirmed, lock, tip: view.tip.hash() })
    }

    /// The last and dearest check. What passes is remembered by wtxid.
    fn verify(&self, resolved: &mut [Result<Resolved, MempoolError>]) {
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

    /// Under the lock, against the tip of now.
    fn resolve_again(&self, inner: &Inner, candidate: Candidate) -> Result<Resolved, MempoolError> {
        let mut wanted = Vec::new();
        let mut sources = Vec::with_capacity(candidate.transaction.inputs.len());
        for input in &candidate.transaction.inputs {
            sources.push(inner.locate(input.outpoint, &BTreeMap::new(), &mut wanted)?);
        }
        Work::count(&self.work.coins_read, weight::count(wanted.len()));
        let stored = inner.view.coins(&wanted)?;
        let coin_of = |source: Source| match source {
            Source::Pool(coin) => Some((coin, true)),
            Source::Store(place) | Source::Earlier { place, .. } => {
                stored.get(place).copied().flatten().map(|coin| (coin, false))
            }
        };
        let coins = sources.into_iter().map(coin_of).collect();
        self.hold_against_coins(&inner.view, candidate, coins)
    }

    /// What depends on the other transactions, and then the change itself.
    fn enter(&self, inner: &mut Inner, resolved: Resolved, mode: Mode) -> Result<Accepted, MempoolError> {
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
                if mode == Mode::Enter {
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
        if mode == Mode::Enter {
            let (feerate, height, watched) = (entry.feerate(), inner.tip_height(), entry.watched);
            inner.oldest = inner.oldest.min(entry.time);
            let (id, removed) = inner.graph.commit(plan, entry);
            inner.sequence += 1;
            for entry in &removed {
                inner.forget(entry, Leave::Unmined, height);
            }
            if watched {
                inner.estimator.entered(feerate, height);
            }
            inner.trim(&self.options);
            if inner.graph.node(id).is_none() {
                return Err(MempoolError::Full);
            }
        }
        Ok(Accepted { ids, fee, replaced })
    }

    /// A smaller witness takes the place of a larger one. Its time stays, so that shrinking does not prolong a stay.
    fn swap(&self, inner: &mut Inner, id: Id, mut entry: Entry) {
        let Some(node) = inner.graph.node(id) else { return };
        if node.entry.watched {
            let (feerate, entered) = (node.entry.feerate(), node.entry.tip_height.get());
            entry.time = node.entry.time;
            inner.estimator.forget(feerate, entered);
        }
        entry.watched = false;
        inner.graph.swap_witness(id, entry);
        inner.sequence += 1;
    }
}

/// Where the coin of an input is to be found.
#[derive(Clone, Copy)]
enum Source {
    /// Made by an entry.
    Pool(Coin),
    /// Place in the list to be read.
    Store(usize),
    /// Made by an earlier transaction of the same list; if that one is refused (it may have been mined), as `Store`.
    Earlier { position: usize, index: u32, place: usize },
}

impl Graph {
    /// An output of an entry.
    fn output(&self, outpoint: &OutPoint) -> Option<setara_core::transaction::Output> {
        let node = self.node(self.id_of(&outpoint.txid)?)?;
        node.entry.transaction.outputs.get(usize::try_from(outpoint.index).ok()?).copied()
    }
}

impl Inner {
    fn locate(
        &self,
        outpoint: OutPoint,
        earlier: &BTreeMap<TxId, usize>,
        wanted: &mut Vec<OutPoint>,
    ) -> Result<Source, MempoolError> {
        if self.graph.id_of(&outpoint.txid).is_some() {
            let output = self.graph.output(&outpoint).ok_or(MempoolError::MissingInputs { outpoint })?;
            return Ok(Source::Pool(unconfirmed_coin(&self.view, output)));
        }
        let place = wanted.len();
        wanted.push(outpoint);
        Ok(match earlier.get(&outpoint.txid) {
            Some(position) => Source::Earlier { position: *position, index: outpoint.index, place },
            None => Source::Store(place),
        })
    }

    /// What is here already, and as much of the replacement rules as is cheap.
    fn standing(&self, options: &policy::Options, candidate: &Candidate) -> Result<Standing, MempoolError> {
        let ids = &candidate.checked.ids;
        if self.graph.id_of_wtxid(&ids.wtxid).is_some() {
            return Err(MempoolError::AlreadyInMempool);
        }
        if let Some((id, node)) = self.graph.id_of(&ids.txid).and_then(|id| Some((id, self.graph.node(id)?))) {
            if policy::twin_replaces(ids.size, node.entry.ids.size) {
                return Ok(Standing::Twin(id));
            }
            return Err(MempoolError::SameTxid { wtxid: node.entry.ids.wtxid });
        }
        let inputs = &candidate.transaction.inputs;
        let conflicts: BTreeSet<Id> = inputs.iter().filter_map(|input| self.graph.spender(&input.outpoint)).collect();
        if !conflicts.is_empty() {
            let clusters = self.graph.clusters_of(&conflicts).len();
            if clusters > REPLACED_CLUSTERS_MAX {
                let max = weight::count(REPLACED_CLUSTERS_MAX);
                return Err(MempoolError::ReplacementClusters { got: weight::count(clusters), max });
            }
            // At least the direct conflicts must be paid for; their descendants are added up under the final look.
            self.pays_for(options, candidate.checked.fee, ids.size, &conflicts)?;
        }
        Ok(Standing::Conflicts(conflicts))
    }

    /// "Fee >= all replaced, plus the increment for its own size."
    fn pays_for(
        &self,
        options: &policy::Options,
        fee: Amount,
        size: u64,
        replaced: &BTreeSet<Id>,
    ) -> Result<(), MempoolError> {
        let fees = replaced.iter().filter_map(|id| self.graph.node(*id)).map(|node| node.entry.fee.sen());
        let needed = fees.fold(fee_for(options.increment, size), u64::saturating_add);
        if fee.sen() < needed {
            return Err(MempoolError::ReplacementFee { got: fee, needed: Amount::from_sen(needed) });
        }
        Ok(())
    }

    /// The conflicts with all that depends on them, if the entry may replace them as far as fees and ancestry go.
    fn replaced(
        &self,
        options: &policy::Options,
        entry: &Entry,
        conflicts: &BTreeSet<Id>,
    ) -> Result<(BTreeSet<Id>, Vec<TxId>), MempoolError> {
        if conflicts.is_empty() {
            return Ok((BTreeSet::new(), Vec::new()));
        }
        let all = self.graph.with_descendants(conflicts.iter().copied());
        let txid_of = |id: &Id| self.graph.node(*id).map(|node| node.entry.ids.txid);
        let parents = self.graph.parents_of(&entry.transaction);
        if let Some(txid) = parents.iter().find(|parent| all.contains(parent)).and_then(txid_of) {
            return Err(MempoolError::SpendsConflicting { txid });
        }
        self.pays_for(options, entry.fee, entry.ids.size, &all)?;
        let txids = all.iter().filter_map(txid_of).collect();
        Ok((all, txids))
    }
}

/// The coin that an unconfirmed output would be if it were mined in the next block.
fn unconfirmed_coin(view: &View, output: setara_core::transaction::Output) -> Coin {
    let height = view.tip.header.next_height().unwrap_or(Height::GENESIS);
    Coin { output, height, from_coinbase: false }
}

/// The first block that may hold the transaction. Its coins are confirmed below any block it is re-checked against, or
/// unconfirmed: those bring no lock of their own, and when the block that confirmed them is reverted the transaction
/// is judged anew.
fn lock_of(
    network: &Network,
    transaction: &Transaction,
    checked: &CheckedTransaction,
    coins: &[Option<Coin>],
    unconfirmed: &[bool],
) -> Lock {
    let mut lock = Lock { height: transaction.valid_from, time: 0 };
    for ((claims, coin), unconfirmed) in checked.claims().iter().zip(coins.iter().flatten()).zip(unconfirmed) {
        if coin.from_coinbase {
            lock.height = lock.height.max(coin.height.get().saturating_add(network.maturity));
        }
        for timelock in &claims.timelocks {
            match *timelock {
                Timelock::After(height) => lock.height = lock.height.max(height),
                Timelock::AfterTime(time) => lock.time = lock.time.max(time),
                Timelock::Older(blocks) if !unconfirmed => {
                    lock.height = lock.height.max(coin.height.get().saturating_add(blocks));
                }
                Timelock::Older(_) => {}
            }
        }
    }
    lock
}
