//! Fences: slots of a bucket that is being deleted take no more writes.
//!
//! A fence and the check that a slot is empty are one command, so that nothing can slip in between. Segments that are
//! pending in a fenced slot stay; their commits are refused and they are given up like those of a gateway that died.

use ids::BucketId;

use super::change::{Change, Step, any_under};
use super::{KeyRef, Outcome, Refused, keys};

/// Refuses writes to a fenced slot.
pub(crate) fn check_open(change: &Change<'_>, at: &KeyRef) -> Step<()> {
    match change.view().get(&keys::fence(at.bucket, at.slot))? {
        Some(_) => Err(Refused::Fenced.into()),
        None => Ok(()),
    }
}

pub(crate) fn fence(change: &mut Change<'_>, bucket: BucketId, slots: &[u16]) -> Step {
    for &slot in slots {
        for table in [keys::HEADS, keys::UPLOADS] {
            if any_under(change.view(), keys::in_slot(table, bucket, slot))? {
                return Err(Refused::SlotNotEmpty.into());
            }
        }
    }
    for &slot in slots {
        change.mark(&keys::fence(bucket, slot))?;
    }
    Ok(Outcome::Done)
}

pub(crate) fn unfence(change: &mut Change<'_>, bucket: BucketId, slots: &[u16]) -> Step {
    for &slot in slots {
        change.delete(&keys::fence(bucket, slot))?;
    }
    Ok(Outcome::Done)
}
