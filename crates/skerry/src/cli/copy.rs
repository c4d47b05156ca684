//! `skerry object cp`: files and folders to S3 and back.
//!
//! How far it is shows on stderr, on terminals only, and without colours.

use std::io::{self, ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use object_client::Error;
use object_client::transfer::{Moved, Progress, Transfer, path_of};
use serde_json::json;

use super::endpoint::EndpointArguments;
use super::place::{Direction, Local, Remote, direction, shown};
use super::{Output, print};

pub const EXAMPLES: &str = "\
Examples:
  skerry object cp photo.jpg pictures/2026/           upload one file below a prefix
  skerry object cp pictures/2026/photo.jpg .          download it into this folder
  skerry object cp -r ./site s3://www/                upload all files below a folder
  skerry object cp -r www ./copy                      download a whole bucket
  pg_dump shop | skerry object cp - backups/shop.sql  upload what a program writes

Either side is S3: with s3:// in any case, and without it unless it begins with `/`, `./` or `../` or the source exists
on this machine. An upload in parts that broke off goes on when the same command is given again.";

#[derive(Debug, Args)]
pub struct CopyArguments {
    /// A local file or folder, `-` for standard input, or BUCKET/KEY
    #[arg(value_name = "SRC")]
    source: String,
    /// BUCKET/KEY, a local file or folder, or `-` for standard output
    #[arg(value_name = "DST")]
    target: String,
    /// Copy everything below a folder
    #[arg(long, short)]
    recursive: bool,
    /// Requests at a time; each holds up to 16 MiB in memory
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    concurrency: u16,
    /// The content type of what is uploaded
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    #[command(flatten)]
    service: EndpointArguments,
}

pub async fn run(arguments: CopyArguments) -> Result<ExitCode> {
    let copy = direction(&arguments.source, &arguments.target, Path::exists)?;
    let (verb, bucket, piped, onto_stdout) = match &copy {
        Direction::Up { from, to } => ("uploaded", &to.bucket, *from == Local::Stream, false),
        Direction::Down { from, to } => {
            let piped = *to == Local::Stream;
            ("downloaded", &from.bucket, piped, piped)
        }
    };
    let output = arguments.service.output();
    ensure!(
        !onto_stdout || output == Output::Text,
        "the object goes to standard output, so --output json has no place there"
    );
    let client = arguments.service.client()?;
    let meter = Arc::new(Meter::new(!piped));
    let transfer = Transfer::new(
        client,
        bucket,
        arguments.concurrency.into(),
        Arc::clone(&meter) as Arc<dyn Progress>,
    )
    .with_content_type(arguments.content_type.clone());
    let started = Instant::now();
    let moved = match piped {
        // A read or write that hangs could not be broken off, so the signal keeps its usual effect.
        true => carry_out(&transfer, copy, arguments.recursive).await,
        false => tokio::select! {
            moved = carry_out(&transfer, copy, arguments.recursive) => moved,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        },
    };
    meter.bar.finish_and_clear();
    let Some(moved) = unless_reader_left(moved)? else {
        return Ok(ExitCode::SUCCESS);
    };
    if output == Output::Json {
        print::json(&json!({
            "action": verb,
            "files": moved.files,
            "bytes": moved.bytes,
            "seconds": started.elapsed().as_secs_f64(),
        }))?;
    } else if !onto_stdout {
        print::note(summary(verb, moved, started.elapsed()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes one object to standard output; `None` when whoever reads it has enough.
pub async fn onto_stdout(transfer: &Transfer, object: &Remote) -> Result<Option<Moved>> {
    let moved = transfer.download_stream(&object.key, io::stdout()).await;
    unless_reader_left(moved.with_context(|| object.to_string()))
}

fn unless_reader_left(moved: Result<Moved>) -> Result<Option<Moved>> {
    match moved {
        Ok(moved) => Ok(Some(moved)),
        Err(error) => match error.downcast_ref::<Error>() {
            Some(Error::Stream { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

fn summary(verb: &str, moved: Moved, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(0.001);
    format!(
        "{verb} {} file(s), {} in {seconds:.1} s ({}/s)",
        moved.files,
        print::bytes(moved.bytes),
        print::bytes((moved.bytes as f64 / seconds) as u64)
    )
}

async fn carry_out(transfer: &Transfer, copy: Direction, recursive: bool) -> Result<Moved> {
    match copy {
        Direction::Up { from, to } => {
            let moved = upload(transfer, from, &to, recursive).await;
            moved.with_context(|| format!("can't upload to {to}"))
        }
        Direction::Down { from, to } => {
            let moved = download(transfer, &from, to, recursive).await;
            moved.with_context(|| format!("can't download {from}"))
        }
    }
}

async fn upload(transfer: &Transfer, from: Local, to: &Remote, recursive: bool) -> Result<Moved> {
    let Local::Path(path) = from else {
        ensure!(!recursive, "--recursive needs a folder");
        ensure!(is_object(to), "name the object as BUCKET/KEY");
        return Ok(transfer.upload_stream(io::stdin(), &to.key).await?);
    };
    let metadata = std::fs::metadata(&path).with_context(|| path.display().to_string())?;
    if !metadata.is_dir() {
        let key = key_for(to, &path)?;
        return Ok(transfer.upload_file(&path, &key).await?);
    }
    ensure!(
        recursive,
        "{} is a folder: copy it with --recursive",
        path.display()
    );
    Ok(transfer.upload_folder(&path, &to.folder()).await?)
}

async fn download(transfer: &Transfer, from: &Remote, to: Local, recursive: bool) -> Result<Moved> {
    let path = match to {
        Local::Path(path) => path,
        Local::Stream => {
            ensure!(!recursive, "many objects can't go to standard output");
            ensure!(is_object(from), "name the object as BUCKET/KEY");
            let moved = transfer.download_stream(&from.key, io::stdout()).await?;
            return Ok(moved);
        }
    };
    if recursive {
        let moved = transfer.download_folder(&from.folder(), &path).await?;
        let found = moved.files > 0 || from.key.is_empty();
        ensure!(found, "there is no object below it");
        return Ok(moved);
    }
    ensure!(
        is_object(from),
        "this is no object: copy everything below it with --recursive"
    );
    let path = path_for(&from.key, path)?;
    Ok(transfer.download_file(&from.key, &path).await?)
}

fn is_object(remote: &Remote) -> bool {
    !remote.key.is_empty() && !remote.key.ends_with('/')
}

/// The key of an uploaded file: the given one, or below the given prefix by the file's name.
fn key_for(to: &Remote, file: &Path) -> Result<String> {
    if is_object(to) {
        return Ok(to.key.clone());
    }
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no name for a key", file.display()))?;
    Ok(format!("{}{name}", to.key))
}

/// The path of a downloaded object: the given one, or in the given folder by the last part of its key.
fn path_for(key: &str, target: PathBuf) -> Result<PathBuf> {
    let folder = target.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !folder && !target.is_dir() {
        return Ok(target);
    }
    let name = key.rsplit('/').next().unwrap_or_default();
    let Some(name) = path_of("", name)? else {
        bail!("the key has no name for a file: name one");
    };
    std::fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
    Ok(target.join(name))
}

/// Shows on a terminal how far a transfer is.
struct Meter {
    bar: ProgressBar,
    found: AtomicU64,
    done: AtomicU64,
}

impl Meter {
    fn new(wanted: bool) -> Self {
        let bar = match wanted && io::stderr().is_terminal() {
            true => ProgressBar::new(0),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template(
            "{bar:30} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}  {msg}",
        );
        bar.set_style(style.expect("a good template").progress_chars("=> "));
        Self {
            bar,
            found: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    fn show_files(&self) {
        let (done, found) = (&self.done, &self.found);
        let (done, found) = (done.load(Ordering::Relaxed), found.load(Ordering::Relaxed));
        self.bar.set_message(format!("{done}/{found} file(s)"));
    }
}

impl Progress for Meter {
    fn found(&self, files: u64, bytes: u64) {
        self.found.fetch_add(files, Ordering::Relaxed);
        self.bar.inc_length(bytes);
        self.show_files();
    }

    fn bytes(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn file(&self, _: &str) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.show_files();
    }

    fn resumed(&self, key: &str, parts: usize) {
        let key = shown(key);
        self.bar.suspend(|| {
            print::note(format!(
                "an earlier upload of {key} broke off with {parts} parts: going on with it"
            ));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> Remote {
        text.parse().unwrap()
    }

    #[test]
    fn keys_of_files() {
        let key = |to: &str, file: &str| key_for(&remote(to), Path::new(file)).unwrap();
        assert_eq!(key("b", "a/f.txt"), "f.txt");
        assert_eq!(key("b/p/", "./f.txt"), "p/f.txt");
        assert_eq!(key("b/p", "f.txt"), "p");
        assert!(key_for(&remote("b"), Path::new("..")).is_err());
    }

    #[test]
    fn paths_of_objects() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        assert_eq!(path_for("a/k", inside("f")).unwrap(), inside("f"));
        assert_eq!(
            path_for("a/k", folder.path().to_owned()).unwrap(),
            inside("k")
        );
        assert_eq!(path_for("a/k", inside("new/")).unwrap(), inside("new/k"));
        assert!(inside("new").is_dir());
        for bad in ["a/..", "."] {
            assert!(path_for(bad, folder.path().to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn summaries() {
        let moved = Moved {
            files: 2,
            bytes: 8 << 20,
        };
        assert_eq!(
            summary("uploaded", moved, Duration::from_secs(4)),
            "uploaded 2 file(s), 8.00 MiB in 4.0 s (2.00 MiB/s)"
        );
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let left = |kind: ErrorKind| {
            let error = Error::Stream {
                what: "can't write the output",
                source: kind.into(),
            };
            unless_reader_left(Err(anyhow::Error::from(error).context("b/k")))
        };
        assert!(left(ErrorKind::BrokenPipe).unwrap().is_none());
        assert!(left(ErrorKind::Other).is_err());
    }
}
