//! The network as the rest of the node sees it: started, asked, stopped. Round it the loop that feeds the brain.
//!
//! ```text
//! connections ──bounded──┐
//! chain, mempool done ───┤                                  ┌─► outboxes ─► connections
//! tip moved ─────────────┼─► thread "p2p": Brain::handle ───┼─► dials
//! mempool changed ───────┤        (current-thread runtime)  ├─► chain.import, workers
//! tick, questions ───────┘                                  └─► files
//! ```

use super::conn::{self, Connection, GreetError, Greeted, Inbound, Office, Room};
use super::door::Door;
use super::files::{self, Files};
use super::noise::{HandshakeError, Role, StaticKey};
use super::outbox::{Item, Outbox};
use super::stats::Stats;
use super::work::Workers;
use super::{dial, listen, nat};
use crate::chain::{ChainHandle, Now};
use crate::clock::Clock;
use crate::mempool::Mempool;
use crate::p2p::brain::interface::{Action, Actions, Desk, Dial, Event, Link, PeerId};
use crate::p2p::brain::sync::SyncStage;
use crate::p2p::brain::{Brain, BrainOptions, Memory, Parts};
use crate::p2p::message::{Message, PeerAddress};
use crate::snapshot::Fetched;
use crate::snapshot::serve::Shelf;
use crate::telemetry::screen;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc as blocking};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Time between two looks of the brain at its deadlines.
const TICK: Duration = Duration::from_millis(100);
/// Time between two looks at how far the sync is, for the line on a terminal.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that wait for the brain, all peers together; each reader waits with its one for a place.
const EVENTS_MAX: usize = 512;
/// Where buckets of a snapshot are kept until it is whole, in the network's folder.
const FETCHED_FOLDER: &str = "snapshot";
/// Connections beside the incoming ones that the brain keeps: those that this node dials, and some that are ending.
const CONNECTIONS_BESIDES: usize = 32;
/// Questions that wait for the brain.
const QUESTIONS_MAX: usize = 64;

/// What the network is told.
pub struct NetworkOptions {
    /// Where to listen; `None` listens nowhere.
    pub listen: Option<SocketAddr>,
    /// A SOCKS5 proxy for every dial.
    pub proxy: Option<SocketAddr>,
    /// Whether the router is asked to forward a port to this node.
    pub map_port: bool,
    /// Keeps one static key for ever, so that invites can pin it.
    pub lasting_identity: bool,
    /// The brain's.
    pub brain: BrainOptions,
    /// Incoming handshakes at the same time.
    pub handshakes_max: usize,
    /// The network's folder.
    pub folder: PathBuf,
    /// The snapshot that others may have lies there.
    pub shelf: Shelf,
    /// The genesis file as it is given to others.
    pub genesis: Arc<[u8]>,
}

/// Why the network could not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The address for peers cannot be bound.
    #[error("listening for peers on {address}: {error}; choose another --p2p-listen, or --no-listen")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A file or thread of its own.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A question to the brain.
type Question = Box<dyn FnOnce(&mut Parts, &mut Desk<'_>) + Send>;

/// What connections, dials and the loop share.
pub(super) struct Core {
    pub office: Office,
    pub door: Arc<Door>,
    pub key: StaticKey,
    pub stop: CancellationToken,
    proxy: Option<SocketAddr>,
    next_peer: AtomicU64,
    /// With those that are ending.
    connections_max: usize,
    open: Mutex<BTreeMap<PeerId, Open>>,
}

/// A connection, from outside.
#[derive(Clone)]
pub struct Open {
    /// What is to be sent.
    pub outbox: Arc<Outbox>,
    /// Its counters.
    pub stats: Arc<Stats>,
    /// This side's address.
    pub local: Option<SocketAddr>,
}

impl Core {
    /// Takes a greeted connection in and runs it to its end.
    pub async fn adopt(self: &Arc<Self>, stream: TcpStream, greeted: Greeted, link: Link, address: PeerAddress) {
        let peer = PeerId(self.next_peer.fetch_add(1, Ordering::Relaxed));
        let (outbox, stats) = (Arc::new(Outbox::default()), Arc::new(Stats::default()));
        let local = stream.local_addr().ok();
        let version = greeted.session.version();
        {
            let mut open = self.open.lock();
            if link.is_inbound() && open.len() >= self.connections_max {
                tracing::debug!(%address, "no place for another connection until others have ended");
                return;
            }
            open.insert(peer, Open { outbox: outbox.clone(), stats: stats.clone(), local });
        }
        let connected = Event::Connected { peer, link, address, version };
        if self.office.events.send(Inbound { event: connected, permits: None }).await.is_ok() {
            let connection = Connection { peer, outbox, stats, office: self.office.clone() };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = connection.run(stream, greeted) => {}
            }
        }
        self.open.lock().remove(&peer);
    }

    async fn dial(self: Arc<Self>, Dial { address, link }: Dial) {
        let failed = async |why: String, ourselves: bool| {
            tracing::debug!(peer = %address, why, "dial failed");
            let event = Event::DialFailed { address, link, ourselves };
            let _ = self.office.events.send(Inbound { event, permits: None }).await;
        };
        // What must not lead back to this node shares neither a circuit nor a key with its other connections.
        let private = link == Link::PrivateBroadcast;
        let fresh = private.then(StaticKey::generate);
        let mut stream = match dial::connect(address, self.proxy, private).await {
            Ok(stream) => stream,
            Err(error) => return failed(error.to_string(), false).await,
        };
        let handshake = conn::handshake(Role::Initiator, fresh.as_ref().unwrap_or(&self.key), &self.office.chain);
        match conn::greet(&mut stream, handshake, None).await {
            Ok(greeted) => self.adopt(stream, greeted, link, address).await,
            Err(error) => {
                tracing::info!(peer = %address, %error, "refused by, or refusing, a peer that was dialled");
                let ourselves = matches!(error, GreetError::Handshake(HandshakeError::SelfConnection));
                failed(error.to_string(), ourselves).await;
            }
        }
    }
}

/// The running network.
pub struct PeerNetwork {
    core: Arc<Core>,
    questions: mpsc::Sender<Question>,
    thread: Mutex<Option<JoinHandle<()>>>,
    listening: Option<SocketAddr>,
    /// Whether a new chain is to begin with a snapshot.
    snapshot: bool,
    /// Ends when the router has been asked to forward no more.
    unmapped: Mutex<Option<blocking::Receiver<()>>>,
}

impl PeerNetwork {
    /// Binds, starts the brain's thread, and begins to dial. Runs on the given runtime until `stop`.
    pub fn start(
        options: NetworkOptions,
        chain: ChainHandle,
        mempool: Arc<Mempool>,
        clock: Arc<dyn Clock>,
        runtime: &tokio::runtime::Handle,
        stop: CancellationToken,
    ) -> Result<Self, NetworkError> {
        let system = |what| move |error| NetworkError::System { what, error };
        let files = Files::new(&options.folder);
        let key = identity(&files, options.lasting_identity).map_err(system("reading the node's identity"))?;
        let _entered = runtime.enter();
        let bind = |address| listen::bind(address).map_err(|error| NetworkError::Bind { address, error });
        let listener = options.listen.map(bind).transpose()?;
        let listening = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let (events, inbound) = mpsc::channel(EVENTS_MAX);
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let office = Office {
            chain: chain.clone(),
            clock: clock.clone(),
            events,
            memory: Room::beside(options.brain.download_bytes),
            genesis: options.genesis,
            totals: Arc::default(),
        };
        let mut brain_options = options.brain;
        brain_options.listen_port = listening.map_or(0, |address| address.port());
        let snapshot = brain_options.snapshot;
        let fetched = snapshot.then(|| Fetched::new(options.folder.join(FETCHED_FOLDER)));
        let wish = listening.filter(|_| options.map_port);
        let wish = wish.and_then(|listening| nat::Wish::of(listening, brain_options.allow_private));
        let core = Arc::new(Core {
            office,
            door: Door::new(brain_options.allow_private, options.handshakes_max),
            key,
            stop,
            proxy: options.proxy,
            next_peer: AtomicU64::new(1),
            connections_max: brain_options.inbound_max + CONNECTIONS_BESIDES,
            open: Mutex::default(),
        });
        let brain = Brain::new(brain_options, remember(&files), rand::random());
        let (completions, done) = mpsc::unbounded_channel();
        let workers = Workers::start(chain.clone(), mempool.clone(), fetched, completions.clone())
            .map_err(system("starting the network's threads"))?;
        let shelf = options.shelf;
        let loop_ = Loop { core: core.clone(), brain, chain, mempool, clock, workers, completions, files, shelf };
        let handle = runtime.clone();
        let thread = std::thread::Builder::new()
            .name("p2p".to_owned())
            .spawn(move || {
                // Its own runtime: the brain computes, and must hold up nobody.
                let own = tokio::runtime::Builder::new_current_thread().enable_time().build();
                match own {
                    Ok(own) => own.block_on(loop_.run(handle, inbound, done, asked)),
                    Err(error) => tracing::error!(%error, "the peer-to-peer network has no runtime"),
                }
            })
            .map_err(system("starting the network's threads"))?;
        if let Some(listener) = listener {
            runtime.spawn(listen::accept(core.clone(), listener));
        }
        let unmapped = Mutex::new(wish.map(|wish| map_port(&core, wish, runtime)));
        Ok(Self { core, questions, thread: Mutex::new(Some(thread)), listening, snapshot, unmapped })
    }

    /// Where it listens.
    pub const fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// Whether a new chain is to begin with a snapshot from peers.
    pub const fn wants_snapshot(&self) -> bool {
        self.snapshot
    }

    /// Counters of all connections together.
    pub fn totals(&self) -> &Stats {
        &self.core.office.totals
    }

    /// The proxy that dials go through.
    pub fn proxy(&self) -> Option<SocketAddr> {
        self.core.proxy
    }

    /// The public half of the static key, which an invite may pin.
    pub fn public_key(&self) -> [u8; 32] {
        self.core.key.public()
    }

    /// A connection, from outside.
    pub fn connection(&self, peer: PeerId) -> Option<Open> {
        self.core.open.lock().get(&peer).cloned()
    }

    /// Asks the brain something, and waits. `None` when the node is stopping. Not for threads of a runtime.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Parts, &mut Desk<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |parts, desk| drop(reply.send(question(parts, desk))));
        self.questions.blocking_send(question).ok()?;
        answer.blocking_recv().ok()
    }

    /// Waits until the brain's thread has ended and its files are written, and the router has had its time to end what was
    /// mapped. `stop` must have been requested.
    pub fn stop(&self) {
        self.core.stop.cancel();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the peer-to-peer network's thread panicked");
        }
        if let Some(unmapped) = self.unmapped.lock().take() {
            let _ = unmapped.recv_timeout(nat::STOP_WAIT);
        }
    }
}

/// Has a port mapped for as long as the node runs; what is returned ends when that is over.
fn map_port(core: &Core, wish: nat::Wish, runtime: &tokio::runtime::Handle) -> blocking::Receiver<()> {
    let (until, ended) = blocking::channel();
    let (events, stop) = (core.office.events.clone(), core.stop.clone());
    runtime.spawn(async move {
        nat::keep(wish, nat::find, events, stop).await;
        drop(until);
    });
    ended
}

/// The key that other nodes see: fresh at every start, lest it track the node, unless the operator wants a lasting one.
fn identity(files: &Files, lasting: bool) -> io::Result<StaticKey> {
    if !lasting {
        return Ok(StaticKey::generate());
    }
    let path = files.identity();
    if let Some(bytes) = files::read(&path)? {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| {
            io::Error::other(format!("{} is not 32 bytes; move it away for a new identity", path.display()))
        })?;
        return Ok(StaticKey::from_bytes(bytes));
    }
    let key = StaticKey::generate();
    files::write(&path, key.secret().as_slice())?;
    Ok(key)
}

/// What earlier runs left. A file that cannot be used is told of and begun anew.
fn remember(files: &Files) -> Memory {
    let usable = |what: &str, read: io::Result<Option<Vec<u8>>>| match read {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%error, "{what} cannot be read; beginning anew");
            None
        }
    };
    Memory {
        addresses: usable("peers.dat", files::read(&files.peers())),
        anchors: usable("anchors.dat", files::take(&files.anchors())),
        bans: usable("bans.dat", files::read(&files.bans())),
    }
}

/// The brain's thread.
struct Loop {
    core: Arc<Core>,
    brain: Brain,
    chain: ChainHandle,
    mempool: Arc<Mempool>,
    clock: Arc<dyn Clock>,
    workers: Workers,
    completions: mpsc::UnboundedSender<Event>,
    files: Files,
    shelf: Shelf,
}

impl Loop {
    async fn run(
        mut self,
        runtime: tokio::runtime::Handle,
        mut inbound: mpsc::Receiver<Inbound>,
        mut done: mpsc::UnboundedReceiver<Event>,
        mut asked: mpsc::Receiver<Question>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tip = self.chain.tip_watch();
        let mut waiting = self.mempool.changes();
        let mut offered = self.shelf.watch();
        // What lies there already is news as well.
        offered.mark_changed();
        let mut seen = self.mempool.added_since(0).next;
        let stop = self.core.stop.clone();
        let mut next_show = Duration::ZERO;
        loop {
            // Kept until the brain has seen the message.
            let mut _permits = None;
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(question) = asked.recv() => {
                    let now = self.now();
                    let ((), actions) = self.brain.answer(now, &self.chain, &self.mempool, question);
                    self.carry_out(actions, &runtime);
                    continue;
                }
                Some(event) = done.recv() => event,
                Ok(()) = tip.changed() => Event::TipChanged,
                Ok(()) = offered.changed() => Event::SnapshotOffered(offered.borrow_and_update().clone()),
                Ok(()) = waiting.changed() => {
                    waiting.mark_unchanged();
                    let added = self.mempool.added_since(seen);
                    seen = added.next;
                    Event::MempoolGrew(added.entered)
                }
                _ = tick.tick() => Event::Tick,
                Some(message) = inbound.recv() => {
                    _permits = message.permits;
                    message.event
                }
            };
            let now = self.now();
            // Whether a block, or a part of a snapshot, may be sent depends on what was sent so far.
            let counts = |message: &Message| matches!(message, Message::GetBlocks(_) | Message::GetCoins(_));
            if matches!(&event, Event::Tick) || matches!(&event, Event::Message { message, .. } if counts(message)) {
                let sent = Event::Sent(self.core.office.totals.sent.bytes());
                let actions = self.brain.handle(now, &self.chain, &self.mempool, sent);
                self.carry_out(actions, &runtime);
            }
            let actions = self.brain.handle(now, &self.chain, &self.mempool, event);
            self.carry_out(actions, &runtime);
            if now.monotonic >= next_show && screen::is_live() {
                next_show = now.monotonic + SHOW_INTERVAL;
                self.show_progress(now, &runtime);
            }
        }
        screen::show(None);
        self.save();
    }

    fn now(&self) -> Now {
        Now { unix_seconds: self.clock.unix_seconds(), monotonic: self.clock.monotonic() }
    }

    fn carry_out(&mut self, actions: Actions, runtime: &tokio::runtime::Handle) {
        for action in actions {
            match action {
                Action::Send(peer, message) => self.queue(peer, || Item::Frame(message.encode())),
                Action::SendRecent(peer, Message::Block(bytes)) => self.queue(peer, || Item::Recent(bytes)),
                Action::SendRecent(peer, message) => self.queue(peer, || Item::Answer(message.encode())),
                Action::SendBlock(peer, hash) => self.queue(peer, || Item::Block(hash)),
                Action::SendCompactBlock(peer, hash) => self.queue(peer, || Item::CompactBlock(hash)),
                Action::SendBlockTransactions(peer, hash, indexes) => {
                    self.queue(peer, || Item::BlockTransactions(hash, indexes));
                }
                Action::SendSnapshot(peer, offer, part) => self.queue(peer, || Item::Snapshot(offer, part)),
                Action::Snapshot(job) => self.workers.snapshot(job),
                Action::SendGenesis(peer) => self.queue(peer, || Item::Genesis),
                Action::Disconnect(peer, ending) => {
                    if let Some(open) = self.core.open.lock().get(&peer) {
                        open.outbox.end(ending);
                    }
                }
                // Done by the brain before its actions leave it.
                Action::Blame(..) => {}
                Action::Dial(dial) => drop(runtime.spawn(self.core.clone().dial(dial))),
                Action::SubmitHeaders(peer, headers) => self.workers.headers(peer, headers),
                Action::SubmitBlock { peer, hash, bytes, wanted } => {
                    let completions = self.completions.clone();
                    let done = move |result| drop(completions.send(Event::BlockTaken { peer, hash, result }));
                    self.chain.import(bytes, wanted, Box::new(done));
                }
                Action::SubmitHistory { peer, hash, bytes } => {
                    // It may be done, and gone, by now.
                    let Some(history) = self.chain.history() else { continue };
                    let completions = self.completions.clone();
                    let done = move |result| drop(completions.send(Event::HistoryTaken { peer, hash, result }));
                    history.import(bytes, true, Box::new(done));
                }
                Action::SubmitTransactions(peer, transactions) => self.workers.transactions(peer, transactions),
                Action::SubmitPackage(peer, package) => self.workers.package(peer, package),
                Action::Save => self.save(),
            }
        }
    }

    /// On a terminal, while the node is behind: how far it is.
    fn show_progress(&mut self, now: Now, runtime: &tokio::runtime::Handle) {
        let ask = |parts: &mut Parts, desk: &mut Desk<'_>| parts.sync.progress(desk);
        let (progress, actions) = self.brain.answer(now, &self.chain, &self.mempool, ask);
        self.carry_out(actions, runtime);
        match progress.stage {
            SyncStage::Done => screen::show(None),
            _ => screen::show(Some((progress.permille(), &progress.to_string()))),
        }
    }

    fn queue(&self, peer: PeerId, item: impl FnOnce() -> Item) {
        if let Some(open) = self.core.open.lock().get(&peer) {
            open.outbox.push(item());
        }
    }

    fn save(&self) {
        for (path, bytes) in [(self.files.peers(), self.brain.addresses()), (self.files.bans(), self.brain.bans())] {
            if let Err(error) = files::write(&path, &bytes) {
                tracing::warn!(%error, path = %path.display(), "cannot save what is known of peers");
            }
        }
        if let Some(bytes) = self.brain.anchors()
            && let Err(error) = files::write(&self.files.anchors(), &bytes)
        {
            tracing::warn!(%error, "cannot save the anchors");
        }
    }
}
