//! When a revision was committed, as near as a state machine can see it: the moment at which a replica began to apply it.
//!
//! The leader begins right after the commit, followers later; so the earliest of all replicas counts. Nothing is noted
//! until somebody asks for it: the other measurements run on the plain machine and one load of an atomic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ids::Revision;
use raft_machine::{Batch, Machine, StoreError, View};
use registry::machine::decode_response;
use registry::{ChangeSignal, RegistryMachine, RegistryOptions};

use crate::machine::now_ns;

/// What one replica saw.
#[derive(Default)]
pub struct Stamps {
    wanted: AtomicBool,
    commits: Mutex<Vec<(Revision, u64)>>,
}

impl Stamps {
    /// From now on commits are noted.
    pub fn begin(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// The commits since [`Stamps::begin`], with the monotonic clock's nanoseconds; no more are noted.
    pub fn end(&self) -> Vec<(Revision, u64)> {
        self.wanted.store(false, Ordering::Release);
        std::mem::take(&mut *self.commits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, response: &[u8], at_ns: u64) {
        let response = Bytes::copy_from_slice(response);
        if let Ok(Ok(committed)) = decode_response(&response) {
            self.commits
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((committed.revision, at_ns));
        }
    }
}

/// The registry's machine with a look at the clock.
pub struct StampedRegistry {
    machine: RegistryMachine,
    stamps: Arc<Stamps>,
}

impl StampedRegistry {
    /// A machine that wakes the followers of `signal`.
    pub fn new(signal: ChangeSignal, stamps: Arc<Stamps>) -> Self {
        StampedRegistry {
            machine: RegistryMachine::new(signal, RegistryOptions::default()),
            stamps,
        }
    }
}

impl Machine for StampedRegistry {
    fn apply(
        &self,
        batch: &mut dyn Batch,
        index: u64,
        command: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        if !self.stamps.wanted.load(Ordering::Acquire) {
            return self.machine.apply(batch, index, command);
        }
        let at_ns = now_ns();
        let response = self.machine.apply(batch, index, command)?;
        self.stamps.note(&response, at_ns);
        Ok(response)
    }

    fn query(&self, view: &dyn View, query: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.machine.query(view, query)
    }

    fn applied(&self, index: u64) {
        self.machine.applied(index);
    }
}
