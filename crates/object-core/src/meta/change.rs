//! A command at work: the batch it writes to, and the counts it moves.
//!
//! A command checks everything before its first write, so that a refusal leaves no trace.

use raft_machine::{Batch, StoreError, View};

use super::epochs::{self, MovedBlocks};
use super::records::{self, Record};
use super::stats::Moved;
use super::{BlockRecord, MetaStats, Outcome, Refused, keys};

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command can't be carried out; nothing was changed.
    Refused(Refused),
    /// The store failed.
    Store(StoreError),
}

/// Short for what the steps of a command give.
pub(crate) type Step<T = Outcome> = Result<T, Stop>;

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Stop::Refused(refused)
    }
}

/// Refuses with a reason in words.
pub(crate) fn invalid<T>(why: impl Into<String>) -> Step<T> {
    Err(Stop::Refused(Refused::InvalidRequest(why.into())))
}

/// One command's access to the group's keys.
pub(crate) struct Change<'a> {
    batch: &'a mut dyn Batch,
    /// What the command did to the counts.
    pub moved: Moved,
    /// What it did to the counts of blocks by epoch.
    pub blocks: MovedBlocks,
}

impl<'a> Change<'a> {
    pub(crate) fn new(batch: &'a mut dyn Batch) -> Self {
        Change {
            batch,
            moved: Moved::default(),
            blocks: MovedBlocks::default(),
        }
    }

    pub(crate) fn view(&self) -> &dyn View {
        &*self.batch
    }

    pub(crate) fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        get(self.view(), key)
    }

    pub(crate) fn put<R: Record>(&mut self, key: &[u8], record: &R) -> Result<(), StoreError> {
        self.batch.put(key, &records::encode(record))
    }

    pub(crate) fn put_page(
        &mut self,
        key: &[u8],
        blocks: &[BlockRecord],
    ) -> Result<(), StoreError> {
        self.batch
            .put(key, &raft_machine::encode(records::RECORD_FORMAT, &blocks))
    }

    pub(crate) fn put_inline(&mut self, key: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
        self.batch.put(key, &records::encode_inline(bytes))
    }

    /// Sets a key that says all by being there.
    pub(crate) fn mark(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.batch.put(key, &[records::RECORD_FORMAT])
    }

    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.batch.delete(key)
    }

    /// Writes the counts, if they moved.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        epochs::settle(&mut self)?;
        if self.moved == Moved::default() {
            return Ok(());
        }
        let before: MetaStats = self.get(keys::STATS)?.unwrap_or_default();
        self.batch.put(
            keys::STATS,
            &records::encode(&self.moved.applied_to(before)?),
        )
    }
}

/// The record under a key.
pub(crate) fn get<R: Record>(view: &dyn View, key: &[u8]) -> Result<Option<R>, StoreError> {
    view.get(key)?
        .map(|bytes| records::decode(&bytes))
        .transpose()
}

/// The inline bytes under a key, which must be there.
pub(crate) fn get_inline(view: &dyn View, key: &[u8]) -> Result<Vec<u8>, StoreError> {
    match view.get(key)? {
        Some(bytes) => records::decode_inline(bytes),
        None => Err(StoreError::Damaged("inline bytes are missing".into())),
    }
}

/// Calls `visit` with each key and value that start with `prefix`; ends at the first error or `false`.
pub(crate) fn scan_all(
    view: &dyn View,
    from: &[u8],
    to: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let mut result = Ok(());
    view.scan(from, Some(to), &mut |key, value| match visit(key, value) {
        Ok(true) => std::ops::ControlFlow::Continue(()),
        Ok(false) => std::ops::ControlFlow::Break(()),
        Err(error) => {
            result = Err(error);
            std::ops::ControlFlow::Break(())
        }
    })?;
    result
}

/// Whether any key starts with `prefix`.
pub(crate) fn any_under(view: &dyn View, prefix: Vec<u8>) -> Result<bool, StoreError> {
    let mut found = false;
    let to = keys::after_all(prefix.clone());
    scan_all(view, &prefix, &to, |_, _| {
        found = true;
        Ok(false)
    })?;
    Ok(found)
}
