//! Segments: the streams of blocks that objects and parts are made of, from their announcement to their removal.
//!
//! Invariants:
//! - a segment's record names its one state; a marker lies beside it exactly while it is pending or doomed;
//! - all blocks of a segment have the same length, only the last may be shorter: a reader finds the block and the page of
//!   an offset by division;
//! - every page but the last has exactly [`BLOCKS_PER_PAGE`] blocks;
//! - a page has a debt marker exactly if a block of it has debt and the segment is not doomed;
//! - a block without debt is in its epoch's count exactly if the segment is not doomed, see [`super::epochs`].

use std::slice;

use ids::{Epoch, SegmentId};
use raft_machine::{StoreError, View};

use super::change::{Change, Step, get, invalid, scan_all};
use super::fences::check_open;
use super::records::{Owner, SegmentBlocks, SegmentRecord, SegmentState};
use super::{BLOCKS_PER_PAGE, BlockRecord, KeyRef, Outcome, Refused, epochs, keys};

/// The most segments in one answer.
const SEGMENTS_MAX: usize = 10_000;

/// A commit that was checked: the segment is pending and its blocks fit.
pub(crate) struct Ready {
    pub segment: SegmentId,
    page: u32,
    tail: Vec<BlockRecord>,
    blocks: SegmentBlocks,
}

pub(crate) fn begin(
    change: &mut Change<'_>,
    at: KeyRef,
    segment: SegmentId,
    started_ms: u64,
    epoch: Option<Epoch>,
) -> Step {
    check_open(change, &at)?;
    if load(change.view(), segment)?.is_some() {
        return invalid("the segment was begun before");
    }
    if let Some(epoch) = epoch {
        epochs::hear_of(change, epoch)?;
    }
    let state = SegmentState::Pending { at, started_ms };
    save(
        change,
        segment,
        &SegmentRecord {
            state,
            blocks: SegmentBlocks::default(),
        },
    )?;
    change.put(&keys::segment(keys::PENDING, segment), &started_ms)?;
    change.moved.pending += 1;
    Ok(Outcome::Done)
}

pub(crate) fn append(
    change: &mut Change<'_>,
    segment: SegmentId,
    page: u32,
    blocks: &[BlockRecord],
) -> Step {
    let Some(mut record) = load(change.view(), segment)? else {
        return Err(Refused::SegmentGone.into());
    };
    if !matches!(record.state, SegmentState::Pending { .. }) {
        return Err(Refused::SegmentGone.into());
    }
    if u64::from(record.blocks.count) != u64::from(page) * BLOCKS_PER_PAGE as u64 {
        return Err(Refused::PageOutOfOrder.into());
    }
    if blocks.len() != BLOCKS_PER_PAGE {
        return invalid(format!(
            "a page of {} blocks; only the tail may have other than {BLOCKS_PER_PAGE}",
            blocks.len()
        ));
    }
    record.blocks = extended(record.blocks, blocks)?;
    change.blocks.add(blocks);
    write_page(change, segment, page, blocks)?;
    save(change, segment, &record)?;
    Ok(Outcome::Done)
}

/// Whether a pending segment with this tail is what was announced at `at`; writes nothing.
pub(crate) fn check_commit(
    change: &Change<'_>,
    at: &KeyRef,
    segment: SegmentId,
    tail: Vec<BlockRecord>,
    size: u64,
) -> Step<Ready> {
    let Some(record) = load(change.view(), segment)? else {
        return Err(Refused::SegmentGone.into());
    };
    let SegmentState::Pending { at: announced, .. } = &record.state else {
        return Err(Refused::SegmentGone.into());
    };
    if announced != at {
        return invalid("the segment was begun for another key");
    }
    if tail.len() > BLOCKS_PER_PAGE {
        return invalid(format!(
            "a tail of {} blocks; at most {BLOCKS_PER_PAGE}",
            tail.len()
        ));
    }
    let blocks = extended(record.blocks, &tail)?;
    if blocks.bytes != size {
        return invalid(format!(
            "the blocks have {} bytes, the object {size}",
            blocks.bytes
        ));
    }
    Ok(Ready {
        segment,
        page: record.blocks.count / BLOCKS_PER_PAGE as u32,
        tail,
        blocks,
    })
}

/// Gives a pending segment to its owner.
pub(crate) fn commit(change: &mut Change<'_>, ready: Ready, by: Owner) -> Result<(), StoreError> {
    let Ready {
        segment,
        page,
        tail,
        blocks,
    } = ready;
    if !tail.is_empty() {
        change.blocks.add(&tail);
        write_page(change, segment, page, &tail)?;
    }
    save(
        change,
        segment,
        &SegmentRecord {
            state: SegmentState::Owned { by },
            blocks,
        },
    )?;
    change.delete(&keys::segment(keys::PENDING, segment))?;
    change.moved.pending -= 1;
    Ok(())
}

/// Gives an owned segment to another owner.
pub(crate) fn hand_over(
    change: &mut Change<'_>,
    segment: SegmentId,
    by: Owner,
) -> Result<(), StoreError> {
    let mut record = load(change.view(), segment)?.ok_or_else(missing)?;
    record.state = SegmentState::Owned { by };
    save(change, segment, &record)
}

/// Takes a segment from its owner, or from its gateway. Reads its block list, to take it out of the counts.
pub(crate) fn doom(change: &mut Change<'_>, segment: SegmentId) -> Result<(), StoreError> {
    let mut record = load(change.view(), segment)?.ok_or_else(missing)?;
    match record.state {
        SegmentState::Pending { .. } => {
            change.delete(&keys::segment(keys::PENDING, segment))?;
            change.moved.pending -= 1;
        }
        SegmentState::Owned { .. } => {}
        SegmentState::Doomed => {
            return Err(StoreError::Damaged("an owned segment is doomed".into()));
        }
    }
    for page in 0..pages(&record.blocks) {
        let blocks = load_page(change.view(), segment, page)?.ok_or_else(missing_page)?;
        change.blocks.remove(&blocks);
    }
    if record.blocks.debt > 0 {
        for page in 0..pages(&record.blocks) {
            change.delete(&keys::page(keys::DEBT, segment, page))?;
        }
        change.moved.debt -= i64::from(record.blocks.debt);
        record.blocks.debt = 0;
    }
    record.state = SegmentState::Doomed;
    save(change, segment, &record)?;
    change.mark(&keys::segment(keys::DOOMED, segment))?;
    change.moved.doomed += 1;
    Ok(())
}

pub(crate) fn give_up(change: &mut Change<'_>, segments: &[SegmentId]) -> Step {
    for &segment in segments {
        let record = load(change.view(), segment)?;
        if record.is_some_and(|record| matches!(record.state, SegmentState::Pending { .. })) {
            doom(change, segment)?;
        }
    }
    Ok(Outcome::Done)
}

pub(crate) fn forget(change: &mut Change<'_>, segments: &[SegmentId]) -> Step {
    for &segment in segments {
        let Some(record) = load(change.view(), segment)? else {
            continue;
        };
        if record.state != SegmentState::Doomed {
            continue;
        }
        for page in 0..pages(&record.blocks) {
            change.delete(&keys::page(keys::BLOCKS, segment, page))?;
        }
        change.delete(&keys::segment(keys::DOOMED, segment))?;
        change.delete(&keys::segment(keys::SEGMENTS, segment))?;
        change.moved.doomed -= 1;
    }
    Ok(Outcome::Done)
}

pub(crate) fn update(
    change: &mut Change<'_>,
    segment: SegmentId,
    mut updates: Vec<(u32, BlockRecord, BlockRecord)>,
) -> Step {
    let Some(mut record) = load(change.view(), segment)? else {
        return Err(Refused::SegmentGone.into());
    };
    if record.state == SegmentState::Doomed {
        return Err(Refused::SegmentGone.into());
    }
    if updates
        .iter()
        .any(|(_, old, new)| (old.len, old.hash) != (new.len, new.hash))
    {
        return invalid("an update keeps a block's length and hash");
    }
    updates.sort_by_key(|(number, ..)| *number);
    let mut changed = false;
    for updates in updates.chunk_by(|(a, ..), (b, ..)| page_of(*a) == page_of(*b)) {
        let page = page_of(updates[0].0);
        let Some(mut blocks) = load_page(change.view(), segment, page)? else {
            continue;
        };
        let (before, mut hit) = (debt_of(&blocks), false);
        for (number, old, new) in updates {
            match blocks.get_mut(*number as usize % BLOCKS_PER_PAGE) {
                Some(block) if block == old => {
                    change.blocks.remove(slice::from_ref(old));
                    change.blocks.add(slice::from_ref(new));
                    (*block, hit) = (new.clone(), true);
                }
                _ => {}
            }
        }
        if hit {
            changed = true;
            record.blocks.debt = record.blocks.debt - before + debt_of(&blocks);
            change.moved.debt -= i64::from(before);
            change.delete(&keys::page(keys::DEBT, segment, page))?;
            write_page(change, segment, page, &blocks)?;
        }
    }
    if changed {
        save(change, segment, &record)?;
    }
    Ok(Outcome::Done)
}

/// Answers [`super::Query::Blocks`].
pub(crate) fn blocks(
    view: &dyn View,
    segment: SegmentId,
    from: u32,
    max: u32,
) -> Result<Vec<BlockRecord>, StoreError> {
    let max = (max as usize).min(BLOCKS_PER_PAGE);
    let mut found = Vec::new();
    let mut skip = from as usize % BLOCKS_PER_PAGE;
    let mut page = page_of(from);
    while found.len() < max {
        let Some(blocks) = load_page(view, segment, page)? else {
            break;
        };
        let wanted = max - found.len();
        found.extend(blocks.into_iter().skip(skip).take(wanted));
        skip = 0;
        page += 1;
    }
    Ok(found)
}

/// The whole block lists of the first of these segments, as long as all together have at most `max` blocks. Counts are
/// looked at first: a long list is not read in vain.
pub(crate) fn first_blocks(
    view: &dyn View,
    segments: impl Iterator<Item = SegmentId>,
    max: u32,
) -> Result<Vec<(SegmentId, Vec<BlockRecord>)>, StoreError> {
    // What is on a segment's first page is its whole list.
    let mut left = max.min(BLOCKS_PER_PAGE as u32);
    let mut found = Vec::new();
    for segment in segments {
        if left == 0 {
            break;
        }
        let count = load(view, segment)?.map_or(0, |record| record.blocks.count);
        if count == 0 || count > left {
            break;
        }
        let Some(blocks) = load_page(view, segment, 0)? else {
            break;
        };
        left -= count;
        found.push((segment, blocks));
    }
    Ok(found)
}

/// Answers [`super::Query::Pending`].
pub(crate) fn pending(view: &dyn View, max: u32) -> Result<Vec<(SegmentId, u64)>, StoreError> {
    marked(view, keys::PENDING, max, |segment, value| {
        Ok((segment, super::records::decode(value)?))
    })
}

/// Answers [`super::Query::Doomed`].
pub(crate) fn doomed(view: &dyn View, max: u32) -> Result<Vec<SegmentId>, StoreError> {
    marked(view, keys::DOOMED, max, |segment, _| Ok(segment))
}

/// Answers [`super::Query::Known`].
pub(crate) fn known(view: &dyn View, segments: &[SegmentId]) -> Result<Vec<bool>, StoreError> {
    segments
        .iter()
        .map(|&segment| Ok(view.get(&keys::segment(keys::SEGMENTS, segment))?.is_some()))
        .collect()
}

/// A page of a segment's blocks.
pub(crate) fn load_page(
    view: &dyn View,
    segment: SegmentId,
    page: u32,
) -> Result<Option<Vec<BlockRecord>>, StoreError> {
    get(view, &keys::page(keys::BLOCKS, segment, page))
}

/// A segment's record.
pub(crate) fn load(
    view: &dyn View,
    segment: SegmentId,
) -> Result<Option<SegmentRecord>, StoreError> {
    get(view, &keys::segment(keys::SEGMENTS, segment))
}

fn marked<T>(
    view: &dyn View,
    table: u8,
    max: u32,
    row: impl Fn(SegmentId, &[u8]) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let max = (max as usize).min(SEGMENTS_MAX);
    let mut found = Vec::new();
    if max == 0 {
        return Ok(found);
    }
    scan_all(view, &[table], &[table + 1], |key, value| {
        found.push(row(SegmentId(keys::id_of(key)?), value)?);
        Ok(found.len() < max)
    })?;
    Ok(found)
}

fn save(
    change: &mut Change<'_>,
    segment: SegmentId,
    record: &SegmentRecord,
) -> Result<(), StoreError> {
    change.put(&keys::segment(keys::SEGMENTS, segment), record)
}

fn write_page(
    change: &mut Change<'_>,
    segment: SegmentId,
    page: u32,
    blocks: &[BlockRecord],
) -> Result<(), StoreError> {
    change.put_page(&keys::page(keys::BLOCKS, segment, page), blocks)?;
    let debt = debt_of(blocks);
    if debt > 0 {
        change.put(&keys::page(keys::DEBT, segment, page), &debt)?;
        change.moved.debt += i64::from(debt);
    }
    Ok(())
}

/// The sums with more blocks, if those fit.
fn extended(mut sums: SegmentBlocks, blocks: &[BlockRecord]) -> Step<SegmentBlocks> {
    for block in blocks {
        if sums.ended {
            return invalid("a block comes after a shorter one");
        }
        if sums.count == 0 {
            sums.block_len = block.len;
        }
        if block.len == 0 || block.len > sums.block_len {
            return invalid(format!(
                "a block of {} bytes among blocks of {}",
                block.len, sums.block_len
            ));
        }
        sums.ended = block.len < sums.block_len;
        sums.count = match sums.count.checked_add(1) {
            Some(count) => count,
            None => return invalid("a segment has fewer than 2^32 blocks"),
        };
        sums.bytes += u64::from(block.len);
    }
    sums.debt += debt_of(blocks);
    Ok(sums)
}

fn debt_of(blocks: &[BlockRecord]) -> u32 {
    blocks
        .iter()
        .filter(|block| !block.missing.is_empty())
        .count() as u32
}

fn pages(blocks: &SegmentBlocks) -> u32 {
    blocks.count.div_ceil(BLOCKS_PER_PAGE as u32)
}

fn page_of(number: u32) -> u32 {
    number / BLOCKS_PER_PAGE as u32
}

fn missing() -> StoreError {
    StoreError::Damaged("an owned segment has no record".into())
}

fn missing_page() -> StoreError {
    StoreError::Damaged("a page of a segment's blocks is missing".into())
}
