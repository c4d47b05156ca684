//! What this node knows of the site's servers and placement: from the registry, else as last written to the folder.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, PoisonError, RwLock};

use ids::{Epoch, GroupId, NodeId, REGISTRY_GROUP};
use membership::EpochMap;
use membership::kinds::ServerSpec;
use object_store::placement::PlacementSource;
use raft_groups::Directory;
use serde::{Deserialize, Serialize};
use transport::tls::AddressBook;

/// Servers and maps, as they are written to the folder and given to a machine that joins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Servers by node number.
    pub servers: BTreeMap<NodeId, ServerSpec>,
    /// Maps, by epoch.
    pub maps: Vec<EpochMap>,
}

/// See the module.
#[derive(Debug)]
pub struct Topology {
    me: NodeId,
    state: RwLock<State>,
    changed: tokio::sync::Notify,
}

#[derive(Debug)]
struct State {
    servers: BTreeMap<NodeId, ServerSpec>,
    maps: BTreeMap<Epoch, Arc<EpochMap>>,
}

impl Topology {
    /// Starts from what is known.
    pub fn new(me: NodeId, known: Known) -> Self {
        let maps = known
            .maps
            .into_iter()
            .map(|map| (map.epoch(), Arc::new(map)))
            .collect();
        Topology {
            me,
            state: RwLock::new(State {
                servers: known.servers,
                maps,
            }),
            changed: tokio::sync::Notify::new(),
        }
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// All that is known.
    pub fn known(&self) -> Known {
        self.read(|state| Known {
            servers: state.servers.clone(),
            maps: state.maps.values().map(|map| (**map).clone()).collect(),
        })
    }

    /// The servers.
    pub fn servers(&self) -> BTreeMap<NodeId, ServerSpec> {
        self.read(|state| state.servers.clone())
    }

    /// Takes what the registry says; true when something changed.
    pub fn update(&self, servers: BTreeMap<NodeId, ServerSpec>, maps: Vec<EpochMap>) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        if !servers.is_empty() && state.servers != servers {
            state.servers = servers;
            changed = true;
        }
        for map in maps {
            if let Entry::Vacant(vacant) = state.maps.entry(map.epoch()) {
                vacant.insert(Arc::new(map));
                changed = true;
            }
        }
        drop(state);
        self.changed.notify_waiters();
        changed
    }

    /// Waits until a map is known.
    pub async fn wait_for_map(&self) {
        loop {
            let changed = self.changed.notified();
            if self.newest().is_some() {
                return;
            }
            changed.await;
        }
    }

    /// Notes where a node says it is, before the registry does.
    pub fn note(&self, node: NodeId, spec: ServerSpec) {
        self.state
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .servers
            .insert(node, spec);
    }

    /// The newest map, when there is one.
    pub fn newest(&self) -> Option<Arc<EpochMap>> {
        self.read(|state| state.maps.last_key_value().map(|(_, map)| map.clone()))
    }
}

impl AddressBook for Topology {
    fn address_of(&self, node: NodeId) -> Option<String> {
        self.read(|state| state.servers.get(&node).map(|spec| spec.address.clone()))
    }
}

impl Directory for Topology {
    fn voters(&self, group: GroupId) -> Vec<NodeId> {
        let Some(map) = self.newest() else {
            return Vec::new();
        };
        if group == REGISTRY_GROUP {
            map.registry_servers()
        } else {
            map.group_servers(group)
        }
    }

    fn learners(&self, group: GroupId) -> Vec<NodeId> {
        let Some(map) = self.newest() else {
            return Vec::new();
        };
        if group == REGISTRY_GROUP {
            map.registry_learners()
        } else {
            Vec::new()
        }
    }

    fn peers(&self) -> Vec<NodeId> {
        self.read(|state| {
            state
                .servers
                .keys()
                .copied()
                .filter(|node| *node != self.me)
                .collect()
        })
    }
}

impl PlacementSource for Topology {
    fn current(&self) -> Arc<EpochMap> {
        self.newest()
            .expect("the store is opened after the first map is known")
    }

    fn at(&self, epoch: Epoch) -> Option<Arc<EpochMap>> {
        self.read(|state| state.maps.get(&epoch).cloned())
    }

    fn epochs(&self) -> Vec<Epoch> {
        self.read(|state| state.maps.keys().copied().collect())
    }
}
