//! Commands, queries and answers of the metadata state machine of a placement group.
//!
//! A gateway proposes [`Command`]s and asks [`Query`]s; the machine that applies them is [`machine::MetaMachine`].
//!
//! # Life of an object's bytes
//! ```text
//! BeginSegment ──▶ pending ──AppendBlocks*──▶ pending ──PutObject / PutPart──▶ owned by a version / a part
//!                    │                                                             │ overwrite, delete, abort,
//!                    └── GiveUpSegments ──▶ doomed ◀────────────────────────────────┘ part replaced or left out
//!                                             │  the collector removes the blocks from every server, then
//!                                             └── ForgetSegments ──▶ nothing
//! ```
//! Invariants:
//! - a segment is in exactly one of: pending, owned by one version or part, doomed, unknown;
//! - a commit whose segment is not pending any more is refused ([`Refused::SegmentGone`]), so that a collector may remove
//!   blocks of a segment that was given up, however late its gateway comes;
//! - whatever is visible to a reader is complete: its segments' block lists were committed before it;
//! - no segment begins whose blocks would be placed by an older epoch than the newest that the group has heard of;
//! - no command is larger than 1 MiB: a segment's block list comes in pages of at most [`BLOCKS_PER_PAGE`].

use ids::{BucketId, Epoch, NodeId, SegmentId, UploadId, UserId};
use serde::{Deserialize, Serialize};

use crate::api::{
    Checksum, ChecksumKind, ChecksumScope, CompletedPart, Conditions, ContentHeaders, ETag,
    ListedObject, ObjectHead, PartInfo, UploadInfo, VersionId, Written,
};

mod change;
mod debt;
mod epochs;
mod fences;
mod inline_bytes;
mod keys;
pub mod listing;
pub mod machine;
mod multipart;
mod objects;
mod records;
mod segments;
mod stats;
mod uploads;

pub use fences::DeletionAttempt;

/// Version of encoded commands, queries and answers.
pub const META_FORMAT: u8 = 1;
/// The most blocks on one page of a segment's list.
pub const BLOCKS_PER_PAGE: usize = 4096;

/// One block of a segment; its number is its position in the segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    /// Bytes in the block.
    pub len: u32,
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// The epoch whose placement says where the copies are.
    pub epoch: Epoch,
    /// Servers of that placement that did not confirm their copy: debt, to be paid by repair.
    pub missing: Vec<NodeId>,
}

/// A page of a segment's block list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PageAt {
    /// The segment.
    pub segment: SegmentId,
    /// Number of the page, from 0.
    pub page: u32,
}

/// Where in a bucket a key lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRef {
    /// The bucket.
    pub bucket: BucketId,
    /// The key's slot, see [`crate::slots`].
    pub slot: u16,
    /// The key.
    pub key: String,
}

/// What an object's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The bytes themselves.
    Inline(#[serde(with = "inline_bytes")] Vec<u8>),
    /// A pending segment, with the blocks that no [`Command::AppendBlocks`] brought yet.
    Segment {
        /// The segment.
        segment: SegmentId,
        /// Its last blocks.
        tail: Vec<BlockRecord>,
    },
}

/// What a version of an object is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewObject {
    /// Length of all bytes.
    pub size: u64,
    /// The entity tag.
    pub etag: ETag,
    /// By the gateway's clock.
    pub modified_ms: u64,
    /// As they came.
    pub headers: ContentHeaders,
    /// The checksum that was asked for, verified.
    pub checksum: Option<Checksum>,
    /// Who wrote it.
    pub owner: UserId,
}

/// A change of a group's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// As [`Command::BeginSegmentIn`] from a program that did not say its epoch: logs may still hold it.
    BeginSegment {
        /// Its key: the slot must not be fenced.
        at: KeyRef,
        /// The new segment.
        segment: SegmentId,
        /// By the gateway's clock; a reconciler gives up segments that stay pending too long.
        started_ms: u64,
    },
    /// Adds the next page of exactly [`BLOCKS_PER_PAGE`] blocks to a pending segment.
    AppendBlocks {
        /// The segment.
        segment: SegmentId,
        /// Number of the page, from 0; pages come in order.
        page: u32,
        /// The blocks.
        blocks: Vec<BlockRecord>,
    },
    /// Makes an object the current one of its key, if the conditions hold.
    PutObject {
        /// Its key.
        at: KeyRef,
        /// Judged on the current object.
        conditions: Conditions,
        /// All but the bytes.
        object: NewObject,
        /// The bytes.
        content: Content,
    },
    /// Removes an object, if the conditions hold; fine when there is none.
    DeleteObject {
        /// Its key.
        at: KeyRef,
        /// Which version; `None`: the current one.
        version: Option<VersionId>,
        /// Judged on the current object.
        conditions: Conditions,
    },
    /// Starts a multipart upload.
    CreateUpload {
        /// The key that it will make.
        at: KeyRef,
        /// The new upload.
        upload: UploadId,
        /// Headers of the object to be.
        headers: ContentHeaders,
        /// The checksum that parts and object will have.
        checksum: Option<(ChecksumKind, ChecksumScope)>,
        /// Who started it.
        owner: UserId,
        /// By the gateway's clock.
        created_ms: u64,
    },
    /// Adds or replaces a part.
    PutPart {
        /// The upload's key.
        at: KeyRef,
        /// The upload.
        upload: UploadId,
        /// The part.
        part: PartInfo,
        /// Its bytes: small ones inline, too.
        content: Content,
    },
    /// Makes an object of the listed parts; the others are doomed. Asked again by a caller that lost the answer, it gives
    /// the same one as long as the key shows that object.
    CompleteUpload {
        /// The upload's key.
        at: KeyRef,
        /// The upload.
        upload: UploadId,
        /// In ascending order.
        parts: Vec<CompletedPart>,
        /// Judged on the current object.
        conditions: Conditions,
        /// The whole object's checksum, if the caller sent one.
        checksum: Option<Vec<u8>>,
        /// The whole object's size, if the caller sent one.
        size: Option<u64>,
        /// By the gateway's clock.
        modified_ms: u64,
    },
    /// Forgets an upload and dooms its parts.
    AbortUpload {
        /// The upload's key.
        at: KeyRef,
        /// The upload.
        upload: UploadId,
    },
    /// Dooms pending segments whose gateways are taken for gone.
    GiveUpSegments(Vec<SegmentId>),
    /// Drops doomed segments whose blocks were removed from every server.
    ForgetSegments(Vec<SegmentId>),
    /// Replaces the records of blocks whose copies were made or moved; skipped where the old record changed meanwhile.
    UpdateBlocks {
        /// The segment.
        segment: SegmentId,
        /// Number, old and new record.
        blocks: Vec<(u32, BlockRecord, BlockRecord)>,
    },
    /// Closes key slots of a bucket for writes, if they hold no object and no upload and no newer attempt was there.
    FenceSlots {
        /// The bucket.
        bucket: BucketId,
        /// Its slots in this group.
        slots: Vec<u16>,
        /// Who deletes it.
        attempt: DeletionAttempt,
    },
    /// Opens them again, whoever closed them, after a bucket's deletion was called off; unless a newer attempt was there.
    UnfenceSlots {
        /// The bucket.
        bucket: BucketId,
        /// Its slots in this group.
        slots: Vec<u16>,
        /// Who calls its deletion off.
        attempt: DeletionAttempt,
    },
    /// Announces a stream of blocks before the first is written. The group hears of the epoch, as of
    /// [`Command::HearOfEpoch`].
    BeginSegmentIn {
        /// Its key: the slot must not be fenced.
        at: KeyRef,
        /// The new segment.
        segment: SegmentId,
        /// By the gateway's clock; a reconciler gives up segments that stay pending too long.
        started_ms: u64,
        /// The newest epoch that the gateway knows: its blocks are placed by this one, or by newer ones.
        epoch: Epoch,
    },
    /// Tells the group that there is an epoch; refused if it has heard of a newer one.
    HearOfEpoch(Epoch),
}

impl Command {
    /// The key that the command is about, if it is about one.
    pub fn key_mut(&mut self) -> Option<&mut KeyRef> {
        match self {
            Command::BeginSegment { at, .. }
            | Command::BeginSegmentIn { at, .. }
            | Command::PutObject { at, .. }
            | Command::DeleteObject { at, .. }
            | Command::CreateUpload { at, .. }
            | Command::PutPart { at, .. }
            | Command::CompleteUpload { at, .. }
            | Command::AbortUpload { at, .. } => Some(at),
            Command::AppendBlocks { .. }
            | Command::GiveUpSegments(_)
            | Command::ForgetSegments(_)
            | Command::UpdateBlocks { .. }
            | Command::FenceSlots { .. }
            | Command::UnfenceSlots { .. }
            | Command::HearOfEpoch(_) => None,
        }
    }
}

/// Why a command was not carried out; it changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Refused {
    /// The bucket is being deleted, or was.
    Fenced,
    /// Objects or uploads are left in a slot.
    SlotNotEmpty,
    /// A condition does not hold.
    Precondition(String),
    /// A condition needs an object that is not there.
    NoSuchKey,
    NoSuchUpload,
    InvalidPart,
    InvalidPartOrder,
    PartTooSmall {
        part: u16,
        size: u64,
    },
    TooLarge {
        size: u64,
    },
    BadDigest,
    InvalidRequest(String),
    /// The segment was given up or never begun.
    SegmentGone,
    /// A page came out of order.
    PageOutOfOrder,
    /// A newer attempt deletes the bucket, or this one was called off.
    Overtaken,
    /// The group has heard of a newer epoch: blocks that an older one places may have too few copies.
    OldEpoch {
        newest: Epoch,
    },
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Carried out.
    Done,
    /// An object was written.
    Written(Written),
    /// A part was written.
    Part(PartInfo),
    /// Nothing was changed.
    Refused(Refused),
}

/// A question about a group's metadata. Where key slots show nothing because they are fenced, the answer is
/// [`Answer::Fenced`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The current (or a given) version of a key.
    Head {
        /// The key.
        at: KeyRef,
        /// `None`: the current one.
        version: Option<VersionId>,
        /// Inline bytes, too.
        with_content: bool,
    },
    /// Blocks of a segment: those numbered `from` and up, at most `max`.
    Blocks {
        /// The segment.
        segment: SegmentId,
        /// First block.
        from: u32,
        /// At most [`BLOCKS_PER_PAGE`].
        max: u32,
    },
    /// One sorted page over several slots of a bucket.
    List {
        /// The bucket.
        bucket: BucketId,
        /// Its slots in this group.
        slots: Vec<u16>,
        /// Only keys that start so.
        prefix: String,
        /// Rolls keys up into common prefixes.
        delimiter: Option<String>,
        /// Only what comes after.
        after: Option<String>,
        /// Keys and common prefixes together.
        max: u32,
    },
    /// Uploads in several slots of a bucket, by key, then upload.
    ListUploads {
        /// The bucket.
        bucket: BucketId,
        /// Its slots in this group.
        slots: Vec<u16>,
        /// Only keys that start so.
        prefix: String,
        /// Only what comes after; with no upload: after all of that key's.
        after: Option<(String, Option<UploadId>)>,
        /// At most this many.
        max: u32,
    },
    /// An upload and a page of its parts.
    ListParts {
        /// The upload's key.
        at: KeyRef,
        /// The upload.
        upload: UploadId,
        /// Parts with higher numbers.
        after: u16,
        /// At most this many.
        max: u32,
    },
    /// The first pending segments, oldest id first, with their start.
    Pending {
        /// At most this many.
        max: u32,
    },
    /// The first doomed segments.
    Doomed {
        /// At most this many.
        max: u32,
    },
    /// Which of these segments the group knows in any state (a server asks before it removes orphans).
    Known(Vec<SegmentId>),
    /// Blocks that have debt, or were placed in one of some epochs.
    Debt {
        /// Also blocks of these epochs.
        thin: Vec<Epoch>,
        /// Only blocks on pages after this one.
        after: Option<PageAt>,
        /// At most this many blocks.
        max: u32,
    },
    /// Counts for status: see [`MetaStats`].
    Stats,
    /// As [`Query::Head`] with content, and the blocks that a reader begins with: a small object is read with one question.
    Read {
        /// The key.
        at: KeyRef,
        /// `None`: the current one.
        version: Option<VersionId>,
        /// Lists of the first segments, each whole, as long as all together have at most this many blocks.
        blocks_max: u32,
    },
    /// The newest epoch that the group has heard of, and how many blocks there are of each.
    Epochs,
}

/// A version with what a reader begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readable {
    /// What is known of it.
    pub head: ObjectHead,
    /// What it is made of, with inline bytes.
    pub stored: Stored,
    /// The whole block lists of its first segments; see [`Query::Read`].
    pub blocks: Vec<(SegmentId, Vec<BlockRecord>)>,
}

/// What a version is made of, for readers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// The bytes (empty unless they were asked for).
    Inline(#[serde(with = "inline_bytes")] Vec<u8>),
    /// Pieces, in order.
    Segments(Vec<StoredSegment>),
}

/// A piece of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSegment {
    /// Part number; 0 for a simple PUT.
    pub part: u16,
    /// Bytes in the piece.
    pub size: u64,
    /// Where they are.
    pub content: PieceContent,
}

/// Bytes of a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceContent {
    /// A small part's bytes.
    Inline(#[serde(with = "inline_bytes")] Vec<u8>),
    /// Blocks, see [`Query::Blocks`].
    Blocks(SegmentId),
}

/// Counts of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaStats {
    /// Current objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Multipart uploads in progress.
    pub uploads: u64,
    /// Segments that are pending.
    pub pending: u64,
    /// Segments that wait for collection.
    pub doomed: u64,
    /// Blocks with debt.
    pub debt: u64,
}

/// The answer to a query.
// One is made at a time, and encoded at once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Answer {
    Head(Option<(ObjectHead, Stored)>),
    Blocks(Vec<BlockRecord>),
    /// The page's keys and common prefixes; `next` as in [`crate::api::ListPage`].
    List {
        objects: Vec<ListedObject>,
        common_prefixes: Vec<String>,
        next: Option<String>,
    },
    Uploads {
        uploads: Vec<UploadInfo>,
        more: bool,
    },
    Parts(Option<(UploadInfo, Vec<PartInfo>, bool)>),
    Pending(Vec<(SegmentId, u64)>),
    /// Segments with, for each block, number and epoch (where to look for copies); one segment's list may be cut, the
    /// rest comes after `ForgetSegments` of none: the collector reads the whole list by [`Query::Blocks`].
    Doomed(Vec<SegmentId>),
    Known(Vec<bool>),
    Debt {
        blocks: Vec<(SegmentId, u32, BlockRecord)>,
        /// Pass it as `after` to go on.
        next: Option<PageAt>,
    },
    Stats(MetaStats),
    Read(Option<Readable>),
    Epochs {
        /// `None`: the group has heard of none yet, and counts no blocks.
        newest: Option<Epoch>,
        /// Blocks without debt of segments that are not doomed, by epoch, ascending.
        whole: Vec<(Epoch, u64)>,
    },
    /// All slots that were asked are fenced: they hold nothing, and their bucket is being deleted, or was.
    Fenced,
}
