//! Messages of the block service. Each starts with [`BLOCKS_FORMAT`]; an unknown version is refused in words.

use bytes::Bytes;
use ids::{BlockId, GroupId, SegmentId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::BulkStream;

use crate::volume::{BlockError, StoreStats};

/// Version of the messages.
pub const BLOCKS_FORMAT: u8 = 1;
/// Blocks up to this size travel in calls.
pub const CALL_BLOCK_MAX: usize = 1 << 20;
/// The most block ids in one call.
pub const IDS_MAX: usize = 10_000;
/// The largest answer frame on a stream.
const FRAME_MAX: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub enum BlockCall {
    Put {
        id: BlockId,
        hash: [u8; 32],
        data: Bytes,
    },
    Get(BlockId),
    Delete(Vec<BlockId>),
    /// Removes whatever is there of these segments.
    DeleteSegments(GroupId, Vec<SegmentId>),
    Has(Vec<BlockId>),
    OlderThan {
        before_s: u32,
        after: Option<BlockId>,
        max: u32,
    },
    /// A reader found the copy damaged: look at it.
    Verify(BlockId),
    Stats,
}

/// What a bulk stream is for.
#[derive(Debug, Serialize, Deserialize)]
pub enum StreamOpen {
    /// `len` bytes follow; an answer frame comes back.
    Put {
        id: BlockId,
        hash: [u8; 32],
        len: u32,
    },
    /// An answer frame comes back, then the bytes if it is [`BlockAnswer::Found`].
    Get(BlockId),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum BlockAnswer {
    Done,
    Block {
        hash: [u8; 32],
        data: Bytes,
    },
    Found {
        hash: [u8; 32],
        len: u32,
    },
    Deleted(u32),
    Has(Vec<bool>),
    Page {
        ids: Vec<BlockId>,
        next: Option<BlockId>,
    },
    Stats(StoreStats),
    Failed(Failure),
}

/// Why a node did not do it, as far as the asker acts on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    NotFound,
    Corrupt,
    Conflict,
    Busy,
    Other(String),
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::NotFound(_) => Failure::NotFound,
            BlockError::Corrupt(_) => Failure::Corrupt,
            BlockError::Conflict(_) => Failure::Conflict,
            BlockError::Busy(_) => Failure::Busy,
            other => Failure::Other(other.to_string()),
        }
    }
}

pub fn encode<T: Serialize>(message: &T) -> Bytes {
    raft_machine::encode(BLOCKS_FORMAT, message).into()
}

pub fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, String> {
    raft_machine::decode(what, BLOCKS_FORMAT, bytes).map_err(|error| error.to_string())
}

pub async fn write_frame(stream: &mut BulkStream, answer: &BlockAnswer) -> std::io::Result<()> {
    let bytes = encode(answer);
    stream.write_u32_le(bytes.len() as u32).await?;
    stream.write_all(&bytes).await
}

pub async fn read_frame(stream: &mut BulkStream) -> std::io::Result<BlockAnswer> {
    let invalid = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    let len = stream.read_u32_le().await? as usize;
    if len > FRAME_MAX {
        return Err(invalid(format!(
            "an answer of {len} bytes is over the bound of {FRAME_MAX}"
        )));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    decode("a block answer", &bytes).map_err(invalid)
}
