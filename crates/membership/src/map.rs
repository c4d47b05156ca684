//! The placement map of a site: one [`EpochMap`] per epoch says which servers hold what.
//!
//! The table of groups is part of the record, because it depends on the maps before (see `groups.rs`); block slots are
//! computed from the servers alone and are not stored. A map never changes: a new list of servers makes a new epoch, and
//! blocks are found by the epoch that they were written in.
//!
//! A server of weight 0 is about to leave: it is listed, but holds nothing and has no vote.

use std::collections::BTreeMap;
use std::sync::Arc;

use ids::{BlockId, Epoch, GroupId, NodeId, REGISTRY_GROUP};
use serde::{Deserialize, Serialize};

use crate::groups::{Before, place};
use crate::rendezvous::{Table, first_eight, rank};

/// Copies of a group and of a block, as long as there are that many servers.
pub const COPIES: usize = 3;
/// Block slots of a map.
pub const BLOCK_SLOTS: u16 = 4096;
/// Most servers of a map.
pub const SERVERS_MAX: usize = 256;
/// Most placement groups of a site.
pub const GROUPS_MAX: u32 = 4096;
/// Most voters of the registry.
pub const REGISTRY_VOTERS_MAX: usize = 5;
/// The way in which block slots are computed; a record of another one is refused.
pub const ALGORITHM: u8 = 1;

/// A server and its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlacedServer {
    /// The server.
    pub node: NodeId,
    /// Its share relative to the others'; 0 for one that is about to leave.
    pub weight: u32,
}

/// A list of servers or a record from which no map can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Nobody could hold anything.
    #[error("no server has a weight above 0: a site needs at least one")]
    NoServers,
    /// The list is longer than [`SERVERS_MAX`].
    #[error("{0} servers are more than the {SERVERS_MAX} that a site may have")]
    TooManyServers(usize),
    /// One node is listed twice.
    #[error("node {0} is listed twice")]
    Twice(NodeId),
    /// Not between 1 and [`GROUPS_MAX`].
    #[error("a site has between 1 and {GROUPS_MAX} placement groups, not {0}")]
    Groups(u32),
    /// An epoch that isn't newer than the one before.
    #[error("epoch {next} doesn't follow epoch {before}")]
    Epoch {
        /// The map's epoch.
        before: Epoch,
        /// The epoch that was asked for.
        next: Epoch,
    },
    /// A record made in another way than this program knows.
    #[error(
        "the map of epoch {epoch} uses placement {found}, this program knows {ALGORITHM}: upgrade this node"
    )]
    Algorithm {
        /// The record's epoch.
        epoch: Epoch,
        /// The record's algorithm.
        found: u8,
    },
    /// The record contradicts itself.
    #[error("the map of epoch {0} is damaged: {1}")]
    Damaged(Epoch, &'static str),
}

/// Who stores what in one epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
pub struct EpochMap {
    record: Record,
    /// Positions in `record.servers`, best first; `copies` of each row are in use.
    block_slots: Arc<[[u8; COPIES]]>,
    copies: usize,
}

/// What is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    algorithm: u8,
    epoch: Epoch,
    servers: Vec<PlacedServer>,
    /// Row 0 is group 1; the preferred leader is first.
    groups: Vec<Vec<NodeId>>,
}

impl PartialEq for EpochMap {
    fn eq(&self, other: &Self) -> bool {
        self.record == other.record
    }
}

impl Eq for EpochMap {}

impl From<EpochMap> for Record {
    fn from(map: EpochMap) -> Record {
        map.record
    }
}

impl TryFrom<Record> for EpochMap {
    type Error = MapError;

    fn try_from(record: Record) -> Result<Self, MapError> {
        record.check()?;
        let copies = COPIES.min(
            record
                .servers
                .iter()
                .filter(|server| server.weight > 0)
                .count(),
        );
        let block_slots = (0..u32::from(BLOCK_SLOTS))
            .map(|slot| slot_row(slot, &record.servers))
            .collect();
        Ok(EpochMap {
            record,
            block_slots,
            copies,
        })
    }
}

fn slot_row(slot: u32, servers: &[PlacedServer]) -> [u8; COPIES] {
    let mut row = [0; COPIES];
    for (cell, at) in row.iter_mut().zip(rank(Table::Blocks, slot, servers)) {
        *cell = at as u8; // SERVERS_MAX is 256.
    }
    row
}

impl Record {
    fn check(&self) -> Result<(), MapError> {
        let damaged = |why| MapError::Damaged(self.epoch, why);
        if self.algorithm != ALGORITHM {
            return Err(MapError::Algorithm {
                epoch: self.epoch,
                found: self.algorithm,
            });
        }
        check_servers(&self.servers)?;
        if !self.servers.is_sorted() {
            return Err(damaged("its servers are not sorted"));
        }
        check_groups(self.groups.len().try_into().unwrap_or(u32::MAX))?;
        let usable: BTreeMap<NodeId, u32> = self
            .servers
            .iter()
            .filter(|server| server.weight > 0)
            .map(|server| (server.node, 0))
            .collect();
        for members in &self.groups {
            let mut sorted = members.clone();
            sorted.sort();
            sorted.dedup();
            if sorted.len() != members.len() || members.len() != COPIES.min(usable.len()) {
                return Err(damaged("a group has a wrong number of servers"));
            }
            if !members.iter().all(|node| usable.contains_key(node)) {
                return Err(damaged("a group names a server that isn't listed"));
            }
        }
        Ok(())
    }
}

fn check_servers(servers: &[PlacedServer]) -> Result<(), MapError> {
    if servers.len() > SERVERS_MAX {
        return Err(MapError::TooManyServers(servers.len()));
    }
    if servers.iter().all(|server| server.weight == 0) {
        return Err(MapError::NoServers);
    }
    let mut nodes: Vec<NodeId> = servers.iter().map(|server| server.node).collect();
    nodes.sort();
    match nodes.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(MapError::Twice(pair[0])),
        None => Ok(()),
    }
}

fn check_groups(groups: u32) -> Result<(), MapError> {
    if groups == 0 || groups > GROUPS_MAX {
        Err(MapError::Groups(groups))
    } else {
        Ok(())
    }
}

impl EpochMap {
    /// The first map of a site with `groups` placement groups; their number never changes.
    pub fn first(epoch: Epoch, groups: u32, servers: &[PlacedServer]) -> Result<Self, MapError> {
        check_groups(groups)?;
        Self::make(epoch, vec![Vec::new(); groups as usize], servers)
    }

    /// The map after this one for another list of servers; moves as little as balance allows.
    pub fn next(&self, epoch: Epoch, servers: &[PlacedServer]) -> Result<Self, MapError> {
        if epoch <= self.epoch() {
            return Err(MapError::Epoch {
                before: self.epoch(),
                next: epoch,
            });
        }
        Self::make(epoch, self.record.groups.clone(), servers)
    }

    fn make(
        epoch: Epoch,
        before: Vec<Vec<NodeId>>,
        servers: &[PlacedServer],
    ) -> Result<Self, MapError> {
        check_servers(servers)?;
        let mut servers = servers.to_vec();
        servers.sort();
        let position = |node: &NodeId| {
            servers
                .iter()
                .position(|server| server.node == *node && server.weight > 0)
        };
        let before = before
            .iter()
            .map(|nodes| Before {
                members: nodes.iter().filter_map(position).collect(),
                leader: nodes.first().and_then(position),
            })
            .collect();
        let named = |members: Vec<usize>| members.into_iter().map(|at| servers[at].node).collect();
        let groups = place(before, &servers).into_iter().map(named).collect();
        Record {
            algorithm: ALGORITHM,
            epoch,
            groups,
            servers,
        }
        .try_into()
    }

    /// The version of this map.
    pub fn epoch(&self) -> Epoch {
        self.record.epoch
    }

    /// How many placement groups there are; they are numbered from 1.
    pub fn groups(&self) -> u32 {
        self.record.groups.len() as u32
    }

    /// All placement groups, ascending.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=self.groups()).map(GroupId)
    }

    /// The servers, ascending by node, also those of weight 0.
    pub fn servers(&self) -> &[PlacedServer] {
        &self.record.servers
    }

    /// How many copies of each block and group there are: 3, or as many as there are servers.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// The servers of a group; the first is the preferred leader. Group 0 is the registry; an unknown group has none.
    pub fn group_servers(&self, group: GroupId) -> Vec<NodeId> {
        if group == REGISTRY_GROUP {
            return self.registry_servers();
        }
        let row = (group.0 as usize).checked_sub(1);
        row.and_then(|row| self.record.groups.get(row))
            .cloned()
            .unwrap_or_default()
    }

    /// The groups that a server is a member of, ascending, without the registry.
    pub fn groups_of(&self, node: NodeId) -> Vec<GroupId> {
        self.group_ids()
            .filter(|group| self.record.groups[group.0 as usize - 1].contains(&node))
            .collect()
    }

    /// The servers of a block, best first.
    pub fn block_servers(&self, block: &BlockId) -> Vec<NodeId> {
        self.slot_servers(block_slot(block))
    }

    /// The servers of a block slot, best first; an unknown slot has none.
    pub fn slot_servers(&self, slot: u16) -> Vec<NodeId> {
        let row = self
            .block_slots
            .get(usize::from(slot))
            .map_or(&[][..], |row| &row[..self.copies]);
        row.iter()
            .map(|&at| self.record.servers[usize::from(at)].node)
            .collect()
    }

    /// The voters of the registry: the servers that joined first (lowest node ids), so that a newcomer displaces nobody.
    /// Their number is odd (1, 3 or 5) but for a site of two servers, where both vote so that both have a copy. The first
    /// is the preferred leader.
    pub fn registry_servers(&self) -> Vec<NodeId> {
        let usable = self.usable();
        let voters = match usable.len() {
            2 => 2,
            n => (n.min(REGISTRY_VOTERS_MAX) - 1) | 1,
        };
        usable[..voters].to_vec()
    }

    /// The servers that follow the registry without a vote.
    pub fn registry_learners(&self) -> Vec<NodeId> {
        let voters = self.registry_servers().len();
        self.usable().split_off(voters)
    }

    fn usable(&self) -> Vec<NodeId> {
        self.record
            .servers
            .iter()
            .filter(|server| server.weight > 0)
            .map(|server| server.node)
            .collect()
    }
}

/// The slot of a block: the first 12 bits that a hash of the id gives.
pub fn block_slot(block: &BlockId) -> u16 {
    (first_eight(&blake3::hash(&block.to_bytes())) % u64::from(BLOCK_SLOTS)) as u16
}
