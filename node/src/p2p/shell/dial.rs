//! Dialling: directly, or through a SOCKS5 proxy (which is how Tor is reached).

use crate::p2p::message::{NetAddress, PeerAddress};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_socks::tcp::Socks5Stream;

/// From the first packet to a connected socket; a proxy builds its circuits in this time, too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same through a proxy: Tor's circuits take longer.
const PROXY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects to a peer. With a proxy everything goes through it, so that nothing is said about this node's own address.
pub async fn connect(address: PeerAddress, proxy: Option<SocketAddr>) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    match (proxy, address.socket()) {
        (None, Some(socket)) => timeout(CONNECT_TIMEOUT, TcpStream::connect(socket)).await.map_err(late)?,
        (None, None) => Err(io::Error::other("onion addresses need a proxy (--proxy)")),
        (Some(proxy), _) => {
            let target = match (address.host, address.socket()) {
                (NetAddress::Onion(_), _) | (_, None) => {
                    let name = address.to_string();
                    let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host).to_owned();
                    timeout(PROXY_TIMEOUT, Socks5Stream::connect(proxy, (host, address.port))).await
                }
                (_, Some(socket)) => timeout(PROXY_TIMEOUT, Socks5Stream::connect(proxy, socket)).await,
            };
            let stream = target.map_err(late)?.map_err(|error| io::Error::other(format!("proxy {proxy}: {error}")))?;
            Ok(stream.into_inner())
        }
    }
}
