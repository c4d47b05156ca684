//! Fences: slots of a bucket that is being deleted take no more writes.
//!
//! A fence and the check that a slot is empty are one command, so that nothing can slip in between. Segments that are
//! pending in a fenced slot stay; their commits are refused and they are given up like those of a gateway that died.
//!
//! Several attempts to delete one bucket may be under way at one time, and commands of one that was given up may come late.
//! So attempts are numbered by the directory, and a slot remembers the highest number that it has seen:
//! - an older attempt neither fences nor unfences a slot that a newer one has reached;
//! - an attempt that unfenced a slot (it called its deletion off) does not fence it again.
//!
//! Hence a slot that the newest attempt fenced stays empty and fenced until that attempt says otherwise: when it has
//! fenced all slots and is still the newest, the bucket can go.
//!
//! A reader that finds nothing is told when that is because of a fence: it may know a bucket that is gone. Who finds
//! something needs no such look, because a fenced slot is empty.

use ids::BucketId;
use raft_machine::{StoreError, View};
use serde::{Deserialize, Serialize};

use super::change::{Change, Step, any_under, get};
use super::records::FenceRecord;
use super::{KeyRef, Outcome, Refused, keys};

/// The number of an attempt to delete a bucket: higher than those of all attempts before, from 1.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct DeletionAttempt(pub u64);

impl DeletionAttempt {
    /// The attempt after this one.
    pub fn next(self) -> Self {
        DeletionAttempt(self.0 + 1)
    }
}

/// Refuses writes to a fenced slot.
pub(crate) fn check_open(change: &Change<'_>, at: &KeyRef) -> Step<()> {
    match is_closed(change.view(), at.bucket, at.slot)? {
        true => Err(Refused::Fenced.into()),
        false => Ok(()),
    }
}

/// Whether all of these slots are fenced; there must be one.
pub(crate) fn are_closed(
    view: &dyn View,
    bucket: BucketId,
    slots: &[u16],
) -> Result<bool, StoreError> {
    for &slot in slots {
        if !is_closed(view, bucket, slot)? {
            return Ok(false);
        }
    }
    Ok(!slots.is_empty())
}

pub(crate) fn fence(
    change: &mut Change<'_>,
    bucket: BucketId,
    slots: &[u16],
    attempt: DeletionAttempt,
) -> Step {
    for &slot in slots {
        let called_off = |fence: &FenceRecord| fence.attempt == attempt && !fence.closed;
        let known = load(change.view(), bucket, slot)?;
        if known.is_some_and(|fence| fence.attempt > attempt || called_off(&fence)) {
            return Err(Refused::Overtaken.into());
        }
    }
    for &slot in slots {
        for table in [keys::HEADS, keys::UPLOADS] {
            if any_under(change.view(), keys::in_slot(table, bucket, slot))? {
                return Err(Refused::SlotNotEmpty.into());
            }
        }
    }
    set(change, bucket, slots, attempt, true)
}

pub(crate) fn unfence(
    change: &mut Change<'_>,
    bucket: BucketId,
    slots: &[u16],
    attempt: DeletionAttempt,
) -> Step {
    for &slot in slots {
        let known = load(change.view(), bucket, slot)?;
        if known.is_some_and(|fence| fence.attempt > attempt) {
            return Err(Refused::Overtaken.into());
        }
    }
    set(change, bucket, slots, attempt, false)
}

fn is_closed(view: &dyn View, bucket: BucketId, slot: u16) -> Result<bool, StoreError> {
    Ok(load(view, bucket, slot)?.is_some_and(|fence| fence.closed))
}

fn load(view: &dyn View, bucket: BucketId, slot: u16) -> Result<Option<FenceRecord>, StoreError> {
    get(view, &keys::fence(bucket, slot))
}

fn set(
    change: &mut Change<'_>,
    bucket: BucketId,
    slots: &[u16],
    attempt: DeletionAttempt,
    closed: bool,
) -> Step {
    let fence = FenceRecord { attempt, closed };
    for &slot in slots {
        change.put(&keys::fence(bucket, slot), &fence)?;
    }
    Ok(Outcome::Done)
}
