//! All groups of a node: opens them, serves peers, stops them. How a request finds its replica: `route.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use ids::{GroupId, Incarnation, NodeId};
use openraft::{Config, Raft, SnapshotPolicy};
use platform::Platform;
use raft_machine::{GroupError, Machine, StoreError};
use raft_wal::Wal;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::Transport;

use crate::applier::Applier;
use crate::database::Database;
use crate::failure::Failure;
use crate::group::Group;
use crate::host::GroupHost;
use crate::log_store::LogStore;
use crate::machine::GroupMachine;
use crate::network::{Network, SNAPSHOTS_MAX};

/// Makes the state machine of a group.
pub trait Machines: Send + Sync {
    /// The machine of `group`; called once for each time the group is opened.
    fn machine(&self, group: GroupId) -> Arc<dyn Machine>;
}

/// Where groups should be: the placement of the current epoch.
pub trait Directory: Send + Sync {
    /// The servers that should vote in a group, the preferred leader first; empty when that isn't known yet.
    fn voters(&self, group: GroupId) -> Vec<NodeId>;

    /// The servers that should follow without a vote.
    fn learners(&self, group: GroupId) -> Vec<NodeId>;

    /// The other servers of the site.
    fn peers(&self) -> Vec<NodeId>;
}

/// Bounds and times of a node's groups.
#[derive(Debug, Clone)]
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// This run of its process.
    pub incarnation: Incarnation,
    /// When the last run of this node was surely over: a lease that it gave counts from here at the latest.
    pub alone_since: Instant,
    /// Memory for pages of the state database.
    pub cache_bytes: usize,
    /// A leader of a used group says so this often.
    pub heartbeat: Duration,
    /// A follower that heard nothing for longer than this (and a random part of it) stands for election; also the lease.
    pub election: Duration,
    /// An unused group goes to sleep after this.
    pub quiet_after: Duration,
    /// More log than this and groups that pin old segments are trimmed.
    pub log_bytes_max: u64,
    /// A bug that a simulation plants; release builds have no such field.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub planted: Option<crate::planted::Bug>,
}

impl Options {
    /// For so long after its last confirmation a leader may believe that it leads.
    pub fn lease(&self) -> Duration {
        self.election + self.election / 4
    }

    /// For so long this node's leaders believe that they lead: a lease.
    pub(crate) fn lease_counted_on(&self) -> Duration {
        #[cfg(debug_assertions)]
        if self.planted == Some(crate::planted::Bug::LongLease) {
            return self.lease() * 3;
        }
        self.lease()
    }

    /// Until then this node votes for nobody: a lease after its last run.
    pub(crate) fn no_votes_before(&self) -> Instant {
        #[cfg(debug_assertions)]
        if self.planted == Some(crate::planted::Bug::VotesAtOnce) {
            return self.alone_since;
        }
        self.alone_since + self.lease()
    }

    /// The defaults for a node whose last run is over now.
    pub fn new(node: NodeId, incarnation: Incarnation) -> Self {
        Options {
            node,
            incarnation,
            alone_since: Instant::now(),
            cache_bytes: 48 << 20,
            heartbeat: Duration::from_millis(300),
            // Small virtual machines stand still for a second now and then.
            election: Duration::from_secs(2),
            quiet_after: Duration::from_secs(2),
            log_bytes_max: 128 << 20,
            #[cfg(debug_assertions)]
            planted: None,
        }
    }
}

/// See the module.
pub struct RaftGroups {
    pub(crate) options: Options,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) wal: Arc<Wal>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) applier: Applier,
    database: Arc<Database>,
    machines: Arc<dyn Machines>,
    config: Arc<Config>,
    groups: RwLock<BTreeMap<GroupId, Arc<Group>>>,
    /// Leaders as answers named them, for groups that are not here.
    pub(crate) hints: RwLock<BTreeMap<GroupId, NodeId>>,
    pub(crate) started: Instant,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
    opening: tokio::sync::Mutex<()>,
    /// Shared by all groups; see [`SNAPSHOTS_MAX`].
    snapshots: Arc<Semaphore>,
    /// See [`RaftGroups::until_failed`].
    pub(crate) failure: Failure,
}

impl RaftGroups {
    /// Opens the state database and every group that it or the log knows, and serves peers.
    pub fn start(
        platform: Arc<dyn Platform>,
        transport: Arc<dyn Transport>,
        wal: Arc<Wal>,
        machines: Arc<dyn Machines>,
        directory: Arc<dyn Directory>,
        options: Options,
    ) -> BoxFuture<'static, Result<Arc<Self>, GroupError>> {
        Box::pin(async move {
            let (disk, cache_bytes) = (platform.disk(), options.cache_bytes);
            let database = platform
                .blocking(move || Database::open(&*disk, cache_bytes))
                .await
                .map_err(store_error)?;
            let database = Arc::new(database);
            let (checkpointed, mut checkpoints) = tokio::sync::watch::channel(());
            let on_checkpoint = Arc::new(move || {
                checkpointed.send_replace(());
            });
            let failure = Failure::default();
            let (applier, writer) = Applier::start(
                platform.clone(),
                database.clone(),
                on_checkpoint,
                failure.clone(),
            );
            let groups = Arc::new(RaftGroups {
                config: Arc::new(config(&options)?),
                options,
                platform,
                transport,
                wal,
                directory,
                applier,
                database,
                machines,
                groups: RwLock::default(),
                hints: RwLock::default(),
                started: Instant::now(),
                tasks: std::sync::Mutex::new(vec![writer]),
                opening: tokio::sync::Mutex::new(()),
                snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
                failure,
            });
            let known = groups
                .database
                .read()
                .and_then(|reading| reading.group_ids())
                .map_err(store_error)?;
            for group in known.into_iter().chain(groups.wal.groups()) {
                groups.open(group).await?;
            }
            let weak = Arc::downgrade(&groups);
            groups.keep(tokio::spawn(async move {
                while checkpoints.changed().await.is_ok() {
                    let Some(groups) = weak.upgrade() else { break };
                    for group in groups.all() {
                        if let Err(error) = group.log.purge_covered().await {
                            tracing::error!(%error, group = %group.id, "the log could not be trimmed");
                        }
                    }
                }
            }));
            crate::service::serve(&groups);
            groups.keep(crate::upkeep::start(&groups));
            Ok(groups)
        })
    }

    pub(crate) fn keep(&self, task: JoinHandle<()>) {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task);
    }

    /// Opens a group on this node, new or known; fine when it is open.
    pub fn open(&self, id: GroupId) -> BoxFuture<'_, Result<(), GroupError>> {
        Box::pin(async move { self.opened(id).await.map(drop) })
    }

    async fn opened(&self, id: GroupId) -> Result<Arc<Group>, GroupError> {
        let _one_at_a_time = self.opening.lock().await;
        if let Some(group) = self.find(id) {
            return Ok(group);
        }
        let (database, machine) = (self.database.clone(), self.machines.machine(id));
        let host = self
            .platform
            .blocking(move || GroupHost::open(&database, id, machine))
            .await
            .map_err(store_error)?;
        let host = Arc::new(host);
        let log = LogStore::new(self.wal.clone(), host.clone());
        log.check_fits().map_err(GroupError::Store)?;
        let machine = GroupMachine {
            database: self.database.clone(),
            applier: self.applier.clone(),
            host: host.clone(),
        };
        let network = Network {
            platform: self.platform.clone(),
            transport: self.transport.clone(),
            group: id,
            snapshots: self.snapshots.clone(),
        };
        let raft = Raft::new(
            self.options.node.0,
            self.config.clone(),
            network,
            log.clone(),
            machine,
        )
        .await
        .map_err(|error| GroupError::Store(format!("group {id} can't be opened: {error}")))?;
        let group = Arc::new(Group::new(
            raft,
            host,
            log,
            self.database.clone(),
            self.options.lease_counted_on(),
        ));
        self.stand_after_lease(group.clone());
        self.groups
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, group.clone());
        Ok(group)
    }

    /// Lets the group hold elections here, but not before a lease has passed since the node's last run, in which it may
    /// have confirmed a leader. Whoever votes alone confirmed only itself.
    fn stand_after_lease(&self, group: Arc<Group>) {
        let me = self.options.node;
        let voters: Vec<u64> = group
            .metrics()
            .membership_config
            .membership()
            .voter_ids()
            .collect();
        let alone = voters == [me.0];
        let preferred = alone || self.directory.voters(group.id).first() == Some(&me);
        let from = match alone {
            true => self.options.alone_since,
            false => self.options.alone_since + self.options.lease(),
        };
        self.keep(tokio::spawn(async move {
            tokio::time::sleep_until(from).await;
            group.raft.runtime_config().elect(true);
            if preferred && !voters.is_empty() && group.leader().is_none() {
                // No use in waiting for the others' silence. Asked first: a leader may have been heard from just now, and
                // it counts on the lease that this node gave it.
                let _ = group.raft.trigger().elect(true).await;
            }
        }));
    }

    /// Makes this node the only voter of a new group; for the first node of a site.
    pub fn bootstrap(&self, id: GroupId) -> BoxFuture<'_, Result<(), GroupError>> {
        Box::pin(async move {
            let group = self.opened(id).await?;
            group.initialize([self.options.node.0].into()).await
        })
    }

    /// The group, if it is on this node.
    pub(crate) fn find(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Group>> {
        self.groups
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The groups on this node.
    pub fn ids(&self) -> Vec<GroupId> {
        self.groups
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .copied()
            .collect()
    }

    /// Whether this node leads the group.
    pub fn leads(&self, id: GroupId) -> bool {
        self.find(id).is_some_and(|group| group.leads())
    }

    /// Makes everything applied so far durable in the state database.
    pub fn checkpoint(&self) -> BoxFuture<'_, Result<(), GroupError>> {
        Box::pin(async move { self.applier.checkpoint().await.map_err(store_error) })
    }

    /// How many checkpoints there were.
    pub fn checkpoints(&self) -> u64 {
        self.applier.checkpoints()
    }

    /// Waits until this node can't go on: its state database failed, or a group stopped for another reason than its own
    /// commands. Says why, in words. The process should end then: what its groups would do is up to the other nodes.
    pub fn until_failed(&self) -> BoxFuture<'_, String> {
        Box::pin(async move { self.failure.until_set().await })
    }

    /// Stops all groups, then makes what they applied durable.
    pub fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for group in self.all() {
                if let Err(error) = group.raft.shutdown().await {
                    tracing::warn!(group = %group.id, %error, "a group did not stop cleanly");
                }
            }
            if let Err(error) = self.checkpoint().await {
                tracing::warn!(%error, "no last checkpoint; the log will be applied again at the next start");
            }
            for task in self
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .drain(..)
            {
                task.abort();
            }
        })
    }
}

pub(crate) fn store_error(error: StoreError) -> GroupError {
    GroupError::Store(error.to_string())
}

fn config(options: &Options) -> Result<Config, GroupError> {
    let millis = |duration: Duration| duration.as_millis().try_into().unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "skerry".into(),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election),
        election_timeout_max: millis(options.lease()),
        install_snapshot_timeout: 60_000,
        max_payload_entries: 512,
        max_append_entries: Some(512),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(5_000),
        // A follower that was away for some seconds under load is sent entries and no snapshot; what that costs is bounded
        // by `log_bytes_max`.
        max_in_snapshot_log_to_keep: 50_000,
        purge_batch_size: 256,
        api_channel_size: Some(4096),
        notification_channel_size: Some(4096),
        state_machine_channel_size: Some(256),
        enable_pre_vote: Some(true),
        // A leader that was started again must commit an entry of a new term before it answers reads: what it had applied
        // is in its log, not in its state.
        enable_leader_restore: Some(false),
        // See `stand_after_lease`.
        enable_elect: false,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| GroupError::Store(format!("the raft timings are off: {error}")))
}

#[cfg(test)]
mod tests;
