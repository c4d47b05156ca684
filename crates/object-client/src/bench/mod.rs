//! The load generator: closed loops of workers that send, verify and time requests.
//!
//! Invariants:
//! - one worker has one request on the way; nothing is sent twice, so every failure is counted;
//! - only operations that begin after the warm-up and end before the deadline count;
//! - bodies are slices of one buffer: an operation copies no body.
//!
//! A closed loop sends less when answers are slow, so its latencies are those of clients who wait for each other.
//! A run keeps to its own prefix (and its own bucket, unless one is given) and removes what it made at the end, also
//! after a failure. A run whose future is dropped leaves its objects behind: stop it by `stop` instead.

mod load;
mod plot;
mod report;
mod stats;
mod timeline;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use report::{Moment, OperationReport, REPORT_VERSION, Report};

use crate::{Endpoint, Error, Result, S3Client};
use load::{Shared, Worker};
use stats::Stats;

/// How often the removal of the run's own bucket is tried: requests that were cut off may still be carried out.
const REMOVALS_MAX: u32 = 5;

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
        let found = Self::ALL.iter().find(|(mode, _)| *mode == self);
        found.map_or("", |(_, name)| *name)
    }

    fn needs_objects(self) -> bool {
        !matches!(self, Self::Put | Self::Multipart)
    }
}

impl std::str::FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found
            .map(|(mode, _)| *mode)
            .ok_or_else(|| Error::Options(format!("there is no mode {text:?}")))
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
    /// Load before the measured time; none in `delete`.
    pub warm_up: Duration,
    /// Objects to prepare.
    pub objects: usize,
    /// A bucket that exists; without one, the run makes its own.
    pub bucket: Option<String>,
    /// Compare the bytes of every answer (lengths are always checked).
    pub verify: bool,
}

impl Options {
    fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Options(reason.to_owned()));
        if self.endpoints.is_empty() {
            return refuse("give at least one endpoint");
        }
        if !(1..=4096).contains(&self.concurrency) {
            return refuse("the concurrency must be between 1 and 4096");
        }
        if !(1..=1_000_000).contains(&self.objects) {
            return refuse("the number of objects must be between 1 and 1000000");
        }
        if self.duration.is_zero() || self.duration > Duration::from_secs(86_400) {
            return refuse("the duration must be above 0 and at most a day");
        }
        if self.warm_up > Duration::from_secs(3_600) {
            return refuse("the warm-up must be at most an hour");
        }
        if self.object_size > 1 << 30 {
            return refuse("the size must be at most 1 GiB: all of it is kept in memory");
        }
        if self.mode == Mode::Multipart && (self.part_size == 0 || self.object_size == 0) {
            return refuse("multipart needs a size and a part size above 0");
        }
        if self.mode == Mode::Multipart && self.object_size.div_ceil(self.part_size) > 10_000 {
            return refuse("more than 10000 parts: choose larger parts");
        }
        Ok(())
    }
}

/// Prepares, loads, cleans up, reports. When `stop` ends, the load ends, and so does preparing.
///
/// # Errors
/// When the options make no sense, or preparing or cleaning up fails, or `stop` ended before there was load. Failures
/// under load are in the report.
pub fn run(
    mut options: Options,
    mut stop: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Result<Report>> {
    Box::pin(async move {
        options.check()?;
        if options.mode == Mode::Delete {
            options.warm_up = Duration::ZERO;
        }
        let clients = options.endpoints.iter().cloned().map(S3Client::new);
        let clients = clients.collect::<Result<Vec<_>>>()?;
        let client = clients[0].clone();
        let name = format!("bench-{:012x}", rand::random::<u64>() >> 16);
        let own = options.bucket.is_none();
        let bucket = options.bucket.clone().unwrap_or_else(|| name.clone());
        if own {
            client.create_bucket(&bucket).await?;
        }
        let prefix = format!("{name}/");
        let shared = Shared::new(options, clients, bucket.clone(), prefix.clone());
        let measured = measure(&client, shared, &mut stop).await;
        let cleaned = clean_up(&client, &bucket, &prefix, own).await;
        let report = measured?;
        cleaned?;
        Ok(report)
    })
}

async fn measure(
    client: &S3Client,
    shared: Shared,
    stop: &mut BoxFuture<'static, ()>,
) -> Result<Report> {
    if shared.options.mode.needs_objects() {
        tokio::select! {
            prepared = prepare(client, &shared) => prepared?,
            () = &mut *stop => return Err(Error::Stopped),
        }
    }
    let (stopping, stopped) = watch::channel(false);
    let shared = Arc::new(shared.presigned()?.started());
    let mut workers = JoinSet::new();
    for index in 0..shared.options.concurrency {
        workers.spawn(Worker::new(Arc::clone(&shared), index).run(stopped.clone()));
    }
    let (mut sum, mut was_stopped) = (Stats::default(), false);
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                Some(Ok(stats)) => sum.merge(stats),
                Some(Err(error)) => return Err(Error::Options(format!("a worker ended: {error}"))),
                None => break,
            },
            () = &mut *stop, if !was_stopped => {
                was_stopped = true;
                shared.end();
                let _ = stopping.send(true);
            }
        }
    }
    Ok(report(&shared, sum, was_stopped))
}

fn report(shared: &Shared, stats: Stats, stopped: bool) -> Report {
    let (options, seconds) = (&shared.options, shared.measured_seconds());
    Report {
        output_version: REPORT_VERSION,
        mode: options.mode.name().to_owned(),
        endpoints: options
            .endpoints
            .iter()
            .map(|one| one.url.clone())
            .collect(),
        object_size: options.object_size as u64,
        objects: match options.mode.needs_objects() {
            true => options.objects,
            false => 0,
        },
        concurrency: options.concurrency,
        verified: options.verify,
        stopped,
        seconds,
        operations: stats.reports(seconds),
        timeline: shared.timeline.moments(seconds),
    }
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
    let mut tries = 0;
    loop {
        tries += 1;
        client.abort_all(bucket, prefix).await?;
        client.delete_all(bucket, prefix, |_| {}).await?;
        if !own {
            return Ok(());
        }
        match client.delete_bucket(bucket).await {
            Err(error) if error.status() == Some(409) && tries < REMOVALS_MAX => {}
            done => return done,
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            endpoints: vec![Endpoint {
                url: "http://localhost:1".to_owned(),
                region: "us-east-1".to_owned(),
                access_key: "key".to_owned(),
                secret_key: "secret".to_owned(),
                session_token: None,
                path_style: true,
                ca_file: None,
            }],
            mode: Mode::Multipart,
            object_size: 100,
            part_size: 10,
            concurrency: 1,
            duration: Duration::from_secs(1),
            warm_up: Duration::ZERO,
            objects: 1,
            bucket: None,
            verify: true,
        }
    }

    #[test]
    fn modes_have_names() {
        for (mode, name) in Mode::ALL {
            assert_eq!((mode.name(), name.parse::<Mode>().unwrap()), (name, mode));
        }
        assert!("all".parse::<Mode>().is_err());
    }

    #[test]
    fn senseless_options_are_refused() {
        let refused = |change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            options.check().is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|options| options.endpoints.clear()));
        assert!(refused(|options| options.concurrency = 0));
        assert!(refused(|options| options.objects = 0));
        assert!(refused(|options| options.duration = Duration::ZERO));
        assert!(refused(|options| options.part_size = 0));
        assert!(refused(|options| options.object_size = 100_001));
    }
}
