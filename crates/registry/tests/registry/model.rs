//! What the state machine should do, written plainly: a map that is cloned for each transaction.

use std::collections::BTreeMap;

use registry::*;

/// All resources by kind and name.
pub type World = BTreeMap<(String, String), Stored>;

/// Pools are left out: they have tests of their own.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub world: World,
    pub revision: u64,
}

impl Model {
    /// The results of a transaction, or that it was refused at an operation.
    pub fn transact(&mut self, transaction: &Transaction) -> Result<Vec<bool>, u32> {
        let mut next = self.clone();
        next.revision += 1;
        let mut results = Vec::new();
        for (at, op) in (0..).zip(&transaction.ops) {
            let before = next.world.clone();
            let done = next.op(op).is_some();
            if !done {
                next.world = before;
                if transaction.atomicity == Atomicity::AllOrNothing {
                    return Err(at);
                }
            }
            results.push(done);
        }
        next.collect();
        if next.world != self.world {
            *self = next;
        }
        Ok(results)
    }

    fn op(&mut self, op: &Op) -> Option<()> {
        match op {
            Op::Create(draft) => {
                let key = (draft.kind.clone(), draft.name.clone());
                if self.world.contains_key(&key) || !draft.owners.iter().all(|o| self.lives(o)) {
                    return None;
                }
                self.world.insert(key, self.made(draft));
            }
            Op::Update(key, expected, new) => {
                let mut stored = self.expect(key, expected)?;
                let old = stored.metadata.clone();
                let added = |owner: &&OwnerRef| !old.owners.contains(owner);
                if !new
                    .owners
                    .iter()
                    .filter(added)
                    .all(|owner| self.lives(owner))
                {
                    return None;
                }
                let kept = |name: &String| old.finalizers.contains(name);
                if old.deleting_ms.is_some() && !new.finalizers.iter().all(kept) {
                    return None;
                }
                if stored.spec != new.spec {
                    stored.metadata.generation += 1;
                }
                stored.spec = new.spec.clone();
                stored.indexes = new.indexes.clone();
                stored.metadata.labels = new.labels.clone();
                stored.metadata.annotations = new.annotations.clone();
                stored.metadata.owners = new.owners.clone();
                stored.metadata.finalizers = new.finalizers.clone();
                self.write(key, stored);
            }
            Op::UpdateStatus(key, expected, status) => {
                let mut stored = self.expect(key, expected)?;
                stored.status = status.clone();
                self.write(key, stored);
            }
            Op::Delete(key, expected, now_ms) => {
                let mut stored = self.expect(key, expected)?;
                stored.metadata.deleting_ms.get_or_insert(*now_ms);
                self.write(key, stored);
            }
            Op::RemoveFinalizer(key, finalizer) => {
                let mut stored = self.expect(key, &Expected::default())?;
                stored.metadata.finalizers.retain(|name| name != finalizer);
                self.write(key, stored);
            }
            _ => unreachable!("not generated"),
        }
        Some(())
    }

    fn made(&self, draft: &Draft) -> Stored {
        let metadata = Metadata {
            name: draft.name.clone(),
            uid: draft.uid,
            revision: Revision(self.revision),
            created_revision: Revision(self.revision),
            generation: 1,
            labels: draft.labels.clone(),
            owners: draft.owners.clone(),
            finalizers: draft.finalizers.clone(),
            ..Metadata::default()
        };
        let (spec, indexes) = (draft.spec.clone(), draft.indexes.clone());
        Stored {
            metadata,
            spec,
            indexes,
            ..Stored::default()
        }
    }

    fn write(&mut self, key: &ResourceKey, mut stored: Stored) {
        let key = (key.kind.clone(), key.name.clone());
        if stored.metadata.deleting_ms.is_some() && stored.metadata.finalizers.is_empty() {
            self.world.remove(&key);
            return;
        }
        if self.world[&key] != stored {
            stored.metadata.revision = Revision(self.revision);
            self.world.insert(key, stored);
        }
    }

    fn expect(&self, key: &ResourceKey, expected: &Expected) -> Option<Stored> {
        let found = self.world.get(&(key.kind.clone(), key.name.clone()))?;
        let as_read = expected
            .revision
            .is_none_or(|revision| revision == found.metadata.revision)
            && expected.uid.is_none_or(|uid| uid == found.metadata.uid);
        as_read.then(|| found.clone())
    }

    fn lives(&self, owner: &OwnerRef) -> bool {
        let found = self.world.get(&(owner.kind.clone(), owner.name.clone()));
        found.is_some_and(|found| found.metadata.uid == owner.uid)
    }

    /// Deletes whatever lost its last owner, until nothing does.
    fn collect(&mut self) {
        loop {
            let lost = self.world.iter().find_map(|((kind, name), stored)| {
                let gone = stored
                    .metadata
                    .owners
                    .iter()
                    .find(|owner| !self.lives(owner))?;
                Some((ResourceKey::new(kind, name), gone.uid))
            });
            let Some((key, gone)) = lost else { return };
            let at = (key.kind.clone(), key.name.clone());
            let mut stored = self.world[&at].clone();
            stored.metadata.owners.retain(|owner| owner.uid != gone);
            if stored.metadata.owners.is_empty() {
                stored.metadata.deleting_ms.get_or_insert(7);
            }
            self.write(&key, stored);
        }
    }
}
