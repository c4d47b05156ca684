//! A client that does by hand what the transport's own would never do.

use std::net::SocketAddr;
use std::sync::Arc;

use ids::NodeId;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use testkit::tls_site::TlsSite;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use transport::tls::TlsIdentity;
use transport::tls::peer_names::server_name;

/// Connects to the node `to`, with or without a certificate, for any protocol.
pub async fn handshake(
    site: &TlsSite,
    own: Option<NodeId>,
    address: SocketAddr,
    to: NodeId,
    protocol: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(site.ca_der().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own.map(|node| site.identity(node)) {
        None => builder.with_no_client_auth(),
        Some(TlsIdentity {
            chain_der,
            key_pkcs8_der,
            ..
        }) => {
            let chain = chain_der.into_iter().map(CertificateDer::from).collect();
            let key = PrivatePkcs8KeyDer::from(key_pkcs8_der).into();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    if !protocol.is_empty() {
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    }
    let name = ServerName::try_from(server_name(site.id(), to)).unwrap();
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    digest.as_ref().try_into().unwrap()
}
