//! The suites, on the real and the simulated implementations.

use std::sync::Arc;

use async_trait::async_trait;
use ids::{NodeId, SiteId};
use platform::Platform;
use platform::system::SystemPlatform;
use testkit::sim::{SimDisk, SimNetwork, Trace, block_on};
use testkit::suites::{disk, transport};
use testkit::tls_site::TlsSite;

#[test]
fn the_simulated_disk_is_a_disk() {
    disk::run(|| Arc::new(SimDisk::new()));
}

#[test]
fn the_systems_disk_is_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    disk::run(|| {
        number.set(number.get() + 1);
        SystemPlatform::new(folder.path().join(number.get().to_string()))
            .unwrap()
            .disk()
    });
}

struct SimNodes(SimNetwork);

#[async_trait]
impl transport::Nodes for SimNodes {
    async fn start(&self, node: NodeId) -> Arc<dyn ::transport::Transport> {
        self.0.bring_up(node)
    }

    async fn stop(&self, node: NodeId) {
        self.0.take_down(node);
    }
}

#[test]
fn the_simulated_network_is_a_transport() {
    let run = |seed| {
        block_on(async move {
            let trace = Trace::new();
            transport::run(&SimNodes(SimNetwork::new(seed, trace.clone()))).await;
            (trace.hash(), trace.count())
        })
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_a_transport() {
    transport::run(&TlsSite::new(SiteId([7; 16]))).await;
}
