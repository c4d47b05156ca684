//! Connections to endpoints: opened when needed, kept while idle, given back when an answer was read to its end.
//!
//! Invariants:
//! - a connection carries one request at a time;
//! - at most [`IDLE_CONNECTIONS_MAX`] idle connections are kept, none longer than [`IDLE_SECONDS_MAX`];
//! - connecting, and each piece of an answer, has a time limit; the caller bounds the wait for an answer's head.
//!
//! A dropped answer closes its connection. A request is sent a second time only when nothing of it had been written.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::{Error, Result};

const IDLE_CONNECTIONS_MAX: usize = 512;
const IDLE_SECONDS_MAX: u64 = 50;
const CONNECT_SECONDS_MAX: u64 = 10;
/// How long an answer's body may pause.
const PAUSE_SECONDS_MAX: u64 = 60;

/// The connections of one client.
pub(crate) struct Connections {
    tls: Option<TlsConnector>,
    idle: Mutex<Vec<Open>>,
}

/// An answer's body.
pub(crate) struct Body {
    incoming: Incoming,
    lease: Option<(Arc<Connections>, Open)>,
}

/// One connection that is ready, or will be when its answer was read.
struct Open {
    place: Place,
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
    _driver: Driver,
}

/// The task that moves a connection's bytes; ends with the connection's owner.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    https: bool,
    host: String,
    port: u16,
}

impl Place {
    fn of(uri: &Uri) -> Result<Self> {
        let host = uri.host().ok_or_else(|| Error::Endpoint {
            url: uri.to_string(),
            reason: "it names no host".to_owned(),
        })?;
        let https = uri.scheme_str() == Some("https");
        Ok(Self {
            https,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Connections {
    /// None yet; `tls` is needed for https only.
    pub fn new(tls: Option<TlsConnector>) -> Self {
        Self {
            tls,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Others, with the same trust.
    pub fn separate(&self) -> Self {
        Self::new(self.tls.clone())
    }

    /// Sends a request to where its URI says and waits for the head of the answer.
    pub fn send(
        self: &Arc<Self>,
        mut request: Request<Full<Bytes>>,
    ) -> BoxFuture<'_, Result<Response<Body>>> {
        Box::pin(async move {
            let place = Place::of(request.uri())?;
            to_origin_form(&mut request)?;
            while let Some(mut open) = self.take(&place) {
                if open.sender.ready().await.is_err() {
                    continue;
                }
                match open.sender.try_send_request(request).await {
                    Ok(answer) => return Ok(self.lend(open, answer)),
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(Error::Connection(error.into_error())),
                    },
                }
            }
            let mut open = self.open(place).await?;
            match open.sender.send_request(request).await {
                Ok(answer) => Ok(self.lend(open, answer)),
                Err(error) => Err(Error::Connection(error)),
            }
        })
    }

    fn take(&self, place: &Place) -> Option<Open> {
        let mut idle = self.idle.lock().expect("no panic while it is held");
        let age_max = Duration::from_secs(IDLE_SECONDS_MAX);
        idle.retain(|open| open.since.elapsed() < age_max && !open.sender.is_closed());
        let newest = idle.iter().rposition(|open| open.place == *place)?;
        Some(idle.remove(newest))
    }

    fn keep(&self, mut open: Open) {
        open.since = Instant::now();
        let mut idle = self.idle.lock().expect("no panic while it is held");
        if idle.len() >= IDLE_CONNECTIONS_MAX {
            idle.remove(0);
        }
        idle.push(open);
    }

    fn lend(self: &Arc<Self>, open: Open, answer: Response<Incoming>) -> Response<Body> {
        answer.map(|incoming| {
            let ended = incoming.is_end_stream();
            let lease = Some((Arc::clone(self), open));
            let mut body = Body { incoming, lease };
            if ended {
                body.give_back();
            }
            body
        })
    }

    async fn open(&self, place: Place) -> Result<Open> {
        let limit = Duration::from_secs(CONNECT_SECONDS_MAX);
        let dialed = timeout(limit, self.dial(&place)).await.unwrap_or_else(|_| {
            let words = format!("no answer within {CONNECT_SECONDS_MAX} s");
            Err(io::Error::new(io::ErrorKind::TimedOut, words))
        });
        match dialed {
            Ok((sender, driver)) => Ok(Open {
                place,
                sender,
                since: Instant::now(),
                _driver: driver,
            }),
            Err(source) => Err(Error::Connect {
                address: place.to_string(),
                source,
            }),
        }
    }

    async fn dial(&self, place: &Place) -> io::Result<(SendRequest<Full<Bytes>>, Driver)> {
        let tcp = TcpStream::connect((place.host.as_str(), place.port)).await?;
        tcp.set_nodelay(true)?;
        if !place.https {
            return begin(tcp).await;
        }
        let tls = self
            .tls
            .as_ref()
            .ok_or_else(|| io::Error::other("TLS is not set up"))?;
        let name = ServerName::try_from(place.host.clone()).map_err(io::Error::other)?;
        begin(tls.connect(name, tcp).await?).await
    }
}

async fn begin(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<(SendRequest<Full<Bytes>>, Driver)> {
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        // Its errors reach whoever waits for an answer.
        let _ = connection.await;
    });
    Ok((sender, Driver(driver)))
}

/// What HTTP/1.1 sends to a server: path and query, with the host in a header.
fn to_origin_form(request: &mut Request<Full<Bytes>>) -> Result<()> {
    let refuse = || Error::Endpoint {
        url: request.uri().to_string(),
        reason: "it is no absolute address".to_owned(),
    };
    let authority = request.uri().authority().ok_or_else(refuse)?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| refuse())?;
    let target = request.uri().path_and_query().cloned().ok_or_else(refuse)?;
    *request.uri_mut() = Uri::from(target);
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

impl Body {
    /// The next piece, or `None` at the end.
    pub async fn data(&mut self) -> Result<Option<Bytes>> {
        loop {
            let limit = Duration::from_secs(PAUSE_SECONDS_MAX);
            let frame = timeout(limit, self.incoming.frame()).await;
            let frame = frame.map_err(|_| Error::Timeout {
                seconds: PAUSE_SECONDS_MAX,
            })?;
            let Some(frame) = frame else {
                self.give_back();
                return Ok(None);
            };
            if let Ok(data) = frame.map_err(Error::Body)?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// All of it, refusing more than `bytes_max`.
    pub async fn collect(mut self, bytes_max: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(data) = self.data().await? {
            if all.len() + data.len() > bytes_max {
                return Err(Error::Reply(format!("more than {bytes_max} bytes")));
            }
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    }

    fn give_back(&mut self) {
        if let Some((connections, open)) = self.lease.take() {
            connections.keep(open);
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |uri: &str| Place::of(&uri.parse().unwrap()).unwrap().to_string();
        assert_eq!(place("http://a.b/c"), "a.b:80");
        assert_eq!(place("https://a.b"), "a.b:443");
        assert_eq!(place("http://[::1]:9000/x"), "[::1]:9000");
        assert!(Place::of(&"/x".parse().unwrap()).is_err());
    }

    #[test]
    fn the_host_moves_into_its_header() {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = "http://h:1/a/../b?c=d".parse().unwrap();
        to_origin_form(&mut request).unwrap();
        assert_eq!(request.uri().to_string(), "/a/../b?c=d");
        assert_eq!(request.headers()[header::HOST], "h:1");
    }
}
