//! What the callers and the writer share: the accepted state, the queue, the cache, the index. No I/O.
//!
//! A call is checked and accepted under one short lock: from then on reads see it, and the queue fixes its place in the
//! log. The writer takes batches from the queue, and hands each back once it is durable.
//!
//! Invariants:
//! - `front` = what `index` holds + what is queued or being written, in order;
//! - an accepted entry is in the cache (not durable) or in the index (durable), or in both;
//! - once `ended` is set nothing is accepted, and what was queued has been answered.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use ids::GroupId;
use platform::File;

use crate::cache::Cache;
use crate::index::{Index, Place};
use crate::record::{self, Kind, PAYLOAD_BYTES_MAX, Record};
use crate::state::GroupState;
use crate::{Done, WalError, WalStats};

/// The bytes that one call may add to the log.
pub const CALL_BYTES_MAX: usize = 256 << 20;
/// The bytes of a vote or of a purge mark.
pub const SMALL_BYTES_MAX: usize = 64 << 10;

/// One call, as records to be.
#[derive(Debug)]
pub(crate) struct Change {
    pub group: GroupId,
    pub index: u64,
    pub body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Append(Vec<Bytes>),
    Vote(Bytes),
    Truncate,
    Purge(Bytes),
    Drop,
}

impl Change {
    /// Gives the change's records in order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Record<'_>)) {
        let record = |kind, index, payload| Record {
            kind,
            group: self.group,
            index,
            payload,
        };
        match &self.body {
            Body::Append(entries) => {
                for (at, entry) in entries.iter().enumerate() {
                    visit(record(Kind::Entry, self.index + at as u64, &entry[..]));
                }
            }
            Body::Vote(vote) => visit(record(Kind::Vote, 0, &vote[..])),
            Body::Truncate => visit(record(Kind::Truncate, self.index, &[])),
            Body::Purge(mark) => visit(record(Kind::Purge, self.index, &mark[..])),
            Body::Drop => visit(record(Kind::Drop, 0, &[])),
        }
    }

    /// Bytes in the log.
    pub(crate) fn encoded_len(&self) -> usize {
        let mut len = 0;
        self.for_each(|record| len += record::encoded_len(record.payload.len()));
        len
    }

    /// Refuses what exceeds a bound.
    pub(crate) fn check_len(&self) -> Result<(), WalError> {
        let check = |what, len, max| match len <= max {
            true => Ok(()),
            false => Err(WalError::TooLarge { what, len, max }),
        };
        match &self.body {
            Body::Append(entries) => {
                let longest = entries.iter().map(Bytes::len).max().unwrap_or(0);
                check("a log entry", longest, PAYLOAD_BYTES_MAX)?;
                check("one call's entries", self.encoded_len(), CALL_BYTES_MAX)
            }
            Body::Vote(bytes) => check("a vote", bytes.len(), SMALL_BYTES_MAX),
            Body::Purge(bytes) => check("a purge mark", bytes.len(), SMALL_BYTES_MAX),
            Body::Truncate | Body::Drop => Ok(()),
        }
    }
}

/// A change in the queue.
pub(crate) struct Queued {
    pub change: Change,
    pub done: Done,
    /// Its share of the queue's bound.
    pub permits: u32,
    ticket: u64,
}

/// A file of the log.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub file: Arc<dyn File>,
    pub path: Arc<str>,
    pub salt: u64,
    pub len: u64,
}

/// See the module.
pub(crate) struct Core {
    front: BTreeMap<GroupId, GroupState>,
    queue: VecDeque<Queued>,
    tickets: u64,
    cache: Cache,
    pub index: Index,
    pub segments: BTreeMap<u64, Segment>,
    pub stats: WalStats,
    pub ended: Option<WalError>,
    pub closing: bool,
}

/// An entry that a read will give: at hand, or where it stands.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Cached(Bytes),
    Stored(Place),
}

impl Core {
    pub(crate) fn new(index: Index, segments: BTreeMap<u64, Segment>, cache_bytes: usize) -> Self {
        Core {
            front: index.states(),
            queue: VecDeque::new(),
            tickets: 0,
            cache: Cache::new(cache_bytes),
            index,
            segments,
            stats: WalStats::default(),
            ended: None,
            closing: false,
        }
    }

    pub(crate) fn groups(&self) -> &BTreeMap<GroupId, GroupState> {
        &self.front
    }

    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Accepts a change, or gives `done` back with the reason.
    pub(crate) fn accept(
        &mut self,
        change: Change,
        done: Done,
        permits: u32,
    ) -> Result<(), (Done, WalError)> {
        match self.check(&change) {
            Ok(()) => {}
            Err(error) => return Err((done, error)),
        }
        self.tickets += 1;
        let ticket = self.tickets;
        self.show(&change, ticket);
        self.queue.push_back(Queued {
            change,
            done,
            permits,
            ticket,
        });
        Ok(())
    }

    fn check(&self, change: &Change) -> Result<(), WalError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        if self.closing {
            return Err(WalError::Closed);
        }
        let unknown = GroupState::default();
        let state = self.front.get(&change.group).unwrap_or(&unknown);
        match &change.body {
            Body::Append(entries) if !entries.is_empty() => {
                state.check_append(change.group, change.index)
            }
            Body::Truncate => state.check_truncate(change.group, change.index),
            _ => Ok(()),
        }
    }

    /// Makes an accepted change visible.
    fn show(&mut self, change: &Change, ticket: u64) {
        let group = change.group;
        match &change.body {
            Body::Append(entries) if entries.is_empty() => {}
            Body::Append(entries) => {
                self.front
                    .entry(group)
                    .or_default()
                    .append(change.index, entries.len() as u64);
                self.cache.append(group, change.index, entries, ticket);
            }
            Body::Vote(vote) => self.front.entry(group).or_default().vote = Some(vote.clone()),
            Body::Truncate => {
                self.front.entry(group).or_default().truncate(change.index);
                self.cache.truncate(group, change.index);
            }
            Body::Purge(mark) => {
                self.front
                    .entry(group)
                    .or_default()
                    .purge(change.index, mark.clone());
                self.cache.purge(group, change.index);
            }
            Body::Drop => {
                self.front.remove(&group);
                self.cache.drop_group(group);
            }
        }
    }

    /// Takes the oldest changes: at least one if there is one, then as long as they fit `bytes_max`. Returns their bytes
    /// in the log, too.
    pub(crate) fn take_batch(&mut self, bytes_max: usize) -> (Vec<Queued>, usize) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let len = next.change.encoded_len();
            if !batch.is_empty() && bytes + len > bytes_max {
                break;
            }
            bytes += len;
            batch.extend(self.queue.pop_front());
        }
        (batch, bytes)
    }

    /// A batch is durable at `offset` of a segment. Fails when the index doesn't take it: a bug, never a caller's doing.
    pub(crate) fn settle(
        &mut self,
        batch: &[Queued],
        segment: u64,
        offset: u64,
    ) -> Result<(), String> {
        let mut at = offset;
        for queued in batch {
            let mut result = Ok(());
            queued.change.for_each(|record| {
                let place = Place {
                    segment,
                    offset: at as u32,
                    len: record.payload.len() as u32,
                };
                at += record::encoded_len(record.payload.len()) as u64;
                self.stats.records += 1;
                if result.is_ok() {
                    result = self.index.apply(&record, place);
                }
            });
            result?;
        }
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.len = at;
        }
        if let Some(last) = batch.last() {
            self.cache.evict(last.ticket);
        }
        Ok(())
    }

    /// Ends the log for good; returns what was queued, to be answered.
    pub(crate) fn end(&mut self, error: WalError) -> VecDeque<Queued> {
        self.ended.get_or_insert(error);
        std::mem::take(&mut self.queue)
    }

    /// What a read of `range` gives: from the first kept entry in it on, at least one entry, up to `bytes_max` of log.
    pub(crate) fn pieces(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Vec<(u64, Piece)> {
        let Some(state) = self.front.get(&group) else {
            return Vec::new();
        };
        let mut pieces = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(state.first)..range.end.min(state.next) {
            let piece = match self.cache.get(group, index) {
                Some(entry) => Piece::Cached(entry.clone()),
                None => match self.index.place(group, index) {
                    Some(place) => Piece::Stored(place),
                    None => break,
                },
            };
            bytes += record::encoded_len(match &piece {
                Piece::Cached(entry) => entry.len(),
                Piece::Stored(place) => place.len as usize,
            });
            if bytes > bytes_max && !pieces.is_empty() {
                break;
            }
            pieces.push((index, piece));
        }
        pieces
    }

    /// Takes out the oldest segment, when nothing needs it any more.
    pub(crate) fn take_dead_segment(&mut self, active: u64) -> Option<(u64, Segment)> {
        let oldest = *self.segments.keys().next()?;
        match oldest < active && !self.index.is_live(oldest) {
            true => self.segments.pop_first(),
            false => None,
        }
    }

    /// See [`crate::Wal::pinning`].
    pub(crate) fn pinning(&self, older_than_segments: usize) -> Vec<(GroupId, u64)> {
        let kept = older_than_segments.max(1);
        match self.segments.keys().rev().nth(kept - 1) {
            Some(segment) => self.index.pinning_before(*segment),
            None => Vec::new(),
        }
    }
}
