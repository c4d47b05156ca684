//! A log file of bounded size: when it is full it is set aside, and one older file is kept.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// A file is set aside when it reaches this size.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A log file and its predecessor.
#[derive(Clone)]
pub struct RotatedFile(Arc<Mutex<Rotated>>);

struct Rotated {
    path: PathBuf,
    file: fs::File,
    len: u64,
}

impl RotatedFile {
    /// Opens or makes it.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        let file = open_private(path)?;
        let len = file.metadata()?.len();
        Ok(RotatedFile(Arc::new(Mutex::new(Rotated {
            path: path.to_owned(),
            file,
            len,
        }))))
    }
}

fn open_private(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl Write for RotatedFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len + line.len() as u64 > FILE_BYTES_MAX {
            match fs::rename(&log.path, log.path.with_extension("log.1")) {
                // Somebody else moved it away: there is only a new one to begin.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
            log.file = open_private(&log.path)?;
            log.len = log.file.metadata()?.len();
        }
        let written = log.file.write(line)?;
        log.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .file
            .flush()
    }
}

impl<'a> MakeWriter<'a> for RotatedFile {
    type Writer = RotatedFile;

    fn make_writer(&'a self) -> RotatedFile {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_may_read_a_log_and_its_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs").join("node-1.log");
        let mut log = RotatedFile::open(&path).unwrap();
        log.write_all(&vec![b'.'; FILE_BYTES_MAX as usize]).unwrap();
        log.write_all(b"the next file\n").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("logs")), 0o700);
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&path.with_extension("log.1")), 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"the next file\n");
    }

    #[test]
    fn a_log_that_was_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.log");
        let mut log = RotatedFile::open(&path).unwrap();
        log.write_all(&vec![b'.'; FILE_BYTES_MAX as usize]).unwrap();
        fs::rename(&path, dir.path().join("kept")).unwrap();
        log.write_all(b"goes on\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"goes on\n");
    }
}
