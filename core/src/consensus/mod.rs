//! The rules, as verbs over values: each level of validity is named once and visible in the types.
//!
//! | verb | needs | gives |
//! | --- | --- | --- |
//! | [`check_header`] | the parent's [`HeaderState`] | the child's |
//! | [`check_block`] | nothing but the block | [`CheckedBlock`]: shape, root, ids, fees, which coins to bring |
//! | [`block_signatures`] | the checked block | signatures to verify anywhere, in any order |
//! | [`connect`] | the parent's [`ChainState`] and the coins | [`BlockDelta`]: what changes, and its own undo record |
//! | [`apply`] | the delta and the coins' root after it | the child's [`ChainState`] |

mod block;
mod connect;
mod error;
mod header;
mod state;
mod transaction;

pub use block::{
    BlockSignatures, CheckedBlock, ForEach, Serial, block_signatures, check_block, check_encoded_block, check_proposal,
};
pub use connect::{BlockDelta, apply, connect, connect_proposal};
pub use error::{Class, RuleError};
pub use header::{check_header, check_work, header_is_early};
pub use state::{ChainState, HeaderState};
pub use transaction::{CheckedTransaction, SpendContext, check_spend, check_transaction, transaction_signatures};
