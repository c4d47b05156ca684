//! The one writer of the node's database: applies committed entries of all groups, many groups in one commit.
//!
//! While a commit runs, the next jobs gather. A checkpoint is asked for by time, by bytes applied, or by name; it is the
//! only place where the database is synced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use raft_machine::StoreError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::database::Database;
use crate::failure::Failure;
use crate::host::{Applied, GroupHost};
use crate::types::Entry;

/// Jobs that may wait; a group has at most one or two under way.
const JOBS_MAX: usize = 4096;
const ENTRIES_PER_COMMIT: usize = 1024;
/// Apply this much and a checkpoint is due, so that a restart has a bounded piece of log to apply again.
const BYTES_PER_CHECKPOINT: u64 = 32 << 20;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Job {
    Apply {
        host: Arc<GroupHost>,
        entries: Vec<Entry>,
        reply: Reply<Vec<Bytes>>,
    },
    Install {
        host: Arc<GroupHost>,
        applied: Applied,
        reply: Reply<()>,
    },
    /// Rows of a snapshot that is being received.
    Fill {
        host: Arc<GroupHost>,
        generation: u32,
        rows: Vec<(Bytes, Bytes)>,
        reply: Reply<()>,
    },
    /// Removes some keys of generations that are not in force (`all`: of every generation); says whether that was all.
    RemoveStale {
        host: Arc<GroupHost>,
        reply: Reply<bool>,
    },
    Checkpoint {
        reply: Reply<()>,
    },
}

/// The way to the writer; see the module.
#[derive(Clone)]
pub(crate) struct Applier {
    jobs: mpsc::Sender<Job>,
    checkpoints: Arc<AtomicU64>,
}

impl Applier {
    /// Starts the writer; it ends when all handles are gone, after a last checkpoint. `on_checkpoint` runs after each.
    pub fn start(
        platform: Arc<dyn Platform>,
        database: Arc<Database>,
        on_checkpoint: Arc<dyn Fn() + Send + Sync>,
        failure: Failure,
    ) -> (Self, JoinHandle<()>) {
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        let checkpoints = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            platform,
            database,
            on_checkpoint,
            failure,
            hosts: Vec::new(),
            dirty_bytes: 0,
            checkpointed: Instant::now(),
            checkpoints: checkpoints.clone(),
        };
        (
            Applier { jobs, checkpoints },
            tokio::spawn(writer.run(queue)),
        )
    }

    /// How many checkpoints there were.
    pub fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let stopped = || StoreError::Io("the state database was closed".into());
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Applies entries; the responses are visible to reads when this returns.
    pub async fn apply(
        &self,
        host: Arc<GroupHost>,
        entries: Vec<Entry>,
    ) -> Result<Vec<Bytes>, StoreError> {
        self.ask(|reply| Job::Apply {
            host,
            entries,
            reply,
        })
        .await
    }

    /// Puts a filled generation into force, durably.
    pub async fn install(&self, host: Arc<GroupHost>, applied: Applied) -> Result<(), StoreError> {
        self.ask(|reply| Job::Install {
            host,
            applied,
            reply,
        })
        .await
    }

    /// Adds rows to a generation that is not in force yet.
    pub async fn fill(
        &self,
        host: Arc<GroupHost>,
        generation: u32,
        rows: Vec<(Bytes, Bytes)>,
    ) -> Result<(), StoreError> {
        self.ask(|reply| Job::Fill {
            host,
            generation,
            rows,
            reply,
        })
        .await
    }

    /// Removes generations that are not in force.
    pub async fn remove_stale(&self, host: Arc<GroupHost>) -> Result<(), StoreError> {
        // Step by step, so that other groups' jobs get between.
        while !self
            .ask(|reply| Job::RemoveStale {
                host: host.clone(),
                reply,
            })
            .await?
        {}
        Ok(())
    }

    /// Makes everything applied so far durable.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        self.ask(|reply| Job::Checkpoint { reply }).await
    }
}

struct Writer {
    platform: Arc<dyn Platform>,
    database: Arc<Database>,
    on_checkpoint: Arc<dyn Fn() + Send + Sync>,
    /// Told when the database fails.
    failure: Failure,
    /// Hosts with commits that no checkpoint covers.
    hosts: Vec<Arc<GroupHost>>,
    dirty_bytes: u64,
    checkpointed: Instant,
    checkpoints: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        loop {
            let due = self.checkpointed + CHECKPOINT_EVERY;
            let first = tokio::select! {
                biased;
                job = queue.recv() => job,
                () = tokio::time::sleep_until(due), if !self.hosts.is_empty() => {
                    self.checkpoint_and_report().await;
                    continue;
                }
            };
            let Some(first) = first else { break };
            let mut applies = Vec::new();
            let mut other = self.sort(first, &mut applies);
            let mut entries: usize = applies.iter().map(|(_, entries, _)| entries.len()).sum();
            while other.is_none() && entries < ENTRIES_PER_COMMIT {
                let Ok(job) = queue.try_recv() else { break };
                other = self.sort(job, &mut applies);
                entries = applies.iter().map(|(_, entries, _)| entries.len()).sum();
            }
            self.apply(applies).await;
            if let Some(job) = other {
                self.other(job).await;
            }
            let due = !self.hosts.is_empty() && Instant::now() >= due;
            if due || self.dirty_bytes >= BYTES_PER_CHECKPOINT {
                self.checkpoint_and_report().await;
            }
        }
        self.checkpoint_and_report().await;
    }

    fn sort(&self, job: Job, applies: &mut Vec<ApplyJob>) -> Option<Job> {
        match job {
            Job::Apply {
                host,
                entries,
                reply,
            } => {
                applies.push((host, entries, reply));
                None
            }
            other => Some(other),
        }
    }

    async fn apply(&mut self, jobs: Vec<ApplyJob>) {
        if jobs.is_empty() {
            return;
        }
        let database = self.database.clone();
        let (jobs, result) = self
            .platform
            .blocking(move || {
                let result = database.write(|writing| {
                    jobs.iter()
                        .map(|(host, entries, _)| host.apply(writing, entries))
                        .collect::<Result<Vec<_>, _>>()
                });
                (jobs, result)
            })
            .await;
        match result {
            Err(error) => self.failed(jobs, &error).await,
            Ok(responses) => {
                for ((host, entries, reply), responses) in jobs.into_iter().zip(responses) {
                    host.publish();
                    self.dirty_bytes += entries.iter().map(entry_bytes).sum::<u64>();
                    if let Some(last) = entries.last() {
                        host.machine.applied(last.log_id.index);
                    }
                    self.mark(host);
                    let _ = reply.send(Ok(responses));
                }
            }
        }
    }

    /// A database that fails once is not to be trusted any more.
    fn notice(&self, error: &StoreError) {
        if let StoreError::Io(_) = error {
            self.failure.set(|| error.to_string());
        }
    }

    /// Nothing of these jobs is committed. One group's bad entry must not stop the others: each goes alone.
    async fn failed(&mut self, jobs: Vec<ApplyJob>, error: &StoreError) {
        self.notice(error);
        for job in &jobs {
            if let Err(error) = job.0.reload(&self.database) {
                tracing::error!(group = %job.0.group, %error, "the group's state can't be read back");
            }
        }
        if jobs.len() == 1 {
            for (_, _, reply) in jobs {
                let _ = reply.send(Err(error.clone()));
            }
            return;
        }
        for job in jobs {
            Box::pin(self.apply(vec![job])).await;
        }
    }

    fn mark(&mut self, host: Arc<GroupHost>) {
        if !self.hosts.iter().any(|known| Arc::ptr_eq(known, &host)) {
            if self.hosts.is_empty() {
                self.checkpointed = Instant::now();
            }
            self.hosts.push(host);
        }
    }

    async fn other(&mut self, job: Job) {
        match job {
            Job::Apply { .. } => unreachable!("applies are sorted out before"),
            Job::Checkpoint { reply } => {
                let result = self.checkpoint().await;
                let _ = reply.send(result.inspect_err(|error| self.notice(error)));
            }
            Job::Fill {
                host,
                generation,
                rows,
                reply,
            } => {
                let database = self.database.clone();
                let group = host.group;
                let result = self
                    .platform
                    .blocking(move || {
                        database.write(|writing| {
                            use raft_machine::Batch;
                            let mut batch = writing.batch(group, generation);
                            rows.iter()
                                .try_for_each(|(key, value)| batch.put(key, value))
                        })
                    })
                    .await;
                let _ = reply.send(result.inspect_err(|error| self.notice(error)));
            }
            Job::Install {
                host,
                applied,
                reply,
            } => {
                let result = self.install(&host, applied).await;
                let _ = reply.send(result.inspect_err(|error| self.notice(error)));
            }
            Job::RemoveStale { host, reply } => {
                let result = self.remove_stale(&host).await;
                let _ = reply.send(result.inspect_err(|error| self.notice(error)));
            }
        }
    }

    async fn install(&mut self, host: &Arc<GroupHost>, applied: Applied) -> Result<(), StoreError> {
        let (database, copy) = (self.database.clone(), host.clone());
        let index = applied.log_id.as_ref().map_or(0, |id| id.index);
        self.platform
            .blocking(move || {
                database.write_durably(|writing| copy.install(writing, &applied))?;
                copy.installed(&database)
            })
            .await?;
        host.set_durable(host.applied_next());
        host.machine.applied(index);
        Ok(())
    }

    async fn remove_stale(&mut self, host: &GroupHost) -> Result<bool, StoreError> {
        let (database, group) = (self.database.clone(), host.group);
        let keep = host.applied().generation;
        self.platform
            .blocking(move || database.write(|writing| writing.remove_stale(group, keep)))
            .await
    }

    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        let nexts: Vec<u64> = self.hosts.iter().map(|host| host.applied_next()).collect();
        let database = self.database.clone();
        self.platform
            .blocking(move || database.checkpoint())
            .await?;
        for (host, next) in self.hosts.drain(..).zip(nexts) {
            host.set_durable(next);
        }
        self.dirty_bytes = 0;
        self.checkpointed = Instant::now();
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
        (self.on_checkpoint)();
        Ok(())
    }

    async fn checkpoint_and_report(&mut self) {
        if let Err(error) = self.checkpoint().await {
            self.notice(&error);
            tracing::error!(%error, "a checkpoint of the state database failed; the log keeps what it covers");
            self.checkpointed = Instant::now();
        }
    }
}

type ApplyJob = (Arc<GroupHost>, Vec<Entry>, Reply<Vec<Bytes>>);

fn entry_bytes(entry: &Entry) -> u64 {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.0.len() as u64,
        _ => 64,
    }
}
