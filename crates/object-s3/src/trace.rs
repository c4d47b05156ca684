//! What the logs say of a request: one span with its ids, and one line in words when it was refused or failed.
//!
//! Never in a log: secrets, signatures, bodies. s3s's own events, which print whole requests, are not needed for this.

use std::sync::{Arc, OnceLock};

use http::{HeaderMap, Request, Response, Uri, header};
use s3s::Body;
use tracing::Span;
use tracing::field::Empty;

/// An access key id is not longer; what is longer has no place in a log.
const KEY_LEN_MAX: usize = 64;

/// What is known of a request so far. Travels in its extensions; the access check adds what was asked for.
#[derive(Clone)]
pub(crate) struct Trace {
    span: Span,
    operation: Arc<OnceLock<&'static str>>,
}

impl Trace {
    pub(crate) fn start<B>(request: &Request<B>, id: &str) -> Self {
        // The highest level, so that a line of any level names its request, however little is logged.
        let span = tracing::error_span!(
            "s3",
            request_id = id,
            access_key = Empty,
            operation = Empty,
            bucket = Empty,
            status = Empty,
            reason = Empty,
        );
        if let Some(key) = claimed_key(request.headers(), request.uri()) {
            span.record("access_key", key);
        }
        Trace {
            span,
            operation: Arc::default(),
        }
    }

    /// The span that everything about the request belongs to.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// Notes what was asked for.
    pub(crate) fn understood(&self, operation: &'static str, bucket: Option<&str>) {
        if self.operation.set(operation).is_ok() {
            self.span.record("operation", operation);
            if let Some(bucket) = bucket {
                self.span.record("bucket", bucket);
            }
        }
    }

    /// S3's name for what was asked for, or `Refused` when the request was answered before it was understood.
    pub(crate) fn operation(&self) -> &'static str {
        self.operation.get().copied().unwrap_or("Refused")
    }

    /// Notes the answer, and logs one that is an error.
    pub(crate) fn answered(&self, response: &Response<Body>) {
        let status = response.status().as_u16();
        self.span.record("status", status);
        if status < 400 {
            return;
        }
        let xml = response.body().bytes().unwrap_or_default();
        let xml = std::str::from_utf8(&xml).unwrap_or("");
        let (code, why) = (element(xml, "Code"), element(xml, "Message"));
        self.span.in_scope(|| match status {
            500.. => tracing::warn!(code, why, "a request failed"),
            _ => tracing::debug!(code, why, "a request was refused"),
        });
    }
}

/// The access key that a request says it is signed with. Whether it is, is for others to say.
fn claimed_key<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let in_header = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| Some(text.split_once("Credential=")?.1));
    let in_query = || Some(uri.query()?.split_once("X-Amz-Credential=")?.1);
    let text = in_header.or_else(in_query)?;
    let end = text.find(|c: char| !c.is_ascii_alphanumeric());
    let key = &text[..end.unwrap_or(text.len())];
    (1..=KEY_LEN_MAX).contains(&key.len()).then_some(key)
}

/// The text of an element of S3's flat errors; an answer to HEAD has none.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let found = xml.split_once(&format!("<{name}>"));
    let text = found.and_then(|(_, rest)| Some(rest.split_once("</")?.0));
    text.unwrap_or("")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use s3s::{S3Error, S3ErrorCode};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// Lines of a log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Lines;

        fn make_writer(&'a self) -> Lines {
            self.clone()
        }
    }

    /// What is logged of a request that is answered so.
    fn logged(level: tracing::Level, request: &Request<()>, error: S3Error) -> String {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(lines.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let trace = Trace::start(request, "00FF");
            trace.understood("PutObject", Some("photos"));
            trace.answered(&error.to_http_response().unwrap());
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn signed() -> Request<()> {
        let value = "AWS4-HMAC-SHA256 Credential=SKALICE/20260101/us-east-1/s3/aws4_request, \
                     SignedHeaders=host, Signature=5ec3e7";
        let request = Request::builder().uri("/photos/private-name");
        request
            .header(header::AUTHORIZATION, value)
            .body(())
            .unwrap()
    }

    #[test]
    fn a_failed_request_is_logged_once_with_its_ids_and_in_words() {
        let error = S3Error::with_message(S3ErrorCode::SlowDown, "Please reduce");
        for level in [tracing::Level::WARN, tracing::Level::DEBUG] {
            let text = logged(level, &signed(), error_of(&error));
            assert_eq!(text.lines().count(), 1, "{text}");
            for words in [
                "WARN",
                "request_id=\"00FF\"",
                "access_key=\"SKALICE\"",
                "operation=\"PutObject\"",
                "bucket=\"photos\"",
                "status=503",
                "SlowDown",
                "Please reduce",
            ] {
                assert!(text.contains(words), "{words}: {text}");
            }
            assert!(!text.contains("5ec3e7") && !text.contains("private-name"));
        }
    }

    fn error_of(error: &S3Error) -> S3Error {
        S3Error::with_message(error.code().clone(), error.message().unwrap().to_owned())
    }

    #[test]
    fn a_refusal_is_only_for_those_who_look_closely() {
        let refused = || S3Error::with_message(S3ErrorCode::NoSuchKey, "not there");
        assert_eq!(logged(tracing::Level::INFO, &signed(), refused()), "");
        let text = logged(tracing::Level::DEBUG, &signed(), refused());
        assert!(text.contains("NoSuchKey") && text.contains("status=404"));
    }

    #[test]
    fn what_is_answered_is_kept_on_one_line() {
        let error = S3Error::with_message(S3ErrorCode::InternalError, "one\nWARN two");
        let text = logged(tracing::Level::WARN, &signed(), error);
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn the_claimed_key_is_found_in_header_and_query() {
        let none = HeaderMap::new();
        let found = |uri: &'static str| {
            let uri = Uri::from_static(uri);
            claimed_key(&none, &uri).map(str::to_owned)
        };
        let presigned = "/b/k?X-Amz-Credential=SKBOB%2F20260101%2Fus-east-1&X-Amz-Signature=0";
        assert_eq!(found(presigned).as_deref(), Some("SKBOB"));
        assert_eq!(found("/b/k"), None);
        assert_eq!(found("/b/k?X-Amz-Credential=%2F"), None);
        let long = format!("/b/k?X-Amz-Credential={}", "A".repeat(KEY_LEN_MAX + 1));
        assert_eq!(claimed_key(&none, &long.parse().unwrap()), None);
        let headers = signed().headers().clone();
        let uri = Uri::from_static("/");
        assert_eq!(claimed_key(&headers, &uri), Some("SKALICE"));
    }
}
