//! The runs of a simulated node: what it serves, and the tasks that work for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::task::JoinSet;
use transport::{Handler, Service};

/// One node; up until it is taken down.
#[derive(Default)]
pub(super) struct Node {
    run: u64,
    down: bool,
    handlers: BTreeMap<Service, Arc<dyn Handler>>,
    tasks: JoinSet<()>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("run", &self.run)
            .field("down", &self.down)
            .finish_non_exhaustive()
    }
}

impl Node {
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    pub(super) fn is_up(&self) -> bool {
        !self.down
    }

    /// Returns what the run leaves behind; the tasks end when it is dropped.
    pub(super) fn go_down(&mut self) -> impl Sized + use<> {
        self.down = true;
        self.run += 1;
        (
            std::mem::take(&mut self.handlers),
            std::mem::take(&mut self.tasks),
        )
    }

    pub(super) fn come_up(&mut self) {
        self.down = false;
    }

    pub(super) fn serve(&mut self, service: Service, handler: Arc<dyn Handler>) {
        self.handlers.insert(service, handler);
    }

    pub(super) fn handler(&self, service: Service) -> Option<Arc<dyn Handler>> {
        self.handlers.get(&service).cloned()
    }

    /// Runs a task until the node goes down.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task);
    }
}
