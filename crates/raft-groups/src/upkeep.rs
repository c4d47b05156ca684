//! The node's one clockwork for its groups: liveness of peers, sleep and wake, membership towards the placement, trimming
//! of the log.
//!
//! Each step is idempotent and starts from what is, so it may be cut anywhere. One message per peer and beat carries
//! the liveness of all groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ids::{GroupId, Incarnation, NodeId};
use membership::liveness::{self, Detector, Event};
use membership::plan::{self, Current, Step, Wanted};
use openraft::{ChangeMembers, Instant, RaftMetrics};
use raft_machine::{decode, encode};
use tokio::task::{JoinHandle, JoinSet};
use transport::{Handler, Refusal, Service};

use crate::group::Group;
use crate::groups::RaftGroups;
use crate::message::{Ask, Idle, Told};
use crate::sleep::{self, Facts};
use crate::types::Types;

/// Version of a sign of life.
const FORMAT: u8 = 1;
const BEAT: Duration = Duration::from_millis(200);
const BEATS_PER_CHORE: u64 = 5;
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Membership changes under way at once on a node.
const CHANGES_MAX: usize = 8;

/// Starts the clockwork; it ends with `groups`.
pub(crate) fn start(groups: &Arc<RaftGroups>) -> JoinHandle<()> {
    let incarnation = groups.options.incarnation;
    groups
        .transport
        .serve(Service::LIVENESS, Arc::new(Alive(incarnation)));
    tokio::spawn(run(Arc::downgrade(groups)))
}

struct Alive(Incarnation);

#[async_trait]
impl Handler for Alive {
    async fn call(&self, _: NodeId, _: Bytes) -> Result<Bytes, Refusal> {
        Ok(encode(FORMAT, &self.0).into())
    }
}

async fn run(groups: Weak<RaftGroups>) {
    let mut detector = Detector::new(liveness::Options::default());
    let (heard_in, mut heard) = tokio::sync::mpsc::channel(256);
    let mut pinging: JoinSet<NodeId> = JoinSet::new();
    let mut pinged: BTreeSet<NodeId> = BTreeSet::new();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut beats: u64 = 0;
    let mut chores = tokio::spawn(async {});
    loop {
        beat.tick().await;
        beats += 1;
        let Some(groups) = groups.upgrade() else {
            return;
        };
        while let Some(done) = pinging.try_join_next() {
            if let Ok(node) = done {
                pinged.remove(&node);
            }
        }
        let now = groups.started.elapsed();
        let peers: BTreeSet<NodeId> = groups.directory.peers().into_iter().collect();
        detector.set_peers(&peers, now);
        for node in peers
            .iter()
            .copied()
            .filter(|node| !pinged.contains(node))
            .collect::<Vec<_>>()
        {
            pinged.insert(node);
            pinging.spawn(ping(groups.clone(), node, heard_in.clone()));
        }
        let mut events = Vec::new();
        while let Ok((node, incarnation)) = heard.try_recv() {
            events.extend(detector.heard(node, incarnation, now));
        }
        events.extend(detector.tick(now));
        for event in events {
            react(&groups, &event);
        }
        wake_orphans(&groups, &detector);
        notice_stops(&groups);
        if beats.is_multiple_of(BEATS_PER_CHORE) && chores.is_finished() {
            // Beside the beat: a chore may wait for a node that does not answer.
            chores = tokio::spawn(async move {
                put_to_sleep(&groups).await;
                reconcile(&groups).await;
                trim(&groups).await;
            });
        }
    }
}

async fn ping(
    groups: Arc<RaftGroups>,
    node: NodeId,
    heard: tokio::sync::mpsc::Sender<(NodeId, Incarnation)>,
) -> NodeId {
    let answer = groups
        .transport
        .call(node, Service::LIVENESS, Bytes::new(), ASK_LIMIT)
        .await;
    if let Ok(body) = answer
        && let Ok(incarnation) = decode("a sign of life", FORMAT, &body)
    {
        let _ = heard.send((node, incarnation)).await;
    }
    node
}

/// Wakes the groups that a change of a peer's state matters to.
fn react(groups: &RaftGroups, event: &Event) {
    match event {
        Event::Suspected(node) => tracing::warn!(%node, "a node does not answer"),
        Event::Alive(node) => tracing::info!(%node, "a node answers"),
        Event::Restarted(node, _) => tracing::info!(%node, "a node was started again"),
    }
    let (Event::Suspected(node) | Event::Alive(node) | Event::Restarted(node, _)) = event;
    for group in groups.all() {
        let member = group
            .metrics()
            .membership_config
            .membership()
            .get_node(&node.0)
            .is_some();
        if member && (group.leads() || group.leader() == Some(*node)) {
            group.wake();
        }
    }
}

/// A group that sleeps though nobody leads it, or a node that does not answer, must elect.
fn wake_orphans(groups: &RaftGroups, detector: &Detector) {
    for group in groups.all() {
        let led = |leader: NodeId| detector.is_trusted(leader);
        if group.is_quiet() && !group.leads() && !group.leader().is_some_and(led) {
            group.wake();
        }
    }
}

/// A group that stopped here through no fault of its own commands means that this node is not well.
fn notice_stops(groups: &RaftGroups) {
    for group in groups.all() {
        let Some(why) = group.failure() else {
            continue;
        };
        group.log_stop(&why);
        if !group.host.is_machine_broken() {
            let words = || format!("group {} stopped on this node: {why}", group.id);
            groups.failure.set(words);
        }
    }
}

fn facts(group: &Group) -> Facts {
    let metrics = group.metrics();
    let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index);
    let own = metrics.id;
    let members = metrics
        .membership_config
        .membership()
        .nodes()
        .map(|(id, ())| *id)
        .filter(|id| *id != own);
    let matched = metrics
        .replication
        .as_ref()
        .map_or_else(Vec::new, |replication| {
            members
                .map(|id| index(replication.get(&id).copied().flatten()))
                .collect()
        });
    Facts {
        term: metrics.current_term,
        leader: metrics.current_leader,
        last_index: metrics.last_log_index.unwrap_or(0),
        committed_index: index(metrics.local_committed),
        applied_index: index(metrics.last_applied),
        matched,
        uniform: metrics
            .membership_config
            .membership()
            .get_joint_config()
            .len()
            == 1,
    }
}

/// A follower's part of [`Ask::Sleep`].
pub(crate) fn fall_asleep(groups: &RaftGroups, idle: &Idle) -> bool {
    let Some(group) = groups.find(idle.group) else {
        return false;
    };
    let agrees = sleep::follower_agrees(&facts(&group), idle);
    if agrees {
        group.sleep_after(Duration::ZERO);
    }
    agrees
}

/// The leader's part: asks the followers of all groups that are idle here, one message per follower.
async fn put_to_sleep(groups: &RaftGroups) {
    let own = groups.options.node;
    let mut candidates: BTreeMap<GroupId, (Arc<Group>, BTreeSet<NodeId>)> = BTreeMap::new();
    let mut asks: BTreeMap<NodeId, Vec<Idle>> = BTreeMap::new();
    for group in groups.all() {
        if group.is_quiet() || !group.leads() || group.idle_for() < groups.options.quiet_after {
            continue;
        }
        let facts = facts(&group);
        if !sleep::leader_may_ask(own.0, &facts) || next_step(groups, &group) != Step::Nothing {
            continue;
        }
        let idle = Idle {
            group: group.id,
            term: facts.term,
            leader: own.0,
            last_index: facts.last_index,
        };
        let metrics = group.metrics();
        let members = metrics
            .membership_config
            .membership()
            .nodes()
            .map(|(id, ())| NodeId(*id));
        let followers: BTreeSet<NodeId> = members.filter(|id| *id != own).collect();
        for follower in &followers {
            asks.entry(*follower).or_default().push(idle.clone());
        }
        candidates.insert(group.id, (group, followers));
    }
    let asked = asks.into_iter().map(|(node, idle)| async move {
        let answer = groups.ask(node, &Ask::Sleep(idle.clone()), ASK_LIMIT).await;
        (idle, answer)
    });
    for (idle, answer) in futures::future::join_all(asked).await {
        let asleep = match answer {
            Ok(Told::Asleep(asleep)) if asleep.len() == idle.len() => asleep,
            _ => vec![false; idle.len()],
        };
        for (idle, asleep) in idle.iter().zip(asleep) {
            if !asleep {
                candidates.remove(&idle.group);
            }
        }
    }
    for (group, _) in candidates.into_values() {
        // Something may have happened meanwhile: then the followers hear heartbeats, and wake.
        group.sleep_after(groups.options.quiet_after);
    }
}

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

fn next_step(groups: &RaftGroups, group: &Group) -> Step {
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
async fn reconcile(groups: &Arc<RaftGroups>) {
    let mut changes = JoinSet::new();
    for group in groups.all() {
        if !group.leads() {
            continue;
        }
        let step = next_step(groups, &group);
        if step == Step::Nothing {
            continue;
        }
        while changes.len() >= CHANGES_MAX {
            changes.join_next().await;
        }
        group.wake();
        changes.spawn(async move {
            let id = group.id;
            let limit = Duration::from_secs(10);
            match tokio::time::timeout(limit, take_step(&group, step.clone())).await {
                Ok(Ok(())) => tracing::info!(group = %id, ?step, "a group's members changed"),
                Ok(Err(error)) => tracing::warn!(group = %id, ?step, %error, "a group's members did not change yet"),
                Err(_) => tracing::warn!(group = %id, ?step, "a group's members did not change in time"),
            }
        });
    }
    while changes.join_next().await.is_some() {}
}

async fn take_step(group: &Group, step: Step) -> Result<(), String> {
    let raft = &group.raft;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    match step {
        Step::Nothing => Ok(()),
        Step::AddLearners(nodes) => {
            for node in nodes {
                raft.add_learner(node.0, (), false)
                    .await
                    .map_err(|error| text(&error))?;
            }
            Ok(())
        }
        Step::AwaitCatchUp(_) => Ok(()),
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

/// Keeps the log within its bound: groups that pin the older half of its segments let go of what stands there, as far as
/// the database covers it. The newer half stays for followers that were away for a moment.
async fn trim(groups: &RaftGroups) {
    let stats = groups.wal.stats();
    if stats.bytes <= groups.options.log_bytes_max {
        return;
    }
    let kept = usize::try_from(stats.segments / 2).unwrap_or(usize::MAX);
    let pinning = groups.wal.pinning(kept);
    if pinning.is_empty() {
        return;
    }
    if let Err(error) = groups.checkpoint().await {
        tracing::error!(%error, "the log grows: no checkpoint");
        return;
    }
    for (id, upto) in pinning {
        let Some(group) = groups.find(id) else {
            continue;
        };
        if let Err(error) = group.trim(upto).await {
            tracing::warn!(group = %id, %error, "the log could not be trimmed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::log_id;

    /// What version 1 looks like; see `formats.rs`.
    #[tokio::test]
    async fn a_sign_of_life_is_pinned() {
        let alive = Alive(Incarnation([7; 16]));
        let answer = alive.call(NodeId(2), Bytes::new()).await.unwrap();
        assert_eq!(answer, [&[1_u8][..], &[7; 16]].concat());
        let read: Incarnation = decode("a sign of life", FORMAT, &answer).unwrap();
        assert_eq!(read, Incarnation([7; 16]));
    }

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
