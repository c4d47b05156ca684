//! `skerry object ls`, `stat`, `cat`, `rm`.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use object_client::transfer::Transfer;
use object_client::{ListPage, ListRequest, ObjectInfo, S3Client};
use serde_json::{Value, json};

use super::endpoint::EndpointArguments;
use super::place::{Remote, shown};
use super::{Output, copy, print};

/// Requests at a time for one object.
const CONCURRENCY: usize = 4;
/// What endpoints give in one page at most.
const PAGE_MAX: u64 = 1000;

pub const LIST_EXAMPLES: &str = "\
Examples:
  skerry object ls pictures                   what is on the first level of a bucket
  skerry object ls pictures/2026/             what is below a prefix
  skerry object ls pictures --recursive --limit 100 --output json";

pub const STAT_EXAMPLES: &str = "\
Examples:
  skerry object stat pictures/2026/photo.jpg
  skerry object stat s3://pictures/2026/photo.jpg --output json";

pub const CAT_EXAMPLES: &str = "\
Examples:
  skerry object cat backups/shop.sql               show an object
  skerry object cat backups/shop.sql > shop.sql    or put it where the shell says";

pub const REMOVE_EXAMPLES: &str = "\
Examples:
  skerry object rm pictures/2026/photo.jpg    remove one object
  skerry object rm pictures/2026 -r           remove everything below pictures/2026/";

#[derive(Debug, Args)]
pub struct ListArguments {
    /// BUCKET or BUCKET/PREFIX
    #[arg(value_name = "BUCKET[/PREFIX]")]
    path: Remote,
    /// List every object, not one level
    #[arg(long, short)]
    recursive: bool,
    /// Stop after so many lines
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    service: EndpointArguments,
}

#[derive(Debug, Args)]
pub struct OneArguments {
    /// BUCKET/KEY
    #[arg(value_name = "BUCKET/KEY")]
    path: Remote,
    #[command(flatten)]
    service: EndpointArguments,
}

#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// BUCKET/KEY, several times if wanted
    #[arg(value_name = "BUCKET/KEY", required = true)]
    paths: Vec<Remote>,
    /// Remove everything below BUCKET/KEY/
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    service: EndpointArguments,
}

pub async fn ls(arguments: ListArguments) -> Result<ExitCode> {
    let client = arguments.service.client()?;
    let mut sink: Box<dyn Sink> = match arguments.service.output() {
        Output::Text => Box::new(Lines),
        Output::Json => Box::new(Collected::default()),
    };
    let listed = list(&client, &arguments, &mut *sink).await;
    let whole = listed.with_context(|| format!("can't list {}", arguments.path))?;
    match sink.end(&arguments.path, whole) {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// Gives pages to the sink; whether nothing was left out.
async fn list(client: &S3Client, arguments: &ListArguments, sink: &mut dyn Sink) -> Result<bool> {
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut token: Option<String> = None;
    while left > 0 {
        let max = left.min(PAGE_MAX);
        let request = ListRequest {
            prefix: &arguments.path.key,
            delimiter: if arguments.recursive { "" } else { "/" },
            token: token.as_deref(),
            max: u32::try_from(max).ok(),
            ..ListRequest::default()
        };
        let page = client.list(&arguments.path.bucket, request).await?;
        left = left.saturating_sub((page.objects.len() + page.prefixes.len()) as u64);
        match sink.page(&page) {
            // Whoever reads it has enough.
            Err(error) if is_broken_pipe(&error) => return Ok(true),
            done => done?,
        }
        match page.next {
            Some(next) => token = Some(next),
            None => return Ok(true),
        }
    }
    Ok(false)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Where a listing goes.
trait Sink {
    fn page(&mut self, page: &ListPage) -> Result<()>;
    fn end(&mut self, path: &Remote, whole: bool) -> Result<()>;
}

/// One line for each prefix and object, as they come.
struct Lines;

impl Sink for Lines {
    fn page(&mut self, page: &ListPage) -> Result<()> {
        let mut out = io::stdout().lock();
        for prefix in &page.prefixes {
            writeln!(out, "{:>12}  {:24}  {}", "", "", shown(prefix))?;
        }
        for object in &page.objects {
            writeln!(out, "{}", row(object))?;
        }
        Ok(())
    }

    fn end(&mut self, _: &Remote, whole: bool) -> Result<()> {
        if !whole {
            print::note("there is more: raise --limit");
        }
        Ok(())
    }
}

fn row(object: &ObjectInfo) -> String {
    let (size, time) = (print::bytes(object.size), &object.last_modified);
    format!("{size:>12}  {time:24}  {}", shown(&object.key))
}

/// One JSON value at the end.
#[derive(Default)]
struct Collected {
    prefixes: Vec<String>,
    objects: Vec<Value>,
}

impl Sink for Collected {
    fn page(&mut self, page: &ListPage) -> Result<()> {
        self.prefixes.extend_from_slice(&page.prefixes);
        self.objects.extend(page.objects.iter().map(|object| {
            json!({
                "key": object.key,
                "size": object.size,
                "etag": object.etag.trim_matches('"'),
                "last_modified": object.last_modified,
            })
        }));
        Ok(())
    }

    fn end(&mut self, path: &Remote, whole: bool) -> Result<()> {
        print::json(&json!({
            "bucket": path.bucket,
            "prefix": path.key,
            "truncated": !whole,
            "prefixes": self.prefixes,
            "objects": self.objects,
        }))
    }
}

pub async fn stat(arguments: OneArguments) -> Result<ExitCode> {
    let path = named(&arguments.path)?;
    let client = arguments.service.client()?;
    let head = client.head(&path.bucket, &path.key).await;
    let head = head.with_context(|| path.to_string())?;
    let metadata: serde_json::Map<String, Value> = head
        .metadata
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let value = json!({
        "bucket": path.bucket,
        "key": path.key,
        "size": head.size,
        "etag": head.etag.trim_matches('"'),
        "content_type": head.content_type,
        "last_modified": head.last_modified,
        "metadata": metadata,
    });
    print::either(arguments.service.output(), &value, || {
        let mut text = format!(
            "object    {path}\nsize      {} ({} bytes)\netag      {}\ntype      {}\nmodified  {}",
            print::bytes(head.size),
            head.size,
            head.etag.trim_matches('"'),
            shown(&head.content_type),
            shown(&head.last_modified),
        );
        for (name, value) in &head.metadata {
            text += &format!("\nmetadata  {}={}", shown(name), shown(value));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

pub async fn cat(arguments: OneArguments) -> Result<ExitCode> {
    let path = named(&arguments.path)?;
    ensure!(
        arguments.service.output() == Output::Text,
        "the object goes to standard output, so --output json has no place there"
    );
    let client = arguments.service.client()?;
    let transfer = Transfer::new(client, &path.bucket, CONCURRENCY, Arc::new(()));
    copy::onto_stdout(&transfer, path).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn rm(arguments: RemoveArguments) -> Result<ExitCode> {
    let client = arguments.service.client()?;
    let mut removed = 0;
    for path in &arguments.paths {
        let done = remove(&client, path, arguments.recursive).await;
        removed += done.with_context(|| format!("can't remove {path}"))?;
    }
    match arguments.service.output() {
        Output::Json => {
            let value = json!({ "removed": removed });
            print::json(&value)?;
        }
        Output::Text => print::note(format!("removed {removed} object(s)")),
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &S3Client, path: &Remote, recursive: bool) -> Result<u64> {
    if recursive {
        let folder = path.folder();
        return Ok(client.delete_all(&path.bucket, &folder, |_| {}).await?);
    }
    let path = named(path)?;
    client.delete(&path.bucket, &path.key).await?;
    Ok(1)
}

/// The path, when it names an object.
pub fn named(path: &Remote) -> Result<&Remote> {
    if path.key.is_empty() {
        bail!("{} is a bucket: name an object as BUCKET/KEY", path.bucket);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_and_harmless() {
        let object = ObjectInfo {
            key: "a\u{7}b".to_owned(),
            size: 4096,
            etag: "\"e\"".to_owned(),
            last_modified: "2026-01-02T03:04:05.000Z".to_owned(),
        };
        assert_eq!(
            row(&object),
            "    4.00 KiB  2026-01-02T03:04:05.000Z  a\\u{7}b"
        );
    }

    #[test]
    fn buckets_are_no_objects() {
        let path: Remote = "b".parse().unwrap();
        assert!(named(&path).unwrap_err().to_string().contains("BUCKET/KEY"));
        assert!(named(&"b/k".parse().unwrap()).is_ok());
    }
}
