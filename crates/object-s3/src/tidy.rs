//! Requests that s3s would read more narrowly than S3 does.
//!
//! Once the signature was checked, such a request is taken over as a custom route, put into a form that s3s reads, and
//! given to a second s3s service that trusts the caller found here:
//! - conditions with several entity tags, dates in other formats, ranges that S3 ignores, metadata in any encoding: these
//!   headers are set aside, and the operations read them as they were sent ([`crate::headers::sent`]);
//! - presigned addresses may carry headers in their query: these are put back among the headers;
//! - requests with XML: the body is read here, within its bound and that of all together, and its digests are checked.
//!
//! All other requests, the great majority, pass by at the cost of one look at their headers.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri};
use object_core::digest::{checksum_of, md5_of, name_of};
use s3s::dto::{ETagCondition, Range, Timestamp, TimestampFormat};
use s3s::route::S3Route;
use s3s::service::S3Service;
use s3s::{
    Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, StdError, TrailingHeaders,
    s3_error,
};
use tokio::sync::OwnedSemaphorePermit;

use crate::access::{Access, Admitted, check_supported};
use crate::body::{self, WholeBodies};
use crate::checksums;
use crate::headers::{Sent, Trailers};
use crate::host::VirtualHosts;

/// The route; `inner` is the service without signatures.
pub(crate) struct Tidy {
    pub(crate) access: Arc<Access>,
    pub(crate) inner: S3Service,
    pub(crate) hosts: VirtualHosts,
    pub(crate) xml_bytes_max: usize,
}

#[async_trait::async_trait]
impl S3Route for Tidy {
    fn is_match(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        _: &mut Extensions,
    ) -> bool {
        self.xml_kind(method, uri, headers).is_some()
            || headers
                .iter()
                .any(|(name, value)| is_odd(headers, name, value))
            || hoisted(uri).next().is_some()
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        let key = request.credentials.as_ref().map(|c| c.access_key.as_str());
        let caller = self.access.admit(key, &request.uri, &request.headers)?;
        request.extensions.insert(Admitted(caller));
        for (name, value) in hoisted(&request.uri) {
            let name =
                HeaderName::try_from(&*name).map_err(|_| S3Error::new(S3ErrorCode::InvalidURI))?;
            let value = HeaderValue::try_from(&*value)
                .map_err(|_| S3Error::new(S3ErrorCode::InvalidURI))?;
            request.headers.entry(name).or_insert(value);
        }
        check_supported(&request.headers)
    }

    async fn call(&self, mut request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        // Held until the answer is made: so long the bytes are in memory.
        let mut room = Vec::new();
        let body = match self.xml_kind(&request.method, &request.uri, &request.headers) {
            Some(kind) => {
                let bodies = request.extensions.get::<WholeBodies>();
                let bytes = read(request.input, self.xml_bytes_max, bodies, &mut room).await?;
                check_digests(
                    kind,
                    &request.headers,
                    request.trailing_headers.as_ref(),
                    &bytes,
                )?;
                Body::from(bytes)
            }
            None => request.input,
        };
        if let Some(trailers) = request.trailing_headers.take() {
            request.extensions.insert(Trailers(trailers));
        }
        let mut plain = http::Request::new(body);
        *plain.method_mut() = request.method;
        *plain.uri_mut() = without_signature(&request.uri)?;
        *plain.headers_mut() = set_aside(&request.headers);
        request.extensions.insert(Sent(request.headers));
        *plain.extensions_mut() = request.extensions;
        let answer = self.inner.call(plain).await.map_err(|error| {
            let error: StdError = error.into();
            S3Error::with_source(S3ErrorCode::InternalError, error)
        })?;
        let (head, body) = answer.into_parts();
        let mut response = S3Response::with_headers(body, head.headers);
        response.status = Some(head.status);
        response.extensions = head.extensions;
        Ok(response)
    }
}

impl Tidy {
    fn xml_kind(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Xml> {
        let host = headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok());
        if method != Method::PUT {
            return posted(method, uri);
        }
        let path = uri.path().strip_prefix('/').unwrap_or_default();
        let names_no_key = match host.and_then(|host| self.hosts.bucket(host)) {
            Some(_) => path.is_empty(),
            None => path.split_once('/').is_none_or(|(_, key)| key.is_empty()),
        };
        (names_no_key || is_about_object(uri)).then_some(Xml::Other)
    }
}

/// Requests whose body is XML.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Xml {
    /// S3 wants a digest with these.
    Delete,
    Complete,
    /// About a bucket as a whole, or an object but not its bytes.
    Other,
}

/// Whether a PUT of a key says something about the object, in XML.
fn is_about_object(uri: &Uri) -> bool {
    names_in_query(uri).any(|name| matches!(name, "acl" | "legal-hold" | "retention" | "tagging"))
}

fn names_in_query(uri: &Uri) -> impl Iterator<Item = &str> {
    let pairs = uri.query().unwrap_or("").split('&');
    pairs.map(|pair| pair.split('=').next().unwrap_or(pair))
}

fn posted(method: &Method, uri: &Uri) -> Option<Xml> {
    if method != Method::POST {
        return None;
    }
    names_in_query(uri).find_map(|name| match name {
        "delete" => Some(Xml::Delete),
        "uploadId" => Some(Xml::Complete),
        "restore" | "select" | "metadataTable" => Some(Xml::Other),
        _ => None,
    })
}

/// Whether s3s would refuse or misread a header that S3 takes.
fn is_odd(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> bool {
    let text = || value.to_str().unwrap_or("");
    match name.as_str() {
        "range" => Range::parse(text()).is_err(),
        "if-match"
        | "if-none-match"
        | "x-amz-copy-source-if-match"
        | "x-amz-copy-source-if-none-match" => {
            text().contains(',') || ETagCondition::parse_http_header(value.as_bytes()).is_err()
        }
        "expires"
        | "if-modified-since"
        | "if-unmodified-since"
        | "x-amz-copy-source-if-modified-since"
        | "x-amz-copy-source-if-unmodified-since" => {
            Timestamp::parse(TimestampFormat::HttpDate, text()).is_err()
        }
        "cache-control"
        | "content-disposition"
        | "content-encoding"
        | "content-language"
        | "content-type"
        | "x-amz-website-redirect-location" => value.to_str().is_err(),
        other if other.starts_with("x-amz-meta-") => {
            value.as_bytes().trim_ascii_start().starts_with(b"=?")
                || headers.get_all(name).iter().nth(1).is_some()
        }
        _ => false,
    }
}

/// The headers without those that the operations read themselves, and without the signature.
fn set_aside(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let aside = matches!(name.as_str(), "authorization" | "x-amz-content-sha256")
            || name.as_str().starts_with("x-amz-meta-")
            || is_odd(headers, name, value);
        if !aside {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// The parameters of a presigned address that make up its signature.
const SIGNATURE: [&str; 8] = [
    "x-amz-algorithm",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
];

/// The headers in the query of a presigned address, names in lower case.
fn hoisted(uri: &Uri) -> impl Iterator<Item = (String, Cow<'_, str>)> {
    let query = uri
        .query()
        .filter(|q| q.contains("X-Amz-Signature="))
        .unwrap_or("");
    let pairs = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.to_ascii_lowercase(), value));
    pairs.filter(|(name, _)| name.starts_with("x-amz-") && !SIGNATURE.contains(&name.as_str()))
}

/// The address without the parameters of a presigned URL.
fn without_signature(uri: &Uri) -> S3Result<Uri> {
    let Some(query) = uri.query() else {
        return Ok(uri.clone());
    };
    let is_signature = |pair: &&str| {
        let name = form_urlencoded::parse(pair.as_bytes())
            .next()
            .map(|(name, _)| name.into_owned());
        name.is_some_and(|n| n.to_ascii_lowercase().starts_with("x-amz-"))
    };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !is_signature(pair))
        .collect();
    let mut parts = uri.clone().into_parts();
    let path = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    parts.path_and_query = Some(
        path.parse()
            .map_err(|_| S3Error::new(S3ErrorCode::InvalidURI))?,
    );
    Uri::from_parts(parts).map_err(|_| S3Error::new(S3ErrorCode::InvalidURI))
}

/// Reads a body whole; `room` gets the permits for its bytes, taken as they arrive.
async fn read(
    mut body: Body,
    max: usize,
    bodies: Option<&WholeBodies>,
    room: &mut Vec<OwnedSemaphorePermit>,
) -> S3Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| body::describe(&error.to_string()))?;
        if all.len() + piece.len() > max {
            return Err(s3_error!(
                MaxMessageLengthExceeded,
                "Your request was too big: at most {max} bytes of XML are read"
            ));
        }
        if let Some(bodies) = bodies {
            let taken = bodies.clone().take(piece.len()).await;
            room.push(taken.map_err(body::describe)?);
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

fn check_digests(
    kind: Xml,
    headers: &HeaderMap,
    trailers: Option<&TrailingHeaders>,
    xml: &[u8],
) -> S3Result<()> {
    // The checksum of a Complete is the object's, not the body's.
    let mut expected = match kind {
        Xml::Delete => checksums::expected(headers, trailers.cloned())?,
        Xml::Complete | Xml::Other => Default::default(),
    };
    expected.md5 = checksums::md5(headers)?;
    if kind == Xml::Delete && expected.md5.is_none() && expected.checksum.is_none() {
        let message = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*";
        return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message));
    }
    let bad = |what: &str| {
        s3_error!(
            BadDigest,
            "The {what} you specified did not match what we received."
        )
    };
    if expected.md5.is_some_and(|md5| md5_of(xml) != md5) {
        return Err(bad("Content-MD5"));
    }
    if let Some(kind) = expected.checksum {
        let sent = match expected.trailing {
            Some(trailing) => trailing().map_err(|e| body::describe(&e))?,
            None => expected.value,
        };
        if sent != Some(checksum_of(kind, xml)) {
            return Err(bad(name_of(kind)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odd(name: &'static str, value: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value).unwrap());
        headers
            .iter()
            .any(|(name, value)| is_odd(&headers, name, value))
    }

    #[test]
    fn only_what_s3s_would_misread_is_taken_over() {
        for (name, value) in [
            ("range", "bytes=0-1,3-4"),
            ("if-none-match", "\"a\", \"b\""),
            ("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT"),
            ("expires", "0"),
            ("content-disposition", "attachment; filename=grün.txt"),
            ("x-amz-meta-name", "=?ISO-8859-1?Q?a?="),
        ] {
            assert!(odd(name, value.as_bytes()), "{name}: {value}");
        }
        for (name, value) in [
            ("range", "bytes=0-1"),
            ("if-none-match", "*"),
            ("if-match", "d41d8cd98f00b204e9800998ecf8427e"),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("x-amz-meta-name", "grün"),
        ] {
            assert!(!odd(name, value.as_bytes()), "{name}: {value}");
        }
    }

    #[test]
    fn the_signature_leaves_the_address_and_the_rest_stays() {
        let uri = Uri::from_static("/b/a%2Fb?delete=&X-Amz-Signature=0&%58-Amz-Date=1&x=%26");
        assert_eq!(
            without_signature(&uri).unwrap(),
            Uri::from_static("/b/a%2Fb?delete=&x=%26")
        );
        assert_eq!(
            without_signature(&Uri::from_static("/b?X-Amz-Date=1")).unwrap(),
            Uri::from_static("/b")
        );
    }

    #[test]
    fn headers_in_a_presigned_query_are_found() {
        let uri = Uri::from_static(
            "/b/k?X-Amz-Signature=0&X-Amz-Date=1&X-Amz-Acl=private&x-amz-meta-a=%3D&x=1",
        );
        let found: Vec<_> = hoisted(&uri).collect();
        assert_eq!(
            found,
            [
                ("x-amz-acl".into(), "private".into()),
                ("x-amz-meta-a".into(), "=".into())
            ]
        );
        assert_eq!(
            hoisted(&Uri::from_static("/b/k?x-amz-acl=private")).count(),
            0
        );
    }

    #[tokio::test(start_paused = true)]
    async fn xml_takes_room_as_long_as_it_is_held() {
        let bodies = WholeBodies::new(10);
        let xml = || Body::from(Bytes::from_static(b"<Delete/>"));
        let mut room = Vec::new();
        let read_all = read(xml(), 100, Some(&bodies), &mut room).await;
        assert_eq!(read_all.unwrap(), "<Delete/>");
        let mut none = Vec::new();
        let refused = read(xml(), 100, Some(&bodies), &mut none).await;
        assert_eq!(refused.unwrap_err().code().as_str(), "SlowDown");
        drop(room);
        assert!(read(xml(), 100, Some(&bodies), &mut none).await.is_ok());
    }

    #[test]
    fn deletes_need_a_digest_that_fits() {
        let check = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
                .collect();
            let code = check_digests(Xml::Delete, &headers, None, b"hello")
                .map_err(|e| e.code().as_str().to_owned());
            code.err().unwrap_or_default()
        };
        assert_eq!(check(&[]), "InvalidRequest");
        assert_eq!(check(&[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")]), "");
        assert_eq!(
            check(&[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")]),
            "BadDigest"
        );
        assert_eq!(check(&[("x-amz-checksum-crc32", "NhCmhg==")]), "");
        assert_eq!(check(&[("x-amz-checksum-crc32", "NhCmhQ==")]), "BadDigest");
    }
}
