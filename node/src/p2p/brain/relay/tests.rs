//! Tests of relaying over a real chain and mempool, by hand-moved time.

mod hostile;
mod telling;

use super::*;
use crate::chain::Now;
use crate::clock::Clock;
use crate::mempool::tests::Lab;
use crate::p2p::brain::interface::{Action, TransactionVerdict};
use crate::p2p::message::Message;
use rand::SeedableRng;
use setara_core::transaction::Transaction;
use std::sync::Arc;

/// A relay with a chain, a mempool and a clock, and what it decided.
struct Bench {
    lab: Lab,
    relay: TransactionRelay,
    rng: StdRng,
    actions: Vec<Action>,
}

impl Bench {
    fn new(funds: u32) -> Self {
        Self::over(Lab::new(funds), 1)
    }

    fn over(lab: Lab, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let relay = TransactionRelay::new(&mut rng);
        let mut bench = Self { lab, relay, rng, actions: Vec::new() };
        bench.relay.set_syncing(false);
        bench.run(TransactionRelay::on_tip_changed);
        bench
    }

    fn run<R>(&mut self, f: impl FnOnce(&mut TransactionRelay, &mut Desk<'_>) -> R) -> R {
        let clock = &self.lab.clock;
        let now = Now { unix_seconds: clock.unix_seconds(), monotonic: clock.monotonic() };
        let (chain, mempool) = (&self.lab.chain, &*self.lab.pool);
        let mut desk = Desk { now, rng: &mut self.rng, chain, mempool, actions: &mut self.actions };
        f(&mut self.relay, &mut desk)
    }

    fn connect(&mut self, peer: u64, link: Link) -> PeerId {
        self.run(|relay, desk| relay.peer_ready(desk, PeerId(peer), link, true));
        PeerId(peer)
    }

    fn announce(&mut self, peer: PeerId, transactions: &[&Transaction]) {
        let wtxids: Vec<WtxId> = transactions.iter().map(|transaction| transaction.wtxid()).collect();
        self.run(|relay, desk| relay.on_announce(desk, peer, &wtxids));
    }

    fn send(&mut self, peer: PeerId, transactions: &[&Transaction]) {
        let transactions = transactions.iter().map(|transaction| (*transaction).clone()).collect();
        self.run(|relay, desk| relay.on_transactions(desk, peer, transactions));
    }

    /// The mempool does its part, until it has nothing more to judge.
    fn judge(&mut self) {
        loop {
            let mut verdicts = Vec::new();
            let mut rest = Vec::new();
            for action in std::mem::take(&mut self.actions) {
                let (peer, transactions, results) = match action {
                    Action::SubmitTransactions(peer, transactions) => {
                        let results = self.lab.pool.submit_many(transactions.clone());
                        (peer, transactions, results)
                    }
                    Action::SubmitPackage(peer, package) => {
                        let [parent, child] = *package;
                        let results = self.lab.pool.submit_package(parent.clone(), child.clone());
                        (peer, vec![parent, child], results.into())
                    }
                    other => {
                        rest.push(other);
                        continue;
                    }
                };
                for (transaction, result) in transactions.into_iter().zip(results) {
                    let ids = transaction.ids();
                    let (txid, wtxid, result) = (ids.txid, ids.wtxid, result.map(|_| ()));
                    let transaction = Arc::new(transaction);
                    verdicts.push(TransactionVerdict { peer, transaction, txid, wtxid, result });
                }
            }
            self.actions = rest;
            if verdicts.is_empty() {
                return;
            }
            self.run(|relay, desk| relay.on_verdicts(desk, verdicts));
        }
    }

    /// Lets time pass in small steps.
    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.lab.clock.advance(Duration::from_millis(100));
            self.run(TransactionRelay::tick);
            self.judge();
        }
    }

    fn mine(&mut self, transactions: Vec<Transaction>) {
        self.lab.mine(transactions);
        self.lab.pool.catch_up().unwrap();
        self.run(TransactionRelay::on_tip_changed);
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What peers were asked for, taken off the actions.
    fn asked(&mut self) -> Vec<(PeerId, Wanted)> {
        let mut asked = Vec::new();
        for action in self.take() {
            if let Action::Send(peer, Message::GetTransactions { wtxids, txids }) = action {
                asked.extend(wtxids.into_iter().map(|wtxid| (peer, Wanted::Wtxid(wtxid))));
                asked.extend(txids.into_iter().map(|txid| (peer, Wanted::Txid(txid))));
            }
        }
        asked
    }

    /// What peers were told of, taken off the actions.
    fn told(&mut self) -> Vec<(PeerId, Vec<WtxId>)> {
        let announced = |action| match action {
            Action::Send(peer, Message::Announce(wtxids)) => Some((peer, wtxids)),
            _ => None,
        };
        self.take().into_iter().filter_map(announced).collect()
    }

    fn blamed(&self, peer: PeerId) -> Vec<&'static str> {
        let codes = self.actions.iter().filter_map(|action| match action {
            Action::Blame(blamed, offence) if *blamed == peer => Some(offence.code()),
            _ => None,
        });
        codes.collect()
    }
}
