//! Dialling: directly, or through a SOCKS5 proxy (which is how Tor is reached).

use crate::p2p::message::{NetAddress, PeerAddress};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_socks::tcp::Socks5Stream;
use tokio_socks::{IntoTargetAddr, TargetAddr};

/// From the first packet to a connected socket; a proxy builds its circuits in this time, too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same through a proxy: Tor's circuits take longer.
const PROXY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects to a peer. With a proxy everything goes through it, so that nothing is said about this node's own address.
/// An isolated connection says a name of its own to the proxy: Tor builds a circuit for each name.
pub async fn connect(address: PeerAddress, proxy: Option<SocketAddr>, isolated: bool) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    match (proxy, address.socket()) {
        (None, Some(socket)) => timeout(CONNECT_TIMEOUT, TcpStream::connect(socket)).await.map_err(late)?,
        (None, None) => Err(io::Error::other("onion addresses need a proxy (--proxy)")),
        (Some(proxy), socket) => {
            let through = through(proxy, target(address, socket), isolated);
            let stream = timeout(PROXY_TIMEOUT, through).await.map_err(late)?;
            Ok(stream.map_err(|error| io::Error::other(format!("proxy {proxy}: {error}")))?.into_inner())
        }
    }
}

fn target(address: PeerAddress, socket: Option<SocketAddr>) -> TargetAddr<'static> {
    match (address.host, socket) {
        (NetAddress::Onion(_), _) | (_, None) => {
            let name = address.to_string();
            let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host).to_owned();
            TargetAddr::Domain(host.into(), address.port)
        }
        (_, Some(socket)) => TargetAddr::Ip(socket),
    }
}

async fn through(
    proxy: SocketAddr,
    target: impl IntoTargetAddr<'static>,
    isolated: bool,
) -> tokio_socks::Result<Socks5Stream<TcpStream>> {
    if isolated {
        let name = hex::encode(rand::random::<[u8; 16]>());
        Socks5Stream::connect_with_password(proxy, target, &name, &name).await
    } else {
        Socks5Stream::connect(proxy, target).await
    }
}
