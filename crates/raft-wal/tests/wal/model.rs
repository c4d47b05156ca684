//! What the log should hold, as plain maps, and everything it may hold after a crash.

use std::collections::BTreeMap;

use bytes::Bytes;
use ids::GroupId;
use raft_wal::{GroupState, Wal, WalError};

/// One group: small state and entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelGroup {
    pub state: GroupState,
    pub entries: BTreeMap<u64, Bytes>,
}

pub type Model = BTreeMap<GroupId, ModelGroup>;

/// One record's worth of change.
#[derive(Debug, Clone)]
pub enum Step {
    Entry(u64, Bytes),
    Vote(Bytes),
    Truncate(u64),
    Purge(u64, Bytes),
    Drop,
}

pub fn take(model: &mut Model, group: GroupId, step: &Step) {
    if matches!(step, Step::Drop) {
        model.remove(&group);
        return;
    }
    let log = model.entry(group).or_default();
    match step {
        Step::Entry(index, entry) => {
            if log.entries.is_empty() && log.state.purged.is_none() {
                log.state.first = *index;
            }
            log.entries.insert(*index, entry.clone());
            log.state.next = index + 1;
        }
        Step::Vote(vote) => log.state.vote = Some(vote.clone()),
        Step::Truncate(index) => {
            log.entries.split_off(index);
            log.state.next = log.state.next.min(*index);
        }
        Step::Purge(through, mark) => {
            log.entries = log.entries.split_off(&(through + 1));
            log.state.first = through + 1;
            log.state.next = log.state.next.max(log.state.first);
            log.state.purged = Some((*through, mark.clone()));
        }
        Step::Drop => {}
    }
}

/// Reads the whole log through its public face, in pages of about `bytes_max`.
pub async fn observe(wal: &Wal, bytes_max: usize) -> Result<Model, WalError> {
    let mut model = Model::new();
    for group in wal.groups() {
        let state = wal.group(group).unwrap();
        let mut entries = BTreeMap::new();
        let mut from = state.first;
        loop {
            let page = wal.read(group, from..u64::MAX, bytes_max).await?;
            let Some((last, _)) = page.last() else { break };
            let next = last + 1;
            assert_eq!(
                page.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
                (from..next).collect::<Vec<_>>()
            );
            entries.extend(page);
            from = next;
        }
        assert_eq!(from, state.next, "entries of group {group} are missing");
        model.insert(group, ModelGroup { state, entries });
    }
    Ok(model)
}
