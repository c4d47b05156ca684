//! Answers block requests of other nodes from this node's store.
//!
//! Memory is bounded: streams that bring or fetch a block first take its length from a byte budget, and a stream that
//! makes no end is broken off.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use ids::{BlockId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use transport::{BulkStream, Handler, Refusal};

use crate::service::wire::{
    BlockAnswer, BlockCall, CALL_BLOCK_MAX, Failure, IDS_MAX, StreamOpen, decode, encode,
    write_frame,
};
use crate::volume::{BLOCK_BYTES_MAX, BlockStore};

/// Bytes of blocks that streams of peers may hold in memory at one time.
const STREAM_BYTES_MAX: usize = 128 << 20;
/// A stream that took longer is broken off.
const STREAM_TIME_MAX: Duration = Duration::from_secs(60);
const BUDGET_UNIT: usize = 1024;

/// The handler of [`transport::Service::BLOCKS`].
pub struct BlockService {
    store: Arc<BlockStore>,
    budget: Semaphore,
}

impl BlockService {
    /// Serves the blocks of `store`.
    pub fn new(store: Arc<BlockStore>) -> Self {
        BlockService {
            store,
            budget: Semaphore::new(STREAM_BYTES_MAX / BUDGET_UNIT),
        }
    }

    async fn answer(&self, call: BlockCall) -> Result<BlockAnswer, Failure> {
        Ok(match call {
            BlockCall::Put { data, .. } if data.len() > CALL_BLOCK_MAX => {
                return Err(Failure::Other(format!(
                    "{} bytes are too many for a call",
                    data.len()
                )));
            }
            BlockCall::Put { id, hash, data } => {
                self.store.put(id, hash, data).await?;
                BlockAnswer::Done
            }
            BlockCall::Get(id) => match self.store.len_of(&id) {
                Some(len) if len as usize > CALL_BLOCK_MAX => {
                    return Err(Failure::Other("the block is too large for a call".into()));
                }
                _ => {
                    let block = self.store.get_unverified(id).await?;
                    BlockAnswer::Block {
                        hash: block.hash,
                        data: block.data,
                    }
                }
            },
            BlockCall::Delete(ids) => {
                let count = self.store.delete(bounded(&ids)?).await?;
                BlockAnswer::Deleted(count as u32)
            }
            BlockCall::DeleteSegments(group, segments) => {
                let count = self
                    .store
                    .delete_segments(group, bounded(&segments)?)
                    .await?;
                BlockAnswer::Deleted(count as u32)
            }
            BlockCall::Has(ids) => BlockAnswer::Has(self.store.has(bounded(&ids)?)),
            BlockCall::OlderThan {
                before_s,
                after,
                max,
            } => {
                let (ids, next) =
                    self.store
                        .older_than(before_s, after, (max as usize).clamp(1, IDS_MAX));
                BlockAnswer::Page { ids, next }
            }
            BlockCall::Verify(id) => {
                self.store.get(id).await?;
                BlockAnswer::Done
            }
            BlockCall::Stats => BlockAnswer::Stats(self.store.stats()),
        })
    }

    async fn serve_stream(&self, open: StreamOpen, stream: &mut BulkStream) -> std::io::Result<()> {
        match open {
            StreamOpen::Put { id, hash, len } => {
                let answer = match self.take_block(id, hash, len, stream).await? {
                    Ok(()) => BlockAnswer::Done,
                    Err(failure) => BlockAnswer::Failed(failure),
                };
                write_frame(stream, &answer).await?;
            }
            StreamOpen::Get(id) => {
                let len = self.store.len_of(&id).unwrap_or(0);
                let _budget = self.budget.acquire_many(units(len)).await;
                match self.store.get_unverified(id).await {
                    Ok(block) => {
                        let found = BlockAnswer::Found {
                            hash: block.hash,
                            len: block.data.len() as u32,
                        };
                        write_frame(stream, &found).await?;
                        stream.write_all(&block.data).await?;
                    }
                    Err(error) => write_frame(stream, &BlockAnswer::Failed(error.into())).await?,
                }
            }
        }
        stream.shutdown().await
    }

    async fn take_block(
        &self,
        id: BlockId,
        hash: [u8; 32],
        len: u32,
        stream: &mut BulkStream,
    ) -> std::io::Result<Result<(), Failure>> {
        if len as usize > BLOCK_BYTES_MAX {
            return Ok(Err(Failure::Other(format!(
                "a block of {len} bytes is over the bound"
            ))));
        }
        let _budget = self.budget.acquire_many(units(len)).await;
        let mut data = BytesMut::with_capacity(len as usize);
        let mut rest = stream.take(u64::from(len));
        while data.len() < len as usize {
            if rest.read_buf(&mut data).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self
            .store
            .put(id, hash, data.freeze())
            .await
            .map_err(Failure::from))
    }
}

#[async_trait]
impl Handler for BlockService {
    async fn call(&self, _from: NodeId, body: Bytes) -> Result<Bytes, Refusal> {
        let call = decode("a block call", &body).map_err(Refusal)?;
        Ok(encode(
            &self.answer(call).await.unwrap_or_else(BlockAnswer::Failed),
        ))
    }

    async fn stream(&self, from: NodeId, header: Bytes, mut stream: BulkStream) {
        let result = match decode("a block stream's header", &header) {
            Ok(open) => timeout(STREAM_TIME_MAX, self.serve_stream(open, &mut stream)).await,
            Err(why) => {
                let answer = BlockAnswer::Failed(Failure::Other(why));
                timeout(STREAM_TIME_MAX, write_frame(&mut stream, &answer)).await
            }
        };
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%from, %error, "a block stream broke off"),
            Err(_) => tracing::warn!(%from, "a block stream made no end and was broken off"),
        }
    }
}

fn bounded<T>(ids: &[T]) -> Result<&[T], Failure> {
    if ids.len() > IDS_MAX {
        return Err(Failure::Other(format!(
            "{} ids are over the bound of {IDS_MAX}",
            ids.len()
        )));
    }
    Ok(ids)
}

fn units(len: u32) -> u32 {
    (len as usize).min(BLOCK_BYTES_MAX).div_ceil(BUDGET_UNIT) as u32
}
