//! What the end-to-end tests share: real processes, and a naive ledger to hold them
//! against. No rules of its own.

pub mod crash;
pub mod damage;
pub mod lab;
pub mod oracle;
pub mod process;
pub mod purse;
pub mod recorder;
pub mod replay;
pub mod speaker;
pub mod wallet;
