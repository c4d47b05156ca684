//! One run of a simulated node: the production code of log, groups and registry, wired as `skerry` wires it.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ids::{GroupId, Incarnation, NodeId, OperationId, REGISTRY_GROUP};
use platform::Platform;
use raft_groups::{Directory, Options, RaftGroups};
use raft_wal::{Wal, WalOptions};
use registry::{ChangeSignal, IdSource, Registry, Uid};
use testkit::suites::groups as suite;
use tokio::sync::Notify;
use tokio::time::timeout;
use transport::Transport;

use crate::machine::SiteMachines;

/// The members of every group.
pub const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// The groups besides the registry's.
pub const LEDGERS: [GroupId; 4] = [GroupId(1), GroupId(2), GroupId(3), GroupId(4)];
/// How long a client's call may take.
pub const CALL_LIMIT: Duration = Duration::from_secs(3);

/// How long what is left of a dead run may take to end.
const BURIAL_MAX: Duration = Duration::from_secs(30);

/// What all nodes of a site are like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many groups there are besides the registry's; all hold ledgers.
    pub ledgers: u32,
    /// Groups that pin old segments are trimmed when there is more log than this.
    pub log_bytes_max: u64,
    /// Whether there is also the group that the suite of all [`raft_machine::Groups`] asks.
    pub suite: bool,
    /// A bug to be planted.
    #[cfg(debug_assertions)]
    pub planted: Option<raft_groups::Bug>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            ledgers: LEDGERS.len() as u32,
            log_bytes_max: 256 << 10,
            suite: false,
            #[cfg(debug_assertions)]
            planted: None,
        }
    }
}

impl Shape {
    /// Every group of the site.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        [REGISTRY_GROUP]
            .into_iter()
            .chain((1..=self.ledgers).map(GroupId))
            .chain(self.suite.then_some(suite::GROUP))
    }
}

/// The voters of a group, the preferred leader first; the preferred leaders are spread.
pub fn voters(group: GroupId) -> Vec<NodeId> {
    let mut voters = NODES.to_vec();
    voters.rotate_left(group.0 as usize % NODES.len());
    voters
}

/// See the module.
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// What it is like.
    pub shape: Shape,
    /// Its log.
    pub wal: Arc<Wal>,
    /// Its groups.
    pub groups: Arc<RaftGroups>,
    /// Its client of the registry.
    pub registry: Registry,
    is_down: AtomicBool,
    went_down: Notify,
}

impl Node {
    /// Starts the node from what its disk holds.
    pub async fn boot(
        id: NodeId,
        shape: Shape,
        platform: Arc<dyn Platform>,
        transport: Arc<dyn Transport>,
    ) -> Result<Node, String> {
        let wal = Wal::open(platform.clone(), "wal", wal_options())
            .await
            .map_err(in_words)?;
        let wal = Arc::new(wal);
        let options = Options {
            cache_bytes: 4 << 20,
            log_bytes_max: shape.log_bytes_max,
            #[cfg(debug_assertions)]
            planted: shape.planted,
            ..Options::new(id, Incarnation::random(&mut platform.rng()))
        };
        let signal = ChangeSignal::new();
        let groups = RaftGroups::start(
            platform.clone(),
            transport,
            wal.clone(),
            Arc::new(SiteMachines(signal.clone())),
            Arc::new(Placement(id)),
            options,
        )
        .await
        .map_err(in_words)?;
        for group in shape.groups() {
            groups.open(group).await.map_err(in_words)?;
        }
        let ids = Arc::new(Ids(platform));
        let registry = Registry::new(groups.clone(), REGISTRY_GROUP, ids, signal);
        Ok(Node {
            id,
            shape,
            wal,
            groups,
            registry: registry.with_deadline(CALL_LIMIT),
            is_down: AtomicBool::new(false),
            went_down: Notify::new(),
        })
    }

    /// Does something on this node; nothing comes of it when the node goes down first.
    pub async fn meanwhile<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.down() => None,
            done = work => Some(done),
        }
    }

    async fn down(&self) {
        loop {
            let told = self.went_down.notified();
            if self.is_down.load(Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }

    /// Takes the node from its users.
    pub fn take_away(&self) {
        self.is_down.store(true, Ordering::Release);
        self.went_down.notify_waiters();
    }

    /// Ends the tasks of a run whose disk and network are gone: from now on it can do nothing that matters.
    pub async fn bury(&self) {
        let ending = async {
            self.registry.stop().await;
            self.groups.shutdown().await;
        };
        let _ = timeout(BURIAL_MAX, ending).await;
    }
}

/// Small segments, so that they are rolled, trimmed and used again in a short run.
fn wal_options() -> WalOptions {
    WalOptions {
        segment_bytes: 64 << 10,
        cache_bytes: 256 << 10,
        ..WalOptions::default()
    }
}

/// An error with what caused it.
pub fn in_words(error: impl Display) -> String {
    error.to_string()
}

/// Every node votes in every group, see [`voters`].
struct Placement(NodeId);

impl Directory for Placement {
    fn voters(&self, group: GroupId) -> Vec<NodeId> {
        voters(group)
    }

    fn learners(&self, _: GroupId) -> Vec<NodeId> {
        Vec::new()
    }

    fn peers(&self) -> Vec<NodeId> {
        NODES.into_iter().filter(|node| *node != self.0).collect()
    }
}

struct Ids(Arc<dyn Platform>);

impl IdSource for Ids {
    fn uid(&self) -> Uid {
        let mut bytes = [0; 16];
        self.0.fill_random(&mut bytes);
        Uid(bytes)
    }

    fn operation(&self) -> OperationId {
        OperationId::random(&mut self.0.rng())
    }

    fn wall_ms(&self) -> u64 {
        self.0.wall_ms().0
    }
}
