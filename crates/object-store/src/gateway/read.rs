//! Reading an object: its head from the group, then its blocks, a few ahead of the reader.
//!
//! The records of a small object's blocks come with its head: one question. Of a larger one, the first page of records is
//! asked for before the answer begins; if the object was replaced or deleted between the two questions, the read starts
//! over. Later on such a read ends with the old bytes or breaks off.
//!
//! Memory: a block takes room from the node's budget before it is read, and holds it until the last of its bytes is gone,
//! wherever it went. So that readers who stall can't use the budget up:
//! - blocks are read ahead only while half of the budget stays free;
//! - bytes are handed out in small pieces: slices of the block while half of the budget is free, else copies, which are
//!   not counted. A door holds one or two of them at a time, so what stalled readers pin is bounded;
//! - a block that was kept for a while gives way to others who wait: it is read again when its reader comes for more;
//! - a reader that is slow as well is then broken off instead, unless there is room at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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
use tokio::time::Instant;

use crate::gateway::body::{Kept, body_from, body_of, with_room};
use crate::gateway::{Context, Target, ask, refusals};

/// Block records that come with a head.
const BLOCKS_WITH_HEAD_MAX: u32 = 64;
/// Block records that are asked for at one time.
const BLOCKS_AT_A_TIME: u32 = 1024;
/// How often a read starts over because its object was replaced meanwhile.
const ATTEMPTS: usize = 5;
/// A block's bytes are handed out in pieces of up to this size.
const PIECE_BYTES: usize = 64 << 10;
/// A reader that took so long for a piece is slow.
const SLOW_AFTER: Duration = Duration::from_secs(5);

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
    Block(Wanted),
}

/// The wanted bytes of a block.
#[derive(Debug, Clone)]
struct Wanted {
    id: BlockId,
    record: BlockRecord,
    skip: usize,
    take: usize,
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
                self.ready.push_back(Piece::Block(Wanted {
                    id,
                    record,
                    skip: part.skip as usize,
                    take: take as usize,
                }));
                part.left -= take;
            }
            part.skip = 0;
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<Piece>> {
        if let Err(error) = self.load().await {
            self.end();
            return Some(Err(error.into()));
        }
        self.ready.pop_front().map(Ok)
    }

    /// Nothing more is wanted.
    fn end(&mut self) {
        self.parts.clear();
        self.ready.clear();
    }

    fn body(self, place: Option<OwnedSemaphorePermit>) -> Body {
        let outgoing = Outgoing {
            plan: self,
            coming: VecDeque::new(),
            handed_at: None,
            _place: place,
        };
        let chunks = futures::stream::unfold(outgoing, |mut outgoing| async move {
            let chunk = outgoing.next().await?;
            Some((chunk, outgoing))
        });
        body_from(chunks)
    }
}

/// A body on its way out.
struct Outgoing {
    plan: Plan,
    /// What comes next: the block that is being handed out, and those that are read ahead.
    coming: VecDeque<Coming>,
    /// When the reader got its last piece.
    handed_at: Option<Instant>,
    _place: Option<OwnedSemaphorePermit>,
}

enum Coming {
    Inline(Bytes),
    Block(Block),
    Failed(ObjectError),
}

impl Outgoing {
    /// The next piece, when the reader asks for it; after an error there is none.
    async fn next(&mut self) -> Option<BodyChunk> {
        let is_slow = self
            .handed_at
            .is_some_and(|handed| handed.elapsed() >= SLOW_AFTER);
        self.look_ahead().await;
        let context = &self.plan.context;
        let piece = match self.coming.pop_front()? {
            Coming::Inline(bytes) => Ok(bytes),
            Coming::Failed(error) => Err(error),
            Coming::Block(mut block) => {
                let piece = block.next(context, is_slow).await;
                if block.wanted.take > 0 {
                    self.coming.push_front(Coming::Block(block));
                }
                piece
            }
        };
        self.handed_at = Some(Instant::now());
        match piece {
            Ok(bytes) => {
                let len = bytes.len() as u64;
                context.metrics.objects_get_bytes_total.add(len);
                Some(Ok(bytes))
            }
            Err(error) => {
                self.coming.clear();
                self.plan.end();
                Some(Err(BodyError(error.to_string())))
            }
        }
    }

    /// Plans what comes next, and begins to read it while memory is ample.
    async fn look_ahead(&mut self) {
        while self.coming.len() <= self.plan.context.options.read_ahead {
            let Some(piece) = self.plan.next().await else {
                break;
            };
            self.coming.push_back(match piece {
                Ok(Piece::Inline(bytes)) => Coming::Inline(bytes),
                Ok(Piece::Block(wanted)) => Coming::Block(Block { wanted, kept: None }),
                Err(error) => Coming::Failed(error),
            });
        }
        for coming in &mut self.coming {
            if let Coming::Block(block) = coming
                && !block.read_ahead(&self.plan.context)
            {
                break;
            }
        }
    }
}

/// A block on its way out.
struct Block {
    /// What was not handed out yet.
    wanted: Wanted,
    /// The same, where it is being read or was.
    kept: Option<Kept>,
}

impl Block {
    /// Begins to read the block unless memory is short; whether it is begun.
    fn read_ahead(&mut self, context: &Arc<Context>) -> bool {
        if self.kept.is_none()
            && let Some(room) = context.limits.ahead_room(self.wanted.record.len as usize)
        {
            self.kept = Some(self.wanted.read(context, room));
        }
        self.kept.is_some()
    }

    /// The next piece.
    async fn next(&mut self, context: &Arc<Context>, is_slow: bool) -> Result<Bytes> {
        loop {
            let mut kept = match self.kept.take() {
                Some(kept) => kept,
                None => {
                    let room = self.wanted.room(context, is_slow).await?;
                    self.wanted.read(context, room)
                }
            };
            // Without a piece it gave way to others meanwhile, and is read again.
            if let Some(piece) = kept.next(PIECE_BYTES).await? {
                self.kept = Some(kept);
                self.wanted.skip += piece.len();
                self.wanted.take -= piece.len();
                return Ok(match context.limits.is_ample() {
                    true => piece,
                    // A slice would pin the whole block for as long as its reader likes.
                    false => Bytes::copy_from_slice(&piece),
                });
            }
        }
    }
}

impl Wanted {
    /// Memory for the whole block.
    async fn room(&self, context: &Context, is_slow: bool) -> Result<OwnedSemaphorePermit> {
        let bytes = self.record.len as usize;
        match is_slow {
            true => context.limits.read_room_now(bytes).ok_or_else(too_slow),
            false => context.limits.read_room(bytes).await,
        }
    }

    /// Begins to read the wanted bytes, in a task of its own.
    fn read(&self, context: &Arc<Context>, room: OwnedSemaphorePermit) -> Kept {
        let (wanted, reading, looking) = (self.clone(), context.clone(), context.clone());
        let read = async move {
            let data = reading.read_block(wanted.id, &wanted.record).await?;
            let end = wanted.skip + wanted.take;
            if data.len() < end {
                return Err(ObjectError::Internal(format!(
                    "block {} is shorter than its record says",
                    wanted.id
                )));
            }
            Ok(with_room(data.slice(wanted.skip..end), room))
        };
        Kept::read(read, move || looking.limits.is_short_of_read_room())
    }
}

fn too_slow() -> ObjectError {
    ObjectError::Unavailable("memory is short, and the body is read too slowly".into())
}
