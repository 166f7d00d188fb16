//! The seeder's shell: sockets, files and signals round the crawler. It decides nothing.
//!
//! One thread and its runtime do everything: a seeder moves some kilobytes a second. What waits for the crawler is
//! bounded, and a connection whose event finds no room waits itself.

use super::crawler::{Action, Crawler, CrawlerOptions, Event};
use crate::chain::Now;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, PeerName};
use crate::datadir::{DataDir, DataDirError};
use crate::p2p::brain::interface::PeerId;
use crate::p2p::message::{Message, PeerAddress};
use crate::p2p::shell::conn::{self, GreetError, Greeted};
use crate::p2p::shell::door::Door;
use crate::p2p::shell::files::{self, Files};
use crate::p2p::shell::frames::Received;
use crate::p2p::shell::gate::HANDSHAKES_MAX;
use crate::p2p::shell::noise::{Handshake, HandshakeError, Role, StaticKey};
use crate::p2p::shell::{NetworkError, dial, listen};
use crate::{p2p, signals, telemetry};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Time between two looks of the crawler at its deadlines: that between two dials.
const TICK: Duration = Duration::from_millis(100);
/// Events that wait for the crawler; each connection waits with its one for a place.
const EVENTS_MAX: usize = 256;
/// Frames that wait for one socket: a greeting, an answer, some pongs. Whoever needs more does not read.
const FRAMES_MAX: usize = 16;
/// Bytes read from a socket at once.
const READ_BYTES: usize = 16 << 10;
/// A frame that a socket does not take in this time ends the connection.
const SEND_STUCK: Duration = Duration::from_secs(10);
/// After goodbye the other side has so long to read what it was sent; closing at once could take it away again.
const LINGER: Duration = Duration::from_secs(5);
/// Frames of unknown kinds that a connection may send.
const UNKNOWN_FRAMES_MAX: u32 = 16;
/// Blocks are never asked for: a frame of one is too long from its first byte, so a connection holds a megabyte at most
/// (one of transactions, which is passed over).
const BLOCK_BYTES_MAX: u64 = 0;
/// The seeder's own folder, in the network's.
const FOLDER: &str = "seeder";

/// Why a seeder could not run.
#[derive(Debug, thiserror::Error)]
pub enum SeederError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The address cannot be bound, or the system refuses something.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

fn system(what: &'static str) -> impl Fn(io::Error) -> SeederError {
    move |error| NetworkError::System { what, error }.into()
}

/// Where a running seeder can be reached: its `endpoints.json`.
#[derive(Debug, Serialize)]
struct Endpoints {
    pid: u32,
    p2p: Option<SocketAddr>,
}

/// Runs a seeder until a signal stops it.
pub fn run(config: Config) -> Result<(), SeederError> {
    // Beside a node's files, not among them: both may run over one data directory.
    let directory = DataDir::open(&config.data_dir.join(&config.network.name), FOLDER)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let log = config.log.file.then(|| directory.log());
    telemetry::start(config.log.format, &config.log.filter, log.as_deref(), clock.clone())
        .map_err(system("starting the log"))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("starting the runtime"))?;
    let stop = signals::listen(runtime.handle()).map_err(system("listening for signals"))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        network = config.network.name,
        genesis = %config.network.genesis_hash(),
        data = %directory.path().display(),
        "starting a seeder"
    );
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let result = runtime.block_on(serve(&config, &directory, clock, stop.requested));
    directory.remove_endpoints();
    match &result {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::error!(%error, "stopped"),
    }
    result
}

async fn serve(
    config: &Config,
    directory: &DataDir,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), SeederError> {
    let peers = &config.peers;
    let bind = |address| listen::bind(address).map_err(|error| NetworkError::Bind { address, error });
    let listener = peers.listen.map(bind).transpose()?;
    let listening = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    directory.write_endpoints(&Endpoints { pid: std::process::id(), p2p: listening })?;
    match listening {
        Some(address) => tracing::info!(%address, "listening for peers"),
        None => tracing::info!("not listening: this seeder only crawls, and answers nobody"),
    }
    let (port, network) = (config.network.p2p_port, &config.network);
    let named: Vec<PeerName> = network.bootstrap.iter().filter_map(|peer| peer.parse().ok()).collect();
    let named = [named.as_slice(), &peers.connect, &peers.add].concat();
    let options = CrawlerOptions {
        network: network.clone(),
        agent: p2p::agent(),
        listen_port: listening.map_or(0, |address| address.port()),
        allow_private: peers.allow_private,
        callers_max: peers.inbound_max,
        starts: p2p::resolve_all(&named, port, p2p::Names::with(peers.proxy)),
        onion: peers.proxy.is_some(),
    };
    let paths = Paths::new(directory.path());
    let crawler =
        Crawler::new(options, remember(&paths.book).as_deref(), remember(&paths.directory).as_deref(), rand::random());
    let (events, inbound) = mpsc::channel(EVENTS_MAX);
    let core = Arc::new(Core {
        key: StaticKey::generate(),
        network: network.clone(),
        proxy: peers.proxy,
        door: Door::new(peers.allow_private, HANDSHAKES_MAX),
        next_peer: AtomicU64::new(1),
        clock,
        stop,
        events,
    });
    if let Some(listener) = listener {
        tokio::spawn(accept(core.clone(), listener));
    }
    let genesis: Arc<[u8]> = network.to_json().into_bytes().into();
    Loop { core, crawler, genesis, paths, open: BTreeMap::new() }.run(inbound).await;
    Ok(())
}

/// The two files.
struct Paths {
    book: PathBuf,
    directory: PathBuf,
}

impl Paths {
    fn new(folder: &Path) -> Self {
        Self { book: Files::new(folder).peers(), directory: folder.join("directory.dat") }
    }
}

/// What an earlier run left; a file that cannot be read is told of and begun anew.
fn remember(path: &Path) -> Option<Vec<u8>> {
    files::read(path).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "cannot be read; beginning anew");
        None
    })
}

/// What is to be sent over a connection.
enum Outgoing {
    Frame(Vec<u8>),
    Goodbye,
}

/// An event, and with a new connection the way to it.
type Inbound = (Event, Option<mpsc::Sender<Outgoing>>);

/// What dials, callers and the loop share.
struct Core {
    key: StaticKey,
    network: Arc<setara_core::network::Network>,
    proxy: Option<SocketAddr>,
    door: Arc<Door>,
    next_peer: AtomicU64,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    events: mpsc::Sender<Inbound>,
}

impl Core {
    fn handshake(&self, role: Role) -> Handshake {
        Handshake::new(role, &self.key, self.network.genesis_hash(), BLOCK_BYTES_MAX)
    }

    async fn tell(&self, event: Event) -> bool {
        self.events.send((event, None)).await.is_ok()
    }

    async fn dial(self: Arc<Self>, address: PeerAddress) {
        let dialled = async {
            let mut stream = dial::connect(address, self.proxy, false).await.map_err(GreetError::Io)?;
            let greeted = conn::greet(&mut stream, self.handshake(Role::Initiator), None).await?;
            Ok::<_, GreetError>((stream, greeted))
        };
        match dialled.await {
            Ok((stream, greeted)) => self.converse(stream, greeted, address, false).await,
            Err(error) => {
                tracing::debug!(peer = %address, %error, "not reached");
                let ourselves = matches!(error, GreetError::Handshake(HandshakeError::SelfConnection));
                self.tell(Event::DialFailed { address, ourselves }).await;
            }
        }
    }

    /// Runs a connection from its handshake to its end.
    async fn converse(&self, stream: TcpStream, greeted: Greeted, address: PeerAddress, caller: bool) {
        let peer = PeerId(self.next_peer.fetch_add(1, Ordering::Relaxed));
        let (outgoing, frames) = mpsc::channel(FRAMES_MAX);
        let connected = Event::Connected { peer, address, caller, version: greeted.session.version() };
        if self.events.send((connected, Some(outgoing))).await.is_ok() {
            let why = self.talk(peer, stream, greeted, frames).await;
            tracing::debug!(peer = peer.0, %address, why, "connection ended");
            self.tell(Event::Disconnected { peer }).await;
        }
    }

    async fn talk(
        &self,
        peer: PeerId,
        mut stream: TcpStream,
        greeted: Greeted,
        mut frames: mpsc::Receiver<Outgoing>,
    ) -> &'static str {
        let Greeted { mut session, rest: mut bytes } = greeted;
        let (mut unknown, mut buffer) = (0, vec![0; READ_BYTES]);
        loop {
            let received = session.receive(&bytes);
            bytes.clear();
            while let Some(frame) = session.next_frame() {
                match frame {
                    Received::Frame { kind, body } => {
                        let Ok(message) = Message::decode(kind, body, BLOCK_BYTES_MAX) else {
                            return "an undecodable message";
                        };
                        if !self.tell(Event::Message { peer, message }).await {
                            return "the seeder is stopping";
                        }
                    }
                    Received::Unknown { .. } => unknown += 1,
                }
            }
            if received.is_err() || unknown > UNKNOWN_FRAMES_MAX {
                return "bytes that may not be";
            }
            tokio::select! {
                next = frames.recv() => match next {
                    Some(Outgoing::Frame(frame)) => {
                        let mut sealed = Vec::new();
                        session.send(&frame, &mut sealed);
                        match timeout(SEND_STUCK, stream.write_all(&sealed)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(_)) => return "the socket failed",
                            Err(_) => return "it takes nothing",
                        }
                    }
                    Some(Outgoing::Goodbye) | None => {
                        let farewell = async {
                            stream.shutdown().await?;
                            while stream.read(&mut buffer).await? > 0 {}
                            Ok::<(), io::Error>(())
                        };
                        let _ = timeout(LINGER, farewell).await;
                        return "done";
                    }
                },
                read = stream.read(&mut buffer) => match read {
                    Ok(0) => return "closed by the other side",
                    Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                    Err(_) => return "the socket failed",
                },
            }
        }
    }
}

/// Accepts until the seeder stops; who may knock is the gate's to say (TH2).
async fn accept(core: Arc<Core>, listener: TcpListener) {
    loop {
        let (mut stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(listen::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = core.door.admit(address.ip(), core.clock.monotonic()) else { continue };
        let core = core.clone();
        tokio::spawn(async move {
            let greeted = tokio::select! {
                () = place.given_up() => return,
                greeted = conn::greet(&mut stream, core.handshake(Role::Answerer), None) => greeted,
            };
            drop(place);
            match greeted {
                Ok(greeted) => core.converse(stream, greeted, address.into(), true).await,
                Err(error) => tracing::debug!(peer = %address, %error, "refused a caller"),
            }
        });
    }
}

/// Feeds the crawler and does what it decides.
struct Loop {
    core: Arc<Core>,
    crawler: Crawler,
    genesis: Arc<[u8]>,
    paths: Paths,
    open: BTreeMap<PeerId, mpsc::Sender<Outgoing>>,
}

impl Loop {
    /// Until the seeder stops; what is left of tasks then ends with the runtime.
    async fn run(mut self, mut inbound: mpsc::Receiver<Inbound>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stop = self.core.stop.clone();
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => Event::Tick,
                Some((event, outgoing)) = inbound.recv() => {
                    match (&event, outgoing) {
                        (Event::Connected { peer, .. }, Some(outgoing)) => drop(self.open.insert(*peer, outgoing)),
                        (Event::Disconnected { peer }, _) => drop(self.open.remove(peer)),
                        _ => {}
                    }
                    event
                }
            };
            let clock = &self.core.clock;
            let now = Now { unix_seconds: clock.unix_seconds(), monotonic: clock.monotonic() };
            for action in self.crawler.handle(now, event) {
                self.carry_out(action);
            }
        }
        self.save();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Dial(address) => drop(tokio::spawn(self.core.clone().dial(address))),
            Action::Send(peer, message) => self.queue(peer, Outgoing::Frame(message.encode())),
            Action::SendGenesis(peer) => {
                self.queue(peer, Outgoing::Frame(Message::Genesis(self.genesis.to_vec()).encode()));
            }
            Action::Disconnect(peer) => {
                self.queue(peer, Outgoing::Goodbye);
                // With its sender gone the connection ends, even if there was no room for the goodbye.
                self.open.remove(&peer);
            }
            Action::Save => self.save(),
        }
    }

    fn queue(&mut self, peer: PeerId, outgoing: Outgoing) {
        let full = self.open.get(&peer).is_some_and(|open| open.try_send(outgoing).is_err());
        if full {
            self.open.remove(&peer);
        }
    }

    fn save(&self) {
        let files =
            [(&self.paths.book, self.crawler.book_bytes()), (&self.paths.directory, self.crawler.directory_bytes())];
        for (path, bytes) in files {
            if let Err(error) = files::write(path, &bytes) {
                tracing::warn!(%error, path = %path.display(), "cannot save what is known of nodes");
            }
        }
    }
}
