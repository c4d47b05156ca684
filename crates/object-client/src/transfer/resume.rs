//! Going on with an upload in parts that broke off.
//!
//! Nothing is kept on this side: the endpoint is asked for unfinished uploads of the key, and a part that it holds is
//! taken when its size and its ETag (an MD5) are those of the file's part. Endpoints that make ETags in another way
//! get all parts again.

use std::collections::BTreeMap;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::Transfer;
use crate::{Result, UploadInfo, UploadedPart};

/// An upload to send parts to.
pub(super) struct Upload {
    pub id: String,
    /// What the endpoint holds of it, by number.
    pub held: BTreeMap<u32, UploadedPart>,
}

impl Transfer {
    /// The newest unfinished upload of this key, else a new one.
    pub(super) async fn find_or_create(&self, key: &str) -> Result<Upload> {
        if let Some(found) = self.find(key).await? {
            self.progress.resumed(key, found.held.len());
            return Ok(found);
        }
        self.create(key).await
    }

    pub(super) async fn create(&self, key: &str) -> Result<Upload> {
        let content_type = self.content_type.as_deref();
        let id = self
            .client
            .create_multipart(&self.bucket, key, content_type)
            .await?;
        let held = BTreeMap::new();
        Ok(Upload { id, held })
    }

    async fn find(&self, key: &str) -> Result<Option<Upload>> {
        let uploads = match self.client.list_uploads(&self.bucket, key).await {
            // Not everybody may list, and not every endpoint can.
            Err(error) if matches!(error.status(), Some(403 | 405 | 501)) => return Ok(None),
            answer => answer?,
        };
        let Some(newest) = newest(uploads, key) else {
            return Ok(None);
        };
        let id = newest.upload_id;
        let parts = match self.client.list_parts(&self.bucket, key, &id).await {
            // Somebody finished it in the meantime.
            Err(error) if error.status() == Some(404) => return Ok(None),
            answer => answer?,
        };
        let held = parts.into_iter().map(|part| (part.number, part)).collect();
        Ok(Some(Upload { id, held }))
    }
}

fn newest(uploads: Vec<UploadInfo>, key: &str) -> Option<UploadInfo> {
    let mine = uploads.into_iter().filter(|upload| upload.key == key);
    mine.max_by(|a, b| a.initiated.cmp(&b.initiated))
}

/// Whether what the endpoint holds is this part of the file.
pub(super) async fn is_held(held: &UploadedPart, body: &Bytes) -> bool {
    if held.size != body.len() as u64 {
        return false;
    }
    let body = body.clone();
    let digest = tokio::task::spawn_blocking(move || hex::encode(Md5::digest(&body)));
    same_etag(&held.etag, &digest.await.expect("hashing does not panic"))
}

fn same_etag(etag: &str, md5: &str) -> bool {
    etag.trim_matches('"').eq_ignore_ascii_case(md5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(key: &str, upload_id: &str, initiated: &str) -> UploadInfo {
        UploadInfo {
            key: key.to_owned(),
            upload_id: upload_id.to_owned(),
            initiated: initiated.to_owned(),
        }
    }

    #[test]
    fn the_newest_upload_of_the_same_key_goes_on() {
        let uploads = vec![
            upload("a", "1", "2026-01-01T00:00:00.000Z"),
            upload("a", "2", "2026-01-03T00:00:00.000Z"),
            upload("a", "3", "2026-01-02T00:00:00.000Z"),
            upload("ab", "4", "2026-01-04T00:00:00.000Z"),
        ];
        assert_eq!(newest(uploads.clone(), "a").unwrap().upload_id, "2");
        assert_eq!(newest(uploads.clone(), "ab").unwrap().upload_id, "4");
        assert!(newest(uploads, "b").is_none());
    }

    #[tokio::test]
    async fn a_part_is_taken_only_when_it_is_the_same() {
        let body = Bytes::from_static(b"hello");
        let held = |etag: &str, size| UploadedPart {
            number: 1,
            etag: etag.to_owned(),
            size,
        };
        let md5 = "5D41402ABC4B2A76B9719D911017C592";
        assert!(is_held(&held(md5, 5), &body).await);
        assert!(is_held(&held(&format!("\"{}\"", md5.to_lowercase()), 5), &body).await);
        assert!(!is_held(&held(md5, 4), &body).await);
        assert!(!is_held(&held("\"another-1\"", 5), &body).await);
    }
}
