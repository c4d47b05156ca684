//! One group's log and vote, in the node's write-ahead log.
//!
//! The log must keep every entry that the database has not durably applied: a purge that openraft asks for is held back
//! until a checkpoint covers it (see [`LogStore::purge_covered`]).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
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

    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let rows = self
            .wal
            .read(self.group(), from..to, bytes_max)
            .await
            .map_err(wal_failed)?;
        rows.into_iter()
            .map(|(_, bytes)| codec::decode_entry(bytes).map_err(store_failed))
            .collect()
    }
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
        let mut from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries = Vec::new();
        while from < to {
            let more = self.read(from, to, READ_BYTES_MAX).await?;
            let Some(last) = more.last() else { break };
            from = last.log_id.index + 1;
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX).await
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
                .read(last, last + 1, 1)
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
