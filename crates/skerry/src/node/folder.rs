//! The data folder of a node: what lies in it, that it is ours, and that one process uses it.
//!
//! ```text
//! node.json   marks the folder: format, site, node, addresses     secrets/   site key, node key and certificate, the authority sealed (0600)
//! lock        held while a process uses the folder                wal/ state/ blocks/   logs, metadata, blocks
//! admin.sock  the local command line's way in (0600)              topology.json   servers, as last heard of
//! doors.json  where clients find the doors, since the last start
//! heard.json  when the registry was last heard, by the wall clock
//! ```
//! The marker is written last when a folder is made and is replaced by rename, so a folder is whole or not there.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ids::{NodeId, SiteId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::versioned;

/// The format of the folder as a whole.
pub const FORMAT: u32 = 1;
const MARKER: &str = "node.json";
const LOCK: &str = "lock";
/// The folder of secret files.
pub const SECRETS: &str = "secrets";
/// The path of a Unix socket has at most this many bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

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
    /// The address that other nodes are told, when it isn't the one listened on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Whether a start came to its end: from then on log, metadata and blocks must be there.
    #[serde(default)]
    pub started: bool,
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
    before: Before,
    locked_at: Instant,
    _lock: fs::File,
}

/// What there was before the folder was locked.
#[derive(Debug)]
struct Before {
    /// The folders that were missing, the innermost first.
    missing: Vec<PathBuf>,
    had_lock: bool,
    held_nothing: bool,
}

impl Folder {
    /// Takes a node's folder; makes it (mode 0700) when it is missing.
    pub fn lock(path: &Path) -> Result<Self> {
        check(path)?;
        Self::take(path)
    }

    /// As [`Folder::lock`], for a folder that the caller has looked at.
    pub fn take(path: &Path) -> Result<Self> {
        let (missing, had_lock) = (missing(path), path.join(LOCK).exists());
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path);
        made.with_context(|| format!("can't make the data folder {}", path.display()))?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK));
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
        let before = Before {
            missing,
            had_lock,
            // Only now: while another process had the folder, it could have made a node of it.
            held_nothing: holds_only_lock(path)?,
        };
        Ok(Folder {
            path: path.to_owned(),
            before,
            locked_at: Instant::now(),
            _lock: lock,
        })
    }

    /// When it was locked: from then on no other process acts for this node.
    pub fn locked_at(&self) -> Instant {
        self.locked_at
    }

    /// Removes everything, when the folder held nothing before it was locked: a first start that failed leaves nothing. Of
    /// another folder, only a lock that it did not have.
    pub fn take_back(&self) {
        if let Err(error) = self.before.restore(&self.path) {
            tracing::warn!(%error, folder = %self.path.display(), "the new folder could not be removed");
        }
    }

    /// Closes the folder to other users, if it is open to them; true when it was.
    pub fn make_private(&self) -> Result<bool> {
        let found = fs::metadata(&self.path);
        let found = found.with_context(|| format!("can't look at {}", self.path.display()))?;
        if found.mode() & 0o077 == 0 {
            return Ok(false);
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("can't close {} to other users", self.path.display()))?;
        tracing::warn!(folder = %self.path.display(), "the data folder was open to other users: its mode is 0700 now");
        Ok(true)
    }

    /// Makes a folder in the folder, when it is missing.
    pub fn make(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path);
        made.with_context(|| format!("can't make {}", path.display()))
    }

    /// Refuses a folder of which log, metadata or blocks are gone. Its node promised others to have them: it must not go
    /// on as if it never had.
    pub fn check_parts(&self) -> Result<()> {
        let is_file = |name: &str| {
            fs::metadata(self.path.join(name)).is_ok_and(|found| found.is_file() && found.len() > 0)
        };
        let parts = [
            ("wal", holds_segments(&self.path.join("wal"))),
            ("state/groups.redb", is_file("state/groups.redb")),
            ("blocks", self.path.join("blocks").is_dir()),
        ];
        for (name, there) in parts {
            if !there {
                bail!(
                    "{} is missing or empty: put it back as it was, or let the machine join anew with another data folder",
                    self.path.join(name).display()
                );
            }
        }
        Ok(())
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The marker; `None` for a new folder.
    pub fn marker(&self) -> Result<Option<Marker>> {
        read_marker(&self.path)
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
        self.path.join(SECRETS).join(name)
    }

    /// Writes a secret file (0600).
    pub fn set_secret(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_private(&self.secret_path(name), bytes)
    }

    /// Removes a secret file, durably.
    pub fn remove_secret(&self, name: &str) -> Result<()> {
        let path = self.secret_path(name);
        let remove = || -> std::io::Result<()> {
            fs::remove_file(&path)?;
            fs::File::open(self.path.join(SECRETS))?.sync_all()
        };
        remove().with_context(|| format!("can't remove {}", path.display()))
    }

    /// Reads a JSON file of the folder.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        read_json(&self.path.join(name))
    }

    /// Replaces a JSON file of the folder.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_private(&self.path.join(name), &serde_json::to_vec_pretty(value)?)
    }

    /// Reads a JSON file of the folder that names its format, see [`versioned`].
    pub fn record<T: DeserializeOwned>(&self, name: &str, known: u32) -> Result<Option<T>> {
        versioned::load(&self.path.join(name), known)
    }

    /// Replaces such a file.
    pub fn write_record(&self, name: &str, format: u32, record: &impl Serialize) -> Result<()> {
        self.write_json(name, &versioned::named(format, record)?)
    }
}

impl Before {
    fn restore(&self, path: &Path) -> std::io::Result<()> {
        if !self.held_nothing {
            return match self.had_lock {
                true => Ok(()),
                false => fs::remove_file(path.join(LOCK)),
            };
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.file_name() != LOCK || !self.had_lock {
                fs::remove_file(entry.path())?;
            }
        }
        // One that somebody else put something into stays.
        self.missing.iter().try_for_each(fs::remove_dir)
    }
}

/// Refuses a folder that can't become, or stay, a node's. Changes nothing.
pub fn check(path: &Path) -> Result<()> {
    check_length(path)?;
    check_owner(path)?;
    let is_ours = path.join(MARKER).exists() || path.join(LOCK).exists();
    if path.exists() && !is_ours && !is_empty(path)? {
        bail!(
            "{} holds other files and is no Skerry data folder: name an empty or new folder with --data",
            path.display()
        );
    }
    Ok(())
}

/// Refuses a folder of another user, who could read the secrets in it and replace what lies there.
pub fn check_owner(path: &Path) -> Result<()> {
    let Ok(found) = fs::metadata(path) else {
        return Ok(());
    };
    same_owner(path, found.uid(), rustix::process::geteuid().as_raw())
}

fn same_owner(path: &Path, owner: u32, user: u32) -> Result<()> {
    if owner != user {
        bail!(
            "{} belongs to another user (its owner has the id {owner}, this process {user}): start it as that user, or name another folder with --data",
            path.display()
        );
    }
    Ok(())
}

/// The admin socket lies in the folder, and the system bounds its path.
fn check_length(path: &Path) -> Result<()> {
    let len = path.join(super::admin::SOCKET).as_os_str().len();
    if len > SOCKET_PATH_BYTES_MAX {
        bail!(
            "the path of the data folder {} is {} bytes too long for the socket in it: name a shorter one with --data",
            path.display(),
            len - SOCKET_PATH_BYTES_MAX
        );
    }
    Ok(())
}

/// The folders of a path that there are not, the innermost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    path.ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .map(Path::to_owned)
        .collect()
}

fn holds_only_lock(path: &Path) -> Result<bool> {
    let entries = fs::read_dir(path).with_context(|| format!("can't read {}", path.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("can't read {}", path.display()))?;
        if entry.file_name() != LOCK {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds_segments(wal: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(wal) else {
        return false;
    };
    entries.any(|entry| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "seg"))
    })
}

fn is_empty(path: &Path) -> Result<bool> {
    let mut entries =
        fs::read_dir(path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(entries.next().is_none())
}

/// The marker of a folder; `None` when it is a new one.
pub fn read_marker(path: &Path) -> Result<Option<Marker>> {
    let Some(marker) = read_json::<serde_json::Value>(&path.join(MARKER))? else {
        if path.join("wal").exists() {
            bail!(
                "{} holds data but no {MARKER}: it is damaged; restore that file or name another folder",
                path.display()
            );
        }
        return Ok(None);
    };
    match marker.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format > u64::from(FORMAT) => bail!(
            "{} has data format {format}, this program knows {FORMAT}: use a newer skerry",
            path.display()
        ),
        Some(_) => {}
        None => bail!("{} is damaged: {MARKER} names no format", path.display()),
    }
    let parsed = serde_json::from_value(marker);
    Ok(Some(parsed.with_context(|| {
        format!("{MARKER} in {} is damaged", path.display())
    })?))
}

/// A file's bytes; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

/// Reads a JSON file; `None` when there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
        format!("{} is damaged", path.display())
    })?))
}

/// Writes a file of mode 0600 durably, by rename; its folder is made when missing. A file that says the same already is
/// left alone, so that a node can start on a full disk.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let dir = path.parent().context("a file has a folder")?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("can't make {}", dir.display()))?;
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
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_new_is_taken_back_and_others_stay() {
        let path = tempfile::tempdir().unwrap();
        let data = path.path().join("a/b");
        let folder = Folder::lock(&data).unwrap();
        folder.set_secret("key", b"k").unwrap();
        folder.take_back();
        assert!(!path.path().join("a").exists());
        drop(folder);

        // It was there, and empty.
        fs::create_dir_all(&data).unwrap();
        let folder = Folder::lock(&data).unwrap();
        folder.write_json(MARKER, &1).unwrap();
        folder.take_back();
        assert!(data.exists() && is_empty(&data).unwrap());
        drop(folder);

        // It held something.
        let folder = Folder::lock(&data).unwrap();
        folder.write_json(MARKER, &1).unwrap();
        drop(folder);
        Folder::lock(&data).unwrap().take_back();
        assert!(data.join(MARKER).exists() && data.join(LOCK).exists());

        // It held something, but no lock.
        fs::remove_file(data.join(LOCK)).unwrap();
        Folder::lock(&data).unwrap().take_back();
        assert!(data.join(MARKER).exists() && !data.join(LOCK).exists());
    }

    #[test]
    fn a_folder_that_others_could_enter_is_closed_when_it_is_used() {
        let path = tempfile::tempdir().unwrap();
        let mode = || fs::metadata(path.path()).unwrap().mode() & 0o777;
        fs::set_permissions(path.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let folder = Folder::lock(path.path()).unwrap();
        assert_eq!(mode(), 0o750, "a start may still be refused");
        assert!(folder.make_private().unwrap());
        assert_eq!(mode(), 0o700);
        assert!(!folder.make_private().unwrap());
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let path = Path::new("/data");
        same_owner(path, 7, 7).unwrap();
        let refused = same_owner(path, 7, 8).unwrap_err().to_string();
        assert!(refused.contains("/data belongs to another user"));
        let here = tempfile::tempdir().unwrap();
        check_owner(here.path()).unwrap();
        check_owner(&here.path().join("missing")).unwrap();
    }

    #[test]
    fn a_file_that_says_the_same_is_not_written_again() {
        let path = tempfile::tempdir().unwrap();
        let file = path.path().join("file.json");
        let inode = || fs::metadata(&file).unwrap().ino();
        write_private(&file, b"one").unwrap();
        // Keeps the number of the first file from being given again.
        fs::hard_link(&file, path.path().join("kept")).unwrap();
        let first = inode();
        write_private(&file, b"one").unwrap();
        assert_eq!(inode(), first);
        write_private(&file, b"two").unwrap();
        assert_ne!(inode(), first);
        assert_eq!(fs::read(&file).unwrap(), b"two");
    }

    #[test]
    fn a_path_that_is_too_long_for_the_socket_makes_no_folder() {
        let path = tempfile::tempdir().unwrap();
        let data = path.path().join("x".repeat(100));
        let error = Folder::lock(&data).unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
        assert!(!data.exists());
    }

    #[test]
    fn a_missing_part_is_named() {
        let path = tempfile::tempdir().unwrap();
        let folder = Folder::lock(&path.path().join("node")).unwrap();
        let says = |name: &str| {
            let error = folder.check_parts().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        };
        says("wal");
        folder.make("wal").unwrap();
        says("wal");
        fs::write(folder.path().join("wal/wal-1.seg"), b"x").unwrap();
        says("state/groups.redb");
        folder.make("state").unwrap();
        fs::write(folder.path().join("state/groups.redb"), b"").unwrap();
        says("state/groups.redb");
        fs::write(folder.path().join("state/groups.redb"), b"x").unwrap();
        says("blocks");
        folder.make("blocks").unwrap();
        folder.check_parts().unwrap();
    }

    #[test]
    fn the_marker_of_an_earlier_program_is_read() {
        let text = format!(
            r#"{{"format":1,"site":{},"node":1,"listen":{{"node":"a","s3":"b","http":"c"}}}}"#,
            serde_json::to_string(&SiteId([1; 16])).unwrap()
        );
        let marker: Marker = serde_json::from_str(&text).unwrap();
        assert!(marker.advertise.is_none() && !marker.started);
    }
}
