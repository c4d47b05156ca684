//! The calling side of a control connection: many calls in flight, each waiting for the answer with its id.
//!
//! Invariants:
//! - at most [`CALLS_MAX`] calls of a connection are in flight; more wait within their deadlines;
//! - when the connection ends, every call that waits on it fails at once;
//! - a caller that stops waiting tells the other side, which then stops working for it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frame::{Frame, Kind};
use super::outbox::Outbox;
use crate::Service;

/// Calls in flight on one connection.
pub(super) const CALLS_MAX: usize = 4096;

/// Free space that each read is offered.
pub(super) const READ_BYTES: usize = 64 << 10;

/// How a call ends without an answer.
#[derive(Debug, Clone)]
pub(super) enum CallError {
    /// It may have been carried out.
    Broken(String),
    /// It was not carried out.
    Refused(String),
}

type Answer = Result<Bytes, CallError>;

#[derive(Debug, Default)]
struct Calls {
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    ended: Option<CallError>,
}

/// One connection to another node, for calls.
#[derive(Debug)]
pub(super) struct Connection {
    outbox: Outbox,
    calls: Mutex<Calls>,
    slots: Semaphore,
    next_id: AtomicU64,
    heard: AtomicBool,
    opened: Instant,
    heard_ms: AtomicU64,
    closing: CancellationToken,
}

impl Connection {
    /// Starts the connection's tasks; they end with the connection, or when `stop` says so.
    pub(super) fn start(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            outbox: Outbox::new(),
            calls: Mutex::default(),
            slots: Semaphore::new(CALLS_MAX),
            next_id: AtomicU64::new(1),
            heard: AtomicBool::new(false),
            opened: Instant::now(),
            heard_ms: AtomicU64::new(0),
            closing: stop.child_token(),
        });
        let (read, write) = tokio::io::split(io);
        let (writer, reader) = (connection.clone(), connection.clone());
        tasks.spawn(async move {
            let ended = writer
                .closing
                .run_until_cancelled(writer.outbox.run(write))
                .await;
            writer.end(CallError::Broken(words(ended)));
        });
        tasks.spawn(async move {
            let ended = reader.closing.run_until_cancelled(reader.read(read)).await;
            reader.end(ended.unwrap_or_else(|| CallError::Broken(words(None))));
        });
        connection
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Whether the other side ever said anything.
    pub(super) fn was_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// How long nothing has come from the other side.
    pub(super) fn silent_ms(&self) -> u64 {
        self.age_ms()
            .saturating_sub(self.heard_ms.load(Ordering::Relaxed))
    }

    /// Gives the connection up.
    pub(super) fn close(&self, why: &str) {
        self.end(CallError::Broken(why.to_owned()));
    }

    /// Calls the other side; the caller bounds the time. The future may be dropped at any point.
    pub(super) async fn call(&self, service: Service, body: Bytes, until: Instant) -> Answer {
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|_| self.why_ended())?;
        let (waiting, answer) = self.register()?;
        let left_ms = until.saturating_duration_since(Instant::now()).as_millis();
        let frame = Frame {
            kind: Kind::Call,
            id: waiting.id,
            service: service.0,
            deadline_ms: left_ms.try_into().unwrap_or(u32::MAX),
            body,
        };
        if self.outbox.push(&frame).await.is_err() {
            return Err(self.why_ended());
        }
        answer.await.unwrap_or_else(|_| Err(self.why_ended()))
    }

    fn register(&self) -> Result<(Waiting<'_>, oneshot::Receiver<Answer>), CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut calls = self.calls();
        if let Some(ended) = &calls.ended {
            return Err(ended.clone());
        }
        calls.waiting.insert(id, sender);
        Ok((
            Waiting {
                connection: self,
                id,
            },
            receiver,
        ))
    }

    async fn read(&self, mut io: impl AsyncRead + Unpin) -> CallError {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            match io.read_buf(&mut buffer).await {
                Ok(0) => return CallError::Broken("the other side closed the connection".into()),
                Ok(_) => self.heard_ms.store(self.age_ms(), Ordering::Relaxed),
                Err(error) => return CallError::Broken(error.to_string()),
            }
            loop {
                match Frame::decode(&mut buffer) {
                    Ok(Some(frame)) if frame.kind == Kind::Refusal && frame.id == 0 => {
                        return CallError::Refused(text(&frame.body));
                    }
                    Ok(Some(frame)) => self.settle(frame),
                    Ok(None) => break,
                    Err(error) => return CallError::Broken(error.to_string()),
                }
            }
        }
    }

    fn settle(&self, frame: Frame) {
        self.heard.store(true, Ordering::Relaxed);
        let Some(call) = self.calls().waiting.remove(&frame.id) else {
            return;
        };
        // The caller may have left just now: then nobody reads this.
        let _ = call.send(match frame.kind {
            Kind::Answer => Ok(frame.body),
            Kind::Refusal => Err(CallError::Refused(text(&frame.body))),
            Kind::Call | Kind::Cancel | Kind::Failure => Err(CallError::Broken(text(&frame.body))),
        });
    }

    fn end(&self, why: CallError) {
        let waiting = {
            let mut calls = self.calls();
            calls.ended.get_or_insert(why);
            std::mem::take(&mut calls.waiting)
        };
        self.closing.cancel();
        self.outbox.close();
        self.slots.close();
        for call in waiting.into_values() {
            let _ = call.send(Err(self.why_ended()));
        }
    }

    /// What calls on the closed connection are told.
    pub(super) fn why_ended(&self) -> CallError {
        let ended = self.calls().ended.clone();
        ended.unwrap_or_else(|| CallError::Broken("the connection is closed".into()))
    }

    fn age_ms(&self) -> u64 {
        self.opened
            .elapsed()
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place among those that wait; leaving it early sends a cancel.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.connection.calls().waiting.remove(&self.id).is_some() {
            let cancel = Frame::about(Kind::Cancel, self.id, Bytes::new());
            // Without room the other side works on until the deadline that it knows.
            let _ = self.connection.outbox.try_push(&cancel);
        }
    }
}

fn words(ended: Option<io::Error>) -> String {
    ended.map_or_else(
        || "this node closed the connection".into(),
        |error| error.to_string(),
    )
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}
