//! Bulk streams over the simulated network: bytes are carried in pieces, each with its delay.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ids::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::time::sleep;
use transport::chunked::ChunkedStream;
use transport::{BulkStream, Service, TransportError};

use super::{Net, SimTransport, refused, unreachable};
use crate::sim::platform::draw;

/// What lies between writer and network, and between network and reader.
const BUFFER_BYTES: usize = 64 << 10;

/// How long opening takes to fail where nothing passes.
const OPEN_MAX: Duration = Duration::from_secs(5);

pub(super) fn open_to_self(
    opener: &SimTransport,
    service: Service,
    header: Bytes,
) -> Result<BulkStream, TransportError> {
    let (near, far) = duplex(BUFFER_BYTES);
    serve(opener, opener.node, service, header, far)?;
    Ok(Box::pin(ChunkedStream::new(near)))
}

pub(super) async fn open(
    opener: &SimTransport,
    to: NodeId,
    service: Service,
    header: Bytes,
) -> Result<BulkStream, TransportError> {
    let (net, from) = (&opener.net, opener.node);
    net.trace
        .event(format_args!("stream {from}>{to} service {}", service.0));
    *net.state().streams.entry(service).or_default() += 1;
    let path = Path {
        net: net.clone(),
        from,
        to,
    };
    for (one, other) in [(from, to), (to, from)] {
        path.delay(one, other, 0).await;
        if path.is_broken() {
            sleep(OPEN_MAX).await;
            return Err(unreachable(to, "the stream was not taken in time"));
        }
    }
    opener.check_run(to)?;
    let (near, near_net) = duplex(BUFFER_BYTES);
    let (far_net, far) = duplex(BUFFER_BYTES);
    let to_run = serve(opener, to, service, header, far)?;
    let runs = [(from, opener.run), (to, to_run)];
    let mut state = net.state();
    if let Some(node) = state.nodes.get_mut(&from) {
        node.spawn(carry(path, runs, near_net, far_net));
    }
    Ok(Box::pin(ChunkedStream::new(near)))
}

/// Gives the far end to the node's handler, and says which run of the node it is.
fn serve(
    opener: &SimTransport,
    to: NodeId,
    service: Service,
    header: Bytes,
    far: DuplexStream,
) -> Result<u64, TransportError> {
    let mut state = opener.net.state();
    let node = state.nodes.get_mut(&to).filter(|node| node.is_up());
    let node = node.ok_or_else(|| unreachable(to, "nobody listens there"))?;
    let handler = node.handler(service).ok_or_else(|| refused(to, service))?;
    let from = opener.node;
    node.spawn(async move {
        handler
            .stream(from, header, Box::pin(ChunkedStream::new(far)))
            .await;
    });
    Ok(node.run())
}

/// Carries bytes both ways until both ends are closed, or the path breaks; then both ends see a break.
async fn carry(path: Path, runs: [(NodeId, u64); 2], near: DuplexStream, far: DuplexStream) {
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    let there = carry_one_way(&path, path.from, path.to, near_read, far_write);
    let back = carry_one_way(&path, path.to, path.from, far_read, near_write);
    tokio::select! {
        biased;
        () = path.broken(runs) => {
            path.net.trace.event(format_args!("stream {}>{} broke", path.from, path.to));
        }
        _ = async { futures::join!(there, back) } => {}
    }
}

async fn carry_one_way(
    path: &Path,
    from: NodeId,
    to: NodeId,
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
) {
    let mut piece = vec![0; BUFFER_BYTES];
    while let Ok(got @ 1..) = read.read(&mut piece).await {
        path.delay(from, to, got).await;
        if write.write_all(&piece[..got]).await.is_err() {
            break;
        }
    }
    let _ = write.shutdown().await;
}

struct Path {
    net: Arc<Net>,
    from: NodeId,
    to: NodeId,
}

impl Path {
    /// Takes as long as the link takes for so many bytes.
    async fn delay(&self, from: NodeId, to: NodeId, bytes: usize) {
        let delay = {
            let mut state = self.net.state();
            let link = state.link(from, to).clone();
            let sending = bytes as f64 / link.stream_bytes_per_second.max(1) as f64;
            let held = state.held_for(from, to);
            held + draw(&mut state.rng, &link.delay) + Duration::from_secs_f64(sending)
        };
        sleep(delay).await;
    }

    fn is_broken(&self) -> bool {
        let state = self.net.state();
        state.is_cut(self.from, self.to) || state.is_cut(self.to, self.from)
    }

    /// Waits until a link is cut or a run of an end is over.
    async fn broken(&self, runs: [(NodeId, u64); 2]) {
        let mut changes = self.net.changes.subscribe();
        let over = || {
            runs.iter()
                .any(|(node, run)| !self.net.state().runs(*node, *run))
        };
        // The network lives as long as this path: no error.
        let _ = changes.wait_for(|_| self.is_broken() || over()).await;
    }
}
