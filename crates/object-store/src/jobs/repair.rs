//! Makes the copies that are missing: those that a write recorded as debt, and those that blocks of a smaller site lack.
//!
//! A server is asked first whether the copy came after all, when nobody waited for it any more. A block is read from a good
//! copy (verified), sent to the servers that lack it, and only then is its record replaced, on condition that it is still
//! the one that was read. A block whose epoch has too few copies, or whose debtor has left the site, moves to the current
//! epoch.
//!
//! Before that, a group is told of the newest epoch, so that gateways that have not heard of it write nothing that it would
//! have to repair.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use ids::{BlockId, Epoch, GroupId, NodeId, SegmentId};
use object_core::api::{ObjectError, Result};
use object_core::meta::{Answer, BlockRecord, Command, Query};
use tokio::sync::Mutex;

use crate::gateway::{ask, write_quorum};
use crate::jobs::pace::Pace;
use crate::jobs::{Job, JobOptions, JobProgress, Led};
use crate::service::CopyError;

/// Blocks that are asked for at one time.
const BATCH: u32 = 256;
/// Blocks that are copied at one time.
const AT_A_TIME: usize = 4;

/// See the module.
pub struct Repair {
    led: Led,
    every: Duration,
    bytes_per_s: u64,
}

/// What one run remembers.
struct Run {
    thin: BTreeSet<Epoch>,
    pace: Mutex<Pace>,
    /// Servers that failed in this run: they are left alone until the next.
    away: std::sync::Mutex<BTreeSet<NodeId>>,
}

impl Run {
    fn is_away(&self, server: NodeId) -> bool {
        self.away
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&server)
    }

    fn note_away(&self, server: NodeId) {
        self.away
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(server);
    }
}

/// A record that was paid, in part or whole.
struct Paid {
    segment: SegmentId,
    number: u32,
    old: BlockRecord,
    new: BlockRecord,
    /// Copies that the new record has and the old one lacks.
    copies: u64,
    /// Those of them that were sent; the others were there.
    sent: u64,
    /// Servers that don't need their copy any more.
    surplus: Vec<NodeId>,
}

impl Repair {
    pub(super) fn new(led: Led, options: &JobOptions) -> Self {
        Repair {
            led,
            every: options.repair_every,
            bytes_per_s: options.repair_bytes_per_s,
        }
    }

    async fn repair_group(
        &self,
        run: &Run,
        group: GroupId,
        progress: &mut JobProgress,
    ) -> Result<()> {
        let thin = self.thin_epochs_of(run, group).await?;
        let mut after = None;
        loop {
            let query = Query::Debt {
                thin: thin.clone(),
                after,
                max: BATCH,
            };
            let Answer::Debt { blocks, next } = self.led.context.meta.look(group, &query).await?
            else {
                return ask::misfit();
            };
            let found = blocks.len();
            progress.left += found as u64;
            let pay = |(segment, number, record)| self.pay(run, group, segment, number, record);
            let paid: Vec<Option<Paid>> = futures::stream::iter(blocks)
                .map(pay)
                .buffered(AT_A_TIME)
                .collect()
                .await;
            let paid: Vec<Paid> = paid.into_iter().flatten().collect();
            let some_paid = !paid.is_empty();
            self.record(group, paid, progress).await?;
            match next {
                // A page with more blocks than fit was cut: they come when these are paid.
                _ if found >= BATCH as usize && some_paid => {}
                Some(page) if after != Some(page) => after = Some(page),
                _ => break,
            }
        }
        Ok(())
    }

    /// The thin epochs of which a group has blocks: to look for these means to read all block lists. Before that, the
    /// group is told of the newest epoch.
    async fn thin_epochs_of(&self, run: &Run, group: GroupId) -> Result<Vec<Epoch>> {
        let context = &self.led.context;
        let epoch = context.placement.current().epoch();
        let (mut newest, mut whole) = self.epochs_of(group).await?;
        if newest.is_none_or(|newest| newest < epoch) {
            // Refused only if the group has heard of a newer one meanwhile.
            let hear = Command::HearOfEpoch(epoch);
            context.meta.propose(group, &hear).await?;
            (newest, whole) = self.epochs_of(group).await?;
        }
        // A replica that is behind may know no counts yet.
        if newest.is_none() {
            return Ok(run.thin.iter().copied().collect());
        }
        whole.retain(|epoch| run.thin.contains(epoch));
        Ok(whole)
    }

    /// The newest epoch that a group has heard of, and those of which it has blocks without debt.
    async fn epochs_of(&self, group: GroupId) -> Result<(Option<Epoch>, Vec<Epoch>)> {
        match self.led.context.meta.look(group, &Query::Epochs).await? {
            Answer::Epochs { newest, whole } => {
                let epochs = whole.into_iter().map(|(epoch, _)| epoch).collect();
                Ok((newest, epochs))
            }
            _ => ask::misfit(),
        }
    }

    /// Copies one block to where it is missing; `None` when nothing could be done.
    async fn pay(
        &self,
        run: &Run,
        group: GroupId,
        segment: SegmentId,
        number: u32,
        old: BlockRecord,
    ) -> Option<Paid> {
        let context = &self.led.context;
        let id = BlockId {
            group,
            segment,
            number,
        };
        let current = context.placement.current();
        let holds: Vec<NodeId> = match context.placement.at(old.epoch) {
            Some(map) => map
                .block_servers(&id)
                .into_iter()
                .filter(|node| !old.missing.contains(node))
                .collect(),
            None => return None,
        };
        let is_member = |node: &NodeId| current.servers().iter().any(|server| server.node == *node);
        let moves = run.thin.contains(&old.epoch) || !old.missing.iter().all(is_member);
        let (epoch, wanted) = if moves {
            (current.epoch(), current.block_servers(&id))
        } else {
            (
                old.epoch,
                context.placement.at(old.epoch)?.block_servers(&id),
            )
        };
        let lacking: Vec<NodeId> = wanted
            .iter()
            .filter(|node| !holds.contains(node))
            .copied()
            .collect();
        let targets: Vec<NodeId> = lacking
            .iter()
            .filter(|node| !run.is_away(**node))
            .copied()
            .collect();
        if targets.is_empty() && !lacking.is_empty() {
            return None;
        }
        let (mut stored, without) = self.look_for(run, id, &targets).await;
        let mut sent = 0;
        if !without.is_empty() {
            run.pace
                .lock()
                .await
                .pass(u64::from(old.len) * without.len() as u64)
                .await;
            match self.copy(run, id, &old, &without).await {
                Some(made) => {
                    sent = made.len() as u64;
                    stored.extend(made);
                }
                None if stored.is_empty() => return None,
                None => {}
            }
        }
        let mut missing = lacking.clone();
        missing.retain(|node| !stored.contains(node));
        let surplus = holds
            .into_iter()
            .filter(|node| !wanted.contains(node))
            .collect();
        let copies = (lacking.len() - missing.len()) as u64;
        let new = BlockRecord {
            epoch,
            missing,
            ..old.clone()
        };
        // A record that moves forgets where the old copies are: then a quorum must be where the new one says.
        let durable = wanted.len() - new.missing.len();
        let better = if moves {
            durable >= write_quorum(wanted.len())
        } else {
            copies > 0
        };
        better.then_some(Paid {
            segment,
            number,
            old,
            new,
            copies,
            sent,
            surplus,
        })
    }

    /// Asks servers for a copy; returns those that have one, and those that have none.
    async fn look_for(&self, run: &Run, id: BlockId, on: &[NodeId]) -> (Vec<NodeId>, Vec<NodeId>) {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for server in on {
            match self.led.context.peers.has(*server, &[id]).await {
                Ok(has) if has == [true] => with.push(*server),
                Ok(_) => without.push(*server),
                Err(error) => {
                    tracing::debug!(block = %id, %server, %error, "a server was not asked for a copy");
                    run.note_away(*server);
                }
            }
        }
        (with, without)
    }

    /// Sends a block to servers; returns those that have it now.
    async fn copy(
        &self,
        run: &Run,
        id: BlockId,
        record: &BlockRecord,
        to: &[NodeId],
    ) -> Option<Vec<NodeId>> {
        let context = &self.led.context;
        let _room = context.limits.read_room(record.len as usize).await.ok()?;
        let data = match context.read_block(id, record).await {
            Ok(data) => data,
            Err(error) => {
                tracing::warn!(block = %id, %error, "a block with missing copies can't be read");
                return None;
            }
        };
        let mut stored = Vec::new();
        for server in to {
            match context
                .peers
                .put(*server, id, record.hash, data.clone())
                .await
            {
                Ok(()) => stored.push(*server),
                // It comes from somebody else right now.
                Err(CopyError::Busy(_)) => {}
                Err(error) => {
                    tracing::debug!(block = %id, %server, %error, "a missing copy was not made");
                    run.note_away(*server);
                }
            }
        }
        Some(stored)
    }

    async fn record(
        &self,
        group: GroupId,
        paid: Vec<Paid>,
        progress: &mut JobProgress,
    ) -> Result<()> {
        let context = &self.led.context;
        let mut by_segment = BTreeMap::<SegmentId, Vec<Paid>>::new();
        for one in paid {
            by_segment.entry(one.segment).or_default().push(one);
        }
        for (segment, paid) in by_segment {
            let blocks = paid
                .iter()
                .map(|one| (one.number, one.old.clone(), one.new.clone()))
                .collect();
            context
                .meta
                .propose(group, &Command::UpdateBlocks { segment, blocks })
                .await?;
            for one in paid {
                let bytes = u64::from(one.new.len) * one.sent;
                progress.done += one.copies;
                progress.bytes += bytes;
                progress.left -= u64::from(one.new.missing.is_empty());
                context.metrics.blocks_repaired_total.add(one.sent);
                context.metrics.blocks_repaired_bytes_total.add(bytes);
                self.drop_surplus(group, &one).await?;
            }
        }
        Ok(())
    }

    /// Removes copies that the new record does not name. A failure costs space until the object goes.
    async fn drop_surplus(&self, group: GroupId, paid: &Paid) -> Result<()> {
        if paid.surplus.is_empty() || !paid.new.missing.is_empty() {
            return Ok(());
        }
        let (segment, from) = (paid.segment, paid.number);
        let query = Query::Blocks {
            segment,
            from,
            max: 1,
        };
        let now = self.led.context.meta.query(group, &query).await?;
        // Another repair may have replaced the record first: then nobody knows what is surplus.
        if !matches!(now, Answer::Blocks(records) if records.first() == Some(&paid.new)) {
            return Ok(());
        }
        let id = BlockId {
            group,
            segment,
            number: from,
        };
        for server in &paid.surplus {
            if let Err(error) = self.led.context.peers.delete(*server, &[id]).await {
                tracing::debug!(block = %id, %server, %error, "a surplus copy stays");
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Job for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, progress: &mut JobProgress) -> Result<()> {
        let run = Run {
            thin: self.led.thin_epochs().into_iter().collect(),
            pace: Mutex::new(Pace::new(self.bytes_per_s)),
            away: std::sync::Mutex::default(),
        };
        let mut failed: Option<ObjectError> = None;
        for group in self.led.groups() {
            if let Err(error) = self.repair_group(&run, group, progress).await {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
