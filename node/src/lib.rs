//! Setara's full node, as a library: the binary reads options and signals, everything else is here.

#[cfg(feature = "rocksdb")]
pub mod backup;
pub mod call;
pub mod chain;
pub mod clock;
pub mod config;
pub mod console;
pub mod datadir;
pub mod descriptors;
pub mod genesis;
pub mod index;
pub mod invite;
pub mod memory;
pub mod mempool;
pub mod mining;
#[cfg(feature = "rocksdb")]
pub mod node;
pub mod p2p;
pub mod prune;
#[cfg(feature = "rocksdb")]
pub mod rebuild;
pub mod rpc;
pub mod seeder;
pub mod signals;
pub mod snapshot;
pub mod store;
pub mod swap;
pub mod telemetry;
#[doc(hidden)]
pub mod testing;
#[cfg(feature = "rocksdb")]
pub mod verify;
pub mod witness;
