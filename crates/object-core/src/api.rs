//! What a door may ask of the object store.
//!
//! [`Objects`] is the one interface between doors (S3, the command line) and the store. Rules (names, conditions, bounds,
//! ownership) are enforced behind it, the same for every door; a door translates and authenticates.
//!
//! Times are milliseconds since 1970 UTC. Sizes and offsets are bytes. Keys are UTF-8 of 1 to 1,024 bytes, kept as they are.

use std::collections::BTreeMap;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use ids::{BlockId, BucketId, Epoch, GroupId, NodeId, SegmentId, UploadId, UserId};
use serde::{Deserialize, Serialize};

/// The largest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;
/// Objects of up to this size live inside the metadata record, unless configured otherwise.
pub const INLINE_BYTES_DEFAULT: usize = 32 << 10;
/// Objects are cut into blocks of this size, unless configured otherwise.
pub const BLOCK_BYTES_DEFAULT: usize = 4 << 20;
/// The most keys on a list page.
pub const PAGE_KEYS_MAX: usize = 1000;
/// The highest part number; the lowest is 1.
pub const PART_NUMBER_MAX: u16 = 10_000;
/// Every part but the last has at least this many bytes.
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// The largest single PUT or part.
pub const PUT_BYTES_MAX: u64 = 5 << 30;
/// The largest object.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// User metadata, names and values together.
pub const USER_METADATA_BYTES_MAX: usize = 2 << 10;

/// A refusal or failure, in the store's own words; the S3 door has the one table to S3's codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ObjectError {
    #[error("there is no bucket `{0}`")]
    NoSuchBucket(String),
    #[error("the bucket name is taken by another user")]
    BucketTaken,
    #[error("the bucket exists and is yours already")]
    BucketYours,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// Another request to delete it came later, and goes on.
    #[error("another request deletes the bucket: look whether it is gone, or try again")]
    BucketBusy,
    #[error("`{name}` is not a bucket name: {why}")]
    BadBucketName { name: String, why: &'static str },
    #[error("too many buckets: a user may have {0}")]
    TooManyBuckets(usize),
    #[error("there is no such key")]
    NoSuchKey,
    #[error("there is no such version")]
    NoSuchVersion,
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, this one {0}")]
    KeyTooLong(usize),
    #[error("the metadata has {0} bytes; at most {USER_METADATA_BYTES_MAX} are kept")]
    MetadataTooLarge(usize),
    #[error("there is no such upload; it may have been completed or aborted")]
    NoSuchUpload,
    #[error("a listed part was not uploaded, or has another ETag")]
    InvalidPart,
    #[error("parts are listed in ascending order, each once")]
    InvalidPartOrder,
    #[error("part numbers go from 1 to {PART_NUMBER_MAX}")]
    BadPartNumber,
    #[error("part {part} has {size} bytes; only the last may be smaller than {PART_BYTES_MIN}")]
    PartTooSmall { part: u16, size: u64 },
    #[error("{size} bytes are over the bound of {max}")]
    EntityTooLarge { size: u64, max: u64 },
    #[error("the body ended after {got} of {expected} bytes")]
    IncompleteBody { got: u64, expected: u64 },
    #[error("the body could not be read: {0}")]
    BodyFailed(String),
    #[error("the {0} that was sent does not fit the body")]
    BadDigest(&'static str),
    #[error("a condition of the request does not hold: {0}")]
    PreconditionFailed(&'static str),
    /// Only for reads: the caller has the current version.
    #[error("not modified")]
    NotModified { etag: ETag, modified_ms: u64 },
    #[error("the range lies outside the {size} bytes of the object")]
    InvalidRange { size: u64 },
    #[error("access denied")]
    AccessDenied,
    #[error("invalid argument {name}: {why}")]
    InvalidArgument { name: &'static str, why: String },
    #[error("{0}")]
    InvalidRequest(String),
    #[error("{0} is not available yet")]
    NotImplemented(&'static str),
    /// Nothing was decided; ask again.
    #[error("the store can't answer now: {0}")]
    Unavailable(String),
    #[error("internal failure: {0}")]
    Internal(String),
}

/// Short for results of [`Objects`].
pub type Result<T> = std::result::Result<T, ObjectError>;

/// Who asks: an authenticated user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// The user's name, for owner elements.
    pub name: String,
    /// Whether the user may act on every bucket.
    pub admin: bool,
    /// Whether the user may change anything: a reader may not.
    pub may_write: bool,
}

impl Caller {
    /// Refuses whoever may only read.
    pub fn check_may_write(&self) -> Result<()> {
        match self.may_write {
            true => Ok(()),
            false => Err(ObjectError::AccessDenied),
        }
    }
}

/// One piece of a body.
pub type BodyChunk = std::result::Result<Bytes, BodyError>;
/// A body on its way in or out.
pub type Body = Pin<Box<dyn Stream<Item = BodyChunk> + Send + Sync>>;

/// A body that broke off.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub String);

/// The checksum algorithms of S3 besides MD5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ChecksumKind {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// Whether a multipart object's checksum covers all its bytes or the checksums of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChecksumScope {
    /// Of all bytes.
    FullObject,
    /// Of the parts' checksums, one after another.
    Composite,
}

/// A checksum of an object or part: raw bytes, big-endian for CRCs, as S3's base64 encodes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// The algorithm.
    pub kind: ChecksumKind,
    /// What it covers.
    pub scope: ChecksumScope,
    /// The value.
    pub value: Vec<u8>,
}

/// Gives the checksum that trails the body; called once, after the body ended.
pub type TrailingChecksum =
    Box<dyn FnOnce() -> std::result::Result<Option<Vec<u8>>, String> + Send + Sync>;

/// What a body must have turned out to be.
#[derive(Default)]
pub struct ExpectedDigests {
    /// From Content-MD5.
    pub md5: Option<[u8; 16]>,
    /// Compute and keep this checksum.
    pub checksum: Option<ChecksumKind>,
    /// Its value, when it was sent ahead of the body.
    pub value: Option<Vec<u8>>,
    /// Its value, when it trails the body.
    pub trailing: Option<TrailingChecksum>,
}

/// Headers that are stored with an object and given back as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ContentHeaders {
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub expires: Option<String>,
    pub website_redirect: Option<String>,
    pub storage_class: Option<String>,
    /// `x-amz-meta-*`, without the prefix, names in lower case.
    pub user: BTreeMap<String, String>,
}

/// An entity tag as stored: without quotes (`md5hex` or `md5hex-parts`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ETag(pub String);

/// If-Match or If-None-Match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ETagMatch {
    /// `*`: any current object.
    Any,
    /// One of these.
    OneOf(Vec<ETag>),
}

/// Conditions of a request, judged on the current object where the request takes effect (for writes inside the group).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Conditions {
    pub if_match: Option<ETagMatch>,
    pub if_none_match: Option<ETagMatch>,
    pub if_modified_since_ms: Option<u64>,
    pub if_unmodified_since_ms: Option<u64>,
    /// Only for deletes: the object must have this size.
    pub if_size: Option<u64>,
}

/// A version's name; until versioning comes every object has the one version that S3 calls `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VersionId {
    /// The version of a bucket without versioning.
    Null,
    /// A version of a versioned bucket.
    Numbered(u128),
}

/// What is known of an object without reading its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ObjectHead {
    pub version: VersionId,
    pub size: u64,
    pub etag: ETag,
    pub modified_ms: u64,
    pub headers: ContentHeaders,
    pub checksum: Option<Checksum>,
    /// Number of parts, when the object was uploaded in parts.
    pub parts: Option<u16>,
    pub owner: UserId,
}

/// Which bytes of an object are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=first-last`, the last clamped to the object's end.
    Between {
        /// First byte.
        first: u64,
        /// Last byte, included; `None`: to the end.
        last: Option<u64>,
    },
    /// `bytes=-len`: the last `len` bytes.
    Suffix(u64),
    /// All bytes of one part (`partNumber`).
    Part(u16),
}

/// A bucket, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct BucketInfo {
    pub id: BucketId,
    pub name: String,
    pub created_ms: u64,
    pub owner: UserId,
    pub owner_name: String,
}

/// A PUT, without its body.
#[derive(Default)]
#[allow(missing_docs)]
pub struct PutRequest {
    pub bucket: String,
    pub key: String,
    /// Length of the body, when it was announced.
    pub size: Option<u64>,
    pub headers: ContentHeaders,
    pub conditions: Conditions,
    pub digests: ExpectedDigests,
}

/// What a finished write says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Written {
    pub version: VersionId,
    pub etag: ETag,
    pub size: u64,
    pub modified_ms: u64,
    pub checksum: Option<Checksum>,
}

/// A GET or HEAD.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct GetRequest {
    pub bucket: String,
    pub key: String,
    pub version: Option<VersionId>,
    pub range: Option<ByteRange>,
    pub conditions: Conditions,
}

/// The answer to a GET; `body` has exactly `len` bytes from `offset` or breaks off.
#[allow(missing_docs)]
pub struct Got {
    pub head: ObjectHead,
    /// Where the answered range starts.
    pub offset: u64,
    /// The bytes of the answered range.
    pub len: u64,
    /// Whether a range was asked for (and so a partial answer is due).
    pub partial: bool,
    /// Empty for HEAD.
    pub body: Body,
}

/// A copy's source.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct CopySource {
    pub bucket: String,
    pub key: String,
    pub version: Option<VersionId>,
    pub conditions: Conditions,
    /// Only for part copies.
    pub range: Option<ByteRange>,
}

/// A server-side copy.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct CopyRequest {
    pub source: CopySource,
    pub bucket: String,
    pub key: String,
    /// New headers; `None` keeps the source's.
    pub replace_headers: Option<ContentHeaders>,
    pub conditions: Conditions,
    pub checksum: Option<ChecksumKind>,
}

/// A delete; deleting what is not there succeeds unless a condition says otherwise.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct DeleteRequest {
    pub bucket: String,
    pub key: String,
    pub version: Option<VersionId>,
    pub conditions: Conditions,
}

/// One page of a bucket's keys.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct ListRequest {
    pub bucket: String,
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Only keys and common prefixes after this one (excluded), in byte order. A common prefix up to and including this
    /// one is not listed again.
    pub after: Option<String>,
    /// At most this many keys and common prefixes together; 0 gives an empty page; capped at [`PAGE_KEYS_MAX`].
    pub max_keys: usize,
}

/// One key of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ListedObject {
    pub key: String,
    pub version: VersionId,
    pub size: u64,
    pub etag: ETag,
    pub modified_ms: u64,
    pub checksum_kind: Option<ChecksumKind>,
    pub owner: UserId,
}

/// A page of keys and common prefixes, each in byte order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// Keys that start with the prefix and don't fall under a common prefix.
    pub objects: Vec<ListedObject>,
    /// Prefixes up to and including the delimiter.
    pub common_prefixes: Vec<String>,
    /// Pass it as `after` to go on; `None` at the end.
    pub next: Option<String>,
}

/// Starts a multipart upload.
#[allow(missing_docs)]
pub struct CreateUploadRequest {
    pub bucket: String,
    pub key: String,
    pub headers: ContentHeaders,
    pub checksum: Option<(ChecksumKind, ChecksumScope)>,
}

/// Uploads one part (again).
#[allow(missing_docs)]
pub struct PartRequest {
    pub bucket: String,
    pub key: String,
    pub upload: UploadId,
    pub part: u16,
    pub size: Option<u64>,
    pub digests: ExpectedDigests,
}

/// A part that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PartInfo {
    pub part: u16,
    pub size: u64,
    pub etag: ETag,
    pub modified_ms: u64,
    pub checksum: Option<Checksum>,
}

/// A part as the completing caller lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CompletedPart {
    pub part: u16,
    pub etag: ETag,
    pub checksum: Option<Vec<u8>>,
}

/// Makes an object of an upload's parts.
#[allow(missing_docs)]
pub struct CompleteRequest {
    pub bucket: String,
    pub key: String,
    pub upload: UploadId,
    pub parts: Vec<CompletedPart>,
    pub conditions: Conditions,
    /// The whole object's checksum as the caller computed it.
    pub checksum: Option<Vec<u8>>,
    /// The whole object's size as the caller counted it.
    pub size: Option<u64>,
}

/// An upload in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct UploadInfo {
    pub key: String,
    pub upload: UploadId,
    pub created_ms: u64,
    pub owner: UserId,
    pub checksum: Option<(ChecksumKind, ChecksumScope)>,
    pub storage_class: Option<String>,
}

/// A page of a bucket's uploads, by key, then upload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct UploadPage {
    pub uploads: Vec<UploadInfo>,
    pub common_prefixes: Vec<String>,
    /// Key (and upload) to go on after.
    pub next: Option<(String, Option<UploadId>)>,
}

/// A page of an upload's parts, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartPage {
    pub upload: UploadInfo,
    pub parts: Vec<PartInfo>,
    /// Part number to go on after.
    pub next: Option<u16>,
}

/// Where an object is: key → placement group → servers → blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Whereabouts {
    pub bucket: BucketId,
    pub key_slot: u16,
    pub group: GroupId,
    /// The group's servers, the preferred leader first.
    pub group_servers: Vec<NodeId>,
    pub size: u64,
    /// Whether the bytes live in the metadata record itself.
    pub inline: bool,
    pub segments: Vec<SegmentId>,
    pub blocks: Vec<BlockPlace>,
}

/// Where one block is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BlockPlace {
    pub block: BlockId,
    pub len: u32,
    pub epoch: Epoch,
    /// The servers that should have a copy.
    pub servers: Vec<NodeId>,
    /// Those of them that are recorded as lacking it (debt).
    pub missing: Vec<NodeId>,
}

/// The object store, as doors see it. Every call checks that the caller may do it.
#[async_trait]
#[allow(missing_docs)]
pub trait Objects: Send + Sync + 'static {
    async fn create_bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo>;
    async fn head_bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo>;
    /// The caller's own buckets, by name.
    async fn list_buckets(&self, caller: &Caller) -> Result<Vec<BucketInfo>>;
    async fn delete_bucket(&self, caller: &Caller, name: &str) -> Result<()>;

    async fn put(&self, caller: &Caller, request: PutRequest, body: Body) -> Result<Written>;
    async fn get(&self, caller: &Caller, request: GetRequest) -> Result<Got>;
    /// As [`Objects::get`], with an empty body.
    async fn head(&self, caller: &Caller, request: GetRequest) -> Result<Got>;
    async fn delete(&self, caller: &Caller, request: DeleteRequest) -> Result<()>;
    /// One result per request, in their order; all are in one bucket.
    async fn delete_many(&self, caller: &Caller, requests: Vec<DeleteRequest>) -> Vec<Result<()>>;
    async fn copy(&self, caller: &Caller, request: CopyRequest) -> Result<Written>;
    async fn list(&self, caller: &Caller, request: ListRequest) -> Result<ListPage>;

    async fn create_upload(
        &self,
        caller: &Caller,
        request: CreateUploadRequest,
    ) -> Result<UploadId>;
    async fn put_part(&self, caller: &Caller, request: PartRequest, body: Body)
    -> Result<PartInfo>;
    async fn copy_part(
        &self,
        caller: &Caller,
        request: PartRequest,
        source: CopySource,
    ) -> Result<PartInfo>;
    async fn list_parts(
        &self,
        caller: &Caller,
        bucket: &str,
        key: &str,
        upload: UploadId,
        after: u16,
        max_parts: usize,
    ) -> Result<PartPage>;
    async fn list_uploads(
        &self,
        caller: &Caller,
        list: ListRequest,
        after_upload: Option<UploadId>,
    ) -> Result<UploadPage>;
    async fn complete_upload(&self, caller: &Caller, request: CompleteRequest) -> Result<Written>;
    async fn abort_upload(
        &self,
        caller: &Caller,
        bucket: &str,
        key: &str,
        upload: UploadId,
    ) -> Result<()>;

    async fn whereabouts(&self, caller: &Caller, bucket: &str, key: &str) -> Result<Whereabouts>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_refused_where_a_writer_goes_on() {
        let may = |may_write| Caller {
            user: UserId::default(),
            name: "u".into(),
            admin: false,
            may_write,
        };
        assert_eq!(may(true).check_may_write(), Ok(()));
        assert_eq!(may(false).check_may_write(), Err(ObjectError::AccessDenied));
    }
}
