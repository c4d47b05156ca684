//! A member of the site: log, groups and registry over the real transport and disk, wired as `skerry` wires them.
//!
//! Nodes 1 to 3 vote in the registry's group. Node 4, the clients' process, hosts no group: what it proposes goes to the
//! leader over the transport.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use ids::{GroupId, Incarnation, NodeId, OperationId, REGISTRY_GROUP};
use platform::Platform;
use platform::system::SystemPlatform;
use raft_groups::{Directory, Machines, Options, RaftGroups};
use raft_machine::Machine;
use raft_wal::{Wal, WalOptions};
use registry::{ChangeSignal, IdSource, Registry, Uid};
use tokio::net::TcpListener;
use transport::Transport;
use transport::tls::{AddressBook, TlsConfig, TlsTransport};

use crate::identity_files::Identity;
use crate::stamps::{StampedRegistry, Stamps};

/// The registry's servers; the first founds the group and is its preferred leader.
pub const VOTERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// The clients' process.
pub const CLIENT: NodeId = NodeId(4);

/// Where the members listen.
#[derive(Debug, Clone)]
pub struct Book(pub Vec<(NodeId, String)>);

/// See the module.
pub struct Member {
    /// Its groups.
    pub groups: Arc<RaftGroups>,
    /// Its client of the registry.
    pub registry: Registry,
    wal: Arc<Wal>,
    transport: Arc<TlsTransport>,
}

impl Member {
    /// Starts a member that listens already; its data goes into `folder`.
    pub async fn start(
        identity: &Identity,
        listener: TcpListener,
        book: Book,
        folder: &Path,
        stamps: Arc<Stamps>,
    ) -> Result<Member> {
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform::new(folder)?);
        let config = TlsConfig {
            site: identity.site,
            node: identity.node,
            listener,
            identity: identity.tls(),
        };
        let transport = TlsTransport::start(config, Arc::new(book))?;
        let wal = Wal::open(platform.clone(), "wal", WalOptions::default())
            .await
            .context("can't open the log")?;
        let wal = Arc::new(wal);
        let signal = ChangeSignal::new();
        let incarnation = Incarnation::random(&mut platform.rng());
        let machines = SiteMachines {
            signal: signal.clone(),
            stamps,
        };
        let groups = RaftGroups::start(
            platform.clone(),
            transport.clone() as Arc<dyn Transport>,
            wal.clone(),
            Arc::new(machines),
            Arc::new(Placement(identity.node)),
            Options::new(identity.node, incarnation),
        )
        .await?;
        let ids = Arc::new(Ids(platform));
        let registry = Registry::new(groups.clone(), REGISTRY_GROUP, ids, signal);
        Ok(Member {
            groups,
            registry,
            wal,
            transport,
        })
    }

    /// Stops everything in the reverse order of its start.
    pub async fn stop(&self) -> Result<()> {
        self.registry.stop().await;
        self.groups.shutdown().await;
        self.wal.close().await?;
        self.transport.shutdown().await;
        Ok(())
    }
}

impl AddressBook for Book {
    fn address_of(&self, node: NodeId) -> Option<String> {
        let found = self.0.iter().find(|(other, _)| *other == node);
        found.map(|(_, address)| address.clone())
    }
}

struct Placement(NodeId);

impl Directory for Placement {
    fn voters(&self, _: GroupId) -> Vec<NodeId> {
        VOTERS.to_vec()
    }

    fn learners(&self, _: GroupId) -> Vec<NodeId> {
        Vec::new()
    }

    fn peers(&self) -> Vec<NodeId> {
        VOTERS.into_iter().filter(|node| *node != self.0).collect()
    }
}

struct SiteMachines {
    signal: ChangeSignal,
    stamps: Arc<Stamps>,
}

impl Machines for SiteMachines {
    fn machine(&self, _: GroupId) -> Arc<dyn Machine> {
        Arc::new(StampedRegistry::new(
            self.signal.clone(),
            self.stamps.clone(),
        ))
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
