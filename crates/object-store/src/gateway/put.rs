//! Writing an object.

use std::sync::Arc;

use object_core::api::{Body, Caller, PutRequest, Result, Written};
use object_core::meta::{Command, NewObject, Outcome};

use crate::gateway::ingest::Ingested;
use crate::gateway::{Context, Target, refusals};

impl Context {
    pub async fn put(
        self: &Arc<Self>,
        caller: &Caller,
        request: PutRequest,
        body: Body,
    ) -> Result<Written> {
        let target = self.target(caller, &request.bucket, &request.key).await?;
        self.put_at(&target, caller, request, body).await
    }

    /// Writes an object under a key that the caller may use.
    pub async fn put_at(
        self: &Arc<Self>,
        target: &Target,
        caller: &Caller,
        request: PutRequest,
        body: Body,
    ) -> Result<Written> {
        object_core::names::check_user_metadata(&request.headers)?;
        let PutRequest {
            size,
            headers,
            conditions,
            digests,
            ..
        } = request;
        let Ingested {
            content,
            digests,
            pending,
        } = self.ingest(target, size, digests, body).await?;
        let object = NewObject {
            size: digests.size,
            etag: digests.etag(),
            modified_ms: self.now_ms(),
            headers,
            checksum: digests.checksum,
            owner: caller.user,
        };
        let size = object.size;
        let command = Command::PutObject {
            at: target.at.clone(),
            conditions,
            object,
            content,
        };
        match self.propose_at(target, command).await? {
            Outcome::Written(written) => {
                Ingested::committed(pending);
                self.metrics.objects_put_total.add(1);
                self.metrics.objects_put_bytes_total.add(size);
                Ok(written)
            }
            other => Err(refusals::unexpected(&target.bucket.name, other)),
        }
    }
}
