//! Watches: all changes of a kind after a revision, in order, each once.
//!
//! A watch lives through overload and through a silent registry; it ends only when the change log
//! does not reach back to its position any more, or when the client stops. [`RawWatch::next`] may be
//! dropped at any time without losing a change.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use ids::Revision;
use raft_machine::{Freshness, GroupError, StoreError};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::RegistryError;
use crate::hub::{Hub, Lane};
use crate::query::{Answer, ChangeAt, ChangesQuery, Query};
use crate::resource::{Kind, Resource};

const PAGE: u32 = 1_024;
/// How long a watcher that is ahead of this node's replica waits before it looks again.
const PATIENCE: Duration = Duration::from_millis(200);

/// What happened at a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent<K: Kind> {
    /// The transaction.
    pub revision: Revision,
    /// What it did.
    pub event: Event<K>,
}

/// What happened to a resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<K: Kind> {
    /// It was made; perhaps in place of one that the same transaction deleted.
    Added(Resource<K>),
    /// It was written.
    Modified(Resource<K>),
    /// It is gone; this is what it was.
    Deleted(Resource<K>),
    /// Nothing: there are no changes up to the revision but those that were given.
    Bookmark,
}

/// What [`RawWatch`] gives.
#[derive(Debug, Clone, PartialEq)]
pub enum RawEvent {
    /// A change.
    Change(Arc<ChangeAt>),
    /// See [`Event::Bookmark`].
    Bookmark(Revision),
}

/// A watch of encoded resources.
pub struct RawWatch {
    hub: Arc<Hub>,
    kind: String,
    lane: Arc<Lane>,
    wake: watch::Receiver<u64>,
    progress: watch::Receiver<Revision>,
    /// All changes up to here were given or are pending.
    position: Revision,
    pending: VecDeque<Arc<ChangeAt>>,
    /// The last bookmark, when they are wanted.
    bookmark: Option<Revision>,
}

impl RawWatch {
    pub(crate) fn new(hub: Arc<Hub>, kind: &str, from: Revision) -> Self {
        let lane = hub.lane(kind);
        RawWatch {
            kind: kind.into(),
            wake: lane.wake(),
            progress: hub.progress(),
            lane,
            hub,
            position: from,
            pending: VecDeque::new(),
            bookmark: None,
        }
    }

    /// Gives bookmarks too, whenever all changes up to a newer revision were given.
    pub fn with_bookmarks(mut self) -> Self {
        self.bookmark = Some(self.position);
        self
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<RawEvent, RegistryError> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(RawEvent::Change(change));
            }
            if self.bookmark.is_some_and(|last| last < self.position) {
                self.bookmark = Some(self.position);
                return Ok(RawEvent::Bookmark(self.position));
            }
            if self.hub.is_stopped() {
                return Err(stopped());
            }
            // Marked as seen before the lane is read: what comes later wakes again.
            self.wake.borrow_and_update();
            let progress = *self.progress.borrow_and_update();
            match self.lane.after(self.position) {
                None => self.catch_up().await?,
                Some(changes) => match changes.last() {
                    Some(last) => {
                        self.position = last.revision;
                        self.pending.extend(changes);
                    }
                    None if progress > self.position => self.position = progress,
                    None => self.wait().await,
                },
            }
        }
    }

    /// Reads a page of the log.
    async fn catch_up(&mut self) -> Result<(), RegistryError> {
        // The reader may be about to fill the lane: let it, before asking for ourselves.
        tokio::task::yield_now().await;
        let since = self.position;
        let query = ChangesQuery {
            since,
            kinds: vec![self.kind.clone()],
            max: PAGE,
        };
        match self
            .hub
            .link()
            .ask(&Query::Changes(query), Freshness::Local)
            .await?
        {
            Answer::Changes {
                changes,
                upto,
                current,
            } if upto > since && current > since => {
                self.pending.extend(changes.into_iter().map(Arc::new));
                self.position = upto;
                Ok(())
            }
            Answer::Changes { .. } => {
                // The log has no more, and the lane has not started: it wakes us when it has.
                let _ = timeout(PATIENCE, self.wait()).await;
                Ok(())
            }
            _ => Err(RegistryError::Mismatch),
        }
    }

    async fn wait(&mut self) {
        // Neither sender ends before the hub, which is held here.
        if self.bookmark.is_some() {
            tokio::select! {
                biased;
                _ = self.wake.changed() => {}
                _ = self.progress.changed() => {}
            }
        } else {
            let _ = self.wake.changed().await;
        }
    }
}

fn stopped() -> RegistryError {
    let why = "this node's client of the registry has stopped".into();
    RegistryError::Group(GroupError::Unavailable {
        group: ids::REGISTRY_GROUP,
        why,
    })
}

/// A watch of typed resources.
pub struct Watch<K: Kind> {
    raw: RawWatch,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Watch<K> {
    pub(crate) fn new(raw: RawWatch) -> Self {
        Watch {
            raw,
            kind: PhantomData,
        }
    }

    /// See [`RawWatch::with_bookmarks`].
    pub fn with_bookmarks(self) -> Self {
        Watch {
            raw: self.raw.with_bookmarks(),
            kind: PhantomData,
        }
    }

    /// The next event. After [`RegistryError::TooOld`] list again and start a new watch; after
    /// other errors call again.
    pub async fn next(&mut self) -> Result<WatchEvent<K>, RegistryError> {
        match self.raw.next().await? {
            RawEvent::Change(change) => Ok(decode(&change)?),
            RawEvent::Bookmark(revision) => Ok(WatchEvent {
                revision,
                event: Event::Bookmark,
            }),
        }
    }

    /// The events as a stream that ends with the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchEvent<K>, RegistryError>> {
        futures::stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

fn decode<K: Kind>(at: &ChangeAt) -> Result<WatchEvent<K>, StoreError> {
    let event = match (&at.change.before, &at.change.after) {
        (_, Some(after)) => {
            let resource = Resource::decode(after)?;
            if resource.metadata.created_revision == at.revision {
                Event::Added(resource)
            } else {
                Event::Modified(resource)
            }
        }
        (Some(before), None) => Event::Deleted(Resource::decode(before)?),
        (None, None) => return Err(StoreError::Damaged("a change of nothing to nothing".into())),
    };
    Ok(WatchEvent {
        revision: at.revision,
        event,
    })
}
