//! The miner on this machine's cores.
//!
//! ```text
//!  manager ── template ──► job (number n) ──► workers: own extranonces, nonces in short steps
//!     ▲  └─ a new tip, the mempool, the time, a block found: job n + 1 ends job n at once
//!     └──────────────────────── blocks found ◄──┘         submit, then the next job
//! ```
//!
//! On fixed difficulty it makes one block per spacing, whatever the cores could do. A found block is submitted before
//! anything else; stopping waits for that, and otherwise for one short step of each worker.

use super::lanes::Search;
use super::template::{EXTRANONCE_BYTES, Template, Templates};
use crate::chain::{Accepted, SubmitError};
use parking_lot::{Condvar, Mutex};
use setara_core::address::Address;
use setara_core::block::{Block, Header};
#[cfg(test)]
use setara_core::hash::BlockHash;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Nonces tried between looks at the job's number: a few milliseconds.
const STEP: u32 = 1 << 15;

/// How often the manager looks for a new tip and at the clock. Work on an old tip is wasted for at most this long.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Age at which a job is replaced if the mempool has changed: what has come since is worth a new start.
const MEMPOOL_AGE: Duration = Duration::from_secs(5);

/// Age at which a job is replaced in any case, so that its time stays near the clock.
const JOB_AGE: Duration = Duration::from_secs(30);

/// Pause after a template that could not be made, or a block that was not taken.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What the operator set.
#[derive(Debug, Clone, Copy)]
pub struct MinerOptions {
    /// Who is paid.
    pub payout: Address,
    /// Threads that hash; at least one.
    pub threads: usize,
}

/// What the miner has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinerStats {
    /// Hashes tried.
    pub hashes: u64,
    /// Blocks found that the chain took.
    pub blocks: u64,
    /// Time since the start.
    pub running: Duration,
    /// Threads that hash.
    pub threads: usize,
}

struct Job {
    template: Template,
    time: u32,
}

struct State {
    /// `None` between jobs: workers rest.
    job: Option<Arc<Job>>,
    found: Option<Block>,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Something in `state` changed.
    changed: Condvar,
    /// Number of the current job; workers look at it between steps without the lock.
    number: AtomicU64,
    hashes: AtomicU64,
    blocks: AtomicU64,
}

impl Shared {
    /// Ends the current job; `job` is the next one, if there is one yet.
    fn set_job(&self, job: Option<Arc<Job>>) {
        let mut state = self.state.lock();
        state.job = job;
        self.number.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
    }
}

/// A running miner. Dropping it stops it, too.
pub struct Miner {
    shared: Arc<Shared>,
    templates: Arc<Templates>,
    started: Duration,
    options: MinerOptions,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Miner {
    /// Starts the threads.
    pub fn start(templates: Arc<Templates>, options: MinerOptions) -> io::Result<Self> {
        let options = MinerOptions { threads: options.threads.max(1), ..options };
        let shared = Arc::new(Shared {
            state: Mutex::new(State { job: None, found: None, stop: false }),
            changed: Condvar::new(),
            number: AtomicU64::new(0),
            hashes: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
        });
        let started = templates.clock().monotonic();
        // Whatever goes wrong from here on, dropping `miner` stops the threads that exist.
        let mut miner = Self { shared, templates, started, options, threads: Mutex::default() };
        // Two miners that pay the same address must not do the same work.
        let salt: u32 = rand::random();
        for worker in 0..options.threads {
            let shared = miner.shared.clone();
            let worker = u32::try_from(worker).map_err(io::Error::other)?;
            let run = move || work(&shared, salt, worker);
            miner.threads.get_mut().push(thread::Builder::new().name(format!("miner-{worker}")).spawn(run)?);
        }
        let manager = Manager { shared: miner.shared.clone(), templates: miner.templates.clone(), options };
        miner.threads.get_mut().push(thread::Builder::new().name("miner".into()).spawn(move || manager.run())?);
        Ok(miner)
    }

    /// What has been done so far.
    pub fn stats(&self) -> MinerStats {
        MinerStats {
            hashes: self.shared.hashes.load(Ordering::Relaxed),
            blocks: self.shared.blocks.load(Ordering::Relaxed),
            running: self.templates.clock().monotonic().saturating_sub(self.started),
            threads: self.options.threads,
        }
    }

    /// Stops all threads and waits for them.
    pub fn stop(&self) {
        self.shared.state.lock().stop = true;
        self.shared.set_job(None);
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a miner thread panicked");
            }
        }
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Manager {
    shared: Arc<Shared>,
    templates: Arc<Templates>,
    options: MinerOptions,
}

impl Manager {
    fn run(&self) {
        let clock = self.templates.clock().clone();
        let mut tip = self.templates.tip();
        let mut tip_since = clock.monotonic();
        let mut failing = None;
        loop {
            let view = self.templates.chain().view();
            if view.tip.hash() != tip {
                (tip, tip_since) = (view.tip.hash(), clock.monotonic());
            }
            if let Some(pause) = self.early(view.tip.header.time(), tip_since) {
                if self.pause(pause.min(LOOK_INTERVAL)) {
                    return;
                }
                continue;
            }
            let template = match self.templates.build(self.options.payout) {
                Ok(template) => {
                    failing = None;
                    template
                }
                Err(error) => {
                    // Once per kind: a launch may be days away.
                    if failing.replace(mem::discriminant(&error)) != Some(mem::discriminant(&error)) {
                        tracing::warn!(%error, "no block template, mining waits");
                    }
                    if self.pause(RETRY_PAUSE) {
                        return;
                    }
                    continue;
                }
            };
            let (made_at, sequence) = (clock.monotonic(), template.sequence);
            let time = template.time(clock.as_ref());
            self.shared.set_job(Some(Arc::new(Job { template, time })));
            let outdated = || {
                let age = clock.monotonic().saturating_sub(made_at);
                age >= JOB_AGE
                    || self.templates.tip() != tip
                    || (age >= MEMPOOL_AGE && *self.templates.mempool().changes().borrow() != sequence)
            };
            let found = self.wait(outdated);
            self.shared.set_job(None);
            if let Some(block) = found {
                self.submit(block);
            }
            if self.shared.state.lock().stop {
                return;
            }
        }
    }

    /// On fixed difficulty: how long until the next block is due. The parent's time says so, or the time since it came,
    /// for a chain whose blocks are dated ahead.
    fn early(&self, parent_time: u32, tip_since: Duration) -> Option<Duration> {
        let network = self.templates.network();
        if !network.is_fixed() {
            return None;
        }
        let clock = self.templates.clock();
        let due = u64::from(parent_time) + u64::from(network.spacing);
        let by_date = due.saturating_sub(clock.unix_seconds());
        let spacing = Duration::from_secs(u64::from(network.spacing));
        let by_wait = spacing.saturating_sub(clock.monotonic().saturating_sub(tip_since));
        Some(by_wait.min(Duration::from_secs(by_date))).filter(|pause| !pause.is_zero())
    }

    /// Waits for a block, until `outdated` or a stop.
    fn wait(&self, outdated: impl Fn() -> bool) -> Option<Block> {
        loop {
            let mut state = self.shared.state.lock();
            if state.found.is_none() && !state.stop {
                self.shared.changed.wait_for(&mut state, LOOK_INTERVAL);
            }
            if state.found.is_some() || state.stop {
                return state.found.take();
            }
            drop(state);
            if outdated() {
                // A block found in this very moment is still worth submitting.
                return self.shared.state.lock().found.take();
            }
        }
    }

    /// Rests; true if the miner is to stop.
    fn pause(&self, pause: Duration) -> bool {
        let mut state = self.shared.state.lock();
        if !state.stop {
            self.shared.changed.wait_for(&mut state, pause);
        }
        state.stop
    }

    fn submit(&self, block: Block) {
        let (hash, height) = (block.hash(), block.coinbase.height);
        match self.templates.chain().submit(block) {
            Ok(Accepted::Connected) => {
                self.shared.blocks.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%hash, height = height.get(), "mined a block");
            }
            Ok(accepted) => tracing::info!(%hash, height = height.get(), ?accepted, "mined a block that came too late"),
            Err(SubmitError::Stopping) => tracing::info!(%hash, "mined a block while the node was stopping"),
            Err(error) => {
                tracing::error!(%hash, %error, "a mined block was not accepted");
                self.pause(RETRY_PAUSE);
            }
        }
    }
}

/// One worker: takes the newest job, until told to stop.
fn work(shared: &Shared, salt: u32, worker: u32) {
    let mut done = 0;
    let search = Search::default();
    loop {
        let (job, number) = {
            let mut state = shared.state.lock();
            loop {
                if state.stop {
                    return;
                }
                let number = shared.number.load(Ordering::SeqCst);
                match &state.job {
                    Some(job) if number != done => break (job.clone(), number),
                    _ => shared.changed.wait(&mut state),
                }
            }
        };
        done = number;
        if let Some(block) = hash(shared, &job, number, salt, worker, search) {
            let mut state = shared.state.lock();
            // The first block of a job is enough; its siblings would only compete with it.
            if state.found.is_none() && shared.number.load(Ordering::SeqCst) == number {
                state.found = Some(block);
                shared.changed.notify_all();
            }
        }
    }
}

/// Counts through extranonces and nonces until a block is found or the job is over.
fn hash(shared: &Shared, job: &Job, number: u64, salt: u32, worker: u32, search: Search) -> Option<Block> {
    for round in 0u32.. {
        let mut extranonce = [0; EXTRANONCE_BYTES];
        let parts = [salt, worker, round].into_iter().flat_map(u32::to_le_bytes);
        for (to, from) in extranonce.iter_mut().zip(parts) {
            *to = from;
        }
        let (header, coinbase) = job.template.with_extranonce(extranonce);
        let header = Header { time: job.time, ..header };
        let mut start = 0u32;
        loop {
            if shared.number.load(Ordering::Relaxed) != number {
                return None;
            }
            let last = start.saturating_add(STEP - 1);
            let nonce = search.find_nonce(&header, job.template.target, start..=last);
            let tried = nonce.map_or(STEP, |nonce| nonce - start + 1);
            shared.hashes.fetch_add(u64::from(tried), Ordering::Relaxed);
            if let Some(nonce) = nonce {
                return Some(job.template.assemble(Header { nonce, ..header }, coinbase));
            }
            match last.checked_add(1) {
                Some(next) => start = next,
                None => break,
            }
        }
    }
    None
}

/// The tip that a miner works on, for tests of its own.
#[cfg(test)]
pub(super) fn working_on(miner: &Miner) -> Option<BlockHash> {
    miner.shared.state.lock().job.as_ref().map(|job| job.template.header.previous)
}
