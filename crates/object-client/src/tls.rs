//! Whom to trust under https: the certificates of a given file, else those of the system.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::TlsConnector;

use crate::{Error, Result};

/// Where Linux systems keep the authorities that they trust.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Prepares TLS that trusts the authorities in a PEM file, or the system's.
pub fn connector(ca_file: Option<&Path>) -> Result<TlsConnector> {
    let path = ca_file.unwrap_or(Path::new(SYSTEM_AUTHORITIES));
    let pem = std::fs::read(path).map_err(|source| Error::File {
        path: path.into(),
        source,
    })?;
    let roots = authorities(&pem).map_err(|reason| Error::Authorities {
        path: path.into(),
        reason,
    })?;
    Ok(TlsConnector::from(Arc::new(config(roots))))
}

fn config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Those that can be used; a system's file may hold some that can't.
fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        certificates.push(certificate.map_err(|error| format!("it is no PEM file: {error}"))?);
    }
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates) {
        (0, 0) => Err("it holds no certificate".to_owned()),
        (0, bad) => Err(format!("none of its {bad} certificates can be read")),
        _ => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_authorities_are_refused_in_words() {
        assert_eq!(authorities(b"").unwrap_err(), "it holds no certificate");
        let bad = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(authorities(bad).unwrap_err().contains("none of its 1"));
        let error = connector(Some(Path::new("no-such-file.pem")))
            .err()
            .unwrap();
        assert!(error.to_string().contains("no-such-file.pem"), "{error}");
    }
}
