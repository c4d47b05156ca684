//! The bytes of a simulated file: sparse, in pages that copies share until one is written to.

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// A file's bytes. Pages that were never written read as zeros, and what is behind the end is zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pages: BTreeMap<u64, Arc<Page>>,
    len: u64,
}

/// A change of a file's bytes.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
    Punch { offset: u64, len: u64 },
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What the pages take on the disk.
    pub(super) fn allocated(&self) -> u64 {
        (self.pages.len() * PAGE_BYTES) as u64
    }

    /// Pages that a write would add.
    pub(super) fn would_allocate(&self, offset: u64, len: usize) -> u64 {
        let pages = pieces(offset, len as u64, PAGE_BYTES as u64);
        let new = pages.filter(|(at, _)| !self.pages.contains_key(&(at / PAGE_BYTES as u64)));
        (new.count() * PAGE_BYTES) as u64
    }

    /// Fills `out`; `false` when the content ends before.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        if offset
            .checked_add(out.len() as u64)
            .is_none_or(|end| end > self.len)
        {
            return false;
        }
        for (at, len) in pieces(offset, out.len() as u64, PAGE_BYTES as u64) {
            let (page, within) = place(at);
            let target = &mut out[(at - offset) as usize..][..len as usize];
            match self.pages.get(&page) {
                Some(page) => target.copy_from_slice(&page[within..within + target.len()]),
                None => target.fill(0),
            }
        }
        true
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(*offset, data),
            Change::SetLen(len) => self.set_len(*len),
            Change::Punch { offset, len } => self.punch(*offset, *len),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, len) in pieces(offset, data.len() as u64, PAGE_BYTES as u64) {
            let source = &data[(at - offset) as usize..][..len as usize];
            let (_, within) = place(at);
            self.page(at)[within..within + source.len()].copy_from_slice(source);
        }
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, self.len - len);
        }
        self.len = len;
    }

    fn punch(&mut self, offset: u64, len: u64) {
        const PAGE: u64 = PAGE_BYTES as u64;
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        let within = offset / PAGE..=(end - 1) / PAGE;
        let hit: Vec<u64> = self.pages.range(within).map(|(page, _)| *page).collect();
        for start in hit.into_iter().map(|page| page * PAGE) {
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            if from == start && (to == start + PAGE || to == self.len) {
                self.pages.remove(&(start / PAGE));
            } else {
                self.page(start)[(from - start) as usize..(to - start) as usize].fill(0);
            }
        }
    }

    /// Turns one bit of a byte within the content.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        if offset < self.len {
            let (_, within) = place(offset);
            self.page(offset)[within] ^= 1 << (bit % 8);
        }
    }

    fn page(&mut self, at: u64) -> &mut Page {
        let page = self
            .pages
            .entry(place(at).0)
            .or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        Arc::make_mut(page)
    }
}

/// The page that a byte is in, and where it is in there.
fn place(at: u64) -> (u64, usize) {
    (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize)
}

/// Cuts a range at the multiples of `size`: pairs of offset and length.
pub(super) fn pieces(offset: u64, len: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        let from = at;
        at = (from - from % size).saturating_add(size).min(end);
        (from < end).then_some((from, at - from))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_change() -> impl Strategy<Value = Change> {
        let offset = || 0u64..3 * PAGE_BYTES as u64;
        prop_oneof![
            (offset(), proptest::collection::vec(any::<u8>(), 0..9000))
                .prop_map(|(offset, data)| Change::Write { offset, data }),
            offset().prop_map(Change::SetLen),
            (offset(), offset()).prop_map(|(offset, len)| Change::Punch { offset, len }),
        ]
    }

    fn apply_plainly(bytes: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write { data, .. } if data.is_empty() => {}
            Change::Write { offset, data } => {
                let (from, to) = (*offset as usize, *offset as usize + data.len());
                bytes.resize(bytes.len().max(to), 0);
                bytes[from..to].copy_from_slice(data);
            }
            Change::SetLen(len) => bytes.resize(*len as usize, 0),
            Change::Punch { offset, len } => {
                let end = ((offset + len) as usize).min(bytes.len());
                if let Some(hole) = bytes.get_mut(*offset as usize..end) {
                    hole.fill(0);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn pages_hold_what_a_plain_vector_holds(changes in proptest::collection::vec(any_change(), 1..20)) {
            let (mut content, mut plain) = (Content::default(), Vec::new());
            for change in &changes {
                content.apply(change);
                apply_plainly(&mut plain, change);
                let mut read = vec![1; plain.len()];
                prop_assert_eq!(content.len(), plain.len() as u64);
                prop_assert!(content.read(0, &mut read));
                prop_assert!(read == plain, "after {:?}", change);
                prop_assert!(!content.read(1, &mut read) || plain.is_empty());
            }
        }
    }
}
