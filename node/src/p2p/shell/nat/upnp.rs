//! Mappings by UPnP (an Internet Gateway Device): a search by datagram, one description, and a few calls over HTTP.
//!
//! A router's answer is as hostile as a peer's (TH12): CVE-2015-20111 was a name too long for its buffer, CVE-2024-52917 a
//! description without an end, and any host of the local network may answer a search. So only the router's own address is
//! listened to and called; every answer has a greatest size, every exchange a deadline; redirects are not followed; nothing
//! that was received is logged. Of the XML, a few texts are picked out ([`super::xml`]); no tree is built.

use super::xml::{Pieces, text_of};
use super::{LIFETIME, Router};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rand::RngExt;
use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

/// How long answers to a search are waited for: it asks for them within two seconds (`MX`).
const SEARCH_WAIT: Duration = Duration::from_secs(3);
/// Datagrams that are looked at in that time, whoever sent them: a whole network of devices answers with fewer.
const DATAGRAMS_MAX: usize = 256;
/// Bytes of one: an Ethernet frame's, as the standard has it.
const DATAGRAM_BYTES_MAX: usize = 1_500;
/// Descriptions that are fetched: a router has one, some name it by several addresses.
const DESCRIPTIONS_MAX: usize = 3;
/// One exchange over HTTP, from dialling to the last byte; on a local network it takes milliseconds.
const HTTP_DEADLINE: Duration = Duration::from_secs(3);
/// The head of an answer; the least that hyper allows.
const HEAD_BYTES_MAX: usize = 8_192;
/// Lines of it.
const HEAD_LINES_MAX: usize = 64;
/// The body of an answer: descriptions have 2 to 20 kB.
const BODY_BYTES_MAX: usize = 1 << 16;
/// A path in a URL of the router.
const PATH_BYTES_MAX: usize = 512;
/// Ports that are tried when others hold the ones before.
const ADDS_MAX: usize = 4;

/// What is searched for: either answers with the same description.
const SEARCHED: [&str; 3] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "upnp:rootdevice",
];
/// Services that forward ports.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// `ConflictInMappingEntry`: another machine has this port.
const CONFLICT: u16 = 718;
/// `OnlyPermanentLeasesSupported`: an old router, whose mappings last until they are deleted.
const ONLY_PERMANENT: u16 = 725;
/// What a router's list of mappings shows.
const DESCRIPTION: &str = "Setara";

/// Why there is no mapping. Nothing of it was received, so that it can be logged.
#[derive(Debug, thiserror::Error)]
pub enum UpnpError {
    /// Nobody, or nobody but others.
    #[error("the router answers no search")]
    Silent,
    /// No connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not HTTP.
    #[error("not HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// An answer that takes too long.
    #[error("no whole answer within {} s", HTTP_DEADLINE.as_secs())]
    Late,
    /// An answer without an end.
    #[error("an answer of more than {BODY_BYTES_MAX} bytes")]
    TooLong,
    /// An HTTP status: redirects among others.
    #[error("HTTP status {0}")]
    Status(u16),
    /// A URL of another host, or none that could be one of the router's.
    #[error("it sends us to a URL that is not its own")]
    Elsewhere,
    /// A description without a service that forwards ports.
    #[error("its description names no service that forwards ports")]
    NoService,
    /// A call's answer that is none.
    #[error("an answer to {0} that makes no sense")]
    Nonsense(&'static str),
    /// The router refuses.
    #[error("the router refuses with UPnP error {0}")]
    Refused(u16),
}

/// A place on the router.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    address: SocketAddrV4,
    path: String,
}

impl Place {
    /// A URL, if it is one of the router's.
    fn absolute(url: &str, gateway: Ipv4Addr) -> Result<Self, UpnpError> {
        let rest = url.strip_prefix("http://").ok_or(UpnpError::Elsewhere)?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let standard = |host: Ipv4Addr| SocketAddrV4::new(host, 80);
        let address = host.parse().ok().or_else(|| host.parse().ok().map(standard)).ok_or(UpnpError::Elsewhere)?;
        Self { address, path: path.to_owned() }.checked(gateway)
    }

    /// A reference out of the description that lies here.
    fn relative(&self, reference: &str) -> Result<Self, UpnpError> {
        if reference.contains("://") {
            return Self::absolute(reference, *self.address.ip());
        }
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = if reference.starts_with('/') { reference.to_owned() } else { format!("{folder}/{reference}") };
        Self { address: self.address, path }.checked(*self.address.ip())
    }

    fn checked(self, gateway: Ipv4Addr) -> Result<Self, UpnpError> {
        let plain = self.path.len() <= PATH_BYTES_MAX && self.path.bytes().all(|byte| byte.is_ascii_graphic());
        let ours = *self.address.ip() == gateway && self.address.port() != 0;
        if plain && ours { Ok(self) } else { Err(UpnpError::Elsewhere) }
    }
}

/// A router's service that forwards ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    place: Place,
    kind: &'static str,
}

/// Finds the router's service.
pub async fn find(router: &Router) -> Result<Service, UpnpError> {
    let socket = UdpSocket::bind((router.own, 0)).await?;
    let mut sent = Err(UpnpError::Silent);
    for to in &router.discovery {
        for what in SEARCHED {
            let search =
                format!("M-SEARCH * HTTP/1.1\r\nHOST: {to}\r\nMAN: \"ssdp:discover\"\r\nMX: 2\r\nST: {what}\r\n\r\n");
            match socket.send_to(search.as_bytes(), to).await {
                Ok(_) => sent = Ok(()),
                Err(error) => sent = sent.or(Err(error.into())),
            }
        }
    }
    sent?;
    let (mut buffer, mut fetched, mut failure) = ([0; DATAGRAM_BYTES_MAX], BTreeSet::new(), UpnpError::Silent);
    let mut over = pin!(sleep(SEARCH_WAIT));
    for _ in 0..DATAGRAMS_MAX {
        let received = tokio::select! {
            biased;
            () = &mut over => break,
            received = socket.recv_from(&mut buffer) => received,
        };
        // Others may answer as well: devices that are no router, and whoever would like to be taken for one.
        let Ok((length, from)) = received else { continue };
        if from.ip() != IpAddr::V4(router.gateway) {
            continue;
        }
        let described = match location(&buffer[..length], router.gateway) {
            Ok(place) if fetched.len() < DESCRIPTIONS_MAX && fetched.insert(place.clone()) => describe(place).await,
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match described {
            Ok(service) => return Ok(service),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Where an answer to a search says that the description lies.
fn location(answer: &[u8], gateway: Ipv4Addr) -> Result<Place, UpnpError> {
    let text = std::str::from_utf8(answer).map_err(|_| UpnpError::Nonsense("the search"))?;
    let headers = text.lines().filter_map(|line| line.split_once(':'));
    let url = headers.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("location"));
    Place::absolute(url.ok_or(UpnpError::Nonsense("the search"))?.1.trim(), gateway)
}

/// Reads a description.
async fn describe(place: Place) -> Result<Service, UpnpError> {
    let request = hyper::Request::get(&place.path).body(Full::default());
    let (status, text) = exchange(place.address, request).await?;
    if status != 200 {
        return Err(UpnpError::Status(status));
    }
    let (mut base, mut kind, mut control) = (place.clone(), None, None);
    for piece in Pieces::new(&text) {
        match (piece.name, piece.text) {
            ("URLBase", Some(url)) => base = Place::absolute(url, *place.address.ip())?,
            ("serviceType", Some(text)) => kind = SERVICES.into_iter().find(|service| *service == text),
            ("controlURL", Some(text)) => control = Some(text.replace("&amp;", "&")),
            ("service", _) => match (kind.take(), control.take()) {
                (Some(kind), Some(control)) => return Ok(Service { place: base.relative(&control)?, kind }),
                _ => continue,
            },
            _ => {}
        }
    }
    Err(UpnpError::NoService)
}

/// One exchange with the router, within its deadline: the status and the body.
async fn exchange(
    address: SocketAddrV4,
    request: http::Result<hyper::Request<Full<Bytes>>>,
) -> Result<(u16, String), UpnpError> {
    let mut request = request.map_err(|_| UpnpError::Elsewhere)?;
    let host = address.to_string().parse().map_err(|_| UpnpError::Elsewhere)?;
    request.headers_mut().insert(http::header::HOST, host);
    let exchanged = async {
        let stream = TcpStream::connect(SocketAddr::V4(address)).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEAD_LINES_MAX);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let (head, mut body) = sender.send_request(request).await?.into_parts();
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                bytes.extend(frame?.into_data().unwrap_or_default());
                if bytes.len() > BODY_BYTES_MAX {
                    return Err(UpnpError::TooLong);
                }
            }
            Ok((head.status.as_u16(), String::from_utf8_lossy(&bytes).into_owned()))
        };
        tokio::select! {
            answer = answer => answer,
            // It only moves the bytes; how it ends is seen by whoever waits for the answer.
            never = async { drop(connection.await); pending().await } => never,
        }
    };
    timeout(HTTP_DEADLINE, exchanged).await.unwrap_or(Err(UpnpError::Late))
}

impl Service {
    /// Maps a port, or renews a mapping of ours: where others reach this node, and whether the mapping ends by itself.
    pub async fn map(&self, own: SocketAddrV4, wished: u16) -> Result<SocketAddrV4, UpnpError> {
        let address = self.external_address().await?;
        let (mut port, mut seconds) = (wished, LIFETIME.as_secs());
        for _ in 0..ADDS_MAX {
            match self.add(own, port, seconds).await {
                Ok(()) => return Ok(SocketAddrV4::new(address, port)),
                Err(UpnpError::Refused(ONLY_PERMANENT)) if seconds != 0 => seconds = 0,
                // The dynamic ports of RFC 6335: nobody has them for a service of his own.
                Err(UpnpError::Refused(CONFLICT)) => port = rand::rng().random_range(49_152..=u16::MAX),
                Err(error) => return Err(error),
            }
        }
        Err(UpnpError::Refused(CONFLICT))
    }

    /// Ends a mapping.
    pub async fn unmap(&self, external: u16) -> Result<(), UpnpError> {
        let external = external.to_string();
        let arguments = [("NewRemoteHost", ""), ("NewExternalPort", &external), ("NewProtocol", "TCP")];
        self.call("DeletePortMapping", &arguments).await.map(drop)
    }

    async fn external_address(&self) -> Result<Ipv4Addr, UpnpError> {
        let action = "GetExternalIPAddress";
        let answer = self.call(action, &[]).await?;
        let address = text_of(&answer, "NewExternalIPAddress").and_then(|text| text.parse().ok());
        address.ok_or(UpnpError::Nonsense(action))
    }

    async fn add(&self, own: SocketAddrV4, external: u16, seconds: u64) -> Result<(), UpnpError> {
        let arguments = [
            ("NewRemoteHost", ""),
            ("NewExternalPort", &external.to_string()),
            ("NewProtocol", "TCP"),
            ("NewInternalPort", &own.port().to_string()),
            ("NewInternalClient", &own.ip().to_string()),
            ("NewEnabled", "1"),
            ("NewPortMappingDescription", DESCRIPTION),
            ("NewLeaseDuration", &seconds.to_string()),
        ];
        self.call("AddPortMapping", &arguments).await.map(drop)
    }

    /// A call by SOAP. Arguments are numbers, addresses and names of ours: there is nothing in them to escape.
    async fn call(&self, action: &'static str, arguments: &[(&str, &str)]) -> Result<String, UpnpError> {
        let kind = self.kind;
        let arguments: String = arguments.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{kind}\">\
             {arguments}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        let request = hyper::Request::post(&self.place.path)
            .header(http::header::CONTENT_TYPE, "text/xml; charset=\"utf-8\"")
            .header("SOAPAction", format!("\"{kind}#{action}\""))
            .body(Full::from(body));
        let (status, answer) = exchange(self.place.address, request).await?;
        match status {
            200 if answer.contains(&format!("{action}Response")) => Ok(answer),
            200 => Err(UpnpError::Nonsense(action)),
            status => {
                let code = text_of(&answer, "errorCode").and_then(|text| text.parse().ok());
                Err(code.map_or(UpnpError::Status(status), UpnpError::Refused))
            }
        }
    }
}
