//! Blocks that want repair: those with debt, and on request those of given epochs.
//!
//! Debt is found by its markers. Blocks of an epoch are found by looking at all pages, a few per query.

use ids::{Epoch, SegmentId};
use raft_machine::{StoreError, View};

use super::change::scan_all;
use super::records::SegmentState;
use super::{Answer, BLOCKS_PER_PAGE, BlockRecord, PageAt, keys, segments};

/// The most pages that one query reads.
const PAGES_MAX: usize = 16;

/// Answers [`super::Query::Debt`]. Pages are given whole, so that `next` can name one; only a page that has more than `max`
/// such blocks alone is cut, the others of its blocks come when these are repaired. With `next`, an answer may be empty:
/// none of the pages that were read had such a block.
pub(crate) fn debt(
    view: &dyn View,
    thin: &[Epoch],
    after: Option<PageAt>,
    max: u32,
) -> Result<Answer, StoreError> {
    let max = (max as usize).clamp(1, BLOCKS_PER_PAGE);
    let table = if thin.is_empty() {
        keys::DEBT
    } else {
        keys::BLOCKS
    };
    let (pages, mut more) = pages(view, table, after)?;
    let mut blocks = Vec::new();
    let mut done = None;
    for at in pages {
        let mut wanted = wanted(view, thin, at)?;
        if !blocks.is_empty() && blocks.len() + wanted.len() > max {
            more = true;
            break;
        }
        wanted.truncate(max);
        blocks.append(&mut wanted);
        done = Some(at);
    }
    Ok(Answer::Debt {
        blocks,
        next: done.filter(|_| more),
    })
}

/// The next pages in a table of pages, and whether there are more.
fn pages(
    view: &dyn View,
    table: u8,
    after: Option<PageAt>,
) -> Result<(Vec<PageAt>, bool), StoreError> {
    let from = match after {
        Some(at) => keys::after_all(keys::page(table, at.segment, at.page)),
        None => vec![table],
    };
    let mut pages: Vec<PageAt> = Vec::new();
    scan_all(view, &from, &[table + 1], |key, _| {
        pages.push(PageAt {
            segment: SegmentId(keys::id_of(key)?),
            page: keys::page_of(key)?,
        });
        Ok(pages.len() <= PAGES_MAX)
    })?;
    let more = pages.len() > PAGES_MAX;
    pages.truncate(PAGES_MAX);
    Ok((pages, more))
}

fn wanted(
    view: &dyn View,
    thin: &[Epoch],
    at: PageAt,
) -> Result<Vec<(SegmentId, u32, BlockRecord)>, StoreError> {
    let segment = segments::load(view, at.segment)?;
    if segment.is_none_or(|record| record.state == SegmentState::Doomed) {
        return Ok(Vec::new());
    }
    let blocks = segments::load_page(view, at.segment, at.page)?.unwrap_or_default();
    let numbered = (at.page * BLOCKS_PER_PAGE as u32..).zip(blocks);
    let found = numbered
        .filter(|(_, block)| !block.missing.is_empty() || thin.contains(&block.epoch))
        .map(|(number, block)| (at.segment, number, block));
    Ok(found.collect())
}
