//! Where each live entry stands, and which segments still hold one. Pure: fed with records in the log's order.
//!
//! ```text
//!  group 3   state { vote, purged 9, first 10, next 13 }
//!            places  10 → (seg 1, @64, 300)   11 → (seg 2, @128, 80)   12 → (seg 2, @240, 80)
//!  live      seg 1: 1   seg 2: 2
//! ```
//!
//! Invariants:
//! - a segment's live count is the number of places that name it;
//! - places of a group name ascending segments: the first place is the oldest;
//! - while the log is recovered, `places` may be shorter than `first..next`, its beginning missing: those entries stood
//!   in segments that are gone, so later records must void them. [`Index::missing`] says where they didn't.
//!
//! It holds what is written, not what is queued: the driver keeps the queued part in its cache.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ids::GroupId;

use crate::record::{Kind, Record};
use crate::state::{GroupState, decode_checkpoint};

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u64,
    pub offset: u32,
    /// Bytes of the payload.
    pub len: u32,
}

#[derive(Debug, Default)]
struct GroupLog {
    state: GroupState,
    places: VecDeque<Place>,
}

impl GroupLog {
    /// The index of the first entry whose place is known.
    fn placed_from(&self) -> u64 {
        self.state.next - self.places.len() as u64
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    groups: BTreeMap<GroupId, GroupLog>,
    live: BTreeMap<u64, u64>,
}

impl Index {
    /// Takes in the next record of the log. Says in words why it doesn't fit what came before.
    pub(crate) fn apply(&mut self, record: &Record<'_>, place: Place) -> Result<(), String> {
        match record.kind {
            Kind::Entry => self.append(record.group, record.index, place)?,
            Kind::Vote => {
                let log = self.groups.entry(record.group).or_default();
                log.state.vote = Some(Bytes::copy_from_slice(record.payload));
            }
            Kind::Truncate => self.truncate(record.group, record.index)?,
            Kind::Purge => self.purge(
                record.group,
                record.index,
                Bytes::copy_from_slice(record.payload),
            ),
            Kind::Drop => self.drop_group(record.group),
            Kind::Checkpoint => self.install(record)?,
            Kind::Seal => {}
        }
        Ok(())
    }

    fn append(&mut self, group: GroupId, index: u64, place: Place) -> Result<(), String> {
        let log = self.groups.entry(group).or_default();
        log.state
            .check_append(group, index)
            .map_err(|error| error.to_string())?;
        log.state.append(index, 1);
        log.places.push_back(place);
        *self.live.entry(place.segment).or_default() += 1;
        Ok(())
    }

    fn truncate(&mut self, group: GroupId, index: u64) -> Result<(), String> {
        let log = self.groups.entry(group).or_default();
        log.state
            .check_truncate(group, index)
            .map_err(|error| error.to_string())?;
        let keep = index
            .saturating_sub(log.placed_from())
            .min(log.places.len() as u64);
        log.state.truncate(index);
        let voided = log.places.split_off(keep as usize);
        release(&mut self.live, voided);
        Ok(())
    }

    fn purge(&mut self, group: GroupId, through: u64, mark: Bytes) {
        let log = self.groups.entry(group).or_default();
        let voided = through
            .saturating_add(1)
            .saturating_sub(log.placed_from())
            .min(log.places.len() as u64);
        log.state.purge(through, mark);
        release(&mut self.live, log.places.drain(..voided as usize));
    }

    fn drop_group(&mut self, group: GroupId) {
        if let Some(log) = self.groups.remove(&group) {
            release(&mut self.live, log.places);
        }
    }

    fn install(&mut self, record: &Record<'_>) -> Result<(), String> {
        let state = decode_checkpoint(record.index, record.payload)
            .ok_or("the checkpoint makes no sense")?;
        match self.groups.insert(
            record.group,
            GroupLog {
                state,
                places: VecDeque::new(),
            },
        ) {
            Some(_) => Err(format!("the checkpoint names group {} twice", record.group)),
            None => Ok(()),
        }
    }

    /// The place of an entry, when the log holds it.
    pub(crate) fn place(&self, group: GroupId, index: u64) -> Option<Place> {
        let log = self.groups.get(&group)?;
        let at = index.checked_sub(log.placed_from())?;
        log.places.get(usize::try_from(at).ok()?).copied()
    }

    /// Every group's small state.
    pub(crate) fn states(&self) -> BTreeMap<GroupId, GroupState> {
        self.groups
            .iter()
            .map(|(group, log)| (*group, log.state.clone()))
            .collect()
    }

    /// Whether a segment holds a live entry.
    pub(crate) fn is_live(&self, segment: u64) -> bool {
        self.live.contains_key(&segment)
    }

    /// The groups with live entries in segments before `segment`, each with the last index that stands there.
    pub(crate) fn pinning_before(&self, segment: u64) -> Vec<(GroupId, u64)> {
        let pinning = |(group, log): (&GroupId, &GroupLog)| {
            let count = log.places.partition_point(|place| place.segment < segment) as u64;
            (count > 0).then(|| (*group, log.placed_from() + count - 1))
        };
        self.groups.iter().filter_map(pinning).collect()
    }

    /// A group whose entries stood in segments that are gone, and the first such entry.
    pub(crate) fn missing(&self) -> Option<(GroupId, u64)> {
        let short = |log: &GroupLog| log.placed_from() > log.state.first;
        self.groups
            .iter()
            .find(|(_, log)| short(log))
            .map(|(group, log)| (*group, log.state.first))
    }
}

fn release(live: &mut BTreeMap<u64, u64>, places: impl IntoIterator<Item = Place>) {
    for place in places {
        if let Some(count) = live.get_mut(&place.segment) {
            *count -= 1;
            if *count == 0 {
                live.remove(&place.segment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::encode_checkpoint;

    const GROUP: GroupId = GroupId(3);

    fn apply(index: &mut Index, kind: Kind, at: u64, segment: u64) -> Result<(), String> {
        let record = Record {
            kind,
            group: GROUP,
            index: at,
            payload: b"x",
        };
        index.apply(
            &record,
            Place {
                segment,
                offset: at as u32 * 8,
                len: 1,
            },
        )
    }

    #[test]
    fn live_counts_follow_truncation_purge_and_drop() {
        let mut index = Index::default();
        for (at, segment) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)] {
            apply(&mut index, Kind::Entry, at, segment).unwrap();
        }
        assert_eq!(index.pinning_before(2), [(GROUP, 1)]);
        assert_eq!(index.pinning_before(3), [(GROUP, 3)]);
        apply(&mut index, Kind::Truncate, 4, 3).unwrap();
        assert!(!index.is_live(3) && index.is_live(2));
        apply(&mut index, Kind::Purge, 1, 3).unwrap();
        assert!(!index.is_live(1) && index.is_live(2));
        assert_eq!(index.place(GROUP, 1), None);
        assert_eq!(
            index.place(GROUP, 2),
            Some(Place {
                segment: 2,
                offset: 16,
                len: 1
            })
        );
        apply(&mut index, Kind::Drop, 0, 3).unwrap();
        assert!(!index.is_live(2) && index.states().is_empty());
    }

    #[test]
    fn a_gap_is_refused() {
        let mut index = Index::default();
        apply(&mut index, Kind::Entry, 5, 1).unwrap();
        assert!(apply(&mut index, Kind::Entry, 7, 1).is_err());
    }

    #[test]
    fn entries_of_lost_segments_are_missed_until_they_are_voided() {
        let state = GroupState {
            next: 10,
            ..GroupState::default()
        };
        let payload = encode_checkpoint(&state);
        let record = Record {
            kind: Kind::Checkpoint,
            group: GROUP,
            index: 10,
            payload: &payload,
        };
        let mut index = Index::default();
        index
            .apply(
                &record,
                Place {
                    segment: 4,
                    offset: 64,
                    len: 0,
                },
            )
            .unwrap();
        apply(&mut index, Kind::Entry, 10, 4).unwrap();
        assert_eq!(index.missing(), Some((GROUP, 0)));
        assert_eq!(index.place(GROUP, 9), None);
        apply(&mut index, Kind::Purge, 9, 4).unwrap();
        assert_eq!(index.missing(), None);
        assert!(index.place(GROUP, 10).is_some());
    }
}
