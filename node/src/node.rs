//! The running node: what is started, in which order, and how it stops.

use crate::clock::SystemClock;
use crate::config::Config;
use crate::datadir::{DataDir, DataDirError};
use crate::{signals, telemetry};
use std::io;
use std::sync::Arc;

/// Why a node could not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The operating system refuses something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Runs a node until a signal stops it.
pub fn run(config: Config) -> Result<(), NodeError> {
    let directory = DataDir::open(&config.data_dir, &config.network.name)?;
    directory.check_space_to_start()?;
    let clock = Arc::new(SystemClock::new());
    let log = directory.log();
    let log = config.log.file.then_some(log.as_path());
    telemetry::start(config.log.format, &config.log.filter, log, clock)
        .map_err(|error| NodeError::System { what: "starting the log", error })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| NodeError::System { what: "starting threads", error })?;
    let stop = signals::listen(runtime.handle())
        .map_err(|error| NodeError::System { what: "listening for signals", error })?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        network = config.network.name,
        genesis = %config.network.genesis_hash(),
        data = %directory.path().display(),
        "starting"
    );
    runtime.block_on(stop.requested.cancelled());
    tracing::info!("stopped");
    Ok(())
}
