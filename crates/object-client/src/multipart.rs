//! Objects sent in parts.

use bytes::Bytes;
use http::{Method, header};
use md5::{Digest, Md5};

use crate::client::{Call, REPLY_BYTES_MAX};
use crate::objects::text;
use crate::xml;
use crate::{Error, Result, S3Client};

/// Pages that a listing of parts or uploads follows at most.
const PAGES_MAX: usize = 1_000;

/// A part that the endpoint holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// 1 to 10,000.
    pub number: u32,
    /// With its quotes.
    pub etag: String,
    /// Its bytes.
    pub size: u64,
}

/// An upload that is neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// The key that it will become.
    pub key: String,
    /// Its name at the endpoint.
    pub upload_id: String,
    /// When it began, as the endpoint writes it.
    pub initiated: String,
}

impl S3Client {
    /// Begins an upload and returns its id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_multipart(
        &self,
        bucket: &str,
        key: &str,
        content_type: Option<&str>,
    ) -> Result<String> {
        let mut call = Call::new(Method::POST, bucket, key).query("uploads", "");
        if let Some(content_type) = content_type {
            call = call.header(header::CONTENT_TYPE, content_type);
        }
        let (_, body) = self.call_collected(call, REPLY_BYTES_MAX).await?;
        let reply: xml::Created = xml::parse(&body)?;
        Ok(reply.upload_id)
    }

    /// Sends one part and returns its ETag.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn upload_part(
        &self,
        bucket: &str,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<String> {
        let call = Call::new(Method::PUT, bucket, key)
            .query("partNumber", number.to_string())
            .query("uploadId", upload_id)
            .body(body);
        let (headers, _) = self.call_collected(call, REPLY_BYTES_MAX).await?;
        Ok(text(&headers, "etag"))
    }

    /// All parts of an upload, by number.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload_id: &str,
    ) -> Result<Vec<UploadedPart>> {
        let mut parts = Vec::new();
        let mut marker = None;
        for _ in 0..PAGES_MAX {
            let mut call = Call::new(Method::GET, bucket, key).query("uploadId", upload_id);
            call.query
                .extend(marker.map(|m: u32| ("part-number-marker", m.to_string())));
            let (_, body) = self.call_collected(call, REPLY_BYTES_MAX).await?;
            let page: xml::Parts = xml::parse(&body)?;
            parts.extend(page.part.into_iter().map(|part| UploadedPart {
                number: part.part_number,
                etag: part.etag,
                size: part.size,
            }));
            match page.next_part_number_marker.filter(|_| page.is_truncated) {
                Some(next) => marker = Some(next),
                None => return Ok(parts),
            }
        }
        Err(Error::Reply("a list of parts without an end".to_owned()))
    }

    /// The unfinished uploads of keys that begin with `prefix`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_uploads(&self, bucket: &str, prefix: &str) -> Result<Vec<UploadInfo>> {
        let mut uploads = Vec::new();
        let mut marker: Option<(String, String)> = None;
        for _ in 0..PAGES_MAX {
            let mut call = Call::new(Method::GET, bucket, "")
                .query("uploads", "")
                .query("encoding-type", "url");
            if !prefix.is_empty() {
                call = call.query("prefix", prefix);
            }
            if let Some((key, upload_id)) = marker {
                call = call
                    .query("key-marker", key)
                    .query("upload-id-marker", upload_id);
            }
            let (_, body) = self.call_collected(call, REPLY_BYTES_MAX).await?;
            let page: xml::Uploads = xml::parse(&body)?;
            for upload in page.upload {
                uploads.push(UploadInfo {
                    key: xml::name(&page.encoding_type, upload.key)?,
                    upload_id: upload.upload_id,
                    initiated: upload.initiated,
                });
            }
            let Some(key) = page.next_key_marker.filter(|_| page.is_truncated) else {
                return Ok(uploads);
            };
            let upload_id = page.next_upload_id_marker.unwrap_or_default();
            marker = Some((xml::name(&page.encoding_type, key)?, upload_id));
        }
        Err(Error::Reply("a list of uploads without an end".to_owned()))
    }

    /// Makes the object of the given parts (number and ETag, by number) and returns its ETag.
    ///
    /// When the answer to an attempt was lost, the next one may find the upload gone because it became the object: then the
    /// object that is there is compared with the parts.
    ///
    /// # Errors
    /// See [`Error`]. An error within a successful status is an error, too.
    pub async fn complete_multipart(
        &self,
        bucket: &str,
        key: &str,
        upload_id: &str,
        parts: &[(u32, String)],
    ) -> Result<String> {
        let body = xml::complete_body(parts.iter().map(|(n, etag)| (*n, etag.as_str())));
        let call = Call::new(Method::POST, bucket, key)
            .query("uploadId", upload_id)
            .header(header::CONTENT_TYPE, "application/xml")
            .body(body.into());
        match self.call_counted(call, REPLY_BYTES_MAX).await {
            (_, Ok((_, body))) => completed(&body),
            (attempts, Err(gone)) if attempts > 1 && gone.status() == Some(404) => {
                self.made_of(bucket, key, parts).await.ok_or(gone)
            }
            (_, Err(error)) => Err(error),
        }
    }

    /// The ETag of the object that is there, if it was made of these parts.
    async fn made_of(&self, bucket: &str, key: &str, parts: &[(u32, String)]) -> Option<String> {
        let expected = etag_of(parts)?;
        let head = self.head(bucket, key).await.ok()?;
        (head.etag.trim_matches('"') == expected).then_some(head.etag)
    }

    /// Forgets an upload and its parts.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn abort_multipart(&self, bucket: &str, key: &str, upload_id: &str) -> Result<()> {
        let call = Call::new(Method::DELETE, bucket, key).query("uploadId", upload_id);
        self.call_collected(call, REPLY_BYTES_MAX).await.map(drop)
    }
}

/// The ETag of an object in parts: the MD5 of the parts' MD5s, and how many there are. Endpoints may make it in another way.
fn etag_of(parts: &[(u32, String)]) -> Option<String> {
    let mut all = Md5::new();
    for (_, etag) in parts {
        let digest = hex::decode(etag.trim_matches('"')).ok()?;
        all.update(digest);
    }
    Some(format!("{}-{}", hex::encode(all.finalize()), parts.len()))
}

pub(crate) fn completed(body: &[u8]) -> Result<String> {
    match xml::parse::<xml::Completed>(body) {
        Ok(reply) => Ok(reply.etag),
        Err(_) if xml::parse::<xml::ErrorReply>(body).is_ok() => Err(Error::from_answer(500, body)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_error_is_an_error() {
        let error = completed(b"<Error><Code>InternalError</Code></Error>").unwrap_err();
        assert_eq!(error.code(), "InternalError");
        assert_eq!(
            completed(b"<R><ETag>\"x-2\"</ETag></R>").unwrap(),
            "\"x-2\""
        );
    }
}
