//! Accepts connections, learns who is there, and hands each to the protocol that was agreed on.
//!
//! Invariants:
//! - a stranger holds at most a handshake's time and place: bounds per address and in total;
//! - no protocol but the join is spoken without a verified certificate of this site that names an admitted node;
//! - whatever `accept` reports, the loop goes on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ids::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::{BULK_PROTOCOL, JOIN_PROTOCOL, NODE_PROTOCOL};
use super::core::Core;
use super::dial::{HANDSHAKE_MAX, tune};
use super::pool::Pool;
use super::quota::Quota;
use super::{bulk, incoming, join, peer_names};

/// Connections of one address that have not shown a certificate yet.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 256;
/// The same over all addresses.
const HANDSHAKES_MAX: usize = 1024;
/// Connections for calls of one node: one is in use, older ones may not have noticed their end yet.
const CONTROLS_PER_NODE_MAX: usize = 8;
/// Bulk connections of one node, the idle ones included.
const BULKS_PER_NODE_MAX: usize = 128;
/// Streams of one node at a time.
const STREAMS_PER_NODE_MAX: usize = 64;
/// Joins at a time.
const JOINS_MAX: usize = 16;
/// Pause after a failed accept: descriptors may be used up, and only time brings them back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

struct Server {
    core: Arc<Core>,
    pool: Pool,
    handshakes: Semaphore,
    strangers: Arc<Quota<IpAddr>>,
    controls: Arc<Quota<NodeId>>,
    bulks: Arc<Quota<NodeId>>,
    streams: Arc<Quota<NodeId>>,
    joins: Semaphore,
}

/// Accepts until the transport stops.
pub(super) async fn run(core: Arc<Core>, pool: Pool, listener: TcpListener) {
    let server = Arc::new(Server {
        core,
        pool,
        handshakes: Semaphore::new(HANDSHAKES_MAX),
        strangers: Quota::new(HANDSHAKES_PER_ADDRESS_MAX),
        controls: Quota::new(CONTROLS_PER_NODE_MAX),
        bulks: Quota::new(BULKS_PER_NODE_MAX),
        streams: Quota::new(STREAMS_PER_NODE_MAX),
        joins: Semaphore::new(JOINS_MAX),
    });
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => {
                let serve = server.clone().serve(tcp, from);
                server.core.spawn(async move {
                    if let Err(error) = serve.await {
                        tracing::debug!(%from, %error, "a connection was not taken");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept connections, going on");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Server {
    async fn serve(self: Arc<Self>, tcp: TcpStream, from: SocketAddr) -> io::Result<()> {
        let tls = self.shake_hands(tcp, from).await?;
        match tls.get_ref().1.alpn_protocol() {
            Some(JOIN_PROTOCOL) => self.serve_join(tls, from).await,
            Some(NODE_PROTOCOL) => self.serve_control(tls).await,
            Some(BULK_PROTOCOL) => self.serve_bulk(tls).await,
            _ => Err(denied("no protocol was agreed on")),
        }
    }

    async fn shake_hands(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
    ) -> io::Result<TlsStream<TcpStream>> {
        let busy = || denied("too many handshakes at once");
        let _place = self.handshakes.try_acquire().map_err(|_| busy())?;
        let _share = self.strangers.take(from.ip()).ok_or_else(busy)?;
        tune(&tcp)?;
        let acceptor = TlsAcceptor::from(self.core.configs().server.clone());
        timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await?
    }

    async fn serve_control(&self, tls: TlsStream<TcpStream>) -> io::Result<()> {
        let node = self.authenticate(&tls)?;
        if !self.core.admits(node) {
            incoming::refuse(tls, "this node is not admitted to the site").await;
            return Err(denied(format!("node {node} is not admitted")));
        }
        self.pool.heard_from(node);
        let Some(_permit) = self.controls.take(node) else {
            incoming::refuse(tls, "too many connections of this node").await;
            return Err(denied(format!("node {node} has too many connections")));
        };
        incoming::serve(self.core.clone(), node, tls).await;
        Ok(())
    }

    async fn serve_bulk(&self, tls: TlsStream<TcpStream>) -> io::Result<()> {
        let node = self.authenticate(&tls)?;
        let permit = self.bulks.take(node);
        let _permit = permit.ok_or_else(|| denied(format!("node {node} has too many streams")))?;
        bulk::serve(self.core.clone(), self.streams.clone(), node, tls).await;
        Ok(())
    }

    async fn serve_join(&self, tls: TlsStream<TcpStream>, from: SocketAddr) -> io::Result<()> {
        let _place = self
            .joins
            .try_acquire()
            .map_err(|_| denied("too many joins at once"))?;
        timeout(
            join::JOIN_MAX,
            join::serve(self.core.join_handler(), from, tls),
        )
        .await?
    }

    /// The node that the verified certificate names.
    fn authenticate(&self, tls: &TlsStream<TcpStream>) -> io::Result<NodeId> {
        let chain = tls.get_ref().1.peer_certificates();
        let leaf = chain
            .and_then(<[_]>::first)
            .ok_or_else(|| denied("there is no certificate"))?;
        match peer_names::of_certificate(leaf) {
            Ok((site, node)) if site == self.core.site => Ok(node),
            Ok((site, _)) => Err(denied(format!("the certificate is for the site {site}"))),
            Err(error) => Err(denied(error)),
        }
    }
}

fn denied(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, error)
}
