//! Files and folders to and from a bucket, in parallel.
//!
//! Invariants:
//! - at most [`Transfer::jobs`] bodies are in memory or on the way, whatever the number of files;
//! - a download appears under its name only when it is complete;
//! - nothing is written outside the target folder.
//!
//! It does not delete what exists on one side only, and it skips symbolic links.

mod download;
mod keys;
mod plan;
mod resume;
mod stream;
mod upload;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use keys::{key_of, path_of};
pub use plan::{MULTIPART_ABOVE, PART_SIZE, Parts};

use crate::{Error, Result, S3Client};

/// Hears of a transfer as it goes. Called from many tasks; must not block.
pub trait Progress: Send + Sync {
    /// Files and bytes that were found to transfer (called as they are found).
    fn found(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// Bytes that are now at their destination.
    fn bytes(&self, bytes: u64) {
        let _ = bytes;
    }
    /// A file that is now complete.
    fn file(&self, key: &str) {
        let _ = key;
    }
    /// An upload that goes on where an earlier one broke off, with so many parts that are there already.
    fn resumed(&self, key: &str, parts: usize) {
        let _ = (key, parts);
    }
}

impl Progress for () {}

/// What a finished transfer moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Files or objects.
    pub files: u64,
    /// Their bytes, those of resumed parts included.
    pub bytes: u64,
}

impl Moved {
    fn and(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Moves files and folders between this machine and one bucket.
#[derive(Clone)]
pub struct Transfer {
    client: S3Client,
    bucket: String,
    content_type: Option<String>,
    progress: Arc<dyn Progress>,
    jobs: usize,
    slots: Arc<Semaphore>,
}

impl Transfer {
    /// Prepares transfers with at most `jobs` (1 to 256) bodies at a time.
    #[must_use]
    pub fn new(client: S3Client, bucket: &str, jobs: usize, progress: Arc<dyn Progress>) -> Self {
        let jobs = jobs.clamp(1, 256);
        Self {
            client,
            bucket: bucket.to_owned(),
            content_type: None,
            progress,
            jobs,
            slots: Arc::new(Semaphore::new(jobs)),
        }
    }

    /// Gives uploads this content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: Option<String>) -> Self {
        self.content_type = content_type;
        self
    }

    /// The bound on bodies at a time.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    async fn slot(&self) -> OwnedSemaphorePermit {
        let slots = Arc::clone(&self.slots);
        slots
            .acquire_owned()
            .await
            .expect("the slots are never closed")
    }
}

/// Runs blocking file work and names the file in its error.
async fn on_disk<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(move || {
        work(&path).map_err(|source| Error::File { path, source })
    });
    done.await.expect("file work does not panic")
}
