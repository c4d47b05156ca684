//! What nodes ask each other about groups besides Raft itself: forwarded proposals and queries, and sleep.

use bytes::Bytes;
use ids::{GroupId, NodeId, OperationId};
use raft_machine::{Freshness, GroupError, StoreError};
use serde::{Deserialize, Serialize};

const FORMAT: u8 = 1;

/// A call of `Service::GROUPS`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// To the leader: see [`raft_machine::Groups::propose`].
    Propose {
        group: GroupId,
        operation: OperationId,
        command: Bytes,
    },
    /// To a replica; a linearizable one only to the leader.
    Query {
        group: GroupId,
        query: Bytes,
        freshness: Freshness,
    },
    /// To the leader: up to which index must a replica have applied to answer a linearizable query.
    ReadIndex { group: GroupId },
    /// From a leader: these groups are idle; sleep if you agree on their state.
    Sleep(Vec<Idle>),
}

/// What a leader thinks an idle group's state is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub group: GroupId,
    pub term: u64,
    pub leader: u64,
    pub last_index: u64,
}

/// The answer to an [`Ask`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    Bytes(Bytes),
    Index(u64),
    /// For each group of a [`Ask::Sleep`]: whether it sleeps now.
    Asleep(Vec<bool>),
    NotLeader(Option<NodeId>),
    NoQuorum(String),
    NotHosted,
    Failed(GroupError),
}

pub(crate) fn encode(message: &impl Serialize) -> Bytes {
    raft_machine::encode(FORMAT, message).into()
}

pub(crate) fn decode_ask(body: &[u8]) -> Result<Ask, StoreError> {
    raft_machine::decode("a call about groups", FORMAT, body)
}

pub(crate) fn decode_told(body: &[u8]) -> Result<Told, StoreError> {
    raft_machine::decode("an answer about groups", FORMAT, body)
}
