//! What can be asked of the registry, and the answers from a view.
//!
//! Answers are bounded pages. A list continues by name; with [`ListQuery::at`] it is rebuilt as it
//! was at that revision, by undoing newer changes from the log, as far as the log (and
//! [`limits::UNDO_MAX`]) reaches: so pages of one list can show one state without pinning anything.
//! What is out of reach is answered as [`Answer::TooOld`]. A page of changes never splits a revision.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use ids::Revision;
use raft_machine::{StoreError, View};
use serde::{Deserialize, Serialize};

use crate::allocator::{self, Pool};
use crate::changes::{self, Change, LogState};
use crate::command::ResourceKey;
use crate::resource::Stored;
use crate::{keys, limits};

/// Sees a resource's name and its stored bytes.
type VisitNamed<'a, T> = dyn FnMut(&mut T, &str, &[u8]) -> ControlFlow<()> + 'a;

/// The newest format of [`Query`] and [`Answer`].
pub const QUERY_FORMAT: u8 = 1;

/// Records that one query looks at; then the page ends, though it may be short.
const VISITS_MAX: usize = 20_000;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// One resource.
    Get(ResourceKey),
    /// Resources of a kind, by name.
    List(ListQuery),
    /// The changes after a revision.
    Changes(ChangesQuery),
    /// Where the registry is.
    CurrentRevision,
    /// A pool's header.
    Pool(String),
    /// The resource that holds a value of a pool.
    Holder(String, u128),
}

/// See [`Query::List`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListQuery {
    /// The kind.
    pub kind: String,
    /// What names must start with.
    pub prefix: String,
    /// An (index, value) that must be among the resource's.
    pub index: Option<(String, String)>,
    /// What labels must satisfy.
    pub selector: Vec<Requirement>,
    /// Items of the page; 0 and more than the bound stand for [`limits::LIST_MAX`].
    pub limit: u32,
    /// The page begins after this name.
    pub after: Option<String>,
    /// The state to list: the newest, or that of an older revision.
    pub at: Option<Revision>,
}

/// A condition on labels; all of a list must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requirement {
    /// The label has one of these values.
    In(String, Vec<String>),
    /// The label has none of these values, or is not there.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is not there.
    Absent(String),
}

impl Requirement {
    /// Whether the labels satisfy the requirement.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let is_in = |key, values: &[String]| {
            labels
                .get(key)
                .is_some_and(|value| values.iter().any(|other| other == value))
        };
        match self {
            Requirement::In(key, values) => is_in(key, values),
            Requirement::NotIn(key, values) => !is_in(key, values),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
        }
    }
}

/// See [`Query::Changes`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChangesQuery {
    /// Changes of this and older revisions are left out.
    pub since: Revision,
    /// The kinds that are asked for; none stands for all.
    pub kinds: Vec<String>,
    /// After so many changes the page ends with their revision.
    pub max: u32,
}

/// A change with its revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeAt {
    /// The transaction.
    pub revision: Revision,
    /// What it did to one resource.
    pub change: Change,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Query::Get`].
    Item {
        /// The state that was looked at.
        revision: Revision,
        /// The resource, as [`Stored`].
        item: Option<Bytes>,
    },
    /// To [`Query::List`].
    Page {
        /// The state that was listed.
        revision: Revision,
        /// Resources by name, as [`Stored`].
        items: Vec<Bytes>,
        /// Where the next page begins, when there may be more; a page can be short or empty.
        next: Option<String>,
    },
    /// To [`Query::Changes`].
    Changes {
        /// In order of revision, kind and name.
        changes: Vec<ChangeAt>,
        /// All changes up to this revision are given.
        upto: Revision,
        /// The newest revision of the state that was looked at.
        current: Revision,
    },
    /// To [`Query::CurrentRevision`].
    Revision {
        /// The newest revision.
        current: Revision,
        /// Changes of this and older revisions are dropped.
        dropped: Revision,
        /// Whether dependants of deleted owners wait to be collected.
        garbage: bool,
    },
    /// To [`Query::Pool`].
    Pool(Option<Pool>),
    /// To [`Query::Holder`].
    Holder(Option<ResourceKey>),
    /// The past that was asked for is not kept any more.
    TooOld {
        /// The oldest revision that a watch can start from.
        oldest: Revision,
    },
    /// The state that was looked at is older than the revision that was asked for.
    NotYet {
        /// Its newest revision.
        current: Revision,
    },
    /// The question makes no sense, in words.
    Invalid(String),
}

/// Answers a question.
pub fn answer(view: &dyn View, query: &Query) -> Result<Answer, StoreError> {
    let state = LogState::load(view)?;
    match query {
        Query::Get(key) => {
            let item = view
                .get(&keys::resource(&key.kind, &key.name))?
                .map(Bytes::from);
            Ok(Answer::Item {
                revision: state.current,
                item,
            })
        }
        Query::List(list) => answer_list(view, &state, list),
        Query::Changes(query) => answer_changes(view, &state, query),
        Query::CurrentRevision => {
            let LogState {
                current, dropped, ..
            } = state;
            let mut garbage = false;
            view.scan(keys::GARBAGE_FROM, Some(keys::GARBAGE_TO), &mut |_, _| {
                garbage = true;
                ControlFlow::Break(())
            })?;
            Ok(Answer::Revision {
                current,
                dropped,
                garbage,
            })
        }
        Query::Pool(name) => Ok(Answer::Pool(allocator::load(view, name)?)),
        Query::Holder(pool, value) => Ok(Answer::Holder(allocator::holder(view, pool, *value)?)),
    }
}

fn answer_changes(
    view: &dyn View,
    state: &LogState,
    query: &ChangesQuery,
) -> Result<Answer, StoreError> {
    if query.since < state.dropped {
        return Ok(Answer::TooOld {
            oldest: state.dropped,
        });
    }
    let mut changes: Vec<ChangeAt> = Vec::new();
    let (mut bytes, mut visits) = (0, 0);
    let mut upto = state.current.max(query.since);
    let mut last = query.since;
    changes::since(view, query.since, &mut |revision, change, len| {
        let full = changes.len() >= query.max.max(1) as usize
            || bytes >= limits::PAGE_BYTES_MAX
            || visits >= VISITS_MAX;
        if full && revision > last {
            upto = last;
            return ControlFlow::Break(());
        }
        last = revision;
        visits += 1;
        if query.kinds.is_empty() || query.kinds.contains(&change.kind) {
            bytes += len;
            // An old value matters only where there is no new one.
            let before = change.before.filter(|_| change.after.is_none());
            changes.push(ChangeAt {
                revision,
                change: Change { before, ..change },
            });
        }
        ControlFlow::Continue(())
    })?;
    Ok(Answer::Changes {
        changes,
        upto,
        current: state.current,
    })
}

fn answer_list(view: &dyn View, state: &LogState, query: &ListQuery) -> Result<Answer, StoreError> {
    let revision = query.at.unwrap_or(state.current);
    if revision > state.current {
        return Ok(Answer::NotYet {
            current: state.current,
        });
    }
    let Some(undone) = undo(view, state, &query.kind, revision)? else {
        return Ok(Answer::TooOld {
            oldest: state.dropped,
        });
    };
    let mut page = Page::new(query);
    page.fill(view, undone)?;
    Ok(Answer::Page {
        revision,
        items: page.items,
        next: page.next,
    })
}

/// What the resources that changed after `at` were then, by name; none when the log does not reach.
type Undone = BTreeMap<String, Option<Bytes>>;

fn undo(
    view: &dyn View,
    state: &LogState,
    kind: &str,
    at: Revision,
) -> Result<Option<Undone>, StoreError> {
    let mut undone = Undone::new();
    if at < state.dropped {
        return Ok(None);
    }
    let mut visits = 0;
    changes::since(view, at, &mut |_, change, _| {
        visits += 1;
        if change.kind == kind {
            undone.entry(change.name).or_insert(change.before);
        }
        if visits > limits::UNDO_MAX {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok((visits <= limits::UNDO_MAX).then_some(undone))
}

/// A page in the making.
struct Page<'q> {
    query: &'q ListQuery,
    limit: usize,
    items: Vec<Bytes>,
    bytes: usize,
    visits: usize,
    last: String,
    next: Option<String>,
}

impl<'q> Page<'q> {
    fn new(query: &'q ListQuery) -> Self {
        let limit = match query.limit {
            0 => limits::LIST_MAX,
            limit => limit.min(limits::LIST_MAX),
        };
        Page {
            query,
            limit: limit as usize,
            items: Vec::new(),
            bytes: 0,
            visits: 0,
            last: String::new(),
            next: None,
        }
    }

    /// Merges what is with what was, by name.
    fn fill(&mut self, view: &dyn View, mut undone: Undone) -> Result<(), StoreError> {
        let after = self.query.after.as_deref();
        undone.retain(|name, _| {
            name.starts_with(&self.query.prefix) && after.is_none_or(|after| &name[..] > after)
        });
        let mut undone = undone.into_iter().peekable();
        let mut failed = Ok(());
        self.visit_current(view, &mut |page, name, value| {
            while let Some((older, was)) = undone.next_if(|(older, _)| &older[..] <= name) {
                let same = older == name;
                if let Some(was) = was
                    && page.offer(&older, &was, &mut failed).is_break()
                {
                    return ControlFlow::Break(());
                }
                if same {
                    return ControlFlow::Continue(());
                }
            }
            page.offer(name, value, &mut failed)
        })?;
        if self.next.is_none() {
            for (name, was) in undone {
                if let Some(was) = was
                    && self.offer(&name, &was, &mut failed).is_break()
                {
                    break;
                }
            }
        }
        failed
    }

    /// Adds a resource when it is asked for; breaks when the page is full.
    fn offer(
        &mut self,
        name: &str,
        value: &[u8],
        failed: &mut Result<(), StoreError>,
    ) -> ControlFlow<()> {
        let full = self.items.len() >= self.limit
            || self.bytes >= limits::PAGE_BYTES_MAX
            || self.visits >= VISITS_MAX;
        if full {
            self.next = Some(std::mem::take(&mut self.last));
            return ControlFlow::Break(());
        }
        self.visits += 1;
        self.last.clear();
        self.last.push_str(name);
        match self.wanted(value) {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) => {
                self.bytes += value.len();
                self.items.push(Bytes::copy_from_slice(value));
                ControlFlow::Continue(())
            }
            Err(error) => {
                *failed = Err(error);
                ControlFlow::Break(())
            }
        }
    }

    fn wanted(&self, value: &[u8]) -> Result<bool, StoreError> {
        if self.query.selector.is_empty() && self.query.index.is_none() {
            return Ok(true);
        }
        let stored = Stored::decode(value)?;
        let labels = &stored.metadata.labels;
        let index = &self.query.index;
        Ok(self
            .query
            .selector
            .iter()
            .all(|requirement| requirement.holds(labels))
            && index
                .as_ref()
                .is_none_or(|entry| stored.indexes.contains(entry)))
    }

    /// Visits the resources that are there now, through the index when one is asked for.
    fn visit_current(
        &mut self,
        view: &dyn View,
        visit: &mut VisitNamed<'_, Self>,
    ) -> Result<(), StoreError> {
        let query = self.query;
        let key = |name: &str| match &query.index {
            None => keys::resource(&query.kind, name),
            Some((index, value)) => keys::index(&query.kind, index, value, name),
        };
        let start = key(&query.prefix);
        let end = keys::end_of(&start);
        let after = query
            .after
            .as_deref()
            .map(|after| [key(after), vec![0]].concat());
        let from = after.map_or(start.clone(), |after| after.max(start));
        if query.index.is_none() {
            return view.scan(
                &from,
                Some(&end),
                &mut |key, value| match keys::parse_resource(key) {
                    Some((_, name)) => visit(self, name, value),
                    None => ControlFlow::Continue(()),
                },
            );
        }
        self.visit_index(view, from, &end, visit)
    }

    fn visit_index(
        &mut self,
        view: &dyn View,
        mut from: Vec<u8>,
        end: &[u8],
        visit: &mut VisitNamed<'_, Self>,
    ) -> Result<(), StoreError> {
        const CHUNK: usize = 512;
        loop {
            let mut entries: Vec<Vec<u8>> = Vec::new();
            view.scan(&from, Some(end), &mut |key, _| {
                entries.push(key.to_vec());
                if entries.len() < CHUNK {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            for entry in &entries {
                let name = keys::parse_index(entry).unwrap_or_default();
                let value = view.get(&keys::resource(&self.query.kind, name))?;
                let value = value.ok_or_else(|| {
                    StoreError::Damaged(format!("`{name}` is in an index and does not exist"))
                })?;
                if visit(self, name, &value).is_break() {
                    return Ok(());
                }
            }
            match entries.pop() {
                Some(last) if entries.len() + 1 == CHUNK => from = [last, vec![0]].concat(),
                _ => return Ok(()),
            }
        }
    }
}
