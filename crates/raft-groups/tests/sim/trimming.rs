//! Promise: the log stays within its bound, whatever its groups do: one that nobody uses any more pins no old segment.

use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, OperationId};
use raft_machine::Groups;
use testkit::sim::Trace;
use tokio::time::{Instant, sleep};

use crate::node::{CALL_LIMIT, NODES, Shape, in_words};
use crate::replicas;
use crate::site::{Death, Site};

const BUSY: GroupId = GroupId(1);
const IDLE: GroupId = GroupId(2);
const WRITES: u64 = 250;
const WRITE_BYTES: usize = 20 << 10;
const PACE: Duration = Duration::from_millis(150);
const LOG_BYTES_MAX: u64 = 256 << 10;
/// The log is looked at once a second, and its newer half stays.
const BYTES_MAX: u64 = 4 * LOG_BYTES_MAX;
const ASLEEP_MAX: Duration = Duration::from_secs(30);

/// Runs the story.
pub async fn run(seed: u64) -> Result<(), String> {
    let shape = Shape {
        ledgers: 2,
        log_bytes_max: LOG_BYTES_MAX,
        ..Shape::default()
    };
    let site = Site::new(seed, shape, Trace::new());
    site.found().await?;
    append(&site, IDLE, 0).await?;
    for number in 1..=WRITES {
        append(&site, BUSY, number).await?;
        sleep(PACE).await;
        if number > WRITES / 2 {
            bounded(&site)?;
        }
    }
    let written = WRITES * WRITE_BYTES as u64;
    if written < 4 * BYTES_MAX {
        return Err("so little was written that the bound shows nothing".into());
    }
    until_idle_sleeps(&site).await?;

    // What was trimmed must not be missed after a start.
    for id in NODES {
        site.end(id, Death::PowerCut);
    }
    site.start_all().await?;
    replicas::agree(&site).await?;
    bounded(&site)?;
    site.bury_all().await
}

async fn append(site: &Site, group: GroupId, number: u64) -> Result<(), String> {
    let node = site.node(NODES[0]).ok_or("node 1 is down")?;
    let operation = OperationId(u128::from(number).to_be_bytes());
    let command = Bytes::from(vec![number as u8; WRITE_BYTES]);
    let proposal = node.groups.propose(group, operation, command, CALL_LIMIT);
    proposal.await.map(drop).map_err(in_words)
}

fn bounded(site: &Site) -> Result<(), String> {
    for node in site.nodes() {
        let stats = node.wal.stats();
        if stats.bytes > BYTES_MAX {
            return Err(format!(
                "the log of node {} has {} bytes, more than {BYTES_MAX}; its old segments are pinned by {:?}",
                node.id,
                stats.bytes,
                node.wal.pinning(stats.segments as usize / 2)
            ));
        }
    }
    Ok(())
}

async fn until_idle_sleeps(site: &Site) -> Result<(), String> {
    let end = Instant::now() + ASLEEP_MAX;
    let asleep = || {
        let nodes = site.nodes();
        let all = nodes.iter().flat_map(|node| node.groups.status());
        let asleep = all.filter(|replica| replica.group == IDLE && replica.asleep);
        asleep.count() == NODES.len()
    };
    while !asleep() {
        if Instant::now() >= end {
            return Err(format!("group {IDLE} is not idle on every node"));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
