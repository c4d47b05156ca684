//! A node: everything that one process runs, put together in one place.
//!
//! configure → build ([`Node::start`]) → run → drain ([`Node::stop`]). Parts know each other through the traits of the
//! crates below; only here are they wired.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ids::{GroupId, Incarnation, NodeId, OperationId, REGISTRY_GROUP};
use membership::kinds::ServerSpec;
use object_s3::{DoorOptions, S3Door};
use object_store::gateway::{Gateway, GatewayParts};
use object_store::jobs::{JobOptions, Jobs};
use object_store::metrics::ObjectMetrics;
use object_store::placement::LocalLeadership;
use object_store::service::{BlockPeers, BlockService};
use object_store::volume::{BlockStore, StoreOptions};
use platform::Platform;
use platform::system::SystemPlatform;
use raft_groups::{Machines, Options, RaftGroups};
use raft_machine::Machine;
use raft_wal::{Wal, WalOptions};
use registry::{
    Cache, CacheOptions, ChangeSignal, IdSource, Registry, RegistryMachine, RegistryOptions, Uid,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use transport::tls::{TlsConfig, TlsTransport};
use transport::{Service, Transport};

pub mod admin;
mod buckets;
mod certificate;
pub mod doors;
pub mod folder;
pub mod found;
mod http;
mod keys;
pub mod kinds;
mod remote;
pub mod settings;
mod site;
pub mod status;
pub mod tls;
pub mod topology;

use buckets::Buckets;
use doors::Doors;
use folder::{Folder, Listen};
use found::{FOUNDING, JoinDoor, NodeSelf};
use keys::{HEAR_EVERY, Keys};
use kinds::{AccessKey, Bucket, Placement, Server, User};
use settings::Settings;
use topology::Topology;

/// How long the parts of a node may take to settle when it stops.
const DRAIN: Duration = Duration::from_secs(10);
/// A founder's registry answers at once; this bounds a disk that doesn't.
const FOUND_LIMIT: Duration = Duration::from_secs(30);

/// A running node.
pub struct Node {
    /// Its data folder.
    pub folder: Arc<Folder>,
    /// Its number.
    pub id: NodeId,
    /// The machine.
    pub platform: Arc<dyn Platform>,
    /// Its groups.
    pub groups: Arc<RaftGroups>,
    /// The site's registry.
    pub registry: Arc<Registry>,
    /// Servers and placement.
    pub topology: Arc<Topology>,
    /// The way to other nodes.
    pub transport: Arc<TlsTransport>,
    /// The object store.
    pub gateway: Gateway,
    /// Its background work.
    pub jobs: Arc<Jobs>,
    /// Blocks on this node.
    pub blocks: Arc<BlockStore>,
    /// Opens and seals secrets.
    pub site_key: Arc<identity::SiteKey>,
    /// Where it listens.
    pub listen: Listen,
    /// How its doors for clients are open.
    pub doors: Arc<Doors>,
    /// The access keys that it honours.
    pub keys: Arc<Keys>,
    /// The site.
    pub site: ids::SiteId,
    wal: Arc<Wal>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    serving: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

/// A cache that knows when it last was the truth.
fn heard<K: registry::Kind>() -> CacheOptions<K> {
    CacheOptions {
        index: None,
        hear_every: Some(HEAR_EVERY),
    }
}

struct Ids(Arc<dyn Platform>);

impl IdSource for Ids {
    fn uid(&self) -> Uid {
        let mut bytes = [0; 16];
        self.0.fill_random(&mut bytes);
        Uid(bytes)
    }

    fn operation(&self) -> OperationId {
        OperationId::random(&mut self.0.rng())
    }

    fn wall_ms(&self) -> u64 {
        self.0.wall_ms().0
    }
}

struct SiteMachines(ChangeSignal);

impl Machines for SiteMachines {
    fn machine(&self, group: GroupId) -> Arc<dyn Machine> {
        match group {
            REGISTRY_GROUP => Arc::new(RegistryMachine::new(
                self.0.clone(),
                RegistryOptions::default(),
            )),
            _ => Arc::new(object_core::meta::machine::MetaMachine::new()),
        }
    }
}

struct Leadership(Arc<RaftGroups>);

impl LocalLeadership for Leadership {
    fn leads(&self, group: GroupId) -> bool {
        self.0.leads(group)
    }

    fn groups(&self) -> Vec<GroupId> {
        self.0
            .ids()
            .into_iter()
            .filter(|group| *group != REGISTRY_GROUP)
            .collect()
    }
}

/// Binds an address; a taken port is said in words.
async fn bind(what: &str, address: &str) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| {
        format!("can't listen on {address} for {what}: stop what uses it, or name another address")
    })
}

impl Node {
    /// Locks the folder, makes what it lacks (a new site, unless the folder is a joined one's) and starts everything.
    pub async fn start(path: &Path, settings: &Settings) -> Result<Arc<Node>> {
        let folder = Arc::new(Folder::lock(path)?);
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform::new(path)?);
        let own = match NodeSelf::load(&folder)? {
            Some(own) => own,
            None => {
                let listen = settings.listen.clone();
                found::found(
                    &folder,
                    &*platform,
                    listen,
                    settings.site_name.clone(),
                    settings.groups,
                )?;
                NodeSelf::load(&folder)?.context("the folder that was just made can't be read")?
            }
        };
        Self::build(folder, platform, own, settings).await
    }

    async fn build(
        folder: Arc<Folder>,
        platform: Arc<dyn Platform>,
        mut own: NodeSelf,
        settings: &Settings,
    ) -> Result<Arc<Node>> {
        let (id, site, site_key) = (own.marker.node, own.marker.site, own.site_key.clone());
        let wanted = settings.listen_or(&own.marker.listen);
        let doors = Arc::new(Doors::new(settings, &wanted)?);
        let node_listener = bind("other nodes", &wanted.node).await?;
        let s3_listener = bind("S3", &wanted.s3).await?;
        let http_listener = bind("health and metrics", &wanted.http).await?;
        let listen = Listen {
            node: node_listener.local_addr()?.to_string(),
            s3: s3_listener.local_addr()?.to_string(),
            http: http_listener.local_addr()?.to_string(),
        };
        if own.marker.listen != listen {
            own.marker.listen = listen.clone();
            folder.set_marker(&own.marker)?;
        }
        doors.note(&folder, &listen)?;
        let spec = ServerSpec {
            address: settings
                .advertise
                .clone()
                .unwrap_or_else(|| listen.node.clone()),
            s3_address: listen.s3.clone(),
            http_address: listen.http.clone(),
            weight: 100,
            joined_ms: platform.wall_ms().0,
            capacity_bytes: platform.disk().space().map_or(0, |space| space.total),
        };
        let topology = Arc::new(Topology::new(id, own.known.clone()));
        topology.note(id, spec.clone());
        let identity = own.tls();
        let config = TlsConfig {
            site,
            node: id,
            listener: node_listener,
            identity,
        };
        let transport = TlsTransport::start(config, topology.clone())?;
        let wal = Wal::open(platform.clone(), "wal", WalOptions::default())
            .await
            .context("can't open the log")?;
        let wal = Arc::new(wal);
        let signal = ChangeSignal::new();
        let groups = RaftGroups::start(
            platform.clone(),
            transport.clone() as Arc<dyn Transport>,
            wal.clone(),
            Arc::new(SiteMachines(signal.clone())),
            topology.clone(),
            Options::new(id, Incarnation::random(&mut platform.rng())),
        )
        .await?;
        let source = Arc::new(Ids(platform.clone()));
        let registry = Arc::new(Registry::new(
            groups.clone(),
            REGISTRY_GROUP,
            source,
            signal,
        ));
        groups.open(REGISTRY_GROUP).await?;
        if folder.secret_path(FOUNDING).exists() {
            let founding = async {
                groups.bootstrap(REGISTRY_GROUP).await?;
                for group in 1..=found::founding(&folder)?.groups {
                    groups.bootstrap(GroupId(group)).await?;
                }
                site::found(
                    &folder,
                    &*platform,
                    &registry,
                    site,
                    &site_key,
                    (id, spec.clone()),
                )
                .await
            };
            tokio::time::timeout(FOUND_LIMIT, founding)
                .await
                .context("the new site did not come up in time")??;
        }
        transport.serve_joins(Arc::new(JoinDoor {
            site,
            platform: platform.clone(),
            registry: registry.clone(),
            site_key: site_key.clone(),
            topology: topology.clone(),
        }));
        let servers = Arc::new(Cache::<Server>::start(&registry));
        let maps = Arc::new(Cache::<Placement>::start(&registry));
        let users = Arc::new(Cache::<User>::start_with(&registry, heard()));
        let access_keys = Arc::new(Cache::<AccessKey>::start_with(&registry, heard()));
        let buckets = Arc::new(Cache::<Bucket>::start(&registry));
        let keys = Keys::new(settings.identity_cache_ttl);
        let mut tasks = vec![
            site::follow(
                folder.clone(),
                topology.clone(),
                groups.clone(),
                servers.clone(),
                maps.clone(),
            ),
            site::publish_epochs(registry.clone(), groups.clone(), servers, maps),
            site::collect_garbage(registry.clone(), groups.clone()),
            site::announce_until_done(registry.clone(), id, spec),
            keys.follow(site_key.clone(), users, access_keys),
            certificate::renew_when_due(
                folder.clone(),
                platform.clone(),
                transport.clone(),
                topology.clone(),
                own.certificate,
            ),
        ];
        tasks.extend(doors.tls.as_ref().map(|tls| tls.follow()));
        let stop = CancellationToken::new();
        let blocks = Arc::new(BlockStore::open(platform.clone(), StoreOptions::default()).await?);
        let peers = Arc::new(BlockPeers::new(
            id,
            blocks.clone(),
            transport.clone() as Arc<dyn Transport>,
            platform.clone(),
        ));
        transport.serve(Service::BLOCKS, Arc::new(BlockService::new(blocks.clone())));
        topology.wait_for_map().await;
        let parts = GatewayParts {
            platform: platform.clone(),
            groups: groups.clone(),
            placement: topology.clone(),
            directory: Arc::new(Buckets::new(registry.clone(), buckets)),
            peers,
            metrics: Arc::new(ObjectMetrics::default()),
        };
        let gateway = Gateway::new(parts, settings.gateway.clone());
        let jobs = Arc::new(Jobs::new(
            &gateway,
            Arc::new(Leadership(groups.clone())),
            &JobOptions {
                repair_bytes_per_s: settings.repair_bytes_per_s,
                ..JobOptions::default()
            },
        ));
        let running = jobs.clone();
        tasks.push(tokio::spawn(async move { running.run().await }));
        let node = Arc::new(Node {
            folder,
            id,
            platform,
            groups,
            registry,
            topology,
            transport,
            gateway,
            jobs,
            blocks,
            site_key,
            listen,
            doors,
            keys,
            site,
            wal,
            stop,
            tasks,
            serving: std::sync::Mutex::default(),
        });
        status::serve(&node);
        node.serve(admin::serve_unix(&node)?);
        node.serve(admin::serve_http(&node, http_listener));
        node.serve(node.serve_s3(s3_listener, settings));
        Ok(node)
    }

    fn serve(&self, task: JoinHandle<()>) {
        self.serving
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(task);
    }

    fn serve_s3(&self, listener: TcpListener, settings: &Settings) -> JoinHandle<()> {
        let mut options = DoorOptions {
            request_id_seed: self.random_u64(),
            max_connections: settings.s3_connections_max,
            max_requests: settings.s3_requests_max,
            ..DoorOptions::default()
        };
        options.base_domains.extend(settings.s3_domain.clone());
        let tls = self.doors.tls_source();
        let door = S3Door::new(Arc::new(self.gateway.clone()), self.keys.clone(), options);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            door.serve(listener, tls, async move { stop.cancelled().await })
                .await;
        })
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.platform.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Is cancelled when the node is about to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// The counters of the log.
    pub fn wal_stats(&self) -> raft_wal::WalStats {
        self.wal.stats()
    }

    /// Why the log stopped, if it did: then the node must stop too.
    pub fn wal_ended(&self) -> Option<raft_wal::WalError> {
        self.wal.ended()
    }

    /// Lets requests end, then stops everything in the reverse order of its start.
    pub async fn stop(&self) {
        self.stop.cancel();
        let serving: Vec<_> = self
            .serving
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .drain(..)
            .collect();
        let drained = tokio::time::timeout(DRAIN, futures::future::join_all(serving)).await;
        if drained.is_err() {
            tracing::warn!("some requests were cut off");
        }
        for task in &self.tasks {
            task.abort();
        }
        if let Err(error) = self.blocks.checkpoint().await {
            tracing::warn!(%error, "the index of blocks was not written; the next start reads the volumes");
        }
        self.registry.stop().await;
        self.groups.shutdown().await;
        if let Err(error) = self.wal.close().await {
            tracing::warn!(%error, "the log did not close cleanly");
        }
        let _ = tokio::time::timeout(DRAIN, self.transport.shutdown()).await;
    }
}
