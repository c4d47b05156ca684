//! Readers that are slow or stall, on a node with little memory.

use std::time::Duration;

use bytes::Bytes;
use ids::NodeId;
use object_core::api::*;
use object_store::gateway::{Gateway, GatewayOptions};
use testkit::sim::block_on;
use tokio::time::sleep;

use crate::site::*;

/// Large enough to be handed out in several pieces.
const BLOCK: usize = 256 << 10;
/// More readers than there is memory for blocks.
const MANY: usize = 40;

/// A site with memory for 16 blocks of bodies on their way out.
async fn site_with_little_memory(servers: u64) -> Site {
    let little = GatewayOptions {
        block_bytes: BLOCK,
        buffer_bytes: 16 * BLOCK,
        ..options()
    };
    let site = Site::with(servers, little).await;
    let made = site.gateway(1).create_bucket(&caller(), "bucket").await;
    made.unwrap();
    site
}

/// A read that got its first bytes.
struct Begun {
    got: Got,
    first: Bytes,
}

impl Begun {
    async fn begin(gateway: &Gateway) -> Begun {
        let got = gateway.get(&caller(), get_request("bucket", "key")).await;
        let mut got = got.unwrap();
        let first = first_chunk(&mut got).await.unwrap().unwrap();
        Begun { got, first }
    }

    /// The whole body; an error when the rest breaks off.
    async fn finish(mut self) -> std::result::Result<Vec<u8>, BodyError> {
        let mut whole = self.first.to_vec();
        while let Some(chunk) = first_chunk(&mut self.got).await {
            whole.extend_from_slice(&chunk?);
        }
        Ok(whole)
    }
}

/// Reads that get their first bytes, which stay where they are, and are not asked for more.
async fn stall(gateway: &Gateway, count: usize) -> Vec<Begun> {
    let mut stalled = Vec::new();
    for _ in 0..count {
        stalled.push(Begun::begin(gateway).await);
    }
    stalled
}

#[test]
fn stalled_readers_leave_memory_for_others_and_get_the_rest_later() {
    block_on(async {
        let site = site_with_little_memory(1).await;
        let content = bytes(4 * BLOCK);
        put(site.gateway(1), "key", &content).await.unwrap();
        let stalled = stall(site.gateway(1), MANY).await;
        assert_eq!(get(site.gateway(1), "key").await.unwrap(), content);
        for begun in stalled {
            assert!(begun.first.len() < BLOCK);
            assert_eq!(begun.finish().await.unwrap(), content);
        }
    });
}

#[test]
fn stalled_readers_leave_memory_for_repair() {
    block_on(async {
        let mut site = site_with_little_memory(3).await;
        let disk = site.kill(NodeId(3));
        let content = bytes(4 * BLOCK);
        put(site.gateway(1), "key", &content).await.unwrap();
        // So long are copies on their way that the write did not wait for.
        sleep(Duration::from_secs(120)).await;
        let _stalled = stall(site.gateway(1), MANY).await;
        site.revive(NodeId(3), disk).await;
        let status = site.job(1, "repair").await;
        assert_eq!((status.last.done, status.last.left), (4, 0), "{status:?}");
    });
}

#[test]
fn a_slow_reader_may_take_its_time_while_nobody_waits() {
    block_on(async {
        let site = site_with_little_memory(1).await;
        let content = bytes(2 * BLOCK);
        put(site.gateway(1), "key", &content).await.unwrap();
        let mut begun = Begun::begin(site.gateway(1)).await;
        let mut whole = begun.first.to_vec();
        loop {
            sleep(Duration::from_secs(60)).await;
            let Some(chunk) = first_chunk(&mut begun.got).await else {
                break;
            };
            whole.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(whole, content);
    });
}

#[test]
fn a_slow_reader_is_broken_off_when_others_wait() {
    block_on(async {
        let site = site_with_little_memory(1).await;
        put(site.gateway(1), "key", &bytes(4 * BLOCK))
            .await
            .unwrap();
        let slow = Begun::begin(site.gateway(1)).await;
        sleep(Duration::from_secs(60)).await;
        let gateway = site.gateway(1).clone();
        let others = tokio::spawn(async move {
            let all = (0..10 * MANY).map(|_| Begun::begin(&gateway));
            futures::future::join_all(all).await
        });
        // Its block has given way by now, and most of the others wait for theirs.
        sleep(Duration::from_secs(3)).await;
        assert!(!others.is_finished());
        let broken = slow.finish().await.unwrap_err();
        assert!(broken.0.contains("too slowly"), "{broken:?}");
    });
}
