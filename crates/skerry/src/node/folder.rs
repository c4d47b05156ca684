//! The data folder of a node: what lies in it, that it is ours, and that one process uses it.
//!
//! ```text
//! node.json   marks the folder: format, site, node, addresses     secrets/   site key, node key and certificate (0600)
//! lock        held while a process uses the folder                wal/ state/ blocks/   logs, metadata, blocks
//! admin.sock  the local command line's way in (0600)              topology.json   servers, as last heard of
//! doors.json  where clients find the doors, since the last start
//! ```
//! The marker is written last when a folder is made and is replaced by rename, so a folder is whole or not there.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ids::{NodeId, SiteId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format of the folder as a whole.
pub const FORMAT: u32 = 1;
const MARKER: &str = "node.json";

/// What the marker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// See [`FORMAT`].
    pub format: u32,
    /// The site.
    pub site: SiteId,
    /// The node.
    pub node: NodeId,
    /// Addresses that the node listened on, for the next start.
    pub listen: Listen,
}

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Other nodes.
    pub node: String,
    /// S3.
    pub s3: String,
    /// Health and metrics.
    pub http: String,
}

/// A data folder, locked by this process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: fs::File,
}

impl Folder {
    /// Takes the folder; makes it (mode 0700) when it is missing.
    pub fn lock(path: &Path) -> Result<Self> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path);
        made.with_context(|| format!("can't make the data folder {}", path.display()))?;
        let foreign =
            !path.join(MARKER).exists() && !path.join("lock").exists() && !is_empty(path)?;
        if foreign {
            bail!(
                "{} holds other files and is no Skerry data folder: name an empty or new folder with --data",
                path.display()
            );
        }
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"));
        let lock =
            lock.with_context(|| format!("can't write in the data folder {}", path.display()))?;
        if let Err(error) =
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        {
            if error == rustix::io::Errno::WOULDBLOCK {
                bail!(
                    "{} is in use by another skerry process: stop that one first",
                    path.display()
                );
            }
            return Err(error).with_context(|| format!("can't lock {}", path.display()));
        }
        Ok(Folder {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The marker; `None` for a new folder.
    pub fn marker(&self) -> Result<Option<Marker>> {
        let Some(marker) = read_json::<serde_json::Value>(&self.path.join(MARKER))? else {
            if self.path.join("wal").exists() {
                bail!(
                    "{} holds data but no {MARKER}: it is damaged; restore that file or name another folder",
                    self.path.display()
                );
            }
            return Ok(None);
        };
        match marker.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format > u64::from(FORMAT) => bail!(
                "{} has data format {format}, this program knows {FORMAT}: use a newer skerry",
                self.path.display()
            ),
            Some(_) => {}
            None => bail!(
                "{} is damaged: {MARKER} names no format",
                self.path.display()
            ),
        }
        let parsed = serde_json::from_value(marker);
        Ok(Some(parsed.with_context(|| {
            format!("{MARKER} in {} is damaged", self.path.display())
        })?))
    }

    /// Writes the marker.
    pub fn set_marker(&self, marker: &Marker) -> Result<()> {
        self.write_json(MARKER, marker)
    }

    /// A secret file's bytes.
    pub fn secret(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.secret_path(name);
        fs::read(&path).with_context(|| format!("can't read {}", path.display()))
    }

    /// Where a secret file is.
    pub fn secret_path(&self, name: &str) -> PathBuf {
        self.path.join("secrets").join(name)
    }

    /// Writes a secret file (0600).
    pub fn set_secret(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_private(&self.secret_path(name), bytes)
    }

    /// Removes a secret file.
    pub fn remove_secret(&self, name: &str) -> Result<()> {
        let path = self.secret_path(name);
        fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))
    }

    /// Reads a JSON file of the folder.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        read_json(&self.path.join(name))
    }

    /// Replaces a JSON file of the folder.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_private(&self.path.join(name), &serde_json::to_vec_pretty(value)?)
    }
}

fn is_empty(path: &Path) -> Result<bool> {
    let mut entries =
        fs::read_dir(path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(entries.next().is_none())
}

/// Reads a JSON file; `None` when there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
        format!("{} is damaged", path.display())
    })?))
}

/// Writes a file of mode 0600 durably, by rename; its folder is made when missing.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file has a folder")?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("can't write {}", path.display()))
}
