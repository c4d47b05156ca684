//! The operations: each one translation to [`Objects`] and back.

mod buckets;
mod lists;
mod objects;
mod s3;
mod settings;
mod uploads;

use std::sync::Arc;

use object_core::api::{Caller, ETag, Objects};
use s3s::S3Result;
use s3s::dto;

/// What every operation works with.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) region: String,
}

impl Service {
    /// Answers NoSuchBucket or AccessDenied where S3 does before it says that nothing is configured.
    async fn must_have(&self, caller: &Caller, bucket: &str) -> S3Result<()> {
        self.objects
            .head_bucket(caller, bucket)
            .await
            .map(drop)
            .map_err(crate::errors::to_s3)
    }
}

fn etag(tag: &ETag) -> dto::ETag {
    dto::ETag::Strong(tag.0.clone())
}

fn owner_of(caller: &Caller, owner: ids::UserId) -> dto::Owner {
    let display_name = (caller.user == owner).then(|| caller.name.clone());
    dto::Owner {
        display_name,
        id: Some(owner.to_string()),
    }
}
