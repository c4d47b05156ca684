//! `skerry bucket`: make, list and remove buckets.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use object_client::{Error, S3Client};
use serde_json::json;

use super::endpoint::EndpointArguments;
use super::print;

const MAKE_EXAMPLES: &str = "\
Examples:
  skerry bucket mb pictures
  skerry bucket mb s3://pictures --endpoint https://s3.example.com    elsewhere";

const LIST_EXAMPLES: &str = "\
Examples:
  skerry bucket ls
  skerry bucket ls --output json";

const REMOVE_EXAMPLES: &str = "\
Examples:
  skerry bucket rm old            remove an empty bucket
  skerry bucket rm old --force    remove a bucket, its objects, and its unfinished uploads";

#[derive(Debug, Subcommand)]
pub enum BucketCommand {
    /// Make a bucket
    #[command(after_help = MAKE_EXAMPLES)]
    Mb {
        /// 3 to 63 of a-z, 0-9, `-`, `.`
        #[arg(value_parser = name)]
        bucket: String,
        #[command(flatten)]
        service: EndpointArguments,
    },
    /// List the buckets
    #[command(after_help = LIST_EXAMPLES)]
    Ls(EndpointArguments),
    /// Remove an empty bucket
    #[command(after_help = REMOVE_EXAMPLES)]
    Rm {
        /// The bucket
        #[arg(value_parser = name)]
        bucket: String,
        /// Remove all its objects and unfinished uploads first
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        service: EndpointArguments,
    },
}

pub async fn run(command: BucketCommand) -> Result<ExitCode> {
    match command {
        BucketCommand::Mb { bucket, service } => make(&bucket, &service).await,
        BucketCommand::Ls(service) => ls(&service).await,
        BucketCommand::Rm {
            bucket,
            force,
            service,
        } => rm(&bucket, force, &service).await,
    }
}

/// A bucket's name, with or without `s3://`. The service judges the rest.
fn name(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("s3://").unwrap_or(text);
    let name = name.strip_suffix('/').unwrap_or(name);
    match name.is_empty() || name.contains(['/', ':']) {
        true => Err("a bucket has a name without `/` and `:`".to_owned()),
        false => Ok(name.to_owned()),
    }
}

async fn make(bucket: &str, service: &EndpointArguments) -> Result<ExitCode> {
    let made = service.client()?.create_bucket(bucket).await;
    made.with_context(|| format!("can't make the bucket {bucket}"))?;
    done(service, "made", bucket, 0)
}

async fn ls(service: &EndpointArguments) -> Result<ExitCode> {
    let buckets = service.client()?.list_buckets().await;
    let buckets = buckets.context("can't list the buckets")?;
    let value = buckets
        .iter()
        .map(|bucket| json!({ "name": bucket.name, "created": bucket.created }));
    let value = json!({ "buckets": value.collect::<Vec<_>>() });
    print::either(service.output(), &value, || {
        let rows = buckets
            .iter()
            .map(|bucket| vec![bucket.name.clone(), bucket.created.clone()]);
        print::table(&["name", "created"], rows.collect())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn rm(bucket: &str, force: bool, service: &EndpointArguments) -> Result<ExitCode> {
    let client = service.client()?;
    let emptied = match force {
        true => empty(&client, bucket).await,
        false => Ok(0),
    };
    let emptied = emptied.with_context(|| format!("can't empty the bucket {bucket}"))?;
    let removed = client.delete_bucket(bucket).await;
    removed.with_context(|| match force {
        true => format!("can't remove the bucket {bucket}"),
        false => format!("can't remove the bucket {bucket} (--force removes a full one)"),
    })?;
    done(service, "removed", bucket, emptied)
}

async fn empty(client: &S3Client, bucket: &str) -> Result<u64, Error> {
    client.abort_all(bucket, "").await?;
    client.delete_all(bucket, "", |_| {}).await
}

fn done(service: &EndpointArguments, verb: &str, bucket: &str, objects: u64) -> Result<ExitCode> {
    let value = json!({ "bucket": bucket, "action": verb, "objects_removed": objects });
    match service.output() {
        super::Output::Json => print::json(&value)?,
        super::Output::Text if objects > 0 => {
            print::note(format!("{verb} {bucket} with {objects} object(s)"));
        }
        super::Output::Text => print::note(format!("{verb} {bucket}")),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(name("shop"), Ok("shop".to_owned()));
        assert_eq!(name("s3://shop/"), Ok("shop".to_owned()));
        for bad in ["", "/", "a/b", "http://a"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
