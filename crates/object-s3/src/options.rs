//! What the door is given: its bounds, the keys it trusts, and whom it tells about requests.

use std::sync::Arc;
use std::time::Duration;

use object_core::api::Caller;
use tokio_rustls::rustls::ServerConfig;

/// One access key: its secret, and who signs with it.
#[derive(Clone)]
pub struct KeyEntry {
    /// The secret that requests are signed with.
    pub secret: String,
    /// The user that the key belongs to.
    pub caller: Caller,
}

/// The access keys that are valid now.
pub trait KeyDirectory: Send + Sync + 'static {
    /// The key's entry, or `None` when there is no such key (any more). Asked twice per request: must be a local look-up.
    fn find(&self, access_key: &str) -> Option<KeyEntry>;

    /// Whether a key that [`KeyDirectory::find`] doesn't find surely isn't one. Otherwise the client is told to come again.
    fn is_up_to_date(&self) -> bool {
        true
    }
}

/// Gives the TLS configuration for the next connection; `None` serves plain HTTP.
pub type TlsSource = Arc<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>;

/// Is told about connections, and about every request when its answer was sent or broke off.
pub trait DoorObserver: Send + Sync + 'static {
    /// `operation` is S3's name for it, or `Refused` when the request was answered before it was understood; `status` is 0
    /// when it was broken off without an answer.
    fn request(&self, operation: &'static str, status: u16, micros: u64) {
        let _ = (operation, status, micros);
    }

    /// A client connected.
    fn connection_opened(&self) {}

    /// A client's connection ended.
    fn connection_closed(&self) {}
}

/// Tells nobody.
pub(crate) struct NoObserver;

impl DoorObserver for NoObserver {}

/// Bounds and names of a door.
#[derive(Clone)]
pub struct DoorOptions {
    /// The region that the door answers for.
    pub region: String,
    /// Domains below which a host names a bucket (`bucket.domain`), without port. Path style works with every host.
    pub base_domains: Vec<String>,
    /// The most connections at a time; further ones wait in the listener's queue. A client on another machine gets a
    /// quarter of them.
    pub max_connections: usize,
    /// The most requests at a time, their bodies included; further ones are answered `SlowDown`.
    pub max_requests: usize,
    /// The most bytes of a request's line and headers; at least 8 KiB.
    pub header_bytes_max: usize,
    /// How long TLS and a request's headers may take; an idle connection is closed after this time too.
    pub header_timeout: Duration,
    /// How long a client may be waited for while less than 64 KiB of a body move, in or out, and more are left; then
    /// the connection ends.
    pub body_idle_timeout: Duration,
    /// The most bytes of an XML body.
    pub xml_bytes_max: usize,
    /// The most bytes of one chunk of a signed aws-chunked body: it is held in memory until its signature was checked.
    pub chunk_bytes_max: usize,
    /// The most bytes of bodies that are held in memory, of all requests together: XML, and signed chunks beyond their
    /// first 64 KiB. Who finds no room for a while is answered `SlowDown`.
    pub held_bytes_max: usize,
    /// How far a client's clock may be off.
    pub clock_skew: Duration,
    /// How long requests in progress may go on after a shutdown was asked for.
    pub drain_timeout: Duration,
    /// Where request ids start; a random number, so that ids differ between runs.
    pub request_id_seed: u64,
    /// Is told about every request.
    pub observer: Arc<dyn DoorObserver>,
}

impl Default for DoorOptions {
    fn default() -> Self {
        DoorOptions {
            region: "us-east-1".into(),
            base_domains: vec!["s3.localhost".into(), "localhost".into()],
            max_connections: 4096,
            max_requests: 1024,
            header_bytes_max: 64 << 10,
            header_timeout: Duration::from_secs(30),
            body_idle_timeout: Duration::from_secs(30),
            xml_bytes_max: 2 << 20,
            chunk_bytes_max: 2 << 20,
            held_bytes_max: 64 << 20,
            clock_skew: Duration::from_secs(15 * 60),
            drain_timeout: Duration::from_secs(30),
            request_id_seed: 0,
            observer: Arc::new(NoObserver),
        }
    }
}
