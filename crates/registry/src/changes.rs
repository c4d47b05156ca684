//! The change log: what each revision did, for watches and for lists at an older revision.
//!
//! A revision's changes are written with it, ordered by kind and name, one for each resource that
//! differs. Old revisions are dropped whole when the log exceeds its bounds; the newest one stays.
//!
//! Invariants: revisions grow by one; the log holds all of `dropped < revision <= current`.

use std::ops::ControlFlow;

use bytes::Bytes;
use ids::Revision;
use raft_machine::{Batch, StoreError, View, decode, encode};
use serde::{Deserialize, Serialize};

use crate::keys;

const CHANGE_FORMAT: u8 = 1;
const STATE_FORMAT: u8 = 1;

/// How much of the past is kept. A part of the replicated state's rules: the same on all replicas
/// of a group, so a new version of the program may only change it together with the format level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Changes.
    pub changes_max: u64,
    /// Bytes of changes, old and new values included.
    pub bytes_max: u64,
}

impl Default for History {
    fn default() -> Self {
        History {
            changes_max: 100_000,
            bytes_max: 256 << 20,
        }
    }
}

/// What happened to one resource in one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The resource's kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it was, as [`crate::resource::Stored`]; none when there was none.
    pub before: Option<Bytes>,
    /// What it is; none when it is gone.
    pub after: Option<Bytes>,
}

/// The counters of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogState {
    /// The newest revision.
    pub current: Revision,
    /// The newest revision of which the changes are dropped.
    pub dropped: Revision,
    /// How many changes are kept.
    pub changes: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl LogState {
    /// Reads the counters.
    pub fn load(view: &dyn View) -> Result<Self, StoreError> {
        match view.get(keys::LOG_STATE_KEY)? {
            Some(bytes) => decode("registry state", STATE_FORMAT, &bytes),
            None => Ok(LogState::default()),
        }
    }

    /// Appends a new revision and drops what exceeds the bounds.
    pub fn append(
        &mut self,
        batch: &mut dyn Batch,
        history: &History,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        self.current = Revision(self.current.0 + 1);
        for (number, change) in (0..).zip(changes) {
            let key = keys::change(self.current, number);
            let value = encode(CHANGE_FORMAT, change);
            self.changes += 1;
            self.bytes += (key.len() + value.len()) as u64;
            batch.put(&key, &value)?;
        }
        self.drop_oldest(batch, history)?;
        batch.put(keys::LOG_STATE_KEY, &encode(STATE_FORMAT, self))
    }

    fn drop_oldest(&mut self, batch: &mut dyn Batch, history: &History) -> Result<(), StoreError> {
        while self.exceeds(history) && self.dropped.0 + 1 < self.current.0 {
            let oldest = Revision(self.dropped.0 + 1);
            let mut gone = Vec::new();
            let (from, to) = (keys::change(oldest, 0), keys::change(next(oldest), 0));
            batch.scan(&from, Some(&to), &mut |key, value| {
                gone.push((key.to_vec(), key.len() + value.len()));
                ControlFlow::Continue(())
            })?;
            for (key, len) in gone {
                batch.delete(&key)?;
                self.changes -= 1;
                self.bytes -= len as u64;
            }
            self.dropped = oldest;
        }
        Ok(())
    }

    fn exceeds(&self, history: &History) -> bool {
        self.changes > history.changes_max || self.bytes > history.bytes_max
    }
}

/// The revision after `revision`.
pub fn next(revision: Revision) -> Revision {
    Revision(revision.0.saturating_add(1))
}

/// Visits the changes after `since`, in order; the visitor gets their size too.
pub fn since(
    view: &dyn View,
    since: Revision,
    visit: &mut dyn FnMut(Revision, Change, usize) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut result = Ok(());
    view.scan(
        &keys::change(next(since), 0),
        Some(keys::CHANGES_TO),
        &mut |key, value| match read(key, value) {
            Ok((revision, change)) => visit(revision, change, key.len() + value.len()),
            Err(error) => {
                result = Err(error);
                ControlFlow::Break(())
            }
        },
    )?;
    result
}

fn read(key: &[u8], value: &[u8]) -> Result<(Revision, Change), StoreError> {
    let revision = keys::parse_change(key);
    let revision = revision.ok_or_else(|| StoreError::Damaged("key of a change".into()))?;
    Ok((revision, decode("change", CHANGE_FORMAT, value)?))
}
