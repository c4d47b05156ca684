//! What this crate asks of its surroundings: where things are placed, which buckets there are, which groups are led here.
//! The binary answers from the registry and the groups' states.

use std::sync::Arc;

use async_trait::async_trait;
use ids::{BucketId, Epoch, GroupId, UserId};
use membership::EpochMap;
use object_core::meta::DeletionAttempt;

/// The site's placement maps, from memory.
pub trait PlacementSource: Send + Sync {
    /// The newest map that this node knows.
    fn current(&self) -> Arc<EpochMap>;

    /// The map of an epoch; `None` when this node has not heard of it (yet).
    fn at(&self, epoch: Epoch) -> Option<Arc<EpochMap>>;

    /// All epochs that this node knows, ascending.
    fn epochs(&self) -> Vec<Epoch>;
}

/// Which placement groups have their leader on this node.
pub trait LocalLeadership: Send + Sync {
    /// Whether this node leads the group, as far as it knows.
    fn leads(&self, group: GroupId) -> bool;

    /// The groups that this node is a member of.
    fn groups(&self) -> Vec<GroupId>;
}

/// Whether a bucket is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketState {
    /// In use.
    Active,
    /// Its key slots are being fenced, or are, by the newest attempt to delete it.
    Deleting(DeletionAttempt),
}

/// A bucket of the site.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct BucketEntry {
    pub id: BucketId,
    pub name: String,
    pub owner: UserId,
    pub owner_name: String,
    pub created_ms: u64,
    pub key_slots: u16,
    pub state: BucketState,
}

/// A bucket to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewBucket {
    pub id: BucketId,
    pub name: String,
    pub owner: UserId,
    pub owner_name: String,
    pub created_ms: u64,
    pub key_slots: u16,
}

/// Why the directory did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// There is a bucket of this name.
    #[error("there is a bucket of this name")]
    Taken(Box<BucketEntry>),
    /// The owner has as many buckets as a user may have.
    #[error("a user may have {0} buckets")]
    TooMany(usize),
    /// The bucket is gone, or another one has its name now.
    #[error("the bucket is gone")]
    Gone,
    /// A newer attempt deletes the bucket, or this one was ended.
    #[error("another request deletes the bucket")]
    Overtaken,
    /// The registry did not answer.
    #[error("the registry is unavailable: {0}")]
    Unavailable(String),
}

/// The site's buckets. [`BucketDirectory::get`] is on every request's path and answers from memory; the registry is asked
/// on a miss only, and a miss while it is unreachable is an error, not "no such bucket".
///
/// Deletions: a bucket counts the attempts to delete it, and only the newest may call the deletion off or remove the bucket.
/// An attempt is begun here before its first fence.
#[async_trait]
pub trait BucketDirectory: Send + Sync {
    /// Makes a bucket, unless its name is taken.
    async fn create(&self, bucket: NewBucket) -> Result<BucketEntry, DirectoryError>;

    /// The bucket of a name.
    async fn get(&self, name: &str) -> Result<Option<BucketEntry>, DirectoryError>;

    /// The bucket that has a name now: asks the registry, whatever is known here.
    async fn get_now(&self, name: &str) -> Result<Option<BucketEntry>, DirectoryError>;

    /// A user's buckets, by name.
    async fn list(&self, owner: UserId) -> Result<Vec<BucketEntry>, DirectoryError>;

    /// The buckets that are being deleted, from memory.
    fn being_deleted(&self) -> Vec<BucketEntry>;

    /// Begins an attempt to delete a bucket; it overtakes the one that is under way, if there is one.
    async fn begin_deletion(&self, bucket: &BucketEntry)
    -> Result<DeletionAttempt, DirectoryError>;

    /// As [`BucketDirectory::begin_deletion`], but only if the bucket is still in the state that `bucket` says.
    async fn resume_deletion(
        &self,
        bucket: &BucketEntry,
    ) -> Result<DeletionAttempt, DirectoryError>;

    /// Ends the newest attempt: the bucket is in use again.
    async fn call_deletion_off(
        &self,
        bucket: &BucketEntry,
        attempt: DeletionAttempt,
    ) -> Result<(), DirectoryError>;

    /// Forgets a bucket, as the end of the newest attempt; fine when it is gone.
    async fn remove(
        &self,
        bucket: &BucketEntry,
        attempt: DeletionAttempt,
    ) -> Result<(), DirectoryError>;
}
