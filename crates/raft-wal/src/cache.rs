//! The newest entries of each group in memory. Pure.
//!
//! Readers that follow the log (replication, apply) find their entries here; everything older is in the segments. What
//! is queued but not yet durable is *only* here, so it is never evicted.
//!
//! Invariants:
//! - per group the cache holds a gapless run that ends with the group's last entry;
//! - over budget, the group with the most bytes loses its oldest entry: a busy group can't push out a quiet one;
//! - an entry whose ticket is not settled stays: the writer's queue bounds how much that can be.
//!
//! Bytes are counted as the entries' lengths plus a little each; an entry that is a slice of a larger buffer keeps that
//! buffer alive, which isn't counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use ids::GroupId;

/// What an entry costs besides its bytes.
const ENTRY_OVERHEAD: usize = 64;

#[derive(Debug, Default)]
struct Run {
    first: u64,
    entries: VecDeque<(Bytes, u64)>,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cache {
    runs: BTreeMap<GroupId, Run>,
    by_size: BTreeSet<(usize, GroupId)>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Cache {
            runs: BTreeMap::new(),
            by_size: BTreeSet::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds the entries that follow the group's last.
    pub(crate) fn append(
        &mut self,
        group: GroupId,
        first_index: u64,
        entries: &[Bytes],
        ticket: u64,
    ) {
        self.change(group, |run| {
            if run.entries.is_empty() {
                run.first = first_index;
            }
            debug_assert_eq!(run.first + run.entries.len() as u64, first_index);
            run.entries
                .extend(entries.iter().map(|entry| (entry.clone(), ticket)));
            run.bytes += entries.iter().map(cost).sum::<usize>();
        });
    }

    /// Drops the entries from `index` on.
    pub(crate) fn truncate(&mut self, group: GroupId, index: u64) {
        self.change(group, |run| {
            let keep = index
                .saturating_sub(run.first)
                .min(run.entries.len() as u64);
            let voided = run.entries.split_off(keep as usize);
            run.bytes -= voided.iter().map(|(entry, _)| cost(entry)).sum::<usize>();
        });
    }

    /// Drops the entries up to `through`.
    pub(crate) fn purge(&mut self, group: GroupId, through: u64) {
        self.change(group, |run| {
            let voided = through
                .saturating_add(1)
                .saturating_sub(run.first)
                .min(run.entries.len() as u64);
            run.bytes -= run
                .entries
                .drain(..voided as usize)
                .map(|(entry, _)| cost(&entry))
                .sum::<usize>();
            run.first += voided;
        });
    }

    pub(crate) fn drop_group(&mut self, group: GroupId) {
        self.purge(group, u64::MAX);
    }

    pub(crate) fn get(&self, group: GroupId, index: u64) -> Option<&Bytes> {
        let run = self.runs.get(&group)?;
        let at = index.checked_sub(run.first)?;
        run.entries
            .get(usize::try_from(at).ok()?)
            .map(|(entry, _)| entry)
    }

    /// Gets back within the budget, as far as entries with tickets up to `settled` allow.
    pub(crate) fn evict(&mut self, settled: u64) {
        while self.bytes > self.bytes_max {
            let evictable = |group: &GroupId| {
                self.runs[group]
                    .entries
                    .front()
                    .is_some_and(|(_, t)| *t <= settled)
            };
            let Some((_, group)) = self
                .by_size
                .iter()
                .rev()
                .find(|(_, group)| evictable(group))
                .copied()
            else {
                return;
            };
            self.change(group, |run| {
                if let Some((entry, _)) = run.entries.pop_front() {
                    run.bytes -= cost(&entry);
                    run.first += 1;
                }
            });
        }
    }

    /// Bytes that are held, by the cache's count.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn change(&mut self, group: GroupId, change: impl FnOnce(&mut Run)) {
        let run = self.runs.entry(group).or_default();
        let before = run.bytes;
        change(run);
        let after = run.bytes;
        let gone = run.entries.is_empty();
        if gone {
            self.runs.remove(&group);
        }
        self.by_size.remove(&(before, group));
        if !gone {
            self.by_size.insert((after, group));
        }
        self.bytes = self.bytes - before + after;
    }
}

fn cost(entry: &Bytes) -> usize {
    entry.len() + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: GroupId = GroupId(1);
    const QUIET: GroupId = GroupId(2);

    fn entries(count: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![7; 100 - ENTRY_OVERHEAD]); count]
    }

    #[test]
    fn a_busy_group_does_not_push_out_a_quiet_one() {
        let mut cache = Cache::new(1000);
        cache.append(QUIET, 0, &entries(3), 1);
        cache.append(BUSY, 0, &entries(20), 2);
        cache.evict(2);
        assert_eq!(cache.bytes(), 1000);
        assert!(cache.get(QUIET, 0).is_some());
        assert!(cache.get(BUSY, 12).is_none() && cache.get(BUSY, 13).is_some());
    }

    #[test]
    fn what_is_not_settled_stays() {
        let mut cache = Cache::new(100);
        cache.append(BUSY, 0, &entries(5), 1);
        cache.append(QUIET, 0, &entries(3), 2);
        cache.evict(0);
        assert_eq!(cache.bytes(), 800);
        cache.evict(1);
        assert_eq!(cache.bytes(), 300);
        assert!(cache.get(QUIET, 0).is_some());
    }

    #[test]
    fn runs_follow_truncation_and_purge() {
        let mut cache = Cache::new(10_000);
        cache.append(BUSY, 5, &entries(5), 1);
        cache.truncate(BUSY, 8);
        cache.purge(BUSY, 5);
        assert!(
            cache.get(BUSY, 5).is_none()
                && cache.get(BUSY, 6).is_some()
                && cache.get(BUSY, 8).is_none()
        );
        cache.append(BUSY, 8, &entries(1), 2);
        assert!(cache.get(BUSY, 8).is_some());
        cache.drop_group(BUSY);
        assert_eq!(cache.bytes(), 0);
        cache.append(BUSY, 1, &entries(1), 3);
        assert!(cache.get(BUSY, 1).is_some());
    }
}
