//! What waits for the chain's thread: commands, and blocks from peers. How they wait is in `queue.rs`.

use super::audit::AuditVerdict;
use super::chain::{ChainCore, Now, Origin};
use super::prune::{PruneGoal, PruneReport};
use super::queue::{Limits, Queue, Weight};
use super::writer::LoadReport;
use super::{Accepted, HeadersTaken, SubmitError};
use crate::snapshot::{Elements, LoadError};
use setara_core::block::{EncodedBlock, Header};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::snapshot::Manifest;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

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

impl Weight for Import {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The two queues of the chain's thread.
pub(super) type Inbox = Queue<Command, Import>;

/// What they hold.
pub(super) const LIMITS: Limits =
    Limits { commands: QUEUE_COMMANDS, imports: IMPORT_BLOCKS_MAX, import_bytes: IMPORT_BYTES_MAX };
