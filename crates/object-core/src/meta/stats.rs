//! Counts of a group, moved by every command that changes them.

use raft_machine::{StoreError, View};

use super::change::get;
use super::{MetaStats, keys};

/// What one command did to the counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub objects: i64,
    pub bytes: i64,
    pub uploads: i64,
    pub pending: i64,
    pub doomed: i64,
    pub debt: i64,
}

impl Moved {
    /// The counts afterwards. A count below zero would be a fault of this crate; it is reported, not hidden.
    pub(crate) fn applied_to(self, before: MetaStats) -> Result<MetaStats, StoreError> {
        let sum = |count: u64, moved: i64| {
            count
                .checked_add_signed(moved)
                .ok_or_else(|| StoreError::Damaged("a count went below zero".into()))
        };
        Ok(MetaStats {
            objects: sum(before.objects, self.objects)?,
            bytes: sum(before.bytes, self.bytes)?,
            uploads: sum(before.uploads, self.uploads)?,
            pending: sum(before.pending, self.pending)?,
            doomed: sum(before.doomed, self.doomed)?,
            debt: sum(before.debt, self.debt)?,
        })
    }
}

/// The counts now.
pub(crate) fn stats(view: &dyn View) -> Result<MetaStats, StoreError> {
    Ok(get(view, keys::STATS)?.unwrap_or_default())
}
