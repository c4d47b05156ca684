//! Removing many things: objects with a prefix, unfinished uploads.

use crate::{Error, ListRequest, Result, S3Client};

impl S3Client {
    /// Deletes all objects whose keys begin with `prefix`, page by page; `deleted` hears how many went with each.
    ///
    /// # Errors
    /// The first failure ends it; what was deleted stays deleted.
    pub async fn delete_all(
        &self,
        bucket: &str,
        prefix: &str,
        mut deleted: impl FnMut(u64) + Send,
    ) -> Result<u64> {
        let mut sum = 0;
        let mut after = String::new();
        loop {
            let request = ListRequest {
                prefix,
                start_after: &after,
                ..ListRequest::default()
            };
            let page = self.list(bucket, request).await?;
            let keys: Vec<_> = page.objects.into_iter().map(|object| object.key).collect();
            let Some(last) = keys.last() else {
                return Ok(sum);
            };
            if let Some(failure) = self.delete_many(bucket, &keys).await?.into_iter().next() {
                return Err(Error::S3 {
                    status: 200,
                    code: failure.code,
                    message: format!("{}: {}", failure.key, failure.message),
                });
            }
            sum += keys.len() as u64;
            deleted(keys.len() as u64);
            if page.next.is_none() {
                return Ok(sum);
            }
            after.clone_from(last);
        }
    }

    /// Forgets all unfinished uploads of keys that begin with `prefix`, and their parts.
    ///
    /// # Errors
    /// The first failure ends it.
    pub async fn abort_all(&self, bucket: &str, prefix: &str) -> Result<u64> {
        let uploads = self.list_uploads(bucket, prefix).await?;
        for upload in &uploads {
            self.abort_multipart(bucket, &upload.key, &upload.upload_id)
                .await?;
        }
        Ok(uploads.len() as u64)
    }
}
