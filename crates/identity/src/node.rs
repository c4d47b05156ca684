//! A node's key pair and certificate: made on the node, signed by the site's authority, renewed before it runs out.
//!
//! A node that was off for longer than its certificate lives can't speak mTLS any more. It then proves who it is by signing
//! its new request with its old key ([`NodeCertificate::sign_renewal`]); the authority's side checks that with
//! [`verify_renewal`] whatever the old certificate's dates, and asks the registry whether the node still belongs to the
//! site. Somebody who replays such a request gets a certificate for a key that only the node has.
//!
//! A server has the authority in its own replica of the registry, so it needs nobody for that: it issues its next
//! certificate itself ([`NodeCertificate::reissue`]), for the node and the key of the old one.

use std::fmt;

use ids::{NodeId, SiteId};
use rand::Rng;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use zeroize::Zeroize;

use crate::ca::{CaError, IssuedChain, NodeGrant, SiteCa};
use crate::x509::{self, Standing, Validity, X509Error};

/// What stands before the request in the text that a renewal signs, so that the signature is good for nothing else.
const RENEWAL: &[u8] = b"skerry renewal 1\n";

/// A certificate that a node should not use.
#[derive(Debug, thiserror::Error)]
pub enum NodeCertificateError {
    /// The parts don't belong together.
    #[error("the certificate is for another key than this node's")]
    OtherKey,
    /// No certificate, or none of an authority, in the chain.
    #[error("the chain must hold the node's certificate and its authority's, it holds {0}")]
    Chain(usize),
    /// Another site, or somebody who poses as this one.
    #[error(
        "the authority's certificate is not the one that was promised: is this the right site?"
    )]
    OtherAuthority,
    /// The old certificate's key did not sign the request.
    #[error("the request is not signed by the key of the old certificate")]
    Renewal,
    /// A certificate that can't be read, or wasn't issued by the authority.
    #[error(transparent)]
    Certificate(#[from] X509Error),
    /// The authority did not issue a new certificate.
    #[error(transparent)]
    Authority(#[from] CaError),
}

/// A node's private key (ECDSA P-256). It never leaves the node.
pub struct NodeKey(KeyPair);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

impl NodeKey {
    /// Makes a new key pair.
    pub fn generate() -> Result<Self, CaError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(NodeKey)
            .map_err(CaError::Crypto)
    }

    /// The key as it was stored.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, CaError> {
        KeyPair::try_from(der).map(NodeKey).map_err(CaError::Crypto)
    }

    /// The key as it is stored.
    pub fn pkcs8_der(&self) -> &[u8] {
        self.0.serialized_der()
    }

    /// A signing request for the key. It asks for no names: the authority gives them.
    pub fn csr(&self) -> Result<Vec<u8>, CaError> {
        let request = CertificateParams::default()
            .serialize_request(&self.0)
            .map_err(CaError::Crypto)?;
        Ok(request.der().to_vec())
    }
}

/// A node's certificate with its key, ready for TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// The node's certificate, then the authority's.
    pub chain_der: Vec<Vec<u8>>,
    /// The private key, PKCS #8; wiped when dropped.
    pub key_pkcs8_der: Vec<u8>,
    /// When the certificate is valid.
    pub validity: Validity,
}

impl fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCertificate")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl Drop for NodeCertificate {
    fn drop(&mut self) {
        self.key_pkcs8_der.zeroize();
    }
}

impl NodeCertificate {
    /// Puts a chain and its key together, after checking that they fit, that the authority is the one whose fingerprint is
    /// known, and that it signed the certificate. The dates are not looked at: see [`NodeCertificate::standing`].
    pub fn new(
        chain_der: Vec<Vec<u8>>,
        key: &NodeKey,
        ca_fingerprint: &[u8; 32],
    ) -> Result<Self, NodeCertificateError> {
        let [leaf, ca] = &chain_der[..] else {
            return Err(NodeCertificateError::Chain(chain_der.len()));
        };
        if x509::fingerprint(ca) != *ca_fingerprint {
            return Err(NodeCertificateError::OtherAuthority);
        }
        x509::verified_node_of(ca, leaf)?;
        if x509::public_key(leaf)? != key.0.der_bytes() {
            return Err(NodeCertificateError::OtherKey);
        }
        let validity = x509::validity(leaf)?;
        Ok(NodeCertificate {
            key_pkcs8_der: key.pkcs8_der().to_vec(),
            validity,
            chain_der,
        })
    }

    /// As [`NodeCertificate::new`], for a chain that was just issued.
    pub fn from_issued(
        issued: IssuedChain,
        key: &NodeKey,
        ca_fingerprint: &[u8; 32],
    ) -> Result<Self, NodeCertificateError> {
        Self::new(issued.chain_der, key, ca_fingerprint)
    }

    /// The authority's certificate.
    pub fn ca_der(&self) -> &[u8] {
        &self.chain_der[1]
    }

    /// The site and node that the certificate names.
    pub fn node(&self) -> Result<(SiteId, NodeId), X509Error> {
        x509::node_of(&self.chain_der[0])
    }

    /// How the certificate stands at `now_ms`.
    pub fn standing(&self, now_ms: u64) -> Standing {
        self.validity.standing(now_ms)
    }

    /// Whether a new certificate should be asked for: two thirds of its life are over, or all of it. Also when it is not
    /// valid yet: the clock that said so may be the issuer's.
    pub fn renew_due(&self, now_ms: u64) -> bool {
        self.standing(now_ms) != Standing::Valid
    }

    /// A new certificate from now on, by the authority itself: for the node and the key of this one, whatever its dates.
    ///
    /// When the clock was set back, the new one begins, and ends, earlier than the old one: peers go by their clocks, and
    /// if it is this clock that is wrong, the certificate is due again when it is set right.
    pub fn reissue(
        &self,
        ca: &SiteCa,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> Result<Self, NodeCertificateError> {
        if ca.certificate_der() != self.ca_der() {
            return Err(NodeCertificateError::OtherAuthority);
        }
        let (_, node) = x509::verified_node_of(self.ca_der(), &self.chain_der[0])?;
        let key = NodeKey::from_pkcs8_der(&self.key_pkcs8_der)?;
        let issued = ca.issue_node(&NodeGrant::new(node), &key.csr()?, now_ms, rng)?;
        Self::from_issued(issued, &key, &ca.fingerprint())
    }

    /// Signs a request for a new key with the old one.
    pub fn sign_renewal(&self, csr_der: &[u8]) -> Result<Vec<u8>, CaError> {
        let key = NodeKey::from_pkcs8_der(&self.key_pkcs8_der)?;
        key.0
            .sign(&[RENEWAL, csr_der].concat())
            .map_err(CaError::Crypto)
    }
}

/// The node that asks for a new certificate with an old one, even an expired one, of this authority.
pub fn verify_renewal(
    ca_der: &[u8],
    old_der: &[u8],
    csr_der: &[u8],
    signature: &[u8],
) -> Result<NodeId, NodeCertificateError> {
    let (_, node) = x509::verified_node_of(ca_der, old_der)?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, x509::public_key(old_der)?);
    let signed = key.verify(&[RENEWAL, csr_der].concat(), signature);
    signed.map_err(|_| NodeCertificateError::Renewal)?;
    Ok(node)
}
