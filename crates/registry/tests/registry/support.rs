//! Two kinds of resources, a source of ids, and a site of one node in memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ids::{OperationId, REGISTRY_GROUP};
use raft_machine::local::LocalGroups;
use raft_machine::memory::MemoryStore;
use raft_machine::{Machine, encode};
use registry::machine::{decode_answer, decode_response};
use registry::query::{Answer, QUERY_FORMAT, Query};
use registry::*;
use serde::{Deserialize, Serialize};

/// A network; ports belong to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Net;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetSpec {
    pub vni: u32,
}

impl Kind for Net {
    const API_VERSION: &'static str = "test/v1";
    const KIND: &'static str = "Net";
    const FORMAT: u8 = 1;
    type Spec = NetSpec;
    type Status = ();
}

/// A port, indexed by its host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Port;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortSpec {
    pub host: String,
    pub note: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    pub up: bool,
}

impl Kind for Port {
    const API_VERSION: &'static str = "test/v1";
    const KIND: &'static str = "Port";
    const FORMAT: u8 = 1;
    type Spec = PortSpec;
    type Status = PortStatus;

    fn indexes(spec: &PortSpec) -> Vec<(&'static str, String)> {
        vec![("host", spec.host.clone())]
    }
}

pub fn on_host(host: &str) -> PortSpec {
    PortSpec {
        host: host.into(),
        note: String::new(),
    }
}

/// Counts instead of drawing.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    fn next(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&(self.0.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes());
        bytes
    }
}

impl IdSource for Counter {
    fn uid(&self) -> Uid {
        Uid(self.next())
    }

    fn operation(&self) -> OperationId {
        OperationId(self.next())
    }

    fn wall_ms(&self) -> u64 {
        1_000
    }
}

pub fn history(changes_max: u64) -> RegistryOptions {
    RegistryOptions {
        history: History {
            changes_max,
            bytes_max: u64::MAX,
        },
    }
}

/// A site of one node in memory.
pub fn site(options: RegistryOptions) -> (Registry, LocalGroups) {
    let (groups, signal) = (LocalGroups::new(), ChangeSignal::new());
    let machine = RegistryMachine::new(signal.clone(), options);
    groups.register(REGISTRY_GROUP, Arc::new(machine));
    let ids = Arc::new(Counter::default());
    (
        Registry::new(Arc::new(groups.clone()), REGISTRY_GROUP, ids, signal),
        groups,
    )
}

/// Fails a test that would hang.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("the test hangs")
}

/// The state machine without a client.
pub struct Bare {
    machine: RegistryMachine,
    pub store: MemoryStore,
}

impl Bare {
    pub fn new(options: RegistryOptions) -> Self {
        let machine = RegistryMachine::new(ChangeSignal::new(), options);
        Bare {
            machine,
            store: MemoryStore::default(),
        }
    }

    pub fn command(&mut self, command: &Command) -> Response {
        let response = self
            .machine
            .apply(&mut self.store, 0, &command.encode())
            .unwrap();
        decode_response(&response.into()).unwrap()
    }

    pub fn transact(&mut self, ops: Vec<Op>) -> Response {
        self.command(&Command::Transact(Transaction {
            ops,
            ..Transaction::default()
        }))
    }

    pub fn query(&self, query: &Query) -> Answer {
        let answer = self
            .machine
            .query(&self.store, &encode(QUERY_FORMAT, query))
            .unwrap();
        decode_answer(&answer.into()).unwrap()
    }
}

/// A draft with one byte of spec, the value of its only index too.
pub fn draft(kind: &str, name: &str, uid: u8, spec: u8) -> Draft {
    Draft {
        kind: kind.into(),
        name: name.into(),
        uid: Uid([uid; 16]),
        spec: vec![spec].into(),
        indexes: vec![("spec".into(), spec.to_string())],
        labels: BTreeMap::from([("spec".into(), spec.to_string())]),
        ..Draft::default()
    }
}

pub fn create(draft: Draft) -> Op {
    Op::Create(Box::new(draft))
}

pub fn delete(kind: &str, name: &str) -> Op {
    Op::Delete(ResourceKey::new(kind, name), Expected::default(), 7)
}

impl Bare {
    /// How many keys the store would have with nothing in it but the change log and its counters.
    pub fn store_log_only(&self) -> usize {
        use raft_machine::View;
        let mut count = 0;
        self.store
            .scan(&[2], Some(&[4]), &mut |_, _| {
                count += 1;
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        count
    }
}
