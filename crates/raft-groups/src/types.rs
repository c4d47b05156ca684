//! The types that openraft is used with.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std::LeaderId;
use serde::{Deserialize, Serialize};

pub use crate::runtime::{Runtime, seed_elections};

openraft::declare_raft_types!(
    /// One Raft group: opaque commands, node numbers, at most one leader per term.
    pub Types:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = (),
        LeaderId = LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type CommittedLeader = openraft::type_config::alias::CommittedLeaderIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;

/// A proposal as it stands in the log: operation id (16 bytes), then the machine's command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command(pub Bytes);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A machine's response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply(pub Bytes);
