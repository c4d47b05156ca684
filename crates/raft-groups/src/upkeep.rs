//! The node's one clockwork for its groups: liveness of peers, sleep and wake, members towards the placement (`members.rs`),
//! trimming of the log.
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
use membership::plan::Step;
use raft_machine::{decode, encode};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use transport::{Handler, Refusal, Service};

use crate::group::Group;
use crate::groups::RaftGroups;
use crate::members::{next_step, reconcile};
use crate::message::{Ask, Idle, Told};
use crate::sleep::{self, Facts};

/// Version of a sign of life.
const FORMAT: u8 = 1;
const BEAT: Duration = Duration::from_millis(200);
const BEATS_PER_CHORE: u64 = 5;
const ASK_LIMIT: Duration = Duration::from_secs(2);

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
    let mut pinging = JoinSet::new();
    let mut pings: BTreeMap<NodeId, AbortHandle> = BTreeMap::new();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut beats: u64 = 0;
    let mut chores = JoinSet::new();
    loop {
        beat.tick().await;
        beats += 1;
        let Some(groups) = groups.upgrade() else {
            return;
        };
        while pinging.try_join_next().is_some() {}
        pings.retain(|_, ping| !ping.is_finished());
        let now = groups.started.elapsed();
        let peers: BTreeSet<NodeId> = groups.directory.peers().into_iter().collect();
        detector.set_peers(&peers, now);
        for node in peers {
            pings
                .entry(node)
                .or_insert_with(|| pinging.spawn(ping(groups.clone(), node, heard_in.clone())));
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
        while chores.try_join_next().is_some() {}
        if beats.is_multiple_of(BEATS_PER_CHORE) && chores.is_empty() {
            // Beside the beat: a chore may wait for a node that does not answer.
            chores.spawn(async move {
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
) {
    let answer = groups
        .transport
        .call(node, Service::LIVENESS, Bytes::new(), ASK_LIMIT)
        .await;
    if let Ok(body) = answer
        && let Ok(incarnation) = decode("a sign of life", FORMAT, &body)
    {
        let _ = heard.send((node, incarnation)).await;
    }
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

    /// What version 1 looks like; see `formats.rs`.
    #[tokio::test]
    async fn a_sign_of_life_is_pinned() {
        let alive = Alive(Incarnation([7; 16]));
        let answer = alive.call(NodeId(2), Bytes::new()).await.unwrap();
        assert_eq!(answer, [&[1_u8][..], &[7; 16]].concat());
        let read: Incarnation = decode("a sign of life", FORMAT, &answer).unwrap();
        assert_eq!(read, Incarnation([7; 16]));
    }
}
