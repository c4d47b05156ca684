//! What can be proposed to the registry, and what comes back.
//!
//! A command is one log entry. A [`Transaction`] takes effect as a whole at one new revision, or is
//! refused and changes nothing; a batch of independent operations ([`Atomicity::EachAlone`]) shares
//! the revision and reports each refusal beside its operation.
//!
//! Clocks and randomness come with the command: identifiers and dates are the proposer's.

use std::collections::BTreeMap;

use bytes::Bytes;
use ids::Revision;
use serde::{Deserialize, Serialize};

use crate::resource::{Allocation, OwnerRef, Uid};

/// The newest format of [`Command`] and [`Response`].
pub const COMMAND_FORMAT: u8 = 1;

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Writes resources.
    Transact(Transaction),
    /// Goes on with deleting what belonged to deleted owners.
    Collect {
        /// The proposer's wall clock.
        now_ms: u64,
        /// How many dependants to visit; capped by [`crate::limits::COLLECT_MAX`].
        max: u32,
    },
}

/// What happens to a transaction's other operations when one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Atomicity {
    /// Nothing takes effect.
    #[default]
    AllOrNothing,
    /// The others take effect: for bulk writes. Preconditions still guard the whole.
    EachAlone,
}

/// Operations under common preconditions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Transaction {
    /// Must all hold before the first operation.
    pub preconditions: Vec<Precondition>,
    /// Applied in order; each sees those before it.
    pub ops: Vec<Op>,
    /// What one refusal means for the rest.
    pub atomicity: Atomicity,
}

/// Names one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResourceKey {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl ResourceKey {
    /// A key from its parts.
    pub fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        ResourceKey {
            kind: kind.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} `{}`", self.kind, self.name)
    }
}

/// Which version of a resource an operation is meant for; all that is given must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Expected {
    /// The revision that wrote it last.
    pub revision: Option<Revision>,
    /// The incarnation.
    pub uid: Option<Uid>,
}

/// A condition on state outside the operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// There is such a resource, of the expected version, and it is not being deleted.
    Exists(ResourceKey, Expected),
    /// There is none.
    Absent(ResourceKey),
    /// No resource has this value in this index of the kind.
    IndexFree {
        /// The kind.
        kind: String,
        /// The index.
        index: String,
        /// The value.
        value: String,
    },
}

/// A request for values of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Any `count` free values.
    Any {
        /// How many.
        count: u32,
    },
    /// These values; refused unless all are free.
    These(Vec<u128>),
}

/// How a pool keeps what is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// A bitmap: up to 2^36 values, a bit each in the parts that are in use.
    Dense,
    /// Intervals: any range of u128, a record for each run of values in use.
    Sparse,
}

/// A resource to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Draft {
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The new incarnation, drawn by the proposer.
    pub uid: Uid,
    /// The proposer's wall clock.
    pub created_ms: u64,
    /// See [`crate::Metadata`].
    pub labels: BTreeMap<String, String>,
    /// See [`crate::Metadata`].
    pub annotations: BTreeMap<String, String>,
    /// Must exist when the operation is applied.
    pub owners: Vec<OwnerRef>,
    /// See [`crate::Metadata`].
    pub finalizers: Vec<String>,
    /// The encoded spec.
    pub spec: Bytes,
    /// The encoded status; empty for the default.
    pub status: Bytes,
    /// Entries of secondary indexes.
    pub indexes: Vec<(String, String)>,
    /// Values to be held by the resource, as (pool, want).
    pub allocate: Vec<(String, Want)>,
}

/// All that an update replaces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replacement {
    /// See [`crate::Metadata`].
    pub labels: BTreeMap<String, String>,
    /// See [`crate::Metadata`].
    pub annotations: BTreeMap<String, String>,
    /// New ones must exist when the operation is applied.
    pub owners: Vec<OwnerRef>,
    /// While the resource is being deleted they can only be removed.
    pub finalizers: Vec<String>,
    /// The encoded spec.
    pub spec: Bytes,
    /// Entries of secondary indexes.
    pub indexes: Vec<(String, String)>,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Makes a resource.
    Create(Box<Draft>),
    /// Replaces all but the status; changes nothing when nothing differs.
    Update(ResourceKey, Expected, Box<Replacement>),
    /// Replaces the status.
    UpdateStatus(ResourceKey, Expected, Bytes),
    /// Removes a resource, or marks it for removal while it has finalizers. The last field is the
    /// proposer's wall clock.
    Delete(ResourceKey, Expected, u64),
    /// Takes a finalizer away; fine when it is gone already. The resource goes with the last one
    /// when it is marked for removal.
    RemoveFinalizer(ResourceKey, String),
    /// Makes a pool of the values `lo..=hi`.
    CreatePool {
        /// Its name, with the rules of resource names.
        pool: String,
        /// How it is kept.
        layout: Layout,
        /// The lowest value.
        lo: u128,
        /// The highest value.
        hi: u128,
    },
    /// Removes a pool that has no value in use.
    DeletePool(String),
    /// Takes values of a pool, for a resource to hold when one is named.
    Allocate {
        /// The pool.
        pool: String,
        /// Which values.
        want: Want,
        /// The resource that holds them from now on.
        holder: Option<ResourceKey>,
    },
    /// Gives values back; refused unless all are in use and held as said.
    Release {
        /// The pool.
        pool: String,
        /// The values.
        values: Vec<u128>,
        /// The resource that holds them.
        holder: Option<ResourceKey>,
    },
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// The resource was made.
    Created {
        /// What was allocated for it.
        allocations: Vec<Allocation>,
    },
    /// The resource has these versions now; older than the transaction's when nothing differed.
    Written {
        /// Its revision.
        revision: Revision,
        /// Its generation.
        generation: u64,
    },
    /// The resource is gone.
    Deleted,
    /// The resource goes once its finalizers are removed.
    Deleting,
    /// A pool was made or removed, or values were released.
    Pool,
    /// These values were taken.
    Allocated(Vec<u128>),
}

/// A command that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The registry's revision after it; unchanged when nothing differed.
    pub revision: Revision,
    /// One for each operation; refusals only in [`Atomicity::EachAlone`].
    pub results: Vec<Result<Done, Refused>>,
    /// Whether dependants of deleted owners wait for [`Command::Collect`].
    pub garbage: bool,
}

/// Why an operation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// The name is taken.
    #[error("{0} exists already")]
    AlreadyExists(ResourceKey),
    /// There is no such resource.
    #[error("there is no {0}")]
    NotFound(ResourceKey),
    /// The resource was changed, or made anew, since it was read.
    #[error("{key} has revision {found}, not the expected version: read it again")]
    Conflict {
        /// The resource.
        key: ResourceKey,
        /// What the operation was meant for.
        expected: Expected,
        /// What is there.
        found: Revision,
    },
    /// The operation makes no sense, in words.
    #[error("{0}")]
    Invalid(String),
    /// A pool has not enough free values.
    #[error("pool `{0}` has not enough free values")]
    Exhausted(String),
    /// A value that was asked for by name is in use.
    #[error("{value} of pool `{pool}` is in use")]
    InUse {
        /// The pool.
        pool: String,
        /// The value.
        value: u128,
    },
    /// A bound was exceeded.
    #[error("{what} has {len} bytes or entries, the bound is {max}")]
    TooLarge {
        /// What was measured.
        what: String,
        /// Its size.
        len: u64,
        /// The bound.
        max: u64,
    },
    /// A precondition does not hold.
    #[error("a precondition does not hold: {0}")]
    PreconditionFailed(String),
}

/// A transaction that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{refused}")]
pub struct Refusal {
    /// Which operation (or precondition) was refused, from 0; none when the whole was.
    pub op: Option<u32>,
    /// Why.
    pub refused: Refused,
}

/// What the state machine answers to a [`Command`].
pub type Response = Result<Committed, Refusal>;

impl Command {
    /// The bytes of a log entry.
    pub fn encode(&self) -> Bytes {
        raft_machine::encode(COMMAND_FORMAT, self).into()
    }
}
