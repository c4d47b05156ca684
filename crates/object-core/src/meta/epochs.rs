//! Epochs: the newest that the group has heard of, and how many blocks it has of each.
//!
//! A gateway that has not heard of a new epoch would place blocks by an old map, on too few servers if the site has grown.
//! So gateways say their epoch when they begin a segment, and leaders tell their groups of new ones; who comes with an older
//! one is refused. A segment that was begun before the group heard goes on: its blocks are in the count of their epoch.
//!
//! A block that has all copies that its epoch gives it has no debt, yet too few copies if that epoch was a smaller site's.
//! Such blocks are counted, not searched for. Invariants:
//! - a block is counted if it has no debt and its segment is not doomed, so a block is never in the count and debt at once;
//! - a count is written with the records that move it, and is not there when it is 0;
//! - counts are kept from the first epoch on that the group hears of. That command counts what was there before: programs
//!   that knew no counts may have written it.

use std::collections::{BTreeMap, BTreeSet};

use ids::{Epoch, SegmentId};
use raft_machine::{StoreError, View};

use super::change::{Change, Step, get, scan_all};
use super::records::{self, WholeBlocks};
use super::{Answer, BlockRecord, Refused, keys};

/// What one command did to the counts.
#[derive(Debug, Default)]
pub(crate) struct MovedBlocks(BTreeMap<Epoch, i64>);

impl MovedBlocks {
    /// Blocks came.
    pub(crate) fn add(&mut self, blocks: &[BlockRecord]) {
        self.count(blocks, 1);
    }

    /// Blocks went.
    pub(crate) fn remove(&mut self, blocks: &[BlockRecord]) {
        self.count(blocks, -1);
    }

    fn count(&mut self, blocks: &[BlockRecord], by: i64) {
        for block in blocks.iter().filter(|block| block.missing.is_empty()) {
            *self.0.entry(block.epoch).or_default() += by;
        }
    }
}

/// Takes note of an epoch; refuses one that is older than the newest. A command's last check, because it writes, too.
pub(crate) fn hear_of(change: &mut Change<'_>, epoch: Epoch) -> Step<()> {
    match newest(change.view())? {
        Some(newest) if newest > epoch => return Err(Refused::OldEpoch { newest }.into()),
        Some(newest) if newest == epoch => return Ok(()),
        Some(_) => {}
        None => count_all(change)?,
    }
    change.put(keys::NEWEST_EPOCH, &epoch)?;
    Ok(())
}

/// Writes the counts that a command moved, if the group keeps counts.
pub(crate) fn settle(change: &mut Change<'_>) -> Result<(), StoreError> {
    let MovedBlocks(mut moved) = std::mem::take(&mut change.blocks);
    moved.retain(|_, by| *by != 0);
    if moved.is_empty() || newest(change.view())?.is_none() {
        return Ok(());
    }
    for (epoch, by) in moved {
        let before: WholeBlocks = change.get(&keys::epoch(epoch))?.unwrap_or_default();
        let after = before.0.checked_add_signed(by).ok_or_else(|| {
            StoreError::Damaged("an epoch's count of blocks went below zero".into())
        })?;
        set(change, epoch, after)?;
    }
    Ok(())
}

/// Answers [`super::Query::Epochs`].
pub(crate) fn epochs(view: &dyn View) -> Result<Answer, StoreError> {
    let mut whole = Vec::new();
    scan_all(view, &[keys::EPOCHS], &[keys::EPOCHS + 1], |key, value| {
        let count: WholeBlocks = records::decode(value)?;
        whole.push((keys::epoch_of(key)?, count.0));
        Ok(true)
    })?;
    let newest = newest(view)?;
    Ok(Answer::Epochs { newest, whole })
}

fn newest(view: &dyn View) -> Result<Option<Epoch>, StoreError> {
    get(view, keys::NEWEST_EPOCH)
}

/// Writes the counts of all blocks that are there.
fn count_all(change: &mut Change<'_>) -> Result<(), StoreError> {
    let mut doomed = BTreeSet::new();
    let view = change.view();
    scan_all(view, &[keys::DOOMED], &[keys::DOOMED + 1], |key, _| {
        doomed.insert(SegmentId(keys::id_of(key)?));
        Ok(true)
    })?;
    let mut whole = BTreeMap::<Epoch, u64>::new();
    scan_all(view, &[keys::BLOCKS], &[keys::BLOCKS + 1], |key, value| {
        if doomed.contains(&SegmentId(keys::id_of(key)?)) {
            return Ok(true);
        }
        let blocks: Vec<BlockRecord> = records::decode(value)?;
        for block in blocks.iter().filter(|block| block.missing.is_empty()) {
            *whole.entry(block.epoch).or_default() += 1;
        }
        Ok(true)
    })?;
    for (epoch, count) in whole {
        set(change, epoch, count)?;
    }
    Ok(())
}

fn set(change: &mut Change<'_>, epoch: Epoch, count: u64) -> Result<(), StoreError> {
    let key = keys::epoch(epoch);
    match count {
        0 => change.delete(&key),
        count => change.put(&key, &WholeBlocks(count)),
    }
}
