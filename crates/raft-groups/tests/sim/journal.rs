//! What a run has to tell: the trace, how much was acknowledged, and what was wrong.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use registry::RegistryError;
use testkit::sim::Trace;

/// See the module.
pub struct Journal {
    trace: Trace,
    closing: AtomicBool,
    acknowledged: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Journal {
    /// An empty one over the run's trace.
    pub fn new(trace: Trace) -> Journal {
        Journal {
            trace,
            closing: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            wrong: Mutex::default(),
        }
    }

    /// Asks the clients to end.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether the clients go on.
    pub fn is_open(&self) -> bool {
        !self.closing.load(Ordering::Relaxed)
    }

    /// Adds a client's outcome to the trace.
    pub fn note(&self, what: impl Display) {
        self.trace.event(what);
    }

    /// Adds a write that is promised.
    pub fn acknowledged(&self, what: impl Display) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.note(what);
    }

    /// How many writes are promised.
    pub fn acknowledged_total(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// A promise was broken.
    pub fn wrong(&self, what: impl Display) {
        self.note(format_args!("wrong: {what}"));
        lock(&self.wrong).push(what.to_string());
    }

    /// Takes an error that a client may meet: nobody answered. Others are wrong.
    pub fn unanswered(&self, what: impl Display, error: &RegistryError) {
        match error {
            RegistryError::Group(_) => self.note(format_args!("{what}: {error}")),
            error => self.wrong(format_args!("{what}: {error}")),
        }
    }

    /// What was wrong, the first first.
    pub fn all_wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }
}

/// Locks; a panic elsewhere is reported elsewhere.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
