//! Files and folders to a bucket.
//!
//! An upload in parts that fails is left at the endpoint: the next run of the same file goes on with it (see `resume`).
//! A file that changes while it is sent fails instead of becoming a mixture.

use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};

use super::plan::{MULTIPART_ABOVE, Parts};
use super::resume::is_held;
use super::{Moved, Transfer, key_of, on_disk};
use crate::{Error, Result};

/// What must stay the same while a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    size: u64,
    modified: Option<SystemTime>,
}

impl Transfer {
    /// Uploads one file.
    ///
    /// # Errors
    /// See [`Error`]. Parts that arrived are kept for the next try.
    pub fn upload_file<'a>(&'a self, path: &'a Path, key: &'a str) -> BoxFuture<'a, Result<Moved>> {
        Box::pin(async move {
            let seen = look(path).await?;
            self.progress.found(1, seen.size);
            self.upload(path.to_owned(), key.to_owned(), seen).await
        })
    }

    /// Uploads all files below a folder as `prefix` + their path.
    ///
    /// # Errors
    /// The first failure ends the transfer; what arrived stays.
    pub fn upload_folder<'a>(
        &'a self,
        folder: &'a Path,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Moved>> {
        Box::pin(async move {
            let files = on_disk(folder.to_owned(), files_below).await?;
            let bytes = files.iter().map(|(_, seen)| seen.size).sum();
            self.progress.found(files.len() as u64, bytes);
            let mut named = Vec::with_capacity(files.len());
            for (relative, seen) in files {
                named.push((folder.join(&relative), key_of(prefix, &relative)?, seen));
            }
            stream::iter(named)
                .map(|(path, key, seen)| {
                    let this = self.clone();
                    async move { this.upload(path, key, seen).await }
                })
                .buffer_unordered(self.jobs)
                .try_fold(Moved::default(), |sum, one| async move { Ok(sum.and(one)) })
                .await
        })
    }

    async fn upload(&self, path: PathBuf, key: String, seen: Seen) -> Result<Moved> {
        if seen.size > MULTIPART_ABOVE {
            self.upload_parts(&path, &key, seen).await?;
        } else {
            let _slot = self.slot().await;
            let body = read(path, 0, seen.size).await?;
            let content_type = self.content_type.as_deref();
            self.client
                .put(&self.bucket, &key, body, content_type)
                .await?;
            self.progress.bytes(seen.size);
        }
        self.progress.file(&key);
        Ok(Moved {
            files: 1,
            bytes: seen.size,
        })
    }

    async fn upload_parts(&self, path: &Path, key: &str, seen: Seen) -> Result<()> {
        let upload = self.find_or_create(key).await?;
        let parts = Parts::of(seen.size);
        let mut done: Vec<(u32, String)> = stream::iter(parts.numbers())
            .map(|number| {
                let (this, path, key) = (self.clone(), path.to_owned(), key.to_owned());
                let (id, held) = (upload.id.clone(), upload.held.get(&number).cloned());
                async move {
                    let _slot = this.slot().await;
                    let (offset, length) = parts.range(number);
                    let body = read(path, offset, length).await?;
                    let same = match &held {
                        Some(held) => is_held(held, &body).await,
                        None => false,
                    };
                    let etag = match held.filter(|_| same) {
                        Some(held) => held.etag,
                        None => this.send_part(&key, &id, number, body).await?,
                    };
                    this.progress.bytes(length);
                    Ok::<_, Error>((number, etag))
                }
            })
            .buffer_unordered(self.jobs)
            .try_collect()
            .await?;
        if look(path).await? != seen {
            return Err(changed(path));
        }
        done.sort_unstable();
        self.client
            .complete_multipart(&self.bucket, key, &upload.id, &done)
            .await?;
        Ok(())
    }

    pub(super) async fn send_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<String> {
        self.client
            .upload_part(&self.bucket, key, id, number, body)
            .await
    }
}

fn changed(path: &Path) -> Error {
    Error::Changed(format!("the file {}", path.display()))
}

async fn look(path: &Path) -> Result<Seen> {
    on_disk(path.to_owned(), |path| Ok(seen(&std::fs::metadata(path)?))).await
}

fn seen(metadata: &std::fs::Metadata) -> Seen {
    Seen {
        size: metadata.len(),
        modified: metadata.modified().ok(),
    }
}

async fn read(path: PathBuf, offset: u64, length: u64) -> Result<Bytes> {
    let body = on_disk(path.clone(), move |path| {
        let length = usize::try_from(length).map_err(std::io::Error::other)?;
        let mut body = vec![0; length];
        std::fs::File::open(path)?.read_exact_at(&mut body, offset)?;
        Ok(Bytes::from(body))
    });
    body.await.map_err(|error| match is_short(&error) {
        true => changed(&path),
        false => error,
    })
}

fn is_short(error: &Error) -> bool {
    matches!(error, Error::File { source, .. } if source.kind() == ErrorKind::UnexpectedEof)
}

/// All plain files below a folder, sorted by path.
fn files_below(folder: &Path) -> std::io::Result<Vec<(PathBuf, Seen)>> {
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
                files.push((path, seen(&entry.metadata()?)));
            }
        }
    }
    files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_searched_without_links() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        for name in ["a/b/2", "1", "a/3"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc", folder.path().join("link")).unwrap();
        let files = files_below(folder.path()).unwrap();
        let names: Vec<_> = files
            .iter()
            .map(|(path, _)| path.to_str().unwrap())
            .collect();
        assert_eq!(names, ["1", "a/3", "a/b/2"]);
        assert_eq!(files[2].1.size, 5);
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read(path.clone(), 1, 3).await.unwrap(), "234");
        let error = read(path, 2, 3).await.unwrap_err();
        assert!(matches!(error, Error::Changed(_)), "{error}");
    }
}
