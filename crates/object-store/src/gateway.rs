//! The gateway: the object store as doors see it, on every server.
//!
//! A gateway keeps no state of its own but caches and budgets: any node serves any request. Metadata goes to the key's
//! placement group, bytes to the blocks' servers.
//!
//! Consistency: a write is acknowledged when its metadata is committed and every block is durable on a quorum of its
//! servers; reads ask the group linearizably. Conditions of writes are judged inside the group. So is whether a gateway
//! is behind: with a bucket that is not there any more, or with a map of fewer servers.
//! Retries: proposals are repeated under one operation id; a write whose answer is [`ObjectError::Unavailable`] may
//! have happened.
//! Cancellation: a dropped request leaves at most a pending segment, which a background job gives up.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ids::{GroupId, UploadId};
use object_core::api::*;
use object_core::meta::KeyRef;
use object_core::slots::{KEY_SLOTS_DEFAULT, group_of_slot, slot_of_key};
use platform::Platform;
use raft_machine::Groups;

use crate::metrics::ObjectMetrics;
use crate::placement::{BucketDirectory, BucketEntry, DirectoryError, PlacementSource};
use crate::service::BlockPeers;

pub(crate) mod abandoned;
pub(crate) mod ask;
mod body;
mod buckets;
mod copies;
mod copy;
mod delete;
mod fenced;
mod ingest;
mod limits;
mod list;
mod multipart;
mod put;
mod read;
mod refusals;
mod whereabouts;

pub use copies::write_quorum;

use abandoned::Abandoned;
use ask::MetaGroups;
use fenced::Successors;
use limits::{Limits, ReadTimes, SlowNodes};

/// Bounds and sizes of a gateway.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// Objects and parts of up to this size live in the metadata.
    pub inline_bytes: usize,
    /// Larger ones are cut into blocks of this size.
    pub block_bytes: usize,
    /// Blocks of one body that are on their way to their servers at one time.
    pub blocks_in_flight: usize,
    /// Blocks of one body that are read ahead of the reader.
    pub read_ahead: usize,
    /// Memory for blocks of bodies on their way in, and as much for those on their way out; half as much for copies that
    /// are still on their way when a write was answered.
    pub buffer_bytes: usize,
    /// Requests that are served at one time.
    pub requests_max: usize,
    /// How long a request waits for a place before it is refused.
    pub admission_wait: Duration,
    /// How long metadata is asked for before a request is answered as unavailable.
    pub deadline: Duration,
    /// How long the copies beyond the quorum are waited for.
    pub laggard_wait: Duration,
    /// Pause before a copy that failed is sent a second time.
    pub copy_retry_pause: Duration,
    /// The longest wait for a copy before a second one is asked.
    pub hedge_after: Duration,
    /// The longest pause of an incoming body.
    pub body_idle: Duration,
    /// Key slots of new buckets.
    pub key_slots: u16,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        GatewayOptions {
            inline_bytes: INLINE_BYTES_DEFAULT,
            block_bytes: BLOCK_BYTES_DEFAULT,
            blocks_in_flight: 4,
            read_ahead: 2,
            buffer_bytes: 128 << 20,
            requests_max: 1024,
            admission_wait: Duration::from_secs(1),
            deadline: Duration::from_secs(30),
            laggard_wait: Duration::from_millis(250),
            copy_retry_pause: Duration::from_millis(50),
            hedge_after: Duration::from_millis(200),
            body_idle: Duration::from_secs(60),
            key_slots: KEY_SLOTS_DEFAULT,
        }
    }
}

/// What a gateway stands on.
pub struct GatewayParts {
    /// The machine.
    pub platform: Arc<dyn Platform>,
    /// The placement groups.
    pub groups: Arc<dyn Groups>,
    /// Where things are.
    pub placement: Arc<dyn PlacementSource>,
    /// Which buckets there are.
    pub directory: Arc<dyn BucketDirectory>,
    /// The nodes' blocks.
    pub peers: Arc<BlockPeers>,
    /// Where events are counted.
    pub metrics: Arc<ObjectMetrics>,
}

/// See the module.
#[derive(Clone)]
pub struct Gateway(Arc<Context>);

/// What all requests of a gateway share.
pub(crate) struct Context {
    pub platform: Arc<dyn Platform>,
    pub meta: MetaGroups,
    pub placement: Arc<dyn PlacementSource>,
    pub directory: Arc<dyn BucketDirectory>,
    pub peers: Arc<BlockPeers>,
    pub metrics: Arc<ObjectMetrics>,
    pub abandoned: Arc<Abandoned>,
    pub options: GatewayOptions,
    pub limits: Limits,
    pub slow: SlowNodes,
    pub read_times: ReadTimes,
    pub successors: Successors,
}

/// A key of a bucket that the caller may use, and the group that keeps it.
#[derive(Clone)]
pub(crate) struct Target {
    pub bucket: BucketEntry,
    pub at: KeyRef,
    pub group: GroupId,
}

impl Gateway {
    /// A gateway over its parts.
    pub fn new(parts: GatewayParts, options: GatewayOptions) -> Self {
        let GatewayParts {
            platform,
            groups,
            placement,
            directory,
            peers,
            metrics,
        } = parts;
        let meta = MetaGroups::new(groups, platform.clone(), metrics.clone(), options.deadline);
        let limits = Limits::new(
            options.requests_max,
            options.buffer_bytes,
            options.admission_wait,
            metrics.clone(),
        );
        Gateway(Arc::new(Context {
            platform,
            meta,
            placement,
            directory,
            peers,
            metrics,
            abandoned: Arc::default(),
            options,
            limits,
            slow: SlowNodes::default(),
            read_times: ReadTimes::default(),
            successors: Successors::default(),
        }))
    }

    pub(crate) fn context(&self) -> Arc<Context> {
        self.0.clone()
    }

    /// Counters of this gateway.
    pub fn metrics(&self) -> Arc<ObjectMetrics> {
        self.0.metrics.clone()
    }
}

impl Context {
    /// The bucket of a name, if the caller may use it.
    /// Whether the caller may write at all is asked where a request comes in, see the `Objects` below.
    pub async fn bucket(&self, caller: &Caller, name: &str) -> Result<BucketEntry> {
        let found = self.directory.get(name).await;
        let found = found.map(|known| known.map(|known| self.successors.newest(known)));
        usable(caller, name, found)
    }

    /// The bucket that has a name now, if the caller may use it.
    pub async fn bucket_now(&self, caller: &Caller, name: &str) -> Result<BucketEntry> {
        usable(caller, name, self.directory.get_now(name).await)
    }

    /// A key in a bucket, if the caller may use it.
    pub async fn target(&self, caller: &Caller, bucket: &str, key: &str) -> Result<Target> {
        object_core::names::check_key(key)?;
        let bucket = self.bucket(caller, bucket).await?;
        Ok(self.target_in(&bucket, key))
    }

    fn target_in(&self, bucket: &BucketEntry, key: &str) -> Target {
        let slot = slot_of_key(bucket.id, key, bucket.key_slots);
        let group = group_of_slot(bucket.id, slot, self.placement.current().groups());
        let at = KeyRef {
            bucket: bucket.id,
            slot,
            key: key.to_owned(),
        };
        Target {
            bucket: bucket.clone(),
            at,
            group,
        }
    }

    /// A bucket's slots by group, groups ascending.
    pub fn slots_by_group(&self, bucket: &BucketEntry) -> Vec<(GroupId, Vec<u16>)> {
        let groups = self.placement.current().groups();
        let mut by_group = std::collections::BTreeMap::<GroupId, Vec<u16>>::new();
        for slot in 0..bucket.key_slots {
            by_group
                .entry(group_of_slot(bucket.id, slot, groups))
                .or_default()
                .push(slot);
        }
        by_group.into_iter().collect()
    }

    pub fn now_ms(&self) -> u64 {
        self.platform.wall_ms().0
    }
}

fn usable(
    caller: &Caller,
    name: &str,
    found: std::result::Result<Option<BucketEntry>, DirectoryError>,
) -> Result<BucketEntry> {
    let found = found.map_err(|error| refusals::directory(name, error))?;
    let bucket = found.ok_or_else(|| ObjectError::NoSuchBucket(name.to_owned()))?;
    if bucket.owner != caller.user && !caller.admin {
        return Err(ObjectError::AccessDenied);
    }
    Ok(bucket)
}

#[async_trait]
impl Objects for Gateway {
    async fn create_bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo> {
        caller.check_may_write()?;
        self.0.create_bucket(caller, name).await
    }

    async fn head_bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo> {
        self.0.head_bucket(caller, name).await
    }

    async fn list_buckets(&self, caller: &Caller) -> Result<Vec<BucketInfo>> {
        self.0.list_buckets(caller).await
    }

    async fn delete_bucket(&self, caller: &Caller, name: &str) -> Result<()> {
        caller.check_may_write()?;
        let place = self.0.limits.request().await?;
        self.0.delete_bucket(caller, name, place).await
    }

    async fn put(&self, caller: &Caller, request: PutRequest, body: Body) -> Result<Written> {
        caller.check_may_write()?;
        let _place = self.0.limits.request().await?;
        self.0.put(caller, request, body).await
    }

    async fn get(&self, caller: &Caller, request: GetRequest) -> Result<Got> {
        let (context, request) = (&self.0, &request);
        let read = || async move {
            let place = context.limits.request().await?;
            context.get(caller, request.clone(), place).await
        };
        let absent = refusals::absent(request.version);
        context
            .read_key_past_fence(caller, &request.bucket, absent, read)
            .await
    }

    async fn head(&self, caller: &Caller, request: GetRequest) -> Result<Got> {
        let _place = self.0.limits.request().await?;
        let (context, request) = (&self.0, &request);
        let read = || async move { context.head(caller, request.clone()).await };
        let absent = refusals::absent(request.version);
        context
            .read_key_past_fence(caller, &request.bucket, absent, read)
            .await
    }

    async fn delete(&self, caller: &Caller, request: DeleteRequest) -> Result<()> {
        caller.check_may_write()?;
        let _place = self.0.limits.request().await?;
        self.0.delete(caller, request).await
    }

    async fn delete_many(&self, caller: &Caller, requests: Vec<DeleteRequest>) -> Vec<Result<()>> {
        if let Err(refused) = caller.check_may_write() {
            return requests.iter().map(|_| Err(refused.clone())).collect();
        }
        match self.0.limits.request().await {
            Ok(_place) => self.0.delete_many(caller, requests).await,
            Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn copy(&self, caller: &Caller, request: CopyRequest) -> Result<Written> {
        caller.check_may_write()?;
        let (context, request) = (&self.0, &request);
        let copy = || async move {
            let place = context.limits.request().await?;
            context.copy(caller, request.clone(), place).await
        };
        let source = &request.source;
        let absent = refusals::absent(source.version);
        context
            .read_key_past_fence(caller, &source.bucket, absent, copy)
            .await
    }

    async fn list(&self, caller: &Caller, request: ListRequest) -> Result<ListPage> {
        let _place = self.0.limits.request().await?;
        self.0.list(caller, request).await
    }

    async fn create_upload(
        &self,
        caller: &Caller,
        request: CreateUploadRequest,
    ) -> Result<UploadId> {
        caller.check_may_write()?;
        let _place = self.0.limits.request().await?;
        self.0.create_upload(caller, request).await
    }

    async fn put_part(
        &self,
        caller: &Caller,
        request: PartRequest,
        body: Body,
    ) -> Result<PartInfo> {
        caller.check_may_write()?;
        let _place = self.0.limits.request().await?;
        self.0.put_part(caller, request, body).await
    }

    async fn copy_part(
        &self,
        caller: &Caller,
        request: PartRequest,
        source: CopySource,
    ) -> Result<PartInfo> {
        caller.check_may_write()?;
        let place = self.0.limits.request().await?;
        let bucket = source.bucket.clone();
        match self.0.copy_part(caller, request, source, place).await {
            Ok(part) => Ok(part),
            Err(error) => Err(self.0.met_fence(caller, &bucket, error).await),
        }
    }

    async fn list_parts(
        &self,
        caller: &Caller,
        bucket: &str,
        key: &str,
        upload: UploadId,
        after: u16,
        max_parts: usize,
    ) -> Result<PartPage> {
        let _place = self.0.limits.request().await?;
        let parts = self
            .0
            .parts_of(caller, bucket, key, upload, after, max_parts);
        let (_, page) = parts.await?;
        Ok(page)
    }

    async fn list_uploads(
        &self,
        caller: &Caller,
        list: ListRequest,
        after_upload: Option<UploadId>,
    ) -> Result<UploadPage> {
        let _place = self.0.limits.request().await?;
        self.0.list_uploads(caller, list, after_upload).await
    }

    async fn complete_upload(&self, caller: &Caller, request: CompleteRequest) -> Result<Written> {
        caller.check_may_write()?;
        let _place = self.0.limits.request().await?;
        self.0.complete_upload(caller, request).await
    }

    async fn abort_upload(
        &self,
        caller: &Caller,
        bucket: &str,
        key: &str,
        upload: UploadId,
    ) -> Result<()> {
        caller.check_may_write()?;
        let _place = self.0.limits.request().await?;
        let target = self.0.target(caller, bucket, key).await?;
        self.0.abort_upload(&target, upload).await
    }

    async fn whereabouts(&self, caller: &Caller, bucket: &str, key: &str) -> Result<Whereabouts> {
        let _place = self.0.limits.request().await?;
        let context = &self.0;
        let read = || async move { context.whereabouts(caller, bucket, key).await };
        context
            .read_key_past_fence(caller, bucket, ObjectError::NoSuchKey, read)
            .await
    }
}
