//! The answering side of a control connection: reads calls, runs their handlers, sends what they say.
//!
//! Invariants:
//! - at most [`FLIGHT_MAX`] calls with [`BODIES_BYTES_MAX`] of bodies are in flight; more are refused;
//! - a handler's future is dropped when its caller no longer waits: deadline, cancel, end of the connection;
//! - a handler that panics fails its own call only.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use ids::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::connection::{CALLS_MAX, READ_BYTES};
use super::core::Core;
use super::frame::{Frame, Kind};
use super::outbox::Outbox;
use crate::{CALL_BYTES_MAX, Service};

/// Calls that are handled or answered: more than a caller keeps open, as it sends the next one while the place of an
/// answered one is still being given back.
const FLIGHT_MAX: usize = 2 * CALLS_MAX;

/// Bytes of bodies that the handlers of one connection may hold.
const BODIES_BYTES_MAX: usize = 64 << 20;

/// No caller waits longer, whatever it says.
const DEADLINE_MAX: Duration = Duration::from_secs(600);

/// Serves calls from the authenticated node `from` until the connection ends.
pub(super) async fn serve(
    core: Arc<Core>,
    from: NodeId,
    io: impl AsyncRead + AsyncWrite + Send + 'static,
) {
    let (read, write) = tokio::io::split(io);
    let callee = Arc::new(Callee {
        core,
        from,
        outbox: Outbox::new(),
        flight: Mutex::default(),
    });
    // The first of both to end ends the other; dropping the reader ends the handlers.
    let ended = tokio::select! {
        biased;
        ended = callee.clone().read(read) => ended,
        error = callee.outbox.run(write) => error.to_string(),
    };
    callee.outbox.close();
    tracing::debug!(%from, why = %ended, "a node's connection ended");
}

/// Tells the node that none of its calls will be carried out.
pub(super) async fn refuse(io: impl AsyncWrite + Unpin, why: &str) {
    let outbox = Outbox::new();
    let words = Bytes::copy_from_slice(why.as_bytes());
    if outbox
        .push(&Frame::about(Kind::Refusal, 0, words))
        .await
        .is_ok()
    {
        let _ = tokio::time::timeout(Duration::from_secs(1), outbox.run(io)).await;
    }
}

struct Callee {
    core: Arc<Core>,
    from: NodeId,
    outbox: Outbox,
    flight: Mutex<Flight>,
}

#[derive(Default)]
struct Flight {
    /// Taking the sender cancels the call; its place is held until its task is done.
    calls: BTreeMap<u64, Option<oneshot::Sender<()>>>,
    bytes: usize,
}

impl Callee {
    async fn read(self: Arc<Self>, mut io: impl AsyncRead + Unpin) -> String {
        let mut handlers = JoinSet::new();
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            match io.read_buf(&mut buffer).await {
                Ok(0) => return "the other side closed it".into(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
            loop {
                match Frame::decode(&mut buffer) {
                    Ok(Some(frame)) => {
                        if let Err(why) = self.take(frame, &mut handlers).await {
                            return why;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return error.to_string(),
                }
            }
            while handlers.try_join_next().is_some() {}
        }
    }

    async fn take(
        self: &Arc<Self>,
        frame: Frame,
        handlers: &mut JoinSet<()>,
    ) -> Result<(), String> {
        match frame.kind {
            Kind::Call => {
                let id = frame.id;
                match self.admit(&frame) {
                    Ok(cancelled) => {
                        let run = self.clone().run(frame, cancelled);
                        handlers.spawn(self.core.tasks.track_future(run));
                    }
                    Err(Unfit::Refused(why)) => self.say(Kind::Refusal, id, why.into()).await,
                    Err(Unfit::Broken(why)) => return Err(why.into()),
                }
            }
            Kind::Cancel => self.cancel(frame.id),
            Kind::Answer | Kind::Refusal | Kind::Failure => {
                return Err("the caller sent an answer".into());
            }
        }
        Ok(())
    }

    fn admit(&self, frame: &Frame) -> Result<oneshot::Receiver<()>, Unfit> {
        if !self.core.admits(self.from) {
            return Err(Unfit::Refused(
                "this node is not admitted to the site any more",
            ));
        }
        self.flight(|flight| {
            if frame.id == 0 || flight.calls.contains_key(&frame.id) {
                return Err(Unfit::Broken("the caller used the id of another call"));
            }
            if flight.calls.len() >= FLIGHT_MAX
                || flight.bytes + frame.body.len() > BODIES_BYTES_MAX
            {
                return Err(Unfit::Refused("too many calls in flight, try again later"));
            }
            let (sender, receiver) = oneshot::channel();
            flight.calls.insert(frame.id, Some(sender));
            flight.bytes += frame.body.len();
            Ok(receiver)
        })
    }

    fn cancel(&self, id: u64) {
        // A call that is not there was answered just now.
        let cancel = self.flight(|flight| flight.calls.get_mut(&id).and_then(Option::take));
        drop(cancel);
    }

    async fn run(self: Arc<Self>, frame: Frame, cancelled: oneshot::Receiver<()>) {
        let (id, bytes) = (frame.id, frame.body.len());
        let deadline = Duration::from_millis(frame.deadline_ms.into()).min(DEADLINE_MAX);
        let handled = AssertUnwindSafe(self.handle(Service(frame.service), frame.body));
        let outcome = tokio::select! {
            biased;
            outcome = handled.catch_unwind() => Some(outcome),
            _ = cancelled => None,
            () = sleep(deadline) => None,
        };
        match outcome {
            Some(Ok((kind, body))) => self.say(kind, id, body).await,
            Some(Err(_)) => {
                self.say(Kind::Failure, id, "the handler panicked".into())
                    .await
            }
            None => {}
        }
        // Only now: an answer that waits for a slow reader counts as well.
        self.flight(|flight| {
            flight.calls.remove(&id);
            flight.bytes -= bytes;
        });
    }

    async fn handle(&self, service: Service, body: Bytes) -> (Kind, Bytes) {
        let Some(handler) = self.core.handler(service) else {
            return (
                Kind::Refusal,
                format!("service {} is not offered", service.0).into(),
            );
        };
        match handler.call(self.from, body).await {
            Ok(answer) if answer.len() > CALL_BYTES_MAX => {
                let words = format!("an answer of {} bytes is over the bound", answer.len());
                (Kind::Failure, words.into())
            }
            Ok(answer) => (Kind::Answer, answer),
            Err(refusal) => (Kind::Refusal, refusal.0.into()),
        }
    }

    async fn say(&self, kind: Kind, id: u64, mut body: Bytes) {
        body.truncate(CALL_BYTES_MAX);
        // A closed outbox means that the caller is gone.
        let _ = self.outbox.push(&Frame::about(kind, id, body)).await;
    }

    fn flight<T>(&self, with: impl FnOnce(&mut Flight) -> T) -> T {
        with(&mut self.flight.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

enum Unfit {
    Refused(&'static str),
    Broken(&'static str),
}
