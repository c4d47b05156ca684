//! Puts a transaction together from typed resources.

use std::ops::RangeInclusive;

use crate::command::*;
use crate::draft::{self, New};
use crate::error::RegistryError;
use crate::link::Link;
use crate::resource::{Kind, Resource};

/// A transaction in the making; see [`crate::Registry::transaction`].
pub struct TransactionBuilder {
    link: Link,
    transaction: Transaction,
}

impl TransactionBuilder {
    pub(crate) fn new(link: Link) -> Self {
        TransactionBuilder {
            link,
            transaction: Transaction::default(),
        }
    }

    /// Refused operations do not keep the others from taking effect.
    pub fn each_alone(mut self) -> Self {
        self.transaction.atomicity = Atomicity::EachAlone;
        self
    }

    /// Guards the whole: there is such a resource, and it is not being deleted.
    pub fn require<K: Kind>(self, name: &str, expected: Expected) -> Self {
        self.guard(Precondition::Exists(draft::key::<K>(name), expected))
    }

    /// Guards the whole: there is no such resource.
    pub fn require_absent<K: Kind>(self, name: &str) -> Self {
        self.guard(Precondition::Absent(draft::key::<K>(name)))
    }

    /// Guards the whole: no resource of the kind has the value in the index.
    pub fn require_index_free<K: Kind>(self, index: &str, value: &str) -> Self {
        let kind = K::KIND.into();
        self.guard(Precondition::IndexFree {
            kind,
            index: index.into(),
            value: value.into(),
        })
    }

    /// Makes a resource.
    pub fn create<K: Kind>(self, new: &New<K>) -> Self {
        let draft = new.draft(self.link.source());
        self.op(Op::Create(Box::new(draft)))
    }

    /// Writes a resource that was read, unless it has changed since; not its status.
    pub fn update<K: Kind>(self, resource: &Resource<K>) -> Self {
        let key = draft::key::<K>(&resource.metadata.name);
        let new = Box::new(draft::replacement(resource));
        self.op(Op::Update(key, draft::exactly(resource), new))
    }

    /// Writes the status of a resource that was read, unless it has changed since.
    pub fn update_status<K: Kind>(self, resource: &Resource<K>) -> Self {
        let key = draft::key::<K>(&resource.metadata.name);
        let status = draft::status_bytes::<K>(&resource.status);
        self.op(Op::UpdateStatus(key, draft::exactly(resource), status))
    }

    /// Deletes a resource.
    pub fn delete<K: Kind>(self, name: &str, expected: Expected) -> Self {
        let now_ms = self.link.source().wall_ms();
        self.op(Op::Delete(draft::key::<K>(name), expected, now_ms))
    }

    /// Takes a finalizer off a resource.
    pub fn remove_finalizer<K: Kind>(self, name: &str, finalizer: &str) -> Self {
        self.op(Op::RemoveFinalizer(draft::key::<K>(name), finalizer.into()))
    }

    /// Makes a pool.
    pub fn create_pool(self, pool: &str, layout: Layout, range: RangeInclusive<u128>) -> Self {
        let (lo, hi) = range.into_inner();
        self.op(Op::CreatePool {
            pool: pool.into(),
            layout,
            lo,
            hi,
        })
    }

    /// Removes a pool of which nothing is in use.
    pub fn delete_pool(self, pool: &str) -> Self {
        self.op(Op::DeletePool(pool.into()))
    }

    /// Takes values of a pool, for a resource to hold when one is named.
    pub fn allocate(self, pool: &str, want: Want, holder: Option<ResourceKey>) -> Self {
        self.op(Op::Allocate {
            pool: pool.into(),
            want,
            holder,
        })
    }

    /// Gives values back.
    pub fn release(self, pool: &str, values: Vec<u128>, holder: Option<ResourceKey>) -> Self {
        self.op(Op::Release {
            pool: pool.into(),
            values,
            holder,
        })
    }

    /// Adds a precondition.
    pub fn guard(mut self, precondition: Precondition) -> Self {
        self.transaction.preconditions.push(precondition);
        self
    }

    /// Adds an operation.
    pub fn op(mut self, op: Op) -> Self {
        self.transaction.ops.push(op);
        self
    }

    /// Proposes it.
    pub async fn commit(self) -> Result<Committed, RegistryError> {
        self.link
            .propose(&Command::Transact(self.transaction))
            .await
    }

    /// The transaction as it is so far.
    pub fn into_transaction(self) -> Transaction {
        self.transaction
    }
}
