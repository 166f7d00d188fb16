//! What the methods work on: the parts of a running node.

use super::error::RpcError;
use crate::chain::ChainHandle;
use crate::clock::{Clock, OffsetClock};
use crate::index::{IndexError, IndexStatus, IndexView, Indexes};
use crate::memory::Held;
use crate::mempool::Mempool;
use crate::mining::{Miner, Templates};
use crate::p2p::shell::PeerNetwork;
use crate::prune::Pruner;
use crate::witness::Witness;
use setara_api::error::ErrorCode;
use setara_core::address::Address;
use setara_core::network::Network;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a question waits for an index that is a few blocks behind: at the tip it is one or two, for moments.
const INDEX_WAIT: Duration = Duration::from_secs(5);

/// Makes a backup.
pub type Backup = Box<dyn Fn(&Path) -> Result<Witness, String> + Send + Sync>;

/// Everything a method may reach.
pub struct RpcContext {
    /// The network.
    pub network: Arc<Network>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The same clock, where it can be set.
    pub mock_clock: Option<Arc<OffsetClock>>,
    /// The chain.
    pub chain: ChainHandle,
    /// Transactions and addresses, unless switched off.
    pub indexes: Option<Arc<Indexes>>,
    /// What deletes old blocks, if anything does.
    pub pruner: Option<Arc<Pruner>>,
    /// Unconfirmed transactions.
    pub mempool: Arc<Mempool>,
    /// Whether the last run's mempool has been read back.
    pub mempool_loaded: Arc<AtomicBool>,
    /// Templates of blocks.
    pub templates: Arc<Templates>,
    /// The built-in miner, if it runs.
    pub miner: Option<Arc<Miner>>,
    /// Who is paid by templates for other miners.
    pub mining_address: Option<Address>,
    /// Other nodes, unless this one runs alone.
    pub peers: Option<Arc<PeerNetwork>>,
    /// Whether transactions that are handed in leave over connections of their own.
    pub private_broadcast: bool,
    /// Folder against which paths of snapshots are taken.
    pub folder: PathBuf,
    /// Bytes of the database on disk.
    pub disk_bytes: Box<dyn Fn() -> u64 + Send + Sync>,
    /// What is held in memory, and what may be.
    pub memory: Box<dyn Fn() -> Held + Send + Sync>,
    /// What was found at the start and the operator should know.
    pub notices: Vec<String>,
    /// Makes a backup in a folder; gives the tip that is in it, or what went wrong.
    pub backup: Backup,
    /// Cancelled when the node is to stop.
    pub shutdown: CancellationToken,
}

impl RpcContext {
    /// Threads of the built-in miner.
    pub fn miner_threads(&self) -> usize {
        self.miner.as_ref().map_or(0, |miner| miner.stats().threads)
    }

    /// What the operator should know.
    pub fn warnings(&self) -> Vec<String> {
        let stopped = |status: IndexStatus| Some(format!("{} has stopped: {}", status.name, status.fault?));
        let indexes = self.indexes.iter().flat_map(|indexes| indexes.statuses()).filter_map(stopped);
        self.chain.fault().into_iter().chain(indexes).chain(self.notices.iter().cloned()).collect()
    }

    /// The chain and its indexes at one moment; waits a little for indexes that are catching up.
    pub fn index_view(&self) -> Result<IndexView, RpcError> {
        let Some(indexes) = &self.indexes else {
            return Err(RpcError::misc("This node keeps no index (--no-index)"));
        };
        indexes.view(INDEX_WAIT).map_err(|error| match error {
            IndexError::Store(error) => RpcError::new(ErrorCode::DATABASE, format!("Database error: {error}")),
            other => RpcError::misc(other.to_string()),
        })
    }
}
