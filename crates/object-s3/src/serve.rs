//! Connections: a bounded number, each with limits on what it may keep waiting, and an orderly end.
//!
//! HTTP/1.1 only: S3 clients speak nothing else. A TLS configuration must not offer `h2`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::gate::Gate;
use crate::guard::GuardedSocket;
use crate::options::{DoorObserver, DoorOptions, TlsSource};

/// How long to wait after a failed accept: what fails it (no file descriptors) seldom passes at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection without a request may take to close at a shutdown.
const IDLE_CLOSE: Duration = Duration::from_secs(1);
/// hyper wants at least this much.
const BUFFER_BYTES_MIN: usize = 8 << 10;

/// See [`crate::S3Door::serve`].
pub(crate) fn run(
    gate: Arc<Gate>,
    options: Arc<DoorOptions>,
    listener: TcpListener,
    tls: TlsSource,
    mut shutdown: BoxFuture<'static, ()>,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let places = Arc::new(Semaphore::new(options.max_connections));
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            let place = tokio::select! {
                biased;
                () = &mut shutdown => break,
                place = places.clone().acquire_owned() => place,
            };
            let accepted = loop {
                tokio::select! {
                    biased;
                    () = &mut shutdown => break None,
                    accepted = listener.accept() => break Some(accepted),
                    Some(_) = connections.join_next() => {}
                }
            };
            let stream = match accepted {
                None => break,
                Some(Ok((stream, _))) => stream,
                Some(Err(error)) => {
                    tracing::warn!(%error, "the S3 door could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (gate, options, tls, stopped) =
                (gate.clone(), options.clone(), tls(), stopped.clone());
            let counted = Counted::new(options.observer.clone());
            connections.spawn(async move {
                let _held = (place, counted);
                connection(gate, &options, stream, tls, stopped).await;
            });
        }
        drop(listener);
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

/// A connection that the observer knows to be open.
struct Counted(Arc<dyn DoorObserver>);

impl Counted {
    fn new(observer: Arc<dyn DoorObserver>) -> Self {
        observer.connection_opened();
        Counted(observer)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
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
        None => http(gate, options, socket, stopped).await,
        Some(config) => match timeout(
            options.header_timeout,
            TlsAcceptor::from(config).accept(socket),
        )
        .await
        {
            Ok(Ok(socket)) => http(gate, options, socket, stopped).await,
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
    mut stopped: watch::Receiver<bool>,
) {
    let busy = Arc::new(Busy::default());
    let service = {
        let busy = busy.clone();
        service_fn(move |request| {
            let (gate, guard) = (gate.clone(), busy.enter());
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
