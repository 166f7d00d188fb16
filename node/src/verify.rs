//! `setara-node verify`: checks a stored chain again, by every rule, and says how fast that went.
//!
//! Opens the database of a stopped node and changes nothing. What is checked is in `chain/recheck.rs`.

use crate::chain::{KnownSignatures, RecheckError, Rechecked, Verifier, recheck};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, VerifyRange};
use crate::datadir::{DataDir, DataDirError};
use crate::store::{RocksOptions, RocksStore, StoreError, schema};
use crate::telemetry;
use serde_json::json;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Why the chain is not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The folder cannot be used.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refuses.
    #[error("starting the log: {0}")]
    Log(io::Error),
    /// There is no chain.
    #[error("{0} holds no chain: start a node first")]
    Empty(String),
    /// What was asked for is not there.
    #[error("{0}")]
    Range(RecheckError),
    /// What is stored is wrong.
    #[error(
        "the stored chain is damaged: {0}. `setara-node rebuild` makes a new database from the blocks that are good"
    )]
    Damaged(RecheckError),
}

/// Checks the chain of `config`'s data directory and tells `out` what was checked.
pub fn run(config: &Config, range: &VerifyRange, out: &mut dyn Write) -> Result<(), VerifyError> {
    let directory = DataDir::open(&config.data_dir, &config.network.name)?;
    let clock = Arc::new(SystemClock::new());
    telemetry::start(config.log.format, &config.log.filter, None, clock.clone()).map_err(VerifyError::Log)?;
    let name = directory.path().display().to_string();
    if !directory.database().join("CURRENT").exists() {
        return Err(VerifyError::Empty(name));
    }
    let half = usize::try_from(config.db_cache_bytes / 2).unwrap_or(usize::MAX);
    let store =
        RocksStore::open(&directory.database(), &RocksOptions { memory_bytes: half, ..RocksOptions::default() })?;
    let genesis = config.network.genesis_hash();
    if !schema::check_identity(&store, &genesis, &name)? {
        return Err(VerifyError::Empty(name));
    }
    schema::migrate(&store, &genesis)?;
    let verifier = Verifier::new(config.network.clone(), Arc::new(KnownSignatures::default()), None);
    let start = clock.monotonic();
    let mut told = start;
    let mut progress = |height: u32, done: &Rechecked| {
        let now = clock.monotonic();
        if now.saturating_sub(told) >= PROGRESS_INTERVAL {
            told = now;
            let rate = per_second(done.transactions, now.saturating_sub(start));
            tracing::info!(height, transactions = done.transactions, tx_per_second = rate, "verifying");
        }
    };
    let done = recheck(&store, &verifier, range.from, range.to, &mut progress).map_err(|error| match error {
        RecheckError::Range { .. } => VerifyError::Range(error),
        error => VerifyError::Damaged(error),
    })?;
    // Nothing depends on whether anybody reads this.
    let _ = tell(&done, clock.monotonic().saturating_sub(start), range.json, out);
    Ok(())
}

/// Whole ones a second.
fn per_second(count: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(count) * 1_000_000 / time.as_micros().max(1)).unwrap_or(u64::MAX)
}

fn tell(done: &Rechecked, time: Duration, json: bool, out: &mut dyn Write) -> io::Result<()> {
    let Rechecked { blocks, transactions, signatures, coins } = *done;
    let (tx_rate, signature_rate) = (per_second(transactions, time), per_second(signatures, time));
    if json {
        let result = json!({
            "blocks": blocks, "transactions": transactions, "signatures": signatures, "coins": coins,
            "milliseconds": u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            "transactions_per_second": tx_rate, "signatures_per_second": signature_rate,
        });
        return writeln!(out, "{result}");
    }
    writeln!(out, "Every rule holds: {blocks} blocks, {transactions} transactions, {signatures} signatures.")?;
    if coins > 0 {
        writeln!(out, "The {coins} stored coins are those that the chain leaves.")?;
    }
    let seconds = time.as_secs_f64();
    writeln!(out, "It took {seconds:.1} s: {tx_rate} transactions and {signature_rate} signatures a second.")
}
