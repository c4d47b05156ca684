//! Reading an object: its head from the group, then its blocks, a few ahead of the reader.
//!
//! The records of a small object's blocks come with its head: one question. Of a larger one, the first page of records is
//! asked for before the answer begins; if the object was replaced or deleted between the two questions, the read starts
//! over. Later on such a read ends with the old bytes or breaks off.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use ids::{BlockId, GroupId, SegmentId};
use object_core::api::{
    Body, BodyChunk, BodyError, ByteRange, Caller, Conditions, GetRequest, Got, ObjectError,
    ObjectHead, Result, VersionId,
};
use object_core::conditions::{Current, check_read};
use object_core::meta::{
    Answer, BlockRecord, PieceContent, Query, Readable, Stored, StoredSegment,
};
use object_core::ranges;
use tokio::sync::OwnedSemaphorePermit;

use crate::gateway::body::{body_from, body_of};
use crate::gateway::{Context, Target, ask, refusals};

/// Block records that come with a head.
const BLOCKS_WITH_HEAD_MAX: u32 = 64;
/// Block records that are asked for at one time.
const BLOCKS_AT_A_TIME: u32 = 1024;
/// How often a read starts over because its object was replaced meanwhile.
const ATTEMPTS: usize = 5;

/// The bytes that a reader gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub len: u64,
    pub partial: bool,
}

impl Context {
    pub async fn get(
        self: &Arc<Self>,
        caller: &Caller,
        request: GetRequest,
        place: OwnedSemaphorePermit,
    ) -> Result<Got> {
        let target = self.target(caller, &request.bucket, &request.key).await?;
        let got = self
            .read(
                &target,
                request.version,
                &request.conditions,
                request.range,
                Some(place),
            )
            .await?;
        self.metrics.objects_get_total.add(1);
        Ok(got)
    }

    pub async fn head(&self, caller: &Caller, request: GetRequest) -> Result<Got> {
        let target = self.target(caller, &request.bucket, &request.key).await?;
        let (head, stored) = self.head_of(&target, request.version).await?;
        judge(&request.conditions, &head)?;
        let span = span(request.range, &head, &stored)?;
        self.metrics.objects_head_total.add(1);
        Ok(Got {
            head,
            offset: span.offset,
            len: span.len,
            partial: span.partial,
            body: body_of(Bytes::new()),
        })
    }

    /// What is known of an object, without its bytes.
    pub async fn head_of(
        &self,
        target: &Target,
        version: Option<VersionId>,
    ) -> Result<(ObjectHead, Stored)> {
        let query = Query::Head {
            at: target.at.clone(),
            version,
            with_content: false,
        };
        match self.meta.query(target.group, &query).await? {
            Answer::Head(found) => found.ok_or_else(|| not_there(version)),
            _ => ask::misfit(),
        }
    }

    /// An object with inline bytes and its first blocks' records.
    async fn readable(
        &self,
        target: &Target,
        version: Option<VersionId>,
        blocks_max: u32,
    ) -> Result<Readable> {
        let query = Query::Read {
            at: target.at.clone(),
            version,
            blocks_max,
        };
        match self.meta.query(target.group, &query).await? {
            Answer::Read(found) => found.ok_or_else(|| not_there(version)),
            _ => ask::misfit(),
        }
    }

    /// How many block records are asked for with the head: none, when the wanted bytes begin behind them.
    fn blocks_with_head(&self, range: Option<ByteRange>) -> u32 {
        let covered = self.options.block_bytes as u64 * u64::from(BLOCKS_WITH_HEAD_MAX);
        match range {
            Some(ByteRange::Between { first, .. }) if first >= covered => 0,
            _ => BLOCKS_WITH_HEAD_MAX,
        }
    }

    /// Reads (a range of) an object; `place` is held until the body ends.
    pub async fn read(
        self: &Arc<Self>,
        target: &Target,
        version: Option<VersionId>,
        conditions: &Conditions,
        range: Option<ByteRange>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Got> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let found = self
                .readable(target, version, self.blocks_with_head(range))
                .await?;
            let Readable {
                head,
                stored,
                blocks,
            } = found;
            judge(conditions, &head)?;
            let span = span(range, &head, &stored)?;
            let segments = match stored {
                Stored::Inline(bytes) => {
                    let body = body_of(slice(bytes.into(), span)?);
                    self.metrics.objects_get_bytes_total.add(span.len);
                    return Ok(Got {
                        head,
                        offset: span.offset,
                        len: span.len,
                        partial: span.partial,
                        body,
                    });
                }
                Stored::Segments(segments) => segments,
            };
            let mut plan = Plan::new(self.clone(), target.group, &segments, span);
            plan.known.extend(blocks);
            match plan.load().await {
                Ok(()) => {
                    let body = plan.body(place);
                    return Ok(Got {
                        head,
                        offset: span.offset,
                        len: span.len,
                        partial: span.partial,
                        body,
                    });
                }
                Err(PlanError::Gone) if attempt < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn judge(conditions: &Conditions, head: &ObjectHead) -> Result<()> {
    let current = Current {
        etag: &head.etag,
        modified_ms: head.modified_ms,
        size: head.size,
    };
    check_read(conditions, current).map_err(|failed| refusals::condition(failed, head))
}

fn not_there(version: Option<VersionId>) -> ObjectError {
    match version {
        Some(version) if version != VersionId::Null => ObjectError::NoSuchVersion,
        _ => ObjectError::NoSuchKey,
    }
}

/// Which bytes a range means.
fn span(range: Option<ByteRange>, head: &ObjectHead, stored: &Stored) -> Result<Span> {
    let Some(range) = range else {
        return Ok(Span {
            offset: 0,
            len: head.size,
            partial: false,
        });
    };
    let bytes = ranges::resolve(range, head.size, stored)?;
    Ok(Span {
        offset: bytes.start,
        len: bytes.end - bytes.start,
        partial: true,
    })
}

fn slice(bytes: Bytes, span: Span) -> Result<Bytes> {
    let end = span.offset + span.len;
    if end > bytes.len() as u64 {
        return Err(misrecorded());
    }
    Ok(bytes.slice(span.offset as usize..end as usize))
}

/// A piece of the wanted bytes.
#[derive(Debug)]
enum Piece {
    Inline(Bytes),
    Block {
        id: BlockId,
        record: BlockRecord,
        skip: usize,
        take: usize,
    },
}

fn misrecorded() -> ObjectError {
    ObjectError::Internal("an object's metadata does not fit its size".into())
}

#[derive(Debug)]
enum PlanError {
    /// The segment's blocks are not known any more.
    Gone,
    Failed(ObjectError),
}

impl From<PlanError> for ObjectError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Gone => {
                ObjectError::Unavailable("the object was replaced while it was read".into())
            }
            PlanError::Failed(error) => error,
        }
    }
}

/// The wanted bytes, piece by piece; block records are asked for page by page.
struct Plan {
    context: Arc<Context>,
    group: GroupId,
    /// What was not planned yet.
    parts: VecDeque<Part>,
    /// Whole block lists that came with the head.
    known: BTreeMap<SegmentId, Vec<BlockRecord>>,
    ready: VecDeque<Piece>,
}

/// Wanted bytes of one segment.
struct Part {
    content: PieceContent,
    /// Bytes before the wanted ones, counted from the start of `next_block`.
    skip: u64,
    /// Wanted bytes.
    left: u64,
    next_block: u32,
}

impl Plan {
    fn new(context: Arc<Context>, group: GroupId, segments: &[StoredSegment], span: Span) -> Self {
        let covered = ranges::pieces_in(segments, span.offset..span.offset + span.len);
        let parts = covered.map(|span| Part {
            content: span.piece.content.clone(),
            skip: span.offset,
            left: span.len,
            next_block: 0,
        });
        Plan {
            context,
            group,
            parts: parts.collect(),
            known: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Makes at least one piece ready, unless all were given.
    async fn load(&mut self) -> std::result::Result<(), PlanError> {
        while self.ready.is_empty() {
            let Some(part) = self.parts.front() else {
                return Ok(());
            };
            match &part.content {
                _ if part.left == 0 => drop(self.parts.pop_front()),
                PieceContent::Inline(bytes) => {
                    let wanted = part.skip as usize..(part.skip + part.left) as usize;
                    let piece = bytes.get(wanted).map(Bytes::copy_from_slice);
                    let piece = piece.ok_or_else(|| PlanError::Failed(misrecorded()))?;
                    self.ready.push_back(Piece::Inline(piece));
                    self.parts.pop_front();
                }
                PieceContent::Blocks(segment) => {
                    let segment = *segment;
                    self.load_blocks(segment).await?;
                }
            }
        }
        Ok(())
    }

    async fn load_blocks(&mut self, segment: SegmentId) -> std::result::Result<(), PlanError> {
        let Some(part) = self.parts.front_mut() else {
            return Ok(());
        };
        let likely = (part.skip + part.left) / self.context.options.block_bytes.max(1) as u64 + 2;
        let max = likely.min(u64::from(BLOCKS_AT_A_TIME)) as u32;
        let query = Query::Blocks {
            segment,
            from: part.next_block,
            max,
        };
        let blocks = match self.known.remove(&segment) {
            Some(blocks) => blocks,
            None => match self.context.meta.query(self.group, &query).await {
                Ok(Answer::Blocks(blocks)) => blocks,
                Ok(_) => return Err(PlanError::Failed(misrecorded())),
                Err(error) => return Err(PlanError::Failed(error)),
            },
        };
        let Some(first) = blocks.first() else {
            return Err(PlanError::Gone);
        };
        let block_len = first.len;
        if part.skip >= u64::from(block_len) * blocks.len() as u64 {
            // All blocks of a segment but the last have one length: go on where the wanted bytes begin.
            let over = ranges::block_at(block_len, part.skip);
            part.next_block += over;
            part.skip -= u64::from(over) * u64::from(block_len);
            return if over == 0 {
                Err(PlanError::Failed(misrecorded()))
            } else {
                Ok(())
            };
        }
        for record in blocks {
            let id = BlockId {
                group: self.group,
                segment,
                number: part.next_block,
            };
            part.next_block += 1;
            let len = u64::from(record.len);
            if part.skip >= len {
                part.skip -= len;
                continue;
            }
            let take = (len - part.skip).min(part.left);
            if take > 0 {
                let piece = Piece::Block {
                    id,
                    record,
                    skip: part.skip as usize,
                    take: take as usize,
                };
                self.ready.push_back(piece);
                part.left -= take;
            }
            part.skip = 0;
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<Piece>> {
        if let Err(error) = self.load().await {
            self.parts.clear();
            return Some(Err(error.into()));
        }
        self.ready.pop_front().map(Ok)
    }

    fn body(self, place: Option<OwnedSemaphorePermit>) -> Body {
        let context = self.context.clone();
        let read_ahead = context.options.read_ahead.max(1);
        let pieces = futures::stream::unfold(self, |mut plan| async move {
            let piece = plan.next().await?;
            Some((piece, plan))
        });
        let chunks = pieces
            .map(move |piece| {
                let context = context.clone();
                async move { (fetch(&context, piece).await, context) }
            })
            .buffered(read_ahead)
            .map(|(chunk, context)| given(&context, chunk));
        body_from(chunks.map(move |chunk| {
            let _ = &place;
            chunk
        }))
    }
}

/// The bytes of a piece, with the memory that was taken for them.
async fn fetch(
    context: &Context,
    piece: Result<Piece>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>)> {
    match piece? {
        Piece::Inline(bytes) => Ok((bytes, None)),
        Piece::Block {
            id,
            record,
            skip,
            take,
        } => {
            let room = context.limits.read_room(record.len as usize).await?;
            let data = context.read_block(id, &record).await?;
            if data.len() < skip + take {
                return Err(ObjectError::Internal(format!(
                    "block {id} is shorter than its record says"
                )));
            }
            Ok((data.slice(skip..skip + take), Some(room)))
        }
    }
}

fn given(context: &Context, chunk: Result<(Bytes, Option<OwnedSemaphorePermit>)>) -> BodyChunk {
    match chunk {
        Ok((bytes, _room)) => {
            context
                .metrics
                .objects_get_bytes_total
                .add(bytes.len() as u64);
            Ok(bytes)
        }
        Err(error) => Err(BodyError(error.to_string())),
    }
}
