//! The HTTP layer in front of JSON-RPC: what Bitcoin Core's server does, so that its clients work unmodified, and what
//! keeps web pages out.
//!
//! ```text
//! request ─► address allowed? Host ours, no Origin? (403) ─► path (404) ─► POST or upgrade (405) ─► credentials (401)
//!         ─► body, bounded (413) ─► envelopes ─► whitelist (403) ─► dispatch (503 when full) ─► reply in its version
//! ```
//!
//! Any Content-Type is taken, because clients send every one and none; credentials are always needed, and a browser
//! sends `Origin` with whatever a page could forge. A WebSocket upgrade passes the same checks and goes on to the
//! inner service.

use super::auth::{Access, Caller};
use super::dispatch::{Dispatcher, may_call_all};
use super::envelope::{Request, Version, http_status, parse, write_reply};
use super::error::RpcError;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, UPGRADE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tower::{Layer, Service};

/// How long a wrong password is made to wait, as in Bitcoin Core: guessing becomes slow, mistyping does not.
const REFUSED_CREDENTIALS_DELAY: Duration = Duration::from_millis(250);
/// Bodies up to here are parsed on the connection's task; larger ones would hold up its neighbours.
const INLINE_BODY_BYTES_MAX: usize = 64 << 10;

/// Bodies above that size that are in memory at a time: they may be as large as two blocks each.
pub const LARGE_BODIES_MAX: usize = 32;

/// What every connection shares.
pub struct Gate {
    /// Credentials and addresses.
    pub access: Access,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Places for large bodies.
    pub large_bodies: Semaphore,
    /// How long a body may take.
    pub timeout: Duration,
    /// Runs calls.
    pub dispatcher: Arc<Dispatcher>,
}

/// Puts [`CompatService`] in front of a service that only sees WebSocket upgrades.
#[derive(Clone)]
pub struct CompatLayer {
    gate: Arc<Gate>,
    peer: IpAddr,
}

impl CompatLayer {
    /// For a connection from `peer`.
    pub fn new(gate: Arc<Gate>, peer: IpAddr) -> Self {
        Self { gate, peer }
    }
}

impl<S> Layer<S> for CompatLayer {
    type Service = CompatService<S>;

    fn layer(&self, inner: S) -> CompatService<S> {
        CompatService { gate: Arc::clone(&self.gate), peer: self.peer, inner }
    }
}

/// See the module's documentation.
#[derive(Clone)]
pub struct CompatService<S> {
    gate: Arc<Gate>,
    peer: IpAddr,
    inner: S,
}

impl<S> Service<HttpRequest<HttpBody>> for CompatService<S>
where
    S: Service<HttpRequest<HttpBody>, Response = HttpResponse<HttpBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = HttpResponse<HttpBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: HttpRequest<HttpBody>) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        let peer = self.peer;
        let mut inner = self.inner.clone();
        Box::pin(async move {
            let caller = match gate.admit(&request, peer) {
                Ok(caller) => caller,
                Err(Denial::Plain(status)) => return Ok(empty(status)),
                Err(Denial::Credentials { shown }) => {
                    if shown {
                        tracing::warn!(target: "rpc", %peer, "refused a wrong user or password");
                        tokio::time::sleep(REFUSED_CREDENTIALS_DELAY).await;
                    }
                    let mut response = empty(StatusCode::UNAUTHORIZED);
                    let realm = HeaderValue::from_static("Basic realm=\"jsonrpc\"");
                    response.headers_mut().insert(WWW_AUTHENTICATE, realm);
                    return Ok(response);
                }
            };
            if is_upgrade(&request) {
                request.extensions_mut().insert(caller);
                return inner.call(request).await;
            }
            Ok(gate.answer(request, caller).await)
        })
    }
}

enum Denial {
    Plain(StatusCode),
    Credentials { shown: bool },
}

fn is_upgrade<B>(request: &HttpRequest<B>) -> bool {
    request.headers().contains_key(UPGRADE)
}

fn empty(status: StatusCode) -> HttpResponse<HttpBody> {
    let mut response = Response::new(HttpBody::empty());
    *response.status_mut() = status;
    response
}

/// As Bitcoin Core says it: clients know the text.
fn busy() -> HttpResponse<HttpBody> {
    let mut response = Response::new(HttpBody::from("Work queue depth exceeded"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

fn json(status: u16, mut body: Vec<u8>) -> HttpResponse<HttpBody> {
    body.push(b'\n');
    let mut response = Response::new(HttpBody::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Exactly this: some clients compare it whole.
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refused_whole(error: RpcError) -> HttpResponse<HttpBody> {
    let outcome = Err(error);
    let mut out = Vec::new();
    write_reply(&mut out, Version::V1, Some("null"), &outcome);
    json(http_status(Version::V1, &outcome), out)
}

impl Gate {
    /// Everything that the head of a request decides.
    fn admit<B>(&self, request: &HttpRequest<B>, peer: IpAddr) -> Result<Caller, Denial> {
        let headers = request.headers();
        let mut hosts = headers.get_all(HOST).iter();
        // No browser leaves Host out; some minimal clients of HTTP/1.0 do.
        let host_fits = hosts.next().is_none_or(|host| host.to_str().is_ok_and(|host| self.access.allows_host(host)));
        let authority_fits =
            request.uri().authority().is_none_or(|authority| self.access.allows_host(authority.as_str()));
        let one_host = hosts.next().is_none();
        if !self.access.allows_ip(peer) || headers.contains_key(ORIGIN) || !host_fits || !one_host || !authority_fits {
            return Err(Denial::Plain(StatusCode::FORBIDDEN));
        }
        let path = request.uri().path();
        if path != "/" && !path.starts_with("/wallet/") {
            return Err(Denial::Plain(StatusCode::NOT_FOUND));
        }
        if request.method() != Method::POST && !(request.method() == Method::GET && is_upgrade(request)) {
            return Err(Denial::Plain(StatusCode::METHOD_NOT_ALLOWED));
        }
        let Some(authorization) = headers.get(AUTHORIZATION) else { return Err(Denial::Credentials { shown: false }) };
        self.access.authenticate(authorization.as_bytes()).ok_or(Denial::Credentials { shown: true })
    }

    async fn answer(self: Arc<Self>, request: HttpRequest<HttpBody>, caller: Caller) -> HttpResponse<HttpBody> {
        // A length that is stated is believed; one that is not is counted.
        if request.body().size_hint().lower() > u64::try_from(self.body_bytes_max).unwrap_or(u64::MAX) {
            return empty(StatusCode::PAYLOAD_TOO_LARGE);
        }
        // One whose length is not stated counts as large.
        let small = request.body().size_hint().upper().is_some_and(|most| most <= INLINE_BODY_BYTES_MAX as u64);
        let place = async { if small { None } else { self.large_bodies.acquire().await.ok() } };
        let Ok(_place) = tokio::time::timeout(self.timeout, place).await else { return busy() };
        let limited = Limited::new(request.into_body(), self.body_bytes_max);
        let body = match tokio::time::timeout(self.timeout, limited.collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return empty(StatusCode::PAYLOAD_TOO_LARGE),
            Ok(Err(_)) => return empty(StatusCode::BAD_REQUEST),
            Err(_) => return empty(StatusCode::REQUEST_TIMEOUT),
        };
        let read = if body.len() <= INLINE_BODY_BYTES_MAX {
            self.read(&body, &caller)
        } else {
            let this = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || this.read(&body, &caller)).await {
                Ok(read) => read,
                Err(_) => return empty(StatusCode::SERVICE_UNAVAILABLE),
            }
        };
        let answered = match read {
            Read::Answered(response) => return response,
            Read::Single { version, id, silent, call } => self.dispatcher.call(call).await.map(|outcome| {
                if silent { empty(StatusCode::NO_CONTENT) } else { single(version, id.as_deref(), &outcome) }
            }),
            Read::Batch(entries) => self.dispatcher.batch(entries).await.map(|out| match out {
                Some(out) => json(200, out),
                None => empty(StatusCode::NO_CONTENT),
            }),
        };
        answered.unwrap_or_else(|_| busy())
    }

    /// Everything between the body's bytes and running the calls.
    fn read(&self, body: &[u8], caller: &Caller) -> Read {
        match parse(body) {
            Err(error) => Read::Answered(refused_whole(error)),
            Ok(Request::Single(entry)) => {
                let (version, silent) = (entry.version, entry.is_notification());
                let id = entry.id.map(|id| id.get().into());
                if entry.call.is_ok() && !may_call_all(caller, [&entry]) {
                    return Read::Answered(empty(StatusCode::FORBIDDEN));
                }
                match entry.call.and_then(|call| self.dispatcher.prepare(&call.method, call.params)) {
                    Ok(call) => Read::Single { version, id, silent, call },
                    Err(_) if silent => Read::Answered(empty(StatusCode::NO_CONTENT)),
                    Err(error) => Read::Answered(single(version, id.as_deref(), &Err(error))),
                }
            }
            Ok(Request::Batch(entries)) if !may_call_all(caller, &entries) => {
                Read::Answered(empty(StatusCode::FORBIDDEN))
            }
            Ok(Request::Batch(entries)) => Read::Batch(self.dispatcher.prepare_all(entries)),
        }
    }
}

enum Read {
    Answered(HttpResponse<HttpBody>),
    Single { version: Version, id: Option<Box<str>>, silent: bool, call: super::dispatch::Prepared },
    Batch(Vec<super::dispatch::OwnedEntry>),
}

fn single(version: Version, id: Option<&str>, outcome: &super::envelope::Outcome) -> HttpResponse<HttpBody> {
    let length = outcome.as_ref().map_or(128, |result| result.get().len());
    let mut out = Vec::with_capacity(length.saturating_add(64));
    write_reply(&mut out, version, id, outcome);
    json(http_status(version, outcome), out)
}
