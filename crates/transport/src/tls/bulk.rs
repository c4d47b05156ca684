//! How a bulk stream begins on its connection, at both sides; what follows is [`crate::chunked`].
//!
//! ```text
//! opening: version u8 | service u8 | header length u32 | header
//! answer:  version u8 | 0 (go on) or 1 (refused) u8 | length u16 | words
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ids::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connection::CallError;
use super::core::Core;
use super::dial::HANDSHAKE_MAX;
use super::pool::{BulkConnection, Peer};
use super::quota::Quota;
use crate::chunked::{ChunkedStream, Settling};
use crate::{BulkStream, Service};

const VERSION: u8 = 1;

/// The longest header of a stream.
pub(super) const HEADER_BYTES_MAX: usize = 64 << 10;

/// How long a connection may wait for its next stream: longer than the opener keeps it.
const IDLE_FOR_MAX: Duration = Duration::from_secs(90);

/// How long a finished stream's end marker may take.
const SETTLE_MAX: Duration = Duration::from_secs(5);

const GO_ON: u8 = 0;
const REFUSED: u8 = 1;

/// Opens a stream to `peer`, on a connection that waits or else on a new one.
pub(super) async fn open(
    peer: &Arc<Peer>,
    service: Service,
    header: &Bytes,
) -> Result<BulkStream, CallError> {
    while let Some(idle) = peer.take_idle() {
        let opened = timeout(HANDSHAKE_MAX, async {
            let io = idle.settle().await?;
            start(io, service, header).await
        });
        match opened.await {
            Ok(Ok(started)) => return finish(peer, started),
            // The other side closed it meanwhile, and then likely the others too.
            Ok(Err(_)) => peer.drop_idle(),
            Err(_) => return Err(not_taken()),
        }
    }
    let io = peer.new_bulk().await?;
    match timeout(HANDSHAKE_MAX, start(io, service, header)).await {
        Ok(Ok(started)) => finish(peer, started),
        Ok(Err(error)) => Err(CallError::Broken(error.to_string())),
        Err(_) => Err(not_taken()),
    }
}

fn not_taken() -> CallError {
    CallError::Broken("the stream was not taken in time".into())
}

type Started = (BulkConnection, Result<(), String>);

async fn start(mut io: BulkConnection, service: Service, header: &[u8]) -> io::Result<Started> {
    let mut opening = vec![VERSION, service.0];
    opening.extend_from_slice(&(header.len() as u32).to_be_bytes());
    opening.extend_from_slice(header);
    io.write_all(&opening).await?;
    io.flush().await?;
    let answer = read_answer(&mut io).await?;
    Ok((io, answer))
}

fn finish(peer: &Arc<Peer>, (io, answer): Started) -> Result<BulkStream, CallError> {
    answer.map_err(CallError::Refused)?;
    let peer = Arc::downgrade(peer);
    let release = move |settling| {
        if let Some(peer) = peer.upgrade() {
            peer.keep_idle(settling);
        }
    };
    Ok(Box::pin(ChunkedStream::with_release(io, Box::new(release))))
}

async fn read_answer(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<(), String>> {
    check_version(io.read_u8().await?)?;
    let status = io.read_u8().await?;
    let mut words = vec![0; io.read_u16().await?.into()];
    io.read_exact(&mut words).await?;
    match status {
        GO_ON => Ok(Ok(())),
        REFUSED => Ok(Err(String::from_utf8_lossy(&words).into_owned())),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the stream's answer is unknown",
        )),
    }
}

/// Serves one stream after the other on a connection of the node `from`.
pub(super) async fn serve<S>(core: Arc<Core>, streams: Arc<Quota<NodeId>>, from: NodeId, mut io: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        match serve_one(&core, &streams, from, io).await {
            Ok(next) => io = next,
            Err(error) => {
                tracing::debug!(%from, %error, "a bulk connection ended");
                return;
            }
        }
    }
}

async fn serve_one<S>(
    core: &Arc<Core>,
    streams: &Arc<Quota<NodeId>>,
    from: NodeId,
    mut io: S,
) -> io::Result<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    check_version(timeout(IDLE_FOR_MAX, io.read_u8()).await??)?;
    let (service, header) = timeout(HANDSHAKE_MAX, read_opening(&mut io)).await??;
    if !core.admits(from) {
        refuse(io, "this node is not admitted to the site any more").await?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let Some(_permit) = streams.take(from) else {
        return refuse(io, "too many streams at once, try again later").await;
    };
    let Some(handler) = core.handler(service) else {
        return refuse(io, &format!("service {} is not offered", service.0)).await;
    };
    io.write_all(&[VERSION, GO_ON, 0, 0]).await?;
    io.flush().await?;
    let (back, connection) = oneshot::channel::<Settling<S>>();
    let release = Box::new(move |settling| drop(back.send(settling)));
    let stream = Box::pin(ChunkedStream::with_release(io, release));
    handler.stream(from, header, stream).await;
    let broken = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    let settling = connection.await.map_err(broken)?;
    timeout(SETTLE_MAX, settling.settle()).await?
}

async fn read_opening(io: &mut (impl AsyncRead + Unpin)) -> io::Result<(Service, Bytes)> {
    let service = Service(io.read_u8().await?);
    let length = io.read_u32().await? as usize;
    if length > HEADER_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the stream's header is too long",
        ));
    }
    let mut header = vec![0; length];
    io.read_exact(&mut header).await?;
    Ok((service, header.into()))
}

async fn refuse<S: AsyncWrite + Unpin>(mut io: S, why: &str) -> io::Result<S> {
    let words = &why.as_bytes()[..why.len().min(u16::MAX.into())];
    let mut answer = vec![VERSION, REFUSED];
    answer.extend_from_slice(&(words.len() as u16).to_be_bytes());
    answer.extend_from_slice(words);
    io.write_all(&answer).await?;
    io.flush().await?;
    Ok(io)
}

fn check_version(version: u8) -> io::Result<()> {
    if version == VERSION {
        return Ok(());
    }
    let words = format!("stream version {version} is unknown, this node speaks {VERSION}");
    Err(io::Error::new(io::ErrorKind::InvalidData, words))
}
