//! Removes the blocks of doomed segments from every server, then has their group forget them.
//!
//! A server removes whatever it has of a segment, so blocks that no record names (their writer failed) go, too. A segment
//! is forgotten only when all servers of the site confirmed: while one is away, doomed segments wait for it. A server that
//! has left the site is not asked; what it still holds goes by [`super::sweep`] should it ever come back. So does what lies
//! in a volume that a server can't write to any more: it confirms without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use ids::{GroupId, SegmentId};
use object_core::api::{ObjectError, Result};
use object_core::meta::{Answer, Command, Query};
use tokio::time::Instant;

use crate::gateway::ask;
use crate::jobs::{Job, JobOptions, JobProgress, Led};

/// Doomed segments of a group that one run looks at.
const LOOK_MAX: u32 = 4096;
/// Segments that are removed and forgotten together.
const BATCH: usize = 256;

/// See the module.
pub struct Collect {
    led: Led,
    every: Duration,
    grace: Duration,
    /// When this node first saw a segment doomed; bounded by what one run looks at.
    seen: Mutex<BTreeMap<(GroupId, SegmentId), Instant>>,
}

impl Collect {
    pub(super) fn new(led: Led, options: &JobOptions) -> Self {
        Collect {
            led,
            every: options.collect_every,
            grace: options.collect_grace,
            seen: Mutex::default(),
        }
    }

    async fn doomed(&self, group: GroupId) -> Result<Vec<SegmentId>> {
        match self
            .led
            .context
            .meta
            .look(group, &Query::Doomed { max: LOOK_MAX })
            .await?
        {
            Answer::Doomed(doomed) => Ok(doomed),
            _ => ask::misfit(),
        }
    }

    /// Those of a group's doomed segments whose grace is over.
    fn ripe(&self, group: GroupId, doomed: &[SegmentId]) -> Vec<SegmentId> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let still: BTreeSet<SegmentId> = doomed.iter().copied().collect();
        seen.retain(|(of, segment), _| *of != group || still.contains(segment));
        let since = |segment: &SegmentId| *seen.entry((group, *segment)).or_insert(now);
        let mut since = since;
        doomed
            .iter()
            .filter(|segment| now.duration_since(since(segment)) >= self.grace)
            .copied()
            .collect()
    }

    async fn collect(&self, group: GroupId, progress: &mut JobProgress) -> Result<()> {
        let doomed = self.doomed(group).await?;
        let ripe = self.ripe(group, &doomed);
        progress.left += doomed.len() as u64;
        for batch in ripe.chunks(BATCH) {
            self.remove(group, batch).await?;
            progress.done += batch.len() as u64;
            progress.left -= batch.len() as u64;
            self.led
                .context
                .metrics
                .segments_collected_total
                .add(batch.len() as u64);
        }
        Ok(())
    }

    async fn remove(&self, group: GroupId, segments: &[SegmentId]) -> Result<()> {
        let removals = self.led.servers().into_iter().map(|server| async move {
            self.led
                .context
                .peers
                .delete_segments(server, group, segments)
                .await
        });
        for result in join_all(removals).await {
            result.map_err(|error| ObjectError::Unavailable(error.to_string()))?;
        }
        let forget = Command::ForgetSegments(segments.to_vec());
        self.led.context.meta.propose(group, &forget).await?;
        Ok(())
    }
}

#[async_trait]
impl Job for Collect {
    fn name(&self) -> &'static str {
        "collect"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, progress: &mut JobProgress) -> Result<()> {
        let groups = self.led.groups();
        let led: BTreeSet<GroupId> = groups.iter().copied().collect();
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(group, _), _| led.contains(group));
        let mut failed: Option<ObjectError> = None;
        for group in groups {
            if let Err(error) = self.collect(group, progress).await {
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
