//! What the tests of this crate share: a machine that can be made to fail, and a simulated node that is a site of its own.

use std::sync::Arc;

use ids::{GroupId, Incarnation, NodeId};
use platform::Platform;
use raft_machine::{Batch, GroupError, Machine, StoreError, View};
use raft_wal::{Wal, WalOptions};
use testkit::sim::{SimDisk, SimNetwork, SimPlatform, SimPlatformConfig, Trace};

use crate::groups::{Directory, Machines, Options, RaftGroups};
use crate::types::{CommittedLeader, LogId};

/// The only node.
pub(crate) const NODE: NodeId = NodeId(1);

/// The id of an entry.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeader::from(term), index)
}

/// Answers a command with itself and keeps the last one; a query gives that.
pub(crate) struct Echo;

impl Echo {
    /// A command that is not admitted.
    pub const GARBAGE: &'static [u8] = b"garbage";
    /// A command that makes the machine panic.
    pub const PANIC: &'static [u8] = b"panic";
}

impl Machine for Echo {
    fn admit(&self, command: &[u8]) -> Result<(), String> {
        match command == Echo::GARBAGE {
            true => Err("this is garbage".into()),
            false => Ok(()),
        }
    }

    fn apply(
        &self,
        batch: &mut dyn Batch,
        _index: u64,
        command: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        batch.put(b"last", command)?;
        assert!(command != Echo::PANIC, "as asked");
        if command == Echo::GARBAGE {
            return Err(StoreError::Damaged("garbage got into the log".into()));
        }
        Ok(command.to_vec())
    }

    fn query(&self, view: &dyn View, _query: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(view.get(b"last")?.unwrap_or_default())
    }
}

struct Echoes;

impl Machines for Echoes {
    fn machine(&self, _: GroupId) -> Arc<dyn Machine> {
        Arc::new(Echo)
    }
}

struct Alone;

impl Directory for Alone {
    fn voters(&self, _: GroupId) -> Vec<NodeId> {
        vec![NODE]
    }

    fn learners(&self, _: GroupId) -> Vec<NodeId> {
        Vec::new()
    }

    fn peers(&self) -> Vec<NodeId> {
        Vec::new()
    }
}

/// Starts the node from what `disk` holds.
pub(crate) async fn start(disk: SimDisk) -> Result<Arc<RaftGroups>, GroupError> {
    let platform: Arc<dyn Platform> = SimPlatform::new(disk, SimPlatformConfig::default());
    let transport = SimNetwork::new(1, Trace::new()).bring_up(NODE);
    let wal = Wal::open(platform.clone(), "wal", WalOptions::default())
        .await
        .expect("the test's log opens");
    RaftGroups::start(
        platform,
        transport,
        Arc::new(wal),
        Arc::new(Echoes),
        Arc::new(Alone),
        Options::new(NODE, Incarnation([0; 16])),
    )
    .await
}
