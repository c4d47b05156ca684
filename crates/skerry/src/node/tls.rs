//! The certificate with which the S3 and HTTP doors speak TLS: the operator's own PEM files, read again when they change.
//!
//! Invariant: a door always has a usable certificate. New files that can't be used (half written, key of another
//! certificate) are reported once, and the old certificate stays.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use object_s3::TlsSource;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinHandle;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those of its issuers, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct DoorTls {
    files: TlsFiles,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    private: bool,
    expires_ms: Option<u64>,
    stamp: Stamp,
}

/// What tells that a file is another one than before: inode, time of change, length.
type Stamp = [Option<(u64, i64, i64, u64)>; 2];

impl TlsFiles {
    fn stamp(&self) -> Stamp {
        let of = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
        };
        [of(&self.certificate), of(&self.key)]
    }

    /// Reads both files. The stamp is taken first, so that a change while they are read is seen at the next look.
    fn read(&self) -> Result<Current> {
        let stamp = self.stamp();
        let chain = certificates(&self.certificate)?;
        let key = private_key(&self.key)?;
        let private = chain
            .last()
            .is_some_and(|last| identity::x509::is_self_issued(last));
        let own = chain.first();
        let validity = own.and_then(|own| identity::x509::validity(own).ok());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS can't be set up")?
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.with_context(|| {
            format!(
                "{} and {} are no certificate with its key",
                self.certificate.display(),
                self.key.display()
            )
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Current {
            config: Arc::new(config),
            private,
            expires_ms: validity.map(|validity| validity.not_after_ms),
            stamp,
        })
    }
}

/// The certificates of a PEM file, in its order; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        found.push(certificate.map_err(|error| anyhow!("{}: {error}", path.display()))?);
    }
    if found.is_empty() {
        bail!("{} holds no certificate in PEM", path.display());
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let pem = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| anyhow!("{} holds no private key in PEM", path.display()))
}

impl DoorTls {
    /// Reads the files; they must be usable now.
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>> {
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))
        };
        let files = TlsFiles {
            certificate: absolute(&files.certificate)?,
            key: absolute(&files.key)?,
        };
        let current = RwLock::new(files.read()?);
        Ok(Arc::new(DoorTls { files, current }))
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What connections are accepted with now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current().config.clone()
    }

    /// For doors, which ask at each connection.
    pub fn source(self: &Arc<Self>) -> TlsSource {
        let this = self.clone();
        Arc::new(move || Some(this.config()))
    }

    /// The file that clients must trust, when its last certificate is its own authority; public ones they know.
    pub fn ca_file(&self) -> Option<&Path> {
        self.current()
            .private
            .then_some(self.files.certificate.as_path())
    }

    /// When the certificate expires, in milliseconds since 1970, if that can be read.
    pub fn expires_ms(&self) -> Option<u64> {
        self.current().expires_ms
    }

    /// Reads the files again if they changed; says whether there is a new certificate.
    pub fn look(&self) -> bool {
        let stamp = self.files.stamp();
        if self.current().stamp == stamp {
            return false;
        }
        let read = self.files.read();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(new) => {
                tracing::info!(certificate = %self.files.certificate.display(), "the doors have a new certificate");
                *current = new;
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the doors' new certificate can't be used; the old one stays"
                );
                current.stamp = stamp;
                false
            }
        }
    }

    /// Looks every few seconds, until aborted.
    pub fn follow(self: &Arc<Self>) -> JoinHandle<()> {
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let looking = this.clone();
                let _ = tokio::task::spawn_blocking(move || looking.look()).await;
            }
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Writes a new self-signed certificate for `localhost` and 127.0.0.1, and its key.
    pub fn write_certificate(folder: &Path) -> TlsFiles {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let files = TlsFiles {
            certificate: folder.join("door.pem"),
            key: folder.join("door.key"),
        };
        replace(&files.certificate, made.cert.pem().as_bytes());
        replace(&files.key, made.signing_key.serialize_pem().as_bytes());
        files
    }

    /// As certificate tools do: a new file is renamed over the old one.
    fn replace(path: &Path, bytes: &[u8]) {
        let new = path.with_extension("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(&new, path).unwrap();
    }

    #[test]
    fn changed_files_are_taken_over_and_unchanged_ones_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let tls = DoorTls::load(&write_certificate(folder.path())).unwrap();
        let first = tls.config();
        assert!(!tls.look());
        assert!(Arc::ptr_eq(&first, &tls.config()));
        assert_eq!(first.alpn_protocols, [b"http/1.1"], "doors speak no HTTP/2");
        write_certificate(folder.path());
        assert!(tls.look());
        assert!(!Arc::ptr_eq(&first, &tls.config()));
        assert!(!tls.look());
    }

    #[test]
    fn files_that_are_no_pair_keep_the_old_certificate_until_they_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_certificate(folder.path());
        let tls = DoorTls::load(&files).unwrap();
        let first = tls.config();
        let old_key = fs::read(&files.key).unwrap();
        write_certificate(folder.path());
        let new_key = fs::read(&files.key).unwrap();
        let broken: [&[u8]; 3] = [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA", &old_key];
        for bytes in broken {
            replace(&files.key, bytes);
            assert!(!tls.look());
            assert!(Arc::ptr_eq(&first, &tls.config()));
        }
        fs::remove_file(&files.key).unwrap();
        assert!(!tls.look());
        replace(&files.key, &new_key);
        assert!(tls.look());
        assert!(!Arc::ptr_eq(&first, &tls.config()));
    }

    #[test]
    fn what_is_wrong_at_the_start_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_certificate(folder.path());
        let says = |files: &TlsFiles, words: &str| {
            let error = format!("{:#}", DoorTls::load(files).unwrap_err());
            assert!(error.contains(words), "{error}");
        };
        let swapped = TlsFiles {
            certificate: files.key.clone(),
            key: files.certificate.clone(),
        };
        says(&swapped, "door.key holds no certificate");
        let missing = TlsFiles {
            key: folder.path().join("none.key"),
            ..files.clone()
        };
        says(&missing, "none.key");
        let other = tempfile::tempdir().unwrap();
        let foreign = TlsFiles {
            key: write_certificate(other.path()).key,
            ..files
        };
        says(&foreign, "are no certificate with its key");
    }

    #[test]
    fn a_certificate_that_is_its_own_authority_is_named_to_clients() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_certificate(folder.path());
        let tls = DoorTls::load(&files).unwrap();
        assert_eq!(tls.ca_file(), Some(files.certificate.as_path()));
    }
}
