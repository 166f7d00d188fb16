//! The thread round the chain: the only one that writes it.
//!
//! Commands come through a bounded queue and are answered one by one; a full queue makes callers wait. A panic inside
//! a step is a fault like any other: the chain stops, readers go on reading what was last stored.

use super::audit::AuditTask;
use super::chain::{ChainCore, ChainOptions, Now, Origin};
use super::events::{Shared, TipInfo};
use super::headers::Headers;
use super::inbox::{Blocks, Command, Done, Import, Inbox, LIMITS, QUEUE_COMMANDS, Reply};
use super::prune::{PruneGoal, PruneReport};
use super::queue::Work;
use super::verify::{Encoded, Feed, Verifier};
use super::view::{ChainTip, View};
use super::{Accepted, ChainFault, HeadersTaken, SubmitError};
use crate::clock::Clock;
use crate::snapshot::{Elements, LoadError};
use crate::store::Store;
use parking_lot::{Mutex, RwLock};
use setara_core::block::{Block, EncodedBlock, Header};
use setara_core::consensus::connect_proposal;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::network::Network;
use setara_core::snapshot::Manifest;
use std::collections::VecDeque;
use std::ops::{ControlFlow, Deref};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Time between two looks at the clock when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// How a bulk load ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// Blocks taken; they are on disk.
    pub taken: u64,
    /// What ended it before the last block.
    pub result: Result<(), SubmitError>,
}

/// How far the writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Height connected, perhaps not yet visible.
    pub height: Height,
    /// Transactions up to there, coinbases included.
    pub transactions: u64,
    /// Whether blocks are being loaded in bulk.
    pub loading: bool,
}

/// The way to the chain: submit to the writer, read from views. Clones share it.
#[derive(Clone)]
pub struct ChainHandle {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    shared: Arc<Shared>,
    headers: Headers,
    verifier: Verifier,
    history: RwLock<Option<ChainHandle>>,
    /// Coins that may differ while a snapshot is made; held by whoever makes one.
    dump_changes: Mutex<usize>,
}

/// Who carries out commands.
#[expect(clippy::large_enum_variant, reason = "one a node, never moved")]
enum Engine {
    /// The chain's own thread.
    Thread { inbox: Arc<Inbox>, thread: Mutex<Option<JoinHandle<()>>> },
    /// Whoever asks, one after the other; `None` once stopped.
    Inline { core: Mutex<Option<ChainCore>>, clock: Arc<dyn Clock> },
}

impl ChainHandle {
    /// Opens the chain in `store` and starts its thread.
    pub fn start(
        store: Arc<dyn Store>,
        verifier: Verifier,
        options: ChainOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ChainFault> {
        let dump_changes = Mutex::new(options.dump_changes);
        let core = ChainCore::open(store, verifier.clone(), options, read(&*clock))?;
        let (shared, headers) = (core.shared.clone(), core.tree.reader());
        let inbox = Arc::new(Inbox::new(LIMITS));
        let writer = Writer { core, inbox: inbox.clone(), clock, audit: None, loads: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name("chain".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| ChainFault::Panicked(format!("the chain's thread cannot start: {error}")))?;
        let engine = Engine::Thread { inbox, thread: Mutex::new(Some(thread)) };
        let history = RwLock::new(None);
        Ok(Self { inner: Arc::new(Inner { engine, shared, headers, verifier, history, dump_changes }) })
    }

    /// Opens the chain in `store` without a thread: whoever asks for something carries it out, audits included, and
    /// [`Self::tick`] takes the place of the thread's own clock. For simulations: the same calls give the same chain.
    pub fn inline(
        store: Arc<dyn Store>,
        verifier: Verifier,
        options: ChainOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ChainFault> {
        let dump_changes = Mutex::new(options.dump_changes);
        let mut core = ChainCore::open(store, verifier.clone(), options, read(&*clock))?;
        core.audit_here(read(&*clock));
        let (shared, headers) = (core.shared.clone(), core.tree.reader());
        let engine = Engine::Inline { core: Mutex::new(Some(core)), clock };
        let history = RwLock::new(None);
        Ok(Self { inner: Arc::new(Inner { engine, shared, headers, verifier, history, dump_changes }) })
    }

    fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, SubmitError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let command = command(reply);
        match &self.inner.engine {
            Engine::Thread { inbox, .. } if inbox.is_stopping() => return Err(SubmitError::Stopping),
            Engine::Thread { inbox, .. } => inbox.send(command),
            Engine::Inline { core, clock } => {
                let mut core = core.lock();
                let core = core.as_mut().ok_or(SubmitError::Stopping)?;
                let now = || read(&**clock);
                command.carry_out(core, &now);
                core.audit_here(now());
            }
        }
        // The writer drops unanswered commands only when it stops.
        answer.recv().map_err(|_| SubmitError::Stopping)
    }

    /// Takes a block that was asked for or made here. Blocks until it is judged and, if connected, on disk and visible.
    pub fn submit(&self, block: impl Into<EncodedBlock>) -> Result<Accepted, SubmitError> {
        self.ask(|reply| Command::Submit(Box::new(block.into()), Origin::Wanted, reply))?
    }

    /// Takes a block that nobody asked for: kept only if it could become the tip.
    pub fn submit_unrequested(&self, block: impl Into<EncodedBlock>) -> Result<Accepted, SubmitError> {
        self.ask(|reply| Command::Submit(Box::new(block.into()), Origin::Unrequested, reply))?
    }

    /// Takes headers, each below the next, until the first that is refused; those before it stay.
    pub fn submit_headers(&self, headers: Vec<Header>) -> Result<HeadersTaken, SubmitError> {
        self.ask(|reply| Command::Headers(headers, reply))?
    }

    /// Takes an encoded block from a peer, in any order above known headers. Returns at once, unless more blocks wait
    /// than the limits allow: then it waits for a place. A block that arrives alone is on disk and visible when
    /// `done` is called; among many it is only judged, and visible when the view moves. `done` is called exactly once,
    /// mostly on the chain's thread, so it must not wait for the chain.
    pub fn import(&self, bytes: Arc<[u8]>, wanted: bool, done: Box<dyn FnOnce(Result<Accepted, SubmitError>) + Send>) {
        let done = Done::new(done);
        let origin = if wanted { Origin::Wanted } else { Origin::Unrequested };
        match &self.inner.engine {
            Engine::Thread { inbox, .. } if wanted => inbox.import(Import { bytes, origin, done }),
            Engine::Thread { inbox, .. } => inbox.send(Command::Import(Import { bytes, origin, done })),
            Engine::Inline { core, clock } => {
                let mut core = core.lock();
                let outcome = core.as_mut().map_or(Err(SubmitError::Stopping), |core| {
                    let now = read(&**clock);
                    let outcome = core.submit_encoded(&bytes, origin, now);
                    core.audit_here(now);
                    outcome
                });
                // Not under the lock: it may well use the chain.
                drop(core);
                done.call(outcome);
            }
        }
    }

    /// Tries again what was too early, and stores what is not stored. The thread does so by itself every second.
    pub fn tick(&self) -> Result<(), SubmitError> {
        self.ask(Command::Tick)?
    }

    /// Takes encoded blocks in bulk, parents first, until the first that is refused. Other commands are served between
    /// blocks; what is loaded becomes visible with each flush, all of it when this returns.
    pub fn submit_many(&self, blocks: impl Iterator<Item = Vec<u8>> + Send + 'static) -> LoadReport {
        self.ask(|reply| Command::Load(Box::new(blocks), reply))
            .unwrap_or_else(|error| LoadReport { taken: 0, result: Err(error) })
    }

    /// Whether a block would connect to the tip: every rule but proof of work and the clock. For proposals and
    /// templates; does not ask the writer.
    pub fn check_proposal(&self, block: &Block) -> Result<(), SubmitError> {
        let view = self.view();
        if block.header.previous != view.tip.hash() {
            return Err(SubmitError::MissingParent(block.header.previous));
        }
        let checked = self.inner.verifier.check_proposal(block.clone()).map_err(SubmitError::Invalid)?;
        let coins = view.coins(checked.required_coins()).map_err(|error| SubmitError::Fault(error.into()))?;
        connect_proposal(view.network(), &view.tip, &checked, &coins).map_err(SubmitError::Invalid)?;
        self.inner.verifier.verify(&checked).map_err(SubmitError::Invalid)
    }

    /// The operator does not want this block, nor any above it.
    pub fn invalidate(&self, hash: BlockHash) -> Result<(), SubmitError> {
        self.ask(|reply| Command::Invalidate(hash, reply))?
    }

    /// Takes back every verdict on this block, those below and those above; they are judged anew.
    pub fn reconsider(&self, hash: BlockHash) -> Result<(), SubmitError> {
        self.ask(|reply| Command::Reconsider(hash, reply))?
    }

    /// Deletes old bodies and undo records, as many as one step takes, none above `limit`; see [`PruneReport::more`].
    pub fn prune(&self, goal: PruneGoal, limit: Height) -> Result<PruneReport, SubmitError> {
        self.ask(|reply| Command::Prune(goal, limit, reply))?
    }

    /// Begins with a snapshot whose manifest and coins have been checked: see `adopt.rs`.
    pub fn adopt(&self, manifest: Manifest, elements: Elements) -> Result<(), LoadError> {
        self.ask(|reply| Command::Adopt(Box::new((manifest, elements)), reply))?
    }

    /// Says what came of verifying the history behind the snapshot.
    pub fn finish_history(&self, result: Result<(), String>) -> Result<(), SubmitError> {
        self.ask(|reply| Command::FinishHistory(result, reply))?
    }

    /// The second chain that verifies the history behind the snapshot, while there is one.
    pub fn history(&self) -> Option<Self> {
        self.inner.history.read().clone()
    }

    /// Sets or removes it.
    pub fn set_history(&self, history: Option<Self>) {
        *self.inner.history.write() = history;
    }

    /// The turn to make a snapshot, with the coins that may differ meanwhile: one at a time has the memory for it.
    pub fn dump_turn(&self) -> Option<impl Deref<Target = usize> + '_> {
        self.inner.dump_changes.try_lock()
    }

    /// Stores and shows everything connected so far.
    pub fn flush(&self) -> Result<(), SubmitError> {
        self.ask(Command::Flush)?
    }

    /// The newest view: cheap, and it stays as it is.
    pub fn view(&self) -> Arc<View> {
        self.inner.shared.view()
    }

    /// All headers, those above the tip too.
    pub fn headers(&self) -> &Headers {
        &self.inner.headers
    }

    /// Tells when the view has moved.
    pub fn tip_watch(&self) -> watch::Receiver<TipInfo> {
        self.inner.shared.watch_tip()
    }

    /// Waits, without a runtime, until a view newer than number `seen` is there or `timeout` is over; the newest number.
    pub fn wait_past(&self, seen: u64, timeout: Duration) -> u64 {
        self.inner.shared.wait_past(seen, timeout)
    }

    /// The ends of all branches.
    pub fn tips(&self) -> Vec<ChainTip> {
        self.view().tips().to_vec()
    }

    /// Why the chain has stopped, if it has.
    pub fn fault(&self) -> Option<String> {
        self.inner.shared.fault()
    }

    /// Tells when the chain has stopped by a fault: then the node should, too.
    pub fn fault_watch(&self) -> watch::Receiver<Option<String>> {
        self.inner.shared.watch_fault()
    }

    /// Bytes of cached coins, as of the last block.
    pub fn coin_bytes(&self) -> u64 {
        self.inner.shared.coin_bytes.load(Ordering::Relaxed)
    }

    /// How far the writer is.
    pub fn progress(&self) -> Progress {
        let shared = &self.inner.shared;
        let height = Height::new(shared.height.load(Ordering::Relaxed));
        let transactions = shared.transactions.load(Ordering::Relaxed);
        Progress { height, transactions, loading: shared.loading.load(Ordering::Relaxed) }
    }

    /// The network.
    pub fn network(&self) -> &Arc<Network> {
        self.inner.verifier.network()
    }

    /// The pool of workers that check blocks, for work of the same kind.
    pub fn verifier(&self) -> &Verifier {
        &self.inner.verifier
    }

    /// Stops the writer after the block it is at; everything connected is on disk when this returns.
    pub fn stop(&self) {
        self.inner.stop();
    }
}

impl Inner {
    fn stop(&self) {
        match &self.engine {
            Engine::Thread { inbox, thread } => {
                inbox.stop();
                if let Some(thread) = thread.lock().take() {
                    // The thread catches its own panics.
                    let _ = thread.join();
                }
            }
            Engine::Inline { core, clock } => {
                if let Some(mut core) = core.lock().take() {
                    // A fault has been remembered.
                    drop(core.flush_now(read(&**clock)));
                }
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read(clock: &dyn Clock) -> Now {
    Now { unix_seconds: clock.unix_seconds(), monotonic: clock.monotonic() }
}

struct Writer {
    core: ChainCore,
    inbox: Arc<Inbox>,
    clock: Arc<dyn Clock>,
    audit: Option<(JoinHandle<()>, Arc<AtomicBool>)>,
    /// Loads that arrived during a load.
    loads: VecDeque<(Blocks, Reply<LoadReport>)>,
}

impl Writer {
    fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            self.core.panicked(text.unwrap_or_else(|| "no message".to_owned()));
        }
        // Callers that wait for an answer hear that the node is stopping.
        self.inbox.close();
        if let Some((thread, stop)) = self.audit.take() {
            stop.store(true, Ordering::SeqCst);
            let _ = thread.join();
        }
    }

    fn serve(&mut self) {
        let clock = self.clock.clone();
        let now = || read(&*clock);
        let mut ticked = now().monotonic;
        while !self.inbox.is_stopping() {
            if let Some((mut blocks, reply)) = self.loads.pop_front() {
                self.load(&mut blocks, &reply);
                continue;
            }
            let work = self.inbox.wait(TICK);
            let idle = work.is_none();
            match work {
                Some(Work::Command(Command::Load(blocks, reply))) => self.loads.push_back((blocks, reply)),
                Some(Work::Command(command)) => command.carry_out(&mut self.core, &now),
                Some(Work::Imports(first)) => self.import(first),
                None => {}
            }
            let now = now();
            // Also when commands come without a pause.
            if idle || now.monotonic.saturating_sub(ticked) >= TICK {
                ticked = now.monotonic;
                // After a fault there is nothing to do but to say so to whoever asks.
                drop(self.core.tick(now));
            }
            start_audit(&mut self.core, &mut self.audit, &self.inbox);
        }
        // A fault has been logged already.
        drop(self.core.flush_now(now()));
    }

    fn load(&mut self, blocks: &mut Blocks, reply: &Reply<LoadReport>) {
        let Self { core, inbox, clock, loads, audit } = self;
        let shared = core.shared.clone();
        shared.loading.store(true, Ordering::Relaxed);
        let (taken, result) =
            core.load(blocks, &|| read(&**clock), &mut |core| between(core, inbox, &**clock, loads, audit));
        shared.loading.store(false, Ordering::Relaxed);
        let _ = reply.send(LoadReport { taken, result });
    }

    /// Takes a block that waits. Alone, all workers share it, and it is stored and shown at once; with others behind
    /// it, workers run ahead with one group of blocks each, until no block waits any more.
    fn import(&mut self, first: Import) {
        let Self { core, inbox, clock, loads, audit } = self;
        let now = || read(&**clock);
        let Some(second) = inbox.try_import() else {
            first.carry_out(core, now());
            return;
        };
        let mut taken = VecDeque::from([first, second]);
        let mut source = || match taken.pop_front().or_else(|| inbox.try_import()) {
            Some(Import { bytes, done, .. }) => Feed::Ready(Encoded::Shared(bytes), done),
            None => Feed::Pending,
        };
        let shared = core.shared.clone();
        shared.loading.store(true, Ordering::Relaxed);
        // What ends it early is a stop or a fault, which is remembered.
        drop(core.import(&mut source, &now, &mut |core, done, outcome| {
            done.call(outcome);
            between(core, inbox, &**clock, loads, audit).map_break(|()| SubmitError::Stopping)
        }));
        shared.loading.store(false, Ordering::Relaxed);
    }
}

/// Serves commands between two blocks of many; breaks when the node is to stop.
fn between(
    core: &mut ChainCore,
    inbox: &Arc<Inbox>,
    clock: &dyn Clock,
    loads: &mut VecDeque<(Blocks, Reply<LoadReport>)>,
    audit: &mut Option<(JoinHandle<()>, Arc<AtomicBool>)>,
) -> ControlFlow<()> {
    while let Some(command) = inbox.try_command() {
        match command {
            Command::Load(blocks, reply) if loads.len() < QUEUE_COMMANDS => loads.push_back((blocks, reply)),
            Command::Load(_, reply) => {
                let _ = reply.send(LoadReport { taken: 0, result: Err(SubmitError::Stopping) });
            }
            command => command.carry_out(core, &|| read(clock)),
        }
    }
    start_audit(core, audit, inbox);
    if inbox.is_stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn start_audit(core: &mut ChainCore, audit: &mut Option<(JoinHandle<()>, Arc<AtomicBool>)>, inbox: &Arc<Inbox>) {
    let Some(task) = core.take_audit() else { return };
    let stop = Arc::new(AtomicBool::new(false));
    match spawn_audit(task, stop.clone(), inbox.clone()) {
        Ok(thread) => *audit = Some((thread, stop)),
        Err(error) => core.panicked(format!("the audit's thread cannot start: {error}")),
    }
}

fn spawn_audit(task: AuditTask, stop: Arc<AtomicBool>, inbox: Arc<Inbox>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
        if let Some(verdict) = task.run(&stop) {
            inbox.send_at_once(Command::Audited(Box::new(verdict)));
        }
    })
}
