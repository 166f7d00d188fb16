//! Dialling: directly, or through a SOCKS5 proxy (which is how Tor is reached).

use crate::p2p::message::{NetAddress, PeerAddress};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_socks::TargetAddr;
use tokio_socks::tcp::Socks5Stream;

/// From the first packet to a connected socket; a proxy builds its circuits in this time, too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same through a proxy: Tor's circuits take longer.
const PROXY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects to a peer. With a proxy everything goes through it, so that nothing is said about this node's own address.
/// An isolated connection says a name of its own to the proxy: Tor builds a circuit for each name.
pub async fn connect(address: PeerAddress, proxy: Option<SocketAddr>, isolated: bool) -> io::Result<TcpStream> {
    match (proxy, address.socket()) {
        (None, Some(socket)) => timeout(CONNECT_TIMEOUT, TcpStream::connect(socket)).await.map_err(late)?,
        (None, None) => Err(io::Error::other("onion addresses need a proxy (--proxy)")),
        (Some(proxy), _) => through(proxy, address, isolated, PROXY_TIMEOUT).await,
    }
}

/// By a proxy, which may be as hostile as a peer (TH12): `tokio-socks` reads its answers into 513 bytes, exactly as many of
/// them as the answer says, at most 262; how slowly they may come is bounded here.
async fn through(proxy: SocketAddr, address: PeerAddress, isolated: bool, patience: Duration) -> io::Result<TcpStream> {
    let target = match (address.host, address.socket()) {
        (NetAddress::Onion(_), _) | (_, None) => {
            let name = address.to_string();
            let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host).to_owned();
            TargetAddr::Domain(host.into(), address.port)
        }
        (_, Some(socket)) => TargetAddr::Ip(socket),
    };
    let dialled = async {
        if isolated {
            let name = hex::encode(rand::random::<[u8; 16]>());
            Socks5Stream::connect_with_password(proxy, target, &name, &name).await
        } else {
            Socks5Stream::connect(proxy, target).await
        }
    };
    let stream = timeout(patience, dialled).await.map_err(late)?;
    let stream = stream.map_err(|error| io::Error::other(format!("proxy {proxy}: {error}")))?;
    Ok(stream.into_inner())
}

fn late(_: Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no connection in time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Enough for a whole answer on loopback, byte by byte.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// Not enough for anything that is dripped.
    const SHORT: Duration = Duration::from_millis(300);
    const PAUSE: Duration = Duration::from_millis(5);
    /// No method needs a password; connected, at 0.0.0.0:0.
    const GREETING: [u8; 2] = [5, 0];
    const CONNECTED: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

    /// What a proxy says to the greeting and to the request, and how.
    struct Says {
        greeting: Vec<u8>,
        reply: Vec<u8>,
        byte_by_byte: bool,
        hangs_up: bool,
    }

    impl Says {
        fn new(greeting: &[u8], reply: &[u8]) -> Self {
            Self { greeting: greeting.to_vec(), reply: reply.to_vec(), byte_by_byte: false, hangs_up: true }
        }

        async fn send(&self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
            for chunk in bytes.chunks(if self.byte_by_byte { 1 } else { usize::MAX }) {
                stream.write_all(chunk).await?;
                if self.byte_by_byte {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Ok(())
        }

        /// Dials through such a proxy: what came of it, the connection's first bytes, and the request that the proxy saw.
        async fn dial(self, to: PeerAddress, patience: Duration) -> (io::Result<Vec<u8>>, Vec<u8>) {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let proxy = listener.local_addr().unwrap();
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (mut hello, mut request) = ([0; 3], vec![0; 512]);
                stream.read_exact(&mut hello).await.unwrap();
                assert_eq!(hello, [5, 1, 0], "version 5, one method, no password");
                let _ = self.send(&mut stream, &self.greeting).await;
                let length = if self.greeting == GREETING { stream.read(&mut request).await.unwrap_or(0) } else { 0 };
                request.truncate(length);
                let _ = self.send(&mut stream, &self.reply).await;
                if !self.hangs_up {
                    // Until the other side does.
                    let _ = stream.read(&mut [0; 1]).await;
                }
                request
            });
            let dialled = async {
                let mut stream = through(proxy, to, false, patience).await?;
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await?;
                Ok(rest)
            };
            let result = dialled.await;
            (result, served.await.unwrap())
        }
    }

    fn peer() -> PeerAddress {
        PeerAddress { host: NetAddress::V4(Ipv4Addr::new(11, 1, 2, 3)), port: 19_740 }
    }

    fn domain(length: u8) -> Vec<u8> {
        [&[5, 0, 0, 3, length][..], &vec![b'a'; length.into()], &[0, 0]].concat()
    }

    /// TH12. Whatever name a proxy says it dialled from, it is read to its end and no further (CVE-2017-18350 was the length
    /// of that name taken as a signed number), byte by byte too.
    #[tokio::test]
    async fn th12_socks_replies_are_read_to_their_end_and_no_further() {
        let ipv6 = [&[5, 0, 0, 4][..], &[0; 18]].concat();
        for reply in [CONNECTED.to_vec(), ipv6, domain(0), domain(1), domain(127), domain(128), domain(255)] {
            for byte_by_byte in [false, true] {
                let reply = [&reply[..], b"peer"].concat();
                let says = Says { byte_by_byte, ..Says::new(&GREETING, &reply) };
                let (result, request) = says.dial(peer(), PATIENCE).await;
                assert_eq!(result.unwrap(), b"peer", "{reply:?}");
                assert_eq!(request, [5, 1, 0, 1, 11, 1, 2, 3, 0x4d, 0x1c]);
            }
        }
        let onion = PeerAddress { host: NetAddress::Onion([7; 32]), port: 19_740 };
        let (result, request) = Says::new(&GREETING, &CONNECTED).dial(onion, PATIENCE).await;
        assert_eq!(result.unwrap(), b"");
        assert_eq!((&request[..5], request.len()), (&[5, 1, 0, 3, 62][..], 5 + 62 + 2), "an onion name goes as it is");
    }

    /// TH12. Wrong versions, methods and types, refusals, and answers that end too early are errors that name the proxy.
    #[tokio::test]
    async fn th12_socks_answers_that_are_wrong_are_errors() {
        let mut rows: Vec<Says> = Vec::new();
        for greeting in [&[][..], &[5], &[4, 0], &[5, 1], &[5, 2], &[5, 0xff], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            rows.push(Says::new(greeting, &[]));
        }
        for (at, byte) in [(0, 4), (1, 1), (1, 5), (1, 8), (1, 200), (2, 1), (3, 0), (3, 2), (3, 9)] {
            let mut reply = CONNECTED;
            reply[at] = byte;
            rows.push(Says::new(&GREETING, &reply));
        }
        for whole in [CONNECTED.to_vec(), domain(255)] {
            rows.extend((0..whole.len()).map(|length| Says::new(&GREETING, &whole[..length])));
        }
        for says in rows {
            let what = (says.greeting.clone(), says.reply.clone());
            let (result, _) = says.dial(peer(), PATIENCE).await;
            let error = result.map(|_| ()).unwrap_err();
            assert!(error.to_string().starts_with("proxy 127.0.0.1:"), "{what:?}: {error}");
        }
    }

    /// MP12. Each isolated connection has a name of its own, in SOCKS's own way (RFC 1929).
    #[tokio::test]
    async fn mp12_isolated_connections_have_names_of_their_own() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let mut names = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut hello = [0; 4];
                stream.read_exact(&mut hello).await.unwrap();
                assert_eq!((hello[..2].to_vec(), hello[2..].contains(&2)), (vec![5, 2], true), "a password is offered");
                stream.write_all(&[5, 2]).await.unwrap();
                let mut name = vec![0; 2 + 32 + 1 + 32];
                stream.read_exact(&mut name).await.unwrap();
                assert_eq!((name[..2].to_vec(), name[34]), (vec![1, 32], 32));
                stream.write_all(&[1, 0]).await.unwrap();
                let mut request = [0; 10];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(&CONNECTED).await.unwrap();
                names.push(name[2..34].to_vec());
            }
            names
        });
        for _ in 0..2 {
            drop(through(proxy, peer(), true, PATIENCE).await.unwrap());
        }
        let names = served.await.unwrap();
        assert_ne!(names[0], names[1]);
    }

    /// TH12. A proxy that is silent, or slow without end, costs a dial and its deadline.
    #[tokio::test]
    async fn th12_socks_has_a_deadline() {
        let silent = |greeting: &[u8], reply: &[u8]| Says { hangs_up: false, ..Says::new(greeting, reply) };
        let slow = Says { byte_by_byte: true, ..silent(&GREETING, &domain(255)) };
        for says in
            [silent(&[], &[]), silent(&[5], &[]), silent(&GREETING, &[]), silent(&GREETING, &CONNECTED[..9]), slow]
        {
            let what = (says.greeting.clone(), says.reply.len());
            let (result, _) = tokio::time::timeout(PATIENCE, says.dial(peer(), SHORT)).await.expect("it ends");
            assert_eq!(result.map(|_| ()).unwrap_err().kind(), io::ErrorKind::TimedOut, "{what:?}");
        }
    }
}
