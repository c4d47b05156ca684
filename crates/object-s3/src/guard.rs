//! Bodies and sockets that make too little progress end.
//!
//! A peer has to give or take [`PERIOD_BYTES_MIN`], or all that is left, in every period in which it was waited for
//! `body_idle_timeout` long. Only waiting for the peer counts: what the store or the disk needs is not held against it.

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
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use crate::body::{IDLE, WholeBodies};
use crate::chunks::Chunks;

/// The least that a peer has to give or take per period.
const PERIOD_BYTES_MIN: usize = 64 << 10;

/// What s3s may hold of every signed body without taking room; the number of requests bounds the sum.
const HELD_BYTES_FREE: usize = 64 << 10;

/// Fires when a peer was waited for `limit` long and less than [`PERIOD_BYTES_MIN`] moved meanwhile.
struct Watch {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the peer is waited for, if it is.
    since: Option<Instant>,
    /// How long it was waited for in this period, up to `since`.
    waited: Duration,
    /// Bytes that moved in this period.
    moved: usize,
}

impl Watch {
    fn new(limit: Duration) -> Self {
        Watch {
            limit,
            timer: None,
            since: None,
            waited: Duration::ZERO,
            moved: 0,
        }
    }

    fn progress(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        self.moved += bytes;
        if self.moved >= PERIOD_BYTES_MIN {
            self.moved = 0;
            self.waited = Duration::ZERO;
        }
    }

    /// To be called when the peer is waited for: ready once that lasts for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(self.limit)));
        if self.since.is_none() {
            let now = Instant::now();
            let left = self.limit.saturating_sub(self.waited);
            timer.as_mut().reset(now + left);
            self.since = Some(now);
        }
        timer.as_mut().poll(cx)
    }
}

type Taking =
    Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, &'static str>> + Send + Sync>>;

/// The room for what s3s holds of a signed body.
struct Hold {
    bodies: WholeBodies,
    bytes: usize,
    room: Option<OwnedSemaphorePermit>,
    taking: Option<Taking>,
}

impl Hold {
    fn new(bodies: WholeBodies) -> Self {
        Hold {
            bodies,
            bytes: 0,
            room: None,
            taking: None,
        }
    }

    /// s3s gets this many bytes more.
    fn grow(&mut self, more: usize) {
        self.bytes += more;
        let wanted = self.bytes.saturating_sub(HELD_BYTES_FREE);
        let has = self.room.as_ref().map_or(0, |room| room.num_permits());
        if wanted > has {
            self.taking = Some(Box::pin(self.bodies.clone().take(wanted - has)));
        }
    }

    /// s3s asks for more: of what it got it holds only this many bytes, those of a chunk that did not end.
    fn shrink(&mut self, bytes: usize) {
        self.bytes = bytes;
        if let Some(room) = &mut self.room {
            let over = room
                .num_permits()
                .saturating_sub(bytes.saturating_sub(HELD_BYTES_FREE));
            drop(room.split(over));
        }
    }

    /// Ready when there is room for all that s3s gets.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        let Some(taking) = &mut self.taking else {
            return Poll::Ready(Ok(()));
        };
        let taken = ready!(taking.as_mut().poll(cx));
        self.taking = None;
        let more = taken?;
        match &mut self.room {
            Some(room) => room.merge(more),
            None => self.room = Some(more),
        }
        Poll::Ready(Ok(()))
    }
}

/// The framing of an aws-chunked body, on its way to s3s.
struct Framing {
    chunks: Chunks,
    queue: VecDeque<Bytes>,
    hold: Hold,
}

/// A request's body, with its framing bounded and an end to waiting.
pub(crate) struct GuardedBody<B = Incoming> {
    inner: B,
    watch: Watch,
    framing: Option<Framing>,
}

impl<B> GuardedBody<B> {
    /// `bodies` has room for what s3s holds when the body is sent in `chunks`.
    pub(crate) fn new(
        inner: B,
        idle: Duration,
        chunks: Option<Chunks>,
        bodies: &WholeBodies,
    ) -> Self {
        let framing = chunks.map(|chunks| Framing {
            chunks,
            queue: VecDeque::new(),
            hold: Hold::new(bodies.clone()),
        });
        GuardedBody {
            inner,
            watch: Watch::new(idle),
            framing,
        }
    }
}

impl<B> Body for GuardedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        loop {
            if let Some(framing) = &mut this.framing {
                ready!(framing.hold.poll_room(cx))?;
                if let Some(next) = framing.queue.pop_front() {
                    return Poll::Ready(Some(Ok(Frame::data(next))));
                }
                framing.hold.shrink(framing.chunks.held());
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(this.watch.poll_stalled(cx));
                    return Poll::Ready(Some(Err(IDLE.into())));
                }
            };
            let Some(frame) = frame.transpose().map_err(Into::<StdError>::into)? else {
                return Poll::Ready(None);
            };
            this.watch.progress(frame.data_ref().map_or(0, Bytes::len));
            match (&mut this.framing, frame.into_data()) {
                (Some(framing), Ok(data)) => {
                    if framing.chunks.is_signed() {
                        framing.hold.grow(data.len());
                    }
                    framing.chunks.push(data, &mut framing.queue)?;
                }
                (None, Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                (_, Err(other)) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.framing.as_ref().is_none_or(|f| f.queue.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        if self.framing.is_some() {
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

    /// Judges a write by the bytes that the peer took.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = &polled {
            self.watch
                .progress(written.as_ref().map_or(0, |bytes| *bytes));
            return polled;
        }
        ready!(self.watch.poll_stalled(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer reads nothing, or too slowly",
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
        self.judge(cx, polled.map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.judge(cx, polled.map_ok(|()| 0)).map_ok(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{Stream, StreamExt};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::body::BUSY;

    const IDLE_MAX: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_ends_the_connection() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut socket = GuardedSocket::new(ours, IDLE_MAX);
        let error = socket.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_that_goes_on_is_served() {
        let (ours, mut theirs) = tokio::io::duplex(16 << 10);
        let mut socket = GuardedSocket::new(ours, IDLE_MAX);
        let data = vec![0; 4 * PERIOD_BYTES_MIN];
        let reader = async {
            let mut buf = vec![0; PERIOD_BYTES_MIN];
            for _ in 0..4 {
                sleep(Duration::from_secs(20)).await;
                theirs.read_exact(&mut buf).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(socket.write_all(&data), reader);
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_a_few_bytes_at_a_time_ends_the_connection() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let mut socket = GuardedSocket::new(ours, IDLE_MAX);
        let data = vec![0; 4 * PERIOD_BYTES_MIN];
        let reader = async {
            let mut buf = vec![0; 1 << 10];
            for _ in 0..256 {
                sleep(Duration::from_secs(10)).await;
                theirs.read_exact(&mut buf).await.unwrap();
            }
        };
        tokio::select! {
            written = socket.write_all(&data) => {
                assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
            }
            () = reader => panic!("a peer that reads 100 bytes per second was served"),
        }
    }

    type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync>>;

    /// `count` frames of `len` bytes, each after a pause.
    fn slow(pause: Duration, len: usize, count: usize) -> StreamBody<Frames> {
        let frames = futures::stream::iter(0..count).then(move |_| async move {
            sleep(pause).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; len])))
        });
        StreamBody::new(Box::pin(frames))
    }

    /// How many bytes of a body come through, or why it ends before.
    async fn drain(body: StreamBody<Frames>) -> Result<usize, String> {
        let bodies = WholeBodies::new(1 << 20);
        let mut body = GuardedBody::new(body, IDLE_MAX, None, &bodies);
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_to_keep_up_a_least_rate() {
        let secs = Duration::from_secs;
        let enough = drain(slow(secs(20), PERIOD_BYTES_MIN, 10));
        let trickling = drain(slow(secs(29), 1, 100));
        let in_drops = drain(slow(secs(1), 1 << 10, 300));
        let short = drain(slow(secs(20), 5, 1));
        let (enough, trickling, in_drops, short) = tokio::join!(enough, trickling, in_drops, short);
        assert_eq!(enough, Ok(10 * PERIOD_BYTES_MIN));
        assert_eq!(trickling, Err(IDLE.into()));
        assert_eq!(in_drops, Err(IDLE.into()));
        // All that is left may be less.
        assert_eq!(short, Ok(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_store_is_not_held_against_the_peer() {
        let body = slow(Duration::ZERO, 1 << 10, 10);
        let bodies = WholeBodies::new(1 << 20);
        let mut body = GuardedBody::new(body, IDLE_MAX, None, &bodies);
        for _ in 0..10 {
            assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
            sleep(IDLE_MAX * 2).await;
        }
        assert!(body.frame().await.is_none());
    }

    /// A signed body that stops within its only chunk.
    fn halted(bytes: usize) -> StreamBody<Frames> {
        let mut sent = format!("{:x};chunk-signature={}\r\n", bytes + 1, "0".repeat(64));
        sent.push_str(&"x".repeat(bytes));
        let first = futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(sent)))]);
        StreamBody::new(Box::pin(first.chain(futures::stream::pending())))
    }

    #[tokio::test(start_paused = true)]
    async fn what_s3s_holds_of_all_bodies_together_is_bounded() {
        let bodies = WholeBodies::new(100 << 10);
        let guarded = || {
            let chunks = Some(Chunks::new(true, 1 << 20));
            GuardedBody::new(halted(128 << 10), IDLE_MAX, chunks, &bodies)
        };
        let mut first = guarded();
        assert!(first.frame().await.is_some_and(|frame| frame.is_ok()));
        let refused = guarded().frame().await.unwrap().unwrap_err();
        assert_eq!(refused.to_string(), BUSY);
        drop(first);
        assert!(guarded().frame().await.is_some_and(|frame| frame.is_ok()));
    }
}
