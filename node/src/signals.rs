//! Signals as two tokens: stop, and stop faster.
//!
//! The first SIGINT or SIGTERM asks for an orderly stop. The second asks to skip what a restart can make up for; what
//! has been acknowledged is on disk already, so even that loses nothing. SIGHUP is ignored: the log rotates by itself.

use std::io;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Requests to stop; clones see the same ones.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Stop, in order.
    pub requested: CancellationToken,
    /// Stop with as little work as is safe. Implies the other.
    pub hurried: CancellationToken,
}

impl Stop {
    /// One more request: the first stops, the next hurries.
    pub fn request(&self) {
        if self.requested.is_cancelled() {
            self.hurried.cancel();
        } else {
            self.requested.cancel();
        }
    }
}

/// Turns signals to this process into requests to stop, for as long as the runtime lives.
pub fn listen(runtime: &Handle) -> io::Result<Stop> {
    let _entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let stop = Stop::default();
    let signalled = stop.clone();
    runtime.spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => continue,
            };
            signalled.request();
            if signalled.hurried.is_cancelled() {
                tracing::warn!("{name} again: stopping faster");
            } else {
                tracing::info!("{name}: stopping");
            }
        }
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_hurries() {
        let stop = Stop::default();
        let seen = stop.clone();
        stop.request();
        assert!(seen.requested.is_cancelled() && !seen.hurried.is_cancelled());
        stop.request();
        assert!(seen.hurried.is_cancelled());
    }
}
