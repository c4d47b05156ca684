//! A site of real transports on this machine: its authority, certificates and addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ids::{NodeId, SiteId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio::net::TcpListener;
use transport::Transport;
use transport::tls::peer_names::server_name;
use transport::tls::{AddressBook, TlsConfig, TlsIdentity, TlsTransport};

use crate::suites::transport::Nodes;

/// See the module. Panics where a test would: when no certificate or socket can be had.
pub struct TlsSite {
    id: SiteId,
    authority: Arc<Authority>,
    book: Arc<Book>,
    running: Mutex<BTreeMap<NodeId, Arc<TlsTransport>>>,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

#[derive(Debug, Default)]
struct Book {
    addresses: Mutex<BTreeMap<NodeId, SocketAddr>>,
    lookups: AtomicUsize,
}

impl Book {
    fn addresses(&self) -> MutexGuard<'_, BTreeMap<NodeId, SocketAddr>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressBook for Book {
    fn address_of(&self, node: NodeId) -> Option<String> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.addresses().get(&node).map(SocketAddr::to_string)
    }
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .to_vec();
        Authority {
            issuer: Issuer::new(params, key),
            der,
        }
    }
}

impl TlsSite {
    /// A site with an authority of its own.
    pub fn new(id: SiteId) -> TlsSite {
        TlsSite::of(id, Arc::new(Authority::new()))
    }

    /// Another site under the same authority: what must never be.
    pub fn under_same_authority(&self, id: SiteId) -> TlsSite {
        TlsSite::of(id, self.authority.clone())
    }

    fn of(id: SiteId, authority: Arc<Authority>) -> TlsSite {
        TlsSite {
            id,
            authority,
            book: Arc::default(),
            running: Mutex::default(),
        }
    }

    /// The site.
    pub fn id(&self) -> SiteId {
        self.id
    }

    /// The authority's certificate.
    pub fn ca_der(&self) -> &[u8] {
        &self.authority.der
    }

    /// Says where a node listens.
    pub fn point(&self, node: NodeId, address: SocketAddr) {
        self.book.addresses().insert(node, address);
    }

    /// How often an address was asked for: each attempt to connect does.
    pub fn lookups(&self) -> usize {
        self.book.lookups.load(Ordering::Relaxed)
    }

    /// A new certificate and key for a node.
    pub fn identity(&self, node: NodeId) -> TlsIdentity {
        let key = KeyPair::generate().expect("a key");
        let names = vec![server_name(self.id, node)];
        let mut params = CertificateParams::new(names).expect("a DNS name");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params
            .signed_by(&key, &self.authority.issuer)
            .expect("a certificate");
        TlsIdentity {
            chain_der: vec![leaf.der().to_vec()],
            key_pkcs8_der: key.serialize_der(),
            ca_der: self.authority.der.clone(),
        }
    }

    /// Starts a node where the others will find it, at a port that is free.
    pub async fn start(&self, node: NodeId) -> Arc<TlsTransport> {
        self.start_as(node, self.identity(node))
            .await
            .expect("the identity fits")
    }

    /// Starts a node with another identity.
    ///
    /// # Errors
    /// As [`TlsTransport::start`].
    pub async fn start_as(
        &self,
        node: NodeId,
        identity: TlsIdentity,
    ) -> io::Result<Arc<TlsTransport>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        self.point(node, listener.local_addr()?);
        let config = TlsConfig {
            site: self.id,
            node,
            listener,
            identity,
        };
        TlsTransport::start(config, self.book.clone())
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<TlsTransport>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Nodes for TlsSite {
    async fn start(&self, node: NodeId) -> Arc<dyn Transport> {
        let transport = TlsSite::start(self, node).await;
        self.running().insert(node, transport.clone());
        transport
    }

    async fn stop(&self, node: NodeId) {
        let transport = self.running().remove(&node);
        if let Some(transport) = transport {
            transport.shutdown().await;
        }
    }
}
