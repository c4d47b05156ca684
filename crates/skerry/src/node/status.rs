//! What a node says of itself, and what it gathers of the others.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ids::{NodeId, REGISTRY_GROUP, SiteId};
use membership::kinds::ServerSpec;
use object_store::jobs::JobStatus;
use raft_groups::{Directory, GroupStatus};
use raft_machine::{decode, encode};
use serde::{Deserialize, Serialize};
use transport::{Handler, Refusal, Service, Transport};

use super::topology::Topology;
use super::{Node, volumes};

/// Version of the JSON that status commands print.
pub const OUTPUT_VERSION: u32 = 1;
const ASK_LIMIT: Duration = Duration::from_secs(2);
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Version of what nodes ask each other, and of the answers. 2 added the debt, 3 notices.
const FORMAT: u8 = 3;

/// What a node may ask another one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Ask {
    /// For its [`NodeStatus`].
    Status,
    /// To take note of where the asking node is now.
    Here(ServerSpec),
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// See [`OUTPUT_VERSION`].
    pub output_version: u32,
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
    /// Blocks that lack copies, in the groups that it leads.
    pub debt: u64,
    /// What an operator should know of it, whether it is ready or not.
    #[serde(default)]
    pub notices: Vec<String>,
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
    /// Blocks that lack copies, as far as nodes could be asked.
    pub debt: u64,
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
        // Of a lone server, volumes are reasons.
        let mut notices = match self.is_alone() {
            true => Vec::new(),
            false => volumes::troubles(&blocks),
        };
        notices.extend(volumes::corruption(&blocks));
        NodeStatus {
            output_version: OUTPUT_VERSION,
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
            debt: self.observed.debt(),
            notices,
        }
    }

    /// Whether no other server has copies of what this one has.
    fn is_alone(&self) -> bool {
        let map = self.topology.newest();
        map.is_some_and(|map| map.servers().len() == 1)
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
        if self.topology.lacks_maps() {
            reasons.push("the registry has not said yet where earlier epochs place blocks".into());
        }
        if self.is_alone() {
            reasons.extend(volumes::troubles(&self.blocks.stats()));
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
            let wanted = self.topology.voters(group.group);
            if !wanted.contains(&self.id) {
                continue;
            }
            if group.leader.is_none() {
                reasons.push(format!("{name} has no leader"));
                continue;
            }
            let missing = wanted.iter().filter(|node| !group.voters.contains(node));
            let missing: Vec<_> = missing.map(NodeId::to_string).collect();
            if !missing.is_empty() {
                reasons.push(format!("{name} lacks the voters {}", missing.join(", ")));
            } else if group.voters.len() > wanted.len() {
                reasons.push(format!("{name} has voters that are to leave"));
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
                let ask = Bytes::from(encode(FORMAT, &Ask::Status));
                let answer = self
                    .transport
                    .call(node, Service::ADMIN, ask, ASK_LIMIT)
                    .await;
                let parsed = answer
                    .map_err(|error| error.to_string())
                    .and_then(|body| read_status(&body));
                parsed.unwrap_or_else(|why| NodeStatus {
                    output_version: OUTPUT_VERSION,
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
                    debt: 0,
                    notices: Vec::new(),
                })
            });
        }
        let nodes = futures::future::join_all(asked).await;
        let map = self.topology.newest();
        let servers = map.as_ref().map_or(0, |map| map.servers().len());
        let debt: u64 = nodes.iter().map(|node| node.debt).sum();
        SiteStatus {
            output_version: OUTPUT_VERSION,
            site: self.site,
            ready: nodes.iter().all(|node| node.ready),
            epoch: map.map_or(0, |map| map.epoch().0),
            debt,
            notices: notices(servers, debt, &nodes),
            nodes,
        }
    }
}

/// What an operator should know of a site of so many servers.
fn notices(servers: usize, debt: u64, nodes: &[NodeStatus]) -> Vec<String> {
    let mut notices = Vec::new();
    if servers == 1 {
        notices.push("one server: one synced copy of everything; its loss loses data".to_owned());
    }
    if servers == 2 {
        notices.push("two servers: two copies of everything, but neither may be down".to_owned());
    }
    match debt {
        0 => {}
        1 => notices.push("1 block lacks copies: repair makes them".to_owned()),
        debt => notices.push(format!("{debt} blocks lack copies: repair makes them")),
    }
    for node in nodes {
        let of_node = |notice: &String| format!("node {}: {notice}", node.node);
        notices.extend(node.notices.iter().map(of_node));
    }
    notices
}

/// Answers other nodes that ask for this node's state.
pub fn serve(node: &Arc<Node>) {
    node.transport
        .serve(Service::ADMIN, Arc::new(Own(Arc::downgrade(node))));
}

struct Own(Weak<Node>);

#[async_trait]
impl Handler for Own {
    async fn call(&self, from: NodeId, body: Bytes) -> Result<Bytes, Refusal> {
        let ask = read_ask(&body).map_err(Refusal)?;
        let node = self
            .0
            .upgrade()
            .ok_or_else(|| Refusal("the node stops".into()))?;
        match ask {
            Ask::Status => Ok(encode(FORMAT, &node.own_status().await).into()),
            Ask::Here(spec) => {
                node.topology.moved(from, spec).map_err(Refusal)?;
                Ok(Bytes::new())
            }
        }
    }
}

/// Tells the other servers where this one is, again and again. While they know an old address only, the registry's leader
/// may be unable to reach this node, and then the new address can't be written there.
pub async fn tell_where(transport: &dyn Transport, topology: &Topology, spec: &ServerSpec) {
    let body = Bytes::from(encode(FORMAT, &Ask::Here(spec.clone())));
    loop {
        let mut telling = Vec::new();
        for peer in topology.peers() {
            telling.push(transport.call(peer, Service::ADMIN, body.clone(), ASK_LIMIT));
        }
        // Who did not hear it is told again.
        futures::future::join_all(telling).await;
        tokio::time::sleep(TELL_EVERY).await;
    }
}

fn read_ask(body: &[u8]) -> Result<Ask, String> {
    decode("a question of a node", FORMAT, body).map_err(|error| error.to_string())
}

fn read_status(body: &[u8]) -> Result<NodeStatus, String> {
    decode("a node's status", FORMAT, body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> NodeStatus {
        NodeStatus {
            output_version: OUTPUT_VERSION,
            node: NodeId(3),
            pid: 1,
            data: "/data".into(),
            version: "0.1.0".into(),
            endpoints: Endpoints::default(),
            ready: false,
            reasons: vec!["it stops".into()],
            groups: vec![GroupStatus {
                group: REGISTRY_GROUP,
                role: "leader".into(),
                leader: Some(NodeId(3)),
                term: 1,
                voters: vec![NodeId(3)],
                learners: Vec::new(),
                last: 5,
                commit: 5,
                applied: 4,
                lag: vec![(NodeId(4), 7)],
                asleep: false,
                stopped: Some("a reason".into()),
            }],
            jobs: vec![JobStatus {
                name: "repair".into(),
                last_took_ms: Some(5),
                ..JobStatus::default()
            }],
            log_bytes: 6,
            blocks: 7,
            block_bytes: 8,
            debt: 9,
            notices: vec!["a notice".into()],
        }
    }

    #[test]
    fn debt_is_a_notice_until_it_is_paid() {
        let said = |servers, debt| notices(servers, debt, &[]);
        assert_eq!(said(3, 0), [""; 0]);
        assert_eq!(said(3, 1), ["1 block lacks copies: repair makes them"]);
        assert_eq!(said(3, 12), ["12 blocks lack copies: repair makes them"]);
        assert_eq!(said(2, 1).len(), 2);
    }

    #[test]
    fn what_a_node_says_of_itself_is_a_notice_of_the_site() {
        assert_eq!(notices(3, 0, &[status()]), ["node 3: a notice"]);
    }

    #[test]
    fn what_nodes_tell_each_other_has_a_version() {
        let mut body = encode(FORMAT, &status());
        let read = read_status(&body).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", status()));
        body[0] = FORMAT + 1;
        assert!(read_status(&body).unwrap_err().contains("format 4"));
        let mut ask = encode(FORMAT, &Ask::Status);
        assert_eq!(read_ask(&ask), Ok(Ask::Status));
        let here = Ask::Here(ServerSpec {
            address: "127.0.0.1:1".into(),
            s3_address: "127.0.0.1:2".into(),
            http_address: "127.0.0.1:3".into(),
            weight: 100,
            joined_ms: 0,
            capacity_bytes: 0,
        });
        assert_eq!(read_ask(&encode(FORMAT, &here)), Ok(here));
        ask[0] = FORMAT + 1;
        assert!(read_ask(&ask).unwrap_err().contains("format 4"));
        assert!(
            read_ask(b"").is_err(),
            "the question before there were versions"
        );
    }

    #[test]
    fn a_nodes_json_has_a_version() {
        let json = serde_json::to_value(status()).unwrap();
        assert_eq!(json["output_version"], OUTPUT_VERSION);
        assert_eq!(json["debt"], 9);
    }
}
