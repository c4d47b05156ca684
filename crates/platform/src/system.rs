//! The real machine: files below a folder, the system's clock and entropy, tokio's blocking threads.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use crate::{BlockingWork, Disk, File, Platform, Space, WallMs};

/// [`Platform`] on the machine that the process runs on.
#[derive(Debug)]
pub struct SystemPlatform {
    disk: Arc<SystemDisk>,
}

impl SystemPlatform {
    /// A platform whose disk is the folder `root`, created (mode 0700) when it is missing.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(SystemPlatform {
            disk: Arc::new(SystemDisk::new(root.into())?),
        })
    }
}

#[async_trait]
impl Platform for SystemPlatform {
    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn wall_ms(&self) -> WallMs {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        WallMs(since.as_millis().try_into().unwrap_or(u64::MAX))
    }

    fn fill_random(&self, out: &mut [u8]) {
        use rand::Rng;
        rand::rng().fill_bytes(out);
    }

    async fn run_blocking(&self, work: BlockingWork) {
        // A panic in `work` shows as the missing result in `dyn Platform::blocking`.
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

/// [`Disk`] on a folder.
#[derive(Debug)]
pub struct SystemDisk {
    root: PathBuf,
}

impl SystemDisk {
    fn new(root: PathBuf) -> io::Result<Self> {
        create_private_dir(&root)?;
        Ok(SystemDisk { root })
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

impl Disk for SystemDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(path))?;
        Ok(Arc::new(SystemFile(file)))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let path = self.path(path);
        if let Some(parent) = path.parent() {
            create_private_dir(parent)?;
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        Ok(Arc::new(SystemFile(file)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.path(path).try_exists()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.path(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        fs::File::open(self.path(dir))?.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            free: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks * stat.f_frsize,
        })
    }
}

#[derive(Debug)]
struct SystemFile(fs::File);

impl File for SystemFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(
            &self.0,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        ) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
