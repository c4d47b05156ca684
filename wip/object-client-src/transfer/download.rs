//! Objects to files and folders.
//!
//! Bytes go to a temporary file beside the target, in ranges that all belong to one version of the object (`If-Match`);
//! the file gets its name at the end. A failed download removes its temporary file.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::plan::Parts;
use super::{Moved, Transfer, on_disk, path_of};
use crate::{Error, ListRequest, Result};

impl Transfer {
    /// Downloads one object to a file, replacing one that exists.
    ///
    /// # Errors
    /// See [`Error`]; then no file of that name was made or changed.
    pub async fn download_file(&self, key: &str, path: &Path) -> Result<Moved> {
        let head = self.client.head(&self.bucket, key).await?;
        self.progress.found(1, head.size);
        self.download(key.to_owned(), path.to_owned(), head.size, head.etag).await
    }

    /// Downloads all objects with a prefix below a folder; the prefix is cut from their names.
    ///
    /// # Errors
    /// The first failure ends the transfer; complete files stay.
    pub async fn download_folder(&self, prefix: &str, folder: &Path) -> Result<Moved> {
        let mut moved = Moved::default();
        let mut token: Option<String> = None;
        loop {
            let request = ListRequest { prefix, token: token.as_deref(), ..Default::default() };
            let page = self.client.list(&self.bucket, request).await?;
            let mut targets = Vec::with_capacity(page.objects.len());
            for object in page.objects {
                if let Some(relative) = path_of(prefix, &object.key)? {
                    targets.push((object, relative));
                }
            }
            let bytes = targets.iter().map(|(object, _)| object.size).sum();
            self.progress.found(targets.len() as u64, bytes);
            let mut done = stream::iter(targets)
                .map(|(object, relative)| {
                    let (this, folder) = (self.clone(), folder.to_owned());
                    async move {
                        let path = folder.join(&relative);
                        let key = object.key.clone();
                        on_disk(folder, move |folder| make_parents(folder, &relative, &key))
                            .await??;
                        this.download(object.key, path, object.size, object.etag).await
                    }
                })
                .buffer_unordered(self.jobs);
            while let Some(one) = done.next().await {
                let one = one?;
                moved.files += one.files;
                moved.bytes += one.bytes;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(moved),
            }
        }
    }

    async fn download(&self, key: String, path: PathBuf, size: u64, etag: String) -> Result<Moved> {
        let partial = path.with_file_name(format!(".partial-{:016x}", rand::random::<u64>()));
        let file = on_disk(partial.clone(), |path| {
            std::fs::File::options().write(true).create_new(true).open(path)
        })
        .await?;
        let fetched = self.fetch(&key, Arc::new(file), &partial, size, &etag).await;
        let named = match fetched {
            Ok(()) => on_disk(partial.clone(), move |partial| std::fs::rename(partial, path)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = named {
            let _ = on_disk(partial, |partial| std::fs::remove_file(partial)).await;
            return Err(error);
        }
        self.progress.file(&key);
        Ok(Moved { files: 1, bytes: size })
    }

    async fn fetch(
        &self,
        key: &str,
        file: Arc<std::fs::File>,
        partial: &Path,
        size: u64,
        etag: &str,
    ) -> Result<()> {
        let parts = Parts::of(size);
        stream::iter(parts.numbers())
            .map(|number| {
                let (this, file, partial) = (self.clone(), Arc::clone(&file), partial.to_owned());
                let (key, etag) = (key.to_owned(), etag.to_owned());
                async move {
                    let _slot = this.slot().await;
                    let (offset, length) = parts.range(number);
                    let body = this.fetch_range(&key, offset, length, &etag).await?;
                    on_disk(partial, move |_| file.write_all_at(&body, offset)).await?;
                    this.progress.bytes(length);
                    Ok::<_, Error>(())
                }
            })
            .buffer_unordered(self.jobs)
            .try_collect()
            .await
    }

    async fn fetch_range(
        &self,
        key: &str,
        offset: u64,
        length: u64,
        etag: &str,
    ) -> Result<bytes::Bytes> {
        let range = Some((offset, offset + length - 1));
        let etag = Some(etag).filter(|etag| !etag.is_empty());
        let answer = self.client.get_if(&self.bucket, key, range, etag).await;
        let (_, body) = answer.map_err(|error| match error.status() {
            Some(412 | 416) => Error::Changed(format!("the object {key:?}")),
            _ => error,
        })?;
        let max = usize::try_from(length).unwrap_or(usize::MAX);
        let body = body.collect(max).await?;
        if body.len() != max {
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
                return Ok(Err(Error::OutsideFolder { key: key.to_owned(), reason }));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                match std::fs::create_dir(&at) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(()))
}
