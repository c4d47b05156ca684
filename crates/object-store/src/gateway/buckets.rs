//! Buckets: made and forgotten in the directory; fenced in the groups before they go.

use ids::{BucketId, GroupId};
use object_core::api::{BucketInfo, Caller, ObjectError, Result};
use object_core::meta::Command;

use crate::gateway::{Context, refusals};
use crate::placement::{BucketEntry, BucketState, DirectoryError, NewBucket};

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

    pub async fn list_buckets(&self, caller: &Caller) -> Result<Vec<BucketInfo>> {
        let buckets = self.directory.list(caller.user).await;
        let buckets = buckets.map_err(|error| refusals::directory("", error))?;
        Ok(buckets
            .into_iter()
            .filter(|bucket| bucket.state == BucketState::Active)
            .map(info)
            .collect())
    }

    /// Fences all key slots, then forgets the bucket. A bucket that holds something is opened again. A deletion that
    /// broke off leaves the bucket fenced in part; deleting it again goes on.
    pub async fn delete_bucket(&self, caller: &Caller, name: &str) -> Result<()> {
        let bucket = self.bucket(caller, name).await?;
        let directory = |error| refusals::directory(name, error);
        self.directory
            .set_deleting(&bucket)
            .await
            .map_err(directory)?;
        let mut fenced = Vec::new();
        for (group, slots) in self.slots_by_group(&bucket) {
            let fence = Command::FenceSlots {
                bucket: bucket.id,
                slots: slots.clone(),
            };
            fenced.push((group, slots));
            let outcome = self.meta.propose(group, &fence).await?;
            if let Err(error) = refusals::done(name, outcome) {
                self.call_deletion_off(&bucket, fenced).await?;
                return Err(error);
            }
        }
        self.directory.remove(&bucket).await.map_err(directory)
    }

    async fn call_deletion_off(
        &self,
        bucket: &BucketEntry,
        fenced: Vec<(GroupId, Vec<u16>)>,
    ) -> Result<()> {
        for (group, slots) in fenced {
            let unfence = Command::UnfenceSlots {
                bucket: bucket.id,
                slots,
            };
            refusals::done(&bucket.name, self.meta.propose(group, &unfence).await?)?;
        }
        let active = self.directory.set_active(bucket).await;
        active.map_err(|error| refusals::directory(&bucket.name, error))
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
