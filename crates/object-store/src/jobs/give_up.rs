//! Gives up pending segments: at once those whose writers here failed or went away, after a long while all others.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use ids::{GroupId, SegmentId};
use object_core::api::{ObjectError, Result};
use object_core::meta::{Answer, Command, Outcome, Query};

use crate::gateway::ask;
use crate::jobs::{Job, JobOptions, JobProgress, Led};

/// Segments in one proposal.
const BATCH: usize = 1000;
/// Pending segments of a group that one run looks at.
const LOOK_MAX: u32 = 4096;

/// See the module.
pub struct GiveUp {
    led: Led,
    every: Duration,
    after: Duration,
}

impl GiveUp {
    pub(super) fn new(led: Led, options: &JobOptions) -> Self {
        GiveUp {
            led,
            every: options.collect_every,
            after: options.give_up_after,
        }
    }

    async fn abandoned(&self, progress: &mut JobProgress) -> Result<()> {
        let abandoned = &self.led.context.abandoned;
        let mut by_group = BTreeMap::<GroupId, Vec<SegmentId>>::new();
        for (group, segment) in abandoned.take(usize::MAX) {
            by_group.entry(group).or_default().push(segment);
        }
        let mut failed: Option<ObjectError> = None;
        for (group, segments) in by_group {
            for (number, batch) in segments.chunks(BATCH).enumerate() {
                if let Err(error) = self.give_up(group, batch.to_vec(), progress).await {
                    segments[number * BATCH..]
                        .iter()
                        .for_each(|segment| abandoned.keep(group, *segment));
                    failed = failed.or(Some(error));
                    break;
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn overdue(&self, group: GroupId, progress: &mut JobProgress) -> Result<()> {
        let query = Query::Pending { max: LOOK_MAX };
        let Answer::Pending(pending) = self.led.context.meta.look(group, &query).await? else {
            return ask::misfit();
        };
        let now = self.led.context.now_ms();
        let bound = self.after.as_millis() as u64;
        let is_overdue = |started: u64| now.saturating_sub(started) >= bound;
        let overdue: Vec<SegmentId> = pending
            .into_iter()
            .filter(|(_, started)| is_overdue(*started))
            .map(|(segment, _)| segment)
            .collect();
        for batch in overdue.chunks(BATCH) {
            self.give_up(group, batch.to_vec(), progress).await?;
        }
        Ok(())
    }

    async fn give_up(
        &self,
        group: GroupId,
        segments: Vec<SegmentId>,
        progress: &mut JobProgress,
    ) -> Result<()> {
        let count = segments.len() as u64;
        match self
            .led
            .context
            .meta
            .propose(group, &Command::GiveUpSegments(segments))
            .await?
        {
            Outcome::Refused(refused) => Err(ObjectError::Internal(format!(
                "a group gave nothing up: {refused:?}"
            ))),
            _ => {
                progress.done += count;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Job for GiveUp {
    fn name(&self) -> &'static str {
        "give-up"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn woken(&self) {
        self.led.context.abandoned.added().await;
    }

    async fn run(&self, progress: &mut JobProgress) -> Result<()> {
        let mut failed = self.abandoned(progress).await.err();
        for group in self.led.groups() {
            if let Err(error) = self.overdue(group, progress).await {
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
