//! Parallel checking: blocks by themselves and their signatures, on a pool of worker threads.
//!
//! ```text
//! bytes ─► group of blocks ─► decode, ids, root, shape ─► signatures in batches across the group ─► connect, in order
//!          └──────────────── any worker, any order, a bounded window ahead ────────────┘    └─ one thread ─┘
//! ```
//!
//! Nothing here reads coins or heights, so nothing here is ever waited for in the order of blocks but by the connect
//! itself. Workers are scoped: whoever stops early waits for them (CVE-2024-52911 was a worker that outlived its data).

use super::known::KnownSignatures;
use rayon::prelude::*;
use setara_core::block::{Block, EncodedBlock};
use setara_core::codec::CodecError;
use setara_core::consensus::{
    BlockSignatures, CheckedBlock, ForEach, RuleError, Serial, block_signatures, check_encoded_block,
};
use setara_core::keys::{SignatureCheck, verify_all};
use setara_core::network::Network;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Signatures verified by one equation. Larger batches are slightly cheaper each, but leave a worker idle at the end.
pub const BATCH_SIGNATURES: usize = 1024;
/// Transactions below which spreading a block over workers costs more than it saves.
const SPREAD_MIN: usize = 64;
/// Bytes of blocks that one worker takes at a time: some 600 small transactions, so that the signatures of many small
/// blocks fill a batch.
const GROUP_BYTES: usize = 128 << 10;
/// Blocks that one worker takes at a time.
const GROUP_BLOCKS: usize = 64;
/// Bytes of blocks between their source and the connecting thread, unless less is asked for; decoded and checked they take about five times that.
pub const WINDOW_BYTES: usize = 16 << 20;
/// Blocks between their source and the connecting thread.
pub const WINDOW_BLOCKS: usize = 1024;
/// Time between two looks at the source while workers are busy: short against the checking of a group.
const FEED_INTERVAL: Duration = Duration::from_millis(2);

/// Spreads core's loops over the current pool.
#[derive(Debug, Clone, Copy)]
struct Workers;

impl ForEach for Workers {
    fn map<T: Sync, R: Send>(&self, items: &[T], f: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
        if items.len() < SPREAD_MIN {
            return items.iter().map(f).collect();
        }
        items.par_iter().with_min_len(SPREAD_MIN / 2).map(f).collect()
    }
}

/// Checks blocks on a pool of threads.
#[derive(Clone)]
pub struct Verifier {
    network: Arc<Network>,
    known: Arc<KnownSignatures>,
    pool: Arc<rayon::ThreadPool>,
}

/// A block that passed all checks that need nothing but itself, signatures included.
pub struct Prepared {
    /// The block.
    pub checked: CheckedBlock,
    /// Its encoding.
    pub bytes: Vec<u8>,
}

/// A block's encoding, whoever owns it.
pub enum Encoded {
    /// This block's alone.
    Owned(Vec<u8>),
    /// Shared with whoever sent it.
    Shared(Arc<[u8]>),
}

impl Encoded {
    fn len(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes.to_vec(),
        }
    }
}

/// What a source of blocks has.
pub enum Feed<K> {
    /// A block, and what its owner knows it by.
    Ready(Encoded, K),
    /// Nothing yet: ask again when the blocks before are done.
    Pending,
    /// Nothing any more.
    End,
}

/// Why a block was not prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unprepared {
    /// The bytes are no block.
    Undecodable(CodecError),
    /// A rule is broken; the header is there to be marked.
    Broken(Box<setara_core::block::Header>, RuleError),
    /// An earlier block of the load failed, so this one was not looked at.
    Cancelled,
}

impl Verifier {
    /// With one worker per core, or as many as `threads` says.
    pub fn new(network: Arc<Network>, known: Arc<KnownSignatures>, threads: Option<usize>) -> Self {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|index| format!("verify-{index}"))
            .build()
            .expect("the system can start a few threads");
        Self { network, known, pool: Arc::new(pool) }
    }

    /// The network.
    pub const fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// The pool, for other work of the same kind.
    pub const fn pool(&self) -> &Arc<rayon::ThreadPool> {
        &self.pool
    }

    /// Everything that needs nothing but the block, signatures excepted, on all workers. Gives its encoding as well.
    pub fn check(&self, block: impl Into<EncodedBlock>) -> Result<(CheckedBlock, Vec<u8>), RuleError> {
        let block = block.into();
        self.pool.install(|| check_encoded_block(&self.network, block, &Workers))
    }

    /// The same without proof of work, for proposals and templates.
    pub fn check_proposal(&self, block: Block) -> Result<CheckedBlock, RuleError> {
        self.pool.install(|| setara_core::consensus::check_proposal(&self.network, block, &Workers))
    }

    /// All signatures of a block that are not known to be valid, on all workers.
    pub fn verify(&self, checked: &CheckedBlock) -> Result<(), RuleError> {
        self.pool.install(|| {
            let signatures = block_signatures(&self.network, checked, &|wtxid| self.known.contains(wtxid), &Workers);
            verify_batches(&signatures.checks).map_err(|index| signatures.error(index))
        })
    }

    /// Prepares blocks ahead of `connect`, which takes them in order and says when to stop. At most [`WINDOW_BLOCKS`]
    /// blocks and `window` bytes are between the two, or one block; every worker is done when this returns. Ends when the
    /// source ends, or has nothing while no block is under way: nobody waits for a source that is pending.
    pub fn pipeline<K: Send, T>(
        &self,
        window: usize,
        source: &mut dyn FnMut() -> Feed<K>,
        mut connect: impl FnMut(K, Result<Prepared, Unprepared>) -> ControlFlow<T>,
    ) -> Option<T> {
        let cancelled = AtomicBool::new(false);
        self.pool.in_place_scope_fifo(|scope| {
            let mut in_flight: VecDeque<InFlight<K>> = VecDeque::new();
            let (mut count, mut bytes) = (0, 0);
            let mut ended = false;
            loop {
                let mut pending = false;
                while !ended && !pending && (count == 0 || (count < WINDOW_BLOCKS && bytes < window)) {
                    let (mut group, mut keys, mut group_bytes) = (Vec::new(), Vec::new(), 0);
                    while group.len() < GROUP_BLOCKS && group_bytes < GROUP_BYTES.min(window) {
                        match source() {
                            Feed::Ready(block, key) => {
                                group_bytes += block.len();
                                group.push(block);
                                keys.push(key);
                            }
                            Feed::Pending => {
                                pending = true;
                                break;
                            }
                            Feed::End => {
                                ended = true;
                                break;
                            }
                        }
                    }
                    if group.is_empty() {
                        break;
                    }
                    let (sender, result) = mpsc::sync_channel(1);
                    count += group.len();
                    bytes += group_bytes;
                    in_flight.push_back(InFlight { result, keys, bytes: group_bytes });
                    let cancelled = &cancelled;
                    scope.spawn_fifo(move |_| {
                        // The receiver is gone only when the load has stopped.
                        let _ = sender.send(self.prepare(group, cancelled));
                    });
                }
                let prepared = match in_flight.front()?.result.recv_timeout(FEED_INTERVAL) {
                    Ok(prepared) => prepared,
                    Err(RecvTimeoutError::Timeout) => continue,
                    // A worker that panicked sends nothing; the scope passes its panic on.
                    Err(RecvTimeoutError::Disconnected) => return None,
                };
                let first = in_flight.pop_front()?;
                count -= first.keys.len();
                bytes -= first.bytes;
                for (key, block) in first.keys.into_iter().zip(prepared) {
                    if let ControlFlow::Break(outcome) = connect(key, block) {
                        cancelled.store(true, Ordering::Relaxed);
                        return Some(outcome);
                    }
                }
            }
        })
    }

    /// One worker's share: a group of blocks in the order of their source, their signatures verified together.
    fn prepare(&self, group: Vec<Encoded>, cancelled: &AtomicBool) -> Vec<Result<Prepared, Unprepared>> {
        let mut prepared = Vec::with_capacity(group.len());
        let mut signatures: Vec<BlockSignatures> = Vec::with_capacity(group.len());
        let mut checks: Vec<SignatureCheck> = Vec::new();
        for encoded in group {
            let mut of_block = BlockSignatures::default();
            if cancelled.load(Ordering::Relaxed) {
                prepared.push(Err(Unprepared::Cancelled));
            } else {
                let block = self.prepare_one(encoded.into_vec());
                if let Ok(Prepared { checked, .. }) = &block {
                    of_block = block_signatures(&self.network, checked, &|wtxid| self.known.contains(wtxid), &Serial);
                    checks.extend_from_slice(&of_block.checks);
                }
                prepared.push(block);
            }
            signatures.push(of_block);
        }
        let hold = |checks: &[SignatureCheck]| verify_all(checks, &mut rand::rng());
        let together = checks
            .chunks(BATCH_SIGNATURES)
            .take_while(|_| !cancelled.load(Ordering::Relaxed))
            .all(|batch| hold(batch).is_ok());
        if !together {
            // One block's fault is not its neighbours': each is judged on its own. At worst that doubles the work.
            for (block, of_block) in prepared.iter_mut().zip(&signatures) {
                if cancelled.load(Ordering::Relaxed) {
                    break;
                }
                let batches = of_block.checks.chunks(BATCH_SIGNATURES).zip((0..).step_by(BATCH_SIGNATURES));
                let failed = batches
                    .map(|(batch, start)| (hold(batch), start))
                    .find_map(|(held, start)| held.err().map(|index| of_block.error(start + index)));
                if let (Ok(Prepared { checked, .. }), Some(error)) = (&*block, failed) {
                    *block = Err(Unprepared::Broken(Box::new(checked.block().header), error));
                }
            }
        }
        // Whoever cancels has stopped connecting: no block passes unverified.
        prepared
    }

    fn prepare_one(&self, bytes: Vec<u8>) -> Result<Prepared, Unprepared> {
        let block = EncodedBlock::decode(bytes).map_err(Unprepared::Undecodable)?;
        let header = block.block().header;
        match check_encoded_block(&self.network, block, &Serial) {
            Ok((checked, bytes)) => Ok(Prepared { checked, bytes }),
            Err(error) => Err(Unprepared::Broken(Box::new(header), error)),
        }
    }
}

/// Verifies in batches on the current pool; else the index of the first that does not hold.
fn verify_batches(checks: &[SignatureCheck]) -> Result<(), usize> {
    if checks.is_empty() {
        return Ok(());
    }
    // Equal shares, so that no worker ends with a small rest.
    let batches = checks.len().div_ceil(BATCH_SIGNATURES).next_multiple_of(rayon::current_num_threads());
    let size = checks.len().div_ceil(batches).max(1);
    let failed = checks
        .par_chunks(size)
        .enumerate()
        .filter_map(|(chunk, checks)| verify_all(checks, &mut rand::rng()).err().map(|index| chunk * size + index));
    failed.min().map_or(Ok(()), Err)
}

struct InFlight<K> {
    result: mpsc::Receiver<Vec<Result<Prepared, Unprepared>>>,
    keys: Vec<K>,
    bytes: usize,
}
