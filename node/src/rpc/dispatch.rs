//! From a call to its outcome: finds the handler, waits for a worker, runs it, and survives whatever it does.
//!
//! ```text
//! Control  needs no chain: answered while the node loads         ┐ on the connection's own task
//! Quick    microseconds, in memory                               ┘
//! Work     reads the store or verifies: on a worker; so many requests may wait for one, the next is refused
//! Wait     sleeps until something happens, holding nothing; then Work
//! ```
//!
//! A batch is one request: its calls run in order on one worker. Until the node has loaded, every method that needs
//! the chain answers -28 with what is being loaded.

use super::args::Args;
use super::auth::Caller;
use super::context::RpcContext;
use super::envelope::{Entry, Outcome, Version, write_reply};
use super::error::RpcError;
use super::logs::LogControl;
use super::methods;
use crate::clock::Clock;
use crate::config::RpcConfig;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use setara_api::error::ErrorCode;
use setara_api::registry::{self, Method};
use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Bytes of one answer, a batch's in all: what a client can be expected to take, and memory that a request can claim.
pub const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// A future that a handler waits for.
pub type Waiting = Pin<Box<dyn Future<Output = Result<(), RpcError>> + Send>>;

/// How a method is answered.
#[derive(Clone, Copy)]
pub enum Handler {
    /// From the server's own state.
    Control(fn(&Dispatcher, &Args) -> Outcome),
    /// At once.
    Quick(fn(&RpcContext, &Args) -> Outcome),
    /// On a worker.
    Work(fn(&RpcContext, &Args) -> Outcome),
    /// First waits, holding no worker; then on a worker.
    Wait(fn(Arc<RpcContext>, Args) -> Waiting, fn(&RpcContext, &Args) -> Outcome),
}

/// Why a request is not even tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many are waiting.
    QueueFull,
}

/// A call that is ready to run.
pub struct Prepared {
    method: &'static Method,
    handler: Handler,
    args: Args,
}

/// A batch's entry that owns what it needs.
pub struct OwnedEntry {
    version: Version,
    id: Option<Box<RawValue>>,
    call: Result<Prepared, RpcError>,
}

/// Runs calls.
pub struct Dispatcher {
    handlers: HashMap<&'static str, (&'static Method, Handler)>,
    context: OnceLock<Arc<RpcContext>>,
    loading: Mutex<String>,
    active: Mutex<BTreeMap<u64, (&'static str, Duration)>>,
    next_active: AtomicU64,
    workers: Arc<Semaphore>,
    queued: AtomicUsize,
    queued_max: usize,
    started: Duration,
    /// Whether blocks may be made at will.
    pub fixed_difficulty: bool,
    /// What is logged.
    pub logging: LogControl,
    /// Time, for durations.
    pub clock: Arc<dyn Clock>,
    /// Cancelled when the node is to stop.
    pub shutdown: CancellationToken,
}

impl Dispatcher {
    /// With every method of the registry; the chain comes later ([`Self::ready`]).
    pub fn new(
        config: &RpcConfig,
        fixed_difficulty: bool,
        clock: Arc<dyn Clock>,
        logging: LogControl,
        shutdown: CancellationToken,
    ) -> Self {
        let handlers = registry::methods()
            .map(|method| {
                let handler =
                    methods::handler(method.name).expect("a test holds the registry and the handlers together");
                (method.name, (method, handler))
            })
            .collect();
        Self {
            handlers,
            context: OnceLock::new(),
            loading: Mutex::new("Loading block index…".to_owned()),
            active: Mutex::new(BTreeMap::new()),
            next_active: AtomicU64::new(0),
            workers: Arc::new(Semaphore::new(config.threads)),
            queued: AtomicUsize::new(0),
            queued_max: config.threads.saturating_add(config.work_queue),
            logging,
            started: clock.monotonic(),
            fixed_difficulty,
            clock,
            shutdown,
        }
    }

    /// Says what the node is doing until it is ready.
    pub fn loading(&self, what: impl Into<String>) {
        *self.loading.lock() = what.into();
    }

    /// From now on calls reach the chain. Only the first context counts.
    pub fn ready(&self, context: Arc<RpcContext>) {
        let _ = self.context.set(context);
    }

    /// Seconds since the start.
    pub fn uptime(&self) -> u64 {
        self.clock.monotonic().saturating_sub(self.started).as_secs()
    }

    /// Calls being answered: method and time so far.
    pub fn active(&self) -> Vec<(&'static str, Duration)> {
        let now = self.clock.monotonic();
        self.active.lock().values().map(|(method, since)| (*method, now.saturating_sub(*since))).collect()
    }

    /// Whether `method` exists on this network.
    pub fn offers(&self, method: &Method) -> bool {
        self.fixed_difficulty || !method.fixed_difficulty_only
    }

    /// Finds the method and checks the arguments.
    pub fn prepare(&self, method: &str, params: Option<&RawValue>) -> Result<Prepared, RpcError> {
        let Some((method, handler)) = self.handlers.get(method) else {
            let near = registry::nearest(method).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Err(RpcError::new(ErrorCode::METHOD_NOT_FOUND, format!("Method not found{near}")));
        };
        if !self.offers(method) {
            let message = format!("{} works only on networks whose difficulty is fixed", method.name);
            return Err(RpcError::new(ErrorCode::METHOD_NOT_FOUND, message));
        }
        Ok(Prepared { method, handler: *handler, args: Args::read(method, params)? })
    }

    /// Prepares a batch's entries.
    pub fn prepare_all(&self, entries: Vec<Entry<'_>>) -> Vec<OwnedEntry> {
        entries
            .into_iter()
            .map(|entry| OwnedEntry {
                version: entry.version,
                id: entry.id.map(RawValue::to_owned),
                call: entry.call.and_then(|call| self.prepare(&call.method, call.params)),
            })
            .collect()
    }

    fn context(&self) -> Result<&Arc<RpcContext>, RpcError> {
        // What is taken after the mempool was saved would be acknowledged and lost.
        if self.shutdown.is_cancelled() {
            return Err(stopping());
        }
        self.context.get().ok_or_else(|| RpcError::new(ErrorCode::WARM_UP, self.loading.lock().clone()))
    }

    /// Runs one call.
    pub async fn call(self: &Arc<Self>, call: Prepared) -> Result<Outcome, Refusal> {
        match call.handler {
            Handler::Control(_) | Handler::Quick(_) => Ok(self.run(&call)),
            Handler::Work(_) => self.on_worker(move |this| this.run(&call)).await,
            Handler::Wait(wait, _) => match self.wait(&call, wait).await {
                Ok(()) => self.on_worker(move |this| this.run(&call)).await,
                Err(error) => Ok(Err(error)),
            },
        }
    }

    /// Runs a batch and writes its reply: `None` if nothing in it wants an answer.
    pub async fn batch(self: &Arc<Self>, entries: Vec<OwnedEntry>) -> Result<Option<Vec<u8>>, Refusal> {
        let empty = entries.is_empty();
        let mut out = vec![b'['];
        let mut rest = std::collections::VecDeque::from(entries);
        while let Some(first) = rest.front() {
            if let Ok(call) = &first.call
                && let Handler::Wait(wait, _) = call.handler
                && let Err(error) = self.wait(call, wait).await
                && let Some(failed) = rest.pop_front()
            {
                answer_entry(&mut out, failed.version, failed.id.as_deref(), Err(error));
                continue;
            }
            // Everything up to the next call that waits runs in one go.
            let waits = |entry: &OwnedEntry| matches!(&entry.call, Ok(Prepared { handler: Handler::Wait(..), .. }));
            let end = rest.iter().skip(1).position(waits).map_or(rest.len(), |position| position.saturating_add(1));
            let group: Vec<OwnedEntry> = rest.drain(..end).collect();
            let mut written = std::mem::take(&mut out);
            out = self
                .on_worker(move |this| {
                    this.run_all(group, &mut written);
                    written
                })
                .await?;
        }
        if out.len() == 1 && !empty {
            return Ok(None);
        }
        out.push(b']');
        Ok(Some(out))
    }

    /// Runs a batch's entries in order and appends their replies. Transactions that follow each other are handed over
    /// together: their signatures are verified at a fraction of the price of each alone.
    fn run_all(&self, group: Vec<OwnedEntry>, out: &mut Vec<u8>) {
        let sends = |entry: &OwnedEntry| entry.call.as_ref().is_ok_and(|call| call.method.name == methods::SEND);
        let mut rest = group.into_iter().peekable();
        while let Some(first) = rest.next() {
            let mut run = vec![first];
            while run.last().is_some_and(sends)
                && let Some(next) = rest.next_if(sends)
            {
                run.push(next);
            }
            let outcomes = if run.len() > 1 { self.send_all(&run) } else { Vec::new() };
            let mut outcomes = outcomes.into_iter();
            for entry in run {
                let (version, id) = (entry.version, entry.id);
                let outcome = outcomes.next().unwrap_or_else(|| entry.call.and_then(|call| self.run(&call)));
                answer_entry(out, version, id.as_deref(), outcome);
            }
        }
    }

    /// One outcome for each entry, all of them [`methods::SEND`]; none if they are better run one by one.
    fn send_all(&self, run: &[OwnedEntry]) -> Vec<Outcome> {
        let Ok(context) = self.context() else { return Vec::new() };
        let _active = self.enter(methods::SEND);
        let calls: Vec<&Args> =
            run.iter().filter_map(|entry| entry.call.as_ref().ok()).map(|call| &call.args).collect();
        let outcomes = std::panic::catch_unwind(AssertUnwindSafe(|| methods::send_all(context, &calls)));
        outcomes.unwrap_or_else(|_| run.iter().map(|_| Err(panicked(methods::SEND))).collect())
    }

    async fn wait(&self, call: &Prepared, wait: fn(Arc<RpcContext>, Args) -> Waiting) -> Result<(), RpcError> {
        let context = Arc::clone(self.context()?);
        let _active = self.enter(call.method.name);
        tokio::select! {
            outcome = wait(context, call.args.clone()) => outcome,
            () = self.shutdown.cancelled() => Err(stopping()),
        }
    }

    async fn on_worker<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let _place = Place::take(self)?;
        let permit = Arc::clone(&self.workers).acquire_owned().await.expect("the semaphore is never closed");
        let this = Arc::clone(self);
        let joined = tokio::task::spawn_blocking(move || {
            let result = work(&this);
            drop(permit);
            result
        })
        .await;
        // Handlers' panics are caught in `run`; what is left is the runtime shutting down.
        joined.map_err(|_| Refusal::QueueFull)
    }

    fn run(&self, call: &Prepared) -> Outcome {
        let _active = self.enter(call.method.name);
        let run = || match call.handler {
            Handler::Control(handler) => handler(self, &call.args),
            Handler::Quick(handler) | Handler::Work(handler) | Handler::Wait(_, handler) => {
                handler(self.context()?, &call.args)
            }
        };
        std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(panicked(call.method.name)))
    }

    fn enter(&self, method: &'static str) -> ActiveCall<'_> {
        let id = self.next_active.fetch_add(1, Ordering::Relaxed);
        self.active.lock().insert(id, (method, self.clock.monotonic()));
        ActiveCall { dispatcher: self, id }
    }
}

fn panicked(method: &str) -> RpcError {
    tracing::error!(method, "a method panicked: this is a bug");
    RpcError::internal(format!("{method} failed inside the node"))
}

/// Appends the reply to a batch's entry, if it wants one.
fn answer_entry(out: &mut Vec<u8>, version: Version, id: Option<&RawValue>, mut outcome: Outcome) {
    if id.is_none() && version == Version::V2 {
        return;
    }
    let length = outcome.as_ref().map_or(0, |result| result.get().len());
    if out.len().saturating_add(length) > RESPONSE_BYTES_MAX {
        outcome = Err(too_large());
    }
    if out.len() > 1 {
        out.push(b',');
    }
    write_reply(out, version, id.map(RawValue::get), &outcome);
}

/// A place among the requests that hold or wait for a worker.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(dispatcher: &'a Dispatcher) -> Result<Self, Refusal> {
        let taken = dispatcher.queued.fetch_add(1, Ordering::AcqRel);
        let place = Self(&dispatcher.queued);
        if taken < dispatcher.queued_max { Ok(place) } else { Err(Refusal::QueueFull) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

struct ActiveCall<'a> {
    dispatcher: &'a Dispatcher,
    id: u64,
}

impl Drop for ActiveCall<'_> {
    fn drop(&mut self) {
        self.dispatcher.active.lock().remove(&self.id);
    }
}

/// Collects JSON up to [`RESPONSE_BYTES_MAX`].
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > RESPONSE_BYTES_MAX {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn stopping() -> RpcError {
    RpcError::new(ErrorCode::LIMIT_EXCEEDED, "The node is stopping")
}

fn too_large() -> RpcError {
    RpcError::new(ErrorCode::OUT_OF_MEMORY, format!("The answer exceeds {RESPONSE_BYTES_MAX} bytes: ask for less"))
}

/// A result as JSON.
pub fn answer(result: &impl Serialize) -> Outcome {
    let mut out = Bounded(Vec::with_capacity(256));
    match serde_json::to_writer(&mut out, result) {
        Ok(()) => {}
        Err(error) if error.is_io() => return Err(too_large()),
        Err(error) => return Err(RpcError::internal(error.to_string())),
    }
    let text = String::from_utf8(out.0).map_err(|error| RpcError::internal(error.to_string()))?;
    RawValue::from_string(text).map_err(|error| RpcError::internal(error.to_string()))
}

/// Whether a caller may make every call of a request; a whitelist refuses it whole.
pub fn may_call_all<'a>(caller: &Caller, entries: impl IntoIterator<Item = &'a Entry<'a>>) -> bool {
    caller.allowed.is_none()
        || entries.into_iter().all(|entry| entry.call.as_ref().is_ok_and(|call| caller.may_call(&call.method)))
}
