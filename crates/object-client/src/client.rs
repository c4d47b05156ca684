//! One endpoint: what it needs, and repeated attempts.
//!
//! An attempt ends by its answer or by its time limit; a call makes at most [`ATTEMPTS`] of them, and waits between
//! them. What is called must bear being carried out twice.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use url::Url;

use crate::connection::{Body, Connections};
use crate::{Error, Result, sign, tls};

/// How often a call is sent at most.
const ATTEMPTS: u32 = 5;
/// How long an attempt may wait for the head of its answer, before its body is counted.
const ATTEMPT_SECONDS: u64 = 300;
/// The slowest line for which the time of an attempt is enough.
const BYTES_PER_SECOND_MIN: u64 = 32 << 10;
/// The first wait between attempts; doubles up to [`BACKOFF_MS_MAX`].
const BACKOFF_MS: u64 = 50;
const BACKOFF_MS_MAX: u64 = 2_000;
/// How long a presigned URL of a single request stays valid.
const EXPIRY_SECONDS: u64 = 3_600;
/// The largest reply that is collected in memory (listings, errors).
pub(crate) const REPLY_BYTES_MAX: usize = 16 << 20;

/// Where an S3 service is and who asks.
#[derive(Clone)]
pub struct Endpoint {
    /// Such as `http://127.0.0.1:7300`.
    pub url: String,
    /// The region to sign for, such as `us-east-1`.
    pub region: String,
    /// The access key's name.
    pub access_key: String,
    /// The access key's secret.
    pub secret_key: String,
    /// What belongs to keys that are good for a short time only.
    pub session_token: Option<String>,
    /// Whether the bucket is in the path (true) or in the host's name.
    pub path_style: bool,
    /// A PEM file with the authorities to trust under https, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url)
            .field("region", &self.region)
            .field("access_key", &self.access_key)
            .field("path_style", &self.path_style)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// A client of one endpoint; clones share its connections.
#[derive(Clone)]
pub struct S3Client {
    place: Arc<Place>,
    connections: Arc<Connections>,
}

struct Place {
    endpoint: Endpoint,
    url: Url,
}

/// One request before it is signed. Headers are sent unsigned; none may begin with `x-amz-`.
pub(crate) struct Call<'a> {
    pub method: Method,
    pub bucket: &'a str,
    pub key: &'a str,
    pub query: Vec<(&'a str, String)>,
    pub headers: Vec<(HeaderName, String)>,
    pub body: Bytes,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, bucket: &'a str, key: &'a str) -> Self {
        Self {
            method,
            bucket,
            key,
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub fn query(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
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
        f.debug_tuple("S3Client")
            .field(&self.place.endpoint)
            .finish()
    }
}

impl S3Client {
    /// Prepares a client; connects only when asked for something.
    ///
    /// # Errors
    /// When the address is not `http://host[:port]` or `https://host[:port]`, or there are no certificates to trust.
    pub fn new(endpoint: Endpoint) -> Result<Self> {
        let url = parse(&endpoint.url)?;
        let tls = match url.scheme() {
            "https" => Some(tls::connector(endpoint.ca_file.as_deref())?),
            _ => None,
        };
        Ok(Self {
            place: Arc::new(Place { endpoint, url }),
            connections: Arc::new(Connections::new(tls)),
        })
    }

    /// A client of the same endpoint with connections of its own.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self {
            place: Arc::clone(&self.place),
            connections: Arc::new(self.connections.separate()),
        }
    }

    /// What this client was made of.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.place.endpoint
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
        let target = sign::Target {
            method,
            bucket,
            key,
            query,
        };
        let now = jiff::Timestamp::now();
        sign::presign(&self.place.endpoint, &self.place.url, &target, now, expiry)
    }

    /// Sends a call until it succeeds, fails for good, or attempts run out.
    pub(crate) fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Response<Body>>> {
        Box::pin(async move { repeat(|| self.attempt(&call)).await })
    }

    /// Like [`Self::call`], with headers and the collected body, which may hold `bytes_max`.
    pub(crate) async fn call_collected(
        &self,
        call: Call<'_>,
        bytes_max: usize,
    ) -> Result<(HeaderMap, Bytes)> {
        self.call_counted(call, bytes_max).await.1
    }

    /// Like [`Self::call_collected`], after the number of attempts that were made.
    pub(crate) fn call_counted<'a>(
        &'a self,
        call: Call<'a>,
        bytes_max: usize,
    ) -> BoxFuture<'a, (u32, Result<(HeaderMap, Bytes)>)> {
        Box::pin(async move {
            let mut made = 0;
            let done = repeat(|| {
                made += 1;
                self.attempt_collected(&call, bytes_max)
            });
            let done = done.await;
            (made, done)
        })
    }

    async fn attempt_collected(
        &self,
        call: &Call<'_>,
        bytes_max: usize,
    ) -> Result<(HeaderMap, Bytes)> {
        let (head, body) = self.attempt(call).await?.into_parts();
        Ok((head.headers, body.collect(bytes_max).await?))
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Response<Body>> {
        let query: Vec<_> = call.query.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let expiry = Duration::from_secs(EXPIRY_SECONDS);
        let uri = self.presign(&call.method, call.bucket, call.key, &query, expiry)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &call.headers {
            let value = HeaderValue::from_str(value)
                .map_err(|_| Error::Options(format!("the header {name} can't hold {value:?}")))?;
            headers.insert(name.clone(), value);
        }
        self.send(call.method.clone(), uri, headers, call.body.clone())
            .await
    }

    /// Sends one presigned request once. Answers with an error status become errors.
    pub(crate) async fn send(
        &self,
        method: Method,
        uri: Uri,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>> {
        let length = body.len() as u64;
        if method == Method::PUT || method == Method::POST {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let seconds = ATTEMPT_SECONDS + length / BYTES_PER_SECOND_MIN;
        let limit = Duration::from_secs(seconds);
        let answer = tokio::time::timeout(limit, self.connections.send(request))
            .await
            .map_err(|_| Error::Timeout { seconds })??;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let body = answer.into_body().collect(64 << 10).await;
        Err(Error::from_answer(status, &body.unwrap_or_default()))
    }
}

fn parse(address: &str) -> Result<Url> {
    let refuse = |reason: String| Error::Endpoint {
        url: address.to_owned(),
        reason,
    };
    let example = "write it like http://host:port";
    let mut url = Url::parse(address).map_err(|error| refuse(format!("{error}; {example}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse(example.to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("keys don't belong into an address".to_owned()));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Makes attempts until one succeeds, fails for good, or there were enough.
async fn repeat<T, F>(mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut made = 0;
    loop {
        made += 1;
        match attempt().await {
            Err(error) if error.is_transient() && made < ATTEMPTS => {}
            done => return done,
        }
        tokio::time::sleep(backoff(made, rand::random())).await;
    }
}

/// Between half and all of a wait that doubles with each attempt.
fn backoff(attempt: u32, random: u64) -> Duration {
    let full = (BACKOFF_MS << attempt.saturating_sub(1).min(16)).min(BACKOFF_MS_MAX);
    Duration::from_millis(full / 2 + random % (full / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint {
            url: url.to_owned(),
            region: "us-east-1".to_owned(),
            access_key: "key".to_owned(),
            secret_key: "hidden".to_owned(),
            session_token: Some("hidden".to_owned()),
            path_style: true,
            ca_file: None,
        }
    }

    #[test]
    fn addresses_are_checked_in_words() {
        for good in ["http://localhost:9000", "http://[::1]/below?x=y#z"] {
            assert!(S3Client::new(endpoint(good)).is_ok(), "{good}");
        }
        for bad in ["localhost", "localhost:9000", "ftp://a", "http://", ""] {
            let error = S3Client::new(endpoint(bad)).unwrap_err();
            assert!(error.to_string().contains("write it like"), "{error}");
        }
        let error = S3Client::new(endpoint("http://a:b@c")).unwrap_err();
        assert!(error.to_string().contains("keys don't belong"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let client = S3Client::new(endpoint("http://localhost")).unwrap();
        assert!(!format!("{client:?}").contains("hidden"));
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
