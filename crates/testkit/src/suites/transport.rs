//! What a [`Transport`] must do between nodes that reach each other, and when one goes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{join, join_all};
use ids::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;
use transport::{BulkStream, CALL_BYTES_MAX, Handler, Refusal, Service, Transport, TransportError};

/// Long enough for anything that works.
const LONG: Duration = Duration::from_secs(60);
const SERVICE: Service = Service(200);
const UNSERVED: Service = Service(201);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Makes nodes that can reach each other.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Starts a node, again if it was stopped.
    async fn start(&self, node: NodeId) -> Arc<dyn Transport>;

    /// Stops a node; its transport only fails from now on.
    async fn stop(&self, node: NodeId);
}

/// Runs the whole suite on nodes 1 and 2.
///
/// # Panics
/// When the transport does something else than its trait says.
pub async fn run(nodes: &dyn Nodes) {
    let (one, two) = (nodes.start(ONE).await, nodes.start(TWO).await);
    let handler = Arc::new(Everything::default());
    one.serve(SERVICE, handler.clone());
    two.serve(SERVICE, handler.clone());
    for to in [TWO, ONE] {
        calls_are_answered(&*one, to).await;
        failures_are_told_apart(&*one, to).await;
        streams_carry_both_ways(&*one, to).await;
        a_dropped_stream_breaks(&*one, to, &handler).await;
    }
    what_can_not_be_sent_is_said(&*one).await;
    a_caller_that_leaves_is_noticed(&*one, &handler).await;
    a_stopped_node_fails_its_callers_and_returns(nodes, &*one, &handler).await;
}

/// Does what the first byte of a body or header says.
#[derive(Default)]
struct Everything {
    began: Notify,
    dropped: Arc<Notify>,
    broke: Notify,
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Handler for Everything {
    async fn call(&self, from: NodeId, body: Bytes) -> Result<Bytes, Refusal> {
        match body.first() {
            Some(b'r') => Err(Refusal("as you wished".into())),
            Some(b'w') => {
                let _told = NotifyOnDrop(self.dropped.clone());
                self.began.notify_one();
                std::future::pending().await
            }
            _ => Ok([&from.0.to_be_bytes(), &body[..]].concat().into()),
        }
    }

    async fn stream(&self, from: NodeId, header: Bytes, stream: BulkStream) {
        let (mut read, mut write) = tokio::io::split(stream);
        let echo = async {
            write.write_u64(from.0).await?;
            write.write_all(&header).await?;
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        };
        if echo.await.is_err() {
            self.broke.notify_one();
        }
    }
}

fn answer(body: &[u8]) -> Bytes {
    [&ONE.0.to_be_bytes(), body].concat().into()
}

async fn calls_are_answered(one: &dyn Transport, to: NodeId) {
    let calls = (0..200u32).map(|number| async move {
        let body = Bytes::from(vec![0; number as usize]);
        assert_eq!(
            one.call(to, SERVICE, body.clone(), LONG).await.unwrap(),
            answer(&body)
        );
    });
    join_all(calls).await;
    let large = Bytes::from(vec![0; CALL_BYTES_MAX - 8]);
    assert_eq!(
        one.call(to, SERVICE, large.clone(), LONG).await.unwrap(),
        answer(&large)
    );
}

async fn failures_are_told_apart(one: &dyn Transport, to: NodeId) {
    let refused = one
        .call(to, SERVICE, Bytes::from_static(b"r"), LONG)
        .await
        .unwrap_err();
    let expected = matches!(&refused, TransportError::Refused { node, why }
        if *node == to && why == "as you wished");
    assert!(expected, "{refused}");
    let unserved = one
        .call(to, UNSERVED, Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(unserved, TransportError::Refused { .. }),
        "{unserved}"
    );
    let unserved = one
        .stream(to, UNSERVED, Bytes::new())
        .await
        .err()
        .expect("no handler");
    assert!(
        matches!(unserved, TransportError::Refused { .. }),
        "{unserved}"
    );
    let soon = Duration::from_millis(50);
    let late = one
        .call(to, SERVICE, Bytes::from_static(b"w"), soon)
        .await
        .unwrap_err();
    assert!(
        matches!(late, TransportError::DeadlineExceeded(node) if node == to),
        "{late}"
    );
}

async fn streams_carry_both_ways(one: &dyn Transport, to: NodeId) {
    for len in [0usize, 1, 3_000_000] {
        let stream = one
            .stream(to, SERVICE, Bytes::from_static(b"head"))
            .await
            .unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..len).map(|n| (n / 7) as u8).collect();
        let send = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, received) = join(send, read.read_to_end(&mut got)).await;
        received.unwrap();
        assert_eq!(got[..12], [&ONE.0.to_be_bytes()[..], b"head"].concat());
        assert!(got[12..] == sent, "{len} bytes came back");
    }
}

async fn a_dropped_stream_breaks(one: &dyn Transport, to: NodeId, handler: &Everything) {
    let mut stream = one.stream(to, SERVICE, Bytes::new()).await.unwrap();
    stream.write_all(b"half").await.unwrap();
    let mut back = [0; 12];
    stream.flush().await.unwrap();
    stream.read_exact(&mut back).await.unwrap();
    drop(stream);
    timeout(LONG, handler.broke.notified())
        .await
        .expect("the handler sees the break");
}

async fn what_can_not_be_sent_is_said(one: &dyn Transport) {
    let body = Bytes::from(vec![0; CALL_BYTES_MAX + 1]);
    let error = one.call(TWO, SERVICE, body, LONG).await.unwrap_err();
    assert!(
        matches!(error, TransportError::TooLarge(len) if len == CALL_BYTES_MAX + 1),
        "{error}"
    );
    let error = one
        .call(NodeId(99), SERVICE, Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(error, TransportError::Unreachable { .. }),
        "{error}"
    );
    let error = one
        .stream(NodeId(99), SERVICE, Bytes::new())
        .await
        .err()
        .expect("nobody");
    assert!(
        matches!(error, TransportError::Unreachable { .. }),
        "{error}"
    );
}

async fn a_caller_that_leaves_is_noticed(one: &dyn Transport, handler: &Everything) {
    // Earlier waiting calls may have left word.
    while timeout(Duration::from_millis(200), handler.dropped.notified())
        .await
        .is_ok()
    {}
    while timeout(Duration::from_millis(1), handler.began.notified())
        .await
        .is_ok()
    {}
    {
        let call = one.call(TWO, SERVICE, Bytes::from_static(b"w"), LONG);
        let began = std::pin::pin!(handler.began.notified());
        futures::future::select(call, began).await;
    }
    timeout(LONG, handler.dropped.notified())
        .await
        .expect("the handler's future is dropped");
}

async fn a_stopped_node_fails_its_callers_and_returns(
    nodes: &dyn Nodes,
    one: &dyn Transport,
    handler: &Arc<Everything>,
) {
    while timeout(Duration::from_millis(1), handler.began.notified())
        .await
        .is_ok()
    {}
    let stop = async {
        handler.began.notified().await;
        nodes.stop(TWO).await;
    };
    let call = one.call(TWO, SERVICE, Bytes::from_static(b"w"), LONG);
    let (waiting, ()) = join(call, stop).await;
    assert!(
        matches!(waiting, Err(TransportError::Unreachable { .. })),
        "{waiting:?}"
    );
    let down = one.call(TWO, SERVICE, Bytes::new(), LONG).await;
    assert!(
        matches!(down, Err(TransportError::Unreachable { .. })),
        "{down:?}"
    );

    nodes.start(TWO).await.serve(SERVICE, handler.clone());
    let back = timeout(LONG, async {
        while one.call(TWO, SERVICE, Bytes::new(), LONG).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    back.await.expect("the node is found again");
}
