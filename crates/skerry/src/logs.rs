//! Logs of this process: to stderr, or under `up` to a file of bounded size.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
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
    let level = std::env::var("SKERRY_LOG").unwrap_or_else(|_| LEVEL_DEFAULT.into());
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
        (Some(path), LogFormat::Text) => builder
            .with_writer(RotatedFile::open(path)?)
            .with_ansi(false)
            .init(),
        (Some(path), LogFormat::Json) => {
            builder.with_writer(RotatedFile::open(path)?).json().init()
        }
    }
    Ok(())
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
            fs::create_dir_all(dir)?;
        }
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?;
        let len = file.metadata()?.len();
        Ok(RotatedFile(Arc::new(Mutex::new(Rotated {
            path: path.to_owned(),
            file,
            len,
        }))))
    }
}

impl Write for RotatedFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len + line.len() as u64 > FILE_BYTES_MAX {
            fs::rename(&log.path, log.path.with_extension("log.1"))?;
            log.file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&log.path)?;
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
