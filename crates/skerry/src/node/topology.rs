//! What this node knows of the site's servers and placement: from the registry, else as last written to the folder.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use ids::{Epoch, GroupId, NodeId, REGISTRY_GROUP};
use membership::EpochMap;
use membership::kinds::ServerSpec;
use object_store::placement::PlacementSource;
use raft_groups::Directory;
use serde::{Deserialize, Serialize};
use transport::tls::{AddressBook, Admission};

/// Of servers and maps in the folder.
pub const FORMAT: u32 = 1;
/// The longest address that is taken from another server.
const ADDRESS_BYTES_MAX: usize = 300;

/// Servers and maps, as they are written to the folder and given to a machine that joins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Servers by node number.
    pub servers: BTreeMap<NodeId, ServerSpec>,
    /// Maps, by epoch.
    pub maps: Vec<EpochMap>,
    /// Nodes that must not come back.
    #[serde(default)]
    pub expelled: BTreeSet<NodeId>,
    /// Of several maps only the newest is here; the registry has the others.
    #[serde(default)]
    pub newest_only: bool,
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
    expelled: BTreeSet<NodeId>,
    newest_only: bool,
    /// Servers that said that they moved, until the registry knows better.
    moved: BTreeMap<NodeId, Moved>,
}

#[derive(Debug)]
struct Moved {
    /// What the server said.
    to: ServerSpec,
    /// What was known then. When the registry says something else, that is newer.
    from: ServerSpec,
}

impl State {
    fn server(&self, node: NodeId) -> Option<ServerSpec> {
        let mut spec = self.servers.get(&node)?.clone();
        if let Some(moved) = self.moved.get(&node) {
            spec.address.clone_from(&moved.to.address);
            spec.s3_address.clone_from(&moved.to.s3_address);
            spec.http_address.clone_from(&moved.to.http_address);
        }
        Some(spec)
    }

    fn note(&mut self, node: NodeId, spec: ServerSpec) {
        match self.servers.get(&node).cloned() {
            Some(from) => {
                self.moved.insert(node, Moved { to: spec, from });
            }
            None => {
                self.servers.insert(node, spec);
            }
        }
    }
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
                expelled: known.expelled,
                newest_only: known.newest_only,
                moved: BTreeMap::new(),
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
            expelled: state.expelled.clone(),
            newest_only: state.newest_only,
        })
    }

    /// What a newcomer is told. Maps add up for as long as a site lives, so it is told the newest one only.
    pub fn for_newcomers(&self) -> Known {
        self.read(|state| {
            let newest = state.maps.values().next_back();
            Known {
                servers: state.servers.clone(),
                maps: newest.map(|map| (**map).clone()).into_iter().collect(),
                expelled: state.expelled.clone(),
                newest_only: state.newest_only || state.maps.len() > 1,
            }
        })
    }

    /// Whether maps of earlier epochs, which the registry has, are missing here.
    pub fn lacks_maps(&self) -> bool {
        self.read(|state| state.newest_only)
    }

    /// The servers.
    pub fn servers(&self) -> BTreeMap<NodeId, ServerSpec> {
        self.read(|state| {
            let nodes = state.servers.keys();
            nodes
                .filter_map(|node| Some((*node, state.server(*node)?)))
                .collect()
        })
    }

    /// Takes what the registry says; true when something changed.
    pub fn update(&self, servers: BTreeMap<NodeId, ServerSpec>, maps: Vec<EpochMap>) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        if !servers.is_empty() && state.servers != servers {
            state.servers = servers;
            changed = true;
        }
        let State { servers, moved, .. } = &mut *state;
        moved.retain(|node, moved| servers.get(node) == Some(&moved.from));
        let newest = state.maps.last_key_value().map(|(epoch, _)| *epoch);
        // Maps are never removed: a list that is as new as what is known here has all before, too.
        if state.newest_only && maps.iter().any(|map| Some(map.epoch()) >= newest) {
            state.newest_only = false;
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

    /// Takes note of nodes that were expelled, for ever; true when one is new.
    pub fn expel(&self, nodes: BTreeSet<NodeId>) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let before = state.expelled.len();
        state.expelled.extend(nodes);
        state.expelled.len() > before
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
            .note(node, spec);
    }

    /// Takes another server's word for where it is now, until the registry has it; only of servers that are known.
    pub fn moved(&self, node: NodeId, spec: ServerSpec) -> Result<(), String> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !state.servers.contains_key(&node) {
            return Err(format!("node {node} is not known here yet"));
        }
        let addresses = [&spec.address, &spec.s3_address, &spec.http_address];
        if addresses
            .iter()
            .any(|address| address.len() > ADDRESS_BYTES_MAX)
        {
            return Err(format!("an address has at most {ADDRESS_BYTES_MAX} bytes"));
        }
        state.note(node, spec);
        Ok(())
    }

    /// The newest map, when there is one.
    pub fn newest(&self) -> Option<Arc<EpochMap>> {
        self.read(|state| state.maps.last_key_value().map(|(_, map)| map.clone()))
    }
}

impl AddressBook for Topology {
    fn address_of(&self, node: NodeId) -> Option<String> {
        self.read(|state| state.server(node).map(|spec| spec.address))
    }
}

impl Admission for Topology {
    /// Everybody with a certificate but those that were expelled: a node that this one has not heard of may have joined
    /// just now.
    fn admits(&self, node: NodeId) -> bool {
        self.read(|state| !state.expelled.contains(&node))
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

#[cfg(test)]
mod tests {
    use membership::PlacedServer;

    use super::*;

    #[test]
    fn who_was_expelled_stays_out_and_after_a_restart_too() {
        let topology = Topology::new(NodeId(1), Known::default());
        assert!(topology.admits(NodeId(2)), "it may have joined just now");
        assert!(topology.expel(BTreeSet::from([NodeId(2)])));
        assert!(!topology.expel(BTreeSet::from([NodeId(2)])));
        // The registry's cache is empty until it has read its first list.
        assert!(!topology.expel(BTreeSet::new()));
        assert!(!topology.admits(NodeId(2)) && topology.admits(NodeId(3)));
        let text = serde_json::to_string(&topology.known()).unwrap();
        let again = Topology::new(NodeId(1), serde_json::from_str(&text).unwrap());
        assert!(!again.admits(NodeId(2)));
    }

    fn at(address: &str) -> ServerSpec {
        ServerSpec {
            address: address.into(),
            s3_address: String::new(),
            http_address: String::new(),
            weight: 100,
            joined_ms: 0,
            capacity_bytes: 0,
        }
    }

    #[test]
    fn a_server_that_moved_is_believed_until_the_registry_says_otherwise() {
        let registry = |address: &str| BTreeMap::from([(NodeId(2), at(address))]);
        let topology = Topology::new(NodeId(1), Known::default());
        let address = || topology.address_of(NodeId(2));
        assert!(topology.moved(NodeId(2), at("new:1")).is_err(), "unknown");
        topology.update(registry("old:1"), Vec::new());
        topology.moved(NodeId(2), at("new:1")).unwrap();
        assert_eq!(address().as_deref(), Some("new:1"));
        // What the registry said before says nothing about the move.
        topology.update(registry("old:1"), Vec::new());
        assert_eq!(address().as_deref(), Some("new:1"));
        assert_eq!(topology.servers()[&NodeId(2)].address, "new:1");
        assert_eq!(topology.known().servers, registry("old:1"));
        topology.update(registry("newer:1"), Vec::new());
        assert_eq!(address().as_deref(), Some("newer:1"));
        let long = at(&"x".repeat(ADDRESS_BYTES_MAX + 1));
        assert!(topology.moved(NodeId(2), long).is_err());
    }

    fn map(epoch: u64) -> EpochMap {
        let server = PlacedServer {
            node: NodeId(1),
            weight: 100,
        };
        EpochMap::first(Epoch(epoch), 1, &[server]).unwrap()
    }

    #[test]
    fn a_newcomer_is_told_the_newest_map_and_gets_the_others_from_the_registry() {
        let update = |topology: &Topology, epochs: &[u64]| {
            let maps = epochs.iter().map(|epoch| map(*epoch)).collect();
            topology.update(BTreeMap::new(), maps)
        };
        let server = Topology::new(NodeId(1), Known::default());
        assert!(server.for_newcomers().maps.is_empty());
        update(&server, &[1]);
        assert!(!server.for_newcomers().newest_only, "it is the only one");
        update(&server, &[1, 2, 3]);
        let told = server.for_newcomers();
        assert_eq!(told.maps, [map(3)]);

        let newcomer = Topology::new(NodeId(2), told);
        assert_eq!(newcomer.epochs(), [Epoch(3)]);
        // Its copy of the registry is empty at first, and may be behind then.
        assert!(newcomer.lacks_maps() && !update(&newcomer, &[]));
        update(&newcomer, &[1]);
        let newcomer = Topology::new(NodeId(2), newcomer.known());
        assert!(newcomer.lacks_maps(), "after a restart too");
        assert!(update(&newcomer, &[1, 2, 3]));
        assert!(!newcomer.lacks_maps());
        assert_eq!(newcomer.epochs(), [1, 2, 3].map(Epoch));
    }

    #[test]
    fn what_an_earlier_program_wrote_down_is_read() {
        let known: Known = serde_json::from_str(r#"{"servers":{},"maps":[]}"#).unwrap();
        assert_eq!(known, Known::default());
    }
}
