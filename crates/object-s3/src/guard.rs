//! Bodies and sockets that make no progress end.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use s3s::StdError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::body::IDLE;
use crate::chunks::Chunks;

/// Fires when nothing happened for `limit`.
struct Watch {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Watch {
    fn new(limit: Duration) -> Self {
        Watch {
            limit,
            timer: None,
            running: false,
        }
    }

    fn progress(&mut self) {
        self.running = false;
    }

    /// To be called when there is nothing to do: ready once that lasts for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(self.limit)));
        if !self.running {
            timer.as_mut().reset(Instant::now() + self.limit);
            self.running = true;
        }
        timer.as_mut().poll(cx)
    }
}

/// A request's body, with its framing bounded and an end to waiting.
pub(crate) struct GuardedBody {
    inner: Incoming,
    watch: Watch,
    chunks: Option<(Chunks, VecDeque<Bytes>)>,
}

impl GuardedBody {
    pub(crate) fn new(inner: Incoming, idle: Duration, chunks: Option<Chunks>) -> Self {
        GuardedBody {
            inner,
            watch: Watch::new(idle),
            chunks: chunks.map(|c| (c, VecDeque::new())),
        }
    }
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        loop {
            if let Some(next) = this
                .chunks
                .as_mut()
                .and_then(|(_, queue)| queue.pop_front())
            {
                return Poll::Ready(Some(Ok(Frame::data(next))));
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(this.watch.poll_stalled(cx));
                    return Poll::Ready(Some(Err(IDLE.into())));
                }
            };
            this.watch.progress();
            let Some(frame) = frame.transpose()? else {
                return Poll::Ready(None);
            };
            match (&mut this.chunks, frame.into_data()) {
                (Some((chunks, queue)), Ok(data)) => chunks.push(data, queue)?,
                (None, Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                (_, Err(other)) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
            && self
                .chunks
                .as_ref()
                .is_none_or(|(_, queue)| queue.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        if self.chunks.is_some() {
            SizeHint::default()
        } else {
            self.inner.size_hint()
        }
    }
}

/// A socket whose peer has to go on reading.
pub(crate) struct GuardedSocket<S> {
    inner: S,
    watch: Watch,
}

impl<S> GuardedSocket<S> {
    pub(crate) fn new(inner: S, idle: Duration) -> Self {
        GuardedSocket {
            inner,
            watch: Watch::new(idle),
        }
    }

    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.watch.progress();
            return polled;
        }
        ready!(self.watch.poll_stalled(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer stopped reading",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.judge(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_ends_the_connection() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut socket = GuardedSocket::new(ours, Duration::from_secs(30));
        let error = socket.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_that_goes_on_is_served() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut socket = GuardedSocket::new(ours, Duration::from_secs(30));
        let reader = async {
            let mut buf = [0; 16];
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                theirs.read_exact(&mut buf).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(socket.write_all(&[0; 64]), reader);
        written.unwrap();
    }
}
