//! What differs between two maps, for `skerry placement diff` and for whoever moves data.

use ids::{Epoch, GroupId, NodeId};
use serde::Serialize;

use crate::map::{BLOCK_SLOTS, EpochMap, PlacedServer};

/// One group or slot whose servers differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// The group or slot.
    pub of: T,
    /// Its servers in the older map, first one first.
    pub before: Vec<NodeId>,
    /// Its servers in the newer map.
    pub after: Vec<NodeId>,
}

impl<T> Change<T> {
    /// Servers that get a copy.
    pub fn gained(&self) -> Vec<NodeId> {
        self.after
            .iter()
            .filter(|node| !self.before.contains(node))
            .copied()
            .collect()
    }

    /// Servers that no longer hold a copy.
    pub fn lost(&self) -> Vec<NodeId> {
        self.before
            .iter()
            .filter(|node| !self.after.contains(node))
            .copied()
            .collect()
    }
}

/// All differences between two maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacementDiff {
    /// The older map's epoch.
    pub from: Epoch,
    /// The newer map's epoch.
    pub to: Epoch,
    /// Servers of the newer map that the older one lacks or weighs differently.
    pub servers_set: Vec<PlacedServer>,
    /// Servers that the newer map lacks.
    pub servers_removed: Vec<NodeId>,
    /// Groups (the registry as group 0 included) whose members or preferred leader differ, ascending.
    pub groups: Vec<Change<GroupId>>,
    /// Block slots whose servers or their order differ, ascending.
    pub slots: Vec<Change<u16>>,
}

impl PlacementDiff {
    /// Copies of placement groups that a server has to fetch.
    pub fn group_copies_moved(&self) -> usize {
        self.groups
            .iter()
            .filter(|change| change.of.0 > 0)
            .map(|change| change.gained().len())
            .sum()
    }

    /// Copies of block slots that a server would have to fetch if old blocks followed the new map.
    pub fn slot_copies_moved(&self) -> usize {
        self.slots.iter().map(|change| change.gained().len()).sum()
    }
}

/// Compares two maps.
pub fn diff(old: &EpochMap, new: &EpochMap) -> PlacementDiff {
    let groups = (0..=old.groups().max(new.groups())).map(GroupId);
    PlacementDiff {
        from: old.epoch(),
        to: new.epoch(),
        servers_set: new
            .servers()
            .iter()
            .filter(|server| !old.servers().contains(server))
            .copied()
            .collect(),
        servers_removed: removed(old, new),
        groups: changes(groups, |&group| {
            (old.group_servers(group), new.group_servers(group))
        }),
        slots: changes(0..BLOCK_SLOTS, |&slot| {
            (old.slot_servers(slot), new.slot_servers(slot))
        }),
    }
}

fn removed(old: &EpochMap, new: &EpochMap) -> Vec<NodeId> {
    let remains = |node| new.servers().iter().any(|server| server.node == node);
    old.servers()
        .iter()
        .map(|server| server.node)
        .filter(|&node| !remains(node))
        .collect()
}

fn changes<T>(
    all: impl Iterator<Item = T>,
    of: impl Fn(&T) -> (Vec<NodeId>, Vec<NodeId>),
) -> Vec<Change<T>> {
    all.filter_map(|one| {
        let (before, after) = of(&one);
        (before != after).then_some(Change {
            of: one,
            before,
            after,
        })
    })
    .collect()
}
