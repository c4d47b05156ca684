//! Connections as they come to a door: a bounded number in all and of each client, counted while they are open.
//!
//! A client is an address. This machine's own has no bound: proxies and tests come from there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::options::DoorObserver;

/// How long to wait after a failed accept: what fails it (no file descriptors) seldom passes at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A client gets one of so many parts of a door's connections.
const PARTS: usize = 4;

/// Where a door's connections come from.
pub struct Arrivals {
    door: &'static str,
    listener: TcpListener,
    places: Arc<Semaphore>,
    clients: Arc<Clients>,
    observer: Arc<dyn DoorObserver>,
}

/// A connection that was accepted.
pub struct Arrival {
    /// The connection.
    pub stream: TcpStream,
    /// Who opened it.
    pub peer: SocketAddr,
    /// Its place, to be held as long as it is open.
    pub place: Place,
}

/// One of a door's connections, and one of its client's; the observer knows it to be open.
pub struct Place {
    observer: Arc<dyn DoorObserver>,
    _share: Option<Share>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.observer.connection_closed();
    }
}

impl Arrivals {
    /// Those of a door with this name: at most `max` at a time, a quarter of them from one client.
    pub fn new(
        door: &'static str,
        listener: TcpListener,
        max: usize,
        observer: Arc<dyn DoorObserver>,
    ) -> Self {
        Arrivals {
            door,
            listener,
            places: Arc::new(Semaphore::new(max)),
            clients: Arc::new(Clients::new(max.div_ceil(PARTS))),
            observer,
        }
    }

    /// The next connection, when there is a place for it; further ones wait in the listener's queue. A client that has its
    /// part already is turned away. Nothing is lost when this is dropped halfway.
    pub async fn next(&self) -> Arrival {
        loop {
            // Never closed.
            let place = self.places.clone().acquire_owned().await.ok();
            let door = self.door;
            match self.listener.accept().await {
                Ok((stream, peer)) => match self.clients.take(peer.ip()) {
                    Ok(share) => return self.arrived(stream, peer, share, place),
                    Err(TooMany) => {
                        tracing::debug!(door, %peer, "a client has too many connections");
                    }
                },
                Err(error) => {
                    tracing::warn!(door, %error, "a door could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn arrived(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        share: Option<Share>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Arrival {
        self.observer.connection_opened();
        let place = Place {
            observer: self.observer.clone(),
            _share: share,
            _place: place,
        };
        Arrival {
            stream,
            peer,
            place,
        }
    }
}

/// How many connections each client has; one that has none takes no memory.
struct Clients {
    max: usize,
    open: Mutex<BTreeMap<IpAddr, usize>>,
}

/// The client has as many as it may.
#[derive(Debug)]
struct TooMany;

impl Clients {
    fn new(max: usize) -> Self {
        Clients {
            max,
            open: Mutex::default(),
        }
    }

    /// One more for a client, given back when the share is dropped; this machine needs none.
    fn take(self: &Arc<Self>, address: IpAddr) -> Result<Option<Share>, TooMany> {
        let client = address.to_canonical();
        if client.is_loopback() {
            return Ok(None);
        }
        let mut open = self.open();
        let count = open.entry(client).or_default();
        if *count >= self.max {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Some(Share {
            clients: self.clone(),
            client,
        }))
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Clients::take`].
struct Share {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicIsize, Ordering};

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_gets_its_part_and_no_more_until_a_connection_ends() {
        let clients = Arc::new(Clients::new(2));
        let take = |from: &str| clients.take(address(from));
        let (first, _second) = (take("192.0.2.1").unwrap(), take("192.0.2.1").unwrap());
        assert!(take("192.0.2.1").is_err());
        assert!(take("::ffff:192.0.2.1").is_err(), "the same in other words");
        assert!(take("192.0.2.2").unwrap().is_some());
        drop(first);
        assert!(take("192.0.2.1").is_ok());
        assert_eq!(clients.open().len(), 1);
    }

    #[test]
    fn this_machine_has_no_bound_of_its_own() {
        let clients = Arc::new(Clients::new(1));
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(clients.take(address(own)).unwrap().is_none(), "{own}");
        }
        assert!(clients.take(address("2001:db8::1")).unwrap().is_some());
    }

    /// Counts open connections.
    #[derive(Default)]
    struct Open(AtomicIsize);

    impl DoorObserver for Open {
        fn connection_opened(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn connection_closed(&self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn connections_over_the_bound_wait_for_a_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(Open::default());
        let arrivals = Arrivals::new("test", listener, 1, open.clone());
        let _clients = (
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        );
        let first = arrivals.next().await;
        assert_eq!(open.0.load(Ordering::Relaxed), 1);
        let (_second, ()) = tokio::join!(arrivals.next(), async {
            tokio::task::yield_now().await;
            assert_eq!(open.0.load(Ordering::Relaxed), 1);
            drop(first);
        });
        assert_eq!(open.0.load(Ordering::Relaxed), 1);
    }
}
