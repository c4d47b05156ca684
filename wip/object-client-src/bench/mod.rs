//! The load generator: closed loops of workers that send, verify and time requests.
//!
//! Invariants:
//! - one worker has one request on the way; nothing is sent twice, so every failure is counted;
//! - only operations that begin after the warm-up and end before the deadline count;
//! - bodies are slices of one buffer: an operation copies no body.
//!
//! It keeps to its own prefix (and its own bucket, unless one is given) and removes what it made at the end, also
//! after a failure. A run whose future is dropped leaves its objects behind.

mod load;
mod report;
mod stats;

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

pub use report::{OperationReport, REPORT_VERSION, Report};

use crate::{Endpoint, Error, ListRequest, Result, S3Client};
use load::{Shared, Worker};
use stats::Stats;

/// What the workers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Store new objects.
    Put,
    /// Read prepared objects.
    Get,
    /// Ask for the head of prepared objects.
    Stat,
    /// List pages of prepared objects.
    List,
    /// Delete prepared objects; ends early when all are gone.
    Delete,
    /// Store new objects in parts.
    Multipart,
    /// GET 45, STAT 30, PUT 15, DELETE 10 of a hundred.
    Mixed,
}

impl Mode {
    /// All modes with their names.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Put, "put"),
        (Self::Get, "get"),
        (Self::Stat, "stat"),
        (Self::List, "list"),
        (Self::Delete, "delete"),
        (Self::Multipart, "multipart"),
        (Self::Mixed, "mixed"),
    ];

    /// The name of the mode.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| *name)
    }

    fn needs_objects(self) -> bool {
        !matches!(self, Self::Put | Self::Multipart)
    }
}

impl std::str::FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text).map(|(mode, _)| *mode);
        found.ok_or_else(|| Error::Options(format!("there is no mode {text:?}")))
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The nodes to send to, in turn.
    pub endpoints: Vec<Endpoint>,
    /// What to do.
    pub mode: Mode,
    /// Bytes per object (per upload in `multipart`).
    pub object_size: usize,
    /// Bytes per part in `multipart`.
    pub part_size: usize,
    /// Workers.
    pub concurrency: usize,
    /// The measured time.
    pub duration: Duration,
    /// Load before the measured time.
    pub warm_up: Duration,
    /// Objects to prepare.
    pub objects: usize,
    /// A bucket that exists; without one, the run makes its own.
    pub bucket: Option<String>,
    /// Compare every n-th body of a GET; 0 compares none (lengths are always checked).
    pub verify_every: u64,
}

impl Options {
    fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Options(reason.to_owned()));
        if self.endpoints.is_empty() {
            return refuse("give at least one endpoint");
        }
        if !(1..=65_536).contains(&self.concurrency) {
            return refuse("the concurrency must be between 1 and 65536");
        }
        if !(1..=1_000_000).contains(&self.objects) {
            return refuse("the number of objects must be between 1 and 1000000");
        }
        if self.duration.is_zero() || self.duration > Duration::from_secs(86_400) {
            return refuse("the duration must be above 0 and at most a day");
        }
        if self.mode == Mode::Multipart && (self.part_size == 0 || self.object_size == 0) {
            return refuse("multipart needs an object size and a part size above 0");
        }
        if self.mode == Mode::Multipart && self.object_size.div_ceil(self.part_size) > 10_000 {
            return refuse("more than 10000 parts: choose larger parts");
        }
        Ok(())
    }
}

/// Prepares, loads, cleans up, reports.
///
/// # Errors
/// When the options make no sense, or preparing or cleaning up fails. Failures under load are in the report.
pub async fn run(options: Options) -> Result<Report> {
    options.check()?;
    let client = S3Client::new(options.endpoints[0].clone())?;
    let name = format!("bench-{:012x}", rand::random::<u64>() >> 16);
    let bucket = options.bucket.clone().unwrap_or_else(|| name.clone());
    if options.bucket.is_none() {
        client.create_bucket(&bucket).await?;
    }
    let shared = Shared::new(options.clone(), bucket.clone(), format!("{name}/"));
    let measured = measure(&client, shared).await;
    let cleaned = clean_up(&client, &bucket, &format!("{name}/"), options.bucket.is_none()).await;
    let (stats, seconds) = measured?;
    cleaned?;
    Ok(stats.report(&options, seconds))
}

async fn measure(client: &S3Client, shared: Shared) -> Result<(Stats, f64)> {
    if shared.options.mode.needs_objects() {
        prepare(client, &shared).await?;
    }
    let shared = std::sync::Arc::new(shared.presigned()?.started());
    let mut workers = JoinSet::new();
    for index in 0..shared.options.concurrency {
        workers.spawn(Worker::new(std::sync::Arc::clone(&shared), index)?.run());
    }
    let mut sum = Stats::default();
    while let Some(stats) = workers.join_next().await {
        sum.merge(stats.map_err(|error| Error::Options(format!("a worker ended: {error}")))?);
    }
    Ok((sum, shared.measured_seconds()))
}

async fn prepare(client: &S3Client, shared: &Shared) -> Result<()> {
    stream::iter(0..shared.options.objects)
        .map(|index| async move {
            let (key, body) = (shared.prepared_key(index), shared.body(index));
            client.put(&shared.bucket, &key, body, None).await
        })
        .buffer_unordered(shared.options.concurrency.min(64))
        .try_for_each(|_| async { Ok(()) })
        .await
}

async fn clean_up(client: &S3Client, bucket: &str, prefix: &str, own: bool) -> Result<()> {
    for upload in client.list_uploads(bucket, prefix).await? {
        client.abort_multipart(bucket, &upload.key, &upload.upload_id).await?;
    }
    loop {
        let request = ListRequest { prefix, ..Default::default() };
        let page = client.list(bucket, request).await?;
        if page.objects.is_empty() {
            break;
        }
        let keys: Vec<_> = page.objects.into_iter().map(|object| object.key).collect();
        if let Some(failure) = client.delete_many(bucket, &keys).await?.into_iter().next() {
            let (code, message) = (failure.code, failure.message);
            return Err(Error::S3 { status: 200, code, message });
        }
    }
    if own { client.delete_bucket(bucket).await } else { Ok(()) }
}
