//! What the site's servers do for the site: found it in the registry, announce themselves, publish placement maps.
//!
//! All steps are idempotent; they run on every server, those that need one hand run on the registry's leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use identity::{ProjectSpec, Role, SiteKey, UserSpec};
use ids::{Epoch, NodeId, REGISTRY_GROUP, SiteId};
use membership::kinds::{ServerSpec, SiteSpec};
use membership::{EpochMap, PlacedServer};
use platform::Platform;
use raft_groups::RaftGroups;
use registry::{
    Cache, Expected, Freshness, Layout, New, Refused, Registry, RegistryError, Resource, Revision,
};
use tokio::task::JoinHandle;
use transport::{Service, Transport};

use super::folder::Folder;
use super::found::{FOUNDING, founding, keep_topology};
use super::kinds::*;
use super::status::tell_where;
use super::topology::Topology;

/// Servers that come within this time get one epoch together.
const SETTLE: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a newcomer may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(2);
const COLLECT_EVERY: Duration = Duration::from_secs(5);

/// An outcome of the registry in which "it is there already" counts as done.
fn settled<T>(result: Result<T, RegistryError>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.refused(), Some(Refused::AlreadyExists(_))) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Puts a founder's site into the registry, as far as it is not there, and forgets what only a founder knows.
pub async fn found(
    folder: &Folder,
    platform: &(dyn Platform + 'static),
    registry: &Registry,
    site: SiteId,
    site_key: &SiteKey,
    own: (NodeId, ServerSpec),
) -> Result<()> {
    let founding = founding(folder)?;
    let now = platform.wall_ms().0;
    let spec = SiteSpec {
        site,
        name: founding.name,
        format_level: 1,
        created_ms: now,
        groups: founding.groups,
    };
    settled(registry.create::<Site>(SITE, spec).await)?;
    let pool = registry
        .create_pool(NODES_POOL, Layout::Sparse, 2..=u128::from(u32::MAX))
        .await;
    if let Err(error) = pool
        && registry
            .pool(NODES_POOL, registry::Freshness::Linearizable)
            .await?
            .is_none()
    {
        return Err(error.into());
    }
    let sealed_key = match founding.format {
        1 => site_key.seal(AUTHORITY_SEAL, &founding.ca_key, &mut platform.rng()),
        _ => founding.ca_key,
    };
    let authority = AuthoritySpec {
        certificate: founding.ca_certificate,
        sealed_key,
    };
    settled(registry.create::<Authority>(SITE, authority).await)?;
    let server = PlacedServer {
        node: own.0,
        weight: own.1.weight,
    };
    settled(registry.create::<Server>(&own.0.to_string(), own.1).await)?;
    make_default_project(registry, now).await?;
    let root = NamedUser {
        id: founding.root,
        user: UserSpec {
            name: "root".into(),
            role: Role::Admin,
            project: DEFAULT_PROJECT.into(),
        },
    };
    settled(add_user(registry, root).await)?;
    settled(
        registry
            .create::<AccessKey>(&founding.key.access_key.clone(), founding.key)
            .await,
    )?;
    let map = EpochMap::first(Epoch(1), founding.groups, &[server])?;
    settled(
        registry
            .create_with(New::<Placement>::named(epoch_name(Epoch(1)), map))
            .await,
    )?;
    folder.remove_secret(FOUNDING)
}

/// Makes the project that users are in unless told otherwise, when it is not there: sites of earlier programs have none.
async fn make_default_project(registry: &Registry, now_ms: u64) -> Result<()> {
    let known = registry
        .get::<Project>(DEFAULT_PROJECT, Freshness::Linearizable)
        .await?;
    if known.is_some() {
        return Ok(());
    }
    let spec = ProjectSpec {
        name: DEFAULT_PROJECT.into(),
        created_ms: now_ms,
    };
    settled(registry.create::<Project>(DEFAULT_PROJECT, spec).await)
}

/// Makes a user of a project that there is.
pub async fn add_user(registry: &Registry, user: NamedUser) -> Result<(), RegistryError> {
    let (name, project) = (user.user.name.clone(), user.user.project.clone());
    registry
        .transaction()
        .require::<Project>(&project, Expected::default())
        .create(&New::<User>::named(name, user))
        .commit()
        .await
        .map(drop)
}

/// Writes this server's own resource when it is not as it should be.
pub async fn announce(registry: &Registry, node: NodeId, spec: &ServerSpec) -> Result<()> {
    let name = node.to_string();
    match registry
        .get::<Server>(&name, registry::Freshness::Linearizable)
        .await?
    {
        // A server that was expelled must not come back.
        None => {
            let server = New::<Server>::named(name.clone(), spec.clone());
            let announced = registry
                .transaction()
                .require_absent::<Expelled>(&name)
                .create(&server)
                .commit();
            settled(announced.await)
        }
        Some(known) => {
            let same = known.spec.address == spec.address
                && known.spec.s3_address == spec.s3_address
                && known.spec.http_address == spec.http_address;
            if same {
                return Ok(());
            }
            let (address, s3, http) = (
                spec.address.clone(),
                spec.s3_address.clone(),
                spec.http_address.clone(),
            );
            registry
                .modify::<Server>(&name, move |known| {
                    known.address.clone_from(&address);
                    known.s3_address.clone_from(&s3);
                    known.http_address.clone_from(&http);
                })
                .await?;
            Ok(())
        }
    }
}

async fn introduce(registry: &Registry, node: NodeId, spec: &ServerSpec) -> Result<()> {
    announce(registry, node, spec).await?;
    make_default_project(registry, spec.joined_ms).await
}

/// Announces this server until that has worked once; a site without a majority may take its time. Until then the other
/// servers are told directly where it is.
pub fn announce_until_done(
    registry: Arc<Registry>,
    transport: Arc<dyn Transport>,
    topology: Arc<Topology>,
    spec: ServerSpec,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let introducing = async {
            while let Err(error) = introduce(&registry, topology.me(), &spec).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the site does not know this start of the server yet"
                );
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            biased;
            () = introducing => {}
            () = tell_where(&*transport, &topology, &spec) => {}
        }
    })
}

/// Follows servers, maps and who was expelled into the topology (and the folder), until aborted.
pub fn follow(
    folder: Arc<Folder>,
    platform: Arc<dyn Platform>,
    topology: Arc<Topology>,
    groups: Arc<RaftGroups>,
    servers: Arc<Cache<Server>>,
    maps: Arc<Cache<Placement>>,
    expelled: Arc<Cache<Expelled>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut servers_changed, mut maps_changed) = (servers.changed(), maps.changed());
        let mut expelled_changed = expelled.changed();
        let mut unwritten = false;
        loop {
            let known: BTreeMap<NodeId, ServerSpec> = servers
                .snapshot()
                .iter()
                .filter_map(|server| {
                    Some((server.metadata.name.parse().ok()?, server.spec.clone()))
                })
                .collect();
            let published = maps.snapshot().iter().map(|map| map.spec.clone()).collect();
            let gone: BTreeSet<NodeId> = expelled
                .snapshot()
                .iter()
                .filter_map(|node| node.metadata.name.parse().ok())
                .collect();
            unwritten |= topology.expel(gone) | topology.update(known, published);
            if unwritten {
                let (folder, known) = (folder.clone(), topology.clone());
                let kept = platform
                    .blocking(move || keep_topology(&folder, &known))
                    .await;
                unwritten = kept.is_err();
                if let Err(error) = kept {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the servers of the site could not be written down; this will be tried again"
                    );
                }
            }
            host_placed(&topology, &groups).await;
            tokio::select! {
                biased;
                changed = servers_changed.changed() => if changed.is_err() { return },
                changed = maps_changed.changed() => if changed.is_err() { return },
                changed = expelled_changed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    })
}

/// Opens the groups that the newest map places on this node.
async fn host_placed(topology: &Topology, groups: &RaftGroups) {
    let Some(map) = topology.newest() else { return };
    let own = topology.me();
    let wanted = map.groups_of(own).into_iter().chain([REGISTRY_GROUP]);
    for group in wanted {
        if let Err(error) = groups.open(group).await {
            tracing::error!(%group, %error, "a group can't be opened here");
        }
    }
}

/// Publishes an epoch when the servers differ from the newest map's; on the registry's leader, until aborted.
pub fn publish_epochs(
    registry: Arc<Registry>,
    groups: Arc<RaftGroups>,
    transport: Arc<dyn Transport>,
    servers: Arc<Cache<Server>>,
    maps: Arc<Cache<Placement>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut changed = servers.changed();
        let mut silent = BTreeSet::new();
        loop {
            if groups.leads(REGISTRY_GROUP) {
                let published = publish_next(&registry, &*transport, &servers, &maps, &mut silent);
                if let Err(error) = published.await {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a new epoch could not be published yet"
                    );
                }
            }
            tokio::select! {
                biased;
                changed = changed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            tokio::time::sleep(SETTLE).await;
        }
    })
}

/// Deletes what belonged to deleted owners; on the registry's leader, until aborted.
pub fn collect_garbage(registry: Arc<Registry>, groups: Arc<RaftGroups>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            if groups.leads(REGISTRY_GROUP)
                && let Err(error) = registry.collect_garbage().await
            {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "resources of deleted owners are still there"
                );
            }
            tokio::time::sleep(COLLECT_EVERY).await;
        }
    })
}

/// `silent` are the newcomers that did not answer so far.
async fn publish_next(
    registry: &Registry,
    transport: &dyn Transport,
    servers: &Cache<Server>,
    maps: &Cache<Placement>,
    silent: &mut BTreeSet<NodeId>,
) -> Result<()> {
    // In this order: what is read of the servers is at least as new as the revision says.
    let (maps, servers_at) = (maps.snapshot(), servers.revision());
    let mut servers = servers.snapshot();
    let still = silent_newcomers(transport, &maps, &servers).await;
    for node in still.difference(silent) {
        tracing::warn!(%node, "a new server does not answer at the address that it announced: nothing is placed on it yet");
    }
    *silent = still;
    servers.retain(|server| node_of(server).is_some_and(|node| !silent.contains(&node)));
    let Some(map) = next_map(&maps, servers_at, &servers)? else {
        return Ok(());
    };
    let (epoch, servers) = (map.epoch(), map.servers().len());
    // Named by its number: of two leaders that publish the same epoch only one can.
    settled(registry.create::<Placement>(&epoch_name(epoch), map).await)?;
    tracing::info!(%epoch, servers, "a new epoch places groups and blocks");
    Ok(())
}

fn node_of(server: &Resource<Server>) -> Option<NodeId> {
    server.metadata.name.parse().ok()
}

/// Servers that the newest map does not name and that don't answer: copies that are placed on them could not be brought.
async fn silent_newcomers(
    transport: &dyn Transport,
    maps: &[Arc<Resource<Placement>>],
    servers: &[Arc<Resource<Server>>],
) -> BTreeSet<NodeId> {
    let newest = maps.iter().max_by_key(|map| map.spec.epoch());
    let placed: BTreeSet<NodeId> = newest
        .iter()
        .flat_map(|map| map.spec.servers())
        .map(|server| server.node)
        .collect();
    let mut asking = Vec::new();
    for node in servers.iter().filter_map(|server| node_of(server)) {
        if !placed.contains(&node) {
            asking.push(async move {
                let alive = transport.call(node, Service::LIVENESS, Bytes::new(), ASK_LIMIT);
                alive.await.is_err().then_some(node)
            });
        }
    }
    let silent = futures::future::join_all(asking).await;
    silent.into_iter().flatten().collect()
}

/// The map that should follow the newest one, if any. Servers that are older than the newest map say nothing: one that the
/// map names may be missing there, and the next map would be without it though it lives.
fn next_map(
    maps: &[Arc<Resource<Placement>>],
    servers_at: Revision,
    servers: &[Arc<Resource<Server>>],
) -> Result<Option<EpochMap>> {
    let newest = maps.iter().max_by_key(|map| map.spec.epoch());
    let Some(newest) = newest else {
        return Ok(None);
    };
    if servers_at < newest.metadata.revision {
        return Ok(None);
    }
    let mut wanted: Vec<PlacedServer> = servers
        .iter()
        .filter(|server| server.spec.weight > 0)
        .filter_map(|server| {
            Some(PlacedServer {
                node: node_of(server)?,
                weight: server.spec.weight,
            })
        })
        .collect();
    let mut current = newest.spec.servers().to_vec();
    current.sort_by_key(|server| server.node);
    wanted.sort_by_key(|server| server.node);
    if current == wanted || wanted.is_empty() {
        return Ok(None);
    }
    let epoch = Epoch(newest.spec.epoch().0 + 1);
    Ok(Some(newest.spec.next(epoch, &wanted)?))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use ids::UserId;
    use registry::{Kind, Metadata};
    use transport::{BulkStream, Handler, TransportError};

    use super::*;
    use crate::node::found::{NodeSelf, found as found_folder, open_authority};
    use crate::node::settings::random_listen;
    use crate::node::test_site::{SetClock, registry};

    fn server() -> ServerSpec {
        ServerSpec {
            address: "127.0.0.1:1".into(),
            s3_address: "127.0.0.1:2".into(),
            http_address: "127.0.0.1:3".into(),
            weight: 100,
            joined_ms: 0,
            capacity_bytes: 0,
        }
    }

    fn resource<K: Kind>(name: String, revision: u64, spec: K::Spec) -> Arc<Resource<K>> {
        let metadata = Metadata {
            name,
            revision: Revision(revision),
            ..Metadata::default()
        };
        Arc::new(Resource {
            metadata,
            spec,
            status: K::Status::default(),
        })
    }

    #[test]
    fn no_epoch_is_made_from_servers_that_are_older_than_the_newest_map() {
        let placed = [1, 2].map(|node| PlacedServer {
            node: NodeId(node),
            weight: 100,
        });
        let map = EpochMap::first(Epoch(1), 4, &placed).unwrap();
        let maps = [resource::<Placement>(epoch_name(Epoch(1)), 20, map)];
        let of = |nodes: &[u64], at: u64| {
            let servers: Vec<_> = nodes
                .iter()
                .map(|node| resource::<Server>(node.to_string(), 10, server()))
                .collect();
            let next = next_map(&maps, Revision(at), &servers).unwrap();
            next.map(|map| (map.epoch(), map.servers().len()))
        };
        // Server 2 came at revision 15; the cache of servers is still at 10.
        assert_eq!(of(&[1], 10), None);
        assert_eq!(of(&[1], 19), None);
        assert_eq!(of(&[1], 20), Some((Epoch(2), 1)), "it really left");
        assert_eq!(of(&[1, 2], 20), None);
        assert_eq!(of(&[1, 2, 3], 21), Some((Epoch(2), 3)));
        assert_eq!(of(&[], 21), None);
        assert_eq!(next_map(&[], Revision(21), &[]).unwrap(), None);
    }

    /// A network in which only these nodes answer.
    struct Reached(BTreeSet<NodeId>);

    #[async_trait]
    impl Transport for Reached {
        async fn call(
            &self,
            to: NodeId,
            _: Service,
            _: Bytes,
            _: Duration,
        ) -> Result<Bytes, TransportError> {
            match self.0.contains(&to) {
                true => Ok(Bytes::new()),
                false => Err(TransportError::DeadlineExceeded(to)),
            }
        }

        async fn stream(
            &self,
            to: NodeId,
            _: Service,
            _: Bytes,
        ) -> Result<BulkStream, TransportError> {
            Err(TransportError::DeadlineExceeded(to))
        }

        fn serve(&self, _: Service, _: Arc<dyn Handler>) {}
    }

    #[tokio::test]
    async fn nothing_is_placed_on_a_newcomer_that_does_not_answer() {
        let path = tempfile::tempdir().unwrap();
        let registry = registry(SetClock::new(path.path()));
        let placed = [1, 2].map(|node| PlacedServer {
            node: NodeId(node),
            weight: 100,
        });
        let map = EpochMap::first(Epoch(1), 4, &placed).unwrap();
        registry
            .create::<Placement>(&epoch_name(Epoch(1)), map)
            .await
            .unwrap();
        for node in 1..=4 {
            announce(&registry, NodeId(node), &server()).await.unwrap();
        }
        let servers = Cache::<Server>::start(&registry);
        let maps = Cache::<Placement>::start(&registry);
        servers.wait_synced().await;
        maps.wait_synced().await;
        let mut silent = BTreeSet::new();
        // Node 2 is down, but it was placed before.
        let some = Reached(BTreeSet::from([NodeId(1), NodeId(3)]));
        publish_next(&registry, &some, &servers, &maps, &mut silent)
            .await
            .unwrap();
        assert_eq!(silent, BTreeSet::from([NodeId(4)]));
        let published = registry
            .get::<Placement>(&epoch_name(Epoch(2)), Freshness::Linearizable)
            .await
            .unwrap();
        let map = published.unwrap().spec;
        let nodes: BTreeSet<_> = map.servers().iter().map(|server| server.node).collect();
        assert_eq!(nodes, BTreeSet::from([1, 2, 3].map(NodeId)));
    }

    #[tokio::test]
    async fn a_server_that_was_expelled_can_not_announce_itself_again() {
        let path = tempfile::tempdir().unwrap();
        let registry = registry(SetClock::new(path.path()));
        announce(&registry, NodeId(2), &server()).await.unwrap();
        let spec = ExpelledSpec { expelled_ms: 5 };
        let expelled = registry
            .transaction()
            .delete::<Server>("2", Expected::default())
            .create(&New::<Expelled>::named("2", spec));
        expelled.commit().await.unwrap();
        assert!(announce(&registry, NodeId(2), &server()).await.is_err());
        announce(&registry, NodeId(3), &server()).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_site_has_a_default_project_and_users_need_one() {
        let path = tempfile::tempdir().unwrap();
        let clock = SetClock::new(path.path());
        let folder = Folder::lock(&path.path().join("node")).unwrap();
        found_folder(&folder, &*clock, random_listen(), "site".into(), 1).unwrap();
        let own = NodeSelf::load(&folder).unwrap().unwrap();
        let registry = registry(clock.clone());
        let user = |project: &str| NamedUser {
            id: UserId([1; 16]),
            user: UserSpec {
                name: "u".into(),
                role: Role::Member,
                project: project.into(),
            },
        };
        let early = add_user(&registry, user(DEFAULT_PROJECT)).await;
        assert!(matches!(
            early.unwrap_err().refused(),
            Some(Refused::PreconditionFailed(_))
        ));
        found(
            &folder,
            &*clock,
            &registry,
            own.marker.site,
            &own.site_key,
            (own.marker.node, server()),
        )
        .await
        .unwrap();
        add_user(&registry, user(DEFAULT_PROJECT)).await.unwrap();
        assert!(add_user(&registry, user("other")).await.is_err());
        let again = add_user(&registry, user(DEFAULT_PROJECT)).await;
        assert!(again.unwrap_err().already_exists());
        make_default_project(&registry, 5).await.unwrap();
    }

    #[tokio::test]
    async fn a_founding_that_an_earlier_program_began_comes_to_its_end() {
        let path = tempfile::tempdir().unwrap();
        let clock = SetClock::new(path.path());
        let folder = Folder::lock(&path.path().join("node")).unwrap();
        found_folder(&folder, &*clock, random_listen(), "site".into(), 1).unwrap();
        let own = NodeSelf::load(&folder).unwrap().unwrap();
        let mut begun = founding(&folder).unwrap();
        begun.ca_key = own.site_key.open(AUTHORITY_SEAL, &begun.ca_key).unwrap();
        begun.format = 1;
        let begun = serde_json::to_vec(&begun).unwrap();
        folder.set_secret(FOUNDING, &begun).unwrap();
        let registry = registry(clock.clone());
        found(
            &folder,
            &*clock,
            &registry,
            own.marker.site,
            &own.site_key,
            (own.marker.node, server()),
        )
        .await
        .unwrap();
        let authority = registry.get::<Authority>(SITE, Freshness::Linearizable);
        let authority = authority.await.unwrap().unwrap();
        open_authority(&authority.spec, &own.site_key).unwrap();
        assert!(!folder.secret_path(FOUNDING).exists());
    }
}
