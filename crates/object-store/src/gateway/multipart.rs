//! Multipart uploads: all their state lives in the key's group, so any gateway can go on with one.

use std::sync::Arc;

use ids::UploadId;
use object_core::api::{
    Body, Caller, CompleteRequest, CreateUploadRequest, ObjectError, PART_NUMBER_MAX, PartInfo,
    PartPage, PartRequest, Result, Written,
};
use object_core::meta::{Answer, Command, Outcome, Query};

use crate::gateway::ingest::Ingested;
use crate::gateway::{Context, Target, ask, refusals};

/// The most parts on a page.
const PAGE_PARTS_MAX: usize = 1000;

impl Context {
    pub async fn create_upload(
        &self,
        caller: &Caller,
        request: CreateUploadRequest,
    ) -> Result<UploadId> {
        let target = self.target(caller, &request.bucket, &request.key).await?;
        object_core::names::check_user_metadata(&request.headers)?;
        let upload = UploadId::random(&mut self.platform.rng());
        let command = Command::CreateUpload {
            at: target.at.clone(),
            upload,
            headers: request.headers,
            checksum: request.checksum,
            owner: caller.user,
            created_ms: self.now_ms(),
        };
        refusals::done(
            &target.bucket.name,
            self.propose_at(&target, command).await?,
        )?;
        Ok(upload)
    }

    pub async fn put_part(
        self: &Arc<Self>,
        caller: &Caller,
        request: PartRequest,
        body: Body,
    ) -> Result<PartInfo> {
        if !(1..=PART_NUMBER_MAX).contains(&request.part) {
            return Err(ObjectError::BadPartNumber);
        }
        let PartRequest {
            bucket,
            key,
            upload,
            part,
            size,
            mut digests,
        } = request;
        // Tells an upload that is gone before the body is read.
        let (target, page) = self
            .parts_of(caller, &bucket, &key, upload, PART_NUMBER_MAX, 1)
            .await?;
        if digests.checksum.is_none() {
            digests.checksum = page.upload.checksum.map(|(kind, _)| kind);
        }
        let Ingested {
            content,
            digests,
            pending,
        } = self.ingest(&target, size, digests, body).await?;
        let part = PartInfo {
            part,
            size: digests.size,
            etag: digests.etag(),
            modified_ms: self.now_ms(),
            checksum: digests.checksum,
        };
        let size = part.size;
        let command = Command::PutPart {
            at: target.at.clone(),
            upload,
            part,
            content,
        };
        match self.propose_at(&target, command).await? {
            Outcome::Part(part) => {
                Ingested::committed(pending);
                self.metrics.objects_put_total.add(1);
                self.metrics.objects_put_bytes_total.add(size);
                Ok(part)
            }
            other => Err(refusals::unexpected(&target.bucket.name, other)),
        }
    }

    /// A page of an upload's parts, and the key that it is to make.
    pub async fn parts_of(
        &self,
        caller: &Caller,
        bucket: &str,
        key: &str,
        upload: UploadId,
        after: u16,
        max_parts: usize,
    ) -> Result<(Target, PartPage)> {
        let read = || async move {
            let target = self.target(caller, bucket, key).await?;
            let page = self.list_parts(&target, upload, after, max_parts).await?;
            Ok::<_, ObjectError>((target, page))
        };
        self.read_key_past_fence(caller, bucket, ObjectError::NoSuchUpload, read)
            .await
    }

    async fn list_parts(
        &self,
        target: &Target,
        upload: UploadId,
        after: u16,
        max_parts: usize,
    ) -> Result<PartPage> {
        let max = max_parts.min(PAGE_PARTS_MAX) as u32;
        let query = Query::ListParts {
            at: target.at.clone(),
            upload,
            after,
            max,
        };
        match self.meta.query(target.group, &query).await? {
            Answer::Parts(Some((upload, parts, more))) => {
                let next = if more {
                    Some(parts.last().map_or(after, |part| part.part))
                } else {
                    None
                };
                Ok(PartPage {
                    upload,
                    parts,
                    next,
                })
            }
            Answer::Parts(None) => Err(ObjectError::NoSuchUpload),
            _ => ask::misfit(),
        }
    }

    pub async fn complete_upload(
        &self,
        caller: &Caller,
        request: CompleteRequest,
    ) -> Result<Written> {
        let target = self.target(caller, &request.bucket, &request.key).await?;
        let CompleteRequest {
            upload,
            parts,
            conditions,
            checksum,
            size,
            ..
        } = request;
        let command = Command::CompleteUpload {
            at: target.at.clone(),
            upload,
            parts,
            conditions,
            checksum,
            size,
            modified_ms: self.now_ms(),
        };
        match self.propose_at(&target, command).await? {
            Outcome::Written(written) => Ok(written),
            other => Err(refusals::unexpected(&target.bucket.name, other)),
        }
    }

    pub async fn abort_upload(&self, target: &Target, upload: UploadId) -> Result<()> {
        let command = Command::AbortUpload {
            at: target.at.clone(),
            upload,
        };
        refusals::done(&target.bucket.name, self.propose_at(target, command).await?)
    }
}
