//! One Raft group on this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, NodeId};
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Raft, RaftMetrics};
use raft_machine::{GroupError, StoreError};
use tokio::time::Instant;

use crate::database::Database;
use crate::host::GroupHost;
use crate::log_store::LogStore;
use crate::machine::GroupMachine;
use crate::types::{Command, Types};

/// How long a leader that slept waits for a majority to confirm it.
const LEASE_WAIT: Duration = Duration::from_millis(500);

/// Why an attempt on this node did not answer.
#[derive(Debug)]
pub(crate) enum Miss {
    /// Another node leads, if that is known.
    NotLeader(Option<NodeId>),
    /// The leader can't confirm that it still leads; or an election is going on.
    NoQuorum(String),
    /// No use in trying again.
    Failed(GroupError),
}

/// See the module.
pub(crate) struct Group {
    pub id: GroupId,
    pub raft: Raft<Types, GroupMachine>,
    pub host: Arc<GroupHost>,
    pub log: LogStore,
    pub database: Arc<Database>,
    /// Held while a snapshot comes in.
    pub receiving: Arc<tokio::sync::Mutex<()>>,
    rest: Mutex<Rest>,
}

/// Whether the group sleeps, and when it was last used; under one lock with the switching of openraft's clock, so that the
/// two always agree.
struct Rest {
    quiet: bool,
    used: Instant,
}

impl Group {
    pub fn new(
        raft: Raft<Types, GroupMachine>,
        host: Arc<GroupHost>,
        log: LogStore,
        database: Arc<Database>,
    ) -> Self {
        Group {
            id: host.group,
            raft,
            host,
            log,
            database,
            receiving: Arc::default(),
            rest: Mutex::new(Rest {
                quiet: false,
                used: Instant::now(),
            }),
        }
    }

    pub fn metrics(&self) -> RaftMetrics<Types> {
        use openraft::async_runtime::watch::WatchReceiver;
        self.raft.metrics().borrow_watched().clone()
    }

    /// The leader, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        let metrics = self.metrics();
        let leader = metrics
            .running_state
            .is_ok()
            .then_some(metrics.current_leader);
        leader.flatten().map(NodeId)
    }

    pub fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_quiet(&self) -> bool {
        self.rest().quiet
    }

    /// How long ago the group was last used by anybody on this node.
    pub fn idle_for(&self) -> Duration {
        self.rest().used.elapsed()
    }

    /// Stops timers, heartbeats and elections until [`Group::wake`], unless the group was used within `idle`.
    pub fn sleep_after(&self, idle: Duration) {
        let mut rest = self.rest();
        if rest.used.elapsed() >= idle {
            rest.quiet = true;
            self.raft.runtime_config().tick(false);
        }
    }

    /// Starts them again.
    pub fn wake(&self) {
        let mut rest = self.rest();
        rest.used = Instant::now();
        if std::mem::take(&mut rest.quiet) {
            self.raft.runtime_config().tick(true);
        }
    }

    /// Proposes a command (operation id in front) if this node leads.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, Miss> {
        self.wake();
        for attempt in 0..2 {
            match self.raft.client_write(Command(command.clone())).await {
                Ok(written) => return Ok(written.data.0),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    use openraft::errors::ForwardReason;
                    if matches!(forward.reason, ForwardReason::LeaseExpired) && attempt == 0 {
                        self.confirm_leadership().await?;
                        continue;
                    }
                    return Err(not_leader(forward));
                }
                Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward))) => {
                    return Err(not_leader(forward));
                }
                Err(RaftError::APIError(other)) => {
                    return Err(Miss::Failed(GroupError::Store(other.to_string())));
                }
                Err(RaftError::Fatal(fatal)) => return Err(self.stopped(&fatal)),
            }
        }
        Err(Miss::NoQuorum("the leader's lease ran out".into()))
    }

    /// Waits until everything that was acknowledged anywhere before the call is visible here; only the leader can.
    /// Returns the index up to which that is.
    pub async fn confirm_leadership(&self) -> Result<u64, Miss> {
        self.wake();
        let option = LinearizerOption::new(None, true).with_wait_timeout(LEASE_WAIT);
        let linearizer = match self.raft.get_read_linearizer(option).await {
            Ok(linearizer) => linearizer,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(not_leader(forward));
            }
            Err(RaftError::APIError(other)) => return Err(Miss::NoQuorum(other.to_string())),
            Err(RaftError::Fatal(fatal)) => return Err(self.stopped(&fatal)),
        };
        let index = linearizer.read_log_id().index();
        match linearizer.await_ready(&self.raft).await {
            Ok(_) => Ok(index),
            Err(fatal) => Err(self.stopped(&fatal)),
        }
    }

    /// Waits until `index` is applied here.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> bool {
        self.host.applied_next() > index
            || self
                .raft
                .wait(Some(limit))
                .applied_index_at_least(Some(index), "a read index")
                .await
                .is_ok()
    }

    /// Asks the machine, whatever is applied here.
    pub async fn query_here(&self, query: Bytes) -> Result<Bytes, StoreError> {
        let (database, host) = (self.database.clone(), self.host.clone());
        // Reads mostly hit redb's cache and take microseconds: a hop to another thread would cost more than it saves.
        let reading = database.read()?;
        let record = reading.group(self.id)?;
        let view = reading.view(self.id, record.map_or(0, |record| record.generation));
        Ok(host.machine.query(&view, &query)?.into())
    }

    /// Makes this node's log start a group with these voters; for the first node of a site.
    pub async fn initialize(&self, voters: BTreeSet<u64>) -> Result<(), GroupError> {
        match self.raft.initialize(voters).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(GroupError::Store(error.to_string())),
        }
    }

    /// Lets go of log entries that the database covers, so that this group pins no old segment.
    pub async fn trim(&self) -> Result<(), GroupError> {
        let failed = |error: &dyn std::fmt::Display| GroupError::Store(error.to_string());
        let durable = self.host.durable_next();
        let Some(upto) = durable.checked_sub(1) else {
            return Ok(());
        };
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|error| failed(&error))?;
        let built = self.raft.wait(Some(Duration::from_secs(10)));
        let built = built
            .metrics(
                |metrics| metrics.snapshot.is_some_and(|id| id.index >= upto),
                "a snapshot to trim the log",
            )
            .await;
        built.map_err(|error| failed(&error))?;
        self.raft
            .trigger()
            .purge_log(upto)
            .await
            .map_err(|error| failed(&error))
    }

    /// The replica here failed: others may lead.
    fn stopped(&self, fatal: &dyn std::fmt::Display) -> Miss {
        tracing::error!(group = %self.id, %fatal, "the group stopped on this node");
        Miss::NotLeader(None)
    }
}

fn not_leader(forward: ForwardToLeader<Types>) -> Miss {
    Miss::NotLeader(forward.leader_id.map(NodeId))
}
