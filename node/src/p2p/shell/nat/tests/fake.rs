//! Routers of the tests: each has an address of its own on loopback, since PCP and NAT-PMP have one port only.

use super::*;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;

/// An address of 127.0.0.0/8 that no other test has, of this process or of one that runs at the same time.
pub fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 250, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// PCP's and NAT-PMP's.
const PORT_OF_BOTH: u16 = crab_nat::GATEWAY_PORT;

/// Datagrams in, datagrams out.
pub struct FakeRouter {
    gateway: Ipv4Addr,
    discovery: SocketAddrV4,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    asked: Arc<Notify>,
}

impl FakeRouter {
    /// One that answers PCP and NAT-PMP so, and no search.
    pub async fn answers(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let gateway = address();
        let socket = UdpSocket::bind((gateway, PORT_OF_BOTH)).await.unwrap();
        let discovery = SocketAddrV4::new(gateway, PORT_OF_BOTH + 1);
        let fake = Self { gateway, discovery, requests: Arc::default(), asked: Arc::default() };
        let (requests, asked) = (fake.requests.clone(), fake.asked.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 2_048];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                let answers = answer(&buffer[..length]);
                requests.lock().push(buffer[..length].to_vec());
                asked.notify_one();
                for answer in answers {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        fake
    }

    pub fn router(&self) -> Router {
        Router { gateway: self.gateway, own: Ipv4Addr::LOCALHOST, discovery: vec![self.discovery] }
    }

    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().clone()
    }

    /// Waits for a request.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }
}

/// What PCP answers when it grants a request: of no time, if none was asked for.
pub fn granted(request: &[u8], lifetime: u32, port: u16, outside: Ipv4Addr) -> Vec<u8> {
    let lifetime = if request[4..8] == [0; 4] { 0 } else { lifetime };
    let mut answer = vec![2, request[1] | 0x80, 0, 0];
    answer.extend(lifetime.to_be_bytes());
    answer.extend([0; 16]);
    // Nonce, protocol, the port inside.
    answer.extend(&request[24..42]);
    answer.extend(port.to_be_bytes());
    answer.extend(outside.to_ipv6_mapped().octets());
    answer
}

/// A router that knows version 0 alone, and grants what is asked.
pub fn nat_pmp_only(request: &[u8]) -> Vec<Vec<u8>> {
    let epoch = [0, 0, 0, 9];
    let answer = match request {
        [0, 0, ..] => [&[0, 128, 0, 0][..], &epoch, &OUTSIDE.octets()].concat(),
        [0, 2, _, _, inside_high, inside_low, outside @ ..] => {
            let (port, lifetime) = outside.split_at(2);
            [&[0, 130, 0, 0][..], &epoch, &[*inside_high, *inside_low], port, lifetime].concat()
        }
        _ => [&[0, request[1] | 0x80, 0, 1][..], &epoch].concat(),
    };
    vec![answer]
}

/// What a fake does with a connection.
#[derive(Clone)]
pub enum Reply {
    /// Answers so and hangs up.
    Bytes(String),
    /// Answers so, and then this again and again, as fast as it is read.
    Endless(String, &'static str),
    /// Sends this, and then that again and again, byte by byte and slowly.
    Drip(&'static str, &'static str),
    /// Says nothing.
    Silence,
}

impl Reply {
    /// An answer of this status.
    pub fn of(status: u16, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nContent-Type: text/xml\r\n\r\n{body}"))
    }

    async fn send(self, stream: &mut TcpStream) -> std::io::Result<()> {
        /// Slower than any deadline of ours lets the whole come in.
        const PAUSE: Duration = Duration::from_millis(20);
        match self {
            Self::Bytes(text) => stream.write_all(text.as_bytes()).await,
            Self::Endless(head, again) => {
                stream.write_all(head.as_bytes()).await?;
                loop {
                    stream.write_all(again.as_bytes()).await?;
                }
            }
            Self::Drip(head, again) => {
                for byte in head.bytes().chain(again.bytes().cycle()) {
                    stream.write_all(&[byte]).await?;
                    sleep(PAUSE).await;
                }
                Ok(())
            }
            Self::Silence => loop {
                let mut buffer = [0; 64];
                if stream.read(&mut buffer).await? == 0 {
                    return Ok(());
                }
            },
        }
    }
}

/// A UPnP router: a search is answered by `found`, a request over HTTP by `reply`.
pub struct FakeIgd {
    gateway: Ipv4Addr,
    discovery: SocketAddrV4,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeIgd {
    /// `found` is given the place of the HTTP server, and gives the answers to a search.
    pub async fn new(
        found: impl Fn(SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
        reply: impl Fn(SocketAddr, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let gateway = address();
        let search = UdpSocket::bind((gateway, 0)).await.unwrap();
        let server = TcpListener::bind((gateway, 0)).await.unwrap();
        let at = server.local_addr().unwrap();
        let SocketAddr::V4(discovery) = search.local_addr().unwrap() else { unreachable!("bound to IPv4") };
        tokio::spawn(async move {
            let mut buffer = [0; 2_048];
            loop {
                let Ok((_, from)) = search.recv_from(&mut buffer).await else { continue };
                for answer in found(at) {
                    let _ = search.send_to(&answer, from).await;
                }
            }
        });
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, reply) = (requests.clone(), Arc::new(reply));
        tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = server.accept().await else { continue };
                let (seen, reply) = (seen.clone(), reply.clone());
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await?;
                    let reply = reply(at, &request);
                    seen.lock().push(request);
                    reply.send(&mut stream).await
                });
            }
        });
        Self { gateway, discovery, requests }
    }

    pub fn router(&self) -> Router {
        Router { gateway: self.gateway, own: Ipv4Addr::LOCALHOST, discovery: vec![self.discovery] }
    }

    /// What was asked over HTTP.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }
}

/// A whole request, head and body.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4_096];
        let length = stream.read(&mut buffer).await?;
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lengths = head
            .lines()
            .filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let expected: usize = lengths.into_iter().next().unwrap_or(0);
        if body.len() >= expected || length == 0 {
            return Ok(text);
        }
    }
}
