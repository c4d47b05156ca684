//! Around s3s: every request gets an id and a place among a bounded number, every answer its last touches.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3ErrorCode, S3Result, StdError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Instrument;

use crate::body::WholeBodies;
use crate::chunks::Chunks;
use crate::errors;
use crate::guard::GuardedBody;
use crate::options::{DoorObserver, DoorOptions};
use crate::serve::BusyGuard;
use crate::trace::Trace;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
const SERVER: HeaderValue = HeaderValue::from_static("Skerry");

/// What all connections of a door share.
pub(crate) struct Gate {
    service: S3Service,
    options: Arc<DoorOptions>,
    places: Arc<Semaphore>,
    bodies: WholeBodies,
    next_id: AtomicU64,
}

impl Gate {
    pub(crate) fn new(service: S3Service, options: Arc<DoorOptions>) -> Self {
        let places = Arc::new(Semaphore::new(options.max_requests));
        let bodies = WholeBodies::new(options.held_bytes_max);
        let next_id = AtomicU64::new(options.request_id_seed);
        Gate {
            service,
            options,
            places,
            bodies,
            next_id,
        }
    }

    /// Answers one request; `busy` is held until the answer was sent.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        busy: BusyGuard,
    ) -> Result<Response<Answer>, Infallible> {
        let id = request_id(self.next_id.fetch_add(1, Ordering::Relaxed));
        let mut report = Report {
            observer: self.options.observer.clone(),
            started: Instant::now(),
            trace: Trace::start(&request, &id),
            status: 0,
        };
        let trace = report.trace.clone();
        let head = request.method() == Method::HEAD;
        let (waits, empty) = (waits_to_send(&request), request.body().is_end_stream());
        let place = self.places.clone().try_acquire_owned().ok();
        let answered = match (&place, refuse(&request)) {
            (None, _) => Err(errors::try_again(
                S3ErrorCode::SlowDown,
                "Please reduce your request rate.",
            )),
            (_, Err(error)) => Err(error),
            (Some(_), Ok(())) => {
                let passing = self.pass(request, &trace);
                passing.instrument(trace.span().clone()).await
            }
        };
        let mut response = answered
            .or_else(S3Error::to_http_response)
            .unwrap_or_else(|_| failed());
        touch(&mut response, &id, head);
        if waits
            && (empty || response.status().is_client_error() || response.status().is_server_error())
        {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        trace.answered(&response);
        report.status = response.status().as_u16();
        Ok(response.map(|inner| Answer {
            inner,
            _place: place,
            report,
            _busy: busy,
        }))
    }

    async fn pass(&self, request: Request<Incoming>, trace: &Trace) -> S3Result<Response<Body>> {
        let chunks = chunk_bounds(request.headers(), self.options.chunk_bytes_max);
        let mut request = request.map(|body| match chunks {
            None if body.is_end_stream() => Body::empty(),
            chunks => Body::http_body(GuardedBody::new(
                body,
                self.options.body_idle_timeout,
                chunks,
                &self.bodies,
            )),
        });
        request.extensions_mut().insert(trace.clone());
        request.extensions_mut().insert(self.bodies.clone());
        self.service.call(request).await.map_err(|error| {
            let error: StdError = error.into();
            trace
                .span()
                .record("reason", tracing::field::display(&error));
            S3Error::new(S3ErrorCode::InternalError)
        })
    }
}

/// Refuses what needs no key to be refused.
fn refuse(request: &Request<Incoming>) -> S3Result<()> {
    let refused = |code, message: &'static str| Err(S3Error::with_message(code, message));
    let headers = request.headers();
    match *request.method() {
        Method::GET | Method::HEAD | Method::PUT | Method::POST | Method::DELETE => {}
        Method::OPTIONS => {
            return refused(
                S3ErrorCode::AccessDenied,
                "CORSResponse: This CORS request is not allowed.",
            );
        }
        _ => {
            let message = "The specified method is not allowed against this resource.";
            return refused(S3ErrorCode::MethodNotAllowed, message);
        }
    }
    let query = request.uri().query().unwrap_or("");
    let by_header = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    let version_2 = by_header.is_some_and(|v| v.starts_with(b"AWS "))
        || (query.contains("Signature=") && query.contains("AWSAccessKeyId="));
    if version_2 {
        let message = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
        return refused(S3ErrorCode::InvalidRequest, message);
    }
    // Who signs twice is told so later.
    if let Some(value) = by_header
        && !query.contains("X-Amz-Signature=")
    {
        check_authorization(value)?;
    }
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"multipart/"));
    if form && request.method() == Method::POST {
        let error = S3Error::with_message(
            S3ErrorCode::NotImplemented,
            "POST forms are not available yet",
        );
        return Err(error);
    }
    Ok(())
}

/// Whether a client asked to be told to go on before it sends its body.
///
/// A final answer may come instead, and then says that the connection ends: some SDKs (older botocore, which the AWS CLI 1
/// still carries) misread the answer to the next request on a connection where that happened.
fn waits_to_send(request: &Request<Incoming>) -> bool {
    let expectation = request.headers().get(header::EXPECT);
    expectation.is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// What S3 says of a header that can't be read; whether a readable one is right is for s3s to say.
fn check_authorization(value: &[u8]) -> S3Result<()> {
    let text = std::str::from_utf8(value).unwrap_or("");
    if !text.starts_with("AWS4-") {
        let message = "Unsupported Authorization Type";
        return Err(S3Error::with_message(S3ErrorCode::InvalidArgument, message));
    }
    let named = |name: &str| text.split_once(name).map(|(_, rest)| rest);
    let credential = named("Credential=").and_then(|rest| rest.split(',').next());
    let is_whole = credential.is_some_and(|c| c.matches('/').count() >= 4)
        && named("SignedHeaders=").is_some()
        && named("Signature=").is_some();
    if is_whole {
        return Ok(());
    }
    let message =
        "The authorization header is malformed; it needs Credential, SignedHeaders and Signature.";
    Err(S3Error::with_message(
        S3ErrorCode::AuthorizationHeaderMalformed,
        message,
    ))
}

fn chunk_bounds(headers: &HeaderMap, max: usize) -> Option<Chunks> {
    let kind = headers
        .get("x-amz-content-sha256")?
        .as_bytes()
        .strip_prefix(b"STREAMING-")?;
    Some(Chunks::new(!kind.starts_with(b"UNSIGNED-"), max))
}

/// The id of a door's `count`-th request, from a random start: ids don't repeat within a run and don't look alike.
pub fn request_id(count: u64) -> String {
    let mut x = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:016X}", x ^ (x >> 31))
}

fn failed() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// What s3s leaves to do on an answer.
fn touch(response: &mut Response<Body>, id: &str, head: bool) {
    if response.status() == StatusCode::NOT_MODIFIED {
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    } else if response.status().as_u16() >= 400 {
        name_request(response, id);
    } else if head && response.headers().contains_key(header::CONTENT_RANGE) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::SERVER, SERVER);
}

/// Errors name the request in their body too.
fn name_request(response: &mut Response<Body>, id: &str) {
    let Some(xml) = response.body().bytes() else {
        return;
    };
    let Some(start) = xml.strip_suffix(b"</Error>") else {
        return;
    };
    let mut named = Vec::with_capacity(xml.len() + 64);
    named.extend_from_slice(start);
    named.extend_from_slice(format!("<RequestId>{id}</RequestId></Error>").as_bytes());
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(named);
}

/// An answer's body; the request's place is free, and the observer told, when it was sent or dropped.
pub(crate) struct Answer {
    inner: Body,
    _place: Option<OwnedSemaphorePermit>,
    report: Report,
    _busy: BusyGuard,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        let _entered = this.report.trace.span().enter();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Err(error))) = &polled {
            tracing::warn!(%error, "an answer broke off");
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

struct Report {
    observer: Arc<dyn DoorObserver>,
    started: Instant,
    trace: Trace,
    status: u16,
}

impl Drop for Report {
    fn drop(&mut self) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.observer
            .request(self.trace.operation(), self.status, micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ() {
        let ids: std::collections::BTreeSet<String> = (0..1000).map(request_id).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }

    #[test]
    fn headers_that_no_client_of_s3_would_send_are_told_apart() {
        let code = |value: &str| match check_authorization(value.as_bytes()) {
            Ok(()) => String::new(),
            Err(error) => error.code().as_str().to_owned(),
        };
        assert_eq!(code("Basic eDp5"), "InvalidArgument");
        for malformed in [
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=x",
            "AWS4-HMAC-SHA256 Credential=x/20260101, SignedHeaders=host, Signature=0",
        ] {
            assert_eq!(
                code(malformed),
                "AuthorizationHeaderMalformed",
                "{malformed}"
            );
        }
        let whole = "AWS4-HMAC-SHA256 Credential=x/20260101/r/s3/aws4_request,SignedHeaders=host,Signature=0";
        assert_eq!(code(whole), "");
    }

    #[test]
    fn errors_name_their_request_in_header_and_body() {
        let mut response = S3Error::new(S3ErrorCode::NoSuchKey)
            .to_http_response()
            .unwrap();
        touch(&mut response, "00FF", false);
        let xml = response.body().bytes().unwrap();
        assert!(
            xml.ends_with(b"<Code>NoSuchKey</Code><RequestId>00FF</RequestId></Error>"),
            "{xml:?}"
        );
        assert_eq!(response.headers()[REQUEST_ID], "00FF");
    }

    #[test]
    fn an_answer_of_304_has_no_body() {
        let mut response = S3Error::new(S3ErrorCode::NotModified)
            .to_http_response()
            .unwrap();
        touch(&mut response, "00FF", false);
        assert!(response.body().is_end_stream());
        assert!(!response.headers().contains_key(header::CONTENT_TYPE));
    }
}
