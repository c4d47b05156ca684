//! Buckets: made and forgotten in the directory; fenced in the groups before they go.
//!
//! # A deletion
//! ```text
//! begin (directory) ─▶ fence all slots, group by group ─▶ remove (directory)
//!                            │ a slot holds something
//!                            └──▶ unfence all slots ─▶ call off (directory)
//! ```
//! It runs in a task of its own: a client that goes away doesn't break it off. If it breaks off anyway (the node dies, a
//! group is away), the bucket stays fenced in part until the job [`crate::jobs::finish_deletions`] makes a new attempt.
//! A newer attempt overtakes an older one: see `object_core::meta::fences` for why no object is lost then.

use std::sync::Arc;

use futures::future::BoxFuture;
use ids::BucketId;
use object_core::api::{BucketInfo, Caller, ObjectError, Result};
use object_core::meta::{Command, DeletionAttempt, Outcome, Refused};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use crate::gateway::{Context, refusals};
use crate::placement::{BucketEntry, DirectoryError, NewBucket};

impl Context {
    pub async fn create_bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo> {
        object_core::names::check_bucket_name(name)?;
        let bucket = NewBucket {
            id: BucketId::random(&mut self.platform.rng()),
            name: name.to_owned(),
            owner: caller.user,
            owner_name: caller.name.clone(),
            created_ms: self.now_ms(),
            key_slots: self.options.key_slots,
        };
        match self.directory.create(bucket).await {
            Ok(made) => Ok(info(made)),
            Err(DirectoryError::Taken(other)) if other.owner == caller.user => {
                Err(ObjectError::BucketYours)
            }
            Err(error) => Err(refusals::directory(name, error)),
        }
    }

    pub async fn head_bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo> {
        Ok(info(self.bucket(caller, name).await?))
    }

    /// All of the caller's buckets, those too that are being deleted: it may turn out that they stay.
    pub async fn list_buckets(&self, caller: &Caller) -> Result<Vec<BucketInfo>> {
        let buckets = self.directory.list(caller.user).await;
        let buckets = buckets.map_err(|error| refusals::directory("", error))?;
        Ok(buckets.into_iter().map(info).collect())
    }

    /// Removes a bucket that holds nothing; `place` is held until that is done.
    pub async fn delete_bucket(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        place: OwnedSemaphorePermit,
    ) -> Result<()> {
        let bucket = self.bucket_now(caller, name).await?;
        let context = self.clone();
        let deletion = async move {
            let _place = place;
            let attempt = context.directory.begin_deletion(&bucket).await;
            context.carry_deletion_out(&bucket, attempt).await
        };
        let ended = tokio::spawn(deletion.in_current_span()).await;
        ended.unwrap_or_else(|_| Err(ObjectError::Internal("a deletion broke off".into())))
    }

    /// Makes a new attempt for one that seems to have broken off.
    pub fn resume_deletion<'a>(&'a self, bucket: &'a BucketEntry) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let attempt = self.directory.resume_deletion(bucket).await;
            self.carry_deletion_out(bucket, attempt).await
        })
    }

    async fn carry_deletion_out(
        &self,
        bucket: &BucketEntry,
        attempt: std::result::Result<DeletionAttempt, DirectoryError>,
    ) -> Result<()> {
        let directory = |error| refusals::directory(&bucket.name, error);
        let attempt = attempt.map_err(directory)?;
        for (group, slots) in self.slots_by_group(bucket) {
            let fence = Command::FenceSlots {
                bucket: bucket.id,
                slots,
                attempt,
            };
            match self.meta.propose(group, &fence).await? {
                Outcome::Refused(Refused::SlotNotEmpty) => {
                    if let Err(error) = self.call_deletion_off(bucket, attempt).await {
                        tracing::warn!(bucket = %bucket.id, %error, "a bucket stays fenced for a while");
                    }
                    return Err(ObjectError::BucketNotEmpty);
                }
                outcome => refusals::done(&bucket.name, outcome)?,
            }
        }
        let removed = self.directory.remove(bucket, attempt).await;
        removed.map_err(directory)
    }

    /// Opens all slots, for an older attempt that broke off may have got further than this one.
    async fn call_deletion_off(
        &self,
        bucket: &BucketEntry,
        attempt: DeletionAttempt,
    ) -> Result<()> {
        for (group, slots) in self.slots_by_group(bucket) {
            let unfence = Command::UnfenceSlots {
                bucket: bucket.id,
                slots,
                attempt,
            };
            refusals::done(&bucket.name, self.meta.propose(group, &unfence).await?)?;
        }
        let called_off = self.directory.call_deletion_off(bucket, attempt).await;
        called_off.map_err(|error| refusals::directory(&bucket.name, error))
    }
}

fn info(bucket: BucketEntry) -> BucketInfo {
    BucketInfo {
        id: bucket.id,
        name: bucket.name,
        created_ms: bucket.created_ms,
        owner: bucket.owner,
        owner_name: bucket.owner_name,
    }
}
