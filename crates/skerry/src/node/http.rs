//! Connections of the HTTP door: a bounded number, each with a bounded life, over TLS when the doors have a certificate.
//!
//! What is served is a router; each request carries how it [`Arrived`].

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use object_s3::{Arrival, Arrivals, DoorObserver, TlsSource};
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::settings::OpenFiles;

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a request's headers may take; an idle connection is closed after this time too.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection lives at most, so that one that makes no progress does not keep its place.
const LIFE_LIMIT: Duration = Duration::from_secs(180);
/// How long a connection may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Over TLS.
    pub tls: bool,
    /// From this machine.
    pub local: bool,
}

/// Serves connections, which are counted, until `stop`, then lets requests in progress end.
pub fn serve(
    listener: TcpListener,
    router: Router,
    tls: TlsSource,
    stop: CancellationToken,
    open: Gauge,
) -> JoinHandle<()> {
    tokio::spawn(run(listener, router, tls, stop, open))
}

async fn run(
    listener: TcpListener,
    router: Router,
    tls: TlsSource,
    stop: CancellationToken,
    open: Gauge,
) {
    let most = OpenFiles::of_this_process().http_connections();
    let arrivals = Arrivals::new("HTTP", listener, most, Arc::new(Open(open)));
    let mut connections = JoinSet::new();
    loop {
        let arrival = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            arrival = arrivals.next() => arrival,
        };
        let Arrival {
            stream,
            peer,
            place,
        } = arrival;
        let (router, tls, stop) = (router.clone(), tls(), stop.clone());
        connections.spawn(async move {
            let _held = place;
            connection(stream, peer, tls, router, stop).await;
        });
    }
    drop(arrivals);
    while connections.join_next().await.is_some() {}
}

/// Counts open connections.
struct Open(Gauge);

impl DoorObserver for Open {
    fn connection_opened(&self) {
        self.0.inc();
    }

    fn connection_closed(&self) {
        self.0.dec();
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let arrived = Arrived {
        tls: tls.is_some(),
        local: peer.ip().to_canonical().is_loopback(),
    };
    let Some(config) = tls else {
        return requests(stream, arrived, router, stop).await;
    };
    let accepting = TlsAcceptor::from(config).accept(stream);
    match timeout(HANDSHAKE_LIMIT, accepting).await {
        Ok(Ok(stream)) => requests(stream, arrived, router, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn requests<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    arrived: Arrived,
    router: Router,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(arrived);
        router.call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    builder.header_read_timeout(HEADER_LIMIT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = sleep(LIFE_LIMIT) => None,
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection broke off"),
        None => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(CLOSE_LIMIT, connection).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::Extension;
    use axum::routing::get;
    use rustls::{ClientConfig, RootCertStore};
    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::node::tls::tests::write_certificate;
    use crate::node::tls::{DoorTls, TlsFiles, certificates};

    async fn how(Extension(arrived): Extension<Arrived>) -> String {
        format!("{arrived:?}")
    }

    async fn open(tls: TlsSource) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/how", get(how));
        let serving = serve(listener, router, tls, stop.clone(), Gauge::default());
        (address, stop, serving)
    }

    async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
        let request = "GET /how HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The end may come without a TLS goodbye; what matters is the answer.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn ask_tls(address: SocketAddr, files: &TlsFiles) -> io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&files.certificate).unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        Ok(ask(stream).await)
    }

    #[tokio::test]
    async fn plain_requests_say_how_they_came_and_the_door_closes() {
        let (address, stop, serving) = open(Arc::new(|| None)).await;
        let answer = ask(TcpStream::connect(address).await.unwrap()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("Arrived { tls: false, local: true }"));
        let idle = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        serving.await.unwrap();
        drop(idle);
    }

    #[tokio::test]
    async fn a_replaced_certificate_is_served_to_new_connections() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let files = write_certificate(folder.path());
        let tls = DoorTls::load(&files).unwrap();
        let (address, stop, serving) = open(tls.source()).await;
        let answer = ask_tls(address, &files).await.unwrap();
        assert!(
            answer.ends_with("Arrived { tls: true, local: true }"),
            "{answer}"
        );
        let stranger = write_certificate(other.path());
        assert!(ask_tls(address, &stranger).await.is_err());
        write_certificate(folder.path());
        assert!(ask_tls(address, &files).await.is_err(), "not looked at yet");
        assert!(tls.look());
        assert!(ask_tls(address, &files).await.is_ok());
        let plain = ask(TcpStream::connect(address).await.unwrap()).await;
        assert!(!plain.contains("Arrived"), "{plain}");
        stop.cancel();
        serving.await.unwrap();
    }
}
