//! The simulated machine with a tap on its disk: every change is told to the trace, and the log's disk can be made to lie.
//!
//! A lying disk confirms syncs of the write-ahead log that it doesn't carry out, as drives with a volatile cache do; a
//! power cut then tears out what was promised. Only the log: the database is a cache of it.
//!
//! A machine that stands still does no blocking work before it goes on.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ids::NodeId;
use platform::{BlockingWork, Disk, File, Platform, Space, WallMs};
use testkit::sim::{SimPlatform, Trace};
use tokio::time::{Instant, sleep_until};

use crate::journal::lock;

/// Where a disk's changes are told, and whether it lies.
#[derive(Debug, Clone)]
pub struct Tap {
    /// Whose disk it is.
    pub node: NodeId,
    /// Where to tell.
    pub trace: Trace,
    /// Whether syncs of the log are left out.
    pub lies: Arc<AtomicBool>,
}

impl Tap {
    fn tell(&self, what: fmt::Arguments<'_>) {
        self.trace.event(format_args!("disk {} {what}", self.node));
    }

    fn lies_about(&self, path: &str) -> bool {
        path.starts_with("wal/") && self.lies.load(Ordering::Relaxed)
    }
}

/// Until when a machine stands still, if it does. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Stall(Arc<Mutex<Option<Instant>>>);

impl Stall {
    /// Lets it stand still until then.
    pub fn hold(&self, until: Instant) {
        *lock(&self.0) = Some(until);
    }

    fn until(&self) -> Option<Instant> {
        lock(&self.0).filter(|until| *until > Instant::now())
    }
}

/// A [`SimPlatform`] with a tap on its disk.
#[derive(Debug)]
pub struct TappedPlatform {
    platform: Arc<SimPlatform>,
    stall: Stall,
    disk: Arc<TappedDisk>,
}

impl TappedPlatform {
    /// Puts the tap on.
    pub fn new(platform: Arc<SimPlatform>, stall: Stall, tap: Tap) -> TappedPlatform {
        let disk = Arc::new(TappedDisk {
            disk: platform.disk(),
            tap,
        });
        TappedPlatform {
            platform,
            stall,
            disk,
        }
    }
}

#[async_trait]
impl Platform for TappedPlatform {
    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn wall_ms(&self) -> WallMs {
        self.platform.wall_ms()
    }

    fn fill_random(&self, out: &mut [u8]) {
        self.platform.fill_random(out);
    }

    async fn run_blocking(&self, work: BlockingWork) {
        let Some(until) = self.stall.until() else {
            return self.platform.run_blocking(work).await;
        };
        let platform = self.platform.clone();
        // A task of its own: the work is done even if the caller leaves.
        let done = tokio::spawn(async move {
            sleep_until(until).await;
            platform.run_blocking(work).await;
        });
        let _ = done.await;
    }
}

#[derive(Debug)]
struct TappedDisk {
    disk: Arc<dyn Disk>,
    tap: Tap,
}

impl TappedDisk {
    fn tapped(&self, path: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(TappedFile {
            file,
            path: path.to_owned(),
            tap: self.tap.clone(),
        })
    }
}

impl Disk for TappedDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.tapped(path, self.disk.open(path)?))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.tap.tell(format_args!("create {path}"));
        Ok(self.tapped(path, self.disk.create(path)?))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.tap.tell(format_args!("rename {from} {to}"));
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.tap.tell(format_args!("remove {path}"));
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.tap.tell(format_args!("sync folder {dir}"));
        self.disk.sync_dir(dir)
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
}

#[derive(Debug)]
struct TappedFile {
    file: Arc<dyn File>,
    path: String,
    tap: Tap,
}

impl File for TappedFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (path, len) = (&self.path, data.len());
        let mut hash = DefaultHasher::new();
        hash.write(data);
        let hash = hash.finish();
        self.tap
            .tell(format_args!("write {path} {offset} {len} {hash:016x}"));
        self.file.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.tap.tell(format_args!("sync {}", self.path));
        match self.tap.lies_about(&self.path) {
            true => Ok(()),
            false => self.file.sync(),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.tap
            .tell(format_args!("set length {} {len}", self.path));
        self.file.set_len(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.tap
            .tell(format_args!("punch {} {offset} {len}", self.path));
        self.file.punch_hole(offset, len)
    }
}
