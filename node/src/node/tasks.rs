//! Threads of a running node that belong to no other module: whom they serve, and until when.

use super::Stop;
use crate::chain::ChainHandle;
use crate::clock::Clock;
use crate::mempool::Mempool;
use crate::witness::WitnessFile;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The thread that reads the mempool's file back and then keeps the mempool at the tip.
pub(super) fn keep_mempool(
    mempool: Arc<Mempool>,
    file: PathBuf,
    loaded: Arc<AtomicBool>,
    stop: Stop,
) -> io::Result<JoinHandle<()>> {
    let stopping = move || stop.requested.is_cancelled();
    std::thread::Builder::new().name("mempool".to_owned()).spawn(move || {
        match mempool.load(&file, &stopping) {
            Ok(found) => {
                if found.accepted + found.refused + found.expired > 0 {
                    let (accepted, refused, expired) = (found.accepted, found.refused, found.expired);
                    tracing::info!(accepted, refused, expired, "read the mempool back");
                }
                loaded.store(found.left == 0, Ordering::SeqCst);
            }
            Err(error) => {
                tracing::warn!(%error, "the mempool starts empty");
                loaded.store(true, Ordering::SeqCst);
            }
        }
        mempool.follow(&stopping);
    })
}

/// The thread that writes the tip down.
pub(super) fn keep_witness(
    file: WitnessFile,
    chain: ChainHandle,
    clock: Arc<dyn Clock>,
    stop: Stop,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("witness".to_owned())
        .spawn(move || file.follow(&chain, &*clock, &|| stop.requested.is_cancelled()))
}
