//! What the brain wants done by the chain and the mempool: on threads of their own, so that it never waits for either.

use crate::chain::ChainHandle;
use crate::mempool::Mempool;
use crate::p2p::brain::interface::{Event, PeerId, TransactionVerdict};
use setara_core::block::Header;
use setara_core::transaction::Transaction;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedSender;

/// Transactions judged together: enough to fill signature batches on every core, few enough to answer soon.
const BATCH_TRANSACTIONS_MAX: usize = 1_024;

/// Transactions to be judged.
enum Job {
    /// One after the other.
    Each(Vec<Transaction>),
    /// A parent and its child, together.
    Package(Box<[Transaction; 2]>),
}

/// Where finished work is told. Unbounded, since the brain bounds what it has under way.
pub type Completions = UnboundedSender<Event>;

/// The two threads; they end when this is dropped and their work is done.
pub struct Workers {
    headers: Option<Sender<(PeerId, Vec<Header>)>>,
    transactions: Option<Sender<(PeerId, Job)>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts them.
    pub fn start(chain: ChainHandle, mempool: Arc<Mempool>, completions: Completions) -> io::Result<Self> {
        let (headers, header_jobs) = mpsc::channel();
        let (transactions, transaction_jobs) = mpsc::channel();
        let told = completions.clone();
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.to_owned()).spawn(work);
        let threads = vec![
            spawn("p2p-headers", Box::new(move || take_headers(&chain, &header_jobs, &told)))?,
            spawn("p2p-mempool", Box::new(move || take_transactions(&mempool, &transaction_jobs, &completions)))?,
        ];
        Ok(Self { headers: Some(headers), transactions: Some(transactions), threads })
    }

    /// Headers for the chain; `HeadersTaken` answers.
    pub fn headers(&self, peer: PeerId, headers: Vec<Header>) {
        if let Some(jobs) = &self.headers {
            let _ = jobs.send((peer, headers));
        }
    }

    /// Transactions for the mempool; `TransactionsTaken` answers.
    pub fn transactions(&self, peer: PeerId, transactions: Vec<Transaction>) {
        if let Some(jobs) = &self.transactions {
            let _ = jobs.send((peer, Job::Each(transactions)));
        }
    }

    /// A parent and its child for the mempool; `TransactionsTaken` answers.
    pub fn package(&self, peer: PeerId, package: Box<[Transaction; 2]>) {
        if let Some(jobs) = &self.transactions {
            let _ = jobs.send((peer, Job::Package(package)));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.headers = None;
        self.transactions = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the peer-to-peer network panicked");
            }
        }
    }
}

fn take_headers(chain: &ChainHandle, jobs: &Receiver<(PeerId, Vec<Header>)>, completions: &Completions) {
    for (peer, headers) in jobs {
        let result = chain.submit_headers(headers);
        // Nobody listens any more once the node is stopping.
        let _ = completions.send(Event::HeadersTaken { peer, result });
    }
}

fn take_transactions(mempool: &Mempool, jobs: &Receiver<(PeerId, Job)>, completions: &Completions) {
    let mut next = jobs.recv().ok();
    while let Some((peer, job)) = next.take() {
        let mut batch: Vec<(PeerId, Arc<Transaction>)> = Vec::new();
        let verdicts = match job {
            Job::Package(package) => {
                let [parent, child] = *package;
                batch.extend([(peer, Arc::new(parent.clone())), (peer, Arc::new(child.clone()))]);
                mempool.submit_package(parent, child).into()
            }
            Job::Each(transactions) => {
                let mut add = |peer, transactions: Vec<Transaction>| {
                    batch.extend(transactions.into_iter().map(|transaction| (peer, Arc::new(transaction))));
                    batch.len()
                };
                let mut count = add(peer, transactions);
                // Whatever else waits is judged with it: signatures are cheaper together.
                while count < BATCH_TRANSACTIONS_MAX {
                    match jobs.try_recv() {
                        Ok((peer, Job::Each(transactions))) => count = add(peer, transactions),
                        Ok(package) => {
                            next = Some(package);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                mempool.submit_many(batch.iter().map(|(_, transaction)| (**transaction).clone()).collect())
            }
        };
        let verdicts = batch.into_iter().zip(verdicts).map(|((peer, transaction), verdict)| {
            let ids = transaction.ids();
            let result = verdict.map(|_| ());
            TransactionVerdict { peer, transaction, txid: ids.txid, wtxid: ids.wtxid, result }
        });
        let _ = completions.send(Event::TransactionsTaken(verdicts.collect()));
        if next.is_none() {
            next = jobs.recv().ok();
        }
    }
}
