//! What the TLS of this site accepts: version 1.3 only, certificates of the site's own authority only.
//!
//! Invariants:
//! - a server's certificate must name the node that the client wanted; webpki checks name, chain and validity;
//! - a client's certificate is verified when there is one; whether one is needed is decided by the protocol that was
//!   agreed on ([`NODE_PROTOCOL`] and [`BULK_PROTOCOL`] need it, [`JOIN_PROTOCOL`] does not);
//! - sessions are never resumed: each connection sees the certificate and its end of validity.

use std::io;
use std::sync::Arc;

use ids::{NodeId, SiteId};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use super::{TlsIdentity, peer_names};

/// Calls between nodes.
pub(super) const NODE_PROTOCOL: &[u8] = b"skerry/1";
/// Bulk streams between nodes.
pub(super) const BULK_PROTOCOL: &[u8] = b"skerry-bulk/1";
/// One request of a machine that has no certificate yet.
pub(super) const JOIN_PROTOCOL: &[u8] = b"skerry-join/1";

/// The configurations that follow from one identity.
#[derive(Debug)]
pub(super) struct Configs {
    pub(super) server: Arc<ServerConfig>,
    pub(super) node_client: Arc<ClientConfig>,
    pub(super) bulk_client: Arc<ClientConfig>,
}

impl Configs {
    /// Checks the identity and builds the configurations.
    pub(super) fn new(site: SiteId, node: NodeId, identity: &TlsIdentity) -> io::Result<Configs> {
        check_name(site, node, identity)?;
        let roots = Arc::new(roots(identity)?);
        let client = |protocol| client_config(&roots, identity, protocol);
        Ok(Configs {
            server: Arc::new(server_config(&roots, identity)?),
            node_client: Arc::new(client(NODE_PROTOCOL)?),
            bulk_client: Arc::new(client(BULK_PROTOCOL)?),
        })
    }
}

/// The cryptography that all connections use.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The name that the server's certificate must carry.
pub(super) fn expected_name(site: SiteId, node: NodeId) -> ServerName<'static> {
    let name = peer_names::server_name(site, node);
    ServerName::try_from(name).expect("a node's name is a DNS name")
}

fn check_name(site: SiteId, node: NodeId, identity: &TlsIdentity) -> io::Result<()> {
    let leaf = identity
        .chain_der
        .first()
        .ok_or_else(|| invalid("the identity has no certificate"))?;
    let named = peer_names::of_certificate(leaf).map_err(invalid)?;
    if named == (site, node) {
        return Ok(());
    }
    Err(invalid(format!(
        "the certificate is for {}, this node is {}",
        peer_names::server_name(named.0, named.1),
        peer_names::server_name(site, node)
    )))
}

fn roots(identity: &TlsIdentity) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(identity.ca_der.clone()))
        .map_err(invalid)?;
    Ok(roots)
}

/// The chain as it is sent: with the authority at its end, so that a joining machine can pin it.
fn chain(identity: &TlsIdentity) -> Vec<CertificateDer<'static>> {
    let mut chain = identity.chain_der.clone();
    if !chain.contains(&identity.ca_der) {
        chain.push(identity.ca_der.clone());
    }
    chain.into_iter().map(CertificateDer::from).collect()
}

fn key(identity: &TlsIdentity) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(identity.key_pkcs8_der.clone()).into()
}

fn server_config(roots: &Arc<RootCertStore>, identity: &TlsIdentity) -> io::Result<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .allow_unauthenticated()
        .build()
        .map_err(invalid)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(invalid)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(identity), key(identity))
        .map_err(invalid)?;
    config.alpn_protocols = [NODE_PROTOCOL, BULK_PROTOCOL, JOIN_PROTOCOL]
        .map(<[u8]>::to_vec)
        .into();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    roots: &Arc<RootCertStore>,
    identity: &TlsIdentity,
    protocol: &[u8],
) -> io::Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(invalid)?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain(identity), key(identity))
        .map_err(invalid)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
