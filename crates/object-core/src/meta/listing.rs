//! List pages: a sorted merge over key slots, and over the pages of several groups.
//!
//! A page's cost follows from what it shows, not from the size of the bucket: each slot is read from where the page starts,
//! a common prefix is left by a seek to its end, and reading stops when the page is full.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ids::BucketId;
use raft_machine::{StoreError, View};

use super::change::scan_all;
use super::records::{self, VersionRecord};
use super::{Answer, keys};
use crate::api::{ListPage, ListedObject, PAGE_KEYS_MAX};

/// What a page is to show of a bucket's slots.
pub(crate) struct Wanted<'a> {
    pub bucket: BucketId,
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    pub after: Option<&'a str>,
    pub max: u32,
}

/// Merges the pages that several groups gave for the same question into one of at most `max` keys and common prefixes.
/// What lies beyond the end of a page that goes on is not shown: that group may have more in front of it.
pub fn merge_pages(pages: Vec<ListPage>, max: usize) -> ListPage {
    if max == 0 {
        return ListPage::default();
    }
    let bound = pages.iter().filter_map(|page| page.next.clone()).min();
    let visible = |name: &str| bound.as_deref().is_none_or(|bound| name <= bound);
    let mut objects = BTreeMap::new();
    let mut prefixes = BTreeSet::new();
    for page in pages {
        objects.extend(
            page.objects
                .into_iter()
                .map(|object| (object.key.clone(), object)),
        );
        prefixes.extend(page.common_prefixes);
    }
    let mut names: Vec<&str> = objects
        .keys()
        .chain(&prefixes)
        .map(String::as_str)
        .filter(|name| visible(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    let next = match names.get(max) {
        Some(_) => Some(names[max - 1].to_owned()),
        None => bound.clone(),
    };
    let shown = |name: &str| next.as_deref().is_none_or(|last| name <= last);
    ListPage {
        common_prefixes: prefixes
            .iter()
            .filter(|name| shown(name))
            .cloned()
            .collect(),
        objects: objects
            .values()
            .filter(|object| shown(&object.key))
            .cloned()
            .collect(),
        next,
    }
}

/// Answers [`super::Query::List`].
pub(crate) fn list(
    view: &dyn View,
    wanted: &Wanted<'_>,
    slots: &[u16],
) -> Result<Answer, StoreError> {
    let page = page(view, wanted, slots)?;
    Ok(Answer::List {
        objects: page.objects,
        common_prefixes: page.common_prefixes,
        next: page.next,
    })
}

fn page(view: &dyn View, wanted: &Wanted<'_>, slots: &[u16]) -> Result<ListPage, StoreError> {
    let max = (wanted.max as usize).min(PAGE_KEYS_MAX);
    let mut page = ListPage::default();
    if max == 0 {
        return Ok(page);
    }
    let slots: BTreeSet<u16> = slots.iter().copied().collect();
    let at_once = (max / slots.len().max(1) + 2).max(16);
    let mut cursors: Vec<Cursor> = slots
        .iter()
        .map(|&slot| Cursor::new(wanted, slot, at_once))
        .collect();
    let mut last = None;
    let mut shown = 0;
    loop {
        let mut least: Option<String> = None;
        for cursor in &mut cursors {
            if let Some(row) = cursor.peek(view, wanted)?
                && least.as_deref().is_none_or(|least| row.name() < least)
            {
                least = Some(row.name().to_owned());
            }
        }
        let Some(name) = least else { return Ok(page) };
        if shown == max {
            page.next = last;
            return Ok(page);
        }
        let mut rows = cursors
            .iter_mut()
            .filter_map(|cursor| cursor.pop_if(&name))
            .collect::<Vec<_>>();
        match rows.pop() {
            Some(Row::Object(object)) => page.objects.push(object),
            Some(Row::Prefix(prefix)) => page.common_prefixes.push(prefix),
            None => {}
        }
        shown += 1;
        last = Some(name);
    }
}

enum Row {
    Object(ListedObject),
    Prefix(String),
}

impl Row {
    fn name(&self) -> &str {
        match self {
            Row::Object(object) => &object.key,
            Row::Prefix(prefix) => prefix,
        }
    }
}

/// Rows of one slot, in order, read a few at a time.
struct Cursor {
    slot: u16,
    from: Vec<u8>,
    to: Vec<u8>,
    read: VecDeque<Row>,
    at_once: usize,
    ended: bool,
}

impl Cursor {
    fn new(wanted: &Wanted<'_>, slot: u16, at_once: usize) -> Self {
        let start = keys::starting_with(keys::HEADS, wanted.bucket, slot, wanted.prefix);
        let to = keys::after_all(start.clone());
        let mut from = start;
        if let Some(after) = wanted.after {
            let rolled_up = common_prefix(after, wanted.prefix, wanted.delimiter);
            let passed = match rolled_up {
                Some(prefix) => keys::starting_with(keys::HEADS, wanted.bucket, slot, prefix),
                None => keys::of_key(keys::HEADS, wanted.bucket, slot, after),
            };
            from = from.max(keys::after_all(passed));
        }
        Cursor {
            slot,
            from,
            to,
            read: VecDeque::new(),
            at_once,
            ended: false,
        }
    }

    fn peek(&mut self, view: &dyn View, wanted: &Wanted<'_>) -> Result<Option<&Row>, StoreError> {
        while self.read.is_empty() && !self.ended {
            self.read_more(view, wanted)?;
        }
        Ok(self.read.front())
    }

    fn pop_if(&mut self, name: &str) -> Option<Row> {
        let same = self.read.front().is_some_and(|row| row.name() == name);
        if same { self.read.pop_front() } else { None }
    }

    /// Reads until there are enough rows, the slot ends, or a common prefix is to be left by a seek.
    fn read_more(&mut self, view: &dyn View, wanted: &Wanted<'_>) -> Result<(), StoreError> {
        let Cursor {
            slot,
            from,
            to,
            read,
            at_once,
            ended,
        } = self;
        while read.len() < *at_once && !*ended {
            let mut go_on_from = None;
            scan_all(view, from, to, |bytes, value| {
                let (key, version) = keys::split_key(bytes)?;
                if let Some(prefix) = common_prefix(&key, wanted.prefix, wanted.delimiter) {
                    let all = keys::starting_with(keys::HEADS, wanted.bucket, *slot, prefix);
                    read.push_back(Row::Prefix(prefix.to_owned()));
                    go_on_from = Some(keys::after_all(all));
                    return Ok(false);
                }
                if let VersionRecord::Object(head) = records::decode(value)?
                    && head.current
                {
                    read.push_back(Row::Object(ListedObject {
                        version: keys::version_of(version)?,
                        size: head.size,
                        etag: head.etag.into(),
                        modified_ms: head.modified_ms,
                        checksum_kind: head.checksum.map(|checksum| checksum.kind),
                        owner: head.owner,
                        key,
                    }));
                }
                if read.len() < *at_once {
                    return Ok(true);
                }
                let mut next = bytes.to_vec();
                next.push(0);
                go_on_from = Some(next);
                Ok(false)
            })?;
            match go_on_from {
                Some(next) => *from = next,
                None => *ended = true,
            }
        }
        Ok(())
    }
}

/// What a key is rolled up into: up to and including the first delimiter after the prefix.
fn common_prefix<'k>(key: &'k str, prefix: &str, delimiter: Option<&str>) -> Option<&'k str> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let at = key.strip_prefix(prefix)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}
