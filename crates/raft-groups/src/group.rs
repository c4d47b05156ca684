//! One Raft group on this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, NodeId};
use openraft::errors::{
    ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError,
};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Instant as _, Raft, RaftMetrics};
use raft_machine::{GroupError, StoreError};
use tokio::time::Instant;

use crate::database::Database;
use crate::host::GroupHost;
use crate::log_store::LogStore;
use crate::machine::GroupMachine;
use crate::types::{Command, Types};

/// How long a leader that slept waits for a majority to confirm it.
const LEASE_WAIT: Duration = Duration::from_millis(500);
/// A lease that ends so soon is taken for ended: clocks of two nodes don't run at quite the same speed.
const LEASE_MARGIN: Duration = Duration::from_millis(100);

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
    /// For so long after a majority's last confirmation nobody else can lead.
    lease: Duration,
    /// The last term in which this node gave the lead away: its lease is worth nothing then.
    transferred_term: AtomicU64,
    /// Whether it was logged that the group stopped here.
    stop_logged: AtomicBool,
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
        lease: Duration,
    ) -> Self {
        Group {
            id: host.group,
            raft,
            host,
            log,
            database,
            receiving: Arc::default(),
            lease,
            transferred_term: AtomicU64::new(0),
            stop_logged: AtomicBool::new(false),
            rest: Mutex::new(Rest {
                quiet: false,
                used: Instant::now(),
            }),
        }
    }

    pub fn metrics(&self) -> RaftMetrics<Types> {
        self.look(RaftMetrics::clone)
    }

    /// Looks at the metrics without a copy of all maps in them; `read` must be short.
    fn look<T>(&self, read: impl FnOnce(&RaftMetrics<Types>) -> T) -> T {
        use openraft::async_runtime::watch::WatchReceiver;
        let metrics = self.raft.metrics();
        let newest = metrics.borrow_watched();
        read(&newest)
    }

    /// The leader, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.look(|metrics| match metrics.running_state {
            Ok(()) => metrics.current_leader.map(NodeId),
            Err(_) => None,
        })
    }

    /// Why the group stopped on this node, unless it was told to.
    pub fn failure(&self) -> Option<String> {
        self.look(|metrics| match &metrics.running_state {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(fatal) => Some(fatal.to_string()),
        })
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

    /// As [`Group::wake`], unless another node is known to lead: a follower that slept has heard nothing for long, so its
    /// clock would have it stand for election before that leader's first word gets here.
    fn wake_to_lead(&self) {
        if self.leads() || self.leader().is_none() {
            self.wake();
        }
    }

    /// Proposes a command (operation id in front) if this node leads.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, Miss> {
        self.wake_to_lead();
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
        self.wake_to_lead();
        if let Some(index) = self.confirmed_by_lease() {
            return Ok(index);
        }
        let sure = self.lease.saturating_sub(LEASE_MARGIN);
        let option = LinearizerOption::new(Some(sure), true).with_wait_timeout(LEASE_WAIT);
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

    /// The index that is applied here, if this node surely leads and has surely applied all that was acknowledged: the
    /// same as [`Group::confirm_leadership`] without a way through openraft's queue.
    ///
    /// The metrics may be some moments old. That does no harm: an older confirmation gives a shorter lease, and within it
    /// nobody else leads, whatever happened here since. A leader acknowledges after it has applied and published, so what
    /// is published covers what this leader acknowledged; and what earlier leaders did, once an entry of its own term is
    /// applied.
    fn confirmed_by_lease(&self) -> Option<u64> {
        let applied = self.host.applied_id()?;
        let lead = self.look(|metrics| Lead {
            leads: metrics.running_state.is_ok() && metrics.state.is_leader(),
            term: metrics.current_term,
            alone: metrics
                .membership_config
                .membership()
                .voter_ids()
                .eq([metrics.id]),
            // When the confirmed message was sent, by this node's own clock.
            confirmed_ago: metrics.last_quorum_acked.map(|sent| sent.elapsed()),
        });
        let transferred = self.transferred_term.load(Ordering::Acquire);
        lead.is_sure(applied.leader_id.term, transferred, self.lease)
            .then_some(applied.index)
    }

    /// Gives the lead to `to`. From now on the lease says nothing: others vote at once.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), Fatal<Types>> {
        let term = self.look(|metrics| metrics.current_term);
        self.transferred_term.fetch_max(term, Ordering::AcqRel);
        self.raft.trigger().transfer_leader(to.0).await
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

    /// Asks the machine, whatever is applied here. Blocks, but reads mostly hit redb's cache and take microseconds: a hop to
    /// another thread would cost more than it saves.
    pub fn query_here(&self, query: &[u8]) -> Result<Bytes, StoreError> {
        let reading = self.database.read()?;
        let record = reading.group(self.id)?;
        let view = reading.view(self.id, record.map_or(0, |record| record.generation));
        Ok(self.host.machine.query(&view, query)?.into())
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
    /// Entries after `upto` stay.
    pub async fn trim(&self, upto: u64) -> Result<(), GroupError> {
        let failed = |error: &dyn std::fmt::Display| GroupError::Store(error.to_string());
        let Some(durable) = self.host.durable_next().checked_sub(1) else {
            return Ok(());
        };
        let upto = upto.min(durable);
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
        self.log_stop(fatal);
        Miss::NotLeader(None)
    }

    /// Logs why the group stopped here, once.
    pub fn log_stop(&self, why: &dyn std::fmt::Display) {
        if !self.stop_logged.swap(true, Ordering::AcqRel) {
            tracing::error!(group = %self.id, %why, "the group stopped on this node");
        }
    }
}

/// What the metrics say of this node's lead.
#[derive(Debug, Clone, Copy)]
struct Lead {
    leads: bool,
    term: u64,
    /// Whether this node is the only voter.
    alone: bool,
    /// How long ago a message was sent that a majority has answered.
    confirmed_ago: Option<Duration>,
}

impl Lead {
    /// See [`Group::confirmed_by_lease`].
    fn is_sure(&self, applied_term: u64, transferred_term: u64, lease: Duration) -> bool {
        let confirmed = self
            .confirmed_ago
            .is_some_and(|ago| ago + LEASE_MARGIN < lease);
        self.leads
            && applied_term == self.term
            && transferred_term != self.term
            && (self.alone || confirmed)
    }
}

fn not_leader(forward: ForwardToLeader<Types>) -> Miss {
    Miss::NotLeader(forward.leader_id.map(NodeId))
}

#[cfg(test)]
mod tests {
    use ids::OperationId;
    use raft_machine::Groups;
    use testkit::sim::{SimDisk, block_on};

    use super::*;
    use crate::testing;

    #[test]
    fn a_lead_that_was_given_away_is_not_confirmed_by_its_lease() {
        block_on(async {
            const GROUP: GroupId = GroupId(7);
            let groups = testing::start(SimDisk::new()).await.unwrap();
            groups.bootstrap(GROUP).await.unwrap();
            let (operation, command) = (OperationId([1; 16]), Bytes::from_static(b"first"));
            let limit = Duration::from_secs(30);
            let first = groups.propose(GROUP, operation, command, limit).await;
            assert_eq!(first.unwrap(), "first");
            let group = groups.find(GROUP).unwrap();
            let applied = group.host.applied_id().unwrap();
            assert_eq!(group.confirmed_by_lease(), Some(applied.index));
            let term = applied.leader_id.term;
            group.transferred_term.store(term, Ordering::Release);
            assert_eq!(group.confirmed_by_lease(), None);
            let confirmed = group.confirm_leadership().await;
            assert_eq!(confirmed.unwrap(), applied.index);
        });
    }

    const LEASE: Duration = Duration::from_millis(2_500);
    const SURE: Lead = Lead {
        leads: true,
        term: 7,
        alone: false,
        confirmed_ago: Some(Duration::from_millis(2_399)),
    };

    #[test]
    fn a_lead_is_sure_only_within_the_lease_of_its_own_term() {
        assert!(SURE.is_sure(7, 6, LEASE));
        let alone = Lead {
            alone: true,
            confirmed_ago: None,
            ..SURE
        };
        assert!(alone.is_sure(7, 6, LEASE));
        for lead in [SURE, alone] {
            assert!(!lead.is_sure(6, 0, LEASE), "its first entry is not applied");
            assert!(!lead.is_sure(7, 7, LEASE), "it gave the lead away");
            let follower = Lead {
                leads: false,
                ..lead
            };
            assert!(!follower.is_sure(7, 6, LEASE));
        }
        let late = Some(Duration::from_millis(2_400));
        for confirmed_ago in [None, late] {
            let lead = Lead {
                confirmed_ago,
                ..SURE
            };
            assert!(!lead.is_sure(7, 6, LEASE), "{confirmed_ago:?}");
        }
    }
}
