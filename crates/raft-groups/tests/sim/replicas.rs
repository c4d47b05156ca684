//! Promise: once the faults are over, the replicas of every group come to rest and hold the same bytes.
//!
//! At rest means: the preferred leader leads and all know it, the same log everywhere, all of it applied, and every node
//! still votes. All nodes are up then, and the time that they may take is the preferred leader's grace.

use std::sync::Arc;
use std::time::Duration;

use ids::GroupId;
use raft_groups::GroupStatus;
use raft_machine::{Freshness, Groups};
use tokio::time::{Instant, sleep};

use crate::machine::DIGEST;
use crate::node::{CALL_LIMIT, NODES, Node, in_words, voters};
use crate::site::Site;

/// How long the replicas may take.
const REST_MAX: Duration = Duration::from_secs(30);

/// Waits until all groups are at rest on all nodes, and compares their state.
pub async fn agree(site: &Site) -> Result<(), String> {
    let end = Instant::now() + REST_MAX;
    let nodes = site.nodes();
    while let Err(why) = at_rest(&nodes) {
        if Instant::now() >= end {
            return Err(format!(
                "the replicas did not come to rest in {REST_MAX:?}: {why}"
            ));
        }
        sleep(Duration::from_millis(100)).await;
    }
    // Local queries don't wait, so nothing happens between the look at the replicas and these.
    for group in nodes[0].shape.groups() {
        same_bytes(&nodes, group).await?;
    }
    Ok(())
}

/// Why some group is not at rest.
pub fn at_rest(nodes: &[Arc<Node>]) -> Result<(), String> {
    if nodes.len() != NODES.len() {
        return Err(format!("only {} nodes are up", nodes.len()));
    }
    let statuses: Vec<Vec<GroupStatus>> = nodes.iter().map(|node| node.groups.status()).collect();
    for group in nodes[0].shape.groups() {
        let replicas = statuses
            .iter()
            .map(|all| all.iter().find(|status| status.group == group))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| format!("group {group} is not everywhere"))?;
        let first = replicas[0];
        let preferred = voters(group).first().copied();
        let rests = |replica: &&GroupStatus| {
            replica.stopped.is_none()
                && replica.leader == preferred
                && replica.voters.len() == NODES.len()
                && replica.last == first.last
                && replica.applied == replica.last
        };
        if !replicas.iter().all(rests) {
            return Err(format!("group {group} is not at rest: {replicas:?}"));
        }
    }
    Ok(())
}

async fn same_bytes(nodes: &[Arc<Node>], group: GroupId) -> Result<(), String> {
    let mut digests = Vec::new();
    for node in nodes {
        let digest = node
            .groups
            .query(group, DIGEST.into(), Freshness::Local, CALL_LIMIT)
            .await;
        digests.push(digest.map_err(in_words)?);
    }
    match digests.iter().all(|digest| *digest == digests[0]) {
        true => Ok(()),
        false => Err(format!(
            "the replicas of group {group} differ: {digests:?} on nodes {NODES:?}"
        )),
    }
}
