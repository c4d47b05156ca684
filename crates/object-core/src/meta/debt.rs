//! Blocks that want repair: those with debt, and on request those of given epochs.
//!
//! Debt is found by its markers. Blocks of an epoch are found by looking at all pages, a few per query.

use ids::{Epoch, SegmentId};
use raft_machine::{StoreError, View};

use super::change::scan_all;
use super::records::SegmentState;
use super::{Answer, BLOCKS_PER_PAGE, BlockRecord, keys, segments};

/// The most pages that one query reads.
const PAGES_MAX: usize = 16;

/// Answers [`super::Query::Debt`]. Segments are given whole, so that `next` can name one; only a segment that has more
/// than `max` such blocks alone is cut, the others of its blocks come when these are repaired. With `next`, an answer may
/// be empty: none of the pages that were read had such a block.
pub(crate) fn debt(
    view: &dyn View,
    thin: &[Epoch],
    after: Option<SegmentId>,
    max: u32,
) -> Result<Answer, StoreError> {
    let max = (max as usize).clamp(1, BLOCKS_PER_PAGE);
    let (pages, mut more) = pages(
        view,
        if thin.is_empty() {
            keys::DEBT
        } else {
            keys::BLOCKS
        },
        after,
    )?;
    let mut blocks = Vec::new();
    let mut done = None;
    for pages in pages.chunk_by(|(a, _), (b, _)| a == b) {
        let segment = pages[0].0;
        let mut wanted = wanted(view, thin, pages)?;
        if !blocks.is_empty() && blocks.len() + wanted.len() > max {
            more = true;
            break;
        }
        wanted.truncate(max);
        blocks.append(&mut wanted);
        done = Some(segment);
    }
    Ok(Answer::Debt {
        blocks,
        next: done.filter(|_| more),
    })
}

/// The next pages of whole segments in a table of pages, and whether there are more. A segment's own pages are never cut
/// off unless it has more than [`PAGES_MAX`].
fn pages(
    view: &dyn View,
    table: u8,
    after: Option<SegmentId>,
) -> Result<(Vec<(SegmentId, u32)>, bool), StoreError> {
    let from = match after {
        Some(segment) => keys::after_all(keys::page(table, segment, u32::MAX)),
        None => vec![table],
    };
    let mut pages: Vec<(SegmentId, u32)> = Vec::new();
    scan_all(view, &from, &[table + 1], |key, _| {
        pages.push((SegmentId(keys::id_of(key)?), keys::page_of(key)?));
        Ok(pages.len() <= PAGES_MAX)
    })?;
    if pages.len() <= PAGES_MAX {
        return Ok((pages, false));
    }
    let cut = pages[PAGES_MAX].0;
    match pages.iter().position(|(segment, _)| *segment == cut) {
        Some(0) | None => pages.truncate(PAGES_MAX),
        Some(start) => pages.truncate(start),
    }
    Ok((pages, true))
}

fn wanted(
    view: &dyn View,
    thin: &[Epoch],
    pages: &[(SegmentId, u32)],
) -> Result<Vec<(SegmentId, u32, BlockRecord)>, StoreError> {
    let mut found = Vec::new();
    if segments::load(view, pages[0].0)?.is_none_or(|record| record.state == SegmentState::Doomed) {
        return Ok(found);
    }
    for &(segment, page) in pages {
        let blocks = segments::load_page(view, segment, page)?.unwrap_or_default();
        for (number, block) in (page * BLOCKS_PER_PAGE as u32..).zip(blocks) {
            if !block.missing.is_empty() || thin.contains(&block.epoch) {
                found.push((segment, number, block));
            }
        }
    }
    Ok(found)
}
