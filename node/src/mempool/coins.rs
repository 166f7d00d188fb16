//! The coins of a candidate: found among entries, earlier candidates and the chain, and held against its inputs.

use super::admit::{Candidate, Resolved};
use super::error::MempoolError;
use super::graph::{Graph, Lock};
use super::{Inner, Mempool, Work, weight};
use crate::chain::View;
use setara_core::consensus::{CheckedTransaction, RuleError, SpendContext, check_spend};
use setara_core::hash::TxId;
use setara_core::height::Height;
use setara_core::network::Network;
use setara_core::policy::Timelock;
use setara_core::transaction::{Coin, OutPoint, Output, Transaction};
use std::collections::BTreeMap;

/// Outputs looked up to tell a mined transaction from one whose inputs never were.
const KNOWN_OUTPUTS_MAX: usize = 16;

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

impl Mempool {
    /// Coins exist and match, policies hash to their addresses, locks are open. A candidate may spend an earlier one of
    /// the same list that itself holds up.
    pub(super) fn resolve(
        &self,
        candidates: Vec<Result<Candidate, MempoolError>>,
    ) -> Vec<Result<Resolved, MempoolError>> {
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

    /// Under the lock, against the tip of now.
    pub(super) fn resolve_again(&self, inner: &Inner, candidate: Candidate) -> Result<Resolved, MempoolError> {
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
}

impl Graph {
    /// An output of an entry.
    pub(super) fn output(&self, outpoint: &OutPoint) -> Option<Output> {
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
}

/// The coin that an unconfirmed output would be if it were mined in the next block.
fn unconfirmed_coin(view: &View, output: Output) -> Coin {
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
