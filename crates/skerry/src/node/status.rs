//! What a node says of itself, and what it gathers of the others.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ids::{NodeId, REGISTRY_GROUP, SiteId};
use object_store::jobs::JobStatus;
use raft_groups::GroupStatus;
use serde::{Deserialize, Serialize};
use transport::{Handler, Refusal, Service, Transport};

use super::Node;

/// Version of the JSON that status commands print.
pub const OUTPUT_VERSION: u32 = 1;
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// Its process; 0 when it could not be asked.
    pub pid: u32,
    /// Its data folder.
    pub data: String,
    /// The program's version.
    pub version: String,
    /// Where it listens.
    pub endpoints: Endpoints,
    /// Whether it can do its work.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
    /// Its background work.
    pub jobs: Vec<JobStatus>,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// Blocks on disk.
    pub blocks: u64,
    /// Bytes of blocks.
    pub block_bytes: u64,
}

/// Where a node listens, as URLs or `host:port`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Endpoints {
    /// S3.
    pub s3: String,
    /// Health and metrics.
    pub http: String,
    /// Other nodes.
    pub node: String,
}

/// The site, as one of its nodes sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteStatus {
    /// See [`OUTPUT_VERSION`].
    pub output_version: u32,
    /// The site.
    pub site: SiteId,
    /// Whether all nodes can do their work.
    pub ready: bool,
    /// The newest epoch.
    pub epoch: u64,
    /// What an operator should know.
    pub notices: Vec<String>,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
}

impl Node {
    /// This node's state.
    pub async fn own_status(&self) -> NodeStatus {
        let groups = self.groups.status();
        let reasons = self.reasons(&groups);
        let blocks = self.blocks.stats();
        NodeStatus {
            node: self.id,
            pid: std::process::id(),
            data: self.folder.path().display().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            endpoints: self.doors.endpoints(&self.listen),
            ready: reasons.is_empty(),
            reasons,
            groups,
            jobs: self.jobs.status(),
            log_bytes: self.wal_stats().bytes,
            blocks: blocks.blocks,
            block_bytes: blocks.live_bytes,
        }
    }

    /// Why this node can't do its work, if it can't.
    pub fn reasons(&self, groups: &[GroupStatus]) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(error) = self.wal_ended() {
            reasons.push(error.to_string());
        }
        let Some(map) = self.topology.newest() else {
            return vec!["the site's placement is not known yet".into()];
        };
        if !map.servers().iter().any(|server| server.node == self.id) {
            reasons.push(format!(
                "epoch {} does not place anything on this node yet",
                map.epoch()
            ));
        }
        if !self.keys.confirmed() {
            reasons.push("the registry has not said yet which access keys there are".into());
        }
        for group in groups {
            let name = if group.group == REGISTRY_GROUP {
                "the registry".into()
            } else {
                format!("group {}", group.group)
            };
            if let Some(stopped) = &group.stopped {
                reasons.push(format!("{name} stopped here: {stopped}"));
                continue;
            }
            let wanted = raft_groups::Directory::voters(&*self.topology, group.group);
            if !wanted.contains(&self.id) {
                continue;
            }
            if group.leader.is_none() {
                reasons.push(format!("{name} has no leader"));
            } else if group.voters.len() != wanted.len() {
                reasons.push(format!(
                    "{name} has {} of {} voters",
                    group.voters.len(),
                    wanted.len()
                ));
            }
        }
        reasons
    }

    /// The site's state: every server is asked.
    pub async fn site_status(&self) -> SiteStatus {
        // A node that can't be asked is taken to be set up like this one.
        let scheme = self.doors.scheme();
        let mut asked = Vec::new();
        for (node, spec) in self.topology.servers() {
            asked.push(async move {
                if node == self.id {
                    return self.own_status().await;
                }
                let answer = self
                    .transport
                    .call(node, Service::ADMIN, Bytes::new(), ASK_LIMIT)
                    .await;
                let parsed = answer.map_err(|error| error.to_string()).and_then(|body| {
                    serde_json::from_slice::<NodeStatus>(&body).map_err(|error| error.to_string())
                });
                parsed.unwrap_or_else(|why| NodeStatus {
                    node,
                    pid: 0,
                    data: String::new(),
                    version: String::new(),
                    endpoints: Endpoints {
                        s3: format!("{scheme}://{}", spec.s3_address),
                        http: format!("{scheme}://{}", spec.http_address),
                        node: spec.address,
                    },
                    ready: false,
                    reasons: vec![why],
                    groups: Vec::new(),
                    jobs: Vec::new(),
                    log_bytes: 0,
                    blocks: 0,
                    block_bytes: 0,
                })
            });
        }
        let nodes = futures::future::join_all(asked).await;
        let map = self.topology.newest();
        let servers = map.as_ref().map_or(0, |map| map.servers().len());
        let mut notices = Vec::new();
        if servers == 1 {
            notices
                .push("one server: one synced copy of everything; its loss loses data".to_owned());
        }
        if servers == 2 {
            notices
                .push("two servers: two copies of everything, but neither may be down".to_owned());
        }
        SiteStatus {
            output_version: OUTPUT_VERSION,
            site: self.site,
            ready: nodes.iter().all(|node| node.ready),
            epoch: map.map_or(0, |map| map.epoch().0),
            notices,
            nodes,
        }
    }
}

/// Answers other nodes that ask for this node's state.
pub fn serve(node: &Arc<Node>) {
    node.transport
        .serve(Service::ADMIN, Arc::new(Own(Arc::downgrade(node))));
}

struct Own(Weak<Node>);

#[async_trait]
impl Handler for Own {
    async fn call(&self, _: NodeId, _: Bytes) -> Result<Bytes, Refusal> {
        let node = self
            .0
            .upgrade()
            .ok_or_else(|| Refusal("the node stops".into()))?;
        let status = serde_json::to_vec(&node.own_status().await)
            .map_err(|error| Refusal(error.to_string()))?;
        Ok(status.into())
    }
}
