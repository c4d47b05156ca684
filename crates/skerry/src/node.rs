//! A node: everything that one process runs, put together in one place.
//!
//! configure → build ([`Node::start`]) → run → drain ([`Node::stop`]). Parts know each other through the traits of the
//! crates below; only here are they wired.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use ids::{GroupId, Incarnation, NodeId, OperationId, REGISTRY_GROUP};
use membership::kinds::ServerSpec;
use object_s3::{DoorOptions, S3Door};
use object_store::gateway::{Gateway, GatewayParts};
use object_store::jobs::Jobs;
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
mod join_door;
mod keys;
pub mod kinds;
mod metrics;
mod observed;
pub mod reach;
mod remote;
mod requests;
pub mod settings;
mod site;
pub mod status;
#[cfg(test)]
mod test_site;
pub mod tls;
pub mod topology;
pub mod versioned;
mod volumes;

use buckets::Buckets;
use certificate::Renewal;
use doors::Doors;
use folder::{Folder, Listen, Marker};
use found::{FOUNDING, NodeSelf};
use join_door::JoinDoor;
use keys::{CONFIRM_WAIT, HEAR_EVERY, Keys};
use kinds::{AccessKey, Bucket, Expelled, Placement, Server, User};
use observed::Observed;
use requests::Requests;
use settings::{OpenFiles, Settings};
use status::Endpoints;
use topology::Topology;

/// How long requests may take to end when the node stops; more than the S3 door gives them itself.
const DRAIN: Duration = Duration::from_secs(32);
/// How long the connections to other nodes may take to close then.
const CLOSE: Duration = Duration::from_secs(10);
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
    /// What was counted of requests.
    pub requests: Arc<Requests>,
    /// What it looks at again and again.
    pub observed: Observed,
    /// When its certificate expires.
    pub certificate_expires_ms: Arc<AtomicU64>,
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

/// A node's listeners, bound.
pub struct Listeners {
    node: TcpListener,
    s3: TcpListener,
    http: TcpListener,
}

impl Listeners {
    /// Takes the ports that a node is to listen on.
    pub async fn bind(wanted: &Listen) -> Result<Self> {
        Ok(Listeners {
            node: bind("other nodes", &wanted.node).await?,
            s3: bind("S3", &wanted.s3).await?,
            http: bind("health and metrics", &wanted.http).await?,
        })
    }

    /// Where they listen, with the ports that were picked.
    fn listen(&self) -> Result<Listen> {
        Ok(Listen {
            node: self.node.local_addr()?.to_string(),
            s3: self.s3.local_addr()?.to_string(),
            http: self.http.local_addr()?.to_string(),
        })
    }
}

impl Node {
    /// Locks the folder, makes what it lacks (a new site, unless the folder is a joined one's) and starts everything.
    pub async fn start(path: &Path, settings: &Settings) -> Result<Arc<Node>> {
        let folder = Arc::new(Folder::lock(path)?);
        let started = Self::start_in(folder.clone(), settings).await;
        if started.is_err() {
            folder.take_back();
        }
        started
    }

    /// What can be refused is refused before anything is written.
    async fn start_in(folder: Arc<Folder>, settings: &Settings) -> Result<Arc<Node>> {
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform::new(folder.path())?);
        let known = NodeSelf::load(&folder)?;
        let marker = known.as_ref().map(|own| &own.marker);
        if marker.is_some_and(|marker| marker.started) {
            folder.check_parts()?;
        }
        if known.is_none() {
            found::may_found(folder.path())?;
        }
        let settings = settings.or_last(marker);
        let doors = Arc::new(Doors::new(&settings, &settings.listen)?);
        let listeners = Listeners::bind(&settings.listen).await?;
        folder.make_private()?;
        let own = match known {
            Some(own) => own,
            None => {
                found::found(
                    &folder,
                    &*platform,
                    listeners.listen()?,
                    settings.site_name.clone(),
                    settings.groups,
                )?;
                NodeSelf::load(&folder)?.context("the folder that was just made can't be read")?
            }
        };
        let settings = settings.within(OpenFiles::of_this_process());
        Self::build(folder, platform, own, &settings, doors, listeners).await
    }

    async fn build(
        folder: Arc<Folder>,
        platform: Arc<dyn Platform>,
        mut own: NodeSelf,
        settings: &Settings,
        doors: Arc<Doors>,
        listeners: Listeners,
    ) -> Result<Arc<Node>> {
        let (id, site, site_key) = (own.marker.node, own.marker.site, own.site_key.clone());
        crate::logs::name_node(id);
        let listen = listeners.listen()?;
        let advertise = settings.advertise.clone();
        let address = advertise.clone().unwrap_or_else(|| listen.node.clone());
        reach::check(&address, own.others())?;
        own.renew_if_due(&folder, &*platform);
        let marker = Marker {
            listen: listen.clone(),
            advertise,
            ..own.marker.clone()
        };
        folder.set_marker(&marker)?;
        doors.note(&folder, &listen)?;
        let spec = ServerSpec {
            address,
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
            listener: listeners.node,
            identity,
        };
        let transport = TlsTransport::start(config, topology.clone())?;
        transport.admit_by(topology.clone());
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
            Options {
                alone_since: folder.locked_at().into(),
                ..Options::new(id, Incarnation::random(&mut platform.rng()))
            },
        )
        .await
        .with_context(|| {
            let database = folder.path().join("state/groups.redb");
            format!("can't open the groups of {}", database.display())
        })?;
        let source = Arc::new(Ids(platform.clone()));
        let registry = Arc::new(Registry::new(
            groups.clone(),
            REGISTRY_GROUP,
            source,
            signal,
        ));
        groups.open(REGISTRY_GROUP).await?;
        let is_new = !own.marker.started;
        if folder.secret_path(FOUNDING).exists() {
            tracing::info!(%site, "this machine founds a site");
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
        } else if is_new {
            tracing::info!(%site, "this machine joined a site");
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
        let expelled = Arc::new(Cache::<Expelled>::start(&registry));
        let users = Arc::new(Cache::<User>::start_with(&registry, heard()));
        let access_keys = Arc::new(Cache::<AccessKey>::start_with(&registry, heard()));
        let buckets = Arc::new(Cache::<Bucket>::start(&registry));
        let ttl = settings.identity_cache_ttl;
        let keys = Keys::new(ttl, folder.clone(), platform.clone());
        let renewal = Renewal {
            folder: folder.clone(),
            platform: platform.clone(),
            registry: registry.clone(),
            site_key: site_key.clone(),
            topology: topology.clone(),
        };
        let expires_ms = Arc::new(AtomicU64::new(own.certificate.validity.not_after_ms));
        let mut tasks = vec![
            site::follow(
                folder.clone(),
                platform.clone(),
                topology.clone(),
                groups.clone(),
                servers.clone(),
                maps.clone(),
                expelled,
            ),
            site::publish_epochs(
                registry.clone(),
                groups.clone(),
                transport.clone() as Arc<dyn Transport>,
                servers,
                maps,
            ),
            site::collect_garbage(registry.clone(), groups.clone()),
            site::announce_until_done(
                registry.clone(),
                transport.clone() as Arc<dyn Transport>,
                topology.clone(),
                spec,
            ),
            keys.follow(site_key.clone(), users, access_keys),
            certificate::renew_when_due(
                renewal,
                transport.clone(),
                own.certificate,
                expires_ms.clone(),
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
        folder.make(object_store::volume::DIR)?;
        folder.set_marker(&Marker {
            started: true,
            ..marker
        })?;
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
            &settings.jobs(),
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
            requests: Arc::default(),
            observed: Observed::default(),
            certificate_expires_ms: expires_ms,
            wal,
            stop,
            tasks,
            serving: std::sync::Mutex::default(),
        });
        status::serve(&node);
        node.serve(admin::serve_unix(&node)?);
        node.serve(admin::serve_http(&node, listeners.http));
        node.serve(node.serve_s3(listeners.s3, settings));
        let Endpoints { s3, http, node: at } = node.doors.endpoints(&node.listen);
        let (version, data) = (env!("CARGO_PKG_VERSION"), node.folder.path().display());
        tracing::info!(version, s3, http, nodes = at, %data, "the node started");
        node.serve(observed::follow(&node));
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
            observer: self.requests.clone(),
            max_connections: settings.s3_connections_max,
            max_requests: settings.s3_requests_max,
            ..DoorOptions::default()
        };
        options.base_domains.extend(settings.s3_domain.clone());
        let tls = self.doors.tls_source();
        let door = S3Door::new(Arc::new(self.gateway.clone()), self.keys.clone(), options);
        let (keys, stop) = (self.keys.clone(), self.stop.clone());
        tokio::spawn(async move {
            // Who comes right after the start waits in the listener's queue, and isn't told that its key is not known yet.
            keys.wait_confirmed(CONFIRM_WAIT).await;
            door.serve(listener, tls, Box::pin(stop.cancelled_owned()))
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

    /// Waits until this node can't go on, and says why.
    pub async fn until_failed(&self) -> String {
        self.groups.until_failed().await
    }

    /// Why the log stopped, if it did: then the node must stop too.
    pub fn wal_ended(&self) -> Option<raft_wal::WalError> {
        self.wal.ended()
    }

    /// Takes no more requests and lets those under way end; groups and blocks go on, as other nodes may need them for theirs.
    pub async fn drain(&self) {
        if !self.stop.is_cancelled() {
            tracing::info!("the node stops: it takes no more requests");
        }
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
    }

    /// Lets requests end, then stops everything in the reverse order of its start.
    pub async fn stop(&self) {
        self.drain().await;
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
        let _ = tokio::time::timeout(CLOSE, self.transport.shutdown()).await;
        tracing::info!("the node stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_waits_for_its_door_to_drain() {
        assert!(DRAIN > DoorOptions::default().drain_timeout);
    }
}
