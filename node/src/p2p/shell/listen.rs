//! Listening: accepts, admits by the gate, shakes hands, and hands the connection on.

use super::conn;
use super::network::Core;
use super::noise::Role;
use crate::p2p::brain::interface::Link;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the system holds until they are accepted. Beyond it their packets are dropped and dialled again after
/// a second, then three, then seven: a burst of strangers must not do that to an honest peer. Linux's own limit since 5.4.
const BACKLOG: u32 = 4_096;
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
        let Some(place) = core.door.admit(address.ip(), core.office.clock.monotonic()) else { continue };
        let core = core.clone();
        tokio::spawn(async move {
            let handshake = conn::handshake(Role::Answerer, &core.key, &core.office.chain);
            let greeted = tokio::select! {
                () = core.stop.cancelled() => return,
                () = place.given_up() => return,
                greeted = conn::greet(&mut stream, handshake, None) => greeted,
            };
            drop(place);
            match greeted {
                Ok(greeted) => core.adopt(stream, greeted, Link::Inbound, address.into()).await,
                Err(error) => tracing::info!(peer = %address, %error, "refused an incoming connection"),
            }
        });
    }
}
