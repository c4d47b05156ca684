//! The site's buckets for the object store: from the registry's cache, the registry itself on a miss.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ids::UserId;
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

    async fn set(&self, bucket: &BucketEntry, deleting: bool) -> Result<(), DirectoryError> {
        let found = self
            .registry
            .get::<Bucket>(&bucket.name, Freshness::Linearizable)
            .await
            .map_err(unavailable)?;
        let mut resource = found
            .filter(|found| found.spec.id == bucket.id)
            .ok_or(DirectoryError::Gone)?;
        if resource.spec.deleting == deleting {
            return Ok(());
        }
        resource.spec.deleting = deleting;
        let written = self.registry.update(&resource).await.map_err(unavailable)?;
        self.shown(written.metadata.revision).await;
        Ok(())
    }

    async fn shown(&self, revision: registry::Revision) {
        let _ = tokio::time::timeout(SHOW_WAIT, self.cache.wait_until(revision)).await;
    }
}

fn entry(resource: &Resource<Bucket>) -> BucketEntry {
    let spec = resource.spec.clone();
    BucketEntry {
        id: spec.id,
        name: resource.metadata.name.clone(),
        owner: spec.owner,
        owner_name: spec.owner_name,
        created_ms: spec.created_ms,
        key_slots: spec.key_slots,
        state: if spec.deleting {
            BucketState::Deleting
        } else {
            BucketState::Active
        },
    }
}

fn unavailable(error: RegistryError) -> DirectoryError {
    match error.refused() {
        Some(Refused::NotFound(_) | Refused::Conflict { .. }) => DirectoryError::Gone,
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
        };
        match self.registry.create::<Bucket>(&bucket.name, spec).await {
            Ok(made) => {
                self.shown(made.metadata.revision).await;
                Ok(entry(&made))
            }
            Err(error) if matches!(error.refused(), Some(Refused::AlreadyExists(_))) => {
                let found = self
                    .registry
                    .get::<Bucket>(&bucket.name, Freshness::Linearizable)
                    .await;
                match found.map_err(unavailable)? {
                    Some(found) => Err(DirectoryError::Taken(Box::new(entry(&found)))),
                    None => Err(DirectoryError::Unavailable(
                        "the bucket was just removed: try again".into(),
                    )),
                }
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<BucketEntry>, DirectoryError> {
        if let Some(found) = self.cache.get(name) {
            return Ok(Some(entry(&found)));
        }
        let found = self
            .registry
            .get::<Bucket>(name, Freshness::Linearizable)
            .await
            .map_err(unavailable)?;
        Ok(found.as_ref().map(entry))
    }

    async fn list(&self, owner: UserId) -> Result<Vec<BucketEntry>, DirectoryError> {
        let revision = self
            .registry
            .revision(Freshness::Linearizable)
            .await
            .map_err(unavailable)?;
        self.shown(revision).await;
        Ok(self
            .cache
            .snapshot()
            .iter()
            .filter(|known| known.spec.owner == owner)
            .map(|known| entry(known))
            .collect())
    }

    async fn set_deleting(&self, bucket: &BucketEntry) -> Result<(), DirectoryError> {
        self.set(bucket, true).await
    }

    async fn set_active(&self, bucket: &BucketEntry) -> Result<(), DirectoryError> {
        self.set(bucket, false).await
    }

    async fn remove(&self, bucket: &BucketEntry) -> Result<(), DirectoryError> {
        let found = self
            .registry
            .get::<Bucket>(&bucket.name, Freshness::Linearizable)
            .await
            .map_err(unavailable)?;
        let Some(found) = found.filter(|found| found.spec.id == bucket.id) else {
            return Ok(());
        };
        let expected = registry::draft::exactly(&found);
        match self
            .registry
            .delete::<Bucket>(&bucket.name, DeleteOptions { expected })
            .await
        {
            Ok(_) => {}
            Err(error) if matches!(error.refused(), Some(Refused::NotFound(_))) => {}
            Err(error) => return Err(unavailable(error)),
        }
        let revision = self
            .registry
            .revision(Freshness::Linearizable)
            .await
            .map_err(unavailable)?;
        self.shown(revision).await;
        Ok(())
    }
}
