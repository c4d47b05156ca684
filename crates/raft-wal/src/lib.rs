//! The node's one write-ahead log, shared by all Raft groups.
//!
//! Hundreds of groups write small records; a sync costs 0.1 to 4 ms on small disks. So all of them share one log: one
//! writer gathers what waits, writes it in one piece and syncs once for everybody.
//!
//! ```text
//!  group 0 ─ vote, entries ─┐           batch k+1 gathers              ┌ wal-…01.seg  all dead: goes
//!  group 1 ─ entries ───────┤  queue ──────────────────┐               ├ wal-…02.seg  holds a live entry of group 7
//!  group 7 ─ purge ─────────┘                          v               │
//!            reads ◄── cache, index ◄── settled ── write + sync ──────►└ wal-…03.seg  |head|batch|…|batch k|
//! ```
//!
//! Consistency: records are in the order of the calls, for each group and over all. `done` means synced. Reads see a
//! change as soon as its call was accepted.
//! Crash: what `done` confirmed is there; of what it didn't, a beginning may be. A torn tail is cut; damage in front of
//! synced records is refused with [`WalError::Damaged`] and nothing on disk is changed. See `recovery.rs` for the rules,
//! `segment.rs` and `record.rs` for the bytes.
//! Failure: the first failed write or sync fences the log for good ([`WalError::Fenced`]), since nobody knows what a disk
//! holds after that. Nothing is retried.
//! Cancellation: a call that is dropped while it waits for space changed nothing; afterwards it can't be stopped.
//! [`Wal`] dropped without [`Wal::close`] is like a crash.
//!
//! Bounds: the queue by `queue_bytes_max`, a batch by `batch_bytes_max` or one call, a call by [`CALL_BYTES_MAX`], an
//! entry by [`PAYLOAD_BYTES_MAX`], votes and marks by [`SMALL_BYTES_MAX`], cached entries by `cache_bytes` and what is
//! not yet durable. The index keeps 16 bytes for each live entry: groups must be purged, [`Wal::pinning`] names which.
//!
//! It knows nothing of Raft: votes, entries and marks are bytes. It doesn't keep two processes from one folder.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use ids::GroupId;
use platform::Platform;
use tokio::task::JoinHandle;

mod cache;
mod core;
mod error;
mod index;
mod open;
mod read;
mod record;
mod recovery;
mod segment;
mod state;
mod writer;

pub use crate::core::{CALL_BYTES_MAX, SMALL_BYTES_MAX};
pub use error::WalError;
pub use record::PAYLOAD_BYTES_MAX;
pub use state::GroupState;

use crate::core::{Body, Change, Core, Piece};
use writer::{Shared, Writer};

/// Called once, with the result of a call; must not block.
pub type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// Sizes. The defaults suit a node with some hundred groups.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// A segment file is closed at about this length; between 4 KiB and 1 GiB.
    pub segment_bytes: u64,
    /// Memory for durable entries, over all groups.
    pub cache_bytes: usize,
    /// What one write and sync carry at most, unless a single call has more; up to 256 MiB.
    pub batch_bytes_max: usize,
    /// What may wait to be written; callers wait beyond that.
    pub queue_bytes_max: usize,
    /// Files of former segments that are kept to be written over: syncs then cost less.
    pub spare_segments_max: usize,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            segment_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            batch_bytes_max: 4 << 20,
            queue_bytes_max: 16 << 20,
            spare_segments_max: 2,
        }
    }
}

impl WalOptions {
    fn within_bounds(self) -> Self {
        WalOptions {
            segment_bytes: self.segment_bytes.clamp(4 << 10, 1 << 30),
            cache_bytes: self.cache_bytes,
            batch_bytes_max: self.batch_bytes_max.clamp(1, 256 << 20),
            queue_bytes_max: self.queue_bytes_max.clamp(1, 1 << 30),
            spare_segments_max: self.spare_segments_max.min(16),
        }
    }
}

/// Counters since the log was opened, and its size now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalStats {
    /// Segment files.
    pub segments: u64,
    /// Bytes of records and heads in them.
    pub bytes: u64,
    /// Bytes of entries in memory, not yet durable ones included.
    pub cache_bytes: u64,
    /// Batches written.
    pub batches: u64,
    /// Syncs of batches.
    pub syncs: u64,
    /// Time that those syncs took, in microseconds.
    pub sync_micros_total: u64,
    /// Records written.
    pub records: u64,
    /// Records found when the log was opened.
    pub records_recovered: u64,
}

/// The log. See the crate's text.
pub struct Wal {
    shared: Arc<Shared>,
    platform: Arc<dyn Platform>,
    queue_bytes_max: usize,
    writer: JoinHandle<()>,
}

impl Wal {
    /// Opens the log in the folder `dir` of the platform's disk, or makes an empty one.
    ///
    /// # Errors
    /// [`WalError::Damaged`], [`WalError::Newer`] or [`WalError::Io`]; on the first two nothing was changed on disk.
    pub fn open(
        platform: Arc<dyn Platform>,
        dir: &str,
        options: WalOptions,
    ) -> BoxFuture<'static, Result<Wal, WalError>> {
        let dir: Arc<str> = dir.into();
        Box::pin(async move {
            let options = options.within_bounds();
            let mut salt = [0; 8];
            platform.fill_random(&mut salt);
            let (disk, dir_there, options_there) = (platform.disk(), dir.clone(), options.clone());
            let scan =
                move || open::open(&*disk, &dir_there, &options_there, u64::from_le_bytes(salt));
            let opened = platform.blocking(scan).await?;
            let mut core = Core::new(opened.index, opened.segments, options.cache_bytes);
            core.stats.records_recovered = opened.records;
            let queue_bytes_max = options.queue_bytes_max;
            let shared = Arc::new(Shared::new(core, queue_bytes_max));
            let writer = Writer {
                shared: shared.clone(),
                platform: platform.clone(),
                dir,
                options,
                active: opened.active,
                spares: opened.spares,
                buffer: Vec::new(),
            };
            let writer = tokio::spawn(writer.run());
            Ok(Wal {
                shared,
                platform,
                queue_bytes_max,
                writer,
            })
        })
    }

    /// Adds `entries` to a group's log, the first at `first_index`: the group's next index, or any for a new group.
    /// Waits only for space in the queue; `done` is called after the sync that covers the entries, in the order of the
    /// calls. A call that is refused has its `done` called at once.
    pub async fn append(&self, group: GroupId, first_index: u64, entries: Vec<Bytes>, done: Done) {
        self.submit(
            Change {
                group,
                index: first_index,
                body: Body::Append(entries),
            },
            done,
        )
        .await;
    }

    /// Keeps `vote` as the group's. Waits and confirms as [`Wal::append`] does.
    pub async fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        self.submit(
            Change {
                group,
                index: 0,
                body: Body::Vote(vote),
            },
            done,
        )
        .await;
    }

    /// Drops a group's entries from `index` on. Waits and confirms as [`Wal::append`] does.
    pub async fn truncate_from(&self, group: GroupId, index: u64, done: Done) {
        self.submit(
            Change {
                group,
                index,
                body: Body::Truncate,
            },
            done,
        )
        .await;
    }

    /// Drops a group's entries up to `through`, which may lie behind the last: the log then goes on after it. `mark` is
    /// kept until the next purge. Waits and confirms as [`Wal::append`] does.
    pub async fn purge(&self, group: GroupId, through: u64, mark: Bytes, done: Done) {
        self.submit(
            Change {
                group,
                index: through,
                body: Body::Purge(mark),
            },
            done,
        )
        .await;
    }

    /// Forgets a group, vote and all. Waits and confirms as [`Wal::append`] does.
    pub async fn drop_group(&self, group: GroupId, done: Done) {
        self.submit(
            Change {
                group,
                index: 0,
                body: Body::Drop,
            },
            done,
        )
        .await;
    }

    async fn submit(&self, change: Change, done: Done) {
        if let Err(error) = change.check_len() {
            return done(Err(error));
        }
        let permits = change.encoded_len().clamp(1, self.queue_bytes_max) as u32;
        // A closed semaphore means an ended log: `accept` says why.
        let permits = match self.shared.space.acquire_many(permits).await {
            Ok(space) => {
                space.forget();
                permits
            }
            Err(_) => 0,
        };
        let accepted = self.shared.core().accept(change, done, permits);
        match accepted {
            Ok(()) => self.shared.work.notify_one(),
            Err((done, error)) => {
                self.shared.space.add_permits(permits as usize);
                done(Err(error));
            }
        }
    }

    /// Entries of a group in `range`, without a gap: from the first that the log still has, at least one if there is
    /// one, and no more than fit `bytes_max` as records (each entry counts its bytes and 32 more).
    ///
    /// # Errors
    /// [`WalError::Damaged`] when a file no longer holds what was written: that fences the log, too.
    pub async fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, WalError> {
        let (pieces, runs) = {
            let core = self.shared.core();
            if let Some(error) = &core.ended {
                return Err(error.clone());
            }
            let pieces = core.pieces(group, range, bytes_max);
            let runs = read::runs(&core, group, &pieces);
            (pieces, runs.unwrap_or_default())
        };
        let mut stored = Vec::new().into_iter();
        if !runs.is_empty() {
            let read = move || {
                runs.iter()
                    .map(read::Run::read)
                    .collect::<Result<Vec<_>, _>>()
            };
            let read = self.platform.blocking(read).await.inspect_err(|error| {
                if matches!(error, WalError::Damaged { .. }) {
                    tracing::error!(%error, "the write-ahead log is fenced");
                    self.shared.fence(error, Vec::new());
                }
            })?;
            stored = read.concat().into_iter();
        }
        let entry = |(index, piece)| match piece {
            Piece::Cached(entry) => Some((index, entry)),
            Piece::Stored(_) => stored.next(),
        };
        Ok(pieces.into_iter().map_while(entry).collect())
    }

    /// A group's small state, with everything that was accepted so far; none for an unknown group.
    pub fn group(&self, group: GroupId) -> Option<GroupState> {
        self.shared.core().groups().get(&group).cloned()
    }

    /// The groups that the log knows, ascending.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.core().groups().keys().copied().collect()
    }

    /// The groups whose entries keep a segment alive that is not among the newest `older_than_segments` (at least one),
    /// each with the last index that does: a purge through it frees those segments from the group.
    pub fn pinning(&self, older_than_segments: usize) -> Vec<(GroupId, u64)> {
        self.shared.core().pinning(older_than_segments)
    }

    /// Counters and sizes.
    pub fn stats(&self) -> WalStats {
        let core = self.shared.core();
        WalStats {
            segments: core.segments.len() as u64,
            bytes: core.segments.values().map(|segment| segment.len).sum(),
            cache_bytes: core.cache_bytes() as u64,
            ..core.stats
        }
    }

    /// Why the log ended, if it did.
    pub fn ended(&self) -> Option<WalError> {
        self.shared.core().ended.clone()
    }

    /// Takes no more calls, makes durable what was accepted, and stops the writer.
    ///
    /// # Errors
    /// [`WalError::Fenced`] when the log had failed before, or does so now.
    pub fn close(&self) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(async move {
            self.shared.core().closing = true;
            self.shared.work.notify_one();
            self.shared.until_ended().await;
            match self.ended() {
                None | Some(WalError::Closed) => Ok(()),
                Some(error) => Err(error),
            }
        })
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
