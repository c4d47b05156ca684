//! Which blocks this node has, and where: in memory, rebuilt from the volumes at start.
//!
//! An entry takes 40 bytes; with the nodes of the B-tree around it, at most 64 bytes a block on average (nodes are at
//! least half full, two thirds when ids are random).

use std::collections::BTreeMap;
use std::ops::Bound;

use ids::{BlockId, GroupId, SegmentId};

use crate::volume::record::ALIGN;

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The volume's number.
    pub volume: u32,
    slot: u32,
    /// Bytes of payload.
    pub len: u32,
    /// When it was stored, in seconds since 1970.
    pub stored_s: u32,
}

impl Place {
    /// A record at `offset`, a multiple of [`ALIGN`] below 16 TiB.
    pub fn new(volume: u32, offset: u64, len: u32, stored_s: u32) -> Self {
        debug_assert!(offset.is_multiple_of(ALIGN));
        Place {
            volume,
            slot: u32::try_from(offset / ALIGN).expect("volumes are below 16 TiB"),
            len,
            stored_s,
        }
    }

    /// Where in the volume the record starts.
    pub fn offset(&self) -> u64 {
        u64::from(self.slot) * ALIGN
    }
}

/// The blocks that can be read.
#[derive(Debug, Default)]
pub struct Index {
    places: BTreeMap<BlockId, Place>,
}

impl Index {
    /// Where a block is.
    pub fn get(&self, id: &BlockId) -> Option<Place> {
        self.places.get(id).copied()
    }

    /// Adds a block; returns the place that it had before.
    pub fn insert(&mut self, id: BlockId, place: Place) -> Option<Place> {
        self.places.insert(id, place)
    }

    /// Removes a block if it is still at this place.
    pub fn remove(&mut self, id: &BlockId, place: Place) -> bool {
        let there = self.places.get(id) == Some(&place);
        if there {
            self.places.remove(id);
        }
        there
    }

    /// The first `max` entries after `after`, in order of id.
    pub fn page(&self, after: Option<BlockId>, max: usize) -> Vec<(BlockId, Place)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.places
            .range((from, Bound::Unbounded))
            .take(max)
            .map(|(id, place)| (*id, *place))
            .collect()
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The blocks of a segment.
    pub fn of_segment(
        &self,
        group: GroupId,
        segment: SegmentId,
    ) -> impl Iterator<Item = BlockId> + '_ {
        let block = |number| BlockId {
            group,
            segment,
            number,
        };
        self.places
            .range(block(0)..=block(u32::MAX))
            .map(|(id, _)| *id)
    }

    /// The first `max` blocks after `after` that were stored before `before_s`, looking at no more than `look_max`;
    /// with the id to go on after when there may be more.
    pub fn older_than(
        &self,
        before_s: u32,
        after: Option<BlockId>,
        max: usize,
        look_max: usize,
    ) -> (Vec<BlockId>, Option<BlockId>) {
        let mut found = Vec::new();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (looked, (id, place)) in self.places.range((from, Bound::Unbounded)).enumerate() {
            if place.stored_s < before_s {
                found.push(*id);
            }
            if found.len() == max || looked + 1 == look_max {
                return (found, Some(*id));
            }
        }
        (found, None)
    }
}
