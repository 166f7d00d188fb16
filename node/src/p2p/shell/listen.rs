//! Listening: accepts, admits by the gate, shakes hands, and hands the connection on.

use super::conn;
use super::gate::{Admission, Ticket};
use super::network::Core;
use super::noise::Role;
use crate::p2p::brain::interface::Link;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

/// Connections that the system holds until they are accepted.
const BACKLOG: u32 = 128;
/// After an accept that fails (out of file descriptors, mostly) nothing is accepted for so long.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Binds; any failure is told, since a node that only seems to listen is worse than one that does not start.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until the node stops.
pub(super) async fn accept(core: Arc<Core>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = core.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (mut stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some((ticket, given_up)) = core.admit(address.ip()) else { continue };
        let core = core.clone();
        tokio::spawn(async move {
            let handshake = conn::handshake(Role::Answerer, &core.key, &core.office.chain);
            let greeted = tokio::select! {
                () = core.stop.cancelled() => return,
                () = given_up.cancelled() => return,
                greeted = conn::greet(&mut stream, handshake, None) => greeted,
            };
            core.leave_gate(ticket);
            match greeted {
                Ok(greeted) => core.adopt(stream, greeted, Link::Inbound, address.into()).await,
                Err(error) => tracing::info!(peer = %address, %error, "refused an incoming connection"),
            }
        });
    }
}

impl Core {
    /// Whether a handshake may begin, and what tells it that its place was given to another.
    fn admit(&self, address: std::net::IpAddr) -> Option<(Ticket, CancellationToken)> {
        let mut gate = self.gate.lock();
        let Admission { ticket, instead_of } = gate.admit(address, self.office.clock.monotonic())?;
        let mut shaking = self.shaking.lock();
        if let Some(given_up) = instead_of.and_then(|ticket| shaking.remove(&ticket)) {
            given_up.cancel();
        }
        let given_up = CancellationToken::new();
        shaking.insert(ticket, given_up.clone());
        Some((ticket, given_up))
    }

    fn leave_gate(&self, ticket: Ticket) {
        self.gate.lock().done(ticket);
        self.shaking.lock().remove(&ticket);
    }
}
