//! Tells readers on this node that the registry's state machine has applied something.

use std::sync::Arc;

use tokio::sync::watch;

/// The log index up to which entries are applied here. Clones share it.
#[derive(Debug, Clone)]
pub struct ChangeSignal(Arc<watch::Sender<u64>>);

impl ChangeSignal {
    /// Nothing is applied yet.
    pub fn new() -> Self {
        ChangeSignal(Arc::new(watch::Sender::new(0)))
    }

    /// Wakes the followers. Wakes also when the index is an old one: a snapshot may have come.
    pub fn set(&self, index: u64) {
        self.0.send_replace(index);
    }

    /// Follows the signal from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

impl Default for ChangeSignal {
    fn default() -> Self {
        ChangeSignal::new()
    }
}
