//! Background work of the object pillar: idempotent reconcilers, each with a name, a period and a status.
//!
//! | job | where | does |
//! | --- | --- | --- |
//! | [`give_up`] | where the group is led | dooms pending segments whose writers are gone |
//! | [`collect`] | where the group is led | removes the blocks of doomed segments everywhere, then forgets them |
//! | [`finish_deletions`] | where the group of the bucket's first slot is led | goes on with deletions of buckets that broke off |
//! | [`repair`] | where the group is led | tells the group of new epochs; makes copies that writes left as debt, and those that a larger site wants |
//! | [`sweep`] | every server | removes own blocks whose group does not know their segment |
//! | [`index`] | every server | writes the block index to disk |
//!
//! A job takes no input: it asks what there is to do, does it, and may be stopped and started anywhere. Two nodes that
//! run the same job for one group at one time do no harm, only double work.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::future::join_all;
use ids::{Epoch, GroupId, NodeId};
use object_core::api::ObjectError;
use object_core::meta::{Answer, Query};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::gateway::{Context, Gateway, ask};
use crate::placement::LocalLeadership;

pub mod collect;
pub mod finish_deletions;
pub mod give_up;
pub mod index;
mod pace;
pub mod repair;
pub mod sweep;

/// Periods and bounds of the jobs.
#[derive(Debug, Clone)]
pub struct JobOptions {
    /// How often pending and doomed segments are looked at.
    pub collect_every: Duration,
    /// How long a doomed segment is kept for readers that began before.
    pub collect_grace: Duration,
    /// After how long a pending segment is given up.
    pub give_up_after: Duration,
    /// How often buckets that are being deleted are looked at.
    pub deletions_every: Duration,
    /// After how long a deletion of a bucket is taken for broken off.
    pub deletions_after: Duration,
    /// How often debt is looked for.
    pub repair_every: Duration,
    /// Bytes per second that repair writes at most.
    pub repair_bytes_per_s: u64,
    /// How often a server looks for orphans.
    pub sweep_every: Duration,
    /// How old a block must be to be taken for an orphan.
    pub sweep_after: Duration,
}

impl Default for JobOptions {
    fn default() -> Self {
        JobOptions {
            collect_every: Duration::from_secs(10),
            collect_grace: Duration::from_secs(60),
            give_up_after: Duration::from_secs(24 * 3600),
            deletions_every: Duration::from_secs(2),
            deletions_after: Duration::from_secs(10),
            repair_every: Duration::from_secs(5),
            repair_bytes_per_s: 64 << 20,
            sweep_every: Duration::from_secs(3600),
            sweep_after: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a job is doing, for status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// Whether it runs now.
    pub running: bool,
    /// How often it ran.
    pub runs: u64,
    /// When the last run began, by this node's clock.
    pub last_started_ms: Option<u64>,
    /// How long the last run took.
    pub last_took_ms: Option<u64>,
    /// What the last run did.
    pub last: JobProgress,
    /// Why the last run ended early, if it did.
    pub last_error: Option<String>,
    /// Things done since the start.
    pub done_total: u64,
}

/// What one run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Things done: segments given up or collected, deletions ended, copies made, orphans removed.
    pub done: u64,
    /// Things that are known to be left to do.
    pub left: u64,
    /// Bytes written or given back.
    pub bytes: u64,
}

/// A reconciler.
#[async_trait]
pub trait Job: Send + Sync {
    /// Its name in status and logs.
    fn name(&self) -> &'static str;

    /// The pause between runs.
    fn every(&self) -> Duration;

    /// Waits for a reason to run before the pause is over.
    async fn woken(&self) {
        std::future::pending().await
    }

    /// Does what there is to do, counting it in `progress`, so that a run that fails still shows what it did.
    async fn run(&self, progress: &mut JobProgress) -> Result<(), ObjectError>;
}

/// The jobs of a node.
pub struct Jobs {
    context: Arc<Context>,
    led: Led,
    jobs: Vec<(Box<dyn Job>, Mutex<JobStatus>)>,
}

impl Jobs {
    /// The jobs beside a gateway.
    pub fn new(
        gateway: &Gateway,
        leadership: Arc<dyn LocalLeadership>,
        options: &JobOptions,
    ) -> Self {
        let context = gateway.context();
        let led = Led {
            context: context.clone(),
            leadership,
        };
        let jobs: Vec<Box<dyn Job>> = vec![
            Box::new(give_up::GiveUp::new(led.clone(), options)),
            Box::new(collect::Collect::new(led.clone(), options)),
            Box::new(finish_deletions::FinishDeletions::new(led.clone(), options)),
            Box::new(repair::Repair::new(led.clone(), options)),
            Box::new(sweep::Sweep::new(context.clone(), options)),
            Box::new(index::WriteIndex::new(context.peers.store().clone())),
        ];
        let status = |job: &dyn Job| JobStatus {
            name: job.name().to_owned(),
            ..JobStatus::default()
        };
        let jobs = jobs.into_iter().map(|job| {
            let status = Mutex::new(status(&*job));
            (job, status)
        });
        Jobs {
            context,
            led,
            jobs: jobs.collect(),
        }
    }

    /// Runs all jobs, each at its own pace; never returns. Drop the future to stop.
    pub fn run(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let each = self.jobs.iter().map(|(job, status)| async move {
                loop {
                    self.run_job(&**job, status).await;
                    tokio::select! {
                        biased;
                        () = job.woken() => {}
                        () = tokio::time::sleep(job.every()) => {}
                    }
                }
            });
            join_all(each).await;
        })
    }

    /// Runs one job once, now; its status afterwards. `None`: there is no such job.
    pub fn run_once<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<JobStatus>> {
        Box::pin(async move {
            let (job, status) = self.jobs.iter().find(|(job, _)| job.name() == name)?;
            self.run_job(&**job, status).await;
            Some(read(status))
        })
    }

    /// What the jobs are doing.
    pub fn status(&self) -> Vec<JobStatus> {
        self.jobs.iter().map(|(_, status)| read(status)).collect()
    }

    /// How many blocks lack copies now, in the groups that are led here: those that writes left as debt, and those that
    /// have all copies of an epoch that had fewer than the site wants now. Wakes no group.
    pub fn debt(&self) -> BoxFuture<'_, Result<u64, ObjectError>> {
        Box::pin(async move {
            let thin = self.led.thin_epochs();
            let mut debt = 0;
            for group in self.led.groups() {
                match self.context.meta.look(group, &Query::Stats).await? {
                    Answer::Stats(stats) => debt += stats.debt,
                    _ => return ask::misfit(),
                }
                debt += self.blocks_of(group, &thin).await?;
            }
            Ok(debt)
        })
    }

    /// Blocks of these epochs that are not counted as debt, in a group.
    async fn blocks_of(&self, group: GroupId, epochs: &[Epoch]) -> Result<u64, ObjectError> {
        if epochs.is_empty() {
            return Ok(0);
        }
        match self.context.meta.look(group, &Query::Epochs).await? {
            Answer::Epochs { whole, .. } => {
                let wanted = whole.iter().filter(|(epoch, _)| epochs.contains(epoch));
                Ok(wanted.map(|(_, blocks)| *blocks).sum())
            }
            _ => ask::misfit(),
        }
    }

    async fn run_job(&self, job: &dyn Job, status: &Mutex<JobStatus>) {
        let began = Instant::now();
        change(status, |status| {
            status.running = true;
            status.last_started_ms = Some(self.context.now_ms());
        });
        let mut progress = JobProgress::default();
        let result = job.run(&mut progress).await;
        if let Err(error) = &result {
            tracing::warn!(job = job.name(), %error, "a background job will try again");
        }
        change(status, |status| {
            status.running = false;
            status.runs += 1;
            status.last_took_ms = Some(began.elapsed().as_millis() as u64);
            status.last = progress;
            status.last_error = result.err().map(|error| error.to_string());
            status.done_total += progress.done;
        });
    }
}

fn read(status: &Mutex<JobStatus>) -> JobStatus {
    status
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn change(status: &Mutex<JobStatus>, change: impl FnOnce(&mut JobStatus)) {
    change(&mut status.lock().unwrap_or_else(PoisonError::into_inner));
}

/// The groups that this node works for.
#[derive(Clone)]
pub(crate) struct Led {
    pub context: Arc<Context>,
    pub leadership: Arc<dyn LocalLeadership>,
}

impl Led {
    /// The groups that are led here.
    pub fn groups(&self) -> Vec<GroupId> {
        let mut groups = self.leadership.groups();
        groups.retain(|group| self.leadership.leads(*group));
        groups.sort_unstable();
        groups
    }

    /// The site's servers.
    pub fn servers(&self) -> Vec<NodeId> {
        self.context
            .placement
            .current()
            .servers()
            .iter()
            .map(|server| server.node)
            .collect()
    }

    /// Epochs with fewer copies than the site wants now.
    pub fn thin_epochs(&self) -> Vec<Epoch> {
        let placement = &self.context.placement;
        let wanted = placement.current().copies();
        let thin = |epoch: &Epoch| {
            placement
                .at(*epoch)
                .is_some_and(|map| map.copies() < wanted)
        };
        placement.epochs().into_iter().filter(thin).collect()
    }
}
