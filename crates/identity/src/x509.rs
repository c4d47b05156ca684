//! What a certificate says: its dates, its node; and the text form of certificates and keys.
//!
//! Reading verifies nothing unless a function's name says so.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ids::{NodeId, SiteId};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What all names of nodes end with.
pub const SUFFIX: &str = ".skerry";

/// Bytes or text that aren't a usable certificate or key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum X509Error {
    /// Not a certificate.
    #[error("this is not an X.509 certificate")]
    NotACertificate,
    /// Not exactly one `node-<id>.<site>.skerry` among its names.
    #[error("the certificate doesn't name one node of a site")]
    NoNode,
    /// Signed by somebody else.
    #[error("the certificate was not issued by this site's authority")]
    NotIssuedByCa,
    /// The text holds no PEM block of the kind.
    #[error("the text holds no PEM block `{0}`")]
    NoPem(&'static str),
}

/// When a certificate is valid, in milliseconds since 1970, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From here.
    pub not_before_ms: u64,
    /// To here.
    pub not_after_ms: u64,
}

/// How a certificate stands at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its time is yet to come: this machine's clock, or the issuer's, is wrong.
    NotYetValid,
    /// Nothing to do.
    Valid,
    /// Valid, but two thirds of its life are over.
    RenewDue,
    /// Its time is over.
    Expired,
}

impl Validity {
    /// How the certificate stands at `now_ms`.
    pub fn standing(&self, now_ms: u64) -> Standing {
        let life = self.not_after_ms.saturating_sub(self.not_before_ms);
        let renew_ms = self.not_before_ms + life / 3 * 2;
        match now_ms {
            now if now < self.not_before_ms => Standing::NotYetValid,
            now if now < renew_ms => Standing::Valid,
            now if now <= self.not_after_ms => Standing::RenewDue,
            _ => Standing::Expired,
        }
    }
}

/// The DNS name that the certificate of a node carries.
pub fn node_name(site: SiteId, node: NodeId) -> String {
    format!("node-{node}.{site}{SUFFIX}")
}

/// SHA-256 of a certificate: what a join token pins.
pub fn fingerprint(certificate_der: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate_der);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// The dates of a certificate.
pub fn validity(certificate_der: &[u8]) -> Result<Validity, X509Error> {
    let certificate = parse(certificate_der)?;
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    let dates = certificate.validity();
    Ok(Validity {
        not_before_ms: ms(dates.not_before.timestamp()),
        not_after_ms: ms(dates.not_after.timestamp()),
    })
}

/// The node that a certificate names.
pub fn node_of(certificate_der: &[u8]) -> Result<(SiteId, NodeId), X509Error> {
    let names = dns_names(certificate_der)?;
    let mut nodes = names.iter().filter(|name| name.ends_with(SUFFIX));
    match (nodes.next(), nodes.next()) {
        (Some(name), None) => parse_node_name(name).ok_or(X509Error::NoNode),
        _ => Err(X509Error::NoNode),
    }
}

fn parse_node_name(name: &str) -> Option<(SiteId, NodeId)> {
    let (node, site) = name
        .strip_suffix(SUFFIX)?
        .strip_prefix("node-")?
        .split_once('.')?;
    let (site, node) = (site.parse().ok()?, node.parse().ok()?);
    (node_name(site, node) == name).then_some((site, node))
}

/// The DNS names of a certificate.
pub fn dns_names(certificate_der: &[u8]) -> Result<Vec<String>, X509Error> {
    let certificate = parse(certificate_der)?;
    let extension = certificate
        .subject_alternative_name()
        .map_err(|_| X509Error::NotACertificate)?;
    let names = extension.map_or(&[][..], |extension| &extension.value.general_names);
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        _ => None,
    });
    Ok(dns.collect())
}

/// The node of a certificate that the authority did issue; its dates are not looked at.
pub fn verified_node_of(
    ca_der: &[u8],
    certificate_der: &[u8],
) -> Result<(SiteId, NodeId), X509Error> {
    let ca = parse(ca_der)?;
    let certificate = parse(certificate_der)?;
    let issued = certificate.issuer() == ca.subject()
        && !certificate.is_ca()
        && certificate.verify_signature(Some(ca.public_key())).is_ok();
    if issued {
        node_of(certificate_der)
    } else {
        Err(X509Error::NotIssuedByCa)
    }
}

/// Whether the certificate names itself as its issuer: a root, or one that stands alone. The signature is not looked at.
pub fn is_self_issued(certificate_der: &[u8]) -> bool {
    parse(certificate_der).is_ok_and(|certificate| certificate.issuer() == certificate.subject())
}

/// The public key of a certificate: the bits of its subject public key.
pub(crate) fn public_key(certificate_der: &[u8]) -> Result<Vec<u8>, X509Error> {
    Ok(parse(certificate_der)?
        .public_key()
        .subject_public_key
        .data
        .to_vec())
}

/// The common name of a certificate's subject.
pub(crate) fn common_name(certificate_der: &[u8]) -> Result<String, X509Error> {
    let certificate = parse(certificate_der)?;
    let name = certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok());
    name.map(str::to_owned).ok_or(X509Error::NotACertificate)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, X509Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(X509Error::NotACertificate),
    }
}

/// Certificates as PEM blocks, one after the other.
pub fn certificates_to_pem<T: AsRef<[u8]>>(chain_der: &[T]) -> String {
    chain_der
        .iter()
        .map(|der| pem("CERTIFICATE", der.as_ref()))
        .collect()
}

/// The certificates of a PEM text, in its order.
pub fn certificates_from_pem(text: &str) -> Result<Vec<Vec<u8>>, X509Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|der| der.map(|der| der.to_vec()))
        .collect();
    found
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or(X509Error::NoPem("CERTIFICATE"))
}

/// A PKCS #8 key as PEM.
pub fn key_to_pem(pkcs8_der: &[u8]) -> String {
    pem("PRIVATE KEY", pkcs8_der)
}

/// The first PKCS #8 key of a PEM text.
pub fn key_from_pem(text: &str) -> Result<Vec<u8>, X509Error> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes());
    key.map(|key| key.secret_pkcs8_der().to_vec())
        .map_err(|_| X509Error::NoPem("PRIVATE KEY"))
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        out.extend(line.iter().map(|&byte| char::from(byte)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}
