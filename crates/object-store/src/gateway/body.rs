//! Bodies on their way in and out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use object_core::api::{Body, BodyChunk, ObjectError, PUT_BYTES_MAX, Result};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::Instrument;

use crate::gateway::refusals;

/// Room that is taken at once for a body of unknown length.
const GROW_BYTES: usize = 64 << 10;
/// How long bytes are kept for their reader when others wait for memory.
const KEPT_FOR: Duration = Duration::from_secs(2);
/// How often it is looked whether others wait, once they were kept for so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Cuts an incoming body into pieces of wanted length.
pub struct BodyReader {
    body: Body,
    rest: Bytes,
    ended: bool,
    got: u64,
    expected: Option<u64>,
    idle_max: Duration,
}

impl BodyReader {
    /// Reads `body`, which was announced with `expected` bytes; a pause of `idle_max` breaks it off.
    pub fn new(body: Body, expected: Option<u64>, idle_max: Duration) -> Result<Self> {
        if let Some(size) = expected.filter(|size| *size > PUT_BYTES_MAX) {
            return Err(ObjectError::EntityTooLarge {
                size,
                max: PUT_BYTES_MAX,
            });
        }
        Ok(BodyReader {
            body,
            rest: Bytes::new(),
            ended: false,
            got: 0,
            expected,
            idle_max,
        })
    }

    /// The most bytes that the next piece of up to `want` can have.
    pub fn most(&self, want: usize) -> usize {
        let unread = self.rest.len() as u64;
        let left = self.expected.map_or(u64::MAX, |expected| {
            expected.saturating_sub(self.got - unread)
        });
        left.min(want as u64) as usize
    }

    /// The next `want` bytes; fewer only at the end of the body.
    ///
    /// # Errors
    /// When the body breaks off, is shorter or longer than announced, or over the bound.
    pub async fn piece(&mut self, want: usize) -> Result<Bytes> {
        if self.rest.len() >= want {
            return Ok(self.rest.split_to(want));
        }
        let room = if self.expected.is_some() {
            self.most(want)
        } else {
            want.min(GROW_BYTES)
        };
        let mut piece = BytesMut::with_capacity(room.max(self.rest.len()));
        piece.extend_from_slice(&self.rest);
        // Not cleared, which would keep the memory below.
        self.rest = Bytes::new();
        while piece.len() < want {
            let Some(mut chunk) = self.chunk().await? else {
                break;
            };
            let fits = chunk.len().min(want - piece.len());
            if fits == chunk.len() {
                piece.extend_from_slice(&chunk);
            } else {
                piece.extend_from_slice(&chunk[..fits]);
                chunk.advance(fits);
                self.rest = chunk;
            }
        }
        Ok(piece.freeze())
    }

    /// Puts bytes back in front.
    pub fn unread(&mut self, piece: Bytes) {
        if self.rest.is_empty() {
            self.rest = piece;
        } else {
            let mut both = BytesMut::from(piece);
            both.extend_from_slice(&self.rest);
            self.rest = both.freeze();
        }
    }

    /// Whether no more bytes come; reads ahead to know.
    pub async fn at_end(&mut self) -> Result<bool> {
        while self.rest.is_empty() {
            match self.chunk().await? {
                Some(chunk) => self.rest = chunk,
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let next = timeout(self.idle_max, self.body.next()).await;
        let next = next.map_err(|_| ObjectError::BodyFailed("no byte came for too long".into()))?;
        let Some(chunk) = next.transpose().map_err(refusals::body)? else {
            self.ended = true;
            return match self.expected {
                Some(expected) if self.got < expected => Err(ObjectError::IncompleteBody {
                    got: self.got,
                    expected,
                }),
                _ => Ok(None),
            };
        };
        self.got += chunk.len() as u64;
        match self.expected {
            Some(expected) if self.got > expected => Err(ObjectError::BodyFailed(format!(
                "it has more than the {expected} bytes that were announced"
            ))),
            _ if self.got > PUT_BYTES_MAX => Err(ObjectError::EntityTooLarge {
                size: self.got,
                max: PUT_BYTES_MAX,
            }),
            _ => Ok(Some(chunk)),
        }
    }
}

/// Bytes that hold the memory which was taken for them until the last slice of them is gone.
pub fn with_room(data: Bytes, room: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(InRoom { data, _room: room })
}

struct InRoom {
    data: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for InRoom {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// Bytes that are read for somebody, and kept until they are taken or have to give way to others who wait for memory.
pub struct Kept {
    slot: Slot,
    /// Is told when they were read.
    read: Option<oneshot::Receiver<()>>,
    task: JoinHandle<()>,
}

type Slot = Arc<Mutex<Option<Result<Bytes>>>>;

impl Kept {
    /// Reads them in a task of its own; `is_short` says whether others wait for memory.
    pub fn read(
        read: impl Future<Output = Result<Bytes>> + Send + 'static,
        is_short: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let slot = Slot::default();
        let (done, is_read) = oneshot::channel();
        let kept = slot.clone();
        let keeping = async move {
            let bytes = read.await;
            *locked(&kept) = Some(bytes);
            let _ = done.send(());
            sleep(KEPT_FOR).await;
            while !is_short() {
                sleep(LOOK_AGAIN).await;
            }
            drop(locked(&kept).take());
        };
        Kept {
            slot,
            read: Some(is_read),
            task: tokio::spawn(keeping.in_current_span()),
        }
    }

    /// Takes the next bytes, at most `max`; `None` once they gave way.
    pub async fn next(&mut self, max: usize) -> Result<Option<Bytes>> {
        if let Some(read) = self.read.take() {
            let broken = |_| ObjectError::Internal("the reading of a block broke off".into());
            read.await.map_err(broken)?;
        }
        match &mut *locked(&self.slot) {
            Some(Ok(bytes)) => Ok(Some(bytes.split_to(max.min(bytes.len())))),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(None),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The task may end later; the memory is free now.
        drop(locked(&self.slot).take());
        self.task.abort();
    }
}

fn locked(slot: &Slot) -> MutexGuard<'_, Option<Result<Bytes>>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body of these bytes.
pub fn body_of(bytes: Bytes) -> Body {
    let chunks: Vec<BodyChunk> = if bytes.is_empty() {
        Vec::new()
    } else {
        vec![Ok(bytes)]
    };
    Box::pin(futures::stream::iter(chunks))
}

/// Makes a stream shareable between threads, as [`Body`] wants it: only its one owner polls it.
pub fn body_from(stream: impl Stream<Item = BodyChunk> + Send + 'static) -> Body {
    Box::pin(Exclusive(Mutex::new(Box::pin(stream))))
}

struct Exclusive(Mutex<Pin<Box<dyn Stream<Item = BodyChunk> + Send>>>);

impl Stream for Exclusive {
    type Item = BodyChunk;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<BodyChunk>> {
        self.0
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    fn body(chunks: &[&'static [u8]]) -> Body {
        let chunks: Vec<BodyChunk> = chunks
            .iter()
            .map(|chunk| Ok(Bytes::from_static(chunk)))
            .collect();
        Box::pin(futures::stream::iter(chunks))
    }

    fn reader(chunks: &[&'static [u8]], expected: Option<u64>) -> BodyReader {
        BodyReader::new(body(chunks), expected, Duration::from_secs(1)).unwrap()
    }

    #[tokio::test]
    async fn a_body_of_another_length_than_announced_is_an_error() {
        let short = reader(&[b"abc"], Some(4)).piece(10).await;
        assert_eq!(
            short,
            Err(ObjectError::IncompleteBody {
                got: 3,
                expected: 4
            })
        );
        let long = reader(&[b"abc", b"de"], Some(4)).piece(10).await;
        assert!(matches!(long, Err(ObjectError::BodyFailed(_))));
        assert!(BodyReader::new(body(&[]), Some(PUT_BYTES_MAX + 1), Duration::ZERO).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_broken_off() {
        let silent: Body = Box::pin(futures::stream::pending());
        let mut reader = BodyReader::new(silent, None, Duration::from_secs(5)).unwrap();
        assert!(matches!(
            reader.piece(1).await,
            Err(ObjectError::BodyFailed(_))
        ));
    }

    #[test]
    fn bytes_hold_their_memory_until_the_last_slice_is_gone() {
        let memory = Arc::new(Semaphore::new(4));
        let room = memory.clone().try_acquire_many_owned(4).unwrap();
        let mut bytes = with_room(Bytes::from_static(b"abcd"), room);
        let slice = bytes.split_to(1);
        drop(bytes);
        assert_eq!((&*slice, memory.available_permits()), (&b"a"[..], 0));
        drop(slice);
        assert_eq!(memory.available_permits(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_for_a_reader_gives_way_only_when_others_wait() {
        let others_wait = Arc::new(AtomicBool::new(false));
        let is_short = {
            let others_wait = others_wait.clone();
            move || others_wait.load(Ordering::Relaxed)
        };
        let memory = Arc::new(Semaphore::new(1));
        let room = memory.clone().try_acquire_owned().unwrap();
        let bytes = with_room(Bytes::from_static(b"abcdef"), room);
        let mut kept = Kept::read(async { Ok::<_, ObjectError>(bytes) }, is_short);
        assert_eq!(kept.next(2).await.unwrap().unwrap(), "ab");
        sleep(KEPT_FOR * 10).await;
        assert_eq!(kept.next(2).await.unwrap().unwrap(), "cd");
        assert_eq!(memory.available_permits(), 0);
        others_wait.store(true, Ordering::Relaxed);
        sleep(LOOK_AGAIN * 2).await;
        assert_eq!(memory.available_permits(), 1);
        assert_eq!(kept.next(2).await, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_read_is_said_again() {
        let failed = || ObjectError::Internal("no disk".into());
        let mut kept = Kept::read(async move { Err(failed()) }, || false);
        assert_eq!(kept.next(1).await, Err(failed()));
        assert_eq!(kept.next(1).await, Err(failed()));
    }

    proptest! {
        #[test]
        fn pieces_are_the_body_whatever_its_chunks(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..10),
            want in 1..30_usize,
            peeked in 0..40_usize,
        ) {
            let whole: Vec<u8> = chunks.concat();
            let body: Vec<BodyChunk> = chunks.into_iter().map(|chunk| Ok(chunk.into())).collect();
            let body: Body = Box::pin(futures::stream::iter(body));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let pieces = runtime.block_on(async {
                let mut reader = BodyReader::new(body, None, Duration::from_secs(1)).unwrap();
                let first = reader.piece(peeked).await.unwrap();
                reader.unread(first);
                let mut pieces = Vec::new();
                while !reader.at_end().await.unwrap() {
                    pieces.push(reader.piece(want).await.unwrap());
                }
                pieces
            });
            prop_assert_eq!(pieces.concat(), whole);
            if let Some((_, full)) = pieces.split_last() {
                prop_assert!(full.iter().all(|piece| piece.len() == want));
            }
        }
    }
}
