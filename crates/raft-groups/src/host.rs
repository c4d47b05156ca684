//! One group's state on this node: its machine, which generation of keys is in force, and the results it keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use ids::{GroupId, OperationId};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use raft_machine::{Machine, StoreError};

use crate::codec;
use crate::database::{Database, GroupRecord, Writing};
use crate::results::Results;
use crate::types::{Entry, LogId, StoredMembership};

/// What a group has applied, as far as commits of the database go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applied {
    pub generation: u32,
    pub log_id: Option<LogId>,
    pub membership: StoredMembership,
}

/// See the module.
pub(crate) struct GroupHost {
    pub group: GroupId,
    pub machine: Arc<dyn Machine>,
    state: Mutex<HostState>,
    /// The highest index that a checkpoint made durable, plus one; the log must keep everything from here on.
    durable_next: AtomicU64,
}

struct HostState {
    applied: Applied,
    results: Results,
}

impl GroupHost {
    /// Reads a group's state from the database; all of that is durable.
    pub fn open(
        database: &Database,
        group: GroupId,
        machine: Arc<dyn Machine>,
    ) -> Result<Self, StoreError> {
        let reading = database.read()?;
        let state = match reading.group(group)? {
            None => HostState {
                applied: Applied::default(),
                results: Results::default(),
            },
            Some(record) => {
                let (log_id, membership) = codec::decode_state(record.state)?;
                let results = Results::load(&reading.view(group, record.generation))?;
                HostState {
                    applied: Applied {
                        generation: record.generation,
                        log_id,
                        membership,
                    },
                    results,
                }
            }
        };
        let durable_next = AtomicU64::new(next_index(&state.applied));
        if let Some(id) = &state.applied.log_id {
            machine.applied(id.index);
        }
        Ok(GroupHost {
            group,
            machine,
            state: Mutex::new(state),
            durable_next,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HostState> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is applied and visible to reads.
    pub fn applied(&self) -> Applied {
        self.lock().applied.clone()
    }

    /// The first index that is not durably applied.
    pub fn durable_next(&self) -> u64 {
        self.durable_next.load(Ordering::Acquire)
    }

    /// Called after a checkpoint that covers everything applied up to `next`.
    pub fn set_durable(&self, next: u64) {
        self.durable_next.fetch_max(next, Ordering::AcqRel);
    }

    /// The first index that is not applied.
    pub fn applied_next(&self) -> u64 {
        next_index(&self.lock().applied)
    }

    /// Applies entries in a commit in the making; returns a response for each. When the commit fails the node must not
    /// use this host any more.
    pub fn apply(
        &self,
        writing: &mut Writing<'_>,
        entries: &[Entry],
    ) -> Result<Vec<Bytes>, StoreError> {
        let mut state = self.lock();
        let generation = state.applied.generation;
        let mut responses = Vec::with_capacity(entries.len());
        {
            let mut batch = writing.batch(self.group, generation);
            for entry in entries {
                let id = entry.log_id();
                let response = match &entry.payload {
                    EntryPayload::Blank => Bytes::new(),
                    EntryPayload::Membership(membership) => {
                        state.applied.membership =
                            StoredMembership::new(Some(id), membership.clone());
                        Bytes::new()
                    }
                    EntryPayload::Normal(command) => {
                        let Some((operation, command)) = command.0.split_first_chunk::<16>() else {
                            return Err(StoreError::Damaged(
                                "a proposal has no operation id".into(),
                            ));
                        };
                        let operation = OperationId(*operation);
                        let response = match state.results.get(&batch, operation)? {
                            Some(first) => first,
                            None => {
                                let response = self.machine.apply(&mut batch, id.index, command)?;
                                state
                                    .results
                                    .put(&mut batch, id.index, operation, &response)?;
                                response
                            }
                        };
                        Bytes::from(response)
                    }
                };
                responses.push(response);
                state.applied.log_id = Some(id);
            }
        }
        writing.set_group(self.group, &record(&state.applied))?;
        Ok(responses)
    }

    /// Puts a received generation into force.
    pub fn install(&self, writing: &mut Writing<'_>, applied: &Applied) -> Result<(), StoreError> {
        writing.set_group(self.group, &record(applied))
    }

    /// Takes over what [`GroupHost::install`] committed.
    pub fn installed(&self, database: &Database, applied: Applied) -> Result<(), StoreError> {
        let reading = database.read()?;
        let results = Results::load(&reading.view(self.group, applied.generation))?;
        let mut state = self.lock();
        state.applied = applied;
        state.results = results;
        Ok(())
    }
}

fn record(applied: &Applied) -> GroupRecord {
    GroupRecord {
        generation: applied.generation,
        state: codec::encode_state(applied.log_id.as_ref(), &applied.membership),
    }
}

fn next_index(applied: &Applied) -> u64 {
    applied.log_id.as_ref().map_or(0, |id| id.index + 1)
}
