//! The typed client of the registry, the same on every node.
//!
//! Reads say how fresh they must be. Writes are durable when they return; a write that failed as
//! unavailable may still take effect later. Reads on data paths belong to a [`crate::Cache`].

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use ids::{GroupId, Revision};
use raft_machine::{Freshness, Groups, StoreError, encode};

use crate::allocator::Pool;
use crate::command::*;
use crate::draft::{self, New};
use crate::error::RegistryError;
use crate::hub::Hub;
use crate::limits;
use crate::link::{IdSource, Link};
use crate::query::{Answer, ListQuery, Query, Requirement};
use crate::resource::{Kind, Metadata, Resource};
use crate::signal::ChangeSignal;
use crate::transaction::TransactionBuilder;
use crate::watch::{RawWatch, Watch};

/// Attempts of a read-modify-write.
const MODIFY_ATTEMPTS: u32 = 16;
/// Bytes of a command of a bulk write, about.
const BULK_BYTES: usize = 512 << 10;
/// Operations of a command of a bulk write.
const BULK_OPS: usize = 4_096;
/// Commands of a bulk write that are under way at a time.
const BULK_IN_FLIGHT: usize = 4;
/// How often a whole list is begun again because its revision went out of reach.
const LIST_ATTEMPTS: u32 = 4;
/// Commands of one call that collects garbage.
const COLLECT_COMMANDS: u32 = 1_000;

/// What to list.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// What names must start with.
    pub prefix: String,
    /// An (index, value) that must be among the resource's.
    pub index: Option<(String, String)>,
    /// What labels must satisfy.
    pub selector: Vec<Requirement>,
    /// Items of a page; 0 for the most.
    pub limit: u32,
    /// Where the page begins: [`Page::next`] of the one before.
    pub after: Option<String>,
    /// The state to list, when it is not the newest: [`Page::revision`] of the first page.
    pub at: Option<Revision>,
    /// How fresh the newest must be.
    pub freshness: Freshness,
}

impl Default for ListOptions {
    fn default() -> Self {
        ListOptions {
            prefix: String::new(),
            index: None,
            selector: Vec::new(),
            limit: 0,
            after: None,
            at: None,
            freshness: Freshness::Linearizable,
        }
    }
}

/// Resources of one state, by name.
#[derive(Debug, Clone)]
pub struct Page<K: Kind> {
    /// The resources.
    pub items: Vec<Resource<K>>,
    /// The state that was listed: where a watch goes on.
    pub revision: Revision,
    /// Where the next page begins, when there may be more; a page can be short or empty.
    pub next: Option<String>,
}

/// Encoded resources of one state, by name; for doors that know kinds only at run time.
#[derive(Debug, Clone)]
pub struct RawPage {
    /// The resources, as [`crate::Stored`].
    pub items: Vec<Bytes>,
    /// See [`Page::revision`].
    pub revision: Revision,
    /// See [`Page::next`].
    pub next: Option<String>,
}

/// What to delete exactly.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeleteOptions {
    /// The version that is meant; any when nothing is given.
    pub expected: Expected,
}

/// What came of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The resource is gone.
    Gone,
    /// The resource goes once its finalizers are removed.
    Waiting,
}

/// What came of a bulk write.
#[derive(Debug, Clone, Default)]
pub struct BulkReport {
    /// How many resources were made.
    pub created: usize,
    /// The others, by their place in what was given.
    pub refused: Vec<(usize, Refused)>,
    /// The newest revision that was written.
    pub revision: Revision,
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct Registry {
    link: Link,
    hub: Arc<Hub>,
}

impl Registry {
    /// A client of the registry in `group`. `changes` is the signal that the state machine on this
    /// node was made with; without a replica here, watches ask every second.
    pub fn new(
        groups: Arc<dyn Groups>,
        group: GroupId,
        source: Arc<dyn IdSource>,
        changes: ChangeSignal,
    ) -> Self {
        let link = Link::new(groups, group, source);
        Registry {
            hub: Arc::new(Hub::new(link.clone(), changes)),
            link,
        }
    }

    /// The same client with another deadline for calls.
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Registry {
            link: self.link.with_deadline(deadline),
            hub: self.hub,
        }
    }

    /// Stops following the changes; watches end with an error. For shutting down.
    pub async fn stop(&self) {
        self.hub.stop().await;
    }

    /// The newest revision.
    pub async fn revision(&self, fresh: Freshness) -> Result<Revision, RegistryError> {
        self.link.revision(fresh).await
    }

    // === Reads ===

    /// One resource.
    pub async fn get<K: Kind>(
        &self,
        name: &str,
        fresh: Freshness,
    ) -> Result<Option<Resource<K>>, RegistryError> {
        let item = self.get_raw(draft::key::<K>(name), fresh).await?;
        Ok(item.map(|bytes| Resource::decode(&bytes)).transpose()?)
    }

    /// One resource as it is stored.
    pub async fn get_raw(
        &self,
        key: ResourceKey,
        fresh: Freshness,
    ) -> Result<Option<Bytes>, RegistryError> {
        match self.link.ask(&Query::Get(key), fresh).await? {
            Answer::Item { item, .. } => Ok(item),
            _ => Err(RegistryError::Mismatch),
        }
    }

    /// A page of resources.
    pub async fn list<K: Kind>(&self, options: &ListOptions) -> Result<Page<K>, RegistryError> {
        let RawPage {
            items,
            revision,
            next,
        } = self.list_raw(K::KIND, options).await?;
        let decoded: Result<Vec<_>, StoreError> =
            items.iter().map(|bytes| Resource::decode(bytes)).collect();
        Ok(Page {
            items: decoded?,
            revision,
            next,
        })
    }

    /// A page of resources as they are stored.
    pub async fn list_raw(
        &self,
        kind: &str,
        options: &ListOptions,
    ) -> Result<RawPage, RegistryError> {
        let query = ListQuery {
            kind: kind.into(),
            prefix: options.prefix.clone(),
            index: options.index.clone(),
            selector: options.selector.clone(),
            limit: options.limit,
            after: options.after.clone(),
            at: options.at,
        };
        match self
            .link
            .ask(&Query::List(query), options.freshness)
            .await?
        {
            Answer::Page {
                revision,
                items,
                next,
            } => Ok(RawPage {
                items,
                revision,
                next,
            }),
            Answer::NotYet { current } => Err(RegistryError::NotYet {
                wanted: options.at.unwrap_or_default(),
                current,
            }),
            _ => Err(RegistryError::Mismatch),
        }
    }

    /// All resources of one state. Begins again when that state goes out of reach on the way.
    pub async fn list_all<K: Kind>(&self, options: &ListOptions) -> Result<Page<K>, RegistryError> {
        for _ in 1..LIST_ATTEMPTS {
            match self.list_once(options).await {
                Err(RegistryError::TooOld { .. } | RegistryError::NotYet { .. })
                    if options.at.is_none() => {}
                result => return result,
            }
        }
        self.list_once(options).await
    }

    async fn list_once<K: Kind>(&self, options: &ListOptions) -> Result<Page<K>, RegistryError> {
        let mut all = self.list::<K>(options).await?;
        let mut options = ListOptions {
            at: Some(all.revision),
            ..options.clone()
        };
        while let Some(next) = all.next.take() {
            options.after = Some(next);
            let page = self.list(&options).await?;
            all.items.extend(page.items);
            all.next = page.next;
        }
        Ok(all)
    }

    /// Follows the resources of a kind: all changes after `from`, in order, each once.
    pub fn watch<K: Kind>(&self, from: Revision) -> Watch<K> {
        Watch::new(self.watch_raw(K::KIND, from))
    }

    /// Follows the resources of a kind as they are stored.
    pub fn watch_raw(&self, kind: &str, from: Revision) -> RawWatch {
        RawWatch::new(self.hub.clone(), kind, from)
    }

    // === Writes ===

    /// Makes a resource.
    pub async fn create<K: Kind>(
        &self,
        name: &str,
        spec: K::Spec,
    ) -> Result<Resource<K>, RegistryError> {
        self.create_with(New::named(name, spec)).await
    }

    /// Makes a resource with labels, owners, values of pools and so on.
    pub async fn create_with<K: Kind>(&self, new: New<K>) -> Result<Resource<K>, RegistryError> {
        let draft = new.draft(self.link.source());
        let (done, revision) = self.one(Op::Create(Box::new(draft.clone()))).await?;
        match done {
            Done::Created { allocations } => Ok(new.created(&draft, revision, allocations)),
            _ => Err(RegistryError::Mismatch),
        }
    }

    /// Makes many resources, each for itself, in as few log entries as their size allows.
    pub async fn bulk_create<K: Kind>(
        &self,
        all: impl IntoIterator<Item = New<K>>,
    ) -> Result<BulkReport, RegistryError> {
        let source = self.link.source();
        let ops = all
            .into_iter()
            .map(|new| Op::Create(Box::new(new.draft(source))));
        let commands = chunks(ops.collect());
        let committed: Vec<Committed> = futures::stream::iter(commands)
            .map(|ops| async move {
                let atomicity = Atomicity::EachAlone;
                self.transact(Transaction {
                    preconditions: Vec::new(),
                    ops,
                    atomicity,
                })
                .await
            })
            .buffered(BULK_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut report = BulkReport::default();
        let revisions = committed.iter().map(|one| one.revision);
        report.revision = revisions.max().unwrap_or_default();
        let results = committed.into_iter().flat_map(|one| one.results);
        for (at, result) in results.enumerate() {
            match result {
                Ok(_) => report.created += 1,
                Err(refused) => report.refused.push((at, refused)),
            }
        }
        Ok(report)
    }

    /// Writes a resource that was read, unless it has changed since; not its status. Returns it
    /// with its new versions; when it was only waiting for finalizers that are gone now, so is it.
    pub async fn update<K: Kind>(
        &self,
        resource: &Resource<K>,
    ) -> Result<Resource<K>, RegistryError> {
        let key = draft::key::<K>(&resource.metadata.name);
        let new = Box::new(draft::replacement(resource));
        let (done, revision) = self
            .one(Op::Update(key, draft::exactly(resource), new))
            .await?;
        written(resource, done, revision)
    }

    /// Writes the status of a resource that was read, unless it has changed since.
    pub async fn update_status<K: Kind>(
        &self,
        resource: &Resource<K>,
    ) -> Result<Resource<K>, RegistryError> {
        let key = draft::key::<K>(&resource.metadata.name);
        let status = draft::status_bytes::<K>(&resource.status);
        let op = Op::UpdateStatus(key, draft::exactly(resource), status);
        let (done, revision) = self.one(op).await?;
        written(resource, done, revision)
    }

    /// Reads a resource, lets `change` work on its spec, and writes it; again when others wrote.
    pub async fn modify<K: Kind>(
        &self,
        name: &str,
        mut change: impl FnMut(&mut K::Spec),
    ) -> Result<Resource<K>, RegistryError> {
        self.modify_resource(name, |resource: &mut Resource<K>| {
            change(&mut resource.spec)
        })
        .await
    }

    /// As [`Registry::modify`], with labels, owners and so on in reach; not the status.
    pub async fn modify_resource<K: Kind>(
        &self,
        name: &str,
        mut change: impl FnMut(&mut Resource<K>),
    ) -> Result<Resource<K>, RegistryError> {
        for _ in 0..MODIFY_ATTEMPTS {
            let mut resource = self.existing::<K>(name).await?;
            change(&mut resource);
            match self.update(&resource).await {
                Err(error) if error.is_conflict() => {}
                result => return result,
            }
        }
        Err(RegistryError::Contended {
            attempts: MODIFY_ATTEMPTS,
        })
    }

    /// As [`Registry::modify`], for the status.
    pub async fn modify_status<K: Kind>(
        &self,
        name: &str,
        mut change: impl FnMut(&mut K::Status),
    ) -> Result<Resource<K>, RegistryError> {
        for _ in 0..MODIFY_ATTEMPTS {
            let mut resource = self.existing::<K>(name).await?;
            change(&mut resource.status);
            match self.update_status(&resource).await {
                Err(error) if error.is_conflict() => {}
                result => return result,
            }
        }
        Err(RegistryError::Contended {
            attempts: MODIFY_ATTEMPTS,
        })
    }

    /// Deletes a resource.
    pub async fn delete<K: Kind>(
        &self,
        name: &str,
        options: DeleteOptions,
    ) -> Result<Deletion, RegistryError> {
        let now_ms = self.link.source().wall_ms();
        let op = Op::Delete(draft::key::<K>(name), options.expected, now_ms);
        match self.one(op).await?.0 {
            Done::Deleted => Ok(Deletion::Gone),
            Done::Deleting => Ok(Deletion::Waiting),
            _ => Err(RegistryError::Mismatch),
        }
    }

    /// Takes a finalizer off a resource; the resource goes with the last one when it waits for that.
    pub async fn remove_finalizer<K: Kind>(
        &self,
        name: &str,
        finalizer: &str,
    ) -> Result<(), RegistryError> {
        self.one(Op::RemoveFinalizer(draft::key::<K>(name), finalizer.into()))
            .await?;
        Ok(())
    }

    /// Starts a transaction over several resources.
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder::new(self.link.clone())
    }

    /// Proposes a transaction.
    pub async fn transact(&self, transaction: Transaction) -> Result<Committed, RegistryError> {
        self.link.propose(&Command::Transact(transaction)).await
    }

    /// Deletes what belonged to deleted owners, as far as transactions left it over. For a
    /// reconciler on one node; harmless on several. Returns whether nothing is left.
    pub async fn collect_garbage(&self) -> Result<bool, RegistryError> {
        let answer = self
            .link
            .ask(&Query::CurrentRevision, Freshness::Local)
            .await?;
        let Answer::Revision { garbage, .. } = answer else {
            return Err(RegistryError::Mismatch);
        };
        if !garbage {
            return Ok(true);
        }
        for _ in 0..COLLECT_COMMANDS {
            let now_ms = self.link.source().wall_ms();
            let command = Command::Collect {
                now_ms,
                max: limits::COLLECT_MAX,
            };
            if !self.link.propose(&command).await?.garbage {
                return Ok(true);
            }
        }
        Ok(false)
    }

    // === Pools ===

    /// Makes a pool.
    pub async fn create_pool(
        &self,
        pool: &str,
        layout: Layout,
        range: RangeInclusive<u128>,
    ) -> Result<(), RegistryError> {
        self.transaction()
            .create_pool(pool, layout, range)
            .commit()
            .await
            .map(|_| ())
    }

    /// Takes values of a pool that no resource holds.
    pub async fn allocate(&self, pool: &str, want: Want) -> Result<Vec<u128>, RegistryError> {
        let op = Op::Allocate {
            pool: pool.into(),
            want,
            holder: None,
        };
        match self.one(op).await?.0 {
            Done::Allocated(values) => Ok(values),
            _ => Err(RegistryError::Mismatch),
        }
    }

    /// Gives values back that no resource holds.
    pub async fn release(&self, pool: &str, values: Vec<u128>) -> Result<(), RegistryError> {
        self.one(Op::Release {
            pool: pool.into(),
            values,
            holder: None,
        })
        .await
        .map(|_| ())
    }

    /// A pool's range and use.
    pub async fn pool(&self, pool: &str, fresh: Freshness) -> Result<Option<Pool>, RegistryError> {
        match self.link.ask(&Query::Pool(pool.into()), fresh).await? {
            Answer::Pool(pool) => Ok(pool),
            _ => Err(RegistryError::Mismatch),
        }
    }

    /// The resource that holds a value.
    pub async fn holder(
        &self,
        pool: &str,
        value: u128,
        fresh: Freshness,
    ) -> Result<Option<ResourceKey>, RegistryError> {
        match self
            .link
            .ask(&Query::Holder(pool.into(), value), fresh)
            .await?
        {
            Answer::Holder(holder) => Ok(holder),
            _ => Err(RegistryError::Mismatch),
        }
    }

    async fn one(&self, op: Op) -> Result<(Done, Revision), RegistryError> {
        let transaction = Transaction {
            ops: vec![op],
            ..Transaction::default()
        };
        let mut committed = self.transact(transaction).await?;
        match committed.results.pop() {
            Some(Ok(done)) => Ok((done, committed.revision)),
            _ => Err(RegistryError::Mismatch),
        }
    }

    async fn existing<K: Kind>(&self, name: &str) -> Result<Resource<K>, RegistryError> {
        let found = self.get(name, Freshness::Linearizable).await?;
        found.ok_or_else(|| {
            let refused = Refused::NotFound(draft::key::<K>(name));
            RegistryError::Refused(Refusal { op: None, refused })
        })
    }
}

fn written<K: Kind>(
    resource: &Resource<K>,
    done: Done,
    committed: Revision,
) -> Result<Resource<K>, RegistryError> {
    let old = &resource.metadata;
    let (revision, generation) = match done {
        Done::Written {
            revision,
            generation,
        } => (revision, generation),
        Done::Deleted => (committed, old.generation),
        _ => return Err(RegistryError::Mismatch),
    };
    let metadata = Metadata {
        revision,
        generation,
        ..old.clone()
    };
    Ok(Resource {
        metadata,
        ..resource.clone()
    })
}

/// Splits operations into the lists of commands of a bounded size.
fn chunks(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut chunks: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        let len = encode(COMMAND_FORMAT, &op).len();
        let full = chunks.last().is_none_or(|chunk| chunk.len() >= BULK_OPS);
        if full || bytes + len > BULK_BYTES {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += len;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(op);
        }
    }
    chunks
}
