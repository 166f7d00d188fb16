//! Rules for a header alone and below its parent.

use super::error::RuleError;
use super::state::HeaderState;
use crate::block::Header;
use crate::hash::BlockHash;
use crate::network::Network;
use crate::pow::Target;

/// Proof of work by itself: "target canonical, non-zero, <= the network's limit; hash <= target". Cheapest of all
/// checks, needs no parent. Gives the hash and the target.
pub fn check_work(network: &Network, header: &Header) -> Result<(BlockHash, Target), RuleError> {
    let bits = header.bits;
    let target = bits.to_target().map_err(|reason| RuleError::BadTarget { bits, reason })?;
    if target > network.limit {
        return Err(RuleError::TargetAboveLimit { got: bits, limit: network.limit.to_compact() });
    }
    let hash = header.hash();
    if target.is_met_by(hash) { Ok((hash, target)) } else { Err(RuleError::HighHash { hash, bits }) }
}

/// Everything that a header must satisfy below `parent`, but for the clock ([`header_is_early`]).
pub fn check_header(network: &Network, parent: &HeaderState, header: &Header) -> Result<HeaderState, RuleError> {
    let (hash, target) = check_work(network, header)?;
    extend(network, parent, header, hash, target)
}

/// The contextual part: previous hash, exact bits, median time past.
pub(super) fn extend(
    network: &Network,
    parent: &HeaderState,
    header: &Header,
    hash: BlockHash,
    target: Target,
) -> Result<HeaderState, RuleError> {
    if header.previous != parent.hash {
        return Err(RuleError::MissingParent { previous: header.previous });
    }
    let expected = parent.required_bits(network);
    if header.bits != expected {
        return Err(RuleError::WrongBits { got: header.bits, expected });
    }
    let median_time_past = parent.median_time_past();
    if header.time <= median_time_past {
        return Err(RuleError::TimeTooOld { time: header.time, median_time_past });
    }
    parent.height.next().ok_or(RuleError::HeightOverflow)?;
    parent.extend(hash, header.time, target.work()).ok_or(RuleError::WorkOverflow)
}

/// Whether the header is "more than the network's `max_future_seconds` ahead of local time": held back, not invalid.
pub fn header_is_early(network: &Network, header: &Header, now: u64) -> Result<(), RuleError> {
    let max_future_seconds = network.max_future_seconds;
    if u64::from(header.time) > now.saturating_add(u64::from(max_future_seconds)) {
        return Err(RuleError::TimeTooNew { time: header.time, now, max_future_seconds });
    }
    Ok(())
}
