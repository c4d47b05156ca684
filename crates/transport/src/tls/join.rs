//! The one question that a machine without a certificate may ask: one request, one answer, then the end.
//!
//! ```text
//! request: length u32 | bytes
//! answer:  0 (granted) or 1 (refused) u8 | length u32 | bytes or words
//! ```
//!
//! The asking machine knows the SHA-256 of the site's authority from its token. The server sends its certificate with
//! the authority's behind it; the machine takes the authority out of that chain by its fingerprint, and trusts the
//! server only if that authority signed for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::certificates::{JOIN_PROTOCOL, provider};
use super::{JoinHandler, dial, peer_names};
use crate::Refusal;

/// The longest request.
pub const JOIN_BYTES_MAX: usize = 64 << 10;

/// The longest answer: it names all servers of the site and what they hold. Only a server that was verified can send one.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// How long the exchange may take at the server.
pub(super) const JOIN_MAX: Duration = Duration::from_secs(10);

const GRANTED: u8 = 0;
const REFUSED: u8 = 1;

/// Why a machine could not ask to join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No connection, or the server is not of the site that the fingerprint belongs to.
    #[error("can't ask {address} to join: {source}")]
    Unreachable {
        /// Who was asked.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// No answer in time; the request may have been granted.
    #[error("{0} did not answer in time")]
    DeadlineExceeded(String),
    /// The server said no, in words.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The request is over [`JOIN_BYTES_MAX`].
    #[error("a request of {0} bytes is over the bound of {JOIN_BYTES_MAX}")]
    TooLarge(usize),
}

/// Asks the server at `address` (host and port) once, without a certificate of one's own.
///
/// # Errors
/// See [`JoinError`]; only a refusal says for sure that nothing was granted.
pub fn join_call(
    address: &str,
    ca_fingerprint_sha256: [u8; 32],
    request: Bytes,
    deadline: Duration,
) -> BoxFuture<'_, Result<Bytes, JoinError>> {
    Box::pin(async move {
        if request.len() > JOIN_BYTES_MAX {
            return Err(JoinError::TooLarge(request.len()));
        }
        let late = |_| JoinError::DeadlineExceeded(address.to_owned());
        let asked = timeout(deadline, ask(address, ca_fingerprint_sha256, &request)).await;
        let answer = asked.map_err(late)?.map_err(|source| {
            let address = address.to_owned();
            JoinError::Unreachable { address, source }
        })?;
        answer.map_err(JoinError::Refused)
    })
}

async fn ask(
    address: &str,
    fingerprint: [u8; 32],
    request: &[u8],
) -> io::Result<Result<Bytes, String>> {
    // The name only serves as SNI, which servers ignore: the verifier looks at the chain.
    let name = ServerName::try_from("join.skerry").map_err(io::Error::other)?;
    let config = pinned_config(fingerprint).map_err(io::Error::other)?;
    let mut io = dial::address(address, name, Arc::new(config)).await?;
    io.write_u32(request.len() as u32).await?;
    io.write_all(request).await?;
    io.flush().await?;
    let status = io.read_u8().await?;
    let answer = read_bounded(&mut io, ANSWER_BYTES_MAX).await?;
    Ok(match status {
        GRANTED => Ok(answer),
        _ => Err(String::from_utf8_lossy(&answer).into_owned()),
    })
}

/// Answers one request of an unknown machine; the caller bounds time and number.
pub(super) async fn serve(
    handler: Option<Arc<dyn JoinHandler>>,
    from: SocketAddr,
    mut io: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let request = read_bounded(&mut io, JOIN_BYTES_MAX).await?;
    let answer = match handler {
        Some(handler) => handler.join(from, request).await,
        None => Err(Refusal("this server takes no new nodes now".into())),
    };
    let (status, bytes) = match answer {
        Ok(bytes) if bytes.len() > ANSWER_BYTES_MAX => (REFUSED, "the answer is too long".into()),
        Ok(bytes) => (GRANTED, bytes),
        Err(refusal) => (REFUSED, Bytes::from(refusal.0)),
    };
    let bytes = &bytes[..bytes.len().min(ANSWER_BYTES_MAX)];
    io.write_u8(status).await?;
    io.write_u32(bytes.len() as u32).await?;
    io.write_all(bytes).await?;
    io.shutdown().await
}

async fn read_bounded(io: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Bytes> {
    let length = io.read_u32().await? as usize;
    if length > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message is too long",
        ));
    }
    let mut bytes = vec![0; length];
    io.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

fn pinned_config(fingerprint: [u8; 32]) -> Result<ClientConfig, Error> {
    let algorithms = provider().signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedAuthority {
            fingerprint,
            algorithms,
        }))
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN_PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Trusts the nodes that the authority with this fingerprint signed for, and nobody else.
#[derive(Debug)]
struct PinnedAuthority {
    fingerprint: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = |der: &&CertificateDer<'_>| {
            ring::digest::digest(&ring::digest::SHA256, der).as_ref() == self.fingerprint
        };
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority = intermediates.iter().find(pinned).ok_or(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        // Which node it is doesn't matter, but it must be one: users have certificates too.
        match peer_names::of_certificate(end_entity) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(_) => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::io::duplex;

    use super::*;

    /// Answers with so many bytes.
    struct Answers(usize);

    #[async_trait]
    impl JoinHandler for Answers {
        async fn join(&self, _: SocketAddr, _: Bytes) -> Result<Bytes, Refusal> {
            Ok(vec![7; self.0].into())
        }
    }

    /// Status and length of the answer to a request of so many bytes.
    async fn told(request: usize, answer: usize) -> io::Result<(u8, usize)> {
        let (mut near, far) = duplex(64 << 10);
        let handler: Arc<dyn JoinHandler> = Arc::new(Answers(answer));
        let serving = serve(Some(handler), SocketAddr::from(([127, 0, 0, 1], 1)), far);
        let asking = async {
            near.write_u32(request as u32).await?;
            near.write_all(&vec![0; request]).await?;
            let status = near.read_u8().await?;
            let answer = read_bounded(&mut near, ANSWER_BYTES_MAX).await?;
            Ok::<_, io::Error>((status, answer.len()))
        };
        tokio::join!(serving, asking).1
    }

    #[tokio::test]
    async fn an_answer_may_be_longer_than_a_request() {
        let long = JOIN_BYTES_MAX + 1;
        assert_eq!(told(8, long).await.unwrap(), (GRANTED, long));
        assert_eq!(told(8, ANSWER_BYTES_MAX + 1).await.unwrap().0, REFUSED);
        assert!(told(long, 8).await.is_err());
    }
}
