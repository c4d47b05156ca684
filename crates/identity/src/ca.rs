//! The site's certificate authority: one self-signed ECDSA P-256 certificate that signs the nodes' certificates.
//!
//! A node makes its key pair itself and sends a signing request (CSR). From that the authority takes the public key and
//! nothing else: names, usages and dates are what the site grants. The certificate of a node carries the name
//! `node-<id>.<site>.skerry`, by which its peers know it.
//!
//! Invariants:
//! - a request whose signature isn't by the key that it asks to certify is refused;
//! - nobody gets a second name that ends with `.skerry`, so that no certificate names two nodes;
//! - a certificate begins an hour before it was issued, for peers whose clocks are behind.
//!
//! There is no revocation list: a removed node is refused by the registry's word, and its certificate runs out.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ids::{NodeId, SiteId};
use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::x509::{self, SUFFIX, Validity, X509Error, node_name};

/// How far before its making a certificate begins: clocks of peers may be behind by so much.
pub const CLOCK_SKEW_MS: u64 = HOUR_MS;
/// Life of a node's certificate unless told otherwise.
pub const NODE_VALIDITY_MS: u64 = 30 * 24 * HOUR_MS;
/// Life of the authority.
pub const CA_VALIDITY_MS: u64 = 20 * 365 * 24 * HOUR_MS;

const HOUR_MS: u64 = 3_600_000;
/// 9999-01-01: X.509 knows no years beyond.
const DATE_MS_MAX: u64 = 253_370_764_800_000;
const CA_NAME_PREFIX: &str = "Skerry site ";
/// The longest signing request that is looked at, in bytes.
const CSR_BYTES_MAX: usize = 16 << 10;

/// Why the authority did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Not a request, or not signed by its own key.
    #[error("the certificate signing request is refused: {0}")]
    Request(String),
    /// A name or an address that no certificate may carry.
    #[error("`{0}` can't be a further name of a node's certificate")]
    Name(String),
    /// The wall clock shows a year that no certificate can hold.
    #[error("the clock shows {0} ms since 1970, which no certificate can hold: set the clock")]
    Clock(u64),
    /// The stored authority is damaged.
    #[error("the site's authority can't be used: {0}")]
    Authority(String),
    /// A certificate that can't be read.
    #[error(transparent)]
    Certificate(#[from] X509Error),
    /// Making a key or a signature failed.
    #[error("making a key or signature failed")]
    Crypto(#[source] rcgen::Error),
}

/// What the site grants to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeGrant {
    /// The node.
    pub node: NodeId,
    /// Further DNS names under which clients reach it; none may end with `.skerry`.
    pub names: Vec<String>,
    /// Addresses under which clients reach it.
    pub ips: Vec<IpAddr>,
    /// How long the certificate is valid from now; see [`NODE_VALIDITY_MS`].
    pub validity_ms: u64,
}

impl NodeGrant {
    /// A grant without further names, for the usual time.
    pub fn new(node: NodeId) -> Self {
        NodeGrant {
            node,
            names: Vec::new(),
            ips: Vec::new(),
            validity_ms: NODE_VALIDITY_MS,
        }
    }
}

/// A signed certificate on its way to the node that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedChain {
    /// The node's certificate, then the authority's.
    pub chain_der: Vec<Vec<u8>>,
    /// When it is valid.
    pub validity: Validity,
}

/// The authority with its private key. The key is kept sealed under the site's key (see the module `seal`).
pub struct SiteCa {
    site: SiteId,
    certificate_der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for SiteCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteCa")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

impl SiteCa {
    /// Makes the authority of a new site.
    pub fn create(site: SiteId, now_ms: u64, rng: &mut dyn Rng) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Crypto)?;
        let mut params = params(now_ms, CA_VALIDITY_MS, rng)?;
        params.distinguished_name = named(format!("{CA_NAME_PREFIX}{site}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CaError::Crypto)?;
        Ok(SiteCa {
            site,
            certificate_der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority as it was stored.
    pub fn from_der(certificate_der: &[u8], key_pkcs8_der: &[u8]) -> Result<Self, CaError> {
        let unusable = |error: rcgen::Error| CaError::Authority(error.to_string());
        let name = x509::common_name(certificate_der)?;
        let site = name
            .strip_prefix(CA_NAME_PREFIX)
            .and_then(|site| site.parse().ok());
        let site = site.ok_or_else(|| CaError::Authority(format!("`{name}` names no site")))?;
        let key = KeyPair::try_from(key_pkcs8_der).map_err(unusable)?;
        if x509::public_key(certificate_der)? != key.der_bytes() {
            return Err(CaError::Authority(
                "its key belongs to another certificate".into(),
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(certificate_der), key)
            .map_err(unusable)?;
        Ok(SiteCa {
            site,
            certificate_der: certificate_der.to_vec(),
            issuer,
        })
    }

    /// The site.
    pub fn site(&self) -> SiteId {
        self.site
    }

    /// The authority's certificate.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The authority's certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        x509::certificates_to_pem(&[&self.certificate_der])
    }

    /// The private key, PKCS #8: for sealing it.
    pub fn key_pkcs8_der(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// What join tokens pin: SHA-256 of the certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        x509::fingerprint(&self.certificate_der)
    }

    /// Signs a certificate for the key that signed the request; whatever else the request asks for is ignored.
    pub fn issue_node(
        &self,
        grant: &NodeGrant,
        csr_der: &[u8],
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> Result<IssuedChain, CaError> {
        let name = node_name(self.site, grant.node);
        let request = parse_request(csr_der)?;
        let mut params = params(now_ms, grant.validity_ms, rng)?;
        params.distinguished_name = named(format!("Skerry node {}", grant.node));
        params.subject_alt_names = subject_names(&name, grant)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(CaError::Crypto)?;
        let chain_der = vec![certificate.der().to_vec(), self.certificate_der.clone()];
        Ok(IssuedChain {
            validity: x509::validity(&chain_der[0])?,
            chain_der,
        })
    }
}

/// SHA-256 of the key that a signing request is for, once it is sure that this key signed the request: tells the machines
/// apart that ask for a certificate.
pub fn request_key(csr_der: &[u8]) -> Result<[u8; 32], CaError> {
    let request = parse_request(csr_der)?;
    Ok(x509::fingerprint(request.public_key.der_bytes()))
}

/// Reads a request and verifies that it is signed by the key that it carries.
fn parse_request(csr_der: &[u8]) -> Result<CertificateSigningRequestParams, CaError> {
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(CaError::Request(format!(
            "it has more than {CSR_BYTES_MAX} bytes"
        )));
    }
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
            .map_err(|error| CaError::Request(error.to_string()))?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(CaError::Request(
            "its key is not an ECDSA key on P-256".into(),
        ));
    }
    Ok(request)
}

fn subject_names(own: &str, grant: &NodeGrant) -> Result<Vec<SanType>, CaError> {
    let dns = |name: &str| match name.try_into() {
        Ok(name) => Ok(SanType::DnsName(name)),
        Err(_) => Err(CaError::Name(name.to_owned())),
    };
    let mut names = vec![dns(own)?];
    for name in &grant.names {
        let lower = name.to_ascii_lowercase();
        let lower = lower.trim_end_matches('.');
        if lower.is_empty() || lower.len() > 253 || lower.ends_with(SUFFIX) {
            return Err(CaError::Name(name.clone()));
        }
        names.push(dns(lower)?);
    }
    names.extend(grant.ips.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

fn params(now_ms: u64, validity_ms: u64, rng: &mut dyn Rng) -> Result<CertificateParams, CaError> {
    let not_after_ms = now_ms
        .checked_add(validity_ms)
        .filter(|&ms| ms <= DATE_MS_MAX);
    let not_after_ms = not_after_ms.ok_or(CaError::Clock(now_ms))?;
    let date = |ms| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(ms / 1000);
    let mut params = CertificateParams::default();
    params.not_before = date(now_ms.saturating_sub(CLOCK_SKEW_MS));
    params.not_after = date(not_after_ms);
    params.serial_number = Some(serial(rng));
    Ok(params)
}

/// 126 random bits, the leading ones fixed: positive, and always of one length.
fn serial(rng: &mut dyn Rng) -> SerialNumber {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn named(common_name: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
