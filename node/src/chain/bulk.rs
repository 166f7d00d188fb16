//! Blocks in bulk: checked ahead on all workers, connected one by one, flushed late.

use super::chain::{ChainCore, Now, Origin, Place};
use super::verify::{Encoded, Feed, Prepared, Unprepared};
use super::{Accepted, ChainFault, SubmitError};
use setara_core::block::EncodedBlock;
use setara_core::consensus::header_is_early;
use std::ops::ControlFlow;
use std::time::Duration;

/// While blocks come in from peers, the longest time between two flushes: what readers see is never older.
const IMPORT_FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Who is told of each block's verdict, and may stop the import.
pub type Judged<'a, K> = dyn FnMut(&mut ChainCore, K, Result<Accepted, SubmitError>) -> ControlFlow<SubmitError> + 'a;

impl ChainCore {
    /// Takes blocks in bulk, parents first. `between` runs after each block and may stop the load. Gives the blocks
    /// taken and what ended it early; what was taken is on disk then.
    pub fn load(
        &mut self,
        blocks: &mut dyn Iterator<Item = Vec<u8>>,
        now: &dyn Fn() -> Now,
        between: &mut dyn FnMut(&mut Self) -> ControlFlow<()>,
    ) -> (u64, Result<(), SubmitError>) {
        let mut taken = 0;
        let mut source = || blocks.next().map_or(Feed::End, |bytes| Feed::Ready(Encoded::Owned(bytes), ()));
        let result = self.take_all(&mut source, now, &mut |core, (), outcome| {
            if let Err(error) = outcome {
                return ControlFlow::Break(error);
            }
            taken += 1;
            between(core).map_break(|()| SubmitError::Stopping)
        });
        (taken, result)
    }

    /// Takes blocks as they come in, in any order, until none is left; each is judged on its own, and `judged` is told
    /// and may stop the import. What was taken is on disk then.
    pub fn import<K: Send>(
        &mut self,
        source: &mut dyn FnMut() -> Feed<K>,
        now: &dyn Fn() -> Now,
        judged: &mut Judged<'_, K>,
    ) -> Result<(), SubmitError> {
        self.flush_interval = self.options.flush_interval.min(IMPORT_FLUSH_INTERVAL);
        let result = self.take_all(source, now, judged);
        self.flush_interval = self.options.flush_interval;
        result
    }

    fn take_all<K: Send>(
        &mut self,
        source: &mut dyn FnMut() -> Feed<K>,
        now: &dyn Fn() -> Now,
        judged: &mut Judged<'_, K>,
    ) -> Result<(), SubmitError> {
        self.usable()?;
        let verifier = self.verifier.clone();
        let ended = verifier.pipeline(self.options.checked_bytes, source, |key, prepared| {
            let outcome = self.take_prepared(prepared, now());
            judged(self, key, outcome)
        });
        let flushed = self.usable().and_then(|()| self.flush(now()).map_err(|fault| self.fail(fault)));
        ended.map_or(Ok(()), Err).and(flushed)
    }

    fn take_prepared(&mut self, prepared: Result<Prepared, Unprepared>, now: Now) -> Result<Accepted, SubmitError> {
        self.usable()?;
        let Prepared { checked, bytes } = match prepared {
            Ok(prepared) => prepared,
            Err(Unprepared::Undecodable(error)) => return Err(SubmitError::Undecodable(error)),
            Err(Unprepared::Cancelled) => return Err(SubmitError::Stopping),
            Err(Unprepared::Broken(header, error)) => {
                return match self.place(&header)? {
                    // A body that its header does not commit to, or nobody's of those that were judged.
                    Place::Known | Place::Lost(_) => Ok(Accepted::Duplicate),
                    Place::New(parent, state) => Err(self.refuse(parent, state, *header, error)),
                };
            }
        };
        let header = checked.block().header;
        let (parent, state) = match self.place(&header)? {
            Place::Known => return Ok(Accepted::Duplicate),
            Place::Lost(id) => return Ok(self.put_back(id, bytes)),
            Place::New(parent, state) => (parent, state),
        };
        if let Err(error) = header_is_early(&self.network, &header, now.unix_seconds) {
            return Err(self.hold(&checked, error));
        }
        let outcome = self.accept(parent, state, checked, bytes, true, now);
        if !matches!(outcome, Err(SubmitError::Fault(_))) {
            self.flush_if_due(now).map_err(|fault| self.fail(fault))?;
        }
        outcome
    }

    /// Takes one encoded block, as [`Self::submit`] does.
    pub fn submit_encoded(&mut self, bytes: &[u8], origin: Origin, now: Now) -> Result<Accepted, SubmitError> {
        let block = EncodedBlock::decode(bytes.to_vec()).map_err(SubmitError::Undecodable)?;
        self.submit(block, origin, now)
    }

    /// Carries out the audits that are due, here and now.
    pub(super) fn audit_here(&mut self, now: Now) {
        while let Some(task) = self.take_audit() {
            let verdict = task.run(&std::sync::atomic::AtomicBool::new(false));
            // A fault found by the audit is remembered in the chain.
            drop(verdict.map(|verdict| self.finish_audit(verdict, now)));
        }
    }

    /// Stores everything, the coins' rows included.
    pub(super) fn flush_now(&mut self, now: Now) -> Result<(), SubmitError> {
        self.usable()?;
        self.flush(now).and_then(|()| self.settle()).map_err(|fault: ChainFault| self.fail(fault))
    }
}
