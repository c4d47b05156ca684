//! What a command does to the state.
//!
//! Everything is staged: an operation that is refused is rolled back, a refused transaction leaves
//! no trace, and the changes of a revision are found by comparing what is staged with what was.

use std::collections::BTreeMap;

use bytes::Bytes;
use ids::Revision;
use raft_machine::{Batch, StoreError, View};

use crate::allocator;
use crate::changes::{Change, History, LogState, next};
use crate::command::*;
use crate::resource::{Stored, Uid};
use crate::staged::Staged;
use crate::{keys, limits};

mod garbage;
mod resources;

/// Why an operation ends early: it is refused, or the store failed.
#[derive(Debug)]
pub enum Halt {
    /// A response.
    Refused(Refused),
    /// The node must stop applying.
    Store(StoreError),
}

impl From<Refused> for Halt {
    fn from(refused: Refused) -> Self {
        Halt::Refused(refused)
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Halt::Store(error)
    }
}

/// Applies a command.
pub fn apply(
    batch: &mut dyn Batch,
    history: &History,
    command: &Command,
) -> Result<Response, StoreError> {
    let mut state = LogState::load(&*batch)?;
    let mut work = Applying::new(&*batch, next(state.current));
    let results = match work.run(command) {
        Ok(results) => results,
        Err((op, Halt::Refused(refused))) => return Ok(Err(Refusal { op, refused })),
        Err((_, Halt::Store(error))) => return Err(error),
    };
    let garbage = work.has_garbage()?;
    let (changes, writes) = work.finish()?;
    for (key, value) in writes {
        match value {
            Some(value) => batch.put(&key, &value)?,
            None => batch.delete(&key)?,
        }
    }
    if !changes.is_empty() {
        state.append(batch, history, &changes)?;
    }
    Ok(Ok(Committed {
        revision: state.current,
        results,
        garbage,
    }))
}

type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A command on its way.
struct Applying<'a> {
    staged: Staged<'a>,
    revision: Revision,
    /// What each resource that was written was before.
    originals: BTreeMap<ResourceKey, Option<Vec<u8>>>,
    /// Bytes of old and new values so far, see [`limits::CHANGE_BYTES_MAX`].
    cost: usize,
    /// When the command deleted the last resource that others belong to.
    orphaned_ms: Option<u64>,
}

type Halted = (Option<u32>, Halt);

impl<'a> Applying<'a> {
    fn new(base: &'a dyn View, revision: Revision) -> Self {
        Applying {
            staged: Staged::new(base),
            revision,
            originals: BTreeMap::new(),
            cost: 0,
            orphaned_ms: None,
        }
    }

    fn run(&mut self, command: &Command) -> Result<Vec<Result<Done, Refused>>, Halted> {
        match command {
            Command::Transact(transaction) => self.transact(transaction),
            Command::Collect { now_ms, max } => {
                let max = (*max).min(limits::COLLECT_MAX);
                self.collect(*now_ms, max).map_err(|halt| (None, halt))?;
                Ok(Vec::new())
            }
        }
    }

    fn transact(
        &mut self,
        transaction: &Transaction,
    ) -> Result<Vec<Result<Done, Refused>>, Halted> {
        let len = transaction.ops.len() + transaction.preconditions.len();
        limits::bound("the transaction", len, limits::OPS_MAX).map_err(|r| (None, r.into()))?;
        for (at, precondition) in (0..).zip(&transaction.preconditions) {
            self.check(precondition).map_err(|halt| (Some(at), halt))?;
        }
        let mut results = Vec::with_capacity(transaction.ops.len());
        for (at, op) in (0..).zip(&transaction.ops) {
            self.staged.mark();
            let cost = self.cost;
            match self.op(op) {
                Ok(done) => results.push(Ok(done)),
                Err(Halt::Refused(refused)) if transaction.atomicity == Atomicity::EachAlone => {
                    self.staged.roll_back();
                    self.cost = cost;
                    results.push(Err(refused));
                    continue;
                }
                Err(halt) => return Err((Some(at), halt)),
            }
        }
        if let Some(now_ms) = self.orphaned_ms {
            self.collect(now_ms, limits::COLLECT_INLINE)
                .map_err(|halt| (None, halt))?;
        }
        Ok(results)
    }

    fn check(&self, precondition: &Precondition) -> Result<(), Halt> {
        let failed = |why: String| Err(Refused::PreconditionFailed(why).into());
        match precondition {
            Precondition::Exists(key, expected) => match self.load(key)? {
                None => failed(format!("there is no {key}")),
                Some(found) if found.metadata.deleting_ms.is_some() => {
                    failed(format!("{key} is being deleted"))
                }
                Some(found) if !resources::matches(&found, expected) => {
                    failed(format!("{key} has revision {}", found.metadata.revision))
                }
                Some(_) => Ok(()),
            },
            Precondition::Absent(key) => match self.load(key)? {
                None => Ok(()),
                Some(_) => failed(format!("there is a {key}")),
            },
            Precondition::IndexFree { kind, index, value } => {
                let from = keys::index(kind, index, value, "");
                match first_key(&self.staged, &from, &keys::end_of(&from))? {
                    None => Ok(()),
                    Some(_) => failed(format!("a {kind} has `{value}` in index `{index}`")),
                }
            }
        }
    }

    fn op(&mut self, op: &Op) -> Result<Done, Halt> {
        match op {
            Op::Create(draft) => self.create(draft),
            Op::Update(key, expected, new) => self.update(key, expected, new),
            Op::UpdateStatus(key, expected, status) => self.update_status(key, expected, status),
            Op::Delete(key, expected, now_ms) => self.delete(key, expected, *now_ms),
            Op::RemoveFinalizer(key, finalizer) => self.remove_finalizer(key, finalizer),
            Op::CreatePool {
                pool,
                layout,
                lo,
                hi,
            } => {
                allocator::create(&mut self.staged, pool, *layout, *lo, *hi)?;
                Ok(Done::Pool)
            }
            Op::DeletePool(pool) => {
                allocator::remove(&mut self.staged, pool)?;
                Ok(Done::Pool)
            }
            Op::Allocate { pool, want, holder } => self.allocate(pool, want, holder.as_ref()),
            Op::Release {
                pool,
                values,
                holder,
            } => self.release(pool, values, holder.as_ref()),
        }
    }

    fn load(&self, key: &ResourceKey) -> Result<Option<Stored>, StoreError> {
        let bytes = self.staged.get(&keys::resource(&key.kind, &key.name))?;
        bytes.map(|bytes| Stored::decode(&bytes)).transpose()
    }

    /// Stages what a resource is from now on.
    fn store(&mut self, key: &ResourceKey, new: Option<&Stored>) -> Result<(), Halt> {
        let at = keys::resource(&key.kind, &key.name);
        if !self.originals.contains_key(key) {
            // Written for the first time by this command, or written and rolled back.
            let before = self.staged.get(&at)?;
            self.originals.insert(key.clone(), before);
        }
        let before = self.originals[key].as_ref().map_or(0, Vec::len);
        let bytes = new.map(Stored::encode);
        self.cost += before + bytes.as_ref().map_or(0, Vec::len);
        limits::bound(
            "the transaction's changes",
            self.cost,
            limits::CHANGE_BYTES_MAX,
        )?;
        match bytes {
            Some(bytes) => self.staged.put(&at, &bytes)?,
            None => self.staged.delete(&at)?,
        }
        Ok(())
    }

    fn has_garbage(&self) -> Result<bool, StoreError> {
        Ok(first_key(&self.staged, keys::GARBAGE_FROM, keys::GARBAGE_TO)?.is_some())
    }

    fn finish(self) -> Result<(Vec<Change>, Writes), StoreError> {
        let mut changes = Vec::new();
        for (key, before) in self.originals {
            let after = self.staged.get(&keys::resource(&key.kind, &key.name))?;
            if before != after {
                let ResourceKey { kind, name } = key;
                let (before, after) = (before.map(Bytes::from), after.map(Bytes::from));
                changes.push(Change {
                    kind,
                    name,
                    before,
                    after,
                });
            }
        }
        Ok((changes, self.staged.into_writes()))
    }
}

fn first_key(view: &dyn View, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let mut found = None;
    view.scan(from, Some(to), &mut |key, _| {
        found = Some(key.to_vec());
        std::ops::ControlFlow::Break(())
    })?;
    Ok(found)
}

/// The owners of one list that are not in another.
fn owners_without<'o>(
    owners: &'o [crate::resource::OwnerRef],
    others: &'o [crate::resource::OwnerRef],
) -> impl Iterator<Item = Uid> + 'o {
    let missing =
        |owner: &&crate::resource::OwnerRef| !others.iter().any(|other| other.uid == owner.uid);
    owners.iter().filter(missing).map(|owner| owner.uid)
}
