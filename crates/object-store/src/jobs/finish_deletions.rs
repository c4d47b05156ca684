//! Goes on with deletions of buckets that broke off: their node died, or a group was away for too long.
//!
//! A deletion whose attempt stays the same for a while is taken for broken off, and a new attempt is made: it removes the
//! bucket, or calls the deletion off if the bucket holds something. If the old attempt was only slow, it is overtaken and
//! its caller is told so.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ids::BucketId;
use object_core::api::{ObjectError, Result};
use object_core::meta::DeletionAttempt;
use object_core::slots::group_of_slot;
use tokio::time::Instant;

use crate::jobs::{Job, JobOptions, JobProgress, Led};
use crate::placement::{BucketEntry, BucketState};

/// See the module.
pub struct FinishDeletions {
    led: Led,
    every: Duration,
    after: Duration,
    /// When this node first saw an attempt; bounded by the buckets that are being deleted.
    seen: Mutex<BTreeMap<(BucketId, DeletionAttempt), Instant>>,
}

impl FinishDeletions {
    pub(super) fn new(led: Led, options: &JobOptions) -> Self {
        FinishDeletions {
            led,
            every: options.deletions_every,
            after: options.deletions_after,
            seen: Mutex::default(),
        }
    }

    /// Buckets whose deletion is this node's to look after, and was seen at the same attempt for long enough.
    fn broken_off(&self) -> Vec<BucketEntry> {
        let context = &self.led.context;
        let groups = context.placement.current().groups();
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *seen);
        let mut overdue = Vec::new();
        for bucket in context.directory.being_deleted() {
            let BucketState::Deleting(attempt) = bucket.state else {
                continue;
            };
            let group = group_of_slot(bucket.id, 0, groups);
            if !self.led.leadership.leads(group) {
                continue;
            }
            let key = (bucket.id, attempt);
            let since = before.get(&key).copied().unwrap_or(now);
            seen.insert(key, since);
            if now.duration_since(since) >= self.after {
                overdue.push(bucket);
            }
        }
        overdue
    }
}

#[async_trait]
impl Job for FinishDeletions {
    fn name(&self) -> &'static str {
        "finish-deletions"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, progress: &mut JobProgress) -> Result<()> {
        let broken_off = self.broken_off();
        progress.left = broken_off.len() as u64;
        let mut failed = None;
        for bucket in broken_off {
            match self.led.context.resume_deletion(&bucket).await {
                // Removed, called off, or in other hands.
                Ok(())
                | Err(
                    ObjectError::BucketNotEmpty
                    | ObjectError::NoSuchBucket(_)
                    | ObjectError::BucketBusy,
                ) => {
                    progress.done += 1;
                    progress.left -= 1;
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
