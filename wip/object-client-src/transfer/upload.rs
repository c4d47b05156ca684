//! Files and folders to a bucket.
//!
//! An upload in parts that fails is left at the endpoint: the next run of the same file finds it, compares the ETags
//! of its parts with the file, and sends only what is missing.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use md5::{Digest, Md5};

use super::plan::{MULTIPART_ABOVE, Parts};
use super::{Moved, Transfer, key_of, on_disk};
use crate::multipart::UploadedPart;
use crate::{Error, Result};

impl Transfer {
    /// Uploads one file.
    ///
    /// # Errors
    /// See [`Error`]. Parts that arrived are kept for the next try.
    pub async fn upload_file(&self, path: &Path, key: &str) -> Result<Moved> {
        let size = on_disk(path.to_owned(), |path| std::fs::metadata(path)).await?.len();
        self.progress.found(1, size);
        self.upload(path.to_owned(), key.to_owned(), size).await
    }

    /// Uploads all files below a folder as `prefix` + their path.
    ///
    /// # Errors
    /// The first failure ends the transfer; what arrived stays.
    pub async fn upload_folder(&self, folder: &Path, prefix: &str) -> Result<Moved> {
        let files = on_disk(folder.to_owned(), files_below).await?;
        let bytes = files.iter().map(|(_, size)| size).sum();
        self.progress.found(files.len() as u64, bytes);
        let mut named = Vec::with_capacity(files.len());
        for (relative, size) in files {
            named.push((folder.join(&relative), key_of(prefix, &relative)?, size));
        }
        stream::iter(named)
            .map(|(path, key, size)| {
                let this = self.clone();
                async move { this.upload(path, key, size).await }
            })
            .buffer_unordered(self.jobs)
            .try_fold(Moved::default(), |sum, one| async move {
                Ok(Moved { files: sum.files + one.files, bytes: sum.bytes + one.bytes })
            })
            .await
    }

    async fn upload(&self, path: PathBuf, key: String, size: u64) -> Result<Moved> {
        if size > MULTIPART_ABOVE {
            self.upload_parts(&path, &key, size).await?;
        } else {
            let _slot = self.slot().await;
            let body = read(path, 0, size).await?;
            self.client.put(&self.bucket, &key, body, None).await?;
            self.progress.bytes(size);
        }
        self.progress.file(&key);
        Ok(Moved { files: 1, bytes: size })
    }

    async fn upload_parts(&self, path: &Path, key: &str, size: u64) -> Result<()> {
        let (upload_id, held) = self.find_or_create(key).await?;
        let parts = Parts::of(size);
        let mut done: Vec<(u32, String)> = stream::iter(parts.numbers())
            .map(|number| {
                let (this, path, held) = (self.clone(), path.to_owned(), held.get(&number).cloned());
                let (key, upload_id) = (key.to_owned(), upload_id.clone());
                async move {
                    let _slot = this.slot().await;
                    let (offset, length) = parts.range(number);
                    let body = read(path, offset, length).await?;
                    let etag = this.send_part(&key, &upload_id, number, body, held).await?;
                    this.progress.bytes(length);
                    Ok::<_, Error>((number, etag))
                }
            })
            .buffer_unordered(self.jobs)
            .try_collect()
            .await?;
        done.sort_unstable();
        self.client.complete_multipart(&self.bucket, key, &upload_id, &done).await?;
        Ok(())
    }

    async fn find_or_create(&self, key: &str) -> Result<(String, BTreeMap<u32, UploadedPart>)> {
        let uploads = self.client.list_uploads(&self.bucket, key).await?;
        let mine = uploads.into_iter().filter(|upload| upload.key == key);
        let Some(newest) = mine.max_by(|a, b| a.initiated.cmp(&b.initiated)) else {
            let created = self.client.create_multipart(&self.bucket, key, None).await?;
            return Ok((created, BTreeMap::new()));
        };
        let held = self.client.list_parts(&self.bucket, key, &newest.upload_id).await?;
        Ok((newest.upload_id, held.into_iter().map(|part| (part.number, part)).collect()))
    }

    async fn send_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Bytes,
        held: Option<UploadedPart>,
    ) -> Result<String> {
        if let Some(held) = held.filter(|held| held.size == body.len() as u64)
            && same_etag(&held.etag, &md5_of(body.clone()).await)
        {
            return Ok(held.etag);
        }
        self.client.upload_part(&self.bucket, key, upload_id, number, body).await
    }
}

async fn md5_of(body: Bytes) -> String {
    let digest = tokio::task::spawn_blocking(move || hex::encode(Md5::digest(&body)));
    digest.await.expect("hashing does not panic")
}

fn same_etag(etag: &str, md5: &str) -> bool {
    etag.trim_matches('"').eq_ignore_ascii_case(md5)
}

async fn read(path: PathBuf, offset: u64, length: u64) -> Result<Bytes> {
    on_disk(path, move |path| {
        let length = usize::try_from(length).map_err(std::io::Error::other)?;
        let mut body = vec![0; length];
        std::fs::File::open(path)?.read_exact_at(&mut body, offset)?;
        Ok(Bytes::from(body))
    })
    .await
}

/// All plain files below a folder with their sizes, sorted by path.
fn files_below(folder: &Path) -> std::io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&relative))? {
            let entry = entry?;
            let path = relative.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push((path, entry.metadata()?.len()));
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}
