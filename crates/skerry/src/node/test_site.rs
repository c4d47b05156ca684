//! For the tests of this folder: a machine whose clock can be set, a registry in memory, the first node of a site.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use identity::{NodeCertificate, NodeGrant, NodeKey, SiteCa};
use ids::{NodeId, REGISTRY_GROUP};
use platform::system::SystemPlatform;
use platform::{BlockingWork, Disk, Platform, WallMs};
use raft_machine::local::LocalGroups;
use registry::{ChangeSignal, Registry, RegistryMachine, RegistryOptions};

use super::folder::Folder;
use super::found::{NodeSelf, found, kept_authority, open_authority};
use super::settings::random_listen;

pub const DAY_MS: u64 = 24 * 3_600_000;

/// This machine, but for its wall clock.
#[derive(Debug)]
pub struct SetClock {
    system: SystemPlatform,
    wall_ms: AtomicU64,
}

impl SetClock {
    /// Shows the right time until it is set.
    pub fn new(folder: &Path) -> Arc<Self> {
        let system = SystemPlatform::new(folder).unwrap();
        let wall_ms = AtomicU64::new(system.wall_ms().0);
        Arc::new(SetClock { system, wall_ms })
    }

    /// The time that TLS goes by.
    pub fn right_ms(&self) -> u64 {
        self.system.wall_ms().0
    }

    pub fn set(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::Relaxed);
    }
}

#[async_trait]
impl Platform for SetClock {
    fn disk(&self) -> Arc<dyn Disk> {
        self.system.disk()
    }

    fn wall_ms(&self) -> WallMs {
        WallMs(self.wall_ms.load(Ordering::Relaxed))
    }

    fn fill_random(&self, out: &mut [u8]) {
        self.system.fill_random(out);
    }

    async fn run_blocking(&self, work: BlockingWork) {
        self.system.run_blocking(work).await;
    }
}

/// The registry of a site of one node.
pub fn registry(platform: Arc<dyn Platform>) -> Arc<Registry> {
    let (groups, signal) = (LocalGroups::new(), ChangeSignal::new());
    let machine = RegistryMachine::new(signal.clone(), RegistryOptions::default());
    groups.register(REGISTRY_GROUP, Arc::new(machine));
    let source = Arc::new(super::Ids(platform));
    Arc::new(Registry::new(
        Arc::new(groups),
        REGISTRY_GROUP,
        source,
        signal,
    ))
}

/// The first node of a site, and what its transport needs.
pub struct Founded {
    _path: tempfile::TempDir,
    pub clock: Arc<SetClock>,
    pub folder: Folder,
    pub own: NodeSelf,
}

/// Founded so many days ago.
pub fn founded(days: u64) -> Founded {
    let path = tempfile::tempdir().unwrap();
    let clock = SetClock::new(path.path());
    clock.set(clock.right_ms() - days * DAY_MS);
    let folder = Folder::lock(&path.path().join("node")).unwrap();
    found(&folder, &*clock, random_listen(), "site".into(), 1).unwrap();
    let own = NodeSelf::load(&folder).unwrap().unwrap();
    Founded {
        _path: path,
        clock,
        folder,
        own,
    }
}

impl Founded {
    pub fn authority(&self) -> SiteCa {
        let kept = kept_authority(&self.folder).unwrap().unwrap();
        open_authority(&kept, &self.own.site_key).unwrap()
    }

    /// A certificate of another node, issued now.
    pub fn other(&self, node: NodeId) -> NodeCertificate {
        let (ca, key) = (self.authority(), NodeKey::generate().unwrap());
        let csr = key.csr().unwrap();
        let now = self.clock.right_ms();
        let platform: &(dyn Platform + 'static) = &*self.clock;
        let issued = ca.issue_node(&NodeGrant::new(node), &csr, now, &mut platform.rng());
        NodeCertificate::from_issued(issued.unwrap(), &key, &ca.fingerprint()).unwrap()
    }

    pub fn renew(&mut self) {
        self.own.renew_if_due(&self.folder, &*self.clock);
    }
}
