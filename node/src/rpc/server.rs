//! The RPC server: binds, accepts, bounds what a connection may cost, and stops cleanly.
//!
//! ```text
//! bind ─► cookie ─► accept ─► hyper HTTP/1.1 ─► CompatLayer ─► Dispatcher
//!                                                  └─ upgrade ─► jsonrpsee (WebSocket) ─► Dispatcher
//! ```
//!
//! It starts before the database is opened and says -28 until [`RpcServer::ready`]. hyper is driven here and not by
//! jsonrpsee's own listener, which knows neither the caller's address nor limits for headers, idle connections or
//! readers that stall. The configured timeout holds for a head, for idling between requests, for a body, and for a reader
//! that takes nothing; connections beyond the configured number are closed at once.

use super::auth::{Access, AccessError, Caller, Cookie};
use super::compat::{CompatLayer, Gate, LARGE_BODIES_MAX};
use super::context::RpcContext;
use super::dispatch::{Dispatcher, RESPONSE_BYTES_MAX};
use super::envelope::BATCH_CALLS_MAX;
use super::error::RpcError;
use super::logs::LogControl;
use super::stall::StallGuard;
use crate::clock::Clock;
use crate::config::RpcConfig;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use jsonrpsee::RpcModule;
use jsonrpsee::core::BoxError;
use jsonrpsee::server::{BatchRequestConfig, HttpBody, HttpRequest, PingConfig, Server, ServerConfig, stop_channel};
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::value::RawValue;
use setara_api::error::ErrorCode;
use setara_api::registry;
use setara_core::network::Network;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Layer;

/// WebSocket connections at a time: they last.
const WEBSOCKETS_MAX: u32 = 100;
/// Bytes of a request's line and headers, as in Bitcoin Core.
pub const HEADER_BYTES_MAX: usize = 8_192;
/// How long answers in progress may take once the node stops; the whole node has ten seconds.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Pause after the system refuses a connection (out of files, say): spinning would not help.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken or not ours; another program may be squatting on it.
    #[error("cannot listen for RPC on {address}: {error}")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        error: std::io::Error,
    },
    /// Listening beyond this machine without saying who may call.
    #[error("RPC on {0} would be open to the network: also say who may call (rpc-allow-ip)")]
    Exposed(SocketAddr),
    /// The cookie could not be written.
    #[error("cannot write the RPC cookie {path}: {error}")]
    Cookie {
        /// Where.
        path: PathBuf,
        /// From the system.
        error: std::io::Error,
    },
    /// A setting about access is wrong.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Bytes of a request's body: the largest block in hex, and its envelope.
pub fn body_bytes_max(network: &Network) -> usize {
    let bytes = network.max_block_bytes.saturating_mul(2).saturating_add(1 << 20);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A running server.
pub struct RpcServer {
    dispatcher: Arc<Dispatcher>,
    address: SocketAddr,
    cookie: Cookie,
    stop: CancellationToken,
    accepting: tokio::task::JoinHandle<()>,
}

impl RpcServer {
    /// Binds, writes the cookie to `cookie`, and answers (-28 until [`Self::ready`]). `shutdown` is what the `stop`
    /// method cancels.
    pub async fn start(
        config: &RpcConfig,
        cookie: &Path,
        network: &Network,
        clock: Arc<dyn Clock>,
        logging: LogControl,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        if !config.listen.ip().to_canonical().is_loopback() && config.allow_ip.is_empty() {
            return Err(StartError::Exposed(config.listen));
        }
        let bind = |error| StartError::Bind { address: config.listen, error };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let cookie = Cookie::create(cookie).map_err(|error| StartError::Cookie { path: cookie.to_owned(), error })?;
        let dispatcher = Arc::new(Dispatcher::new(config, network.is_fixed(), clock, logging, shutdown));
        let gate = Gate {
            access: Access::new(config, &cookie)?,
            body_bytes_max: body_bytes_max(network),
            large_bodies: Semaphore::new(LARGE_BODIES_MAX),
            timeout: config.timeout,
            dispatcher: Arc::clone(&dispatcher),
        };
        let stop = CancellationToken::new();
        let connections_max = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
        let accepting = tokio::spawn(accept(listener, Arc::new(gate), connections_max, stop.clone()));
        Ok(Self { dispatcher, address, cookie, stop, accepting })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Says what the node is loading.
    pub fn loading(&self, what: impl Into<String>) {
        self.dispatcher.loading(what);
    }

    /// From now on calls reach the chain.
    pub fn ready(&self, context: RpcContext) {
        self.dispatcher.ready(Arc::new(context));
    }

    /// Accepts nothing more, lets answers in progress finish for a moment, removes the cookie.
    pub async fn stop(self) {
        self.stop.cancel();
        // Waiters of long polls go at once; they watch this token.
        self.dispatcher.shutdown.cancel();
        let _ = self.accepting.await;
        drop(self.cookie);
    }
}

/// jsonrpsee's view of the methods: raw ones, each handing over to the dispatcher.
fn module(gate: &Arc<Gate>) -> RpcModule<Arc<Gate>> {
    let mut module = RpcModule::new(Arc::clone(gate));
    for method in registry::methods() {
        module
            .register_async_method(method.name, move |params, gate, extensions| async move {
                let failed = |error: RpcError| {
                    let code = i32::try_from(error.code).unwrap_or(-32603);
                    ErrorObjectOwned::owned(code, error.message, None::<()>)
                };
                let allowed = extensions.get::<Caller>().is_some_and(|caller| caller.may_call(method.name));
                if !allowed {
                    return Err(failed(RpcError::new(ErrorCode::METHOD_NOT_FOUND, "Not allowed for this user")));
                }
                let params: Option<Box<RawValue>> =
                    params.as_str().and_then(|params| RawValue::from_string(params.to_owned()).ok());
                let call = gate.dispatcher.prepare(method.name, params.as_deref()).map_err(failed)?;
                let busy = |_| failed(RpcError::new(ErrorCode::LIMIT_EXCEEDED, "Work queue depth exceeded"));
                gate.dispatcher.call(call).await.map_err(busy)?.map_err(failed)
            })
            .expect("the registry's names are distinct: a test says so");
    }
    module
}

async fn accept(listener: TcpListener, gate: Arc<Gate>, connections_max: usize, stop: CancellationToken) {
    let body_bytes = u32::try_from(gate.body_bytes_max).unwrap_or(u32::MAX);
    let config = ServerConfig::builder()
        .ws_only()
        .max_request_body_size(body_bytes)
        .max_response_body_size(u32::try_from(RESPONSE_BYTES_MAX).unwrap_or(u32::MAX))
        .max_connections(WEBSOCKETS_MAX)
        .set_batch_request_config(BatchRequestConfig::Limit(u32::try_from(BATCH_CALLS_MAX).unwrap_or(u32::MAX)))
        .enable_ws_ping(PingConfig::new())
        .build();
    let websockets = Server::builder().set_config(config).to_service_builder();
    let methods: jsonrpsee::server::Methods = module(&gate).into();
    let (stop_handle, server_handle) = stop_channel();
    let places = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(target: "rpc", %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
            // Finished connections are reaped as they end, not only when the next one comes.
            Some(_) = connections.join_next() => continue,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(target: "rpc", %peer, "too many connections");
            continue;
        };
        let inner = websockets.clone().build(methods.clone(), stop_handle.clone());
        let service = CompatLayer::new(Arc::clone(&gate), peer.ip()).layer(inner);
        let (timeout, stop) = (gate.timeout, stop.clone());
        connections.spawn(async move {
            serve(stream, service, timeout, stop).await;
            drop(place);
        });
    }
    drop(listener);
    let _ = server_handle.stop();
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, finish).await.is_err() {
        tracing::debug!(target: "rpc", "abandoning connections that did not finish in time");
    }
}

async fn serve<S>(stream: TcpStream, service: S, timeout: Duration, stop: CancellationToken)
where
    S: tower::Service<HttpRequest<HttpBody>, Response = jsonrpsee::server::HttpResponse<HttpBody>, Error = BoxError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    // Answers are written whole; waiting to coalesce them only adds delay.
    let _ = stream.set_nodelay(true);
    let service = tower::service_fn(move |request: HttpRequest<hyper::body::Incoming>| {
        tower::ServiceExt::oneshot(service.clone(), request.map(HttpBody::new))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_header_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(StallGuard::new(stream, timeout)), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(target: "rpc", %error, "a connection ended early");
    }
}
