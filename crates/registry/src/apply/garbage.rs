//! What belonged to a deleted owner goes too, in bounded steps.
//!
//! A deleted resource that others name as owner leaves an entry. Collecting visits its dependants:
//! each loses the owner, and is deleted when that was the last one. Dependants of dependants leave
//! entries of their own, so a tree of any size and depth is worked off by repeated commands.

use std::ops::ControlFlow;

use raft_machine::{Batch, StoreError, View};

use super::{Applying, Halt, first_key};
use crate::command::{Expected, Refused, ResourceKey};
use crate::resource::Uid;
use crate::{keys, limits};

/// Collecting stops before a transaction's changes reach this many bytes.
const COST_STOP: usize = limits::CHANGE_BYTES_MAX / 4;

impl Applying<'_> {
    /// Leaves an entry when something names the owner.
    pub(super) fn mark_garbage(&mut self, owner: Uid, now_ms: u64) -> Result<(), StoreError> {
        let from = keys::dependants(owner);
        if first_key(&self.staged, &from, &keys::end_of(&from))?.is_some() {
            self.staged.put(&keys::garbage(owner), &[])?;
            self.orphaned_ms = Some(now_ms);
        }
        Ok(())
    }

    /// Visits up to `max` dependants of deleted owners.
    pub(super) fn collect(&mut self, now_ms: u64, max: u32) -> Result<(), Halt> {
        let mut left = max as usize;
        while left > 0 && self.cost < COST_STOP {
            let entry = first_key(&self.staged, keys::GARBAGE_FROM, keys::GARBAGE_TO)?;
            let Some(owner) = entry.as_deref().and_then(keys::parse_garbage) else {
                break;
            };
            let dependants = self.dependants(owner, left)?;
            if dependants.is_empty() {
                self.staged.delete(&keys::garbage(owner))?;
                continue;
            }
            for key in dependants {
                if self.cost >= COST_STOP {
                    return Ok(());
                }
                self.disown(&key, owner, now_ms)?;
                left -= 1;
            }
        }
        Ok(())
    }

    fn dependants(&self, owner: Uid, max: usize) -> Result<Vec<ResourceKey>, StoreError> {
        let from = keys::dependants(owner);
        let mut found = Vec::new();
        self.staged
            .scan(&from, Some(&keys::end_of(&from)), &mut |key, _| {
                if let Some((kind, name)) = keys::parse_dependant(key) {
                    found.push(ResourceKey::new(kind, name));
                }
                if found.len() < max {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        Ok(found)
    }

    /// Takes a deleted owner off a resource, and deletes the resource when it was the last one.
    fn disown(&mut self, key: &ResourceKey, owner: Uid, now_ms: u64) -> Result<(), Halt> {
        let Some(old) = self.load(key)? else {
            return Err(StoreError::Damaged(format!("{key} has owners and does not exist")).into());
        };
        let mut new = old.clone();
        new.metadata.owners.retain(|other| other.uid != owner);
        if !new.metadata.owners.is_empty() {
            self.write(key, &old, new)?;
            return Ok(());
        }
        if !new.metadata.finalizers.is_empty() {
            new.metadata.deleting_ms.get_or_insert(now_ms);
            self.write(key, &old, new)?;
            return Ok(());
        }
        match self.delete(key, &Expected::default(), now_ms) {
            Err(Halt::Refused(refused)) => Err(unexpected(key, &refused).into()),
            other => other.map(|_| ()),
        }
    }
}

/// What is stored can always be deleted; if not, the state contradicts itself.
fn unexpected(key: &ResourceKey, refused: &Refused) -> StoreError {
    StoreError::Damaged(format!("{key} can't be collected: {refused}"))
}
