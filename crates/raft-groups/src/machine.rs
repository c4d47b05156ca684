//! One group's state machine as openraft drives it: applies through the node's writer, snapshots by reference.
//!
//! A snapshot is a consistent view of the database, so building one costs nothing; its rows are read when they are sent.
//! A received snapshot is a filled generation of keys that [`GroupMachine::install_snapshot`] puts into force.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, SnapshotMeta};
use openraft::type_config::alias::SnapshotOf;

use crate::applier::Applier;
use crate::codec;
use crate::database::{Database, Reading};
use crate::host::{Applied, GroupHost};
use crate::types::{LogId, Reply, StoredMembership, Types};

/// A snapshot's rows: still to be read here, or received from the leader.
#[derive(Clone)]
pub(crate) enum SnapshotRows {
    /// A view to read them from.
    View {
        reading: Arc<Reading>,
        generation: u32,
    },
    /// A generation of keys that holds them.
    Received { generation: u32 },
}

pub(crate) type Snapshot = SnapshotOf<Types, SnapshotRows>;

/// See the module.
#[derive(Clone)]
pub(crate) struct GroupMachine {
    pub database: Arc<Database>,
    pub applier: Applier,
    pub host: Arc<GroupHost>,
}

fn failed(error: raft_machine::StoreError) -> io::Error {
    io::Error::other(error)
}

impl GroupMachine {
    fn snapshot(&self) -> Result<Option<Snapshot>, io::Error> {
        let reading = self.database.read().map_err(failed)?;
        let Some(record) = reading.group(self.host.group).map_err(failed)? else {
            return Ok(None);
        };
        let (last_log_id, last_membership) = codec::decode_state(record.state).map_err(failed)?;
        let rows = SnapshotRows::View {
            reading: Arc::new(reading),
            generation: record.generation,
        };
        Ok(Some(Snapshot {
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
            snapshot: rows,
        }))
    }
}

impl RaftSnapshotBuilder<Types> for GroupMachine {
    type SnapshotData = SnapshotRows;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.snapshot()?.ok_or_else(|| {
            io::Error::other("nothing was applied yet: there is nothing to snapshot")
        })
    }
}

impl RaftStateMachine<Types> for GroupMachine {
    type SnapshotData = SnapshotRows;
    type SnapshotBuilder = GroupMachine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.host.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        let mut batch = Vec::new();
        let mut responders = Vec::new();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            batch.push(entry);
            responders.push(responder);
        }
        let replies = self
            .applier
            .apply(self.host.clone(), batch)
            .await
            .map_err(failed)?;
        for (responder, reply) in responders.into_iter().zip(replies) {
            if let Some(responder) = responder {
                responder.send(Reply(reply));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> GroupMachine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<openraft::type_config::alias::CommittedLeaderIdOf<Types>, u64, ()>,
        rows: SnapshotRows,
    ) -> Result<(), io::Error> {
        let SnapshotRows::Received { generation } = rows else {
            return Err(io::Error::other(
                "a snapshot to install must have been received",
            ));
        };
        let applied = Applied {
            generation,
            log_id: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        self.applier
            .install(self.host.clone(), applied)
            .await
            .map_err(failed)?;
        self.applier
            .remove_stale(self.host.clone())
            .await
            .map_err(failed)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.snapshot()
    }
}
