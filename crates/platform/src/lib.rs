//! What a driver may use of the machine: a disk, the wall clock, randomness, and threads for blocking work.
//!
//! Drivers take a [`Platform`] instead of reaching for the system, so that a simulation can run the production code on
//! a disk that loses unsynced writes and a clock that jumps. Monotonic time is tokio's: a simulation pauses it.
//!
//! Invariants:
//! - nothing in the house but this crate's [`system`] opens a file, reads the wall clock or draws entropy on a path that
//!   a simulation covers;
//! - a blocking closure given to [`Platform::blocking`] runs to its end, even when the caller's future is dropped.
//!
//! It does not do networking: see the crate `transport`.

#[cfg(not(target_os = "linux"))]
compile_error!("Skerry runs on Linux only for now");

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;

pub mod system;

/// A file that is open for reads and writes at given offsets (bytes from its start).
pub trait File: Send + Sync + fmt::Debug {
    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before `out` is full.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`; the file grows as needed. Durable only after [`File::sync`].
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes every completed write of this file durable, its length included.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros) to `len` bytes. Durable only after [`File::sync`].
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Gives the range's space back to the file system where that is supported; reads of it then give zeros or the old
    /// bytes. The length stays.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// Free and total space of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged process may still write.
    pub free: u64,
    /// The size of the file system.
    pub total: u64,
}

/// A tree of files below one data folder. Paths are relative, with `/` between names.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Creates an empty file (and the folders above it), cutting one that exists; the name is durable after
    /// [`Disk::sync_dir`] of its folder.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// The names in a folder, sorted; empty when there is no such folder.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Whether there is such a file or folder.
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// Renames a file, replacing one that has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; fine when there is none.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Space of the file system below the folder.
    fn space(&self) -> io::Result<Space>;
}

/// Milliseconds since 1970-01-01T00:00:00Z by this machine's clock: may jump, may be wrong by minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallMs(pub u64);

/// Work that may block, with its result left where the closure put it.
pub type BlockingWork = Box<dyn FnOnce() + Send + 'static>;

/// The machine as a driver sees it.
#[async_trait]
pub trait Platform: Send + Sync + fmt::Debug {
    /// The node's data folder.
    fn disk(&self) -> Arc<dyn Disk>;

    /// The wall clock. Only for what the outside world dates: never for ordering, leases or timeouts.
    fn wall_ms(&self) -> WallMs;

    /// Fills `out` with random bytes (fit for secrets in production, seeded in a simulation).
    fn fill_random(&self, out: &mut [u8]);

    /// Runs `work` where blocking is allowed and waits for it.
    async fn run_blocking(&self, work: BlockingWork);
}

impl dyn Platform {
    /// Runs `work` where blocking is allowed and returns its result.
    ///
    /// # Panics
    /// When `work` panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.run_blocking(Box::new(move || {
            let _ = sender.send(work());
        }))
        .await;
        receiver
            .await
            .expect("blocking work ended without a result: it panicked")
    }

    /// A generator over [`Platform::fill_random`], for the identifiers of the crate `ids`.
    pub fn rng(&self) -> PlatformRng<'_> {
        PlatformRng(self)
    }
}

/// See [`Platform::fill_random`].
pub struct PlatformRng<'a>(&'a dyn Platform);

impl rand::TryRng for PlatformRng<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill_random(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill_random(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill_random(out);
        Ok(())
    }
}
