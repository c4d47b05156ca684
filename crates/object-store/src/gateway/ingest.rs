//! A body on its way into the store: small ones become inline content, larger ones blocks of a pending segment.
//!
//! ```text
//! body ─▶ piece k ─▶ stage k: digests (in order of k) ─▶ BLAKE3 ─▶ copies on the servers ─▶ record k
//!          │                                                 up to `blocks_in_flight` stages at a time
//!          └─ takes its memory from the node's budget step by step, as it arrives
//! ```
//! Invariants:
//! - no block is written before its segment's begin was committed;
//! - nor by an older map than the one that the group had heard of by then: a gateway that is behind waits for it;
//! - a stage holds all it needs: no stage waits for memory;
//! - the blocks that still grow leave memory for one whole block free, and who finds no more than that waits for all
//!   that it still needs: so the budget can't lock up;
//! - a body that is slow gives way when others wait for memory;
//! - a body that fails, is short, or doesn't have its digests leaves nothing but a segment that is given up.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use ids::{BlockId, Epoch, SegmentId};
use object_core::api::{Body, ExpectedDigests, ObjectError, Result};
use object_core::digest::{BodyDigest, Digests};
use object_core::meta::{BLOCKS_PER_PAGE, BlockRecord, Command, Content, Outcome, Refused};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::gateway::abandoned::Pending;
use crate::gateway::body::BodyReader;
use crate::gateway::limits::Limits;
use crate::gateway::{Context, Target, refusals};

/// Memory is taken in steps of this size.
const STEP_BYTES: usize = 256 << 10;
/// How long a step may take while others wait for memory.
const STEP_TIME: Duration = Duration::from_secs(5);
/// How often a step that takes longer looks whether others wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often a gateway that is behind looks whether it has heard of the epoch that it waits for.
const LOOK_FOR_EPOCH: Duration = Duration::from_millis(50);

/// A body that is stored but has no owner yet.
pub struct Ingested {
    /// For the command that gives it an owner.
    pub content: Content,
    /// What the body turned out to be; verified.
    pub digests: Digests,
    /// Dropping it gives the segment up.
    pub pending: Option<Pending>,
}

impl Ingested {
    /// The content has an owner now.
    pub fn committed(pending: Option<Pending>) {
        if let Some(pending) = pending {
            pending.committed();
        }
    }
}

impl Context {
    /// Stores a body for `target`.
    pub async fn ingest(
        self: &Arc<Self>,
        target: &Target,
        size: Option<u64>,
        expected: ExpectedDigests,
        body: Body,
    ) -> Result<Ingested> {
        let mut reader = BodyReader::new(body, size, self.options.body_idle)?;
        let mut digest = BodyDigest::new(&expected);
        let first = reader.piece(self.options.inline_bytes).await?;
        if first.len() < self.options.inline_bytes || reader.at_end().await? {
            digest.update(&first);
            let digests = digest.finish();
            digests.verify(expected)?;
            let content = Content::Inline(first.into());
            return Ok(Ingested {
                content,
                digests,
                pending: None,
            });
        }
        reader.unread(first);
        let segment = SegmentId::random(&mut self.platform.rng());
        let pending = Pending::new(
            self.abandoned.clone(),
            self.metrics.clone(),
            target.group,
            segment,
        );
        let writer = SegmentWriter::new(self.clone(), target.clone(), segment);
        let (tail, digests) = writer.write(reader, digest).await?;
        digests.verify(expected)?;
        Ok(Ingested {
            content: Content::Segment { segment, tail },
            digests,
            pending: Some(pending),
        })
    }
}

struct SegmentWriter {
    context: Arc<Context>,
    target: Target,
    segment: SegmentId,
    stages: JoinSet<Result<(u32, BlockRecord)>>,
    /// Records that wait for an earlier one.
    early: BTreeMap<u32, BlockRecord>,
    /// The records of the page that is being filled.
    page: Vec<BlockRecord>,
    pages: u32,
}

impl SegmentWriter {
    fn new(context: Arc<Context>, target: Target, segment: SegmentId) -> Self {
        SegmentWriter {
            context,
            target,
            segment,
            stages: JoinSet::new(),
            early: BTreeMap::new(),
            page: Vec::new(),
            pages: 0,
        }
    }

    async fn write(
        mut self,
        mut reader: BodyReader,
        digest: BodyDigest,
    ) -> Result<(Vec<BlockRecord>, Digests)> {
        let ((), mut block) = futures::try_join!(self.begin(), self.next_block(&mut reader))?;
        let (hand_in, mut digest_of_last) = oneshot::channel();
        let _ = hand_in.send(digest);
        let mut number = 0;
        loop {
            while self.stages.len() >= self.context.options.blocks_in_flight {
                self.join_one().await?;
            }
            digest_of_last = self.start(number, block, digest_of_last);
            number = number
                .checked_add(1)
                .ok_or_else(|| ObjectError::Internal("too many blocks".into()))?;
            if reader.at_end().await? {
                break;
            }
            block = self.next_block(&mut reader).await?;
            while let Some(finished) = self.stages.try_join_next() {
                self.note(finished).await?;
            }
        }
        while !self.stages.is_empty() {
            self.join_one().await?;
        }
        let digest = digest_of_last.await.map_err(|_| broken())?;
        Ok((self.page, digest.finish()))
    }

    async fn begin(&self) -> Result<()> {
        let end = Instant::now() + self.context.options.deadline;
        loop {
            let begin = Command::BeginSegmentIn {
                at: self.target.at.clone(),
                segment: self.segment,
                started_ms: self.context.now_ms(),
                epoch: self.context.placement.current().epoch(),
            };
            match self.context.propose_at(&self.target, begin).await? {
                Outcome::Refused(Refused::OldEpoch { newest }) => self.hear_of(newest, end).await?,
                outcome => return refusals::done(&self.target.bucket.name, outcome),
            }
        }
    }

    /// Waits until this node has heard of an epoch, as the group has.
    async fn hear_of(&self, epoch: Epoch, end: Instant) -> Result<()> {
        tracing::debug!(group = %self.target.group, %epoch, "a write waits for a map that this node lacks");
        while self.context.placement.current().epoch() < epoch {
            if Instant::now() >= end {
                let refused = Refused::OldEpoch { newest: epoch };
                return Err(refusals::refused(&self.target.bucket.name, refused));
            }
            sleep(LOOK_FOR_EPOCH).await;
        }
        Ok(())
    }

    async fn next_block(&self, reader: &mut BodyReader) -> Result<(Room, Bytes)> {
        read_block(
            &self.context.limits,
            reader,
            self.context.options.block_bytes,
        )
        .await
    }

    /// Starts the stage of a block; returns where the digest over everything up to it will come out.
    fn start(
        &mut self,
        number: u32,
        (room, data): (Room, Bytes),
        digest_in: oneshot::Receiver<BodyDigest>,
    ) -> oneshot::Receiver<BodyDigest> {
        let (digest_out, next) = oneshot::channel();
        let context = self.context.clone();
        let id = BlockId {
            group: self.target.group,
            segment: self.segment,
            number,
        };
        self.stages.spawn(async move {
            let mut digest = digest_in.await.map_err(|_| broken())?;
            let bytes = data.clone();
            let hashing = move || {
                digest.update(&bytes);
                (digest, *blake3::hash(&bytes).as_bytes())
            };
            let (digest, hash) = context.platform.blocking(hashing).await;
            let _ = digest_out.send(digest);
            let record = context.write_block(id, hash, data).await?;
            drop(room);
            Ok((number, record))
        });
        next
    }

    async fn join_one(&mut self) -> Result<()> {
        match self.stages.join_next().await {
            Some(finished) => self.note(finished).await,
            None => Ok(()),
        }
    }

    async fn note(
        &mut self,
        finished: std::result::Result<Result<(u32, BlockRecord)>, tokio::task::JoinError>,
    ) -> Result<()> {
        let (number, record) = finished.map_err(|_| broken())??;
        self.early.insert(number, record);
        loop {
            let next = self.pages * BLOCKS_PER_PAGE as u32 + self.page.len() as u32;
            let Some(record) = self.early.remove(&next) else {
                return Ok(());
            };
            self.page.push(record);
            if self.page.len() == BLOCKS_PER_PAGE {
                self.append_page().await?;
            }
        }
    }

    async fn append_page(&mut self) -> Result<()> {
        let blocks = std::mem::take(&mut self.page);
        let append = Command::AppendBlocks {
            segment: self.segment,
            page: self.pages,
            blocks,
        };
        self.pages += 1;
        refusals::done(
            &self.target.bucket.name,
            self.context
                .meta
                .propose(self.target.group, &append)
                .await?,
        )
    }
}

/// The memory of one block.
#[derive(Default)]
struct Room {
    taken: Option<OwnedSemaphorePermit>,
    /// There is room for all that may come.
    whole: bool,
    /// A step took longer than [`STEP_TIME`].
    slow: bool,
}

impl Room {
    /// Takes room for the next `step` of the `left` bytes that may come.
    async fn grow(
        &mut self,
        limits: &Limits,
        step: usize,
        left: usize,
        block_bytes: usize,
    ) -> Result<()> {
        if self.whole {
            return Ok(());
        }
        let more = match at_once(limits, block_bytes, step) {
            Some(more) => more,
            None if self.slow => return Err(too_slow()),
            None => {
                self.whole = true;
                limits.write_room(left).await?
            }
        };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }

    /// Reads a step; gives up when it takes long and others wait for memory.
    async fn read(
        &mut self,
        limits: &Limits,
        reader: &mut BodyReader,
        step: usize,
    ) -> Result<Bytes> {
        let started = Instant::now();
        let mut piece = pin!(reader.piece(step));
        let mut patience = STEP_TIME;
        loop {
            match timeout(patience, piece.as_mut()).await {
                Ok(piece) => {
                    self.slow = started.elapsed() >= STEP_TIME;
                    return piece;
                }
                Err(_) if is_used_up(limits) => return Err(too_slow()),
                Err(_) => patience = LOOK_AGAIN,
            }
        }
    }
}

/// Reads the next block of a body, shorter only at its end, and takes room for it as it arrives.
async fn read_block(
    limits: &Limits,
    reader: &mut BodyReader,
    block_bytes: usize,
) -> Result<(Room, Bytes)> {
    let most = reader.most(block_bytes);
    let mut room = Room::default();
    let mut block = BytesMut::new();
    loop {
        let left = most - block.len();
        let step = left.min(STEP_BYTES);
        room.grow(limits, step, left, block_bytes).await?;
        let piece = room.read(limits, reader, step).await?;
        if step == most {
            return Ok((room, piece));
        }
        block.extend_from_slice(&piece);
        if piece.len() < step || block.len() == most {
            return Ok((room, block.freeze()));
        }
    }
}

/// Room for a step, if without it there is room for a whole block as well: whoever needs that much gets it in the end.
fn at_once(limits: &Limits, block_bytes: usize, step: usize) -> Option<OwnedSemaphorePermit> {
    let _kept_free = limits.write_room(block_bytes).now_or_never()?.ok()?;
    limits.write_room(step).now_or_never()?.ok()
}

/// Whether no room is left, as long as somebody waits for some.
fn is_used_up(limits: &Limits) -> bool {
    limits.write_room(1).now_or_never().is_none()
}

fn too_slow() -> ObjectError {
    ObjectError::Unavailable("memory is short, and the body comes too slowly".into())
}

fn broken() -> ObjectError {
    ObjectError::Internal("a stage of an upload broke off".into())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use object_core::api::BodyError;

    use super::*;
    use crate::gateway::body::body_from;

    const BLOCK: usize = 1 << 20;

    /// Memory for four blocks.
    fn limits() -> Arc<Limits> {
        let wait = Duration::from_secs(1);
        Arc::new(Limits::new(100, 4 * BLOCK, wait, Arc::default()))
    }

    /// Reads a block that comes in pieces, each after a pause.
    async fn read(limits: Arc<Limits>, piece: usize, pause: Duration) -> Result<(Room, Bytes)> {
        let pieces = futures::stream::iter(0..BLOCK / piece).then(move |_| async move {
            sleep(pause).await;
            Ok::<_, BodyError>(Bytes::from(vec![7_u8; piece]))
        });
        let idle = Duration::from_secs(60);
        let mut reader = BodyReader::new(body_from(pieces), Some(BLOCK as u64), idle)?;
        read_block(&limits, &mut reader, BLOCK).await
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_leave_room_for_a_good_one() {
        let limits = limits();
        let mut slow = JoinSet::new();
        for _ in 0..12 {
            slow.spawn(read(limits.clone(), 1 << 10, Duration::from_secs(30)));
        }
        sleep(Duration::from_secs(1)).await;
        let (_room, block) = read(limits, 64 << 10, Duration::ZERO).await.unwrap();
        assert_eq!(block.len(), BLOCK);
        assert!(slow.try_join_next().is_none(), "none had to give way");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_gives_way_when_memory_is_used_up() {
        let limits = limits();
        let others = limits.write_room(3 * BLOCK - STEP_BYTES).await.unwrap();
        let slow = tokio::spawn(read(limits.clone(), 1 << 10, Duration::from_secs(30)));
        sleep(Duration::from_secs(1)).await;
        let good = read(limits.clone(), 64 << 10, Duration::ZERO)
            .await
            .unwrap();
        let gave_way = slow.await.unwrap();
        assert!(matches!(gave_way, Err(ObjectError::Unavailable(_))));
        drop((others, good));
        let alone = read(limits, 64 << 10, Duration::from_secs(20)).await;
        assert!(alone.is_ok(), "nobody waits, so it may take its time");
    }

    #[tokio::test(start_paused = true)]
    async fn many_bodies_at_a_time_do_not_lock_each_other_out() {
        let limits = limits();
        let mut bodies = JoinSet::new();
        for _ in 0..40 {
            let pause = Duration::from_millis(10);
            bodies.spawn(read(limits.clone(), 64 << 10, pause));
        }
        while let Some(body) = bodies.join_next().await {
            assert!(body.unwrap().is_ok());
        }
    }
}
