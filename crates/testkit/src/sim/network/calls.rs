//! A call over the simulated network: request, handler, answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use ids::NodeId;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use transport::{CALL_BYTES_MAX, Service, TransportError};

use super::{Fate, Net, SimTransport, refused, unreachable};
use crate::sim::trace::digest;

type Outcome = Result<Bytes, TransportError>;

pub(super) async fn call_self(
    caller: &SimTransport,
    service: Service,
    body: Bytes,
    until: Instant,
) -> Outcome {
    let node = caller.node;
    let handler = caller
        .net
        .state()
        .node(node)
        .and_then(|node| node.handler(service));
    let handler = handler.ok_or_else(|| refused(node, service))?;
    match timeout_at(until, handler.call(node, body)).await {
        Ok(answer) => answer.map_err(|refusal| TransportError::Refused {
            node,
            why: refusal.0,
        }),
        Err(_) => Err(TransportError::DeadlineExceeded(node)),
    }
}

pub(super) async fn call(
    caller: &SimTransport,
    to: NodeId,
    service: Service,
    body: Bytes,
    until: Instant,
) -> Outcome {
    let (net, from) = (&caller.net, caller.node);
    let late = |_| TransportError::DeadlineExceeded(to);
    let fate = {
        let mut state = net.state();
        *state.calls.entry(service).or_default() += 1;
        state.fate(from, to)
    };
    net.trace.event(format_args!(
        "call {from}>{to} service {} {} bytes {:016x}",
        service.0,
        body.len(),
        digest(&body)
    ));
    let Fate::Arrives { after, again_after } = fate else {
        net.trace.event(format_args!("lost {from}>{to}"));
        return wait_in_vain(to, until).await;
    };
    timeout_at(until, sleep(after)).await.map_err(late)?;
    let request = Request {
        net: net.clone(),
        from,
        to,
        service,
        body,
        until,
    };
    if let Some(again_after) = again_after {
        request.clone().deliver(again_after - after, None)?;
    }
    let (sender, receiver) = oneshot::channel();
    request.deliver(Duration::ZERO, Some(sender))?;
    match timeout_at(until, receiver).await.map_err(late)? {
        Ok(Some(outcome)) if net.state().runs(from, caller.run) => outcome,
        Ok(Some(_)) => Err(unreachable(to, "this run of the calling node is over")),
        Ok(None) => wait_in_vain(to, until).await,
        Err(_) => Err(unreachable(to, "the connection broke")),
    }
}

async fn wait_in_vain(to: NodeId, until: Instant) -> Outcome {
    tokio::time::sleep_until(until).await;
    Err(TransportError::DeadlineExceeded(to))
}

/// The caller's place; `None` through it is an answer that got lost.
type Reply = oneshot::Sender<Option<Outcome>>;

#[derive(Clone)]
struct Request {
    net: Arc<Net>,
    from: NodeId,
    to: NodeId,
    service: Service,
    body: Bytes,
    until: Instant,
}

impl Request {
    /// Hands the request to the node. Without a `reply` it is a copy whose answer nobody waits for.
    fn deliver(self, after: Duration, reply: Option<Reply>) -> Result<(), TransportError> {
        let net = self.net.clone();
        let mut state = net.state();
        let to = self.to;
        if state.is_cut(self.from, to) {
            // Cut while it was on its way: the sender learns nothing.
            drop(state);
            if let Some(reply) = reply {
                let _ = reply.send(None);
            }
            return Ok(());
        }
        let Some(node) = state.nodes.get_mut(&to).filter(|node| node.is_up()) else {
            return Err(unreachable(to, "nobody listens there"));
        };
        node.spawn(async move {
            sleep(after).await;
            self.handle(reply).await;
        });
        Ok(())
    }

    async fn handle(self, reply: Option<Reply>) {
        let Some(mut reply) = reply else {
            let _ = timeout_at(self.until, self.outcome()).await;
            return;
        };
        let outcome = tokio::select! {
            biased;
            outcome = timeout_at(self.until, self.outcome()) => outcome,
            () = self.caller_left(&mut reply) => return,
        };
        let Ok(outcome) = outcome else { return };
        let fate = self.net.state().fate(self.to, self.from);
        let Fate::Arrives { after, .. } = fate else {
            self.net
                .trace
                .event(format_args!("lost {}>{}", self.to, self.from));
            let _ = reply.send(None);
            return;
        };
        sleep(after).await;
        let cut = self.net.state().is_cut(self.to, self.from);
        self.net.trace.event(format_args!(
            "answer {}>{} {}",
            self.to,
            self.from,
            describe(&outcome)
        ));
        let _ = reply.send(if cut { None } else { Some(outcome) });
    }

    /// A caller that leaves sends word, which takes its time and may be lost.
    async fn caller_left(&self, reply: &mut Reply) {
        reply.closed().await;
        let fate = self.net.state().fate(self.from, self.to);
        match fate {
            Fate::Arrives { after, .. } => sleep(after).await,
            Fate::Lost => std::future::pending().await,
        }
    }

    async fn outcome(&self) -> Outcome {
        let node = self.to;
        let handler = self
            .net
            .state()
            .node(node)
            .and_then(|node| node.handler(self.service));
        let handler = handler.ok_or_else(|| refused(node, self.service))?;
        let handled = AssertUnwindSafe(handler.call(self.from, self.body.clone()));
        match handled.catch_unwind().await {
            Ok(Ok(answer)) if answer.len() > CALL_BYTES_MAX => {
                Err(unreachable(node, "the answer is over the bound"))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refusal)) => Err(TransportError::Refused {
                node,
                why: refusal.0,
            }),
            Err(_) => Err(unreachable(node, "the handler panicked")),
        }
    }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Ok(body) => format!("{} bytes {:016x}", body.len(), digest(body)),
        Err(error) => error.to_string(),
    }
}
