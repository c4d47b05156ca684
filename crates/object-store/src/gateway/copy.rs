//! Server-side copies: the bytes are read and written again through the ordinary paths; no block is shared.

use std::sync::Arc;

use object_core::api::{
    ByteRange, Caller, ChecksumScope, CopyRequest, CopySource, ExpectedDigests, Got, ObjectError,
    PUT_BYTES_MAX, PartInfo, PartRequest, PutRequest, Result, Written,
};
use tokio::sync::OwnedSemaphorePermit;

use crate::gateway::Context;

impl Context {
    /// Copies an object. A copy onto itself must change its headers: then its bytes are written anew with them.
    pub async fn copy(
        self: &Arc<Self>,
        caller: &Caller,
        request: CopyRequest,
        place: OwnedSemaphorePermit,
    ) -> Result<Written> {
        let source = &request.source;
        let onto_itself = source.bucket == request.bucket && source.key == request.key;
        if onto_itself && source.version.is_none() && request.replace_headers.is_none() {
            let why = "an object is copied onto itself only to change its metadata or checksum";
            return Err(ObjectError::InvalidRequest(why.into()));
        }
        let target = self.target(caller, &request.bucket, &request.key).await?;
        let got = self.copy_source(caller, source, place).await?;
        let kept = got
            .head
            .checksum
            .as_ref()
            .filter(|sum| sum.scope == ChecksumScope::FullObject);
        let checksum = request.checksum.or(kept.map(|sum| sum.kind));
        let put = PutRequest {
            bucket: request.bucket,
            key: request.key,
            size: Some(got.len),
            headers: request
                .replace_headers
                .unwrap_or_else(|| got.head.headers.clone()),
            conditions: request.conditions,
            digests: ExpectedDigests {
                checksum,
                ..ExpectedDigests::default()
            },
        };
        self.put_at(&target, caller, put, got.body).await
    }

    /// Copies (a range of) an object into a part of an upload.
    pub async fn copy_part(
        self: &Arc<Self>,
        caller: &Caller,
        request: PartRequest,
        source: CopySource,
        place: OwnedSemaphorePermit,
    ) -> Result<PartInfo> {
        let got = self.copy_source(caller, &source, place).await?;
        let request = PartRequest {
            size: Some(got.len),
            ..request
        };
        self.put_part(caller, request, got.body).await
    }

    async fn copy_source(
        self: &Arc<Self>,
        caller: &Caller,
        source: &CopySource,
        place: OwnedSemaphorePermit,
    ) -> Result<Got> {
        let target = self.target(caller, &source.bucket, &source.key).await?;
        let got = self
            .read(
                &target,
                source.version,
                &source.conditions,
                source.range,
                Some(place),
            )
            .await;
        let got = got.map_err(|error| match error {
            // A copy answers every condition that does not hold alike.
            ObjectError::NotModified { .. } => {
                ObjectError::PreconditionFailed("the copy source's condition")
            }
            other => other,
        })?;
        if let Some(ByteRange::Between {
            last: Some(last), ..
        }) = source.range
            && last >= got.head.size
        {
            return Err(ObjectError::InvalidRange {
                size: got.head.size,
            });
        }
        if got.len > PUT_BYTES_MAX {
            return Err(ObjectError::EntityTooLarge {
                size: got.len,
                max: PUT_BYTES_MAX,
            });
        }
        Ok(got)
    }
}
