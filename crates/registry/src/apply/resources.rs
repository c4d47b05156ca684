//! The operations on one resource.

use bytes::Bytes;
use raft_machine::Batch;

use super::{Applying, Halt, owners_without};
use crate::allocator;
use crate::command::*;
use crate::resource::{Allocation, Metadata, OwnerRef, Stored};
use crate::{keys, limits};

/// Whether the resource is the version that was expected.
pub fn matches(found: &Stored, expected: &Expected) -> bool {
    let metadata = &found.metadata;
    expected
        .revision
        .is_none_or(|revision| revision == metadata.revision)
        && expected.uid.is_none_or(|uid| uid == metadata.uid)
}

impl Applying<'_> {
    pub(super) fn create(&mut self, draft: &Draft) -> Result<Done, Halt> {
        limits::check_draft(draft)?;
        let key = ResourceKey::new(&draft.kind, &draft.name);
        if self.load(&key)?.is_some() {
            return Err(Refused::AlreadyExists(key).into());
        }
        self.check_owners_exist(&draft.owners)?;
        let mut allocations = Vec::new();
        for (pool, want) in &draft.allocate {
            let values = allocator::allocate(&mut self.staged, pool, want, Some(&key))?;
            allocations.extend(values.into_iter().map(|value| Allocation {
                pool: pool.clone(),
                value,
            }));
        }
        check_allocations(&allocations)?;
        let metadata = Metadata {
            name: draft.name.clone(),
            uid: draft.uid,
            revision: self.revision,
            created_revision: self.revision,
            generation: 1,
            created_ms: draft.created_ms,
            deleting_ms: None,
            labels: draft.labels.clone(),
            annotations: draft.annotations.clone(),
            owners: draft.owners.clone(),
            finalizers: draft.finalizers.clone(),
            allocations: allocations.clone(),
        };
        let indexes = sorted(&draft.indexes);
        let (spec, status) = (draft.spec.clone(), draft.status.clone());
        let new = Stored {
            metadata,
            spec,
            status,
            indexes,
        };
        self.replace(&key, None, Some(&new))?;
        Ok(Done::Created { allocations })
    }

    pub(super) fn update(
        &mut self,
        key: &ResourceKey,
        expected: &Expected,
        new: &Replacement,
    ) -> Result<Done, Halt> {
        limits::check_replacement(new)?;
        let old = self.expect(key, expected)?;
        let added: Vec<OwnerRef> = new
            .owners
            .iter()
            .filter(|owner| !old.metadata.owners.contains(owner))
            .cloned()
            .collect();
        self.check_owners_exist(&added)?;
        let deleting = old.metadata.deleting_ms.is_some();
        if deleting
            && !new
                .finalizers
                .iter()
                .all(|name| old.metadata.finalizers.contains(name))
        {
            let why = format!("{key} is being deleted: finalizers can only be removed");
            return Err(Refused::Invalid(why).into());
        }
        let mut stored = old.clone();
        stored.metadata.labels = new.labels.clone();
        stored.metadata.annotations = new.annotations.clone();
        stored.metadata.owners = new.owners.clone();
        stored.metadata.finalizers = new.finalizers.clone();
        stored.indexes = sorted(&new.indexes);
        if stored.spec != new.spec {
            stored.spec = new.spec.clone();
            stored.metadata.generation += 1;
        }
        self.write(key, &old, stored)
    }

    pub(super) fn update_status(
        &mut self,
        key: &ResourceKey,
        expected: &Expected,
        status: &Bytes,
    ) -> Result<Done, Halt> {
        limits::bound("the status", status.len(), limits::SPEC_MAX)?;
        let old = self.expect(key, expected)?;
        let stored = Stored {
            status: status.clone(),
            ..old.clone()
        };
        self.write(key, &old, stored)
    }

    pub(super) fn delete(
        &mut self,
        key: &ResourceKey,
        expected: &Expected,
        now_ms: u64,
    ) -> Result<Done, Halt> {
        let old = self.expect(key, expected)?;
        if old.metadata.finalizers.is_empty() {
            self.remove(key, &old, now_ms)?;
            return Ok(Done::Deleted);
        }
        let mut stored = old.clone();
        stored.metadata.deleting_ms.get_or_insert(now_ms);
        self.write(key, &old, stored)?;
        Ok(Done::Deleting)
    }

    pub(super) fn remove_finalizer(
        &mut self,
        key: &ResourceKey,
        finalizer: &str,
    ) -> Result<Done, Halt> {
        let old = self.expect(key, &Expected::default())?;
        let mut stored = old.clone();
        stored.metadata.finalizers.retain(|name| name != finalizer);
        self.write(key, &old, stored)
    }

    pub(super) fn allocate(
        &mut self,
        pool: &str,
        want: &Want,
        holder: Option<&ResourceKey>,
    ) -> Result<Done, Halt> {
        let values = allocator::allocate(&mut self.staged, pool, want, holder)?;
        if let Some(key) = holder {
            let old = self.expect(key, &Expected::default())?;
            let mut stored = old.clone();
            let held = values.iter().map(|&value| Allocation {
                pool: pool.into(),
                value,
            });
            stored.metadata.allocations.extend(held);
            check_allocations(&stored.metadata.allocations)?;
            self.write(key, &old, stored)?;
        }
        Ok(Done::Allocated(values))
    }

    pub(super) fn release(
        &mut self,
        pool: &str,
        values: &[u128],
        holder: Option<&ResourceKey>,
    ) -> Result<Done, Halt> {
        allocator::release(&mut self.staged, pool, values, holder)?;
        if let Some(key) = holder {
            let old = self.expect(key, &Expected::default())?;
            let mut stored = old.clone();
            let released = |held: &Allocation| held.pool == pool && values.contains(&held.value);
            stored.metadata.allocations.retain(|held| !released(held));
            self.write(key, &old, stored)?;
        }
        Ok(Done::Pool)
    }

    /// Writes a resource that exists, or removes it when it is marked and nothing holds it any more.
    pub(super) fn write(
        &mut self,
        key: &ResourceKey,
        old: &Stored,
        mut new: Stored,
    ) -> Result<Done, Halt> {
        if let Some(deleting_ms) = new.metadata.deleting_ms
            && new.metadata.finalizers.is_empty()
        {
            self.remove(key, old, deleting_ms)?;
            return Ok(Done::Deleted);
        }
        if new != *old {
            new.metadata.revision = self.revision;
            self.replace(key, Some(old), Some(&new))?;
        }
        let Metadata {
            revision,
            generation,
            ..
        } = new.metadata;
        Ok(Done::Written {
            revision,
            generation,
        })
    }

    /// Stages a resource together with all that is derived from it.
    fn replace(
        &mut self,
        key: &ResourceKey,
        old: Option<&Stored>,
        new: Option<&Stored>,
    ) -> Result<(), Halt> {
        let none = Stored::default();
        let (was, is) = (old.unwrap_or(&none), new.unwrap_or(&none));
        for (index, value) in was
            .indexes
            .iter()
            .filter(|entry| !is.indexes.contains(entry))
        {
            self.staged
                .delete(&keys::index(&key.kind, index, value, &key.name))?;
        }
        for (index, value) in is
            .indexes
            .iter()
            .filter(|entry| !was.indexes.contains(entry))
        {
            self.staged
                .put(&keys::index(&key.kind, index, value, &key.name), &[])?;
        }
        for uid in owners_without(&was.metadata.owners, &is.metadata.owners) {
            self.staged
                .delete(&keys::dependant(uid, &key.kind, &key.name))?;
        }
        for uid in owners_without(&is.metadata.owners, &was.metadata.owners) {
            self.staged
                .put(&keys::dependant(uid, &key.kind, &key.name), &[])?;
        }
        self.store(key, new)
    }

    fn remove(&mut self, key: &ResourceKey, old: &Stored, now_ms: u64) -> Result<(), Halt> {
        self.replace(key, Some(old), None)?;
        self.mark_garbage(old.metadata.uid, now_ms)?;
        for held in &old.metadata.allocations {
            allocator::release(&mut self.staged, &held.pool, &[held.value], Some(key))?;
        }
        Ok(())
    }

    fn expect(&self, key: &ResourceKey, expected: &Expected) -> Result<Stored, Halt> {
        let Some(found) = self.load(key)? else {
            return Err(Refused::NotFound(key.clone()).into());
        };
        if !matches(&found, expected) {
            let (key, found) = (key.clone(), found.metadata.revision);
            return Err(Refused::Conflict {
                key,
                expected: *expected,
                found,
            }
            .into());
        }
        Ok(found)
    }

    fn check_owners_exist(&self, owners: &[OwnerRef]) -> Result<(), Halt> {
        for owner in owners {
            let key = ResourceKey::new(&owner.kind, &owner.name);
            let found = self.load(&key)?;
            if found.is_none_or(|found| found.metadata.uid != owner.uid) {
                let why = format!("owner {key} with uid {} does not exist", owner.uid);
                return Err(Refused::Invalid(why).into());
            }
        }
        Ok(())
    }
}

fn check_allocations(allocations: &[Allocation]) -> Result<(), Refused> {
    limits::bound(
        "the list of held values",
        allocations.len(),
        limits::ALLOCATIONS_MAX,
    )
}

fn sorted(indexes: &[(String, String)]) -> Vec<(String, String)> {
    let mut indexes = indexes.to_vec();
    indexes.sort();
    indexes.dedup();
    indexes
}
