//! Removes this server's blocks whose group does not know their segment: what a late writer left after its segment was
//! collected, or what this server missed while it was not a member.
//!
//! It is safe at any age: a segment is known from before its first block is written until all its blocks were removed.
//! Old blocks only are looked at, to ask less.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ids::{BlockId, GroupId, SegmentId};
use object_core::api::{ObjectError, Result};
use object_core::meta::{Answer, Query};

use crate::gateway::{Context, ask};
use crate::jobs::{Job, JobOptions, JobProgress};

/// Blocks that are looked at together.
const BATCH: usize = 2000;

/// See the module.
pub struct Sweep {
    context: Arc<Context>,
    every: Duration,
    after: Duration,
}

impl Sweep {
    pub(super) fn new(context: Arc<Context>, options: &JobOptions) -> Self {
        Sweep {
            context,
            every: options.sweep_every,
            after: options.sweep_after,
        }
    }

    async fn orphans(&self, blocks: &[BlockId]) -> Result<Vec<BlockId>> {
        let mut by_group = BTreeMap::<GroupId, BTreeMap<SegmentId, Vec<BlockId>>>::new();
        for id in blocks {
            by_group
                .entry(id.group)
                .or_default()
                .entry(id.segment)
                .or_default()
                .push(*id);
        }
        let groups = self.context.placement.current().groups();
        let mut orphans = Vec::new();
        for (group, segments) in by_group {
            if group.0 == 0 || group.0 > groups {
                tracing::warn!(%group, "this node holds blocks of a group that the site does not have; they are left alone");
                continue;
            }
            let query = Query::Known(segments.keys().copied().collect());
            let Answer::Known(known) = self.context.meta.query(group, &query).await? else {
                return ask::misfit();
            };
            if known.len() != segments.len() {
                return ask::misfit();
            }
            let unknown = segments
                .into_values()
                .zip(known)
                .filter(|(_, known)| !known);
            orphans.extend(unknown.flat_map(|(blocks, _)| blocks));
        }
        Ok(orphans)
    }
}

#[async_trait]
impl Job for Sweep {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, progress: &mut JobProgress) -> Result<()> {
        let before_s = (self.context.now_ms() / 1000).saturating_sub(self.after.as_secs());
        let before_s = u32::try_from(before_s).unwrap_or(u32::MAX);
        let store = self.context.peers.store();
        let mut after = None;
        loop {
            let (blocks, next) = store.older_than(before_s, after, BATCH);
            let orphans = self.orphans(&blocks).await?;
            // Those of a fenced volume go after the next start.
            let removed = store.delete_unfenced(&orphans).await;
            let removed =
                removed.map_err(|error| ObjectError::Unavailable(error.to_string()))? as u64;
            progress.done += removed;
            self.context
                .metrics
                .blocks_orphaned_removed_total
                .add(removed);
            if next.is_none() {
                return Ok(());
            }
            after = next;
        }
    }
}
