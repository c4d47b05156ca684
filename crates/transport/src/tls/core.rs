//! What the parts of one transport share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use ids::{NodeId, SiteId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificates::Configs;
use super::{AddressBook, Admission, JoinHandler};
use crate::{Handler, Service};

pub(super) struct Core {
    pub(super) site: SiteId,
    pub(super) node: NodeId,
    pub(super) book: Arc<dyn AddressBook>,
    /// Every task of the transport, so that a shutdown can wait for them.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    configs: RwLock<Arc<Configs>>,
    admission: RwLock<Option<Arc<dyn Admission>>>,
    join_handler: RwLock<Option<Arc<dyn JoinHandler>>>,
    handlers: RwLock<BTreeMap<Service, Arc<dyn Handler>>>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (site, node) = (&self.site, &self.node);
        f.debug_struct("Core")
            .field("site", site)
            .field("node", node)
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(
        site: SiteId,
        node: NodeId,
        book: Arc<dyn AddressBook>,
        configs: Configs,
    ) -> Core {
        Core {
            site,
            node,
            book,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            configs: RwLock::new(Arc::new(configs)),
            admission: RwLock::default(),
            join_handler: RwLock::default(),
            handlers: RwLock::default(),
        }
    }

    pub(super) fn configs(&self) -> Arc<Configs> {
        self.configs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_configs(&self, configs: Configs) {
        *self.configs.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(configs);
    }

    pub(super) fn admits(&self, node: NodeId) -> bool {
        let admission = self
            .admission
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        admission.is_none_or(|admission| admission.admits(node))
    }

    pub(super) fn set_admission(&self, admission: Arc<dyn Admission>) {
        *self
            .admission
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(admission);
    }

    pub(super) fn join_handler(&self) -> Option<Arc<dyn JoinHandler>> {
        self.join_handler
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_join_handler(&self, handler: Arc<dyn JoinHandler>) {
        *self
            .join_handler
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(handler);
    }

    pub(super) fn handler(&self, service: Service) -> Option<Arc<dyn Handler>> {
        self.handlers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&service)
            .cloned()
    }

    pub(super) fn set_handler(&self, service: Service, handler: Arc<dyn Handler>) {
        self.handlers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(service, handler);
    }

    /// Runs a task until it is done or the transport stops.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}
