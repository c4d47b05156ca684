//! One group's state on this node: its machine, which generation of keys is in force, and the results it keeps.
//!
//! Entries are applied in the order of the log, none is left out, none comes twice: an entry of another index than the
//! next one is refused.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use ids::{GroupId, OperationId};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use raft_machine::{Batch, Machine, StoreError};

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
    /// See [`GroupHost::is_machine_broken`].
    machine_broken: AtomicBool,
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
            machine_broken: AtomicBool::new(false),
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

    /// The log id of the last entry that is applied and visible to reads.
    pub fn applied_id(&self) -> Option<LogId> {
        self.visible
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .log_id
    }

    /// Whether the machine could not carry out an entry, though the store is well: this group stops, no other need.
    pub fn is_machine_broken(&self) -> bool {
        self.machine_broken.load(Ordering::Acquire)
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
                let expected = next_index(&state.applied);
                if id.index != expected {
                    return Err(StoreError::Damaged(format!(
                        "entry {} of group {} comes where {expected} must: the log has a gap. Bring this node back empty \
                         so that its peers fill it",
                        id.index, self.group
                    )));
                }
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
                                let response = self.carry_out(&mut batch, id.index, command)?;
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

    /// Lets the machine apply a command. A panic in there becomes an error: the writer goes on for the other groups.
    fn carry_out(
        &self,
        batch: &mut dyn Batch,
        index: u64,
        command: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        // What a panic leaves half done is in the batch, which is thrown away.
        let applied = catch_unwind(AssertUnwindSafe(|| {
            self.machine.apply(batch, index, command)
        }));
        let applied = applied.unwrap_or_else(|panic| {
            Err(StoreError::Damaged(format!(
                "the machine panicked at entry {index}: {}",
                in_words(panic.as_ref())
            )))
        });
        if let Err(StoreError::Damaged(_) | StoreError::Newer { .. }) = &applied {
            self.machine_broken.store(true, Ordering::Release);
        }
        applied
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

fn in_words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without words")
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

#[cfg(test)]
mod tests {
    use openraft::Membership;
    use testkit::sim::SimDisk;

    use super::*;
    use crate::testing::{Echo, log_id};
    use crate::types::Command;

    const GROUP: GroupId = GroupId(3);

    fn command(index: u64, command: &[u8]) -> Entry {
        let mut bytes = u128::from(index).to_be_bytes().to_vec();
        bytes.extend_from_slice(command);
        let payload = EntryPayload::Normal(Command(bytes.into()));
        <Entry as RaftEntry>::new(log_id(1, index), payload)
    }

    fn membership(index: u64) -> Entry {
        let nodes: std::collections::BTreeMap<u64, ()> = [(1, ())].into();
        let membership = Membership::new(vec![[1].into()], nodes).unwrap();
        <Entry as RaftEntry>::new(log_id(1, index), EntryPayload::Membership(membership))
    }

    fn apply(
        host: &GroupHost,
        database: &Database,
        entries: &[Entry],
    ) -> Result<Vec<Bytes>, StoreError> {
        let applied = database.write(|writing| host.apply(writing, entries));
        match &applied {
            Ok(_) => host.publish(),
            Err(_) => host.reload(database).unwrap(),
        }
        applied
    }

    fn opened() -> (Database, GroupHost) {
        let database = Database::open(&SimDisk::new(), 1 << 20).unwrap();
        let host = GroupHost::open(&database, GROUP, Arc::new(Echo)).unwrap();
        (database, host)
    }

    #[test]
    fn entries_are_applied_without_gap_and_once() {
        let (database, host) = opened();
        assert!(apply(&host, &database, &[command(1, b"early")]).is_err());
        let begin = [membership(0), command(1, b"one")];
        apply(&host, &database, &begin).unwrap();
        assert_eq!(host.applied_id(), Some(log_id(1, 1)));
        for wrong in [1, 3] {
            let error = apply(&host, &database, &[command(wrong, b"wrong")]).unwrap_err();
            assert!(error.to_string().contains("gap"), "{error}");
        }
        let both = [command(2, b"two"), command(4, b"four")];
        assert!(apply(&host, &database, &both).is_err());
        assert_eq!(host.applied_next(), 2);
        assert_eq!(
            apply(&host, &database, &[command(2, b"two")]).unwrap(),
            ["two"]
        );
        assert!(!host.is_machine_broken());
    }

    #[test]
    fn a_machine_that_panics_applies_nothing() {
        let (database, host) = opened();
        apply(&host, &database, &[membership(0)]).unwrap();
        let error = apply(&host, &database, &[command(1, Echo::PANIC)]).unwrap_err();
        assert!(error.to_string().contains("panicked at entry 1"), "{error}");
        assert!(host.is_machine_broken());
        assert_eq!(host.applied_next(), 1);
        let after = apply(&host, &database, &[command(1, b"after")]);
        assert_eq!(after.unwrap(), ["after"]);
    }
}
