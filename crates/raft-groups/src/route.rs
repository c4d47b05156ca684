//! The way of a request to the replica that can answer it: here, at the leader, or by a read index.
//!
//! A proposal keeps its operation id over all attempts, so it takes effect once. Who leads is learnt from the replica here,
//! from answers, and last by asking the voters in turn.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use ids::{GroupId, NodeId, OperationId};
use raft_machine::{COMMAND_BYTES_MAX, Freshness, GroupError, Groups};
use tokio::time::Instant;
use transport::Service;

use crate::group::{Group, Miss};
use crate::groups::{RaftGroups, store_error};
use crate::message::{self, Ask, Told};

/// How long a follower waits to catch up with a read index before it passes the query to the leader.
const CATCH_UP: Duration = Duration::from_millis(50);
/// The first pause between attempts; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// One attempt at another node.
const ATTEMPT: Duration = Duration::from_secs(5);

impl RaftGroups {
    async fn propose_here(
        &self,
        group: GroupId,
        operation: OperationId,
        command: &Bytes,
    ) -> Result<Bytes, Miss> {
        let Some(group) = self.find(group) else {
            return Err(Miss::NotLeader(None));
        };
        // Here, where it would get into the log, and not only where it came from: a peer may send anything.
        check_len(command).map_err(Miss::Failed)?;
        group
            .host
            .machine
            .admit(command)
            .map_err(|why| Miss::Failed(GroupError::NotAdmitted(why)))?;
        let mut entry = BytesMut::with_capacity(16 + command.len());
        entry.put_slice(&operation.0);
        entry.put_slice(command);
        group.propose(entry.freeze()).await
    }

    async fn query_here(
        &self,
        id: GroupId,
        query: &[u8],
        freshness: Freshness,
    ) -> Result<Bytes, Miss> {
        let Some(group) = self.find(id) else {
            return Err(Miss::NotLeader(None));
        };
        if freshness == Freshness::Linearizable {
            group.confirm_leadership().await?;
        }
        group
            .query_here(query)
            .map_err(|error| Miss::Failed(store_error(error)))
    }

    /// A follower's linearizable read: learn how far to wait, wait, answer from here. `None` when that takes too long.
    async fn query_by_read_index(
        &self,
        group: &Group,
        leader: NodeId,
        query: &[u8],
    ) -> Result<Option<Bytes>, Miss> {
        let asked = self
            .ask(leader, &Ask::ReadIndex { group: group.id }, ATTEMPT)
            .await?;
        let Told::Index(index) = asked else {
            return Err(Miss::NoQuorum("the leader named no read index".into()));
        };
        if !group.wait_applied(index, CATCH_UP).await {
            return Ok(None);
        }
        let answer = group.query_here(query);
        answer
            .map(Some)
            .map_err(|error| Miss::Failed(store_error(error)))
    }

    /// Answers a peer.
    pub(crate) async fn answer(&self, ask: Ask) -> Told {
        let told = match ask {
            Ask::Propose {
                group,
                operation,
                command,
            } => self
                .propose_here(group, operation, &command)
                .await
                .map(Told::Bytes),
            Ask::Query {
                group,
                query,
                freshness,
            } => self
                .query_here(group, &query, freshness)
                .await
                .map(Told::Bytes),
            Ask::ReadIndex { group } => match self.find(group) {
                Some(group) => group.confirm_leadership().await.map(Told::Index),
                None => Ok(Told::NotHosted),
            },
            Ask::Sleep(idle) => Ok(Told::Asleep(
                idle.iter()
                    .map(|idle| crate::upkeep::fall_asleep(self, idle))
                    .collect(),
            )),
        };
        match told {
            Ok(told) => told,
            Err(Miss::NotLeader(leader)) => Told::NotLeader(leader),
            Err(Miss::NoQuorum(why)) => Told::NoQuorum(why),
            Err(Miss::Failed(error)) => Told::Failed(error),
        }
    }

    pub(crate) async fn ask(&self, node: NodeId, ask: &Ask, limit: Duration) -> Result<Told, Miss> {
        let sent = self
            .transport
            .call(node, Service::GROUPS, message::encode(ask), limit)
            .await;
        let body = sent.map_err(|error| Miss::NoQuorum(error.to_string()))?;
        match message::decode_told(&body) {
            Ok(Told::NotLeader(leader)) => Err(Miss::NotLeader(leader)),
            Ok(Told::NotHosted) => Err(Miss::NotLeader(None)),
            Ok(Told::NoQuorum(why)) => Err(Miss::NoQuorum(why)),
            Ok(Told::Failed(error)) => Err(Miss::Failed(error)),
            Ok(told) => Ok(told),
            Err(error) => Err(Miss::Failed(store_error(error))),
        }
    }

    async fn ask_for_bytes(&self, node: NodeId, ask: &Ask, limit: Duration) -> Result<Bytes, Miss> {
        match self.ask(node, ask, limit).await? {
            Told::Bytes(bytes) => Ok(bytes),
            _ => Err(Miss::NoQuorum(
                "the node gave an answer to another question".into(),
            )),
        }
    }

    /// One try at one node.
    async fn attempt(
        &self,
        id: GroupId,
        request: &Request,
        node: NodeId,
        limit: Duration,
    ) -> Result<Bytes, Miss> {
        let here = node == self.options.node;
        match request {
            Request::Propose(operation, command) if here => {
                self.propose_here(id, *operation, command).await
            }
            Request::Propose(operation, command) => {
                let ask = Ask::Propose {
                    group: id,
                    operation: *operation,
                    command: command.clone(),
                };
                self.ask_for_bytes(node, &ask, limit).await
            }
            Request::Query(query, freshness) if here => {
                self.query_here(id, query, *freshness).await
            }
            Request::Query(query, freshness) => {
                if let Some(local) = self.replica(id)
                    && *freshness == Freshness::Linearizable
                    && let Some(answer) = self.query_by_read_index(&local, node, query).await?
                {
                    return Ok(answer);
                }
                let ask = Ask::Query {
                    group: id,
                    query: query.clone(),
                    freshness: *freshness,
                };
                self.ask_for_bytes(node, &ask, limit).await
            }
        }
    }

    /// The group, if it is on this node and should be. A replica that moved away stays behind, and knows the leader of then.
    fn replica(&self, id: GroupId) -> Option<Arc<Group>> {
        let (me, voters) = (self.options.node, self.directory.voters(id));
        let placed = |group: &Group| {
            voters.is_empty()
                || voters.contains(&me)
                || self.directory.learners(id).contains(&me)
                || group.leads()
        };
        self.find(id).filter(|group| placed(group))
    }

    /// Who to ask first: what this node's replica knows, what an answer said, the preferred leader.
    fn likely_leader(&self, id: GroupId) -> Option<NodeId> {
        let known = match self.replica(id) {
            Some(group) => group.leader(),
            None => self
                .hints
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&id)
                .copied(),
        };
        known.or_else(|| self.directory.voters(id).first().copied())
    }

    fn remember_leader(&self, id: GroupId, leader: Option<NodeId>) {
        let mut hints = self.hints.write().unwrap_or_else(PoisonError::into_inner);
        match leader {
            Some(leader) => hints.insert(id, leader),
            None => hints.remove(&id),
        };
    }

    /// Tries until an attempt answers or the deadline passes.
    async fn route(
        &self,
        id: GroupId,
        request: &Request,
        deadline: Duration,
    ) -> Result<Bytes, GroupError> {
        let end = Instant::now() + deadline;
        let mut pause = PAUSE_MIN;
        let mut target = self.likely_leader(id);
        let mut why = "no server of the group is known".to_string();
        let mut others = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GroupError::Unavailable { group: id, why });
            }
            if let Some(node) = target {
                let limit = left.min(ATTEMPT);
                match tokio::time::timeout(limit, self.attempt(id, request, node, limit)).await {
                    Ok(Ok(bytes)) => return Ok(bytes),
                    Ok(Err(Miss::Failed(error))) => return Err(error),
                    Ok(Err(Miss::NotLeader(Some(leader)))) if leader != node => {
                        why = format!("node {node} does not lead; it names node {leader}");
                        self.remember_leader(id, Some(leader));
                        target = Some(leader);
                        if pause == PAUSE_MIN {
                            pause *= 2;
                            continue;
                        }
                    }
                    Ok(Err(Miss::NotLeader(_))) => {
                        why = format!("node {node} knows no leader");
                        target = None;
                    }
                    Ok(Err(Miss::NoQuorum(reason))) => {
                        why = reason;
                        target = None;
                    }
                    Err(_) => {
                        why = format!("node {node} did not answer in time");
                        target = None;
                    }
                }
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
            if target.is_none() {
                self.remember_leader(id, None);
                self.find(id).inspect(|group| group.wake());
                let voters = self.directory.voters(id);
                let known = self.find(id).and_then(|group| group.leader());
                // Turn by turn: what is known here, then each voter.
                target = match others % (voters.len() + 1) {
                    0 => known.or_else(|| voters.first().copied()),
                    n => voters.get(n - 1).copied(),
                };
                others += 1;
            }
        }
    }
}

#[async_trait]
impl Groups for RaftGroups {
    async fn propose(
        &self,
        group: GroupId,
        operation: OperationId,
        command: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, GroupError> {
        check_len(&command)?;
        self.route(group, &Request::Propose(operation, command), deadline)
            .await
    }

    async fn query(
        &self,
        group: GroupId,
        query: Bytes,
        freshness: Freshness,
        deadline: Duration,
    ) -> Result<Bytes, GroupError> {
        if freshness == Freshness::Local
            && let Some(local) = self.replica(group)
        {
            return local.query_here(&query).map_err(store_error);
        }
        self.route(group, &Request::Query(query, freshness), deadline)
            .await
    }
}

/// What [`RaftGroups::route`] carries to a leader.
enum Request {
    Propose(OperationId, Bytes),
    Query(Bytes, Freshness),
}

fn check_len(command: &Bytes) -> Result<(), GroupError> {
    match command.len() <= COMMAND_BYTES_MAX {
        true => Ok(()),
        false => Err(GroupError::TooLarge {
            len: command.len(),
            max: COMMAND_BYTES_MAX,
        }),
    }
}
