//! The stored chain against every rule, as if its blocks came anew: what `setara-node verify` does.
//!
//! ```text
//! bodies by height ─► decode, ids, root, signatures (workers) ─► connect, held against the stored delta ─► lattice
//! ```
//!
//! No coins are looked up: those that a block spends are read from its stored delta, and the lattice, whose root the next
//! block commits to, tells whether they existed just so. What the last block leaves must be what is stored of the tip,
//! and the coins' rows must add up to the stored lattice. Reads only; a difference is damage here, never a verdict.

use super::recent::Recent;
use super::verify::{Encoded, Feed, Prepared, Unprepared, Verifier, WINDOW_BYTES};
use crate::store::{Column, Direction, Reader, StoreError, schema};
use rayon::prelude::*;
use setara_core::consensus::{BlockDelta, ChainState, CheckedBlock, apply, connect};
use setara_core::hash::BlockHash;
use setara_core::height::Height;
use setara_core::lattice::{Lattice, LatticeDelta};
use setara_core::transaction::Coin;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};

/// Deltas that one worker adds up on the way down to the first block: few enough that all workers have some even of a short
/// range, and a sum of half a megabyte is worth its merging.
const DELTAS_AT_ONCE: usize = 8;
/// Coins' rows that one worker takes at a time.
const ROWS_AT_ONCE: usize = 16_384;

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rechecked {
    /// Blocks.
    pub blocks: u64,
    /// Their transactions, coinbases not counted.
    pub transactions: u64,
    /// Their signatures.
    pub signatures: u64,
    /// Rows of coins held against the lattice; 0 if the blocks do not reach up to the tip.
    pub coins: u64,
}

/// Why the stored chain could not be checked, or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum RecheckError {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are no such blocks.
    #[error("heights {from} to {to} are not all there: blocks are stored from height {first} to {last}")]
    Range {
        /// First height asked for.
        from: u32,
        /// Last height asked for.
        to: u32,
        /// Lowest height whose body and undo record are stored.
        first: u32,
        /// The tip's height.
        last: u32,
    },
    /// Something stored breaks a rule, or is not what follows from the rest.
    #[error("block {hash} at height {height}: {reason}")]
    Block {
        /// Its height.
        height: u32,
        /// Its hash.
        hash: BlockHash,
        /// What is wrong.
        reason: String,
    },
    /// The state after the blocks is not the stored one.
    #[error("{0}")]
    State(String),
}

/// Checks the stored blocks of `range` (all that are there by default) and, if they reach the tip, the stored coins.
/// `progress` is told the height and the transactions so far after each block.
pub fn recheck(
    reader: &dyn Reader,
    verifier: &Verifier,
    from: Option<u32>,
    to: Option<u32>,
    progress: &mut dyn FnMut(u32, &Rechecked),
) -> Result<Rechecked, RecheckError> {
    let stored = Stored::read(reader)?;
    let first = stored.first()?;
    let last = stored.tip.height().get();
    let (from, to) = (from.unwrap_or(first), to.unwrap_or(last));
    if from < first || to > last || (from > to && last >= first) {
        return Err(RecheckError::Range { from, to, first, last });
    }
    let mut done = Rechecked::default();
    if from <= to {
        let start = stored.lattice_below(verifier, from)?;
        stored.blocks(verifier, from..=to, start, &mut done, progress)?;
    }
    if to == last {
        done.coins = stored.coins(verifier)?;
    }
    Ok(done)
}

/// What is stored beside the blocks.
struct Stored<'a> {
    reader: &'a dyn Reader,
    tip: ChainState,
    /// After the block that the coins' rows belong to.
    rows: (ChainState, Lattice),
    /// After the tip.
    lattice: Lattice,
}

impl<'a> Stored<'a> {
    fn read(reader: &'a dyn Reader) -> Result<Self, RecheckError> {
        let missing = |what: &str| StoreError::corrupt(format!("{what} is missing"));
        let tip = schema::tip(reader)?.ok_or_else(|| missing("the tip"))?;
        let rows = schema::coins_tip(reader)?.ok_or_else(|| missing("the block that the coins belong to"))?;
        let kept = schema::lattice(reader)?;
        let mut lattice = kept.clone();
        for change in Recent::read(reader)?.changes() {
            let (delta, reverted) = change.delta();
            let changes = delta.lattice_changes();
            let changes = if reverted { changes.negate() } else { changes };
            lattice.apply(&changes).map_err(|error| RecheckError::State(error.to_string()))?;
        }
        if lattice.root() != tip.coins_root || lattice.sum() != tip.supply.sen() {
            return Err(RecheckError::State("the stored lattice of the coins does not belong to the tip".to_owned()));
        }
        Ok(Self { reader, tip, rows: (rows, kept), lattice })
    }

    /// Lowest height above genesis whose body and undo record are stored.
    fn first(&self) -> Result<u32, StoreError> {
        let pruned = schema::pruned(self.reader)?;
        Ok(pruned.map_or(1, |pruned| pruned.bodies_from.max(pruned.undo_from).get().max(1)))
    }

    fn hash_at(&self, height: u32) -> Result<BlockHash, StoreError> {
        schema::hash_at(self.reader, Height::new(height))?
            .ok_or_else(|| StoreError::corrupt(format!("the block at height {height} is missing")))
    }

    fn delta(&self, height: u32) -> Result<BlockDelta, StoreError> {
        let hash = self.hash_at(height)?;
        schema::undo(self.reader, &hash)?
            .ok_or_else(|| StoreError::corrupt(format!("the undo record of block {hash} is missing")))
    }

    /// The lattice before the block at `from`: the tip's less all changes from there on.
    fn lattice_below(&self, verifier: &Verifier, from: u32) -> Result<Lattice, RecheckError> {
        let network = verifier.network();
        if from == 1 {
            let mut lattice = Lattice::empty();
            let genesis = BlockDelta::genesis(network).lattice_changes();
            lattice.apply(&genesis).map_err(|error| RecheckError::State(error.to_string()))?;
            return Ok(lattice);
        }
        let heights: Vec<u32> = (from..=self.tip.height().get()).collect();
        let sum = |heights: &[u32]| -> Result<LatticeDelta, StoreError> {
            let mut sum = LatticeDelta::new();
            for height in heights {
                sum.merge(self.delta(*height)?.lattice_changes());
            }
            Ok(sum)
        };
        let changes = verifier.pool().install(|| {
            heights.par_chunks(DELTAS_AT_ONCE).map(sum).try_reduce(LatticeDelta::new, |mut all, part| {
                all.merge(part);
                Ok(all)
            })
        })?;
        let mut lattice = self.lattice.clone();
        lattice.apply(&changes.negate()).map_err(|error| RecheckError::State(error.to_string()))?;
        Ok(lattice)
    }

    fn blocks(
        &self,
        verifier: &Verifier,
        range: RangeInclusive<u32>,
        mut lattice: Lattice,
        done: &mut Rechecked,
        progress: &mut dyn FnMut(u32, &Rechecked),
    ) -> Result<(), RecheckError> {
        let (from, to) = (*range.start(), *range.end());
        let mut state = match from {
            1 => apply(&BlockDelta::genesis(verifier.network()), lattice.root()),
            from => *self.delta(from)?.parent(),
        };
        if state.hash() != self.hash_at(from - 1)? || state.coins_root != lattice.root() {
            return Err(RecheckError::State(format!("what is stored below height {from} does not fit together")));
        }
        let mut heights = range;
        let mut failed = None;
        let mut source = || match heights.next() {
            None => Feed::End,
            Some(height) => match self.body(height) {
                Ok((hash, bytes)) => Feed::Ready(Encoded::Owned(bytes), (height, hash)),
                Err(error) => {
                    failed = Some(error);
                    Feed::End
                }
            },
        };
        let ended = verifier.pipeline(WINDOW_BYTES, &mut source, |(height, hash), prepared| {
            match self.block(verifier, (height, hash), prepared, &mut state, &mut lattice, done) {
                Ok(()) => {
                    progress(height, done);
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            }
        });
        if let Some(error) = ended {
            return Err(error);
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        let expected = if to == self.tip.height().get() { self.tip } else { *self.delta(to + 1)?.parent() };
        if state != expected {
            return Err(RecheckError::State(format!("the state stored after height {to} is not what the blocks make")));
        }
        Ok(())
    }

    fn body(&self, height: u32) -> Result<(BlockHash, Vec<u8>), StoreError> {
        let hash = self.hash_at(height)?;
        let body = schema::body(self.reader, &hash)?;
        Ok((hash, body.ok_or_else(|| StoreError::corrupt(format!("the body of block {hash} is missing")))?))
    }

    fn block(
        &self,
        verifier: &Verifier,
        (height, hash): (u32, BlockHash),
        prepared: Result<Prepared, Unprepared>,
        state: &mut ChainState,
        lattice: &mut Lattice,
        done: &mut Rechecked,
    ) -> Result<(), RecheckError> {
        let wrong = |reason: String| RecheckError::Block { height, hash, reason };
        let checked = match prepared {
            Ok(Prepared { checked, .. }) => checked,
            Err(Unprepared::Undecodable(error)) => return Err(wrong(format!("its body: {error}"))),
            Err(Unprepared::Broken(_, error)) => return Err(wrong(error.to_string())),
            Err(Unprepared::Cancelled) => return Err(wrong("it was not looked at".to_owned())),
        };
        if checked.hash() != hash {
            return Err(wrong(format!("its body is that of block {}", checked.hash())));
        }
        let stored = schema::undo(self.reader, &hash)?;
        let stored = stored.ok_or_else(|| wrong("its undo record is missing".to_owned()))?;
        let coins = spent_coins(&checked, &stored);
        let delta = connect(verifier.network(), state, &checked, &coins).map_err(|error| wrong(error.to_string()))?;
        if delta != stored {
            return Err(wrong("its undo record is not what its body does".to_owned()));
        }
        lattice.apply(&delta.lattice_changes()).map_err(|error| wrong(error.to_string()))?;
        *state = apply(&delta, lattice.root());
        done.blocks += 1;
        done.transactions += checked.block().transactions.len() as u64;
        let signatures = |witness: &setara_core::transaction::Witness| witness.signatures.len() as u64;
        done.signatures += checked
            .block()
            .transactions
            .iter()
            .flat_map(|transaction| &transaction.witnesses)
            .map(signatures)
            .sum::<u64>();
        Ok(())
    }

    /// The coins' rows add up to the lattice stored with them; how many there are.
    fn coins(&self, verifier: &Verifier) -> Result<u64, RecheckError> {
        let (state, lattice) = &self.rows;
        let mut rows = self.reader.iterate(Column::Coins, &[], Direction::Forward);
        let mut read = || rows.by_ref().take(ROWS_AT_ONCE).collect::<Result<Vec<_>, StoreError>>();
        let (mut sum, mut count) = (LatticeDelta::new(), 0);
        let mut part = read()?;
        while !part.is_empty() {
            count += part.len() as u64;
            // The next rows are read while the workers add these up.
            let (mut added, mut next) = (Ok(LatticeDelta::new()), Ok(Vec::new()));
            verifier.pool().in_place_scope(|scope| {
                scope.spawn(|_| added = add_up(&part));
                next = read();
            });
            sum.merge(added?);
            part = next?;
        }
        let mut recount = Lattice::empty();
        recount.apply(&sum).map_err(|error| RecheckError::State(error.to_string()))?;
        if recount != *lattice || recount.root() != state.coins_root {
            let block = state.hash();
            return Err(RecheckError::State(format!("the stored coins are not those after block {block}")));
        }
        Ok(count)
    }
}

/// Rows of coins, added up on the current pool.
fn add_up(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<LatticeDelta, StoreError> {
    let add = |mut sum: LatticeDelta, (key, value): &(Vec<u8>, Vec<u8>)| -> Result<LatticeDelta, StoreError> {
        let outpoint = schema::coin_outpoint(key)?;
        sum.add(&outpoint, &schema::coin(&outpoint, value)?);
        Ok(sum)
    };
    let merge = |mut all: LatticeDelta, part| {
        all.merge(part);
        Ok(all)
    };
    rows.par_iter().with_min_len(ROWS_AT_ONCE / 8).try_fold(LatticeDelta::new, add).try_reduce(LatticeDelta::new, merge)
}

/// The coins that a block requires, as its stored delta names them.
fn spent_coins(checked: &CheckedBlock, delta: &BlockDelta) -> Vec<Option<Coin>> {
    let required = checked.required_coins();
    if required.iter().eq(delta.spent().iter().map(|(outpoint, _)| outpoint)) {
        return delta.spent().iter().map(|(_, coin)| Some(*coin)).collect();
    }
    let spent: BTreeMap<_, _> = delta.spent().iter().copied().collect();
    required.iter().map(|outpoint| spent.get(outpoint).copied()).collect()
}
