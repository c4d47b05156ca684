//! Commands that only look.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use membership::EpochMap;
use object_core::api::Whereabouts;
use serde_json::json;

use super::place::Remote;
use super::{At, Here, Output, client, folder, object, print};
use crate::node::doors;
use crate::node::folder::{Marker, SECRETS, read_json};
use crate::node::found::{ROOT, ROOT_FORMAT, RootKey};
use crate::node::status::{NodeStatus, SiteStatus};
use crate::node::versioned;

/// The region that the S3 door answers for.
const REGION: &str = "us-east-1";

/// What S3 clients need to know of the site in a folder.
pub fn variables(data: &Path) -> Result<Vec<(&'static str, String)>> {
    let nodes = folder::nodes(data);
    let first = nodes.first().with_context(|| {
        format!(
            "there is no site in {}: start one with `skerry up`, or name its folder with --data",
            data.display()
        )
    })?;
    let (endpoint, ca) = match doors::noted(first)? {
        Some(noted) => (noted.s3, noted.ca),
        None => {
            let marker: Option<Marker> = read_json(&first.join("node.json"))?;
            let marker = marker.context("the node's marker is gone")?;
            (format!("http://{}", marker.listen.s3), None)
        }
    };
    let root: Option<RootKey> = versioned::load(&first.join(SECRETS).join(ROOT), ROOT_FORMAT)?;
    let root = root.context(
        "this node joined the site, so the first key isn't here: make one with `skerry key create`",
    )?;
    let mut variables = vec![
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", root.access_key),
        ("AWS_SECRET_ACCESS_KEY", root.secret_key),
        ("AWS_REGION", REGION.to_owned()),
    ];
    variables.extend(ca.map(|ca| ("AWS_CA_BUNDLE", ca.display().to_string())));
    Ok(variables)
}

pub fn env(here: &Here) -> Result<ExitCode> {
    let data = folder::find(here.data.clone())?;
    let variables = variables(&data)?;
    match here.output {
        Output::Json => {
            let map: serde_json::Map<_, _> = variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
            print::json(&json!({ "env": map }))?;
        }
        Output::Text => {
            for (name, value) in variables {
                print::line(format!("export {name}='{}'", value.replace('\'', "'\\''")))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn status(at: &At) -> Result<ExitCode> {
    let status: SiteStatus = client::get(at, "/v1/status").await?;
    print::either(at.output, &status, || {
        let head = if status.ready { "ready" } else { "NOT READY" };
        let mut text = format!(
            "site {}  epoch {}  debt {}  {head}\n",
            status.site, status.epoch, status.debt
        );
        for notice in &status.notices {
            text += &format!("note: {notice}\n");
        }
        text += &node_table(&status.nodes);
        for node in &status.nodes {
            for reason in &node.reasons {
                text += &format!("\nnode {}: {reason}", node.node);
            }
        }
        text
    })?;
    Ok(if status.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(print::NOT_READY)
    })
}

fn node_table(nodes: &[NodeStatus]) -> String {
    let rows = nodes.iter().map(|node| {
        let led = node
            .groups
            .iter()
            .filter(|group| group.role == "leader")
            .count();
        vec![
            node.node.to_string(),
            if node.ready { "ready" } else { "not ready" }.to_owned(),
            node.pid.to_string(),
            node.endpoints.s3.clone(),
            format!("{led}/{}", node.groups.len()),
            print::bytes(node.block_bytes),
            node.data.clone(),
        ]
    });
    print::table(
        &["node", "state", "pid", "s3", "leads", "blocks", "data"],
        rows.collect(),
    )
}

pub async fn nodes(at: &At, one: Option<u64>) -> Result<ExitCode> {
    let status: SiteStatus = client::get(at, "/v1/status").await?;
    let Some(one) = one else {
        print::either(at.output, &json!({ "nodes": status.nodes }), || {
            node_table(&status.nodes)
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    let node = status.nodes.iter().find(|node| node.node.0 == one);
    let node = node.with_context(|| format!("the site has no node {one}: see `skerry node ls`"))?;
    print::either(at.output, node, || {
        let reasons = if node.reasons.is_empty() {
            "none".into()
        } else {
            node.reasons.join("; ")
        };
        format!(
            "node      {}\nready     {}\nproblems  {reasons}\nprocess   {}\ndata      {}\ns3        {}\nhttp      {}\nnodes     {}\nlog       {}\nblocks    {} ({})",
            node.node,
            node.ready,
            node.pid,
            node.data,
            node.endpoints.s3,
            node.endpoints.http,
            node.endpoints.node,
            print::bytes(node.log_bytes),
            node.blocks,
            print::bytes(node.block_bytes),
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

pub async fn raft(at: &At) -> Result<ExitCode> {
    let status: SiteStatus = client::get(at, "/v1/status").await?;
    let groups: Vec<_> = status
        .nodes
        .iter()
        .flat_map(|node| {
            node.groups
                .iter()
                .map(|group| json!({ "node": node.node, "group": group }))
        })
        .collect();
    print::either(at.output, &json!({ "replicas": groups }), || {
        let mut rows = Vec::new();
        for node in &status.nodes {
            for group in &node.groups {
                let list = |nodes: &[ids::NodeId]| {
                    nodes
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(",")
                };
                let lag = group
                    .lag
                    .iter()
                    .map(|(node, lag)| format!("{node}:{lag}"))
                    .collect::<Vec<_>>()
                    .join(" ");
                rows.push(vec![
                    group.group.to_string(),
                    node.node.to_string(),
                    group.role.clone() + if group.asleep { " (asleep)" } else { "" },
                    group
                        .leader
                        .map_or_else(|| "-".into(), |leader| leader.to_string()),
                    group.term.to_string(),
                    list(&group.voters),
                    list(&group.learners),
                    group.commit.to_string(),
                    group.applied.to_string(),
                    lag,
                ]);
            }
        }
        rows.sort_by_key(|row| {
            (
                row[0].parse::<u32>().unwrap_or(0),
                row[1].parse::<u64>().unwrap_or(0),
            )
        });
        let head = [
            "group", "node", "role", "leader", "term", "voters", "learners", "commit", "applied",
            "lag",
        ];
        print::table(&head, rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

pub async fn placement(at: &At) -> Result<ExitCode> {
    let map: EpochMap = client::get(at, "/v1/placement").await?;
    let groups: Vec<_> = map
        .group_ids()
        .map(|group| json!({ "group": group, "servers": map.group_servers(group) }))
        .collect();
    let shown = json!({ "epoch": map.epoch(), "servers": map.servers(), "groups": groups });
    print::either(at.output, &shown, || {
        let rows = map.group_ids().map(|group| {
            let servers = map
                .group_servers(group)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            vec![group.to_string(), servers]
        });
        let table = print::table(
            &["group", "servers (preferred leader first)"],
            rows.collect(),
        );
        format!(
            "epoch {}  servers {}  copies {}\n{table}",
            map.epoch(),
            map.servers().len(),
            map.copies()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

pub async fn whereabouts(at: &At, path: &Remote) -> Result<ExitCode> {
    let path = object::named(path)?;
    let query = serde_urlencoded::to_string([("bucket", &path.bucket), ("key", &path.key)])?;
    let found: Whereabouts = client::get(at, &format!("/v1/where?{query}")).await?;
    print::either(at.output, &found, || {
        let list = |nodes: &[ids::NodeId]| {
            nodes
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mut text = format!(
            "bucket    {}\nkey slot  {}\ngroup     {} on servers {}\nsize      {}\n",
            found.bucket,
            found.key_slot,
            found.group,
            list(&found.group_servers),
            print::bytes(found.size)
        );
        if found.inline {
            return text + "bytes     in the metadata record";
        }
        let rows = found.blocks.iter().map(|block| {
            vec![
                block.block.to_string(),
                print::bytes(block.len.into()),
                block.epoch.to_string(),
                list(&block.servers),
                list(&block.missing),
            ]
        });
        text += &print::table(
            &["block", "size", "epoch", "servers", "missing"],
            rows.collect(),
        );
        text
    })?;
    Ok(ExitCode::SUCCESS)
}
