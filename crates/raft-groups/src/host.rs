//! One group's state on this node: its machine, which generation of keys is in force, and the results it keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

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
    /// The writer's; runs ahead of what is committed.
    working: Mutex<HostState>,
    /// What the last commit of the database holds.
    visible: RwLock<Applied>,
    /// The highest index that a checkpoint made durable, plus one; the log must keep everything from here on.
    durable_next: AtomicU64,
}

struct HostState {
    applied: Applied,
    results: Results,
}

impl HostState {
    fn load(database: &Database, group: GroupId) -> Result<Self, StoreError> {
        let reading = database.read()?;
        let Some(record) = reading.group(group)? else {
            return Ok(HostState {
                applied: Applied::default(),
                results: Results::default(),
            });
        };
        let (log_id, membership) = codec::decode_state(record.state)?;
        let results = Results::load(&reading.view(group, record.generation))?;
        let applied = Applied {
            generation: record.generation,
            log_id,
            membership,
        };
        Ok(HostState { applied, results })
    }
}

impl GroupHost {
    /// Reads a group's state from the database; all of that is durable.
    pub fn open(
        database: &Database,
        group: GroupId,
        machine: Arc<dyn Machine>,
    ) -> Result<Self, StoreError> {
        let state = HostState::load(database, group)?;
        let visible = RwLock::new(state.applied.clone());
        let durable_next = AtomicU64::new(next_index(&state.applied));
        if let Some(id) = &state.applied.log_id {
            machine.applied(id.index);
        }
        Ok(GroupHost {
            group,
            machine,
            working: Mutex::new(state),
            visible,
            durable_next,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HostState> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is applied and visible to reads.
    pub fn applied(&self) -> Applied {
        self.visible
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Called when what was applied is committed: from now on reads see it.
    pub fn publish(&self) {
        let applied = self.lock().applied.clone();
        *self.visible.write().unwrap_or_else(PoisonError::into_inner) = applied;
    }

    /// Goes back to what the database holds, after a commit that failed.
    pub fn reload(&self, database: &Database) -> Result<(), StoreError> {
        *self.lock() = HostState::load(database, self.group)?;
        Ok(())
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
        next_index(&self.visible.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies entries in a commit in the making; returns a response for each. After a commit that worked
    /// [`GroupHost::publish`] must follow, after one that failed [`GroupHost::reload`].
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
    pub fn installed(&self, database: &Database) -> Result<(), StoreError> {
        self.reload(database)?;
        self.publish();
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
