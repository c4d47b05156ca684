//! A body on its way into the store: small ones become inline content, larger ones blocks of a pending segment.
//!
//! ```text
//! body ─▶ piece k ─▶ stage k: digests (in order of k) ─▶ BLAKE3 ─▶ copies on the servers ─▶ record k
//!          │                                                 up to `blocks_in_flight` stages at a time
//!          └─ takes its memory from the node's budget before it is read
//! ```
//! Invariants:
//! - no block is written before its segment's begin was committed;
//! - a stage holds all it needs: no stage waits for memory, so the budget can't lock up;
//! - a body that fails, is short, or doesn't have its digests leaves nothing but a segment that is given up.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ids::{BlockId, GroupId, SegmentId};
use object_core::api::{Body, ExpectedDigests, ObjectError, Result};
use object_core::digest::{BodyDigest, Digests};
use object_core::meta::{BLOCKS_PER_PAGE, BlockRecord, Command, Content, KeyRef};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinSet;

use crate::gateway::abandoned::Pending;
use crate::gateway::body::BodyReader;
use crate::gateway::{Context, Target, refusals};

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
        let writer = SegmentWriter::new(self.clone(), target.at.clone(), target.group, segment);
        let (tail, digests) = writer.write(&target.bucket.name, reader, digest).await?;
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
    at: KeyRef,
    group: GroupId,
    segment: SegmentId,
    stages: JoinSet<Result<(u32, BlockRecord)>>,
    /// Records that wait for an earlier one.
    early: BTreeMap<u32, BlockRecord>,
    /// The records of the page that is being filled.
    page: Vec<BlockRecord>,
    pages: u32,
}

impl SegmentWriter {
    fn new(context: Arc<Context>, at: KeyRef, group: GroupId, segment: SegmentId) -> Self {
        SegmentWriter {
            context,
            at,
            group,
            segment,
            stages: JoinSet::new(),
            early: BTreeMap::new(),
            page: Vec::new(),
            pages: 0,
        }
    }

    async fn write(
        mut self,
        bucket: &str,
        mut reader: BodyReader,
        digest: BodyDigest,
    ) -> Result<(Vec<BlockRecord>, Digests)> {
        let ((), mut block) = futures::try_join!(self.begin(bucket), self.next_block(&mut reader))?;
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

    async fn begin(&self, bucket: &str) -> Result<()> {
        let started_ms = self.context.platform.wall_ms().0;
        let begin = Command::BeginSegment {
            at: self.at.clone(),
            segment: self.segment,
            started_ms,
        };
        refusals::done(bucket, self.context.meta.propose(self.group, &begin).await?)
    }

    async fn next_block(&self, reader: &mut BodyReader) -> Result<(OwnedSemaphorePermit, Bytes)> {
        let want = self.context.options.block_bytes;
        let room = self.context.limits.write_room(reader.most(want)).await?;
        Ok((room, reader.piece(want).await?))
    }

    /// Starts the stage of a block; returns where the digest over everything up to it will come out.
    fn start(
        &mut self,
        number: u32,
        (room, data): (OwnedSemaphorePermit, Bytes),
        digest_in: oneshot::Receiver<BodyDigest>,
    ) -> oneshot::Receiver<BodyDigest> {
        let (digest_out, next) = oneshot::channel();
        let context = self.context.clone();
        let id = BlockId {
            group: self.group,
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
            &self.at.key,
            self.context.meta.propose(self.group, &append).await?,
        )
    }
}

fn broken() -> ObjectError {
    ObjectError::Internal("a stage of an upload broke off".into())
}
