//! Objects to files and folders.
//!
//! Bytes go to a temporary file beside the target, in ranges that all belong to one version of the object (`If-Match`);
//! the file gets its name at the end. A download that fails or is dropped removes its temporary file; one that is killed
//! leaves a file named `.partial-…`.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};

use super::plan::Parts;
use super::{Moved, Transfer, on_disk, path_of};
use crate::{Error, ListRequest, ObjectInfo, Result};

/// A temporary file that is removed unless it got its name.
struct Partial {
    path: PathBuf,
    named: bool,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.named {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Transfer {
    /// Downloads one object to a file, replacing one that exists.
    ///
    /// # Errors
    /// See [`Error`]; then no file of that name was made or changed.
    pub fn download_file<'a>(
        &'a self,
        key: &'a str,
        path: &'a Path,
    ) -> BoxFuture<'a, Result<Moved>> {
        Box::pin(async move {
            let head = self.client.head(&self.bucket, key).await?;
            self.progress.found(1, head.size);
            self.download(key.to_owned(), path.to_owned(), head.size, head.etag)
                .await
        })
    }

    /// Downloads all objects with a prefix below a folder; the prefix is cut from their names.
    ///
    /// # Errors
    /// The first failure ends the transfer; complete files stay.
    pub fn download_folder<'a>(
        &'a self,
        prefix: &'a str,
        folder: &'a Path,
    ) -> BoxFuture<'a, Result<Moved>> {
        Box::pin(async move {
            let mut moved = Moved::default();
            let mut token: Option<String> = None;
            loop {
                let request = ListRequest {
                    prefix,
                    token: token.as_deref(),
                    ..ListRequest::default()
                };
                let page = self.client.list(&self.bucket, request).await?;
                moved = moved.and(self.download_page(prefix, folder, page.objects).await?);
                match page.next {
                    Some(next) => token = Some(next),
                    None => return Ok(moved),
                }
            }
        })
    }

    async fn download_page(
        &self,
        prefix: &str,
        folder: &Path,
        objects: Vec<ObjectInfo>,
    ) -> Result<Moved> {
        let mut targets = Vec::with_capacity(objects.len());
        for object in objects {
            if let Some(relative) = path_of(prefix, &object.key)? {
                targets.push((object, relative));
            }
        }
        let bytes = targets.iter().map(|(object, _)| object.size).sum();
        self.progress.found(targets.len() as u64, bytes);
        stream::iter(targets)
            .map(|(object, relative)| {
                let (this, folder) = (self.clone(), folder.to_owned());
                async move { this.download_below(folder, relative, object).await }
            })
            .buffer_unordered(self.jobs)
            .try_fold(Moved::default(), |sum, one| async move { Ok(sum.and(one)) })
            .await
    }

    async fn download_below(
        &self,
        folder: PathBuf,
        relative: PathBuf,
        object: ObjectInfo,
    ) -> Result<Moved> {
        let path = folder.join(&relative);
        let key = object.key.clone();
        on_disk(folder, move |folder| make_parents(folder, &relative, &key)).await??;
        self.download(object.key, path, object.size, object.etag)
            .await
    }

    async fn download(&self, key: String, path: PathBuf, size: u64, etag: String) -> Result<Moved> {
        let name = format!(".partial-{:016x}", rand::random::<u64>());
        let mut partial = Partial {
            path: path.with_file_name(name),
            named: false,
        };
        let file = on_disk(partial.path.clone(), |path| {
            std::fs::File::options()
                .write(true)
                .create_new(true)
                .open(path)
        });
        let file = Arc::new(file.await?);
        self.fetch(&key, &file, &partial.path, size, &etag).await?;
        let from = partial.path.clone();
        on_disk(path, move |path| std::fs::rename(from, path)).await?;
        partial.named = true;
        self.progress.file(&key);
        Ok(Moved {
            files: 1,
            bytes: size,
        })
    }

    async fn fetch(
        &self,
        key: &str,
        file: &Arc<std::fs::File>,
        partial: &Path,
        size: u64,
        etag: &str,
    ) -> Result<()> {
        let parts = Parts::of(size);
        stream::iter(parts.numbers())
            .map(|number| {
                let (file, partial) = (Arc::clone(file), partial.to_owned());
                async move {
                    let _slot = self.slot().await;
                    let (offset, length) = parts.range(number);
                    let body = self.fetch_range(key, offset, length, etag).await?;
                    on_disk(partial, move |_| file.write_all_at(&body, offset)).await?;
                    self.progress.bytes(length);
                    Ok::<_, Error>(())
                }
            })
            .buffer_unordered(self.jobs)
            .try_collect()
            .await
    }

    pub(super) async fn fetch_range(
        &self,
        key: &str,
        offset: u64,
        length: u64,
        etag: &str,
    ) -> Result<Bytes> {
        let range = (offset, offset + length - 1);
        let etag = Some(etag).filter(|etag| !etag.is_empty());
        let answer = self.client.get_range(&self.bucket, key, range, etag).await;
        let body = answer.map_err(|error| match error.status() {
            Some(412 | 416) => Error::Changed(format!("the object {key:?}")),
            _ => error,
        })?;
        if body.len() as u64 != length {
            return Err(Error::Changed(format!("the object {key:?}")));
        }
        Ok(body)
    }
}

/// Makes the folders above a target, refusing to go through symbolic links.
fn make_parents(folder: &Path, relative: &Path, key: &str) -> std::io::Result<Result<()>> {
    std::fs::create_dir_all(folder)?;
    let mut at = folder.to_owned();
    for component in relative.parent().into_iter().flat_map(Path::components) {
        at.push(component);
        match std::fs::symlink_metadata(&at) {
            Ok(found) if found.is_symlink() => {
                let reason = "a symbolic link is in its way";
                return Ok(Err(Error::OutsideFolder {
                    key: key.to_owned(),
                    reason,
                }));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_folder(&at)?,
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(()))
}

/// Makes a folder that another job may make at the same time.
fn make_folder(path: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_made_but_not_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        let make = |relative: &str| make_parents(&inside, Path::new(relative), "key").unwrap();
        make("a/b/c").unwrap();
        make("a/b/d").unwrap();
        assert!(inside.join("a/b").is_dir() && !inside.join("a/b/c").exists());
        std::os::unix::fs::symlink(folder.path(), inside.join("out")).unwrap();
        let error = make("out/x").unwrap_err();
        assert!(matches!(error, Error::OutsideFolder { .. }), "{error}");
    }

    #[test]
    fn partial_files_go_unless_named() {
        let folder = tempfile::tempdir().unwrap();
        for named in [false, true] {
            let path = folder.path().join("p");
            std::fs::write(&path, "").unwrap();
            drop(Partial {
                path: path.clone(),
                named,
            });
            assert_eq!(path.exists(), named);
        }
    }
}
