//! Opens TCP and TLS connections to nodes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ids::NodeId;
use rustix::net::sockopt;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::expected_name;
use super::core::Core;
use crate::chunked::STALL_MAX;

/// How long it may take until both sides know each other.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Connects to `node` and checks that it is that node.
pub(super) async fn node(
    core: &Core,
    node: NodeId,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "its address is not known");
    let at = core.book.address_of(node).ok_or_else(unknown)?;
    let name = expected_name(core.site, node);
    let within = timeout(HANDSHAKE_MAX, address(&at, name, config)).await;
    within.map_err(|_| timed_out(&at))?
}

/// Connects to an address and verifies the server by `config`; the caller bounds the time.
pub(super) async fn address(
    address: &str,
    name: ServerName<'static>,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tune(&tcp)?;
    TlsConnector::from(config).connect(name, tcp).await
}

/// Small messages leave at once; a peer that vanished is noticed within half a minute.
pub(super) fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(tcp, STALL_MAX.as_millis() as u32)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(tcp, 3)?;
    Ok(())
}

fn timed_out(address: &str) -> io::Error {
    let words = format!("{address} did not finish the handshake within {HANDSHAKE_MAX:?}");
    io::Error::new(io::ErrorKind::TimedOut, words)
}
