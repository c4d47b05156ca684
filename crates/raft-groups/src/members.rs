//! A group's members, led step by step towards the placement.
//!
//! Which step is next is decided by `membership::plan` from what the leader's metrics say; a step may be cut anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ids::NodeId;
use membership::plan::{self, Current, Step, Wanted};
use openraft::{ChangeMembers, Instant, RaftMetrics};
use tokio::task::JoinSet;

use crate::group::Group;
use crate::groups::RaftGroups;
use crate::types::Types;

/// Membership changes under way at once on a node.
const CHANGES_MAX: usize = 8;
/// A member that lacks no more entries than this has caught up.
const LAG_MAX: u64 = 1_000;
/// And it confirmed the leader within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// The lead goes only to a member that lacks no more than this: nobody can write before it has the rest.
const TRANSFER_LAG_MAX: u64 = 32;

fn current(group: &Group) -> Option<Current> {
    let metrics = group.metrics();
    let membership = metrics.membership_config.membership();
    let halves = membership.get_joint_config();
    let last = metrics.last_log_index.unwrap_or(0);
    let replication = metrics.replication.as_ref()?;
    let near = |at: &Option<crate::types::LogId>| at.is_some_and(|id| id.index + LAG_MAX >= last);
    let heartbeat = metrics.heartbeat.as_ref();
    let answers = |node: &u64| {
        let last = heartbeat
            .and_then(|heard| heard.get(node))
            .and_then(Option::as_ref);
        last.is_some_and(|at| at.elapsed() < ANSWERS_WITHIN)
    };
    let caught_up = replication
        .iter()
        .filter(|(node, at)| answers(node) && near(at))
        .map(|(node, _)| NodeId(*node));
    Some(Current {
        voters: halves.last()?.iter().copied().map(NodeId).collect(),
        joint: halves.len() > 1,
        learners: membership.learner_ids().map(NodeId).collect(),
        leader: NodeId(metrics.current_leader?),
        caught_up: caught_up.chain([NodeId(metrics.id)]).collect(),
    })
}

/// What the leader of a group should do next.
pub(crate) fn next_step(groups: &RaftGroups, group: &Group) -> Step {
    let voters = groups.directory.voters(group.id);
    let wanted = Wanted {
        voters,
        learners: groups.directory.learners(group.id),
    };
    let step = current(group).map_or(Step::Nothing, |current| plan::next_step(&current, &wanted));
    match step {
        Step::TransferLeader(to) if !may_take_the_lead(&group.metrics(), to) => Step::Nothing,
        step => step,
    }
}

fn may_take_the_lead(metrics: &RaftMetrics<Types>, to: NodeId) -> bool {
    let last = metrics.last_log_index.unwrap_or(0);
    let replication = metrics.replication.as_ref();
    let at = replication.and_then(|replication| replication.get(&to.0).copied().flatten());
    at.is_some_and(|id| id.index + TRANSFER_LAG_MAX >= last)
}

/// Takes the groups that this node leads one step towards the placement.
pub(crate) async fn reconcile(groups: &Arc<RaftGroups>) {
    let mut changes = JoinSet::new();
    for group in groups.all() {
        if !group.leads() {
            continue;
        }
        let step = next_step(groups, &group);
        match step {
            Step::Nothing => continue,
            Step::AwaitCatchUp(_) => {
                group.wake();
                continue;
            }
            _ => {}
        }
        while changes.len() >= CHANGES_MAX {
            changes.join_next().await;
        }
        group.wake();
        changes.spawn(async move {
            let id = group.id;
            let limit = Duration::from_secs(10);
            match tokio::time::timeout(limit, take_step(&group, step.clone())).await {
                Ok(Ok(())) => {
                    tracing::info!(group = %id, ?step, "a group took a step towards its place")
                }
                Ok(Err(error)) => {
                    tracing::warn!(group = %id, ?step, %error, "a group did not take its step yet")
                }
                Err(_) => {
                    tracing::warn!(group = %id, ?step, "a group did not take its step in time")
                }
            }
        });
    }
    while changes.join_next().await.is_some() {}
}

async fn take_step(group: &Group, step: Step) -> Result<(), String> {
    let raft = &group.raft;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    match step {
        Step::Nothing | Step::AwaitCatchUp(_) => Ok(()),
        Step::AddLearners(nodes) => {
            for node in nodes {
                raft.add_learner(node.0, (), false)
                    .await
                    .map_err(|error| text(&error))?;
            }
            Ok(())
        }
        Step::ChangeVoters(voters) => {
            let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
            raft.change_membership(voters, true)
                .await
                .map(drop)
                .map_err(|error| text(&error))
        }
        Step::RemoveLearners(nodes) => {
            let nodes: BTreeSet<u64> = nodes.iter().map(|node| node.0).collect();
            let change = ChangeMembers::RemoveNodes(nodes);
            raft.change_membership(change, true)
                .await
                .map(drop)
                .map_err(|error| text(&error))
        }
        Step::TransferLeader(to) => group
            .transfer_leader(to)
            .await
            .map_err(|error| text(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::log_id;

    #[test]
    fn only_a_member_that_lacks_little_takes_the_lead() {
        let mut metrics = RaftMetrics::<Types>::new_initial(1);
        metrics.last_log_index = Some(100);
        let to = NodeId(2);
        assert!(!may_take_the_lead(&metrics, to), "nothing is known of it");
        for (at, may) in [
            (None, false),
            (Some(67), false),
            (Some(68), true),
            (Some(100), true),
        ] {
            let at = at.map(|index| log_id(1, index));
            metrics.replication = Some([(2, at)].into());
            assert_eq!(may_take_the_lead(&metrics, to), may, "{at:?}");
        }
    }
}
