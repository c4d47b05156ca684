//! The suites, on the real and the simulated implementations.

use std::sync::Arc;

use async_trait::async_trait;
use ids::{NodeId, SiteId};
use platform::Platform;
use platform::system::SystemPlatform;
use raft_machine::local::LocalGroups;
use raft_machine::memory::MemoryStore;
use raft_machine::{Batch, View};
use testkit::sim::{SimDisk, SimNetwork, Trace, block_on};
use testkit::suites::{disk, groups, store, transport};
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

struct InMemory(MemoryStore);

impl store::Store for InMemory {
    fn write(&mut self, work: &mut dyn FnMut(&mut dyn Batch)) {
        work(&mut self.0);
    }

    fn read(&self, look: &mut dyn FnMut(&dyn View)) {
        look(&self.0);
    }
}

#[test]
fn the_store_in_memory_is_a_store() {
    store::run(|| InMemory(MemoryStore::default()));
}

#[test]
fn the_groups_in_memory_are_groups() {
    block_on(async {
        let local = LocalGroups::new();
        local.register(groups::GROUP, groups::machine());
        for round in 0..2 {
            groups::run(&local, round).await;
        }
    });
}
