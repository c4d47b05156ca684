//! The connections that this node opened: per peer one for calls, and idle ones for bulk streams.
//!
//! Invariants:
//! - at most one attempt per peer is under way; whoever needs the connection waits for that attempt;
//! - after a failure calls fail at once until the backoff has passed, or the node is heard from;
//! - at most [`IDLE_MAX`] connections per peer wait for a next stream, none longer than [`IDLE_FOR_MAX`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ids::NodeId;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::connection::{CallError, Connection};
use super::core::Core;
use super::dial;
use crate::chunked::Settling;

/// Idle bulk connections per peer.
const IDLE_MAX: usize = 8;

/// How long a bulk connection may wait for its next stream.
const IDLE_FOR_MAX: Duration = Duration::from_secs(60);

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

pub(super) type BulkConnection = TlsStream<TcpStream>;

/// The peers that this node has called; as many as the address book names at most. Clones share them.
#[derive(Debug, Default, Clone)]
pub(super) struct Pool {
    peers: Arc<Mutex<BTreeMap<NodeId, Arc<Peer>>>>,
}

impl Pool {
    pub(super) fn peer(&self, core: &Arc<Core>, node: NodeId) -> Result<Arc<Peer>, CallError> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&node) {
            return Ok(peer.clone());
        }
        if core.book.address_of(node).is_none() {
            return Err(CallError::Broken("its address is not known".into()));
        }
        let peer = Arc::new(Peer {
            core: core.clone(),
            node,
            link: Mutex::default(),
            idle: Mutex::default(),
        });
        peers.insert(node, peer.clone());
        Ok(peer)
    }

    /// An authenticated connection came from the node: it is there again, so the next call of it need not wait.
    pub(super) fn heard_from(&self, node: NodeId) {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&node) {
            peer.link().end_backoff();
        }
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    core: Arc<Core>,
    node: NodeId,
    link: Mutex<Link>,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    since: Instant,
    connection: Settling<BulkConnection>,
}

type Outcome = Option<Result<Arc<Connection>, CallError>>;

#[derive(Debug, Default)]
struct Link {
    state: LinkState,
    /// Attempts in a row without one word from the other side.
    failures: u32,
}

#[derive(Debug, Default)]
enum LinkState {
    #[default]
    Down,
    Waiting {
        until: Instant,
        why: CallError,
    },
    Connecting(watch::Receiver<Outcome>),
    Up(Arc<Connection>),
}

impl Link {
    /// A closed connection is opened again at once, if it ever worked.
    fn notice_close(&mut self) {
        let LinkState::Up(connection) = &self.state else {
            return;
        };
        if connection.is_closed() {
            self.failures = if connection.was_heard() {
                0
            } else {
                self.failures + 1
            };
            let (until, why) = (
                Instant::now() + backoff(self.failures),
                connection.why_ended(),
            );
            self.state = LinkState::Waiting { until, why };
        }
    }

    /// The next call may try at once.
    fn end_backoff(&mut self) {
        self.failures = 0;
        if let LinkState::Waiting { .. } = self.state {
            self.state = LinkState::Down;
        }
    }
}

impl Peer {
    /// The connection for calls; the caller bounds the time.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, CallError> {
        let mut attempt = {
            let mut link = self.link();
            link.notice_close();
            match &link.state {
                LinkState::Up(connection) => return Ok(connection.clone()),
                LinkState::Waiting { until, why } if Instant::now() < *until => {
                    return Err(why.clone());
                }
                LinkState::Connecting(attempt) => attempt.clone(),
                LinkState::Down | LinkState::Waiting { .. } => {
                    let attempt = self.connect();
                    link.state = LinkState::Connecting(attempt.clone());
                    attempt
                }
            }
        };
        match attempt.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(CallError::Broken("this node is shutting down".into())),
        }
    }

    fn connect(self: &Arc<Self>) -> watch::Receiver<Outcome> {
        let (sender, receiver) = watch::channel(None);
        let peer = self.clone();
        self.core.spawn(async move {
            let config = peer.core.configs().node_client.clone();
            let outcome = match dial::node(&peer.core, peer.node, config).await {
                Ok(io) => Ok(Connection::start(io, &peer.core.tasks, &peer.core.stop)),
                Err(error) => Err(CallError::Broken(error.to_string())),
            };
            peer.settle(&outcome);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    fn settle(&self, outcome: &Result<Arc<Connection>, CallError>) {
        let mut link = self.link();
        link.state = match outcome {
            Ok(connection) => LinkState::Up(connection.clone()),
            Err(why) => {
                link.failures += 1;
                let until = Instant::now() + backoff(link.failures);
                LinkState::Waiting {
                    until,
                    why: why.clone(),
                }
            }
        };
    }

    /// A connection that had a stream before; the one used last comes first.
    pub(super) fn take_idle(&self) -> Option<Settling<BulkConnection>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE_FOR_MAX);
        idle.pop().map(|idle| idle.connection)
    }

    pub(super) fn keep_idle(&self, connection: Settling<BulkConnection>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE_FOR_MAX);
        if idle.len() < IDLE_MAX && !self.core.stop.is_cancelled() {
            idle.push(Idle {
                since: Instant::now(),
                connection,
            });
        }
    }

    /// Closes the idle connections: the other side seems to have gone.
    pub(super) fn drop_idle(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) async fn new_bulk(&self) -> Result<BulkConnection, CallError> {
        let config = self.core.configs().bulk_client.clone();
        let dialled = dial::node(&self.core, self.node, config).await;
        dialled.map_err(|error| CallError::Broken(error.to_string()))
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn backoff(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    BACKOFF_MIN
        .saturating_mul(1 << (failures - 1).min(10))
        .min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_bound() {
        assert_eq!(backoff(0), Duration::ZERO);
        assert_eq!(backoff(1), BACKOFF_MIN);
        assert_eq!(backoff(2), BACKOFF_MIN * 2);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_heard_from_is_dialled_at_once() {
        let mut link = Link {
            state: LinkState::Waiting {
                until: Instant::now() + BACKOFF_MAX,
                why: CallError::Broken("nobody was there".into()),
            },
            failures: 9,
        };
        link.end_backoff();
        assert!(matches!(link.state, LinkState::Down));
        assert_eq!(backoff(link.failures), Duration::ZERO);
        Pool::default().heard_from(NodeId(7));
    }
}
