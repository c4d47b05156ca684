//! Connections: a bounded number, each with limits on what it may keep waiting, and an orderly end.
//!
//! HTTP/1.1 only: S3 clients speak nothing else. A TLS configuration must not offer `h2`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::arrivals::{Arrival, Arrivals};
use crate::gate::Gate;
use crate::guard::GuardedSocket;
use crate::options::{DoorOptions, TlsSource};

/// How long a connection without a request may take to close at a shutdown.
const IDLE_CLOSE: Duration = Duration::from_secs(1);
/// hyper wants at least this much.
const BUFFER_BYTES_MIN: usize = 8 << 10;

/// How a request came; travels in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// As addresses begin.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// See [`crate::S3Door::serve`].
pub(crate) fn run(
    gate: Arc<Gate>,
    options: Arc<DoorOptions>,
    listener: TcpListener,
    tls: TlsSource,
    mut shutdown: BoxFuture<'static, ()>,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let (most, observer) = (options.max_connections, options.observer.clone());
        let arrivals = Arrivals::new("S3", listener, most, observer);
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            let arrival = tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                arrival = arrivals.next() => arrival,
            };
            let Arrival { stream, place, .. } = arrival;
            let (gate, options, tls, stopped) =
                (gate.clone(), options.clone(), tls(), stopped.clone());
            connections.spawn(async move {
                let _held = place;
                connection(gate, &options, stream, tls, stopped).await;
            });
        }
        drop(arrivals);
        let _ = stop.send(true);
        let drained = timeout(options.drain_timeout, async {
            while connections.join_next().await.is_some() {}
        })
        .await;
        if drained.is_err() {
            tracing::warn!(
                left = connections.len(),
                "requests did not end in time and are broken off"
            );
            connections.shutdown().await;
        }
    })
}

async fn connection(
    gate: Arc<Gate>,
    options: &DoorOptions,
    stream: TcpStream,
    tls: Option<Arc<tokio_rustls::rustls::ServerConfig>>,
    stopped: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let socket = GuardedSocket::new(stream, options.body_idle_timeout);
    match tls {
        None => http(gate, options, socket, Scheme::Http, stopped).await,
        Some(config) => match timeout(
            options.header_timeout,
            TlsAcceptor::from(config).accept(socket),
        )
        .await
        {
            Ok(Ok(socket)) => http(gate, options, socket, Scheme::Https, stopped).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

/// Requests of one connection that were not answered yet.
#[derive(Default)]
struct Busy {
    requests: AtomicUsize,
    idle: Notify,
}

impl Busy {
    fn enter(self: &Arc<Self>) -> BusyGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        BusyGuard(self.clone())
    }

    async fn until_idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.requests.load(Ordering::Relaxed) == 0 {
                return;
            }
            idle.await;
        }
    }
}

pub(crate) struct BusyGuard(Arc<Busy>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

async fn http<S: AsyncRead + AsyncWrite + Unpin>(
    gate: Arc<Gate>,
    options: &DoorOptions,
    socket: S,
    scheme: Scheme,
    mut stopped: watch::Receiver<bool>,
) {
    let busy = Arc::new(Busy::default());
    let service = {
        let busy = busy.clone();
        service_fn(move |mut request: Request<Incoming>| {
            let (gate, guard) = (gate.clone(), busy.enter());
            request.extensions_mut().insert(scheme);
            async move { gate.answer(request, guard).await }
        })
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    builder.header_read_timeout(options.header_timeout);
    builder.max_header_size(options.header_bytes_max);
    builder.max_buf_size(options.header_bytes_max.max(BUFFER_BYTES_MIN));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.wait_for(|stop| *stop) => None,
    };
    if let Some(ended) = ended {
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke off");
        }
        return;
    }
    connection.as_mut().graceful_shutdown();
    let closed = tokio::select! {
        _ = connection.as_mut() => true,
        () = busy.until_idle() => false,
    };
    if !closed {
        // Nothing is in progress; the last bytes get out, and a client that only keeps the connection open is not waited for.
        let _ = timeout(IDLE_CLOSE, connection).await;
    }
}
