//! Typed resources as they go into commands.

use std::collections::BTreeMap;

use bytes::Bytes;
use ids::Revision;
use raft_machine::encode;

use crate::command::{Draft, Expected, Replacement, ResourceKey, Want};
use crate::link::IdSource;
use crate::resource::{Allocation, Kind, Metadata, OwnerRef, Resource};

/// A resource to be created.
#[derive(Debug, Clone)]
pub struct New<K: Kind> {
    /// Its name.
    pub name: String,
    /// What is wanted.
    pub spec: K::Spec,
    /// What is known already.
    pub status: K::Status,
    /// For selection.
    pub labels: BTreeMap<String, String>,
    /// For anything else.
    pub annotations: BTreeMap<String, String>,
    /// What it belongs to; must exist.
    pub owners: Vec<OwnerRef>,
    /// Who must agree before it goes away.
    pub finalizers: Vec<String>,
    /// Values that it is to hold, as (pool, want); found in the metadata of the result.
    pub allocate: Vec<(String, Want)>,
}

impl<K: Kind> New<K> {
    /// A resource with nothing but name and spec.
    pub fn named(name: impl Into<String>, spec: K::Spec) -> Self {
        New {
            name: name.into(),
            spec,
            status: K::Status::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            owners: Vec::new(),
            finalizers: Vec::new(),
            allocate: Vec::new(),
        }
    }

    /// Adds a label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Makes it belong to another resource.
    pub fn owned_by<O: Kind>(mut self, owner: &Resource<O>) -> Self {
        self.owners.push(owner.metadata.as_owner::<O>());
        self
    }

    /// Adds a finalizer.
    pub fn finalizer(mut self, name: impl Into<String>) -> Self {
        self.finalizers.push(name.into());
        self
    }

    /// Asks for values of a pool.
    pub fn allocate(mut self, pool: impl Into<String>, want: Want) -> Self {
        self.allocate.push((pool.into(), want));
        self
    }

    /// As it goes into a command.
    pub fn draft(&self, source: &dyn IdSource) -> Draft {
        Draft {
            kind: K::KIND.into(),
            name: self.name.clone(),
            uid: source.uid(),
            created_ms: source.wall_ms(),
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            owners: self.owners.clone(),
            finalizers: self.finalizers.clone(),
            spec: encode(K::FORMAT, &self.spec).into(),
            status: status_bytes::<K>(&self.status),
            indexes: indexes::<K>(&self.spec),
            allocate: self.allocate.clone(),
        }
    }

    /// The resource, once the draft took effect.
    pub(crate) fn created(
        self,
        draft: &Draft,
        revision: Revision,
        allocations: Vec<Allocation>,
    ) -> Resource<K> {
        let metadata = Metadata {
            name: self.name,
            uid: draft.uid,
            revision,
            created_revision: revision,
            generation: 1,
            created_ms: draft.created_ms,
            deleting_ms: None,
            labels: self.labels,
            annotations: self.annotations,
            owners: self.owners,
            finalizers: self.finalizers,
            allocations,
        };
        Resource {
            metadata,
            spec: self.spec,
            status: self.status,
        }
    }
}

/// The key of a resource of a kind.
pub fn key<K: Kind>(name: &str) -> ResourceKey {
    ResourceKey::new(K::KIND, name)
}

/// Exactly the version that was read.
pub fn exactly<K: Kind>(resource: &Resource<K>) -> Expected {
    let Metadata { revision, uid, .. } = resource.metadata;
    Expected {
        revision: Some(revision),
        uid: Some(uid),
    }
}

/// All of a resource that an update replaces.
pub fn replacement<K: Kind>(resource: &Resource<K>) -> Replacement {
    let metadata = resource.metadata.clone();
    Replacement {
        labels: metadata.labels,
        annotations: metadata.annotations,
        owners: metadata.owners,
        finalizers: metadata.finalizers,
        spec: encode(K::FORMAT, &resource.spec).into(),
        indexes: indexes::<K>(&resource.spec),
    }
}

/// The encoded status; nothing for the default.
pub fn status_bytes<K: Kind>(status: &K::Status) -> Bytes {
    if *status == K::Status::default() {
        return Bytes::new();
    }
    encode(K::FORMAT, status).into()
}

fn indexes<K: Kind>(spec: &K::Spec) -> Vec<(String, String)> {
    K::indexes(spec)
        .into_iter()
        .map(|(index, value)| (index.into(), value))
        .collect()
}
