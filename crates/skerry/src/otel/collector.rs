//! The way to a collector: HTTP/1.1, plain or over TLS with the system's authorities; one connection a message, and a limit
//! on how long all of it may take.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use object_client::tls;
use opentelemetry_http::{HttpClient, HttpError};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

/// How long a message may take, from the connection to the end of the answer.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// See the module.
pub struct Collector {
    tls: Option<TlsConnector>,
    headers: HeaderMap,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl Collector {
    /// One that gets these headers with each message.
    pub fn new(endpoint: &Url, headers: HeaderMap) -> Result<Self> {
        let tls = match endpoint.scheme() {
            "https" => Some(tls::connector(None)?),
            _ => None,
        };
        Ok(Collector { tls, headers })
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>> {
        let (host, port) = place(request.uri(), self.tls.is_some())?;
        let authority = request.uri().authority().map_or("", |at| at.as_str());
        let authority = HeaderValue::try_from(authority)?;
        request.headers_mut().insert(HOST, authority);
        request.headers_mut().extend(self.headers.clone());
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or(Uri::from_static("/"), Uri::from);
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .context("the collector can't be reached")?;
        let Some(tls) = &self.tls else {
            return exchange(stream, request).await;
        };
        let name = ServerName::try_from(host).context("the collector has no name for TLS")?;
        let stream = tls.connect(name, stream).await;
        exchange(stream.context("the collector is not trusted")?, request).await
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        match timeout(SEND_LIMIT, self.send(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("{error:#}").into()),
            Err(_) => Err("the collector did not answer in time".into()),
        }
    }
}

fn place(uri: &Uri, tls: bool) -> Result<(String, u16)> {
    let host = uri.host().context("the collector's address has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let usual = if tls { 443 } else { 80 };
    Ok((host.to_owned(), uri.port_u16().unwrap_or(usual)))
}

async fn exchange<S>(stream: S, request: Request<Bytes>) -> Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this call.
    let _running = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request.map(Full::new)).await?;
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        bail!("the collector answered {}", head.status);
    }
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(anyhow::Error::from_boxed)?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Sends one message to a collector that answers so; what it heard, and what came of it.
    async fn sent(answer: &'static str) -> (String, Result<Response<Bytes>, HttpError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hearing = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"spans") {
                assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(heard).unwrap()
        });
        let mut headers = HeaderMap::new();
        headers.insert("x-key", HeaderValue::from_static("k"));
        let endpoint = format!("http://{address}/v1/traces");
        let collector = Collector::new(&endpoint.parse().unwrap(), headers).unwrap();
        let request = Request::post(endpoint).body(Bytes::from_static(b"spans"));
        let outcome = collector.send_bytes(request.unwrap()).await;
        (hearing.await.unwrap(), outcome)
    }

    #[tokio::test]
    async fn a_message_has_its_path_its_host_and_the_headers() {
        let (heard, outcome) = sent("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        assert!(heard.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{heard}");
        assert!(heard.contains("host: 127.0.0.1:") && heard.contains("x-key: k"));
        assert_eq!(*outcome.unwrap().body(), "ok");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error() {
        let (_, outcome) = sent("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("503"), "{error}");
    }

    #[test]
    fn places_have_ports() {
        let of = |text: &'static str, tls| place(&Uri::from_static(text), tls).unwrap();
        assert_eq!(of("http://c.lan/v1/traces", false), ("c.lan".into(), 80));
        assert_eq!(of("https://[::1]/v1/traces", true), ("::1".into(), 443));
        assert_eq!(of("http://c.lan:4318/", false), ("c.lan".into(), 4318));
    }
}
