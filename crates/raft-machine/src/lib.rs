//! What a replicated state machine is written against: ordered bytes, commands, queries.
//!
//! A [`Machine`] is pure: [`Machine::apply`] turns a command and the state so far into a new state and a response, with
//! no clock, no randomness and no I/O of its own. The crate `raft-groups` runs it under Raft on a real database; the
//! [`memory`] store here runs it in tests. All groups of a node share one database: each sees only its own keys.
//!
//! Invariants:
//! - the same commands in the same order give the same bytes on every replica;
//! - a refused command changes nothing: refusals are *responses*, encoded by the machine; [`StoreError`] means that the
//!   store itself failed and the node must stop applying.
//!
//! Retries are not a machine's business: `raft-groups` answers a repeated operation id with the first response.

use std::ops::ControlFlow;

use ids::{GroupId, OperationId};
use serde::{Deserialize, Serialize};

pub mod local;
pub mod memory;

/// The store under a state machine failed, or holds what it can't hold.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk or database refused.
    #[error("the state database failed: {0}")]
    Io(String),
    /// Bytes that no version of this program writes.
    #[error("the state database holds a damaged record: {0}")]
    Damaged(String),
    /// A record of a newer version.
    #[error(
        "the state holds {what} of format {found}, this program knows up to {known}: upgrade this node"
    )]
    Newer {
        /// What kind of record.
        what: &'static str,
        /// The version that was found.
        found: u8,
        /// The newest version that is understood.
        known: u8,
    },
}

/// Called with each key and value of a scan in ascending order; `Break` ends the scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// An unchanging view of one group's keys, in byte order.
pub trait View {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the keys in `from..to` (`to` excluded; `None`: to the end of the group's keys), ascending.
    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError>;
}

/// A view that can be written; reads see the writes so far.
pub trait Batch: View {
    /// Sets a key.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Removes a key; fine when there is none.
    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError>;
}

/// A deterministic state machine over one group's keys. Keys that start with byte 0xFF are the driver's.
pub trait Machine: Send + Sync + 'static {
    /// Whether a command may be proposed at all. Asked on the leader before the command gets into the log: what a machine
    /// can't even read must not get there, since every replica would have to deal with it. Says why not, in words.
    fn admit(&self, command: &[u8]) -> Result<(), String> {
        let _ = command;
        Ok(())
    }

    /// Applies the command of the log entry `index`; returns the response for the proposer.
    fn apply(
        &self,
        batch: &mut dyn Batch,
        index: u64,
        command: &[u8],
    ) -> Result<Vec<u8>, StoreError>;

    /// Answers a question from a view; changes nothing.
    fn query(&self, view: &dyn View, query: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// Called after a batch with entries up to `index` became visible to queries, or after a snapshot was installed.
    /// For wake-ups only: must not block.
    fn applied(&self, index: u64) {
        let _ = index;
    }
}

/// How fresh a query's answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// At least as new as every write that was acknowledged before the query was sent (leader lease or read index).
    Linearizable,
    /// Whatever this node has applied.
    Local,
}

/// Why a group did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum GroupError {
    /// No leader, or no majority, was reachable before the deadline. A proposal may still be applied later: ask again
    /// with the same operation id.
    #[error("group {group} is unavailable: {why}")]
    Unavailable {
        /// The group.
        group: GroupId,
        /// What was tried, in words.
        why: String,
    },
    /// The command exceeds the bound of a log entry (1 MiB).
    #[error("a command of {len} bytes exceeds the {max} bytes that a log entry may have")]
    TooLarge {
        /// Bytes of the command.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The store of the node that answered failed.
    #[error("{0}")]
    Store(String),
    /// The machine can't read the command; nothing was proposed.
    #[error("the command was not proposed: {0}")]
    NotAdmitted(String),
}

/// The largest command, in bytes.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

/// Access to the site's Raft groups from any node: requests find their way to a replica or the leader.
#[async_trait::async_trait]
pub trait Groups: Send + Sync {
    /// Proposes a command and waits until it is committed and applied; returns the machine's response. The same
    /// operation id within the retry window gives the same response and is applied once.
    async fn propose(
        &self,
        group: GroupId,
        operation: OperationId,
        command: bytes::Bytes,
        deadline: std::time::Duration,
    ) -> Result<bytes::Bytes, GroupError>;

    /// Asks a group's machine a question.
    async fn query(
        &self,
        group: GroupId,
        query: bytes::Bytes,
        freshness: Freshness,
        deadline: std::time::Duration,
    ) -> Result<bytes::Bytes, GroupError>;
}

/// Encodes a record with its format version in front.
///
/// # Panics
/// Never for the plain data types that records are made of.
pub fn encode<T: Serialize>(version: u8, record: &T) -> Vec<u8> {
    let out = vec![version];
    postcard::to_extend(record, out).expect("plain data always encodes")
}

/// Decodes what [`encode`] made; refuses an unknown version and trailing bytes.
pub fn decode<'a, T: Deserialize<'a>>(
    what: &'static str,
    known: u8,
    bytes: &'a [u8],
) -> Result<T, StoreError> {
    let damaged = |why: &str| StoreError::Damaged(format!("{what}: {why}"));
    let (&version, rest) = bytes.split_first().ok_or_else(|| damaged("empty"))?;
    if version > known {
        return Err(StoreError::Newer {
            what,
            found: version,
            known,
        });
    }
    if version == 0 {
        return Err(damaged("version 0"));
    }
    match postcard::take_from_bytes(rest) {
        Ok((record, [])) => Ok(record),
        Ok(_) => Err(damaged("trailing bytes")),
        Err(error) => Err(damaged(&error.to_string())),
    }
}
