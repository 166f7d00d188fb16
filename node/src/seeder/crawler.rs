//! The crawler: whom to visit, when, and what callers are told. No sockets and no clock: events and the time go in,
//! actions come out.
//!
//! ```text
//! visit:  Dial ──► Connected, Hello sent ──their Hello──► reached ──GetAddresses──► Addresses ──► goodbye
//! caller: Connected, Hello sent ──their Hello──► GetAddresses ──► Addresses ──► goodbye
//!         each step within its time, else goodbye
//! ```

use super::directory::Directory;
use crate::chain::Now;
use crate::p2p::brain::addresses::{AddressPeer, Addresses, Group, Kind, group};
use crate::p2p::brain::greeting;
use crate::p2p::brain::interface::PeerId;
use crate::p2p::limits::{HELLO_TIMEOUT, PROTOCOL_VERSION};
use crate::p2p::message::{AddressRecord, Hello, Message, PeerAddress, Serves};
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use setara_core::network::Network;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Visits and dials under way at once: a dead address takes ten seconds, so dead ones alone still leave three a second.
const VISITS_MAX: usize = 32;
/// Time between two dials: at most ten a second, enough for the whole directory within one interval.
const DIAL_INTERVAL: Duration = Duration::from_millis(100);
/// When there is nobody to visit, it looks again after so long.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// A dial that nobody reported on is over.
const DIAL_TIMEOUT: Duration = Duration::from_secs(60);
/// From `Hello` to the answer with addresses.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A caller's whole stay; one with an honest question is gone in two round trips.
const STAY_TIMEOUT: Duration = Duration::from_secs(20);
/// Messages of one connection: a node says a handful while it waits for its answer.
const MESSAGES_MAX: u32 = 64;
/// Callers of one group (a /16, say) at once: one place cannot take all the chairs.
const CALLERS_PER_GROUP: usize = 8;
/// An address that was tried rests so many seconds, unless it is one of the directory's ...
const REST_SECONDS: u64 = 600;
/// ... or the directory is young.
const REST_SECONDS_YOUNG: u64 = 60;
/// Addresses of the book that are looked at to find one that may be dialled.
const TRIES: usize = 32;
/// Nonces of own greetings remembered: more than connections can be under way.
const NONCES_MAX: usize = 512;
/// Own addresses remembered: more than interfaces.
const OWN_MAX: usize = 64;
/// Time between two savings.
const SAVE_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Time between two lines in the log.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// What the crawler is told once.
#[derive(Debug, Clone)]
pub struct CrawlerOptions {
    /// The network.
    pub network: Arc<Network>,
    /// Software and version, as others see it.
    pub agent: String,
    /// Where the seeder listens, or 0.
    pub listen_port: u16,
    /// Loopback and private addresses count as any others.
    pub allow_private: bool,
    /// Callers at once.
    pub callers_max: usize,
    /// Where to begin: of the genesis file and of the operator.
    pub starts: Vec<PeerAddress>,
    /// Whether onion addresses can be dialled.
    pub onion: bool,
}

/// What happens to the crawler.
#[derive(Debug)]
pub enum Event {
    /// A connection is encrypted and ready for `Hello`.
    Connected {
        /// Its name from now on.
        peer: PeerId,
        /// The other end.
        address: PeerAddress,
        /// Whether the other end dialled.
        caller: bool,
        /// The version that both sides speak.
        version: u16,
    },
    /// A dial led to no connection.
    DialFailed {
        /// Whom it was for.
        address: PeerAddress,
        /// It led back to this process.
        ourselves: bool,
    },
    /// A message came.
    Message {
        /// From whom.
        peer: PeerId,
        /// What it says.
        message: Message,
    },
    /// The connection is no more.
    Disconnected {
        /// Which.
        peer: PeerId,
    },
    /// Time has passed.
    Tick,
}

/// What the shell is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial.
    Dial(PeerAddress),
    /// Send a message.
    Send(PeerId, Message),
    /// Send the genesis file.
    SendGenesis(PeerId),
    /// End a connection once what was sent before is on its way.
    Disconnect(PeerId),
    /// Write what is known.
    Save,
}

/// A connection.
struct Talk {
    address: PeerAddress,
    caller: bool,
    version: u16,
    nonce: u64,
    /// When it is over, whatever has been said.
    until: Duration,
    greeted: bool,
    genesis_sent: bool,
    messages: u32,
    /// What it may say of addresses (AE1).
    gossip: AddressPeer,
    closing: bool,
}

/// Actions as they are decided.
type Actions = Vec<Action>;

/// The crawler.
pub struct Crawler {
    options: CrawlerOptions,
    rng: StdRng,
    book: Addresses,
    directory: Directory,
    talks: BTreeMap<PeerId, Talk>,
    dialling: BTreeMap<PeerAddress, Duration>,
    /// When each address to begin with is dialled again, unless the directory has it.
    starts: BTreeMap<PeerAddress, Duration>,
    own: BTreeSet<PeerAddress>,
    nonces: BTreeSet<u64>,
    /// Whether the next visit is to somebody new rather than to somebody known.
    turn_of_new: bool,
    next_dial: Duration,
    next_save: Duration,
    next_report: Duration,
}

impl Crawler {
    /// With the two files that earlier runs left, and a seed for all its randomness. A file that cannot be used is told
    /// of and begun anew.
    pub fn new(options: CrawlerOptions, book: Option<&[u8]>, directory: Option<&[u8]>, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let private = options.allow_private;
        let anew = |what: &str, error| tracing::warn!(%error, "{what} cannot be used; beginning anew");
        let book = book.and_then(|bytes| {
            Addresses::from_bytes(bytes, private).inspect_err(|error| anew("peers.dat", *error)).ok()
        });
        let directory = directory.and_then(|bytes| {
            Directory::from_bytes(bytes, private).inspect_err(|error| anew("directory.dat", *error)).ok()
        });
        Self {
            book: book.unwrap_or_else(|| Addresses::new(private, &mut rng)),
            directory: directory.unwrap_or_else(|| Directory::new(private)),
            rng,
            talks: BTreeMap::new(),
            dialling: BTreeMap::new(),
            starts: options.starts.iter().map(|address| (*address, Duration::ZERO)).collect(),
            own: BTreeSet::new(),
            nonces: BTreeSet::new(),
            turn_of_new: false,
            next_dial: Duration::ZERO,
            next_save: SAVE_INTERVAL,
            next_report: Duration::ZERO,
            options,
        }
    }

    /// Addresses heard of, as bytes of a file.
    pub fn book_bytes(&self) -> Vec<u8> {
        self.book.to_bytes()
    }

    /// The directory, as bytes of a file.
    pub fn directory_bytes(&self) -> Vec<u8> {
        self.directory.to_bytes()
    }

    /// The directory, to read.
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Addresses heard of, to read.
    pub const fn book(&self) -> &Addresses {
        &self.book
    }

    /// Takes an event; what follows from it.
    pub fn handle(&mut self, now: Now, event: Event) -> Actions {
        let mut actions = Actions::new();
        match event {
            Event::Connected { peer, address, caller, version } => {
                self.connected(now, peer, address, caller, version, &mut actions);
            }
            Event::DialFailed { address, ourselves } => {
                self.dialling.remove(&address);
                if ourselves {
                    self.learn_own(address);
                }
                self.directory.missed(&address, now);
            }
            Event::Message { peer, message } => self.message(now, peer, message, &mut actions),
            Event::Disconnected { peer } => {
                if let Some(talk) = self.talks.remove(&peer) {
                    self.nonces.remove(&talk.nonce);
                    if !talk.caller && !talk.greeted {
                        self.directory.missed(&talk.address, now);
                    }
                }
            }
            Event::Tick => self.tick(now, &mut actions),
        }
        actions
    }

    fn connected(
        &mut self,
        now: Now,
        peer: PeerId,
        address: PeerAddress,
        caller: bool,
        version: u16,
        actions: &mut Actions,
    ) {
        let refused = caller && !self.has_chair(&address);
        if !caller {
            self.dialling.remove(&address);
        }
        let nonce = self.rng.random();
        let stay = if caller { STAY_TIMEOUT } else { HELLO_TIMEOUT };
        let talk = Talk {
            address,
            caller,
            version,
            nonce,
            until: now.monotonic + stay,
            greeted: false,
            genesis_sent: false,
            messages: 0,
            gossip: AddressPeer::new(now),
            closing: refused,
        };
        self.talks.insert(peer, talk);
        if refused {
            actions.push(Action::Disconnect(peer));
            return;
        }
        if self.nonces.len() >= NONCES_MAX {
            self.nonces.pop_first();
        }
        self.nonces.insert(nonce);
        actions.push(Action::Send(peer, Message::Hello(Box::new(self.hello(nonce, now)))));
    }

    /// What the seeder says of itself: it serves no bodies, relays nothing, and wants nothing announced.
    fn hello(&self, nonce: u64, now: Now) -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            agent: self.options.agent.clone(),
            services: 0,
            fork_id: greeting::fork_id(&self.options.network),
            serves: (0, 0),
            nonce,
            listen_port: self.options.listen_port,
            relay: false,
            time: now.unix_seconds,
            extras: Vec::new(),
        }
    }

    fn has_chair(&self, address: &PeerAddress) -> bool {
        let callers = self.talks.values().filter(|talk| talk.caller && !talk.closing);
        let (mut all, mut near) = (0, 0);
        let mine = Group::of(&address.host);
        for talk in callers {
            all += 1;
            near += usize::from(Group::of(&talk.address.host) == mine);
        }
        let lifted = self.options.allow_private && group::private(&address.host);
        all < self.options.callers_max && (lifted || near < CALLERS_PER_GROUP)
    }

    fn close(&mut self, peer: PeerId, actions: &mut Actions) {
        if let Some(talk) = self.talks.get_mut(&peer).filter(|talk| !talk.closing) {
            talk.closing = true;
            actions.push(Action::Disconnect(peer));
        }
    }

    fn learn_own(&mut self, address: PeerAddress) {
        if self.own.len() < OWN_MAX {
            self.own.insert(address);
        }
    }

    fn message(&mut self, now: Now, peer: PeerId, message: Message, actions: &mut Actions) {
        let Some(talk) = self.talks.get_mut(&peer).filter(|talk| !talk.closing) else { return };
        talk.messages += 1;
        if talk.messages > MESSAGES_MAX {
            return self.close(peer, actions);
        }
        match message {
            Message::Hello(hello) if !talk.greeted => self.greeted(now, peer, &hello, actions),
            // Legal before `Hello`, and once: the seeder may be the address of an invite.
            Message::GetGenesis if !talk.genesis_sent => {
                talk.genesis_sent = true;
                actions.push(Action::SendGenesis(peer));
            }
            Message::Hello(_) | Message::GetGenesis | Message::Genesis(_) => self.close(peer, actions),
            _ if !talk.greeted => self.close(peer, actions),
            Message::Ping(nonce) => actions.push(Action::Send(peer, Message::Pong(nonce))),
            // A node answers nobody whom it dialled; neither does the seeder.
            Message::GetAddresses(serves) if talk.caller => {
                let kind: Kind = group::kind(&talk.address.host);
                let answer = self.directory.answer(kind, serves, now, &mut self.rng);
                actions.push(Action::Send(peer, Message::Addresses(answer)));
                self.close(peer, actions);
            }
            Message::Addresses(records) => {
                self.book.receive(&mut talk.gossip, &talk.address, &records, now, &mut self.rng);
                if !talk.caller {
                    self.close(peer, actions);
                }
            }
            // Of the chain it knows nothing: what is said of it is passed over.
            Message::Pong(_)
            | Message::GetAddresses(_)
            | Message::GetHeaders { .. }
            | Message::Headers(_)
            | Message::Announce(_)
            | Message::AnnounceBlock(_)
            | Message::GetTransactions { .. }
            | Message::Transactions(_)
            | Message::GetBlocks(_)
            | Message::Block(_)
            | Message::CompactBlock(_)
            | Message::GetBlockTransactions { .. }
            | Message::BlockTransactions(_)
            | Message::NotFound(_)
            | Message::FeeFilter(_)
            | Message::SendCompact(_)
            | Message::GetSnapshot
            | Message::Snapshot { .. }
            | Message::GetManifest(_)
            | Message::Manifest(_)
            | Message::GetCoins(_)
            | Message::Coins { .. } => {}
        }
    }

    fn greeted(&mut self, now: Now, peer: PeerId, hello: &Hello, actions: &mut Actions) {
        let Some(talk) = self.talks.get_mut(&peer) else { return };
        let (address, caller) = (talk.address, talk.caller);
        if self.nonces.contains(&hello.nonce) {
            if !caller {
                self.learn_own(address);
            }
            return self.close(peer, actions);
        }
        if greeting::check(&self.options.network, hello, talk.version).is_err() {
            return self.close(peer, actions);
        }
        talk.greeted = true;
        if caller {
            if hello.listen_port != 0 {
                let time = u32::try_from(now.unix_seconds).unwrap_or(u32::MAX);
                let listens = PeerAddress { port: hello.listen_port, ..address };
                let record = AddressRecord { address: listens, services: hello.services, serves: hello.serves, time };
                self.book.add(&record, &address, now, &mut self.rng);
            }
            return;
        }
        talk.until = now.monotonic + ANSWER_TIMEOUT;
        self.book.good(&address, now);
        self.book.connected(&address, hello.services, hello.serves, now);
        if self.directory.reached(&address, hello.services, hello.serves, now) {
            tracing::info!(%address, agent = hello.agent, height = hello.serves.1, "a node of the directory");
        }
        if self.directory.asks(&address, now) {
            talk.gossip.asked();
            actions.push(Action::Send(peer, Message::GetAddresses(Serves::Any)));
        } else {
            self.close(peer, actions);
        }
    }

    fn tick(&mut self, now: Now, actions: &mut Actions) {
        let time = now.monotonic;
        let late = self.talks.iter().filter(|(_, talk)| time >= talk.until).map(|(peer, _)| *peer);
        for peer in late.collect::<Vec<_>>() {
            self.close(peer, actions);
        }
        self.dialling.retain(|_, since| time.saturating_sub(*since) < DIAL_TIMEOUT);
        let visits = self.talks.values().filter(|talk| !talk.caller).count() + self.dialling.len();
        if time >= self.next_dial && visits < VISITS_MAX {
            let next = self.next_visit(now);
            self.next_dial = time + if next.is_some() { DIAL_INTERVAL } else { IDLE_INTERVAL };
            if let Some(address) = next {
                self.dialling.insert(address, time);
                self.book.attempt(&address, now);
                actions.push(Action::Dial(address));
            }
        }
        if time >= self.next_save {
            self.next_save = time + SAVE_INTERVAL;
            actions.push(Action::Save);
        }
        if time >= self.next_report {
            self.next_report = time + REPORT_INTERVAL;
            let (known, good) = (self.book.len(), self.directory.good(now));
            let callers = self.talks.values().filter(|talk| talk.caller).count();
            tracing::info!(known, good, dialling = visits, callers, "crawling");
        }
    }

    /// Somebody known and somebody new in turn, so that neither can keep the other waiting.
    fn next_visit(&mut self, now: Now) -> Option<PeerAddress> {
        if let Some(start) = self.next_start(now) {
            return Some(start);
        }
        self.turn_of_new = !self.turn_of_new;
        if self.turn_of_new {
            self.next_new(now).or_else(|| self.next_known(now))
        } else {
            self.next_known(now).or_else(|| self.next_new(now))
        }
    }

    /// An address to begin with that is not in the directory: it is dialled again and again, as the operator wants.
    fn next_start(&mut self, now: Now) -> Option<PeerAddress> {
        let interval = self.directory.interval(now);
        let (directory, talks, dialling, own) = (&self.directory, &self.talks, &self.dialling, &self.own);
        let waits = |address: &PeerAddress| {
            directory.get(address).is_none()
                && !own.contains(address)
                && !dialling.contains_key(address)
                && !talks.values().any(|talk| talk.address == *address)
        };
        let due = self.starts.iter_mut().find(|(address, due)| now.monotonic >= **due && waits(address));
        due.map(|(address, due)| {
            *due = now.monotonic + interval;
            *address
        })
    }

    fn next_known(&mut self, now: Now) -> Option<PeerAddress> {
        self.directory.take_due(now).filter(|address| self.may_dial(address))
    }

    fn next_new(&mut self, now: Now) -> Option<PeerAddress> {
        let rest = if self.directory.good(now) < super::directory::YOUNG { REST_SECONDS_YOUNG } else { REST_SECONDS };
        for _ in 0..TRIES {
            let entry = self.book.select(false, now, &mut self.rng)?;
            let rests = entry.last_try != 0 && now.unix_seconds.saturating_sub(entry.last_try) < rest;
            let known = self.directory.get(&entry.address).is_some();
            if !rests && !known && !entry.terrible(now.unix_seconds) && self.may_dial(&entry.address) {
                return Some(entry.address);
            }
        }
        None
    }

    fn may_dial(&self, address: &PeerAddress) -> bool {
        group::acceptable(address, self.options.allow_private)
            && (self.options.onion || group::kind(&address.host) != Kind::Onion)
            && !self.own.contains(address)
            && !self.dialling.contains_key(address)
            && !self.talks.values().any(|talk| talk.address == *address)
    }
}
