//! The way to the blocks of any server of the site, this one included.
//!
//! Every request ends by a deadline. A failed put may have been carried out; puts and deletes may be repeated.
//! A peer refuses more than a number of streams: those of this node wait for each other instead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ids::{BlockId, GroupId, NodeId, SegmentId};
use platform::Platform;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use transport::{Service, Transport, TransportError};

use crate::service::wire::{
    BlockAnswer, BlockCall, CALL_BLOCK_MAX, Failure, IDS_MAX, StreamOpen, decode, encode,
    read_frame,
};
use crate::volume::{BLOCK_BYTES_MAX, BlockError, BlockStore, StoreStats};

const CALL_DEADLINE: Duration = Duration::from_secs(10);
const STREAM_DEADLINE: Duration = Duration::from_secs(30);
/// Streams to one peer at a time. It serves 64 of a node; some are left for other services, and for those of which it has
/// not seen the end yet.
const STREAMS_PER_PEER_MAX: usize = 48;

/// Why one node's copy could not be written, read or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CopyError {
    #[error("node {0} has no copy")]
    NotFound(NodeId),
    #[error("the copy on node {0} is damaged")]
    Corrupt(NodeId),
    #[error("node {0} holds other bytes under the block's id")]
    Conflict(NodeId),
    #[error("node {0} is busy with the block")]
    Busy(NodeId),
    #[error("{0}")]
    Unreachable(String),
    #[error("node {node} failed: {why}")]
    Failed { node: NodeId, why: String },
}

/// Blocks of this node and of its peers.
pub struct BlockPeers {
    me: NodeId,
    store: Arc<BlockStore>,
    transport: Arc<dyn Transport>,
    platform: Arc<dyn Platform>,
    /// Places for streams; one entry for each node that was ever asked.
    streams: Mutex<BTreeMap<NodeId, Arc<Semaphore>>>,
}

impl BlockPeers {
    /// For node `me` with its own `store`.
    pub fn new(
        me: NodeId,
        store: Arc<BlockStore>,
        transport: Arc<dyn Transport>,
        platform: Arc<dyn Platform>,
    ) -> Self {
        BlockPeers {
            me,
            store,
            transport,
            platform,
            streams: Mutex::default(),
        }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// This node's own store.
    pub fn store(&self) -> &Arc<BlockStore> {
        &self.store
    }

    /// Stores a block, whose hash this process computed or verified, on a node; returns when it is durable there.
    pub async fn put(
        &self,
        to: NodeId,
        id: BlockId,
        hash: [u8; 32],
        data: Bytes,
    ) -> Result<(), CopyError> {
        if to == self.me {
            return self
                .store
                .put_hashed(id, hash, data)
                .await
                .map_err(|error| self.own(error));
        }
        let answer = if data.len() <= CALL_BLOCK_MAX {
            self.call(to, &BlockCall::Put { id, hash, data }).await?
        } else {
            in_time(to, self.put_by_stream(to, id, hash, data)).await?
        };
        match answer {
            BlockAnswer::Done => Ok(()),
            other => Err(unexpected(to, other)),
        }
    }

    /// Reads a block of `len` bytes from a node and verifies it.
    pub async fn get(
        &self,
        from: NodeId,
        id: BlockId,
        len: u32,
        hash: [u8; 32],
    ) -> Result<Bytes, CopyError> {
        if from == self.me {
            let block = self.store.get(id).await.map_err(|error| self.own(error))?;
            return if block.hash == hash {
                Ok(block.data)
            } else {
                Err(CopyError::Conflict(from))
            };
        }
        let data = if len as usize <= CALL_BLOCK_MAX {
            match self.call(from, &BlockCall::Get(id)).await? {
                BlockAnswer::Block { data, .. } => data,
                other => return Err(unexpected(from, other)),
            }
        } else {
            in_time(from, self.get_by_stream(from, id)).await?
        };
        let bytes = data.clone();
        if self
            .platform
            .blocking(move || *blake3::hash(&bytes).as_bytes() == hash)
            .await
        {
            return Ok(data);
        }
        // Lets the node find out, and count, that its copy is damaged; the reader goes to another copy anyway.
        let _ = self.call(from, &BlockCall::Verify(id)).await;
        Err(CopyError::Corrupt(from))
    }

    /// Removes blocks from a node; fine when they are not there.
    pub async fn delete(&self, on: NodeId, ids: &[BlockId]) -> Result<(), CopyError> {
        for page in ids.chunks(IDS_MAX) {
            if on == self.me {
                self.store
                    .delete(page)
                    .await
                    .map_err(|error| self.own(error))?;
                continue;
            }
            match self.call(on, &BlockCall::Delete(page.to_vec())).await? {
                BlockAnswer::Deleted(_) => {}
                other => return Err(unexpected(on, other)),
            }
        }
        Ok(())
    }

    /// Removes all blocks of segments from a node; fine when there are none.
    pub async fn delete_segments(
        &self,
        on: NodeId,
        group: GroupId,
        segments: &[SegmentId],
    ) -> Result<(), CopyError> {
        for page in segments.chunks(IDS_MAX) {
            if on == self.me {
                self.store
                    .delete_segments(group, page)
                    .await
                    .map_err(|error| self.own(error))?;
                continue;
            }
            match self
                .call(on, &BlockCall::DeleteSegments(group, page.to_vec()))
                .await?
            {
                BlockAnswer::Deleted(_) => {}
                other => return Err(unexpected(on, other)),
            }
        }
        Ok(())
    }

    /// Which of these blocks (at most 10,000) a node has.
    pub async fn has(&self, on: NodeId, ids: &[BlockId]) -> Result<Vec<bool>, CopyError> {
        if on == self.me {
            return Ok(self.store.has(ids));
        }
        match self.call(on, &BlockCall::Has(ids.to_vec())).await? {
            BlockAnswer::Has(has) if has.len() == ids.len() => Ok(has),
            other => Err(unexpected(on, other)),
        }
    }

    /// What a node's store holds.
    pub async fn stats(&self, of: NodeId) -> Result<StoreStats, CopyError> {
        if of == self.me {
            return Ok(self.store.stats());
        }
        match self.call(of, &BlockCall::Stats).await? {
            BlockAnswer::Stats(stats) => Ok(stats),
            other => Err(unexpected(of, other)),
        }
    }

    async fn call(&self, to: NodeId, call: &BlockCall) -> Result<BlockAnswer, CopyError> {
        let answer = self
            .transport
            .call(to, Service::BLOCKS, encode(call), CALL_DEADLINE)
            .await;
        let answer = answer.map_err(|error| unreachable_node(&error))?;
        decode("a block answer", &answer).map_err(|why| CopyError::Failed { node: to, why })
    }

    async fn open(
        &self,
        to: NodeId,
        open: &StreamOpen,
    ) -> Result<transport::BulkStream, CopyError> {
        let stream = self
            .transport
            .stream(to, Service::BLOCKS, encode(open))
            .await;
        stream.map_err(|error| unreachable_node(&error))
    }

    /// A place for a stream to a peer, to be held as long as the stream.
    async fn stream_place(&self, to: NodeId) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(STREAMS_PER_PEER_MAX));
            streams.entry(to).or_insert_with(new).clone()
        };
        // Never closed.
        places.acquire_owned().await.ok()
    }

    async fn put_by_stream(
        &self,
        to: NodeId,
        id: BlockId,
        hash: [u8; 32],
        data: Bytes,
    ) -> Result<BlockAnswer, CopyError> {
        let broken = broken(to);
        let _place = self.stream_place(to).await;
        let mut stream = self
            .open(
                to,
                &StreamOpen::Put {
                    id,
                    hash,
                    len: data.len() as u32,
                },
            )
            .await?;
        stream.write_all(&data).await.map_err(&broken)?;
        stream.shutdown().await.map_err(&broken)?;
        read_frame(&mut stream).await.map_err(&broken)
    }

    async fn get_by_stream(&self, from: NodeId, id: BlockId) -> Result<Bytes, CopyError> {
        let broken = broken(from);
        let _place = self.stream_place(from).await;
        let mut stream = self.open(from, &StreamOpen::Get(id)).await?;
        stream.shutdown().await.map_err(&broken)?;
        let len = match read_frame(&mut stream).await.map_err(&broken)? {
            BlockAnswer::Found { len, .. } if len as usize <= BLOCK_BYTES_MAX => len as usize,
            other => return Err(unexpected(from, other)),
        };
        let mut data = BytesMut::with_capacity(len);
        let mut rest = stream.take(len as u64);
        while data.len() < len {
            if rest.read_buf(&mut data).await.map_err(&broken)? == 0 {
                return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(data.freeze())
    }

    fn own(&self, error: BlockError) -> CopyError {
        failed(self.me, error.into())
    }
}

async fn in_time<T>(
    node: NodeId,
    work: impl Future<Output = Result<T, CopyError>>,
) -> Result<T, CopyError> {
    match timeout(STREAM_DEADLINE, work).await {
        Ok(result) => result,
        Err(_) => Err(unreachable_node(&TransportError::DeadlineExceeded(node))),
    }
}

fn broken(node: NodeId) -> impl Fn(std::io::Error) -> CopyError {
    move |error| CopyError::Unreachable(format!("the stream to node {node} broke: {error}"))
}

fn unreachable_node(error: &TransportError) -> CopyError {
    CopyError::Unreachable(error.to_string())
}

fn unexpected(node: NodeId, answer: BlockAnswer) -> CopyError {
    match answer {
        BlockAnswer::Failed(failure) => failed(node, failure),
        _ => CopyError::Failed {
            node,
            why: "its answer does not fit the question".into(),
        },
    }
}

fn failed(node: NodeId, failure: Failure) -> CopyError {
    match failure {
        Failure::NotFound => CopyError::NotFound(node),
        Failure::Corrupt => CopyError::Corrupt(node),
        Failure::Conflict => CopyError::Conflict(node),
        Failure::Busy => CopyError::Busy(node),
        Failure::Other(why) => CopyError::Failed { node, why },
    }
}
