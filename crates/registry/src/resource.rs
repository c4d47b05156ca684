//! What the registry stores: resources, in the shape that Kubernetes made common.
//!
//! A typed resource is a [`Kind`] with a spec (what its users want) and a status (what was found to
//! be so). The state machine knows only [`Stored`]: metadata, two byte strings and index entries.
//!
//! Invariants:
//! - a name belongs to one resource of its kind at a time; the [`Uid`] tells incarnations apart;
//! - `revision` is that of the transaction that wrote the resource last, `generation` counts the
//!   changes of the spec, from 1;
//! - a resource with `deleting_ms` set goes away when its last finalizer does, and never comes back.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use ids::Revision;
use raft_machine::{StoreError, decode, encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The newest format of [`Stored`].
pub const STORED_FORMAT: u8 = 1;

/// A kind of resource with Rust types for spec and status.
pub trait Kind: Sized + Send + Sync + 'static {
    /// Group and version, as `core.skerry/v1`; for doors, not part of any key.
    const API_VERSION: &'static str;
    /// The name of the kind: the first part of every key, so it never changes.
    const KIND: &'static str;
    /// The format that specs and statuses are written in.
    const FORMAT: u8;
    /// What the resource's users want.
    type Spec: Serialize + DeserializeOwned + Clone + fmt::Debug + Send + Sync + PartialEq;
    /// What was found to be so.
    type Status: Serialize
        + DeserializeOwned
        + Clone
        + fmt::Debug
        + Send
        + Sync
        + PartialEq
        + Default;

    /// Entries of secondary indexes, as (index, value); a resource may have several in one index.
    fn indexes(spec: &Self::Spec) -> Vec<(&'static str, String)> {
        let _ = spec;
        Vec::new()
    }

    /// Reads a spec of this or an older format.
    fn decode_spec(bytes: &[u8]) -> Result<Self::Spec, StoreError> {
        decode(Self::KIND, Self::FORMAT, bytes)
    }

    /// Reads a status of this or an older format.
    fn decode_status(bytes: &[u8]) -> Result<Self::Status, StoreError> {
        decode(Self::KIND, Self::FORMAT, bytes)
    }
}

/// Tells one incarnation of a name from the next: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Uid(pub [u8; 16]);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uid({self})")
    }
}

/// A resource that this one belongs to: when all owners are gone it is deleted too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OwnerRef {
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The incarnation that is meant.
    pub uid: Uid,
}

/// A value of an allocator's pool that a resource holds until it goes away or releases it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allocation {
    /// The pool.
    pub pool: String,
    /// The value that was given.
    pub value: u128,
}

/// What every resource has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// Unique within the kind.
    pub name: String,
    /// The incarnation.
    pub uid: Uid,
    /// The transaction that wrote the resource last.
    pub revision: Revision,
    /// The transaction that created it.
    pub created_revision: Revision,
    /// How often the spec was written with a new value, from 1.
    pub generation: u64,
    /// The proposer's wall clock at creation.
    pub created_ms: u64,
    /// The proposer's wall clock when deletion was asked for, while finalizers hold it up.
    pub deleting_ms: Option<u64>,
    /// For selection.
    pub labels: BTreeMap<String, String>,
    /// For anything else.
    pub annotations: BTreeMap<String, String>,
    /// What the resource belongs to.
    pub owners: Vec<OwnerRef>,
    /// Who must agree before the resource goes away.
    pub finalizers: Vec<String>,
    /// Values of pools that the resource holds; written by the state machine only.
    pub allocations: Vec<Allocation>,
}

impl Metadata {
    /// A reference for the `owners` of a resource that belongs to this one.
    pub fn as_owner<K: Kind>(&self) -> OwnerRef {
        OwnerRef {
            kind: K::KIND.into(),
            name: self.name.clone(),
            uid: self.uid,
        }
    }

    /// The values that the resource holds of a pool.
    pub fn allocated<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = u128> + 'a {
        self.allocations
            .iter()
            .filter(move |held| held.pool == pool)
            .map(|held| held.value)
    }
}

/// A resource with typed spec and status.
pub struct Resource<K: Kind> {
    /// Name, versions, labels and ties.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: K::Spec,
    /// What is so.
    pub status: K::Status,
}

impl<K: Kind> Resource<K> {
    /// Reads what the state machine keeps.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let stored = Stored::decode(bytes)?;
        let status = match &stored.status[..] {
            [] => K::Status::default(),
            bytes => K::decode_status(bytes)?,
        };
        Ok(Resource {
            spec: K::decode_spec(&stored.spec)?,
            metadata: stored.metadata,
            status,
        })
    }
}

impl<K: Kind> Clone for Resource<K> {
    fn clone(&self) -> Self {
        Resource {
            metadata: self.metadata.clone(),
            spec: self.spec.clone(),
            status: self.status.clone(),
        }
    }
}

impl<K: Kind> PartialEq for Resource<K> {
    fn eq(&self, other: &Self) -> bool {
        self.metadata == other.metadata && self.spec == other.spec && self.status == other.status
    }
}

impl<K: Kind> fmt::Debug for Resource<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(K::KIND)
            .field("metadata", &self.metadata)
            .field("spec", &self.spec)
            .field("status", &self.status)
            .finish()
    }
}

/// A resource as the state machine keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stored {
    /// Name, versions, labels and ties.
    pub metadata: Metadata,
    /// The encoded spec.
    pub spec: Bytes,
    /// The encoded status; empty stands for the default.
    pub status: Bytes,
    /// Entries of secondary indexes, as (index, value); sorted, each once.
    pub indexes: Vec<(String, String)>,
}

impl Stored {
    /// The bytes kept in the store.
    pub fn encode(&self) -> Vec<u8> {
        encode(STORED_FORMAT, self)
    }

    /// Reads what [`Stored::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        decode("resource", STORED_FORMAT, bytes)
    }
}
