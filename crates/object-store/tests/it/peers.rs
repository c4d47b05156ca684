//! How a node asks its peers for blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ids::{BlockId, GroupId, NodeId, SegmentId};
use object_store::service::{BlockPeers, CopyError};
use object_store::volume::{BlockStore, StoreOptions};
use testkit::sim::{SimDisk, SimPlatform, SimPlatformConfig, block_on};
use transport::{BulkStream, Handler, Service, Transport, TransportError};

/// Opens each stream for so long, then refuses it; counts those that are open at one time.
struct Refusing {
    after: Duration,
    open: AtomicUsize,
    most: AtomicUsize,
    total: AtomicUsize,
}

impl Refusing {
    fn new(after: Duration) -> Arc<Refusing> {
        Arc::new(Refusing {
            after,
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl Transport for Refusing {
    async fn call(
        &self,
        to: NodeId,
        _service: Service,
        _body: Bytes,
        _deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        Err(TransportError::DeadlineExceeded(to))
    }

    async fn stream(
        &self,
        to: NodeId,
        _service: Service,
        _header: Bytes,
    ) -> Result<BulkStream, TransportError> {
        self.total.fetch_add(1, Ordering::Relaxed);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(open, Ordering::Relaxed);
        tokio::time::sleep(self.after).await;
        self.open.fetch_sub(1, Ordering::Relaxed);
        Err(TransportError::Refused {
            node: to,
            why: "a test".into(),
        })
    }

    fn serve(&self, _service: Service, _handler: Arc<dyn Handler>) {}
}

/// Sends blocks that go by stream to each of these nodes, all at one time.
async fn put_to(transport: Arc<Refusing>, nodes: &[u64], blocks: u32) -> Vec<CopyError> {
    let platform = SimPlatform::new(SimDisk::new(), SimPlatformConfig::default());
    let store = BlockStore::open(platform.clone(), StoreOptions::default())
        .await
        .unwrap();
    let peers = BlockPeers::new(NodeId(1), Arc::new(store), transport, platform);
    let data = Bytes::from(vec![7; 2 << 20]);
    let peers = &peers;
    let mut puts = Vec::new();
    for node in nodes {
        for number in 0..blocks {
            let id = BlockId {
                group: GroupId(1),
                segment: SegmentId([1; 16]),
                number,
            };
            let data = data.clone();
            puts.push(async move { peers.put(NodeId(*node), id, [0; 32], data).await });
        }
    }
    let results = futures::future::join_all(puts).await;
    results.into_iter().map(Result::unwrap_err).collect()
}

#[test]
fn streams_to_a_peer_wait_for_each_other_and_not_for_those_to_others() {
    block_on(async {
        let transport = Refusing::new(Duration::from_millis(10));
        put_to(transport.clone(), &[2], 100).await;
        assert_eq!(transport.most.load(Ordering::Relaxed), 48);
        assert_eq!(transport.total.load(Ordering::Relaxed), 100);
        let transport = Refusing::new(Duration::from_millis(10));
        put_to(transport.clone(), &[2, 3], 60).await;
        assert_eq!(transport.most.load(Ordering::Relaxed), 96);
    });
}

#[test]
fn who_finds_no_place_for_a_stream_is_told_by_the_deadline() {
    block_on(async {
        let transport = Refusing::new(Duration::from_secs(1_000_000));
        let began = tokio::time::Instant::now();
        let errors = put_to(transport, &[2], 100).await;
        assert!(
            began.elapsed() < Duration::from_secs(31),
            "{:?}",
            began.elapsed()
        );
        assert!(
            errors
                .iter()
                .all(|error| matches!(error, CopyError::Unreachable(_))),
            "{errors:?}"
        );
    });
}
