//! One group's log and vote, in the node's write-ahead log.
//!
//! The log must keep every entry that the database has not durably applied: a purge that openraft asks for is held back
//! until a checkpoint covers it (see [`LogStore::purge_covered`]).
//!
//! Reads give every entry that the log holds in the asked range: one that is missing there is an error, never left out.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ids::GroupId;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use raft_wal::{Wal, WalError};
use tokio::sync::oneshot;

use crate::codec;
use crate::host::GroupHost;
use crate::types::{Entry, LogId, Types, Vote};

/// The most bytes of entries that are read, and so sent, at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// See the module. Clones share everything.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Arc<Wal>,
    host: Arc<GroupHost>,
    held_purge: Arc<Mutex<Option<LogId>>>,
}

fn wal_failed(error: WalError) -> io::Error {
    io::Error::other(error)
}

fn store_failed(error: raft_machine::StoreError) -> io::Error {
    io::Error::other(error)
}

impl LogStore {
    pub fn new(wal: Arc<Wal>, host: Arc<GroupHost>) -> Self {
        LogStore {
            wal,
            host,
            held_purge: Arc::default(),
        }
    }

    fn group(&self) -> GroupId {
        self.host.group
    }

    /// Carries out a purge that was held back, as far as checkpoints allow.
    pub async fn purge_covered(&self) -> io::Result<()> {
        let held = self
            .held_purge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match held {
            Some(id) => self.purge_or_hold(id).await,
            None => Ok(()),
        }
    }

    async fn purge_or_hold(&self, id: LogId) -> io::Result<()> {
        if id.index >= self.host.durable_next() {
            let mut held = self
                .held_purge
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *held = (*held).max(Some(id));
            return Ok(());
        }
        let (done, synced) = completion();
        self.wal
            .purge(self.group(), id.index, codec::encode_log_id(&id), done)
            .await;
        wait(synced).await
    }

    /// Says in words why the log here can't go on from what the database has applied; asked before the group is opened.
    pub fn check_fits(&self) -> Result<(), String> {
        let (group, applied_next) = (self.group(), self.host.applied_next());
        let Some(state) = self.wal.group(group) else {
            return match applied_next {
                0 => Ok(()),
                _ => Err(format!(
                    "the database has applied group {group} up to entry {}, but the write-ahead log does not know the \
                     group: the log's files were lost or come from another node. Bring this node back empty so that its \
                     peers fill it",
                    applied_next - 1
                )),
            };
        };
        match state.first <= applied_next {
            true => Ok(()),
            false => Err(format!(
                "the write-ahead log of group {group} begins at entry {}, but the database has applied only those \
                 before {applied_next}: it was lost or is an older copy. Bring this node back empty so that its peers \
                 fill it",
                state.first
            )),
        }
    }

    /// The part of a range that the log holds; what was purged or never appended may be asked for.
    fn held(&self, from: u64, to: u64) -> Range<u64> {
        let held = self.wal.group(self.group());
        held.map_or(0..0, |state| from.max(state.first)..to.min(state.next))
    }

    /// Reads the beginning of a range, without a gap: at least one entry, unless the range is empty.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self
            .wal
            .read(self.group(), range.clone(), bytes_max)
            .await
            .map_err(wal_failed)?;
        let entries = rows
            .into_iter()
            .map(|(_, bytes)| codec::decode_entry(bytes).map_err(store_failed))
            .collect::<io::Result<Vec<Entry>>>()?;
        check_whole(self.group(), range.start, &entries)?;
        Ok(entries)
    }
}

/// Refuses entries that are not those from `from` on, or none.
fn check_whole(group: GroupId, from: u64, entries: &[Entry]) -> io::Result<()> {
    let missing = |index: u64| {
        let words = format!("the write-ahead log lacks entry {index} of group {group}");
        Err(io::Error::other(words))
    };
    if entries.is_empty() {
        return missing(from);
    }
    for (expected, entry) in (from..).zip(entries) {
        if entry.log_id.index != expected {
            return missing(expected);
        }
    }
    Ok(())
}

type Synced = oneshot::Receiver<Result<(), WalError>>;

fn completion() -> (raft_wal::Done, Synced) {
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |result| {
        let _ = sender.send(result);
    });
    (done, receiver)
}

async fn wait(synced: Synced) -> io::Result<()> {
    match synced.await {
        Ok(result) => result.map_err(wal_failed),
        Err(_) => Err(io::Error::other("the write-ahead log was closed")),
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let mut held = self.held(from, to);
        let mut entries = Vec::new();
        while !held.is_empty() {
            let more = self.read(held.clone(), READ_BYTES_MAX).await?;
            held.start += more.len() as u64;
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let held = self.held(start, end);
        if held.start != start {
            // Purged meanwhile. What comes after must not be sent as if it came at `start`; nothing is as good as a heartbeat.
            return Ok(Vec::new());
        }
        match self.read(held.clone(), READ_BYTES_MAX).await {
            // So with what was truncated or purged just now: then nobody waits for these entries any more.
            Err(_) if self.held(start, end) != held => Ok(Vec::new()),
            read => read,
        }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.wal.group(self.group()).and_then(|state| state.vote);
        vote.map(|bytes| codec::decode_vote(bytes).map_err(store_failed))
            .transpose()
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let Some(state) = self.wal.group(self.group()) else {
            return Ok(LogState::default());
        };
        let purged = match state.purged {
            Some((_, mark)) => codec::decode_log_id(mark).map_err(store_failed)?,
            None => None,
        };
        let last = match state.next.checked_sub(1) {
            Some(last) if state.next > state.first => self
                .read(last..last + 1, 1)
                .await?
                .first()
                .map(|entry| entry.log_id()),
            _ => None,
        };
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, synced) = completion();
        self.wal
            .save_vote(self.group(), codec::encode_vote(vote), done)
            .await;
        wait(synced).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut first = None;
        let encoded: Vec<Bytes> = entries
            .into_iter()
            .map(|entry| {
                first.get_or_insert(entry.log_id.index);
                codec::encode_entry(&entry)
            })
            .collect();
        let Some(first) = first else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let done = Box::new(move |result: Result<(), WalError>| {
            callback.io_completed(result.map_err(wal_failed))
        });
        self.wal.append(self.group(), first, encoded, done).await;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        let (done, synced) = completion();
        self.wal.truncate_from(self.group(), from, done).await;
        wait(synced).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.purge_or_hold(log_id).await
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::testing::log_id;

    fn entries(indices: &[u64]) -> Vec<Entry> {
        let blank = |index: &u64| <Entry as RaftEntry>::new(log_id(1, *index), EntryPayload::Blank);
        indices.iter().map(blank).collect()
    }

    #[test]
    fn a_gap_is_never_read_over() {
        let check = |from, indices: &[u64]| check_whole(GroupId(7), from, &entries(indices));
        assert!(check(5, &[5, 6, 7]).is_ok());
        let gaps: [(&[u64], &str); 4] = [
            (&[], "entry 5"),
            (&[6, 7], "entry 5"),
            (&[5, 7], "entry 6"),
            (&[5, 5], "entry 6"),
        ];
        for (indices, lacks) in gaps {
            let error = check(5, indices).unwrap_err().to_string();
            assert!(error.contains(lacks), "{error}");
        }
    }
}
