//! A bulk stream inside a connection that outlives it: chunks with their length before them, an empty one as the end.
//!
//! ```text
//! length u32 | bytes | length u32 | bytes | … | 0 u32
//! ```
//!
//! The end marker tells an end from a break, and leaves the connection fit for the next stream. Back-pressure is the
//! connection's own: at most one chunk is held here.
//!
//! Invariants:
//! - a reader sees the end only after the other side called `shutdown`; a connection that ends before is an error;
//! - a connection is handed on only when both directions came to their end;
//! - a write that makes no progress for [`STALL_MAX`] is an error.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The most that is put into one chunk.
pub const CHUNK_BYTES: usize = 64 << 10;

/// The longest chunk that is accepted.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// How long the other side may take no byte at all.
pub const STALL_MAX: Duration = Duration::from_secs(30);

const LENGTH_BYTES: usize = 4;

/// Gets the connection back from a stream that ended well.
pub type Release<S> = Box<dyn FnOnce(Settling<S>) + Send>;

/// One two-way stream of bytes over the connection `S`.
pub struct ChunkedStream<S> {
    io: Option<S>,
    reading: Reading,
    writing: Writing,
    stall: Option<Pin<Box<Sleep>>>,
    release: Option<Release<S>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Length {
        bytes: [u8; LENGTH_BYTES],
        have: usize,
    },
    Body {
        left: usize,
    },
    Ended,
}

const NEXT_LENGTH: Reading = Reading::Length {
    bytes: [0; LENGTH_BYTES],
    have: 0,
};

#[derive(Debug, Default)]
struct Writing {
    /// The chunk that is on its way, its length included.
    chunk: Vec<u8>,
    sent: usize,
    end: End,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    NotYet,
    Queued,
    Flushed,
}

impl<S> fmt::Debug for ChunkedStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reading, writing) = (&self.reading, &self.writing.end);
        f.debug_struct("ChunkedStream")
            .field("reading", reading)
            .field("end", writing)
            .finish()
    }
}

impl<S> ChunkedStream<S> {
    /// A stream that closes the connection when it is dropped.
    pub fn new(io: S) -> Self {
        let (reading, writing) = (NEXT_LENGTH, Writing::default());
        ChunkedStream {
            io: Some(io),
            reading,
            writing,
            stall: None,
            release: None,
        }
    }

    /// A stream that gives the connection to `release` when it is dropped after it ended well. Otherwise `release` is
    /// dropped without being called.
    pub fn with_release(io: S, release: Release<S>) -> Self {
        let mut stream = ChunkedStream::new(io);
        stream.release = Some(release);
        stream
    }
}

impl<S> Drop for ChunkedStream<S> {
    fn drop(&mut self) {
        let read_so_far = matches!(self.reading, Reading::Ended | NEXT_LENGTH);
        if self.writing.end == End::Flushed
            && read_so_far
            && let (Some(io), Some(release)) = (self.io.take(), self.release.take())
        {
            release(Settling {
                io,
                ended: self.reading == Reading::Ended,
            });
        }
    }
}

/// A connection whose stream sent its end, and has read all chunks but perhaps not the end marker.
#[derive(Debug)]
pub struct Settling<S> {
    io: S,
    ended: bool,
}

impl<S: AsyncRead + Unpin> Settling<S> {
    /// Waits for the other side's end marker and gives the connection back.
    ///
    /// # Errors
    /// When the other side sent more bytes instead: nobody will read them.
    pub async fn settle(mut self) -> io::Result<S> {
        if !self.ended && self.io.read_u32().await? != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes were left unread",
            ));
        }
        Ok(self.io)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ChunkedStream<S> {
    fn poll_length(
        io: &mut S,
        cx: &mut Context<'_>,
        mut bytes: [u8; LENGTH_BYTES],
        have: usize,
    ) -> Poll<io::Result<Reading>> {
        let mut rest = ReadBuf::new(&mut bytes[have..]);
        ready!(Pin::new(io).poll_read(cx, &mut rest))?;
        let got = rest.filled().len();
        if got == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if have + got < LENGTH_BYTES {
            return Poll::Ready(Ok(Reading::Length {
                bytes,
                have: have + got,
            }));
        }
        Poll::Ready(match u32::from_be_bytes(bytes) as usize {
            0 => Ok(Reading::Ended),
            left if left <= CHUNK_BYTES_MAX => Ok(Reading::Body { left }),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a chunk is over its bound",
            )),
        })
    }

    fn poll_body(
        io: &mut S,
        cx: &mut Context<'_>,
        left: usize,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Reading>> {
        let most = left.min(out.remaining()).min(CHUNK_BYTES);
        let mut part = ReadBuf::new(out.initialize_unfilled_to(most));
        ready!(Pin::new(io).poll_read(cx, &mut part))?;
        let got = part.filled().len();
        out.advance(got);
        Poll::Ready(match left - got {
            _ if got == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            0 => Ok(NEXT_LENGTH),
            left => Ok(Reading::Body { left }),
        })
    }

    /// Writes the chunk that is on its way.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.writing.sent < self.writing.chunk.len() {
            let io = Pin::new(self.io.as_mut().ok_or(io::ErrorKind::BrokenPipe)?);
            let Poll::Ready(written) = io.poll_write(cx, &self.writing.chunk[self.writing.sent..])
            else {
                return self.poll_stall(cx);
            };
            self.stall = None;
            match written? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.writing.sent += count,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_inner_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = Pin::new(self.io.as_mut().ok_or(io::ErrorKind::BrokenPipe)?);
        let Poll::Ready(flushed) = io.poll_flush(cx) else {
            return self.poll_stall(cx);
        };
        self.stall = None;
        Poll::Ready(flushed)
    }

    /// Pending until the stall lasts too long.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        ready!(std::future::Future::poll(stall.as_mut(), cx));
        let words = "the other side took no bytes for too long";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, words)))
    }

    fn queue(&mut self, bytes: &[u8]) {
        let Writing { chunk, sent, .. } = &mut self.writing;
        chunk.clear();
        chunk.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        chunk.extend_from_slice(bytes);
        *sent = 0;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ChunkedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let io = this.io.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        loop {
            match this.reading {
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Length { bytes, have } => {
                    this.reading = ready!(Self::poll_length(io, cx, bytes, have))?;
                }
                Reading::Body { .. } if out.remaining() == 0 => return Poll::Ready(Ok(())),
                Reading::Body { left } => {
                    this.reading = ready!(Self::poll_body(io, cx, left, out))?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ChunkedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.writing.end != End::NotYet {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_drain(cx))?;
        let bytes = &bytes[..bytes.len().min(CHUNK_BYTES)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.queue(bytes);
        // What can't leave now leaves with the next write or flush.
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.poll_inner_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writing.end == End::NotYet {
            ready!(self.poll_drain(cx))?;
            self.queue(&[]);
            self.writing.end = End::Queued;
        }
        if self.writing.end == End::Queued {
            ready!(self.poll_drain(cx))?;
            ready!(self.poll_inner_flush(cx))?;
            self.writing.end = End::Flushed;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    type Returned = Arc<Mutex<Option<Settling<DuplexStream>>>>;

    fn releasing(io: DuplexStream) -> (ChunkedStream<DuplexStream>, Returned) {
        let back = Returned::default();
        let slot = back.clone();
        let release = Box::new(move |settling| *slot.lock().unwrap() = Some(settling));
        (ChunkedStream::with_release(io, release), back)
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_connection_comes_back() {
        let (near, far) = duplex(100);
        let (mut near, near_back) = releasing(near);
        let (mut far, far_back) = releasing(far);
        let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let echo = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            far.write_all(&all).await.unwrap();
            far.shutdown().await.unwrap();
            drop(far);
        };
        let ask = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
            let mut all = Vec::new();
            near.read_to_end(&mut all).await.unwrap();
            drop(near);
            all
        };
        let (_, got) = futures::future::join(echo, ask).await;
        assert_eq!(got, sent);
        let near = near_back.lock().unwrap().take().expect("ended well");
        let far = far_back.lock().unwrap().take().expect("ended well");
        let (mut near, mut far) = (near.settle().await.unwrap(), far.settle().await.unwrap());
        near.write_all(b"next").await.unwrap();
        let mut next = [0; 4];
        far.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"next");
    }

    #[tokio::test]
    async fn a_drop_before_the_end_is_an_error_at_the_other_side() {
        let (near, far) = duplex(100);
        let (mut near, back) = releasing(near);
        let mut far = ChunkedStream::new(far);
        near.write_all(b"half").await.unwrap();
        drop(near);
        assert!(back.lock().unwrap().is_none());
        let error = far.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn an_unread_end_marker_is_settled_but_unread_bytes_are_not() {
        for (said, fine) in [(&b""[..], true), (&b"more"[..], false)] {
            let (near, far) = duplex(100);
            let (mut near, back) = releasing(near);
            let mut far = ChunkedStream::new(far);
            far.write_all(said).await.unwrap();
            far.shutdown().await.unwrap();
            near.shutdown().await.unwrap();
            drop(near);
            let settling = back.lock().unwrap().take().expect("nothing was half read");
            assert_eq!(settling.settle().await.is_ok(), fine);
        }
    }

    #[tokio::test]
    async fn an_overlong_chunk_is_refused() {
        let (mut near, far) = duplex(100);
        near.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let error = ChunkedStream::new(far).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_breaks_the_writer() {
        let (near, _far) = duplex(100);
        let mut writer = ChunkedStream::new(near);
        writer.write_all(&[0; 400]).await.unwrap();
        let error = writer.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
