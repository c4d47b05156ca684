//! What a node looks at again and again, for metrics, status and logs: the terms and leaders of its groups, whether it is
//! ready, and how many blocks lack copies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ids::{GroupId, NodeId};
use raft_groups::GroupStatus;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Node;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Debt is asked of every group that is led here: less often.
const LOOKS_PER_DEBT: u64 = 5;

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    term_changes: AtomicU64,
    debt: AtomicU64,
}

impl Observed {
    /// Terms that began since the start.
    pub fn term_changes(&self) -> u64 {
        self.term_changes.load(Ordering::Relaxed)
    }

    /// Blocks that lack copies, of the groups that are led here, at the last look.
    pub fn debt(&self) -> u64 {
        self.debt.load(Ordering::Relaxed)
    }
}

/// Looks until the node stops.
pub fn follow(node: &Arc<Node>) -> JoinHandle<()> {
    let (stop, node) = (node.stopping(), Arc::downgrade(node));
    tokio::spawn(async move {
        let mut last = Last::default();
        for look in 0_u64.. {
            let Some(node) = node.upgrade() else { return };
            last.look(&node);
            if look.is_multiple_of(LOOKS_PER_DEBT) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = look_for_debt(&node) => {}
                }
            }
            drop(node);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    })
}

async fn look_for_debt(node: &Node) {
    match node.jobs.debt().await {
        Ok(debt) => node.observed.debt.store(debt, Ordering::Relaxed),
        Err(error) => tracing::debug!(%error, "blocks that lack copies could not be counted"),
    }
}

/// What the last look saw.
#[derive(Default)]
struct Last {
    groups: BTreeMap<GroupId, (u64, Option<NodeId>)>,
    ready: bool,
}

impl Last {
    fn look(&mut self, node: &Node) {
        let groups = node.groups.status();
        let terms = self.terms(&groups);
        node.observed
            .term_changes
            .fetch_add(terms, Ordering::Relaxed);
        let reasons = node.reasons(&groups);
        match (self.ready, reasons.is_empty()) {
            (false, true) => tracing::info!("the node is ready"),
            (true, false) => tracing::info!(why = reasons.join("; "), "the node is not ready"),
            _ => {}
        }
        self.ready = reasons.is_empty();
    }

    /// How many terms began since the last look. A group that comes brings no new ones.
    fn terms(&mut self, groups: &[GroupStatus]) -> u64 {
        let mut began = 0;
        let mut now = BTreeMap::new();
        for group in groups {
            if let Some((term, leader)) = self.groups.get(&group.group) {
                began += group.term.saturating_sub(*term);
                if group.leader != *leader {
                    let leader = group.leader.map(|leader| leader.0);
                    tracing::debug!(group = %group.group, leader, term = group.term, "a group's leader changed");
                }
            }
            now.insert(group.group, (group.term, group.leader));
        }
        self.groups = now;
        began
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(id: u32, term: u64) -> GroupStatus {
        GroupStatus {
            group: GroupId(id),
            role: "follower".into(),
            leader: Some(NodeId(term)),
            term,
            voters: Vec::new(),
            learners: Vec::new(),
            last: 0,
            commit: 0,
            applied: 0,
            lag: Vec::new(),
            asleep: false,
            stopped: None,
        }
    }

    #[test]
    fn terms_are_counted_from_look_to_look() {
        let mut last = Last::default();
        assert_eq!(
            last.terms(&[group(1, 5), group(2, 1)]),
            0,
            "they were before"
        );
        assert_eq!(last.terms(&[group(1, 5), group(2, 1)]), 0);
        assert_eq!(last.terms(&[group(1, 7), group(2, 2)]), 3);
        assert_eq!(last.terms(&[group(2, 2)]), 0, "a group went");
        assert_eq!(last.terms(&[group(1, 9), group(2, 3)]), 1, "it came back");
    }
}
