//! Deleting objects.

use futures::StreamExt;
use object_core::api::{Caller, DeleteRequest, ObjectError, Result};
use object_core::meta::Command;

use crate::gateway::{Context, Target, refusals};
use crate::placement::BucketEntry;

/// Deletes of one request that are proposed at one time; their groups' logs share syncs.
const AT_A_TIME: usize = 64;

impl Context {
    pub async fn delete(&self, caller: &Caller, request: DeleteRequest) -> Result<()> {
        let target = self.target(caller, &request.bucket, &request.key).await?;
        self.delete_at(&target, request).await
    }

    pub async fn delete_many(
        &self,
        caller: &Caller,
        requests: Vec<DeleteRequest>,
    ) -> Vec<Result<()>> {
        let Some(first) = requests.first() else {
            return Vec::new();
        };
        let bucket = match self.bucket(caller, &first.bucket).await {
            Ok(bucket) => bucket,
            Err(error) => return requests.iter().map(|_| Err(error.clone())).collect(),
        };
        let deletes = requests
            .into_iter()
            .map(|request| self.delete_in(&bucket, request));
        futures::stream::iter(deletes)
            .buffered(AT_A_TIME)
            .collect()
            .await
    }

    async fn delete_in(&self, bucket: &BucketEntry, request: DeleteRequest) -> Result<()> {
        if request.bucket != bucket.name {
            return Err(ObjectError::InvalidRequest(
                "all keys of one request are in one bucket".into(),
            ));
        }
        object_core::names::check_key(&request.key)?;
        self.delete_at(&self.target_in(bucket, &request.key), request)
            .await
    }

    async fn delete_at(&self, target: &Target, request: DeleteRequest) -> Result<()> {
        let DeleteRequest {
            version,
            conditions,
            ..
        } = request;
        let command = Command::DeleteObject {
            at: target.at.clone(),
            version,
            conditions,
        };
        refusals::done(&target.bucket.name, self.propose_at(target, command).await?)?;
        self.metrics.objects_delete_total.add(1);
        Ok(())
    }
}
