//! A site in one process: simulated nodes with gateways and jobs over in-memory groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use ids::{Epoch, GroupId, NodeId, UserId};
use membership::{EpochMap, PlacedServer};
use object_core::api::*;
use object_core::meta::machine::MetaMachine;
use object_core::meta::{Answer, DeletionAttempt, META_FORMAT, MetaStats, Query};
use object_store::gateway::{Gateway, GatewayOptions, GatewayParts};
use object_store::jobs::{JobOptions, JobStatus, Jobs};
use object_store::metrics::ObjectMetrics;
use object_store::placement::*;
use object_store::service::{BlockPeers, BlockService};
use object_store::volume::{BlockStore, StoreOptions};
use raft_machine::local::LocalGroups;
use raft_machine::{Freshness, Groups};
use testkit::sim::{SimDisk, SimNetwork, SimPlatform, SimPlatformConfig, Trace};
use transport::Service;

pub const GROUPS: u32 = 4;
pub const INLINE: usize = 64;
pub const BLOCK: usize = 1000;

pub fn options() -> GatewayOptions {
    GatewayOptions {
        inline_bytes: INLINE,
        block_bytes: BLOCK,
        ..GatewayOptions::default()
    }
}

fn job_options() -> JobOptions {
    JobOptions {
        collect_grace: Duration::ZERO,
        ..JobOptions::default()
    }
}

pub struct Site {
    pub network: SimNetwork,
    pub groups: LocalGroups,
    pub maps: Arc<Maps>,
    pub directory: Arc<Directory>,
    pub nodes: BTreeMap<NodeId, Node>,
    options: GatewayOptions,
}

pub struct Node {
    pub disk: SimDisk,
    pub platform: Arc<SimPlatform>,
    pub store: Arc<BlockStore>,
    pub gateway: Gateway,
    pub jobs: Jobs,
}

impl Site {
    pub async fn new(servers: u64) -> Site {
        Site::with(servers, options()).await
    }

    pub async fn with(servers: u64, options: GatewayOptions) -> Site {
        let groups = LocalGroups::new();
        for group in 1..=GROUPS {
            groups.register(GroupId(group), Arc::new(MetaMachine::new()));
        }
        let network = SimNetwork::new(7, Trace::new());
        let maps = Arc::new(Maps::first(servers));
        let mut site = Site {
            network,
            groups,
            maps,
            directory: Arc::default(),
            nodes: BTreeMap::new(),
            options,
        };
        for node in 1..=servers {
            site.start(NodeId(node), SimDisk::new()).await;
        }
        site
    }

    /// Starts a node on a disk.
    pub async fn start(&mut self, me: NodeId, disk: SimDisk) {
        let config = SimPlatformConfig {
            seed: me.0,
            ..SimPlatformConfig::default()
        };
        let platform = SimPlatform::new(disk.clone(), config);
        let volumes = StoreOptions {
            volume_bytes: 1 << 20,
            reserve_bytes: 0,
        };
        let store = Arc::new(BlockStore::open(platform.clone(), volumes).await.unwrap());
        let transport = self.network.transport_of(me);
        transport.serve(Service::BLOCKS, Arc::new(BlockService::new(store.clone())));
        let peers = BlockPeers::new(me, store.clone(), transport, platform.clone());
        let parts = GatewayParts {
            platform: platform.clone(),
            groups: Arc::new(self.groups.clone()),
            placement: Arc::new(Heard {
                by: me,
                of: self.maps.clone(),
            }),
            directory: self.directory.clone(),
            peers: Arc::new(peers),
            metrics: Arc::new(ObjectMetrics::default()),
        };
        let gateway = Gateway::new(parts, self.options.clone());
        let leads = Arc::new(LeadsAll(me == NodeId(1)));
        let jobs = Jobs::new(&gateway, leads, &job_options());
        self.nodes.insert(
            me,
            Node {
                disk,
                platform,
                store,
                gateway,
                jobs,
            },
        );
    }

    /// Kills a node's process; its disk is kept.
    pub fn kill(&mut self, node: NodeId) -> SimDisk {
        self.network.take_down(node);
        self.nodes.remove(&node).unwrap().disk.restart()
    }

    /// Starts a killed node again.
    pub async fn revive(&mut self, node: NodeId, disk: SimDisk) {
        self.network.bring_up(node);
        self.start(node, disk).await;
    }

    pub fn gateway(&self, node: u64) -> &Gateway {
        &self.nodes[&NodeId(node)].gateway
    }

    pub async fn job(&self, node: u64, name: &str) -> JobStatus {
        self.nodes[&NodeId(node)].jobs.run_once(name).await.unwrap()
    }

    /// Waits, on the simulation's clock, until something holds.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Site) -> bool) {
        let limit = tokio::time::Instant::now() + Duration::from_secs(300);
        while !holds(self).await {
            assert!(tokio::time::Instant::now() < limit, "still not: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Blocks that lack copies, as the nodes say that lead groups.
    pub async fn debt_by_leaders(&self) -> u64 {
        let mut sum = 0;
        for node in self.nodes.values() {
            sum += node.jobs.debt().await.unwrap();
        }
        sum
    }

    /// Blocks on each node.
    pub fn blocks(&self) -> Vec<u64> {
        self.nodes
            .values()
            .map(|node| node.store.stats().blocks)
            .collect()
    }

    /// Counts of all groups together.
    pub async fn stats(&self) -> MetaStats {
        let mut sum = MetaStats::default();
        for group in 1..=GROUPS {
            let query = raft_machine::encode(META_FORMAT, &Query::Stats).into();
            let answer = self
                .groups
                .query(GroupId(group), query, Freshness::Local, Duration::ZERO)
                .await
                .unwrap();
            let Answer::Stats(stats) = raft_machine::decode("stats", META_FORMAT, &answer).unwrap()
            else {
                panic!()
            };
            sum.objects += stats.objects;
            sum.bytes += stats.bytes;
            sum.uploads += stats.uploads;
            sum.pending += stats.pending;
            sum.doomed += stats.doomed;
            sum.debt += stats.debt;
        }
        sum
    }
}

pub fn caller() -> Caller {
    Caller {
        user: UserId([1; 16]),
        name: "owner".into(),
        admin: false,
        may_write: true,
    }
}

pub fn stranger() -> Caller {
    Caller {
        user: UserId([2; 16]),
        name: "stranger".into(),
        admin: false,
        may_write: true,
    }
}

pub fn bytes(len: usize) -> Bytes {
    (0..len)
        .map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect()
}

/// A body in chunks of odd length.
pub fn body(bytes: &Bytes) -> Body {
    let chunks: Vec<BodyChunk> = bytes
        .chunks(777)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    Box::pin(futures::stream::iter(chunks))
}

pub fn put_request(bucket: &str, key: &str) -> PutRequest {
    PutRequest {
        bucket: bucket.into(),
        key: key.into(),
        ..PutRequest::default()
    }
}

pub fn get_request(bucket: &str, key: &str) -> GetRequest {
    GetRequest {
        bucket: bucket.into(),
        key: key.into(),
        ..GetRequest::default()
    }
}

pub async fn put(gateway: &Gateway, key: &str, content: &Bytes) -> Result<Written> {
    let request = PutRequest {
        size: Some(content.len() as u64),
        ..put_request("bucket", key)
    };
    gateway.put(&caller(), request, body(content)).await
}

pub async fn get(gateway: &Gateway, key: &str) -> Result<Bytes> {
    read(gateway.get(&caller(), get_request("bucket", key)).await?).await
}

pub async fn delete(gateway: &Gateway, key: &str) -> Result<()> {
    let request = DeleteRequest {
        bucket: "bucket".into(),
        key: key.into(),
        ..DeleteRequest::default()
    };
    gateway.delete(&caller(), request).await
}

/// The whole body; an error when it breaks off or has another length than said.
pub async fn read(got: Got) -> Result<Bytes> {
    let len = got.len;
    let chunks: Vec<Bytes> = got
        .body
        .map_err(|error| ObjectError::BodyFailed(error.0))
        .try_collect()
        .await?;
    let whole: Bytes = chunks.concat().into();
    assert_eq!(whole.len() as u64, len);
    Ok(whole)
}

/// Drains a body as a slow reader does: a chunk, and the rest later.
pub async fn first_chunk(got: &mut Got) -> Option<BodyChunk> {
    got.body.next().await
}

/// The maps that were published, and how many of them nodes know that are behind.
pub struct Maps {
    published: Mutex<Vec<Arc<EpochMap>>>,
    held: Mutex<BTreeMap<NodeId, usize>>,
}

impl Maps {
    fn first(servers: u64) -> Maps {
        let map = EpochMap::first(Epoch(1), GROUPS, &placed(servers)).unwrap();
        Maps {
            published: Mutex::new(vec![Arc::new(map)]),
            held: Mutex::default(),
        }
    }

    /// Publishes an epoch with so many servers.
    pub fn grow(&self, servers: u64) {
        let mut maps = self.published.lock().unwrap();
        let last = maps.last().unwrap();
        let next = last
            .next(Epoch(last.epoch().0 + 1), &placed(servers))
            .unwrap();
        maps.push(Arc::new(next));
    }

    /// From now on a node hears of no new epoch.
    pub fn hold(&self, node: NodeId) {
        let known = self.published.lock().unwrap().len();
        self.held.lock().unwrap().insert(node, known);
    }

    /// All nodes know all epochs again.
    pub fn catch_up(&self) {
        self.held.lock().unwrap().clear();
    }

    /// The maps that a node has heard of, oldest first.
    fn heard_by(&self, node: NodeId) -> Vec<Arc<EpochMap>> {
        let mut maps = self.published.lock().unwrap().clone();
        let known = self.held.lock().unwrap().get(&node).copied();
        maps.truncate(known.unwrap_or(usize::MAX));
        maps
    }
}

/// The maps as one node knows them.
struct Heard {
    by: NodeId,
    of: Arc<Maps>,
}

impl Heard {
    fn maps(&self) -> Vec<Arc<EpochMap>> {
        self.of.heard_by(self.by)
    }
}

fn placed(servers: u64) -> Vec<PlacedServer> {
    (1..=servers)
        .map(|node| PlacedServer {
            node: NodeId(node),
            weight: 100,
        })
        .collect()
}

impl PlacementSource for Heard {
    fn current(&self) -> Arc<EpochMap> {
        self.maps().last().unwrap().clone()
    }

    fn at(&self, epoch: Epoch) -> Option<Arc<EpochMap>> {
        self.maps().into_iter().find(|map| map.epoch() == epoch)
    }

    fn epochs(&self) -> Vec<Epoch> {
        self.maps().iter().map(|map| map.epoch()).collect()
    }
}

struct LeadsAll(bool);

impl LocalLeadership for LeadsAll {
    fn leads(&self, _group: GroupId) -> bool {
        self.0
    }

    fn groups(&self) -> Vec<GroupId> {
        (1..=GROUPS).map(GroupId).collect()
    }
}

/// The buckets, each with the newest attempt to delete it.
#[derive(Default)]
pub struct Directory {
    buckets: Mutex<BTreeMap<String, (BucketEntry, DeletionAttempt)>>,
    /// What gateways remember wrongly.
    stale: Mutex<BTreeMap<String, BucketEntry>>,
}

impl Directory {
    /// Gateways go on knowing the bucket as it is now.
    pub fn hold(&self, name: &str) {
        let known = self.buckets.lock().unwrap()[name].0.clone();
        self.stale.lock().unwrap().insert(name.into(), known);
    }

    /// Gateways know all buckets again.
    pub fn catch_up(&self) {
        self.stale.lock().unwrap().clear();
    }

    /// Changes a bucket that is in one of the states.
    fn change<T>(
        &self,
        bucket: &BucketEntry,
        in_state: impl FnOnce(BucketState) -> bool,
        change: impl FnOnce(&mut (BucketEntry, DeletionAttempt)) -> T,
    ) -> Outcome<T> {
        let mut buckets = self.buckets.lock().unwrap();
        let found = buckets.get_mut(&bucket.name);
        let found = found.filter(|(there, _)| there.id == bucket.id);
        let found = found.ok_or(DirectoryError::Gone)?;
        if in_state(found.0.state) {
            Ok(change(found))
        } else {
            Err(DirectoryError::Overtaken)
        }
    }
}

fn next_attempt((bucket, attempt): &mut (BucketEntry, DeletionAttempt)) -> DeletionAttempt {
    *attempt = attempt.next();
    bucket.state = BucketState::Deleting(*attempt);
    *attempt
}

type Outcome<T> = std::result::Result<T, DirectoryError>;

#[async_trait]
impl BucketDirectory for Directory {
    async fn create(&self, bucket: NewBucket) -> Outcome<BucketEntry> {
        let mut buckets = self.buckets.lock().unwrap();
        if let Some((there, _)) = buckets.get(&bucket.name) {
            return Err(DirectoryError::Taken(Box::new(there.clone())));
        }
        let NewBucket {
            id,
            name,
            owner,
            owner_name,
            created_ms,
            key_slots,
        } = bucket;
        let state = BucketState::Active;
        let entry = BucketEntry {
            id,
            name: name.clone(),
            owner,
            owner_name,
            created_ms,
            key_slots,
            state,
        };
        buckets.insert(name, (entry.clone(), DeletionAttempt::default()));
        Ok(entry)
    }

    async fn get(&self, name: &str) -> Outcome<Option<BucketEntry>> {
        let stale = self.stale.lock().unwrap().get(name).cloned();
        match stale {
            Some(stale) => Ok(Some(stale)),
            None => self.get_now(name).await,
        }
    }

    async fn get_now(&self, name: &str) -> Outcome<Option<BucketEntry>> {
        let buckets = self.buckets.lock().unwrap();
        Ok(buckets.get(name).map(|(bucket, _)| bucket.clone()))
    }

    async fn list(&self, owner: UserId) -> Outcome<Vec<BucketEntry>> {
        let buckets = self.buckets.lock().unwrap();
        let buckets = buckets.values().map(|(bucket, _)| bucket.clone());
        Ok(buckets.filter(|bucket| bucket.owner == owner).collect())
    }

    fn being_deleted(&self) -> Vec<BucketEntry> {
        let buckets = self.buckets.lock().unwrap();
        let buckets = buckets.values().map(|(bucket, _)| bucket.clone());
        buckets
            .filter(|bucket| bucket.state != BucketState::Active)
            .collect()
    }

    async fn begin_deletion(&self, bucket: &BucketEntry) -> Outcome<DeletionAttempt> {
        self.change(bucket, |_: BucketState| true, next_attempt)
    }

    async fn resume_deletion(&self, bucket: &BucketEntry) -> Outcome<DeletionAttempt> {
        self.change(
            bucket,
            |state: BucketState| state == bucket.state,
            next_attempt,
        )
    }

    async fn call_deletion_off(
        &self,
        bucket: &BucketEntry,
        attempt: DeletionAttempt,
    ) -> Outcome<()> {
        let newest = |state: BucketState| state == BucketState::Deleting(attempt);
        self.change(bucket, newest, |(bucket, _)| {
            bucket.state = BucketState::Active
        })
    }

    async fn remove(&self, bucket: &BucketEntry, attempt: DeletionAttempt) -> Outcome<()> {
        let newest = |state: BucketState| state == BucketState::Deleting(attempt);
        match self.change(bucket, newest, |_| ()) {
            Ok(()) => {
                self.buckets.lock().unwrap().remove(&bucket.name);
                Ok(())
            }
            Err(DirectoryError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
