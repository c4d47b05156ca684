//! What the site's servers do for the site: found it in the registry, announce themselves, publish placement maps.
//!
//! All steps are idempotent; they run on every server, those that need one hand run on the registry's leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use identity::{Role, SiteKey, UserSpec};
use ids::{Epoch, NodeId, REGISTRY_GROUP, SiteId};
use membership::kinds::{ServerSpec, SiteSpec};
use membership::{EpochMap, PlacedServer};
use platform::Platform;
use raft_groups::RaftGroups;
use registry::{Cache, Layout, New, Refused, Registry, RegistryError};
use tokio::task::JoinHandle;

use super::folder::Folder;
use super::found::{FOUNDING, founding, keep_topology};
use super::kinds::*;
use super::topology::Topology;

/// Servers that come within this time get one epoch together.
const SETTLE: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    let sealed_key = site_key.seal(AUTHORITY_SEAL, &founding.ca_key, &mut platform.rng());
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
    let root = UserSpec {
        name: "root".into(),
        role: Role::Admin,
        project: "default".into(),
    };
    settled(
        registry
            .create::<User>(
                "root",
                NamedUser {
                    id: founding.root,
                    user: root,
                },
            )
            .await,
    )?;
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

/// Writes this server's own resource when it is not as it should be.
pub async fn announce(registry: &Registry, node: NodeId, spec: &ServerSpec) -> Result<()> {
    let name = node.to_string();
    match registry
        .get::<Server>(&name, registry::Freshness::Linearizable)
        .await?
    {
        None => settled(registry.create::<Server>(&name, spec.clone()).await),
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

/// Announces this server until that has worked once; a site without a majority may take its time.
pub fn announce_until_done(
    registry: Arc<Registry>,
    node: NodeId,
    spec: ServerSpec,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Err(error) = announce(&registry, node, &spec).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "the site does not know this start of the server yet"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

/// Follows servers and maps into the topology (and the folder), until aborted.
pub fn follow(
    folder: Arc<Folder>,
    topology: Arc<Topology>,
    groups: Arc<RaftGroups>,
    servers: Arc<Cache<Server>>,
    maps: Arc<Cache<Placement>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut servers_changed, mut maps_changed) = (servers.changed(), maps.changed());
        loop {
            let known: BTreeMap<NodeId, ServerSpec> = servers
                .snapshot()
                .iter()
                .filter_map(|server| {
                    Some((server.metadata.name.parse().ok()?, server.spec.clone()))
                })
                .collect();
            let published = maps.snapshot().iter().map(|map| map.spec.clone()).collect();
            if topology.update(known, published)
                && let Err(error) = keep_topology(&folder, &topology)
            {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the servers of the site could not be written down"
                );
            }
            host_placed(&topology, &groups).await;
            tokio::select! {
                biased;
                changed = servers_changed.changed() => if changed.is_err() { return },
                changed = maps_changed.changed() => if changed.is_err() { return },
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
    servers: Arc<Cache<Server>>,
    maps: Arc<Cache<Placement>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut changed = servers.changed();
        loop {
            if groups.leads(REGISTRY_GROUP)
                && let Err(error) = publish_next(&registry, &servers, &maps).await
            {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "a new epoch could not be published yet"
                );
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

async fn publish_next(
    registry: &Registry,
    servers: &Cache<Server>,
    maps: &Cache<Placement>,
) -> Result<()> {
    let placed: Vec<PlacedServer> = servers
        .snapshot()
        .iter()
        .filter(|server| server.spec.weight > 0)
        .filter_map(|server| {
            Some(PlacedServer {
                node: server.metadata.name.parse().ok()?,
                weight: server.spec.weight,
            })
        })
        .collect();
    let newest = maps
        .snapshot()
        .into_iter()
        .max_by_key(|map| map.spec.epoch());
    let Some(newest) = newest else { return Ok(()) };
    let mut current = newest.spec.servers().to_vec();
    let mut wanted = placed.clone();
    current.sort_by_key(|server| server.node);
    wanted.sort_by_key(|server| server.node);
    if current == wanted || wanted.is_empty() {
        return Ok(());
    }
    let epoch = Epoch(newest.spec.epoch().0 + 1);
    let map = newest.spec.next(epoch, &wanted)?;
    // Named by its number: of two leaders that publish the same epoch only one can.
    settled(registry.create::<Placement>(&epoch_name(epoch), map).await)?;
    tracing::info!(%epoch, servers = wanted.len(), "a new epoch places groups and blocks");
    Ok(())
}
