//! Logs of this process: to stderr, or under `up` to a file of bounded size, which only its owner may read.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As a flag's value.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// A file is set aside when it reaches this size; one older file is kept.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What is logged when nobody says.
pub const LEVEL_DEFAULT: &str = "info,openraft=error,hyper=warn,s3s=warn";

/// Starts logging; `SKERRY_LOG` says what is logged.
pub fn start(format: LogFormat, file: Option<&Path>) -> Result<()> {
    // An empty variable says nothing.
    let level = std::env::var("SKERRY_LOG").ok();
    let level = level.filter(|level| !level.is_empty());
    let level = level.unwrap_or_else(|| LEVEL_DEFAULT.into());
    start_at(&level, format, file)
}

/// Starts logging of this level.
pub fn start_at(level: &str, format: LogFormat, file: Option<&Path>) -> Result<()> {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new(LEVEL_DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false);
    match (file, format) {
        (None, LogFormat::Text) => builder.with_writer(io::stderr).with_ansi(false).init(),
        (None, LogFormat::Json) => builder.with_writer(io::stderr).json().init(),
        (Some(path), LogFormat::Text) => builder.with_writer(open(path)?).with_ansi(false).init(),
        (Some(path), LogFormat::Json) => builder.with_writer(open(path)?).json().init(),
    }
    Ok(())
}

fn open(path: &Path) -> Result<RotatedFile> {
    RotatedFile::open(path).with_context(|| format!("can't write logs to {}", path.display()))
}

/// A log file and its predecessor.
#[derive(Clone)]
struct RotatedFile(Arc<Mutex<Rotated>>);

struct Rotated {
    path: PathBuf,
    file: fs::File,
    len: u64,
}

impl RotatedFile {
    fn open(path: &Path) -> io::Result<Self> {
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
            fs::rename(&log.path, log.path.with_extension("log.1"))?;
            log.file = open_private(&log.path)?;
            log.len = 0;
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
}
