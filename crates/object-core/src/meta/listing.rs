//! List pages: a sorted merge over key slots, and over the pages of several groups.
//!
//! A page's cost follows from what it shows, not from the size of the bucket: each slot is read from where the page starts,
//! a common prefix is left by a seek to its end, and reading stops when the page is full.

use std::collections::{BTreeSet, VecDeque};

use ids::BucketId;
use raft_machine::{StoreError, View};

use super::change::scan_all;
use super::records::{self, VersionRecord};
use super::{Answer, keys};
use crate::api::{ListPage, ListedObject, PAGE_KEYS_MAX};

/// The fewest rows that are read at one time.
const AT_ONCE_MIN: usize = 16;

/// What a page is to show of a bucket's slots.
pub(crate) struct Wanted<'a> {
    pub bucket: BucketId,
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    pub after: Option<&'a str>,
    pub max: u32,
}

/// Rows that a group is asked for beyond its even share of a page, besides a quarter of that share. Keys are spread by
/// their hash, so hardly ever does a group have more of a page.
const SLACK: usize = 16;

/// One page over several groups, put together from the pages that they give.
///
/// Each group is asked for little more than its share. A group whose page ends before the merged one is full is asked
/// again, for all that is missing: so two rounds are enough, however unevenly the keys lie.
///
/// Once every group answered, the merged page shows no name behind which another may be hidden, also if it is finished
/// before all that it wants was asked.
#[derive(Debug)]
pub struct Merge {
    after: Option<String>,
    max: usize,
    read: Vec<Read>,
    objects: Vec<ListedObject>,
    common_prefixes: BTreeSet<String>,
}

/// A question that a [`Merge`] wants answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The group, counted from 0.
    pub group: usize,
    /// Only what comes after.
    pub after: Option<String>,
    /// Keys and common prefixes together.
    pub max: usize,
}

/// How far a group was read.
#[derive(Debug, Clone)]
enum Read {
    Nothing,
    UpTo(String),
    All,
}

impl Merge {
    /// A page of at most `max` keys and common prefixes after `after`, from so many groups.
    pub fn new(groups: usize, after: Option<String>, max: usize) -> Self {
        Merge {
            after,
            max,
            read: vec![Read::Nothing; groups],
            objects: Vec::new(),
            common_prefixes: BTreeSet::new(),
        }
    }

    /// What has to be asked before the page is what it should be; nothing when it is.
    pub fn wanted(&self) -> Vec<Ask> {
        let names = self.names();
        let last = match self.max.checked_sub(1) {
            Some(at) => names.get(at).copied(),
            None => return Vec::new(),
        };
        let share = self.max.div_ceil(self.read.len().max(1));
        let first = (share + share / 4 + SLACK).min(self.max);
        let ask = |(group, read): (usize, &Read)| {
            let (after, max) = match read {
                Read::Nothing => (self.after.clone(), first),
                Read::UpTo(end) if last.is_none_or(|last| end.as_str() < last) => {
                    let before = names.partition_point(|name| *name <= end.as_str());
                    (Some(end.clone()), self.max - before)
                }
                Read::UpTo(_) | Read::All => return None,
            };
            Some(Ask { group, after, max })
        };
        self.read.iter().enumerate().filter_map(ask).collect()
    }

    /// Takes a group's answer to what was wanted of it last.
    pub fn add(&mut self, group: usize, page: ListPage) {
        self.read[group] = page.next.map_or(Read::All, Read::UpTo);
        self.objects.extend(page.objects);
        self.common_prefixes.extend(page.common_prefixes);
    }

    /// The page. If something is still wanted it may be shorter than asked for; `next` leads to the rest.
    pub fn finish(mut self) -> ListPage {
        let Some(last) = self.max.checked_sub(1) else {
            return ListPage::default();
        };
        let names = self.names();
        let bound = self.read.iter().filter_map(|read| match read {
            Read::UpTo(end) => Some(end.as_str()),
            Read::Nothing | Read::All => None,
        });
        let bound = bound.min();
        let more = bound.is_some() || names.len() > self.max;
        let ends = [names.get(last).copied(), bound];
        let end = ends.into_iter().flatten().min();
        let next = end.filter(|_| more).map(str::to_owned);
        self.objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        if let Some(next) = &next {
            self.objects.retain(|object| object.key <= *next);
            self.common_prefixes.retain(|prefix| prefix <= next);
        }
        ListPage {
            objects: self.objects,
            common_prefixes: self.common_prefixes.into_iter().collect(),
            next,
        }
    }

    /// All names that groups gave, in order, each once.
    fn names(&self) -> Vec<&str> {
        let keys = self.objects.iter().map(|object| object.key.as_str());
        let prefixes = self.common_prefixes.iter().map(String::as_str);
        let mut names: Vec<&str> = keys.chain(prefixes).collect();
        names.sort_unstable();
        names.dedup();
        names
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
    // A row more than is shown says whether the page goes on.
    let at_once = (max.div_ceil(slots.len().max(1)) + 1)
        .max(AT_ONCE_MIN)
        .min(max + 1);
    let mut cursors: Vec<Cursor> = slots
        .iter()
        .map(|&slot| Cursor::new(wanted, slot, at_once))
        .collect();
    for shown in 0.. {
        for cursor in &mut cursors {
            cursor.fill(view, wanted)?;
        }
        let named = cursors.iter().enumerate();
        let least = named
            .filter_map(|(at, cursor)| Some((cursor.name()?, at)))
            .min();
        let Some((_, at)) = least else { break };
        if shown == max {
            page.next = last_name(&page);
            break;
        }
        match cursors[at].read.pop_front() {
            Some(Row::Object(object)) => page.objects.push(object),
            Some(Row::Prefix(prefix)) => {
                for cursor in &mut cursors {
                    cursor.pass(&prefix);
                }
                page.common_prefixes.push(prefix);
            }
            None => {}
        }
    }
    Ok(page)
}

fn last_name(page: &ListPage) -> Option<String> {
    let key = page.objects.last().map(|object| &object.key);
    key.max(page.common_prefixes.last()).cloned()
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

    /// Reads on when all rows were given.
    fn fill(&mut self, view: &dyn View, wanted: &Wanted<'_>) -> Result<(), StoreError> {
        while self.read.is_empty() && !self.ended {
            self.read_more(view, wanted)?;
            // The first rows are this slot's share; what comes after them is likely to be little.
            self.at_once = (self.at_once / 4).max(AT_ONCE_MIN);
        }
        Ok(())
    }

    /// The name of the next row.
    fn name(&self) -> Option<&str> {
        self.read.front().map(Row::name)
    }

    /// Leaves out the next row if it has this name: another slot gave it.
    fn pass(&mut self, name: &str) {
        if self.name() == Some(name) {
            self.read.pop_front();
        }
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
