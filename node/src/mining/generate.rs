//! Blocks on demand, for networks of fixed difficulty: `generatetoaddress` and `generateblock`.

use super::template::{TemplateError, Templates};
use crate::chain::{Accepted, SubmitError};
use setara_core::address::Address;
use setara_core::block::{Block, Header};
use setara_core::nonce::find_nonce;
use setara_core::pow::Target;
use setara_core::transaction::Transaction;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Nonces tried between looks at the stop request.
const STEP: u32 = 1 << 14;

/// What to put into a block.
pub enum Contents {
    /// What pays best.
    Mempool,
    /// Exactly these, in this order.
    These(Vec<Arc<Transaction>>),
}

/// Why no block was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// No template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The chain did not take the block.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The block became a side branch, or was not wanted.
    #[error("another block came first")]
    Overtaken,
    /// As many hashes as were allowed, and none met the target.
    #[error("no block found within the hashes allowed")]
    Exhausted,
    /// Asked to stop.
    #[error("the node is stopping")]
    Stopped,
}

impl Templates {
    /// A block that meets the target, not submitted. At most `tries` hashes, which are counted down.
    pub fn solve(
        &self,
        contents: Contents,
        payout: Address,
        tries: &mut u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Block, GenerateError> {
        let template = match contents {
            Contents::Mempool => self.build(payout)?,
            Contents::These(transactions) => self.build_from(transactions, payout)?,
        };
        // Never the same block twice: one that the operator has invalidated must not come back as its own successor.
        let (header, coinbase) = template.with_extranonce(rand::random());
        let header = work(header, template.target, tries, stop)?;
        Ok(template.assemble(header, coinbase))
    }

    /// A block that meets the target, on the tip of the chain.
    pub fn generate(
        &self,
        contents: Contents,
        payout: Address,
        tries: &mut u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Block, GenerateError> {
        let block = self.solve(contents, payout, tries, stop)?;
        match self.chain().submit(block.clone())? {
            Accepted::Connected | Accepted::Duplicate => Ok(block),
            Accepted::SideBranch | Accepted::Ignored => Err(GenerateError::Overtaken),
        }
    }
}

fn work(header: Header, target: Target, tries: &mut u64, stop: &dyn Fn() -> bool) -> Result<Header, GenerateError> {
    let mut start = 0u32;
    loop {
        if stop() {
            return Err(GenerateError::Stopped);
        }
        let step = u64::from(STEP).min(*tries);
        let Some(last) = step.checked_sub(1).and_then(|step| start.checked_add(u32::try_from(step).ok()?)) else {
            // Fixed-difficulty targets that outlast all nonces of one header are for real miners.
            return Err(GenerateError::Exhausted);
        };
        let nonces: RangeInclusive<u32> = start..=last;
        *tries -= step;
        if let Some(nonce) = find_nonce(&header, target, nonces) {
            // What was allowed for this step but not needed is left for the next block.
            *tries = tries.saturating_add(u64::from(last.saturating_sub(nonce)));
            return Ok(Header { nonce, ..header });
        }
        start = last.checked_add(1).ok_or(GenerateError::Exhausted)?;
    }
}
