//! What waits for the chain's thread: commands, and blocks from peers. Bounded: whoever comes after waits for a place.

use super::audit::AuditVerdict;
use super::chain::{ChainCore, Now, Origin};
use super::prune::{PruneGoal, PruneReport};
use super::writer::LoadReport;
use super::{Accepted, HeadersTaken, SubmitError};
use crate::snapshot::{Elements, LoadError};
use parking_lot::{Condvar, Mutex};
use setara_core::block::{EncodedBlock, Header};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::snapshot::Manifest;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// Commands that wait for the writer.
pub(super) const QUEUE_COMMANDS: usize = 64;
/// Blocks of peers that wait for the writer: peers' sync keeps to 256, and a few come unasked.
pub(super) const IMPORT_BLOCKS_MAX: usize = 320;
/// Their bytes: peers' sync keeps to 32 MiB; a block beyond this waits unless it is alone.
pub(super) const IMPORT_BYTES_MAX: usize = 40 << 20;

pub(super) type Reply<T> = SyncSender<T>;
pub(super) type Blocks = Box<dyn Iterator<Item = Vec<u8>> + Send>;
type Callback = Box<dyn FnOnce(Result<Accepted, SubmitError>) + Send>;

/// What the writer is asked to do.
pub(super) enum Command {
    Submit(Box<EncodedBlock>, Origin, Reply<Result<Accepted, SubmitError>>),
    Headers(Vec<Header>, Reply<Result<HeadersTaken, SubmitError>>),
    /// A block that nobody asked for; those asked for have a queue of their own.
    Import(Import),
    Load(Blocks, Reply<LoadReport>),
    Invalidate(BlockHash, Reply<Result<(), SubmitError>>),
    Reconsider(BlockHash, Reply<Result<(), SubmitError>>),
    Flush(Reply<Result<(), SubmitError>>),
    Tick(Reply<Result<(), SubmitError>>),
    Prune(PruneGoal, Height, Reply<Result<PruneReport, SubmitError>>),
    Adopt(Box<(Manifest, Elements)>, Reply<Result<(), LoadError>>),
    FinishHistory(Result<(), String>, Reply<Result<(), SubmitError>>),
    Audited(Box<AuditVerdict>),
}

impl Command {
    /// Carries it out. Callers may have given up waiting, so replies are best effort.
    pub fn carry_out(self, core: &mut ChainCore, now: &dyn Fn() -> Now) {
        match self {
            Self::Submit(block, origin, reply) => drop(reply.send(core.submit(*block, origin, now()))),
            Self::Headers(headers, reply) => drop(reply.send(core.submit_headers(&headers, now()))),
            Self::Import(import) => import.carry_out(core, now()),
            Self::Load(mut blocks, reply) => {
                let (taken, result) = core.load(&mut blocks, now, &mut |_| ControlFlow::Continue(()));
                drop(reply.send(LoadReport { taken, result }));
            }
            Self::Invalidate(hash, reply) => drop(reply.send(core.invalidate(&hash, now()))),
            Self::Reconsider(hash, reply) => drop(reply.send(core.reconsider(&hash, now()))),
            Self::Flush(reply) => drop(reply.send(core.flush_now(now()))),
            Self::Tick(reply) => drop(reply.send(core.tick(now()))),
            Self::Prune(goal, limit, reply) => drop(reply.send(core.prune(goal, limit, now()))),
            Self::Adopt(snapshot, reply) => {
                let (manifest, elements) = *snapshot;
                drop(reply.send(core.adopt(&manifest, elements, now())));
            }
            Self::FinishHistory(result, reply) => drop(reply.send(core.finish_history(result))),
            // A fault found by the audit is remembered in the chain.
            Self::Audited(verdict) => drop(core.finish_audit(*verdict, now())),
        }
    }
}

/// A block from a peer.
pub(super) struct Import {
    pub bytes: Arc<[u8]>,
    pub origin: Origin,
    pub done: Done,
}

impl Import {
    /// Takes the block alone; when `done` is called, what it did is on disk and in the published view.
    pub fn carry_out(self, core: &mut ChainCore, now: Now) {
        self.done.call(core.submit_encoded(&self.bytes, self.origin, now));
    }
}

/// Whom to tell what became of a block: told exactly once, also if the chain stops first.
pub(super) struct Done(Option<Callback>);

impl Done {
    pub fn new(callback: Callback) -> Self {
        Self(Some(callback))
    }

    pub fn call(mut self, outcome: Result<Accepted, SubmitError>) {
        if let Some(callback) = self.0.take() {
            callback(outcome);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(SubmitError::Stopping));
        }
    }
}

/// The two queues.
pub(super) struct Inbox {
    queues: Mutex<Queues>,
    /// Something to do.
    arrived: Condvar,
    /// Something was taken.
    space: Condvar,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Queues {
    commands: VecDeque<Command>,
    imports: VecDeque<Import>,
    import_bytes: usize,
    /// Whether imports are next, if there are both.
    imports_next: bool,
    closed: bool,
}

/// What is next for the writer.
pub(super) enum Work {
    Command(Command),
    /// Blocks wait: this one, and perhaps others.
    Imports(Import),
}

impl Queues {
    fn take_import(&mut self) -> Option<Import> {
        let import = self.imports.pop_front()?;
        self.import_bytes -= import.bytes.len();
        Some(import)
    }
}

impl Inbox {
    pub fn new() -> Self {
        Self {
            queues: Mutex::new(Queues::default()),
            arrived: Condvar::new(),
            space: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Queues a command once there is a place. It is dropped unanswered if the writer stops.
    pub fn send(&self, command: Command) {
        let mut queues = self.queues.lock();
        while !queues.closed && queues.commands.len() >= QUEUE_COMMANDS {
            self.space.wait(&mut queues);
        }
        self.push(queues, command);
    }

    /// Queues a command whether there is a place or not.
    pub fn send_at_once(&self, command: Command) {
        self.push(self.queues.lock(), command);
    }

    fn push(&self, mut queues: parking_lot::MutexGuard<'_, Queues>, command: Command) {
        if queues.closed {
            // Not under the lock: dropping it may call back.
            drop(queues);
            return;
        }
        queues.commands.push_back(command);
        self.arrived.notify_one();
    }

    /// Queues a block that was asked for, once there is a place.
    pub fn import(&self, import: Import) {
        let mut queues = self.queues.lock();
        let full = |queues: &Queues| {
            queues.imports.len() >= IMPORT_BLOCKS_MAX
                || (!queues.imports.is_empty() && queues.import_bytes + import.bytes.len() > IMPORT_BYTES_MAX)
        };
        while !queues.closed && full(&queues) {
            self.space.wait(&mut queues);
        }
        if queues.closed {
            drop(queues);
            return;
        }
        queues.import_bytes += import.bytes.len();
        queues.imports.push_back(import);
        self.arrived.notify_one();
    }

    /// Waits for something to do, at most `timeout`; commands and imports take turns.
    pub fn wait(&self, timeout: Duration) -> Option<Work> {
        let deadline = Instant::now() + timeout;
        let mut queues = self.queues.lock();
        loop {
            let import = queues.imports_next || queues.commands.is_empty();
            let work = if import { queues.take_import().map(Work::Imports) } else { None };
            if let Some(work) = work.or_else(|| queues.commands.pop_front().map(Work::Command)) {
                queues.imports_next = matches!(work, Work::Command(_));
                self.space.notify_all();
                return Some(work);
            }
            if self.is_stopping() || self.arrived.wait_until(&mut queues, deadline).timed_out() {
                return None;
            }
        }
    }

    /// A command, if one waits.
    pub fn try_command(&self) -> Option<Command> {
        let command = self.queues.lock().commands.pop_front()?;
        self.space.notify_all();
        Some(command)
    }

    /// A block, if one waits.
    pub fn try_import(&self) -> Option<Import> {
        let import = self.queues.lock().take_import()?;
        self.space.notify_all();
        Some(import)
    }

    /// Asks the writer to stop.
    pub fn stop(&self) {
        // Under the lock, so that a writer about to wait sees it.
        let queues = self.queues.lock();
        self.stopping.store(true, Ordering::SeqCst);
        drop(queues);
        self.arrived.notify_all();
    }

    /// Whether the writer is to stop, or has.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Nothing is taken any more: whoever waits hears that the node is stopping.
    pub fn close(&self) {
        self.stop();
        let mut queues = self.queues.lock();
        queues.closed = true;
        let left = (std::mem::take(&mut queues.commands), std::mem::take(&mut queues.imports));
        queues.import_bytes = 0;
        drop(queues);
        self.space.notify_all();
        drop(left);
    }
}
