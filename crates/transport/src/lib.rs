//! Calls and bulk streams between the nodes of a site, mutually authenticated.
//!
//! [`Transport`] is the only way from one node to another. The real one ([`tls`]) runs over mTLS: small calls share one
//! multiplexed connection per pair of nodes, bulk streams get connections of their own so that a block never stands in
//! front of a heartbeat. A simulated one lives in the crate `testkit`.
//!
//! Invariants:
//! - a handler learns the caller's identity from its certificate, never from what the caller says;
//! - a call ends by its deadline on the caller's side; a call that failed may or may not have been carried out;
//! - every message carries a version; frames, queues and streams in flight are bounded.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ids::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

pub mod chunked;
pub mod tls;

/// What a call is for; each service has one handler on each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service(pub u8);

impl Service {
    /// Raft messages between replicas of a group.
    pub const RAFT: Service = Service(1);
    /// Proposals and queries forwarded to a replica.
    pub const GROUPS: Service = Service(2);
    /// Block reads and writes.
    pub const BLOCKS: Service = Service(3);
    /// Liveness of nodes.
    pub const LIVENESS: Service = Service(4);
    /// Status, joining and other administration between nodes.
    pub const ADMIN: Service = Service(5);
}

/// The largest body of a call or of its answer, in bytes; what is larger goes by stream.
pub const CALL_BYTES_MAX: usize = 4 << 20;

/// Why a call or stream failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// The node could not be reached, or the connection broke; the call may have been carried out.
    #[error("node {node} is unreachable: {why}")]
    Unreachable {
        /// The node that was called.
        node: NodeId,
        /// What happened, in words.
        why: String,
    },
    /// The deadline passed; the call may have been carried out.
    #[error("node {0} did not answer in time")]
    DeadlineExceeded(NodeId),
    /// The node answered that it won't; it did not carry out the call.
    #[error("node {node} refused: {why}")]
    Refused {
        /// The node that was called.
        node: NodeId,
        /// Its words.
        why: String,
    },
    /// The body is over [`CALL_BYTES_MAX`].
    #[error("a call of {0} bytes is over the bound of {CALL_BYTES_MAX}")]
    TooLarge(usize),
}

/// A handler's refusal, in words for the log of the caller.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// A two-way stream of bytes with back-pressure; dropping it before its end breaks it at the other side.
///
/// What was written surely leaves with `flush` or `shutdown`. When both sides shut down, and the opener has read what was
/// sent, the connection below serves the next stream; otherwise that one begins with a handshake of its own.
pub type BulkStream = Pin<Box<dyn Duplex>>;

/// Both directions of a [`BulkStream`]. `shutdown` of the write half tells the other side that all was sent.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// What a node does with the calls that reach it.
///
/// The futures are dropped when nobody waits any more: the deadline passed, the caller left, the connection broke. What
/// must not stop half-way belongs into a task of its own.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Answers a call from the authenticated node `from`.
    async fn call(&self, from: NodeId, body: Bytes) -> Result<Bytes, Refusal>;

    /// Serves a stream that `from` opened with `header`; returns when it is done with it.
    async fn stream(&self, from: NodeId, header: Bytes, stream: BulkStream) {
        let _ = (from, header, stream);
    }
}

/// The way to the other nodes of the site.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends `body` to a service of node `to` and waits for the answer.
    async fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError>;

    /// Opens a bulk stream; `header` says what it is for.
    async fn stream(
        &self,
        to: NodeId,
        service: Service,
        header: Bytes,
    ) -> Result<BulkStream, TransportError>;

    /// Registers the handler of a service; calls for services without a handler are refused.
    fn serve(&self, service: Service, handler: Arc<dyn Handler>);
}
