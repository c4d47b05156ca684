//! What can go wrong between a caller and an S3 endpoint.

use std::path::PathBuf;

use crate::xml;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request or a transfer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint's address can't be used.
    #[error("the endpoint {url:?} can't be used: {reason}")]
    Endpoint {
        /// What was given.
        url: String,
        /// Why not, and what to give instead.
        reason: String,
    },
    /// The file with the certificates to trust can't be used.
    #[error("the certificates in {path} can't be used: {reason}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The endpoint answered with an S3 error.
    #[error("{code} (status {status}): {message}")]
    S3 {
        /// The HTTP status.
        status: u16,
        /// The S3 error code, or one made from the status when the answer had none.
        code: String,
        /// The endpoint's words.
        message: String,
    },
    /// No connection was made.
    #[error("can't connect to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system, or TLS, said.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke before an answer.
    #[error("the endpoint did not answer")]
    Connection(#[source] hyper::Error),
    /// The answer's body broke off.
    #[error("the answer broke off")]
    Body(#[source] hyper::Error),
    /// No answer within the time limit.
    #[error("the endpoint did not answer within {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
    /// The answer isn't what S3 promises.
    #[error("the endpoint's answer makes no sense: {0}")]
    Reply(String),
    /// A key that can't be put in a URL.
    #[error("the key {key:?} can't be addressed: {reason}")]
    Key {
        /// The key.
        key: String,
        /// Why not.
        reason: &'static str,
    },
    /// A key that would be written outside the target folder.
    #[error(
        "the key {key:?} is not written: {reason}; choose another prefix or download it by itself"
    )]
    OutsideFolder {
        /// The key.
        key: String,
        /// What in the key is dangerous.
        reason: &'static str,
    },
    /// A local file.
    #[error("{path}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What was read from, or written to, is no file.
    #[error("{what}")]
    Stream {
        /// What was done.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A name that can't become a key.
    #[error("the name {0:?} is not UTF-8 and can't become a key: rename it")]
    Name(PathBuf),
    /// Something changed while it was transferred.
    #[error("{0} changed during the transfer: start again")]
    Changed(String),
    /// Options that make no sense.
    #[error("{0}")]
    Options(String),
    /// The caller asked to stop.
    #[error("stopped before the end")]
    Stopped,
}

impl Error {
    /// Builds the error of an answer with an error status from its body.
    pub(crate) fn from_answer(status: u16, body: &[u8]) -> Self {
        let (code, message) = xml::parse::<xml::ErrorReply>(body)
            .map(|reply| (reply.code, reply.message))
            .unwrap_or_else(|_| (format!("Http{status}"), fallback(status).to_owned()));
        Self::S3 {
            status,
            code,
            message,
        }
    }

    /// Whether the same request may succeed when sent again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::S3 { status, .. } => matches!(status, 500 | 502 | 503 | 504),
            // This kind is how TLS says that it does not trust the other side.
            Self::Connect { source, .. } => source.kind() != std::io::ErrorKind::InvalidData,
            Self::Connection(_) | Self::Body(_) | Self::Timeout { .. } => true,
            _ => false,
        }
    }

    /// The S3 code, or a word for failures that never reached S3: keys for counting errors.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::S3 { code, .. } => code,
            Self::Connect { .. } => "Connect",
            Self::Connection(_) => "Connection",
            Self::Body(_) => "BrokenBody",
            Self::Timeout { .. } => "Timeout",
            Self::Reply(_) => "BadReply",
            _ => "Client",
        }
    }

    /// The HTTP status of an S3 error.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::S3 { status, .. } => Some(*status),
            _ => None,
        }
    }
}

fn fallback(status: u16) -> &'static str {
    match status {
        301 | 307 | 308 => "the endpoint sends elsewhere: check the endpoint and the region",
        403 => "access is denied: check the keys and the policy",
        404 => "there is no such bucket or object",
        412 => "a condition of the request does not hold",
        _ => "the endpoint gave no reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_codes() {
        let body = b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>a &lt;b&gt;</Message></Error>";
        let error = Error::from_answer(404, body);
        assert_eq!((error.status(), error.code()), (Some(404), "NoSuchKey"));
        assert_eq!(error.to_string(), "NoSuchKey (status 404): a <b>");
        assert_eq!(Error::from_answer(404, b"").code(), "Http404");
        assert_eq!(Error::from_answer(503, b"<html>").code(), "Http503");
        assert!(Error::from_answer(503, b"").is_transient());
        assert!(!Error::from_answer(409, b"").is_transient());
    }

    #[test]
    fn distrust_is_not_tried_again() {
        let connect = |kind: std::io::ErrorKind| Error::Connect {
            address: "a:1".to_owned(),
            source: kind.into(),
        };
        assert!(connect(std::io::ErrorKind::ConnectionRefused).is_transient());
        assert!(!connect(std::io::ErrorKind::InvalidData).is_transient());
    }
}
