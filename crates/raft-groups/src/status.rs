//! What a node says of its groups.

use ids::{GroupId, NodeId};
use serde::{Deserialize, Serialize};

use crate::groups::RaftGroups;

/// A group, as one of its replicas sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub role: String,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who follows without a vote.
    pub learners: Vec<NodeId>,
    /// Last index in the log here.
    pub last: u64,
    /// Last committed index known here.
    pub commit: u64,
    /// Last applied index here.
    pub applied: u64,
    /// Leader only: how many entries each other member lacks.
    pub lag: Vec<(NodeId, u64)>,
    /// Whether the group sleeps here.
    pub asleep: bool,
    /// Why the group stopped here, if it did.
    pub stopped: Option<String>,
}

impl RaftGroups {
    /// How many snapshots of its peers a group has put into force on this node, over all its runs; none when the group is
    /// not here.
    pub fn snapshots_installed(&self, id: GroupId) -> Option<u32> {
        let group = self.find(id)?;
        Some(group.host.applied().generation)
    }

    /// The state of every group on this node.
    pub fn status(&self) -> Vec<GroupStatus> {
        self.all()
            .iter()
            .map(|group| {
                let metrics = group.metrics();
                let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index);
                let membership = metrics.membership_config.membership();
                let last = metrics.last_log_index.unwrap_or(0);
                let lag = metrics
                    .replication
                    .iter()
                    .flatten()
                    .filter(|(node, _)| **node != metrics.id);
                GroupStatus {
                    group: group.id,
                    role: format!("{:?}", metrics.state).to_lowercase(),
                    leader: metrics.current_leader.map(NodeId),
                    term: metrics.current_term,
                    voters: membership.voter_ids().map(NodeId).collect(),
                    learners: membership.learner_ids().map(NodeId).collect(),
                    last,
                    commit: index(metrics.local_committed),
                    applied: index(metrics.last_applied),
                    lag: lag
                        .map(|(node, at)| (NodeId(*node), last.saturating_sub(index(*at))))
                        .collect(),
                    asleep: group.is_quiet(),
                    stopped: metrics.running_state.err().map(|error| error.to_string()),
                }
            })
            .collect()
    }
}
