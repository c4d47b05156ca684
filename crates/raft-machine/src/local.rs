//! Groups of one node in memory, for tests of whatever drives a machine: proposals are applied inline, in order.
//!
//! It keeps the contract of [`Groups`]: a repeated operation id is answered with the first response and applied once,
//! commands are bounded, and a machine's [`Machine::applied`] is called once the batch is visible. A test may
//! [`LocalGroups::interrupt`] the next calls to see how a driver retries.
//!
//! It does not persist, replicate or encode anything, and deadlines never pass.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, OperationId};

use crate::memory::MemoryStore;
use crate::{COMMAND_BYTES_MAX, Freshness, GroupError, Groups, Machine};

/// How many responses a group keeps for repeated operation ids.
pub const RESPONSES_MAX: usize = 65_536;

/// What befalls the next proposals, see [`LocalGroups::interrupt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// The proposal is lost: nothing is applied.
    LoseProposal,
    /// The proposal is applied and its response is lost.
    LoseResponse,
    /// The query is lost.
    LoseQuery,
}

/// Groups of one node, in memory. Clones share the groups.
#[derive(Clone, Default)]
pub struct LocalGroups {
    groups: Arc<Mutex<BTreeMap<GroupId, Group>>>,
}

struct Group {
    machine: Arc<dyn Machine>,
    store: MemoryStore,
    index: u64,
    responses: BTreeMap<OperationId, Bytes>,
    oldest_first: VecDeque<OperationId>,
    interruptions: VecDeque<Interruption>,
    proposals: u64,
    queries: u64,
}

impl LocalGroups {
    /// No groups yet.
    pub fn new() -> Self {
        LocalGroups::default()
    }

    /// Adds a group with empty state; one that was there is forgotten.
    pub fn register(&self, group: GroupId, machine: Arc<dyn Machine>) {
        let entry = Group {
            machine,
            store: MemoryStore::default(),
            index: 0,
            responses: BTreeMap::new(),
            oldest_first: VecDeque::new(),
            interruptions: VecDeque::new(),
            proposals: 0,
            queries: 0,
        };
        self.lock().insert(group, entry);
    }

    /// The next `times` calls of that kind to the group fail as [`GroupError::Unavailable`].
    pub fn interrupt(&self, group: GroupId, what: Interruption, times: usize) {
        if let Some(group) = self.lock().get_mut(&group) {
            group.interruptions.extend(std::iter::repeat_n(what, times));
        }
    }

    /// A copy of a group's keys.
    pub fn store(&self, group: GroupId) -> Option<MemoryStore> {
        self.lock().get(&group).map(|group| group.store.clone())
    }

    /// The index of the group's last entry: how many commands were applied.
    pub fn index(&self, group: GroupId) -> u64 {
        self.lock().get(&group).map_or(0, |group| group.index)
    }

    /// How many proposals and queries reached the group, repeats and failures included.
    pub fn calls(&self, group: GroupId) -> (u64, u64) {
        self.lock()
            .get(&group)
            .map_or((0, 0), |group| (group.proposals, group.queries))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Takes the next interruption when it is one of `kinds`.
    fn interrupted(&mut self, kinds: &[Interruption]) -> Option<Interruption> {
        let at = self
            .interruptions
            .iter()
            .position(|next| kinds.contains(next))?;
        self.interruptions.remove(at)
    }

    fn apply(&mut self, operation: OperationId, command: &[u8]) -> Result<Bytes, GroupError> {
        if let Some(first) = self.responses.get(&operation) {
            return Ok(first.clone());
        }
        let index = self.index + 1;
        let response = self.machine.apply(&mut self.store, index, command);
        let response = Bytes::from(response.map_err(|error| GroupError::Store(error.to_string()))?);
        self.index = index;
        self.responses.insert(operation, response.clone());
        self.oldest_first.push_back(operation);
        if self.oldest_first.len() > RESPONSES_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.responses.remove(&oldest);
        }
        Ok(response)
    }
}

fn unavailable(group: GroupId, why: &str) -> GroupError {
    GroupError::Unavailable {
        group,
        why: why.into(),
    }
}

#[async_trait::async_trait]
impl Groups for LocalGroups {
    async fn propose(
        &self,
        group: GroupId,
        operation: OperationId,
        command: Bytes,
        _deadline: Duration,
    ) -> Result<Bytes, GroupError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(GroupError::TooLarge {
                len: command.len(),
                max: COMMAND_BYTES_MAX,
            });
        }
        let (result, machine, index) = {
            let mut groups = self.lock();
            let found = groups
                .get_mut(&group)
                .ok_or_else(|| unavailable(group, "no such group on this node"))?;
            found.proposals += 1;
            found
                .machine
                .admit(&command)
                .map_err(GroupError::NotAdmitted)?;
            let lost = found.interrupted(&[Interruption::LoseProposal, Interruption::LoseResponse]);
            if lost == Some(Interruption::LoseProposal) {
                return Err(unavailable(group, "the proposal was lost"));
            }
            let response = found.apply(operation, &command)?;
            let lost = lost.map(|_| unavailable(group, "the response was lost"));
            (
                lost.map_or(Ok(response), Err),
                found.machine.clone(),
                found.index,
            )
        };
        machine.applied(index);
        result
    }

    async fn query(
        &self,
        group: GroupId,
        query: Bytes,
        _freshness: Freshness,
        _deadline: Duration,
    ) -> Result<Bytes, GroupError> {
        let mut groups = self.lock();
        let found = groups
            .get_mut(&group)
            .ok_or_else(|| unavailable(group, "no such group on this node"))?;
        found.queries += 1;
        if found.interrupted(&[Interruption::LoseQuery]).is_some() {
            return Err(unavailable(group, "the query was lost"));
        }
        let answer = found.machine.query(&found.store, &query);
        answer
            .map(Bytes::from)
            .map_err(|error| GroupError::Store(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::{Batch, StoreError, View};

    /// Appends each command to one key; answers queries with it.
    struct Tape;

    impl Machine for Tape {
        fn admit(&self, command: &[u8]) -> Result<(), String> {
            match command {
                b"scratch" => Err("a scratch".into()),
                _ => Ok(()),
            }
        }

        fn apply(
            &self,
            batch: &mut dyn Batch,
            _index: u64,
            command: &[u8],
        ) -> Result<Vec<u8>, StoreError> {
            let mut tape = batch.get(b"tape")?.unwrap_or_default();
            tape.extend_from_slice(command);
            batch.put(b"tape", &tape)?;
            Ok(tape)
        }

        fn query(&self, view: &dyn View, _query: &[u8]) -> Result<Vec<u8>, StoreError> {
            Ok(view.get(b"tape")?.unwrap_or_default())
        }
    }

    const GROUP: GroupId = GroupId(7);

    fn now<F: Future>(future: F) -> F::Output {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("a local group never waits"),
        }
    }

    fn propose(
        groups: &LocalGroups,
        operation: u8,
        command: &'static [u8],
    ) -> Result<Bytes, GroupError> {
        now(groups.propose(
            GROUP,
            OperationId([operation; 16]),
            Bytes::from_static(command),
            Duration::ZERO,
        ))
    }

    fn tape() -> LocalGroups {
        let groups = LocalGroups::new();
        groups.register(GROUP, Arc::new(Tape));
        groups
    }

    #[test]
    fn a_repeated_operation_is_applied_once() {
        let groups = tape();
        assert_eq!(propose(&groups, 1, b"a").unwrap(), "a");
        assert_eq!(propose(&groups, 2, b"b").unwrap(), "ab");
        assert_eq!(propose(&groups, 1, b"a").unwrap(), "a");
        assert_eq!(groups.index(GROUP), 2);
        let answer = now(groups.query(GROUP, Bytes::new(), Freshness::Local, Duration::ZERO));
        assert_eq!(answer.unwrap(), "ab");
    }

    #[test]
    fn a_lost_response_is_found_again_by_its_operation() {
        let groups = tape();
        groups.interrupt(GROUP, Interruption::LoseResponse, 1);
        groups.interrupt(GROUP, Interruption::LoseProposal, 1);
        assert!(propose(&groups, 1, b"a").is_err());
        assert!(propose(&groups, 1, b"a").is_err());
        assert_eq!(propose(&groups, 1, b"a").unwrap(), "a");
        assert_eq!(groups.index(GROUP), 1);
    }

    #[test]
    fn what_the_machine_does_not_admit_is_not_applied() {
        let groups = tape();
        let error = propose(&groups, 1, b"scratch").unwrap_err();
        assert_eq!(error, GroupError::NotAdmitted("a scratch".into()));
        assert_eq!(groups.index(GROUP), 0);
    }

    #[test]
    fn bounds_and_unknown_groups_are_refused() {
        let groups = tape();
        let command = Bytes::from(vec![0; COMMAND_BYTES_MAX + 1]);
        let error =
            now(groups.propose(GROUP, OperationId([0; 16]), command, Duration::ZERO)).unwrap_err();
        assert!(matches!(error, GroupError::TooLarge { .. }));
        let error = now(groups.query(GroupId(9), Bytes::new(), Freshness::Local, Duration::ZERO))
            .unwrap_err();
        assert!(matches!(error, GroupError::Unavailable { .. }));
    }
}
