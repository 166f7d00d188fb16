//! What the brain wants done by the chain, the mempool and the disk: on threads of their own, so that it waits for none.

use crate::chain::{ChainHandle, failpoint};
use crate::mempool::Mempool;
use crate::p2p::brain::interface::{Event, PeerId, TransactionVerdict};
use crate::p2p::brain::snapshots::{SnapshotJob, SnapshotNews};
use crate::snapshot::Fetched;
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

/// The threads; they end when this is dropped and their work is done.
pub struct Workers {
    headers: Option<Sender<(PeerId, Vec<Header>)>>,
    transactions: Option<Sender<(PeerId, Job)>>,
    snapshot: Option<Sender<SnapshotJob>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts them; the one for a snapshot only if one may be fetched.
    pub fn start(
        chain: ChainHandle,
        mempool: Arc<Mempool>,
        fetched: Option<Fetched>,
        completions: Completions,
    ) -> io::Result<Self> {
        let (headers, header_jobs) = mpsc::channel();
        let (transactions, transaction_jobs) = mpsc::channel();
        let told = completions.clone();
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.to_owned()).spawn(work);
        let mut threads = Vec::new();
        let snapshot = match fetched {
            Some(fetched) => {
                let (jobs, snapshot_jobs) = mpsc::channel();
                let (chain, told) = (chain.clone(), completions.clone());
                let work = move || fetch_snapshot(&chain, fetched, &snapshot_jobs, &told);
                threads.push(spawn("p2p-snapshot", Box::new(work))?);
                Some(jobs)
            }
            None => None,
        };
        threads.extend([
            spawn("p2p-headers", Box::new(move || take_headers(&chain, &header_jobs, &told)))?,
            spawn("p2p-mempool", Box::new(move || take_transactions(&mempool, &transaction_jobs, &completions)))?,
        ]);
        Ok(Self { headers: Some(headers), transactions: Some(transactions), snapshot, threads })
    }

    /// Headers for the chain; `HeadersTaken` answers.
    pub fn headers(&self, peer: PeerId, headers: Vec<Header>) {
        if let Some(jobs) = &self.headers {
            let _ = jobs.send((peer, headers));
        }
    }

    /// Work on a snapshot that is fetched, in order.
    pub fn snapshot(&self, job: SnapshotJob) {
        if let Some(jobs) = &self.snapshot {
            let _ = jobs.send(job);
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
        self.snapshot = None;
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

fn fetch_snapshot(chain: &ChainHandle, mut fetched: Fetched, jobs: &Receiver<SnapshotJob>, completions: &Completions) {
    for job in jobs {
        if let Some(news) = snapshot_job(chain, &mut fetched, job) {
            // Nobody listens any more once the node is stopping.
            let _ = completions.send(Event::Snapshot(news));
        }
    }
}

/// Does one job for a snapshot that is being fetched. The simulator calls this too.
pub fn snapshot_job(chain: &ChainHandle, fetched: &mut Fetched, job: SnapshotJob) -> Option<SnapshotNews> {
    let news = match job {
        SnapshotJob::Open => Ok(Some(SnapshotNews::Opened(fetched.held()))),
        SnapshotJob::Begin(manifest) => fetched.begin(&manifest).map(|()| None),
        SnapshotJob::Store { peer, range, coins } => fetched
            .piece(peer.0, range.bucket, range.first, &coins)
            .map(|()| Some(SnapshotNews::Stored { peer, range })),
        SnapshotJob::Check { peer, bucket, attempt } => {
            let checked = fetched.check(peer.0, bucket);
            failpoint::pass(failpoint::AFTER_BUCKET);
            checked.map(|result| Some(SnapshotNews::Checked { peer, bucket, attempt, result }))
        }
        SnapshotJob::Drop { peer, bucket } => {
            fetched.drop_part(peer.0, bucket);
            Ok(None)
        }
        SnapshotJob::Load(manifest) => {
            let adopted = fetched.elements().and_then(|elements| chain.adopt((*manifest).clone(), elements));
            if adopted.is_ok() {
                fetched.forget();
            }
            Ok(Some(SnapshotNews::Loaded(adopted.map_err(|error| error.to_string()))))
        }
        SnapshotJob::Forget => {
            fetched.forget();
            Ok(None)
        }
    };
    news.unwrap_or_else(|error| Some(SnapshotNews::Failed(error.to_string())))
}
