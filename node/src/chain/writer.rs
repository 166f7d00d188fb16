//! The thread round the chain: the only one that writes it.
//!
//! Commands come through a bounded queue and are answered one by one; a full queue makes callers wait. A panic inside
//! a step is a fault like any other: the chain stops, readers go on reading what was last stored.

use super::audit::{AuditTask, AuditVerdict};
use super::chain::{ChainCore, ChainOptions, Now, Origin};
use super::events::{Shared, TipInfo};
use super::headers::Headers;
use super::verify::Verifier;
use super::view::{ChainTip, View};
use super::{Accepted, ChainFault, SubmitError};
use crate::clock::Clock;
use crate::store::Store;
use parking_lot::Mutex;
use setara_core::block::Block;
use setara_core::consensus::connect_proposal;
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::network::Network;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Commands that wait for the writer; whoever comes after waits for a place.
const QUEUE_COMMANDS: usize = 64;
/// Time between two looks at the clock when nothing happens.
const TICK: Duration = Duration::from_secs(1);

type Reply<T> = SyncSender<T>;
type Blocks = Box<dyn Iterator<Item = Vec<u8>> + Send>;

enum Command {
    Submit(Box<Block>, Origin, Reply<Result<Accepted, SubmitError>>),
    Load(Blocks, Reply<LoadReport>),
    Invalidate(BlockHash, Reply<Result<(), SubmitError>>),
    Reconsider(BlockHash, Reply<Result<(), SubmitError>>),
    Flush(Reply<Result<(), SubmitError>>),
    Audited(Box<AuditVerdict>),
    Wake,
}

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
    /// Whether blocks are being loaded in bulk.
    pub loading: bool,
}

/// The way to the chain: submit to the writer, read from views. Clones share it.
#[derive(Clone)]
pub struct ChainHandle {
    inner: Arc<Inner>,
}

struct Inner {
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
    headers: Headers,
    verifier: Verifier,
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl ChainHandle {
    /// Opens the chain in `store` and starts its thread.
    pub fn start(
        store: Arc<dyn Store>,
        verifier: Verifier,
        options: ChainOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ChainFault> {
        let core = ChainCore::open(store, verifier.clone(), options, read(&*clock))?;
        let (commands, queue) = mpsc::sync_channel(QUEUE_COMMANDS);
        let stopping = Arc::new(AtomicBool::new(false));
        let (shared, headers) = (core.shared.clone(), core.tree.reader());
        let writer = Writer {
            core,
            queue,
            commands: commands.clone(),
            clock,
            stopping: stopping.clone(),
            audit: None,
            loads: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("chain".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| ChainFault::Panicked(format!("the chain's thread cannot start: {error}")))?;
        let inner = Inner { commands, shared, headers, verifier, stopping, thread: Mutex::new(Some(thread)) };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, SubmitError> {
        if self.inner.stopping.load(Ordering::SeqCst) {
            return Err(SubmitError::Stopping);
        }
        let (reply, answer) = mpsc::sync_channel(1);
        self.inner.commands.send(command(reply)).map_err(|_| SubmitError::Stopping)?;
        // The writer drops unanswered commands only when it stops.
        answer.recv().map_err(|_| SubmitError::Stopping)
    }

    /// Takes a block that was asked for or made here. Blocks until it is judged and, if connected, on disk and visible.
    pub fn submit(&self, block: Block) -> Result<Accepted, SubmitError> {
        self.ask(|reply| Command::Submit(Box::new(block), Origin::Wanted, reply))?
    }

    /// Takes a block that nobody asked for: kept only if it could become the tip.
    pub fn submit_unrequested(&self, block: Block) -> Result<Accepted, SubmitError> {
        self.ask(|reply| Command::Submit(Box::new(block), Origin::Unrequested, reply))?
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

    /// How far the writer is.
    pub fn progress(&self) -> Progress {
        let shared = &self.inner.shared;
        let height = Height::new(shared.height.load(Ordering::Relaxed));
        Progress { height, loading: shared.loading.load(Ordering::Relaxed) }
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
        self.inner.stopping.store(true, Ordering::SeqCst);
        // A full queue wakes it just as well.
        match self.inner.commands.try_send(Command::Wake) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
        if let Some(thread) = self.inner.thread.lock().take() {
            // The thread catches its own panics.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = self.commands.try_send(Command::Wake);
        if let Some(thread) = self.thread.get_mut().take() {
            let _ = thread.join();
        }
    }
}

fn read(clock: &dyn Clock) -> Now {
    Now { unix_seconds: clock.unix_seconds(), monotonic: clock.monotonic() }
}

struct Writer {
    core: ChainCore,
    queue: Receiver<Command>,
    /// For the audit's thread to report to.
    commands: SyncSender<Command>,
    clock: Arc<dyn Clock>,
    stopping: Arc<AtomicBool>,
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
        // Answers still waited for are dropped with the queue: their callers hear that the node is stopping.
        self.stopping.store(true, Ordering::SeqCst);
        if let Some((thread, stop)) = self.audit.take() {
            stop.store(true, Ordering::SeqCst);
            drop(self.queue);
            let _ = thread.join();
        }
    }

    fn serve(&mut self) {
        let mut ticked = self.clock.monotonic();
        while !self.stopping.load(Ordering::SeqCst) {
            if let Some((blocks, reply)) = self.loads.pop_front() {
                self.load(blocks, &reply);
                continue;
            }
            let next = self.queue.recv_timeout(TICK);
            let idle = next.is_err();
            match next {
                Ok(Command::Load(blocks, reply)) => self.loads.push_back((blocks, reply)),
                Ok(command) => handle(&mut self.core, command, &*self.clock),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = read(&*self.clock);
            // Also when commands come without a pause.
            if idle || now.monotonic.saturating_sub(ticked) >= TICK {
                ticked = now.monotonic;
                // After a fault there is nothing to do but to say so to whoever asks.
                drop(self.core.tick(now));
            }
            self.start_audit();
        }
        // A fault has been logged already.
        if self.core.fault().is_none()
            && let Err(fault) = self.core.flush(read(&*self.clock))
        {
            self.core.fail(fault);
        }
    }

    fn load(&mut self, mut blocks: Blocks, reply: &Reply<LoadReport>) {
        let shared = self.core.shared.clone();
        shared.loading.store(true, Ordering::Relaxed);
        let clock = self.clock.clone();
        let Self { core, queue, stopping, loads, .. } = self;
        let (taken, result) = core.load(&mut blocks, &|| read(&*clock), &mut |core| {
            while let Ok(command) = queue.try_recv() {
                match command {
                    Command::Load(blocks, reply) if loads.len() < QUEUE_COMMANDS => loads.push_back((blocks, reply)),
                    Command::Load(_, reply) => {
                        let _ = reply.send(LoadReport { taken: 0, result: Err(SubmitError::Stopping) });
                    }
                    command => handle(core, command, &*clock),
                }
            }
            if stopping.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        shared.loading.store(false, Ordering::Relaxed);
        let _ = reply.send(LoadReport { taken, result });
    }

    fn start_audit(&mut self) {
        let Some(task) = self.core.take_audit() else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let thread = spawn_audit(task, stop.clone(), self.commands.clone());
        match thread {
            Ok(thread) => self.audit = Some((thread, stop)),
            Err(error) => self.core.panicked(format!("the audit's thread cannot start: {error}")),
        }
    }
}

fn spawn_audit(
    task: AuditTask,
    stop: Arc<AtomicBool>,
    commands: SyncSender<Command>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
        if let Some(verdict) = task.run(&stop) {
            // Refused only when the writer is gone.
            let _ = commands.send(Command::Audited(Box::new(verdict)));
        }
    })
}

/// Carries out a command that is no load. Callers may have given up waiting, so replies are best effort.
fn handle(core: &mut ChainCore, command: Command, clock: &dyn Clock) {
    let now = read(clock);
    match command {
        Command::Submit(block, origin, reply) => drop(reply.send(core.submit(*block, origin, now))),
        Command::Load(_, reply) => drop(reply.send(LoadReport { taken: 0, result: Err(SubmitError::Stopping) })),
        Command::Invalidate(hash, reply) => drop(reply.send(core.invalidate(&hash, now))),
        Command::Reconsider(hash, reply) => drop(reply.send(core.reconsider(&hash, now))),
        Command::Flush(reply) => {
            let flushed = core.usable().and_then(|()| core.flush(now).map_err(|fault| core.fail(fault)));
            drop(reply.send(flushed));
        }
        // A fault found by the audit is remembered in the chain.
        Command::Audited(verdict) => drop(core.finish_audit(*verdict, now)),
        Command::Wake => {}
    }
}
