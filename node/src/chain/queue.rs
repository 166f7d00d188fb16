//! Two bounded queues with one reader, commands and imports, which take turns. Whoever finds no place waits for one.
//!
//! What a queue holds and how much is the caller's choice. The locks come from `sync`, so that a model checker can put its own
//! in their place and try every order of events (`tests/queue.rs`).

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering};
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// What an import takes of the queue's bytes.
pub trait Weight {
    /// Bytes.
    fn bytes(&self) -> usize;
}

/// What may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Commands.
    pub commands: usize,
    /// Imports.
    pub imports: usize,
    /// Their bytes; one beyond this waits unless it is alone.
    pub import_bytes: usize,
}

/// The two queues.
pub struct Queue<C, I> {
    limits: Limits,
    inside: Mutex<Inside<C, I>>,
    /// Something to do.
    arrived: Condvar,
    /// Something was taken.
    space: Condvar,
    stopping: AtomicBool,
}

struct Inside<C, I> {
    commands: VecDeque<C>,
    imports: VecDeque<I>,
    import_bytes: usize,
    /// Whether imports are next, if there are both.
    imports_next: bool,
    closed: bool,
}

/// What is next for the reader.
#[derive(Debug, PartialEq, Eq)]
pub enum Work<C, I> {
    /// A command.
    Command(C),
    /// Imports wait: this one, and perhaps others.
    Imports(I),
}

impl<C, I: Weight> Inside<C, I> {
    fn take_import(&mut self) -> Option<I> {
        let import = self.imports.pop_front()?;
        self.import_bytes -= import.bytes();
        Some(import)
    }
}

impl<C, I: Weight> Queue<C, I> {
    /// Empty queues.
    pub fn new(limits: Limits) -> Self {
        let inside = Inside {
            commands: VecDeque::new(),
            imports: VecDeque::new(),
            import_bytes: 0,
            imports_next: false,
            closed: false,
        };
        Self {
            limits,
            inside: Mutex::new(inside),
            arrived: Condvar::new(),
            space: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Nothing here is left half done by a panic.
    fn lock(&self) -> MutexGuard<'_, Inside<C, I>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as the queues are open and `full`.
    fn place(&self, full: impl Fn(&Inside<C, I>) -> bool) -> MutexGuard<'_, Inside<C, I>> {
        let mut inside = self.lock();
        while !inside.closed && full(&inside) {
            inside = self.space.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        inside
    }

    /// Queues a command once there is a place. It is dropped if the queues are closed.
    pub fn send(&self, command: C) {
        let inside = self.place(|inside| inside.commands.len() >= self.limits.commands);
        self.push(inside, command);
    }

    /// Queues a command whether there is a place or not.
    pub fn send_at_once(&self, command: C) {
        self.push(self.lock(), command);
    }

    fn push(&self, mut inside: MutexGuard<'_, Inside<C, I>>, command: C) {
        if inside.closed {
            // Not under the lock: dropping it may call back.
            drop(inside);
            return;
        }
        inside.commands.push_back(command);
        self.arrived.notify_one();
    }

    /// Queues an import once there is a place. It is dropped if the queues are closed.
    pub fn import(&self, import: I) {
        let bytes = import.bytes();
        let mut inside = self.place(|inside| {
            inside.imports.len() >= self.limits.imports
                || (!inside.imports.is_empty() && inside.import_bytes + bytes > self.limits.import_bytes)
        });
        if inside.closed {
            drop(inside);
            return;
        }
        inside.import_bytes += bytes;
        inside.imports.push_back(import);
        self.arrived.notify_one();
    }

    /// Waits for something to do, at most `timeout`; commands and imports take turns. Nothing as well once it is to stop.
    pub fn wait(&self, timeout: Duration) -> Option<Work<C, I>> {
        let deadline = Instant::now() + timeout;
        let mut inside = self.lock();
        loop {
            let import = inside.imports_next || inside.commands.is_empty();
            let work = if import { inside.take_import().map(Work::Imports) } else { None };
            if let Some(work) = work.or_else(|| inside.commands.pop_front().map(Work::Command)) {
                inside.imports_next = matches!(work, Work::Command(_));
                self.space.notify_all();
                return Some(work);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.is_stopping() || left.is_zero() {
                return None;
            }
            (inside, _) = self.arrived.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A command, if one waits.
    pub fn try_command(&self) -> Option<C> {
        let command = self.lock().commands.pop_front()?;
        self.space.notify_all();
        Some(command)
    }

    /// An import, if one waits.
    pub fn try_import(&self) -> Option<I> {
        let import = self.lock().take_import()?;
        self.space.notify_all();
        Some(import)
    }

    /// Asks the reader to stop.
    pub fn stop(&self) {
        // Under the lock, so that a reader about to wait sees it.
        let inside = self.lock();
        self.stopping.store(true, Ordering::SeqCst);
        drop(inside);
        self.arrived.notify_all();
    }

    /// Whether the reader is to stop, or has.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Nothing is taken any more: what waits is dropped, and whoever waits for a place goes on.
    pub fn close(&self) {
        self.stop();
        let mut inside = self.lock();
        inside.closed = true;
        let left = (std::mem::take(&mut inside.commands), std::mem::take(&mut inside.imports));
        inside.import_bytes = 0;
        drop(inside);
        self.space.notify_all();
        drop(left);
    }
}
