//! The site's buckets for the object store: from the registry's cache, the registry itself on a miss.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ids::UserId;
use object_core::meta::DeletionAttempt;
use object_store::placement::{
    BucketDirectory, BucketEntry, BucketState, DirectoryError, NewBucket,
};
use registry::{Cache, DeleteOptions, Freshness, Refused, Registry, RegistryError, Resource};

use super::kinds::{Bucket, BucketSpec};

/// Buckets that one user may have.
const BUCKETS_MAX: usize = 1000;
/// How long a write to the registry is waited for until this node's cache shows it.
const SHOW_WAIT: Duration = Duration::from_secs(2);

/// See the module.
pub struct Buckets {
    registry: Arc<Registry>,
    cache: Arc<Cache<Bucket>>,
}

impl Buckets {
    /// Buckets of a registry, with its cache.
    pub fn new(registry: Arc<Registry>, cache: Arc<Cache<Bucket>>) -> Self {
        Buckets { registry, cache }
    }

    /// The bucket's resource, as it is now.
    async fn found(&self, bucket: &BucketEntry) -> Result<Resource<Bucket>, DirectoryError> {
        let found = self.now(&bucket.name).await?;
        found
            .filter(|found| found.spec.id == bucket.id)
            .ok_or(DirectoryError::Gone)
    }

    async fn now(&self, name: &str) -> Result<Option<Resource<Bucket>>, DirectoryError> {
        let found = self
            .registry
            .get::<Bucket>(name, Freshness::Linearizable)
            .await;
        found.map_err(refused)
    }

    /// Writes what was read, unless it has changed since.
    async fn write(&self, resource: &Resource<Bucket>) -> Result<(), DirectoryError> {
        let written = self.registry.update(resource).await.map_err(refused)?;
        self.shown(written.metadata.revision).await;
        Ok(())
    }

    async fn next_attempt(
        &self,
        mut resource: Resource<Bucket>,
    ) -> Result<DeletionAttempt, DirectoryError> {
        resource.spec.deleting = true;
        resource.spec.attempt = resource.spec.attempt.next();
        self.write(&resource).await?;
        Ok(resource.spec.attempt)
    }

    async fn shown(&self, revision: registry::Revision) {
        let _ = tokio::time::timeout(SHOW_WAIT, self.cache.wait_until(revision)).await;
    }
}

fn entry(resource: &Resource<Bucket>) -> BucketEntry {
    let spec = resource.spec.clone();
    BucketEntry {
        state: state(&spec),
        id: spec.id,
        name: resource.metadata.name.clone(),
        owner: spec.owner,
        owner_name: spec.owner_name,
        created_ms: spec.created_ms,
        key_slots: spec.key_slots,
    }
}

fn state(spec: &BucketSpec) -> BucketState {
    if spec.deleting {
        BucketState::Deleting(spec.attempt)
    } else {
        BucketState::Active
    }
}

/// A bucket's resource is changed only by attempts to delete it: who meets another write was overtaken.
fn refused(error: RegistryError) -> DirectoryError {
    match error.refused() {
        Some(Refused::NotFound(_)) => DirectoryError::Gone,
        Some(Refused::Conflict { .. }) => DirectoryError::Overtaken,
        _ => DirectoryError::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl BucketDirectory for Buckets {
    async fn create(&self, bucket: NewBucket) -> Result<BucketEntry, DirectoryError> {
        let owned = self
            .cache
            .snapshot()
            .iter()
            .filter(|known| known.spec.owner == bucket.owner)
            .count();
        if owned >= BUCKETS_MAX {
            return Err(DirectoryError::TooMany(BUCKETS_MAX));
        }
        let spec = BucketSpec {
            id: bucket.id,
            owner: bucket.owner,
            owner_name: bucket.owner_name,
            key_slots: bucket.key_slots,
            created_ms: bucket.created_ms,
            deleting: false,
            attempt: DeletionAttempt::default(),
        };
        match self.registry.create::<Bucket>(&bucket.name, spec).await {
            Ok(made) => {
                self.shown(made.metadata.revision).await;
                Ok(entry(&made))
            }
            Err(error) if matches!(error.refused(), Some(Refused::AlreadyExists(_))) => {
                match self.now(&bucket.name).await? {
                    Some(found) => Err(DirectoryError::Taken(Box::new(entry(&found)))),
                    None => Err(DirectoryError::Unavailable(
                        "the bucket was just removed: try again".into(),
                    )),
                }
            }
            Err(error) => Err(refused(error)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<BucketEntry>, DirectoryError> {
        if let Some(found) = self.cache.get(name) {
            return Ok(Some(entry(&found)));
        }
        self.get_now(name).await
    }

    async fn get_now(&self, name: &str) -> Result<Option<BucketEntry>, DirectoryError> {
        Ok(self.now(name).await?.as_ref().map(entry))
    }

    async fn list(&self, owner: UserId) -> Result<Vec<BucketEntry>, DirectoryError> {
        let revision = self
            .registry
            .revision(Freshness::Linearizable)
            .await
            .map_err(refused)?;
        self.shown(revision).await;
        Ok(self
            .cache
            .snapshot()
            .iter()
            .filter(|known| known.spec.owner == owner)
            .map(|known| entry(known))
            .collect())
    }

    fn being_deleted(&self) -> Vec<BucketEntry> {
        self.cache
            .snapshot()
            .iter()
            .filter(|known| known.spec.deleting)
            .map(|known| entry(known))
            .collect()
    }

    async fn begin_deletion(
        &self,
        bucket: &BucketEntry,
    ) -> Result<DeletionAttempt, DirectoryError> {
        let resource = self.found(bucket).await?;
        self.next_attempt(resource).await
    }

    async fn resume_deletion(
        &self,
        bucket: &BucketEntry,
    ) -> Result<DeletionAttempt, DirectoryError> {
        let resource = self.found(bucket).await?;
        if state(&resource.spec) != bucket.state {
            return Err(DirectoryError::Overtaken);
        }
        self.next_attempt(resource).await
    }

    async fn call_deletion_off(
        &self,
        bucket: &BucketEntry,
        attempt: DeletionAttempt,
    ) -> Result<(), DirectoryError> {
        let mut resource = self.found(bucket).await?;
        if state(&resource.spec) != BucketState::Deleting(attempt) {
            return Err(DirectoryError::Overtaken);
        }
        resource.spec.deleting = false;
        self.write(&resource).await
    }

    async fn remove(
        &self,
        bucket: &BucketEntry,
        attempt: DeletionAttempt,
    ) -> Result<(), DirectoryError> {
        let found = match self.found(bucket).await {
            Err(DirectoryError::Gone) => return Ok(()),
            found => found?,
        };
        if state(&found.spec) != BucketState::Deleting(attempt) {
            return Err(DirectoryError::Overtaken);
        }
        let expected = registry::draft::exactly(&found);
        let removed = self
            .registry
            .delete::<Bucket>(&bucket.name, DeleteOptions { expected })
            .await;
        match removed.map_err(refused) {
            Ok(_) | Err(DirectoryError::Gone) => {}
            Err(error) => return Err(error),
        }
        let revision = self.registry.revision(Freshness::Linearizable).await;
        self.shown(revision.map_err(refused)?).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ids::BucketId;

    use super::*;
    use crate::node::test_site::{SetClock, registry};

    async fn buckets(folder: &std::path::Path) -> (Buckets, BucketEntry) {
        let registry = registry(SetClock::new(folder));
        let cache = Arc::new(Cache::start(&registry));
        let buckets = Buckets::new(registry, cache);
        let made = buckets.create(new([1; 16])).await.unwrap();
        (buckets, made)
    }

    fn new(id: [u8; 16]) -> NewBucket {
        NewBucket {
            id: BucketId(id),
            name: "bucket".into(),
            owner: UserId([2; 16]),
            owner_name: "root".into(),
            created_ms: 1,
            key_slots: 8,
        }
    }

    #[tokio::test]
    async fn only_the_newest_attempt_ends_a_deletion() {
        let folder = tempfile::tempdir().unwrap();
        let (buckets, made) = buckets(folder.path()).await;
        let old = buckets.begin_deletion(&made).await.unwrap();
        let deleting = buckets.being_deleted();
        assert_eq!(deleting.len(), 1);
        assert_eq!(deleting[0].state, BucketState::Deleting(old));
        let new = buckets.resume_deletion(&deleting[0]).await.unwrap();
        assert!(new > old);

        let overtaken = Err(DirectoryError::Overtaken);
        assert_eq!(buckets.remove(&made, old).await, overtaken);
        assert_eq!(buckets.call_deletion_off(&made, old).await, overtaken);
        let late = buckets.resume_deletion(&deleting[0]).await;
        assert_eq!(late, Err(DirectoryError::Overtaken));
        buckets.call_deletion_off(&made, new).await.unwrap();
        assert_eq!(buckets.remove(&made, new).await, overtaken);
        let shown = buckets.get("bucket").await.unwrap().unwrap();
        assert_eq!(shown.state, BucketState::Active);
        assert!(buckets.being_deleted().is_empty());
    }

    #[tokio::test]
    async fn attempts_are_counted_on_and_end_with_the_bucket() {
        let folder = tempfile::tempdir().unwrap();
        let (buckets, made) = buckets(folder.path()).await;
        let first = buckets.begin_deletion(&made).await.unwrap();
        buckets.call_deletion_off(&made, first).await.unwrap();
        let second = buckets.begin_deletion(&made).await.unwrap();
        assert!(second > first);
        buckets.remove(&made, second).await.unwrap();
        buckets.remove(&made, second).await.unwrap();
        assert_eq!(buckets.get_now("bucket").await.unwrap(), None);

        buckets.create(new([3; 16])).await.unwrap();
        let gone = buckets.begin_deletion(&made).await;
        assert_eq!(gone, Err(DirectoryError::Gone));
        buckets.remove(&made, second).await.unwrap();
        assert!(buckets.get_now("bucket").await.unwrap().is_some());
    }
}
