//! One endpoint: addresses, presigning, connections and repeated attempts.
//!
//! An attempt ends by its answer or by [`ATTEMPT_SECONDS`]; a call makes at most [`ATTEMPTS`] of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use crate::{Error, Result};

/// How often a call is sent at most.
const ATTEMPTS: u32 = 5;
/// How long an attempt may wait for the head of its answer.
const ATTEMPT_SECONDS: u64 = 300;
/// The first wait between attempts; doubles up to [`BACKOFF_MS_MAX`].
const BACKOFF_MS: u64 = 50;
const BACKOFF_MS_MAX: u64 = 2_000;
/// How long a presigned URL of a single request stays valid.
const EXPIRY_SECONDS: u64 = 900;
/// The largest reply that is collected in memory (listings, errors).
const REPLY_BYTES_MAX: usize = 16 << 20;

/// Where an S3 service is and who asks.
#[derive(Clone)]
pub struct Endpoint {
    /// Such as `http://127.0.0.1:9000`.
    pub url: String,
    /// The region to sign for, such as `us-east-1`.
    pub region: String,
    /// The access key's name.
    pub access_key: String,
    /// The access key's secret.
    pub secret_key: String,
    /// Whether the bucket is in the path (true) or in the host's name.
    pub path_style: bool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url)
            .field("region", &self.region)
            .field("access_key", &self.access_key)
            .field("path_style", &self.path_style)
            .finish_non_exhaustive()
    }
}

/// A client of one endpoint; clones share its connections.
#[derive(Clone)]
pub struct S3Client {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    url: Url,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// One request before it is signed. Headers are sent unsigned; none may begin with `x-amz-`.
pub(crate) struct Call<'a> {
    pub method: Method,
    pub bucket: &'a str,
    pub key: &'a str,
    pub query: Vec<(&'a str, String)>,
    pub headers: Vec<(http::HeaderName, String)>,
    pub body: Bytes,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, bucket: &'a str, key: &'a str) -> Self {
        Self { method, bucket, key, query: Vec::new(), headers: Vec::new(), body: Bytes::new() }
    }

    pub fn query(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub fn header(mut self, name: http::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }
}

impl fmt::Debug for S3Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Client").field(&self.inner.endpoint).finish()
    }
}

impl S3Client {
    /// Prepares a client; connects only when asked for something.
    ///
    /// # Errors
    /// When the address is not plain `http://host[:port]`.
    pub fn new(endpoint: Endpoint) -> Result<Self> {
        let refuse = |reason: &str| Error::Endpoint {
            url: endpoint.url.clone(),
            reason: reason.to_owned(),
        };
        let mut url = Url::parse(&endpoint.url)
            .map_err(|error| refuse(&format!("{error}; write it like http://host:port")))?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(refuse("https isn't supported yet; give an http:// address")),
            _ => return Err(refuse("write it like http://host:port")),
        }
        if url.host_str().is_none() {
            return Err(refuse("it names no host"));
        }
        url.set_query(None);
        url.set_fragment(None);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(10)));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector);
        Ok(Self { inner: Arc::new(Inner { endpoint, url, http }) })
    }

    /// What this client was made of.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// Makes a URL that lets anybody send this request until it expires (at most seven days).
    ///
    /// # Errors
    /// When the bucket or the key can't be put in a URL.
    pub fn presign(
        &self,
        method: &Method,
        bucket: &str,
        key: &str,
        query: &[(&str, &str)],
        expiry: Duration,
    ) -> Result<Uri> {
        let mut query = query.to_vec();
        query.sort_unstable();
        let endpoint = &self.inner.endpoint;
        let signed = rusty_s3::signing::sign(
            &jiff::Timestamp::now(),
            signing_method(method),
            self.address(bucket, key)?,
            &endpoint.access_key,
            &endpoint.secret_key,
            None,
            &endpoint.region,
            expiry.as_secs(),
            query.into_iter(),
            std::iter::empty(),
        );
        Uri::try_from(signed.as_str())
            .map_err(|_| Error::Key { key: key.to_owned(), reason: "its URL is too long" })
    }

    fn address(&self, bucket: &str, key: &str) -> Result<Url> {
        if bucket.is_empty() {
            return Ok(self.inner.url.clone());
        }
        if key.split('/').any(|segment| segment == "." || segment == "..") {
            let reason = "URL rules remove the segments \".\" and \"..\"";
            return Err(Error::Key { key: key.to_owned(), reason });
        }
        let style = match self.inner.endpoint.path_style {
            true => rusty_s3::UrlStyle::Path,
            false => rusty_s3::UrlStyle::VirtualHost,
        };
        let region = self.inner.endpoint.region.clone();
        let place = rusty_s3::Bucket::new(self.inner.url.clone(), style, bucket.to_owned(), region)
            .map_err(|error| Error::Endpoint {
                url: self.inner.endpoint.url.clone(),
                reason: format!("the bucket {bucket:?} has no address there: {error}"),
            })?;
        Ok(place.object_url(key))
    }

    /// Sends a call until it succeeds, fails for good, or attempts run out.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Response<Incoming>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.attempt(&call).await {
                Err(error) if error.is_transient() && attempt < ATTEMPTS => {}
                done => return done,
            }
            tokio::time::sleep(backoff(attempt, rand::random())).await;
        }
    }

    /// Like [`Self::call`], with the reply's body collected.
    pub(crate) async fn call_collected(&self, call: Call<'_>) -> Result<Bytes> {
        collect(self.call(call).await?.into_body(), REPLY_BYTES_MAX).await
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Response<Incoming>> {
        let query: Vec<_> = call.query.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let expiry = Duration::from_secs(EXPIRY_SECONDS);
        let uri = self.presign(&call.method, call.bucket, call.key, &query, expiry)?;
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri;
        for (name, value) in &call.headers {
            let value = HeaderValue::from_str(value)
                .map_err(|_| Error::Options(format!("the header {name} can't hold {value:?}")))?;
            request.headers_mut().insert(name, value);
        }
        self.send(request).await
    }

    /// Sends one presigned request once. Answers with an error status become errors.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let limit = Duration::from_secs(ATTEMPT_SECONDS);
        let answer = tokio::time::timeout(limit, self.inner.http.request(request))
            .await
            .map_err(|_| Error::Timeout { seconds: ATTEMPT_SECONDS })?
            .map_err(Error::Connection)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let body = collect(answer.into_body(), 64 << 10).await.unwrap_or_default();
        Err(Error::from_answer(status, &body))
    }
}

/// Collects a body of at most `max` bytes.
pub(crate) async fn collect(mut body: Incoming, max: usize) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Error::Body)?.into_data() {
            if all.len() + data.len() > max {
                return Err(Error::Reply(format!("more than {max} bytes")));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

/// Between half and all of a wait that doubles with each attempt.
fn backoff(attempt: u32, random: u64) -> Duration {
    let full = (BACKOFF_MS << attempt.saturating_sub(1).min(16)).min(BACKOFF_MS_MAX);
    Duration::from_millis(full / 2 + random % (full / 2 + 1))
}

fn signing_method(method: &Method) -> rusty_s3::Method {
    match method.as_str() {
        "HEAD" => rusty_s3::Method::Head,
        "PUT" => rusty_s3::Method::Put,
        "POST" => rusty_s3::Method::Post,
        "DELETE" => rusty_s3::Method::Delete,
        _ => rusty_s3::Method::Get,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, path_style: bool) -> Endpoint {
        Endpoint {
            url: url.to_owned(),
            region: "us-east-1".to_owned(),
            access_key: "key".to_owned(),
            secret_key: "hidden".to_owned(),
            path_style,
        }
    }

    #[test]
    fn addresses() {
        let client = S3Client::new(endpoint("http://localhost:9000", true)).unwrap();
        assert_eq!(client.address("b", "a b/c+%").unwrap().path(), "/b/a%20b/c%2B%25");
        assert_eq!(client.address("b", "//x").unwrap().path(), "/b///x");
        assert!(matches!(client.address("b", "a/../c"), Err(Error::Key { .. })));
        let client = S3Client::new(endpoint("http://localhost:9000", false)).unwrap();
        assert_eq!(client.address("b", "k").unwrap().as_str(), "http://b.localhost:9000/k");
        assert!(!format!("{client:?}").contains("hidden"));
    }

    #[test]
    fn https_is_refused_in_words() {
        let error = S3Client::new(endpoint("https://localhost", true)).unwrap_err();
        assert!(error.to_string().contains("https isn't supported yet"), "{error}");
        assert!(S3Client::new(endpoint("localhost", true)).is_err());
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        assert!(backoff(1, 0) >= Duration::from_millis(BACKOFF_MS / 2));
        for random in [0, 7, u64::MAX] {
            assert!(backoff(60, random) <= Duration::from_millis(BACKOFF_MS_MAX));
        }
        assert!(backoff(4, 0) > backoff(1, 0));
    }
}
