//! The queue before the chain's thread under a model checker: every order of events among a few threads, not a sample.
//!
//! The queue's own source is compiled here with loom's locks in place of std's. loom ends a model with an error if a thread
//! waits that nobody wakes. It knows no time-outs: a wait here ends because something came, or never.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use queue::{Limits, Queue, Weight, Work};
use std::time::Duration;

/// The locks of `queue.rs`.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering};
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}
#[path = "../src/chain/queue.rs"]
mod queue;

/// No wait may end by its time-out.
const FOR_EVER: Duration = Duration::from_secs(3_600);
/// Switches away from a thread that could go on, in one order of events: more find nothing new here and take minutes.
const PREEMPTIONS: usize = 3;

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// Counts itself when it is dropped, as a block's callback tells its sender.
struct Item {
    bytes: usize,
    ended: Arc<AtomicUsize>,
}

impl Drop for Item {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Weight for Item {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Tested {
    queue: Arc<Queue<Item, Item>>,
    ended: Arc<AtomicUsize>,
}

impl Tested {
    fn new(limits: Limits) -> Self {
        Self { queue: Arc::new(Queue::new(limits)), ended: Arc::new(AtomicUsize::new(0)) }
    }

    fn item(&self, bytes: usize) -> Item {
        Item { bytes, ended: self.ended.clone() }
    }

    fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    fn spawn(&self, run: impl FnOnce(&Queue<Item, Item>) + 'static) -> thread::JoinHandle<()> {
        let queue = self.queue.clone();
        thread::spawn(move || run(&queue))
    }
}

const ONE: Limits = Limits { commands: 1, imports: 1, import_bytes: 10 };

/// Two senders for one place and a reader: everything arrives, and nobody waits for ever.
#[test]
fn commands_arrive_though_there_is_one_place() {
    explore(|| {
        let tested = Tested::new(ONE);
        let (first, second) = (tested.item(0), tested.item(0));
        let senders = [tested.spawn(|queue| queue.send(first)), tested.spawn(|queue| queue.send(second))];
        for _ in 0..2 {
            assert!(matches!(tested.queue.wait(FOR_EVER), Some(Work::Command(_))));
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!(tested.ended(), 2);
        assert!(tested.queue.try_command().is_none());
    });
}

/// Imports wait for bytes as well as places; one that is too large for any passes when it is alone.
#[test]
fn imports_wait_for_room() {
    explore(|| {
        let tested = Tested::new(Limits { imports: 2, ..ONE });
        let (small, large) = (tested.item(6), tested.item(50));
        let senders = [tested.spawn(|queue| queue.import(small)), tested.spawn(|queue| queue.import(large))];
        let mut taken = 0;
        while taken < 2 {
            match tested.queue.wait(FOR_EVER) {
                Some(Work::Imports(_)) => taken += 1,
                _ => panic!("there is nothing else"),
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!(tested.ended(), 2);
    });
}

/// A command and an import that wait are taken in turns, whichever comes first: neither starves.
#[test]
fn commands_and_imports_take_turns() {
    explore(|| {
        let tested = Tested::new(Limits { commands: 2, imports: 2, import_bytes: 10 });
        for _ in 0..2 {
            tested.queue.send_at_once(tested.item(0));
        }
        let import = tested.item(1);
        let sender = tested.spawn(|queue| queue.import(import));
        sender.join().unwrap();
        let next = || tested.queue.wait(FOR_EVER);
        assert!(matches!(next(), Some(Work::Command(_))));
        assert!(matches!(next(), Some(Work::Imports(_))));
        assert!(matches!(next(), Some(Work::Command(_))));
        assert_eq!(tested.ended(), 3);
    });
}

/// Closing amid senders and a reader: each item is taken or dropped exactly once, and all go home.
#[test]
fn closing_lets_everyone_go() {
    explore(|| {
        let tested = Tested::new(ONE);
        let (command, import) = (tested.item(0), tested.item(7));
        tested.queue.send_at_once(tested.item(0));
        let sender = tested.spawn(|queue| {
            queue.send(command);
            queue.import(import);
        });
        let reader = tested.spawn(|queue| while queue.wait(FOR_EVER).is_some() {});
        tested.queue.close();
        sender.join().unwrap();
        reader.join().unwrap();
        assert!(tested.queue.is_stopping());
        assert_eq!(tested.ended(), 3);
        assert!(tested.queue.try_command().is_none() && tested.queue.try_import().is_none());
    });
}

/// A reader that is about to wait hears that it is to stop.
#[test]
fn a_waiting_reader_hears_of_the_stop() {
    explore(|| {
        let tested = Tested::new(ONE);
        let reader = tested.spawn(|queue| assert!(queue.wait(FOR_EVER).is_none()));
        tested.queue.stop();
        reader.join().unwrap();
    });
}
