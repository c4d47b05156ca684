//! One reader per node follows the change log and fans it out to any number of watchers.
//!
//! Each watched kind has a lane: the newest changes of the kind, shared, in order. A watcher keeps
//! only its position and reads the lane when it is woken; one that fell behind the lane reads the
//! change log itself until it has caught up. So a slow watcher costs nobody anything.
//!
//! Invariants: a lane holds every change of its kind with `covered < revision <= progress`; progress
//! is told after the lanes have the changes. The reader starts with the first watcher and ends with
//! [`Hub::stop`] or the last handle.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ids::Revision;
use raft_machine::Freshness;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::error::RegistryError;
use crate::link::Link;
use crate::query::{Answer, ChangeAt, ChangesQuery, Query};
use crate::signal::ChangeSignal;

/// Changes that a lane keeps.
pub const LANE_CHANGES_MAX: usize = 4_096;
/// Bytes of values that a lane keeps.
pub const LANE_BYTES_MAX: usize = 8 << 20;

const PAGE: u32 = 1_024;
/// How often the log is read when no signal comes: where this node has no replica.
const POLL: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub struct Hub {
    shared: Arc<Shared>,
    reader: Mutex<Reader>,
}

enum Reader {
    Idle,
    Running(JoinHandle<()>),
    Stopped,
}

/// The newest changes of a kind.
pub struct Lane {
    state: Mutex<LaneState>,
    wake: watch::Sender<u64>,
}

struct LaneState {
    changes: VecDeque<Arc<ChangeAt>>,
    bytes: usize,
    /// Changes of this and older revisions may be missing; all newer ones are here.
    covered: Revision,
}

/// No revision is covered while the reader has no position.
const NOTHING: Revision = Revision(u64::MAX);

struct Shared {
    link: Link,
    signal: ChangeSignal,
    lanes: Mutex<BTreeMap<String, Arc<Lane>>>,
    progress: watch::Sender<Revision>,
    new_lane: Notify,
}

impl Hub {
    /// A hub that does nothing until somebody watches.
    pub fn new(link: Link, signal: ChangeSignal) -> Self {
        let shared = Shared {
            link,
            signal,
            lanes: Mutex::default(),
            progress: watch::Sender::new(Revision(0)),
            new_lane: Notify::new(),
        };
        Hub {
            shared: Arc::new(shared),
            reader: Mutex::new(Reader::Idle),
        }
    }

    /// The lane of a kind; starts the reader when it is the first.
    pub fn lane(&self, kind: &str) -> Arc<Lane> {
        let lane = self.shared.lane(kind);
        let mut reader = lock(&self.reader);
        if matches!(*reader, Reader::Idle) {
            *reader = Reader::Running(tokio::spawn(read(self.shared.clone())));
        }
        lane
    }

    /// Up to which revision the lanes are filled.
    pub fn progress(&self) -> watch::Receiver<Revision> {
        self.shared.progress.subscribe()
    }

    /// The way to the log, for watchers that fell behind.
    pub fn link(&self) -> &Link {
        &self.shared.link
    }

    /// Whether [`Hub::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        matches!(*lock(&self.reader), Reader::Stopped)
    }

    /// Ends the reader and waits for it.
    pub async fn stop(&self) {
        let reader = std::mem::replace(&mut *lock(&self.reader), Reader::Stopped);
        if let Reader::Running(task) = reader {
            task.abort();
            // An error says that it was aborted, which is what was asked for.
            let _ = task.await;
        }
        for lane in lock(&self.shared.lanes).values() {
            lane.wake.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Reader::Running(task) = &*lock(&self.reader) {
            task.abort();
        }
    }
}

impl Lane {
    fn new() -> Self {
        let state = LaneState {
            changes: VecDeque::new(),
            bytes: 0,
            covered: NOTHING,
        };
        Lane {
            state: Mutex::new(state),
            wake: watch::Sender::new(0),
        }
    }

    /// Wakes when the lane has more.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// The changes after `position`; none when the lane does not reach back so far.
    pub fn after(&self, position: Revision) -> Option<Vec<Arc<ChangeAt>>> {
        let state = lock(&self.state);
        if position < state.covered {
            return None;
        }
        let start = state
            .changes
            .partition_point(|change| change.revision <= position);
        Some(state.changes.range(start..).cloned().collect())
    }

    /// Forgets all and covers what comes after `revision`.
    fn restart(&self, revision: Revision) {
        *lock(&self.state) = LaneState {
            changes: VecDeque::new(),
            bytes: 0,
            covered: revision,
        };
        self.wake.send_modify(|count| *count += 1);
    }

    fn push(&self, changes: Vec<Arc<ChangeAt>>) {
        let mut state = lock(&self.state);
        for change in changes {
            state.bytes += size(&change);
            state.changes.push_back(change);
        }
        while state.changes.len() > LANE_CHANGES_MAX || state.bytes > LANE_BYTES_MAX {
            let Some(oldest) = state.changes.pop_front() else {
                break;
            };
            state.bytes -= size(&oldest);
            state.covered = oldest.revision;
        }
        drop(state);
        self.wake.send_modify(|count| *count += 1);
    }
}

impl Shared {
    fn lane(&self, kind: &str) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(kind) {
            return lane.clone();
        }
        let lane = Arc::new(Lane::new());
        lanes.insert(kind.into(), lane.clone());
        self.new_lane.notify_one();
        lane
    }

    /// The kinds that somebody watches; forgets the others.
    fn kinds(&self) -> Vec<String> {
        let mut lanes = lock(&self.lanes);
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        lanes.keys().cloned().collect()
    }

    /// Lets all lanes start after `revision`.
    fn restart(&self, revision: Revision) {
        for lane in lock(&self.lanes).values() {
            lane.restart(revision);
        }
        self.advance(revision);
    }

    /// Puts a page that was asked for `kinds` into the lanes.
    fn publish(&self, kinds: &[String], changes: Vec<ChangeAt>, upto: Revision) {
        let mut by_kind: BTreeMap<String, Vec<Arc<ChangeAt>>> = BTreeMap::new();
        for change in changes {
            by_kind
                .entry(change.change.kind.clone())
                .or_default()
                .push(Arc::new(change));
        }
        for (kind, lane) in lock(&self.lanes).iter() {
            if kinds.binary_search(kind).is_err() || lock(&lane.state).covered == NOTHING {
                // The lane is younger than the question: the page has nothing for it.
                lane.restart(upto);
            } else if let Some(changes) = by_kind.remove(kind) {
                lane.push(changes);
            }
        }
        self.advance(upto);
    }

    fn advance(&self, to: Revision) {
        self.progress.send_if_modified(|progress| {
            let newer = to > *progress;
            *progress = to.max(*progress);
            newer
        });
    }
}

async fn read(shared: Arc<Shared>) {
    let mut signal = shared.signal.subscribe();
    let mut position = None;
    let mut pause = PAUSE_MIN;
    loop {
        signal.borrow_and_update();
        match drain(&shared, &mut position).await {
            Ok(()) => pause = PAUSE_MIN,
            Err(error) => {
                tracing::warn!(%error, "following the registry's changes failed; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        }
        tokio::select! {
            biased;
            _ = signal.changed() => {}
            () = shared.new_lane.notified() => {}
            () = sleep(POLL) => {}
        }
    }
}

/// Reads pages until there are no more.
async fn drain(shared: &Shared, position: &mut Option<Revision>) -> Result<(), RegistryError> {
    loop {
        let kinds = shared.kinds();
        if kinds.is_empty() {
            *position = None;
            return Ok(());
        }
        let since = match *position {
            Some(since) => since,
            None => {
                let current = shared.link.revision(Freshness::Local).await?;
                shared.restart(current);
                *position.insert(current)
            }
        };
        let query = ChangesQuery {
            since,
            kinds: kinds.clone(),
            max: PAGE,
        };
        match shared
            .link
            .ask(&Query::Changes(query), Freshness::Local)
            .await
        {
            Ok(Answer::Changes { upto, current, .. }) if upto <= since || current <= since => {
                shared.publish(&kinds, Vec::new(), since);
                return Ok(());
            }
            Ok(Answer::Changes { changes, upto, .. }) => {
                shared.publish(&kinds, changes, upto);
                *position = Some(upto);
            }
            Ok(_) => return Err(RegistryError::Mismatch),
            Err(RegistryError::TooOld { .. }) => *position = None,
            Err(error) => return Err(error),
        }
    }
}

fn size(change: &ChangeAt) -> usize {
    let len = |value: &Option<bytes::Bytes>| value.as_ref().map_or(0, bytes::Bytes::len);
    len(&change.change.before) + len(&change.change.after) + 256
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
