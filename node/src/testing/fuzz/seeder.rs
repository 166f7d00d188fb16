//! The seeder's crawler as a state machine: any order of dials, callers, messages and time. It sends only to those who
//! are there and not leaving, and names only addresses at which it was itself greeted by a node with blocks.

use super::Input;
use super::world::{START, hello, host, world};
use crate::chain::Now;
use crate::p2p::brain::interface::PeerId;
use crate::p2p::limits::ADDRESSES_MAX;
use crate::p2p::message::{AddressRecord, Message, PeerAddress, services};
use crate::seeder::crawler::{Action, Crawler, CrawlerOptions, Event};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Operations of a run.
const OPERATIONS_MAX: usize = 1_024;

struct Run {
    crawler: Crawler,
    now: Now,
    peers: u64,
    /// Who is there: where, whether it called, and whether it was sent away.
    open: BTreeMap<u64, (PeerAddress, bool, bool)>,
    dials: Vec<PeerAddress>,
    /// At which addresses a node with blocks has greeted.
    reached: BTreeSet<PeerAddress>,
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let starts = (0..input.below(4) as u8).map(host).collect();
    let options = CrawlerOptions {
        network: world().network.clone(),
        agent: "/seeder/".to_owned(),
        listen_port: 1,
        allow_private: false,
        callers_max: 6,
        starts,
        onion: false,
    };
    let now = Now { unix_seconds: START, monotonic: Duration::ZERO };
    let crawler = Crawler::new(options, None, None, [5; 32]);
    let (open, dials, reached) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    let mut run = Run { crawler, now, peers: 0, open, dials, reached };
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
    }
    // What it would save reads back.
    let (book, directory) = (run.crawler.book_bytes(), run.crawler.directory_bytes());
    let options = CrawlerOptions {
        network: world().network.clone(),
        agent: String::new(),
        listen_port: 0,
        allow_private: false,
        callers_max: 0,
        starts: Vec::new(),
        onion: false,
    };
    let again = Crawler::new(options, Some(&book), Some(&directory), [6; 32]);
    assert_eq!(
        (again.book().len(), again.directory().len()),
        (run.crawler.book().len(), run.crawler.directory().len())
    );
    assert!(run.crawler.directory().len() <= run.reached.len());
}

impl Run {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 10 {
            0 => {
                let millis = u64::from(input.u8()) * 256;
                self.pass(millis);
            }
            // Four hours at most, in steps of a minute.
            1 => (0..u16::from(input.u8())).for_each(|_| self.pass(60_000)),
            2 if !self.dials.is_empty() => {
                let address = self.dials.remove(0);
                self.connect(address, false);
            }
            3 if !self.dials.is_empty() => {
                let address = self.dials.remove(0);
                self.handle(Event::DialFailed { address, ourselves: input.u8() == 255 });
            }
            4 => {
                let caller = PeerAddress { port: 50_000, ..host(input.u8()) };
                self.connect(caller, true);
            }
            5 => {
                let Some(peer) = self.pick(input) else { return };
                let bits = u64::from(input.u8() & 1);
                let greeting = hello(&world().network, bits, 9, u64::from(input.u8()) + 1_000);
                self.says(peer, greeting);
            }
            6 => {
                let Some(peer) = self.pick(input) else { return };
                let message = world().messages[input.below(world().messages.len())].clone();
                self.says(peer, message);
            }
            7 => {
                let Some(peer) = self.pick(input) else { return };
                let record = |number| {
                    let time = START as u32;
                    AddressRecord { address: host(number), services: services::BLOCKS, serves: (0, 9), time }
                };
                let count = input.below(64);
                let records = input.bytes(count).iter().map(|number| record(*number)).collect();
                self.says(peer, Message::Addresses(records));
            }
            8 => {
                let Some(peer) = self.pick(input) else { return };
                self.open.remove(&peer);
                self.handle(Event::Disconnected { peer: PeerId(peer) });
            }
            _ => {
                let Some(peer) = self.pick(input) else { return };
                let (kind, count) = (input.u8() % 21, usize::from(input.u8()));
                if let Ok(message) = Message::decode(kind, input.bytes(count).to_vec(), 0) {
                    self.says(peer, message);
                }
            }
        }
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<u64> {
        let index = usize::from(input.u8()) % self.open.len().max(1);
        self.open.keys().nth(index).copied()
    }

    fn pass(&mut self, millis: u64) {
        self.now.monotonic += Duration::from_millis(millis);
        self.now.unix_seconds = START + self.now.monotonic.as_secs();
        self.handle(Event::Tick);
    }

    fn connect(&mut self, address: PeerAddress, caller: bool) {
        self.peers += 1;
        self.open.insert(self.peers, (address, caller, false));
        self.handle(Event::Connected { peer: PeerId(self.peers), address, caller, version: 1 });
    }

    fn says(&mut self, peer: u64, message: Message) {
        let greets = matches!(&message, Message::Hello(hello) if hello.services & services::BLOCKS != 0);
        let visited = self.open.get(&peer).filter(|(_, caller, leaving)| !caller && !leaving);
        if let (true, Some((address, ..))) = (greets, visited) {
            self.reached.insert(*address);
        }
        self.handle(Event::Message { peer: PeerId(peer), message });
    }

    fn handle(&mut self, event: Event) {
        let actions = self.crawler.handle(self.now, event);
        assert!(actions.len() <= self.open.len() + 4, "{} actions", actions.len());
        for action in actions {
            match action {
                Action::Dial(address) => {
                    assert!(!self.dials.contains(&address) || self.now.monotonic >= Duration::from_secs(60));
                    self.dials.push(address);
                }
                Action::Send(peer, message) => {
                    let leaving = self.open.get(&peer.0).map(|(_, _, leaving)| *leaving);
                    assert_eq!(leaving, Some(false), "{message:?}");
                    if let Message::Addresses(records) = &message {
                        assert!(records.len() as u64 <= ADDRESSES_MAX);
                        assert!(records.iter().all(|record| self.reached.contains(&record.address)));
                    }
                }
                Action::SendGenesis(peer) => assert!(self.open.contains_key(&peer.0)),
                Action::Disconnect(peer) => {
                    let open = self.open.get_mut(&peer.0).expect("only who is there is sent away");
                    assert!(!std::mem::replace(&mut open.2, true), "nobody is sent away twice");
                }
                Action::Save => {}
            }
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let visit = [0u8, 4, 2, 5, 0, 1, 9, 7, 0, 4, 1, 2, 3, 4, 8, 0];
    let call = [4u8, 99, 5, 0, 1, 8, 6, 0, 6, 8, 0];
    let failing = [0u8, 4, 3, 0, 0, 4, 3, 255];
    vec![
        [&[3u8], visit.repeat(4).as_slice(), &call].concat(),
        [&[2u8], visit.as_slice(), &[1, 30], &call, &failing].concat(),
        [&[1u8], failing.as_slice(), &call, &[1, 255]].concat(),
        [&[1u8], visit.repeat(8).as_slice(), &[1, 100], call.repeat(3).as_slice()].concat(),
        vec![0, 4, 1, 9, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8],
    ]
}
