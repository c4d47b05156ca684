//! The real [`Transport`]: TLS 1.3 with certificates at both ends.
//!
//! Calls to a node share one connection per direction ([`frame`]); bulk streams have connections of their own, which
//! are used again. The certificate names the node ([`peer_names`]): a server answers only nodes of its site, a client
//! speaks only to the node that it wanted. A machine without a certificate can only ask to join ([`join_call`]).
//!
//! Invariants:
//! - a broken connection fails its calls at once; the next call connects anew, with backoff;
//! - what a node calls of itself never leaves the process;
//! - after [`TlsTransport::shutdown`] no task of the transport runs.
//!
//! Connections are kept while they are idle. A new certificate holds for new connections only.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use ids::{NodeId, SiteId};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::DropGuard;

use crate::chunked::ChunkedStream;
use crate::{BulkStream, CALL_BYTES_MAX, Handler, Refusal, Service, Transport, TransportError};

mod bulk;
mod certificates;
mod connection;
mod core;
mod dial;
pub mod frame;
mod incoming;
mod join;
mod outbox;
pub mod peer_names;
mod pool;
mod quota;
mod server;

pub use join::{JOIN_BYTES_MAX, JoinError, join_call};

use self::core::Core;
use certificates::Configs;
use connection::CallError;
use pool::Pool;

/// A connection on which nothing came for so long that a call ran out of time is given up.
const SILENT_MS_MAX: u64 = 10_000;

/// Bytes in flight between the ends of a stream to oneself.
const OWN_STREAM_BYTES: usize = 256 << 10;

/// Where the nodes of the site listen.
pub trait AddressBook: Send + Sync {
    /// Host and port of a node; `None` when it is not known. Asked at each attempt to connect.
    fn address_of(&self, node: NodeId) -> Option<String>;
}

/// Which nodes may call, beyond having a certificate.
pub trait Admission: Send + Sync {
    /// Asked at each connection and each call: must be quick.
    fn admits(&self, node: NodeId) -> bool;
}

/// What a server does with a machine that wants to join.
#[async_trait]
pub trait JoinHandler: Send + Sync {
    /// Answers a request from an unauthenticated machine. Dropped when it takes over ten seconds.
    async fn join(&self, peer: SocketAddr, request: Bytes) -> Result<Bytes, Refusal>;
}

/// Who a node is, and by whose word.
#[derive(Clone)]
pub struct TlsIdentity {
    /// The node's certificate first, then those between it and the authority.
    pub chain_der: Vec<Vec<u8>>,
    /// The certificate's private key, PKCS #8.
    pub key_pkcs8_der: Vec<u8>,
    /// The certificate of the site's authority.
    pub ca_der: Vec<u8>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = self.chain_der.len();
        f.debug_struct("TlsIdentity")
            .field("certificates", &certificates)
            .finish_non_exhaustive()
    }
}

/// What a transport needs to start.
#[derive(Debug)]
pub struct TlsConfig {
    /// The site that this node belongs to.
    pub site: SiteId,
    /// This node.
    pub node: NodeId,
    /// Where it listens, bound already.
    pub listener: TcpListener,
    /// Its certificate.
    pub identity: TlsIdentity,
}

/// See the module.
pub struct TlsTransport {
    core: Arc<Core>,
    pool: Pool,
    local_addr: SocketAddr,
    _stop_on_drop: DropGuard,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl TlsTransport {
    /// Begins to listen. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the certificate is not one for this node, or does not fit its key.
    pub fn start(config: TlsConfig, peers: Arc<dyn AddressBook>) -> io::Result<Arc<TlsTransport>> {
        let TlsConfig {
            site,
            node,
            listener,
            identity,
        } = config;
        let local_addr = listener.local_addr()?;
        let core = Arc::new(Core::new(
            site,
            node,
            peers,
            Configs::new(site, node, &identity)?,
        ));
        let pool = Pool::default();
        core.spawn(server::run(core.clone(), pool.clone(), listener));
        let stop = core.stop.clone().drop_guard();
        Ok(Arc::new(TlsTransport {
            core,
            pool,
            local_addr,
            _stop_on_drop: stop,
        }))
    }

    /// Uses another certificate for connections from now on.
    ///
    /// # Errors
    /// As [`TlsTransport::start`]; the old certificate then stays in use.
    pub fn renew(&self, identity: &TlsIdentity) -> io::Result<()> {
        self.core
            .set_configs(Configs::new(self.core.site, self.core.node, identity)?);
        Ok(())
    }

    /// Decides from now on which nodes may call; until then, all with a certificate of the site.
    pub fn admit_by(&self, admission: Arc<dyn Admission>) {
        self.core.set_admission(admission);
    }

    /// Answers machines that want to join; until then they are refused.
    pub fn serve_joins(&self, handler: Arc<dyn JoinHandler>) {
        self.core.set_join_handler(handler);
    }

    /// Where this node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Closes everything and waits until the transport's tasks have ended. Calls fail from now on.
    pub fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.core.stop.cancel();
            self.core.tasks.close();
            self.core.tasks.wait().await;
        })
    }

    fn check_open(&self, to: NodeId) -> Result<(), TransportError> {
        if self.core.stop.is_cancelled() {
            return Err(TransportError::Unreachable {
                node: to,
                why: "this node is shutting down".into(),
            });
        }
        Ok(())
    }

    async fn call_peer(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        until: Instant,
    ) -> Result<Bytes, TransportError> {
        let failed = |error| in_words(to, error);
        let peer = self.pool.peer(&self.core, to).map_err(failed)?;
        let late = |_| TransportError::DeadlineExceeded(to);
        let connection = timeout_at(until, peer.connection())
            .await
            .map_err(late)?
            .map_err(failed)?;
        match timeout_at(until, connection.call(service, body, until)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => {
                if connection.silent_ms() > SILENT_MS_MAX {
                    connection.close("nothing came from the other side for too long");
                }
                Err(TransportError::DeadlineExceeded(to))
            }
        }
    }

    async fn call_self(
        &self,
        service: Service,
        body: Bytes,
        until: Instant,
    ) -> Result<Bytes, TransportError> {
        let node = self.core.node;
        let refused = |why| TransportError::Refused { node, why };
        let handler = self.core.handler(service);
        let handler = handler.ok_or_else(|| refused(not_offered(service)))?;
        match timeout_at(until, handler.call(node, body)).await {
            Ok(answer) => answer.map_err(|refusal| refused(refusal.0)),
            Err(_) => Err(TransportError::DeadlineExceeded(node)),
        }
    }

    fn stream_to_self(
        &self,
        service: Service,
        header: Bytes,
    ) -> Result<BulkStream, TransportError> {
        let node = self.core.node;
        let handler = self.core.handler(service);
        let refused = || TransportError::Refused {
            node,
            why: not_offered(service),
        };
        let handler = handler.ok_or_else(refused)?;
        let (near, far) = tokio::io::duplex(OWN_STREAM_BYTES);
        self.core.spawn(async move {
            handler
                .stream(node, header, Box::pin(ChunkedStream::new(far)))
                .await;
        });
        Ok(Box::pin(ChunkedStream::new(near)))
    }
}

#[async_trait]
impl Transport for TlsTransport {
    async fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        if body.len() > CALL_BYTES_MAX {
            return Err(TransportError::TooLarge(body.len()));
        }
        self.check_open(to)?;
        let until = Instant::now() + deadline;
        if to == self.core.node {
            return self.call_self(service, body, until).await;
        }
        self.call_peer(to, service, body, until).await
    }

    async fn stream(
        &self,
        to: NodeId,
        service: Service,
        header: Bytes,
    ) -> Result<BulkStream, TransportError> {
        if header.len() > bulk::HEADER_BYTES_MAX {
            return Err(TransportError::TooLarge(header.len()));
        }
        self.check_open(to)?;
        if to == self.core.node {
            return self.stream_to_self(service, header);
        }
        let peer = self
            .pool
            .peer(&self.core, to)
            .map_err(|error| in_words(to, error))?;
        bulk::open(&peer, service, &header)
            .await
            .map_err(|error| in_words(to, error))
    }

    fn serve(&self, service: Service, handler: Arc<dyn Handler>) {
        self.core.set_handler(service, handler);
    }
}

fn not_offered(service: Service) -> String {
    format!("service {} is not offered", service.0)
}

fn in_words(node: NodeId, error: CallError) -> TransportError {
    match error {
        CallError::Broken(why) => TransportError::Unreachable { node, why },
        CallError::Refused(why) => TransportError::Refused { node, why },
    }
}
